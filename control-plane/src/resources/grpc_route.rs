//! `GRPCRoute`: the defaults and the rules that its CRD gives an API server, for the experimental channel.
//!
//! Parents, filters and backends are checked as those of an HTTPRoute, in whose words the route is said again; its
//! matches are its own.

use gateway_api::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRules, GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType,
    GrpcRouteRulesMatchesMethod, GrpcRouteRulesMatchesMethodType,
};

use super::as_http::{self, same};
use super::http_route::{self, GATEWAY_GROUP, MOST_RULES, session};
use super::{Admission, FieldPath, Problems};

// The bounds of the CRD's schema.
const MOST_MATCHES: usize = 8;
const MOST_NAME_BYTES: usize = 1024;

impl Admission for GrpcRoute {
    fn fill_defaults(&mut self) {
        self.status = None;
        for parent in self.spec.parent_refs.iter_mut().flatten() {
            parent.group.get_or_insert_with(|| GATEWAY_GROUP.to_owned());
            parent.kind.get_or_insert_with(|| "Gateway".to_owned());
        }
        self.spec.rules.iter_mut().flatten().for_each(default_rule);
    }

    fn check(&self, problems: &mut Problems) {
        let twin = as_http::of_grpc(self);
        let path = FieldPath::root().field("spec");
        http_route::check_frame(&twin, &path, problems);
        let path = path.field("rules");
        let rules = self.spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() {
            problems.warning(&path, "has no rule, so every call is refused; {matches: []} takes them all");
        }
        for (index, rule) in rules.iter().enumerate().take(MOST_RULES) {
            check_matches(rule, &path.index(index).field("matches"), problems);
        }
        for (index, rule) in twin.spec.rules.iter().flatten().enumerate().take(MOST_RULES) {
            http_route::check_rule_apart_from_matches(rule, &path.index(index), problems);
        }
    }
}

fn default_rule(rule: &mut GrpcRouteRules) {
    for found in rule.matches.iter_mut().flatten() {
        if let Some(method) = &mut found.method {
            method.r#type.get_or_insert(GrpcRouteRulesMatchesMethodType::Exact);
        }
        for header in found.headers.iter_mut().flatten() {
            header.r#type.get_or_insert(GrpcRouteRulesMatchesHeadersType::Exact);
        }
    }
    if let Some(written) = &mut rule.session_persistence
        && let Some(mut twin) = same(written)
    {
        session::fill_defaults(&mut twin);
        if let Some(filled) = same(&twin) {
            *written = filled;
        }
    }
    // Filters and backends have the same defaults as those of an HTTPRoute.
    if let Some(filters) = &mut rule.filters
        && let Some(filled) = http_route::with_default_filters(filters).and_then(|twins| same(&twins))
    {
        *filters = filled;
    }
    if let Some(backends) = &mut rule.backend_refs
        && let Some(filled) = http_route::with_default_backends(backends).and_then(|twins| same(&twins))
    {
        *backends = filled;
    }
}

fn check_matches(rule: &GrpcRouteRules, path: &FieldPath, problems: &mut Problems) {
    let matches = rule.matches.as_deref().unwrap_or_default();
    problems.check_count(path, matches.len(), MOST_MATCHES);
    for (index, found) in matches.iter().enumerate().take(MOST_MATCHES) {
        check_match(found, &path.index(index), problems);
    }
}

fn check_match(found: &GrpcRouteRulesMatches, path: &FieldPath, problems: &mut Problems) {
    if let Some(method) = &found.method {
        check_method(method, &path.field("method"), problems);
    }
    let headers: Option<Vec<_>> = found.headers.as_ref().and_then(same);
    http_route::check_header_matches(&headers.unwrap_or_default(), &path.field("headers"), problems);
}

