//! How the requests of one client stay with one endpoint: as the Gateway API's `sessionPersistence` of a rule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refuse_zero;
use crate::resources::http_route::check_name;
use crate::resources::{FieldPath, Period, Problems};

/// Keeps the requests of one client with one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// The name of the cookie or the header. Default: one of its own for each rule or policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_name: Option<String>,
    /// Where the token travels. Default: `Cookie`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SessionType>,
    /// How long a session lasts. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Period>,
    /// How long a session lasts without a request. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Period>,
    /// More about the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// Where the token of a session travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionType {
    /// In a cookie.
    Cookie,
    /// In a header of the request and of the answer.
    Header,
}

/// More about a session's cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// How long the client keeps it. Default: `Session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_type: Option<CookieLifetime>,
}

/// How long a client keeps a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CookieLifetime {
    /// Until its own session ends.
    Session,
    /// Until `absoluteTimeout`, which is required.
    Permanent,
}

impl SessionPersistence {
    pub(super) fn check(&self, path: &FieldPath, problems: &mut Problems) {
        if let Some(name) = &self.session_name {
            check_name(name, &path.field("sessionName"), problems);
        }
        for (name, period) in [("absoluteTimeout", self.absolute_timeout), ("idleTimeout", self.idle_timeout)]
        {
            refuse_zero(&path.field(name), period, problems);
        }
        let lifetime = self.cookie_config.as_ref().and_then(|config| config.lifetime_type);
        if lifetime == Some(CookieLifetime::Permanent) && self.absolute_timeout.is_none() {
            problems.error(&path.field("absoluteTimeout"), "is required for a Permanent cookie");
        }
        if self.cookie_config.is_some() && self.kind == Some(SessionType::Header) {
            problems.error(&path.field("cookieConfig"), "means something with the type Cookie alone");
        }
    }
}
