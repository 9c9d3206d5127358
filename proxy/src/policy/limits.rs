//! How often something may be asked, and how much of it at once.

use std::sync::Arc;
use std::time::Duration;

use outrigger_api::v1;

use super::backend::{at_least_one, required};
use super::problem::{Path, Problems};
use super::routes::{header_name, route_match};
use crate::concurrency::ConcurrencyPolicy;
use crate::rate_limit::{Key, Rate, RateLimit, RateLimits, State, quota};

/// Limits of one port or rule.
const MOST_LIMITS: usize = 64;
/// The greatest number of requests in a window.
const MOST_REQUESTS: u32 = 1_000_000;
/// The longest window.
const LONGEST: Duration = Duration::from_secs(3600);

/// Reads the limits of what is at `path`.
pub(super) fn limits(raw: &[v1::RateLimit], path: &Path<'_>, problems: &mut Problems) -> RateLimits {
    if raw.len() > MOST_LIMITS {
        problems.add(&path.field("rateLimits"), format!("has {} entries, over {MOST_LIMITS}", raw.len()));
    }
    let mut limits = Vec::with_capacity(raw.len().min(MOST_LIMITS));
    for (index, raw) in raw.iter().take(MOST_LIMITS).enumerate() {
        limits.extend(limit(raw, &path.field("rateLimits").index(index), problems));
    }
    RateLimits(limits)
}

fn limit(raw: &v1::RateLimit, path: &Path<'_>, problems: &mut Problems) -> Option<RateLimit> {
    for (field, number) in [("requests", raw.requests), ("burst", raw.burst)] {
        if !(1..=MOST_REQUESTS).contains(&number) {
            problems.add(&path.field(field), format!("{number} is not 1 to {MOST_REQUESTS}"));
        }
    }
    let per = required(raw.per.as_ref(), &path.field("per"), problems);
    if per.is_some_and(|per| per > LONGEST) {
        problems.add(&path.field("per"), format!("is longer than {LONGEST:?}"));
    }
    let mut by = Vec::with_capacity(raw.by.len());
    for (index, raw) in raw.by.iter().enumerate() {
        by.extend(key(raw, &path.field("by").index(index), problems));
    }
    if raw.of_mesh && !by.is_empty() {
        problems.add(&path.field("by"), "is not empty, and the limit is the mesh's");
    }
    let mut matches = Vec::with_capacity(raw.matches.len());
    for (index, raw) in raw.matches.iter().enumerate() {
        matches.extend(route_match(raw, &path.field("matches").index(index), problems));
    }
    let per = per?;
    let rate = Rate::new(raw.requests, per, raw.burst);
    Some(RateLimit {
        id: Arc::from(&*raw.id),
        policy: Arc::from(&*raw.policy),
        name: Arc::from(&*raw.name),
        rate,
        state: Arc::new(State::new(rate, !by.is_empty(), raw.of_mesh)),
        by,
        matches,
        told: raw.headers,
        quota: quota(&raw.name, raw.requests, per),
    })
}

fn key(raw: &v1::RateLimitKey, path: &Path<'_>, problems: &mut Problems) -> Option<Key> {
    match v1::RateLimitKeyKind::try_from(raw.kind) {
        Ok(v1::RateLimitKeyKind::Identity) => Some(Key::Identity),
        Ok(v1::RateLimitKeyKind::Header) => {
            header_name(&raw.header, &path.field("header"), problems).map(Key::Header)
        }
        Ok(v1::RateLimitKeyKind::Method) => Some(Key::Method),
        Ok(v1::RateLimitKeyKind::Path) => Some(Key::Path),
        Ok(v1::RateLimitKeyKind::ClientAddress) => Some(Key::ClientAddress),
        Ok(v1::RateLimitKeyKind::Claim) if raw.claim.is_empty() => {
            problems.add(&path.field("claim"), "is empty");
            None
        }
        Ok(v1::RateLimitKeyKind::Claim) => {
            Some(Key::Claim(raw.claim.iter().map(|name| name.as_str().into()).collect()))
        }
        Ok(v1::RateLimitKeyKind::ApiKey) => Some(Key::ApiKey),
        Ok(v1::RateLimitKeyKind::Unspecified) | Err(_) => {
            problems.add(&path.field("kind"), format!("key {} is not known here", raw.kind));
            None
        }
    }
}

/// Reads the limit of what is under way at once.
pub(super) fn concurrency(
    raw: &v1::AdaptiveConcurrency,
    path: &Path<'_>,
    problems: &mut Problems,
) -> Option<ConcurrencyPolicy> {
    at_least_one(raw.min_limit, &path.field("minLimit"), problems);
    if raw.min_limit > raw.max_limit {
        problems
            .add(&path.field("minLimit"), format!("{} is over maxLimit, {}", raw.min_limit, raw.max_limit));
    }
    Some(ConcurrencyPolicy {
        min_limit: raw.min_limit,
        max_limit: raw.max_limit,
        tolerance_percent: raw.tolerance_percent,
        recalibrate: required(raw.recalibrate.as_ref(), &path.field("recalibrate"), problems)?,
    })
}
