use super::*;
use crate::compile::mesh_settings;
use crate::compile::tests::documents;
use crate::discovery::{ProxyId, RegisteredService};
use crate::model::Model;

/// `web` has a route to itself and `web-v2`, which has one to `db`; `alone` has none.
const DOCUMENTS: &str = "
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: alone, namespace: shop}
spec: {ports: [{port: 80}]}
---
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}, {name: web-v2, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: deeper, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web-v2}]
  rules: [{backendRefs: [{name: db, port: 80}, {name: web, port: 80}]}]
";

/// The state of a control plane, and one proxy that acknowledges when it is told to.
struct Plane {
    model: Model,
    registered: HashMap<ServiceName, RegisteredService>,
    cache: Cache,
    settings: Arc<v1::MeshSettings>,
    bundle: Arc<v1::TrustBundle>,
    nobody: Arc<EndpointSet>,
    outbox: Outbox,
    version: u64,
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

impl Plane {
    fn new(yaml: &str) -> Self {
        let mut model = Model::default();
        model.replace(Arc::new(documents(yaml)));
        let settings = Arc::new(mesh_settings(model.documents()));
        Self {
            model,
            registered: HashMap::new(),
            cache: Cache::default(),
            settings,
            bundle: Arc::default(),
            nobody: Arc::default(),
            outbox: Outbox::new("shop", None),
            version: 0,
        }
    }

    /// A proxy that has its settings.
    fn greeted(yaml: &str) -> Self {
        let mut plane = Self::new(yaml);
        assert_eq!(plane.fill(), ["trust bundle", "mesh settings"]);
        plane
    }

    fn filled(&mut self) -> Filled {
        let mut sources = Sources {
            world: World { model: &self.model, registered: &self.registered },
            cache: &mut self.cache,
            mesh: &self.settings,
            bundle: &self.bundle,
            nobody: &self.nobody,
        };
        self.outbox.fill(&mut sources)
    }

    /// What is sent now, in order.
    fn fill(&mut self) -> Vec<String> {
        self.filled().messages.iter().map(describe).collect()
    }

    fn subscribe(&mut self, services: &[&str]) {
        let destination = |service: &&str| Some(Kind::Service((&name(service)).into()));
        let destinations =
            services.iter().map(|service| v1::Destination { destination: destination(service) });
        self.outbox.subscribe(destinations.collect());
    }

    fn subscribe_address(&mut self, address: &str) {
        let destination = Some(Kind::Address(address.to_owned()));
        self.outbox.subscribe(vec![v1::Destination { destination }]);
    }

    fn subscribe_host(&mut self, host: &str) {
        let destination = Some(Kind::Host(host.to_owned()));
        self.outbox.subscribe(vec![v1::Destination { destination }]);
    }

    fn unsubscribe(&mut self, service: &str) {
        self.outbox.unsubscribe(&[(&name(service)).into()]);
    }

    /// New documents, as the publisher takes them.
    fn apply(&mut self, yaml: &str) {
        let change = self.model.replace(Arc::new(documents(yaml)));
        let world = World { model: &self.model, registered: &self.registered };
        let mut touched = self.cache.refresh(world, &change.services);
        touched.extend(change.services);
        for service in &touched {
            self.outbox.mark(service);
        }
        self.outbox.mark_addresses(&change.addresses);
        self.outbox.mark_hosts(&change.hosts);
    }

