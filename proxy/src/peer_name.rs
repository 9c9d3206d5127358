//! The TLS server name by which a proxy asks its peer for one port of one service.
//!
//! `p<PORT>.<NAME>.<NAMESPACE>.outrigger` says where a connection is to go. It proves nothing: who the peer is
//! comes from its certificate, and the peer serves a port only if it has an application for it.

use outrigger_api::ServiceName;
use rustls_pki_types::{DnsName, ServerName};

const SUFFIX: &str = "outrigger";

/// The name to send in a connection's ClientHello for `port` of `service`.
pub fn server_name(service: &ServiceName, port: u16) -> ServerName<'static> {
    let text = format!("p{port}.{}.{}.{SUFFIX}", service.name(), service.namespace());
    // A service name is two DNS labels: with the port's and the suffix at most 145 of the 253 bytes allowed.
    ServerName::DnsName(DnsName::try_from(text).expect("labels of a service name make a DNS name"))
}

/// The service and port that a ClientHello's name asks for, `None` for a name that no proxy sends.
pub fn parse_server_name(name: &str) -> Option<(ServiceName, u16)> {
    let mut labels = name.split('.');
    let (port, name, namespace, suffix) = (labels.next()?, labels.next()?, labels.next()?, labels.next()?);
    if suffix != SUFFIX || labels.next().is_some() {
        return None;
    }
    Some((ServiceName::new(namespace, name).ok()?, parse_port(port.strip_prefix('p')?)?))
}

/// Digits without sign or leading zero, 1 to 65535, so that a port has one spelling.
fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_then_parse_is_identity() {
        for (namespace, name, port) in
            [("shop", "payments", 1), ("a", "b-c", 65535), (&*"n".repeat(63), &*"m".repeat(63), 8080)]
        {
            let service = ServiceName::new(namespace, name).unwrap();
            let ServerName::DnsName(text) = server_name(&service, port) else { panic!("not a DNS name") };
            assert_eq!(parse_server_name(text.as_ref()), Some((service, port)));
        }
    }

    #[test]
    fn other_names_lead_nowhere() {
        for name in [
            "",
            "p80",
            "payments.shop.outrigger",
            "80.payments.shop.outrigger",
            "p.payments.shop.outrigger",
            "p0.payments.shop.outrigger",
            "p080.payments.shop.outrigger",
            "p+80.payments.shop.outrigger",
            "p65536.payments.shop.outrigger",
            "p80.payments.shop.example",
            "p80.payments.shop.outrigger.",
            "p80.x.payments.shop.outrigger",
            "p80.-payments.shop.outrigger",
            "p80..shop.outrigger",
        ] {
            assert_eq!(parse_server_name(name), None, "{name}");
        }
    }
}
