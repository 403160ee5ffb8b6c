//! Checkpoints: when, what they hold, and when they may be published.

use super::*;

/// A checkpoint starts when this share of the journal's slots is in use: 1 / 2.
const CHECKPOINT_SHARE: u32 = 2;

/// Logs that one turn encodes...
const ENCODED_PARTITIONS_MAX: usize = 64;

/// ...unless they take more bytes than this.
const ENCODED_BYTES_MAX: usize = 128 << 10;

/// How long a turn that encodes waits for the next, when nothing else happens.
pub(super) const ENCODE_INTERVAL: Duration = Duration::from_micros(500);

impl ShardLog {
    pub(super) fn used_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.last_sequence > self.checkpointed).count()
    }

    /// The second part of [`ShardLog::end_turn`]: takes a checkpoint a step further.
    pub fn advance_checkpoint(&mut self, ops: &mut Ops) -> bool {
        if self.checkpoint.is_none() && self.used_slots() * CHECKPOINT_SHARE as usize >= self.slots.len() {
            self.start_checkpoint();
        }
        self.encode_some();
        let Some(checkpoint) = &mut self.checkpoint else { return false };
        let CheckpointStage::Draining(file) = &checkpoint.stage else { return true };
        let logs = &self.logs;
        checkpoint.waits.retain(|&(log, offset)| {
            logs[log.0 as usize].as_ref().is_some_and(|partition| partition.durable_end < offset)
        });
        if checkpoint.draining == 0 && checkpoint.waits.is_empty() {
            let data = file.clone();
            self.checkpoint_bytes = data.len();
            checkpoint.stage = CheckpointStage::Publishing;
            let path = checkpoint_path(&self.directory);
            self.submit(Purpose::Checkpoint, DiskOp::Replace { path, data }, ops);
        }
        true
    }

    /// Begins to encode the state of all logs.
    ///
    /// The state is taken at the start, while half of the journal is free, and not at the end: what was appended but
    /// not committed at that moment must become durable before the checkpoint may be published, and a journal that is
    /// full until the checkpoint is published could never commit it. Encoding goes on over several turns: a log is
    /// encoded when its turn comes or when it is about to change, whichever is first, so that each is encoded as it was
    /// at the start.
    fn start_checkpoint(&mut self) {
        let cut = if self.group.is_some() { self.sequence - 1 } else { self.sequence };
        if cut <= self.checkpointed {
            return;
        }
        self.checkpoint_number += 1;
        // As long as the last one and a little more, for growing costs time, and so does the first touch of memory.
        let last = std::mem::take(&mut self.checkpoint_file);
        let mut buffer = if last.is_unique() { Vec::from(last) } else { Vec::new() };
        buffer.clear();
        if buffer.capacity() < self.checkpoint_bytes + self.checkpoint_bytes / 8 {
            buffer.reserve(self.checkpoint_bytes + self.checkpoint_bytes / 4);
        }
        let builder = CheckpointBuilder::new(buffer);
        let stage = CheckpointStage::Encoding { builder, next: 0 };
        self.checkpoint = Some(PendingCheckpoint { cut, draining: 0, waits: Vec::new(), stage });
    }

    /// Encodes a few logs, if a checkpoint is being encoded.
    fn encode_some(&mut self) {
        let mut limit = None;
        for _ in 0..ENCODED_PARTITIONS_MAX {
            let Some(PendingCheckpoint { stage: CheckpointStage::Encoding { builder, next }, .. }) =
                &mut self.checkpoint
            else {
                return;
            };
            if builder.bytes() >= *limit.get_or_insert(builder.bytes() + ENCODED_BYTES_MAX) {
                return;
            }
            let Some(index) = (*next..self.logs.len()).find(|&index| self.logs[index].is_some()) else {
                break;
            };
            *next = index + 1;
            self.encode_log(LogId(index as u32));
        }
        let checkpoint = self.checkpoint.as_mut().expect("one is being encoded");
        let CheckpointStage::Encoding { builder, next } = &mut checkpoint.stage else { return };
        if self.logs[*next..].iter().any(Option::is_some) {
            return;
        }
        let header = CheckpointHeader {
            shard: self.shard,
            salt: self.salt,
            sequence: checkpoint.cut,
            slots: self.slots.len() as u32,
            slot_bytes: self.slot_bytes,
        };
        let builder = std::mem::replace(builder, CheckpointBuilder::new(Vec::new()));
        checkpoint.stage = CheckpointStage::Draining(builder.finish(&header));
    }

    /// Encodes the state of a log, if a checkpoint under way does not have it yet, and has everything of groups that are
    /// durable now brought to its segments. To be called before anything changes that the checkpoint says.
    pub(super) fn encode_log(&mut self, log: LogId) {
        let Some(checkpoint) = &mut self.checkpoint else { return };
        let CheckpointStage::Encoding { builder, .. } = &mut checkpoint.stage else { return };
        let partition = self.logs[log.0 as usize].as_mut().expect("the caller holds a live LogId");
        if partition.removing || partition.checkpoint == self.checkpoint_number {
            return;
        }
        partition.checkpoint = self.checkpoint_number;
        let mut drains = false;
        for segment in partition.segments.iter_mut().filter(|segment| segment.synced < segment.durable) {
            segment.drain_to = segment.durable;
            drains = true;
        }
        if partition.durable_end < partition.log_end {
            checkpoint.waits.push((log, partition.log_end));
        }
        builder.partition(&partition.view());
        if drains {
            checkpoint.draining += 1;
            self.enqueue(log);
        }
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
