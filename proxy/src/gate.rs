//! The last thing before the application: who may pass.
//!
//! Asks the rules of the port ([`crate::access`]) about a request or a connection, and writes down what they say: the
//! policy is named in log, metric and span, and never to the caller.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::request;
use http::uri::Authority;
use outrigger_api::path::decoded;

use crate::access::{Access, Decision, Facts, Fields, RequestFacts};
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::session::Session;
use crate::snapshot::InboundPort;
use crate::worker::Worker;

/// Asks whether a request may pass.
///
/// # Errors
/// [`Failure::Denied`]; or [`Failure::BadRequest`] where rules look at the path and it could be read in two ways.
pub(crate) fn admit_request(
    worker: &Worker,
    session: &Session,
    access: &Access,
    head: &request::Parts,
    authority: &Authority,
    exchange: &mut Exchange,
) -> Result<(), Failure> {
    let looks = access.looks();
    let path = if looks.path {
        decoded(head.uri.path()).map_err(|_| Failure::BadRequest)?
    } else {
        Cow::Borrowed("")
    };
    let host = if looks.host { host(authority) } else { Cow::Borrowed("") };
    let fields = Fields { headers: &head.headers, claims: None };
    let request = RequestFacts { method: &head.method, host: &host, path: &path, fields: Some(fields) };
    let decision = access.decide(&facts(session, Some(request)));
    note(worker, &decision);
    if let Some(policy) = decision.audited.first() {
        exchange.audit_policy = Some(Arc::clone(policy));
    }
    if !decision.allowed {
        exchange.policy = Some(decision.by.clone());
        return Err(Failure::Denied);
    }
    Ok(())
}

/// Asks whether a connection that nobody reads may pass.
///
/// # Errors
/// [`Failure::Denied`].
pub(crate) fn admit_connection(
    worker: &Rc<Worker>,
    session: &Session,
    port: &InboundPort,
) -> Result<(), Failure> {
    let Some(access) = &port.access else { return Ok(()) };
    let decision = access.decide(&facts(session, None));
    note(worker, &decision);
    let (client, port) = (session.client, port.port);
    let peer = session.identity.as_ref().map(tracing::field::display);
    if let Some(policy) = decision.audited.first() {
        tracing::info!(%client, peer, port, %policy, "an audited policy would refuse this connection");
    }
    if decision.allowed {
        return Ok(());
    }
    let (error, policy) = (Failure::Denied.name(), decision.by);
    tracing::info!(%client, peer, port, error, %policy, "refused a connection");
    Err(Failure::Denied)
}

fn facts<'a>(session: &'a Session, request: Option<RequestFacts<'a>>) -> Facts<'a> {
    Facts { identity: session.identity.as_ref(), address: session.client.ip(), request }
}

fn note(worker: &Worker, decision: &Decision<'_>) {
    let metrics = &worker.recorder.metrics;
    metrics.access(decision.by, decision.allowed, false);
    for policy in &decision.audited {
        metrics.access(policy, false, true);
    }
}

/// The host that an authority names: in lower case, without port and final dot.
fn host(authority: &Authority) -> Cow<'_, str> {
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (authority, expected) in [
            ("web.shop", "web.shop"),
            ("Web.SHOP:8080", "web.shop"),
            ("web.shop.:80", "web.shop"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ] {
            assert_eq!(host(&authority.parse().unwrap()), expected);
        }
    }
}
