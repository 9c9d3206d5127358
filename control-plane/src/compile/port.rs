//! What a service has: its ports, what is spoken on them, its addresses. From its document where there is one,
//! and from what its workloads registered.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServicePort;
use outrigger_api::ServiceName;
use outrigger_api::v1::Protocol;

use super::{World, external};
use crate::model;
use crate::resources::Service;

/// Ports where the server speaks first, so that waiting for the client's bytes would wait for ever.
pub(crate) const SERVER_FIRST: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// Ports of a service that are opaque bytes, whatever they look like: numbers and ranges, by comma.
const OPAQUE_PORTS: &str = "outrigger.dev/opaque-ports";

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    /// Empty where it has none.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Its `appProtocol` says HTTP/1: no calls can be sent there. A port that is only named so says nothing for sure.
    pub(crate) only_http1: bool,
}

/// One service, as far as routing is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) declared: bool,
    /// Sorted by number.
    pub(crate) ports: Vec<Port>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Headless and ExternalName services take no routes: traffic to them has no address to be bound by.
    pub(crate) routable: bool,
}

impl Facts {
    /// `None`: neither a document nor a registration names the service.
    pub(crate) fn of(world: World<'_>, service: &ServiceName) -> Option<Self> {
        let document = world.model.service(service);
        let registered = world.registered.get(service);
        if document.is_none() && registered.is_none() {
            return None;
        }
        let mut ports = document.map(declared_ports).unwrap_or_default();
        if let Some(document) = document {
            external::look_at_https(world.model, service, document, &mut ports);
        }
        for (number, protocol) in registered.iter().flat_map(|registered| registered.ports.iter()) {
            let protocol = Protocol::try_from(*protocol).unwrap_or_default();
            match ports.iter_mut().find(|port| port.number == *number) {
                // What the document says wins over how the workload registered.
                Some(port) if port.protocol == Protocol::Unspecified => port.protocol = protocol,
                Some(_) => {}
                None => {
                    ports.push(Port { number: *number, name: String::new(), protocol, only_http1: false })
                }
            }
        }
        for port in ports.iter_mut().filter(|port| port.protocol == Protocol::Unspecified) {
            if SERVER_FIRST.contains(&port.number) {
                port.protocol = Protocol::Tcp;
            }
        }
        ports.sort_by_key(|port| port.number);
        let addresses = document.map(model::addresses).unwrap_or_default();
        Some(Self {
            declared: document.is_some(),
            ports,
            addresses,
            routable: document.is_none_or(is_routable),
        })
    }

    /// The port with this number.
    pub(crate) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }
}

fn is_routable(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return true };
    spec.type_.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() != Some("None")
}

fn declared_ports(service: &Service) -> Vec<Port> {
    let opaque = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OPAQUE_PORTS));
    let is_opaque = |number| opaque.is_some_and(|list| lists(list, number));
    let declared = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<Port> = Vec::new();
    for port in declared.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP"))) {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let protocol = if is_opaque(number) { Protocol::Tcp } else { declared_protocol(port) };
        if ports.iter().all(|other| other.number != number) {
            let name = port.name.clone().unwrap_or_default();
            let said = port.app_protocol.as_deref().and_then(self::protocol);
            let only_http1 = protocol == Protocol::Http1 && said == Some(Protocol::Http1);
            ports.push(Port { number, name, protocol, only_http1 });
        }
    }
    ports
}

/// `appProtocol` decides, then the first word of the port's name; otherwise nothing is declared.
fn declared_protocol(port: &ServicePort) -> Protocol {
    let named = port.name.as_deref().and_then(|name| name.split('-').next());
    port.app_protocol.as_deref().and_then(protocol).or_else(|| protocol(named?)).unwrap_or_default()
}

fn protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Some(Protocol::Http1),
        "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        // TLS that the application speaks itself passes through untouched.
        "tcp" | "tls" | "https" | "kubernetes.io/wss" => Some(Protocol::Tcp),
        "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "mongodb" | "smtp" => Some(Protocol::Tcp),
        _ => None,
    }
}

/// Whether a list such as `25,3306,9000-9100` has the number. What is not a number or a range is passed over.
fn lists(list: &str, number: u16) -> bool {
    list.split(',').any(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let bounds = from.trim().parse::<u16>().ok().zip(to.trim().parse::<u16>().ok());
        bounds.is_some_and(|(from, to)| (from..=to).contains(&number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        for (list, number, expected) in [
            ("25", 25, true),
            ("25, 3306", 3306, true),
            ("9000-9100", 9050, true),
            ("9000-9100", 9101, false),
            ("x,25", 25, true),
            ("", 25, false),
        ] {
            assert_eq!(lists(list, number), expected, "{list:?} {number}");
        }
    }

    #[test]
    fn the_protocol_is_declared_by_app_protocol_then_by_name() {
        for (app, name, expected) in [
            (Some("grpc"), Some("http-web"), Protocol::Http2),
            (Some("kubernetes.io/h2c"), None, Protocol::Http2),
            (Some("kubernetes.io/ws"), None, Protocol::Http1),
            (Some("example.com/other"), Some("http"), Protocol::Http1),
            (None, Some("http-web"), Protocol::Http1),
            (None, Some("grpc"), Protocol::Http2),
            (None, Some("tcp-db"), Protocol::Tcp),
            (None, Some("web"), Protocol::Unspecified),
            (None, None, Protocol::Unspecified),
        ] {
            let port = ServicePort {
                app_protocol: app.map(str::to_owned),
                name: name.map(str::to_owned),
                port: 80,
                ..ServicePort::default()
            };
            assert_eq!(declared_protocol(&port), expected, "{app:?} {name:?}");
        }
    }
}
