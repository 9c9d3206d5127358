//! Events: what changed, when and by whom; the pages of the history.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resources::Kind;

/// Who changes documents, when and by which operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) at: SystemTime,
    pub(crate) who: &'a str,
    pub(crate) cause: &'a str,
}

/// What became of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was changed.
    Configured,
    /// It is as it was.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        })
    }
}

/// One change of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Counts up through the whole history; the place to page on from.
    pub id: u64,
    /// The revision that the change made; the changes of one apply share it.
    pub revision: u64,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Who: the authenticated name, and what the caller called himself in brackets.
    pub who: String,
    /// The operation: `apply`, `rollback to 7`.
    pub cause: String,
    /// The document's kind.
    pub kind: String,
    /// The document's namespace, empty where its kind has none.
    pub namespace: String,
    /// The document's name.
    pub name: String,
    /// What became of it.
    pub change: Outcome,
    /// The document before, where there was one and documents were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// The document after, where there is one and documents were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// A page of the history, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage {
    /// The events.
    pub items: Vec<Event>,
    /// `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The present revision.
    pub revision: u64,
    /// The oldest revision that a rollback can go back to.
    pub oldest_revision: u64,
}

/// Which part of the history is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only of this name.
    pub name: Option<String>,
    /// Only events with a smaller id.
    pub before: Option<u64>,
    /// At most so many events.
    pub limit: usize,
    /// With the documents before and after.
    pub documents: bool,
}
