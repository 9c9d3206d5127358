//! Listening sockets, one set per worker, and the loop that accepts on them.
//!
//! With several workers each has its own socket on the same address (SO_REUSEPORT) and the kernel spreads the
//! connections, so that no connection ever moves between threads.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::drain::{Drain, Phase};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How long to wait when the process is out of file descriptors.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(50);

/// The address and the reason when a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}): {hint}")]
pub struct ListenError {
    address: SocketAddr,
    purpose: &'static str,
    hint: &'static str,
    #[source]
    source: io::Error,
}

/// Binds `count` sockets to `address`, one for each worker. With port 0 all get the port that the first was given.
///
/// # Errors
/// The address is in use, not of this machine or not allowed.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    purpose: &'static str,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), ListenError> {
    let fail = |source: io::Error| ListenError {
        address,
        purpose,
        hint: match source.kind() {
            io::ErrorKind::AddrInUse => {
                "the address is in use; choose another port or stop what listens there"
            }
            io::ErrorKind::AddrNotAvailable => "the address is not one of this machine's",
            io::ErrorKind::PermissionDenied => "ports below 1024 need the capability NET_BIND_SERVICE",
            _ => "see the cause",
        },
        source,
    };
    let first = socket(address, count > 1).map_err(fail)?;
    let bound = first.local_addr().map_err(fail)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(socket(bound, true).map_err(fail)?);
    }
    Ok((bound, sockets))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Only where it is needed: it would let a second proxy take half of this one's connections unnoticed.
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection as it was accepted.
pub(crate) struct Accepted {
    pub(crate) io: TcpStream,
    pub(crate) peer: SocketAddr,
    /// Where the caller meant to go, if the kernel redirected the connection here (SO_ORIGINAL_DST).
    pub(crate) original: Option<SocketAddr>,
}

/// Accepts until the drain has begun, and hands each connection to `serve`, which must not block.
///
/// Connections that the kernel had completed before the drain are still accepted.
pub(crate) async fn accept(listener: std::net::TcpListener, drain: Drain, mut serve: impl FnMut(Accepted)) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot accept connections");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            // First, since connections may come without a pause.
            () = drain.reached(Phase::Leaving) => break,
            accepted = listener.accept() => match accepted {
                Ok((io, peer)) => serve(describe(io, peer)),
                Err(error) => pause_after(error).await,
            },
        }
    }
    for _ in 0..BACKLOG {
        let Some(Ok((io, peer))) = now_or_never(listener.accept()).await else { break };
        serve(describe(io, peer));
    }
}

async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// An error of one connection is that connection's; out of descriptors, only waiting helps.
async fn pause_after(error: io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection; trying again");
    sleep(OUT_OF_RESOURCES).await;
}

fn describe(io: TcpStream, peer: SocketAddr) -> Accepted {
    if let Err(error) = io.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let original = original_destination(&io);
    Accepted { io, peer, original }
}

fn original_destination(io: &TcpStream) -> Option<SocketAddr> {
    let local = io.local_addr().ok()?;
    let socket = SockRef::from(io);
    let original = match local.ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    // The kernel answers with the local address where connection tracking saw no redirect.
    original.ok()?.as_socket().filter(|original| *original != local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, sockets) = bind(any, 3, "test").unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|s| s.local_addr().unwrap() == address));
        let error = bind(address, 1, "test").unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
