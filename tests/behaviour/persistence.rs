//! Sessions: the requests of one client stay with one endpoint (GEP-1619).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_tests::app::http::{Reply, always, deciding, empty};
use outrigger_tests::{Answer, Client, Mesh, eventually, request};

use crate::documents::{policy, route, service};

async fn three(session: &str) -> Mesh {
    let rules = format!("- sessionPersistence: {session}\n  backendRefs: [{{name: api, port: 80}}]");
    Mesh::builder()
        .service("api", always(200))
        .instances(3)
        .client("web")
        .client("shop")
        .policy(&route("api", "api", &rules))
        .start()
        .await
}

/// The cookie that the answer sets, as the next request carries it.
fn cookie(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_cookie_keeps_a_client_where_it_was() {
    let mesh = three("{sessionName: s}").await;
    let web = mesh.client("web");
    let mut homes = HashSet::new();
    for _ in 0..12 {
        let first = web.get("http://api/").await;
        let set = first.header("set-cookie");
        assert!(set.starts_with("s=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        for _ in 0..4 {
            let again = web.get_with("http://api/", &[("cookie", &cookie(&first))]).await;
            assert_eq!((again.instance(), again.header("set-cookie")), (first.instance(), ""));
        }
        homes.insert(first.instance().to_owned());
    }
    assert!(homes.len() > 1, "clients without a session are balanced: {homes:?}");
}

#[tokio::test]
async fn every_proxy_understands_the_token() {
    let mesh = three("{sessionName: s}").await;
    let first = mesh.client("web").get("http://api/").await;
    for _ in 0..6 {
        let again = mesh.client("shop").get_with("http://api/", &[("cookie", &cookie(&first))]).await;
        assert_eq!(again.instance(), first.instance());
    }
}

#[tokio::test]
async fn a_header_keeps_a_client_where_it_was() {
    let mesh = three("{type: Header, sessionName: x-session}").await;
    let web = mesh.client("web");
    let first = web.get("http://api/").await;
    let mut token = first.header("x-session").to_owned();
    assert_ne!(token, "");
    for _ in 0..6 {
        let again = web.get_with("http://api/", &[("x-session", &token)]).await;
        assert_eq!(again.instance(), first.instance());
        token = again.header("x-session").to_owned();
    }
}

#[tokio::test]
async fn a_token_that_is_made_up_or_whose_endpoint_is_gone_leads_to_a_new_choice() {
    let mut mesh = three("{sessionName: s}").await;
    let web = mesh.client("web");
    for forged in ["s=", "s=x", &format!("s={}", "0".repeat(72)), "s=127.0.0.1:80"] {
        let answer = web.get_with("http://api/", &[("cookie", forged)]).await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("set-cookie"), "", "{forged}");
    }
    let first = web.get("http://api/").await;
    let number = first.instance().trim_start_matches("api-").parse().unwrap();
    let held = cookie(&first);
    mesh.instance_mut("api", number).drain().await;
    eventually("another endpoint takes over", || async {
        let answer = web.get_with("http://api/", &[("cookie", &held)]).await;
        if answer.status == 200 && answer.instance() != first.instance() && cookie(&answer) != held {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn an_existing_session_beats_weights_even_weight_zero() {
    let split = |one: u32, two: u32| {
        let rules = format!(
            "- sessionPersistence: {{sessionName: s}}\n  backendRefs: [{{name: one, port: 80, weight: {one}}}, {{name: two, port: 80, weight: {two}}}]"
        );
        service("api") + &route("api", "api", &rules)
    };
    let mesh = Mesh::builder()
        .service("one", always(200))
        .instances(2)
        .service("two", always(200))
        .client("web")
        .policy(&split(1, 0))
        .start()
        .await;
    let web = mesh.client("web");
    let first = web.get("http://api/").await;
    assert!(first.instance().starts_with("one-"), "{first:?}");
    mesh.apply(&split(0, 1)).await;
    eventually("new clients go to the other", || async {
        let answer = web.get("http://api/").await;
        if answer.instance() == "two-0" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    for _ in 0..6 {
        let again = web.get_with("http://api/", &[("cookie", &cookie(&first))]).await;
        assert_eq!(again.instance(), first.instance(), "an existing session stays");
    }
}

/// Two services of one instance each that share a rule, and answer 500 while `broken`; breakers open at the second failure.
async fn two(broken: &[Arc<AtomicBool>; 2], more: &str) -> Mesh {
    let app = |broken: &Arc<AtomicBool>| {
        let broken = broken.clone();
        deciding(move |_| Reply::status(if broken.load(Ordering::SeqCst) { 500 } else { 200 }))
    };
    let breaker = "circuitBreaker: {consecutiveFailures: 2, minOpen: 60s, maxEjectedPercent: 100, panicThresholdPercent: 0}";
    let rules = "- sessionPersistence: {sessionName: s}\n  backendRefs: [{name: one, port: 80}, {name: two, port: 80}]";
    let documents = service("api") + &route("api", "api", rules) + more;
    let documents = documents + &policy("one", breaker) + &policy("two", breaker);
    let mesh = Mesh::builder().service("one", app(&broken[0])).service("two", app(&broken[1]));
    mesh.client("web").policy(&documents).start().await
}

/// Begins sessions until one is with this service.
async fn session_with(mesh: &Mesh, service: &str) -> String {
    eventually("a session begins there", || async {
        let first = mesh.client("web").get("http://api/").await;
        if first.instance().starts_with(service) { Ok(cookie(&first)) } else { Err(format!("{first:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_session_whose_backend_is_out_goes_on_with_another() {
    let broken = [Arc::new(AtomicBool::new(false)), Arc::default()];
    let mesh = two(&broken, "").await;
    let web = mesh.client("web");
    let held = session_with(&mesh, "one").await;
    broken[0].store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(web.get_with("http://api/", &[("cookie", &held)]).await.status, 500, "it is not out yet");
    }
    for _ in 0..20 {
        let answer = web.get_with("http://api/", &[("cookie", &held)]).await;
        assert_eq!((answer.status.as_u16(), answer.instance()), (200, "two-0"), "{answer:?}");
        let anew = cookie(&answer);
        let again = web.get_with("http://api/", &[("cookie", &anew)]).await;
        assert_eq!((again.instance(), again.header("set-cookie")), ("two-0", ""), "and it is a session");
        let first = web.get("http://api/").await;
        assert_eq!(first.instance(), "two-0", "none begins where nobody is left");
    }
}

#[tokio::test]
async fn a_session_whose_backend_has_left_goes_on_with_another() {
    let broken = [Arc::new(AtomicBool::new(false)), Arc::default()];
    let mut mesh = two(&broken, "").await;
    let held = session_with(&mesh, "one").await;
    mesh.instance_mut("one", 0).drain().await;
    let web = mesh.client("web");
    eventually("its endpoint is gone", || async {
        let answer = web.get_with("http://api/", &[("cookie", &held)]).await;
        if answer.instance() == "two-0" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    for _ in 0..20 {
        let answer = web.get_with("http://api/", &[("cookie", &held)]).await;
        assert_eq!((answer.status.as_u16(), answer.instance()), (200, "two-0"), "{answer:?}");
        assert_ne!(cookie(&answer), held);
    }
}

#[tokio::test]
async fn a_session_that_nobody_can_go_on_with_gets_the_fallback() {
    let broken = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true))];
    let mesh = two(&broken, &policy("api", "fallback: {status: 203, body: later}")).await;
    let web = mesh.client("web");
    let held = session_with(&mesh, "one").await;
    eventually("both are out", || async {
        let answer = web.get_with("http://api/", &[("cookie", &held)]).await;
        match (answer.status.as_u16(), answer.header("outrigger-fallback")) {
            (203, "shop/api") => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn rules_share_no_session_even_under_one_name() {
    let rule = |path: &str| {
        format!(
            "- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n  sessionPersistence: {{sessionName: s}}\n  backendRefs: [{{name: api, port: 80}}]\n"
        )
    };
    let rules = rule("/a") + &rule("/b");
    let mesh = Mesh::builder()
        .service("api", always(200))
        .instances(2)
        .client("web")
        .policy(&route("api", "api", &rules))
        .start()
        .await;
    let web = mesh.client("web");
    let first = web.get("http://api/a").await;
    let held = cookie(&first);
    assert_eq!(web.get_with("http://api/a", &[("cookie", &held)]).await.header("set-cookie"), "");
    assert_ne!(web.get_with("http://api/b", &[("cookie", &held)]).await.header("set-cookie"), "");
}

#[tokio::test]
async fn a_session_ends_with_its_absolute_timeout() {
    let mesh = three("{sessionName: s, absoluteTimeout: 1s, cookieConfig: {lifetimeType: Permanent}}").await;
    let web = mesh.client("web");
    let first = web.get("http://api/").await;
    assert!(first.header("set-cookie").contains("; Max-Age=1; "), "{first:?}");
    let held = cookie(&first);
    eventually("the session is over", || async {
        match web.get_with("http://api/", &[("cookie", &held)]).await.header("set-cookie") {
            "" => Err("it goes on".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn a_policy_keeps_the_sessions_of_a_service_without_routes() {
    let policy = policy("api", "sessionPersistence: {idleTimeout: 1h}");
    let mesh =
        Mesh::builder().service("api", always(200)).instances(3).client("web").policy(&policy).start().await;
    let web = mesh.client("web");
    let first = web.get("http://api/").await;
    assert!(first.header("set-cookie").starts_with("outrigger-session-"), "{first:?}");
    let mut held = cookie(&first);
    for _ in 0..6 {
        let again = web.get_with("http://api/", &[("cookie", &held)]).await;
        assert_eq!(again.instance(), first.instance());
        held = cookie(&again);
        assert_ne!(held, "", "each request moves the end of the session");
    }
}

/// The Gateway API's policy of a service, with this session.
fn traffic_policy(service: &str, session: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: {service}, namespace: shop}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  \
         sessionPersistence: {session}\n---\n"
    )
}

/// Whoever got this token is with one endpoint.
async fn stays(web: &Client, url: &str, name: &str) {
    let first = web.get(url).await;
    let token = first.header(name).to_owned();
    assert_ne!(token, "", "{first:?}");
    for _ in 0..6 {
        let again = web.answer(request("GET", url, &[("x-session", &token)], empty())).await;
        assert_eq!(again.instance(), first.instance(), "{url}");
    }
}

#[tokio::test]
async fn the_gateway_apis_policy_keeps_the_sessions_of_a_parent_and_of_a_backend() {
    let to_backend = "- backendRefs: [{name: api, port: 80}]";
    let header = "{type: Header, sessionName: x-session}";
    for (documents, url) in [
        // Without a route, by the parent's, and by that of a backend of another parent's rule.
        (traffic_policy("api", header), "http://api/"),
        (
            traffic_policy("front", header) + &service("front") + &route("r", "front", to_backend),
            "http://front/",
        ),
        (
            traffic_policy("api", header) + &service("front") + &route("r", "front", to_backend),
            "http://front/",
        ),
    ] {
        let mesh = Mesh::builder()
            .service("api", always(200))
            .instances(3)
            .client("web")
            .policy(&documents)
            .start()
            .await;
        stays(&mesh.client("web"), url, "x-session").await;
    }
}

#[tokio::test]
async fn a_service_policy_sets_sessions_before_the_gateway_apis_and_a_change_of_that_reaches_the_rules_it_is_for()
 {
    let ours = policy("api", "sessionPersistence: {type: Header, sessionName: x-ours}");
    let theirs = |name: &str| traffic_policy("api", &format!("{{type: Header, sessionName: {name}}}"));
    let front = service("front") + &route("r", "front", "- backendRefs: [{name: api, port: 80}]");
    let mesh = Mesh::builder()
        .service("api", always(200))
        .client("web")
        .policy(&(ours + &theirs("x-theirs") + &front))
        .start()
        .await;
    let web = mesh.client("web");
    let answer = web.get("http://api/").await;
    assert_ne!(answer.header("x-ours"), "", "{answer:?}");
    assert_eq!(answer.header("x-theirs"), "");
    assert_ne!(web.get("http://front/").await.header("x-theirs"), "", "ours is for its own callers alone");
    mesh.apply(&theirs("x-other")).await;
    eventually("the rule has the new session", || async {
        let answer = web.get("http://front/").await;
        if answer.header("x-other").is_empty() { Err(format!("{answer:?}")) } else { Ok(()) }
    })
    .await;
}
