//! The same figure from several rounds.

use serde::Serialize;

/// The median of some numbers, and the least and the greatest of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these, unless there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median, min, max })
    }

    /// `12.3 (11.9 to 12.8)`, or the number alone where all are the same to the digits shown.
    pub(crate) fn text(&self, digits: fn(f64) -> String) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(digits);
        if min == max { median } else { format!("{median} ({min} to {max})") }
    }
}

/// Three significant digits or so, for figures of any size.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_however_the_numbers_come() {
        assert_eq!(Spread::of([9.0, 1.0, 4.0]), Some(Spread { median: 4.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([9.0, 1.0, 4.0, 2.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_spread_is_shown_where_there_is_one() {
        assert_eq!(Spread::of([1.0, 1.001]).unwrap().text(digits), "1.00");
        assert_eq!(Spread::of([0.5, 20.04, 1234.5]).unwrap().text(digits), "20.0 (0.50 to 1234)");
    }
}
