//! 2.5: where a rule's requests go.

use std::collections::HashMap;

use outrigger_tests::app::http::echo;
use outrigger_tests::{Client, Mesh};

use super::{call, check, conditions, conformance, get, http, route_of};

/// How many of so many requests each instance answered, failures by their status.
async fn shares(client: &Client, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests / 50 {
        let answers = futures_util::future::join_all((0..50).map(|_| client.get("http://echo/"))).await;
        for answer in answers {
            let key = if answer.status == 200 {
                answer.instance().to_owned()
            } else {
                answer.status.as_u16().to_string()
            };
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

#[tokio::test]
async fn weights_are_shares_by_chance_for_each_request() {
    let rule = "{backendRefs: [{name: echo-v1, port: 80, weight: 70}, {name: echo-v2, port: 80, weight: 30}, \
                {name: echo, port: 80, weight: 0}]}";
    let mesh = conformance(&http("r", &[rule])).await;
    let web = mesh.client("web").http2();
    let shares = shares(&web, 2_000).await;
    assert_eq!(web.connections(), 1, "one connection carries both");
    // Five standard deviations are 5 points.
    let first = shares["echo-v1-0"] as f64 / 2_000.0;
    assert!((first - 0.7).abs() < 0.05 && !shares.contains_key("echo-0"), "{shares:?}");
}

#[tokio::test]
async fn a_weight_that_is_not_written_is_one_and_all_of_nought_are_500() {
    let mesh = conformance(&http(
        "r",
        &["{backendRefs: [{name: echo-v1, port: 80}, {name: echo-v2, port: 80, weight: 3}]}"],
    ))
    .await;
    let shares = shares(&mesh.client("web").http2(), 2_000).await;
    assert!((shares["echo-v1-0"] as f64 / 2_000.0 - 0.25).abs() < 0.05, "{shares:?}");
    let mesh = conformance(&http("r", &["{backendRefs: [{name: echo-v1, port: 80, weight: 0}]}"])).await;
    check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
}

#[tokio::test]
async fn what_leads_nowhere_keeps_its_share_of_500() {
    for (reference, reason) in [
        ("name: nobody, port: 80", "BackendNotFound"),
        ("name: echo-v2, port: 81", "BackendNotFound"),
        ("group: example.com, kind: Bucket, name: b", "InvalidKind"),
    ] {
        let rule =
            format!("{{backendRefs: [{{name: echo-v1, port: 80, weight: 3}}, {{{reference}, weight: 1}}]}}");
        let mesh = conformance(&http("r", &[&rule])).await;
        let shares = shares(&mesh.client("web").http2(), 1_000).await;
        // Five standard deviations are 7 points.
        assert!((shares["500"] as f64 / 1_000.0 - 0.25).abs() < 0.07, "{reference}: {shares:?}");
        assert_eq!(shares["500"] + shares["echo-v1-0"], 1_000, "{reference}: {shares:?}");
        let expected = ["Accepted=True/Accepted".to_owned(), format!("ResolvedRefs=False/{reason}")];
        assert_eq!(conditions(&mesh, "httproutes", "r").await, expected);
    }
}

#[tokio::test]
async fn a_rule_of_which_nothing_leads_anywhere_is_500_and_unavailable_for_calls() {
    let rule = "{backendRefs: [{name: nobody, port: 80}, {name: echo-v1, port: 9}]}";
    let mesh = conformance(&http("r", &[rule])).await;
    check(
        &mesh,
        vec![
            get("http://echo/").fails(500, "invalid-backend"),
            call("http://echo/a.B/C").ends(14, "invalid-backend"),
        ],
    )
    .await;
    let mesh = conformance(&route_of("GRPCRoute", ("shop", "r"), "", &[rule])).await;
    check(&mesh, vec![call("http://echo/a.B/C").ends(14, "invalid-backend")]).await;
}

#[tokio::test]
async fn a_rule_without_backends_is_500_with_its_references_resolved() {
    let mesh = conformance(&http("r", &["{matches: [{path: {value: /}}]}"])).await;
    check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];
    assert_eq!(conditions(&mesh, "httproutes", "r").await, expected);
}

#[tokio::test]
async fn a_service_without_ready_endpoints_is_503() {
    let empty = super::ECHO.replace("name: echo,", "name: empty,");
    let mesh = conformance(&(empty + &http("r", &["{backendRefs: [{name: empty, port: 80}]}"]))).await;
    check(&mesh, vec![get("http://echo/").fails(503, "no-endpoints")]).await;
    assert_eq!(conditions(&mesh, "httproutes", "r").await[1], "ResolvedRefs=True/ResolvedRefs");
}

#[tokio::test]
async fn services_of_every_form_are_backends() {
    for spec in
        ["", "clusterIP: None, ", "type: NodePort, ", "type: LoadBalancer, ", "selector: {app: other}, "]
    {
        let other = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other, namespace: shop}}\n\
             spec: {{{spec}ports: [{{name: http, port: 8080, targetPort: 3000}}]}}\n---\n"
        );
        let mesh = Mesh::builder()
            .service("echo", echo())
            .service("other", echo())
            .on_port(8080)
            .client("web")
            .policy(
                &(super::ECHO.to_owned()
                    + &other
                    + &http("r", &["{backendRefs: [{name: other, port: 8080}]}"])),
            )
            .start()
            .await;
        check(&mesh, vec![get("http://echo/").to("other")]).await;
    }
}

#[tokio::test]
async fn a_backend_in_another_namespace_needs_no_grant() {
    let route = http("r", &["{backendRefs: [{name: far, namespace: desk, port: 80}]}"]);
    let mesh = Mesh::builder()
        .service("echo", echo())
        .client("web")
        .namespace("desk")
        .service("far", echo())
        .policy(&(super::ECHO.to_owned() + &route))
        .start()
        .await;
    check(&mesh, vec![get("http://echo/").to("far")]).await;
}
