//! What a certificate must be to prove a workload's identity.
//!
//! This reads a certificate that anybody may have made. It says who the certificate names, not that the name is
//! true: that takes the chain to a root, which [`TrustBundle::verify`](crate::TrustBundle::verify) follows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::validity::Validity;

/// The largest certificate that is looked at.
const MAX_BYTES: usize = 16 << 10;

/// What a leaf certificate says, if it has the shape of an X.509-SVID.
///
/// That is: version 3; exactly one URI among its alternative names, which is an identity of a mesh; no CA flag;
/// key usage with digitalSignature and neither keyCertSign nor cRLSign; an extended key usage
/// ([X509-SVID §2 to §4]).
///
/// [X509-SVID §2 to §4]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    id: SpiffeId,
    validity: Validity,
}

/// Why a certificate cannot prove a workload's identity, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// It is not one X.509 version 3 certificate in DER, of at most 16 KiB.
    #[error("it is not an X.509 version 3 certificate in DER")]
    Malformed,
    /// It names no identity.
    #[error("it has no URI among its alternative names")]
    NoUri,
    /// It names more than one, and nothing says which is meant.
    #[error("it has {0} URIs among its alternative names, where an identity is exactly one")]
    SeveralUris(usize),
    /// Its URI is not an identity of a mesh.
    #[error("its URI is no identity")]
    Uri(#[source] SpiffeIdError),
    /// It is a CA's certificate.
    #[error("it is the certificate of a CA, not of a workload")]
    Ca,
    /// Its key may not sign handshakes, or may sign certificates.
    #[error("its key usage must include digitalSignature and neither keyCertSign nor cRLSign")]
    KeyUsage,
    /// It does not say what it is for, which RFC 5280 reads as: for everything.
    #[error("it has no extended key usage; a mesh's CA always writes it")]
    NoPurpose,
}

impl Leaf {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// Whatever keeps it from being an X.509-SVID. Whether it is valid now, and who signed it, is not looked at.
    pub fn read(der: &[u8]) -> Result<Self, LeafError> {
        let certificate = parse_certificate(der).ok_or(LeafError::Malformed)?;
        let validity = validity_of(&certificate).ok_or(LeafError::Malformed)?;
        check_key_use(&certificate)?;
        Ok(Self { id: the_one_identity(&certificate)?, validity })
    }

    /// The identity that the certificate names.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The first second in which the certificate holds.
    pub fn not_before(&self) -> SystemTime {
        self.validity.not_before
    }

    /// The last second in which the certificate holds.
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }
}

fn the_one_identity(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafError::Malformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    the_one_uri(names)?.parse().map_err(LeafError::Uri)
}

/// Finds the URI among alternative names. A URI that is not even text counts, so that it cannot hide a second one.
pub(crate) fn the_one_uri<'a>(names: &[GeneralName<'a>]) -> Result<&'a str, LeafError> {
    let mut uri = None;
    let mut count = 0;
    for name in names {
        match name {
            GeneralName::URI(text) => (uri, count) = (Some(*text), count + 1),
            GeneralName::Invalid(..) => return Err(LeafError::Malformed),
            _ => {}
        }
    }
    match (uri, count) {
        (Some(uri), 1) => Ok(uri),
        (_, 0) => Err(LeafError::NoUri),
        _ => Err(LeafError::SeveralUris(count)),
    }
}

fn check_key_use(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let constraints = certificate.basic_constraints().map_err(|_| LeafError::Malformed)?;
    if constraints.is_some_and(|extension| extension.value.ca) {
        return Err(LeafError::Ca);
    }
    let usage = certificate.key_usage().map_err(|_| LeafError::Malformed)?.ok_or(LeafError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(LeafError::KeyUsage);
    }
    match certificate.extended_key_usage() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(LeafError::NoPurpose),
        Err(_) => Err(LeafError::Malformed),
    }
}

/// Parses one version 3 certificate that fills its bytes to the end.
pub(crate) fn parse_certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    if der.len() > MAX_BYTES {
        return None;
    }
    match parse_x509_certificate(der) {
        Ok((rest, certificate)) if rest.is_empty() && certificate.version() == X509Version::V3 => {
            Some(certificate)
        }
        _ => None,
    }
}

pub(crate) fn validity_of(certificate: &X509Certificate<'_>) -> Option<Validity> {
    let validity = certificate.validity();
    let not_before = system_time(&validity.not_before)?;
    let not_after = system_time(&validity.not_after)?;
    Some(Validity { not_before, not_after })
}

