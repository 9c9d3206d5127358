//! The last good policy's way into the state directory.
//!
//! Written when it has changed, at most once a second, off the control thread, since a disk may take its time.
//! A big policy that changes all the time is written less often: never more than a tenth of the time.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::model::Model;
use super::reason::reason;
use crate::state::State;

/// The pause after a write, in lengths of that write.
const PAUSE: u32 = 9;

/// What is still to be written, and what is being written.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    state: Option<State>,
    due: bool,
    writing: Option<JoinHandle<Duration>>,
    not_before: Option<Instant>,
}

impl Keeping {
    /// Without a state directory nothing is kept.
    pub(super) fn new(state: Option<State>) -> Self {
        Self { state, ..Self::default() }
    }

    /// The policy has changed.
    pub(super) fn note(&mut self) {
        self.due = true;
    }

    /// Begins to write if there is something to write and the last write is done.
    pub(super) fn write(&mut self, model: &Model, now: Instant) {
        if let Some(writing) = &mut self.writing {
            let Some(finished) = writing.now_or_never() else { return };
            self.writing = None;
            self.not_before = Some(now + finished.unwrap_or_default() * PAUSE);
        }
        if self.not_before.is_none_or(|at| now >= at) {
            self.begin(model);
        }
    }

    fn begin(&mut self, model: &Model) {
        let Some(state) = self.state.clone() else { return };
        if std::mem::take(&mut self.due) {
            let messages = model.messages();
            self.writing = Some(spawn_blocking(move || {
                let began = Instant::now();
                if let Err(error) = state.save_policy(&messages) {
                    tracing::error!(
                        error = reason(&error),
                        "the policy could not be kept in the state directory"
                    );
                }
                began.elapsed()
            }));
        }
    }

    /// Writes what is still to be written and waits until it is on the disk.
    pub(super) async fn flush(&mut self, model: &Model) {
        self.wait().await;
        self.begin(model);
        self.wait().await;
    }

    async fn wait(&mut self) {
        if let Some(writing) = self.writing.take() {
            // The writer reports its own failure.
            let _ = writing.await;
        }
    }
}
