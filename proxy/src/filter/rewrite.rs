//! Another name for what is asked for, on the way to the backend (Gateway API `HTTPURLRewriteFilter`).

use http::Uri;
use http::uri::Authority;

use super::path::PathChange;

/// What the backend is told in place of what the caller asked; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// In place of the Host field or the authority, whose port goes with it.
    pub host: Option<Authority>,
    /// Another path.
    pub path: Option<PathChange>,
}

impl Rewrite {
    /// Changes a request's target. `None`: the path would be longer than any may be.
    pub fn apply(&self, uri: &mut Uri, authority: &mut Authority) -> Option<()> {
        if let Some(host) = &self.host {
            authority.clone_from(host);
        }
        let Some(change) = &self.path else { return Some(()) };
        let mut parts = uri.clone().into_parts();
        // CONNECT has no path to change.
        parts.path_and_query = match parts.path_and_query {
            Some(_) => Some(change.apply(uri)?),
            None => return Some(()),
        };
        *uri = Uri::from_parts(parts).ok()?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rewrite: &Rewrite, uri: &str) -> (String, String) {
        let (mut uri, mut authority) = (uri.parse().unwrap(), Authority::from_static("pay:8080"));
        rewrite.apply(&mut uri, &mut authority).unwrap();
        (uri.to_string(), authority.to_string())
    }

    #[test]
    fn host_and_path_change_each_for_itself() {
        let host = Some(Authority::from_static("one.example.org"));
        let path = PathChange::prefix("/foo", "/xyz").ok();
        let both = Rewrite { host: host.clone(), path: path.clone() };
        assert_eq!(rewritten(&both, "/foo/a?q"), ("/xyz/a?q".into(), "one.example.org".into()));
        let only_host = Rewrite { host, path: None };
        assert_eq!(rewritten(&only_host, "/foo/a?q"), ("/foo/a?q".into(), "one.example.org".into()));
        let only_path = Rewrite { host: None, path };
        assert_eq!(rewritten(&only_path, "/foo"), ("/xyz".into(), "pay:8080".into()));
        let absolute = rewritten(&only_path, "http://pay:8080/foo/a");
        assert_eq!(absolute, ("http://pay:8080/xyz/a".into(), "pay:8080".into()));
    }
}
