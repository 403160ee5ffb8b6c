//! All the partition logs of one shard behind one journal: group commit, write-back, checkpoints, retention.
//!
//! Calling contract. In each turn the shard calls [`ShardLog::append`] and the other verbs for what has arrived, then
//! [`ShardLog::end_turn`] once. Disk operations come out through `ops`; each result goes back through
//! [`ShardLog::on_disk`], which says what became true ([`Progress`]). `Err(Fatal)` means: acknowledge nothing more and
//! exit.

mod checkpoints;
mod cleaner;
mod commit;
mod plan;
mod results;
mod write_back;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::batch::{BATCH_HEADER_BYTES, Batches, TimestampType};
use crate::block::BlockPool;
use crate::bug::{Bug, is_planted};
use crate::checkpoint::{CheckpointBuilder, CheckpointHeader, checkpoint_path, journal_path};
use crate::compaction::Replacement;
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, DiskToken, FilePath};
use crate::journal::{GroupBuilder, GroupPlace};
use crate::partition_log::{FileState, PartitionLog, PartitionState, Segment, index_path};
use crate::producer::ProducerView;
use crate::recovery::RecoveredShard;
use crate::walk::{Goal, Outcome, Step, Walk};
use crate::{Now, PartitionKey};
use cleaner::Cleaner;

/// Disk operations to execute, each with the token under which its result is to come back.
pub type Ops = Vec<(DiskToken, DiskOp)>;

/// A partition's place in its shard's log; valid until the partition is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

/// Names a read that has to wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadToken(pub u64);

/// What a topic's configuration means to its partitions' logs. Kafka's names, units and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `retention.ms`; negative: no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
    /// `cleanup.policy` contains `delete`: retention applies.
    pub cleanup_delete: bool,
    /// `cleanup.policy` contains `compact`.
    pub compaction: Option<CompactionConfig>,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
}

/// What a compacted topic's configuration says about compaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionConfig {
    /// `min.cleanable.dirty.ratio`: from which share of bytes that were not compacted yet on it pays.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`: records stay untouched for so long.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: after so long they are compacted whatever the ratio.
    pub max_lag_ms: i64,
    /// `delete.retention.ms`: how long tombstones stay after the compaction that meets them first.
    pub delete_retention_ms: i64,
}

impl Eq for CompactionConfig {}

impl LogConfig {
    /// After how long a segment is closed, in milliseconds: what is never closed is never compacted.
    pub(crate) fn roll_ms(&self) -> i64 {
        self.compaction.map_or(i64::MAX, |compaction| compaction.max_lag_ms).min(self.segment_ms)
    }
}

/// Where an append landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; for a duplicate the offset it was given the first time.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// The broker's time in the records with LogAppendTime, else -1.
    pub log_append_time: i64,
    /// The batches were here already (idempotent producer): nothing was appended. They may not be durable yet.
    pub duplicate: bool,
}

/// Why an append was refused; nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// A sequence number does not follow the last one (OUT_OF_ORDER_SEQUENCE_NUMBER).
    OutOfOrderSequence,
    /// The producer's epoch is older than one seen (INVALID_PRODUCER_EPOCH).
    InvalidProducerEpoch,
    /// The batches are larger than a segment may be (RECORD_LIST_TOO_LARGE).
    LargerThanSegment,
    /// Free space is below the floor, or more waits for the disk than the journal can take (KAFKA_STORAGE_ERROR,
    /// retriable).
    NoSpace,
}

/// A slice of a partition's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPart {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a segment file. The file stays for at least `file.delete.delay.ms`.
    File { path: FilePath, position: u64, bytes: usize },
}

/// An answer to a read: whole batches from the one containing the offset, the last possibly cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadPlan {
    /// Slices in order; none when there is nothing to read yet.
    pub parts: Vec<ReadPart>,
    /// Total length of `parts`.
    pub bytes: usize,
    /// Length of the first batch, which must be sent whole or not at all; 0 when there is none.
    pub first_batch_bytes: usize,
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The answer.
    Ready(ReadPlan),
    /// It needs the disk: [`Progress::ReadDone`] will carry this token.
    Pending(ReadToken),
}

/// What `ListOffsets` looks for by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeQuery {
    /// The first record whose timestamp is at or after this one.
    AtOrAfter(i64),
    /// The record with the largest timestamp (KIP-734), the first of them.
    Max,
}

