//! Keeps the proxy's certificate valid: obtains it, renews it at half of its life, tries again when that fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_certs::{Clock, Purpose, renew_at};
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::issue::{self, Account, IssueError, Proof};
use super::{Identities, TlsMaterial};
use crate::control::counters::Counters;
use crate::control::dial::Dialer;
use crate::control::readiness::Readiness;
use crate::control::reason::reason;
use crate::control::reconnect::Reconnect;
use crate::state::State;

/// Waits between failures.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// The least time between two certificates.
const PAUSE: Duration = Duration::from_millis(250);
/// The wall clock can jump (a machine that slept, a corrected clock), which no timer notices: look this often.
const LOOK: Duration = Duration::from_secs(30);

/// The one task that changes who the proxy is.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) identities: Identities,
    pub(crate) dialer: Dialer,
    pub(crate) account: Account,
    pub(crate) join_token_file: Option<PathBuf>,
    pub(crate) state: Option<State>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readiness: Readiness,
    pub(crate) counters: Arc<Counters>,
    pub(crate) rng: StdRng,
    /// Changes that are not yet written down: our own, and the bundles that the control plane pushes.
    pub(crate) changes: watch::Receiver<u64>,
}

impl Keeper {
    /// Takes up the identity that an earlier life of the proxy kept, if there is one that still holds.
    pub(crate) fn restore(&mut self) {
        let Some(state) = &self.state else { return };
        let now = self.clock.now();
        let (svid, bundle) = match state.load_identity(now) {
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(
                    error = reason(&error),
                    "the kept identity cannot be used; a new one will be asked for"
                );
                return;
            }
        };
        if !self.account.is(svid.id()) {
            tracing::warn!(kept = %svid.id(), "the kept identity is another account's; a new one will be asked for");
            return;
        }
        let due = renew_at(svid.not_before(), svid.not_after(), &mut self.rng);
        match self.identities.install(svid, bundle, due) {
            Ok(()) => self.announce("the kept identity is in use"),
            Err(error) => tracing::warn!(
                error = reason(&error),
                "the kept identity cannot be used; a new one will be asked for"
            ),
        }
    }

    /// Runs until it is dropped. Dropping it between two certificates leaves the last one in use.
    pub(crate) async fn run(mut self) {
        let mut reconnect = Reconnect::new(RETRY_MIN, RETRY_MAX);
        loop {
            self.due().await;
            match Box::pin(self.obtain()).await {
                Ok(()) => {
                    reconnect.succeeded();
                    // At once: a proxy may be stopped within the pause.
                    self.keep_changes().await;
                    // A certificate that is due the moment it is issued must not become a loop without a pause.
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    self.report(&reason(&error));
                    sleep(reconnect.after(Duration::ZERO, &mut self.rng)).await;
                }
            }
        }
    }

    /// Waits until a new certificate is to be asked for.
    async fn due(&mut self) {
        while let Some(material) = self.identities.current() {
            self.keep_changes().await;
            let now = self.clock.now();
            let Ok(wait) = material.renew_at.duration_since(now) else { return };
            if wait.is_zero() || !material.proves_itself(now) {
                return;
            }
            // A change may be a bundle that our own certificate does not lead to any more.
            let _ = timeout(wait.min(LOOK), changed(&mut self.changes)).await;
        }
    }

    /// Writes down what has changed since the last time.
    async fn keep_changes(&mut self) {
        let Some(material) = self.identities.current() else { return };
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            self.keep(material).await;
        }
    }

    async fn obtain(&mut self) -> Result<(), IssueError> {
        let proof = match self.identities.current() {
            Some(material) if material.is_valid(self.clock.now()) => Proof::Svid(material),
            _ => {
                let path = self.join_token_file.as_deref().ok_or(IssueError::NoProof)?;
                Proof::Token(issue::read_token(path)?)
            }
        };
        let (svid, bundle) = issue::issue(&self.dialer, &self.account, &proof, &self.clock).await?;
        let due = renew_at(svid.not_before(), svid.not_after(), &mut self.rng);
        self.identities.install(svid, bundle, due)?;
        self.announce(if matches!(proof, Proof::Token(_)) {
            "joined the mesh"
        } else {
            "the certificate is renewed"
        });
        Ok(())
    }

    fn announce(&self, what: &str) {
        let Some(material) = self.identities.current() else { return };
        Counters::add(&self.counters.certificates);
        self.readiness.set_identity(true);
        tracing::info!(
            id = %material.id,
            valid_for_s = material.not_after.duration_since(self.clock.now()).unwrap_or_default().as_secs(),
            "{what}"
        );
    }

    /// Writes the identity down, off this thread, since a disk may take its time.
    async fn keep(&self, material: Arc<TlsMaterial>) {
        let Some(state) = self.state.clone() else { return };
        let saved =
            tokio::task::spawn_blocking(move || state.save_identity(&material.svid, &material.bundle)).await;
        let problem = match saved {
            Ok(Ok(())) => return,
            Ok(Err(error)) => reason(&error),
            Err(error) => reason(&error),
        };
        tracing::error!(error = problem, "the identity could not be kept in the state directory");
    }

    fn report(&self, error: &str) {
        Counters::add(&self.counters.certificate_failures);
        match self.identities.current() {
            Some(material) if material.is_valid(self.clock.now()) => {
                tracing::warn!(error, "the certificate could not be renewed; the present one stays in use");
            }
            Some(material) => {
                self.readiness.set_identity(false);
                tracing::error!(id = %material.id, error, "the certificate has expired and could not be replaced");
            }
            None => tracing::warn!(error, "no certificate yet; trying again"),
        }
    }
}

/// Waits for a change without taking note of it.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    changes.mark_changed();
}

impl TlsMaterial {
    /// Whether the present bundle leads to the present certificate.
    fn proves_itself(&self, now: SystemTime) -> bool {
        self.bundle.verify(self.svid.chain(), now, Purpose::Client).is_ok()
    }
}
