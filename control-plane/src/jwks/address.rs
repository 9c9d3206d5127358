//! Which addresses the control plane may be sent to by a document.
//!
//! Whoever may write a policy may name a URL in it. That must not become a way to ask for what only the control plane's
//! own host can reach: a cloud's metadata service, or what listens on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services that are not on link-local addresses: of AWS by IPv6, and of Alibaba and Oracle by IPv4.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why it may not go there; `None`: it may.
pub(crate) fn refusal(address: IpAddr, allow_loopback: bool) -> Option<&'static str> {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return Some("a metadata service");
    }
    match address {
        _ if address.is_unspecified() => Some("no address of anybody"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.is_loopback() => (!allow_loopback).then_some("a loopback address"),
        IpAddr::V4(address) if address.is_link_local() => Some("a link-local address"),
        IpAddr::V4(address) if address.is_broadcast() => Some("a broadcast address"),
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("no address of anybody"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("a link-local address"),
        // NAT64 and 6to4 hold an address of IPv4, which may be any of the above.
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                let inner = Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
                refusal(inner.into(), allow_loopback)
            }
            _ => None,
        },
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_host_can_reach_is_refused_in_every_spelling() {
        for (address, refused) in [
            ("127.0.0.1", true),
            ("127.8.8.8", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("::", true),
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::169.254.169.254", true),
            ("2002:a9fe:a9fe::1", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("100.100.100.200", true),
            ("255.255.255.255", true),
            ("224.0.0.1", true),
            ("10.0.0.1", false),
            ("93.184.216.34", false),
            ("2606:2800:220:1::1", false),
        ] {
            assert_eq!(refusal(address.parse().unwrap(), false).is_some(), refused, "{address}");
        }
        assert_eq!(refusal("127.0.0.1".parse().unwrap(), true), None);
        assert!(refusal("169.254.169.254".parse().unwrap(), true).is_some());
    }
}
