//! The SQLite file: its format, what is read at the start, what is written with a change.
//!
//! `documents` is the present, `events` the past; both change in one transaction. The present could be replayed
//! from the past, but history is cut at a length and the present never is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, named_params, params};
use serde_json::Value;

use super::event::{Event, HistoryPage, HistoryQuery, Origin, Outcome};
use super::plan::{Applied, AppliedChange, Change};
use super::{ApplyError, StoreError};
use crate::resources::{Documents, Kind, Problems, Resource, ResourceKey};
use crate::status::rfc3339;

/// Marks the file as ours: "outr".
const APPLICATION_ID: i64 = 0x6f75_7472;

/// The history keeps so many events, the newest.
const MOST_EVENTS: i64 = 100_000;

/// Each step takes the format one number further; the number of steps is the format written here.
const STEPS: [&str; 1] = ["
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO facts VALUES ('revision', 0), ('oldest_revision', 0);
CREATE TABLE documents (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    at_millis INTEGER NOT NULL,
    who TEXT NOT NULL,
    cause TEXT NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    change TEXT NOT NULL,
    old TEXT,
    new TEXT
) STRICT;
CREATE INDEX events_of_document ON events (kind, namespace, name, id);
CREATE INDEX events_of_revision ON events (revision);
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    namespace TEXT NOT NULL,
    service_account TEXT NOT NULL,
    created_millis INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_millis INTEGER NOT NULL,
    used INTEGER NOT NULL DEFAULT 0,
    last_used_millis INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_hash ON tokens (secret_hash);
"];

/// The open file.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) connection: Connection,
}

impl Database {
    /// Opens or makes the file, and reads the present.
    pub(crate) fn open(path: &Path) -> Result<(Self, Documents), StoreError> {
        // Made by hand first, so that it is never readable by others; SQLite's companions take over its mode.
        let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?; // somebody may be taking a backup
        check_format(&connection, path)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        let documents = load(&connection)?;
        Ok((Self { connection }, documents))
    }

    /// Starts a transaction that holds the write lock from the beginning.
    pub(crate) fn transaction(&mut self) -> Result<Transaction<'_>, rusqlite::Error> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    /// Writes changes and their events as one revision. On disk when it returns.
    pub(crate) fn write(&mut self, applied: &Applied, origin: Origin<'_>) -> Result<(), StoreError> {
        let transaction = self.transaction()?;
        for change in applied.changes.iter().filter(|change| change.outcome != Outcome::Unchanged) {
            write_document(&transaction, change)?;
            write_event(&transaction, change, applied.revision, origin)?;
        }
        set_fact(&transaction, "revision", applied.revision)?;
        cut_history(&transaction, MOST_EVENTS)?;
        transaction.commit()?;
        Ok(())
    }

    /// The oldest revision that can be gone back to.
    pub(crate) fn oldest_revision(&self) -> Result<u64, StoreError> {
        fact(&self.connection, "oldest_revision")
    }

    /// The changes that make the documents what they were at a revision.
    pub(crate) fn changes_back_to(&self, revision: u64) -> Result<Vec<Change>, ApplyError> {
        let mut before: BTreeMap<ResourceKey, Option<String>> = BTreeMap::new();
        let mut statement = self
            .connection
            .prepare("SELECT kind, namespace, name, old FROM events WHERE revision > ?1 ORDER BY id")
            .map_err(StoreError::from)?;
        let mut rows = statement.query([signed(revision)]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            // The first event after the revision knows what the document was at it.
            if let Entry::Vacant(slot) = before.entry(key_of(row)?) {
                slot.insert(row.get(3).map_err(StoreError::from)?);
            }
        }
        before.into_iter().map(|(key, body)| restore(key, body.as_deref())).collect()
    }

    /// Cuts the history as a change does, to a length that a test can reach.
    #[cfg(test)]
    pub(crate) fn cut_history_to(&mut self, most: i64) -> Result<(), rusqlite::Error> {
        let transaction = self.transaction()?;
        cut_history(&transaction, most)?;
        transaction.commit()
    }

    /// A page of events, newest first.
    pub(crate) fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, StoreError> {
        let columns = if query.documents { "old, new" } else { "NULL, NULL" };
        let mut statement = self.connection.prepare(&format!(
            "SELECT kind, namespace, name, id, revision, at_millis, who, cause, change, {columns} FROM events
             WHERE (:kind IS NULL OR kind = :kind) AND (:namespace IS NULL OR namespace = :namespace)
               AND (:name IS NULL OR name = :name) AND (:before IS NULL OR id < :before)
             ORDER BY id DESC LIMIT :limit"
        ))?;
        let limit = query.limit.max(1);
        let mut rows = statement.query(named_params! {
            ":kind": query.kind.map(Kind::name),
            ":namespace": query.namespace,
            ":name": query.name,
            ":before": query.before.map(signed),
            ":limit": signed(limit as u64 + 1),
        })?;
        let mut items = Vec::new();
        while let Some(row) = rows.next()? {
            items.push(event_of(row)?);
        }
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(HistoryPage {
            next: items.last().filter(|_| more).map(|last| last.id),
            items,
            revision: fact(&self.connection, "revision")?,
            oldest_revision: self.oldest_revision()?,
        })
    }
}

fn check_format(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || found != 0 || tables != 0) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let known = STEPS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(())
}

/// Takes the format to the newest, all steps in one transaction.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let format: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(format).unwrap_or_default();
    if done < STEPS.len() {
        for step in &STEPS[done..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", STEPS.len() as i64)?;
    }
    transaction.commit()?;
    Ok(())
}

