//! Limits of the whole mesh: who may use how much of one budget.
//!
//! A limit with scope `Mesh` is enforced by several proxies, each of which holds a part of it, a number from 0 to 1.
//! Proxies say how much they are asked for; parts move to where they are asked for, and only when somebody needs more
//! than it has, so that quiet traffic says nothing. What a proxy is to give up counts as its own until it has surely
//! heard of that; only what is free is given to others, so that the parts never add up to more than the whole.
//!
//! A proxy that loses this control plane keeps its part for a while and then goes over to an equal one, which it can
//! work out by itself from the number of holders that it was told last. Its part is kept for it as long as it may be
//! using it.
//!
//! Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Whoever is told of a smaller part has surely heard of it after this time.
const HEARD: Duration = Duration::from_millis(500);
/// Parts are worked out anew no oftener than this.
const PACE: Duration = Duration::from_millis(100);
/// A proxy whose stream was lost may use its part for this long: its own patience, and some more.
const LOST_FOR: Duration = Duration::from_secs(30);
/// After a start, holders that others remember are waited for this long before anybody gets more.
const GATHERING: Duration = Duration::from_secs(10);
/// A difference in a part that is worth a message, as a share of the part.
const WORTH: f64 = 0.02;
/// Asking for this much of a part means needing more.
const HUNGRY: f64 = 0.95;
/// What a holder keeps that asks for nothing, as a share of an equal part: enough for its first requests.
const LEAST: f64 = 0.01;
/// Limits at once.
const MAX_LIMITS: usize = 10_000;

/// What one proxy says of one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Demand {
    /// What it is asked for, in multiples of the whole limit.
    pub(crate) asked: f64,
    /// The part that it uses.
    pub(crate) part: f64,
    /// How many holders it was told of last; 0 if it was told nothing yet.
    pub(crate) holders: u32,
}

/// What one proxy is to be told of one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lease {
    pub(crate) part: f64,
    pub(crate) holders: u32,
}

/// All limits of the mesh, by their ids. `K` names a proxy.
#[derive(Debug)]
pub(crate) struct Leases<K> {
    budgets: HashMap<Arc<str>, Budget<K>>,
}

impl<K> Default for Leases<K> {
    fn default() -> Self {
        Self { budgets: HashMap::new() }
    }
}

#[derive(Debug)]
struct Budget<K> {
    holders: BTreeMap<K, Holder>,
    /// Somebody may need another part; to be looked at then.
    due: Option<Instant>,
    /// The most holders that any of them remembers, which are waited for until then.
    expected: (u32, Instant),
}

#[derive(Debug)]
struct Holder {
    asked: f64,
    part: f64,
    told: u32,
    /// Larger parts that it may still be using, each until then.
    before: Vec<(f64, Instant)>,
    /// Its stream was lost; it is forgotten then.
    gone: Option<Instant>,
}

impl Holder {
    /// What nobody else may have.
    fn committed(&self, now: Instant) -> f64 {
        let before = self.before.iter().filter(|(_, until)| now < *until);
        before.fold(self.part, |most, (part, _)| most.max(*part))
    }

    /// Goes on with a smaller part. What it had before that, and has surely heard the end of, is no longer its own,
    /// however often it is given less: demand falls bit by bit.
    fn shrink(&mut self, part: f64, now: Instant) {
        self.before.retain(|(_, until)| now < *until);
        self.before.push((self.part, now + HEARD));
        self.part = part;
        self.told = 0;
    }
}

impl<K: Ord + Clone> Leases<K> {
    /// Takes down what a proxy says.
    pub(crate) fn note(&mut self, limit: &str, proxy: &K, demand: Demand, now: Instant) {
        if !self.budgets.contains_key(limit) && self.budgets.len() >= MAX_LIMITS {
            return; // the proxy stays with its small or equal part
        }
        let asked = if demand.asked.is_finite() { demand.asked.clamp(0.0, 1000.0) } else { 0.0 };
        let budget = self.budgets.entry(limit.into()).or_insert_with(|| Budget {
            holders: BTreeMap::new(),
            due: None,
            expected: (0, now + GATHERING),
        });
        budget.expected.0 = budget.expected.0.max(demand.holders.min(65_536));
        let holder = budget.holders.entry(proxy.clone()).or_insert_with(|| Holder {
            asked,
            part: if demand.part.is_finite() { demand.part.clamp(0.0, 1.0) } else { 0.0 },
            told: 0,
            before: Vec::new(),
            gone: None,
        });
        (holder.asked, holder.gone) = (asked, None);
        budget.look_by(now + PACE);
    }

    /// The proxy's stream began, or began again: it is told everything anew when it says what it needs.
    pub(crate) fn forget_told(&mut self, proxy: &K) {
        for holder in self.budgets.values_mut().filter_map(|budget| budget.holders.get_mut(proxy)) {
            holder.told = 0;
        }
    }

    /// The proxy's stream was lost.
    pub(crate) fn lost(&mut self, proxy: &K, now: Instant) {
        for budget in self.budgets.values_mut() {
            if let Some(holder) = budget.holders.get_mut(proxy) {
                holder.gone = Some(now + LOST_FOR);
                budget.look_by(now + LOST_FOR);
            }
        }
    }

