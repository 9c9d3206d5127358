//! What a run found: the figures, what was wanted of them, and where they were measured.

use std::process::Command;

pub(crate) mod comparison;
pub(crate) mod metric;
pub(crate) mod promise;
pub(crate) mod spread;
pub(crate) mod target;

/// What is checked out here, `-dirty` with changes that are not committed; nothing outside a checkout.
pub(crate) fn checked_out() -> Option<String> {
    let describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"];
    let output = Command::new("git").args(describe).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
