//! Who waits for an answer from the control plane.
//!
//! A hundred requests to a service that is not known yet are one question. The table is bounded: beyond it a
//! worker is told at once that there is no answer, which costs less than making it wait for one.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::sync::oneshot;

use crate::directory::Answer;

/// Requests that wait, over all names.
const MAX_WAITING: usize = 4096;

/// Those who wait, by what they asked for.
#[derive(Debug)]
pub(super) struct Waiting<K> {
    by_key: HashMap<K, Vec<oneshot::Sender<Answer>>>,
    count: usize,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), count: 0 }
    }
}

impl<K: Eq + Hash + Clone> Waiting<K> {
    /// Lets one more wait. False: the table is full, and `reply` is dropped, which answers it.
    pub(super) fn add(&mut self, key: K, reply: oneshot::Sender<Answer>) -> bool {
        if self.count >= MAX_WAITING {
            self.forget_gone();
        }
        if self.count >= MAX_WAITING {
            return false;
        }
        self.by_key.entry(key).or_default().push(reply);
        self.count += 1;
        true
    }

    /// Whether somebody waits for `key`.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.by_key.contains_key(key)
    }

    /// What somebody waits for.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }

    /// Gives everybody the answer that `find` has for their key, if it has one.
    pub(super) fn answer(&mut self, find: impl Fn(&K) -> Option<Answer>) {
        let answered: Vec<(K, Answer)> =
            self.by_key.keys().filter_map(|key| Some((key.clone(), find(key)?))).collect();
        for (key, answer) in answered {
            for reply in self.by_key.remove(&key).unwrap_or_default() {
                self.count -= 1;
                // One that has stopped waiting needs no answer.
                let _ = reply.send(answer.clone());
            }
        }
    }

    /// Forgets those who have stopped waiting.
    pub(super) fn forget_gone(&mut self) {
        self.by_key.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.count = self.by_key.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Unresolved;

    #[tokio::test]
    async fn one_answer_reaches_all_who_asked_and_nobody_else() {
        let mut waiting = Waiting::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        let (other, mut other_answer) = oneshot::channel();
        assert!(waiting.add("a", first) && waiting.add("a", second) && waiting.add("b", other));
        waiting.answer(|key| (*key == "a").then_some(Err(Unresolved::Missing)));
        assert!(matches!(first_answer.try_recv(), Ok(Err(Unresolved::Missing))));
        assert!(matches!(second_answer.try_recv(), Ok(Err(Unresolved::Missing))));
        assert!(other_answer.try_recv().is_err());
        assert_eq!(waiting.count, 1);
    }

    #[tokio::test]
    async fn a_full_table_turns_away_until_somebody_leaves() {
        let mut waiting = Waiting::default();
        let mut answers = Vec::new();
        for _ in 0..MAX_WAITING {
            let (reply, answer) = oneshot::channel();
            assert!(waiting.add("a", reply));
            answers.push(answer);
        }
        let (reply, mut turned_away) = oneshot::channel();
        assert!(!waiting.add("b", reply));
        assert!(matches!(turned_away.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        answers.pop();
        assert!(waiting.add("b", oneshot::channel().0));
    }
}
