use super::*;

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// A service with one port whose one rule leads to `backends`; no route at all if there are none.
fn service(text: &str, version: u64, backends: &[&str]) -> Update {
    let backend = |backend: &&str| v1::Backend {
        weight: 1,
        target: Some(v1::backend::Target::Service(v1::BackendService {
            name: Some((&name(backend)).into()),
            port: 80,
        })),
        filters: vec![],
    };
    let rule = v1::Rule {
        route: "shop/split".to_owned(),
        name: "0".to_owned(),
        backends: backends.iter().map(backend).collect(),
        ..v1::Rule::default()
    };
    let prefix = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/".to_owned())) };
    let matches = v1::RouteMatch { rule: 0, path: Some(prefix), ..v1::RouteMatch::default() };
    let routed = !backends.is_empty();
    Update::Service(Box::new(v1::Service {
        name: Some((&name(text)).into()),
        version,
        ports: vec![v1::ServicePort {
            port: 80,
            name: "http".to_owned(),
            protocol: v1::Protocol::Http1.into(),
            routed,
            matches: if routed { vec![matches] } else { vec![] },
            rules: if routed { vec![rule] } else { vec![] },
            tcp_backends: vec![],
        }],
        policy: Some(crate::control::tests::backend_policy()),
        ..v1::Service::default()
    }))
}

fn endpoint(id: &str) -> v1::Endpoint {
    v1::Endpoint {
        id: id.to_owned(),
        address: "127.0.0.1:4743".to_owned(),
        identity: "spiffe://outrigger.local/ns/shop/sa/payments".to_owned(),
        zone: String::new(),
        healthy: true,
        ports: vec![80],
    }
}

fn endpoints(text: &str, full: bool, changed: &[&str], removed: &[&str]) -> Update {
    Update::Endpoints(v1::Endpoints {
        service: Some((&name(text)).into()),
        version: 1,
        full,
        changed: changed.iter().map(|id| endpoint(id)).collect(),
        removed: removed.iter().map(ToString::to_string).collect(),
    })
}

fn not_found(text: &str) -> Update {
    Update::NotFound(raw_not_found(&name(text)))
}

/// A model, and the numbers of its stream.
#[derive(Default)]
struct Fed {
    model: Model,
    nonce: u64,
}

impl Fed {
    fn feed(&mut self, update: Update) -> Result<(), String> {
        self.feed_at(update, 0)
    }

    fn feed_at(&mut self, update: Update, second: u64) -> Result<(), String> {
        self.nonce += 1;
        let result =
            self.model.apply(self.nonce, update, second).map_err(|e| crate::control::reason::reason(&e));
        self.model.settle();
        result
    }

    /// Policy and one endpoint.
    fn whole(&mut self, text: &str, backends: &[&str]) {
        self.feed(service(text, 1, backends)).unwrap();
        self.feed(endpoints(text, true, &[&format!("{text}-1")], &[])).unwrap();
    }

    fn shown(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.model.snapshot().services.keys().map(ToString::to_string).collect();
        shown.sort();
        shown
    }

    fn ids(&self, text: &str) -> Vec<String> {
        let snapshot = self.model.snapshot();
        snapshot.services[&name(text)].endpoints.all.iter().map(|e| e.id.to_string()).collect()
    }

    fn version(&self, text: &str) -> u64 {
        self.model.snapshot().services[&name(text)].version
    }
}

#[test]
fn a_service_is_shown_when_its_policy_and_its_endpoints_are_here() {
    let mut fed = Fed::default();
    fed.feed(service("a.shop", 1, &[])).unwrap();
    assert_eq!(fed.shown(), [""; 0]);
    assert_eq!(fed.model.oldest_held(), Some(1), "not in use, so not acknowledged");
    fed.feed(endpoints("a.shop", true, &[], &[])).unwrap();
    assert_eq!(fed.shown(), ["a.shop"], "an empty set is an answer");
    assert_eq!(fed.model.oldest_held(), None);
}

