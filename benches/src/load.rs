//! The load generator: HTTP/1.1 connections that are never idle.
//!
//! Closed loop, on one thread of its own: every connection sends its next request when the answer to the last one
//! is complete. It writes and reads bytes, since a client library would cost as much as what is measured.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

/// An answer that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer beyond this is not one of ours.
const ANSWER_BYTES: usize = 64 * 1024;

/// A load that runs until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<io::Result<Tally>>,
}

#[derive(Debug, Default)]
struct Shared {
    answered: AtomicU64,
    measuring: AtomicBool,
    stop: AtomicBool,
}

/// How it went, while it was measured.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Microseconds from the first byte of a request written to the last of its answer read.
    pub(crate) latency: Histogram<u64>,
    /// What ended each connection that did not last, from the start on.
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// Starts this many connections to `target`, with requests for `host`.
    pub(crate) fn start(target: SocketAddr, host: &str, connections: usize) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let request = request(host, "");
        let thread = thread::Builder::new().name("load".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                LocalSet::new().block_on(&runtime, generate(target, request, connections, shared))
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// Requests answered so far, since the start.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// From now on latencies are recorded.
    pub(crate) fn measure(&self) {
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    /// Lets every connection finish its request, and counts.
    ///
    /// # Errors
    /// A connection ended before its time: then the numbers mean nothing.
    pub(crate) fn stop(self) -> Result<Histogram<u64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Ok(tally) = self.thread.join() else { bail!("the load generator panicked") };
        let tally = tally.context("the load generator")?;
        match tally.failures.first() {
            Some(first) => bail!("{} connections failed, the first: {first}", tally.failures.len()),
            None => Ok(tally.latency),
        }
    }
}

fn request(host: &str, more: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: outrigger-benches\r\naccept: */*\r\n{more}\r\n")
}

async fn generate(
    target: SocketAddr,
    request: String,
    connections: usize,
    shared: Arc<Shared>,
) -> io::Result<Tally> {
    let latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other)?;
    let latency = Rc::new(RefCell::new(latency));
    let request: Rc<str> = request.into();
    let mut running = JoinSet::new();
    for _ in 0..connections {
        let (request, shared, latency) = (Rc::clone(&request), Arc::clone(&shared), Rc::clone(&latency));
        running.spawn_local(async move { keep_busy(target, &request, &shared, &latency).await });
    }
    let mut failures = Vec::new();
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended.map_err(io::Error::other).flatten() {
            failures.push(error.to_string());
        }
    }
    let latency = latency.borrow().clone();
    Ok(Tally { latency, failures })
}

async fn keep_busy(
    target: SocketAddr,
    request: &str,
    shared: &Shared,
    latency: &RefCell<Histogram<u64>>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(4096);
    while !shared.stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let late = |_| io::Error::other(format!("no answer in {PATIENCE:?}"));
        timeout(PATIENCE, exchange(&mut stream, request, &mut read)).await.map_err(late)??;
        shared.answered.fetch_add(1, Ordering::Relaxed);
        if shared.measuring.load(Ordering::Relaxed) {
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            latency.borrow_mut().saturating_record(micros.max(1));
        }
    }
    Ok(())
}

/// One request and its whole answer.
async fn exchange(stream: &mut TcpStream, request: &str, read: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    read.clear();
    loop {
        if stream.read_buf(read).await? == 0 {
            return Err(io::Error::other("the connection was closed before the answer was complete"));
        }
        match answer_bytes(read)? {
            Some(length) if length == read.len() => return Ok(()),
            Some(length) if length < read.len() => {
                return Err(io::Error::other("more bytes than one answer has"));
            }
            _ if read.len() > ANSWER_BYTES => return Err(io::Error::other("answer too large")),
            _ => {}
        }
    }
}

/// The length of the answer of which this is the start, once its head is complete.
fn answer_bytes(read: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(read).map_err(io::Error::other)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        let text = String::from_utf8_lossy(read);
        return Err(io::Error::other(format!("answered {}", text.lines().collect::<Vec<_>>().join(" | "))));
    }
    let length = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse::<usize>().ok());
    length.map(|body| Some(head + body)).ok_or_else(|| io::Error::other("no content-length in the answer"))
}

/// Asks until the answer is 200: endpoints become known a moment after the proxies are ready.
///
/// # Errors
/// It did not become 200 within the patience for one request; with the last answer.
pub(crate) fn wait_until_served(target: SocketAddr, host: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(target, host).unwrap_or_else(|error| error.to_string());
        if answer.starts_with("HTTP/1.1 200 ") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{host} is not served after {PATIENCE:?}; last answer: {answer}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn ask(target: SocketAddr, host: &str) -> io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request(host, "connection: close\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES as u64).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn every_answer_is_counted_once_and_latencies_only_from_when_they_are_measured() {
        let upstream = Upstream::start().unwrap();
        let load = Load::start(upstream.address, "any", 8).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while load.answered() < 100 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        load.measure();
        let before = load.answered();
        while load.answered() < before + 100 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let shared = Arc::clone(&load.shared);
        let latency = load.stop().unwrap();
        let answered = shared.answered.load(Ordering::Relaxed);
        assert!(latency.len() >= 92, "{} of at least 100 less 8 under way", latency.len());
        assert!(latency.len() <= answered - 92, "{} recorded of {answered}", latency.len());
    }

    #[test]
    fn a_server_that_goes_away_is_a_failure_and_no_number() {
        let upstream = Upstream::start().unwrap();
        let load = Load::start(upstream.address, "any", 2).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while load.answered() == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(upstream);
        while !load.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let text = load.stop().unwrap_err().to_string();
        assert!(text.starts_with("2 connections failed"), "{text}");
    }

    #[test]
    fn only_200_with_a_length_is_an_answer() {
        assert_eq!(answer_bytes(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        assert_eq!(answer_bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").unwrap(), Some(40));
        assert!(answer_bytes(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        let refused = answer_bytes(b"HTTP/1.1 503 No\r\noutrigger-error: no-endpoints\r\n\r\n").unwrap_err();
        assert!(refused.to_string().contains("no-endpoints"), "{refused}");
    }
}
