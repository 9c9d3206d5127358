//! The command line's way to the control plane's REST API: plain HTTP/1 on loopback, one connection a request.
//!
//! Everything that can go wrong is told with the address that was tried and with what to do about it. Every wait
//! and every answer is bounded.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use outrigger_control_plane::resources::DocumentProblem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::data_dir::{ADMIN_TOKEN, default_data_dir};

/// How long the control plane may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// Where the API is and how to be let in.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Control plane")]
pub(crate) struct ApiArgs {
    /// The control plane's REST API.
    #[arg(long, env = "OUTRIGGER_API", value_name = "URL", default_value = "http://127.0.0.1:4780", value_parser = parse_api)]
    pub(crate) api: Uri,
    /// File with the bearer token. [default: admin.token in the control plane's default data directory]
    #[arg(long, env = "OUTRIGGER_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Who acts, for the history.
    #[arg(long, env = "OUTRIGGER_ACTOR", value_name = "NAME", value_parser = parse_actor)]
    pub(crate) actor: Option<HeaderValue>,
}

/// Reads the name that the history notes.
fn parse_actor(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "must be visible ASCII".to_owned())
}

/// Reads the API's address.
fn parse_api(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "not a URL; write http://HOST:PORT".to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some(_) => return Err("only http:// is served; reach a remote API through an SSH tunnel".to_owned()),
        None => return Err("write http://HOST:PORT".to_owned()),
    }
    if uri.path().trim_end_matches('/').is_empty() && uri.query().is_none() {
        Ok(uri)
    } else {
        Err("write http://HOST:PORT without a path; /v1 is added".to_owned())
    }
}

/// Why the API gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("cannot read the token in {}; set OUTRIGGER_TOKEN_FILE to DIR/admin.token of the control plane", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("{} holds no token: it must be one line of visible ASCII", .0.display())]
    TokenForm(PathBuf),
    #[error(
        "the API is not reachable at {url}: {reason}; is `outrigger control-plane` running? Set OUTRIGGER_API if it listens elsewhere"
    )]
    Unreachable { url: String, reason: String },
    #[error("the API at {url} broke off its answer: {reason}; its log says more")]
    Broken { url: String, reason: String },
    #[error("what answers at {url} is not Outrigger's API ({reason}); check OUTRIGGER_API")]
    Foreign { url: String, reason: String },
    #[error("{0}")]
    Refused(Refusal),
}

impl ApiError {
    /// The status of a refusal by the API itself.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }
}

/// What the API said when it refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) details: Vec<DocumentProblem>,
    hint: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        f.write_str(self.hint)?;
        let mut details =
            self.details.iter().map(ToString::to_string).filter(|detail| *detail != self.message);
        details.try_for_each(|detail| write!(f, "\n  {detail}"))
    }
}

/// The shape of every error that the API sends.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorContent,
}

#[derive(Deserialize)]
struct ErrorContent {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<DocumentProblem>,
}

/// A client of the REST API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// HOST:PORT to connect to.
    address: String,
    /// The Host header.
    host: String,
    token: Option<HeaderValue>,
    actor: Option<HeaderValue>,
}

/// A body and its type.
pub(crate) struct Body {
    pub(crate) content_type: &'static str,
    pub(crate) bytes: Bytes,
}

impl Body {
    /// A JSON body.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self { content_type: "application/json", bytes: Bytes::from(value.to_string()) }
    }

    /// YAML documents, which JSON documents are too.
    pub(crate) fn yaml(text: impl Into<Bytes>) -> Self {
        Self { content_type: "application/yaml", bytes: text.into() }
    }
}

impl Api {
    /// A client with the token that the arguments name, or with the default data directory's where there is one.
    ///
    /// # Errors
    /// A named token file that cannot be read. Nothing is connected yet.
    pub(crate) fn new(args: &ApiArgs) -> Result<Self, ApiError> {
        let token = match &args.token_file {
            Some(path) => Some(read_token(path)?),
            None => {
                let path = default_data_dir().join(ADMIN_TOKEN);
                path.exists().then(|| read_token(&path)).transpose()?
            }
        };
        let host = args.api.authority().map(|authority| authority.to_string()).unwrap_or_default();
        let address = if args.api.port().is_some() { host.clone() } else { format!("{host}:80") };
        Ok(Self { address, host, token, actor: args.actor.clone() })
    }

    /// A client of another server, which needs no token: `host` is what it is asked for.
    pub(crate) fn of(address: SocketAddr, host: &str) -> Self {
        Self { address: address.to_string(), host: host.to_owned(), token: None, actor: None }
    }

