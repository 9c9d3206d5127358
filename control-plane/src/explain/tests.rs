use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::compile::tests::documents;
use crate::model::Model;
use crate::resources::{Kind, schema_of};

const SHOP: &str = "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80, name: http}]}
---
kind: ServicePolicy
metadata: {name: pay, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: pay}]
  circuitBreaker: {minOpen: 2s}
  defaults: {timeouts: {request: 3s}, retry: {attempts: 4}}
---
kind: MeshConfig
metadata: {name: mesh}
spec:
  tracing: {samplingRatio: 0.5}
  defaults: {timeouts: {request: 9s, backendRequest: 500ms}, retry: {codes: [503], backoff: 1s}}
---
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: pay}]
  rules:
  - name: first
    backendRefs: [{name: pay, port: 80}]
  - timeouts: {request: 1s}
    retry: {codes: [500]}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: b}], remove: [x-c]}
    backendRefs: [{name: pay, port: 80}]
---
kind: HTTPRoute
metadata: {name: b, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: pay}]
  rules: [{backendRefs: [{name: pay, port: 80}]}]
";

fn explained(yaml: &str) -> CompiledService {
    let mut model = Model::default();
    model.replace(Arc::new(documents(yaml)));
    let world = World { model: &model, registered: &HashMap::new() };
    explain(world, &"pay.shop".parse().unwrap(), "shop", Vec::new()).unwrap()
}

fn shown(settings: &[Setting], name: &str) -> String {
    let setting = settings.iter().find(|setting| setting.name == name).unwrap_or_else(|| panic!("{name}"));
    let source = setting.source.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string);
    format!("{} ({source})", setting.value)
}

#[test]
fn each_value_is_shown_with_the_field_that_says_so() {
    let explained = explained(SHOP);
    for (name, expected) in [
        ("circuitBreaker.minOpen", "2s (ServicePolicy shop/pay spec.circuitBreaker.minOpen)"),
        ("circuitBreaker.maxOpen", "1m (default)"),
        ("loadBalancer.type", "PeakEwma (default)"),
        ("defaults.timeouts.request", "3s (ServicePolicy shop/pay spec.defaults.timeouts.request)"),
        ("defaults.timeouts.backendRequest", "500ms (MeshConfig mesh spec.defaults.timeouts.backendRequest)"),
        ("defaults.retry.attempts", "4 (ServicePolicy shop/pay spec.defaults.retry.attempts)"),
    ] {
        assert_eq!(shown(&explained.settings, name), expected, "{name}");
    }
    for (name, expected) in [
        ("tracing.samplingRatio", "0.5 (MeshConfig mesh spec.tracing.samplingRatio)"),
        ("mtls.mode", "Strict (default)"),
    ] {
        assert_eq!(shown(&explained.mesh_settings, name), expected, "{name}");
        assert!(explained.settings.iter().all(|setting| setting.name != name), "{name} is the mesh's");
    }
}

#[test]
fn a_retry_budget_of_the_gateway_api_is_shown_as_such() {
    let theirs = "---
kind: XBackendTrafficPolicy
metadata: {name: budget, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: pay}]
  retryConstraint: {budget: {percent: 5, interval: 1m}}
";
    let all = explained(&format!("{SHOP}{theirs}")).settings;
    let at = "XBackendTrafficPolicy shop/budget spec.retryConstraint";
    assert_eq!(shown(&all, "retryBudget.percent"), format!("5 ({at}.budget.percent)"));
    assert_eq!(shown(&all, "retryBudget.minPerSecond"), "10 (default)");
    assert_eq!(shown(&all, "retryConstraint.budget.interval"), format!("1m ({at}.budget.interval)"));
    let none = explained(SHOP).settings;
    assert!(none.iter().all(|setting| !setting.name.starts_with("retryConstraint")), "{none:?}");
}

