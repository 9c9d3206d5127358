//! How a command ends when it does not end well: what the person reads, and the exit status.
//!
//! 0 is success, 1 a check that failed or a request that was refused, 2 a command line that cannot be meant. A
//! reader that went away (`outrigger history | head`) is no failure at all.

use std::error::Error;
use std::process::ExitCode;

use crate::output;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command line cannot be meant. Exit status 2.
    Usage(String),
    /// Something was refused or went wrong. Exit status 1.
    Failed(Box<dyn Error + Send + Sync>),
    /// What is wrong has been said already. Exit status 1.
    Said,
    /// Whoever read the output went away. Exit status 0.
    ReaderGone,
    /// The status of a command that ran under this one.
    Status(u8),
    /// The status of a part that reports by itself.
    Exit(ExitCode),
}

impl Stop {
    /// A failure told in one sentence: what, where, and what to do.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into().into())
    }

    /// Tells the person and turns into the exit status.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                output::error(&text);
                ExitCode::from(2)
            }
            Self::Failed(error) => {
                output::error(&chain(error.as_ref()));
                ExitCode::from(1)
            }
            Self::Said => ExitCode::from(1),
            Self::ReaderGone => ExitCode::SUCCESS,
            Self::Status(status) => ExitCode::from(status),
            Self::Exit(status) => status,
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// The error and its causes in one line; a cause that the line before already ends with is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read a.yaml")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no such thing: {0}")]
    struct Repeats(#[source] std::io::Error);

    fn inner() -> std::io::Error {
        std::io::Error::other("the disk is gone")
    }

    #[test]
    fn causes_are_told_once() {
        assert_eq!(chain(&Outer(inner())), "cannot read a.yaml: the disk is gone");
        assert_eq!(chain(&Repeats(inner())), "no such thing: the disk is gone");
    }
}
