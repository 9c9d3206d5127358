//! A thread of its own for one part of the mesh.
//!
//! The control plane, the applications and the test's clients each run on their own current-thread runtime, so
//! that a busy one does not distort what is measured of another, as it would not if each were a process.

use std::future::Future;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A runtime on a thread; dropping it cancels everything that runs there.
#[derive(Debug)]
pub struct Host {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Host {
    /// Starts the thread.
    pub fn start(name: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Ends when told to, or when the sender is gone: both mean stop.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })
            .expect("a thread can be started");
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    /// Where to spawn what should outlive a borrow of the host.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs the future there and waits for its value here. A panic there is a panic here.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle.spawn(future).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already said so.
            let _ = thread.join();
        }
    }
}
