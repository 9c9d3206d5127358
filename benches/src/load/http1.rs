//! HTTP/1.1 connections that are never idle.
//!
//! Closed loop: every connection sends its next request when the answer to the last one is complete. What is here to
//! make a request and to know its answer serves the other loads of HTTP/1.1 as well.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Load, PATIENCE, Recorder, all};

/// An answer beyond this is not one of ours.
const ANSWER_BYTES: usize = 64 * 1024;

/// Where requests go and what they are, each with its own authority.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    /// The bytes to send, taken in turn; at least one.
    requests: Vec<String>,
}

impl Target {
    /// Requests for this path of each of these hosts, of which there must be one at least.
    pub(crate) fn new<H: AsRef<str>>(address: SocketAddr, hosts: &[H], path: &str) -> Self {
        Self { address, requests: hosts.iter().map(|host| request(host.as_ref(), path, "")).collect() }
    }

    /// The request of this number, counted from nought.
    pub(super) fn request(&self, number: usize) -> &[u8] {
        self.requests[number % self.requests.len()].as_bytes()
    }
}

fn request(host: &str, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: outrigger-benches\r\naccept: */*\r\n{more}\r\n"
    )
}

/// Keeps this many connections busy.
///
/// # Errors
/// No thread can be made; whatever fails later is told when the load is stopped.
pub(crate) fn closed(target: Target, connections: usize) -> Result<Load> {
    Load::start(move |recorder| async move {
        let target = Rc::new(target);
        let mut running = JoinSet::new();
        for first in 0..connections {
            running.spawn_local(keep_busy(Rc::clone(&target), first, Rc::clone(&recorder)));
        }
        all(running, "connections").await
    })
}

/// Connections begin with different requests, so that their sum is spread over the authorities at any moment.
async fn keep_busy(target: Rc<Target>, first: usize, recorder: Rc<Recorder>) -> io::Result<()> {
    let mut stream = connect(target.address).await?;
    let mut read = Vec::with_capacity(16 * 1024);
    let mut began = Instant::now();
    for number in first.. {
        if recorder.stopping() {
            break;
        }
        patiently(exchange(&mut stream, target.request(number), &mut read)).await?;
        // The end of one is the beginning of the next: reading the clock is not free.
        let ended = Instant::now();
        recorder.answered(began, ended);
        began = ended;
    }
    Ok(())
}

/// A connection that sends small things at once.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What takes longer than anything may is an error.
pub(super) async fn patiently<T>(doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::other(format!("no answer in {PATIENCE:?}"));
    timeout(PATIENCE, doing).await.map_err(late)?
}

/// One request and its whole answer.
pub(super) async fn exchange(stream: &mut TcpStream, request: &[u8], read: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request).await?;
    answer(stream, read).await
}

/// One whole answer and no more, read into a buffer that is emptied first.
pub(super) async fn answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
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
pub(super) fn answer_bytes(read: &[u8]) -> io::Result<Option<usize>> {
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
    stream.write_all(request(host, "/", "connection: close\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES as u64).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    fn wait_for(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(condition(), "not within {PATIENCE:?}");
    }

    #[test]
    fn every_answer_is_counted_once_and_latencies_only_from_when_they_are_measured() {
        let upstream = Upstream::start().unwrap();
        let load = closed(Target::new(upstream.http1, &["a", "b"], "/"), 8).unwrap();
        wait_for(|| load.done() >= 100);
        load.measure();
        let before = load.done();
        wait_for(|| load.done() >= before + 100);
        let shared = std::sync::Arc::clone(&load.shared);
        let latency = load.stop().unwrap().latency;
        let answered = shared.done.load(std::sync::atomic::Ordering::Relaxed);
        assert!(latency.len() >= 92, "{} of at least 100 less 8 under way", latency.len());
        assert!(latency.len() <= answered - 92, "{} recorded of {answered}", latency.len());
    }

    #[test]
    fn a_server_that_goes_away_is_a_failure_and_no_number() {
        let upstream = Upstream::start().unwrap();
        let load = closed(Target::new(upstream.http1, &["any"], "/"), 2).unwrap();
        wait_for(|| load.done() > 0);
        drop(upstream);
        wait_for(|| load.has_ended());
        let text = load.stop().unwrap_err().to_string();
        assert!(text.starts_with("2 of 2 connections failed"), "{text}");
    }

    #[test]
    fn requests_take_the_authorities_in_turn() {
        let target = Target::new(([127, 0, 0, 1], 1).into(), &["a", "b"], "/bytes/100");
        let host =
            |number| String::from_utf8_lossy(target.request(number)).lines().nth(1).unwrap().to_owned();
        assert_eq!([host(0), host(1), host(2)], ["host: a", "host: b", "host: a"]);
        assert!(target.request(0).starts_with(b"GET /bytes/100 HTTP/1.1\r\n"));
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
