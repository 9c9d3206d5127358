//! 2.11: GRPCRoute.

use super::{assert_refused, call, check, conformance, get, route_of};

fn grpc(rules: &[&str]) -> String {
    route_of("GRPCRoute", ("shop", "r"), ", port: 80", rules)
}

fn rule(matches: &str, backend: &str) -> String {
    super::rule(matches, backend)
}

#[tokio::test]
async fn calls_are_matched_by_service_and_method() {
    let mesh = conformance(&grpc(&[
        &rule("{method: {service: talk.v1.Talk, method: Say}}", "echo-v1"),
        &rule("{method: {service: talk.v1.Talk}}", "echo-v2"),
        &rule("{method: {type: RegularExpression, service: 'sing[.].*', method: 'Hum|Whistle'}}", "echo-v1"),
        &rule("{method: {method: Ping}}", "echo"),
    ]))
    .await;
    check(
        &mesh,
        vec![
            call("http://echo/talk.v1.Talk/Say").to("echo-v1"),
            call("http://echo/talk.v1.Talk/SayMore").to("echo-v2"),
            call("http://echo/talk.v1.Talk/say").to("echo-v2"), // names have their case
            call("http://echo/talk.v1.Talker/Say").ends(12, "no-route"),
            call("http://echo/sing.Song/Hum").to("echo-v1"),
            call("http://echo/sing.Song/Humming").ends(12, "no-route"),
            call("http://echo/any.Service/Ping").to("echo"),
            call("http://echo/any.Service/Pong").ends(12, "no-route"),
            get("http://echo/other").fails(404, "no-route"), // what is no call is told so in its own way
        ],
    )
    .await;
}

#[tokio::test]
async fn the_order_of_calls_over_all_routes() {
    let general = route_of(
        "GRPCRoute",
        ("shop", "a-general"),
        ", port: 80",
        &[
            &rule("{headers: [{name: beta, value: x}]}", "echo"),
            &rule("{method: {service: talk.v1.Talk}, headers: [{name: beta, value: x}]}", "echo"),
            &rule("{method: {type: RegularExpression, service: 'talk.*', method: '.*Something.*'}}", "echo"),
            &rule("{method: {service: talk.v1.Talk, method: Say}}", "echo-v1"),
        ],
    );
    let particular = route_of(
        "GRPCRoute",
        ("shop", "b-particular"),
        ", port: 80",
        &[
            &rule(
                "{method: {service: talk.v1.Talk, method: Say}, headers: [{name: beta, value: x}]}",
                "echo-v2",
            ),
            &rule("{method: {service: talk.v1.Talk}}", "echo-v2"),
        ],
    );
    let mesh = conformance(&(general + &particular)).await;
    check(
        &mesh,
        vec![
            call("http://echo/talk.v1.Talk/Say").to("echo-v1"), // the method's characters
            call("http://echo/talk.v1.Talk/Say").with("beta", "x").to("echo-v2"), // then headers
            call("http://echo/talk.v1.Talk/Other").with("beta", "x").to("echo"),
            call("http://echo/talk.v1.Talk/SaySomething").to("echo-v2"), // exact before an expression
            call("http://echo/talk.v2.Talk/SaySomething").to("echo"),
            call("http://echo/else.Other/Call").with("beta", "x").to("echo"),
            call("http://echo/else.Other/Call").ends(12, "no-route"),
        ],
    )
    .await;
}

#[tokio::test]
async fn headers_of_calls_match_exactly_or_by_expression() {
    let mesh = conformance(&grpc(&[
        &rule("{headers: [{name: Version, value: two}]}", "echo-v2"),
        &rule("{headers: [{type: RegularExpression, name: version, value: 'o.e'}]}", "echo-v1"),
    ]))
    .await;
    let with = |value: &str| call("http://echo/a.B/C").with("version", value);
    check(
        &mesh,
        vec![with("two").to("echo-v2"), with("one").to("echo-v1"), with("One").ends(12, "no-route")],
    )
    .await;
}

#[tokio::test]
async fn filters_of_calls_change_what_both_sides_see() {
    let mesh = conformance(&grpc(&[
        "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}], remove: [x-gone]}}, \
         {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-more, value: yes-indeed}]}}], \
         backendRefs: [{name: echo-v1, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: \
         {set: [{name: x-backend, value: v1}]}}]}]}",
    ]))
    .await;
    let sent = call("http://echo/a.B/C").with("x-set", "old").with("x-gone", "x");
    let sent = sent.to("echo-v1").sees("x-set", "new").sees("x-gone", "").sees("x-backend", "v1");
    check(&mesh, vec![sent.answers("x-more", "yes-indeed")]).await;
}

#[tokio::test]
async fn weights_and_invalid_backends_of_calls() {
    let rule = "{backendRefs: [{name: echo-v1, port: 80}, {name: nobody, port: 80}]}";
    let mesh = conformance(&grpc(&[rule])).await;
    let web = mesh.client("web").http2();
    let (mut served, mut unavailable) = (0, 0);
    for _ in 0..200 {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let body = outrigger_tests::app::http::full("\0\0\0\0\0");
        let answer = web.answer(outrigger_tests::request("POST", "http://echo/a.B/C", &headers, body)).await;
        match (answer.instance(), answer.header("grpc-status")) {
            ("echo-v1-0", _) => served += 1,
            (_, "14") => unavailable += 1,
            other => panic!("{other:?} {answer:?}"),
        }
    }
    // Six standard deviations of 200 fair coins.
    assert!((58..=142).contains(&served) && served + unavailable == 200, "{served} and {unavailable}");
}

#[tokio::test]
async fn a_grpc_route_and_an_http_route_are_not_merged() {
    let http = super::http("http", &["{backendRefs: [{name: echo-v2, port: 80}]}"]);
    let mesh = conformance(&(http + &grpc(&[&rule("{method: {service: a.B}}", "echo-v1")]))).await;
    check(
        &mesh,
        vec![
            call("http://echo/a.B/C").to("echo-v1"),
            call("http://echo/b.C/D").ends(12, "no-route"),
            get("http://echo:8080/").to("echo-v2"),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_the_schema_refuses_is_refused_with_its_field() {
    let mesh = conformance("").await;
    let of = |method: &str| grpc(&[&rule(&format!("{{method: {method}}}"), "echo-v1")]);
    for (method, field) in [
        ("{}", "spec.rules[0].matches[0].method"),
        ("{service: a/b}", "spec.rules[0].matches[0].method.service"),
        ("{method: 'a.b'}", "spec.rules[0].matches[0].method.method"),
        ("{type: Prefix, service: a}", "spec.rules[0].matches[0].method.type"),
    ] {
        assert_refused(&mesh, &of(method), field).await;
    }
    assert_refused(&mesh, &grpc(&["{matches: [{path: {value: /}}]}"]), "spec.rules[0].matches[0].path").await;
    assert_refused(&mesh, &grpc(&["{timeouts: {request: 1s}}"]), "spec.rules[0].timeouts").await;
}
