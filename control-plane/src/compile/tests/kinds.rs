//! Routes of other kinds than HTTPRoute, beside and against each other; grants; the Gateway API's own policy; statuses.

use serde_json::json;

use super::*;
use crate::resources::{Kind, ResourceKey};

fn grpc_route(namespace: &str, name: &str, rules: &str) -> String {
    route(namespace, name, ", port: 80", rules).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

fn tcp_route(namespace: &str, name: &str, parent: &str, backends: &str) -> String {
    route(namespace, name, parent, &format!("[{{backendRefs: [{backends}]}}]"))
        .replace("kind: HTTPRoute", "kind: TCPRoute")
}

fn created(text: String, time: &str) -> String {
    text.replace("metadata: {name", &format!("metadata: {{creationTimestamp: '{time}', name"))
}

/// `Accepted` of each reference to `pay`, by the route.
fn accepted(fixture: &Fixture) -> Vec<(String, &'static str)> {
    const REASONS: [&str; 3] = ["Accepted", "NoMatchingParent", "Conflicted"];
    let reason = |status: &RouteStatus| {
        let found = &status.conditions[0];
        assert_eq!(found.status, found.reason == "Accepted", "{found:?}");
        REASONS.into_iter().find(|reason| *reason == found.reason).unwrap()
    };
    let name = |status: &RouteStatus| format!("{} {}", status.kind, status.route);
    fixture.statuses().iter().map(|status| (name(status), reason(status))).collect()
}

fn status_of(fixture: &Fixture, kind: Kind, name: &str) -> serde_json::Value {
    let key = ResourceKey { kind, namespace: "shop".to_owned(), name: name.to_owned() };
    let statuses = document_status(fixture.world(), &key).expect("the document is there");
    statuses.iter().map(|status| status.to_value("parentRef")).collect()
}

// ---- 2.11 GRPCRoute ----

#[test]
fn a_grpc_route_is_about_paths_and_makes_its_port_http2() {
    let rules = format!(
        "[{{name: say, matches: [{{method: {{service: a.B, method: Say}}}}, {{method: {{service: a.B}}, headers: [{{name: X, \
         value: y}}]}}], {TO_PAY}}}, {{name: any, {TO_PAY}}}]"
    );
    let fixture = with_routes(&[grpc_route("shop", "talk", &rules)]);
    let port = fixture.port("pay.shop", "shop", 80);
    let path = |found: &v1::RouteMatch| found.path.clone().unwrap().kind.unwrap();
    let paths: Vec<_> = port.matches.iter().map(path).collect();
    let expected =
        [Path::Exact("/a.B/Say".to_owned()), Path::Prefix("/a.B".to_owned()), Path::Prefix("/".to_owned())];
    assert_eq!(paths, expected);
    assert_eq!(port.matches[1].headers[0].name, "x");
    assert_eq!((port.protocol(), port.routed), (v1::Protocol::Http2, true), "declared as HTTP/1");
    let other = fixture.port("pay.shop", "shop", 8080);
    assert_eq!((other.protocol(), other.routed), (v1::Protocol::Http1, false), "not attached there");
    assert_eq!(target(&port.rules[0].backends[0]), "pay.shop:80");
}

#[test]
fn precedence_of_calls() {
    let order = [
        "{method: {service: aa.LongService, method: Say}}",
        "{method: {service: aa.LongService}, headers: [{name: a, value: b}]}",
        "{method: {service: aa.LongService}}",
        "{method: {service: a.B, method: LongMethod}}",
        "{method: {service: a.B, method: Say}, headers: [{name: a, value: b}, {name: c, value: d}]}",
        "{method: {service: a.B, method: Say}, headers: [{name: a, value: b}]}",
        "{method: {service: a.B, method: Say}}",
        "{method: {service: a.B}, headers: [{name: a, value: b}]}",
        "{method: {method: LongMethod}}",
        "{method: {method: Say}}",
        "{method: {type: RegularExpression, service: 'a[.]VeryLongExpression.*', method: Say}}",
        "{method: {type: RegularExpression, service: 'a.*'}}",
        "{method: {type: RegularExpression, method: 'a.*'}}",
        "{headers: [{name: a, value: b}]}",
        "{}",
    ];
    let rule = |(index, found): (usize, &&str)| format!("{{name: '{index}', matches: [{found}], {TO_PAY}}}");
    let rules: Vec<_> = order.iter().enumerate().map(rule).rev().collect();
    let fixture = with_routes(&[grpc_route("shop", "r", &format!("[{}]", rules.join(", ")))]);
    let expected: Vec<_> = (0..order.len()).map(|index| format!("shop/r/{index}")).collect();
    assert_eq!(fixture.order(), expected);
}

#[test]
fn calls_that_are_alike_go_to_the_older_route_then_the_alphabet() {
    let rules = format!("[{{name: r, {TO_PAY}}}]");
    let fixture = with_routes(&[
        grpc_route("shop", "undated", &rules),
        created(grpc_route("shop", "b", &rules), "2025-01-01T00:00:00Z"),
        created(grpc_route("shop", "a", &rules), "2025-01-01T00:00:00Z"),
        created(grpc_route("shop", "z-old", &rules), "2024-01-01T00:00:00Z"),
    ]);
    assert_eq!(fixture.order(), ["shop/z-old/r", "shop/a/r", "shop/b/r", "shop/undated/r"]);
}

#[test]
fn filters_of_a_grpc_route_are_those_of_an_http_route() {
    let modifier = "{set: [{name: a, value: b}]}";
    let rules = format!(
        "[{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}, {{type: ResponseHeaderModifier, \
         responseHeaderModifier: {modifier}}}], {TO_PAY}}}]"
    );
    let rule = with_routes(&[grpc_route("shop", "r", &rules)]).port("pay.shop", "shop", 80).rules.remove(0);
    assert!(matches!(rule.filters[0].kind, Some(v1::filter::Kind::RequestHeaders(_))));
    assert!(matches!(rule.filters[1].kind, Some(v1::filter::Kind::ResponseHeaders(_))));
}

#[test]
fn an_expression_of_a_call_that_is_wrong_by_itself_drops_its_match() {
    let rules = format!(
        "[{{matches: [{{method: {{type: RegularExpression, service: 'a)|(b'}}}}, {{method: {{service: a}}}}], {TO_PAY}}}]"
    );
    let fixture = with_routes(&[grpc_route("shop", "r", &rules)]);
    assert_eq!(fixture.port("pay.shop", "shop", 80).matches.len(), 1);
    assert_eq!(fixture.statuses()[0].conditions[2].kind, "PartiallyInvalid");
}

// ---- TCPRoute ----

#[test]
fn a_tcp_route_shares_out_whole_connections() {
    let backends = "{name: db-a, port: 5432, weight: 9}, {name: absent, port: 5432}";
    let fixture = with_routes(&[tcp_route("shop", "db", ", port: 5432", backends)])
        .registered("db-a.shop", &[(5432, v1::Protocol::Tcp)]);
    let port = fixture.port("pay.shop", "shop", 5432);
    let shares: Vec<_> = port.tcp_backends.iter().map(|one| (one.weight, target(one))).collect();
    assert_eq!(shares[0], (9, "db-a.shop:5432".to_owned()), "opaque ports are what it is for");
    assert!(shares[1].0 == 1 && shares[1].1.contains("absent.shop does not exist"), "{shares:?}");
    assert!(fixture.port("pay.shop", "shop", 80).tcp_backends.is_empty());
    let compiled = fixture.compile("pay.shop", "shop");
    assert!(compiled.backends.contains(&"db-a.shop".parse().unwrap()));
    assert_eq!(fixture.statuses()[0].conditions[1].reason, "BackendNotFound");
}

#[test]
fn where_something_is_read_a_tcp_route_holds_for_every_request() {
    let fixture = with_routes(&[tcp_route("shop", "all", ", port: 80", "{name: pay-v2, port: 80}")]);
    let port = fixture.port("pay.shop", "shop", 80);
    assert_eq!((port.protocol(), port.routed, port.matches.len()), (v1::Protocol::Http1, true, 1));
    assert_eq!(target(&port.rules[0].backends[0]), "pay-v2.shop:80");
    assert_eq!(port.tcp_backends, port.rules[0].backends);
}

#[test]
fn of_several_tcp_routes_the_oldest_has_every_connection() {
    let backend = "{name: pay, port: 5432}";
    let fixture = with_routes(&[
        tcp_route("shop", "a", ", port: 5432", backend),
        created(tcp_route("shop", "b", ", port: 5432", backend), "2024-01-01T00:00:00Z"),
    ]);
    let expected = [("TCPRoute shop/a".to_owned(), "Conflicted"), ("TCPRoute shop/b".to_owned(), "Accepted")];
    assert_eq!(accepted(&fixture), expected);
    assert_eq!(fixture.port("pay.shop", "shop", 5432).rules.len(), 1);
}

// ---- 2.1 conflicts ----

#[test]
fn of_several_kinds_on_a_port_the_first_wins() {
    let http = route("shop", "http", ", port: 80", &format!("[{{{TO_PAY}}}]"));
    let grpc = grpc_route("shop", "grpc", &format!("[{{{TO_PAY}}}]"));
    let tcp = tcp_route("shop", "tcp", ", port: 80", "{name: pay, port: 80}");
    let (h, g, t) =
        ("HTTPRoute shop/http".to_owned(), "GRPCRoute shop/grpc".to_owned(), "TCPRoute shop/tcp".to_owned());
    let (yes, no) = ("Accepted", "Conflicted");
    for (documents, expected) in [
        (
            vec![http.clone(), grpc.clone(), tcp.clone()],
            vec![(g.clone(), yes), (h.clone(), no), (t.clone(), no)],
        ),
        (vec![http.clone(), tcp.clone()], vec![(h.clone(), yes), (t.clone(), no)]),
        (vec![grpc.clone(), tcp.clone()], vec![(g, yes), (t.clone(), no)]),
        (vec![tcp], vec![(t, yes)]),
    ] {
        let fixture = with_routes(&documents);
        assert_eq!(accepted(&fixture), expected);
        let rules = fixture.port("pay.shop", "shop", 80).rules;
        let winner = expected[0].0.split_once(' ').unwrap().1;
        assert!(rules.iter().all(|rule| rule.route == winner), "{rules:?}");
    }
}

#[test]
fn a_route_that_loses_one_of_its_ports_keeps_the_others() {
    let http = route("shop", "http", "", &format!("[{{{TO_PAY}}}]"));
    let fixture = with_routes(&[http, grpc_route("shop", "grpc", &format!("[{{{TO_PAY}}}]"))]);
    assert_eq!(fixture.port("pay.shop", "shop", 80).rules[0].route, "shop/grpc");
    assert_eq!(fixture.port("pay.shop", "shop", 8080).rules[0].route, "shop/http");
    let accepted = &fixture.statuses()[1].conditions[0];
    assert!(
        accepted.status && accepted.message.contains("port 80 of service pay.shop has GRPCRoute shop/grpc")
    );
}

#[test]
fn consumer_routes_conflict_among_themselves_only() {
    let consumer = route("web", "http", ", port: 80", &format!("[{{{TO_PAY}}}]"));
    let fixture = with_routes(&[consumer, grpc_route("shop", "grpc", &format!("[{{{TO_PAY}}}]"))]);
    assert_eq!(fixture.port("pay.shop", "web", 80).rules[0].route, "web/http");
    assert_eq!(fixture.port("pay.shop", "web", 80).protocol(), v1::Protocol::Http1);
    assert_eq!(fixture.port("pay.shop", "shop", 80).rules[0].route, "shop/grpc");
    assert!(accepted(&fixture).iter().all(|(_, reason)| *reason == "Accepted"));
}

// ---- 2.9 grants ----

const GRANTS: &str = "---
kind: MeshConfig
metadata: {name: mesh}
spec: {routing: {requireReferenceGrants: true}}
---
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {ports: [{port: 80}]}
";

fn grant(from: &str, to: &str) -> String {
    format!(
        "---\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: bank}}\nspec: {{from: [{from}], to: [{to}]}}\n"
    )
}

const FROM_SHOP: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}";
const TO_SERVICES: &str = "{group: '', kind: Service}";

