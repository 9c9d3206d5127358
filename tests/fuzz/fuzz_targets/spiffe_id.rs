//! An identity, as a certificate names it: what parses prints as it was written.
#![no_main]

use outrigger_certs::SpiffeId;

libfuzzer_sys::fuzz_target!(|text: &str| assert!(
    text.parse().map_or(true, |id: SpiffeId| id.as_str() == text)
));
