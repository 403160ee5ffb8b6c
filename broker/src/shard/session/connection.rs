//! Client connections of this shard, as their connections see them.
//!
//! Requests are answered in any order and leave in the order in which they came (Kafka promises it to its clients). A
//! connection that has too much under way is not read from until it has less: requests in flight, bytes of responses the
//! client does not take, and the shard's memory for requests are all bounded here.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use millstream_storage::FilePath;

use super::stages::{Stage, Stages, Timeline};
use crate::metrics::{Sample, Scrape};
use crate::protocol::send::SendPart;
use crate::shard::event::{ConnectionId, Effect, RequestId};

/// Requests of one connection that may be in flight before it is not read from any more. Clients pipeline five.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Bytes of responses of one connection that may wait for the client before it is not read from any more.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Responses of one connection whose way into the socket is timed. Of more than these the oldest are counted as they
/// stand: a client that takes so little has a time of its own.
const LEAVING_MAX: usize = 4 * REQUESTS_IN_FLIGHT_MAX;

/// How a request ends.
#[derive(Debug)]
pub enum Response {
    /// These parts are sent.
    Parts(Vec<SendPart>),
    /// Nothing is sent: Produce with acks=0.
    Nothing,
    /// The connection is closed after the responses before this one.
    Close,
}

/// A range of a file that was sent and that no tail reader wants: to be dropped from the page cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRange {
    /// The file.
    pub path: FilePath,
    /// First byte.
    pub position: u64,
    /// Length.
    pub bytes: usize,
}

#[derive(Debug)]
struct InFlight {
    frame_bytes: usize,
    response: Option<Response>,
    timeline: Timeline,
}

#[derive(Debug)]
struct Connection {
    listener: usize,
    /// The client's address as Kafka prints it.
    host: String,
    /// The number of the request at the front of `in_flight`.
    first_sequence: u64,
    in_flight: VecDeque<InFlight>,
    /// Bytes of responses that wait for those before them, or for the client to take them.
    response_bytes: usize,
    /// The part of `response_bytes` that was given to the driver.
    sent_bytes: usize,
    /// To be dropped from the page cache once the client has taken it.
    sent_ranges: Vec<SentRange>,
    /// The requests whose responses were given to the driver and have not left yet.
    leaving: VecDeque<Timeline>,
    /// Listed in `Connections::answered`.
    answered: bool,
    reading: bool,
    /// Waits in `Connections::held` for the shard's memory.
    held: bool,
    /// A quota keeps it from being read until then.
    muted_until: Option<Duration>,
    /// [`Effect::Close`] was given: nothing more is sent or taken.
    closing: bool,
}

/// All client connections of a shard.
#[derive(Debug)]
pub struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
    /// Bytes of requests in flight over all connections.
    request_bytes: usize,
    /// `queued.max.request.bytes`, for this shard.
    request_bytes_max: usize,
    /// Connections not read from for want of that memory, first come first.
    held: VecDeque<ConnectionId>,
    /// No request is taken any more.
    shutting_down: bool,
    /// Connections with a request that was answered in this turn.
    answered: Vec<ConnectionId>,
    stages: Stages,
}

impl Connections {
    /// None yet. `request_bytes_max` bounds the memory of requests in flight over all connections: when it is exceeded,
    /// those who send are not read from until it is not.
    pub fn new(request_bytes_max: usize) -> Connections {
        Connections {
            by_id: HashMap::new(),
            request_bytes: 0,
            request_bytes_max,
            held: VecDeque::new(),
            shutting_down: false,
            answered: Vec::new(),
            stages: Stages::default(),
        }
    }

    /// A client connected to the listener of this index.
    pub fn connected(&mut self, connection: ConnectionId, listener: usize, peer: SocketAddr) {
        let state = Connection {
            listener,
            host: format!("/{}", peer.ip()),
            first_sequence: 0,
            in_flight: VecDeque::new(),
            response_bytes: 0,
            sent_bytes: 0,
            sent_ranges: Vec::new(),
            leaving: VecDeque::new(),
            answered: false,
            reading: true,
            held: false,
            muted_until: None,
            closing: false,
        };
        let previous = self.by_id.insert(connection, state);
        assert!(previous.is_none(), "a connection connects once");
    }

