//! What happened on a shard's own core since its last turn: events that its connections and its disk have brought.

use std::collections::VecDeque;
use std::time::Duration;

use crate::shard::Event;

/// An event, and when it happened if that is known better than by the turn that takes it.
#[derive(Debug)]
pub struct Happened {
    /// In the clock's time.
    pub at: Option<Duration>,
    /// As the shard is told of it.
    pub event: Event,
}

/// Events that may wait before connections are not read from any more.
const CROWDED_EVENTS: usize = 16 * 1024;

/// Events in the order they happened. Bounded by back-pressure: while it is crowded no connection is read from, and each
/// brings at most [`super::net::READ_TURN_BYTES_MAX`] between two turns.
#[derive(Debug, Default)]
pub struct Inbox {
    events: VecDeque<Happened>,
    /// Events that the turn has taken and not handled yet: it ends when its time is over.
    left: usize,
}

impl Inbox {
    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        self.events.push_back(Happened { at: None, event });
    }

    /// Adds an event that happened at this time.
    pub fn push_at(&mut self, at: Duration, event: Event) {
        self.events.push_back(Happened { at: Some(at), event });
    }

    /// Moves all events to the end of `into`.
    pub fn take(&mut self, into: &mut VecDeque<Happened>) {
        if into.is_empty() {
            std::mem::swap(&mut self.events, into);
        } else {
            into.append(&mut self.events);
        }
    }

    /// The turn has taken so many events that it has not handled.
    pub fn set_left(&mut self, left: usize) {
        self.left = left;
    }

    /// Whether so much waits that nothing should be added without need: small requests come faster than they are handled.
    pub fn is_crowded(&self) -> bool {
        self.left + self.events.len() > CROWDED_EVENTS
    }

    /// When the first event happened, if that is known.
    pub fn first_at(&self) -> Option<Duration> {
        self.events.front().and_then(|happened| happened.at)
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ConnectionId;

    /// A flood of small requests on one connection took gigabytes when a turn handled fewer than a read brought.
    #[test]
    fn what_a_turn_leaves_counts_until_it_is_handled() {
        let mut inbox = Inbox::default();
        let mut taken = VecDeque::new();
        let event = || Event::Drained { connection: ConnectionId(1) };
        (0..CROWDED_EVENTS).for_each(|_| inbox.push(event()));
        assert!(!inbox.is_crowded());
        inbox.push(event());
        assert!(inbox.is_crowded());
        inbox.take(&mut taken);
        inbox.set_left(taken.len());
        assert!(inbox.is_crowded(), "nothing was handled yet");
        taken.drain(..CROWDED_EVENTS / 2);
        inbox.set_left(taken.len());
        assert!(!inbox.is_crowded());
    }
}
