//! One partition's log: its segments, its newest bytes in memory, and what is known of its producers and epochs.
//!
//! Pure bookkeeping. How far each segment's bytes have come is a chain of positions, each at most the one before:
//! `bytes` (appended) ≥ `gathered` (handed to a commit group) ≥ `durable` (that group is on disk) ≥ `written` (written
//! back to the segment's file) ≥ `synced` (durable there, so the journal is not needed for them any more).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::batch::{self, BatchHeader, TimestampType};
use crate::block::BlockPool;
use crate::bug::{Bug, is_planted};
use crate::compaction::Replacement;
use crate::disk::{BLOCK_BYTES, FilePath};
use crate::epochs::LeaderEpochs;
use crate::index::SparseIndex;
use crate::producer::{ProducerStates, Verdict};
use crate::shard_log::{AppendError, Appended, LogConfig, ReadPlan};
use crate::tail::Tail;
use crate::{Now, PartitionKey};

/// Positions in a segment and offsets relative to its base are 32 bits wide in the index.
const SEGMENT_BYTES_LIMIT: u64 = u32::MAX as u64;

/// Where the directory of a partition lies, relative to the data directory.
pub fn partition_directory(topic: &str, key: PartitionKey) -> String {
    format!("topics/{topic}/{}/{}", key.topic_id.to_base64(), key.partition)
}

/// The file of a segment: named as Kafka names it, with the version if compaction has written it.
pub fn segment_path(directory: &str, base_offset: i64, version: u32) -> FilePath {
    format!("{directory}/{}.log", segment_name(base_offset, version)).into()
}

/// The file of a closed segment's index.
pub fn index_path(directory: &str, base_offset: i64, version: u32) -> FilePath {
    format!("{directory}/{}.index", segment_name(base_offset, version)).into()
}

/// A segment that takes the place of others never has a file of theirs: who reads from those may go on.
fn segment_name(base_offset: i64, version: u32) -> String {
    if version == 0 { format!("{base_offset:020}") } else { format!("{base_offset:020}.{version}") }
}

/// Whether a segment's file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    Absent,
    Creating,
    Present,
}

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub base_offset: i64,
    /// 0: as it was appended. Else compaction has written it, and its offsets may have gaps.
    pub version: u32,
    pub path: FilePath,
    pub bytes: u64,
    pub gathered: u64,
    pub durable: u64,
    pub written: u64,
    pub synced: u64,
    /// The checkpoint under way needs `synced` to come this far.
    pub drain_to: u64,
    /// Space reserved in the file.
    pub allocated: u64,
    pub file: FileState,
    pub allocating: bool,
    pub writing: bool,
    pub syncing: bool,
    /// Truncation and index are under way.
    pub closing: bool,
    /// The file has its final length and the index is written: nothing will change any more.
    pub closed: bool,
    /// The bytes from the last block boundary up to `written`, which the next write repeats. `None`: only on disk.
    pub remainder: Option<Vec<u8>>,
    /// Timestamp of the first batch, for rolling by time; -1 while empty.
    pub first_timestamp: i64,
    /// Largest timestamp, for retention and lookups by time; -1 while empty.
    pub max_timestamp: i64,
    /// `None`: written to its file and not loaded.
    pub index: Option<SparseIndex>,
}

impl Segment {
    pub fn new(directory: &str, base_offset: i64, index_interval_bytes: u32) -> Segment {
        Segment {
            base_offset,
            version: 0,
            path: segment_path(directory, base_offset, 0),
            bytes: 0,
            gathered: 0,
            durable: 0,
            written: 0,
            synced: 0,
            drain_to: 0,
            allocated: 0,
            file: FileState::Absent,
            allocating: false,
            writing: false,
            syncing: false,
            closing: false,
            closed: false,
            remainder: Some(Vec::new()),
            first_timestamp: -1,
            max_timestamp: -1,
            index: Some(SparseIndex::new(base_offset, index_interval_bytes)),
        }
    }

    /// A segment whose bytes are all in its file.
    pub fn recovered(directory: &str, state: &SegmentState) -> Segment {
        Segment {
            version: state.version,
            path: segment_path(directory, state.base_offset, state.version),
            bytes: state.bytes,
            gathered: state.bytes,
            durable: state.bytes,
            written: state.bytes,
            synced: state.bytes,
            allocated: state.bytes,
            file: if state.bytes > 0 { FileState::Present } else { FileState::Absent },
            closed: state.closed,
            remainder: state.bytes.is_multiple_of(BLOCK_BYTES as u64).then(Vec::new),
            first_timestamp: state.first_timestamp,
            max_timestamp: state.max_timestamp,
            index: state.index.clone(),
            ..Segment::new(directory, state.base_offset, 1)
        }
    }

