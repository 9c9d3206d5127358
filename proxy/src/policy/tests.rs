use std::time::Duration;

use http::{Request, StatusCode};
use outrigger_api::v1;

use super::*;
use crate::filter::Filter;
use crate::hash_key::HashKey;
use crate::rate_limit::Key;
use crate::snapshot::{BalancerKind, Target};

fn milliseconds(number: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: number / 1000, nanos: (number % 1000 * 1_000_000) as i32 })
}

fn name(namespace: &str, name: &str) -> Option<v1::ServiceName> {
    Some(v1::ServiceName { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn backend_policy() -> v1::BackendPolicy {
    v1::BackendPolicy {
        balancer: v1::LoadBalancer::LeastRequest as i32,
        connect_timeout: milliseconds(500),
        tls_timeout: milliseconds(1500),
        idle_timeout: milliseconds(60_000),
        max_connection_age: None,
        breaker: Some(v1::Breaker {
            consecutive_failures: 3,
            min_open: milliseconds(1000),
            max_open: milliseconds(2000),
            max_ejected_percent: 100,
            success_rate: Some(v1::SuccessRate {
                percent_of_peers: 60,
                interval: milliseconds(5000),
                min_requests: 10,
            }),
            panic_threshold_percent: 0,
        }),
        max_connections: 1,
        max_pending: 0,
        max_active: 2,
        retry_budget_percent: 20,
        retry_budget_per_second: 10,
        request_timeout: milliseconds(100),
        attempt_timeout: None,
        retry: Some(v1::Retry {
            attempts: 2,
            backoff: milliseconds(25),
            status_codes: vec![503],
            grpc_codes: vec![14],
            non_idempotent: true,
        }),
        zone_percent: 60,
        slow_start: milliseconds(30_000),
        retry_budget_window: milliseconds(60_000),
        http2: Some(v1::Http2 {
            max_streams: 100,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
        }),
        ..v1::BackendPolicy::default()
    }
}

fn routed_port() -> v1::ServicePort {
    let exact = |text: &str| Some(v1::value_match::Kind::Exact(text.to_owned()));
    let header = |name: &str, value: &str| v1::Header { name: name.to_owned(), value: value.to_owned() };
    v1::ServicePort {
        port: 80,
        name: "http".to_owned(),
        protocol: v1::Protocol::Http1 as i32,
        routed: true,
        matches: vec![v1::RouteMatch {
            rule: 0,
            path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/a/".to_owned())) }),
            headers: vec![v1::ValueMatch { name: "X-Version".to_owned(), kind: exact("2") }],
            query: vec![v1::ValueMatch { name: "q".to_owned(), kind: exact("1") }],
            method: "GET".to_owned(),
            hostnames: Vec::new(),
        }],
        rules: vec![v1::Rule {
            route: "shop/canary".to_owned(),
            name: "first".to_owned(),
            filters: vec![
                v1::Filter {
                    kind: Some(v1::filter::Kind::RequestHeaders(v1::HeaderModifier {
                        set: vec![header("X-Set", "1")],
                        add: vec![header("x-add", "2")],
                        remove: vec!["x-gone".to_owned()],
                    })),
                },
                v1::Filter { kind: Some(v1::filter::Kind::Unresolved("no such filter".to_owned())) },
            ],
            request_timeout: milliseconds(400),
            attempt_timeout: milliseconds(200),
            retry: None,
            backends: vec![
                v1::Backend {
                    weight: 90,
                    target: Some(v1::backend::Target::Service(v1::BackendService {
                        name: name("shop", "payments-v1"),
                        port: 8080,
                    })),
                    filters: vec![],
                },
                v1::Backend {
                    weight: 10,
                    target: Some(v1::backend::Target::Invalid("no such service".to_owned())),
                    filters: vec![],
                },
            ],
            rate_limits: vec![rate_limit()],
            ..v1::Rule::default()
        }],
        tcp_backends: vec![v1::Backend {
            weight: 1,
            target: Some(v1::backend::Target::Invalid("no such port".to_owned())),
            filters: vec![],
        }],
    }
}

fn rate_limit() -> v1::RateLimit {
    v1::RateLimit {
        id: "shop/limits/0 of rule shop/canary/first".to_owned(),
        policy: "shop/limits".to_owned(),
        name: "0".to_owned(),
        requests: 100,
        per: milliseconds(60_000),
        burst: 10,
        by: vec![v1::RateLimitKey {
            kind: v1::RateLimitKeyKind::Header as i32,
            header: "x-tenant".to_owned(),
            claim: vec![],
        }],
        matches: vec![v1::RouteMatch {
            path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/a".to_owned())) }),
            ..v1::RouteMatch::default()
        }],
        of_mesh: false,
        headers: true,
    }
}

fn payments() -> v1::Service {
    v1::Service {
        name: name("shop", "payments"),
        version: 7,
        ports: vec![routed_port(), v1::ServicePort { port: 81, ..v1::ServicePort::default() }],
        policy: Some(backend_policy()),
        addresses: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
        ..v1::Service::default()
    }
}

#[test]
fn a_service_is_read_whole() {
    let parts = service(&payments()).unwrap();
    assert_eq!(parts.name.to_string(), "payments.shop");
    assert_eq!(parts.version, 7);
    assert_eq!(parts.addresses, ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap()));

    let [routed, plain] = &parts.ports[..] else { panic!("{:?}", parts.ports) };
    assert_eq!((routed.port, routed.protocol), (80, Protocol::Http1));
    assert_eq!((plain.port, plain.protocol), (81, Protocol::Detect));
    assert!(plain.routes.is_none() && plain.tcp_backends.is_empty());
    assert!(matches!(routed.tcp_backends[0].target, Target::Invalid(_)));
    let table = routed.routes.as_ref().unwrap();
    let head = Request::get("/a/b?q=1").header("x-version", "2").body(()).unwrap().into_parts().0;
    let rule = table.find(&head).unwrap();
    assert_eq!((&*rule.route, &*rule.name), ("shop/canary", "first"));
    assert_eq!(rule.request_timeout, Some(Duration::from_millis(400)));
    assert_eq!(rule.attempt_timeout, Some(Duration::from_millis(200)));
    assert!(matches!(&rule.filters[..], [Filter::RequestHeaders(_), Filter::Unresolved(_)]));
    let limit = &rule.rate_limits.0[0];
    assert_eq!((&*limit.policy, &*limit.name, limit.told), ("shop/limits", "0", true));
    assert_eq!(limit.by, [Key::Header(http::HeaderName::from_static("x-tenant"))]);
    assert_eq!(limit.quota, "\"0\";q=100;w=60");
    let service = Target::Service { name: "payments-v1.shop".parse().unwrap(), port: 8080 };
    assert_eq!((rule.backends[0].weight, &rule.backends[0].target), (90, &service));
    assert!(matches!(rule.backends[1].target, Target::Invalid(_)));
}

#[test]
fn a_policy_is_read_whole() {
    let policy = service(&payments()).unwrap().policy;
    assert_eq!(policy.balancer, BalancerKind::LeastRequest);
    assert_eq!(policy.connect_timeout, Duration::from_millis(500));
    assert_eq!(policy.tls_timeout, Duration::from_millis(1500));
    assert_eq!(policy.max_connection_age, None);
    assert_eq!((policy.max_connections, policy.max_pending, policy.max_active), (1, 0, 2));
    assert_eq!(policy.request_timeout, Some(Duration::from_millis(100)));
    let budget = (policy.retry_budget_window, policy.retry_budget_interval);
    assert_eq!(budget, (Duration::from_secs(60), Duration::from_secs(1)));
    let breaker = policy.breaker.as_ref().unwrap();
    assert_eq!((breaker.consecutive_failures, breaker.max_ejected_percent), (3, 100));
    assert_eq!((breaker.outlier.unwrap().min_requests, breaker.panic_percent), (10, 0));
    assert_eq!((policy.zone_percent, policy.slow_start), (Some(60), Some(Duration::from_secs(30))));
    let retry = policy.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, retry.non_idempotent), (2, true));
    assert_eq!((&retry.status[..], &retry.grpc[..]), (&[StatusCode::SERVICE_UNAVAILABLE][..], &[14][..]));
}

