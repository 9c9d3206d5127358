//! What a workload sends to have its key certified, and what the CA will sign.
//!
//! A request is read, never copied: only the key and the identity leave this file, so nothing else that the
//! sender asks for can reach a certificate.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo as ParsedPublicKey, X509Version};

use crate::leaf::{LeafError, the_one_uri};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};

/// A request has about 300 bytes.
const MAX_BYTES: usize = 4 << 10;

/// A certificate signing request (RFC 2986) whose sender has proved that it holds the key.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    id: SpiffeId,
    public_key: SubjectPublicKeyInfo,
}

/// Why a signing request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is not one PKCS#10 request in DER, of at most 4 KiB.
    #[error("the signing request is not PKCS#10 in DER")]
    Malformed,
    /// The key is not on the curve that identities use.
    #[error("the key is not ECDSA P-256")]
    Key,
    /// The sender does not hold the key, or the request was changed on its way.
    #[error("the request is not signed by its own key with ECDSA and SHA-256")]
    Signature,
    /// Not exactly one alternative name, a URI.
    #[error("the request must have one alternative name, the URI of the identity, and has {0}")]
    Names(usize),
    /// The one name is not an identity of a mesh.
    #[error("the request's URI is no identity")]
    Uri(#[source] SpiffeIdError),
    /// It asks for a CA's certificate.
    #[error("the request asks for the certificate of a CA")]
    Ca,
    /// It asks for something that no identity is given.
    #[error("the request asks for an attribute or extension that identities do not have")]
    Unsupported,
}

impl SigningRequest {
    /// Reads a request in DER and checks its signature.
    ///
    /// # Errors
    /// The request is malformed, is not signed by its own key, has another key than P-256, or does not ask for
    /// exactly one identity and nothing more.
    pub fn read(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_BYTES {
            return Err(CsrError::Malformed);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        let info = &request.certification_request_info;
        if !rest.is_empty() || info.version != X509Version::V1 {
            return Err(CsrError::Malformed);
        }
        if !is_p256(&info.subject_pki) {
            return Err(CsrError::Key);
        }
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(CsrError::Signature);
        }
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        let id = requested_identity(&request)?;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Key)?;
        Ok(Self { id, public_key })
    }

    /// The identity that is asked for. That the sender may have it is for the caller to decide.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}

fn is_p256(key: &ParsedPublicKey<'_>) -> bool {
    // 0x04 and two coordinates: the uncompressed form is the only one that TLS 1.3 speaks.
    const POINT_BYTES: usize = 65;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256)
        && key.subject_public_key.data.len() == POINT_BYTES
        && key.subject_public_key.data[0] == 4
}

fn requested_identity(request: &X509CertificationRequest<'_>) -> Result<SpiffeId, CsrError> {
    let mut names: Option<&[GeneralName<'_>]> = None;
    for extension in requested_extensions(request)? {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(found) if names.is_none() => {
                names = Some(&found.general_names);
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => return Err(CsrError::Ca),
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(CsrError::Ca);
            }
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_) => {}
            _ => return Err(CsrError::Unsupported),
        }
    }
    let names = names.unwrap_or_default();
    if names.len() != 1 {
        return Err(CsrError::Names(names.len()));
    }
    let uri = the_one_uri(names).map_err(|error| match error {
        LeafError::Malformed => CsrError::Malformed,
        _ => CsrError::Names(0),
    })?;
    uri.parse().map_err(CsrError::Uri)
}

