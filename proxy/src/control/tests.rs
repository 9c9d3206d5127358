//! The control side against a real server of the contract. The tests read as conversations.

pub(crate) mod peer;

use std::path::Path;

use outrigger_api::v1::control_message::Update;
use outrigger_api::v1::proxy_message::Message;
use outrigger_certs::{KeyRequest, SpiffeId, SystemClock};
use prost_types::Duration as RawDuration;
use tempfile::TempDir;
use tokio::net::TcpListener;

use self::peer::{PATIENCE, Peer, Session, authority};
use super::*;
use crate::directory::Unresolved;
use crate::health::CheckKind;

const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// As the control plane compiles a service without a `ServicePolicy`.
pub(crate) fn backend_policy() -> v1::BackendPolicy {
    let seconds = |seconds| Some(RawDuration { seconds, nanos: 0 });
    v1::BackendPolicy {
        balancer: v1::LoadBalancer::PeakEwma.into(),
        connect_timeout: seconds(1),
        tls_timeout: seconds(5),
        idle_timeout: seconds(60),
        max_connection_age: seconds(3600),
        breaker: Some(v1::Breaker {
            consecutive_failures: 7,
            min_open: seconds(1),
            max_open: seconds(60),
            max_ejected_percent: 50,
            panic_threshold_percent: 50,
            ..v1::Breaker::default()
        }),
        max_connections: 1024,
        max_pending: 1024,
        max_active: 4096,
        retry_budget_percent: 20,
        retry_budget_per_second: 10,
        http2: Some(v1::Http2 {
            max_streams: 100,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
        }),
        ..v1::BackendPolicy::default()
    }
}

fn service(text: &str, version: u64) -> v1::Service {
    v1::Service {
        name: Some((&name(text)).into()),
        version,
        ports: vec![v1::ServicePort { port: 80, name: "http".to_owned(), ..v1::ServicePort::default() }],
        policy: Some(backend_policy()),
        ..v1::Service::default()
    }
}

fn endpoints(text: &str, full: bool, ids: &[&str]) -> Update {
    let endpoint = |id: &&str| v1::Endpoint {
        id: (*id).to_owned(),
        address: "127.0.0.1:4743".to_owned(),
        identity: "spiffe://outrigger.local/ns/shop/sa/payments".to_owned(),
        zone: String::new(),
        healthy: true,
        ports: vec![80],
    };
    Update::Endpoints(v1::Endpoints {
        service: Some((&name(text)).into()),
        version: 1,
        full,
        changed: ids.iter().map(endpoint).collect(),
        removed: vec![],
    })
}

fn settings(version: u64) -> Update {
    let trace_formats = vec![v1::TraceFormat::W3c.into()];
    Update::Mesh(v1::MeshSettings {
        version,
        sampling_ratio: 0.01,
        trace_formats,
        ..v1::MeshSettings::default()
    })
}

/// One proxy's control side, as `web` in the namespace `shop`.
struct Proxy {
    directory: TempDir,
    inputs: ControlInputs,
}

impl Proxy {
    fn of(peer: &Peer) -> Self {
        Self::with_token(peer, &peer.token("web"))
    }

    fn with_token(peer: &Peer, token: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let inputs = ControlInputs {
            gateway: None,
            control_plane: peer.address.to_string(),
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            join_token_file: Some(file),
            state: None,
            workload: Some(WorkloadInputs {
                service: name("web.shop"),
                advertise: None,
                inbound: "0.0.0.0:4743".parse().unwrap(),
                zone: "north".to_owned(),
                ports: vec![(80, Protocol::Http1), (5432, Protocol::Tcp)],
            }),
            admin_address: "127.0.0.1:4791".to_owned(),
            checks: Vec::new(),
            snapshots: Snapshots::default(),
            clock: Arc::new(SystemClock),
            started: Instant::now(),
            rng: StdRng::seed_from_u64(7),
            load: Arc::new(|| Box::pin(async { v1::LoadReport::default() })),
            dns: None,
        };
        Self { directory, inputs }
    }

    fn keeping_state(mut self, directory: &Path, persist_identity: bool) -> Self {
        self.inputs.state = Some(StateSettings { directory: directory.to_owned(), persist_identity });
        self
    }

