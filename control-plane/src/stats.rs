//! Traffic by edge: what the proxies counted, added up over the instances of a workload.
//!
//! A proxy reports totals since its start, so that a lost report loses nothing. A few samples of the last minute
//! are kept for each, and a window is the difference between the newest and the one at its beginning. The totals of
//! an instance that is gone for good are added to its workload's, so that totals never shrink.
//!
//! Pure: takes `now`. Bounded in instances, in edges of each, and in the bytes of a histogram.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use outrigger_api::{ServiceName, latency, v1};
use tokio::time::Instant;

use crate::discovery::ProxyId;
use crate::status::{EdgeDirection, EdgeStats};

/// Edges of one proxy that are kept; what it reports beyond is left out.
const MAX_EDGES: usize = 1_024;
/// Bytes of one encoded histogram. Two digits over a day are less than half of it.
const MAX_HISTOGRAM_BYTES: usize = 64 << 10;
/// Samples are at least this far apart.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// The longest window.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// An instance that was not heard of for this long will not report again.
const GONE_AFTER: Duration = Duration::from_secs(3600);
/// Instances kept apart; above it, those that were silent longest are added to their workload's.
const MAX_INSTANCES: usize = 16_384;
/// Edges of workloads that are kept of instances that are gone.
const MAX_GONE_EDGES: usize = 16_384;
/// More than a day, in microseconds, as the wire format allows.
const LONGEST_LATENCY: u64 = 1 << 37;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct EdgeKey {
    direction: EdgeDirection,
    service: ServiceName,
    port: u16,
    route: Arc<str>,
    peer: Arc<str>,
    mtls: bool,
}

/// Totals of one edge at one proxy, as they came.
#[derive(Debug, Clone, Default, PartialEq)]
struct Totals {
    requests: u64,
    successes: u64,
    attempts: u64,
    attempt_successes: u64,
    latency: Vec<u8>,
}

/// Edges that did not change are shared between samples.
type Sample = HashMap<EdgeKey, Arc<Totals>>;

#[derive(Debug)]
struct Instance {
    source: Arc<str>,
    heard: Instant,
    newest: Sample,
    /// Oldest first.
    samples: VecDeque<(Instant, Sample)>,
}

/// All that was reported.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    instances: HashMap<ProxyId, Instance>,
    gone: BTreeMap<Counted, Arc<Totals>>,
    first: Option<Instant>,
}

/// An edge and who counted it.
type Counted = (Arc<str>, EdgeKey);
/// Totals, and those at the beginning of the window.
type Span = (Arc<Totals>, Option<Arc<Totals>>);

/// What a question about traffic is answered from. Cheap to take; [`Extract::edges`] does the work.
#[derive(Debug, Default)]
pub(crate) struct Extract {
    parts: Vec<(Counted, Span)>,
    span: Duration,
}

/// A sum over instances.
#[derive(Debug)]
struct Sum {
    requests: u64,
    successes: u64,
    attempts: u64,
    attempt_successes: u64,
    latency: Histogram<u64>,
}

impl Traffic {
    /// Takes a report. `source` is the workload's `NAME.NAMESPACE`, or its identity where it serves nothing.
    pub(crate) fn report(&mut self, id: &ProxyId, source: &str, report: v1::LoadReport, now: Instant) {
        self.first.get_or_insert(now);
        let instance = self.instances.entry(id.clone()).or_insert_with(|| Instance {
            source: source.into(),
            heard: now,
            newest: Sample::new(),
            samples: VecDeque::from([(now, Sample::new())]),
        });
        instance.take(report, now);
        if self.instances.len() > MAX_INSTANCES {
            self.retire(now);
        }
    }

    /// Adds instances that are silent for good to their workloads.
    pub(crate) fn retire(&mut self, now: Instant) {
        let mut silent: Vec<(Instant, ProxyId)> =
            self.instances.iter().map(|(id, instance)| (instance.heard, id.clone())).collect();
        silent.sort();
        let excess = self.instances.len().saturating_sub(MAX_INSTANCES);
        for (index, (heard, id)) in silent.into_iter().enumerate() {
            if index >= excess && now.duration_since(heard) < GONE_AFTER {
                break;
            }
            let Some(instance) = self.instances.remove(&id) else { continue };
            for (key, totals) in instance.newest {
                self.add_gone((instance.source.clone(), key), totals);
            }
        }
    }

