//! Real applications for the mesh to stand beside: they listen on a free port and record what reaches them.

pub mod grpc;
pub mod http;
pub mod tcp;
pub mod websocket;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, Method, Uri, Version};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::port::Port;

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What to do with each connection; cheap to clone, started any number of times.
#[derive(Clone)]
pub struct App(Arc<dyn Fn(Accepted) -> Served + Send + Sync>);

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("App")
    }
}

/// One connection to an application.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Where to note what happens on it.
    pub record: Arc<Record>,
}

impl App {
    /// An application that does this with each connection.
    pub fn new<F, Fut>(serve: F) -> Self
    where
        F: Fn(Accepted) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |accepted| Box::pin(serve(accepted))))
    }

    /// Starts an instance on a free port.
    pub async fn start(&self, name: &str, on: &Handle) -> RunningApp {
        RunningApp::start(self.clone(), name, on).await
    }
}

/// What has reached one instance of an application.
#[derive(Debug)]
pub struct Record {
    /// `SERVICE-NUMBER`, as answers carry it in `x-instance`.
    pub name: String,
    seen: Mutex<Vec<Arc<Seen>>>,
    attempts: AtomicU64,
    connections: AtomicU64,
    open: AtomicUsize,
}

impl Record {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seen: Mutex::default(),
            attempts: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    /// Takes the next attempt's number, from 0.
    pub fn begin(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::SeqCst)
    }

    /// Keeps the request.
    pub fn keep(&self, seen: Arc<Seen>) {
        self.seen.lock().expect("no holder panics").push(seen);
    }

    /// Requests that arrived, with a complete head at least.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::SeqCst)
    }

    /// Requests whose body arrived in full, in that order.
    pub fn seen(&self) -> Vec<Arc<Seen>> {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// Connections ever accepted, health checks included.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections now open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// One request as an application saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which instance, as in [`Record::name`].
    pub instance: String,
    /// The instance's count of requests before this one.
    pub number: u64,
    /// When its head arrived.
    pub at: Instant,
    /// As on the wire.
    pub method: Method,
    /// As on the wire.
    pub uri: Uri,
    /// As on the wire.
    pub version: Version,
    /// As on the wire.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What followed the body.
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// The header as text, empty where absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// An instance that listens. Dropping it ends it as the death of its process would.
#[derive(Debug)]
pub struct RunningApp {
    /// Where it listens.
    pub address: SocketAddr,
    /// What has reached it.
    pub record: Arc<Record>,
    app: App,
    on: Handle,
    listening: Option<AbortHandle>,
    _port: Port,
}

impl RunningApp {
    async fn start(app: App, name: &str, on: &Handle) -> Self {
        let record = Arc::new(Record::new(name));
        let port = Port::reserve();
        let mut running =
            Self { address: port.address, record, app, on: on.clone(), listening: None, _port: port };
        running.listen().await;
        running
    }

    async fn listen(&mut self) {
        let (app, record, address) = (self.app.clone(), Arc::clone(&self.record), self.address);
        let (tell, bound) = tokio::sync::oneshot::channel();
        let task = self.on.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("a port on loopback can be bound");
            let _ = tell.send(());
            accept(listener, app, record).await;
        });
        self.listening = Some(task.abort_handle());
        bound.await.expect("the application listens");
    }

    /// Closes the listener and every connection at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(task) = self.listening.take() {
            task.abort();
        }
    }

    /// Listens again on the same port.
    pub async fn revive(&mut self) {
        self.kill();
        self.listen().await;
    }
}

impl Drop for RunningApp {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn accept(listener: TcpListener, app: App, record: Arc<Record>) {
    // Owned by this task: aborting it aborts every connection.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        // Latency is measured through these applications; Nagle's algorithm would show up in it.
        let _ = stream.set_nodelay(true);
        record.connections.fetch_add(1, Ordering::SeqCst);
        let open = Open::new(Arc::clone(&record));
        let served = (app.0)(Accepted { stream, record: Arc::clone(&record) });
        connections.spawn(async move {
            let _open = open;
            served.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Record>);

impl Open {
    fn new(record: Arc<Record>) -> Self {
        record.open.fetch_add(1, Ordering::SeqCst);
        Self(record)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
