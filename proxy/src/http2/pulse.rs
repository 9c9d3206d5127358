//! Finds out that a silent peer is gone (RFC 9113 section 6.7).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Sends a PING now and then, and waits so long for its answer.
pub(super) struct Pulse {
    pings: PingPong,
    every: Duration,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// A PING is under way.
    asked: bool,
}

impl Pulse {
    /// `pings` are the connection's.
    pub(super) fn new(pings: PingPong, every: Duration, patience: Duration) -> Self {
        Self { pings, every, patience, timer: Box::pin(sleep(every)), asked: false }
    }

    /// Ready when there is nobody there any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.asked {
                ready!(self.timer.as_mut().poll(cx));
                if self.pings.send_ping(Ping::opaque()).is_err() {
                    return Poll::Ready(());
                }
                self.asked = true;
                self.timer.as_mut().reset(Instant::now() + self.patience);
            }
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.every);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
    }
}
