//! Whom a TLS client says that it calls: the server name in its first message (RFC 6066 section 3).
//!
//! A connection that leaves the mesh where only listed hosts may be called tells no other way where it goes. Bytes are
//! judged as they arrive, and stay to be sent on: a hello may come in any number of pieces, and one that has not named its
//! server within 16 KiB names none.

use rustls::server::Acceptor;

/// The longest hello that is waited for. Post-quantum key shares make some 2 KiB of it.
const MOST_BYTES: usize = 16 * 1024;

/// What the bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// Whom it calls, in lower case.
    Named(String),
    /// It names nobody, or is no hello.
    Unnamed,
    /// Too few bytes to tell.
    More,
}

/// Reads the first bytes of a connection.
pub fn server_name(bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    // Asked after each piece, since what follows the hello would fill the acceptor's buffer.
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return name.map_or(Hello::Unnamed, Hello::Named);
            }
            Ok(None) if unread.is_empty() && bytes.len() <= MOST_BYTES => return Hello::More,
            Ok(None) if acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) => {}
            Ok(None) | Err(_) => return Hello::Unnamed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// The first message of a client that calls `name`.
    fn hello(name: &str, change: impl FnOnce(&mut ClientConfig)) -> Vec<u8> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        change(&mut config);
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn named(name: &str) -> Hello {
        Hello::Named(name.to_owned())
    }

    #[test]
    fn a_hello_that_comes_in_pieces_is_read_when_it_is_whole() {
        let bytes = hello("API.example.com", |_| {});
        for end in 0..bytes.len() {
            assert_eq!(server_name(&bytes[..end]), Hello::More, "{end} of {} bytes", bytes.len());
        }
        assert_eq!(server_name(&bytes), named("api.example.com"));
        let more = [&bytes[..], &[0x17; 100_000]].concat();
        assert_eq!(server_name(&more), named("api.example.com"), "what follows does not matter");
    }

    #[test]
    fn a_hello_in_many_records_is_read_too() {
        let bytes = hello("api.example.com", |_| {});
        let (head, message) = bytes.split_at(5);
        let records = message.chunks(100).flat_map(|piece| {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&head[..3], &length, piece].concat()
        });
        assert_eq!(server_name(&records.collect::<Vec<u8>>()), named("api.example.com"));
    }

    #[test]
    fn who_calls_an_address_or_keeps_it_secret_names_nobody() {
        assert_eq!(server_name(&hello("192.0.2.7", |_| {})), Hello::Unnamed);
        assert_eq!(
            server_name(&hello("api.example.com", |config| config.enable_sni = false)),
            Hello::Unnamed
        );
    }

    #[test]
    fn what_is_too_long_is_not_waited_for() {
        let long = |config: &mut ClientConfig| config.alpn_protocols = vec![vec![b'a'; 200]; 150];
        let bytes = hello("api.example.com", long);
        assert!(bytes.len() > MOST_BYTES + 4096, "{}", bytes.len());
        assert_eq!(server_name(&bytes[..MOST_BYTES]), Hello::More);
        assert_eq!(server_name(&bytes[..=MOST_BYTES]), Hello::Unnamed);
    }

    #[test]
    fn what_is_no_hello_names_nobody() {
        let whole = hello("api.example.com", |_| {});
        let mut other_message = whole.clone();
        other_message[5] = 2; // a server's
        let mut long_name = whole.clone();
        let at = whole.windows(3).position(|window| window == b"api").unwrap();
        long_name[at - 2..at].copy_from_slice(&u16::MAX.to_be_bytes());
        let mut no_name = whole.clone();
        no_name[at..at + 3].copy_from_slice(b"\xff\0 ");
        for (bytes, what) in [
            (&b"GET / HTTP/1.1\r\nhost: api.example.com\r\n\r\n"[..], "HTTP"),
            (&[0x16; 64], "noise"),
            (b"\x16\x03\x01\x00\x00", "an empty record"),
            (b"\x15\x03\x01\x00\x02\x02\x28", "an alert"),
            (&other_message, "another message"),
            (&long_name, "a name that is longer than the message"),
            (&no_name, "a name of other bytes than names have"),
        ] {
            assert_eq!(server_name(bytes), Hello::Unnamed, "{what}");
        }
    }
}
