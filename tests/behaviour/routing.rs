//! Which requests go where: matches and their precedence, weights, filters, and what happens to the rest.

use std::collections::HashMap;

use outrigger_tests::app::http::{echo, empty, saying};
use outrigger_tests::{Mesh, eventually, request};

use crate::documents::{policy, route, route_in, service};

/// `pay` has no instances of its own; `pay-v1` and `pay-v2` stand behind it.
async fn split(rules: &str) -> Mesh {
    let policy = service("pay") + &route("split", "pay", rules);
    Mesh::builder()
        .policy(&policy)
        .service("pay-v1", saying("one"))
        .service("pay-v2", saying("two"))
        .client("web")
        .start()
        .await
}

/// The share of each answer in so many requests.
async fn shares(mesh: &Mesh, url: &str, requests: usize) -> HashMap<String, f64> {
    let web = mesh.client("web").http2();
    let mut counts = HashMap::<String, usize>::new();
    // In flight together, so that ten thousand do not take minutes; few enough not to reach any limit.
    for _ in 0..requests / 50 {
        let answers = futures_util::future::join_all((0..50).map(|_| web.get(url))).await;
        for answer in answers {
            let key =
                if answer.status == 200 { answer.text() } else { format!("{}", answer.status.as_u16()) };
            *counts.entry(key).or_default() += 1;
        }
    }
    counts.into_iter().map(|(key, count)| (key, count as f64 / requests as f64)).collect()
}

#[tokio::test]
async fn a_weighted_split_is_within_two_points_over_ten_thousand_requests() {
    let mesh =
        split("- backendRefs: [{name: pay-v1, port: 80, weight: 90}, {name: pay-v2, port: 80, weight: 10}]")
            .await;
    let shares = shares(&mesh, "http://pay/", 10_000).await;
    assert!((shares["one"] - 0.9).abs() < 0.02 && (shares["two"] - 0.1).abs() < 0.02, "{shares:?}");
}

#[tokio::test]
async fn a_backend_of_weight_nought_gets_nothing() {
    let mesh = split("- backendRefs: [{name: pay-v1, port: 80, weight: 0}, {name: pay-v2, port: 80}]").await;
    let shares = shares(&mesh, "http://pay/", 500).await;
    assert_eq!(shares["two"], 1.0, "{shares:?}");
}

#[tokio::test]
async fn weights_that_are_all_nought_are_an_invalid_backend() {
    let mesh = split("- backendRefs: [{name: pay-v1, port: 80, weight: 0}]").await;
    mesh.client("web").get("http://pay/").await.assert_failure(500, "invalid-backend", "outbound");
}

#[tokio::test]
async fn a_rule_without_backends_is_an_invalid_backend() {
    let mesh = split("- matches: [{path: {value: /}}]").await;
    mesh.client("web").get("http://pay/").await.assert_failure(500, "invalid-backend", "outbound");
}

#[tokio::test]
async fn an_invalid_backend_gets_its_share_of_500() {
    let mesh = split("- backendRefs: [{name: pay-v1, port: 80}, {name: gone, port: 80}]").await;
    let shares = shares(&mesh, "http://pay/", 2_000).await;
    // Four standard deviations of 2,000 fair coins are 4.5 points.
    assert!((shares["500"] - 0.5).abs() < 0.05 && (shares["one"] - 0.5).abs() < 0.05, "{shares:?}");
}

