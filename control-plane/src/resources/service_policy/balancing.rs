//! How one of a service's endpoints is chosen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refuse_zero;
use crate::resources::http_route::check_name;
use crate::resources::{FieldPath, Period, Problems};

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// The way of choosing. Default: `PeakEwma`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<LoadBalancerType>,
    /// What of a request decides, with the type `Hash`, where it is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// Whether requests stay in the caller's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZonePreference>,
    /// Lets a new endpoint warm up. Default: it gets its share at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
}

/// A way of choosing an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerType {
    /// The better of two, by latency (peak-sensitive moving average) times requests under way.
    PeakEwma,
    /// The better of two, by requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same one for the same key, whichever proxy sends it; a change of one endpoint moves the keys of that one.
    Hash,
}

/// What of a request is hashed: exactly one of the keys. A request without it is balanced as with `PeakEwma`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hash {
    /// All values of the header of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A cookie, which the proxy sets where the client has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    /// The address that the caller's connection comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<bool>,
    /// The first query parameter of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameter: Option<String>,
    /// The most that one endpoint may have under way, in percent of an even share; what would be over it goes to the
    /// next one. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 10_000))]
    pub max_load_percent: Option<u32>,
}

/// A cookie that is hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Its path. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long the client keeps one that the proxy has set. Default: until the client's own session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Period>,
}

/// Whether requests stay in the caller's zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ZonePreference {
    /// Prefers endpoints in the caller's zone. Default: true; false with the type `Hash`, whose keys would go elsewhere
    /// from each zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<bool>,
    /// The share of the zone's endpoints that must be usable, percent; with less, requests go to all zones. Default: 70.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_healthy_percent: Option<u32>,
}

/// Lets a new endpoint warm up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// The time in which the share of an endpoint that is new, or ready again, grows from a tenth of what is due to it
    /// to all of it.
    pub window: Period,
}

impl LoadBalancer {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        match (self.kind, &self.hash) {
            (Some(LoadBalancerType::Hash), None) => {
                problems.error(&path.field("hash"), "is required with the type Hash");
            }
            (Some(LoadBalancerType::Hash), Some(hash)) => hash.check(&path.field("hash"), problems),
            (_, Some(_)) => problems.error(&path.field("hash"), "means something with the type Hash alone"),
            (_, None) => {}
        }
        if let Some(slow_start) = &self.slow_start {
            refuse_zero(&path.field("slowStart").field("window"), Some(slow_start.window), problems);
        }
    }
}

impl Hash {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        let keys = [
            self.header.is_some(),
            self.cookie.is_some(),
            self.source_address == Some(true),
            self.query_parameter.is_some(),
        ];
        if keys.into_iter().filter(|is_written| *is_written).count() != 1 {
            problems.error(path, "must have one of header, cookie, sourceAddress: true and queryParameter");
        }
        if let Some(name) = &self.header {
            check_name(name, &path.field("header"), problems);
        }
        if self.query_parameter.as_ref().is_some_and(String::is_empty) {
            problems.error(&path.field("queryParameter"), "must not be empty");
        }
        if let Some(cookie) = &self.cookie {
            let path = path.field("cookie");
            check_name(&cookie.name, &path.field("name"), problems);
            refuse_zero(&path.field("ttl"), cookie.ttl, problems);
            check_cookie_path(cookie.path.as_deref(), &path.field("path"), problems);
        }
    }
}

/// Refuses what no path of a cookie can be (RFC 6265 section 4.1.1).
fn check_cookie_path(text: Option<&str>, path: &FieldPath, problems: &mut Problems) {
    let is_path = |text: &str| {
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';')
    };
    if text.is_some_and(|text| !is_path(text)) {
        problems.error(path, "must begin with / and have no spaces, semicolons or control characters");
    }
}
