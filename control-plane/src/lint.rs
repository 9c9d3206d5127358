//! What is valid and most likely not what was meant, over a whole set of documents.
//!
//! A document is checked by itself when it is read ([`crate::resources`]); what only shows when several are seen
//! together is found here: rules that no request gets to, references that lead nowhere, timeouts that cannot be used
//! up, policies that nobody follows. Pure, like `compile`, on which it leans where precedence and defaults decide. A
//! finding is a warning: it keeps nothing from being applied.

mod access;
mod path;
mod policy;
mod reference;
mod retry;
mod shadow;
#[cfg(test)]
mod tests;
mod timeout;

use std::collections::HashMap;
use std::sync::Arc;

use crate::compile::World;
use crate::model::Model;
use crate::resources::{DocumentProblem, Documents, FieldPath, Kind, Parsed, Problem, Resource, ResourceKey};

/// So many findings are told; what is beyond only repeats the lesson.
const MOST_FINDINGS: usize = 200;

/// What is seen of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// These documents and no others: what is not among them may exist elsewhere, and is worth a hint.
    Set,
    /// All documents of a mesh, where services may also be known by registration: what is absent is no finding.
    Mesh,
}

/// A warning about one field of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The document.
    pub key: ResourceKey,
    /// The field, and what is the matter.
    pub problem: Problem,
}

/// Everything that the families look at.
struct Subject {
    documents: Documents,
    /// The documents, with a stand-in for every service that is named and not there.
    model: Model,
    sight: Sight,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, key: &ResourceKey, path: FieldPath, message: impl Into<String>) {
        let finding = Finding { key: key.clone(), problem: Problem { path, message: message.into() } };
        if self.0.len() < MOST_FINDINGS && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }
}

/// Finds what is most likely not meant, ordered by document.
pub fn lint(documents: &Documents, sight: Sight) -> Vec<Finding> {
    let mut model = Model::default();
    model.replace(Arc::new(reference::with_stand_ins(documents)));
    let subject = Subject { documents: documents.clone(), model, sight };
    let mut findings = Findings::default();
    shadow::look(&subject, &mut findings);
    timeout::look(&subject, &mut findings);
    retry::look(&subject, &mut findings);
    reference::look(&subject, &mut findings);
    policy::look(&subject, &mut findings);
    access::look(&subject, &mut findings);
    path::look(&subject, &mut findings);
    findings.0.sort_by(|a, b| a.key.cmp(&b.key));
    findings.0
}

/// Everything that is most likely not meant in a text's documents, by themselves and among each other.
pub fn warnings(parsed: &Parsed) -> Vec<DocumentProblem> {
    let mut documents = Documents::default();
    parsed.documents.iter().for_each(|document| documents.insert(document.resource.clone()));
    all_warnings(parsed, &lint(&documents, Sight::Set))
}

/// Everything that is most likely not meant in a text's documents once they are in a mesh of others. What is the
/// matter with the others alone is not told.
pub fn warnings_in(parsed: &Parsed, present: &Documents) -> Vec<DocumentProblem> {
    let mut documents = present.clone();
    parsed.documents.iter().for_each(|document| documents.insert(document.resource.clone()));
    all_warnings(parsed, &lint(&documents, Sight::Mesh))
}

fn all_warnings(parsed: &Parsed, findings: &[Finding]) -> Vec<DocumentProblem> {
    let own = parsed.documents.iter().flat_map(|document| document.warnings.iter().cloned());
    let found = parsed.placed(findings.iter().map(|finding| (&finding.key, &finding.problem)));
    own.chain(found).collect()
}

impl Subject {
    fn with_world<T>(&self, look: impl FnOnce(World<'_>) -> T) -> T {
        look(World { model: &self.model, registered: &HashMap::new() })
    }

    fn of_kind(&self, kind: Kind) -> Vec<Resource> {
        self.documents.of_kind(kind, None)
    }
}

/// The key of the document that a source names, `HTTPRoute shop/payments`.
fn key_of(document: &str) -> Option<ResourceKey> {
    let (kind, name) = document.split_once(' ')?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

fn spec() -> FieldPath {
    FieldPath::root().field("spec")
}

fn rule_path(index: usize) -> FieldPath {
    spec().field("rules").index(index)
}
