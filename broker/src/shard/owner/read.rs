//! The owner's side of Fetch: read plans for a session, and watches on partitions that have no more to read yet.

use std::collections::HashMap;
use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::shard_log::{LogId, Read, ReadPlan, ReadToken};
use millstream_storage::{DiskError, PartitionKey};

use super::partition::Watcher;
use super::reader::{Allowance, FetchRead, Reader};
use super::replicas::Replicas;
use crate::metrics::Sample;
use crate::protocol::fetch::DivergingEpoch;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{Message, ReadItem, ReadReply, ReadRequest, ReadResult, Watch};
use crate::shard::turn::Turn;
use crate::slab::Slab;

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

/// Reads and watches under way at this shard, as an owner.
#[derive(Debug, Default)]
pub struct Reads {
    waiting: Slab<WaitingRead>,
    /// The partitions that requests watch.
    watched: HashMap<(ShardIndex, RequestId), Vec<PartitionKey>>,
    /// Watches that are due, told at the end of the turn.
    pub woken: Vec<Watcher>,
    /// Reads that had to look for their batch in a file, since the start.
    disk_reads: u64,
}

/// What came of trying to read one partition.
enum Attempt {
    Done(ReadResult),
    /// The result has everything but the plan.
    Pending(ReadToken, LogId, ReadResult),
}

impl Allowance {
    /// Fits a plan into the allowance: whole, cut, or not at all.
    fn apply(self, plan: &mut ReadPlan) {
        if !self.is_first && plan.first_batch_bytes > self.bytes {
            *plan = ReadPlan::default();
            return;
        }
        if plan.has_file() {
            plan.cut(FILE_BYTES_MAX.max(plan.first_batch_bytes));
        }
    }
}

impl Reads {
    /// Reads, and replies at once if nothing has to be waited for.
    pub fn take(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, read: ReadRequest) {
        let began = turn.now.elapsed;
        let ReadRequest { from, request, bytes_max, items } = read;
        let mut results = Vec::with_capacity(items.len());
        let mut bytes_left = bytes_max;
        let mut is_first = true;
        let mut waits = Vec::new();
        for item in items {
            let allowance = Allowance { bytes: item.bytes_max.min(bytes_left), is_first };
            let result = match self.read_one(replicas, &item, allowance) {
                Attempt::Done(result) => result,
                Attempt::Pending(token, log, result) => {
                    // It will have something: what it may take is set aside.
                    bytes_left -= allowance.bytes;
                    is_first = false;
                    waits.push((
                        token,
                        FetchRead { log, place: 0, result: results.len(), item, allowance, again: false },
                    ));
                    result
                }
            };
            bytes_left = bytes_left.saturating_sub(result.plan.bytes);
            is_first &= result.plan.bytes == 0;
            results.push((item.slot, result));
        }
        if waits.is_empty() {
            return turn.tell(from, Message::ReadReply(ReadReply { request, began, results }));
        }
        let place = self.waiting.insert(WaitingRead { from, request, results, pending: waits.len(), began });
        for (token, wait) in waits {
            replicas.readers.insert(token, Reader::Fetch(FetchRead { place, ..wait }));
        }
    }

    fn read_one(&mut self, replicas: &mut Replicas, item: &ReadItem, allowance: Allowance) -> Attempt {
        let (log, partition) = match replicas.partitions.leader(item.key, item.current_leader_epoch) {
            Ok(found) => found,
            Err(error) => return Attempt::Done(ReadResult::error(error)),
        };
        let high_watermark = partition.high_watermark();
        let log_start_offset = replicas.log.log_start(log);
        let mut result = ReadResult {
            high_watermark,
            log_start_offset,
            committed_bytes: partition.committed_bytes(),
            ..ReadResult::error(ErrorCode::None)
        };
        if item.last_fetched_epoch >= 0 {
            // KIP-595: a client whose last epoch ended earlier here, or that we do not know, has another history.
            let (epoch, end_offset) = replicas.log.end_offset_for_epoch(log, item.last_fetched_epoch);
            if epoch < 0 || end_offset < 0 {
                return Attempt::Done(ReadResult::error(ErrorCode::OffsetOutOfRange));
            }
            if epoch < item.last_fetched_epoch || end_offset < item.offset {
                result.diverging_epoch = Some(DivergingEpoch { epoch, end_offset });
                return Attempt::Done(result);
            }
        }
        if item.offset < log_start_offset || item.offset > replicas.log.log_end(log) {
            return Attempt::Done(ReadResult::error(ErrorCode::OffsetOutOfRange));
        }
        // What follows a full response is not looked at; what lies above the high watermark is nobody's yet.
        if item.offset >= high_watermark || (allowance.bytes == 0 && !allowance.is_first) {
            return Attempt::Done(result);
        }
        match replicas.log.read(log, item.offset, high_watermark, allowance.bytes, &mut replicas.ops) {
            Read::Ready(plan) => {
                result.plan = plan;
                allowance.apply(&mut result.plan);
                Attempt::Done(result)
            }
            Read::Pending(token) => {
                self.disk_reads += 1;
                Attempt::Pending(token, log, result)
            }
        }
    }

