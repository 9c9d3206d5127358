//! Services that nobody may call: every caller is denied, or nobody is allowed.

use outrigger_api::{ServiceName, v1};

use super::{Findings, Subject, spec};
use crate::compile::inbound;
use crate::resources::{Kind, ResourceKey};

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    for service in subject.documents.services.keys() {
        let inbound = subject.with_world(|world| inbound(world, service));
        let closed: Vec<(u32, String)> = inbound
            .ports
            .iter()
            .filter_map(|port| Some((port.port, closed_by(port.access.as_ref()?)?)))
            .collect();
        let Some((port, by)) = closed.first() else { continue };
        let what = if closed.len() == inbound.ports.len() { "it".to_owned() } else { format!("port {port}") };
        findings.add(&key(service), spec(), format!("nobody may call {what}: {by}"));
    }
}

fn key(service: &ServiceName) -> ResourceKey {
    ResourceKey {
        kind: Kind::Service,
        namespace: service.namespace().to_owned(),
        name: service.name().to_owned(),
    }
}

/// What keeps everybody out.
fn closed_by(access: &v1::Access) -> Option<String> {
    let enforced = || access.policies.iter().filter(|policy| !policy.audit);
    let about_all =
        |rule: &v1::AccessRule| rule.from.is_empty() && rule.to.is_empty() && rule.when.is_empty();
    let of = |action: v1::AccessAction| enforced().filter(move |policy| policy.action() == action);
    if let Some(policy) = of(v1::AccessAction::Deny).find(|policy| policy.rules.iter().any(about_all)) {
        return Some(format!("AccessPolicy {} denies everybody", policy.name));
    }
    let mut allowing = of(v1::AccessAction::Allow).peekable();
    match allowing.peek() {
        Some(first) if of(v1::AccessAction::Allow).all(|policy| policy.rules.is_empty()) => {
            Some(format!("AccessPolicy {} allows only what is about other ports", first.name))
        }
        None if access.mode() == v1::AccessMode::Deny => {
            Some("the mode is Deny, and no AccessPolicy allows anybody".to_owned())
        }
        Some(_) | None => None,
    }
}
