//! The journal of a shard's log: which slot the next commit group goes to, which slots are free, and the group under way.
//!
//! The journal is a ring of slots, each filled from its front. A slot may be used again when a checkpoint covers the last
//! group in it. The format is [`crate::journal`]'s.

use bytes::Bytes;

use super::LogId;
use crate::checkpoint::{Checkpoint, CheckpointHeader, journal_path};
use crate::compaction::Replacement;
use crate::disk::{BLOCK_BYTES, DiskOp};
use crate::journal::{GroupBuilder, GroupPlace, Salt};
use crate::zeros::zeros;

/// Bytes of append entries in one commit group; what is more waits for the next.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// The largest batch that may make a group give up the rest of its slot, as a share of a group or slot: 1 / 4. So at most
/// that share of the journal is lost. A larger batch goes straight to its segment, or where it happens to fit.
const INLINE_SHARE: u64 = 4;

/// Zeros that the journal is filled with at a time. A group that finds its slot being filled waits for one such write.
const FILL_BYTES: u64 = 1 << 20;

/// A commit group: what becomes durable with one write to the journal and the extents beside it.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Extents not finished yet; with the journal write, once that has begun.
    pub outstanding: usize,
    /// Bytes appended that it holds.
    pub bytes: u64,
    /// Where the bytes of each segment in it end.
    pub ends: Vec<GroupEnd>,
    /// Log starts that move.
    pub log_starts: Vec<(LogId, i64)>,
    /// Compacted segments that take the place of others.
    pub replacements: Vec<(LogId, Replacement)>,
    /// Logs that were restarted: nothing else of theirs is in it.
    pub restarts: Vec<LogId>,
}

/// Where the bytes of a segment in a commit group end.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupEnd {
    pub log: LogId,
    /// The segment's base offset.
    pub segment: i64,
    /// The position in it.
    pub position: u64,
    /// One past the last offset.
    pub offset: i64,
}

/// Fills the journal with zeros ahead of its first use: see [`crate::zeros`]. Space that was never written reads as zeros
/// anyway, so a fill changes nothing that recovery could see.
#[derive(Debug)]
struct Fill {
    /// What is filled next. Always a slot that no group has been in.
    slot: usize,
    position: u64,
    /// A piece is being written.
    is_writing: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The last group in it; the slot is free when a checkpoint covers it.
    last_sequence: u64,
}

/// The end of an attempt to go on to the next slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotChange {
    /// Groups go there from now on.
    Entered,
    /// It holds groups that no checkpoint covers yet.
    Full,
    /// A piece of it is still being filled with zeros.
    Filling,
}

/// The journal of a shard.
pub(super) struct Journal {
    shard: u16,
    directory: String,
    salt: Salt,
    slots: Vec<Slot>,
    slot_bytes: u64,
    /// Where the next group goes: this slot, and this position in it.
    slot: usize,
    position: u64,
    /// The number of the last group.
    sequence: u64,
    /// Groups up to this one are in the last checkpoint.
    checkpointed: u64,
    fill: Fill,
    builder: GroupBuilder,
    /// The commit group under way; there is at most one.
    group: Option<Group>,
}

impl Journal {
    /// The empty journal that recovery has left.
    pub fn new(directory: String, checkpoint: &Checkpoint) -> Journal {
        Journal {
            shard: checkpoint.shard,
            directory,
            salt: checkpoint.salt,
            slots: vec![Slot::default(); checkpoint.slots as usize],
            slot_bytes: checkpoint.slot_bytes,
            slot: 0,
            position: 0,
            sequence: checkpoint.sequence,
            checkpointed: checkpoint.sequence,
            fill: Fill::after_first_slot(),
            builder: GroupBuilder::new(),
            group: None,
        }
    }

    /// The shard's index.
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// The shard's directory, relative to the data directory.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The generation's secret.
    pub fn salt(&self) -> Salt {
        self.salt
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.slots.len() as u64 * self.slot_bytes
    }

