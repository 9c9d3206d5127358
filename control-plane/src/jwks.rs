//! The keys that token issuers publish (JWK Set, RFC 7517): read here, once, so that proxies are sent keys and no
//! documents.

pub(crate) mod address;
pub(crate) mod fetch;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_api::v1;
use serde::Deserialize;

/// A larger document is refused.
pub(crate) const MOST_BYTES: usize = 64 * 1024;
/// More keys than an issuer has.
const MOST_KEYS: usize = 64;

/// Why a document gives no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("is longer than {MOST_BYTES} bytes")]
    Long,
    #[error("is no JWK Set: {0}")]
    Form(String),
    #[error("has more than {MOST_KEYS} keys")]
    Many,
    #[error("holds a private key or a shared secret, which does not belong here: keys[{0}]")]
    Secret(usize),
    #[error("has no key for RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA")]
    Empty,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde_json::Value>,
    k: Option<serde_json::Value>,
}

/// The keys of a document that check signatures. Others (for encryption, of unknown kinds) are passed over.
///
/// # Errors
/// It is no such document, or has no such key; or it tells a secret.
pub(crate) fn parse(text: &str) -> Result<Vec<v1::JwtKey>, JwksError> {
    if text.len() > MOST_BYTES {
        return Err(JwksError::Long);
    }
    let set: Set = serde_json::from_str(text).map_err(|error| JwksError::Form(error.to_string()))?;
    if set.keys.len() > MOST_KEYS {
        return Err(JwksError::Many);
    }
    if let Some(index) = set.keys.iter().position(|jwk| jwk.d.is_some() || jwk.k.is_some()) {
        return Err(JwksError::Secret(index));
    }
    let keys: Vec<_> = set.keys.into_iter().filter_map(Jwk::key).collect();
    if keys.is_empty() { Err(JwksError::Empty) } else { Ok(keys) }
}

impl Jwk {
    fn key(self) -> Option<v1::JwtKey> {
        use v1::jwt_key::Material;
        let signs = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|name| name == "verify"));
        if !signs {
            return None;
        }
        let bytes = |field: Option<&String>| URL_SAFE_NO_PAD.decode(field?).ok();
        let (x, y) = (bytes(self.x.as_ref()), bytes(self.y.as_ref()));
        let point = |x: Vec<u8>, y: Vec<u8>, size: usize| {
            (x.len() == size && y.len() == size).then(|| Material::Point([vec![4], x, y].concat()))
        };
        let (known, material): (&[&str], _) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (bytes(self.n.as_ref())?, bytes(self.e.as_ref())?);
                // Under 2048 bits a signature proves little; over 8192 it costs too much.
                let material = (256..=1024).contains(&n.len()).then_some(Material::Rsa(v1::RsaKey { n, e }));
                (&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], material)
            }
            ("EC", Some("P-256")) => (&["ES256"], point(x?, y?, 32)),
            ("EC", Some("P-384")) => (&["ES384"], point(x?, y?, 48)),
            ("OKP", Some("Ed25519")) => (&["EdDSA"], x.filter(|x| x.len() == 32).map(Material::Point)),
            _ => return None,
        };
        // RFC 9864 gives EdDSA the name of its curve.
        let alg = self.alg.as_deref().map(|alg| if alg == "Ed25519" { "EdDSA" } else { alg });
        let algorithms = known.iter().filter(|known| alg.is_none_or(|alg| alg == **known));
        let algorithms: Vec<String> = algorithms.map(|name| (*name).to_owned()).collect();
        if algorithms.is_empty() {
            return None;
        }
        Some(v1::JwtKey { id: self.kid.unwrap_or_default(), algorithms, material: Some(material?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","use":"sig",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;

    fn set(keys: &[&str]) -> String {
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    #[test]
    fn keys_are_read_with_what_they_are_for() {
        let rsa = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB","alg":"PS256"}}"#, "u".repeat(341) + "A");
        let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","alg":"Ed25519"}"#;
        let keys = parse(&set(&[EC, &rsa, ed])).unwrap();
        let said: Vec<_> = keys.iter().map(|key| (key.id.as_str(), key.algorithms.join(" "))).collect();
        assert_eq!(said, [("a", "ES256".into()), ("", "PS256".into()), ("", "EdDSA".to_owned())]);
    }

    #[test]
    fn what_is_no_key_for_signatures_is_passed_over_and_a_secret_is_refused() {
        let other = EC.replace("sig", "enc");
        assert_eq!(parse(&set(&[EC, &other])).unwrap().len(), 1);
        for (text, expected) in [
            (set(&[&other]), JwksError::Empty),
            (set(&[&EC.replace("P-256", "P-384")]), JwksError::Empty),
            (set(&[&EC.replace("MKBC", "")]), JwksError::Empty),
            (set(&[r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#]), JwksError::Empty),
            (set(&[EC, r#"{"kty":"oct","k":"c2VjcmV0"}"#]), JwksError::Secret(1)),
            (set(&[&EC.replace("\"a\"", "\"a\",\"d\":\"AA\"")]), JwksError::Secret(0)),
            (" ".repeat(MOST_BYTES + 1), JwksError::Long),
        ] {
            assert_eq!(parse(&text), Err(expected), "{text}");
        }
        assert!(matches!(parse("[]"), Err(JwksError::Form(_))));
        assert_eq!(parse(&set(&[EC; MOST_KEYS + 1])), Err(JwksError::Many));
    }
}
