//! 2.1: which routes are on which port of a service, and for whom.

use outrigger_tests::app::http::echo;
use outrigger_tests::{Client, Mesh, eventually};

use super::{assert_refused, call, check, conditions, conformance, get, http, route_of, rule};
use crate::documents::mesh_config;

const V1: &str = "{backendRefs: [{name: echo-v1, namespace: shop, port: 80}]}";
const V2: &str = "{backendRefs: [{name: echo-v2, namespace: shop, port: 80}]}";

#[tokio::test]
async fn a_parent_is_a_service_by_group_and_kind_and_core_is_an_alias() {
    let alias = http("alias", &[V1]).replace("group: \"\"", "group: core");
    let mesh = conformance(&alias).await;
    check(&mesh, vec![get("http://echo/").to("echo-v1")]).await;
    assert_refused(&mesh, &http("r", &[V1]).replace("group: \"\", ", ""), "spec.parentRefs[0].group").await;
    assert_refused(&mesh, &http("r", &[V1]).replace("kind: Service", "kind: Pod"), "spec.parentRefs[0].kind")
        .await;
}

#[tokio::test]
async fn headless_services_take_no_routes() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: shop}\n\
                   spec: {clusterIP: None, ports: [{port: 80}]}\n---\n";
    let route = http("r", &[V1]).replace("name: echo,", "name: headless,");
    let mesh = Mesh::builder().policy(&(service.to_owned() + &route)).start().await;
    eventually("the status is there", || async {
        match conditions(&mesh, "httproutes", "r").await.first().map(String::as_str) {
            Some("Accepted=False/NoMatchingParent") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn port_and_section_name_choose_the_ports() {
    for (parent, first, second) in [
        ("", "echo-v1", "echo-v1"),
        (", port: 80", "echo-v1", "echo"),
        (", port: 8080", "echo", "echo-v1"),
        (", sectionName: http-alt", "echo", "echo-v1"),
        (", port: 80, sectionName: http", "echo-v1", "echo"),
        (", port: 80, sectionName: http-alt", "echo", "echo"),
        (", port: 81", "echo", "echo"),
    ] {
        let mesh = conformance(&route_of("HTTPRoute", ("shop", "r"), parent, &[V1])).await;
        check(&mesh, vec![get("http://echo/").to(first), get("http://echo:8080/").to(second)]).await;
        let accepted =
            if (first, second) == ("echo", "echo") { "False/NoMatchingParent" } else { "True/Accepted" };
        let expected = [format!("Accepted={accepted}"), "ResolvedRefs=True/ResolvedRefs".to_owned()];
        assert_eq!(conditions(&mesh, "httproutes", "r").await, expected, "{parent}");
    }
}

#[tokio::test]
async fn routes_are_bound_by_destination_and_not_by_host() {
    let mesh = Mesh::builder()
        .service("echo", echo())
        .service("echo-v1", echo())
        .service("echo-v2", echo())
        .client("web")
        .args(&["--listen", "127.0.0.1:0=echo.shop:80"])
        .policy(&(super::ECHO.to_owned() + &http("r", &[V1])))
        .start()
        .await;
    let bound = Client::via(mesh.instance("web", 0).sidecar().listens[0]);
    for host in ["http://echo.shop/", "http://echo-v2.shop/", "http://example.com/"] {
        assert_eq!(bound.get(host).await.instance(), "echo-v1-0", "{host}");
    }
    // The service that is called has the routes, not the one that answers.
    check(&mesh, vec![get("http://echo-v1/").to("echo-v1"), get("http://echo-v2/").to("echo-v2")]).await;
}

#[tokio::test]
async fn routes_are_not_chained() {
    let second = http("second", &[V2]).replace("name: echo,", "name: echo-v1,");
    let service = super::ECHO.replace("name: echo,", "name: echo-v1,");
    let mesh = conformance(&(service + &http("first", &[V1]) + &second)).await;
    check(&mesh, vec![get("http://echo/").to("echo-v1"), get("http://echo-v1/").to("echo-v2")]).await;
}

#[tokio::test]
async fn without_a_route_plain_forwarding_and_with_one_the_rest_is_refused() {
    let mesh = conformance("").await;
    check(&mesh, vec![get("http://echo/any").to("echo"), call("http://echo/a.B/C").to("echo")]).await;
    mesh.apply(&http("r", &[&rule("{path: {value: /in}}", "echo-v1")])).await;
    mesh.pushed().await;
    eventually("the route holds", || async {
        let answer = mesh.client("web").get("http://echo/any").await;
        if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    check(
        &mesh,
        vec![
            get("http://echo/in").to("echo-v1"),
            get("http://echo/any").fails(404, "no-route"),
            call("http://echo/a.B/C").ends(12, "no-route"),
        ],
    )
    .await;
}

#[tokio::test]
async fn producer_routes_are_for_all_and_consumer_routes_replace_them_at_home() {
    let consumer = |name: &str, matches: &str| {
        route_of("HTTPRoute", ("desk", name), ", port: 80", &[&rule(matches, "echo-v2")])
    };
    let producer = http("producer", &[V1]);
    let mesh = conformance(
        &(producer + &consumer("a", "{path: {value: /a}}") + &consumer("b", "{path: {value: /b}}")),
    )
    .await;
    check(
        &mesh,
        vec![
            get("http://echo/a").to("echo-v1"),
            get("http://echo.shop/a").from("clerk").to("echo-v2"),
            get("http://echo.shop/b").from("clerk").to("echo-v2"), // merged among themselves
            get("http://echo.shop/c").from("clerk").fails(404, "no-route"), // and with nobody else
            get("http://echo.shop:8080/c").from("clerk").to("echo-v1"), // they are on port 80 alone
        ],
    )
    .await;
}

#[tokio::test]
async fn reference_grants_do_not_govern_parents() {
    let grants = mesh_config("routing: {requireReferenceGrants: true}");
    let consumer = route_of("HTTPRoute", ("desk", "r"), "", &["{backendRefs: [{name: local, port: 80}]}"]);
    let mesh = Mesh::builder()
        .service("echo", echo())
        .client("web")
        .namespace("desk")
        .service("local", echo())
        .client("clerk")
        .policy(&(super::ECHO.to_owned() + &grants + &consumer))
        .start()
        .await;
    check(&mesh, vec![get("http://echo/").to("echo"), get("http://echo.shop/").from("clerk").to("local")])
        .await;
}

#[tokio::test]
async fn of_several_kinds_on_a_port_one_wins() {
    let grpc = route_of(
        "GRPCRoute",
        ("shop", "grpc"),
        ", port: 80",
        &["{matches: [{method: {service: a.B}}], \
        backendRefs: [{name: echo-v2, port: 80}]}"],
    );
    let tcp = route_of("TCPRoute", ("shop", "tcp"), "", &[V2]);
    let mesh = conformance(&(http("http", &[V1]) + &grpc + &tcp)).await;
    check(
        &mesh,
        vec![
            call("http://echo/a.B/C").to("echo-v2"),
            call("http://echo/other.B/C").ends(12, "no-route"),
            get("http://echo:8080/").to("echo-v1"),
        ],
    )
    .await;
    for (kinds, name, expected) in [
        ("grpcroutes", "grpc", "Accepted=True/Accepted"),
        ("httproutes", "http", "Accepted=True/Accepted"), // it has the other port
        ("tcproutes", "tcp", "Accepted=False/Conflicted"),
    ] {
        assert_eq!(conditions(&mesh, kinds, name).await[0], expected, "{name}");
    }
}

#[tokio::test]
async fn hostnames_are_ignored_and_said_to_be() {
    let text = http("r", &[V1]).replace("  rules:", "  hostnames: [example.com]\n  rules:");
    let mesh = conformance(&text).await;
    check(&mesh, vec![get("http://echo/").to("echo-v1")]).await;
    let status = mesh.show("/v1/namespaces/shop/httproutes/r").await["status"].clone();
    let message = status["parents"][0]["conditions"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("hostnames") && message.contains("Host header"), "{message}");
}

#[tokio::test]
async fn service_and_gateway_parents_are_handled_apart() {
    let text = http("r", &[V1]).replace("parentRefs: [", "parentRefs: [{name: gateway}, ");
    let mesh = conformance(&text).await;
    check(&mesh, vec![get("http://echo/").to("echo-v1")]).await;
    let document = mesh.show("/v1/namespaces/shop/httproutes/r").await;
    let parents = document["status"]["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 1, "the gateway is not there: {parents:?}");
    assert_eq!(parents[0]["parentRef"]["name"], "echo");
}
