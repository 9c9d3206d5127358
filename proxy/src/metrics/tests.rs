use std::collections::BTreeMap;
use std::time::SystemTime;

use super::*;
use crate::exchange::Attempt;
use crate::exchange::tests::{attempt, exchange};

/// A reader of the two text formats that knows nothing of the writer.
mod page {
    use std::collections::{BTreeMap, BTreeSet};

    /// One sample: its name, its labels, its value, and its exemplar's labels and value.
    #[derive(Debug, Clone, PartialEq)]
    pub(super) struct Sample {
        pub(super) name: String,
        pub(super) labels: BTreeMap<String, String>,
        pub(super) value: f64,
        pub(super) exemplar: Option<(BTreeMap<String, String>, f64)>,
    }

    #[derive(Debug, Default)]
    pub(super) struct Page {
        pub(super) types: BTreeMap<String, String>,
        pub(super) units: BTreeMap<String, String>,
        pub(super) samples: Vec<Sample>,
        pub(super) ended: bool,
    }

    impl Page {
        /// Reads a page, or says in which line it is wrong and how.
        pub(super) fn read(text: &str) -> Result<Self, String> {
            let mut page = Self::default();
            let mut helped = BTreeSet::new();
            let mut seen = BTreeSet::new();
            if !text.ends_with('\n') {
                return Err("the last line does not end".into());
            }
            for line in text.lines() {
                page.line(line, &mut helped, &mut seen).map_err(|problem| format!("{problem}: {line}"))?;
            }
            page.histograms()?;
            Ok(page)
        }

        fn line(
            &mut self,
            line: &str,
            helped: &mut BTreeSet<String>,
            seen: &mut BTreeSet<String>,
        ) -> Result<(), String> {
            if self.ended {
                return Err("there is something after the end".into());
            }
            if line == "# EOF" {
                self.ended = true;
                return Ok(());
            }
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (keyword, name) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
                let rest = words.next().ok_or("a word is missing")?;
                return match keyword {
                    "HELP" if !rest.is_empty() && helped.insert(name.clone()) => Ok(()),
                    "TYPE" if ["counter", "gauge", "histogram"].contains(&rest) => {
                        match self.types.insert(name, rest.into()) {
                            None => Ok(()),
                            Some(_) => Err("a second TYPE".into()),
                        }
                    }
                    "UNIT" if name.ends_with(&format!("_{rest}")) => {
                        self.units.insert(name, rest.into());
                        Ok(())
                    }
                    _ => Err("not a comment that may be".into()),
                };
            }
            let sample = sample(line)?;
            let family = self.family(&sample.name).ok_or("a sample before its TYPE")?;
            if !seen.insert(format!("{} {:?}", sample.name, sample.labels)) {
                return Err("the same series twice".into());
            }
            if self.samples.last().is_some_and(|last| self.family(&last.name) != Some(family.clone()))
                && self.samples.iter().any(|s| self.family(&s.name) == Some(family.clone()))
            {
                return Err("a family in two pieces".into());
            }
            self.samples.push(sample);
            Ok(())
        }

        /// The family that a sample belongs to: its own name, or the name without a suffix.
        fn family(&self, sample: &str) -> Option<String> {
            let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
            let mut names = suffixes.iter().filter_map(|suffix| sample.strip_suffix(suffix));
            names.find(|name| self.types.contains_key(*name)).map(str::to_owned)
        }