    /// With waits that suit a test.
    fn start(self) -> Running {
        let snapshots = self.inputs.snapshots.clone();
        let waits = Waits { min: Duration::from_millis(10), max: Duration::from_millis(100) };
        Running { handle: start_with(self.inputs, waits).unwrap(), snapshots, _directory: self.directory }
    }
}

struct Running {
    handle: ControlHandle,
    snapshots: Snapshots,
    _directory: TempDir,
}

impl Running {
    async fn ready(&mut self) {
        timeout(PATIENCE, self.handle.ready.wait_for(|ready| *ready))
            .await
            .expect("not ready in time")
            .unwrap();
    }

    /// Asks for a service in the background.
    fn asks(&self, text: &str) -> tokio::task::JoinHandle<Result<Arc<crate::snapshot::Service>, Unresolved>> {
        let (directory, name) = (self.handle.directory.clone(), name(text));
        tokio::spawn(async move { directory.resolve(&name).await })
    }

    fn ids(&self, text: &str) -> Vec<String> {
        let snapshot = self.snapshots.current();
        let service = snapshot.services.get(&name(text));
        service.map_or_else(Vec::new, |s| s.endpoints.all.iter().map(|e| e.id.to_string()).collect())
    }
}

/// Lets `running` know one service, by way of its first call.
async fn teach(running: &Running, session: &mut Session, text: &str) {
    let asked = running.asks(text);
    assert_eq!(session.subscribed().await, [text]);
    session.say(Update::Service(Box::new(service(text, 1)))).await;
    let nonce = session.say(endpoints(text, true, &["one"])).await;
    asked.await.unwrap().unwrap();
    session.acknowledged(nonce).await;
}

/// Stops `running`; the control plane ends the stream when the proxy has.
async fn stop(running: Running, mut session: Session) {
    let ended = async move { while session.hear_all().await.is_some() {} };
    tokio::join!(running.handle.stop(), ended);
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let check = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, check).await.unwrap_or_else(|_| panic!("never {what}"));
}

#[tokio::test]
async fn a_proxy_joins_registers_and_is_ready_with_the_first_settings() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    assert_eq!(session.identity.to_string(), "spiffe://outrigger.local/ns/shop/sa/web");
    let hello = session.hello().await;
    assert_eq!(hello.instance.len(), 32);
    assert_eq!(hello.admin_address, "127.0.0.1:4791");
    let workload = hello.workload.unwrap();
    assert_eq!(workload.address, "127.0.0.1:4743", "the address that it reaches the control plane from");
    assert_eq!((workload.zone.as_str(), workload.healthy, workload.ports.len()), ("north", true, 2));
    assert!(!*proxy.handle.ready.borrow(), "no policy yet");
    let nonce = session.say(settings(1)).await;
    session.acknowledged(nonce).await;
    proxy.ready().await;
    assert_eq!(peer.issued(), (1, 0));
    let described = proxy.handle.view.describe();
    assert_eq!(described["identity"]["id"], "spiffe://outrigger.local/ns/shop/sa/web");
    assert_eq!(described["controlPlane"]["connected"], true);
    assert_eq!(described["mesh"]["version"], 1);
}

#[tokio::test]
async fn a_first_call_asks_once_and_waits_for_policy_and_endpoints() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    let asked: Vec<_> = (0..50).map(|_| proxy.asks("payments.shop")).collect();
    assert_eq!(session.subscribed().await, ["payments.shop"]);
    session.say(Update::Service(Box::new(service("payments.shop", 1)))).await;
    let nonce = session.say(endpoints("payments.shop", true, &["one", "two"])).await;
    for one in asked {
        assert_eq!(one.await.unwrap().unwrap().endpoints.all.len(), 2);
    }
    // Fifty questions were one subscription: what follows it is the acknowledgement.
    assert!(matches!(session.hear().await, Message::Ack(ack) if ack.nonce <= nonce));
    assert_eq!(proxy.asks("payments.shop").await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn a_missing_service_is_remembered_until_it_appears() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    let asked = proxy.asks("nobody.shop");
    session.subscribed().await;
    let destination = Some(v1::destination::Destination::Service((&name("nobody.shop")).into()));
    let destination = Some(v1::Destination { destination });
    let nonce = session.say(Update::NotFound(v1::NotFound { destination })).await;
    assert_eq!(asked.await.unwrap().unwrap_err(), Unresolved::Missing);
    session.acknowledged(nonce).await;
    assert_eq!(proxy.asks("nobody.shop").await.unwrap().unwrap_err(), Unresolved::Missing);
    session.say(Update::Service(Box::new(service("nobody.shop", 1)))).await;
    let nonce = session.say(endpoints("nobody.shop", true, &[])).await;
    session.acknowledged(nonce).await;
    assert!(proxy.asks("nobody.shop").await.unwrap().is_ok());
}