fn to_bank(service: &str) -> String {
    route("shop", "r", "", &format!("[{{backendRefs: [{{name: {service}, namespace: bank, port: 80}}]}}]"))
}

fn resolved(documents: &[String], service: &str) -> (String, String) {
    let mut all = vec![to_bank(service)];
    all.extend_from_slice(documents);
    let fixture = with_routes(&all);
    let backend = target(&fixture.port("pay.shop", "shop", 80).rules[0].backends[0]);
    (fixture.statuses()[0].conditions[1].reason.clone(), backend)
}

#[test]
fn a_reference_into_another_namespace_needs_a_grant_where_the_mesh_says_so() {
    let needed = GRANTS.to_owned();
    let not_needed = GRANTS.replace("true", "false");
    let other_kind = FROM_SHOP.replace("HTTPRoute", "GRPCRoute");
    let other_namespace = FROM_SHOP.replace("shop", "web");
    for (documents, expected) in [
        (vec![not_needed], "ResolvedRefs"),
        (vec![needed.clone()], "RefNotPermitted"),
        (vec![needed.clone(), grant(FROM_SHOP, TO_SERVICES)], "ResolvedRefs"),
        (vec![needed.clone(), grant(FROM_SHOP, "{group: '', kind: Service, name: ledger}")], "ResolvedRefs"),
        (
            vec![needed.clone(), grant(FROM_SHOP, "{group: '', kind: Service, name: other}")],
            "RefNotPermitted",
        ),
        (vec![needed.clone(), grant(FROM_SHOP, "{group: '', kind: Secret}")], "RefNotPermitted"),
        (vec![needed.clone(), grant(&other_kind, TO_SERVICES)], "RefNotPermitted"),
        (vec![needed.clone(), grant(&other_namespace, TO_SERVICES)], "RefNotPermitted"),
        (
            vec![needed.clone(), grant(&format!("{other_namespace}, {FROM_SHOP}"), TO_SERVICES)],
            "ResolvedRefs",
        ),
        (
            vec![needed, grant(FROM_SHOP, TO_SERVICES).replace("namespace: bank", "namespace: shop")],
            "RefNotPermitted",
        ),
    ] {
        assert_eq!(resolved(&documents, "ledger").0, expected, "{documents:?}");
    }
}