    fn add_gone(&mut self, key: Counted, totals: Arc<Totals>) {
        if let Some(sum) = self.gone.get_mut(&key) {
            let mut both = Sum::default();
            both.add(sum, None);
            both.add(&totals, None);
            *sum = Arc::new(both.into_totals());
        } else if self.gone.len() < MAX_GONE_EDGES {
            self.gone.insert(key, totals);
        }
    }

    /// What is known of the last `window`, a minute at most, or since the beginning.
    pub(crate) fn extract(&self, window: Option<Duration>, now: Instant) -> Extract {
        let mut extract = Extract::default();
        if window.is_none() {
            let gone = self.gone.iter().map(|(counted, sum)| (counted.clone(), (sum.clone(), None)));
            extract.parts.extend(gone);
            extract.span = self.first.map(|first| now.duration_since(first)).unwrap_or_default();
        }
        let from = window.and_then(|window| now.checked_sub(window.min(LONGEST_WINDOW)));
        // What was reported last before the window began ended before it.
        let heard = |instance: &&Instance| from.is_none_or(|from| instance.heard > from);
        for instance in self.instances.values().filter(heard) {
            let base = from.and_then(|from| instance.at(from));
            if let Some((at, _)) = base {
                extract.span = extract.span.max(instance.heard.duration_since(*at));
            }
            for (key, totals) in &instance.newest {
                let before = base.and_then(|(_, sample)| sample.get(key));
                if !before.is_some_and(|before| Arc::ptr_eq(before, totals)) {
                    let counted = (instance.source.clone(), key.clone());
                    extract.parts.push((counted, (totals.clone(), before.cloned())));
                }
            }
        }
        extract
    }
}

impl Extract {
    /// The edges, added up over the instances of each workload. Sorted.
    pub(crate) fn edges(self) -> Vec<EdgeStats> {
        let mut edges: BTreeMap<Counted, Vec<Span>> = BTreeMap::new();
        for (counted, span) in self.parts {
            edges.entry(counted).or_default().push(span);
        }
        let edge = |((source, key), spans): (&Counted, &Vec<Span>)| {
            let mut sum = Sum::default();
            for (totals, before) in spans {
                sum.add(totals, before.as_deref());
            }
            sum.edge(source, key, self.span)
        };
        edges.iter().map(edge).collect()
    }
}

