use super::*;

const GRACE: Duration = Duration::from_secs(10);

fn identity(account: &str) -> SpiffeId {
    format!("spiffe://outrigger.local/ns/shop/sa/{account}").parse().unwrap()
}

fn id(account: &str, instance: &str) -> ProxyId {
    ProxyId::new(&identity(account), instance).unwrap()
}

fn workload(service: &str, port: u16) -> v1::Workload {
    v1::Workload {
        service: Some(v1::ServiceName { namespace: "shop".to_owned(), name: service.to_owned() }),
        address: format!("127.0.0.1:{port}"),
        zone: String::new(),
        ports: vec![v1::WorkloadPort { port: 80, protocol: v1::Protocol::Http1 as i32 }],
        healthy: true,
    }
}

fn registration(account: &str, port: u16) -> Registration {
    Registration::new(&workload("pay", port), &identity(account)).unwrap()
}

fn empty(now: Instant) -> Registry {
    Registry::new(GRACE, GRACE * 3, Vec::new(), now)
}

fn pay() -> ServiceName {
    "pay.shop".parse().unwrap()
}

/// The ids in the set of `pay.shop` as last told.
fn ids(changes: &Changes) -> Vec<String> {
    let service = changes.services[&pay()].as_ref().expect("the service is known");
    service.endpoints.all.keys().map(ToString::to_string).collect()
}

#[test]
fn a_lost_stream_keeps_its_endpoint_for_the_grace() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.take_changes();
    registry.lost(&id("pay", "a"), now);
    registry.expire(now + GRACE - Duration::from_millis(1));
    assert!(registry.take_changes().services.is_empty(), "nothing is told of a stream that may come back");
    assert_eq!(registry.next_deadline(), Some(now + GRACE));
    registry.expire(now + GRACE);
    let changes = registry.take_changes();
    assert_eq!(ids(&changes), [""; 0]);
    assert_eq!(changes.rows[&id("pay", "a")], None);
}

#[test]
fn a_proxy_that_comes_back_within_the_grace_was_never_away() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.take_changes();
    registry.lost(&id("pay", "a"), now);
    registry.register(&id("pay", "a"), registration("pay", 1), now + GRACE / 2).unwrap();
    registry.expire(now + GRACE * 2);
    let changes = registry.take_changes();
    assert!(changes.services.is_empty() && changes.rows.is_empty(), "{changes:?}");
    assert!(registry.is_connected(&id("pay", "a")));
}

#[test]
fn a_goodbye_removes_at_once_and_the_service_stays_known() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.goodbye(&id("pay", "a"), now);
    registry.lost(&id("pay", "a"), now);
    let changes = registry.take_changes();
    let service = changes.services[&pay()].as_ref().unwrap();
    assert!(service.endpoints.all.is_empty());
    assert_eq!(service.ports.keys().collect::<Vec<_>>(), [&80]);
    registry.expire(now + REMEMBERED);
    assert_eq!(registry.take_changes().services[&pay()], None);
    assert_eq!(registry.next_deadline(), None);
}

#[test]
fn an_unhealthy_instance_stays_in_the_set_marked() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.set_healthy(&id("pay", "a"), false);
    let changes = registry.take_changes();
    let set = &changes.services[&pay()].as_ref().unwrap().endpoints;
    assert!(!set.all[&id("pay", "a")].healthy);
    registry.set_healthy(&id("pay", "a"), false);
    assert!(registry.take_changes().services.is_empty(), "the same health twice is no change");
}

#[test]
fn a_restarted_process_replaces_its_predecessor_in_one_change() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.take_changes();
    registry.register(&id("pay", "b"), registration("pay", 1), now).unwrap();
    assert_eq!(ids(&registry.take_changes()), ["shop/pay/b"]);
}

#[test]
fn another_identity_cannot_push_an_endpoint_out_by_claiming_its_address() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.register(&id("rogue", "a"), registration("rogue", 1), now).unwrap();
    assert_eq!(ids(&registry.take_changes()), ["shop/pay/a", "shop/rogue/a"]);
}

