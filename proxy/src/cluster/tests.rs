use std::net::SocketAddr;

use http::StatusCode;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::hash_key::{HashKey, HashPolicy};
use crate::ring;
use crate::snapshot::{BalancerKind, BreakerPolicy};

const PORT: u16 = 80;
const GOOD: Outcome = Outcome::Status { code: StatusCode::OK, grpc: None, retry_after: None };
const BAD: Outcome =
    Outcome::Status { code: StatusCode::INTERNAL_SERVER_ERROR, grpc: None, retry_after: None };

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        address: "127.0.0.1:4743".parse().unwrap(),
        identity: "spiffe://outrigger.local/ns/shop/sa/payments".parse().unwrap(),
        zone: "".into(),
        healthy: true,
        ports: vec![PORT],
    }
}

fn set(endpoints: impl IntoIterator<Item = Endpoint>) -> Arc<Endpoints> {
    Arc::new(Endpoints { version: 0, all: endpoints.into_iter().map(Arc::new).collect() })
}

fn named(ids: &[&str]) -> Arc<Endpoints> {
    set(ids.iter().map(|id| endpoint(id)))
}

/// A cluster with a clock and dice of its own.
struct Bench {
    cluster: Cluster,
    policy: Arc<BackendPolicy>,
    now: Instant,
    rng: StdRng,
}

impl Bench {
    fn new(endpoints: Arc<Endpoints>) -> Self {
        Self::with(endpoints, BackendPolicy::default())
    }

    fn with(endpoints: Arc<Endpoints>, policy: BackendPolicy) -> Self {
        let now = Instant::now();
        let policy = Arc::new(policy);
        let service = Service {
            name: "payments.shop".parse().unwrap(),
            version: 1,
            ports: Vec::new(),
            policy: Arc::clone(&policy),
            endpoints,
            external: None,
            gateway: None,
            last_used: Arc::default(),
        };
        Self { cluster: Cluster::new(&service, now), policy, now, rng: StdRng::seed_from_u64(2) }
    }

    fn pick(&mut self) -> Result<Pick, Failure> {
        self.pick_in("", &[])
    }

    fn readiness(&mut self) -> Result<(), Failure> {
        self.cluster.readiness(PORT, "", self.now)
    }

    fn pick_in(&mut self, zone: &str, tried: &[&str]) -> Result<Pick, Failure> {
        let tried: Vec<Arc<str>> = tried.iter().map(|id| Arc::from(*id)).collect();
        self.cluster.pick(&Aim { tried: &tried, ..Aim::new(PORT, zone) }, self.now, &mut self.rng)
    }

    fn pick_for(&mut self, key: u64) -> Pick {
        self.cluster.pick(&Aim { key: Some(key), ..Aim::new(PORT, "") }, self.now, &mut self.rng).unwrap()
    }

    fn finish(&mut self, pick: Pick, outcome: Outcome, latency: Duration) -> Option<Transition> {
        self.now += latency;
        self.cluster.finish(pick, &outcome, latency, self.now).map(|transition| transition.to)
    }

    /// Sends requests one after the other; how many each endpoint got.
    fn send(&mut self, count: usize, answer: impl Fn(&str) -> (Outcome, Duration)) -> HashMap<String, usize> {
        let mut got = HashMap::new();
        for _ in 0..count {
            let pick = self.pick().unwrap();
            let id = pick.endpoint.id.to_string();
            let (outcome, latency) = answer(&id);
            self.finish(pick, outcome, latency);
            *got.entry(id).or_default() += 1;
        }
        got
    }

    /// Fails requests to one endpoint until its breaker opens, and says for how long that is.
    fn trip(&mut self, id: &str) -> Duration {
        for _ in 0..10_000 {
            let pick = self.pick().unwrap();
            let outcome = if *pick.endpoint.id == *id { BAD } else { GOOD };
            // As slow as a failure counts, so that the failing one is still chosen now and then.
            if let Some(Transition::Opened(time)) = self.finish(pick, outcome, ms(100)) {
                return time;
            }
            self.now += ms(1000);
        }
        panic!("the breaker of {id} did not open");
    }

    /// The same, and waits until a probe is due.
    fn trip_and_wait(&mut self, id: &str) {
        let time = self.trip(id);
        self.now += time;
    }

    fn out(&self) -> usize {
        self.cluster.view(self.now).filter(|view| view.breaker != Standing::Closed).count()
    }

    fn in_flight(&self) -> u32 {
        self.cluster.view(self.now).map(|view| view.in_flight).sum()
    }

