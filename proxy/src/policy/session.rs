//! How requests of one client stay with one endpoint.

use outrigger_api::v1;
use v1::session::Carrier as Raw;

use super::backend::optional;
use super::balancing::cookie;
use super::problem::{Path, Problems};
use super::routes::header_name;
use crate::persistence::{Carrier, SessionPolicy};

/// Reads a policy for sessions; absent is none.
pub(super) fn read(
    raw: Option<&v1::Session>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<SessionPolicy> {
    let raw = raw?;
    if raw.key.is_empty() {
        problems.add(&path.field("key"), "is empty");
    }
    let absolute = optional(raw.absolute_timeout.as_ref(), &path.field("absoluteTimeout"), problems);
    let idle = optional(raw.idle_timeout.as_ref(), &path.field("idleTimeout"), problems);
    let carrier = match problems.present(raw.carrier.as_ref(), &path.field("carrier"))? {
        Raw::Cookie(raw) => Carrier::Cookie(cookie(raw, &path.field("cookie"), problems)?),
        Raw::Header(name) => Carrier::Header(header_name(name, &path.field("header"), problems)?),
    };
    Some(SessionPolicy::new(carrier, absolute, idle, &raw.key))
}