    /// Slots in all.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slots that hold groups which no checkpoint covers.
    pub fn used_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.last_sequence > self.checkpointed).count()
    }

    /// Memory kept for the next groups, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.builder.kept_bytes()
    }

    /// Frees memory that no group needed since the last call.
    pub fn give_up_idle(&mut self) {
        self.builder.give_up_idle();
    }

    /// Whether a group is under way: the next has to wait.
    pub fn is_writing(&self) -> bool {
        self.group.is_some()
    }

    /// Length of the next group, at most, in this slot.
    pub fn group_bytes_max(&self) -> usize {
        assert!(self.position <= self.slot_bytes, "groups stay in their slot");
        (self.slot_bytes - self.position).min(GROUP_BYTES_MAX as u64) as usize
    }

    /// A larger batch does not make a group give up the rest of its slot.
    pub fn inline_bytes_max(&self) -> u64 {
        (GROUP_BYTES_MAX as u64).min(self.slot_bytes) / INLINE_SHARE
    }

    /// Whether the slot is empty: the next one has no more room.
    pub fn is_at_slot_start(&self) -> bool {
        self.position == 0
    }

    /// Gives up the rest of the slot and goes on to the next, if that is free.
    pub fn enter_next_slot(&mut self) -> SlotChange {
        let next = (self.slot + 1) % self.slots.len();
        if self.slots[next].last_sequence > self.checkpointed {
            return SlotChange::Full;
        }
        if !self.fill.leaves(next) {
            return SlotChange::Filling;
        }
        self.slot = next;
        self.position = 0;
        SlotChange::Entered
    }

    /// The builder of groups, to be filled and given to [`Journal::write`] or [`Journal::give_back`].
    pub fn take_builder(&mut self) -> GroupBuilder {
        assert!(self.group.is_none(), "one group after the other");
        std::mem::take(&mut self.builder)
    }

    /// Nothing was put into the builder.
    pub fn give_back(&mut self, builder: GroupBuilder) {
        assert!(builder.is_empty(), "what is in a group is written");
        self.builder = builder;
    }

    /// The write of a group at its place. The group is under way from now on.
    pub fn write(&mut self, mut builder: GroupBuilder, mut group: Group) -> DiskOp {
        assert!(self.group.is_none(), "one group after the other");
        let place = GroupPlace { shard: self.shard, slot: self.slot as u32, position: self.position };
        let bytes = builder.bytes().next_multiple_of(BLOCK_BYTES) as u64;
        assert!(self.position + bytes <= self.slot_bytes, "a group fits the slot");
        let last_in_slot = self.slots[self.slot].last_sequence;
        assert!(self.position == 0 || last_in_slot == self.sequence, "groups follow each other in their slot");
        assert!(self.position > 0 || last_in_slot <= self.checkpointed, "what is overwritten is in a checkpoint");
        self.sequence += 1;
        let data = builder.finish(&self.salt, self.sequence, place);
        let position = self.slot as u64 * self.slot_bytes + self.position;
        self.position += bytes;
        self.slots[self.slot].last_sequence = self.sequence;
        group.outstanding += 1;
        self.group = Some(group);
        self.builder = builder;
        DiskOp::Write { path: journal_path(&self.directory), position, data, durable: true }
    }

    /// The write of the group under way or one of its extents has ended. Returns the group when it is durable.
    pub fn part_written(&mut self) -> Option<Group> {
        let group = self.group.as_mut().expect("a group is under way");
        assert!(group.outstanding > 0, "each of its writes ends once");
        group.outstanding -= 1;
        if group.outstanding > 0 { None } else { self.group.take() }
    }

    /// The write of the next zeros, if none is being written and something is left to fill.
    pub fn next_fill(&mut self) -> Option<DiskOp> {
        let (slot, position, data) = self.fill.next(self.slots.len(), self.slot_bytes)?;
        assert_eq!(self.slots[slot].last_sequence, 0, "no group has been where zeros are written");
        let position = slot as u64 * self.slot_bytes + position;
        Some(DiskOp::Write { path: journal_path(&self.directory), position, data, durable: false })
    }

    /// The zeros are written.
    pub fn filled(&mut self) {
        assert!(self.fill.is_writing, "it was asked for");
        self.fill.is_writing = false;
    }

    /// The number of the last group that is durable, if a checkpoint does not cover it yet.
    pub fn uncovered(&self) -> Option<u64> {
        let durable = if self.group.is_some() { self.sequence - 1 } else { self.sequence };
        (durable > self.checkpointed).then_some(durable)
    }

    /// What a checkpoint that covers all groups up to `sequence` says of the journal.
    pub fn checkpoint_header(&self, sequence: u64) -> CheckpointHeader {
        assert!(self.checkpointed < sequence && sequence <= self.sequence, "a checkpoint covers groups that exist");
        CheckpointHeader {
            shard: self.shard,
            salt: self.salt,
            sequence,
            slots: self.slots.len() as u32,
            slot_bytes: self.slot_bytes,
        }
    }

    /// A checkpoint that covers all groups up to `sequence` is durable: their slots are free.
    pub fn checkpoint_published(&mut self, sequence: u64) {
        assert!(self.checkpointed < sequence && sequence <= self.sequence, "checkpoints follow each other");
        self.checkpointed = sequence;
    }
}

