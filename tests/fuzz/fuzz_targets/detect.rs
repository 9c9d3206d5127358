//! The first bytes of a connection, of which the proxy tells the protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = outrigger_proxy::detect::sniff(bytes);
});
