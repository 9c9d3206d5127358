//! Ending well: no new connections, every request under way finished, within a bound.
//!
//! Draining has steps. At the first ([`Phase::Leaving`]) the proxy has told the control plane that it goes;
//! callers move away, HTTP/1 answers say `connection: close`, and HTTP/2 connections get GOAWAY. At the second
//! ([`Phase::Closing`]) idle connections are closed too. What is left at the end of the bound ([`Phase::Ended`]) is
//! dropped.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

use tokio::sync::watch;
use tokio::task::coop::unconstrained;

/// How far the drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// New work is turned away gently.
    Leaving,
    /// Idle connections close.
    Closing,
    /// The time is over: what is left is dropped.
    Ended,
}

/// Tells every task of the proxy how far the drain is. Clones share the state.
#[derive(Debug, Clone)]
pub(crate) struct Drain(watch::Receiver<Phase>);

/// Moves the drain on.
#[derive(Debug)]
pub(crate) struct Drainer(watch::Sender<Phase>);

/// A drain that has not begun.
pub(crate) fn channel() -> (Drainer, Drain) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drainer(sender), Drain(receiver))
}

impl Drainer {
    /// Enters `phase`; a phase that lies behind is ignored.
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }
}

impl Drain {
    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow() > Phase::Serving
    }

    /// Waits for `phase` or a later one. A proxy whose owner is gone counts as closing.
    ///
    /// Connections poll this at each of their wake-ups, so that a poll before the drain has begun is two comparisons:
    /// whoever waits already has nothing to do again.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.clone();
        // A task that has used up its turn would be sent away here without being noted down.
        let mut waiting = pin!(unconstrained(receiver.wait_for(|now| *now >= phase)));
        let mut waiter: Option<Waker> = None;
        poll_fn(|cx| {
            // No value is ever marked as seen here: from the first change on, each poll asks again.
            let serving = matches!(self.0.has_changed(), Ok(false));
            if serving && waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            waiter = Some(cx.waker().clone());
            waiting.as_mut().poll(cx).map(drop)
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_waiter_is_woken_at_each_phase_and_ends_at_its_own_however_often_it_was_polled() {
        let (drainer, drain) = channel();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut closing = pin!(drain.reached(Phase::Closing));
        for _ in 0..3 {
            assert!(closing.as_mut().poll(cx).is_pending());
        }
        drainer.enter(Phase::Leaving);
        assert_eq!(count.woken(), 1);
        for _ in 0..3 {
            assert!(closing.as_mut().poll(cx).is_pending());
        }
        drainer.enter(Phase::Leaving);
        assert_eq!(count.woken(), 1, "that is where it is already");
        drainer.enter(Phase::Ended);
        assert_eq!(count.woken(), 2);
        assert!(closing.as_mut().poll(cx).is_ready());
    }

    #[test]
    fn the_task_that_polled_last_is_the_one_that_is_woken() {
        let (drainer, drain) = channel();
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        let mut leaving = pin!(drain.reached(Phase::Leaving));
        for count in &counts {
            let waker = Waker::from(count.clone());
            for _ in 0..2 {
                assert!(leaving.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        drainer.enter(Phase::Leaving);
        assert_eq!(counts[1].woken(), 1);
    }

    #[tokio::test]
    async fn one_that_begins_to_wait_at_the_end_of_its_turn_is_woken_too() {
        let (drainer, drain) = channel();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut leaving = pin!(drain.reached(Phase::Leaving));
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        for _ in 0..2 {
            assert!(leaving.as_mut().poll(cx).is_pending());
        }
        let before = count.woken();
        drainer.enter(Phase::Leaving);
        assert_eq!(count.woken(), before + 1);
        assert!(leaving.as_mut().poll(cx).is_ready());
    }

    #[test]
    fn a_phase_that_is_over_does_not_wait() {
        let (drainer, drain) = channel();
        drainer.enter(Phase::Closing);
        let cx = &mut Context::from_waker(Waker::noop());
        for phase in [Phase::Leaving, Phase::Closing] {
            assert!(pin!(drain.reached(phase)).poll(cx).is_ready(), "{phase:?}");
        }
        assert!(pin!(drain.clone().reached(Phase::Ended)).poll(cx).is_pending());
    }

    #[test]
    fn an_owner_that_is_gone_wakes_everybody() {
        let (drainer, drain) = channel();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut ended = pin!(drain.reached(Phase::Ended));
        for _ in 0..2 {
            assert!(ended.as_mut().poll(cx).is_pending());
        }
        drop(drainer);
        assert_eq!(count.woken(), 1);
        assert!(ended.as_mut().poll(cx).is_ready());
    }
}
