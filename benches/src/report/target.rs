//! What is wanted of the mesh beside its peers, and whether it was so.
//!
//! Every target is a ratio of two figures of the same round: how much of a peer's cost, or how many times its speed.
//! The rounds' ratios are then put in order, and their median is judged. So a machine that is slower for a while
//! slows both sides of a ratio, and shows in the spread only.

use serde::Serialize;

use super::metric::{Metric, Sample};
use super::spread::Spread;
use crate::subject::Subject;

/// How large a ratio is wanted to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

/// What the mesh's figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// The peer's figure.
    Peer(Subject),
    /// The peer's figure, after that without proxies has been taken from both.
    PeerOverNone(Subject),
    /// Nothing: the figure is a ratio already.
    Itself,
}

/// One thing that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    what: &'static str,
    case: &'static str,
    metric: Metric,
    bound: Bound,
    basis: Basis,
    /// Whether it is wanted, or only shown beside one that is.
    judged: bool,
}

/// What became of a target.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    pub(crate) what: &'static str,
    pub(crate) case: &'static str,
    pub(crate) metric: Metric,
    /// The peer; none where the case compares the mesh with itself.
    pub(crate) against: Option<Subject>,
    pub(crate) bound: Bound,
    /// Of the rounds in which both sides were measured; none where there was no such round.
    pub(crate) ratio: Option<Spread>,
    /// Each round's.
    pub(crate) ratios: Vec<f64>,
    /// Whether the median is within the bound.
    pub(crate) met: Option<bool>,
    /// Whether this is one of the targets; otherwise it is told for comparison.
    pub(crate) judged: bool,
}

/// All targets, in the order of the cases.
pub(crate) fn targets() -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    use Metric::{Change, Cpu, P50, P99, PerSecond, Resident};
    const CLOSED: [&str; 4] = ["h1-c1", "h1-c16", "h1-c64", "h1-c256"];
    const OPEN: [&str; 3] = ["open-200", "open-1000", "open-4000"];
    const STREAMS: [&str; 3] = ["h2-1x1", "h2-16x4", "h2-64x4"];
    let mut list = List::default();
    list.beside("CPU a request, HTTP/1", &CLOSED, Cpu, AtMost(0.33), Some(AtMost(0.85)));
    list.beside("requests a second, HTTP/1", &CLOSED, PerSecond, AtLeast(2.5), Some(AtLeast(1.1)));
    list.beside("CPU a request, open loop", &OPEN, Cpu, AtMost(0.35), Some(AtMost(0.6)));
    list.added("added p50, open loop", &OPEN, P50, AtMost(0.45), AtMost(0.8));
    list.added("added p99, open loop", &OPEN, P99, AtMost(0.45), AtMost(0.8));
    list.beside("CPU a request, HTTP/2", &STREAMS, Cpu, AtMost(0.45), Some(AtMost(0.95)));
    list.beside("CPU a request, 10 KiB answers", &["body-10k"], Cpu, AtMost(0.4), Some(AtMost(0.9)));
    list.beside("opaque TCP, 2 streams", &["tcp-bulk"], PerSecond, AtLeast(1.1), Some(AtLeast(1.5)));
    let connections = ("new mTLS connections a second", ["mtls-connections"]);
    list.beside(connections.0, &connections.1, PerSecond, AtLeast(1.5), Some(AtLeast(1.2)));
    list.beside("resident memory, idle", &["memory-idle"], Resident, AtMost(0.15), None);
    list.beside("resident memory, 256 connections", &["memory-256"], Resident, AtMost(0.25), None);
    list.beside("resident memory, 1,000 idle", &["memory-idle-1000"], Resident, AtMost(0.4), None);
    list.itself("spans at 100 % instead of 1 %, CPU", "spans-100", Change, AtMost(1.25));
    list.itself("1,000 services known, 50 used, CPU", "services-1000", Change, AtMost(1.03));
    list.itself("two workers instead of one, CPU", "workers-2", Change, AtMost(1.1));
    list.0
}

#[derive(Default)]
struct List(Vec<Target>);

