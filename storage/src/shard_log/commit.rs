//! Commit groups: what was appended since the last one, over all partitions, in one durable write.

use super::journal::{Group, GroupEnd, SlotChange};
use super::operations::Purpose;
use super::restart::Stage;
use super::{LogId, Ops, Progress, ShardLog};
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, Batches, CRC_FROM};
use crate::bug::{Bug, is_planted};
use crate::crc;
use crate::disk::BLOCK_BYTES;
use crate::journal::GroupBuilder;
use crate::partition_log::{PartitionLog, Ungathered};

/// Partitions in one commit group.
const GROUP_PARTITIONS_MAX: usize = 16_384;

/// Extents written beside one commit group.
const GROUP_EXTENTS_MAX: usize = 64;

/// An extent repeats each batch's header in the journal: below this average length of a batch it does not pay.
const EXTENT_BATCH_BYTES_MIN: usize = 4096;

/// Headers and padding of the group itself, and entries of a log start, a compacted segment or a restart.
const RESERVE_BYTES: usize = BLOCK_BYTES;

/// How much of a log went into a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gathered {
    /// Everything that it has.
    All,
    /// The group or the slot is full; the rest fits another.
    NoRoom,
    /// The rest cannot go now: it waits for its segment's file, or for its turn among the extents.
    Later,
}

/// A commit group that is being put together.
struct Filling {
    builder: GroupBuilder,
    group: Group,
    /// Extents in it.
    extents: usize,
    /// How long it may become in its slot.
    group_bytes_max: usize,
    /// A larger batch does not make it give up the rest of the slot.
    inline_bytes_max: u64,
    /// `millstream.extent.bytes`
    extent_bytes_min: usize,
}

impl Filling {
    /// What it has room for yet, in bytes.
    fn room(&self) -> usize {
        self.group_bytes_max.saturating_sub(self.builder.bytes() + RESERVE_BYTES)
    }

    /// Takes what a log has besides batches. `false`: there is no room.
    fn take_marks(&mut self, log: LogId, partition: &mut PartitionLog) -> bool {
        let log_start = partition.log_start_to_gather();
        let is_full = self.builder.bytes() + RESERVE_BYTES > self.group_bytes_max;
        if is_full && (log_start.is_some() || partition.has_replacement()) {
            return false;
        }
        if let Some(replacement) = partition.gather_replacement() {
            self.builder.replaced(partition.key, &replacement);
            self.group.replacements.push((log, replacement));
        }
        if let Some(offset) = log_start {
            self.builder.log_start(partition.key, offset);
            self.group.log_starts.push((log, offset));
            partition.gather_log_start();
        }
        true
    }

    /// Takes the restart of a log that was cut in memory: nothing else of it goes to this group.
    fn take_restart(&mut self, log: LogId, partition: &mut PartitionLog) -> Gathered {
        let key = partition.key;
        let restarting = partition.restarting.as_mut().expect("it is being cut");
        if let Stage::Ready(restart) = restarting.stage {
            if self.builder.bytes() + RESERVE_BYTES > self.group_bytes_max {
                return Gathered::NoRoom;
            }
            assert!(!partition.in_group, "nothing of the log is in a group before its restart");
            self.builder.restart(key, &restart);
            self.group.restarts.push(log);
            restarting.stage = Stage::Committing;
            partition.in_group = true;
        }
        partition.is_dirty = false;
        Gathered::All
    }

    /// Whether what a segment has is better written straight to its file.
    fn wants_extent(&self, bytes: usize, batches: usize) -> bool {
        let pays = bytes >= self.extent_bytes_min && bytes >= EXTENT_BATCH_BYTES_MIN * batches;
        (pays || bytes > self.group_bytes_max / 2) && self.extents < GROUP_EXTENTS_MAX
    }

    /// Takes what the segment at `index` has through the journal, as far as there is room for it. Returns what became of
    /// the log if that is not all.
    fn take_inline(&mut self, log: LogId, partition: &mut PartitionLog, index: usize) -> Option<Gathered> {
        let all = partition.ungathered(index);
        let room = self.room() as u64;
        let Ungathered { segment, from, .. } = all;
        let (to, end_offset) = if all.bytes() <= room {
            (all.to, all.end_offset)
        } else {
            match partition.tail.batch_boundary(segment, from, room) {
                Some(boundary) => boundary,
                None if partition.tail.first_batch_bytes(segment, from) <= self.inline_bytes_max => {
                    return Some(Gathered::NoRoom);
                }
                // Too large to go through the journal: it waits until its segment can be written.
                None => return Some(Gathered::Later),
            }
        };
        let data = partition.tail.slices(segment, from, to);
        self.builder.append(partition.key, segment, from, partition.gathered_end(), data);
        partition.gather(index, to, end_offset);
        self.take_end(log, Ungathered { to, end_offset, ..all });
        (to < all.to).then_some(Gathered::NoRoom)
    }

