//! For tests only: a CA that signs whatever it is told to, right or wrong.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::spiffe_id::SpiffeId;
use crate::svid::Svid;
use crate::trust_domain::TrustDomain;

/// A moment that certificates are made around.
pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("outrigger.local").unwrap()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "shop", account).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// A root that signs leaves, and what a right leaf looks like before a test spoils it.
pub(crate) struct Forge {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
}

impl Forge {
    pub(crate) fn new() -> Self {
        Self::valid_between(noon() - HOUR, noon() + HOUR)
    }

    pub(crate) fn valid_between(not_before: SystemTime, not_after: SystemTime) -> Self {
        Self {
            root: CertifiedIssuer::self_signed(ca_params("root", not_before, not_after), new_key()).unwrap(),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(domain(), [self.root.der().to_vec()]).unwrap()
    }

    /// Signs a leaf after `spoil` has changed what a right one says.
    pub(crate) fn leaf(
        &self,
        spoil: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let key = new_key();
        let mut params = leaf_params("payments");
        spoil(&mut params);
        (params.signed_by(&key, &self.root).unwrap().der().clone(), key)
    }

    pub(crate) fn svid(&self, account: &str) -> Svid {
        let (leaf, key) = self.leaf(|params| params.subject_alt_names = vec![uri(id(account).as_str())]);
        Svid::new(vec![leaf], key.serialize_der().into()).unwrap()
    }
}

pub(crate) fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn offset(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time)
}

pub(crate) fn ca_params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = offset(not_before);
    params.not_after = offset(not_after);
    params
}

pub(crate) fn leaf_params(account: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id(account).as_str())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = offset(noon() - HOUR);
    params.not_after = offset(noon() + HOUR);
    params
}

/// The first error of a handshake on either side, as seen there.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    Client(rustls::Error),
    Server(rustls::Error),
}

/// Carries bytes between two connections in memory until neither has anything to say, and one round more so that a
/// refusal after the client's part is seen too.
pub(crate) fn shake_hands(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), HandshakeError> {
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut input: &[u8] = &wire;
        while !input.is_empty() {
            server.read_tls(&mut input).unwrap();
            server.process_new_packets().map_err(HandshakeError::Server)?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut input: &[u8] = &wire;
        while !input.is_empty() {
            client.read_tls(&mut input).unwrap();
            client.process_new_packets().map_err(HandshakeError::Client)?;
        }
    }
    Ok(())
}

/// An error as tokio-rustls hands it on.
pub(crate) fn as_io_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