#[test]
fn a_retry_that_is_written_takes_nothing_from_the_mesh() {
    let explained = explained(SHOP);
    assert_eq!(shown(&explained.settings, "defaults.retry.backoff"), "25ms (default)");
    assert_eq!(shown(&explained.settings, "defaults.retry.codes"), "none (default)");
}

#[test]
fn a_rule_is_found_in_its_route_and_says_what_it_says_itself() {
    let explained = explained(SHOP);
    let rules = &explained.ports[0].rules;
    let places: Vec<String> = rules.iter().map(|rule| rule.source.to_string()).collect();
    assert_eq!(
        places,
        [
            "HTTPRoute shop/a spec.rules[0]",
            "HTTPRoute shop/a spec.rules[1]",
            "HTTPRoute shop/b spec.rules[0]"
        ]
    );
    assert_eq!(rules[0].rule, "first");
    let request = |rule: &RuleOrigin| shown(&rule.settings, "defaults.timeouts.request");
    assert_eq!(request(&rules[0]), "3s (ServicePolicy shop/pay spec.defaults.timeouts.request)");
    assert_eq!(request(&rules[1]), "1s (HTTPRoute shop/a spec.rules[1].timeouts.request)");
    assert_eq!(
        shown(&rules[1].settings, "defaults.retry.codes"),
        "500 (HTTPRoute shop/a spec.rules[1].retry.codes)"
    );
    assert_eq!(shown(&rules[1].settings, "defaults.retry.attempts"), "1 (default)");
    let filters: Vec<_> = rules[1].filters.iter().map(|one| (&*one.what, one.source.to_string())).collect();
    let at = "HTTPRoute shop/a spec.rules[1].filters[0]".to_owned();
    assert_eq!(filters, [("request headers: set x-a: b, remove x-c", at)]);
}

#[test]
fn the_message_is_the_one_that_proxies_are_sent() {
    let explained = explained(SHOP);
    let message: v1::Service = explained.service.read().unwrap();
    assert_eq!(message.ports[0].rules.len(), explained.ports[0].rules.len());
    assert_eq!(message.policy.unwrap().breaker.unwrap().min_open.unwrap().seconds, 2);
    assert_eq!(explained.mesh.read::<v1::MeshSettings>().unwrap().sampling_ratio, 0.5);
}

/// The dotted paths of everything below `spec` that is no object.
fn leaves(kind: Kind) -> BTreeSet<String> {
    fn walk(root: &Value, schema: &Value, path: &str, leaves: &mut BTreeSet<String>) {
        if let Some(target) = schema["$ref"].as_str() {
            let target = root.pointer(target.trim_start_matches('#')).expect("a schema that is defined");
            return walk(root, target, path, leaves);
        }
        let ways = ["anyOf", "oneOf", "allOf"].iter().filter_map(|way| schema[way].as_array()).flatten();
        let way = ways.into_iter().find(|way| way["$ref"].is_string() || way["properties"].is_object());
        match (way, schema["properties"].as_object()) {
            (_, Some(fields)) => {
                for (name, field) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(root, field, &path, leaves);
                }
            }
            (Some(way), None) => walk(root, way, path, leaves),
            (None, None) => drop(leaves.insert(path.to_owned())),
        }
    }
    let schema = schema_of(kind);
    let mut found = BTreeSet::new();
    walk(schema, &schema["properties"]["spec"], "", &mut found);
    found
}

fn lines() -> BTreeSet<&'static str> {
    let requests = settings::request_lines::<v1::Rule>().into_iter().map(|line| line.name);
    let policy = settings::policy_lines().into_iter().map(|line| line.name).chain(requests);
    let inbound = settings::inbound_lines().into_iter().map(|line| line.name);
    let mesh = settings::mesh_lines().into_iter().map(|line| line.name);
    let documents = settings::documents_lines().into_iter().map(|line| line.name);
    policy.chain(inbound).chain(mesh).chain(documents).collect()
}