#[tokio::test]
async fn an_address_leads_to_the_service_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    let ask = |text: &str| {
        let (directory, address) = (proxy.handle.directory.clone(), text.parse().unwrap());
        tokio::spawn(async move { directory.resolve_address(address).await })
    };
    let asked = ask("10.96.0.7:80");
    assert_eq!(session.subscribed().await, ["10.96.0.7:80"]);
    let addressed = v1::Service { addresses: vec!["10.96.0.7".to_owned()], ..service("payments.shop", 1) };
    session.say(Update::Service(Box::new(addressed))).await;
    session.say(endpoints("payments.shop", true, &["one"])).await;
    assert_eq!(asked.await.unwrap().unwrap().name, name("payments.shop"));
    assert_eq!(session.subscribed().await, ["payments.shop"], "what is known is subscribed to by name");

    let asked = ask("192.0.2.1:443");
    assert_eq!(session.subscribed().await, ["192.0.2.1:443"]);
    let destination = Some(v1::destination::Destination::Address("192.0.2.1:443".to_owned()));
    session.say(Update::NotFound(v1::NotFound { destination: Some(v1::Destination { destination }) })).await;
    assert_eq!(asked.await.unwrap().unwrap_err(), Unresolved::Missing);
}

#[tokio::test]
async fn without_an_answer_a_call_waits_two_seconds_and_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    let began = Instant::now();
    assert_eq!(proxy.asks("slow.shop").await.unwrap().unwrap_err(), Unresolved::Unavailable);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_flood_of_invented_names_costs_neither_the_stream_nor_those_that_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    teach(&proxy, &mut session, "payments.shop").await;
    let asked: Vec<_> = (0..3000).map(|n| proxy.asks(&format!("x{n}.shop"))).collect();
    for one in asked {
        assert_eq!(one.await.unwrap().unwrap_err(), Unresolved::Unavailable);
    }
    assert!(proxy.asks("payments.shop").await.unwrap().is_ok());
    let mut subscribed = 0;
    while subscribed < model::MAX_EMPTY {
        subscribed += session.subscribed().await.len();
    }
    assert_eq!(subscribed, model::MAX_EMPTY, "the table has a bound");
    let nonce = session.say(settings(1)).await;
    session.acknowledged(nonce).await;
    assert_eq!(proxy.handle.view.counters().streams.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_held_back_route_is_acknowledged_when_its_backends_are_here() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    teach(&proxy, &mut session, "payments.shop").await;
    let mut routed = service("payments.shop", 2);
    let target = v1::BackendService { name: Some((&name("canary.shop")).into()), port: 80 };
    routed.ports[0].routed = true;
    routed.ports[0].matches = vec![v1::RouteMatch {
        path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/".to_owned())) }),
        ..v1::RouteMatch::default()
    }];
    routed.ports[0].rules = vec![v1::Rule {
        route: "shop/canary".to_owned(),
        backends: vec![v1::Backend {
            weight: 1,
            target: Some(v1::backend::Target::Service(target)),
            filters: vec![],
        }],
        ..v1::Rule::default()
    }];
    let held = session.say(Update::Service(Box::new(routed))).await;
    session.say(settings(9)).await;
    eventually("the settings after the held route are in use", async || {
        proxy.snapshots.current().mesh.version == 9
    })
    .await;
    assert_eq!(
        proxy.snapshots.current().services[&name("payments.shop")].version,
        1,
        "not before its backend"
    );
    session.say(Update::Service(Box::new(service("canary.shop", 2)))).await;
    let last = session.say(endpoints("canary.shop", true, &["c"])).await;
    loop {
        match session.hear().await {
            Message::Ack(ack) if ack.nonce >= last => break,
            Message::Ack(ack) => assert!(ack.nonce < held, "the held update was acknowledged"),
            Message::Subscribe(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(proxy.snapshots.current().services[&name("payments.shop")].version, 2);
}

#[tokio::test]
async fn an_update_that_cannot_be_applied_is_refused_by_field_and_the_last_good_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    teach(&proxy, &mut session, "payments.shop").await;
    let mut bad = service("payments.shop", 2);
    bad.ports[0].port = 70_000;
    let nonce = session.say(Update::Service(Box::new(bad))).await;
    let refusal = session.refused().await;
    assert_eq!(refusal.nonce, nonce);
    assert!(refusal.reason.contains("ports[0].port"), "{}", refusal.reason);
    assert_eq!(proxy.asks("payments.shop").await.unwrap().unwrap().version, 1);
    let foreign = v1::TrustBundle { trust_domain: "elsewhere.example".to_owned(), ..peer.bundle() };
    let nonce = session.say(Update::Bundle(foreign)).await;
    let refusal = session.refused().await;
    assert_eq!(refusal.nonce, nonce);
    assert!(refusal.reason.contains("bundle.trustDomain"), "{}", refusal.reason);
    let good = session.say(Update::Service(Box::new(service("payments.shop", 3)))).await;
    session.acknowledged(good).await;
    assert_eq!(proxy.asks("payments.shop").await.unwrap().unwrap().version, 3);
}

#[tokio::test]
async fn a_lost_stream_changes_nothing_and_is_opened_again_with_everything() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    let instance = session.hello().await.instance;
    session.say(settings(1)).await;
    teach(&proxy, &mut session, "payments.shop").await;
    proxy.ready().await;
    peer.stop();
    drop(session);
    let counters = proxy.handle.view.clone();
    eventually("the loss is noticed", async || {
        !counters.counters().connected.load(std::sync::atomic::Ordering::Relaxed)
    })
    .await;
    assert_eq!(proxy.ids("payments.shop"), ["one"]);
    assert!(*proxy.handle.ready.borrow(), "ready while the control plane is away");

    peer.restart();
    let mut session = peer.session().await;
    assert_eq!(session.hello().await.instance, instance);
    assert_eq!(session.subscribed().await, ["payments.shop"]);
    let nonce = session.say(endpoints("payments.shop", false, &["two"])).await;
    assert_eq!(session.refused().await.nonce, nonce, "a change to a set that this stream has not brought");
    assert_eq!(proxy.ids("payments.shop"), ["one"]);
    session.say(Update::Service(Box::new(service("payments.shop", 1)))).await;
    let nonce = session.say(endpoints("payments.shop", true, &["one", "two"])).await;
    session.acknowledged(nonce).await;
    assert_eq!(proxy.ids("payments.shop"), ["one", "two"]);
}

#[tokio::test]
async fn certificates_are_renewed_with_a_new_key_and_without_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), Duration::from_secs(12)).await;
    let mut proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    session.say(settings(1)).await;
    proxy.ready().await;
    let first = proxy.handle.identities.current().unwrap();
    let mut changes = proxy.handle.identities.changes();
    timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
    let second = proxy.handle.identities.current().unwrap();
    assert!(second.not_after > first.not_after);
    assert_ne!(second.public_key(), first.public_key(), "a new key each time");
    assert_eq!(second.id, first.id);
    let (issued, renewed) = peer.issued();
    assert_eq!(issued, 1, "the token is used once");
    assert!(renewed >= 1);
    let nonce = session.say(settings(2)).await;
    session.acknowledged(nonce).await;
    assert!(*proxy.handle.ready.borrow(), "the stream stands through it");
}

