//! Whether bytes that nobody reads begin with an HTTP request after all.
//!
//! [`detect`](crate::detect) takes for HTTP what RFC 9112 calls a request line, and leaves everything else alone. Servers
//! are more generous: they skip what stands before the line, split it at whatever their language calls a space, take any
//! version and any method, or answer a line without a version. Whoever wants to pass HTTP by the proxy has all of their
//! servers' generosity to choose from, so this has more: a line of two words or more is a request if it names a version of
//! HTTP or ends in any version, if the second word is a path or a URI, or if the first is a method of HTTP.

/// What has been seen of a connection so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspicion(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the line; `lines`: something that ends one has come.
    Before { lines: bool },
    /// In the first word, of which the first letters are kept.
    Word { start: [u8; 7], length: usize },
    /// Behind the first word.
    Rest {
        first: First,
        /// So much of `HTTP/` has come.
        matched: usize,
        /// So much of `://` has come.
        authority: usize,
        /// Something has come that is no space.
        target: bool,
        last: Last,
    },
    /// The line is over, or the bytes are no text.
    Ended(Verdict),
}

/// How far the last word of a line is a version, `NAME/1.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Between,
    Name,
    Slash,
    Major,
    Dot,
    Version,
    /// A whole version, and spaces behind it.
    Behind,
}

/// What the first word of a line may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// A method of HTTP that is answered without a version by some.
    Method,
    /// Behind the line that a load balancer puts before a request (PROXY protocol, version 1) comes the request.
    Proxy,
    Other,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Http,
    Other,
    /// Too few to tell.
    Open,
}

const VERSION: &[u8] = b"HTTP/";
const AUTHORITY: &[u8] = b"://";

/// Of RFC 9110 and RFC 5789, but for CONNECT, which others begin with, too.
const METHODS: [&[u8]; 8] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"];

impl Default for Suspicion {
    fn default() -> Self {
        Self(State::Before { lines: false })
    }
}

impl Suspicion {
    /// Looks at the next bytes. Once it has said something else than [`Verdict::Open`], it says so for ever.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Verdict {
        for &byte in bytes {
            if let State::Ended(verdict) = self.0 {
                return verdict;
            }
            self.0 = self.0.after(byte);
        }
        match self.0 {
            State::Ended(verdict) => verdict,
            _ => Verdict::Open,
        }
    }
}

impl State {
    fn after(self, byte: u8) -> Self {
        let ends_line = matches!(byte, b'\r' | b'\n');
        match self {
            // The signature of the PROXY protocol, version 2.
            Self::Before { lines: true } if byte == 0 => Self::Ended(Verdict::Http),
            Self::Before { lines } if is_space(byte) => Self::Before { lines: lines || ends_line },
            // Some servers skip control characters, too.
            Self::Before { .. } if is_binary(byte) => self,
            Self::Before { .. } => Self::Word { start: [byte, 0, 0, 0, 0, 0, 0], length: 1 },
            Self::Word { .. } if byte == b'\n' || is_binary(byte) => Self::Ended(Verdict::Other),
            Self::Word { start, length } if is_space(byte) => {
                let first = match start.get(..length) {
                    Some(word) if METHODS.iter().any(|method| word.eq_ignore_ascii_case(method)) => {
                        First::Method
                    }
                    Some(b"PROXY") => First::Proxy,
                    _ => First::Other,
                };
                Self::Rest { first, matched: 0, authority: 0, target: false, last: Last::Between }
            }
            Self::Word { mut start, length } => {
                if let Some(place) = start.get_mut(length) {
                    *place = byte;
                }
                Self::Word { start, length: length.saturating_add(1) }
            }
            Self::Rest { first: First::Method, target: true, .. } if ends_line => Self::Ended(Verdict::Http),
            Self::Rest { first: First::Proxy, .. } if byte == b'\n' => Self::Before { lines: false },
            Self::Rest { last: Last::Version | Last::Behind, .. } if byte == b'\n' => {
                Self::Ended(Verdict::Http)
            }
            Self::Rest { .. } if byte == b'\n' => Self::Ended(Verdict::Other),
            Self::Rest { target: false, .. } if byte == b'/' => Self::Ended(Verdict::Http),
            Self::Rest { first, matched, authority, target, last } => {
                let matched = match byte.to_ascii_uppercase() {
                    upper if upper == VERSION[matched] => matched + 1,
                    b'H' => 1,
                    _ => 0,
                };
                let authority = match byte {
                    _ if byte == AUTHORITY[authority] => authority + 1,
                    b':' => 1,
                    _ => 0,
                };
                if matched == VERSION.len() || authority == AUTHORITY.len() {
                    return Self::Ended(Verdict::Http);
                }
                let (target, last) = (target || !is_space(byte), last.after(byte));
                Self::Rest { first, matched, authority, target, last }
            }
            Self::Ended(_) => self,
        }
    }
}

