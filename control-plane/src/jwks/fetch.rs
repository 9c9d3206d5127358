//! Fetches the keys of issuers from where they publish them, and keeps them fresh.
//!
//! Every URL that a policy names is asked again when its answer says so (`cache-control: max-age`, within bounds), with
//! jitter; after a failure sooner, and ever less often. What was fetched last stays in use while fetching fails; before
//! anything was, no token of the issuer is good. Redirects are not followed, and only TLS 1.3 is spoken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrigger_api::v1;
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{MOST_BYTES, address};
use crate::resources::Documents;

/// One fetch, from name resolution to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys are asked for again after this long where the answer does not say; never sooner or later than the others.
const USUALLY: Duration = Duration::from_secs(300);
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(3600);
/// After a failure, doubling with each more.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// More URLs than this are not asked.
const MOST_URLS: usize = 256;

/// The keys of each URL, as far as they are known.
pub(crate) type KeySets = HashMap<String, Arc<Vec<v1::JwtKey>>>;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("is no https URL")]
    Url,
    #[error("cannot be resolved or reached")]
    Io(#[from] std::io::Error),
    #[error("leads to {0}, {1}, where the control plane does not go")]
    Address(SocketAddr, &'static str),
    #[error("leads nowhere")]
    Nowhere,
    #[error("breaks HTTP")]
    Http(#[from] hyper::Error),
    #[error("answers {0}")]
    Status(StatusCode),
    #[error("gives no whole answer of up to {MOST_BYTES} bytes")]
    Body,
    #[error("gives no keys: it {0}")]
    Keys(#[from] super::JwksError),
    #[error("takes longer than {PATIENCE:?}")]
    Slow,
    #[error("makes the control plane fail, which is a defect of it")]
    Panicked,
}

#[derive(Debug)]
struct Source {
    next: Instant,
    failures: u32,
    under_way: Option<task::Id>,
}

/// Keeps the keys fresh until `stop`.
pub(crate) async fn run(
    mut documents: watch::Receiver<Arc<Documents>>,
    keys: watch::Sender<Arc<KeySets>>,
    allow_loopback: bool,
    mut rng: StdRng,
    stop: CancellationToken,
) {
    let tls = Arc::new(tls_config());
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    let mut fetching = JoinSet::new();
    loop {
        let wanted = urls(&documents.borrow_and_update());
        let now = Instant::now();
        if sources.keys().any(|url| !wanted.contains(url)) {
            sources.retain(|url, _| wanted.contains(url));
            keys.send_if_modified(|keys| {
                let kept: KeySets = keys
                    .iter()
                    .filter(|(url, _)| wanted.contains(*url))
                    .map(|(a, b)| (a.clone(), b.clone()))
                    .collect();
                let fewer = kept.len() != keys.len();
                *keys = Arc::new(kept);
                fewer
            });
        }
        for url in wanted.into_iter().take(MOST_URLS) {
            sources.entry(url).or_insert(Source { next: now, failures: 0, under_way: None });
        }
        let idle = |source: &Source| source.under_way.is_none();
        for (url, source) in sources.iter_mut().filter(|(_, source)| idle(source) && source.next <= now) {
            let (url, tls) = (url.clone(), tls.clone());
            let fetch = async move { timeout(PATIENCE, fetch(&url, tls, allow_loopback)).await };
            source.under_way = Some(fetching.spawn(fetch).id());
        }
        let next = sources.values().filter(|source| idle(source)).map(|source| source.next).min();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = documents.changed() => if changed.is_err() { return },
            Some(ended) = fetching.join_next_with_id(), if !fetching.is_empty() => {
                let (id, fetched) = match ended {
                    Ok((id, fetched)) => (id, fetched.unwrap_or(Err(FetchError::Slow))),
                    Err(error) => (error.id(), Err(FetchError::Panicked)),
                };
                let its = sources.iter_mut().find(|(_, source)| source.under_way == Some(id));
                let Some((url, source)) = its else { continue };
                source.take(url, fetched, &keys, &mut rng);
            }
            () = sleep_until(next.unwrap_or(now + LATEST)) => {}
        }
    }
}

impl Source {
    fn take(
        &mut self,
        url: &str,
        fetched: Result<(Vec<v1::JwtKey>, Duration), FetchError>,
        keys: &watch::Sender<Arc<KeySets>>,
        rng: &mut impl Rng,
    ) {
        self.under_way = None;
        let wait = match fetched {
            Ok((newest, fresh)) => {
                self.failures = 0;
                keys.send_if_modified(|keys| {
                    let changed = keys.get(url).is_none_or(|known| **known != newest);
                    if changed {
                        Arc::make_mut(keys).insert(url.to_owned(), Arc::new(newest));
                    }
                    changed
                });
                fresh
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(url, %error, cause, "the keys of an issuer cannot be fetched; what is known of them stays");
                self.failures = self.failures.saturating_add(1);
                AFTER_FAILURE.saturating_mul(1 << self.failures.min(12)).min(USUALLY)
            }
        };
        // Up to a fifth sooner, so that not everybody asks at once.
        self.next = Instant::now() + wait.mul_f64(rng.random_range(0.8..=1.0));
    }
}

/// The URLs that policies name.
fn urls(documents: &Documents) -> BTreeSet<String> {
    let jwts = documents.access_policies.values().filter_map(|policy| policy.spec.jwt.as_ref());
    jwts.flat_map(|jwt| &jwt.issuers).filter_map(|issuer| issuer.jwks.url.clone()).collect()
}

/// Whether a document may name this URL.
pub(crate) fn is_allowed(url: &str) -> bool {
    target(url).is_some()
}

/// Scheme, host and port of a URL. Plain HTTP only to an address of this host, which is refused later unless allowed.
fn target(url: &str) -> Option<(bool, String, u16, Uri)> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    let is_loopback =
        host.trim_matches(['[', ']']).parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let secure = match uri.scheme_str()? {
        "https" => true,
        "http" if is_loopback => false,
        _ => return None,
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Some((secure, host, port, uri))
}

/// Returns the keys, and for how long they may be taken for the newest.
async fn fetch(
    url: &str,
    tls: Arc<ClientConfig>,
    allow_loopback: bool,
) -> Result<(Vec<v1::JwtKey>, Duration), FetchError> {
    let (secure, host, port, uri) = target(url).ok_or(FetchError::Url)?;
    let name = host.trim_matches(['[', ']']).to_owned();
    let mut last = FetchError::Nowhere;
    let addresses: Vec<SocketAddr> = lookup_host((name.as_str(), port)).await?.collect();
    // One that is refused spoils all: a name that also leads there is not to be trusted by chance.
    for address in &addresses {
        if let Some(what) = address::refusal(address.ip(), allow_loopback) {
            return Err(FetchError::Address(*address, what));
        }
    }
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) if !secure => return ask(stream, &uri).await,
            Ok(stream) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| FetchError::Url)?;
                let stream = TlsConnector::from(tls).connect(name, stream).await?;
                return ask(stream, &uri).await;
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
) -> Result<(Vec<v1::JwtKey>, Duration), FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let answer = sender.send_request(request).await;
    let (head, body) = answer?.into_parts();
    if head.status != StatusCode::OK {
        return Err(FetchError::Status(head.status));
    }
    let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|_| FetchError::Body)?.to_bytes();
    connection.abort();
    let text = std::str::from_utf8(&body).map_err(|_| FetchError::Body)?;
    let said =
        head.headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).and_then(max_age);
    Ok((super::parse(text)?, said.unwrap_or(USUALLY).clamp(SOONEST, LATEST)))
}

