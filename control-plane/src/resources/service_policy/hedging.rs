//! When a second attempt is sent while the first is late.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refuse_zero;
use crate::resources::{FieldPath, Period, Problems};

/// Sends a further attempt to another endpoint while there is no answer yet; the first good answer counts. Only for
/// requests that may be repeated: methods that are idempotent, or any with `defaults.retry.nonIdempotent`. Each is charged
/// to the retry budget. One of `delay` and `percentile` says when an attempt is late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hedging {
    /// An attempt is late after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Period>,
    /// An attempt is late after the time in which so many of a hundred requests have been answered lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub percentile: Option<u8>,
    /// Attempts beside the first, each when the one before is late. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub max_extra: Option<u32>,
}

impl Hedging {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if self.delay.is_some() == self.percentile.is_some() {
            problems.error(path, "must have one of delay and percentile");
        }
        refuse_zero(&path.field("delay"), self.delay, problems);
    }
}
