//! Which instance answers: by hash, by zone, by how new it is.

use std::collections::{HashMap, HashSet};

use outrigger_tests::app::http::always;
use outrigger_tests::{Mesh, eventually};

use crate::documents::policy;

async fn hashed(hash: &str) -> Mesh {
    let policy = policy("api", &format!("loadBalancer: {{type: Hash, hash: {hash}}}"));
    Mesh::builder().service("api", always(200)).instances(4).client("web").policy(&policy).start().await
}

#[tokio::test]
async fn requests_with_one_key_go_to_one_instance_and_keys_to_all_of_them() {
    let mesh = hashed("{header: x-user}").await;
    let web = mesh.client("web");
    let mut homes: HashMap<usize, String> = HashMap::new();
    for round in 0..3 {
        for user in 0..40 {
            let answer = web.get_with("http://api/", &[("x-user", &user.to_string())]).await;
            let instance = answer.instance().to_owned();
            let home = homes.entry(user).or_insert_with(|| instance.clone());
            assert_eq!(*home, instance, "user {user} in round {round}");
        }
    }
    let used: HashSet<&String> = homes.values().collect();
    assert_eq!(used.len(), 4, "{homes:?}");
}

#[tokio::test]
async fn keys_of_an_instance_that_is_gone_move_and_no_others_do() {
    let mut mesh = hashed("{queryParameter: user}").await;
    let web = mesh.client("web");
    let mut before = Vec::new();
    for user in 0..40 {
        before.push(web.get(&format!("http://api/?user={user}")).await.instance().to_owned());
    }
    mesh.instance_mut("api", 2).drain().await;
    eventually("its keys have moved", || async {
        for (user, home) in before.iter().enumerate() {
            let answer = web.get(&format!("http://api/?user={user}")).await;
            match (answer.status.as_u16(), home.as_str(), answer.instance()) {
                (200, "api-2", "api-2") => return Err("it still answers".to_owned()),
                (200, "api-2", _) => {}
                (200, home, instance) => assert_eq!(home, instance, "user {user}"),
                (status, ..) => return Err(format!("status {status}")),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_client_without_the_cookie_gets_one_that_keeps_it_where_it_was() {
    let mesh = hashed("{cookie: {name: cart, path: /shop, ttl: 1h}}").await;
    let web = mesh.client("web");
    let mut homes = HashSet::new();
    for _ in 0..24 {
        let first = web.get("http://api/").await;
        let set = first.header("set-cookie").to_owned();
        assert!(set.ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
        let pair = format!("other=1; {}", set.split(';').next().unwrap());
        for _ in 0..3 {
            let again = web.get_with("http://api/", &[("cookie", &pair)]).await;
            assert_eq!(again.instance(), first.instance());
            assert_eq!(again.header("set-cookie"), "", "one is enough");
        }
        homes.insert(first.instance().to_owned());
    }
    assert!(homes.len() > 1, "cookies differ: {homes:?}");
}

#[tokio::test]
async fn two_callers_agree_where_a_key_belongs() {
    let policy = policy("api", "loadBalancer: {type: Hash, hash: {header: x-user}}");
    let mesh = Mesh::builder()
        .service("api", always(200))
        .instances(3)
        .client("web")
        .client("shop")
        .policy(&policy)
        .start()
        .await;
    for user in 0..20 {
        let user = user.to_string();
        let one = mesh.client("web").get_with("http://api/", &[("x-user", &user)]).await;
        let other = mesh.client("shop").get_with("http://api/", &[("x-user", &user)]).await;
        assert_eq!(one.instance(), other.instance(), "user {user}");
    }
}

#[tokio::test]
async fn requests_stay_in_their_zone_and_leave_it_when_nobody_is_there() {
    let mut mesh = Mesh::builder()
        .service("api", always(200))
        .args(&["--zone", "a"])
        .client("web")
        .args(&["--zone", "a"])
        .start()
        .await;
    mesh.join("api", always(200), &["--zone", "b"], false).await;
    let web = mesh.client("web");
    for _ in 0..30 {
        assert_eq!(web.get("http://api/").await.instance(), "api-0");
    }
    mesh.instance_mut("api", 0).drain().await;
    eventually("the other zone answers", || async {
        match web.get("http://api/").await.instance() {
            "api-1" => Ok(()),
            other => Err(format!("{other:?} does")),
        }
    })
    .await;
}
