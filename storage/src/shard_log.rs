//! All the partition logs of one shard behind one journal: group commit, write-back, checkpoints, retention.
//!
//! Calling contract. In each turn the shard calls [`ShardLog::append`] and the other verbs for what has arrived, then
//! [`ShardLog::end_turn`] once. Disk operations come out through `ops`; each result goes back through
//! [`ShardLog::on_disk`], which says what became true ([`Progress`]). `Err(Fatal)` means: acknowledge nothing more and
//! exit.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::batch::{BATCH_HEADER_BYTES, Batches, TimestampType};
use crate::block::BlockPool;
use crate::checkpoint::{Checkpoint, checkpoint_path, slot_path};
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, DiskToken, FilePath};
use crate::journal::{GroupBuilder, GroupPlace};
use crate::partition_log::{FileState, PartitionLog, PartitionState, index_path};
use crate::recovery::RecoveredShard;
use crate::walk::{Goal, Outcome, Step, Walk};
use crate::{Now, PartitionKey};

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
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
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
    /// Free space is below the floor, or the journal has no room until write-back catches up with a full disk
    /// (KAFKA_STORAGE_ERROR, retriable).
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
}

/// Bytes of append entries in one commit group; what is more waits for the next.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Partitions in one commit group.
const GROUP_PARTITIONS_MAX: usize = 16_384;
/// Extents written beside one commit group.
const GROUP_EXTENTS_MAX: usize = 64;
/// An extent repeats each batch's header in the journal: below this average length of a batch it does not pay.
const EXTENT_BATCH_BYTES_MIN: usize = 4096;
/// A partition is written back when this much of it is durable only in the journal.
const WRITE_BACK_BYTES_MIN: u64 = 256 << 10;
/// The largest single write of write-back.
const WRITE_BACK_BYTES_MAX: u64 = 1 << 20;
/// Partitions being written back, synced or closed at once.
const WRITE_BACKS_MAX: usize = 16;
/// A segment's file grows by steps that double, from this...
const ALLOCATE_BYTES_MIN: u64 = 64 << 10;
/// ...to this.
const ALLOCATE_BYTES_MAX: u64 = 64 << 20;
/// How long an operation that found the disk full waits before it is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(250);
/// Partitions that one turn examines for retention and expired producers.
const SWEEP_PARTITIONS_MAX: usize = 64;
/// Files that one turn removes.
const REMOVALS_MAX: usize = 8;
/// A checkpoint starts when this share of the journal's slots is in use: 1 / 2.
const CHECKPOINT_SHARE: u32 = 2;
/// Memory of indexes of closed segments that were loaded for cold reads.
const LOADED_INDEX_BYTES_MAX: usize = 32 << 20;

/// A deliberate bug, for the simulator to find.
#[cfg(feature = "simulated-bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Says that appends are durable when their group is handed to the disk, not when it is on it.
    AcknowledgeBeforeCommit,
}

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
    /// Turns in which a commit had to wait for room in the journal.
    pub journal_full: u64,
    /// Operations that found the disk full.
    pub no_space: u64,
    /// Gauge: memory of the tails, bytes.
    pub tail_bytes: u64,
    /// Gauge: bytes appended but not yet durable.
    pub pending_bytes: u64,
    /// Gauge: partitions.
    pub partitions: u64,
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
    CloseTruncate { log: LogId, segment: i64 },
    CloseIndex { log: LogId, segment: i64 },
    Walk(Walk),
    Checkpoint,
    Remove,
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
    /// The encoded file. It says of every segment what draining will have made true,
    file: Bytes,
    /// and it holds what was appended but not durable when it was encoded: it waits until these are durable too.
    waits: Vec<(LogId, i64)>,
    publishing: bool,
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

    /// Logs with something for the next group, oldest first.
    dirty: VecDeque<LogId>,
    group: Option<Group>,
    sequence: u64,
    slots: Vec<Slot>,
    slot_bytes: u64,
    slot: usize,
    position: u64,
    checkpointed: u64,
    checkpoint: Option<PendingCheckpoint>,

    /// Logs whose segments want write-back, sync or closing.
    write_back: VecDeque<LogId>,
    write_backs: usize,
    tail_bytes: usize,
    evictable: VecDeque<LogId>,
    loaded_indexes: VecDeque<(LogId, i64, usize)>,
    loaded_index_bytes: usize,

    purposes: HashMap<DiskToken, (Purpose, Option<DiskOp>)>,
    next_token: u64,
    next_read: u64,
    retries: VecDeque<(Duration, DiskToken)>,
    removals: VecDeque<(Duration, FilePath)>,
    is_below_floor: bool,
    /// The last time heard of.
    clock: Duration,
    sweep_at: Duration,
    sweep_cursor: usize,
    stats: LogStats,
    /// A deliberate bug.
    #[cfg(feature = "simulated-bugs")]
    pub bug: Option<Bug>,
}

