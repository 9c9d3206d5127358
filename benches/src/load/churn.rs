//! TCP connections that live for one short exchange.
//!
//! Closed loop: each of a few tasks connects, sends a few bytes, waits until they come back and closes, over and over.
//! Every connection makes the proxies open, authenticate and close one of their own. The sides close in good order, as
//! applications do; ports in `TIME_WAIT` are taken again after a second on loopback (`net.ipv4.tcp_tw_reuse` = 2, as
//! Linux has it), and a subject fast enough to use them all up is told so by its failure.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::http1::{connect, patiently};
use super::{Load, Recorder, all};
use crate::upstream::bytes::Command;

const SENT: [u8; 4] = *b"ping";

/// Keeps this many connections in the making.
///
/// # Errors
/// No thread can be made; whatever fails later is told when the load is stopped.
pub(crate) fn churn(address: SocketAddr, at_once: usize) -> Result<Load> {
    Load::start(move |recorder| async move {
        let mut running = JoinSet::new();
        for _ in 0..at_once {
            running.spawn_local(keep_connecting(address, Rc::clone(&recorder)));
        }
        all(running, "connecting tasks").await
    })
}

async fn keep_connecting(address: SocketAddr, recorder: Rc<Recorder>) -> io::Result<()> {
    while !recorder.stopping() {
        let began = Instant::now();
        patiently(once(address)).await?;
        recorder.answered(began, Instant::now());
    }
    Ok(())
}

/// One connection, from its first packet to its last byte.
pub(crate) async fn once(address: SocketAddr) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let mut message = Command::Echo(SENT.len() as u64).bytes().to_vec();
    message.extend_from_slice(&SENT);
    stream.write_all(&message).await?;
    let mut back = [0; SENT.len()];
    stream.read_exact(&mut back).await?;
    match back == SENT {
        true => Ok(()),
        false => Err(io::Error::other(format!("{back:?} came back for {SENT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn every_connection_is_counted_when_its_bytes_have_come_back() {
        let upstream = Upstream::start().unwrap();
        let load = churn(upstream.tcp, 4).unwrap();
        load.measure();
        let began = Instant::now();
        while load.done() < 50 && !load.has_ended() {
            assert!(began.elapsed() < Duration::from_secs(20), "{} connections", load.done());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(load.stop().unwrap().latency.len() >= 46, "50 less 4 under way");
    }

    #[test]
    fn a_port_where_nobody_listens_is_a_failure() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = churn(address, 2).unwrap();
        let began = Instant::now();
        while !load.has_ended() {
            assert!(began.elapsed() < Duration::from_secs(20), "it goes on with nobody to connect to");
            thread::sleep(Duration::from_millis(1));
        }
        let text = load.stop().unwrap_err().to_string();
        assert!(text.starts_with("2 of 2 connecting tasks failed"), "{text}");
    }
}
