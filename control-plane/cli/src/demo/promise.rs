//! What the demo promised, beside what was seen.

use serde::Serialize;

/// One thing that a mesh is for, checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Promise {
    /// What was promised.
    pub(crate) promised: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether the one is the other.
    pub(crate) kept: bool,
}

impl Promise {
    /// A promise and how it ended.
    pub(crate) fn new(promised: impl Into<String>, seen: impl Into<String>, kept: bool) -> Self {
        Self { promised: promised.into(), seen: seen.into(), kept }
    }
}

/// How far the share of a canary may be from what was asked for, given how many requests there were.
///
/// Chance moves the share of `requests` independent choices by one standard deviation, the root of p(1-p)/n; five
/// of them are hardly ever passed (once in 1.7 million runs). Never under two points.
pub(crate) fn tolerance(share: f64, requests: u64) -> f64 {
    let deviation = (share * (1.0 - share) / requests.max(1) as f64).sqrt();
    (5.0 * deviation).max(0.02)
}

/// `97.3 %`
pub(crate) fn percent(share: f64) -> String {
    // A loss that is there must not be rounded away.
    let shown = if share < 1.0 { (share * 1e4).floor() / 1e2 } else { share * 1e2 };
    let text = format!("{shown:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `12,345`
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.23 ms`, or seconds from one second on.
pub(crate) fn latency(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_requests_leave_more_to_chance_than_many() {
        assert!(tolerance(0.1, 100) > tolerance(0.1, 1_000));
        assert_eq!(tolerance(0.1, 1_000_000), 0.02);
        assert!(tolerance(0.1, 0).is_finite());
    }

    #[test]
    fn a_loss_is_never_rounded_away() {
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_999), "99.99 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.7), "70 %");
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [count(0), count(999), count(1_000), count(1_234_567)].map(|s| s).each_ref().map(String::as_str)
        );
        assert_eq!([latency(7), latency(1_500), latency(2_500_000)].join(" "), "7 us 1.50 ms 2.50 s");
    }
}
