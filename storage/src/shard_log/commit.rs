//! Commit groups: what was appended since the last one, over all partitions, in one durable write.

use super::write_back::{WRITE_BACK_BYTES_MIN, write_to};
use super::*;
use crate::batch::{BatchHeader, CRC_FROM};
use crate::crc;
use crate::zeros::zeros;

/// Bytes of append entries in one commit group; what is more waits for the next.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Partitions in one commit group.
const GROUP_PARTITIONS_MAX: usize = 16_384;

/// Extents written beside one commit group.
const GROUP_EXTENTS_MAX: usize = 64;

/// An extent repeats each batch's header in the journal: below this average length of a batch it does not pay.
const EXTENT_BATCH_BYTES_MIN: usize = 4096;

/// The largest batch that may make a group give up the rest of its slot, as a share of a group or slot: 1 / 4. So at most
/// that share of the journal is lost. A larger batch goes straight to its segment, or where it happens to fit.
const INLINE_SHARE: u64 = 4;

/// Zeros that the journal is filled with at a time. A group that finds its slot being filled waits for one such write.
const FILL_BYTES: u64 = 1 << 20;

impl Fill {
    /// Recovery has filled the first slot.
    pub(super) fn after_first_slot() -> Fill {
        Fill { slot: 1, position: 0, is_writing: false }
    }

    /// Where to write which zeros now, if any.
    fn next(&mut self, slots: usize, slot_bytes: u64) -> Option<(usize, u64, Vec<Bytes>)> {
        if self.is_writing {
            return None;
        }
        if self.position >= slot_bytes {
            self.slot += 1;
            self.position = 0;
        }
        if self.slot >= slots {
            // All is filled, for as long as this journal lives.
            return None;
        }
        let position = self.position;
        let bytes = FILL_BYTES.min(slot_bytes - position);
        self.position += bytes;
        self.is_writing = true;
        Some((self.slot, position, zeros(bytes)))
    }

    /// Gives up the rest of a slot that is about to be used; `false` while a piece of it is still being written.
    fn leaves(&mut self, slot: usize) -> bool {
        if self.slot == slot && !self.is_writing {
            self.slot += 1;
            self.position = 0;
        }
        self.slot != slot
    }
}

/// How much of a log went into a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Everything.
    All,
    /// The group or the slot is full; the rest fits another.
    NoRoom,
    /// The rest cannot go now: it waits for its segment's file, or for its turn among the extents.
    Later,
}

impl ShardLog {
    /// Puts what is dirty into a commit group and starts it, if the journal has room.
    pub(super) fn start_group(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let mut builder = std::mem::take(&mut self.builder);
        self.fill_group(&mut builder, ops, progress);
        self.builder = builder;
    }

