//! The replay of checkpoints and journals: what each partition is, and which of its bytes only the journal holds.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::directories::Directories;
use super::disk::Disk;
use super::{KnownPartition, RecoveryError};
use crate::PartitionKey;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, Batches, NO_PRODUCER_ID};
use crate::bug::{Bug, is_planted};
use crate::checkpoint::NUMBER_MAX;
use crate::compaction::Replacement;
use crate::epochs::LeaderEpochs;
use crate::index::{SEGMENT_BYTES_MAX, SparseIndex};
use crate::journal::{Entry, Restart};
use crate::partition_state::{PartitionState, SegmentState};
use crate::producer::ProducerStates;
use crate::segment::index_path;

/// `index.interval.bytes` of a partition whose topic is not known: Kafka's default.
const INDEX_INTERVAL_BYTES: u32 = 4096;

/// The partitions as far as they are replayed.
pub(super) struct Replay<'a> {
    pub known: &'a BTreeMap<PartitionKey, &'a KnownPartition>,
    pub partitions: BTreeMap<PartitionKey, ReplayedPartition>,
    pub now_ms: i64,
}

pub(super) struct ReplayedPartition {
    pub state: PartitionState,
    /// Bytes that only the journal holds: segment, position, bytes; ascending.
    pub bytes: Vec<(i64, u64, Bytes)>,
    /// False of a partition that the image does not know and the journal does not tell all of: it was removed before the
    /// last checkpoint, and this is the rest. Of one that the image knows that is damage, and recovery ends.
    pub is_whole: bool,
    /// The state lies beside its segments as it is here.
    pub is_beside: bool,
    /// Everything that the journals hold of it is in the state: their entries are passed over.
    pub is_complete: bool,
}

impl ReplayedPartition {
    pub fn new(state: PartitionState) -> ReplayedPartition {
        ReplayedPartition { state, bytes: Vec::new(), is_whole: true, is_beside: false, is_complete: false }
    }

    /// Whether the bytes of a segment cannot all come from the journal: then its file has to be there.
    pub fn needs_file(&self, segment: &SegmentState) -> bool {
        let in_journal = self.bytes.iter().filter(|(base, ..)| *base == segment.base_offset);
        let in_journal: u64 = in_journal.map(|(.., data)| data.len() as u64).sum();
        segment.synced > 0 || in_journal < segment.bytes
    }

    /// Forgets segments that lie wholly below the log start: their files may be gone already.
    fn drop_segments_below_start(&mut self) {
        let state = &mut self.state;
        let begun = state.segments.partition_point(|segment| segment.base_offset <= state.log_start);
        state.segments.drain(..begun.saturating_sub(1));
        let first = state.segments.first().expect("never empty").base_offset;
        self.bytes.retain(|(segment, ..)| *segment >= first);
    }

    /// Where everything is deleted, the log may have gone on in a segment of which nothing is durable, and the file of the
    /// one before may be gone.
    fn forget_what_is_deleted(&mut self, index_interval_bytes: u32) {
        let state = &mut self.state;
        let last = state.segments.last().expect("never empty");
        if state.log_start < state.log_end || last.bytes == 0 || last.closed {
            return;
        }
        state.segments = vec![SegmentState::empty(state.log_end, index_interval_bytes)];
        self.bytes.clear();
    }

