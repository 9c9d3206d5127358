//! The rate limits that count a request, each with the key that it is counted for.

use http::request;
use outrigger_api::v1::{self, RateLimitKeyKind as Key};
use outrigger_control_plane::explain::Setting;
use outrigger_proxy::rate_limit::RateLimits;

use super::Caller;

/// What the names of rate limits begin with among the settings.
const NAMES: &str = "rateLimit ";

/// Leaves out the limits that do not count the request; `raw` and `limits` are the same ones, as they were sent and as
/// a proxy reads them.
pub(super) fn keep_counting(
    settings: &mut Vec<Setting>,
    raw: &[v1::RateLimit],
    limits: &RateLimits,
    caller: &Caller,
    head: &request::Parts,
) {
    settings.retain_mut(|setting| {
        let Some(name) = setting.name.strip_prefix(NAMES) else { return true };
        let is_meant = |limit: &&v1::RateLimit| format!("{}/{}", limit.policy, limit.name) == name;
        let Some(raw) = raw.iter().find(is_meant) else { return false };
        let read = limits.0.iter().find(|limit| *limit.id == *raw.id);
        let counts = read.is_some_and(|limit| {
            limit.matches.is_empty() || limit.matches.iter().any(|one| one.mismatches(head).is_empty())
        });
        let keys: Vec<String> = raw.by.iter().map(|by| key(by, caller, head)).collect();
        if !keys.is_empty() {
            setting.value.push_str(&format!("; this one for {}", keys.join(" and ")));
        }
        counts
    });
}

fn key(by: &v1::RateLimitKey, caller: &Caller, head: &request::Parts) -> String {
    let identity = || caller.identity.as_ref().map_or("of the caller".to_owned(), ToString::to_string);
    match by.kind() {
        Key::Identity => format!("Identity {}", identity()),
        Key::Header => {
            let value = super::header(head, &by.header);
            value.map_or_else(|| format!("no {}", by.header), |value| format!("{} {value:?}", by.header))
        }
        Key::Method => format!("Method {}", head.method),
        Key::Path => format!("Path {}", head.uri.path()),
        Key::ClientAddress => format!("ClientAddress {}", caller.address),
        Key::Claim => {
            let path: Vec<Box<str>> = by.claim.iter().map(|name| name.as_str().into()).collect();
            let values = caller.claims.iter().flat_map(|claims| claims.items(&path));
            let values: Vec<String> = values.map(|value| value.into_owned()).collect();
            let name = by.claim.join(".");
            if values.is_empty() {
                format!("no claim {name}")
            } else {
                format!("claim {name} {}", values.join(", "))
            }
        }
        Key::ApiKey => "ApiKey of the caller".to_owned(),
        Key::Unspecified => "an unknown key".to_owned(),
    }
}
