//! The demo's mesh: which processes there are, and how they find each other.
//!
//! A gateway-like client calls web, web calls orders, orders calls payments; payments has two versions of two
//! instances each. Every instance is an application and a sidecar, each a process of its own. Everything listens
//! on loopback, on ports that the processes bind themselves; the control plane alone has chosen ports, since it
//! must have the same ones after it was killed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use outrigger_control_plane::status::{ProxyStatus, ServiceStatus};
use rand::RngExt;
use serde_json::{Value, json};

use super::child::{Child, ChildError};
use super::load::Account;
use super::{DemoError, documents};
use crate::client::{Api, ApiArgs, ApiError, Body};
use crate::data_dir::ADMIN_TOKEN;

/// The namespace of everything in the demo.
const NAMESPACE: &str = "shop";
/// The service port of everything in the demo.
const PORT: u16 = 80;
/// How long the mesh may take to be as it should, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a start is tried again because somebody took a chosen port.
const PORT_TRIES: u32 = 5;

/// What there is one of in the topology: an application with its sidecar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    pub(crate) instance: &'static str,
    pub(crate) service: &'static str,
    account: &'static str,
    app: &'static str,
    version: &'static str,
    next: Option<&'static str>,
}

const fn payments(instance: &'static str, service: &'static str, version: &'static str) -> Role {
    Role { instance, service, account: "payments", app: "payments", version, next: None }
}

/// Every instance of the demo.
pub(crate) const ROLES: [Role; 6] = [
    payments("payments-v1-1", "payments-v1", "v1"),
    payments("payments-v1-2", "payments-v1", "v1"),
    payments("payments-v2-1", "payments-v2", "v2"),
    payments("payments-v2-2", "payments-v2", "v2"),
    Role {
        instance: "orders-1",
        service: "orders",
        account: "orders",
        app: "orders",
        version: "v1",
        next: Some("payments.shop"),
    },
    Role {
        instance: "web-1",
        service: "web",
        account: "web",
        app: "web",
        version: "v1",
        next: Some("orders.shop"),
    },
];

/// The identities that take part.
const ACCOUNTS: [&str; 4] = ["gateway", "web", "orders", "payments"];

/// An application and its sidecar.
pub(crate) struct Instance {
    pub(crate) app: Child,
    pub(crate) sidecar: Child,
}

/// How the demo's mesh is set up.
pub(crate) struct Settings {
    /// Where everything is kept; it exists and is private.
    pub(crate) directory: PathBuf,
    /// How long workload certificates last.
    pub(crate) svid_ttl: Duration,
    /// Where proxies send their spans.
    pub(crate) spans: SocketAddr,
    pub(crate) rps: u32,
}

/// The running mesh. Dropping it kills every process.
pub(crate) struct DemoMesh {
    settings: Settings,
    api: Api,
    api_address: SocketAddr,
    proxy_address: SocketAddr,
    control_plane: Child,
    pub(crate) gateway: Child,
    pub(crate) instances: BTreeMap<&'static str, Instance>,
    client: Option<Child>,
}

impl DemoMesh {
    /// Starts every process but the one that makes traffic.
    ///
    /// # Errors
    /// The first process that does not start, with its last words.
    pub(crate) async fn start(settings: Settings) -> Result<Self, DemoError> {
        std::fs::create_dir_all(settings.directory.join("logs")).map_err(DemoError::Directory)?;
        let (control_plane, api_address, proxy_address) = start_control_plane(&settings).await?;
        let api = connect(&settings, api_address)?;
        for text in [documents::SERVICES, documents::MESH, documents::V1_ONLY] {
            apply(&api, text).await?;
        }
        for account in ACCOUNTS {
            create_token(&api, &settings, account).await?;
        }
        let sidecars = Sidecars { settings: &settings, control_plane: proxy_address };
        let starting = ROLES.iter().map(|role| sidecars.start_instance(role));
        let (gateway, instances) = futures_util::future::try_join(
            sidecars.start_gateway(),
            futures_util::future::try_join_all(starting),
        )
        .await?;
        let instances = ROLES.iter().map(|role| role.instance).zip(instances).collect();
        Ok(Self {
            settings,
            api,
            api_address,
            proxy_address,
            control_plane,
            gateway,
            instances,
            client: None,
        })
    }

