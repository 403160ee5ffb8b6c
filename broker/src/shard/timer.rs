//! The deadlines of requests, in one ordered structure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::session::RequestId;

/// Deadlines, in [`millstream_storage::Now::elapsed`]'s time; at most one for each request.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: BTreeSet<(Duration, RequestId)>,
}

impl Timers {
    /// Sets a request's deadline. Whoever sets one remembers it to clear it.
    pub fn set(&mut self, at: Duration, request: RequestId) {
        let new = self.deadlines.insert((at, request));
        assert!(new, "a request has one deadline");
    }

    /// Forgets a deadline; one that has passed already is no error.
    pub fn clear(&mut self, at: Duration, request: RequestId) {
        self.deadlines.remove(&(at, request));
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Takes one request whose deadline has come.
    pub fn take_due(&mut self, now: Duration) -> Option<RequestId> {
        let &(at, request) = self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnectionId;
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_not_before_their_time() {
        let request = |sequence| RequestId { connection: ConnectionId(0), sequence };
        let at = Duration::from_millis;
        let mut timers = Timers::default();
        timers.set(at(30), request(0));
        timers.set(at(10), request(1));
        timers.set(at(20), request(2));
        timers.clear(at(10), request(1));
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.take_due(at(19)), None);
        assert_eq!(timers.take_due(at(30)), Some(request(2)));
        assert_eq!(timers.take_due(at(30)), Some(request(0)));
        assert_eq!(timers.take_due(at(30)), None);
        assert_eq!(timers.next(), None);
    }
}
