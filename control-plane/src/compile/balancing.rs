//! How an endpoint is chosen, every default filled in.

use outrigger_api::v1::{self, hash::Key};

use super::timing::proto;
use crate::resources::{HashCookie, LoadBalancer, LoadBalancerType, Period, ZonePreference};

pub(super) fn kind(balancer: &LoadBalancer) -> v1::LoadBalancer {
    match balancer.kind {
        None | Some(LoadBalancerType::PeakEwma) => v1::LoadBalancer::PeakEwma,
        Some(LoadBalancerType::LeastRequest) => v1::LoadBalancer::LeastRequest,
        Some(LoadBalancerType::RoundRobin) => v1::LoadBalancer::RoundRobin,
        Some(LoadBalancerType::Hash) => v1::LoadBalancer::Hash,
    }
}

/// What is hashed, where the type says that anything is.
pub(super) fn hash(balancer: &LoadBalancer) -> Option<v1::Hash> {
    if balancer.kind != Some(LoadBalancerType::Hash) {
        return None;
    }
    // Validation lets nothing pass without a key; what is there all the same comes from one address, the workload's.
    let hash = balancer.hash.clone().unwrap_or_default();
    let key = None
        .or_else(|| hash.header.map(Key::Header))
        .or_else(|| hash.cookie.map(cookie).map(Key::Cookie))
        .or_else(|| hash.query_parameter.map(Key::QueryParameter))
        .unwrap_or(Key::SourceAddress(v1::SourceAddress {}));
    Some(v1::Hash { key: Some(key), max_load_percent: hash.max_load_percent.unwrap_or(0) })
}

fn cookie(cookie: HashCookie) -> v1::Cookie {
    v1::Cookie {
        name: cookie.name,
        path: cookie.path.unwrap_or_else(|| "/".to_owned()),
        ttl: cookie.ttl.map(Period::duration).map(proto),
    }
}

/// How much of a zone must be usable for requests to stay there; 0: no zone is preferred.
pub(super) fn zone_percent(balancer: &LoadBalancer) -> u32 {
    let ZonePreference { prefer, min_healthy_percent } = balancer.zone.clone().unwrap_or_default();
    let hashes = balancer.kind == Some(LoadBalancerType::Hash);
    if prefer.unwrap_or(!hashes) { min_healthy_percent.unwrap_or(70) } else { 0 }
}
