//! From when to when a certificate holds, and when to replace it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::{Rng, RngExt};
use serde::Serializer;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The time span in which a certificate holds, in whole seconds as X.509 counts, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// The validity of a certificate made at `now` for `ttl`, but not past `limit`, its issuer's own end.
    ///
    /// The start lies `backdate` in the past, for peers whose clock is behind, but never more than a quarter of
    /// the time left: half of the life must still lie ahead, because half life is when a certificate is renewed.
    pub(crate) fn starting(
        now: SystemTime,
        ttl: Duration,
        backdate: Duration,
        limit: Option<SystemTime>,
    ) -> Self {
        let end = round_up(now + ttl);
        let not_after = limit.map_or(end, |limit| end.min(limit));
        let left = not_after.duration_since(now).unwrap_or_default();
        Self { not_before: round_down(now - backdate.min(left / 4)), not_after }
    }

    pub(crate) fn contains(&self, now: SystemTime) -> bool {
        // not_after names a whole second that still counts.
        self.not_before <= now && round_down(now) <= self.not_after
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    pub(crate) fn half_life(&self) -> SystemTime {
        self.not_before + self.lifetime() / 2
    }
}

fn round_down(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(since_epoch(time).as_secs())
}

fn round_up(time: SystemTime) -> SystemTime {
    let since = since_epoch(time);
    UNIX_EPOCH + Duration::from_secs(since.as_secs() + u64::from(since.subsec_nanos() > 0))
}

/// A machine whose clock stands before 1970 gets certificates from 1970.
pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// When to renew a certificate: at half life, up to 5 % of the life sooner or later.
///
/// The jitter keeps a fleet that was started at once from renewing at once for ever after.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, rng: &mut impl Rng) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    not_before + lifetime.mul_f64(rng.random_range(0.45..=0.55))
}

/// `2030-01-31T12:00:00Z`, for messages and documents.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

pub(crate) fn serialize_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn at(millis: u64) -> SystemTime {
        NOW + Duration::from_millis(millis)
    }

    #[test]
    fn backdating_shrinks_with_the_time_to_live() {
        let now = at(1_000_000_500);
        let day = Validity::starting(now, Duration::from_secs(86_400), Duration::from_secs(60), None);
        assert_eq!(day.not_before, at(999_940_000));
        assert_eq!(day.not_after, at(1_086_401_000));
        let brief = Validity::starting(now, Duration::from_secs(4), Duration::from_secs(60), None);
        assert!(brief.half_life() > now, "a renewal at once would never end: {brief:?}");
        let none = Validity::starting(at(1_000_000), Duration::from_secs(4), Duration::ZERO, None);
        assert_eq!(none.not_before, at(1_000_000));
    }

    #[test]
    fn never_outlives_its_issuer() {
        let limit = at(1_010_000);
        let validity =
            Validity::starting(at(1_000_000), Duration::from_secs(60), Duration::from_secs(60), Some(limit));
        assert_eq!(validity.not_after, limit);
        assert!(validity.half_life() > at(1_000_000));
    }

    #[test]
    fn the_last_second_counts_whole() {
        let validity = Validity { not_before: at(1_000), not_after: at(2_000) };
        for (now, holds) in [(999, false), (1_000, true), (2_999, true), (3_000, false)] {
            assert_eq!(validity.contains(at(now)), holds, "{now} ms");
        }
    }

    #[test]
    fn times_print_as_rfc_3339() {
        assert_eq!(rfc3339(at(1_900_000_000_999)), "2030-03-17T17:46:40Z");
    }

    proptest! {
        #[test]
        fn renewal_lies_around_half_life(start in 0u64..4_000_000, seconds in 1u64..1_000_000, seed: u64) {
            let (not_before, not_after) = (at(start * 1000), at((start + seconds) * 1000));
            let renewal = renew_at(not_before, not_after, &mut StdRng::seed_from_u64(seed));
            let share = renewal.duration_since(not_before).unwrap().as_secs_f64() / seconds as f64;
            prop_assert!((0.449..=0.551).contains(&share), "{}", share);
        }

        #[test]
        fn half_life_always_lies_ahead(now in 1_000_000_000u64..2_000_000_000, ttl in 1_000u64..100_000_000, backdate in 0u64..100_000) {
            let validity = Validity::starting(at(now), Duration::from_millis(ttl), Duration::from_millis(backdate), None);
            prop_assert!(validity.contains(at(now)));
            // Both ends are whole seconds, which may cost half a second.
            prop_assert!(validity.half_life() + Duration::from_millis(500) > at(now));
        }
    }
}
