//! The proxy's side of the control plane, on the control thread.
//!
//! ```text
//!                          ┌────────── control thread ──────────┐
//! workers ── Directory ──▶ │ conversation ⇄ link ══════════════ │ ══ control plane
//!    ▲                     │    │ model       (dial, reconnect) │
//!    └── Snapshots ◀───────│────┘      keeper (identity) ══════ │ ══
//!    └── Identities ◀──────│───────────────┘                    │
//!                          └────────────────────────────────────┘
//! ```
//!
//! An update goes `link` → `conversation` → `model` → [`Snapshots`], in the order of the stream, and is
//! acknowledged when workers can see it. One that cannot be applied is refused with the path of the field, and
//! the last good policy stays. A lost stream is opened again with backoff, and until the control plane has said
//! something else, everything that it said before stays in use. Nothing here is on a request's path but the
//! first call of a service, which waits in the [`Directory`].
//!
//! What it never does: forget an endpoint because a connection broke, show a route before its backends, or
//! serve on an identity that has expired.

mod compiled;
mod conversation;
pub(crate) mod counters;
pub(crate) mod dial;
mod endpoint_set;
mod fleet;
mod keeping;
mod ledger;
mod link;
mod lookups;
mod model;
pub(crate) mod readiness;
pub(crate) mod reason;
pub(crate) mod reconnect;
mod refused;
mod view;
mod visible;
mod waiting;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use outrigger_api::{ServiceName, v1};
use outrigger_certs::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub use counters::Counters;
pub use view::ControlView;

use self::conversation::{Command, Conversation, Inbox, Stream};
use self::dial::Dialer;
use self::fleet::Fleet;
use self::keeping::Keeping;
use self::link::{Link, Waits};
use self::lookups::Lookups;
use self::model::Model;
use self::readiness::Readiness;
use self::reason::reason;
use self::view::Troubles;
use self::waiting::Waiting;
use crate::config::gateway_name;
use crate::directory::{ASKS, Directory};
use crate::health::{self, Check};
use crate::identity::Identities;
use crate::identity::issue::Account;
use crate::identity::keeper::Keeper;
use crate::report::{self, LoadSource};
use crate::resolver::Resolver;
use crate::snapshot::{Protocol, Snapshots};
use crate::state::{State, StateError, StateSettings};

/// For the goodbye to leave the process.
const GOODBYE: Duration = Duration::from_secs(1);
/// For the stream to end and the policy to reach the disk.
const STOP: Duration = Duration::from_secs(3);

/// What the workload serves, as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadInputs {
    /// Its service.
    pub service: ServiceName,
    /// Where other proxies reach this one, if somebody has said so.
    pub advertise: Option<SocketAddr>,
    /// Where the inbound listener is bound. Where it is bound to every address of the machine, the one that the
    /// control plane is reached from is advertised.
    pub inbound: SocketAddr,
    /// Where it runs; empty where unknown.
    pub zone: String,
    /// The service's ports.
    pub ports: Vec<(u16, Protocol)>,
}

/// Everything that the control thread needs of the outside.
pub struct ControlInputs {
    /// HOST:PORT of the control plane; the host may have several addresses.
    pub control_plane: String,
    /// The namespace of the identity.
    pub namespace: String,
    /// The account of the identity.
    pub service_account: String,
    /// The file of the join token; read anew whenever one is needed.
    pub join_token_file: Option<PathBuf>,
    /// Where state is kept, if it is.
    pub state: Option<StateSettings>,
    /// `None` for a proxy that serves nothing inbound.
    pub workload: Option<WorkloadInputs>,
    /// The gateway that the proxy serves, which it follows from the beginning to the end, and the ports of its listeners
    /// that it listens for.
    pub gateway: Option<(ServiceName, Vec<u16>)>,
    /// Where the admin server listens, for people to find it.
    pub admin_address: String,
    /// How the application is asked for its health.
    pub checks: Vec<Check>,
    /// Where policy is published.
    pub snapshots: Snapshots,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// When the proxy started; [`Service::last_used`](crate::snapshot::Service::last_used) counts from then.
    pub started: Instant,
    /// Seeded by `main`.
    pub rng: StdRng,
    /// The totals of all workers.
    pub load: LoadSource,
    /// Who is asked for hosts outside the mesh; `None`: whom the machine asks.
    pub dns: Option<SocketAddr>,
}

