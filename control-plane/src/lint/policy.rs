//! Policies that nobody follows: an older one already holds for the same service, nothing refers to it, or it stands
//! where it can do nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Findings, Subject, reference, spec};
use crate::compile::policy_of;
use crate::resources::{Kind, Resource, ResourceKey};

/// What of a ServicePolicy holds for a rule that refers to it.
const OF_A_RULE: [&str; 4] = ["targetRefs", "defaults", "hedging", "fallback"];

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    for ((namespace, name), policy) in &subject.documents.service_policies {
        let key = Resource::ServicePolicy(policy.clone()).key();
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            let Ok(service) = outrigger_api::ServiceName::new(namespace, &target.name) else { continue };
            let Some((holds, _)) = policy_of(&subject.model, &service) else { continue };
            if *holds != (namespace.clone(), name.clone()) {
                let holds = ResourceKey {
                    kind: Kind::ServicePolicy,
                    namespace: holds.0.clone(),
                    name: holds.1.clone(),
                };
                let path = spec().field("targetRefs").index(index);
                findings.add(
                    &key,
                    path,
                    format!("has no effect: {holds} names service {service} as well and holds"),
                );
            }
        }
    }
    of_rules(subject, findings);
}

/// Those that hold for nothing but the rules that refer to them.
fn of_rules(subject: &Subject, findings: &mut Findings) {
    let referred: BTreeSet<ResourceKey> = extensions(subject).collect();
    for kind in [Kind::ServicePolicy, Kind::RateLimitPolicy, Kind::FaultInjection] {
        for document in subject.of_kind(kind) {
            let (key, value) = (document.key(), document.to_value());
            let spec_of = &value["spec"];
            if spec_of["targetRefs"].as_array().is_some_and(|targets| !targets.is_empty()) {
                continue;
            }
            if !referred.contains(&key) {
                findings.add(&key, spec(), "has no effect: no rule of a route refers to it by ExtensionRef");
            } else if kind == Kind::ServicePolicy {
                for field in spec_of.as_object().into_iter().flat_map(|fields| fields.keys()) {
                    if !OF_A_RULE.contains(&field.as_str()) {
                        let message =
                            "has no effect for a rule, which takes defaults, hedging and fallback alone";
                        findings.add(&key, spec().field(field), message);
                    }
                }
            }
        }
    }
}

/// The documents that filters of routes refer to.
fn extensions(subject: &Subject) -> impl Iterator<Item = ResourceKey> {
    let routes = reference::routes(&subject.documents).map(|route| (route.key().namespace, route.to_value()));
    routes.flat_map(|(namespace, route)| {
        let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
        let rules = list(&route["spec"], "rules").into_iter();
        let filters = rules.flat_map(move |rule| {
            let backends = list(&rule, "backendRefs").into_iter();
            let of_backends = backends.flat_map(move |backend| list(&backend, "filters"));
            list(&rule, "filters").into_iter().chain(of_backends).collect::<Vec<_>>()
        });
        let keys = filters.filter_map(move |filter| {
            let to = &filter["extensionRef"];
            let kind = Kind::extending(to["group"].as_str()?, to["kind"].as_str()?)?;
            Some(ResourceKey { kind, namespace: namespace.clone(), name: to["name"].as_str()?.to_owned() })
        });
        keys.collect::<Vec<_>>()
    })
}
