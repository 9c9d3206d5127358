//! The mesh's certificate authority: a root that proxies trust, an issuer that signs for them, and their rotation.
//!
//! The root signs only issuers, the issuer signs only workloads. Both live in one directory, with their keys, in
//! one file that is replaced whole; so there is no moment at which a crash leaves half a rotation. What the file
//! says is what has happened, and [`tick`](Authority::tick) does whatever is due next, after a restart too.
//!
//! The life of a root, with time running to the right and `svid-ttl` as the unit in the middle:
//!
//! ```text
//!             half life          +1 svid-ttl           +1 svid-ttl
//!   |-------------|-------------------|---------------------|
//!   active        next is published   next is activated     the old one is retired
//!   signs         both are trusted    the new one signs     only the new one is trusted
//! ```
//!
//! A proxy whose certificate lives has spoken to the control plane within one `svid-ttl`, so it knows the next root
//! before anything is signed by it. If it does not, because somebody hurried the rotation, the old root's
//! certificate for the new one, which goes along in every chain until the old root retires, still leads to what
//! the proxy knows. A short-lived root waits an eighth of its own life instead where that is less.
//!
//! Everything here may block on the disk and takes its time from the clock it was opened with.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::bundle::{BundleError, TrustBundle};
use crate::clock::Clock;
use crate::csr::SigningRequest;
use crate::files::{self, FileError};
use crate::fingerprint::Fingerprint;
use crate::spiffe_id::SpiffeId;
use crate::svid::{KeyRequest, Svid};
use crate::trust_domain::TrustDomain;

mod certificate;
mod error;
mod schedule;
mod settings;
mod state;
mod status;

pub use certificate::SigningError;
pub use error::{AuthorityError, RotationError, SignError};
pub use settings::AuthoritySettings;
pub use state::{RootPhase, StateError};
pub use status::{AuthorityStatus, CertificateStatus};

use schedule::Step;
use state::State;

/// The file that holds everything, and the one that is locked while an authority is open.
const STATE_FILE: &str = "authority.json";
const LOCK_FILE: &str = "authority.lock";

/// A rotation that takes its time needs three roots. The control plane's own chain holds them all beside leaf, issuer
/// and link, and verifiers look at no more than eight certificates.
const MOST_ROOTS: usize = 5;

/// A workload's new certificate and what leads from it to a root.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The leaf, the issuer and, while a root is rotated, the old root's certificate for the new one.
    pub chain: Vec<CertificateDer<'static>>,
    /// The first second in which the leaf holds.
    pub not_before: SystemTime,
    /// The last.
    pub not_after: SystemTime,
}

impl IssuedChain {
    /// The chain in DER, as the wire carries it.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|certificate| certificate.to_vec()).collect()
    }
}

/// What a step of a rotation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// The trust bundle has another set of roots: push it to every proxy.
    pub bundle: bool,
    /// Another issuer signs: the control plane takes a new [`Authority::server_svid`], because join tokens name
    /// the root that this one leads to.
    pub issuer: bool,
}

impl Changes {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self.bundle || self.issuer
    }

    fn and(self, other: Self) -> Self {
        Self { bundle: self.bundle || other.bundle, issuer: self.issuer || other.issuer }
    }
}

/// The certificate authority of one mesh. Signing and rotating may happen at once, from any thread.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    settings: AuthoritySettings,
    clock: Arc<dyn Clock>,
    opened_at: SystemTime,
    /// Swapped whole, and only after it is on disk.
    current: RwLock<Arc<Current>>,
    /// One change at a time.
    changing: Mutex<()>,
    /// The bundle beside the state, a copy for people and programs, could not be written.
    bundle_behind: AtomicBool,
    /// The lock on the directory, for as long as this lives.
    _lock: File,
}

#[derive(Debug)]
struct Current {
    state: State,
    bundle: TrustBundle,
}

