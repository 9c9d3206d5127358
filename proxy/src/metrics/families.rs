//! Which families a scrape page has, with which labels.

use super::facts::{ControlFacts, ProxyFacts};
use super::page::{Format, Kind, Labels, Page, Seconds, since_epoch, yes_or_no};
use super::process::ProcessFacts;
use super::series::{Outcome, Reason, RequestData, SeriesKey, TcpData};
use super::snapshot::MetricsSnapshot;
use super::{AccessKey, Event};
use crate::exchange::NO_STATUS;
use crate::failure::{Failure, Side};

/// Writes the page.
pub fn render(sum: &MetricsSnapshot, facts: &ProxyFacts, format: Format) -> String {
    let mut page = Page::new(format);
    requests(&mut page, sum);
    tcp(&mut page, sum);
    connections(&mut page, sum);
    breakers(&mut page, sum);
    hedges(&mut page, sum);
    rate_limits(&mut page, sum);
    access(&mut page, sum);
    events(&mut page, sum);
    proxy(&mut page, sum, facts);
    control(&mut page, &facts.control);
    process(&mut page, &ProcessFacts::read(), facts);
    page.finish()
}

impl Labels {
    fn of_series(key: &SeriesKey) -> Self {
        let service = key.service.as_ref();
        let name = if key.overflow { "_other" } else { service.map_or("", |s| s.name()) };
        let port = if key.port == 0 { String::new() } else { key.port.to_string() };
        Self::new()
            .with("direction", key.side.as_str())
            .with("service", name)
            .with("namespace", service.map_or("", |s| s.namespace()))
            .with("port", &port)
            .with("route", key.route.as_deref().unwrap_or_default())
            .with("peer", key.peer.as_ref().map_or("", |peer| peer.as_str()))
            .with("tls", yes_or_no(key.mtls))
    }

    fn of_side(side: Side) -> Self {
        Self::new().with("direction", side.as_str())
    }
}

/// Sorted by their labels, so that two scrapes compare line by line.
fn sorted<'a, K, V>(
    series: impl IntoIterator<Item = (K, &'a V)>,
    labels: impl Fn(K) -> Labels,
) -> Vec<(Labels, &'a V)> {
    let mut all: Vec<_> = series.into_iter().map(|(key, value)| (labels(key), value)).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn requests(page: &mut Page, sum: &MetricsSnapshot) {
    let series: Vec<(Labels, &RequestData)> = sorted(&sum.requests, Labels::of_series);
    page.family("outrigger_requests", Kind::Counter, "Requests that have ended, by how they ended.");
    for (labels, data) in &series {
        for (outcome, count) in data.outcomes.iter() {
            page.counter(&outcome_labels(labels, outcome), count);
        }
    }
    page.family("outrigger_requests_active", Kind::Gauge, "Requests under way.");
    for side in [Side::Outbound, Side::Inbound] {
        page.gauge(&Labels::of_side(side), sum.active[side as usize]);
    }
    let duration = "Time from a request's head to the end of its answer, as the caller saw it.";
    page.family("outrigger_request_duration_seconds", Kind::Histogram, duration);
    for (labels, data) in &series {
        page.histogram(labels, &data.duration);
    }
    let overhead = "The part of a request's duration spent in this proxy and not waiting for the upstream.";
    page.family("outrigger_proxy_overhead_seconds", Kind::Histogram, overhead);
    for (labels, data) in &series {
        page.histogram(labels, &data.overhead);
    }
    page.family(
        "outrigger_retries",
        Kind::Counter,
        "Attempts after a request's first, by why the one before failed.",
    );
    for (labels, data) in &series {
        for (reason, count) in data.retries.iter() {
            page.counter(&labels.clone().with("reason", &reason_text(reason)), count);
        }
    }
    page.family("outrigger_attempts", Kind::Counter, "Attempts sent upstream, retries included.");
    for (labels, data) in &series {
        let failures = data.attempts - data.attempt_successes;
        page.counter(&labels.clone().with("success", "true"), data.attempt_successes);
        page.counter(&labels.clone().with("success", "false"), failures);
    }
    page.family("outrigger_request_body_bytes", Kind::Counter, "Body bytes read from callers.");
    for (labels, data) in &series {
        page.counter(labels, data.request_bytes);
    }
    page.family("outrigger_response_body_bytes", Kind::Counter, "Body bytes sent to callers.");
    for (labels, data) in &series {
        page.counter(labels, data.response_bytes);
    }
}

fn outcome_labels(series: &Labels, outcome: Outcome) -> Labels {
    let (status, grpc_status, failure) = match outcome {
        Outcome::Ended { status: NO_STATUS, grpc_status, failure } => (String::new(), grpc_status, failure),
        Outcome::Ended { status, grpc_status, failure } => (status.to_string(), grpc_status, failure),
        Outcome::Other => ("_other".to_owned(), None, None),
    };
    let grpc_status = grpc_status.map(|code| code.to_string()).unwrap_or_default();
    series
        .clone()
        .with("status", &status)
        .with("grpc_status", &grpc_status)
        .with("error", error_text(failure))
}

fn error_text(failure: Option<Failure>) -> &'static str {
    failure.map_or("", Failure::name)
}

