//! What a set of changes makes of the documents: pure, so that it can be tested and run dry.
//!
//! Here documents get what an API server keeps: `uid`, `creationTimestamp`, `generation` (counts changes of the
//! spec) and `resourceVersion` (the revision of the last change).

use std::time::SystemTime;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::event::Outcome;
use super::{ApplyError, StoreError};
use crate::resources::{Documents, Resource, ResourceKey};

/// The store takes no more documents than this.
pub(crate) const MOST_DOCUMENTS: usize = 20_000;

/// Whether changes are made, or only shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRun {
    /// They are made.
    #[default]
    No,
    /// They are checked and shown.
    Yes,
}

/// One change of one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The document becomes this, whether or not it is there. A `resourceVersion` or `uid` in its metadata must be
    /// the current one.
    Put(Resource),
    /// The document goes. It must be there, at this version where one is given.
    Delete {
        /// The document.
        key: ResourceKey,
        /// The version that it must have.
        resource_version: Option<String>,
    },
    /// The document becomes what it was once, identity included; `None`: it was not there.
    Restore {
        /// The document.
        key: ResourceKey,
        /// As it was.
        resource: Option<Resource>,
    },
}

/// What a set of changes did, or would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The store's revision afterwards.
    pub revision: u64,
    /// One per change, in the same order.
    pub changes: Vec<AppliedChange>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedChange {
    /// The document.
    pub key: ResourceKey,
    /// What became of it.
    pub outcome: Outcome,
    /// As it was.
    pub old: Option<Resource>,
    /// As it is now.
    pub new: Option<Resource>,
}

/// What will be, before it is written.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) applied: Applied,
    /// The whole set afterwards.
    pub(crate) documents: Documents,
}

impl Plan {
    pub(crate) fn changes_anything(&self) -> bool {
        self.applied.changes.iter().any(|change| change.outcome != Outcome::Unchanged)
    }
}

/// Works out what becomes of each document. A dry run names the revision that a real one would make.
pub(crate) fn plan(
    current: &Documents,
    changes: Vec<Change>,
    now: SystemTime,
    dry_run: DryRun,
) -> Result<Plan, ApplyError> {
    let mut documents = current.clone();
    let revision = current.revision + 1;
    let mut applied = Vec::with_capacity(changes.len());
    for change in changes {
        let change = one(&documents, change, revision, now)?;
        match (&change.outcome, &change.new) {
            (Outcome::Unchanged, _) => {}
            (_, Some(resource)) => documents.insert(resource.clone()),
            (_, None) => documents.remove(&change.key),
        }
        applied.push(change);
    }
    if documents.len() > MOST_DOCUMENTS && documents.len() > current.len() {
        return Err(ApplyError::Full(MOST_DOCUMENTS));
    }
    documents.revision = revision;
    let mut plan = Plan { applied: Applied { revision, changes: applied }, documents };
    if dry_run == DryRun::Yes || !plan.changes_anything() {
        plan.applied.revision = current.revision;
    }
    Ok(plan)
}

fn one(
    documents: &Documents,
    change: Change,
    revision: u64,
    now: SystemTime,
) -> Result<AppliedChange, ApplyError> {
    match change {
        Change::Put(resource) => {
            let key = resource.key();
            let old = documents.resource(&key);
            check_precondition(&key, resource.metadata(), old.as_ref())?;
            let written = metadata_of_user(resource.metadata());
            let resource = resource.with_metadata(written);
            put(key, resource, old, revision, now)
        }
        Change::Delete { key, resource_version } => {
            let Some(old) = documents.resource(&key) else { return Err(ApplyError::NotFound(key)) };
            let wanted = ObjectMeta { resource_version, ..ObjectMeta::default() };
            check_precondition(&key, &wanted, Some(&old))?;
            Ok(AppliedChange { key, outcome: Outcome::Deleted, old: Some(old), new: None })
        }
        Change::Restore { key, resource } => {
            let old = documents.resource(&key);
            match resource {
                Some(resource) => put(key, resource, old, revision, now),
                None => {
                    let outcome = if old.is_some() { Outcome::Deleted } else { Outcome::Unchanged };
                    Ok(AppliedChange { key, outcome, old, new: None })
                }
            }
        }
    }
}

/// A version or an identity that the caller wrote must be the document's.
fn check_precondition(
    key: &ResourceKey,
    wanted: &ObjectMeta,
    old: Option<&Resource>,
) -> Result<(), ApplyError> {
    let has = old.map(Resource::metadata);
    let pairs = [
        (&wanted.resource_version, has.and_then(|has| has.resource_version.clone())),
        (&wanted.uid, has.and_then(|has| has.uid.clone())),
    ];
    for (expected, found) in pairs {
        if let Some(expected) = expected
            && Some(expected) != found.as_ref()
        {
            return Err(ApplyError::Conflict { key: key.clone(), expected: expected.clone(), found });
        }
    }
    Ok(())
}

/// What a user decides of the metadata; the rest is the store's.
fn metadata_of_user(written: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: written.name.clone(),
        namespace: written.namespace.clone(),
        labels: written.labels.clone().filter(|labels| !labels.is_empty()),
        annotations: written.annotations.clone().filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}

fn put(
    key: ResourceKey,
    resource: Resource,
    old: Option<Resource>,
    revision: u64,
    now: SystemTime,
) -> Result<AppliedChange, ApplyError> {
    let written = metadata_of_user(resource.metadata());
    let mut metadata = match &old {
        Some(old) => with_identity_of(written, old.metadata()),
        None => with_new_identity(with_identity_of(written, resource.metadata()), now)?,
    };
    if let Some(old) = &old {
        let unchanged = resource.with_metadata(metadata.clone());
        if unchanged == *old {
            return Ok(AppliedChange {
                key,
                outcome: Outcome::Unchanged,
                new: Some(unchanged.clone()),
                old: Some(unchanged),
            });
        }
        let same_spec = resource.with_metadata(old.metadata().clone()) == *old;
        if !same_spec {
            metadata.generation = Some(metadata.generation.unwrap_or_default() + 1);
        }
    } else {
        metadata.generation = Some(metadata.generation.unwrap_or_default() + 1);
    }
    metadata.resource_version = Some(revision.to_string());
    let outcome = if old.is_some() { Outcome::Configured } else { Outcome::Created };
    Ok(AppliedChange { key, outcome, old, new: Some(resource.with_metadata(metadata)) })
}

/// Takes over what tells the document apart from namesakes, and its place in time.
fn with_identity_of(written: ObjectMeta, of: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        uid: of.uid.clone(),
        creation_timestamp: of.creation_timestamp.clone(),
        generation: of.generation,
        resource_version: of.resource_version.clone(),
        ..written
    }
}

/// Makes up what a document does not have yet; one that is restored has it.
fn with_new_identity(mut metadata: ObjectMeta, now: SystemTime) -> Result<ObjectMeta, StoreError> {
    if metadata.uid.is_none() {
        metadata.uid = Some(new_uid()?);
    }
    metadata.creation_timestamp.get_or_insert_with(|| Time(whole_seconds(now)));
    Ok(metadata)
}

/// Times of documents have whole seconds, as an API server's have.
fn whole_seconds(now: SystemTime) -> Timestamp {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// A random UUID (RFC 9562 version 4).
pub(crate) fn new_uid() -> Result<String, StoreError> {
    let mut bytes = [0u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::Randomness)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
