//! Who of a service's endpoints can be chosen, written down once and kept while it is true.
//!
//! To go through a thousand endpoints for each request costs more than everything else about the choice. What can
//! be chosen changes only with the endpoint set, with the policy, when a breaker changes, and when the time of one that
//! is not closed is over; between these moments every pick reads the same [`Roll`].

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Member, Wish, is_panic};
use crate::breaker::Standing;
use crate::snapshot::BackendPolicy;

/// A service has a port or two; were it more, the rolls of these are kept.
const MAX_ROLLS: usize = 4;

/// What a first attempt chooses from, for one port and zone.
#[derive(Debug)]
pub(super) struct Roll {
    port: u16,
    zone: Box<str>,
    /// How often breakers had changed.
    changes: u64,
    /// It holds from here on, until the time of a breaker is over.
    made: Instant,
    ends: Option<Instant>,
    /// Endpoints that are healthy and serve the port.
    pub(super) serving: usize,
    /// So many breakers are open that they are passed over.
    pub(super) panic: bool,
    /// Those in the zone are enough.
    pub(super) prefers_zone: bool,
    /// Indexes of what the balancer chooses from: in the zone if that is preferred.
    pub(super) candidates: Vec<usize>,
    /// The first whose breaker would let a probe through.
    pub(super) due: Option<usize>,
    /// Some of them are so new that they do not get all that is due to them.
    pub(super) warming: bool,
}

/// The rolls of one service.
#[derive(Debug, Default)]
pub(super) struct Rolls(Vec<Roll>);

/// The endpoints counted.
#[derive(Debug, Default)]
struct Census {
    /// Those that are healthy and serve the port, and those of them whose breakers are not closed.
    serving: usize,
    out: usize,
    /// Those that serve the port in the caller's zone, and those of them that can be used.
    local: usize,
    local_usable: usize,
    /// When the first of the breakers changes by itself, or the first of those that are new has warmed up.
    ends: Option<Instant>,
    warming: bool,
}

impl Rolls {
    /// The roll for `port` and `zone` (empty: unknown) at `now`. `changes` counts how often breakers have changed.
    pub(super) fn roll(
        &mut self,
        port: u16,
        zone: &str,
        changes: u64,
        now: Instant,
        members: &[Member],
        policy: &BackendPolicy,
    ) -> &Roll {
        let known = self.0.iter().position(|roll| roll.port == port && *roll.zone == *zone);
        let index = known.unwrap_or_else(|| {
            if self.0.len() < MAX_ROLLS { self.0.len() } else { usize::from(port) % MAX_ROLLS }
        });
        let holds = known.is_some_and(|index| self.0[index].holds(changes, now));
        if !holds {
            let roll = Roll::new(port, zone, changes, now, members, policy);
            match self.0.get_mut(index) {
                Some(place) => *place = roll,
                None => self.0.push(roll),
            }
        }
        &self.0[index]
    }

    /// When the only roll was made.
    #[cfg(test)]
    pub(super) fn made(&self) -> Instant {
        let [roll] = &self.0[..] else { panic!("{} rolls", self.0.len()) };
        roll.made
    }

    /// Endpoints or policy have changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Roll {
    fn new(
        port: u16,
        zone: &str,
        changes: u64,
        now: Instant,
        members: &[Member],
        policy: &BackendPolicy,
    ) -> Self {
        let census = Census::of(members, port, zone, policy, now);
        let mut roll = Self {
            port,
            zone: zone.into(),
            changes,
            made: now,
            ends: census.ends,
            serving: census.serving,
            panic: is_panic(policy, census.serving, census.out),
            prefers_zone: census.prefers_zone(policy),
            candidates: Vec::new(),
            due: None,
            warming: census.warming,
        };
        let wish = Wish { port, zone: roll.prefers_zone.then_some(zone), tried: &[], panic: roll.panic };
        roll.due = gather(members, wish, now, &mut roll.candidates);
        roll
    }

    /// The candidates but those `tried`, in `others`. `None`: that takes a closer look, since the endpoints are not those
    /// from which the tried ones were chosen, or the one that is due is among them.
    pub(super) fn without<'a>(
        &self,
        tried: &[Arc<str>],
        members: &[Member],
        others: &'a mut Vec<usize>,
    ) -> Option<&'a Vec<usize>> {
        // By address: to read a thousand ids takes longer than to send the request.
        let is_tried = |member: &Member| tried.iter().any(|id| Arc::ptr_eq(id, &member.endpoint.id));
        let places = members.iter().enumerate().filter(|(_, member)| is_tried(member));
        let places: SmallVec<[usize; 4]> = places.map(|(place, _)| place).collect();
        if places.len() < tried.len() || self.due.is_some_and(|due| places.contains(&due)) {
            return None;
        }
        others.clear();
        others.extend(self.candidates.iter().filter(|place| !places.contains(place)));
        Some(others)
    }

    fn holds(&self, changes: u64, now: Instant) -> bool {
        self.changes == changes && self.made <= now && self.ends.is_none_or(|ends| now < ends)
    }
}

/// Lists those that the wish allows and that are not out. The first that is due for a probe is no candidate, but
/// given back.
pub(super) fn gather(
    members: &[Member],
    wish: Wish<'_>,
    now: Instant,
    candidates: &mut Vec<usize>,
) -> Option<usize> {
    candidates.clear();
    let mut due = None;
    for (index, Member { endpoint, learned, .. }) in members.iter().enumerate() {
        if !wish.allows(endpoint) {
            continue;
        }
        match learned.breaker.borrow().standing(now) {
            Standing::Due if !wish.panic => due = due.or(Some(index)),
            Standing::Open | Standing::HalfOpen if !wish.panic => {}
            _ => candidates.push(index),
        }
    }
    due
}

impl Census {
    fn of(members: &[Member], port: u16, zone: &str, policy: &BackendPolicy, now: Instant) -> Self {
        let mut census = Self::default();
        for Member { endpoint, learned, .. } in members {
            let breaker = learned.breaker.borrow();
            let closed = breaker.is_closed();
            let serves = endpoint.ports.contains(&port);
            let local = serves && !zone.is_empty() && *endpoint.zone == *zone;
            census.serving += usize::from(endpoint.healthy && serves);
            census.out += usize::from(endpoint.healthy && serves && !closed);
            census.local += usize::from(local);
            census.local_usable += usize::from(local && endpoint.healthy && closed);
            let warm = learned.warm_at(policy).filter(|warm| now < *warm);
            census.warming |= warm.is_some();
            census.ends = [census.ends, breaker.changes_at(now), warm].into_iter().flatten().min();
        }
        census
    }

    fn prefers_zone(&self, policy: &BackendPolicy) -> bool {
        let enough = |percent: u32| self.local_usable * 100 >= self.local * percent as usize;
        self.local_usable > 0 && policy.zone_percent.is_some_and(enough)
    }
}