    /// The listener a connection came in by, while it is there.
    pub fn listener(&self, connection: ConnectionId) -> Option<usize> {
        self.by_id.get(&connection).map(|state| state.listener)
    }

    /// The client's address as Kafka prints it (`/127.0.0.1`), while it is there.
    pub fn host(&self, connection: ConnectionId) -> &str {
        self.by_id.get(&connection).map_or("", |state| &state.host)
    }

    /// Whether every request was answered, as far as this shard can: what clients have not taken may still wait.
    pub fn is_answered(&self) -> bool {
        self.by_id.values().all(|state| state.closing || state.in_flight.is_empty())
    }

    /// Takes no more requests.
    pub fn begin_shutdown(&mut self, effects: &mut Vec<Effect>) {
        self.shutting_down = true;
        let mut read: Vec<ConnectionId> = Vec::new();
        #[expect(clippy::iter_over_hash_type, reason = "what it finds is brought into an order below")]
        for (&connection, state) in &mut self.by_id {
            if state.reading && !state.closing {
                state.reading = false;
                read.push(connection);
            }
        }
        // The one walk over a table that every request looks into and that therefore has no order.
        read.sort_unstable();
        effects.extend(read.into_iter().map(|connection| Effect::Reading { connection, on: false }));
    }

    /// Whether no request is taken any more.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// A request of this many bytes came. `None`: the connection is being closed, or the shard shuts down; the request
    /// is dropped.
    pub fn admit(
        &mut self,
        connection: ConnectionId,
        frame_bytes: usize,
        timeline: Timeline,
        effects: &mut Vec<Effect>,
    ) -> Option<RequestId> {
        if self.shutting_down {
            return None;
        }
        let state = self.by_id.get_mut(&connection)?;
        if state.closing {
            return None;
        }
        let sequence = state.first_sequence + state.in_flight.len() as u64;
        state.in_flight.push_back(InFlight { frame_bytes, response: None, timeline });
        self.request_bytes += frame_bytes;
        if self.request_bytes > self.request_bytes_max && !state.held {
            state.held = true;
            self.held.push_back(connection);
        }
        state.set_reading(connection, effects);
        Some(RequestId { connection, sequence })
    }

    /// Ends a request; what can leave leaves. Does nothing when the connection is gone.
    pub fn respond(&mut self, request: RequestId, response: Response, effects: &mut Vec<Effect>) {
        let connection = request.connection;
        let Some(state) = self.by_id.get_mut(&connection) else { return };
        if state.closing {
            return;
        }
        let index = request.sequence.checked_sub(state.first_sequence).expect("a request is answered once");
        let in_flight = &mut state.in_flight[index as usize];
        assert!(in_flight.response.is_none(), "a request is answered once");
        if let Response::Parts(parts) = &response {
            state.response_bytes += parts.iter().map(SendPart::bytes).sum::<usize>();
        }
        in_flight.response = Some(response);
        if !state.answered {
            state.answered = true;
            self.answered.push(connection);
        }
        if index == 0 {
            let done = state.send_ready(connection, &mut self.stages, effects);
            assert!(done <= self.request_bytes, "requests in flight are counted");
            self.request_bytes -= done;
        }
        state.set_reading(connection, effects);
        self.release_held(effects);
    }

    /// The timeline of a request that is not answered yet, if its connection is there.
    pub fn timeline(&mut self, request: RequestId) -> Option<&mut Timeline> {
        let state = self.by_id.get_mut(&request.connection)?;
        let index = request.sequence.checked_sub(state.first_sequence)?;
        let in_flight = state.in_flight.get_mut(usize::try_from(index).ok()?)?;
        in_flight.response.is_none().then_some(&mut in_flight.timeline)
    }