    /// Instances of a service, by number; the odd ones are unhealthy.
    fn instances(&mut self, service: &str, instances: &[u16]) {
        let identity = "spiffe://outrigger.local/ns/shop/sa/a".parse().unwrap();
        self.version += 1;
        let endpoint = |instance: &u16| {
            let id = ProxyId::new(&identity, &instance.to_string()).unwrap();
            let endpoint = v1::Endpoint {
                id: id.to_string(),
                healthy: instance.is_multiple_of(2),
                ..v1::Endpoint::default()
            };
            (id, Arc::new(endpoint))
        };
        let set = EndpointSet { version: self.version, all: instances.iter().map(endpoint).collect() };
        self.registered.entry(name(service)).or_default().endpoints = Arc::new(set);
        self.outbox.mark(&name(service));
    }
}

fn describe(message: &v1::ControlMessage) -> String {
    let text =
        |name: &Option<v1::ServiceName>| name.as_ref().map(|name| name.name.clone()).unwrap_or_default();
    match message.update.as_ref().unwrap() {
        Update::Mesh(_) => "mesh settings".to_owned(),
        Update::Bundle(_) => "trust bundle".to_owned(),
        Update::Inbound(inbound) => format!("inbound {}", inbound.ports.len()),
        Update::Service(service) => format!("service {}", text(&service.name)),
        Update::Endpoints(endpoints) => format!(
            "{} {} +{} -{}",
            if endpoints.full { "all" } else { "delta" },
            text(&endpoints.service),
            endpoints.changed.len(),
            endpoints.removed.len()
        ),
        Update::NotFound(not_found) => {
            match not_found.destination.as_ref().unwrap().destination.as_ref().unwrap() {
                Kind::Service(name) => format!("no {}", name.name),
                Kind::Address(text) | Kind::Host(text) => format!("no {text}"),
            }
        }
        Update::RateLease(lease) => format!("part of {}", lease.limit),
    }
}

#[test]
fn a_service_comes_with_its_endpoints_first() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.instances("alone.shop", &[2, 4]);
    plane.subscribe(&["alone.shop"]);
    assert_eq!(plane.fill(), ["all alone +2 -0", "service alone"]);
    assert_eq!(plane.fill(), [""; 0], "what was sent is not sent again");
}

#[test]
fn a_route_comes_after_everything_it_leads_to_however_far_and_in_circles() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["web.shop"]);
    let filled = plane.filled();
    let order: Vec<_> = filled.messages.iter().map(describe).collect();
    assert_eq!(
        order,
        ["all db +0 -0", "service db", "all web-v2 +0 -0", "service web-v2", "all web +0 -0", "service web"]
    );
    let mut gained: Vec<_> = filled.gained.iter().map(ToString::to_string).collect();
    gained.sort();
    assert_eq!(gained, ["db.shop", "web-v2.shop", "web.shop"]);
}

#[test]
fn what_no_route_leads_to_any_more_is_forgotten_and_sent_anew_when_one_does() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["web.shop"]);
    plane.fill();
    let without = DOCUMENTS.replace(", {name: web-v2, port: 80}]", "]");
    plane.apply(&without);
    let filled = plane.filled();
    assert_eq!(filled.messages.iter().map(describe).collect::<Vec<_>>(), ["service web"]);
    assert_eq!(filled.dropped.len(), 2, "web-v2 and db: {:?}", filled.dropped);
    plane.instances("web-v2.shop", &[2]);
    assert_eq!(plane.fill(), [""; 0]);
    plane.apply(DOCUMENTS);
    assert_eq!(
        plane.fill(),
        ["all db +0 -0", "service db", "all web-v2 +1 -0", "service web-v2", "service web"]
    );
}

#[test]
fn endpoints_are_sent_as_deltas_and_many_changes_are_one() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.instances("alone.shop", &[2, 4, 6]);
    plane.subscribe(&["alone.shop"]);
    plane.fill();
    plane.instances("alone.shop", &[2, 4]);
    plane.instances("alone.shop", &[2, 4, 8]);
    plane.instances("alone.shop", &[2, 8, 10]);
    assert_eq!(plane.fill(), ["delta alone +2 -2"]);
    plane.instances("alone.shop", &[2, 8, 10]);
    assert_eq!(plane.fill(), [""; 0], "another version of the same set says nothing new");
}

#[test]
fn a_change_that_changes_nothing_for_callers_is_not_sent() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["web.shop"]);
    plane.fill();
    plane.apply(&DOCUMENTS.replace("metadata: {name: canary,", "metadata: {labels: {a: b}, name: canary,"));
    assert_eq!(plane.fill(), [""; 0]);
}

#[test]
fn an_absent_service_is_not_found_until_it_comes() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["later.shop"]);
    assert_eq!(plane.fill(), ["no later"]);
    assert_eq!(plane.fill(), [""; 0]);
    let later = format!(
        "{DOCUMENTS}---\nkind: Service\nmetadata: {{name: later, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
    );
    plane.apply(&later);
    assert_eq!(plane.fill(), ["all later +0 -0", "service later"]);
    plane.apply(DOCUMENTS);
    assert_eq!(plane.fill(), ["no later"]);
}