#[test]
fn what_is_hashed_is_read_or_refused_with_its_field() {
    let with = |balancer: v1::LoadBalancer, key: Option<v1::hash::Key>, max_load_percent: u32| {
        let mut raw = payments();
        let policy = raw.policy.as_mut().unwrap();
        policy.balancer = balancer as i32;
        policy.hash = Some(v1::Hash { key, max_load_percent });
        service(&raw)
            .map_err(|error| error.problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>())
    };
    let header = |name: &str| Some(v1::hash::Key::Header(name.to_owned()));
    let cookie = |name: &str, path: &str| {
        let (name, path) = (name.to_owned(), path.to_owned());
        Some(v1::hash::Key::Cookie(v1::Cookie { name, path, ttl: milliseconds(1000) }))
    };
    let hash = with(v1::LoadBalancer::Hash, header("X-User"), 125).unwrap().policy.hash.clone().unwrap();
    assert_eq!(hash.max_load_percent, Some(125));
    assert!(matches!(hash.key, HashKey::Header(name) if name == "x-user"));
    assert!(with(v1::LoadBalancer::Hash, cookie("user", "/"), 0).is_ok());
    for (balancer, key, max_load_percent, field) in [
        (v1::LoadBalancer::PeakEwma, header("x-user"), 0, ""),
        (v1::LoadBalancer::Hash, header("x user"), 0, ".header"),
        (v1::LoadBalancer::Hash, cookie("user", "/\n"), 0, ".cookie"),
        (v1::LoadBalancer::Hash, cookie("", "/"), 0, ".cookie"),
        (v1::LoadBalancer::Hash, header("x-user"), 99, ".maxLoadPercent"),
        (v1::LoadBalancer::Hash, None, 0, ".key"),
    ] {
        let error = with(balancer, key, max_load_percent).unwrap_err();
        assert_eq!(error, [format!("service.policy.hash{field}")]);
    }
    let mut absent = payments();
    absent.policy.as_mut().unwrap().balancer = v1::LoadBalancer::Hash as i32;
    assert_eq!(service(&absent).unwrap_err().problems[0].field, "service.policy.hash");
}

