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
        ("tracing.samplingRatio", "0.5 (MeshConfig mesh spec.tracing.samplingRatio)"),
        ("mtls.mode", "Strict (default)"),
    ] {
        assert_eq!(shown(&explained.settings, name), expected, "{name}");
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
    assert_eq!(rules[1].filters, ["request headers: set x-a: b, remove x-c"]);
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
    let policy = settings::policy_lines().into_iter().map(|line| line.name);
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
