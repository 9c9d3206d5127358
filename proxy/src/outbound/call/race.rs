//! An attempt that is late, and the ones that are sent beside it (see [`hedge`](crate::hedge)).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::{Call, Launched, Parcel, Tried, give_up, in_time};
use crate::attempt::{Answer, outcome_of_answer};
use crate::flight::Flight;
use crate::hedge::HedgePolicy;
use crate::metrics::Hedge;
use crate::replay::Replay;
use crate::retry::{Outcome, Showing};

/// An attempt under way.
struct Runner<'a> {
    launched: Launched,
    sending: Pin<Box<dyn Future<Output = Result<Answer, Outcome>> + 'a>>,
    /// Not the first.
    is_extra: bool,
}

impl Call<'_> {
    /// Sends an attempt, and while it is late others beside it; the first good answer is the result, or where there is
    /// none the last failure. The attempts that it leaves behind are reset.
    pub(super) async fn race(
        &self,
        flight: &mut Flight,
        replay: &Replay,
        (launched, parcel): (Launched, Parcel),
        number: u32,
        tried: &mut SmallVec<[Arc<str>; 4]>,
    ) -> Tried {
        let started = parcel.at;
        let late = self.plan.hedging.and_then(|hedging| self.late(hedging, started));
        let (mut next, mut extra) = (late.map(|(after, _)| started + after), 0);
        let first = self.runner(launched, parcel, false);
        let mut runners: SmallVec<[Runner<'_>; 2]> = SmallVec::from_iter([first]);
        loop {
            let ended = tokio::select! {
                biased;
                ended = poll_fn(|cx| poll_any(&mut runners, cx)) => Some(ended),
                () = sleep_until(next.unwrap_or(started)), if next.is_some() => None,
            };
            let Some((index, sent)) = ended else {
                let number = number + extra + 1;
                next = None;
                if let Some(runner) = self.extra(flight, replay, number, tried) {
                    runners.push(runner);
                    extra += 1;
                    let more = late.filter(|(_, most)| extra < *most);
                    next = more.map(|(after, _)| Instant::now() + after);
                }
                continue;
            };
            let Runner { launched, is_extra, .. } = runners.remove(index);
            if is_good(&sent) || runners.is_empty() {
                if extra > 0 {
                    self.upstream.note_hedge(if is_extra { Hedge::Won } else { Hedge::Lost });
                }
                let launched = leave_behind(flight, launched, runners);
                return self.land(flight, replay, launched, sent);
            }
            let Tried { result, outcome, at, .. } = self.land(flight, replay, launched, sent);
            give_up(result, &outcome, at);
        }
    }

    /// After which time an attempt is late, and how many may follow. `None`: that is not known.
    fn late(&self, hedging: &HedgePolicy, now: Instant) -> Option<(Duration, u32)> {
        Some((self.upstream.late_after(hedging.after, now)?, hedging.max_extra))
    }

    /// One more attempt, at an endpoint that does not have the request yet. `None`: there is none, the body cannot be sent
    /// beside itself, or it would be too much.
    fn extra(
        &self,
        flight: &mut Flight,
        replay: &Replay,
        number: u32,
        tried: &mut SmallVec<[Arc<str>; 4]>,
    ) -> Option<Runner<'_>> {
        let now = Instant::now();
        let body = replay.again()?;
        let engagement = self.engage(tried, now).ok()?;
        if tried.contains(&engagement.endpoint().id) {
            return None;
        }
        if !self.upstream.may_hedge(now) {
            self.upstream.note_hedge(Hedge::Refused);
            return None;
        }
        let (launched, parcel) = self.launch(flight, engagement, replay, body, number, false).ok()?;
        tried.push(parcel.endpoint.id.clone());
        Some(self.runner(launched, parcel, true))
    }

    fn runner(&self, launched: Launched, parcel: Parcel, is_extra: bool) -> Runner<'_> {
        let sending = Box::pin(async move { in_time(parcel.limit, pin!(self.send(parcel))).await });
        Runner { launched, sending, is_extra }
    }
}

fn poll_any(
    runners: &mut SmallVec<[Runner<'_>; 2]>,
    cx: &mut Context<'_>,
) -> Poll<(usize, Result<Answer, Outcome>)> {
    let ended =
        runners.iter_mut().enumerate().find_map(|(index, runner)| match runner.sending.as_mut().poll(cx) {
            Poll::Ready(sent) => Some((index, sent)),
            Poll::Pending => None,
        });
    ended.map_or(Poll::Pending, Poll::Ready)
}

fn is_good(sent: &Result<Answer, Outcome>) -> bool {
    sent.as_ref().is_ok_and(|answer| {
        outcome_of_answer(&answer.head, answer.there, answer.trailing).showing() == Showing::Good
    })
}

/// Ends the record of those that are reset, and puts the one that stays last, where its answer's end is noted.
fn leave_behind(flight: &mut Flight, mut launched: Launched, losers: SmallVec<[Runner<'_>; 2]>) -> Launched {
    let now = Instant::now();
    let exchange = flight.exchange();
    for Runner { launched: loser, .. } in losers {
        let attempt = &mut exchange.attempts[loser.record];
        attempt.duration = now.duration_since(attempt.started);
    }
    let attempt = exchange.attempts.remove(launched.record);
    exchange.peer.clone_from(&attempt.peer);
    exchange.attempts.push(attempt);
    launched.record = exchange.attempts.len() - 1;
    launched
}
