//! Whose tokens a service or a gateway takes, with the keys that are known now, and which API keys.

use std::time::Duration;

use outrigger_api::v1;

use super::access::{Door, about, claim_path, created};
use super::timing::proto;
use crate::jwks;
use crate::model::Model;
use crate::resources::{AccessPolicy, ApiKey, Jwks, JwtIssuer, Period, Reach};

/// How far clocks may be apart where nothing is said.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// `None`: tokens are the application's own affair.
pub(super) fn jwt(model: &Model, door: Door<'_>) -> Option<v1::Jwt> {
    let jwt = nearest(model, door, |policy| policy.spec.jwt.as_ref())?;
    Some(v1::Jwt {
        issuers: jwt.issuers.iter().map(|raw| issuer(model, raw)).collect(),
        required: jwt.required.unwrap_or(false),
    })
}

/// The keys that a request may bring. `None`: they are the application's own affair.
pub(super) fn api_keys(model: &Model, door: Door<'_>) -> Option<v1::ApiKeys> {
    let keys = nearest(model, door, |policy| policy.spec.api_keys.as_ref())?;
    let key = |key: &ApiKey| Some(v1::ApiKey { name: key.name.clone(), sha256: key.sum()?.to_vec() });
    Some(v1::ApiKeys {
        header: keys.header(),
        keys: keys.keys.iter().filter_map(key).collect(),
        required: keys.required.unwrap_or(true),
    })
}

/// What the nearest policy that has it says.
fn nearest<'a, T>(
    model: &'a Model,
    door: Door<'a>,
    part: impl Fn(&'a AccessPolicy) -> Option<&'a T>,
) -> Option<&'a T> {
    let policies = about(model, door).filter_map(|policy| Some((policy, part(policy)?)));
    let nearest = policies.min_by_key(|(policy, _)| (distance(policy, door), created(policy)))?;
    Some(nearest.1)
}

/// What names the service counts before what names its namespace, and that before what names the mesh.
fn distance(policy: &AccessPolicy, door: Door<'_>) -> u8 {
    let distance = |reach: Reach<'_>| match (door, reach) {
        (Door::Service(service), Reach::Service(name)) if name == service.name() => 0,
        (Door::Gateway { .. }, _) => 0,
        (_, Reach::Namespace) => 1,
        (_, Reach::Service(_) | Reach::Gateway(_) | Reach::Mesh) => 2,
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
        let issuer = |service: &str| {
            jwt(&model, Door::Service(&service.parse().unwrap())).map(|jwt| jwt.issuers[0].issuer.clone())
        };
        assert_eq!(issuer("pay.shop").as_deref(), Some("pay"));
        assert_eq!(issuer("web.shop").as_deref(), Some("all"));
        assert_eq!(issuer("web.night"), None);
    }

    #[test]
    fn defaults_are_filled_in_and_keys_come_from_where_the_document_says() {
        let text = "{issuer: i, audiences: [shop], jwks: {url: 'https://i/keys'}, claimsToHeaders: [{claim: a.b, header: X-A}]}";
        let mut model = model(&policy("p", "{name: pay}", text));
        let compiled = |model: &Model| {
            jwt(model, Door::Service(&"pay.shop".parse().unwrap())).unwrap().issuers.remove(0)
        };
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

    #[test]
    fn a_gateway_takes_the_keys_of_the_oldest_policy_that_names_it() {
        const TO: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";
        let keys = |name: &str, target: &str, rest: &str| {
            format!(
                "---\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{target}], \
                 apiKeys: {{keys: [{{name: {name}, sha256: '{}'}}]{rest}}}}}\n",
                "AB".repeat(32)
            )
        };
        let documents = keys("all", "{kind: Namespace, name: shop}", "")
            + &keys("edge", TO, ", header: X-Key, required: false")
            + &keys("later", TO, "");
        let model = model(&documents);
        let compiled = api_keys(&model, Door::Gateway { namespace: "shop", name: "edge" }).unwrap();
        assert_eq!((compiled.header.as_str(), compiled.required), ("x-key", false));
        assert_eq!(compiled.keys, [v1::ApiKey { name: "edge".to_owned(), sha256: vec![0xab; 32] }]);
        let service = "pay.shop".parse().unwrap();
        let compiled = api_keys(&model, Door::Service(&service)).unwrap();
        assert_eq!((compiled.header.as_str(), compiled.required), ("x-api-key", true));
        assert_eq!(compiled.keys[0].name, "all");
    }
}