    /// Whether an extent may be written to the file: nothing is in the way, and the space for it is reserved. A commit
    /// must not depend on there being room on the disk, or all others of the shard wait for it, too.
    pub fn takes_extent(&self) -> bool {
        let is_free = self.file == FileState::Present && !self.writing && !self.closing && self.remainder.is_some();
        is_free && self.bytes.next_multiple_of(BLOCK_BYTES as u64) <= self.allocated
    }

    /// Whether space should be reserved: ahead of the writes, so that a commit does not have to wait for it.
    pub fn wants_space(&self, is_active: bool) -> bool {
        if is_active { self.bytes > self.allocated / 2 } else { self.gathered < self.bytes && !self.takes_extent() }
    }

    /// How far the file may be read: an extent is written before the group that makes it count is durable.
    pub fn readable(&self) -> u64 {
        self.written.min(self.durable)
    }

    /// Whether an operation on the file is under way.
    pub fn is_busy(&self) -> bool {
        self.writing || self.syncing || self.allocating || self.closing
    }
}

/// A segment as the checkpoint keeps it and recovery rebuilds it.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentState {
    /// Offset of its first record; compaction may have removed that.
    pub base_offset: i64,
    /// Part of its files' names: 0 as it was appended, else that of the compaction which wrote it.
    pub version: u32,
    /// Its length.
    pub bytes: u64,
    /// How much of it is durable in its file.
    pub synced: u64,
    /// Timestamp of its first batch, or -1.
    pub first_timestamp: i64,
    /// Its largest timestamp, or -1.
    pub max_timestamp: i64,
    /// Nothing will change any more and the index is in its file.
    pub closed: bool,
    /// The index, while it is not in its file.
    pub index: Option<SparseIndex>,
}

/// A partition's log as the checkpoint keeps it and recovery rebuilds it.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionState {
    /// The partition.
    pub key: PartitionKey,
    /// First offset that may be read.
    pub log_start: i64,
    /// One past the last offset.
    pub log_end: i64,
    /// Records below were compacted already.
    pub first_dirty: i64,
    /// Oldest first; the last one is appended to. Never empty.
    pub segments: Vec<SegmentState>,
    /// Leader epochs and where each began.
    pub epochs: LeaderEpochs,
    /// Idempotent producers.
    pub producers: ProducerStates,
}

/// The same, borrowed: what is encoded.
#[derive(Debug)]
pub struct PartitionView<'a> {
    /// The partition.
    pub key: PartitionKey,
    /// First offset that may be read.
    pub log_start: i64,
    /// One past the last offset.
    pub log_end: i64,
    /// Records below were compacted already.
    pub first_dirty: i64,
    /// Oldest first.
    pub segments: Vec<SegmentView<'a>>,
    /// Leader epochs and where each began.
    pub epochs: &'a LeaderEpochs,
    /// Idempotent producers.
    pub producers: &'a ProducerStates,
}

/// A [`SegmentState`], borrowed.
#[derive(Clone, Copy, Debug)]
pub struct SegmentView<'a> {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Part of its files' names.
    pub version: u32,
    /// Its length.
    pub bytes: u64,
    /// How much of it is durable in its file.
    pub synced: u64,
    /// Timestamp of its first batch, or -1.
    pub first_timestamp: i64,
    /// Its largest timestamp, or -1.
    pub max_timestamp: i64,
    /// Nothing will change any more.
    pub closed: bool,
    /// The index, while it is not in its file.
    pub index: Option<&'a SparseIndex>,
}

impl PartitionState {
    /// To be encoded.
    pub fn view(&self) -> PartitionView<'_> {
        PartitionView {
            key: self.key,
            log_start: self.log_start,
            log_end: self.log_end,
            first_dirty: self.first_dirty,
            segments: self
                .segments
                .iter()
                .map(|segment| SegmentView {
                    base_offset: segment.base_offset,
                    version: segment.version,
                    bytes: segment.bytes,
                    synced: segment.synced,
                    first_timestamp: segment.first_timestamp,
                    max_timestamp: segment.max_timestamp,
                    closed: segment.closed,
                    index: segment.index.as_ref(),
                })
                .collect(),
            epochs: &self.epochs,
            producers: &self.producers,
        }
    }

    /// An empty log that starts at offset 0.
    pub fn empty(key: PartitionKey, index_interval_bytes: u32) -> PartitionState {
        PartitionState {
            key,
            log_start: 0,
            log_end: 0,
            first_dirty: 0,
            segments: vec![SegmentState::empty(0, index_interval_bytes)],
            epochs: LeaderEpochs::default(),
            producers: ProducerStates::default(),
        }
    }
}

