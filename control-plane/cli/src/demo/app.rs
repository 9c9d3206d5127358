//! `outrigger demo-app`: the program behind each service of the demo.
//!
//! It knows nothing of the mesh. It answers with who it is, calls the next service through the proxy that it was
//! given, and passes on the headers that tie a request's spans together, which is the one thing that a mesh needs
//! of an application. Commands on standard input make it fail or slow, or tell it the proxy; it ends when standard
//! input does.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::commands::commands;
use super::connections::Connections;
use crate::failure::Stop;
use crate::output;

/// Passed from the request that comes in to the one that goes out, as every application must.
const PASSED_ON: [&str; 10] = [
    "traceparent",
    "tracestate",
    "baggage",
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// Arguments of `outrigger demo-app`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AppArgs {
    /// The service that it belongs to.
    #[arg(long)]
    service: String,
    /// Its version.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Its own name.
    #[arg(long)]
    instance: String,
    /// The host to call for every request, through the proxy.
    #[arg(long)]
    next: Option<String>,
}

/// One instance of the application.
struct App {
    args: AppArgs,
    /// How many of 100 requests fail.
    fail_percent: Cell<u32>,
    delay: Cell<Duration>,
    served: Cell<u32>,
    outbound: RefCell<Option<Connections>>,
}

/// Serves until standard input ends.
///
/// # Errors
/// No port can be bound.
pub(crate) async fn run(args: AppArgs) -> Result<(), Stop> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let app = Rc::new(App {
        args,
        fail_percent: Cell::new(0),
        delay: Cell::new(Duration::ZERO),
        served: Cell::new(0),
        outbound: RefCell::new(None),
    });
    output::line(&json!({"ready": true, "address": listener.local_addr()?.to_string()}).to_string())?;
    tokio::select! {
        () = accept(&listener, &app) => Ok(()),
        ended = obey(&app) => ended,
    }
}

async fn accept(listener: &TcpListener, app: &Rc<App>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                spawn_local(serve(stream, app.clone()));
            }
            // Out of descriptors, most likely: let some connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn serve(stream: TcpStream, app: Rc<App>) {
    // A failure to set it costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request).await) }
    });
    // The peer may go away at any time; that is not this program's concern.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Carries out the commands `outbound ADDRESS`, `fail PERCENT` and `delay MILLISECONDS`.
async fn obey(app: &App) -> Result<(), Stop> {
    let mut lines = commands()?;
    while let Some(line) = lines.next_line().await? {
        let unknown = || Stop::failed(format!("unknown command {line:?}"));
        match line.split_once(' ').ok_or_else(unknown)? {
            ("outbound", address) => {
                let address: SocketAddr = address.parse().map_err(|_| unknown())?;
                app.outbound.replace(Some(Connections::new(address)));
            }
            ("fail", percent) => app.fail_percent.set(percent.parse().map_err(|_| unknown())?),
            ("delay", millis) => {
                app.delay.set(Duration::from_millis(millis.parse().map_err(|_| unknown())?));
            }
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let number = self.served.get();
        self.served.set(number.wrapping_add(1));
        if !self.delay.get().is_zero() {
            tokio::time::sleep(self.delay.get()).await;
        }
        if fails(number, self.fail_percent.get()) {
            return respond(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": "made to fail"}));
        }
        let mut answer = json!({
            "service": self.args.service,
            "version": self.args.version,
            "instance": self.args.instance,
            "caller": caller(request.headers()),
        });
        if let Some(next) = &self.args.next {
            match self.call(next, &request).await {
                Ok((StatusCode::OK, body)) => answer["next"] = body,
                Ok((status, body)) => return respond(status, &body),
                Err(error) => {
                    return respond(StatusCode::BAD_GATEWAY, &json!({"error": format!("{next}: {error}")}));
                }
            }
        }
        respond(StatusCode::OK, &answer)
    }

    async fn call(&self, host: &str, request: &Request<Incoming>) -> Result<(StatusCode, Value), String> {
        let connections = self.outbound.borrow().clone().ok_or("no proxy was named yet")?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let mut next = Request::get(path).header(HOST, host).body(Empty::new()).map_err(|e| e.to_string())?;
        pass_on(request.headers(), next.headers_mut());
        let (head, body) = connections.send(next).await.map_err(|error| error.to_string())?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match head.headers.get("outrigger-error").and_then(|value| value.to_str().ok()) {
            Some(error) => Ok((head.status, json!({"error": error}))),
            None => Ok((head.status, body)),
        }
    }
}

/// Spreads the failures evenly, so that the share holds for a short run, too.
fn fails(number: u32, percent: u32) -> bool {
    u64::from(number) * u64::from(percent) % 100 < u64::from(percent)
}

fn pass_on(from: &HeaderMap, to: &mut HeaderMap) {
    for name in PASSED_ON {
        for value in from.get_all(name) {
            to.append(HeaderName::from_static(name), value.clone());
        }
    }
}

/// The identity that the proxy verified, as it tells the application.
fn caller(headers: &HeaderMap) -> Option<&str> {
    let certificate = headers.get("x-forwarded-client-cert")?.to_str().ok()?;
    certificate.split([';', ',']).find_map(|part| part.trim().strip_prefix("URI="))
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_failures_is_exact_and_never_two_in_a_row() {
        let failed: Vec<bool> = (0..1000).map(|number| fails(number, 30)).collect();
        assert_eq!(failed.iter().filter(|failed| **failed).count(), 300);
        assert!(!failed.windows(2).any(|pair| pair[0] && pair[1]));
        assert!((0..1000).all(|number| !fails(number, 0) && fails(number, 100)));
    }

    #[test]
    fn trace_headers_go_on_and_others_stay() {
        let mut from = HeaderMap::new();
        from.insert("traceparent", "00-a-b-01".parse().unwrap());
        from.append("baggage", "a=1".parse().unwrap());
        from.append("baggage", "b=2".parse().unwrap());
        from.insert("authorization", "secret".parse().unwrap());
        let mut to = HeaderMap::new();
        pass_on(&from, &mut to);
        assert_eq!(to.get("traceparent").unwrap(), "00-a-b-01");
        assert_eq!(to.get_all("baggage").iter().count(), 2);
        assert_eq!(to.get("authorization"), None);
    }

    #[test]
    fn the_callers_identity_is_read_from_the_certificate_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(caller(&headers), None);
        headers.insert("x-forwarded-client-cert", "Hash=1;URI=spiffe://t/ns/a/sa/b".parse().unwrap());
        assert_eq!(caller(&headers), Some("spiffe://t/ns/a/sa/b"));
    }
}
