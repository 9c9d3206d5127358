//! The stream as a proxy sees it: a real client, over TLS, on ports that the system chose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use hyper_util::rt::TokioIo;
use outrigger_api::ServiceName;
use outrigger_api::v1::control_message::Update;
use outrigger_api::v1::identity_client::IdentityClient;
use outrigger_api::v1::mesh_client::MeshClient;
use outrigger_certs::{Clock, JoinToken, KeyRequest, SystemClock, TrustBundle, tls};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::control_plane::{ControlPlane, ControlPlaneConfig, Running};
use crate::mesh::Graces;
use crate::resources::{Format, parse};
use crate::store::{Change, DryRun, Store};
use crate::token::TokenRequest;

/// For anything that should happen soon.
const SOON: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(300);

/// A control plane, and the parts of it that tests look into.
struct Plane {
    running: Running,
    store: Arc<Store>,
    mesh: Arc<Mesh>,
    certificates: Arc<crate::certificates::Certificates>,
}

impl Plane {
    async fn start(directory: &Path) -> Self {
        Self::start_with(directory, GRACE).await
    }

    async fn start_with(directory: &Path, grace: Duration) -> Self {
        Self::start_for(directory, grace, Duration::from_secs(3600)).await
    }

    async fn start_for(directory: &Path, grace: Duration, svid_ttl: Duration) -> Self {
        let data_dir = directory.to_owned();
        let config = ControlPlaneConfig { data_dir, grace, svid_ttl, ..ControlPlaneConfig::default() };
        let graces = Graces { lost: grace, restarted: grace * 3 };
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxies = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let parts = ControlPlane::open(&config, graces, Arc::new(SystemClock), Instant::now()).unwrap();
        let (store, mesh, certificates) =
            (parts.store.clone(), parts.mesh.clone(), parts.certificates.clone());
        let running = parts.serve(api, proxies).unwrap();
        Self { running, store, mesh, certificates }
    }

    async fn apply(&self, yaml: &str) {
        let parsed = parse(yaml, Format::Yaml).unwrap();
        let changes = parsed.documents.into_iter().map(|document| Change::Put(document.resource)).collect();
        self.store.apply(changes, "test", DryRun::No).await.unwrap();
    }

    /// A certificate, straight from the authority.
    fn svid(&self, namespace: &str, account: &str) -> (outrigger_certs::Svid, TrustBundle) {
        let authority = self.certificates.authority();
        let id = SpiffeId::new(authority.trust_domain(), namespace, account).unwrap();
        let request = KeyRequest::generate(&id).unwrap();
        let chain = authority.sign(request.csr_der(), &id).unwrap().to_der();
        let bundle = authority.bundle();
        (request.into_svid(chain, &bundle, SystemClock.now()).unwrap(), bundle)
    }

    async fn channel(&self, namespace: &str, account: &str) -> Channel {
        let (svid, bundle) = self.svid(namespace, account);
        connect(self.running.proxies, tls::client_config(&svid, &bundle, &[b"h2"], Arc::new(SystemClock)))
            .await
    }

    /// A proxy that only calls others.
    async fn client(&self, namespace: &str, instance: &str) -> Proxy {
        Proxy::open(self.channel(namespace, "client").await, hello(instance, None)).await
    }

    /// A proxy beside one instance of `pay`.
    async fn workload(&self, instance: &str, port: u16) -> Proxy {
        Proxy::open(self.channel("shop", "pay").await, hello(instance, Some(workload(port)))).await
    }
}

async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let connector = TlsConnector::from(config.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("control-plane.outrigger").unwrap();
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Endpoint::from_static("http://control-plane.outrigger").connect_with_connector(connector).await.unwrap()
}

fn hello(instance: &str, workload: Option<v1::Workload>) -> v1::Hello {
    v1::Hello {
        instance: instance.to_owned(),
        version: "test".to_owned(),
        workload,
        admin_address: String::new(),
        gateway: None,
    }
}

fn workload(port: u16) -> v1::Workload {
    v1::Workload {
        service: Some(v1::ServiceName { namespace: "shop".to_owned(), name: "pay".to_owned() }),
        address: format!("127.0.0.1:{port}"),
        zone: String::new(),
        ports: vec![v1::WorkloadPort { port: 80, protocol: v1::Protocol::Http1 as i32 }],
        healthy: true,
    }
}

