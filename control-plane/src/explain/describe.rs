//! Values of compiled messages in words.

use std::time::Duration;

use outrigger_api::v1::{self, filter::Kind};

use crate::resources::Period;

/// `1m30s`.
pub(super) fn duration(duration: &prost_types::Duration) -> String {
    let seconds = u64::try_from(duration.seconds).unwrap_or_default();
    let millis = Duration::new(seconds, u32::try_from(duration.nanos).unwrap_or_default()).as_millis();
    Period::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).to_string()
}

/// What a filter does.
pub(super) fn filter(filter: &v1::Filter) -> String {
    match &filter.kind {
        Some(Kind::RequestHeaders(modifier)) => format!("request headers: {}", headers(modifier)),
        Some(Kind::ResponseHeaders(modifier)) => format!("response headers: {}", headers(modifier)),
        Some(Kind::Unresolved(reason)) => format!("fails every request: {reason}"),
        None => "none".to_owned(),
    }
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