#[test]
fn a_route_is_held_back_until_its_backends_are_here() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &[]);
    fed.feed(service("a.shop", 2, &["a.shop", "b.shop"])).unwrap();
    assert_eq!(fed.version("a.shop"), 1, "the older policy stays");
    assert_eq!(fed.model.oldest_held(), Some(3));
    assert!(fed.model.take_subscriptions().contains(&name("b.shop")), "the backend is asked for");
    fed.feed(endpoints("a.shop", false, &["a-2"], &[])).unwrap();
    assert_eq!(fed.ids("a.shop"), ["a-2", "a.shop-1"], "and is still kept up to date");
    fed.feed(service("b.shop", 1, &[])).unwrap();
    assert_eq!(fed.version("a.shop"), 1);
    fed.feed(endpoints("b.shop", true, &["b-1"], &[])).unwrap();
    assert_eq!(fed.version("a.shop"), 2);
    assert_eq!(fed.shown(), ["a.shop", "b.shop"]);
    assert_eq!(fed.model.oldest_held(), None);
}

#[test]
fn a_backend_that_does_not_exist_holds_nothing_back() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &["b.shop"]);
    assert_eq!(fed.shown(), [""; 0]);
    fed.feed(not_found("b.shop")).unwrap();
    assert_eq!(fed.shown(), ["a.shop"]);
}

#[test]
fn what_waits_too_long_is_reported_once_by_name() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &["b.shop"]);
    assert!(fed.model.overdue(4, 5).is_empty());
    let late = fed.model.overdue(5, 5);
    let (nonce, refused) = &late[0];
    assert_eq!((late.len(), *nonce), (1, 1));
    assert_eq!(refused.to_string(), "service a.shop: held back until these arrive: b.shop");
    assert!(fed.model.overdue(60, 5).is_empty());
    assert_eq!(fed.model.oldest_held(), None, "what was refused holds up no acknowledgement");
}

#[test]
fn a_service_that_is_gone_stays_only_for_the_routes_that_lead_to_it() {
    let mut fed = Fed::default();
    fed.whole("b.shop", &["b.shop"]);
    fed.whole("a.shop", &["b.shop"]);
    fed.feed(not_found("b.shop")).unwrap();
    assert_eq!(fed.shown(), ["a.shop", "b.shop"], "a still leads to b");
    fed.feed(service("a.shop", 2, &[])).unwrap();
    assert_eq!(fed.shown(), ["a.shop"]);
    assert!(fed.model.snapshot().missing.contains_key(&name("b.shop")));
    fed.whole("b.shop", &[]);
    assert_eq!(fed.shown(), ["a.shop", "b.shop"], "a later service takes it back");
    assert!(fed.model.snapshot().missing.is_empty());
}

#[test]
fn after_a_reconnect_everything_stays_until_the_whole_set_comes() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &[]);
    let before = fed.model.snapshot().services[&name("a.shop")].clone();
    assert_eq!(fed.model.begin_stream(), [name("a.shop")]);
    fed.nonce = 0;
    let refused = fed.feed(endpoints("a.shop", false, &[], &["a.shop-1"])).unwrap_err();
    assert_eq!(refused, "endpoints of a.shop: a change came before the whole set");
    assert_eq!(fed.ids("a.shop"), ["a.shop-1"]);
    fed.whole("a.shop", &[]);
    let after = fed.model.snapshot().services[&name("a.shop")].clone();
    assert!(Arc::ptr_eq(&before, &after), "the same said again is the same service");
    fed.feed(endpoints("a.shop", true, &[], &[])).unwrap();
    assert_eq!(fed.ids("a.shop"), [""; 0], "an empty whole set is meant");
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &[]);
    let Update::Service(mut bad) = service("a.shop", 2, &[]) else { unreachable!() };
    bad.ports[0].port = 70_000;
    let reason = fed.feed(Update::Service(bad)).unwrap_err();
    assert!(reason.contains("ports[0].port"), "{reason}");
    assert_eq!(fed.version("a.shop"), 1);

    let Update::Endpoints(mut bad) = endpoints("a.shop", true, &["x"], &[]) else { unreachable!() };
    bad.changed[0].address = "nowhere".to_owned();
    let reason = fed.feed(Update::Endpoints(bad.clone())).unwrap_err();
    assert!(reason.contains("changed[0].address"), "{reason}");
    assert_eq!(fed.ids("a.shop"), ["a.shop-1"]);

    bad.full = false;
    bad.removed = vec!["a.shop-1".to_owned()];
    fed.model.take_subscriptions();
    fed.feed(Update::Endpoints(bad)).unwrap_err();
    assert_eq!(fed.model.take_subscriptions(), [name("a.shop")], "the whole set is asked for again");

    let reason = fed.feed(Update::NotFound(v1::NotFound {
        destination: Some(v1::Destination {
            destination: Some(v1::destination::Destination::Service(v1::ServiceName {
                namespace: "Shop".to_owned(),
                name: "a".to_owned(),
            })),
        }),
    }));
    assert!(reason.unwrap_err().starts_with("notFound.destination.service: "));
    assert_eq!(fed.shown(), ["a.shop"]);
}

