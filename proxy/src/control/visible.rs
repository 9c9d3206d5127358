//! Which services may be shown to workers.
//!
//! A route is never visible before its backends: a request that takes it must find them. So a service's newest
//! policy waits until everything that its rules name has arrived, and what was shown before stays until then.
//! Services may name each other in a circle, and themselves (a canary splits a service between itself and
//! another), so the answer is the largest set that holds together, not an order.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// What one service needs and offers.
#[derive(Debug, Clone)]
pub(super) struct Candidate<'a, N> {
    /// The newest policy and a set of endpoints are here.
    pub(super) complete: bool,
    /// An older policy is shown already, or it is known that there is no such service: it keeps nobody waiting.
    pub(super) settled: bool,
    /// What the newest policy's rules name.
    pub(super) backends: &'a [N],
}

/// The complete ones of `candidates` all of whose backends are settled or in the answer too.
pub(super) fn ready<'a, N: Eq + Hash>(candidates: &HashMap<&'a N, Candidate<'a, N>>) -> HashSet<&'a N> {
    let mut ready: HashSet<&N> = candidates.iter().filter(|(_, c)| c.complete).map(|(n, _)| *n).collect();
    // Take out what lacks something until nothing does. Taking one out can only make others lack it, so the
    // result does not depend on the order.
    loop {
        let present = |name: &N| ready.contains(name) || candidates.get(name).is_some_and(|c| c.settled);
        let lacking: Vec<&N> =
            ready.iter().copied().filter(|name| !candidates[name].backends.iter().all(present)).collect();
        if lacking.is_empty() {
            return ready;
        }
        for name in lacking {
            ready.remove(name);
        }
    }
}

/// The services in `start` and everything that their rules lead to, however far.
pub(super) fn reachable<N: Eq + Hash + Clone>(
    start: impl IntoIterator<Item = N>,
    backends: impl Fn(&N) -> Vec<N>,
) -> HashSet<N> {
    let mut found: HashSet<N> = HashSet::new();
    let mut next: Vec<N> = start.into_iter().collect();
    while let Some(name) = next.pop() {
        if !found.contains(&name) {
            next.extend(backends(&name));
            found.insert(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[(&'static str, bool, bool, &'static [&'static str])]) -> Vec<&'static str> {
        let keys: Vec<&'static str> = of.iter().map(|(name, ..)| *name).collect();
        let candidates = keys
            .iter()
            .zip(of)
            .map(|(key, (_, complete, settled, backends))| {
                (key, Candidate { complete: *complete, settled: *settled, backends })
            })
            .collect();
        let mut ready: Vec<_> = ready(&candidates).into_iter().copied().collect();
        ready.sort_unstable();
        ready
    }

    #[test]
    fn a_route_waits_for_its_backends_however_far_away() {
        assert_eq!(
            names(&[("a", true, false, &["b"]), ("b", true, false, &["c"])]),
            [""; 0],
            "c was never heard of"
        );
        assert_eq!(
            names(&[("a", true, false, &["b"]), ("b", true, false, &["c"]), ("c", false, false, &[])]),
            [""; 0]
        );
        assert_eq!(
            names(&[("a", true, false, &["b"]), ("b", true, false, &["c"]), ("c", true, false, &[])]),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn circles_hold_together() {
        assert_eq!(names(&[("a", true, false, &["a"])]), ["a"]);
        assert_eq!(names(&[("a", true, false, &["b"]), ("b", true, false, &["a"])]), ["a", "b"]);
        assert_eq!(names(&[("a", true, false, &["b"]), ("b", true, false, &["a", "c"])]), [""; 0]);
    }

    #[test]
    fn an_older_version_or_a_known_absence_keeps_nobody_waiting() {
        assert_eq!(names(&[("a", true, false, &["b"]), ("b", false, true, &[])]), ["a"]);
        assert_eq!(
            names(&[("a", true, false, &["b"]), ("b", true, true, &["missing"])]),
            ["a"],
            "b's newest waits, its older serves a"
        );
    }

    #[test]
    fn reachable_follows_backends_of_backends_once() {
        let next = |name: &&str| match *name {
            "a" => vec!["b"],
            "b" => vec!["a", "c"],
            "d" => vec!["e"],
            _ => vec![],
        };
        assert_eq!(reachable(["a"], next), HashSet::from(["a", "b", "c"]));
    }
}
