//! The session's side of Fetch: ask the owners, wait until there is enough, keep within the limits, send.
//!
//! A fetch that finds too little is *parked*: it holds no records, only what it asked for, and watches its partitions.
//! Each watch has a threshold in committed bytes: an equal share of what is missing. Whenever enough has come in
//! total, at least one partition has reached its share, so nothing is missed; and a fetch that waits for a lot of
//! bytes is not woken by each append.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ErrorCode;
use millstream_storage::DiskError;

use super::clients::Clients;
use super::cold::ColdReads;
use super::fetched::{Fetch, fetch_items};
use super::quotas::throttle_time_ms;
use super::stages::Stage;
use super::timer::Waits;
use crate::metrics::Sample;
use crate::protocol::fetch::{FINAL_SESSION_EPOCH, FetchRequest, INITIAL_SESSION_EPOCH, write_empty_response};
use crate::protocol::header::{RequestHeader, finish_frame};
use crate::shard::event::{PrefetchToken, RequestId, ShardIndex};
use crate::shard::message::{Direction, Message, ReadReply, ReadRequest, Watch};
use crate::shard::turn::Turn;

/// What becomes of a fetch with what is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It may wait for more.
    Evaluate,
    /// It is answered, whatever there is. `again`: its files were gone once already.
    Answer { again: bool },
}

/// Where a fetch is.
#[derive(Debug)]
enum State {
    /// This many owners have not replied yet.
    Reading {
        owners_left: usize,
        then: Then,
        /// Partitions that have had more since they were read.
        woken: Vec<u32>,
    },
    /// It waits for more to be committed, or for its deadline.
    Parked {
        /// Owners that watch for it.
        watching: Vec<ShardIndex>,
        /// Partitions that have had more.
        woken: Vec<u32>,
    },
    /// Its file ranges are being brought into the page cache. `again`: they were gone once already.
    Loading { again: bool },
}

/// A fetch while something is waited for.
#[derive(Debug)]
struct PendingFetch {
    fetch: Fetch,
    state: State,
}

/// Fetches under way at this shard, as the session. A fetch is here while it waits; who goes on with it takes it out,
/// and puts it back in its next state unless it is answered.
#[derive(Debug, Default)]
pub struct Fetches {
    pending: HashMap<RequestId, PendingFetch>,
    /// Parked fetches that were woken in this turn.
    woken: Vec<RequestId>,
    parked: usize,
    /// File ranges on their way into the page cache.
    cold: ColdReads,
    /// File ranges that were brought into the page cache, since the start.
    prefetches: u64,
}

