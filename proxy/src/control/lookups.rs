//! When which host outside the mesh is looked up.
//!
//! An answer holds for as long as the DNS says, within bounds; then the host is asked for again, as long as a service
//! needs it. Where no answer comes, the addresses of the last one stay in use.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::resolver::{Found, ResolveError, Resolver};

/// No answer is good for less, whatever it says.
const LEAST: Duration = Duration::from_secs(1);
/// No answer is good for more.
const MOST: Duration = Duration::from_secs(300);
/// Without an answer the next attempt waits at most so long.
const MOST_BETWEEN_FAILURES: Duration = Duration::from_secs(30);
/// Questions under way at once.
const MOST_UNDER_WAY: usize = 64;

/// The hosts that are followed.
#[derive(Debug)]
pub(super) struct Lookups {
    resolver: Resolver,
    hosts: HashMap<Arc<str>, Known>,
    under_way: JoinSet<(Arc<str>, Result<Found, ResolveError>)>,
}

/// What is known of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    next: Next,
    /// In a row.
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    At(Instant),
    UnderWay,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { next: Next::At(now), failures: 0 }
    }

    fn is_due(self, now: Instant) -> bool {
        matches!(self.next, Next::At(at) if at <= now)
    }

    fn answered(&mut self, until: Instant, now: Instant) {
        *self = Self { next: Next::At(now + until.duration_since(now).clamp(LEAST, MOST)), failures: 0 };
    }

    fn failed(&mut self, now: Instant) {
        let wait = LEAST.saturating_mul(1 << self.failures.min(10)).min(MOST_BETWEEN_FAILURES);
        *self = Self { next: Next::At(now + wait), failures: self.failures.saturating_add(1) };
    }
}

impl Lookups {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { resolver, hosts: HashMap::new(), under_way: JoinSet::new() }
    }

    /// From now on these hosts are needed, and no others.
    pub(super) fn follow(&mut self, hosts: &HashSet<Arc<str>>, now: Instant) {
        self.hosts.retain(|host, _| hosts.contains(host));
        for host in hosts {
            self.hosts.entry(host.clone()).or_insert_with(|| Known::new(now));
        }
        self.start(now);
    }

    /// Asks for what is due.
    pub(super) fn start(&mut self, now: Instant) {
        for (host, known) in &mut self.hosts {
            if self.under_way.len() >= MOST_UNDER_WAY {
                return;
            }
            if known.is_due(now) {
                known.next = Next::UnderWay;
                let (resolver, host) = (self.resolver.clone(), host.clone());
                self.under_way.spawn(async move {
                    let found = resolver.addresses(&host).await;
                    (host, found)
                });
            }
        }
    }

    /// The next answer: a host and its addresses, `None` where there are none to be had now. Ends at once where
    /// nothing is under way; dropping it loses nothing.
    pub(super) async fn next(&mut self) -> Option<(Arc<str>, Option<Vec<IpAddr>>)> {
        loop {
            // A question that panicked is asked again when its host is followed anew.
            let Ok((host, result)) = self.under_way.join_next().await? else { continue };
            let now = Instant::now();
            let Some(known) = self.hosts.get_mut(&host) else { continue };
            let addresses = match result {
                Ok(found) => {
                    known.answered(found.until, now);
                    Some(found.addresses)
                }
                Err(error) => {
                    if known.failures == 0 {
                        tracing::warn!(%host, %error, "a host outside the mesh cannot be resolved");
                    }
                    known.failed(now);
                    None
                }
            };
            self.start(now);
            return Some((host, addresses));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_holds_as_long_as_it_says_within_bounds() {
        let now = Instant::now();
        let mut known = Known::new(now);
        assert!(known.is_due(now), "at once");
        for (says, holds) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300)] {
            known.answered(now + Duration::from_secs(says), now);
            assert_eq!(known.next, Next::At(now + Duration::from_secs(holds)), "{says}");
        }
    }

    #[tokio::test]
    async fn without_an_answer_the_wait_doubles_up_to_half_a_minute() {
        let now = Instant::now();
        let mut known = Known::new(now);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            known.failed(now);
            assert_eq!(known.next, Next::At(now + Duration::from_secs(seconds)));
        }
        known.answered(now, now);
        known.failed(now);
        assert_eq!(known.next, Next::At(now + Duration::from_secs(1)), "from the beginning");
    }

    #[tokio::test]
    async fn only_what_is_needed_is_asked_for() {
        let mut lookups = Lookups::new(Resolver::new(Some("127.0.0.1:1".parse().unwrap())));
        assert_eq!(lookups.next().await, None);
        let hosts = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<HashSet<Arc<str>>>();
        lookups.follow(&hosts(&["192.0.2.1"]), Instant::now());
        let (host, addresses) = lookups.next().await.unwrap();
        assert_eq!((&*host, addresses), ("192.0.2.1", Some(vec!["192.0.2.1".parse().unwrap()])));
        lookups.follow(&hosts(&["192.0.2.2", "192.0.2.1"]), Instant::now());
        assert_eq!(&*lookups.next().await.unwrap().0, "192.0.2.2");
        assert_eq!(lookups.next().await, None, "the other is known");
        lookups.follow(&hosts(&[]), Instant::now());
        assert!(lookups.hosts.is_empty());
    }
}