#[test]
fn unchanged_parts_are_shared_between_versions() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &[]);
    fed.whole("b.shop", &[]);
    let before = fed.model.snapshot();
    fed.feed(service("a.shop", 2, &["b.shop"])).unwrap();
    let after = fed.model.snapshot();
    let (a, b) = (name("a.shop"), name("b.shop"));
    assert!(Arc::ptr_eq(&before.services[&b], &after.services[&b]));
    assert!(Arc::ptr_eq(&before.services[&a].policy, &after.services[&a].policy));
    assert!(Arc::ptr_eq(&before.services[&a].endpoints, &after.services[&a].endpoints));
    assert!(Arc::ptr_eq(&before.services[&a].last_used, &after.services[&a].last_used));
    assert!(!Arc::ptr_eq(&before.services[&a].ports[0], &after.services[&a].ports[0]));
    fed.feed(endpoints("a.shop", false, &["a-2"], &[])).unwrap();
    let later = fed.model.snapshot();
    assert!(Arc::ptr_eq(&after.services[&a].ports[0], &later.services[&a].ports[0]));
}

#[test]
fn idle_services_are_forgotten_but_not_the_backends_of_used_ones() {
    let mut fed = Fed::default();
    fed.whole("used.shop", &["backend.shop"]);
    fed.whole("backend.shop", &["far.shop"]);
    fed.whole("far.shop", &[]);
    fed.whole("idle.shop", &[]);
    fed.model.ask(&name("missing.shop"), 0);
    fed.feed(not_found("missing.shop")).unwrap();
    assert!(fed.model.sweep(599, 600).is_empty());
    fed.model.snapshot().services[&name("used.shop")].touch(500);
    let mut forgotten = fed.model.sweep(600, 600);
    forgotten.sort();
    assert_eq!(forgotten, [name("idle.shop"), name("missing.shop")]);
    fed.model.settle();
    assert_eq!(fed.shown(), ["backend.shop", "far.shop", "used.shop"]);
    assert!(fed.model.snapshot().missing.is_empty());
}

#[test]
fn invented_names_cannot_fill_the_table() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &[]);
    for n in 0..MAX_EMPTY {
        assert_eq!(fed.model.ask(&name(&format!("x{n}.shop")), n as u64), Asked::Waiting);
    }
    assert_eq!(fed.model.ask(&name("late.shop"), 5000), Asked::Full);
    assert_eq!(fed.model.evict_missing(), None, "those that wait for an answer are not put out");
    fed.feed(not_found("x7.shop")).unwrap();
    fed.feed(not_found("x3.shop")).unwrap();
    assert_eq!(fed.model.evict_missing(), Some(name("x3.shop")), "the one asked for longest ago");
    assert_eq!(fed.model.ask(&name("late.shop"), 5000), Asked::Waiting);
    assert_eq!(fed.shown(), ["a.shop"]);
}

