//! `MeshConfig`: the settings that hold for every proxy of the mesh. There is one, named `mesh`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Admission;
use super::access_policy::AccessMode;
use super::egress::Egress;
use super::problem::{FieldPath, Problems};
use super::service_policy::RequestDefaults;

/// The one name that a [`MeshConfig`] has.
pub const MESH_CONFIG_NAME: &str = "mesh";

/// Settings of the whole mesh (`outrigger.dev/v1alpha1`), of no namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// Name and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The settings.
    pub spec: MeshConfigSpec,
}

/// What holds for every proxy. A field that is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// Mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// Traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// The access log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Who may call what, where no AccessPolicy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What becomes of a request's path before a route or a rule looks at it. Default: `Full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_normalization: Option<PathNormalization>,
    /// Timeouts and retries where neither a route nor a ServicePolicy says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<RequestDefaults>,
    /// What may be called outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// How routes are resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Routing>,
}

/// How routes are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Routing {
    /// Whether a backend in another namespace than its route's needs a ReferenceGrant there. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_reference_grants: Option<bool>,
}

/// Whether proxies insist on mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// Default: `Strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
}

/// How strictly mutual TLS is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// What brings no certificate of the mesh is refused.
    Strict,
    /// Plain connections are let in as well, and counted.
    Permissive,
}

/// Who may call what, where no AccessPolicy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Access {
    /// Who may call a service that no policy allows anybody to call. Default: `Open`, which with `mtls.mode: Strict` is
    /// any identity of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<AccessMode>,
}

/// What becomes of a request's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathNormalization {
    /// Its normal form (RFC 3986 section 6.2.2, slashes merged) is matched and passed on.
    Full,
    /// It is passed on as it was sent; where access rules look at paths, one that is not in its normal form is refused.
    None,
}

/// How traces are started, carried and exported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// The share of the traces started here that is recorded, 0 to 1. Default: 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_ratio: Option<f64>,
    /// The headers that carry a trace onward. Default: W3C.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub formats: Vec<TraceFormat>,
    /// Where spans go: the OTLP/gRPC endpoint of a collector, `http://HOST:PORT`. Default: each proxy's own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Headers that carry a trace from one process to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TraceFormat {
    /// `traceparent` and `tracestate`.
    W3C,
    /// One header, `b3`.
    B3,
    /// `x-b3-traceid` and its companions.
    B3Multi,
}

/// The access log of every proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessLog {
    /// Whether proxies write one. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl Admission for MeshConfig {
    fn check(&self, problems: &mut Problems) {
        if self.metadata.name.as_deref().is_some_and(|name| name != MESH_CONFIG_NAME) {
            let path = FieldPath::root().field("metadata").field("name");
            problems.error(&path, format!("must be {MESH_CONFIG_NAME}: a mesh has one MeshConfig"));
        }
        let spec = FieldPath::root().field("spec");
        if let Some(tracing) = &self.spec.tracing {
            tracing.check(&spec.field("tracing"), problems);
        }
        if let Some(defaults) = &self.spec.defaults {
            defaults.check(&spec.field("defaults"), problems);
        }
        if let Some(egress) = &self.spec.egress {
            egress.check(&spec.field("egress"), problems);
        }
    }
}

impl Tracing {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        for (index, format) in self.formats.iter().enumerate() {
            if self.formats[..index].contains(format) {
                problems.error(&path.field("formats").index(index), "is listed a second time");
            }
        }
        if let Some(endpoint) = &self.endpoint
            && !is_collector(endpoint)
        {
            problems.error(
                &path.field("endpoint"),
                format!("{endpoint:?} is not http://HOST:PORT, as in http://127.0.0.1:4317"),
            );
        }
    }
}

/// Whether `text` is `http://HOST[:PORT]` with nothing behind it: OTLP/gRPC has no path.
fn is_collector(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else { return false };
    // What is neither host nor port is user information, or a port that is no number.
    let port_is_fine = match uri.port() {
        Some(port) => port.as_u16() != 0 && authority.as_str() == format!("{host}:{port}"),
        None => authority.as_str() == host,
    };
    uri.scheme_str() == Some("http")
        && !host.is_empty()
        && port_is_fine
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
}
