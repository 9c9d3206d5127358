//! A copy of a worker's metrics that can leave it, and the sum of several.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use outrigger_api::ServiceName;

use super::series::{RequestData, SeriesKey, Table, TcpData};
use super::{AccessKey, BreakerData, ConnectionKind, Ejected, Event, Hedge, Inner, LimitKey};

/// What one or several workers counted since they started.
#[derive(Debug, Clone, Default)]
pub struct MetricsSnapshot {
    pub(super) requests: HashMap<SeriesKey, RequestData>,
    pub(super) tcp: HashMap<SeriesKey, TcpData>,
    pub(super) active: [u64; 2],
    pub(super) connections: HashMap<ConnectionKind, Connections>,
    pub(super) breakers: HashMap<ServiceName, BreakerData>,
    pub(super) hedges: HashMap<(ServiceName, Hedge), u64>,
    pub(super) rate_limited: HashMap<LimitKey, u64>,
    pub(super) concurrency: HashMap<u16, u64>,
    pub(super) access: HashMap<AccessKey, u64>,
    pub(super) events: HashMap<Event, u64>,
    /// Lookups that found a table full.
    pub(super) overflowed: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connections {
    pub(super) opened: u64,
    pub(super) open: u64,
}

impl MetricsSnapshot {
    pub(super) fn of(worker: &Inner) -> Self {
        let (requests, tcp) = (worker.requests.borrow(), worker.tcp.borrow());
        let connections = worker.connections.borrow();
        let connections = connections
            .iter()
            .map(|(kind, cells)| (*kind, Connections { opened: cells.opened.get(), open: cells.open.get() }));
        Self {
            overflowed: requests.overflowed() + tcp.overflowed(),
            requests: copy(&requests),
            tcp: copy(&tcp),
            active: worker.active.each_ref().map(Cell::get),
            connections: connections.collect(),
            breakers: worker.breakers.borrow().clone(),
            hedges: worker.hedges.borrow().clone(),
            rate_limited: worker.rate_limited.borrow().clone(),
            concurrency: worker.concurrency.borrow().clone(),
            access: worker.access.borrow().clone(),
            events: worker.events.borrow().clone(),
        }
    }

    /// Adds another worker's.
    pub fn merge(&mut self, other: Self) {
        merge(&mut self.requests, other.requests, |ours, theirs| ours.merge(&theirs));
        merge(&mut self.tcp, other.tcp, |ours, theirs| ours.merge(&theirs));
        merge(&mut self.connections, other.connections, |ours, theirs| {
            ours.opened += theirs.opened;
            ours.open += theirs.open;
        });
        merge(&mut self.breakers, other.breakers, |ours, theirs| {
            ours.opened += theirs.opened;
            ours.closed += theirs.closed;
            ours.out += theirs.out;
            let known =
                |theirs: &Ejected| ours.ejected.iter().any(|ours| ours.endpoint.id == theirs.endpoint.id);
            let news: Vec<Ejected> = theirs.ejected.into_iter().filter(|theirs| !known(theirs)).collect();
            ours.ejected.extend(news);
        });
        merge(&mut self.hedges, other.hedges, |ours, theirs| *ours += theirs);
        merge(&mut self.rate_limited, other.rate_limited, |ours, theirs| *ours += theirs);
        merge(&mut self.concurrency, other.concurrency, |ours, theirs| *ours += theirs);
        merge(&mut self.access, other.access, |ours, theirs| *ours += theirs);
        merge(&mut self.events, other.events, |ours, theirs| *ours += theirs);
        for (ours, theirs) in self.active.iter_mut().zip(other.active) {
            *ours += theirs;
        }
        self.overflowed += other.overflowed;
    }
}

fn copy<T: Default + Clone>(table: &Table<T>) -> HashMap<SeriesKey, T> {
    table.iter().map(|(key, data)| (key.clone(), data.borrow().clone())).collect()
}

fn merge<K: Eq + std::hash::Hash, V>(
    ours: &mut HashMap<K, V>,
    theirs: HashMap<K, V>,
    add: impl Fn(&mut V, V),
) {
    for (key, value) in theirs {
        match ours.entry(key) {
            Entry::Occupied(mut place) => add(place.get_mut(), value),
            Entry::Vacant(place) => {
                place.insert(value);
            }
        }
    }
}
