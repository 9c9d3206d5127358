//! Which rule a request falls under, and which of its backends it takes.
//!
//! The control plane sends the matches of a port's routes in order of precedence (Gateway API HTTPRoute), so that
//! finding a rule is: the first match that holds. Where there are many, `index` tells which of them the path leaves.
//! Nothing here allocates, except that a request which repeats a field has its values joined where an expression looks at
//! them or matches are looked up by them, and that a host which is not in lower case is folded where hosts are looked up.

mod index;
mod mismatch;

use std::borrow::Cow;
use std::fmt;

use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, request};
use rand::{Rng, RngExt};
use regex::{Regex, RegexBuilder};

use crate::gateway::HostPattern;
use crate::snapshot::{Backend, Rule};
use index::PathIndex;

pub use mismatch::Mismatch;

/// The routes of one service port.
#[derive(Debug, Default)]
pub struct RouteTable {
    matches: Vec<RouteMatch>,
    rules: Vec<Rule>,
    /// Of the matches, where they are many.
    index: Option<Box<PathIndex>>,
}

/// One condition that leads to a rule; all of its parts must hold.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// Index into the rules.
    pub rule: usize,
    /// The path.
    pub path: PathMatch,
    /// Fields, each of which must match.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, each of which must match.
    pub query: Vec<QueryMatch>,
    /// `None`: any.
    pub method: Option<Method>,
    /// The request is for one of these; none: for any.
    pub hosts: Vec<HostPattern>,
}

/// A condition on the path in its normal form, case-sensitive and without the query.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// Its first elements.
    Prefix(Prefix),
    /// The whole path matches an expression.
    Regex(Pattern),
}

impl fmt::Display for PathMatch {
    /// For people: `/exact`, `/prefix/*`, `~ expression`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{}/*", prefix.0),
            Self::Regex(pattern) => write!(f, "~ {}", pattern.as_str()),
        }
    }
}

/// A path prefix by element: `/abc` covers `/abc`, `/abc/` and `/abc/d`, and not `/abcd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(Box<str>);

/// A condition on one field.
#[derive(Debug, Clone)]
pub struct HeaderMatch {
    /// Compared without case. `host` stands for the authority, however the request carries it.
    pub name: HeaderName,
    /// Compared with the values of all fields of that name, joined (RFC 9110 §5.3).
    pub value: ValueMatch,
}

/// A condition on one query parameter.
#[derive(Debug, Clone)]
pub struct QueryMatch {
    /// Compared after percent-decoding, with case; the first parameter of that name counts.
    pub name: Box<str>,
    /// Compared after percent-decoding.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// The whole value.
    Exact(Box<str>),
    /// The whole value matches an expression.
    Regex(Pattern),
}

/// A regular expression that must match the whole text (RE2 syntax; no backtracking, so that no input is slow).
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("not a regular expression that can be used: {0}")]
pub struct PatternError(#[from] regex::Error);

impl Pattern {
    /// A compiled expression may take this many bytes.
    const SIZE_LIMIT: usize = 256 << 10;

    /// Compiles an expression.
    ///
    /// # Errors
    /// One that is malformed, or that takes too much memory when compiled.
    pub fn new(expression: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            RegexBuilder::new(text).size_limit(Self::SIZE_LIMIT).dfa_size_limit(Self::SIZE_LIMIT).build()
        };
        // Alone first: `a)|(b` is wrong, but would slip out of the group below.
        compile(expression)?;
        Ok(Self(compile(&format!(r"\A(?:{expression})\z"))?))
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The expression as it was written.
    fn as_str(&self) -> &str {
        let text = self.0.as_str();
        text.strip_prefix(r"\A(?:").and_then(|text| text.strip_suffix(r")\z")).unwrap_or(text)
    }
}

impl Prefix {
    /// A prefix; one final slash is ignored.
    pub fn new(path: &str) -> Self {
        Self(path.strip_suffix('/').unwrap_or(path).into())
    }

    fn covers(&self, path: &str) -> bool {
        // Everything falls under "/": also the empty path of CONNECT and the `*` of OPTIONS.
        self.0.is_empty()
            || path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl PathMatch {
    pub(crate) fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => prefix.covers(path),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

impl HeaderMatch {
    /// Whether the request meets it.
    pub(crate) fn holds(&self, head: &request::Parts) -> bool {
        match &self.value {
            ValueMatch::Exact(exact) => is_joined(exact.as_bytes(), &self.name, head),
            ValueMatch::Regex(pattern) => joined(&self.name, head)
                .is_some_and(|value| std::str::from_utf8(&value).is_ok_and(|text| pattern.matches(text))),
        }
    }
}

/// The values of all fields of a name.
fn values<'r>(name: &HeaderName, head: &'r request::Parts) -> impl Iterator<Item = &'r [u8]> + use<'r> {
    // HTTP/2 and absolute-form requests carry the host in the URI, which then counts (RFC 9112 §3.2.2).
    let authority = if *name == HOST { head.uri.authority() } else { None };
    let fields = authority.is_none().then(|| head.headers.get_all(name).iter().map(HeaderValue::as_bytes));
    authority.map(|authority| authority.as_str().as_bytes()).into_iter().chain(fields.into_iter().flatten())
}

/// What stands between the values of a name where they are joined.
fn separator(name: &HeaderName) -> &'static [u8] {
    if *name == COOKIE { b"; " } else { b", " }
}

/// Whether the values of a name, joined, are `text`.
fn is_joined(text: &[u8], name: &HeaderName, head: &request::Parts) -> bool {
    let mut values = values(name, head);
    let Some(mut text) = values.next().and_then(|first| text.strip_prefix(first)) else { return false };
    for value in values {
        match text.strip_prefix(separator(name)).and_then(|text| text.strip_prefix(value)) {
            Some(after) => text = after,
            None => return false,
        }
    }
    text.is_empty()
}

/// The values of a name, joined. `None`: there is none.
fn joined<'r>(name: &HeaderName, head: &'r request::Parts) -> Option<Cow<'r, [u8]>> {
    let mut values = values(name, head);
    let mut joined = Cow::Borrowed(values.next()?);
    for value in values {
        let all = joined.to_mut();
        all.extend_from_slice(separator(name));
        all.extend_from_slice(value);
    }
    Some(joined)
}