impl Authority {
    /// Opens the authority in a directory, or makes a new one there, and does whatever is due.
    ///
    /// # Errors
    /// The settings contradict each other or what is on disk, another process has the directory open, the state is
    /// damaged, or a file cannot be read or written.
    pub fn open(
        directory: &Path,
        settings: AuthoritySettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        settings.check()?;
        files::create_private_directory(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(STATE_FILE);
        files::remove_leftovers(&path)?;
        files::remove_leftovers(&directory.join(crate::bundle::FILE))?;
        let now = clock.now();
        let state = match files::read_private(&path) {
            Ok(bytes) => {
                let mut state = State::from_json(&bytes)
                    .map_err(|source| AuthorityError::Damaged { path: path.clone(), source })?;
                // Leaves that were issued under earlier settings may live longer than those of today.
                state.longest_svid = state.longest_svid.max(settings.svid_ttl);
                state
            }
            // The state is written first and the bundle after it, so a bundle alone means that the state was lost.
            Err(error) if error.is_missing() && directory.join(crate::bundle::FILE).exists() => {
                return Err(AuthorityError::Lost(path));
            }
            Err(error) if error.is_missing() => State::create(&settings, now)?,
            Err(error) => return Err(error.into()),
        };
        if state.trust_domain != settings.trust_domain {
            return Err(AuthorityError::TrustDomain {
                expected: settings.trust_domain,
                found: state.trust_domain,
            });
        }
        let current = Current::new(state)
            .map_err(|_| AuthorityError::Damaged { path: path.clone(), source: StateError::NotACa })?;
        current.save_state(directory)?;
        current.bundle.save(directory)?;
        let authority = Self {
            directory: directory.to_owned(),
            settings,
            clock,
            opened_at: now,
            current: RwLock::new(Arc::new(current)),
            changing: Mutex::new(()),
            bundle_behind: AtomicBool::new(false),
            _lock: lock,
        };
        authority.tick().map_err(AuthorityError::from)?;
        Ok(authority)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// The roots to trust now.
    pub fn bundle(&self) -> TrustBundle {
        self.current().bundle.clone()
    }

    /// The fingerprint of the root that signs now, which new join tokens name.
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.current().state.active_root().certificate)
    }

    /// Certifies the key in a signing request for `id`, the identity that the caller has seen proved.
    ///
    /// Only key and identity are taken from the request. The certificate lives for the settings' `svid_ttl`, but
    /// no longer than its issuer.
    ///
    /// # Errors
    /// The request is malformed, not signed by its own key, or for another identity; or the issuer cannot sign.
    pub fn sign(&self, csr_der: &[u8], id: &SpiffeId) -> Result<IssuedChain, SignError> {
        let request = SigningRequest::read(csr_der)?;
        if request.id() != id {
            return Err(SignError::Identity { proved: id.clone(), requested: request.id().clone() });
        }
        if id.trust_domain() != self.trust_domain() {
            return Err(SignError::TrustDomain(id.clone()));
        }
        let current = self.current();
        let issuer = &current.state.issuer;
        let validity = self.settings.leaf_validity(self.clock.now(), issuer.validity);
        let Some(validity) = validity else { return Err(SignError::IssuerExpired) };
        let leaf = issuer.sign_leaf(&request, validity)?;
        let mut chain = vec![leaf, issuer.certificate.clone()];
        chain.extend(current.state.link_to_the_old_root().cloned());
        Ok(IssuedChain { chain, not_before: validity.not_before, not_after: validity.not_after })
    }

    /// Makes the control plane's own identity, whose chain ends in the roots themselves, so that a proxy which
    /// knows a root only by its fingerprint finds it there.
    ///
    /// # Errors
    /// As [`sign`](Self::sign).
    pub fn server_svid(&self) -> Result<Svid, SignError> {
        let id = SpiffeId::control_plane(self.trust_domain());
        let request = KeyRequest::generate(&id)?;
        let mut chain = self.sign(request.csr_der(), &id)?.to_der();
        let current = self.current();
        chain.extend(current.state.trusted_roots().map(|root| root.certificate.to_vec()));
        request
            .into_svid(chain, &current.bundle, self.clock.now())
            .map_err(|error| SignError::Own(Box::new(error)))
    }

    /// Does whatever is due: renews the issuer at half life and moves the rotation of the root along.
    ///
    /// Call it at [`next_due`](Self::next_due), and push what changed.
    ///
    /// # Errors
    /// Nothing was done: a certificate cannot be made, or the state or the copy of the bundle beside it cannot be
    /// written. Try again with backoff.
    pub fn tick(&self) -> Result<Changes, RotationError> {
        // A clock that jumps by years makes several steps due at once; this many in a row would be a defect.
        const MOST: usize = 8;
        let mut changes = Changes::default();
        for _ in 0..MOST {
            let changing = self.changing();
            let now = self.clock.now();
            let step = schedule::next(&self.current().state, &self.settings, self.opened_at);
            if step.at > now {
                break;
            }
            match self.take(step.step, now, &changing) {
                Ok(more) => changes = changes.and(more),
                // What was done must be told; the step that failed is still due, and fails again if it must.
                Err(_) if changes.any() => break,
                Err(error) => return Err(error),
            }
        }
        if !changes.any() && self.bundle_behind.load(Ordering::Relaxed) {
            let _changing = self.changing();
            self.bundle().save(&self.directory)?;
            self.bundle_behind.store(false, Ordering::Relaxed);
        }
        Ok(changes)
    }

