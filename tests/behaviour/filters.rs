//! What filters do to requests and answers, beyond changing fields: redirects, rewrites, mirrors, CORS.

use std::time::Duration;

use outrigger_tests::app::http::{Reply, answering, deciding, echo, empty, full, saying, zeros};
use outrigger_tests::{Answer, Mesh, eventually, request};

use crate::documents::{access, fault, policy, route, service};

/// `api` with these rules, and `web` that calls it.
async fn with_rules(rules: &str) -> Mesh {
    let policy = route("filters", "api", rules);
    Mesh::builder().service("api", echo()).policy(&policy).client("web").start().await
}

fn location(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.header("location"))
}

#[tokio::test]
async fn a_redirect_is_answered_without_any_backend() {
    // No workload stands behind `gone`, and the rules name no backend.
    let rules = "
- matches: [{path: {value: /host}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]
- matches: [{path: {value: /status}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 308}}]
- matches: [{path: {value: /scheme}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
- matches: [{path: {value: /port}}]
  filters: [{type: RequestRedirect, requestRedirect: {port: 8080}}]
- matches: [{path: {value: /prefix}}]
  filters:
  - type: RequestRedirect
    requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - type: ResponseHeaderModifier
    responseHeaderModifier: {set: [{name: x-moved, value: for-good}]}
- matches: [{path: {value: /full}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]";
    let policy = service("gone") + &route("moved", "gone", rules);
    let mesh = Mesh::builder().policy(&policy).client("web").start().await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        for (path, expected) in [
            ("/host/a?b=c", (302, "http://example.org/host/a?b=c")),
            ("/status", (308, "http://example.org/status")),
            ("/scheme", (302, "https://gone/scheme")),
            ("/port", (302, "http://gone:8080/port")),
            ("/prefix/a/", (302, "http://gone/new/a/")),
            ("/full/a?b", (302, "http://gone/one?b")),
        ] {
            let answer = client.get(&format!("http://gone{path}")).await;
            assert_eq!(location(&answer), expected, "{path}: {answer:?}");
            assert_eq!((answer.failure(), answer.body.len()), ("", 0), "{path}");
        }
    }
    let metrics = mesh.metrics("web").await;
    let labels = [("route", "shop/moved"), ("status", "302"), ("error", "")];
    assert_eq!(metrics.sum("outrigger_requests_total", &labels), 10.0, "recorded like any request");
}

#[tokio::test]
async fn a_rewrite_changes_host_and_path_of_every_attempt() {
    let rules = "
- matches: [{path: {value: /old}}]
  filters:
  - type: URLRewrite
    urlRewrite: {hostname: one.example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}
  backendRefs: [{name: api, port: 80}]
- matches: [{path: {value: /full}}]
  backendRefs:
  - name: api
    port: 80
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
- backendRefs: [{name: api, port: 80}]";
    let mesh = with_rules(rules).await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        for (path, expected, host) in [
            ("/old/a/?b=c", "/new/a/?b=c", "one.example.org"),
            ("/old", "/new", "one.example.org"),
            ("/full/a?b=c", "/one?b=c", "api"),
            ("/else", "/else", "api"),
        ] {
            let answer = client.get(&format!("http://api{path}")).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-path")), (200, expected), "{path}");
            let seen = mesh.instance("api", 0).record().seen().pop().unwrap();
            let told = seen.uri.authority().map_or(seen.header("host"), |authority| authority.as_str());
            assert_eq!(told, host, "{path}");
        }
    }
}

#[tokio::test]
async fn filters_run_in_the_order_in_which_they_are_listed() {
    let rules = "
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: x-order, value: rule}]}
  backendRefs:
  - name: api
    port: 80
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {add: [{name: x-order, value: backend}]}";
    let mesh = with_rules(rules).await;
    mesh.client("web").get_with("http://api/", &[("x-order", "caller")]).await;
    let seen = mesh.instance("api", 0).record().seen().remove(0);
    let values: Vec<_> = seen.headers.get_all("x-order").iter().collect();
    assert_eq!(values, ["rule", "backend"]);
}

