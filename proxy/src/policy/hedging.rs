//! When a second attempt goes beside the first.

use outrigger_api::v1;
use v1::hedging::After;

use super::backend::required;
use super::problem::{Path, Problems};
use crate::hedge::{HedgeAfter, HedgePolicy};

/// More than this many at once would not be hedging any more.
const MOST_EXTRA: u32 = 4;

/// Reads when to hedge; absent is never.
pub(super) fn read(
    raw: Option<&v1::Hedging>,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<Box<HedgePolicy>> {
    let raw = raw?;
    if !(1..=MOST_EXTRA).contains(&raw.max_extra) {
        problems.add(&path.field("maxExtra"), format!("{} is not 1 to {MOST_EXTRA}", raw.max_extra));
    }
    let after = match problems.present(raw.after.as_ref(), &path.field("after"))? {
        After::Delay(delay) => HedgeAfter::Delay(required(Some(delay), &path.field("delay"), problems)?),
        After::Percentile(number) => {
            match u8::try_from(*number).ok().filter(|number| (1..=99).contains(number)) {
                Some(percentile) => HedgeAfter::Percentile(percentile),
                None => {
                    problems.add(&path.field("percentile"), format!("{number} is not 1 to 99"));
                    return None;
                }
            }
        }
    };
    Some(Box::new(HedgePolicy { after, max_extra: raw.max_extra }))
}
