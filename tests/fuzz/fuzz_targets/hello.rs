//! The first TLS message of a connection that leaves the mesh, which names whom it calls.
#![no_main]

use outrigger_proxy::hello::{Hello, server_name};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let said = server_name(bytes);
    if let Hello::Named(name) = &said {
        let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        assert!(name.bytes().all(plain), "{name:?}");
    }
    let half = server_name(&bytes[..bytes.len() / 2]);
    assert!(half == Hello::More || half == said, "more bytes do not change a verdict: {half:?}, {said:?}");
});
