//! The same counts for the control plane, which shows them in `outrigger stat`.

use outrigger_api::{latency, v1};

use super::Ejected;
use super::series::{RequestData, SeriesKey};
use super::snapshot::MetricsSnapshot;
use crate::failure::Side;

/// More endpoints than this are not told of in one report.
const MAX_EJECTIONS: usize = 256;

impl MetricsSnapshot {
    /// One edge per service, port, route and peer. What led to no service, or overflowed, is not an edge.
    pub fn load_report(&self) -> v1::LoadReport {
        let edges = self.requests.iter().filter_map(|(key, data)| edge(key, data)).collect();
        let ejections = self.breakers.iter().flat_map(|(service, data)| {
            data.ejected.iter().map(move |Ejected { endpoint, cause }| v1::Ejection {
                service: Some(service.into()),
                endpoint: endpoint.id.to_string(),
                address: endpoint.address.to_string(),
                reason: cause.as_str().to_owned(),
            })
        });
        v1::LoadReport { edges, ejections: ejections.take(MAX_EJECTIONS).collect() }
    }
}

fn edge(key: &SeriesKey, data: &RequestData) -> Option<v1::Edge> {
    let direction = match key.side {
        Side::Outbound => v1::Direction::Outbound,
        Side::Inbound => v1::Direction::Inbound,
    };
    Some(v1::Edge {
        direction: direction.into(),
        service: Some(key.service.as_ref()?.into()),
        port: key.port.into(),
        route: key.route.as_deref().unwrap_or_default().to_owned(),
        peer: key.peer.as_ref().map(|peer| peer.as_str().to_owned()).unwrap_or_default(),
        requests: data.requests,
        successes: data.successes,
        attempts: data.attempts,
        attempt_successes: data.attempt_successes,
        latency: latency::encode(&data.duration.histogram),
        mtls: key.mtls,
    })
}