/// The extensions in the one attribute that a request may have. A second such attribute would be a second opinion.
fn requested_extensions<'r>(
    request: &'r X509CertificationRequest<'_>,
) -> Result<&'r [X509Extension<'r>], CsrError> {
    match request.certification_request_info.attributes() {
        [] => Ok(&[]),
        [only] => match only.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Ok(&requested.extensions),
            _ => Err(CsrError::Unsupported),
        },
        _ => Err(CsrError::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::string::Ia5String;
    use rcgen::{
        Attribute, BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose,
        PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
    };

    use super::*;
    use crate::svid::KeyRequest;
    use crate::testing::{id, leaf_params, new_key, uri};

    fn read(spoil: impl FnOnce(&mut CertificateParams)) -> Result<SpiffeId, CsrError> {
        let mut params = leaf_params("payments");
        spoil(&mut params);
        let csr = params.serialize_request(&new_key()).unwrap();
        SigningRequest::read(csr.der()).map(|request| request.id().clone())
    }

    #[test]
    fn our_own_requests_are_read() {
        let request = KeyRequest::generate(&id("payments")).unwrap();
        assert_eq!(*SigningRequest::read(request.csr_der()).unwrap().id(), id("payments"));
        assert_eq!(read(|_| {}), Ok(id("payments")), "what a workload may ask for besides is passed over");
    }

    #[test]
    fn exactly_one_name_is_asked_for() {
        assert_eq!(read(|csr| csr.subject_alt_names.clear()), Err(CsrError::Names(0)));
        assert_eq!(read(|csr| csr.subject_alt_names.push(uri(id("web").as_str()))), Err(CsrError::Names(2)));
        let dns = SanType::DnsName(Ia5String::try_from("payments").unwrap());
        assert_eq!(read(|csr| csr.subject_alt_names.push(dns.clone())), Err(CsrError::Names(2)));
        assert_eq!(read(|csr| csr.subject_alt_names = vec![dns]), Err(CsrError::Names(0)));
        let nul = "spiffe://outrigger.local/ns/shop/sa/payments\0";
        assert!(matches!(read(|csr| csr.subject_alt_names = vec![uri(nul)]), Err(CsrError::Uri(_))));
    }

    #[test]
    fn nothing_of_a_ca_is_asked_for() {
        let ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(read(|csr| csr.is_ca = ca), Err(CsrError::Ca));
        assert_eq!(read(|csr| csr.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err(CsrError::Ca));
        let constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0]);
        assert_eq!(read(|csr| csr.custom_extensions.push(constraints)), Err(CsrError::Unsupported));
        let unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        assert_eq!(read(|csr| csr.custom_extensions.push(unknown)), Err(CsrError::Unsupported));
    }

    #[test]
    fn attributes_beside_the_extensions_are_refused() {
        // A challenge password, which would be the old way to hand in a secret.
        let attribute = Attribute {
            oid: &[1, 2, 840, 113549, 1, 9, 7],
            values: vec![0x31, 0x04, 0x0c, 0x02, b'h', b'i'],
        };
        let csr =
            leaf_params("payments").serialize_request_with_attributes(&new_key(), vec![attribute]).unwrap();
        assert_eq!(SigningRequest::read(csr.der()).unwrap_err(), CsrError::Unsupported);
    }

    #[test]
    fn other_keys_than_p_256_are_refused() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let csr = leaf_params("payments").serialize_request(&key).unwrap();
            assert_eq!(SigningRequest::read(csr.der()).unwrap_err(), CsrError::Key);
        }
    }

    #[test]
    fn a_changed_request_is_refused() {
        let request = KeyRequest::generate(&id("payments")).unwrap();
        let der = request.csr_der();
        let at = der.windows(8).position(|window| window == b"payments").unwrap();
        let mut changed = der.to_vec();
        changed[at] = b'q';
        assert_eq!(SigningRequest::read(&changed).unwrap_err(), CsrError::Signature);
        let mut longer = der.to_vec();
        longer.push(0);
        assert_eq!(SigningRequest::read(&longer).unwrap_err(), CsrError::Malformed);
        assert_eq!(SigningRequest::read(&[0x30; MAX_BYTES + 1]).unwrap_err(), CsrError::Malformed);
        assert_eq!(SigningRequest::read(&[]).unwrap_err(), CsrError::Malformed);
    }

    proptest! {
        /// The parser takes wrong tags outside the signed part, which say nothing; the signed part is exact.
        #[test]
        fn no_changed_byte_changes_what_is_asked_for(position in 0usize..400, bits in 1u8..) {
            thread_local!(static CSR: Vec<u8> = KeyRequest::generate(&id("payments")).unwrap().csr_der().to_vec());
            let csr = CSR.with(Clone::clone);
            let mut changed = csr.clone();
            changed[position % csr.len()] ^= bits;
            if let Ok(read) = SigningRequest::read(&changed) {
                prop_assert_eq!(read.id(), &id("payments"));
                let unchanged = SigningRequest::read(&csr).unwrap();
                prop_assert_eq!(read.public_key(), unchanged.public_key());
            }
        }
    }
}