#[tokio::test]
async fn a_reference_that_cannot_be_resolved_fails_the_rules_requests() {
    let rules = "
- matches: [{path: {value: /lost}}]
  filters:
  - {type: RequestRedirect, requestRedirect: {hostname: example.org}}
  - {type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: FaultInjection, name: nowhere}}
- backendRefs: [{name: api, port: 80}]";
    let mesh = with_rules(rules).await;
    mesh.client("web").get("http://api/lost").await.assert_failure(500, "invalid-backend", "outbound");
    assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
}

#[tokio::test]
async fn a_rule_may_refer_to_a_policy_of_its_own() {
    let rules = "
- matches: [{path: {value: /own}}]
  filters: [{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: ServicePolicy, name: stubborn}}]
  backendRefs: [{name: api, port: 80}]
- backendRefs: [{name: api, port: 80}]";
    let stubborn = policy("stubborn", "defaults: {retry: {attempts: 2, codes: [503]}}")
        .replace("targetRefs: [{group: \"\", kind: Service, name: stubborn}]", "targetRefs: []");
    let policy = route("filters", "api", rules) + &stubborn;
    let failing = outrigger_tests::app::http::always(503);
    let mesh = Mesh::builder().service("api", failing).policy(&policy).client("web").start().await;
    for (path, attempts) in [("/", 1), ("/own", 3)] {
        let before = mesh.attempts("api");
        let answer =
            mesh.client("web").answer(request("GET", &format!("http://api{path}"), &[], empty())).await;
        assert_eq!((answer.status.as_u16(), mesh.attempts("api") - before), (503, attempts), "{path}");
    }
}

// ---- mirrors ----

fn mirror(to: &str, share: &str) -> String {
    format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
}

/// `api` with these mirrors; `shadow` has three instances and takes a long time to answer, if it does at all.
async fn mirrored(filters: &str) -> Mesh {
    let rules = format!("- filters: [{filters}]\n  backendRefs: [{{name: api, port: 80}}]");
    Mesh::builder()
        .service("api", echo())
        .service("shadow", answering(|_| std::future::ready(Reply::hang())))
        .instances(3)
        .service("second", saying("nobody hears"))
        .policy(&route("mirrors", "api", &rules))
        .client("web")
        .start()
        .await
}

async fn has_got(mesh: &Mesh, service: &str, requests: u64) {
    eventually("the copies arrive", || async {
        let got = mesh.attempts(service);
        if got == requests { Ok(()) } else { Err(format!("{service} got {got} of {requests}")) }
    })
    .await;
}

#[tokio::test]
async fn a_mirror_gets_each_request_once_and_delays_none() {
    // What stands behind a mirror in the list is not seen by it.
    let late = "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /rewritten}}}";
    let early = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-early, value: '1'}]}}";
    let mesh = mirrored(&[early, &mirror("shadow", ""), &mirror("second", ""), late].join(", ")).await;
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        let before = mesh.attempts("second");
        for body in ["one", ""] {
            // The shadow never answers.
            let answer = client.post("http://api/path?q", full(body)).await;
            assert_eq!((answer.text().as_str(), answer.header("x-path")), (body, "/rewritten?q"));
        }
        has_got(&mesh, "second", before + 2).await;
    }
    has_got(&mesh, "shadow", 4).await;
    let copies = mesh.instance("second", 0).record().seen();
    let mut bodies: Vec<String> =
        copies.iter().map(|copy| String::from_utf8(copy.body.to_vec()).unwrap()).collect();
    bodies.sort();
    assert_eq!(bodies, ["", "", "one", "one"]);
    for copy in copies {
        assert_eq!((copy.uri.path(), copy.uri.query(), copy.header("x-early")), ("/path", Some("q"), "1"));
    }
    eventually("the answers are counted", || async {
        let answered = mesh.metrics("web").await.sum("outrigger_mirrors_total", &[("result", "answered")]);
        if answered == 4.0 { Ok(()) } else { Err(answered) }
    })
    .await;
}

