//! The session's side of Fetch: ask the owners, wait until there is enough, keep within the limits, send.
//!
//! A fetch that finds too little is *parked*: it holds no records, only what it asked for, and watches its partitions.
//! Each watch has a threshold in committed bytes: an equal share of what is missing. Whenever enough has come in
//! total, at least one partition has reached its share, so nothing is missed; and a fetch that waits for a lot of
//! bytes is not woken by each append.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ErrorCode;
use millstream_storage::shard_log::{ReadPart, ReadPlan};
use millstream_storage::{DiskError, Now, PartitionKey};

use super::message::{ByOwner, Message, Read, ReadDone, ReadItem, ReadResult, Watch, WatchItem};
use super::quotas::{Charge, Direction, throttle_time_ms};
use super::read::{cut, has_file};
use super::session::{RequestId, Response, SentRange};
use super::stages::Stage;
use super::{Effect, REQUEST_PARTITIONS_MAX, SendPart, Shard, ShardIndex};
use crate::protocol::fetch::{
    FINAL_SESSION_EPOCH, FetchPartition, FetchRequest, INITIAL_SESSION_EPOCH, PartitionData, response_parts,
    write_empty_response,
};
use crate::protocol::header::{RequestHeader, ResponseHeader, finish_frame};
use crate::protocol::topic::CurrentLeader;
use crate::protocol::wire::WireError;

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

/// Where a fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This many owners have not replied yet.
    Reading { owners_left: usize },
    /// It waits for more to be committed, or for its deadline.
    Parked,
    /// Its file ranges are being brought into the page cache.
    Loading,
}

/// A fetch that is not answered yet.
#[derive(Debug)]
struct PendingFetch {
    header: ResponseHeader,
    request: FetchRequest,
    items: Vec<FetchItem>,
    bytes_min: usize,
    bytes_max: usize,
    deadline: Duration,
    /// The limit that the client is under.
    charge: Option<Charge>,
    /// How long it makes the client wait.
    throttle: Duration,
    state: State,
    /// It is answered with whatever is read now.
    is_last_read: bool,
    /// Its files were gone once already.
    is_second_try: bool,
    /// Partitions that have had more since they were read.
    woken: Vec<u32>,
    /// Owners that watch for it.
    watching: Vec<ShardIndex>,
}

/// Fetches under way at this shard, as the session.
#[derive(Debug, Default)]
pub struct Fetches {
    pending: HashMap<RequestId, PendingFetch>,
    /// Parked fetches that were woken in this turn.
    woken: Vec<RequestId>,
    parked: usize,
}

impl Fetches {
    /// Fetches that wait for more to be committed.
    pub fn parked(&self) -> usize {
        self.parked
    }
}

impl Shard {
    /// Takes a Fetch request.
    pub(super) fn fetch(
        &mut self,
        now: Now,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        // The request may stay for long: a copy of its few bytes does not keep the connection's buffer.
        let body = Bytes::copy_from_slice(&body);
        let parsed = FetchRequest::parse(body, header.api_version)
            .and_then(|request| Ok((self.fetch_items(&request)?, request)));
        let Ok((items, request)) = parsed else { return self.close(id, effects) };
        if !matches!(request.session_epoch, FINAL_SESSION_EPOCH | INITIAL_SESSION_EPOCH) {
            // We never gave a session: every response says 0.
            let mut writer = header.response().begin_frame(32);
            write_empty_response(&mut writer, header.api_version, ErrorCode::FetchSessionIdNotFound.code(), 0);
            let parts = vec![SendPart::Memory(finish_frame(writer))];
            return self.sessions.respond(id, Response::Parts(parts), effects);
        }
        let charge = self.quotas.charge(self.metadata.image().quotas(), Direction::Fetch, header.client_id.as_deref());
        let room = match charge.as_ref().map_or(Ok(usize::MAX), |charge| self.quotas.room(now, charge)) {
            Ok(room) => room,
            Err(wait) => {
                let mut writer = header.response().begin_frame(32);
                write_empty_response(&mut writer, header.api_version, ErrorCode::None.code(), throttle_time_ms(wait));
                let parts = vec![SendPart::Memory(finish_frame(writer))];
                self.sessions.respond(id, Response::Parts(parts), effects);
                return self.mute(now, id.connection, wait, effects);
            }
        };
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(self.options.fetch_bytes_max).min(room);
        let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let slots: Vec<u32> = (0..items.len() as u32).collect();
        let pending = PendingFetch {
            header: header.response(),
            bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
            bytes_max,
            deadline: now.elapsed + max_wait,
            charge,
            throttle: Duration::ZERO,
            state: State::Reading { owners_left: 0 },
            is_last_read: max_wait.is_zero() || items.is_empty(),
            is_second_try: false,
            woken: Vec::new(),
            watching: Vec::new(),
            items,
            request,
        };
        self.fetches.pending.insert(id, pending);
        self.read_round(now, id, &slots, effects);
    }

