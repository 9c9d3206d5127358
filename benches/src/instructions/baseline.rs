//! The committed figures, and what differs from them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Measured;

/// More than this over the baseline fails, and more than this under it asks for a new one.
const TOLERANCE: f64 = 0.03;

/// Figures, and what they were taken with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Baseline {
    #[serde(flatten)]
    pub(super) conditions: Conditions,
    /// Of each case, whole.
    pub(super) instructions: BTreeMap<String, u64>,
}

/// What the figures depend on beside the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conditions {
    /// The architecture, and what matters of the processor's extensions.
    machine: String,
    /// As it says itself.
    rustc: String,
    /// Its version.
    valgrind: String,
}

impl Conditions {
    /// Those of this machine.
    pub(super) fn here(valgrind: String) -> Self {
        let output = Command::new("rustc").arg("--version").output();
        let rustc = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self { machine: machine(), rustc: rustc.unwrap_or_default(), valgrind }
    }

    /// Why figures taken here say nothing beside the baseline, if so.
    pub(super) fn incomparable(&self, here: &Self) -> Option<String> {
        let (then, now) = (&self.machine, &here.machine);
        (then != now).then(|| format!("the baseline is that of {then}, and this is {now}"))
    }

    /// What else is not as it was.
    fn differences(&self, here: &Self) -> Vec<String> {
        let pairs = [("", &self.rustc, &here.rustc), ("valgrind ", &self.valgrind, &here.valgrind)];
        let differs = pairs.into_iter().filter(|(_, then, now)| then != now);
        differs.map(|(what, then, now)| format!("{what}{now} instead of {what}{then}")).collect()
    }
}

#[cfg(target_arch = "x86_64")]
fn machine() -> String {
    let avx2 = if std::arch::is_x86_feature_detected!("avx2") { "with" } else { "without" };
    format!("x86_64 {avx2} AVX2")
}

#[cfg(not(target_arch = "x86_64"))]
fn machine() -> String {
    std::env::consts::ARCH.to_owned()
}

impl Baseline {
    /// What was measured, beside `kept` figures of cases that were not.
    pub(super) fn new(conditions: Conditions, kept: BTreeMap<String, u64>, measured: &[Measured]) -> Self {
        let mut instructions = kept;
        instructions.extend(measured.iter().map(|m| (m.case.clone(), m.instructions.round() as u64)));
        Self { conditions, instructions }
    }

    /// Reads it. `None`: there is none.
    ///
    /// # Errors
    /// The file cannot be read or is not one of these.
    pub(super) fn load(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(serde_json::Error::io(error)),
        }
        .with_context(|| path.display().to_string())
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

/// Figures beside the baseline.
#[derive(Debug)]
pub(super) struct Comparison(Vec<Line>);

#[derive(Debug)]
struct Line {
    measured: Measured,
    /// `None`: the baseline does not have it.
    baseline: Option<u64>,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Same,
    Dearer,
    Cheaper,
    Unknown,
}

impl Line {
    fn new(measured: &Measured, baseline: Option<u64>) -> Self {
        let verdict = match baseline.map(|baseline| baseline as f64) {
            None => Verdict::Unknown,
            Some(baseline) if measured.instructions > baseline * (1.0 + TOLERANCE) => Verdict::Dearer,
            Some(baseline) if measured.instructions < baseline * (1.0 - TOLERANCE) => Verdict::Cheaper,
            Some(_) => Verdict::Same,
        };
        Self { measured: measured.clone(), baseline, verdict }
    }
}

/// The share by which it is more.
fn change(measured: &Measured, baseline: Option<u64>) -> Option<f64> {
    let baseline = baseline.filter(|&baseline| baseline > 0)? as f64;
    Some(measured.instructions / baseline - 1.0)
}

impl Comparison {
    pub(super) fn new(baseline: &Baseline, measured: &[Measured]) -> Self {
        let line =
            |measured: &Measured| Line::new(measured, baseline.instructions.get(&measured.case).copied());
        Self(measured.iter().map(line).collect())
    }

