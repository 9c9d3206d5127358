//! Policy by tables, in the order of the Gateway API's rules for routes whose parent is a Service.

mod kinds;

use std::sync::Arc;

use outrigger_api::v1::backend::Target;
use outrigger_api::v1::path_match::Kind as Path;
use serde_json::Value;

use super::*;
use crate::discovery::RegisteredPorts;
use crate::resources::Documents;
use crate::status::RouteStatus;

/// Documents as the store keeps them, but that nothing is checked, so that what validation refuses is compiled too.
pub(crate) fn documents(yaml: &str) -> Documents {
    use crate::resources::Kind;
    let kind_named = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap();
    let mut documents = Documents { revision: 7, ..Documents::default() };
    for text in yaml.split("\n---\n").filter(|text| !text.trim().is_empty()) {
        let mut value: Value = serde_yaml_ng::from_str(text).unwrap();
        let kind = kind_named(value["kind"].as_str().unwrap());
        for field in ["kind", "apiVersion"] {
            value.as_object_mut().unwrap().remove(field);
        }
        documents.insert((kind.entry().load)(value).unwrap());
    }
    documents
}

struct Fixture {
    model: Model,
    registered: HashMap<ServiceName, RegisteredService>,
}

impl Fixture {
    fn new(yaml: &str) -> Self {
        let mut model = Model::default();
        model.replace(Arc::new(documents(yaml)));
        Self { model, registered: HashMap::new() }
    }

    /// A service that is known by registration alone.
    fn registered(mut self, service: &str, ports: &[(u16, v1::Protocol)]) -> Self {
        let ports: RegisteredPorts = ports.iter().map(|(port, protocol)| (*port, *protocol as i32)).collect();
        let service: ServiceName = service.parse().unwrap();
        self.registered.insert(service, RegisteredService { ports: Arc::new(ports), ..Default::default() });
        self
    }

    fn world(&self) -> World<'_> {
        World { model: &self.model, registered: &self.registered }
    }

    fn compile(&self, service: &str, client_namespace: &str) -> Compiled {
        compile(self.world(), &service.parse().unwrap(), client_namespace).expect("the service exists")
    }

    fn port(&self, service: &str, client_namespace: &str, port: u32) -> v1::ServicePort {
        let message = self.compile(service, client_namespace).message;
        message.ports.into_iter().find(|found| found.port == port).expect("the port exists")
    }

    /// The names of the rules in the order in which their matches are tried.
    fn order(&self) -> Vec<String> {
        let port = self.port("pay.shop", "shop", 80);
        let rule = |found: &v1::RouteMatch| &port.rules[found.rule as usize];
        port.matches.iter().map(|found| format!("{}/{}", rule(found).route, rule(found).name)).collect()
    }

    fn statuses(&self) -> Vec<RouteStatus> {
        let service = "pay.shop".parse().unwrap();
        let facts = Facts::of(self.world(), &service).unwrap();
        route_statuses(self.world(), &service, &facts)
    }
}

const PAY: &str = "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80, name: http}, {port: 8080, name: admin, appProtocol: http}, {port: 5432, appProtocol: tcp}]}
---
kind: Service
metadata: {name: pay-v2, namespace: shop}
spec: {ports: [{port: 80}]}
";

/// A route to `pay` in `namespace` with these lines of its spec.
fn route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: pay, namespace: shop{parent}}}]
  rules: {rules}
"
    )
}

fn with_routes(routes: &[String]) -> Fixture {
    Fixture::new(&format!("{PAY}{}", routes.join("")))
}

fn target(backend: &v1::Backend) -> String {
    match backend.target.as_ref().unwrap() {
        Target::Service(service) => {
            let name = service.name.as_ref().unwrap();
            format!("{}.{}:{}", name.name, name.namespace, service.port)
        }
        Target::Invalid(reason) => reason.clone(),
    }
}

const TO_PAY: &str = "backendRefs: [{name: pay, port: 80}]";

// ---- existence, ports and protocols ----

#[test]
fn a_service_exists_by_document_or_by_registration() {
    let fixture = Fixture::new(PAY).registered("bare.shop", &[(9000, v1::Protocol::Http2)]);
    assert!(compile(fixture.world(), &"absent.shop".parse().unwrap(), "shop").is_none());
    let bare = fixture.port("bare.shop", "shop", 9000);
    assert_eq!(bare.protocol(), v1::Protocol::Http2);
    assert!(!bare.routed);
}

#[test]
fn what_a_document_says_of_a_port_wins_over_how_workloads_registered() {
    let ports = [(80, v1::Protocol::Http2), (8080, v1::Protocol::Tcp), (9000, v1::Protocol::Unspecified)];
    let fixture = Fixture::new(PAY)
        .registered("pay.shop", &ports)
        .registered("pay-v2.shop", &[(80, v1::Protocol::Http2)]);
    let protocols: Vec<_> = fixture
        .compile("pay.shop", "shop")
        .message
        .ports
        .iter()
        .map(|port| (port.port, port.protocol()))
        .collect();
    let (http1, tcp, detect) = (v1::Protocol::Http1, v1::Protocol::Tcp, v1::Protocol::Unspecified);
    assert_eq!(protocols, [(80, http1), (5432, tcp), (8080, http1), (9000, detect)]);
    assert_eq!(
        fixture.port("pay-v2.shop", "shop", 80).protocol(),
        v1::Protocol::Http2,
        "nothing was declared"
    );
}

#[test]
fn server_first_and_opaque_ports_are_not_detected() {
    let fixture = Fixture::new(
        "
kind: Service
metadata: {name: db, namespace: shop, annotations: {outrigger.dev/opaque-ports: '9100-9200'}}
spec: {ports: [{port: 3306}, {port: 6379, appProtocol: http}, {port: 9150, appProtocol: http}, {port: 53, protocol: UDP}]}
",
    );
    let ports = fixture.compile("db.shop", "shop").message.ports;
    let protocols: Vec<_> = ports.iter().map(|port| (port.port, port.protocol())).collect();
    let (http1, tcp) = (v1::Protocol::Http1, v1::Protocol::Tcp);
    assert_eq!(protocols, [(3306, tcp), (6379, http1), (9150, tcp)]);
}

#[test]
fn addresses_come_from_the_document() {
    let fixture = Fixture::new(
        "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {clusterIP: 10.0.0.7, clusterIPs: [10.0.0.7, 'fd00::7'], ports: [{port: 80}]}
",
    );
    assert_eq!(fixture.compile("pay.shop", "shop").message.addresses, ["10.0.0.7", "fd00::7"]);
    assert_eq!(fixture.model.service_at("fd00::7".parse().unwrap()), Some(&"pay.shop".parse().unwrap()));
}

// ---- 2.1 attachment ----

#[test]
fn attachment_is_by_port_and_section_name() {
    for (parent, expected) in [
        ("", vec![80, 8080]),
        (", port: 80", vec![80]),
        (", sectionName: admin", vec![8080]),
        (", port: 8080, sectionName: admin", vec![8080]),
        (", port: 80, sectionName: admin", vec![]),
        (", port: 81", vec![]),
        (", port: 5432", vec![]),
    ] {
        let fixture = with_routes(&[route("shop", "r", parent, &format!("[{{{TO_PAY}}}]"))]);
        let ports = fixture.compile("pay.shop", "shop").message.ports;
        let routed: Vec<_> = ports.iter().filter(|port| port.routed).map(|port| port.port).collect();
        assert_eq!(routed, expected, "parent{parent}");
        let status = &fixture.statuses()[0].conditions[0];
        assert_eq!(status.status, !expected.is_empty(), "parent{parent}");
        assert_eq!(status.reason, if expected.is_empty() { "NoMatchingParent" } else { "Accepted" });
    }
}

#[test]
fn a_parent_is_a_service_only_when_group_and_kind_say_so() {
    for (group, kind, expected) in [
        ("''", "Service", true),
        ("core", "Service", true),
        ("apps", "Service", false),
        ("''", "Gateway", false),
    ] {
        let text = route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))
            .replace("group: '', kind: Service", &format!("group: {group}, kind: {kind}"));
        assert_eq!(with_routes(&[text]).port("pay.shop", "shop", 80).routed, expected, "{group} {kind}");
    }
    let neither =
        route("shop", "r", "", &format!("[{{{TO_PAY}}}]")).replace("group: '', kind: Service, ", "");
    assert!(!with_routes(&[neither]).port("pay.shop", "shop", 80).routed, "the defaults mean a Gateway");
}