    /// The turn has ended: what was answered in it is on its way out.
    pub fn turn_ended(&mut self, now: Duration) {
        for connection in self.answered.drain(..) {
            // It may be gone.
            let Some(state) = self.by_id.get_mut(&connection) else { continue };
            state.answered = false;
            let waiting = state.in_flight.iter_mut().filter(|in_flight| in_flight.response.is_some());
            for timeline in state.leaving.iter_mut().chain(waiting.map(|in_flight| &mut in_flight.timeline)) {
                if timeline.stage() != Stage::Respond {
                    timeline.enter(Stage::Respond, now);
                }
            }
        }
    }

    /// Does not read from a connection until a time. `None`: it is gone or closing, or is not read from for longer
    /// already; else until when it was not to be read from before.
    pub fn mute(
        &mut self,
        connection: ConnectionId,
        until: Duration,
        effects: &mut Vec<Effect>,
    ) -> Option<Option<Duration>> {
        let state = self.by_id.get_mut(&connection)?;
        if state.closing || state.muted_until.is_some_and(|before| before >= until) {
            return None;
        }
        let before = state.muted_until.replace(until);
        if !self.shutting_down {
            state.set_reading(connection, effects);
        }
        Some(before)
    }

    /// The time of [`Connections::mute`] is over.
    pub fn unmute(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let state = self.by_id.get_mut(&connection).expect("a connection that is gone is not muted");
        state.muted_until = None;
        if !state.closing && !self.shutting_down {
            state.set_reading(connection, effects);
        }
    }

    /// Until when a connection is not read from.
    pub fn muted_until(&self, connection: ConnectionId) -> Option<Duration> {
        self.by_id.get(&connection)?.muted_until
    }

    /// Gauges, and histograms over the requests that were answered, for a scrape.
    pub fn samples(&self, scrape: &mut Scrape) {
        self.stages.samples(&mut scrape.histograms);
        scrape.samples.extend([
            Sample::gauge("millstream_connections", "Client connections open.", self.by_id.len() as u64),
            Sample::gauge(
                "millstream_request_bytes_in_flight",
                "Bytes of requests in flight.",
                self.request_bytes as u64,
            ),
        ]);
    }

    /// Remembers ranges of a response of this connection, to be dropped from the page cache when it has taken them.
    pub fn discard_after_send(&mut self, connection: ConnectionId, ranges: Vec<SentRange>) {
        if let Some(state) = self.by_id.get_mut(&connection) {
            state.sent_ranges.extend(ranges);
        }
    }

    /// The socket took all that was sent so far, at this time.
    pub fn drained(&mut self, connection: ConnectionId, at: Duration, effects: &mut Vec<Effect>) {
        let Some(state) = self.by_id.get_mut(&connection) else { return };
        // What was answered since has not left.
        while state.leaving.front().is_some_and(|timeline| timeline.is_since(at))
            && let Some(mut timeline) = state.leaving.pop_front()
        {
            timeline.enter(Stage::Respond, at);
            self.stages.record(&timeline);
        }
        assert!(state.sent_bytes <= state.response_bytes, "what is sent is a part of what waits");
        state.response_bytes -= std::mem::take(&mut state.sent_bytes);
        // A range belongs to a response that may still wait for one before it: then it was not sent yet, and dropping
        // it early costs one more read.
        if state.in_flight.iter().all(|in_flight| in_flight.response.is_none()) {
            for SentRange { path, position, bytes } in state.sent_ranges.drain(..) {
                effects.push(Effect::Discard { path, position, bytes });
            }
        }
        if !state.closing && !self.shutting_down {
            state.set_reading(connection, effects);
        }
    }

    /// The connection is gone. Returns the requests that were not answered.
    pub fn disconnected(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) -> Vec<RequestId> {
        let Some(state) = self.by_id.remove(&connection) else { return Vec::new() };
        if state.held {
            self.held.retain(|&held| held != connection);
        }
        let mut unanswered = Vec::new();
        for (sequence, in_flight) in (state.first_sequence..).zip(&state.in_flight) {
            assert!(in_flight.frame_bytes <= self.request_bytes, "requests in flight are counted");
            self.request_bytes -= in_flight.frame_bytes;
            if in_flight.response.is_none() {
                unanswered.push(RequestId { connection, sequence });
            }
        }
        for SentRange { path, position, bytes } in state.sent_ranges {
            effects.push(Effect::Discard { path, position, bytes });
        }
        self.release_held(effects);
        unanswered
    }

