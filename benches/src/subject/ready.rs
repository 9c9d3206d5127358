//! When a subject serves: when a request through both of its proxies has been answered.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use http::{Request, StatusCode};
use tokio::time::Instant;

use super::Running;
use crate::process::Process;
use crate::upstream::bytes::Command;

/// How long a pair may take until it serves.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two requests; what the time until ready is exact to.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

/// Asks at every entry, and for every authority, until the answer is right. How long after `since` the first was.
///
/// # Errors
/// One was not right in time, or a process ended; with what the processes wrote.
pub(super) fn wait(running: &mut Running, since: Instant) -> Result<Duration> {
    let (http1, http2, tcp) = (running.http1.clone(), running.http2.clone(), running.tcp);
    let mut first = None;
    for authority in &http1.authority {
        until(running, "http1", || ask_http1(http1.address, authority))?;
        first.get_or_insert_with(|| since.elapsed());
    }
    for authority in &http2.authority {
        until(running, "http2", || ask_http2(http2.address, authority))?;
    }
    until(running, "tcp", || ask_tcp(tcp))?;
    Ok(first.unwrap_or_default())
}

/// Connects to these addresses until it can: the process behind them listens.
///
/// # Errors
/// It ended, or does not listen in time; with what it wrote.
pub(super) fn listening(process: &mut Process, addresses: &[SocketAddr]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for address in addresses {
        while let Err(error) = connect(*address) {
            process.check()?;
            if Instant::now() > deadline {
                return Err(process.failure(&format!("does not listen after {PATIENCE:?}: {error}")));
            }
            thread::sleep(AGAIN_AFTER);
        }
    }
    Ok(())
}

fn until(running: &mut Running, what: &str, ask: impl Fn() -> io::Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask() {
        running.check()?;
        if Instant::now() > deadline {
            return Err(running.explain(&format!("{what} is not served after {PATIENCE:?}: {error}")));
        }
        thread::sleep(AGAIN_AFTER);
    }
    Ok(())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask_http1(address: SocketAddr, authority: &str) -> io::Result<()> {
    let mut stream = connect(address)?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(1 << 16).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(&answer);
    Err(io::Error::other(format!("answered {:?}", answer.lines().next().unwrap_or_default())))
}

fn ask_http2(address: SocketAddr, authority: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asking = async {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let (client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let mut client = client.ready().await.map_err(io::Error::other)?;
        let request = Request::get(format!("http://{authority}/")).body(()).map_err(io::Error::other)?;
        let (response, _) = client.send_request(request, true).map_err(io::Error::other)?;
        let status = response.await.map_err(io::Error::other)?.status();
        driver.abort();
        if status == StatusCode::OK { Ok(()) } else { Err(io::Error::other(format!("answered {status}"))) }
    };
    runtime.block_on(async { tokio::time::timeout(ANSWER, asking).await.map_err(io::Error::other)? })
}

fn ask_tcp(address: SocketAddr) -> io::Result<()> {
    let mut stream = connect(address)?;
    stream.write_all(&[Command::Echo(1).bytes().as_slice(), b"!"].concat())?;
    let mut echo = [0];
    stream.read_exact(&mut echo)?;
    if echo == *b"!" { Ok(()) } else { Err(io::Error::other(format!("echoed {echo:?}"))) }
}
