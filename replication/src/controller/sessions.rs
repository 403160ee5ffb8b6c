//! Which brokers are heard of: soft state of the active controller, which no log holds (KIP-631). A controller that takes
//! over knows nothing of what its predecessor heard, so it begins with a full session for everybody.
//!
//! Calling contract. The controller says [`Sessions::contact`] when a registration or a heartbeat was answered without an
//! error. When [`Sessions::expired`] names a broker it decides to fence it, and says so by [`Sessions::fenced`], or by
//! [`Sessions::ended`] if the broker was fenced or gone already. Times are those of one process's clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::record::Broker;

/// A broker that is fenced more often than this within [`FENCINGS_WINDOW`] stays fenced for [`FENCED_LONGER`]: each fencing
/// and unfencing elects leaders of all its partitions.
pub const FENCINGS_MAX: usize = 3;
/// How long a fencing counts.
pub const FENCINGS_WINDOW: Duration = Duration::from_secs(60);
/// How much longer a broker stays fenced that was fenced too often.
pub const FENCED_LONGER: Duration = Duration::from_secs(5);

/// Quarters of a session that a broker has its lease for. It counts from when the heartbeat was sent, the session from when it came,
/// or from when another controller took over later: the last quarter is for clocks that differ.
const LEASE_QUARTERS: u32 = 3;

/// The sessions of all brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    timeout: Duration,
    by_node: BTreeMap<i32, Known>,
}

/// What is remembered of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    session: Option<Session>,
    /// When it was fenced lately: at most one more than [`FENCINGS_MAX`].
    fencings: VecDeque<Duration>,
    /// It stays fenced until then.
    fenced_until: Duration,
}

/// A broker that is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    epoch: i64,
    heard: Duration,
}

impl Sessions {
    /// Those of a controller that takes over: every broker that is not fenced has `timeout` from now on to be heard of.
    pub fn new<'a>(now: Duration, timeout: Duration, brokers: impl IntoIterator<Item = &'a Broker>) -> Sessions {
        let mut sessions = Sessions { timeout, by_node: BTreeMap::new() };
        for broker in brokers.into_iter().filter(|broker| !broker.is_fenced) {
            sessions.contact(now, broker.node_id, broker.epoch);
        }
        sessions
    }

    /// A broker is heard of: its session begins, or lasts longer. What comes late from a process before is passed over.
    pub fn contact(&mut self, now: Duration, node_id: i32, epoch: i64) {
        let session = &mut self.by_node.entry(node_id).or_default().session;
        match session {
            Some(session) if session.epoch > epoch => {}
            Some(session) if session.epoch == epoch => session.heard = session.heard.max(now),
            _ => *session = Some(Session { epoch, heard: now }),
        }
    }

    /// How long a broker has its lease that is heard of, in milliseconds.
    pub fn lease_ms(&self) -> u32 {
        (self.timeout * LEASE_QUARTERS / 4).as_millis().try_into().unwrap_or(u32::MAX)
    }

    /// Whether the broker has been heard of lately.
    pub fn is_alive(&self, now: Duration, node_id: i32) -> bool {
        let session = self.by_node.get(&node_id).and_then(|known| known.session);
        session.is_some_and(|session| now < session.heard + self.timeout)
    }

    /// The broker whose session has ended, with its epoch; of several the one that has been silent for longest: they are
    /// fenced one after the other, as who is fenced later may be heard of meanwhile (KAFKA-13173).
    pub fn expired(&self, now: Duration) -> Option<(i32, i64)> {
        let (heard, node_id, epoch) = self.longest_silent()?;
        (now >= heard + self.timeout).then_some((node_id, epoch))
    }

    /// When [`Sessions::expired`] will name a broker, unless it is heard of.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.longest_silent().map(|(heard, ..)| heard + self.timeout)
    }

    fn longest_silent(&self) -> Option<(Duration, i32, i64)> {
        let sessions = self.by_node.iter().filter_map(|(node_id, known)| Some((*node_id, known.session?)));
        sessions.map(|(node_id, session)| (session.heard, node_id, session.epoch)).min()
    }

    /// The controller has fenced the broker, for whatever reason: its session is over.
    pub fn fenced(&mut self, now: Duration, node_id: i32) {
        let known = self.by_node.entry(node_id).or_default();
        known.session = None;
        known.forget_old_fencings(now);
        known.fencings.push_back(now);
        if known.fencings.len() > FENCINGS_MAX {
            known.fenced_until = now + FENCED_LONGER;
            known.fencings.pop_front();
        }
    }

    /// The broker's session is over, and it was fenced before, or is registered no more.
    pub fn ended(&mut self, now: Duration, node_id: i32) {
        if let Some(known) = self.by_node.get_mut(&node_id) {
            known.session = None;
            known.forget_old_fencings(now);
            if known.fencings.is_empty() {
                self.by_node.remove(&node_id);
            }
        }
    }

    /// Whether the broker may be unfenced: it has not been fenced too often lately.
    pub fn may_unfence(&self, now: Duration, node_id: i32) -> bool {
        self.by_node.get(&node_id).is_none_or(|known| now >= known.fenced_until)
    }
}