    fn update(&mut self, endpoints: Arc<Endpoints>) {
        self.cluster.update(&endpoints, &self.policy, self.now);
    }
}

#[test]
fn without_a_healthy_endpoint_that_serves_the_port_there_is_none() {
    assert_eq!(Bench::new(named(&[])).pick().unwrap_err(), Failure::NoEndpoints);
    let sick = Endpoint { healthy: false, ..endpoint("a") };
    let elsewhere = Endpoint { ports: vec![81], ..endpoint("b") };
    assert_eq!(Bench::new(set([sick, elsewhere])).pick().unwrap_err(), Failure::NoEndpoints);
}

#[test]
fn a_slow_endpoint_is_avoided() {
    let mut bench = Bench::new(named(&["fast", "slow"]));
    let got = bench.send(1000, |id| (GOOD, if id == "slow" { ms(200) } else { ms(5) }));
    assert!(got["slow"] <= 20, "{got:?}");
}

#[test]
fn an_endpoint_that_fails_fast_attracts_no_traffic() {
    let policy = BackendPolicy { breaker: None, ..BackendPolicy::default() };
    let mut bench = Bench::with(named(&["broken", "well"]), policy);
    let got = bench.send(1000, |id| if id == "broken" { (BAD, ms(0)) } else { (GOOD, ms(20)) });
    assert!(got["broken"] <= 10, "{got:?}");
}

#[test]
fn an_endpoint_that_fails_fast_attracts_no_traffic_however_many_requests_wait_elsewhere() {
    let policy = BackendPolicy { breaker: None, ..BackendPolicy::default() };
    let mut bench = Bench::with(named(&["broken", "well"]), policy);
    bench.send(100, |_| (GOOD, ms(20)));
    let mut waiting = Vec::new();
    let mut failed = 0;
    while waiting.len() < 100 && failed <= 10 {
        let pick = bench.pick().unwrap();
        if &*pick.endpoint.id == "broken" {
            bench.finish(pick, BAD, ms(0));
            failed += 1;
        } else {
            waiting.push(pick);
        }
    }
    assert!(failed <= 10, "{failed} requests failed");
}

#[test]
fn one_failure_among_many_moves_little_traffic() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.send(200, |_| (GOOD, ms(20)));
    let pick = bench.pick().unwrap();
    let unlucky = pick.endpoint.id.to_string();
    bench.finish(pick, BAD, ms(20));
    let got = bench.send(3000, |_| (GOOD, ms(20)));
    assert!(got[&unlucky] > 500, "{got:?}");
}

#[test]
fn the_breaker_opens_probes_once_and_closes() {
    let mut bench = Bench::new(named(&["a", "b"]));
    let time = bench.trip("a");
    assert!(bench.now + time > bench.now);
    for _ in 0..50 {
        let pick = bench.pick().unwrap();
        assert_eq!(&*pick.endpoint.id, "b", "an ejected endpoint is never picked");
        bench.finish(pick, GOOD, ms(0));
    }
    bench.now += time;
    let probe = bench.pick().unwrap();
    assert!(probe.is_probe());
    assert_eq!(&*probe.endpoint.id, "a");
    for _ in 0..50 {
        assert_eq!(&*bench.pick().unwrap().endpoint.id, "b", "exactly one probe");
    }
    assert_eq!(bench.finish(probe, GOOD, ms(5)), Some(Transition::Closed));
    assert_eq!(bench.out(), 0);
}

#[test]
fn a_probe_whose_caller_went_away_is_followed_by_another() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip_and_wait("a");
    drop(bench.pick().unwrap());
    assert!(bench.pick().unwrap().is_probe());
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn a_probe_ends_with_the_head_of_a_long_answer() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip_and_wait("a");
    let mut probe = bench.pick().unwrap();
    let closed = bench.cluster.answered(&mut probe, &GOOD, ms(5), bench.now).unwrap();
    assert_eq!((&*closed.endpoint.id, closed.to), ("a", Transition::Closed));
    assert_eq!(bench.in_flight(), 1);
    assert_eq!(bench.finish(probe, GOOD, ms(5)), None);
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn a_retry_is_no_probe_while_another_endpoint_is_well() {
    let mut bench = Bench::new(named(&["a", "b", "c"]));
    bench.trip_and_wait("a");
    assert_eq!(&*bench.pick_in("", &["b"]).unwrap().endpoint.id, "c");
}

#[test]
fn a_lone_endpoint_is_never_taken_out() {
    let mut bench = Bench::new(named(&["a"]));
    for _ in 0..100 {
        let pick = bench.pick().unwrap();
        assert_eq!(bench.finish(pick, BAD, ms(1)), None);
    }
}

