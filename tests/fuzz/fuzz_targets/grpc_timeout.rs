//! The value of `grpc-timeout`, as a caller sends it.
#![no_main]

libfuzzer_sys::fuzz_target!(|value: &[u8]| {
    let _ = outrigger_proxy::deadline::parse_grpc_timeout(value);
});
