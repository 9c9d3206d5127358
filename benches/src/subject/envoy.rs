//! Two Envoys, configured as a service mesh configures its sidecars.
//!
//! Per port of the service there is a listener on each side, all on free ports of loopback, which the admin
//! interface tells: so the service's side is started first. HTTP is routed by authority, with a deadline and retries
//! on the caller's side and access control by identity on the service's; opaque bytes go through `tcp_proxy`, which
//! makes a connection upstream for each one downstream. Circuit breakers are out of the way, spans go to the
//! collector, and everything else is Envoy's default: cipher suites, session tickets, buffers, windows.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::collector::Collector;
use super::pki::{CALLER, Name, Pki, SERVICE};
use super::{Between, Entries, Held, Running, Setup, Upstreams, entry};
use crate::process::Process;

/// How long an Envoy may take until it has read its configuration.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where none is reached by any case: a limit that is would measure itself.
const OUT_OF_THE_WAY: u32 = 16_384;

/// One port of the service: what arrives there, and where that goes.
#[derive(Debug, Clone, Copy)]
struct Port {
    name: &'static str,
    upstream: SocketAddr,
    /// How the upstream is spoken to; `None` is opaque.
    speaks: Option<Between>,
    /// What the two sides speak to each other; `None` is opaque.
    between: Option<Between>,
}

impl Port {
    /// Those of the caller's side, whose upstream is the other side.
    fn outbound(upstreams: [SocketAddr; 3], between: Between) -> [Self; 3] {
        Self::inbound(upstreams, between).map(|port| Self { speaks: port.between, ..port })
    }

    /// Those of the service's side, whose upstreams are the applications.
    fn inbound([http1, http2, tcp]: [SocketAddr; 3], between: Between) -> [Self; 3] {
        let port = |name, upstream, speaks, between| Self { name, upstream, speaks, between };
        [
            port("http1", http1, Some(Between::Http1), Some(between)),
            port("http2", http2, Some(Between::Http2), Some(Between::Http2)),
            port("tcp", tcp, None, None),
        ]
    }
}

pub(super) fn start(
    program: &Path,
    between: Between,
    setup: &Setup,
    upstreams: &Upstreams,
) -> Result<Running> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let collector = Collector::start()?;
    let files = Files { pki: Pki::create(directory.path())?, collector: collector.address };
    let launcher = Launcher { program, workers: setup.workers, directory: directory.path() };
    let since = Instant::now();
    let applications = [upstreams.http1, upstreams.http2, upstreams.tcp];
    let service = service_side(&files, setup.sampling, &Port::inbound(applications, between));
    let (service, inbound) = launcher.start("service", &service)?;
    let inbound = [inbound.of("http1")?, inbound.of("http2")?, inbound.of("tcp")?];
    let caller = caller_side(&files, setup.sampling, &Port::outbound(inbound, between));
    let (caller, outbound) = launcher.start("caller", &caller)?;
    let entries = Entries {
        http1: entry(outbound.of("http1")?),
        http2: entry(outbound.of("http2")?),
        tcp: outbound.of("tcp")?,
        since,
    };
    let held = Held { processes: Vec::new(), collector: Some(collector), directory: Some(directory) };
    Running::pair(entries, caller, service, held)
}

/// What both configurations refer to.
struct Files {
    pki: Pki,
    collector: SocketAddr,
}

struct Launcher<'a> {
    program: &'a Path,
    workers: usize,
    directory: &'a Path,
}

