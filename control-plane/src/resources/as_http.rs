//! GRPCRoute and TCPRoute in the words of an HTTPRoute.
//!
//! Neither says anything that an HTTPRoute could not: a gRPC method is a path, and parents, filters and backends of all
//! kinds are field by field the same. Said once again in these words, all of them are checked, attached and compiled by
//! the same code; what differs (which match goes first, what the port speaks) is decided by the kind.

use gateway_api::experimental::grpcroutes::{
    GrpcRoute, GrpcRouteRulesMatches, GrpcRouteRulesMatchesMethod, GrpcRouteRulesMatchesMethodType,
};
use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteRulesMatches, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteSpec,
};
use gateway_api::experimental::tcproutes::TcpRoute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One element of a path: a service or a method that may be any.
const ANY_ELEMENT: &str = "[^/]+";

/// A GRPCRoute as an HTTPRoute whose matches are of paths.
pub(crate) fn of_grpc(route: &GrpcRoute) -> HttpRoute {
    let mut spec = route.spec.clone();
    let rules = spec.rules.as_deref_mut().unwrap_or_default();
    let matches: Vec<_> = rules.iter_mut().map(|rule| rule.matches.take()).collect();
    let mut http = with_spec(&route.metadata, &spec);
    for (rule, matches) in http.spec.rules.iter_mut().flatten().zip(matches) {
        rule.matches = matches.map(|matches| matches.iter().map(of_match).collect());
    }
    http
}

/// A TCPRoute as an HTTPRoute that matches everything.
pub(crate) fn of_tcp(route: &TcpRoute) -> HttpRoute {
    with_spec(&route.metadata, &route.spec)
}

fn with_spec(metadata: &ObjectMeta, spec: &impl Serialize) -> HttpRoute {
    let spec: Option<HttpRouteSpec> = same(spec);
    HttpRoute { metadata: metadata.clone(), spec: spec.unwrap_or_default(), status: None }
}

/// The same value in the other of its generated types.
pub(crate) fn same<A: Serialize, B: DeserializeOwned>(value: &A) -> Option<B> {
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}

fn of_match(found: &GrpcRouteRulesMatches) -> HttpRouteRulesMatches {
    let (kind, value) = path(found.method.as_ref());
    HttpRouteRulesMatches {
        path: Some(HttpRouteRulesMatchesPath { r#type: Some(kind), value: Some(value) }),
        headers: found.headers.as_ref().and_then(same),
        ..HttpRouteRulesMatches::default()
    }
}

/// The paths of the calls that are meant: `/SERVICE/METHOD` (gRPC over HTTP/2).
fn path(method: Option<&GrpcRouteRulesMatchesMethod>) -> (HttpRouteRulesMatchesPathType, String) {
    use HttpRouteRulesMatchesPathType::{Exact, PathPrefix, RegularExpression};
    let written = |text: Option<&String>| text.cloned().filter(|text| !text.is_empty());
    let service = written(method.and_then(|method| method.service.as_ref()));
    let name = written(method.and_then(|method| method.method.as_ref()));
    let is_regex = method.and_then(|method| method.r#type.as_ref())
        == Some(&GrpcRouteRulesMatchesMethodType::RegularExpression);
    match (service, name) {
        (None, None) => (PathPrefix, "/".to_owned()),
        (service, name) if is_regex => {
            let parts = [service, name].map(|part| part.unwrap_or_else(|| ANY_ELEMENT.to_owned()));
            let [service, name] = &parts;
            // One that is wrong by itself stays wrong: the groups must not mend it.
            let wrong = parts.iter().find(|part| regex::Regex::new(part).is_err());
            (RegularExpression, wrong.cloned().unwrap_or_else(|| format!("/(?:{service})/(?:{name})")))
        }
        (Some(service), Some(name)) => (Exact, format!("/{service}/{name}")),
        (Some(service), None) => (PathPrefix, format!("/{service}")),
        (None, Some(name)) => (RegularExpression, format!("/{ANY_ELEMENT}/{}", regex::escape(&name))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn grpc(spec: Value) -> GrpcRoute {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn a_call_is_a_path() {
        for (method, kind, value) in [
            (r#"{"service": "a.B", "method": "C"}"#, "Exact", "/a.B/C"),
            (r#"{"type": "Exact", "service": "a.B"}"#, "PathPrefix", "/a.B"),
            (r#"{"method": "C"}"#, "RegularExpression", "/[^/]+/C"),
            (r#"{"type": "RegularExpression", "service": "a|b"}"#, "RegularExpression", "/(?:a|b)/(?:[^/]+)"),
            (
                r#"{"type": "RegularExpression", "service": "a", "method": "C.*"}"#,
                "RegularExpression",
                "/(?:a)/(?:C.*)",
            ),
            (r#"{"type": "RegularExpression", "service": "a)|(b"}"#, "RegularExpression", "a)|(b"),
            (r#"{}"#, "PathPrefix", "/"),
        ] {
            let method: Value = serde_json::from_str(method).unwrap();
            let route = of_grpc(&grpc(serde_json::json!({"rules": [{"matches": [{"method": method}]}]})));
            let path = serde_json::to_value(&route.spec.rules.unwrap()[0].matches.as_ref().unwrap()[0].path);
            assert_eq!(path.unwrap(), serde_json::json!({"type": kind, "value": value}), "{method}");
        }
    }

    #[test]
    fn everything_but_matches_stays_as_it_is() {
        let header = serde_json::json!({"set": [{"name": "a", "value": "b"}]});
        let mirror = serde_json::json!({"backendRef": {"name": "m", "port": 80}, "percent": 5});
        let filters = serde_json::json!([
            {"type": "RequestHeaderModifier", "requestHeaderModifier": header},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": header},
            {"type": "RequestMirror", "requestMirror": mirror},
            {"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "k", "name": "n"}},
        ]);
        let spec = serde_json::json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "a", "namespace": "b", "port": 80, "sectionName": "c"}],
            "hostnames": ["example.com"],
            "rules": [{
                "name": "r",
                "filters": filters,
                "backendRefs": [{"name": "a", "namespace": "b", "port": 80, "weight": 3, "filters": filters}],
                "sessionPersistence": {"sessionName": "s", "type": "Header"},
            }],
        });
        let route = of_grpc(&grpc(spec.clone()));
        assert_eq!(serde_json::to_value(&route.spec).unwrap(), spec);
        let backends = serde_json::json!([{"name": "a", "port": 80, "weight": 3}]);
        let spec = serde_json::json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "a"}], "rules": [{"name": "r", "backendRefs": backends}],
        });
        let tcp: TcpRoute =
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec})).unwrap();
        assert_eq!(serde_json::to_value(of_tcp(&tcp).spec).unwrap(), spec);
    }
}
