//! The REST API over real HTTP, in front of a whole control plane on free ports.

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{ControlPlane, ControlPlaneConfig, Running};

struct Fixture {
    directory: TempDir,
    running: Running,
    token: String,
}

/// An answer, its body as JSON where it is any.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    body: Value,
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory).await
    }

    async fn start_in(directory: TempDir) -> Self {
        let config = ControlPlaneConfig {
            data_dir: directory.path().to_owned(),
            api_listen: "127.0.0.1:0".parse().unwrap(),
            proxy_listen: "127.0.0.1:0".parse().unwrap(),
            ..ControlPlaneConfig::default()
        };
        let running = ControlPlane::start(config).await.unwrap();
        let token = std::fs::read_to_string(&running.admin_token_path).unwrap().trim().to_owned();
        Self { directory, running, token }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(http::HeaderName, &str)],
        body: &str,
    ) -> Answer {
        let stream = TcpStream::connect(self.running.api).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path).header("host", "api");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Answer { status: parts.status, headers: parts.headers, text, body }
    }

    /// With the token, and a body of YAML where there is one.
    async fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        self.call_with(method, path, &[], body).await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &str,
        more: &[(http::HeaderName, &str)],
        body: &str,
    ) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![(AUTHORIZATION, bearer.as_str())];
        if !body.is_empty() && !more.iter().any(|(name, _)| name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, "application/yaml"));
        }
        headers.extend(more.iter().cloned());
        self.send(method, path, &headers, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "").await
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.call_with(method, path, &[(CONTENT_TYPE, "application/json")], &body.to_string()).await
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn route(backend_port: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n  - backendRefs:\n    - name: web\n      {backend_port}\n"
    )
}

