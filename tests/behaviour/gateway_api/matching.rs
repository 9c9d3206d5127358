//! 2.3: which rule a request falls under.

use super::{assert_refused, check, conformance, get, http, rule, send};

#[tokio::test]
async fn the_order_of_matches_over_all_routes() {
    let (v1, v2) = ("echo-v1", "echo-v2");
    // Each pair: the later is the more particular, and in the other route.
    let general = http(
        "a-general",
        &[
            &rule("{path: {value: /}}", "echo"),
            &rule("{path: {type: PathPrefix, value: /p/long}}", v1),
            &rule("{path: {type: RegularExpression, value: '/p/long/e.*'}}", v1),
            &rule("{path: {value: /m}, headers: [{name: a, value: x}, {name: b, value: x}]}", v1),
            &rule("{path: {value: /h}, headers: [{name: a, value: x}]}", v1),
            &rule("{path: {value: /q}, queryParams: [{name: a, value: x}]}", v1),
            &rule("{path: {value: /same}}", v1),
        ],
    );
    let particular = http(
        "b-particular",
        &[
            &rule("{path: {type: PathPrefix, value: /p}, method: GET}", v2),
            &rule("{path: {type: Exact, value: /p/long/exact}}", v2),
            &rule("{path: {value: /m}, method: GET}", v2),
            &rule("{path: {value: /h}, headers: [{name: a, value: x}, {name: b, value: x}]}", v2),
            &rule("{path: {value: /q}, queryParams: [{name: a, value: x}, {name: b, value: x}]}", v2),
            &rule("{path: {value: /same}}", v2),
        ],
    );
    let mesh = conformance(&(general + &particular)).await;
    let both = |url: &str| get(url).with("a", "x").with("b", "x");
    check(
        &mesh,
        vec![
            get("http://echo/").to("echo"),
            get("http://echo/p/long").to(v1), // the longer prefix before the method
            get("http://echo/p/long/else").to(v1), // an expression before a prefix
            get("http://echo/p/long/exact").to(v2), // exact before an expression
            get("http://echo/p/short").to(v2),
            both("http://echo/m").to(v2),        // a method before two headers
            both("http://echo/h").to(v2),        // more headers
            get("http://echo/q?a=x&b=x").to(v2), // more parameters
            get("http://echo/q?a=x").to(v1),
            get("http://echo/same").to(v1), // created together, and `a` is before `b`
        ],
    )
    .await;
}

#[tokio::test]
async fn the_oldest_route_wins_then_the_first_rule() {
    let old =
        http("z-old", &[&rule("{path: {value: /}}", "echo-v1"), &rule("{path: {value: /}}", "echo-v2")]);
    let mesh = conformance(&old).await;
    // Creation times are of whole seconds: the next one is later only in the next second.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    mesh.apply(&http(
        "a-new",
        &[&rule("{path: {value: /}}", "echo-v2"), &rule("{path: {value: /new}}", "echo-v2")],
    ))
    .await;
    outrigger_tests::eventually("the newer route is there", || async {
        let answer = mesh.client("web").get("http://echo/new").await;
        if answer.instance() == "echo-v2-0" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    check(&mesh, vec![get("http://echo/").to("echo-v1")]).await;
}

#[tokio::test]
async fn a_path_prefix_is_of_whole_elements() {
    for written in ["/abc", "/abc/"] {
        let prefix = rule(&format!("{{path: {{type: PathPrefix, value: {written}}}}}"), "echo-v1");
        let mesh = conformance(&http("r", &[&prefix])).await;
        let there = ["/abc", "/abc/", "/abc/d", "/abc/d/", "/abc?q=1"]
            .map(|path| get(&format!("http://echo{path}")).to("echo-v1"));
        let not = ["/abcd", "/ABC", "/ab", "/", "/x/abc"]
            .map(|path| get(&format!("http://echo{path}")).fails(404, "no-route"));
        check(&mesh, there.into_iter().chain(not).collect()).await;
    }
}

#[tokio::test]
async fn no_matches_are_every_path_and_fields_of_a_match_are_conditions() {
    let either = "{path: {type: Exact, value: /a}}, {headers: [{name: Version, value: two}], method: PUT}";
    let mesh = conformance(&http("r", &[&rule(either, "echo-v1")])).await;
    check(
        &mesh,
        vec![
            get("http://echo/a").to("echo-v1"),
            send("PUT", "http://echo/x").with("version", "two").to("echo-v1"),
            send("PUT", "http://echo/x").fails(404, "no-route"),
            get("http://echo/x").with("version", "two").fails(404, "no-route"),
        ],
    )
    .await;
    let mesh = conformance(&http("r", &["{backendRefs: [{name: echo-v2, port: 80}]}"])).await;
    check(
        &mesh,
        vec![get("http://echo/any/thing").to("echo-v2"), send("DELETE", "http://echo/").to("echo-v2")],
    )
    .await;
}

#[tokio::test]
async fn headers_without_case_in_their_names_and_with_case_in_their_values() {
    let mesh = conformance(&http(
        "r",
        &[
            &rule("{headers: [{name: Colour, value: Green}]}", "echo-v1"),
            &rule("{headers: [{name: list, value: 'a, b'}]}", "echo-v2"),
        ],
    ))
    .await;
    check(
        &mesh,
        vec![
            get("http://echo/").with("colour", "Green").to("echo-v1"),
            get("http://echo/").with("COLOUR", "Green").http2().to("echo-v1"),
            get("http://echo/").with("colour", "green").fails(404, "no-route"),
            get("http://echo/").with("list", "a").with("list", "b").to("echo-v2"), // joined (RFC 9110)
            get("http://echo/").with("list", "b").with("list", "a").fails(404, "no-route"),
        ],
    )
    .await;
}

#[tokio::test]
async fn of_headers_and_parameters_named_twice_the_first_counts() {
    let mesh = conformance(&http(
        "r",
        &[
            &rule("{headers: [{name: a, value: x}, {name: A, value: y}]}", "echo-v1"),
            &rule("{queryParams: [{name: q, value: x}]}", "echo-v2"),
        ],
    ))
    .await;
    check(
        &mesh,
        vec![
            get("http://echo/").with("a", "x").to("echo-v1"),
            get("http://echo/").with("a", "y").fails(404, "no-route"),
            get("http://echo/?q=x&q=y").to("echo-v2"),
            get("http://echo/?q=y&q=x").fails(404, "no-route"),
            get("http://echo/?Q=x").fails(404, "no-route"),
        ],
    )
    .await;
}

#[tokio::test]
async fn unknown_values_and_too_much_are_refused_with_their_field() {
    let mesh = conformance("").await;
    let path = |text: &str| http("r", &[&rule(text, "echo-v1")]);
    assert_refused(&mesh, &path("{path: {type: Fuzzy, value: /}}"), "spec.rules[0].matches[0].path.type")
        .await;
    assert_refused(&mesh, &path("{method: FETCH}"), "spec.rules[0].matches[0].method").await;
    assert_refused(&mesh, &http("r", &["{}"; 17]), "spec.rules").await;
    assert_refused(&mesh, &path(&["{}"; 65].join(", ")), "spec.rules[0].matches").await;
    let many = rule(&["{}"; 43].join(", "), "echo-v1");
    assert_refused(&mesh, &http("r", &[&many, &many, &many]), "128 matches").await;
    assert_refused(&mesh, &http("r", &["{name: a}", "{name: a}"]), "spec.rules[1].name").await;
}
