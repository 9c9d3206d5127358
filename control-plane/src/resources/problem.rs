//! Problems of documents: what is wrong, at which field, in which document, on which line.
//!
//! Reading a document collects problems instead of stopping at the first, so that a user mends a file once.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many problems of one document are listed; what is beyond only repeats the lesson.
const MOST_PROBLEMS: usize = 100;

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A field of an object.
    Field(String),
    /// An element of a list.
    Index(usize),
}

/// Where in a document something is: `spec.rules[0].backendRefs[1].port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The document itself.
    pub(crate) fn root() -> Self {
        Self::default()
    }

    /// A field of the object here.
    pub(crate) fn field(&self, name: &str) -> Self {
        self.then(Step::Field(name.to_owned()))
    }

    /// An element of the list here.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// The path of what `inner` is in the document here.
    pub(crate) fn join(&self, inner: &Self) -> Self {
        Self(self.0.iter().chain(&inner.0).cloned().collect())
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                // The key of a label or an annotation may hold dots and slashes; quoting keeps the path readable.
                Step::Field(name)
                    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
                {
                    write!(f, "[{name:?}]")?;
                }
                Step::Field(name) if position == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// One thing that is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(crate) path: FieldPath,
    pub(crate) message: String,
}

impl Problem {
    /// The field, as `spec.rules[0].backendRefs[1].port`; empty for the document as a whole.
    pub fn field(&self) -> String {
        self.path.to_string()
    }

    /// What is wrong, in the form "must be ...".
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// A problem and the document that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DocumentProblem {
    /// Which document of the request, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    /// The line of the field, counted from 1, where it could be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The document's kind and name, as far as they could be read: `HTTPRoute shop/web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The field, as `spec.rules[0].backendRefs[1].port`; empty for the document as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DocumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = self.document {
            write!(f, "document {document}")?;
            let mut open = " (";
            if let Some(resource) = &self.resource {
                write!(f, "{open}{resource}")?;
                open = ", ";
            }
            if let Some(line) = self.line {
                write!(f, "{open}line {line}")?;
                open = ", ";
            }
            f.write_str(if open == " (" { ": " } else { "): " })?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// The problems of one document, while it is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Problems {
    /// Reports what keeps the document from being accepted.
    pub(crate) fn error(&mut self, path: &FieldPath, message: impl Into<String>) {
        if self.errors.len() < MOST_PROBLEMS {
            self.errors.push(Problem { path: path.clone(), message: message.into() });
        }
    }

    /// Reports what is accepted, and most likely not what was meant.
    pub(crate) fn warning(&mut self, path: &FieldPath, message: impl Into<String>) {
        if self.warnings.len() < MOST_PROBLEMS {
            self.warnings.push(Problem { path: path.clone(), message: message.into() });
        }
    }

    /// Whether nothing keeps the document from being accepted so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// Takes over what was found elsewhere.
    pub(crate) fn append(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.errors.truncate(MOST_PROBLEMS);
        self.warnings.extend(other.warnings);
        self.warnings.truncate(MOST_PROBLEMS);
    }

    /// Errors, then warnings.
    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.errors, self.warnings)
    }

    /// Reads a tree as a type. The schema was checked before, so what fails here is what the schema cannot say.
    pub(crate) fn typed<T: DeserializeOwned>(&mut self, value: Value) -> Option<T> {
        match serde_path_to_error::deserialize(value) {
            Ok(typed) => Some(typed),
            Err(error) => {
                let path = FieldPath(error.path().iter().filter_map(step).collect());
                self.error(&path, error.inner().to_string());
                None
            }
        }
    }
}

fn step(segment: &serde_path_to_error::Segment) -> Option<Step> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
        serde_path_to_error::Segment::Map { key } => Some(Step::Field(key.clone())),
        serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_a_person_would_write_it() {
        let path = FieldPath::root()
            .field("spec")
            .field("rules")
            .index(0)
            .field("backendRefs")
            .index(1)
            .field("port");
        assert_eq!(path.to_string(), "spec.rules[0].backendRefs[1].port");
        let label = FieldPath::root().field("metadata").field("labels").field("app.kubernetes.io/name");
        assert_eq!(label.to_string(), r#"metadata.labels["app.kubernetes.io/name"]"#);
    }
}
