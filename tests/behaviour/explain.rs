//! What `outrigger explain` says of a request is what then happens to it.

use outrigger_tests::app::http::{empty, saying};
use outrigger_tests::process::{Ended, run};
use outrigger_tests::{Mesh, request};
use serde_json::Value;

use crate::documents::{limits, mesh_config, policy, route, route_in, service};

async fn explain(mesh: &Mesh, args: &[&str]) -> Ended {
    let api = format!("http://{}", mesh.api_address());
    let token = mesh.data_dir().join("admin.token");
    let environment = [("OUTRIGGER_API", api.as_str()), ("OUTRIGGER_TOKEN_FILE", token.to_str().unwrap())];
    let args: Vec<&str> = ["explain"].into_iter().chain(args.iter().copied()).collect();
    run("outrigger", &args, &environment).await
}

async fn explained(mesh: &Mesh, args: &[&str]) -> Value {
    let ended = explain(mesh, &[args, &["-o", "json"]].concat()).await;
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let rules = "
- name: exact
  matches: [{path: {type: Exact, value: /admin}}]
  backendRefs: [{name: pay-v1, port: 80}]
- name: version
  matches: [{path: {value: /}, headers: [{name: x-version, value: '2'}]}]
  backendRefs: [{name: pay-v2, port: 80}]
- name: posts
  matches: [{path: {type: RegularExpression, value: '/c.*'}, method: POST, queryParams: [{name: a, value: b}]}]
  backendRefs: [{name: pay-v2, port: 80}]
- name: gone
  matches: [{path: {value: /gone}}]
  backendRefs: [{name: nobody, port: 80}]
- name: rest
  matches: [{path: {value: /charge}}]
  backendRefs: [{name: pay-v1, port: 80}]";
    let mesh = Mesh::builder()
        .policy(&(service("pay") + &route("split", "pay", rules)))
        .service("pay-v1", saying("pay-v1.shop:80"))
        .service("pay-v2", saying("pay-v2.shop:80"))
        .client("web")
        .start()
        .await;
    let web = mesh.client("web");
    for (method, path, version, rule) in [
        ("GET", "/admin", None, "exact"),
        ("GET", "/admin/", None, ""),
        ("GET", "/admin/", Some("2"), "version"),
        ("POST", "/charge?a=b", None, "posts"),
        ("POST", "/charge?a=c", None, "rest"),
        ("GET", "/charge/1", None, "rest"),
        ("GET", "/gone/1", None, "gone"),
        ("GET", "/other", None, ""),
    ] {
        let header = version.map(|version| format!("X-Version: {version}"));
        let mut args = vec!["--from", "shop/web", "pay", method, path];
        args.extend(header.iter().flat_map(|header| ["-H", header.as_str()]));
        let said = explained(&mesh, &args).await;
        let fields: Vec<(&'static str, &str)> = version.iter().map(|value| ("x-version", *value)).collect();
        let answer = web.answer(request(method, &format!("http://pay{path}"), &fields, empty())).await;

        assert_eq!(said["rule"]["name"].as_str().unwrap_or(""), rule, "{method} {path}: {said}");
        let failure = answer.failure().split(';').next().unwrap();
        assert_eq!(said["verdict"]["failure"].as_str().unwrap_or(""), failure, "{said}");
        let status = said["verdict"]["status"].as_u64().unwrap_or(200);
        assert_eq!(status, u64::from(answer.status.as_u16()), "{said}");
        if said["verdict"]["forwarded"] == true {
            assert_eq!(said["backends"][0]["destination"], answer.text(), "{said}");
        }
    }
}

#[tokio::test]
async fn a_consumer_route_is_explained_to_its_own_namespace_alone() {
    let rules =
        |name: &str| format!("- name: {name}\n  backendRefs: [{{name: pay, port: 80, namespace: shop}}]");
    let policy = service("pay")
        + &route("own", "pay", &rules("producer"))
        + &route_in("bank", "theirs", "shop", "pay", &rules("consumer"));
    let mesh = Mesh::builder().policy(&policy).start().await;
    let rule = async |from| explained(&mesh, &["--from", from, "pay.shop", "GET", "/"]).await["rule"].clone();
    assert_eq!(rule("shop/web").await["name"], "producer");
    assert_eq!(rule("bank/till").await["name"], "consumer");
    assert_eq!(rule("bank/till").await["source"]["document"], "HTTPRoute bank/theirs");
}

#[tokio::test]
async fn every_value_is_shown_with_the_document_that_says_so() {
    let rules = "- timeouts: {request: 7s}\n  backendRefs: [{name: pay, port: 80}]";
    let documents = service("pay")
        + &route("slow", "pay", rules)
        + &policy("pay", "circuitBreaker: {consecutiveFailures: 3}\ndefaults: {retry: {attempts: 4}}")
        + &mesh_config("defaults: {timeouts: {backendRequest: 2s}}");
    let mesh = Mesh::builder().policy(&documents).start().await;
    let ended = explain(&mesh, &["pay.shop", "GET", "/x"]).await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    let lines: Vec<Vec<&str>> = ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        "defaults.timeouts.request 7s HTTPRoute shop/slow spec.rules[0].timeouts.request",
        "defaults.timeouts.backendRequest 2s MeshConfig mesh spec.defaults.timeouts.backendRequest",
        "defaults.retry.attempts 4 ServicePolicy shop/pay spec.defaults.retry.attempts",
        "circuitBreaker.consecutiveFailures 3 ServicePolicy shop/pay spec.circuitBreaker.consecutiveFailures",
        "loadBalancer.type PeakEwma default",
    ] {
        assert!(lines.iter().any(|line| line.join(" ") == expected), "{expected}:\n{}", ended.stdout);
    }
}

