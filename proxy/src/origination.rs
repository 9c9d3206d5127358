//! TLS that the proxy begins towards a server outside the mesh, for callers that speak plain HTTP or TCP.
//!
//! The server proves its name by a certificate that leads to a root of the machine (or of `--outside-roots`), as it
//! would to a browser; this side proves nothing. TLS 1.2 is spoken where a server has nothing newer: the mesh cannot
//! choose what is outside.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_certs::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::alpn;
use crate::failure::Failure;
use crate::peer::{self, Transport};
use crate::snapshot::{BackendPolicy, Endpoint};
use crate::stream::Stream;
use crate::wide::Wide;

/// Sessions that are remembered for resumption, for each way of checking a certificate.
const SESSIONS: usize = 64;
/// Ways of checking a certificate that are remembered.
const MOST_CONFIGS: usize = 256;

/// The server that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginatedTls {
    /// Sent as the server name; the certificate must be for it.
    pub name: DnsName<'static>,
    /// Where there are any, the certificate must be for one of these instead.
    pub alt_names: Vec<DnsName<'static>>,
}

/// Why a file of roots is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It cannot be read as PEM.
    #[error("{path} cannot be read as PEM certificates")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate in it is no root.
    #[error("{path} holds a certificate that cannot be trusted as a root")]
    Root {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// There is none in it.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
}

/// The roots that servers outside are proved by. Clones share them; the machine's are read when first needed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roots {
    own: Arc<Vec<CertificateDer<'static>>>,
    all: Arc<OnceCell<Arc<RootCertStore>>>,
}

impl Roots {
    /// The machine's, and those in a PEM file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self, RootsError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let pem = |source| RootsError::Pem { path: path.to_owned(), source };
        let certificates = CertificateDer::pem_file_iter(path).map_err(pem)?;
        let own = certificates.collect::<Result<Vec<_>, _>>().map_err(pem)?;
        if own.is_empty() {
            return Err(RootsError::Empty(path.to_owned()));
        }
        let mut store = RootCertStore::empty();
        for certificate in &own {
            let added = store.add(certificate.clone());
            added.map_err(|source| RootsError::Root { path: path.to_owned(), source })?;
        }
        Ok(Self { own: own.into(), all: Arc::default() })
    }

    async fn get(&self) -> Arc<RootCertStore> {
        let load = || async {
            let own = self.own.clone();
            let loaded = spawn_blocking(move || load(&own)).await;
            loaded.unwrap_or_else(|_| Arc::new(RootCertStore::empty()))
        };
        self.all.get_or_init(load).await.clone()
    }
}

/// Blocks on the disk.
fn load(own: &[CertificateDer<'static>]) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some of the machine's root certificates cannot be read");
    }
    let (added, ignored) =
        store.add_parsable_certificates(system.certs.into_iter().chain(own.iter().cloned()));
    if store.is_empty() {
        tracing::error!("the machine has no root certificates, so that no server outside can be trusted");
    }
    tracing::debug!(added, ignored, "root certificates for servers outside the mesh");
    Arc::new(store)
}

/// What one way of checking a certificate needs, by what is spoken inside.
#[derive(Clone)]
struct Configs {
    h2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    opaque: Arc<ClientConfig>,
}

/// Begins TLS for one worker.
pub(crate) struct Originator {
    roots: Roots,
    configs: RefCell<HashMap<Vec<DnsName<'static>>, Configs>>,
}

impl Originator {
    pub(crate) fn new(roots: Roots) -> Rc<Self> {
        Rc::new(Self { roots, configs: RefCell::default() })
    }

    /// Connects to `endpoint`, which must prove that it is `meant`.
    ///
    /// # Errors
    /// As [`peer::dial`], and [`Failure::UpstreamProtocol`] where the server does not speak HTTP/2 and nothing else
    /// would do. No byte of a request was sent.
    pub(crate) async fn dial(
        &self,
        endpoint: &Endpoint,
        meant: &OriginatedTls,
        transport: Transport,
        policy: &BackendPolicy,
    ) -> Result<Stream, Failure> {
        let io = peer::open(endpoint, policy).await?;
        let configs = self.configs(meant).await.map_err(|error| failed(meant, endpoint, &error))?;
        let config = match transport {
            Transport::Multiplexed => configs.h2,
            Transport::Exclusive => configs.http1,
            Transport::Opaque => configs.opaque,
        };
        let name = ServerName::DnsName(meant.name.clone());
        let handshake = TlsConnector::from(config).connect(name, Wide::from(io));
        let stream = match timeout(policy.tls_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(meant, endpoint, &error)),
            Err(_) => return Err(failed(meant, endpoint, &io::Error::from(io::ErrorKind::TimedOut))),
        };
        if transport == Transport::Multiplexed && stream.get_ref().1.alpn_protocol() != Some(alpn::H2) {
            let address = endpoint.address;
            tracing::warn!(host = meant.name.as_ref(), %address, "the server outside does not speak HTTP/2");
            return Err(Failure::UpstreamProtocol);
        }
        Ok(Stream::from(tokio_rustls::TlsStream::Client(stream)))
    }

    async fn configs(&self, meant: &OriginatedTls) -> io::Result<Configs> {
        if let Some(known) = self.configs.borrow().get(&meant.alt_names) {
            return Ok(known.clone());
        }
        let made = configs(self.roots.get().await, &meant.alt_names).map_err(io::Error::other)?;
        let mut known = self.configs.borrow_mut();
        if known.len() >= MOST_CONFIGS {
            known.clear();
        }
        known.insert(meant.alt_names.clone(), made.clone());
        Ok(made)
    }
}

fn configs(roots: Arc<RootCertStore>, alt_names: &[DnsName<'static>]) -> Result<Configs, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = if alt_names.is_empty() {
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        // A server without trusted roots is refused here as well.
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let webpki = webpki.map_err(|error| rustls::Error::General(error.to_string()))?;
        let names = alt_names.iter().cloned().map(ServerName::DnsName).collect();
        builder
            .dangerous() // rustls calls every verifier so that is not its own
            .with_custom_certificate_verifier(Arc::new(AnyOf { webpki, names }))
            .with_no_client_auth()
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    let speaking = |protocols: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    };
    Ok(Configs { h2: speaking(&[alpn::H2]), http1: speaking(&[alpn::HTTP1]), opaque: speaking(&[]) })
}

/// The certificate must be for one of several names, whichever was sent as the server name.
#[derive(Debug)]
struct AnyOf {
    webpki: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for AnyOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut last = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        for name in &self.names {
            let verified =
                self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
            match verified {
                Ok(verified) => return Ok(verified),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn failed(meant: &OriginatedTls, endpoint: &Endpoint, error: &io::Error) -> Failure {
    let failure = if tls::is_identity_error(error) { Failure::TlsIdentity } else { Failure::TlsHandshake };
    tracing::warn!(
        error = failure.name(),
        host = meant.name.as_ref(),
        address = %endpoint.address,
        cause = %error,
        "TLS with a server outside the mesh failed"
    );
    failure
}
