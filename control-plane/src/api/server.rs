//! The listener of the REST API: bounded in connections, in the time a head may take, and in the time to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once; more wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 256;
/// How long the head of a request may take to arrive, on an idle connection too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection takes new requests.
const CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How long the last answer of a connection may take to be made and read.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests may take to finish once the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the system refused a connection, as it does when it has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled; then takes no more connections, lets requests finish for five seconds, and
/// returns.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match stream {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, router.clone(), stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "API requests were cut off by the stop");
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true); // an answer is one write either way
    let service =
        service_fn(move |request: hyper::Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Ok(result),
        () = async { tokio::select! { () = stop.cancelled() => {}, () = sleep(CONNECTION_AGE) => {} } } => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER_TIMEOUT, connection).await
        }
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an API connection broke off"),
        Err(_) => tracing::debug!("an API connection was closed because its answer was not read"),
    }
}
