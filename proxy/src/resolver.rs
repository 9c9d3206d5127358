//! The addresses of names outside the mesh: the machine's hosts file, then the DNS (RFC 1035).
//!
//! IPv4 is asked for first and IPv6 where a name has none, so that a host that has both can be reached from a network
//! that carries one. Nothing is kept here: when a name is asked for again is decided by [`crate::control`].

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::{Instant, timeout};

/// For one question to one server.
const QUESTION: Duration = Duration::from_millis(500);
/// For all of them: less than a caller waits for a service that it is the first to call.
const PATIENCE: Duration = Duration::from_millis(1200);
/// A host with more addresses is called at these only.
const MOST_ADDRESSES: usize = 64;

/// What a name leads to, until when.
#[derive(Debug)]
pub(crate) struct Found {
    /// Sorted; at least one.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) until: Instant,
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The machine's configuration cannot be read, or no server gave an answer.
    #[error(transparent)]
    Unanswered(#[from] NetError),
    /// No server gave one in time.
    #[error("no name server answered in time")]
    TimedOut,
    /// The answer has no address in it.
    #[error("the name has no address")]
    Empty,
}

/// Asks for addresses. Cheap to clone; reads the machine's configuration at the first question.
#[derive(Clone, Default)]
pub(crate) struct Resolver {
    /// Asked instead of the machine's own servers.
    server: Option<SocketAddr>,
    inner: Arc<OnceLock<TokioResolver>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Resolver {
    /// One that asks `server`, or where that is `None`, whom the machine asks.
    pub(crate) fn new(server: Option<SocketAddr>) -> Self {
        Self { server, inner: Arc::default() }
    }

    /// The addresses of `host`, which may be an address itself.
    ///
    /// # Errors
    /// There is none, or nobody who knows it.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Found, ResolveError> {
        let lookup = timeout(PATIENCE, self.inner()?.lookup_ip(host)).await;
        let lookup = lookup.map_err(|_| ResolveError::TimedOut)??;
        let mut addresses: Vec<IpAddr> = lookup.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() {
            return Err(ResolveError::Empty);
        }
        Ok(Found { addresses, until: lookup.valid_until().into() })
    }

    fn inner(&self) -> Result<&TokioResolver, NetError> {
        if let Some(inner) = self.inner.get() {
            return Ok(inner);
        }
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self.server {
            Some(server) => TokioResolver::builder_with_config(only(server), provider),
            None => TokioResolver::builder(provider)?,
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = QUESTION;
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        // A name with a dot is tried as it is before it is searched for: in a cluster the search list would cost
        // every host outside several questions.
        options.ndots = 1;
        let built = builder.build()?;
        Ok(self.inner.get_or_init(|| built))
    }
}

fn only(server: SocketAddr) -> ResolverConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_name() {
        let resolver = Resolver::new(Some("127.0.0.1:1".parse().unwrap()));
        for (text, address) in [("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7")] {
            let found = resolver.addresses(text).await.unwrap();
            assert_eq!(found.addresses, [address.parse::<IpAddr>().unwrap()]);
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_answers_for_is_an_error() {
        let resolver = Resolver::new(Some("127.0.0.1:1".parse().unwrap()));
        assert!(resolver.addresses("api.example.com").await.is_err());
    }
}