#[tokio::test]
async fn health_and_the_description_need_no_token_and_everything_else_does() {
    let api = Fixture::start().await;
    for path in ["/healthz", "/v1/openapi.json"] {
        assert_eq!(api.send(Method::GET, path, &[], "").await.status, StatusCode::OK, "{path}");
    }
    let wrong = format!("Bearer {}x", api.token);
    let basic = format!("Basic {}", api.token);
    for path in
        ["/v1/proxies", "/v1/namespaces/shop/services/web", "/v1/history", "/v1/certificates", "/v1/tokens"]
    {
        for headers in [vec![], vec![(AUTHORIZATION, wrong.as_str())], vec![(AUTHORIZATION, basic.as_str())]]
        {
            let answer = api.send(Method::GET, path, &headers, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
            assert_eq!(answer.body["error"]["reason"], "Unauthorized");
        }
    }
    let bearer = format!("bearer {}", api.token);
    assert_eq!(
        api.send(Method::GET, "/v1/proxies", &[(AUTHORIZATION, &bearer)], "").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_document_is_put_read_changed_and_deleted() {
    let api = Fixture::start().await;
    let path = "/v1/namespaces/shop/services/web";
    assert_eq!(api.get(path).await.status, StatusCode::NOT_FOUND);
    let made = api.call(Method::PUT, path, &service("web", 80)).await;
    assert_eq!(
        (made.status, made.headers[ETAG].to_str().unwrap()),
        (StatusCode::CREATED, "\"1\""),
        "{}",
        made.text
    );
    assert_eq!(made.body["spec"]["ports"][0]["targetPort"], 80);
    let read = api.get(path).await;
    assert_eq!((read.status, &read.body), (StatusCode::OK, &made.body));
    let head = api.call(Method::HEAD, path, "").await;
    assert_eq!(
        (head.status, head.text.as_str(), &head.headers[ETAG]),
        (StatusCode::OK, "", &read.headers[ETAG])
    );

    // What was read can be put again, in the other format as well.
    let mut changed = read.body.clone();
    changed["spec"]["ports"][0]["port"] = 81.into();
    let put = api.json(Method::PUT, path, &changed).await;
    assert_eq!(
        (put.status, &put.body["metadata"]["generation"]),
        (StatusCode::OK, &json!(2)),
        "{}",
        put.text
    );
    assert_eq!(
        api.json(Method::PUT, path, &changed).await.status,
        StatusCode::CONFLICT,
        "the version is stale now"
    );

    let dry = api.call(Method::DELETE, &format!("{path}?dryRun=true"), "").await;
    assert_eq!(
        (dry.status, &dry.body["changes"][0]["change"]),
        (StatusCode::OK, &json!("deleted")),
        "{}",
        dry.text
    );
    let gone = api.call(Method::DELETE, path, "").await;
    assert_eq!((gone.status, &gone.body["revision"]), (StatusCode::OK, &json!(3)), "{}", gone.text);
    assert_eq!(api.call(Method::DELETE, path, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_kind_without_namespace_has_paths_without() {
    let api = Fixture::start().await;
    let config = "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {mtls: {mode: Permissive}}\n";
    let made = api.call(Method::PUT, "/v1/meshconfigs/mesh", config).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    assert_eq!(api.get("/v1/meshconfigs/mesh").await.body["spec"]["mtls"]["mode"], "Permissive");
    assert_eq!(api.get("/v1/meshconfigs").await.body["items"][0]["metadata"]["name"], "mesh");
    let astray = api.get("/v1/namespaces/shop/meshconfigs/mesh").await;
    assert_eq!(astray.status, StatusCode::NOT_FOUND);
    assert!(astray.text.contains("is in no namespace"), "{}", astray.text);
    assert!(api.get("/v1/httproutes/web").await.text.contains("/v1/namespaces/NAMESPACE/httproutes"));
}

#[tokio::test]
async fn if_match_guards_a_change() {
    let api = Fixture::start().await;
    let path = "/v1/namespaces/shop/services/web";
    api.call(Method::PUT, path, &service("web", 80)).await;
    let stale = api.call_with(Method::PUT, path, &[(IF_MATCH, "\"7\"")], &service("web", 81)).await;
    assert_eq!((stale.status, &stale.body["error"]["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    assert_eq!(
        api.call_with(Method::DELETE, path, &[(IF_MATCH, "\"7\"")], "").await.status,
        StatusCode::CONFLICT
    );
    let nonsense = api.call_with(Method::PUT, path, &[(IF_MATCH, "*")], &service("web", 81)).await;
    assert_eq!(nonsense.status, StatusCode::BAD_REQUEST);
    let fresh = api.call_with(Method::PUT, path, &[(IF_MATCH, "\"1\"")], &service("web", 81)).await;
    assert_eq!(fresh.status, StatusCode::OK, "{}", fresh.text);
}

#[tokio::test]
async fn the_path_and_the_document_must_agree() {
    let api = Fixture::start().await;
    let unnamed = service("web", 80).replace(", namespace: shop", "");
    let put = api.call(Method::PUT, "/v1/namespaces/shop/services/web", &unnamed).await;
    assert_eq!(
        (put.status, &put.body["metadata"]["namespace"]),
        (StatusCode::CREATED, &json!("shop")),
        "{}",
        put.text
    );
    for (path, field) in [
        ("/v1/namespaces/shop/services/db", "metadata.name"),
        ("/v1/namespaces/other/services/web", "metadata.namespace"),
        ("/v1/namespaces/shop/httproutes/web", "kind"),
    ] {
        let answer = api.call(Method::PUT, path, &service("web", 80)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        assert_eq!(answer.body["error"]["details"][0]["field"], field);
    }
    let two = format!("{}---\n{}", service("web", 80), service("db", 80));
    assert_eq!(
        api.call(Method::PUT, "/v1/namespaces/shop/services/web", &two).await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn an_apply_is_all_or_nothing_and_names_every_problem() {
    let api = Fixture::start().await;
    let good = format!("{}---\n{}", service("web", 80), route("port: 80"));
    let bad = format!("{}---\n{}", service("web", 81), route("port: 0"));
    let applied = api.call(Method::POST, "/v1/apply", &good).await;
    assert_eq!(applied.status, StatusCode::OK, "{}", applied.text);
    let outcomes: Vec<_> =
        applied.body["changes"].as_array().unwrap().iter().map(|change| &change["change"]).collect();
    assert_eq!(outcomes, ["created", "created"]);

    let refused = api.call(Method::POST, "/v1/apply", &bad).await;
    assert_eq!(
        (refused.status, &refused.body["error"]["reason"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid"))
    );
    let detail = &refused.body["error"]["details"][0];
    assert_eq!(detail["field"], "spec.rules[0].backendRefs[0].port");
    assert_eq!(
        (&detail["document"], &detail["line"], &detail["resource"]),
        (&json!(2), &json!(14), &json!("HTTPRoute shop/web")),
        "{detail}"
    );
    assert_eq!(api.get("/v1/namespaces/shop/services/web").await.body["spec"]["ports"][0]["port"], 80);

    let again = api.call(Method::POST, "/v1/apply", &good).await;
    assert_eq!(
        (&again.body["revision"], &again.body["changes"][0]["change"]),
        (&json!(1), &json!("unchanged"))
    );
    let broken = api.call(Method::POST, "/v1/apply", "a: [").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST, "{}", broken.text);
}

#[tokio::test]
async fn a_diff_and_a_dry_run_show_and_change_nothing() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apply", &service("web", 80)).await;
    for path in ["/v1/diff", "/v1/apply?dryRun=true"] {
        let answer = api.call(Method::POST, path, &service("web", 81)).await;
        assert_eq!(
            (answer.status, &answer.body["dryRun"]),
            (StatusCode::OK, &json!(true)),
            "{}",
            answer.text
        );
        assert!(
            answer.body["changes"][0]["diff"].as_str().unwrap().contains("\n+  - port: 81\n"),
            "{}",
            answer.text
        );
    }
    let valid = api.call(Method::POST, "/v1/validate", &service("web", 81)).await;
    assert_eq!(valid.body["documents"], 1, "{}", valid.text);
    assert_eq!(api.get("/v1/history").await.body["revision"], 1);
    let misspelt = api.call(Method::POST, "/v1/apply?dryrun=true", &service("web", 81)).await;
    assert_eq!(misspelt.status, StatusCode::BAD_REQUEST, "{}", misspelt.text);
}

#[tokio::test]
async fn warnings_come_with_the_answer() {
    let api = Fixture::start().await;
    let text = route("port: 80").replace("  rules:", "  hostnames: [a.example]\n  rules:");
    let answer = api.call(Method::POST, "/v1/apply", &text).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.body["warnings"][0]["field"], "spec.hostnames", "{}", answer.text);
}

#[tokio::test]
async fn lists_can_be_applied_again() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apply", &format!("{}---\n{}", service("web", 80), route("port: 80"))).await;
    for (path, count) in [
        ("/v1/documents", 2),
        ("/v1/documents?kind=Service", 1),
        ("/v1/documents?namespace=none", 0),
        ("/v1/httproutes", 1),
        ("/v1/namespaces/shop/services", 1),
    ] {
        let list = api.get(path).await;
        assert_eq!(list.body["items"].as_array().map(Vec::len), Some(count), "{path}: {}", list.text);
        if count > 0 {
            let again = api.json(Method::POST, "/v1/apply", &list.body).await;
            assert_eq!(
                (again.status, &again.body["revision"]),
                (StatusCode::OK, &json!(1)),
                "{path}: {}",
                again.text
            );
        }
    }
}

#[tokio::test]
async fn the_history_tells_who_did_what_and_can_be_rolled_back() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apply", &service("web", 80)).await;
    let actor = http::HeaderName::from_static("outrigger-actor");
    api.call_with(Method::POST, "/v1/apply", &[(actor, "alice@laptop")], &service("web", 81)).await;
    let page = api.get("/v1/history?limit=1&kind=services&name=web").await;
    let event = &page.body["items"][0];
    assert_eq!(
        (&event["who"], &event["change"]),
        (&json!("admin (alice@laptop)"), &json!("configured")),
        "{}",
        page.text
    );
    let next = api.get(&format!("/v1/history?before={}&documents=false", page.body["next"])).await;
    assert_eq!(
        (&next.body["items"][0]["revision"], &next.body["items"][0]["new"]),
        (&json!(1), &Value::Null)
    );

    let back = api.json(Method::POST, "/v1/rollback", &json!({ "revision": 1 })).await;
    assert_eq!((back.status, &back.body["revision"]), (StatusCode::OK, &json!(3)), "{}", back.text);
    assert_eq!(api.get("/v1/namespaces/shop/services/web").await.body["spec"]["ports"][0]["port"], 80);
    for body in [
        json!({ "revision": 99 }),
        json!({ "revision": "x" }),
        json!({}),
        json!({ "revision": 1, "more": 1 }),
    ] {
        let answer = api.json(Method::POST, "/v1/rollback", &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", answer.text);
    }
    for query in ["limit=0", "limit=1001", "kind=Ingress"] {
        assert_eq!(
            api.get(&format!("/v1/history?{query}")).await.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{query}"
        );
    }
    for path in ["/v1/history?follow=true", "/v1/httproutes?namespace=shop", "/v1/proxies?service=web"] {
        assert_eq!(api.get(path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn join_tokens_are_made_listed_and_revoked() {
    let api = Fixture::start().await;
    let wanted = json!({ "namespace": "shop", "serviceAccount": "payments", "ttl": "15m" });
    let made = api.json(Method::POST, "/v1/tokens", &wanted).await;
    assert_eq!(
        (made.status, made.headers["cache-control"].to_str().unwrap()),
        (StatusCode::CREATED, "no-store"),
        "{}",
        made.text
    );
    let token: outrigger_certs::JoinToken = made.body["token"].as_str().unwrap().parse().unwrap();
    let roots = api.get("/v1/certificates").await.body["roots"].clone();
    assert_eq!(roots[0]["fingerprint"], token.root_fingerprint().to_string(), "{roots}");

    let list = api.get("/v1/tokens").await;
    assert_eq!(
        (&list.body["items"][0]["serviceAccount"], &list.body["items"][0]["used"]),
        (&json!("payments"), &json!(0))
    );
    assert!(!list.text.contains(made.body["token"].as_str().unwrap()));
    let path = format!("/v1/tokens/{}", made.body["id"].as_str().unwrap());
    assert_eq!(api.call(Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.call(Method::DELETE, &path, "").await.status, StatusCode::NOT_FOUND);

    let dry = api.json(Method::POST, "/v1/tokens?dryRun=true", &wanted).await;
    assert_eq!(dry.status, StatusCode::NO_CONTENT, "{}", dry.text);
    assert_eq!(
        api.call(Method::DELETE, &format!("{path}?dryRun=true"), "").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(api.get("/v1/tokens").await.body, json!({ "items": [] }));

    for (body, field) in [
        (json!({ "namespace": "Shop", "serviceAccount": "a" }), "namespace"),
        (json!({ "namespace": "shop", "serviceAccount": "a", "ttl": "soon" }), "ttl"),
        (json!({ "namespace": "shop", "serviceAccount": "a", "ttl": "0s" }), "ttl"),
        (json!({ "namespace": "outrigger", "serviceAccount": "control-plane" }), "serviceAccount"),
    ] {
        let answer = api.json(Method::POST, "/v1/tokens", &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {}", answer.text);
        assert_eq!(answer.body["error"]["details"][0]["field"], field);
    }
}

#[tokio::test]
async fn the_mesh_is_shown() {
    let api = Fixture::start().await;
    api.call(Method::POST, "/v1/apply", &service("web", 80)).await;
    assert_eq!(api.get("/v1/proxies").await.body, json!({ "items": [] }));
    assert_eq!(api.get("/v1/stats?window=10s").await.body, json!({ "items": [] }));
    assert_eq!(api.get("/v1/stats?window=soon").await.status, StatusCode::BAD_REQUEST);
    // What the mesh shows follows the documents within a moment.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while api.get("/v1/services").await.body["items"][0]["name"] != "web" {
        assert!(tokio::time::Instant::now() < deadline, "the service is never shown");
    }
    let before = api.get("/v1/certificates").await.body;
    let dry = api.call(Method::POST, "/v1/certificates/rotate?what=issuer&dryRun=true", "").await;
    assert_eq!((dry.status, &dry.body), (StatusCode::OK, &before));
    let rotated = api.call(Method::POST, "/v1/certificates/rotate?what=issuer", "").await;
    assert_eq!(rotated.status, StatusCode::OK, "{}", rotated.text);
    assert_ne!(rotated.body["issuer"]["serial"], before["issuer"]["serial"]);
    let wrong = api.call(Method::POST, "/v1/certificates/rotate?what=everything", "").await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", wrong.text);
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_the_same_form() {
    let api = Fixture::start().await;
    for path in [
        "/",
        "/v1",
        "/v2/apply",
        "/v1/ingresses",
        "/v1/namespaces/shop/ingresses/a",
        "/v1/namespaces/shop/services/no",
    ] {
        let answer = api.get(path).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["reason"]),
            (StatusCode::NOT_FOUND, &json!("NotFound")),
            "{path}"
        );
    }
    for (method, path, allowed) in [
        (Method::POST, "/healthz", "GET,HEAD"),
        (Method::GET, "/v1/apply", "POST"),
        (Method::PATCH, "/v1/namespaces/shop/services/web", "GET,HEAD,PUT,DELETE"),
    ] {
        let answer = api.call(method, path, "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(answer.body["error"]["reason"], "MethodNotAllowed", "{path}");
        assert_eq!(answer.headers.get(ALLOW).and_then(|allow| allow.to_str().ok()), Some(allowed), "{path}");
    }
    let form = [(CONTENT_TYPE, "application/x-www-form-urlencoded")];
    let answer = api.call_with(Method::POST, "/v1/apply", &form, &service("web", 80)).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answer.text.contains("application/yaml"), "{}", answer.text);
    let typed = [(CONTENT_TYPE, "application/json; charset=utf-8")];
    let answer = api.call_with(Method::POST, "/v1/apply", &typed, &service("web", 80)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "YAML is no JSON");
    let answer = api.call(Method::GET, "/v1/namespaces/shop/services/%ff", "").await;
    assert_eq!(
        (answer.status, &answer.body["error"]["reason"]),
        (StatusCode::BAD_REQUEST, &json!("BadRequest"))
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let api = Fixture::start().await;
    let mut stream = TcpStream::connect(api.running.api).await.unwrap();
    let head = format!(
        "POST /v1/apply HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        api.token,
        super::BODY_LIMIT_BYTES + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn the_description_is_whole_and_every_reference_leads_somewhere() {
    let api = Fixture::start().await;
    let document = api.get("/v1/openapi.json").await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in [
        "/healthz",
        "/v1/apply",
        "/v1/diff",
        "/v1/validate",
        "/v1/history",
        "/v1/rollback",
        "/v1/tokens",
        "/v1/proxies",
        "/v1/services",
        "/v1/stats",
        "/v1/certificates",
        "/v1/documents",
        "/v1/namespaces/{namespace}/httproutes/{name}",
        "/v1/namespaces/{namespace}/services",
        "/v1/meshconfigs/{name}",
        "/v1/meshconfigs",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(!document["paths"].to_string().contains("{kinds}"));
    let put = &document["paths"]["/v1/namespaces/{namespace}/httproutes/{name}"]["put"];
    let schema = &put["requestBody"]["content"]["application/yaml"]["schema"]["$ref"];
    assert_eq!(schema, "#/components/schemas/HTTPRoute");
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|inner| references(inner, found));
            }
            Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        assert!(target.is_some(), "{reference}");
    }
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let mut ids: Vec<_> =
        operations.map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids must be unique: {ids:?}");
}

#[tokio::test]
async fn the_admin_token_stays_the_same_and_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let api = Fixture::start().await;
    let (token, path) = (api.token.clone(), api.running.admin_token_path.clone());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let Fixture { directory, running, .. } = api;
    running.shutdown().await;
    let api = Fixture::start_in(directory).await;
    assert_eq!(api.token, token);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(super::ADMIN_TOKEN_FILE);
    std::fs::write(&file, "short\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = super::AdminToken::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("is not a token"), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(super::AdminToken::open(directory.path()).is_err());
}

#[test]
fn only_what_writes_may_have_changed_something() {
    for (method, path, expected) in [
        (Method::POST, "/v1/apply", true),
        (Method::POST, "/v1/rollback", true),
        (Method::DELETE, "/v1/services/web", true),
        (Method::POST, "/v1/validate", false),
        (Method::POST, "/v1/diff", false),
        (Method::GET, "/v1/history", false),
    ] {
        assert_eq!(super::may_change(&method, path), expected, "{method} {path}");
    }
}