#[test]
fn headless_and_external_services_take_no_routes() {
    for spec in ["clusterIP: None", "type: ExternalName, externalName: example.com"] {
        let yaml = PAY.replacen("spec: {ports", &format!("spec: {{{spec}, ports"), 1);
        let fixture = Fixture::new(&format!("{yaml}{}", route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))));
        assert!(!fixture.port("pay.shop", "shop", 80).routed, "{spec}");
        assert!(!fixture.statuses()[0].conditions[0].status, "{spec}");
    }
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_own_namespace_only() {
    let producer = route("shop", "producer", "", &format!("[{{{TO_PAY}}}]"));
    let consumers = route("web", "consumer", ", port: 80", &format!("[{{{TO_PAY}}}]"));
    let more = route("web", "another", ", port: 80", &format!("[{{{TO_PAY}}}]"));
    let fixture = with_routes(&[producer, consumers, more]);
    let routes = |client: &str, port: u32| -> Vec<String> {
        fixture.port("pay.shop", client, port).rules.iter().map(|rule| rule.route.clone()).collect()
    };
    assert_eq!(routes("shop", 80), ["shop/producer"]);
    assert_eq!(routes("other", 80), ["shop/producer"]);
    assert_eq!(routes("web", 80), ["web/another", "web/consumer"], "sets are merged only among themselves");
    assert_eq!(routes("web", 8080), ["shop/producer"], "no consumer route is on this port");
    let scopes: Vec<_> = fixture.statuses().iter().map(|status| status.scope.clone()).collect();
    assert_eq!(scopes, ["producer", "consumer", "consumer"]);
}

#[test]
fn hostnames_are_ignored_and_the_condition_says_so() {
    let text = route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))
        .replace("  rules:", "  hostnames: [example.com]\n  rules:");
    let fixture = with_routes(&[text]);
    assert!(fixture.port("pay.shop", "shop", 80).routed);
    let condition = &fixture.statuses()[0].conditions[0];
    assert!(condition.status && condition.message.contains("hostnames"), "{condition:?}");
}

// ---- 2.3 matching and precedence ----

/// One rule for each of `matches`, named by its place, in a list that is the wrong way round.
fn ranked(matches: &[&str]) -> Vec<String> {
    let rule = |(index, found): (usize, &&str)| format!("{{name: '{index}', matches: [{found}], {TO_PAY}}}");
    let rules: Vec<_> = matches.iter().enumerate().map(rule).rev().collect();
    with_routes(&[route("shop", "r", "", &format!("[{}]", rules.join(", ")))]).order()
}

#[test]
fn precedence_of_matches() {
    let order = [
        "{path: {type: Exact, value: /a}, method: GET}",
        "{path: {type: Exact, value: /a/b/c/d/e}}",
        "{path: {type: RegularExpression, value: '/longer.*'}}",
        "{path: {type: RegularExpression, value: '/a.*'}, method: GET}",
        "{path: {type: PathPrefix, value: /abcd}}",
        "{path: {type: PathPrefix, value: /abc}, method: GET, headers: [{name: a, value: b}]}",
        "{path: {type: PathPrefix, value: /abc}, method: GET}",
        "{path: {type: PathPrefix, value: /abc}, headers: [{name: a, value: b}, {name: c, value: d}]}",
        "{path: {type: PathPrefix, value: /abc}, headers: [{name: a, value: b}], queryParams: [{name: q, value: r}]}",
        "{path: {type: PathPrefix, value: /abc}, headers: [{name: a, value: b}]}",
        "{path: {type: PathPrefix, value: /abc}, queryParams: [{name: q, value: r}, {name: s, value: t}]}",
        "{path: {type: PathPrefix, value: /abc}, queryParams: [{name: q, value: r}]}",
        "{path: {type: PathPrefix, value: /abc}}",
        "{path: {type: PathPrefix, value: /}, method: GET}",
        "{}",
    ];
    let expected: Vec<_> = (0..order.len()).map(|index| format!("shop/r/{index}")).collect();
    assert_eq!(ranked(&order), expected);
}

#[test]
fn a_final_slash_makes_no_prefix_longer() {
    let order =
        ["{path: {type: PathPrefix, value: /abc}, method: GET}", "{path: {type: PathPrefix, value: /abc/}}"];
    assert_eq!(ranked(&order), ["shop/r/0", "shop/r/1"]);
}

#[test]
fn headers_whose_names_are_the_same_without_case_count_once() {
    let order = [
        "{headers: [{name: a, value: x}, {name: b, value: y}]}",
        "{headers: [{name: A, value: first}, {name: a, value: second}]}",
    ];
    assert_eq!(ranked(&order), ["shop/r/0", "shop/r/1"]);
    let rules = "[{matches: [{headers: [{name: A, value: first}, {name: a, value: second}]}]}]";
    let port = with_routes(&[route("shop", "r", "", rules)]).port("pay.shop", "shop", 80);
    let kind = Some(v1::value_match::Kind::Exact("first".to_owned()));
    assert_eq!(port.matches[0].headers, [v1::ValueMatch { name: "a".to_owned(), kind }]);
}

#[test]
fn the_older_route_wins_then_the_alphabet_then_the_first_rule() {
    let rules = format!("[{{name: first, {TO_PAY}}}, {{name: second, {TO_PAY}}}]");
    let created = |text: String, time: &str| {
        text.replace("metadata: {name", &format!("metadata: {{creationTimestamp: '{time}', name"))
    };
    let fixture = with_routes(&[
        route("shop", "undated", "", &rules),
        created(route("shop", "b-old", "", &rules), "2024-01-01T00:00:00Z"),
        created(route("shop", "a-new", "", &rules), "2025-01-01T00:00:00Z"),
        created(route("shop", "b-new", "", &rules), "2025-01-01T00:00:00Z"),
    ]);
    let routes = ["b-old", "a-new", "b-new", "undated"];
    let expected: Vec<_> = routes
        .iter()
        .flat_map(|route| [format!("shop/{route}/first"), format!("shop/{route}/second")])
        .collect();
    assert_eq!(fixture.order(), expected);
}

#[test]
fn matches_of_several_routes_are_ranked_together() {
    let fixture = with_routes(&[
        route("shop", "a", "", &format!("[{{name: any, {TO_PAY}}}]")),
        route(
            "shop",
            "b",
            "",
            &format!(
                "[{{name: exact, matches: [{{path: {{type: Exact, value: /x}}}}, {{method: PUT}}], {TO_PAY}}}]"
            ),
        ),
    ]);
    assert_eq!(fixture.order(), ["shop/b/exact", "shop/b/exact", "shop/a/any"]);
    let port = fixture.port("pay.shop", "shop", 80);
    assert_eq!(port.matches[1].method, "PUT");
    assert_eq!(
        port.matches[2].path.as_ref().unwrap().kind,
        Some(Path::Prefix("/".to_owned())),
        "no matches: every path"
    );
}

#[test]
fn an_expression_that_no_proxy_could_use_drops_its_match_and_says_so() {
    let rules = "[{name: bad, matches: [{path: {type: RegularExpression, value: '('}}, {path: {type: Exact, value: /ok}}]}]";
    let fixture = with_routes(&[route("shop", "r", "", rules)]);
    assert_eq!(fixture.order(), ["shop/r/bad"], "the other match of the rule holds");
    let conditions = &fixture.statuses()[0].conditions;
    let partially = conditions.iter().find(|condition| condition.kind == "PartiallyInvalid").unwrap();
    assert!(partially.status && partially.message.starts_with("Dropped Rule"), "{partially:?}");
    assert!(conditions[0].status, "Accepted stays");
}

// ---- 2.4 filters ----

#[test]
fn header_modifiers_are_compiled_in_their_order_for_rules_and_backends() {
    let rules = "[{filters: [
      {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: b, value: b}], remove: [C]}},
      {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: d, value: d}]}}],
      backendRefs: [{name: pay, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [e]}}]}]}]";
    let rule = with_routes(&[route("shop", "r", "", rules)]).port("pay.shop", "shop", 80).rules.remove(0);
    let header = |name: &str, value: &str| v1::Header { name: name.to_owned(), value: value.to_owned() };
    let request = v1::HeaderModifier {
        set: vec![header("x-a", "a")],
        add: vec![header("b", "b")],
        remove: vec!["c".to_owned()],
    };
    assert_eq!(rule.filters[0].kind, Some(v1::filter::Kind::RequestHeaders(request)));
    assert!(matches!(rule.filters[1].kind, Some(v1::filter::Kind::ResponseHeaders(_))));
    assert!(matches!(rule.backends[0].filters[0].kind, Some(v1::filter::Kind::RequestHeaders(_))));
}