#[test]
fn after_a_restart_the_whole_set_is_there_and_the_unconfirmed_age_out() {
    let now = Instant::now();
    let before = vec![(id("pay", "a"), registration("pay", 1)), (id("pay", "b"), registration("pay", 2))];
    let mut registry = Registry::new(GRACE, GRACE * 3, before, now);
    let changes = registry.take_changes();
    assert_eq!(ids(&changes), ["shop/pay/a", "shop/pay/b"]);
    assert!(changes.rows.is_empty(), "what was read is not written again");
    registry.register(&id("pay", "a"), registration("pay", 1), now + GRACE).unwrap();
    registry.expire(now + GRACE * 3 - Duration::from_millis(1));
    assert!(registry.take_changes().services.is_empty());
    registry.expire(now + GRACE * 3);
    assert_eq!(ids(&registry.take_changes()), ["shop/pay/a"]);
}

#[test]
fn a_proxy_that_changes_its_service_leaves_the_old_one() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    registry.take_changes();
    let other = Registration::new(&workload("orders", 1), &identity("pay")).unwrap();
    registry.register(&id("pay", "a"), other, now).unwrap();
    let changes = registry.take_changes();
    assert_eq!(ids(&changes), [""; 0]);
    assert_eq!(changes.services.len(), 2);
}

#[test]
fn instances_that_disagree_on_a_protocol_leave_it_to_detection() {
    let now = Instant::now();
    let mut registry = empty(now);
    registry.register(&id("pay", "a"), registration("pay", 1), now).unwrap();
    let mut other = registration("pay", 2);
    other.ports.insert(80, v1::Protocol::Http2 as i32);
    registry.register(&id("pay", "b"), other, now).unwrap();
    let changes = registry.take_changes();
    assert_eq!(changes.services[&pay()].as_ref().unwrap().ports[&80], v1::Protocol::Unspecified as i32);
}

#[test]
fn a_wrong_registration_is_refused_with_the_field() {
    type Mistake = fn(&mut v1::Workload);
    let wrong: [(&str, Mistake); 8] = [
        ("workload.service", |w| w.service = None),
        ("workload.service", |w| w.service.as_mut().unwrap().name = "Pay".to_owned()),
        ("own namespace", |w| w.service.as_mut().unwrap().namespace = "bank".to_owned()),
        ("workload.address", |w| w.address = "0.0.0.0:4743".to_owned()),
        ("workload.address", |w| w.address = "pay.example:4743".to_owned()),
        ("workload.zone", |w| w.zone = "a\n".to_owned()),
        ("ports[0].port", |w| w.ports[0].port = 65_536),
        ("workload.ports", |w| w.ports.clear()),
    ];
    for (expected, change) in wrong {
        let mut workload = workload("pay", 1);
        change(&mut workload);
        let error = Registration::new(&workload, &identity("pay")).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for instance in ["", "a/b", "a b", &"x".repeat(129)] {
        assert!(ProxyId::new(&identity("pay"), instance).is_err(), "{instance:?}");
    }
}

#[test]
fn a_delta_says_what_changed_and_what_left() {
    let endpoint = |healthy| Arc::new(v1::Endpoint { healthy, ..Default::default() });
    let old = EndpointSet {
        version: 1,
        all: BTreeMap::from([
            (id("a", "1"), endpoint(true)),
            (id("a", "2"), endpoint(true)),
            (id("a", "3"), endpoint(true)),
        ]),
    };
    let mut new = old.clone();
    new.all.remove(&id("a", "1"));
    new.all.insert(id("a", "2"), endpoint(false));
    new.all.insert(id("a", "4"), endpoint(true));
    let (changed, removed) = new.since(&old);
    assert_eq!(changed, [(*endpoint(false)).clone(), (*endpoint(true)).clone()]);
    assert_eq!(removed, ["shop/a/1"]);
}
