//! Each family by a table: documents, and what is said of which field.

use super::*;
use crate::compile::tests::documents;

const PAY: &str = "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80, name: http}]}
";

/// A route to `pay` with these lines of its spec.
fn route(name: &str, rules: &str) -> String {
    format!(
        "---
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: pay}}]
  rules: {rules}
"
    )
}

fn found(yaml: &str, sight: Sight) -> Vec<String> {
    let findings = lint(&documents(yaml), sight);
    findings
        .iter()
        .map(|one| format!("{} {}: {}", one.key, one.problem.field(), one.problem.message()))
        .collect()
}

/// Asserts that this is found, and nothing else.
#[track_caller]
fn assert_found(yaml: &str, expected: &[&str]) {
    let found = found(yaml, Sight::Set);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}

const TO_PAY: &str = "backendRefs: [{name: pay, port: 80}]";

#[test]
fn documents_that_are_as_they_should_be_are_not_found_fault_with() {
    let rules = format!(
        "[{{matches: [{{path: {{value: /a}}, method: GET}}, {{path: {{value: /a}}}}], {TO_PAY},
           timeouts: {{request: 2s, backendRequest: 1s}}, retry: {{attempts: 2, codes: [503]}}}}, {{{TO_PAY}}}]"
    );
    assert_found(&(PAY.to_owned() + &route("a", &rules)), &[]);
}

#[test]
fn a_rule_that_no_request_gets_to_is_found_with_what_comes_first() {
    let same = format!("[{{matches: [{{path: {{value: /a}}}}], {TO_PAY}}}]");
    assert_found(
        &(PAY.to_owned() + &route("a", &same) + &route("b", &same)),
        &[
            "HTTPRoute shop/b spec.rules[0]: no request gets to this rule: what it matches is taken by HTTPRoute shop/a \
           spec.rules[0], which comes first",
        ],
    );
    let twice = format!("[{{{TO_PAY}}}, {{{TO_PAY}}}]");
    assert_found(
        &(PAY.to_owned() + &route("a", &twice)),
        &["HTTPRoute shop/a spec.rules[1]: no request gets to this rule"],
    );
}

#[test]
fn a_match_that_another_takes_everything_from_is_found_and_the_rule_stays() {
    let rules = format!(
        "[{{matches: [{{path: {{type: RegularExpression, value: '/.*'}}}}], {TO_PAY}}},
          {{matches: [{{path: {{value: /a}}}}, {{path: {{type: Exact, value: /b}}}}], {TO_PAY}}}]"
    );
    assert_found(
        &(PAY.to_owned() + &route("a", &rules)),
        &[
            "HTTPRoute shop/a spec.rules[1]: no request gets here by path /a/*: HTTPRoute shop/a spec.rules[0] comes first",
        ],
    );
}

#[test]
fn one_match_covers_another_only_where_it_asks_for_nothing_more() {
    let first = |fields: &str| format!("{{path: {{type: RegularExpression, value: '.*'}}{fields}}}");
    for (by, shadows) in [
        (first(""), true),
        (first(", method: GET"), true),
        (first(", method: PUT"), false),
        (first(", headers: [{name: x-a, value: b}]"), true),
        (first(", headers: [{name: x-a, value: c}]"), false),
        (first(", queryParams: [{name: q, value: r}]"), false),
    ] {
        let rules = format!(
            "[{{matches: [{by}], {TO_PAY}}},
              {{matches: [{{path: {{value: /a}}, method: GET, headers: [{{name: X-A, value: b}}]}}], {TO_PAY}}}]"
        );
        let found = found(&(PAY.to_owned() + &route("a", &rules)), Sight::Set);
        assert_eq!(!found.is_empty(), shadows, "{by}: {found:?}");
    }
}