#[tokio::test]
async fn an_expired_certificate_is_replaced_by_the_token_and_not_ready_until_then() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), Duration::from_secs(2)).await;
    let mut proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    session.say(settings(1)).await;
    proxy.ready().await;
    peer.stop();
    timeout(PATIENCE, proxy.handle.ready.wait_for(|ready| !*ready)).await.expect("still ready").unwrap();
    let expired = proxy.handle.identities.current().unwrap();
    assert!(!expired.is_valid(SystemClock.now()));
    let (before, _) = peer.issued();
    peer.restart();
    proxy.ready().await;
    assert!(peer.issued().0 > before, "the token proved it again");
}

#[tokio::test]
async fn a_pushed_bundle_makes_new_tls_configurations_and_the_same_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    session.hello().await;
    let before = proxy.handle.identities.current().unwrap();
    let nonce = session.say(Update::Bundle(peer.bundle())).await;
    session.acknowledged(nonce).await;
    assert!(Arc::ptr_eq(&before, &proxy.handle.identities.current().unwrap()));
    peer.authority.publish_next_root().unwrap();
    let nonce = session.say(Update::Bundle(peer.bundle())).await;
    session.acknowledged(nonce).await;
    let after = proxy.handle.identities.current().unwrap();
    assert_eq!(after.bundle.fingerprints().count(), 2);
    assert_eq!(after.public_key(), before.public_key(), "the identity stays");
    assert!(!Arc::ptr_eq(&before.client_h2, &after.client_h2));
}

