//! `traceparent` and `tracestate`, W3C Trace Context level 2.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Incoming, SpanId, TraceContext, TraceId, once, put_hex};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;
/// `00-` trace id `-` span id `-` flags.
const LENGTH: usize = 55;
/// More than this many members may not be passed on (section 3.3.1.1 of the recommendation).
const MAX_MEMBERS: usize = 32;

/// Reads `traceparent`. Two of them are none (section 3.2.2.1: exactly one).
pub(super) fn read(headers: &HeaderMap) -> Option<Incoming> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    parse(value.as_bytes())
}

fn parse(text: &[u8]) -> Option<Incoming> {
    let (fixed, rest) = text.split_at_checked(LENGTH)?;
    let version = byte(&fixed[..2])?;
    // Version 255 is forbidden; version 0 ends here; a later one may go on after a dash (section 4.3).
    let ends_well = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !ends_well || fixed[2] != b'-' || fixed[35] != b'-' || fixed[52] != b'-' {
        return None;
    }
    let trace_id = TraceId::parse(&fixed[3..35])?;
    let span_id = SpanId::parse(&fixed[36..52])?;
    let flags = byte(&fixed[53..55])?;
    Some(Incoming {
        ids: Some((trace_id, span_id)),
        sampled: Some(flags & SAMPLED != 0),
        debug: false,
        random: flags & RANDOM != 0,
    })
}

fn byte(digits: &[u8]) -> Option<u8> {
    super::hex(digits).map(|number| number as u8)
}

/// Writes `traceparent`.
pub(super) fn write(context: &TraceContext, headers: &mut HeaderMap) {
    let mut text = [b'-'; LENGTH];
    text[..2].copy_from_slice(b"00");
    put_hex(&mut text[3..35], &context.trace_id.to_bytes());
    put_hex(&mut text[36..52], &context.span_id.to_bytes());
    let sampled = if context.sampled { SAMPLED } else { 0 };
    let random = if context.random { RANDOM } else { 0 };
    put_hex(&mut text[53..55], &[sampled | random]);
    let value = HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes");
    headers.insert(TRACEPARENT, once(value));
}

/// Removes a `tracestate` that cannot be read.
pub(super) fn remove_invalid_state(headers: &mut HeaderMap) {
    if headers.contains_key(TRACESTATE) && !state_is_valid(headers) {
        remove_state(headers);
    }
}

/// Removes `tracestate`.
pub(super) fn remove_state(headers: &mut HeaderMap) {
    headers.remove(TRACESTATE);
}

/// Removes both.
pub(super) fn remove(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
}

/// Whether all `tracestate` headers together are a list of at most 32 members with distinct keys
/// (section 3.3.1); one bad member spoils the whole.
fn state_is_valid(headers: &HeaderMap) -> bool {
    let mut keys: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(TRACESTATE) {
        for member in value.as_bytes().split(|b| *b == b',') {
            let member = member.trim_ascii();
            if member.is_empty() {
                continue; // allowed, and not counted
            }
            let Some(equals) = member.iter().position(|b| *b == b'=') else { return false };
            let (key, value) = (&member[..equals], &member[equals + 1..]);
            if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == MAX_MEMBERS {
                return false;
            }
            keys.push(key);
        }
    }
    true
}

/// Level 2: a lower-case letter or digit, then up to 255 of those, `_`, `-`, `*`, `/` and `@`.
fn is_key(key: &[u8]) -> bool {
    let Some(first) = key.first() else { return false };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    key.len() <= 256 && plain(first) && key.iter().all(|b| plain(b) || b"_-*/@".contains(b))
}

/// 1 to 256 printable characters but `,` and `=`; the blanks around it are trimmed already.
fn is_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len())
        && value.iter().all(|b| (0x20..=0x7e).contains(b) && *b != b',' && *b != b'=')
}