    /// The control plane's API.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// How many processes run.
    pub(crate) fn processes(&self) -> usize {
        2 + 2 * self.instances.len() + usize::from(self.client.is_some())
    }

    /// Where the caller's proxy takes requests.
    ///
    /// # Errors
    /// The proxy did not say.
    pub(crate) fn entrance(&self) -> Result<SocketAddr, DemoError> {
        address(&self.gateway, "outbound")
    }

    /// Where the sidecar of an instance takes connections from other sidecars.
    ///
    /// # Errors
    /// There is no such instance.
    pub(crate) fn inbound(&self, instance: &str) -> Result<SocketAddr, DemoError> {
        let instance = self.instances.get(instance).ok_or_else(|| DemoError::Gone(instance.to_owned()))?;
        address(&instance.sidecar, "inbound")
    }

    /// Waits until a request finds its way through every service.
    ///
    /// # Errors
    /// None does within twenty seconds; how the last one ended is in the error.
    pub(crate) async fn wait_until_serving(&self) -> Result<(), DemoError> {
        self.wait_for_endpoints().await?;
        let way = Api::of(self.entrance()?, "web.shop");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            match way.get::<Value>("/").await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(DemoError::Unexpected(format!("no request gets through the mesh: {error}")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await, // polls, with a deadline
            }
        }
    }