fn system_time(time: &ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::string::Ia5String;
    use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyUsagePurpose, SanType};

    use super::*;
    use crate::testing::{Forge, HOUR, id, noon, uri};

    fn read(spoil: impl FnOnce(&mut rcgen::CertificateParams)) -> Result<Leaf, LeafError> {
        Leaf::read(&Forge::new().leaf(spoil).0)
    }

    #[test]
    fn a_right_leaf_names_its_identity_and_its_times() {
        let leaf = read(|_| {}).unwrap();
        assert_eq!(*leaf.id(), id("payments"));
        assert_eq!((leaf.not_before(), leaf.not_after()), (noon() - HOUR, noon() + HOUR));
    }

    #[test]
    fn exactly_one_uri_names_the_identity() {
        assert_eq!(read(|leaf| leaf.subject_alt_names.clear()), Err(LeafError::NoUri));
        let dns = SanType::DnsName(Ia5String::try_from("payments.shop").unwrap());
        assert_eq!(read(|leaf| leaf.subject_alt_names = vec![dns.clone()]), Err(LeafError::NoUri));
        assert_eq!(
            read(|leaf| leaf.subject_alt_names.push(uri(id("web").as_str()))),
            Err(LeafError::SeveralUris(2))
        );
        assert_eq!(
            read(|leaf| leaf.subject_alt_names.push(uri("https://example.com"))),
            Err(LeafError::SeveralUris(2)),
            "a URI of another scheme is a second name too"
        );
        assert!(read(|leaf| leaf.subject_alt_names.push(dns)).is_ok(), "other names do not matter");
    }

    #[test]
    fn two_lists_of_names_are_refused() {
        // The second extension, as bytes: SEQUENCE { [6] "spiffe://a/ns/b/sa/c" }.
        let name = b"spiffe://a/ns/b/sa/c";
        let mut content = vec![0x30, name.len() as u8 + 2, 0x86, name.len() as u8];
        content.extend_from_slice(name);
        let second = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        assert_eq!(read(|leaf| leaf.custom_extensions.push(second)), Err(LeafError::Malformed));
    }

    #[test]
    fn a_nul_ends_no_name() {
        for bad in [
            "spiffe://outrigger.local/ns/shop/sa/payments\0",
            "spiffe://outrigger.local\0/ns/shop/sa/payments",
        ] {
            let error = read(|leaf| leaf.subject_alt_names = vec![uri(bad)]).unwrap_err();
            assert!(matches!(error, LeafError::Uri(_)), "{bad:?}: {error:?}");
        }
    }

    #[test]
    fn names_that_are_no_text_are_refused() {
        let content = vec![0x30, 0x04, 0x86, 0x02, 0xff, 0xfe];
        let bad = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        let result = read(|leaf| {
            leaf.subject_alt_names.clear();
            leaf.custom_extensions.push(bad);
        });
        assert_eq!(result, Err(LeafError::Malformed));
    }

    #[test]
    fn a_ca_is_no_workload() {
        let ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(read(|leaf| leaf.is_ca = ca), Err(LeafError::Ca));
        for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
            assert_eq!(read(|leaf| leaf.key_usages.push(usage)), Err(LeafError::KeyUsage));
        }
        assert_eq!(read(|leaf| leaf.key_usages.clear()), Err(LeafError::KeyUsage));
        let agreement = vec![KeyUsagePurpose::KeyAgreement];
        assert_eq!(read(|leaf| leaf.key_usages = agreement), Err(LeafError::KeyUsage));
        assert_eq!(read(|leaf| leaf.extended_key_usages.clear()), Err(LeafError::NoPurpose));
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let (leaf, _) = Forge::new().leaf(|_| {});
        let mut longer = leaf.to_vec();
        longer.push(0);
        assert_eq!(Leaf::read(&longer), Err(LeafError::Malformed));
        assert_eq!(Leaf::read(&leaf[..leaf.len() - 1]), Err(LeafError::Malformed));
        assert_eq!(Leaf::read(&vec![0x30; MAX_BYTES + 1]), Err(LeafError::Malformed));
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(position in 0usize..600, bits in 1u8.., cut in 0usize..700) {
            thread_local!(static LEAF: Vec<u8> = Forge::new().leaf(|_| {}).0.to_vec());
            let mut leaf = LEAF.with(Clone::clone);
            let length = leaf.len();
            leaf[position % length] ^= bits;
            leaf.truncate(cut);
            let _ = Leaf::read(&leaf);
        }
    }
}
