//! Requests that wait because memory is tight.
//!
//! A response may be a thousand times as large as its request. While memory is tight, few requests are handled at a time,
//! one of each connection in turn, and none of a connection that holds memory by not taking its responses: who takes what
//! it asked for is served beside those who do not.

use std::collections::{HashMap, VecDeque};

use super::inbox::Happened;
use crate::shard::{ConnectionId, Event};

/// Waiting requests, by connection. Bounded by what connections may have in flight.
#[derive(Debug, Default)]
pub struct PutOff {
    by_connection: HashMap<ConnectionId, Waiting>,
    /// Connections whose next request may be handled, in turn.
    ready: VecDeque<ConnectionId>,
    requests: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Happened>,
    /// It is in `ready`; else it holds memory.
    is_ready: bool,
}

impl PutOff {
    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.requests
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Whether a request could be handled if there were memory.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Puts the requests among these events off, and leaves the others, in their order. Learns from these which
    /// connections hold memory no longer.
    pub fn put_off(&mut self, events: impl Iterator<Item = Happened>, others: &mut VecDeque<Happened>) {
        for happened in events {
            match happened.event {
                Event::Request { connection, .. } => {
                    self.requests += 1;
                    let is_new = !self.by_connection.contains_key(&connection);
                    self.by_connection.entry(connection).or_default().requests.push_back(happened);
                    if is_new {
                        self.make_ready(connection);
                    }
                    continue;
                }
                Event::Drained { connection } => self.make_ready(connection),
                Event::Disconnected { connection } => {
                    let gone = self.by_connection.remove(&connection);
                    self.requests -= gone.map_or(0, |waiting| waiting.requests.len());
                }
                _ => {}
            }
            others.push_back(happened);
        }
    }

    fn make_ready(&mut self, connection: ConnectionId) {
        if let Some(waiting) = self.by_connection.get_mut(&connection)
            && !std::mem::replace(&mut waiting.is_ready, true)
        {
            self.ready.push_back(connection);
        }
    }

    /// Takes up to `requests_max` requests, one of each connection in turn, none of those that hold memory.
    pub fn take(
        &mut self,
        requests_max: usize,
        holds_memory: impl Fn(ConnectionId) -> bool,
        into: &mut VecDeque<Happened>,
    ) {
        let mut taken = 0;
        while taken < requests_max
            && let Some(connection) = self.ready.pop_front()
        {
            // A connection that is gone has left its place in the queue.
            let Some(waiting) = self.by_connection.get_mut(&connection) else { continue };
            if holds_memory(connection) {
                waiting.is_ready = false;
                continue;
            }
            into.extend(waiting.requests.pop_front());
            taken += 1;
            self.requests -= 1;
            if waiting.requests.is_empty() {
                self.by_connection.remove(&connection);
            } else {
                self.ready.push_back(connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const GREEDY: ConnectionId = ConnectionId(1);
    const GOOD: ConnectionId = ConnectionId(2);

    fn happened(event: Event) -> Happened {
        Happened { at: None, event }
    }

    fn request(connection: ConnectionId, number: u8) -> Happened {
        happened(Event::Request { connection, frame: Bytes::copy_from_slice(&[number]) })
    }

    /// Whose requests, and which.
    fn numbers(events: &mut VecDeque<Happened>) -> Vec<(u64, u8)> {
        let number = |happened: Happened| match happened.event {
            Event::Request { connection, frame } => (connection.0, frame[0]),
            other => panic!("{other:?}"),
        };
        events.drain(..).map(number).collect()
    }

    #[test]
    fn connections_take_turns_and_those_that_hold_memory_wait() {
        let mut put_off = PutOff::default();
        let mut events = VecDeque::new();
        let all = [(GREEDY, 1), (GREEDY, 2), (GREEDY, 3), (GOOD, 1), (GOOD, 2)];
        put_off.put_off(all.into_iter().map(|(connection, number)| request(connection, number)), &mut events);
        assert!(events.is_empty() && put_off.len() == 5);
        put_off.take(3, |_| false, &mut events);
        assert_eq!(numbers(&mut events), [(1, 1), (2, 1), (1, 2)]);
        put_off.take(9, |connection| connection == GREEDY, &mut events);
        assert_eq!(numbers(&mut events), [(2, 2)]);
        assert!(!put_off.has_ready() && put_off.len() == 1);
        put_off.put_off([request(GREEDY, 4)].into_iter(), &mut events);
        assert!(!put_off.has_ready(), "it holds memory still");
        put_off.put_off([happened(Event::Drained { connection: GREEDY })].into_iter(), &mut events);
        assert!(matches!(events.pop_front().map(|happened| happened.event), Some(Event::Drained { .. })));
        put_off.take(9, |_| false, &mut events);
        assert_eq!(numbers(&mut events), [(1, 3), (1, 4)]);
        assert!(put_off.is_empty() && !put_off.has_ready());
    }

    #[test]
    fn requests_of_a_connection_that_is_gone_are_forgotten() {
        let mut put_off = PutOff::default();
        let mut events = VecDeque::new();
        let gone = happened(Event::Disconnected { connection: GREEDY });
        put_off.put_off([request(GREEDY, 1), request(GOOD, 1), gone].into_iter(), &mut events);
        assert_eq!((events.len(), put_off.len()), (1, 1));
        events.clear();
        put_off.take(9, |_| false, &mut events);
        assert_eq!(numbers(&mut events), [(2, 1)]);
    }
}