impl Fill {
    /// Recovery has filled the first slot.
    fn after_first_slot() -> Fill {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PartitionKey, TopicId};

    const SLOT_BYTES: u64 = 2 * BLOCK_BYTES as u64;

    /// Three slots of two blocks, after group 40.
    fn journal() -> Journal {
        let checkpoint = Checkpoint {
            shard: 1,
            salt: [3; 16],
            sequence: 40,
            slots: 3,
            slot_bytes: SLOT_BYTES,
            partitions: Vec::new(),
        };
        Journal::new("shards/gen-0000000001/shard-1".to_string(), &checkpoint)
    }

    /// Writes a group of one block; returns where.
    fn write(journal: &mut Journal) -> u64 {
        let mut builder = journal.take_builder();
        builder.log_start(PartitionKey { topic_id: TopicId([1; 16]), partition: 0 }, 5);
        let DiskOp::Write { position, durable: true, .. } = journal.write(builder, Group::default()) else {
            panic!("a group is one durable write")
        };
        position
    }

    #[test]
    fn groups_fill_one_slot_after_the_other_and_wait_for_a_checkpoint() {
        let mut journal = journal();
        let block = BLOCK_BYTES as u64;
        for slot in 0..3 {
            assert!(journal.is_at_slot_start());
            for position in [slot * SLOT_BYTES, slot * SLOT_BYTES + block] {
                assert_eq!(write(&mut journal), position);
                assert!(journal.is_writing());
                journal.part_written().expect("it has no extents");
            }
            assert_eq!(journal.group_bytes_max(), 0);
            let change = if slot < 2 { SlotChange::Entered } else { SlotChange::Full };
            assert_eq!(journal.enter_next_slot(), change);
        }
        assert_eq!((journal.used_slots(), journal.uncovered()), (3, Some(46)));
        // The first slot ends with group 42.
        journal.checkpoint_published(41);
        assert_eq!(journal.enter_next_slot(), SlotChange::Full);
        journal.checkpoint_published(42);
        assert_eq!(journal.enter_next_slot(), SlotChange::Entered);
        assert_eq!(write(&mut journal), 0);
        assert_eq!(journal.uncovered(), Some(46), "the last group is not durable yet");
    }

    #[test]
    fn a_group_is_durable_when_its_extents_are_too() {
        let mut journal = journal();
        let mut builder = journal.take_builder();
        builder.log_start(PartitionKey::default(), 5);
        journal.write(builder, Group { outstanding: 2, bytes: 7, ..Group::default() });
        assert!(journal.part_written().is_none());
        assert!(journal.part_written().is_none());
        assert_eq!(journal.part_written().map(|group| group.bytes), Some(7));
        assert!(!journal.is_writing());
    }

    #[test]
    fn a_slot_that_is_being_filled_is_not_entered() {
        let mut journal = journal();
        write(&mut journal);
        journal.part_written().expect("it has no extents");
        assert!(matches!(journal.next_fill(), Some(DiskOp::Write { position: SLOT_BYTES, durable: false, .. })));
        assert_eq!(journal.enter_next_slot(), SlotChange::Filling);
        assert!(journal.next_fill().is_none(), "one piece at a time");
        journal.filled();
        assert_eq!(journal.enter_next_slot(), SlotChange::Entered);
    }

    #[test]
    #[should_panic(expected = "a checkpoint covers groups that exist")]
    fn no_checkpoint_covers_what_is_to_come() {
        journal().checkpoint_header(41);
    }
}