    fn take_end(&mut self, log: LogId, taken: Ungathered) {
        self.group.bytes += taken.bytes();
        let Ungathered { segment, to, end_offset, .. } = taken;
        self.group.ends.push(GroupEnd { log, segment, position: to, offset: end_offset });
    }
}

impl ShardLog {
    /// Puts what is dirty into a commit group and starts it, if the journal has room.
    pub(super) fn start_group(&mut self, ops: &mut Ops, progress: &mut Vec<Progress>) {
        let mut filling = Filling {
            builder: self.journal.take_builder(),
            group: Group::default(),
            extents: 0,
            group_bytes_max: 0,
            inline_bytes_max: self.journal.inline_bytes_max(),
            extent_bytes_min: self.options.extent_bytes_min,
        };
        loop {
            filling.group_bytes_max = self.journal.group_bytes_max();
            let wants_room = self.gather_dirty(&mut filling, ops);
            if !filling.builder.is_empty() {
                break;
            }
            // What is left of this slot is given up only for what will fit the next: a checkpoint counts on most of the
            // journal being used.
            if !wants_room || self.journal.is_at_slot_start() || !self.enter_next_slot() {
                self.journal.give_back(filling.builder);
                return;
            }
        }
        let Filling { builder, group, .. } = filling;
        if is_planted(Bug::AcknowledgeBeforeCommit) {
            for end in &group.ends {
                self.logs.get_mut(end.log).acknowledge(end.offset);
                progress.push(Progress::Durable { log: end.log, offset: end.offset });
            }
        }
        self.stats.groups += 1;
        self.stats.group_bytes += builder.bytes().next_multiple_of(BLOCK_BYTES) as u64;
        let op = self.journal.write(builder, group);
        self.operations.submit(Purpose::Group, op, ops);
        self.fill_journal(ops);
    }

    fn enter_next_slot(&mut self) -> bool {
        let change = self.journal.enter_next_slot();
        self.stats.journal_full += u64::from(change == SlotChange::Full);
        change == SlotChange::Entered
    }

    /// Fills the next piece of the journal with zeros, if none is being filled and something is left.
    pub(super) fn fill_journal(&mut self, ops: &mut Ops) {
        if let Some(op) = self.journal.next_fill() {
            self.operations.submit(Purpose::Fill, op, ops);
        }
    }

    /// Adds what the dirty logs have to the group. Returns whether there was not enough room.
    fn gather_dirty(&mut self, filling: &mut Filling, ops: &mut Ops) -> bool {
        let mut wants_room = false;
        for _ in 0..self.logs.dirty().min(GROUP_PARTITIONS_MAX) {
            let Some(log) = self.logs.next_dirty() else { break };
            let gathered = self.gather(log, filling, ops);
            if gathered != Gathered::All {
                self.logs.stays_dirty(log);
            }
            wants_room |= gathered == Gathered::NoRoom;
        }
        wants_room
    }

    /// Adds what a log has to the group.
    fn gather(&mut self, log: LogId, filling: &mut Filling, ops: &mut Ops) -> Gathered {
        let partition = self.logs.get_mut(log);
        if partition.removing {
            return Gathered::All;
        }
        if partition.is_cutting() {
            return filling.take_restart(log, partition);
        }
        if !filling.take_marks(log, partition) {
            return Gathered::NoRoom;
        }
        for index in partition.first_ungathered()..partition.segments().len() {
            let partition = self.logs.get_mut(log);
            let all = partition.ungathered(index);
            if all.bytes() == 0 {
                continue;
            }
            if filling.wants_extent(all.bytes() as usize, partition.ungathered_batches()) {
                let header_bytes = BATCH_HEADER_BYTES * (partition.ungathered_batches() + 1);
                let takes_extent = partition.segments()[index].takes_extent();
                if takes_extent && header_bytes < filling.room() {
                    self.gather_extent(log, index, filling, ops);
                    break;
                }
                if takes_extent && (header_bytes as u64) < filling.inline_bytes_max {
                    return Gathered::NoRoom;
                }
                self.logs.enqueue(log);
            }
            if let Some(gathered) = filling.take_inline(log, self.logs.get_mut(log), index) {
                return gathered;
            }
        }
        let partition = self.logs.get_mut(log);
        if partition.first_ungathered() < partition.segments().len() {
            return Gathered::Later;
        }
        partition.is_dirty = false;
        Gathered::All
    }