        /// Buckets never fall, the last is infinite and equals the count.
        fn histograms(&self) -> Result<(), String> {
            for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
                let mut series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
                for bucket in self.all(&format!("{family}_bucket")) {
                    let mut labels = bucket.labels.clone();
                    let bound = labels
                        .remove("le")
                        .and_then(|le| le.parse().ok())
                        .ok_or("a bucket without a bound")?;
                    series.entry(labels).or_default().push((bound, bucket.value));
                }
                for count in self.all(&format!("{family}_count")) {
                    let buckets = series.remove(&count.labels).ok_or("a count without buckets")?;
                    let rising = buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1);
                    if !rising || buckets.last() != Some(&(f64::INFINITY, count.value)) {
                        return Err(format!("{family} {:?} has buckets {buckets:?}", count.labels));
                    }
                }
                if !series.is_empty() {
                    return Err(format!("{family} has buckets without a count"));
                }
            }
            Ok(())
        }

        pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
            self.samples.iter().filter(move |sample| sample.name == name)
        }

        /// The sum of the samples with this name and all these labels.
        pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
            self.all(name)
                .filter(|s| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v)))
                .map(|s| s.value)
                .sum()
        }
    }

    fn sample(line: &str) -> Result<Sample, String> {
        let mut rest = line;
        let name = word(&mut rest, true).ok_or("no name")?;
        let labels = labels(&mut rest)?;
        rest = rest.strip_prefix(' ').ok_or("no blank before the value")?;
        let (value, exemplar) = match rest.split_once(" # ") {
            None => (rest, None),
            Some((value, mut exemplar)) => {
                let labels = self::labels(&mut exemplar)?;
                let (seen, at) = exemplar.trim_start().split_once(' ').ok_or("an exemplar without a time")?;
                at.parse::<f64>().map_err(|_| "an exemplar's time")?;
                (value, Some((labels, seen.parse().map_err(|_| "an exemplar's value")?)))
            }
        };
        let value = value.parse().map_err(|_| "the value is no number")?;
        Ok(Sample { name, labels, value, exemplar })
    }

    fn labels(rest: &mut &str) -> Result<BTreeMap<String, String>, String> {
        let mut labels = BTreeMap::new();
        let Some(mut inside) = rest.strip_prefix('{') else { return Ok(labels) };
        loop {
            let name = word(&mut inside, false).ok_or("no label name")?;
            inside = inside.strip_prefix("=\"").ok_or("no label value")?;
            let mut value = String::new();
            let mut characters = inside.char_indices();
            let end = loop {
                match characters.next().ok_or("an open label value")? {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().ok_or("an open escape")?.1 {
                        'n' => value.push('\n'),
                        plain @ ('\\' | '"') => value.push(plain),
                        _ => return Err("an unknown escape".into()),
                    },
                    (_, plain) => value.push(plain),
                }
            };
            if labels.insert(name, value).is_some() {
                return Err("a label twice".into());
            }
            inside = &inside[end + 1..];
            match inside.as_bytes().first() {
                Some(b',') => inside = &inside[1..],
                Some(b'}') => break,
                _ => return Err("neither a comma nor the end after a label".into()),
            }
        }
        *rest = &inside[1..];
        Ok(labels)
    }

    fn word(rest: &mut &str, colon: bool) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':';
        let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        (!word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).then(|| word.to_owned())
    }
}

use page::Page;

fn facts() -> ProxyFacts {
    ProxyFacts {
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        workers: 1,
        certificate_expiry: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
        control: ControlFacts::default(),
        spans: crate::span::SpanCounts { exported: 3, dropped: 2, failed: 1 },
        log: crate::access_log::LogCounts { written: 5, dropped: 4 },
    }
}

