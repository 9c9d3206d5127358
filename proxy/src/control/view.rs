//! What the control thread knows, for the admin server's `/config`.

mod own;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::counters::Counters;
use crate::identity::Identities;
use crate::snapshot::{Service, Snapshots};

/// The last things that went wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Troubles {
    /// Why the last stream ended.
    pub(super) lost: Option<String>,
    /// Why the last refused update was refused.
    pub(super) refused: Option<String>,
}

/// Describes the proxy's configuration. Cheap to clone; answers from any thread.
#[derive(Debug, Clone)]
pub struct ControlView {
    pub(super) address: Arc<str>,
    pub(super) instance: Arc<str>,
    pub(super) snapshots: Snapshots,
    pub(super) identities: Identities,
    pub(super) counters: Arc<Counters>,
    pub(super) troubles: Arc<ArcSwap<Troubles>>,
}

impl ControlView {
    /// Everything as one JSON object. Holds no secret.
    pub fn describe(&self) -> Value {
        let snapshot = self.snapshots.current();
        let mut services: Vec<&Arc<Service>> = snapshot.services.values().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut missing: Vec<String> = snapshot.missing.keys().map(ToString::to_string).collect();
        missing.sort();
        json!({
            "instance": *self.instance,
            "controlPlane": self.describe_link(),
            "identity": self.describe_identity(),
            "mesh": {
                "version": snapshot.mesh.version,
                "permissiveMtls": snapshot.mesh.permissive_mtls,
                "samplingRatio": snapshot.mesh.sampling_ratio,
                "accessLog": snapshot.mesh.access_log,
                "otlpEndpoint": snapshot.mesh.otlp_endpoint,
                "egress": {
                    "listedOnly": snapshot.mesh.egress.listed_only,
                    "cidrs": snapshot.mesh.egress.cidrs,
                },
                "traceFormats": snapshot.mesh.trace_formats.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>(),
            },
            "own": own::describe(&snapshot.inbound),
            "services": services.into_iter().map(|service| describe_service(service)).collect::<Vec<_>>(),
            "missing": missing,
        })
    }

    /// What is counted on the control thread.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn describe_link(&self) -> Value {
        let troubles = self.troubles.load();
        json!({
            "address": *self.address,
            "connected": self.counters.connected.load(Ordering::Relaxed),
            "streams": self.counters.streams.load(Ordering::Relaxed),
            "updates": self.counters.updates.load(Ordering::Relaxed),
            "refusals": self.counters.refusals.load(Ordering::Relaxed),
            "lastLost": troubles.lost,
            "lastRefusal": troubles.refused,
        })
    }

    fn describe_identity(&self) -> Value {
        let Some(material) = self.identities.current() else { return Value::Null };
        json!({
            "id": material.id.to_string(),
            "notAfter": seconds(material.not_after),
            "renewAt": seconds(material.renew_at),
            "roots": material.bundle.fingerprints().map(|f| f.to_string()).collect::<Vec<_>>(),
        })
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn describe_service(service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| {
        let routes = port.routes.as_ref().map(|table| {
            let rules = table.rules().iter().map(|rule| {
                json!({ "route": *rule.route, "rule": *rule.name, "rateLimits": own::limits(&rule.rate_limits) })
            });
            rules.collect::<Vec<_>>()
        });
        json!({ "port": port.port, "protocol": format!("{:?}", port.protocol).to_lowercase(), "rules": routes })
    });
    let endpoints = service.endpoints.all.iter().map(|endpoint| {
        json!({
            "id": *endpoint.id,
            "address": endpoint.address,
            "identity": endpoint.identity.to_string(),
            "zone": *endpoint.zone,
            "healthy": endpoint.healthy,
            "ports": endpoint.ports,
        })
    });
    json!({
        "name": service.name.to_string(),
        "version": service.version,
        "host": service.external.as_ref().map(|external| &*external.host),
        "ports": ports.collect::<Vec<_>>(),
        "endpointsVersion": service.endpoints.version,
        "endpoints": endpoints.collect::<Vec<_>>(),
        "lastUsed": service.last_used.load(Ordering::Relaxed),
    })
}