    /// The end of the log is cut off, and it goes on in a new segment. `false`: the restart does not fit the log, which stays
    /// as it is.
    fn restart(&mut self, restart: &Restart, index_interval_bytes: u32) -> bool {
        let ReplayedPartition { state, bytes, .. } = self;
        let &Restart { history, keep_below, begin_at, position, max_timestamp, skipped_epoch } = restart;
        if !restart.is_sound() || history != state.history + 1 || keep_below > state.log_end {
            return false;
        }
        let keeps_any = keep_below > state.log_start;
        let begun = state.segments.partition_point(|segment| keeps_any && segment.base_offset < keep_below);
        let kept = if position == 0 { begun.saturating_sub(1) } else { begun };
        let last = kept.checked_sub(1).and_then(|last| state.segments.get_mut(last)).filter(|_| position > 0);
        if position > 0 && last.as_ref().is_none_or(|last| position > last.bytes) {
            return false;
        }
        if let Some(last) = last.filter(|last| position < last.bytes) {
            let mut index = last.index.clone();
            if index.as_mut().is_some_and(|index| !index.cut(position, keep_below - 1, max_timestamp)) {
                return false;
            }
            last.index = index;
            last.bytes = position;
            last.synced = last.synced.min(position);
            last.max_timestamp = max_timestamp;
            // One whose index is in its file gets it from there when all is replayed.
            last.closed = false;
        }
        state.segments.truncate(kept);
        let end = state.segments.last().map(|last| (last.base_offset, last.bytes));
        bytes.retain_mut(|(segment, from, data)| {
            let Some((base, end)) = end.filter(|(base, _)| *segment <= *base) else { return false };
            if *segment == base {
                data.truncate(usize::try_from(end.saturating_sub(*from)).unwrap_or(usize::MAX));
            }
            !data.is_empty()
        });
        state.segments.push(SegmentState::empty(begin_at, index_interval_bytes));
        if keeps_any {
            state.epochs.truncate_end(keep_below);
            state.epochs.skip(skipped_epoch, keep_below);
            state.producers.truncate(keep_below);
            state.committed = state.committed.min(keep_below);
        } else {
            state.epochs = LeaderEpochs::default();
            state.producers = ProducerStates::default();
            (state.log_start, state.committed) = (begin_at, begin_at);
        }
        state.log_end = begin_at;
        state.first_dirty = state.first_dirty.min(keep_below);
        state.history = history;
        true
    }

    /// Segments that were closed and then cut have their indexes in their files, which know more than is left. Where one is
    /// missing or damaged, searches in the segment begin at its start.
    fn index_what_was_cut(
        &mut self,
        disk: &mut Disk<'_, '_>,
        directory: Option<&str>,
        index_interval_bytes: u32,
    ) -> Result<(), RecoveryError> {
        let state = &mut self.state;
        for at in 0..state.segments.len().saturating_sub(1) {
            let last_offset = state.segments[at + 1].base_offset - 1;
            let segment = &mut state.segments[at];
            if segment.closed || segment.index.is_some() || segment.bytes == 0 || last_offset < segment.base_offset {
                continue;
            }
            let (base, bytes, max_timestamp) = (segment.base_offset, segment.bytes, segment.max_timestamp);
            let index = match directory {
                Some(directory) => disk.read_index(&index_path(directory, base, segment.version), state.key, base)?,
                None => None,
            };
            let cut = index.and_then(|mut index| index.cut(bytes, last_offset, max_timestamp).then_some(index));
            let unknown = || SparseIndex::of_unknown(base, index_interval_bytes, bytes, last_offset, max_timestamp);
            segment.index = Some(cut.unwrap_or_else(unknown));
        }
        Ok(())
    }
}

