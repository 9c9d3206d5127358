//! What holds for the workload's own ports: who may call, with whose tokens, how often.
//!
//! Neither keys nor what fields and claims must be is told: it is what makes some callers more than others.

use serde_json::{Map, Value, json};

use crate::access::operation::{Host, Operation};
use crate::access::source::{Name, Source};
use crate::access::{Access, Effect, Policy, Rule};
use crate::api_key::ApiKeys;
use crate::jwt::{Issuer, Jwt};
use crate::rate_limit::{RateLimit, RateLimits};
use crate::snapshot::{Inbound, InboundPort};

/// Every port.
pub(super) fn describe(inbound: &Inbound) -> Vec<Value> {
    inbound.ports.iter().map(port).collect()
}

fn port(port: &InboundPort) -> Value {
    json!({
        "port": port.port,
        "protocol": format!("{:?}", port.protocol).to_lowercase(),
        "access": port.access.as_deref().map(access),
        "jwt": port.jwt.as_deref().map(jwt),
        "apiKeys": port.api_keys.as_deref().map(api_keys),
        "rateLimits": limits(&port.rate_limits),
        "adaptiveConcurrency": port.concurrency.as_ref().map(|policy| {
            json!({ "minLimit": policy.min_limit, "maxLimit": policy.max_limit })
        }),
    })
}

fn access(access: &Access) -> Value {
    let policies = access.policies().map(|(effect, audit, policy)| described(effect, audit, policy));
    json!({ "mode": format!("{:?}", access.mode()), "policies": policies.collect::<Vec<_>>() })
}

fn described(effect: Effect, audit: bool, policy: &Policy) -> Value {
    let rules: Vec<Value> = policy.rules.iter().map(rule).collect();
    json!({ "name": *policy.name, "action": format!("{effect:?}"), "audit": audit, "rules": rules })
}

fn rule(rule: &Rule) -> Value {
    let claims: Vec<String> = rule.when.iter().map(|condition| condition.path.join(".")).collect();
    let from: Vec<Value> = rule.from.iter().map(source).collect();
    let to: Vec<Value> = rule.to.iter().map(operation).collect();
    present([("from", from.into()), ("to", to.into()), ("claims", claims.into())])
}

fn source(source: &Source) -> Value {
    let names = |names: &[Name]| {
        let text = |name: &Name| match name {
            Name::Exact(exact) => exact.to_string(),
            Name::Prefix(prefix) => format!("{prefix}*"),
        };
        names.iter().map(text).collect::<Value>()
    };
    let accounts = source.service_accounts.iter().map(|(namespace, name)| format!("{namespace}/{name}"));
    present([
        ("identities", names(&source.identities)),
        ("namespaces", texts(&source.namespaces)),
        ("serviceAccounts", accounts.collect()),
        ("trustDomains", texts(&source.trust_domains)),
        ("cidrs", texts(&source.cidrs)),
        ("apiKeys", texts(&source.api_keys)),
        ("notIdentities", names(&source.not_identities)),
        ("notNamespaces", texts(&source.not_namespaces)),
        ("notCidrs", texts(&source.not_cidrs)),
    ])
}

fn operation(operation: &Operation) -> Value {
    let hosts = operation.hosts.iter().map(|host| match host {
        Host::Exact(exact) => exact.to_string(),
        Host::Below(suffix) => format!("*{suffix}"),
    });
    let headers: Vec<&str> = operation.headers.iter().map(|condition| condition.name.as_str()).collect();
    present([
        ("methods", texts(&operation.methods)),
        ("hosts", hosts.collect()),
        ("paths", texts(&operation.paths)),
        ("headers", headers.into()),
        ("notMethods", texts(&operation.not_methods)),
        ("notPaths", texts(&operation.not_paths)),
    ])
}

fn jwt(jwt: &Jwt) -> Value {
    let issuer = |issuer: &Issuer| {
        json!({
            "issuer": *issuer.name,
            "audiences": texts(&issuer.audiences),
            "keys": issuer.keys.len(),
            "header": issuer.place.header.as_str(),
            "forward": issuer.forward,
        })
    };
    json!({ "required": jwt.required, "issuers": jwt.issuers.iter().map(issuer).collect::<Vec<_>>() })
}

fn api_keys(keys: &ApiKeys) -> Value {
    let names: Vec<&str> = keys.keys.iter().map(|key| &*key.name).collect();
    json!({ "header": keys.header.as_str(), "required": keys.required, "names": names })
}

