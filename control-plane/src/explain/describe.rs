//! Values of compiled messages in words.

use std::time::Duration;

use outrigger_api::v1::{self, filter::Kind, path_change};

use crate::resources::Period;

/// `1m30s`.
pub(super) fn duration(duration: &prost_types::Duration) -> String {
    let seconds = u64::try_from(duration.seconds).unwrap_or_default();
    let millis = Duration::new(seconds, u32::try_from(duration.nanos).unwrap_or_default()).as_millis();
    Period::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).to_string()
}

/// A rate limit, as in `100 in 1m, 20 at once, for each Identity and x-tenant`.
pub(super) fn rate_limit(limit: &v1::RateLimit) -> String {
    use v1::RateLimitKeyKind as Key;
    let per = limit.per.as_ref().map(duration).unwrap_or_default();
    let mut parts = vec![format!("{} in {per}", limit.requests), format!("{} at once", limit.burst)];
    let keys = limit.by.iter().map(|key| match key.kind() {
        Key::Header => key.header.clone(),
        Key::Identity => "Identity".to_owned(),
        Key::Method => "Method".to_owned(),
        Key::Path => "Path".to_owned(),
        Key::ClientAddress => "ClientAddress".to_owned(),
        Key::Claim => format!("claim {}", key.claim.join(".")),
        Key::ApiKey => "ApiKey".to_owned(),
        Key::Unspecified => "an unknown key".to_owned(),
    });
    let keys: Vec<String> = keys.collect();
    if !keys.is_empty() {
        parts.push(format!("for each {}", keys.join(" and ")));
    }
    if limit.of_mesh {
        parts.push("all proxies together".to_owned());
    }
    if !limit.matches.is_empty() {
        let matches: Vec<String> = limit.matches.iter().map(words).collect();
        parts.push(format!("of {}", matches.join(" or ")));
    }
    parts.join(", ")
}

/// What a filter does.
pub(super) fn filter(filter: &v1::Filter) -> String {
    match &filter.kind {
        Some(Kind::RequestHeaders(modifier)) => format!("request headers: {}", headers(modifier)),
        Some(Kind::ResponseHeaders(modifier)) => format!("response headers: {}", headers(modifier)),
        Some(Kind::Redirect(it)) => {
            let parts = [("scheme", &it.scheme), ("host", &it.host)].map(|(name, value)| named(name, value));
            let port = (it.port != 0).then(|| format!("port {}", it.port));
            let parts = parts.into_iter().chain([port, it.path.as_ref().map(path)]).flatten();
            format!(
                "redirect: {}",
                parts.chain([format!("status {}", it.status)]).collect::<Vec<_>>().join(", ")
            )
        }
        Some(Kind::Rewrite(it)) => {
            let parts = [named("host", &it.host), it.path.as_ref().map(path)];
            format!("rewrite: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        Some(Kind::Mirror(it)) => {
            let name = it.service.as_ref().and_then(|service| Some((service.name.as_ref()?, service.port)));
            let to = name.map(|(name, port)| format!("{}.{}:{port}", name.name, name.namespace));
            let to = to.unwrap_or_default();
            format!("mirror: {} of {} requests to {to}", it.numerator, it.denominator)
        }
        Some(Kind::Cors(it)) => format!("CORS: from {}", it.allow_origins.join(", ")),
        Some(Kind::Fault(it)) => fault(it),
        Some(Kind::Unresolved(reason)) => format!("fails every request: {reason}"),
        None => "none".to_owned(),
    }
}

/// `None` where it is empty.
fn named(name: &str, value: &str) -> Option<String> {
    (!value.is_empty()).then(|| format!("{name} {value}"))
}

fn path(change: &v1::PathChange) -> String {
    match &change.kind {
        Some(path_change::Kind::Full(to)) => format!("path {to}"),
        Some(path_change::Kind::Prefix(it)) => {
            format!("path {}/* -> {}/*", trimmed(&it.from), trimmed(&it.to))
        }
        None => "path as it is".to_owned(),
    }
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn fault(fault: &v1::Fault) -> String {
    let percent = |per_million: u32| format!("{} %", f64::from(per_million) / 10_000.0);
    let delay = fault.delay.as_ref().map(|delay| format!("delays {}", percent(delay.per_million)));
    let abort = fault.abort.as_ref().map(|abort| format!("fails {}", percent(abort.per_million)));
    let parts: Vec<String> = delay.into_iter().chain(abort).collect();
    format!("FaultInjection {}: {} of requests", fault.policy, parts.join(" and "))
}

fn headers(modifier: &v1::HeaderModifier) -> String {
    let pair = |verb: &str, header: &v1::Header| format!("{verb} {}: {}", header.name, header.value);
    let set = modifier.set.iter().map(|header| pair("set", header));
    let add = modifier.add.iter().map(|header| pair("add", header));
    let remove = modifier.remove.iter().map(|name| format!("remove {name}"));
    set.chain(add).chain(remove).collect::<Vec<_>>().join(", ")
}

/// A match in words.
pub fn words(found: &v1::RouteMatch) -> String {
    use v1::path_match::Kind as Path;
    use v1::value_match::Kind as Value;
    let path = match found.path.as_ref().and_then(|path| path.kind.as_ref()) {
        Some(Path::Exact(path)) => format!("path {path}"),
        Some(Path::Prefix(path)) => format!("path {}/*", path.trim_end_matches('/')),
        Some(Path::Regex(path)) => format!("path ~ {path}"),
        None => "any path".to_owned(),
    };
    let value = |what: &str, wanted: &v1::ValueMatch| match &wanted.kind {
        Some(Value::Exact(value)) => format!("{what} {}: {value}", wanted.name),
        Some(Value::Regex(value)) => format!("{what} {} ~ {value}", wanted.name),
        None => format!("{what} {}", wanted.name),
    };
    let mut parts = vec![path];
    parts.extend((!found.method.is_empty()).then(|| format!("method {}", found.method)));
    parts.extend(found.headers.iter().map(|wanted| value("header", wanted)));
    parts.extend(found.query.iter().map(|wanted| value("query", wanted)));
    parts.join(", ")
}