#[test]
fn all_breakers_open_where_the_policy_allows_it() {
    let breaker = BreakerPolicy { max_ejected_percent: 100, panic_percent: 0, ..BreakerPolicy::default() };
    let policy = BackendPolicy { breaker: Some(breaker), ..BackendPolicy::default() };
    let mut bench = Bench::with(named(&["a"]), policy);
    let time = bench.trip("a");
    assert_eq!(bench.pick().unwrap_err(), Failure::BreakerOpen);
    assert_eq!(bench.readiness(), Err(Failure::BreakerOpen));
    bench.now += time;
    let probe = bench.pick_in("", &["b"]).unwrap();
    assert!(probe.is_probe(), "also for a retry, where there is nothing else");
    assert_eq!(bench.pick().unwrap_err(), Failure::BreakerOpen);
}

#[test]
fn when_too_few_are_left_all_are_used() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip("a");
    bench.update(named(&["a"]));
    let pick = bench.pick().unwrap();
    assert_eq!(&*pick.endpoint.id, "a", "half of one is none: the open breaker is passed over");
    assert!(!pick.is_probe());
}

#[test]
fn the_last_endpoint_of_a_port_is_used_although_others_serve_other_ports() {
    let elsewhere = |id| Endpoint { ports: vec![81], ..endpoint(id) };
    let mut bench = Bench::new(set([endpoint("a"), elsewhere("b"), elsewhere("c")]));
    bench.trip("a");
    assert_eq!(&*bench.pick().unwrap().endpoint.id, "a");
}

#[test]
fn an_endpoint_that_came_back_gets_its_share_again_at_once() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.send(100, |_| (GOOD, ms(20)));
    let burst: Vec<Pick> = (0..100).map(|_| bench.pick().unwrap()).collect();
    for pick in burst {
        let outcome = if &*pick.endpoint.id == "a" { BAD } else { GOOD };
        bench.finish(pick, outcome, ms(0));
    }
    assert_eq!(bench.out(), 1);
    bench.now += ms(2000);
    let probe = bench.pick().unwrap();
    assert!(probe.is_probe());
    assert_eq!(bench.finish(probe, GOOD, ms(20)), Some(Transition::Closed));
    let got = bench.send(100, |_| (GOOD, ms(20)));
    assert!(got["a"] > 30, "{got:?}");
}

