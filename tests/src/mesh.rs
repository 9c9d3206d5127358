//! A whole mesh: a control plane, and for each workload its applications and its proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser as _;
use http_body_util::BodyExt as _;
use outrigger_certs::TrustDomain;
use outrigger_control_plane::{ControlPlane, ControlPlaneConfig};
use outrigger_proxy::{Proxy, ProxyArgs, ProxyConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::app::http::{empty, full};
use crate::app::{App, Record, RunningApp};
use crate::client::{Answer, Client, request};
use crate::host::Host;
use crate::metrics::Metrics;
use crate::process::{self, Process};
use crate::wait::{eventually, within};

/// The trust domain of every mesh that does not say otherwise.
pub const TRUST_DOMAIN: &str = "outrigger.test";

/// What a mesh is to consist of.
#[derive(Debug)]
pub struct Builder {
    namespace: String,
    workloads: Vec<Workload>,
    policies: Vec<String>,
    control: ControlSettings,
    processes: bool,
    alone: bool,
}

/// How the control plane is to run.
#[derive(Debug, Clone)]
struct ControlSettings {
    api: SocketAddr,
    proxies: SocketAddr,
    svid_ttl: Duration,
    grace: Duration,
}

#[derive(Debug, Clone)]
struct Workload {
    namespace: String,
    service: String,
    apps: Vec<(u16, App)>,
    instances: usize,
    args: Vec<String>,
    processes: bool,
}

impl Builder {
    /// The namespace of the workloads named after this; `shop` until then.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// A workload that serves this application on port 80 and can call others.
    pub fn service(mut self, name: &str, app: App) -> Self {
        self.workloads.push(Workload {
            namespace: self.namespace.clone(),
            service: name.to_owned(),
            apps: vec![(80, app)],
            instances: 1,
            args: Vec::new(),
            processes: self.processes,
        });
        self
    }

    /// A workload that only calls others.
    pub fn client(mut self, name: &str) -> Self {
        self.workloads.push(Workload {
            namespace: self.namespace.clone(),
            service: name.to_owned(),
            apps: Vec::new(),
            instances: 1,
            args: Vec::new(),
            processes: self.processes,
        });
        self
    }

    /// So many instances of the workload named last.
    pub fn instances(mut self, count: usize) -> Self {
        self.last().instances = count;
        self
    }

    /// One more port of the workload named last.
    pub fn port(mut self, port: u16, app: App) -> Self {
        self.last().apps.push((port, app));
        self
    }

    /// The workload named last serves on this port instead of 80.
    pub fn on_port(mut self, port: u16) -> Self {
        self.last().apps[0].0 = port;
        self
    }

    /// More command-line arguments for the proxies of the workload named last.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.last().args.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    /// The proxies of the workload named last run as processes of their own, from the real binary.
    pub fn as_process(mut self) -> Self {
        self.last().processes = true;
        self
    }

    /// All proxies named after this run as processes of their own.
    pub fn processes(mut self) -> Self {
        self.processes = true;
        self
    }

    /// Documents that are applied before any workload starts.
    pub fn policy(mut self, yaml: &str) -> Self {
        self.policies.push(yaml.to_owned());
        self
    }

    /// How long workload certificates last; 24 h otherwise.
    pub fn svid_ttl(mut self, ttl: Duration) -> Self {
        self.control.svid_ttl = ttl;
        self
    }

    /// How long an instance stays in its service's endpoints after its stream is lost.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.control.grace = grace;
        self
    }

    /// No other mesh runs in this process at the same time: for what is measured in milliseconds.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    fn last(&mut self) -> &mut Workload {
        self.workloads.last_mut().expect("a workload is named first")
    }

    /// Starts it all, and returns when every proxy is ready and every application is known as healthy.
    pub async fn start(self) -> Mesh {
        if self.workloads.iter().any(|workload| workload.processes) {
            process::built().await;
        }
        let turn = if self.alone {
            Turn::Alone(machine().write_owned().await)
        } else {
            Turn::Shared(machine().read_owned().await)
        };
        let mut mesh = Mesh::empty(self.control, turn).await;
        for policy in &self.policies {
            mesh.apply(policy).await;
        }
        let mut starting = Vec::new();
        for workload in &self.workloads {
            for number in 0..workload.instances {
                starting.push(mesh.launch(workload.clone(), number));
            }
        }
        mesh.instances = futures_util::future::join_all(starting).await;
        mesh.settled().await;
        mesh
    }
}