#[test]
fn a_backend_that_goes_is_told_by_the_route_alone() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["web.shop"]);
    plane.fill();
    let service =
        "---\nkind: Service\nmetadata: {name: web-v2, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
    plane.apply(&DOCUMENTS.replace(service, ""));
    assert_eq!(
        plane.fill(),
        ["service web"],
        "web's route says that its backend is invalid; the rest concerns nobody"
    );
}

#[test]
fn addresses_lead_to_services() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe_address("10.0.0.1:80");
    plane.subscribe_address("10.0.0.9:80");
    plane.subscribe_address("not an address");
    let sent = plane.fill();
    assert!(sent.contains(&"service web".to_owned()), "{sent:?}");
    assert!(
        sent.contains(&"no 10.0.0.9:80".to_owned()) && sent.contains(&"no not an address".to_owned()),
        "{sent:?}"
    );
    plane.apply(&DOCUMENTS.replace(
        "{name: alone, namespace: shop}\nspec: {",
        "{name: alone, namespace: shop}\nspec: {clusterIP: 10.0.0.9, ",
    ));
    assert_eq!(plane.fill(), ["all alone +0 -0", "service alone"], "a later service takes it back");
}

#[test]
fn a_host_leads_to_the_service_that_stands_for_it() {
    const API: &str = "---
kind: Service
metadata: {name: api, namespace: shop}
spec: {type: ExternalName, externalName: API.example.com., ports: [{port: 80}]}
";
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe_host("api.example.com");
    assert_eq!(plane.fill(), ["no api.example.com"]);
    plane.apply(&format!("{DOCUMENTS}{API}"));
    assert_eq!(plane.fill(), ["all api +0 -0", "service api"], "a later service takes it back");
    plane.apply(DOCUMENTS);
    let sent = plane.fill();
    assert!(sent.contains(&"no api.example.com".to_owned()), "{sent:?}");
    for number in 0..2 * MAX_HOSTS {
        plane.subscribe_host(&format!("h{number}.example.com"));
    }
    assert!(plane.outbox.hosts.len() <= MAX_HOSTS);
}

#[test]
fn unsubscribing_forgets_and_what_is_still_led_to_is_sent_again() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.subscribe(&["web.shop", "alone.shop"]);
    plane.fill();
    plane.unsubscribe("alone.shop");
    let filled = plane.filled();
    assert_eq!((filled.messages.len(), filled.dropped), (0, vec![name("alone.shop")]));
    plane.unsubscribe("web-v2.shop");
    assert_eq!(plane.fill(), ["all web-v2 +0 -0", "service web-v2"], "web's route still leads there");
}

#[test]
fn acknowledgements_and_refusals_are_kept_by_service() {
    let mut plane = Plane::greeted(DOCUMENTS);
    plane.outbox.acknowledge(2);
    plane.subscribe(&["alone.shop"]);
    let messages = plane.filled().messages;
    let (endpoints, service) = (messages[0].nonce, messages[1].nonce);
    assert!(!plane.outbox.is_settled());
    plane.outbox.acknowledge(endpoints);
    assert_eq!(plane.outbox.refuse(service), Some(Subject::Service(name("alone.shop"))));
    assert_eq!(plane.outbox.refuse(service), None, "once");
    let versions = &plane.outbox.versions()["alone.shop"];
    assert_eq!((versions.sent, versions.acked), (7, None));
    assert_eq!(versions.endpoints_acked, Some(0));
    assert_eq!(plane.fill(), [""; 0], "what was refused is not sent again");
    assert!(!plane.outbox.is_settled(), "it still runs something else");
    plane.apply(&DOCUMENTS.replace(
        "{name: alone, namespace: shop}\nspec: {ports: [{port: 80}",
        "{name: alone, namespace: shop}\nspec: {ports: [{port: 81}",
    ));
    let messages = plane.filled().messages;
    plane.outbox.acknowledge(messages[0].nonce);
    assert!(plane.outbox.is_settled());
    assert_eq!(plane.outbox.versions()["alone.shop"].acked, Some(7));
}

