//! HTTP/1.1 and HTTP/2 (prior knowledge) applications: one handler, whatever the version.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{Accepted, App, Record, Seen};

/// The body of every message in these tests.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// The whole body at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is sent frame by frame as the other half of the channel provides them.
///
/// Dropping the sender ends the body; sending an error breaks it.
pub fn channel(capacity: usize) -> (tokio::sync::mpsc::Sender<std::io::Result<Frame<Bytes>>>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
    (sender, BodyExt::boxed(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver))))
}

/// `length` bytes, in pieces of 64 KiB and without ever being in memory as a whole.
pub fn zeros(length: u64) -> Body {
    static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut left = length;
    let pieces = std::iter::from_fn(move || {
        let take = left.min(PIECE.len() as u64);
        left -= take;
        (take > 0).then(|| Ok(Frame::data(Bytes::from_static(&PIECE[..take as usize]))))
    });
    BodyExt::boxed(StreamBody::new(tokio_stream::iter(pieces)))
}

/// What to do with one request.
#[derive(Debug)]
pub struct Reply {
    delay: Duration,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Answer(Box<Response<Body>>),
    Hang,
    Reset,
}

impl Reply {
    /// This status with the same digits as the body.
    pub fn status(code: u16) -> Self {
        let mut response = Response::new(full(code.to_string()));
        *response.status_mut() = StatusCode::from_u16(code).expect("a test names a valid status");
        Self { delay: Duration::ZERO, fate: Fate::Answer(Box::new(response)) }
    }

    /// 200 with this body.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::with(Response::new(full(body)))
    }

    /// This answer.
    pub fn with(response: Response<Body>) -> Self {
        Self { delay: Duration::ZERO, fate: Fate::Answer(Box::new(response)) }
    }

    /// No answer, ever.
    pub fn hang() -> Self {
        Self { delay: Duration::ZERO, fate: Fate::Hang }
    }

    /// The connection is reset without an answer.
    pub fn reset() -> Self {
        Self { delay: Duration::ZERO, fate: Fate::Reset }
    }

    /// The same, but later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Fate::Answer(response) = &mut self.fate {
            response
                .headers_mut()
                .append(name, HeaderValue::from_str(value).expect("a test sends valid headers"));
        }
        self
    }
}

/// An application that answers each request when its whole body is there.
pub fn answering<F, Fut>(handler: F) -> App
where
    F: Fn(Arc<Seen>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let handler = Arc::new(handler);
    streaming(move |request, call| {
        let handler = Arc::clone(&handler);
        async move {
            let seen = call.collect(request).await?;
            let reply = handler(Arc::clone(&seen)).await;
            call.obey(reply).await
        }
    })
}

/// 200, with the request's body as the body, `x-method`, `x-path`, and the request's trailers as trailers.
pub fn echo() -> App {
    answering(|seen| async move {
        let body = match seen.trailers.clone() {
            // Of unknown length, since HTTP/1 has trailers only after chunks.
            Some(trailers) => {
                let (sender, body) = channel(2);
                for frame in [Frame::data(seen.body.clone()), Frame::trailers(trailers)] {
                    sender.try_send(Ok(frame)).expect("there is room for both");
                }
                body
            }
            None => full(seen.body.clone()),
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert("x-method", HeaderValue::from_str(seen.method.as_str()).expect("a method is a token"));
        let path = seen.uri.path_and_query().map_or("", |p| p.as_str());
        headers.insert("x-path", HeaderValue::from_str(path).expect("a path is visible ASCII"));
        if let Some(trailers) = &seen.trailers {
            let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
            headers.insert("trailer", HeaderValue::from_str(&names.join(", ")).expect("names are tokens"));
        }
        Reply::with(response)
    })
}

/// Always this status.
pub fn always(code: u16) -> App {
    answering(move |_| std::future::ready(Reply::status(code)))
}

/// 200 with this text.
pub fn saying(text: &'static str) -> App {
    answering(move |_| std::future::ready(Reply::text(text)))
}

/// What the reply to each request is, from the request alone.
pub fn deciding(decide: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> App {
    answering(move |seen| std::future::ready(decide(&seen)))
}

/// The request's context, for applications that stream.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where the instance notes what it saw.
    pub record: Arc<Record>,
    /// This request's number on its instance, from 0.
    pub number: u64,
    at: Instant,
    reset: Arc<Mutex<Option<Socket>>>,
}

/// The application broke the connection instead of answering.
#[derive(Debug, Clone, Copy)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose, or by the caller")
    }
}

