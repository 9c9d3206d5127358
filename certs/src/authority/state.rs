//! What an authority has done so far: its roots, its issuer and their keys, as they are in memory and on disk.
//!
//! A state never changes. Each step of a rotation makes the next state of it, which takes its place once it is on
//! disk.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pem::Pem;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::AuthoritySettings;
use super::certificate::{CertifiedKey, SigningError};
use crate::leaf::{parse_certificate, validity_of};
use crate::trust_domain::TrustDomain;
use crate::validity::{Validity, since_epoch};

/// The layout of the file; another number is from another version of Outrigger.
const VERSION: u32 = 1;

/// Where a root is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootPhase {
    /// It is trusted and signs nothing yet.
    Next,
    /// It is trusted and signs.
    Active,
    /// It is trusted for what it signed, and its key is destroyed.
    Old,
}

impl fmt::Display for RootPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Old => "old",
        })
    }
}

/// Why a file is not the state of an authority.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not the JSON document that an authority writes.
    #[error("it is not the document of an authority")]
    Json(#[from] serde_json::Error),
    /// It is from another version.
    #[error("its layout has version {0} and this program reads version {VERSION}")]
    Version(u32),
    /// A certificate or a key in it is not one.
    #[error("{0} is not valid PEM or DER")]
    Pem(&'static str),
    /// A certificate in it is not that of a CA.
    #[error("a root is not the certificate of a CA")]
    NotACa,
    /// There is not exactly one root that signs, or a root that shall sign has no key.
    #[error("it does not have exactly one active root, at most one next root, and the keys of both")]
    Phases,
    /// A key belongs to another certificate.
    #[error("the key of {0} does not belong to its certificate")]
    KeyMismatch(&'static str),
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) trust_domain: TrustDomain,
    /// The longest life of a leaf that the current issuers may have signed.
    pub(super) longest_svid: Duration,
    pub(super) issuer: CertifiedKey,
    roots: Vec<Root>,
}

#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) phase: RootPhase,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) validity: Validity,
    /// When the phase began.
    pub(super) since: SystemTime,
    /// For an old root: when nothing that it vouches for is valid any more.
    pub(super) retire_at: Option<SystemTime>,
    /// `None` once the root is old.
    key: Option<Arc<KeyPair>>,
    /// The certificate for this root by the one before it.
    link: Option<CertificateDer<'static>>,
}

impl State {
    /// The first state: one root, and an issuer that it vouches for.
    pub(super) fn create(settings: &AuthoritySettings, now: SystemTime) -> Result<Self, SigningError> {
        let validity = settings.root_validity(now);
        let root = CertifiedKey::new_root(&settings.trust_domain, validity, None)?.root;
        let issuer = root.new_issuer(&settings.trust_domain, settings.issuer_validity(now, root.validity))?;
        Ok(Self {
            trust_domain: settings.trust_domain.clone(),
            longest_svid: settings.svid_ttl,
            issuer,
            roots: vec![Root::new(RootPhase::Active, root, None, now)],
        })
    }

    pub(super) fn active_root(&self) -> &Root {
        self.root_in(RootPhase::Active).expect("every state has one active root")
    }

    pub(super) fn next_root(&self) -> Option<&Root> {
        self.root_in(RootPhase::Next)
    }

    pub(super) fn old_roots(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter().filter(|root| root.phase == RootPhase::Old)
    }

    /// All roots, the one that signs first.
    pub(super) fn trusted_roots(&self) -> impl Iterator<Item = &Root> {
        let active = self.active_root();
        std::iter::once(active).chain(self.roots.iter().filter(|root| root.phase != RootPhase::Active))
    }

