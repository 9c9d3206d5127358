//! The protobuf contract between the control plane and the proxies, and what both sides must read alike.
//!
//! [`v1`] is generated from `proto/outrigger/v1/mesh.proto`, whose comments are the documentation. The crate
//! knows nothing of either plane: it has no policy, no I/O and no defaults. [`ServiceName`] lives here because
//! a name that one side accepts and the other refuses would be a service that nobody can call, and [`path`] because
//! a rule protects only what both sides spell in one way.

pub mod latency;
mod name;
pub mod path;

pub use name::{NameError, ServiceName};

/// Messages, clients and servers generated from `mesh.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    reason = "generated; the comments are in the proto file"
)]
pub mod v1 {
    tonic::include_proto!("outrigger.v1");
}
