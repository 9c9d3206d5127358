//! The roots that prove the identities of one trust domain.
//!
//! A bundle has one root most of the time and two or three while a root is rotated: the next root is trusted
//! before anything is signed by it, and the last one for as long as something that it signed is still valid.

use std::fmt;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use pem::Pem;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use crate::files::{self, FileError};
use crate::fingerprint::Fingerprint;
use crate::leaf::{parse_certificate, validity_of};
use crate::spiffe_id::SpiffeId;
use crate::trust_domain::{TrustDomain, TrustDomainError};
use crate::validity::Validity;
use crate::verify::{Purpose, VerifyError, verify_chain};

/// More roots than any rotation needs, and few enough to look through at every handshake.
const MAX_ROOTS: usize = 16;
/// The name of the file that holds a bundle.
pub(crate) const FILE: &str = "bundle.pem";
const HEADING: &str = "# trust bundle of spiffe://";

/// The roots of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<[Root]>,
}

struct Root {
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    fingerprint: Fingerprint,
    validity: Validity,
}

/// Why certificates are not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no root, or there are more than 16.
    #[error("a trust bundle has 1 to 16 roots, not {0}")]
    Count(usize),
    /// One is not the certificate of a CA.
    #[error("root {0} of the bundle, counted from 1, is not the certificate of a CA")]
    NotACa(usize),
    /// The file does not begin with the trust domain.
    #[error("the first line of a bundle is {HEADING:?} and the trust domain")]
    Heading,
    /// The trust domain in the file is none.
    #[error("the bundle's heading is wrong")]
    TrustDomain(#[from] TrustDomainError),
    /// The file is not a list of certificates in PEM.
    #[error("the bundle is not a list of certificates in PEM")]
    Pem,
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl TrustBundle {
    /// Makes a bundle of roots in DER. A root that is given twice counts once.
    ///
    /// # Errors
    /// There is none, there are more than 16, or one is not the certificate of a CA. One that has expired, or is
    /// not valid yet, is taken: it is only left out when chains are verified.
    pub fn from_der(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Self, BundleError> {
        let mut read: Vec<Root> = Vec::new();
        for (index, der) in roots.into_iter().enumerate() {
            if index >= MAX_ROOTS {
                return Err(BundleError::Count(index + 1));
            }
            let root = Root::read(der).ok_or(BundleError::NotACa(index + 1))?;
            if read.iter().all(|known| known.fingerprint != root.fingerprint) {
                read.push(root);
            }
        }
        if read.is_empty() {
            return Err(BundleError::Count(0));
        }
        Ok(Self { trust_domain, roots: read.into() })
    }

    /// The trust domain whose identities the roots prove.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, in the order in which they were given.
    pub fn roots(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.certificate)
    }

    /// The roots in DER, as the wire carries them.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.roots().map(|root| root.to_vec()).collect()
    }

    /// The fingerprints of the roots.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> + '_ {
        self.roots.iter().map(|root| root.fingerprint)
    }

    /// Whose certificate this is: follows `chain`, leaf first, to one of the roots that are valid at `now`.
    ///
    /// Every certificate on the way must be valid at `now` and the leaf must be an X.509-SVID of this trust
    /// domain and for this purpose ([X509-SVID §5]). No name beside the identity is looked at.
    ///
    /// # Errors
    /// The chain proves no identity; the error says why.
    ///
    /// [X509-SVID §5]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#5-validation
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        purpose: Purpose,
    ) -> Result<SpiffeId, VerifyError> {
        // webpki trusts an anchor for ever; a root that has expired must not vouch for anybody.
        let anchors: Vec<_> =
            self.roots.iter().filter(|root| root.validity.contains(now)).map(Root::borrow_anchor).collect();
        let id = verify_chain(chain, &anchors, now, purpose)?.id().clone();
        if *id.trust_domain() != self.trust_domain {
            return Err(VerifyError::TrustDomain { expected: self.trust_domain.clone(), presented: id });
        }
        Ok(id)
    }

    /// Prints the bundle as PEM after one line that names the trust domain.
    pub fn to_pem(&self) -> String {
        let mut text = format!("{HEADING}{}\n", self.trust_domain);
        for root in self.roots() {
            let block = pem::encode(&Pem::new("CERTIFICATE", root.to_vec()));
            write!(text, "# sha256 {}\n{block}", Fingerprint::of(root)).expect("a String takes every write");
        }
        text
    }

    /// Reads what [`to_pem`](Self::to_pem) prints.
    ///
    /// # Errors
    /// The heading is missing, or what follows is not a list of CA certificates in PEM.
    pub fn from_pem(text: &str) -> Result<Self, BundleError> {
        let (heading, rest) = text.split_once('\n').ok_or(BundleError::Heading)?;
        let trust_domain = heading.trim_end().strip_prefix(HEADING).ok_or(BundleError::Heading)?;
        let blocks = pem::parse_many(rest).map_err(|_| BundleError::Pem)?;
        if blocks.iter().any(|block| block.tag() != "CERTIFICATE") {
            return Err(BundleError::Pem);
        }
        Self::from_der(TrustDomain::new(trust_domain)?, blocks.into_iter().map(Pem::into_contents))
    }

    /// Writes `bundle.pem` in a directory that exists, atomically and readable by all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), FileError> {
        files::write_atomic(&directory.join(FILE), self.to_pem().as_bytes(), files::PUBLIC)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// The file is missing or is not a bundle.
    pub fn load(directory: &Path) -> Result<Self, BundleError> {
        let bytes = files::read_public(&directory.join(FILE))?;
        Self::from_pem(std::str::from_utf8(&bytes).map_err(|_| BundleError::Pem)?)
    }
}

