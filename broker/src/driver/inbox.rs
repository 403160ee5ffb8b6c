//! What happened on a shard's own core since its last turn: events from its connection and disk tasks.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use crate::shard::Event;

/// Events in the order they happened, and the turn task to wake for them. Bounded by back-pressure: a connection reads
/// at most [`super::net::READ_TURN_BYTES_MAX`] between two turns.
#[derive(Debug, Default)]
pub struct Inbox {
    events: RefCell<Vec<Event>>,
    waker: RefCell<Option<Waker>>,
    /// The turn task runs: it looks here again before it waits.
    is_turn: Cell<bool>,
}

impl Inbox {
    /// Adds an event and has a turn run soon.
    pub fn push(&self, event: Event) {
        let mut events = self.events.borrow_mut();
        events.push(event);
        if events.len() == 1
            && !self.is_turn.get()
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
    pub fn take(&self, into: &mut Vec<Event>) {
        if into.is_empty() {
            std::mem::swap(&mut *self.events.borrow_mut(), into);
        } else {
            into.append(&mut self.events.borrow_mut());
        }
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
