//! One fetch: what it asks for, what was read for it, and how that is kept within its limits and sent.

use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::PartitionKey;
use millstream_storage::shard_log::{ReadPart, ReadPlan};

use super::clients::Clients;
use super::connection::{Response, SentRange};
use super::quotas::{Charge, throttle_time_ms};
use crate::protocol::fetch::{FetchPartition, FetchRequest, PartitionData, response_parts};
use crate::protocol::header::ResponseHeader;
use crate::protocol::topic::CurrentLeader;
use crate::protocol::wire::WireError;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{ByOwner, REQUEST_PARTITIONS_MAX, ReadItem, ReadResult, WatchItem};
use crate::shard::turn::Turn;

/// How far behind a reader of old data the page cache is dropped. Its next request begins before the end of the last
/// response when that was cut within a batch, and other readers may be a little behind it: what they are about to be sent
/// must not be dropped after it was found resident.
const DISCARD_LAG_BYTES: u64 = 8 << 20;
/// About what a partition takes in a response, beside its records.
const PARTITION_BYTES: usize = 64;

/// One partition of a request.
#[derive(Debug)]
pub struct FetchItem {
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
pub struct Fetch {
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

/// The partitions of a request, and who owns them.
pub fn fetch_items(turn: &Turn<'_>, request: &FetchRequest) -> Result<Vec<FetchItem>, WireError> {
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
    /// A request as it came; `room`: bytes that the client's quota leaves it.
    pub fn new(
        turn: &Turn<'_>,
        header: ResponseHeader,
        request: FetchRequest,
        items: Vec<FetchItem>,
        room: usize,
        charge: Option<Charge>,
    ) -> Fetch {
        let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0).min(turn.options.fetch_bytes_max).min(room);
        let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        Fetch {
            header,
            bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
            bytes_max,
            deadline: turn.now.elapsed + max_wait,
            charge,
            throttle: Duration::ZERO,
            items,
            request,
        }
    }

    /// Whether it may wait for more than there is now.
    pub fn may_wait(&self) -> bool {
        self.request.max_wait_ms > 0 && !self.items.is_empty()
    }

    /// When it waits no longer.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Bytes of records that its response may hold, but for the first batch.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// All of its partitions.
    pub fn slots(&self) -> Vec<u32> {
        (0..self.items.len() as u32).collect()
    }

    /// What their owners are asked about these partitions.
    pub fn reads(&self, slots: &[u32]) -> ByOwner<ReadItem> {
        let mut reads = ByOwner::default();
        for &slot in slots {
            let item = &self.items[slot as usize];
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
        reads
    }

    /// Takes what an owner has read.
    pub fn take_results(&mut self, results: Vec<(u32, ReadResult)>) {
        for (slot, result) in results {
            self.items[slot as usize].result = result;
        }
    }

    /// It is going to wait: what its owners are to watch for. Plans are dropped, as files and memory do not wait.
    pub fn watches(&mut self) -> ByOwner<WatchItem> {
        let bytes: usize = self.items.iter().map(|item| item.result.plan.bytes).sum();
        let share = ((self.bytes_min - bytes) / self.items.len()).max(1) as u64;
        let mut watches = ByOwner::default();
        for (slot, item) in (0..).zip(&mut self.items) {
            let Some((owner, key)) = item.owner else { continue };
            item.has_some = item.result.plan.bytes > 0;
            item.result.plan = ReadPlan::default();
            let committed_bytes = item.result.committed_bytes + share;
            let log_start_offset = item.result.log_start_offset;
            watches.push(owner, WatchItem { slot, key, committed_bytes, log_start_offset });
        }
        watches
    }

    /// The file ranges of its response.
    pub fn ranges(&self) -> Vec<SentRange> {
        self.items.iter().flat_map(|item| file_ranges(&item.result.plan)).collect()
    }

    /// Its files cannot be read: the partitions that need one say so.
    pub fn fail_files(&mut self) {
        for item in self.items.iter_mut().filter(|item| item.result.plan.has_file()) {
            item.result = ReadResult::error(ErrorCode::KafkaStorageError);
        }
    }

    /// Whether it is to be answered with what was read. As in Kafka's `DelayedFetch`, any error answers at once.
    pub fn is_due(&self, now: Duration) -> bool {
        let results = || self.items.iter().map(|item| &item.result);
        results().map(|result| result.plan.bytes).sum::<usize>() >= self.bytes_min
            || results().any(|result| result.error != ErrorCode::None || result.diverging_epoch.is_some())
            // What is in files is old: more of it is there already, only not in one response.
            || results().any(|result| result.plan.has_file())
            || now >= self.deadline
    }

    /// The partitions to read again: those with something when it was parked, whose plans are gone, and those that
    /// were woken since.
    pub fn take_stale(&mut self, woken: &[u32]) -> Vec<u32> {
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
    pub fn limit(&mut self) {
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
    pub fn pay(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let bytes: usize = self.items.iter().map(|item| item.result.plan.bytes).sum();
        // It pays once, though its files were gone when it came to read them.
        if let Some(charge) = self.charge.take().filter(|_| bytes > 0) {
            self.throttle = clients.pay(turn, id.connection, Some(charge), bytes);
        }
    }

    /// Answers it.
    pub fn send(self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let Fetch { header, request, mut items, throttle, .. } = self;
        items.iter_mut().for_each(|item| item.find_leader(turn));
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
    /// Its owner has said that it is led by another, or in another epoch: finds out by whom.
    fn find_leader(&mut self, turn: &Turn<'_>) {
        let is_led_otherwise =
            matches!(self.result.error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
        if let (true, Some((_, key))) = (is_led_otherwise, self.owner) {
            self.leader = turn.metadata.current_leader(key);
        }
    }

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
