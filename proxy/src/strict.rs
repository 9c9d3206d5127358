//! Refuses HTTP/1 requests that two parsers could read in two ways.
//!
//! A request smuggled past a proxy is one whose end the proxy and the application see in different places: a bare
//! line feed, a space before a colon, two lengths, a length beside a chunked coding. HTTP libraries forgive some of
//! these; a proxy must forgive none. [`Framing`] follows the bytes of a connection from one request to the next and
//! names the first [`Violation`]; [`Strict`] puts it between the socket and the HTTP library, which therefore never
//! sees what is refused.

mod framing;
mod pace;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use framing::{Framing, MAX_FIELDS, MAX_HEAD_BYTES, Violation};
pub use pace::{Late, Pace};

/// The server's side of an HTTP/1 connection, whose incoming bytes are checked as they are read.
///
/// A read that brings a violation fails with [`io::ErrorKind::InvalidData`] and the [`Violation`] as its source, and
/// so does every read after it. Writes pass unchanged, and count as movement for the [`Pace`].
#[derive(Debug)]
pub struct Strict<Io> {
    io: Io,
    framing: Framing,
    pace: Pace,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pass_through: AtomicBool,
    violation: OnceLock<Violation>,
}

/// Reaches a [`Strict`] connection that the HTTP library owns.
#[derive(Debug, Clone)]
pub struct StrictHandle(Arc<Shared>);

impl StrictHandle {
    /// From here on the connection carries something else: an upgrade or a CONNECT was granted. To be called before
    /// the answer that grants it is sent, so that the peer cannot use the new protocol any earlier.
    pub fn pass_through(&self) {
        self.0.pass_through.store(true, Ordering::Relaxed);
    }

    /// Why the connection was refused, if it was.
    pub fn violation(&self) -> Option<Violation> {
        self.0.violation.get().copied()
    }
}

impl<Io> Strict<Io> {
    /// Checks what is read from `io`, from the first byte of a request on. `pace` bounds the waits for it.
    pub fn new(io: Io, pace: Pace) -> Self {
        Self { io, framing: Framing::new(), pace, shared: Arc::default() }
    }

    /// A handle that outlives the move of the connection into the HTTP library.
    pub fn handle(&self) -> StrictHandle {
        StrictHandle(Arc::clone(&self.shared))
    }

    /// The connection itself. Bytes that were read are gone.
    pub fn into_inner(self) -> Io {
        self.io
    }

    /// A caller that takes in a long answer has nothing to say meanwhile, and is not idle.
    fn note_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.pace.wrote(Instant::now());
        }
        written
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Strict<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(violation) = this.shared.violation.get() {
            return Poll::Ready(Err(refusal(*violation)));
        }
        let before = buf.filled().len();
        let passing = this.shared.pass_through.load(Ordering::Relaxed);
        if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
            // What follows an upgrade has bounds of its own.
            return if passing { Poll::Pending } else { this.pace.poll(cx).map(Err) };
        }
        if passing {
            return Poll::Ready(Ok(()));
        }
        if let Err(violation) = this.framing.feed(&buf.filled()[before..]) {
            buf.set_filled(before);
            let violation = *this.shared.violation.get_or_init(|| violation);
            return Poll::Ready(Err(refusal(violation)));
        }
        this.pace.moved(this.framing.is_inside_head(), Instant::now());
        Poll::Ready(Ok(()))
    }
}

fn refusal(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Strict<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note_write(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    /// After a violation the connection stays open for the answer that explains it; see [`Strict::into_inner`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shared.violation.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const GOOD: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test]
    async fn what_is_right_passes_and_what_is_wrong_is_an_error_that_stays() {
        let (mut peer, io) = tokio::io::duplex(1024);
        let mut strict = Strict::new(io, Pace::default());
        let handle = strict.handle();
        peer.write_all(GOOD).await.unwrap();
        let mut read = vec![0; GOOD.len()];
        strict.read_exact(&mut read).await.unwrap();
        assert_eq!(read, GOOD);
        assert_eq!(handle.violation(), None);

        peer.write_all(b"GET / HTTP/1.1\nhost: a\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            let mut buffer = Vec::with_capacity(64);
            let error = strict.read_buf(&mut buffer).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let violation = error.get_ref().unwrap().downcast_ref::<Violation>();
            assert_eq!(violation, Some(&Violation::BareLineFeed));
            assert!(buffer.is_empty(), "nothing of it is handed on");
        }
        assert_eq!(handle.violation(), Some(Violation::BareLineFeed));
    }

    #[tokio::test]
    async fn an_upgraded_connection_carries_anything() {
        let (mut peer, io) = tokio::io::duplex(1024);
        let mut strict = Strict::new(io, Pace::default());
        let handle = strict.handle();
        peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = [0; 256];
        assert_ne!(strict.read(&mut buffer).await.unwrap(), 0);
        handle.pass_through();
        peer.write_all(b"\0\n\r\xff").await.unwrap();
        let count = strict.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"\0\n\r\xff");
    }

    #[tokio::test]
    async fn the_end_of_the_connection_and_writes_pass() {
        let (mut peer, io) = tokio::io::duplex(1024);
        let mut strict = Strict::new(io, Pace::default());
        strict.write_all(b"HTTP/1.1 200 OK\n\n").await.unwrap();
        strict.shutdown().await.unwrap();
        let mut answer = Vec::new();
        peer.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK\n\n");
        drop(peer);
        assert_eq!(strict.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
