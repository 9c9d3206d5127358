//! The same endpoint for the same key: consistent hashing.
//!
//! Every endpoint owns a number of places on a ring, which follow from its address alone; a key belongs to the owner of
//! the first place behind it. So every proxy that knows the same endpoints sends a key to the same one, without a word
//! between them; and when an endpoint comes or goes, the keys that move are those that it gets or had, about one in
//! n of them. An endpoint that cannot be used at the moment keeps its places: its keys go to whoever comes next on the
//! ring, and come back with it.

use std::net::{IpAddr, SocketAddr};

/// Places of each endpoint: enough that shares differ by a tenth or so. It never depends on how many endpoints there
/// are, since then every key could move with each of them.
const PLACES: u64 = 128;

/// The lower bits of a place say whose it is.
const OWNER_BITS: u32 = 20;
const OWNER: u64 = (1 << OWNER_BITS) - 1;

/// The places of all endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Sorted: the place in the upper bits, its owner in the lower.
    places: Vec<u64>,
}

impl Ring {
    /// The ring of these endpoints, which are known by their index from here on.
    pub fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let mut places: Vec<u64> = (0..=OWNER)
            .zip(addresses)
            .flat_map(|(owner, address)| {
                let seed = of_address(address);
                (1..=PLACES).map(move |number| mixed(seed.wrapping_add(number)) & !OWNER | owner)
            })
            .collect();
        places.sort_unstable();
        Self { places }
    }

    /// Whose the key is, among the endpoints that are `usable`. `None`: none of them is.
    pub fn owner(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.places.partition_point(|place| *place < key & !OWNER);
        let (before, after) = self.places.split_at(first);
        let owners = after.iter().chain(before).map(|place| (place & OWNER) as usize);
        let mut passed = None; // the same one again is asked in vain
        owners.into_iter().find(|owner| passed.replace(*owner) != Some(*owner) && usable(*owner))
    }
}

/// The key of what is hashed, the same in every proxy. Nobody gains by two texts with the same key: who can choose one
/// can choose the other.
pub fn key(bytes: impl IntoIterator<Item = u8>) -> u64 {
    // FNV-1a, whose upper bits follow too little from the last bytes, and therefore mixed once more.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mixed(bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// A number from 0 to 1 that follows from the key, and from nothing that the ring makes of it.
pub fn chance(key: u64) -> f64 {
    (mixed(!key) >> 11) as f64 / (1u64 << 53) as f64
}

fn of_address(address: SocketAddr) -> u64 {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => key(ip.octets().into_iter().chain(port)),
        IpAddr::V6(ip) => key(ip.octets().into_iter().chain(port)),
    }
}

/// Spreads every bit over all of them (the finalizer of SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 4743))
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..2000u32).map(|number| key(format!("user-{number}").into_bytes()))
    }

    /// Where each key goes.
    fn owners(endpoints: &BTreeSet<u16>) -> Vec<u16> {
        let endpoints: Vec<u16> = endpoints.iter().copied().collect();
        let ring = Ring::new(endpoints.iter().map(|number| address(*number)));
        keys().map(|key| endpoints[ring.owner(key, |_| true).unwrap()]).collect()
    }

    #[test]
    fn without_endpoints_a_key_is_nobodys() {
        assert_eq!(Ring::new([].into_iter()).owner(7, |_| true), None);
        assert_eq!(Ring::new([address(1)].into_iter()).owner(7, |_| false), None);
    }

    #[test]
    fn shares_are_about_even() {
        let owners = owners(&(0..10).collect());
        for endpoint in 0..10 {
            let share = owners.iter().filter(|owner| **owner == endpoint).count();
            assert!((120..=300).contains(&share), "{endpoint} has {share} of {}", owners.len());
        }
    }

    #[test]
    fn the_key_of_a_text_is_the_same_in_every_version() {
        assert_eq!(key(*b"user-1"), 0xc499_b5f8_a721_df58);
        assert_eq!(of_address("10.0.0.1:4743".parse().unwrap()), 0x3cf7_73d4_c23d_0486);
    }

    #[test]
    fn chance_is_even() {
        let low = keys().filter(|key| chance(*key) < 0.25).count();
        assert!((400..600).contains(&low), "{low}");
    }

    proptest! {
        /// Keys move only to an endpoint that came, or from one that went, and not many more than one in n do.
        #[test]
        fn a_change_of_one_endpoint_moves_its_keys_and_no_others(
            endpoints in prop::collection::btree_set(any::<u16>(), 2..40),
            which in any::<prop::sample::Index>(),
        ) {
            let changed = *endpoints.iter().nth(which.index(endpoints.len())).unwrap();
            let mut fewer = endpoints.clone();
            fewer.remove(&changed);
            let (with, without) = (owners(&endpoints), owners(&fewer));
            let moved = with.iter().zip(&without).filter(|(with, without)| with != without);
            prop_assert!(moved.clone().all(|(with, _)| *with == changed));
            let share = moved.count() as f64 / with.len() as f64;
            prop_assert!(share < 2.0 / endpoints.len() as f64, "{share} of the keys of {}", endpoints.len());
        }

        /// One that cannot be used gives its keys away, and to the same ones as if it were not there.
        #[test]
        fn one_that_is_out_is_passed_over_as_if_it_had_gone(
            endpoints in prop::collection::btree_set(any::<u16>(), 2..20),
            which in any::<prop::sample::Index>(),
        ) {
            let out = which.index(endpoints.len());
            let numbers: Vec<u16> = endpoints.iter().copied().collect();
            let ring = Ring::new(numbers.iter().map(|number| address(*number)));
            let mut fewer = endpoints.clone();
            fewer.remove(&numbers[out]);
            let passed_over: Vec<u16> =
                keys().map(|key| numbers[ring.owner(key, |index| index != out).unwrap()]).collect();
            prop_assert_eq!(passed_over, owners(&fewer));
        }
    }
}
