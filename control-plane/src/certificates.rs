//! The certificate authority at work: the control plane's own certificate renewed, rotations carried out when
//! they are due, and a new trust bundle told to whoever pushes it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use outrigger_api::v1;
use outrigger_certs::tls::{self, ClientAuth};
use outrigger_certs::{
    Authority, Changes, Clock, Fingerprint, RootPhase, RotationError as AuthorityError, SignError, Svid,
    TrustBundle, renew_at,
};
use rand::rngs::StdRng;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::mesh::{Rotation, RotationError};
use crate::status::{CertificateInfo, CertificateStatus, rfc3339};

/// What is spoken on the proxy port.
const ALPN: &[&[u8]] = &[b"h2"];
/// Wall clocks jump; what is due is looked at again at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The wait after a failure, and the shortest wait at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The authority and what is made from its newest state.
pub(crate) struct Certificates {
    authority: Authority,
    svid_ttl: Duration,
    clock: Arc<dyn Clock>,
    own: Mutex<Own>,
    tls: ArcSwap<ServerConfig>,
    bundle: watch::Sender<Arc<v1::TrustBundle>>,
    /// Something was rotated: what is due next has changed.
    rotated: Notify,
}

/// The control plane's own certificate.
struct Own {
    svid: Svid,
    renew_at: SystemTime,
    rng: StdRng,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("a rotation that is due failed")]
    Rotation(#[source] AuthorityError),
    #[error("the control plane's own certificate was not renewed")]
    Own(#[source] SignError),
}

impl Certificates {
    /// Takes the control plane's first certificate. Blocks on key generation.
    ///
    /// # Errors
    /// The authority cannot sign.
    pub(crate) fn new(
        authority: Authority,
        svid_ttl: Duration,
        clock: Arc<dyn Clock>,
        mut rng: StdRng,
    ) -> Result<Self, SignError> {
        let svid = authority.server_svid()?;
        let trusted = authority.bundle();
        let tls = tls::server_config(&svid, &trusted, ALPN, ClientAuth::Optional, clock.clone());
        let renew_at = renew_at(svid.not_before(), svid.not_after(), &mut rng);
        Ok(Self {
            svid_ttl,
            clock,
            own: Mutex::new(Own { svid, renew_at, rng }),
            tls: ArcSwap::new(tls),
            bundle: watch::Sender::new(Arc::new(message(&trusted))),
            rotated: Notify::new(),
            authority,
        })
    }

    /// How proxies are served from now on.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.load_full()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The trust bundle, and every later one.
    pub(crate) fn bundles(&self) -> watch::Receiver<Arc<v1::TrustBundle>> {
        self.bundle.subscribe()
    }

    /// The root that new join tokens name.
    pub(crate) fn root_fingerprint(&self) -> Fingerprint {
        self.authority.root_fingerprint()
    }

    /// Begins a rotation. Blocks.
    ///
    /// # Errors
    /// The authority's reason. Nothing changed then.
    pub(crate) fn rotate(&self, what: Rotation) -> Result<CertificateStatus, RotationError> {
        let changes = match what {
            Rotation::Issuer => self.authority.rotate_issuer(),
            Rotation::Root => self.authority.publish_next_root(),
        };
        let changes = changes.map_err(|error| match error {
            AuthorityError::AlreadyPublished => RotationError::Busy(error.to_string()),
            error => RotationError::Authority(error.to_string()),
        })?;
        self.take(changes).map_err(|error| RotationError::Authority(error.to_string()))?;
        self.rotated.notify_one();
        Ok(self.status())
    }

    /// Does what is due until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut failed = false;
        loop {
            let wait = if failed { RETRY_AFTER } else { self.until_due() };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.rotated.notified() => {}
            }
            let certificates = self.clone();
            let step = tokio::task::spawn_blocking(move || certificates.do_what_is_due()).await;
            failed = match step {
                Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "certificates are due and were not renewed; trying again");
                    true
                }
                Err(_) => true, // the runtime is going away
            };
        }
    }

    fn until_due(&self) -> Duration {
        let due = self.authority.next_due().min(self.own().renew_at);
        let wait = due.duration_since(self.clock.now()).unwrap_or_default();
        wait.clamp(SHORTEST_WAIT, LOOK_EVERY)
    }

    fn do_what_is_due(&self) -> Result<(), StepError> {
        let changes = self.authority.tick().map_err(StepError::Rotation)?;
        self.take(changes).map_err(StepError::Own)?;
        if self.own().renew_at <= self.clock.now() {
            self.renew().map_err(StepError::Own)?;
        }
        Ok(())
    }

    fn take(&self, changes: Changes) -> Result<(), SignError> {
        if changes.bundle {
            let bundle = self.authority.bundle();
            tracing::info!(roots = bundle.roots().count(), "the trust bundle changed and is pushed");
            self.bundle.send_replace(Arc::new(message(&bundle)));
        }
        if changes.any() { self.renew() } else { Ok(()) }
    }

    /// Makes the control plane's next certificate, and a TLS configuration of it and the newest bundle. Connections
    /// that are open keep theirs.
    fn renew(&self) -> Result<(), SignError> {
        let svid = self.authority.server_svid()?;
        let tls = tls::server_config(
            &svid,
            &self.authority.bundle(),
            ALPN,
            ClientAuth::Optional,
            self.clock.clone(),
        );
        let mut own = self.own();
        own.renew_at = renew_at(svid.not_before(), svid.not_after(), &mut own.rng);
        own.svid = svid;
        self.tls.store(tls);
        Ok(())
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What people want to know.
    pub(crate) fn status(&self) -> CertificateStatus {
        let authority = self.authority.status();
        let own = self.own();
        let info = |certificate: &outrigger_certs::CertificateStatus| CertificateInfo {
            subject: certificate.subject.clone(),
            serial: certificate.serial.clone(),
            not_before: rfc3339(certificate.not_before),
            not_after: rfc3339(certificate.not_after),
            fingerprint: certificate.fingerprint.to_string(),
            active: certificate.phase.is_none_or(|phase| phase == RootPhase::Active),
        };
        CertificateStatus {
            trust_domain: authority.trust_domain.to_string(),
            roots: authority.roots.iter().map(info).collect(),
            issuer: info(&authority.issuer),
            server: CertificateInfo {
                subject: own.svid.id().to_string(),
                serial: String::new(),
                not_before: rfc3339(own.svid.not_before()),
                not_after: rfc3339(own.svid.not_after()),
                fingerprint: own
                    .svid
                    .chain()
                    .first()
                    .map(|leaf| Fingerprint::of(leaf).to_string())
                    .unwrap_or_default(),
                active: true,
            },
            svid_ttl_seconds: self.svid_ttl.as_secs(),
        }
    }
}

/// A bundle as it goes over the wire.
pub(crate) fn message(bundle: &TrustBundle) -> v1::TrustBundle {
    v1::TrustBundle { trust_domain: bundle.trust_domain().to_string(), roots: bundle.to_der() }
}
