//! Whose tokens callers may bring (RFC 7519), and what becomes of them.

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::has_meaning;
use crate::jwks::{self, fetch};
use crate::resources::http_route::check_name;
use crate::resources::{FieldPath, Period, Problems};

/// Whose tokens callers may bring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// Who issues them.
    #[schemars(length(min = 1, max = 16))]
    pub issuers: Vec<JwtIssuer>,
    /// Refuses requests without a token. One that is there and no good is refused in any case. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// One issuer of tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtIssuer {
    /// `iss` of its tokens.
    pub issuer: String,
    /// `aud` must be or list one of these. Default: any audience.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub audiences: Vec<String>,
    /// Its keys.
    pub jwks: Jwks,
    /// Where its tokens stand. Default: the header `authorization`, behind `Bearer `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TokenSource>,
    /// Passes the token on to the application, instead of taking it away. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// Claims that the application is told in headers, which nobody else can set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub claims_to_headers: Vec<ClaimHeader>,
    /// How far the issuer's clock may be apart. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew: Option<Period>,
}

/// The keys of an issuer (JWK Set, RFC 7517): one of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwks {
    /// The document itself, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// Where the control plane fetches it: an https URL. Without an answer so far no token is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Where tokens stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSource {
    /// The header.
    pub header: String,
    /// What stands before the token. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// A claim that the application is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimHeader {
    /// The claim, as in `when`. What it lists is joined by commas.
    pub claim: String,
    /// The header.
    pub header: String,
}

impl Jwt {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        for (index, issuer) in self.issuers.iter().enumerate() {
            let path = path.field("issuers").index(index);
            issuer.check(&path, problems);
            if self.issuers[..index]
                .iter()
                .any(|earlier| earlier.issuer == issuer.issuer && earlier.from == issuer.from)
            {
                problems.error(&path.field("issuer"), format!("{:?} is listed a second time", issuer.issuer));
            }
        }
    }
}

impl JwtIssuer {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if self.issuer.is_empty() || self.issuer.len() > 1024 {
            problems.error(&path.field("issuer"), "must have 1 to 1024 bytes");
        }
        if self.audiences.is_empty() {
            problems.warning(path, "audiences is empty: tokens that the issuer made for anybody are taken");
        }
        self.jwks.check(&path.field("jwks"), problems);
        if let Some(from) = &self.from {
            check_name(&from.header, &path.field("from").field("header"), problems);
            let prefix = from.prefix.as_deref().unwrap_or_default();
            if prefix.len() > 64 || !prefix.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                problems.error(&path.field("from").field("prefix"), "must be up to 64 visible characters");
            }
        }
        for (index, told) in self.claims_to_headers.iter().enumerate() {
            let path = path.field("claimsToHeaders").index(index);
            if told.claim.is_empty() || told.claim.len() > 256 {
                problems.error(&path.field("claim"), "must have 1 to 256 bytes");
            }
            let path = path.field("header");
            check_name(&told.header, &path, problems);
            let name = told.header.to_ascii_lowercase();
            if has_meaning(&name) || name == "authorization" {
                problems.error(&path, format!("{:?} has a meaning of its own", told.header));
            }
            if name.parse::<HeaderName>().is_ok() && name.contains('_') {
                problems.warning(&path, "some applications cannot tell _ from - in the name of a header");
            }
        }
    }
}

impl Jwks {
    fn check(&self, path: &FieldPath, problems: &mut Problems) {
        match (&self.inline, &self.url) {
            (Some(text), None) => {
                if let Err(error) = jwks::parse(text) {
                    problems.error(&path.field("inline"), error.to_string());
                }
            }
            (None, Some(url)) if !fetch::is_allowed(url) => {
                problems.error(&path.field("url"), format!("{url:?} is not https://HOST[:PORT]/PATH"));
            }
            (None, Some(_)) => {}
            (Some(_), Some(_)) | (None, None) => problems.error(path, "must have either inline or url"),
        }
    }
}