#[test]
fn a_filter_that_cannot_be_honoured_fails_its_requests() {
    for (filter, expected) in [
        ("{type: ExtensionRef, extensionRef: {group: g, kind: k, name: n}}", "g/k"),
        (
            "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: MeshConfig, name: mesh}}",
            "MeshConfig",
        ),
        (
            "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: n}}",
            "shop/n",
        ),
        ("{type: URLRewrite, urlRewrite: {hostname: 'h:1'}}", "h:1"),
        ("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}", "/a?b"),
        ("{type: URLRewrite}", "says nothing"),
        ("{type: RequestRedirect, requestRedirect: {statusCode: 304}}", "status"),
        ("{type: RequestHeaderModifier}", "says nothing"),
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: content-length, value: '1'}]}}",
            "content-length",
        ),
        ("{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: 'a b', value: c}]}}", "a b"),
    ] {
        let fixture = with_routes(&[route("shop", "r", "", &format!("[{{filters: [{filter}], {TO_PAY}}}]"))]);
        let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        match &rule.filters[0].kind {
            Some(v1::filter::Kind::Unresolved(reason)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{filter}: {other:?}"),
        }
        assert!(
            fixture.statuses()[0].conditions.iter().any(|condition| condition.kind == "PartiallyInvalid")
        );
    }
}

/// The filters of the only rule of a route, of which this is the rest of the rule.
fn filters(rule: &str) -> Vec<v1::filter::Kind> {
    let fixture = with_routes(&[route("shop", "r", "", &format!("[{{{rule}}}]"))]);
    let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
    rule.filters.into_iter().map(|filter| filter.kind.unwrap()).collect()
}

fn full(path: &str) -> Option<v1::PathChange> {
    Some(v1::PathChange { kind: Some(v1::path_change::Kind::Full(path.to_owned())) })
}

fn prefix(from: &str, to: &str) -> Option<v1::PathChange> {
    let change = v1::PrefixChange { from: from.to_owned(), to: to.to_owned() };
    Some(v1::PathChange { kind: Some(v1::path_change::Kind::Prefix(change)) })
}

#[test]
fn a_redirect_is_302_unless_it_says_otherwise() {
    for (written, expected) in [
        ("{}", v1::Redirect { status: 302, ..Default::default() }),
        (
            "{statusCode: 308, scheme: https, hostname: Example.ORG, port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /x}}",
            v1::Redirect {
                status: 308,
                scheme: "https".to_owned(),
                host: "example.org".to_owned(),
                port: 8443,
                path: full("/x"),
            },
        ),
    ] {
        let compiled = filters(&format!("filters: [{{type: RequestRedirect, requestRedirect: {written}}}]"));
        assert_eq!(compiled, [v1::filter::Kind::Redirect(expected)], "{written}");
    }
}

#[test]
fn a_replaced_prefix_is_the_one_that_the_rule_matches() {
    for (matches, expected) in [
        ("", prefix("/", "/new")),
        ("matches: [{path: {value: /old/}}], ", prefix("/old/", "/new")),
        ("matches: [{path: {type: PathPrefix, value: /old}, method: GET}], ", prefix("/old", "/new")),
        ("matches: [{path: {type: Exact, value: /old}}], ", None),
        ("matches: [{path: {value: /a}}, {path: {value: /b}}], ", None),
    ] {
        let rewrite =
            "urlRewrite: {hostname: one.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}";
        let compiled = filters(&format!("{matches}filters: [{{type: URLRewrite, {rewrite}}}], {TO_PAY}"));
        match (&compiled[..], expected) {
            ([v1::filter::Kind::Rewrite(rewrite)], Some(path)) => {
                assert_eq!((rewrite.host.as_str(), &rewrite.path), ("one.example", &Some(path)), "{matches}");
            }
            ([v1::filter::Kind::Unresolved(reason)], None) => assert!(reason.contains("prefix"), "{reason}"),
            (other, _) => panic!("{matches}: {other:?}"),
        }
    }
}

#[test]
fn a_mirror_is_a_backend_that_no_answer_comes_from() {
    let of = |fraction: &str, name: &str| {
        format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}{fraction}}}}}"
        )
    };
    for (fraction, expected) in [
        ("", (1, 1)),
        (", percent: 0", (0, 100)),
        (", percent: 25", (25, 100)),
        (", fraction: {numerator: 5}", (5, 100)),
        (", fraction: {numerator: 5, denominator: 1000}", (5, 1000)),
    ] {
        let compiled = filters(&format!("filters: [{}], {TO_PAY}", of(fraction, "pay-v2")));
        let [v1::filter::Kind::Mirror(mirror)] = &compiled[..] else { panic!("{compiled:?}") };
        assert_eq!((mirror.numerator, mirror.denominator), expected, "{fraction}");
        assert_eq!(mirror.service.as_ref().unwrap().name.as_ref().unwrap().name, "pay-v2");
    }
    let rules = format!("[{{filters: [{}, {}], {TO_PAY}}}]", of("", "pay-v2"), of("", "absent"));
    let fixture = with_routes(&[route("shop", "r", "", &rules)]);
    let compiled = fixture.compile("pay.shop", "shop");
    let names = |set: &BTreeSet<ServiceName>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&compiled.backends), ["pay.shop", "pay-v2.shop"]);
    assert_eq!(names(&compiled.dependencies), ["absent.shop", "pay.shop", "pay-v2.shop"]);
    let rule = &compiled.message.ports[0].rules[0];
    assert_eq!(rule.filters.len(), 1, "the mirror that leads nowhere is left out");
    let resolved = &fixture.statuses()[0].conditions[1];
    assert_eq!((resolved.status, resolved.reason.as_str()), (false, "BackendNotFound"));
}

#[test]
fn cors_allows_nothing_that_is_not_written_and_for_five_seconds() {
    for (written, expected) in [
        ("{}", v1::Cors { max_age: 5, ..Default::default() }),
        (
            "{allowOrigins: ['https://*.example.com'], allowCredentials: true, allowMethods: [PUT], allowHeaders: ['*'], exposeHeaders: [x-a], maxAge: 60}",
            v1::Cors {
                allow_origins: vec!["https://*.example.com".to_owned()],
                allow_credentials: true,
                allow_methods: vec!["PUT".to_owned()],
                allow_headers: vec!["*".to_owned()],
                expose_headers: vec!["x-a".to_owned()],
                max_age: 60,
            },
        ),
    ] {
        let compiled = filters(&format!("filters: [{{type: CORS, cors: {written}}}], {TO_PAY}"));
        assert_eq!(compiled, [v1::filter::Kind::Cors(expected)], "{written}");
    }
}

#[test]
fn a_fault_has_its_defaults_filled_in() {
    let fault = |spec: &str| {
        let fault =
            format!("---\nkind: FaultInjection\nmetadata: {{name: slow, namespace: shop}}\nspec: {spec}\n");
        let rule = BY_REFERENCE.replace("ServicePolicy", "FaultInjection");
        let fixture = with_routes(&[route("shop", "r", "", &format!("[{{{rule}{TO_PAY}}}]")), fault]);
        let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        match rule.filters.into_iter().next().unwrap().kind.unwrap() {
            v1::filter::Kind::Fault(fault) => fault,
            other => panic!("{spec}: {other:?}"),
        }
    };
    let bare = v1::Fault { policy: "shop/slow".to_owned(), max_concurrent: 100, ..Default::default() };
    let half = prost_types::Duration { seconds: 0, nanos: 500_000_000 };
    let time = v1::fault_delay::Time::Fixed(half);
    let delay = Some(v1::FaultDelay { per_million: 1_000_000, time: Some(time) });
    assert_eq!(fault("{delay: {fixed: 500ms}}"), v1::Fault { delay, ..bare.clone() });
    let status = Some(v1::fault_abort::Status::Http(503));
    let abort = Some(v1::FaultAbort { per_million: 25_000, status });
    assert_eq!(
        fault("{abort: {percent: 2.5, httpStatus: 503}, maxConcurrent: 7, until: '1970-01-02T00:00:00Z'}"),
        v1::Fault { abort, max_concurrent: 7, until: 86_400, ..bare }
    );
    let gated = fault(
        "{delay: {exponential: 1s}, match: {headers: [{name: X-Test, value: 'on'}, {type: RegularExpression, name: b, value: 'c+'}]}}",
    );
    let exact = Some(v1::value_match::Kind::Exact("on".to_owned()));
    assert_eq!(gated.headers[0], v1::ValueMatch { name: "x-test".to_owned(), kind: exact });
    assert!(matches!(gated.headers[1].kind, Some(v1::value_match::Kind::Regex(_))));
}