/// What a proxy does with what it is sent: keeps it, and acknowledges.
struct Proxy {
    say: mpsc::Sender<v1::ProxyMessage>,
    stream: Streaming<v1::ControlMessage>,
    services: BTreeMap<String, v1::Service>,
    endpoints: BTreeMap<String, BTreeMap<String, v1::Endpoint>>,
    missing: BTreeSet<String>,
    bundles: Vec<v1::TrustBundle>,
    /// The ids of the limits of its own ports.
    limits: Vec<String>,
    leases: BTreeMap<String, v1::RateLease>,
    updates: usize,
    /// Sizes that the set of `pay` had, in order.
    sizes: Vec<usize>,
}

impl Proxy {
    async fn open(channel: Channel, hello: v1::Hello) -> Self {
        Self::try_open(channel, vec![Message::Hello(hello)]).await.unwrap()
    }

    async fn try_open(channel: Channel, first: Vec<Message>) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(64);
        for message in first {
            say.send(v1::ProxyMessage { message: Some(message) }).await.unwrap();
        }
        let stream = MeshClient::new(channel).connect(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self {
            say,
            stream,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            missing: BTreeSet::new(),
            bundles: Vec::new(),
            limits: Vec::new(),
            leases: BTreeMap::new(),
            updates: 0,
            sizes: Vec::new(),
        })
    }

    async fn say(&self, message: Message) {
        self.say.send(v1::ProxyMessage { message: Some(message) }).await.unwrap();
    }

    async fn subscribe(&self, service: &str) {
        let name: ServiceName = service.parse().unwrap();
        let destination = Some(v1::destination::Destination::Service((&name).into()));
        let destinations = vec![v1::Destination { destination }];
        self.say(Message::Subscribe(v1::Subscribe { destinations })).await;
    }

    /// Takes updates until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(self) {
            match tokio::time::timeout_at(deadline, self.next()).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => panic!("the stream ended before {what}: {status}"),
                Err(_) => panic!(
                    "not in time: {what}; services {:?}, endpoints {:?}",
                    self.services, self.endpoints
                ),
            }
        }
    }

    /// Takes what comes within `time`.
    async fn during(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(next) = tokio::time::timeout_at(deadline, self.next()).await {
            next.unwrap();
        }
    }

    async fn next(&mut self) -> Result<(), Status> {
        let message = self.stream.message().await?.ok_or_else(|| Status::unavailable("end of stream"))?;
        self.updates += 1;
        let key = |name: &Option<v1::ServiceName>| {
            let name = name.as_ref().unwrap();
            format!("{}.{}", name.name, name.namespace)
        };
        match message.update.unwrap() {
            Update::Service(service) => {
                let key = key(&service.name);
                assert!(self.endpoints.contains_key(&key), "{key} came before its endpoints");
                self.missing.remove(&key);
                self.services.insert(key, *service);
            }
            Update::Endpoints(update) => {
                let key = key(&update.service);
                let set = self.endpoints.entry(key.clone()).or_default();
                if update.full {
                    set.clear();
                }
                for id in &update.removed {
                    assert!(set.remove(id).is_some(), "{id} was not there");
                }
                set.extend(update.changed.into_iter().map(|endpoint| (endpoint.id.clone(), endpoint)));
                if key == "pay.shop" {
                    self.sizes.push(set.len());
                }
            }
            Update::NotFound(not_found) => {
                if let Some(v1::destination::Destination::Service(name)) =
                    not_found.destination.unwrap().destination
                {
                    self.missing.insert(format!("{}.{}", name.name, name.namespace));
                }
            }
            Update::Bundle(bundle) => self.bundles.push(bundle),
            Update::Inbound(inbound) => {
                let limits = inbound.ports.into_iter().flat_map(|port| port.rate_limits);
                self.limits = limits.map(|limit| limit.id).collect();
            }
            Update::RateLease(lease) => drop(self.leases.insert(lease.limit.clone(), lease)),
            Update::Mesh(_) => {}
        }
        // The stream may have ended behind this message.
        let _ = self
            .say
            .try_send(v1::ProxyMessage { message: Some(Message::Ack(v1::Ack { nonce: message.nonce })) });
        Ok(())
    }

    fn instances(&self) -> usize {
        self.endpoints.get("pay.shop").map_or(0, BTreeMap::len)
    }

    fn rules(&self, service: &str) -> usize {
        self.services
            .get(service)
            .map_or(0, |service| service.ports.iter().map(|port| port.rules.len()).sum())
    }

    /// How the stream ends.
    async fn end(&mut self) -> Status {
        let deadline = Instant::now() + SOON;
        loop {
            match tokio::time::timeout_at(deadline, self.next()).await.expect("the stream does not end") {
                Ok(()) => {}
                Err(status) => return status,
            }
        }
    }
}

