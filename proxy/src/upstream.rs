//! One worker's dealings with one service: its endpoints' state, its limits and its connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_api::ServiceName;
use rand::Rng;
use tokio::time::Instant;

use crate::breaker::Standing;
use crate::bulkhead::Permit;
use crate::cluster::{Aim, BreakerTransition, Cluster, Pick};
use crate::failure::{Failure, Side};
use crate::hash::FastMap;
use crate::hedge::HedgeAfter;
use crate::metrics::{Ejected, Hedge, Limit, Metrics};
use crate::outside;
use crate::pool::{Pool, Settings};
use crate::retry::{Attempts, Outcome, Verdict};
use crate::snapshot::{BackendPolicy, Endpoint, Endpoints, Service};

/// What a worker keeps of a service that its workload calls.
pub(crate) struct Upstream {
    pub(crate) name: ServiceName,
    pub(crate) cluster: RefCell<Cluster>,
    /// What the cluster was last updated to.
    seen: RefCell<(Arc<Endpoints>, Arc<BackendPolicy>)>,
    pools: RefCell<FastMap<PoolKey, Rc<Pool>>>,
    metrics: Metrics,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.metrics.breakers_open(&self.name, Vec::new());
    }
}

type PoolKey = (Arc<str>, u16);

impl Upstream {
    /// State for a service that was never called before.
    pub(crate) fn new(service: &Service, metrics: Metrics, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            name: outside::label(service).clone(),
            cluster: RefCell::new(Cluster::new(service, now)),
            seen: RefCell::new((service.endpoints.clone(), service.policy.clone())),
            pools: RefCell::default(),
            metrics,
        })
    }

    /// Brings the state up to the snapshot's; endpoints that stay keep theirs.
    pub(crate) fn update(&self, service: &Service, now: Instant) {
        let mut seen = self.seen.borrow_mut();
        let (endpoints, policy) = &mut *seen;
        if Arc::ptr_eq(endpoints, &service.endpoints) && Arc::ptr_eq(policy, &service.policy) {
            return;
        }
        self.cluster.borrow_mut().update(&service.endpoints, &service.policy, now);
        let all = &service.endpoints.all;
        self.pools.borrow_mut().retain(|(id, ..), pool| {
            let stays = all.iter().find(|endpoint| endpoint.id == *id);
            if let Some(endpoint) = stays {
                pool.configure(settings(&service.policy, endpoint));
            }
            stays.is_some()
        });
        *endpoints = service.endpoints.clone();
        *policy = service.policy.clone();
        self.count_open(now); // an endpoint may have gone with its breaker open
    }

    /// Takes a place among the service's requests, held until the answer has ended.
    ///
    /// # Errors
    /// [`Failure::Overloaded`]: all are taken.
    pub(crate) fn admit(&self) -> Result<Permit, Failure> {
        self.permit(self.cluster.borrow().active.admit(), Limit::ServiceActive)
    }

    /// Takes a place among the requests that wait for a connection.
    ///
    /// # Errors
    /// [`Failure::Overloaded`]: all are taken.
    pub(crate) fn wait(&self) -> Result<Permit, Failure> {
        self.permit(self.cluster.borrow().pending.admit(), Limit::ServicePending)
    }

    fn permit(&self, permit: Option<Permit>, limit: Limit) -> Result<Permit, Failure> {
        permit.ok_or_else(|| {
            self.metrics.limit_reached(Side::Outbound, limit);
            Failure::Overloaded
        })
    }

    /// Chooses an endpoint, one not tried before if there is any.
    ///
    /// # Errors
    /// [`Failure::NoEndpoints`] or [`Failure::BreakerOpen`].
    pub(crate) fn engage(
        self: &Rc<Self>,
        aim: &Aim<'_>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Engagement, Failure> {
        let pick = self.cluster.borrow_mut().pick(aim, now, rng)?;
        Ok(Engagement { upstream: self.clone(), pick: Some(pick), began: now, answered: None })
    }

    /// After which time an attempt is late. `None`: nobody knows yet.
    pub(crate) fn late_after(&self, after: HedgeAfter, now: Instant) -> Option<Duration> {
        match after {
            HedgeAfter::Delay(delay) => Some(delay),
            HedgeAfter::Percentile(percentile) => self.cluster.borrow_mut().quantile(percentile, now),
        }
    }

    /// Asks for an attempt beside a late one; charged like a retry.
    pub(crate) fn may_hedge(&self, now: Instant) -> bool {
        self.cluster.borrow_mut().budget.withdraw(now)
    }

    /// Counts what became of an attempt beside a late one.
    pub(crate) fn note_hedge(&self, hedge: Hedge) {
        self.metrics.hedge(&self.name, hedge);
    }

    /// Whether an endpoint could be chosen.
    ///
    /// # Errors
    /// As [`Upstream::engage`].
    pub(crate) fn readiness(&self, port: u16, zone: &str, now: Instant) -> Result<(), Failure> {
        self.cluster.borrow_mut().readiness(port, zone, now)
    }

    /// Counts a request for the service's retry budget.
    pub(crate) fn deposit(&self, now: Instant) {
        self.cluster.borrow_mut().budget.deposit(now);
    }

    fn note(&self, transition: Option<BreakerTransition>, now: Instant) {
        let Some(BreakerTransition { endpoint, to }) = transition else { return };
        tracing::info!(
            service = %self.name,
            endpoint = %endpoint.id,
            address = %endpoint.address,
            state = ?to,
            "circuit breaker"
        );
        self.metrics.breaker(&self.name, to);
        self.count_open(now);
    }

    fn count_open(&self, now: Instant) {
        let cluster = self.cluster.borrow();
        let out = cluster.view(now).filter(|view| view.breaker != Standing::Closed);
        let out = out.filter_map(|view| Some(Ejected { endpoint: view.endpoint, cause: view.cause? }));
        self.metrics.breakers_open(&self.name, out.collect());
    }

    /// What to do after an attempt ended with `outcome`; a retry is charged to the service's budget.
    pub(crate) fn after(
        &self,
        attempts: &mut Attempts,
        outcome: &Outcome,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Verdict {
        attempts.after(outcome, now, &mut self.cluster.borrow_mut().budget, rng)
    }

    /// The connections to one endpoint, for one port.
    pub(crate) fn pool(&self, endpoint: &Endpoint, port: u16) -> Rc<Pool> {
        let key = (endpoint.id.clone(), port);
        if let Some(pool) = self.pools.borrow().get(&key) {
            return pool.clone();
        }
        let settings = settings(&self.seen.borrow().1, endpoint);
        let limit = self.cluster.borrow().connections.clone();
        let pool = Pool::new(settings, limit, self.metrics.clone());
        self.pools.borrow_mut().insert(key, pool.clone());
        pool
    }

    /// Closes unused connections.
    pub(crate) fn sweep(&self, now: Instant) {
        for pool in self.pools.borrow().values() {
            pool.sweep(now);
        }
    }
}

