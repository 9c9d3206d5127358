//! A whole mesh: a control plane, and for each workload its applications and its proxy.

mod builder;
mod control;
mod instance;
mod turn;

use std::sync::OnceLock;

use tempfile::TempDir;

pub use builder::Builder;
use builder::Workload;
use control::{Control, ControlSettings};
pub use instance::{Instance, Sidecar};
use instance::{Run, start_sidecar};
use turn::Turn;

use crate::app::App;
use crate::app::http::empty;
use crate::client::{Answer, Client, request};
use crate::host::Host;
use crate::metrics::Metrics;
use crate::port::Port;

/// The trust domain of every mesh.
pub const TRUST_DOMAIN: &str = "outrigger.test";

/// A running mesh. Dropping it stops everything.
#[derive(Debug)]
pub struct Mesh {
    // Dropped in this order: proxies before the control plane, so that none of them reconnects in vain.
    instances: Vec<Instance>,
    control: Option<Control>,
    apps: Host,
    settings: ControlSettings,
    directory: TempDir,
    // The control plane's, through all of its lives.
    _ports: [Port; 2],
    _turn: Turn,
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

impl Mesh {
    /// Says what a mesh is to consist of.
    pub fn builder() -> Builder {
        Builder::new()
    }

    async fn empty(mut settings: ControlSettings, turn: Turn) -> Self {
        let ports = [Port::reserve(), Port::reserve()];
        [settings.api, settings.proxies] = ports.each_ref().map(|port| port.address);
        let mut mesh = Self {
            instances: Vec::new(),
            control: None,
            apps: Host::start("applications"),
            settings,
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            _ports: ports,
            _turn: turn,
        };
        mesh.start_control_plane().await;
        mesh
    }

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