/// Polls what is not pushed.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

const PAY: &str = "
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80}]}
";

fn route(rules: usize) -> String {
    let rule = |index: usize| {
        format!("{{matches: [{{path: {{value: /{index}}}}}], backendRefs: [{{name: pay, port: 80}}]}}")
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: pay}}]
  rules: [{}]
",
        rules.join(", ")
    )
}

// ---- policy ----

#[tokio::test]
async fn a_change_reaches_those_who_subscribed_and_only_them() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    plane.apply(PAY).await;
    let (mut user, mut other) = (plane.client("shop", "user").await, plane.client("shop", "other").await);
    user.subscribe("pay.shop").await;
    user.until("the service", |proxy| proxy.services.contains_key("pay.shop")).await;
    plane.apply(&route(3)).await;
    user.until("the route", |proxy| proxy.rules("pay.shop") == 3).await;
    other.during(Duration::from_millis(50)).await;
    assert_eq!(other.updates, 2, "the other one has its settings and nothing else");
    eventually("all is acknowledged", || plane.mesh.proxies().iter().all(|proxy| proxy.up_to_date)).await;
    let status = plane.mesh.proxies().into_iter().find(|proxy| proxy.instance == "user").unwrap();
    let versions = &status.services["pay.shop"];
    assert_eq!((versions.sent, versions.acked), (2, Some(2)));
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_change_of_a_fault_is_one_message_to_those_whose_routes_refer_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let fault = |percent: u32| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: FaultInjection\nmetadata: {{name: slow, namespace: shop}}\n\
             spec: {{abort: {{percent: {percent}, httpStatus: 503}}}}\n"
        )
    };
    let extended = route(1).replace(
        "backendRefs",
        "filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: FaultInjection, name: slow}}], backendRefs",
    );
    plane.apply(&format!("{PAY}---\n{extended}---\n{}", fault(1))).await;
    let (mut user, mut other) = (plane.client("shop", "user").await, plane.client("shop", "other").await);
    user.subscribe("pay.shop").await;
    user.until("the service", |proxy| proxy.rules("pay.shop") == 1).await;
    let before = user.updates;
    plane.apply(&fault(2)).await;
    let share = |proxy: &Proxy| match &proxy.services["pay.shop"].ports[0].rules[0].filters[0].kind {
        Some(v1::filter::Kind::Fault(fault)) => fault.abort.as_ref().unwrap().per_million,
        other => panic!("{other:?}"),
    };
    user.until("the change", |proxy| share(proxy) == 20_000).await;
    user.during(Duration::from_millis(50)).await;
    other.during(Duration::from_millis(50)).await;
    assert_eq!(
        (user.updates - before, other.updates),
        (1, 2),
        "the other one has its settings and nothing else"
    );
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_burst_of_changes_is_coalesced() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("shop", "user").await;
    let _workload = plane.workload("a", 1).await;
    user.subscribe("pay.shop").await;
    user.until("service and instance", |proxy| proxy.services.len() == 1 && proxy.instances() == 1).await;
    let before = user.updates;
    let identity = plane.svid("shop", "pay").0.id().clone();
    let session = plane.mesh.hello(&identity, hello("a", Some(workload(1)))).unwrap();
    // The runtime has one thread and nothing is awaited here: all of it is one moment.
    for flip in 0..=100 {
        let health = v1::WorkloadHealth { healthy: flip % 2 == 1, detail: String::new() };
        plane.mesh.receive(&session, Message::Health(health));
    }
    user.until("the last change", |proxy| !proxy.endpoints["pay.shop"]["shop/pay/a"].healthy).await;
    user.during(Duration::from_millis(50)).await;
    assert_eq!(user.updates - before, 1, "101 changes are one update");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_until_it_does() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("shop", "user").await;
    user.subscribe("pay.shop").await;
    user.until("the answer", |proxy| proxy.missing.contains("pay.shop")).await;
    let _workload = plane.workload("a", 1).await;
    user.until("the service", |proxy| proxy.services.contains_key("pay.shop") && proxy.instances() == 1)
        .await;
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    plane.apply(PAY).await;
    eventually("the service is known", || !plane.mesh.services().is_empty()).await;
    let user = plane.client("shop", "user").await;
    user.subscribe("pay.shop").await;
    eventually("the service was sent", || {
        plane.mesh.proxies().first().is_some_and(|proxy| proxy.services.contains_key("pay.shop"))
    })
    .await;
    // Bundle, settings, endpoints, service.
    user.say(Message::Nack(v1::Nack { nonce: 4, reason: "ports[0]: no".to_owned() })).await;
    eventually("the refusal is shown", || plane.mesh.proxies()[0].last_refusal.is_some()).await;
    let status = plane.mesh.proxies().remove(0);
    let refusal = status.last_refusal.unwrap();
    assert_eq!((refusal.resource.as_str(), refusal.reason.as_str()), ("service pay.shop", "ports[0]: no"));
    assert!(!status.up_to_date);
    plane.running.shutdown().await;
}

