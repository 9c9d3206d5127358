//! What a mesh is to consist of, said before it starts.

use std::time::Duration;

use super::Mesh;
use super::control::ControlSettings;
use super::turn::Turn;
use crate::app::App;
use crate::process;

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

/// One workload of it.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) apps: Vec<(u16, App)>,
    pub(super) instances: usize,
    pub(super) args: Vec<String>,
    pub(super) processes: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            namespace: "shop".to_owned(),
            workloads: Vec::new(),
            policies: Vec::new(),
            control: ControlSettings::default(),
            processes: false,
            alone: false,
        }
    }

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
        let mut mesh = Mesh::empty(self.control, Turn::take(self.alone).await).await;
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
        // A gateway follows its routes from the start, and learns of what stands behind them a moment after all others.
        mesh.pushed().await;
        mesh
    }
}
