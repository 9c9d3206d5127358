//! A connection to the control plane: a name, its addresses, TCP, TLS, the right identity, HTTP/2.
//!
//! The control plane is known by its SPIFFE id and by nothing else: the name that was dialled may be an IP
//! address or point at several machines, and each of them is tried before an attempt counts as failed.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_certs::{SpiffeId, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;

/// What is sent as the server's name. Nothing is proved by it; it keeps the dialled name out of the clear.
const SERVER_NAME: &str = "control-plane.outrigger";
/// For one address to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);
/// For the name to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses tried of one name.
const MAX_ADDRESSES: usize = 16;
/// A peer that does not answer an HTTP/2 ping for so long, asked as often, is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name does not resolve. Check `--control-plane` and the resolver.
    #[error("cannot resolve {address:?}: {reason}")]
    Resolve {
        /// As given.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// No address led to a control plane. Each says why.
    #[error("cannot reach the control plane at {address}: {reasons}")]
    Unreachable {
        /// As given.
        address: String,
        /// One for each address tried, with the address where the one given is a name.
        reasons: String,
    },
}

/// Where the control plane is.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    /// HOST:PORT.
    address: Arc<str>,
}

/// An open connection, and whose it is.
#[derive(Debug)]
pub(crate) struct Connection {
    /// For a tonic client.
    pub(crate) channel: Http2,
    /// The far side, which is a control plane's.
    pub(crate) identity: SpiffeId,
    /// This end's address.
    pub(crate) local: IpAddr,
    /// Drives the connection; dropping it closes the connection.
    pub(crate) driver: JoinSet<()>,
}

impl Dialer {
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.into() }
    }

    /// The origin for a tonic client.
    pub(crate) fn origin() -> Uri {
        Uri::from_static("https://control-plane.outrigger")
    }

    /// Connects to the first address at which a control plane proves itself.
    pub(crate) async fn connect(&self, tls: &Arc<ClientConfig>) -> Result<Connection, DialError> {
        let mut reasons = Vec::new();
        for address in self.resolve().await? {
            match Box::pin(connect_to(address, tls.clone())).await {
                Ok(connection) => return Ok(connection),
                Err(reason) if address.to_string() == *self.address => reasons.push(reason),
                Err(reason) => reasons.push(format!("{address}: {reason}")),
            }
        }
        Err(DialError::Unreachable { address: self.address.to_string(), reasons: reasons.join("; ") })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let failed = |reason: String| DialError::Resolve { address: self.address.to_string(), reason };
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(&*self.address))
            .await
            .map_err(|_| failed(format!("no answer within {RESOLVE_TIMEOUT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(failed("the name has no address".to_owned())) } else { Ok(addresses) }
    }
}

async fn connect_to(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Connection, String> {
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| format!("no connection within {CONNECT_TIMEOUT:?}"))?
        .map_err(|error| error.to_string())?;
    // Updates and acknowledgements are small and each is waited for.
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let local = tcp.local_addr().map_err(|error| error.to_string())?.ip();
    let name = ServerName::try_from(SERVER_NAME).expect("the constant is a DNS name");
    let stream = timeout(TLS_TIMEOUT, TlsConnector::from(tls).connect(name, tcp))
        .await
        .map_err(|_| format!("no TLS handshake within {TLS_TIMEOUT:?}"))?
        .map_err(|error| match tls::verify_error(&error) {
            Some(reason) => format!("TLS: the certificate is refused: {reason}"),
            None => format!("TLS: {error}"),
        })?;
    let identity = control_plane_identity(&stream)?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("HTTP/2: {error}"))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the control plane ended");
        }
    });
    Ok(Connection { channel: Http2(sender), identity, local, driver })
}

/// Any workload's certificate passes the bundle; only one identity may tell a proxy what to do.
fn control_plane_identity(stream: &TlsStream<TcpStream>) -> Result<SpiffeId, String> {
    let certificates = stream.get_ref().1.peer_certificates();
    let presented = tls::peer_identity(certificates).ok_or("the certificate names no SPIFFE id")?;
    let expected = SpiffeId::control_plane(presented.trust_domain());
    if presented == expected {
        Ok(presented)
    } else {
        Err(format!("the certificate is that of {presented}, not of {expected}"))
    }
}

/// One HTTP/2 connection as tonic wants to see it.
#[derive(Debug, Clone)]
pub(crate) struct Http2(SendRequest<Body>);

impl tower::Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
