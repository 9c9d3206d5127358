//! What is to be done with one request: the rule that matches it, the backend that the dice chose, what the filters
//! of both make of it, and the timeouts and retries that follow.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Response, header, request};
use outrigger_api::ServiceName;
use rand::Rng;
use smallvec::SmallVec;

use crate::body::Body;
use crate::failure::Failure;
use crate::fallback::{Fallback, choose_ready};
use crate::filter::{Called, Cors, Fault, Filter, Redirect};
use crate::hedge::HedgePolicy;
use crate::mirror::Likeness;
use crate::persistence::{Session, SessionPolicy};
use crate::rate_limit::RateLimits;
use crate::retry::RetryPolicy;
use crate::route::choose_backend;
use crate::snapshot::{Backend, Rule, Service, Target};

/// A request's way, decided once for all of its attempts.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    rule: Option<&'a Rule>,
    chosen: Option<&'a Backend>,
    /// Whose endpoints answer, and at which of their ports. None: there is no backend, or none that is there.
    target: Option<(&'a ServiceName, u16)>,
    /// For all attempts together.
    pub(crate) request_timeout: Option<Duration>,
    /// For each.
    pub(crate) attempt_timeout: Option<Duration>,
    /// What may be tried again.
    pub(crate) retry: Option<&'a Arc<RetryPolicy>>,
    /// When a second attempt goes beside the first.
    pub(crate) hedging: Option<&'a HedgePolicy>,
    /// How requests of one client stay together.
    pub(crate) session: Option<&'a SessionPolicy>,
    /// The session that this one belongs to.
    pub(crate) resumed: Option<Session>,
    /// The answer where nobody can give one.
    fallback: Option<&'a Arc<Fallback>>,
}

/// A request on its way through the filters.
pub(crate) struct Passing<'r> {
    pub(crate) head: &'r mut request::Parts,
    /// How it reached the proxy; the authority is what the backend will be told.
    pub(crate) called: &'r mut Called,
    /// On the wall.
    pub(crate) now: SystemTime,
}

/// What came of a request's filters beside the changes to it.
#[derive(Debug, Default)]
pub(crate) struct Effects<'a> {
    /// The proxy's own answer, in place of a backend's.
    pub(crate) answer: Option<Box<Response<Body>>>,
    /// What is done to it on purpose, before it is sent or answered.
    pub(crate) faults: SmallVec<[&'a Fault; 1]>,
    /// Who is sent the same.
    pub(crate) mirrors: Vec<Likeness<'a>>,
    /// Whose page sent it, where the answer depends on that.
    pub(crate) origin: Option<HeaderValue>,
}

/// Somebody's page that a browser shows answers to, if the policy has it.
#[derive(Debug)]
pub(crate) struct Page {
    cors: Arc<Cors>,
    origin: HeaderValue,
}

impl Page {
    /// Writes into the fields of an answer what the page may see of it.
    pub(crate) fn answer(&self, fields: &mut HeaderMap) {
        self.cors.answer(Some(&self.origin), fields);
    }
}

/// A session that goes on, and the backend of the rule that has its endpoint.
pub(crate) type Resumed<'a> = Option<(Session, Option<&'a Backend>)>;

impl<'a> Plan<'a> {
    /// Decides for a request to `port` of `service`. `resume` tells what is known of the session that the request
    /// belongs to, which comes before the dice, whatever the weight of its backend. `ready` says whether an endpoint of a
    /// service's port could be used; it is asked only where there is a fallback that must not be used in vain, or a
    /// session that must not be begun, or begun anew, with a backend that is out.
    ///
    /// # Errors
    /// [`Failure::NoRoute`]: the service has no such port, or routes of which none matches.
    pub(crate) fn of(
        service: &'a Service,
        port: u16,
        head: &request::Parts,
        resume: impl FnOnce(&SessionPolicy, &'a [Backend]) -> Resumed<'a>,
        ready: impl Fn(&ServiceName, u16) -> bool,
        rng: &mut impl Rng,
    ) -> Result<Self, Failure> {
        let service_port = service.port(port).ok_or(Failure::NoRoute)?;
        let Some(routes) = &service_port.routes else {
            let session = service.policy.session.as_deref();
            return Ok(Self {
                session,
                resumed: session.and_then(|session| resume(session, &[])).map(|(session, _)| session),
                hedging: service.policy.hedging.as_deref(),
                rule: None,
                chosen: None,
                target: Some((&service.name, port)),
                request_timeout: service.policy.request_timeout,
                attempt_timeout: service.policy.attempt_timeout,
                retry: service.policy.retry.as_ref(),
                fallback: service.policy.fallback.as_ref(),
            });
        };
        let rule = routes.find(head).ok_or(Failure::NoRoute)?;
        let session = rule.session.as_deref();
        let resumed = session.and_then(|session| resume(session, &rule.backends));
        let fallback = rule.fallback.as_ref().or(service.policy.fallback.as_ref());
        let chosen = match resumed {
            Some((_, Some(backend))) => Some(backend),
            _ if session.is_none() && fallback.is_none() => choose_backend(&rule.backends, rng),
            _ => choose_ready(&rule.backends, rng, |backend| is_ready(backend, &ready)),
        };
        let target = match chosen.map(|chosen| &chosen.target) {
            Some(Target::Service { name, port }) => Some((name, *port)),
            Some(Target::Invalid(_)) | None => None,
        };
        Ok(Self {
            rule: Some(rule),
            chosen,
            target,
            request_timeout: rule.request_timeout,
            attempt_timeout: rule.attempt_timeout,
            retry: rule.retry.as_ref().or(service.policy.retry.as_ref()),
            hedging: rule.hedging.as_deref().or(service.policy.hedging.as_deref()),
            session,
            resumed: resumed.map(|(session, _)| session),
            fallback,
        })
    }

    /// How often the rule may be used.
    pub(crate) fn rate_limits(&self) -> Option<&'a RateLimits> {
        self.rule.map(|rule| &rule.rate_limits).filter(|limits| !limits.is_empty())
    }

