//! Whether the proxy beside the service lets the request in, decided by its own rules.
//!
//! What a token would say is not known unless it is assumed. So the rules are asked three times: as they are, and as if
//! everything that they ask of tokens were so as to let the request in, and so as to keep it out. Where the last two
//! differ, it depends on the token.

use std::collections::BTreeSet;
use std::net::IpAddr;

use http::request;
use http::uri::Authority;
use outrigger_api::v1::{self, AccessAction};
use outrigger_certs::SpiffeId;
use outrigger_proxy::access::{Access, Shown};
use outrigger_proxy::failure::Failure;
use outrigger_proxy::jwt::Claims;
use outrigger_proxy::policy;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Stop;

/// Who calls, from where, and with which token.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// `None`: nobody was named, so that nothing can be decided that depends on it.
    pub(crate) identity: Option<SpiffeId>,
    /// Where its connection comes from, for rules about networks.
    pub(crate) address: IpAddr,
    /// Of a token that is taken for verified. `None`: there is none.
    pub(crate) claims: Option<Claims>,
}

/// What the service's own proxy says of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Admission {
    pub(crate) allowed: bool,
    /// The failure that it is refused with.
    #[serde(skip)]
    pub(crate) failure: Option<Failure>,
    /// The policy that decided, or what did where none does: `(no match)`, `(SameNamespace)`.
    pub(crate) by: String,
    /// Policies that only report, and would have refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audited: Vec<String>,
    /// The claims that could turn the verdict: nothing is known of a token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) depends_on: Vec<String>,
}

/// The claims of `NAME=VALUE` pairs: a name that comes again lists several, and dots lead inside as in a policy.
pub(crate) fn claims(pairs: &[(String, String)]) -> Option<Claims> {
    let mut all = Map::new();
    for (name, value) in pairs {
        let path: Vec<&str> = if name.contains(['/', ':']) { vec![name] } else { name.split('.').collect() };
        insert(&mut all, &path, value);
    }
    (!pairs.is_empty()).then(|| all.into())
}

fn insert(claims: &mut Map<String, Value>, path: &[&str], value: &str) {
    let Some((name, inside)) = path.split_first() else { return };
    let claim = claims.entry(*name).or_insert(Value::Null);
    if !inside.is_empty() {
        if !claim.is_object() {
            *claim = Value::Object(Map::new());
        }
        claim.as_object_mut().into_iter().for_each(|claims| insert(claims, inside, value));
    } else if let Some(values) = claim.as_array_mut() {
        values.push(value.into());
    } else {
        *claim = Value::Array(vec![value.into()]);
    }
}

/// Asks the rules of a port. `None`: there are none, or they cannot be asked without a caller.
///
/// # Errors
/// The control plane's message is one that a proxy would refuse.
pub(crate) fn admission(
    port: &v1::InboundPort,
    caller: &Caller,
    head: &request::Parts,
) -> Result<Option<Admission>, Stop> {
    let needs_token = port.jwt.as_ref().is_some_and(|jwt| jwt.required);
    if needs_token && caller.claims.is_none() {
        return Ok(Some(Admission {
            allowed: false,
            failure: Some(Failure::Unauthenticated),
            by: "(a token is required; assume one with --claim)".to_owned(),
            audited: Vec::new(),
            depends_on: Vec::new(),
        }));
    }
    let Some(access) = &port.access else { return Ok(None) };
    if caller.identity.is_none() {
        return Ok(None);
    }
    let mut admission = ask(access, caller, head)?;
    if caller.claims.is_none() && verdicts_differ(access, caller, head)? {
        admission.depends_on = claims_of(access, caller, head)?;
    }
    Ok(Some(admission))
}