/// The host that a request is for, without the port.
fn host(head: &request::Parts) -> Option<&str> {
    // Both have been read as an authority before: the host ends where the port begins.
    let named = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    let text = head.uri.authority().map(Authority::as_str).or(named)?;
    Some(text.split_once(':').map_or(text, |(host, _)| host))
}

impl QueryMatch {
    fn holds(&self, query: &str) -> bool {
        let Some(value) = raw_query_value(query, &self.name) else { return false };
        match &self.value {
            ValueMatch::Exact(exact) => decoded(value).eq(exact.bytes()),
            ValueMatch::Regex(pattern) if value.contains(['%', '+']) => {
                String::from_utf8(decoded(value).collect()).is_ok_and(|text| pattern.matches(&text))
            }
            ValueMatch::Regex(pattern) => pattern.matches(value),
        }
    }
}

/// The value of the first parameter of a name, percent-decoded.
pub(crate) fn query_value<'a>(query: &'a str, name: &str) -> Option<impl Iterator<Item = u8> + use<'a>> {
    raw_query_value(query, name).map(decoded)
}

fn raw_query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(found, _)| decoded(found).eq(name.bytes())).map(|(_, value)| value)
}

/// The bytes of a query name or value: `+` is a space, `%XX` a byte, and anything else itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        })
    })
}

impl RouteMatch {
    /// Whether all parts hold for a request.
    pub(crate) fn holds(&self, head: &request::Parts) -> bool {
        self.method.as_ref().is_none_or(|method| *method == head.method)
            && self.path.holds(head.uri.path())
            && self.headers.iter().all(|header| header.holds(head))
            && self.query.iter().all(|query| query.holds(head.uri.query().unwrap_or("")))
            && (self.hosts.is_empty() || self.is_for_host(head))
    }

    fn is_for_host(&self, head: &request::Parts) -> bool {
        host(head).is_some_and(|host| self.hosts.iter().any(|pattern| pattern.covers(host)))
    }
}

impl RouteTable {
    /// Makes a table of matches, in order of precedence, and the rules that they lead to. A match whose rule is
    /// not there never holds.
    pub fn new(mut matches: Vec<RouteMatch>, rules: Vec<Rule>) -> Self {
        matches.retain(|candidate| candidate.rule < rules.len());
        let index = PathIndex::of(&matches).map(Box::new);
        Self { matches, rules, index }
    }

    /// The rule of the first match that holds. `None`: the request is to be refused.
    pub fn find(&self, head: &request::Parts) -> Option<&Rule> {
        self.rules.get(self.matches.get(self.position(head)?)?.rule)
    }

    /// Which of the matches is the first that holds.
    pub fn position(&self, head: &request::Parts) -> Option<usize> {
        match &self.index {
            None => self.matches.iter().position(|candidate| candidate.holds(head)),
            Some(index) => index.first(&self.matches, head, |candidate| candidate.holds(head)),
        }
    }

    /// All matches, in the order of precedence.
    pub fn matches(&self) -> &[RouteMatch] {
        &self.matches
    }

    /// All rules, for showing them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// All rules, before anybody uses them.
    pub(crate) fn rules_mut(&mut self) -> &mut [Rule] {
        &mut self.rules
    }
}

/// Chooses a backend by chance, each with the share weight / sum.
///
/// `None`: there is none, or all weights are 0; the request is to be answered with `invalid-backend`.
pub fn choose_backend<'a>(backends: &'a [Backend], rng: &mut impl Rng) -> Option<&'a Backend> {
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    match backends {
        _ if sum == 0 => None,
        [only] => Some(only),
        _ => {
            let mut ticket = rng.random_range(0..sum);
            backends.iter().find(|backend| {
                let weight = u64::from(backend.weight);
                let hit = ticket < weight;
                ticket = ticket.saturating_sub(weight);
                hit
            })
        }
    }
}

#[cfg(test)]
mod tests;