impl Fetches {
    /// Takes a Fetch request.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
    ) {
        // The request may stay for long: a copy of its few bytes does not keep the connection's buffer.
        let body = Bytes::copy_from_slice(&body);
        let parsed = FetchRequest::parse(body, header.api_version)
            .and_then(|request| Ok((fetch_items(turn, &request)?, request)));
        let Ok((items, request)) = parsed else { return clients.close(turn, id) };
        let reply_empty = |turn: &mut Turn<'_>, clients: &mut Clients, error: ErrorCode, throttle| {
            let mut writer = header.response().begin_frame(32);
            write_empty_response(&mut writer, header.api_version, error.code(), throttle_time_ms(throttle));
            clients.reply(turn, id, finish_frame(writer));
        };
        if !matches!(request.session_epoch, FINAL_SESSION_EPOCH | INITIAL_SESSION_EPOCH) {
            // We never gave a session: every response says 0.
            return reply_empty(turn, clients, ErrorCode::FetchSessionIdNotFound, Duration::ZERO);
        }
        let charge = clients.charge(turn, Direction::Fetch, header.client_id.as_deref());
        let room = match charge.as_ref().map_or(Ok(usize::MAX), |charge| clients.quotas.room(turn.now, charge)) {
            Ok(room) => room,
            Err(wait) => {
                reply_empty(turn, clients, ErrorCode::None, wait);
                return clients.mute(turn, id.connection, wait);
            }
        };
        let fetch = Fetch::new(turn, header.response(), request, items, room, charge);
        let slots = fetch.slots();
        let then = if fetch.may_wait() { Then::Evaluate } else { Then::Answer { again: false } };
        self.read(turn, clients, id, fetch, &slots, then);
    }

    /// Asks the owners for these partitions.
    fn read(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        fetch: Fetch,
        slots: &[u32],
        then: Then,
    ) {
        let reads = fetch.reads(slots);
        if reads.is_empty() {
            return self.evaluate(turn, clients, id, fetch, then, Vec::new());
        }
        let bytes_max = fetch.bytes_max();
        let state = State::Reading { owners_left: reads.len(), then, woken: Vec::new() };
        self.pending.insert(id, PendingFetch { fetch, state });
        for (owner, items) in reads {
            let read = ReadRequest { from: turn.options.index, request: id, bytes_max, items };
            turn.tell(owner, Message::Read(read));
        }
    }

    /// An owner has replied.
    pub fn read_replied(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, reply: ReadReply) {
        let id = reply.request;
        // It may be gone: its connection is closed.
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return };
        let PendingFetch { fetch, state } = entry.get_mut();
        fetch.take_results(reply.results);
        let State::Reading { owners_left, then, woken } = state else { panic!("only a read is replied to") };
        assert!(*owners_left > 0, "an owner replies once");
        *owners_left -= 1;
        if *owners_left == 0 {
            let (then, woken) = (*then, std::mem::take(woken));
            let fetch = entry.remove().fetch;
            // The owner that was last is the one that was waited for.
            clients.enter(id, Stage::Local, reply.began);
            self.evaluate(turn, clients, id, fetch, then, woken);
        }
    }

    /// All owners have replied: answers, reads again, or parks.
    fn evaluate(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        mut fetch: Fetch,
        then: Then,
        woken: Vec<u32>,
    ) {
        let again = match then {
            Then::Answer { again } => again,
            Then::Evaluate if fetch.is_due(turn.now.elapsed) || clients.connections.is_shutting_down() => false,
            Then::Evaluate if woken.is_empty() => {
                clients.enter(id, Stage::Remote, turn.now.elapsed);
                return self.park(turn, clients, id, fetch);
            }
            Then::Evaluate => {
                let slots = fetch.take_stale(&woken);
                return self.read(turn, clients, id, fetch, &slots, then);
            }
        };
        self.complete(turn, clients, id, fetch, again);
    }

    /// Waits until enough is committed.
    fn park(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId, mut fetch: Fetch) {
        let watches = fetch.watches();
        clients.timers.set(fetch.deadline(), id, Waits::Fetch);
        self.parked += 1;
        let mut watching = Vec::with_capacity(watches.len());
        for (owner, items) in watches {
            watching.push(owner);
            let watch = Watch { from: turn.options.index, request: id, items };
            turn.tell(owner, Message::Watch(watch));
        }
        self.pending.insert(id, PendingFetch { fetch, state: State::Parked { watching, woken: Vec::new() } });
    }

    /// An owner says that watched partitions have more to read.
    pub fn wake(&mut self, id: RequestId, slots: Vec<u32>) {
        let Some(PendingFetch { state, .. }) = self.pending.get_mut(&id) else { return };
        match state {
            State::Reading { woken, .. } => woken.extend(slots),
            State::Parked { woken, .. } => {
                woken.extend(slots);
                self.woken.push(id);
            }
            State::Loading { .. } => {}
        }
    }

    /// Reads for the fetches that were woken in this turn. Returns whether there were any.
    pub fn read_woken(&mut self, turn: &mut Turn<'_>, clients: &mut Clients) -> bool {
        let woken = std::mem::take(&mut self.woken);
        let any = !woken.is_empty();
        for id in woken {
            if let Some((fetch, slots)) = self.unpark(turn, clients, id) {
                clients.enter(id, Stage::Queue, turn.now.elapsed);
                self.read(turn, clients, id, fetch, &slots, Then::Evaluate);
            }
        }
        any
    }

    /// Ends a fetch's wait, if it waits: takes it out, with the partitions that are to be read again.
    fn unpark(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) -> Option<(Fetch, Vec<u32>)> {
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return None };
        let State::Parked { watching, woken } = &mut entry.get_mut().state else { return None };
        let (watching, woken) = (std::mem::take(watching), std::mem::take(woken));
        let mut fetch = entry.remove().fetch;
        clients.timers.clear(fetch.deadline(), id);
        assert!(self.parked > 0, "parked fetches are counted");
        self.parked -= 1;
        for owner in watching {
            turn.tell(owner, Message::Unwatch { from: turn.options.index, request: id });
        }
        let slots = fetch.take_stale(&woken);
        Some((fetch, slots))
    }

    /// A parked fetch waits no longer: it is answered with what there is, once that is read.
    fn answer(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        if let Some((fetch, slots)) = self.unpark(turn, clients, id) {
            clients.enter(id, Stage::Queue, turn.now.elapsed);
            self.read(turn, clients, id, fetch, &slots, Then::Answer { again: false });
        }
    }

    /// The deadline of a parked fetch has come.
    pub fn timed_out(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let state = self.pending.get(&id).map(|pending| &pending.state);
        assert!(matches!(state, Some(State::Parked { .. })), "a deadline belongs to a parked fetch");
        self.answer(turn, clients, id);
    }

    /// Answers every parked fetch with what there is: the shard shuts down.
    pub fn answer_parked(&mut self, turn: &mut Turn<'_>, clients: &mut Clients) {
        let mut parked: Vec<RequestId> = self.pending.keys().copied().collect();
        // The one walk over a table that every fetch looks into and that therefore has no order.
        parked.sort_unstable();
        for id in parked {
            self.answer(turn, clients, id);
        }
    }

    /// Forgets a fetch whose connection is gone.
    pub fn cancel(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        if self.unpark(turn, clients, id).is_none() && self.pending.remove(&id).is_some() {
            self.cold.cancel(id);
        }
    }

    /// Settles what the response holds; sends it, or first has its file ranges loaded.
    fn complete(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId, mut fetch: Fetch, again: bool) {
        fetch.limit();
        fetch.pay(turn, clients, id);
        let ranges = fetch.ranges();
        if ranges.is_empty() {
            return fetch.send(turn, clients, id);
        }
        self.pending.insert(id, PendingFetch { fetch, state: State::Loading { again } });
        clients.enter(id, Stage::Load, turn.now.elapsed);
        self.prefetches += ranges.len() as u64;
        self.cold.load(id, ranges, turn.effects);
    }

    /// A file range is in the page cache, or cannot be.
    pub fn prefetched(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        token: PrefetchToken,
        result: Result<(), DiskError>,
    ) {
        let Some((id, result)) = self.cold.loaded(token, result, turn.effects) else { return };
        clients.enter(id, Stage::Local, turn.now.elapsed);
        let Some(PendingFetch { mut fetch, state: State::Loading { again } }) = self.pending.remove(&id) else {
            panic!("a fetch that is gone loads nothing");
        };
        match result {
            Ok(()) => fetch.send(turn, clients, id),
            // Retention was faster: read what is there now, once.
            Err(DiskError::NotFound) if !again => {
                let slots = fetch.slots();
                self.read(turn, clients, id, fetch, &slots, Then::Answer { again: true });
            }
            Err(_) => {
                fetch.fail_files();
                fetch.send(turn, clients, id);
            }
        }
    }

    /// Gauges and counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        samples.extend([
            Sample::gauge(
                "millstream_fetches_parked",
                "Fetches that wait for more to be committed.",
                self.parked as u64,
            ),
            Sample::counter(
                "millstream_fetch_prefetches_total",
                "File ranges that fetches had brought into the page cache.",
                self.prefetches,
            ),
            Sample::gauge(
                "millstream_cold_responses",
                "Responses whose file ranges wait or are on their way into the page cache.",
                self.cold.len() as u64,
            ),
            Sample::gauge(
                "millstream_cold_bytes_in_flight",
                "Bytes on their way into the page cache.",
                self.cold.bytes_in_flight() as u64,
            ),
        ]);
    }
}
