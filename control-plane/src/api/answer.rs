//! What the REST API takes and answers beside the documents themselves: plain data, written here and read by the
//! command line.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::resources::DocumentProblem;
use crate::store::{Applied, AppliedChange, Outcome};

/// What an apply, a diff, a rollback or a deletion did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyAnswer {
    /// The store's revision afterwards; the present one where nothing changed and after a dry run.
    pub revision: u64,
    /// Nothing was changed, only checked.
    pub dry_run: bool,
    /// One per document, in the order of the request.
    pub changes: Vec<ChangeAnswer>,
    /// What was accepted, and is most likely not what was meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<DocumentProblem>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeAnswer {
    /// The document's kind.
    pub kind: String,
    /// The document's namespace, empty where its kind has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The document's name.
    pub name: String,
    /// What became of it.
    pub change: Outcome,
    /// Its version afterwards; absent where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// The change as a unified diff of YAML, for a diff and a dry run. Empty where nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// Documents that are fine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateAnswer {
    /// How many there are.
    pub documents: usize,
    /// What is accepted, and is most likely not what was meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<DocumentProblem>,
}

/// Asks for a rollback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision whose documents come back.
    pub revision: u64,
}

/// Asks for a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTokenRequest {
    /// The namespace of the identity.
    pub namespace: String,
    /// The service account of the identity.
    pub service_account: String,
    /// How long the token is good for, as in `1h` or `15m`. Default: `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// A new join token. The secret is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateTokenAnswer {
    /// What the proxy is given.
    pub token: String,
    /// The token's id, to revoke it by.
    pub id: String,
    /// The namespace of the identity.
    pub namespace: String,
    /// The service account of the identity.
    pub service_account: String,
    /// Until when it is good, RFC 3339.
    pub expires_at: String,
}

impl std::fmt::Debug for CreateTokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateTokenAnswer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListAnswer<T> {
    /// What is in it.
    pub items: Vec<T>,
}

/// The control plane serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthAnswer {
    /// `ok`.
    pub status: String,
    /// The software's version.
    pub version: String,
}

/// Every error has this form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorContent,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorContent {
    /// One word for programs: `Invalid`, `Conflict`, `NotFound`, `Unauthorized`, ...
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The problems one by one, where documents or fields are to blame.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<DocumentProblem>,
}

impl ApplyAnswer {
    /// Tells what was applied; after a dry run with diffs.
    pub(crate) fn new(applied: &Applied, dry_run: bool, warnings: Vec<DocumentProblem>) -> Self {
        let changes = applied.changes.iter().map(|change| ChangeAnswer::new(change, dry_run)).collect();
        Self { revision: applied.revision, dry_run, changes, warnings }
    }
}

impl ChangeAnswer {
    fn new(change: &AppliedChange, diff: bool) -> Self {
        let new = change.new.as_ref();
        Self {
            kind: change.key.kind.to_string(),
            namespace: change.key.namespace.clone(),
            name: change.key.name.clone(),
            change: change.outcome,
            resource_version: new.and_then(|new| new.metadata().resource_version.clone()),
            diff: diff.then(|| crate::diff::unified(change.old.as_ref(), new)),
        }
    }
}
