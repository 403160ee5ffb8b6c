//! What follows from the result of each disk operation: one function for each purpose.

use bytes::Bytes;

use super::operations::Purpose;
use super::{Fatal, LogId, Ops, Progress, ShardLog};
use crate::Now;
use crate::bug::{Bug, is_planted};
use crate::disk::{DiskError, DiskOp, DiskReply, DiskToken};
use crate::segment::index_path;
use crate::walk::{Outcome, Walk};

impl ShardLog {
    /// Takes the result of an operation.
    pub fn on_disk(
        &mut self,
        now: Now,
        token: DiskToken,
        result: Result<DiskReply, DiskError>,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        self.clock = now.elapsed;
        let (purpose, op) = self.operations.take(token);
        match result {
            Ok(reply) => self.on_success(now, purpose, op, reply, ops, progress),
            Err(error) => self.on_failure(now, token, (purpose, op), error, ops, progress),
        }
    }

    fn on_success(
        &mut self,
        now: Now,
        purpose: Purpose,
        op: Option<DiskOp>,
        reply: DiskReply,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        match purpose {
            Purpose::Group => self.group_part_ended(progress),
            Purpose::Extent { log, segment, from, to, remainder } => {
                self.on_extent(log, segment, (from, to), remainder, progress);
            }
            Purpose::WriteBack { log, segment, to, remainder } => self.on_written_back(log, segment, to, remainder),
            Purpose::LoadRemainder { log, segment } => return self.on_remainder(log, segment, &data(reply)),
            Purpose::Sync { log, segment, to } => self.on_synced(log, segment, to),
            Purpose::CreateDirectory { log } => self.on_directory_created(log),
            Purpose::Allocate { log, segment, bytes } => self.on_allocated(log, segment, bytes),
            Purpose::Fill => self.on_filled(ops),
            Purpose::CloseTruncate { log, segment } => self.on_truncated(log, segment, ops),
            Purpose::CloseIndex { log, segment } => self.on_closed(log, segment),
            Purpose::Walk(walk) => return self.on_walk_read(*walk, data(reply), ops, progress),
            Purpose::Checkpoint => self.on_checkpoint_published(op),
            Purpose::Remove { log } => self.on_removed(log, op),
            Purpose::Compact { log } => {
                let DiskReply::Compacted(compaction, step) = reply else { unreachable!("it answers with itself") };
                self.on_compacted(now, log, compaction, step);
            }
        }
        Ok(())
    }

    fn on_failure(
        &mut self,
        now: Now,
        token: DiskToken,
        (purpose, op): (Purpose, Option<DiskOp>),
        error: DiskError,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let tries_again =
            error == DiskError::NoSpace || (is_planted(Bug::RetryFailedSync) && matches!(error, DiskError::Failed(_)));
        match (purpose, op) {
            (purpose, Some(op)) if tries_again => {
                self.stats.no_space += 1;
                self.operations.try_later(now.elapsed, token, purpose, op);
            }
            // What cannot be filled is used as it is.
            (Purpose::Fill, _) if error == DiskError::NoSpace => self.on_filled(ops),
            (Purpose::Compact { log }, _) => self.on_compaction_failed(now, log, error, progress),
            (Purpose::Walk(walk), _) => return self.on_walk_failed(*walk, error, ops, progress),
            (purpose, op) => {
                let what = purpose.describe_failure(op.as_ref());
                return Err(Fatal(format!("shard {}: {what}: {error}", self.journal.shard())));
            }
        }
        Ok(())
    }

    /// An extent is in its segment's file.
    fn on_extent(
        &mut self,
        log: LogId,
        segment: i64,
        (from, to): (u64, u64),
        remainder: Vec<u8>,
        progress: &mut Vec<Progress>,
    ) {
        let partition = self.logs.get_mut(log);
        partition.end_operation();
        if let Some(segment) = partition.segment_mut(segment) {
            segment.wrote_extent(from, to, remainder);
        }
        self.note_synced(log);
        self.write_ended(log);
        self.group_part_ended(progress);
        self.finish_removal(log);
    }

    /// Bytes of the journal are in their segment's file.
    fn on_written_back(&mut self, log: LogId, segment: i64, to: u64, remainder: Vec<u8>) {
        if let Some(segment) = self.logs.get_mut(log).segment_mut(segment) {
            segment.wrote(to, remainder);
        }
        self.write_ended(log);
        self.operation_ended(log);
    }

    /// What the first write after a restart repeats has been read.
    fn on_remainder(&mut self, log: LogId, segment: i64, remainder: &[u8]) -> Result<(), Fatal> {
        if let Some(segment) = self.logs.get_mut(log).segment_mut(segment)
            && !segment.remainder_loaded(remainder)
        {
            return Err(Fatal(format!(
                "{} is shorter than its {} bytes: it was changed by something else",
                segment.path,
                segment.written()
            )));
        }
        self.operation_ended(log);
        Ok(())
    }

    /// What was written to a segment's file up to a position is durable.
    fn on_synced(&mut self, log: LogId, segment: i64, to: u64) {
        if let Some(segment) = self.logs.get_mut(log).segment_mut(segment) {
            segment.synced(to);
        }
        self.note_synced(log);
        self.operation_ended(log);
    }

