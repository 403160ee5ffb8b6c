//! All the partition logs of one shard behind one journal: group commit, write-back, checkpoints, retention, compaction.
//!
//! Calling contract. In each turn the shard calls [`ShardLog::append`] and the other verbs for what has arrived, and then
//! the parts of the turn's end once, in this order: [`ShardLog::commit`], [`ShardLog::advance_checkpoint`],
//! [`ShardLog::advance_write_back`], [`ShardLog::advance_retention`] and [`ShardLog::advance_compaction`], or all of them
//! by [`ShardLog::end_turn`]. Disk operations come out through `ops`; each result goes back through [`ShardLog::on_disk`],
//! which says what became true ([`Progress`]). `Err(Fatal)` means: acknowledge nothing more and exit.
//!
//! This file has the verbs. What they work on: `Logs`, the partitions; `Journal`, where commit groups go; `Checkpoints`;
//! `Operations`, what is at the disk; `Removals`; `Cleaner`, the log cleaner.

mod checkpoints;
mod cleaner;
mod commit;
mod journal;
mod logs;
mod operations;
mod options;
mod plan;
mod read;
mod replicate;
pub(crate) mod restart;
mod results;
mod retention;
mod stats;
mod strays;
mod write_back;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::block::BlockPool;
use crate::disk::{DiskError, DiskOp, DiskToken};
use crate::partition_log::{PartitionLog, partition_directory};
use crate::partition_state::PartitionState;
use crate::producer::ProducerView;
use crate::recovery::{RecoveredShard, Stray};
use crate::{Now, PartitionKey};
use checkpoints::Checkpoints;
use cleaner::Cleaner;
use journal::Journal;
use logs::Logs;
use operations::Operations;
pub use options::{CleanerOptions, CompactionConfig, LogConfig, ShardLogOptions};
pub use plan::{ReadPart, ReadPlan};
use read::LoadedIndexes;
pub use read::{Read, ReadToken, TimeFound, TimeLookup, TimeQuery};
pub use replicate::{ReplicateError, Replicated};
use retention::{POOL_INTERVAL, Removals};
pub use stats::LogStats;

/// Disk operations to execute, each with the token under which its result is to come back.
pub type Ops = Vec<(DiskToken, DiskOp)>;

/// A partition's place in its shard's log; valid until the partition is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u32);

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
    /// The log is being restarted: nobody leads it (NOT_LEADER_OR_FOLLOWER).
    Restarting,
}

/// What became true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Everything below an offset survives a loss of power.
    Durable {
        /// The partition's log.
        log: LogId,
        /// One past the last offset that is durable.
        offset: i64,
    },
    /// The log start offset moved, durably: by [`ShardLog::delete_records`] or by retention.
    LogStart {
        /// The partition's log.
        log: LogId,
        /// The first offset that may be read from now on.
        offset: i64,
    },
    /// A pending read finished.
    ReadDone {
        /// What [`Read::Pending`] said.
        token: ReadToken,
        /// The answer. `Err(NotFound)`: the segment is gone, read again.
        result: Result<ReadPlan, DiskError>,
    },
    /// A pending time query finished.
    TimeDone {
        /// What [`TimeLookup::Pending`] said.
        token: ReadToken,
        /// The record, if there is one.
        result: Result<Option<TimeFound>, DiskError>,
    },
    /// A log was cut off and goes on elsewhere, durably: [`ShardLog::restart`].
    Restarted {
        /// The partition's log.
        log: LogId,
        /// Where it ends now, and what is appended follows.
        end: i64,
    },
    /// Compacting a partition failed: its records are all there, and it is left alone until the next start.
    CompactionFailed {
        /// The partition's log.
        log: LogId,
        /// The reason, for the operator.
        why: String,
    },
}

/// The log cannot go on: a write or sync failed, or what is committed cannot be read where it has to be. Acknowledge nothing more; exit; restart recovers from the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal(pub String);

/// What there was of a log before a batch was appended to it.
struct Before {
    tail_bytes: usize,
    segments: usize,
    producers: usize,
}

