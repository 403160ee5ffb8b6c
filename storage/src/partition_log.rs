//! One partition's log: its segments, its newest bytes in memory, and what is known of its producers and epochs.
//!
//! Pure bookkeeping. How far each segment's bytes have come is `Segment`'s to know. The log's own offsets are ordered,
//! too: log start ≤ committed ≤ durable end ≤ gathered end (what commit groups took) ≤ log end. `PartitionLog::assert_sound`
//! holds after every change.

mod restart;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::batch::{self, BatchHeader, TimestampType};
use crate::block::BlockPool;
use crate::bug::{Bug, is_planted};
use crate::compaction::Replacement;
use crate::disk::{DiskOp, FilePath};
use crate::epochs::LeaderEpochs;
use crate::index::SEGMENT_BYTES_MAX;
use crate::partition_state::{PartitionState, PartitionView, SegmentState};
use crate::producer::{ProducerStates, Verdict};
use crate::segment::{Segment, index_path, is_written, segment_path};
use crate::shard_log::restart::Restarting;
use crate::shard_log::{AppendError, Appended, LogConfig, ReadPlan};
use crate::tail::Tail;
use crate::{Now, PartitionKey};

/// Where the directory of a partition lies, relative to the data directory.
pub fn partition_directory(topic: &str, key: PartitionKey) -> String {
    format!("topics/{topic}/{}/{}", key.topic_id.to_base64(), key.partition)
}

/// One partition's log.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    pub key: PartitionKey,
    pub directory: Arc<str>,
    pub config: LogConfig,
    leader_epoch: i32,
    segments: VecDeque<Segment>,
    pub tail: Tail,
    log_start: i64,
    /// Where the log start is to move, once that is durable.
    log_start_wanted: i64,
    log_start_gathered: i64,
    log_end: i64,
    /// Records below were compacted already.
    first_dirty: i64,
    /// A compacted segment that is to take the place of others with the next commit group.
    replacement: Option<Replacement>,
    /// No file of this partition has this version yet.
    next_version: u32,
    /// Compacting it failed: it is not tried again by this process.
    pub is_uncleanable: bool,
    /// Offset of the first batch not yet handed to a commit group, and how many such batches there are.
    gathered_end: i64,
    ungathered_batches: usize,
    durable_end: i64,
    committed: Committed,
    /// How often the log was restarted, and how often durably.
    history: u64,
    history_durable: u64,
    /// It is being restarted.
    pub restarting: Option<Restarting>,
    /// Files of segments that it gave up and that are not removed yet: no file of their name is made before they are.
    pub doomed: Vec<FilePath>,
    pub epochs: LeaderEpochs,
    pub producers: ProducerStates,
    /// Listed as having something for the next commit group.
    pub is_dirty: bool,
    /// Listed for write-back.
    pub is_queued: bool,
    pub directory_created: bool,
    pub creating_directory: bool,
    /// Disk operations under way.
    operations: u32,
    /// Something of it is in the commit group under way.
    pub in_group: bool,
    /// The number of the last checkpoint that holds it.
    pub checkpoint: u64,
    /// The topic is gone: files go when no operation is under way.
    pub removing: bool,
}

/// How far a log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Committed {
    /// There is no other replica: what is durable is committed.
    Alone,
    /// Up to here, and perhaps further.
    UpTo(i64),
}

/// What a segment has for commit groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ungathered {
    /// The segment's base offset.
    pub segment: i64,
    /// Where the bytes lie in it: from here...
    pub from: u64,
    /// ...to here.
    pub to: u64,
    /// One past their last offset.
    pub end_offset: i64,
}

impl Ungathered {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.to - self.from
    }
}

impl PartitionLog {
    /// The log of a partition that lies in this directory, as recovery left it: nothing of it is in the journal only.
    pub fn new(directory: &str, config: LogConfig, state: &PartitionState) -> PartitionLog {
        assert!(state.view().is_sound(), "recovery leaves what it can recover: {state:?}");
        let directory: Arc<str> = directory.into();
        let segments: VecDeque<Segment> =
            state.segments.iter().map(|segment| Segment::recovered(&directory, segment)).collect();
        let mut log_end = state.log_end;
        if is_planted(Bug::ReuseOffset) && log_end > segments[segments.len() - 1].base_offset.max(state.log_start) {
            log_end -= 1;
        }
        let log = PartitionLog {
            key: state.key,
            config,
            leader_epoch: state.epochs.latest().max(0),
            directory_created: segments.iter().any(Segment::has_file),
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
            committed: Committed::UpTo(state.committed.min(log_end)),
            history: state.history,
            history_durable: state.history,
            restarting: None,
            doomed: Vec::new(),
            epochs: state.epochs.clone(),
            producers: state.producers.clone(),
            is_dirty: false,
            is_queued: false,
            creating_directory: false,
            operations: 0,
            in_group: false,
            checkpoint: 0,
            removing: false,
        };
        log.assert_sound();
        log
    }