impl Last {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Version | Self::Behind, _) if is_space(byte) => Self::Behind,
            (_, _) if is_space(byte) => Self::Between,
            (Self::Name | Self::Slash | Self::Major | Self::Dot | Self::Version, b'/') => Self::Slash,
            (Self::Slash | Self::Major, b'0'..=b'9') => Self::Major,
            (Self::Major, b'.') => Self::Dot,
            (Self::Dot | Self::Version, b'0'..=b'9') => Self::Version,
            _ => Self::Name,
        }
    }
}

/// What some language splits a line at: also the separators of ASCII and of Latin-1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=b' ' | 0x85 | 0xa0)
}

/// What no method begins with or holds.
fn is_binary(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0e..=0x1b | 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::detect::{Sniff, sniff};

    proptest! {
        #[test]
        fn what_is_detected_as_http_is_suspect(text in r"[\r\n A-Z]{0,9}[ -~]{0,9} ?HTTP/[12]\.[01]\r\n") {
            if matches!(sniff(text.as_bytes()), Sniff::Http1 | Sniff::Http2) {
                prop_assert_eq!(Suspicion::default().look(text.as_bytes()), Verdict::Http);
            }
        }
    }

    #[test]
    fn whatever_some_server_takes_for_a_request_is_one() {
        let long = [b"GET /".as_slice(), &[b'a'; 70_000], b" HTTP/1.1\r\n"].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"GET / HTTP/1.9\r\n",
            b"GET / HTTP/1.1 \r\n",
            b"get\t/\thttp/1.1\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b"  \x85GET\xa0/\x1cHTTP/1.1\r\n",
            b"GET /\0 HTTP/1.1\r\n",
            b"A \r HTTP/1.0\r\n",
            b"GET\r/ HTTP/1.1\r\n",
            b"GET / HHTTP/1.1\r\n",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n",
            b"\xc3\xa4 / HTTP/1.1",
            b"{} / HTTP/1.1",
            b"PRI * HTTP/2.0\r\n",
            b"GET /\r\n",
            b"GET /\r",
            b"get x\n",
            b"POST a\r\n",
            b"\r\nPUT /b\r\n",
            b"OPTIONS *\r\n",
            b"COPY /a\r\n",
            b"POST d XTTP/1.1\r\n",
            b"DESCRIBE rtsp://a.example/b RTSP/1.0\r\n",
            b"A b C/D/10.01 \r\n",
            b"\0POST /d HTTP/1.1\r\n",
            b"\x01\x02DELETE /x HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21",
            &long,
        ] {
            let mut whole = Suspicion::default();
            assert_eq!(whole.look(bytes), Verdict::Http, "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(whole.look(b"\0\r\n"), Verdict::Http, "a verdict stays");
            let mut pieces = Suspicion::default();
            let last =
                bytes.iter().map(|byte| pieces.look(&[*byte])).find(|verdict| *verdict != Verdict::Open);
            assert_eq!(last, Some(Verdict::Http), "{:?} in pieces", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn other_protocols_are_left_alone() {
        for bytes in [
            &b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$16\r\nGET / HTTP/1.1\r\n"[..],
            b"PING\r\n",
            b"SET a b\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03zq",
            b"AMQP\0\0\x09\x01",
            b"SSH-2.0-client 1\r\n",
            b"EHLO example.com\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c",
            b"STATS a/1 b/1. c 1.1\r\n",
        ] {
            let mut suspicion = Suspicion::default();
            assert_eq!(suspicion.look(bytes), Verdict::Other, "{:?}", String::from_utf8_lossy(bytes));
            assert_eq!(suspicion.look(b"GET / HTTP/1.1\r\n"), Verdict::Other, "a verdict stays");
        }
    }

    #[test]
    fn what_may_still_become_one_is_left_open() {
        for bytes in [&b""[..], b"\r\n", b"\0\0", b"GET", b"GET a", b"hello", b"{\"id\": 1}", b"GET a HTTP"] {
            assert_eq!(Suspicion::default().look(bytes), Verdict::Open);
        }
    }
}
