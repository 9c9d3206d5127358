//! The way in from outside the mesh: the listeners of a Gateway, on a proxy of their own.
//!
//! What comes in takes the routes of the Gateway as if a workload had called a service of that name, and goes on to
//! the mesh over mutual TLS with the gateway's own identity. Nothing is believed that only a proxy may say.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_api::ServiceName;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::detect::{Detected, Sniff, detect};
use crate::failure::{Failure, Side};
use crate::headers::Scheme;
use crate::listener::Accepted;
use crate::metrics::Limit;
use crate::session::{self, Destination, Session};
use crate::snapshot::Snapshots;
use crate::stream::Stream;
use crate::wide::Wide;
use crate::worker::Worker;
use crate::{alpn, outbound};

/// Where a gateway's proxy takes connections in: a host may be served under several certificates.
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
    let listeners = match outbound::lookup(&worker, &name).await {
        Ok((_, service)) => service.listeners.clone(),
        Err(failure) => {
            return tracing::info!(%client, gateway = %name, error = failure.name(), "closed a connection");
        }
    };
    let Some(listener) = listeners.iter().find(|listener| listener.port == port) else {
        return tracing::info!(%client, gateway = %name, port, "closed a connection: the gateway has no such port");
    };
    let destination = Destination::Fixed(name, port);
    let session = Session::new(Side::Outbound, client, destination);
    if listener.certificate.is_none() {
        let session = Session { gateway: Some(Scheme::Http), ..session };
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
    let session = Session { gateway: Some(Scheme::Https), ..session };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(alpn::H2);
    let stream = Stream::from(tokio_rustls::TlsStream::Server(stream));
    if http2 {
        session::serve_http2(worker, session, stream).await;
    } else {
        session::serve_http1(worker, session, stream).await;
    }
}

/// Outside there is HTTP and nothing else.
async fn serve_http(worker: Rc<Worker>, session: Session, mut stream: Stream) {
    match detect(&mut stream, worker.config.limits.head_timeout).await {
        Ok(Detected::Known(Sniff::Http2)) => session::serve_http2(worker, session, stream).await,
        Ok(Detected::Known(Sniff::Http1)) => session::serve_http1(worker, session, stream).await,
        Ok(Detected::Known(Sniff::Opaque | Sniff::More | Sniff::Tls)) => {
            worker.recorder.metrics.request_refused(Side::Outbound, Failure::BadRequest);
        }
        Ok(Detected::TimedOut | Detected::Closed) | Err(_) => {}
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
        let listeners = &snapshot.services.get(&self.gateway)?.listeners;
        let name = certificate(listeners, self.port, hello.server_name())?;
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

/// The certificate of the listener that a client means. One that names no server is shown that of the first.
fn certificate<'a>(listeners: &'a [GatewayListener], port: u16, host: Option<&str>) -> Option<&'a str> {
    let on_port = listeners.iter().filter(|listener| listener.port == port);
    let meant = match host {
        None => on_port.into_iter().next(),
        Some(host) => on_port
            .filter(|listener| listener.host.as_ref().is_none_or(|pattern| pattern.covers(host)))
            .min_by_key(|listener| (listener.host.is_none(), listener.host.as_ref().map(HostPattern::rank))),
    };
    meant?.certificate.as_deref()
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

    #[test]
    fn the_most_specific_listener_shows_its_certificate() {
        let listener = |port, host: &str, certificate: &str| GatewayListener {
            port,
            host: (!host.is_empty()).then(|| HostPattern::new(host)),
            certificate: Some(certificate.into()),
        };
        let listeners = [
            listener(443, "*.example.com", "wild"),
            listener(443, "a.example.com", "exact"),
            listener(443, "*.b.example.com", "longer"),
            listener(8443, "", "any"),
        ];
        for (port, host, expected) in [
            (443, Some("a.example.com"), Some("exact")),
            (443, Some("c.example.com"), Some("wild")),
            (443, Some("x.b.example.com"), Some("longer")),
            (443, Some("other.org"), None),
            (443, None, Some("wild")),
            (8443, Some("other.org"), Some("any")),
        ] {
            assert_eq!(certificate(&listeners, port, host), expected, "{port} {host:?}");
        }
    }
}