#[test]
fn sessions_hedging_and_connections_are_refused_with_their_field() {
    let with = |change: fn(&mut v1::BackendPolicy)| {
        let mut raw = payments();
        change(raw.policy.as_mut().unwrap());
        service(&raw)
            .map(|_| ())
            .map_err(|error| error.problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>())
    };
    assert_eq!(with(|policy| policy.session = Some(session("x-session"))), Ok(()));
    assert_eq!(with(|policy| policy.hedging = hedging(1, 2)), Ok(()));
    for (change, fields) in [
        (
            (|policy| policy.session = Some(session("x session"))) as fn(&mut v1::BackendPolicy),
            &["session.header"][..],
        ),
        (|policy| policy.session = Some(v1::Session::default()), &["session.key", "session.carrier"]),
        (|policy| policy.hedging = Some(v1::Hedging::default()), &["hedging.maxExtra", "hedging.after"]),
        (|policy| policy.hedging = hedging(100, 1), &["hedging.percentile"]),
        (|policy| policy.http2 = None, &["http2"]),
        (|policy| policy.http2.as_mut().unwrap().stream_window_bytes = 1, &["http2.streamWindowBytes"]),
        (
            |policy| policy.tcp_keepalive = Some(v1::TcpKeepalive::default()),
            &["tcpKeepalive.probes", "tcpKeepalive.time", "tcpKeepalive.interval"],
        ),
    ] {
        let expected = fields.iter().map(|field| format!("service.policy.{field}")).collect();
        assert_eq!(with(change), Err(expected));
    }
}

