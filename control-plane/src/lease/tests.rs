use proptest::prelude::*;

use super::*;

const LIMIT: &str = "shop/limits/all of service pay.shop";

/// Proxies that hear of their leases some time after they were made, as over a network.
struct Fleet {
    leases: Leases<usize>,
    parts: Vec<f64>,
    holders: Vec<u32>,
    on_the_way: Vec<(Instant, usize, Lease)>,
    messages: usize,
    now: Instant,
}

impl Fleet {
    fn new(proxies: usize) -> Self {
        Self {
            leases: Leases::default(),
            parts: vec![0.05; proxies],
            holders: vec![0; proxies],
            on_the_way: Vec::new(),
            messages: 0,
            now: Instant::now(),
        }
    }

    fn say(&mut self, proxy: usize, asked: f64) {
        let demand = Demand { asked, part: self.parts[proxy], holders: self.holders[proxy] };
        self.leases.note(LIMIT, &proxy, demand, self.now);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            if self.leases.next().is_some_and(|next| next <= self.now) {
                for (proxy, _, lease) in self.leases.settle(self.now) {
                    self.messages += 1;
                    // Not in order between proxies: some hear sooner than others.
                    let delay = Duration::from_millis(10 + (proxy as u64 * 37) % 200);
                    self.on_the_way.push((self.now + delay, proxy, lease));
                }
            }
            let (heard, rest) =
                std::mem::take(&mut self.on_the_way).into_iter().partition(|one| one.0 <= self.now);
            self.on_the_way = rest;
            for (_, proxy, lease) in heard {
                (self.parts[proxy], self.holders[proxy]) = (lease.part, lease.holders);
            }
        }
    }

    fn sum(&self) -> f64 {
        self.parts.iter().sum()
    }
}

#[test]
fn what_is_asked_for_less_and_less_goes_to_others_meanwhile() {
    let mut fleet = Fleet::new(3);
    fleet.say(0, 3.0);
    fleet.pass(Duration::from_secs(15));
    assert!(fleet.parts[0] > 0.9, "{:?}", fleet.parts);
    // What one is asked for is averaged, so that its end is a long way down.
    for quarter in 1..=12 {
        fleet.say(0, 3.0 * (-0.25 * f64::from(quarter)).exp());
        (1..3).for_each(|proxy| fleet.say(proxy, 1.5));
        fleet.pass(Duration::from_millis(250));
        assert!(fleet.sum() <= 1.0 + WORTH, "{:?}", fleet.parts);
    }
    let moved = fleet.parts[1] + fleet.parts[2];
    assert!(moved > 0.75, "{:?}", fleet.parts);
}

#[test]
fn everybody_gets_what_it_asks_for_or_as_much_as_anybody() {
    for (asked, expected) in [
        (&[0.5, 0.5][..], &[0.5, 0.5][..]),
        (&[2.0, 0.1], &[0.9, 0.1]),
        (&[5.0, 5.0, 0.2], &[0.4, 0.4, 0.2]),
        (&[0.1, 0.3], &[0.4, 0.6]),
        (&[], &[]),
    ] {
        let parts = parts(asked);
        let close = parts.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close && parts.len() == expected.len(), "{asked:?}: {parts:?}");
    }
}

#[test]
fn twenty_proxies_settle_on_the_whole_limit_and_follow_demand() {
    let mut fleet = Fleet::new(20);
    for hot in [0..2, 5..6, 0..20, 10..20] {
        for proxy in 0..20 {
            fleet.say(proxy, if hot.contains(&proxy) { 1.5 } else { 0.002 });
        }
        fleet.pass(Duration::from_secs(2));
        assert!((0.95..=1.0 + 1e-9).contains(&fleet.sum()), "{:?}", fleet.parts);
        let of_hot: f64 = hot.clone().map(|proxy| fleet.parts[proxy]).sum();
        assert!(of_hot > 0.9, "{hot:?}: {:?}", fleet.parts);
    }
}

