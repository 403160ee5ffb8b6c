//! The deadlines of a coordinator: at most one for each key, in the order in which they fall due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What falls due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// The members of a group had time enough to rejoin.
    Rebalance(Arc<str>),
    /// The members of a group had time enough to ask for their assignments.
    Sync(Arc<str>),
    /// The session of a member of a group: no heartbeat came in time.
    Session(Arc<str>, Arc<str>),
}

/// Deadlines by key. As many as there are groups and members, twice.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeSet<(Duration, TimerKey)>,
    due: BTreeMap<TimerKey, Duration>,
}

impl Timers {
    /// Sets the deadline of a key, replacing an earlier one.
    pub fn schedule(&mut self, key: TimerKey, at: Duration) {
        if let Some(previous) = self.due.insert(key.clone(), at) {
            if previous == at {
                return;
            }
            self.queue.remove(&(previous, key.clone()));
        }
        self.queue.insert((at, key));
    }

    /// Forgets the deadline of a key, if it has one.
    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the earliest key that is due.
    pub fn pop_due(&mut self, elapsed: Duration) -> Option<TimerKey> {
        if self.next()? > elapsed {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(member: &str) -> TimerKey {
        TimerKey::Session("g".into(), member.into())
    }

    #[test]
    fn a_key_has_one_deadline_and_falls_due_in_order() {
        let mut timers = Timers::default();
        timers.schedule(session("a"), Duration::from_secs(5));
        timers.schedule(session("b"), Duration::from_secs(3));
        timers.schedule(session("a"), Duration::from_secs(2));
        timers.schedule(session("c"), Duration::from_secs(1));
        timers.cancel(&session("c"));
        assert_eq!(timers.next(), Some(Duration::from_secs(2)));
        assert_eq!(timers.pop_due(Duration::from_secs(1)), None);
        assert_eq!(timers.pop_due(Duration::from_secs(9)), Some(session("a")));
        assert_eq!(timers.pop_due(Duration::from_secs(9)), Some(session("b")));
        assert_eq!(timers.pop_due(Duration::from_secs(9)), None);
        assert_eq!(timers.next(), None);
    }
}
