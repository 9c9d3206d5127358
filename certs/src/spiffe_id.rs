//! Who a workload is: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::trust_domain::{TrustDomain, excerpt};

/// The namespace of the control plane's own identity.
pub const CONTROL_PLANE_NAMESPACE: &str = "outrigger";
/// The service account of the control plane's own identity.
pub const CONTROL_PLANE_ACCOUNT: &str = "control-plane";

/// The longest SPIFFE id (SPIFFE-ID §2.3).
const MAX_BYTES: usize = 2048;

/// A workload's identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
///
/// The namespace is a DNS label and the service account a DNS subdomain (RFC 1123), as in Kubernetes. There is
/// exactly one spelling of an identity, so comparing texts compares identities: parsing folds no case, decodes
/// no percent sign and drops no slash. Cheap to clone. Implements [SPIFFE-ID §2].
///
/// [SPIFFE-ID §2]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#2-spiffe-identity
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    /// Where the namespace ends in `text`; it starts after the trust domain.
    namespace_end: u16,
}

/// Why a text is not an identity of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text has another shape.
    #[error("{0:?} is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form(String),
    /// The trust domain has a wrong character or length.
    #[error("the trust domain of {0:?} is not 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// The namespace is not a DNS label.
    #[error("namespace {0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', no '-' at either end")]
    Namespace(String),
    /// The service account is not a DNS subdomain.
    #[error(
        "service account {0:?} is not a DNS subdomain: labels of a-z, 0-9 and '-' joined by '.', at most 253 in all"
    )]
    ServiceAccount(String),
}

impl SpiffeId {
    /// The identity of a service account in a namespace.
    ///
    /// # Errors
    /// A namespace that is not a DNS label, or a service account that is not a DNS subdomain, is refused.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if !is_label(namespace) {
            return Err(SpiffeIdError::Namespace(excerpt(namespace)));
        }
        if !is_subdomain(service_account) {
            return Err(SpiffeIdError::ServiceAccount(excerpt(service_account)));
        }
        Ok(Self::of_checked_parts(trust_domain.clone(), namespace, service_account))
    }

    /// The identity of the control plane itself, which every proxy expects when it connects to it.
    pub fn control_plane(trust_domain: &TrustDomain) -> Self {
        Self::of_checked_parts(trust_domain.clone(), CONTROL_PLANE_NAMESPACE, CONTROL_PLANE_ACCOUNT)
    }

    fn of_checked_parts(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Self {
        let text = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        let namespace_end = namespace_start(&trust_domain) + namespace.len();
        let namespace_end = u16::try_from(namespace_end).expect("255 and 63 bytes fit");
        Self { text: text.into(), trust_domain, namespace_end }
    }

    /// The whole identity as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[namespace_start(&self.trust_domain)..usize::from(self.namespace_end)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

fn namespace_start(trust_domain: &TrustDomain) -> usize {
    "spiffe://".len() + trust_domain.as_str().len() + "/ns/".len()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || SpiffeIdError::Form(excerpt(text));
        if text.len() > MAX_BYTES {
            return Err(form());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        let (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        let trust_domain =
            TrustDomain::new(trust_domain).map_err(|_| SpiffeIdError::TrustDomain(excerpt(text)))?;
        Self::new(&trust_domain, namespace, service_account)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.as_str().to_owned()
    }
}

// The text decides alone: the other fields follow from it.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_its_parts() {
        let id: SpiffeId = "spiffe://outrigger.local/ns/shop/sa/payments.v2".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "outrigger.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "payments.v2");
    }

    #[test]
    fn refuses_every_other_spelling() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe:///ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td:1/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/..",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a\0/sa/b",
            "spiffe://td/ns/a/sa/b ",
            " spiffe://td/ns/a/sa/b",
            "spiffe://td/ns/A/sa/b",
            "spiffe://td/ns/a/sa/%62",
            "spiffe://td/ns/-a/sa/b",
            "spiffe://td/ns/a.b/sa/b",
            "spiffe://td/sa/a/ns/b",
            "spiffe://td/ns/a/sa/b/x/y",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was taken");
        }
        let long = format!("spiffe://td/ns/{}/sa/b", "a".repeat(64));
        assert!(matches!(long.parse::<SpiffeId>(), Err(SpiffeIdError::Namespace(_))));
    }

    #[test]
    fn control_plane_has_an_identity_like_any_other() {
        let domain = TrustDomain::new("outrigger.local").unwrap();
        let id = SpiffeId::control_plane(&domain);
        assert_eq!(id, id.as_str().parse().unwrap());
        assert_eq!(id.as_str(), "spiffe://outrigger.local/ns/outrigger/sa/control-plane");
    }

    proptest! {
        #[test]
        fn printing_and_parsing_is_identity(
            domain in "[a-z0-9._-]{1,40}",
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            account in "[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\\.[a-z0-9]{1,9}){0,3}",
        ) {
            let id = SpiffeId::new(&TrustDomain::new(&domain).unwrap(), &namespace, &account).unwrap();
            let again: SpiffeId = id.to_string().parse().unwrap();
            prop_assert_eq!(&id, &again);
            prop_assert_eq!(again.trust_domain().as_str(), domain);
            prop_assert_eq!(again.namespace(), namespace);
            prop_assert_eq!(again.service_account(), account);
        }

        #[test]
        fn whatever_parses_prints_as_it_was_written(text in "spiffe://.{0,20}(/ns/|.{0,3}).{0,9}(/sa/|.{0,3}).{0,9}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
