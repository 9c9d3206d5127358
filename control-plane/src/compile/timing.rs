//! Timeouts and retries: the rule's own, else the service's policy, else the mesh's defaults, else none.

use std::time::Duration;

use outrigger_api::v1;

use crate::resources::httproutes::{HttpRouteRulesRetry, HttpRouteRulesTimeouts};
use crate::resources::{Period, RequestDefaults, Retry, Timeouts};

/// The first wait before a retry where nothing is said.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// Retries where a retry is asked for without a number.
const DEFAULT_ATTEMPTS: u32 = 1;
/// No request is tried more often than this on top of the first.
const MAX_ATTEMPTS: u32 = 10;

/// Timeouts and retries of requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Timing {
    pub(super) request: Option<Duration>,
    pub(super) attempt: Option<Duration>,
    pub(super) retry: Option<v1::Retry>,
}

impl Timing {
    /// Where no rule says otherwise. Each field is the first's that has it; zero means none.
    pub(super) fn defaults<'a>(sources: impl IntoIterator<Item = Option<&'a RequestDefaults>>) -> Self {
        let mut timeouts = Timeouts::default();
        let mut retry = None;
        for source in sources.into_iter().flatten() {
            let own = source.timeouts.clone().unwrap_or_default();
            timeouts.request = timeouts.request.or(own.request);
            timeouts.backend_request = timeouts.backend_request.or(own.backend_request);
            retry = retry.or(source.retry.as_ref());
        }
        let request = timeouts.request.and_then(nonzero);
        let attempt = timeouts.backend_request.and_then(nonzero);
        Self { request, attempt: shorter(attempt, request), retry: retry.map(default_retry) }
    }

    /// What a rule says, on top of these defaults. `0s` in a rule switches a timeout off.
    pub(super) fn of_rule(
        &self,
        timeouts: Option<&HttpRouteRulesTimeouts>,
        retry: Option<&HttpRouteRulesRetry>,
    ) -> Self {
        let own = |text: Option<&String>| text.and_then(|text| text.parse::<Period>().ok());
        let request = own(timeouts.and_then(|timeouts| timeouts.request.as_ref()));
        let attempt = own(timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()));
        let request = request.map_or(self.request, nonzero);
        let attempt = attempt.map_or(self.attempt, nonzero);
        let retry = retry.map(|retry| self.rule_retry(retry)).or_else(|| self.retry.clone());
        Self { request, attempt: shorter(attempt, request), retry }
    }

    /// HTTPRoute has no field for gRPC codes and for methods that are not idempotent; the policy's stay.
    fn rule_retry(&self, retry: &HttpRouteRulesRetry) -> v1::Retry {
        let default = self.retry.clone().unwrap_or_default();
        let attempts = retry.attempts.map(|attempts| u32::try_from(attempts).unwrap_or(MAX_ATTEMPTS));
        let backoff = retry.backoff.as_ref().and_then(|text| text.parse::<Period>().ok()).and_then(nonzero);
        let codes = retry.codes.iter().flatten().filter_map(|code| u32::try_from(*code).ok());
        v1::Retry {
            attempts: attempts.unwrap_or(DEFAULT_ATTEMPTS).clamp(1, MAX_ATTEMPTS),
            backoff: Some(proto(backoff.unwrap_or(DEFAULT_BACKOFF))),
            status_codes: codes.filter(|code| (400..=599).contains(code)).collect(),
            grpc_codes: default.grpc_codes,
            non_idempotent: default.non_idempotent,
        }
    }
}

fn default_retry(retry: &Retry) -> v1::Retry {
    v1::Retry {
        attempts: retry.attempts.unwrap_or(DEFAULT_ATTEMPTS).clamp(1, MAX_ATTEMPTS),
        backoff: Some(proto(retry.backoff.and_then(nonzero).unwrap_or(DEFAULT_BACKOFF))),
        status_codes: retry.codes.iter().copied().map(u32::from).collect(),
        grpc_codes: retry.grpc_codes.iter().copied().map(u32::from).collect(),
        non_idempotent: retry.non_idempotent.unwrap_or(false),
    }
}

fn nonzero(period: Period) -> Option<Duration> {
    (!period.is_zero()).then(|| period.duration())
}

/// An attempt that is allowed longer than the request it belongs to is bounded by the request.
fn shorter(attempt: Option<Duration>, request: Option<Duration>) -> Option<Duration> {
    match (attempt, request) {
        (Some(attempt), Some(request)) => Some(attempt.min(request)),
        (attempt, _) => attempt,
    }
}

/// A duration as it goes over the wire.
pub(super) fn proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32, // below 10^9
    }
}
