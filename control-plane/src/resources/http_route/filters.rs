//! Filters of rules and of backends: defaults, the union of type and field, what may not be repeated or combined.
//!
//! The generated types have every filter twice, once for rules and once for backends, field by field the same.
//! They are checked as one by way of their JSON form.

use gateway_api::experimental::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters,
    HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestHeaderModifier,
    HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType as RedirectPathType,
    HttpRouteRulesFiltersType as FilterType, HttpRouteRulesFiltersUrlRewritePathType as RewritePathType,
    HttpRouteRulesMatches, HttpRouteRulesMatchesPathType,
};

use super::matches::check_name;
use super::{BackendTarget, check_backend_target};
use crate::resources::as_http::same;
use crate::resources::{FieldPath, Kind, Problems};

const MOST_FILTERS: usize = 16;
const MOST_HEADERS: usize = 16;
const MOST_ORIGINS: usize = 64;

pub(super) fn default_filter(filter: &mut HttpRouteRulesFilters) {
    if let Some(redirect) = &mut filter.request_redirect {
        redirect.status_code.get_or_insert(302);
    }
    if let Some(cors) = &mut filter.cors {
        cors.max_age.get_or_insert(5);
    }
    if let Some(mirror) = &mut filter.request_mirror {
        mirror.backend_ref.group.get_or_insert_default();
        mirror.backend_ref.kind.get_or_insert_with(|| "Service".to_owned());
        if let Some(fraction) = &mut mirror.fraction {
            fraction.denominator.get_or_insert(100);
        }
    }
    if let Some(auth) = &mut filter.external_auth {
        auth.backend_ref.group.get_or_insert_default();
        auth.backend_ref.kind.get_or_insert_with(|| "Service".to_owned());
    }
}

pub(super) fn default_backend_filter(filter: &mut HttpRouteRulesBackendRefsFilters) {
    let Some(mut twin) = same::<_, HttpRouteRulesFilters>(filter) else { return };
    default_filter(&mut twin);
    if let Some(filled) = same(&twin) {
        *filter = filled;
    }
}

