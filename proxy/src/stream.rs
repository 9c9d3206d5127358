//! One byte stream, whatever it came through.
//!
//! Everything above speaks to this one type, so that plain TCP, TLS and a tunnel inside an HTTP upgrade share one
//! compiled request path. Bytes that detection has read are given out again first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::http2::Tunnel;
use crate::wide::Wide;

/// A connection to a caller, a peer or the application.
pub(crate) struct Stream {
    /// Read already, not yet given out.
    seen: BytesMut,
    transport: Transport,
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<Wide>>),
    Upgraded(Box<TokioIo<Upgraded>>),
    Tunnel(Box<Tunnel>),
}

impl Stream {
    /// The bytes that were read by [`Stream::fill`] and not yet given out.
    pub(crate) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Reads more for a look ahead; 0 is the end of the stream.
    ///
    /// Cancelling it loses nothing: what has arrived stays in [`Stream::seen`].
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.seen.reserve(4096);
        match &mut self.transport {
            Transport::Tcp(io) => io.read_buf(&mut self.seen).await,
            Transport::Tls(io) => io.read_buf(&mut self.seen).await,
            Transport::Upgraded(io) => io.read_buf(&mut self.seen).await,
            Transport::Tunnel(io) => io.read_buf(&mut self.seen).await,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(io: TcpStream) -> Self {
        Self { seen: BytesMut::new(), transport: Transport::Tcp(io) }
    }
}

impl From<TlsStream<Wide>> for Stream {
    fn from(io: TlsStream<Wide>) -> Self {
        Self { seen: BytesMut::new(), transport: Transport::Tls(Box::new(io)) }
    }
}

impl From<Upgraded> for Stream {
    fn from(io: Upgraded) -> Self {
        Self { seen: BytesMut::new(), transport: Transport::Upgraded(Box::new(TokioIo::new(io))) }
    }
}

impl From<Tunnel> for Stream {
    fn from(io: Tunnel) -> Self {
        Self { seen: BytesMut::new(), transport: Transport::Tunnel(Box::new(io)) }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.seen.is_empty() {
            let count = this.seen.len().min(buffer.remaining());
            buffer.put_slice(&this.seen[..count]);
            this.seen.advance(count);
            if this.seen.is_empty() {
                this.seen = BytesMut::new(); // gives the memory back
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.transport {
            Transport::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Transport::Tls(io) => Pin::new(io).poll_read(cx, buffer),
            Transport::Upgraded(io) => Pin::new(io).poll_read(cx, buffer),
            Transport::Tunnel(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(io) => Pin::new(io).poll_write(cx, data),
            Transport::Tls(io) => Pin::new(io).poll_write(cx, data),
            Transport::Upgraded(io) => Pin::new(io).poll_write(cx, data),
            Transport::Tunnel(io) => Pin::new(io).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(io) => Pin::new(io).poll_write_vectored(cx, data),
            Transport::Tls(io) => Pin::new(io).poll_write_vectored(cx, data),
            Transport::Upgraded(io) => Pin::new(io).poll_write_vectored(cx, data),
            Transport::Tunnel(io) => Pin::new(io).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
            Transport::Upgraded(io) => io.is_write_vectored(),
            Transport::Tunnel(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(io) => Pin::new(io).poll_flush(cx),
            Transport::Upgraded(io) => Pin::new(io).poll_flush(cx),
            Transport::Tunnel(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Upgraded(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tunnel(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
