//! How much of one service may be under way at once.
//!
//! A service that answers slowly gathers requests until nothing is left for the services that answer well. A
//! bulkhead keeps the water in one compartment: over its limit a request is refused at once, and those under way
//! go on. It is exact because everything that it counts holds a [`Permit`], which gives the place back when it is
//! dropped, whatever ended the request.

use std::cell::Cell;
use std::rc::Rc;

/// Counts what is under way, up to a limit. Clones share the count; it belongs to one worker.
#[derive(Debug, Clone)]
pub struct Bulkhead {
    used: Rc<Cell<u32>>,
    limit: Rc<Cell<u32>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its place back"]
pub struct Permit(Rc<Cell<u32>>);

impl Bulkhead {
    /// Room for `limit`.
    pub fn new(limit: u32) -> Self {
        Self { used: Rc::default(), limit: Rc::new(Cell::new(limit)) }
    }

    /// Takes a place, if one is free.
    pub fn admit(&self) -> Option<Permit> {
        let used = self.used.get();
        (used < self.limit.get()).then(|| {
            self.used.set(used + 1);
            Permit(Rc::clone(&self.used))
        })
    }

    /// Whether one more would leave at least three quarters of the places free.
    pub fn is_roomy(&self) -> bool {
        self.used.get().saturating_add(1).saturating_mul(4) <= self.limit.get()
    }

    /// Changes the limit. What is under way over a smaller one goes on, and nothing new is admitted until there is
    /// room.
    pub fn set_limit(&self, limit: u32) {
        self.limit.set(limit);
    }

    /// Places taken now.
    pub fn used(&self) -> u32 {
        self.used.get()
    }

    /// Places there are.
    pub fn limit(&self) -> u32 {
        self.limit.get()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact_and_places_come_back() {
        let bulkhead = Bulkhead::new(2);
        let first = bulkhead.admit().unwrap();
        let _second = bulkhead.clone().admit().unwrap();
        assert!(bulkhead.admit().is_none());
        drop(first);
        assert_eq!(bulkhead.used(), 1);
        assert!(bulkhead.admit().is_some());
    }

    #[test]
    fn a_smaller_limit_takes_nothing_away_and_admits_nothing_new() {
        let bulkhead = Bulkhead::new(3);
        let mut held: Vec<_> = (0..3).map(|_| bulkhead.admit().unwrap()).collect();
        bulkhead.set_limit(1);
        assert!(bulkhead.admit().is_none());
        held.truncate(1);
        assert!(bulkhead.admit().is_none());
        held.clear();
        assert!(bulkhead.admit().is_some());
    }

    #[test]
    fn a_permit_may_outlive_its_bulkhead() {
        let permit = Bulkhead::new(1).admit();
        drop(permit);
    }
}