#[test]
fn without_a_grant_what_is_there_and_what_is_not_look_the_same() {
    let answers = ["ledger", "nobody"].map(|service| {
        let (reason, backend) = resolved(&[GRANTS.to_owned()], service);
        (reason, backend.replace(service, "X"))
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_grant_that_comes_or_goes_is_about_the_routes_that_need_it() {
    let base = format!("{PAY}{}{GRANTS}", to_bank("ledger"));
    let mut fixture = Fixture::new(&base);
    let with_grant = Arc::new(documents(&format!("{base}{}", grant(FROM_SHOP, TO_SERVICES))));
    let pay = BTreeSet::from(["pay.shop".parse().unwrap()]);
    assert_eq!(fixture.model.replace(with_grant).services, pay);
    assert_eq!(fixture.statuses()[0].conditions[1].reason, "ResolvedRefs");
    assert_eq!(fixture.model.replace(Arc::new(documents(&base))).services, pay);
    assert_eq!(fixture.statuses()[0].conditions[1].reason, "RefNotPermitted");
}

// ---- 2.6 XBackendTrafficPolicy ----

fn traffic_policy(name: &str, target: &str, constraint: &str) -> String {
    format!(
        "---\nkind: XBackendTrafficPolicy\nmetadata: {{name: {name}, namespace: shop, generation: 4}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {target}}}], retryConstraint: {constraint}}}\n"
    )
}

const CONSTRAINT: &str = "{budget: {percent: 50, interval: 1m}, minRetryRate: {count: 3, interval: 10s}}";

#[test]
fn the_gateway_apis_retry_budget_is_ours() {
    let budget = |documents: &[String]| {
        let policy = with_routes(documents).compile("pay.shop", "shop").message.policy.unwrap();
        let times = (millis(&policy.retry_budget_window), millis(&policy.retry_budget_interval));
        (policy.retry_budget_percent, policy.retry_budget_per_second, times)
    };
    let theirs = traffic_policy("t", "pay", CONSTRAINT);
    let ours = |spec: &str| {
        format!(
            "---\nkind: ServicePolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{name: pay}}]{spec}}}\n"
        )
    };
    assert_eq!(budget(&[]), (20, 10, (None, None)));
    assert_eq!(budget(std::slice::from_ref(&theirs)), (50, 3, (Some(60_000), Some(10_000))));
    let set = ours(", retryBudget: {percent: 5}");
    assert_eq!(budget(&[theirs.clone(), set]), (5, 10, (None, None)), "ours goes before, whole");
    assert_eq!(budget(&[theirs.clone(), ours("")]).0, 50, "one that says nothing of retries leaves them");
    let older = created(traffic_policy("z", "pay", "{budget: {percent: 7}}"), "2020-01-01T00:00:00Z");
    assert_eq!(budget(&[theirs, older]).0, 7, "the oldest holds");
}

#[test]
fn the_status_of_a_traffic_policy_says_what_became_of_it() {
    let first = |documents: &[String], name: &str| {
        let status = status_of(&with_routes(documents), Kind::BackendTrafficPolicy, name);
        let condition = &status[0]["conditions"][0];
        assert_eq!(condition["observedGeneration"], 4);
        condition["reason"].as_str().unwrap().to_owned()
    };
    let good = traffic_policy("t", "pay", CONSTRAINT);
    assert_eq!(first(std::slice::from_ref(&good), "t"), "Accepted");
    assert_eq!(first(&[traffic_policy("t", "nobody", CONSTRAINT)], "t"), "TargetNotFound");
    let bucket = good.replace("group: '', kind: Service", "group: example.com, kind: Bucket");
    assert_eq!(first(&[bucket], "t"), "Invalid");
    let rival = traffic_policy("a", "pay", CONSTRAINT);
    assert_eq!(first(&[good.clone(), rival], "t"), "Conflicted");
    let ours = "---\nkind: ServicePolicy\nmetadata: {name: p, namespace: shop}\n\
                spec: {targetRefs: [{name: pay}], retryBudget: {percent: 5}}\n";
    assert_eq!(first(&[good, ours.to_owned()], "t"), "Conflicted");
}

#[test]
fn a_session_is_the_rules_then_ours_then_the_gateway_apis_of_parent_and_backend() {
    use v1::session::Carrier;
    let theirs = |target: &str, name: &str| {
        traffic_policy(target, target, "{}")
            .replace(
                "retryConstraint: {}",
                &format!("sessionPersistence: {{type: Header, sessionName: {name}}}"),
            )
            .replace("generation: 4", &format!("uid: u-{target}"))
    };
    let route = route(
        "shop",
        "r",
        "",
        "[{sessionPersistence: {type: Header, sessionName: own}, backendRefs: [{name: pay-v2, port: 80}]}, \
          {backendRefs: [{name: gone, port: 80}, {name: pay, port: 80}, {name: pay-v2, port: 80}]}]",
    );
    let ours = "---\nkind: ServicePolicy\nmetadata: {name: p, namespace: shop}\n\
                spec: {targetRefs: [{name: pay}], sessionPersistence: {type: Header, sessionName: ours}}\n"
        .to_owned();
    let name = |session: &Option<v1::Session>| match session.as_ref().and_then(|one| one.carrier.clone()) {
        Some(Carrier::Header(name)) => name,
        Some(Carrier::Cookie(cookie)) => cookie.name,
        None => "none".to_owned(),
    };
    let (parent, backend) = (theirs("pay", "parent"), theirs("pay-v2", "backend"));
    for (policies, of_rule, of_service) in [
        (vec![], "none", "none"),
        (vec![backend.clone()], "backend", "none"),
        (vec![backend.clone(), parent.clone()], "parent", "parent"),
        (vec![backend, parent, ours], "ours", "ours"),
    ] {
        let documents: Vec<String> = [route.clone()].into_iter().chain(policies).collect();
        let compiled = with_routes(&documents).compile("pay.shop", "shop").message;
        let rules = &compiled.ports.iter().find(|port| port.port == 80).unwrap().rules;
        let names =
            (name(&rules[0].session), name(&rules[1].session), name(&compiled.policy.unwrap().session));
        assert_eq!(names, ("own".to_owned(), of_rule.to_owned(), of_service.to_owned()));
    }
}

#[test]
fn a_traffic_policy_is_accepted_as_long_as_a_part_of_it_holds() {
    let theirs = |parts: &str| traffic_policy("t", "pay", "{}").replace("retryConstraint: {}", parts);
    let ours = |part: &str| {
        format!(
            "---\nkind: ServicePolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{name: pay}}], {part}}}\n"
        )
    };
    let (budget, session) = ("retryBudget: {percent: 5}", "sessionPersistence: {}");
    for (parts, part, expected) in [
        ("retryConstraint: {}, sessionPersistence: {}", budget, ("True", "Accepted")),
        ("retryConstraint: {}, sessionPersistence: {}", session, ("True", "Accepted")),
        ("sessionPersistence: {}", session, ("False", "Conflicted")),
        ("sessionPersistence: {}", budget, ("True", "Accepted")),
        ("retryConstraint: {}", budget, ("False", "Conflicted")),
    ] {
        let fixture = with_routes(&[theirs(parts), ours(part)]);
        let condition = status_of(&fixture, Kind::BackendTrafficPolicy, "t")[0]["conditions"][0].clone();
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!(expected.0), &json!(expected.1)),
            "{parts}, {part}"
        );
        let is_said = condition["message"].as_str().unwrap().contains("ServicePolicy p sets the");
        assert_eq!(
            is_said,
            parts.contains(part.split(':').next().unwrap()) || parts.contains("Constraint") && part == budget
        );
    }
}

// ---- 2.2 what a backend's port speaks ----

#[test]
fn calls_need_a_port_that_does_not_say_http1() {
    let service = |port: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: talk, namespace: shop}}\nspec: {{ports: [{{port: 80, {port}}}]}}\n"
        )
    };
    let rules = "[{backendRefs: [{name: talk, port: 80}]}]";
    for (port, grpc, http) in [
        ("appProtocol: http", "UnsupportedProtocol", "ResolvedRefs"),
        ("appProtocol: kubernetes.io/ws", "UnsupportedProtocol", "ResolvedRefs"),
        ("appProtocol: tcp", "UnsupportedProtocol", "UnsupportedProtocol"),
        ("name: http", "ResolvedRefs", "ResolvedRefs"),
        ("name: http, appProtocol: grpc", "ResolvedRefs", "ResolvedRefs"),
        ("appProtocol: kubernetes.io/h2c", "ResolvedRefs", "ResolvedRefs"),
        ("appProtocol: example.com/own", "ResolvedRefs", "ResolvedRefs"),
        ("name: web", "ResolvedRefs", "ResolvedRefs"),
    ] {
        for (route, expected) in
            [(grpc_route("shop", "r", rules), grpc), (route("shop", "r", "", rules), http)]
        {
            let fixture = with_routes(&[service(port), route]);
            let resolved = fixture.statuses()[0].conditions[1].clone();
            assert_eq!(
                (resolved.status, &*resolved.reason),
                (expected == "ResolvedRefs", expected),
                "{port}"
            );
            let backend = fixture.port("pay.shop", "shop", 80).rules[0].backends[0].clone();
            assert_eq!(target(&backend).starts_with("UnsupportedProtocol: "), !resolved.status, "{port}");
        }
    }
}

