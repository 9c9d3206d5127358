//! 2.10: what CRD schemas and admission do in a cluster.

use serde_json::{Value, json};

use super::{assert_refused, conformance, http, route_of};

/// The document as the control plane keeps it.
async fn kept(document: &str, kinds: &str) -> Value {
    let mesh = conformance(document).await;
    mesh.show(&format!("/v1/namespaces/shop/{kinds}/r")).await
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let backend = json!([{"group": "", "kind": "Service", "name": "echo-v1", "port": 80, "weight": 1}]);
    let route = http(
        "r",
        &["{matches: [{headers: [{name: a, value: b}], queryParams: [{name: c, value: d}]}], \
        backendRefs: [{name: echo-v1, port: 80}]}"],
    );
    let document = kept(&route, "httproutes").await;
    let rule = &document["spec"]["rules"][0];
    assert_eq!(rule["matches"][0]["path"], json!({"type": "PathPrefix", "value": "/"}));
    assert_eq!(rule["matches"][0]["headers"][0]["type"], "Exact");
    assert_eq!(rule["matches"][0]["queryParams"][0]["type"], "Exact");
    assert_eq!(rule["backendRefs"], backend);
    let metadata = &document["metadata"];
    assert_eq!(metadata["generation"], 1);
    assert!(metadata["creationTimestamp"].is_string(), "{metadata}");

    let call = "{matches: [{method: {service: a.B}}], backendRefs: [{name: echo-v1, port: 80}]}";
    let document = kept(&route_of("GRPCRoute", ("shop", "r"), "", &[call]), "grpcroutes").await;
    let rule = &document["spec"]["rules"][0];
    assert_eq!((&rule["matches"][0]["method"]["type"], &rule["backendRefs"]), (&json!("Exact"), &backend));
    let tcp = "{backendRefs: [{name: echo-v1, port: 80}]}";
    let document = kept(&route_of("TCPRoute", ("shop", "r"), "", &[tcp]), "tcproutes").await;
    assert_eq!(document["spec"]["rules"][0]["backendRefs"], backend);

    let gateway =
        http("r", &["{}"]).replace("group: \"\", kind: Service, name: echo, namespace: shop", "name: gw");
    let document = kept(&gateway, "httproutes").await;
    let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"});
    assert_eq!(document["spec"]["parentRefs"][0], parent);
}

#[tokio::test]
async fn generation_and_creation_time_are_kept() {
    let mesh = conformance(&http("r", &["{}"])).await;
    let first = mesh.show("/v1/namespaces/shop/httproutes/r").await;
    mesh.apply(&http("r", &["{name: other}"])).await;
    let second = mesh.show("/v1/namespaces/shop/httproutes/r").await;
    assert_eq!(second["metadata"]["generation"], 2);
    assert_eq!(second["metadata"]["creationTimestamp"], first["metadata"]["creationTimestamp"]);
}

#[tokio::test]
async fn what_admission_refuses_is_refused_with_its_field() {
    let mesh = conformance("").await;
    let path = |value: &str| http("r", &[&format!("{{matches: [{{path: {{value: '{value}'}}}}]}}")]);
    for value in ["no-slash", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/..", "/a/."] {
        assert_refused(&mesh, &path(value), "spec.rules[0].matches[0].path.value").await;
    }
    for (rule, field) in [
        ("{backendRefs: [{name: a}]}", "spec.rules[0].backendRefs[0].port"),
        ("{backendRefs: [{name: a, port: 80, weight: 1000001}]}", "spec.rules[0].backendRefs[0].weight"),
        ("{filters: [{type: RequestHeaderModifier}]}", "spec.rules[0].filters[0].requestHeaderModifier"),
        (
            "{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}, requestHeaderModifier: {}}]}",
            "spec.rules[0].filters[0].requestHeaderModifier",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}, \
             {type: RequestHeaderModifier, requestHeaderModifier: {remove: [b]}}]}",
            "spec.rules[0].filters[1].type",
        ),
    ] {
        assert_refused(&mesh, &http("r", &[rule]), field).await;
    }
    let twice = http("r", &["{}"]).replace(
        "parentRefs: [",
        "parentRefs: [{group: '', kind: Service, name: echo, namespace: shop, port: 80}, ",
    );
    assert_refused(&mesh, &twice, "spec.parentRefs[1]").await;
    mesh.apply(&twice.replace("namespace: shop}]", "namespace: shop, port: 8080}]")).await;
}