impl std::error::Error for Broken {}

impl Call {
    /// Reads the request to its end and keeps it in the record.
    ///
    /// # Errors
    /// When the caller breaks off.
    pub async fn collect(&self, request: Request<Incoming>) -> Result<Arc<Seen>, Broken> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?;
        let seen = Arc::new(Seen {
            instance: self.record.name.clone(),
            number: self.number,
            at: self.at,
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        });
        self.record.keep(Arc::clone(&seen));
        Ok(seen)
    }

    async fn obey(&self, reply: Reply) -> Result<Response<Body>, Broken> {
        if !reply.delay.is_zero() {
            sleep(reply.delay).await;
        }
        match reply.fate {
            Fate::Answer(mut response) => {
                response.headers_mut().insert(
                    "x-instance",
                    HeaderValue::from_str(&self.record.name).expect("an instance's name is visible ASCII"),
                );
                Ok(*response)
            }
            Fate::Hang => std::future::pending().await,
            Fate::Reset => {
                self.reset_connection();
                Err(Broken)
            }
        }
    }

    /// Lets the connection end in RST instead of FIN.
    fn reset_connection(&self) {
        if let Some(socket) = self.reset.lock().expect("no holder panics").take() {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Broken>> + Send>>;

/// An application that reads the request and writes the answer as it likes.
pub fn streaming<F, Fut>(handler: F) -> App
where
    F: Fn(Request<Incoming>, Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, Broken>> + Send + 'static,
{
    let handler: Arc<dyn Fn(Request<Incoming>, Call) -> Answered + Send + Sync> =
        Arc::new(move |request, call| handler(request, call).boxed());
    App::new(move |accepted| {
        let handler = Arc::clone(&handler);
        async move { serve(accepted, handler).await }
    })
}

async fn serve(accepted: Accepted, handler: Arc<dyn Fn(Request<Incoming>, Call) -> Answered + Send + Sync>) {
    let Accepted { stream, record } = accepted;
    // A second handle to the socket, so that a handler can turn its end into a reset.
    let Ok(handle) = SockRef::from(&stream).try_clone() else { return };
    let reset = Arc::new(Mutex::new(Some(handle)));
    let http2 = speaks_http2(&stream).await;
    let service = {
        let reset = Arc::clone(&reset);
        service_fn(move |request: Request<Incoming>| {
            let head = request.method() == Method::HEAD;
            let call = Call {
                number: record.begin(),
                record: Arc::clone(&record),
                at: Instant::now(),
                reset: Arc::clone(&reset),
            };
            handler(request, call).map(move |answer| answer.map(|a| if head { without_body(a) } else { a }))
        })
    };
    let io = TokioIo::new(stream);
    // An error here is the caller's or was made on purpose; either way the test sees it on its side.
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(1000)
            .serve_connection(io, service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(io, service)
            .with_upgrades()
            .await;
    }
    drop(reset);
}

/// What an answer to HEAD has: all but the body (RFC 9110 §9.3.2). Over HTTP/2 hyper leaves that to the application.
fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, empty())
}

/// Whether the connection opens with HTTP/2's preface (RFC 9113 §3.4).
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut start = [0; 3];
    loop {
        match stream.peek(&mut start).await {
            Ok(3) => return &start == b"PRI",
            Ok(n) if n > 0 && b"PRI".starts_with(&start[..n]) => sleep(Duration::from_millis(1)).await,
            _ => return false,
        }
    }
}

/// Headers from pairs.
pub fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_str(value).expect("a test sends valid headers"));
    }
    map
}