fn session(header: &str) -> v1::Session {
    let carrier = Some(v1::session::Carrier::Header(header.to_owned()));
    v1::Session { carrier, key: b"key".to_vec(), ..v1::Session::default() }
}

fn hedging(percentile: u32, max_extra: u32) -> Option<v1::Hedging> {
    Some(v1::Hedging { after: Some(v1::hedging::After::Percentile(percentile)), max_extra })
}

#[test]
fn every_problem_is_reported_with_its_field() {
    let mut raw = payments();
    raw.name = name("shop", "Payments");
    raw.addresses[1] = "nowhere".to_owned();
    raw.ports[1].port = 80;
    let port = &mut raw.ports[0];
    port.protocol = 99;
    port.matches[0].rule = 1;
    port.matches[0].path =
        Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Regex("a)|(b".to_owned())) });
    port.matches[0].headers[0].name = "x y".to_owned();
    port.matches[0].query[0].kind = None;
    port.matches[0].method = "G T".to_owned();
    let rule = &mut port.rules[0];
    rule.request_timeout = milliseconds(-5);
    rule.filters[1].kind = None;
    rule.filters[0].kind = Some(v1::filter::Kind::ResponseHeaders(v1::HeaderModifier {
        remove: vec!["Content-Length".to_owned()],
        ..v1::HeaderModifier::default()
    }));
    rule.backends[0].weight = 1_000_001;
    rule.backends[1].target = None;
    port.tcp_backends[0].target = None;
    let policy = raw.policy.as_mut().unwrap();
    policy.balancer = 0;
    policy.idle_timeout = None;
    policy.max_active = 0;
    policy.retry_budget_interval = milliseconds(0);
    policy.breaker.as_mut().unwrap().min_open = milliseconds(3000);
    policy.retry.as_mut().unwrap().status_codes = vec![200];

    let error = service(&raw).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(
        fields,
        [
            "service.name",
            "service.ports[0].protocol",
            "service.ports[0].matches[0].rule",
            "service.ports[0].matches[0].path.regex",
            "service.ports[0].matches[0].headers[0].name",
            "service.ports[0].matches[0].query[0]",
            "service.ports[0].matches[0].method",
            "service.ports[0].rules[0].backends[0].weight",
            "service.ports[0].rules[0].backends[1].target",
            "service.ports[0].rules[0].filters[0].responseHeaders",
            "service.ports[0].rules[0].filters[1]",
            "service.ports[0].rules[0].requestTimeout",
            "service.ports[0].tcpBackends[0].target",
            "service.policy.balancer",
            "service.policy.idleTimeout",
            "service.policy.maxActive",
            "service.policy.breaker.minOpen",
            "service.policy.retryBudgetInterval",
            "service.policy.retry.statusCodes[0]",
            "service.addresses[1]",
        ]
    );
    assert!(error.to_string().contains("service.addresses[1]: \"nowhere\" is not an IP address"), "{error}");
}

#[test]
fn a_port_that_is_there_twice_is_refused() {
    let mut raw = payments();
    raw.ports[1].port = 80;
    assert_eq!(service(&raw).unwrap_err().problems[0].field, "service.ports[1].port");
}

#[test]
fn a_message_full_of_problems_is_answered_briefly() {
    let raw = v1::Service { addresses: vec!["x".to_owned(); 1000], ..payments() };
    assert_eq!(service(&raw).unwrap_err().problems.len(), 20);
}

