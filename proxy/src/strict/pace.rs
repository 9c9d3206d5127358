//! How long a peer may keep the reader waiting.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::coop::unconstrained;
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
    /// Whom the timer wakes.
    waiter: Option<Waker>,
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
        Self { head_limit, idle_limit, head_began: None, last: None, timer: None, waiter: None }
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
                self.waiter = None;
            }
            let known = self.waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker()));
            if known && !timer.is_elapsed() {
                return Poll::Pending;
            }
            self.waiter = Some(cx.waker().clone());
            // A task that has used up its turn would be sent away here without being noted down.
            ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            timer.as_mut().reset(due);
            self.waiter = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;
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
    async fn a_silence_is_bounded_however_often_and_by_whomever_it_is_looked_at() {
        let (mut peer, io) = tokio::io::duplex(64);
        let limit = Duration::from_millis(200);
        let mut strict = Strict::new(io, Pace::new(Duration::from_secs(300), limit));
        let mut buffer = [0; 64];
        for _ in 0..3 {
            // Looks for a moment, with a waker of its own, and leaves it to the next.
            let glance = async {
                let patience = Duration::from_millis(5);
                assert!(tokio::time::timeout(patience, strict.read(&mut buffer)).await.is_err());
            };
            FuturesUnordered::from_iter([glance]).collect::<Vec<()>>().await;
        }
        peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert_eq!(strict.read(&mut buffer).await.unwrap(), 27);
        let spoke = Instant::now();
        let read = tokio::spawn(async move { strict.read(&mut [0; 64]).await.unwrap_err() });
        let error = tokio::time::timeout(Duration::from_secs(10), read).await.expect("is cut off").unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(spoke.elapsed() >= limit, "cut off after {:?}", spoke.elapsed());
        drop(peer);
    }

    #[tokio::test]
    async fn one_that_begins_to_wait_at_the_end_of_its_turn_is_woken_too() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut pace = Pace::new(Duration::from_secs(300), Duration::from_millis(20));
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        for _ in 0..2 {
            assert!(pace.poll(&mut Context::from_waker(&waker)).is_pending());
        }
        woken.0.store(false, Ordering::Relaxed);
        let wait = async {
            while !woken.0.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the timer wakes it");
        assert!(pace.poll(&mut Context::from_waker(&waker)).is_ready());
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
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
