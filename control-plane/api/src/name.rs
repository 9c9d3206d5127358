//! The name of a service: what a Host header, a route and a registration have in common.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::v1;

/// The longest label there is (RFC 1123).
const MAX_LABEL_BYTES: usize = 63;

/// A service's namespace and name, each a DNS label (RFC 1123: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end).
///
/// Prints and parses as `NAME.NAMESPACE`. Cheap to clone. In order of the namespaces, and of the names within one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// As it prints: one text is compared, hashed and counted once where two would be twice.
    text: Arc<str>,
    /// How much of it is the name.
    dot: u8,
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
            if !is_label(part.as_bytes()) {
                return Err(NameError::Label(part.to_owned()));
            }
        }
        Ok(Self::of_labels(namespace.as_bytes(), name.as_bytes()))
    }

    /// Upper case is folded.
    fn of_labels(namespace: &[u8], name: &[u8]) -> Self {
        let mut buffer = [b'.'; 2 * MAX_LABEL_BYTES + 1];
        let text = &mut buffer[..name.len() + 1 + namespace.len()];
        text[..name.len()].copy_from_slice(name);
        text[name.len() + 1..].copy_from_slice(namespace);
        text.make_ascii_lowercase();
        let text = str::from_utf8(text).expect("labels are ASCII");
        let dot = u8::try_from(name.len()).expect("a label has at most 63 bytes");
        Self { text: text.into(), dot }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.dot) + 1..]
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.text[..usize::from(self.dot)]
    }

    /// Reads the host of an authority: `NAME`, `NAME.NAMESPACE`, `NAME.NAMESPACE.svc` or
    /// `NAME.NAMESPACE.svc.cluster.local`, upper case folded, one final dot ignored.
    ///
    /// `own_namespace` completes the short form.
    ///
    /// # Errors
    /// Anything else is not the name of a service in the mesh.
    pub fn from_host(host: &str, own_namespace: &str) -> Result<Self, NameError> {
        let bytes = host.strip_suffix('.').unwrap_or(host).as_bytes();
        let folded = || String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let (name, rest) = split_at_dot(bytes);
        let (namespace, rest) = match rest.map(split_at_dot) {
            Some((namespace, rest)) => (namespace, rest),
            None if is_label(own_namespace.as_bytes()) => (own_namespace.as_bytes(), None),
            None => return Err(NameError::Label(own_namespace.to_owned())),
        };
        let in_cluster = |rest: &[u8]| {
            rest.eq_ignore_ascii_case(b"svc") || rest.eq_ignore_ascii_case(b"svc.cluster.local")
        };
        if !rest.is_none_or(in_cluster) {
            return Err(NameError::Form(folded()));
        }
        for part in [namespace, name] {
            if !is_label_of_any_case(part) {
                return Err(NameError::Label(String::from_utf8_lossy(part).to_ascii_lowercase()));
            }
        }
        Ok(Self::of_labels(namespace, name))
    }
}

/// What is before the first dot, and after it.
fn split_at_dot(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&bytes[..dot], Some(&bytes[dot + 1..])),
        None => (bytes, None),
    }
}

fn is_label(bytes: &[u8]) -> bool {
    is_label_of_any_case(bytes) && !bytes.iter().any(u8::is_ascii_uppercase)
}

fn is_label_of_any_case(bytes: &[u8]) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.namespace().cmp(other.namespace()).then_with(|| self.name().cmp(other.name()))
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
            "a.-b.svc",
            "a.b.svc.cluster",
            "a.b.SVC.cluster.local..",
            "caf\u{e9}.shop",
        ] {
            assert!(ServiceName::from_host(host, "shop").is_err(), "{host}");
        }
    }

    #[test]
    fn names_are_in_order_of_their_namespaces_first() {
        let name = |text: &str| text.parse::<ServiceName>().unwrap();
        let mut names = ["b.a", "a.b", "a-b.a", "a.a", "a.a-b"].map(name);
        names.sort();
        assert_eq!(names.map(|name| name.to_string()), ["a.a", "a-b.a", "b.a", "a.a-b", "a.b"]);
    }

    #[test]
    fn the_longest_labels_fit_and_longer_ones_do_not() {
        let (longest, longer) = ("n".repeat(MAX_LABEL_BYTES), "n".repeat(MAX_LABEL_BYTES + 1));
        let name = ServiceName::new(&longest, &longest).unwrap();
        assert_eq!((name.namespace(), name.name()), (&*longest, &*longest));
        assert_eq!(ServiceName::from_host(&format!("{longest}.{longest}"), "shop"), Ok(name));
        assert!(ServiceName::new("shop", &longer).is_err());
        assert!(ServiceName::from_host(&longer, "shop").is_err());
        assert!(ServiceName::from_host("payments", &longer).is_err(), "the proxy's own namespace counts too");
    }

    #[test]
    fn print_then_parse_is_identity() {
        let name = ServiceName::new("shop", "payments").unwrap();
        assert_eq!(name.to_string().parse(), Ok(name));
    }
}