/// The limits of a port or a rule.
pub(super) fn limits(limits: &RateLimits) -> Vec<Value> {
    let limit = |limit: &RateLimit| {
        json!({
            "policy": *limit.policy,
            "name": *limit.name,
            "quota": limit.quota.to_str().unwrap_or_default(),
            "by": limit.by.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>(),
            "ofMesh": limit.state.share.is_some(),
        })
    };
    limits.0.iter().map(limit).collect()
}

fn texts<T: ToString>(list: &[T]) -> Value {
    list.iter().map(ToString::to_string).collect()
}

/// Without the lists that say nothing.
fn present<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let says = |(_, value): &(&str, Value)| value.as_array().is_none_or(|list| !list.is_empty());
    let fields = fields.into_iter().filter(says).map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use outrigger_api::v1;

    use super::*;

    #[test]
    fn rules_are_told_and_no_secret_among_them() {
        let secret = |kind| v1::TextMatch { kind: Some(v1::text_match::Kind::Exact(kind)) };
        let rule = v1::AccessRule {
            from: vec![v1::AccessSource {
                identities: vec!["spiffe://t/ns/a/sa/*".to_owned()],
                service_accounts: vec!["shop/web".to_owned()],
                not_cidrs: vec!["10.0.0.0/8".to_owned()],
                ..v1::AccessSource::default()
            }],
            to: vec![v1::AccessOperation {
                methods: vec!["GET".to_owned()],
                hosts: vec!["*.shop".to_owned()],
                paths: vec![v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix("/a".to_owned())) }],
                headers: vec![v1::HeaderCondition {
                    name: "x-api-key".to_owned(),
                    values: vec![secret("hidden".to_owned())],
                }],
                ..v1::AccessOperation::default()
            }],
            when: vec![v1::ClaimCondition {
                path: vec!["realm".to_owned(), "role".to_owned()],
                values: vec![secret("hidden".to_owned())],
            }],
        };
        let policy = v1::AccessPolicy {
            name: "shop/p".to_owned(),
            action: v1::AccessAction::Deny as i32,
            audit: true,
            rules: vec![rule],
        };
        let mode = v1::AccessMode::SameNamespace as i32;
        let raw = v1::InboundPort {
            port: 80,
            access: Some(v1::Access { policies: vec![policy], mode, namespace: "shop".to_owned() }),
            rate_limits: vec![v1::RateLimit {
                id: "l".to_owned(),
                policy: "shop/l".to_owned(),
                name: "0".to_owned(),
                requests: 5,
                per: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                burst: 5,
                ..v1::RateLimit::default()
            }],
            jwt: Some(v1::Jwt {
                issuers: vec![v1::JwtIssuer {
                    issuer: "https://id.example".to_owned(),
                    header: "authorization".to_owned(),
                    clock_skew: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                    ..v1::JwtIssuer::default()
                }],
                required: true,
            }),
            api_keys: Some(v1::ApiKeys {
                header: "x-key".to_owned(),
                keys: vec![v1::ApiKey { name: "phone".to_owned(), sha256: vec![7; 32] }],
                required: true,
            }),
            ..v1::InboundPort::default()
        };
        let inbound = crate::policy::inbound(&v1::Inbound { version: 1, ports: vec![raw] }).unwrap();
        let told = describe(&inbound).remove(0);
        assert_eq!(
            told["access"],
            json!({ "mode": "SameNamespace", "policies": [{
                "name": "shop/p", "action": "Deny", "audit": true,
                "rules": [{
                    "from": [{ "identities": ["spiffe://t/ns/a/sa/*"], "serviceAccounts": ["shop/web"], "notCidrs": ["10.0.0.0/8"] }],
                    "to": [{ "methods": ["GET"], "hosts": ["*.shop"], "paths": ["/a/*"], "headers": ["x-api-key"] }],
                    "claims": ["realm.role"],
                }],
            }] })
        );
        assert_eq!(told["jwt"]["issuers"][0]["issuer"], "https://id.example");
        assert_eq!(told["apiKeys"], json!({ "header": "x-key", "required": true, "names": ["phone"] }));
        assert_eq!(told["rateLimits"][0]["quota"], "\"0\";q=5;w=1");
        assert!(!told.to_string().contains("hidden"), "{told}");
    }
}
