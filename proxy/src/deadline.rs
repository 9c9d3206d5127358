//! By when a request must be answered.
//!
//! A caller that has gone away keeps nobody waiting only if everybody on the way knows when it goes. So the
//! deadline travels: the smallest of the route's timeout and what the caller asks for (`grpc-timeout` or
//! `outrigger-deadline-ms`), less the time already spent, is written into the request for the next hop, which
//! does the same. Past the deadline nothing is sent.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::notable::Notable;
use crate::retry::is_grpc;

/// How much time is left, in milliseconds.
pub const DEADLINE_MS: HeaderName = HeaderName::from_static("outrigger-deadline-ms");
/// How much time is left, as gRPC writes it.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A moment, and the failure that passing it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When the answer must be there.
    pub at: Instant,
    /// What to answer when it is not: `TryTimeout`, `RequestTimeout` or `Deadline`.
    pub failure: Failure,
}

/// Why a field that carries a deadline is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeadlineError {
    /// Not what the gRPC protocol calls a timeout.
    #[error("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n")]
    GrpcTimeout,
    /// Not a number of milliseconds.
    #[error("outrigger-deadline-ms must be 1 to 15 digits, the milliseconds left")]
    DeadlineMs,
}

impl Deadline {
    /// The deadline of a request that arrived at `arrived`: the smaller of the route's timeout and what the
    /// caller asks for. `None`: it may take as long as it likes.
    ///
    /// # Errors
    /// A field that cannot be read; answer with `bad-request`, since to ignore it would hold the caller's
    /// resources for longer than it asked.
    pub fn of(
        headers: &HeaderMap,
        there: Notable,
        route: Option<Duration>,
        arrived: Instant,
    ) -> Result<Option<Self>, DeadlineError> {
        let mut deadline = Self::after(arrived, route, Failure::RequestTimeout);
        if !there.has(Notable::DEADLINE) {
            return Ok(deadline);
        }
        for value in headers.get_all(GRPC_TIMEOUT) {
            let left = parse_grpc_timeout(value.as_bytes())?;
            deadline = Self::earlier(deadline, Self::after(arrived, Some(left), Failure::Deadline));
        }
        for value in headers.get_all(DEADLINE_MS) {
            let left = parse_deadline_ms(value.as_bytes())?;
            deadline = Self::earlier(deadline, Self::after(arrived, Some(left), Failure::Deadline));
        }
        Ok(deadline)
    }

    /// The deadline of one attempt that starts at `now`: its own timeout, or the request's if that is earlier.
    pub fn of_attempt(request: Option<Self>, attempt: Option<Duration>, now: Instant) -> Option<Self> {
        Self::earlier(request, Self::after(now, attempt, Failure::TryTimeout))
    }

    /// The earlier of two; of two at the same moment, the first.
    pub fn earlier(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) if second.at < first.at => Some(second),
            (first, second) => first.or(second),
        }
    }

    /// `left` from `start`. A time that no clock can show is no deadline.
    fn after(start: Instant, left: Option<Duration>, failure: Failure) -> Option<Self> {
        Some(Self { at: start.checked_add(left?)?, failure })
    }

    /// The time left.
    ///
    /// # Errors
    /// None is left; the failure to answer with.
    pub fn remaining(&self, now: Instant) -> Result<Duration, Failure> {
        match self.at.checked_duration_since(now) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(self.failure),
        }
    }

    /// Tells the next hop how much is left: always in `outrigger-deadline-ms`, and in `grpc-timeout` for gRPC. `there`
    /// is what the headers hold already.
    ///
    /// # Errors
    /// Less than a millisecond is left: nothing may be sent; the failure to answer with.
    pub fn write(&self, headers: &mut HeaderMap, there: Notable, now: Instant) -> Result<(), Failure> {
        let left = self.remaining(now)?;
        // Rounded down, so that a deadline never grows on its way.
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(MOST_MS);
        if milliseconds == 0 {
            return Err(self.failure);
        }
        headers.insert(DEADLINE_MS, HeaderValue::from(milliseconds));
        let grpc = there.has(Notable::CONTENT_TYPE.or(Notable::DEADLINE));
        if grpc && (is_grpc(headers) || headers.contains_key(GRPC_TIMEOUT)) {
            headers.insert(GRPC_TIMEOUT, format_grpc_timeout(left));
        }
        Ok(())
    }
}

/// Fifteen nines: 31,000 years.
const MOST_MS: u64 = 999_999_999_999_999;

/// Reads the value of `outrigger-deadline-ms`.
///
/// # Errors
/// Anything but 1 to 15 digits.
pub fn parse_deadline_ms(value: &[u8]) -> Result<Duration, DeadlineError> {
    digits(value, 15).map(Duration::from_millis).ok_or(DeadlineError::DeadlineMs)
}

/// Reads the value of `grpc-timeout` (the gRPC over HTTP/2 protocol, "Timeout").
///
/// # Errors
/// Anything but 1 to 8 digits and a unit.
pub fn parse_grpc_timeout(value: &[u8]) -> Result<Duration, DeadlineError> {
    let (unit, number) = value.split_last().ok_or(DeadlineError::GrpcTimeout)?;
    let number = digits(number, 8).ok_or(DeadlineError::GrpcTimeout)?;
    match unit {
        b'H' => Ok(Duration::from_secs(number * 3600)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(DeadlineError::GrpcTimeout),
    }
}

/// Writes the value of `grpc-timeout` in the finest unit that has room for it, rounded down.
pub fn format_grpc_timeout(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let seconds = u128::from(left.as_secs());
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
    ];
    let (number, unit) =
        units.into_iter().find(|(number, _)| *number <= MOST).unwrap_or(((seconds / 3600).min(MOST), 'H'));
    HeaderValue::try_from(format!("{number}{unit}")).expect("digits and a letter are a field value")
}