    /// The order of the log's offsets, as the module's head states it, and that of the bytes of each segment that may change.
    pub fn assert_sound(&self) {
        let active = self.active();
        self.segments.iter().rev().take_while(|segment| !segment.is_closed()).for_each(Segment::assert_chain);
        assert!(self.log_start <= self.log_start_gathered, "{}: the log start only moves up", self.directory);
        assert!(self.log_start_gathered <= self.log_start_wanted, "{}: it moves where it was asked to", self.directory);
        assert!(self.log_start_wanted <= self.committed(), "{}: it stays among what is committed", self.directory);
        assert!(self.committed() <= self.durable_end, "{}: what is committed is durable here, too", self.directory);
        assert!(self.durable_end <= self.gathered_end, "{}: only commit groups are durable", self.directory);
        assert!(self.gathered_end <= self.log_end, "{}: only what was appended is gathered", self.directory);
        assert!(active.base_offset <= self.log_end, "{}: the log ends in its active segment", self.directory);
        assert!(self.first_dirty <= active.base_offset, "{}: the active segment is never compacted", self.directory);
        assert!(!active.is_closed(), "{}: the active segment is open", self.directory);
        assert!(self.ungathered_batches == 0 || self.gathered_end < self.log_end, "{}: a batch waits", self.directory);
    }