fn check_method(method: &GrpcRouteRulesMatchesMethod, path: &FieldPath, problems: &mut Problems) {
    let is_regex = method.r#type == Some(GrpcRouteRulesMatchesMethodType::RegularExpression);
    let parts = [("service", &method.service), ("method", &method.method)];
    if parts.iter().all(|(_, text)| text.as_deref().is_none_or(str::is_empty)) {
        problems.error(path, "must name a service, a method or both");
    }
    for (field, text) in parts {
        let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
        let path = path.field(field);
        if text.len() > MOST_NAME_BYTES {
            problems.error(&path, format!("must not be longer than {MOST_NAME_BYTES} bytes"));
        } else if is_regex {
            http_route::check_regex(text, &path, problems);
        } else if field == "method" && !is_word(text) {
            problems.error(&path, format!("{text:?} is not the name of a method: letters, digits and '_'"));
        } else if field == "service" && !text.split('.').skip(usize::from(text.starts_with('.'))).all(is_word)
        {
            problems.error(
                &path,
                format!("{text:?} is not the name of a service: words of letters, digits and '_', with '.' between"),
            );
        }
    }
}

/// A name of a message, service or method by itself.
fn is_word(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && !text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::resources::tests::{accepted, assert_problems, warnings};

    fn route(rules: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: talk, namespace: shop}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: talk}}]\n  rules: {rules}"
        )
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        let value = accepted(&route(
            "[{matches: [{method: {service: a.B}, headers: [{name: x, value: y}]}], backendRefs: [{name: v1, port: 80}]}]",
        ))
        .to_value();
        assert_eq!(
            value["spec"]["rules"],
            json!([{
                "matches": [{
                    "method": {"type": "Exact", "service": "a.B"},
                    "headers": [{"type": "Exact", "name": "x", "value": "y"}],
                }],
                "backendRefs": [{"group": "", "kind": "Service", "name": "v1", "port": 80, "weight": 1}],
            }])
        );
        let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: gw}]}";
        assert_eq!(
            accepted(gateway).to_value()["spec"],
            json!({"parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}]}),
            "no rule is made up"
        );
    }

    #[test]
    fn what_the_crd_refuses_is_refused_with_its_field() {
        let at = "spec.rules[0].matches[0].method";
        for (rules, expected) in [
            ("[{matches: [{method: {}}]}]".to_owned(), format!("{at}: must name a service")),
            ("[{matches: [{method: {service: a/B}}]}]".to_owned(), format!("{at}.service: \"a/B\" is not")),
            ("[{matches: [{method: {service: 'a..B'}}]}]".to_owned(), format!("{at}.service: ")),
            ("[{matches: [{method: {method: '1x'}}]}]".to_owned(), format!("{at}.method: \"1x\" is not")),
            (
                "[{matches: [{method: {type: RegularExpression, service: '('}}]}]".to_owned(),
                format!("{at}.service: \"(\" is no regular expression"),
            ),
            ("[{matches: [{method: {type: Prefix, service: a}}]}]".to_owned(), format!("{at}.type: ")),
            (
                "[{matches: [{headers: [{name: 'a b', value: c}]}]}]".to_owned(),
                "spec.rules[0].matches[0].headers[0].name: ".to_owned(),
            ),
            (
                format!("[{{matches: [{}]}}]", ["{}"; 9].join(", ")),
                "spec.rules[0].matches: must not have more than 8".to_owned(),
            ),
            (
                "[{name: a}, {name: a}]".to_owned(),
                "spec.rules[1].name: \"a\" names an earlier rule".to_owned(),
            ),
            (
                "[{backendRefs: [{name: b}]}]".to_owned(),
                "spec.rules[0].backendRefs[0].port: is required".to_owned(),
            ),
            (
                "[{filters: [{type: RequestHeaderModifier}]}]".to_owned(),
                "spec.rules[0].filters[0].requestHeaderModifier: is required".to_owned(),
            ),
            ("[{filters: [{type: URLRewrite}]}]".to_owned(), "spec.rules[0].filters[0].type: ".to_owned()),
        ] {
            assert_problems(&route(&rules), &[&expected]);
        }
        for service in [".a.B", "_a", "A_1.b"] {
            accepted(&route(&format!("[{{matches: [{{method: {{service: {service}}}}}]}}]")));
        }
        assert!(warnings(&route("[]")).iter().any(|warning| warning.contains("every call is refused")));
    }
}