/// What connections to a service's endpoints are like.
fn settings(policy: &BackendPolicy, endpoint: &Endpoint) -> Settings {
    Settings {
        side: Side::Outbound,
        mtls: endpoint.identity.is_proved(),
        idle: policy.idle_timeout,
        max_age: policy.max_connection_age,
        max_requests: policy.http1_max_requests,
        http2: policy.http2,
    }
}

/// One attempt's claim on an endpoint, from the choice to the end of the answer.
///
/// Dropped without [`Engagement::end`], the caller went away: that is no failure of the endpoint, only so much time in
/// which it gave no answer.
pub(crate) struct Engagement {
    upstream: Rc<Upstream>,
    pick: Option<Pick>,
    began: Instant,
    answered: Option<Instant>,
}

impl Engagement {
    /// The chosen endpoint.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.pick.as_ref().expect("present until it ends").endpoint
    }

    /// When the endpoint was chosen, or what was sent to it, sent.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Notes that the head of the answer to what was `sent` has come: the latency that the balancer goes by.
    /// Connecting is left out, since it says little of the next request.
    pub(crate) fn answered(&mut self, outcome: &Outcome, sent: Instant, now: Instant) {
        self.began = sent;
        self.answered = Some(now);
        let latency = now.duration_since(self.began);
        let Some(pick) = self.pick.as_mut() else { return };
        let transition = self.upstream.cluster.borrow_mut().answered(pick, outcome, latency, now);
        self.upstream.note(transition, now);
    }

    /// Reports how the attempt went.
    pub(crate) fn end(mut self, outcome: &Outcome, now: Instant) {
        let Some(pick) = self.pick.take() else { return };
        let latency = self.answered.unwrap_or(now).duration_since(self.began);
        let transition = self.upstream.cluster.borrow_mut().finish(pick, outcome, latency, now);
        self.upstream.note(transition, now);
    }
}

impl Drop for Engagement {
    fn drop(&mut self) {
        let Some(pick) = self.pick.take() else { return };
        let now = Instant::now();
        // Where the cluster is in use, as when a worker ends, the pick still gives back what it holds.
        if let Ok(mut cluster) = self.upstream.cluster.try_borrow_mut() {
            cluster.abandon(pick, now.duration_since(self.began), now);
        }
    }
}