    /// The proxy said goodbye, or does not enforce anything any more.
    pub(crate) fn left(&mut self, proxy: &K, now: Instant) {
        self.budgets.retain(|_, budget| {
            if budget.holders.remove(proxy).is_some() {
                budget.due = Some(now);
            }
            !budget.holders.is_empty()
        });
    }

    /// Forgets holders that do not enforce their limit any more.
    pub(crate) fn retain(&mut self, enforces: impl Fn(&str, &K) -> bool, now: Instant) {
        self.budgets.retain(|limit, budget| {
            let before = budget.holders.len();
            budget.holders.retain(|proxy, holder| holder.gone.is_some() || enforces(limit, proxy));
            if budget.holders.len() < before {
                budget.due = Some(now);
            }
            !budget.holders.is_empty()
        });
    }

    /// When [`Leases::settle`] has something to do next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.budgets.values().filter_map(|budget| budget.due).min()
    }

    /// Works out who is to have what; returns whom that is news for.
    pub(crate) fn settle(&mut self, now: Instant) -> Vec<(K, Arc<str>, Lease)> {
        let mut news = Vec::new();
        self.budgets.retain(|limit, budget| {
            if budget.due.is_some_and(|due| due <= now) {
                budget.settle(now, |proxy, lease| news.push((proxy, limit.clone(), lease)));
            }
            !budget.holders.is_empty()
        });
        news
    }
}

impl<K: Ord + Clone> Budget<K> {
    fn look_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn settle(&mut self, now: Instant, mut tell: impl FnMut(K, Lease)) {
        self.holders.retain(|_, holder| holder.gone.is_none_or(|until| now < until));
        let count = self.holders.len() as u32; // bounded by the number of proxies
        let equal = 1.0 / f64::from(count.max(1));
        let asked: Vec<f64> = self.holders.values().map(|holder| holder.asked.max(equal * LEAST)).collect();
        let targets = parts(&asked);
        let over: f64 = self.holders.values().map(|holder| holder.part).sum();
        let unsettled = self.holders.values().any(|holder| holder.asked > holder.part * HUNGRY)
            || self.holders.values().any(|holder| holder.told == 0)
            || over > 1.0 + WORTH;
        // Whoever has not come back yet still uses its part.
        let awaited = if now < self.expected.1 { self.expected.0 } else { 0 };
        if unsettled {
            self.shrink(&targets, now);
            if count >= awaited {
                self.grow(&targets, now);
            }
        }
        let holders = count.max(awaited);
        for (proxy, holder) in &mut self.holders {
            if holder.gone.is_none() && holder.told != holders {
                holder.told = holders;
                tell(proxy.clone(), Lease { part: holder.part, holders });
            }
        }
        self.due = self.next(now);
    }

    /// Takes from those who have more than they are to have.
    fn shrink(&mut self, targets: &[f64], now: Instant) {
        for (holder, target) in self.holders.values_mut().zip(targets) {
            if holder.gone.is_none() && holder.part - target > holder.part * WORTH {
                holder.shrink(*target, now);
            }
        }
    }

    /// Gives what is free to those who have less than they are to have.
    fn grow(&mut self, targets: &[f64], now: Instant) {
        let free = 1.0 - self.holders.values().map(|holder| holder.committed(now)).sum::<f64>();
        let lack = |holder: &Holder, target: f64| {
            let lacks = if holder.gone.is_none() { target - holder.part } else { 0.0 };
            if lacks > holder.part * WORTH { lacks } else { 0.0 }
        };
        let wanted: f64 =
            self.holders.values().zip(targets).map(|(holder, target)| lack(holder, *target)).sum();
        if free <= 0.0 || wanted <= 0.0 {
            return;
        }
        let share = (free / wanted).min(1.0);
        for (holder, target) in self.holders.values_mut().zip(targets) {
            let more = lack(holder, *target) * share;
            if more > holder.part * WORTH {
                holder.part += more;
                holder.told = 0;
            }
        }
    }

    /// When something that was given up is free, or somebody is forgotten.
    fn next(&self, now: Instant) -> Option<Instant> {
        let freed = self.holders.values().flat_map(|holder| &holder.before).map(|(_, until)| *until);
        let gone = self.holders.values().filter_map(|holder| holder.gone);
        let gathered = Some(self.expected.1).filter(|_| (self.holders.len() as u32) < self.expected.0);
        freed.chain(gone).chain(gathered).filter(|at| *at > now).min()
    }
}

/// Shares a whole out among those who ask: everybody gets what it asks for or as much as anybody who does not, and
/// what is left over is shared out equally.
pub(crate) fn parts(asked: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by(|a, b| asked[*a].total_cmp(&asked[*b]));
    let mut parts = vec![0.0; asked.len()];
    let mut left = 1.0;
    for (place, index) in order.iter().enumerate() {
        let equal = left / (order.len() - place) as f64;
        parts[*index] = asked[*index].min(equal);
        left -= parts[*index];
    }
    let over = left.max(0.0) / asked.len().max(1) as f64;
    parts.iter_mut().for_each(|part| *part += over);
    parts
}

#[cfg(test)]
mod tests;