fn reason_text(reason: Reason) -> String {
    match reason {
        Reason::Failure(failure) => failure.name().to_owned(),
        Reason::Grpc(code) => format!("grpc-{code}"),
        Reason::Status(status) => format!("status-{status}"),
        Reason::Late => "late".to_owned(),
        Reason::Other => "_other".to_owned(),
    }
}

fn tcp(page: &mut Page, sum: &MetricsSnapshot) {
    let series: Vec<(Labels, &TcpData)> = sorted(&sum.tcp, Labels::of_series);
    page.family("outrigger_tcp_connections_opened", Kind::Counter, "Opaque connections begun.");
    for (labels, data) in &series {
        page.counter(labels, data.opened);
    }
    page.family(
        "outrigger_tcp_connections_closed",
        Kind::Counter,
        "Opaque connections ended, by error if any.",
    );
    for (labels, data) in &series {
        for (failure, count) in data.closed.iter() {
            page.counter(&labels.clone().with("error", error_text(failure)), count);
        }
    }
    page.family("outrigger_tcp_connections_open", Kind::Gauge, "Opaque connections now.");
    for (labels, data) in &series {
        page.gauge(labels, data.opened.saturating_sub(data.closed.total()));
    }
    page.family("outrigger_tcp_connection_duration_seconds", Kind::Histogram, "Life of opaque connections.");
    for (labels, data) in &series {
        page.histogram(labels, &data.duration);
    }
    page.family("outrigger_tcp_read_bytes", Kind::Counter, "Opaque bytes that came from callers.");
    for (labels, data) in &series {
        page.counter(labels, data.read_bytes);
    }
    page.family("outrigger_tcp_written_bytes", Kind::Counter, "Opaque bytes that went to callers.");
    for (labels, data) in &series {
        page.counter(labels, data.written_bytes);
    }
}

fn connections(page: &mut Page, sum: &MetricsSnapshot) {
    let series = sorted(&sum.connections, |kind| {
        Labels::of_side(kind.side)
            .with("role", kind.role.as_str())
            .with("protocol", kind.wire.as_str())
            .with("tls", yes_or_no(kind.mtls))
    });
    page.family("outrigger_connections_opened", Kind::Counter, "Connections accepted or dialed.");
    for (labels, data) in &series {
        page.counter(labels, data.opened);
    }
    page.family("outrigger_connections_open", Kind::Gauge, "Connections now, idle ones included.");
    for (labels, data) in &series {
        page.gauge(labels, data.open);
    }
}

fn breakers(page: &mut Page, sum: &MetricsSnapshot) {
    let series = sorted(&sum.breakers, |service| {
        Labels::new().with("service", service.name()).with("namespace", service.namespace())
    });
    let help = "Changes of state of the circuit breakers of a service's endpoints.";
    page.family("outrigger_breaker_transitions", Kind::Counter, help);
    for (labels, data) in &series {
        for (state, count) in [("closed", data.closed), ("open", data.opened)] {
            page.counter(&labels.clone().with("state", state), count);
        }
    }
    page.family(
        "outrigger_breaker_open",
        Kind::Gauge,
        "Endpoints that their breaker keeps out, summed over workers.",
    );
    for (labels, data) in &series {
        page.gauge(labels, data.out);
    }
}