    /// When [`tick`](Self::tick) has something to do again.
    pub fn next_due(&self) -> SystemTime {
        schedule::next(&self.current().state, &self.settings, self.opened_at).at
    }

    /// Makes a new issuer now. What the last one signed stays valid: its certificate is in every chain it signed.
    ///
    /// # Errors
    /// As [`tick`](Self::tick).
    pub fn rotate_issuer(&self) -> Result<Changes, RotationError> {
        let changing = self.changing();
        self.take(Step::RenewIssuer, self.clock.now(), &changing)
    }

    /// Begins to rotate the root: makes the next one, and trusts it from now on. `tick` does the rest in time.
    ///
    /// # Errors
    /// A next root is already published; or as [`tick`](Self::tick).
    pub fn publish_next_root(&self) -> Result<Changes, RotationError> {
        let changing = self.changing();
        if self.current().state.next_root().is_some() {
            return Err(RotationError::AlreadyPublished);
        }
        let trusted = self.current().state.trusted_roots().count();
        if trusted >= MOST_ROOTS {
            return Err(RotationError::TooManyRoots(trusted));
        }
        self.take(Step::PublishRoot, self.clock.now(), &changing)
    }

    /// Signs by the next root from now on, through a new issuer. The old root is trusted until it retires, and its
    /// key is destroyed.
    ///
    /// # Errors
    /// No next root is published; or as [`tick`](Self::tick).
    pub fn activate_next_root(&self) -> Result<Changes, RotationError> {
        let changing = self.changing();
        if self.current().state.next_root().is_none() {
            return Err(RotationError::NoNextRoot);
        }
        self.take(Step::ActivateRoot, self.clock.now(), &changing)
    }

    /// Trusts the old roots no longer, at once. What they vouch for stops working: `tick` does this by itself when
    /// nothing that they signed is valid any more.
    ///
    /// # Errors
    /// There is no old root; or as [`tick`](Self::tick).
    pub fn retire_old_roots(&self) -> Result<Changes, RotationError> {
        let changing = self.changing();
        if self.current().state.old_roots().next().is_none() {
            return Err(RotationError::NoOldRoot);
        }
        self.take(Step::DropOldRoots, self.clock.now(), &changing)
    }

    /// What people want to know: every root and the issuer, and when what happens next.
    pub fn status(&self) -> AuthorityStatus {
        AuthorityStatus::of(&self.current().state, self.next_due())
    }

    fn take(
        &self,
        step: Step,
        now: SystemTime,
        _changing: &MutexGuard<'_, ()>,
    ) -> Result<Changes, RotationError> {
        let before = self.current();
        let state = match step {
            Step::RenewIssuer => before.state.with_new_issuer(&self.settings, now)?,
            Step::PublishRoot => before.state.with_next_root(&self.settings, now)?,
            Step::ActivateRoot => before.state.with_next_root_active(&self.settings, now)?,
            Step::RetireRoots => before.state.without_spent_roots(now),
            Step::DropOldRoots => before.state.without_old_roots(),
        };
        let after = Current::new(state).map_err(|_| SigningError::Unusable)?;
        after.save_state(&self.directory)?;
        let changes = Changes {
            bundle: after.bundle != before.bundle,
            issuer: after.state.issuer.certificate != before.state.issuer.certificate,
        };
        // The step is taken from here on, so a copy that cannot be written must not make it look undone.
        let behind = changes.bundle && after.bundle.save(&self.directory).is_err();
        self.bundle_behind.fetch_or(behind, Ordering::Relaxed);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(changes)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn new(state: State) -> Result<Self, BundleError> {
        let roots = state.trusted_roots().map(|root| root.certificate.to_vec());
        let bundle = TrustBundle::from_der(state.trust_domain.clone(), roots)?;
        Ok(Self { state, bundle })
    }

    fn save_state(&self, directory: &Path) -> Result<(), FileError> {
        files::write_atomic(&directory.join(STATE_FILE), &self.state.to_json(), files::PRIVATE)
    }
}

/// Takes the lock that keeps two control planes from rotating the same authority apart from each other.
///
/// The kernel drops it with the process, however that ends. An authority that was closed a moment ago in this
/// process may still be on its way out, so a short wait is allowed.
fn lock(directory: &Path) -> Result<File, AuthorityError> {
    const TRIES: usize = 40;
    const PAUSE: Duration = Duration::from_millis(25);
    let path = directory.join(LOCK_FILE);
    let failed = |source| FileError::Io { action: "lock", path: path.clone(), source };
    let mut options = File::options();
    options.create(true).truncate(false).write(true).mode(files::PRIVATE);
    let file = options.open(&path).map_err(failed)?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(source).into()),
        }
    }
    Err(AuthorityError::InUse(directory.to_owned()))
}

#[cfg(test)]
mod tests;
