//! How the requests of one client stay with one endpoint: a rule's own `sessionPersistence`, else that of the policy of
//! the service that is called (ours before the Gateway API's), else that of the first of the rule's backends that the
//! Gateway API's policy gives one.
//!
//! The key that tokens are sealed with follows from the document's uid, which the store draws at random when the
//! document is made: so every proxy has the same one, and it needs no store of its own. A document that is deleted and
//! made again begins new sessions.

use std::time::Duration;

use aws_lc_rs::digest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_api::v1::{self, session::Carrier};

use super::timing::proto;
use crate::resources::httproutes::{
    HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceCookieConfigLifetimeType,
    HttpRouteRulesSessionPersistenceType,
};
use crate::resources::{
    CookieLifetime, Period, ServicePolicy, SessionPersistence, SessionType, XBackendTrafficPolicy, as_http,
};

/// What either kind of document says.
struct Terms<'a> {
    name: Option<&'a str>,
    in_header: bool,
    permanent: bool,
    absolute: Option<Duration>,
    idle: Option<Duration>,
}

/// Of a rule, which is named as its requests are labelled. Rules never share a session.
pub(super) fn of_rule(
    session: &HttpRouteRulesSessionPersistence,
    metadata: &ObjectMeta,
    rule: &str,
) -> v1::Session {
    use HttpRouteRulesSessionPersistenceCookieConfigLifetimeType::Permanent;
    let period = |text: Option<&String>| text.and_then(|text| text.parse().ok()).map(Period::duration);
    let lifetime = session.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let terms = Terms {
        name: session.session_name.as_deref(),
        in_header: matches!(session.r#type, Some(HttpRouteRulesSessionPersistenceType::Header)),
        permanent: matches!(lifetime, Some(Permanent)),
        absolute: period(session.absolute_timeout.as_ref()),
        idle: period(session.idle_timeout.as_ref()),
    };
    terms.session(metadata, rule)
}

/// Of a service's policy: one session for all of its rules that have none of their own.
pub(super) fn of_policy(policy: &ServicePolicy) -> Option<v1::Session> {
    let session: &SessionPersistence = policy.spec.session_persistence.as_ref()?;
    let lifetime = session.cookie_config.as_ref().and_then(|config| config.lifetime_type);
    let terms = Terms {
        name: session.session_name.as_deref(),
        in_header: session.kind == Some(SessionType::Header),
        permanent: lifetime == Some(CookieLifetime::Permanent),
        absolute: session.absolute_timeout.map(Period::duration),
        idle: session.idle_timeout.map(Period::duration),
    };
    Some(terms.session(&policy.metadata, ""))
}

/// Of the Gateway API's policy for a service, in the words of a rule: one session for all of the rules that it holds for.
pub(super) fn of_traffic_policy(policy: &XBackendTrafficPolicy) -> Option<v1::Session> {
    let session: HttpRouteRulesSessionPersistence = as_http::same(policy.spec.session_persistence.as_ref()?)?;
    Some(of_rule(&session, &policy.metadata, ""))
}

impl Terms<'_> {
    fn session(&self, metadata: &ObjectMeta, rule: &str) -> v1::Session {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let place = format!("{}/{}/{rule}", text(&metadata.namespace), text(&metadata.name));
        let name = self.name.map_or_else(|| default_name(&place), str::to_owned);
        let carrier = if self.in_header {
            Carrier::Header(name)
        } else {
            let ttl = self.absolute.filter(|_| self.permanent).map(proto);
            Carrier::Cookie(v1::Cookie { name, path: "/".to_owned(), ttl })
        };
        v1::Session {
            carrier: Some(carrier),
            absolute_timeout: self.absolute.filter(|limit| !limit.is_zero()).map(proto),
            idle_timeout: self.idle.filter(|limit| !limit.is_zero()).map(proto),
            key: format!("{}/{place}", text(&metadata.uid)).into_bytes(),
        }
    }
}

/// A name that no other rule has and that tells a client nothing.
fn default_name(place: &str) -> String {
    let digest = digest::digest(&digest::SHA256, place.as_bytes());
    let short: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("outrigger-session-{short}")
}
