//! Which of many matches a path can fall under at all.
//!
//! Trying one match after the other is fastest while there are few, and a service may have hundreds: a route for
//! each of its resources, from many teams. Then the matches are looked up by path: those of exactly this path,
//! those of each prefix that ends at one of its slashes, and those that only an expression can decide. Where many have
//! one path, they are told apart by a field or the host ([`crowd`]). What the rest of a match says is asked of these alone,
//! and the first of them in the order of precedence is the answer, as if all had been tried.

mod crowd;

use std::collections::HashMap;

use http::request;

use super::{PathMatch, RouteMatch};
use crowd::Crowd;

/// Up to so many matches are tried one after the other.
const FEW: usize = 16;

/// Positions in the list of matches. In `exact` and `prefix` they are sorted by text, those of one text in the order
/// of precedence, so that the list itself is what is searched and no text is kept twice.
#[derive(Debug)]
pub(super) struct PathIndex {
    exact: Box<[u32]>,
    prefix: Box<[u32]>,
    other: Box<[u32]>,
    /// Many of one text, by the first of them in `exact` or `prefix`.
    crowds: HashMap<u32, Crowd>,
    /// Bytes of the longest prefix: no boundary beyond needs to be looked at, however long the path is.
    longest_prefix: usize,
}

impl PathIndex {
    /// `None`: there are so few matches that trying them is faster.
    pub(super) fn of(matches: &[RouteMatch]) -> Option<Self> {
        if matches.len() <= FEW {
            return None;
        }
        let positions = 0..u32::try_from(matches.len()).ok()?;
        let (mut exact, mut prefix, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for (position, candidate) in positions.zip(matches) {
            match &candidate.path {
                PathMatch::Exact(_) => exact.push(position),
                PathMatch::Prefix(_) => prefix.push(position),
                PathMatch::Regex(_) => other.push(position),
            }
        }
        // Stable, so that what has the same text keeps its order.
        exact.sort_by_key(|&position| text(matches, position));
        prefix.sort_by_key(|&position| text(matches, position));
        let longest_prefix = prefix.iter().map(|&position| text(matches, position).len()).max().unwrap_or(0);
        let mut crowds = HashMap::new();
        for sorted in [&exact, &prefix] {
            for same in sorted.chunk_by(|a, b| text(matches, *a) == text(matches, *b)) {
                crowds.extend(Crowd::of(matches, same).map(|crowd| (same[0], crowd)));
            }
        }
        Some(Self { exact: exact.into(), prefix: prefix.into(), other: other.into(), crowds, longest_prefix })
    }

    /// The first of `matches`, which must be those that the index was made of, that has the request's path and `holds`.
    pub(super) fn first(
        &self,
        matches: &[RouteMatch],
        head: &request::Parts,
        mut holds: impl FnMut(&RouteMatch) -> bool,
    ) -> Option<usize> {
        let path = head.uri.path();
        let mut best = None;
        let mut consider = |positions: &[u32], is_meant: &dyn Fn(&RouteMatch) -> bool| {
            for &position in positions {
                if best.is_some_and(|best| best <= position) {
                    return;
                }
                let Some(candidate) = matches.get(position as usize).filter(|one| is_meant(one)) else {
                    return;
                };
                if holds(candidate) {
                    best = Some(position);
                    return;
                }
            }
        };
        let mut consider_all_of = |sorted: &[u32], wanted: &[u8]| {
            let positions = from(sorted, matches, wanted);
            let crowd = if self.crowds.is_empty() { None } else { self.crowd(matches, positions, wanted) };
            match crowd {
                None => consider(positions, &|one| one.path.text() == wanted),
                Some(crowd) => crowd.meant(head).into_iter().for_each(|those| consider(those, &|_| true)),
            }
        };
        consider_all_of(&self.exact, path.as_bytes());
        // The longest prefix first: it is the one that decides, mostly, and then the others are not even asked.
        let mut end = path.len();
        loop {
            if end <= self.longest_prefix {
                consider_all_of(&self.prefix, &path.as_bytes()[..end]);
            }
            let before = &path.as_bytes()[..end.min(self.longest_prefix + 1)];
            match before.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => end = slash,
                None if end == 0 => break,
                None => end = 0, // "/" also covers what has no slash: the `*` of OPTIONS
            }
        }
        consider(&self.other, &|_| true);
        best.map(|position| position as usize)
    }

    /// The crowd of the matches of this text, where `positions` begins with them and they are one.
    fn crowd(&self, matches: &[RouteMatch], positions: &[u32], wanted: &[u8]) -> Option<&Crowd> {
        let first = positions.first().filter(|&&first| text(matches, first) == wanted)?;
        self.crowds.get(first)
    }
}

/// The positions from the first on whose text is not before this one.
fn from<'a>(sorted: &'a [u32], matches: &[RouteMatch], wanted: &[u8]) -> &'a [u32] {
    let start = sorted.partition_point(|&position| text(matches, position) < wanted);
    sorted.get(start..).unwrap_or_default()
}

fn text(matches: &[RouteMatch], position: u32) -> &[u8] {
    matches.get(position as usize).map_or(&[], |candidate| candidate.path.text())
}

impl PathMatch {
    /// What the index sorts by.
    fn text(&self) -> &[u8] {
        match self {
            Self::Exact(text) => text.as_bytes(),
            Self::Prefix(prefix) => prefix.0.as_bytes(),
            Self::Regex(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests;
