//! The trace that a request belongs to: read from the caller's headers, written into the next hop's.
//!
//! A trace breaks where one hop fails to pass its context on, so this happens for every request, with or without
//! a collector. Read are W3C Trace Context ([level 2]) and B3 in its [single and multi-header] forms, in this
//! order; the first valid one wins and the others are replaced by what we write, so that two formats never tell
//! two stories. What is malformed is refused whole, as both specifications ask, and a new trace starts: half a
//! trace id would join strangers. `baggage` is the application's own and is never touched.
//!
//! [level 2]: https://www.w3.org/TR/trace-context-2/
//! [single and multi-header]: https://github.com/openzipkin/b3-propagation

mod b3;
mod w3c;

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use http::{HeaderMap, HeaderValue};
use rand::{Rng, RngExt};

use crate::notable::Notable;
use crate::snapshot::TraceFormat;

/// Names one trace: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU128);

/// Names one span within a trace: 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// The context of one hop's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// This hop's own span.
    pub span_id: SpanId,
    /// The caller's span; `None` where the trace starts here.
    pub parent: Option<SpanId>,
    /// The parent is another process's span.
    pub parent_is_remote: bool,
    /// Spans of this trace are recorded.
    pub sampled: bool,
    /// B3's debug flag: recorded whatever samplers say, here and further on.
    debug: bool,
    /// The low 7 bytes of the trace id are known to be random (W3C level 2).
    random: bool,
    /// The formats that the request came with.
    seen: Formats,
}

/// A set of header formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Formats(u8);

impl Formats {
    const fn bit(format: TraceFormat) -> u8 {
        match format {
            TraceFormat::W3c => 1,
            TraceFormat::B3 => 2,
            TraceFormat::B3Multi => 4,
        }
    }

    fn with(self, format: TraceFormat) -> Self {
        Self(self.0 | Self::bit(format))
    }

    fn has(self, format: TraceFormat) -> bool {
        self.0 & Self::bit(format) != 0
    }
}

/// What one format's headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Incoming {
    /// The caller's trace and span; `None` where only a sampling decision came (B3).
    ids: Option<(TraceId, SpanId)>,
    /// `None`: the decision is left to us (B3).
    sampled: Option<bool>,
    debug: bool,
    random: bool,
}

impl TraceContext {
    fn start(ratio: f64, rng: &mut impl Rng) -> Self {
        let trace_id = TraceId::random(rng);
        Self {
            trace_id,
            span_id: SpanId::random(rng),
            parent: None,
            parent_is_remote: false,
            sampled: trace_id.within(ratio),
            debug: false,
            random: true,
            seen: Formats::default(),
        }
    }

    /// Reads the caller's context and makes this hop's span of it, or starts a trace.
    ///
    /// The caller's sampling decision is kept. Where there is none, `ratio` of the traces (0 to 1) is sampled,
    /// decided by the trace id, so that every proxy with the same ratio decides alike.
    pub fn extract(headers: &HeaderMap, ratio: f64, rng: &mut impl Rng) -> Self {
        Self::extract_from(headers, Notable::of(headers), ratio, rng)
    }

    /// The same where it is known what the headers hold.
    pub(crate) fn extract_from(headers: &HeaderMap, there: Notable, ratio: f64, rng: &mut impl Rng) -> Self {
        if !there.has(Notable::TRACE) {
            return Self::start(ratio, rng);
        }
        let mut seen = Formats::default();
        let mut found = None;
        for (format, group, read) in [
            (TraceFormat::W3c, Notable::W3C, w3c::read as fn(&HeaderMap) -> Option<Incoming>),
            (TraceFormat::B3, Notable::B3, b3::read_single),
            (TraceFormat::B3Multi, Notable::B3, b3::read_multi),
        ] {
            if let Some(incoming) = there.has(group).then(|| read(headers)).flatten() {
                seen = seen.with(format);
                found = found.or(Some(incoming));
            }
        }
        let span_id = SpanId::random(rng);
        let ids = found.and_then(|f| f.ids);
        let (trace_id, random) = match ids {
            Some((trace_id, _)) => (trace_id, found.is_some_and(|f| f.random)),
            None => (TraceId::random(rng), true),
        };
        Self {
            trace_id,
            span_id,
            parent: ids.map(|(_, parent)| parent),
            parent_is_remote: ids.is_some(),
            sampled: found.and_then(|f| f.sampled).unwrap_or_else(|| trace_id.within(ratio)),
            debug: found.is_some_and(|f| f.debug),
            random,
            seen,
        }
    }