#[tokio::test]
async fn a_backend_that_comes_to_exist_is_used() {
    let mut mesh = split("- backendRefs: [{name: later, port: 80}]").await;
    mesh.client("web").get("http://pay/").await.assert_failure(500, "invalid-backend", "outbound");
    mesh.join("later", saying("here"), &[], false).await;
    let web = mesh.client("web");
    eventually("the new backend is used", || async {
        let answer = web.get("http://pay/").await;
        if answer.text() == "here" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_service_without_a_ready_endpoint_answers_503() {
    let mesh = Mesh::builder().policy(&service("empty")).client("web").start().await;
    mesh.client("web").get("http://empty/").await.assert_failure(503, "no-endpoints", "outbound");
}

#[tokio::test]
async fn an_application_that_is_down_is_not_an_endpoint() {
    let mut mesh = Mesh::builder().service("api", saying("up")).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/").await.text(), "up");
    mesh.instance_mut("api", 0).apps[0].1.kill();
    eventually("the health check finds it out", || async {
        let answer = web.get("http://api/").await;
        if answer.failure() == "no-endpoints; by=outbound" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    mesh.instance_mut("api", 0).apps[0].1.revive().await;
    eventually("it serves again", || async {
        let answer = web.get("http://api/").await;
        if answer.text() == "up" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// Each rule names itself in `x-rule`.
fn named(name: &str, matches: &str) -> String {
    format!(
        "- matches: [{matches}]\n  filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: \
         {{set: [{{name: x-rule, value: {name}}}]}}}}]\n  backendRefs: [{{name: api, port: 80}}]\n"
    )
}

async fn with_rules(rules: &[(&str, &str)]) -> Mesh {
    let rules: String = rules.iter().map(|(name, matches)| named(name, matches)).collect();
    Mesh::builder().service("api", echo()).policy(&route("rules", "api", &rules)).client("web").start().await
}

/// Which rule served the request.
async fn rule(mesh: &Mesh, method: &str, path: &str, headers: &[(&'static str, &str)]) -> String {
    let url = format!("http://api{path}");
    let answer = mesh.client("web").answer(request(method, &url, headers, empty())).await;
    match answer.status.as_u16() {
        200 => answer.header("x-rule").to_owned(),
        _ => answer.failure().to_owned(),
    }
}

#[tokio::test]
async fn the_more_exact_match_wins_in_whatever_order_rules_are_written() {
    let mesh = with_rules(&[
        ("any", "{path: {value: /}}"),
        ("short", "{path: {type: PathPrefix, value: /shop}}"),
        ("long", "{path: {type: PathPrefix, value: /shop/cart}}"),
        ("exact", "{path: {type: Exact, value: /shop/cart/1}}"),
        ("method", "{path: {value: /shop/cart}, method: PUT}"),
        ("one-header", "{path: {value: /shop/cart}, headers: [{name: x-a, value: a}]}"),
        (
            "two-headers",
            "{path: {value: /shop/cart}, headers: [{name: x-a, value: a}, {name: x-b, value: b}]}",
        ),
        (
            "query",
            "{path: {value: /shop/cart}, queryParams: [{name: q, value: 1}]}"
                .replace(": 1}", ": \"1\"}")
                .as_str(),
        ),
    ])
    .await;
    for (method, path, headers, expected) in [
        ("GET", "/", &[][..], "any"),
        ("GET", "/other", &[][..], "any"),
        ("GET", "/shop", &[][..], "short"),
        ("GET", "/shop/else", &[][..], "short"),
        ("GET", "/shop/cart", &[][..], "long"),
        ("GET", "/shop/cart/1", &[][..], "exact"),
        ("PUT", "/shop/cart/1", &[("x-a", "a")][..], "exact"),
        ("PUT", "/shop/cart/2", &[][..], "method"),
        ("PUT", "/shop/cart/2", &[("x-a", "a"), ("x-b", "b")][..], "method"),
        ("GET", "/shop/cart/2", &[("x-a", "a")][..], "one-header"),
        ("GET", "/shop/cart/2?q=1", &[("x-a", "a")][..], "one-header"),
        ("GET", "/shop/cart/2", &[("x-a", "a"), ("x-b", "b")][..], "two-headers"),
        ("GET", "/shop/cart/2?q=1", &[][..], "query"),
        ("GET", "/shop/cart/2?q=2", &[][..], "long"),
        ("GET", "/shop/cart/2?q=2&q=1", &[][..], "long"), // the first occurrence counts
    ] {
        assert_eq!(rule(&mesh, method, path, headers).await, expected, "{method} {path} {headers:?}");
    }
}

#[tokio::test]
async fn a_prefix_matches_whole_path_elements() {
    let mesh = with_rules(&[("prefix", "{path: {type: PathPrefix, value: /abc}}")]).await;
    for (path, expected) in [
        ("/abc", "prefix"),
        ("/abc/", "prefix"),
        ("/abc/d", "prefix"),
        ("/abc?x=1", "prefix"),
        ("/abcd", "no-route; by=outbound"),
        ("/ABC", "no-route; by=outbound"),
        ("/", "no-route; by=outbound"),
    ] {
        assert_eq!(rule(&mesh, "GET", path, &[]).await, expected, "{path}");
    }
}

#[tokio::test]
async fn equal_matches_are_decided_by_the_order_of_rules() {
    let mesh = with_rules(&[("first", "{path: {value: /}}"), ("second", "{path: {value: /}}")]).await;
    assert_eq!(rule(&mesh, "GET", "/", &[]).await, "first");
}

#[tokio::test]
async fn matches_of_a_rule_are_alternatives_and_fields_of_a_match_are_conditions() {
    let both = "{path: {value: /a}, headers: [{name: X-Mode, value: on}]}, {path: {type: Exact, value: /b}}";
    let mesh = with_rules(&[("both", both)]).await;
    assert_eq!(rule(&mesh, "GET", "/a", &[("x-mode", "on")]).await, "both");
    assert_eq!(rule(&mesh, "GET", "/b", &[]).await, "both");
    assert_eq!(rule(&mesh, "GET", "/a", &[]).await, "no-route; by=outbound");
    assert_eq!(rule(&mesh, "GET", "/a", &[("x-mode", "ON")]).await, "no-route; by=outbound");
}

#[tokio::test]
async fn regular_expressions_match_the_whole_value() {
    let mesh = with_rules(&[
        ("path", "{path: {type: RegularExpression, value: \"/v[0-9]+/.*\"}}"),
        ("header", "{headers: [{type: RegularExpression, name: x-a, value: \"(cat|dog)s?\"}]}"),
    ])
    .await;
    assert_eq!(rule(&mesh, "GET", "/v12/x", &[]).await, "path");
    assert_eq!(rule(&mesh, "GET", "/v/x", &[]).await, "no-route; by=outbound");
    assert_eq!(rule(&mesh, "GET", "/pre/v1/x", &[]).await, "no-route; by=outbound");
    assert_eq!(rule(&mesh, "GET", "/z", &[("x-a", "cats")]).await, "header");
    assert_eq!(rule(&mesh, "GET", "/z", &[("x-a", "catsx")]).await, "no-route; by=outbound");
}

#[tokio::test]
async fn what_no_rule_matches_is_404_and_a_service_without_routes_takes_all() {
    let mesh = Mesh::builder()
        .service("api", echo())
        .service("plain", echo())
        .policy(&route(
            "only",
            "api",
            "- matches: [{path: {value: /in}}]\n  backendRefs: [{name: api, port: 80}]",
        ))
        .client("web")
        .start()
        .await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/in").await.status, 200);
    web.get("http://api/out").await.assert_failure(404, "no-route", "outbound");
    assert_eq!(web.get("http://plain/anything").await.status, 200);
}

#[tokio::test]
async fn header_filters_change_what_the_application_and_the_caller_see() {
    let rules = "
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: x-set, value: new}]
      add: [{name: x-add, value: more}]
      remove: [x-remove]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: x-method, value: hidden}]
      add: [{name: x-added, value: yes-please}]
      remove: [x-path]
  backendRefs: [{name: api, port: 80}]";
    let mesh = Mesh::builder()
        .service("api", echo())
        .policy(&route("filters", "api", rules))
        .client("web")
        .start()
        .await;
    let headers = [("x-set", "old"), ("x-add", "some"), ("x-remove", "1"), ("x-keep", "1")];
    let answer = mesh.client("web").get_with("http://api/", &headers).await;
    let seen = mesh.instance("api", 0).record().seen().remove(0);
    let all = |name: &str| -> Vec<String> {
        seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(all("x-set"), ["new"]);
    assert_eq!(all("x-add").join(","), "some,more");
    assert_eq!((all("x-remove").len(), all("x-keep").len()), (0, 1));
    assert_eq!(
        (answer.header("x-method"), answer.header("x-added"), answer.header("x-path")),
        ("hidden", "yes-please", "")
    );
}

#[tokio::test]
async fn a_route_in_the_callers_namespace_replaces_that_of_the_service() {
    let producer = named("producer", "{path: {value: /}}");
    let consumer = named("consumer", "{path: {value: /only}}")
        .replace("name: api, port", "name: api, namespace: shop, port");
    let policies =
        route("producer", "api", &producer) + &route_in("desk", "consumer", "shop", "api", &consumer);
    let mesh = Mesh::builder()
        .service("api", echo())
        .client("web")
        .namespace("desk")
        .client("clerk")
        .policy(&policies)
        .start()
        .await;
    let web = mesh.client("web");
    let clerk = mesh.client("clerk");
    assert_eq!(web.get("http://api.shop/only").await.header("x-rule"), "producer");
    assert_eq!(clerk.get("http://api.shop/only").await.header("x-rule"), "consumer");
    clerk.get("http://api.shop/").await.assert_failure(404, "no-route", "outbound");
}

#[tokio::test]
async fn a_name_without_namespace_is_looked_for_in_the_callers_own() {
    let mesh = Mesh::builder()
        .service("api", saying("shop"))
        .namespace("desk")
        .service("api", saying("desk"))
        .client("clerk")
        .start()
        .await;
    assert_eq!(mesh.client("clerk").get("http://api/").await.text(), "desk");
    assert_eq!(mesh.client("clerk").get("http://api.shop/").await.text(), "shop");
}

#[tokio::test]
async fn a_callers_port_must_be_one_of_the_service() {
    let mesh =
        Mesh::builder().service("api", saying("80")).port(8080, saying("8080")).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(web.get("http://api/").await.text(), "80");
    assert_eq!(web.get("http://api:8080/").await.text(), "8080");
    web.get("http://api:9999/").await.assert_failure(404, "no-route", "outbound");
}

#[tokio::test]
async fn instances_share_the_load() {
    // By requests under way, which are alike; by latency, a machine that is busy would decide.
    let policy = policy("api", "loadBalancer: {type: LeastRequest}");
    let mesh =
        Mesh::builder().service("api", saying("x")).instances(3).client("web").policy(&policy).start().await;
    let web = mesh.client("web").http2();
    for _ in 0..60 {
        futures_util::future::join_all((0..10).map(|_| web.get("http://api/"))).await;
    }
    for instance in mesh.instances_of("api") {
        let share = instance.record().attempts();
        assert!(share > 60, "{share} of 600 requests at one of three instances");
    }
}

#[tokio::test]
async fn the_own_zone_is_preferred_while_it_is_healthy() {
    let mut mesh = Mesh::builder()
        .service("api", saying("near"))
        .args(&["--zone", "a"])
        .service("api-far", saying("unused"))
        .client("web")
        .args(&["--zone", "a"])
        .start()
        .await;
    mesh.join("api", saying("far"), &["--zone", "b"], false).await;
    let web = mesh.client("web");
    for _ in 0..100 {
        assert_eq!(web.get("http://api/").await.text(), "near");
    }
    mesh.instance_mut("api", 0).drain().await;
    eventually("the other zone takes over", || async {
        let answer = web.get("http://api/").await;
        if answer.text() == "far" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}