#[test]
fn an_endpoint_that_hangs_until_its_callers_give_up_is_avoided() {
    let mut bench = Bench::new(named(&["hung", "well"]));
    bench.send(100, |_| (GOOD, ms(5)));
    let mut hung = 0;
    for _ in 0..1000 {
        let pick = bench.pick().unwrap();
        if &*pick.endpoint.id == "hung" {
            bench.now += ms(1000);
            let now = bench.now;
            bench.cluster.abandon(pick, ms(1000), now);
            hung += 1;
        } else {
            bench.finish(pick, GOOD, ms(5));
        }
    }
    assert!(hung <= 3, "{hung} callers waited in vain");
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn an_endpoint_that_fails_far_more_often_than_its_peers_is_taken_out() {
    let policy = BackendPolicy { balancer: BalancerKind::RoundRobin, ..BackendPolicy::default() };
    let mut bench = Bench::with(named(&["a", "b", "c"]), policy);
    // Two of three requests to it fail: never seven in a row.
    let turn = Cell::new(0);
    bench.send(150, |id| {
        turn.set(turn.get() + usize::from(id == "a"));
        (if id == "a" && !turn.get().is_multiple_of(3) { BAD } else { GOOD }, ms(5))
    });
    let out: Vec<_> = bench.cluster.view(bench.now).filter(|view| view.breaker != Standing::Closed).collect();
    assert_eq!(out.iter().map(|view| &*view.endpoint.id).collect::<Vec<_>>(), ["a"]);
    assert_eq!(out[0].cause, Some(Cause::SuccessRate));
}

#[test]
fn requests_stay_in_their_zone_while_it_is_well_enough() {
    let zoned = |id: &str, zone: &str| Endpoint { zone: zone.into(), ..endpoint(id) };
    let all = || vec![zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b"), zoned("b2", "b")];
    let zones = |bench: &mut Bench, tried: &[&str]| {
        let picks = (0..50).map(|_| bench.pick_in("a", tried).unwrap().endpoint.zone.to_string());
        picks.collect::<std::collections::BTreeSet<_>>()
    };
    let mut bench = Bench::new(set(all()));
    assert_eq!(zones(&mut bench, &[]).into_iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(zones(&mut bench, &["a1"]).into_iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(zones(&mut bench, &["a1", "a2"]).into_iter().collect::<Vec<_>>(), ["b"]);

    let mut half = all();
    half[0].healthy = false;
    bench.update(set(half));
    assert_eq!(zones(&mut bench, &[]).len(), 2, "one of two is not enough");
    assert_eq!(bench.pick_in("c", &[]).map(|_| ()), Ok(()), "a zone without endpoints is served by others");
}

#[test]
fn an_endpoint_not_yet_tried_is_preferred_and_a_tried_one_better_than_none() {
    let mut bench = Bench::new(named(&["a", "b", "c"]));
    for _ in 0..50 {
        assert_eq!(&*bench.pick_in("", &["a", "c"]).unwrap().endpoint.id, "b");
    }
    assert!(bench.pick_in("", &["a", "b", "c"]).is_ok());
}

#[test]
fn what_was_learned_stays_with_the_endpoints_that_stay() {
    let mut bench = Bench::new(named(&["a", "b", "c"]));
    bench.trip("a");
    let pending = loop {
        let pick = bench.pick().unwrap();
        if &*pick.endpoint.id == "b" {
            break pick;
        }
    };
    let before: Vec<_> = bench.cluster.view(bench.now).collect();

    let changed = Endpoint { healthy: false, ..endpoint("b") };
    bench.update(set([endpoint("a"), changed, endpoint("d")]));

    let after: Vec<_> = bench.cluster.view(bench.now).collect();
    assert_eq!(after[0], before[0]);
    assert_eq!((after[1].in_flight, after[1].latency_seconds), (1, before[1].latency_seconds));
    assert_eq!((after[2].latency_seconds, after[2].breaker), (None, Standing::Closed));
    bench.finish(pending, GOOD, ms(5));
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn an_endpoint_that_moved_is_a_new_one() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip("a");
    let moved = Endpoint { address: "127.0.0.2:4743".parse().unwrap(), ..endpoint("a") };
    bench.update(set([moved, endpoint("b")]));
    assert_eq!(bench.out(), 0);
}

#[test]
fn a_new_policy_takes_hold_at_once_and_closes_breakers_that_it_does_without() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip("a");
    let permit = bench.cluster.active.admit();
    let policy = BackendPolicy { breaker: None, max_active: 1, ..BackendPolicy::default() };
    let endpoints = Arc::clone(&bench.cluster.endpoints);
    bench.cluster.update(&endpoints, &Arc::new(policy), bench.now);
    assert_eq!(bench.out(), 0);
    assert!(bench.cluster.active.admit().is_none());
    drop(permit);
    assert!(bench.cluster.active.admit().is_some());
}

#[test]
fn a_thousand_endpoints_are_gone_through_only_when_something_has_changed() {
    let ids: Vec<String> = (0..1000).map(|id| id.to_string()).collect();
    let mut bench = Bench::new(named(&ids.iter().map(String::as_str).collect::<Vec<_>>()));
    let made = |bench: &mut Bench| {
        let pick = bench.pick().unwrap();
        bench.finish(pick, GOOD, ms(1));
        bench.cluster.rolls.made()
    };
    let first = made(&mut bench);
    assert!((0..100).all(|_| made(&mut bench) == first), "made anew though nothing changed");
    let time = bench.trip("7");
    let one_out = made(&mut bench);
    assert_ne!(one_out, first);
    assert!((0..10).all(|_| made(&mut bench) == one_out), "made anew while the breaker stays open");
    bench.now += time;
    assert!(bench.pick().unwrap().is_probe());
}

#[test]
fn what_says_nothing_of_the_endpoint_changes_nothing() {
    let mut bench = Bench::new(named(&["a", "b"]));
    bench.trip_and_wait("a");
    let probe = bench.pick().unwrap();
    let before = bench.cluster.view(bench.now).next().unwrap().latency_seconds;
    let now = bench.now;
    assert_eq!(bench.cluster.finish(probe, &Outcome::Failed(Failure::Overloaded), ms(1), now), None);
    assert_eq!(bench.cluster.view(bench.now).next().unwrap().latency_seconds, before);
    assert!(bench.pick().unwrap().is_probe(), "the probe's place is free again");
}

/// Hashed, with these keys' bound on the load of one.
fn hashed(max_load_percent: Option<u32>) -> BackendPolicy {
    let hash = HashPolicy { key: HashKey::SourceAddress, max_load_percent };
    BackendPolicy { balancer: BalancerKind::Hash, hash: Some(Box::new(hash)), ..BackendPolicy::default() }
}

fn balanced(balancer: BalancerKind) -> BackendPolicy {
    match balancer {
        BalancerKind::Hash => hashed(Some(150)),
        balancer => BackendPolicy { balancer, ..BackendPolicy::default() },
    }
}

fn balancer() -> impl Strategy<Value = BalancerKind> {
    prop::sample::select(vec![
        BalancerKind::PeakEwma,
        BalancerKind::LeastRequest,
        BalancerKind::RoundRobin,
        BalancerKind::Hash,
    ])
}

fn apart(ids: &[u8]) -> Arc<Endpoints> {
    set(ids.iter().map(|id| Endpoint {
        address: SocketAddr::from(([10, 0, 0, *id], 4743)),
        ..endpoint(&id.to_string())
    }))
}

/// Where each of a thousand keys goes.
fn owners(bench: &mut Bench) -> Vec<String> {
    let keys = (0..1000u32).map(|number| ring::key(number.to_be_bytes()));
    keys.map(|key| bench.pick_for(key).endpoint.id.to_string()).collect()
}

#[test]
fn a_key_stays_with_its_endpoint_and_another_has_it_while_that_is_out() {
    let mut bench = Bench::with(apart(&[1, 2, 3, 4]), hashed(None));
    let before = owners(&mut bench);
    assert_eq!(owners(&mut bench), before);
    let time = bench.trip("2");
    let meanwhile = owners(&mut bench);
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(if before == "2" { meanwhile != "2" } else { meanwhile == before }, "{before} {meanwhile}");
    }
    bench.now += time;
    let key =
        |owner: &str| ring::key((before.iter().position(|id| id == owner).unwrap() as u32).to_be_bytes());
    assert!(!bench.pick_for(key("1")).is_probe(), "the probe is a request with a key of its own");
    let probe = bench.pick_for(key("2"));
    assert!(probe.is_probe());
    bench.finish(probe, GOOD, ms(5));
    assert_eq!(owners(&mut bench), before, "they come back");
}

#[test]
fn an_endpoint_that_comes_takes_keys_and_moves_no_others() {
    let mut bench = Bench::with(apart(&[1, 2, 3]), hashed(None));
    let before = owners(&mut bench);
    bench.update(apart(&[1, 2, 3, 9]));
    let after = owners(&mut bench);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!(moved.iter().all(|(_, after)| *after == "9"));
    assert!((100..450).contains(&moved.len()), "{} of 1000 keys moved", moved.len());
}

#[test]
fn a_key_that_everybody_asks_for_is_spread_over_as_many_as_the_bound_says() {
    let mut bench = Bench::with(apart(&[1, 2, 3, 4]), hashed(Some(125)));
    let (mut picks, mut places) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        places.push(bench.cluster.active.admit());
        picks.push(bench.pick_for(7));
    }
    let most = bench.cluster.view(bench.now).map(|view| view.in_flight).max();
    assert!(most <= Some(13), "{most:?} of 40 at one of four");
}

#[test]
fn a_request_without_a_key_goes_where_it_is_fast() {
    let mut bench = Bench::with(apart(&[1, 2]), hashed(None));
    let got = bench.send(500, |id| (GOOD, if id == "1" { ms(200) } else { ms(5) }));
    assert!(got["1"] <= 20, "{got:?}");
}

#[test]
fn a_session_stays_with_its_endpoint_until_that_is_out() {
    let mut bench = Bench::new(named(&["a", "b", "c"]));
    let held = |bench: &mut Bench| {
        let aim = Aim { held: Some(mark("b")), ..Aim::new(PORT, "elsewhere") };
        let pick = bench.cluster.pick(&aim, bench.now, &mut bench.rng).unwrap();
        (pick.endpoint.id.to_string(), pick.is_probe())
    };
    let can_hold = |bench: &mut Bench| bench.cluster.can_hold(mark("b"), PORT, "elsewhere", bench.now);
    let home = ("b".to_owned(), false);
    assert!((0..20).all(|_| held(&mut bench) == home));
    bench.trip_and_wait("a");
    assert_eq!(held(&mut bench), home, "another's probe does not take it away");
    let time = bench.trip("b");
    assert!((0..20).all(|_| held(&mut bench).0 != "b"));
    assert!(!can_hold(&mut bench), "its breaker is open");
    bench.now += time;
    assert_eq!(held(&mut bench), ("b".to_owned(), true), "its own is a request like others");
    assert!(can_hold(&mut bench));
    bench.update(set([endpoint("a"), Endpoint { healthy: false, ..endpoint("b") }]));
    assert!(!can_hold(&mut bench), "it is not ready");
    bench.update(set([endpoint("a"), Endpoint { ports: vec![81], ..endpoint("b") }]));
    assert!(!can_hold(&mut bench), "it serves another port");
    assert_eq!(held(&mut bench).0, "a");
}

/// The share of `id` among `count` requests that take no time.
fn share_of(bench: &mut Bench, id: &str, count: usize) -> f64 {
    let picked =
        (0..count as u32).map(|number| bench.pick_for(ring::key(number.to_be_bytes())).endpoint.clone());
    picked.filter(|endpoint| *endpoint.id == *id).count() as f64 / count as f64
}

#[test]
fn a_new_endpoint_gets_its_share_by_and_by() {
    for balancer in [BalancerKind::RoundRobin, BalancerKind::LeastRequest, BalancerKind::Hash] {
        let policy = BackendPolicy { slow_start: Some(ms(10_000)), ..balanced(balancer) };
        let policy = BackendPolicy {
            hash: policy.hash.map(|hash| Box::new(HashPolicy { max_load_percent: None, ..*hash })),
            ..policy
        };
        let mut bench = Bench::with(apart(&[1, 2, 3]), policy);
        let first = share_of(&mut bench, "1", 3000);
        assert!((0.25..0.42).contains(&first), "{balancer:?}: the first ones are never new, {first}");
        bench.update(apart(&[1, 2, 3, 9]));
        let full = {
            bench.now += ms(10_000);
            let full = share_of(&mut bench, "9", 3000);
            bench.now -= ms(10_000);
            full
        };
        for (after, expected) in [(0, 0.1), (2_500, 0.25), (5_000, 0.5), (7_500, 0.75), (10_000, 1.0)] {
            bench.cluster.rolls.clear(); // the clock was turned back above
            bench.now += ms(after);
            let share = share_of(&mut bench, "9", 3000) / full;
            bench.now -= ms(after);
            assert!((share - expected).abs() < 0.1, "{balancer:?}: {share} after {after} ms");
        }
    }
}

#[test]
fn an_endpoint_that_has_recovered_is_new_and_a_lone_one_is_not() {
    let policy = || BackendPolicy { slow_start: Some(ms(10_000)), ..balanced(BalancerKind::RoundRobin) };
    let mut bench = Bench::with(named(&["a", "b"]), policy());
    bench.update(set([endpoint("a"), Endpoint { healthy: false, ..endpoint("b") }]));
    bench.update(named(&["a", "b"]));
    assert!(share_of(&mut bench, "b", 1000) < 0.1);
    bench.update(set([]));
    bench.update(named(&["c", "d"]));
    assert!(share_of(&mut bench, "c", 1000) > 0.4, "where all are new, all get their share");
}

#[test]
fn how_many_of_a_zone_are_enough_is_what_the_policy_says() {
    let zoned = |id: &str, zone: &str, healthy| Endpoint { zone: zone.into(), healthy, ..endpoint(id) };
    let all = || set([zoned("a1", "a", true), zoned("a2", "a", false), zoned("b1", "b", true)]);
    for (percent, stays) in [(Some(50), true), (Some(51), false), (Some(1), true), (None, false)] {
        let policy = BackendPolicy { zone_percent: percent, ..BackendPolicy::default() };
        let mut bench = Bench::with(all(), policy);
        let zones = (0..50).map(|_| bench.pick_in("a", &[]).unwrap().endpoint.zone.to_string());
        let zones: std::collections::BTreeSet<_> = zones.collect();
        assert_eq!(zones.len() == 1, stays, "{percent:?}: {zones:?}");
    }
}

#[test]
fn breakers_of_a_zone_count_as_out_and_its_requests_spill_over() {
    let zoned = |id: &str, zone: &str| Endpoint { zone: zone.into(), ..endpoint(id) };
    let all = set([zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b"), zoned("b2", "b")]);
    let policy = BackendPolicy { balancer: BalancerKind::RoundRobin, ..BackendPolicy::default() };
    let mut bench = Bench::with(all, policy);
    let time = bench.trip("a1");
    let zones = |bench: &mut Bench| {
        let picks = (0..50).map(|_| bench.pick_in("a", &[]).unwrap().endpoint.zone.to_string());
        picks.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(zones(&mut bench), 2);
    bench.now += time;
    let probe = bench.pick_in("a", &[]).unwrap();
    assert!(probe.is_probe());
    bench.finish(probe, GOOD, ms(1));
    assert_eq!(zones(&mut bench), 1, "and comes back with it");
}

#[test]
fn all_are_used_as_soon_as_too_few_are_in() {
    for (panic_percent, panics) in [(0, false), (50, false), (75, false), (76, true)] {
        let breaker = BreakerPolicy { panic_percent, ..BreakerPolicy::default() };
        let policy = BackendPolicy { breaker: Some(breaker), ..balanced(BalancerKind::RoundRobin) };
        let mut bench = Bench::with(named(&["a", "b", "c", "d"]), policy);
        bench.trip("a");
        let picked = (0..20).any(|_| &*bench.pick().unwrap().endpoint.id == "a");
        assert_eq!(picked, panics, "{panic_percent} %, three of four are in");
    }
}

#[test]
fn nobody_is_compared_with_peers_where_the_policy_says_so() {
    let breaker = BreakerPolicy { outlier: None, ..BreakerPolicy::default() };
    let policy = BackendPolicy { breaker: Some(breaker), ..balanced(BalancerKind::RoundRobin) };
    let mut bench = Bench::with(named(&["a", "b", "c"]), policy);
    let turn = Cell::new(0);
    bench.send(300, |id| {
        turn.set(turn.get() + usize::from(id == "a"));
        (if id == "a" && !turn.get().is_multiple_of(3) { BAD } else { GOOD }, ms(5))
    });
    assert_eq!(bench.out(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Pick { zone: bool, tried: bool },
    Good,
    Bad,
    Drop,
    Wait(u64),
    Update(Vec<(u8, bool, bool)>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), any::<bool>()).prop_map(|(zone, tried)| Step::Pick { zone, tried }),
        2 => Just(Step::Good),
        6 => Just(Step::Bad),
        1 => Just(Step::Drop),
        3 => (0u64..2000).prop_map(Step::Wait),
        1 => prop::collection::vec((0u8..6, any::<bool>(), prop::bool::weighted(0.8)), 0..6)
            .prop_map(Step::Update),
    ]
}

fn drawn(endpoints: &[(u8, bool, bool)]) -> Arc<Endpoints> {
    let mut endpoints = endpoints.to_vec();
    endpoints.sort_by_key(|(id, ..)| *id);
    endpoints.dedup_by_key(|(id, ..)| *id);
    set(endpoints.into_iter().map(|(id, zone, healthy)| Endpoint {
        zone: if zone { "z" } else { "y" }.into(),
        healthy,
        ..endpoint(&id.to_string())
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The laws of picking, whatever happens in whatever order.
    #[test]
    fn an_ejected_endpoint_is_never_picked_and_nothing_leaks(
        percent in 0u32..=100,
        panic_percent in prop_oneof![Just(0u32), 0u32..=100],
        balancer in balancer(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let breaker = BreakerPolicy {
            consecutive_failures: 2,
            max_ejected_percent: percent,
            panic_percent,
            ..BreakerPolicy::default()
        };
        let slow_start = Some(ms(3000));
        let policy = BackendPolicy { breaker: Some(breaker), slow_start, ..balanced(balancer) };
        let mut endpoints = drawn(&[(0, true, true), (1, true, true), (2, false, true), (3, false, true)]);
        let mut bench = Bench::with(Arc::clone(&endpoints), policy);
        let mut picks: Vec<Pick> = Vec::new();
        for step in steps {
            let healthy = endpoints.all.iter().filter(|endpoint| endpoint.healthy).count();
            let most_out = healthy * percent as usize / 100;
            let before: HashMap<Arc<str>, Standing> = bench
                .cluster
                .view(bench.now)
                .map(|view| (Arc::clone(&view.endpoint.id), view.breaker))
                .collect();
            let healthy_out = |bench: &Bench| bench
                .cluster
                .view(bench.now)
                .filter(|view| view.endpoint.healthy && view.breaker != Standing::Closed)
                .count();
            let out = healthy_out(&bench);
            match step {
                Step::Pick { zone, tried } => {
                    let tried: Vec<Arc<str>> = if tried { vec!["0".into()] } else { Vec::new() };
                    let key = Some(bench.rng.random());
                    let aim = Aim { tried: &tried, key, ..Aim::new(PORT, if zone { "z" } else { "" }) };
                    match bench.cluster.pick(&aim, bench.now, &mut bench.rng) {
                        Ok(pick) => {
                            prop_assert!(pick.endpoint.healthy);
                            let breaker = before[&pick.endpoint.id];
                            prop_assert_eq!(pick.is_probe(), breaker == Standing::Due);
                            let panic = (healthy - out) * 100 < healthy * panic_percent as usize;
                            prop_assert!(panic || matches!(breaker, Standing::Closed | Standing::Due));
                            picks.push(pick);
                        }
                        Err(Failure::NoEndpoints) => prop_assert_eq!(healthy, 0),
                        Err(failure) => {
                            prop_assert_eq!(failure, Failure::BreakerOpen);
                            prop_assert_eq!((out, panic_percent), (healthy, 0));
                        }
                    }
                }
                Step::Good | Step::Bad if !picks.is_empty() => {
                    let pick = picks.remove(0);
                    let good = matches!(step, Step::Good);
                    let opened = matches!(
                        bench.finish(pick, if good { GOOD } else { BAD }, ms(1)),
                        Some(Transition::Opened(_))
                    );
                    let now_out = healthy_out(&bench);
                    prop_assert!(now_out <= out || opened);
                    prop_assert!(now_out <= most_out.max(out), "{now_out} of {healthy} out, {percent} % allowed");
                }
                Step::Drop => { picks.pop(); }
                Step::Wait(milliseconds) => bench.now += ms(milliseconds),
                Step::Update(drawn_anew) => {
                    endpoints = drawn(&drawn_anew);
                    bench.update(Arc::clone(&endpoints));
                }
                Step::Good | Step::Bad => {}
            }
            prop_assert!(bench.in_flight() as usize <= picks.len());
        }
        picks.clear();
        prop_assert_eq!(bench.in_flight(), 0);
        prop_assert!(bench.cluster.view(bench.now).all(|view| view.breaker != Standing::HalfOpen));
    }

    /// What is kept between picks is what would be found out anew.
    #[test]
    fn picks_do_not_depend_on_what_was_kept_from_the_ones_before(
        percent in 0u32..=100,
        kind in balancer(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let policy = |percent| {
            let breaker = BreakerPolicy {
                consecutive_failures: 2,
                max_ejected_percent: percent,
                panic_percent: 100 - percent,
                ..BreakerPolicy::default()
            };
            BackendPolicy { breaker: Some(breaker), slow_start: Some(ms(3000)), ..balanced(kind) }
        };
        let endpoints = drawn(&[(0, true, true), (1, true, true), (2, false, true), (3, false, true)]);
        let mut benches = [(); 2].map(|()| Bench::with(Arc::clone(&endpoints), policy(percent)));
        let mut picks: [Vec<Pick>; 2] = Default::default();
        for step in steps {
            let mut results = Vec::new();
            for (index, (bench, picks)) in benches.iter_mut().zip(&mut picks).enumerate() {
                match &step {
                    Step::Pick { zone, tried } => {
                        let mut tried: Vec<Arc<str>> = if *tried { vec!["0".into()] } else { Vec::new() };
                        if index == 0 {
                            bench.cluster.rolls.clear();
                        } else if let Some(member) = bench.cluster.members.first()
                            && tried.first() == Some(&member.endpoint.id)
                        {
                            tried = vec![member.endpoint.id.clone()]; // which may be known by its address
                        }
                        let zone = if *zone { "z" } else { "" };
                        let key = Some(bench.rng.random());
                        let aim = Aim { tried: &tried, key, ..Aim::new(PORT, zone) };
                        let readiness = bench.cluster.readiness(PORT, zone, bench.now);
                        let pick = bench.cluster.pick(&aim, bench.now, &mut bench.rng);
                        prop_assert!(pick.is_err() || readiness.is_ok(), "one was picked though none is ready");
                        results.push(pick.as_ref().map(|pick| (pick.endpoint.id.clone(), pick.is_probe()))
                            .map_err(|failure| *failure));
                        picks.extend(pick.ok());
                    }
                    Step::Good | Step::Bad if !picks.is_empty() => {
                        let outcome = if matches!(step, Step::Good) { GOOD } else { BAD };
                        bench.finish(picks.remove(0), outcome, ms(1));
                    }
                    Step::Good | Step::Bad => {}
                    Step::Drop => drop(picks.pop()),
                    // Now and then for so long that a probe is given up.
                    Step::Wait(time) => bench.now += ms(if time % 5 == 0 { time * 60 } else { *time }),
                    Step::Update(drawn_anew) if drawn_anew.len() == 1 => {
                        let percent = u32::from(drawn_anew[0].0) * 20;
                        bench.policy = Arc::new(policy(percent));
                        let endpoints = Arc::clone(&bench.cluster.endpoints);
                        bench.update(endpoints);
                    }
                    Step::Update(drawn_anew) => bench.update(drawn(drawn_anew)),
                }
            }
            if let [anew, kept] = &results[..] {
                prop_assert_eq!(anew, kept);
            }
        }
    }
}
