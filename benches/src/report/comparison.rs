//! What a comparison found, as JSON to keep and as tables for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::ValueEnum as _;
use serde::Serialize;
use serde_json::Value;

use super::metric::{Metric, Sample};
use super::spread::{Spread, digits};
use super::target::{Bound, Verdict, targets};
use crate::calibration::Calibration;
use crate::case::{CASES, Case};
use crate::procfs::Machine;
use crate::rounds::{Failure, Results};
use crate::subject::Subject;

/// Everything that a run found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Comparison {
    pub(crate) scenario: &'static str,
    /// When it began, RFC 3339.
    pub(crate) date: String,
    /// What the binaries were built from, as far as known; `-dirty` with changes that are not committed.
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) settings: Value,
    /// What was measured.
    pub(crate) subjects: Vec<Measured>,
    /// What was asked for but cannot be measured here.
    pub(crate) left_out: Vec<LeftOut>,
    /// The generator beside others, where it was checked.
    pub(crate) calibration: Vec<Calibration>,
    pub(crate) verdicts: Vec<Verdict>,
    /// The rounds together, a row for each case, subject and metric.
    pub(crate) summary: Vec<Row>,
    /// Everything that could not be measured.
    pub(crate) failures: Vec<Failure>,
    /// Every figure of every round.
    pub(crate) samples: Vec<Sample>,
}

/// A subject and what it runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measured {
    pub(crate) subject: Subject,
    pub(crate) version: Option<String>,
}

/// A subject that could not be measured, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeftOut {
    pub(crate) subject: Subject,
    pub(crate) why: String,
}

/// One figure of one subject in one case, over the rounds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    case: &'static str,
    subject: Subject,
    metric: Metric,
    unit: &'static str,
    #[serde(flatten)]
    spread: Spread,
}

