//! Kept-alive HTTP/1 connections to one address, as any client library keeps them.
//!
//! Single-threaded, like everything in the demo's programs. An answer is read whole and bounded; a request that
//! takes longer than [`ANSWER_TIMEOUT`] is given up.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// How long an answer may take; the demo promises far less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;
/// How many connections wait for their next request.
const IDLE_LIMIT: usize = 512;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer within {} s", ANSWER_TIMEOUT.as_secs())]
    TooLate,
}

/// Connections to one address; clones share them.
#[derive(Clone)]
pub(crate) struct Connections {
    address: SocketAddr,
    idle: Rc<RefCell<Vec<SendRequest<Empty<Bytes>>>>>,
}

impl Connections {
    /// No connection yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Rc::default() }
    }

    /// Sends the request on a waiting connection, or on a new one, and reads the whole answer.
    ///
    /// # Errors
    /// No connection, one that breaks, or no answer in time.
    pub(crate) async fn send(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(response::Parts, Bytes), SendError> {
        timeout(ANSWER_TIMEOUT, self.exchange(request)).await.unwrap_or(Err(SendError::TooLate))
    }

    async fn exchange(&self, request: Request<Empty<Bytes>>) -> Result<(response::Parts, Bytes), SendError> {
        let mut connection = self.connection().await?;
        let broken = |error: &dyn std::fmt::Display| SendError::Broken(error.to_string());
        let response = connection.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await.map_err(|e| broken(&e))?.to_bytes();
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_LIMIT {
            idle.push(connection);
        }
        Ok((head, body))
    }

    async fn connection(&self) -> Result<SendRequest<Empty<Bytes>>, SendError> {
        loop {
            let waiting = self.idle.borrow_mut().pop();
            match waiting {
                Some(connection) if connection.is_closed() => {}
                Some(mut connection) => {
                    if connection.ready().await.is_ok() {
                        return Ok(connection);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, SendError> {
        let stream = TcpStream::connect(self.address).await.map_err(SendError::Connect)?;
        // A failure to set it costs latency, not correctness.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| SendError::Broken(error.to_string()))?;
        // Its errors reach whoever waits for the answer.
        spawn_local(connection);
        Ok(sender)
    }
}
