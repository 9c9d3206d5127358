//! A service's endpoints, brought up to date by whole sets and by changes.
//!
//! What did not change keeps its `Arc`: a worker sees by the pointer that an endpoint is the one whose latency
//! and breaker it knows, and a push of one new instance costs nothing for the thousand old ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::snapshot::{Endpoint, Endpoints};

/// What one update does to the set before it.
#[derive(Debug)]
pub(super) struct Change {
    /// The control plane's count.
    pub(super) version: u64,
    /// The changed ones are the whole set.
    pub(super) whole: bool,
    /// New, or new in some field.
    pub(super) changed: Vec<Endpoint>,
    /// Ids that are gone.
    pub(super) removed: Vec<String>,
}

/// The set after `change`.
pub(super) fn changed(before: Option<&Endpoints>, change: Change) -> Endpoints {
    let old: BTreeMap<&str, &Arc<Endpoint>> =
        before.map_or_else(BTreeMap::new, |set| set.all.iter().map(|e| (&*e.id, e)).collect());
    let mut new: BTreeMap<Arc<str>, Arc<Endpoint>> = if change.whole {
        BTreeMap::new()
    } else {
        old.values().map(|e| (e.id.clone(), Arc::clone(e))).collect()
    };
    // Removed first: an id in both lists is an endpoint that came back.
    for id in &change.removed {
        new.remove(id.as_str());
    }
    for endpoint in change.changed {
        let shared = match old.get(&*endpoint.id) {
            Some(known) if ***known == endpoint => Arc::clone(known),
            _ => Arc::new(endpoint),
        };
        new.insert(shared.id.clone(), shared);
    }
    Endpoints { version: change.version, all: new.into_values().collect() }
}

/// Whether the two sets say the same, so that nothing need be published.
pub(super) fn same(a: &Endpoints, b: &Endpoints) -> bool {
    a.version == b.version
        && a.all.len() == b.all.len()
        && a.all.iter().zip(&b.all).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, healthy: bool) -> Endpoint {
        Endpoint {
            id: id.into(),
            address: "127.0.0.1:4743".parse().unwrap(),
            identity: "spiffe://outrigger.local/ns/shop/sa/payments".parse().unwrap(),
            zone: "".into(),
            healthy,
            ports: vec![80],
        }
    }

    fn set(ids: &[&str]) -> Endpoints {
        changed(
            None,
            Change {
                version: 1,
                whole: true,
                changed: ids.iter().map(|id| endpoint(id, true)).collect(),
                removed: vec![],
            },
        )
    }

    fn ids(set: &Endpoints) -> Vec<&str> {
        set.all.iter().map(|e| &*e.id).collect()
    }

    #[test]
    fn a_change_keeps_the_rest_and_their_pointers() {
        let before = set(&["b", "a", "c"]);
        assert_eq!(ids(&before), ["a", "b", "c"], "sorted by id");
        let change = Change {
            version: 2,
            whole: false,
            changed: vec![endpoint("d", true), endpoint("a", false)],
            removed: vec!["b".into()],
        };
        let after = changed(Some(&before), change);
        assert_eq!(ids(&after), ["a", "c", "d"]);
        assert!(!after.all[0].healthy);
        assert!(Arc::ptr_eq(&after.all[1], &before.all[2]), "c is the same endpoint");
        assert_eq!(after.version, 2);
    }

    #[test]
    fn a_whole_set_replaces_and_shares_what_is_equal() {
        let before = set(&["a", "b"]);
        let change = Change {
            version: 9,
            whole: true,
            changed: vec![endpoint("b", true), endpoint("c", true)],
            removed: vec![],
        };
        let after = changed(Some(&before), change);
        assert_eq!(ids(&after), ["b", "c"]);
        assert!(Arc::ptr_eq(&after.all[0], &before.all[1]));
        assert!(!same(&before, &after));
        let again = changed(
            Some(&after),
            Change {
                version: 9,
                whole: true,
                changed: vec![endpoint("c", true), endpoint("b", true)],
                removed: vec![],
            },
        );
        assert!(same(&after, &again));
    }

    #[test]
    fn an_id_removed_and_changed_in_one_update_stays() {
        let change = Change {
            version: 2,
            whole: false,
            changed: vec![endpoint("a", true)],
            removed: vec!["a".into(), "unknown".into()],
        };
        assert_eq!(ids(&changed(Some(&set(&["a"])), change)), ["a"]);
    }
}