#[test]
fn an_empty_message_is_refused_and_not_filled_in() {
    let error = service(&v1::Service::default()).unwrap_err();
    assert_eq!(error.to_string(), "service.name: is absent; service.policy: is absent");
}

#[test]
fn times_are_over_nothing_and_within_what_a_clock_can_add() {
    let with = |seconds, nanos| {
        let mut raw = payments();
        raw.policy.as_mut().unwrap().connect_timeout = Some(prost_types::Duration { seconds, nanos });
        service(&raw)
    };
    assert!(with(0, 1).is_ok());
    assert!(with(315_576_000_000, 0).is_ok());
    for (seconds, nanos) in
        [(0, 0), (-1, 0), (0, -1), (0, 1_000_000_000), (315_576_000_001, 0), (i64::MAX, 0)]
    {
        let error = with(seconds, nanos).unwrap_err();
        assert_eq!(error.problems[0].field, "service.policy.connectTimeout", "{seconds} {nanos}");
    }
}

fn endpoint() -> v1::Endpoint {
    v1::Endpoint {
        id: "a".to_owned(),
        address: "127.0.0.1:4743".to_owned(),
        identity: "spiffe://outrigger.local/ns/shop/sa/payments".to_owned(),
        zone: "z".to_owned(),
        healthy: true,
        ports: vec![80, 443],
    }
}

#[test]
fn endpoints_are_read_or_refused_with_their_field() {
    let set = |changed| v1::Endpoints { changed, ..v1::Endpoints::default() };
    let read = endpoints(&set(vec![endpoint()])).unwrap();
    assert_eq!(read[0].ports, [80, 443]);
    assert_eq!(read[0].identity.workload().unwrap().service_account(), "payments");

    let bad = v1::Endpoint {
        id: String::new(),
        address: "localhost:1".to_owned(),
        identity: "spiffe://x".to_owned(),
        ports: vec![0, 65_536],
        ..endpoint()
    };
    let error = endpoints(&set(vec![endpoint(), bad])).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    let expected = ["id", "address", "identity", "ports[0]", "ports[1]"];
    assert_eq!(fields, expected.map(|field| format!("endpoints.changed[1].{field}")));
}

#[test]
fn a_service_outside_is_read_or_refused_with_its_fields() {
    let port = |port, target_port, hostname: Option<&str>| v1::ExternalPort {
        port,
        target_port,
        tls: hostname.map(|hostname| v1::OriginatedTls {
            hostname: hostname.to_owned(),
            subject_alt_names: vec!["other.example.com".to_owned()],
        }),
    };
    let outside = |host: &str, ports| v1::Service {
        external: Some(v1::External { host: host.to_owned(), ports }),
        ..payments()
    };
    let ports = vec![port(80, 443, Some("api.example.com")), port(81, 8080, None)];
    let external = service(&outside("api.example.com", ports.clone())).unwrap().external.unwrap();
    let authorities: Vec<&str> = external.ports.iter().map(|port| port.authority.as_str()).collect();
    assert_eq!(authorities, ["api.example.com", "api.example.com:8080"]);
    let address = service(&outside("2001:db8::7", ports)).unwrap().external.unwrap();
    assert_eq!(address.port(81).unwrap().authority, "[2001:db8::7]:8080");
    let bad = outside("a b", vec![port(0, 443, None), port(80, 443, Some("a b")), port(80, 443, None)]);
    let fields: Vec<String> = service(&bad).unwrap_err().problems.into_iter().map(|p| p.field).collect();
    let expected = ["ports[0].port", "ports[1].tls.hostname", "ports[2]"];
    assert_eq!(fields, expected.map(|field| format!("service.external.{field}")));
}