/// Checks the filters of a rule, and what they may not be combined with.
pub(super) fn check_rule_filters(rule: &HttpRouteRules, path: &FieldPath, problems: &mut Problems) {
    let filters = rule.filters.as_deref().unwrap_or_default();
    let matches = rule.matches.as_deref().unwrap_or_default();
    let filters_path = path.field("filters");
    check_filters(filters, matches, &filters_path, problems);
    let redirects = filters.iter().any(|filter| filter.r#type == FilterType::RequestRedirect);
    if redirects && rule.backend_refs.as_ref().is_some_and(|backends| !backends.is_empty()) {
        problems.error(&path.field("backendRefs"), "must be left out where the rule redirects");
    }
}

/// Checks the filters of one backend; `matches` are those of its rule.
pub(super) fn check_backend_filters(
    backend: &HttpRouteRulesBackendRefs,
    matches: &[HttpRouteRulesMatches],
    path: &FieldPath,
    problems: &mut Problems,
) {
    let filters: Vec<HttpRouteRulesFilters> = backend.filters.iter().flatten().filter_map(same).collect();
    check_filters(&filters, matches, &path.field("filters"), problems);
}

fn check_filters(
    filters: &[HttpRouteRulesFilters],
    matches: &[HttpRouteRulesMatches],
    path: &FieldPath,
    problems: &mut Problems,
) {
    problems.check_count(path, filters.len(), MOST_FILTERS);
    for (index, filter) in filters.iter().enumerate().take(MOST_FILTERS) {
        let path = path.index(index);
        check_union(filter, &path, problems);
        let once = !matches!(filter.r#type, FilterType::RequestMirror | FilterType::ExtensionRef);
        if once && filters[..index].iter().any(|earlier| earlier.r#type == filter.r#type) {
            problems.error(&path.field("type"), "must not be repeated");
        }
        check_filter(filter, matches, &path, problems);
    }
    let has = |kind: FilterType| filters.iter().any(|filter| filter.r#type == kind);
    if has(FilterType::RequestRedirect) && has(FilterType::UrlRewrite) {
        problems.error(path, "must not have both RequestRedirect and URLRewrite");
    }
}

/// The field of the filter's type must be there, and no other.
fn check_union(filter: &HttpRouteRulesFilters, path: &FieldPath, problems: &mut Problems) {
    for (kind, name, field, present) in [
        (
            FilterType::RequestHeaderModifier,
            "RequestHeaderModifier",
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            FilterType::ResponseHeaderModifier,
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        (FilterType::RequestMirror, "RequestMirror", "requestMirror", filter.request_mirror.is_some()),
        (
            FilterType::RequestRedirect,
            "RequestRedirect",
            "requestRedirect",
            filter.request_redirect.is_some(),
        ),
        (FilterType::UrlRewrite, "URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        (FilterType::Cors, "CORS", "cors", filter.cors.is_some()),
        (FilterType::ExtensionRef, "ExtensionRef", "extensionRef", filter.extension_ref.is_some()),
        (FilterType::ExternalAuth, "ExternalAuth", "externalAuth", filter.external_auth.is_some()),
    ] {
        match (kind == filter.r#type, present) {
            (true, false) => problems.error(&path.field(field), format!("is required for type {name}")),
            (false, true) => {
                problems.error(&path.field(field), format!("must be left out where type is not {name}"))
            }
            _ => {}
        }
    }
}

fn check_filter(
    filter: &HttpRouteRulesFilters,
    matches: &[HttpRouteRulesMatches],
    path: &FieldPath,
    problems: &mut Problems,
) {
    if let Some(modifier) = &filter.request_header_modifier {
        check_headers(modifier, &path.field("requestHeaderModifier"), problems);
    }
    if let Some(modifier) = filter.response_header_modifier.as_ref().and_then(same) {
        check_headers(&modifier, &path.field("responseHeaderModifier"), problems);
    }
    if let Some(mirror) = &filter.request_mirror {
        check_mirror(mirror, &path.field("requestMirror"), problems);
    }
    if let Some(redirect) = &filter.request_redirect {
        check_redirect(redirect, matches, &path.field("requestRedirect"), problems);
    }
    if let Some(rewrite) = &filter.url_rewrite {
        let path = path.field("urlRewrite");
        check_host(rewrite.hostname.as_deref(), &path, problems);
        if let Some(to) = &rewrite.path {
            let replaces_prefix = to.r#type == RewritePathType::ReplacePrefixMatch;
            let values = (to.replace_full_path.as_deref(), to.replace_prefix_match.as_deref());
            check_path_modifier(replaces_prefix, values, matches, &path.field("path"), problems);
        }
    }
    if let Some(cors) = &filter.cors {
        check_cors(cors, &path.field("cors"), problems);
    }
    if filter.external_auth.is_some() {
        problems.unsupported(&path.field("externalAuth"));
    }
    if let Some(extension) = &filter.extension_ref
        && Kind::extending(&extension.group, &extension.kind).is_none()
    {
        problems.warning(
            &path.field("extensionRef"),
            format!(
                "{} {:?} is not known here, so requests of the rule are answered with status 500",
                extension.kind, extension.name
            ),
        );
    }
}

fn check_headers(
    modifier: &HttpRouteRulesFiltersRequestHeaderModifier,
    path: &FieldPath,
    problems: &mut Problems,
) {
    let set = modifier.set.iter().flatten().map(|header| (&header.name, Some(&header.value)));
    let add = modifier.add.iter().flatten().map(|header| (&header.name, Some(&header.value)));
    let remove = modifier.remove.iter().flatten().map(|name| (name, None));
    let mut seen: Vec<String> = Vec::new();
    let lists = [("set", set.collect::<Vec<_>>()), ("add", add.collect()), ("remove", remove.collect())];
    for (list, headers) in lists {
        let path = path.field(list);
        problems.check_count(&path, headers.len(), MOST_HEADERS);
        for (index, (name, value)) in headers.into_iter().enumerate().take(MOST_HEADERS) {
            let path = path.index(index);
            let name_path = if value.is_some() { path.field("name") } else { path.clone() };
            check_name(name, &name_path, problems);
            if let Some(value) = value {
                check_header_value(value, &path.field("value"), problems);
            }
            let folded = name.to_ascii_lowercase();
            if seen.contains(&folded) {
                problems.error(&name_path, format!("{name:?} is named a second time; one action per header"));
            }
            seen.push(folded);
        }
    }
}

fn check_header_value(value: &str, path: &FieldPath, problems: &mut Problems) {
    if !(1..=4096).contains(&value.len()) || http::HeaderValue::from_str(value).is_err() {
        problems.error(
            path,
            format!("{value:?} is not a header value: 1 to 4096 bytes without control characters"),
        );
    }
}

fn check_mirror(mirror: &HttpRouteRulesFiltersRequestMirror, path: &FieldPath, problems: &mut Problems) {
    let backend = &mirror.backend_ref;
    check_backend_target(
        BackendTarget {
            group: backend.group.as_deref(),
            kind: backend.kind.as_deref(),
            name: &backend.name,
            namespace: backend.namespace.as_deref(),
            port: backend.port,
        },
        &path.field("backendRef"),
        problems,
    );
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        problems.error(path, "must have percent or fraction, not both");
    }
    if let Some(percent) = mirror.percent
        && !(0..=100).contains(&percent)
    {
        problems.error(&path.field("percent"), format!("{percent} is out of range, 0 to 100"));
    }
    if let Some(fraction) = &mirror.fraction {
        let path = path.field("fraction");
        let denominator = fraction.denominator.unwrap_or(100);
        if denominator < 1 {
            problems.error(&path.field("denominator"), "must be 1 or more");
        }
        if !(0..=denominator.max(0)).contains(&fraction.numerator) {
            problems.error(&path.field("numerator"), format!("must be 0 to the denominator, {denominator}"));
        }
    }
}

fn check_redirect(
    redirect: &HttpRouteRulesFiltersRequestRedirect,
    matches: &[HttpRouteRulesMatches],
    path: &FieldPath,
    problems: &mut Problems,
) {
    check_host(redirect.hostname.as_deref(), path, problems);
    if let Some(port) = redirect.port {
        problems.check_port_number(&path.field("port"), port);
    }
    if let Some(status) = redirect.status_code
        && !matches!(status, 301 | 302 | 303 | 307 | 308)
    {
        problems.error(&path.field("statusCode"), format!("{status} is not 301, 302, 303, 307 or 308"));
    }
    if let Some(to) = &redirect.path {
        let replaces_prefix = to.r#type == RedirectPathType::ReplacePrefixMatch;
        let values = (to.replace_full_path.as_deref(), to.replace_prefix_match.as_deref());
        check_path_modifier(replaces_prefix, values, matches, &path.field("path"), problems);
    }
}

fn check_host(hostname: Option<&str>, path: &FieldPath, problems: &mut Problems) {
    if let Some(hostname) = hostname {
        problems.check_subdomain(&path.field("hostname"), hostname);
    }
}

fn check_path_modifier(
    replaces_prefix: bool,
    (full, prefix): (Option<&str>, Option<&str>),
    matches: &[HttpRouteRulesMatches],
    path: &FieldPath,
    problems: &mut Problems,
) {
    for (field, value, wanted) in
        [("replaceFullPath", full, !replaces_prefix), ("replacePrefixMatch", prefix, replaces_prefix)]
    {
        match (wanted, value) {
            (true, None) => problems.error(&path.field(field), "is required for this type"),
            (false, Some(_)) => problems.error(&path.field(field), "must be left out for this type"),
            (true, Some(value)) if value.len() > 1024 => {
                problems.error(&path.field(field), "must not be longer than 1024 bytes");
            }
            // A prefix may become nothing.
            (true, Some("")) if replaces_prefix => {}
            (true, Some(value)) if !is_path(value) => problems.error(
                &path.field(field),
                format!("{value:?} is not a path: it must start with \"/\" and have no query"),
            ),
            _ => {}
        }
    }
    let one_prefix = matches!(matches, [only] if only.path.as_ref().is_some_and(|path| {
        path.r#type == Some(HttpRouteRulesMatchesPathType::PathPrefix)
    }));
    if replaces_prefix && !one_prefix {
        problems.error(path, "replaces a prefix, so the rule must have exactly one match, by PathPrefix");
    }
}

/// Whether a text is an origin, or a pattern of such.
pub(crate) fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    // One host is as good as another to see whether the rest is right.
    let plain = authority.strip_prefix('*').map(|rest| format!("a{rest}"));
    let parsed = plain.as_deref().unwrap_or(authority).parse::<http::uri::Authority>();
    is_scheme
        && parsed.is_ok_and(|authority| {
            let port = authority.port().map(|port| port.as_u16());
            let end = authority.as_str().strip_prefix(authority.host());
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
            port != Some(0)
                && end.is_some_and(|end| end.is_empty() || port.is_some())
                && authority.host().bytes().all(is_name)
        })
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains(['?', '#']) && text.parse::<http::uri::PathAndQuery>().is_ok()
}

fn check_cors(cors: &HttpRouteRulesFiltersCors, path: &FieldPath, problems: &mut Problems) {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    problems.check_count(&path.field("allowOrigins"), count(&cors.allow_origins), MOST_ORIGINS);
    for (field, list) in [
        ("allowOrigins", &cors.allow_origins),
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        if count(list) > 1 && list.iter().flatten().any(|entry| entry == "*") {
            problems.error(&path.field(field), "must not have other entries beside \"*\"");
        }
    }
    for (index, origin) in cors.allow_origins.iter().flatten().enumerate() {
        if !is_origin(origin) {
            let problem = format!(
                "{origin:?} is not an origin: write SCHEME://HOST[:PORT], the host with \"*\" at its beginning or without"
            );
            problems.error(&path.field("allowOrigins").index(index), problem);
        }
    }
    for (field, list) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        for (index, name) in list.iter().flatten().enumerate() {
            check_name(name, &path.field(field).index(index), problems);
        }
    }
    if cors.max_age.is_some_and(|seconds| seconds < 1) {
        problems.error(&path.field("maxAge"), "must be 1 second or more");
    }
}
