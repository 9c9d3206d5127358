//! B3: `b3` and the `x-b3-*` family, as Zipkin's tracers write them.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Incoming, SpanId, TraceContext, TraceId, put_hex};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Reads `b3: TRACE-SPAN[-SAMPLING[-PARENT]]` or a sampling decision alone.
pub(super) fn read_single(headers: &HeaderMap) -> Option<Incoming> {
    let text = only(headers, &SINGLE)?;
    if let [state] = text {
        return sampling(&[*state]).map(|(sampled, debug)| decision(sampled, debug));
    }
    let mut parts = text.split(|b| *b == b'-');
    let trace_id = TraceId::parse(parts.next()?)?;
    let span_id = SpanId::parse(parts.next()?)?;
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(state) => sampling(state).map(|(sampled, debug)| (Some(sampled), debug))?,
    };
    if let Some(parent) = parts.next() {
        SpanId::parse(parent)?;
    }
    if parts.next().is_some() {
        return None;
    }
    Some(Incoming { ids: Some((trace_id, span_id)), sampled, debug, random: false })
}

/// Reads `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled` and `x-b3-flags`.
pub(super) fn read_multi(headers: &HeaderMap) -> Option<Incoming> {
    let debug = headers.contains_key(FLAGS) && only(headers, &FLAGS)? == b"1";
    let sampled = match headers.contains_key(SAMPLED) {
        false => None,
        true => Some(match only(headers, &SAMPLED)? {
            // Some early tracers wrote words; the specification asks to understand them.
            b"1" | b"true" => true,
            b"0" | b"false" => false,
            _ => return None,
        }),
    };
    let sampled = if debug { Some(true) } else { sampled };
    if !headers.contains_key(TRACE_ID) && !headers.contains_key(SPAN_ID) {
        return sampled.map(|sampled| decision(sampled, debug));
    }
    let trace_id = TraceId::parse(only(headers, &TRACE_ID)?)?;
    let span_id = SpanId::parse(only(headers, &SPAN_ID)?)?;
    Some(Incoming { ids: Some((trace_id, span_id)), sampled, debug, random: false })
}

fn decision(sampled: bool, debug: bool) -> Incoming {
    Incoming { ids: None, sampled: Some(sampled), debug, random: false }
}

/// The value, if there is exactly one.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

fn sampling(state: &[u8]) -> Option<(bool, bool)> {
    match state {
        b"0" => Some((false, false)),
        b"1" => Some((true, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

/// Removes every header of both forms.
pub(super) fn remove(headers: &mut HeaderMap) {
    for name in [SINGLE, TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS] {
        headers.remove(name);
    }
}

/// Writes the single header.
pub(super) fn write_single(context: &TraceContext, headers: &mut HeaderMap) {
    let mut text = Vec::with_capacity(68);
    text.extend(trace_digits(context.trace_id));
    text.push(b'-');
    text.extend(span_digits(context.span_id));
    text.extend(match (context.debug, context.sampled) {
        (true, _) => b"-d",
        (false, true) => b"-1",
        (false, false) => b"-0",
    });
    if let Some(parent) = context.parent {
        text.push(b'-');
        text.extend(span_digits(parent));
    }
    headers.insert(SINGLE, value(&text));
}

/// Writes the family. Debug implies sampled, which is then not said (B3: "Debug implies an accept decision").
pub(super) fn write_multi(context: &TraceContext, headers: &mut HeaderMap) {
    headers.insert(TRACE_ID, value(&trace_digits(context.trace_id)));
    headers.insert(SPAN_ID, value(&span_digits(context.span_id)));
    if let Some(parent) = context.parent {
        headers.insert(PARENT_ID, value(&span_digits(parent)));
    }
    match context.debug {
        true => headers.insert(FLAGS, HeaderValue::from_static("1")),
        false => headers.insert(SAMPLED, HeaderValue::from_static(if context.sampled { "1" } else { "0" })),
    };
}

/// 32 digits, or 16 where the upper half is zero: a caller with 64-bit ids may not understand more.
fn trace_digits(id: TraceId) -> Vec<u8> {
    let bytes = id.to_bytes();
    let bytes = if bytes[..8] == [0; 8] { &bytes[8..] } else { &bytes[..] };
    let mut digits = vec![0; bytes.len() * 2];
    put_hex(&mut digits, bytes);
    digits
}

fn span_digits(id: SpanId) -> [u8; 16] {
    let mut digits = [0; 16];
    put_hex(&mut digits, &id.to_bytes());
    digits
}

fn value(digits: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(digits).expect("hexadecimal digits and dashes")
}
