//! The applications behind the subject: HTTP/1.1, HTTP/2 and opaque bytes, each as cheap as can be.
//!
//! All three run on one thread, since only one of them is asked at a time; they share the machine with what is
//! measured, and whatever they use is missing there.

use std::future::Future;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::subject::Upstreams;

pub(crate) mod bytes;
mod http1;
mod http2;

/// The servers, on a thread of their own; dropping it stops them.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Where HTTP/1.1 is served.
    pub(crate) http1: SocketAddr,
    /// Where HTTP/2 is served, by prior knowledge.
    pub(crate) http2: SocketAddr,
    /// Where bytes are sent, taken and echoed: see [`bytes`].
    pub(crate) tcp: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts them on free ports of loopback.
    ///
    /// # Errors
    /// There is no port or no thread to be had.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let bind = || runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).context("no port for the server");
        let listeners = [bind()?, bind()?, bind()?];
        let [http1, http2, tcp] = [0, 1, 2].map(|number: usize| listeners[number].local_addr());
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            let [first, second, third] = listeners;
            runtime.block_on(async {
                tokio::select! {
                    () = accept(first, http1::serve) => {}
                    () = accept(second, http2::serve) => {}
                    () = accept(third, bytes::serve) => {}
                    // Told to stop, or nobody is left to tell.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { http1: http1?, http2: http2?, tcp: tcp?, stop: Some(stop), thread: Some(thread) })
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Upstreams {
        Upstreams { http1: self.http1, http2: self.http2, tcp: self.tcp }
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

async fn accept<F, T>(listener: TcpListener, serve: fn(TcpStream) -> F)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    loop {
        // An error is that of a connection that was gone before it was accepted.
        if let Ok((stream, _)) = listener.accept().await {
            // The caller sees how its connection ended, and counts it.
            drop(tokio::spawn(serve(stream)));
        }
    }
}
