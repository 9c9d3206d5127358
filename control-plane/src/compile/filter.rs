//! What a rule does to requests and answers. A filter that is not supported, or that a proxy would refuse, is
//! compiled to one that fails the request: leaving it out could leave out somebody's protection.
//!
//! The generated types have every filter once for rules and once for backends, field by field the same; both are
//! compiled as those of rules.

use std::collections::BTreeSet;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};
use outrigger_api::ServiceName;
use outrigger_api::v1::{self, filter::Kind, path_change};
use serde::Serialize;

use super::backend::{self, Unresolved};
use super::extension::{self, Extension};
use super::fault::fault;
use super::{Attached, World};
use crate::resources::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters,
    HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectScheme as Scheme, HttpRouteRulesFiltersType as Type,
    HttpRouteRulesFiltersUrlRewrite, HttpRouteRulesMatchesPathType,
};
use crate::resources::is_origin;
use crate::resources::{RateLimitPolicy, ServicePolicySpec};

/// The status of a redirect where nothing is said of it.
const DEFAULT_REDIRECT: i64 = 302;

/// How long a browser keeps the answer to a preflight where nothing is said, in seconds.
const DEFAULT_MAX_AGE: i32 = 5;

/// Fields that say where a message ends; changing them is how requests are smuggled.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where filters stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) world: World<'a>,
    pub(super) attached: &'a Attached<'a>,
    /// The path prefix that the rule matches, where that is all that it matches.
    pub(super) prefix: Option<&'a str>,
    /// Of a rule, or of one of its backends.
    pub(super) scope: Scope,
}

/// What a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every request of the rule.
    Rule,
    /// Those that take one backend.
    Backend,
}

/// The filters of one place, compiled.
#[derive(Debug, Default)]
pub(super) struct Filters<'a> {
    /// How often the rule may be used.
    pub(super) rate_limits: Vec<&'a RateLimitPolicy>,
    /// In the order in which they are written.
    pub(super) messages: Vec<v1::Filter>,
    /// Of each of these, its place among those that are written: some say nothing to requests one by one.
    pub(super) places: Vec<usize>,
    /// The policy that holds for the rule.
    pub(super) policy: Option<(&'a (String, String), &'a ServicePolicySpec)>,
    /// Services that get copies of requests.
    pub(super) mirrored: BTreeSet<ServiceName>,
    /// Services that are named, whether there or not.
    pub(super) dependencies: BTreeSet<ServiceName>,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Unresolved>,
}

/// Why a filter fails its requests.
enum Problem {
    /// What it says cannot be done.
    Says(String),
    /// What it refers to is not there.
    Refers(Unresolved),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Says(problem)
    }
}

impl From<Unresolved> for Problem {
    fn from(problem: Unresolved) -> Self {
        Self::Refers(problem)
    }
}

/// Collects a generated header modifier, whichever of the two types it is.
macro_rules! modifier {
    ($modifier:expr) => {
        $modifier.as_ref().map(|modifier| v1::HeaderModifier {
            set: modifier.set.iter().flatten().map(|header| pair(&header.name, &header.value)).collect(),
            add: modifier.add.iter().flatten().map(|header| pair(&header.name, &header.value)).collect(),
            remove: modifier.remove.iter().flatten().map(|name| name.to_ascii_lowercase()).collect(),
        })
    };
}

/// The filters of a rule.
pub(super) fn of_rule<'a>(place: Place<'a>, filters: &[HttpRouteRulesFilters]) -> Filters<'a> {
    let mut compiled = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        compiled.add(place, index, filter);
    }
    compiled
}

