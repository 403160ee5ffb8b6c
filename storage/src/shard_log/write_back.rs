//! From the journal to the segments: space ahead, write-back, sync, closing. Bounded steps, each started by the end of the
//! one before.

use super::operations::Purpose;
use super::{LogId, Ops, ShardLog};
use crate::disk::DiskOp;
use crate::segment::{FileNeed, Standing};

/// Partitions being written back, synced or closed at once.
const WRITE_BACKS_MAX: usize = 16;

impl ShardLog {
    /// The third part of [`ShardLog::end_turn`]: starts what the segments need. Returns whether there was anything to do.
    pub fn advance_write_back(&mut self, ops: &mut Ops) -> bool {
        let queued = self.logs.queued();
        for _ in 0..queued {
            if self.write_backs >= WRITE_BACKS_MAX {
                break;
            }
            let Some(log) = self.logs.next_queued() else { break };
            self.advance_partition(log, ops);
        }
        queued > 0
    }

    /// Starts the next step that a partition's segments need, oldest segment first; one step at a time.
    fn advance_partition(&mut self, log: LogId, ops: &mut Ops) {
        if self.logs.get(log).removing || self.logs.get(log).holds_operations() {
            return;
        }
        self.drop_segments_below_start(log);
        let partition = self.logs.get(log);
        let first_open = partition.first_open();
        let count = partition.segments().len();
        for index in first_open..count {
            let partition = self.logs.get(log);
            let standing = Standing {
                is_active: index + 1 == count,
                is_first_open: index == first_open,
                segment_bytes_max: partition.config.segment_bytes,
            };
            let segment = &partition.segments()[index];
            match segment.need(standing) {
                FileNeed::Nothing => {}
                need => return self.meet(log, segment.base_offset, need, ops),
            }
        }
    }

    /// Starts what a segment needs.
    fn meet(&mut self, log: LogId, base: i64, need: FileNeed, ops: &mut Ops) {
        let partition = self.logs.get_mut(log);
        if matches!(need, FileNeed::Create { .. }) && !partition.directory_created {
            if !std::mem::replace(&mut partition.creating_directory, true) {
                let path = partition.directory.as_ref().into();
                self.start(Purpose::CreateDirectory { log }, log, DiskOp::CreateDirectory { path }, ops);
            }
            return;
        }
        if matches!(need, FileNeed::Create { .. }) && partition.is_doomed(base) {
            // When the old files are removed it goes on.
            return;
        }
        let (tail, segment) = partition.tail_and_segment(base);
        let path = segment.path.clone();
        let (purpose, op) = match need {
            FileNeed::Nothing | FileNeed::Wait => return,
            FileNeed::Create { bytes } | FileNeed::Reserve { bytes } => {
                segment.begin_allocate();
                (Purpose::Allocate { log, segment: base, bytes }, DiskOp::Allocate { path, bytes })
            }
            FileNeed::LoadRemainder { position, bytes } => {
                segment.begin_load();
                (Purpose::LoadRemainder { log, segment: base }, DiskOp::Read { path, position, bytes })
            }
            FileNeed::WriteBack { to } => {
                self.stats.write_backs += 1;
                self.stats.write_back_bytes += to - segment.written();
                let (op, remainder) = segment.begin_write(tail, to, false);
                (Purpose::WriteBack { log, segment: base, to, remainder }, op)
            }
            FileNeed::Sync { to } => {
                segment.begin_sync();
                (Purpose::Sync { log, segment: base, to }, DiskOp::Sync { path })
            }
            FileNeed::Close { bytes } => {
                segment.begin_close();
                (Purpose::CloseTruncate { log, segment: base }, DiskOp::Truncate { path, bytes })
            }
        };
        self.start(purpose, log, op, ops);
    }

    /// Submits an operation on a partition's files; [`ShardLog::operation_ended`] is called when it has ended.
    pub(super) fn start(&mut self, purpose: Purpose, log: LogId, op: DiskOp, ops: &mut Ops) {
        self.logs.get_mut(log).begin_operation();
        self.write_backs += 1;
        self.operations.submit(purpose, op, ops);
    }

    /// An operation of [`ShardLog::start`] has ended: the partition goes on with the next.
    pub(super) fn operation_ended(&mut self, log: LogId) {
        self.logs.get_mut(log).end_operation();
        assert!(self.write_backs > 0, "an operation ends that did not begin");
        self.write_backs -= 1;
        self.logs.enqueue(log);
        self.finish_removal(log);
    }
}