    /// What a checkpoint keeps: with what draining is to make true, and with what is appended but not durable yet. The
    /// caller publishes it when both have become so.
    pub fn view(&self) -> PartitionView<'_> {
        PartitionView {
            key: self.key,
            log_start: self.log_start,
            log_end: self.log_end,
            first_dirty: self.first_dirty,
            history: self.history,
            committed: self.committed(),
            segments: self.segments.iter().map(Segment::view).collect(),
            epochs: &self.epochs,
            producers: &self.producers,
        }
    }

    /// Batches appended from now on carry this epoch. Returns where it starts.
    pub fn lead(&mut self, leader_epoch: i32) -> i64 {
        assert!(leader_epoch >= self.leader_epoch, "a leader epoch never goes back");
        assert!(!self.refuses_appends(), "{}: a log is whole before it is led", self.directory);
        self.leader_epoch = leader_epoch;
        self.epochs.lead(leader_epoch, self.log_end)
    }

    /// What lies below is committed; at most the durable end.
    pub fn committed(&self) -> i64 {
        match self.committed {
            Committed::Alone => self.durable_end,
            Committed::UpTo(offset) => offset,
        }
    }

    /// What lies below `offset` is committed. It only goes back by a restart.
    pub fn set_committed(&mut self, offset: i64) {
        assert!(offset <= self.durable_end, "{}: what is committed is durable here, too", self.directory);
        self.committed = Committed::UpTo(self.committed().max(offset));
        self.assert_sound();
    }

    /// What is durable is committed from now on.
    pub fn commit_alone(&mut self) {
        self.committed = Committed::Alone;
        self.assert_sound();
    }

    /// How often the log was restarted.
    pub fn history(&self) -> u64 {
        self.history
    }

    /// The first offset that may be read.
    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    /// One past the last offset appended.
    pub fn log_end(&self) -> i64 {
        self.log_end
    }

    /// One past the last offset that survives a loss of power.
    pub fn durable_end(&self) -> i64 {
        self.durable_end
    }

    /// Records below were compacted already.
    pub fn first_dirty(&self) -> i64 {
        self.first_dirty
    }

    /// Oldest first, never empty.
    pub fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// The segments, to be drained.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.segments.iter_mut()
    }

    /// The one that is appended to.
    pub fn active(&self) -> &Segment {
        self.segments.back().expect("a log has at least one segment")
    }

    fn active_mut(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("a log has at least one segment")
    }

    /// The segment with this base offset, if it is still there.
    pub fn segment(&self, base_offset: i64) -> Option<&Segment> {
        self.segment_index(base_offset).map(|index| &self.segments[index])
    }

    /// The same, to be changed.
    pub fn segment_mut(&mut self, base_offset: i64) -> Option<&mut Segment> {
        self.segment_index(base_offset).map(|index| &mut self.segments[index])
    }

    /// The tail, and the segment with this base offset, which the caller has just seen.
    pub fn tail_and_segment(&mut self, base_offset: i64) -> (&Tail, &mut Segment) {
        let index = self.segment_index(base_offset).expect("the caller has just seen it");
        (&self.tail, &mut self.segments[index])
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
        debug_assert!(self.segments.iter().is_sorted_by_key(|segment| !segment.is_closed()), "segments close in order");
        self.segments.partition_point(Segment::is_closed)
    }

    /// Bytes in all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// Bytes that no commit group took.
    pub fn ungathered_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes() - segment.gathered()).sum()
    }

    /// A disk operation on its files begins.
    pub fn begin_operation(&mut self) {
        self.operations += 1;
    }

    /// One has ended.
    pub fn end_operation(&mut self) {
        assert!(self.operations > 0, "{}: an operation ends that did not begin", self.directory);
        self.operations -= 1;
    }

    /// Whether files of the names that a new segment would have are still to be removed.
    pub fn is_doomed(&self, base_offset: i64) -> bool {
        let names = [segment_path(&self.directory, base_offset, 0), index_path(&self.directory, base_offset, 0)];
        self.doomed.iter().any(|path| names.contains(path))
    }

    /// Whether nothing is under way for it: its files may go.
    pub fn is_idle(&self) -> bool {
        self.operations == 0 && !self.in_group
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
        if self.refuses_appends() {
            return Err(AppendError::Restarting);
        }
        if batch.len() as u64 > self.config.segment_bytes.min(SEGMENT_BYTES_MAX) {
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
        let base_offset = self.log_end;
        let last_offset = base_offset + i64::from(header.last_offset_delta());
        if self.must_roll(batch.len() as u64, last_offset, max_timestamp) {
            self.roll();
        }

        let (segment, position) = (self.active().base_offset, self.active().bytes());
        let target = self.tail.reserve(pool, segment, position, base_offset, batch.len());
        target.copy_from_slice(batch);
        batch::assign(target, base_offset, self.leader_epoch, log_append_time);
        let header = *BatchHeader::read(target).expect("copied from a valid one");
        assert!(header.last_offset() >= base_offset, "a batch has at least one offset");
        self.note_appended(&header, steady_ms);
        Ok(Appended {
            base_offset,
            last_offset: header.last_offset(),
            log_append_time: log_append_time.unwrap_or(-1),
            duplicate: false,
        })
    }

    /// Appends a batch of a leader as it is: it was checked, and its offsets lie at the log's end or above.
    pub fn append_replicated(&mut self, steady_ms: i64, batch: &[u8], pool: &mut BlockPool) {
        let header = *BatchHeader::read(batch).expect("the batch was checked");
        assert!(!self.refuses_appends(), "{}: nothing is appended to a log that is being restarted", self.directory);
        assert!(header.base_offset() >= self.log_end, "{}: offsets ascend", self.directory);
        assert!(header.leader_epoch() >= self.epochs.latest(), "{}: epochs do not go back", self.directory);
        if self.must_roll(batch.len() as u64, header.last_offset(), header.max_timestamp()) {
            self.roll();
        }
        let (segment, position) = (self.active().base_offset, self.active().bytes());
        self.tail.reserve(pool, segment, position, header.base_offset(), batch.len()).copy_from_slice(batch);
        self.note_appended(&header, steady_ms);
        self.leader_epoch = self.leader_epoch.max(header.leader_epoch());
    }

    /// A batch is in the room that the tail has reserved for it.
    fn note_appended(&mut self, header: &BatchHeader, steady_ms: i64) {
        let bytes = header.batch_bytes().expect("the batch was validated");
        self.tail.commit(bytes, header.base_offset());
        self.producers.record(header, steady_ms, self.committed());
        self.epochs.assign(header.leader_epoch(), header.base_offset());
        let log_end = self.log_end;
        self.active_mut().append(header, log_end);
        self.log_end = header.last_offset() + 1;
        self.ungathered_batches += 1;
        let (segment, end) = (self.active().base_offset, self.active().bytes());
        assert_eq!(self.tail.end(), Some((segment, end)), "the tail ends where the log does");
        self.assert_sound();
    }

    fn must_roll(&self, bytes: u64, last_offset: i64, max_timestamp: i64) -> bool {
        let active = self.active();
        if active.bytes() == 0 {
            return false;
        }
        let last_relative = last_offset - active.base_offset;
        let first_timestamp = active.first_timestamp();
        active.bytes() + bytes > self.config.segment_bytes.min(SEGMENT_BYTES_MAX)
            || last_relative > i64::from(u32::MAX)
            || (first_timestamp >= 0 && max_timestamp - first_timestamp > self.config.roll_ms())
    }

    /// Starts a new segment at the log's end; the one before is closed when it has been written back.
    pub fn roll(&mut self) {
        assert!(self.active().bytes() > 0, "{}: an empty segment is not left behind", self.directory);
        assert!(self.active().base_offset < self.log_end, "{}: segments ascend", self.directory);
        let segment = Segment::new(&self.directory, self.log_end, self.config.index_interval_bytes);
        self.segments.push_back(segment);
    }

    /// The log start is to move up to `offset`, which is committed. Returns whether a commit group must say so.
    pub fn want_log_start(&mut self, offset: i64) -> bool {
        assert!(offset <= self.committed(), "{}: only what is committed is deleted", self.directory);
        self.log_start_wanted = self.log_start_wanted.max(offset);
        self.assert_sound();
        self.log_start_gathered < self.log_start_wanted
    }

    /// Where a commit group is to move the log start, if it is.
    pub fn log_start_to_gather(&self) -> Option<i64> {
        (!self.is_cutting() && self.log_start_gathered < self.log_start_wanted).then_some(self.log_start_wanted)
    }

    /// A commit group takes the move of the log start.
    pub fn gather_log_start(&mut self) {
        self.log_start_gathered = self.log_start_wanted;
        self.in_group = true;
    }

    /// The group that moves the log start is durable.
    pub fn commit_log_start(&mut self, offset: i64) {
        assert!(offset >= self.log_start, "{}: the log start only moves up", self.directory);
        self.log_start = offset;
        self.epochs.truncate_start(offset);
        self.assert_sound();
    }

    /// Whether the checkpoint under way waits for any of its segments.
    pub fn is_draining(&self) -> bool {
        self.segments.iter().any(Segment::is_draining)
    }

    /// The segment that a compaction has written.
    pub fn compacted_segment(&self, replacement: &Replacement) -> Segment {
        Segment::recovered(&self.directory, &SegmentState::compacted(replacement))
    }

    /// A compacted segment waits for the next commit group.
    pub fn offer_replacement(&mut self, replacement: Replacement) {
        assert!(self.replacement.is_none(), "{}: one after the other", self.directory);
        assert!(replacement.from < replacement.until, "{}: it takes the place of something", self.directory);
        self.replacement = Some(replacement);
    }

    /// Whether a compacted segment waits for the next commit group.
    pub fn has_replacement(&self) -> bool {
        self.replacement.is_some()
    }

    /// A commit group takes the compacted segment.
    pub fn gather_replacement(&mut self) -> Option<Replacement> {
        let replacement = self.replacement.take();
        self.in_group |= replacement.is_some();
        replacement
    }

    /// A version that no file of this partition has.
    pub fn take_version(&mut self) -> u32 {
        self.next_version += 1;
        self.next_version - 1
    }

    /// The index of the first segment with something for commit groups; their number if there is none.
    pub fn first_ungathered(&self) -> usize {
        self.segments.partition_point(|segment| segment.gathered() == segment.bytes())
    }

    /// What the segment at `index` has for commit groups.
    pub fn ungathered(&self, index: usize) -> Ungathered {
        let segment = &self.segments[index];
        let end_offset = self.segment_end_offset(index);
        Ungathered { segment: segment.base_offset, from: segment.gathered(), to: segment.bytes(), end_offset }
    }

    /// Batches that no commit group took.
    pub fn ungathered_batches(&self) -> usize {
        self.ungathered_batches
    }

    /// Offset of the first batch that no commit group took.
    pub fn gathered_end(&self) -> i64 {
        self.gathered_end
    }

    /// A commit group takes what the segment at `index` has up to a position, where `end_offset` begins.
    pub fn gather(&mut self, index: usize, to: u64, end_offset: i64) {
        self.segments[index].gather(to);
        self.note_gathered(end_offset);
    }

    /// A commit group takes all that the segment at `index` has as an extent. Returns the write, where it begins to be
    /// new, and the remainder that it leaves.
    pub fn gather_extent(&mut self, index: usize, end_offset: i64) -> (DiskOp, u64, Vec<u8>) {
        let segment = &mut self.segments[index];
        let (from, to) = (segment.written(), segment.bytes());
        segment.gather_extent(to);
        let (op, remainder) = segment.begin_write(&self.tail, to, true);
        self.note_gathered(end_offset);
        self.begin_operation();
        (op, from, remainder)
    }

    fn note_gathered(&mut self, end_offset: i64) {
        assert!(self.gathered_end < end_offset, "{}: groups take batches in order", self.directory);
        self.gathered_end = end_offset;
        if end_offset == self.log_end {
            self.ungathered_batches = 0;
        }
        self.in_group = true;
        self.assert_sound();
    }

    /// The commit group that took a segment up to a position is durable. Returns whether `offset`, where the bytes end, is
    /// news.
    pub fn commit(&mut self, segment: i64, position: u64, offset: i64) -> bool {
        if let Some(segment) = self.segment_mut(segment) {
            segment.commit(position);
        }
        // Only a deliberate bug has said so before.
        self.acknowledge(offset)
    }

    /// Everything below `offset` is durable. Returns whether that is news.
    pub fn acknowledge(&mut self, offset: i64) -> bool {
        let is_news = offset > self.durable_end;
        self.durable_end = self.durable_end.max(offset);
        self.assert_sound();
        is_news
    }

    /// Whether [`PartitionLog::read`] can answer for this offset: it is in memory, or there is nothing to read.
    pub fn is_in_memory(&self, offset: i64) -> bool {
        offset >= self.tail.first_offset().unwrap_or(self.log_end)
    }

    /// Whether the log ends in a segment of which nothing is there yet.
    pub fn ends_in_gap(&self) -> bool {
        self.active().bytes() == 0
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
            && self.segments[0].is_closed()
    }

    /// Removes segments that lie wholly below the log start; never the active one. Returns them.
    pub fn drop_segments_below_start(&mut self) -> Vec<Segment> {
        let mut dropped = Vec::new();
        while self.has_segments_below_start() {
            dropped.extend(self.segments.pop_front());
        }
        dropped
    }

    /// Puts a compacted segment in the place of those that it was made from. Returns what is left of these.
    pub fn replace(&mut self, replacement: &Replacement) -> Vec<Segment> {
        let from = self.segments.partition_point(|segment| segment.base_offset < replacement.from);
        let until = self.segments.partition_point(|segment| segment.base_offset < replacement.until);
        let new = (replacement.bytes > 0).then(|| self.compacted_segment(replacement));
        let replaced: Vec<Segment> = self.segments.drain(from..until).collect();
        assert!(
            replaced.iter().all(|segment| segment.is_closed() && !segment.is_busy()),
            "only closed ones are compacted"
        );
        assert!(
            replaced.iter().all(|segment| segment.version < replacement.version),
            "no file is replaced by one of its name"
        );
        if let Some(new) = new {
            self.segments.insert(from, new);
        }
        assert!(self.first_dirty <= replacement.first_dirty, "{}: compaction moves up", self.directory);
        self.first_dirty = replacement.first_dirty;
        self.assert_sound();
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
                && segment.max_timestamp() >= 0
                && now_ms.saturating_sub(segment.max_timestamp()) > self.config.retention_ms;
            let is_active = index + 1 == self.segments.len();
            let excess = self.config.retention_bytes >= 0
                && !is_active
                && bytes.saturating_sub(segment.bytes()) >= self.config.retention_bytes as u64;
            let end = self.segment_end_offset(index);
            // What is not committed may be cut off yet, and others in its place.
            if segment.bytes() == 0 || end > self.committed() || !(expired || excess) {
                break;
            }
            bytes -= segment.bytes();
            start = start.max(end);
            if is_active {
                self.roll();
                break;
            }
        }
        assert!(self.log_start <= start && start <= self.committed(), "{}: retention stays inside", self.directory);
        start
    }
}
