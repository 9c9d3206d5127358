//! Delays and errors on purpose, from a `FaultInjection` that a rule or a backend refers to.

use outrigger_api::v1::{self, fault_abort, fault_delay, value_match};

use super::rule::expression;
use super::timing::proto;
use crate::resources::{FaultAbort, FaultDelay, FaultHeader, FaultInjection, HeaderComparison};

/// Requests that one worker holds back at once, where nothing is said.
const DEFAULT_CONCURRENT: u32 = 100;

/// Compiles a document.
///
/// # Errors
/// What no proxy could do.
pub(super) fn fault(document: &FaultInjection) -> Result<v1::Fault, String> {
    let spec = &document.spec;
    let (namespace, name) = (document.metadata.namespace.as_deref(), document.metadata.name.as_deref());
    let policy = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
    let headers = spec.gate.iter().flat_map(|gate| &gate.headers).map(header);
    Ok(v1::Fault {
        headers: headers.collect::<Result<_, _>>()?,
        delay: spec.delay.as_ref().map(delay).transpose()?,
        abort: spec.abort.as_ref().map(abort).transpose()?,
        max_concurrent: spec.max_concurrent.unwrap_or(DEFAULT_CONCURRENT),
        until: spec.ends().ok_or_else(|| format!("FaultInjection {policy} ends at no time"))?,
        policy,
    })
}

fn header(header: &FaultHeader) -> Result<v1::ValueMatch, String> {
    let kind = match header.kind {
        Some(HeaderComparison::RegularExpression) => value_match::Kind::Regex(expression(&header.value)?),
        Some(HeaderComparison::Exact) | None => value_match::Kind::Exact(header.value.clone()),
    };
    Ok(v1::ValueMatch { name: header.name.to_ascii_lowercase(), kind: Some(kind) })
}

fn delay(delay: &FaultDelay) -> Result<v1::FaultDelay, String> {
    let time = match (delay.fixed, &delay.uniform, delay.exponential) {
        (Some(fixed), None, None) => fault_delay::Time::Fixed(proto(fixed.duration())),
        (None, Some(range), None) => fault_delay::Time::Uniform(v1::DelayRange {
            min: Some(proto(range.min.duration())),
            max: Some(proto(range.max.duration())),
        }),
        (None, None, Some(mean)) => fault_delay::Time::Exponential(proto(mean.duration())),
        _ => return Err("a delay is fixed, uniform or exponential".to_owned()),
    };
    Ok(v1::FaultDelay { per_million: per_million(delay.percent), time: Some(time) })
}

fn abort(abort: &FaultAbort) -> Result<v1::FaultAbort, String> {
    let status = match (abort.http_status, abort.grpc_status) {
        (Some(status), None) => fault_abort::Status::Http(status.into()),
        (None, Some(status)) => fault_abort::Status::Grpc(status.into()),
        _ => return Err("an abort has an HTTP or a gRPC status".to_owned()),
    };
    Ok(v1::FaultAbort { per_million: per_million(abort.percent), status: Some(status) })
}

fn per_million(percent: Option<f64>) -> u32 {
    (percent.unwrap_or(100.0).clamp(0.0, 100.0) * 10_000.0).round() as u32
}
