//! How a scrape page is written: [Prometheus text] 0.0.4, or [OpenMetrics] 1.0 with exemplars where the scraper
//! asks for it.
//!
//! [Prometheus text]: https://prometheus.io/docs/instrumenting/exposition_formats/
//! [OpenMetrics]: https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md

use std::fmt::{self, Display, Write};
use std::time::{Duration, SystemTime};

use super::latency::{BUCKETS, Latency};

/// Which of the two text formats a scraper gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What every scraper reads.
    Prometheus,
    /// With units and exemplars.
    OpenMetrics,
}

impl Format {
    /// As an `Accept` header asks: OpenMetrics if it is named without a quality of zero.
    pub fn from_accept(accept: &str) -> Self {
        let wanted = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|t| t.eq_ignore_ascii_case("application/openmetrics-text"));
            let refused = parts.filter_map(|p| p.strip_prefix("q=")).any(|q| q.parse() == Ok(0.0));
            named && !refused
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// For the answer's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The kinds of families that are used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page as far as it is written.
pub(super) struct Page {
    out: String,
    format: Format,
    family: String,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { out: String::with_capacity(16 * 1024), format, family: String::new() }
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Begins a family; a counter's name is given without its `_total`.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.family = name.to_owned();
        let (word, suffix) = match (kind, self.format) {
            (Kind::Counter, Format::Prometheus) => ("counter", "_total"),
            (Kind::Counter, Format::OpenMetrics) => ("counter", ""),
            (Kind::Gauge, _) => ("gauge", ""),
            (Kind::Histogram, _) => ("histogram", ""),
        };
        self.put(format_args!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}\n"));
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            self.put(format_args!("# UNIT {name} {unit}\n"));
        }
    }

    /// A sample of a counter.
    pub(super) fn counter(&mut self, labels: &Labels, value: impl Display) {
        let Self { out, family, .. } = self;
        writeln!(out, "{family}_total{labels} {value}").expect(TO_STRING);
    }

    /// A sample of a gauge.
    pub(super) fn gauge(&mut self, labels: &Labels, value: impl Display) {
        let Self { out, family, .. } = self;
        writeln!(out, "{family}{labels} {value}").expect(TO_STRING);
    }

    /// The samples of a histogram, with exemplars where the format has them.
    pub(super) fn histogram(&mut self, labels: &Labels, latency: &Latency) {
        let total = latency.histogram.len();
        let bounds = BUCKETS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        let counts = latency.cumulative().into_iter().chain([total]);
        for (index, (bound, count)) in bounds.zip(counts).enumerate() {
            let labels = labels.clone().with("le", bound);
            let Self { out, family, .. } = &mut *self;
            write!(out, "{family}_bucket{labels} {count}").expect(TO_STRING);
            self.exemplar(latency, index);
            self.out.push('\n');
        }
        let sum = Seconds(latency.sum);
        let Self { out, family, .. } = self;
        writeln!(out, "{family}_sum{labels} {sum}\n{family}_count{labels} {total}").expect(TO_STRING);
    }

    fn exemplar(&mut self, latency: &Latency, bucket: usize) {
        let Some(exemplar) = latency.exemplar(bucket) else { return };
        if self.format != Format::OpenMetrics {
            return;
        }
        let labels = Labels::new()
            .with("trace_id", &exemplar.trace_id.to_string())
            .with("span_id", &exemplar.span_id.to_string());
        let (value, at) = (Seconds(exemplar.value), Seconds(since_epoch(exemplar.at)));
        self.put(format_args!(" # {labels} {value} {at}"));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect(TO_STRING);
    }
}

const TO_STRING: &str = "writing to a string cannot fail";

/// A label set as it is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One more label; the value is escaped.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                plain => self.0.push(plain),
            }
        }
        self.0.push('"');
        self
    }
}

impl Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{{{}}}", self.0) }
    }
}

/// A duration in seconds to the microsecond.
pub(super) struct Seconds(pub(super) Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

/// Unix time.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// For two-way labels.
pub(super) fn yes_or_no(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}
