//! What a connection speaks, found out from its first bytes.
//!
//! Bytes are judged as they arrive: a short first packet is not a verdict. [`Sniff::More`] means that every
//! protocol's beginning still fits. The shell around it gives up after a time, and the connection then goes on as
//! opaque.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::stream::Stream;

/// What the bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// An HTTP/1 request line.
    Http1,
    /// The preface of HTTP/2 (RFC 9113 section 3.4).
    Http2,
    /// A TLS handshake record (RFC 8446 section 5.1).
    Tls,
    /// None of them.
    Opaque,
    /// Too few bytes to tell.
    More,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is taken for HTTP/1; the longest registered one has 17 letters.
const LONGEST_METHOD: usize = 24;

/// The longest request line that is waited for.
const LONGEST_LINE: usize = 16 * 1024;

/// Judges the first bytes of a connection.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.is_empty() {
        return Sniff::More;
    }
    if bytes[0] == 0x16 {
        return match bytes.get(1..3) {
            Some([3, 0..=4]) => Sniff::Tls,
            Some(_) => Sniff::Opaque,
            None if bytes.get(1).is_some_and(|major| *major != 3) => Sniff::Opaque,
            None => Sniff::More,
        };
    }
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Sniff::Http2 } else { Sniff::More };
    }
    request_line(bytes)
}

/// A request line is `METHOD SP TARGET SP HTTP/1.x` (RFC 9112 section 3).
fn request_line(bytes: &[u8]) -> Sniff {
    let method = bytes.iter().position(|b| !is_token(*b));
    match method {
        None if bytes.len() <= LONGEST_METHOD => return Sniff::More,
        None | Some(0) => return Sniff::Opaque,
        Some(length) if length > LONGEST_METHOD || bytes[length] != b' ' => return Sniff::Opaque,
        Some(_) => {}
    }
    let line = match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => &bytes[..end],
        None if bytes.len() > LONGEST_LINE || bytes.contains(&0) => return Sniff::Opaque,
        None => return Sniff::More,
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.strip_suffix(b"HTTP/1.1").or_else(|| line.strip_suffix(b"HTTP/1.0")) {
        Some(rest) if rest.ends_with(b" ") => Sniff::Http1,
        _ => Sniff::Opaque,
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How detection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detected {
    /// The bytes tell.
    Known(Sniff),
    /// Too few bytes came in time.
    TimedOut,
    /// The peer closed without a byte.
    Closed,
}

/// Reads until the bytes tell what is spoken, at most for `patience`.
///
/// The bytes stay in the stream. A stream that ends early is judged by what came: opaque.
pub(crate) async fn detect(stream: &mut Stream, patience: Duration) -> io::Result<Detected> {
    let reading = async {
        loop {
            match sniff(stream.seen()) {
                Sniff::More => {}
                known => return Ok(Detected::Known(known)),
            }
            if stream.fill().await? == 0 {
                let silent = stream.seen().is_empty();
                return Ok(if silent { Detected::Closed } else { Detected::Known(Sniff::Opaque) });
            }
        }
    };
    timeout(patience, reading).await.unwrap_or(Ok(Detected::TimedOut))
}

/// Whether a stream begins HTTP/2, read as far as it takes to tell that from HTTP/1. `None`: it ended without a byte.
///
/// The bytes stay in the stream.
pub(crate) async fn begins_http2(stream: &mut Stream) -> io::Result<Option<bool>> {
    loop {
        let seen = stream.seen();
        if seen.starts_with(PREFACE) || !PREFACE.starts_with(seen) {
            return Ok(Some(seen.starts_with(PREFACE)));
        }
        if stream.fill().await? == 0 {
            return Ok(Some(false).filter(|_| !stream.seen().is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let cases: [(&[u8], Sniff); 12] = [
            (b"GET / HTTP/1.1\r\n", Sniff::Http1),
            (b"OPTIONS * HTTP/1.0\r\nHost: x\r\n", Sniff::Http1),
            (b"CONNECT a.b:80 HTTP/1.1\r\n", Sniff::Http1),
            (PREFACE, Sniff::Http2),
            (&[0x16, 3, 1, 0, 5], Sniff::Tls),
            (&[0x16, 9, 1], Sniff::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Sniff::Opaque),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Sniff::Opaque),
            (b"EHLO example.com\r\n", Sniff::Opaque),
            (b"GET / HTTP/3\r\n", Sniff::Opaque),
            (b"PRI * HTTP/1.1\r\n", Sniff::Http1),
            (b"", Sniff::More),
        ];
        for (bytes, verdict) in cases {
            assert_eq!(sniff(bytes), verdict, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_split_beginning_is_never_judged_early() {
        for whole in [&b"GET /a/long/path?x=y HTTP/1.1\r\n"[..], PREFACE, &[0x16, 3, 3]] {
            for cut in 0..whole.len() {
                let early = sniff(&whole[..cut]);
                assert!(early == Sniff::More || early == sniff(whole), "{cut} of {whole:?}: {early:?}");
            }
        }
    }
}