#[test]
fn settings_are_read_or_refused_with_their_field() {
    let raw = v1::MeshSettings {
        version: 3,
        permissive_mtls: true,
        sampling_ratio: 0.5,
        access_log: true,
        otlp_endpoint: "http://127.0.0.1:4317".to_owned(),
        trace_formats: vec![v1::TraceFormat::W3c as i32, v1::TraceFormat::B3Multi as i32],
        path_normalization: v1::PathNormalization::None as i32,
        egress: Some(v1::Egress { listed_only: true, cidrs: vec!["10.0.0.0/8".to_owned()] }),
    };
    let read = mesh(&raw).unwrap();
    assert_eq!(read.trace_formats, [TraceFormat::W3c, TraceFormat::B3Multi]);
    assert!(!read.normalize_paths && mesh(&v1::MeshSettings::default()).unwrap().normalize_paths);
    assert_eq!(read.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    assert!(
        read.egress.allows("10.1.2.3".parse().unwrap())
            && read.egress.allows("::ffff:10.1.2.3".parse().unwrap())
    );
    assert!(!read.egress.allows("192.0.2.1".parse().unwrap()));
    let silent = mesh(&v1::MeshSettings::default()).unwrap();
    assert_eq!(silent.otlp_endpoint, None);
    assert!(silent.egress.allows("192.0.2.1".parse().unwrap()), "everything, where nothing is said");

    let bad = v1::MeshSettings {
        sampling_ratio: f64::NAN,
        otlp_endpoint: "collector".to_owned(),
        trace_formats: vec![0, 9],
        egress: Some(v1::Egress { listed_only: true, cidrs: vec!["10.0.0.0/33".to_owned()] }),
        ..raw
    };
    let fields: Vec<String> = mesh(&bad).unwrap_err().problems.into_iter().map(|p| p.field).collect();
    let expected = ["samplingRatio", "otlpEndpoint", "traceFormats[0]", "traceFormats[1]", "egress.cidrs[0]"];
    assert_eq!(fields, expected.map(|field| format!("mesh.{field}")));
}

#[test]
fn inbound_ports_are_read_or_refused_with_their_field() {
    let ports = |ports: &[(u32, i32)]| v1::Inbound {
        version: 1,
        ports: ports
            .iter()
            .map(|&(port, protocol)| v1::InboundPort { port, protocol, ..v1::InboundPort::default() })
            .collect(),
    };
    let read = inbound(&ports(&[(80, 1), (5432, 3)])).unwrap();
    let protocol = |port| read.port(port).unwrap().protocol;
    assert_eq!((protocol(80), protocol(5432)), (Protocol::Http1, Protocol::Tcp));
    let error = inbound(&ports(&[(80, 1), (80, 1), (0, 7)])).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["inbound.ports[1].port", "inbound.ports[2].port", "inbound.ports[2].protocol"]);
}

#[test]
fn a_gateway_is_read_with_what_holds_at_its_ports() {
    let key = |bytes: usize| v1::ApiKey { name: "phone".to_owned(), sha256: vec![7; bytes] };
    let raw = |header: &str, bytes| v1::Service {
        gateway: Some(v1::Gateway {
            listeners: vec![v1::GatewayListener { port: 443, ..v1::GatewayListener::default() }],
            ports: vec![v1::InboundPort {
                port: 443,
                api_keys: Some(v1::ApiKeys {
                    header: header.to_owned(),
                    keys: vec![key(bytes)],
                    required: true,
                }),
                ..v1::InboundPort::default()
            }],
        }),
        ..payments()
    };
    let gateway = service(&raw("x-api-key", 32)).unwrap().gateway.unwrap();
    let keys = gateway.port(443).unwrap().api_keys.as_ref().unwrap();
    assert_eq!((keys.header.as_str(), &*keys.keys[0].name, keys.required), ("x-api-key", "phone", true));
    assert!(gateway.port(80).is_none(), "nobody comes in where nothing is said");
    let error = service(&raw("a b", 31)).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(
        fields,
        ["keys[0].sha256", "header"].map(|field| format!("service.gateway.ports[0].apiKeys.{field}"))
    );
}

