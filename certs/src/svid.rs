//! A workload's own identity: its key, from the moment it is made, and the certificate that it gets for it.
//!
//! A key is made in the process that uses it ([`KeyRequest`]), only the signing request leaves, and the chain
//! that comes back turns it into an [`Svid`]. Every renewal makes a new key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pem::Pem;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::bundle::TrustBundle;
use crate::files::{self, FileError};
use crate::leaf::{Leaf, LeafError};
use crate::spiffe_id::SpiffeId;
use crate::tls;
use crate::validity::{Validity, rfc3339};
use crate::verify::{Purpose, VerifyError};

/// The name of the file that holds key and chain. One file, so that no crash can part them.
const FILE: &str = "svid.pem";

/// A new key and the request to certify it, waiting for the CA's answer.
pub struct KeyRequest {
    id: SpiffeId,
    key: KeyPair,
    csr: Vec<u8>,
}

/// No key could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key and its signing request")]
pub struct KeyRequestError(#[from] rcgen::Error);

/// An X.509-SVID with its private key: what a workload proves its identity with.
///
/// Cloning shares nothing secret with the outside and is cheap but for the key's few bytes.
pub struct Svid {
    id: SpiffeId,
    key: PrivatePkcs8KeyDer<'static>,
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

/// Why a chain, or a file, is not the identity of this workload.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The chain does not prove an identity to this mesh.
    #[error("the certificate proves nothing to this mesh")]
    Verify(#[from] VerifyError),
    /// The first certificate is no X.509-SVID.
    #[error("the certificate is no X.509-SVID")]
    Leaf(#[from] LeafError),
    /// The chain is for somebody else.
    #[error("asked for {expected} and got the certificate of {presented}")]
    Identity {
        /// The identity that was asked for.
        expected: SpiffeId,
        /// The identity in the certificate.
        presented: SpiffeId,
    },
    /// The certificate is for another key.
    #[error("the certificate does not belong to the key")]
    Key(#[source] rustls::Error),
    /// The certificate does not hold now.
    #[error("the saved certificate held from {} to {}", rfc3339(*.not_before), rfc3339(*.not_after))]
    NotValid {
        /// The first second in which it held.
        not_before: SystemTime,
        /// The last.
        not_after: SystemTime,
    },
    /// The file is not one key and its chain.
    #[error("{FILE} is not a private key and its certificates in PEM")]
    Pem,
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl KeyRequest {
    /// Makes an ECDSA P-256 key and a request for `id`.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate(id: &SpiffeId) -> Result<Self, KeyRequestError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { id: id.clone(), key, csr })
    }

    /// The identity that is asked for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The signing request, PKCS#10 in DER (RFC 2986).
    pub fn csr_der(&self) -> &[u8] {
        &self.csr
    }

    /// Completes the identity with the CA's answer, `chain` in DER with the leaf first.
    ///
    /// # Errors
    /// The chain does not lead to `bundle` at `now`, is for another identity or for another key.
    pub fn into_svid(
        self,
        chain: Vec<Vec<u8>>,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Svid, SvidError> {
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
        let presented = bundle.verify(&chain, now, Purpose::Client)?;
        bundle.verify(&chain, now, Purpose::Server)?;
        if presented != self.id {
            return Err(SvidError::Identity { expected: self.id, presented });
        }
        Svid::new(chain, self.key.into())
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Svid {
    /// Joins a chain, leaf first, with its key. Whether anybody trusts the chain is not checked.
    ///
    /// # Errors
    /// The leaf is no X.509-SVID, or the key is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let leaf = Leaf::read(chain.first().ok_or(VerifyError::NoCertificate)?)?;
        let certified =
            CertifiedKey::from_der(chain, PrivateKeyDer::Pkcs8(key.clone_key()), &tls::provider())
                .map_err(SvidError::Key)?;
        let (id, validity) = (leaf.id().clone(), leaf.validity());
        Ok(Self { id, key, certified: Arc::new(certified), validity })
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The first second in which the certificate holds.
    pub fn not_before(&self) -> SystemTime {
        self.validity.not_before
    }

    /// The last second in which the certificate holds.
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// Whether the certificate holds at `now`.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.validity.contains(now)
    }

    /// Key and chain as rustls takes them; parsed once.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// An identity that shows another chain, or signs by another key, than its own.
    #[cfg(test)]
    pub(crate) fn forged(mut self, certified: CertifiedKey) -> Self {
        self.certified = Arc::new(certified);
        self
    }

    /// Writes key and chain to `svid.pem` in a directory that exists, atomically and with mode 0600.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), FileError> {
        let mut blocks = vec![Pem::new("PRIVATE KEY", self.key.secret_pkcs8_der())];
        blocks.extend(self.chain().iter().map(|der| Pem::new("CERTIFICATE", der.as_ref())));
        files::write_atomic(&directory.join(FILE), pem::encode_many(&blocks).as_bytes(), files::PRIVATE)
    }

    /// Reads what [`save`](Self::save) wrote, if it still holds at `now`.
    ///
    /// # Errors
    /// The file is missing, readable by others, damaged or out of date.
    pub fn load(directory: &Path, now: SystemTime) -> Result<Self, SvidError> {
        let bytes = files::read_private(&directory.join(FILE))?;
        let mut blocks = pem::parse_many(&bytes).map_err(|_| SvidError::Pem)?.into_iter();
        let key = blocks.next().filter(|block| block.tag() == "PRIVATE KEY").ok_or(SvidError::Pem)?;
        let chain: Option<Vec<CertificateDer<'static>>> = blocks
            .map(|block| (block.tag() == "CERTIFICATE").then(|| block.into_contents().into()))
            .collect();
        let svid = Self::new(chain.ok_or(SvidError::Pem)?, key.into_contents().into())?;
        if !svid.is_valid(now) {
            let Validity { not_before, not_after } = svid.validity;
            return Err(SvidError::NotValid { not_before, not_after });
        }
        Ok(svid)
    }
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            key: self.key.clone_key(),
            certified: Arc::clone(&self.certified),
            validity: self.validity,
        }
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &rfc3339(self.validity.not_after))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{Forge, HOUR, id, noon, uri};

    #[test]
    fn saved_and_loaded_it_is_the_same_and_private() {
        let svid = Forge::new().svid("payments");
        let directory = tempfile::tempdir().unwrap();
        svid.save(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = Svid::load(directory.path(), noon()).unwrap();
        assert_eq!((loaded.id(), loaded.chain()), (svid.id(), svid.chain()));
        assert_eq!(loaded.key.secret_pkcs8_der(), svid.key.secret_pkcs8_der());
        for then in [noon() - 2 * HOUR, noon() + 2 * HOUR] {
            assert!(matches!(Svid::load(directory.path(), then), Err(SvidError::NotValid { .. })));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Svid::load(directory.path(), noon()),
            Err(SvidError::File(FileError::Exposed { .. }))
        ));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let svid = Forge::new().svid("payments");
        let directory = tempfile::tempdir().unwrap();
        svid.save(directory.path()).unwrap();
        let whole = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
        let certificate = &whole[whole.find("-----BEGIN CERTIFICATE").unwrap()..];
        let key = &whole[..whole.find("-----BEGIN CERTIFICATE").unwrap()];
        let swapped = format!("{certificate}{key}");
        for bad in ["", "nonsense", certificate, key, &swapped] {
            files::write_atomic(&directory.path().join(FILE), bad.as_bytes(), 0o600).unwrap();
            assert!(Svid::load(directory.path(), noon()).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_key_must_be_the_certificates() {
        let forge = Forge::new();
        let (leaf, _) = forge.leaf(|_| {});
        let (_, other) = forge.leaf(|_| {});
        assert!(matches!(Svid::new(vec![leaf], other.serialize_der().into()), Err(SvidError::Key(_))));
    }

    #[test]
    fn an_answer_for_somebody_else_is_refused() {
        let forge = Forge::new();
        let request = KeyRequest::generate(&id("payments")).unwrap();
        let (leaf, _) = forge.leaf(|leaf| leaf.subject_alt_names = vec![uri(id("web").as_str())]);
        let error = request.into_svid(vec![leaf.to_vec()], &forge.bundle(), noon()).unwrap_err();
        assert!(matches!(error, SvidError::Identity { .. }), "{error:?}");
        let request = KeyRequest::generate(&id("payments")).unwrap();
        let (leaf, _) = forge.leaf(|_| {});
        let error = request.into_svid(vec![leaf.to_vec()], &forge.bundle(), noon()).unwrap_err();
        assert!(matches!(error, SvidError::Key(_)), "{error:?}");
        let request = KeyRequest::generate(&id("payments")).unwrap();
        let error = request.into_svid(vec![leaf.to_vec()], &Forge::new().bundle(), noon()).unwrap_err();
        assert!(matches!(error, SvidError::Verify(_)), "{error:?}");
    }

    #[test]
    fn debug_shows_no_key() {
        let svid = Forge::new().svid("payments");
        let shown = format!("{svid:?}{:?}", KeyRequest::generate(&id("payments")).unwrap());
        assert!(shown.contains("payments") && shown.len() < 300, "{shown}");
    }
}