    fn fill_group(&mut self, builder: &mut GroupBuilder, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let mut group =
            Group { outstanding: 1, bytes: 0, ends: Vec::new(), log_starts: Vec::new(), replacements: Vec::new() };
        loop {
            let room = (self.slot_bytes - self.position).min(GROUP_BYTES_MAX as u64) as usize;
            let mut extents = 0;
            let mut wants_room = false;
            for _ in 0..self.dirty.len().min(GROUP_PARTITIONS_MAX) {
                let Some(log) = self.dirty.pop_front() else { break };
                let gathered = self.gather(log, builder, &mut group, &mut extents, room, ops);
                if gathered != Gathered::All {
                    self.dirty.push_back(log);
                }
                wants_room |= gathered == Gathered::NoRoom;
            }
            if !builder.is_empty() {
                break;
            }
            // What is left of this slot is given up only for what will fit the next: a checkpoint counts on most of the
            // journal being used.
            let next = (self.slot + 1) % self.slots.len();
            if !wants_room || self.position == 0 {
                return;
            }
            if self.slots[next].last_sequence > self.checkpointed {
                self.stats.journal_full += 1;
                return;
            }
            if !self.fill.leaves(next) {
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
        let path = journal_path(&self.directory);
        let position = u64::from(place.slot) * self.slot_bytes + place.position;
        self.submit(Purpose::Group, DiskOp::Write { path, position, data, durable: true }, ops);
        self.position += bytes;
        self.slots[self.slot].last_sequence = self.sequence;
        self.stats.groups += 1;
        self.stats.group_bytes += bytes;
        if is_planted(Bug::AcknowledgeBeforeCommit) {
            for &(log, _, _, offset) in &group.ends {
                self.log_mut(log).durable_end = offset;
                progress.push(Progress::Durable { log, offset });
            }
        }
        self.group = Some(group);
        self.fill_journal(ops);
    }

    /// Fills the next piece of the journal with zeros, if none is being filled and something is left.
    pub(super) fn fill_journal(&mut self, ops: &mut Ops) {
        let Some((slot, position, data)) = self.fill.next(self.slots.len(), self.slot_bytes) else { return };
        let path = journal_path(&self.directory);
        let position = slot as u64 * self.slot_bytes + position;
        self.submit(Purpose::Fill, DiskOp::Write { path, position, data, durable: false }, ops);
    }

    /// Adds what a log has to the group.
    pub(super) fn gather(
        &mut self,
        log: LogId,
        builder: &mut GroupBuilder,
        group: &mut Group,
        extents: &mut usize,
        group_bytes_max: usize,
        ops: &mut Ops,
    ) -> Gathered {
        let partition = self.logs[log.0 as usize].as_mut().expect("dirty logs are live");
        if partition.removing {
            return Gathered::All;
        }
        let inline_bytes_max = (GROUP_BYTES_MAX as u64).min(self.slot_bytes) / INLINE_SHARE;
        let key = partition.key;
        // Headers and padding of the group itself, and entries of a log start and a compacted segment.
        const RESERVE_BYTES: usize = BLOCK_BYTES;
        let has_log_start = partition.log_start_gathered < partition.log_start_wanted;
        if (has_log_start || partition.replacement.is_some()) && builder.bytes() + RESERVE_BYTES > group_bytes_max {
            return Gathered::NoRoom;
        }
        if let Some(replacement) = partition.replacement.take() {
            builder.replaced(key, &replacement);
            group.replacements.push((log, replacement));
            partition.in_group = true;
        }
        if has_log_start {
            builder.log_start(key, partition.log_start_wanted);
            group.log_starts.push((log, partition.log_start_wanted));
            partition.in_group = true;
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
                let header_bytes = BATCH_HEADER_BYTES * (partition.ungathered_batches + 1);
                let takes_extent = partition.segments[index].takes_extent();
                if takes_extent && header_bytes >= room && (header_bytes as u64) < inline_bytes_max {
                    return Gathered::NoRoom;
                }
                if takes_extent && header_bytes < room {
                    let write = start_extent(partition, log, index, builder);
                    *extents += 1;
                    group.outstanding += 1;
                    group.bytes += bytes as u64;
                    group.ends.push((log, base, to, end_offset));
                    self.stats.extents += 1;
                    self.stats.extent_bytes += bytes as u64;
                    self.submit(write.0, write.1, ops);
                    let partition = self.log_mut(log);
                    partition.in_group = true;
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
                match partition.tail.batch_boundary(base, from, room as u64) {
                    Some(boundary) => boundary,
                    None if partition.tail.first_batch_bytes(base, from) <= inline_bytes_max => {
                        return Gathered::NoRoom;
                    }
                    // Too large to go through the journal: it waits until its segment can be written.
                    None => return Gathered::Later,
                }
            };
            let data = partition.tail.slices(base, from, to);
            builder.append(key, base, from, partition.gathered_end, data);
            group.bytes += to - from;
            group.ends.push((log, base, to, end_offset));
            partition.in_group = true;
            partition.gathered_end = end_offset;
            partition.segments[index].gathered = to;
            if to < partition.segments[index].bytes {
                return Gathered::NoRoom;
            }
        }
        self.finish_gather(log)
    }

    pub(super) fn finish_gather(&mut self, log: LogId) -> Gathered {
        let partition = self.log_mut(log);
        let gathered = partition.segments.partition_point(|segment| segment.gathered == segment.bytes);
        if gathered == partition.segments.len() {
            partition.is_dirty = false;
            partition.ungathered_batches = 0;
            return Gathered::All;
        }
        Gathered::Later
    }

    pub(super) fn finish_group(&mut self, progress: &mut Vec<Progress>) {
        let group = self.group.take().expect("a group is under way");
        self.stats.pending_bytes -= group.bytes;
        for (log, segment, position, offset) in group.ends {
            let Some(partition) = self.out_of_group(log) else { continue };
            if let Some(segment) = partition.segment_mut(segment) {
                segment.durable = position;
            }
            // Only a deliberate bug has said so before.
            if offset > partition.durable_end {
                partition.durable_end = offset;
                progress.push(Progress::Durable { log, offset });
            }
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
        for (log, replacement) in group.replacements {
            if self.logs[log.0 as usize].is_some() {
                self.encode_log(log);
            }
            if self.out_of_group(log).is_some() {
                self.replace(log, &replacement);
            }
        }
        for (log, offset) in group.log_starts {
            if self.logs[log.0 as usize].is_some() {
                self.encode_log(log);
            }
            let Some(partition) = self.out_of_group(log) else { continue };
            partition.log_start = offset;
            partition.epochs.truncate_start(offset);
            progress.push(Progress::LogStart { log, offset });
            self.enqueue(log);
        }
    }
}

impl ShardLog {
    /// A log of the group that has just ended, unless it was removed meanwhile: then the removal goes on.
    fn out_of_group(&mut self, log: LogId) -> Option<&mut PartitionLog> {
        self.logs[log.0 as usize].as_mut()?.in_group = false;
        self.finish_removal(log);
        self.logs[log.0 as usize].as_mut().filter(|partition| !partition.removing)
    }
}

/// Extends a checksum by a batch. A large one's was checked when it came, so it is not read once more.
fn append_batch(crc: u32, header: &BatchHeader, batch: &[u8]) -> u32 {
    if batch.len() < crc::COMBINE_BYTES_MIN {
        return crc32c::crc32c_append(crc, batch);
    }
    let (front, covered) = batch.split_at(CRC_FROM);
    debug_assert_eq!(header.crc(), crc32c::crc32c(covered), "the batch was checked when it came");
    let covered_bytes = u32::try_from(covered.len()).expect("a batch is smaller than a segment");
    crc::combine(crc32c::crc32c_append(crc, front), header.crc(), covered_bytes)
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
        for batch in Batches::new(&slice) {
            let (header, batch) = batch.expect("the tail holds whole batches");
            crc = append_batch(crc, header, batch);
            headers.extend_from_slice(&batch[..BATCH_HEADER_BYTES]);
        }
    }
    builder.extent(partition.key, base, from, partition.gathered_end, (to - from) as u32, crc, &headers);
    let (op, remainder) = write_to(&mut partition.segments[index], &partition.tail, to, true);
    partition.segments[index].gathered = to;
    partition.operations += 1;
    (Purpose::Extent { log, segment: base, from: written, to, remainder }, op)
}
