//! The limits of the whole mesh that this proxy enforces: what it says of them to the control plane, and what it is
//! told.
//!
//! The proxy says how much it is asked for, whenever that is another amount than it said last, and nothing while it
//! stays the same. What it is told is its part. Without the control plane it keeps that for a while, since the others
//! keep theirs; after that everybody goes over to an equal part of what all were told to be sharing. Both add up to
//! the whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;
use tokio::time::Instant;

use crate::rate_limit::State;

/// How often it is looked how much is asked for.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// A part is kept for so long without the control plane.
const KEEP: Duration = Duration::from_secs(10);
/// The time over which demand is averaged, seconds.
const MEMORY: f64 = 1.0;
/// A change that is worth a message: as a share of the demand, and as one of the limit.
const WORTH: f64 = 0.05;
const WORTH_OF_LIMIT: f64 = 0.002;
/// Limits that are spoken of.
const MOST: usize = 256;

/// One limit, as it is asked for here.
#[derive(Debug)]
struct Known {
    state: Arc<State>,
    /// Requests so far.
    total: u64,
    /// Requests a second, as a multiple of the limit.
    asked: f64,
    /// What was said of that last.
    said: Option<f64>,
    /// How many proxies share the limit, as was told last; 0 before.
    holders: u32,
}

/// All of them, by id.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    known: HashMap<Arc<str>, Known>,
    looked: Option<Instant>,
    /// When the stream was lost, until its consequence has been drawn.
    lost: Option<Instant>,
}

impl Fleet {
    /// Whether there is anything to look at.
    pub(super) fn is_needed(&self) -> bool {
        !self.known.is_empty()
    }

    /// These are the limits of the mesh that are in force from now on.
    pub(super) fn follow(&mut self, limits: Vec<(Arc<str>, Arc<State>)>) {
        let mut before = std::mem::take(&mut self.known);
        for (id, state) in limits.into_iter().take(MOST) {
            let known = before.remove(&id).filter(|known| Arc::ptr_eq(&known.state, &state));
            let known = known.unwrap_or_else(|| {
                let total = state.share.as_ref().map_or(0, |share| share.total());
                Known { state, total, asked: 0.0, said: None, holders: 0 }
            });
            self.known.insert(id, known);
        }
    }

    /// A stream began: everything is to be said again.
    pub(super) fn opened(&mut self) {
        self.lost = None;
        self.known.values_mut().for_each(|known| known.said = None);
    }

    /// The stream was lost.
    pub(super) fn lost(&mut self, now: Instant) {
        self.lost.get_or_insert(now);
    }

    /// The control plane says what is this proxy's.
    pub(super) fn lease(&mut self, lease: &v1::RateLease, now: Duration) {
        let Some(known) = self.known.get_mut(lease.limit.as_str()) else { return }; // it has just been taken back
        known.holders = lease.holders;
        if lease.part.is_finite() {
            known.state.set_part(lease.part, now);
        }
    }

    /// Looks at what was asked for since the last time. Returns what to say of it, if anything.
    pub(super) fn look(&mut self, now: Instant, since_start: Duration) -> Option<v1::RateDemand> {
        let passed = self.looked.replace(now).map(|before| now.duration_since(before).as_secs_f64());
        if self.lost.is_some_and(|lost| now.duration_since(lost) >= KEEP) {
            self.lost = None;
            self.fall_back(since_start);
        }
        let mut limits = Vec::new();
        for (id, known) in &mut self.known {
            known.look(passed);
            if known.is_news() {
                known.said = Some(known.asked);
                limits.push(known.demand(id));
            }
        }
        (!limits.is_empty()).then_some(v1::RateDemand { limits })
    }

    /// Everybody has an equal part now.
    fn fall_back(&self, now: Duration) {
        for known in self.known.values().filter(|known| known.holders > 0) {
            known.state.set_part(1.0 / f64::from(known.holders), now);
        }
    }
}

impl Known {
    fn look(&mut self, passed: Option<f64>) {
        let total = self.state.share.as_ref().map_or(0, |share| share.total());
        let asked = total - std::mem::replace(&mut self.total, total);
        let Some(passed) = passed.filter(|passed| *passed > 0.0) else { return };
        let asked = asked as f64 / passed / self.state.whole_per_second();
        self.asked += (asked - self.asked) * (1.0 - (-passed / MEMORY).exp());
        if self.asked < WORTH_OF_LIMIT / 2.0 {
            self.asked = 0.0;
        }
    }

