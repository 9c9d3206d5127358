//! What happens to a request's head: its bytes checked, its fields stripped, its trace read and passed on.

use std::hint::black_box;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_proxy::notable::Notable;
use outrigger_proxy::snapshot::TraceFormat;
use outrigger_proxy::strict::Framing;
use outrigger_proxy::trace::TraceContext;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::step::Work;

/// A head as a browser's would be behind an ingress, or a client library's with a trace.
const FIELDS: [(&str, &str); 9] = [
    ("host", "payments.shop"),
    ("user-agent", "checkout/3.14 (linux; x86_64)"),
    ("accept", "application/json, text/plain;q=0.9"),
    ("accept-encoding", "gzip, deflate, br"),
    ("connection", "keep-alive"),
    ("authorization", "Bearer 4f1c2d3e5a6b79880123456789abcdef"),
    ("cookie", "session=0123456789abcdef; theme=dark"),
    ("x-request-id", "7d3e9c52-9a0b-4c1f-8f6e-2b1a0c9d8e7f"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
];

fn fields() -> HeaderMap {
    FIELDS
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// Its bytes, before the HTTP library sees them.
pub(crate) fn check() -> Work {
    let lines = FIELDS.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let head = format!("GET /api/v1/charges/17?expand=card HTTP/1.1\r\n{lines}\r\n");
    let mut framing = Framing::new();
    Box::new(move || framing.feed(black_box(head.as_bytes())).expect("the head is right"))
}

/// Which of its fields concern the proxy.
pub(crate) fn look() -> Work {
    let fields = fields();
    Box::new(move || {
        black_box(Notable::of(black_box(&fields)));
    })
}

/// What belongs to one connection taken out of a copy of it. The copy is measured, too.
pub(crate) fn strip() -> Work {
    let fields = fields();
    Box::new(move || {
        let mut fields = black_box(&fields).clone();
        outrigger_proxy::strip_hop_by_hop(&mut fields);
        black_box(fields);
    })
}

/// The caller's trace, and this hop's span in it.
pub(crate) fn extract() -> Work {
    let fields = fields();
    let mut rng = StdRng::seed_from_u64(7);
    Box::new(move || {
        black_box(TraceContext::extract(black_box(&fields), 0.01, &mut rng));
    })
}

/// The trace, written over the caller's.
pub(crate) fn inject() -> Work {
    let mut fields = fields();
    let there = Notable::of(&fields);
    let trace = TraceContext::extract(&fields, 0.01, &mut StdRng::seed_from_u64(7));
    Box::new(move || trace.inject(black_box(&mut fields), &[TraceFormat::W3c], there))
}