#[test]
fn a_fallback_is_the_services_or_that_of_the_policy_that_a_rule_refers_to() {
    let fallback = "---
kind: ServicePolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{name: pay}], fallback: {body: later, headers: [{name: X-Stale, value: '1'}]}}
";
    let slow =
        SLOW.replace("targetRefs: [], ", "targetRefs: [], fallback: {status: 503, on: [BreakerOpen]}, ");
    let rules = format!("[{{{BY_REFERENCE}{TO_PAY}}}, {{{TO_PAY}}}]");
    let fixture = with_routes(&[route("shop", "r", "", &rules), fallback.to_owned(), slow]);
    let header = |name: &str, value: &str| v1::Header { name: name.to_owned(), value: value.to_owned() };
    let compiled = fixture.compile("pay.shop", "shop").message;
    assert_eq!(
        compiled.policy.unwrap().fallback,
        Some(v1::Fallback {
            policy: "shop/p".to_owned(),
            status: 200,
            headers: vec![header("content-type", "text/plain; charset=utf-8"), header("x-stale", "1")],
            body: b"later".to_vec(),
            on_no_endpoints: true,
            on_breaker_open: true,
        })
    );
    let [own, services] = &compiled.ports[0].rules[..] else { panic!("two rules") };
    let expected = v1::Fallback {
        policy: "shop/slow".to_owned(),
        status: 503,
        on_breaker_open: true,
        ..Default::default()
    };
    assert_eq!((own.fallback.as_ref(), services.fallback.as_ref()), (Some(&expected), None));
}

// ---- ExtensionRef ----

const BY_REFERENCE: &str = "filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: slow}}], ";

const SLOW: &str = "---
kind: ServicePolicy
metadata: {name: slow, namespace: shop}
spec: {targetRefs: [], defaults: {timeouts: {request: 20s}, retry: {attempts: 7}}}
";

#[test]
fn a_rules_own_policy_comes_before_the_services_and_after_the_rules_fields() {
    for (rule, documents, request, attempt, attempts) in [
        ("", SLOW, None, None, None),
        (BY_REFERENCE, SLOW, Some(20_000), None, Some(7)),
        (BY_REFERENCE, &format!("{SLOW}{POLICY}"), Some(20_000), Some(5_000), Some(7)),
        (
            &format!("{BY_REFERENCE}timeouts: {{request: 1s}}, retry: {{attempts: 2}}, "),
            &format!("{SLOW}{POLICY}"),
            Some(1_000),
            Some(1_000),
            Some(2),
        ),
    ] {
        let rules = format!("[{{{rule}{TO_PAY}}}]");
        let fixture = with_routes(&[route("shop", "r", "", &rules), documents.to_owned()]);
        let compiled = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        let times = (millis(&compiled.request_timeout), millis(&compiled.attempt_timeout));
        assert_eq!(times, (request, attempt), "{rule}");
        assert_eq!(compiled.retry.map(|retry| retry.attempts), attempts, "{rule}");
        assert_eq!(compiled.filters, [], "{rule}");
    }
}

#[test]
fn an_extension_that_is_not_there_is_an_unresolved_reference() {
    for (kind, reason) in [("ServicePolicy", "ExtensionNotFound"), ("Service", "InvalidKind")] {
        let rule = BY_REFERENCE.replace("ServicePolicy", kind);
        // Of another namespace, so that it is not there either.
        let slow = SLOW.replace("namespace: shop", "namespace: other");
        let fixture = with_routes(&[route("shop", "r", "", &format!("[{{{rule}{TO_PAY}}}]")), slow]);
        let resolved = &fixture.statuses()[0].conditions[1];
        assert_eq!((resolved.status, resolved.reason.as_str()), (false, reason));
    }
}

#[test]
fn a_change_of_an_extension_is_about_the_services_whose_routes_refer_to_it() {
    let rules = format!("[{{{BY_REFERENCE}{TO_PAY}}}]");
    let text = format!("{PAY}{}{SLOW}", route("shop", "r", "", &rules));
    let mut fixture = Fixture::new(&text);
    let mut services = |text: &str| {
        let change = fixture.model.replace(Arc::new(documents(text)));
        change.services.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let changed = text.replace("20s", "30s");
    assert_eq!(services(&changed), ["pay.shop"]);
    assert_eq!(services(&changed.replace("name: slow, namespace", "name: fast, namespace")), ["pay.shop"]);
    assert_eq!(services(&changed), ["pay.shop"], "it is there again");
    let unreferred = format!("{PAY}{}{SLOW}", route("shop", "r", "", &format!("[{{{TO_PAY}}}]")));
    assert_eq!(services(&unreferred), ["pay.shop"], "the route itself changed");
    assert_eq!(services(&unreferred.replace("20s", "30s")), [""; 0], "nobody refers to it any more");
}

// ---- 2.5 backends ----

#[test]
fn backends_have_weights_and_what_leads_nowhere_keeps_its_share() {
    for (backend, weight, expected, reason) in [
        ("{name: pay, port: 80}", 1, "pay.shop:80", None),
        ("{name: pay-v2, port: 80, weight: 9}", 9, "pay-v2.shop:80", None),
        ("{group: core, kind: Service, name: pay, port: 80, weight: 0}", 0, "pay.shop:80", None),
        ("{name: bare, namespace: other, port: 9000}", 1, "bare.other:9000", None),
        (
            "{name: absent, port: 80, weight: 3}",
            3,
            "service absent.shop does not exist",
            Some("BackendNotFound"),
        ),
        ("{name: pay, port: 81}", 1, "service pay.shop has no port 81", Some("BackendNotFound")),
        ("{name: pay}", 1, "has no port", Some("BackendNotFound")),
        ("{name: pay, port: 5432}", 1, "opaque TCP", Some("UnsupportedProtocol")),
        (
            "{group: example.com, kind: Bucket, name: pay, port: 80}",
            1,
            "example.com/Bucket",
            Some("InvalidKind"),
        ),
    ] {
        let rules = format!("[{{backendRefs: [{backend}]}}]");
        let fixture = with_routes(&[route("shop", "r", "", &rules)])
            .registered("bare.other", &[(9000, v1::Protocol::Http1)]);
        let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        assert_eq!(rule.backends[0].weight, weight, "{backend}");
        let target = target(&rule.backends[0]);
        assert!(target.contains(expected), "{backend}: {target}");
        let resolved = &fixture.statuses()[0].conditions[1];
        assert_eq!(
            (resolved.status, resolved.reason.as_str()),
            (reason.is_none(), reason.unwrap_or("ResolvedRefs"))
        );
    }
}

#[test]
fn a_rule_without_backends_is_there_and_leads_nowhere() {
    let fixture = with_routes(&[route("shop", "r", "", "[{matches: [{method: GET}]}]")]);
    let port = fixture.port("pay.shop", "shop", 80);
    assert_eq!((port.rules[0].backends.len(), port.matches.len()), (0, 1));
    assert!(fixture.statuses()[0].conditions[1].status, "ResolvedRefs");
}

#[test]
fn a_compiled_service_names_what_it_leads_to_and_what_it_was_made_from() {
    let rules =
        "[{backendRefs: [{name: pay, port: 80}, {name: pay-v2, port: 80}, {name: absent, port: 80}]}]";
    let compiled = with_routes(&[route("shop", "r", "", rules)]).compile("pay.shop", "shop");
    let names = |set: &BTreeSet<ServiceName>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&compiled.backends), ["pay.shop", "pay-v2.shop"]);
    assert_eq!(names(&compiled.dependencies), ["absent.shop", "pay.shop", "pay-v2.shop"]);
    assert_eq!(compiled.message.version, 7);
}

// ---- 2.6 timeouts and retries ----

const POLICY: &str = "---
kind: ServicePolicy
metadata: {name: p, namespace: shop}
spec:
  targetRefs: [{name: pay}]
  defaults: {timeouts: {request: 8s}, retry: {attempts: 4, grpcCodes: [14], nonIdempotent: true}}
---
kind: MeshConfig
metadata: {name: mesh}
spec: {defaults: {timeouts: {request: 60s, backendRequest: 5s}, retry: {attempts: 1, codes: [502]}}}
";

fn millis(duration: &Option<prost_types::Duration>) -> Option<i64> {
    duration.as_ref().map(|duration| duration.seconds * 1000 + i64::from(duration.nanos) / 1_000_000)
}

#[test]
fn timeouts_are_the_rules_then_the_policys_then_the_meshs() {
    for (rule, documents, request, attempt) in [
        ("", "", None, None),
        ("timeouts: {request: 1s500ms}, ", "", Some(1_500), None),
        ("timeouts: {request: 1s, backendRequest: 300ms}, ", "", Some(1_000), Some(300)),
        ("", POLICY, Some(8_000), Some(5_000)),
        ("timeouts: {request: 0s}, ", POLICY, None, Some(5_000)),
        ("timeouts: {request: 2s}, ", POLICY, Some(2_000), Some(2_000)),
        ("timeouts: {backendRequest: 0s}, ", POLICY, Some(8_000), None),
    ] {
        let fixture =
            with_routes(&[route("shop", "r", "", &format!("[{{{rule}{TO_PAY}}}]")), documents.to_owned()]);
        let compiled = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        assert_eq!(
            (millis(&compiled.request_timeout), millis(&compiled.attempt_timeout)),
            (request, attempt),
            "{rule}"
        );
    }
}