/// The record found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeFound {
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp, milliseconds.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub leader_epoch: i32,
}

/// The result of a time query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLookup {
    /// Known at once: the record, or none.
    Ready(Option<TimeFound>),
    /// It needs the disk: [`Progress::TimeDone`] will carry this token.
    Pending(ReadToken),
}

/// What became true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything below `offset` survives a loss of power.
    Durable { log: LogId, offset: i64 },
    /// The log start offset moved, durably: by [`ShardLog::delete_records`] or by retention.
    LogStart { log: LogId, offset: i64 },
    /// A pending read finished. `Err(NotFound)`: the segment is gone, read again.
    ReadDone { token: ReadToken, result: Result<ReadPlan, DiskError> },
    /// A pending time query finished.
    TimeDone { token: ReadToken, result: Result<Option<TimeFound>, DiskError> },
    /// Compacting a partition failed: its records are all there, and it is left alone until the next start.
    CompactionFailed { log: LogId, why: String },
}

/// The log cannot go on: a write or sync failed. Acknowledge nothing more; exit; restart recovers from the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal(pub String);

/// Sizes and limits of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLogOptions {
    /// Memory for the newest bytes of all partitions once they are written back (`millstream.tail.memory.bytes`).
    pub tail_memory_bytes_max: usize,
    /// Free space below which appends are refused (`millstream.free.space.floor.bytes`).
    pub free_space_floor_bytes: u64,
    /// What one partition appended in one turn goes straight to its segment from this length on
    /// (`millstream.extent.bytes`).
    pub extent_bytes_min: usize,
    /// `log.retention.check.interval.ms`
    pub retention_check_interval: Duration,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// Idempotent producers remembered in all partitions together, besides the last one of each: a new one takes the
    /// place of the one that was silent for the longest in its partition.
    pub producers_max: usize,
    /// How the shard compacts.
    pub cleaner: CleanerOptions,
}

/// How a shard compacts: one partition at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanerOptions {
    /// `log.cleaner.enable`
    pub is_enabled: bool,
    /// Memory for the last offsets of keys, in bytes: this shard's part of `log.cleaner.dedupe.buffer.size`.
    pub map_bytes_max: usize,
    /// Read and written together, in bytes a second: this shard's part of `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second_max: u64,
    /// `log.cleaner.backoff.ms`: how long to wait when there is nothing to do.
    pub backoff: Duration,
}

/// Kafka's defaults, for a single shard.
impl Default for CleanerOptions {
    fn default() -> CleanerOptions {
        CleanerOptions {
            is_enabled: true,
            map_bytes_max: 128 << 20,
            bytes_per_second_max: u64::MAX,
            backoff: Duration::from_secs(15),
        }
    }
}

/// How long after the start what recovery left over is removed.
const LEFTOVER_DELAY: Duration = Duration::from_secs(1);
/// Files and directories being removed at once: few, for others wait for the same threads.
const REMOVALS_MAX: usize = 4;
/// What may be appended but not durable, as a share of the journal: 1 / 4.
const PENDING_SHARE: u64 = 4;
/// Memory of tail blocks kept for reuse besides the tails, as a share of the memory for the newest records: 1 / 4.
pub const TAIL_REUSE_SHARE: usize = 4;
/// Blocks that the tails did not need for so long are freed.
const POOL_INTERVAL: Duration = Duration::from_secs(10);
/// Memory of indexes of closed segments that were loaded for cold reads.
const LOADED_INDEX_BYTES_MAX: usize = 32 << 20;

