//! The owner's side of Fetch: read plans for a session, and watches on partitions that have no more to read yet.

use std::collections::HashMap;
use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::shard_log::{LogId, Read as LogRead, ReadPart, ReadPlan, ReadToken};
use millstream_storage::{DiskError, Now, PartitionKey};

use super::message::{Message, Read, ReadDone, ReadItem, ReadResult, Watch};
use super::partition::Watcher;
use super::session::RequestId;
use super::slab::Slab;
use super::{Effect, Shard, ShardIndex};
use crate::protocol::fetch::{DivergingEpoch, part_bytes};

/// Bytes that one partition contributes to a response from a file: a backfill goes in small steps, between which
/// others have their turn.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// A read whose reply waits for the disk.
#[derive(Debug)]
struct WaitingRead {
    from: ShardIndex,
    request: RequestId,
    results: Vec<(u32, ReadResult)>,
    /// How many of them wait.
    pending: usize,
    began: Duration,
}

/// One partition of a [`WaitingRead`].
#[derive(Debug)]
struct PendingRead {
    log: LogId,
    /// Its read, and the index of the result there.
    place: u32,
    result: usize,
    item: ReadItem,
    allowance: Allowance,
    /// It found its segment gone once already.
    again: bool,
}

/// Reads and watches under way at this shard, as an owner.
#[derive(Debug, Default)]
pub struct Reads {
    waiting: Slab<WaitingRead>,
    pending: HashMap<ReadToken, PendingRead>,
    /// The partitions that requests watch.
    watched: HashMap<(ShardIndex, RequestId), Vec<PartitionKey>>,
    /// Watches that are due, told at the end of the turn.
    pub(super) woken: Vec<Watcher>,
}

/// How much one partition may add to a response (KIP-74).
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: usize,
    /// Nothing was read before it: its first batch is taken however large.
    is_first: bool,
}

/// What came of trying to read one partition.
enum Attempt {
    Done(ReadResult),
    /// The result has everything but the plan.
    Pending(ReadToken, LogId, ReadResult),
}

/// Cuts a plan to at most `bytes_max`; a batch may be cut, as clients expect of the last one.
pub fn cut(plan: &mut ReadPlan, bytes_max: usize) {
    if plan.bytes <= bytes_max {
        return;
    }
    let mut left = bytes_max;
    plan.bytes = bytes_max;
    plan.parts.retain_mut(|part| {
        let keep = part_bytes(part).min(left);
        left -= keep;
        match part {
            ReadPart::Memory(bytes) => bytes.truncate(keep),
            ReadPart::File { bytes, .. } => *bytes = keep,
        }
        keep > 0
    });
}

/// Whether a plan needs a file.
pub fn has_file(plan: &ReadPlan) -> bool {
    plan.parts.iter().any(|part| matches!(part, ReadPart::File { .. }))
}

impl Allowance {
    /// Fits a plan into the allowance: whole, cut, or not at all.
    fn apply(self, plan: &mut ReadPlan) {
        if !self.is_first && plan.first_batch_bytes > self.bytes {
            *plan = ReadPlan::default();
            return;
        }
        if has_file(plan) {
            cut(plan, FILE_BYTES_MAX.max(plan.first_batch_bytes));
        }
    }
}

impl Shard {
    /// Reads, and replies at once if nothing has to be waited for.
    pub(super) fn read(&mut self, now: Now, read: Read, effects: &mut Vec<Effect>) {
        let began = now.elapsed;
        let Read { from, request, bytes_max, items } = read;
        let mut results = Vec::with_capacity(items.len());
        let mut bytes_left = bytes_max;
        let mut is_first = true;
        let mut waits = Vec::new();
        for item in items {
            let allowance = Allowance { bytes: item.bytes_max.min(bytes_left), is_first };
            let result = match self.read_one(&item, allowance) {
                Attempt::Done(result) => result,
                Attempt::Pending(token, log, result) => {
                    // It will have something: what it may take is set aside.
                    bytes_left -= allowance.bytes;
                    is_first = false;
                    waits.push((
                        token,
                        PendingRead { log, place: 0, result: results.len(), item, allowance, again: false },
                    ));
                    result
                }
            };
            bytes_left = bytes_left.saturating_sub(result.plan.bytes);
            is_first &= result.plan.bytes == 0;
            results.push((item.slot, result));
        }
        if waits.is_empty() {
            return self.tell(from, Message::ReadDone(ReadDone { request, began, results }), effects);
        }
        let place = self.reads.waiting.insert(WaitingRead { from, request, results, pending: waits.len(), began });
        for (token, wait) in waits {
            self.reads.pending.insert(token, PendingRead { place, ..wait });
        }
    }

