//! The application of HTTP/1.1: a server that does as little as one can.
//!
//! It shares the machine with what is measured, so it parses the head with `httparse`, writes one of a few fixed answers
//! and has no timers. It is no server for anything but this: a request with a body is refused.

use std::io;
use std::sync::LazyLock;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The answer to every request for a path of which nothing else is said: 128 bytes, the size of a small JSON object.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 128\r\n\r\n\
the mesh carries this to and fro: sixteen words on one line, so that an answer has the size of a usual small one, 128 bytes.....";

/// Paths with answers of another size, bytes.
const SIZES: [(&str, usize); 2] = [("/bytes/100", 100), ("/bytes/10240", 10_240)];

static SIZED: LazyLock<[(&str, Vec<u8>); 2]> = LazyLock::new(|| {
    SIZES.map(|(path, size)| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n");
        (path, [head.into_bytes(), vec![b'.'; size]].concat())
    })
});

/// A request head beyond this is not one of ours.
const HEAD_BYTES: usize = 16 * 1024;

/// Answers the requests of one connection, until it ends.
pub(super) async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(2048);
    while stream.read_buf(&mut read).await? > 0 {
        while let Some((head, answer)) = first_request(&read)? {
            read.drain(..head);
            stream.write_all(answer).await?;
        }
    }
    Ok(())
}

/// The length of the complete request head at the start, if there is one, and what to answer.
fn first_request(read: &[u8]) -> io::Result<Option<(usize, &'static [u8])>> {
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
            let sized = SIZED.iter().find(|(path, _)| request.path == Some(path));
            Ok(Some((length, sized.map_or(ANSWER, |(_, answer)| answer))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_bytes(answer: &[u8]) -> usize {
        let mut headers = [httparse::EMPTY_HEADER; 4];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(answer).unwrap().unwrap();
        let named = std::str::from_utf8(response.headers[1].value).unwrap();
        assert_eq!(named, (answer.len() - head).to_string());
        answer.len() - head
    }

    #[test]
    fn answers_have_the_length_that_they_name_and_the_path_asks_for() {
        let answer =
            |path: &str| first_request(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().unwrap().1;
        assert_eq!(body_bytes(answer("/")), 128);
        assert_eq!(body_bytes(answer("/bytes/100")), 100);
        assert_eq!(body_bytes(answer("/bytes/10240")), 10_240);
    }

    #[test]
    fn a_head_in_pieces_is_waited_for_and_a_body_refused() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET";
        assert!(first_request(&head[..20]).unwrap().is_none());
        assert_eq!(first_request(head).unwrap().unwrap().0, 27);
        assert!(first_request(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n").is_err());
    }
}
