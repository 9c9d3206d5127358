//! Which buckets a limit goes on with when its policy is sent again.
//!
//! Buckets that were made anew with every change of policy would be full with every change. So whoever has the same
//! id and the same numbers as a limit before it takes over that one's buckets, wherever in the policy it now stands.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::gateway::Gateway;
use crate::rate_limit::{RateLimits, State};
use crate::snapshot::{Inbound, ServicePort};

/// The buckets in use, by the ids of their limits.
#[derive(Debug, Default)]
pub(super) struct Ledger(HashMap<Arc<str>, Weak<State>>);

impl Ledger {
    /// Gives the limits of the workload's own ports the buckets that they had.
    pub(super) fn adopt_inbound(&mut self, inbound: &mut Inbound) {
        for port in &mut inbound.ports {
            self.adopt(&mut port.rate_limits);
        }
    }

    /// Gives the limits of a gateway's ports the buckets that they had. One that is in use already has its own.
    pub(super) fn adopt_gateway(&mut self, gateway: &mut Option<Arc<Gateway>>) {
        for port in gateway.iter_mut().filter_map(Arc::get_mut).flat_map(|gateway| &mut gateway.ports) {
            self.adopt(&mut port.rate_limits);
        }
    }

    /// Gives the limits of rules the buckets that they had. Ports that are in use already have theirs.
    pub(super) fn adopt_ports(&mut self, ports: &mut [Arc<ServicePort>]) {
        for port in ports.iter_mut().filter_map(Arc::get_mut) {
            for rule in port.routes.iter_mut().flat_map(|routes| routes.rules_mut()) {
                self.adopt(&mut rule.rate_limits);
            }
        }
    }

    fn adopt(&mut self, limits: &mut RateLimits) {
        if limits.is_empty() {
            return;
        }
        self.0.retain(|_, state| state.strong_count() > 0);
        for limit in &mut limits.0 {
            let known = self.0.get(&limit.id).and_then(Weak::upgrade);
            match known.filter(|known| known.fits(&limit.state)) {
                Some(known) => limit.state = known,
                None => drop(self.0.insert(limit.id.clone(), Arc::downgrade(&limit.state))),
            }
        }
    }

    /// The limits of the whole mesh that are in use.
    pub(super) fn of_mesh(&self) -> Vec<(Arc<str>, Arc<State>)> {
        let states = self.0.iter().filter_map(|(id, state)| Some((id.clone(), state.upgrade()?)));
        states.filter(|(_, state)| state.share.is_some()).collect()
    }
}
