//! An error and its causes on one line, for logs and for the reason of a refusal.

use std::error::Error;
use std::fmt::Write;

/// The error, then each cause after a colon.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        write!(text, ": {cause}").expect("a String takes every write");
        next = cause.source();
    }
    text
}
