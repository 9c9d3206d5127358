//! A join token, as a workload shows it: what parses prints as it was written, but for white space around it.
#![no_main]

use outrigger_certs::JoinToken;

libfuzzer_sys::fuzz_target!(|text: &str| {
    assert!(text.parse().map_or(true, |token: JoinToken| token.to_string() == text.trim()))
});
