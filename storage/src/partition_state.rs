//! What a checkpoint keeps of a partition's log and of its segments, and recovery rebuilds: owned, and borrowed to be
//! encoded.

use crate::PartitionKey;
use crate::checkpoint::NUMBER_MAX;
use crate::compaction::Replacement;
use crate::epochs::LeaderEpochs;
use crate::index::{SEGMENT_BYTES_MAX, SparseIndex};
use crate::producer::ProducerStates;

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
    /// How often the log was restarted: its end cut off, or its offsets moved on.
    pub history: u64,
    /// All replicas in sync had the records below, and perhaps more: nothing but an unclean election takes them back.
    pub committed: i64,
    /// Oldest first; the last one is appended to. Never empty.
    pub segments: Vec<SegmentState>,
    /// Leader epochs and where each began.
    pub epochs: LeaderEpochs,
    /// Idempotent producers.
    pub producers: ProducerStates,
}

/// A [`PartitionState`], borrowed: what a checkpoint encodes.
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
    /// How often the log was restarted: its end cut off, or its offsets moved on.
    pub history: u64,
    /// All replicas in sync had the records below, and perhaps more: nothing but an unclean election takes them back.
    pub committed: i64,
    /// Oldest first.
    pub segments: Vec<SegmentView<'a>>,
    /// Leader epochs and where each began.
    pub epochs: &'a LeaderEpochs,
    /// Idempotent producers.
    pub producers: &'a ProducerStates,
}

/// A segment as the checkpoint keeps it and recovery rebuilds it.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentState {
    /// Offset of its first record; compaction may have removed that.
    pub base_offset: i64,
    /// Part of its files' names: 0 as it was appended, else that of the compaction which wrote it.
    pub version: u32,
    /// Offsets are missing in it: it was compacted, here or where it was replicated from.
    pub has_gaps: bool,
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

/// A [`SegmentState`], borrowed.
#[derive(Clone, Copy, Debug)]
pub struct SegmentView<'a> {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Part of its files' names.
    pub version: u32,
    /// Offsets are missing in it.
    pub has_gaps: bool,
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
            history: self.history,
            committed: self.committed,
            segments: self.segments.iter().map(SegmentState::view).collect(),
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
            history: 0,
            committed: 0,
            segments: vec![SegmentState::empty(0, index_interval_bytes)],
            epochs: LeaderEpochs::default(),
            producers: ProducerStates::default(),
        }
    }
}

impl PartitionView<'_> {
    /// What is true of every partition that a shard writes down, and what recovery and the log rely on.
    pub fn is_sound(&self) -> bool {
        let PartitionView { log_start, log_end, first_dirty, committed, .. } = *self;
        let segments = &self.segments;
        let Some(last) = segments.last() else { return false };
        let ascend = segments.windows(2).all(|pair| pair[0].base_offset < pair[1].base_offset);
        let close_in_order = segments.is_sorted_by_key(|segment| !segment.closed);
        let fit = segments.iter().all(|segment| segment.synced <= segment.bytes && segment.bytes <= SEGMENT_BYTES_MAX);
        let are_indexed = segments.iter().filter(|segment| !segment.closed).all(|segment| {
            let knows_all =
                |index: &SparseIndex| index.covered_bytes() == segment.bytes && index.last_offset() < log_end;
            segment.index.is_some_and(knows_all)
        });
        // Only closed segments were compacted.
        let is_appended = last.version == 0 && !last.closed && first_dirty <= last.base_offset;
        is_appended
            && ascend
            && close_in_order
            && fit
            && are_indexed
            && last.base_offset <= log_end
            && 0 <= log_start
            && log_start <= committed
            && committed <= log_end
            && log_end <= NUMBER_MAX as i64
            && self.history <= NUMBER_MAX
            && self.producers.end_offset() <= log_end
    }
}

impl SegmentState {
    /// What compaction has made of some segments.
    pub fn compacted(replacement: &Replacement) -> SegmentState {
        assert!(replacement.from < replacement.until, "it takes the place of something");
        assert!(
            0 < replacement.bytes && replacement.bytes <= SEGMENT_BYTES_MAX,
            "something is left, and it fits a file"
        );
        SegmentState {
            base_offset: replacement.from,
            version: replacement.version,
            has_gaps: true,
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
            has_gaps: false,
            bytes: 0,
            synced: 0,
            first_timestamp: -1,
            max_timestamp: -1,
            closed: false,
            index: Some(SparseIndex::new(base_offset, index_interval_bytes)),
        }
    }

    /// To be encoded.
    pub fn view(&self) -> SegmentView<'_> {
        SegmentView {
            base_offset: self.base_offset,
            version: self.version,
            has_gaps: self.has_gaps,
            bytes: self.bytes,
            synced: self.synced,
            first_timestamp: self.first_timestamp,
            max_timestamp: self.max_timestamp,
            closed: self.closed,
            index: self.index.as_ref(),
        }
    }
}
