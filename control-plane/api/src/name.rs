//! The name of a service: what a Host header, a route and a registration have in common.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::v1;

/// A service's namespace and name, each a DNS label (RFC 1123: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end).
///
/// Prints and parses as `NAME.NAMESPACE`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// Why a text is not the name of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A part is not a DNS label.
    #[error("{0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', no '-' at either end")]
    Label(String),
    /// The text is not `NAME.NAMESPACE`.
    #[error("{0:?} is not NAME.NAMESPACE")]
    Form(String),
}

impl ServiceName {
    /// Makes a name of its two parts.
    ///
    /// # Errors
    /// A part that is not a DNS label is refused, with its text.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        for part in [namespace, name] {
            if !is_label(part) {
                return Err(NameError::Label(part.to_owned()));
            }
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the host of an authority: `NAME`, `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` or
    /// `NAME.NAMESPACE.svc.cluster.local`, upper case folded, one final dot ignored.
    ///
    /// `own_namespace` completes the short form.
    ///
    /// # Errors
    /// Anything else is not the name of a service in the mesh.
    pub fn from_host(host: &str, own_namespace: &str) -> Result<Self, NameError> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let mut parts = host.split('.');
        let name = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(own_namespace);
        let rest: Vec<&str> = parts.collect();
        match rest.as_slice() {
            [] | ["svc"] | ["svc", "cluster", "local"] => Self::new(namespace, name),
            _ => Err(NameError::Form(host)),
        }
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, namespace) = text.split_once('.').ok_or_else(|| NameError::Form(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl TryFrom<v1::ServiceName> for ServiceName {
    type Error = NameError;

    fn try_from(name: v1::ServiceName) -> Result<Self, NameError> {
        Self::new(&name.namespace, &name.name)
    }
}

impl From<&ServiceName> for v1::ServiceName {
    fn from(name: &ServiceName) -> Self {
        Self { namespace: name.namespace().to_owned(), name: name.name().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_every_form_lead_to_the_same_service() {
        let payments = ServiceName::new("shop", "payments").unwrap();
        for host in [
            "payments",
            "payments.shop",
            "Payments.Shop",
            "payments.shop.svc",
            "payments.shop.svc.cluster.local",
            "payments.shop.svc.cluster.local.",
        ] {
            assert_eq!(ServiceName::from_host(host, "shop"), Ok(payments.clone()), "{host}");
        }
    }

    #[test]
    fn a_host_outside_the_mesh_is_no_service() {
        for host in [
            "",
            ".",
            "example.com.au",
            "payments.shop.svc.cluster.remote",
            "a..b",
            "-a.b",
            "a_b.c",
            "10.0.0.1",
        ] {
            assert!(ServiceName::from_host(host, "shop").is_err(), "{host}");
        }
    }

    #[test]
    fn print_then_parse_is_identity() {
        let name = ServiceName::new("shop", "payments").unwrap();
        assert_eq!(name.to_string().parse(), Ok(name));
    }
}
