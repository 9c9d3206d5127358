//! Connections to the application that nobody reads: what the caller's proxy took for opaque.
//!
//! That is the caller's word, and it must not be the way around what is asked of requests, nor to claim another's name in
//! a field that the application believes. So a port that is declared to speak HTTP takes no such connection; and where that is
//! found out, whatever looks like a request to the most generous of servers is served as HTTP if a connection begins
//! with it, and ends one that comes to it later.

use std::rc::Rc;

use tokio::select;
use tokio::time::{Instant, sleep};

use crate::application::Application;
use crate::failure::{Failure, Side};
use crate::gate::{self, Admission};
use crate::metrics::Wire;
use crate::session::{self, Destination, Session};
use crate::snapshot::Protocol;
use crate::stream::Stream;
use crate::suspicion::{Suspicion, Verdict};
use crate::tunnel::{self, Carried};
use crate::worker::Worker;

/// The beginning of the preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Carries a connection to the application, or serves it as what it is.
pub(crate) async fn serve(worker: Rc<Worker>, session: Session, mut caller: Stream) {
    let Destination::Own(port) = session.destination else { return };
    let Some(application) = worker.applications.get(&port) else { return };
    let began = Instant::now();
    let (service, peer) = (worker.config.service.clone(), session.identity.clone());
    let count = || {
        let metrics = &worker.recorder.metrics;
        metrics.tcp_opened(Side::Inbound, service.as_ref(), port, peer.as_ref(), peer.is_some())
    };
    let protocol = protocol(&worker, application);
    if let Err(failure) = admit(&worker, &session, port, protocol) {
        return count().closed(began.elapsed(), Some(failure));
    }
    let session = Rc::new(session);
    let mut admission = Admission::new(&worker, &session, port, None);
    let mut far = match Application::connect(application.address).await {
        Ok(far) => far,
        Err(failure) => {
            let address = application.address;
            tracing::warn!(%address, error = failure.name(), "the application cannot be reached");
            return count().closed(began.elapsed(), Some(failure));
        }
    };
    let idle = worker.config.limits.tcp_idle;
    let suspicion = (protocol == Protocol::Detect).then(Suspicion::default);
    if let Some(suspicion) = &suspicion {
        // An application that speaks first speaks no HTTP, but whoever calls may still try.
        select! {
            _ = caller.fill() => {}
            _ = far.fill() => {}
            () = sleep(idle) => return count().closed(began.elapsed(), Some(Failure::UpstreamReset)),
            policy = admission.refused(&worker, None) => {
                gate::tell_revoked(&worker, &session, port, &policy);
                return count().closed(began.elapsed(), Some(Failure::Denied));
            }
        }
        // A copy looks: what is carried is looked at again, on its way.
        if suspicion.clone().look(caller.seen()) == Verdict::Http {
            drop((far, admission));
            let Some(session) = Rc::into_inner(session) else { return };
            return serve_http(worker.clone(), session, caller).await;
        }
    }
    let _open = worker.count_accepted(Side::Inbound, Wire::Tcp, peer.is_some());
    let counted = count();
    let mut carried = Carried::default();
    let failure = select! {
        ended = tunnel::carry(caller, far, idle, suspicion, &mut carried) => {
            ended.err().map(|error| fault(&session, port, &error))
        }
        policy = admission.refused(&worker, None) => {
            gate::tell_revoked(&worker, &session, port, &policy);
            Some(Failure::Denied)
        }
    };
    counted.read(carried.up);
    counted.written(carried.down);
    counted.closed(began.elapsed(), failure);
}

/// What is spoken on a port: what the control plane says, and where that leaves it open, what was registered.
fn protocol(worker: &Worker, application: &Application) -> Protocol {
    let snapshot = worker.snapshots.current();
    match snapshot.inbound.port(application.port).map(|port| port.protocol) {
        None | Some(Protocol::Detect) => application.protocol,
        Some(declared) => declared,
    }
}

/// Whether a connection that nobody reads may pass.
///
/// # Errors
/// [`Failure::Denied`]: the rules say so, or ask for what such a connection cannot show.
fn admit(worker: &Rc<Worker>, session: &Session, port: u16, protocol: Protocol) -> Result<(), Failure> {
    if matches!(protocol, Protocol::Http1 | Protocol::Http2) {
        let reason = "the port speaks HTTP, and it would pass unread";
        gate::tell_refused(session, port, reason);
        return Err(Failure::Denied);
    }
    let snapshot = worker.snapshots.current();
    snapshot.inbound.port(port).map_or(Ok(()), |port| gate::admit_connection(worker, session, port))
}

async fn serve_http(worker: Rc<Worker>, session: Session, caller: Stream) {
    if caller.seen().starts_with(HTTP2) {
        session::serve_http2(worker, session, caller).await;
    } else {
        session::serve_http1(worker, session, caller).await;
    }
}

/// Why a connection ended that was let in.
fn fault(session: &Session, port: u16, error: &std::io::Error) -> Failure {
    if !tunnel::is_suspect(error) {
        return Failure::UpstreamReset;
    }
    gate::tell_refused(session, port, "what was opaque became HTTP");
    Failure::Denied
}
