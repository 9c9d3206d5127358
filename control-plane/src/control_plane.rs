//! Starting and stopping: every part is opened here, wired to the others, and stopped in order.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_certs::{
    Authority, AuthorityError, AuthoritySettings, Clock, SignError, SystemClock, TrustDomain,
};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::api::{AdminToken, AdminTokenError, ApiServer, ApiState};
use crate::certificates::Certificates;
use crate::discovery::journal::JournalError;
use crate::identity::Issuer;
use crate::jwks::fetch;
use crate::mesh::{Graces, Mesh};
use crate::push::Push;
use crate::server;
use crate::store::{Store, StoreError};

/// The authority's directory in the data directory.
const AUTHORITY_DIRECTORY: &str = "ca";
/// How long the streams of the proxies may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a control plane is started with.
#[derive(Debug, Clone)]
pub struct ControlPlaneConfig {
    /// Where everything is kept: documents, registrations, keys, tokens. Made if absent. One control plane at a time.
    pub data_dir: PathBuf,
    /// Where the REST API listens. Port 0: any that is free.
    pub api_listen: SocketAddr,
    /// Where proxies connect. Port 0: any that is free.
    pub proxy_listen: SocketAddr,
    /// The trust domain of every identity. Cannot change while the data directory is the same.
    pub trust_domain: TrustDomain,
    /// The life of a workload's certificate.
    pub svid_ttl: Duration,
    /// The life of the certificate that signs those.
    pub issuer_ttl: Duration,
    /// The life of the root.
    pub root_ttl: Duration,
    /// How long a workload stays registered after its stream was lost without a goodbye. After a restart of the
    /// control plane proxies have three times as long to come back, and half a minute at least.
    pub grace: Duration,
    /// Keys of token issuers may be fetched from this host's own loopback, and there without TLS: for tests.
    pub jwks_from_loopback: bool,
}

impl Default for ControlPlaneConfig {
    /// `./outrigger-data`, 127.0.0.1:4780 and 127.0.0.1:4781, `outrigger.local`, 24 hours, 1 year, 10 years, 10 s.
    fn default() -> Self {
        let trust_domain: TrustDomain = "outrigger.local".parse().expect("the constant is a trust domain");
        let settings = AuthoritySettings::new(trust_domain.clone());
        Self {
            data_dir: PathBuf::from("outrigger-data"),
            api_listen: (Ipv4Addr::LOCALHOST, 4780).into(),
            proxy_listen: (Ipv4Addr::LOCALHOST, 4781).into(),
            trust_domain,
            svid_ttl: settings.svid_ttl,
            issuer_ttl: settings.issuer_ttl,
            root_ttl: settings.root_ttl,
            grace: Duration::from_secs(10),
            jwks_from_loopback: false,
        }
    }
}

