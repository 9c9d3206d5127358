//! Conditions on values that a caller chose.

use super::Effect;
use crate::route::Pattern;

/// What a value must be.
#[derive(Debug, Clone)]
pub enum Text {
    /// This.
    Exact(Box<str>),
    /// Something that begins so.
    Prefix(Box<str>),
    /// What an expression matches from end to end.
    Regex(Pattern),
}

impl Text {
    /// Whether it is. An expression cannot tell of bytes that are no text.
    pub(super) fn is(&self, value: &[u8], effect: Effect) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => match std::str::from_utf8(value) {
                Ok(text) => pattern.matches(text),
                Err(_) => effect.of_unknown(),
            },
        }
    }
}
