//! Tokens, good and bad, signed by keys made here.

use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use http::header;
use serde_json::json;

use super::key::{Algorithm, Material};
use super::*;
use crate::failure::Side;

const NOW: u64 = 1_700_000_000;

/// An issuer's pair of keys on P-256.
struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn key(&self, id: &str) -> Key {
        Key {
            id: (!id.is_empty()).then(|| id.into()),
            algorithms: vec![Algorithm::Es256],
            material: Material::Point(self.0.public_key().as_ref().to_vec()),
        }
    }

    fn token(&self, header: Value, claims: Value) -> String {
        let message = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn bearer() -> Place {
    Place { header: header::AUTHORIZATION, prefix: "Bearer ".into() }
}

fn takes(keys: Vec<Key>) -> Jwt {
    let issuer = Issuer {
        name: "https://issuer".into(),
        audiences: vec!["shop".into()],
        keys,
        place: bearer(),
        forward: false,
        claims_to_headers: Vec::new(),
        skew: Duration::from_secs(60),
    };
    Jwt { issuers: vec![issuer], required: true }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "shop", "sub": "ann", "exp": NOW + 600, "iat": NOW })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn a_token_is_good_by_issuer_key_audience_and_time() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let jwt = takes(vec![signer.key("one"), Signer::new().key("two")]);
    let head = || json!({ "alg": "ES256", "kid": "one" });
    let check = |token: &str| jwt.verify(token, &bearer(), at(NOW)).map(|verified| verified.issuer);
    assert_eq!(check(&signer.token(head(), claims())), Ok(0));
    assert_eq!(
        check(&signer.token(json!({ "alg": "ES256" }), claims())),
        Ok(0),
        "a token need not name its key"
    );
    for (claims, expected) in [
        (with("iss", json!("https://other")), Err(Invalid::Issuer)),
        (without("iss"), Err(Invalid::Issuer)),
        (with("aud", json!("bank")), Err(Invalid::Audience)),
        (with("aud", json!(["bank", "shop"])), Ok(0)),
        (without("aud"), Err(Invalid::Audience)),
        (with("exp", json!(NOW - 59)), Ok(0)),
        (with("exp", json!(NOW - 60)), Err(Invalid::Expired)),
        (with("exp", json!(NOW as f64 + 0.5)), Ok(0)),
        (with("exp", json!("never")), Err(Invalid::Expired)),
        (with("exp", json!(1e300)), Err(Invalid::Expired)),
        (without("exp"), Err(Invalid::Expired)),
        (with("nbf", json!(NOW + 60)), Ok(0)),
        (with("nbf", json!(NOW + 61)), Err(Invalid::Early)),
        (with("iat", json!(NOW + 61)), Err(Invalid::Early)),
        (with("nbf", json!(null)), Err(Invalid::Early)),
    ] {
        assert_eq!(check(&signer.token(head(), claims.clone())), expected, "{claims}");
    }
    for (header, expected) in [
        (json!({ "alg": "ES256", "kid": "two" }), Invalid::Signature),
        (json!({ "alg": "ES256", "kid": "three" }), Invalid::Key),
        (json!({ "alg": "ES384", "kid": "one" }), Invalid::Key),
        (json!({ "alg": "none" }), Invalid::Key),
        (json!({ "alg": "HS256", "kid": "one" }), Invalid::Key),
        (json!({ "alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false }), Invalid::Malformed),
        (json!({ "kid": "one" }), Invalid::Malformed),
    ] {
        assert_eq!(check(&signer.token(header.clone(), claims())), Err(expected), "{header}");
    }
    let own_key = json!({ "alg": "ES256", "jwk": { "kty": "EC" }, "jku": "https://stranger/keys" });
    assert_eq!(check(&stranger.token(own_key, claims())), Err(Invalid::Signature), "a token brings no key");
}

#[test]
fn whatever_is_changed_in_a_token_spoils_it() {
    let signer = Signer::new();
    let jwt = takes(vec![signer.key("")]);
    let token = signer.token(json!({ "alg": "ES256" }), claims());
    assert!(jwt.verify(&token, &bearer(), at(NOW)).is_ok());
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last digit of a part may hold bits that no byte has; the library refuses what sets them.
        assert!(jwt.verify(&changed, &bearer(), at(NOW)).is_err(), "{index}: {changed}");
    }
    let (message, _) = token.rsplit_once('.').unwrap();
    for broken in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        message,
        &format!("{message}."),
        &format!("{token}."),
        &format!("{token}="),
    ] {
        assert!(jwt.verify(broken, &bearer(), at(NOW)).is_err(), "{broken}");
    }
    let elsewhere = Place { prefix: "Token ".into(), ..bearer() };
    assert_eq!(
        jwt.verify(&token, &elsewhere, at(NOW)).unwrap_err(),
        Invalid::Issuer,
        "found where it must not be"
    );
    assert_eq!(jwt.verify(&"A".repeat(MOST_BYTES + 1), &bearer(), at(NOW)).unwrap_err(), Invalid::Malformed);
    assert_eq!(
        takes(Vec::new()).verify(&token, &bearer(), at(NOW)).unwrap_err(),
        Invalid::Key,
        "no keys, no entry"
    );
}

#[test]
fn ed25519_is_known_by_both_of_its_names() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = Key {
        id: None,
        algorithms: vec![Algorithm::EdDsa],
        material: Material::Point(pair.public_key().as_ref().to_vec()),
    };
    let jwt = takes(vec![key]);
    for name in ["EdDSA", "Ed25519"] {
        let message = format!("{}.{}", encoded(&json!({ "alg": name })), encoded(&claims()));
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes())));
        assert!(jwt.verify(&token, &bearer(), at(NOW)).is_ok(), "{name}");
    }
}

#[test]
fn a_good_token_is_remembered_until_its_time_is_over_or_the_keys_change() {
    let signer = Signer::new();
    let jwt = Arc::new(takes(vec![signer.key("")]));
    let token = signer.token(json!({ "alg": "ES256" }), claims());
    let mut memory = memory::Memory::default();
    let mut verify =
        |jwt: &Arc<Jwt>, seconds| memory.verify((Side::Inbound, 80), jwt, &token, &bearer(), at(seconds));
    let first = verify(&jwt, NOW).unwrap();
    assert!(Rc::ptr_eq(&first, &verify(&jwt, NOW + 1).unwrap()));
    assert_eq!(verify(&jwt, NOW + 660).unwrap_err(), Invalid::Expired);
    let rotated = Arc::new(takes(vec![Signer::new().key("")]));
    assert_eq!(verify(&rotated, NOW).unwrap_err(), Invalid::Signature);
}
