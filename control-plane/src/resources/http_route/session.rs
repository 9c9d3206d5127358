//! How the requests of one client stay with one endpoint (GEP-1619).

use gateway_api::experimental::httproutes::{
    HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceCookieConfigLifetimeType,
    HttpRouteRulesSessionPersistenceType,
};

use super::{FieldPath, Problems, check_name};

/// The bound of the CRD's schema.
const MOST_NAME_BYTES: usize = 128;

pub(in crate::resources) fn fill_defaults(session: &mut HttpRouteRulesSessionPersistence) {
    session.r#type.get_or_insert(HttpRouteRulesSessionPersistenceType::Cookie);
    if let Some(config) = &mut session.cookie_config {
        config.lifetime_type.get_or_insert(HttpRouteRulesSessionPersistenceCookieConfigLifetimeType::Session);
    }
}

pub(in crate::resources) fn check(
    session: &HttpRouteRulesSessionPersistence,
    path: &FieldPath,
    problems: &mut Problems,
) {
    if let Some(name) = &session.session_name {
        let path = path.field("sessionName");
        check_name(name, &path, problems);
        if name.len() > MOST_NAME_BYTES {
            problems.error(&path, format!("must not have more than {MOST_NAME_BYTES} bytes"));
        }
    }
    for (name, text) in
        [("absoluteTimeout", &session.absolute_timeout), ("idleTimeout", &session.idle_timeout)]
    {
        let path = path.field(name);
        let period = problems.check_period(&path, text.as_deref());
        if period.is_some_and(|period| period.is_zero()) {
            problems.error(&path, "must be longer than 0s; leave it out for a session without an end");
        }
    }
    let lifetime = session.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let is_permanent =
        matches!(lifetime, Some(HttpRouteRulesSessionPersistenceCookieConfigLifetimeType::Permanent));
    if is_permanent && session.absolute_timeout.is_none() {
        problems.error(&path.field("absoluteTimeout"), "is required for a Permanent cookie");
    }
    let is_header = matches!(session.r#type, Some(HttpRouteRulesSessionPersistenceType::Header));
    if session.cookie_config.is_some() && is_header {
        problems.error(&path.field("cookieConfig"), "means something with the type Cookie alone");
    }
}
