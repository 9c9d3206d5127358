//! Buckets by key: by who calls, by the value of a header, by whatever tells requests apart.
//!
//! Callers can make up keys without end, so the table has a bound. A bucket that is full again is like one that was
//! never used, so that its slot goes to the next key and nothing is lost: the bound is on keys that have used
//! something up and not yet got it back. Where even those are too many, the keys that find no slot share one bucket.
//!
//! A slot is two numbers that workers share without a lock. Where two of them fill the same slot at once, one request
//! may be charged to another key; what is admitted stays bounded by the number of slots.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::Bucket;

/// Slots, 16 bytes each: enough for 10,000 busy keys.
const SLOTS: usize = 16_384;
/// A key is looked for in so many slots from where it belongs.
const REACH: usize = 32;

#[derive(Debug, Default)]
struct Slot {
    /// The hash of the key, or 0 for a slot that was never used.
    key: AtomicU64,
    bucket: Bucket,
}

/// Buckets by key.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Made for the first request that needs them.
    slots: OnceLock<Box<[Slot]>>,
    /// Seeded by the operating system, and slow to be guessed: a caller must not find another one's bucket.
    hasher: RandomState,
    /// Of the keys that found no slot.
    crowd: Bucket,
}

/// The bucket of a key.
pub(super) enum Found<'a> {
    Own(&'a Bucket),
    /// The table is full of busy keys: one that many share.
    Shared(&'a Bucket),
}

impl Table {
    pub(super) fn hasher(&self) -> &RandomState {
        &self.hasher
    }

    /// The bucket that many keys share.
    pub(super) fn crowd(&self) -> &Bucket {
        &self.crowd
    }

    /// The bucket of the key with this hash.
    pub(super) fn find(&self, hash: u64, now: u64) -> Found<'_> {
        let hash = hash.max(1);
        let slots = self.slots.get_or_init(|| (0..SLOTS).map(|_| Slot::default()).collect());
        let place = hash as usize % SLOTS; // of the low bits
        let reach = || (place..place + REACH).map(|index| &slots[index % SLOTS]);
        if let Some(slot) = reach().find(|slot| slot.key.load(Ordering::Relaxed) == hash) {
            return Found::Own(&slot.bucket);
        }
        for slot in reach() {
            let key = slot.key.load(Ordering::Relaxed);
            if !slot.bucket.is_full(now) {
                continue;
            }
            match slot.key.compare_exchange(key, hash, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Found::Own(&slot.bucket),
                Err(other) if other == hash => return Found::Own(&slot.bucket),
                Err(_) => {}
            }
        }
        Found::Shared(&self.crowd)
    }

    /// Hashes a key, which is a list of parts.
    pub(super) fn hash<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> u64 {
        use std::hash::Hasher;
        let mut hasher = self.hasher().build_hasher();
        for part in parts {
            hasher.write_usize(part.len()); // so that no two lists look the same
            hasher.write(part);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::bucket::Rate;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn once_an_hour() -> Rate {
        Rate::new(1, Duration::from_secs(3600), 1)
    }

    fn take(table: &Table, key: u64, now: u64) -> (bool, bool) {
        let hash = table.hash([key.to_be_bytes().as_slice()].into_iter());
        match table.find(hash, now) {
            Found::Own(bucket) => (bucket.take(once_an_hour(), now).is_ok(), true),
            Found::Shared(bucket) => (bucket.take(once_an_hour(), now).is_ok(), false),
        }
    }

    #[test]
    fn each_of_ten_thousand_busy_keys_has_a_bucket_of_its_own() {
        let table = Table::default();
        let own = (0..10_000).filter(|key| take(&table, *key, SECOND) == (true, true)).count();
        assert!(own >= 9_990, "{own}");
        let again = (0..10_000).filter(|key| take(&table, *key, SECOND).0).count();
        assert_eq!(again, 0, "and it is empty");
    }

    #[test]
    fn keys_beyond_the_bound_share_one_bucket() {
        let table = Table::default();
        let admitted = (0..100_000).filter(|key| take(&table, *key, SECOND).0).count();
        assert!(admitted <= SLOTS + 1, "{admitted}");
        assert_eq!(take(&table, 1_000_000, SECOND), (false, false));
    }

    #[test]
    fn a_slot_whose_bucket_is_full_again_goes_to_the_next_key() {
        let table = Table::default();
        for key in 0..100_000 {
            take(&table, key, SECOND);
        }
        let later = SECOND + 3600 * SECOND;
        let own = (200_000..210_000).filter(|key| take(&table, *key, later) == (true, true)).count();
        assert!(own >= 9_990, "{own}");
    }

    #[test]
    fn parts_of_keys_do_not_run_together() {
        let table = Table::default();
        let hash = |parts: &[&str]| table.hash(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