    /// The context of a span below this one, for one attempt.
    pub fn child(&self, rng: &mut impl Rng) -> Self {
        Self {
            span_id: SpanId::random(rng),
            parent: Some(self.span_id),
            parent_is_remote: false,
            ..self.clone()
        }
    }

    /// Writes the context into the headers for the next hop: in the formats that the request came with and in
    /// `formats`. Other trace headers are removed; `tracestate` stays only if it is valid beside a valid
    /// `traceparent`.
    ///
    /// `there` is what the headers hold already.
    pub fn inject(&self, headers: &mut HeaderMap, formats: &[TraceFormat], there: Notable) {
        let write = |format| self.seen.has(format) || formats.contains(&format);
        if write(TraceFormat::W3c) {
            w3c::write(self, headers);
        }
        if there.has(Notable::W3C) {
            if !write(TraceFormat::W3c) {
                w3c::remove(headers);
            } else if !self.seen.has(TraceFormat::W3c) {
                w3c::remove_state(headers);
            } else {
                w3c::remove_invalid_state(headers);
            }
        }
        if there.has(Notable::B3) {
            b3::remove(headers);
        }
        if write(TraceFormat::B3) {
            b3::write_single(self, headers);
        }
        if write(TraceFormat::B3Multi) {
            b3::write_multi(self, headers);
        }
    }
}

impl TraceId {
    fn random(rng: &mut impl Rng) -> Self {
        loop {
            if let Some(id) = NonZeroU128::new(rng.random()) {
                return Self(id);
            }
        }
    }

    /// Reads 32 (or, in B3, 16) lower-case hexadecimal digits.
    fn parse(digits: &[u8]) -> Option<Self> {
        if !matches!(digits.len(), 16 | 32) {
            return None;
        }
        NonZeroU128::new(hex(digits)?).map(Self)
    }

    /// Whether this trace is among the share `ratio` of all, as OpenTelemetry's TraceIdRatioBased decides.
    fn within(self, ratio: f64) -> bool {
        const WHOLE: f64 = (1_u64 << 63) as f64;
        let position = (self.0.get() as u64) >> 1;
        ratio >= 1.0 || (position as f64) < ratio * WHOLE
    }

    /// Big-endian, as it is printed.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The 32 lower-case hexadecimal digits, as the value of a field. No other message will have the same: HTTP/2
    /// need not remember it.
    pub fn to_value(self) -> HeaderValue {
        let mut digits = [0; 32];
        put_hex(&mut digits, &self.to_bytes());
        once(HeaderValue::from_bytes(&digits).expect("hexadecimal digits are a field value"))
    }
}

impl SpanId {
    fn random(rng: &mut impl Rng) -> Self {
        loop {
            if let Some(id) = NonZeroU64::new(rng.random()) {
                return Self(id);
            }
        }
    }

    /// Reads 16 lower-case hexadecimal digits.
    fn parse(digits: &[u8]) -> Option<Self> {
        if digits.len() != 16 {
            return None;
        }
        NonZeroU64::new(hex(digits)? as u64).map(Self)
    }

    /// Big-endian, as it is printed.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

/// A value that no other message has. HPACK keeps what it has seen for the next message, which costs both ends a table
/// entry and drives out others, unless it is told not to (RFC 7541 section 6.2.3).
fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Lower-case hexadecimal only: both specifications refuse upper case.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Writes the lower-case hexadecimal digits of `bytes` at the start of `out`.
fn put_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
