//! Why an update from the control plane is not in use.

use outrigger_api::{NameError, ServiceName};

use crate::identity::ForeignBundle;
use crate::identity::issue::BundleUnusable;
use crate::policy::PolicyError;

/// Sent back as the reason of a refusal, and logged. The last good policy stays in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// A field's value cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A field that every such message has is absent.
    #[error("{field}: is absent")]
    Absent { field: &'static str },
    /// A field is not the name of a service.
    #[error("{field}")]
    Name { field: &'static str, source: NameError },
    /// A field is not an address.
    #[error("notFound.destination.address: {0:?} is not IP:PORT")]
    Address(String),
    /// A change to a set of endpoints that never came whole on this stream.
    #[error("endpoints of {service}: a change came before the whole set")]
    OutOfStep { service: ServiceName },
    /// The table of services is full.
    #[error("service {service}: this proxy follows {limit} services already")]
    TooMany { service: ServiceName, limit: usize },
    /// The policy may not be shown before its backends.
    #[error("service {service}: held back until these arrive: {waits_for}")]
    Held { service: ServiceName, waits_for: String },
    /// The trust bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleUnusable),
    /// The trust bundle does not go with the identity.
    #[error(transparent)]
    Foreign(#[from] ForeignBundle),
    /// A kind of update that this version does not know.
    #[error("update: of a kind that this proxy's version does not know")]
    Unknown,
}
