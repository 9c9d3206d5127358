//! How a worker finds a service that its snapshot does not hold yet.
//!
//! A proxy learns of a service when its workload first calls it. The first request asks here and waits, the
//! control plane is asked once however many wait, and every later request finds the service in its snapshot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::control::counters::Counters;
use crate::snapshot::{Service, Snapshot, Snapshots};

/// A request waits this long for a service that it is the first to call.
const WAIT: Duration = Duration::from_secs(2);
/// Questions on their way to the control thread.
pub(crate) const ASKS: usize = 1024;

/// Why there is no service to answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The control plane knows no such service.
    #[error("there is no such service")]
    Missing,
    /// The control plane has not answered in time, or too many wait for it.
    #[error("the control plane has not said whether there is such a service")]
    Unavailable,
    /// The mesh allows no calls to hosts that no document lists.
    #[error("the mesh allows no calls to hosts that no document lists")]
    NotAllowed,
}

/// The answer to one question.
pub(crate) type Answer = Result<Arc<Service>, Unresolved>;

/// One question for the control thread.
#[derive(Debug)]
pub(crate) enum Ask {
    Name(ServiceName, oneshot::Sender<Answer>),
    Address(SocketAddr, oneshot::Sender<Answer>),
    /// A host outside the mesh, in lower case, and its port.
    Host(Arc<str>, u16, oneshot::Sender<Answer>),
}

/// Resolves names and addresses to services. Cheap to clone; one in every worker.
#[derive(Debug, Clone)]
pub struct Directory {
    snapshots: Snapshots,
    asks: mpsc::Sender<Ask>,
    counters: Arc<Counters>,
}

impl Directory {
    pub(crate) fn new(snapshots: Snapshots, asks: mpsc::Sender<Ask>, counters: Arc<Counters>) -> Self {
        Self { snapshots, asks, counters }
    }

    /// The service called `name`.
    ///
    /// Answers from the newest snapshot if it can. Dropping the future leaves the service subscribed to, which
    /// is undone when nobody uses it.
    ///
    /// # Errors
    /// There is no such service, or no answer within two seconds.
    pub async fn resolve(&self, name: &ServiceName) -> Result<Arc<Service>, Unresolved> {
        match find_name(&self.snapshots.current(), name) {
            Some(answer) => answer,
            None => self.ask(|reply| Ask::Name(name.clone(), reply)).await,
        }
    }

    /// The service that `address` leads to, for traffic that was redirected.
    ///
    /// # Errors
    /// No service has this address, or there is no answer within two seconds.
    pub async fn resolve_address(&self, address: SocketAddr) -> Result<Arc<Service>, Unresolved> {
        match find_address(&self.snapshots.current(), address) {
            Some(service) => Ok(service),
            None => self.ask(|reply| Ask::Address(address, reply)).await,
        }
    }

    /// The service that stands for `host` at `port`: one that lists it, or one made for it where the mesh allows that.
    ///
    /// # Errors
    /// The host may not be called, or there is no answer within two seconds.
    pub async fn resolve_host(&self, host: &str, port: u16) -> Result<Arc<Service>, Unresolved> {
        match find_host(&self.snapshots.current(), host, port) {
            Some(service) => Ok(service),
            None => self.ask(|reply| Ask::Host(host.into(), port, reply)).await,
        }
    }

    async fn ask(&self, question: impl FnOnce(oneshot::Sender<Answer>) -> Ask) -> Answer {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(question(reply)).is_err() {
            Counters::add(&self.counters.asks_refused);
            return Err(Unresolved::Unavailable);
        }
        match timeout(WAIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Unresolved::Unavailable),
        }
    }
}

/// What `snapshot` knows of `name`.
pub(crate) fn find_name(snapshot: &Snapshot, name: &ServiceName) -> Option<Answer> {
    if let Some(service) = snapshot.services.get(name) {
        return Some(Ok(service.clone()));
    }
    snapshot.missing.contains_key(name).then_some(Err(Unresolved::Missing))
}

/// The service that `snapshot` has at `address`.
pub(crate) fn find_address(snapshot: &Snapshot, address: SocketAddr) -> Option<Arc<Service>> {
    snapshot.services.get(snapshot.addresses.get(&address.ip())?).cloned()
}

/// The service that stands for `host` in `snapshot`.
pub(crate) fn find_host(snapshot: &Snapshot, host: &str, port: u16) -> Option<Arc<Service>> {
    let known = snapshot.hosts.get(host)?;
    let unlisted = || known.unlisted.iter().find(|(number, _)| *number == port).map(|(_, name)| name);
    snapshot.services.get(known.listed.as_ref().or_else(unlisted)?).cloned()
}