// ---- discovery ----

#[tokio::test]
async fn endpoints_follow_the_streams_of_their_proxies() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("web", "user").await;
    let (first, second) = (plane.workload("a", 1).await, plane.workload("b", 2).await);
    user.subscribe("pay.shop").await;
    user.until("both", |proxy| proxy.instances() == 2).await;

    second.say(Message::Health(v1::WorkloadHealth { healthy: false, detail: "503".to_owned() })).await;
    let is_healthy =
        |proxy: &Proxy, id: &str| proxy.endpoints["pay.shop"].get(id).is_some_and(|one| one.healthy);
    user.until("one is unhealthy and stays", |proxy| {
        proxy.instances() == 2 && !is_healthy(proxy, "shop/pay/b") && is_healthy(proxy, "shop/pay/a")
    })
    .await;

    first.say(Message::Goodbye(v1::Goodbye {})).await;
    user.until("the one that said goodbye is gone", |proxy| proxy.instances() == 1).await;
    let lost = Instant::now();
    drop(second);
    user.until("the one that was lost is gone", |proxy| proxy.instances() == 0).await;
    assert!(lost.elapsed() >= GRACE, "not before its grace was over: {:?}", lost.elapsed());
    assert!(!user.missing.contains("pay.shop"), "a service whose instances are gone is known");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_comes_back_was_never_away() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start_with(directory.path(), Duration::from_secs(30)).await;
    let mut user = plane.client("shop", "user").await;
    let first = plane.workload("a", 1).await;
    user.subscribe("pay.shop").await;
    user.until("the instance", |proxy| proxy.instances() == 1).await;
    drop(first);
    eventually("the loss is noticed", || !plane.mesh.services()[0].endpoints[0].connected).await;
    let _again = plane.workload("a", 1).await;
    eventually("it is back", || plane.mesh.services()[0].endpoints[0].connected).await;
    user.during(Duration::from_millis(50)).await;
    assert_eq!(user.sizes, [1], "nobody was told anything");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_second_stream_of_a_proxy_ends_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut first = plane.workload("a", 1).await;
    first.until("its settings", |proxy| proxy.updates >= 2).await;
    let mut second = plane.workload("a", 1).await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    second.during(GRACE * 2).await;
    assert_eq!(plane.mesh.services()[0].endpoints.len(), 1, "the end of the first is not a loss");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_restart_shrinks_no_endpoint_set() {
    let directory = tempfile::tempdir().unwrap();
    let grace = Duration::from_secs(2);
    let plane = Plane::start_with(directory.path(), grace).await;
    let _workloads =
        [plane.workload("a", 1).await, plane.workload("b", 2).await, plane.workload("c", 3).await];
    let mut user = plane.client("shop", "user").await;
    user.subscribe("pay.shop").await;
    user.until("all three", |proxy| proxy.instances() == 3).await;
    drop((plane.store, plane.mesh, plane.certificates));
    plane.running.shutdown().await;

    let plane = Plane::start_with(directory.path(), grace).await;
    let restarted = Instant::now();
    let mut user = plane.client("shop", "user").await;
    user.subscribe("pay.shop").await;
    user.until("the set", |proxy| proxy.endpoints.contains_key("pay.shop")).await;
    assert_eq!(user.sizes, [3], "the whole set at once, although nobody has come back yet");
    let _back = [plane.workload("a", 1).await, plane.workload("b", 2).await];
    user.until("the one that did not come back aged out", |proxy| proxy.instances() == 2).await;
    assert_eq!(user.sizes, [3, 2]);
    assert!(restarted.elapsed() >= grace * 2, "later than the usual grace: {:?}", restarted.elapsed());
    plane.running.shutdown().await;
}