    /// What leads a peer that knows only the old root to the active one.
    pub(super) fn link_to_the_old_root(&self) -> Option<&CertificateDer<'static>> {
        self.old_roots().next()?;
        self.active_root().link.as_ref()
    }

    fn root_in(&self, phase: RootPhase) -> Option<&Root> {
        self.roots.iter().find(|root| root.phase == phase)
    }

    pub(super) fn with_new_issuer(
        &self,
        settings: &AuthoritySettings,
        now: SystemTime,
    ) -> Result<Self, SigningError> {
        let root = self.active_root().certified_key()?;
        let issuer = root.new_issuer(&self.trust_domain, settings.issuer_validity(now, root.validity))?;
        Ok(Self { issuer, ..self.clone() })
    }

    pub(super) fn with_next_root(
        &self,
        settings: &AuthoritySettings,
        now: SystemTime,
    ) -> Result<Self, SigningError> {
        let active = self.active_root().certified_key()?;
        // A root that has expired cannot vouch for its successor.
        let vouching = active.validity.contains(now).then_some(&active);
        let new = CertifiedKey::new_root(&self.trust_domain, settings.root_validity(now), vouching)?;
        let mut next = self.clone();
        next.roots.push(Root::new(RootPhase::Next, new.root, new.link, now));
        Ok(next)
    }

    pub(super) fn with_next_root_active(
        &self,
        settings: &AuthoritySettings,
        now: SystemTime,
    ) -> Result<Self, SigningError> {
        let root = self.next_root().ok_or(SigningError::Unusable)?.certified_key()?;
        let issuer = root.new_issuer(&self.trust_domain, settings.issuer_validity(now, root.validity))?;
        let mut next = Self { issuer, longest_svid: settings.svid_ttl, ..self.clone() };
        for root in &mut next.roots {
            match root.phase {
                RootPhase::Active => {
                    root.phase = RootPhase::Old;
                    root.since = now;
                    root.key = None;
                    root.retire_at = Some(last_leaf_ends(now, self.longest_svid, root.validity));
                }
                RootPhase::Next => {
                    root.phase = RootPhase::Active;
                    root.since = now;
                }
                RootPhase::Old => {}
            }
        }
        Ok(next)
    }

    /// Without the old roots that have nothing left to vouch for at `now`.
    pub(super) fn without_spent_roots(&self, now: SystemTime) -> Self {
        let mut next = self.clone();
        next.roots.retain(|root| root.retire_at.is_none_or(|at| now < at));
        next
    }

    pub(super) fn without_old_roots(&self) -> Self {
        let mut next = self.clone();
        next.roots.retain(|root| root.phase != RootPhase::Old);
        next
    }
}

impl Root {
    fn new(
        phase: RootPhase,
        root: CertifiedKey,
        link: Option<CertificateDer<'static>>,
        since: SystemTime,
    ) -> Self {
        Self {
            phase,
            certificate: root.certificate,
            validity: root.validity,
            since,
            retire_at: None,
            key: Some(root.key),
            link,
        }
    }

    fn certified_key(&self) -> Result<CertifiedKey, SigningError> {
        let key = self.key.clone().ok_or(SigningError::Unusable)?;
        Ok(CertifiedKey { certificate: self.certificate.clone(), key, validity: self.validity })
    }
}

/// When nothing that a root has vouched for until `now` is valid any more.
fn last_leaf_ends(now: SystemTime, longest_svid: Duration, root: Validity) -> SystemTime {
    // Lives end in whole seconds, rounded up, and the last second counts.
    (now + longest_svid).min(root.not_after) + Duration::from_secs(2)
}