#[test]
fn what_was_kept_comes_back_whole() {
    let mut fed = Fed::default();
    fed.feed(Update::Mesh(v1::MeshSettings {
        version: 3,
        permissive_mtls: true,
        sampling_ratio: 0.5,
        ..Default::default()
    }))
    .unwrap();
    fed.whole("a.shop", &["b.shop"]);
    fed.whole("b.shop", &["a.shop"]);
    fed.model.ask(&name("missing.shop"), 0);
    fed.feed(not_found("missing.shop")).unwrap();
    assert!(fed.model.take_worth_keeping());
    fed.model.ask(&name("invented.shop"), 0);
    fed.feed(not_found("invented.shop")).unwrap();
    assert!(!fed.model.take_worth_keeping(), "names that are not there are not kept");
    let mut again = Fed::default();
    assert!(again.model.restore(fed.model.messages()).is_empty());
    assert!(again.model.settle());
    assert_eq!(again.shown(), ["a.shop", "b.shop"]);
    assert_eq!(again.ids("a.shop"), ["a.shop-1"]);
    assert!(again.model.snapshot().mesh.permissive_mtls);
    assert!(again.model.has_settings());
    let mut names = again.model.begin_stream();
    names.sort();
    assert_eq!(names, [name("a.shop"), name("b.shop")]);
}

#[test]
fn a_backend_that_was_missing_holds_back_nobody_in_the_next_life() {
    let mut fed = Fed::default();
    fed.whole("a.shop", &["b.shop"]);
    fed.feed(not_found("b.shop")).unwrap();
    let mut again = Fed::default();
    assert!(again.model.restore(fed.model.messages()).is_empty());
    again.model.settle();
    assert_eq!(again.shown(), ["a.shop"]);
}

// ---- outside the mesh ----

const HOST: &str = "api.example.com";

/// A service that stands for [`HOST`].
fn outside(text: &str, target_port: u32) -> Update {
    let Update::Service(service) = service(text, 1, &[]) else { unreachable!() };
    let ports = vec![v1::ExternalPort { port: 80, target_port, tls: None }];
    let external = Some(v1::External { host: HOST.to_owned(), ports });
    Update::Service(Box::new(v1::Service { external, ..*service }))
}

fn listed_only() -> Update {
    let egress = Some(v1::Egress { listed_only: true, cidrs: vec!["192.0.2.0/24".to_owned()] });
    Update::Mesh(v1::MeshSettings { egress, ..v1::MeshSettings::default() })
}

impl Fed {
    fn resolve(&mut self, addresses: Option<&[&str]>) {
        let addresses = addresses.map(|all| all.iter().map(|text| text.parse().unwrap()).collect());
        self.model.resolved(&HOST.into(), addresses);
        self.model.settle();
    }

    /// Where the host is called, at whichever of its ports.
    fn addresses(&self) -> Vec<String> {
        let snapshot = self.model.snapshot();
        let Some(known) = snapshot.hosts.get(HOST) else { return Vec::new() };
        let names = known.listed.iter().chain(known.unlisted.iter().map(|(_, name)| name));
        let endpoints = names.flat_map(|name| snapshot.services[name].endpoints.all.clone());
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }
}

