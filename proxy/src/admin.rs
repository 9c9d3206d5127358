//! The proxy's own little server: is it alive, is it ready, what did it count, what is it told, and please stop.
//!
//! | path | method | answer |
//! |---|---|---|
//! | `/live` | GET | 200 while the control thread runs |
//! | `/ready` | GET | 200 once requests can be served, until the drain begins; else 503 and why |
//! | `/metrics` | GET | Prometheus text, or OpenMetrics with exemplars |
//! | `/config` | GET | the configuration and the policy in use, as JSON without secrets |
//! | `/drain` | POST | begins the drain, 202 |
//!
//! It runs on the control thread, so that a busy worker still answers its health check, and it is for operators
//! only: it listens on loopback unless told otherwise.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Collector, Format, ProxyFacts, render};

/// Connections at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// For a request head, and for a kept-alive connection to be used again.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of `accept`, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin server tells and does.
pub struct Admin {
    /// The sum of what the workers counted.
    pub collector: Collector,
    /// What the proxy says of itself on `/metrics`.
    pub facts: Box<dyn Fn() -> ProxyFacts + Send + Sync>,
    /// The answer of `/config`. Must hold no secret.
    pub describe: Box<dyn Fn() -> Value + Send + Sync>,
    /// The proxy has an identity and policy.
    pub ready: watch::Receiver<bool>,
    /// The drain has begun.
    pub draining: Box<dyn Fn() -> bool + Send + Sync>,
    /// Gets one message when somebody asks for the drain; one place is enough.
    pub drain: mpsc::Sender<()>,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    /// Serves until `stop`; connections that still wait for an answer are then closed.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let admin = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                while connections.try_join_next().is_some() {}
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = serve_connection(admin.clone(), stream);
                        connections.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin server cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = pin!(accepting) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let get = *request.method() == Method::GET || *request.method() == Method::HEAD;
        let post = *request.method() == Method::POST;
        match request.uri().path() {
            "/live" if get => json_answer(StatusCode::OK, &json!({ "live": true })),
            "/ready" if get => self.ready(),
            "/metrics" if get => self.metrics(request).await,
            "/config" if get => json_answer(StatusCode::OK, &(self.describe)()),
            "/drain" if post => self.drain(request),
            "/live" | "/ready" | "/metrics" | "/config" => wrong_method("GET, HEAD"),
            "/drain" => wrong_method("POST"),
            path => refusal(
                StatusCode::NOT_FOUND,
                "not-found",
                &format!("there is no {path:?}; there are /live, /ready, /metrics, /config and /drain"),
            ),
        }
    }

    fn ready(&self) -> Answer {
        let reason = if (self.draining)() {
            "the proxy is draining"
        } else if !*self.ready.borrow() {
            "the proxy has no identity or no policy yet; see its log and whether the control plane is reached"
        } else {
            return json_answer(StatusCode::OK, &json!({ "ready": true }));
        };
        json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "reason": reason }))
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Answer {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let format = Format::from_accept(accept.unwrap_or_default());
        let (sum, silent) = self.collector.collect().await;
        if silent > 0 {
            // Half the counters would look like a restart to whoever computes rates from them.
            let problem = format!("{silent} workers did not answer in time; scrape again");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "worker-silent", &problem);
        }
        let page = render(&sum, &(self.facts)(), format);
        answer(StatusCode::OK, format.content_type(), page)
    }

    fn drain(&self, request: &Request<Incoming>) -> Answer {
        // A page in the operator's browser may send a POST to loopback; browsers always say who asks.
        if request.headers().contains_key(ORIGIN) {
            return refusal(StatusCode::FORBIDDEN, "denied", "a web page may not drain the proxy");
        }
        // A full queue means that somebody has asked already.
        let _ = self.drain.try_send(());
        json_answer(StatusCode::ACCEPTED, &json!({ "draining": true }))
    }
}

fn serve_connection(admin: Arc<Admin>, stream: TcpStream) -> impl Future<Output = ()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "admin connection ended");
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    answer(status, "application/json", format!("{value}\n"))
}

fn refusal(status: StatusCode, reason: &str, message: &str) -> Answer {
    json_answer(status, &json!({ "error": { "reason": reason, "message": message } }))
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        &format!("this path takes {allowed} only"),
    );
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

#[cfg(test)]
mod tests;
