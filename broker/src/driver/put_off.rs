//! Requests that wait because there are many, or because memory is tight.
//!
//! They are handled one of each connection in turn, so that nobody waits behind all that somebody else has asked for. A
//! request may cost a thousand times what another costs: connections whose last one was heavy stand in a line of their own,
//! of which one is handled for every round of the others. While memory is tight few are handled at a time, and none of a
//! connection that holds memory by not taking its responses.

use std::collections::{HashMap, VecDeque};

use super::inbox::Happened;
use super::memory::Pressure;
use crate::shard::{ConnectionId, Event};

/// Requests that a turn handles while memory is tight: their responses may be a thousand times their size.
const TIGHT_REQUESTS_MAX: usize = 16;
/// Events that are handled in the order in which they happened; of more, some of each connection in turn.
const CROWD: usize = 64;

/// Waiting requests, by connection. Bounded by what connections may have in flight.
#[derive(Debug, Default)]
pub struct PutOff {
    by_connection: HashMap<ConnectionId, Waiting>,
    /// Connections whose next request may be handled, in turn.
    light: VecDeque<ConnectionId>,
    /// Those of them whose last request was heavy.
    heavy: VecDeque<ConnectionId>,
    requests: usize,
}

/// What is known of a connection.
pub trait Connections {
    /// It does not take its responses.
    fn holds_memory(&self, connection: ConnectionId) -> bool;
    /// Its last request took long.
    fn is_heavy(&self, connection: ConnectionId) -> bool;
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Happened>,
    /// It is in a line; else it holds memory.
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
        !self.light.is_empty() || !self.heavy.is_empty()
    }

    /// Leaves in `events` what may be handled now. Few are handled in their order; of many, some of each connection in turn;
    /// few while memory is tight, none while it is full. What is no request goes on. The first `left` events were left by
    /// the last round.
    pub fn ration(
        &mut self,
        events: &mut VecDeque<Happened>,
        left: usize,
        pressure: Pressure,
        connections: &impl Connections,
    ) {
        if pressure == Pressure::None && self.is_empty() && events.len() <= CROWD {
            return;
        }
        let requests_max = match pressure {
            Pressure::None => CROWD,
            Pressure::Tight => TIGHT_REQUESTS_MAX,
            Pressure::Full => 0,
        };
        // What was rationed before stays; the first time nothing was.
        let rationed = if self.is_empty() { 0 } else { left };
        let rest = events.split_off(rationed);
        self.put_off(rest.into_iter(), connections, events);
        let room = requests_max.saturating_sub(rationed);
        self.take(room, pressure >= Pressure::Tight, connections, events);
    }

    /// Puts the requests among these events off, and leaves the others, in their order. Learns from these which
    /// connections hold memory no longer.
    fn put_off(
        &mut self,
        events: impl Iterator<Item = Happened>,
        connections: &impl Connections,
        others: &mut VecDeque<Happened>,
    ) {
        for happened in events {
            match happened.event {
                Event::Request { connection, .. } => {
                    self.requests += 1;
                    let is_new = !self.by_connection.contains_key(&connection);
                    self.by_connection.entry(connection).or_default().requests.push_back(happened);
                    if is_new {
                        self.make_ready(connection, connections);
                    }
                    continue;
                }
                Event::Drained { connection } => self.make_ready(connection, connections),
                Event::Disconnected { connection } => {
                    let gone = self.by_connection.remove(&connection);
                    self.requests -= gone.map_or(0, |waiting| waiting.requests.len());
                }
                _ => {}
            }
            others.push_back(happened);
        }
    }

    fn make_ready(&mut self, connection: ConnectionId, connections: &impl Connections) {
        if let Some(waiting) = self.by_connection.get_mut(&connection)
            && !std::mem::replace(&mut waiting.is_ready, true)
        {
            self.stand_in_line(connection, connections);
        }
    }

    fn stand_in_line(&mut self, connection: ConnectionId, connections: &impl Connections) {
        let line = if connections.is_heavy(connection) { &mut self.heavy } else { &mut self.light };
        line.push_back(connection);
    }

    /// Takes up to `requests_max` requests, one of each connection in turn, the last of them a heavy one; with `is_tight`
    /// none of those that hold memory.
    fn take(
        &mut self,
        requests_max: usize,
        is_tight: bool,
        connections: &impl Connections,
        into: &mut VecDeque<Happened>,
    ) {
        let mut taken = 0;
        while taken < requests_max {
            let is_last = taken + 1 == requests_max && !self.heavy.is_empty();
            let next = if is_last { None } else { self.light.pop_front() };
            let is_light = next.is_some();
            let Some(connection) = next.or_else(|| self.heavy.pop_front()) else { return };
            // A connection that is gone has left its place in the line.
            let Some(waiting) = self.by_connection.get_mut(&connection) else { continue };
            if is_tight && connections.holds_memory(connection) {
                waiting.is_ready = false;
                continue;
            }
            into.extend(waiting.requests.pop_front());
            taken += 1;
            self.requests -= 1;
            if waiting.requests.is_empty() {
                self.by_connection.remove(&connection);
            } else {
                self.stand_in_line(connection, connections);
            }
            if !is_light {
                return;
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

    #[derive(Default)]
    struct Known {
        holds_memory: Option<ConnectionId>,
        heavy: Option<ConnectionId>,
    }

    impl Connections for Known {
        fn holds_memory(&self, connection: ConnectionId) -> bool {
            self.holds_memory == Some(connection)
        }

        fn is_heavy(&self, connection: ConnectionId) -> bool {
            self.heavy == Some(connection)
        }
    }

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
        let mut known = Known::default();
        let mut put_off = PutOff::default();
        let mut events = VecDeque::new();
        let all = [(GREEDY, 1), (GREEDY, 2), (GREEDY, 3), (GOOD, 1), (GOOD, 2)];
        put_off.put_off(all.into_iter().map(|(who, number)| request(who, number)), &known, &mut events);
        assert!(events.is_empty() && put_off.len() == 5);
        put_off.take(3, true, &known, &mut events);
        assert_eq!(numbers(&mut events), [(1, 1), (2, 1), (1, 2)]);
        known.holds_memory = Some(GREEDY);
        put_off.take(9, true, &known, &mut events);
        assert_eq!(numbers(&mut events), [(2, 2)]);
        assert!(!put_off.has_ready() && put_off.len() == 1);
        put_off.put_off([request(GREEDY, 4)].into_iter(), &known, &mut events);
        assert!(!put_off.has_ready(), "it holds memory still");
        known.holds_memory = None;
        put_off.put_off([happened(Event::Drained { connection: GREEDY })].into_iter(), &known, &mut events);
        assert!(matches!(events.pop_front().map(|happened| happened.event), Some(Event::Drained { .. })));
        put_off.take(9, true, &known, &mut events);
        assert_eq!(numbers(&mut events), [(1, 3), (1, 4)]);
        assert!(put_off.is_empty() && !put_off.has_ready());
    }

    #[test]
    fn one_heavy_request_is_handled_for_a_round_of_the_others() {
        let known = Known { heavy: Some(GREEDY), ..Known::default() };
        let mut put_off = PutOff::default();
        let mut events = VecDeque::new();
        let all = (0..10).flat_map(|number| [request(GREEDY, number), request(GOOD, number)]);
        put_off.put_off(all, &known, &mut events);
        put_off.take(4, false, &known, &mut events);
        assert_eq!(numbers(&mut events), [(2, 0), (2, 1), (2, 2), (1, 0)]);
        put_off.take(100, false, &known, &mut events);
        assert_eq!(numbers(&mut events), [(2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (2, 8), (2, 9), (1, 1)]);
        put_off.take(100, false, &known, &mut events);
        assert_eq!(numbers(&mut events), [(1, 2)]);
    }

    #[test]
    fn few_events_keep_their_order_and_many_are_rationed() {
        let known = Known::default();
        let mut put_off = PutOff::default();
        let mut events: VecDeque<Happened> = (0..3).map(|number| request(GREEDY, number)).collect();
        put_off.ration(&mut events, 0, Pressure::None, &known);
        assert_eq!(numbers(&mut events), [(1, 0), (1, 1), (1, 2)]);

        events = (0..CROWD as u8 + 1).map(|number| request(GREEDY, number)).chain([request(GOOD, 0)]).collect();
        put_off.ration(&mut events, 0, Pressure::None, &known);
        assert_eq!((events.len(), put_off.len()), (CROWD, 2));
        assert_eq!(numbers(&mut events)[..2], [(1, 0), (2, 0)], "everybody has a turn");
        put_off.ration(&mut events, 0, Pressure::Full, &known);
        assert_eq!((events.len(), put_off.len()), (0, 2), "there is no memory for any");
        put_off.ration(&mut events, 0, Pressure::Tight, &known);
        assert_eq!((events.len(), put_off.len()), (2, 0));
    }

    #[test]
    fn requests_of_a_connection_that_is_gone_are_forgotten() {
        let known = Known::default();
        let mut put_off = PutOff::default();
        let mut events = VecDeque::new();
        let gone = happened(Event::Disconnected { connection: GREEDY });
        put_off.put_off([request(GREEDY, 1), request(GOOD, 1), gone].into_iter(), &known, &mut events);
        assert_eq!((events.len(), put_off.len()), (1, 1));
        events.clear();
        put_off.take(9, true, &known, &mut events);
        assert_eq!(numbers(&mut events), [(2, 1)]);
    }
}
