//! Switching protocols: WebSocket and whatever else an HTTP connection turns into (RFC 9110 section 7.8, RFC 8441).
//!
//! Once both sides have agreed, the proxy carries bytes and reads none of them.

use std::rc::Rc;

use http::{Method, Response, StatusCode, response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::time::Instant;

use crate::body::Body;
use crate::bulkhead::Permit;
use crate::flight::Hold;
use crate::session::Session;
use crate::stream::Stream;
use crate::tunnel::{self, Carried};
use crate::worker::Worker;

/// Whether an answer to `method` agrees to switch.
pub(crate) fn agreed(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (method == Method::CONNECT && status.is_success())
}

/// Passes the agreement on, and carries what follows in a task of its own, which keeps `permit`: the request's place
/// in its service's bulkhead.
pub(crate) fn switch(
    worker: &Rc<Worker>,
    session: &Session,
    caller: OnUpgrade,
    mut head: response::Parts,
    hold: Hold,
    permit: Option<Permit>,
) -> Response<Body> {
    if let Some(strict) = &session.strict {
        strict.pass_through(); // what follows is no longer HTTP
    }
    if let Some(upstream) = head.extensions.remove::<OnUpgrade>() {
        let idle = worker.config.limits.tcp_idle;
        let began = Instant::now();
        worker.detach(async move {
            let _held = (hold, permit);
            let (caller, upstream) = match both(caller, upstream).await {
                Ok(streams) => streams,
                Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
            };
            let mut carried = Carried::default();
            let ended = tunnel::carry(Stream::from(caller), Stream::from(upstream), idle, &mut carried).await;
            tracing::debug!(
                up = carried.up,
                down = carried.down,
                seconds = began.elapsed().as_secs_f64(),
                error = ended.err().map(tracing::field::display),
                "upgraded connection ended"
            );
        });
    }
    Response::from_parts(head, Body::Empty)
}

async fn both(caller: OnUpgrade, upstream: OnUpgrade) -> hyper::Result<(Upgraded, Upgraded)> {
    // The upstream has switched already; the caller does when the answer has been written.
    tokio::try_join!(caller, upstream)
}
