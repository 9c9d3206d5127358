//! Tables that are looked into once for every request, or oftener.
//!
//! The standard library's hash withstands a peer that picks keys and watches how long an answer takes; it also costs
//! more than everything else about a lookup. What is looked up here are names that the control plane vouches for and
//! identities that a certificate proves, in tables with a bound. For these a faster hash is enough, if nobody can know
//! its seed: that comes, as the standard one's does, from the operating system.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};

/// A table with a fast hash.
pub type FastMap<K, V> = HashMap<K, V, Seeded>;

/// Makes hashers that agree with each other, and with no others.
#[derive(Clone)]
pub struct Seeded(SeedableRandomState);

impl Default for Seeded {
    fn default() -> Self {
        static SHARED: OnceLock<SharedSeed> = OnceLock::new();
        let random = || RandomState::new().hash_one(0);
        let shared = SHARED.get_or_init(|| SharedSeed::from_u64(random()));
        Self(SeedableRandomState::with_seed(random(), shared))
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        self.0.build_hasher()
    }
}

impl fmt::Debug for Seeded {
    /// Without the seed, which must not end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeded")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_agrees_and_another_does_not() {
        let seeded = Seeded::default();
        assert_eq!(seeded.hash_one("payments"), seeded.clone().hash_one("payments"));
        assert_ne!(seeded.hash_one("payments"), Seeded::default().hash_one("payments"));
        assert_ne!(seeded.hash_one(("a", "bc")), seeded.hash_one(("ab", "c")));
    }
}