// ---- 2.8 status ----

#[test]
fn every_parent_that_is_there_has_its_own_conditions() {
    let text = route("shop", "r", "", &format!("[{{{TO_PAY}}}]"))
        .replace("metadata: {name: r", "metadata: {generation: 3, name: r")
        .replace(
            "{group: '', kind: Service, name: pay, namespace: shop}",
            "{group: '', kind: Service, name: pay, port: 80}, {group: core, kind: Service, name: pay, port: 81}, \
             {group: '', kind: Service, name: nobody}, {group: gateway.networking.k8s.io, kind: Gateway, name: gw}",
        );
    let status = status_of(&with_routes(&[text]), Kind::HttpRoute, "r");
    let entries = status.as_array().unwrap();
    let parents: Vec<_> = entries.iter().map(|entry| entry["parentRef"].clone()).collect();
    assert_eq!(
        parents,
        [
            json!({"group": "", "kind": "Service", "name": "pay", "port": 80}),
            json!({"group": "core", "kind": "Service", "name": "pay", "port": 81}),
        ],
        "as they were written; what is not there, or not of the mesh, has no entry"
    );
    assert_eq!(entries[0]["controllerName"], "outrigger.dev/control-plane");
    let accepted = &entries[0]["conditions"][0];
    assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));
    assert_eq!(accepted["observedGeneration"], 3);
    let refused = &entries[1]["conditions"][0];
    assert_eq!((&refused["status"], &refused["reason"]), (&json!("False"), &json!("NoMatchingParent")));
}

#[test]
fn a_route_of_which_nothing_can_be_used_is_not_accepted_and_refuses_requests() {
    let rules = "[{matches: [{path: {type: RegularExpression, value: '('}}]}]";
    let fixture = with_routes(&[route("shop", "r", "", rules)]);
    let conditions = &fixture.statuses()[0].conditions;
    assert_eq!((conditions[0].status, &*conditions[0].reason), (false, "UnsupportedValue"));
    assert!(conditions.iter().all(|condition| condition.kind != "PartiallyInvalid"));
    let port = fixture.port("pay.shop", "shop", 80);
    assert!(port.routed && port.matches.is_empty(), "it fails closed");
}