impl Launcher<'_> {
    /// Starts it and waits until it tells where it listens.
    fn start(&self, name: &str, configuration: &Value) -> Result<(Process, Listeners)> {
        let file = self.directory.join(format!("{name}.json"));
        fs::write(&file, serde_json::to_vec_pretty(configuration)?).context("the configuration")?;
        let admin = self.directory.join(format!("{name}.admin"));
        let mut command = Command::new(self.program);
        command
            .args(["--concurrency", &self.workers.to_string()])
            .args(["--log-level", "warning", "--disable-hot-restart"])
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut process = Process::spawn(name, command, self.directory)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            process.check()?;
            let listeners = fs::read_to_string(&admin).ok().and_then(|address| {
                let answer = ask(address.trim().parse().ok()?)?;
                Listeners::parse(&answer, configuration)
            });
            match listeners {
                Some(listeners) => return Ok((process, listeners)),
                None if Instant::now() > deadline => {
                    return Err(process.failure(&format!("did not listen within {PATIENCE:?}")));
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// What the admin interface says of its listeners.
fn ask(admin: SocketAddr) -> Option<Value> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream
        .write_all(b"GET /listeners?format=json HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).ok()?;
    // The body may come in chunks; all that is not JSON around it is their lengths.
    let (from, to) = (answer.find('{')?, answer.rfind('}')?);
    serde_json::from_str(answer.get(from..=to)?).ok()
}

/// Where each listener came to be.
#[derive(Debug)]
struct Listeners(Vec<(String, SocketAddr)>);

impl Listeners {
    /// `None` while one of them is missing.
    fn parse(answer: &Value, configuration: &Value) -> Option<Self> {
        let mut found = Vec::new();
        for status in answer.get("listener_statuses")?.as_array()? {
            let address = status.pointer("/local_address/socket_address")?;
            let port = u16::try_from(address.get("port_value")?.as_u64()?).ok().filter(|port| *port > 0)?;
            let address = address.get("address")?.as_str()?.parse().ok()?;
            found.push((status.get("name")?.as_str()?.to_owned(), SocketAddr::new(address, port)));
        }
        let wanted = configuration.pointer("/static_resources/listeners")?.as_array()?.len();
        (found.len() == wanted).then_some(Self(found))
    }

    fn of(&self, name: &str) -> Result<SocketAddr> {
        match self.0.iter().find(|(found, _)| found == name) {
            Some((_, address)) => Ok(*address),
            None => bail!("Envoy has no listener {name}"),
        }
    }
}

/// Takes the workload's calls in plaintext, and sends them to the service's side over mTLS.
fn caller_side(files: &Files, sampling: f64, ports: &[Port]) -> Value {
    let retries = json!({
        "retry_on": "connect-failure,refused-stream,reset,5xx",
        "num_retries": 2,
    });
    let listeners = ports.iter().map(|port| {
        let filters = match port.speaks {
            Some(_) => vec![http(port.name, sampling, &[SERVICE.dns], Some(&retries), &[])],
            None => vec![tcp(port.name)],
        };
        listener(port.name, json!([{ "filters": filters }]))
    });
    let clusters = ports.iter().map(|port| {
        let alpn = port.between.map(Between::alpn);
        let tls = tls("UpstreamTlsContext", &files.pki.caller, &files.pki.ca, SERVICE, alpn, &json!({}));
        cluster(port, Some(&json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls })))
    });
    bootstrap("caller", files, listeners.collect(), clusters.collect())
}

/// Takes calls over mTLS from the one caller that may, and sends them to the applications in plaintext.
fn service_side(files: &Files, sampling: f64, ports: &[Port]) -> Value {
    let listeners = ports.iter().map(|port| {
        let access = |filter: &str, kind: &str| access(filter, kind, CALLER);
        let filters = match port.speaks {
            Some(_) => {
                let access = access("envoy.filters.http.rbac", "http.rbac.v3.RBAC");
                vec![http(port.name, sampling, &["*"], None, &[access])]
            }
            None => {
                let mut access = access("envoy.filters.network.rbac", "network.rbac.v3.RBAC");
                access["typed_config"]["stat_prefix"] = json!(port.name);
                vec![access, tcp(port.name)]
            }
        };
        let alpn = port.between.map(Between::alpn);
        let required = json!({ "require_client_certificate": true });
        let tls = tls("DownstreamTlsContext", &files.pki.service, &files.pki.ca, CALLER, alpn, &required);
        let chain = json!([{
            "filters": filters,
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
        }]);
        listener(port.name, chain)
    });
    let clusters = ports.iter().map(|port| cluster(port, None));
    bootstrap("service", files, listeners.collect(), clusters.collect())
}

fn bootstrap(name: &str, files: &Files, listeners: Vec<Value>, mut clusters: Vec<Value>) -> Value {
    let speaks = Some(Between::Http2);
    let collector = Port { name: "collector", upstream: files.collector, speaks, between: None };
    clusters.push(cluster(&collector, None));
    json!({
        "node": { "id": name, "cluster": name },
        "admin": { "address": address("127.0.0.1:0".parse().ok()) },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn listener(name: &str, chains: Value) -> Value {
    json!({ "name": name, "address": address(None), "filter_chains": chains })
}

/// A free port of loopback where there is none.
fn address(of: Option<SocketAddr>) -> Value {
    let (ip, port) = of.map_or_else(|| ("127.0.0.1".to_owned(), 0), |of| (of.ip().to_string(), of.port()));
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

/// Serves HTTP of either version, as the caller speaks it.
fn http(port: &str, sampling: f64, domains: &[&str], retries: Option<&Value>, filters: &[Value]) -> Value {
    let mut route = json!({ "cluster": port, "timeout": "15s" });
    if let Some(retries) = retries {
        route["retry_policy"] = retries.clone();
    }
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": kind("extensions.filters.http.router.v3.Router") },
    });
    let filters = [filters, &[router]].concat();
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": port,
            "codec_type": "AUTO",
            "tracing": {
                "provider": {
                    "name": "envoy.tracers.opentelemetry",
                    "typed_config": {
                        "@type": kind("config.trace.v3.OpenTelemetryConfig"),
                        "grpc_service": { "envoy_grpc": { "cluster_name": "collector" }, "timeout": "1s" },
                        "service_name": port,
                    },
                },
                "random_sampling": { "value": sampling * 100.0 },
            },
            "route_config": {
                "name": port,
                "virtual_hosts": [{
                    "name": port,
                    "domains": domains,
                    "routes": [{ "match": { "prefix": "/" }, "route": route }],
                }],
            },
            "http_filters": filters,
        },
    })
}

