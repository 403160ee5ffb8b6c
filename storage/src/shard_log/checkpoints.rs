//! Checkpoints: when, what they hold, and when they may be published.

use std::time::Duration;

use bytes::Bytes;

use super::operations::Purpose;
use super::{LogId, Ops, ShardLog};
use crate::checkpoint::{CheckpointBuilder, checkpoint_path};
use crate::disk::DiskOp;
use crate::partition_log::PartitionLog;

/// A checkpoint starts when this share of the journal's slots is in use: 1 / 2.
const CHECKPOINT_SHARE: usize = 2;

/// Logs that one turn encodes...
const ENCODED_PARTITIONS_MAX: usize = 64;

/// ...unless they take more bytes than this.
const ENCODED_BYTES_MAX: usize = 128 << 10;

/// How long a turn that encodes waits for the next, when nothing else happens.
const ENCODE_INTERVAL: Duration = Duration::from_micros(500);

/// The checkpoints of a shard: the one under way, and what the next takes over from the last.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    pending: Option<PendingCheckpoint>,
    /// Numbers the checkpoints since the start, from 1.
    number: u64,
    /// Length of the last one.
    bytes: usize,
    /// The last one, if it was written a short while ago: the next takes its memory.
    file: Bytes,
}

/// A checkpoint on its way to the disk.
#[derive(Debug)]
struct PendingCheckpoint {
    /// Groups up to this one are not needed once it is published.
    cut: u64,
    /// Logs whose bytes of those groups have not all reached their segments durably.
    draining: usize,
    /// It holds what was appended but not durable when it was encoded: it waits until these are durable too.
    waits: Vec<(LogId, Wait)>,
    stage: CheckpointStage,
}

/// What a checkpoint waits for of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// What lies below is durable.
    Durable(i64),
    /// The log was cut since it was encoded: what the checkpoint says of it will never be true, and does no harm when the
    /// journal says that this restart came after it.
    Restart(u64),
}

impl Wait {
    fn is_over(self, log: &PartitionLog) -> bool {
        match self {
            Wait::Durable(offset) => log.durable_end() >= offset,
            Wait::Restart(history) => log.history_durable() >= history,
        }
    }
}

/// How far a checkpoint has come.
#[derive(Debug)]
enum CheckpointStage {
    /// Logs are being encoded; `next` is the place to go on with.
    Encoding { builder: CheckpointBuilder, next: usize },
    /// The whole file. It says of every segment what draining will have made true.
    Draining(Bytes),
    /// It is being written.
    Publishing,
}

impl Checkpoints {
    /// Memory kept for the next one, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.file.len()
    }

    /// Frees that memory.
    pub fn give_up_idle(&mut self) {
        self.file = Bytes::new();
    }

    /// When the one that is being encoded, if one is, is to be taken further.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        self.is_encoding().then(|| now + ENCODE_INTERVAL)
    }

    /// Whether logs are being encoded.
    pub fn is_encoding(&self) -> bool {
        matches!(self.pending, Some(PendingCheckpoint { stage: CheckpointStage::Encoding { .. }, .. }))
    }

    /// Whether one is under way.
    #[cfg(test)]
    pub fn is_under_way(&self) -> bool {
        self.pending.is_some()
    }

    /// Begins one that covers the journal up to `cut`.
    fn begin(&mut self, cut: u64) {
        assert!(self.pending.is_none(), "one checkpoint after the other");
        self.number += 1;
        // As long as the last one and a little more, for growing costs time, and so does the first touch of memory.
        let last = std::mem::take(&mut self.file);
        let mut buffer = if last.is_unique() { Vec::from(last) } else { Vec::new() };
        buffer.clear();
        if buffer.capacity() < self.bytes + self.bytes / 8 {
            buffer.reserve(self.bytes + self.bytes / 4);
        }
        let stage = CheckpointStage::Encoding { builder: CheckpointBuilder::new(buffer), next: 0 };
        self.pending = Some(PendingCheckpoint { cut, draining: 0, waits: Vec::new(), stage });
    }

    /// Logs that are gone are not waited for.
    pub fn forget(&mut self, is_live: impl Fn(LogId) -> bool) {
        if let Some(checkpoint) = &mut self.pending {
            checkpoint.waits.retain(|&(log, _)| is_live(log));
        }
    }

    /// A log that the checkpoint under way waited for has drained, or is gone.
    pub fn drained(&mut self) {
        if let Some(checkpoint) = &mut self.pending {
            assert!(checkpoint.draining > 0, "each log drains once");
            checkpoint.draining -= 1;
        }
    }

    /// A log was cut in memory. What the one under way waits for of it may never come: instead it waits for the restart to be
    /// durable, and for what stays to drain. `was_draining`: it waited for segments.
    pub fn restarted(&mut self, log: LogId, history: u64, was_draining: bool) {
        let Some(checkpoint) = &mut self.pending else { return };
        let waits = checkpoint.waits.len();
        checkpoint.waits.retain(|&(of, _)| of != log);
        if checkpoint.waits.len() < waits || was_draining {
            checkpoint.waits.push((log, Wait::Restart(history)));
        }
    }

    /// The one that was being written is durable. Returns the group up to which it covers the journal.
    pub fn published(&mut self, file: Bytes) -> u64 {
        let checkpoint = self.pending.take().expect("one is being published");
        assert!(matches!(checkpoint.stage, CheckpointStage::Publishing), "it was being written");
        self.file = file;
        checkpoint.cut
    }
}