fn scrape(metrics: &Metrics, format: Format) -> Page {
    let text = render(&metrics.snapshot(), &facts(), format);
    Page::read(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

fn service(name: &str) -> ServiceName {
    ServiceName::new("shop", name).unwrap()
}

fn peer(name: &str) -> SpiffeId {
    format!("spiffe://outrigger.local/ns/shop/sa/{name}").parse().unwrap()
}

/// One of everything that can be counted.
fn busy() -> Metrics {
    let metrics = Metrics::default();
    metrics.record(&exchange());
    metrics.request_refused(Side::Inbound, Failure::BadRequest);
    metrics
        .tcp_opened(Side::Inbound, Some(&service("db")), 5432, Some(&peer("web")), true)
        .closed(Duration::from_secs(7200), Some(Failure::UpstreamReset));
    let kind = ConnectionKind { side: Side::Outbound, role: Role::Dialed, wire: Wire::Http2, mtls: true };
    drop(metrics.connection_opened(kind));
    metrics.connect_failed(Side::Outbound, Failure::ConnectRefused);
    metrics.tls_refused(Side::Inbound, Failure::TlsIdentity);
    metrics.detect_timeout(Side::Outbound);
    metrics.limit_reached(Side::Inbound, Limit::Head);
    metrics.breaker(&service("payments"), Transition::Opened(Duration::from_secs(1)));
    metrics.breakers_open(&service("payments"), vec![ejected()]);
    metrics.hedge(&service("payments"), Hedge::Won);
    metrics
}

fn ejected() -> Ejected {
    let endpoint = Endpoint {
        id: "payments-1".into(),
        address: "10.0.0.1:4743".parse().unwrap(),
        identity: crate::snapshot::Expected::Workload(peer("payments")),
        zone: "".into(),
        healthy: true,
        ports: vec![80],
    };
    Ejected { endpoint: Arc::new(endpoint), cause: Cause::Failures }
}

#[test]
fn an_endpoint_that_is_out_is_told_of_once_whichever_workers_keep_it_out() {
    let mut sum = busy().snapshot();
    sum.merge(busy().snapshot());
    let [ejection] = &sum.load_report().ejections[..] else { panic!("one endpoint is out") };
    assert_eq!((&*ejection.endpoint, &*ejection.reason), ("payments-1", "failures in a row"));
}

#[tokio::test]
async fn both_formats_can_be_parsed_and_say_the_same() {
    let metrics = busy();
    let plain = scrape(&metrics, Format::Prometheus);
    let open = scrape(&metrics, Format::OpenMetrics);
    assert!(open.ended && !plain.ended);
    let own = |page: &Page| {
        let outrigger = page.samples.iter().filter(|s| s.name.starts_with("outrigger_"));
        outrigger.map(|s| (s.name.clone(), s.labels.clone(), s.value.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(own(&plain), own(&open));
    assert_eq!(open.types["outrigger_requests"], "counter");
    assert_eq!(plain.types["outrigger_requests_total"], "counter");
    assert_eq!(open.units["outrigger_request_duration_seconds"], "seconds");
    assert_eq!(open.units["outrigger_tcp_read_bytes"], "bytes");
}

#[tokio::test]
async fn every_family_of_the_design_is_there() {
    let page = scrape(&busy(), Format::Prometheus);
    for (name, labels, value) in [
        ("outrigger_requests_total", &[("status", "200"), ("direction", "outbound"), ("error", "")][..], 1.0),
        ("outrigger_requests_total", &[("status", "400"), ("error", "bad-request"), ("service", "")], 1.0),
        ("outrigger_request_duration_seconds_count", &[("service", "payments"), ("namespace", "shop")], 1.0),
        ("outrigger_request_duration_seconds_bucket", &[("le", "0.0025")], 0.0),
        ("outrigger_request_duration_seconds_bucket", &[("le", "0.005")], 1.0),
        ("outrigger_request_duration_seconds_sum", &[("service", "payments")], 0.005),
        ("outrigger_proxy_overhead_seconds_bucket", &[("le", "0.001")], 1.0),
        ("outrigger_attempts_total", &[("success", "true")], 1.0),
        ("outrigger_tcp_connections_opened_total", &[("service", "db"), ("port", "5432")], 1.0),
        ("outrigger_tcp_connections_closed_total", &[("error", "upstream-reset")], 1.0),
        ("outrigger_tcp_connections_open", &[], 0.0),
        ("outrigger_tcp_connection_duration_seconds_bucket", &[("le", "3600.0")], 0.0),
        ("outrigger_tcp_connection_duration_seconds_sum", &[], 7200.0),
        (
            "outrigger_connections_opened_total",
            &[("role", "dialed"), ("protocol", "http2"), ("tls", "true")],
            1.0,
        ),
        ("outrigger_connections_open", &[], 0.0),
        ("outrigger_connections_failed_total", &[("error", "connect-refused")], 1.0),
        ("outrigger_breaker_transitions_total", &[("service", "payments"), ("state", "open")], 1.0),
        ("outrigger_breaker_open", &[("service", "payments")], 1.0),
        ("outrigger_detect_timeouts_total", &[("direction", "outbound")], 1.0),
        ("outrigger_limit_reached_total", &[("limit", "head"), ("direction", "inbound")], 1.0),
        ("outrigger_tls_refused_total", &[("error", "tls-identity")], 1.0),
        ("outrigger_certificate_expiry_timestamp_seconds", &[], 1_800_000_000.0),
        ("outrigger_spans_exported_total", &[], 3.0),
        ("outrigger_spans_dropped_total", &[("reason", "queue-full")], 2.0),
        ("outrigger_access_log_lines_total", &[], 5.0),
        ("outrigger_build_info", &[], 1.0),
        ("process_start_time_seconds", &[], 1_700_000_000.0),
    ] {
        assert!(page.all(name).next().is_some(), "{name} is missing");
        assert_eq!(page.sum(name, labels), value, "{name} {labels:?}");
    }
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(page.all(name).next().is_some(), "{name} is missing");
    }
}

#[tokio::test]
async fn counters_match_what_was_recorded() {
    let metrics = Metrics::default();
    for (status, failure, times) in [(200, None, 7), (503, None, 2), (503, Some(Failure::NoEndpoints), 4)] {
        for _ in 0..times {
            let mut exchange = exchange();
            (exchange.status, exchange.failure) = (status, failure);
            (exchange.request_bytes, exchange.response_bytes) = (10, 100);
            metrics.record(&exchange);
        }
    }
    let page = scrape(&metrics, Format::Prometheus);
    let by = |labels| page.sum("outrigger_requests_total", labels);
    assert_eq!(by(&[("status", "200"), ("error", "")]), 7.0);
    assert_eq!(by(&[("status", "503"), ("error", "")]), 2.0);
    assert_eq!(by(&[("status", "503"), ("error", "no-endpoints")]), 4.0);
    assert_eq!(page.sum("outrigger_request_duration_seconds_count", &[]), 13.0);
    assert_eq!(page.sum("outrigger_request_body_bytes_total", &[]), 130.0);
    assert_eq!(page.sum("outrigger_response_body_bytes_total", &[]), 1300.0);
}

#[tokio::test]
async fn retries_are_counted_by_why_the_attempt_before_failed() {
    let metrics = Metrics::default();
    let mut exchange = exchange();
    let last = exchange.attempts.pop().unwrap();
    let failed = |status, grpc_status, failure| Attempt {
        grpc_status,
        failure,
        ..attempt(last.span_id, exchange.started, status)
    };
    let attempts = [
        failed(Some(503), None, None),
        failed(Some(200), Some(14), None),
        failed(None, None, Some(Failure::ConnectRefused)),
        last.clone(),
    ];
    exchange.attempts = attempts.into_iter().collect();
    metrics.record(&exchange);
    let page = scrape(&metrics, Format::Prometheus);
    for reason in ["status-503", "grpc-14", "connect-refused"] {
        assert_eq!(page.sum("outrigger_retries_total", &[("reason", reason)]), 1.0, "{reason}");
    }
    assert_eq!(page.sum("outrigger_retries_total", &[]), 3.0);
    assert_eq!(page.sum("outrigger_attempts_total", &[("success", "false")]), 3.0);
    assert_eq!(page.sum("outrigger_attempts_total", &[("success", "true")]), 1.0);
}

#[tokio::test]
async fn quantiles_of_the_histogram_are_those_of_the_values() {
    let metrics = Metrics::default();
    let values: Vec<u64> = (1..=1000).map(|n| n * n).collect(); // 1 us to 1 s
    for micros in &values {
        let mut exchange = exchange();
        exchange.duration = Duration::from_micros(*micros);
        metrics.record(&exchange);
    }
    let page = scrape(&metrics, Format::Prometheus);
    for (bound, text) in latency::BUCKETS {
        let expected = values.iter().filter(|v| **v <= bound).count() as f64;
        let seen = page.sum("outrigger_request_duration_seconds_bucket", &[("le", text)]);
        // A bound may lie within a step of the histogram, which is at most 1 % wide.
        let slack = values.iter().filter(|v| **v > bound && **v <= bound + bound / 100).count() as f64;
        assert!((expected..=expected + slack).contains(&seen), "le {text}: {seen}, not {expected}");
    }
    let total: u64 = values.iter().sum();
    let sum = page.sum("outrigger_request_duration_seconds_sum", &[]);
    assert!((sum - total as f64 / 1e6).abs() < 1e-6, "{sum}");
}

#[tokio::test]
async fn a_value_that_is_a_bound_counts_within_it() {
    for (bound, text) in latency::BUCKETS {
        let metrics = Metrics::default();
        let mut exchange = exchange();
        exchange.duration = Duration::from_micros(bound);
        metrics.record(&exchange);
        let page = scrape(&metrics, Format::Prometheus);
        assert_eq!(page.sum("outrigger_request_duration_seconds_bucket", &[("le", text)]), 1.0, "{text}");
    }
}

#[tokio::test]
async fn exemplars_lead_from_a_bucket_to_a_sampled_trace_in_openmetrics_only() {
    let metrics = Metrics::default();
    let mut quick = exchange();
    quick.duration = Duration::from_micros(300);
    let mut unsampled = exchange();
    unsampled.trace.sampled = false;
    unsampled.duration = Duration::from_secs(2);
    for exchange in [&quick, &unsampled] {
        metrics.record(exchange);
    }
    let open = scrape(&metrics, Format::OpenMetrics);
    let exemplars: Vec<_> = open.samples.iter().filter_map(|s| Some((s, s.exemplar.as_ref()?))).collect();
    let [(sample, (labels, value))] = exemplars[..] else { panic!("{exemplars:?}") };
    assert_eq!(sample.labels["le"], "0.0005");
    assert_eq!(labels["trace_id"], quick.trace.trace_id.to_string());
    assert_eq!(*value, 0.0003);
    let plain = scrape(&metrics, Format::Prometheus);
    assert!(plain.samples.iter().all(|s| s.exemplar.is_none()));
}

#[tokio::test]
async fn what_callers_make_up_never_becomes_a_series() {
    let metrics = Metrics::default();
    for number in 0..10_000_u16 {
        let mut exchange = exchange();
        exchange.service = None;
        exchange.port = number;
        exchange.peer = None;
        exchange.status = 404;
        exchange.failure = Some(Failure::NoRoute);
        exchange.uri = format!("/{number}").parse().unwrap();
        exchange.method = http::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        exchange.authority = Some(http::HeaderValue::from_str(&format!("h{number}.shop")).unwrap());
        metrics.record(&exchange);
    }
    let page = scrape(&metrics, Format::Prometheus);
    assert_eq!(page.all("outrigger_requests_total").count(), 1);
    assert_eq!(page.sum("outrigger_requests_total", &[("service", ""), ("error", "no-route")]), 10_000.0);
}

#[tokio::test]
async fn requests_are_counted_where_they_belong_in_whatever_order_they_come() {
    let metrics = Metrics::default();
    let names = ["a", "b", "c"];
    for (times, order) in [[0, 0, 0], [1, 2, 0], [0, 1, 1], [2, 2, 1]].iter().enumerate() {
        for index in order {
            let mut exchange = exchange();
            exchange.peer = Some(peer(names[*index]));
            exchange.service = Some(ServiceName::new("shop", names[*index]).unwrap());
            metrics.record(&exchange);
            exchange.mtls = false;
            (0..times).for_each(|_| metrics.record(&exchange));
        }
    }
    let page = scrape(&metrics, Format::Prometheus);
    for (name, tls, plain) in [("a", 5, 1 + 2), ("b", 4, 1 + 2 + 2 + 3), ("c", 3, 1 + 3 + 3)] {
        let of = |tls| page.sum("outrigger_requests_total", &[("service", name), ("tls", tls)]);
        assert_eq!((of("true"), of("false")), (f64::from(tls), f64::from(plain)), "{name}");
    }
}

#[tokio::test]
async fn tables_are_bounded_and_count_what_does_not_fit() {
    let metrics = Metrics::default();
    let most = MAX_REQUEST_SERIES as u64;
    for number in 0..most + 100 {
        let mut exchange = exchange();
        exchange.peer = Some(peer(&format!("p{number}")));
        metrics.record(&exchange);
    }
    for number in 0..200_u16 {
        let mut exchange = exchange();
        exchange.status = 300 + number;
        metrics.record(&exchange);
    }
    let page = scrape(&metrics, Format::Prometheus);
    let series = page.all("outrigger_request_duration_seconds_count").count() as u64;
    assert_eq!(series, most + 1);
    assert_eq!(page.sum("outrigger_requests_total", &[]), (most + 300) as f64);
    assert_eq!(page.sum("outrigger_series_overflow_total", &[]), 300.0);
    let other = [("service", "_other")];
    assert_eq!(page.sum("outrigger_requests_total", &other), 300.0);
    let statuses = page.all("outrigger_requests_total").filter(|s| s.labels["service"] == "_other").count();
    assert!(statuses <= 66, "{statuses}");
    assert!(page.sum("outrigger_requests_total", &[("status", "_other")]) > 0.0);
}

#[tokio::test]
async fn gauges_follow_what_is_open() {
    let metrics = Metrics::default();
    let kind = ConnectionKind { side: Side::Inbound, role: Role::Accepted, wire: Wire::Http1, mtls: true };
    let connections = [metrics.connection_opened(kind), metrics.connection_opened(kind)];
    let request = metrics.request_started(Side::Inbound);
    let tcp = metrics.tcp_opened(Side::Outbound, Some(&service("db")), 5432, None, false);
    tcp.read(10);
    tcp.written(20);
    let page = scrape(&metrics, Format::Prometheus);
    assert_eq!(page.sum("outrigger_connections_open", &[("direction", "inbound")]), 2.0);
    assert_eq!(page.sum("outrigger_requests_active", &[("direction", "inbound")]), 1.0);
    assert_eq!(page.sum("outrigger_tcp_connections_open", &[]), 1.0);
    assert_eq!(page.sum("outrigger_tcp_read_bytes_total", &[]), 10.0, "while it is open");
    drop((connections, request, tcp));
    let page = scrape(&metrics, Format::Prometheus);
    for gauge in ["outrigger_connections_open", "outrigger_requests_active", "outrigger_tcp_connections_open"]
    {
        assert_eq!(page.sum(gauge, &[]), 0.0, "{gauge}");
    }
    assert_eq!(page.sum("outrigger_connections_opened_total", &[]), 2.0);
    assert_eq!(page.sum("outrigger_tcp_connections_closed_total", &[("error", "")]), 1.0);
}

#[tokio::test]
async fn workers_add_up() {
    let (one, other) = (busy(), busy());
    let mut sum = one.snapshot();
    sum.merge(other.snapshot());
    let text = render(&sum, &facts(), Format::Prometheus);
    let (both, single) = (Page::read(&text).unwrap(), scrape(&one, Format::Prometheus));
    for name in [
        "outrigger_requests_total",
        "outrigger_request_duration_seconds_count",
        "outrigger_request_duration_seconds_sum",
        "outrigger_tcp_connections_opened_total",
        "outrigger_connections_opened_total",
        "outrigger_breaker_transitions_total",
        "outrigger_limit_reached_total",
    ] {
        assert_eq!(both.sum(name, &[]), 2.0 * single.sum(name, &[]), "{name}");
    }
}

#[tokio::test]
async fn a_load_report_tells_each_edge_with_its_latencies() {
    let metrics = Metrics::default();
    for status in [200, 200, 500] {
        let mut exchange = exchange();
        exchange.status = status;
        exchange.attempts[0].status = Some(status);
        exchange.route = Some("shop/canary".into());
        metrics.record(&exchange);
    }
    let mut lost = exchange();
    lost.service = None;
    metrics.record(&lost);
    let report = metrics.snapshot().load_report();
    let [edge] = &report.edges[..] else { panic!("{report:?}") };
    assert_eq!(edge.service, Some((&service("payments")).into()));
    assert_eq!((edge.port, edge.route.as_str(), edge.mtls), (80, "shop/canary", true));
    assert_eq!(edge.peer, peer("payments").to_string());
    assert_eq!((edge.requests, edge.successes, edge.attempts, edge.attempt_successes), (3, 2, 3, 2));
    let latency = outrigger_api::latency::decode(&edge.latency).unwrap();
    assert_eq!(latency.len(), 3);
    assert!((4950..=5050).contains(&latency.value_at_quantile(0.5)), "{}", latency.value_at_quantile(0.5));
}

#[tokio::test]
async fn a_scrape_asks_every_worker_and_knows_who_is_silent() {
    let metrics = busy();
    let (sender, queries) = worker_queries();
    let answering = answer_queries(metrics, queries);
    let (dead, gone) = worker_queries();
    drop(gone);
    let collecting = async {
        let both = Collector::new(vec![sender.clone(), sender.clone()]).collect().await;
        let half = Collector::new(vec![sender.clone(), dead]).collect().await;
        let report = Collector::new(vec![sender]).load_source()().await;
        (both, half, report)
    };
    let (((both, none), (half, one), report), ()) = tokio::join!(collecting, answering);
    assert_eq!((none, one), (0, 1));
    let count = |sum: &MetricsSnapshot| sum.load_report().edges[0].requests;
    assert_eq!((count(&both), count(&half)), (2, 1));
    assert_eq!(report.edges.len(), 1);
}

#[tokio::test]
async fn a_worker_that_hangs_does_not_hang_the_scrape_nor_lower_the_report() {
    let metrics = busy();
    let (sender, mut queries) = worker_queries();
    let source = Collector::new(vec![sender]).with_patience(Duration::from_millis(10)).load_source();
    let first = async {
        let query = queries.recv().await.unwrap();
        query.send(metrics.snapshot()).unwrap();
    };
    let (before, ()) = tokio::join!(source(), first);
    assert_eq!(before.edges.len(), 1);
    // The question lies in the queue and nobody answers it.
    assert_eq!(source().await, before);
}

#[test]
fn openmetrics_comes_only_to_those_who_ask() {
    for (accept, format) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain;version=0.0.4", Format::Prometheus),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2", Format::OpenMetrics),
        ("text/plain, application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
        ("application/openmetrics-text;q=0,*/*", Format::Prometheus),
        ("application/openmetrics-textual", Format::Prometheus),
    ] {
        assert_eq!(Format::from_accept(accept), format, "{accept}");
    }
}

#[test]
fn the_reader_of_these_tests_finds_mistakes() {
    let sample = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\\\"d\"} 1\n";
    let page = Page::read(sample).unwrap();
    assert_eq!(page.samples[0].labels, BTreeMap::from([("b".to_owned(), "c\"d".to_owned())]));
    for wrong in [
        "a_total 1\n",
        "# TYPE a counter\na 1",
        "# TYPE a counter\na{b=c} 1\n",
        "# TYPE a counter\na{b=\"c\"} 1\na{b=\"c\"} 2\n",
        "# TYPE a counter\na{b=\"c} 1\n",
        "# TYPE a counter\na x\n",
        "# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
        "# TYPE a summary\n",
        "# EOF\n# TYPE a counter\n",
    ] {
        assert!(Page::read(wrong).is_err(), "{wrong:?}");
    }
}