    /// Waits until the control plane tells callers of every instance.
    async fn wait_for_endpoints(&self) -> Result<(), DemoError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let services: Vec<ServiceStatus> = self.api.list("/v1/services").await?;
            let endpoints = services.iter().flat_map(|service| &service.endpoints);
            let ready = endpoints.filter(|endpoint| endpoint.healthy).count();
            if ready >= ROLES.len() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let (all, seconds) = (ROLES.len(), PATIENCE.as_secs());
                let text = format!("only {ready} of {all} instances are healthy after {seconds} s");
                return Err(DemoError::Unexpected(text));
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // polls a condition that has a deadline
        }
    }

    /// Starts constant traffic.
    ///
    /// # Errors
    /// The client does not start.
    pub(crate) async fn start_traffic(&mut self) -> Result<(), DemoError> {
        let entrance = self.entrance()?.to_string();
        let rps = self.settings.rps.to_string();
        let arguments = ["demo-client", "--through", &entrance, "--host", "web.shop", "--rps", &rps];
        self.client = Some(Child::start("client", &owned(&arguments), &self.logs()).await?);
        Ok(())
    }

    /// What the client counted since the last mark: `peek`, `mark` or `stop`.
    ///
    /// # Errors
    /// The client does not answer.
    pub(crate) async fn account(&mut self, command: &str) -> Result<Account, DemoError> {
        let client = self.client.as_mut().ok_or_else(|| DemoError::Gone("client".to_owned()))?;
        let answer = client.ask(command).await?;
        serde_json::from_value(answer)
            .map_err(|error| DemoError::Unexpected(format!("the client's account: {error}")))
    }

    /// Tells an application how to behave.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) async fn tell(&mut self, instance: &str, command: &str) -> Result<(), DemoError> {
        let found = self.instances.get_mut(instance).ok_or_else(|| DemoError::Gone(instance.to_owned()))?;
        Ok(found.app.tell(command).await?)
    }

    /// Applies documents and waits until every proxy runs them; says how long that took.
    ///
    /// # Errors
    /// They are refused, or a proxy does not take them.
    pub(crate) async fn apply(&self, text: &str) -> Result<Duration, DemoError> {
        let since = tokio::time::Instant::now();
        apply(&self.api, text).await?;
        self.wait_for("every proxy to run the new policy", |proxies| {
            proxies.iter().filter(|proxy| proxy.connected).all(|proxy| proxy.up_to_date)
        })
        .await?;
        Ok(since.elapsed())
    }

    /// Kills an instance, application and sidecar at once, without a warning.
    pub(crate) async fn kill_instance(&mut self, instance: &str) {
        if let Some(mut gone) = self.instances.remove(instance) {
            futures_util::future::join(gone.sidecar.kill(), gone.app.kill()).await;
        }
    }

    /// Starts a killed instance anew.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn start_instance(&mut self, name: &'static str) -> Result<(), DemoError> {
        let role = ROLES.iter().find(|role| role.instance == name);
        let role = role.ok_or_else(|| DemoError::Gone(name.to_owned()))?;
        let sidecars = Sidecars { settings: &self.settings, control_plane: self.proxy_address };
        let instance = sidecars.start_instance(role).await?;
        self.instances.insert(name, instance);
        Ok(())
    }

    /// Kills the control plane without a warning.
    pub(crate) async fn kill_control_plane(&mut self) {
        self.control_plane.kill().await;
    }

    /// Starts the control plane again where it was.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn start_control_plane(&mut self) -> Result<(), DemoError> {
        let arguments = control_plane_arguments(&self.settings, self.api_address, self.proxy_address);
        self.control_plane = Child::start("control-plane", &arguments, &self.logs()).await?;
        Ok(())
    }

    /// Waits until what the control plane says of the proxies satisfies the condition.
    ///
    /// # Errors
    /// It does not in time.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        holds: impl Fn(&[ProxyStatus]) -> bool,
    ) -> Result<(), DemoError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let proxies: Vec<ProxyStatus> = self.api.list("/v1/proxies").await?;
            if holds(&proxies) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(DemoError::Unexpected(format!(
                    "waited {} s in vain for {what}",
                    PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await; // polls a condition that has a deadline
        }
    }

    /// Ends every process and waits until it is gone.
    pub(crate) async fn end(mut self) {
        let children = self.instances.values_mut().flat_map(|i| [&mut i.app, &mut i.sidecar]);
        let children =
            children.chain([&mut self.gateway, &mut self.control_plane]).chain(self.client.as_mut());
        futures_util::future::join_all(children.map(Child::kill)).await;
    }

    fn logs(&self) -> PathBuf {
        self.settings.directory.join("logs")
    }
}

/// Starts instances; what they need to know.
struct Sidecars<'a> {
    settings: &'a Settings,
    control_plane: SocketAddr,
}

impl Sidecars<'_> {
    async fn start_instance(&self, role: &Role) -> Result<Instance, DemoError> {
        let logs = self.settings.directory.join("logs");
        let mut arguments = vec!["demo-app", "--service", role.app, "--version", role.version];
        arguments.extend(["--instance", role.instance]);
        if let Some(next) = role.next {
            arguments.extend(["--next", next]);
        }
        let mut app = Child::start(role.instance, &owned(&arguments), &logs).await?;
        let served = format!("{PORT}={}", app.ready_text("address")?);
        let mut arguments = self.arguments(role.service, role.account);
        arguments.extend(owned(&["--app", &served]));
        let sidecar = Child::start(&format!("{}-sidecar", role.instance), &arguments, &logs).await?;
        app.tell(&format!("outbound {}", address(&sidecar, "outbound")?)).await?;
        Ok(Instance { app, sidecar })
    }

    async fn start_gateway(&self) -> Result<Child, DemoError> {
        let logs = self.settings.directory.join("logs");
        Ok(Child::start("gateway-sidecar", &self.arguments("gateway", "gateway"), &logs).await?)
    }

    fn arguments(&self, service: &str, account: &str) -> Vec<String> {
        let token = token_file(self.settings, account).display().to_string();
        let control_plane = self.control_plane.to_string();
        let spans = format!("http://{}", self.settings.spans);
        owned(&[
            "proxy",
            "--namespace",
            NAMESPACE,
            "--service",
            service,
            "--service-account",
            account,
            "--control-plane",
            &control_plane,
            "--join-token-file",
            &token,
            "--outbound",
            "127.0.0.1:0",
            "--inbound",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--otlp-endpoint",
            &spans,
        ])
    }
}

