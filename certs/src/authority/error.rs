//! What can keep an authority from opening, signing or rotating.

use std::path::PathBuf;

use super::certificate::SigningError;
use super::state::StateError;
use crate::csr::CsrError;
use crate::files::FileError;
use crate::spiffe_id::SpiffeId;
use crate::svid::{KeyRequestError, SvidError};
use crate::trust_domain::TrustDomain;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The settings contradict each other.
    #[error("the lifetimes must be 1 s <= svid-ttl <= issuer-ttl <= root-ttl <= 100 years")]
    Lifetimes,
    /// Another process has the directory open.
    #[error("{path} is in use by another control plane; stop it first", path = .0.display())]
    InUse(PathBuf),
    /// The directory belongs to another mesh.
    #[error(
        "the authority on disk is for the trust domain {found}, not {expected}; use another data directory"
    )]
    TrustDomain {
        /// The trust domain that was asked for.
        expected: TrustDomain,
        /// The one on disk.
        found: TrustDomain,
    },
    /// The file with the keys is gone, and the bundle is still there.
    #[error(
        "{path} is missing, but the trust bundle beside it is not; restore it from a backup, or move the bundle \
         away too to start over with a new root, which every workload must join anew",
        path = .0.display()
    )]
    Lost(PathBuf),
    /// The file is damaged.
    #[error(
        "{path} is damaged; restore it from a backup, or move it and the trust bundle beside it away to start \
         over with a new root, which every workload must join anew",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is not one that a CA signs.
    #[error("the signing request is refused")]
    Csr(#[from] CsrError),
    /// The request names another identity than the one that its sender has proved.
    #[error("the request asks for {requested}, but its sender has proved to be {proved}")]
    Identity {
        /// What the sender has proved to be.
        proved: SpiffeId,
        /// What it asks for.
        requested: SpiffeId,
    },
    /// The identity is of another mesh.
    #[error("{0} is not of this authority's trust domain")]
    TrustDomain(SpiffeId),
    /// The issuer has expired and has not been renewed: the authority's `tick` was not called, or failed.
    #[error("the issuer's certificate has expired; see why its renewal failed in the control plane's log")]
    IssuerExpired,
    /// The signature, or a key, could not be made.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The authority's own identity could not be made.
    #[error("cannot make the control plane's own identity")]
    Own(#[source] Box<SvidError>),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyRequestError),
}

/// Why a step of a rotation was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A next root is already published.
    #[error("a next root is already published; activate it first")]
    AlreadyPublished,
    /// Somebody hurries: so many roots are still trusted that another would make bundles too large.
    #[error("{0} roots are still trusted; wait until the old ones retire, or retire them")]
    TooManyRoots(usize),
    /// There is no next root.
    #[error("there is no next root; publish one first")]
    NoNextRoot,
    /// There is no old root.
    #[error("there is no old root to retire")]
    NoOldRoot,
    /// A certificate could not be made.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// The new state could not be written, so the old one stays.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<RotationError> for AuthorityError {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::File(error) => Self::File(error),
            RotationError::Signing(error) => Self::Signing(error),
            // `tick` asks only for steps that are possible.
            _ => Self::Signing(SigningError::Unusable),
        }
    }
}