/// One workload instance: its applications and its proxy.
#[derive(Debug)]
pub struct Instance {
    /// Its namespace.
    pub namespace: String,
    /// Its service, which is also its service account.
    pub service: String,
    /// Counts from 0 within the service.
    pub number: usize,
    /// By service port.
    pub apps: Vec<(u16, RunningApp)>,
    /// Its proxy; `None` after it was stopped.
    pub sidecar: Option<Sidecar>,
    args: Vec<String>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Sidecar {
    /// What the workload calls others through.
    pub outbound: SocketAddr,
    /// Where other proxies reach it.
    pub inbound: SocketAddr,
    /// `/metrics` and the like.
    pub admin: SocketAddr,
    /// The `--listen` addresses, in that order.
    pub listens: Vec<SocketAddr>,
    run: Run,
}

#[derive(Debug)]
enum Run {
    InProcess(outrigger_proxy::Running),
    Process(Process),
}

impl Instance {
    /// The proxy; panics after it was stopped.
    #[track_caller]
    pub fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().expect("the proxy runs")
    }

    /// What reached the application on the first port.
    pub fn record(&self) -> &Arc<Record> {
        &self.apps[0].1.record
    }

    /// An HTTP/1.1 client of the proxy, with no connection yet.
    pub fn client(&self) -> Client {
        Client::via(self.sidecar().outbound)
    }

    /// The proxy's process; panics where it runs in the test's.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        match &mut self.sidecar.as_mut().expect("the proxy runs").run {
            Run::Process(process) => process,
            Run::InProcess(_) => panic!("this proxy is not a process of its own: say as_process()"),
        }
    }

    /// `kill -9` of the instance, application and proxy, with nothing said to anybody.
    pub async fn kill(&mut self) {
        self.process().kill().await;
        self.sidecar = None;
        for (_, app) in &mut self.apps {
            app.kill();
        }
    }

    /// Stops the proxy as SIGTERM does, and returns when it has drained.
    pub async fn drain(&mut self) {
        match self.sidecar.take().expect("the proxy runs").run {
            Run::InProcess(running) => running.drain().await,
            Run::Process(mut process) => {
                process.signal(rustix::process::Signal::TERM);
                let ended = process.ended().await;
                assert_eq!(ended.code(), 0, "a drained proxy exits with 0: {ended:?}");
            }
        }
    }

    /// Starts the proxy again with the arguments that it had, in a process of its own if it was in one.
    pub async fn restart(&mut self, as_process: bool) {
        self.sidecar = Some(start_sidecar(&self.args, as_process).await);
    }

    /// The SPIFFE id of the workload.
    pub fn identity(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", self.namespace, self.service)
    }
}

/// A running mesh. Dropping it stops everything.
#[derive(Debug)]
pub struct Mesh {
    // Dropped in this order: proxies before the control plane, so that none of them reconnects in vain.
    instances: Vec<Instance>,
    control: Option<Control>,
    apps: Host,
    settings: ControlSettings,
    directory: TempDir,
    _turn: Turn,
}

/// The right to use the machine, with others or alone.
#[derive(Debug)]
enum Turn {
    Shared(#[expect(dead_code, reason = "held until the mesh is dropped")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held until the mesh is dropped")] OwnedRwLockWriteGuard<()>),
}

/// Shared by the meshes that run in this process.
fn machine() -> Arc<RwLock<()>> {
    static MACHINE: OnceLock<Arc<RwLock<()>>> = OnceLock::new();
    Arc::clone(MACHINE.get_or_init(Arc::default))
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Proxies outlive their handles, by design; nobody waits for their end, but end they must.
        static UNDERTAKER: OnceLock<Host> = OnceLock::new();
        for instance in &mut self.instances {
            if let Some(Sidecar { run: Run::InProcess(running), .. }) = instance.sidecar.take() {
                let undertaker = UNDERTAKER.get_or_init(|| Host::start("undertaker"));
                drop(undertaker.handle().spawn(running.drain()));
            }
        }
    }
}

#[derive(Debug)]
enum Control {
    InProcess { running: outrigger_control_plane::Running, host: Host },
    Process(Process),
}

impl Mesh {
    /// Says what a mesh is to consist of.
    pub fn builder() -> Builder {
        Builder {
            namespace: "shop".to_owned(),
            workloads: Vec::new(),
            policies: Vec::new(),
            control: ControlSettings {
                api: ([127, 0, 0, 1], 0).into(),
                proxies: ([127, 0, 0, 1], 0).into(),
                svid_ttl: Duration::from_secs(24 * 3600),
                grace: Duration::from_secs(10),
            },
            processes: false,
            alone: false,
        }
    }