    fn is_news(&self) -> bool {
        let Some(said) = self.said else { return true };
        (self.asked - said).abs() > (said.max(self.asked) * WORTH).max(WORTH_OF_LIMIT)
    }

    fn demand(&self, id: &str) -> v1::LimitDemand {
        let part = self.state.share.as_ref().map_or(0.0, |share| share.part());
        v1::LimitDemand { limit: id.to_owned(), asked: self.asked, part, holders: self.holders }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::Request;

    use super::*;
    use crate::access::Shown;
    use crate::rate_limit::{Asker, Rate, RateLimit, RateLimits, quota};

    const SECOND: Duration = Duration::from_secs(1);

    /// One limit of 100 a second, and the fleet that follows it.
    struct Proxy {
        limits: RateLimits,
        fleet: Fleet,
        began: Instant,
        now: Instant,
    }

    impl Proxy {
        fn new() -> Self {
            let rate = Rate::new(100, SECOND, 100);
            let limit = RateLimit {
                id: "l".into(),
                policy: "shop/l".into(),
                name: "l".into(),
                rate,
                by: Vec::new(),
                matches: Vec::new(),
                told: false,
                quota: quota("l", 100, SECOND),
                state: Arc::new(State::new(rate, false, true)),
            };
            let mut fleet = Fleet::default();
            fleet.follow(vec![(limit.id.clone(), limit.state.clone())]);
            let now = Instant::now();
            Self { limits: RateLimits(vec![limit]), fleet, began: now, now }
        }

        /// Is asked so often for a second; returns what it said, and how many it admitted.
        fn second(&mut self, requests: u32) -> (Vec<v1::LimitDemand>, usize) {
            let head = Request::get("/").body(()).unwrap().into_parts().0;
            let (mut said, mut admitted) = (Vec::new(), 0);
            for quarter in 0..4 {
                let end = self.now + LOOK;
                for n in 0..requests / 4 {
                    let at = self.now + LOOK * n / (requests / 4) - self.began;
                    let asker = Asker {
                        head: &head,
                        identity: None,
                        shown: Shown::default(),
                        address: IpAddr::from([127, 0, 0, 1]),
                    };
                    admitted += usize::from(self.limits.ask(&asker, at + SECOND).refused_by.is_none());
                }
                self.now = end;
                let demand = self.fleet.look(self.now, self.now - self.began + SECOND);
                said.extend(demand.into_iter().flat_map(|demand| demand.limits));
                assert!(quarter < 4);
            }
            (said, admitted)
        }

        fn lease(&mut self, part: f64, holders: u32) {
            let lease = v1::RateLease { limit: "l".to_owned(), part, holders };
            self.fleet.lease(&lease, self.now - self.began + SECOND);
        }
    }

    #[test]
    fn demand_is_said_when_it_changes_and_not_while_it_stays() {
        let mut proxy = Proxy::new();
        let (said, _) = proxy.second(0);
        assert_eq!(said.len(), 1, "that the proxy is there");
        assert_eq!((said[0].asked, said[0].holders), (0.0, 0));
        assert_eq!(proxy.second(0).0, [], "idle");
        assert!(!proxy.second(200).0.is_empty());
        for _ in 0..5 {
            proxy.second(200);
        }
        let (said, _) = proxy.second(200);
        assert_eq!(said, [], "it has settled");
        proxy.fleet.opened();
        let (said, _) = proxy.second(200);
        assert!((1.9..=2.1).contains(&said[0].asked), "refused requests are demand, too: {said:?}");
    }

    #[test]
    fn what_was_never_leased_is_small_and_a_lease_is_what_is_admitted() {
        let mut proxy = Proxy::new();
        let (_, admitted) = proxy.second(400);
        assert!(admitted <= 10, "{admitted}");
        proxy.lease(0.5, 2);
        let (_, admitted) = proxy.second(400);
        assert!((45..=56).contains(&admitted), "{admitted}");
    }

    #[test]
    fn without_the_control_plane_a_part_is_kept_for_a_while_and_then_is_an_equal_one() {
        let mut proxy = Proxy::new();
        proxy.second(0);
        proxy.lease(0.7, 4);
        proxy.second(400);
        proxy.fleet.lost(proxy.now);
        for _ in 0..9 {
            let (_, admitted) = proxy.second(400);
            assert!((65..=75).contains(&admitted), "{admitted}");
        }
        proxy.second(400);
        proxy.second(400);
        let (_, admitted) = proxy.second(400);
        assert!((23..=27).contains(&admitted), "{admitted}");
    }
}