#[test]
fn retries_are_the_rules_then_the_policys_then_the_meshs() {
    let retry = |rule: &str, documents: &str| {
        let fixture =
            with_routes(&[route("shop", "r", "", &format!("[{{{rule}{TO_PAY}}}]")), documents.to_owned()]);
        fixture.port("pay.shop", "shop", 80).rules.remove(0).retry
    };
    assert_eq!(retry("", ""), None);
    let own = retry("retry: {attempts: 3, backoff: 100ms, codes: [500, 503]}, ", "").unwrap();
    assert_eq!((own.attempts, millis(&own.backoff), own.status_codes), (3, Some(100), vec![500, 503]));
    let bare = retry("retry: {}, ", "").unwrap();
    assert_eq!((bare.attempts, millis(&bare.backoff), bare.status_codes), (1, Some(25), vec![]));
    let policys = retry("", POLICY).unwrap();
    assert_eq!((policys.attempts, policys.grpc_codes, policys.non_idempotent), (4, vec![14], true));
    let mixed = retry("retry: {attempts: 2, codes: [503]}, ", POLICY).unwrap();
    assert_eq!((mixed.attempts, mixed.status_codes), (2, vec![503]));
    assert_eq!(
        (mixed.grpc_codes, mixed.non_idempotent),
        (vec![14], true),
        "what a route has no field for stays"
    );
    let most = retry("retry: {attempts: 1000}, ", "").unwrap();
    assert_eq!(most.attempts, 10);
}

// ---- ServicePolicy and MeshConfig ----

#[test]
fn every_default_of_a_policy_is_filled_in() {
    let policy = Fixture::new(PAY).compile("pay.shop", "shop").message.policy.unwrap();
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let expected = v1::BackendPolicy {
        balancer: v1::LoadBalancer::PeakEwma as i32,
        connect_timeout: seconds(1),
        tls_timeout: seconds(5),
        idle_timeout: seconds(60),
        max_connection_age: seconds(3600),
        breaker: Some(v1::Breaker {
            consecutive_failures: 7,
            min_open: seconds(1),
            max_open: seconds(60),
            max_ejected_percent: 50,
            success_rate: Some(v1::SuccessRate {
                percent_of_peers: 50,
                interval: seconds(10),
                min_requests: 20,
            }),
            panic_threshold_percent: 50,
        }),
        max_connections: 1024,
        max_pending: 1024,
        max_active: 4096,
        retry_budget_percent: 20,
        retry_budget_per_second: 10,
        zone_percent: 70,
        http2: Some(v1::Http2 {
            max_streams: 200,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
        }),
        ..v1::BackendPolicy::default()
    };
    assert_eq!(policy, expected);
}

/// The policy of `pay` with these fields.
fn policy_with(fields: &str) -> v1::BackendPolicy {
    let document = format!(
        "---\nkind: ServicePolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{name: pay}}], {fields}}}\n"
    );
    with_routes(&[document]).compile("pay.shop", "shop").message.policy.unwrap()
}

#[test]
fn a_hash_has_its_key_and_no_zone_unless_asked() {
    use v1::hash::Key;
    let balancer = |fields: &str| {
        let policy = policy_with(&format!("loadBalancer: {{{fields}}}"));
        (
            policy.balancer,
            policy.hash.map(|hash| (hash.key.unwrap(), hash.max_load_percent)),
            policy.zone_percent,
        )
    };
    let hash = v1::LoadBalancer::Hash as i32;
    let cookie = |path: &str, ttl: Option<i64>| {
        let ttl = ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        Key::Cookie(v1::Cookie { name: "user".to_owned(), path: path.to_owned(), ttl })
    };
    for (fields, key, load, zone) in [
        ("hash: {header: X-User}", Key::Header("X-User".to_owned()), 0, 0),
        ("hash: {queryParameter: id, maxLoadPercent: 125}", Key::QueryParameter("id".to_owned()), 125, 0),
        ("hash: {sourceAddress: true}", Key::SourceAddress(v1::SourceAddress {}), 0, 0),
        ("hash: {cookie: {name: user}}", cookie("/", None), 0, 0),
        ("hash: {cookie: {name: user, path: /a, ttl: 1h}}", cookie("/a", Some(3600)), 0, 0),
        ("hash: {header: a}, zone: {prefer: true}", Key::Header("a".to_owned()), 0, 70),
    ] {
        assert_eq!(balancer(&format!("type: Hash, {fields}")), (hash, Some((key, load)), zone), "{fields}");
    }
    let round_robin = v1::LoadBalancer::RoundRobin as i32;
    assert_eq!(balancer("type: RoundRobin, zone: {prefer: false}"), (round_robin, None, 0));
    assert_eq!(balancer("type: RoundRobin, zone: {minHealthyPercent: 30}"), (round_robin, None, 30));
    let slow = policy_with("loadBalancer: {slowStart: {window: 30s}}");
    assert_eq!((slow.balancer, millis(&slow.slow_start)), (v1::LoadBalancer::PeakEwma as i32, Some(30_000)));
}

#[test]
fn a_sessions_terms_are_the_rules_and_else_the_policys() {
    use v1::session::Carrier;
    let policy = "---\nkind: ServicePolicy\nmetadata: {name: p, namespace: shop, uid: secret-1}\nspec: {targetRefs: [{name: pay}], sessionPersistence: {type: Header, sessionName: X-Session, idleTimeout: 5m}}\n";
    let route = route(
        "shop",
        "r",
        "",
        &format!(
            "[{{name: own, sessionPersistence: {{sessionName: s, absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}, {TO_PAY}}}, {{name: bare, sessionPersistence: {{}}, {TO_PAY}}}, {{name: none, {TO_PAY}}}]"
        ),
    )
    .replace("{name: r,", "{name: r, uid: secret-2,");
    let compiled = with_routes(&[route, policy.to_owned()]).compile("pay.shop", "shop").message;
    let of_policy = compiled.policy.unwrap().session.unwrap();
    assert_eq!(of_policy.carrier, Some(Carrier::Header("X-Session".to_owned())));
    assert_eq!((millis(&of_policy.absolute_timeout), millis(&of_policy.idle_timeout)), (None, Some(300_000)));
    let mut rules = compiled.ports.into_iter().find(|port| port.port == 80).unwrap().rules.into_iter();
    let mut session = || rules.next().unwrap().session.unwrap();
    let (own, bare, none) = (session(), session(), session());
    let Some(Carrier::Cookie(cookie)) = own.carrier else { panic!("a cookie is the default") };
    assert_eq!((&*cookie.name, &*cookie.path, millis(&cookie.ttl)), ("s", "/", Some(3_600_000)));
    assert_eq!(millis(&own.absolute_timeout), Some(3_600_000));
    let Some(Carrier::Cookie(cookie)) = bare.carrier else { panic!("a cookie is the default") };
    assert!(cookie.name.starts_with("outrigger-session-"), "{}", cookie.name);
    assert_eq!((cookie.ttl, bare.absolute_timeout, bare.idle_timeout), (None, None, None));
    assert_eq!(none, of_policy, "a rule without one has the policy's");
    assert!(own.key != bare.key && own.key != of_policy.key, "rules share no session");
    assert!(String::from_utf8(own.key).unwrap().starts_with("secret-2/"));
}

#[test]
fn hedging_and_connections_are_as_the_policy_says() {
    use v1::hedging::After;
    let hedging = policy_with("hedging: {delay: 50ms}").hedging.unwrap();
    assert!(matches!(hedging.after, Some(After::Delay(delay)) if millis(&Some(delay)) == Some(50)));
    assert_eq!(hedging.max_extra, 1);
    let hedging = policy_with("hedging: {percentile: 95, maxExtra: 2}").hedging.unwrap();
    assert_eq!((hedging.after, hedging.max_extra), (Some(After::Percentile(95)), 2));
    let policy = policy_with(
        "connection: {tcpKeepalive: {time: 30s}, http1: {maxRequestsPerConnection: 100}, http2: {maxConcurrentStreams: 10}}",
    );
    let keepalive = policy.tcp_keepalive.unwrap();
    assert_eq!(
        (millis(&keepalive.time), millis(&keepalive.interval), keepalive.probes),
        (Some(30_000), Some(10_000), 3)
    );
    assert_eq!((policy.http1_max_requests, policy.http2.unwrap().max_streams), (100, 10));
}

