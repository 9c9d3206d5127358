//! Whether the proxy beside the service lets the request in, decided by its own rules.

use std::net::IpAddr;

use http::request;
use outrigger_api::path::decoded;
use outrigger_certs::SpiffeId;
use outrigger_proxy::access::{Access, Facts, Fields, RequestFacts, Shown};
use serde::Serialize;

/// Who calls, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None`: nobody was named, so that nothing can be decided that depends on it.
    pub(crate) identity: Option<SpiffeId>,
    /// Where its connection comes from, for rules about networks.
    pub(crate) address: IpAddr,
}

/// What the service's own proxy says of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Admission {
    pub(crate) allowed: bool,
    /// The policy that decided, or what did where none does: `(no match)`, `(SameNamespace)`.
    pub(crate) by: String,
    /// Policies that only report, and would have refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audited: Vec<String>,
}

/// Asks the rules of a port. `None`: they cannot be asked without a caller.
pub(crate) fn admission(access: &Access, caller: &Caller, head: &request::Parts) -> Option<Admission> {
    let identity = Some(caller.identity.as_ref()?);
    let named = |by: &str| if by.starts_with('(') { by.to_owned() } else { format!("AccessPolicy {by}") };
    let Ok(path) = decoded(head.uri.path()) else {
        // The proxy refuses what could be read in two ways wherever rules look at paths.
        return Some(Admission { allowed: false, by: "(ambiguous path)".to_owned(), audited: Vec::new() });
    };
    let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let fields = Some(Fields { headers: &head.headers, shown: Shown::default() });
    let request = RequestFacts { method: &head.method, host: &host, path: &path, fields };
    let decision = access.decide(&Facts { identity, address: caller.address, request: Some(request) });
    Some(Admission {
        allowed: decision.allowed,
        by: named(decision.by),
        audited: decision.audited.iter().map(|by| named(by)).collect(),
    })
}
