//! The cookies of a request, as a caller sends them, and the token of a session among them.
#![no_main]

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};
use outrigger_proxy::cookie::Cookie;
use outrigger_proxy::persistence::{Carrier, SessionPolicy};

libfuzzer_sys::fuzz_target!(|value: &[u8]| if let Ok(value) = HeaderValue::from_bytes(value) {
    let cookie = Cookie { name: "s".into(), path: "/".into(), ttl: None };
    let policy = SessionPolicy::new(Carrier::Cookie(cookie), None, None, b"key");
    assert_eq!(policy.of(&HeaderMap::from_iter([(header::COOKIE, value)]), SystemTime::UNIX_EPOCH), None);
});