impl Instance {
    fn take(&mut self, report: v1::LoadReport, now: Instant) {
        for edge in report.edges {
            let Some((key, totals)) = read(edge) else { continue };
            match self.newest.get(&key) {
                Some(known) if **known == totals => {}
                None if self.newest.len() >= MAX_EDGES => {}
                _ => {
                    self.newest.insert(key, Arc::new(totals));
                }
            }
        }
        self.heard = now;
        let newest = self.samples.back().map(|(at, _)| *at);
        if newest.is_none_or(|at| now.duration_since(at) >= SAMPLE_EVERY) {
            self.samples.push_back((now, self.newest.clone()));
        }
        // One sample at or before the longest window's beginning is enough.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LONGEST_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// The newest sample that is not after `time`, or the oldest there is.
    fn at(&self, time: Instant) -> Option<&(Instant, Sample)> {
        self.samples.iter().rev().find(|(at, _)| *at <= time).or_else(|| self.samples.front())
    }
}

/// `None`: the report is from a proxy that says what nobody here understands.
fn read(edge: v1::Edge) -> Option<(EdgeKey, Totals)> {
    let direction = match v1::Direction::try_from(edge.direction).ok()? {
        v1::Direction::Outbound => EdgeDirection::Outbound,
        v1::Direction::Inbound => EdgeDirection::Inbound,
        v1::Direction::Unspecified => return None,
    };
    let name = edge.service?;
    let key = EdgeKey {
        direction,
        service: ServiceName::new(&name.namespace, &name.name).ok()?,
        port: u16::try_from(edge.port).ok()?,
        route: label(&edge.route),
        peer: label(&edge.peer),
        mtls: edge.mtls,
    };
    let latency = if edge.latency.len() <= MAX_HISTOGRAM_BYTES { edge.latency } else { Vec::new() };
    let totals = Totals {
        requests: edge.requests,
        successes: edge.successes,
        attempts: edge.attempts,
        attempt_successes: edge.attempt_successes,
        latency,
    };
    Some((key, totals))
}

fn label(text: &str) -> Arc<str> {
    text.chars().take(512).collect::<String>().into()
}

impl Default for Sum {
    fn default() -> Self {
        let latency =
            Histogram::new_with_bounds(1, LONGEST_LATENCY, 2).expect("the bounds are constants in order");
        Self { requests: 0, successes: 0, attempts: 0, attempt_successes: 0, latency }
    }
}

impl Sum {
    /// Adds what came on top of `before`. A counter that went back is that of a process that started anew.
    fn add(&mut self, totals: &Totals, before: Option<&Totals>) {
        let before = before.filter(|before| before.requests <= totals.requests);
        let since = |now: u64, then: fn(&Totals) -> u64| now.saturating_sub(before.map_or(0, then));
        self.requests = self.requests.saturating_add(since(totals.requests, |then| then.requests));
        self.successes = self.successes.saturating_add(since(totals.successes, |then| then.successes));
        self.attempts = self.attempts.saturating_add(since(totals.attempts, |then| then.attempts));
        self.attempt_successes = self
            .attempt_successes
            .saturating_add(since(totals.attempt_successes, |then| then.attempt_successes));
        let Some(mut histogram) = decode(&totals.latency) else { return };
        if let Some(before) = before.and_then(|before| decode(&before.latency)) {
            // Not a later state of the same histogram: the newest stands for itself.
            if histogram.subtract(&before).is_err() {
                histogram = decode(&totals.latency).unwrap_or(histogram);
            }
        }
        for value in histogram.iter_recorded() {
            let at = value.value_iterated_to().min(LONGEST_LATENCY);
            let _ = self.latency.record_n(at, value.count_at_value()); // within the bounds by the line above
        }
    }

    fn into_totals(self) -> Totals {
        Totals {
            requests: self.requests,
            successes: self.successes,
            attempts: self.attempts,
            attempt_successes: self.attempt_successes,
            latency: latency::encode(&self.latency),
        }
    }