impl ShardLog {
    /// The log of a shard as recovery found it, with its partitions. `configs` gives each recovered partition's topic
    /// name and configuration.
    pub fn new(
        options: ShardLogOptions,
        recovered: RecoveredShard,
        configs: impl Fn(PartitionKey) -> (String, LogConfig),
    ) -> ShardLog {
        let mut log = ShardLog {
            pool: BlockPool::new(options.tail_memory_bytes_max / 4),
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
            sequence: recovered.checkpoint.sequence,
            slots: vec![Slot::default(); recovered.checkpoint.slots as usize],
            slot_bytes: recovered.checkpoint.slot_bytes,
            slot: 0,
            position: 0,
            checkpointed: recovered.checkpoint.sequence,
            checkpoint: None,
            write_back: VecDeque::new(),
            write_backs: 0,
            tail_bytes: 0,
            evictable: VecDeque::new(),
            loaded_indexes: VecDeque::new(),
            loaded_index_bytes: 0,
            purposes: HashMap::new(),
            next_token: 0,
            next_read: 0,
            retries: VecDeque::new(),
            removals: VecDeque::new(),
            is_below_floor: false,
            clock: Duration::ZERO,
            sweep_cursor: 0,
            stats: LogStats::default(),
            #[cfg(feature = "simulated-bugs")]
            bug: None,
        };
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
    pub fn remove_partition(&mut self, log: LogId, ops: &mut Ops) {
        let partition = self.log_mut(log);
        partition.removing = true;
        let key = partition.key;
        self.by_key.remove(&key);
        self.finish_removal(log, ops);
    }

    fn finish_removal(&mut self, log: LogId, ops: &mut Ops) {
        let Some(partition) = self.logs[log.0 as usize].as_ref() else { return };
        let in_group = self.group.as_ref().is_some_and(|group| {
            group.ends.iter().any(|&(id, ..)| id == log) || group.log_starts.iter().any(|&(id, _)| id == log)
        });
        if !partition.removing || partition.operations > 0 || in_group {
            return;
        }
        let mut partition = self.logs[log.0 as usize].take().expect("seen above");
        self.tail_bytes -= partition.tail.capacity();
        partition.tail.clear(&mut self.pool);
        self.dirty.retain(|&id| id != log);
        self.write_back.retain(|&id| id != log);
        self.evictable.retain(|&id| id != log);
        self.loaded_indexes.retain(|&(id, _, bytes)| {
            self.loaded_index_bytes -= if id == log { bytes } else { 0 };
            id != log
        });
        let is_draining = partition.segments.iter().any(|segment| segment.drain_to > 0);
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.draining -= usize::from(is_draining);
            checkpoint.waits.retain(|&(id, _)| id != log);
        }
        self.free.push(log.0);
        if partition.directory_created {
            self.submit(Purpose::Remove, DiskOp::Remove { path: partition.directory.as_ref().into() }, ops);
        }
    }

    /// Changes what the topic's configuration says.
    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        self.log_mut(log).config = config;
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
        if self.is_out_of_space() {
            return Err(AppendError::NoSpace);
        }
        let partition = self.logs[log.0 as usize].as_mut().expect("the caller holds a live LogId");
        let before = (partition.tail.capacity(), partition.segments.len());
        let appended = partition.append(now, batch, &mut self.pool)?;
        if appended.duplicate {
            return Ok(appended);
        }
        self.tail_bytes += partition.tail.capacity() - before.0;
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
                self.submit(Purpose::Walk(walk), op, ops);
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
            if let Some(segment) = self.log_mut(log).segment_mut(segment).filter(|segment| segment.closed) {
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
        LogStats { tail_bytes: self.tail_bytes as u64, partitions: self.by_key.len() as u64, ..self.stats }
    }

    /// Ends a turn: starts the commit of what was appended, and a bounded step of background work.
    pub fn end_turn(&mut self, now: Now, ops: &mut Ops, progress: &mut Vec<Progress>) {
        self.clock = now.elapsed;
        while self.retries.front().is_some_and(|&(at, _)| at <= now.elapsed) {
            let (_, token) = self.retries.pop_front().expect("seen above");
            let op = self.purposes.get(&token).and_then(|(_, op)| op.clone()).expect("kept for this");
            ops.push((token, op));
        }
        if self.group.is_none() && !self.dirty.is_empty() {
            self.start_group(ops, progress);
        }
        self.advance_checkpoint(ops);
        self.advance_write_back(ops);
        if now.elapsed >= self.sweep_at {
            self.sweep(now);
        }
        for _ in 0..REMOVALS_MAX {
            if self.removals.front().is_none_or(|(at, _)| *at > now.elapsed) {
                break;
            }
            let (_, path) = self.removals.pop_front().expect("seen above");
            self.submit(Purpose::Remove, DiskOp::Remove { path }, ops);
        }
        self.evict();
    }