/// The filters of one backend.
pub(super) fn of_backend<'a>(place: Place<'a>, filters: &[HttpRouteRulesBackendRefsFilters]) -> Filters<'a> {
    let place = Place { scope: Scope::Backend, ..place };
    let mut compiled = Filters::default();
    for (index, filter) in filters.iter().enumerate() {
        let twin = serde_json::to_value(filter).and_then(serde_json::from_value::<HttpRouteRulesFilters>);
        match twin {
            Ok(twin) => compiled.add(place, index, &twin),
            Err(_) => compiled.push(index, Kind::Unresolved(unsupported(&filter.r#type))),
        }
    }
    compiled
}

/// The prefix that a rule matches, where that is all that it matches.
pub(super) fn only_prefix(rule: &HttpRouteRules) -> Option<&str> {
    let path = match rule.matches.as_deref().unwrap_or_default() {
        [] => return Some("/"),
        [only] => only.path.as_ref(),
        _ => return None,
    };
    let kind = path.and_then(|path| path.r#type.as_ref());
    let by_prefix = matches!(kind, None | Some(HttpRouteRulesMatchesPathType::PathPrefix));
    by_prefix.then(|| path.and_then(|path| path.value.as_deref()).unwrap_or("/"))
}

impl<'a> Filters<'a> {
    fn push(&mut self, index: usize, kind: Kind) {
        self.places.push(index);
        self.messages.push(v1::Filter { kind: Some(kind) });
    }

    fn add(&mut self, place: Place<'a>, index: usize, filter: &HttpRouteRulesFilters) {
        match self.compile(place, filter) {
            Ok(Some(kind)) => self.push(index, kind),
            Ok(None) => {}
            Err(Problem::Says(problem)) => self.push(index, Kind::Unresolved(problem)),
            Err(Problem::Refers(problem)) => {
                self.push(index, Kind::Unresolved(problem.to_string()));
                self.unresolved.push(problem);
            }
        }
    }

    /// `None`: it says nothing to requests one by one.
    fn compile(&mut self, place: Place<'a>, filter: &HttpRouteRulesFilters) -> Result<Option<Kind>, Problem> {
        let absent = |name: &str| Problem::Says(format!("filter {name} says nothing"));
        let kind = match &filter.r#type {
            Type::RequestHeaderModifier => {
                headers("RequestHeaderModifier", modifier!(filter.request_header_modifier))
                    .map(Kind::RequestHeaders)?
            }
            Type::ResponseHeaderModifier => {
                headers("ResponseHeaderModifier", modifier!(filter.response_header_modifier))
                    .map(Kind::ResponseHeaders)?
            }
            Type::RequestRedirect => {
                let written = filter.request_redirect.as_ref().ok_or_else(|| absent("RequestRedirect"))?;
                Kind::Redirect(redirect(place, written)?)
            }
            Type::UrlRewrite => {
                let written = filter.url_rewrite.as_ref().ok_or_else(|| absent("URLRewrite"))?;
                Kind::Rewrite(rewrite(place, written)?)
            }
            Type::RequestMirror => {
                let written = filter.request_mirror.as_ref().ok_or_else(|| absent("RequestMirror"))?;
                return self.mirror(place, written);
            }
            Type::Cors => Kind::Cors(cors(filter.cors.as_ref().ok_or_else(|| absent("CORS"))?)?),
            Type::ExtensionRef => {
                let written = filter.extension_ref.as_ref().ok_or_else(|| absent("ExtensionRef"))?;
                let reference = (&*written.group, &*written.kind, &*written.name);
                return self.extend(
                    place,
                    extension::resolve(place.world.model, place.attached.namespace, reference)?,
                );
            }
            other => return Err(unsupported(other).into()),
        };
        Ok(Some(kind))
    }

    /// A mirror that leads nowhere is left out, for the request is served all the same.
    fn mirror(
        &mut self,
        place: Place<'a>,
        written: &HttpRouteRulesFiltersRequestMirror,
    ) -> Result<Option<Kind>, Problem> {
        let to = &written.backend_ref;
        let reference = HttpRouteRulesBackendRefs {
            group: to.group.clone(),
            kind: to.kind.clone(),
            name: to.name.clone(),
            namespace: to.namespace.clone(),
            port: to.port,
            ..HttpRouteRulesBackendRefs::default()
        };
        let (service, target) = backend::find(place.world, place.attached, &reference);
        self.dependencies.extend(service.clone());
        let target = match target {
            Ok(target) => target,
            Err(problem) => {
                self.unresolved.push(problem);
                return Ok(None);
            }
        };
        self.mirrored.extend(service);
        let fraction = written.fraction.as_ref();
        let share = match (written.percent, fraction) {
            (None, None) => (1, 1),
            (Some(percent), _) => (percent, 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        };
        let [numerator, denominator] = [share.0, share.1].map(|number| u32::try_from(number).ok());
        match numerator.zip(denominator).filter(|(_, denominator)| *denominator > 0) {
            Some((numerator, denominator)) => {
                Ok(Some(Kind::Mirror(v1::Mirror { service: Some(target), numerator, denominator })))
            }
            None => Err("filter RequestMirror has a fraction that is none".to_owned().into()),
        }
    }

    fn extend(&mut self, place: Place<'a>, extension: Extension<'a>) -> Result<Option<Kind>, Problem> {
        match extension {
            Extension::ServicePolicy(..) if place.scope == Scope::Backend => {
                Err("a backend cannot refer to a ServicePolicy".to_owned().into())
            }
            Extension::ServicePolicy(..) if self.policy.is_some() => {
                Err("a rule cannot refer to two ServicePolicies".to_owned().into())
            }
            Extension::ServicePolicy(key, policy) => {
                self.policy = Some((key, &policy.spec));
                Ok(None)
            }
            Extension::FaultInjection(document) => Ok(Some(Kind::Fault(fault(document)?))),
            Extension::RateLimitPolicy(_) if place.scope == Scope::Backend => {
                Err("a backend cannot refer to a RateLimitPolicy".to_owned().into())
            }
            // Who calls by a rule has sent its token to the service, not to its own proxy.
            Extension::RateLimitPolicy(document) if document.looks_at_proofs() => {
                Err("a rule cannot refer to a RateLimitPolicy with a limit by Claim or ApiKey"
                    .to_owned()
                    .into())
            }
            Extension::RateLimitPolicy(document) => {
                self.rate_limits.push(document);
                Ok(None)
            }
        }
    }
}

fn redirect(
    place: Place<'_>,
    written: &HttpRouteRulesFiltersRequestRedirect,
) -> Result<v1::Redirect, String> {
    let status = written.status_code.unwrap_or(DEFAULT_REDIRECT);
    let status = u32::try_from(status).ok().filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    let scheme = match &written.scheme {
        None => "",
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
    };
    let port = written.port.map_or(Some(0), |port| u16::try_from(port).ok().filter(|port| *port != 0));
    let path = written.path.as_ref();
    let values = path.map(|path| (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref()));
    Ok(v1::Redirect {
        status: status.ok_or("filter RequestRedirect has a status that is none of a redirect")?,
        scheme: scheme.to_owned(),
        host: host("RequestRedirect", written.hostname.as_deref())?,
        port: port.ok_or("filter RequestRedirect has a port that is none")?.into(),
        path: values.map(|values| path_change("RequestRedirect", place, values)).transpose()?,
    })
}

fn rewrite(place: Place<'_>, written: &HttpRouteRulesFiltersUrlRewrite) -> Result<v1::Rewrite, String> {
    let path = written.path.as_ref();
    let values = path.map(|path| (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref()));
    Ok(v1::Rewrite {
        host: host("URLRewrite", written.hostname.as_deref())?,
        path: values.map(|values| path_change("URLRewrite", place, values)).transpose()?,
    })
}

fn cors(written: &HttpRouteRulesFiltersCors) -> Result<v1::Cors, String> {
    let names = |list: &Option<Vec<String>>| {
        let list = list.clone().unwrap_or_default();
        match list.iter().find(|name| Method::from_bytes(name.as_bytes()).is_err()) {
            Some(wrong) => Err(format!("filter CORS names {wrong:?}, which is no name")),
            None => Ok(list),
        }
    };
    let origins = written.allow_origins.clone().unwrap_or_default();
    if let Some(wrong) = origins.iter().find(|origin| !is_origin(origin)) {
        return Err(format!("filter CORS allows {wrong:?}, which is no origin"));
    }
    Ok(v1::Cors {
        allow_origins: origins,
        allow_credentials: written.allow_credentials.unwrap_or(false),
        allow_methods: names(&written.allow_methods)?,
        allow_headers: names(&written.allow_headers)?,
        expose_headers: names(&written.expose_headers)?,
        max_age: u32::try_from(written.max_age.unwrap_or(DEFAULT_MAX_AGE)).unwrap_or_default(),
    })
}

fn host(filter: &str, written: Option<&str>) -> Result<String, String> {
    let Some(written) = written else { return Ok(String::new()) };
    match written.parse::<Authority>() {
        Ok(authority) if authority.host() == written => Ok(written.to_ascii_lowercase()),
        _ => Err(format!("filter {filter} names the host {written:?}, which is none")),
    }
}

/// One of the two is written: the whole path, or what its prefix becomes.
fn path_change(
    filter: &str,
    place: Place<'_>,
    values: (Option<&str>, Option<&str>),
) -> Result<v1::PathChange, String> {
    let written = values.0.or(values.1).unwrap_or_default();
    let is_path = written.is_empty() || written.starts_with('/') && !written.contains(['?', '#']);
    if !is_path || (!written.is_empty() && written.parse::<PathAndQuery>().is_err()) {
        return Err(format!("filter {filter} has the path {written:?}, which is none"));
    }
    let kind = match values {
        (Some(full), None) if !full.is_empty() => path_change::Kind::Full(full.to_owned()),
        (None, Some(to)) => {
            let from = place.prefix.ok_or_else(|| {
                format!("filter {filter} replaces a prefix, and the rule does not match just one")
            })?;
            path_change::Kind::Prefix(v1::PrefixChange { from: from.to_owned(), to: to.to_owned() })
        }
        _ => return Err(format!("filter {filter} does not say what the path becomes")),
    };
    Ok(v1::PathChange { kind: Some(kind) })
}

fn pair(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.to_ascii_lowercase(), value: value.to_owned() }
}

fn unsupported(kind: &impl Serialize) -> String {
    let kind = serde_json::to_value(kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or("unknown");
    format!("filter {kind} is not supported")
}

fn headers(name: &str, modifier: Option<v1::HeaderModifier>) -> Result<v1::HeaderModifier, String> {
    let modifier = modifier.ok_or_else(|| format!("filter {name} says nothing"))?;
    match wrong_header(&modifier) {
        Some(header) => Err(format!("filter {name} cannot change the header {header:?}")),
        None => Ok(modifier),
    }
}

/// The first header that a proxy would refuse to write.
fn wrong_header(modifier: &v1::HeaderModifier) -> Option<&str> {
    let is_name = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok() && !FRAMING.contains(&name);
    let written = modifier.set.iter().chain(&modifier.add);
    let wrong =
        written.filter(|header| !is_name(&header.name) || HeaderValue::from_str(&header.value).is_err());
    let removed = modifier.remove.iter().filter(|name| !is_name(name));
    wrong.map(|header| header.name.as_str()).chain(removed.map(String::as_str)).next()
}

/// The reason of a filter that fails its requests.
pub(super) fn problem(filter: &v1::Filter) -> Option<&str> {
    match &filter.kind {
        Some(Kind::Unresolved(reason)) => Some(reason),
        _ => None,
    }
}