impl Root {
    fn read(der: Vec<u8>) -> Option<Self> {
        let certificate = CertificateDer::from(der);
        let parsed = parse_certificate(&certificate)?;
        let may_sign = match parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        if !parsed.is_ca() || !may_sign {
            return None;
        }
        let validity = validity_of(&parsed)?;
        let anchor = anchor_from_trusted_cert(&certificate).ok()?.to_owned();
        let fingerprint = Fingerprint::of(&certificate);
        Some(Self { certificate, anchor, fingerprint, validity })
    }

    fn borrow_anchor(&self) -> TrustAnchor<'_> {
        borrow_anchor(&self.anchor)
    }
}

fn borrow_anchor<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|der| der.as_ref().into()),
    }
}

/// Two bundles are the same if they trust the same roots, in whatever order.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.roots.len() == other.roots.len()
            && self.fingerprints().all(|one| other.fingerprints().any(|another| one == another))
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.fingerprints().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedIssuer, ExtendedKeyUsagePurpose};

    use super::*;
    use crate::testing::{Forge, HOUR, ca_params, domain, id, new_key, noon, offset, uri};

    #[test]
    fn proves_an_identity_of_its_own_trust_domain_only() {
        let forge = Forge::new();
        let (leaf, _) = forge.leaf(|_| {});
        let chain = [leaf];
        for purpose in [Purpose::Client, Purpose::Server] {
            assert_eq!(forge.bundle().verify(&chain, noon(), purpose), Ok(id("payments")));
        }
        let foreign: SpiffeId = "spiffe://elsewhere/ns/shop/sa/payments".parse().unwrap();
        let (leaf, _) = forge.leaf(|leaf| leaf.subject_alt_names = vec![uri(foreign.as_str())]);
        assert_eq!(
            forge.bundle().verify(&[leaf], noon(), Purpose::Client),
            Err(VerifyError::TrustDomain { expected: domain(), presented: foreign })
        );
    }

    #[test]
    fn another_root_with_the_same_name_proves_nothing() {
        let (leaf, _) = Forge::new().leaf(|_| {});
        let error = Forge::new().bundle().verify(&[leaf], noon(), Purpose::Client).unwrap_err();
        assert_eq!(error, VerifyError::Signature, "the forges' roots share a name but no key");
        let stranger =
            CertifiedIssuer::self_signed(ca_params("x", noon() - HOUR, noon() + HOUR), new_key()).unwrap();
        let (leaf, _) = Forge { root: stranger }.leaf(|_| {});
        let error = Forge::new().bundle().verify(&[leaf], noon(), Purpose::Client).unwrap_err();
        assert_eq!(error, VerifyError::UnknownIssuer);
    }

    #[test]
    fn holds_from_the_first_second_to_the_last() {
        let forge = Forge::valid_between(noon() - 2 * HOUR, noon() + 2 * HOUR);
        let (leaf, _) = forge.leaf(|_| {});
        let verify = |now| forge.bundle().verify(std::slice::from_ref(&leaf), now, Purpose::Server);
        let second = std::time::Duration::from_secs(1);
        assert_eq!(
            verify(noon() - HOUR - second),
            Err(VerifyError::NotYetValid { not_before: noon() - HOUR })
        );
        assert!(verify(noon() - HOUR).is_ok());
        assert!(verify(noon() + HOUR).is_ok());
        assert_eq!(verify(noon() + HOUR + second), Err(VerifyError::Expired { not_after: noon() + HOUR }));
    }

    #[test]
    fn a_root_that_has_expired_vouches_for_nobody() {
        let forge = Forge::valid_between(noon() - 2 * HOUR, noon() - HOUR);
        let (leaf, _) = forge.leaf(|_| {});
        assert_eq!(forge.bundle().verify(&[leaf], noon(), Purpose::Client), Err(VerifyError::UnknownIssuer));
    }

    #[test]
    fn a_certificate_is_for_what_it_says() {
        let forge = Forge::new();
        let (server, _) =
            forge.leaf(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let verify = |leaf: &CertificateDer<'static>, purpose| {
            forge.bundle().verify(std::slice::from_ref(leaf), noon(), purpose)
        };
        assert!(verify(&server, Purpose::Server).is_ok());
        assert_eq!(verify(&server, Purpose::Client), Err(VerifyError::Purpose(Purpose::Client)));
        let (client, _) =
            forge.leaf(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(verify(&client, Purpose::Server), Err(VerifyError::Purpose(Purpose::Server)));
    }

    #[test]
    fn a_workload_cannot_sign_for_another() {
        let forge = Forge::new();
        let (thief, key) = forge.leaf(|_| {});
        let thief_issuer = rcgen::Issuer::from_ca_cert_der(&thief, key).unwrap();
        let mut params = crate::testing::leaf_params("web");
        params.not_before = offset(noon() - HOUR);
        let stolen = params.signed_by(&new_key(), &thief_issuer).unwrap().der().clone();
        assert!(forge.bundle().verify(&[stolen, thief], noon(), Purpose::Client).is_err());
    }

    #[test]
    fn long_and_empty_chains_are_refused() {
        let forge = Forge::new();
        let (leaf, _) = forge.leaf(|_| {});
        assert_eq!(forge.bundle().verify(&[], noon(), Purpose::Client), Err(VerifyError::NoCertificate));
        let long = vec![leaf; 9];
        assert_eq!(forge.bundle().verify(&long, noon(), Purpose::Client), Err(VerifyError::ChainTooLong(9)));
    }

    #[test]
    fn roots_must_be_cas_and_few() {
        let forge = Forge::new();
        let (leaf, _) = forge.leaf(|_| {});
        let root = forge.root.der().to_vec();
        let make = |roots: Vec<Vec<u8>>| TrustBundle::from_der(domain(), roots);
        assert!(matches!(make(vec![]), Err(BundleError::Count(0))));
        assert!(matches!(make(vec![root.clone(), leaf.to_vec()]), Err(BundleError::NotACa(2))));
        assert!(matches!(make(vec![b"nonsense".to_vec()]), Err(BundleError::NotACa(1))));
        assert!(matches!(make(vec![root.clone(); MAX_ROOTS + 1]), Err(BundleError::Count(_))));
        assert_eq!(make(vec![root.clone(), root]).unwrap().roots().count(), 1);
    }

    #[test]
    fn survives_the_way_to_disk_and_back() {
        let (one, two) = (Forge::new(), Forge::new());
        let roots = || [one.root.der().to_vec(), two.root.der().to_vec()];
        let bundle = TrustBundle::from_der(domain(), roots()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        bundle.save(directory.path()).unwrap();
        assert_eq!(TrustBundle::load(directory.path()).unwrap(), bundle);
        let reversed = TrustBundle::from_der(domain(), roots().into_iter().rev()).unwrap();
        assert_eq!(reversed, bundle, "order does not matter");
        assert_ne!(one.bundle(), bundle);
        for bad in [
            "",
            "x",
            "# trust bundle of spiffe://A\n",
            "# trust bundle of spiffe://a\n",
            "# trust bundle of spiffe://a\nx",
        ] {
            assert!(TrustBundle::from_pem(bad).is_err(), "{bad:?} was taken");
        }
    }
}
