//! A gRPC application on tonic, with every kind of call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Service as _;

use super::{App, Record};

/// The application's generated contract.
#[expect(missing_docs, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod generated {
    tonic::include_proto!("talk.v1");
}

pub use generated::Words;
pub use generated::talk_client::TalkClient;
use generated::talk_server::{Talk, TalkServer};

/// The application.
pub fn talk() -> App {
    App::new(|accepted| async move {
        let talk = TalkServer::new(Talker { record: Arc::clone(&accepted.record) });
        let routes = Routes::new(talk).prepare();
        let service = service_fn(move |request| {
            let mut routes = routes.clone();
            async move { routes.call(request).await }
        });
        // An error here is the caller's.
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(accepted.stream), service)
            .await;
    })
}

/// One message.
pub fn words(text: &str) -> Words {
    Words { text: text.to_owned(), ..Words::default() }
}

#[derive(Debug)]
struct Talker {
    record: Arc<Record>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<Words, Status>> + Send>>;

async fn answer(request: &Words) -> Result<(), Status> {
    if request.delay_ms > 0 {
        sleep(Duration::from_millis(request.delay_ms.into())).await;
    }
    match request.fail {
        0 => Ok(()),
        code => Err(Status::new(Code::from(code as i32), "as you wish: grün")),
    }
}

#[tonic::async_trait]
impl Talk for Talker {
    async fn say(&self, request: Request<Words>) -> Result<Response<Words>, Status> {
        let number = self.record.begin();
        let metadata = request.metadata().clone();
        let mut words = request.into_inner();
        answer(&words).await?;
        // `count` on a request means: fail with UNAVAILABLE until so many came before.
        if number < u64::from(words.count) {
            return Err(Status::unavailable("not yet"));
        }
        words.count = number as u32;
        let mut response = Response::new(words);
        // What the caller sent comes back as `seen-NAME`, a binary value as it is on the wire.
        for (name, value) in metadata.into_headers().iter() {
            let name = tonic::metadata::AsciiMetadataKey::from_bytes(
                format!("seen-{name}").replace("-bin", "-raw").as_bytes(),
            );
            let value = tonic::metadata::MetadataValue::try_from(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value) {
                response.metadata_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    async fn gather(&self, request: Request<Streaming<Words>>) -> Result<Response<Words>, Status> {
        self.record.begin();
        let mut messages = request.into_inner();
        let mut texts = Vec::new();
        while let Some(message) = messages.message().await? {
            answer(&message).await?;
            texts.push(message.text);
        }
        let count = texts.len() as u32;
        Ok(Response::new(Words { text: texts.join(" "), count, ..Words::default() }))
    }

    type ReciteStream = Answers;

    async fn recite(&self, request: Request<Words>) -> Result<Response<Self::ReciteStream>, Status> {
        self.record.begin();
        let request = request.into_inner();
        let stream = futures_util::stream::iter(0..request.count).then(move |i| {
            let request = request.clone();
            async move {
                // A failure comes after half of the messages, in the trailers of a stream under way.
                if request.delay_ms > 0 {
                    sleep(Duration::from_millis(request.delay_ms.into())).await;
                }
                if request.fail != 0 && i >= request.count / 2 {
                    return Err(Status::new(Code::from(request.fail as i32), "half way"));
                }
                Ok(Words { text: request.text.clone(), count: i, ..Words::default() })
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    type ConverseStream = Answers;

    async fn converse(
        &self,
        request: Request<Streaming<Words>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        self.record.begin();
        let mut messages = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                let reply = answer(&message).await.map(|()| message);
                if sender.send(reply).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
