//! How long a peer may keep the reader waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Bounds the time from the first byte of a head to its last, and each wait for anything at all.
///
/// One byte a second keeps a connection from being idle, but not its head from being late. The timer is moved only
/// when it runs out early, so that a connection on which things move pays next to nothing for it.
#[derive(Debug)]
pub struct Pace {
    head_limit: Duration,
    idle_limit: Duration,
    /// When the head that is being read began.
    head_began: Option<Instant>,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Late {
    /// The rest of a head.
    #[error("the head took too long")]
    Head,
    /// Anything at all.
    #[error("the connection was idle for too long")]
    Idle,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Duration::from_secs(10), Duration::from_secs(300))
    }
}

impl Pace {
    /// Allows each head `head_limit`, and each silence `idle_limit`.
    pub fn new(head_limit: Duration, idle_limit: Duration) -> Self {
        Self { head_limit, idle_limit, head_began: None, last: None, timer: None }
    }

    /// Notes that something came at `now`, and whether it left a head incomplete.
    pub(super) fn moved(&mut self, inside_head: bool, now: Instant) {
        self.last = Some(now);
        self.head_began = if inside_head { self.head_began.or(Some(now)) } else { None };
    }

    /// Notes that something went to the peer at `now`. A head that is being read is no less late for it.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Waits for the time to be over; then says for what.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let last = *self.last.get_or_insert_with(Instant::now);
            let (due, what) = match self.head_began {
                Some(began) => (began + self.head_limit, Late::Head),
                None => (last + self.idle_limit, Late::Idle),
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::Strict;
    use super::*;

    #[tokio::test]
    async fn a_head_that_dribbles_is_cut_off_at_its_limit() {
        let (mut peer, io) = tokio::io::duplex(64);
        let limit = Duration::from_millis(200);
        let mut strict = Strict::new(io, Pace::new(limit, Duration::from_secs(300)));
        let began = Instant::now();
        let dribble = async {
            for byte in b"GET / HTTP/1.1\r\nhost: ".iter().chain(std::iter::repeat(&b'a')).take(10_000) {
                if peer.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let read = async {
            let mut all = Vec::new();
            strict.read_to_end(&mut all).await.unwrap_err()
        };
        let error = tokio::select! { error = read => error, () = dribble => panic!("was let through") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= limit, "cut off after {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_unhurried_caller_with_whole_heads_is_served() {
        let (mut peer, io) = tokio::io::duplex(64);
        let mut strict = Strict::new(io, Pace::new(Duration::from_millis(1), Duration::from_secs(300)));
        for _ in 0..3 {
            peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut head = [0; 27];
            strict.read_exact(&mut head).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await; // longer than any head may take
        }
        drop(peer);
        assert_eq!(strict.read(&mut [0]).await.unwrap(), 0);
    }
}