async fn start_control_plane(settings: &Settings) -> Result<(Child, SocketAddr, SocketAddr), DemoError> {
    let logs = settings.directory.join("logs");
    let mut tries = 1;
    loop {
        let (api, proxies) = (lasting_port()?, lasting_port()?);
        match Child::start("control-plane", &control_plane_arguments(settings, api, proxies), &logs).await {
            Ok(child) => return Ok((child, api, proxies)),
            // Another program may have taken a port between the choice and the start.
            Err(ChildError::NotReady { .. }) if tries < PORT_TRIES && (taken(api) || taken(proxies)) => {
                tries += 1
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn control_plane_arguments(settings: &Settings, api: SocketAddr, proxies: SocketAddr) -> Vec<String> {
    let data = data_dir(settings).display().to_string();
    let ttl = format!("{}ms", settings.svid_ttl.as_millis());
    let (api, proxies) = (api.to_string(), proxies.to_string());
    owned(&[
        "control-plane",
        "--data-dir",
        &data,
        "--api-listen",
        &api,
        "--proxy-listen",
        &proxies,
        "--svid-ttl",
        &ttl,
    ])
}

fn data_dir(settings: &Settings) -> PathBuf {
    settings.directory.join("control-plane")
}

fn token_file(settings: &Settings, account: &str) -> PathBuf {
    settings.directory.join(format!("{account}.token"))
}

fn connect(settings: &Settings, address: SocketAddr) -> Result<Api, DemoError> {
    let api = format!("http://{address}").parse().map_err(|e| DemoError::Unexpected(format!("{e}")))?;
    let token_file = Some(data_dir(settings).join(ADMIN_TOKEN));
    Ok(Api::new(&ApiArgs { api, token_file, actor: None })?)
}

async fn apply(api: &Api, text: &str) -> Result<Value, ApiError> {
    api.call(Method::POST, "/v1/apply", Some(Body::yaml(text.to_owned()))).await
}

async fn create_token(api: &Api, settings: &Settings, account: &str) -> Result<(), DemoError> {
    let wanted = json!({"namespace": NAMESPACE, "serviceAccount": account, "ttl": "1h"});
    let answer: Value = api.call(Method::POST, "/v1/tokens", Some(Body::json(&wanted))).await?;
    let token =
        answer["token"].as_str().ok_or_else(|| DemoError::Unexpected("no token in the answer".to_owned()))?;
    outrigger_certs::files::write_atomic(&token_file(settings, account), token.as_bytes(), 0o600)
        .map_err(|error| DemoError::Unexpected(format!("cannot keep a join token: {error}")))?;
    Ok(())
}

fn address(child: &Child, field: &str) -> Result<SocketAddr, DemoError> {
    let text = child.ready_text(field)?;
    text.parse().map_err(|_| DemoError::Unexpected(format!("{field} of a ready line is {text:?}")))
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

/// A free loopback port outside the range from which the kernel takes ports for outgoing connections, so that
/// none of those takes it while the control plane is away.
fn lasting_port() -> Result<SocketAddr, DemoError> {
    let mut last = std::io::Error::other("no port tried");
    for _ in 0..200 {
        let port = rand::rngs::ThreadRng::default().random_range(10_000..ephemeral_start().max(10_100));
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            Err(error) => last = error,
        }
    }
    Err(DemoError::Port(last))
}

fn ephemeral_start() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|start| start.parse().ok()).unwrap_or(32_768)
}

fn taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err()
}