impl ShardLog {
    /// The second part of [`ShardLog::end_turn`]: takes a checkpoint a step further. Returns whether one is under way.
    pub fn advance_checkpoint(&mut self, ops: &mut Ops) -> bool {
        if self.checkpoints.pending.is_none()
            && self.journal.used_slots() * CHECKPOINT_SHARE >= self.journal.slots()
            && let Some(cut) = self.journal.uncovered()
        {
            // The state is taken at the start, while half of the journal is free, and not at the end: what was appended
            // but not committed at that moment must become durable before the checkpoint may be published, and a journal
            // that is full until the checkpoint is published could never commit it. Encoding goes on over several turns:
            // a log is encoded when its turn comes or when it is about to change, whichever is first, so that each is
            // encoded as it was at the start.
            self.checkpoints.begin(cut);
        }
        self.encode_some();
        let Some(checkpoint) = &mut self.checkpoints.pending else { return false };
        let CheckpointStage::Draining(file) = &checkpoint.stage else { return true };
        let logs = &mut self.logs;
        checkpoint.waits.retain(|&(log, wait)| logs.find_mut(log).is_some_and(|log| !wait.is_over(log)));
        if checkpoint.draining == 0 && checkpoint.waits.is_empty() {
            let data = file.clone();
            self.checkpoints.bytes = data.len();
            checkpoint.stage = CheckpointStage::Publishing;
            let path = checkpoint_path(self.journal.directory());
            self.operations.submit(Purpose::Checkpoint, DiskOp::Replace { path, data }, ops);
        }
        true
    }

    /// Encodes a few logs, if a checkpoint is being encoded.
    fn encode_some(&mut self) {
        let mut limit = None;
        for _ in 0..ENCODED_PARTITIONS_MAX {
            let Some(PendingCheckpoint { stage: CheckpointStage::Encoding { builder, next }, .. }) =
                &mut self.checkpoints.pending
            else {
                return;
            };
            if builder.bytes() >= *limit.get_or_insert(builder.bytes() + ENCODED_BYTES_MAX) {
                return;
            }
            let Some(log) = self.logs.next_live(*next) else { break };
            *next = log.0 as usize + 1;
            self.encode_log(log);
        }
        let Some(checkpoint) = &mut self.checkpoints.pending else { return };
        let CheckpointStage::Encoding { builder, next } = &mut checkpoint.stage else { return };
        if self.logs.next_live(*next).is_some() {
            return;
        }
        let header = self.journal.checkpoint_header(checkpoint.cut);
        let builder = std::mem::replace(builder, CheckpointBuilder::new(Vec::new()));
        checkpoint.stage = CheckpointStage::Draining(builder.finish(&header));
    }

    /// Encodes the state of a log, if a checkpoint under way does not have it yet, and has everything of groups that are
    /// durable now brought to its segments. To be called before anything changes that the checkpoint says.
    pub(super) fn encode_log(&mut self, log: LogId) {
        let Some(checkpoint) = &mut self.checkpoints.pending else { return };
        let CheckpointStage::Encoding { builder, .. } = &mut checkpoint.stage else { return };
        let partition = self.logs.get_mut(log);
        if partition.removing || partition.checkpoint == self.checkpoints.number {
            return;
        }
        assert!(partition.checkpoint < self.checkpoints.number, "checkpoints follow each other");
        partition.checkpoint = self.checkpoints.number;
        let mut drains = false;
        for segment in partition.segments_mut() {
            drains |= segment.drain();
        }
        if partition.durable_end() < partition.log_end() {
            checkpoint.waits.push((log, Wait::Durable(partition.log_end())));
        }
        let view = partition.view();
        assert!(view.is_sound(), "recovery would refuse this: {view:?}");
        builder.partition(&view);
        if drains {
            checkpoint.draining += 1;
            self.logs.enqueue(log);
        }
    }

    /// After a segment's `synced` moved: whether the partition has drained.
    pub(super) fn note_synced(&mut self, log: LogId) {
        let mut was_draining = false;
        let mut is_draining = false;
        for segment in self.logs.get_mut(log).segments_mut() {
            was_draining |= segment.is_draining();
            is_draining |= segment.note_drained();
        }
        if was_draining && !is_draining {
            self.checkpoints.drained();
        }
    }
}