#[test]
fn every_field_of_a_policy_and_of_the_mesh_has_its_line() {
    let lines = lines();
    for kind in [Kind::ServicePolicy, Kind::MeshConfig] {
        let fields = leaves(kind).into_iter().filter(|field| field != "targetRefs");
        let missing: Vec<String> = fields.filter(|field| !lines.contains(field.as_str())).collect();
        assert_eq!(missing, Vec::<String>::new(), "of {kind}: settings.rs has a line for each");
    }
}

#[test]
fn the_gateway_apis_retry_budget_holds_where_the_policy_has_none() {
    let theirs = "---
kind: XBackendTrafficPolicy
metadata: {name: theirs, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: pay}]
  retryConstraint: {budget: {percent: 30, interval: 1m}}
";
    let shown_with = |policy: &str| {
        let settings = explained(&format!("{}{theirs}", SHOP.replace("minOpen: 2s}", policy))).settings;
        ["retryBudget.percent", "retryBudget.minPerSecond"].map(|name| shown(&settings, name))
    };
    let field = "spec.retryConstraint.budget.percent";
    assert_eq!(
        shown_with("minOpen: 2s}"),
        [format!("30 (XBackendTrafficPolicy shop/theirs {field})"), "10 (default)".to_owned()]
    );
    assert_eq!(
        shown_with("minOpen: 2s}\n  retryBudget: {minPerSecond: 7}"),
        ["20 (default)", "7 (ServicePolicy shop/pay spec.retryBudget.minPerSecond)"]
    );
}

#[test]
fn rate_limits_and_concurrency_are_shown_with_their_field() {
    let yaml = format!(
        "{SHOP}---
kind: RateLimitPolicy
metadata: {{name: l, namespace: shop}}
spec:
  targetRefs: [{{name: pay}}]
  limits:
  - {{requests: 5}}
  - {{name: tenants, requests: 100, per: 1m, burst: 20, by: [{{type: Identity}}, {{type: Header, header: x-t}}, {{type: Claim, claim: sub}}], matches: [{{method: POST}}]}}
"
    );
    let yaml = yaml.replace("circuitBreaker:", "adaptiveConcurrency: {minLimit: 3}\n  circuitBreaker:");
    let mut model = Model::default();
    model.replace(std::sync::Arc::new(documents(&yaml)));
    let registered = std::collections::HashMap::new();
    let world = World { model: &model, registered: &registered };
    let explained = explain(world, &"pay.shop".parse().unwrap(), "shop", Vec::new()).unwrap();
    let shown = |name: &str| {
        let setting = explained.settings.iter().find(|setting| setting.name == name).unwrap();
        (setting.value.clone(), setting.source.as_ref().map(ToString::to_string))
    };
    let of_policy = |field: &str| Some(format!("RateLimitPolicy shop/l {field}"));
    assert_eq!(shown("rateLimit shop/l/0"), ("5 in 1s, 5 at once".to_owned(), of_policy("spec.limits[0]")));
    let tenants = "100 in 1m, 20 at once, for each Identity and x-t and claim sub, of path /*, method POST";
    assert_eq!(shown("rateLimit shop/l/tenants"), (tenants.to_owned(), of_policy("spec.limits[1]")));
    let field = Some("ServicePolicy shop/pay spec.adaptiveConcurrency.minLimit".to_owned());
    assert_eq!(shown("adaptiveConcurrency.minLimit"), ("3".to_owned(), field));
    assert_eq!(shown("adaptiveConcurrency.maxLimit"), ("1000".to_owned(), None));
}

