//! Two opaque TCP streams, one each way, as fast as they go.
//!
//! One is all download and one is all upload, so that both proxies encrypt as much as they decrypt. Each asks the
//! server for one stretch after another (see `upstream::bytes`), the next before the last is finished, and checks that
//! every stretch has the length that was agreed and the bytes that belong there.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http1::{connect, patiently};
use super::{Load, Recorder, all};
use crate::upstream::bytes::{CHUNK_BYTES, Command, Pattern};

/// One stretch: some milliseconds at the speed of memory.
const STRETCH_BYTES: u64 = 16 << 20;

/// Moves bytes through this address until it is stopped.
///
/// # Errors
/// No thread can be made; whatever fails later is told when the load is stopped.
pub(crate) fn bulk(address: SocketAddr) -> Result<Load> {
    Load::start(move |recorder| async move {
        let mut running = JoinSet::new();
        running.spawn_local(download(address, Rc::clone(&recorder)));
        running.spawn_local(upload(address, recorder));
        all(running, "streams").await
    })
}

async fn download(address: SocketAddr, recorder: Rc<Recorder>) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    stream.write_all(&Command::Send(STRETCH_BYTES).bytes()).await?;
    let mut more = true;
    while more {
        more = !recorder.stopping();
        if more {
            // Asked for in advance, so that the server never waits for a question.
            stream.write_all(&Command::Send(STRETCH_BYTES).bytes()).await?;
        }
        read_stretch(&mut stream, &mut chunk, &recorder).await?;
    }
    Ok(())
}

async fn read_stretch(stream: &mut TcpStream, chunk: &mut [u8], recorder: &Recorder) -> io::Result<()> {
    let mut position = 0;
    while position < STRETCH_BYTES {
        let left = usize::try_from(STRETCH_BYTES - position).unwrap_or(usize::MAX).min(chunk.len());
        let read = patiently(stream.read(&mut chunk[..left])).await?;
        if read == 0 {
            return Err(io::Error::other(format!("closed after {position} of {STRETCH_BYTES} bytes")));
        }
        Pattern::check(&chunk[..read], position)?;
        position += read as u64;
        recorder.add(read as u64);
    }
    Ok(())
}

async fn upload(address: SocketAddr, recorder: Rc<Recorder>) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let pattern = Pattern::new();
    let mut unconfirmed = 0;
    while !recorder.stopping() {
        stream.write_all(&Command::Take(STRETCH_BYTES).bytes()).await?;
        let mut position = 0;
        while position < STRETCH_BYTES {
            let written = patiently(stream.write(pattern.from(position, STRETCH_BYTES))).await?;
            position += written as u64;
            recorder.add(written as u64);
        }
        unconfirmed += 1;
        if unconfirmed > 1 {
            confirm(&mut stream).await?;
            unconfirmed -= 1;
        }
    }
    for _ in 0..unconfirmed {
        confirm(&mut stream).await?;
    }
    Ok(())
}

async fn confirm(stream: &mut TcpStream) -> io::Result<()> {
    let taken = patiently(stream.read_u64()).await?;
    if taken != STRETCH_BYTES {
        return Err(io::Error::other(format!("{taken} of {STRETCH_BYTES} bytes arrived")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn both_streams_move_whole_stretches() {
        let upstream = Upstream::start().unwrap();
        let load = bulk(upstream.tcp).unwrap();
        let began = Instant::now();
        while load.done() < 4 * STRETCH_BYTES && !load.has_ended() {
            assert!(began.elapsed() < Duration::from_secs(20), "{} bytes", load.done());
            thread::sleep(Duration::from_millis(1));
        }
        load.stop().unwrap();
    }

    #[test]
    fn a_server_that_sends_something_else_is_found_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            use std::io::Write as _;
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                // The other stream is the upload, and nobody reads it.
                let _ = stream.write_all(&[7; 1024]);
            }
        });
        let load = bulk(address).unwrap();
        server.join().unwrap();
        let text = load.stop().unwrap_err().to_string();
        assert!(text.contains("streams failed"), "{text}");
    }
}
