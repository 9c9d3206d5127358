//! Following a chain of certificates to a root that is trusted.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use crate::fingerprint::Fingerprint;
use crate::leaf::{Leaf, LeafError};
use crate::spiffe_id::SpiffeId;
use crate::trust_domain::TrustDomain;
use crate::validity::{rfc3339, since_epoch};

/// The longest chain that is looked at: a leaf, its issuers, and the links between two roots.
const MAX_CHAIN: usize = 8;

/// What the holder of a certificate does with it in the handshake at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is the TLS client.
    Client,
    /// It is the TLS server.
    Server,
}

/// Why a certificate does not prove the identity of a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The chain is longer than any that a mesh's CA issues.
    #[error("the chain has {0} certificates, and no more than 8 are looked at")]
    ChainTooLong(usize),
    /// The certificate is not that of a workload.
    #[error("the certificate is no X.509-SVID")]
    Leaf(#[from] LeafError),
    /// The identity belongs to another mesh.
    #[error("{presented} is not of the trust domain {expected}")]
    TrustDomain {
        /// The mesh's own trust domain.
        expected: TrustDomain,
        /// What the certificate names.
        presented: SpiffeId,
    },
    /// The identity is another than the one that was asked for.
    #[error("the peer is {presented} where {expected} was expected")]
    Identity {
        /// Who should have answered.
        expected: SpiffeId,
        /// Who did.
        presented: SpiffeId,
    },
    /// The certificate, or one that signed it, held until then.
    #[error("the certificate has expired: it held until {}; see the clocks on both sides", rfc3339(*.not_after))]
    Expired {
        /// The last second in which it held.
        not_after: SystemTime,
    },
    /// The certificate, or one that signed it, holds from then on.
    #[error("the certificate is not valid yet: it holds from {}; see the clocks on both sides", rfc3339(*.not_before))]
    NotYetValid {
        /// The first second in which it holds.
        not_before: SystemTime,
    },
    /// No root that is trusted, and valid now, has signed the chain.
    #[error("no trusted root that is valid now has signed the certificate")]
    UnknownIssuer,
    /// A signature in the chain is wrong.
    #[error("a signature in the chain is wrong")]
    Signature,
    /// The certificate is not for this use.
    #[error("the certificate may not be used by a TLS {}", match .0 { Purpose::Client => "client", Purpose::Server => "server" })]
    Purpose(Purpose),
    /// The chain lacks the root whose fingerprint is in the join token.
    #[error(
        "the chain does not hold the root {0} that the join token names; is this the right control plane?"
    )]
    PinnedRoot(Fingerprint),
    /// The chain breaks a rule of X.509.
    #[error("the chain is not valid: {0}")]
    Chain(webpki::Error),
}

/// Follows `chain`, leaf first, to one of `anchors`.
///
/// The leaf is read before its signature is checked, so that the error can name what was presented.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    now: SystemTime,
    purpose: Purpose,
) -> Result<Leaf, VerifyError> {
    let (first, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    let leaf = Leaf::read(first)?;
    let end_entity = EndEntityCert::try_from(first).map_err(|error| verify_error(error, purpose))?;
    end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            anchors,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch(now)),
            usage(purpose),
            None,
            None,
        )
        .map_err(|error| verify_error(error, purpose))?;
    Ok(leaf)
}

/// Passes certificates without extended key usage, as CAs' are; a leaf has it, or [`Leaf::read`] has refused it.
fn usage(purpose: Purpose) -> KeyUsage {
    match purpose {
        Purpose::Client => KeyUsage::client_auth(),
        Purpose::Server => KeyUsage::server_auth(),
    }
}

fn verify_error(error: webpki::Error, purpose: Purpose) -> VerifyError {
    let time = |time: UnixTime| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs());
    match error {
        webpki::Error::CertExpired { not_after, .. } => VerifyError::Expired { not_after: time(not_after) },
        webpki::Error::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { not_before: time(not_before) }
        }
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => VerifyError::Signature,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            VerifyError::Purpose(purpose)
        }
        other => VerifyError::Chain(other),
    }
}
