use super::*;

fn policy() -> ConcurrencyPolicy {
    ConcurrencyPolicy {
        min_limit: 5,
        max_limit: 1000,
        tolerance_percent: 25,
        recalibrate: Duration::from_secs(30),
    }
}

/// A server that works on `capacity` requests at once, each for `service` of time; more of them wait.
struct Server {
    capacity: f64,
    service: Duration,
}

impl Server {
    fn latency(&self, under_way: u32) -> Duration {
        self.service.mul_f64((f64::from(under_way) / self.capacity).max(1.0))
    }
}

/// Offers `demand` requests at once for `time`, and returns the limits at the end of each window.
fn run(gradient: &mut Gradient, server: &Server, demand: u32, time: Duration, now: &mut Instant) -> Vec<u32> {
    let (policy, end) = (policy(), *now + time);
    let mut limits = Vec::new();
    while *now < end {
        let under_way = demand.min(gradient.limit(&policy));
        let latency = server.latency(under_way);
        // As many answers as there were requests, spread over the time that each took.
        for _ in 0..under_way {
            *now += latency / under_way;
            gradient.record(latency, under_way, &policy, *now);
        }
        limits.push(gradient.limit(&policy));
    }
    limits
}

#[test]
fn under_overload_the_limit_settles_near_what_the_server_can_work_on() {
    for (capacity, milliseconds) in [(50.0, 20), (200.0, 5), (10.0, 50)] {
        let server = Server { capacity, service: Duration::from_millis(milliseconds) };
        let mut now = Instant::now();
        let mut gradient = Gradient::new(&policy(), now);
        run(&mut gradient, &server, 5, Duration::from_secs(2), &mut now);
        let limits = run(&mut gradient, &server, 2000, Duration::from_secs(20), &mut now);
        let late = &limits[limits.len() / 2..];
        let most = f64::from(*late.iter().max().unwrap());
        let least = f64::from(*late.iter().min().unwrap());
        assert!(least >= capacity * 0.9, "the server is kept busy: {least} of {capacity}");
        assert!(most <= capacity * 2.2, "the queue stays short: {most} of {capacity}");
    }
}

#[test]
fn a_server_that_was_never_seen_without_load_is_found_out_by_draining_its_queue() {
    let server = Server { capacity: 12.0, service: Duration::from_millis(20) };
    let mut now = Instant::now();
    let mut gradient = Gradient::new(&policy(), now);
    // From the first request on there are more than it can work on: what looks like no queue is one.
    let limits = run(&mut gradient, &server, 500, Duration::from_secs(150), &mut now);
    let late = f64::from(*limits[limits.len() * 3 / 4..].iter().max().unwrap());
    assert!(late <= 12.0 * 2.5, "{late}");
}

#[test]
fn without_a_queue_the_limit_stays_out_of_the_way() {
    let server = Server { capacity: 10_000.0, service: Duration::from_millis(10) };
    let mut now = Instant::now();
    let mut gradient = Gradient::new(&policy(), now);
    run(&mut gradient, &server, 300, Duration::from_secs(20), &mut now);
    assert!(gradient.limit(&policy()) >= 300, "{}", gradient.limit(&policy()));
    let idle = gradient.limit(&policy());
    run(&mut gradient, &server, 3, Duration::from_secs(20), &mut now);
    assert_eq!(gradient.limit(&policy()), idle, "few requests say nothing of what many would do");
}

#[test]
fn a_server_that_becomes_slower_is_not_strangled_for_ever() {
    let mut now = Instant::now();
    let mut gradient = Gradient::new(&policy(), now);
    let fast = Server { capacity: 50.0, service: Duration::from_millis(10) };
    run(&mut gradient, &fast, 100, Duration::from_secs(20), &mut now);
    let slow = Server { capacity: 50.0, service: Duration::from_millis(100) };
    run(&mut gradient, &slow, 100, Duration::from_secs(120), &mut now);
    let limit = gradient.limit(&policy());
    assert!(limit >= 40, "three times the period later it knows the new time: {limit}");
}

#[test]
fn the_limit_keeps_within_its_bounds() {
    let mut now = Instant::now();
    let bounds = ConcurrencyPolicy { min_limit: 3, max_limit: 30, ..policy() };
    let mut gradient = Gradient::new(&bounds, now);
    for step in 0..20_000u32 {
        let latency = Duration::from_millis(if step % 4000 < 2000 { 1 } else { 900 });
        now += Duration::from_millis(5);
        gradient.record(latency, gradient.limit(&bounds), &bounds, now);
        assert!((3..=30).contains(&gradient.limit(&bounds)));
    }
}

#[test]
fn a_gate_lets_in_as_many_as_the_limit_and_the_next_when_one_has_left() {
    let gate = Rc::new(Gate::default());
    let (policy, now) = (ConcurrencyPolicy { max_limit: 5, ..policy() }, Instant::now());
    let mut places: Vec<_> = (0..5).map(|_| gate.enter(&policy, now).unwrap()).collect();
    assert!(gate.enter(&policy, now).is_none());
    places.pop();
    assert!(gate.enter(&policy, now).is_some());
}