/// The name of a subject, as on the command line.
pub(crate) fn name(subject: Subject) -> String {
    subject.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Comparison {
    /// Takes in what was measured so far, and what follows from it about those that were asked for.
    pub(crate) fn take_in(&mut self, results: &Results, asked: &[Subject]) {
        let Results { samples, failures } = results.clone();
        let concerned = targets().into_iter().filter(|target| target.concerns(&samples, asked));
        let verdicts = concerned.map(|target| target.judge(&samples));
        // What is only told for comparison is not missed where it cannot be had.
        self.verdicts = verdicts.filter(|verdict| verdict.judged || verdict.ratio.is_some()).collect();
        self.summary = summary(&samples);
        (self.samples, self.failures) = (samples, failures);
    }

    /// Whether everything that was asked for was measured.
    pub(crate) fn complete(&self) -> bool {
        self.failures.is_empty() && !(self.samples.is_empty() && self.calibration.is_empty())
    }

    /// Whether every target that was judged is met.
    pub(crate) fn met(&self) -> bool {
        self.verdicts.iter().all(|verdict| !verdict.judged || verdict.met == Some(true))
    }

    /// For people.
    pub(crate) fn tables(&self) -> String {
        let mut text = self.head();
        for case in &CASES {
            let rows: Vec<&Row> = self.summary.iter().filter(|row| row.case == case.name).collect();
            if !rows.is_empty() {
                let _ = writeln!(text, "{}: {}\n{}", case.name, case.about, figures(case, &rows));
            }
        }
        if !self.verdicts.is_empty() {
            let _ = writeln!(text, "targets: ratio to the peer, median of the rounds (least to most)");
            let _ = writeln!(text, "{}", lines(&self.verdicts.iter().map(verdict).collect::<Vec<_>>()));
            let judged = self.verdicts.iter().filter(|verdict| verdict.judged);
            let met = judged.clone().filter(|verdict| verdict.met == Some(true)).count();
            let _ = writeln!(text, "{met} of {} targets met", judged.count());
        }
        for calibration in &self.calibration {
            let _ = writeln!(text, "{calibration}");
        }
        for LeftOut { subject, why } in &self.left_out {
            let _ = writeln!(text, "LEFT OUT: {}: {why}", name(*subject));
        }
        for Failure { round, case, subject, why } in &self.failures {
            let case = case.unwrap_or("starting");
            let _ = writeln!(text, "NOT MEASURED: round {round}: {case}: {}: {why}", name(*subject));
        }
        text
    }
}

impl Comparison {
    /// What all figures are of.
    fn head(&self) -> String {
        let versions = self.subjects.iter().filter_map(|measured| measured.version.as_deref());
        let mut versions: Vec<_> = versions.collect();
        versions.dedup();
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let setting = |name: &str| self.settings.get(name).map(Value::to_string).unwrap_or_default();
        format!(
            "{}, commit {commit}\n{}\nrounds: {}, of windows of {} s after {} s; {}\n\n",
            self.date,
            self.machine,
            setting("rounds"),
            setting("windowSeconds"),
            setting("warmUpSeconds"),
            versions.join(", ")
        )
    }
}

fn summary(samples: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for case in &CASES {
        let of_case = || samples.iter().filter(|sample| sample.case == case.name);
        let subjects: BTreeSet<Subject> = of_case().map(|sample| sample.subject).collect();
        for subject in subjects {
            let of_both = || of_case().filter(move |sample| sample.subject == subject);
            let metrics: BTreeSet<Metric> = of_both().flat_map(|s| s.figures.keys().copied()).collect();
            rows.extend(metrics.into_iter().filter_map(|metric| {
                let spread = Spread::of(of_both().filter_map(|s| s.figures.get(&metric).copied()))?;
                Some(Row { case: case.name, subject, metric, unit: metric.unit(case.counted), spread })
            }));
        }
    }
    rows
}

/// A line for each subject, a column for each metric.
fn figures(case: &Case, rows: &[&Row]) -> String {
    let metrics: BTreeSet<Metric> = rows.iter().map(|row| row.metric).collect();
    let subjects: BTreeSet<Subject> = rows.iter().map(|row| row.subject).collect();
    let head = metrics.iter().map(|metric| metric.title(case.counted));
    let mut table = vec![std::iter::once(String::new()).chain(head).collect::<Vec<_>>()];
    for subject in subjects {
        let cell = |&metric: &Metric| {
            let row = rows.iter().find(|row| (row.subject, row.metric) == (subject, metric));
            row.map_or_else(|| "-".to_owned(), |row| row.spread.text(digits))
        };
        table.push(std::iter::once(name(subject)).chain(metrics.iter().map(cell)).collect());
    }
    lines(&table)
}

fn verdict(verdict: &Verdict) -> Vec<String> {
    let ratio =
        verdict.ratio.map_or_else(|| "not measured".to_owned(), |ratio| ratio.text(|r| format!("{r:.2}")));
    let (sign, bound) = match verdict.bound {
        Bound::AtMost(bound) => ("at most", bound),
        Bound::AtLeast(bound) => ("at least", bound),
    };
    let met = match (verdict.judged, verdict.met) {
        (true, Some(true)) => "met",
        (true, Some(false)) => "MISSED",
        (true, None) => "",
        (false, _) => "(for comparison)",
    };
    vec![
        verdict.what.to_owned(),
        verdict.case.to_owned(),
        verdict.against.map(name).unwrap_or_default(),
        format!("{sign} {bound}"),
        ratio,
        met.to_owned(),
    ]
}

/// Columns as wide as their widest cell.
fn lines(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or_default();
    let cell_width =
        |column: usize| table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| cell_width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in table {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(samples: Vec<Sample>) -> Comparison {
        let mut comparison = Comparison {
            scenario: "mesh",
            date: String::new(),
            commit: None,
            machine: Machine::this(),
            settings: Value::Null,
            subjects: Vec::new(),
            left_out: vec![LeftOut { subject: Subject::Haproxy, why: "no such program".to_owned() }],
            calibration: Vec::new(),
            verdicts: Vec::new(),
            summary: Vec::new(),
            failures: Vec::new(),
            samples: Vec::new(),
        };
        comparison.take_in(&Results { samples, failures: Vec::new() }, Subject::value_variants());
        comparison
    }

    fn sample(round: u32, subject: Subject, cpu: f64) -> Sample {
        Sample { round, case: "h1-c16", subject, figures: [(Metric::Cpu, cpu)].into() }
    }

    #[test]
    fn a_row_holds_the_rounds_together_and_a_verdict_their_ratios() {
        let samples =
            [(1, 40.0), (2, 50.0), (3, 45.0)].map(|(round, cpu)| sample(round, Subject::Outrigger, cpu));
        let envoys = [1, 2, 3].map(|round| sample(round, Subject::EnvoyHttp2, 100.0));
        let comparison = comparison([samples, envoys].concat());
        assert!(comparison.complete() && !comparison.met());
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(json["summary"][0]["median"], 45.0);
        assert_eq!(json["summary"][0]["unit"], "us");
        assert_eq!(json["summary"][1]["subject"], "envoy-h2");
        assert_eq!(json["samples"][1]["figures"]["cpu"], 50.0);
        assert_eq!(json["verdicts"][0]["bound"]["atMost"], 0.33);
        assert_eq!(json["verdicts"][0]["ratio"]["max"], 0.5);
        let tables = comparison.tables();
        assert!(tables.contains("45.0 (40.0 to 50.0)"), "{tables}");
        assert!(tables.contains("at most 0.33  0.45 (0.40 to 0.50)  MISSED"), "{tables}");
        assert!(tables.contains("0 of 2 targets met"), "one against Envoy, one that lacks HAProxy: {tables}");
        assert!(tables.contains("LEFT OUT: haproxy: no such program"), "{tables}");
    }

    #[test]
    fn nothing_measured_is_not_complete() {
        assert!(!comparison(Vec::new()).complete());
    }
}