impl Replay<'_> {
    /// Begins with what a checkpoint says of a partition.
    pub fn begin(&mut self, mut state: PartitionState) {
        state.producers.refresh(self.now_ms);
        self.partitions.insert(state.key, ReplayedPartition::new(state));
    }

    /// Begins with nothing: none of the partition was ever durable.
    pub fn begin_empty(&mut self, key: PartitionKey) {
        self.partitions.insert(key, ReplayedPartition::new(PartitionState::empty(key, INDEX_INTERVAL_BYTES)));
    }

    /// Begins with the state that lies beside a partition's segments. `is_complete`: an attempt of this recovery that was
    /// interrupted has written it, with all that the journals hold.
    pub fn begin_beside(&mut self, state: PartitionState, is_complete: bool) {
        let key = state.key;
        self.begin(state);
        let partition = self.partition(key);
        (partition.is_beside, partition.is_complete) = (true, is_complete);
    }

    fn partition(&mut self, key: PartitionKey) -> &mut ReplayedPartition {
        let interval = self.index_interval_bytes(key);
        self.partitions.entry(key).or_insert_with(|| ReplayedPartition::new(PartitionState::empty(key, interval)))
    }

    fn index_interval_bytes(&self, key: PartitionKey) -> u32 {
        self.known.get(&key).map_or(INDEX_INTERVAL_BYTES, |known| known.index_interval_bytes)
    }

    /// Replays an entry. One that cannot follow ends recovery, but for partitions that the image does not know.
    pub fn apply(&mut self, entry: Entry) -> Result<(), RecoveryError> {
        let key = entry.key();
        if self.partitions.get(&key).is_some_and(|partition| !partition.is_whole || partition.is_complete) {
            return Ok(());
        }
        self.partition(key).is_beside = false;
        match self.apply_to_partition(entry) {
            Err(_) if !self.known.contains_key(&key) => {
                self.partition(key).is_whole = false;
                Ok(())
            }
            result => result,
        }
    }

    fn apply_to_partition(&mut self, entry: Entry) -> Result<(), RecoveryError> {
        match entry {
            Entry::Append { key, segment, position, data, .. } => {
                let headers = Batches::new(&data)
                    .map(|batch| batch.map(|(header, _)| *header).map_err(|_| malformed(key)))
                    .collect::<Result<Vec<_>, _>>()?;
                self.append(key, segment, position, &headers)?;
                let partition = self.partition(key);
                if let Some(found) = partition.state.segments.iter().find(|found| found.base_offset == segment) {
                    let end = position + data.len() as u64;
                    if end > found.bytes {
                        return Err(malformed(key));
                    }
                    if end > found.synced {
                        partition.bytes.push((segment, position, data));
                    }
                }
                Ok(())
            }
            Entry::Extent { key, segment, position, headers, .. } => {
                let headers: Vec<BatchHeader> = headers
                    .chunks_exact(BATCH_HEADER_BYTES)
                    .map(|header| BatchHeader::read(header).copied().ok_or_else(|| malformed(key)))
                    .collect::<Result<_, _>>()?;
                self.append(key, segment, position, &headers)
            }
            Entry::LogStart { key, offset } => {
                let state = &mut self.partition(key).state;
                if is_planted(Bug::ForgetLogStart) {
                    return Ok(());
                }
                if offset > state.log_end {
                    return Err(malformed(key));
                }
                state.log_start = state.log_start.max(offset);
                // Only what is committed is deleted.
                state.committed = state.committed.max(offset);
                state.epochs.truncate_start(offset);
                Ok(())
            }
            Entry::Replaced { key, replacement } => self.replace(key, &replacement),
            Entry::Restart { key, restart } => {
                let index_interval_bytes = self.index_interval_bytes(key);
                let partition = self.partition(key);
                // A checkpoint that was begun after it holds it.
                let is_known = restart.history <= partition.state.history;
                (is_known || partition.restart(&restart, index_interval_bytes))
                    .then_some(())
                    .ok_or_else(|| malformed(key))
            }
        }
    }

    /// Gives segments that were cut their indexes.
    pub fn index_what_was_cut(
        &mut self,
        disk: &mut Disk<'_, '_>,
        directories: &Directories<'_>,
    ) -> Result<(), RecoveryError> {
        for (&key, partition) in &mut self.partitions {
            let known = self.known.get(&key);
            let interval = known.map_or(INDEX_INTERVAL_BYTES, |known| known.index_interval_bytes);
            partition.index_what_was_cut(disk, directories.of(key).as_deref(), interval)?;
        }
        Ok(())
    }

    /// Ends the replay: what came out must be what a shard can go on with.
    pub fn check(&mut self) -> Result<(), RecoveryError> {
        for (key, partition) in &mut self.partitions {
            partition.drop_segments_below_start();
            let known = self.known.get(key);
            partition.forget_what_is_deleted(known.map_or(INDEX_INTERVAL_BYTES, |known| known.index_interval_bytes));
            if key.partition >= 0 && partition.state.view().is_sound() {
                continue;
            }
            if self.known.contains_key(key) {
                return Err(malformed(*key));
            }
            partition.is_whole = false;
        }
        Ok(())
    }

    /// A compacted segment takes the place of others. Their bytes are all in their files, or were.
    fn replace(&mut self, key: PartitionKey, replacement: &Replacement) -> Result<(), RecoveryError> {
        let index_interval_bytes = self.index_interval_bytes(key);
        let partition = self.partition(key);
        // The next segment says where one ends: once that has gone, what lies below the start would seem to reach beyond it.
        partition.drop_segments_below_start();
        let ReplayedPartition { state, bytes, .. } = partition;
        let mut open = state.segments.last().expect("never empty").base_offset;
        if replacement.until > open && replacement.until == state.log_end {
            // A new segment was begun, but nothing appended to it yet.
            state.segments.push(SegmentState::empty(state.log_end, index_interval_bytes));
            open = state.log_end;
        }
        let is_possible = replacement.from < replacement.until
            && replacement.until <= open
            && replacement.first_dirty <= open
            && replacement.version > 0
            && replacement.bytes <= SEGMENT_BYTES_MAX;
        if !is_possible {
            return Err(malformed(key));
        }
        let replaced = replacement.from..replacement.until;
        bytes.retain(|(segment, ..)| !replaced.contains(segment));
        state.segments.retain(|segment| !replaced.contains(&segment.base_offset));
        if replacement.bytes > 0 {
            let at = state.segments.partition_point(|segment| segment.base_offset < replacement.from);
            state.segments.insert(at, SegmentState::compacted(replacement));
        }
        state.first_dirty = replacement.first_dirty;
        Ok(())
    }

    /// Replays all but the payload of batches that lie at `position` of a segment. What the checkpoint knows already
    /// is passed over.
    fn append(
        &mut self,
        key: PartitionKey,
        base: i64,
        position: u64,
        headers: &[BatchHeader],
    ) -> Result<(), RecoveryError> {
        let now_ms = self.now_ms;
        let index_interval_bytes = self.index_interval_bytes(key);
        let state = &mut self.partition(key).state;
        let mut at = position;
        for header in headers {
            let bytes = header.batch_bytes().map_err(|_| malformed(key))? as u64;
            if at > SEGMENT_BYTES_MAX.saturating_sub(bytes) || !is_possible(header) {
                return Err(malformed(key));
            }
            if header.base_offset() >= state.log_end {
                let last = state.segments.last().expect("never empty");
                if base > last.base_offset && base == state.log_end {
                    state.segments.push(SegmentState::empty(base, index_interval_bytes));
                }
                let segment = state.segments.last_mut().expect("never empty");
                // Where offsets are missing, a leader has compacted them away: that no batch is, its position says.
                if segment.base_offset != base || segment.bytes != at {
                    return Err(RecoveryError::Corrupt(format!(
                        "journal: offset {} of partition {} of topic id {} does not follow offset {}",
                        header.base_offset(),
                        key.partition,
                        key.topic_id.to_base64(),
                        state.log_end
                    )));
                }
                segment.index.as_mut().expect("an open segment has one").note(header, at);
                segment.bytes += bytes;
                segment.has_gaps |= header.base_offset() != state.log_end;
                if segment.first_timestamp < 0 {
                    segment.first_timestamp = header.max_timestamp();
                }
                segment.max_timestamp = segment.max_timestamp.max(header.max_timestamp());
                state.log_end = header.last_offset() + 1;
                state.producers.record(header, now_ms, state.committed);
                state.epochs.assign(header.leader_epoch(), header.base_offset());
            }
            at += bytes;
        }
        Ok(())
    }
}

