//! Who is who in a mesh: SPIFFE identities, the authority that certifies them, and the TLS that checks them.
//!
//! The trust model in a paragraph. A mesh has one [`TrustDomain`]. Its [`Authority`] keeps a root, which proxies
//! trust, and an issuer below it, which signs. A workload's proxy makes a key that never leaves its process
//! ([`KeyRequest`]), proves to the control plane who it is (at first with a [`JoinToken`], later with the identity
//! it has) and gets a certificate that names it with exactly one URI, its [`SpiffeId`]. Whoever has the mesh's
//! [`TrustBundle`] can verify that name; nothing else in a certificate counts. Certificates live for hours and are
//! replaced at half life, so there is no revocation: an identity that is not renewed ends by itself.
//!
//! The life of a key: [`KeyRequest::generate`] makes it, [`Authority::sign`] certifies it,
//! [`KeyRequest::into_svid`] checks the answer, an [`Svid`] carries both, [`tls`] turns that into one rustls
//! configuration per role, [`renew_at`] says when to begin again. The root's and the issuer's lives are in
//! [`Authority`].
//!
//! Reading order: [`SpiffeId`], [`Leaf`] (what a certificate must be), [`TrustBundle`] (how a chain is followed),
//! [`SigningRequest`] and [`Svid`], [`Authority`], [`tls`]. [`files`] keeps secrets private and whole.
//!
//! The time is read in two places: an [`Authority`] asks the [`Clock`] it was opened with, and a TLS configuration
//! the one it was made with. Everything else takes `now`. Randomness for keys and secrets comes from the TLS
//! provider alone.
//!
//! This crate knows nothing of services, routes or proxies, opens no socket, starts no task and keeps no state
//! outside the values it returns; several meshes can live in one process. Nothing that a peer sends can make it
//! panic.

pub mod files;
pub mod tls;

mod authority;
mod bundle;
mod clock;
mod csr;
mod fingerprint;
mod join_token;
mod leaf;
mod spiffe_id;
mod svid;
mod trust_domain;
mod validity;
mod verify;

#[cfg(test)]
mod testing;

pub use authority::{
    Authority, AuthorityError, AuthoritySettings, AuthorityStatus, CertificateStatus, Changes, IssuedChain,
    RootPhase, RotationError, SignError, SigningError, StateError,
};
pub use bundle::{BundleError, TrustBundle};
pub use clock::{Clock, ManualClock, SystemClock};
pub use csr::{CsrError, SigningRequest};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use join_token::{JoinToken, JoinTokenError, NoRandomness};
pub use leaf::{Leaf, LeafError};
pub use spiffe_id::{CONTROL_PLANE_ACCOUNT, CONTROL_PLANE_NAMESPACE, SpiffeId, SpiffeIdError};
pub use svid::{KeyRequest, KeyRequestError, Svid, SvidError};
pub use trust_domain::{TrustDomain, TrustDomainError};
pub use validity::renew_at;
pub use verify::{Purpose, VerifyError};