    async fn empty(settings: ControlSettings, turn: Turn) -> Self {
        let mut mesh = Self {
            instances: Vec::new(),
            control: None,
            apps: Host::start("applications"),
            settings,
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            _turn: turn,
        };
        mesh.start_control_plane().await;
        mesh
    }

    // ---- the control plane ----

    /// Starts the control plane on its directory, in this process; after the first time on the same ports.
    pub async fn start_control_plane(&mut self) {
        assert!(self.control.is_none(), "the control plane runs");
        let host = Host::start("control plane");
        let config = self.control_config();
        let running = host.run(ControlPlane::start(config)).await.expect("the control plane starts");
        self.settings.api = running.api;
        self.settings.proxies = running.proxies;
        self.control = Some(Control::InProcess { running, host });
    }

    fn control_config(&self) -> ControlPlaneConfig {
        ControlPlaneConfig {
            data_dir: self.data_dir(),
            api_listen: self.settings.api,
            proxy_listen: self.settings.proxies,
            trust_domain: TRUST_DOMAIN.parse::<TrustDomain>().expect("the constant is valid"),
            svid_ttl: self.settings.svid_ttl,
            grace: self.settings.grace,
            ..ControlPlaneConfig::default()
        }
    }

    /// Starts the control plane on its directory as a process; after the first time on the same ports.
    pub async fn start_control_plane_process(&mut self) {
        assert!(self.control.is_none(), "the control plane runs");
        let args = [
            "control-plane",
            "--data-dir",
            self.data_dir().to_str().expect("a temporary directory is UTF-8"),
            "--api-listen",
            &self.settings.api.to_string(),
            "--proxy-listen",
            &self.settings.proxies.to_string(),
            "--trust-domain",
            TRUST_DOMAIN,
        ]
        .map(str::to_owned);
        let mut process = Process::start("outrigger", &args, &[]);
        process.ready().await;
        self.settings.api = process.address("api");
        self.settings.proxies = process.address("proxies");
        self.control = Some(Control::Process(process));
    }

    /// Stops the control plane in good order.
    pub async fn stop_control_plane(&mut self) {
        match self.control.take().expect("the control plane runs") {
            Control::InProcess { running, host } => {
                host.run(running.shutdown()).await;
            }
            Control::Process(mut process) => {
                process.signal(rustix::process::Signal::TERM);
                assert_eq!(process.ended().await.code(), 0, "the control plane stops with 0");
            }
        }
    }

    /// `kill -9` of the control plane; in this process, its tasks and sockets vanish from one moment to the next.
    pub async fn kill_control_plane(&mut self) {
        match self.control.take().expect("the control plane runs") {
            Control::InProcess { running, host } => {
                drop(host);
                drop(running);
            }
            Control::Process(mut process) => process.kill().await,
        }
    }