/// The running control side. Dropping it stops every task at once and without a goodbye.
#[derive(Debug)]
pub struct ControlHandle {
    /// For workers, to find services.
    pub directory: Directory,
    /// For workers, to prove who they are.
    pub identities: Identities,
    /// True while the proxy has an identity that holds, and policy.
    pub ready: watch::Receiver<bool>,
    /// For the admin server and for metrics.
    pub view: ControlView,
    commands: mpsc::Sender<Command>,
    /// Ends when the conversation has ended.
    conversation: JoinSet<()>,
    _tasks: JoinSet<()>,
    _checks: JoinSet<()>,
}

/// Starts the control side on the present runtime.
///
/// What the state directory holds is in use when this returns; the rest arrives later and is announced by
/// [`ControlHandle::ready`].
///
/// # Errors
/// The state directory cannot be made.
pub fn start(inputs: ControlInputs) -> Result<ControlHandle, StateError> {
    start_with(inputs, Waits::default())
}

fn start_with(mut inputs: ControlInputs, waits: Waits) -> Result<ControlHandle, StateError> {
    let state = inputs.state.take().map(|settings| State::open(settings, &inputs.namespace)).transpose()?;
    let counters = Arc::new(Counters::default());
    let readiness = Readiness::new();
    let identities = Identities::new(inputs.clock.clone());
    let dialer = Dialer::new(&inputs.control_plane);
    let instance: Arc<str> = format!("{:032x}", inputs.rng.random::<u128>()).into();
    let (asks, asked) = mpsc::channel(ASKS);
    let (commands, commanded) = mpsc::channel(4);
    let (events, happened) = mpsc::channel(link::EVENTS);
    let (reports, reported) = mpsc::channel(1);
    let (health, checks) = health::watch(std::mem::take(&mut inputs.checks));
    let reset = Arc::new(Notify::new());
    let view = ControlView {
        address: inputs.control_plane.as_str().into(),
        instance: instance.clone(),
        snapshots: inputs.snapshots.clone(),
        identities: identities.clone(),
        counters: counters.clone(),
        troubles: Arc::new(ArcSwap::from_pointee(Troubles::default())),
    };

    let mut keeper = Keeper {
        identities: identities.clone(),
        dialer: dialer.clone(),
        account: Account {
            namespace: inputs.namespace.clone(),
            service_account: inputs.service_account.clone(),
        },
        join_token_file: inputs.join_token_file.clone(),
        state: state.clone(),
        clock: inputs.clock.clone(),
        readiness: readiness.clone(),
        counters: counters.clone(),
        rng: StdRng::from_rng(&mut inputs.rng),
        changes: identities.changes(),
    };
    keeper.restore();

    let mut conversation = Conversation {
        model: restore_policy(&inputs.namespace, state.as_ref()),
        snapshots: inputs.snapshots.clone(),
        identities: identities.clone(),
        readiness: readiness.clone(),
        counters: counters.clone(),
        troubles: view.troubles.clone(),
        reset: reset.clone(),
        started: inputs.started,
        hello: hello(&inputs, &instance, health.borrow().healthy),
        reached_at: inputs.workload.as_ref().map(|workload| workload.advertise.unwrap_or(workload.inbound)),
        stream: Stream::default(),
        names: Waiting::default(),
        addresses: Waiting::default(),
        missing_addresses: HashMap::new(),
        hosts: Waiting::default(),
        missing_hosts: HashMap::new(),
        lookups: Lookups::new(Resolver::new(inputs.dns)),
        evicted: Vec::new(),
        asked_addresses: Vec::new(),
        asked_hosts: Vec::new(),
        fleet: Fleet::default(),
        keeping: Keeping::new(state),
        swept: 0,
        gateway: inputs.gateway.as_ref().map(|(gateway, _)| gateway.clone()),
    };
    conversation.follow_gateway();
    conversation.publish();

    let link = Link {
        dialer,
        identities: identities.clone(),
        events,
        reset,
        counters: counters.clone(),
        waits,
        rng: StdRng::from_rng(&mut inputs.rng),
    };
    let inbox = Inbox { events: happened, asks: asked, health, reports: reported, commands: commanded };
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run());
    tasks.spawn(link.run());
    tasks.spawn(report::keep_reporting(inputs.load.clone(), reports));
    let mut talking = JoinSet::new();
    talking.spawn(conversation.run(inbox));
    Ok(ControlHandle {
        directory: Directory::new(inputs.snapshots, asks, counters),
        identities,
        ready: readiness.watch(),
        view,
        commands,
        conversation: talking,
        _tasks: tasks,
        _checks: checks,
    })
}

