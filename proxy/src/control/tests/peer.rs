//! A control plane whose every word the test chooses: the real contract over real TLS, with a real CA.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_api::v1;
use outrigger_api::v1::control_message::Update;
use outrigger_api::v1::identity_server::{Identity, IdentityServer};
use outrigger_api::v1::mesh_server::{Mesh, MeshServer};
use outrigger_api::v1::proxy_message::Message;
use outrigger_certs::tls::{self, ClientAuth};
use outrigger_certs::{Authority, AuthoritySettings, JoinToken, SpiffeId, Svid, SystemClock, TrustDomain};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

/// Long enough for a loaded machine, short enough for a person.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The running server. Its port stays the same through [`Peer::stop`] and [`Peer::restart`].
pub(crate) struct Peer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) address: SocketAddr,
    served: Arc<Served>,
    sessions: tokio::sync::Mutex<mpsc::Receiver<Session>>,
    _acceptor: JoinSet<()>,
}

/// What the connections share.
struct Served {
    authority: Arc<Authority>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    tokens: Mutex<HashMap<[u8; 32], SpiffeId>>,
    issued: AtomicUsize,
    renewed: AtomicUsize,
    opened: mpsc::Sender<Session>,
    connections: Mutex<Vec<AbortHandle>>,
}

/// One stream, from the control plane's end.
pub(crate) struct Session {
    pub(crate) identity: SpiffeId,
    incoming: Streaming<v1::ProxyMessage>,
    outgoing: mpsc::Sender<Result<v1::ControlMessage, Status>>,
    nonce: u64,
}

pub(crate) fn authority(directory: &Path, svid_ttl: Duration) -> Arc<Authority> {
    let settings = AuthoritySettings {
        svid_ttl,
        ..AuthoritySettings::new(TrustDomain::new("outrigger.local").unwrap())
    };
    Arc::new(Authority::open(directory, settings, Arc::new(SystemClock)).unwrap())
}

impl Peer {
    pub(crate) async fn start(directory: &Path, svid_ttl: Duration) -> Self {
        let authority = authority(&directory.join("authority"), svid_ttl);
        let svid = authority.server_svid().unwrap();
        Self::start_as(authority, &svid).await
    }

    /// Serves as whoever `svid` says.
    pub(crate) async fn start_as(authority: Arc<Authority>, svid: &Svid) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, sessions) = mpsc::channel(16);
        let served = Arc::new(Served {
            tls: Mutex::new(None),
            authority: authority.clone(),
            tokens: Mutex::default(),
            issued: AtomicUsize::new(0),
            renewed: AtomicUsize::new(0),
            opened,
            connections: Mutex::default(),
        });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, served.clone()));
        let peer = Self {
            authority,
            address,
            served,
            sessions: tokio::sync::Mutex::new(sessions),
            _acceptor: acceptor,
        };
        peer.serve_as(svid);
        peer
    }

    fn serve_as(&self, svid: &Svid) {
        let config = tls::server_config(
            svid,
            &self.authority.bundle(),
            &[b"h2"],
            ClientAuth::Optional,
            Arc::new(SystemClock),
        );
        *self.served.tls.lock().unwrap() = Some(config);
    }

    /// Drops every connection and takes no new one.
    pub(crate) fn stop(&self) {
        *self.served.tls.lock().unwrap() = None;
        self.cut();
    }

    /// Drops every connection.
    pub(crate) fn cut(&self) {
        for connection in self.served.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Serves again, with the roots of the moment.
    pub(crate) fn restart(&self) {
        self.serve_as(&self.authority.server_svid().unwrap());
    }

    /// A token for `spiffe://outrigger.local/ns/shop/sa/{account}`.
    pub(crate) fn token(&self, account: &str) -> String {
        let token = JoinToken::generate(self.authority.root_fingerprint()).unwrap();
        let id = SpiffeId::new(self.authority.trust_domain(), "shop", account).unwrap();
        self.served.tokens.lock().unwrap().insert(token.secret_hash(), id);
        token.to_string()
    }

    /// The next stream that a proxy opens.
    pub(crate) async fn session(&self) -> Session {
        let mut sessions = self.sessions.lock().await;
        timeout(PATIENCE, sessions.recv()).await.expect("no proxy opened a stream in time").unwrap()
    }

    /// Certificates given out for a token, and for an older certificate.
    pub(crate) fn issued(&self) -> (usize, usize) {
        (self.served.issued.load(Ordering::SeqCst), self.served.renewed.load(Ordering::SeqCst))
    }

    pub(crate) fn bundle(&self) -> v1::TrustBundle {
        bundle_of(&self.authority)
    }
}