fn tcp(port: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": kind("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": port,
            "cluster": port,
        },
    })
}

/// Allows whom the certificate names so, and nobody else.
fn access(filter: &str, kind_of: &str, who: Name) -> Value {
    json!({
        "name": filter,
        "typed_config": {
            "@type": kind(&format!("extensions.filters.{kind_of}")),
            "rules": {
                "action": "ALLOW",
                "policies": {
                    "caller": {
                        "permissions": [{ "any": true }],
                        "principals": [{ "authenticated": { "principal_name": { "exact": who.uri } } }],
                    },
                },
            },
        },
    })
}

fn cluster(port: &Port, transport: Option<&Value>) -> Value {
    let mut cluster = json!({
        "name": port.name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": OUT_OF_THE_WAY,
            "max_pending_requests": OUT_OF_THE_WAY,
            "max_requests": OUT_OF_THE_WAY,
        }] },
        "load_assignment": {
            "cluster_name": port.name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(Some(port.upstream)) } }] }],
        },
    });
    if let Some(speaks) = port.speaks {
        let options = match speaks {
            Between::Http1 => "http_protocol_options",
            Between::Http2 => "http2_protocol_options",
        };
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": kind("extensions.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { options: {} },
            },
        });
    }
    if let Some(transport) = transport {
        cluster["transport_socket"] = transport.clone();
    }
    cluster
}

