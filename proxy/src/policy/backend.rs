//! How a service's endpoints are called.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use outrigger_api::v1;

use super::fallback::fallback;
use super::problem::{Path, Problems};
use super::{balancing, hedging, session};
use crate::backoff::Backoff;
use crate::budget::{DEFAULT_INTERVAL, DEFAULT_WINDOW};
use crate::outlier::OutlierPolicy;
use crate::retry::RetryPolicy;
use crate::snapshot::{BackendPolicy, BreakerPolicy, Http2Policy, TcpKeepalive};

/// The longest duration that a message may carry (google.protobuf.Duration): 10,000 years. Any clock can add that.
const LONGEST_SECONDS: i64 = 315_576_000_000;

/// No request is tried more often than this on top of the first.
const MOST_ATTEMPTS: u32 = 10;

const SMALLEST_WINDOW: u32 = 65_535;
const LARGEST_WINDOW: u32 = i32::MAX as u32;

pub(super) fn policy(
    raw: Option<&v1::BackendPolicy>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<BackendPolicy> {
    let raw = problems.present(raw, path)?;
    let balancer = balancing::balancer(raw.balancer, &path.field("balancer"), problems);
    let hash = balancing::hash(raw, path, problems);
    let zone_percent = balancing::percent(raw.zone_percent, &path.field("zonePercent"), problems);
    let connect_timeout = required(raw.connect_timeout.as_ref(), &path.field("connectTimeout"), problems);
    let tls_timeout = required(raw.tls_timeout.as_ref(), &path.field("tlsTimeout"), problems);
    let idle_timeout = required(raw.idle_timeout.as_ref(), &path.field("idleTimeout"), problems);
    at_least_one(raw.max_connections, &path.field("maxConnections"), problems);
    at_least_one(raw.max_active, &path.field("maxActive"), problems);
    let keepalive = path.field("tcpKeepalive");
    let tcp_keepalive = raw.tcp_keepalive.as_ref().and_then(|raw| tcp_keepalive(raw, &keepalive, problems));
    let http2 = http2(raw.http2.as_ref(), &path.field("http2"), problems);
    let breaker = raw.breaker.as_ref().and_then(|raw| breaker(raw, &path.field("breaker"), problems));
    Some(BackendPolicy {
        max_connection_age: optional(
            raw.max_connection_age.as_ref(),
            &path.field("maxConnectionAge"),
            problems,
        ),
        breaker,
        max_connections: raw.max_connections,
        max_pending: raw.max_pending,
        max_active: raw.max_active,
        retry_budget_percent: raw.retry_budget_percent,
        retry_budget_per_second: raw.retry_budget_per_second,
        retry_budget_window: optional(
            raw.retry_budget_window.as_ref(),
            &path.field("retryBudgetWindow"),
            problems,
        )
        .unwrap_or(DEFAULT_WINDOW),
        retry_budget_interval: optional(
            raw.retry_budget_interval.as_ref(),
            &path.field("retryBudgetInterval"),
            problems,
        )
        .unwrap_or(DEFAULT_INTERVAL),
        request_timeout: optional(raw.request_timeout.as_ref(), &path.field("requestTimeout"), problems),
        attempt_timeout: optional(raw.attempt_timeout.as_ref(), &path.field("attemptTimeout"), problems),
        retry: retry(raw.retry.as_ref(), &path.field("retry"), problems),
        hedging: hedging::read(raw.hedging.as_ref(), &path.field("hedging"), problems),
        session: session::read(raw.session.as_ref(), &path.field("session"), problems).map(Arc::new),
        tcp_keepalive,
        http1_max_requests: (raw.http1_max_requests > 0).then_some(raw.http1_max_requests),
        http2: http2?,
        slow_start: optional(raw.slow_start.as_ref(), &path.field("slowStart"), problems),
        zone_percent: (zone_percent > 0).then_some(zone_percent),
        hash,
        fallback: fallback(raw.fallback.as_ref(), &path.field("fallback"), problems),
        balancer: balancer?,
        connect_timeout: connect_timeout?,
        tls_timeout: tls_timeout?,
        idle_timeout: idle_timeout?,
    })
}

fn breaker(raw: &v1::Breaker, path: &Path<'_>, problems: &mut Problems) -> Option<BreakerPolicy> {
    at_least_one(raw.consecutive_failures, &path.field("consecutiveFailures"), problems);
    balancing::percent(raw.max_ejected_percent, &path.field("maxEjectedPercent"), problems);
    balancing::percent(raw.panic_threshold_percent, &path.field("panicThresholdPercent"), problems);
    let success_rate = path.field("successRate");
    let outlier = raw.success_rate.as_ref().and_then(|raw| outlier(raw, &success_rate, problems));
    let min_open = required(raw.min_open.as_ref(), &path.field("minOpen"), problems);
    let max_open = required(raw.max_open.as_ref(), &path.field("maxOpen"), problems);
    let (min_open, max_open) = min_open.zip(max_open)?;
    if min_open > max_open {
        problems.add(&path.field("minOpen"), format!("{min_open:?} is longer than maxOpen, {max_open:?}"));
    }
    Some(BreakerPolicy {
        consecutive_failures: raw.consecutive_failures,
        min_open,
        max_open,
        max_ejected_percent: raw.max_ejected_percent,
        outlier,
        panic_percent: raw.panic_threshold_percent,
    })
}

fn tcp_keepalive(raw: &v1::TcpKeepalive, path: &Path<'_>, problems: &mut Problems) -> Option<TcpKeepalive> {
    at_least_one(raw.probes, &path.field("probes"), problems);
    let time = required(raw.time.as_ref(), &path.field("time"), problems);
    let interval = required(raw.interval.as_ref(), &path.field("interval"), problems);
    Some(TcpKeepalive { time: time?, interval: interval?, probes: raw.probes })
}

fn http2(raw: Option<&v1::Http2>, path: &Path<'_>, problems: &mut Problems) -> Option<Http2Policy> {
    let raw = problems.present(raw, path)?;
    at_least_one(raw.max_streams, &path.field("maxStreams"), problems);
    for (name, bytes) in [
        ("streamWindowBytes", raw.stream_window_bytes),
        ("connectionWindowBytes", raw.connection_window_bytes),
    ] {
        // RFC 9113 section 6.9.1, and no less than what every connection begins with.
        if !(SMALLEST_WINDOW..=LARGEST_WINDOW).contains(&bytes) {
            let problem = format!("{bytes} is not {SMALLEST_WINDOW} to {LARGEST_WINDOW}");
            problems.add(&path.field(name), problem);
        }
    }
    Some(Http2Policy {
        max_streams: raw.max_streams,
        stream_window_bytes: raw.stream_window_bytes,
        connection_window_bytes: raw.connection_window_bytes,
    })
}

fn outlier(raw: &v1::SuccessRate, path: &Path<'_>, problems: &mut Problems) -> Option<OutlierPolicy> {
    let percent_of_peers = balancing::percent(raw.percent_of_peers, &path.field("percentOfPeers"), problems);
    at_least_one(raw.min_requests, &path.field("minRequests"), problems);
    let window = required(raw.interval.as_ref(), &path.field("interval"), problems)?;
    Some(OutlierPolicy { percent_of_peers, window, min_requests: raw.min_requests })
}

/// Reads a retry policy; absent is none.
pub(super) fn retry(
    raw: Option<&v1::Retry>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Arc<RetryPolicy>> {
    let raw = raw?;
    if !(1..=MOST_ATTEMPTS).contains(&raw.attempts) {
        problems.add(&path.field("attempts"), format!("{} is not 1 to {MOST_ATTEMPTS}", raw.attempts));
    }
    let mut status = Vec::with_capacity(raw.status_codes.len());
    for (index, number) in raw.status_codes.iter().enumerate() {
        let code = u16::try_from(*number).ok().filter(|code| (400..=599).contains(code));
        match code.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(code) => status.push(code),
            None => problems.add(
                &path.field("statusCodes").index(index),
                format!("{number} is not a status, 400 to 599"),
            ),
        }
    }
    let mut grpc = Vec::with_capacity(raw.grpc_codes.len());
    for (index, number) in raw.grpc_codes.iter().enumerate() {
        match u8::try_from(*number).ok().filter(|code| (1..=16).contains(code)) {
            Some(code) => grpc.push(code),
            None => problems
                .add(&path.field("grpcCodes").index(index), format!("{number} is not a gRPC code, 1 to 16")),
        }
    }
    let backoff = required(raw.backoff.as_ref(), &path.field("backoff"), problems)?;
    Some(Arc::new(RetryPolicy {
        attempts: raw.attempts,
        backoff: Backoff::new(backoff),
        status,
        grpc,
        non_idempotent: raw.non_idempotent,
    }))
}

pub(super) fn at_least_one(number: u32, path: &Path<'_>, problems: &mut Problems) {
    if number == 0 {
        problems.add(path, "must be at least 1");
    }
}

/// Reads a duration that the contract says is always there.
pub(super) fn required(
    raw: Option<&prost_types::Duration>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Duration> {
    let raw = problems.present(raw, path)?;
    optional(Some(raw), path, problems)
}

/// Reads a duration; absent is none, and one that is there is longer than nothing.
pub(super) fn optional(
    raw: Option<&prost_types::Duration>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Duration> {
    let raw = raw?;
    let seconds = u64::try_from(raw.seconds).ok().filter(|_| raw.seconds <= LONGEST_SECONDS);
    let nanos = u32::try_from(raw.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let duration = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
    let duration = duration.filter(|duration| !duration.is_zero());
    if duration.is_none() {
        problems.add(
            path,
            format!("{} s {} ns is not a time over 0 and up to 10,000 years", raw.seconds, raw.nanos),
        );
    }
    duration
}
