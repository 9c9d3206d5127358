//! Meshes take turns on the machine where one of them measures.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The right to use the machine, with others or alone.
#[derive(Debug)]
pub(super) enum Turn {
    Shared(#[expect(dead_code, reason = "held until the mesh is dropped")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held until the mesh is dropped")] OwnedRwLockWriteGuard<()>),
}

impl Turn {
    /// Waits until no other mesh runs, or until none runs that must be alone.
    pub(super) async fn take(alone: bool) -> Self {
        if alone {
            Self::Alone(machine().write_owned().await)
        } else {
            Self::Shared(machine().read_owned().await)
        }
    }
}

/// Shared by the meshes that run in this process.
fn machine() -> Arc<RwLock<()>> {
    static MACHINE: OnceLock<Arc<RwLock<()>>> = OnceLock::new();
    Arc::clone(MACHINE.get_or_init(Arc::default))
}