    /// Reads again from connections that were held for want of memory, in their order, while there is some.
    fn release_held(&mut self, effects: &mut Vec<Effect>) {
        while self.request_bytes <= self.request_bytes_max
            && let Some(connection) = self.held.pop_front()
        {
            let state = self.by_id.get_mut(&connection).expect("a connection that is gone is not held");
            state.held = false;
            if !state.closing && !self.shutting_down {
                state.set_reading(connection, effects);
            }
        }
    }
}

impl Connection {
    /// Sends the responses at the front that are there. Returns the bytes of the requests that are done with.
    fn send_ready(&mut self, connection: ConnectionId, stages: &mut Stages, effects: &mut Vec<Effect>) -> usize {
        let mut frame_bytes = 0;
        let mut parts = Vec::new();
        while self.in_flight.front().is_some_and(|front| front.response.is_some())
            && let Some(InFlight { frame_bytes: bytes, response: Some(response), timeline }) =
                self.in_flight.pop_front()
        {
            self.first_sequence += 1;
            frame_bytes += bytes;
            match response {
                Response::Parts(more) => {
                    if parts.is_empty() {
                        parts = more;
                    } else {
                        parts.extend(more);
                    }
                    self.leaving.push_back(timeline);
                }
                Response::Nothing => stages.record(&timeline),
                Response::Close => {
                    self.closing = true;
                    break;
                }
            }
        }
        let too_many = self.leaving.len().saturating_sub(LEAVING_MAX);
        self.leaving.drain(..too_many).for_each(|timeline| stages.record(&timeline));
        if !parts.is_empty() {
            self.sent_bytes += parts.iter().map(SendPart::bytes).sum::<usize>();
            effects.push(Effect::Send { connection, parts });
        }
        if self.closing {
            effects.push(Effect::Close { connection });
        }
        frame_bytes
    }