/// The policy of an earlier life. What cannot be used is skipped: the control plane will say it again.
fn restore_policy(namespace: &str, state: Option<&State>) -> Model {
    let mut model = Model::new(namespace);
    match state.map(State::load_policy) {
        None | Some(Ok(None)) => {}
        Some(Ok(Some(messages))) => {
            for refused in model.restore(messages) {
                tracing::warn!(reason = reason(&refused), "part of the kept policy cannot be used");
            }
            tracing::info!(services = model.len(), "the kept policy is in use");
        }
        Some(Err(error)) => tracing::warn!(error = reason(&error), "the kept policy cannot be used"),
    }
    model
}

fn hello(inputs: &ControlInputs, instance: &str, healthy: bool) -> v1::Hello {
    v1::Hello {
        instance: instance.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        workload: inputs.workload.as_ref().map(|workload| v1::Workload {
            service: Some((&workload.service).into()),
            // Filled in on every stream.
            address: String::new(),
            zone: workload.zone.clone(),
            ports: workload.ports.iter().map(|(port, protocol)| raw_port(*port, *protocol)).collect(),
            healthy,
        }),
        admin_address: inputs.admin_address.clone(),
        gateway: inputs.gateway.as_ref().map(|(gateway, ports)| v1::GatewayHello {
            name: gateway_name(gateway).to_owned(),
            ports: ports.iter().copied().map(u32::from).collect(),
        }),
    }
}

fn raw_port(port: u16, protocol: Protocol) -> v1::WorkloadPort {
    let protocol = match protocol {
        Protocol::Detect => v1::Protocol::Unspecified,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Tcp => v1::Protocol::Tcp,
    };
    v1::WorkloadPort { port: port.into(), protocol: protocol.into() }
}

impl ControlHandle {
    /// Takes the workload out of the mesh: callers elsewhere stop choosing it. The proxy keeps its stream and
    /// its policy, for what is still under way. Returns when the message is on its way, or after a second.
    pub async fn goodbye(&self) {
        let (reply, answer) = oneshot::channel();
        let said = async {
            self.commands.send(Command::Goodbye(reply)).await.ok()?;
            let outgoing = answer.await.ok()??;
            // All of the queue can be had when nothing is left in it.
            outgoing.reserve_many(outgoing.max_capacity()).await.ok().map(drop)
        };
        if timeout(GOODBYE, said).await.is_err() {
            tracing::warn!("the control plane takes no goodbye; it will notice by the end of the stream");
        }
    }

    /// Ends the stream, writes down what is not yet kept, and stops all tasks.
    pub async fn stop(mut self) {
        let stopped = async {
            // A closed queue is a conversation that has ended already.
            let _ = self.commands.send(Command::Stop).await;
            while self.conversation.join_next().await.is_some() {}
        };
        if timeout(STOP, stopped).await.is_err() {
            tracing::warn!("the policy could not be written down within {STOP:?}");
        }
    }
}

#[cfg(test)]
mod tests;