/// A document of ours in `shop`.
fn ours(kind: &str, name: &str, spec: &str) -> String {
    format!("---\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

/// A route to `pay`, with one rule.
fn one_rule(rule: &str) -> String {
    ours(
        "HTTPRoute",
        "r",
        &format!("{{parentRefs: [{{group: '', kind: Service, name: pay}}], rules: [{rule}]}}"),
    )
}

const SERVICE: &str = "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{port: 80, name: http}]}
";

#[test]
fn what_a_rule_has_from_the_policy_that_it_refers_to_is_said_to_be_from_there() {
    let filter = "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: own}}";
    let theirs = "{targetRefs: [{group: '', kind: Service, name: pay}], hedging: {delay: 9s, maxExtra: 3}, \
                  fallback: {status: 200, body: x}, \
                  defaults: {timeouts: {request: 9s, backendRequest: 8s}, retry: {attempts: 9, backoff: 9s}}}";
    let own = "{defaults: {timeouts: {request: 2s}, retry: {attempts: 2}}, hedging: {delay: 1s}, fallback: {status: 204}}";
    let rule = |more: &str| {
        one_rule(&format!("{{filters: [{filter}], backendRefs: [{{name: pay, port: 80}}]{more}}}"))
    };
    let of = |documents: &[String]| {
        let yaml = SERVICE.to_owned() + &ours("ServicePolicy", "all", theirs) + &documents.concat();
        explained(&yaml).ports[0].rules[0].settings.clone()
    };
    let both = of(&[rule(", timeouts: {backendRequest: 1s}"), ours("ServicePolicy", "own", own)]);
    let without = of(&[rule(""), ours("ServicePolicy", "own", "{}")]);
    let from = |policy: &str, field: &str| format!("ServicePolicy shop/{policy} spec.{field}");
    for (name, with_own, without_own) in [
        ("defaults.timeouts.request", ("2s", from("own", "defaults.timeouts.request")), "9s"),
        (
            "defaults.timeouts.backendRequest",
            ("1s", "HTTPRoute shop/r spec.rules[0].timeouts.backendRequest".to_owned()),
            "8s",
        ),
        ("defaults.retry.attempts", ("2", from("own", "defaults.retry.attempts")), "9"),
        ("defaults.retry.backoff", ("25ms", "default".to_owned()), "9s"),
        ("hedging.delay", ("1s", from("own", "hedging.delay")), "9s"),
        ("hedging.maxExtra", ("1", "default".to_owned()), "3"),
        ("fallback.status", ("204", from("own", "fallback.status")), "200"),
        ("fallback.body", ("0 bytes", "default".to_owned()), "1 bytes"),
    ] {
        assert_eq!(shown(&both, name), format!("{} ({})", with_own.0, with_own.1), "{name}");
        assert_eq!(shown(&without, name), format!("{without_own} ({})", from("all", name)), "{name}");
    }
}

#[test]
fn every_filter_is_shown_with_its_place_though_some_say_nothing_to_requests() {
    let refer = |kind: &str, name: &str| {
        format!("{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: {name}}}}}")
    };
    let mirror = |to: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}}}}}")
    };
    let filters = [
        refer("ServicePolicy", "p"),
        mirror("gone"),
        mirror("pay"),
        refer("RateLimitPolicy", "l"),
        refer("FaultInjection", "f"),
        "{type: CORS, cors: {allowOrigins: ['*']}}".to_owned(),
        refer("FaultInjection", "gone"),
    ];
    let rule = format!(
        "{{filters: [{}], backendRefs: [{{name: pay, port: 80, filters: [{}, {}]}}]}}",
        filters.join(", "),
        mirror("gone"),
        refer("FaultInjection", "f"),
    );
    let yaml = SERVICE.to_owned()
        + &one_rule(&rule)
        + &ours("ServicePolicy", "p", "{defaults: {timeouts: {request: 1s}}}")
        + &ours("RateLimitPolicy", "l", "{limits: [{requests: 5}]}")
        + &ours("FaultInjection", "f", "{delay: {percent: 50, fixed: 1s}}");
    let rule = explained(&yaml).ports[0].rules[0].clone();
    let said = |filters: &[FilterOrigin]| {
        filters.iter().map(|one| format!("{} ({})", one.what, one.source.field)).collect::<Vec<_>>()
    };
    assert_eq!(
        said(&rule.filters),
        [
            "mirror: 1 of 1 requests to pay.shop:80 (spec.rules[0].filters[2])",
            "FaultInjection shop/f: delays 50 % of requests (spec.rules[0].filters[4])",
            "CORS: from * (spec.rules[0].filters[5])",
            "fails every request: ExtensionNotFound: FaultInjection shop/gone does not exist (spec.rules[0].filters[6])",
        ]
    );
    assert_eq!(
        said(&rule.backends[0]),
        ["FaultInjection shop/f: delays 50 % of requests (spec.rules[0].backendRefs[0].filters[1])"]
    );
    let limit = shown(&rule.settings, "rateLimit shop/l/0");
    assert_eq!(limit, "5 in 1s, 5 at once (RateLimitPolicy shop/l spec.limits[0])");
}