fn digits(text: &[u8], most: usize) -> Option<u64> {
    if text.is_empty() || text.len() > most {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn of(
        fields: &HeaderMap,
        route: Option<Duration>,
        now: Instant,
    ) -> Result<Option<Deadline>, DeadlineError> {
        Deadline::of(fields, Notable::of(fields), route, now)
    }

    fn write(deadline: &Deadline, fields: &mut HeaderMap, now: Instant) -> Result<(), Failure> {
        let there = Notable::of(fields);
        deadline.write(fields, there, now)
    }

    #[test]
    fn the_smallest_of_route_and_caller_counts_and_names_the_failure() {
        let now = Instant::now();
        let of = |route, fields: &[_]| of(&headers(fields), route, now).unwrap();
        let caller = |at| Some(Deadline { at: now + at, failure: Failure::Deadline });
        let route = |at| Some(Deadline { at: now + at, failure: Failure::RequestTimeout });
        assert_eq!(of(None, &[]), None);
        assert_eq!(of(Some(ms(50)), &[]), route(ms(50)));
        assert_eq!(of(Some(ms(50)), &[("grpc-timeout", "1S")]), route(ms(50)));
        assert_eq!(of(Some(ms(2000)), &[("grpc-timeout", "1S")]), caller(ms(1000)));
        assert_eq!(of(None, &[("grpc-timeout", "1S"), ("outrigger-deadline-ms", "7")]), caller(ms(7)));
        assert_eq!(
            of(None, &[("outrigger-deadline-ms", "9"), ("outrigger-deadline-ms", "8")]),
            caller(ms(8))
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let now = Instant::now();
        for bad in ["", "S", "1", "1s", "123456789S", "-1S", "1 S", "1.5S", "+1S", "1SS", "٣S"] {
            let fields = headers(&[("grpc-timeout", bad)]);
            assert_eq!(of(&fields, None, now), Err(DeadlineError::GrpcTimeout), "{bad:?}");
        }
        for bad in ["", "x", "-1", "1.5", "1234567890123456"] {
            let fields = headers(&[("outrigger-deadline-ms", bad)]);
            assert_eq!(of(&fields, None, now), Err(DeadlineError::DeadlineMs), "{bad:?}");
        }
    }

    #[test]
    fn an_attempt_never_outlives_its_request() {
        let now = Instant::now();
        let request = of(&headers(&[]), Some(ms(400)), now).unwrap();
        let first = Deadline::of_attempt(request, Some(ms(200)), now).unwrap();
        assert_eq!((first.at, first.failure), (now + ms(200), Failure::TryTimeout));
        let last = Deadline::of_attempt(request, Some(ms(200)), now + ms(300)).unwrap();
        assert_eq!((last.at, last.failure), (now + ms(400), Failure::RequestTimeout));
        assert_eq!(Deadline::of_attempt(None, None, now), None);
    }

    #[test]
    fn time_spent_is_taken_off_for_the_next_hop() {
        let now = Instant::now();
        let mut call = headers(&[("content-type", "application/grpc"), ("grpc-timeout", "1S")]);
        let deadline = of(&call, None, now).unwrap().unwrap();
        write(&deadline, &mut call, now + ms(300)).unwrap();
        assert_eq!(call["grpc-timeout"], "700000u");
        assert_eq!(call["outrigger-deadline-ms"], "700");

        let mut plain = headers(&[]);
        write(&deadline, &mut plain, now + ms(300)).unwrap();
        assert!(!plain.contains_key("grpc-timeout"));
    }

    #[test]
    fn past_the_deadline_nothing_is_sent() {
        let now = Instant::now();
        let deadline = Deadline { at: now + ms(10), failure: Failure::Deadline };
        assert_eq!(deadline.remaining(now + ms(10)), Err(Failure::Deadline));
        assert_eq!(deadline.remaining(now + ms(11)), Err(Failure::Deadline));
        let almost = now + Duration::from_micros(9_500);
        assert_eq!(write(&deadline, &mut headers(&[]), almost), Err(Failure::Deadline));
    }

    #[test]
    fn the_longest_timeouts_are_no_overflow() {
        let now = Instant::now();
        let fields = headers(&[("grpc-timeout", "99999999H"), ("outrigger-deadline-ms", "999999999999999")]);
        let mut onwards = headers(&[("content-type", "application/grpc")]);
        if let Some(deadline) = of(&fields, Some(Duration::MAX), now).unwrap() {
            write(&deadline, &mut onwards, now).unwrap();
        }
        assert_eq!(format_grpc_timeout(Duration::MAX), "99999999H");
    }

    proptest! {
        #[test]
        fn print_then_parse_never_grows_and_loses_little(nanoseconds: u64) {
            let left = Duration::from_nanos(nanoseconds);
            let read = parse_grpc_timeout(format_grpc_timeout(left).as_bytes()).unwrap();
            prop_assert!(read <= left);
            let lost = (left - read).as_secs_f64();
            prop_assert!(lost <= left.as_secs_f64() * 1e-4 + 1e-9, "{left:?} became {read:?}");
        }

        #[test]
        fn reading_never_panics(value in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_grpc_timeout(&value);
            let _ = parse_deadline_ms(&value);
        }
    }
}
