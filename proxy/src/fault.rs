//! Carries out what a [`Fault`] says: holds a request back, or answers it with a failure that nobody is to blame for.
//!
//! A request that is held back has its place in nobody's bulkhead, since nothing was sent; how many are is bounded for
//! each document. The time counts as the upstream's, whose slowness it plays, and against the request's deadline.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use crate::bulkhead::{Bulkhead, Permit};
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::filter::{Drawn, Fault};
use crate::flight::Flight;
use crate::hash::FastMap;
use crate::metrics::FaultKind;
use crate::worker::Worker;

/// The requests of one worker that are held back, for each document that says so.
#[derive(Debug, Default)]
pub(crate) struct Delayed(RefCell<FastMap<Arc<str>, Bulkhead>>);

impl Delayed {
    fn admit(&self, fault: &Fault) -> Option<Permit> {
        let mut all = self.0.borrow_mut();
        let place = all.entry(fault.policy.clone()).or_insert_with(|| Bulkhead::new(fault.most_delayed));
        place.set_limit(fault.most_delayed);
        place.admit()
    }

    /// Forgets documents that delay nothing now.
    pub(crate) fn sweep(&self) {
        self.0.borrow_mut().retain(|_, place| place.used() > 0);
    }
}

/// Does to a request what its faults say, in their order.
///
/// # Errors
/// [`Failure::FaultInjected`], or the deadline's: it passed meanwhile.
pub(crate) async fn inject(
    worker: &Rc<Worker>,
    flight: &mut Flight,
    faults: &[&Fault],
    deadline: Option<Deadline>,
) -> Result<(), Failure> {
    let metrics = &worker.recorder.metrics;
    for fault in faults {
        let Drawn { delay, abort } = fault.draw(&mut *worker.rng.borrow_mut());
        if let Some(delay) = delay {
            let Some(_place) = worker.delayed.admit(fault) else {
                metrics.fault(FaultKind::Omitted);
                continue;
            };
            metrics.fault(FaultKind::Delay);
            let now = Instant::now();
            let end = now + delay;
            let late = deadline.filter(|deadline| deadline.at <= end);
            sleep_until(late.map_or(end, |deadline| deadline.at)).await;
            flight.exchange().upstream += now.elapsed();
            if let Some(deadline) = late {
                return Err(deadline.failure);
            }
        }
        if let Some(abort) = abort {
            metrics.fault(FaultKind::Abort);
            return Err(Failure::FaultInjected(abort));
        }
    }
    Ok(())
}
