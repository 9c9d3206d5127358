//! The last thing before the application, and the first at a gateway: who may pass.
//!
//! Asks the rules of the port ([`crate::access`]) about a request or a connection, and writes down what they say: the
//! policy is named in log, metric and span, and never to the caller.

use std::borrow::Cow;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, request};
use outrigger_api::path::decoded;

use crate::access::{Access, Decision, Facts, Fields, RequestFacts, Shown, host_of};
use crate::api_key::ApiKeys;
use crate::exchange::Exchange;
use crate::failure::{Failure, Side};
use crate::flight::Flight;
use crate::jwt::{Invalid, Jwt, Place, Verified};
use crate::revocation::Watch;
use crate::session::{Destination, Session};
use crate::snapshot::{InboundPort, Snapshot};
use crate::worker::Worker;
use crate::{headers, rate_limit};

/// Why a request is asked who sends it, and what it is told.
#[derive(Debug)]
pub(crate) struct Challenge {
    /// For the log.
    pub(crate) reason: Arc<str>,
    pub(crate) field: HeaderValue,
}

impl From<Invalid> for Challenge {
    /// A caller without a token is told nothing but that (RFC 6750 section 3.1).
    fn from(reason: Invalid) -> Self {
        let text = match reason {
            Invalid::Missing => "Bearer".to_owned(),
            _ => format!("Bearer error=\"invalid_token\", error_description=\"the token {reason}\""),
        };
        let field = HeaderValue::try_from(text).expect("reasons are visible ASCII");
        Self { reason: format!("(token {reason})").into(), field }
    }
}

/// Everything that the rules of a port ask of a request before it goes on: the token and the key that it brings, whether
/// it may pass, and whether it comes too often.
///
/// # Errors
/// [`Failure::Unauthenticated`], [`Failure::Denied`] or [`Failure::RateLimited`]; or [`Failure::BadRequest`] where rules
/// look at the path and it could be read in two ways.
pub(crate) fn enter(
    worker: &Worker,
    session: &Rc<Session>,
    rules: &InboundPort,
    head: &mut request::Parts,
    authority: &Authority,
    flight: &mut Flight,
) -> Result<(), Failure> {
    let mut proofs = Proofs::default();
    if let Some(jwt) = &rules.jwt {
        let place = (session.side, rules.port);
        let token = authenticate(worker, place, jwt, &mut head.headers);
        proofs.token = token.map_err(|challenge| flight.challenge(challenge))?;
    }
    if let Some(keys) = &rules.api_keys {
        proofs.api_key =
            show_key(keys, &mut head.headers).map_err(|challenge| flight.challenge(challenge))?;
    }
    let kept = match &rules.access {
        Some(access) => admit_request(worker, session, access, head, authority, &proofs, flight.exchange())?,
        None => None,
    };
    flight.admission = Some(Admission::new(worker, session, rules.port, kept));
    if rules.rate_limits.is_empty() {
        return Ok(());
    }
    rate_limit::enforce(&rules.rate_limits, worker, session, head, proofs.shown(), flight)
}

/// The same of a request that needs to show nothing, since the proxy answers it: only whether it comes too often.
///
/// # Errors
/// [`Failure::RateLimited`].
pub(crate) fn limit(
    worker: &Worker,
    session: &Session,
    rules: &InboundPort,
    head: &request::Parts,
    flight: &mut Flight,
) -> Result<(), Failure> {
    if rules.rate_limits.is_empty() {
        return Ok(());
    }
    rate_limit::enforce(&rules.rate_limits, worker, session, head, Shown::default(), flight)
}

/// What a request has proved, beside the certificate of its connection.
#[derive(Debug, Clone, Default)]
struct Proofs {
    token: Option<Rc<Verified>>,
    api_key: Option<Arc<str>>,
}

impl Proofs {
    fn shown(&self) -> Shown<'_> {
        Shown { claims: self.token.as_ref().map(|token| &token.claims), api_key: self.api_key.as_deref() }
    }
}

/// Looks which key a request brings, and takes it away.
fn show_key(keys: &ApiKeys, fields: &mut HeaderMap) -> Result<Option<Arc<str>>, Challenge> {
    let found = keys.find(fields).map(|found| found.cloned());
    headers::remove_spelled(fields, &keys.header);
    found.map_err(|reason| {
        let field = format!("ApiKey header=\"{}\"", keys.header);
        let field =
            HeaderValue::try_from(field).expect("the name of a field is visible ASCII without quotes");
        Challenge { reason: format!("(API key {reason})").into(), field }
    })
}

