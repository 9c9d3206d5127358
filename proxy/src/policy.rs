//! Turns what the control plane sends into types that cannot be wrong.
//!
//! The control plane has validated every document before, so that a problem here means a newer control plane or a
//! bug; either way the proxy keeps the last good policy, and the refusal names every field that it could not use.
//! Nothing is filled in silently: what the contract says is always there and is not, is a problem.

mod access;
mod api_keys;
mod backend;
mod balancing;
mod external;
mod fallback;
mod filters;
mod gateway;
mod hedging;
mod jwt;
mod limits;
mod problem;
mod routes;
mod session;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use outrigger_api::{ServiceName, v1};

pub use problem::{PolicyError, Problem};

use crate::gateway::Gateway;
use crate::snapshot::{
    BackendPolicy, Egress, Endpoint, External, Inbound, InboundPort, MeshSettings, Protocol, ServicePort,
    TraceFormat,
};
use problem::{Path, Problems};

/// What a `Service` message says; endpoints come apart.
#[derive(Debug)]
pub struct ServiceParts {
    /// Its name.
    pub name: ServiceName,
    /// The store's revision.
    pub version: u64,
    /// Its ports with their routes, in the message's order.
    pub ports: Vec<Arc<ServicePort>>,
    /// How its endpoints are called.
    pub policy: Arc<BackendPolicy>,
    /// Addresses that redirected traffic is recognised by.
    pub addresses: Vec<IpAddr>,
    /// Where it is, if not in the mesh.
    pub external: Option<Arc<External>>,
    /// Where its proxy takes connections in and on which terms, if it is a gateway.
    pub gateway: Option<Arc<Gateway>>,
}

/// Reads a service.
///
/// # Errors
/// Every problem with its field's path.
pub fn service(raw: &v1::Service) -> Result<ServiceParts, PolicyError> {
    let mut problems = Problems::default();
    let path = Path::Root("service");
    let name = service_name(raw.name.as_ref(), &path.field("name"), &mut problems);
    let mut ports: Vec<Arc<ServicePort>> = Vec::with_capacity(raw.ports.len());
    for (index, raw) in raw.ports.iter().enumerate() {
        let path = path.field("ports");
        let path = path.index(index);
        let Some(port) = routes::port(raw, &path, &mut problems) else { continue };
        if ports.iter().any(|earlier| earlier.port == port.port) {
            problems.add(&path.field("port"), format!("{} is there twice", port.port));
        }
        ports.push(Arc::new(port));
    }
    let policy = backend::policy(raw.policy.as_ref(), &path.field("policy"), &mut problems);
    let mut addresses = Vec::with_capacity(raw.addresses.len());
    for (index, text) in raw.addresses.iter().enumerate() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                problems.add(&path.field("addresses").index(index), format!("{text:?} is not an IP address"))
            }
        }
    }
    let external = raw.external.as_ref();
    let external = external.and_then(|raw| external::external(raw, &path.field("external"), &mut problems));
    let gateway = raw.gateway.as_ref();
    let gateway = gateway.map(|raw| gateway::gateway(raw, &path.field("gateway"), &mut problems));
    let version = raw.version;
    problems.result(name.zip(policy).map(|(name, policy)| ServiceParts {
        name,
        version,
        ports,
        policy: Arc::new(policy),
        addresses,
        external: external.map(Arc::new),
        gateway: gateway.map(Arc::new),
    }))
}

/// Reads the endpoints that changed.
///
/// # Errors
/// Every problem with its field's path.
pub fn endpoints(raw: &v1::Endpoints) -> Result<Vec<Endpoint>, PolicyError> {
    let mut problems = Problems::default();
    let path = Path::Root("endpoints");
    let mut changed = Vec::with_capacity(raw.changed.len());
    for (index, raw) in raw.changed.iter().enumerate() {
        changed.extend(endpoint(raw, &path.field("changed").index(index), &mut problems));
    }
    problems.result(Some(changed))
}

fn endpoint(raw: &v1::Endpoint, path: &Path<'_>, problems: &mut Problems) -> Option<Endpoint> {
    if raw.id.is_empty() {
        problems.add(&path.field("id"), "is empty");
    }
    let address = raw.address.parse().ok().filter(|address: &std::net::SocketAddr| address.port() != 0);
    if address.is_none() {
        problems.add(&path.field("address"), format!("{:?} is not IP:PORT", raw.address));
    }
    let identity = raw.identity.parse();
    if let Err(error) = &identity {
        problems.add(&path.field("identity"), format!("{:?}: {error}", raw.identity));
    }
    let mut ports = Vec::with_capacity(raw.ports.len());
    for (index, number) in raw.ports.iter().enumerate() {
        ports.extend(port_number(*number, &path.field("ports").index(index), problems));
    }
    Some(Endpoint {
        id: Arc::from(&*raw.id),
        address: address?,
        identity: identity.ok()?,
        zone: Arc::from(&*raw.zone),
        healthy: raw.healthy,
        ports,
    })
}