impl SegmentState {
    /// What compaction has made of some segments.
    pub fn compacted(replacement: &Replacement) -> SegmentState {
        SegmentState {
            base_offset: replacement.from,
            version: replacement.version,
            bytes: replacement.bytes,
            synced: replacement.bytes,
            first_timestamp: replacement.first_timestamp,
            max_timestamp: replacement.max_timestamp,
            closed: true,
            index: None,
        }
    }

    /// A segment with nothing in it.
    pub fn empty(base_offset: i64, index_interval_bytes: u32) -> SegmentState {
        SegmentState {
            base_offset,
            version: 0,
            bytes: 0,
            synced: 0,
            first_timestamp: -1,
            max_timestamp: -1,
            closed: false,
            index: Some(SparseIndex::new(base_offset, index_interval_bytes)),
        }
    }
}

/// One partition's log.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    pub key: PartitionKey,
    pub directory: Arc<str>,
    pub config: LogConfig,
    pub leader_epoch: i32,
    pub segments: VecDeque<Segment>,
    pub tail: Tail,
    pub log_start: i64,
    /// Where the log start is to move, once that is durable.
    pub log_start_wanted: i64,
    pub log_start_gathered: i64,
    pub log_end: i64,
    /// Records below were compacted already.
    pub first_dirty: i64,
    /// A compacted segment that is to take the place of others with the next commit group.
    pub replacement: Option<Replacement>,
    /// No file of this partition has this version yet.
    pub next_version: u32,
    /// Compacting it failed: it is not tried again by this process.
    pub is_uncleanable: bool,
    /// Offset of the first batch not yet handed to a commit group, and how many such batches there are.
    pub gathered_end: i64,
    pub ungathered_batches: usize,
    pub durable_end: i64,
    pub epochs: LeaderEpochs,
    pub producers: ProducerStates,
    /// Listed as having something for the next commit group.
    pub is_dirty: bool,
    /// Listed for write-back.
    pub is_queued: bool,
    pub directory_created: bool,
    pub creating_directory: bool,
    /// Disk operations under way.
    pub operations: u32,
    /// Something of it is in the commit group under way.
    pub in_group: bool,
    /// The number of the last checkpoint that holds it.
    pub checkpoint: u64,
    /// The topic is gone: files go when no operation is under way.
    pub removing: bool,
}

impl PartitionLog {
    pub fn new(topic: &str, config: LogConfig, state: &PartitionState) -> PartitionLog {
        let directory: Arc<str> = partition_directory(topic, state.key).into();
        let segments: VecDeque<Segment> =
            state.segments.iter().map(|segment| Segment::recovered(&directory, segment)).collect();
        assert!(!segments.is_empty());
        let mut log_end = state.log_end;
        if is_planted(Bug::ReuseOffset) && log_end > segments[segments.len() - 1].base_offset.max(state.log_start) {
            log_end -= 1;
        }
        PartitionLog {
            key: state.key,
            config,
            leader_epoch: state.epochs.latest().max(0),
            directory_created: segments.iter().any(|segment| segment.file == FileState::Present),
            segments,
            directory,
            tail: Tail::default(),
            first_dirty: state.first_dirty,
            replacement: None,
            next_version: state.segments.iter().map(|segment| segment.version).max().unwrap_or(0) + 1,
            is_uncleanable: false,
            log_start: state.log_start,
            log_start_wanted: state.log_start,
            log_start_gathered: state.log_start,
            log_end,
            gathered_end: log_end,
            ungathered_batches: 0,
            durable_end: log_end,
            epochs: state.epochs.clone(),
            producers: state.producers.clone(),
            is_dirty: false,
            is_queued: false,
            creating_directory: false,
            operations: 0,
            in_group: false,
            checkpoint: 0,
            removing: false,
        }
    }