/// Reads the token of a request, takes it away unless its issuer's are passed on, and tells the application what it
/// says. What only the proxy may say is taken away from everybody.
///
/// # Errors
/// It is not good, or missing where one is required.
fn authenticate(
    worker: &Worker,
    at: (Side, u16),
    jwt: &Arc<Jwt>,
    fields: &mut HeaderMap,
) -> Result<Option<Rc<Verified>>, Challenge> {
    for told in jwt.issuers.iter().flat_map(|issuer| &issuer.claims_to_headers) {
        headers::remove_spelled(fields, &told.header);
        headers::unlist(fields, &told.header);
    }
    let Some((place, token)) = token(jwt, fields)? else {
        return if jwt.required { Err(Invalid::Missing.into()) } else { Ok(None) };
    };
    let verified = worker.tokens.borrow_mut().verify(at, jwt, token, place, worker.clock.now())?;
    let issuer = &jwt.issuers[verified.issuer];
    if !issuer.forward {
        fields.remove(&place.header);
    }
    for told in &issuer.claims_to_headers {
        let values: Vec<_> = verified.claims.items(&told.path).collect();
        // A claim that cannot stand in a field is not told.
        if let (false, Ok(value)) = (values.is_empty(), HeaderValue::try_from(values.join(","))) {
            fields.insert(told.header.clone(), value);
        }
    }
    Ok(Some(verified))
}

/// The one token of a request, and where it stands.
fn token<'j, 'f>(jwt: &'j Jwt, fields: &'f HeaderMap) -> Result<Option<(&'j Place, &'f str)>, Invalid> {
    let mut found = None;
    for (index, issuer) in jwt.issuers.iter().enumerate() {
        let place = &issuer.place;
        if jwt.issuers[..index].iter().any(|earlier| earlier.place == *place) {
            continue;
        }
        for value in fields.get_all(&place.header) {
            let Some(token) = place.token(value.as_bytes()) else { continue };
            if found.is_some() {
                return Err(Invalid::Several);
            }
            found = Some((place, std::str::from_utf8(token).map_err(|_| Invalid::Malformed)?));
        }
    }
    Ok(found)
}

/// Asks whether a request may pass. Returns what is to be kept of it.
///
/// # Errors
/// [`Failure::Denied`]; or [`Failure::BadRequest`] where rules look at the path and it could be read in two ways.
fn admit_request(
    worker: &Worker,
    session: &Session,
    access: &Access,
    head: &request::Parts,
    authority: &Authority,
    proofs: &Proofs,
    exchange: &mut Exchange,
) -> Result<Option<Box<Kept>>, Failure> {
    let (identity, address) = (session.identity.as_ref(), session.client.ip());
    let decision = access.decide_request(identity, address, head, authority, proofs.shown());
    let decision = decision.map_err(|_| Failure::BadRequest)?;
    note(worker, &decision);
    if let Some(policy) = decision.audited.first() {
        exchange.audit_policy = Some(Arc::clone(policy));
    }
    if !decision.allowed {
        exchange.policy = Some(decision.by.clone());
        return Err(Failure::Denied);
    }
    Ok(access
        .looks()
        .fields
        .then(|| Box::new(Kept { headers: head.headers.clone(), proofs: proofs.clone() })))
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
    if port.jwt.as_ref().is_some_and(|jwt| jwt.required) {
        tell_refused(session, port.port, "a token is required, and it can show none");
        return Err(Failure::Denied);
    }
    if port.api_keys.as_ref().is_some_and(|keys| keys.required) {
        tell_refused(session, port.port, "an API key is required, and it can show none");
        return Err(Failure::Denied);
    }
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

/// What of a request is kept to ask about it again, beside what its [`Exchange`] knows.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    headers: HeaderMap,
    proofs: Proofs,
}

/// What the rules let in, as long as it is there.
pub(crate) struct Admission {
    watch: Watch,
    session: Rc<Session>,
    port: u16,
    /// `None`: no rule looked at it, and whatever a later one wants to see is not known any more.
    kept: Option<Box<Kept>>,
}

