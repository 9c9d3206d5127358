//! HTTP/2 frames that cost the receiver more than the sender, counted.
//!
//! The HTTP/2 library bounds streams, resets and header blocks. What it answers or ignores frame by frame (PING,
//! SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, CONTINUATION and frames of unknown types) is free for the sender,
//! so the reader of the connection counts these and ends it when they are out of all proportion to the traffic
//! (CVE-2019-9512, 9514, 9515, 9518).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames that carry nothing, for each one that does: a peer that reads in small pieces sends a WINDOW_UPDATE or two
/// per DATA frame, and a PING now and then.
const PER_CARRYING_FRAME: u32 = 8;

/// What a connection starts with, and the most that it can save up.
const MOST: u32 = 10_000;

const PREFACE_BYTES: usize = 24;

/// Counts the frames of one direction of an HTTP/2 connection (RFC 9113 section 4.1).
#[derive(Debug)]
pub struct FrameCount {
    /// Bytes of the preface or of a frame's payload still to pass.
    skip: usize,
    header: [u8; 9],
    have: usize,
    credit: u32,
}

/// Too many frames that carry nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many HTTP/2 frames that carry nothing")]
pub struct TooMany;

impl Default for FrameCount {
    fn default() -> Self {
        Self { skip: PREFACE_BYTES, header: [0; 9], have: 0, credit: MOST }
    }
}

impl FrameCount {
    /// Takes in the next bytes, however they are cut.
    ///
    /// # Errors
    /// The peer floods; the connection is to be closed.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.header.len() {
                self.have = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), TooMany> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = length as usize;
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const END_STREAM: u8 = 1;
        let carries = match kind {
            DATA => length > 0 || flags & END_STREAM != 0,
            HEADERS => true,
            _ => false,
        };
        if carries {
            self.credit = (self.credit + PER_CARRYING_FRAME).min(MOST);
            return Ok(());
        }
        self.credit = self.credit.checked_sub(1).ok_or(TooMany)?;
        Ok(())
    }
}

/// A connection whose reads are counted.
pub(crate) struct Flood<IO> {
    io: IO,
    count: FrameCount,
}

impl<IO> Flood<IO> {
    /// Watches `io` from its first byte.
    pub(crate) fn new(io: IO) -> Self {
        Self { io, count: FrameCount::default() }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Flood<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let verdict = self.count.feed(&buffer.filled()[before..]);
        Poll::Ready(verdict.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Flood<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
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
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn connection(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frames.into_iter().flatten());
        bytes
    }

    #[test]
    fn floods_of_every_kind_are_noticed() {
        for (kind, name) in [
            (6, "PING"),
            (4, "SETTINGS"),
            (2, "PRIORITY"),
            (8, "WINDOW_UPDATE"),
            (0, "empty DATA"),
            (9, "CONTINUATION"),
        ] {
            let payload: &[u8] = if kind == 0 { &[] } else { &[0; 8] };
            let bytes = connection((0..=MOST).map(|_| frame(kind, 0, payload)));
            assert_eq!(FrameCount::default().feed(&bytes), Err(TooMany), "{name}");
        }
    }

    #[test]
    fn traffic_is_not_taken_for_a_flood_however_it_is_cut() {
        let bytes = connection((0..20_000).flat_map(|_| [frame(0, 0, b"data"), frame(8, 0, &[0, 0, 1, 0])]));
        for size in [1, 7, 9, 1000, bytes.len()] {
            let mut count = FrameCount::default();
            assert!(bytes.chunks(size).all(|cut| count.feed(cut).is_ok()), "in pieces of {size}");
        }
    }
}
