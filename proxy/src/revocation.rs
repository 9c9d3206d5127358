//! Access that is taken away ends what it had let in.
//!
//! Whatever may stay long (a tunnel, an upgraded stream, a request that waits or streams) has a [`Watch`]. While
//! nothing changes that costs a place in a table; when the rules for the workload's own ports do, every one of them is
//! woken and asks again. Belongs to one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use slab::Slab;

/// The changes of the rules, as one worker sees them.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    changes: Cell<u64>,
    /// Who waits for the next change.
    waiting: RefCell<Slab<Waker>>,
}

/// One thing that the rules let in.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Rc<Revocations>,
    /// The changes that it has asked after.
    seen: u64,
    /// In the table, if it waits. A change empties the table.
    place: Option<usize>,
}

impl Revocations {
    /// The rules have changed: everybody asks again.
    pub(crate) fn announce(&self) {
        self.changes.set(self.changes.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for (_, waker) in waiting {
            waker.wake();
        }
    }

    /// For something that is let in now.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        Watch { shared: self.clone(), seen: self.changes.get(), place: None }
    }
}

impl Watch {
    /// Whether the rules have changed since the last call that said so.
    pub(crate) fn has_changed(&mut self) -> bool {
        let changes = self.shared.changes.get();
        let changed = changes != self.seen;
        if changed {
            (self.seen, self.place) = (changes, None);
        }
        changed
    }

    /// The same; if they have not, the task is woken when they do.
    pub(crate) fn poll_changed(&mut self, cx: &Context<'_>) -> bool {
        if self.has_changed() {
            return true;
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.place = Some(waiting.insert(cx.waker().clone())),
        }
        false
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let (Some(place), false) = (self.place, self.has_changed()) {
            self.shared.waiting.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_change_wakes_whoever_waits_once_and_nobody_who_has_gone() {
        let revocations = Rc::new(Revocations::default());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        let (mut stays, mut goes) = (revocations.watch(), revocations.watch());
        for _ in 0..3 {
            assert!(!stays.poll_changed(&cx) && !goes.poll_changed(&cx));
        }
        drop(goes);
        revocations.announce();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        let mut late = revocations.watch();
        assert!(!late.poll_changed(&cx), "it was let in by the new rules");
        assert!(stays.poll_changed(&cx) && !stays.poll_changed(&cx), "a change is told once");
        drop(stays);
        assert_eq!(revocations.waiting.borrow().len(), 1, "places are given back, and never somebody else's");
        drop(late);
        assert!(revocations.waiting.borrow().is_empty());
    }
}