fn bundle_of(authority: &Authority) -> v1::TrustBundle {
    let bundle = authority.bundle();
    v1::TrustBundle { trust_domain: bundle.trust_domain().to_string(), roots: bundle.to_der() }
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let config = served.tls.lock().unwrap().clone();
        // Down: the connection is closed without a word.
        let Some(config) = config else { continue };
        let handle = connections.spawn(serve(stream, TlsAcceptor::from(config), served.clone()));
        served.connections.lock().unwrap().push(handle);
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, served: Arc<Served>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let identity = tls::peer_identity(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(identity.clone());
        let served = served.clone();
        async move {
            if request.uri().path().starts_with("/outrigger.v1.Mesh/") {
                MeshServer::from_arc(served).call(request).await
            } else {
                IdentityServer::from_arc(served).call(request).await
            }
        }
    });
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn identity_of<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let identity = request.extensions().get::<Option<SpiffeId>>().cloned().flatten();
    identity.ok_or_else(|| Status::unauthenticated("no certificate"))
}

#[tonic::async_trait]
impl Identity for Served {
    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let token = request.get_ref().join_token.clone();
        let id = if token.is_empty() {
            self.renewed.fetch_add(1, Ordering::SeqCst);
            identity_of(&request)?
        } else {
            let token: JoinToken = token.parse().map_err(|_| Status::invalid_argument("no token"))?;
            let known = self.tokens.lock().unwrap().get(&token.secret_hash()).cloned();
            let id = known.ok_or_else(|| Status::unauthenticated("the join token is not known"))?;
            self.issued.fetch_add(1, Ordering::SeqCst);
            id
        };
        let issued = self
            .authority
            .sign(&request.get_ref().csr_der, &id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(v1::IssueResponse {
            certificate_chain: issued.to_der(),
            bundle: Some(bundle_of(&self.authority)),
        }))
    }
}

#[tonic::async_trait]
impl Mesh for Served {
    type ConnectStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let identity = identity_of(&request)?;
        let (outgoing, updates) = mpsc::channel(64);
        let session = Session { identity, incoming: request.into_inner(), outgoing, nonce: 0 };
        self.opened.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(updates)))
    }
}

impl Session {
    /// The next thing that the proxy says, load reports and health left out.
    pub(crate) async fn hear(&mut self) -> Message {
        loop {
            match self.hear_all().await.expect("the proxy ended the stream") {
                Message::Load(_) | Message::Health(_) => {}
                message => return message,
            }
        }
    }

    /// The next thing that the proxy says; `None` if it ended the stream.
    pub(crate) async fn hear_all(&mut self) -> Option<Message> {
        let message =
            timeout(PATIENCE, self.incoming.message()).await.expect("the proxy said nothing in time");
        message.ok().flatten().and_then(|message| message.message)
    }

    pub(crate) async fn hello(&mut self) -> v1::Hello {
        match self.hear().await {
            Message::Hello(hello) => hello,
            other => panic!("the first message is {other:?}"),
        }
    }

    /// The names that the next subscription asks for, sorted. Acknowledgements on the way are passed over.
    pub(crate) async fn subscribed(&mut self) -> Vec<String> {
        let subscribe = loop {
            match self.hear().await {
                Message::Subscribe(subscribe) => break subscribe,
                Message::Ack(_) => {}
                other => panic!("waiting for a subscription: {other:?}"),
            }
        };
        let mut names: Vec<String> = subscribe.destinations.into_iter().map(describe).collect();
        names.sort();
        names
    }

    /// Waits for the acknowledgement of `nonce` or a later one; subscriptions on the way are passed over.
    pub(crate) async fn acknowledged(&mut self, nonce: u64) {
        loop {
            match self.hear().await {
                Message::Ack(ack) if ack.nonce >= nonce => return,
                Message::Ack(_) | Message::Subscribe(_) => {}
                other => panic!("waiting for the acknowledgement of {nonce}: {other:?}"),
            }
        }
    }

    pub(crate) async fn refused(&mut self) -> v1::Nack {
        loop {
            match self.hear().await {
                Message::Nack(nack) => return nack,
                Message::Ack(_) | Message::Subscribe(_) => {}
                other => panic!("waiting for a refusal: {other:?}"),
            }
        }
    }

    /// Says it, and returns its number.
    pub(crate) async fn say(&mut self, update: Update) -> u64 {
        self.nonce += 1;
        self.outgoing.send(Ok(v1::ControlMessage { nonce: self.nonce, update: Some(update) })).await.unwrap();
        self.nonce
    }
}

pub(crate) fn describe(destination: v1::Destination) -> String {
    match destination.destination {
        Some(v1::destination::Destination::Service(name)) => format!("{}.{}", name.name, name.namespace),
        Some(v1::destination::Destination::Address(text) | v1::destination::Destination::Host(text)) => text,
        None => panic!("an empty destination"),
    }
}
