//! Tokens: taken from issuers that a policy names, proven by their keys, told to rules and to the application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use outrigger_tests::app::http::{Reply, deciding, echo};
use outrigger_tests::{Mesh, eventually};
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

use crate::documents::{access, limits};

pub(crate) const ISSUER: &str = "https://issuer.example";

/// Base64 as tokens have it.
fn encoded(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for piece in bytes.as_ref().chunks(3) {
        let bits =
            piece.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for digit in 0..=piece.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

/// Who issues tokens: a key on Ed25519.
pub(crate) struct Issuer(KeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }

    pub(crate) fn keys(&self, id: &str) -> String {
        let x = encoded(self.0.der_bytes());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": x }] }).to_string()
    }

    pub(crate) fn token(&self, id: &str, more: Value) -> String {
        #[expect(clippy::disallowed_methods, reason = "an issuer reads its own clock")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({ "iss": ISSUER, "aud": "shop", "sub": "ann", "exp": now + 600 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let header = json!({ "alg": "EdDSA", "kid": id });
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let signature = self.0.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", encoded(signature))
    }
}

fn policy(keys: &str, more: &str) -> String {
    let issuer = format!("issuer: {ISSUER}, audiences: [shop], {keys}");
    access(
        "tokens",
        &format!(
            "jwt: {{required: true, issuers: [{{{issuer}, claimsToHeaders: [{{claim: sub, header: x-user}}]}}]}}\n{more}"
        ),
    )
}

async fn mesh(policy: &str) -> Mesh {
    Mesh::builder().policy(policy).service("api", echo()).client("web").start().await
}

#[tokio::test]
async fn a_request_needs_a_token_of_the_issuer_and_the_application_is_told_whose() {
    let issuer = Issuer::new();
    let mesh = mesh(&policy(&format!("jwks: {{inline: '{}'}}", issuer.keys("one")), "")).await;
    let web = mesh.client("web");
    let answer = web.get("http://api.shop/").await;
    answer.assert_failure(401, "unauthenticated", "inbound");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    let stranger = format!("Bearer {}", Issuer::new().token("one", json!({})));
    let answer = web.get_with("http://api.shop/", &[("authorization", &stranger)]).await;
    answer.assert_failure(401, "unauthenticated", "inbound");
    assert!(answer.header("www-authenticate").contains("invalid_token"), "{answer:?}");
    assert_eq!(mesh.attempts("api"), 0);
    let good = format!("bearer {}", issuer.token("one", json!({})));
    let forged = [("authorization", good.as_str()), ("x-user", "root"), ("x_user", "root")];
    for _ in 0..2 {
        assert_eq!(web.get_with("http://api.shop/", &forged).await.status, 200, "{}", mesh.explain().await);
    }
    for seen in mesh.instance("api", 0).record().seen() {
        assert_eq!(seen.header("x-user"), "ann");
        assert_eq!((seen.header("x_user"), seen.header("authorization")), ("", ""), "the token stays here");
    }
    let twice = [("authorization", good.as_str()), ("authorization", stranger.as_str())];
    web.get_with("http://api.shop/", &twice).await.assert_failure(401, "unauthenticated", "inbound");
    let late = format!("Bearer {}", issuer.token("one", json!({ "exp": 1_000_000_000 })));
    let answer = web.get_with("http://api.shop/", &[("authorization", &late)]).await;
    assert!(answer.header("www-authenticate").contains("expired"), "{answer:?}");
}

#[tokio::test]
async fn rules_look_at_claims() {
    let issuer = Issuer::new();
    let keys = format!("forward: true, jwks: {{inline: '{}'}}", issuer.keys("one"));
    let mesh = mesh(&policy(&keys, "rules: [{when: [{claim: realm.roles, values: [buyer]}]}]")).await;
    for (roles, status) in
        [(json!(["seller", "buyer"]), 200), (json!(["seller"]), 403), (json!("buyer"), 200)]
    {
        let token = format!("Bearer {}", issuer.token("one", json!({ "realm": { "roles": roles } })));
        let answer = mesh.client("web").get_with("http://api.shop/", &[("authorization", &token)]).await;
        assert_eq!(answer.status, status, "{roles}");
    }
    let seen = mesh.instance("api", 0).record().seen();
    assert!(
        seen[0].header("authorization").starts_with("Bearer "),
        "the token is passed on where that is asked for"
    );
}

#[tokio::test]
async fn whoever_a_token_speaks_of_has_a_rate_of_its_own() {
    let issuer = Issuer::new();
    let policy = policy(&format!("jwks: {{inline: '{}'}}", issuer.keys("one")), "");
    let documents = policy.replace("required: true", "required: false")
        + &limits("api", "- {name: each, requests: 2, per: 1h, by: [{type: Claim, claim: sub}]}");
    let mesh = mesh(&documents).await;
    let admitted = async |token: Option<String>| {
        let field = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
        let fields = [("authorization", field.as_str())];
        let mut statuses = Vec::new();
        for _ in 0..3 {
            let fields = if field.is_empty() { &[][..] } else { &fields[..] };
            statuses.push(mesh.client("web").get_with("http://api.shop/", fields).await.status.as_u16());
        }
        statuses
    };
    for who in ["ann", "bob"] {
        assert_eq!(
            admitted(Some(issuer.token("one", json!({ "sub": who })))).await,
            [200, 200, 429],
            "{who}"
        );
    }
    let another = issuer.token("one", json!({ "sub": "ann", "jti": "2" }));
    assert_eq!(admitted(Some(another)).await, [429; 3], "another token of the same");
    assert_eq!(admitted(None).await, [200, 200, 429], "nobody in particular");
    let nameless = issuer.token("one", json!({ "sub": null }));
    assert_eq!(admitted(Some(nameless)).await, [429; 3], "which is also who has no such claim");
    let stranger = Issuer::new().token("one", json!({ "sub": "eve" }));
    assert_eq!(admitted(Some(stranger)).await, [401; 3], "what is not verified counts for nobody");
}

#[tokio::test]
async fn keys_are_fetched_and_without_them_nobody_is_let_in() {
    let issuer = Arc::new(Issuer::new());
    let published = Arc::new(AtomicBool::new(false));
    let keys = {
        let (issuer, published) = (issuer.clone(), published.clone());
        deciding(move |_| match published.load(Ordering::Relaxed) {
            true => Reply::text(issuer.keys("one")),
            false => Reply::status(302).header("location", "http://127.0.0.1:1/keys"),
        })
    };
    let mesh = Mesh::builder().service("api", echo()).service("issuer", keys).client("web").start().await;
    let address = mesh.instance("issuer", 0).apps[0].1.address;
    mesh.apply(&policy(&format!("jwks: {{url: 'http://{address}/keys'}}"), "")).await;
    mesh.pushed().await;
    let token = format!("Bearer {}", issuer.token("one", json!({})));
    let asked =
        || async { mesh.client("web").get_with("http://api.shop/", &[("authorization", &token)]).await };
    eventually("the policy is in force", || async {
        let answer = asked().await;
        if answer.status == 401 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    published.store(true, Ordering::Relaxed);
    outrigger_tests::within(Duration::from_secs(30), "the keys are fetched", || async {
        let answer = asked().await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}
