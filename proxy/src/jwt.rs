//! Bearer tokens: whose they are, proven by a key of their issuer and by nothing else.
//!
//! A token (RFC 7519, signed by RFC 7515) is good if its issuer is one that the port takes, a key of that issuer and of the
//! id that the token names has signed it, by an algorithm that the *key* is for, its audience is meant, and it is in its
//! time. Nothing about it is believed before: no `none`, no shared secret, no key out of the token itself. A signature
//! costs some 50 us to check, so that good tokens are remembered for as long as they are good (`memory`).

mod claims;
pub mod key;
pub(crate) mod memory;

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use claims::Claims;
use key::Key;

/// A longer token is refused unread.
const MOST_BYTES: usize = 8 * 1024;

/// Whose tokens a port takes.
#[derive(Debug)]
pub struct Jwt {
    /// One of them must have issued it.
    pub issuers: Vec<Issuer>,
    /// A request without a token is refused.
    pub required: bool,
}

/// Who issues tokens.
#[derive(Debug)]
pub struct Issuer {
    /// `iss`.
    pub name: Box<str>,
    /// `aud` must be one of them. Empty: whatever it is.
    pub audiences: Vec<Box<str>>,
    /// None: no token of the issuer is good.
    pub keys: Vec<Key>,
    /// Where tokens are looked for.
    pub place: Place,
    /// The application gets the token, too.
    pub forward: bool,
    /// The application is told these claims.
    pub claims_to_headers: Vec<ClaimHeader>,
    /// How far clocks may be apart.
    pub skew: Duration,
}

/// A claim that the application is told in a field, which nobody else can set.
#[derive(Debug)]
pub struct ClaimHeader {
    /// The names that lead to the claim.
    pub path: Vec<Box<str>>,
    /// The field.
    pub header: HeaderName,
}

/// Where a token stands: in a field, behind a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The field.
    pub header: HeaderName,
    /// What stands before the token; compared without case.
    pub prefix: Box<str>,
}

impl Place {
    /// The token in a value of the field, if there is one.
    pub(crate) fn token<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        let (before, token) = value.split_at_checked(self.prefix.len())?;
        before.eq_ignore_ascii_case(self.prefix.as_bytes()).then(|| token.trim_ascii())
    }
}

/// Why a token is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// None is there.
    #[error("is missing")]
    Missing,
    /// There is more than one.
    #[error("is not the only one")]
    Several,
    /// It is not a signed token of a form that is understood here.
    #[error("is malformed")]
    Malformed,
    /// The port takes no tokens of its issuer.
    #[error("is of an unknown issuer")]
    Issuer,
    /// Its issuer has no key of that id for that algorithm.
    #[error("is signed by an unknown key")]
    Key,
    /// No key has made its signature.
    #[error("has a wrong signature")]
    Signature,
    /// It is meant for others.
    #[error("is for another audience")]
    Audience,
    /// Its time is over, or it says none.
    #[error("has expired")]
    Expired,
    /// Its time has not come.
    #[error("is not valid yet")]
    Early,
}

/// What a good token says.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Whose it is: an index into [`Jwt::issuers`].
    pub issuer: usize,
    /// All of it.
    pub claims: Claims,
    /// Until when it is good.
    pub until: SystemTime,
}

/// The part of a token's header that counts; `jku`, `jwk`, `x5c` and their like are never looked at.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); there are none here.
    crit: Option<Value>,
}

impl Jwt {
    /// Checks a token found at `place`.
    ///
    /// # Errors
    /// Why it is no good.
    pub fn verify(&self, token: &str, place: &Place, now: SystemTime) -> Result<Verified, Invalid> {
        if token.len() > MOST_BYTES {
            return Err(Invalid::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Invalid::Malformed)?;
        let header: Header = part(header)?;
        let claims: Map<String, Value> = part(payload)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Invalid::Malformed)?;
        if header.crit.is_some() {
            return Err(Invalid::Malformed);
        }
        let issued_by = claims.get("iss").and_then(Value::as_str).ok_or(Invalid::Issuer)?;
        let mut issuers = self.issuers.iter().enumerate();
        let is_its = |(_, issuer): &(usize, &Issuer)| issuer.place == *place && *issuer.name == *issued_by;
        let (index, issuer) = issuers.find(is_its).ok_or(Invalid::Issuer)?;
        issuer.check_signature(&header, message.as_bytes(), &signature)?;
        issuer.check_audience(&claims)?;
        let until = issuer.check_time(&claims, now)?;
        Ok(Verified { issuer: index, claims: claims.into(), until })
    }
}

/// A part of a token: JSON in base64.
fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Invalid> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Invalid::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Invalid::Malformed)
}

impl Issuer {
    /// A token that names a key is checked with keys of that name, and with no other.
    fn check_signature(&self, header: &Header, message: &[u8], signature: &[u8]) -> Result<(), Invalid> {
        let named = |key: &&Key| header.kid.is_none() || key.id.as_deref() == header.kid.as_deref();
        let mut reason = Invalid::Key;
        for key in self.keys.iter().filter(named) {
            let Some(algorithm) = key.algorithm(&header.alg) else { continue };
            if key.has_signed(algorithm, message, signature) {
                return Ok(());
            }
            reason = Invalid::Signature;
        }
        Err(reason)
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Invalid> {
        let is_meant = |value: &Value| {
            value.as_str().is_some_and(|text| self.audiences.iter().any(|one| **one == *text))
        };
        let meant = self.audiences.is_empty()
            || match claims.get("aud") {
                Some(Value::Array(several)) => several.iter().any(is_meant),
                Some(one) => is_meant(one),
                None => false,
            };
        if meant { Ok(()) } else { Err(Invalid::Audience) }
    }

    /// Returns until when the token is good.
    fn check_time(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<SystemTime, Invalid> {
        let time = |name: &str, otherwise: Invalid| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().and_then(moment).map(Some).ok_or(otherwise),
        };
        // One that never ends could not be taken back.
        let until = time("exp", Invalid::Expired)?.ok_or(Invalid::Expired)? + self.skew;
        if now >= until {
            return Err(Invalid::Expired);
        }
        for name in ["nbf", "iat"] {
            if time(name, Invalid::Early)?.is_some_and(|from| from > now + self.skew) {
                return Err(Invalid::Early);
            }
        }
        Ok(until)
    }
}

/// Seconds since 1970, fractions included, as a time that can be counted with.
fn moment(seconds: f64) -> Option<SystemTime> {
    const YEAR_9999: f64 = 253_402_300_799.0;
    (0.0..=YEAR_9999).contains(&seconds).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

#[cfg(test)]
pub(crate) mod tests;
