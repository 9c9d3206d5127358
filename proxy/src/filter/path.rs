//! What becomes of a request's path: another one altogether, or another beginning (Gateway API `HTTPPathModifier`).

use http::Uri;
use http::uri::PathAndQuery;

/// Another path for a request; its query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    /// Whatever it was.
    Full(Box<str>),
    /// The prefix that the rule matched becomes another.
    Prefix {
        /// What was matched, without a slash at its end.
        from: Box<str>,
        /// What it becomes, without a slash at its end.
        to: Box<str>,
    },
}

/// A text that is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path without a query")]
pub struct PathError(String);

impl PathChange {
    /// A change to `path`.
    ///
    /// # Errors
    /// What is not a path from the root, or has a query.
    pub fn full(path: &str) -> Result<Self, PathError> {
        checked(path).map(|path| Self::Full(path.into()))
    }

    /// A change of the first elements of a path from `from` to `to`. A slash at the end of either says nothing: the one
    /// that separates them from the rest belongs to the rest.
    ///
    /// # Errors
    /// As [`PathChange::full`], but that `to` may be empty.
    pub fn prefix(from: &str, to: &str) -> Result<Self, PathError> {
        let trimmed = |path: &str| -> Box<str> { path.strip_suffix('/').unwrap_or(path).into() };
        let to = if to.is_empty() { to } else { checked(to)? };
        Ok(Self::Prefix { from: trimmed(checked(from)?), to: trimmed(to) })
    }

    /// The path and query of `uri` after the change. `None`: it would be longer than any may be.
    pub fn apply(&self, uri: &Uri) -> Option<PathAndQuery> {
        let (start, rest) = match self {
            Self::Full(path) => (&**path, ""),
            // The rule matched, so that the prefix is there; but for `*` and CONNECT, which have no path to change.
            Self::Prefix { from, to } => match uri.path().strip_prefix(&**from) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => (&**to, rest),
                _ => ("", uri.path()),
            },
        };
        let root = if start.is_empty() && rest.is_empty() { "/" } else { "" };
        let (mark, query) = uri.query().map_or(("", ""), |query| ("?", query));
        [start, rest, root, mark, query].concat().try_into().ok()
    }
}

fn checked(path: &str) -> Result<&str, PathError> {
    let is_path = path.starts_with('/') && !path.contains(['?', '#']) && path.parse::<PathAndQuery>().is_ok();
    if is_path { Ok(path) } else { Err(PathError(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the Gateway API, and what it leaves open.
    #[test]
    fn a_prefix_is_replaced_by_element_wherever_the_slashes_are() {
        for (path, from, to, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/", "/foo/", "/xyz/", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/foo/bar?q=1&r=/foo", "/foo", "/xyz", "/xyz/bar?q=1&r=/foo"),
            ("/foo?q", "/foo", "", "/?q"),
            ("/foo//bar/", "/foo", "/xyz", "/xyz//bar/"),
        ] {
            let change = PathChange::prefix(from, to).unwrap();
            let changed = change.apply(&path.parse().unwrap()).unwrap();
            assert_eq!(changed.as_str(), expected, "{path}: {from} -> {to}");
        }
    }

    #[test]
    fn a_whole_path_is_replaced_and_the_query_stays() {
        let change = PathChange::full("/one").unwrap();
        for (path, expected) in [("/", "/one"), ("/foo/bar?a=b", "/one?a=b"), ("/?", "/one?")] {
            assert_eq!(change.apply(&path.parse().unwrap()).unwrap().as_str(), expected, "{path}");
        }
    }

    #[test]
    fn what_has_no_path_keeps_it() {
        let change = PathChange::prefix("/", "/xyz").unwrap();
        assert_eq!(change.apply(&Uri::from_static("*")).unwrap().as_str(), "*");
        assert_eq!(
            PathChange::prefix("/foo", "/x").unwrap().apply(&"/food".parse().unwrap()).unwrap(),
            "/food"
        );
    }

    #[test]
    fn what_is_not_a_path_is_refused() {
        for path in ["foo", "/a?b", "/a#b", "/a b", "", "/\n"] {
            assert!(PathChange::full(path).is_err(), "{path:?}");
            assert!(path.is_empty() || PathChange::prefix("/", path).is_err(), "{path:?}");
        }
    }
}