/// The file. Certificates and keys are PEM, times are milliseconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    version: u32,
    trust_domain: TrustDomain,
    longest_svid_ms: u64,
    roots: Vec<RootDocument>,
    issuer: KeyDocument,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RootDocument {
    phase: RootPhase,
    since_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retire_at_ms: Option<u64>,
    certificate: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyDocument {
    certificate: String,
    key: String,
}

impl State {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let document = Document {
            version: VERSION,
            trust_domain: self.trust_domain.clone(),
            longest_svid_ms: whole_millis(self.longest_svid),
            roots: self.roots.iter().map(Root::to_document).collect(),
            issuer: KeyDocument {
                certificate: certificate_pem(&self.issuer.certificate),
                key: key_pem(&self.issuer.key),
            },
        };
        serde_json::to_vec_pretty(&document).expect("texts and numbers always become JSON")
    }

    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, StateError> {
        // The version first: the rest of another version's document may look different.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let issuer = document.issuer.read()?;
        let roots: Vec<Root> =
            document.roots.into_iter().map(RootDocument::read).collect::<Result<_, _>>()?;
        let count = |phase| roots.iter().filter(|root| root.phase == phase).count();
        let keys = roots.iter().all(|root| root.key.is_some() != (root.phase == RootPhase::Old));
        if count(RootPhase::Active) != 1 || count(RootPhase::Next) > 1 || !keys {
            return Err(StateError::Phases);
        }
        Ok(Self {
            trust_domain: document.trust_domain,
            longest_svid: Duration::from_millis(document.longest_svid_ms),
            issuer,
            roots,
        })
    }
}

impl Root {
    fn to_document(&self) -> RootDocument {
        RootDocument {
            phase: self.phase,
            since_ms: whole_millis(since_epoch(self.since)),
            retire_at_ms: self.retire_at.map(|at| whole_millis(since_epoch(at))),
            certificate: certificate_pem(&self.certificate),
            key: self.key.as_deref().map(key_pem),
            link: self.link.as_ref().map(certificate_pem),
        }
    }
}

impl RootDocument {
    fn read(self) -> Result<Root, StateError> {
        let (certificate, validity) = read_ca(&self.certificate, "a root")?;
        let key = self.key.map(|key| read_key(&key, &certificate, "a root")).transpose()?;
        let link = self.link.map(|link| read_ca(&link, "a link between roots")).transpose()?;
        Ok(Root {
            phase: self.phase,
            certificate,
            validity,
            since: UNIX_EPOCH + Duration::from_millis(self.since_ms),
            retire_at: self.retire_at_ms.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
            key,
            link: link.map(|(certificate, _)| certificate),
        })
    }
}

impl KeyDocument {
    fn read(self) -> Result<CertifiedKey, StateError> {
        let (certificate, validity) = read_ca(&self.certificate, "the issuer")?;
        let key = read_key(&self.key, &certificate, "the issuer")?;
        Ok(CertifiedKey { certificate, key, validity })
    }
}

fn certificate_pem(certificate: &CertificateDer<'static>) -> String {
    pem::encode(&Pem::new("CERTIFICATE", certificate.as_ref()))
}

fn key_pem(key: &KeyPair) -> String {
    pem::encode(&Pem::new("PRIVATE KEY", key.serialized_der()))
}

fn read_pem(text: &str, tag: &str, what: &'static str) -> Result<Vec<u8>, StateError> {
    let block = pem::parse(text).map_err(|_| StateError::Pem(what))?;
    if block.tag() == tag { Ok(block.into_contents()) } else { Err(StateError::Pem(what)) }
}

fn read_ca(text: &str, what: &'static str) -> Result<(CertificateDer<'static>, Validity), StateError> {
    let der = read_pem(text, "CERTIFICATE", what)?;
    let certificate = parse_certificate(&der).ok_or(StateError::Pem(what))?;
    let validity = validity_of(&certificate).ok_or(StateError::Pem(what))?;
    if !certificate.is_ca() {
        return Err(StateError::NotACa);
    }
    Ok((der.into(), validity))
}

fn read_key(
    text: &str,
    certificate: &CertificateDer<'_>,
    what: &'static str,
) -> Result<Arc<KeyPair>, StateError> {
    let der = PrivatePkcs8KeyDer::from(read_pem(text, "PRIVATE KEY", what)?);
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
        .map_err(|_| StateError::Pem(what))?;
    let certified = parse_certificate(certificate)
        .is_some_and(|parsed| *parsed.public_key().subject_public_key.data == *key.public_key_raw());
    if certified { Ok(Arc::new(key)) } else { Err(StateError::KeyMismatch(what)) }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
