//! Matches that an earlier one takes every request from, and rules that are left with none.
//!
//! The order is that of the compiled message, so that it is the one in which proxies try them, over all routes of a
//! port. What is found is certain: a match is only said to cover another where each of its conditions is one of the
//! other's, and an expression covers nothing but itself.

use std::collections::BTreeSet;

use outrigger_api::{ServiceName, v1};
use v1::path_match::Kind as Path;

use super::{Findings, Subject, key_of, reference, rule_path};
use crate::compile::{World, compile};
use crate::explain::{rule_sources, words};
use crate::model::Model;

pub(super) fn look(subject: &Subject, findings: &mut Findings) {
    subject.with_world(|world| {
        for (service, client) in callers(world.model) {
            let Some(compiled) = compile(world, &service, &client) else { continue };
            for port in &compiled.message.ports {
                look_at(port, world, findings);
            }
        }
    });
}

/// Every service that has routes, for callers of each namespace that has routes for it.
pub(super) fn callers(model: &Model) -> BTreeSet<(ServiceName, String)> {
    let mut callers = BTreeSet::new();
    for route in reference::routes(model.documents()) {
        let namespace = route.key().namespace;
        for (service, _) in reference::parents(&route.to_value(), &namespace) {
            callers.insert((service, namespace.clone()));
        }
    }
    callers
}

fn look_at(port: &v1::ServicePort, world: World<'_>, findings: &mut Findings) {
    let sources = rule_sources(port, world.model.documents());
    let place = |rule: u32| sources.get(rule as usize);
    // For each rule: what takes its matches, and whether one is left.
    let mut taken: Vec<Vec<(String, String)>> = vec![Vec::new(); port.rules.len()];
    let mut left = vec![false; port.rules.len()];
    for (position, found) in port.matches.iter().enumerate() {
        let rule = found.rule as usize;
        let by = port.matches[..position].iter().find(|earlier| covers(earlier, found));
        match by.and_then(|by| place(by.rule)) {
            Some((source, _)) => {
                if let Some(taken) = taken.get_mut(rule) {
                    taken.push((words(found), source.to_string()));
                }
            }
            None => left.get_mut(rule).into_iter().for_each(|left| *left = true),
        }
    }
    for ((taken, left), source) in taken.iter().zip(&left).zip(&sources) {
        let Some(((source, index), (found, by))) = Some(source).zip(taken.first()) else { continue };
        let Some(key) = key_of(&source.document) else { continue };
        let message = match left {
            false => {
                format!("no request gets to this rule: what it matches is taken by {by}, which comes first")
            }
            true => format!("no request gets here by {found}: {by} comes first"),
        };
        findings.add(&key, rule_path(*index), message);
    }
}

/// Whether every request that `one` holds for is also one that `by` holds for.
fn covers(by: &v1::RouteMatch, one: &v1::RouteMatch) -> bool {
    let path = |found: &v1::RouteMatch| found.path.as_ref().and_then(|path| path.kind.clone());
    let path = match (path(by), path(one)) {
        (None, _) => true,
        (Some(Path::Exact(by)), Some(Path::Exact(one))) => by == one,
        (Some(Path::Prefix(by)), Some(Path::Exact(one) | Path::Prefix(one))) => is_under(&by, &one),
        (Some(Path::Prefix(by)), _) => by == "/",
        (Some(Path::Regex(by)), one) => matches!(by.as_str(), ".*" | "/.*") || one == Some(Path::Regex(by)),
        (Some(Path::Exact(_)), _) => false,
    };
    let has = |all: &[v1::ValueMatch], wanted: &v1::ValueMatch| all.contains(wanted);
    path && (by.method.is_empty() || by.method == one.method)
        && by.headers.iter().all(|header| has(&one.headers, header))
        && by.query.iter().all(|parameter| has(&one.query, parameter))
}

fn is_under(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
