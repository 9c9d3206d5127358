//! Applications that speak no HTTP.

use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::App;

/// Sends back what it gets, and ends its side when the caller has ended the other: half-close, both ways.
pub fn echo() -> App {
    App::new(|mut accepted| async move {
        let (mut read, mut write) = accepted.stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    })
}

/// Reads to the caller's half-close, and only then answers with the number of bytes it got.
pub fn counting() -> App {
    App::new(|mut accepted| async move {
        let mut total = 0u64;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match accepted.stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(n) => total += n as u64,
                Err(_) => return,
            }
        }
        let _ = accepted.stream.write_all(total.to_string().as_bytes()).await;
        let _ = accepted.stream.shutdown().await;
    })
}

/// Speaks first: a banner, then an echo of each line.
pub fn greeting(banner: &'static str) -> App {
    App::new(move |mut accepted| async move {
        if accepted.stream.write_all(banner.as_bytes()).await.is_err() {
            return;
        }
        let (mut read, mut write) = accepted.stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    })
}

/// Accepts, reads the first bytes and resets the connection.
pub fn resetting() -> App {
    App::new(|mut accepted| async move {
        let mut buffer = [0; 1024];
        let Ok(n) = accepted.stream.read(&mut buffer).await else { return };
        if n > 0 {
            accepted.record.begin();
            let _ = SockRef::from(&accepted.stream).set_linger(Some(Duration::ZERO));
        }
    })
}

/// Sends these bytes for whatever it is sent, then closes: for answers that no HTTP library would write.
pub fn replying(bytes: &'static [u8]) -> App {
    App::new(move |mut accepted| async move {
        let mut buffer = [0; 16 * 1024];
        let Ok(n) = accepted.stream.read(&mut buffer).await else { return };
        if n > 0 {
            accepted.record.begin();
            let _ = accepted.stream.write_all(bytes).await;
            let _ = accepted.stream.shutdown().await;
            // Reading to the end keeps the kernel from answering unread bytes with a reset.
            while matches!(accepted.stream.read(&mut buffer).await, Ok(n) if n > 0) {}
        }
    })
}
