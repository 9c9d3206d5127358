//! A TCP connection that is read in large pieces while much is coming.
//!
//! The TLS library asks for 4 KiB at a time, a quarter of a record: right for requests, and four system calls a record
//! for bulk data. Where a read has filled all that was asked for, the next one fetches as much as there is; once little
//! comes, the buffer is given back, so that a connection at rest holds none.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most that is read at once: four records.
const WIDE_BYTES: usize = 64 * 1024;

/// A TCP connection under TLS.
#[derive(Debug)]
pub(crate) struct Wide {
    io: TcpStream,
    /// The last read brought as much as there was room for.
    full: bool,
    /// What is read ahead lies here; empty at rest.
    ahead: Vec<u8>,
    /// How much of it there is, and how much of that has been given out.
    have: usize,
    given: usize,
}

impl From<TcpStream> for Wide {
    fn from(io: TcpStream) -> Self {
        Self { io, full: false, ahead: Vec::new(), have: 0, given: 0 }
    }
}

impl Wide {
    /// Fetches what there is; ready with nothing at the end of the stream.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (self.have, self.given) = (0, 0);
        if self.ahead.is_empty() {
            self.ahead = vec![0; WIDE_BYTES];
        }
        let mut buffer = ReadBuf::new(&mut self.ahead);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.have = buffer.filled().len();
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back.
    fn rest(&mut self) {
        self.ahead = Vec::new();
        (self.have, self.given) = (0, 0);
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let ahead = &self.ahead[self.given..self.have];
        let count = ahead.len().min(buffer.remaining());
        buffer.put_slice(&ahead[..count]);
        self.given += count;
        if self.given == self.have && !self.full {
            self.rest();
        }
    }
}

impl AsyncRead for Wide {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.given < this.have {
            this.give(buffer);
            return Poll::Ready(Ok(()));
        }
        let room = buffer.remaining();
        if this.full {
            let fetched = this.poll_fetch(cx)?;
            // Little or nothing there: what is said next is no part of bulk data.
            this.full = this.have > room;
            if fetched.is_pending() {
                this.rest();
                return Poll::Pending;
            }
            this.give(buffer);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        this.full = buffer.remaining() == 0 && room > 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wide {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, Wide) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        (far, Wide::from(near))
    }

    #[tokio::test]
    async fn every_byte_comes_once_and_in_order_however_it_is_asked_for() {
        let (mut far, mut near) = pair().await;
        let mut rng = StdRng::seed_from_u64(5);
        let sent: Vec<u8> = (0..3_000_000).map(|_| rng.random()).collect();
        let bytes = sent.clone();
        let sending = tokio::spawn(async move {
            for piece in bytes.chunks(70_001) {
                far.write_all(piece).await.unwrap();
            }
        });
        let mut read = Vec::new();
        let mut buffer = vec![0; 100_000];
        loop {
            let room = [1, 7, 4096, 4096, 4096, 16_401, 100_000][rng.random_range(0..7)];
            match near.read(&mut buffer[..room]).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&buffer[..count]),
            }
        }
        sending.await.unwrap();
        assert!(read == sent, "{} of {} bytes", read.len(), sent.len());
    }

    #[tokio::test]
    async fn a_connection_at_rest_holds_no_buffer() {
        let (mut far, mut near) = pair().await;
        let mut buffer = [0; 4096];
        far.write_all(&[1; 50_000]).await.unwrap();
        let mut left = 50_000;
        while left > 0 {
            left -= near.read(&mut buffer).await.unwrap();
        }
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(near.ahead.capacity(), 0);
    }
}