/// What a leader has made sure of before it appended a batch, and what the next checkpoint must be able to say.
fn is_possible(header: &BatchHeader) -> bool {
    let is_sequenced = header.producer_id() >= 0 && header.base_sequence() >= 0;
    let is_placed = header.last_offset_delta() >= 0 && header.last_offset() < NUMBER_MAX as i64;
    is_placed && (is_sequenced || header.producer_id() == NO_PRODUCER_ID)
}

fn malformed(key: PartitionKey) -> RecoveryError {
    RecoveryError::Corrupt(format!(
        "journal: an entry of partition {} of topic id {} makes no sense",
        key.partition,
        key.topic_id.to_base64()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TopicId;

    #[test]
    fn a_restart_that_does_not_fit_changes_nothing() {
        let key = PartitionKey { topic_id: TopicId([3; 16]), partition: 0 };
        let fits = Restart { history: 1, keep_below: 0, begin_at: 2, position: 0, max_timestamp: 5, skipped_epoch: -1 };
        let mut partition = ReplayedPartition::new(PartitionState::empty(key, INDEX_INTERVAL_BYTES));
        let before = partition.state.clone();
        for refused in [
            Restart { position: 52_992, ..fits },
            Restart { history: 2, ..fits },
            Restart { keep_below: 1, ..fits },
            Restart { keep_below: 0, begin_at: -1, ..fits },
        ] {
            assert!(!partition.restart(&refused, INDEX_INTERVAL_BYTES), "{refused:?}");
            assert_eq!(partition.state, before, "{refused:?}");
        }
        assert!(partition.restart(&fits, INDEX_INTERVAL_BYTES));
        assert_eq!((partition.state.log_end, partition.state.segments.len()), (2, 1));
    }
}
