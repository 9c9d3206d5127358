//! The TLS server name by which one proxy asks another for a service port.
#![no_main]

libfuzzer_sys::fuzz_target!(|name: &str| drop(outrigger_proxy::peer_name::parse_server_name(name)));
