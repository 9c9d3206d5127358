//! The demo's own OTLP receiver: keeps the spans that the proxies export, and passes them on where asked to.
//!
//! The store is bounded. What is kept longest is what is worth showing: a trace in which an attempt failed.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::trace::{Span, Trace, TraceId};

/// Traces kept at once; the oldest ordinary one goes first.
const TRACE_LIMIT: usize = 1_000;
/// Spans kept of one trace.
const SPAN_LIMIT: usize = 200;
/// Batches that wait to be passed on; more are dropped, since a slow collector must not slow the demo.
const FORWARD_QUEUE: usize = 64;

/// Why no spans can be received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiverError {
    #[error("cannot listen for spans: {0}")]
    Listen(std::io::Error),
    #[error("--otlp {url:?} is not an address to send spans to; write http://HOST:4317")]
    Forward { url: String, source: tonic::transport::Error },
}

/// What has been received; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(Arc<Mutex<Store>>);

#[derive(Debug, Default)]
struct Store {
    traces: BTreeMap<TraceId, Trace>,
    /// In the order of their first span.
    order: VecDeque<TraceId>,
    spans: u64,
}

impl Store {
    fn add(&mut self, id: TraceId, span: Span) {
        self.spans += 1;
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Trace::default()
        });
        if trace.spans.len() < SPAN_LIMIT {
            trace.spans.push(span);
        }
        while self.order.len() > TRACE_LIMIT {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let traces = &self.traces;
        let ordinary =
            self.order.iter().position(|id| traces.get(id).is_none_or(|trace| !trace.has_failure()));
        if let Some(id) = self.order.remove(ordinary.unwrap_or(0)) {
            self.traces.remove(&id);
        }
    }
}

impl Traces {
    /// How many spans have come in.
    pub(crate) fn spans(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spans
    }

    /// The trace that tells most: whole, through all the services, and with a retry if there is one.
    pub(crate) fn best(&self, services: &[&str]) -> Option<(TraceId, Trace)> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = store.traces.iter().filter(|(_, trace)| trace.is_whole(services));
        whole
            .max_by_key(|(_, trace)| (trace.has_failure(), trace.spans.len()))
            .map(|(id, t)| (*id, t.clone()))
    }

    fn receive(&self, request: &ExportTraceServiceRequest) {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in &request.resource_spans {
            let service = Span::service_of(resource);
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                if let Some((id, span)) = Span::read(&service, span) {
                    store.add(id, span);
                }
            }
        }
    }
}

/// A running receiver. It ends with the runtime.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) traces: Traces,
}

struct Service {
    traces: Traces,
    forward: Option<mpsc::Sender<ExportTraceServiceRequest>>,
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        self.traces.receive(&request);
        if let Some(forward) = &self.forward {
            // Full means that the collector is slower than the demo: its loss, not ours.
            let _ = forward.try_send(request);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// Listens on a free loopback port; `forward` is the collector that gets everything, too.
    ///
    /// # Errors
    /// No port, or a collector's address that is none.
    pub(crate) async fn start(forward: Option<&str>) -> Result<Self, ReceiverError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(ReceiverError::Listen)?;
        let address = listener.local_addr().map_err(ReceiverError::Listen)?;
        let traces = Traces::default();
        let forward = forward.map(start_forwarding).transpose()?;
        let service = TraceServiceServer::new(Service { traces: traces.clone(), forward });
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serving);
        Ok(Self { address, traces })
    }
}

fn start_forwarding(url: &str) -> Result<mpsc::Sender<ExportTraceServiceRequest>, ReceiverError> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|source| ReceiverError::Forward { url: url.to_owned(), source })?;
    let client = TraceServiceClient::new(endpoint.connect_lazy());
    let (sender, receiver) = mpsc::channel(FORWARD_QUEUE);
    tokio::spawn(forward(client, receiver));
    Ok(sender)
}

async fn forward(
    mut client: TraceServiceClient<Channel>,
    mut queue: mpsc::Receiver<ExportTraceServiceRequest>,
) {
    while let Some(batch) = queue.recv().await {
        if let Err(status) = client.export(batch).await {
            tracing::debug!(%status, "the collector did not take spans");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::trace::tests::{span, whole_trace};

    #[test]
    fn what_is_kept_is_bounded_and_a_failed_attempt_stays_longest() {
        let mut store = Store::default();
        let mut failed = span("a", 1, 0);
        failed.failed = true;
        store.add([9; 16], failed);
        for number in 0..(TRACE_LIMIT as u128 + 50) {
            store.add(number.to_be_bytes(), span("a", 1, 0));
        }
        assert_eq!(store.traces.len(), TRACE_LIMIT);
        assert_eq!(store.order.len(), TRACE_LIMIT);
        assert!(store.traces.contains_key(&[9; 16]));
    }

    #[test]
    fn the_trace_with_a_retry_is_preferred_and_a_broken_one_never_shown() {
        let traces = Traces::default();
        {
            let mut store = traces.0.lock().unwrap();
            for span in whole_trace() {
                store.add([1; 16], span);
            }
            for mut span in whole_trace() {
                span.failed = span.id == [2, 0, 0, 0, 0, 0, 0, 0];
                store.add([2; 16], span);
            }
            for span in whole_trace().into_iter().skip(1) {
                store.add([3; 16], span);
            }
        }
        assert_eq!(traces.best(&["gateway", "web"]).map(|(id, _)| id), Some([2; 16]));
        assert_eq!(traces.best(&["gateway", "nobody"]), None);
    }

    #[tokio::test]
    async fn spans_arrive_over_otlp_and_are_passed_on() {
        let collector = Receiver::start(None).await.unwrap();
        let url = format!("http://{}", collector.address);
        let receiver = Receiver::start(Some(&url)).await.unwrap();
        let url = format!("http://{}", receiver.address);
        let mut client = TraceServiceClient::connect(url).await.unwrap();
        client.export(crate::demo::trace::tests::export()).await.unwrap();
        assert_eq!(receiver.traces.spans(), 1);
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            while collector.traces.spans() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the collector gets the span");
    }

    #[tokio::test]
    async fn a_collector_that_is_no_address_is_refused() {
        assert!(matches!(Receiver::start(Some("not a url")).await, Err(ReceiverError::Forward { .. })));
    }
}