#[test]
fn a_breaker_panics_where_more_are_out_than_it_may_take_unless_it_says_otherwise() {
    let breaker = |fields: &str| policy_with(&format!("circuitBreaker: {{{fields}}}")).breaker.unwrap();
    for (fields, ejected, panic) in [
        ("maxEjectedPercent: 30", 30, 70),
        ("maxEjectedPercent: 100", 100, 0),
        ("maxEjectedPercent: 100, panicThresholdPercent: 20", 100, 20),
        ("panicThresholdPercent: 0", 50, 0),
    ] {
        let breaker = breaker(fields);
        assert_eq!(
            (breaker.max_ejected_percent, breaker.panic_threshold_percent),
            (ejected, panic),
            "{fields}"
        );
    }
    assert_eq!(breaker("successRate: {disabled: true}").success_rate, None);
    let rate = breaker("successRate: {percentOfPeers: 80, interval: 1s}").success_rate.unwrap();
    assert_eq!((rate.percent_of_peers, rate.min_requests, millis(&rate.interval)), (80, 20, Some(1000)));
}

#[test]
fn the_oldest_policy_of_a_service_holds() {
    let policy = |name: &str, time: &str, pending: u32| {
        format!(
            "---
kind: ServicePolicy
metadata: {{name: {name}, namespace: shop, creationTimestamp: '{time}'}}
spec: {{targetRefs: [{{name: pay}}], limits: {{maxPendingRequests: {pending}}}, circuitBreaker: {{disabled: true}}}}
"
        )
    };
    let documents = [policy("a", "2025-01-01T00:00:00Z", 1), policy("b", "2024-01-01T00:00:00Z", 2)];
    let policy = with_routes(&documents).compile("pay.shop", "shop").message.policy.unwrap();
    assert_eq!((policy.max_pending, policy.breaker), (2, None));
}

#[test]
fn a_breaker_never_closes_later_than_it_opens() {
    let documents = "---
kind: ServicePolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{name: pay}], circuitBreaker: {minOpen: 2m}}
";
    let breaker = with_routes(&[documents.to_owned()])
        .compile("pay.shop", "shop")
        .message
        .policy
        .unwrap()
        .breaker
        .unwrap();
    assert_eq!((millis(&breaker.min_open), millis(&breaker.max_open)), (Some(120_000), Some(120_000)));
}

#[test]
fn mesh_settings_have_defaults() {
    let settings = mesh_settings(&documents(""));
    assert_eq!(
        (settings.permissive_mtls, settings.sampling_ratio, settings.access_log),
        (false, 0.01, false)
    );
    assert_eq!(settings.trace_formats, [v1::TraceFormat::W3c as i32]);
    let settings = mesh_settings(&documents(
        "
kind: MeshConfig
metadata: {name: mesh}
spec:
  mtls: {mode: Permissive}
  tracing: {samplingRatio: 1.0, formats: [B3, W3C], endpoint: 'http://127.0.0.1:4317'}
  accessLog: {enabled: true}
",
    ));
    assert_eq!((settings.permissive_mtls, settings.sampling_ratio, settings.access_log), (true, 1.0, true));
    assert_eq!(settings.otlp_endpoint, "http://127.0.0.1:4317");
    assert_eq!(settings.trace_formats, [v1::TraceFormat::B3 as i32, v1::TraceFormat::W3c as i32]);
}

// ---- the cost of a change ----

#[test]
fn a_change_is_about_the_services_that_it_names() {
    let mut fixture = with_routes(&[route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))]);
    let services = |change: &crate::model::ModelChange| {
        change.services.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let same = Arc::new(documents(&format!("{PAY}{}", route("shop", "r", "", &format!("[{{{TO_PAY}}}]")))));
    assert_eq!(services(&fixture.model.replace(same)), [""; 0], "equal documents are no change");
    let moved = route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))
        .replace("name: pay, namespace", "name: pay-v2, namespace");
    let moved = Arc::new(documents(&format!("{PAY}{moved}")));
    assert_eq!(services(&fixture.model.replace(moved.clone())), ["pay.shop", "pay-v2.shop"]);
    assert!(!fixture.port("pay.shop", "shop", 80).routed);
    let mut without = Documents::clone(&moved);
    without.services.remove(&"pay.shop".parse().unwrap());
    assert_eq!(services(&fixture.model.replace(Arc::new(without))), ["pay.shop"]);
}

/// Prints the time of the whole mesh; run it in release to compare with the half second that it may take.
#[test]
fn a_thousand_services_with_five_routes_each_compile() {
    let mut yaml = String::new();
    for service in 0..1_000 {
        yaml += &format!(
            "---\nkind: Service\nmetadata: {{name: s{service}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        );
        for route in 0..5 {
            yaml += &format!(
                "---\nkind: HTTPRoute\nmetadata: {{name: r{service}-{route}, namespace: shop}}\nspec: {{parentRefs: \
                 [{{group: '', kind: Service, name: s{service}}}], rules: [{{matches: [{{path: {{type: PathPrefix, value: \
                 /{route}}}}}], backendRefs: [{{name: s{service}, port: 80}}]}}]}}\n"
            );
        }
    }
    let fixture = Fixture::new(&yaml);
    let start = tokio::time::Instant::now();
    for service in fixture.model.documents().services.keys() {
        let compiled = compile(fixture.world(), service, "shop").unwrap();
        assert_eq!(compiled.message.ports[0].matches.len(), 5);
    }
    eprintln!("1000 services with 5 routes each: {:?}", start.elapsed());
}

// ---- rate limits ----

const LIMITS: &str = "---
kind: RateLimitPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{name: pay}]
  headers: true
  limits:
  - {requests: 10}
  - name: writes
    requests: 100
    per: 1m
    burst: 7
    by: [{type: Identity}, {type: Header, header: X-Tenant}, {type: Claim, claim: realm.sub}]
    matches: [{method: POST, path: {type: Exact, value: /pay}}, {headers: [{name: X-A, value: b}]}]
---
kind: RateLimitPolicy
metadata: {name: b, namespace: shop}
spec: {targetRefs: [{name: pay}, {name: pay-v2}], limits: [{name: all, requests: 5, scope: Mesh}]}
---
kind: RateLimitPolicy
metadata: {name: c, namespace: other}
spec: {targetRefs: [{name: pay}], limits: [{requests: 1}]}
";

#[test]
fn all_rate_limits_that_name_a_service_hold_on_each_of_its_ports() {
    let fixture = Fixture::new(&format!("{PAY}{LIMITS}"));
    let inbound = |service: &str| inbound(fixture.world(), &service.parse().unwrap());
    let ports = inbound("pay.shop").ports;
    assert!(ports.iter().all(|port| port.rate_limits == ports[0].rate_limits));
    let [plain, writes, all] = ports[0].rate_limits.as_slice() else { panic!("{ports:?}") };
    assert_eq!(plain.id, "shop/a/0 of service pay.shop");
    assert_eq!((plain.policy.as_str(), plain.name.as_str()), ("shop/a", "0"));
    assert_eq!((plain.requests, plain.burst, millis(&plain.per)), (10, 10, Some(1000)));
    assert!(plain.headers && plain.by.is_empty() && plain.matches.is_empty() && !plain.of_mesh);
    assert_eq!((writes.requests, writes.burst, millis(&writes.per)), (100, 7, Some(60_000)));
    let keys: Vec<_> = writes.by.iter().map(|key| (key.kind(), key.header.as_str())).collect();
    let expected = [
        (v1::RateLimitKeyKind::Identity, ""),
        (v1::RateLimitKeyKind::Header, "x-tenant"),
        (v1::RateLimitKeyKind::Claim, ""),
    ];
    assert_eq!(keys, expected);
    assert_eq!(writes.by[2].claim, ["realm", "sub"]);
    assert_eq!(writes.matches[0].method, "POST");
    assert_eq!(writes.matches[0].path.as_ref().unwrap().kind, Some(Path::Exact("/pay".to_owned())));
    assert_eq!(writes.matches[1].path.as_ref().unwrap().kind, Some(Path::Prefix("/".to_owned())));
    assert_eq!(writes.matches[1].headers[0].name, "x-a");
    assert!(all.of_mesh && !all.headers);
    assert_eq!(inbound("pay-v2.shop").ports[0].rate_limits[0].id, "shop/b/all of service pay-v2.shop");
}

#[test]
fn a_rule_that_names_a_rate_limit_policy_has_its_limits() {
    let filter = "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: RateLimitPolicy, name: b}}";
    let rules = format!("[{{name: charges, filters: [{filter}], {TO_PAY}}}]");
    let fixture = Fixture::new(&format!("{PAY}{LIMITS}{}", route("shop", "r", "", &rules)));
    let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
    let [limit] = rule.rate_limits.as_slice() else { panic!("{rule:?}") };
    assert_eq!(limit.id, "shop/b/all of rule shop/r/charges");
    assert!(limit.of_mesh && rule.filters.is_empty());
    // One that is not there, and one that looks at tokens, which only the service's own proxies verify.
    for other in ["absent", "a"] {
        let filter = filter.replace("name: b", &format!("name: {other}"));
        let rules = format!("[{{filters: [{filter}], {TO_PAY}}}]");
        let fixture = Fixture::new(&format!("{PAY}{LIMITS}{}", route("shop", "r", "", &rules)));
        let rule = fixture.port("pay.shop", "shop", 80).rules.remove(0);
        assert!(matches!(rule.filters[0].kind, Some(v1::filter::Kind::Unresolved(_))), "{rule:?}");
    }
}