/// Counters of a shard's log since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Commit groups written.
    pub groups: u64,
    /// Bytes of commit groups, with padding.
    pub group_bytes: u64,
    /// Appends to the log, in batches.
    pub appends: u64,
    /// Bytes appended.
    pub append_bytes: u64,
    /// Extents written.
    pub extents: u64,
    /// Bytes of extents.
    pub extent_bytes: u64,
    /// Write-backs.
    pub write_backs: u64,
    /// Bytes written back.
    pub write_back_bytes: u64,
    /// Checkpoints published.
    pub checkpoints: u64,
    /// Segments removed by retention or DeleteRecords.
    pub segments_removed: u64,
    /// Disk reads that consumers' requests caused (cold reads, lookups by time).
    pub disk_reads: u64,
    /// Reads answered from memory.
    pub memory_reads: u64,
    /// Reads answered with a file range.
    pub file_reads: u64,
    /// Reads and lookups refused because a segment is damaged.
    pub damaged_reads: u64,
    /// Turns in which a commit had to wait for room in the journal.
    pub journal_full: u64,
    /// Operations that found the disk full.
    pub no_space: u64,
    /// Gauge: memory of the tails, bytes.
    pub tail_bytes: u64,
    /// Gauge: memory kept for reuse, for tails, commit groups and checkpoints, bytes.
    pub pool_bytes: u64,
    /// Blocks of the tails that the allocator provided.
    pub blocks_fresh: u64,
    /// Blocks of the tails that had been used before.
    pub blocks_reused: u64,
    /// Idempotent producers remembered now.
    pub producers: u64,
    /// Gauge: bytes appended but not yet durable.
    pub pending_bytes: u64,
    /// Gauge: partitions.
    pub partitions: u64,
    /// Compactions of a partition that came to their end.
    pub compactions: u64,
    /// Compactions that failed; their partitions are left alone until the next start.
    pub compactions_failed: u64,
    /// Bytes that compactions have read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions have written.
    pub compaction_written_bytes: u64,
    /// Records that compactions have removed.
    pub compaction_removed_records: u64,
    /// Gauge: memory of the compaction under way, in bytes.
    pub compaction_memory_bytes: u64,
}

/// What an operation under way is for.
#[derive(Debug)]
enum Purpose {
    Group,
    Extent { log: LogId, segment: i64, from: u64, to: u64, remainder: Vec<u8> },
    WriteBack { log: LogId, segment: i64, to: u64, remainder: Vec<u8> },
    LoadRemainder { log: LogId, segment: i64 },
    Sync { log: LogId, segment: i64, to: u64 },
    CreateDirectory { log: LogId },
    Allocate { log: LogId, segment: i64, bytes: u64 },
    Fill,
    CloseTruncate { log: LogId, segment: i64 },
    CloseIndex { log: LogId, segment: i64 },
    Walk(Box<Walk>),
    Checkpoint,
    Remove,
    Compact { log: LogId },
}

/// The commit group under way; there is at most one.
#[derive(Debug)]
struct Group {
    /// The journal write and the extents not finished yet.
    outstanding: usize,
    bytes: u64,
    /// What becomes durable with it: segment and position, and the offset it ends at.
    ends: Vec<(LogId, i64, u64, i64)>,
    log_starts: Vec<(LogId, i64)>,
    replacements: Vec<(LogId, Replacement)>,
}

/// Fills the journal with zeros ahead of its first use: see [`crate::zeros`]. Space that was never written reads as zeros
/// anyway, so a fill changes nothing that recovery could see.
#[derive(Debug)]
struct Fill {
    /// What is filled next. Always a slot that no group has been in.
    slot: usize,
    position: u64,
    /// A piece is being written.
    is_writing: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The last group in it; the slot is free when a checkpoint covers it.
    last_sequence: u64,
}

/// A checkpoint on its way to the disk.
#[derive(Debug)]
struct PendingCheckpoint {
    /// Groups up to this one are not needed once it is published.
    cut: u64,
    /// Logs whose bytes of those groups have not all reached their segments durably.
    draining: usize,
    /// It holds what was appended but not durable when it was encoded: it waits until these are durable too.
    waits: Vec<(LogId, i64)>,
    stage: CheckpointStage,
}

/// How far a checkpoint has come.
#[derive(Debug)]
enum CheckpointStage {
    /// Logs are being encoded; `next` is the place to go on with.
    Encoding { builder: CheckpointBuilder, next: usize },
    /// The whole file. It says of every segment what draining will have made true.
    Draining(Bytes),
    /// It is being written.
    Publishing,
}

/// All the partition logs of one shard.
pub struct ShardLog {
    options: ShardLogOptions,
    shard: u16,
    directory: String,
    salt: crate::journal::Salt,
    logs: Vec<Option<PartitionLog>>,
    free: Vec<u32>,
    by_key: HashMap<PartitionKey, LogId>,
    pool: BlockPool,
    /// When blocks that were not needed are freed.
    pool_at: Duration,

    /// Logs with something for the next group, oldest first.
    dirty: VecDeque<LogId>,
    group: Option<Group>,
    builder: GroupBuilder,
    sequence: u64,
    slots: Vec<Slot>,
    slot_bytes: u64,
    slot: usize,
    position: u64,
    fill: Fill,
    checkpointed: u64,
    checkpoint: Option<PendingCheckpoint>,
    /// Numbers the checkpoints since the start, from 1.
    checkpoint_number: u64,
    /// Length of the last one.
    checkpoint_bytes: usize,
    /// The last one, if it was written a short while ago: the next takes its memory.
    checkpoint_file: Bytes,

