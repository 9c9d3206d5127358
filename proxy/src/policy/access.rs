//! Who may call a port.

use http::Method;
use ipnet::IpNet;
use outrigger_api::v1;
use v1::text_match;

use super::problem::{Path, Problems};
use super::routes::{header_name, path_match, pattern};
use crate::access::operation::{FieldCondition, Host, Operation};
use crate::access::source::{Name, Source};
use crate::access::text::Text;
use crate::access::{Access, ClaimCondition, Effect, Mode, Policy, Rule};
use crate::route::PathMatch;

pub(super) fn access(raw: &v1::Access, path: &Path<'_>, problems: &mut Problems) -> Access {
    let mut policies = Vec::with_capacity(raw.policies.len());
    for (index, raw) in raw.policies.iter().enumerate() {
        let path = path.field("policies");
        let path = path.index(index);
        let rules = &path.field("rules");
        let rules = raw.rules.iter().enumerate().map(|(index, raw)| rule(raw, &rules.index(index), problems));
        let policy = Policy { name: raw.name.as_str().into(), rules: rules.collect() };
        let effect = match v1::AccessAction::try_from(raw.action) {
            Ok(v1::AccessAction::Allow) => Effect::Allow,
            Ok(v1::AccessAction::Deny) => Effect::Deny,
            Ok(v1::AccessAction::Unspecified) | Err(_) => {
                problems.add(&path.field("action"), format!("{} is not known here", raw.action));
                continue;
            }
        };
        policies.push((effect, raw.audit, policy));
    }
    let mode = match v1::AccessMode::try_from(raw.mode) {
        Ok(v1::AccessMode::Open) => Mode::Open,
        Ok(v1::AccessMode::Authenticated) => Mode::Authenticated,
        Ok(v1::AccessMode::SameNamespace) => Mode::SameNamespace,
        Ok(v1::AccessMode::Deny) => Mode::Deny,
        Ok(v1::AccessMode::Unspecified) | Err(_) => {
            problems.add(&path.field("mode"), format!("{} is not known here", raw.mode));
            Mode::Deny
        }
    };
    Access::new(policies, mode, &raw.namespace)
}

fn rule(raw: &v1::AccessRule, path: &Path<'_>, problems: &mut Problems) -> Rule {
    let (from, to, when) = (path.field("from"), path.field("to"), path.field("when"));
    Rule {
        from: raw
            .from
            .iter()
            .enumerate()
            .map(|(index, raw)| source(raw, &from.index(index), problems))
            .collect(),
        to: raw
            .to
            .iter()
            .enumerate()
            .map(|(index, raw)| operation(raw, &to.index(index), problems))
            .collect(),
        when: raw
            .when
            .iter()
            .enumerate()
            .map(|(index, raw)| claim(raw, &when.index(index), problems))
            .collect(),
    }
}

fn source(raw: &v1::AccessSource, path: &Path<'_>, problems: &mut Problems) -> Source {
    let names = |list: &[String]| list.iter().map(|text| Name::new(text)).collect();
    let texts = |list: &[String]| list.iter().map(|text| text.as_str().into()).collect();
    let accounts = path.field("serviceAccounts");
    let service_accounts = raw.service_accounts.iter().enumerate().filter_map(|(index, text)| {
        let account = text.split_once('/').map(|(namespace, name)| (namespace.into(), name.into()));
        if account.is_none() {
            problems.add(&accounts.index(index), format!("{text:?} is not NAMESPACE/NAME"));
        }
        account
    });
    Source {
        identities: names(&raw.identities),
        namespaces: texts(&raw.namespaces),
        service_accounts: service_accounts.collect(),
        trust_domains: texts(&raw.trust_domains),
        cidrs: networks(&raw.cidrs, &path.field("cidrs"), problems),
        not_identities: names(&raw.not_identities),
        not_namespaces: texts(&raw.not_namespaces),
        not_cidrs: networks(&raw.not_cidrs, &path.field("notCidrs"), problems),
        api_keys: texts(&raw.api_keys),
    }
}

fn networks(raw: &[String], path: &Path<'_>, problems: &mut Problems) -> Vec<IpNet> {
    raw.iter().enumerate().filter_map(|(index, text)| problems.ok(text.parse(), &path.index(index))).collect()
}

fn operation(raw: &v1::AccessOperation, path: &Path<'_>, problems: &mut Problems) -> Operation {
    let headers = path.field("headers");
    let headers = raw.headers.iter().enumerate().filter_map(|(index, raw)| {
        let path = headers.index(index);
        let values = texts(&raw.values, &path.field("values"), problems);
        header_name(&raw.name, &path.field("name"), problems).map(|name| FieldCondition { name, values })
    });
    let headers = headers.collect();
    Operation {
        methods: methods(&raw.methods, &path.field("methods"), problems),
        hosts: raw.hosts.iter().map(|host| Host::new(host)).collect(),
        paths: paths(&raw.paths, &path.field("paths"), problems),
        headers,
        not_methods: methods(&raw.not_methods, &path.field("notMethods"), problems),
        not_paths: paths(&raw.not_paths, &path.field("notPaths"), problems),
    }
}

fn methods(raw: &[String], path: &Path<'_>, problems: &mut Problems) -> Vec<Method> {
    let method = |(index, text): (usize, &String)| problems.ok(text.parse(), &path.index(index));
    raw.iter().enumerate().filter_map(method).collect()
}

fn paths(raw: &[v1::PathMatch], path: &Path<'_>, problems: &mut Problems) -> Vec<PathMatch> {
    let condition = |(index, raw)| path_match(Some(raw), &path.index(index), problems);
    raw.iter().enumerate().filter_map(condition).collect()
}

fn claim(raw: &v1::ClaimCondition, path: &Path<'_>, problems: &mut Problems) -> ClaimCondition {
    if raw.path.is_empty() {
        problems.add(&path.field("path"), "is absent");
    }
    ClaimCondition {
        path: raw.path.iter().map(|name| name.as_str().into()).collect(),
        values: texts(&raw.values, &path.field("values"), problems),
    }
}

fn texts(raw: &[v1::TextMatch], path: &Path<'_>, problems: &mut Problems) -> Vec<Text> {
    let text = |(index, raw): (usize, &v1::TextMatch)| {
        let path = path.index(index);
        Some(match problems.present(raw.kind.as_ref(), &path)? {
            text_match::Kind::Exact(text) => Text::Exact(text.as_str().into()),
            text_match::Kind::Prefix(text) => Text::Prefix(text.as_str().into()),
            // A line feed is a character like any other: it must not end what an expression looks at.
            text_match::Kind::Regex(text) => Text::Regex(pattern(&format!("(?s){text}"), &path, problems)?),
        })
    };
    raw.iter().enumerate().filter_map(text).collect()
}