    /// Whether nothing has become dearer, and everything is known.
    pub(super) fn passed(&self) -> bool {
        self.0.iter().all(|line| matches!(line.verdict, Verdict::Same | Verdict::Cheaper))
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let width = self.0.iter().map(|line| line.measured.case.len()).max().unwrap_or_default();
        let mut table =
            format!("{:width$}  {:>12}  {:>12}  {:>8}\n", "instructions", "baseline", "now", "change");
        for Line { measured, baseline, verdict } in &self.0 {
            let then = baseline.map_or_else(|| "-".to_owned(), |baseline| baseline.to_string());
            let percent = change(measured, *baseline)
                .map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", change * 100.0));
            let verdict = match verdict {
                Verdict::Same => "",
                Verdict::Dearer => "DEARER",
                Verdict::Cheaper => "cheaper",
                Verdict::Unknown => "NOT IN THE BASELINE",
            };
            let spread = match measured.spread {
                0.0 => String::new(),
                spread => format!("({:.1} % apart)", spread * 100.0),
            };
            let Measured { case, instructions, .. } = measured;
            let line =
                format!("{case:width$}  {then:>12}  {instructions:>12.0}  {percent:>8}  {verdict} {spread}");
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }

    /// What is wrong, and what to do about it. Empty where nothing is to be done.
    pub(super) fn advice(&self, then: &Conditions, now: &Conditions) -> String {
        let having = |verdict| self.0.iter().filter(move |line| line.verdict == verdict);
        let names = |verdict| having(verdict).map(|line| &*line.measured.case).collect::<Vec<_>>().join(", ");
        let mut advice = String::new();
        let mut say = |text: String| advice += &(text + "\n");
        for Line { measured, baseline, .. } in having(Verdict::Dearer) {
            let (case, now, then) = (&measured.case, measured.instructions, baseline.unwrap_or_default());
            let percent = change(measured, *baseline).unwrap_or_default() * 100.0;
            say(format!(
                "error: {case} takes {now:.0} instructions instead of {then}: {percent:.1} % more, and 3 % are allowed"
            ));
        }
        if having(Verdict::Dearer).next().is_some() {
            for difference in then.differences(now) {
                say(format!("this may be why: {difference}"));
            }
            say("find it: `instructions --case NAME --keep DIR` before and after the change, then \
                 callgrind_annotate on the files in DIR (see `instructions --help`)\n\
                 if it is meant: `instructions --update-baseline`, and say in the commit what is bought with it"
                .to_owned());
        }
        if having(Verdict::Unknown).next().is_some() {
            let names = names(Verdict::Unknown);
            say(format!("error: not in the baseline: {names}; add with --update-baseline"));
        }
        if having(Verdict::Cheaper).next().is_some() {
            let names = names(Verdict::Cheaper);
            say(format!("cheaper than the baseline: {names}; --update-baseline, so that it stays so"));
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions { machine: "m".to_owned(), rustc: "rustc 1.2.3".to_owned(), valgrind: "3.19.0".to_owned() }
    }

    fn measured(case: &str, instructions: f64) -> Measured {
        Measured { case: case.to_owned(), instructions, spread: 0.0 }
    }

    fn compared(now: &[Measured]) -> Comparison {
        let then = [measured("a", 1000.0), measured("b", 50_000.0)];
        Comparison::new(&Baseline::new(conditions(), BTreeMap::new(), &then), now)
    }

    #[test]
    fn three_percent_more_is_allowed_and_no_more() {
        assert!(compared(&[measured("a", 1030.0), measured("b", 20_000.0)]).passed());
        let dearer = compared(&[measured("a", 1031.0), measured("b", 50_000.0)]);
        assert!(!dearer.passed());
        let advice = dearer.advice(&conditions(), &conditions());
        assert!(advice.contains("a takes 1031 instructions instead of 1000: 3.1 % more"), "{advice}");
        assert!(advice.contains("callgrind_annotate") && advice.contains("--update-baseline"), "{advice}");
        assert!(!advice.contains("this may be why"), "{advice}");
        assert!(dearer.table().contains("DEARER"), "{}", dearer.table());
    }

    #[test]
    fn a_gain_is_no_failure_and_asks_to_be_kept() {
        let cheaper = compared(&[measured("b", 40_000.0)]);
        assert!(cheaper.passed());
        let advice = cheaper.advice(&conditions(), &conditions());
        assert!(advice.starts_with("cheaper than the baseline: b; --update-baseline"), "{advice}");
        assert_eq!(compared(&[measured("b", 50_001.0)]).advice(&conditions(), &conditions()), "");
    }

    #[test]
    fn a_case_that_nobody_has_a_figure_of_is_a_failure() {
        let unknown = compared(&[measured("c", 1.0)]);
        assert!(!unknown.passed());
        assert!(unknown.advice(&conditions(), &conditions()).contains("not in the baseline: c"));
    }

    #[test]
    fn another_compiler_is_named_as_a_reason_and_another_machine_is_not_compared() {
        let dearer = compared(&[measured("a", 2000.0)]);
        let now = Conditions { rustc: "rustc 1.3.0".to_owned(), ..conditions() };
        let advice = dearer.advice(&conditions(), &now);
        assert!(advice.contains("this may be why: rustc 1.3.0 instead of rustc 1.2.3"), "{advice}");
        assert_eq!(conditions().incomparable(&now), None);
        let elsewhere = Conditions { machine: "n".to_owned(), ..conditions() };
        assert_eq!(
            conditions().incomparable(&elsewhere).unwrap(),
            "the baseline is that of m, and this is n"
        );
    }

    #[test]
    fn a_baseline_survives_its_file_and_keeps_what_was_not_measured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/baseline.json");
        assert_eq!(Baseline::load(&path).unwrap(), None);
        let kept = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        let baseline = Baseline::new(conditions(), kept, &[measured("b", 2.6)]);
        baseline.save(&path).unwrap();
        assert_eq!(Baseline::load(&path).unwrap().unwrap(), baseline);
        assert_eq!(baseline.instructions.values().copied().collect::<Vec<_>>(), [1, 3]);
        std::fs::write(&path, "{}").unwrap();
        assert!(Baseline::load(&path).is_err());
    }
}
