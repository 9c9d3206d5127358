//! The stream to the control plane: opened, kept, and opened again when it is lost.
//!
//! The link knows nothing of policy. It hands every update to the control loop in the order of the stream, and
//! takes what the loop sends from a bounded queue. Each time it opens a stream it hands over a new queue, in
//! which the loop's first message must be the hello.
//!
//! ```text
//! waiting for an identity ──▶ dialling ──▶ open ──▶ lost ──▶ backing off ──▶ dialling …
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_api::v1;
use outrigger_api::v1::mesh_client::MeshClient;
use rand::rngs::StdRng;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::counters::Counters;
use super::dial::{DialError, Dialer};
use super::reason::reason;
use super::reconnect::Reconnect;
use crate::identity::Identities;

/// Messages to the control plane that wait for the connection. It leaves at most 1024 updates unanswered, and
/// everything else is coalesced, so a queue this long means a peer that has stopped reading.
pub(super) const OUTGOING: usize = 2048;
/// Events that wait for the control loop; beyond it HTTP/2 holds the control plane back.
pub(super) const EVENTS: usize = 64;
/// For the control plane to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The whole set of a service with tens of thousands of endpoints.
const MAX_UPDATE_BYTES: usize = 64 * 1024 * 1024;

/// Waits between streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { min: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// What the loop learns from the link.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection stands, and a stream is opened on it with what comes through this queue.
    Open {
        outgoing: mpsc::Sender<v1::ProxyMessage>,
        /// This end of the connection.
        local: IpAddr,
    },
    /// The next update of the stream.
    Update(v1::ControlMessage),
    /// The stream is lost; another will be opened.
    Lost(String),
}

/// The task that owns the stream.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) dialer: Dialer,
    pub(super) identities: Identities,
    pub(super) events: mpsc::Sender<Event>,
    /// The loop gives the present stream up.
    pub(super) reset: Arc<Notify>,
    pub(super) counters: Arc<Counters>,
    pub(super) waits: Waits,
    pub(super) rng: StdRng,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control plane did not accept the stream within {OPEN_TIMEOUT:?}")]
    Silent,
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Ended(tonic::Status),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("this proxy gave the stream up: the control plane has stopped reading")]
    Reset,
    #[error("the proxy is stopping")]
    Stopping,
}

impl Link {
    /// Runs until it is dropped or the loop is gone. Dropping it closes the connection.
    pub(super) async fn run(mut self) {
        let mut reconnect = Reconnect::new(self.waits.min, self.waits.max);
        loop {
            self.identities.obtained().await;
            let mut opened = None;
            let reset = self.reset.clone();
            let ended = tokio::select! {
                ended = Box::pin(self.stream(&mut opened)) => ended,
                () = reset.notified() => LinkError::Reset,
            };
            self.counters.connected.store(false, Ordering::Relaxed);
            let lasted = opened.map_or(Duration::ZERO, |at: Instant| at.elapsed());
            if self.events.send(Event::Lost(reason(&ended))).await.is_err() {
                return;
            }
            sleep(reconnect.after(lasted, &mut self.rng)).await;
        }
    }

    async fn stream(&self, opened: &mut Option<Instant>) -> LinkError {
        match self.open(opened).await {
            Ok(updates) => self.follow(updates).await,
            Err(error) => error,
        }
    }

    async fn open(&self, opened: &mut Option<Instant>) -> Result<Updates, LinkError> {
        let material = self.identities.obtained().await;
        let connection = self.dialer.connect(&material.control_plane).await?;
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let open = Event::Open { outgoing, local: connection.local };
        self.events.send(open).await.map_err(|_| LinkError::Stopping)?;
        let mut client = MeshClient::with_origin(connection.channel, Dialer::origin())
            .max_decoding_message_size(MAX_UPDATE_BYTES);
        let stream = timeout(OPEN_TIMEOUT, Box::pin(client.connect(ReceiverStream::new(queue))))
            .await
            .map_err(|_| LinkError::Silent)?
            .map_err(LinkError::Ended)?
            .into_inner();
        *opened = Some(Instant::now());
        self.counters.connected.store(true, Ordering::Relaxed);
        Counters::add(&self.counters.streams);
        tracing::info!(control_plane = %connection.identity, "the stream to the control plane stands");
        Ok(Updates { stream, _driver: connection.driver })
    }

    async fn follow(&self, mut updates: Updates) -> LinkError {
        loop {
            let update = match updates.stream.message().await {
                Ok(Some(update)) => update,
                Ok(None) => return LinkError::Closed,
                Err(status) => return LinkError::Ended(status),
            };
            if self.events.send(Event::Update(update)).await.is_err() {
                return LinkError::Stopping;
            }
        }
    }
}

/// The stream and the connection that carries it.
struct Updates {
    stream: Streaming<v1::ControlMessage>,
    _driver: tokio::task::JoinSet<()>,
}