    /// Logs whose segments want write-back, sync or closing.
    write_back: VecDeque<LogId>,
    write_backs: usize,
    tail_bytes: usize,
    evictable: VecDeque<LogId>,
    /// Idempotent producers remembered, over all partitions.
    producers: usize,
    cleaner: Cleaner,
    loaded_indexes: VecDeque<(LogId, i64, usize)>,
    loaded_index_bytes: usize,

    purposes: HashMap<DiskToken, (Purpose, Option<DiskOp>)>,
    next_token: u64,
    next_read: u64,
    retries: VecDeque<(Duration, DiskToken)>,
    /// Files to remove, and when.
    removals: VecDeque<(Duration, FilePath)>,
    /// Directories of partitions that are gone.
    gone_directories: VecDeque<FilePath>,
    /// Removals under way.
    removing: usize,
    /// Places of logs that are gone; the queues may still name them.
    gone: Vec<u32>,
    is_below_floor: bool,
    /// The last time heard of.
    clock: Duration,
    /// When the log was recovered, in milliseconds since the Unix epoch, by what the clock said then.
    recovered_ms: i64,
    sweep_at: Duration,
    sweep_cursor: usize,
    stats: LogStats,
}

impl ShardLog {
    /// The log of a shard as recovery found it, with its partitions. `configs` gives each recovered partition's topic
    /// name and configuration.
    pub fn new(
        options: ShardLogOptions,
        recovered: RecoveredShard,
        configs: impl Fn(PartitionKey) -> (String, LogConfig),
    ) -> ShardLog {
        let journal_bytes = u64::from(recovered.checkpoint.slots) * recovered.checkpoint.slot_bytes;
        // What is in the journal and not in a segment is in a tail, however small their share is.
        let tail_bytes_max = options.tail_memory_bytes_max.max(journal_bytes as usize);
        let mut log = ShardLog {
            pool: BlockPool::new(tail_bytes_max + options.tail_memory_bytes_max / TAIL_REUSE_SHARE),
            pool_at: POOL_INTERVAL,
            sweep_at: options.retention_check_interval,
            options,
            shard: recovered.checkpoint.shard,
            directory: recovered.directory,
            salt: recovered.checkpoint.salt,
            logs: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            dirty: VecDeque::new(),
            group: None,
            builder: GroupBuilder::new(),
            sequence: recovered.checkpoint.sequence,
            slots: vec![Slot::default(); recovered.checkpoint.slots as usize],
            slot_bytes: recovered.checkpoint.slot_bytes,
            slot: 0,
            position: 0,
            fill: Fill::after_first_slot(),
            checkpointed: recovered.checkpoint.sequence,
            checkpoint: None,
            checkpoint_number: 0,
            checkpoint_bytes: 0,
            checkpoint_file: Bytes::new(),
            write_back: VecDeque::new(),
            write_backs: 0,
            tail_bytes: 0,
            evictable: VecDeque::new(),
            producers: 0,
            cleaner: Cleaner::default(),
            loaded_indexes: VecDeque::new(),
            loaded_index_bytes: 0,
            purposes: HashMap::new(),
            next_token: 0,
            next_read: 0,
            retries: VecDeque::new(),
            removals: VecDeque::new(),
            gone_directories: VecDeque::new(),
            removing: 0,
            gone: Vec::new(),
            is_below_floor: false,
            clock: Duration::ZERO,
            recovered_ms: recovered.recovered_ms,
            sweep_cursor: 0,
            stats: LogStats::default(),
        };
        log.removals.extend(recovered.leftovers.into_iter().map(|path| (LEFTOVER_DELAY, path)));
        for state in &recovered.checkpoint.partitions {
            let (topic, config) = configs(state.key);
            let id = log.insert(PartitionLog::new(&topic, config, state));
            if log.log(id).segments.len() > 1 {
                log.enqueue(id);
            }
        }
        log
    }

    fn insert(&mut self, partition: PartitionLog) -> LogId {
        let key = partition.key;
        self.producers += partition.producers.len();
        let id = match self.free.pop() {
            Some(index) => {
                self.logs[index as usize] = Some(partition);
                LogId(index)
            }
            None => {
                self.logs.push(Some(partition));
                LogId((self.logs.len() - 1) as u32)
            }
        };
        self.by_key.insert(key, id);
        id
    }

