//! The registrations on disk: what a control plane that was killed knows when it starts again.
//!
//! One SQLite table beside the document store. It is written before any proxy is told of a change, so a set
//! that a proxy holds is never larger than the one that survives. The write-ahead log makes every batch all or
//! nothing; it is not synced at each commit, because a killed process loses nothing that the kernel has, and a
//! machine that lost its power has more proxies to hear of again than one.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::Connection;

use super::{ProxyId, Registration};

/// The open file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// Why the registrations cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be used at all.
    #[error(
        "registrations in {path} cannot be read: if the file is damaged, stop the control plane and remove it; proxies register again by themselves"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The file cannot be made or written to.
    #[error("registrations cannot be kept in {path}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A batch was not written.
    #[error("registrations in {path} cannot be written: is the disk full?", path = .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
}

impl Journal {
    /// Opens or makes the file, and reads what is in it. Blocks.
    ///
    /// # Errors
    /// The file is not ours to read or write, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<(ProxyId, Registration)>), JournalError> {
        let error = |source| JournalError::Open { path: path.to_owned(), source };
        // SQLite gives its other files the mode of this one.
        let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        made.map_err(|source| JournalError::File { path: path.to_owned(), source })?;
        let connection = Connection::open(path).map_err(error)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                 CREATE TABLE IF NOT EXISTS registrations (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;",
            )
            .map_err(error)?;
        let rows = read(&connection).map_err(error)?;
        Ok((Self { path: path.to_owned(), connection: Mutex::new(connection) }, rows))
    }

    /// Writes one batch, all or nothing; `None` removes. Blocks.
    ///
    /// # Errors
    /// Nothing of the batch is written then.
    pub(crate) fn write<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a ProxyId, &'a Option<Registration>)>,
    ) -> Result<(), JournalError> {
        let error = |source| JournalError::Write { path: self.path.clone(), source };
        let mut connection = self.connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let transaction = connection.transaction().map_err(error)?;
        let mut insert = transaction
            .prepare("INSERT OR REPLACE INTO registrations (id, body) VALUES (?1, ?2)")
            .map_err(error)?;
        let mut delete = transaction.prepare("DELETE FROM registrations WHERE id = ?1").map_err(error)?;
        for (id, row) in rows {
            match row.as_ref().and_then(|row| serde_json::to_string(row).ok()) {
                Some(body) => insert.execute((id.as_str(), body)).map_err(error)?,
                None => delete.execute([id.as_str()]).map_err(error)?,
            };
        }
        drop((insert, delete));
        transaction.commit().map_err(error)
    }
}

/// A row that this version cannot read is left out: its proxy will register again.
fn read(connection: &Connection) -> Result<Vec<(ProxyId, Registration)>, rusqlite::Error> {
    let mut select = connection.prepare("SELECT id, body FROM registrations ORDER BY id")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut registrations = Vec::new();
    for row in rows {
        let (id, body) = row?;
        match serde_json::from_str::<Registration>(&body) {
            Ok(registration) => registrations.push((ProxyId::from_printed(&id), registration)),
            Err(error) => {
                tracing::warn!(%id, %error, "a registration on disk cannot be read; its proxy will register again")
            }
        }
    }
    Ok(registrations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    fn registration(port: u16) -> Registration {
        Registration {
            service: "pay.shop".parse().unwrap(),
            address: ([127, 0, 0, 1], port).into(),
            identity: "spiffe://outrigger.local/ns/shop/sa/pay".parse().unwrap(),
            zone: "a".to_owned(),
            healthy: true,
            ports: BTreeMap::from([(80, 1)]),
        }
    }

    fn id(text: &str) -> ProxyId {
        ProxyId::from_printed(text)
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registrations.db");
        let (journal, before) = Journal::open(&path).unwrap();
        assert_eq!(before, []);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
        journal.write([(&id("a"), &Some(registration(1))), (&id("b"), &Some(registration(2)))]).unwrap();
        journal.write([(&id("a"), &None), (&id("b"), &Some(registration(3)))]).unwrap();
        drop(journal);
        let (_, after) = Journal::open(&path).unwrap();
        assert_eq!(after, [(id("b"), registration(3))]);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registrations.db");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(error.to_string().contains("registrations.db"), "{error}");
    }

    #[test]
    fn a_row_from_another_version_costs_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registrations.db");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.write([(&id("b"), &Some(registration(3)))]).unwrap();
        journal
            .connection
            .lock()
            .unwrap()
            .execute("INSERT INTO registrations VALUES ('a', '{}')", [])
            .unwrap();
        drop(journal);
        let (_, after) = Journal::open(&path).unwrap();
        assert_eq!(after.len(), 1);
    }
}