    /// Whether a token is at hand.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The address that is called.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Reads what is at the path.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Reads the items of a list, which the API wraps in an object.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Items<T> {
            Wrapped { items: Vec<T> },
            Plain(Vec<T>),
        }
        match self.get::<Items<T>>(path).await? {
            Items::Wrapped { items } | Items::Plain(items) => Ok(items),
        }
    }

    /// Sends a request and reads the JSON answer.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer of another shape.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<T, ApiError> {
        let bytes = self.text(method, path, body).await?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes).map_err(|error| self.foreign(&error))
    }

    /// Sends a request and reads the answer as it is.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<Bytes, ApiError> {
        let (status, answer) = timeout(ANSWER_TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| self.broken(&format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))??;
        if status.is_success() { Ok(answer) } else { Err(self.refused(status, &answer)) }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        let request = self.request(method, path, body)?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
            let body = body.map_err(|error| self.broken(&error))?.to_bytes();
            Ok((status, body))
        };
        // The connection has nothing to say of its own: its errors reach the request.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    async fn connect(&self) -> Result<TcpStream, ApiError> {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.unreachable(&format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
    ) -> Result<Request<Full<Bytes>>, ApiError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(actor) = &self.actor {
            request = request.header("outrigger-actor", actor);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, body.content_type);
                body.bytes
            }
            None => Bytes::new(),
        };
        request.body(Full::new(bytes)).map_err(|error| self.unreachable(&error))
    }

    fn refused(&self, status: StatusCode, answer: &[u8]) -> ApiError {
        let Ok(ErrorBody { error }) = serde_json::from_slice::<ErrorBody>(answer) else {
            return self.foreign(&format!("status {status} without an explanation"));
        };
        let hint = match status {
            StatusCode::UNAUTHORIZED if self.token.is_none() => {
                "; no token was sent: set OUTRIGGER_TOKEN_FILE to DIR/admin.token of the control plane"
            }
            StatusCode::UNAUTHORIZED => {
                "; does OUTRIGGER_TOKEN_FILE name the admin.token of this very control plane?"
            }
            _ => "",
        };
        ApiError::Refused(Refusal { status, message: error.message, details: error.details, hint })
    }

    fn unreachable(&self, reason: &dyn fmt::Display) -> ApiError {
        ApiError::Unreachable { url: self.url(), reason: reason.to_string() }
    }

    fn broken(&self, reason: &dyn fmt::Display) -> ApiError {
        ApiError::Broken { url: self.url(), reason: reason.to_string() }
    }

    fn foreign(&self, reason: &dyn fmt::Display) -> ApiError {
        ApiError::Foreign { url: self.url(), reason: reason.to_string() }
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, ApiError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ApiError::Token { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ApiError::TokenForm(path.to_owned()));
    }
    let mut value =
        HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ApiError::TokenForm(path.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn api(url: &str, token_file: Option<PathBuf>) -> Result<Api, ApiError> {
        Api::new(&ApiArgs { api: parse_api(url).unwrap(), token_file, actor: None })
    }

    fn token_file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    /// Answers one request with the text and returns what was asked.
    async fn answer_once(text: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(text.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, asked)
    }

    #[test]
    fn an_address_that_is_no_api_is_refused_with_what_to_write() {
        for bad in ["127.0.0.1:4780", "https://h:1", "http://h:1/v1", "", "http://h:1/?a", "ftp://h"] {
            assert!(parse_api(bad).is_err(), "{bad:?}");
        }
        assert!(parse_api("http://127.0.0.1:4780/").is_ok());
    }

    #[test]
    fn a_token_file_that_is_named_must_hold_a_token() {
        let (_dir, path) = token_file("\n");
        assert!(matches!(api("http://h:1", Some(path)), Err(ApiError::TokenForm(_))));
        let error = api("http://h:1", Some("/nowhere/t".into())).unwrap_err().to_string();
        assert!(error.contains("/nowhere/t") && error.contains("OUTRIGGER_TOKEN_FILE"), "{error}");
    }

    #[test]
    fn the_token_does_not_show_in_debug_output() {
        let (_dir, path) = token_file("sesame\n");
        let client = api("http://h:1", Some(path)).unwrap();
        assert!(!format!("{client:?}").contains("sesame"));
    }

    #[tokio::test]
    async fn nobody_listening_is_told_with_address_and_remedy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let (_dir, path) = token_file("t");
        let error = api(&url, Some(path)).unwrap().get::<serde_json::Value>("/v1/proxies").await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&url) && text.contains("outrigger control-plane") && text.contains("OUTRIGGER_API")
        );
    }

    #[tokio::test]
    async fn the_token_is_sent_and_the_answer_read() {
        let (url, asked) = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
        let (_dir, path) = token_file("sesame\n");
        let answer: serde_json::Value = api(&url, Some(path)).unwrap().get("/v1/proxies").await.unwrap();
        assert_eq!(answer, serde_json::json!({"a": 1}));
        let asked = asked.await.unwrap().to_ascii_lowercase();
        assert!(asked.starts_with("get /v1/proxies http/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: bearer sesame\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_shows_every_field_that_is_wrong() {
        let (url, _asked) = answer_once(concat!(
            "HTTP/1.1 422 Unprocessable Entity\r\nconnection: close\r\n\r\n",
            r#"{"error":{"reason":"invalid","message":"the document is not valid","details":["#,
            r#"{"field":"spec.rules[0].backendRefs[0].port","message":"required","document":2,"resource":"HTTPRoute shop/web"}]}}"#
        ))
        .await;
        let (_dir, path) = token_file("t");
        let error = api(&url, Some(path)).unwrap().get::<serde_json::Value>("/v1/x").await.unwrap_err();
        assert_eq!(error.status(), Some(StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(
            error.to_string(),
            "the document is not valid\n  document 2 (HTTPRoute shop/web): spec.rules[0].backendRefs[0].port: required"
        );
    }

    #[test]
    fn a_single_problem_is_not_told_twice() {
        let problem: DocumentProblem =
            serde_json::from_str(r#"{"field": "ttl", "message": "is wrong"}"#).unwrap();
        let refusal = Refusal {
            status: StatusCode::BAD_REQUEST,
            message: problem.to_string(),
            details: vec![problem],
            hint: "",
        };
        assert_eq!(refusal.to_string(), "ttl: is wrong");
    }

    #[tokio::test]
    async fn another_server_is_not_taken_for_the_api() {
        let (url, _asked) = answer_once("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\noops").await;
        let (_dir, path) = token_file("t");
        let error = api(&url, Some(path)).unwrap().get::<serde_json::Value>("/v1/x").await.unwrap_err();
        assert!(matches!(error, ApiError::Foreign { .. }), "{error}");
    }
}
