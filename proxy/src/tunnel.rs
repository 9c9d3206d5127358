//! Bytes carried both ways unread: opaque TCP, and what follows an upgrade.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::stream::Stream;
use crate::suspicion::{Suspicion, Verdict};

/// How much one direction buffers.
const BUFFER_BYTES: usize = 64 * 1024;

/// What went through a tunnel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the caller to the upstream.
    pub(crate) up: u64,
    /// From the upstream to the caller.
    pub(crate) down: u64,
}

/// Carries bytes between the two until both have ended, or nothing has moved for `idle`.
///
/// The end of one direction is passed on while the other goes on (half-close). An error or idleness ends both.
/// What the caller sends must not turn out to be HTTP, where that is a `suspicion`. `carried` counts as it goes, so that it
/// is right even if the future is dropped.
pub(crate) async fn carry(
    caller: Stream,
    upstream: Stream,
    idle: Duration,
    suspicion: Option<Suspicion>,
    carried: &mut Carried,
) -> io::Result<()> {
    let (mut caller_read, mut caller_write) = tokio::io::split(caller);
    let (mut upstream_read, mut upstream_write) = tokio::io::split(upstream);
    let last = Cell::new(Instant::now());
    let Carried { up, down } = carried;
    let copies = async {
        let up = pump(&mut caller_read, &mut upstream_write, suspicion, up, &last);
        let down = pump(&mut upstream_read, &mut caller_write, None, down, &last);
        tokio::try_join!(up, down).map(|_| ())
    };
    tokio::select! {
        result = copies => result,
        () = idled(&last, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for the idle time")),
    }
}

/// A connection that was let in as opaque became HTTP.
#[derive(Debug, thiserror::Error)]
#[error("HTTP where nobody reads it")]
struct Suspect;

/// Whether a connection ended because its `suspicion` was right.
pub(crate) fn is_suspect(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<Suspect>())
}

async fn pump<R, W>(
    from: &mut R,
    to: &mut W,
    mut suspicion: Option<Suspicion>,
    count: &mut u64,
    last: &Cell<Instant>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            // The far side may have gone already; that ends this direction all the same.
            let _ = to.shutdown().await;
            return Ok(());
        }
        last.set(Instant::now());
        match suspicion.as_mut().map(|suspicion| suspicion.look(&buffer[..read])) {
            Some(Verdict::Http) => return Err(io::Error::other(Suspect)),
            Some(Verdict::Other) => suspicion = None,
            Some(Verdict::Open) | None => {}
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        *count += read as u64;
    }
}

/// Ends when nothing has happened for `idle` since the latest `last`.
async fn idled(last: &Cell<Instant>, idle: Duration) {
    let mut timer = pin!(sleep(idle));
    loop {
        timer.as_mut().await;
        let due = last.get() + idle;
        if due <= Instant::now() {
            return;
        }
        timer.as_mut().reset(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn half_close_is_passed_on_and_the_answer_still_comes() {
        let (mut client, near) = pair().await;
        let (far, mut server) = pair().await;
        let mut carried = Carried::default();
        let tunnel = carry(near.into(), far.into(), Duration::from_secs(5), None, &mut carried);
        let client = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            server.write_all(b"answer to ").await.unwrap();
            server.write_all(&question).await.unwrap();
            drop(server);
        };
        let (result, answer, ()) = tokio::join!(tunnel, client, server);
        result.unwrap();
        assert_eq!(answer, b"answer to question");
        assert_eq!(carried, Carried { up: 8, down: 18 });
    }

    #[tokio::test]
    async fn an_idle_tunnel_ends() {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let mut carried = Carried::default();
        let result = carry(near.into(), far.into(), Duration::from_millis(50), None, &mut carried).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop((client, server));
    }
}