#[tokio::test]
async fn a_mirror_gets_its_share_of_requests() {
    let third = ", fraction: {numerator: 1, denominator: 3}";
    let mesh = mirrored(&[mirror("second", third), mirror("shadow", ", percent: 0")].join(", ")).await;
    let web = mesh.client("web").http2();
    for _ in 0..30 {
        futures_util::future::join_all((0..10).map(|_| web.get("http://api/"))).await;
    }
    // Each mirror is decided before its request is sent; what is under way arrives.
    let metrics = || async { mesh.metrics("web").await.sum("outrigger_mirrors_total", &[]) };
    eventually("every copy has ended", || async {
        let (ended, got) = (metrics().await, mesh.attempts("second") as f64);
        if ended == got && got > 0.0 { Ok(()) } else { Err(format!("{ended} ended, {got} arrived")) }
    })
    .await;
    let got = mesh.attempts("second");
    assert!((60..=140).contains(&got), "{got} of 300");
    assert_eq!(mesh.attempts("shadow"), 0);
}

#[tokio::test]
async fn a_body_that_is_bigger_than_what_is_kept_is_not_mirrored_and_counted() {
    let mesh = mirrored(&mirror("second", "")).await;
    let answer = mesh.client("web").post("http://api/", zeros(1 << 20)).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1 << 20));
    eventually("it is counted", || async {
        let body = mesh.metrics("web").await.sum("outrigger_mirrors_total", &[("result", "body")]);
        if body == 1.0 { Ok(()) } else { Err(body) }
    })
    .await;
    assert_eq!(mesh.attempts("second"), 0);
}

#[tokio::test]
async fn a_mirror_that_leads_nowhere_is_left_out_and_the_request_served() {
    let mesh = mirrored(&mirror("nowhere", "")).await;
    assert_eq!(mesh.client("web").get("http://api/").await.status, 200);
    let statuses = mesh.api("GET", "/v1/services", "").await.text();
    assert!(statuses.contains("BackendNotFound"), "{statuses}");
}

// ---- CORS ----

#[tokio::test]
async fn a_preflight_is_answered_by_the_proxy_and_pages_see_what_they_may() {
    let rules = "
- filters:
  - type: CORS
    cors:
      allowOrigins: ['https://*.example.com']
      allowCredentials: true
      allowMethods: [PUT, DELETE]
      allowHeaders: [x-token]
      exposeHeaders: [x-path]
  backendRefs: [{name: api, port: 80}]";
    let mesh = with_rules(rules).await;
    let shown = |answer: &Answer, fields: &[&str]| -> Vec<String> {
        fields.iter().map(|field| answer.header(&format!("access-control-{field}")).to_owned()).collect()
    };
    for client in [mesh.client("web"), mesh.client("web").http2()] {
        let preflight = |origin: &str| {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "PUT"),
                ("access-control-request-headers", "x-token"),
            ];
            client.answer(request("OPTIONS", "http://api/a", &headers, empty()))
        };
        let before = mesh.attempts("api");
        let allowed = preflight("https://shop.example.com").await;
        assert_eq!(allowed.status, 204);
        assert_eq!(
            shown(
                &allowed,
                &["allow-origin", "allow-credentials", "allow-methods", "allow-headers", "max-age"]
            ),
            ["https://shop.example.com", "true", "PUT, DELETE", "x-token", "5"]
        );
        let refused = preflight("https://example.org").await;
        assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (204, ""));
        assert_eq!(mesh.attempts("api"), before, "the application is not asked");

        let answer = client.get_with("http://api/a", &[("origin", "https://shop.example.com")]).await;
        assert_eq!((answer.status.as_u16(), answer.header("vary")), (200, "origin"));
        assert_eq!(
            shown(&answer, &["allow-origin", "allow-credentials", "expose-headers"]),
            ["https://shop.example.com", "true", "x-path"]
        );
        let other = client.get_with("http://api/a", &[("origin", "https://example.org")]).await;
        assert_eq!((other.status.as_u16(), other.header("access-control-allow-origin")), (200, ""));
        let plain = client.answer(request("OPTIONS", "http://api/a", &[], empty())).await;
        assert_eq!(plain.header("x-method"), "OPTIONS", "what is no preflight goes to the application");
    }
}

