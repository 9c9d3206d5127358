//! `FaultInjection`: delays and errors on purpose, to see what callers make of them.
//!
//! A rule names it by `ExtensionRef` in its filters, so that what is tried out is bounded by what the rule matches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Admission;
use super::duration::Period;
use super::problem::{FieldPath, Problems};

/// No caller waits longer, nor should a test of one.
const LONGEST_DELAY: Period = Period::from_millis(10 * 60_000);

/// Delays and errors on purpose (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultInjection {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: FaultInjectionSpec,
}

/// What is done to some of the requests of the rules that refer to the document, which are in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultInjectionSpec {
    /// Holds requests back before they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Answers requests with an error instead of sending them, after the delay if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Which of the rule's requests; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "match")]
    pub gate: Option<FaultMatch>,
    /// How many requests one proxy worker holds back at once; over it requests go on untouched. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent: Option<u32>,
    /// When it ends by itself, as RFC 3339 writes a time: `2030-01-31T12:00:00Z`. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How long requests are held back: exactly one of `fixed`, `uniform` and `exponential`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// The share of requests, percent. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: Option<f64>,
    /// Always so long; up to 10 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Period>,
    /// Anything from `min` to `max` alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniform: Option<DelayRange>,
    /// The mean of an exponential distribution, cut at ten times the mean; up to 1 minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Period>,
}

/// A shortest and a longest delay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DelayRange {
    /// The shortest.
    pub min: Period,
    /// The longest; up to 10 minutes.
    pub max: Period,
}

/// What requests are answered with: exactly one of `httpStatus` and `grpcStatus`. A caller of the other kind gets the
/// status that corresponds to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The share of requests, percent. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: Option<f64>,
    /// An HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub http_status: Option<u16>,
    /// A gRPC status, as a number (14 is UNAVAILABLE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
}

/// Which requests: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultMatch {
    /// Conditions on fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<FaultHeader>,
}

/// A condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultHeader {
    /// How the value is compared. Default: `Exact`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<HeaderComparison>,
    /// The field, compared without case.
    pub name: String,
    /// What its value must be.
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HeaderComparison {
    /// With the whole text.
    Exact,
    /// With a regular expression that must match the whole text.
    RegularExpression,
}

impl FaultInjectionSpec {
    /// When it ends, in seconds of Unix time. `None`: the text is not a time.
    pub(crate) fn ends(&self) -> Option<u64> {
        let Some(until) = &self.until else { return Some(0) };
        let ends = until.parse::<Timestamp>().ok()?;
        u64::try_from(ends.as_second()).ok().filter(|second| *second > 0)
    }
}

impl Admission for FaultInjection {
    fn check(&self, problems: &mut Problems) {
        let path = FieldPath::root().field("spec");
        if self.spec.delay.is_none() && self.spec.abort.is_none() {
            problems.error(&path, "must have delay, abort or both");
        }
        if let Some(delay) = &self.spec.delay {
            delay.check(&path.field("delay"), problems);
        }
        if let Some(abort) = &self.spec.abort {
            let count = usize::from(abort.http_status.is_some()) + usize::from(abort.grpc_status.is_some());
            if count != 1 {
                problems.error(&path.field("abort"), "must have exactly one of httpStatus and grpcStatus");
            }
        }
        for (index, header) in self.spec.gate.iter().flat_map(|gate| &gate.headers).enumerate() {
            header.check(&path.field("match").field("headers").index(index), problems);
        }
        if let Some(until) = self.spec.until.as_ref().filter(|_| self.spec.ends().is_none()) {
            let problem =
                format!("{until:?} is not a time after 1970 as RFC 3339 writes it, 2030-01-31T12:00:00Z");
            problems.error(&path.field("until"), problem);
        }
    }
}

impl FaultDelay {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        let range = self.uniform.as_ref();
        let written = [self.fixed.is_some(), range.is_some(), self.exponential.is_some()];
        if written.into_iter().filter(|written| *written).count() != 1 {
            problems.error(path, "must have exactly one of fixed, uniform and exponential");
        }
        let ten_means = self.exponential.map(|mean| Period::from_millis(millis(mean).saturating_mul(10)));
        let uniform = path.field("uniform");
        for (path, period) in [
            (path.field("fixed"), self.fixed),
            (uniform.field("max"), range.map(|range| range.max)),
            (path.field("exponential"), ten_means),
        ] {
            if period.is_some_and(Period::is_zero) {
                problems.error(&path, "must be longer than 0s");
            } else if period.is_some_and(|period| period > LONGEST_DELAY) {
                let problem = format!("is too long: no request is held back for more than {LONGEST_DELAY}");
                problems.error(&path, problem);
            }
        }
        if let Some(range) = range
            && range.min > range.max
        {
            problems.error(&uniform.field("min"), format!("must not be longer than max, {}", range.max));
        }
    }
}

fn millis(period: Period) -> u64 {
    u64::try_from(period.duration().as_millis()).unwrap_or(u64::MAX)
}

impl FaultHeader {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if http::HeaderName::from_bytes(self.name.as_bytes()).is_err() {
            problems.error(&path.field("name"), format!("{:?} is not a name of a header", self.name));
        }
        if self.kind == Some(HeaderComparison::RegularExpression) && regex::Regex::new(&self.value).is_err() {
            problems.error(&path.field("value"), format!("{:?} is not a regular expression", self.value));
        }
    }
}
