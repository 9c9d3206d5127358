//! Requests beyond what a RateLimitPolicy allows are refused, told why and when to come again, and never reach the
//! application.

use http::StatusCode;
use outrigger_tests::app::http::echo;
use outrigger_tests::{Answer, Client, Mesh, eventually};

use crate::documents::{limits, route};

/// Sends so many, one after the other.
async fn get_many(client: &Client, url: &str, count: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(client.get(url).await);
    }
    answers
}

fn admitted(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == StatusCode::OK).count()
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_before_the_application() {
    let policy = limits("api", "- {name: slow, requests: 5, per: 1h}");
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).client("web").start().await;
    let answers = get_many(&mesh.client("web"), "http://api/", 8).await;
    assert_eq!(admitted(&answers), 5);
    assert_eq!(mesh.attempts("api"), 5);
    assert_eq!(answers[0].header("ratelimit"), "", "only a refusal says so, unless asked");
    let refused = answers.last().unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("outrigger-error"), "rate-limited; by=inbound");
    assert_eq!(refused.header("ratelimit-policy"), "\"slow\";q=5;w=3600");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((600..=720).contains(&wait), "one request in 720 s: {wait}");
    assert!(refused.header("ratelimit").starts_with("\"slow\";r=0;t="), "{}", refused.header("ratelimit"));
    let metrics = mesh.metrics("api").await;
    let labels = [("direction", "inbound"), ("policy", "shop/api"), ("limit", "slow")];
    assert_eq!(metrics.sum("outrigger_rate_limited_total", &labels), 3.0);
}

#[tokio::test]
async fn answers_say_what_is_left_where_the_policy_asks_for_it() {
    let policy = limits("api", "- {name: a, requests: 3, per: 1h}") + "---\n";
    let policy = policy.replacen("  limits:", "  headers: true\n  limits:", 1);
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).client("web").start().await;
    let left = get_many(&mesh.client("web"), "http://api/", 4).await;
    let left: Vec<_> = left.iter().map(|answer| answer.header("ratelimit").to_owned()).collect();
    for (answer, expected) in left.iter().zip(["r=2;", "r=1;", "r=0;", "r=0;"]) {
        assert!(answer.contains(expected), "{left:?}");
    }
}

#[tokio::test]
async fn each_caller_has_a_budget_of_its_own_by_identity() {
    let policy = limits("api", "- {requests: 3, per: 1h, by: [{type: Identity}]}");
    let mesh =
        Mesh::builder().policy(&policy).service("api", echo()).client("web").client("cart").start().await;
    for caller in ["web", "cart"] {
        let answers = get_many(&mesh.client(caller), "http://api/", 5).await;
        assert_eq!(admitted(&answers), 3, "{caller}");
    }
}

#[tokio::test]
async fn a_limit_holds_for_what_it_matches_and_by_header() {
    let policy = limits(
        "api",
        "- {requests: 2, per: 1h, by: [{type: Header, header: x-tenant}], \
         matches: [{path: {type: PathPrefix, value: /paid}}]}",
    );
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(admitted(&get_many(&web, "http://api/free", 5).await), 5);
    for tenant in ["a", "b"] {
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(web.get_with("http://api/paid/x", &[("x-tenant", tenant)]).await);
        }
        assert_eq!(admitted(&answers), 2, "{tenant}");
    }
}

#[tokio::test]
async fn the_workers_of_a_proxy_share_one_budget() {
    let policy = limits("api", "- {requests: 10, per: 1h}");
    let mesh = Mesh::builder().policy(&policy).service("api", echo()).args(&["--workers", "2"]);
    let mesh = mesh.client("web").client("cart").start().await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        // A connection each, so that both workers get some.
        for caller in ["web", "cart"] {
            answers.extend(get_many(&mesh.client(caller), "http://api/", 3).await);
        }
    }
    assert_eq!(admitted(&answers), 10);
}

#[tokio::test]
async fn another_change_of_policy_fills_no_budget_anew() {
    let kept = "- {name: kept, requests: 4, per: 1h, matches: [{path: {value: /kept}}]}";
    let mesh =
        Mesh::builder().policy(&limits("api", kept)).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    assert_eq!(admitted(&get_many(&web, "http://api/kept", 3).await), 3);
    mesh.apply(&limits(
        "api",
        &format!("{kept}\n- {{name: new, requests: 1, per: 1h, matches: [{{path: {{value: /new}}}}]}}"),
    ))
    .await;
    eventually("the new limit is in force", || async {
        let answer = web.get("http://api/new").await;
        if answer.status == 429 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    assert_eq!(admitted(&get_many(&web, "http://api/kept", 3).await), 1);
}

#[tokio::test]
async fn a_rule_that_names_a_policy_is_limited_by_the_callers_proxy() {
    let policy = "apiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\n\
                  metadata: {name: rule, namespace: shop}\nspec: {limits: [{name: a, requests: 3, per: 1h}]}\n---\n";
    let filter =
        "{type: ExtensionRef, extensionRef: {group: outrigger.dev, kind: RateLimitPolicy, name: rule}}";
    let rules = format!(
        "- matches: [{{path: {{type: PathPrefix, value: /limited}}}}]\n  filters: [{filter}]\n  \
         backendRefs: [{{name: api, port: 80}}]\n- backendRefs: [{{name: api, port: 80}}]"
    );
    let documents = format!("{policy}{}", route("r", "api", &rules));
    let mesh = Mesh::builder().policy(&documents).service("api", echo()).client("web").start().await;
    let web = mesh.client("web");
    let answers = get_many(&web, "http://api/limited", 5).await;
    assert_eq!(admitted(&answers), 3);
    answers[4].assert_failure(429, "rate-limited", "outbound");
    assert_eq!(mesh.attempts("api"), 3, "nothing was sent");
    assert_eq!(admitted(&get_many(&web, "http://api/free", 5).await), 5);
}
