//! The way in from outside the mesh: the listeners of a Gateway, on a proxy of their own.
//!
//! What comes in must pass the policies that name the Gateway as their target, by the same code that decides beside an
//! application (`gate.rs`). Then it takes the routes of one listener, the one that means its host best, as if a
//! workload had called a service of that name, and goes on to the mesh over mutual TLS with the gateway's own identity.
//! Nothing is believed that only a proxy may say, and nothing is served before the control plane has said what holds.

use std::rc::Rc;
use std::sync::Arc;

use http::uri::Authority;
use http::{Method, Version, request};
use outrigger_api::ServiceName;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access::host_of;
use crate::certificates::Certificates;
use crate::detect::begins_http2;
use crate::failure::{Failure, Side};
use crate::filter::Filter;
use crate::flight::Flight;
use crate::headers::Scheme;
use crate::listener::Accepted;
use crate::metrics::Limit;
use crate::retry::is_grpc;
use crate::session::{self, Destination, Session};
use crate::snapshot::{InboundPort, Service, Snapshots};
use crate::stream::Stream;
use crate::wide::Wide;
use crate::worker::Worker;
use crate::{alpn, gate, outbound};

/// Where a gateway's proxy takes connections in, and on which terms.
#[derive(Debug)]
pub struct Gateway {
    /// In the document's order; routes are looked up by the number of one, which counts from 1.
    pub listeners: Vec<GatewayListener>,
    /// What holds for those who come in, by the listeners' ports.
    pub ports: Vec<InboundPort>,
}

impl Gateway {
    /// What holds at a port.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|known| known.port == port)
    }

    /// The index of the listener of `port` that means a host best. Who names no host means the first.
    fn listener(&self, port: u16, host: Option<&str>) -> Option<usize> {
        let mut on_port = self.listeners.iter().enumerate().filter(|(_, listener)| listener.port == port);
        let Some(host) = host else { return on_port.next().map(|(index, _)| index) };
        on_port
            .filter(|(_, listener)| listener.host.as_ref().is_none_or(|pattern| pattern.covers(host)))
            .min_by_key(|(_, listener)| {
                (listener.host.is_none(), listener.host.as_ref().map(HostPattern::rank))
            })
            .map(|(index, _)| index)
    }

    /// The certificate of the listener that a client means by its server name.
    fn certificate(&self, port: u16, host: Option<&str>) -> Option<&str> {
        self.listeners[self.listener(port, host)?].certificate.as_deref()
    }

    /// The number of the listener whose routes a request takes. One that came over TLS takes those of the listener whose
    /// certificate its client was shown, and no others: what a connection was opened for is all that it may carry.
    fn lane(&self, port: u16, host: &str, entry: &Entry) -> Result<u16, Failure> {
        let meant = self.listener(port, Some(host)).ok_or(Failure::NoRoute)?;
        if let Entry::Https(name) = entry
            && self.listener(port, name.as_deref()) != Some(meant)
        {
            return Err(Failure::Misdirected); // RFC 9110 section 15.5.20
        }
        u16::try_from(meant + 1).map_err(|_| Failure::NoRoute)
    }
}

/// How a connection came in.
#[derive(Debug)]
pub(crate) enum Entry {
    Http,
    /// With this server name.
    Https(Option<Box<str>>),
}

impl Entry {
    pub(crate) fn scheme(&self) -> Scheme {
        match self {
            Self::Http => Scheme::Http,
            Self::Https(_) => Scheme::Https,
        }
    }
}

/// What a request came in as.
pub(crate) struct Entered {
    /// The number of its listener, by which its routes are found.
    pub(crate) lane: u16,
    /// It has shown nothing, and must not go on: a browser asks what a page may send, and never with a token or a key
    /// (Fetch, section 4.8).
    pub(crate) asks_only: bool,
}

