//! What a verified token says of whoever brings it.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// The claims of a token (RFC 7519).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims(Map<String, Value>);

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        Self(claims)
    }
}

impl Claims {
    /// The texts of the claim that these names lead to: itself, or what it lists; of `scope` (RFC 8693 section 4.2)
    /// also its words.
    pub fn values(&self, path: &[Box<str>]) -> impl Iterator<Item = Cow<'_, str>> {
        let is_scope = matches!(path, [only] if matches!(&**only, "scope" | "scp"));
        let words = self.find(path).filter(|_| is_scope).and_then(Value::as_str).unwrap_or_default();
        self.items(path).chain(words.split_ascii_whitespace().map(Cow::Borrowed))
    }

    /// The texts of the claim that these names lead to, or of what it lists.
    pub fn items(&self, path: &[Box<str>]) -> impl Iterator<Item = Cow<'_, str>> {
        let items: &[Value] = match self.find(path) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(one) => std::slice::from_ref(one),
        };
        items.iter().filter_map(text)
    }

    /// Who says so, `iss`.
    pub fn issuer(&self) -> &str {
        self.0.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    fn find(&self, path: &[Box<str>]) -> Option<&Value> {
        let mut names = path.iter();
        let mut found = names.next().and_then(|name| self.0.get(&**name));
        for name in names {
            found = found.and_then(|value| value.get(&**name));
        }
        found
    }
}

fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(truth) => Some(Cow::Borrowed(if *truth { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
