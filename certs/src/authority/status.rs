//! What an authority shows of itself: everything but keys.

use std::time::SystemTime;

use serde::Serialize;

use super::state::{RootPhase, State};
use crate::fingerprint::Fingerprint;
use crate::leaf::parse_certificate;
use crate::trust_domain::TrustDomain;
use crate::validity::{Validity, serialize_rfc3339};

/// An authority's certificates and what it does next.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Every root that is trusted, the one that signs first.
    pub roots: Vec<CertificateStatus>,
    /// What signs workloads' certificates.
    pub issuer: CertificateStatus,
    /// When the next renewal or step of a rotation is due.
    #[serde(serialize_with = "serialize_rfc3339")]
    pub next_rotation: SystemTime,
}

/// One certificate of an authority.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The subject's name.
    pub subject: String,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
    /// For a root: where it is in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RootPhase>,
    /// The first second in which it holds.
    #[serde(serialize_with = "serialize_rfc3339")]
    pub not_before: SystemTime,
    /// The last.
    #[serde(serialize_with = "serialize_rfc3339")]
    pub not_after: SystemTime,
}

impl AuthorityStatus {
    pub(super) fn of(state: &State, next_rotation: SystemTime) -> Self {
        let roots = state.trusted_roots();
        Self {
            trust_domain: state.trust_domain.clone(),
            roots: roots
                .map(|root| CertificateStatus::of(&root.certificate, root.validity, Some(root.phase)))
                .collect(),
            issuer: CertificateStatus::of(&state.issuer.certificate, state.issuer.validity, None),
            next_rotation,
        }
    }
}

impl CertificateStatus {
    fn of(der: &[u8], validity: Validity, phase: Option<RootPhase>) -> Self {
        let parsed = parse_certificate(der);
        let (subject, serial) = parsed
            .map(|certificate| (certificate.subject().to_string(), hex(certificate.raw_serial())))
            .unwrap_or_default();
        Self {
            subject,
            serial,
            fingerprint: Fingerprint::of(der),
            phase,
            not_before: validity.not_before,
            not_after: validity.not_after,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
