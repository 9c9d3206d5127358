//! How an endpoint is chosen.

use outrigger_api::v1;
use v1::hash::Key;

use super::backend::optional;
use super::problem::{Path, Problems};
use super::routes::header_name;
use crate::cookie::Cookie;
use crate::hash_key::{HashKey, HashPolicy};
use crate::snapshot::BalancerKind;

pub(super) fn balancer(raw: i32, path: &Path<'_>, problems: &mut Problems) -> Option<BalancerKind> {
    match v1::LoadBalancer::try_from(raw) {
        Ok(v1::LoadBalancer::PeakEwma) => Some(BalancerKind::PeakEwma),
        Ok(v1::LoadBalancer::LeastRequest) => Some(BalancerKind::LeastRequest),
        Ok(v1::LoadBalancer::RoundRobin) => Some(BalancerKind::RoundRobin),
        Ok(v1::LoadBalancer::Hash) => Some(BalancerKind::Hash),
        Ok(v1::LoadBalancer::Unspecified) | Err(_) => {
            problems.add(path, format!("balancer {raw} is not known here"));
            None
        }
    }
}

/// What a balancer that hashes goes by; there where that is the balancer, and only there.
pub(super) fn hash(
    raw: &v1::BackendPolicy,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Box<HashPolicy>> {
    let path = path.field("hash");
    let hashes = raw.balancer == v1::LoadBalancer::Hash as i32;
    let Some(raw) = raw.hash.as_ref() else {
        return if hashes { problems.present(None, &path) } else { None };
    };
    if !hashes {
        problems.add(&path, "is there, and the balancer is another");
    }
    let max_load_percent = (raw.max_load_percent > 0).then_some(raw.max_load_percent);
    if max_load_percent.is_some_and(|percent| percent < 100) {
        problems.add(&path.field("maxLoadPercent"), format!("{} is under 100", raw.max_load_percent));
    }
    let key = match problems.present(raw.key.as_ref(), &path.field("key"))? {
        Key::Header(name) => HashKey::Header(header_name(name, &path.field("header"), problems)?),
        Key::Cookie(raw) => HashKey::Cookie(cookie(raw, &path.field("cookie"), problems)?),
        Key::SourceAddress(_) => HashKey::SourceAddress,
        Key::QueryParameter(name) => HashKey::QueryParameter(name.as_str().into()),
    };
    Some(Box::new(HashPolicy { key, max_load_percent }))
}

/// Reads a cookie, which must be one that can be set.
pub(super) fn cookie(raw: &v1::Cookie, path: &Path<'_>, problems: &mut Problems) -> Option<Cookie> {
    let ttl = optional(raw.ttl.as_ref(), &path.field("ttl"), problems);
    let cookie = Cookie { name: raw.name.as_str().into(), path: raw.path.as_str().into(), ttl };
    if raw.name.is_empty() || cookie.set("", None).is_none() {
        problems.add(path, format!("no cookie can be named {:?} for the path {:?}", raw.name, raw.path));
        return None;
    }
    Some(cookie)
}

/// Reads a percentage.
pub(super) fn percent(raw: u32, path: &Path<'_>, problems: &mut Problems) -> u32 {
    if raw > 100 {
        problems.add(path, format!("{raw} is over 100"));
    }
    raw
}