#[tokio::test]
async fn what_would_be_refused_is_exit_status_1_with_the_nearest_misses() {
    let rules = "
- matches: [{path: {value: /a}, method: PUT}]
  backendRefs: [{name: pay, port: 80}]
- matches: [{path: {value: /b}, method: PUT, headers: [{name: x-a, value: b}]}]
  backendRefs: [{name: pay, port: 80}]";
    let mesh = Mesh::builder().policy(&(service("pay") + &route("puts", "pay", rules))).start().await;
    let ended = explain(&mesh, &["pay.shop", "GET", "/a"]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stdout.contains("refused with 404 no-route"), "{}", ended.stdout);
    let misses: Vec<&str> = ended.stdout.lines().filter(|line| line.starts_with("not")).collect();
    assert!(
        misses[0].contains("path /a/*, method PUT") && misses[0].contains("the method is GET"),
        "{misses:?}"
    );
    assert!(misses[1].contains("the header x-a is absent"), "{misses:?}");

    let ended = explain(&mesh, &["pay.shop:81", "GET", "/a"]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stdout.contains("the service has no port 81; it has 80"), "{}", ended.stdout);
    let ended = explain(&mesh, &["nobody.shop"]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("there is no service nobody.shop"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_service_is_explained_with_every_default() {
    let mesh = Mesh::builder().service("pay", saying("hello")).start().await;
    let ended = explain(&mesh, &["pay.shop"]).await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    for part in ["port 80", "no routes", "circuitBreaker.maxOpen", "mtls.mode", "spiffe://", "ready"] {
        assert!(ended.stdout.contains(part), "{part}:\n{}", ended.stdout);
    }
}

#[tokio::test]
async fn what_is_valid_and_not_meant_is_a_warning_with_file_and_line_and_fails_under_strict() {
    let directory = tempfile::tempdir().unwrap();
    let rules = "- backendRefs: [{name: pay, port: 80}]\n- backendRefs: [{name: pay, port: 80}]";
    std::fs::write(directory.path().join("a.yaml"), service("pay")).unwrap();
    std::fs::write(directory.path().join("b.yaml"), route("twice", "pay", rules)).unwrap();
    let folder = directory.path().to_str().unwrap();
    for (strict, code) in [(&[][..], 0), (&["--strict"], 1)] {
        let ended = run("outrigger", &[&["validate", "-f", folder], strict].concat(), &[]).await;
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.stderr.contains("b.yaml:8: ") && ended.stderr.contains("spec.rules[1]"), "{ended:?}");
    }
}

#[tokio::test]
async fn an_apply_warns_of_what_comes_to_nothing_beside_what_is_there() {
    let rules = "- backendRefs: [{name: pay, port: 80}]";
    let mesh = Mesh::builder().policy(&(service("pay") + &route("a", "pay", rules))).start().await;
    let answer = mesh.apply(&route("b", "pay", rules)).await;
    let warnings = answer["warnings"].to_string();
    assert!(
        warnings.contains("no request gets to this rule") && warnings.contains("HTTPRoute shop/a"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_may_call_is_explained_as_it_is_decided() {
    let rules = "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: web-only, namespace: shop}\n\
                 spec:\n  targetRefs: [{group: \"\", kind: Service, name: pay}]\n  \
                 rules: [{from: [{serviceAccounts: [web]}], to: [{paths: [{value: /open}]}]}]\n";
    let mesh = Mesh::builder()
        .policy(rules)
        .service("pay", saying("hello"))
        .client("web")
        .client("batch")
        .start()
        .await;
    for (caller, path, status) in [
        ("web", "/open/1", 200),
        ("web", "/closed", 403),
        ("batch", "/open", 403),
        ("web", "/x/../open", 200),
    ] {
        let from = format!("shop/{caller}");
        let said = explained(&mesh, &["--from", &from, "pay", "GET", path]).await;
        let answer = mesh.client(caller).get(&format!("http://pay{path}")).await;
        assert_eq!(answer.status, status, "{caller} {path}: {answer:?}");
        assert_eq!(said["verdict"]["status"].as_u64().unwrap_or(200), u64::from(status), "{said}");
        let by = if status == 200 { "AccessPolicy shop/web-only" } else { "(no match)" };
        assert_eq!(said["backends"][0]["admission"]["by"], by, "{said}");
    }
}

#[tokio::test]
async fn what_depends_on_a_token_is_said_plainly_and_decided_with_claims() {
    let rules = "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: admins, namespace: shop}\n\
                 spec:\n  targetRefs: [{group: \"\", kind: Service, name: pay}]\n  \
                 rules: [{to: [{paths: [{value: /open}]}]}, {to: [{paths: [{value: /admin}]}], \
                 when: [{claim: realm.role, values: [admin]}]}]\n";
    let mesh = Mesh::builder().policy(rules).service("pay", saying("hello")).start().await;
    let from = ["--from", "shop/web", "pay", "GET"];
    for (path, claims, status, depends) in [
        ("/open", &[][..], 200, false),
        ("/admin", &[], 403, true),
        ("/other", &[], 403, false),
        ("/admin", &["--claim", "realm.role=admin"], 200, false),
        ("/admin", &["--claim", "realm.role=guest"], 403, false),
        ("/admin", &["--claim", "realm.role=guest", "--claim", "realm.role=admin"], 200, false),
    ] {
        let said = explained(&mesh, &[&from[..], &[path], claims].concat()).await;
        let expected = if depends { serde_json::json!(["realm.role"]) } else { Value::Null };
        assert_eq!(said["backends"][0]["admission"]["dependsOn"], expected, "{path} {claims:?}: {said}");
        assert_eq!(said["verdict"]["status"].as_u64().unwrap_or(200), status, "{path} {claims:?}: {said}");
    }
    let ended = explain(&mesh, &[&from[..], &["/admin"]].concat()).await;
    let verdict = ended.stdout.lines().last().unwrap_or_default();
    assert!(verdict.contains("depends on the token's claim realm.role"), "{}", ended.stdout);
}

#[tokio::test]
async fn everything_that_applies_is_shown_once_with_its_document() {
    let document = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
        )
    };
    let refer = |kind: &str, name: &str| {
        format!("{{type: ExtensionRef, extensionRef: {{group: outrigger.dev, kind: {kind}, name: {name}}}}}")
    };
    let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: pay-v2, port: 80}, percent: 10}}";
    let filters = [
        refer("FaultInjection", "slow"),
        mirror.to_owned(),
        refer("ServicePolicy", "own"),
        refer("RateLimitPolicy", "few"),
    ];
    let rules = format!(
        "- filters: [{}]\n  sessionPersistence: {{sessionName: s}}\n  \
         backendRefs: [{{name: pay, port: 80, weight: 3}}, {{name: pay-v2, port: 80}}]",
        filters.join(", ")
    );
    let documents = service("pay")
        + &service("pay-v2")
        + &route("all", "pay", &rules)
        + &document("FaultInjection", "slow", "{delay: {percent: 50, fixed: 1s}}")
        + &document("RateLimitPolicy", "few", "{limits: [{requests: 7}]}")
        + &document("ServicePolicy", "own", "{hedging: {delay: 1s}, defaults: {timeouts: {request: 3s}}}")
        + &policy("pay", "adaptiveConcurrency: {minLimit: 4}\nfallback: {status: 203, body: later}")
        + &limits(
            "pay",
            "- {name: posts, requests: 1, matches: [{method: POST}]}\n\
             - {name: gets, requests: 2, by: [{type: Identity}, {type: Header, header: x-t}], matches: [{method: GET}]}",
        )
        + &mesh_config("egress: {mode: ListedOnly}");
    let mesh = Mesh::builder().policy(&documents).start().await;
    let ended = explain(&mesh, &["--from", "shop/web", "pay", "GET", "/", "-H", "x-t: a"]).await;
    let lines: Vec<String> =
        ended.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let at = "HTTPRoute shop/all spec.rules[0]";
    for expected in [
        format!("filter FaultInjection shop/slow: delays 50 % of requests {at}.filters[0]"),
        format!("filter mirror: 10 of 100 requests to pay-v2.shop:80 {at}.filters[1]"),
        "defaults.timeouts.request 3s ServicePolicy shop/own spec.defaults.timeouts.request".to_owned(),
        "hedging.delay 1s ServicePolicy shop/own spec.hedging.delay".to_owned(),
        format!("sessionPersistence.sessionName s {at}.sessionPersistence.sessionName"),
        "fallback.status 203 ServicePolicy shop/pay spec.fallback.status".to_owned(),
        "rateLimit shop/few/0 7 in 1s, 7 at once RateLimitPolicy shop/few spec.limits[0]".to_owned(),
        "adaptiveConcurrency.minLimit 4 ServicePolicy shop/pay spec.adaptiveConcurrency.minLimit".to_owned(),
        "egress.mode ListedOnly MeshConfig mesh spec.egress.mode".to_owned(),
    ] {
        let found = lines.iter().filter(|line| **line == expected).count();
        assert_eq!(found, 1, "{expected}:\n{}", ended.stdout);
    }
    let counting: Vec<&String> = lines.iter().filter(|line| line.starts_with("rateLimit shop/pay")).collect();
    assert_eq!(counting.len(), 1, "a limit of POST does not count this one: {counting:?}");
    assert!(
        counting[0].contains("/gets")
            && counting[0].contains("this one for Identity spiffe://")
            && counting[0].contains("x-t \"a\""),
        "{counting:?}"
    );
    let modes = lines.iter().filter(|line| line.starts_with("mtls.mode")).count();
    assert_eq!(modes, 1, "what holds in the whole mesh is said once:\n{}", ended.stdout);
}