    /// When [`ShardLog::end_turn`] wants to be called again though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let retry = self.retries.front().map(|&(at, _)| at);
        let removal = self.removals.front().map(|&(at, _)| at);
        [retry, removal, Some(self.sweep_at)].into_iter().flatten().min()
    }

    /// Whether everything appended is durable and no operation is under way: the process may exit.
    pub fn is_idle(&self) -> bool {
        self.group.is_none() && self.dirty.is_empty() && self.purposes.is_empty()
    }

    fn submit(&mut self, purpose: Purpose, op: DiskOp, ops: &mut Ops) {
        self.next_token += 1;
        let token = DiskToken(self.next_token);
        // Kept for another try when the disk is full. The journal is preallocated and reads need no room.
        let kept = match purpose {
            Purpose::Group | Purpose::Walk(_) | Purpose::LoadRemainder { .. } => None,
            _ => Some(op.clone()),
        };
        self.purposes.insert(token, (purpose, kept));
        ops.push((token, op));
    }

    // ---- Commit ----

    /// Puts what is dirty into a commit group and starts it, if the journal has room.
    fn start_group(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let mut builder = GroupBuilder::new();
        let mut group = Group { outstanding: 1, bytes: 0, ends: Vec::new(), log_starts: Vec::new() };
        loop {
            let room = (self.slot_bytes - self.position).min(GROUP_BYTES_MAX as u64) as usize;
            let mut extents = 0;
            for _ in 0..self.dirty.len().min(GROUP_PARTITIONS_MAX) {
                let Some(log) = self.dirty.pop_front() else { break };
                if !self.gather(log, &mut builder, &mut group, &mut extents, room, ops) {
                    self.dirty.push_back(log);
                }
            }
            if !builder.is_empty() {
                break;
            }
            // Nothing fits what is left of this slot, or nothing can go yet.
            let next = (self.slot + 1) % self.slots.len();
            if self.position == 0 {
                return;
            }
            if self.slots[next].last_sequence > self.checkpointed {
                self.stats.journal_full += 1;
                return;
            }
            self.slot = next;
            self.position = 0;
        }
        self.sequence += 1;
        let place = GroupPlace { shard: self.shard, slot: self.slot as u32, position: self.position };
        let bytes = builder.bytes().next_multiple_of(BLOCK_BYTES) as u64;
        assert!(self.position + bytes <= self.slot_bytes, "a group fits the slot");
        let data = builder.finish(&self.salt, self.sequence, place);
        let path = slot_path(&self.directory, place.slot);
        self.submit(Purpose::Group, DiskOp::Write { path, position: self.position, data, durable: true }, ops);
        self.position += bytes;
        self.slots[self.slot].last_sequence = self.sequence;
        self.stats.groups += 1;
        self.stats.group_bytes += bytes;
        #[cfg(feature = "simulated-bugs")]
        if self.bug == Some(Bug::AcknowledgeBeforeCommit) {
            for &(log, _, _, offset) in &group.ends {
                self.log_mut(log).durable_end = offset;
                progress.push(Progress::Durable { log, offset });
            }
        }
        #[cfg(not(feature = "simulated-bugs"))]
        let _ = progress;
        self.group = Some(group);
    }

    /// Adds what a log has to the group; returns whether that was all.
    fn gather(
        &mut self,
        log: LogId,
        builder: &mut GroupBuilder,
        group: &mut Group,
        extents: &mut usize,
        group_bytes_max: usize,
        ops: &mut Ops,
    ) -> bool {
        let partition = self.logs[log.0 as usize].as_mut().expect("dirty logs are live");
        if partition.removing {
            return true;
        }
        let key = partition.key;
        // Headers and padding of the group itself, and a possible log start entry.
        const RESERVE_BYTES: usize = BLOCK_BYTES;
        if partition.log_start_gathered < partition.log_start_wanted {
            if builder.bytes() + RESERVE_BYTES > group_bytes_max {
                return false;
            }
            builder.log_start(key, partition.log_start_wanted);
            group.log_starts.push((log, partition.log_start_wanted));
            partition.log_start_gathered = partition.log_start_wanted;
        }
        let first = partition.segments.partition_point(|segment| segment.gathered == segment.bytes);
        let count = partition.segments.len();
        for index in first..count {
            let partition = self.logs[log.0 as usize].as_mut().expect("dirty logs are live");
            let base = partition.segments[index].base_offset;
            let (from, to) = (partition.segments[index].gathered, partition.segments[index].bytes);
            if from == to {
                continue;
            }
            let end_offset = partition.segment_end_offset(index);
            let room = group_bytes_max.saturating_sub(builder.bytes() + RESERVE_BYTES);
            let bytes = (to - from) as usize;
            let wants_extent = bytes >= self.options.extent_bytes_min
                && bytes >= EXTENT_BATCH_BYTES_MIN * partition.ungathered_batches;
            if (wants_extent || bytes > group_bytes_max / 2) && *extents < GROUP_EXTENTS_MAX {
                let headers_fit = BATCH_HEADER_BYTES * (partition.ungathered_batches + 1) < room;
                if partition.segments[index].is_writable() && headers_fit {
                    let write = start_extent(partition, log, index, builder);
                    *extents += 1;
                    group.outstanding += 1;
                    group.bytes += bytes as u64;
                    group.ends.push((log, base, to, end_offset));
                    self.stats.extents += 1;
                    self.stats.extent_bytes += bytes as u64;
                    self.submit(write.0, write.1, ops);
                    let partition = self.log_mut(log);
                    partition.gathered_end = end_offset;
                    if index + 1 == partition.segments.len() {
                        partition.ungathered_batches = 0;
                    }
                    return self.finish_gather(log);
                }
                self.enqueue(log);
            }
            let partition = self.logs[log.0 as usize].as_mut().expect("dirty logs are live");
            let (to, end_offset) = if bytes <= room {
                (to, end_offset)
            } else {
                match partition.tail.block_boundary(base, from, room as u64).filter(|&(boundary, _)| boundary > from) {
                    Some(boundary) => boundary,
                    None => return false,
                }
            };
            let data = partition.tail.slices(base, from, to);
            builder.append(key, base, from, partition.gathered_end, data);
            group.bytes += to - from;
            group.ends.push((log, base, to, end_offset));
            partition.gathered_end = end_offset;
            partition.segments[index].gathered = to;
            if to < partition.segments[index].bytes {
                return false;
            }
        }
        self.finish_gather(log)
    }

    fn finish_gather(&mut self, log: LogId) -> bool {
        let partition = self.log_mut(log);
        let all =
            partition.segments.partition_point(|segment| segment.gathered == segment.bytes) == partition.segments.len();
        if all {
            partition.is_dirty = false;
            partition.ungathered_batches = 0;
        }
        all
    }

    fn finish_group(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let group = self.group.take().expect("a group is under way");
        self.stats.pending_bytes -= group.bytes;
        for (log, segment, position, offset) in group.ends {
            let Some(partition) = self.logs[log.0 as usize].as_mut().filter(|partition| !partition.removing) else {
                self.finish_removal(log, ops);
                continue;
            };
            if let Some(segment) = partition.segment_mut(segment) {
                segment.durable = position;
            }
            partition.durable_end = offset;
            progress.push(Progress::Durable { log, offset });
            let first = partition.first_open();
            let wants_write_back = partition.segments.iter().skip(first).any(|segment| {
                segment.durable.saturating_sub(segment.written) >= WRITE_BACK_BYTES_MIN
                    || (segment.file == FileState::Absent)
            });
            let evictable = partition.take_evictable();
            self.evictable.extend(std::iter::repeat_n(log, evictable));
            if wants_write_back {
                self.enqueue(log);
            }
        }
        for (log, offset) in group.log_starts {
            let Some(partition) = self.logs[log.0 as usize].as_mut().filter(|partition| !partition.removing) else {
                self.finish_removal(log, ops);
                continue;
            };
            partition.log_start = offset;
            partition.epochs.truncate_start(offset);
            progress.push(Progress::LogStart { log, offset });
            self.enqueue(log);
        }
    }

    // ---- Write-back, closing, removal ----

    fn enqueue(&mut self, log: LogId) {
        let partition = self.log_mut(log);
        if !partition.is_queued {
            partition.is_queued = true;
            self.write_back.push_back(log);
        }
    }

    fn advance_write_back(&mut self, ops: &mut Ops) {
        for _ in 0..self.write_back.len() {
            if self.write_backs >= WRITE_BACKS_MAX {
                break;
            }
            let Some(log) = self.write_back.pop_front() else { break };
            self.log_mut(log).is_queued = false;
            self.advance_partition(log, ops);
        }
    }

    /// Starts the next step that a partition's segments need, oldest segment first; one step at a time.
    fn advance_partition(&mut self, log: LogId, ops: &mut Ops) {
        let partition = self.logs[log.0 as usize].as_mut().expect("queued logs are live");
        if partition.removing {
            return;
        }
        let dropped = partition.drop_segments_below_start();
        if !dropped.is_empty() {
            self.tail_bytes -= partition.drop_stale_blocks(&mut self.pool);
            let delay = Duration::from_millis(partition.config.file_delete_delay_ms.max(0) as u64);
            let directory = partition.directory.clone();
            for base in dropped {
                self.stats.segments_removed += 1;
                self.remove_later(delay, crate::partition_log::segment_path(&directory, base));
                self.remove_later(delay, index_path(&directory, base));
            }
        }
        let partition = self.logs[log.0 as usize].as_mut().expect("seen above");
        let last = partition.segments.len() - 1;
        for index in partition.first_open()..partition.segments.len() {
            let directory_created = partition.directory_created;
            let segment = &mut partition.segments[index];
            if segment.writing || segment.syncing || segment.closing {
                return;
            }
            if segment.allocating {
                continue;
            }
            // An extent is written before its group is durable.
            let pending = segment.durable.saturating_sub(segment.written);
            let wants_write = pending >= WRITE_BACK_BYTES_MIN
                || (pending > 0 && (index < last || segment.written < segment.drain_to));
            let (base, path) = (segment.base_offset, segment.path.clone());
            if segment.file == FileState::Absent && (segment.bytes > 0 || index < last) {
                if !directory_created {
                    if !partition.creating_directory {
                        partition.creating_directory = true;
                        let path = partition.directory.as_ref().into();
                        self.start(Purpose::CreateDirectory { log }, log, DiskOp::CreateDirectory { path }, ops);
                    }
                    return;
                }
                segment.file = FileState::Creating;
                segment.allocating = true;
                let bytes = ALLOCATE_BYTES_MIN.max(segment.bytes.next_power_of_two().min(ALLOCATE_BYTES_MAX));
                let purpose = Purpose::Allocate { log, segment: base, bytes };
                self.start(purpose, log, DiskOp::Allocate { path, bytes }, ops);
                return;
            }
            if segment.file != FileState::Present {
                return;
            }
            if segment.remainder.is_none() && segment.bytes > segment.written {
                // Only after a restart: the bytes before the first new one, up to the block boundary.
                let position = segment.written - segment.written % BLOCK_BYTES as u64;
                let bytes = (segment.written - position) as usize;
                segment.writing = true;
                let purpose = Purpose::LoadRemainder { log, segment: base };
                self.start(purpose, log, DiskOp::Read { path, position, bytes }, ops);
                return;
            }
            if wants_write {
                let to = segment.durable.min(segment.written + WRITE_BACK_BYTES_MAX);
                self.stats.write_backs += 1;
                self.stats.write_back_bytes += to - segment.written;
                let (op, remainder) = write_to(&mut partition.segments[index], &partition.tail, to, false);
                self.start(Purpose::WriteBack { log, segment: base, to, remainder }, log, op, ops);
                return;
            }
            if segment.drain_to > segment.synced && segment.written >= segment.drain_to {
                segment.syncing = true;
                let to = segment.written;
                self.start(Purpose::Sync { log, segment: base, to }, log, DiskOp::Sync { path }, ops);
                return;
            }
            if index < last && segment.written == segment.bytes {
                segment.closing = true;
                let bytes = segment.bytes;
                let purpose = Purpose::CloseTruncate { log, segment: base };
                self.start(purpose, log, DiskOp::Truncate { path, bytes }, ops);
                return;
            }
            if index == last && segment.bytes > segment.allocated / 2 {
                // Space ahead of the writes, so that a commit does not have to allocate.
                let bytes = (segment.allocated * 2)
                    .clamp(ALLOCATE_BYTES_MIN, segment.allocated + ALLOCATE_BYTES_MAX)
                    .min(partition.config.segment_bytes.next_multiple_of(BLOCK_BYTES as u64));
                if bytes > segment.allocated {
                    segment.allocating = true;
                    let purpose = Purpose::Allocate { log, segment: base, bytes };
                    self.start(purpose, log, DiskOp::Allocate { path, bytes }, ops);
                }
                return;
            }
        }
    }

    /// Submits an operation on a partition's files.
    fn start(&mut self, purpose: Purpose, log: LogId, op: DiskOp, ops: &mut Ops) {
        self.log_mut(log).operations += 1;
        self.write_backs += 1;
        self.submit(purpose, op, ops);
    }

    fn remove_later(&mut self, delay: Duration, path: FilePath) {
        // Due times are relative to the last sweep's clock reading; all delays of a broker are nearly the same, so the
        // queue stays in order well enough.
        self.removals.push_back((self.clock + delay, path));
    }

    fn evict(&mut self) {
        while self.tail_bytes > self.options.tail_memory_bytes_max {
            let Some(log) = self.evictable.pop_front() else { break };
            let partition = self.logs[log.0 as usize].as_mut().expect("evictable logs are live");
            if let Some(capacity) = partition.evict_front(&mut self.pool) {
                self.tail_bytes -= capacity;
            }
        }
    }

    /// A bounded step of retention and producer expiry.
    fn sweep(&mut self, now: Now) {
        let end = (self.sweep_cursor + SWEEP_PARTITIONS_MAX).min(self.logs.len());
        for index in self.sweep_cursor..end {
            let Some(partition) = self.logs[index].as_mut().filter(|partition| !partition.removing) else { continue };
            partition.producers.expire(now.unix_ms, self.options.producer_expiration_ms);
            let start = partition.retention_start(now.unix_ms);
            if start > partition.log_start {
                self.delete_records(LogId(index as u32), start);
            }
        }
        self.sweep_cursor = end;
        self.sweep_at = now.elapsed + Duration::from_millis(1);
        if end == self.logs.len() {
            self.sweep_cursor = 0;
            self.sweep_at = now.elapsed + self.options.retention_check_interval;
        }
    }

    // ---- Checkpoints ----

    fn used_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.last_sequence > self.checkpointed).count()
    }

    fn advance_checkpoint(&mut self, ops: &mut Ops) {
        let Some(checkpoint) = &mut self.checkpoint else {
            if self.used_slots() * CHECKPOINT_SHARE as usize >= self.slots.len() {
                self.start_checkpoint();
            }
            return;
        };
        let logs = &self.logs;
        checkpoint.waits.retain(|&(log, offset)| {
            logs[log.0 as usize].as_ref().is_some_and(|partition| partition.durable_end < offset)
        });
        if checkpoint.draining == 0 && checkpoint.waits.is_empty() && !checkpoint.publishing {
            checkpoint.publishing = true;
            let data = checkpoint.file.clone();
            let path = checkpoint_path(&self.directory);
            self.submit(Purpose::Checkpoint, DiskOp::Replace { path, data }, ops);
        }
    }

    /// Encodes the state of all logs now and has everything of groups that are durable now brought to the segments.
    ///
    /// The state is taken at the start, while half of the journal is free, and not at the end: what was appended but
    /// not committed at that moment must become durable before the checkpoint may be published, and a journal that is
    /// full until the checkpoint is published could never commit it.
    fn start_checkpoint(&mut self) {
        let cut = if self.group.is_some() { self.sequence - 1 } else { self.sequence };
        if cut <= self.checkpointed {
            return;
        }
        let mut draining = 0;
        let mut waits = Vec::new();
        let mut partitions = Vec::with_capacity(self.by_key.len());
        for index in 0..self.logs.len() {
            let log = LogId(index as u32);
            let Some(partition) = self.logs[index].as_mut().filter(|partition| !partition.removing) else { continue };
            let mut drains = false;
            for segment in partition.segments.iter_mut().filter(|segment| segment.synced < segment.durable) {
                segment.drain_to = segment.durable;
                drains = true;
            }
            if partition.durable_end < partition.log_end {
                waits.push((log, partition.log_end));
            }
            partitions.push(partition.state());
            if drains {
                draining += 1;
                self.enqueue(log);
            }
        }
        let checkpoint = Checkpoint {
            shard: self.shard,
            salt: self.salt,
            sequence: cut,
            slots: self.slots.len() as u32,
            slot_bytes: self.slot_bytes,
            partitions,
        };
        let file = checkpoint.encode();
        self.checkpoint = Some(PendingCheckpoint { cut, draining, file, waits, publishing: false });
    }

    /// After a segment's `synced` moved: whether the partition has drained.
    fn note_synced(&mut self, log: LogId) {
        let partition = self.log_mut(log);
        let mut was_draining = false;
        let mut is_draining = false;
        for segment in &mut partition.segments {
            was_draining |= segment.drain_to > 0;
            if segment.synced >= segment.drain_to {
                segment.drain_to = 0;
            }
            is_draining |= segment.drain_to > 0;
        }
        if was_draining
            && !is_draining
            && let Some(checkpoint) = &mut self.checkpoint
        {
            checkpoint.draining -= 1;
        }
    }

    // ---- Results ----

    /// Takes the result of an operation.
    pub fn on_disk(
        &mut self,
        now: Now,
        token: DiskToken,
        result: Result<DiskReply, DiskError>,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        self.clock = now.elapsed;
        let (purpose, op) = self.purposes.remove(&token).expect("every token is answered once");
        if result == Err(DiskError::NoSpace) && op.is_some() {
            self.stats.no_space += 1;
            self.purposes.insert(token, (purpose, op));
            self.retries.push_back((now.elapsed + NO_SPACE_RETRY, token));
            return Ok(());
        }
        let reply = match (result, &purpose) {
            (Ok(reply), _) => reply,
            (Err(error), Purpose::Walk(_)) => {
                let Purpose::Walk(walk) = purpose else { unreachable!() };
                return self.on_walk_failed(walk, error, ops, progress);
            }
            (Err(error), _) => {
                return Err(Fatal(format!("shard {}: {}: {error}", self.shard, describe(&purpose, op.as_ref()))));
            }
        };
        match purpose {
            Purpose::Group => self.finish_group_part(ops, progress),
            Purpose::Extent { log, segment, from, to, remainder } => {
                let partition = self.log_mut(log);
                partition.operations -= 1;
                if let Some(segment) = partition.segment_mut(segment) {
                    segment.writing = false;
                    segment.written = to;
                    segment.remainder = Some(remainder);
                    // Durable as far as it reaches back without a gap.
                    if segment.synced >= from {
                        segment.synced = to;
                    }
                }
                self.note_synced(log);
                self.finish_write(log);
                self.finish_group_part(ops, progress);
                self.finish_removal(log, ops);
            }
            Purpose::WriteBack { log, segment, to, remainder } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.writing = false;
                    segment.written = to;
                    segment.remainder = Some(remainder);
                }
                self.finish_write(log);
                self.finish(log, ops);
            }
            Purpose::LoadRemainder { log, segment } => {
                let DiskReply::Data(data) = reply else { unreachable!("a read answers with data") };
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    let expected = (segment.written % BLOCK_BYTES as u64) as usize;
                    if data.len() != expected {
                        return Err(Fatal(format!(
                            "{} is shorter than its {} bytes: it was changed by something else",
                            segment.path, segment.written
                        )));
                    }
                    segment.writing = false;
                    segment.remainder = Some(data.to_vec());
                }
                self.finish(log, ops);
            }
            Purpose::Sync { log, segment, to } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.syncing = false;
                    segment.synced = segment.synced.max(to);
                }
                self.note_synced(log);
                self.finish(log, ops);
            }
            Purpose::CreateDirectory { log } => {
                let partition = self.log_mut(log);
                partition.creating_directory = false;
                partition.directory_created = true;
                self.finish(log, ops);
            }
            Purpose::Allocate { log, segment, bytes } => {
                if let Some(segment) = self.log_mut(log).segment_mut(segment) {
                    segment.allocating = false;
                    segment.allocated = segment.allocated.max(bytes);
                    segment.file = FileState::Present;
                }
                self.finish(log, ops);
            }
            Purpose::CloseTruncate { log, segment: base } => {
                let partition = self.log_mut(log);
                let key = partition.key;
                let path = index_path(&partition.directory, base);
                let segment = partition.segment_mut(base).expect("a closing segment is not dropped");
                segment.synced = segment.bytes;
                let data = segment.index.as_ref().expect("an open segment's index is in memory").encode(key);
                self.note_synced(log);
                self.start(Purpose::CloseIndex { log, segment: base }, log, DiskOp::Replace { path, data }, ops);
                self.finish(log, ops);
            }
            Purpose::CloseIndex { log, segment: base } => {
                let partition = self.log_mut(log);
                let segment = partition.segment_mut(base).expect("a closing segment is not dropped");
                segment.closing = false;
                segment.closed = true;
                segment.remainder = None;
                let bytes = segment.index.as_ref().map_or(0, |index| index.memory_bytes());
                self.keep_index(log, base, bytes);
                self.finish(log, ops);
            }
            Purpose::Walk(mut walk) => {
                let DiskReply::Data(data) = reply else { unreachable!("a read answers with data") };
                let log = walk.log;
                self.log_mut(log).operations -= 1;
                if self.log(log).removing {
                    progress.push(walk.failed(DiskError::NotFound));
                    self.finish_removal(log, ops);
                    return Ok(());
                }
                walk.supply(data);
                if let Ok((token, outcome)) = self.walk(walk, ops) {
                    progress.push(outcome.into_progress(token));
                }
            }
            Purpose::Checkpoint => {
                let checkpoint = self.checkpoint.take().expect("one is being published");
                self.checkpointed = checkpoint.cut;
                self.stats.checkpoints += 1;
            }
            Purpose::Remove => {}
        }
        Ok(())
    }

    fn finish_group_part(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let group = self.group.as_mut().expect("a group is under way");
        group.outstanding -= 1;
        if group.outstanding == 0 {
            self.finish_group(ops, progress);
        }
    }

    /// An operation of [`ShardLog::start`] ended: the partition goes on with the next.
    fn finish(&mut self, log: LogId, ops: &mut Ops) {
        self.log_mut(log).operations -= 1;
        self.write_backs -= 1;
        self.enqueue(log);
        self.finish_removal(log, ops);
    }

    fn finish_write(&mut self, log: LogId) {
        let evictable = self.log_mut(log).take_evictable();
        self.evictable.extend(std::iter::repeat_n(log, evictable));
        self.enqueue(log);
    }

    /// A read failed: what it was for is told so, unless the index was only missing and can be rebuilt.
    fn on_walk_failed(
        &mut self,
        mut walk: Walk,
        error: DiskError,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let log = walk.log;
        self.log_mut(log).operations -= 1;
        if error == DiskError::NotFound && !self.log(log).removing && walk.index_is_missing() {
            if let Ok((token, outcome)) = self.walk(walk, ops) {
                progress.push(outcome.into_progress(token));
            }
            return Ok(());
        }
        progress.push(walk.failed(error));
        self.finish_removal(log, ops);
        Ok(())
    }
}

