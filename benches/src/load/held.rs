//! HTTP/1.1 connections that have been used once and are kept.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};

use super::PATIENCE;
use super::http1::{Target, answer_bytes};

/// Connections that nothing happens on. Dropping it closes them.
#[derive(Debug)]
pub(crate) struct Held(Vec<TcpStream>);

impl Held {
    /// Opens this many, one after the other, and asks for one answer on each.
    ///
    /// # Errors
    /// A connection or an answer was refused.
    pub(crate) fn open(target: &Target, number: usize) -> Result<Self> {
        let mut held = Vec::with_capacity(number);
        for number in 0..number {
            let stream =
                used_once(target, number).with_context(|| format!("connection {number} to be kept"))?;
            held.push(stream);
        }
        Ok(Self(held))
    }

    /// Makes sure that none of them was closed by the other side.
    ///
    /// # Errors
    /// One was: then what was measured is less than was asked for.
    pub(crate) fn all_open(&self) -> Result<()> {
        let closed = self.0.iter().filter(|stream| !is_open(stream)).count();
        if closed > 0 {
            bail!("{closed} of {} idle connections were closed", self.0.len());
        }
        Ok(())
    }
}

fn used_once(target: &Target, number: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target.address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(target.request(number))?;
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    while answer_bytes(&read)?.is_none_or(|length| length > read.len()) {
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => read.extend_from_slice(&chunk[..length]),
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn what_the_other_side_closes_is_noticed() {
        let upstream = Upstream::start().unwrap();
        let held = Held::open(&Target::new(upstream.http1, &["any"], "/"), 5).unwrap();
        held.all_open().unwrap();
        drop(upstream);
        let text = held.all_open().unwrap_err().to_string();
        assert_eq!(text, "5 of 5 idle connections were closed");
    }
}