#[tokio::test]
async fn a_host_outside_the_mesh_is_explained_by_the_service_that_stands_for_it() {
    let outside = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec:\n  \
                   type: ExternalName\n  externalName: api.example.com\n  ports: [{port: 80, targetPort: 443}]\n---\n\
                   apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: api, namespace: shop}\n\
                   spec:\n  targetRefs: [{group: '', kind: Service, name: api}]\n  \
                   validation: {hostname: api.example.com, wellKnownCACertificates: System}\n---\n";
    let rules = "- matches: [{path: {value: /out}}]\n  backendRefs: [{name: api, port: 80}]";
    let mesh = Mesh::builder()
        .policy(&(outside.to_owned() + &service("front") + &route("out", "front", rules)))
        .start()
        .await;
    for args in
        [["--from", "shop/web", "api.shop", "GET", "/"], ["--from", "shop/web", "front", "GET", "/out"]]
    {
        let ended = explain(&mesh, &args).await;
        assert_eq!(ended.code(), 0, "{ended:?}");
        for expected in [
            "api.example.com Service shop/api spec.externalName",
            "443 Service shop/api spec.ports[0].targetPort",
            "BackendTLSPolicy shop/api spec.validation.hostname",
        ] {
            let joined = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(joined.contains(expected), "{expected}:\n{}", ended.stdout);
        }
    }
}