    /// A partition's directory is there.
    fn on_directory_created(&mut self, log: LogId) {
        let partition = self.logs.get_mut(log);
        partition.creating_directory = false;
        partition.directory_created = true;
        self.operation_ended(log);
    }

    /// A segment's file is there and has this much space.
    fn on_allocated(&mut self, log: LogId, segment: i64, bytes: u64) {
        if let Some(segment) = self.logs.get_mut(log).segment_mut(segment) {
            segment.allocated(bytes);
        }
        self.operation_ended(log);
    }

    /// A piece of the journal is filled with zeros, or is to be used without.
    fn on_filled(&mut self, ops: &mut Ops) {
        self.journal.filled();
        self.fill_journal(ops);
    }

    /// A segment that is being closed has its exact length, durably: its index follows.
    fn on_truncated(&mut self, log: LogId, base: i64, ops: &mut Ops) {
        let partition = self.logs.get_mut(log);
        let key = partition.key;
        let directory = partition.directory.clone();
        let segment = partition.segment_mut(base).expect("a closing segment is not dropped");
        let path = index_path(&directory, base, segment.version);
        let data = segment.truncated().encode(key);
        self.note_synced(log);
        self.start(Purpose::CloseIndex { log, segment: base }, log, DiskOp::Replace { path, data }, ops);
        self.operation_ended(log);
    }

    /// A segment is closed.
    fn on_closed(&mut self, log: LogId, base: i64) {
        let segment = self.logs.get_mut(log).segment_mut(base).expect("a closing segment is not dropped");
        let index_bytes = segment.close();
        self.keep_index(log, base, index_bytes);
        self.operation_ended(log);
    }

    /// A walk has read what it wanted.
    fn on_walk_read(
        &mut self,
        mut walk: Walk,
        data: Bytes,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let log = walk.log;
        let partition = self.logs.get_mut(log);
        partition.end_operation();
        if partition.removing || partition.restarting.is_some() && !walk.is_for_restart() {
            progress.push(walk.failed(DiskError::NotFound));
            self.finish_removal(log);
            return Ok(());
        }
        walk.supply(data);
        self.walk_on(walk, ops, progress)
    }

    /// A read failed: what it was for is told so, unless the index was only missing and can be rebuilt.
    fn on_walk_failed(
        &mut self,
        mut walk: Walk,
        error: DiskError,
        ops: &mut Ops,
        progress: &mut Vec<Progress>,
    ) -> Result<(), Fatal> {
        let log = walk.log;
        let partition = self.logs.get_mut(log);
        partition.end_operation();
        let goes_on = !partition.removing && (partition.restarting.is_none() || walk.is_for_restart());
        if goes_on && error == DiskError::NotFound && walk.index_is_missing() {
            return self.walk_on(walk, ops, progress);
        }
        if goes_on && walk.is_for_restart() {
            let why = format!("its segment {} cannot be read: {error}", walk.segment());
            return self.cut(log, walk.boundary_of_damaged(why), progress);
        }
        progress.push(walk.failed(error));
        self.finish_removal(log);
        Ok(())
    }

    /// Takes a walk as far as it goes, and does what follows from its end.
    pub(super) fn walk_on(&mut self, walk: Walk, ops: &mut Ops, progress: &mut Vec<Progress>) -> Result<(), Fatal> {
        let log = walk.log;
        match self.walk(walk, ops) {
            Ok((_, Outcome::Boundary(boundary))) => return self.cut(log, boundary, progress),
            Ok((token, outcome)) => progress.push(outcome.into_progress(token)),
            Err(_) => {}
        }
        Ok(())
    }

    /// A file or directory is gone.
    fn on_removed(&mut self, log: Option<LogId>, op: Option<DiskOp>) {
        self.removals.ended();
        let Some(DiskOp::Remove { path }) = op else { unreachable!("it was kept, to be tried again") };
        // Another log may be in its place by now: of that it is no file.
        let Some(log) = log.filter(|log| self.logs.is_live(*log)) else { return };
        let partition = self.logs.get_mut(log);
        // A file of one name may have to go more than once: each removal that is under way is waited for.
        if let Some(at) = partition.doomed.iter().position(|doomed| *doomed == path) {
            partition.doomed.swap_remove(at);
            self.logs.enqueue(log);
        }
    }

    /// A checkpoint has taken the place of the last one.
    fn on_checkpoint_published(&mut self, op: Option<DiskOp>) {
        let Some(DiskOp::Replace { data, .. }) = op else { unreachable!("a checkpoint replaces a file") };
        let covered = self.checkpoints.published(data);
        self.journal.checkpoint_published(covered);
        self.stats.checkpoints += 1;
    }

    /// A write to a segment has ended: memory of the tail may be evicted, and the segment goes on with the next step.
    fn write_ended(&mut self, log: LogId) {
        self.logs.note_evictable(log);
        self.logs.enqueue(log);
    }
}

fn data(reply: DiskReply) -> Bytes {
    let DiskReply::Data(data) = reply else { unreachable!("a read answers with data") };
    data
}
