//! A new connection to the proxy beside an endpoint: TCP, TLS 1.3, and proof that it is who was meant. Or, outside the
//! mesh, to the endpoint itself.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_api::ServiceName;
use outrigger_certs::{SpiffeId, tls};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::failure::{Failure, Side};
use crate::identity::TlsMaterial;
use crate::metrics::Metrics;
use crate::origination::Originator;
use crate::peer_name;
use crate::snapshot::{BackendPolicy, Endpoint, Expected, TcpKeepalive};
use crate::stream::Stream;
use crate::wide::Wide;

/// What the two proxies speak inside TLS, agreed by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// HTTP/2: requests of any version, multiplexed.
    Multiplexed,
    /// HTTP/1.1: one request at a time, or an upgrade.
    Exclusive,
    /// Bytes.
    Opaque,
}

/// What a worker proves to peers, and has proved by them.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// `None`: there is no identity at the moment.
    pub(crate) material: Option<Arc<TlsMaterial>>,
    pub(crate) originator: Rc<Originator>,
}

/// Connects to `endpoint`, for `service` on `port`.
///
/// # Errors
/// [`Failure::ConnectRefused`], [`Failure::ConnectTimeout`], [`Failure::TlsHandshake`], [`Failure::TlsIdentity`], or
/// outside the mesh [`Failure::UpstreamProtocol`]: in each case no byte of a request was sent.
pub(crate) async fn dial(
    credentials: &Credentials,
    endpoint: &Endpoint,
    service: &ServiceName,
    port: u16,
    transport: Transport,
    policy: &BackendPolicy,
) -> Result<Stream, Failure> {
    match &endpoint.identity {
        Expected::Workload(expected) => {
            let material = credentials.material.as_ref().ok_or(Failure::TlsHandshake)?;
            dial_workload(material, expected, endpoint, service, port, transport, policy).await
        }
        Expected::Anybody => open(endpoint, policy).await.map(Stream::from),
        Expected::Server(meant) => {
            Box::pin(credentials.originator.dial(endpoint, meant, transport, policy)).await
        }
    }
}

/// Opens a TCP connection to `endpoint`, as the policy says.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn open(endpoint: &Endpoint, policy: &BackendPolicy) -> Result<TcpStream, Failure> {
    let io = connect(endpoint.address, policy.connect_timeout).await?;
    if let Some(keepalive) = policy.tcp_keepalive {
        keep_alive(&io, keepalive);
    }
    Ok(io)
}

/// Connects to the proxy at `endpoint`, for `service` on `port`.
///
/// # Errors
/// [`Failure::ConnectRefused`], [`Failure::ConnectTimeout`], [`Failure::TlsHandshake`] or [`Failure::TlsIdentity`]:
/// in each case no byte of a request was sent.
async fn dial_workload(
    material: &TlsMaterial,
    expected: &SpiffeId,
    endpoint: &Endpoint,
    service: &ServiceName,
    port: u16,
    transport: Transport,
    policy: &BackendPolicy,
) -> Result<Stream, Failure> {
    let io = open(endpoint, policy).await?;
    let config = match transport {
        Transport::Multiplexed => &material.client_h2,
        Transport::Exclusive => &material.client_http1,
        Transport::Opaque => &material.client_tcp,
    };
    let name = peer_name::server_name(service, port);
    let handshake = TlsConnector::from(config.clone()).connect(name, Wide::from(io));
    let stream = match timeout(policy.tls_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(handshake_failure(&error, endpoint)),
        Err(_) => {
            tracing::warn!(endpoint = %endpoint.id, address = %endpoint.address, "TLS handshake took too long");
            return Err(Failure::TlsHandshake);
        }
    };
    let presented = tls::peer_identity(stream.get_ref().1.peer_certificates());
    check_identity(endpoint, expected, presented.as_ref())?;
    Ok(Stream::from(tokio_rustls::TlsStream::Client(stream)))
}

/// Has the operating system ask a silent peer whether it is still there.
fn keep_alive(io: &TcpStream, policy: TcpKeepalive) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(policy.time)
        .with_interval(policy.interval)
        .with_retries(policy.probes);
    if let Err(error) = socket2::SockRef::from(io).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "cannot keep a connection alive"); // it serves all the same
    }
}

/// Opens a TCP connection without Nagle's delay.
///
/// # Errors
/// [`Failure::ConnectRefused`] or [`Failure::ConnectTimeout`].
pub(crate) async fn connect(
    address: std::net::SocketAddr,
    patience: std::time::Duration,
) -> Result<TcpStream, Failure> {
    match timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(io)) => {
            let _ = io.set_nodelay(true); // an optimisation; its failure changes nothing
            Ok(io)
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "cannot connect");
            Err(Failure::ConnectRefused)
        }
        Err(_) => Err(Failure::ConnectTimeout),
    }
}

/// Counts a connection to a peer that was not to be had.
pub(crate) fn count_failure(metrics: &Metrics, failure: Failure) {
    metrics.connect_failed(Side::Outbound, failure);
    if matches!(failure, Failure::TlsHandshake | Failure::TlsIdentity) {
        metrics.tls_refused(Side::Outbound, failure);
    }
}

fn handshake_failure(error: &io::Error, endpoint: &Endpoint) -> Failure {
    let failure = if tls::is_identity_error(error) { Failure::TlsIdentity } else { Failure::TlsHandshake };
    tracing::warn!(
        error = failure.name(),
        endpoint = %endpoint.id,
        address = %endpoint.address,
        expected = %endpoint.identity,
        cause = %error,
        "TLS handshake with the endpoint failed"
    );
    failure
}

fn check_identity(
    endpoint: &Endpoint,
    expected: &SpiffeId,
    presented: Option<&SpiffeId>,
) -> Result<(), Failure> {
    if presented == Some(expected) {
        return Ok(());
    }
    tracing::warn!(
        error = Failure::TlsIdentity.name(),
        endpoint = %endpoint.id,
        address = %endpoint.address,
        %expected,
        presented = presented.map(tracing::field::display),
        "the endpoint is not who it should be"
    );
    Err(Failure::TlsIdentity)
}
