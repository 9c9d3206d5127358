//! What is asked for.

use http::{HeaderMap, HeaderName, Method};

use super::text::Text;
use super::{Effect, RequestFacts};
use crate::route::PathMatch;

/// Requests: every list that is not empty must hold. Of bytes that nobody reads none of it is known.
#[derive(Debug, Default)]
pub struct Operation {
    /// Any of these methods.
    pub methods: Vec<Method>,
    /// Any of these hosts.
    pub hosts: Vec<Host>,
    /// Any of these paths.
    pub paths: Vec<PathMatch>,
    /// All of these conditions on fields.
    pub headers: Vec<FieldCondition>,
    /// None of these methods.
    pub not_methods: Vec<Method>,
    /// None of these paths.
    pub not_paths: Vec<PathMatch>,
}

/// A host, or what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// This one.
    Exact(Box<str>),
    /// Everything that ends so, the dot included.
    Below(Box<str>),
}

/// A condition on the fields of one name.
///
/// To allow, every value that came must be right, for nobody knows which one the application takes. To deny one is
/// enough, a single element of a list included, and a name that differs by `_` for `-` alone is meant as well: some
/// applications cannot tell the two apart.
#[derive(Debug)]
pub struct FieldCondition {
    /// Whose values.
    pub name: HeaderName,
    /// Any of these; none: that there is a field is enough.
    pub values: Vec<Text>,
}

impl Host {
    /// `NAME`, or `*.NAME` for everything below it.
    pub fn new(pattern: &str) -> Self {
        match pattern.strip_prefix('*') {
            Some(below) => Self::Below(below.into()),
            None => Self::Exact(pattern.into()),
        }
    }

    fn is(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => &**exact == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }
}

impl Operation {
    pub(super) fn holds(&self, request: Option<RequestFacts<'_>>, effect: Effect) -> bool {
        let Some(request) = request else { return self.is_everything() || effect.of_unknown() };
        // Some applications do not mind the case: what would refuse does not either.
        let is = |method: &Method, refuses: bool| {
            method == request.method
                || refuses && method.as_str().eq_ignore_ascii_case(request.method.as_str())
        };
        let denies = effect == Effect::Deny;
        // Some applications take `/a;x=1/b` for `/a/b`: what would refuse does, too.
        let on = |paths: &[PathMatch], refuses: bool| {
            paths.iter().any(|path| path.holds(request.path))
                || refuses
                    && request.path.contains(';')
                    && paths.iter().any(|path| path.holds(&without_parameters(request.path)))
        };
        (self.methods.is_empty() || self.methods.iter().any(|method| is(method, denies)))
            && (self.hosts.is_empty() || self.hosts.iter().any(|host| host.is(request.host)))
            && (self.paths.is_empty() || on(&self.paths, denies))
            && !self.not_methods.iter().any(|method| is(method, !denies))
            && !on(&self.not_paths, !denies)
            && self.headers.iter().all(|condition| match request.fields {
                Some(fields) => condition.holds(fields.headers, effect),
                None => effect.of_unknown(),
            })
    }

    fn is_everything(&self) -> bool {
        self.methods.is_empty()
            && self.hosts.is_empty()
            && self.paths.is_empty()
            && self.headers.is_empty()
            && self.not_methods.is_empty()
            && self.not_paths.is_empty()
    }
}

impl FieldCondition {
    fn holds(&self, fields: &HeaderMap, effect: Effect) -> bool {
        let right =
            |value: &[u8]| self.values.is_empty() || self.values.iter().any(|text| text.is(value, effect));
        match effect {
            Effect::Allow => {
                let mut values = fields.get_all(&self.name).iter().peekable();
                values.peek().is_some() && values.all(|value| right(value.as_bytes()))
            }
            Effect::Deny => {
                fields.iter().filter(|(name, _)| is_spelled(name, &self.name)).any(|(_, value)| {
                    let value = value.as_bytes();
                    right(value)
                        || value.split(|byte| *byte == b',').any(|element| right(element.trim_ascii()))
                })
            }
        }
    }
}

/// The path without what follows a semicolon in each of its segments (RFC 3986 section 3.3). A segment that is nothing
/// but a parameter goes entirely: those who drop parameters merge the slashes on both sides of it.
fn without_parameters(path: &str) -> String {
    let bare = path.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name));
    let mut text = String::with_capacity(path.len());
    for segment in bare.filter(|segment| !segment.is_empty()) {
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() || path.ends_with('/') {
        text.push('/');
    }
    text
}

/// Whether `name` is `meant`, but for underscores.
pub(crate) fn is_spelled(name: &HeaderName, meant: &HeaderName) -> bool {
    let (name, meant) = (name.as_str().as_bytes(), meant.as_str().as_bytes());
    let same = |(a, b): (&u8, &u8)| a == b || matches!((a, b), (b'_', b'-') | (b'-', b'_'));
    name.len() == meant.len() && name.iter().zip(meant).all(same)
}
