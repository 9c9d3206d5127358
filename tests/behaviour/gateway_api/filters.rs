//! 2.4: what filters do, on rules and on backends.

use super::{assert_refused, check, conditions, conformance, get, http, route_of, send};

/// A rule with these filters, that leads to `echo-v1`.
fn with(filters: &str) -> String {
    format!("{{filters: [{filters}], backendRefs: [{{name: echo-v1, port: 80}}]}}")
}

/// A rule of this prefix that redirects.
fn redirect(prefix: &str, fields: &str) -> String {
    format!(
        "{{matches: [{{path: {{value: {prefix}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]}}"
    )
}

#[tokio::test]
async fn filters_apply_in_the_order_in_which_they_are_listed() {
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: first.example}}";
    let set = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: host-was, value: set}]}}";
    let mesh = conformance(&http("r", &[&with(&format!("{set}, {rewrite}"))])).await;
    check(&mesh, vec![get("http://echo/").sees("host-was", "set").sees("host", "first.example")]).await;
}

#[tokio::test]
async fn set_replaces_add_appends_remove_deletes_and_names_have_no_case() {
    let fields = "{set: [{name: X-Set, value: new}], add: [{name: x-add, value: more}], remove: [X-GONE]}";
    let both = format!(
        "{{type: RequestHeaderModifier, requestHeaderModifier: {fields}}}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-out, value: '1'}}]}}}}"
    );
    let backend = format!(
        "{{matches: [{{path: {{value: /backend}}}}], backendRefs: [{{name: echo-v1, port: 80, filters: [{both}]}}]}}"
    );
    let mesh = conformance(&http("r", &[&with(&both), &backend])).await;
    for url in ["http://echo/", "http://echo/backend"] {
        let case = get(url).with("x-set", "old").with("x-add", "one").with("x-gone", "x");
        let case = case.sees("x-set", "new").sees("x-gone", "");
        check(&mesh, vec![case.answers("x-out", "1")]).await;
        let last = mesh.instance("echo-v1", 0).record().seen().last().cloned().unwrap();
        let added: Vec<_> = last.headers.get_all("x-add").iter().collect();
        assert_eq!(added, ["one", "more"], "{url}");
    }
    let twice =
        "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}";
    assert_refused(&mesh, &http("s", &[&with(twice)]), "spec.rules[0].filters[0].requestHeaderModifier")
        .await;
}

#[tokio::test]
async fn a_redirect_has_the_requests_own_where_it_says_nothing() {
    let mesh = conformance(&http(
        "r",
        &[
            &redirect("/host", "hostname: example.org"),
            &redirect("/scheme", "scheme: https"),
            &redirect("/plain", "scheme: http"),
            &redirect("/port", "port: 8443, scheme: https"),
            &redirect("/path", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}"),
            &redirect("/301", "hostname: a.example, statusCode: 301"),
            &redirect("/303", "hostname: a.example, statusCode: 303"),
            &redirect("/307", "hostname: a.example, statusCode: 307"),
            &redirect("/308", "hostname: a.example, statusCode: 308"),
        ],
    ))
    .await;
    for (url, status, location) in [
        ("http://echo/host/a?b=c", 302, "http://example.org/host/a?b=c"),
        ("http://echo:8080/host", 302, "http://example.org:8080/host"),
        ("http://echo/scheme", 302, "https://echo/scheme"),
        ("http://echo:8080/plain", 302, "http://echo/plain"),
        ("http://echo/port", 302, "https://echo:8443/port"),
        ("http://echo/path/x?y", 302, "http://echo/new/x?y"),
        ("http://echo/301", 301, "http://a.example/301"),
        ("http://echo/303", 303, "http://a.example/303"),
        ("http://echo/307", 307, "http://a.example/307"),
        ("http://echo/308", 308, "http://a.example/308"),
    ] {
        check(&mesh, vec![get(url).status(status).answers("location", location)]).await;
    }
    let both = with("{type: RequestRedirect, requestRedirect: {hostname: x.example}}");
    assert_refused(&mesh, &http("s", &[&both]), "spec.rules[0]").await;
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: y.example}}";
    let both = format!(
        "{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: x.example}}}}, {rewrite}]}}"
    );
    assert_refused(&mesh, &http("s", &[&both]), "spec.rules[0].filters").await;
}