    /// `namespace/name` of the route, for labels.
    pub(crate) fn route(&self) -> Option<Arc<str>> {
        self.rule.map(|rule| rule.route.clone())
    }

    /// Whose endpoints answer, and at which of their ports.
    ///
    /// # Errors
    /// [`Failure::InvalidBackend`]: the rule has no backend that is there.
    pub(crate) fn target(&self) -> Result<(&'a ServiceName, u16), Failure> {
        self.target.ok_or(Failure::InvalidBackend)
    }

    /// The answer in place of `failure`, if there is one and no backend could have been used.
    pub(crate) fn fallback(
        &self,
        failure: Failure,
        ready: impl Fn(&ServiceName, u16) -> bool,
    ) -> Option<&'a Fallback> {
        let fallback = self.fallback.filter(|fallback| fallback.covers(failure))?;
        let is_out = match self.rule {
            Some(rule) => {
                rule.backends.iter().all(|backend| backend.weight == 0 || !is_ready(backend, &ready))
            }
            None => self.target.is_none_or(|(name, port)| !ready(name, port)),
        };
        is_out.then_some(fallback)
    }

    /// Applies what the rule and the backend do to requests, in that order, up to the first filter that answers.
    ///
    /// # Errors
    /// [`Failure::InvalidBackend`]: a filter is not there, and leaving it out could do harm.
    /// [`Failure::BadRequest`]: what a filter would make of the request is longer than may be.
    pub(crate) fn filter_request(
        &self,
        passing: &mut Passing<'_>,
        rng: &mut impl Rng,
    ) -> Result<Effects<'a>, Failure> {
        let Passing { head, called, now } = passing;
        let mut effects = Effects::default();
        // Whatever stands before it: a filter that is not there may have been meant to guard the others.
        if self.filters().any(|filter| matches!(filter, Filter::Unresolved(_))) {
            return Err(Failure::InvalidBackend);
        }
        for filter in self.filters() {
            match filter {
                Filter::RequestHeaders(modifier) => modifier.apply(&mut head.headers),
                Filter::ResponseHeaders(_) | Filter::Unresolved(_) => {}
                Filter::Rewrite(rewrite) => {
                    rewrite.apply(&mut head.uri, &mut called.authority).ok_or(Failure::BadRequest)?
                }
                Filter::Redirect(redirect) => {
                    effects.answer = Some(Box::new(redirected(redirect, called, head)?));
                    break;
                }
                Filter::Cors(cors) => {
                    effects.answer = cors.preflight(head).map(Box::new);
                    if effects.answer.is_some() {
                        break;
                    }
                    effects.origin = Cors::origin(&head.headers).cloned();
                }
                Filter::Fault(fault) if fault.is_for(head, *now) => effects.faults.push(fault),
                // What comes after CONNECT is no request.
                Filter::Mirror(mirror) if head.method != Method::CONNECT && mirror.wants(rng) => {
                    effects.mirrors.push(Likeness::of(mirror, head, &called.authority));
                }
                Filter::Fault(_) | Filter::Mirror(_) => {}
            }
        }
        Ok(effects)
    }

    /// Applies what the rule and the backend do to responses; `origin` is what came of the request's filters.
    pub(crate) fn filter_response(&self, origin: Option<&HeaderValue>, fields: &mut HeaderMap) {
        for filter in self.filters() {
            match filter {
                Filter::ResponseHeaders(modifier) => modifier.apply(fields),
                Filter::Cors(cors) => cors.answer(origin, fields),
                _ => {}
            }
        }
    }

    /// Which pages may read the answer to a request, and the page that sent it: for answers that come before or instead
    /// of what the filters see.
    pub(crate) fn page(&self, head: &request::Parts) -> Option<Page> {
        let origin = Cors::origin(&head.headers)?;
        self.filters().find_map(|filter| match filter {
            Filter::Cors(cors) => Some(Page { cors: Arc::clone(cors), origin: origin.clone() }),
            _ => None,
        })
    }

    /// Whether it changes anything in a message.
    pub(crate) fn has_filters(&self) -> bool {
        self.filters().next().is_some()
    }

    fn filters(&self) -> impl Iterator<Item = &'a Filter> {
        let rule = self.rule.map_or(&[][..], |rule| &rule.filters);
        let chosen = self.chosen.map_or(&[][..], |backend| &backend.filters);
        rule.iter().chain(chosen)
    }
}

fn is_ready(backend: &Backend, ready: impl Fn(&ServiceName, u16) -> bool) -> bool {
    match &backend.target {
        Target::Service { name, port } => ready(name, *port),
        Target::Invalid(_) => false,
    }
}

/// How requests of a workload reach its proxy.
pub(crate) fn called(authority: http::uri::Authority, port: u16) -> Called {
    Called { scheme: Scheme::HTTP, authority, port }
}

fn redirected(
    redirect: &Redirect,
    called: &Called,
    head: &request::Parts,
) -> Result<Response<Body>, Failure> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = redirect.status;
    let location = redirect.location(called, &head.uri).ok_or(Failure::BadRequest)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
