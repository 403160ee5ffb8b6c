//! One segment of a partition's log: its file, how far its bytes have come, and what its file needs next.
//!
//! Pure bookkeeping. How far the bytes have come is a chain of positions, each at most the one before:
//! `bytes` (appended) ≥ `gathered` (handed to a commit group) ≥ `durable` (that group is on disk) ≥ `written` (written
//! back to the segment's file) ≥ `synced` (durable there, so the journal is not needed for them any more: Kafka's recovery
//! point). Only an extent goes another way: it is written, and synced, before the group that makes it count is durable.
//! `Segment::assert_chain` holds after every change.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::batch::BatchHeader;
use crate::disk::{BLOCK_BYTES, DiskOp, FilePath};
use crate::index::SparseIndex;
use crate::partition_state::{SegmentState, SegmentView};
use crate::tail::Tail;

/// A segment is written back when this much of it is durable only in the journal.
const WRITE_BACK_BYTES_MIN: u64 = 256 << 10;

/// The largest single write of write-back.
const WRITE_BACK_BYTES_MAX: u64 = 1 << 20;

/// A segment's file grows by steps that double, from this...
const ALLOCATE_BYTES_MIN: u64 = 64 << 10;

/// ...to this.
const ALLOCATE_BYTES_MAX: u64 = 64 << 20;

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
enum FileState {
    Absent,
    Creating,
    Present,
}

/// One segment of a log. One disk operation at a time works on its file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub base_offset: i64,
    /// 0: as it was appended. Else compaction has written it.
    pub version: u32,
    /// Offsets may be missing in it.
    pub has_gaps: bool,
    pub path: FilePath,
    bytes: u64,
    gathered: u64,
    durable: u64,
    written: u64,
    synced: u64,
    /// Where the last extent ends: up to there the file may be ahead of `durable`.
    extent_end: u64,
    /// The checkpoint under way needs `synced` to come this far.
    drain_to: u64,
    /// Space reserved in the file.
    allocated: u64,
    file: FileState,
    allocating: bool,
    writing: bool,
    syncing: bool,
    /// Truncation and index are under way.
    closing: bool,
    /// The file has its final length and the index is written: nothing will change any more.
    closed: bool,
    /// The bytes from the last block boundary up to `written`, which the next write repeats. `None`: only on disk.
    remainder: Option<Vec<u8>>,
    /// Timestamp of the first batch, for rolling by time; -1 while empty.
    first_timestamp: i64,
    /// Largest timestamp, for retention and lookups by time; -1 while empty.
    max_timestamp: i64,
    /// `None`: written to its file and not loaded.
    index: Option<SparseIndex>,
}

/// What a segment's file needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileNeed {
    /// Nothing: the next segment may go on.
    Nothing,
    /// An operation is under way, or something else has to happen first: the segments behind it wait, too.
    Wait,
    /// The file, with this much space.
    Create { bytes: u64 },
    /// After a restart: the bytes before the first new one, up to the block boundary.
    LoadRemainder { position: u64, bytes: usize },
    /// A write of what is durable in the journal up to here.
    WriteBack { to: u64 },
    /// A sync of what is written, which is up to here.
    Sync { to: u64 },
    /// Its exact length, and then its index.
    Close { bytes: u64 },
    /// More space, this much in all.
    Reserve { bytes: u64 },
}

/// Where a segment stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It is appended to.
    pub is_active: bool,
    /// All before it are closed. They close in order: the end of the one before may not be durable yet.
    pub is_first_open: bool,
    /// `segment.bytes`
    pub segment_bytes_max: u64,
}