fn max_age(control: &str) -> Option<Duration> {
    let mut directives = control.split(',').map(str::trim);
    let seconds = directives.find_map(|directive| directive.strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// The roots of this host's own trust store.
fn tls_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of this host's root certificates cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_is_asked_but_for_loopback_which_is_refused_later() {
        for (url, allowed) in [
            ("https://issuer.example/keys", true),
            ("https://issuer.example:8443/keys?x=y", true),
            ("http://127.0.0.1:8080/keys", true),
            ("http://[::1]:8080/keys", true),
            ("http://issuer.example/keys", false),
            ("http://169.254.169.254/latest", false),
            ("https://user@issuer.example/keys", false),
            ("file:///etc/passwd", false),
            ("/keys", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(url), allowed, "{url}");
        }
    }

    #[test]
    fn freshness_is_what_the_answer_says() {
        assert_eq!(max_age("public, max-age=120"), Some(Duration::from_secs(120)));
        assert_eq!(max_age("no-store"), None);
        assert_eq!(max_age("max-age=x"), None);
    }

    #[tokio::test]
    async fn addresses_of_this_host_are_refused_after_resolution() {
        let tls = Arc::new(tls_config());
        for url in ["https://localhost:1/keys", "http://127.0.0.1:1/keys", "https://169.254.169.254/keys"] {
            let refused = fetch(url, tls.clone(), false).await.unwrap_err();
            assert!(matches!(refused, FetchError::Address(..)), "{url}: {refused}");
        }
    }
}
