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
    /// A member of a consumer group had time enough to give partitions back, or of the classic protocol to join again or to
    /// ask for its assignment.
    Reconciliation(Arc<str>, Arc<str>),
    /// A consumer group may have become one of classic members only.
    Downgrade(Arc<str>),
    /// The next step of the search for topics that the regular expressions of a group match.
    Regexes(Arc<str>),
}

impl TimerKey {
    /// The group that it is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            TimerKey::Rebalance(group)
            | TimerKey::Sync(group)
            | TimerKey::Session(group, _)
            | TimerKey::Reconciliation(group, _)
            | TimerKey::Downgrade(group)
            | TimerKey::Regexes(group) => group,
        }
    }
}

/// Deadlines by key. As many as there are groups four times, and members twice.
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

    /// Sets the deadline of a key that has none.
    pub fn schedule_if_absent(&mut self, key: TimerKey, at: Duration) {
        if !self.is_scheduled(&key) {
            self.schedule(key, at);
        }
    }

    /// Whether a key has a deadline.
    pub fn is_scheduled(&self, key: &TimerKey) -> bool {
        self.due.contains_key(key)
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
