//! What this proxy's traffic looks like, told to the control plane every two seconds.
//!
//! Reports carry totals since the proxy started, so one that is lost or skipped loses nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Collects the totals of all workers.
pub type LoadSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = v1::LoadReport> + Send>> + Send + Sync>;

/// Collects and hands over, until the receiver is gone.
pub(crate) async fn keep_reporting(source: LoadSource, reports: mpsc::Sender<v1::LoadReport>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let report = source().await;
        if reports.send(report).await.is_err() {
            return;
        }
    }
}