fn ask(access: &v1::Access, caller: &Caller, head: &request::Parts) -> Result<Admission, Stop> {
    let refused = |failure, by: &str| Admission {
        allowed: false,
        failure: Some(failure),
        by: by.to_owned(),
        audited: Vec::new(),
        depends_on: Vec::new(),
    };
    let named = |by: &str| if by.starts_with('(') { by.to_owned() } else { format!("AccessPolicy {by}") };
    let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(authority) = host.parse::<Authority>() else {
        return Ok(refused(Failure::BadRequest, "(no host)"));
    };
    let access = read(access)?;
    let identity = caller.identity.as_ref();
    let shown = Shown { claims: caller.claims.as_ref(), api_key: None };
    let Ok(decision) = access.decide_request(identity, caller.address, head, &authority, shown) else {
        // The proxy refuses what could be read in two ways wherever rules look at paths.
        return Ok(refused(Failure::BadRequest, "(ambiguous path)"));
    };
    Ok(Admission {
        allowed: decision.allowed,
        failure: (!decision.allowed).then_some(Failure::Denied),
        by: named(decision.by),
        audited: decision.audited.iter().map(|by| named(by)).collect(),
        depends_on: Vec::new(),
    })
}

/// The rules as the proxy reads them.
fn read(access: &v1::Access) -> Result<std::sync::Arc<Access>, Stop> {
    let port = v1::InboundPort { port: 1, access: Some(access.clone()), ..v1::InboundPort::default() };
    let inbound = policy::inbound(&v1::Inbound { version: 0, ports: vec![port] })?;
    let access = inbound.ports.into_iter().next().and_then(|port| port.access);
    access.ok_or_else(|| Stop::failed("the access rules cannot be read"))
}

fn verdicts_differ(access: &v1::Access, caller: &Caller, head: &request::Parts) -> Result<bool, Stop> {
    let best = ask(&assumed(access, |action| action != AccessAction::Deny), caller, head)?;
    let worst = ask(&assumed(access, |action| action == AccessAction::Deny), caller, head)?;
    Ok(best.allowed != worst.allowed)
}

/// The rules without a word of tokens: those that ask for claims hold, or do not, by what their policy does.
fn assumed(access: &v1::Access, holds: impl Fn(AccessAction) -> bool) -> v1::Access {
    let mut access = access.clone();
    for policy in &mut access.policies {
        let holds = holds(policy.action());
        policy.rules.retain(|rule| holds || rule.when.is_empty());
        policy.rules.iter_mut().for_each(|rule| rule.when.clear());
    }
    access
}

