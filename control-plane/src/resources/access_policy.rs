//! `AccessPolicy`: who may call what, decided by the proxy beside the service that is called.
//!
//! A policy that denies wins over all others. Where any policy allows, one must; otherwise the default mode decides, the
//! namespace's before the mesh's. An audited policy only reports.

mod api_keys;
mod check;
mod jwt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use api_keys::{ApiKey, ApiKeys};
pub use jwt::{ClaimHeader, Jwks, Jwt, JwtIssuer, TokenSource};

use super::service_policy::{GATEWAY_GROUP, TargetRef};
use super::{Admission, Problems};

/// The namespace whose policies may be about the whole mesh: the control plane's own.
pub const MESH_NAMESPACE: &str = outrigger_certs::CONTROL_PLANE_NAMESPACE;

/// Who may call what (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: AccessPolicySpec,
}

/// Who may call what `targetRefs` names. At least one of `rules`, `defaultMode`, `jwt` and `apiKeys` must
/// be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicySpec {
    /// What is called: services of the policy's own namespace; `kind: Namespace` with the namespace's own name for all
    /// of them; in the namespace `outrigger`, `group: outrigger.dev`, `kind: Mesh`, `name: mesh` for every service. With
    /// `group: gateway.networking.k8s.io`, `kind: Gateway`: who may come in there; no policy for anything else holds at
    /// a gateway.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// What happens to whom the rules are about. Default: `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Counts and logs what the policy would refuse, and refuses nothing. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<bool>,
    /// Whom the policy is about: any of the rules. One that says nothing (`{}`) is about everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<Rule>,
    /// Who may call the services of the namespace where no policy allows anybody. Only with the namespace as a target;
    /// of several policies the oldest counts. Default: the mesh's, `spec.access.defaultMode` of the MeshConfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_mode: Option<AccessMode>,
    /// Whose tokens callers may bring. Of several policies that say so, the one whose target is the service counts before
    /// one for its namespace, and that before one for the mesh; of several of these the oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// The API keys that callers may bring. Of several policies that list some one counts, as for `jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeys>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Lets in whom the rules are about, and nobody else whom no other policy allows.
    #[default]
    Allow,
    /// Keeps out whom the rules are about.
    Deny,
}

/// Who may call where no policy allows anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// Whoever mutual TLS lets in: any identity of the mesh, and with `mtls.mode: Permissive` anybody.
    Open,
    /// Any identity of the mesh.
    Authenticated,
    /// Identities of the service's own namespace.
    SameNamespace,
    /// Nobody.
    Deny,
}

/// Requests and connections: any of `from`, any of `to`, all of `when`. What is left out is about everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Who calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<Source>,
    /// What is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<Operation>,
    /// What the caller's verified token says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub when: Vec<ClaimCondition>,
}

/// Who calls: every list that is there must hold, each by any of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// SPIFFE ids, or with a final `*` what they begin with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub identities: Vec<String>,
    /// Namespaces of the callers' identities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub namespaces: Vec<String>,
    /// Service accounts, `NAMESPACE/NAME`, or `NAME` for one of the policy's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub service_accounts: Vec<String>,
    /// Trust domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub trust_domains: Vec<String>,
    /// Networks that the connection comes from, such as `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub cidrs: Vec<String>,
    /// None of these identities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub not_identities: Vec<String>,
    /// None of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub not_namespaces: Vec<String>,
    /// From none of these networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub not_cidrs: Vec<String>,
    /// The names of API keys that callers bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub api_keys: Vec<String>,
}

/// What is called: every list that is there must hold, each by any of its entries, `headers` by all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Ports of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// HTTP methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub methods: Vec<String>,
    /// Hosts that the request names, without port; `*.NAME` for all below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub hosts: Vec<String>,
    /// Paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<PathCondition>,
    /// Conditions on fields. Each value of a repeated field counts: to allow all must match, to deny one is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderCondition>,
    /// None of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_methods: Vec<String>,
    /// None of these paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_paths: Vec<PathCondition>,
}

/// A path, in its normal form and without percent-encoding that a path can do without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathCondition {
    /// How `value` is compared. Default: `PathPrefix`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PathType>,
    /// The path, its first elements, or an expression for all of it.
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// As a whole.
    Exact,
    /// By its first elements: `/a` is also about `/a/` and `/a/b`, and not about `/ab`.
    #[default]
    PathPrefix,
    /// By an expression (RE2 syntax) that has to match all of the decoded path.
    RegularExpression,
}

/// A condition on the fields of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderCondition {
    /// The name of the field.
    pub name: String,
    /// How values are compared. Default: `Exact`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TextType>,
    /// Any of these. Default: any value at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// A condition on a claim of the caller's verified token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimCondition {
    /// The claim, with dots where it is inside others (`realm_access.roles`). A name with a slash or a colon in it is
    /// taken as a whole (`https://shop.example/groups`).
    pub claim: String,
    /// How values are compared. Default: `Exact`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<TextType>,
    /// Any of these. Of a claim that lists several, each is compared; of `scope` each word.
    #[schemars(length(min = 1, max = 64))]
    pub values: Vec<String>,
}

/// How a text is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TextType {
    /// As a whole.
    #[default]
    Exact,
    /// By its beginning.
    Prefix,
    /// By an expression (RE2 syntax) that has to match all of it.
    RegularExpression,
}

/// What a policy's target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach<'a> {
    /// Every service.
    Mesh,
    /// Every service of the policy's namespace.
    Namespace,
    /// This one of them.
    Service(&'a str),
    /// This gateway of the policy's namespace.
    Gateway(&'a str),
}

/// Whether a header, by its name in lower case, frames the message or is only a proxy's to set: policy may put nothing else
/// there.
fn has_meaning(header: &str) -> bool {
    const OWN: [&str; 8] = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "upgrade",
        "x-forwarded-client-cert",
        "x-request-id",
    ];
    OWN.contains(&header) || header.starts_with("outrigger-")
}

impl AccessPolicy {
    /// What the policy is about. A target that validation refuses is none.
    pub(crate) fn reaches(&self) -> impl Iterator<Item = Reach<'_>> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        self.spec.target_refs.iter().filter_map(move |target| reach(target, namespace))
    }
}

fn reach<'a>(target: &'a TargetRef, namespace: &str) -> Option<Reach<'a>> {
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => Some(Reach::Service(&target.name)),
        ("" | "core", "Namespace") if target.name == namespace => Some(Reach::Namespace),
        ("outrigger.dev", "Mesh") if namespace == MESH_NAMESPACE => Some(Reach::Mesh),
        (GATEWAY_GROUP, "Gateway") => Some(Reach::Gateway(&target.name)),
        _ => None,
    }
}

impl Admission for AccessPolicy {
    fn check(&self, problems: &mut Problems) {
        check::check(self, problems);
    }
}
