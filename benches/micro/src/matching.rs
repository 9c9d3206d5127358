//! Finding the rule that a request falls under.

use std::hint::black_box;
use std::sync::Arc;

use http::Request;
use outrigger_proxy::rate_limit::RateLimits;
use outrigger_proxy::route::{PathMatch, Prefix, RouteMatch, RouteTable};
use outrigger_proxy::snapshot::Rule;

use crate::step::Work;

/// The last of so many rules: paths that share their beginning, as those of one API do.
pub(crate) fn last_of(rules: usize) -> Work {
    let path = |rule: usize| format!("/api/v1/resource-{rule}");
    let matches = (0..rules).map(|rule| RouteMatch {
        rule,
        path: PathMatch::Prefix(Prefix::new(&path(rule))),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
        hosts: Vec::new(),
    });
    let table = RouteTable::new(matches.collect(), (0..rules).map(rule).collect());
    let uri = format!("{}/items?page=2", path(rules - 1));
    let (head, ()) = Request::get(uri).body(()).expect("a path is a target").into_parts();
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
