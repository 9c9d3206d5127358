//! What is to be done with one request: the rule that matches it, the backend that the dice chose, and the timeouts
//! and retries that follow from both.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, request};
use outrigger_api::ServiceName;
use rand::Rng;

use crate::failure::Failure;
use crate::filter::Filter;
use crate::hedge::HedgePolicy;
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
    /// Whose endpoints answer.
    pub(crate) backend: ServiceName,
    /// At which of its ports.
    pub(crate) port: u16,
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
}

/// A session that goes on, and the backend of the rule that has its endpoint.
pub(crate) type Resumed<'a> = Option<(Session, Option<&'a Backend>)>;

impl<'a> Plan<'a> {
    /// Decides for a request to `port` of `service`. `resume` tells what is known of the session that the request
    /// belongs to, which comes before the dice, whatever the weight of its backend.
    ///
    /// # Errors
    /// [`Failure::NoRoute`]: the service has no such port, or routes of which none matches.
    /// [`Failure::InvalidBackend`]: the rule has no backend that is there, or a filter that is not.
    pub(crate) fn of(
        service: &'a Service,
        port: u16,
        head: &request::Parts,
        resume: impl FnOnce(&SessionPolicy, &'a [Backend]) -> Resumed<'a>,
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
                backend: service.name.clone(),
                port,
                request_timeout: service.policy.request_timeout,
                attempt_timeout: service.policy.attempt_timeout,
                retry: service.policy.retry.as_ref(),
            });
        };
        let rule = routes.find(head).ok_or(Failure::NoRoute)?;
        let session = rule.session.as_deref();
        let resumed = session.and_then(|session| resume(session, &rule.backends));
        let chosen = match resumed {
            Some((_, Some(backend))) => backend,
            _ => choose_backend(&rule.backends, rng).ok_or(Failure::InvalidBackend)?,
        };
        let Target::Service { name, port } = &chosen.target else { return Err(Failure::InvalidBackend) };
        Ok(Self {
            rule: Some(rule),
            chosen: Some(chosen),
            backend: name.clone(),
            port: *port,
            request_timeout: rule.request_timeout,
            attempt_timeout: rule.attempt_timeout,
            retry: rule.retry.as_ref().or(service.policy.retry.as_ref()),
            hedging: rule.hedging.as_deref().or(service.policy.hedging.as_deref()),
            session,
            resumed: resumed.map(|(session, _)| session),
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

    /// Applies what the rule and the backend do to requests, in that order.
    ///
    /// # Errors
    /// [`Failure::InvalidBackend`]: a filter is not there, and leaving it out could do harm.
    pub(crate) fn filter_request(&self, fields: &mut HeaderMap) -> Result<(), Failure> {
        for filter in self.filters() {
            match filter {
                Filter::RequestHeaders(modifier) => modifier.apply(fields),
                Filter::ResponseHeaders(_) => {}
                Filter::Unresolved(_) => return Err(Failure::InvalidBackend),
            }
        }
        Ok(())
    }

    /// Applies what the rule and the backend do to responses.
    pub(crate) fn filter_response(&self, fields: &mut HeaderMap) {
        for filter in self.filters() {
            if let Filter::ResponseHeaders(modifier) = filter {
                modifier.apply(fields);
            }
        }
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