    fn fetch_items(&self, request: &FetchRequest) -> Result<Vec<FetchItem>, WireError> {
        let mut items = Vec::new();
        let mut topics = request.topics();
        while let Some(topic) = topics.next_topic()? {
            if items.len() + topic.partition_count > REQUEST_PARTITIONS_MAX {
                return Err(WireError::CountTooLarge);
            }
            items.reserve(topic.partition_count);
            let found = self.metadata.topic(&topic.topic);
            while let Some(wanted) = topics.next_partition()? {
                let found = found.and_then(|topic| self.metadata.led_partition(topic, wanted.index));
                let (owner, error, leader) = match found {
                    Ok(key) => (Some((self.owner(key), key)), ErrorCode::None, None),
                    Err(not_here) => (None, not_here.error, not_here.leader),
                };
                items.push(FetchItem { owner, wanted, result: ReadResult::error(error), has_some: false, leader });
            }
        }
        Ok(items)
    }

    /// Asks the owners for these partitions.
    fn read_round(&mut self, now: Now, id: RequestId, slots: &[u32], effects: &mut Vec<Effect>) {
        let pending = self.fetches.pending.get_mut(&id).expect("the fetch is under way");
        let mut reads = ByOwner::default();
        for &slot in slots {
            let item = &pending.items[slot as usize];
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
        pending.state = State::Reading { owners_left: reads.len() };
        if reads.is_empty() {
            return self.evaluate(now, id, effects);
        }
        let bytes_max = pending.bytes_max;
        for (owner, items) in reads {
            let read = Read { from: self.options.index, request: id, bytes_max, items };
            self.tell(owner, Message::Read(read), effects);
        }
    }

    /// An owner has replied.
    pub(super) fn fetch_read(&mut self, now: Now, done: ReadDone, effects: &mut Vec<Effect>) {
        // It may be gone: its connection is closed.
        let Some(pending) = self.fetches.pending.get_mut(&done.request) else { return };
        for (slot, result) in done.results {
            pending.items[slot as usize].result = result;
        }
        let State::Reading { owners_left } = &mut pending.state else { panic!("only a read is replied to") };
        *owners_left -= 1;
        if *owners_left == 0 {
            // The owner that was last is the one that was waited for.
            self.enter(done.request, Stage::Local, done.began);
            self.evaluate(now, done.request, effects);
        }
    }

    /// All owners have replied: answers, reads again, or parks (rule 31 of `DelayedFetch`: any error answers at once).
    fn evaluate(&mut self, now: Now, id: RequestId, effects: &mut Vec<Effect>) {
        let pending = self.fetches.pending.get_mut(&id).expect("the fetch is under way");
        let results = || pending.items.iter().map(|item| &item.result);
        let is_due = pending.is_last_read
            || results().map(|result| result.plan.bytes).sum::<usize>() >= pending.bytes_min
            || results().any(|result| result.error != ErrorCode::None || result.diverging_epoch.is_some())
            // What is in files is old: more of it is there already, only not in one response.
            || results().any(|result| has_file(&result.plan))
            || now.elapsed >= pending.deadline
            || self.is_shutting_down;
        if is_due {
            self.complete(now, id, effects);
        } else if pending.woken.is_empty() {
            self.enter(id, Stage::Remote, now.elapsed);
            self.park(id, effects);
        } else {
            let slots = pending.take_stale();
            self.read_round(now, id, &slots, effects);
        }
    }

    /// Waits until enough is committed.
    fn park(&mut self, id: RequestId, effects: &mut Vec<Effect>) {
        let pending = self.fetches.pending.get_mut(&id).expect("the fetch is under way");
        let bytes: usize = pending.items.iter().map(|item| item.result.plan.bytes).sum();
        let share = ((pending.bytes_min - bytes) / pending.items.len()).max(1) as u64;
        let mut watches = ByOwner::default();
        for (slot, item) in (0..).zip(&mut pending.items) {
            let Some((owner, key)) = item.owner else { continue };
            item.has_some = item.result.plan.bytes > 0;
            item.result.plan = ReadPlan::default();
            let committed_bytes = item.result.committed_bytes + share;
            let log_start_offset = item.result.log_start_offset;
            watches.push(owner, WatchItem { slot, key, committed_bytes, log_start_offset });
        }
        pending.state = State::Parked;
        self.timers.set(pending.deadline, id);
        self.fetches.parked += 1;
        for (owner, items) in watches {
            self.fetches.pending.get_mut(&id).expect("it was just there").watching.push(owner);
            let watch = Watch { from: self.options.index, request: id, items };
            self.tell(owner, Message::Watch(watch), effects);
        }
    }

    /// An owner says that watched partitions have more to read.
    pub(super) fn wake(&mut self, id: RequestId, slots: Vec<u32>) {
        let Some(pending) = self.fetches.pending.get_mut(&id) else { return };
        pending.woken.extend(slots);
        if pending.state == State::Parked {
            self.fetches.woken.push(id);
        }
    }

    /// Reads for the fetches that were woken in this turn. Returns whether there were any.
    pub(super) fn read_woken(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let woken = std::mem::take(&mut self.fetches.woken);
        let any = !woken.is_empty();
        for id in woken {
            if self.unpark(id, effects) {
                self.enter(id, Stage::Queue, now.elapsed);
                let pending = self.fetches.pending.get_mut(&id).expect("it was just there");
                let slots = pending.take_stale();
                self.read_round(now, id, &slots, effects);
            }
        }
        any
    }

    /// Ends a fetch's wait, if it waits.
    fn unpark(&mut self, id: RequestId, effects: &mut Vec<Effect>) -> bool {
        let Some(pending) = self.fetches.pending.get_mut(&id) else { return false };
        if pending.state != State::Parked {
            return false;
        }
        pending.state = State::Reading { owners_left: 0 };
        self.timers.clear(pending.deadline, id);
        self.fetches.parked -= 1;
        for owner in std::mem::take(&mut pending.watching) {
            self.tell(owner, Message::Unwatch { from: self.options.index, request: id }, effects);
        }
        true
    }

    /// The deadline of a parked fetch has come: it is answered with what there is.
    pub(super) fn fetch_timed_out(&mut self, now: Now, id: RequestId, effects: &mut Vec<Effect>) -> bool {
        if !self.unpark(id, effects) {
            return false;
        }
        self.enter(id, Stage::Queue, now.elapsed);
        let pending = self.fetches.pending.get_mut(&id).expect("it was just there");
        pending.is_last_read = true;
        let slots = pending.take_stale();
        self.read_round(now, id, &slots, effects);
        true
    }

    /// Answers every parked fetch with what there is: the shard shuts down.
    pub(super) fn answer_parked(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut parked: Vec<RequestId> = self.fetches.pending.keys().copied().collect();
        parked.sort_unstable();
        for id in parked {
            self.fetch_timed_out(now, id, effects);
        }
    }

    /// Forgets a fetch whose connection is gone.
    pub(super) fn cancel_fetch(&mut self, id: RequestId, effects: &mut Vec<Effect>) {
        self.unpark(id, effects);
        if self.fetches.pending.remove(&id).is_some() {
            self.cold.cancel(id);
        }
    }

    /// Settles what the response holds; sends it, or first has its file ranges loaded.
    fn complete(&mut self, now: Now, id: RequestId, effects: &mut Vec<Effect>) {
        let pending = self.fetches.pending.get_mut(&id).expect("the fetch is under way");
        pending.limit();
        self.pay_for_fetch(now, id, effects);
        let pending = &self.fetches.pending[&id];
        let ranges: Vec<SentRange> = pending.items.iter().flat_map(|item| file_ranges(&item.result.plan)).collect();
        if ranges.is_empty() {
            return self.send_fetched(id, effects);
        }
        self.fetches.pending.get_mut(&id).expect("the fetch is under way").state = State::Loading;
        self.enter(id, Stage::Load, now.elapsed);
        self.counters.fetch_disk_reads += ranges.len() as u64;
        self.cold.load(id, ranges, effects);
    }

    /// Counts what a fetch is answered with. The client waits when it is more than its quota.
    fn pay_for_fetch(&mut self, now: Now, id: RequestId, effects: &mut Vec<Effect>) {
        let pending = self.fetches.pending.get_mut(&id).expect("the fetch is under way");
        let bytes: usize = pending.items.iter().map(|item| item.result.plan.bytes).sum();
        // It pays once, though its files were gone when it came to read them.
        let Some(charge) = pending.charge.take().filter(|_| bytes > 0) else { return };
        let throttle = self.quotas.used(now, &charge, bytes, self.options.shards);
        pending.throttle = throttle;
        self.mute(now, id.connection, throttle, effects);
    }

    /// The file ranges of a response are in the page cache, or cannot be.
    pub(super) fn fetch_loaded(
        &mut self,
        now: Now,
        id: RequestId,
        result: Result<(), DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        self.enter(id, Stage::Local, now.elapsed);
        let pending = self.fetches.pending.get_mut(&id).expect("a fetch that is gone loads nothing");
        match result {
            Ok(()) => self.send_fetched(id, effects),
            // Retention was faster: read what is there now, once.
            Err(DiskError::NotFound) if !pending.is_second_try => {
                pending.is_second_try = true;
                pending.is_last_read = true;
                let slots: Vec<u32> = (0..pending.items.len() as u32).collect();
                self.read_round(now, id, &slots, effects);
            }
            Err(_) => {
                for item in pending.items.iter_mut().filter(|item| has_file(&item.result.plan)) {
                    item.result = ReadResult::error(ErrorCode::KafkaStorageError);
                }
                self.send_fetched(id, effects);
            }
        }
    }

    fn enter(&mut self, id: RequestId, stage: Stage, now: Duration) {
        if let Some(timeline) = self.sessions.timeline(id) {
            timeline.enter(stage, now);
        }
    }

    fn send_fetched(&mut self, id: RequestId, effects: &mut Vec<Effect>) {
        let PendingFetch { header, request, items, throttle, .. } =
            self.fetches.pending.remove(&id).expect("the fetch is under way");
        let leaders = items.iter().filter_map(|item| item.leader);
        let endpoints = self.metadata.endpoints(leaders, self.listener_name(id.connection));
        // What a reader far behind the tail has read is dropped behind it: no one else wants it in the page cache.
        let is_behind = |plan: &ReadPlan| plan.parts.iter().all(|part| matches!(part, ReadPart::File { .. }));
        let behind: Vec<SentRange> = items
            .iter()
            .filter(|item| is_behind(&item.result.plan))
            .flat_map(|item| file_ranges(&item.result.plan))
            .filter_map(well_behind)
            .collect();
        for item in &items {
            self.counters.fetch_errors += u64::from(item.result.error != ErrorCode::None);
            let in_files: usize = file_ranges(&item.result.plan).map(|range| range.bytes).sum();
            self.counters.fetched_file_bytes += in_files as u64;
            self.counters.fetched_memory_bytes += (item.result.plan.bytes - in_files) as u64;
        }
        let writer = header.begin_frame(64 + PARTITION_BYTES * items.len());
        let data = items.into_iter().map(FetchItem::into_data).collect();
        let parts = response_parts(writer, &request, data, &endpoints, throttle_time_ms(throttle));
        if !behind.is_empty() {
            self.sessions.discard_after_send(id.connection, behind);
        }
        self.sessions.respond(id, Response::Parts(parts), effects);
    }
}

impl PendingFetch {
    /// The partitions to read again: those with something when it was parked, whose plans are gone, and those that
    /// were woken since.
    fn take_stale(&mut self) -> Vec<u32> {
        for slot in std::mem::take(&mut self.woken) {
            self.items[slot as usize].has_some = true;
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
                cut(plan, allowed.max(plan.first_batch_bytes));
            } else if plan.first_batch_bytes > allowed {
                *plan = ReadPlan::default();
            } else {
                cut(plan, allowed);
            }
            is_first = false;
            bytes_left = bytes_left.saturating_sub(plan.bytes);
        }
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