    /// What a checkpoint keeps: with what draining is to make true, and with what is appended but not durable yet. The
    /// caller publishes it when both have become so.
    pub fn view(&self) -> PartitionView<'_> {
        PartitionView {
            key: self.key,
            log_start: self.log_start,
            log_end: self.log_end,
            first_dirty: self.first_dirty,
            segments: self
                .segments
                .iter()
                .map(|segment| SegmentView {
                    base_offset: segment.base_offset,
                    version: segment.version,
                    bytes: segment.bytes,
                    synced: segment.synced.max(segment.drain_to),
                    first_timestamp: segment.first_timestamp,
                    max_timestamp: segment.max_timestamp,
                    closed: segment.closed,
                    index: if segment.closed { None } else { segment.index.as_ref() },
                })
                .collect(),
            epochs: &self.epochs,
            producers: &self.producers,
        }
    }

    pub fn active(&self) -> &Segment {
        self.segments.back().expect("a log has at least one segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a log has at least one segment")
    }

    pub fn segment(&self, base_offset: i64) -> Option<&Segment> {
        self.segment_index(base_offset).map(|index| &self.segments[index])
    }

    pub fn segment_mut(&mut self, base_offset: i64) -> Option<&mut Segment> {
        self.segment_index(base_offset).map(|index| &mut self.segments[index])
    }

    fn segment_index(&self, base_offset: i64) -> Option<usize> {
        self.segments.binary_search_by_key(&base_offset, |segment| segment.base_offset).ok()
    }

    /// The index of the segment in which `offset` lies or would lie.
    pub fn segment_containing(&self, offset: i64) -> usize {
        self.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1)
    }

    /// One past the last offset of the segment at `index`.
    pub fn segment_end_offset(&self, index: usize) -> i64 {
        self.segments.get(index + 1).map_or(self.log_end, |next| next.base_offset)
    }

    /// The index of the first segment that may still change.
    pub fn first_open(&self) -> usize {
        debug_assert!(self.segments.iter().is_sorted_by_key(|segment| !segment.closed), "segments close in order");
        self.segments.partition_point(|segment| segment.closed)
    }

    /// Bytes in all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Appends one validated batch, giving it offsets, the leader's epoch and, with LogAppendTime, the time. `steady_ms`
    /// is the time by which producers expire.
    pub fn append(
        &mut self,
        now: Now,
        steady_ms: i64,
        batch: &[u8],
        pool: &mut BlockPool,
    ) -> Result<Appended, AppendError> {
        let header = BatchHeader::read(batch).expect("the batch was validated");
        assert_eq!(header.batch_bytes(), Ok(batch.len()), "exactly one whole batch");
        if batch.len() as u64 > self.config.segment_bytes.min(SEGMENT_BYTES_LIMIT) {
            return Err(AppendError::LargerThanSegment);
        }
        match self.producers.check(header) {
            Verdict::Append => {}
            Verdict::Duplicate { base_offset, last_offset, log_append_time } => {
                return Ok(Appended { base_offset, last_offset, log_append_time, duplicate: true });
            }
            Verdict::OutOfOrderSequence => return Err(AppendError::OutOfOrderSequence),
            Verdict::InvalidProducerEpoch => return Err(AppendError::InvalidProducerEpoch),
        }
        let log_append_time = match self.config.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(now.unix_ms),
        };
        let max_timestamp = log_append_time.unwrap_or(header.max_timestamp());
        if self.must_roll(batch.len() as u64, header.last_offset_delta(), max_timestamp) {
            self.roll();
        }

        let base_offset = self.log_end;
        let (segment, position) = (self.active().base_offset, self.active().bytes);
        let target = self.tail.reserve(pool, segment, position, base_offset, batch.len());
        target.copy_from_slice(batch);
        batch::assign(target, base_offset, self.leader_epoch, log_append_time);
        let header = *BatchHeader::read(target).expect("copied from a valid one");
        self.tail.commit(batch.len(), base_offset);
        self.note(steady_ms, &header, position);
        let active = self.active_mut();
        active.bytes += batch.len() as u64;
        self.log_end = header.last_offset() + 1;
        self.ungathered_batches += 1;
        Ok(Appended {
            base_offset,
            last_offset: header.last_offset(),
            log_append_time: log_append_time.unwrap_or(-1),
            duplicate: false,
        })
    }

    /// Remembers what a batch at `position` of the active segment says of producers, epochs and time.
    fn note(&mut self, steady_ms: i64, header: &BatchHeader, position: u64) {
        self.producers.record(header, steady_ms);
        self.epochs.assign(header.leader_epoch(), header.base_offset());
        let active = self.active_mut();
        active.index.as_mut().expect("the active segment's index is in memory").note(header, position);
        if active.first_timestamp < 0 {
            active.first_timestamp = header.max_timestamp();
        }
        active.max_timestamp = active.max_timestamp.max(header.max_timestamp());
    }

    fn must_roll(&self, bytes: u64, last_offset_delta: i32, max_timestamp: i64) -> bool {
        let active = self.active();
        if active.bytes == 0 {
            return false;
        }
        let last_relative = self.log_end + i64::from(last_offset_delta) - active.base_offset;
        active.bytes + bytes > self.config.segment_bytes.min(SEGMENT_BYTES_LIMIT)
            || last_relative > i64::from(u32::MAX)
            || (active.first_timestamp >= 0 && max_timestamp - active.first_timestamp > self.config.roll_ms())
    }

    /// Starts a new segment at the log's end; the one before is closed when it has been written back.
    pub fn roll(&mut self) {
        let segment = Segment::new(&self.directory, self.log_end, self.config.index_interval_bytes);
        self.segments.push_back(segment);
    }

    /// Whether [`PartitionLog::read`] can answer for this offset: it is in memory, or there is nothing to read.
    pub fn is_in_memory(&self, offset: i64) -> bool {
        offset >= self.tail.first_offset().unwrap_or(self.log_end)
    }

    /// The slices of the tail from the batch containing `offset` up to the one containing `until_offset`.
    pub fn read(&self, offset: i64, until_offset: i64, bytes_max: usize) -> ReadPlan {
        if offset >= until_offset.min(self.log_end) {
            return ReadPlan::default();
        }
        self.tail.read(offset, until_offset, bytes_max)
    }

    /// Drops memory of the oldest tail block if its bytes are all in the segment's file. Returns its capacity.
    pub fn evict_front(&mut self, pool: &mut BlockPool) -> Option<usize> {
        let PartitionLog { tail, segments, .. } = self;
        tail.evict_front(pool, |base, end| is_written(segments, base, end))
    }

    /// How many more tail blocks have become evictable since the last call.
    pub fn take_evictable(&mut self) -> usize {
        let PartitionLog { tail, segments, .. } = self;
        tail.take_evictable(|base, end| is_written(segments, base, end))
    }

    /// Whether the first segment lies wholly below the log start and may be dropped.
    pub fn has_segments_below_start(&self) -> bool {
        self.segments.len() > 1
            && self.segment_end_offset(0) <= self.log_start
            && !self.segments[0].is_busy()
            && self.segments[0].closed
    }

    /// Removes segments that lie wholly below the log start; never the active one. Returns their base offsets.
    pub fn drop_segments_below_start(&mut self) -> Vec<Segment> {
        let mut dropped = Vec::new();
        while self.has_segments_below_start() {
            dropped.push(self.segments.pop_front().expect("there are two"));
        }
        dropped
    }

    /// Puts a compacted segment in the place of those that it was made from. Returns what is left of these.
    pub fn replace(&mut self, replacement: &Replacement) -> Vec<Segment> {
        let from = self.segments.partition_point(|segment| segment.base_offset < replacement.from);
        let until = self.segments.partition_point(|segment| segment.base_offset < replacement.until);
        let new =
            (replacement.bytes > 0).then(|| Segment::recovered(&self.directory, &SegmentState::compacted(replacement)));
        let replaced: Vec<Segment> = self.segments.drain(from..until).collect();
        assert!(replaced.iter().all(|segment| segment.closed && !segment.is_busy()), "only closed ones are compacted");
        if let Some(new) = new {
            self.segments.insert(from, new);
        }
        self.first_dirty = replacement.first_dirty;
        replaced
    }

    /// The offset that retention wants the log to start at: whole segments, oldest first (`retention.ms`,
    /// `retention.bytes`). Rolls the active segment when all of it has expired.
    pub fn retention_start(&mut self, now_ms: i64) -> i64 {
        if !self.config.cleanup_delete {
            return self.log_start;
        }
        let mut start = self.log_start;
        let mut bytes = self.bytes();
        for index in 0..self.segments.len() {
            let segment = &self.segments[index];
            let expired = self.config.retention_ms >= 0
                && segment.max_timestamp >= 0
                && now_ms.saturating_sub(segment.max_timestamp) > self.config.retention_ms;
            let is_active = index + 1 == self.segments.len();
            let excess = self.config.retention_bytes >= 0
                && !is_active
                && bytes.saturating_sub(segment.bytes) >= self.config.retention_bytes as u64;
            let end = self.segment_end_offset(index);
            // What is not durable yet was appended just now: it cannot be old.
            if segment.bytes == 0 || end > self.durable_end || !(expired || excess) {
                break;
            }
            bytes -= segment.bytes;
            start = start.max(end);
            if is_active {
                self.roll();
                break;
            }
        }
        start
    }
}

/// Whether a segment's file holds what it has up to a position, and readers may have it from there. A segment that is gone
/// needs no memory.
fn is_written(segments: &VecDeque<Segment>, base: i64, end: u64) -> bool {
    let found = segments.binary_search_by_key(&base, |segment| segment.base_offset);
    found.map_or(true, |index| segments[index].readable() >= end)
}