#[test]
fn rate_limits_are_read_or_refused_with_their_field() {
    let key = |kind: v1::RateLimitKeyKind| v1::RateLimitKey { kind: kind as i32, ..Default::default() };
    let limit = v1::RateLimit {
        requests: 0,
        per: milliseconds(4_000_000),
        burst: 1_000_001,
        by: vec![
            v1::RateLimitKey::default(),
            v1::RateLimitKey { header: "a b".to_owned(), ..key(v1::RateLimitKeyKind::Header) },
            key(v1::RateLimitKeyKind::Claim),
        ],
        matches: vec![v1::RouteMatch::default()],
        of_mesh: true,
        ..rate_limit()
    };
    let of_mesh =
        v1::RateLimit { of_mesh: true, by: vec![key(v1::RateLimitKeyKind::Identity)], ..rate_limit() };
    let port = v1::InboundPort {
        port: 80,
        protocol: 1,
        rate_limits: vec![limit, of_mesh],
        ..v1::InboundPort::default()
    };
    let error = inbound(&v1::Inbound { version: 1, ports: vec![port] }).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    let expected = [
        "[0].requests",
        "[0].burst",
        "[0].per",
        "[0].by[0].kind",
        "[0].by[1].header",
        "[0].by[2].claim",
        "[0].matches[0].path",
        "[1].by",
    ];
    assert_eq!(fields, expected.map(|field| format!("inbound.ports[0].rateLimits{field}")));
}

#[test]
fn a_limit_of_concurrency_is_read_or_refused_with_its_field() {
    let port = |concurrency| v1::Inbound {
        version: 1,
        ports: vec![v1::InboundPort {
            port: 80,
            concurrency: Some(concurrency),
            ..v1::InboundPort::default()
        }],
    };
    let raw = v1::AdaptiveConcurrency {
        min_limit: 5,
        max_limit: 100,
        tolerance_percent: 50,
        recalibrate: milliseconds(30_000),
    };
    let read = inbound(&port(raw)).unwrap();
    let read = read.port(80).unwrap().concurrency.clone().unwrap();
    assert_eq!((read.min_limit, read.max_limit, read.tolerance_percent), (5, 100, 50));
    let bad = v1::AdaptiveConcurrency { min_limit: 0, recalibrate: None, ..raw };
    let error = inbound(&port(bad)).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    let expected = ["minLimit", "recalibrate"].map(|field| format!("inbound.ports[0].concurrency.{field}"));
    assert_eq!(fields, expected);
    let crossed = v1::AdaptiveConcurrency { min_limit: 101, ..raw };
    assert!(inbound(&port(crossed)).unwrap_err().to_string().contains("is over maxLimit"));
}

#[test]
fn filters_are_read_whole_or_refused_with_their_field() {
    use v1::filter::Kind;
    let read = |kind: Kind| {
        let mut raw = payments();
        raw.ports[0].rules[0].filters = vec![v1::Filter { kind: Some(kind) }];
        service(&raw).map(|parts| {
            let head = Request::get("/a?q=1").header("x-version", "2").body(()).unwrap().into_parts().0;
            parts.ports[0].routes.as_ref().unwrap().find(&head).unwrap().filters[0].clone()
        })
    };
    let full = |path: &str| Some(v1::PathChange { kind: Some(v1::path_change::Kind::Full(path.to_owned())) });
    let redirect = v1::Redirect { status: 301, scheme: "https".to_owned(), port: 8443, ..Default::default() };
    let Ok(Filter::Redirect(read_redirect)) = read(Kind::Redirect(redirect)) else { panic!("not read") };
    assert_eq!((read_redirect.status.as_u16(), read_redirect.port), (301, Some(8443)));
    let rewrite = v1::Rewrite { host: "one.example".to_owned(), path: full("/x") };
    let Ok(Filter::Rewrite(read_rewrite)) = read(Kind::Rewrite(rewrite)) else { panic!("not read") };
    assert!(read_rewrite.host.is_some_and(|host| host == "one.example") && read_rewrite.path.is_some());

    for (kind, expected) in [
        (
            Kind::Redirect(v1::Redirect {
                status: 200,
                scheme: "a b".to_owned(),
                host: "a:1".to_owned(),
                port: 65_536,
                path: full("x"),
            }),
            &["status", "scheme", "port", "host", "path.full"][..],
        ),
        (
            Kind::Rewrite(v1::Rewrite { host: "a:1".to_owned(), path: Some(v1::PathChange::default()) }),
            &["host", "path"],
        ),
    ] {
        let place = match kind {
            Kind::Redirect(_) => "redirect",
            _ => "rewrite",
        };
        let error = read(kind).unwrap_err();
        let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|field| format!("service.ports[0].rules[0].filters[0].{place}.{field}"))
            .collect();
        assert_eq!(fields, expected);
    }
}

