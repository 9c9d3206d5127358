//! The store of documents: every change an event, kept in SQLite, published as one immutable set.
//!
//! ```text
//! changes ─► plan (pure: what becomes of each document) ─► one transaction, fsynced ─► Documents published
//! ```
//!
//! A change is acknowledged after it is on disk (WAL, `synchronous=FULL`), and published after that, in the
//! order of the revisions; a process killed at any moment loses nothing that it acknowledged, and never shows half
//! of an apply. One process at a time owns a data directory. SQLite blocks, so it runs off the runtime's threads.

pub(crate) mod database;
mod event;
mod lock;
mod plan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_certs::Clock;
use outrigger_certs::files::{self, FileError};
use tokio::sync::watch;

use crate::resources::{Documents, ResourceKey};
use database::Database;
use lock::DirectoryLock;

pub use event::{Event, HistoryPage, HistoryQuery, Outcome};
pub(crate) use plan::new_uid;
pub use plan::{Applied, AppliedChange, Change, DryRun};

/// The documents of the mesh, their history and the join tokens, in one directory.
#[derive(Debug)]
pub struct Store {
    database: Mutex<Database>,
    documents: watch::Sender<Arc<Documents>>,
    clock: Arc<dyn Clock>,
    /// Held for as long as the store lives.
    _lock: DirectoryLock,
}

/// Why the store cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process owns the directory.
    #[error(
        "{directory} is in use by another control plane{}; stop that one, or give this one a directory of its own",
        owner.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        directory = .directory.display()
    )]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The process that wrote its id into the lock.
        owner: Option<u32>,
    },
    /// The directory or a file in it cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The lock file cannot be used.
    #[error("cannot lock {path}", path = .path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A newer version wrote the store.
    #[error(
        "{path} has format {found}, and this version reads up to {known}; run the version that wrote it, or a newer one",
        path = .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// The file is an SQLite database of something else.
    #[error("{path} is not a store of Outrigger; give the control plane a directory of its own", path = .path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A stored document cannot be read.
    #[error("the stored {key} cannot be read: {reason}")]
    Document {
        /// What it is.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The database cannot be opened: no permission, or a damaged file.
    #[error("cannot open {path}", path = .path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// SQLite failed: a full disk, a damaged file.
    #[error("the store failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The system gave no random numbers for a new identifier.
    #[error("the system has no random numbers")]
    Randomness,
    /// The runtime is shutting down.
    #[error("the control plane is stopping")]
    Stopping,
}

/// Why a set of changes was not applied. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else changed the document since the caller read it.
    #[error(
        "{key} is at version {}, not {expected}; read it again and repeat the change",
        found.as_deref().unwrap_or("none, as it does not exist")
    )]
    Conflict {
        /// The document.
        key: ResourceKey,
        /// The resourceVersion or uid that the caller had.
        expected: String,
        /// The one that it has; none where the document does not exist.
        found: Option<String>,
    },
    /// There is no such document.
    #[error("there is no {0}")]
    NotFound(ResourceKey),
    /// The revision is not in the history.
    #[error("revision {revision} is not in the history, which goes from {oldest} to {newest}")]
    Revision {
        /// What was asked for.
        revision: u64,
        /// The oldest revision that can be gone back to.
        oldest: u64,
        /// The present revision.
        newest: u64,
    },
    /// What an older version accepted is not valid any more.
    #[error("{key} of that revision is not valid any more: {problem}")]
    Outdated {
        /// The document.
        key: ResourceKey,
        /// The first problem.
        problem: String,
    },
    /// There are as many documents as the store holds.
    #[error("the store holds {0} documents and takes no more; delete some")]
    Full(usize),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens the store in a directory, which is made if it is not there. Blocks on the disk.
    ///
    /// # Errors
    /// The directory is in use by another process, cannot be used, or holds what this version cannot read.
    pub fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StoreError> {
        files::create_private_directory(directory)?;
        let lock = DirectoryLock::take(directory)?;
        let path = directory.join("store.db");
        let (database, documents) = Database::open(&path).map_err(|error| match error {
            StoreError::Sqlite(source) => StoreError::Open { path, source },
            other => other,
        })?;
        let (documents, _) = watch::channel(Arc::new(documents));
        Ok(Arc::new(Self { database: Mutex::new(database), documents, clock, _lock: lock }))
    }

    /// The documents as they are now.
    pub fn current(&self) -> Arc<Documents> {
        self.documents.borrow().clone()
    }

    /// The documents, and every later set of them. A slow reader sees the newest and skips what was between.
    pub fn changes(&self) -> watch::Receiver<Arc<Documents>> {
        self.documents.subscribe()
    }

    /// Applies changes, all or none, as one revision. Returns after they are on disk. Changes that change nothing
    /// make no revision and no event.
    ///
    /// Dropping the future does not stop the change.
    ///
    /// # Errors
    /// The first change that cannot be made; none was.
    pub async fn apply(
        self: &Arc<Self>,
        changes: Vec<Change>,
        who: &str,
        dry_run: DryRun,
    ) -> Result<Applied, ApplyError> {
        let who = who.to_owned();
        self.blocking(move |store, database| store.apply_now(database, changes, &who, "apply", dry_run))
            .await?
    }

    /// Makes the documents what they were at a revision, as a new revision.
    ///
    /// # Errors
    /// The revision is not in the history, or something of it is not valid any more.
    pub async fn rollback(
        self: &Arc<Self>,
        revision: u64,
        who: &str,
        dry_run: DryRun,
    ) -> Result<Applied, ApplyError> {
        let who = who.to_owned();
        self.blocking(move |store, database| {
            let newest = store.current().revision;
            let oldest = database.oldest_revision()?;
            if !(oldest..=newest).contains(&revision) {
                return Err(ApplyError::Revision { revision, oldest, newest });
            }
            let changes = database.changes_back_to(revision)?;
            store.apply_now(database, changes, &who, &format!("rollback to {revision}"), dry_run)
        })
        .await?
    }

    /// Events, newest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn history(self: &Arc<Self>, query: HistoryQuery) -> Result<HistoryPage, StoreError> {
        self.blocking(move |_, database| database.history(&query)).await?
    }

    fn apply_now(
        &self,
        database: &mut Database,
        changes: Vec<Change>,
        who: &str,
        cause: &str,
        dry_run: DryRun,
    ) -> Result<Applied, ApplyError> {
        let now = self.clock.now();
        let plan = plan::plan(&self.current(), changes, now, dry_run)?;
        if dry_run == DryRun::No && plan.changes_anything() {
            database.write(&plan.applied, event::Origin { at: now, who, cause })?;
            self.documents.send_replace(Arc::new(plan.documents));
        }
        Ok(plan.applied)
    }

    /// Runs a piece of work on the database, one at a time, on a thread that may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Database) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            // A panic in the midst of a transaction rolled it back, so the database is whole in any case.
            let mut database = store.database.lock().unwrap_or_else(PoisonError::into_inner);
            work(&store, &mut database)
        });
        match task.await {
            Ok(result) => Ok(result),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Stopping),
            },
        }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }
}
