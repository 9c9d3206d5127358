//! ReferenceGrants: which references into a namespace its owner has consented to (Gateway API, GEP-709).
//!
//! A grant stands in the namespace that is referred to. It holds for every pair of one of its `from` and one of its
//! `to`; several grants add up. Whoever asks must ask before looking whether the target exists: to somebody without a
//! grant, what is not there and what is not theirs look the same.

use crate::resources::Documents;

/// Who refers: documents of one kind in one namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Referrer<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// What is referred to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Referent<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Whether the reference stays within its namespace or has the consent of the other.
pub(crate) fn is_granted(documents: &Documents, from: Referrer<'_>, to: Referent<'_>) -> bool {
    if from.namespace == to.namespace {
        return true;
    }
    let first = (to.namespace.to_owned(), String::new());
    let there = documents.reference_grants.range(first..);
    let mut there = there.take_while(|((namespace, _), _)| namespace == to.namespace);
    there.any(|(_, grant)| {
        let consents_from = grant.spec.from.iter().any(|granted| {
            granted.group == from.group && granted.kind == from.kind && granted.namespace == from.namespace
        });
        let consents_to = grant.spec.to.iter().any(|granted| {
            granted.group == to.group
                && granted.kind == to.kind
                && granted.name.as_deref().is_none_or(|name| name.is_empty() || name == to.name)
        });
        consents_from && consents_to
    })
}