/// TLS 1.3 with the certificate in `own`, for a peer whose certificate is signed by `ca` and names `peer`.
fn tls(context: &str, own: &Path, ca: &Path, peer: Name, alpn: Option<&str>, more: &Value) -> Value {
    let mut common = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": own },
            "private_key": { "filename": own },
        }],
        "validation_context": {
            "trusted_ca": { "filename": ca },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer.uri } }],
        },
    });
    if let Some(alpn) = alpn {
        common["alpn_protocols"] = json!([alpn]);
    }
    let mut tls = more.clone();
    tls["@type"] = json!(kind(&format!("extensions.transport_sockets.tls.v3.{context}")));
    tls["common_tls_context"] = common;
    tls
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams() -> [SocketAddr; 3] {
        ["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"].map(|upstream| upstream.parse().unwrap())
    }

    fn files(directory: &Path) -> Files {
        Files { pki: Pki::create(directory).unwrap(), collector: "127.0.0.1:8".parse().unwrap() }
    }

    fn all<'a>(configuration: &'a Value, of: &str) -> Vec<&'a Value> {
        configuration["static_resources"][of].as_array().unwrap().iter().collect()
    }

    #[test]
    fn each_side_authenticates_the_other_by_its_own_name_on_every_port() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let expects = |tls: &Value, peer: Name| {
            let common = &tls["typed_config"]["common_tls_context"];
            assert_eq!(common["tls_params"]["tls_minimum_protocol_version"], "TLSv1_3");
            let names = &common["validation_context"]["match_typed_subject_alt_names"];
            assert_eq!(names[0]["matcher"]["exact"], peer.uri);
            assert!(common["validation_context"]["trusted_ca"]["filename"].is_string());
        };
        let service = service_side(&files, 0.01, &Port::inbound(upstreams(), Between::Http2));
        assert_eq!(all(&service, "listeners").len(), 3);
        for listener in all(&service, "listeners") {
            let chain = &listener["filter_chains"][0];
            assert_eq!(chain["transport_socket"]["typed_config"]["require_client_certificate"], true);
            expects(&chain["transport_socket"], CALLER);
            let text = chain["filters"].to_string();
            assert!(text.contains(".rbac") && text.contains(CALLER.uri), "no rule of access: {text}");
        }
        let caller = caller_side(&files, 0.01, &Port::outbound(upstreams(), Between::Http2));
        for cluster in all(&caller, "clusters") {
            match cluster["name"].as_str().unwrap() {
                "collector" => assert!(cluster.get("transport_socket").is_none()),
                _ => expects(&cluster["transport_socket"], SERVICE),
            }
        }
    }

    #[test]
    fn what_is_spoken_between_the_two_is_what_both_agree_on() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        for (between, expected) in [(Between::Http1, ["http/1.1", "h2"]), (Between::Http2, ["h2", "h2"])] {
            let offered = caller_side(&files, 0.01, &Port::outbound(upstreams(), between));
            let accepted = service_side(&files, 0.01, &Port::inbound(upstreams(), between));
            let alpn = "/transport_socket/typed_config/common_tls_context/alpn_protocols/0";
            let offered = all(&offered, "clusters").into_iter().filter_map(|c| c.pointer(alpn));
            let accepted = all(&accepted, "listeners").into_iter();
            let accepted = accepted.filter_map(|l| l["filter_chains"][0].pointer(alpn));
            assert_eq!(offered.collect::<Vec<_>>(), expected);
            assert_eq!(accepted.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_ratio_of_spans_is_a_percentage_for_envoy() {
        let directory = tempfile::tempdir().unwrap();
        let caller =
            caller_side(&files(directory.path()), 0.25, &Port::outbound(upstreams(), Between::Http1));
        let manager = &all(&caller, "listeners")[0]["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["tracing"]["random_sampling"]["value"], 25.0);
    }

    #[test]
    fn listeners_are_known_when_all_of_them_have_a_port() {
        let status = |name: &str, port: u16| json!({ "name": name, "local_address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } });
        let configuration = json!({ "static_resources": { "listeners": [{}, {}] } });
        let parse =
            |statuses: &[Value]| Listeners::parse(&json!({ "listener_statuses": statuses }), &configuration);
        assert!(parse(&[status("http1", 1)]).is_none(), "one is missing");
        assert!(parse(&[status("http1", 1), status("tcp", 0)]).is_none(), "one has no port yet");
        let listeners = parse(&[status("http1", 1), status("tcp", 2)]).unwrap();
        assert_eq!(listeners.of("tcp").unwrap().port(), 2);
        assert!(listeners.of("http2").is_err());
    }
}
