//! A program that is not of the mesh and tries to be served by a sidecar: without TLS, with TLS and no
//! certificate, and with a certificate that another authority signed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_certs::{
    Authority, AuthoritySettings, Clock, KeyRequest, SpiffeId, Svid, SystemClock, TrustDomain, tls,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::DemoError;

/// How long a stranger waits to be served.
const PATIENCE: Duration = Duration::from_secs(5);
/// What every stranger asks for.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";
/// The name by which a sidecar knows which of its ports is meant.
const SERVER_NAME: &str = "p80.web.shop.outrigger";

/// How one attempt went.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// What the stranger brought.
    pub(crate) with: &'static str,
    /// Whether it got no answer from the application.
    pub(crate) refused: bool,
    /// What it saw.
    pub(crate) seen: String,
}

/// Tries everything against the sidecar at the address.
///
/// # Errors
/// The stranger's own certificate cannot be made; being refused is no error.
pub(crate) async fn try_everything(sidecar: SocketAddr, directory: &Path) -> Result<Vec<Attempt>, DemoError> {
    let none = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let attempts = vec![
        attempt("no TLS", plain(sidecar).await),
        attempt("TLS and no certificate", encrypted(sidecar, none).await),
        attempt("a certificate of another authority", encrypted(sidecar, forged(directory)?).await),
    ];
    Ok(attempts)
}

/// An answer of the application is what must not happen; an answer of the proxy that refuses is a refusal.
fn attempt(with: &'static str, outcome: Result<String, String>) -> Attempt {
    match outcome {
        Ok(answer) => {
            Attempt { with, refused: !answer.starts_with("HTTP/1.1 200"), seen: first_line(&answer) }
        }
        Err(reason) => Attempt { with, refused: true, seen: reason },
    }
}

fn first_line(answer: &str) -> String {
    let error = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("outrigger-error:"));
    error.or_else(|| answer.lines().next()).unwrap_or_default().to_owned()
}

async fn plain(sidecar: SocketAddr) -> Result<String, String> {
    let stream = TcpStream::connect(sidecar).await.map_err(|error| error.to_string())?;
    ask(stream).await
}

async fn encrypted(sidecar: SocketAddr, mut config: ClientConfig) -> Result<String, String> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(sidecar).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| error.to_string())?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = timeout(PATIENCE, handshake).await.map_err(|_| "no handshake in time".to_owned())?;
    ask(stream.map_err(|error| error.to_string())?).await
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
    let exchange = async {
        stream.write_all(REQUEST).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        (&mut stream).take(64 << 10).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) if answer.is_empty() => Err("the connection was closed".to_owned()),
        Ok(Ok(answer)) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// A certificate with a name that the mesh knows, signed by an authority that it does not know.
fn forged(directory: &Path) -> Result<ClientConfig, DemoError> {
    let failed =
        |error: &dyn std::error::Error| DemoError::Unexpected(format!("the stranger's certificate: {error}"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let domain: TrustDomain = "outrigger.local".parse().map_err(|e| failed(&e))?;
    let id = SpiffeId::new(&domain, "shop", "gateway").map_err(|e| failed(&e))?;
    let settings = AuthoritySettings::new(domain);
    let other =
        Authority::open(&directory.join("stranger"), settings, clock.clone()).map_err(|e| failed(&e))?;
    let request = KeyRequest::generate(&id).map_err(|e| failed(&e))?;
    let issued = other.sign(request.csr_der(), &id).map_err(|e| failed(&e))?;
    let svid: Svid = request
        .into_svid(issued.chain.iter().map(|der| der.to_vec()).collect(), &other.bundle(), clock.now())
        .map_err(|e| failed(&e))?;
    let resolver = tls::client_config(&svid, &other.bundle(), &[], clock).client_auth_cert_resolver.clone();
    let config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_cert_resolver(resolver);
    Ok(config)
}

/// Believes any server: the stranger wants in and does not care who answers.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_the_application_is_not_a_refusal() {
        assert!(!attempt("x", Ok("HTTP/1.1 200 OK\r\n\r\n".to_owned())).refused);
        let denied = attempt(
            "x",
            Ok("HTTP/1.1 403 Forbidden\r\noutrigger-error: denied; by=inbound\r\n\r\n".to_owned()),
        );
        assert!(denied.refused);
        assert_eq!(denied.seen, "outrigger-error: denied; by=inbound");
        assert!(attempt("x", Err("reset".to_owned())).refused);
    }
}