#[test]
fn an_attempt_longer_than_its_request_is_found_wherever_the_request_gets_its_time() {
    let rules = format!("[{{{TO_PAY}, timeouts: {{backendRequest: 5s}}}}]");
    let policy = "---
kind: ServicePolicy
metadata: {name: pay, namespace: shop}
spec: {targetRefs: [{group: '', kind: Service, name: pay}], defaults: {timeouts: {request: 3s}}}
";
    assert_found(
        &(PAY.to_owned() + &route("a", &rules) + policy),
        &[
            "HTTPRoute shop/a spec.rules[0].timeouts.backendRequest: is longer than the timeout of the whole request, 3s \
           (ServicePolicy shop/pay spec.defaults.timeouts.request)",
        ],
    );
    let mesh = "---
kind: MeshConfig
metadata: {name: mesh}
spec: {defaults: {timeouts: {request: 1s}}}
";
    let policy = policy.replace("request: 3s", "backendRequest: 2s");
    assert_found(
        &(PAY.to_owned() + &policy + mesh),
        &[
            "ServicePolicy shop/pay spec.defaults.timeouts.backendRequest: is longer than the timeout of the whole \
           request, 1s (MeshConfig mesh)",
        ],
    );
}

#[test]
fn retries_that_never_happen_or_happen_twice_are_found() {
    let rules = format!(
        "[{{matches: [{{method: POST}}], {TO_PAY}, retry: {{codes: [503]}}}}, {{{TO_PAY}, retry: {{attempts: 2}}}}]"
    );
    let policy = "---
kind: ServicePolicy
metadata: {name: pay, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: pay}]
  defaults: {retry: {codes: [503], nonIdempotent: true}}
";
    assert_found(
        &(PAY.to_owned() + &route("a", &rules) + policy),
        &[
            "HTTPRoute shop/a spec.rules[0].retry: every match names POST",
            "HTTPRoute shop/a spec.rules[1].retry: lists no codes",
            "ServicePolicy shop/pay spec.defaults.retry.nonIdempotent: methods that are not idempotent",
        ],
    );
}

#[test]
fn references_to_nothing_are_found_in_a_set_and_left_to_the_conditions_in_a_mesh() {
    let rules = "[{backendRefs: [{name: gone, port: 80}, {name: pay, port: 81}]}]";
    let yaml = PAY.to_owned()
        + &route("a", rules)
        + &route("b", "[{backendRefs: [{name: pay, port: 80}]}]")
            .replace("kind: Service, name: pay", "kind: Service, name: absent");
    assert_found(
        &yaml,
        &[
            "HTTPRoute shop/a spec.rules[0].backendRefs[0].name: a share of the requests goes to service gone.shop",
            "HTTPRoute shop/a spec.rules[0].backendRefs[1].port: service pay.shop declares no port 81",
            "HTTPRoute shop/b spec.parentRefs[0].name: the route is attached to service absent.shop",
        ],
    );
    assert_eq!(found(&yaml, Sight::Mesh), [""; 0]);
}

#[test]
fn rules_that_send_nothing_anywhere_are_found() {
    let rules = "[{matches: [{path: {value: /a}}]}, {backendRefs: [{name: pay, port: 80, weight: 0}]}]";
    assert_found(
        &(PAY.to_owned() + &route("a", rules)),
        &[
            "HTTPRoute shop/a spec.rules[0]: has no backend",
            "HTTPRoute shop/a spec.rules[1].backendRefs: every weight is 0",
        ],
    );
}

#[test]
fn a_filter_that_names_nothing_is_found() {
    let rules = format!(
        "[{{{TO_PAY}, filters: [{{type: ExtensionRef, extensionRef:
           {{group: outrigger.dev, kind: FaultInjection, name: slow}}}}]}}]"
    );
    assert_found(
        &(PAY.to_owned() + &route("a", &rules)),
        &["HTTPRoute shop/a spec.rules[0].filters[0].extensionRef: there is no FaultInjection shop/slow"],
    );
}

#[test]
fn a_second_policy_for_one_service_is_found() {
    let policy = |name: &str| {
        format!(
            "---\nkind: ServicePolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: pay}}]}}\n"
        )
    };
    assert_found(
        &(PAY.to_owned() + &policy("a") + &policy("b")),
        &[
            "ServicePolicy shop/b spec.targetRefs[0]: has no effect: ServicePolicy shop/a names service pay.shop",
        ],
    );
}