/// Lets a request in, its path in the normal form, if the policies of the gateway do.
///
/// # Errors
/// Those of [`gate::enter`]; [`Failure::NoRoute`]: no listener means its host; [`Failure::Misdirected`]: another one
/// does than the connection was opened for.
pub(crate) fn enter(
    worker: &Worker,
    session: &Rc<Session>,
    entry: &Entry,
    service: &Service,
    head: &mut request::Parts,
    authority: &Authority,
    flight: &mut Flight,
) -> Result<Entered, Failure> {
    let Destination::Fixed(_, port) = session.destination else { return Err(Failure::NoRoute) };
    let gateway = service.gateway.as_deref().ok_or(Failure::NoRoute)?;
    let rules = gateway.port(port).ok_or(Failure::NoRoute)?;
    let exchange = flight.exchange();
    if exchange.uri != head.uri {
        exchange.uri = head.uri.clone(); // what may have to be asked again is asked of the normal form
    }
    let lane = gateway.lane(port, &host_of(authority), entry);
    let asks_only = lane.is_ok_and(|lane| is_preflight(service, lane, head));
    if asks_only {
        gate::limit(worker, session, rules, head, flight)?;
    } else {
        gate::enter(worker, session, rules, head, authority, flight)?;
    }
    if head.version == Version::HTTP_2 && head.method != Method::CONNECT && !is_grpc(&head.headers) {
        // A browser speaks HTTP/2 to any gateway; that says nothing of the application.
        head.version = Version::HTTP_11;
    }
    lane.map(|lane| Entered { lane, asks_only })
}

/// Whether the route that a request takes answers it as a browser's question.
fn is_preflight(service: &Service, lane: u16, head: &request::Parts) -> bool {
    if head.method != Method::OPTIONS {
        return false;
    }
    let rule = service.port(lane).and_then(|port| port.routes.as_ref()?.find(head));
    rule.is_some_and(|rule| {
        rule.filters.iter().any(|filter| match filter {
            Filter::Cors(cors) => cors.preflight(head).is_some(),
            _ => false,
        })
    })
}

/// One listener: a host may be served under several certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayListener {
    /// The listener's port, which is not necessarily the one that the proxy listens on.
    pub port: u16,
    /// `None`: any host.
    pub host: Option<HostPattern>,
    /// The certificate's name; `None`: plain HTTP.
    pub certificate: Option<Arc<str>>,
}

/// A host, or all hosts under a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This one.
    Exact(Box<str>),
    /// Those that end in this, which begins with a dot.
    Under(Box<str>),
}

impl HostPattern {
    /// Reads `a.example.com` or `*.example.com`.
    pub fn new(text: &str) -> Self {
        let folded = text.to_ascii_lowercase();
        match folded.strip_prefix('*') {
            Some(suffix) => Self::Under(suffix.into()),
            None => Self::Exact(folded.into()),
        }
    }

    /// Whether it means this host, in whichever case.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
        match self {
            Self::Exact(exact) => host.eq_ignore_ascii_case(exact.as_bytes()),
            Self::Under(suffix) => {
                host.len() > suffix.len()
                    && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            }
        }
    }

    /// What is more specific comes first: a whole name, then longer suffixes.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>) {
        match self {
            Self::Exact(_) => (false, std::cmp::Reverse(0)),
            Self::Under(suffix) => (true, std::cmp::Reverse(suffix.len())),
        }
    }
}

/// Serves a connection from outside.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted, index: usize) {
    let target = &worker.config.listens[index];
    let (name, port) = (target.service.clone(), target.port);
    let Accepted { io, peer: client, .. } = accepted;
    let gateway = match outbound::lookup(&worker, &name).await {
        Ok((_, service)) => service.gateway.clone(),
        Err(failure) => {
            return tracing::info!(%client, gateway = %name, error = failure.name(), "closed a connection");
        }
    };
    let listeners = gateway.as_ref().map_or(&[][..], |gateway| &gateway.listeners);
    let Some(listener) = listeners.iter().find(|listener| listener.port == port) else {
        return tracing::info!(%client, gateway = %name, port, "closed a connection: the gateway has no such port");
    };
    let destination = Destination::Fixed(name, port);
    let session = Session::new(Side::Outbound, client, destination);
    if listener.certificate.is_none() {
        let session = Session { gateway: Some(Entry::Http), ..session };
        return serve_http(worker, session, io.into()).await;
    }
    let config = worker.gateway_tls[index].clone();
    let handshake = TlsAcceptor::from(config).accept(Wide::from(io));
    let stream = match timeout(worker.config.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            worker.recorder.metrics.tls_refused(Side::Outbound, Failure::TlsHandshake);
            return tracing::info!(%client, cause = %error, "refused a connection from outside");
        }
        Err(_) => return worker.recorder.metrics.limit_reached(Side::Outbound, Limit::HandshakeTime),
    };
    let connection = stream.get_ref().1;
    let entry = Entry::Https(connection.server_name().map(Into::into));
    let session = Session { gateway: Some(entry), ..session };
    let http2 = connection.alpn_protocol() == Some(alpn::H2);
    let stream = Stream::from(tokio_rustls::TlsStream::Server(stream));
    if http2 {
        session::serve_http2(worker, session, stream).await;
    } else {
        session::serve_http1(worker, session, stream).await;
    }
}

