//! Outrigger's control plane: identities issued, policy compiled, changes pushed.
//!
//! ```text
//! store (documents) ─┐
//!                    ├─► model ─► compile ─► push ─► one stream per proxy
//! discovery ─────────┘
//! ```
//!
//! Documents come in through the REST API ([`api`]), are checked ([`resources`]) and kept as events
//! ([`store`]). Registrations come in over the streams of the proxies (`discovery`). Both are indexed by the service
//! that they concern (`model`), and compiled for those who call it (`compile`): a pure function, documents and
//! registrations in, configuration out, because that is where policy is decided and so where it is tested. The result
//! is pushed to the proxies that use the service (`push`), if it says anything new, and [`mesh`] holds all of this
//! together. Beside it the certificate authority works (`certificates`), to which workloads prove who they are
//! (`identity`). [`ControlPlane::start`] wires the parts, and any number run in one process.
//!
//! What a proxy may assume of what it is sent: every default is filled in and every list sorted; a route arrives
//! after its backends; an endpoint set is never smaller because the control plane was restarted; a message is
//! sent again only when it says something new.
//!
//! What the control plane never does: stand in the way of a request. Proxies that have their policy and certificate
//! serve without it.

pub mod api;
mod certificates;
mod compile;
mod control_plane;
pub mod diff;
mod discovery;
pub mod explain;
mod identity;
mod jwks;
mod lease;
pub mod lint;
pub mod mesh;
mod model;
mod push;
pub mod resources;
mod server;
mod stats;
pub mod status;
pub mod store;
pub mod token;
mod transitions;

use std::collections::HashMap;
use std::sync::Arc;

pub use control_plane::{ControlPlane, ControlPlaneConfig, Running, StartError};
pub use discovery::journal::JournalError;

/// Every service as callers in its own namespace are sent it; public to be measured alone.
#[doc(hidden)]
pub fn compile_all(documents: Arc<resources::Documents>) -> Vec<outrigger_api::v1::Service> {
    let mut model = model::Model::default();
    model.replace(documents);
    let world = compile::World { model: &model, registered: &HashMap::new() };
    let compile = |name| compile::compile(world, name, outrigger_api::ServiceName::namespace(name));
    model.documents().services.keys().filter_map(compile).map(|compiled| compiled.message).collect()
}
