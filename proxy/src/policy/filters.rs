//! Filters that are more than a change of fields.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::uri::Scheme;
use outrigger_api::v1::{self, fault_abort, fault_delay, path_change};

use super::backend::{optional, required};
use super::port_number;
use super::problem::{Path, Problems};
use super::routes::{header_match, service_port};
use crate::failure::Injected;
use crate::filter::{Cors, Delay, Fault, Mirror, Names, Origins, PathChange, Redirect, Rewrite, Share};

pub(super) fn redirect(raw: &v1::Redirect, path: &Path<'_>, problems: &mut Problems) -> Option<Redirect> {
    let status =
        u16::try_from(raw.status).ok().filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    if status.is_none() {
        problems.add(&path.field("status"), format!("{} is not the status of a redirect", raw.status));
    }
    let scheme = match raw.scheme.as_str() {
        "" => None,
        text => problems.ok(Scheme::try_from(text), &path.field("scheme")),
    };
    let port = (raw.port != 0).then(|| port_number(raw.port, &path.field("port"), problems)).flatten();
    let host = host(&raw.host, &path.field("host"), problems).map(|host| host.as_str().into());
    Some(Redirect {
        scheme,
        host,
        port,
        path: path_change(raw.path.as_ref(), &path.field("path"), problems),
        status: StatusCode::from_u16(status?).ok()?,
    })
}

pub(super) fn rewrite(raw: &v1::Rewrite, path: &Path<'_>, problems: &mut Problems) -> Option<Rewrite> {
    Some(Rewrite {
        host: host(&raw.host, &path.field("host"), problems),
        path: path_change(raw.path.as_ref(), &path.field("path"), problems),
    })
}

/// Empty is none.
fn host(text: &str, path: &Path<'_>, problems: &mut Problems) -> Option<http::uri::Authority> {
    if text.is_empty() {
        return None;
    }
    let host = text.parse::<http::uri::Authority>().ok().filter(|authority| authority.host() == text);
    if host.is_none() {
        problems.add(path, format!("{text:?} is not a host without a port"));
    }
    host
}

fn path_change(raw: Option<&v1::PathChange>, path: &Path<'_>, problems: &mut Problems) -> Option<PathChange> {
    match problems.present(raw?.kind.as_ref(), path)? {
        path_change::Kind::Full(to) => problems.ok(PathChange::full(to), &path.field("full")),
        path_change::Kind::Prefix(raw) => {
            problems.ok(PathChange::prefix(&raw.from, &raw.to), &path.field("prefix"))
        }
    }
}

pub(super) fn mirror(raw: &v1::Mirror, path: &Path<'_>, problems: &mut Problems) -> Option<Mirror> {
    let denominator = NonZeroU32::new(raw.denominator);
    if denominator.is_none() {
        problems.add(&path.field("denominator"), "must be at least 1");
    }
    let service = problems.present(raw.service.as_ref(), &path.field("service"))?;
    let (service, port) = service_port(service, &path.field("service"), problems)?;
    Some(Mirror { service, port, numerator: raw.numerator, denominator: denominator? })
}

pub(super) fn cors(raw: &v1::Cors, path: &Path<'_>, problems: &mut Problems) -> Option<Cors> {
    let mut names = |field: &'static str, list: &[String]| {
        let names = Names::new(list);
        names.map_err(|wrong| problems.add(&path.field(field), format!("{wrong:?} is not a name"))).ok()
    };
    let methods = names("allowMethods", &raw.allow_methods);
    let headers = names("allowHeaders", &raw.allow_headers);
    let expose = names("exposeHeaders", &raw.expose_headers);
    let origins = Origins::new(&raw.allow_origins);
    let origins = origins
        .map_err(|wrong| problems.add(&path.field("allowOrigins"), format!("{wrong:?} is not an origin")))
        .ok();
    Some(Cors {
        origins: origins?,
        credentials: raw.allow_credentials,
        methods: methods?,
        headers: headers?,
        expose: expose?,
        max_age: raw.max_age,
    })
}

pub(super) fn fault(raw: &v1::Fault, path: &Path<'_>, problems: &mut Problems) -> Option<Fault> {
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (index, raw) in raw.headers.iter().enumerate() {
        headers.extend(header_match(raw, &path.field("headers").index(index), problems));
    }
    let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(raw.until));
    if until.is_none() {
        problems.add(&path.field("until"), format!("{} is later than any clock shows", raw.until));
    }
    Some(Fault {
        policy: Arc::from(&*raw.policy),
        headers,
        delay: raw.delay.as_ref().and_then(|raw| delay(raw, &path.field("delay"), problems)),
        abort: raw.abort.as_ref().and_then(|raw| abort(raw, &path.field("abort"), problems)),
        most_delayed: raw.max_concurrent,
        until: until.filter(|_| raw.until != 0),
    })
}

fn delay(raw: &v1::FaultDelay, path: &Path<'_>, problems: &mut Problems) -> Option<(Share, Delay)> {
    let share = share(raw.per_million, path, problems);
    let delay = match problems.present(raw.time.as_ref(), path)? {
        fault_delay::Time::Fixed(time) => Delay::Fixed(optional(Some(time), &path.field("fixed"), problems)?),
        fault_delay::Time::Exponential(mean) => {
            Delay::Exponential { mean: optional(Some(mean), &path.field("exponential"), problems)? }
        }
        fault_delay::Time::Uniform(range) => {
            let path = path.field("uniform");
            // The shortest delay may be none.
            let least = range.min.as_ref().filter(|min| min.seconds != 0 || min.nanos != 0);
            let min = optional(least, &path.field("min"), problems).unwrap_or_default();
            let max = required(range.max.as_ref(), &path.field("max"), problems)?;
            if min > max {
                problems.add(&path.field("min"), format!("{min:?} is longer than max, {max:?}"));
            }
            Delay::Uniform { min, max }
        }
    };
    share.map(|share| (share, delay))
}

fn abort(raw: &v1::FaultAbort, path: &Path<'_>, problems: &mut Problems) -> Option<(Share, Injected)> {
    let share = share(raw.per_million, path, problems);
    let (field, number, injected) = match problems.present(raw.status.as_ref(), path)? {
        fault_abort::Status::Http(status) => {
            let known = u16::try_from(*status).ok().filter(|status| (400..=599).contains(status));
            ("http", status, known.map(Injected::http))
        }
        fault_abort::Status::Grpc(code) => {
            let known = u8::try_from(*code).ok().filter(|code| (1..=16).contains(code));
            ("grpc", code, known.map(Injected::grpc))
        }
    };
    if injected.is_none() {
        problems.add(&path.field(field), format!("{number} is not the status of an error"));
    }
    share.zip(injected)
}

fn share(per_million: u32, path: &Path<'_>, problems: &mut Problems) -> Option<Share> {
    let share = Share::per_million(per_million);
    if share.is_none() {
        problems.add(&path.field("perMillion"), format!("{per_million} is over 1,000,000"));
    }
    share
}