#[test]
fn a_session_is_shown_with_the_document_whose_it_is() {
    let at = |document: &str, field: &str| format!("{document} {field}sessionPersistence.sessionName");
    let session = "sessionPersistence: {type: Header, sessionName: s}";
    let target = "targetRefs: [{group: '', kind: Service, name: pay}]";
    let route = |more: &str| one_rule(&format!("{{backendRefs: [{{name: pay, port: 80}}]{more}}}"));
    let theirs = |target: &str| ours("XBackendTrafficPolicy", "t", &format!("{{{target}, {session}}}"));
    let to_other = one_rule("{backendRefs: [{name: other, port: 80}]}");
    let other = SERVICE.replace("pay", "other").replacen('\n', "---\n", 1);
    for (documents, expected) in [
        (route(&format!(", {session}")), at("HTTPRoute shop/r", "spec.rules[0].")),
        (
            route("") + &ours("ServicePolicy", "p", &format!("{{{target}, {session}}}")),
            at("ServicePolicy shop/p", "spec."),
        ),
        (route("") + &theirs(target), at("XBackendTrafficPolicy shop/t", "spec.")),
        (
            to_other + &other + &theirs(&target.replace("pay", "other")),
            at("XBackendTrafficPolicy shop/t", "spec."),
        ),
    ] {
        let settings = explained(&(SERVICE.to_owned() + &documents)).ports[0].rules[0].settings.clone();
        assert_eq!(shown(&settings, "sessionPersistence.sessionName"), format!("s ({expected})"));
        assert_eq!(shown(&settings, "sessionPersistence.idleTimeout"), "none (default)");
    }
}

#[test]
fn a_service_outside_is_shown_with_its_host_and_tls_and_without_a_proxy_of_its_own() {
    let outside = "
kind: Service
metadata: {name: pay, namespace: shop}
spec: {type: ExternalName, externalName: api.example.com, ports: [{port: 80, name: a, targetPort: 443}, {port: 8080, name: b}]}
";
    let tls = ours(
        "BackendTLSPolicy",
        "t",
        "{targetRefs: [{group: '', kind: Service, name: pay, sectionName: a}], \
          validation: {hostname: api.example.com, wellKnownCACertificates: System}}",
    );
    let mesh = "---\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {egress: {mode: ListedOnly}, access: {defaultMode: Deny}}\n";
    let explained = explained(&(outside.to_owned() + &tls + mesh));
    for (name, expected) in [
        ("externalName", "api.example.com (Service shop/pay spec.externalName)"),
        ("targetPort of 80", "443 (Service shop/pay spec.ports[0].targetPort)"),
        ("targetPort of 8080", "8080 (default)"),
        ("tls of 80", "begun, for api.example.com (BackendTLSPolicy shop/t spec.validation.hostname)"),
    ] {
        assert_eq!(shown(&explained.settings, name), expected);
    }
    assert!(
        explained
            .settings
            .iter()
            .all(|setting| !setting.name.starts_with("access") && setting.name != "tls of 8080")
    );
    assert_eq!(
        shown(&explained.mesh_settings, "egress.mode"),
        "ListedOnly (MeshConfig mesh spec.egress.mode)"
    );
}
