//! How the demo ends: the edges, one trace, and what was promised beside what was seen.

use outrigger_control_plane::status::EdgeStats;
use serde_json::{Value, json};

use super::promise::{count, latency, percent};
use super::story::Ending;
use super::trace;
use crate::output::{BAD, BOLD, GOOD, paint};
use crate::table::{Cell, Table};

/// The ending for people.
pub(crate) fn text(ending: &Ending) -> String {
    let mut text = format!("\n{}\n", paint(BOLD, "Every edge, as the caller's sidecar counted"));
    text.push_str(&edges(&ending.edges).render());
    text.push_str(&format!("\n{}\n", paint(BOLD, "One request")));
    match &ending.trace {
        Some((id, trace)) => {
            text.push_str(&format!("trace {}\n{}", trace::title(*id, trace), trace.draw()));
        }
        None => text.push_str("no whole trace was received\n"),
    }
    text.push_str(&format!("\n{}\n", paint(BOLD, "Promised and seen")));
    text.push_str(&promises(ending).render());
    text
}

/// The ending for programs.
pub(crate) fn json(ending: &Ending) -> Value {
    json!({
        "kept": is_kept(ending),
        "promises": ending.promises,
        "phases": ending.phases,
        "edges": ending.edges,
        "spans": ending.spans,
        "trace": ending.trace.as_ref().map(|(id, trace)| trace.to_json(*id)),
    })
}

/// Whether every promise was kept.
pub(crate) fn is_kept(ending: &Ending) -> bool {
    ending.promises.iter().all(|promise| promise.kept)
}

/// A row for each edge.
pub(crate) fn edges(edges: &[EdgeStats]) -> Table {
    let mut table = Table::new(&[
        "FROM",
        "TO",
        ">REQUESTS",
        ">BEFORE RETRIES",
        ">AFTER",
        ">P50",
        ">P90",
        ">P99",
        ">P99.9",
        "MTLS PEER",
    ]);
    for edge in edges {
        let style = if edge.successes == edge.requests { GOOD } else { BAD };
        let peer = match (edge.peer.is_empty(), edge.mtls) {
            (false, _) => Cell::from(edge.peer.clone()),
            (true, true) => Cell::from("mutual TLS"),
            (true, false) => Cell::styled(BAD, "none"),
        };
        table.row(vec![
            source(&edge.source).into(),
            format!("{}:{}", edge.destination, edge.port).into(),
            count(edge.requests).into(),
            percent(edge.attempt_success_rate).into(),
            Cell::styled(style, percent(edge.success_rate)),
            latency(edge.p50_micros).into(),
            latency(edge.p90_micros).into(),
            latency(edge.p99_micros).into(),
            latency(edge.p999_micros).into(),
            peer,
        ]);
    }
    table
}

/// A caller that serves nothing is known by its identity alone, which is shown as services are: `NAME.NAMESPACE`.
fn source(source: &str) -> String {
    let parts = source.rsplit_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
    parts.map_or_else(|| source.to_owned(), |(namespace, account)| format!("{account}.{namespace}"))
}

fn promises(ending: &Ending) -> Table {
    let mut table = Table::new(&["", "PROMISED", "SEEN"]);
    for promise in &ending.promises {
        let mark = if promise.kept { Cell::styled(GOOD, "✓") } else { Cell::styled(BAD, "✗") };
        table.row(vec![mark, promise.promised.clone().into(), promise.seen.clone().into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::promise::Promise;

    fn ending(kept: bool) -> Ending {
        let promises = vec![Promise::new("nothing is lost", "3 lost", kept)];
        Ending { phases: Vec::new(), promises, edges: Vec::new(), trace: None, spans: 0 }
    }

    #[test]
    fn a_caller_is_named_alike_whether_it_serves_or_not() {
        assert_eq!(source("spiffe://outrigger.local/ns/shop/sa/gateway"), "gateway.shop");
        assert_eq!(source("web.shop"), "web.shop");
    }

    #[test]
    fn one_broken_promise_breaks_the_whole() {
        assert!(is_kept(&ending(true)));
        assert!(!is_kept(&ending(false)));
        assert_eq!(json(&ending(false))["kept"], false);
        let shown = anstream::adapter::strip_str(&text(&ending(false))).to_string();
        assert!(shown.contains("✗  nothing is lost  3 lost"), "{shown}");
    }
}
