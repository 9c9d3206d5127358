//! What an authority does next, and when: a decision without I/O.

use std::time::SystemTime;

use super::AuthoritySettings;
use super::state::State;

/// One change of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    RenewIssuer,
    PublishRoot,
    ActivateRoot,
    /// Those whose time has come.
    RetireRoots,
    /// All that are old, whatever they still vouch for.
    DropOldRoots,
}

/// A step and when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: SystemTime,
    pub(super) step: Step,
}

/// The step that is due first. `opened_at` is since when this process can have told proxies of a next root.
pub(super) fn next(state: &State, settings: &AuthoritySettings, opened_at: SystemTime) -> Due {
    let root = state.active_root().validity;
    let margin = settings.svid_ttl.min(root.lifetime() / 8);
    let rotation = match state.next_root() {
        None => Due { at: root.half_life(), step: Step::PublishRoot },
        Some(next) => {
            // A control plane that was away has not pushed the next root to anybody, so its wait starts anew,
            // but not past the moment from which the old root could not vouch for a whole certificate.
            let told = next.since.max(opened_at) + margin;
            Due { at: told.min(root.not_after - margin), step: Step::ActivateRoot }
        }
    };
    let renewal = Due { at: state.issuer.validity.half_life(), step: Step::RenewIssuer };
    let retirement = state
        .old_roots()
        .filter_map(|root| root.retire_at)
        .min()
        .map(|at| Due { at, step: Step::RetireRoots });
    // Where two are due at once the root's comes first: its activation brings a new issuer along.
    [Some(rotation), retirement, Some(renewal)]
        .into_iter()
        .flatten()
        .min_by_key(|due| due.at)
        .expect("there is always a next rotation")
}
