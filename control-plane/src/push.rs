//! The streams to the proxies: what each says is taken down, what each is missing is sent.
//!
//! Both directions of a stream run at once, so that a proxy which is slow to read still has its reports and
//! acknowledgements taken, and one that says nothing is still told of changes. What is to be sent is found out at the
//! moment when there is room for it ([`outbox`]); nothing queues up behind a slow proxy.
//!
//! Whose a stream is, is decided by the certificate with which its connection was made. A stream may outlive that
//! certificate: nothing could be taken back from it that a new one would not get again, and a mesh whose
//! certificates last seconds would do little else than reconnect.

pub(crate) mod cache;
pub(crate) mod outbox;

use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;
use outrigger_api::v1::proxy_message::Message;
use outrigger_certs::SpiffeId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::discovery::RegistrationError;
use crate::mesh::{Mesh, Session};
use crate::server::Peer;

/// Messages between this process and the socket of one proxy. Few, so that they are made late.
const QUEUE: usize = 8;
/// A stream that says nothing for this long at its beginning is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last word may take to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

type Outgoing = mpsc::Sender<Result<v1::ControlMessage, Status>>;

/// The `Mesh` service.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    mesh: Arc<Mesh>,
    streams: TaskTracker,
    stop: CancellationToken,
}

impl Push {
    /// Streams are spawned on `streams` and end with `stop`.
    pub(crate) fn new(mesh: Arc<Mesh>, streams: TaskTracker, stop: CancellationToken) -> Self {
        Self { mesh, streams, stop }
    }

    /// Serves one stream until either side ends it.
    async fn serve(self, identity: SpiffeId, mut incoming: Streaming<v1::ProxyMessage>, outgoing: Outgoing) {
        let session = tokio::select! {
            () = self.stop.cancelled() => Err(shutting_down()),
            session = greet(&self.mesh, &identity, &mut incoming) => session,
        };
        let end = match session {
            Ok(session) => {
                tracing::info!(proxy = %session.id, "a proxy connected");
                let end = tokio::select! {
                    () = self.stop.cancelled() => Some(shutting_down()),
                    () = session.replaced.cancelled() => {
                        Some(Status::aborted("this proxy opened another stream; this one is over"))
                    }
                    end = listen(&self.mesh, &session, &mut incoming) => end,
                    () = tell(&self.mesh, &session, &outgoing) => None,
                };
                self.mesh.closed(&session);
                let reason = end.as_ref().map(Status::message);
                tracing::info!(proxy = %session.id, reason, "a proxy's stream ended");
                end
            }
            Err(status) => {
                tracing::warn!(%identity, reason = status.message(), "a proxy was not let in");
                Some(status)
            }
        };
        if let Some(status) = end {
            let _ = timeout(FAREWELL_TIMEOUT, outgoing.send(Err(status))).await; // it may be gone already
        }
    }
}

/// Waits for the hello and enters the proxy.
async fn greet(
    mesh: &Mesh,
    identity: &SpiffeId,
    incoming: &mut Streaming<v1::ProxyMessage>,
) -> Result<Session, Status> {
    let first = timeout(HELLO_TIMEOUT, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s"))??;
    match first.and_then(|first| first.message) {
        Some(Message::Hello(hello)) => mesh.hello(identity, hello).map_err(|error| refusal(&error)),
        _ => Err(Status::invalid_argument("the first message of a stream is hello")),
    }
}

fn refusal(error: &RegistrationError) -> Status {
    match error {
        RegistrationError::Namespace { .. } => Status::permission_denied(error.to_string()),
        RegistrationError::IdentityFull(_) | RegistrationError::Full(_) => {
            Status::resource_exhausted(error.to_string())
        }
        _ => Status::invalid_argument(error.to_string()),
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the control plane shuts down; connect again")
}

/// Takes what the proxy says until it ends the stream. `Some`: what it did wrong.
async fn listen(
    mesh: &Mesh,
    session: &Session,
    incoming: &mut Streaming<v1::ProxyMessage>,
) -> Option<Status> {
    loop {
        match incoming.message().await {
            Ok(Some(v1::ProxyMessage { message: Some(Message::Hello(_)) })) => {
                return Some(Status::invalid_argument("hello is said once"));
            }
            Ok(Some(v1::ProxyMessage { message: Some(message) })) => mesh.receive(session, message),
            Ok(Some(v1::ProxyMessage { message: None })) => {} // a kind of message from a newer proxy
            Ok(None) => return None,
            Err(status) => {
                tracing::debug!(proxy = %session.id, %status, "a proxy's stream broke");
                return None;
            }
        }
    }
}

/// Sends what the proxy is missing until it is gone.
async fn tell(mesh: &Mesh, session: &Session, outgoing: &Outgoing) {
    loop {
        session.wake.notified().await;
        loop {
            let messages = mesh.next_messages(session);
            if messages.is_empty() {
                break;
            }
            for message in messages {
                if outgoing.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl v1::mesh_server::Mesh for Push {
    type ConnectStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let identity = Peer::of(&request).and_then(|peer| peer.identity.clone());
        let identity = identity
            .ok_or_else(|| Status::unauthenticated("a stream needs a client certificate of this mesh"))?;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        self.streams.spawn(self.clone().serve(identity, request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[cfg(test)]
mod tests;
