//! The mesh as the control plane knows it now: documents, registrations, streams and traffic, in one place.
//!
//! The streams of the proxies report to it and draw from it (`push`); the REST API shows it. One
//! task, `Mesh::run`, turns what changed into what has to be told: it lets a burst gather, writes new registrations
//! down, compiles again what depends on the change, and wakes the streams of those who use it. The cost of a
//! change is the number of proxies that use the changed thing.
//!
//! One lock guards all of it. It is held for the time of a few look-ups or compilations, never across I/O.

mod proxies;
mod publish;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use outrigger_api::{ServiceName, v1};
use outrigger_certs::{Clock, Fingerprint, SpiffeId};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::certificates::Certificates;
use crate::compile::{
    Facts, World, attached, document_status, gateway_status, mesh_settings, route_statuses,
};
use crate::discovery::journal::{Journal, JournalError};
use crate::discovery::{EndpointSet, ProxyId, RegisteredService, RegistrationError, Registry};
use crate::explain::{CompiledService, explain};
use crate::jwks::fetch::KeySets;
use crate::lease::Leases;
use crate::model::{Model, gateway_service};
use crate::push::cache::Cache;
use crate::resources::{Documents, Kind, ResourceKey};
use crate::stats::Traffic;
use crate::status::{CertificateStatus, EdgeStats, EndpointStatus, PortStatus, ProxyStatus, ServiceStatus};
use crate::transitions::Transitions;

pub(crate) use proxies::{Proxies, Session};

/// Registrations on disk, in the data directory.
const JOURNAL_FILE: &str = "registrations.db";

/// What to replace in the certificate authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The certificate that signs workloads; the root stays.
    Issuer,
    /// The root: published at once, signing once every proxy had time to learn of it.
    Root,
}

impl FromStr for Rotation {
    type Err = RotationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "issuer" => Ok(Self::Issuer),
            "root" => Ok(Self::Root),
            other => Err(RotationError::Unknown(other.chars().take(64).collect())),
        }
    }
}

/// Why nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The caller's mistake.
    #[error("{0:?} cannot be rotated: say issuer or root")]
    Unknown(String),
    /// Another rotation is under way.
    #[error("{0}")]
    Busy(String),
    /// The authority could not do it now.
    #[error("the certificate authority could not rotate: {0}")]
    Authority(String),
}

/// How long a registration outlives its stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Graces {
    /// Whose stream was lost.
    pub(crate) lost: Duration,
    /// Whose stream ended because the control plane did.
    pub(crate) restarted: Duration,
}

impl Graces {
    /// After a restart three times the usual grace, and half a minute at least: a proxy that has been trying for long
    /// waits many seconds before it tries again.
    pub(crate) fn new(lost: Duration) -> Self {
        Self { lost, restarted: (lost * 3).max(Duration::from_secs(30)) }
    }
}

/// The mesh as it is now. Shared by the streams to the proxies and the REST API.
#[derive(Debug)]
pub struct Mesh {
    state: Mutex<State>,
    /// Wakes [`Mesh::run`].
    changed: Notify,
    journal: Arc<Journal>,
    certificates: Arc<Certificates>,
    documents: watch::Receiver<Arc<Documents>>,
    keys: watch::Sender<Arc<KeySets>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
pub(crate) struct State {
    model: Model,
    registry: Registry,
    /// What proxies are told of registrations: what is on disk already.
    published: HashMap<ServiceName, RegisteredService>,
    nobody: Arc<EndpointSet>,
    cache: Cache,
    settings: Arc<v1::MeshSettings>,
    bundle: Arc<v1::TrustBundle>,
    proxies: Proxies,
    traffic: Traffic,
    /// Who may use how much of the limits of the whole mesh.
    leases: Leases<ProxyId>,
    /// Since when documents' conditions are as they are.
    transitions: Transitions,
}

impl Mesh {
    /// Begins with the documents as they are and the registrations on disk. Blocks.
    ///
    /// # Errors
    /// The registrations cannot be read.
    pub(crate) fn open(
        directory: &Path,
        documents: watch::Receiver<Arc<Documents>>,
        certificates: Arc<Certificates>,
        grace: Graces,
        clock: Arc<dyn Clock>,
        now: Instant,
    ) -> Result<Self, JournalError> {
        let (journal, registered) = Journal::open(&directory.join(JOURNAL_FILE))?;
        let mut registry = Registry::new(grace.lost, grace.restarted, registered, now);
        let services = registry.take_changes().services;
        let published = services.into_iter().filter_map(|(name, service)| Some((name, service?))).collect();
        let mut model = Model::default();
        model.replace(documents.borrow().clone());
        let state = State {
            settings: Arc::new(mesh_settings(model.documents())),
            bundle: certificates.bundles().borrow().clone(),
            model,
            registry,
            published,
            nobody: Arc::default(),
            cache: Cache::default(),
            proxies: Proxies::default(),
            traffic: Traffic::default(),
            leases: Leases::default(),
            transitions: Transitions::default(),
        };
        Ok(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            journal: Arc::new(journal),
            certificates,
            documents,
            keys: watch::Sender::default(),
            clock,
        })
    }

    /// Where the keys of token issuers are put as they are fetched.
    pub(crate) fn keys(&self) -> watch::Sender<Arc<KeySets>> {
        self.keys.clone()
    }