impl Before {
    fn of(partition: &PartitionLog) -> Before {
        Before {
            tail_bytes: partition.tail.capacity(),
            segments: partition.segments().len(),
            producers: partition.producers.len(),
        }
    }
}

/// What may be appended but not durable, as a share of the journal: 1 / 4.
const PENDING_SHARE: u64 = 4;
/// Memory of tail blocks kept for reuse besides the tails, as a share of the memory for the newest records: 1 / 4.
pub const TAIL_REUSE_SHARE: usize = 4;

/// All the partition logs of one shard.
pub struct ShardLog {
    options: ShardLogOptions,
    logs: Logs,
    /// Partitions that are set aside.
    strays: BTreeMap<PartitionKey, Stray>,
    journal: Journal,
    checkpoints: Checkpoints,
    operations: Operations,
    removals: Removals,
    cleaner: Cleaner,
    loaded_indexes: LoadedIndexes,
    /// Logs whose restart has nothing more to wait for.
    restarts: Vec<LogId>,
    /// Answers to reads that could not begin, for the end of the turn.
    refused: Vec<Progress>,
    /// Memory of the tails.
    pool: BlockPool,
    /// When blocks that were not needed are freed.
    pool_at: Duration,
    /// Operations on segments under way that [`ShardLog::start`] began.
    write_backs: usize,
    /// The number of the last read that had a token.
    last_read: u64,
    is_below_floor: bool,
    /// The last time heard of.
    clock: Duration,
    /// When the log was recovered, in milliseconds since the Unix epoch, by what the clock said then.
    recovered_ms: i64,
    /// When partitions are examined for retention, and from which place on.
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
        let journal = Journal::new(recovered.directory, &recovered.checkpoint);
        // What is in the journal and not in a segment is in a tail, however small their share is.
        let tail_bytes_max = options.tail_memory_bytes_max.max(journal.bytes() as usize);
        let mut log = ShardLog {
            logs: Logs::default(),
            strays: recovered.strays.into_iter().map(|stray| (stray.key, stray)).collect(),
            journal,
            checkpoints: Checkpoints::default(),
            operations: Operations::default(),
            removals: Removals::of_leftovers(recovered.leftovers),
            cleaner: Cleaner::default(),
            loaded_indexes: LoadedIndexes::default(),
            restarts: Vec::new(),
            refused: Vec::new(),
            pool: BlockPool::new(tail_bytes_max + options.tail_memory_bytes_max / TAIL_REUSE_SHARE),
            pool_at: POOL_INTERVAL,
            write_backs: 0,
            last_read: 0,
            is_below_floor: false,
            clock: Duration::ZERO,
            recovered_ms: recovered.recovered_ms,
            sweep_at: options.retention_check_interval,
            sweep_cursor: 0,
            stats: LogStats::default(),
            options,
        };
        for state in &recovered.checkpoint.partitions {
            let (topic, config) = configs(state.key);
            let directory = partition_directory(&topic, state.key);
            let id = log.logs.insert(PartitionLog::new(&directory, config, state));
            if state.segments.len() > 1 {
                log.logs.enqueue(id);
            }
        }
        log
    }

    /// Creates a partition's log, empty; returns the existing one if it is here already, and takes back one that is set
    /// aside. Its files are created with its first bytes.
    pub fn create_partition(&mut self, key: PartitionKey, topic: &str, config: LogConfig) -> LogId {
        if let Some(log) = self.logs.find(key) {
            self.set_config(log, config);
            return log;
        }
        if let Some(id) = self.take_back(key, &config) {
            return id;
        }
        let state = PartitionState::empty(key, config.index_interval_bytes);
        self.logs.insert(PartitionLog::new(&partition_directory(topic, key), config, &state))
    }

    /// The log of a partition, if it is here.
    pub fn find(&self, key: PartitionKey) -> Option<LogId> {
        self.logs.find(key)
    }

    /// The partitions that are here, in the order of their keys.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionKey, LogId)> + '_ {
        self.logs.partitions().iter().map(|(&key, &log)| (key, log))
    }

    /// Forgets a partition and removes its files as soon as nothing is under way on them. What of it was not durable
    /// never becomes so: no progress is reported for it any more.
    pub fn remove_partition(&mut self, log: LogId) {
        self.logs.forget_key(log);
        self.logs.get_mut(log).removing = true;
        self.leave_uncompacted(log);
        self.finish_removal(log);
    }

    /// Something of a log has ended: its removal or its restart may have waited for that.
    fn finish_removal(&mut self, log: LogId) {
        self.note_restart(log);
        let Some(mut partition) = self.logs.take_removed(log) else { return };
        // What no group has taken will never be durable: it is not waited for.
        let never_durable = partition.ungathered_bytes();
        assert!(never_durable <= self.stats.pending_bytes, "what was appended is pending until it is durable");
        self.stats.pending_bytes -= never_durable;
        partition.tail.clear(&mut self.pool);
        if partition.segments().iter().any(|segment| segment.is_draining()) {
            self.checkpoints.drained();
        }
        if partition.directory_created {
            self.removals.add_directory(partition.directory.as_ref().into());
        }
    }

    /// Takes the logs that are gone out of the queues, all at once: a topic may have thousands of them. Only then are
    /// their places used again.
    fn forget_gone(&mut self) {
        if !self.logs.has_gone() {
            return;
        }
        self.loaded_indexes.forget(|log| self.logs.is_live(log));
        self.checkpoints.forget(|log| self.logs.is_live(log));
        self.logs.forget_gone();
    }

    /// Changes what the topic's configuration says.
    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        self.logs.get_mut(log).config = config;
    }

    /// `producer.id.expiration.ms` from now on.
    pub fn set_producer_expiration(&mut self, ms: i64) {
        self.options.producer_expiration_ms = ms;
    }

    /// How fast this shard compacts from now on, and how often it looks for something to compact.
    pub fn set_cleaner_pace(&mut self, bytes_per_second_max: u64, backoff: Duration) {
        self.options.cleaner = CleanerOptions { bytes_per_second_max, backoff, ..self.options.cleaner };
    }

    /// This node leads the partition from now on, in this epoch: batches appended carry it. Returns where the epoch starts: no
    /// record before is of this leader. That is not kept on the disk; a leader that starts again does so in another epoch.
    /// The log is not being restarted.
    pub fn lead(&mut self, log: LogId, leader_epoch: i32) -> i64 {
        self.logs.get_mut(log).lead(leader_epoch)
    }

    /// Another node leads the partition from now on: an epoch in which this one led and appended nothing is forgotten.
    pub fn follow(&mut self, log: LogId) {
        self.logs.get_mut(log).epochs.follow();
    }

    /// What lies below is committed, as far as this log knows: the least that it was told, or is durable where nobody else has
    /// the log ([`ShardLog::commit_alone`]).
    pub fn committed(&self, log: LogId) -> i64 {
        self.logs.get(log).committed()
    }

    /// All replicas in sync have what lies below `offset`, this log's own durably. It bounds what consumers are given, what is
    /// compacted, deleted, and forgotten of producers, and is kept as a lower bound in the checkpoint. It does not go back,
    /// but by a restart: a smaller offset is passed over.
    ///
    /// # Panics
    /// If the log is not durable up to there.
    pub fn set_committed(&mut self, log: LogId, offset: i64) {
        self.logs.get_mut(log).set_committed(offset);
    }

    /// There is no other replica: what is durable is committed from now on, until [`ShardLog::set_committed`].
    pub fn commit_alone(&mut self, log: LogId) {
        self.logs.get_mut(log).commit_alone();
    }

    /// Appends exactly one whole batch, already validated by [`crate::batch::validate_client_batches`] or built by this
    /// program, assigning offsets, the leader's epoch and, with LogAppendTime, the time.
    pub fn append(&mut self, now: Now, log: LogId, batch: &[u8]) -> Result<Appended, AppendError> {
        let reserve = self.replica_reserve();
        if self.is_out_of_space() || !self.has_room(batch.len() as u64, reserve) {
            return Err(AppendError::NoSpace);
        }
        self.encode_log(log);
        let steady_ms = self.steady_ms(now);
        let partition = self.logs.get_mut(log);
        let before = Before::of(partition);
        let appended = partition.append(now, steady_ms, batch, &mut self.pool)?;
        if !appended.duplicate {
            self.note_appended(log, &before, batch.len() as u64);
        }
        Ok(appended)
    }

    /// A batch was appended to a log.
    fn note_appended(&mut self, log: LogId, before: &Before, bytes: u64) {
        let partition = self.logs.get_mut(log);
        let grown = partition.tail.capacity() - before.tail_bytes;
        let has_rolled = partition.segments().len() > before.segments;
        let is_new_producer = partition.producers.len() > before.producers;
        self.logs.grow_tails(grown);
        if is_new_producer {
            self.logs.remember_producer();
            if self.logs.producers() > self.options.producers_max && before.producers > 0 {
                self.logs.get_mut(log).producers.forget_oldest();
                self.logs.forget_producers(1);
            }
        }
        self.stats.appends += 1;
        self.stats.append_bytes += bytes;
        self.stats.pending_bytes += bytes;
        self.logs.mark_dirty(log);
        if has_rolled {
            self.logs.enqueue(log);
        }
    }

    /// What the clock said at recovery, and on from there without a jump: a producer must not be forgotten, and its retry
    /// appended twice, because somebody set the clock.
    fn steady_ms(&self, now: Now) -> i64 {
        self.recovered_ms + now.elapsed.as_millis() as i64
    }

    /// What may be appended but not durable: it has to fit the half of the journal that is free when a checkpoint
    /// starts, with room for its entries' headers, because that checkpoint waits for it.
    pub fn pending_bytes_max(&self) -> u64 {
        self.journal.bytes() / PENDING_SHARE
    }

    /// Bytes of what may be appended but not durable that are kept for replicated appends: clients must not keep a follower
    /// from following.
    pub fn replica_reserve(&self) -> u64 {
        self.pending_bytes_max() * u64::from(self.options.replica_reserve_percent.min(100)) / 100
    }

    /// Whether so much more may be appended, with a reserve left for others. What is alone always may.
    fn has_room(&self, bytes: u64, reserve: u64) -> bool {
        self.stats.pending_bytes == 0 || self.stats.pending_bytes + bytes <= self.pending_bytes_max() - reserve
    }

    /// One past the last offset appended.
    pub fn log_end(&self, log: LogId) -> i64 {
        self.logs.get(log).log_end()
    }

    /// One past the last offset that survives a loss of power.
    pub fn durable_end(&self, log: LogId) -> i64 {
        self.logs.get(log).durable_end()
    }

    /// The first offset that may be read.
    pub fn log_start(&self, log: LogId) -> i64 {
        self.logs.get(log).log_start()
    }

    /// Moves the log start offset up to `offset` (DeleteRecords). Returns whether it is there already; otherwise
    /// [`Progress::LogStart`] for at least this offset will come, unless a restart comes first. The caller has checked
    /// `offset <= committed`.
    pub fn delete_records(&mut self, log: LogId, offset: i64) -> bool {
        let partition = self.logs.get_mut(log);
        if offset <= partition.log_start() {
            return true;
        }
        if partition.want_log_start(offset) {
            self.logs.mark_dirty(log);
        }
        false
    }

    /// The largest epoch at or below `leader_epoch` and the offset at which it ended; `(-1, -1)` when unknown
    /// (KIP-101, KIP-279). That which is led here counts, also before it has a record.
    pub fn end_offset_for_epoch(&self, log: LogId, leader_epoch: i32) -> (i32, i64) {
        let partition = self.logs.get(log);
        partition.epochs.end_offset(leader_epoch, partition.log_end())
    }

    /// Whether nothing was appended since offsets were left out at the log's end ([`ShardLog::restart`]), or since it began.
    pub fn ends_in_gap(&self, log: LogId) -> bool {
        self.logs.get(log).ends_in_gap()
    }

    /// The leader epoch that wrote an offset below the log end, or -1, and the offsets from which on and before which it wrote.
    pub fn epoch_range(&self, log: LogId, offset: i64) -> (i32, i64, i64) {
        let partition = self.logs.get(log);
        partition.epochs.range_of(offset, partition.log_end())
    }

    /// The leader epoch that goes on at the log start, or in which the last batch was that was deleted where nothing is left;
    /// -1: it is not known.
    pub fn start_epoch(&self, log: LogId) -> i32 {
        let partition = self.logs.get(log);
        partition.epochs.epoch_of(partition.log_start())
    }

    /// The leader epoch of the last batch, or -1.
    pub fn last_epoch(&self, log: LogId) -> i32 {
        self.logs.get(log).epochs.latest()
    }

    /// Bytes of all the log's segments.
    pub fn log_bytes(&self, log: LogId) -> u64 {
        self.logs.get(log).bytes()
    }

    /// The idempotent producers that the log remembers; at most [`crate::producer::PRODUCERS_MAX`].
    pub fn producers(&self, log: LogId) -> Vec<ProducerView> {
        self.logs.get(log).producers.views().collect()
    }

    /// The free space of the file system, as the driver measures it every second or so.
    pub fn set_free_space(&mut self, bytes: u64) {
        let floor = self.options.free_space_floor_bytes;
        // A little more than the floor to go on again, so that it does not flap.
        self.is_below_floor = bytes < if self.is_below_floor { floor + floor / 8 } else { floor };
    }

    /// Whether appends are refused for lack of space.
    pub fn is_out_of_space(&self) -> bool {
        self.is_below_floor || self.operations.next_retry().is_some()
    }

    /// Ends a turn: starts the commit of what was appended, and a bounded step of background work. All of its parts, for
    /// callers that do not time them.
    pub fn end_turn(&mut self, now: Now, ops: &mut Ops, progress: &mut Vec<Progress>) -> Result<(), Fatal> {
        self.commit(now, ops, progress)?;
        self.advance_checkpoint(ops);
        self.advance_write_back(ops);
        self.advance_retention(now, ops);
        self.advance_compaction(now, ops);
        Ok(())
    }

    /// The first part of [`ShardLog::end_turn`]: starts the commit of what was appended. Like the other parts, returns
    /// whether there was anything to do.
    pub fn commit(&mut self, now: Now, ops: &mut Ops, progress: &mut Vec<Progress>) -> Result<bool, Fatal> {
        self.clock = now.elapsed;
        self.forget_gone();
        self.operations.retry(now.elapsed, ops);
        self.advance_restarts(ops, progress)?;
        progress.append(&mut self.refused);
        let is_due = !self.journal.is_writing() && self.logs.dirty() > 0;
        if is_due {
            self.start_group(ops, progress);
        }
        Ok(is_due)
    }

    /// When [`ShardLog::end_turn`] wants to be called again though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let pool = (self.kept_bytes() > 0).then_some(self.pool_at);
        let deadlines = [
            self.operations.next_retry(),
            self.removals.next_deadline(),
            self.checkpoints.next_deadline(self.clock),
            pool,
            self.compaction_deadline(),
            Some(self.sweep_at),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Whether everything appended is durable and no operation is under way: the process may exit. What waits for room on
    /// the disk is not waited for; recovery does it.
    pub fn is_idle(&self) -> bool {
        // Nor is a compaction: what it has not finished is done again.
        let waits =
            self.operations.at_disk() > usize::from(self.cleaner.is_working()) || self.removals.has_directories();
        let has_untold = !self.restarts.is_empty() || !self.refused.is_empty();
        !self.journal.is_writing() && self.logs.dirty() == 0 && !waits && !has_untold
    }
}

#[cfg(test)]
mod tests;
