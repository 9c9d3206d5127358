//! The rustls configurations with which both planes speak to each other: TLS 1.3 and nothing older.
//!
//! A connection is authenticated by the SPIFFE identities in the certificates, both ways, and by nothing else.
//! The server name that a client sends only routes; it is never compared with the certificate. One configuration
//! serves one identity and bundle for as long as both last: a renewed certificate or a new bundle makes a new
//! configuration, and with it an empty session cache, so that no session outlives what it was authenticated by.
//!
//! Which identity a peer should have is known to the caller: take [`peer_identity`] after the handshake and
//! compare it before the first byte of application data, or let [`client_config_expecting`] do it.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, ServerConfig, version};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::TrustBundle;
use crate::clock::Clock;
use crate::fingerprint::Fingerprint;
use crate::leaf::Leaf;
use crate::spiffe_id::SpiffeId;
use crate::svid::Svid;
use crate::validity::since_epoch;
use crate::verify::VerifyError;

mod sessions;
mod verifier;

use sessions::Sessions;
use verifier::{ClientVerifier, Expected, PinnedVerifier, ServerVerifier};

/// Sessions that a client or a server remembers for resumption, per configuration.
const SESSIONS: usize = 256;

/// Whether a server takes clients that send no certificate. One that is sent must be right in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate, no connection: what a workload's proxy does.
    Required,
    /// A client may come without, to ask for its first certificate: what the control plane does.
    Optional,
}

/// How a workload calls others: proves `svid` and takes any server whose identity `bundle` proves.
///
/// The caller must still compare [`peer_identity`] with who it meant to call.
pub fn client_config(
    svid: &Svid,
    bundle: &TrustBundle,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    mutual_client(svid, bundle, Expected::Anybody, alpn, clock)
}

/// As [`client_config`], and the handshake fails unless the server is `expected`.
pub fn client_config_expecting(
    svid: &Svid,
    bundle: &TrustBundle,
    expected: &SpiffeId,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    mutual_client(svid, bundle, Expected::Only(expected.clone()), alpn, clock)
}

fn mutual_client(
    svid: &Svid,
    bundle: &TrustBundle,
    expected: Expected,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    let verifier = ServerVerifier::new(bundle.clone(), expected);
    let mut config = ClientConfig::builder_with_details(provider(), time_provider(clock))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous() // rustls calls every verifier so that is not its own; see verifier.rs
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(config)
}

/// How a workload makes its first connection: it has no identity and no bundle yet, only the fingerprint of the
/// CA's root from its join token.
///
/// The server must send that root in its chain, the chain must lead to it, and the identity must be that of a
/// control plane. Nothing is remembered for resumption.
pub fn pinned_client_config(root: Fingerprint, alpn: &[&[u8]], clock: Arc<dyn Clock>) -> Arc<ClientConfig> {
    let verifier = PinnedVerifier::new(root);
    let mut config = ClientConfig::builder_with_details(provider(), time_provider(clock))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous() // as above
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// How a workload, or the control plane, is called: proves `svid` and takes clients whose identity `bundle` proves.
pub fn server_config(
    svid: &Svid,
    bundle: &TrustBundle,
    alpn: &[&[u8]],
    clients: ClientAuth,
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    let verifier = ClientVerifier::new(bundle.clone(), clients);
    let sessions = Sessions::new(SESSIONS, svid, Arc::clone(&clock));
    let mut config = ServerConfig::builder_with_details(provider(), time_provider(clock))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(sessions);
    // A mesh keeps its connections: a second ticket for a connection that stays open is never used.
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

/// The identity of a peer whose handshake one of the configurations above has completed.
///
/// Takes what `peer_certificates` of a rustls connection returns, also where the session was resumed. `None` is a
/// client that sent no certificate. The chain is not verified again.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<SpiffeId> {
    Leaf::read(certificates?.first()?).ok().map(|leaf| leaf.id().clone())
}

/// As [`peer_identity`], and until when the peer's certificate holds.
pub fn peer_leaf(certificates: Option<&[CertificateDer<'_>]>) -> Option<Leaf> {
    Leaf::read(certificates?.first()?).ok()
}

/// Whether a failed handshake was about who somebody is: a certificate that does not prove what it must, on either
/// side. Looks through [`io::Error`] and every source, so that it can be asked about a transport's own error.
pub fn is_identity_error(error: &(dyn Error + 'static)) -> bool {
    find_rustls_error(error).is_some_and(|error| match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => is_about_a_certificate(*alert),
        _ => false,
    })
}

/// Why this side refused the peer's certificate, if that is what happened.
pub fn verify_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a VerifyError> {
    match find_rustls_error(error)? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

fn find_rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error's source is the source of what it wraps, and skips what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What a peer answers with that has looked at this side's certificate (RFC 8446 §6.2).
fn is_about_a_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// AES-128 first, as its 128 bits are P-256's strength and it costs a third less than AES-256; key exchange first
/// with X25519MLKEM768, so that what is recorded today stays secret from tomorrow's quantum computer.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};

    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1],
        ..aws_lc_rs::default_provider()
    })
}

fn time_provider(clock: Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
    Arc::new(WallTime(clock))
}

#[derive(Debug)]
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_epoch(self.0.now())))
    }
}

fn refusal(error: VerifyError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
}

fn wall_time(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}

#[cfg(test)]
mod tests;
