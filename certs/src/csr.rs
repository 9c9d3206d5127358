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
