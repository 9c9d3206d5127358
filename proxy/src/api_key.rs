//! API keys: what whoever calls from outside the mesh proves itself by, where it has neither certificate nor token.
//!
//! Known here are names and SHA-256 sums, so that nobody learns a key from a policy. A key is as good as it is long and
//! random; the sum of one that somebody made up can be found by trying.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderName};

/// A longer key is none.
const MOST_BYTES: usize = 1024;

/// The keys that a port takes.
#[derive(Debug)]
pub struct ApiKeys {
    /// Where a key stands.
    pub header: HeaderName,
    /// All of them.
    pub keys: Vec<ApiKey>,
    /// A request without a key is refused.
    pub required: bool,
}

/// One key.
#[derive(Debug)]
pub struct ApiKey {
    /// What rules, limits and the log call it.
    pub name: Arc<str>,
    /// Of the key itself.
    pub sha256: [u8; 32],
}

/// Why a request's key is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// None is there.
    #[error("is missing")]
    Missing,
    /// There is more than one.
    #[error("is not the only one")]
    Several,
    /// It is none of those that are known.
    #[error("is unknown")]
    Unknown,
}

impl ApiKeys {
    /// The name of the key that a request brings; `None`: it brings none, and need not.
    ///
    /// # Errors
    /// Why it is no good.
    pub fn find(&self, fields: &HeaderMap) -> Result<Option<&Arc<str>>, Invalid> {
        let mut values = fields.get_all(&self.header).iter();
        let key = match (values.next(), values.next()) {
            (None, _) if self.required => return Err(Invalid::Missing),
            (None, _) => return Ok(None),
            (Some(_), Some(_)) => return Err(Invalid::Several),
            (Some(key), None) => key.as_bytes(),
        };
        if key.len() > MOST_BYTES {
            return Err(Invalid::Unknown);
        }
        let sum = digest(&SHA256, key);
        // All of them are looked at, so that the time tells nothing, neither of the sum nor of its place.
        let mut found = None;
        for known in &self.keys {
            if verify_slices_are_equal(sum.as_ref(), &known.sha256).is_ok() {
                found = Some(&known.name);
            }
        }
        found.map(Some).ok_or(Invalid::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_brings_one_key_that_is_known() {
        let key = |name: &str, text: &str| {
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
            ApiKey { name: name.into(), sha256 }
        };
        let keys = |required| ApiKeys {
            header: HeaderName::from_static("x-api-key"),
            keys: vec![key("phone", "one"), key("partner", "two")],
            required,
        };
        let long = "x".repeat(MOST_BYTES + 1);
        for (values, expected) in [
            (&["one"][..], Ok(Some("phone"))),
            (&["two"], Ok(Some("partner"))),
            (&["One"], Err(Invalid::Unknown)),
            (&[""], Err(Invalid::Unknown)),
            (&[&long], Err(Invalid::Unknown)),
            (&["one", "one"], Err(Invalid::Several)),
            (&[], Err(Invalid::Missing)),
        ] {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append("x-api-key", value.parse().unwrap());
            }
            let found = |keys: &ApiKeys| keys.find(&fields).map(|found| found.map(|name| name.to_string()));
            assert_eq!(found(&keys(true)), expected.map(|name| name.map(str::to_owned)), "{values:?}");
            let lenient = if values.is_empty() { Ok(None) } else { expected };
            assert_eq!(found(&keys(false)), lenient.map(|name| name.map(str::to_owned)), "{values:?}");
        }
    }
}
