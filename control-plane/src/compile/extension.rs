//! What a rule refers to by `ExtensionRef`: a document of ours, in the route's own namespace, that holds for that rule
//! alone. It is how a rule gets what the Gateway API has no field for.

use super::backend::Unresolved;
use crate::model::Model;
use crate::resources::{FaultInjection, Kind, RateLimitPolicy, ServicePolicy};

/// A document that extends a rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extension<'a> {
    /// Delays and errors on purpose.
    FaultInjection(&'a FaultInjection),
    /// How often the rule may be called.
    RateLimitPolicy(&'a RateLimitPolicy),
    /// Timeouts, retries and fallback of the rule; with what names the document.
    ServicePolicy(&'a (String, String), &'a ServicePolicy),
}

/// Finds what a reference of a route in `namespace` means.
///
/// # Errors
/// Nothing that extends a rule, or nothing that is there. The rule's requests must fail then: to leave it out could
/// leave out somebody's protection.
pub(super) fn resolve<'a>(
    model: &'a Model,
    namespace: &str,
    (group, kind, name): (&str, &str, &str),
) -> Result<Extension<'a>, Unresolved> {
    let Some(kind) = Kind::extending(group, kind) else {
        return Err(Unresolved::ExtensionKind(format!("{group}/{kind} {name}")));
    };
    let key = (namespace.to_owned(), name.to_owned());
    let documents = model.documents();
    let found = match kind {
        Kind::FaultInjection => {
            documents.fault_injections.get(&key).map(|found| Extension::FaultInjection(found))
        }
        Kind::RateLimitPolicy => {
            documents.rate_limit_policies.get(&key).map(|found| Extension::RateLimitPolicy(found))
        }
        Kind::ServicePolicy => {
            let found = documents.service_policies.get_key_value(&key);
            found.map(|(key, found)| Extension::ServicePolicy(key, found))
        }
        _ => None,
    };
    found.ok_or_else(|| Unresolved::Extension(format!("{kind} {namespace}/{name}")))
}
