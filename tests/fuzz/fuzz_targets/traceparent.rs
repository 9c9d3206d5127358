//! The value of `traceparent`, as a caller sends it.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_proxy::trace::TraceContext;
use rand::{SeedableRng, rngs::StdRng};

const NAME: HeaderName = HeaderName::from_static("traceparent");

libfuzzer_sys::fuzz_target!(|value: &[u8]| if let Ok(value) = HeaderValue::from_bytes(value) {
    TraceContext::extract(&HeaderMap::from_iter([(NAME, value)]), 1.0, &mut StdRng::seed_from_u64(1));
});
