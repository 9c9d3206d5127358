//! What this proxy's traffic looks like, told to the control plane every two seconds.
//!
//! Reports carry totals since the proxy started, so one that is lost or skipped loses nothing. Within a stream
//! only edges that changed are told again; an idle proxy's report is empty, and says that it lives.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of edges in one message, under what any gRPC server takes.
const MESSAGE_BYTES: usize = 1 << 20;

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

/// What the control plane has been told on one stream.
#[derive(Debug, Default)]
pub(crate) struct Reported(HashSet<v1::Edge>);

impl Reported {
    /// The messages that tell what is new in `report`: at least one, each of a size that can be sent.
    pub(crate) fn news(&mut self, report: v1::LoadReport) -> Vec<v1::LoadReport> {
        let mut messages = vec![v1::LoadReport::default()];
        let mut bytes = 0;
        for edge in report.edges.iter().filter(|edge| !self.0.contains(*edge)) {
            bytes += edge.encoded_len();
            if bytes > MESSAGE_BYTES {
                bytes = edge.encoded_len();
                messages.push(v1::LoadReport::default());
            }
            messages.last_mut().expect("begun with one").edges.push(edge.clone());
        }
        for message in &mut messages {
            message.ejections.clone_from(&report.ejections); // each says all of them
        }
        self.0 = report.edges.into_iter().collect();
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(port: u32, requests: u64) -> v1::Edge {
        v1::Edge { port, requests, latency: vec![7; 1000], ..v1::Edge::default() }
    }

    #[test]
    fn only_what_changed_is_told_again() {
        let mut reported = Reported::default();
        let report =
            |edges: &[v1::Edge]| v1::LoadReport { edges: edges.to_vec(), ..v1::LoadReport::default() };
        assert_eq!(reported.news(report(&[edge(1, 1), edge(2, 1)])), [report(&[edge(1, 1), edge(2, 1)])]);
        assert_eq!(reported.news(report(&[edge(1, 1), edge(2, 5)])), [report(&[edge(2, 5)])]);
        assert_eq!(reported.news(report(&[edge(1, 1), edge(2, 5)])), [report(&[])], "a sign of life");
    }

    #[test]
    fn a_big_report_is_several_messages_that_leave_nothing_out() {
        let edges: Vec<_> = (0..5000).map(|port| edge(port, 1)).collect();
        let messages =
            Reported::default().news(v1::LoadReport { edges: edges.clone(), ..v1::LoadReport::default() });
        assert!(messages.len() >= 5);
        assert!(messages.iter().all(|message| message.encoded_len() < 2 * MESSAGE_BYTES));
        assert_eq!(messages.into_iter().flat_map(|message| message.edges).collect::<Vec<_>>(), edges);
    }
}
