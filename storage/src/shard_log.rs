//! All the partition logs of one shard behind one journal: group commit, write-back, checkpoints, retention.
//!
//! Calling contract. In each turn the shard calls [`ShardLog::append`] and the other verbs for what has arrived, then
//! [`ShardLog::end_turn`] once. Disk operations come out through `ops`; each result goes back through
//! [`ShardLog::on_disk`], which says what became true ([`Progress`]). `Err(Fatal)` means: acknowledge nothing more and
//! exit.

use bytes::Bytes;

use crate::batch::TimestampType;
use crate::disk::{DiskError, DiskOp, DiskReply, DiskToken, FilePath};
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

/// All the partition logs of one shard.
pub struct ShardLog {}

impl ShardLog {
    /// Creates a partition's log; returns the existing one if it is here already. Its directory is created in time.
    pub fn create_partition(&mut self, key: PartitionKey, topic: &str, config: LogConfig, ops: &mut Ops) -> LogId {
        let _ = (key, topic, config, ops);
        unimplemented!()
    }

    /// The log of a partition, if it is here.
    pub fn find(&self, key: PartitionKey) -> Option<LogId> {
        let _ = key;
        unimplemented!()
    }

    /// Forgets a partition and removes its files in the background.
    pub fn remove_partition(&mut self, log: LogId, ops: &mut Ops) {
        let _ = (log, ops);
        unimplemented!()
    }

    /// Changes what the topic's configuration says.
    pub fn set_config(&mut self, log: LogId, config: LogConfig) {
        let _ = (log, config);
        unimplemented!()
    }

    /// This node leads the partition from now on, in this epoch: batches appended carry it.
    pub fn lead(&mut self, log: LogId, leader_epoch: i32) {
        let _ = (log, leader_epoch);
        unimplemented!()
    }

    /// Appends one or more whole batches, already validated by [`crate::batch::validate_client_batches`], assigning
    /// offsets, the leader's epoch and, with LogAppendTime, the time.
    pub fn append(&mut self, now: Now, log: LogId, batches: &[u8]) -> Result<Appended, AppendError> {
        let _ = (now, log, batches);
        unimplemented!()
    }

    /// One past the last offset appended.
    pub fn log_end(&self, log: LogId) -> i64 {
        let _ = log;
        unimplemented!()
    }

    /// One past the last offset that survives a loss of power.
    pub fn durable_end(&self, log: LogId) -> i64 {
        let _ = log;
        unimplemented!()
    }

    /// The first offset that may be read.
    pub fn log_start(&self, log: LogId) -> i64 {
        let _ = log;
        unimplemented!()
    }

    /// Reads from the batch that contains `offset` up to, not including, the batch that contains `until_offset` or
    /// lies past it: at most `bytes_max`, but at least the first batch. The caller has checked
    /// `log_start <= offset <= log_end`.
    pub fn read(&mut self, log: LogId, offset: i64, until_offset: i64, bytes_max: usize, ops: &mut Ops) -> Read {
        let _ = (log, offset, until_offset, bytes_max, ops);
        unimplemented!()
    }

    /// Finds a record by time among those below `until_offset`.
    pub fn find_time(&mut self, log: LogId, query: TimeQuery, until_offset: i64, ops: &mut Ops) -> TimeLookup {
        let _ = (log, query, until_offset, ops);
        unimplemented!()
    }

    /// Moves the log start offset up to `offset` (DeleteRecords). Answers when [`Progress::LogStart`] for at least
    /// this offset comes; at once (`true`) if it is there already. The caller has checked `offset <= durable_end`.
    pub fn delete_records(&mut self, log: LogId, offset: i64) -> bool {
        let _ = (log, offset);
        unimplemented!()
    }

    /// The largest epoch at or below `leader_epoch` and the offset at which it ended; `(-1, -1)` when unknown
    /// (KIP-101, KIP-279).
    pub fn end_offset_for_epoch(&self, log: LogId, leader_epoch: i32) -> (i32, i64) {
        let _ = (log, leader_epoch);
        unimplemented!()
    }

    /// The leader epoch of the last batch, or -1.
    pub fn last_epoch(&self, log: LogId) -> i32 {
        let _ = log;
        unimplemented!()
    }

    /// Bytes between log start and log end, in whole segments.
    pub fn log_bytes(&self, log: LogId) -> u64 {
        let _ = log;
        unimplemented!()
    }

    /// The free space of the file system, as the driver measures it every second or so.
    pub fn set_free_space(&mut self, bytes: u64) {
        let _ = bytes;
        unimplemented!()
    }

    /// Whether produce requests are refused for lack of space.
    pub fn is_out_of_space(&self) -> bool {
        unimplemented!()
    }

    /// Ends a turn: starts the commit of what was appended, and a bounded step of background work.
    pub fn end_turn(&mut self, now: Now, ops: &mut Ops) {
        let _ = (now, ops);
        unimplemented!()
    }

    /// Takes the result of an operation.
    pub fn on_disk(
        &mut self,
        now: Now,
        token: DiskToken,
        result: Result<DiskReply, DiskError>,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let _ = (now, token, result, ops, progress);
        unimplemented!()
    }

    /// When [`ShardLog::end_turn`] wants to be called again though nothing happens.
    pub fn next_deadline(&self) -> Option<std::time::Duration> {
        unimplemented!()
    }

    /// Whether everything appended is durable and no operation is under way: the process may exit.
    pub fn is_idle(&self) -> bool {
        unimplemented!()
    }
}