    /// Starts writing what a segment has straight to its file, and records it in the group.
    fn gather_extent(&mut self, log: LogId, index: usize, filling: &mut Filling, ops: &mut Ops) {
        let partition = self.logs.get_mut(log);
        let all = partition.ungathered(index);
        let Ungathered { segment, from: position, to, end_offset } = all;
        let mut crc = 0;
        let mut headers = Vec::with_capacity(partition.ungathered_batches() * BATCH_HEADER_BYTES);
        for slice in partition.tail.slices(segment, position, to) {
            for batch in Batches::new(&slice) {
                let (header, batch) = batch.expect("the tail holds whole batches");
                crc = append_batch(crc, header, batch);
                headers.extend_from_slice(&batch[..BATCH_HEADER_BYTES]);
            }
        }
        let bytes = u32::try_from(all.bytes()).expect("a segment is smaller than 4 GiB");
        filling.builder.extent(partition.key, segment, position, partition.gathered_end(), bytes, crc, &headers);
        let (op, from, remainder) = partition.gather_extent(index, end_offset);
        filling.extents += 1;
        filling.group.outstanding += 1;
        filling.take_end(log, all);
        self.stats.extents += 1;
        self.stats.extent_bytes += all.bytes();
        self.operations.submit(Purpose::Extent { log, segment, from, to, remainder }, op, ops);
    }

    /// A write of the group under way has ended; when all have, what the group holds is durable.
    pub(super) fn group_part_ended(&mut self, progress: &mut Vec<Progress>) {
        let Some(group) = self.journal.part_written() else { return };
        assert!(group.bytes <= self.stats.pending_bytes, "what becomes durable was pending");
        self.stats.pending_bytes -= group.bytes;
        for end in group.ends {
            self.batches_committed(end, progress);
        }
        for (log, replacement) in group.replacements {
            self.encode_if_live(log);
            if self.out_of_group(log).is_some() {
                self.replace(log, &replacement);
            }
        }
        for log in group.restarts {
            if self.out_of_group(log).is_some() {
                self.restart_committed(log, progress);
            }
        }
        for (log, offset) in group.log_starts {
            self.encode_if_live(log);
            let Some(partition) = self.out_of_group(log) else { continue };
            partition.commit_log_start(offset);
            progress.push(Progress::LogStart { log, offset });
            self.logs.enqueue(log);
        }
    }

    /// The batches of a segment in a group are durable.
    fn batches_committed(&mut self, end: GroupEnd, progress: &mut Vec<Progress>) {
        let GroupEnd { log, segment, position, offset } = end;
        let Some(partition) = self.out_of_group(log) else { return };
        if partition.commit(segment, position, offset) {
            progress.push(Progress::Durable { log, offset });
        }
        let mut open = partition.segments().iter().skip(partition.first_open());
        let wants_write_back = open.any(|segment| segment.wants_write_back());
        self.logs.note_evictable(log);
        if wants_write_back {
            self.logs.enqueue(log);
        }
        // It may have waited for just this.
        self.note_restart(log);
    }

    /// The log of a group that has just ended is about to change.
    fn encode_if_live(&mut self, log: LogId) {
        if self.logs.is_live(log) {
            self.encode_log(log);
        }
    }

    /// A log of the group that has just ended, unless it was removed meanwhile: then the removal goes on.
    fn out_of_group(&mut self, log: LogId) -> Option<&mut PartitionLog> {
        self.logs.find_mut(log)?.in_group = false;
        self.finish_removal(log);
        self.logs.find_mut(log).filter(|partition| !partition.removing)
    }
}

/// Extends a checksum by a batch. A large one's was checked when it came, so it is not read once more.
fn append_batch(crc: u32, header: &BatchHeader, batch: &[u8]) -> u32 {
    debug_assert_eq!(header.crc(), crc32c::crc32c(&batch[CRC_FROM..]), "the batch was checked when it came");
    crc::append_batch(crc, header.crc(), batch)
}
