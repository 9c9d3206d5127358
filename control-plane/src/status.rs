//! What the mesh is doing now, in the words that people read: the documents that the REST API and the command
//! line show.
//!
//! Plain data, both serialised and parsed, so that the command line reads exactly what the API writes. Times
//! are RFC 3339 in UTC, latencies microseconds, rates per second.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// One proxy: who it is, and which policy it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Made by the proxy process at its start.
    pub instance: String,
    /// The SPIFFE id of its certificate.
    pub identity: String,
    /// `NAME.NAMESPACE` of what it serves; absent for a proxy that only calls others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where other proxies reach it, IP:PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where its admin server listens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub admin: String,
    /// Its software's version.
    pub version: String,
    /// Its zone, empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Its stream is open now.
    pub connected: bool,
    /// When its stream was opened.
    pub connected_since: String,
    /// When its stream was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_since: Option<String>,
    /// Its application passes its health check. Absent for a proxy that serves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// What the last health check said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health_detail: String,
    /// It has acknowledged everything that there is for it.
    pub up_to_date: bool,
    /// What it was sent and what it runs, by `NAME.NAMESPACE`.
    pub services: BTreeMap<String, ServiceVersions>,
    /// The last update that it refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<Refusal>,
    /// The endpoints that it leaves alone, as it last said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ejected: Vec<EjectedEndpoint>,
}

/// An endpoint that a proxy leaves alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EjectedEndpoint {
    /// `NAME.NAMESPACE`.
    pub service: String,
    /// Its id.
    pub endpoint: String,
    /// Where its proxy listens.
    pub address: String,
    /// Why.
    pub reason: String,
}

/// The policy of one service at one proxy, as revisions of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceVersions {
    /// The newest that was sent.
    pub sent: u64,
    /// The newest that the proxy said is in use; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<u64>,
    /// Version of the endpoint set that was sent.
    pub endpoints_sent: u64,
    /// Version of the endpoint set in use; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_acked: Option<u64>,
}

/// An update that a proxy could not apply; it kept the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// When.
    pub when: String,
    /// What was refused, for example `service payments.shop`.
    pub resource: String,
    /// Why, in the proxy's words.
    pub reason: String,
}

/// One service: what it has, and whether what is attached to it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A `Service` document declares it. Otherwise it is known by registration alone.
    pub declared: bool,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// Who answers for it.
    pub endpoints: Vec<EndpointStatus>,
    /// The routes attached to it.
    pub routes: Vec<RouteStatus>,
    /// Proxies that use it now.
    pub subscribers: usize,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// Its number.
    pub port: u16,
    /// Its name, empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `detect`, `http1`, `http2` or `tcp`.
    pub protocol: String,
    /// At least one route is attached for callers of the service's own namespace.
    pub routed: bool,
}

/// One instance behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Stable for the life of the instance.
    pub id: String,
    /// Where its proxy listens, IP:PORT.
    pub address: String,
    /// The SPIFFE id that its certificate must carry.
    pub identity: String,
    /// Its zone, empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Its application passes its health check.
    pub healthy: bool,
    /// Its proxy's stream is open. Otherwise the entry ends with the grace.
    pub connected: bool,
    /// The service ports that it serves.
    pub ports: Vec<u16>,
}

/// One reference of a route as the service that it names sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// `HTTPRoute`, `GRPCRoute` or `TCPRoute`.
    #[serde(default)]
    pub kind: String,
    /// `NAMESPACE/NAME`.
    pub route: String,
    /// `producer`: for every caller. `consumer`: for callers of the route's namespace.
    pub scope: String,
    /// As the Gateway API defines them for this parent.
    pub conditions: Vec<Condition>,
}

/// One statement about a resource, as the Gateway API words it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`; of a Gateway also `Programmed` and `Conflicted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One word, for programs.
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The generation of the document that was looked at.
    #[serde(default)]
    pub observed_generation: i64,
}

impl Condition {
    /// The condition as a document's status has it.
    pub(crate) fn to_value(&self) -> Value {
        json!({
            "type": self.kind,
            "status": if self.status { "True" } else { "False" },
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.observed_generation,
        })
    }
}

