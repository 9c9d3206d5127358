//! A caller: plain HTTP to the outbound port of a proxy, as a workload without any mesh code sends it.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use crate::app::http::{Body, empty};
use crate::wait::PATIENCE;

/// An HTTP client of one proxy. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    proxy: SocketAddr,
    version: Version,
    idle: Arc<Mutex<Vec<http1::SendRequest<Body>>>>,
    shared: Arc<AsyncMutex<Option<http2::SendRequest<Body>>>>,
    opened: Arc<AtomicU64>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client of {} by {:?}", self.proxy, self.version)
    }
}

/// A request that got no answer: the connection failed under it.
#[derive(Debug)]
pub struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Lost {}

impl Lost {
    fn from_error(what: &str, error: &dyn Error) -> Self {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self(text)
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The version that the proxy answered in.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// What followed the body.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The header as text, empty where absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Which instance answered.
    pub fn instance(&self) -> &str {
        self.header("x-instance")
    }

    /// The name and the side in `outrigger-error`, empty where the application answered.
    pub fn failure(&self) -> &str {
        self.header("outrigger-error")
    }

    /// Asserts that a proxy made this answer for this reason.
    #[track_caller]
    pub fn assert_failure(&self, status: u16, name: &str, by: &str) {
        assert_eq!(
            (self.status.as_u16(), self.failure()),
            (status, format!("{name}; by={by}").as_str()),
            "unexpected answer {self:?}"
        );
    }
}

impl Client {
    /// A client of the proxy whose outbound port this is, by HTTP/1.1.
    pub fn via(proxy: SocketAddr) -> Self {
        Self {
            proxy,
            version: Version::HTTP_11,
            idle: Arc::default(),
            shared: Arc::default(),
            opened: Arc::default(),
        }
    }

    /// Another client of the same proxy, by HTTP/2 with prior knowledge.
    pub fn http2(&self) -> Self {
        Self { version: Version::HTTP_2, ..Self::via(self.proxy) }
    }

    /// Another client of the same proxy, with no connection yet.
    pub fn fresh(&self) -> Self {
        Self { version: self.version, ..Self::via(self.proxy) }
    }

