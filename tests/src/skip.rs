//! Saying aloud that a test could test nothing here.

use std::io::Write as _;

/// Says so on standard error itself, since what a passing test prints is not shown.
pub fn skip(test: &str, why: &str) {
    // Where standard error is closed, nobody listens.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: {why}");
}
