//! What goes on outside the mesh: hosts that a document lists, and where the mesh allows it, any other.
//!
//! A service of type `ExternalName` stands for a host, and is called by its own name or by the host's, with all that
//! policy says of it. A host that no document lists is called with the defaults, and counted under one name with all
//! others, since callers can invent as many as they like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, Request, Uri};
use outrigger_api::ServiceName;
use tokio::time::timeout;

use crate::body::Body;
use crate::deadline::DEADLINE_MS;
use crate::detect::{Detected, Sniff, detect};
use crate::directory::{Unresolved, find_host};
use crate::failure::{Failure, Side};
use crate::hello::{self, Hello};
use crate::metrics::Wire;
use crate::session::{self, Destination, Session};
use crate::snapshot::{Endpoint, Expected, External, ExternalPort, Service, Snapshot};
use crate::stream::Stream;
use crate::worker::Worker;
use crate::{destination, headers, opaque};

/// The longest name there is (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// The name under which hosts are counted that no document lists.
static UNLISTED: LazyLock<ServiceName> =
    LazyLock::new(|| ServiceName::new("outrigger", "external").expect("two labels"));

/// The name under which a service is counted.
pub(crate) fn label(service: &Service) -> &ServiceName {
    match &service.external {
        Some(external) if !external.listed => &UNLISTED,
        _ => &service.name,
    }
}

/// The port under which it is counted.
pub(crate) fn port_label(service: &Service, port: u16) -> u16 {
    match &service.external {
        Some(external) if !external.listed => 0,
        _ => service.port(port).map_or(0, |known| known.port),
    }
}

/// Serves a connection that was redirected on its way to an address that the mesh does not know.
///
/// Where everything may be called, it is passed on unread. Where only what is listed may, it must say whom it calls: HTTP
/// by the host of each request, TLS by its server name. Both are then called at the addresses which that name has,
/// whatever the connection's own destination was.
pub(crate) async fn serve(worker: Rc<Worker>, client: SocketAddr, mut stream: Stream, original: SocketAddr) {
    if worker.snapshots.current().mesh.egress.allows(original.ip()) {
        return opaque::pass(&worker, stream, original).await;
    }
    let detected = detect(&mut stream, worker.config.limits.detect_timeout).await;
    let session = Session::new(Side::Outbound, client, Destination::Named);
    match detected {
        Ok(Detected::Known(Sniff::Http1)) => return session::serve_http1(worker, session, stream).await,
        Ok(Detected::Known(Sniff::Http2)) => return session::serve_http2(worker, session, stream).await,
        Ok(Detected::Known(Sniff::Tls)) => {
            let patience = worker.config.limits.detect_timeout;
            let named = timeout(patience, server_name(&mut stream)).await.ok().flatten();
            if let Some(host) = named.filter(|host| is_host(host))
                && let Ok((_, service)) = lookup(&worker, &host, original.port()).await
                && service.port(original.port()).is_some()
            {
                let _open = worker.count_accepted(Side::Outbound, Wire::Tcp, false);
                let name = service.name.clone();
                return opaque::carry_to_service(&worker, stream, name, original.port(), true).await;
            }
        }
        Ok(Detected::Known(Sniff::Opaque | Sniff::More) | Detected::TimedOut) => {}
        Ok(Detected::Closed) | Err(_) => return,
    }
    let counted = worker.recorder.metrics.tcp_opened(Side::Outbound, None, 0, None, false);
    counted.closed(Duration::ZERO, Some(Failure::Denied));
    tracing::info!(
        destination = %original,
        error = Failure::Denied.name(),
        "closed a connection that leaves the mesh: MeshConfig's egress.mode is ListedOnly, and neither a Service of \
         type ExternalName nor egress.cidrs lists its destination"
    );
}

/// The server name in a connection's first TLS message, which stays to be read.
async fn server_name(stream: &mut Stream) -> Option<String> {
    loop {
        match hello::server_name(stream.seen()) {
            Hello::Named(name) => return Some(name),
            Hello::Unnamed => return None,
            Hello::More if stream.fill().await.ok()? == 0 => return None,
            Hello::More => {}
        }
    }
}

/// The service that stands for the host which an authority names, and its port.
///
/// # Errors
/// [`Failure::NoRoute`]: it is not the name of a host, or nobody knows it. [`Failure::Denied`]: the mesh does not allow
/// it. [`Failure::NoEndpoints`]: nobody can be asked.
pub(crate) async fn named(
    worker: &Worker,
    uri: &Uri,
    authority: &Authority,
) -> Result<((Arc<Snapshot>, Arc<Service>), u16), Failure> {
    let (host, port) = destination::host(authority)?;
    let (snapshot, service) = lookup(worker, &host, port).await?;
    // Who asks for HTTPS and hands the request over in the clear expects the proxy to encrypt it.
    let listed = service.external.as_ref().is_none_or(|external| external.listed);
    if uri.scheme_str() == Some("https") && !listed {
        return Err(Failure::BadRequest);
    }
    Ok(((snapshot, service), port))
}