/// Outside there is HTTP and nothing else: what does not begin HTTP/2 is HTTP/1, and is told there what is wrong with it.
async fn serve_http(worker: Rc<Worker>, session: Session, mut stream: Stream) {
    match timeout(worker.config.limits.head_timeout, begins_http2(&mut stream)).await {
        Ok(Ok(Some(true))) => session::serve_http2(worker, session, stream).await,
        Ok(Ok(Some(false))) => session::serve_http1(worker, session, stream).await,
        Ok(Ok(None) | Err(_)) | Err(_) => {}
    }
}

/// The TLS of one port of a gateway. Which certificate a client is shown follows from the listeners as they are at the
/// moment of its handshake.
pub(crate) fn tls(
    snapshots: Snapshots,
    certificates: Certificates,
    gateway: ServiceName,
    port: u16,
) -> Arc<ServerConfig> {
    let chooser = Chooser { snapshots, certificates, gateway, port };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of every version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(chooser));
    config.alpn_protocols = vec![alpn::H2.to_vec(), alpn::HTTP1.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Chooser {
    snapshots: Snapshots,
    certificates: Certificates,
    gateway: ServiceName,
    port: u16,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.snapshots.current();
        let gateway = snapshot.services.get(&self.gateway)?.gateway.as_deref()?;
        let name = gateway.certificate(self.port, hello.server_name())?;
        let found = self.certificates.get(self.gateway.namespace(), name);
        if found.is_none() {
            tracing::warn!(
                certificate = name,
                "a listener's certificate is not in the directory of --certificates"
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_host_or_a_domain() {
        let exact = HostPattern::new("A.example.com");
        assert!(exact.covers("a.EXAMPLE.com") && exact.covers("a.example.com."));
        assert!(!exact.covers("b.example.com") && !exact.covers("x.a.example.com"));
        let under = HostPattern::new("*.example.com");
        assert!(under.covers("a.example.com") && under.covers("x.A.example.com"));
        assert!(
            !under.covers("example.com") && !under.covers(".example.com") && !under.covers("aexample.com")
        );
    }

    fn listener(port: u16, host: &str, certificate: &str) -> GatewayListener {
        GatewayListener {
            port,
            host: (!host.is_empty()).then(|| HostPattern::new(host)),
            certificate: Some(certificate.into()),
        }
    }

    fn gateway() -> Gateway {
        let listeners = vec![
            listener(443, "*.example.com", "wild"),
            listener(443, "a.example.com", "exact"),
            listener(443, "*.b.example.com", "longer"),
            listener(8443, "", "any"),
        ];
        Gateway { listeners, ports: Vec::new() }
    }

    #[test]
    fn the_most_specific_listener_shows_its_certificate() {
        for (port, host, expected) in [
            (443, Some("a.example.com"), Some("exact")),
            (443, Some("c.example.com"), Some("wild")),
            (443, Some("x.b.example.com"), Some("longer")),
            (443, Some("other.org"), None),
            (443, None, Some("wild")),
            (8443, Some("other.org"), Some("any")),
        ] {
            assert_eq!(gateway().certificate(port, host), expected, "{port} {host:?}");
        }
    }

    #[test]
    fn a_request_takes_the_lane_of_its_host_and_only_that_which_its_connection_was_opened_for() {
        let https = |name: &str| Entry::Https((!name.is_empty()).then(|| name.into()));
        for (port, host, entry, expected) in [
            (443, "a.example.com", Entry::Http, Ok(2)),
            (443, "c.example.com", Entry::Http, Ok(1)),
            (443, "other.org", Entry::Http, Err(Failure::NoRoute)),
            (443, "a.example.com", https("a.example.com"), Ok(2)),
            (443, "c.example.com", https("d.example.com"), Ok(1)),
            (443, "a.example.com", https("c.example.com"), Err(Failure::Misdirected)),
            (443, "c.example.com", https("a.example.com"), Err(Failure::Misdirected)),
            (443, "c.example.com", https(""), Ok(1)),
            (443, "a.example.com", https(""), Err(Failure::Misdirected)),
            (443, "other.org", https("a.example.com"), Err(Failure::NoRoute)),
            (8443, "a.example.com", https("other.org"), Ok(4)),
        ] {
            assert_eq!(gateway().lane(port, host, &entry), expected, "{port} {host} {entry:?}");
        }
    }
}