#[test]
fn a_proxy_that_acknowledges_nothing_is_sent_no_more() {
    let mut yaml = String::new();
    for service in 0..800 {
        yaml += &format!(
            "---\nkind: Service\nmetadata: {{name: s{service}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        );
    }
    let mut plane = Plane::greeted(&yaml);
    let names: Vec<String> = (0..800).map(|service| format!("s{service}.shop")).collect();
    plane.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut sent = 0;
    loop {
        let messages = plane.filled().messages;
        if messages.is_empty() {
            break;
        }
        assert!(messages.len() <= BATCH + 2, "{}", messages.len());
        sent += messages.len();
    }
    let unacknowledged = sent + 2; // and the settings
    assert!((WINDOW..=WINDOW + BATCH + 2).contains(&unacknowledged), "{unacknowledged}");
    plane.outbox.acknowledge(u64::MAX);
    while !plane.filled().messages.is_empty() {}
    plane.outbox.acknowledge(u64::MAX);
    assert!(plane.outbox.is_settled(), "the rest came after the acknowledgement");
    assert_eq!(plane.outbox.versions().len(), 800);
}

#[test]
fn the_workloads_own_ports_are_told_when_they_change() {
    let mut plane = Plane::new(DOCUMENTS);
    plane.outbox = Outbox::new("shop", Some(name("alone.shop")));
    assert_eq!(plane.fill(), ["trust bundle", "mesh settings", "inbound 1"]);
    plane.outbox.mark(&name("alone.shop"));
    assert_eq!(plane.fill(), [""; 0]);
    plane.apply(&DOCUMENTS.replace(
        "{name: alone, namespace: shop}\nspec: {ports: [{port: 80}",
        "{name: alone, namespace: shop}\nspec: {ports: [{port: 80}, {port: 81}",
    ));
    assert_eq!(plane.fill(), ["inbound 2"]);
    assert!(plane.outbox.interests().any(|service| *service == name("alone.shop")));
}

#[test]
fn consumers_are_sent_their_own_routes() {
    let consumer = "---
kind: HTTPRoute
metadata: {name: mine, namespace: other}
spec:
  parentRefs: [{group: '', kind: Service, name: alone, namespace: shop}]
  rules: [{backendRefs: [{name: db, namespace: shop, port: 80}]}]
";
    let mut plane = Plane::new(&format!("{DOCUMENTS}{consumer}"));
    plane.outbox = Outbox::new("other", None);
    plane.fill();
    plane.subscribe(&["alone.shop"]);
    assert_eq!(plane.fill(), ["all db +0 -0", "service db", "all alone +0 -0", "service alone"]);
    plane.apply(DOCUMENTS);
    assert_eq!(plane.fill(), ["service alone"]);
    assert_eq!(plane.fill(), [""; 0]);
}

#[test]
fn a_gateway_is_told_of_the_policies_that_name_it_and_enforces_their_limits() {
    const EDGE: &str = "
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: outrigger, listeners: [{name: web, port: 80, protocol: HTTP}]}
";
    const LIMITS: &str = "---
kind: RateLimitPolicy
metadata: {name: edge, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  limits: [{name: all, requests: 5, scope: Mesh}]
";
    const LIMIT: &str = "shop/edge/all of service gateway--edge.shop";
    let edge = name("gateway--edge.shop");
    let mut plane = Plane::greeted(EDGE);
    plane.subscribe(&["gateway--edge.shop"]);
    plane.fill();
    assert!(!plane.outbox.is_current(&edge), "it has not said that it uses it");
    plane.outbox.acknowledge(plane.outbox.nonce);
    assert!(plane.outbox.is_current(&edge) && !plane.outbox.enforces(LIMIT));
    plane.apply(&format!("{EDGE}{LIMITS}"));
    assert!(!plane.outbox.is_current(&edge), "there is something newer");
    assert_eq!(plane.fill().len(), 1, "a change is one message");
    assert!(plane.outbox.enforces(LIMIT), "what it says of the limit is taken");
    plane.outbox.refuse(plane.outbox.nonce);
    assert!(!plane.outbox.is_current(&edge), "it goes on with what it had");
}
