//! The proxy port: TCP, TLS 1.3, and gRPC on it.
//!
//! A client certificate is optional, for a proxy without one must be able to ask for its first; one that is sent
//! must be right. A connection without one is closed after half a minute, which is plenty for that.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_api::v1::identity_server::IdentityServer;
use outrigger_api::v1::mesh_server::MeshServer;
use outrigger_certs::{SpiffeId, tls};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::certificates::Certificates;
use crate::identity::Issuer;
use crate::push::Push;

/// Connections at most, handshakes included.
const MAX_CONNECTIONS: usize = 32_768;
/// Handshakes at a time. Many, because one that waits for a silent stranger costs little and holds up nobody.
const MAX_HANDSHAKES: usize = 4_096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The life of a connection without a client certificate.
const STRANGER_LIFE: Duration = Duration::from_secs(30);
/// A peer that does not answer a ping for so long, asked as often, is gone.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The wait after the system refused to accept, for example because it has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A load report of a thousand edges is the biggest message of a proxy.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// A signing request and a token.
const MAX_ISSUE_BYTES: usize = 32 << 10;
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// A proxy has one stream, and renews its certificate now and then.
const MAX_STREAMS: u32 = 16;
const MAX_PREMATURE_RESETS: usize = 32;

/// Serves proxies on `listener` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    push: Push,
    issuer: Issuer,
    stop: CancellationToken,
) {
    let (accepted, connections) = mpsc::channel(1);
    let handshakes = TaskTracker::new();
    let accepting = accept(listener, certificates, accepted, handshakes.clone(), stop.clone());
    let push = MeshServer::new(push).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let identity = IdentityServer::new(issuer).max_decoding_message_size(MAX_ISSUE_BYTES);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PREMATURE_RESETS))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(push)
        .add_service(identity)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.clone().cancelled_owned());
    let (served, ()) = tokio::join!(Box::pin(serving), accepting);
    if let Err(error) = served {
        tracing::error!(%error, "the proxy port is not served any more");
    }
    handshakes.close();
    handshakes.wait().await;
}

async fn accept(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    accepted: mpsc::Sender<io::Result<Connection>>,
    handshakes: TaskTracker,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shaking = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            let hand = shaking.clone().acquire_owned().await;
            (place, hand, listener.accept().await)
        };
        let (place, hand, connection) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let (Ok(place), Ok(hand)) = (place, hand) else { return }; // nobody closes them
        match connection {
            Ok((tcp, remote)) => {
                let (tls, accepted, stop) = (certificates.tls(), accepted.clone(), stop.clone());
                handshakes.spawn(async move {
                    let shaken = tokio::select! {
                        () = stop.cancelled() => return,
                        shaken = timeout(HANDSHAKE_TIMEOUT, handshake(tcp, remote, TlsAcceptor::from(tls), place)) => shaken,
                    };
                    drop(hand);
                    match shaken {
                        // The server is gone when this fails, and everything with it.
                        Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                        Ok(Err(error)) => tracing::warn!(%remote, %error, "a TLS handshake on the proxy port failed"),
                        Err(_) => tracing::warn!(%remote, "a TLS handshake on the proxy port took too long"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the proxy port cannot accept now");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    remote: SocketAddr,
    acceptor: TlsAcceptor,
    place: OwnedSemaphorePermit,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let peer = Peer {
        remote,
        identity: tls::peer_identity(certificates),
        chain: certificates.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect(),
    };
    let life = peer.identity.is_none().then(|| Box::pin(sleep(STRANGER_LIFE)));
    Ok(Connection { stream, peer, life, _place: place })
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    /// What its certificate says, which was valid when the connection was made.
    pub(crate) identity: Option<SpiffeId>,
    /// Leaf first.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

impl Peer {
    /// Who sent a request.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get()
    }
}

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Runs out for a peer that showed no certificate.
    life: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(life) = &mut self.life
            && life.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