impl Segment {
    /// A segment with nothing in it, and without a file.
    pub fn new(directory: &str, base_offset: i64, index_interval_bytes: u32) -> Segment {
        Segment {
            base_offset,
            version: 0,
            has_gaps: false,
            path: segment_path(directory, base_offset, 0),
            bytes: 0,
            gathered: 0,
            durable: 0,
            written: 0,
            synced: 0,
            extent_end: 0,
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
        assert_eq!(state.synced, state.bytes, "recovery leaves nothing to the journal");
        assert!(state.closed || state.index.is_some(), "an open segment's index is in memory");
        let segment = Segment {
            version: state.version,
            has_gaps: state.has_gaps,
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
        };
        segment.assert_chain();
        segment
    }

    /// The order in which bytes become safe, as the module's head states it.
    pub fn assert_chain(&self) {
        let Segment { bytes, gathered, durable, written, synced, extent_end, drain_to, .. } = *self;
        assert!(bytes >= gathered, "a commit group takes what was appended: {self:?}");
        assert!(gathered >= durable, "only what a commit group took is durable: {self:?}");
        assert!(written <= durable.max(extent_end), "only extents are written ahead of the journal: {self:?}");
        assert!(gathered >= extent_end, "an extent belongs to a commit group: {self:?}");
        assert!(written >= synced, "only what was written is synced: {self:?}");
        assert!(durable >= drain_to, "a checkpoint drains what is durable: {self:?}");
    }

    /// Its length: bytes appended.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that commit groups took.
    pub fn gathered(&self) -> u64 {
        self.gathered
    }

    /// Bytes of commit groups that are on the disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes in its file.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Timestamp of the first batch, or -1.
    pub fn first_timestamp(&self) -> i64 {
        self.first_timestamp
    }

    /// Its largest timestamp, or -1.
    pub fn max_timestamp(&self) -> i64 {
        self.max_timestamp
    }

    /// Whether nothing will change any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// How far the file may be read: an extent is written before the group that makes it count is durable.
    pub fn readable(&self) -> u64 {
        self.written.min(self.durable)
    }

    /// Whether an operation on the file is under way.
    pub fn is_busy(&self) -> bool {
        self.writing || self.syncing || self.allocating || self.closing
    }

    /// Whether its file is there or about to be.
    pub fn has_file(&self) -> bool {
        self.file != FileState::Absent
    }

    /// Takes note of a batch that was appended, its offset assigned, to a log that ended at `log_end`.
    pub fn append(&mut self, header: &BatchHeader, log_end: i64) {
        assert!(!self.closed && !self.closing, "only the active segment is appended to: {self:?}");
        let bytes = header.batch_bytes().expect("the batch was validated");
        let index = self.index.as_mut().expect("an open segment's index is in memory");
        index.note(header, self.bytes);
        self.bytes += bytes as u64;
        self.has_gaps |= header.base_offset() != log_end;
        assert_eq!(index.covered_bytes(), self.bytes, "the index of an open segment knows all of it");
        if self.first_timestamp < 0 {
            self.first_timestamp = header.max_timestamp();
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp());
        self.assert_chain();
    }

    /// A commit group takes what was appended up to here.
    pub fn gather(&mut self, to: u64) {
        assert!(to > self.gathered, "a commit group takes something: {self:?}");
        self.gathered = to;
        self.assert_chain();
    }

    /// The same for an extent: its bytes go straight to the file.
    pub fn gather_extent(&mut self, to: u64) {
        self.gather(to);
        self.extent_end = to;
    }

    /// What was appended and no commit group took is gone, and all behind `position`, where a batch began with an offset above
    /// `last_offset`. The largest timestamp before it is `max_timestamp`. What is left goes to the file and is closed like any
    /// other; the file gets its exact length then.
    pub fn cut(&mut self, position: u64, last_offset: i64, max_timestamp: i64) {
        assert!(!self.is_busy(), "nothing is under way on its file: {self:?}");
        assert!(0 < position && position <= self.durable, "what stays is durable: {self:?}");
        if position == self.bytes {
            return;
        }
        let index = self.index.as_mut().expect("it was searched for the batch");
        assert!(index.cut(position, last_offset, max_timestamp), "the index is that of the segment");
        (self.bytes, self.gathered, self.durable) = (position, position, position);
        if self.written > position {
            self.remainder = None;
        }
        self.written = self.written.min(position);
        self.synced = self.synced.min(position);
        self.extent_end = self.extent_end.min(position);
        self.drain_to = self.drain_to.min(position);
        self.max_timestamp = max_timestamp;
        self.closed = false;
        self.assert_chain();
    }

    /// The commit group that took it up to here is durable.
    pub fn commit(&mut self, to: u64) {
        assert!(to > self.durable, "groups become durable in order: {self:?}");
        self.durable = to;
        self.assert_chain();
    }

    /// Whether an extent may be written to the file: nothing is in the way, and the space for it is reserved. A commit
    /// must not depend on there being room on the disk, or all others of the shard wait for it, too.
    pub fn takes_extent(&self) -> bool {
        let is_free = self.file == FileState::Present && !self.writing && !self.closing && self.remainder.is_some();
        is_free && self.bytes.next_multiple_of(BLOCK_BYTES as u64) <= self.allocated
    }

    /// Whether enough is durable only in the journal, or the file is missing.
    pub fn wants_write_back(&self) -> bool {
        // An extent is written before its group is durable.
        self.durable.saturating_sub(self.written) >= WRITE_BACK_BYTES_MIN || !self.has_file()
    }

    /// Whether space should be reserved: ahead of the writes, so that a commit does not have to wait for it.
    fn wants_space(&self, is_active: bool) -> bool {
        if is_active { self.bytes > self.allocated / 2 } else { self.gathered < self.bytes && !self.takes_extent() }
    }

    /// What its file needs next.
    pub fn need(&self, standing: Standing) -> FileNeed {
        if self.is_busy() {
            return FileNeed::Wait;
        }
        match self.file {
            FileState::Absent if self.bytes > 0 || !standing.is_active => {
                let bytes = ALLOCATE_BYTES_MIN.max(self.bytes.next_power_of_two().min(ALLOCATE_BYTES_MAX));
                return FileNeed::Create { bytes };
            }
            FileState::Absent | FileState::Creating => return FileNeed::Wait,
            FileState::Present => {}
        }
        if self.remainder.is_none() && self.bytes > self.written {
            let position = self.written - self.written % BLOCK_BYTES as u64;
            return FileNeed::LoadRemainder { position, bytes: (self.written - position) as usize };
        }
        let pending = self.durable.saturating_sub(self.written);
        let is_wanted = !standing.is_active || self.written < self.drain_to;
        if pending >= WRITE_BACK_BYTES_MIN || (pending > 0 && is_wanted) {
            return FileNeed::WriteBack { to: self.durable.min(self.written + WRITE_BACK_BYTES_MAX) };
        }
        if self.drain_to > self.synced && self.written >= self.drain_to {
            return FileNeed::Sync { to: self.written };
        }
        if !standing.is_active && standing.is_first_open && self.written == self.bytes {
            return FileNeed::Close { bytes: self.bytes };
        }
        if !self.wants_space(standing.is_active) {
            return FileNeed::Nothing;
        }
        let block = BLOCK_BYTES as u64;
        let bytes = (self.allocated * 2)
            .clamp(ALLOCATE_BYTES_MIN, self.allocated + ALLOCATE_BYTES_MAX)
            .min(standing.segment_bytes_max.next_multiple_of(block))
            .max(self.bytes.next_multiple_of(block));
        if bytes > self.allocated { FileNeed::Reserve { bytes } } else { FileNeed::Wait }
    }

    /// The file's space is being reserved.
    pub fn begin_allocate(&mut self) {
        assert!(!self.allocating, "one operation at a time: {self:?}");
        self.allocating = true;
        if self.file == FileState::Absent {
            self.file = FileState::Creating;
        }
    }

    /// The file is there and has this much space.
    pub fn allocated(&mut self, bytes: u64) {
        assert!(self.allocating, "it was asked for: {self:?}");
        self.allocating = false;
        self.allocated = self.allocated.max(bytes);
        self.file = FileState::Present;
    }

    /// What the next write repeats is being read.
    pub fn begin_load(&mut self) {
        assert!(!self.writing && self.remainder.is_none(), "it is loaded once: {self:?}");
        self.writing = true;
    }

    /// What the next write repeats. `false`: these are not as many bytes as the file holds.
    pub fn remainder_loaded(&mut self, remainder: &[u8]) -> bool {
        assert!(self.writing, "it was asked for: {self:?}");
        if remainder.len() as u64 != self.written % BLOCK_BYTES as u64 {
            return false;
        }
        self.writing = false;
        self.remainder = Some(remainder.to_vec());
        true
    }

    /// The write that brings the file up to `to`, from the last block boundary, and the remainder it leaves.
    pub fn begin_write(&mut self, tail: &Tail, to: u64, durable: bool) -> (DiskOp, Vec<u8>) {
        assert!(!self.writing && !self.closing && !self.closed, "one write at a time, to an open file: {self:?}");
        assert!(self.written < to && to <= self.gathered, "what is written was handed to a commit group: {self:?}");
        let remainder = self.remainder.as_ref().expect("loaded before the first write");
        let position = self.written - self.written % BLOCK_BYTES as u64;
        let data = tail.disk_parts(self.base_offset, self.written, to, remainder);
        let left = last_bytes(&data, (to % BLOCK_BYTES as u64) as usize);
        self.writing = true;
        (DiskOp::Write { path: self.path.clone(), position, data, durable }, left)
    }

    /// A write has ended.
    pub fn wrote(&mut self, to: u64, remainder: Vec<u8>) {
        assert!(self.writing && to > self.written, "it was asked for: {self:?}");
        self.writing = false;
        self.written = to;
        self.remainder = Some(remainder);
        self.assert_chain();
    }

    /// A durable write has ended, which began at `from`.
    pub fn wrote_extent(&mut self, from: u64, to: u64, remainder: Vec<u8>) {
        self.wrote(to, remainder);
        // Durable as far as it reaches back without a gap.
        if self.synced >= from {
            self.synced = to;
        }
        self.assert_chain();
    }

    /// The file is being synced.
    pub fn begin_sync(&mut self) {
        assert!(!self.syncing, "one operation at a time: {self:?}");
        self.syncing = true;
    }

    /// What was written up to here is durable in the file.
    pub fn synced(&mut self, to: u64) {
        assert!(self.syncing, "it was asked for: {self:?}");
        self.syncing = false;
        self.synced = self.synced.max(to);
        self.assert_chain();
    }

    /// The file is given its exact length, and then its index.
    pub fn begin_close(&mut self) {
        assert!(!self.is_busy() && self.written == self.bytes, "all of it is in the file: {self:?}");
        self.closing = true;
    }

    /// The file has its exact length, and is synced. Returns the index, which is to be written now.
    pub fn truncated(&mut self) -> &SparseIndex {
        assert!(self.closing && self.written == self.bytes, "it is being closed: {self:?}");
        self.synced = self.bytes;
        self.assert_chain();
        self.index.as_ref().expect("an open segment's index is in memory")
    }

    /// The index is written: nothing will change any more. Returns the index's memory, in bytes.
    pub fn close(&mut self) -> usize {
        assert!(self.closing && self.synced == self.bytes, "it is being closed: {self:?}");
        self.closing = false;
        self.closed = true;
        self.remainder = None;
        self.index.as_ref().map_or(0, SparseIndex::memory_bytes)
    }

    /// The checkpoint under way wants in the file, durably, what is durable now. Returns whether anything is missing.
    pub fn drain(&mut self) -> bool {
        if self.synced >= self.durable {
            return false;
        }
        self.drain_to = self.durable;
        true
    }

    /// Whether the checkpoint under way waits for it.
    pub fn is_draining(&self) -> bool {
        self.drain_to > 0
    }

    /// No longer waited for, if what the checkpoint wants is synced. Returns whether it is still waited for.
    pub fn note_drained(&mut self) -> bool {
        if self.synced >= self.drain_to {
            self.drain_to = 0;
        }
        self.is_draining()
    }

    /// The index, if it is in memory.
    pub fn index(&self) -> Option<&SparseIndex> {
        self.index.as_ref()
    }

    /// Keeps an index that was read or rebuilt.
    pub fn keep_index(&mut self, index: SparseIndex) {
        assert!(self.index.is_none(), "it was missing: {self:?}");
        assert_eq!(index.covered_bytes(), self.bytes, "it is the index of all of the segment");
        self.index = Some(index);
    }

    /// Frees the index if it can be read again.
    pub fn free_index(&mut self) {
        if self.closed {
            self.index = None;
        }
    }

    /// What a checkpoint keeps: with what draining is to make true.
    pub fn view(&self) -> SegmentView<'_> {
        SegmentView {
            base_offset: self.base_offset,
            version: self.version,
            has_gaps: self.has_gaps,
            bytes: self.bytes,
            synced: self.synced.max(self.drain_to),
            first_timestamp: self.first_timestamp,
            max_timestamp: self.max_timestamp,
            closed: self.closed,
            index: if self.closed { None } else { self.index.as_ref() },
        }
    }
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

/// Whether a segment's file holds what it has up to a position, and readers may have it from there. A segment that is gone
/// needs no memory.
pub(crate) fn is_written(segments: &VecDeque<Segment>, base: i64, end: u64) -> bool {
    let found = segments.binary_search_by_key(&base, |segment| segment.base_offset);
    found.map_or(true, |index| segments[index].readable() >= end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, assign};
    use crate::block::BlockPool;

    /// A segment with one batch, the tail that holds it, and the batch's length.
    fn appended() -> (Segment, Tail, u64) {
        let (mut segment, mut tail, mut pool) = (Segment::new("d", 0, 4096), Tail::default(), BlockPool::new(1 << 20));
        let mut batch = BatchBuilder::new().record(7, None, Some(&[0; 5000]), &[]).build();
        assign(&mut batch, 0, 1, None);
        tail.reserve(&mut pool, 0, 0, 0, batch.len()).copy_from_slice(&batch);
        tail.commit(batch.len(), 0);
        segment.append(BatchHeader::read(&batch).expect("built"), 0);
        (segment, tail, batch.len() as u64)
    }

    fn standing(is_active: bool) -> Standing {
        Standing { is_active, is_first_open: true, segment_bytes_max: 1 << 20 }
    }

    #[test]
    fn its_file_gets_one_thing_after_the_other() {
        let (mut segment, tail, bytes) = appended();
        assert_eq!(segment.need(standing(true)), FileNeed::Create { bytes: ALLOCATE_BYTES_MIN });
        segment.begin_allocate();
        assert_eq!(segment.need(standing(true)), FileNeed::Wait);
        segment.allocated(ALLOCATE_BYTES_MIN);
        assert_eq!(segment.need(standing(true)), FileNeed::Nothing, "too little to write back, and space enough");
        segment.gather(bytes);
        segment.commit(bytes);
        assert_eq!(segment.need(standing(true)), FileNeed::Nothing);
        assert!(segment.drain());
        assert_eq!(segment.need(standing(true)), FileNeed::WriteBack { to: bytes });
        let (op, remainder) = segment.begin_write(&tail, bytes, false);
        assert!(matches!(op, DiskOp::Write { position: 0, durable: false, .. }));
        assert_eq!(remainder.len() as u64, bytes % BLOCK_BYTES as u64);
        segment.wrote(bytes, remainder);
        assert_eq!(
            (segment.readable(), segment.view().synced),
            (bytes, bytes),
            "a checkpoint says what draining brings"
        );
        assert_eq!(segment.need(standing(true)), FileNeed::Sync { to: bytes });
        segment.begin_sync();
        segment.synced(bytes);
        assert!(!segment.note_drained());
        assert_eq!(segment.need(standing(false)), FileNeed::Close { bytes });
        segment.begin_close();
        assert_eq!(segment.truncated().covered_bytes(), bytes);
        segment.close();
        assert!(segment.is_closed() && !segment.is_busy());
        segment.free_index();
        assert!(segment.index().is_none());
    }

    #[test]
    fn an_extent_is_not_read_before_its_group_is_durable() {
        let (mut segment, tail, bytes) = appended();
        segment.begin_allocate();
        segment.allocated(ALLOCATE_BYTES_MIN);
        assert!(segment.takes_extent());
        segment.gather_extent(bytes);
        let (_, remainder) = segment.begin_write(&tail, bytes, true);
        assert!(!segment.takes_extent());
        segment.wrote_extent(0, bytes, remainder);
        assert_eq!((segment.written(), segment.readable()), (bytes, 0));
        segment.commit(bytes);
        assert_eq!(segment.readable(), bytes);
    }

    #[test]
    fn what_is_left_of_a_cut_segment_is_closed() {
        let (mut segment, mut tail, bytes) = appended();
        let mut pool = BlockPool::new(1 << 20);
        let mut batch = BatchBuilder::new().record(90, None, Some(&[0; 300]), &[]).build();
        assign(&mut batch, 1, 1, None);
        tail.reserve(&mut pool, 0, bytes, 1, batch.len()).copy_from_slice(&batch);
        tail.commit(batch.len(), 1);
        segment.append(BatchHeader::read(&batch).expect("built"), 1);
        let all = segment.bytes();
        segment.begin_allocate();
        segment.allocated(ALLOCATE_BYTES_MIN);
        segment.gather(all);
        segment.commit(all);
        assert!(segment.drain());
        let (_, remainder) = segment.begin_write(&tail, all, false);
        segment.wrote(all, remainder);
        segment.cut(bytes, 0, 7);
        assert_eq!((segment.bytes(), segment.max_timestamp(), segment.is_draining()), (bytes, 7, true));
        assert_eq!(
            segment.need(standing(false)),
            FileNeed::Sync { to: bytes },
            "a checkpoint still waits for what is left"
        );
        segment.begin_sync();
        segment.synced(bytes);
        assert!(!segment.note_drained());
        assert_eq!(segment.need(standing(false)), FileNeed::Close { bytes });
        segment.begin_close();
        assert_eq!(segment.truncated().covered_bytes(), bytes);
        segment.close();
        segment.cut(bytes, 0, 7);
        assert!(segment.is_closed(), "nothing of it is cut");
    }

    #[test]
    #[should_panic(expected = "only extents are written ahead of the journal")]
    fn nothing_else_is_written_before_its_group_is_durable() {
        let (mut segment, tail, bytes) = appended();
        segment.gather(bytes);
        let (_, remainder) = segment.begin_write(&tail, bytes, false);
        segment.wrote(bytes, remainder);
    }

    #[test]
    #[should_panic(expected = "a commit group takes what was appended")]
    fn no_group_takes_what_was_not_appended() {
        let (mut segment, _, bytes) = appended();
        segment.gather(bytes + 1);
    }
}