/// What became of a document at one of its parents or targets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParentStatus {
    /// The reference as the document has it.
    pub(crate) parent: Value,
    /// As the Gateway API defines them.
    pub(crate) conditions: Vec<Condition>,
}

/// Who writes the statuses of this mesh (Gateway API, `controllerName`).
const CONTROLLER_NAME: &str = "outrigger.dev/control-plane";

impl ParentStatus {
    /// The entry in the document's status; `reference` is the field that holds the reference.
    pub(crate) fn to_value(&self, reference: &str) -> Value {
        let conditions: Vec<Value> = self.conditions.iter().map(Condition::to_value).collect();
        json!({ reference: self.parent, "controllerName": CONTROLLER_NAME, "conditions": conditions })
    }
}

/// Which side of a call counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EdgeDirection {
    /// The caller's proxy: what the caller saw, retries hidden.
    Outbound,
    /// The called side's proxy.
    Inbound,
}

/// The calls of one source to one destination port, over all instances of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStats {
    /// Who counted.
    pub direction: EdgeDirection,
    /// Outbound: the calling workload, `NAME.NAMESPACE`, or its identity where it serves nothing.
    /// Inbound: the verified identity of the caller, empty for plaintext.
    pub source: String,
    /// The service called, `NAME.NAMESPACE`.
    pub destination: String,
    /// The service port called.
    pub port: u16,
    /// `NAMESPACE/NAME` of the route, empty where none is attached.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The verified identity of the other side, empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// The traffic was mutual TLS.
    pub mtls: bool,
    /// Requests that ended in the window.
    pub requests: u64,
    /// Requests that the caller saw succeed.
    pub successes: u64,
    /// Attempts sent upstream.
    pub attempts: u64,
    /// Attempts that succeeded: the success before retries.
    pub attempt_successes: u64,
    /// `successes / requests`, 1 where there were none.
    pub success_rate: f64,
    /// `attempt_successes / attempts`, 1 where there were none.
    pub attempt_success_rate: f64,
    /// Requests per second over the window.
    pub requests_per_second: f64,
    /// Half of the requests were faster, microseconds.
    pub p50_micros: u64,
    /// 90 % of the requests were faster, microseconds.
    pub p90_micros: u64,
    /// 99 % of the requests were faster, microseconds.
    pub p99_micros: u64,
    /// 99.9 % of the requests were faster, microseconds.
    pub p999_micros: u64,
    /// What the numbers span, seconds: the window asked for, or less where less is known.
    pub window_seconds: f64,
}

/// The mesh's certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The trust domain of every identity.
    pub trust_domain: String,
    /// What proves identities now. More than one while a root is being replaced.
    pub roots: Vec<CertificateInfo>,
    /// What signs workload certificates now.
    pub issuer: CertificateInfo,
    /// The control plane's own.
    pub server: CertificateInfo,
    /// How long workload certificates last, seconds.
    pub svid_ttl_seconds: u64,
}

/// One certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// Subject, or SPIFFE id.
    pub subject: String,
    /// Serial number, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// From when it holds.
    pub not_before: String,
    /// Until when it holds.
    pub not_after: String,
    /// SHA-256 of the DER, hex.
    pub fingerprint: String,
    /// It signs now. A root that is published and does not sign yet is false.
    pub active: bool,
}

/// Formats a time as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let millis = time.nanosecond() / 1_000_000 * 1_000_000;
    let time = time.replace_nanosecond(millis).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_print_in_utc_to_the_millisecond() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn a_proxy_status_reads_back_as_written() {
        let json = r#"{"instance":"i","identity":"spiffe://t/ns/a/sa/b","version":"0.1.0","connected":true,
            "connectedSince":"2023-11-14T22:13:20Z","upToDate":true,
            "services":{"pay.shop":{"sent":4,"acked":4,"endpointsSent":1,"endpointsAcked":1}}}"#;
        let status: ProxyStatus = serde_json::from_str(json).unwrap();
        assert_eq!(status.services["pay.shop"].acked, Some(4));
        let again: ProxyStatus = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        assert_eq!(again, status);
    }
}
