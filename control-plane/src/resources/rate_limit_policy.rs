//! `RateLimitPolicy`: how often a service may be called.
//!
//! Its limits are enforced by the proxies beside the services that it names, or, where a route's rule names the
//! policy as a filter, by the proxy of whoever calls by that rule.

use gateway_api::experimental::httproutes::HttpRouteRulesMatches;
use http::HeaderName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Admission;
use super::duration::Period;
use super::http_route::check_match;
use super::problem::{FieldPath, Problems};
use super::service_policy::TargetRef;

/// The shortest and the longest window.
const WINDOWS: [Period; 2] = [Period::from_millis(1000), Period::from_millis(3_600_000)];

/// How often a service may be called (`outrigger.dev/v1alpha1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimitPolicy {
    /// Name, namespace and what the store keeps about the document.
    pub metadata: ObjectMeta,
    /// The policy.
    pub spec: RateLimitPolicySpec,
}

/// How often the services named in `targetRefs` may be called. Where several policies name one service, all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitPolicySpec {
    /// The services, in the policy's own namespace, that the limits are for; or with `group: gateway.networking.k8s.io`,
    /// `kind: Gateway` the gateways. None for a policy that only routes name as a filter (`ExtensionRef`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// The limits. A request has to pass each that it falls under; one that is refused is charged to none.
    #[schemars(length(min = 1, max = 16))]
    pub limits: Vec<RateLimit>,
    /// Whether answers to requests that were let through carry `RateLimit` and `RateLimit-Policy`, too, as refusals
    /// always do. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<bool>,
}

/// One limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// What the limit is called in metrics and in `RateLimit` fields: a DNS label. Default: its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Requests in every `per`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// The window, `1s` to `1h`. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// Requests at once, after a quiet time. Default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
    /// What tells requests apart that are counted each on their own. Default: nothing, all count together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub by: Vec<RateLimitKey>,
    /// The requests that the limit is for: those that any of these matches, which say the same as in an HTTPRoute.
    /// Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<HttpRouteRulesMatches>,
    /// Whether each proxy admits so many, or all proxies together. Default: `Proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<RateLimitScope>,
}

/// What tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitKey {
    /// The kind of key.
    #[serde(rename = "type")]
    pub kind: RateLimitKeyType,
    /// The name of the header, for the type `Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The claim of the caller's verified token, for the type `Claim`: with dots where it is inside others, as in an
    /// AccessPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitKeyType {
    /// The caller's identity, as its certificate proves it; callers without one count together.
    Identity,
    /// The value of a header; requests without it count together, and one that repeats it counts under each of its values.
    Header,
    /// The method.
    Method,
    /// The path, without the query.
    Path,
    /// The address that the connection came from.
    ClientAddress,
    /// What a claim of the caller's token says, where an AccessPolicy of the service has the token verified; requests
    /// without the claim, or without a token, count together. Not for policies that routes name as a filter.
    Claim,
    /// The name of the API key that the request brought, where an AccessPolicy lists keys; requests without one count
    /// together. Not for policies that routes name as a filter.
    ApiKey,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitScope {
    /// What one proxy admits, its workers together.
    Proxy,
    /// What all proxies that enforce the limit admit together: the control plane leases each a part.
    Mesh,
}

impl Admission for RateLimitPolicy {
    fn check(&self, problems: &mut Problems) {
        let spec = FieldPath::root().field("spec");
        TargetRef::check_all_or_gateways(&self.spec.target_refs, &spec.field("targetRefs"), problems);
        let limits = &self.spec.limits;
        for (index, limit) in limits.iter().enumerate() {
            let path = spec.field("limits").index(index);
            limit.check(&path, problems);
            let name = limit.label(index);
            if limits[..index].iter().enumerate().any(|(place, earlier)| earlier.label(place) == name) {
                problems.error(&path.field("name"), format!("{name:?} is the name of another limit"));
            }
        }
    }
}

impl RateLimitPolicy {
    /// Whether one of the limits tells requests apart by their tokens or API keys.
    pub(crate) fn looks_at_proofs(&self) -> bool {
        let is_proof =
            |key: &RateLimitKey| matches!(key.kind, RateLimitKeyType::Claim | RateLimitKeyType::ApiKey);
        self.spec.limits.iter().flat_map(|limit| &limit.by).any(is_proof)
    }
}

impl RateLimit {
    /// What the limit at this place of the list is called.
    pub(crate) fn label(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }

    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if let Some(name) = &self.name {
            problems.check_label(&path.field("name"), name);
        }
        let [shortest, longest] = WINDOWS;
        if self.per.is_some_and(|per| per < shortest || per > longest) {
            problems.error(&path.field("per"), format!("must be {shortest} to {longest}"));
        }
        if self.scope == Some(RateLimitScope::Mesh) && !self.by.is_empty() {
            let message = "must be empty with scope Mesh: what is leased to proxies is one budget";
            problems.error(&path.field("by"), message);
        }
        for (index, key) in self.by.iter().enumerate() {
            let path = path.field("by").index(index);
            key.check(&path, problems);
            if self.by[..index].contains(key) {
                problems.error(&path, "is there a second time");
            }
        }
        for (index, found) in self.matches.iter().enumerate() {
            check_match(found, &path.field("matches").index(index), problems);
        }
    }
}

