//! `ServicePolicy`: how others call a service, where the Gateway API has no field for it.
//!
//! Every field is optional and stays absent when it was not written; the defaults are filled in when the policy
//! is compiled, so that a better default reaches everybody who did not choose otherwise.

mod balancing;
mod connection;
mod hedging;
mod session;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Admission;
use super::duration::Period;
use super::fallback::Fallback;
use super::problem::{FieldPath, Problems};

pub use balancing::{Hash, HashCookie, LoadBalancer, LoadBalancerType, SlowStart, ZonePreference};
pub use connection::{Connection, Http1, Http2, TcpKeepalive};
pub use hedging::Hedging;
pub use session::{CookieConfig, CookieLifetime, SessionPersistence, SessionType};

/// What holds where `minOpen` is not written.
const DEFAULT_MIN_OPEN: Period = Period::from_millis(1000);
/// What holds where `maxOpen` is not written.
const DEFAULT_MAX_OPEN: Period = Period::from_millis(60_000);

/// How others call the services that it names (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePolicy {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: ServicePolicySpec,
}

/// How others call the services named in `targetRefs`, which are in the policy's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePolicySpec {
    /// The services that the policy is for. Where several policies name one service, the oldest holds. One without
    /// targets holds only for rules that refer to it.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen. Default: `PeakEwma`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// When an endpoint is left alone for a while. On by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Timeouts and age of connections to the service's endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// How much one proxy may have under way to the service at once; over it the answer is 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How many requests each instance of the service works on at once, as its own proxy finds out from its latency;
    /// over it the answer is 503. Off unless it is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// How many retries one proxy may add to the requests for the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// Timeouts and retries where no route says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<RequestDefaults>,
    /// Sends a second attempt while the first is late. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,
    /// Keeps the requests of one client with one endpoint, where no rule says how. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    /// What callers get where no backend can answer them. Default: 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// What a policy is for, in its own namespace: a service, and with some kinds of policies other things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The API group of the target: the empty one, of core/v1, for a service.
    #[serde(default)]
    pub group: String,
    /// The kind of the target. Default: `Service`.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The name of the target.
    pub name: String,
}

fn service_kind() -> String {
    "Service".to_owned()
}

/// When an endpoint that fails is left alone, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Failures in a row that open the breaker of an endpoint. Default: 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub consecutive_failures: Option<u32>,
    /// How long the first opening lasts before one probe is sent. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_open: Option<Period>,
    /// How long an opening lasts at most, however often the probe failed. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_open: Option<Period>,
    /// The share of the service's endpoints that may be left alone at once, percent. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: Option<u32>,
    /// Compares an endpoint's successes with those of its peers. On by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// While less than this share of the endpoints is in, all of them are used, percent; 0: never those that are
    /// left alone. Default: what `maxEjectedPercent` leaves of 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold_percent: Option<u32>,
    /// Switches the breaker off. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// When an endpoint succeeds so much less often than its peers that it is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuccessRate {
    /// Less than this share of its peers' average rate, percent. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent_of_peers: Option<u32>,
    /// Requests to an endpoint that are needed to judge it. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
    /// The time whose requests count, up to twice as long. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Period>,
    /// Switches the comparison off. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// How much one proxy worker may have under way to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Open connections. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection. Default: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// Requests under way. Default: 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_active_requests: Option<u32>,
}

/// How many requests an instance works on at once: more as long as that takes no longer, less where it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Never fewer, for each worker of the proxy. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_limit: Option<u32>,
    /// Never more. Default: 1000, or `minLimit` where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_limit: Option<u32>,
    /// How much longer than without a queue an answer may take before the limit shrinks, percent. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub tolerance_percent: Option<u32>,
    /// How often the time that answers take without a queue is looked for again, `1s` to `1h`. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalibrate_every: Option<Period>,
}

/// How many retries may be added to the requests for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries in percent of the requests of the last ten seconds. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// Retries that are allowed in every second, however few the requests. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_per_second: Option<u32>,
}

/// Timeouts and retries where no route says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestDefaults {
    /// How long requests may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// How long a request may take; `0s` means as long as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the first byte of the request to the last of the answer, all attempts included. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Period>,
    /// One attempt. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Period>,
}

/// What is tried again, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Tries after the first. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u32>,
    /// The first wait; it doubles from there, with jitter. Default: 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Period>,
    /// HTTP status codes that are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// gRPC status codes that are tried again, as numbers (14 is UNAVAILABLE).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 16)))]
    pub grpc_codes: Vec<u8>,
    /// Tries methods again that are not idempotent, too. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_idempotent: Option<bool>,
}

