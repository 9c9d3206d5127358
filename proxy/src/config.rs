//! What one proxy is told to do, checked.
//!
//! [`ProxyArgs`] and the YAML file of `--config` hold text; [`ProxyConfig::try_from`] makes of both what cannot be
//! wrong any more, and reports every problem with the flag or field that it comes from. Flags and environment win
//! over the file, the file over the defaults.

mod limits;
mod parse;
mod settings;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_api::ServiceName;

pub use limits::Limits;

use crate::access_log::AccessLogMode;
use crate::args::ProxyArgs;
use crate::health::{Check, CheckKind};
use crate::snapshot::Protocol;
use settings::Settings;

/// Everything that a proxy needs to know at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig {
    /// Of the workload.
    pub namespace: String,
    /// What the workload is an instance of; always there if it has [`ProxyConfig::apps`].
    pub service: Option<ServiceName>,
    /// The last part of its identity.
    pub service_account: String,
    /// Ports of the service, by port number; empty for a workload that only calls others.
    pub apps: Vec<AppPort>,
    /// Local ports that lead to one service port.
    pub listens: Vec<Listen>,
    /// `HOST:PORT` of the control plane.
    pub control_plane: String,
    /// Holds the join token.
    pub join_token_file: Option<PathBuf>,
    /// Keeps the last good policy.
    pub state_dir: Option<PathBuf>,
    /// Key and certificate are kept in the state directory, too.
    pub persist_identity: bool,
    /// Where the workload's own calls come in.
    pub outbound: SocketAddr,
    /// Where other proxies come in.
    pub inbound: SocketAddr,
    /// The inbound address as others see it; `None`: to be found out.
    pub advertise: Option<SocketAddr>,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// Threads that serve requests, 1 to 256.
    pub workers: NonZeroUsize,
    /// Empty where unknown.
    pub zone: String,
    /// How long a shutdown waits for requests under way.
    pub drain_timeout: Duration,
    /// Who is asked for hosts outside the mesh; `None`: whom the machine asks.
    pub dns: Option<SocketAddr>,
    /// More certificate authorities that prove servers outside the mesh.
    pub outside_roots: Option<PathBuf>,
    /// Holds the certificates that a gateway proves itself by.
    pub certificates: Option<PathBuf>,
    /// `http://HOST:PORT` of a collector, unless the mesh names another.
    pub otlp_endpoint: Option<String>,
    /// Overrides the mesh's share of sampled traces, 0 to 1.
    pub sampling: Option<f64>,
    /// Whether and where requests are logged.
    pub access_log: AccessLogMode,
    /// Bounds on what callers may do.
    pub limits: Limits,
}

/// One port of the service and the application behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPort {
    /// The service's port.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Where the application listens.
    pub address: SocketAddr,
    /// How it is seen to be healthy.
    pub health: CheckKind,
}

impl AppPort {
    /// The question that its application must answer to be healthy.
    pub fn check(&self) -> Check {
        Check { address: self.address, kind: self.health.clone() }
    }
}

/// A local port that leads to one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where the workload connects to.
    pub address: SocketAddr,
    /// Where that leads.
    pub service: ServiceName,
    /// Which of its ports.
    pub port: u16,
    /// What comes in comes from outside the mesh, and the service is a gateway.
    pub gateway: bool,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One text for each problem: where it is, what it is, what to write instead.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => f.write_str(problem),
            problems => {
                write!(f, "{} problems in the proxy's configuration", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl ProxyConfig {
    /// The name that the workload's telemetry bears: its service, or its service account if it has none.
    pub fn telemetry_name(&self) -> &str {
        self.service.as_ref().map_or(&self.service_account, |service| service.name())
    }

    /// For `/config` and bug reports. Holds no secret: a token is only named by its file.
    pub fn describe(&self) -> serde_json::Value {
        let apps = self.apps.iter().map(|app| {
            serde_json::json!({
                "port": app.port,
                "protocol": parse::protocol_name(app.protocol),
                "address": app.address,
                "health": parse::check_name(&app.health),
            })
        });
        let listens = |gateway: bool| -> Vec<serde_json::Value> {
            let listens = self.listens.iter().filter(|listen| listen.gateway == gateway);
            let describe = |listen: &Listen| {
                serde_json::json!({
                    "address": listen.address,
                    "service": listen.service.to_string(),
                    "port": listen.port,
                })
            };
            listens.map(describe).collect()
        };
        let gateway = self.gateway().map(gateway_name);
        serde_json::json!({
            "namespace": self.namespace,
            "service": self.service.as_ref().map(|service| service.name()),
            "serviceAccount": self.service_account,
            "app": apps.collect::<Vec<_>>(),
            "listen": listens(false),
            "gateway": gateway,
            "gatewayListen": listens(true),
            "controlPlane": self.control_plane,
            "joinTokenFile": self.join_token_file,
            "stateDir": self.state_dir,
            "persistIdentity": self.persist_identity,
            "outbound": self.outbound,
            "inbound": self.inbound,
            "advertise": self.advertise,
            "admin": self.admin,
            "workers": self.workers,
            "zone": self.zone,
            "drainTimeout": parse::duration_text(self.drain_timeout),
            "dns": self.dns,
            "outsideRoots": self.outside_roots,
            "certificates": self.certificates,
            "otlpEndpoint": self.otlp_endpoint,
            "sampling": self.sampling,
            "accessLog": parse::access_log_name(&self.access_log),
            "limits": self.limits.describe(),
        })
    }
}

impl TryFrom<ProxyArgs> for ProxyConfig {
    type Error = ConfigError;

    /// Reads the file of `--config`, if one is named, and checks everything.
    fn try_from(args: ProxyArgs) -> Result<Self, ConfigError> {
        let mut settings = Settings::gather(&args);
        let config = read(&mut settings);
        check(&config, &mut settings);
        settings.finish(config)
    }
}

/// Reads every field. What is wrong is reported to `settings` and has its default here.
fn read(settings: &mut Settings) -> ProxyConfig {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let namespace = settings.required("namespace", parse::label, "the namespace of the workload");
    let service = settings.one("service", parse::label);
    let service_account = settings.required(
        "service-account",
        parse::subdomain,
        "the service account that the join token was made for",
    );
    let mut apps = settings.many("app", parse::app);
    for (port, health) in settings.many("health", parse::health) {
        match apps.iter_mut().find(|app| app.port == port) {
            Some(app) => app.health = health,
            None => settings.problem("health", &format!("port {port} is not one of --app")),
        }
    }
    apps.sort_by_key(|app| app.port);
    let mut limits = Limits::read(settings);
    if let Some(detect) = settings.one("detect-timeout", parse::duration) {
        limits.detect_timeout = detect;
    }
    let listens = listens(settings, &namespace);
    ProxyConfig {
        service: service.and_then(|name| ServiceName::new(&namespace, &name).ok()),
        namespace,
        service_account,
        apps,
        listens,
        control_plane: settings
            .one("control-plane", parse::host_and_port)
            .unwrap_or_else(|| "127.0.0.1:4781".to_owned()),
        join_token_file: settings.one("join-token-file", parse::path),
        state_dir: settings.one("state-dir", parse::path),
        persist_identity: settings.one("persist-identity", parse::yes_or_no).unwrap_or(false),
        outbound: settings.one("outbound", parse::socket_address).unwrap_or(local(4740)),
        inbound: settings
            .one("inbound", parse::socket_address)
            .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4743))),
        advertise: settings.one("advertise", parse::reachable_address),
        admin: settings.one("admin", parse::socket_address).unwrap_or(local(4791)),
        workers: settings.one("workers", parse::workers).unwrap_or(NonZeroUsize::MIN),
        zone: settings.one("zone", parse::zone).unwrap_or_default(),
        drain_timeout: settings.one("drain-timeout", parse::duration).unwrap_or(Duration::from_secs(30)),
        dns: settings.one("dns", parse::reachable_address),
        outside_roots: settings.one("outside-roots", parse::path),
        certificates: settings.one("certificates", parse::path),
        otlp_endpoint: settings.one("otlp-endpoint", parse::otlp_endpoint),
        sampling: settings.one("sampling", parse::ratio),
        access_log: settings.one("access-log", parse::access_log).unwrap_or_default(),
        limits,
    }
}