/// Why a control plane does not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate authority cannot be opened.
    #[error("the certificate authority in {path} cannot be used", path = .path.display())]
    Authority {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// The control plane has no certificate of its own.
    #[error("the control plane's own certificate cannot be made")]
    Own(#[source] SignError),
    /// The documents cannot be opened.
    #[error("the store in {path} cannot be used", path = .path.display())]
    Store {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The registrations cannot be opened.
    #[error(transparent)]
    Registrations(#[from] JournalError),
    /// There is no admin token.
    #[error("the admin token in {path} cannot be used", path = .path.display())]
    AdminToken {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: AdminTokenError,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: is another process there? choose another with {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What for.
        purpose: &'static str,
        /// The command line's name of the setting.
        flag: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The system has no randomness.
    #[error("the system gives no randomness; see whether getrandom(2) works here")]
    Randomness,
    /// The runtime is shutting down.
    #[error("the start was interrupted")]
    Interrupted,
}

/// The control plane. Any number may run in one process, each on its own directory.
#[derive(Debug)]
pub struct ControlPlane {
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) store: Arc<Store>,
    pub(crate) mesh: Arc<Mesh>,
    admin_token: AdminToken,
    jwks_from_loopback: bool,
    clock: Arc<dyn Clock>,
}

impl ControlPlane {
    /// Starts a control plane on the runtime that this is called in. Both ports serve when it returns.
    ///
    /// # Errors
    /// What cannot be used, where it is, and what to do about it.
    pub async fn start(config: ControlPlaneConfig) -> Result<Running, StartError> {
        Self::start_with_clock(config, Arc::new(SystemClock)).await
    }

    /// As [`start`](Self::start), by another clock, for tests of what expires.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with_clock(
        config: ControlPlaneConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Running, StartError> {
        let api = listen(config.api_listen, "the REST API", "--api-listen").await?;
        let proxies = listen(config.proxy_listen, "proxies", "--proxy-listen").await?;
        let now = Instant::now();
        let opening =
            tokio::task::spawn_blocking(move || Self::open(&config, Graces::new(config.grace), clock, now));
        let parts = opening.await.map_err(|_| StartError::Interrupted)??;
        parts.serve(api, proxies)
    }

    /// Blocks on disk and on the making of keys.
    pub(crate) fn open(
        config: &ControlPlaneConfig,
        grace: Graces,
        clock: Arc<dyn Clock>,
        now: Instant,
    ) -> Result<Self, StartError> {
        let path = config.data_dir.join(AUTHORITY_DIRECTORY);
        let settings = AuthoritySettings {
            root_ttl: config.root_ttl,
            issuer_ttl: config.issuer_ttl,
            svid_ttl: config.svid_ttl,
            ..AuthoritySettings::new(config.trust_domain.clone())
        };
        let data = || config.data_dir.clone();
        // The store first: it is what says that another control plane has the directory.
        let store = Store::open(&config.data_dir, clock.clone())
            .map_err(|source| StartError::Store { path: data(), source })?;
        let authority = Authority::open(&path, settings, clock.clone())
            .map_err(|source| StartError::Authority { path, source })?;
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(|_| StartError::Randomness)?;
        let certificates =
            Certificates::new(authority, config.svid_ttl, clock.clone(), rng).map_err(StartError::Own)?;
        let certificates = Arc::new(certificates);
        let admin_token = AdminToken::open(&config.data_dir)
            .map_err(|source| StartError::AdminToken { path: data(), source })?;
        let mesh =
            Mesh::open(&config.data_dir, store.changes(), certificates.clone(), grace, clock.clone(), now)?;
        let jwks_from_loopback = config.jwks_from_loopback;
        Ok(Self { certificates, store, mesh: Arc::new(mesh), admin_token, jwks_from_loopback, clock })
    }

    pub(crate) fn serve(self, api: TcpListener, proxies: TcpListener) -> Result<Running, StartError> {
        let address = |listener: &TcpListener, purpose, flag| {
            listener.local_addr().map_err(|source| {
                let address = (Ipv4Addr::UNSPECIFIED, 0).into();
                StartError::Listen { address, purpose, flag, source }
            })
        };
        let proxies_address = address(&proxies, "proxies", "--proxy-listen")?;
        let api_address = address(&api, "the REST API", "--api-listen")?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let admin_token_path = self.admin_token.path().to_owned();
        tasks.spawn(self.mesh.clone().run(stop.clone()));
        tasks.spawn(self.certificates.clone().run(stop.clone()));
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(|_| StartError::Randomness)?;
        let (documents, keys) = (self.store.changes(), self.mesh.keys());
        tasks.spawn(fetch::run(documents, keys, self.jwks_from_loopback, rng, stop.clone()));
        let push = Push::new(self.mesh.clone(), tasks.clone(), stop.clone());
        let issuer = Issuer::new(self.certificates.clone(), self.store.clone(), self.clock);
        tasks.spawn(Box::pin(server::serve(proxies, self.certificates, push, issuer, stop.clone())));
        let state = ApiState { store: self.store, mesh: self.mesh, admin_token: self.admin_token };
        let api = ApiServer::start(api, state).map_err(|source| StartError::Listen {
            address: api_address,
            purpose: "the REST API",
            flag: "--api-listen",
            source,
        })?;
        tracing::info!(api = %api_address, proxies = %proxies_address, "the control plane serves");
        Ok(Running {
            api: api_address,
            proxies: proxies_address,
            admin_token_path,
            server: api,
            tasks,
            stop: stop.drop_guard(),
        })
    }
}

async fn listen(
    address: SocketAddr,
    purpose: &'static str,
    flag: &'static str,
) -> Result<TcpListener, StartError> {
    let listening = TcpListener::bind(address).await;
    listening.map_err(|source| StartError::Listen { address, purpose, flag, source })
}

/// A control plane that serves. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Running {
    /// Where the REST API listens.
    pub api: SocketAddr,
    /// Where proxies connect.
    pub proxies: SocketAddr,
    /// The file with the bearer token of the API.
    pub admin_token_path: PathBuf,
    server: ApiServer,
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Running {
    /// Answers what is under way, tells the proxies to come back later, and returns when everything has ended.
    pub async fn shutdown(self) {
        self.server.stop().await;
        drop(self.stop);
        self.tasks.close();
        if timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = self.tasks.len(),
                "tasks were still at work when the control plane stopped"
            );
        }
    }
}
