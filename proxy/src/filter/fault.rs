//! Delays and errors on purpose, to see what callers make of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request;
use rand::{Rng, RngExt};

use crate::failure::Injected;
use crate::route::HeaderMatch;

/// An exponential delay is cut at so many times its mean.
const LONGEST_MEANS: u32 = 10;

/// What is done to some of a rule's requests.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `namespace/name` of the document.
    pub policy: Arc<str>,
    /// Only requests that meet all of these.
    pub headers: Vec<HeaderMatch>,
    /// Before anything is sent.
    pub delay: Option<(Share, Delay)>,
    /// Instead of sending anything, after the delay.
    pub abort: Option<(Share, Injected)>,
    /// So many requests of one worker are delayed at once; a fault that would delay one more is left out.
    pub most_delayed: u32,
    /// Nothing is injected from then on.
    pub until: Option<SystemTime>,
}

/// A share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Anything between the two alike.
    Uniform {
        /// At least.
        min: Duration,
        /// At most.
        max: Duration,
    },
    /// Mostly short and now and then long, as waits in queues are; never more than ten times the mean.
    Exponential {
        /// On average.
        mean: Duration,
    },
}

/// What one request is to suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drawn {
    /// It waits.
    pub delay: Option<Duration>,
    /// It fails.
    pub abort: Option<Injected>,
}

impl Share {
    /// So many of a million. `None`: more than all.
    pub fn per_million(share: u32) -> Option<Self> {
        (share <= 1_000_000).then_some(Self(share))
    }

    fn hits(self, rng: &mut impl Rng) -> bool {
        self.0 > 0 && rng.random_range(0..1_000_000) < self.0
    }
}

impl Delay {
    fn draw(self, rng: &mut impl Rng) -> Duration {
        match self {
            Self::Fixed(delay) => delay,
            Self::Uniform { min, max } => min + max.saturating_sub(min).mul_f64(rng.random()),
            Self::Exponential { mean } => {
                // Between 0 and 1, and neither; its negative logarithm has the mean 1.
                let means = -f64::ln(1.0 - rng.random::<f64>());
                mean.mul_f64(means.min(LONGEST_MEANS.into()))
            }
        }
    }
}

impl Fault {
    /// Whether it is for this request, which comes at `now`.
    pub(crate) fn is_for(&self, head: &request::Parts, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until) && self.headers.iter().all(|header| header.holds(head))
    }

    /// Lets the dice decide what a request suffers.
    pub fn draw(&self, rng: &mut impl Rng) -> Drawn {
        let delay = self.delay.filter(|(share, _)| share.hits(rng)).map(|(_, delay)| delay.draw(rng));
        let abort = self.abort.filter(|(share, _)| share.hits(rng)).map(|(_, abort)| abort);
        Drawn { delay, abort }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::route::ValueMatch;

    const DRAWS: usize = 20_000;

    fn fault() -> Fault {
        Fault {
            policy: "shop/slow".into(),
            headers: Vec::new(),
            delay: None,
            abort: None,
            most_delayed: 100,
            until: None,
        }
    }

    #[test]
    fn shares_are_drawn_each_for_itself() {
        let share = |share| Share::per_million(share).unwrap();
        let fault = Fault {
            delay: Some((share(250_000), Delay::Fixed(Duration::from_secs(1)))),
            abort: Some((share(100_000), Injected::http(503))),
            ..fault()
        };
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<Drawn> = (0..DRAWS).map(|_| fault.draw(&mut rng)).collect();
        let of =
            |wanted: fn(&Drawn) -> bool| drawn.iter().filter(|d| wanted(d)).count() as f64 / DRAWS as f64;
        assert!((of(|d| d.delay.is_some()) - 0.25).abs() < 0.02);
        assert!((of(|d| d.abort.is_some()) - 0.10).abs() < 0.02);
        assert!((of(|d| d.abort.is_some() && d.delay.is_some()) - 0.025).abs() < 0.01);
        for (per_million, expected) in [(0, 0), (1_000_000, DRAWS)] {
            let fault = Fault { abort: Some((share(per_million), Injected::http(503))), ..self::fault() };
            assert_eq!((0..DRAWS).filter(|_| fault.draw(&mut rng).abort.is_some()).count(), expected);
        }
        assert_eq!(Share::per_million(1_000_001), None);
    }

    #[test]
    fn delays_have_the_distribution_that_they_name() {
        let mut rng = StdRng::seed_from_u64(7);
        let [short, long] = [100, 300].map(Duration::from_millis);
        for (delay, least, mean, most) in [
            (Delay::Fixed(short), short, short, short),
            (Delay::Uniform { min: short, max: long }, short, Duration::from_millis(200), long),
            (Delay::Exponential { mean: short }, Duration::ZERO, short, short * LONGEST_MEANS),
        ] {
            let drawn: Vec<Duration> = (0..DRAWS).map(|_| delay.draw(&mut rng)).collect();
            assert!(drawn.iter().all(|drawn| (least..=most).contains(drawn)), "{delay:?}");
            let average = drawn.iter().sum::<Duration>() / DRAWS as u32;
            assert!(average.abs_diff(mean) < Duration::from_millis(5), "{delay:?}: {average:?}");
        }
    }

    #[test]
    fn a_fault_is_for_requests_that_meet_its_gate_until_its_time_is_over() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let gate = HeaderMatch { name: "x-test".parse().unwrap(), value: ValueMatch::Exact("on".into()) };
        let fault = Fault { headers: vec![gate], until: Some(end), ..fault() };
        let head = |value: &str| Request::get("/").header("x-test", value).body(()).unwrap().into_parts().0;
        let before = end - Duration::from_millis(1);
        assert!(fault.is_for(&head("on"), before));
        assert!(!fault.is_for(&head("off"), before));
        assert!(!fault.is_for(&head("on"), end));
    }
}
