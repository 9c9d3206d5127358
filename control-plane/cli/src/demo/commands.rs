//! How the demo's own programs are told what to do: lines on standard input, a pipe from the demo.

use std::io;
use std::os::fd::AsFd;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;

/// The lines that come in, until the demo ends.
///
/// # Errors
/// Standard input is no pipe: somebody else started the program.
pub(crate) fn commands() -> io::Result<Lines<BufReader<Receiver>>> {
    let pipe = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    Ok(BufReader::new(pipe).lines())
}