#[test]
fn a_rate_limit_concerns_the_services_that_it_names() {
    let mut model = Model::default();
    model.replace(Arc::new(documents(PAY)));
    let change = model.replace(Arc::new(documents(&format!("{PAY}{LIMITS}"))));
    let names: Vec<_> = change.services.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["pay.other", "pay.shop", "pay-v2.shop"]);
}

// ---- adaptive concurrency ----

#[test]
fn adaptive_concurrency_is_off_unless_written_and_has_defaults() {
    for (written, expected) in [
        ("", None),
        ("adaptiveConcurrency: {}", Some((10, 1000, 50, 30_000))),
        ("adaptiveConcurrency: {maxLimit: 5}", Some((5, 5, 50, 30_000))),
        ("adaptiveConcurrency: {minLimit: 2000}", Some((2000, 2000, 50, 30_000))),
        (
            "adaptiveConcurrency: {minLimit: 3, maxLimit: 40, tolerancePercent: 100, recalibrateEvery: 1m}",
            Some((3, 40, 100, 60_000)),
        ),
    ] {
        let policy = "---\nkind: ServicePolicy\nmetadata: {name: p, namespace: shop}\n";
        let fixture =
            Fixture::new(&format!("{PAY}{policy}spec: {{targetRefs: [{{name: pay}}], {written}}}\n"));
        let port = inbound(fixture.world(), &"pay.shop".parse().unwrap()).ports.remove(0);
        let compiled = port
            .concurrency
            .map(|c| (c.min_limit, c.max_limit, c.tolerance_percent, millis(&c.recalibrate).unwrap()));
        assert_eq!(compiled, expected, "{written}");
    }
}

// ---- outside the mesh ----

const API: &str = "
kind: Service
metadata: {name: api, namespace: shop}
spec:
  type: ExternalName
  externalName: API.example.com.
  ports: [{port: 80, name: web, targetPort: 443, appProtocol: http}, {port: 443, name: tls, appProtocol: https}, {port: 5432, name: db}]
";

fn tls_policy(name: &str, section: &str, hostname: &str) -> String {
    format!(
        "---
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: api{section}}}]
  validation: {{hostname: {hostname}, wellKnownCACertificates: System}}
"
    )
}

#[test]
fn a_service_outside_is_a_host_with_its_own_ports() {
    let message = Fixture::new(API).compile("api.shop", "shop").message;
    let external = message.external.unwrap();
    assert_eq!(external.host, "api.example.com");
    let ports: Vec<_> = external.ports.iter().map(|port| (port.port, port.target_port)).collect();
    assert_eq!(ports, [(80, 443), (443, 443), (5432, 5432)]);
    assert!(external.ports.iter().all(|port| port.tls.is_none()));
    assert!(Fixture::new(PAY).compile("pay.shop", "shop").message.external.is_none());
}

#[test]
fn tls_is_begun_by_the_policy_that_names_the_port_or_else_the_service() {
    let policies =
        [tls_policy("a", "", "any.example.com"), tls_policy("b", ", sectionName: web", "web.example.com")];
    let fixture = Fixture::new(&format!("{API}{}", policies.concat()));
    let message = fixture.compile("api.shop", "shop").message;
    let external = message.external.unwrap();
    let names: Vec<_> = external.ports.iter().map(|port| &*port.tls.as_ref().unwrap().hostname).collect();
    assert_eq!(names, ["web.example.com", "any.example.com", "any.example.com"]);
    let protocols: Vec<_> = message.ports.iter().map(|port| port.protocol()).collect();
    let (http1, detect, tcp) = (v1::Protocol::Http1, v1::Protocol::Unspecified, v1::Protocol::Tcp);
    assert_eq!(protocols, [http1, detect, tcp], "where the proxy encrypts, https may be called as http");
    let plain = Fixture::new(API).compile("api.shop", "shop").message;
    assert_eq!(plain.ports[1].protocol(), tcp, "and where it does not, callers encrypt themselves");
}

#[test]
fn of_several_services_for_a_host_the_callers_own_counts() {
    let other = API.replace("namespace: shop", "namespace: bank");
    let fixture = Fixture::new(&format!("{API}---{other}"));
    let found = |namespace| fixture.model.service_for_host("api.example.com", namespace).unwrap().to_string();
    assert_eq!(
        (found("shop"), found("bank"), found("web")),
        ("api.shop".into(), "api.bank".into(), "api.bank".into())
    );
    assert_eq!(fixture.model.service_for_host("www.example.com", "shop"), None);
}

#[test]
fn everything_outside_may_be_called_unless_the_mesh_says_otherwise() {
    assert_eq!(mesh_settings(&documents("")).egress, None);
    let listed = documents(
        "kind: MeshConfig\nmetadata: {name: mesh}\nspec: {egress: {mode: ListedOnly, cidrs: [10.0.0.0/8, 192.0.2.1]}}",
    );
    let egress = mesh_settings(&listed).egress.unwrap();
    assert_eq!((egress.listed_only, egress.cidrs), (true, vec!["10.0.0.0/8".into(), "192.0.2.1/32".into()]));
}

// ---- at a gateway ----

const EDGE: &str = "
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: outrigger
  listeners:
    - {name: web, port: 80, protocol: HTTP}
    - {name: secure, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {certificateRefs: [{name: wild}]}}
---
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80}]}
";

fn at_edge(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "---
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: edge, namespace: shop}}], {more}rules: [{{backendRefs: [{{name: pay, namespace: shop, port: 80}}]}}]}}
"
    )
}

/// The routes of a gateway's listener with their hosts, in the order in which they are tried.
fn hosts_at(fixture: &Fixture, listener: u32) -> Vec<(String, String)> {
    let port = fixture.port("gateway--edge.shop", "shop", listener);
    let matches = port.matches.iter();
    matches.map(|found| (port.rules[found.rule as usize].route.clone(), found.hostnames.concat())).collect()
}

#[test]
fn a_gateways_listeners_take_the_routes_whose_hosts_overlap_with_theirs() {
    let routes = [
        at_edge("shop", "any", ""),
        at_edge("shop", "exact", "hostnames: [a.example.com, www.example.org], "),
        at_edge("bank", "foreign", ""),
    ];
    let fixture = Fixture::new(&format!("{EDGE}{}", routes.concat()));
    let pair = |route: &str, host: &str| (route.to_owned(), host.to_owned());
    assert_eq!(
        hosts_at(&fixture, 1),
        [pair("shop/exact", "www.example.org"), pair("shop/exact", "a.example.com"), pair("shop/any", "")]
    );
    assert_eq!(
        hosts_at(&fixture, 2),
        [pair("shop/exact", "a.example.com"), pair("shop/any", "*.example.com")]
    );
    let message = fixture.compile("gateway--edge.shop", "shop").message;
    let listeners = message.gateway.unwrap().listeners;
    let shown: Vec<_> = listeners.iter().map(|it| (it.port, &*it.hostname, &*it.certificate)).collect();
    assert_eq!(shown, [(80, "", ""), (443, "*.example.com", "wild")]);
}

#[test]
fn a_gateways_route_reaches_other_namespaces_only_where_these_grant_it() {
    let open = EDGE.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}");
    let documents = format!("{open}{}", at_edge("bank", "foreign", ""));
    let leads_to = |yaml: &str| {
        let port = Fixture::new(yaml).port("gateway--edge.shop", "shop", 1);
        target(&port.rules[0].backends[0])
    };
    assert!(leads_to(&documents).starts_with("RefNotPermitted"));
    let grant = |to: &str| {
        format!(
            "{documents}---
kind: ReferenceGrant
metadata: {{name: g, namespace: shop}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}}], to: [{{group: '', kind: Service{to}}}]}}
"
        )
    };
    assert_eq!(leads_to(&grant("")), "pay.shop:80");
    assert_eq!(leads_to(&grant(", name: pay")), "pay.shop:80");
    assert!(leads_to(&grant(", name: other")).starts_with("RefNotPermitted"));
}

#[test]
fn a_route_is_on_the_listeners_that_it_names_and_on_no_other_of_their_port() {
    let listeners = EDGE.replace(
        "    - {name: secure",
        "    - {name: other, port: 80, protocol: HTTP, hostname: other.example.com}\n    - {name: secure",
    );
    let named = |name: &str, section: &str| {
        at_edge("shop", name, "").replace("namespace: shop}]", &format!("namespace: shop, {section}}}]"))
    };
    let routes = [named("web", "sectionName: web"), named("both", "port: 80"), at_edge("shop", "all", "")];
    let fixture = Fixture::new(&format!("{listeners}{}", routes.concat()));
    let routes = |listener| {
        let hosts = hosts_at(&fixture, listener);
        hosts.into_iter().map(|(route, host)| format!("{route} {host}")).collect::<Vec<_>>()
    };
    assert_eq!(routes(1), ["shop/all ", "shop/both ", "shop/web "]);
    assert_eq!(routes(2), ["shop/all other.example.com", "shop/both other.example.com"]);
    assert_eq!(routes(3), ["shop/all *.example.com"]);
}

