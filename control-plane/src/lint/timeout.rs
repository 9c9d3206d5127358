//! Times that cannot be used up: an attempt that may take longer than the request that it belongs to.

use std::time::Duration;

use super::shadow::callers;
use super::{Findings, Subject, key_of, rule_path, spec};
use crate::explain::{Setting, rules_explained};
use crate::resources::{FieldPath, Kind, Period, RequestDefaults, ResourceKey, Timeouts};

const REQUEST: &str = "defaults.timeouts.request";

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    subject.with_world(|world| {
        for (service, client) in callers(world.model) {
            for origin in rules_explained(world, &service, &client) {
                let Some(key) = key_of(&origin.source.document) else { continue };
                let index = origin.index;
                let Some(written) = written(subject, &key, index) else { continue };
                let Some((request, said_by)) = effective(&origin.settings) else { continue };
                if written > request {
                    let path = rule_path(index).field("timeouts").field("backendRequest");
                    let message = format!(
                        "is longer than the timeout of the whole request, {} ({said_by}), and cut to it",
                        Period::from_millis(u64::try_from(request.as_millis()).unwrap_or(u64::MAX))
                    );
                    findings.add(&key, path, message);
                }
            }
        }
    });
    against_the_mesh(subject, findings);
}

/// The time that the rule itself gives one attempt.
fn written(subject: &Subject, key: &ResourceKey, index: usize) -> Option<Duration> {
    let route = subject.documents.resource(key)?.to_value();
    let text = route["spec"]["rules"][index]["timeouts"]["backendRequest"].as_str()?.to_owned();
    Some(text.parse::<Period>().ok()?.duration())
}

/// The time of the whole request, and who says so.
fn effective(settings: &[Setting]) -> Option<(Duration, String)> {
    let setting = settings.iter().find(|setting| setting.name == REQUEST)?;
    let said_by = setting.source.as_ref()?.to_string();
    Some((setting.value.parse::<Period>().ok()?.duration(), said_by))
}

/// A policy that gives an attempt longer than the mesh gives a request.
fn against_the_mesh(subject: &Subject, findings: &mut Findings) {
    let Some(mesh) = &subject.documents.mesh_config else { return };
    let Some(request) = timeout(mesh.spec.defaults.as_ref(), |of| of.request) else { return };
    for ((namespace, name), policy) in &subject.documents.service_policies {
        let own = policy.spec.defaults.as_ref();
        if timeout(own, |of| of.request).is_some() {
            continue;
        }
        if timeout(own, |of| of.backend_request).is_some_and(|attempt| attempt > request) {
            let key =
                ResourceKey { kind: Kind::ServicePolicy, namespace: namespace.clone(), name: name.clone() };
            let path: FieldPath = spec().field("defaults").field("timeouts").field("backendRequest");
            let message = format!(
                "is longer than the timeout of the whole request, {request} (MeshConfig mesh), and cut to it"
            );
            findings.add(&key, path, message);
        }
    }
}

fn timeout(
    defaults: Option<&RequestDefaults>,
    which: impl Fn(&Timeouts) -> Option<Period>,
) -> Option<Period> {
    defaults?.timeouts.as_ref().and_then(which).filter(|period| !period.is_zero())
}
