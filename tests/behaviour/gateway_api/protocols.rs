//! 2.2: what a port speaks.

use outrigger_tests::eventually;

use super::{call, check, conditions, conformance, get, http, route_of};

#[tokio::test]
async fn app_protocol_then_the_ports_name_decide() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: many, namespace: shop}\nspec:\n  ports:\n"
        .to_owned();
    let ports = [
        ("{port: 1, name: a, appProtocol: http}", "http1"),
        ("{port: 2, name: b, appProtocol: grpc}", "http2"),
        ("{port: 3, name: c, appProtocol: kubernetes.io/h2c}", "http2"),
        ("{port: 4, name: d, appProtocol: kubernetes.io/ws}", "http1"),
        ("{port: 5, name: http, appProtocol: tcp}", "tcp"),
        ("{port: 6, name: grpc-x}", "http2"),
        ("{port: 7, name: e}", "detect"),
    ];
    let lines: String = ports.iter().map(|(port, _)| format!("  - {port}\n")).collect();
    let mesh = conformance(&(service + &lines + "---\n")).await;
    let services = mesh.list("/v1/services").await;
    let many = services.iter().find(|service| service["name"] == "many").unwrap();
    for ((written, expected), port) in ports.iter().zip(many["ports"].as_array().unwrap()) {
        assert_eq!(port["protocol"], *expected, "{written}");
    }
}

#[tokio::test]
async fn prior_knowledge_http2_and_http1_share_a_port() {
    let mesh = conformance(&http("r", &["{backendRefs: [{name: echo-v1, port: 80}]}"])).await;
    for url in ["http://echo/", "http://echo:8080/", "http://echo-v2/"] {
        let backend = if url.contains("v2") { "echo-v2" } else { "echo-v1" };
        check(&mesh, vec![get(url).to(backend), get(url).http2().to(backend)]).await;
    }
}

#[tokio::test]
async fn a_grpc_route_makes_its_port_http2() {
    // The port is called `http`, and what comes is HTTP/2 all the same.
    let route = route_of("GRPCRoute", ("shop", "r"), "", &["{backendRefs: [{name: echo-v1, port: 80}]}"]);
    let mesh = conformance(&route).await;
    check(&mesh, vec![call("http://echo/a.B/C").to("echo-v1")]).await;
    let config = mesh.admin("web", 0, "/config").await;
    assert_eq!(config.status, 200);
}

#[tokio::test]
async fn a_backend_port_that_cannot_carry_the_route_is_invalid() {
    let database = "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n\
                    spec: {ports: [{port: 5432, appProtocol: tcp}]}\n---\n";
    let mesh =
        conformance(&(database.to_owned() + &http("r", &["{backendRefs: [{name: db, port: 5432}]}"]))).await;
    check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=False/UnsupportedProtocol"];
    assert_eq!(conditions(&mesh, "httproutes", "r").await, expected);
}

#[tokio::test]
async fn calls_to_a_backend_port_that_says_http1_fail_and_the_condition_says_why() {
    let service = |protocol: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: echo-v1, namespace: shop}}\n\
             spec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}\n---\n"
        )
    };
    let route = route_of("GRPCRoute", ("shop", "r"), "", &["{backendRefs: [{name: echo-v1, port: 80}]}"]);
    let mesh = conformance(&(service("http") + &route)).await;
    check(&mesh, vec![call("http://echo/a.B/C").ends(14, "invalid-backend")]).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=False/UnsupportedProtocol"];
    assert_eq!(conditions(&mesh, "grpcroutes", "r").await, expected);

    mesh.apply(&service("kubernetes.io/h2c")).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];
    eventually("the condition follows", || async {
        let found = conditions(&mesh, "grpcroutes", "r").await;
        if found == expected { Ok(()) } else { Err(found.join(", ")) }
    })
    .await;
}