#[test]
fn policies_that_name_a_gateway_hold_at_its_ports() {
    let policies = "---
kind: AccessPolicy
metadata: {name: edge, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  action: Deny
  rules: [{to: [{ports: [443], methods: [PUT]}]}]
---
kind: RateLimitPolicy
metadata: {name: edge, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  limits: [{requests: 5, by: [{type: ApiKey}]}]
---
kind: RateLimitPolicy
metadata: {name: pay, namespace: shop}
spec: {targetRefs: [{name: edge}], limits: [{requests: 1}]}
";
    let fixture = Fixture::new(&format!("{EDGE}{policies}"));
    let ports = fixture.compile("gateway--edge.shop", "shop").message.gateway.unwrap().ports;
    let rules = |port: &v1::InboundPort| port.access.as_ref().unwrap().policies[0].rules.len();
    assert_eq!(ports.iter().map(|port| (port.port, rules(port))).collect::<Vec<_>>(), [(80, 0), (443, 1)]);
    let limits: Vec<_> = ports.iter().flat_map(|port| &port.rate_limits).map(|limit| &*limit.id).collect();
    assert_eq!(limits, ["shop/edge/0 of service gateway--edge.shop"; 2], "one budget for all ports");
    assert_eq!(ports[0].rate_limits[0].by[0].kind(), v1::RateLimitKeyKind::ApiKey);
    let plain = Fixture::new(EDGE).compile("gateway--edge.shop", "shop").message.gateway.unwrap().ports;
    assert!(plain.iter().all(|port| port.access.is_none() && port.jwt.is_none() && port.api_keys.is_none()));
}

/// `TYPE=STATUS/REASON` of each of a status's conditions.
fn said(status: &serde_json::Value) -> Vec<String> {
    let text = |condition: &serde_json::Value, field: &str| condition[field].as_str().unwrap().to_owned();
    let conditions = status["conditions"].as_array().unwrap().iter();
    conditions
        .map(|one| format!("{}={}/{}", text(one, "type"), text(one, "status"), text(one, "reason")))
        .collect()
}

fn gateway_status_of(fixture: &Fixture, served: &Served) -> serde_json::Value {
    let service = "gateway--edge.shop".parse().unwrap();
    let world = fixture.world();
    gateway_status(world, &service, world.model.gateway(&service).unwrap(), served)
}

#[test]
fn a_gateway_is_programmed_where_a_proxy_has_it_and_listens_for_its_ports() {
    let documents =
        EDGE.replace("name: edge, namespace: shop}", "name: edge, namespace: shop, generation: 7}");
    let routes = [at_edge("shop", "any", ""), at_edge("shop", "org", "hostnames: [www.example.org], ")];
    let fixture = Fixture::new(&format!("{documents}{}", routes.concat()));
    let served = |connected, ports: Option<&[u16]>| Served {
        connected,
        ports: ports.map(|ports| ports.iter().copied().collect()),
    };
    for (served, gateway, web, secure) in [
        (served(false, None), "False/Pending", "False/Pending", "False/Pending"),
        (served(true, None), "False/Pending", "False/Pending", "False/Pending"),
        (served(true, Some(&[80])), "True/Programmed", "True/Programmed", "False/Pending"),
        (served(true, Some(&[80, 443])), "True/Programmed", "True/Programmed", "True/Programmed"),
    ] {
        let status = gateway_status_of(&fixture, &served);
        assert_eq!(said(&status), ["Accepted=True/Accepted".to_owned(), format!("Programmed={gateway}")]);
        for (listener, programmed) in status["listeners"].as_array().unwrap().iter().zip([web, secure]) {
            let expected = [
                "Accepted=True/Accepted".to_owned(),
                format!("Programmed={programmed}"),
                "ResolvedRefs=True/ResolvedRefs".to_owned(),
                "Conflicted=False/NoConflicts".to_owned(),
            ];
            assert_eq!(said(listener), expected, "{listener}");
            assert!(
                listener["conditions"].as_array().unwrap().iter().all(|one| one["observedGeneration"] == 7)
            );
        }
    }
    let status = gateway_status_of(&fixture, &Served::default());
    let listener = |index: usize| &status["listeners"][index];
    let told = |index| {
        (listener(index)["name"].as_str().unwrap(), listener(index)["attachedRoutes"].as_u64().unwrap())
    };
    assert_eq!([told(0), told(1)], [("web", 2), ("secure", 1)]);
    assert_eq!(listener(0)["supportedKinds"][0]["kind"], "HTTPRoute");
}

#[test]
fn listeners_that_cannot_be_served_together_say_so() {
    let served = Served { connected: true, ports: Some([80, 443].into()) };
    let two = |second: &str| {
        let listener = format!("    - {{name: second, {second}}}\n    - {{name: secure");
        Fixture::new(&EDGE.replace("    - {name: secure", &listener))
    };
    for (second, reason, conflicted) in [
        ("port: 80, protocol: HTTPS", "ProtocolConflict", "True/ProtocolConflict"),
        ("port: 80, protocol: HTTP", "HostnameConflict", "True/HostnameConflict"),
        ("port: 53, protocol: UDP", "UnsupportedProtocol", "False/NoConflicts"),
    ] {
        let status = gateway_status_of(&two(second), &served);
        assert_eq!(said(&status), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
        let second = said(&status["listeners"][1]);
        assert_eq!(second[..2], [format!("Accepted=False/{reason}"), "Programmed=False/Invalid".to_owned()]);
        assert_eq!(second[3], format!("Conflicted={conflicted}"));
        assert_eq!(said(&status["listeners"][2])[0], "Accepted=True/Accepted", "the others are well");
    }
    let kinds =
        EDGE.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {kinds: [{kind: TLSRoute}]}}");
    let status = gateway_status_of(&Fixture::new(&format!("{kinds}{}", at_edge("shop", "any", ""))), &served);
    assert_eq!(said(&status["listeners"][0])[2], "ResolvedRefs=False/InvalidRouteKinds");
    assert_eq!(status["listeners"][0]["supportedKinds"], serde_json::json!([]));
    assert_eq!(status["listeners"][0]["attachedRoutes"], 0);
}

#[test]
fn a_routes_reference_to_a_gateway_says_what_came_of_it() {
    let open = EDGE.replace("protocol: HTTP}", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}");
    let at = |route: &str| route.replace("namespace: shop}]", "namespace: shop, sectionName: secure}]");
    for (documents, namespace, accepted, resolved) in [
        (format!("{EDGE}{}", at_edge("shop", "r", "")), "shop", "True/Accepted", "True/ResolvedRefs"),
        (
            format!("{EDGE}{}", at_edge("shop", "r", "hostnames: [a.example.com], ")),
            "shop",
            "True/Accepted",
            "True/ResolvedRefs",
        ),
        (
            format!("{EDGE}{}", at_edge("bank", "r", "")),
            "bank",
            "False/NotAllowedByListeners",
            "False/RefNotPermitted",
        ),
        (format!("{open}{}", at_edge("bank", "r", "")), "bank", "True/Accepted", "False/RefNotPermitted"),
        (
            format!("{EDGE}{}", at(&at_edge("shop", "r", "hostnames: [www.example.org], "))),
            "shop",
            "False/NoMatchingListenerHostname",
            "True/ResolvedRefs",
        ),
        (
            format!("{EDGE}{}", at(&at_edge("shop", "r", "")).replace("secure}]", "other}]")),
            "shop",
            "False/NoMatchingParent",
            "True/ResolvedRefs",
        ),
        (
            format!(
                "{EDGE}{}",
                at_edge("shop", "r", "").replace("name: pay, namespace: shop", "name: absent")
            ),
            "shop",
            "True/Accepted",
            "False/BackendNotFound",
        ),
    ] {
        let fixture = Fixture::new(&documents);
        let key = crate::resources::ResourceKey {
            kind: crate::resources::Kind::HttpRoute,
            namespace: namespace.to_owned(),
            name: "r".to_owned(),
        };
        let statuses = document_status(fixture.world(), &key).unwrap();
        let expected = [format!("Accepted={accepted}"), format!("ResolvedRefs={resolved}")];
        assert_eq!(said(&statuses[0].to_value("parentRef")), expected, "{documents}");
        assert!(
            statuses[0].conditions[0].message.find("Service parent").is_none(),
            "hosts mean something here"
        );
    }
}
