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
use millstream_storage::shard_log::{ReadPart, ReadPlan};
use millstream_storage::{DiskError, PartitionKey};

use super::clients::Clients;
use super::cold::ColdReads;
use super::connection::{Response, SentRange};
use super::quotas::{Charge, throttle_time_ms};
use super::stages::Stage;
use super::timer::Waits;
use crate::metrics::Sample;
use crate::protocol::fetch::{
    FINAL_SESSION_EPOCH, FetchPartition, FetchRequest, INITIAL_SESSION_EPOCH, PartitionData, response_parts,
    write_empty_response,
};
use crate::protocol::header::{RequestHeader, ResponseHeader, finish_frame};
use crate::protocol::topic::CurrentLeader;
use crate::protocol::wire::WireError;
use crate::shard::event::{PrefetchToken, RequestId, ShardIndex};
use crate::shard::message::{
    ByOwner, Direction, Message, REQUEST_PARTITIONS_MAX, ReadItem, ReadReply, ReadRequest, ReadResult, Watch, WatchItem,
};
use crate::shard::turn::Turn;

/// How far behind a reader of old data the page cache is dropped. Its next request begins before the end of the last
/// response when that was cut within a batch, and other readers may be a little behind it: what they are about to be sent
/// must not be dropped after it was found resident.
const DISCARD_LAG_BYTES: u64 = 8 << 20;
/// About what a partition takes in a response, beside its records.
const PARTITION_BYTES: usize = 64;

/// One partition of a request.
#[derive(Debug)]
struct FetchItem {
    /// Who owns it; `None` when it is not here, which `result` says.
    owner: Option<(ShardIndex, PartitionKey)>,
    wanted: FetchPartition,
    /// What was read last. While parked, without its plan.
    result: ReadResult,
    /// There was something to read when the fetch was parked.
    has_some: bool,
    leader: Option<CurrentLeader>,
}