fn hedges(page: &mut Page, sum: &MetricsSnapshot) {
    let help = "Attempts beside a late one, by what became of them.";
    page.family("outrigger_hedges", Kind::Counter, help);
    let series = sorted(&sum.hedges, |(service, hedge)| {
        Labels::new()
            .with("service", service.name())
            .with("namespace", service.namespace())
            .with("result", hedge.as_str())
    });
    for (labels, count) in series {
        page.counter(&labels, count);
    }
}

fn rate_limits(page: &mut Page, sum: &MetricsSnapshot) {
    let series = sorted(&sum.rate_limited, |(side, policy, limit)| {
        Labels::of_side(*side).with("policy", policy).with("limit", limit)
    });
    page.family("outrigger_rate_limited", Kind::Counter, "Requests that a rate limit refused.");
    for (labels, count) in series {
        page.counter(&labels, *count);
    }
    let help = "Requests that the application may have at once as its latency allows, summed over workers.";
    page.family("outrigger_concurrency_limit", Kind::Gauge, help);
    for (labels, limit) in sorted(&sum.concurrency, |port| Labels::new().with("port", &port.to_string())) {
        page.gauge(&labels, *limit);
    }
}

fn access(page: &mut Page, sum: &MetricsSnapshot) {
    let help =
        "What access policies said of requests and connections; audited ones only when they would refuse.";
    page.family("outrigger_access", Kind::Counter, help);
    let labels = |key: &AccessKey| {
        Labels::new()
            .with("policy", &key.policy)
            .with("verdict", if key.allowed { "allowed" } else { "denied" })
            .with("audit", yes_or_no(key.audit))
    };
    for (labels, count) in sorted(&sum.access, labels) {
        page.counter(&labels, count);
    }
}

impl Event {
    fn family(self) -> (&'static str, &'static str) {
        match self {
            Self::ConnectFailed(..) => {
                ("outrigger_connections_failed", "Connections that could not be made.")
            }
            Self::DetectTimeout(_) => (
                "outrigger_detect_timeouts",
                "Connections whose protocol was not told in time, served as opaque.",
            ),
            Self::Limit(..) => ("outrigger_limit_reached", "Times that a bound was reached."),
            Self::TlsRefused(..) => {
                ("outrigger_tls_refused", "Connections refused for their TLS or its absence.")
            }
            Self::Mirror(_) => ("outrigger_mirrors", "Copies of requests, by what became of them."),
            Self::Fault(_) => ("outrigger_faults_injected", "Delays and errors on purpose."),
            Self::Fallback(_) => ("outrigger_fallbacks", "Answers that a policy gave in place of an error."),
        }
    }

    fn labels(self) -> Labels {
        match self {
            Self::DetectTimeout(side) => Labels::of_side(side),
            Self::Mirror(mirrored) => Labels::new().with("result", mirrored.as_str()),
            Self::Fault(kind) => Labels::new().with("kind", kind.as_str()),
            Self::Fallback(failure) => Labels::new().with("error", failure.name()),
            Self::Limit(side, limit) => Labels::of_side(side).with("limit", limit.as_str()),
            Self::TlsRefused(side, failure) | Self::ConnectFailed(side, failure) => {
                Labels::of_side(side).with("error", failure.name())
            }
        }
    }
}

fn events(page: &mut Page, sum: &MetricsSnapshot) {
    let kinds = [
        Event::ConnectFailed(Side::Outbound, Failure::ConnectRefused),
        Event::DetectTimeout(Side::Outbound),
        Event::Limit(Side::Outbound, super::Limit::Connections),
        Event::TlsRefused(Side::Outbound, Failure::TlsHandshake),
        Event::Mirror(super::Mirrored::Answered),
        Event::Fault(super::FaultKind::Delay),
        Event::Fallback(Failure::NoEndpoints),
    ];
    for kind in kinds {
        let (name, help) = kind.family();
        page.family(name, Kind::Counter, help);
        let of_kind = sum.events.iter().filter(|(event, _)| event.family().0 == name);
        for (labels, count) in sorted(of_kind, |event| event.labels()) {
            page.counter(&labels, count);
        }
    }
}