#[tokio::test]
async fn what_a_proxy_was_told_of_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("shop", "user").await;
    user.subscribe("pay.shop").await;
    let _workload = plane.workload("a", 1).await;
    user.until("the instance", |proxy| proxy.instances() == 1).await;
    // Read by another connection at the moment when the proxy knows, as after a kill -9.
    let (_, rows) =
        crate::discovery::journal::Journal::open(&directory.path().join("registrations.db")).unwrap();
    assert_eq!(rows.len(), 1);
    plane.running.shutdown().await;
}

// ---- who may ----

#[tokio::test]
async fn a_stream_needs_a_certificate_a_hello_and_its_own_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let foreign = v1::Workload {
        service: Some(v1::ServiceName { namespace: "bank".to_owned(), name: "pay".to_owned() }),
        ..workload(1)
    };
    let unreachable = v1::Workload { address: "0.0.0.0:1".to_owned(), ..workload(1) };
    let ack = Message::Ack(v1::Ack { nonce: 1 });
    for (first, code, text) in [
        (Message::Hello(hello("a", Some(foreign))), Code::PermissionDenied, "own namespace"),
        (Message::Hello(hello("a", Some(unreachable))), Code::InvalidArgument, "workload.address"),
        (Message::Hello(hello("", None)), Code::InvalidArgument, "hello.instance"),
        (ack, Code::InvalidArgument, "hello"),
    ] {
        let mut proxy = Proxy::try_open(plane.channel("shop", "pay").await, vec![first]).await.unwrap();
        let status = proxy.end().await;
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let config = tls::pinned_client_config(plane.mesh.root_fingerprint(), &[b"h2"], Arc::new(SystemClock));
    let stranger = connect(plane.running.proxies, config).await;
    let refused = Proxy::try_open(stranger, vec![Message::Hello(hello("a", None))]).await;
    assert_eq!(refused.err().unwrap().code(), Code::Unauthenticated);
    assert_eq!(plane.mesh.proxies(), []);
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_join_token_is_good_for_its_identity_and_the_certificate_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let trust_domain = plane.certificates.authority().trust_domain().clone();
    let token = JoinToken::generate(plane.mesh.root_fingerprint()).unwrap();
    let scope = TokenRequest {
        namespace: "shop".to_owned(),
        service_account: "pay".to_owned(),
        ttl: Duration::from_secs(60),
    };
    plane.store.create_token(scope, token.secret_hash(), "test").await.unwrap();
    let config = tls::pinned_client_config(token.root_fingerprint(), &[b"h2"], Arc::new(SystemClock));
    let mut stranger = IdentityClient::new(connect(plane.running.proxies, config).await);

    let pay = SpiffeId::new(&trust_domain, "shop", "pay").unwrap();
    let web = SpiffeId::new(&trust_domain, "shop", "web").unwrap();
    let request = KeyRequest::generate(&pay).unwrap();
    let ask =
        |csr: &[u8], token: &str| v1::IssueRequest { csr_der: csr.to_vec(), join_token: token.to_owned() };
    let other = KeyRequest::generate(&web).unwrap();
    let unknown = JoinToken::generate(token.root_fingerprint()).unwrap();
    for (message, code) in [
        (ask(other.csr_der(), &token.to_string()), Code::Unauthenticated),
        (ask(request.csr_der(), &unknown.to_string()), Code::Unauthenticated),
        (ask(request.csr_der(), "ort1.x"), Code::Unauthenticated),
        (ask(request.csr_der(), ""), Code::Unauthenticated),
        (ask(b"not a request", &token.to_string()), Code::InvalidArgument),
        (ask(&[0; 20 << 10], &token.to_string()), Code::InvalidArgument),
    ] {
        let status = stranger.issue(message).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(!status.message().is_empty());
    }

    let issued = stranger.issue(ask(request.csr_der(), &token.to_string())).await.unwrap().into_inner();
    let bundle = TrustBundle::from_der(trust_domain, issued.bundle.unwrap().roots).unwrap();
    let svid = request.into_svid(issued.certificate_chain, &bundle, SystemClock.now()).unwrap();
    assert_eq!(svid.id(), &pay);

    let config = tls::client_config(&svid, &bundle, &[b"h2"], Arc::new(SystemClock));
    let mut member = IdentityClient::new(connect(plane.running.proxies, config).await);
    let renewal = KeyRequest::generate(&pay).unwrap();
    let issued = member.issue(ask(renewal.csr_der(), "")).await.unwrap().into_inner();
    assert!(renewal.into_svid(issued.certificate_chain, &bundle, SystemClock.now()).is_ok());
    let status = member.issue(ask(other.csr_der(), "")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "another identity: {status}");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn a_new_root_is_pushed_to_every_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("shop", "user").await;
    user.until("the first bundle", |proxy| proxy.bundles.len() == 1).await;
    let mesh = plane.mesh.clone();
    tokio::task::spawn_blocking(move || mesh.rotate(crate::mesh::Rotation::Root)).await.unwrap().unwrap();
    user.until("the second", |proxy| proxy.bundles.len() == 2).await;
    assert_eq!((user.bundles[0].roots.len(), user.bundles[1].roots.len()), (1, 2));
    assert_eq!(plane.mesh.certificates().roots.len(), 2);
    plane.running.shutdown().await;
}

