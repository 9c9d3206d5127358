//! A result of `mesh`, read back from the file in which it was kept.
//!
//! Only what is drawn and tabulated; names stay text, so that a result of another version can be read as far as it
//! goes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The pairs, in the order in which they are shown, as results name them and as readers know them.
pub(crate) const PAIRS: [(&str, &str); 5] = [
    ("outrigger", "Outrigger"),
    ("haproxy", "HAProxy, HTTP/1 between"),
    ("haproxy-h2", "HAProxy, HTTP/2 between"),
    ("envoy-h1", "Envoy, HTTP/1 between"),
    ("envoy-h2", "Envoy, HTTP/2 between"),
];
/// No pair at all.
pub(crate) const NONE: &str = "none";

/// What a run found, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    scenario: String,
    date: String,
    commit: Option<String>,
    machine: KeptMachine,
    settings: Settings,
    subjects: Vec<KeptSubject>,
    summary: Vec<Row>,
    pub(crate) verdicts: Vec<KeptVerdict>,
    samples: Vec<KeptSample>,
}

#[derive(Debug, Deserialize)]
struct KeptMachine {
    cores: usize,
    cpu: String,
    kernel: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    rounds: u32,
    window_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct KeptSubject {
    subject: String,
    version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Row {
    case: String,
    subject: String,
    metric: String,
    #[serde(flatten)]
    figure: Figure,
}

/// The median of the rounds, and the least and the greatest of them.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// What became of a target.
#[derive(Debug, Deserialize)]
pub(crate) struct KeptVerdict {
    pub(crate) what: String,
    pub(crate) case: String,
    pub(crate) against: Option<String>,
    pub(crate) bound: KeptBound,
    pub(crate) ratio: Option<Figure>,
    pub(crate) met: Option<bool>,
    pub(crate) judged: bool,
}

/// How large the ratio was wanted to be.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum KeptBound {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug, Deserialize)]
struct KeptSample {
    round: u32,
    case: String,
    subject: String,
    figures: BTreeMap<String, f64>,
}

impl Kept {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there, or is no result of `mesh`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let what = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(what)?;
        Self::parse(&text).with_context(what)
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let kept: Self = serde_json::from_str(text).context("no result of `outrigger-benches mesh`")?;
        if kept.scenario != "mesh" {
            bail!("a result of {}, not of mesh", kept.scenario);
        }
        Ok(kept)
    }

    /// One figure, if it was measured.
    pub(crate) fn figure(&self, case: &str, subject: &str, metric: &str) -> Option<Figure> {
        let is = |row: &&Row| row.case == case && row.subject == subject && row.metric == metric;
        self.summary.iter().find(is).map(|row| row.figure)
    }

    /// By how much the figure exceeds that without proxies, in each round by itself.
    pub(crate) fn added(&self, case: &str, subject: &str, metric: &str) -> Option<Figure> {
        let in_round = |round: u32, subject: &str| {
            let is = |s: &&KeptSample| s.round == round && s.case == case && s.subject == subject;
            self.samples.iter().find(is)?.figures.get(metric).copied()
        };
        let rounds = self.samples.iter().filter(|s| s.case == case && s.subject == subject).map(|s| s.round);
        let mut added: Vec<f64> = rounds
            .filter_map(|round| Some((in_round(round, subject)? - in_round(round, NONE)?).max(0.0)))
            .collect();
        added.sort_by(f64::total_cmp);
        let (&min, &max) = (added.first()?, added.last()?);
        let median = f64::midpoint(added[(added.len() - 1) / 2], added[added.len() / 2]);
        Some(Figure { median, min, max })
    }

    /// The subject's name for readers, with the version of a peer.
    pub(crate) fn title(&self, subject: &str) -> String {
        let title = PAIRS.iter().find(|(name, _)| *name == subject).map_or("no proxy", |(_, title)| title);
        let version = self.subjects.iter().find(|s| s.subject == subject).and_then(|s| s.version.as_deref());
        let (program, rest) =
            title.split_once(',').map_or((title, ""), |(program, _)| (program, &title[program.len()..]));
        match version.and_then(|version| version.strip_prefix(program)) {
            // Without the number of the distribution's package.
            Some(number) => {
                format!("{program}{}{rest}", number.split(['-', '+']).next().unwrap_or_default())
            }
            None => title.to_owned(),
        }
    }

    /// Where and when it was measured, in a line.
    pub(crate) fn provenance(&self) -> String {
        let date = self.date.get(..10).unwrap_or(&self.date);
        let commit = self.commit.as_deref().map(|commit| {
            let dirty = if commit.ends_with("-dirty") { ", changed" } else { "" };
            format!(", commit {}{dirty}", commit.get(..9).unwrap_or(commit))
        });
        let Self { machine, settings, .. } = self;
        format!(
            "{date}{}; {} cores of {}, Linux {}; median of {} rounds of {} s",
            commit.unwrap_or_default(),
            machine.cores,
            machine.cpu,
            machine.kernel.split('-').next().unwrap_or_default(),
            settings.rounds,
            settings.window_seconds
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A result with two rounds of some cases.
    pub(crate) fn result() -> Value {
        let row = |case: &str, subject: &str, metric: &str, median: f64| {
            json!({ "case": case, "subject": subject, "metric": metric, "unit": "us",
                    "median": median, "min": median - 1.0, "max": median + 2.0 })
        };
        let sample = |round: u32, subject: &str, p99: f64| json!({ "round": round, "case": "open-1000", "subject": subject, "figures": { "p99": p99 } });
        json!({
            "scenario": "mesh",
            "date": "2026-11-20T20:30:00Z",
            "commit": "0123456789abcdef-dirty",
            "machine": { "cores": 2, "cpu": "Fast & Co <8>", "kernel": "6.18.44-x", "memoryBytes": 1 },
            "settings": { "rounds": 2, "windowSeconds": 4.0 },
            "subjects": [
                { "subject": "outrigger", "version": "outrigger-proxy 0.1.0" },
                { "subject": "haproxy", "version": "HAProxy 2.6.12-1+deb12u4" },
                { "subject": "envoy-h2", "version": "Envoy 1.40.0" },
            ],
            "summary": [
                row("h1-c1", "outrigger", "cpu", 100.0),
                row("h1-c1", "envoy-h2", "cpu", 400.0),
                row("memory-idle", "outrigger", "resident", 18.0),
                row("h1-c16", "none", "perSecond", 117_234.0),
            ],
            "verdicts": [
                { "what": "CPU a request, HTTP/1", "case": "h1-c1", "metric": "cpu", "against": "envoy-h2",
                  "bound": { "atMost": 0.33 }, "ratio": { "median": 0.25, "min": 0.24, "max": 0.27 },
                  "ratios": [0.24, 0.27], "met": true, "judged": true },
                { "what": "CPU a request, HTTP/1", "case": "h1-c1", "metric": "cpu", "against": "haproxy",
                  "bound": { "atMost": 0.85 }, "ratio": null, "ratios": [], "met": null, "judged": true },
                { "what": "CPU a request, HTTP/1", "case": "h1-c1", "metric": "cpu", "against": "envoy-h1",
                  "bound": { "atMost": 0.33 }, "ratio": { "median": 0.4, "min": 0.4, "max": 0.4 },
                  "ratios": [0.4], "met": false, "judged": false },
            ],
            "samples": [
                sample(1, "none", 300.0), sample(1, "outrigger", 700.0),
                sample(2, "none", 350.0), sample(2, "outrigger", 650.0),
            ],
        })
    }

    #[test]
    fn what_a_pair_adds_is_counted_round_by_round() {
        let kept = Kept::parse(&result().to_string()).unwrap();
        let added = kept.added("open-1000", "outrigger", "p99").unwrap();
        assert_eq!((added.median, added.min, added.max), (350.0, 300.0, 400.0));
        assert_eq!(kept.added("open-1000", "haproxy", "p99"), None, "it was not measured");
    }

    #[test]
    fn a_peer_is_shown_with_its_version_and_the_run_with_its_machine() {
        let kept = Kept::parse(&result().to_string()).unwrap();
        assert_eq!(kept.title("haproxy"), "HAProxy 2.6.12, HTTP/1 between");
        assert_eq!(kept.title("envoy-h2"), "Envoy 1.40.0, HTTP/2 between");
        assert_eq!(kept.title("outrigger"), "Outrigger");
        assert_eq!(kept.title("none"), "no proxy");
        let provenance = kept.provenance();
        assert!(provenance.starts_with("2026-11-20, commit 012345678, changed; 2 cores"), "{provenance}");
    }

    #[test]
    fn another_scenario_is_refused_by_name() {
        let mut other = result();
        other["scenario"] = json!("footprint");
        let text = Kept::parse(&other.to_string()).unwrap_err().to_string();
        assert_eq!(text, "a result of footprint, not of mesh");
    }
}
