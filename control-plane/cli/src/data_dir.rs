//! Where a control plane keeps its data when nobody says otherwise, and so where its admin token is found.

use std::path::PathBuf;

/// The file in a data directory that holds the admin's bearer token.
pub(crate) const ADMIN_TOKEN: &str = "admin.token";

/// `~/.local/share/outrigger`, or `/var/lib/outrigger` for a user without a home.
pub(crate) fn default_data_dir() -> PathBuf {
    match std::env::home_dir() {
        Some(home) if home.is_absolute() => home.join(".local/share/outrigger"),
        _ => PathBuf::from("/var/lib/outrigger"),
    }
}
