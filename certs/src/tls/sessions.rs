//! What a server remembers of past handshakes, so that a client can come back without a new one.
//!
//! A resumed handshake checks no certificate, so a session must not outlive what the certificates promised. It
//! can be resumed for an eighth of the life of this side's certificate, at most ten minutes, and never once that
//! certificate has expired. Peers renew at half life, so an honest one never comes close; one that can no longer
//! renew overstays by that much and no more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::server::StoresServerSessions;

use crate::clock::Clock;
use crate::svid::Svid;

const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Sessions {
    capacity: usize,
    age: Duration,
    end: SystemTime,
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Vec<u8>, Entry>,
    /// Oldest first. A key that was taken may still stand here; it is dropped when its turn comes.
    order: VecDeque<Vec<u8>>,
}

struct Entry {
    value: Vec<u8>,
    expires: SystemTime,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values are session secrets.
        f.debug_struct("Table").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(capacity: usize, svid: &Svid, clock: Arc<dyn Clock>) -> Self {
        let lifetime = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
        Self {
            capacity,
            age: LONGEST.min(lifetime / 8),
            end: svid.not_after(),
            clock,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let expires = self.end.min(self.clock.now() + self.age);
        let mut table = self.table();
        while table.order.len() >= self.capacity {
            if let Some(oldest) = table.order.pop_front() {
                table.entries.remove(&oldest);
            }
        }
        if table.entries.insert(key.clone(), Entry { value, expires }).is_none() {
            table.order.push_back(key);
        }
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.now();
        self.table().entries.get(key).filter(|entry| now < entry.expires).map(|entry| entry.value.clone())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock.now();
        let entry = self.table().entries.remove(key)?;
        (now < entry.expires).then_some(entry.value)
    }

    fn can_cache(&self) -> bool {
        self.clock.now() < self.end
    }
}
