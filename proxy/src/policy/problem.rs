//! What is wrong with a message, and in which of its fields.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as in `service.ports[0].rules[2].filters[0]`.
    pub field: String,
    /// What.
    pub message: String,
}

/// Why a message cannot be used: everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Never empty; as many as are worth reading.
    pub problems: Vec<Problem>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { field, message }) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {message}")?;
        }
        Ok(())
    }
}

/// Where one is in a message; costs nothing until it is printed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'static str),
    Field(&'a Path<'a>, &'static str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    pub(super) fn field(&self, name: &'static str) -> Path<'_> {
        Path::Field(self, name)
    }

    pub(super) fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Collects problems while a message is read to its end.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// More are not reported: they travel back to the control plane in one message.
    pub(super) const MOST: usize = 20;

    pub(super) fn add(&mut self, path: &Path<'_>, message: impl Into<String>) {
        if self.0.len() < Self::MOST {
            self.0.push(Problem { field: path.to_string(), message: message.into() });
        }
    }

    /// The value, or the problem that it is absent.
    pub(super) fn present<T>(&mut self, value: Option<T>, path: &Path<'_>) -> Option<T> {
        if value.is_none() {
            self.add(path, "is absent");
        }
        value
    }

    /// The value, or its error as a problem.
    pub(super) fn ok<T, E: fmt::Display>(&mut self, value: Result<T, E>, path: &Path<'_>) -> Option<T> {
        value.map_err(|error| self.add(path, error.to_string())).ok()
    }

    /// The value, if nothing was wrong.
    pub(super) fn result<T>(mut self, value: Option<T>) -> Result<T, PolicyError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                // A value is absent only after a problem; should that ever be untrue, say at least that much.
                if self.0.is_empty() {
                    self.add(&Path::Root("message"), "cannot be read");
                }
                Err(PolicyError { problems: self.0 })
            }
        }
    }
}
