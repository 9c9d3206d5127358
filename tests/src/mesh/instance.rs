//! One instance of a workload: its applications, and its proxy in this process or in one of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use http_body_util::BodyExt as _;
use outrigger_proxy::{Proxy, ProxyArgs, ProxyConfig};
use serde_json::Value;

use super::TRUST_DOMAIN;
use crate::app::http::empty;
use crate::app::{Record, RunningApp};
use crate::client::{Client, request};
use crate::process::Process;
use crate::wait::within;

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
    pub(super) args: Vec<String>,
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
    pub(super) run: Run,
}

#[derive(Debug)]
pub(super) enum Run {
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

/// Starts a proxy with these arguments, and returns when it is ready.
pub(super) async fn start_sidecar(args: &[String], as_process: bool) -> Sidecar {
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
