//! The deadlines of requests, in one ordered structure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::shard::event::RequestId;

/// What a request with a deadline is: whom it is to be answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For owners to commit what it appended.
    Produce,
    /// For more to be committed.
    Fetch,
    /// For the answers of owners.
    Offsets,
}

/// Deadlines, in [`millstream_storage::Now::elapsed`]'s time; at most one for each request.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: BTreeMap<(Duration, RequestId), Waits>,
}

impl Timers {
    /// Sets a request's deadline. Whoever sets one remembers it to clear it.
    pub fn set(&mut self, at: Duration, request: RequestId, waits: Waits) {
        let previous = self.deadlines.insert((at, request), waits);
        assert!(previous.is_none(), "a request has one deadline");
    }

    /// Forgets a deadline; one that has passed already is no error.
    pub fn clear(&mut self, at: Duration, request: RequestId) {
        self.deadlines.remove(&(at, request));
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Duration> {
        self.deadlines.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes one request whose deadline has come.
    pub fn take_due(&mut self, now: Duration) -> Option<(RequestId, Waits)> {
        let first = self.deadlines.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, request), waits) = first.remove_entry();
        Some((request, waits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::event::ConnectionId;

    #[test]
    fn deadlines_come_in_order_and_not_before_their_time() {
        let request = |sequence| RequestId { connection: ConnectionId(0), sequence };
        let at = Duration::from_millis;
        let mut timers = Timers::default();
        timers.set(at(30), request(0), Waits::Fetch);
        timers.set(at(10), request(1), Waits::Produce);
        timers.set(at(20), request(2), Waits::Produce);
        timers.clear(at(10), request(1));
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.take_due(at(19)), None);
        assert_eq!(timers.take_due(at(30)), Some((request(2), Waits::Produce)));
        assert_eq!(timers.take_due(at(30)), Some((request(0), Waits::Fetch)));
        assert_eq!(timers.take_due(at(30)), None);
        assert_eq!(timers.next(), None);
    }
}