// ---- starting and stopping ----

#[tokio::test]
async fn a_shutdown_tells_the_proxies_and_leaves_the_directory_free() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    let mut user = plane.client("shop", "user").await;
    user.until("its settings", |proxy| proxy.updates >= 2).await;
    drop((plane.store, plane.mesh, plane.certificates));
    let began = Instant::now();
    plane.running.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(user.end().await.code(), Code::Unavailable);
    Plane::start(directory.path()).await.running.shutdown().await;
}

#[tokio::test]
async fn a_start_that_fails_says_what_and_where() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let keep = TcpListener::bind(taken).await.unwrap();
    let config = ControlPlaneConfig {
        data_dir: directory.path().to_owned(),
        api_listen: "127.0.0.1:0".parse().unwrap(),
        proxy_listen: taken,
        ..ControlPlaneConfig::default()
    };
    let error = ControlPlane::start(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&taken.to_string()) && error.contains("--proxy-listen"), "{error}");
    drop(keep);

    let plane = Plane::start(directory.path()).await;
    let free = ControlPlaneConfig { proxy_listen: "127.0.0.1:0".parse().unwrap(), ..config };
    let error = ControlPlane::start(free).await.unwrap_err().to_string();
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");
    plane.running.shutdown().await;
}

#[tokio::test]
async fn the_control_planes_own_certificate_is_renewed_while_it_serves() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start_for(directory.path(), GRACE, Duration::from_secs(2)).await;
    let first = plane.mesh.certificates().server.fingerprint;
    eventually("another certificate", || plane.mesh.certificates().server.fingerprint != first).await;
    let mut user = plane.client("shop", "user").await;
    user.until("its settings", |proxy| proxy.updates >= 2).await;
    plane.running.shutdown().await;
}

// ---- limits of the whole mesh ----

#[tokio::test]
async fn proxies_have_parts_of_the_limits_that_they_enforce_where_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path()).await;
    plane.apply(PAY).await;
    plane
        .apply(
            "apiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: l, namespace: shop}\n\
             spec: {targetRefs: [{name: pay}], limits: [{name: all, requests: 10, scope: Mesh}]}\n",
        )
        .await;
    let (mut first, mut second) = (plane.workload("a", 1).await, plane.workload("b", 2).await);
    for proxy in [&mut first, &mut second] {
        proxy.until("its limit", |proxy| !proxy.limits.is_empty()).await;
    }
    let limit = first.limits[0].clone();
    let demand = |limit: &str, asked| {
        let limits = vec![v1::LimitDemand { limit: limit.to_owned(), asked, part: 0.05, holders: 0 }];
        Message::RateDemand(v1::RateDemand { limits })
    };
    first.say(demand("somebody else's", 5.0)).await;
    first.say(demand(&limit, 5.0)).await;
    second.say(demand(&limit, 0.0)).await;
    let part = |proxy: &Proxy, limit: &str| proxy.leases.get(limit).map_or(0.0, |lease| lease.part);
    first.until("nearly all of it", |proxy| part(proxy, &limit) > 0.9).await;
    assert_eq!(first.leases[&limit].holders, 2);
    second.until("its part", |proxy| proxy.leases.contains_key(&limit)).await;
    second.say(demand(&limit, 5.0)).await;
    second.until("half of it", |proxy| part(proxy, &limit) > 0.45).await;
    first.until("the other half", |proxy| part(proxy, &limit) < 0.55).await;
    assert_eq!(first.leases.len(), 1, "what it does not enforce is not its business");
    plane.running.shutdown().await;
}
