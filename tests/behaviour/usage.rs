//! What is wrong on a command line, in a file, a document or a token is said: what, where, and what to do.

use outrigger_tests::app::http::echo;
use outrigger_tests::port::Port;
use outrigger_tests::process::{Ended, Process, run};
use outrigger_tests::{Mesh, eventually};

use crate::documents::{mesh_config, policy, route};

async fn proxy(args: &[&str]) -> Ended {
    let base = ["--namespace", "shop", "--service-account", "web", "--join-token-file", "/nonexistent/token"];
    let all: Vec<_> = base
        .iter()
        .filter(|_| !args.contains(&"--bare"))
        .chain(args)
        .copied()
        .filter(|a| *a != "--bare")
        .collect();
    run("outrigger-proxy", &all, &[]).await
}

#[track_caller]
fn assert_refused(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code(), code, "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{part:?} is not said: {ended:?}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_flag_of_the_proxy_is_named_with_its_value() {
    for (args, parts) in [
        (&["--no-such-flag"][..], &["--no-such-flag"][..]),
        (&["--app", "nonsense"], &["app", "nonsense"]),
        (&["--service", "api", "--app", "0=127.0.0.1:1"], &["app", "0"]),
        (&["--service", "api", "--app", "80=127.0.0.1:99999"], &["app", "99999"]),
        (&["--workers", "0"], &["workers"]),
        (&["--workers", "many"], &["workers", "many"]),
        (&["--outbound", "localhost"], &["outbound", "localhost"]),
        (&["--drain-timeout", "soon"], &["drain-timeout", "soon"]),
        (&["--listen", "127.0.0.1:0=db"], &["listen", "db"]),
        (&["--sampling", "2"], &["sampling", "2"]),
        (&["--otlp-endpoint", "nowhere"], &["otlp-endpoint", "nowhere"]),
        (&["--config", "/nonexistent/proxy.yaml"], &["/nonexistent/proxy.yaml"]),
        (&["--service", "UPPER_case", "--app", "80=127.0.0.1:1"], &["service", "UPPER_case"]),
        (&["--bare", "--namespace", "shop"], &["service-account"]),
        (&["--bare", "--service-account", "web"], &["namespace"]),
    ] {
        assert_refused(&proxy(args).await, 2, parts);
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once() {
    let ended = proxy(&["--workers", "0", "--sampling", "2", "--listen", "x"]).await;
    assert_refused(&ended, 2, &["workers", "sampling", "listen"]);
}

#[tokio::test]
async fn a_wrong_file_of_the_proxy_is_named_with_the_field() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.yaml");
    for (text, part) in
        [("workers: many\n", "workers"), ("no-such-field: 1\n", "no-such-field"), ("{unclosed", "proxy.yaml")]
    {
        std::fs::write(&path, text).unwrap();
        assert_refused(&proxy(&["--config", path.to_str().unwrap()]).await, 2, &[part, "proxy.yaml"]);
    }
}

#[tokio::test]
async fn a_token_that_is_none_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "this is no token").unwrap();
    let file = path.to_str().unwrap();
    let args = ["--namespace", "shop", "--service-account", "web", "--join-token-file", file];
    let any = ["--outbound", "127.0.0.1:0", "--inbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let all: Vec<_> = args.into_iter().chain(any).collect();
    let all: Vec<_> = all.into_iter().map(str::to_owned).collect();
    // It goes on trying: the file may be put right while it runs.
    let proxy = Process::start("outrigger-proxy", &all, &[]);
    eventually("it says which file and what to do", || async {
        let said = proxy.said();
        if said.contains(file) && said.contains("outrigger token create") { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(!proxy.said().contains("this is no token"), "what might be a secret is not repeated");
}

#[tokio::test]
async fn wrong_usage_of_the_command_exits_with_2() {
    for args in [
        &["no-such-command"][..],
        &["apply"],
        &["token", "create"],
        &["token", "create", "--namespace", "shop", "--service-account", "Not Valid"],
        &["token", "create", "--namespace", "shop", "--service-account", "web", "--ttl", "soon"],
        &["control-plane", "--api-listen", "nowhere"],
        &["get", "no-such-kind"],
        &["demo", "--duration", "long"],
    ] {
        let ended = run("outrigger", args, &[("OUTRIGGER_TOKEN_FILE", "/nonexistent")]).await;
        assert_eq!(ended.code(), 2, "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty() && !ended.stderr.contains("panicked"), "{args:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let ended = run("outrigger", &["apply", "-f", "/nonexistent/policy.yaml"], &[]).await;
    assert_refused(&ended, 1, &["/nonexistent/policy.yaml"]);
}

#[tokio::test]
async fn the_command_says_where_it_looked_when_there_is_no_control_plane() {
    let closed = Port::reserve();
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("admin.token");
    std::fs::write(&token, "x").unwrap();
    let api = format!("http://{}", closed.address);
    let environment = [("OUTRIGGER_API", api.as_str()), ("OUTRIGGER_TOKEN_FILE", token.to_str().unwrap())];
    let ended = run("outrigger", &["proxies"], &environment).await;
    assert_refused(&ended, 1, &[&closed.address.to_string()]);
}

#[tokio::test]
async fn the_command_does_what_the_api_does() {
    let mesh = Mesh::builder().service("api", echo()).client("web").start().await;
    let api = format!("http://{}", mesh.api_address());
    let token = mesh.data_dir().join("admin.token").display().to_string();
    let environment = [("OUTRIGGER_API", api.as_str()), ("OUTRIGGER_TOKEN_FILE", token.as_str())];
    let file = mesh.directory().join("policy.yaml");
    std::fs::write(&file, route("r", "api", "- backendRefs: [{name: api, port: 80}]")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    for (args, part) in [
        (&["validate", "-f", &file][..], ""),
        (&["diff", "-f", &file], "r"),
        (&["apply", "-f", &file], "r"),
        (&["get", "httproutes", "-n", "shop"], "r"),
        (&["get", "httproutes", "-n", "shop", "-o", "json"], "\"kind\""),
        (&["get", "httproutes", "-n", "shop", "-o", "yaml"], "kind: HTTPRoute"),
        (&["history"], "r"),
        (&["proxies"], "api"),
        (&["identity"], "outrigger.test"),
        (&["stat"], ""),
        (&["check"], ""),
        (&["token", "create", "--namespace", "shop", "--service-account", "new"], "ort1."),
        (&["delete", "httproute", "r", "-n", "shop"], "r"),
    ] {
        let ended = run("outrigger", args, &environment).await;
        // `diff` says with its exit status that there is one, as diff does.
        let fine = if args[0] == "diff" { ended.code() <= 1 } else { ended.code() == 0 };
        assert!(fine && ended.stdout.contains(part), "{args:?}: {ended:?}");
        assert!(!ended.stdout.contains('\u{1b}'), "no colour where no terminal is: {ended:?}");
    }
}

#[tokio::test]
async fn a_wrong_document_is_refused_with_document_and_field() {
    let mesh = Mesh::builder().start().await;
    let rules = "- backendRefs: [{name: api, port: 80}]";
    for (document, path) in [
        (route("r", "api", "- backendRefs: [{name: api}]"), "spec.rules[0].backendRefs[0].port"),
        (route("r", "api", "- matches: [{path: {value: no-slash}}]"), "spec.rules[0].matches[0].path"),
        (route("r", "api", "- matches: [{path: {value: /a//b}}]"), "spec.rules[0].matches[0].path"),
        (route("r", "api", "- timeouts: {request: 1s, backendRequest: 2s}"), "spec.rules[0].timeouts"),
        (route("r", "api", "- timeouts: {request: soon}"), "spec.rules[0].timeouts.request"),
        (route("r", "api", "- retry: {codes: [200]}"), "spec.rules[0].retry.codes"),
        (
            route("r", "api", "- matches: [{path: {type: RegularExpression, value: \"(\"}}]"),
            "spec.rules[0].matches[0].path",
        ),
        (route("r", "api", "- filters: [{type: NoSuchFilter}]"), "spec.rules[0].filters[0].type"),
        (route("r", "api", rules).replace("rules:", "rulez:"), "spec"),
        (route("Not_Valid", "api", rules), "metadata.name"),
        (
            policy("api", "circuitBreaker: {consecutiveFailures: 0}"),
            "spec.circuitBreaker.consecutiveFailures",
        ),
        (policy("api", "nonsense: 1"), "nonsense"),
        (mesh_config("tracing: {samplingRatio: 7}"), "spec.tracing.samplingRatio"),
        (mesh_config("mtls: {mode: Maybe}"), "spec.mtls.mode"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n".to_owned(), "Pod"),
        ("just words".to_owned(), ""),
        ("{unclosed".to_owned(), ""),
    ] {
        let answer = mesh.api("POST", "/v1/apply", &document).await;
        assert!(matches!(answer.status.as_u16(), 400 | 422), "{document}: {answer:?}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("errors are JSON");
        assert!(body["error"]["message"].is_string(), "{body}");
        assert!(body.to_string().contains(path), "{path:?} is not said: {body}");
    }
    assert_eq!(mesh.list("/v1/httproutes").await.len(), 0, "nothing was changed by any of it");
}

#[tokio::test]
async fn the_api_says_what_it_has_not_got() {
    let mesh = Mesh::builder().start().await;
    for (method, path, status) in [
        ("GET", "/v1/namespaces/shop/httproutes/none", 404),
        ("GET", "/v1/namespaces/shop/nonsense", 404),
        ("DELETE", "/v1/namespaces/shop/httproutes/none", 404),
        ("GET", "/nothing", 404),
        ("PATCH", "/v1/proxies", 405),
        ("POST", "/v1/tokens", 400),
    ] {
        let body = if method == "POST" { "{}" } else { "" };
        let answer = mesh.api(method, path, body).await;
        let status_of = answer.status.as_u16();
        assert!(status_of == status || (status == 400 && status_of == 422), "{method} {path}: {answer:?}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("errors are JSON");
        assert!(body["error"]["message"].is_string(), "{method} {path}: {body}");
    }
    let document = mesh.show("/v1/openapi.json").await;
    for path in ["/v1/apply", "/v1/history", "/v1/rollback", "/v1/proxies", "/v1/services", "/v1/tokens"] {
        assert!(document["paths"].get(path).is_some(), "{path} is not in the OpenAPI document");
    }
}