impl ProxyConfig {
    /// The gateway that the proxy serves, as the service that it is to the control plane.
    pub fn gateway(&self) -> Option<&ServiceName> {
        self.gateway_listens().next().map(|listen| &listen.service)
    }

    /// Where the proxy takes connections in from outside.
    pub(crate) fn gateway_listens(&self) -> impl Iterator<Item = &Listen> {
        self.listens.iter().filter(|listen| listen.gateway)
    }
}

/// To the control plane a gateway is a service with this before its name.
const GATEWAY_PREFIX: &str = "gateway--";

/// The name of the gateway that is this service to the control plane.
pub(crate) fn gateway_name(service: &ServiceName) -> &str {
    service.name().strip_prefix(GATEWAY_PREFIX).unwrap_or(service.name())
}

/// The gateway's own first, so that each has its place among the workers' TLS configurations.
fn listens(settings: &mut Settings, namespace: &str) -> Vec<Listen> {
    let name = settings.one("gateway", parse::label);
    let gateway = name.and_then(|name| ServiceName::new(namespace, &format!("{GATEWAY_PREFIX}{name}")).ok());
    let places = settings.many("gateway-listen", parse::gateway_listen);
    match (&gateway, places.is_empty()) {
        (Some(_), true) => settings.problem("gateway-listen", "is required with --gateway: where to listen"),
        (None, false) => settings.problem("gateway", "is required with --gateway-listen: the Gateway's name"),
        _ => {}
    }
    let own = places.into_iter().filter_map(|(address, port)| {
        Some(Listen { address, service: gateway.clone()?, port, gateway: true })
    });
    own.chain(settings.many("listen", parse::listen)).collect()
}

/// What no field can be wrong about alone.
fn check(config: &ProxyConfig, settings: &mut Settings) {
    if settings.was_given("app") && !settings.was_given("service") {
        settings
            .problem("service", "is required with --app: the service that the application is an instance of");
    }
    if config.persist_identity && config.state_dir.is_none() {
        settings.problem("persist-identity", "needs --state-dir, the directory to keep the identity in");
    }
    if !settings.was_given("join-token-file") && !config.persist_identity {
        settings.problem(
            "join-token-file",
            "is required: make a token with `outrigger token create` (or keep an identity with --persist-identity)",
        );
    }
    for (index, app) in config.apps.iter().enumerate().skip(1) {
        if config.apps[index - 1].port == app.port {
            settings.problem("app", &format!("port {} is given twice", app.port));
        }
    }
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    let listens = config.listens.iter().map(|listen| ("listen", listen.address));
    let own = [("outbound", config.outbound), ("inbound", config.inbound), ("admin", config.admin)];
    for (field, address) in own.into_iter().chain(listens) {
        if let Some((other, at)) = taken.iter().find(|(_, at)| clash(*at, address)) {
            settings
                .problem(field, &format!("{address} is taken: {} listens on {at}", settings::flag(other)));
        }
        taken.push((field, address));
    }
}

/// Whether two listeners cannot both be had. Port 0 means any free one.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || any(one.ip()) || any(other.ip()))
}

#[cfg(test)]
mod tests;
