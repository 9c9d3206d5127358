//! Whose tokens a service takes, with the keys that are known now.

use std::time::Duration;

use outrigger_api::{ServiceName, v1};

use super::access::{about, claim_path, created};
use super::timing::proto;
use crate::jwks;
use crate::model::Model;
use crate::resources::{AccessPolicy, Jwks, JwtIssuer, Period, Reach};

/// How far clocks may be apart where nothing is said.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// `None`: tokens are the application's own affair.
pub(super) fn jwt(model: &Model, service: &ServiceName) -> Option<v1::Jwt> {
    let policies = about(model, service).filter(|policy| policy.spec.jwt.is_some());
    let nearest = policies.min_by_key(|policy| (distance(policy, service), created(policy)))?;
    let jwt = nearest.spec.jwt.as_ref()?;
    Some(v1::Jwt {
        issuers: jwt.issuers.iter().map(|raw| issuer(model, raw)).collect(),
        required: jwt.required.unwrap_or(false),
    })
}

/// What names the service counts before what names its namespace, and that before what names the mesh.
fn distance(policy: &AccessPolicy, service: &ServiceName) -> u8 {
    let distance = |reach: Reach<'_>| match reach {
        Reach::Service(name) if name == service.name() => 0,
        Reach::Namespace => 1,
        Reach::Service(_) | Reach::Mesh => 2,
    };
    policy.reaches().map(distance).min().unwrap_or(2)
}

fn issuer(model: &Model, issuer: &JwtIssuer) -> v1::JwtIssuer {
    let (header, prefix) = match &issuer.from {
        Some(from) => (from.header.to_ascii_lowercase(), from.prefix.clone().unwrap_or_default()),
        None => ("authorization".to_owned(), "Bearer ".to_owned()),
    };
    let told = issuer.claims_to_headers.iter().map(|told| v1::ClaimHeader {
        path: claim_path(&told.claim),
        header: told.header.to_ascii_lowercase(),
    });
    v1::JwtIssuer {
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.clone(),
        keys: keys(model, &issuer.jwks),
        header,
        prefix,
        forward: issuer.forward.unwrap_or(false),
        claims_to_headers: told.collect(),
        clock_skew: Some(proto(issuer.clock_skew.map_or(CLOCK_SKEW, Period::duration))),
    }
}

/// None, where they have not been fetched: then no token of the issuer is good.
fn keys(model: &Model, source: &Jwks) -> Vec<v1::JwtKey> {
    match (&source.inline, &source.url) {
        (Some(text), _) => jwks::parse(text).unwrap_or_default(),
        (None, Some(url)) => model.keys(url).to_vec(),
        (None, None) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::compile::tests::documents;

    const EC: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    fn policy(name: &str, target: &str, issuer: &str) -> String {
        format!(
            "---\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{targetRefs: [{target}], jwt: {{issuers: [{issuer}]}}}}\n"
        )
    }

    fn model(yaml: &str) -> Model {
        let mut model = Model::default();
        model.replace(documents(yaml).into());
        model
    }

    #[test]
    fn the_nearest_policy_says_whose_tokens_are_taken() {
        let inline = |name: &str| format!("{{issuer: {name}, jwks: {{inline: '{EC}'}}}}");
        let documents = policy("a", "{kind: Namespace, name: shop}", &inline("all"))
            + &policy("b", "{name: pay}", &inline("pay"));
        let model = model(&documents);
        let issuer =
            |service: &str| jwt(&model, &service.parse().unwrap()).map(|jwt| jwt.issuers[0].issuer.clone());
        assert_eq!(issuer("pay.shop").as_deref(), Some("pay"));
        assert_eq!(issuer("web.shop").as_deref(), Some("all"));
        assert_eq!(issuer("web.night"), None);
    }

    #[test]
    fn defaults_are_filled_in_and_keys_come_from_where_the_document_says() {
        let text = "{issuer: i, audiences: [shop], jwks: {url: 'https://i/keys'}, claimsToHeaders: [{claim: a.b, header: X-A}]}";
        let mut model = model(&policy("p", "{name: pay}", text));
        let compiled = |model: &Model| jwt(model, &"pay.shop".parse().unwrap()).unwrap().issuers.remove(0);
        let before = compiled(&model);
        assert_eq!(
            (before.header.as_str(), before.prefix.as_str(), before.forward),
            ("authorization", "Bearer ", false)
        );
        assert_eq!(before.clock_skew, Some(proto(Duration::from_secs(60))));
        assert_eq!(
            (before.claims_to_headers[0].path.join("|"), before.claims_to_headers[0].header.as_str()),
            ("a|b".into(), "x-a")
        );
        assert!(before.keys.is_empty(), "nothing has been fetched");
        let keys = HashMap::from([("https://i/keys".to_owned(), Arc::new(jwks::parse(EC).unwrap()))]);
        let change = model.replace_keys(Arc::new(keys.clone()));
        assert!(
            change.concerns(&"pay.shop".parse().unwrap()) && !change.concerns(&"web.shop".parse().unwrap())
        );
        assert_eq!(compiled(&model).keys[0].id, "a");
        assert!(model.replace_keys(Arc::new(keys)).is_empty(), "the same again is no change");
    }
}
