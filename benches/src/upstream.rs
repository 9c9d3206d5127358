//! The application behind the mesh: an HTTP/1.1 server that does as little as one can.
//!
//! It shares the machine with what is measured, so it parses the head with `httparse`, writes one fixed answer
//! and has no timers. It is no server for anything but this: a request with a body is refused.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// The answer to every request: 128 bytes, the size of a small JSON object.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n\
the mesh carries this to and fro: sixteen words on one line, so that an answer has the size of a usual small one, 128 bytes.....";

/// A request head beyond this is not one of ours.
const HEAD_BYTES: usize = 16 * 1024;

/// The server, on a thread of its own; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts it on a free port of loopback.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listener =
            runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).context("no port for the server")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener) => {}
                    // Told to stop, or nobody is left to tell.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has already said so.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        // An error is that of a connection that was gone before it was accepted.
        if let Ok((stream, _)) = listener.accept().await {
            // The caller sees how its connection ended, and counts it.
            drop(tokio::spawn(serve(stream)));
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(2048);
    while stream.read_buf(&mut read).await? > 0 {
        while let Some(head) = head_bytes(&read)? {
            read.drain(..head);
            stream.write_all(ANSWER).await?;
        }
    }
    Ok(())
}

/// The length of the complete request head at the start, if there is one.
fn head_bytes(read: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(read).map_err(io::Error::other)? {
        httparse::Status::Partial if read.len() > HEAD_BYTES => Err(io::Error::other("head too large")),
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let body = |name: &str| {
                ["content-length", "transfer-encoding"].iter().any(|b| name.eq_ignore_ascii_case(b))
            };
            if request.headers.iter().any(|header| body(header.name)) {
                return Err(io::Error::other("a request with a body"));
            }
            Ok(Some(length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_length_that_it_names() {
        let mut headers = [httparse::EMPTY_HEADER; 4];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(ANSWER).unwrap().unwrap();
        assert_eq!(ANSWER.len() - head, 128);
    }

    #[test]
    fn a_head_in_pieces_is_waited_for_and_a_body_refused() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET";
        assert_eq!(head_bytes(&head[..20]).unwrap(), None);
        assert_eq!(head_bytes(head).unwrap(), Some(27));
        assert!(head_bytes(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n").is_err());
    }
}