impl Admission for ServicePolicy {
    fn check(&self, problems: &mut Problems) {
        let spec = FieldPath::root().field("spec");
        TargetRef::check_all(&self.spec.target_refs, &spec.field("targetRefs"), problems);
        if let Some(balancer) = &self.spec.load_balancer {
            balancer.check(&spec.field("loadBalancer"), problems);
        }
        if let Some(breaker) = &self.spec.circuit_breaker {
            breaker.check(&spec.field("circuitBreaker"), problems);
        }
        if let Some(connection) = &self.spec.connection {
            connection.check(&spec.field("connection"), problems);
        }
        if let Some(concurrency) = &self.spec.adaptive_concurrency {
            concurrency.check(&spec.field("adaptiveConcurrency"), problems);
        }
        if let Some(defaults) = &self.spec.defaults {
            defaults.check(&spec.field("defaults"), problems);
        }
        if let Some(hedging) = &self.spec.hedging {
            hedging.check(&spec.field("hedging"), problems);
        }
        if let Some(session) = &self.spec.session_persistence {
            session.check(&spec.field("sessionPersistence"), problems);
        }
        if let Some(fallback) = &self.spec.fallback {
            fallback.check(&spec.field("fallback"), problems);
        }
    }
}

/// The group of `Gateway`.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

impl TargetRef {
    /// Whether it means a gateway.
    pub(crate) fn is_gateway(&self) -> bool {
        self.group == GATEWAY_GROUP && self.kind == "Gateway"
    }

    /// Checks the targets of a policy: services of its own namespace, each once.
    pub(super) fn check_all(targets: &[Self], path: &FieldPath, problems: &mut Problems) {
        Self::check_each(targets, false, path, problems);
    }

    /// The same of a policy that may be for gateways, too.
    pub(super) fn check_all_or_gateways(targets: &[Self], path: &FieldPath, problems: &mut Problems) {
        Self::check_each(targets, true, path, problems);
    }

    fn check_each(targets: &[Self], gateways: bool, path: &FieldPath, problems: &mut Problems) {
        for (index, target) in targets.iter().enumerate() {
            let path = path.index(index);
            let gateway = gateways && target.is_gateway();
            if !target.group.is_empty() && !gateway {
                problems.error(&path.field("group"), "must be \"\", the group of Service");
            }
            if target.kind != "Service" && !gateway {
                let what = if gateways { "must be Service or Gateway" } else { "must be Service" };
                problems.error(&path.field("kind"), what);
            }
            problems.check_label(&path.field("name"), &target.name);
            let same = |earlier: &Self| earlier.name == target.name && earlier.kind == target.kind;
            if targets[..index].iter().any(same) {
                problems.error(&path.field("name"), format!("names {:?} a second time", target.name));
            }
        }
    }
}

impl CircuitBreaker {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        for (name, period) in [("minOpen", self.min_open), ("maxOpen", self.max_open)] {
            refuse_zero(&path.field(name), period, problems);
        }
        if let Some(rate) = &self.success_rate {
            refuse_zero(&path.field("successRate").field("interval"), rate.interval, problems);
        }
        let (min, max) =
            (self.min_open.unwrap_or(DEFAULT_MIN_OPEN), self.max_open.unwrap_or(DEFAULT_MAX_OPEN));
        match (min > max, self.min_open) {
            (true, Some(_)) => {
                problems.error(&path.field("minOpen"), format!("must not be longer than maxOpen, {max}"));
            }
            (true, None) => {
                problems.error(&path.field("maxOpen"), format!("must not be shorter than minOpen, {min}"));
            }
            (false, _) => {}
        }
    }
}

impl AdaptiveConcurrency {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if let (Some(least), Some(most)) = (self.min_limit, self.max_limit)
            && least > most
        {
            problems.error(&path.field("minLimit"), format!("must not be over maxLimit, {most}"));
        }
        let [shortest, longest] = [1000, 3_600_000].map(Period::from_millis);
        if self.recalibrate_every.is_some_and(|every| every < shortest || every > longest) {
            let message = format!("must be {shortest} to {longest}");
            problems.error(&path.field("recalibrateEvery"), message);
        }
    }
}

impl RequestDefaults {
    pub(crate) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if let Some(Timeouts { request: Some(request), backend_request: Some(attempt) }) = self.timeouts
            && !request.is_zero()
            && attempt > request
        {
            let path = path.field("timeouts").field("backendRequest");
            problems.error(&path, format!("must not be longer than request, {request}"));
        }
        if let Some(retry) = &self.retry {
            refuse_zero(&path.field("retry").field("backoff"), retry.backoff, problems);
        }
    }
}

fn refuse_zero(path: &FieldPath, period: Option<Period>, problems: &mut Problems) {
    if period.is_some_and(Period::is_zero) {
        problems.error(path, "must be longer than 0s; leave it out for the default");
    }
}