/// Starts writing what a segment has gathered nowhere yet straight to its file, and records it in the group.
fn start_extent(
    partition: &mut PartitionLog,
    log: LogId,
    index: usize,
    builder: &mut GroupBuilder,
) -> (Purpose, DiskOp) {
    let segment = &partition.segments[index];
    let (base, from, to) = (segment.base_offset, segment.gathered, segment.bytes);
    let written = segment.written;
    let mut crc = 0;
    let mut headers = Vec::with_capacity(partition.ungathered_batches * BATCH_HEADER_BYTES);
    for slice in partition.tail.slices(base, from, to) {
        crc = crc32c::crc32c_append(crc, &slice);
        for batch in Batches::new(&slice) {
            let (_, batch) = batch.expect("the tail holds whole batches");
            headers.extend_from_slice(&batch[..BATCH_HEADER_BYTES]);
        }
    }
    builder.extent(partition.key, base, from, partition.gathered_end, (to - from) as u32, crc, &headers);
    let (op, remainder) = write_to(&mut partition.segments[index], &partition.tail, to, true);
    partition.segments[index].gathered = to;
    partition.operations += 1;
    (Purpose::Extent { log, segment: base, from: written, to, remainder }, op)
}

/// The write that brings a segment's file up to `to`, from the last block boundary, and the remainder it leaves.
fn write_to(
    segment: &mut crate::partition_log::Segment,
    tail: &crate::partition_log::Tail,
    to: u64,
    durable: bool,
) -> (DiskOp, Vec<u8>) {
    let remainder = segment.remainder.as_ref().expect("loaded before the first write");
    let position = segment.written - segment.written % BLOCK_BYTES as u64;
    assert_eq!(remainder.len() as u64, segment.written - position);
    let mut data = Vec::new();
    if !remainder.is_empty() {
        data.push(Bytes::copy_from_slice(remainder));
    }
    data.extend(tail.slices(segment.base_offset, segment.written, to));
    let left = last_bytes(&data, (to % BLOCK_BYTES as u64) as usize);
    segment.writing = true;
    (DiskOp::Write { path: segment.path.clone(), position, data, durable }, left)
}