#[tokio::test]
async fn with_kept_identity_and_policy_a_restart_serves_at_once_without_the_control_plane() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut proxy = Proxy::of(&peer).keeping_state(&state, true).start();
    let mut session = peer.session().await;
    session.hello().await;
    session.say(settings(5)).await;
    teach(&proxy, &mut session, "payments.shop").await;
    proxy.ready().await;
    let key = proxy.handle.identities.current().unwrap().public_key();
    eventually("identity and policy are kept", async || std::fs::read_dir(&state).unwrap().count() >= 3)
        .await;
    stop(proxy, session).await;

    peer.stop();
    let proxy = Proxy::with_token(&peer, "not a token").keeping_state(&state, true).start();
    assert!(*proxy.handle.ready.borrow(), "ready before anything else runs");
    assert_eq!(proxy.ids("payments.shop"), ["one"]);
    assert_eq!(proxy.snapshots.current().mesh.version, 5);
    assert_eq!(proxy.handle.identities.current().unwrap().public_key(), key);

    peer.restart();
    let mut session = peer.session().await;
    session.hello().await;
    assert_eq!(session.subscribed().await, ["payments.shop"]);
    assert_eq!(peer.issued(), (1, 0));
}

#[tokio::test]
async fn without_a_kept_identity_a_restart_waits_for_the_control_plane() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut proxy = Proxy::of(&peer).keeping_state(&state, false).start();
    let mut session = peer.session().await;
    session.hello().await;
    session.say(settings(5)).await;
    proxy.ready().await;
    stop(proxy, session).await;
    for entry in std::fs::read_dir(&state).unwrap() {
        let text = String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned();
        assert!(!text.contains("PRIVATE KEY"), "a key was kept without being asked for");
    }
    assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);

    peer.stop();
    let mut proxy = Proxy::of(&peer).keeping_state(&state, false).start();
    assert_eq!(proxy.snapshots.current().mesh.version, 5, "the policy is there");
    assert!(!*proxy.handle.ready.borrow());
    peer.restart();
    proxy.ready().await;
}

#[tokio::test]
async fn a_kept_identity_of_another_account_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut other = Proxy::with_token(&peer, &peer.token("api")).keeping_state(&state, true);
    other.inputs.service_account = "api".to_owned();
    let mut other = other.start();
    let mut session = peer.session().await;
    session.hello().await;
    session.say(settings(1)).await;
    other.ready().await;
    eventually("the identity is kept", async || std::fs::read_dir(&state).unwrap().count() >= 3).await;
    stop(other, session).await;
    let proxy = Proxy::of(&peer).keeping_state(&state, true).start();
    assert!(proxy.handle.identities.current().is_none());
    assert_eq!(peer.session().await.identity.service_account(), "web");
}