fn proxy(page: &mut Page, sum: &MetricsSnapshot, facts: &ProxyFacts) {
    let none = Labels::new();
    page.family("outrigger_build_info", Kind::Gauge, "Always 1; the version is a label.");
    page.gauge(&Labels::new().with("version", env!("CARGO_PKG_VERSION")), 1);
    page.family("outrigger_workers", Kind::Gauge, "Threads that serve requests.");
    page.gauge(&none, facts.workers);
    let help = "When the workload's certificate ends, Unix time.";
    page.family("outrigger_certificate_expiry_timestamp_seconds", Kind::Gauge, help);
    if let Some(expiry) = facts.certificate_expiry {
        page.gauge(&none, since_epoch(expiry).as_secs());
    }
    page.family("outrigger_spans_exported", Kind::Counter, "Spans that the collector accepted.");
    page.counter(&none, facts.spans.exported);
    page.family("outrigger_spans_dropped", Kind::Counter, "Spans lost, by why.");
    page.counter(&Labels::new().with("reason", "export-failed"), facts.spans.failed);
    page.counter(&Labels::new().with("reason", "queue-full"), facts.spans.dropped);
    page.family("outrigger_access_log_lines", Kind::Counter, "Access log lines written.");
    page.counter(&none, facts.log.written);
    page.family(
        "outrigger_access_log_dropped",
        Kind::Counter,
        "Access log lines lost, the writer being too slow or failing.",
    );
    page.counter(&none, facts.log.dropped);
    let help = "Records counted under service=\"_other\" because a table of series was full.";
    page.family("outrigger_series_overflow", Kind::Counter, help);
    page.counter(&none, sum.overflowed);
}

fn control(page: &mut Page, facts: &ControlFacts) {
    let none = Labels::new();
    page.family(
        "outrigger_control_connected",
        Kind::Gauge,
        "1 while the stream to the control plane stands.",
    );
    page.gauge(&none, u8::from(facts.connected));
    page.family("outrigger_control_services", Kind::Gauge, "Services that the proxy knows.");
    page.gauge(&none, facts.services);
    let counters = [
        ("outrigger_control_streams", "Streams to the control plane begun.", facts.streams),
        ("outrigger_control_updates", "Policy updates taken into use.", facts.updates),
        (
            "outrigger_control_refusals",
            "Policy updates refused; the last good policy stayed.",
            facts.refusals,
        ),
        (
            "outrigger_control_asks_refused",
            "Questions for a service turned away, a table being full.",
            facts.asks_refused,
        ),
        (
            "outrigger_control_reports_dropped",
            "Load reports not sent, the stream being full.",
            facts.reports_dropped,
        ),
        ("outrigger_certificates_issued", "Certificates taken into use.", facts.certificates),
        (
            "outrigger_certificate_failures",
            "Times that no certificate could be had.",
            facts.certificate_failures,
        ),
    ];
    for (name, help, value) in counters {
        page.family(name, Kind::Counter, help);
        page.counter(&none, value);
    }
}

fn process(page: &mut Page, process: &ProcessFacts, facts: &ProxyFacts) {
    let none = Labels::new();
    page.family("process_start_time_seconds", Kind::Gauge, "When the process started, Unix time.");
    page.gauge(&none, Seconds(since_epoch(facts.started)));
    page.family("process_cpu_seconds", Kind::Counter, "User and system time spent.");
    if let Some(cpu) = process.cpu {
        page.counter(&none, Seconds(cpu));
    }
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes),
        ("process_threads", "Threads of the operating system.", process.threads),
        ("process_open_fds", "File descriptors open.", process.open_files),
        ("process_max_fds", "File descriptors that may be open.", process.max_files),
    ];
    for (name, help, value) in gauges {
        page.family(name, Kind::Gauge, help);
        if let Some(value) = value {
            page.gauge(&none, value);
        }
    }
}
