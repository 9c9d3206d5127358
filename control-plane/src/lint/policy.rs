//! Policies that nobody follows, because an older one already holds for the same service.

use super::{Findings, Subject, spec};
use crate::compile::policy_of;
use crate::resources::{Kind, Resource, ResourceKey};

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
}