impl Admission {
    /// For what was let in just now.
    pub(crate) fn new(worker: &Worker, session: &Rc<Session>, port: u16, kept: Option<Box<Kept>>) -> Self {
        Self { watch: worker.revocations.watch(), session: session.clone(), port, kept }
    }

    /// Who refuses it now: asked only if the rules have changed. Otherwise the task is woken when they do. Without an
    /// `exchange` it is a connection that nobody reads.
    pub(crate) fn poll_refusal(
        &mut self,
        worker: &Worker,
        exchange: Option<&Exchange>,
        cx: &Context<'_>,
    ) -> Option<Arc<str>> {
        while self.watch.poll_changed(cx) {
            if let Some(policy) = self.refusal(worker, exchange) {
                return Some(policy);
            }
        }
        None
    }

    /// The same without being woken.
    pub(crate) fn refusal_if_changed(&mut self, worker: &Worker, exchange: &Exchange) -> Option<Arc<str>> {
        if self.watch.has_changed() { self.refusal(worker, Some(exchange)) } else { None }
    }

    /// Ends when somebody refuses it.
    pub(crate) async fn refused(&mut self, worker: &Worker, exchange: Option<&Exchange>) -> Arc<str> {
        poll_fn(|cx| match self.poll_refusal(worker, exchange, cx) {
            Some(policy) => Poll::Ready(policy),
            None => Poll::Pending,
        })
        .await
    }

    #[cold]
    fn refusal(&self, worker: &Worker, exchange: Option<&Exchange>) -> Option<Arc<str>> {
        let snapshot = worker.snapshots.current();
        let access = rules(&snapshot, &self.session, self.port)?.access.as_ref()?;
        let Some(exchange) = exchange else {
            return access.refusal(&facts(&self.session, None)).cloned();
        };
        let looks = access.looks();
        let path = if looks.path { decoded(exchange.uri.path()) } else { Ok(Cow::Borrowed("")) };
        let Ok(path) = path else { return Some("(ambiguous path)".into()) };
        let authority = || match exchange.uri.authority() {
            Some(authority) => Some(authority.clone()),
            None => Authority::try_from(exchange.authority.as_ref()?.as_bytes()).ok(),
        };
        let authority = if looks.host { authority() } else { None };
        let host = authority.as_ref().map(host_of).unwrap_or_default();
        let kept = self.kept.as_ref();
        let fields = kept.map(|kept| Fields { headers: &kept.headers, shown: kept.proofs.shown() });
        let request = RequestFacts { method: &exchange.method, host: &host, path: &path, fields };
        access.refusal(&facts(&self.session, Some(request))).cloned()
    }
}

/// What holds for those who come in as this session did: at a port of the workload, or of a gateway.
fn rules<'a>(snapshot: &'a Snapshot, session: &Session, port: u16) -> Option<&'a InboundPort> {
    match &session.destination {
        Destination::Fixed(gateway, _) => snapshot.services.get(gateway)?.gateway.as_ref()?.port(port),
        Destination::Own(_) | Destination::Named => snapshot.inbound.port(port),
    }
}

fn facts<'a>(session: &'a Session, request: Option<RequestFacts<'a>>) -> Facts<'a> {
    Facts { identity: session.identity.as_ref(), address: session.client.ip(), request }
}

/// Logs why a connection that nobody reads is refused, where no policy says so.
pub(crate) fn tell_refused(session: &Session, port: u16, reason: &str) {
    let (client, error) = (session.client, Failure::Denied.name());
    let peer = session.identity.as_ref().map(tracing::field::display);
    tracing::info!(%client, peer, port, error, reason, "refused a connection");
}

/// Counts and logs that something was let in once and has to go.
pub(crate) fn tell_revoked(worker: &Worker, session: &Session, port: u16, policy: &Arc<str>) {
    worker.recorder.metrics.access(policy, false, false);
    let (client, error) = (session.client, Failure::Denied.name());
    let peer = session.identity.as_ref().map(tracing::field::display);
    tracing::info!(%client, peer, port, error, %policy, "closed a connection that is not allowed any more");
}

fn note(worker: &Worker, decision: &Decision<'_>) {
    let metrics = &worker.recorder.metrics;
    metrics.access(decision.by, decision.allowed, false);
    for policy in &decision.audited {
        metrics.access(policy, false, true);
    }
}