#[test]
fn a_service_outside_is_shown_with_what_its_host_was_resolved_to() {
    let mut fed = Fed::default();
    fed.feed(endpoints("api.shop", true, &["a"], &[])).unwrap();
    fed.feed(outside("api.shop", 443)).unwrap();
    fed.model.settle();
    assert!(fed.model.snapshot().services.is_empty(), "not resolved yet");
    assert_eq!(fed.model.take_hosts(), Some(HashSet::from([HOST.into()])));
    assert_eq!(fed.model.take_hosts(), None, "told once");
    fed.resolve(Some(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(
        fed.addresses(),
        ["192.0.2.1:443", "192.0.2.2:443"],
        "the control plane's endpoint is not one"
    );
    let before = fed.model.snapshot().services[&name("api.shop")].endpoints.all[1].clone();
    fed.resolve(Some(&["192.0.2.2", "192.0.2.3"]));
    assert_eq!(fed.addresses(), ["192.0.2.2:443", "192.0.2.3:443"]);
    assert!(Arc::ptr_eq(&before, &fed.model.snapshot().services[&name("api.shop")].endpoints.all[0]));
    fed.resolve(None);
    assert_eq!(fed.addresses().len(), 2, "what it was before stays");
    fed.feed(outside("api.shop", 8443)).unwrap();
    fed.model.settle();
    assert_eq!(fed.addresses(), ["192.0.2.2:8443", "192.0.2.3:8443"], "at once: the host is known");
    fed.feed(not_found("api.shop")).unwrap();
    fed.model.settle();
    assert_eq!((fed.addresses().len(), fed.model.take_hosts()), (0, Some(HashSet::new())));
}

#[test]
fn a_host_that_cannot_be_resolved_has_no_endpoints_and_keeps_nobody_waiting() {
    let mut fed = Fed::default();
    fed.feed(outside("api.shop", 443)).unwrap();
    fed.resolve(None);
    assert!(fed.model.snapshot().services[&name("api.shop")].endpoints.all.is_empty());
    assert!(fed.model.overdue(100, 5).is_empty());
}

#[test]
fn of_two_services_for_a_host_the_workloads_own_counts() {
    let mut fed = Fed { model: Model::new("shop"), ..Fed::default() };
    for (text, port) in [("api.bank", 1), ("api.shop", 2), ("api.web", 3)] {
        fed.feed(outside(text, port)).unwrap();
    }
    fed.resolve(Some(&["192.0.2.1"]));
    assert_eq!(fed.addresses(), ["192.0.2.1:2"]);
}

#[test]
fn a_host_that_nobody_lists_is_opened_once_a_port_and_is_the_proxys_own_affair() {
    let mut fed = Fed::default();
    for port in [80, 80, 443] {
        assert_eq!(fed.model.open(&HOST.into(), port, 0), Asked::Waiting);
    }
    fed.resolve(Some(&["192.0.2.1", "127.0.0.1", "169.254.169.254"]));
    let mut addresses = fed.addresses();
    addresses.sort();
    assert_eq!(addresses, ["192.0.2.1:443", "192.0.2.1:80"], "and at nothing on this machine or its link");
    assert_eq!((fed.model.begin_stream(), fed.model.messages().len()), (vec![], 0));
    assert_eq!(fed.model.unlisted_hosts(), HashSet::from([HOST.into()]));
    assert_eq!(fed.model.sweep(1000, 600), [], "nothing to tell the control plane");
    assert!(fed.model.snapshot().services.is_empty());
}

#[test]
fn a_name_of_a_namespace_that_is_known_is_no_host() {
    let mut fed = Fed::default();
    fed.model.ask(&name("example.com"), 0);
    fed.model.open(&HOST.into(), 80, 0);
    fed.feed(service("cart.shop", 1, &["gone.other"])).unwrap();
    fed.feed(not_found("gone.other")).unwrap();
    for (host, inside) in [
        ("carts.shop", true),
        ("shop", false),
        ("a.carts.shop", false),
        ("example.workshop", false),
        ("example.other", false),
        ("www.com", false),
        ("external-9.outrigger", false),
        ("192.0.2.7", false),
    ] {
        assert_eq!(fed.model.is_inside(host), inside, "{host}");
    }
}

#[test]
fn hosts_that_callers_invent_push_each_other_out() {
    let mut fed = Fed::default();
    for number in 0..2 * MAX_UNLISTED {
        fed.model.open(&format!("h{number}.example.com").into(), 80, number as u64);
    }
    assert_eq!(fed.model.len(), MAX_UNLISTED);
    assert!(fed.model.unlisted_hosts().contains(&*format!("h{}.example.com", 2 * MAX_UNLISTED - 1)));
}

#[test]
fn hosts_that_nobody_lists_are_closed_when_only_listed_ones_may_be_called() {
    let mut fed = Fed::default();
    fed.model.open(&HOST.into(), 80, 0);
    fed.model.open(&"192.0.2.7".into(), 80, 0);
    fed.feed(outside("api.shop", 80)).unwrap();
    fed.feed(listed_only()).unwrap();
    assert_eq!(fed.model.unlisted_hosts(), HashSet::from(["192.0.2.7".into()]), "its network is listed");
    assert!(fed.model.allows("192.0.2.7") && !fed.model.allows(HOST) && !fed.model.allows("192.0.3.7"));
    fed.resolve(Some(&["127.0.0.1"]));
    assert_eq!(fed.addresses(), ["127.0.0.1:80"], "what a document lists may be anywhere");
}