/// A copy of the last `count` bytes of slices that lie back to back.
fn last_bytes(slices: &[Bytes], count: usize) -> Vec<u8> {
    let mut missing = count;
    let mut pieces = Vec::new();
    for slice in slices.iter().rev() {
        let take = missing.min(slice.len());
        pieces.push(&slice[slice.len() - take..]);
        missing -= take;
        if missing == 0 {
            break;
        }
    }
    assert_eq!(missing, 0);
    pieces.into_iter().rev().flatten().copied().collect()
}

fn describe(purpose: &Purpose, op: Option<&DiskOp>) -> String {
    match (purpose, op) {
        (Purpose::Group, _) => "writing the journal failed".to_string(),
        (_, Some(DiskOp::Write { path, .. })) => format!("writing {path} failed"),
        (_, Some(DiskOp::Sync { path })) => format!("syncing {path} failed"),
        (_, Some(DiskOp::Allocate { path, .. })) => format!("reserving space for {path} failed"),
        (_, Some(DiskOp::Replace { path, .. })) => format!("replacing {path} failed"),
        (_, Some(DiskOp::Truncate { path, .. })) => format!("truncating {path} failed"),
        (_, Some(DiskOp::CreateDirectory { path })) => format!("creating {path} failed"),
        (_, Some(DiskOp::Remove { path })) => format!("removing {path} failed"),
        _ => "a disk operation failed".to_string(),
    }
}

#[cfg(test)]
#[path = "shard_log_tests.rs"]
mod tests;
