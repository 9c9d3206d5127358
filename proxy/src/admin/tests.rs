use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http_body_util::{BodyExt, Empty};
use hyper::client::conn;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::{ControlFacts, MetricsSnapshot, worker_queries};

struct Running {
    address: SocketAddr,
    ready: watch::Sender<bool>,
    draining: Arc<AtomicBool>,
    drains: mpsc::Receiver<()>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    worker: JoinHandle<()>,
}

/// The server, with a worker that answers scrapes if it is `lively`.
async fn start(lively: bool) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut queries) = worker_queries();
    let worker = tokio::spawn(async move {
        while let Some(query) = queries.recv().await {
            if lively {
                query.send(MetricsSnapshot::default()).unwrap();
            }
        }
    });
    let (ready, is_ready) = watch::channel(false);
    let draining = Arc::new(AtomicBool::new(false));
    let (drain, drains) = mpsc::channel(1);
    let is_draining = draining.clone();
    let admin = Admin {
        collector: Collector::new(vec![sender]),
        facts: Box::new(|| ProxyFacts {
            started: SystemTime::UNIX_EPOCH,
            workers: 1,
            certificate_expiry: None,
            control: ControlFacts::default(),
            spans: Default::default(),
            log: Default::default(),
        }),
        describe: Box::new(|| json!({ "proxy": { "namespace": "shop" } })),
        ready: is_ready,
        draining: Box::new(move || is_draining.load(Ordering::Relaxed)),
        drain,
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(admin.serve(listener, stop.clone()));
    Running { address, ready, draining, drains, stop, serving, worker }
}

struct Reply {
    status: u16,
    kind: String,
    allow: Option<String>,
    body: String,
}

impl Running {
    async fn ask(&self, method: &str, path: &str, fields: &[(&'static str, &'static str)]) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut client, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "admin");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let reply = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let field = |name| reply.headers().get(name).map(|v: &HeaderValue| v.to_str().unwrap().to_owned());
        let (status, kind, allow) = (reply.status().as_u16(), field(CONTENT_TYPE).unwrap(), field(ALLOW));
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        drop(client);
        driver.await.unwrap().unwrap();
        Reply { status, kind, allow, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.worker.await.unwrap();
    }
}

#[tokio::test]
async fn readiness_follows_the_control_thread_and_the_drain() {
    let running = start(true).await;
    assert_eq!(running.ask("GET", "/live", &[]).await.status, 200);
    let reply = running.ask("GET", "/ready", &[]).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("no identity or no policy"), "{}", reply.body);
    running.ready.send(true).unwrap();
    let reply = running.ask("GET", "/ready", &[]).await;
    assert_eq!((reply.status, reply.body.trim()), (200, r#"{"ready":true}"#));
    running.draining.store(true, Ordering::Relaxed);
    let reply = running.ask("GET", "/ready", &[]).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("draining"), "{}", reply.body);
    assert_eq!(running.ask("GET", "/live", &[]).await.status, 200);
    running.end().await;
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let running = start(true).await;
    let plain = running.ask("GET", "/metrics", &[]).await;
    assert_eq!((plain.status, plain.kind.as_str()), (200, Format::Prometheus.content_type()));
    assert!(plain.body.contains("outrigger_build_info"));
    let open = running.ask("GET", "/metrics", &[("accept", "application/openmetrics-text")]).await;
    assert_eq!(open.kind, Format::OpenMetrics.content_type());
    assert!(open.body.ends_with("# EOF\n"));
    running.end().await;
}

#[tokio::test]
async fn a_scrape_that_misses_a_worker_fails_rather_than_lies() {
    let running = start(false).await;
    let reply = running.ask("GET", "/metrics", &[]).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("1 workers did not answer"), "{}", reply.body);
    running.end().await;
}

#[tokio::test]
async fn the_drain_is_asked_for_once_and_not_by_web_pages() {
    let mut running = start(true).await;
    let reply = running.ask("POST", "/drain", &[("origin", "http://evil.example")]).await;
    assert_eq!(reply.status, 403);
    assert!(running.drains.try_recv().is_err());
    for _ in 0..3 {
        assert_eq!(running.ask("POST", "/drain", &[]).await.status, 202);
    }
    assert!(running.drains.try_recv().is_ok());
    assert!(running.drains.try_recv().is_err(), "one message is enough");
    running.end().await;
}

#[tokio::test]
async fn what_is_not_there_says_what_is() {
    let running = start(true).await;
    let reply = running.ask("GET", "/metric", &[]).await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("there are /live, /ready, /metrics, /config and /drain"), "{}", reply.body);
    for (method, path, allowed) in [("POST", "/metrics", "GET, HEAD"), ("GET", "/drain", "POST")] {
        let reply = running.ask(method, path, &[]).await;
        assert_eq!((reply.status, reply.allow.as_deref()), (405, Some(allowed)), "{method} {path}");
        assert!(serde_json::from_str::<Value>(&reply.body).is_ok(), "{}", reply.body);
    }
    let reply = running.ask("HEAD", "/config", &[]).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let reply = running.ask("GET", "/config?x", &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&reply.body).unwrap()["proxy"]["namespace"], "shop");
    running.end().await;
}

#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let running = start(true).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS - 1 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    assert_eq!(running.ask("GET", "/live", &[]).await.status, 200);
    running.end().await;
}
