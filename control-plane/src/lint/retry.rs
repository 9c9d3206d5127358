//! Retries that do twice what was to be done once, and those that never happen.

use serde_json::Value;

use super::{Findings, Subject, rule_path, spec};
use crate::resources::{FieldPath, Kind, RequestDefaults, Resource};

/// Methods of which the second time is not the same as the first (RFC 9110 section 9.2.2).
const NOT_IDEMPOTENT: [&str; 3] = ["POST", "PATCH", "CONNECT"];

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    for route in subject.of_kind(Kind::HttpRoute) {
        let (key, value) = (route.key(), route.to_value());
        for (index, rule) in value["spec"]["rules"].as_array().into_iter().flatten().enumerate() {
            let retry = &rule["retry"];
            if !retry.is_object() || retry["attempts"] == 0 {
                continue;
            }
            let path = rule_path(index).field("retry");
            if retry["codes"].as_array().is_none_or(Vec::is_empty) {
                findings.add(&key, path.clone(), WITHOUT_CODES);
            }
            if let Some(method) = only_not_idempotent(rule) {
                let message = format!(
                    "every match names {method}, which is not idempotent: only what never reached the application \
                     is tried again, unless a ServicePolicy sets defaults.retry.nonIdempotent"
                );
                findings.add(&key, path, message);
            }
        }
    }
    for policy in subject.documents.service_policies.values() {
        let key = Resource::ServicePolicy(policy.clone()).key();
        of_defaults(policy.spec.defaults.as_ref(), |path, message| findings.add(&key, path, message));
    }
    if let Some(mesh) = &subject.documents.mesh_config {
        let key = Resource::MeshConfig(mesh.clone()).key();
        of_defaults(mesh.spec.defaults.as_ref(), |path, message| findings.add(&key, path, message));
    }
}

const WITHOUT_CODES: &str =
    "lists no codes: only failures of the connection and attempts that timed out are tried again";

fn of_defaults(defaults: Option<&RequestDefaults>, mut add: impl FnMut(FieldPath, &str)) {
    let Some(retry) = defaults.and_then(|defaults| defaults.retry.as_ref()) else { return };
    let path = spec().field("defaults").field("retry");
    if retry.codes.is_empty() && retry.grpc_codes.is_empty() {
        add(path.clone(), WITHOUT_CODES);
    }
    if retry.non_idempotent == Some(true) {
        add(
            path.field("nonIdempotent"),
            "methods that are not idempotent are tried again: what they do may be done more than once",
        );
    }
}

/// The method, where every match of the rule names one that is not idempotent.
fn only_not_idempotent(rule: &Value) -> Option<String> {
    let matches = rule["matches"].as_array().filter(|matches| !matches.is_empty())?;
    let methods = matches.iter().map(|found| found["method"].as_str());
    let methods: Option<Vec<&str>> = methods.collect();
    let methods = methods.filter(|all| all.iter().all(|method| NOT_IDEMPOTENT.contains(method)))?;
    methods.first().map(|method| (*method).to_owned())
}
