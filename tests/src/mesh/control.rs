//! The mesh's control plane: started, stopped, killed, and asked through its REST API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_certs::TrustDomain;
use outrigger_control_plane::{ControlPlane, ControlPlaneConfig};
use serde_json::{Value, json};

use super::{Mesh, TRUST_DOMAIN};
use crate::app::http::{empty, full};
use crate::client::{Answer, Client, request};
use crate::host::Host;
use crate::process::Process;
use crate::wait::eventually;

/// How the control plane is to run.
#[derive(Debug, Clone)]
pub(super) struct ControlSettings {
    pub(super) api: SocketAddr,
    pub(super) proxies: SocketAddr,
    pub(super) svid_ttl: Duration,
    pub(super) grace: Duration,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            api: ([127, 0, 0, 1], 0).into(),
            proxies: ([127, 0, 0, 1], 0).into(),
            svid_ttl: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(10),
        }
    }
}

/// The control plane, in this process or in one of its own.
#[derive(Debug)]
pub(super) enum Control {
    InProcess { running: outrigger_control_plane::Running, host: Host },
    Process(Process),
}

impl Mesh {
    /// Starts the control plane on its directory, in this process, always on the same ports.
    pub async fn start_control_plane(&mut self) {
        assert!(self.control.is_none(), "the control plane runs");
        let host = Host::start("control plane");
        let config = self.control_config();
        let running = host.run(ControlPlane::start(config)).await.expect("the control plane starts");
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
            jwks_from_loopback: true,
            ..ControlPlaneConfig::default()
        }
    }

    /// Starts the control plane on its directory as a process, always on the same ports.
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
        assert_eq!(process.address("api"), self.settings.api);
        assert_eq!(process.address("proxies"), self.settings.proxies);
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
}