#[tokio::test]
async fn only_the_control_planes_own_identity_is_listened_to() {
    let directory = tempfile::tempdir().unwrap();
    let genuine = Peer::start(directory.path(), HOUR).await;
    // A workload of the same mesh that pretends.
    let id = SpiffeId::new(genuine.authority.trust_domain(), "shop", "evil").unwrap();
    let request = KeyRequest::generate(&id).unwrap();
    let mut chain = genuine.authority.sign(request.csr_der(), &id).unwrap().to_der();
    chain.extend(genuine.authority.bundle().to_der());
    let svid = request.into_svid(chain, &genuine.authority.bundle(), SystemClock.now()).unwrap();
    let pretender = Peer::start_as(genuine.authority.clone(), &svid).await;
    let proxy = Proxy::with_token(&pretender, &pretender.token("web")).start();
    let failures = &proxy.handle.view.counters().certificate_failures;
    eventually("refused", async || failures.load(std::sync::atomic::Ordering::Relaxed) >= 2).await;
    assert_eq!(pretender.issued(), (0, 0), "the token was not shown");
    // Another mesh altogether.
    let elsewhere = authority(&directory.path().join("elsewhere"), HOUR);
    let stranger = Peer::start_as(elsewhere.clone(), &elsewhere.server_svid().unwrap()).await;
    let proxy = Proxy::with_token(&stranger, &genuine.token("web")).start();
    let failures = &proxy.handle.view.counters().certificate_failures;
    eventually("refused", async || failures.load(std::sync::atomic::Ordering::Relaxed) >= 2).await;
    assert_eq!(stranger.issued(), (0, 0));
    assert!(proxy.handle.identities.current().is_none());
}

#[tokio::test]
async fn a_token_that_is_replaced_in_its_file_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let unknown =
        outrigger_certs::JoinToken::generate(peer.authority.root_fingerprint()).unwrap().to_string();
    let proxy = Proxy::with_token(&peer, &unknown);
    let file = proxy.inputs.join_token_file.clone().unwrap();
    let proxy = proxy.start();
    let failures = &proxy.handle.view.counters().certificate_failures;
    eventually("refused", async || failures.load(std::sync::atomic::Ordering::Relaxed) >= 1).await;
    std::fs::write(file, peer.token("web")).unwrap();
    peer.session().await;
    assert_eq!(peer.issued(), (1, 0));
}

#[tokio::test]
async fn a_name_with_several_addresses_is_tried_at_each() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let mut proxy = Proxy::of(&peer);
    proxy.inputs.control_plane = format!("localhost:{}", peer.address.port());
    let _proxy = proxy.start();
    peer.session().await.hello().await;
}

#[tokio::test]
async fn a_goodbye_takes_the_workload_out_and_later_streams_do_not_bring_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let proxy = Proxy::of(&peer).start();
    let mut session = peer.session().await;
    assert!(session.hello().await.workload.is_some());
    proxy.handle.goodbye().await;
    assert!(matches!(session.hear().await, Message::Goodbye(_)));
    let nonce = session.say(settings(1)).await;
    session.acknowledged(nonce).await;
    peer.cut();
    let mut session = peer.session().await;
    assert!(session.hello().await.workload.is_none());
    stop(proxy, session).await;
}

#[tokio::test]
async fn health_is_told_at_once_and_load_every_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let peer = Peer::start(directory.path(), HOUR).await;
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut proxy = Proxy::of(&peer);
    // Bound and not listening: the application has not started.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    proxy.inputs.checks = vec![
        Check { address: application.local_addr().unwrap(), kind: CheckKind::Tcp },
        Check { address: socket.local_addr().unwrap(), kind: CheckKind::Tcp },
    ];
    let requests = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = requests.clone();
    proxy.inputs.load = Arc::new(move || {
        let requests = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async move {
            v1::LoadReport {
                edges: vec![v1::Edge { requests, ..v1::Edge::default() }],
                ..v1::LoadReport::default()
            }
        })
    });
    let _proxy = proxy.start();
    let mut session = peer.session().await;
    assert!(!session.hello().await.workload.unwrap().healthy, "unhealthy until the application accepts");
    let _listener = socket.listen(16).unwrap();
    let (mut healthy, mut loads) = (false, 0);
    while !healthy || loads < 2 {
        match session.hear_all().await.unwrap() {
            Message::Health(health) => healthy = health.healthy,
            Message::Load(_) => loads += 1,
            other => panic!("{other:?}"),
        }
    }
}
