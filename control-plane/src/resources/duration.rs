//! Durations as policy documents write them (GEP-2257): `1h30m`, `250ms`, `0s`.
//!
//! The Gateway API types carry durations as text; our own kinds carry [`Period`], which cannot hold a text that
//! is none. Both are read by the same parser, so that one text means the same everywhere.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One to four parts of one to five digits and a unit (GEP-2257).
pub(crate) const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// The longest duration that can be printed again: 99999h59m59s999ms.
const LONGEST: Duration = Duration::from_millis((99_999 * 3600 + 59 * 60 + 59) * 1000 + 999);

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write one to four of a whole number and h, m, s or ms, as in 1m30s or 250ms"
)]
pub struct PeriodError(String);

/// A duration of a policy document, in whole milliseconds, at most 99999h59m59s999ms (GEP-2257).
///
/// Zero switches a timeout off where the field allows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

impl Period {
    /// A period of so many milliseconds; what cannot be printed is cut to the longest that can.
    pub const fn from_millis(millis: u64) -> Self {
        let longest = LONGEST.as_millis() as u64;
        Self(Duration::from_millis(if millis < longest { millis } else { longest }))
    }

    /// The same as a standard duration.
    pub fn duration(self) -> Duration {
        self.0
    }

    /// Whether the period is zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let refuse = || PeriodError(text.to_owned());
        let mut rest = text;
        let mut millis = 0u64;
        for part in 0.. {
            if rest.is_empty() && part > 0 {
                break;
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if part == 4 || !(1..=5).contains(&digits) {
                return Err(refuse());
            }
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| refuse())?;
            let (unit, tail) = unit(tail).ok_or_else(refuse)?;
            millis += number * unit; // four times 99999 h in milliseconds is far from overflowing
            rest = tail;
        }
        let duration = Duration::from_millis(millis);
        if duration > LONGEST { Err(refuse()) } else { Ok(Self(duration)) }
    }
}

/// The unit that `text` starts with, in milliseconds, and what follows it.
fn unit(text: &str) -> Option<(u64, &str)> {
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
        .into_iter()
        .find_map(|(name, millis)| Some((millis, text.strip_prefix(name)?)))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let mut millis = self.0.as_millis();
        for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")] {
            if millis >= unit {
                write!(f, "{}{name}", millis / unit)?;
                millis %= unit;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_specification_is_read() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("1s", 1000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("1s1s", 2000),
            ("00001s", 1000),
            ("99999h59m59s999ms", LONGEST.as_millis() as u64),
        ] {
            assert_eq!(text.parse(), Ok(Period::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_the_specification_excludes_is_refused() {
        for text in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1us",
            "1ns",
            "100000s",
            "1h1m1s1ms1ms",
            "1s ",
            " 1s",
            "1d",
            "99999h99999h",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text:?} was read");
        }
    }

    proptest::proptest! {
        #[test]
        fn print_then_parse_is_identity(millis in 0..=LONGEST.as_millis() as u64) {
            let period = Period::from_millis(millis);
            proptest::prop_assert_eq!(period.to_string().parse(), Ok(period));
        }
    }
}