    fn edge(&self, source: &str, key: &EdgeKey, span: Duration) -> EdgeStats {
        let share = |part: u64, of: u64| if of == 0 { 1.0 } else { part as f64 / of as f64 };
        let seconds = span.as_secs_f64();
        let inbound = key.direction == EdgeDirection::Inbound;
        EdgeStats {
            direction: key.direction,
            source: if inbound { key.peer.to_string() } else { source.to_owned() },
            destination: key.service.to_string(),
            port: key.port,
            route: key.route.to_string(),
            peer: key.peer.to_string(),
            mtls: key.mtls,
            requests: self.requests,
            successes: self.successes,
            attempts: self.attempts,
            attempt_successes: self.attempt_successes,
            success_rate: share(self.successes, self.requests),
            attempt_success_rate: share(self.attempt_successes, self.attempts),
            requests_per_second: if seconds > 0.0 { self.requests as f64 / seconds } else { 0.0 },
            p50_micros: self.latency.value_at_quantile(0.5),
            p90_micros: self.latency.value_at_quantile(0.9),
            p99_micros: self.latency.value_at_quantile(0.99),
            p999_micros: self.latency.value_at_quantile(0.999),
            window_seconds: seconds,
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Histogram<u64>> {
    if bytes.is_empty() { None } else { latency::decode(bytes).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(instance: &str) -> ProxyId {
        ProxyId::new(&"spiffe://outrigger.local/ns/shop/sa/web".parse().unwrap(), instance).unwrap()
    }

    /// A proxy that saw `requests`, each of so many milliseconds.
    fn report(requests: u64, millis: u64) -> v1::LoadReport {
        let mut histogram = Histogram::new_with_bounds(1, 4_000_000_000, 2).unwrap();
        histogram.record_n(millis * 1000, requests).unwrap();
        v1::LoadReport {
            edges: vec![v1::Edge {
                direction: v1::Direction::Outbound as i32,
                service: Some(v1::ServiceName { namespace: "shop".to_owned(), name: "pay".to_owned() }),
                port: 80,
                requests,
                successes: requests - requests / 10,
                attempts: requests * 2,
                attempt_successes: requests,
                latency: latency::encode(&histogram),
                mtls: true,
                ..v1::Edge::default()
            }],
            ..v1::LoadReport::default()
        }
    }

    #[test]
    fn instances_of_a_workload_are_one_edge() {
        let now = Instant::now();
        let mut traffic = Traffic::default();
        traffic.report(&id("a"), "web.shop", report(90, 1), now);
        traffic.report(&id("b"), "web.shop", report(10, 100), now);
        let edges = traffic.extract(None, now + Duration::from_secs(10)).edges();
        assert_eq!(edges.len(), 1);
        let edge = &edges[0];
        assert_eq!((edge.source.as_str(), edge.destination.as_str()), ("web.shop", "pay.shop"));
        assert_eq!((edge.requests, edge.attempts, edge.attempt_success_rate), (100, 200, 0.5));
        assert!((990..=1_010).contains(&edge.p50_micros), "{}", edge.p50_micros);
        assert!((99_000..=101_000).contains(&edge.p99_micros), "{}", edge.p99_micros);
        assert!((edge.requests_per_second - 10.0).abs() < 1e-9, "{}", edge.requests_per_second);
    }

    #[test]
    fn a_window_has_only_what_ended_in_it() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        for second in 0..=30 {
            let requests = if second < 20 { 100 } else { 100 + (second - 19) * 10 };
            traffic.report(&id("a"), "web.shop", report(requests, 1), start + Duration::from_secs(second));
        }
        let now = start + Duration::from_secs(30);
        assert_eq!(traffic.extract(None, now).edges()[0].requests, 210);
        let edge = &traffic.extract(Some(Duration::from_secs(10)), now).edges()[0];
        assert_eq!(edge.requests, 100, "the sample at 20 s has 110");
        assert!((edge.requests_per_second - 10.0).abs() < 1e-9, "{}", edge.requests_per_second);
    }

    #[test]
    fn an_idle_edge_is_not_in_the_window() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        for second in 0..=30 {
            traffic.report(&id("a"), "web.shop", report(100, 1), start + Duration::from_secs(second));
        }
        let now = start + Duration::from_secs(30);
        assert_eq!(traffic.extract(Some(Duration::from_secs(10)), now).edges(), []);
    }

    #[test]
    fn totals_outlive_the_instance() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        traffic.report(&id("a"), "web.shop", report(100, 1), start);
        let later = start + GONE_AFTER;
        traffic.report(&id("b"), "web.shop", report(10, 1), later);
        traffic.retire(later);
        assert_eq!(traffic.instances.len(), 1);
        assert_eq!(traffic.extract(None, later).edges()[0].requests, 110);
    }

    #[test]
    fn a_report_that_makes_no_sense_costs_only_itself() {
        let now = Instant::now();
        let mut traffic = Traffic::default();
        let mut wrong = report(10, 1);
        wrong.edges[0].latency = vec![0xff; 50];
        wrong.edges.push(v1::Edge { port: 70_000, ..report(1, 1).edges.remove(0) });
        wrong.edges.push(v1::Edge { direction: 9, ..report(1, 1).edges.remove(0) });
        traffic.report(&id("a"), "web.shop", wrong, now);
        let edges = traffic.extract(None, now).edges();
        assert_eq!(edges.len(), 1);
        assert_eq!((edges[0].requests, edges[0].p99_micros), (10, 0));
    }
}
