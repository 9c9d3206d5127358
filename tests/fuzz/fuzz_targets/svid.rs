//! A leaf certificate, as a peer sends it in a handshake.
#![no_main]

libfuzzer_sys::fuzz_target!(|leaf: &[u8]| drop(outrigger_certs::Leaf::read(leaf)));
