use std::sync::Mutex;

use http::HeaderValue;
use serde_json::Value;

use super::*;
use crate::exchange::tests::{attempt, exchange};
use crate::failure::Failure;

/// Somewhere to write that a test can read, and that can refuse.
#[derive(Debug, Clone, Default)]
struct Shelf {
    text: Arc<Mutex<Vec<u8>>>,
    broken: bool,
}

impl Write for Shelf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(exchange: &Exchange) -> Value {
    let mut out = Vec::new();
    line(&mut out, exchange).unwrap();
    assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1, "one line");
    serde_json::from_slice(&out).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)))
}

#[tokio::test]
async fn a_line_holds_what_an_operator_asks_for() {
    let mut exchange = exchange();
    exchange.route = Some("shop/canary".into());
    exchange.client = Some("127.0.0.1:50000".parse().unwrap());
    exchange.request_id = Some(HeaderValue::from_static("r-1"));
    (exchange.request_bytes, exchange.response_bytes) = (3, 17);
    let line = written(&exchange);
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20.123Z",
        "direction": "outbound",
        "service": "payments.shop",
        "port": 80,
        "route": "shop/canary",
        "peer": "spiffe://outrigger.local/ns/shop/sa/payments",
        "tls": true,
        "client": "127.0.0.1:50000",
        "method": "GET",
        "authority": "payments.shop",
        "path": "/charge",
        "protocol": "HTTP/1.1",
        "status": 200,
        "duration_ms": 5.0,
        "upstream_ms": 4.0,
        "retries": 0,
        "upstream": "127.0.0.1:4743",
        "request_bytes": 3,
        "response_bytes": 17,
        "trace_id": exchange.trace.trace_id.to_string(),
        "span_id": exchange.trace.span_id.to_string(),
        "sampled": true,
        "request_id": "r-1",
    });
    assert_eq!(line, expected);
}

#[tokio::test]
async fn a_failure_has_its_name_and_retries_their_number() {
    let mut exchange = exchange();
    (exchange.status, exchange.failure) = (503, Some(Failure::TlsIdentity));
    exchange.grpc_status = Some(14);
    let again = attempt(exchange.trace.span_id, exchange.started, None);
    exchange.attempts.push(again);
    let line = written(&exchange);
    assert_eq!(line["error"], "tls-identity");
    assert_eq!(
        (&line["status"], &line["grpc_status"], &line["retries"]),
        (&503.into(), &14.into(), &1.into())
    );
}

#[tokio::test]
async fn a_caller_cannot_forge_fields_or_lines_nor_fill_the_log() {
    let mut exchange = exchange();
    exchange.authority = Some(HeaderValue::from_bytes(b"a\",\"status\":1,\t\xff").unwrap());
    exchange.uri = format!("/{}?x", "p".repeat(5000)).parse().unwrap();
    exchange.service = None;
    exchange.peer = None;
    exchange.status = NO_STATUS;
    let line = written(&exchange);
    assert_eq!(line["authority"], "a\",\"status\":1,\t\u{fffd}");
    assert_eq!(line["path"].as_str().unwrap().len(), MAX_TEXT_BYTES);
    for absent in ["status", "service", "peer", "error"] {
        assert_eq!(line.get(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn lines_reach_the_writer_soon_and_whole() {
    let shelf = Shelf::default();
    let (log, end) = AccessLog::to_writer(true, shelf.clone()).unwrap();
    let worker = log.worker();
    let running = worker.clone().run();
    let recording = async {
        for _ in 0..1000 {
            worker.record(&exchange(), false);
        }
        while log.counts().written < 1000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = running => {}
        done = tokio::time::timeout(Duration::from_secs(10), recording) => done.expect("lines are written"),
    }
    worker.record(&exchange(), false);
    worker.flush();
    drop((worker, log));
    end.wait(Duration::from_secs(10));
    let text = String::from_utf8(shelf.text.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1001);
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[tokio::test]
async fn the_mode_decides_what_is_logged() {
    for (always, mesh, lines) in [(false, false, 0), (false, true, 1), (true, false, 1), (true, true, 1)] {
        let shelf = Shelf::default();
        let (log, end) = AccessLog::to_writer(always, shelf.clone()).unwrap();
        let worker = log.worker();
        worker.record(&exchange(), mesh);
        worker.flush();
        drop((worker, log));
        end.wait(Duration::from_secs(10));
        let text = String::from_utf8(shelf.text.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), lines, "always {always}, mesh {mesh}");
    }
    let (log, end) = AccessLog::start(&AccessLogMode::Off).unwrap();
    log.worker().record(&exchange(), true);
    end.wait(Duration::from_secs(10));
    assert_eq!(log.counts(), LogCounts::default());
}

#[tokio::test]
async fn a_writer_that_fails_or_hangs_costs_lines_and_never_waits() {
    let (log, end) = AccessLog::to_writer(true, Shelf { broken: true, ..Shelf::default() }).unwrap();
    let worker = log.worker();
    worker.record(&exchange(), false);
    worker.flush();
    let counters = Arc::clone(&log.counters);
    drop((worker, log));
    end.wait(Duration::from_secs(10));
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 1);

    // Holding the lock is a reader that has stopped reading.
    let shelf = Shelf::default();
    let (log, _end) = AccessLog::to_writer(true, shelf.clone()).unwrap();
    let worker = log.worker();
    let held = shelf.text.lock().unwrap();
    let line = 400;
    for _ in 0..(QUEUE + 4) * FULL_BYTES / line {
        worker.record(&exchange(), false);
    }
    assert!(log.counts().dropped > 0, "{:?}", log.counts());
    drop(held);
}

#[test]
fn a_file_is_appended_to_and_one_that_cannot_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    std::fs::write(&path, "before\n").unwrap();
    let (log, end) = AccessLog::start(&AccessLogMode::File(path.clone())).unwrap();
    drop(log);
    end.wait(Duration::from_secs(10));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\n");
    let nowhere = directory.path().join("no/such/place");
    let error = AccessLog::start(&AccessLogMode::File(nowhere.clone())).unwrap_err().to_string();
    assert!(error.contains(nowhere.to_str().unwrap()), "{error}");
}
