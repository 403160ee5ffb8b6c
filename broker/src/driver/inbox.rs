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

/// Events in the order they happened, and the turn task to wake for them. Bounded by back-pressure: a connection reads
/// at most [`super::net::READ_TURN_BYTES_MAX`] between two turns.
#[derive(Debug, Default)]
pub struct Inbox {
    events: RefCell<VecDeque<Happened>>,
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
    pub fn take(&self, into: &mut VecDeque<Happened>) {
        if into.is_empty() {
            std::mem::swap(&mut *self.events.borrow_mut(), into);
        } else {
            into.append(&mut self.events.borrow_mut());
        }
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