#[test]
fn who_asks_for_little_makes_nobody_talk() {
    let mut fleet = Fleet::new(20);
    (0..20).for_each(|proxy| fleet.say(proxy, 0.0));
    fleet.pass(Duration::from_secs(5));
    let before = fleet.messages;
    for round in 0..50 {
        (0..20).for_each(|proxy| fleet.say(proxy, f64::from((round + proxy as i32) % 10) * 0.003));
        fleet.pass(Duration::from_millis(200));
    }
    assert_eq!(fleet.messages, before, "all of it fits into what everybody has");
}

#[test]
fn a_lost_proxy_keeps_its_part_until_it_cannot_be_using_it() {
    let mut fleet = Fleet::new(2);
    (0..2).for_each(|proxy| fleet.say(proxy, 5.0));
    fleet.pass(Duration::from_secs(3));
    assert!(fleet.parts.iter().all(|part| (part - 0.5).abs() < 0.02), "{:?}", fleet.parts);
    fleet.leases.lost(&1, fleet.now);
    fleet.say(0, 5.0);
    fleet.pass(Duration::from_secs(20));
    assert!(fleet.parts[0] < 0.52, "{:?}", fleet.parts);
    fleet.pass(Duration::from_secs(15));
    assert!(fleet.parts[0] > 0.98, "{:?}", fleet.parts);

    fleet.say(1, 5.0);
    fleet.pass(Duration::from_secs(3));
    fleet.leases.left(&0, fleet.now);
    fleet.pass(Duration::from_secs(3));
    assert!(fleet.parts[1] > 0.98, "who says goodbye leaves its part at once: {:?}", fleet.parts);
}

#[test]
fn after_a_restart_nobody_gets_more_before_everybody_is_back() {
    let mut fleet = Fleet::new(4);
    (0..4).for_each(|proxy| fleet.say(proxy, 1.0));
    fleet.pass(Duration::from_secs(3));
    fleet.leases = Leases::default();
    fleet.say(0, 5.0);
    fleet.pass(Duration::from_secs(5));
    assert!(fleet.sum() <= 1.0 + 1e-9, "three others still use their parts: {:?}", fleet.parts);
    (1..4).for_each(|proxy| fleet.say(proxy, 0.01));
    fleet.pass(Duration::from_secs(3));
    assert!(fleet.parts[0] > 0.9, "{:?}", fleet.parts);
}

proptest! {
    #[test]
    fn parts_are_all_of_it_and_nobody_starves(asked in prop::collection::vec(0.0f64..3.0, 1..40)) {
        let parts = parts(&asked);
        let equal = 1.0 / asked.len() as f64;
        prop_assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "unused parts are given on: {parts:?}");
        for (part, asked) in parts.iter().zip(&asked) {
            prop_assert!(*part >= asked.min(equal) - 1e-9, "{part} of {asked}");
        }
        let unmet = parts.iter().zip(&asked).filter(|(part, asked)| **part < **asked - 1e-9);
        let least_unmet = unmet.map(|(part, _)| *part).fold(f64::INFINITY, f64::min);
        for (part, asked) in parts.iter().zip(&asked) {
            prop_assert!(*part <= least_unmet + 1e-9 || *part >= *asked, "max-min fair: {parts:?} of {asked}");
        }
    }

    #[test]
    fn what_proxies_use_never_adds_up_to_more_than_the_whole(
        rounds in prop::collection::vec(prop::collection::vec(0.0f64..2.0, 8), 1..12),
        pauses in prop::collection::vec(50u64..900, 12),
    ) {
        let mut fleet = Fleet::new(8);
        for (asked, pause) in rounds.iter().zip(pauses) {
            for (proxy, asked) in asked.iter().enumerate() {
                fleet.say(proxy, *asked);
            }
            fleet.pass(Duration::from_millis(pause));
            prop_assert!(fleet.sum() <= 1.0 + 1e-9, "{:?}", fleet.parts);
        }
        fleet.pass(Duration::from_secs(3));
        let demand: f64 = rounds.last().unwrap().iter().sum();
        if demand > 1.0 {
            prop_assert!(fleet.sum() > 0.95, "{:?}", fleet.parts);
        }
    }
}
