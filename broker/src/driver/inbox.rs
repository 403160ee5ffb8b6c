//! What happened on a shard's own core since its last turn: events from its connection and disk tasks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use crate::shard::Event;

/// An event, and when it happened if that is known better than by the turn that takes it.
#[derive(Debug)]
pub struct Happened {
    /// In the clock's time.
    pub at: Option<Duration>,
    /// What.
    pub event: Event,
}

/// Events that may wait before connections are not read from any more.
const CROWDED_EVENTS: usize = 16 * 1024;

/// Events in the order they happened, and the turn task to wake for them. Bounded by back-pressure: while it is crowded
/// no connection is read from, and each brings at most [`super::net::READ_TURN_BYTES_MAX`] between two turns.
#[derive(Debug, Default)]
pub struct Inbox {
    events: RefCell<VecDeque<Happened>>,
    /// Events that the turn task has taken and not handled yet: a turn ends when its time is over.
    left: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// The turn task runs: it looks here again before it waits.
    is_turn: Cell<bool>,
}

impl Inbox {
    /// Adds an event and has a turn run soon.
    pub fn push(&self, event: Event) {
        self.add(Happened { at: None, event });
    }

    /// Adds an event that happened at this time.
    pub fn push_at(&self, at: Duration, event: Event) {
        self.add(Happened { at: Some(at), event });
    }

    fn add(&self, happened: Happened) {
        let mut events = self.events.borrow_mut();
        events.push_back(happened);
        if events.len() == 1 {
            self.wake();
        }
    }

    /// Has a turn run soon, if none runs now.
    pub fn wake(&self) {
        if !self.is_turn.get()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// The turn task has begun, or is about to wait; it does not wait while there are events.
    pub fn set_turn(&self, is_turn: bool) {
        self.is_turn.set(is_turn);
    }

    /// Moves all events to the end of `into`.
    pub fn take(&self, into: &mut VecDeque<Happened>) {
        if into.is_empty() {
            std::mem::swap(&mut *self.events.borrow_mut(), into);
        } else {
            into.append(&mut self.events.borrow_mut());
        }
    }

    /// The turn task has taken so many events that it has not handled.
    pub fn set_left(&self, left: usize) {
        self.left.set(left);
    }

    /// Whether so much waits that nothing should be added without need: small requests come faster than they are handled.
    pub fn is_crowded(&self) -> bool {
        self.left.get() + self.events.borrow().len() > CROWDED_EVENTS
    }

    /// When the first event happened, if that is known.
    pub fn first_at(&self) -> Option<Duration> {
        self.events.borrow().front().and_then(|happened| happened.at)
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }

    /// Names the turn task.
    pub fn register(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ConnectionId;

    /// A flood of small requests on one connection took gigabytes when a turn handled fewer than a read brought.
    #[test]
    fn what_a_turn_leaves_counts_until_it_is_handled() {
        let inbox = Inbox::default();
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