impl RateLimitKey {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        let header = path.field("header");
        match (self.kind, &self.header) {
            (RateLimitKeyType::Header, None) => {
                problems.error(&header, "must be there for the type Header");
            }
            (RateLimitKeyType::Header, Some(name)) => check_header_name(name, &header, problems),
            (_, Some(_)) => problems.error(&header, "must be there for the type Header only"),
            (_, None) => {}
        }
        let claim = path.field("claim");
        match (self.kind, &self.claim) {
            (RateLimitKeyType::Claim, None) => problems.error(&claim, "must be there for the type Claim"),
            (RateLimitKeyType::Claim, Some(name)) if !(1..=256).contains(&name.len()) => {
                problems.error(&claim, "must have 1 to 256 bytes");
            }
            (RateLimitKeyType::Claim, Some(_)) | (_, None) => {}
            (_, Some(_)) => problems.error(&claim, "must be there for the type Claim only"),
        }
    }
}

fn check_header_name(name: &str, path: &FieldPath, problems: &mut Problems) {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        problems.error(path, format!("{name:?} is not the name of a header"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Resource;
    use super::super::tests::{accepted, assert_problems};
    use super::*;

    const HEAD: &str =
        "apiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: web, namespace: shop}\n";

    #[test]
    fn a_policy_is_read_as_written() {
        let Resource::RateLimitPolicy(policy) = accepted(&format!(
            "{HEAD}spec:
  targetRefs: [{{name: web}}]
  headers: true
  limits:
  - {{requests: 10}}
  - name: tenants
    requests: 100
    per: 1m
    burst: 20
    by: [{{type: Identity}}, {{type: Header, header: X-Tenant}}, {{type: Claim, claim: realm.sub}}]
    matches: [{{method: POST, path: {{value: /api}}}}]
  - {{name: all, requests: 5, scope: Mesh}}
"
        )) else {
            panic!("another kind")
        };
        let limits = &policy.spec.limits;
        assert_eq!((limits[0].label(0), limits[1].label(1)), ("0".to_owned(), "tenants".to_owned()));
        assert_eq!(limits[1].per, Some(Period::from_millis(60_000)));
        assert_eq!(limits[1].by[1].header.as_deref(), Some("X-Tenant"));
        assert_eq!(limits[1].by[2].claim.as_deref(), Some("realm.sub"));
        assert_eq!(limits[2].scope, Some(RateLimitScope::Mesh));
    }

    #[test]
    fn what_the_schema_cannot_say_is_refused_with_its_field() {
        assert_problems(
            &format!(
                "{HEAD}spec:
  targetRefs: [{{name: web}}, {{name: web}}]
  limits:
  - {{requests: 10, per: 500ms, name: '1'}}
  - {{requests: 10, per: 2h}}
  - {{name: Bad Name, requests: 1, by: [{{type: Header}}, {{type: Identity, header: x}}]}}
  - {{requests: 1, by: [{{type: Path}}, {{type: Path}}, {{type: Header, header: 'a b'}}]}}
  - {{requests: 1, scope: Mesh, by: [{{type: Identity}}]}}
  - {{requests: 1, matches: [{{path: {{type: RegularExpression, value: '('}}}}]}}
  - {{requests: 1, by: [{{type: Claim}}, {{type: Claim, claim: ''}}, {{type: Method, claim: sub}}]}}
"
            ),
            &[
                "spec.targetRefs[1].name: ",
                "spec.limits[0].per: must be 1s to 1h",
                "spec.limits[1].per: must be 1s to 1h",
                "spec.limits[1].name: \"1\" is the name of another limit",
                "spec.limits[2].name: ",
                "spec.limits[2].by[0].header: must be there",
                "spec.limits[2].by[1].header: must be there for the type Header only",
                "spec.limits[3].by[1]: is there a second time",
                "spec.limits[3].by[2].header: ",
                "spec.limits[4].by: must be empty",
                "spec.limits[5].matches[0].path.value: ",
                "spec.limits[6].by[0].claim: must be there for the type Claim",
                "spec.limits[6].by[1].claim: must have 1 to 256 bytes",
                "spec.limits[6].by[2].claim: must be there for the type Claim only",
            ],
        );
    }

    #[test]
    fn the_schema_bounds_numbers_and_lists() {
        assert_problems(&format!("{HEAD}spec: {{limits: []}}\n"), &["spec.limits: "]);
        assert_problems(
            &format!("{HEAD}spec: {{limits: [{{requests: 0}}]}}\n"),
            &["spec.limits[0].requests: "],
        );
    }
}
