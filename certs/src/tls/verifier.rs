//! Who is at the other end: the certificate checks of the handshake.
//!
//! rustls's own verifiers compare host names, which identities do not have, so these replace them. They do what
//! [`TrustBundle::verify`] does and leave the handshake signature to rustls's public function, for the one
//! signature scheme that a P-256 identity can make.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::anchor_from_trusted_cert;

use crate::bundle::TrustBundle;
use crate::fingerprint::Fingerprint;
use crate::leaf::{parse_certificate, validity_of};
use crate::spiffe_id::SpiffeId;
use crate::tls::{ClientAuth, provider, refusal, wall_time};
use crate::verify::{Purpose, VerifyError, verify_chain};

/// Which servers a client takes.
#[derive(Debug)]
pub(super) enum Expected {
    /// Whoever the bundle proves; the caller compares after the handshake.
    Anybody,
    /// One identity.
    Only(SpiffeId),
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    bundle: TrustBundle,
    expected: Expected,
    signatures: Signatures,
}

impl ServerVerifier {
    pub(super) fn new(bundle: TrustBundle, expected: Expected) -> Self {
        Self { bundle, expected, signatures: Signatures::new() }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), VerifyError> {
        let presented = self.bundle.verify(chain, wall_time(now), Purpose::Server)?;
        match &self.expected {
            Expected::Only(expected) if *expected != presented => {
                Err(VerifyError::Identity { expected: expected.clone(), presented })
            }
            _ => Ok(()),
        }
    }
}

/// Takes a control plane whose chain leads to one root that is known by its fingerprint alone.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    root: Fingerprint,
    signatures: Signatures,
}

impl PinnedVerifier {
    pub(super) fn new(root: Fingerprint) -> Self {
        Self { root, signatures: Signatures::new() }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), VerifyError> {
        let now = wall_time(now);
        let root = chain
            .iter()
            .skip(1)
            .find(|certificate| Fingerprint::of(certificate) == self.root)
            .ok_or(VerifyError::PinnedRoot(self.root))?;
        let parsed = parse_certificate(root).filter(|root| root.is_ca()).ok_or(VerifyError::UnknownIssuer)?;
        let validity = validity_of(&parsed).ok_or(VerifyError::UnknownIssuer)?;
        if now < validity.not_before {
            return Err(VerifyError::NotYetValid { not_before: validity.not_before });
        }
        if !validity.contains(now) {
            return Err(VerifyError::Expired { not_after: validity.not_after });
        }
        let anchor = anchor_from_trusted_cert(root).map_err(VerifyError::Chain)?;
        let leaf = verify_chain(chain, &[anchor], now, Purpose::Server)?;
        let expected = SpiffeId::control_plane(leaf.id().trust_domain());
        if *leaf.id() != expected {
            return Err(VerifyError::Identity { expected, presented: leaf.id().clone() });
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct ClientVerifier {
    bundle: TrustBundle,
    clients: ClientAuth,
    signatures: Signatures,
}

impl ClientVerifier {
    pub(super) fn new(bundle: TrustBundle, clients: ClientAuth) -> Self {
        Self { bundle, clients, signatures: Signatures::new() }
    }
}

/// The proof that a peer holds its key. TLS 1.3 fixes the curve, so the one scheme also fixes the kind of key.
#[derive(Debug)]
struct Signatures(WebPkiSupportedAlgorithms);

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

impl Signatures {
    fn new() -> Self {
        Self(provider().signature_verification_algorithms)
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signed.scheme != SCHEME {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_tls13_signature(message, certificate, signed, &self.0)
    }
}

/// TLS 1.2 is not offered, so a signature in its manner can only be an error of the peer.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
}

fn chain<'a>(leaf: &CertificateDer<'a>, intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(intermediates).cloned().collect()
}

macro_rules! server_cert_verifier {
    ($verifier:ty) => {
        impl ServerCertVerifier for $verifier {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _server_name: &ServerName<'_>, // only routes; see the module
                _ocsp_response: &[u8],         // certificates live too short to be revoked
                now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                self.verify(&chain(leaf, intermediates), now).map_err(refusal)?;
                Ok(ServerCertVerified::assertion())
            }

            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _certificate: &CertificateDer<'_>,
                _signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                no_tls12()
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                self.signatures.verify(message, certificate, signed)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                vec![SCHEME]
            }
        }
    };
}

server_cert_verifier!(ServerVerifier);
server_cert_verifier!(PinnedVerifier);

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A workload has one certificate, so a hint could not change what it sends.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = chain(leaf, intermediates);
        self.bundle.verify(&chain, wall_time(now), Purpose::Client).map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures.verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}