#[tokio::test]
async fn a_preflight_needs_no_backend() {
    let rules = "- filters: [{type: CORS, cors: {allowOrigins: ['*']}}]";
    let policy = service("gone") + &route("cors", "gone", rules);
    let mesh = Mesh::builder().policy(&policy).client("web").start().await;
    let headers = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
    let answer = mesh.client("web").answer(request("OPTIONS", "http://gone/", &headers, empty())).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, "*"));
    mesh.client("web").get("http://gone/").await.assert_failure(500, "invalid-backend", "outbound");
}

#[tokio::test]
async fn pages_may_read_the_proxys_own_failures_too() {
    let cors = "{type: CORS, cors: {allowOrigins: ['https://a.example'], exposeHeaders: [outrigger-error]}}";
    let extension = |kind: &str, name: &str| {
        format!("{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: {name}}}}}")
    };
    let mut rules = String::new();
    let mut rule = |path: &str, filter: &str, more: &str| {
        let matches = format!("[{{path: {{value: {path}}}}}]");
        rules += &format!("- matches: {matches}\n  filters: [{filter}{cors}]\n{more}");
    };
    let api = "  backendRefs: [{name: api, port: 80}]\n";
    let (limits, abort) = (extension("RateLimitPolicy", "rule"), extension("FaultInjection", "abort"));
    rule("/limited", &format!("{limits}, "), api);
    rule("/aborted", &format!("{abort}, "), api);
    rule("/slow", "", &format!("{api}  timeouts: {{request: 50ms}}\n"));
    rule("/nowhere", "", "");
    rule("/gone", "", "  backendRefs: [{name: gone, port: 80}]\n");
    rule("/denied", "", api);
    rule(
        "/sorry",
        &format!("{}, ", extension("ServicePolicy", "sorry")),
        "  backendRefs: [{name: gone, port: 80}]\n",
    );
    let documents = service("gone")
        + &route("api", "api", &rules)
        + "apiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: rule, namespace: shop}\n\
           spec: {limits: [{requests: 1, per: 1h}]}\n---\n"
        + &fault("abort", "abort: {httpStatus: 503}")
        + &access("no", "action: Deny\nrules: [{to: [{paths: [{value: /denied}]}]}]")
        + &policy("sorry", "fallback: {status: 203, body: later}")
            .replace("targetRefs: [{group: \"\", kind: Service, name: sorry}]", "targetRefs: []");
    let app = deciding(|seen| match seen.uri.path() {
        "/slow" => Reply::text("late").after(Duration::from_secs(60)),
        _ => Reply::text("in time"),
    });
    let mesh = Mesh::builder().policy(&documents).service("api", app).client("web").start().await;
    let web = mesh.client("web");
    let page = [("origin", "https://a.example")];
    assert_eq!(web.get_with("http://api/limited", &page).await.status, 200);
    for (path, status, failure) in [
        ("/limited", 429, "rate-limited; by=outbound"),
        ("/aborted", 503, "fault-injected; by=outbound"),
        ("/slow", 504, "request-timeout; by=outbound"),
        ("/nowhere", 500, "invalid-backend; by=outbound"),
        ("/gone", 503, "no-endpoints; by=outbound"),
        ("/denied", 403, "denied; by=inbound"),
        ("/sorry", 203, ""),
    ] {
        let url = format!("http://api{path}");
        let answer = web.get_with(&url, &page).await;
        assert_eq!((answer.status.as_u16(), answer.failure()), (status, failure), "{path}: {answer:?}");
        let fields = ["allow-origin", "expose-headers"].map(|name| format!("access-control-{name}"));
        let shown = fields.each_ref().map(|name| answer.header(name));
        assert_eq!(shown, ["https://a.example", "outrigger-error"], "{path}: {answer:?}");
        let other = web.get_with(&url, &[("origin", "https://b.example")]).await;
        assert_eq!((other.status.as_u16(), other.header(&fields[0])), (status, ""), "{path}: another page");
    }
}
