//! Spans of sampled requests, on their way to a collector.
//!
//! A worker only moves the finished [`Exchange`] into a bounded queue. On the control thread [`SpanExport`] makes
//! spans of it (`span/model.rs`), gathers them into batches and sends them with OpenTelemetry's own OTLP/gRPC
//! exporter. A collector that is slow or away costs spans, which are counted, and never a request.

mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::exchange::Exchange;

/// Finished requests that wait to become spans.
const QUEUE: usize = 2048;
/// Spans in one message to the collector.
const BATCH: usize = 512;
/// A batch that is not full goes after this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// One export, retries included, takes at most this.
const EXPORT_TIME: Duration = Duration::from_secs(10);
/// How long a draining proxy waits for the collector.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// Trouble with the collector is logged at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Where workers leave their sampled requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<Exchange>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// There is a collector.
    enabled: AtomicBool,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What became of the spans, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpanCounts {
    /// Accepted by the collector.
    pub exported: u64,
    /// Lost because the queue was full.
    pub dropped: u64,
    /// Lost because the collector could not be reached or refused them.
    pub failed: u64,
}

/// Who the spans are from: OpenTelemetry's resource.
#[derive(Debug, Clone)]
pub struct SpanSource {
    /// `service.name`.
    pub name: String,
    /// `service.namespace`.
    pub namespace: String,
    /// `service.instance.id`.
    pub instance: String,
}

/// The sending half; runs on the control thread.
#[derive(Debug)]
pub struct SpanExport {
    queue: mpsc::Receiver<Exchange>,
    shared: Arc<Shared>,
    resource: Resource,
    scope: InstrumentationScope,
}

impl Spans {
    /// Both halves of the queue. Nothing is kept before [`SpanExport::run`] knows a collector.
    pub fn new(source: &SpanSource) -> (Self, SpanExport) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", source.name.clone()),
                KeyValue::new("service.namespace", source.namespace.clone()),
                KeyValue::new("service.instance.id", source.instance.clone()),
                KeyValue::new("telemetry.sdk.language", "rust"),
                KeyValue::new("telemetry.sdk.name", "outrigger"),
                KeyValue::new("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        let scope =
            InstrumentationScope::builder("outrigger-proxy").with_version(env!("CARGO_PKG_VERSION")).build();
        (Self { queue: sender, shared: Arc::clone(&shared) }, SpanExport { queue, shared, resource, scope })
    }

    /// Keeps a finished request's spans if its trace is sampled and there is a collector. Never waits.
    pub fn record(&self, exchange: Exchange) {
        if !exchange.trace.sampled || !self.shared.enabled.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.queue.try_send(exchange) {
            let lost = model::span_count(&error.into_inner());
            self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// What became of the spans.
    pub fn counts(&self) -> SpanCounts {
        SpanCounts {
            exported: self.shared.exported.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }
}

impl SpanExport {
    /// Sends spans to the collector at `endpoint` (`http://HOST:PORT`), whichever it is at the moment, until
    /// `stop`; then sends what is left, for at most two seconds. Cancel `stop` after the workers have ended.
    ///
    /// Dropping the future loses the spans that have not been sent.
    pub async fn run(self, endpoint: watch::Receiver<Option<String>>, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let pump = Pump {
            queue: self.queue,
            shared: self.shared,
            resource: self.resource,
            scope: self.scope,
            endpoint,
            exporter: None,
            batch: Vec::new(),
            complaint: Complaint::default(),
        };
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH_TIME).await;
        };
        tokio::select! {
            () = pump.run(stop.clone()) => {}
            () = patience => warn!(seconds = FLUSH_TIME.as_secs(), "spans are lost: the collector took too long at the end"),
        }
        shared.enabled.store(false, Ordering::Relaxed);
    }
}

/// The loop behind [`SpanExport::run`].
struct Pump {
    queue: mpsc::Receiver<Exchange>,
    shared: Arc<Shared>,
    resource: Resource,
    scope: InstrumentationScope,
    endpoint: watch::Receiver<Option<String>>,
    exporter: Option<OtlpExporter>,
    batch: Vec<SpanData>,
    complaint: Complaint,
}

impl Pump {
    async fn run(mut self, stop: CancellationToken) {
        self.connect();
        let mut endpoint_known = true;
        loop {
            let due = Instant::now() + INTERVAL;
            let mut open = true;
            while open && self.batch.len() < BATCH {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => open = false,
                    changed = self.endpoint.changed(), if endpoint_known => {
                        // What was gathered for the old collector goes to it first.
                        endpoint_known = changed.is_ok();
                        self.send().await;
                        self.connect();
                    }
                    exchange = self.queue.recv() => match exchange {
                        Some(exchange) => model::push_spans(exchange, &self.scope, &mut self.batch),
                        None => open = false,
                    },
                    () = sleep_until(due) => break,
                }
            }
            if !open {
                return self.finish().await;
            }
            self.send().await;
        }
    }

    /// Sends what is left in the queue.
    async fn finish(mut self) {
        self.queue.close();
        while let Some(exchange) = self.queue.recv().await {
            model::push_spans(exchange, &self.scope, &mut self.batch);
            if self.batch.len() >= BATCH {
                self.send().await;
            }
        }
        self.send().await;
    }

    /// Takes up the endpoint that is wanted now.
    fn connect(&mut self) {
        let endpoint = self.endpoint.borrow_and_update().clone();
        self.exporter = endpoint.and_then(|endpoint| match exporter(&endpoint, &self.resource) {
            Ok(exporter) => Some(exporter),
            Err(error) => {
                warn!(%endpoint, %error, "no spans are exported: the collector's endpoint is wrong");
                None
            }
        });
        self.shared.enabled.store(self.exporter.is_some(), Ordering::Relaxed);
    }

    async fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        let Some(exporter) = &self.exporter else {
            self.shared.failed.fetch_add(count, Ordering::Relaxed);
            return;
        };
        let error = match timeout(EXPORT_TIME, exporter.export(batch)).await {
            Ok(Ok(())) => {
                self.shared.exported.fetch_add(count, Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", EXPORT_TIME.as_secs()),
        };
        self.shared.failed.fetch_add(count, Ordering::Relaxed);
        self.complaint.about(count, &error, Instant::now());
    }
}

fn exporter(endpoint: &str, resource: &Resource) -> Result<OtlpExporter, ExporterBuildError> {
    let builder = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIME);
    let mut exporter = builder.build()?;
    exporter.set_resource(resource);
    Ok(exporter)
}

/// Says once a minute how many spans were lost.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
    lost: u64,
}

impl Complaint {
    fn about(&mut self, lost: u64, error: &str, now: Instant) {
        self.lost += lost;
        if self.last.is_some_and(|last| now - last < COMPLAINT_INTERVAL) {
            return;
        }
        warn!(lost = self.lost, %error, "spans are lost: the collector cannot be reached or refuses them");
        self.last = Some(now);
        self.lost = 0;
    }
}

#[cfg(test)]
mod tests;
