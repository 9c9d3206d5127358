//! Many matches of one path, which differ in what a field or the host must be: a rule for each tenant, or at a gateway
//! for each host.
//!
//! They are looked up by that value. Whatever asks for no value of it, or for one by an expression, is tried beside those
//! of the request's own value, so that the order of precedence is kept as if all had been tried.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use http::{HeaderName, request};

use super::FEW;
use crate::gateway::HostPattern;
use crate::route::{RouteMatch, ValueMatch, host, joined};

/// What tells the matches apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Aspect {
    Field(HeaderName),
    Host,
}

/// Positions in the list of matches, in each list in the order of precedence.
#[derive(Debug)]
pub(super) struct Crowd {
    aspect: Aspect,
    by_value: HashMap<Box<[u8]>, Vec<u32>>,
    rest: Vec<u32>,
}

impl Crowd {
    /// `None`: there are few, or nothing tells them apart.
    pub(super) fn of(matches: &[RouteMatch], positions: &[u32]) -> Option<Self> {
        if positions.len() <= FEW {
            return None;
        }
        let all =
            || positions.iter().filter_map(|&position| Some((position, matches.get(position as usize)?)));
        let mut values: HashMap<Aspect, HashSet<&[u8]>> = HashMap::new();
        for (_, one) in all() {
            let fields = one.headers.iter().map(|header| Aspect::Field(header.name.clone()));
            for aspect in fields.chain([Aspect::Host]) {
                let asked = aspect.asked(one);
                if !asked.is_empty() {
                    values.entry(aspect).or_default().extend(asked);
                }
            }
        }
        let (aspect, _) = values.into_iter().max_by_key(|(_, values)| values.len())?;
        let mut crowd = Self { aspect, by_value: HashMap::new(), rest: Vec::new() };
        for (position, one) in all() {
            let asked = crowd.aspect.asked(one);
            if asked.is_empty() {
                crowd.rest.push(position);
            }
            for value in asked {
                let those = crowd.by_value.entry(value.into()).or_default();
                if those.last() != Some(&position) {
                    those.push(position);
                }
            }
        }
        Some(crowd)
    }

    /// Those that can hold for a request: of its own value, and of any.
    pub(super) fn meant(&self, head: &request::Parts) -> [&[u32]; 2] {
        let value = self.aspect.value(head);
        let own = value.and_then(|value| self.by_value.get(&*value));
        [own.map_or(&[], Vec::as_slice), &self.rest]
    }
}

impl Aspect {
    /// The values of which a request must have one for the match to hold. None: it may have any.
    fn asked<'m>(&self, one: &'m RouteMatch) -> Vec<&'m [u8]> {
        match self {
            Self::Field(name) => {
                let exact = one.headers.iter().find_map(|header| match &header.value {
                    ValueMatch::Exact(text) if header.name == *name => Some(text.as_bytes()),
                    _ => None,
                });
                exact.into_iter().collect()
            }
            Self::Host => {
                let exact = one.hosts.iter().map(|host| match host {
                    HostPattern::Exact(text) => Some(text.as_bytes()),
                    HostPattern::Under(_) => None,
                });
                exact.collect::<Option<_>>().unwrap_or_default()
            }
        }
    }

    /// The value that a request has.
    fn value<'r>(&self, head: &'r request::Parts) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Field(name) => joined(name, head),
            Self::Host => {
                let host = host(head)?;
                let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
                Some(match host.iter().any(u8::is_ascii_uppercase) {
                    true => host.to_ascii_lowercase().into(),
                    false => host.into(),
                })
            }
        }
    }
}