    fn log(&self, log: LogId) -> &PartitionLog {
        self.logs[log.0 as usize].as_ref().expect("the caller holds a live LogId")
    }

    fn log_mut(&mut self, log: LogId) -> &mut PartitionLog {
        self.logs[log.0 as usize].as_mut().expect("the caller holds a live LogId")
    }

    /// Creates a partition's log, empty; returns the existing one if it is here already. Its files are created with
    /// its first bytes.
    pub fn create_partition(&mut self, key: PartitionKey, topic: &str, config: LogConfig) -> LogId {
        if let Some(&log) = self.by_key.get(&key) {
            self.set_config(log, config);
            return log;
        }
        let state = PartitionState::empty(key, config.index_interval_bytes);
        self.insert(PartitionLog::new(topic, config, &state))
    }

    /// The log of a partition, if it is here.
    pub fn find(&self, key: PartitionKey) -> Option<LogId> {
        self.by_key.get(&key).copied()
    }

    /// The partitions that are here, in no order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionKey, LogId)> + '_ {
        self.by_key.iter().map(|(&key, &log)| (key, log))
    }

    /// Forgets a partition and removes its files as soon as nothing is under way on them. What of it was not durable
    /// never becomes so: no progress is reported for it any more.
    pub fn remove_partition(&mut self, log: LogId) {
        let partition = self.log_mut(log);
        partition.removing = true;
        let key = partition.key;
        self.by_key.remove(&key);
        self.leave_uncompacted(log);
        self.finish_removal(log);
    }

    fn finish_removal(&mut self, log: LogId) {
        let Some(partition) = self.logs[log.0 as usize].as_ref() else { return };
        if !partition.removing || partition.operations > 0 || partition.in_group {
            return;
        }
        let mut partition = self.logs[log.0 as usize].take().expect("seen above");
        self.tail_bytes -= partition.tail.capacity();
        self.producers -= partition.producers.len();
        // What no group has taken will never be durable: it is not waited for.
        let never_durable = partition.segments.iter().map(|segment| segment.bytes - segment.gathered);
        self.stats.pending_bytes -= never_durable.sum::<u64>();
        partition.tail.clear(&mut self.pool);
        let is_draining = partition.segments.iter().any(|segment| segment.drain_to > 0);
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.draining -= usize::from(is_draining);
        }
        self.gone.push(log.0);
        if partition.directory_created {
            self.gone_directories.push_back(partition.directory.as_ref().into());
        }
    }

    /// Takes the logs that are gone out of the queues, all at once: a topic may have thousands of them. Only then are
    /// their places used again.
    fn forget_gone(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let logs = &self.logs;
        let is_live = |log: &LogId| logs[log.0 as usize].is_some();
        self.dirty.retain(is_live);
        self.write_back.retain(is_live);
        self.evictable.retain(is_live);
        self.loaded_indexes.retain(|(log, _, bytes)| {
            self.loaded_index_bytes -= if is_live(log) { 0 } else { *bytes };
            is_live(log)
        });
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.waits.retain(|(log, _)| is_live(log));
        }
        self.free.append(&mut self.gone);
    }

    /// Changes what the topic's configuration says.
    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        self.log_mut(log).config = config;
    }

    /// `producer.id.expiration.ms` from now on.
    pub fn set_producer_expiration(&mut self, ms: i64) {
        self.options.producer_expiration_ms = ms;
    }

    /// How fast this shard compacts from now on, and how often it looks for something to compact.
    pub fn set_cleaner_pace(&mut self, bytes_per_second_max: u64, backoff: Duration) {
        self.options.cleaner = CleanerOptions { bytes_per_second_max, backoff, ..self.options.cleaner };
    }

    /// This node leads the partition from now on, in this epoch: batches appended carry it.
    pub fn lead(&mut self, log: LogId, leader_epoch: i32) {
        let partition = self.log_mut(log);
        assert!(leader_epoch >= partition.leader_epoch, "a leader epoch never goes back");
        partition.leader_epoch = leader_epoch;
    }

    /// Appends exactly one whole batch, already validated by [`crate::batch::validate_client_batches`] or built by this
    /// program, assigning offsets, the leader's epoch and, with LogAppendTime, the time.
    pub fn append(&mut self, now: Now, log: LogId, batch: &[u8]) -> Result<Appended, AppendError> {
        if self.is_out_of_space() || self.stats.pending_bytes + batch.len() as u64 > self.pending_bytes_max() {
            return Err(AppendError::NoSpace);
        }
        self.encode_log(log);
        let steady_ms = self.steady_ms(now);
        let partition = self.logs[log.0 as usize].as_mut().expect("the caller holds a live LogId");
        let before = (partition.tail.capacity(), partition.segments.len());
        let producers = partition.producers.len();
        let appended = partition.append(now, steady_ms, batch, &mut self.pool)?;
        if appended.duplicate {
            return Ok(appended);
        }
        self.tail_bytes += partition.tail.capacity() - before.0;
        if partition.producers.len() > producers {
            self.producers += 1;
            if self.producers > self.options.producers_max && producers > 0 {
                partition.producers.forget_oldest();
                self.producers -= 1;
            }
        }
        self.stats.appends += 1;
        self.stats.append_bytes += batch.len() as u64;
        self.stats.pending_bytes += batch.len() as u64;
        let rolled = partition.segments.len() > before.1;
        if !partition.is_dirty {
            partition.is_dirty = true;
            self.dirty.push_back(log);
        }
        if rolled {
            self.enqueue(log);
        }
        Ok(appended)
    }

    /// What the clock said at recovery, and on from there without a jump: a producer must not be forgotten, and its retry
    /// appended twice, because somebody set the clock.
    fn steady_ms(&self, now: Now) -> i64 {
        self.recovered_ms + now.elapsed.as_millis() as i64
    }

    /// What may be appended but not durable: it has to fit the half of the journal that is free when a checkpoint
    /// starts, with room for its entries' headers, because that checkpoint waits for it. A single batch always fits.
    fn pending_bytes_max(&self) -> u64 {
        let share = self.slots.len() as u64 * self.slot_bytes / PENDING_SHARE;
        if self.stats.pending_bytes == 0 { u64::MAX } else { share }
    }

    /// One past the last offset appended.
    pub fn log_end(&self, log: LogId) -> i64 {
        self.log(log).log_end
    }

    /// One past the last offset that survives a loss of power.
    pub fn durable_end(&self, log: LogId) -> i64 {
        self.log(log).durable_end
    }

    /// The first offset that may be read.
    pub fn log_start(&self, log: LogId) -> i64 {
        self.log(log).log_start
    }

    /// Reads from the batch that contains `offset` up to, not including, the batch that contains `until_offset`: at
    /// most `bytes_max`, but at least the first batch. The caller has checked `log_start <= offset <= log_end`, and
    /// `until_offset` is at least what [`ShardLog::durable_end`] once was when the bytes left memory.
    pub fn read(&mut self, log: LogId, offset: i64, until_offset: i64, bytes_max: usize, ops: &mut Ops) -> Read {
        let partition = self.log(log);
        if partition.is_in_memory(offset) || offset >= until_offset {
            let plan = partition.read(offset, until_offset, bytes_max);
            self.stats.memory_reads += u64::from(plan.bytes > 0);
            return Read::Ready(plan);
        }
        let token = self.next_read();
        let walk = Walk::new(token, log, Goal::Offset { offset, until_offset, bytes_max }, self.log(log));
        match self.walk(walk, ops) {
            Ok((_, Outcome::Plan(plan))) => Read::Ready(plan),
            Ok(_) => unreachable!("a walk to an offset ends in a plan"),
            Err(token) => Read::Pending(token),
        }
    }

    /// Finds a record by time among those below `until_offset`.
    pub fn find_time(&mut self, log: LogId, query: TimeQuery, until_offset: i64, ops: &mut Ops) -> TimeLookup {
        let token = self.next_read();
        let walk = Walk::new(token, log, Goal::Time { query, until_offset }, self.log(log));
        match self.walk(walk, ops) {
            Ok((_, Outcome::Time(found))) => TimeLookup::Ready(found),
            Ok(_) => unreachable!("a walk by time ends in a record or none"),
            Err(token) => TimeLookup::Pending(token),
        }
    }

    fn next_read(&mut self) -> ReadToken {
        self.next_read += 1;
        ReadToken(self.next_read)
    }

    /// Takes a walk as far as it goes without the disk. `Err`: it waits for it.
    fn walk(&mut self, mut walk: Walk, ops: &mut Ops) -> Result<(ReadToken, Outcome), ReadToken> {
        let token = walk.token;
        let log = walk.log;
        let partition = self.logs[log.0 as usize].as_mut().expect("walks count as operations of their log");
        match walk.step(partition) {
            Step::Done(outcome) => {
                self.stats.damaged_reads += u64::from(matches!(outcome, Outcome::Corrupt(..)));
                if let Outcome::Plan(plan) = &outcome {
                    let is_file = matches!(plan.parts.first(), Some(ReadPart::File { .. }));
                    self.stats.file_reads += u64::from(is_file);
                    self.stats.memory_reads += u64::from(!is_file);
                }
                if let Some((segment, bytes)) = walk.loaded_index.take() {
                    self.keep_index(log, segment, bytes);
                }
                Ok((token, outcome))
            }
            Step::Read(op) => {
                partition.operations += 1;
                self.stats.disk_reads += 1;
                self.submit(Purpose::Walk(Box::new(walk)), op, ops);
                Err(token)
            }
        }
    }

    /// Accounts for the index of a closed segment that a walk has loaded; the oldest loaded go out.
    fn keep_index(&mut self, log: LogId, segment: i64, bytes: usize) {
        self.loaded_indexes.push_back((log, segment, bytes));
        self.loaded_index_bytes += bytes;
        while self.loaded_index_bytes > LOADED_INDEX_BYTES_MAX && self.loaded_indexes.len() > 1 {
            let (log, segment, bytes) = self.loaded_indexes.pop_front().expect("there are two");
            self.loaded_index_bytes -= bytes;
            let partition = self.logs[log.0 as usize].as_mut();
            let segment = partition.and_then(|partition| partition.segment_mut(segment));
            if let Some(segment) = segment.filter(|segment| segment.closed) {
                segment.index = None;
            }
        }
    }

    /// Moves the log start offset up to `offset` (DeleteRecords). Returns whether it is there already; otherwise
    /// [`Progress::LogStart`] for at least this offset will come. The caller has checked `offset <= durable_end`.
    pub fn delete_records(&mut self, log: LogId, offset: i64) -> bool {
        let partition = self.log_mut(log);
        if offset <= partition.log_start {
            return true;
        }
        assert!(offset <= partition.durable_end);
        partition.log_start_wanted = partition.log_start_wanted.max(offset);
        if partition.log_start_gathered < partition.log_start_wanted && !partition.is_dirty {
            partition.is_dirty = true;
            self.dirty.push_back(log);
        }
        false
    }

    /// The largest epoch at or below `leader_epoch` and the offset at which it ended; `(-1, -1)` when unknown
    /// (KIP-101, KIP-279).
    pub fn end_offset_for_epoch(&self, log: LogId, leader_epoch: i32) -> (i32, i64) {
        let partition = self.log(log);
        if leader_epoch == partition.leader_epoch {
            return (leader_epoch, partition.log_end);
        }
        partition.epochs.end_offset(leader_epoch, partition.log_end)
    }

    /// The leader epoch of the last batch, or -1.
    pub fn last_epoch(&self, log: LogId) -> i32 {
        self.log(log).epochs.latest()
    }

    /// Bytes of all the log's segments.
    pub fn log_bytes(&self, log: LogId) -> u64 {
        self.log(log).bytes()
    }

    /// The idempotent producers that the log remembers; at most [`crate::producer::PRODUCERS_MAX`].
    pub fn producers(&self, log: LogId) -> Vec<ProducerView> {
        self.log(log).producers.views().collect()
    }

    /// The free space of the file system, as the driver measures it every second or so.
    pub fn set_free_space(&mut self, bytes: u64) {
        let floor = self.options.free_space_floor_bytes;
        // A little more than the floor to go on again, so that it does not flap.
        self.is_below_floor = bytes < if self.is_below_floor { floor + floor / 8 } else { floor };
    }

    /// Whether appends are refused for lack of space.
    pub fn is_out_of_space(&self) -> bool {
        self.is_below_floor || !self.retries.is_empty()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> LogStats {
        LogStats {
            tail_bytes: self.tail_bytes as u64,
            pool_bytes: self.kept_bytes() as u64,
            blocks_fresh: self.pool.stats().fresh,
            blocks_reused: self.pool.stats().reused,
            partitions: self.by_key.len() as u64,
            producers: self.producers as u64,
            compaction_memory_bytes: self.cleaner.memory_bytes() as u64,
            ..self.stats
        }
    }

    /// Memory kept to be used again.
    fn kept_bytes(&self) -> usize {
        self.pool.kept_bytes() + self.builder.kept_bytes() + self.checkpoint_file.len()
    }

    /// Ends a turn: starts the commit of what was appended, and a bounded step of background work. All of its parts, for
    /// callers that do not time them.
    pub fn end_turn(&mut self, now: Now, ops: &mut Ops, progress: &mut Vec<Progress>) {
        self.commit(now, ops, progress);
        self.advance_checkpoint(ops);
        self.advance_write_back(ops);
        self.advance_retention(now, ops);
        self.advance_compaction(now, ops);
    }

    /// The first part of [`ShardLog::end_turn`]: starts the commit of what was appended. Like the other parts, returns
    /// whether there was anything to do.
    pub fn commit(&mut self, now: Now, ops: &mut Ops, progress: &mut Vec<Progress>) -> bool {
        self.clock = now.elapsed;
        self.forget_gone();
        while self.retries.front().is_some_and(|&(at, _)| at <= now.elapsed) {
            let (_, token) = self.retries.pop_front().expect("seen above");
            let op = self.purposes.get(&token).and_then(|(_, op)| op.clone()).expect("kept for this");
            ops.push((token, op));
        }
        let is_due = self.group.is_none() && !self.dirty.is_empty();
        if is_due {
            self.start_group(ops, progress);
        }
        is_due
    }

    /// The last part of [`ShardLog::end_turn`]: retention, removals, and the tail's memory.
    pub fn advance_retention(&mut self, now: Now, ops: &mut Ops) -> bool {
        let is_full = self.tail_bytes > self.options.tail_memory_bytes_max;
        let is_due = is_full || now.elapsed >= self.sweep_at || !self.removals.is_empty();
        if now.elapsed >= self.sweep_at {
            self.sweep(now);
        }
        while self.removing < REMOVALS_MAX {
            let path = match self.removals.front() {
                Some((at, _)) if *at <= now.elapsed => self.removals.pop_front().map(|(_, path)| path),
                _ => self.gone_directories.pop_front(),
            };
            let Some(path) = path else { break };
            self.removing += 1;
            self.submit(Purpose::Remove, DiskOp::Remove { path }, ops);
        }
        self.evict();
        if now.elapsed >= self.pool_at {
            self.pool.give_up_idle();
            self.builder.give_up_idle();
            self.checkpoint_file = Bytes::new();
            self.pool_at = now.elapsed + POOL_INTERVAL;
        }
        is_due
    }

    /// When [`ShardLog::end_turn`] wants to be called again though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let retry = self.retries.front().map(|&(at, _)| at);
        // What is due but has no place among those under way goes on when one of them is done.
        let removal = self.removals.front().map(|&(at, _)| at).filter(|_| self.removing < REMOVALS_MAX);
        let is_encoding =
            matches!(self.checkpoint, Some(PendingCheckpoint { stage: CheckpointStage::Encoding { .. }, .. }));
        let encoding = is_encoding.then(|| self.clock + checkpoints::ENCODE_INTERVAL);
        let pool = (self.kept_bytes() > 0).then_some(self.pool_at);
        [retry, removal, encoding, pool, self.compaction_deadline(), Some(self.sweep_at)].into_iter().flatten().min()
    }

    /// Whether everything appended is durable and no operation is under way: the process may exit. What waits for room on
    /// the disk is not waited for; recovery does it.
    pub fn is_idle(&self) -> bool {
        // Nor is a compaction: what it has not finished is done again.
        let operations = self.purposes.len() - usize::from(self.cleaner.is_working());
        let waits = operations > self.retries.len() || !self.gone_directories.is_empty();
        self.group.is_none() && self.dirty.is_empty() && !waits
    }

    fn submit(&mut self, purpose: Purpose, op: DiskOp, ops: &mut Ops) {
        self.next_token += 1;
        let token = DiskToken(self.next_token);
        // Kept for another try when the disk is full. The journal is preallocated and reads need no room.
        let kept = match purpose {
            Purpose::Group | Purpose::Fill | Purpose::Walk(_) | Purpose::LoadRemainder { .. } => None,
            Purpose::Compact { .. } => None,
            _ => Some(op.clone()),
        };
        self.purposes.insert(token, (purpose, kept));
        ops.push((token, op));
    }
}

#[cfg(test)]
mod tests;
