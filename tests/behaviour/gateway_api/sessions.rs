//! 2.7: session persistence. What becomes of tokens and cookies is among the behaviours of `persistence`.

use super::{assert_refused, conformance, http, route_of};

/// A rule of this prefix, with more of its fields.
fn rule(prefix: &str, more: &str) -> String {
    format!("{{matches: [{{path: {{value: {prefix}}}}}], backendRefs: [{{name: echo-v1, port: 80}}]{more}}}")
}

#[tokio::test]
async fn a_rules_session_beats_the_policys_and_a_cookie_has_the_root_path_and_ends_with_the_client() {
    let policy = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
                  metadata: {name: p, namespace: shop}\nspec:\n  \
                  targetRefs: [{group: '', kind: Service, name: echo}]\n  \
                  sessionPersistence: {type: Header, sessionName: x-policy}\n---\n";
    let own = rule("/own", ", sessionPersistence: {sessionName: own}");
    let mesh = conformance(&(policy.to_owned() + &http("r", &[&own, &rule("/", "")]))).await;
    let web = mesh.client("web");
    let answer = web.get("http://echo/own").await;
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("own=") && cookie.contains("; Path=/;"), "{answer:?}");
    assert!(!cookie.contains("Max-Age") && !cookie.contains("Expires"), "a session cookie: {cookie}");
    assert_eq!(answer.header("x-policy"), "");
    let answer = web.get("http://echo/other").await;
    assert_ne!(answer.header("x-policy"), "");
    assert_eq!(answer.header("set-cookie"), "");
}

#[tokio::test]
async fn a_permanent_cookie_needs_an_absolute_timeout() {
    let mesh = conformance("").await;
    let permanent = rule("/", ", sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}");
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let permanent = if kind == "GRPCRoute" {
            permanent.replace("matches: [{path: {value: /}}], ", "")
        } else {
            permanent.clone()
        };
        let route = route_of(kind, ("shop", "r"), "", &[&permanent]);
        assert_refused(&mesh, &route, "spec.rules[0].sessionPersistence.absoluteTimeout").await;
    }
}