    /// Switches reading on or off, as its bounds say.
    fn set_reading(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let on = !self.held
            && self.muted_until.is_none()
            && !self.closing
            && self.in_flight.len() < REQUESTS_IN_FLIGHT_MAX
            && self.response_bytes < RESPONSE_BYTES_MAX;
        if on != self.reading && !self.closing {
            self.reading = on;
            effects.push(Effect::Reading { connection, on });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::stages::Kind;
    use super::*;

    const CONNECTION: ConnectionId = ConnectionId(1);
    const OTHER: ConnectionId = ConnectionId(2);

    fn peer() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    fn timeline() -> Timeline {
        Timeline::new(Kind::Other, Duration::ZERO, Duration::ZERO)
    }

    fn parts(text: &'static str) -> Response {
        Response::Parts(vec![SendPart::Memory(Bytes::from_static(text.as_bytes()))])
    }

    fn send(connection: ConnectionId, texts: &[&'static str]) -> Effect {
        let parts = texts.iter().map(|text| SendPart::Memory(Bytes::from_static(text.as_bytes()))).collect();
        Effect::Send { connection, parts }
    }

    #[track_caller]
    fn assert_effects(effects: &mut Vec<Effect>, expected: &[Effect]) {
        assert_eq!(format!("{effects:?}"), format!("{expected:?}"));
        effects.clear();
    }

    #[test]
    fn responses_leave_in_the_order_of_their_requests() {
        let mut effects = Vec::new();
        let mut connections = Connections::new(1000);
        connections.connected(CONNECTION, 3, peer());
        assert_eq!(connections.listener(CONNECTION), Some(3));
        let ids: Vec<RequestId> =
            (0..4).map(|_| connections.admit(CONNECTION, 10, timeline(), &mut effects).unwrap()).collect();
        connections.respond(ids[2], parts("third"), &mut effects);
        connections.respond(ids[1], Response::Nothing, &mut effects);
        assert_effects(&mut effects, &[]);
        connections.respond(ids[0], parts("first"), &mut effects);
        assert_effects(&mut effects, &[send(CONNECTION, &["first", "third"])]);
        assert_eq!(connections.request_bytes, 10);
        connections.respond(ids[3], parts("fourth"), &mut effects);
        assert_effects(&mut effects, &[send(CONNECTION, &["fourth"])]);
        assert_eq!(connections.request_bytes, 0);
    }

    #[test]
    fn a_close_waits_for_the_responses_before_it_and_ends_what_comes_after() {
        let mut effects = Vec::new();
        let mut connections = Connections::new(1000);
        connections.connected(CONNECTION, 0, peer());
        let ids: Vec<RequestId> =
            (0..3).map(|_| connections.admit(CONNECTION, 10, timeline(), &mut effects).unwrap()).collect();
        connections.respond(ids[1], Response::Close, &mut effects);
        connections.respond(ids[2], parts("never"), &mut effects);
        assert_effects(&mut effects, &[]);
        connections.respond(ids[0], parts("first"), &mut effects);
        assert_effects(&mut effects, &[send(CONNECTION, &["first"]), Effect::Close { connection: CONNECTION }]);
        assert_eq!(connections.admit(CONNECTION, 10, timeline(), &mut effects), None);
        connections.disconnected(CONNECTION, &mut effects);
        assert_eq!(connections.request_bytes, 0);
        assert_effects(&mut effects, &[]);
    }

    #[test]
    fn a_session_with_too_many_requests_is_not_read_from() {
        let mut effects = Vec::new();
        let mut connections = Connections::new(1000);
        connections.connected(CONNECTION, 0, peer());
        let ids: Vec<RequestId> = (0..REQUESTS_IN_FLIGHT_MAX)
            .map(|_| connections.admit(CONNECTION, 1, timeline(), &mut effects).unwrap())
            .collect();
        assert_effects(&mut effects, &[Effect::Reading { connection: CONNECTION, on: false }]);
        connections.respond(ids[0], Response::Nothing, &mut effects);
        assert_effects(&mut effects, &[Effect::Reading { connection: CONNECTION, on: true }]);
    }

    #[test]
    fn a_client_that_takes_nothing_is_not_read_from() {
        let mut effects = Vec::new();
        let mut connections = Connections::new(1000);
        connections.connected(CONNECTION, 0, peer());
        let request = connections.admit(CONNECTION, 10, timeline(), &mut effects).unwrap();
        let large = SendPart::File { path: "segment".into(), position: 0, bytes: RESPONSE_BYTES_MAX };
        connections.respond(request, Response::Parts(vec![large.clone()]), &mut effects);
        let range = SentRange { path: "segment".into(), position: 0, bytes: RESPONSE_BYTES_MAX };
        connections.discard_after_send(CONNECTION, vec![range]);
        assert_effects(
            &mut effects,
            &[
                Effect::Send { connection: CONNECTION, parts: vec![large] },
                Effect::Reading { connection: CONNECTION, on: false },
            ],
        );
        connections.drained(CONNECTION, Duration::ZERO, &mut effects);
        assert_effects(
            &mut effects,
            &[
                Effect::Discard { path: "segment".into(), position: 0, bytes: RESPONSE_BYTES_MAX },
                Effect::Reading { connection: CONNECTION, on: true },
            ],
        );
    }

    #[test]
    fn the_shards_memory_for_requests_is_bounded() {
        let mut effects = Vec::new();
        let mut connections = Connections::new(100);
        connections.connected(CONNECTION, 0, peer());
        connections.connected(OTHER, 0, peer());
        let first = connections.admit(CONNECTION, 100, timeline(), &mut effects).unwrap();
        assert_effects(&mut effects, &[]);
        let second = connections.admit(OTHER, 60, timeline(), &mut effects).unwrap();
        assert_effects(&mut effects, &[Effect::Reading { connection: OTHER, on: false }]);
        connections.respond(first, Response::Nothing, &mut effects);
        assert_effects(&mut effects, &[Effect::Reading { connection: OTHER, on: true }]);
        assert_eq!(connections.request_bytes, 60);
        assert_eq!(connections.disconnected(OTHER, &mut effects), [second]);
        assert_eq!(connections.request_bytes, 0);
    }
}
