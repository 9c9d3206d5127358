//! The name under which a mesh's identities are issued: the authority part of every SPIFFE id.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest trust domain (SPIFFE-ID §2.1).
const MAX_BYTES: usize = 255;

/// A trust domain such as `outrigger.local`: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
///
/// Two trust domains share no root, so an identity of one proves nothing in the other. Cheap to clone; prints
/// and parses as the bare name. Implements [SPIFFE-ID §2.1].
///
/// [SPIFFE-ID §2.1]: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#21-trust-domain
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

/// A text that is not a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a trust domain: write 1 to 255 of a-z, 0-9, '.', '-' and '_', such as outrigger.local")]
pub struct TrustDomainError(String);

impl TrustDomain {
    /// Reads a trust domain.
    ///
    /// # Errors
    /// A text that is empty, too long or has any other character is refused.
    pub fn new(name: &str) -> Result<Self, TrustDomainError> {
        if is_trust_domain(name) { Ok(Self(name.into())) } else { Err(TrustDomainError(excerpt(name))) }
    }

    /// The bare name, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) fn is_trust_domain(name: &str) -> bool {
    (1..=MAX_BYTES).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// The start of a text that somebody else wrote, so that an error message stays short.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.as_str().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_spiffe_allows_and_nothing_else() {
        for good in ["outrigger.local", "a", "x_y-z.9", &"d".repeat(255)] {
            assert_eq!(TrustDomain::new(good).unwrap().to_string(), good);
        }
        for bad in
            ["", "Outrigger.local", "a b", "a/b", "a:443", "user@a", "a\0b", "é", "a%20b", &"d".repeat(256)]
        {
            assert!(TrustDomain::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_error_shows_only_the_start_of_a_long_text() {
        let error = TrustDomain::new(&"A".repeat(10_000)).unwrap_err().to_string();
        assert!(error.len() < 300, "{} bytes", error.len());
    }
}
