//! The application of opaque bytes: it sends, takes or echoes as many as it is asked to.
//!
//! A connection carries one command after another: one byte for what to do, eight for the number of bytes. So both
//! ends know the length of everything, and no proxy has to pass on half a close.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What is read or written at once.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// An echo is kept whole before it is sent back.
const MOST_ECHOED_BYTES: u64 = 64 * 1024;
/// A prime, so that bytes that are lost or doubled by the page or the record are noticed.
const PERIOD: usize = 251;

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// That many bytes of the pattern.
    Send(u64),
    /// That many bytes follow; their number comes back, big-endian, when the last one has come.
    Take(u64),
    /// That many bytes follow, and come back; few.
    Echo(u64),
}

impl Command {
    /// As it goes over the wire.
    pub(crate) fn bytes(self) -> [u8; 9] {
        let (kind, length) = match self {
            Self::Send(length) => (b'S', length),
            Self::Take(length) => (b'T', length),
            Self::Echo(length) => (b'E', length),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn parse(kind: u8, length: u64) -> io::Result<Self> {
        match kind {
            b'S' => Ok(Self::Send(length)),
            b'T' => Ok(Self::Take(length)),
            b'E' if length <= MOST_ECHOED_BYTES => Ok(Self::Echo(length)),
            _ => Err(io::Error::other(format!("no command {kind} of {length} bytes"))),
        }
    }
}

/// Bytes that tell by themselves where they belong.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// Enough of it to be written from anywhere, a chunk at once.
    pub(crate) fn new() -> Self {
        Self((0..CHUNK_BYTES + PERIOD).map(Self::at).collect())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the period is less than 256")]
    fn at(position: usize) -> u8 {
        (position % PERIOD) as u8
    }

    /// The chunk that begins at this position, which is less than `end`, and does not go beyond that.
    pub(crate) fn from(&self, position: u64, end: u64) -> &[u8] {
        let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let from = phase(position);
        &self.0[from..from + length]
    }

    /// Whether these bytes may be those from this position on.
    ///
    /// To look at every byte would cost more than to move it; one that is lost or doubled shifts all that follow.
    ///
    /// # Errors
    /// The first or the last is another one.
    pub(crate) fn check(bytes: &[u8], position: u64) -> io::Result<()> {
        let from = phase(position);
        match (bytes.first(), bytes.last()) {
            (Some(&first), Some(&last))
                if first == Self::at(from) && last == Self::at(from + bytes.len() - 1) =>
            {
                Ok(())
            }
            _ => Err(io::Error::other(format!("other bytes than were sent, from {position} on"))),
        }
    }
}

fn phase(position: u64) -> usize {
    usize::try_from(position % PERIOD as u64).unwrap_or_default()
}

/// Does what the connection asks for, until it ends.
pub(super) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Made when first needed: most connections only want an echo.
    let (mut pattern, mut chunk) = (None, Vec::new());
    loop {
        let mut command = [0; 9];
        stream.read_exact(&mut command).await?;
        let [kind, length @ ..] = command;
        match Command::parse(kind, u64::from_be_bytes(length))? {
            Command::Send(length) => {
                send(&mut stream, pattern.get_or_insert_with(Pattern::new), length).await?;
            }
            Command::Take(length) => {
                chunk.resize(CHUNK_BYTES, 0);
                take(&mut stream, &mut chunk, length).await?;
                stream.write_u64(length).await?;
            }
            Command::Echo(length) => {
                chunk.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
                stream.read_exact(&mut chunk).await?;
                stream.write_all(&chunk).await?;
            }
        }
    }
}

async fn send(stream: &mut TcpStream, pattern: &Pattern, length: u64) -> io::Result<()> {
    let mut position = 0;
    while position < length {
        position += stream.write(pattern.from(position, length)).await? as u64;
    }
    Ok(())
}

async fn take(stream: &mut TcpStream, chunk: &mut [u8], length: u64) -> io::Result<()> {
    let mut position = 0;
    while position < length {
        let left = usize::try_from(length - position).unwrap_or(usize::MAX).min(chunk.len());
        let read = stream.read(&mut chunk[..left]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Pattern::check(&chunk[..read], position)?;
        position += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_it_was_written() {
        for command in [Command::Send(1 << 40), Command::Take(7), Command::Echo(4)] {
            let [kind, length @ ..] = command.bytes();
            assert_eq!(Command::parse(kind, u64::from_be_bytes(length)).unwrap(), command);
        }
        assert!(Command::parse(b'E', 1 << 20).is_err(), "an echo too large to keep");
        assert!(Command::parse(b'X', 1).is_err());
    }

    #[test]
    fn the_pattern_goes_on_from_anywhere_and_a_lost_byte_shows() {
        let pattern = Pattern::new();
        for position in [0, 1, 250, 251, 1_000_003] {
            let chunk = pattern.from(position, u64::MAX);
            assert_eq!(chunk.len(), CHUNK_BYTES);
            Pattern::check(chunk, position).unwrap();
            assert!(Pattern::check(chunk, position + 1).is_err());
            assert!(Pattern::check(&[&chunk[..10], &chunk[11..]].concat(), position).is_err());
        }
        assert_eq!(pattern.from(90, 100).len(), 10, "no further than asked");
        assert!(Pattern::check(&[], 0).is_err());
    }
}