impl List {
    /// Against Envoy and, where something is wanted there, against HAProxy.
    fn beside(
        &mut self,
        what: &'static str,
        cases: &[&'static str],
        metric: Metric,
        envoy: Bound,
        haproxy: Option<Bound>,
    ) {
        for &case in cases {
            self.peers(Basis::Peer, what, case, metric, envoy, haproxy);
        }
    }

    /// The same for what a pair of proxies adds to a figure without any.
    fn added(
        &mut self,
        what: &'static str,
        cases: &[&'static str],
        metric: Metric,
        envoy: Bound,
        haproxy: Bound,
    ) {
        for &case in cases {
            self.peers(Basis::PeerOverNone, what, case, metric, envoy, Some(haproxy));
        }
    }

    /// Envoy is judged as most people run it between sidecars, with HTTP/2; with HTTP/1 it is shown. HAProxy is
    /// judged with HTTP/1 and shown with HTTP/2, for the same reason.
    fn peers(
        &mut self,
        basis: fn(Subject) -> Basis,
        what: &'static str,
        case: &'static str,
        metric: Metric,
        envoy: Bound,
        haproxy: Option<Bound>,
    ) {
        let mut add = |subject, bound, judged| {
            self.0.push(Target { what, case, metric, bound, basis: basis(subject), judged });
        };
        add(Subject::EnvoyHttp2, envoy, true);
        add(Subject::EnvoyHttp1, envoy, false);
        if let Some(bound) = haproxy {
            add(Subject::Haproxy, bound, true);
            add(Subject::HaproxyHttp2, bound, false);
        }
    }

    fn itself(&mut self, what: &'static str, case: &'static str, metric: Metric, bound: Bound) {
        self.0.push(Target { what, case, metric, bound, basis: Basis::Itself, judged: true });
    }
}

impl Target {
    /// Whether it is of something that was measured, and against somebody who was asked for.
    pub(crate) fn concerns(&self, samples: &[Sample], asked: &[Subject]) -> bool {
        let measured = |sample: &Sample| {
            (sample.case, sample.subject) == (self.case, Subject::Outrigger)
                && sample.figures.contains_key(&self.metric)
        };
        self.against().is_none_or(|peer| asked.contains(&peer)) && samples.iter().any(measured)
    }

    fn against(&self) -> Option<Subject> {
        match self.basis {
            Basis::Peer(subject) | Basis::PeerOverNone(subject) => Some(subject),
            Basis::Itself => None,
        }
    }

    /// Judges it by the rounds in which both sides were measured.
    pub(crate) fn judge(&self, samples: &[Sample]) -> Verdict {
        let mut rounds: Vec<u32> = samples.iter().map(|sample| sample.round).collect();
        rounds.sort_unstable();
        rounds.dedup();
        let ratios: Vec<f64> =
            rounds.into_iter().filter_map(|round| self.ratio(&Round { samples, round })).collect();
        let ratio = Spread::of(ratios.iter().copied());
        Verdict {
            what: self.what,
            case: self.case,
            metric: self.metric,
            against: self.against(),
            bound: self.bound,
            ratio,
            ratios,
            met: ratio.map(|ratio| self.bound.holds(ratio.median)),
            judged: self.judged,
        }
    }

    fn ratio(&self, round: &Round<'_>) -> Option<f64> {
        let figure = |subject| round.figure(self.case, subject, self.metric);
        let ours = figure(Subject::Outrigger)?;
        let (ours, theirs) = match self.basis {
            Basis::Itself => (ours, 1.0),
            Basis::Peer(peer) => (ours, figure(peer)?),
            Basis::PeerOverNone(peer) => {
                let none = figure(Subject::None)?;
                (ours - none, figure(peer)? - none)
            }
        };
        // A peer that costs nothing is a peer that was not measured: nothing is a ratio of that.
        (theirs > 0.0).then(|| ours / theirs)
    }
}

struct Round<'a> {
    samples: &'a [Sample],
    round: u32,
}

impl Round<'_> {
    fn figure(&self, case: &str, subject: Subject, metric: Metric) -> Option<f64> {
        let mut samples = self.samples.iter();
        let of = samples.find(|s| s.round == self.round && s.case == case && s.subject == subject)?;
        of.figures.get(&metric).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::CASES;

    fn sample(round: u32, case: &'static str, subject: Subject, metric: Metric, value: f64) -> Sample {
        Sample { round, case, subject, figures: [(metric, value)].into() }
    }

    fn target(case: &str, metric: Metric, basis: Basis) -> Target {
        let mut targets = targets().into_iter();
        targets.find(|t| (t.case, t.metric, t.basis) == (case, metric, basis)).expect("a target")
    }

    #[test]
    fn ratios_are_of_one_round_and_their_median_is_judged() {
        use Subject::{EnvoyHttp2, Outrigger};
        let cpu = |round, subject, value| sample(round, "h1-c1", subject, Metric::Cpu, value);
        // The machine was three times slower in the second round: the ratio does not mind.
        let samples = [
            cpu(1, Outrigger, 30.0),
            cpu(1, EnvoyHttp2, 100.0),
            cpu(2, Outrigger, 120.0),
            cpu(2, EnvoyHttp2, 300.0),
            cpu(3, Outrigger, 32.0),
            cpu(3, EnvoyHttp2, 100.0),
            cpu(4, Outrigger, 1.0),
        ];
        let verdict = target("h1-c1", Metric::Cpu, Basis::Peer(EnvoyHttp2)).judge(&samples);
        assert_eq!(verdict.ratios, [0.3, 0.4, 0.32], "a round with one side alone is none");
        assert_eq!(verdict.ratio.unwrap().median, 0.32);
        assert_eq!(verdict.met, Some(true));
        let without_the_last = target("h1-c1", Metric::Cpu, Basis::Peer(EnvoyHttp2)).judge(&samples[..4]);
        assert_eq!(without_the_last.met, Some(false), "{:?}", without_the_last.ratio);
    }

    #[test]
    fn what_a_proxy_adds_is_counted_over_no_proxy_of_the_same_round() {
        use Subject::{Haproxy, None, Outrigger};
        let p99 = |subject, value| sample(1, "open-200", subject, Metric::P99, value);
        let samples = [p99(None, 100.0), p99(Outrigger, 300.0), p99(Haproxy, 500.0)];
        let target = target("open-200", Metric::P99, Basis::PeerOverNone(Haproxy));
        assert_eq!(target.judge(&samples).ratios, [0.5]);
        assert_eq!(target.judge(&samples[1..]).met, Option::None, "there is nothing to count over");
        let faster_than_nothing = [p99(None, 100.0), p99(Outrigger, 90.0), p99(Haproxy, 99.0)];
        assert!(target.judge(&faster_than_nothing).ratios.is_empty());
    }

    #[test]
    fn a_target_is_told_of_where_both_sides_were_asked_for_even_if_the_peer_is_missing() {
        use Subject::{EnvoyHttp2, Haproxy, None, Outrigger};
        let target = target("tcp-bulk", Metric::PerSecond, Basis::Peer(Haproxy));
        let samples = [sample(1, "tcp-bulk", Outrigger, Metric::PerSecond, 1.0)];
        assert!(target.concerns(&samples, &[Outrigger, Haproxy]));
        assert!(!target.concerns(&samples, &[Outrigger, EnvoyHttp2]));
        assert!(!target.concerns(&[Sample { subject: None, ..samples[0].clone() }], &[None, Haproxy]));
        assert_eq!(target.judge(&samples).met, Option::None);
    }

    #[test]
    fn speed_is_wanted_from_below() {
        use Subject::{Haproxy, Outrigger};
        let rate = |subject, value| sample(1, "tcp-bulk", subject, Metric::PerSecond, value);
        let target = target("tcp-bulk", Metric::PerSecond, Basis::Peer(Haproxy));
        assert_eq!(target.judge(&[rate(Outrigger, 6.1), rate(Haproxy, 4.0)]).met, Some(true));
        assert_eq!(target.judge(&[rate(Outrigger, 5.9), rate(Haproxy, 4.0)]).met, Some(false));
    }

    #[test]
    fn every_target_is_of_a_case_that_there_is() {
        let targets = targets();
        assert!(targets.iter().all(|target| CASES.iter().any(|case| case.name == target.case)));
        // 26 against Envoy, 23 against HAProxy, 3 of the mesh against itself.
        assert_eq!(targets.iter().filter(|target| target.judged).count(), 52);
    }
}