/// A fetch that is not answered yet.
#[derive(Debug)]
struct Fetch {
    header: ResponseHeader,
    request: FetchRequest,
    items: Vec<FetchItem>,
    bytes_min: usize,
    bytes_max: usize,
    deadline: Duration,
    /// The limit that the client is under, until it has paid.
    charge: Option<Charge>,
    /// How long it makes the client wait.
    throttle: Duration,
}

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
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(turn.options.fetch_bytes_max).min(room);
        let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let slots: Vec<u32> = (0..items.len() as u32).collect();
        let then = if max_wait.is_zero() || items.is_empty() { Then::Answer { again: false } } else { Then::Evaluate };
        let fetch = Fetch {
            header: header.response(),
            bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
            bytes_max,
            deadline: turn.now.elapsed + max_wait,
            charge,
            throttle: Duration::ZERO,
            items,
            request,
        };
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
        let mut reads = ByOwner::default();
        for &slot in slots {
            let item = &fetch.items[slot as usize];
            let Some((owner, key)) = item.owner else { continue };
            let read = ReadItem {
                slot,
                key,
                offset: item.wanted.fetch_offset,
                bytes_max: usize::try_from(item.wanted.max_bytes).unwrap_or(0),
                current_leader_epoch: item.wanted.current_leader_epoch,
                last_fetched_epoch: item.wanted.last_fetched_epoch,
            };
            reads.push(owner, read);
        }
        if reads.is_empty() {
            return self.evaluate(turn, clients, id, fetch, then, Vec::new());
        }
        let bytes_max = fetch.bytes_max;
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
        for (slot, result) in reply.results {
            fetch.items[slot as usize].result = result;
        }
        let State::Reading { owners_left, then, woken } = state else { panic!("only a read is replied to") };
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
        let bytes: usize = fetch.items.iter().map(|item| item.result.plan.bytes).sum();
        let share = ((fetch.bytes_min - bytes) / fetch.items.len()).max(1) as u64;
        let mut watches = ByOwner::default();
        for (slot, item) in (0..).zip(&mut fetch.items) {
            let Some((owner, key)) = item.owner else { continue };
            item.has_some = item.result.plan.bytes > 0;
            item.result.plan = ReadPlan::default();
            let committed_bytes = item.result.committed_bytes + share;
            let log_start_offset = item.result.log_start_offset;
            watches.push(owner, WatchItem { slot, key, committed_bytes, log_start_offset });
        }
        clients.timers.set(fetch.deadline, id, Waits::Fetch);
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
        clients.timers.clear(fetch.deadline, id);
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
        let ranges: Vec<SentRange> = fetch.items.iter().flat_map(|item| file_ranges(&item.result.plan)).collect();
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
                let slots: Vec<u32> = (0..fetch.items.len() as u32).collect();
                self.read(turn, clients, id, fetch, &slots, Then::Answer { again: true });
            }
            Err(_) => {
                for item in fetch.items.iter_mut().filter(|item| item.result.plan.has_file()) {
                    item.result = ReadResult::error(ErrorCode::KafkaStorageError);
                }
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

/// The partitions of a request, and who owns them.
fn fetch_items(turn: &Turn<'_>, request: &FetchRequest) -> Result<Vec<FetchItem>, WireError> {
    let mut items = Vec::new();
    let mut topics = request.topics();
    while let Some(topic) = topics.next_topic()? {
        if items.len() + topic.partition_count > REQUEST_PARTITIONS_MAX {
            return Err(WireError::CountTooLarge);
        }
        items.reserve(topic.partition_count);
        let found = turn.metadata.topic(&topic.topic);
        while let Some(wanted) = topics.next_partition()? {
            let found = found.and_then(|topic| turn.metadata.led_partition(topic, wanted.index));
            let (owner, error, leader) = match found {
                Ok(key) => (Some((turn.options.owner(key), key)), ErrorCode::None, None),
                Err(not_here) => (None, not_here.error, not_here.leader),
            };
            items.push(FetchItem { owner, wanted, result: ReadResult::error(error), has_some: false, leader });
        }
    }
    Ok(items)
}

impl Fetch {
    /// Whether it is to be answered with what was read. As in Kafka's `DelayedFetch`, any error answers at once.
    fn is_due(&self, now: Duration) -> bool {
        let results = || self.items.iter().map(|item| &item.result);
        results().map(|result| result.plan.bytes).sum::<usize>() >= self.bytes_min
            || results().any(|result| result.error != ErrorCode::None || result.diverging_epoch.is_some())
            // What is in files is old: more of it is there already, only not in one response.
            || results().any(|result| result.plan.has_file())
            || now >= self.deadline
    }

    /// The partitions to read again: those with something when it was parked, whose plans are gone, and those that
    /// were woken since.
    fn take_stale(&mut self, woken: &[u32]) -> Vec<u32> {
        for slot in woken {
            self.items[*slot as usize].has_some = true;
        }
        (0..)
            .zip(&mut self.items)
            .filter_map(|(slot, item)| std::mem::take(&mut item.has_some).then_some(slot))
            .collect()
    }

    /// Keeps the plans within the response's limit, in the request's order (KIP-74): the first batch of the response is
    /// whole, however large; a partition after it contributes whole batches and perhaps a cut one, or nothing.
    fn limit(&mut self) {
        let mut bytes_left = self.bytes_max;
        let mut is_first = true;
        for item in &mut self.items {
            let plan = &mut item.result.plan;
            if plan.bytes == 0 {
                continue;
            }
            let allowed = usize::try_from(item.wanted.max_bytes).unwrap_or(0).min(bytes_left);
            if is_first {
                plan.cut(allowed.max(plan.first_batch_bytes));
            } else if plan.first_batch_bytes > allowed {
                *plan = ReadPlan::default();
            } else {
                plan.cut(allowed);
            }
            is_first = false;
            bytes_left = bytes_left.saturating_sub(plan.bytes);
        }
    }

    /// Counts what it is answered with. The client waits when it is more than its quota.
    fn pay(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let bytes: usize = self.items.iter().map(|item| item.result.plan.bytes).sum();
        // It pays once, though its files were gone when it came to read them.
        if let Some(charge) = self.charge.take().filter(|_| bytes > 0) {
            self.throttle = clients.pay(turn, id.connection, Some(charge), bytes);
        }
    }

    fn send(self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let Fetch { header, request, items, throttle, .. } = self;
        let leaders = items.iter().filter_map(|item| item.leader);
        let endpoints = turn.metadata.endpoints(leaders, clients.listener(turn, id.connection));
        // What a reader far behind the tail has read is dropped behind it: no one else wants it in the page cache.
        let is_behind = |plan: &ReadPlan| plan.parts.iter().all(|part| matches!(part, ReadPart::File { .. }));
        let behind: Vec<SentRange> = items
            .iter()
            .filter(|item| is_behind(&item.result.plan))
            .flat_map(|item| file_ranges(&item.result.plan))
            .filter_map(well_behind)
            .collect();
        for item in &items {
            clients.counters.fetch_errors += u64::from(item.result.error != ErrorCode::None);
            let in_files: usize = file_ranges(&item.result.plan).map(|range| range.bytes).sum();
            clients.counters.fetched_file_bytes += in_files as u64;
            clients.counters.fetched_memory_bytes += (item.result.plan.bytes - in_files) as u64;
        }
        let writer = header.begin_frame(64 + PARTITION_BYTES * items.len());
        let data = items.into_iter().map(FetchItem::into_data).collect();
        let parts = response_parts(writer, &request, data, &endpoints, throttle_time_ms(throttle));
        if !behind.is_empty() {
            clients.connections.discard_after_send(id.connection, behind);
        }
        clients.connections.respond(id, Response::Parts(parts), turn.effects);
    }
}

impl FetchItem {
    fn into_data(self) -> PartitionData {
        let result = self.result;
        PartitionData {
            error_code: result.error.code(),
            high_watermark: result.high_watermark,
            // Without transactions everything committed is decided.
            last_stable_offset: result.high_watermark,
            log_start_offset: result.log_start_offset,
            diverging_epoch: result.diverging_epoch,
            current_leader: self.leader,
            records: result.plan.parts,
        }
    }
}

/// The range that lies [`DISCARD_LAG_BYTES`] before one that is sent now: a reader of a whole segment passes over all of
/// it but its end.
fn well_behind(range: SentRange) -> Option<SentRange> {
    let end = (range.position + range.bytes as u64).saturating_sub(DISCARD_LAG_BYTES);
    let position = range.position.saturating_sub(DISCARD_LAG_BYTES);
    (end > position).then(|| SentRange { path: range.path, position, bytes: (end - position) as usize })
}

fn file_ranges(plan: &ReadPlan) -> impl Iterator<Item = SentRange> {
    plan.parts.iter().filter_map(|part| match part {
        ReadPart::Memory(_) => None,
        ReadPart::File { path, position, bytes } => {
            Some(SentRange { path: path.clone(), position: *position, bytes: *bytes })
        }
    })
}
