//! The bytes of an HTTP/1 connection, as a client sends them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = outrigger_proxy::strict::Framing::new().feed(bytes);
});