#[tokio::test]
async fn a_replaced_prefix_is_one_of_whole_elements_with_or_without_a_slash() {
    let rule = |prefix: &str, to: &str| {
        format!(
            "{{matches: [{{path: {{value: '{prefix}'}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{to}'}}}}}}], backendRefs: [{{name: echo-v1, port: 80}}]}}"
        )
    };
    let mesh = conformance(&http(
        "r",
        &[&rule("/foo", "/xyz"), &rule("/bar/", "/xyz/"), &rule("/none", ""), &rule("/base", "/")],
    ))
    .await;
    for (sent, seen) in [
        ("/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz"),
        ("/foo/", "/xyz/"),
        ("/bar/a?q=1", "/xyz/a?q=1"),
        ("/bar", "/xyz"),
        ("/none/bar", "/bar"),
        ("/none", "/"),
        ("/base/bar", "/bar"),
        ("/base", "/"),
    ] {
        check(&mesh, vec![get(&format!("http://echo{sent}")).to("echo-v1")]).await;
        let last = mesh.instance("echo-v1", 0).record().seen().last().cloned().unwrap();
        assert_eq!(last.uri.path_and_query().map(|path| path.as_str()), Some(seen), "{sent}");
    }
    let two = "{matches: [{path: {value: /a}}, {path: {value: /b}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}], backendRefs: [{name: echo-v1, port: 80}]}";
    assert_refused(&mesh, &http("s", &[two]), "spec.rules[0].filters[0]").await;
}

#[tokio::test]
async fn a_mirror_that_leads_nowhere_is_dropped_and_said_and_the_request_served() {
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}";
    let mesh = conformance(&http("r", &[&with(mirror)])).await;
    check(&mesh, vec![get("http://echo/").to("echo-v1")]).await;
    let expected = ["Accepted=True/Accepted", "ResolvedRefs=False/BackendNotFound"];
    assert_eq!(conditions(&mesh, "httproutes", "r").await, expected);
    let mirror = |share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: echo-v2, port: 80}}{share}}}}}")
    };
    for wrong in [", percent: 101", ", percent: 5, fraction: {numerator: 1}", ", fraction: {numerator: 101}"]
    {
        let path = "spec.rules[0].filters[0].requestMirror";
        assert_refused(&mesh, &http("s", &[&with(&mirror(wrong))]), path).await;
    }
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_proxy_and_never_with_a_star_for_credentials() {
    let cors = "{type: CORS, cors: {allowOrigins: ['https://*.example.com'], allowMethods: [PUT], allowCredentials: true}}";
    let mesh = conformance(&http("r", &[&with(cors)])).await;
    let preflight = |origin: &str| {
        send("OPTIONS", "http://echo/").with("origin", origin).with("access-control-request-method", "PUT")
    };
    let page = "https://a.b.example.com"; // the wildcard stands for any number of labels
    check(
        &mesh,
        vec![
            preflight(page)
                .status(204)
                .answers("access-control-allow-origin", page)
                .answers("access-control-allow-credentials", "true")
                .answers("access-control-max-age", "5"),
            preflight("https://example.org").status(204).answers("access-control-allow-origin", ""),
            get("http://echo/").with("origin", page).answers("access-control-allow-origin", page),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_extension_that_is_not_there_fails_the_rules_requests() {
    let refer = |kind: &str| {
        with(&format!(
            "{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: nothing}}}}"
        ))
    };
    for kind in ["FaultInjection", "RateLimitPolicy", "ServicePolicy"] {
        let mesh = conformance(&http("r", &[&refer(kind)])).await;
        check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
        let said = conditions(&mesh, "httproutes", "r").await;
        assert!(said.contains(&"ResolvedRefs=False/ExtensionNotFound".to_owned()), "{kind}: {said:?}");
    }
}

#[tokio::test]
async fn external_authorization_is_not_built_and_does_not_come_in() {
    let mesh = conformance("").await;
    let filter =
        "{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: echo-v2, port: 80}}}";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let route = route_of(kind, ("shop", "r"), "", &[&with(filter)]);
        assert_refused(&mesh, &route, "spec.rules[0].filters[0]").await;
    }
}