    /// Where its data are.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("control-plane")
    }

    /// A place for the test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The address of its REST API.
    pub fn api_address(&self) -> SocketAddr {
        self.settings.api
    }

    /// Where proxies reach it.
    pub fn control_address(&self) -> SocketAddr {
        self.settings.proxies
    }

    /// A request to the REST API with the admin's token. A body that is not a JSON object goes as YAML.
    pub async fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        let token =
            std::fs::read_to_string(self.data_dir().join("admin.token")).expect("there is an admin token");
        let authorization = format!("Bearer {}", token.trim());
        let url = format!("http://{}{path}", self.settings.api);
        let kind = if body.starts_with('{') { "application/json" } else { "application/yaml" };
        let headers = [("authorization", authorization.as_str()), ("content-type", kind)];
        let body = if body.is_empty() { empty() } else { full(body.to_owned()) };
        Client::via(self.settings.api).answer(request(method, &url, &headers, body)).await
    }

    /// A GET of the REST API, as JSON; panics if it is refused.
    pub async fn show(&self, path: &str) -> Value {
        let answer = self.api("GET", path, "").await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("the API answers in JSON")
    }

    /// The list that a GET shows, whether bare or under `items`.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        match self.show(path).await {
            Value::Array(items) => items,
            Value::Object(mut map) => match map.remove("items") {
                Some(Value::Array(items)) => items,
                other => panic!("GET {path}: no list of items but {other:?}"),
            },
            other => panic!("GET {path}: no list but {other}"),
        }
    }

    /// Applies documents; panics if they are refused. Returns what the API says of it.
    pub async fn apply(&self, yaml: &str) -> Value {
        let answer = self.api("POST", "/v1/apply", yaml).await;
        assert_eq!(answer.status, 200, "apply was refused: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("the API answers in JSON")
    }

    /// Waits until every proxy has acknowledged everything that there is for it.
    pub async fn pushed(&self) {
        eventually("every proxy is up to date", || async {
            let proxies = self.list("/v1/proxies").await;
            let behind: Vec<_> =
                proxies.iter().filter(|p| p["connected"] == true && p["upToDate"] != true).collect();
            if behind.is_empty() { Ok(()) } else { Err(format!("behind: {behind:?}")) }
        })
        .await;
    }

    /// Waits until every running instance is connected and its application known as healthy.
    pub async fn settled(&self) {
        eventually("every instance is healthy", || async {
            let services = self.list("/v1/services").await;
            let healthy = |namespace: &str, name: &str| {
                let service = services.iter().find(|s| s["namespace"] == namespace && s["name"] == name);
                let endpoints = service.and_then(|s| s["endpoints"].as_array());
                endpoints.map_or(0, |e| {
                    e.iter().filter(|e| e["healthy"] == true && e["connected"] == true).count()
                })
            };
            for instance in &self.instances {
                let wanted = self
                    .instances
                    .iter()
                    .filter(|i| i.sidecar.is_some() && !i.apps.is_empty())
                    .filter(|i| i.namespace == instance.namespace && i.service == instance.service)
                    .count();
                let seen = healthy(&instance.namespace, &instance.service);
                if seen < wanted {
                    return Err(format!(
                        "{}: {seen} of {wanted}; {}",
                        instance.service,
                        Value::from(services)
                    ));
                }
            }
            Ok(())
        })
        .await;
    }

    /// A join token for this identity.
    pub async fn token(&self, namespace: &str, service_account: &str) -> String {
        let body =
            json!({"namespace": namespace, "serviceAccount": service_account, "ttl": "1h"}).to_string();
        let answer = self.api("POST", "/v1/tokens", &body).await;
        assert!(answer.status.is_success(), "no token: {}", answer.text());
        let answer: Value = serde_json::from_slice(&answer.body).expect("the API answers in JSON");
        answer["token"].as_str().expect("the answer holds the token").to_owned()
    }

    /// A file with a join token for this identity.
    pub async fn token_file(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.token(namespace, service_account).await;
        let file = tempfile::Builder::new()
            .prefix("token-")
            .tempfile_in(self.directory.path())
            .expect("a temporary file can be made");
        let (_, path) = file.keep().expect("a temporary file can be kept");
        std::fs::write(&path, token).expect("a temporary file can be written");
        path
    }

    // ---- the workloads ----

    async fn launch(&self, workload: Workload, number: usize) -> Instance {
        let Workload { namespace, service, apps, args: more, processes, .. } = workload;
        let mut running = Vec::new();
        let mut args: Vec<String> = Vec::new();
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        for (port, app) in apps {
            let app = app.start(&format!("{service}-{number}"), self.apps.handle()).await;
            flag("app", format!("{port}={}", app.address));
            running.push((port, app));
        }
        flag("namespace", namespace.clone());
        if !running.is_empty() {
            flag("service", service.clone());
        }
        flag("service-account", service.clone());
        flag("control-plane", self.settings.proxies.to_string());
        flag("join-token-file", self.token_file(&namespace, &service).await.display().to_string());
        for listener in ["outbound", "inbound", "admin"] {
            if !more.iter().any(|arg| arg == &format!("--{listener}")) {
                flag(listener, "127.0.0.1:0".to_owned());
            }
        }
        if !more.iter().any(|arg| arg == "--access-log") {
            flag("access-log", "off".to_owned());
        }
        args.extend(more);
        let sidecar = Some(start_sidecar(&args, processes).await);
        Instance { namespace, service, number, apps: running, sidecar, args }
    }

    /// Adds one more instance of a service while the mesh runs; returns when it is known as healthy.
    pub async fn join(&mut self, service: &str, app: App, args: &[&str], as_process: bool) {
        let number = self.instances_of(service).count();
        let workload = Workload {
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            apps: vec![(80, app)],
            instances: 1,
            args: args.iter().map(|&a| a.to_owned()).collect(),
            processes: as_process,
        };
        let instance = self.launch(workload, number).await;
        self.instances.push(instance);
        self.settled().await;
    }

    /// Adds one more workload that only calls others, and returns its client.
    pub async fn join_client(&mut self, service: &str, args: &[&str]) -> Client {
        let workload = Workload {
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            apps: Vec::new(),
            instances: 1,
            args: args.iter().map(|&a| a.to_owned()).collect(),
            processes: false,
        };
        let instance = self.launch(workload, 0).await;
        self.instances.push(instance);
        self.client(service)
    }

    /// A client of the service's first instance's proxy, by HTTP/1.1.
    #[track_caller]
    pub fn client(&self, service: &str) -> Client {
        self.instance(service, 0).client()
    }

    /// One instance.
    #[track_caller]
    pub fn instance(&self, service: &str, number: usize) -> &Instance {
        let mut of_service = self.instances.iter().filter(|i| i.service == service);
        of_service.nth(number).unwrap_or_else(|| panic!("no instance {number} of {service}"))
    }

    /// One instance, to kill or drain it.
    #[track_caller]
    pub fn instance_mut(&mut self, service: &str, number: usize) -> &mut Instance {
        self.instances
            .iter_mut()
            .filter(|i| i.service == service)
            .nth(number)
            .unwrap_or_else(|| panic!("no instance {number} of {service}"))
    }

    /// The instances of a service.
    pub fn instances_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().filter(move |i| i.service == service)
    }

    /// Requests that reached the applications of a service, all instances together.
    pub fn attempts(&self, service: &str) -> u64 {
        self.instances_of(service).map(|i| i.record().attempts()).sum()
    }

    /// What the first instance's proxy of a service says at `/metrics`.
    pub async fn metrics(&self, service: &str) -> Metrics {
        self.metrics_of(service, 0).await
    }

    /// What one instance's proxy says at `/metrics`.
    pub async fn metrics_of(&self, service: &str, number: usize) -> Metrics {
        let answer = self.admin(service, number, "/metrics").await;
        assert_eq!(answer.status, 200, "/metrics: {}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// A GET of a proxy's admin server.
    pub async fn admin(&self, service: &str, number: usize, path: &str) -> Answer {
        let admin = self.instance(service, number).sidecar().admin;
        Client::via(admin).get(&format!("http://{admin}{path}")).await
    }

    /// All that the mesh can say of itself, for failure messages.
    pub async fn explain(&self) -> String {
        let mut text = String::new();
        if self.control.is_some() {
            for path in ["/v1/services", "/v1/proxies"] {
                let answer = self.api("GET", path, "").await.text();
                text.push_str(&format!("{path}: {answer}\n"));
            }
        }
        for instance in &self.instances {
            let Some(sidecar) = &instance.sidecar else { continue };
            let name = format!("{}-{}", instance.service, instance.number);
            let url = format!("http://{}/metrics", sidecar.admin);
            match Client::via(sidecar.admin).send(request("GET", &url, &[], empty())).await {
                Ok(answer) => {
                    let metrics = answer.text();
                    let counters =
                        metrics.lines().filter(|l| l.starts_with("outrigger_") && !l.contains("_bucket"));
                    let lines: Vec<_> = counters.filter(|l| !l.ends_with(" 0")).take(60).collect();
                    text.push_str(&format!("{name}:\n  {}\n", lines.join("\n  ")));
                }
                Err(lost) => text.push_str(&format!("{name}: {lost}\n")),
            }
            if let Run::Process(process) = &sidecar.run {
                text.push_str(&process.said());
            }
        }
        text
    }
}

async fn start_sidecar(args: &[String], as_process: bool) -> Sidecar {
    if as_process {
        let mut process = Process::start("outrigger-proxy", args, &[]);
        process.ready().await;
        let listens = match &process.ready().await["listens"] {
            Value::Array(all) => all.iter().filter_map(|a| a.as_str()?.parse().ok()).collect(),
            _ => Vec::new(),
        };
        return Sidecar {
            outbound: process.address("outbound"),
            inbound: process.address("inbound"),
            admin: process.address("admin"),
            listens,
            run: Run::Process(process),
        };
    }
    let words = std::iter::once("outrigger-proxy").chain(args.iter().map(String::as_str));
    let args = Command::try_parse_from(words).expect("the arguments parse").args;
    let config = ProxyConfig::try_from(args).expect("the arguments are valid");
    let running = Proxy::start(config).await.expect("the proxy starts");
    let sidecar = Sidecar {
        outbound: running.outbound,
        inbound: running.inbound,
        admin: running.admin,
        listens: running.listens.clone(),
        run: Run::InProcess(running),
    };
    within(Duration::from_secs(30), "the proxy is ready", || is_ready(sidecar.admin)).await;
    sidecar
}

async fn is_ready(admin: SocketAddr) -> Result<(), String> {
    let url = format!("http://{admin}/ready");
    let answer =
        Client::via(admin).open(request("GET", &url, &[], empty())).await.map_err(|l| l.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    if status == 200 { Ok(()) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body))) }
}

/// The command line of a proxy, as its binary parses it.
#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    args: ProxyArgs,
}
