//! Waiting for a condition with a deadline, never for a while in the hope that it suffices.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long anything that should happen may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again every few milliseconds until the answer is `Ok`, and returns its value.
///
/// Panics with the last `Err` when [`PATIENCE`] is over.
#[track_caller]
pub fn eventually<T, E, F, Fut>(what: &str, ask: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    within(PATIENCE, what, ask)
}

/// As [`eventually`], with a deadline of its own.
#[track_caller]
pub fn within<T, E, F, Fut>(patience: Duration, what: &str, mut ask: F) -> impl Future<Output = T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let asked_at = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        loop {
            let why = match ask().await {
                Ok(value) => return value,
                Err(why) => why,
            };
            assert!(Instant::now() < deadline, "{what}: not within {patience:?} ({asked_at}): {why}");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Awaits the future for at most [`PATIENCE`], so that a test that would hang says where instead.
#[track_caller]
pub fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let asked_at = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{what}: not within {PATIENCE:?} ({asked_at})"),
        }
    }
}