impl Known {
    fn forget_old_fencings(&mut self, now: Duration) {
        while self.fencings.front().is_some_and(|fenced| *fenced + FENCINGS_WINDOW <= now) {
            self.fencings.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = ms(3_000);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Three brokers of which the third is fenced; a controller takes over after a second.
    fn sessions() -> Sessions {
        let brokers = [(1, false), (2, false), (3, true)].map(|(node_id, is_fenced)| Broker {
            node_id,
            epoch: 10,
            is_fenced,
            ..Broker::default()
        });
        Sessions::new(ms(1_000), TIMEOUT, &brokers)
    }

    #[test]
    fn everybody_has_a_full_session_when_a_controller_takes_over() {
        let sessions = sessions();
        assert_eq!([1, 2, 3, 4].map(|node| sessions.is_alive(ms(3_999), node)), [true, true, false, false]);
        assert_eq!(sessions.next_deadline(), Some(ms(4_000)));
        assert_eq!(sessions.expired(ms(3_999)), None);
        assert_eq!(sessions.expired(ms(4_000)), Some((1, 10)));
        assert!(!sessions.is_alive(ms(4_000), 1));
        assert_eq!(Sessions::default().next_deadline(), None);
    }

    #[test]
    fn the_longest_silent_goes_first_and_each_by_itself() {
        let mut sessions = sessions();
        sessions.contact(ms(2_000), 1, 10);
        sessions.contact(ms(2_500), 3, 11);
        assert_eq!(sessions.expired(ms(9_000)), Some((2, 10)));
        assert_eq!(sessions.expired(ms(9_000)), Some((2, 10)), "until it is fenced");
        sessions.fenced(ms(9_000), 2);
        // The next one is heard of just in time.
        sessions.contact(ms(9_000), 1, 10);
        assert_eq!(sessions.expired(ms(9_000)), Some((3, 11)));
        sessions.ended(ms(9_000), 3);
        assert_eq!((sessions.expired(ms(9_000)), sessions.next_deadline()), (None, Some(ms(12_000))));
        assert!(sessions.is_alive(ms(9_000), 1));
    }

    #[test]
    fn a_late_word_of_a_process_that_is_gone_keeps_nobody_alive() {
        let mut sessions = sessions();
        sessions.contact(ms(2_000), 1, 12);
        sessions.contact(ms(3_000), 1, 10);
        assert_eq!(sessions.next_deadline(), Some(ms(4_000)), "that of broker 2");
        sessions.contact(ms(4_500), 2, 10);
        assert_eq!(sessions.expired(ms(5_000)), Some((1, 12)));
        // Time that seems to go back shortens no session.
        sessions.contact(ms(4_000), 2, 10);
        sessions.fenced(ms(5_000), 1);
        assert_eq!(sessions.next_deadline(), Some(ms(7_500)));
    }

    #[test]
    fn who_is_fenced_too_often_stays_fenced_for_longer() {
        let mut sessions = sessions();
        let at = |n: u64| ms(n * 10_000);
        for n in 1..=FENCINGS_MAX as u64 {
            sessions.contact(at(n), 1, 10);
            sessions.fenced(at(n), 1);
            assert!(sessions.may_unfence(at(n), 1));
        }
        sessions.fenced(at(4), 1);
        assert!(!sessions.may_unfence(at(4) + FENCED_LONGER - ms(1), 1));
        assert!(sessions.may_unfence(at(4) + FENCED_LONGER, 1));
        assert!(sessions.may_unfence(at(4), 2));
        // A session that ends meanwhile forgets nothing.
        sessions.ended(at(5), 1);
        sessions.fenced(at(5), 1);
        assert!(!sessions.may_unfence(at(5), 1));
        // What was a minute ago counts no more.
        sessions.fenced(at(5) + FENCINGS_WINDOW, 1);
        assert!(sessions.may_unfence(at(5) + FENCINGS_WINDOW, 1));
        sessions.ended(at(5) + FENCINGS_WINDOW * 2, 1);
        assert_eq!(sessions.by_node.get(&1), None, "nothing is kept of it");
    }
}