#[test]
fn mirrors_cors_faults_and_fallbacks_are_read_whole_or_refused_with_their_field() {
    use v1::filter::Kind;
    let read = |kind: Kind| {
        let mut raw = payments();
        raw.ports[0].rules[0].filters = vec![v1::Filter { kind: Some(kind) }];
        raw.ports[0].rules[0].fallback = Some(v1::Fallback { status: 200, ..Default::default() });
        service(&raw)
    };
    let to = |port| Some(v1::BackendService { name: name("shop", "shadow"), port });
    let fixed = |seconds| Some(v1::fault_delay::Time::Fixed(prost_types::Duration { seconds, nanos: 0 }));
    let delay = |per_million, time| Some(v1::FaultDelay { per_million, time });
    let abort = |status| Some(v1::FaultAbort { per_million: 1, status: Some(status) });
    for good in [
        Kind::Mirror(v1::Mirror { service: to(80), numerator: 1, denominator: 2 }),
        Kind::Cors(v1::Cors { allow_origins: vec!["https://*.a.example".to_owned()], ..Default::default() }),
        Kind::Fault(v1::Fault { delay: delay(1, fixed(1)), ..Default::default() }),
        Kind::Fault(v1::Fault { abort: abort(v1::fault_abort::Status::Grpc(14)), ..Default::default() }),
    ] {
        read(good).unwrap();
    }
    for (bad, expected) in [
        (
            Kind::Mirror(v1::Mirror { service: None, numerator: 1, denominator: 0 }),
            &["mirror.denominator", "mirror.service"][..],
        ),
        (Kind::Mirror(v1::Mirror { service: to(0), numerator: 1, denominator: 1 }), &["mirror.service.port"]),
        (
            Kind::Cors(v1::Cors {
                allow_origins: vec!["x".to_owned()],
                allow_methods: vec!["a b".to_owned()],
                ..Default::default()
            }),
            &["cors.allowMethods", "cors.allowOrigins"],
        ),
        (
            Kind::Fault(v1::Fault {
                delay: delay(1_000_001, fixed(0)),
                abort: abort(v1::fault_abort::Status::Http(200)),
                ..Default::default()
            }),
            &["fault.delay.perMillion", "fault.delay.fixed", "fault.abort.http"],
        ),
        (Kind::Fault(v1::Fault { delay: delay(1, None), ..Default::default() }), &["fault.delay"]),
    ] {
        let error = read(bad).unwrap_err();
        let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
        let expected: Vec<String> =
            expected.iter().map(|field| format!("service.ports[0].rules[0].filters[0].{field}")).collect();
        assert_eq!(fields, expected);
    }
    let mut raw = payments();
    raw.policy.as_mut().unwrap().fallback =
        Some(v1::Fallback { status: 99, policy: "a\nb".to_owned(), ..Default::default() });
    let error = service(&raw).unwrap_err();
    let fields: Vec<&str> = error.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["service.policy.fallback.status", "service.policy.fallback.policy"]);
}