fn load(connection: &Connection) -> Result<Documents, StoreError> {
    let mut documents = Documents { revision: fact(connection, "revision")?, ..Documents::default() };
    let mut statement = connection.prepare("SELECT kind, namespace, name, body FROM documents")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = key_of(row)?;
        let body: String = row.get(3)?;
        documents.insert(read_body(&key, &body)?);
    }
    Ok(documents)
}

fn read_body(key: &ResourceKey, body: &str) -> Result<Resource, StoreError> {
    let unreadable = |reason: String| StoreError::Document { key: key.to_string(), reason };
    let value: Value = serde_json::from_str(body).map_err(|error| unreadable(error.to_string()))?;
    let resource = (key.kind.entry().load)(value).map_err(|error| unreadable(error.to_string()))?;
    if resource.key() != *key {
        return Err(unreadable(format!("it is {}", resource.key())));
    }
    Ok(resource)
}

/// A document of the past is held to the rules of the present.
fn restore(key: ResourceKey, body: Option<&str>) -> Result<Change, ApplyError> {
    let Some(body) = body else { return Ok(Change::Restore { key, resource: None }) };
    let resource = read_body(&key, body)?;
    let mut problems = Problems::default();
    (key.kind.entry().read)(resource.to_value(), &mut problems);
    if let Some(problem) = problems.finish().0.first() {
        let problem = format!("{}: {}", problem.field(), problem.message());
        return Err(ApplyError::Outdated { key, problem });
    }
    Ok(Change::Restore { key, resource: Some(resource) })
}

fn write_document(transaction: &Transaction<'_>, change: &AppliedChange) -> Result<(), rusqlite::Error> {
    let key = &change.key;
    match &change.new {
        Some(resource) => transaction.execute(
            "INSERT INTO documents VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, namespace, name) DO UPDATE SET body = excluded.body",
            params![key.kind.name(), key.namespace, key.name, resource.to_value().to_string()],
        ),
        None => transaction.execute(
            "DELETE FROM documents WHERE kind = ?1 AND namespace = ?2 AND name = ?3",
            params![key.kind.name(), key.namespace, key.name],
        ),
    }
    .map(drop)
}

fn write_event(
    transaction: &Transaction<'_>,
    change: &AppliedChange,
    revision: u64,
    origin: Origin<'_>,
) -> Result<(), rusqlite::Error> {
    let body =
        |resource: &Option<Resource>| resource.as_ref().map(|resource| resource.to_value().to_string());
    let key = &change.key;
    transaction.execute(
        "INSERT INTO events (revision, at_millis, who, cause, kind, namespace, name, change, old, new)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            signed(revision),
            millis(origin.at),
            origin.who,
            origin.cause,
            key.kind.name(),
            key.namespace,
            key.name,
            change.outcome.to_string(),
            body(&change.old),
            body(&change.new),
        ],
    )?;
    Ok(())
}

/// Drops the oldest events beyond the limit, and remembers how far back a rollback can still go.
fn cut_history(transaction: &Transaction<'_>, most: i64) -> Result<(), rusqlite::Error> {
    let newest: i64 =
        transaction.query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0))?;
    let last_cut = newest - most;
    let revision: Option<i64> = transaction
        .query_row("SELECT max(revision) FROM events WHERE id <= ?1", [last_cut], |row| row.get(0))
        .optional()?
        .flatten();
    if let Some(revision) = revision {
        transaction.execute("DELETE FROM events WHERE id <= ?1", [last_cut])?;
        transaction.execute("UPDATE facts SET value = ?1 WHERE name = 'oldest_revision'", [revision])?;
    }
    Ok(())
}

fn fact(connection: &Connection, name: &str) -> Result<u64, StoreError> {
    let value: i64 =
        connection.query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| row.get(0))?;
    Ok(u64::try_from(value).unwrap_or_default())
}

fn set_fact(transaction: &Transaction<'_>, name: &str, value: u64) -> Result<(), rusqlite::Error> {
    transaction.execute("UPDATE facts SET value = ?2 WHERE name = ?1", params![name, signed(value)]).map(drop)
}

/// What the first three columns name.
fn key_of(row: &Row<'_>) -> Result<ResourceKey, StoreError> {
    let kind: String = row.get(0)?;
    let (namespace, name) = (row.get(1)?, row.get(2)?);
    match Kind::ALL.into_iter().find(|known| known.name() == kind) {
        Some(kind) => Ok(ResourceKey { kind, namespace, name }),
        None => Err(StoreError::Document {
            key: format!("{kind} {namespace}/{name}"),
            reason: "this version does not know the kind".to_owned(),
        }),
    }
}

fn event_of(row: &Row<'_>) -> Result<Event, StoreError> {
    let document = |column: usize| -> Result<Option<Value>, StoreError> {
        let text: Option<String> = row.get(column)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    };
    let change: String = row.get(8)?;
    Ok(Event {
        kind: row.get(0)?,
        namespace: row.get(1)?,
        name: row.get(2)?,
        id: unsigned(row.get(3)?),
        revision: unsigned(row.get(4)?),
        at: rfc3339(time_of(row.get(5)?)),
        who: row.get(6)?,
        cause: row.get(7)?,
        change: match change.as_str() {
            "created" => Outcome::Created,
            "deleted" => Outcome::Deleted,
            _ => Outcome::Configured,
        },
        old: document(9)?,
        new: document(10)?,
    })
}

/// SQLite's integers are signed; no counter here comes near the end of them.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time so many milliseconds after 1970.
pub(crate) fn time_of(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unsigned(millis))
}