    /// A read that waited for the disk is done.
    pub fn read_done(
        &mut self,
        turn: &mut Turn<'_>,
        replicas: &mut Replicas,
        read: FetchRead,
        outcome: Result<ReadPlan, DiskError>,
    ) {
        let result = &mut self.waiting.get_mut(read.place).results[read.result].1;
        match outcome {
            Ok(plan) => {
                result.plan = plan;
                read.allowance.apply(&mut result.plan);
                // Meanwhile more was committed, and the file may hold it: the reply must not seem to go beyond the
                // high watermark.
                if let Some(partition) = replicas.partitions.get_mut(read.log) {
                    result.high_watermark = partition.high_watermark();
                }
            }
            // Retention was faster: read what is there now, once.
            Err(DiskError::NotFound) if !read.again => match self.read_one(replicas, &read.item, read.allowance) {
                Attempt::Done(now) => self.waiting.get_mut(read.place).results[read.result].1 = now,
                Attempt::Pending(token, log, so_far) => {
                    self.waiting.get_mut(read.place).results[read.result].1 = so_far;
                    return replicas.readers.insert(token, Reader::Fetch(FetchRead { log, again: true, ..read }));
                }
            },
            Err(_) => *result = ReadResult::error(ErrorCode::KafkaStorageError),
        }
        self.finish_one(turn, read.place);
    }

    /// One result of a read is there: replies when it was the last.
    fn finish_one(&mut self, turn: &mut Turn<'_>, place: u32) {
        let waiting = self.waiting.get_mut(place);
        assert!(waiting.pending > 0, "a read is done once");
        waiting.pending -= 1;
        if waiting.pending == 0 {
            let WaitingRead { from, request, results, began, .. } = self.waiting.remove(place);
            turn.tell(from, Message::ReadReply(ReadReply { request, began, results }));
        }
    }

    /// A partition is gone, or led here no more: fails the reads that wait for its files.
    pub fn fail(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, log: LogId, error: ErrorCode) {
        for read in replicas.readers.take_fetches(log) {
            self.waiting.get_mut(read.place).results[read.result].1 = ReadResult::error(error);
            self.finish_one(turn, read.place);
        }
    }

    /// Watches partitions for a request.
    pub fn watch(&mut self, replicas: &mut Replicas, watch: Watch) {
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
            let is_watching = replicas
                .partitions
                .find_mut(item.key)
                .is_some_and(|(log, partition)| partition.watch(watcher, replicas.log.log_start(log)));
            if is_watching {
                watched.push(item.key);
            } else {
                self.woken.push(watcher);
            }
        }
        self.watched.insert((from, request), watched);
    }

    /// Forgets what a request watches.
    pub fn unwatch(&mut self, replicas: &mut Replicas, from: ShardIndex, request: RequestId) {
        for key in self.watched.remove(&(from, request)).unwrap_or_default() {
            if let Some((_, partition)) = replicas.partitions.find_mut(key) {
                partition.unwatch(from, request);
            }
        }
    }

    /// Whether there are watchers to tell.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Tells requests that what they watch has more to read: one message each.
    pub fn tell_woken(&mut self, turn: &mut Turn<'_>) {
        if self.woken.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut self.woken);
        woken.sort_unstable_by_key(|watcher| (watcher.from, watcher.request, watcher.slot));
        for watchers in woken.chunk_by(|a, b| (a.from, a.request) == (b.from, b.request)) {
            let slots = watchers.iter().map(|watcher| watcher.slot).collect();
            turn.tell(watchers[0].from, Message::Wake { request: watchers[0].request, slots });
        }
    }

    /// Counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        samples.push(Sample::counter(
            "millstream_fetch_disk_reads_total",
            "Reads of fetches that had to look for their batch in a file.",
            self.disk_reads,
        ));
    }
}
