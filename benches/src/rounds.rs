//! The rounds: every subject once in every case, again and again.
//!
//! At the beginning of a round the pairs of all subjects are started afresh, side by side. Then they take turns case by
//! case (A B C, A B C), so that what is compared was measured within seconds, and the others are idle meanwhile. Every
//! round begins with another subject, so that nobody always comes after the same neighbour. What fails is left out of
//! its round, and named.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Error, Result};
use serde::Serialize;

use crate::case::{Bench, Case, Pace, Pairs};
use crate::report::comparison::name;
use crate::report::metric::{Metric, Sample};
use crate::report::spread::digits;
use crate::subject::Subject;

/// Something that could not be measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    pub(crate) round: u32,
    /// None where the subject did not start at all.
    pub(crate) case: Option<&'static str>,
    pub(crate) subject: Subject,
    pub(crate) why: String,
}

/// What was measured, and what was not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    pub(crate) failures: Vec<Failure>,
}

/// Measures all of it, and tells on standard error how it goes and `after_round` what there is so far.
///
/// # Errors
/// Those of `after_round`; whatever cannot be measured is part of the results.
pub(crate) fn measure(
    bench: &Bench,
    cases: &[&'static Case],
    subjects: &[Subject],
    rounds: u32,
    after_round: &mut dyn FnMut(&Results) -> Result<()>,
) -> Result<()> {
    let expected = expected(cases, subjects, &bench.pace);
    eprintln!("rounds of about {} s each: {rounds}", expected.as_secs());
    let mut results = Results::default();
    for round in 1..=rounds {
        let mut pairs = Pairs::new(bench);
        let order = results.start(round, in_order(subjects, round), cases, &mut pairs, bench);
        for case in cases {
            for &subject in order.iter().filter(|&&subject| case.concerns(subject)) {
                results.measure(round, case, subject, &mut pairs);
            }
        }
        after_round(&results)?;
    }
    Ok(())
}

/// How long a round takes if nothing fails, roughly.
fn expected(cases: &[&Case], subjects: &[Subject], pace: &Pace) -> Duration {
    let all = cases.iter().flat_map(|case| {
        subjects.iter().filter(|&&subject| case.concerns(subject)).map(|_| case.expected(pace))
    });
    all.sum()
}

/// The first becomes the last from one round to the next.
fn in_order(subjects: &[Subject], round: u32) -> Vec<Subject> {
    let mut order = subjects.to_vec();
    if !order.is_empty() {
        order.rotate_left((round - 1) as usize % subjects.len());
    }
    order
}

fn line(sample: &Sample, case: &Case) -> String {
    let mut line = format!("{} {}", sample.case, name(sample.subject));
    let some = [Metric::PerSecond, Metric::Cpu, Metric::P50, Metric::P99, Metric::Resident];
    let some = some.into_iter().chain([Metric::ReadyIn, Metric::Change]);
    for (metric, value) in some.filter_map(|metric| Some((metric, sample.figures.get(&metric)?))) {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {} {}", metric.title(case.counted), digits(*value));
    }
    line
}

impl Results {
    /// Starts the pairs that the cases share. Who does not start is left out of the round.
    fn start(
        &mut self,
        round: u32,
        mut order: Vec<Subject>,
        cases: &[&Case],
        pairs: &mut Pairs<'_>,
        bench: &Bench,
    ) -> Vec<Subject> {
        if cases.iter().any(|case| case.shares_pair()) {
            order.retain(|&subject| {
                eprintln!("round {round}: starting {}", name(subject));
                let started = pairs.get(subject).map(drop);
                started.map_err(|error| self.failed(round, None, subject, &error)).is_ok()
            });
            // What a process still does after its start is not the first case's.
            sleep(bench.pace.settle);
        }
        order
    }

    fn measure(&mut self, round: u32, case: &Case, subject: Subject, pairs: &mut Pairs<'_>) {
        match case.measure(subject, pairs) {
            Ok(figures) => {
                let sample = Sample { round, case: case.name, subject, figures };
                eprintln!("round {round}: {}", line(&sample, case));
                self.samples.push(sample);
            }
            Err(error) => {
                // In whichever state it is now, the next case gets one that is not.
                let error = pairs.give_up(subject, error);
                self.failed(round, Some(case.name), subject, &error);
            }
        }
    }

    fn failed(&mut self, round: u32, case: Option<&'static str>, subject: Subject, error: &Error) {
        let why = format!("{error:#}");
        eprintln!("round {round}: {} {} was not measured: {why}", case.unwrap_or("starting"), name(subject));
        self.failures.push(Failure { round, case, subject, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another_and_leaves_nobody_out() {
        use Subject::{Haproxy, None, Outrigger};
        let subjects = [None, Outrigger, Haproxy];
        assert_eq!(in_order(&subjects, 1), subjects);
        assert_eq!(in_order(&subjects, 2), [Outrigger, Haproxy, None]);
        assert_eq!(in_order(&subjects, 4), subjects);
        assert!(in_order(&[], 2).is_empty());
    }
}