    /// Every proxy with an open stream, and those lost not long ago, sorted by identity and instance.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.state().proxies.statuses()
    }

    /// Every service, sorted by namespace and name.
    pub fn services(&self) -> Vec<ServiceStatus> {
        let names = {
            let state = self.state();
            let declared = state.model.documents().services.keys();
            declared.chain(state.published.keys()).cloned().collect::<BTreeSet<ServiceName>>()
        };
        // The lock is let go between any two: their routes are compiled to tell how they are.
        names.iter().filter_map(|name| self.state().service_status(name)).collect()
    }

    /// What proxies of callers in namespace `client` are told of a service, and which documents say so. `None`: there
    /// is no such service.
    pub fn explain(&self, service: &ServiceName, client: &str) -> Option<CompiledService> {
        let state = self.state();
        explain(state.world(), service, client, state.endpoint_statuses(service))
    }

    /// The `status` of a document, of a kind that has one: `parents` of a route, `ancestors` of a policy, `listeners` of
    /// a gateway.
    pub(crate) fn document_status(&self, key: &ResourceKey) -> Option<Value> {
        let mut state = self.state();
        let state = &mut *state;
        let mut status = match key.kind {
            Kind::Gateway => state.gateway_status(key)?,
            kind => {
                let statuses = document_status(state.world(), key)?;
                let (list, reference) = match kind {
                    Kind::BackendTrafficPolicy => ("ancestors", "ancestorRef"),
                    _ => ("parents", "parentRef"),
                };
                let entries: Vec<Value> = statuses.iter().map(|status| status.to_value(reference)).collect();
                json!({ list: entries })
            }
        };
        state.transitions.stamp(key, state.model.documents(), self.clock.now(), &mut status);
        Some(status)
    }

    /// Traffic by edge: over the last `window` (up to a minute is kept), or since the proxies started.
    pub fn stats(&self, window: Option<Duration>) -> Vec<EdgeStats> {
        let extract = self.state().traffic.extract(window, Instant::now());
        extract.edges()
    }

    /// The certificate authority's state.
    pub fn certificates(&self) -> CertificateStatus {
        self.certificates.status()
    }

    /// The root that new join tokens name.
    pub fn root_fingerprint(&self) -> Fingerprint {
        self.certificates.root_fingerprint()
    }

    /// Starts replacing the issuer or the root. Blocks on disk and key generation: call it off the runtime.
    ///
    /// # Errors
    /// The authority's reason; nothing has changed then.
    pub fn rotate(&self, what: Rotation) -> Result<CertificateStatus, RotationError> {
        self.certificates.rotate(what)
    }

    /// Enters a proxy whose certificate says `identity`. A stream that it had before ends.
    ///
    /// # Errors
    /// The hello is wrong, or the tables are full.
    pub(crate) fn hello(&self, identity: &SpiffeId, hello: v1::Hello) -> Result<Session, RegistrationError> {
        let session = self.state().hello(identity, hello, self.clock.now(), Instant::now())?;
        self.changed.notify_one();
        Ok(session)
    }

    /// Takes a message of a proxy that said hello.
    pub(crate) fn receive(&self, session: &Session, message: v1::proxy_message::Message) {
        if self.state().receive(session, message, self.clock.now(), Instant::now()) {
            self.changed.notify_one();
        }
    }

    /// The next messages for a proxy; none if it is up to date, or busy.
    pub(crate) fn next_messages(&self, session: &Session) -> Vec<v1::ControlMessage> {
        self.state().next_messages(session)
    }

    /// The stream of a proxy ended.
    pub(crate) fn closed(&self, session: &Session) {
        self.state().closed(session, self.clock.now(), Instant::now());
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a defect; the state is whole between any two of its statements
        // that matter, and a control plane that goes on serves better than one that does not.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn world(&self) -> World<'_> {
        World { model: &self.model, registered: &self.published }
    }

    fn service_status(&self, name: &ServiceName) -> Option<ServiceStatus> {
        let facts = Facts::of(self.world(), name)?;
        let producers = attached(&self.model, name, &facts);
        let routed = |port: u16| producers.iter().any(|one| one.is_producer(name) && one.is_on(port));
        let ports = facts.ports.iter().map(|port| PortStatus {
            port: port.number,
            name: port.name.clone(),
            protocol: protocol_name(port.protocol).to_owned(),
            routed: routed(port.number),
        });
        Some(ServiceStatus {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            declared: facts.declared,
            ports: ports.collect(),
            endpoints: self.endpoint_statuses(name),
            routes: route_statuses(self.world(), name, &facts),
            subscribers: self.proxies.users(name),
        })
    }

    fn gateway_status(&self, key: &ResourceKey) -> Option<Value> {
        let service = gateway_service(&key.namespace, &key.name)?;
        let gateway = self.model.gateway(&service)?;
        Some(gateway_status(self.world(), &service, gateway, &self.proxies.served(&service)))
    }

    fn endpoint_statuses(&self, service: &ServiceName) -> Vec<EndpointStatus> {
        let sets = self.published.get(service).into_iter().flat_map(|registered| &registered.endpoints.all);
        sets.map(|(id, endpoint)| self.endpoint_status(id, endpoint)).collect()
    }

    fn endpoint_status(&self, id: &ProxyId, endpoint: &v1::Endpoint) -> EndpointStatus {
        EndpointStatus {
            id: endpoint.id.clone(),
            address: endpoint.address.clone(),
            identity: endpoint.identity.clone(),
            zone: endpoint.zone.clone(),
            healthy: endpoint.healthy,
            connected: self.registry.is_connected(id),
            ports: endpoint.ports.iter().filter_map(|port| u16::try_from(*port).ok()).collect(),
        }
    }
}

fn protocol_name(protocol: v1::Protocol) -> &'static str {
    match protocol {
        v1::Protocol::Unspecified => "detect",
        v1::Protocol::Http1 => "http1",
        v1::Protocol::Http2 => "http2",
        v1::Protocol::Tcp => "tcp",
    }
}