/// Reads the settings that hold for every service.
///
/// # Errors
/// Every problem with its field's path.
pub fn mesh(raw: &v1::MeshSettings) -> Result<MeshSettings, PolicyError> {
    let mut problems = Problems::default();
    let path = Path::Root("mesh");
    if !(0.0..=1.0).contains(&raw.sampling_ratio) {
        problems.add(&path.field("samplingRatio"), format!("{} is not between 0 and 1", raw.sampling_ratio));
    }
    let endpoint = (!raw.otlp_endpoint.is_empty()).then(|| raw.otlp_endpoint.clone());
    if endpoint.as_deref().is_some_and(|text| !is_collector(text)) {
        let problem = format!("{:?} is not http://HOST:PORT or https://HOST:PORT", raw.otlp_endpoint);
        problems.add(&path.field("otlpEndpoint"), problem);
    }
    let mut trace_formats = Vec::with_capacity(raw.trace_formats.len());
    for (index, number) in raw.trace_formats.iter().enumerate() {
        match v1::TraceFormat::try_from(*number) {
            Ok(v1::TraceFormat::W3c) => trace_formats.push(TraceFormat::W3c),
            Ok(v1::TraceFormat::B3) => trace_formats.push(TraceFormat::B3),
            Ok(v1::TraceFormat::B3Multi) => trace_formats.push(TraceFormat::B3Multi),
            Ok(v1::TraceFormat::Unspecified) | Err(_) => {
                problems.add(&path.field("traceFormats").index(index), format!("{number} is not known here"));
            }
        }
    }
    let normalize_paths = match v1::PathNormalization::try_from(raw.path_normalization) {
        Ok(v1::PathNormalization::None) => false,
        Ok(v1::PathNormalization::Full | v1::PathNormalization::Unspecified) => true,
        Err(_) => {
            let problem = format!("{} is not known here", raw.path_normalization);
            problems.add(&path.field("pathNormalization"), problem);
            true
        }
    };
    let egress = egress(raw.egress.as_ref(), &path.field("egress"), &mut problems);
    problems.result(Some(MeshSettings {
        version: raw.version,
        permissive_mtls: raw.permissive_mtls,
        sampling_ratio: raw.sampling_ratio,
        access_log: raw.access_log,
        otlp_endpoint: endpoint,
        trace_formats,
        normalize_paths,
        egress,
    }))
}

fn egress(raw: Option<&v1::Egress>, path: &Path<'_>, problems: &mut Problems) -> Egress {
    let Some(raw) = raw else { return Egress::default() };
    let mut cidrs = Vec::with_capacity(raw.cidrs.len());
    for (index, text) in raw.cidrs.iter().enumerate() {
        cidrs.extend(problems.ok(text.parse::<IpNet>(), &path.field("cidrs").index(index)));
    }
    Egress { listed_only: raw.listed_only, cidrs }
}

fn is_collector(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

/// Reads what holds for the workload's own ports.
///
/// # Errors
/// Every problem with its field's path.
pub fn inbound(raw: &v1::Inbound) -> Result<Inbound, PolicyError> {
    let mut problems = Problems::default();
    let path = Path::Root("inbound");
    let ports = inbound_ports(&raw.ports, &path, &mut problems);
    problems.result(Some(Inbound { ports }))
}

/// Reads what holds for those who come in at the ports of what is at `path`.
fn inbound_ports(raw: &[v1::InboundPort], path: &Path<'_>, problems: &mut Problems) -> Vec<InboundPort> {
    let mut ports: Vec<InboundPort> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let path = path.field("ports");
        let path = path.index(index);
        let number = port_number(raw.port, &path.field("port"), problems);
        let protocol = protocol(raw.protocol, &path.field("protocol"), problems);
        let access = raw.access.as_ref();
        let access = access.map(|raw| Arc::new(access::access(raw, &path.field("access"), problems)));
        let jwt = raw.jwt.as_ref();
        let jwt = jwt.map(|raw| Arc::new(jwt::jwt(raw, &path.field("jwt"), problems)));
        let keys = raw.api_keys.as_ref();
        let keys = keys.map(|raw| api_keys::api_keys(raw, &path.field("apiKeys"), problems));
        let rate_limits = limits::limits(&raw.rate_limits, &path, problems);
        let concurrency = raw.concurrency.as_ref();
        let concurrency =
            concurrency.and_then(|raw| limits::concurrency(raw, &path.field("concurrency"), problems));
        let Some((port, protocol)) = number.zip(protocol) else { continue };
        if ports.iter().any(|earlier| earlier.port == port) {
            problems.add(&path.field("port"), format!("{port} is there twice"));
        }
        let api_keys = keys.flatten().map(Arc::new);
        ports.push(InboundPort { port, protocol, access, jwt, api_keys, rate_limits, concurrency });
    }
    ports
}

fn service_name(
    raw: Option<&v1::ServiceName>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<ServiceName> {
    let raw = problems.present(raw, path)?;
    problems.ok(ServiceName::new(&raw.namespace, &raw.name), path)
}

fn port_number(raw: u32, path: &Path<'_>, problems: &mut Problems) -> Option<u16> {
    let number = u16::try_from(raw).ok().filter(|number| *number != 0);
    if number.is_none() {
        problems.add(path, format!("{raw} is not a port, 1 to 65535"));
    }
    number
}

fn protocol(raw: i32, path: &Path<'_>, problems: &mut Problems) -> Option<Protocol> {
    match v1::Protocol::try_from(raw) {
        Ok(v1::Protocol::Unspecified) => Some(Protocol::Detect),
        Ok(v1::Protocol::Http1) => Some(Protocol::Http1),
        Ok(v1::Protocol::Http2) => Some(Protocol::Http2),
        Ok(v1::Protocol::Tcp) => Some(Protocol::Tcp),
        Err(_) => {
            problems.add(path, format!("protocol {raw} is not known here"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