    /// The proxy's outbound port.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Connections opened so far: more than were needed at once means that some were closed under the client.
    pub fn connections(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// GET, with a complete answer.
    pub async fn get(&self, url: &str) -> Answer {
        self.answer(request("GET", url, &[], empty())).await
    }

    /// GET with these headers.
    pub async fn get_with(&self, url: &str, headers: &[(&'static str, &str)]) -> Answer {
        self.answer(request("GET", url, headers, empty())).await
    }

    /// POST with this body.
    pub async fn post(&self, url: &str, body: Body) -> Answer {
        self.answer(request("POST", url, &[], body)).await
    }

    /// Sends the request; panics if the connection fails, with why.
    pub async fn answer(&self, request: Request<Body>) -> Answer {
        let what = format!("{} {}", request.method(), request.uri());
        match self.send(request).await {
            Ok(answer) => answer,
            Err(lost) => panic!("{what} got no answer: {lost}"),
        }
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails, or when nothing comes for 20 s.
    pub async fn send(&self, request: Request<Body>) -> Result<Answer, Lost> {
        let exchange = async {
            let (response, lease) = self.lease(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| Lost::from_error("answer broke off", &e))?;
            let trailers = body.trailers().cloned();
            lease.give_back(self).await;
            Ok(Answer {
                status: head.status,
                version: head.version,
                headers: head.headers,
                body: body.to_bytes(),
                trailers,
            })
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(Lost(format!("no answer in {PATIENCE:?}"))))
    }

    /// Sends the request and returns when the answer's head is there, on a connection that is not used again.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>, Lost> {
        let (response, _lease) = self.lease(request).await?;
        Ok(response)
    }

    async fn lease(&self, mut request: Request<Body>) -> Result<(Response<Incoming>, Lease), Lost> {
        if self.version == Version::HTTP_2 {
            *request.version_mut() = Version::HTTP_2;
            let mut sender = self.multiplexed().await?;
            let response =
                sender.send_request(request).await.map_err(|e| Lost::from_error("no answer", &e))?;
            return Ok((response, Lease(None)));
        }
        origin_form(&mut request);
        let mut sender = self.exclusive().await?;
        let response = sender.send_request(request).await.map_err(|e| Lost::from_error("no answer", &e))?;
        Ok((response, Lease(Some(sender))))
    }

    async fn exclusive(&self) -> Result<http1::SendRequest<Body>, Lost> {
        loop {
            let idle = self.idle.lock().expect("no holder panics").pop();
            match idle {
                Some(sender) if sender.is_closed() => {}
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => break,
            }
        }
        let io = self.connect().await?;
        let (sender, connection) =
            http1::handshake(io).await.map_err(|e| Lost::from_error("no HTTP/1 connection", &e))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    async fn multiplexed(&self) -> Result<http2::SendRequest<Body>, Lost> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|s| !s.is_closed()) {
            return Ok(sender.clone());
        }
        let io = self.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(io)
            .await
            .map_err(|e| Lost::from_error("no HTTP/2 connection", &e))?;
        tokio::spawn(connection);
        *shared = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Lost> {
        let stream =
            TcpStream::connect(self.proxy).await.map_err(|e| Lost::from_error("proxy not reached", &e))?;
        // Latency is measured through this client.
        let _ = stream.set_nodelay(true);
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(TokioIo::new(stream))
    }
}

/// The connection that a request has to itself until its answer has been read.
struct Lease(Option<http1::SendRequest<Body>>);

impl Lease {
    async fn give_back(self, client: &Client) {
        let Some(mut sender) = self.0 else { return };
        // A connection that the proxy closes after the answer is never ready.
        if let Ok(Ok(())) = timeout(Duration::from_secs(1), sender.ready()).await {
            client.idle.lock().expect("no holder panics").push(sender);
        }
    }
}

/// A request for a URL such as `http://payments.shop/x`.
pub fn request(method: &str, url: &str, headers: &[(&'static str, &str)], body: Body) -> Request<Body> {
    let mut request =
        Request::builder().method(method).uri(url).body(body).expect("a test sends a valid URL");
    request.headers_mut().extend(crate::app::http::headers(headers));
    request
}

/// What a client sends that knows of no proxy: the path alone, and the authority as Host.
fn origin_form(request: &mut Request<Body>) {
    if request.method() == http::Method::CONNECT {
        return;
    }
    if let Some(authority) = request.uri().authority().cloned() {
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a header value");
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::http::{echo, full, headers, zeros};
    use crate::host::Host;

    // With no proxy between: what fails here is the harness, not the mesh.
    #[tokio::test]
    async fn the_client_and_the_applications_agree_without_a_mesh() {
        let host = Host::start("applications");
        let app = echo().start("echo-0", host.handle()).await;
        for client in [Client::via(app.address), Client::via(app.address).http2()] {
            for path in ["/", "/a?b=c"] {
                let answer = client.post(&format!("http://echo.shop{path}"), full("words")).await;
                assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "words"));
                assert_eq!((answer.header("x-path"), answer.instance()), (path, "echo-0"));
                assert_eq!(answer.version, client.version);
            }
            assert_eq!(client.connections(), 1, "the connection is used again");
        }
        assert_eq!(app.record.seen()[0].header("host"), "echo.shop");
        assert_eq!(app.record.attempts(), 4);
    }

    #[tokio::test]
    async fn trailers_and_large_bodies_come_back_without_a_mesh() {
        let host = Host::start("applications");
        let app = echo().start("echo-0", host.handle()).await;
        let client = Client::via(app.address).http2();
        let answer = client.post("http://echo/", zeros(1 << 20)).await;
        assert_eq!(answer.body.len(), 1 << 20);
        let body = full("x").with_trailers(std::future::ready(Some(Ok(headers(&[("x-sum", "1")])))));
        let answer = client.post("http://echo/", body.boxed()).await;
        assert_eq!(answer.trailers.expect("trailers come back")["x-sum"], "1");
    }

    #[tokio::test]
    async fn a_killed_application_refuses_and_a_revived_one_answers_on_the_same_port() {
        let host = Host::start("applications");
        let mut app = echo().start("echo-0", host.handle()).await;
        let client = Client::via(app.address);
        app.kill();
        crate::eventually("the port is closed", || async {
            match client.send(request("GET", "http://echo/", &[], empty())).await {
                Ok(answer) => Err(format!("answered {}", answer.status)),
                Err(_) => Ok(()),
            }
        })
        .await;
        app.revive().await;
        assert_eq!(client.get("http://echo/").await.status, 200);
    }
}
