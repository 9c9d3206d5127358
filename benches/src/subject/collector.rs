//! Where spans go: an OTLP/gRPC collector that counts them and throws them away.
//!
//! It shares the machine with what is measured, so it looks at no more of a message than it takes to count: the
//! lengths of the fields on the way to the spans.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// An export beyond this is refused, as most collectors do.
const MESSAGE_BYTES: usize = 4 << 20;

/// The collector, on a thread of its own; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Collector {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    spans: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts it on a free port of loopback.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
        let listener = listener.context("no port for the collector")?;
        let address = listener.local_addr()?;
        let spans = Arc::<AtomicU64>::default();
        let (stop, stopped) = oneshot::channel();
        let counter = Arc::clone(&spans);
        let thread = thread::Builder::new().name("collector".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, counter) => {}
                    // Told to stop, or nobody is left to tell.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, spans, stop: Some(stop), thread: Some(thread) })
    }

    /// How many spans have come so far.
    pub(crate) fn spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has already said so.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, spans: Arc<AtomicU64>) {
    loop {
        // An error is that of a connection that was gone before it was accepted.
        if let Ok((stream, _)) = listener.accept().await {
            // The exporter sees how its connection ended, and connects again.
            drop(tokio::spawn(serve(stream, Arc::clone(&spans))));
        }
    }
}

async fn serve(stream: TcpStream, spans: Arc<AtomicU64>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let spans = Arc::clone(&spans);
        // A stream that fails is the exporter's to try again.
        drop(tokio::spawn(async move { export(request, respond, &spans).await }));
    }
    Ok(())
}

async fn export(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    spans: &AtomicU64,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if message.len() + data.len() > MESSAGE_BYTES {
            respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        message.extend_from_slice(&data);
    }
    // 0: the message is not compressed, as neither exporter does unless told to.
    let counted = match message.split_at_checked(5) {
        Some(([0, ..], message)) => count(message),
        _ => None,
    };
    spans.fetch_add(counted.unwrap_or_default(), Ordering::Relaxed);
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = respond.send_response(head, false)?;
    answer.send_data(Bytes::from_static(&[0; 5]), false)?;
    // 3 is INVALID_ARGUMENT, after which nobody tries again.
    let status = HeaderValue::from_static(if counted.is_some() { "0" } else { "3" });
    answer.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status)]))
}

/// The spans in an `ExportTraceServiceRequest`: its `resource_spans` (1), their `scope_spans` (2), their `spans`
/// (2). `None` where it is not protobuf.
fn count(message: &[u8]) -> Option<u64> {
    fn below(message: &[u8], path: &[u64]) -> Option<u64> {
        let [field, path @ ..] = path else { return Some(1) };
        let mut sum = 0;
        let mut rest = message;
        while !rest.is_empty() {
            let (found, after) = next_field(rest)?;
            if let Some((number, content)) = found
                && number == *field
            {
                sum += below(content, path)?;
            }
            rest = after;
        }
        Some(sum)
    }
    below(message, &[1, 2, 2])
}

/// A field's number and content, if it has a length.
type Field<'a> = Option<(u64, &'a [u8])>;

/// The first field, and what follows it.
fn next_field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = varint(message)?;
    match tag & 7 {
        0 => Some((None, varint(rest)?.1)),
        1 => Some((None, rest.get(8..)?)),
        2 => {
            let (length, rest) = varint(rest)?;
            let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Some((tag >> 3, content)), rest))
        }
        5 => Some((None, rest.get(4..)?)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// Two resources: one with two scopes of two spans and one, the other with one.
    fn four_spans() -> Vec<u8> {
        let span = field(2, &[1 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0, 2 << 3, 0x80, 1, 3 << 3 | 5, 0, 0, 0, 0]);
        let scopes = [field(2, &[field(1, b"scope"), span.clone(), span.clone()].concat()), field(2, &span)];
        let resource = field(1, &[field(1, b"a resource, which is no span"), scopes.concat()].concat());
        [resource, field(1, &field(2, &span))].concat()
    }

    #[test]
    fn spans_are_counted_whatever_stands_beside_them() {
        assert_eq!(count(&four_spans()), Some(4));
        assert_eq!(count(b""), Some(0));
    }

    #[test]
    fn what_is_cut_off_or_no_protobuf_is_no_number() {
        let message = four_spans();
        assert_eq!(count(&message[..message.len() - 1]), None);
        assert_eq!(count(&[0xff; 11]), None, "a number without an end");
        assert_eq!(count(&[1 << 3 | 3]), None, "a group");
    }

    #[test]
    fn an_export_is_answered_as_grpc_and_its_spans_are_added() {
        let collector = Collector::start().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        for (message, status, sum) in [(four_spans(), "0", 4), (four_spans(), "0", 8), (vec![0xff], "3", 8)] {
            let answer = runtime.block_on(exported(collector.address, message));
            assert_eq!(answer, (vec![0; 5], status.to_owned()));
            assert_eq!(collector.spans(), sum);
        }
    }

    /// The message that comes back, and the status.
    async fn exported(collector: SocketAddr, message: Vec<u8>) -> (Vec<u8>, String) {
        let stream = TcpStream::connect(collector).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::post("http://collector/export").body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        body.send_data([&[0], length.as_slice(), &message].concat().into(), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        let data = answer.data().await.unwrap().unwrap().to_vec();
        let trailers = answer.trailers().await.unwrap().unwrap();
        (data, trailers["grpc-status"].to_str().unwrap().to_owned())
    }
}