/// The service that stands for `host`, which is in lower case, at `port`.
///
/// # Errors
/// As [`named`].
pub(crate) async fn lookup(
    worker: &Worker,
    host: &str,
    port: u16,
) -> Result<(Arc<Snapshot>, Arc<Service>), Failure> {
    if find_host(&worker.snapshots.current(), host, port).is_none()
        && let Ok(address) = host.parse::<IpAddr>()
        && let Ok(service) = worker.directory.resolve_address(SocketAddr::new(address, port)).await
    {
        return Ok((worker.snapshots.current(), service));
    }
    let service = worker.directory.resolve_host(host, port).await.map_err(|unresolved| match unresolved {
        Unresolved::Missing => Failure::NoRoute,
        Unresolved::Unavailable => Failure::NoEndpoints,
        Unresolved::NotAllowed => {
            tracing::info!(
                host,
                port,
                error = Failure::Denied.name(),
                "refused a call that leaves the mesh: MeshConfig's egress.mode is ListedOnly, and no Service of \
                 type ExternalName stands for the host"
            );
            Failure::Denied
        }
    })?;
    if service.endpoints.all.is_empty() && label(&service) == &*UNLISTED {
        return Err(Failure::NoRoute); // a host that nobody has heard of
    }
    Ok((worker.snapshots.current(), service))
}

/// Whether `text` can be the name of a host that no document lists, or an address. A single label cannot: it is more
/// likely a service whose name was misspelt.
pub(crate) fn is_host(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let in_cluster = text.ends_with(".svc") || text.ends_with(".svc.cluster.local");
    text.len() <= MAX_HOST_BYTES && text.contains('.') && !in_cluster && text.split('.').all(is_label)
}

/// Whether a host that no document lists may be called at `address`: not on this machine, and not on its own link,
/// where clouds serve credentials to whoever asks.
pub(crate) fn is_public(address: IpAddr) -> bool {
    let plain = |ip: Ipv4Addr| {
        !(ip.is_loopback()
            || ip.is_unspecified()
            || ip.is_link_local()
            || ip.is_multicast()
            || ip.is_broadcast())
    };
    match address.to_canonical() {
        IpAddr::V4(ip) => plain(ip) && ip.octets()[0] != 0,
        IpAddr::V6(ip) => {
            let link_local = ip.segments()[0] & 0xffc0 == 0xfe80;
            // The EC2 metadata service, which is no link-local address.
            let metadata = ip.segments()[..] == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local || metadata)
        }
    }
}

/// Takes out of a request what concerns the mesh alone, and has it say how it travels.
pub(crate) fn leave(request: &mut Request<Body>, port: &ExternalPort) -> Result<(), Failure> {
    let fields = request.headers_mut();
    for name in [headers::ATTEMPT, headers::CALLER_PROTOCOL, headers::CLIENT_CERT, DEADLINE_MS] {
        fields.remove(name);
    }
    if port.tls.is_some() && request.uri().scheme().is_some() {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failure::BadRequest)?;
    }
    Ok(())
}

/// Takes out of an answer what only a proxy may say.
pub(crate) fn arrive(fields: &mut HeaderMap) {
    fields.remove(headers::ERROR);
}

impl External {
    /// What is called at these addresses: each at each port.
    pub(crate) fn endpoints(&self, addresses: &[IpAddr]) -> Vec<Endpoint> {
        let allowed = addresses.iter().filter(|address| self.listed || is_public(**address));
        let each = allowed.flat_map(|address| self.ports.iter().map(move |port| (*address, port)));
        each.map(|(address, port)| {
            let address = SocketAddr::new(address, port.target_port);
            Endpoint {
                id: format!("{}-{address}", port.port).into(),
                address,
                identity: port.tls.clone().map_or(Expected::Anybody, Expected::Server),
                zone: Arc::default(),
                healthy: true,
                ports: vec![port.port],
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_dot_or_is_an_address() {
        for host in ["api.example.com", "example.com", "_a.b", "192.0.2.1", "::1"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "payments", "a..b", ".", "a b.c", "a.b%41", "a.shop.svc", "a.shop.svc.cluster.local"]
        {
            assert!(!is_host(host), "{host}");
        }
        assert!(!is_host(&format!("{}.com", "a.".repeat(130))));
    }

    #[test]
    fn what_is_on_this_machine_or_its_link_is_not_public() {
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::2"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
