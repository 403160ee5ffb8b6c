//! Checkpoints: when, what they hold, and when they may be published.

use super::*;

/// A checkpoint starts when this share of the journal's slots is in use: 1 / 2.
const CHECKPOINT_SHARE: u32 = 2;

impl ShardLog {
    pub(super) fn used_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.last_sequence > self.checkpointed).count()
    }

    /// The second part of [`ShardLog::end_turn`]: takes a checkpoint a step further.
    pub fn advance_checkpoint(&mut self, ops: &mut Ops) {
        let Some(checkpoint) = &mut self.checkpoint else {
            if self.used_slots() * CHECKPOINT_SHARE as usize >= self.slots.len() {
                self.start_checkpoint();
            }
            return;
        };
        let logs = &self.logs;
        checkpoint.waits.retain(|&(log, offset)| {
            logs[log.0 as usize].as_ref().is_some_and(|partition| partition.durable_end < offset)
        });
        if checkpoint.draining == 0 && checkpoint.waits.is_empty() && !checkpoint.publishing {
            checkpoint.publishing = true;
            let data = checkpoint.file.clone();
            let path = checkpoint_path(&self.directory);
            self.submit(Purpose::Checkpoint, DiskOp::Replace { path, data }, ops);
        }
    }

    /// Encodes the state of all logs now and has everything of groups that are durable now brought to the segments.
    ///
    /// The state is taken at the start, while half of the journal is free, and not at the end: what was appended but
    /// not committed at that moment must become durable before the checkpoint may be published, and a journal that is
    /// full until the checkpoint is published could never commit it.
    pub(super) fn start_checkpoint(&mut self) {
        let cut = if self.group.is_some() { self.sequence - 1 } else { self.sequence };
        if cut <= self.checkpointed {
            return;
        }
        let mut draining = 0;
        let mut waits = Vec::new();
        let mut partitions = Vec::with_capacity(self.by_key.len());
        for index in 0..self.logs.len() {
            let log = LogId(index as u32);
            let Some(partition) = self.logs[index].as_mut().filter(|partition| !partition.removing) else { continue };
            let mut drains = false;
            for segment in partition.segments.iter_mut().filter(|segment| segment.synced < segment.durable) {
                segment.drain_to = segment.durable;
                drains = true;
            }
            if partition.durable_end < partition.log_end {
                waits.push((log, partition.log_end));
            }
            partitions.push(partition.state());
            if drains {
                draining += 1;
                self.enqueue(log);
            }
        }
        let checkpoint = Checkpoint {
            shard: self.shard,
            salt: self.salt,
            sequence: cut,
            slots: self.slots.len() as u32,
            slot_bytes: self.slot_bytes,
            partitions,
        };
        let file = checkpoint.encode();
        self.checkpoint = Some(PendingCheckpoint { cut, draining, file, waits, publishing: false });
    }

    /// After a segment's `synced` moved: whether the partition has drained.
    pub(super) fn note_synced(&mut self, log: LogId) {
        let partition = self.log_mut(log);
        let mut was_draining = false;
        let mut is_draining = false;
        for segment in &mut partition.segments {
            was_draining |= segment.drain_to > 0;
            if segment.synced >= segment.drain_to {
                segment.drain_to = 0;
            }
            is_draining |= segment.drain_to > 0;
        }
        if was_draining
            && !is_draining
            && let Some(checkpoint) = &mut self.checkpoint
        {
            checkpoint.draining -= 1;
        }
    }
}