/// The claims that rules ask for which are about the request otherwise.
fn claims_of(access: &v1::Access, caller: &Caller, head: &request::Parts) -> Result<Vec<String>, Stop> {
    let mut claims = BTreeSet::new();
    for policy in access.policies.iter().filter(|policy| !policy.audit) {
        for rule in policy.rules.iter().filter(|rule| !rule.when.is_empty()) {
            let is_deny = policy.action() == AccessAction::Deny;
            let mode = if is_deny { v1::AccessMode::Open } else { v1::AccessMode::Deny };
            let rules = vec![v1::AccessRule { when: Vec::new(), ..rule.clone() }];
            let policies = vec![v1::AccessPolicy { rules, ..policy.clone() }];
            let alone = v1::Access { policies, mode: mode as i32, namespace: access.namespace.clone() };
            if ask(&alone, caller, head)?.allowed != is_deny {
                claims.extend(rule.when.iter().map(|condition| condition.path.join(".")));
            }
        }
    }
    Ok(claims.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn caller(claims: Option<Claims>) -> Caller {
        let identity = Some("spiffe://t.local/ns/shop/sa/web".parse().unwrap());
        Caller { identity, address: "127.0.0.1".parse().unwrap(), claims }
    }

    fn head(path: &str) -> request::Parts {
        http::Request::get(path).header("host", "pay.shop").body(()).unwrap().into_parts().0
    }

    fn rule(path: &str, claim: &str) -> v1::AccessRule {
        let value = v1::TextMatch { kind: Some(v1::text_match::Kind::Exact("a".to_owned())) };
        let path = v1::PathMatch { kind: Some(v1::path_match::Kind::Prefix(path.to_owned())) };
        let when = v1::ClaimCondition { path: vec![claim.to_owned()], values: vec![value] };
        v1::AccessRule {
            from: Vec::new(),
            to: vec![v1::AccessOperation { paths: vec![path], ..v1::AccessOperation::default() }],
            when: if claim.is_empty() { Vec::new() } else { vec![when] },
        }
    }

    fn port(policies: &[(AccessAction, Vec<v1::AccessRule>)]) -> v1::InboundPort {
        let policies = policies.iter().map(|(action, rules)| v1::AccessPolicy {
            name: "shop/p".to_owned(),
            action: *action as i32,
            audit: false,
            rules: rules.clone(),
        });
        let mode = v1::AccessMode::Open as i32;
        let access = v1::Access { policies: policies.collect(), mode, namespace: "shop".to_owned() };
        v1::InboundPort { port: 80, access: Some(access), ..v1::InboundPort::default() }
    }

    #[test]
    fn claims_are_read_as_policies_name_them() {
        let claims = claims(&[
            pair("roles", "a"),
            pair("roles", "b"),
            pair("realm.x", "c"),
            pair("https://x.y/z", "d"),
            pair("scope", "e f"),
        ]);
        let claims = claims.unwrap();
        let values = |path: &[&str]| {
            let path: Vec<Box<str>> = path.iter().map(|name| Box::from(*name)).collect();
            claims.values(&path).map(|value| value.into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(values(&["roles"]), ["a", "b"]);
        assert_eq!(values(&["realm", "x"]), ["c"]);
        assert_eq!(values(&["https://x.y/z"]), ["d"]);
        assert!(self::claims(&[]).is_none(), "no claim is no token");
    }

    #[test]
    fn a_verdict_depends_on_a_claim_only_where_it_could_turn() {
        let (allow, deny) = (AccessAction::Allow, AccessAction::Deny);
        for (policies, path, allowed, depends_on) in [
            (vec![(allow, vec![rule("/a", "role")])], "/a", false, &["role"][..]),
            (vec![(allow, vec![rule("/a", "role")])], "/b", false, &[]),
            (vec![(allow, vec![rule("/a", "role"), rule("/a", "")])], "/a", true, &[]),
            (vec![(allow, vec![rule("/a", "")]), (deny, vec![rule("/a", "bad")])], "/a", true, &["bad"]),
            (vec![(deny, vec![rule("/a", "")]), (allow, vec![rule("/a", "role")])], "/a", false, &[]),
        ] {
            let admission = admission(&port(&policies), &caller(None), &head(path)).unwrap().unwrap();
            assert_eq!(
                (admission.allowed, admission.depends_on.as_slice()),
                (allowed, &depends_on.iter().map(|claim| (*claim).to_owned()).collect::<Vec<_>>()[..]),
                "{path}: {policies:?}"
            );
        }
        let with = |value| caller(claims(&[pair("role", value)]));
        let port = port(&[(allow, vec![rule("/a", "role")])]);
        for (value, allowed) in [("a", true), ("b", false)] {
            let admission = admission(&port, &with(value), &head("/a")).unwrap().unwrap();
            assert_eq!((admission.allowed, admission.depends_on), (allowed, Vec::new()), "{value}");
        }
    }

    #[test]
    fn without_a_token_that_is_required_nothing_else_is_asked() {
        let mut port = port(&[]);
        port.jwt = Some(v1::Jwt { issuers: Vec::new(), required: true });
        let refused = admission(&port, &caller(None), &head("/")).unwrap().unwrap();
        assert_eq!((refused.allowed, refused.failure), (false, Some(Failure::Unauthenticated)));
        let with = admission(&port, &caller(claims(&[pair("sub", "x")])), &head("/")).unwrap().unwrap();
        assert!(with.allowed);
    }
}
