//! Finding the rule that a request falls under.

use std::hint::black_box;
use std::sync::Arc;

use http::{HeaderName, Request};
use outrigger_proxy::rate_limit::RateLimits;
use outrigger_proxy::route::{HeaderMatch, PathMatch, Prefix, RouteMatch, RouteTable, ValueMatch};
use outrigger_proxy::snapshot::Rule;

use crate::step::Work;

/// The last of so many rules: paths that share their beginning, as those of one API do.
pub(crate) fn last_of(rules: usize) -> Work {
    let path = |rule: usize| format!("/api/v1/resource-{rule}");
    let request = Request::get(format!("{}/items?page=2", path(rules - 1)));
    find(request, (0..rules).map(|rule| at(rule, &path(rule))))
}

/// The last of so many rules of one path, told apart by a header, as those of tenants are.
pub(crate) fn last_by_header_of(rules: usize) -> Work {
    let tenant = |rule: usize| format!("tenant-{rule}");
    let request = Request::get("/api/v1/items?page=2").header("x-tenant", tenant(rules - 1));
    let header = |rule: usize| HeaderMatch {
        name: HeaderName::from_static("x-tenant"),
        value: ValueMatch::Exact(tenant(rule).into()),
    };
    let matches = (0..rules).map(|rule| RouteMatch { headers: vec![header(rule)], ..at(rule, "/api") });
    find(request, matches)
}

fn at(rule: usize, path: &str) -> RouteMatch {
    RouteMatch {
        rule,
        path: PathMatch::Prefix(Prefix::new(path)),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
        hosts: Vec::new(),
    }
}

fn find(request: http::request::Builder, matches: impl ExactSizeIterator<Item = RouteMatch>) -> Work {
    let rules = (0..matches.len()).map(rule).collect();
    let table = RouteTable::new(matches.collect(), rules);
    let (head, ()) = request.body(()).expect("a path is a target").into_parts();
    Box::new(move || {
        black_box(table.find(black_box(&head)).expect("the last rule matches"));
    })
}

fn rule(index: usize) -> Rule {
    Rule {
        route: Arc::from("shop/api"),
        name: Arc::from(index.to_string()),
        filters: Vec::new(),
        request_timeout: None,
        attempt_timeout: None,
        retry: None,
        session: None,
        hedging: None,
        backends: Vec::new(),
        rate_limits: RateLimits::default(),
        fallback: None,
    }
}
