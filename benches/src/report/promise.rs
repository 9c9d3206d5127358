//! A result: figures, what was promised beside what was seen, and where it was measured.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::procfs::Machine;

/// One number.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    /// What it is.
    name: String,
    /// In `unit`.
    value: f64,
    unit: &'static str,
    /// The least and the greatest of which `value` is the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<[f64; 2]>,
    /// The most that was promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    /// Whether the promise was kept, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<bool>,
}

impl Figure {
    /// A number about which nothing was promised.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value: round(value), unit, range: None, at_most: None, kept: None }
    }

    /// A size, shown in MiB.
    pub(crate) fn bytes(name: impl Into<String>, bytes: u64) -> Self {
        Self::new(name, bytes as f64 / f64::from(1 << 20), "MiB")
    }

    /// The median of several numbers, of which there must be one at least.
    pub(crate) fn median(name: impl Into<String>, mut values: Vec<f64>, unit: &'static str) -> Self {
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        let range = Some([round(values[0]), round(values[values.len() - 1])]);
        Self { range, ..Self::new(name, f64::midpoint(low, high), unit) }
    }

    /// With the most that was promised, in the same unit.
    pub(crate) fn promised(self, at_most: f64) -> Self {
        // The number shown is the number judged.
        Self { at_most: Some(at_most), kept: Some(self.value <= at_most), ..self }
    }
}

/// Two decimals are more than any figure here is good for.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Everything that a run found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    /// What the binaries were built from, as far as known; `-dirty` with changes that are not committed.
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) settings: Value,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// Whether every promise was kept.
    pub(crate) fn kept(&self) -> bool {
        self.figures.iter().all(|figure| figure.kept != Some(false))
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let width = self.figures.iter().map(|f| f.name.chars().count()).max().unwrap_or_default();
        let mut table = format!("{:width$}  {:>16}  promised\n", "", "measured");
        for Figure { name, value, unit, range, at_most, kept } in &self.figures {
            let seen = format!("{} {unit}", digits(*value));
            let promise = match (at_most, kept) {
                (Some(most), Some(true)) => format!("{} {unit}, kept", digits(*most)),
                (Some(most), _) => format!("{} {unit}, MISSED", digits(*most)),
                (None, _) => String::new(),
            };
            let range = range.map(|[low, high]| format!("  ({} to {})", digits(low), digits(high)));
            let line = format!("{name:width$}  {seen:>16}  {promise:20}{}", range.unwrap_or_default());
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}

/// Three significant digits or so.
fn digits(value: f64) -> String {
    match value {
        v if v.fract() == 0.0 || v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(figures: Vec<Figure>) -> Report {
        let machine = Machine::this();
        Report { scenario: "test", commit: None, machine, settings: Value::Null, figures }
    }

    #[test]
    fn one_missed_promise_is_enough_and_a_number_without_one_is_none() {
        let kept = vec![Figure::new("a", 150.0, "ms").promised(150.0), Figure::new("b", 9e9, "ms")];
        assert!(report(kept.clone()).kept());
        let missed = Figure::bytes("c", (10 << 20) + (1 << 18)).promised(10.0);
        let report = report([kept, vec![missed]].concat());
        assert!(!report.kept());
        assert!(report.table().contains("10 MiB, MISSED"), "{}", report.table());
        assert_eq!(serde_json::to_value(&report).unwrap()["figures"][2]["value"], 10.25);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let figure = Figure::median("a", vec![9.0, 1.0, 4.0, 2.0], "ms");
        assert_eq!((figure.value, figure.range), (3.0, Some([1.0, 9.0])));
        assert_eq!(Figure::median("a", vec![5.0], "ms").value, 5.0);
    }
}
