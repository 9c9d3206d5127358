//! The certificates that an authority makes, and the rules they follow.
//!
//! | | root | issuer | leaf |
//! |---|---|---|---|
//! | basic constraints | CA | CA, no further CA below | not a CA |
//! | key usage (critical) | keyCertSign, cRLSign | keyCertSign, cRLSign | digitalSignature |
//! | extended key usage | none | none | serverAuth, clientAuth |
//! | alternative name | the trust domain | the trust domain | the identity, and nothing else |
//!
//! All keys are ECDSA P-256 and all serial numbers random ([X509-SVID §4], RFC 5280 §4.2).
//!
//! [X509-SVID §4]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#4-constraints-and-usage

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::csr::SigningRequest;
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

/// A key or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The library refused.
    #[error("cannot make a certificate")]
    Rcgen(#[from] rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness; see whether getrandom(2) works here")]
    NoRandomness,
    /// What was made is not what was wanted, which would be a defect.
    #[error("the certificate that was made cannot be used")]
    Unusable,
}

/// A CA's certificate with its key.
#[derive(Debug, Clone)]
pub(super) struct CertifiedKey {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: Arc<KeyPair>,
    pub(super) validity: Validity,
}

/// A root that was just made. `link` is the old root's certificate for it.
pub(super) struct NewRoot {
    pub(super) root: CertifiedKey,
    pub(super) link: Option<CertificateDer<'static>>,
}

impl CertifiedKey {
    /// Makes a root, and a certificate for it by the root that signs until now, if there is one that still can.
    pub(super) fn new_root(
        trust_domain: &TrustDomain,
        validity: Validity,
        old: Option<&CertifiedKey>,
    ) -> Result<NewRoot, SigningError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(trust_domain, "root", validity, BasicConstraints::Unconstrained)?;
        let certificate = params.self_signed(&key)?.der().clone();
        let link = match old {
            Some(old) => {
                params.serial_number = Some(random_serial()?);
                params.not_after = offset(validity.not_after.min(old.validity.not_after))?;
                params.use_authority_key_identifier_extension = true;
                Some(params.signed_by(&key, &old.as_issuer()?)?.der().clone())
            }
            None => None,
        };
        Ok(NewRoot { root: Self { certificate, key: Arc::new(key), validity }, link })
    }

    /// Makes an issuer that this root vouches for.
    pub(super) fn new_issuer(
        &self,
        trust_domain: &TrustDomain,
        validity: Validity,
    ) -> Result<Self, SigningError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(trust_domain, "issuer", validity, BasicConstraints::Constrained(0))?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.as_issuer()?)?.der().clone();
        Ok(Self { certificate, key: Arc::new(key), validity })
    }

    /// Certifies a workload's key.
    pub(super) fn sign_leaf(
        &self,
        request: &SigningRequest,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, SigningError> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(random_serial()?);
        params.not_before = offset(validity.not_before)?;
        params.not_after = offset(validity.not_after)?;
        // The identity is the one name. With no other in the subject, the alternative name becomes critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(request.id().as_str())?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(request.public_key(), &self.as_issuer()?)?.der().clone())
    }

    fn as_issuer(&self) -> Result<Issuer<'static, &KeyPair>, SigningError> {
        Ok(Issuer::from_ca_cert_der(&self.certificate, &*self.key)?)
    }
}

fn ca_params(
    trust_domain: &TrustDomain,
    role: &str,
    validity: Validity,
    constraints: BasicConstraints,
) -> Result<CertificateParams, SigningError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    params.not_before = offset(validity.not_before)?;
    params.not_after = offset(validity.not_after)?;
    // Every CA has a name of its own: verifiers look issuers up by name, and two roots live side by side.
    let tail: String = serial.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Outrigger");
    params.distinguished_name.push(DnType::CommonName, format!("Outrigger mesh {role} {tail}"));
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A positive number of 16 bytes, none of which can be guessed (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber, SigningError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SigningError::NoRandomness)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn offset(time: std::time::SystemTime) -> Result<OffsetDateTime, SigningError> {
    let seconds =
        i64::try_from(crate::validity::since_epoch(time).as_secs()).map_err(|_| SigningError::Unusable)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| SigningError::Unusable)
}
