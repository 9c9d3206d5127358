//! Ending well: no new connections, every request under way finished, within a bound.
//!
//! Draining has steps. At the first ([`Phase::Leaving`]) the proxy has told the control plane that it goes;
//! callers move away, HTTP/1 answers say `connection: close`, and HTTP/2 connections get GOAWAY. At the second
//! ([`Phase::Closing`]) idle connections are closed too. What is left at the end of the bound ([`Phase::Ended`]) is
//! dropped.

use tokio::sync::watch;

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
    pub(crate) async fn reached(&self, phase: Phase) {
        let _ = self.0.clone().wait_for(|now| *now >= phase).await;
    }
}