#[test]
fn a_literal_path_that_no_request_has_is_found_with_the_form_to_write() {
    for (path, normal) in [
        ("/a%7Eb", Some("/a~b")),
        ("/%61", Some("/a")),
        ("/caf%c3%a9", Some("/caf%C3%A9")),
        ("/caf\u{e9}", Some("/caf%C3%A9")),
        ("/a b", Some("/a%20b")),
        ("/a%", Some("/a%25")),
        ("/a?b", Some("/a%3Fb")),
        ("/a%20b/", None),
        ("/a/", None),
        ("/", None),
        ("/a;b=c,d", None),
    ] {
        for kind in ["Exact", "PathPrefix"] {
            let rules = format!("[{{matches: [{{path: {{type: {kind}, value: '{path}'}}}}], {TO_PAY}}}]");
            let limits = format!(
                "---\nkind: RateLimitPolicy\nmetadata: {{name: l, namespace: shop}}\nspec: {{targetRefs: [{{name: pay}}], \
                 limits: [{{requests: 1}}, {{requests: 1, matches: [{{path: {{type: {kind}, value: '{path}'}}}}]}}]}}\n"
            );
            let yaml = PAY.to_owned() + &route("a", &rules) + &limits;
            let said = normal.map(|normal| format!("no request has a path with {path:?}: paths are brought to their normal form first; write {normal:?}"));
            let at = ["HTTPRoute shop/a spec.rules[0]", "RateLimitPolicy shop/l spec.limits[1]"];
            let expected =
                said.iter().flat_map(|said| at.map(|at| format!("{at}.matches[0].path.value: {said}")));
            let expected: Vec<String> = expected.collect();
            assert_found(&yaml, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    let expression =
        format!("[{{matches: [{{path: {{type: RegularExpression, value: '/%7E.*'}}}}], {TO_PAY}}}]");
    assert_found(&(PAY.to_owned() + &route("a", &expression)), &[]);
    let as_sent = "---\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {pathNormalization: None}\n";
    let rules = format!("[{{matches: [{{path: {{value: '/%7E'}}}}], {TO_PAY}}}]");
    assert_found(&(PAY.to_owned() + &route("a", &rules) + as_sent), &[]);
}

/// A document of ours in `shop`.
fn ours(kind: &str, name: &str, spec: &str) -> String {
    format!("---\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

#[test]
fn every_kind_that_a_rule_refers_to_is_looked_for() {
    for kind in ["FaultInjection", "RateLimitPolicy", "ServicePolicy"] {
        let filter =
            format!("{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: x}}}}");
        for (rule, at) in [
            (format!("{{{TO_PAY}, filters: [{filter}]}}"), "spec.rules[0].filters[0]"),
            (
                format!("{{backendRefs: [{{name: pay, port: 80, filters: [{filter}]}}]}}"),
                "spec.rules[0].backendRefs[0].filters[0]",
            ),
        ] {
            let expected = format!("HTTPRoute shop/a {at}.extensionRef: there is no {kind} shop/x");
            assert_found(&(PAY.to_owned() + &route("a", &format!("[{rule}]"))), &[&expected]);
        }
    }
}

#[test]
fn a_policy_that_is_for_rules_and_has_none_is_found_and_what_rules_do_not_take() {
    for (kind, spec) in [
        ("FaultInjection", "{abort: {httpStatus: 500}}"),
        ("RateLimitPolicy", "{limits: [{requests: 1}]}"),
        ("ServicePolicy", "{defaults: {timeouts: {request: 1s}}}"),
    ] {
        let filter =
            format!("{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: x}}}}");
        let rules = format!("[{{{TO_PAY}, filters: [{filter}]}}]");
        let expected = format!("{kind} shop/x spec: has no effect: no rule of a route refers to it");
        assert_found(&(PAY.to_owned() + &ours(kind, "x", spec)), &[&expected]);
        assert_found(&(PAY.to_owned() + &ours(kind, "x", spec) + &route("a", &rules)), &[]);
    }
    let filter = "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: x}}";
    let policy =
        ours("ServicePolicy", "x", "{hedging: {delay: 1s}, limits: {maxConnections: 1}, fallback: {}}");
    assert_found(
        &(PAY.to_owned() + &policy + &route("a", &format!("[{{{TO_PAY}, filters: [{filter}]}}]"))),
        &["ServicePolicy shop/x spec.limits: has no effect for a rule"],
    );
}

#[test]
fn what_stands_on_the_wrong_side_of_the_meshs_edge_is_found() {
    let outside = "---\nkind: Service\nmetadata: {name: api, namespace: shop}\n\
                   spec: {type: ExternalName, externalName: api.example.com, ports: [{port: 443}]}\n";
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: api, port: 443}}}";
    let tls = |target: &str| {
        ours(
            "BackendTLSPolicy",
            "t",
            &format!(
                "{{targetRefs: [{{group: '', kind: Service, name: {target}}}], validation: {{hostname: x, wellKnownCACertificates: System}}}}"
            ),
        )
    };
    let to_api = |spec: &str| format!("{{targetRefs: [{{group: '', kind: Service, name: api}}], {spec}}}");
    for (document, expected) in [
        (
            route("a", &format!("[{{{TO_PAY}, filters: [{mirror}]}}]")),
            "HTTPRoute shop/a spec.rules[0].filters[0].requestMirror.backendRef: has no effect: hosts outside",
        ),
        (
            route("a", &format!("[{{{TO_PAY}}}]"))
                .replace("kind: Service, name: pay", "kind: Service, name: api"),
            "HTTPRoute shop/a spec.parentRefs[0]: is headless or outside the mesh",
        ),
        (
            ours("AccessPolicy", "p", &to_api("rules: [{}]")),
            "AccessPolicy shop/p spec.targetRefs[0]: has no effect: no proxy stands beside api.shop",
        ),
        (
            ours("RateLimitPolicy", "l", &to_api("limits: [{requests: 1}]")),
            "RateLimitPolicy shop/l spec.targetRefs[0]: has no effect: no proxy",
        ),
        (tls("pay"), "BackendTLSPolicy shop/t spec.targetRefs[0]: has no effect: pay.shop is in the mesh"),
        (
            tls("gone"),
            "BackendTLSPolicy shop/t spec.targetRefs[0].name: the policy holds for service gone.shop",
        ),
    ] {
        assert_found(&(PAY.to_owned() + outside + &document), &[expected]);
    }
    assert_found(&(PAY.to_owned() + outside + &tls("api")), &[]);
}

#[test]
fn weights_to_nothing_and_missing_services_are_found_in_routes_of_every_kind() {
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        let of = |rules: &str| route("a", rules).replace("kind: HTTPRoute", &format!("kind: {kind}"));
        let nothing = of("[{backendRefs: [{name: pay, port: 80, weight: 0}]}]");
        let gone = of("[{backendRefs: [{name: gone, port: 80}]}]");
        let at_gateway = gone.replace("group: '', kind: Service, name: pay", "name: edge");
        let weights = format!("{kind} shop/a spec.rules[0].backendRefs: every weight is 0");
        let missing = format!(
            "{kind} shop/a spec.rules[0].backendRefs[0].name: a share of the requests goes to service gone.shop"
        );
        assert_found(&(PAY.to_owned() + &nothing), &[&weights]);
        assert_found(&(PAY.to_owned() + &gone), &[&missing]);
        assert_found(&(PAY.to_owned() + &at_gateway), &[&missing]);
    }
}

#[test]
fn a_warning_leads_to_the_line_of_its_field() {
    let yaml = "\
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: pay}]
  rules:
  - backendRefs:
    - {name: pay, port: 80}
  - backendRefs:
    - {name: pay, port: 80}
";
    let parsed = crate::resources::parse(yaml, crate::resources::Format::Yaml).unwrap();
    let warnings = warnings(&parsed);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((warnings[0].document, warnings[0].line), (Some(2), Some(14)), "{warnings:?}");
    assert_eq!(warnings[0].resource.as_deref(), Some("HTTPRoute shop/a"));
}

#[test]
fn a_service_that_nobody_may_call_is_found_with_what_keeps_everybody_out() {
    let policy = |spec: &str| {
        format!("---\nkind: AccessPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n")
    };
    for (spec, expected) in [
        ("{targetRefs: [{name: pay}], action: Deny, rules: [{}]}", "AccessPolicy shop/p denies everybody"),
        ("{targetRefs: [{kind: Namespace, name: shop}], defaultMode: Deny}", "the mode is Deny"),
        ("{targetRefs: [{name: pay}], rules: [{to: [{ports: [81]}]}]}", "AccessPolicy shop/p allows only"),
    ] {
        let found = found(&(PAY.to_owned() + &policy(spec)), Sight::Set);
        assert_eq!(found.len(), 1, "{spec}: {found:?}");
        assert!(found[0].starts_with("Service shop/pay spec: nobody may call it: "), "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
    let open = policy("{targetRefs: [{name: pay}], rules: [{from: [{namespaces: [shop]}]}]}");
    assert_found(&(PAY.to_owned() + &open), &[]);
}
