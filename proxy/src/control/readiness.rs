//! Whether the proxy can serve: it has an identity that holds, and policy, be it kept from an earlier life.
//!
//! Once it has both it stays ready while the control plane is away; only an expired certificate takes that back.

use tokio::sync::watch;

/// The two conditions, and who waits for them.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    conditions: watch::Sender<(bool, bool)>,
    ready: watch::Sender<bool>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self { conditions: watch::channel((false, false)).0, ready: watch::channel(false).0 }
    }

    /// True while the proxy can serve.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    pub(crate) fn set_identity(&self, holds: bool) {
        self.set(|conditions| conditions.0 = holds);
    }

    pub(crate) fn set_policy(&self) {
        self.set(|conditions| conditions.1 = true);
    }

    fn set(&self, change: impl FnOnce(&mut (bool, bool))) {
        self.conditions.send_modify(change);
        let (identity, policy) = *self.conditions.borrow();
        self.ready
            .send_if_modified(|ready| std::mem::replace(ready, identity && policy) != (identity && policy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_both_and_an_expired_identity_takes_it_back() {
        let readiness = Readiness::new();
        let ready = readiness.watch();
        readiness.set_policy();
        assert!(!*ready.borrow());
        readiness.set_identity(true);
        assert!(*ready.borrow());
        readiness.set_identity(false);
        assert!(!*ready.borrow());
    }
}