    fn read_one(&mut self, item: &ReadItem, allowance: Allowance) -> Attempt {
        let (log, partition) = match self.partitions.leader(item.key, item.current_leader_epoch) {
            Ok(found) => found,
            Err(error) => return Attempt::Done(ReadResult::error(error)),
        };
        let high_watermark = partition.high_watermark();
        let log_start_offset = self.log.log_start(log);
        let mut result = ReadResult {
            high_watermark,
            log_start_offset,
            committed_bytes: partition.committed_bytes(),
            ..ReadResult::error(ErrorCode::None)
        };
        if item.last_fetched_epoch >= 0 {
            // KIP-595: a client whose last epoch ended earlier here, or that we do not know, has another history.
            let (epoch, end_offset) = self.log.end_offset_for_epoch(log, item.last_fetched_epoch);
            if epoch < 0 || end_offset < 0 {
                return Attempt::Done(ReadResult::error(ErrorCode::OffsetOutOfRange));
            }
            if epoch < item.last_fetched_epoch || end_offset < item.offset {
                result.diverging_epoch = Some(DivergingEpoch { epoch, end_offset });
                return Attempt::Done(result);
            }
        }
        if item.offset < log_start_offset || item.offset > self.log.log_end(log) {
            return Attempt::Done(ReadResult::error(ErrorCode::OffsetOutOfRange));
        }
        // What follows a full response is not looked at; what lies above the high watermark is nobody's yet.
        if item.offset >= high_watermark || (allowance.bytes == 0 && !allowance.is_first) {
            return Attempt::Done(result);
        }
        match self.log.read(log, item.offset, high_watermark, allowance.bytes, &mut self.ops) {
            LogRead::Ready(plan) => {
                result.plan = plan;
                allowance.apply(&mut result.plan);
                Attempt::Done(result)
            }
            LogRead::Pending(token) => {
                self.counters.fetch_disk_reads += 1;
                Attempt::Pending(token, log, result)
            }
        }
    }

    /// A read that waited for the disk is done.
    pub(super) fn read_done(
        &mut self,
        token: ReadToken,
        outcome: Result<ReadPlan, DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pending) = self.reads.pending.remove(&token) else { return };
        match outcome {
            Ok(mut plan) => {
                pending.allowance.apply(&mut plan);
                // Meanwhile more was committed, and the file may hold it: the reply must not seem to go beyond the
                // high watermark.
                if let Some(partition) = self.partitions.get_mut(pending.log) {
                    let result = &mut self.reads.waiting.get_mut(pending.place).results[pending.result].1;
                    result.high_watermark = partition.high_watermark();
                }
                self.finish_read(pending.place, pending.result, Ok(plan), effects);
            }
            // Retention was faster: read what is there now, once.
            Err(DiskError::NotFound) if !pending.again => match self.read_one(&pending.item, pending.allowance) {
                Attempt::Done(result) => {
                    let waiting = self.reads.waiting.get_mut(pending.place);
                    let plan = result.plan.clone();
                    let error = result.error;
                    waiting.results[pending.result].1 = result;
                    let outcome = if error == ErrorCode::None { Ok(plan) } else { Err(error) };
                    self.finish_read(pending.place, pending.result, outcome, effects);
                }
                Attempt::Pending(token, log, result) => {
                    self.reads.waiting.get_mut(pending.place).results[pending.result].1 = result;
                    self.reads.pending.insert(token, PendingRead { log, again: true, ..pending });
                }
            },
            Err(_) => self.finish_read(pending.place, pending.result, Err(ErrorCode::KafkaStorageError), effects),
        }
    }

    fn finish_read(
        &mut self,
        place: u32,
        result: usize,
        outcome: Result<ReadPlan, ErrorCode>,
        effects: &mut Vec<Effect>,
    ) {
        let waiting = self.reads.waiting.get_mut(place);
        let result = &mut waiting.results[result].1;
        match outcome {
            Ok(plan) => result.plan = plan,
            Err(error) => *result = ReadResult::error(error),
        }
        waiting.pending -= 1;
        if waiting.pending == 0 {
            let WaitingRead { from, request, results, began, .. } = self.reads.waiting.remove(place);
            self.tell(from, Message::ReadDone(ReadDone { request, began, results }), effects);
        }
    }

    /// A partition is gone: fails the reads that wait for its files.
    pub(super) fn fail_reads(&mut self, log: LogId, effects: &mut Vec<Effect>) {
        let mut gone: Vec<(ReadToken, PendingRead)> =
            self.reads.pending.extract_if(|_, pending| pending.log == log).collect();
        // The table has no order; effects must have one.
        gone.sort_unstable_by_key(|(token, _)| *token);
        for (_, pending) in gone {
            self.finish_read(pending.place, pending.result, Err(ErrorCode::UnknownTopicOrPartition), effects);
        }
    }

    /// Watches partitions for a request.
    pub(super) fn watch(&mut self, watch: Watch) {
        let Watch { from, request, items } = watch;
        let mut watched = Vec::with_capacity(items.len());
        for item in items {
            let watcher = Watcher {
                from,
                request,
                slot: item.slot,
                committed_bytes: item.committed_bytes,
                log_start_offset: item.log_start_offset,
            };
            let log = self.partitions.find(item.key);
            let partition = log.and_then(|log| self.partitions.get_mut(log));
            let is_watching = match (log, partition) {
                (Some(log), Some(partition)) => partition.watch(watcher, self.log.log_start(log)),
                _ => false,
            };
            if is_watching {
                watched.push(item.key);
            } else {
                self.reads.woken.push(watcher);
            }
        }
        self.reads.watched.insert((from, request), watched);
    }

    /// Forgets what a request watches.
    pub(super) fn unwatch(&mut self, from: ShardIndex, request: RequestId) {
        for key in self.reads.watched.remove(&(from, request)).unwrap_or_default() {
            if let Some(log) = self.partitions.find(key) {
                self.partitions.get_mut(log).expect("it was just found").unwatch(from, request);
            }
        }
    }

    /// Tells requests that what they watch has more to read: one message each.
    pub(super) fn tell_woken(&mut self, effects: &mut Vec<Effect>) {
        if self.reads.woken.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut self.reads.woken);
        woken.sort_unstable_by_key(|watcher| (watcher.from, watcher.request, watcher.slot));
        for watchers in woken.chunk_by(|a, b| (a.from, a.request) == (b.from, b.request)) {
            let slots = watchers.iter().map(|watcher| watcher.slot).collect();
            self.tell(watchers[0].from, Message::Wake { request: watchers[0].request, slots }, effects);
        }
    }
}
