//! From the journal to the segments: write-back, sync, closing, space ahead, retention, removal, eviction. Bounded
//! steps, each started by the end of the one before.

use super::*;

/// A partition is written back when this much of it is durable only in the journal.
pub(super) const WRITE_BACK_BYTES_MIN: u64 = 256 << 10;

/// The largest single write of write-back.
const WRITE_BACK_BYTES_MAX: u64 = 1 << 20;

/// Partitions being written back, synced or closed at once.
const WRITE_BACKS_MAX: usize = 16;

/// A segment's file grows by steps that double, from this...
const ALLOCATE_BYTES_MIN: u64 = 64 << 10;

/// ...to this.
const ALLOCATE_BYTES_MAX: u64 = 64 << 20;

/// Partitions that one turn examines for retention and expired producers.
const SWEEP_PARTITIONS_MAX: usize = 64;

impl ShardLog {
    pub(super) fn enqueue(&mut self, log: LogId) {
        let partition = self.log_mut(log);
        if !partition.is_queued {
            partition.is_queued = true;
            self.write_back.push_back(log);
        }
    }

    /// The third part of [`ShardLog::end_turn`]: starts what the segments need.
    pub fn advance_write_back(&mut self, ops: &mut Ops) -> bool {
        let is_due = !self.write_back.is_empty();
        for _ in 0..self.write_back.len() {
            if self.write_backs >= WRITE_BACKS_MAX {
                break;
            }
            let Some(log) = self.write_back.pop_front() else { break };
            self.log_mut(log).is_queued = false;
            self.advance_partition(log, ops);
        }
        is_due
    }

    /// Starts the next step that a partition's segments need, oldest segment first; one step at a time.
    pub(super) fn advance_partition(&mut self, log: LogId, ops: &mut Ops) {
        let partition = self.logs[log.0 as usize].as_mut().expect("queued logs are live");
        if partition.removing {
            return;
        }
        if partition.has_segments_below_start() {
            self.encode_log(log);
        }
        let partition = self.logs[log.0 as usize].as_mut().expect("seen above");
        let dropped = partition.drop_segments_below_start();
        if !dropped.is_empty() {
            let first = partition.segments[0].base_offset;
            self.tail_bytes -= partition.tail.drop_before(first, &mut self.pool);
            self.stats.segments_removed += dropped.len() as u64;
            self.remove_segments(log, dropped);
        }
        let partition = self.logs[log.0 as usize].as_mut().expect("seen above");
        let last = partition.segments.len() - 1;
        let first_open = partition.first_open();
        for index in first_open..partition.segments.len() {
            let directory_created = partition.directory_created;
            let segment = &mut partition.segments[index];
            if segment.is_busy() {
                return;
            }
            // An extent is written before its group is durable.
            let pending = segment.durable.saturating_sub(segment.written);
            let wants_write = pending >= WRITE_BACK_BYTES_MIN
                || (pending > 0 && (index < last || segment.written < segment.drain_to));
            let (base, path) = (segment.base_offset, segment.path.clone());
            if segment.file == FileState::Absent && (segment.bytes > 0 || index < last) {
                if !directory_created {
                    if !partition.creating_directory {
                        partition.creating_directory = true;
                        let path = partition.directory.as_ref().into();
                        self.start(Purpose::CreateDirectory { log }, log, DiskOp::CreateDirectory { path }, ops);
                    }
                    return;
                }
                segment.file = FileState::Creating;
                segment.allocating = true;
                let bytes = ALLOCATE_BYTES_MIN.max(segment.bytes.next_power_of_two().min(ALLOCATE_BYTES_MAX));
                let purpose = Purpose::Allocate { log, segment: base, bytes };
                self.start(purpose, log, DiskOp::Allocate { path, bytes }, ops);
                return;
            }
            if segment.file != FileState::Present {
                return;
            }
            if segment.remainder.is_none() && segment.bytes > segment.written {
                // Only after a restart: the bytes before the first new one, up to the block boundary.
                let position = segment.written - segment.written % BLOCK_BYTES as u64;
                let bytes = (segment.written - position) as usize;
                segment.writing = true;
                let purpose = Purpose::LoadRemainder { log, segment: base };
                self.start(purpose, log, DiskOp::Read { path, position, bytes }, ops);
                return;
            }
            if wants_write {
                let to = segment.durable.min(segment.written + WRITE_BACK_BYTES_MAX);
                self.stats.write_backs += 1;
                self.stats.write_back_bytes += to - segment.written;
                let (op, remainder) = write_to(&mut partition.segments[index], &partition.tail, to, false);
                self.start(Purpose::WriteBack { log, segment: base, to, remainder }, log, op, ops);
                return;
            }
            if segment.drain_to > segment.synced && segment.written >= segment.drain_to {
                segment.syncing = true;
                let to = segment.written;
                self.start(Purpose::Sync { log, segment: base, to }, log, DiskOp::Sync { path }, ops);
                return;
            }
            // In order, or `first_open` would pass one over for ever: the end of the one before may not be durable yet.
            if index < last && index == first_open && segment.written == segment.bytes {
                segment.closing = true;
                let bytes = segment.bytes;
                let purpose = Purpose::CloseTruncate { log, segment: base };
                self.start(purpose, log, DiskOp::Truncate { path, bytes }, ops);
                return;
            }
            if segment.wants_space(index == last) {
                let bytes = (segment.allocated * 2)
                    .clamp(ALLOCATE_BYTES_MIN, segment.allocated + ALLOCATE_BYTES_MAX)
                    .min(partition.config.segment_bytes.next_multiple_of(BLOCK_BYTES as u64))
                    .max(segment.bytes.next_multiple_of(BLOCK_BYTES as u64));
                if bytes > segment.allocated {
                    segment.allocating = true;
                    let purpose = Purpose::Allocate { log, segment: base, bytes };
                    self.start(purpose, log, DiskOp::Allocate { path, bytes }, ops);
                }
                return;
            }
        }
    }

    /// Submits an operation on a partition's files.
    pub(super) fn start(&mut self, purpose: Purpose, log: LogId, op: DiskOp, ops: &mut Ops) {
        self.log_mut(log).operations += 1;
        self.write_backs += 1;
        self.submit(purpose, op, ops);
    }

    /// Has the files of segments that a partition does not have any more removed, when nobody reads them any more.
    pub(super) fn remove_segments(&mut self, log: LogId, segments: Vec<Segment>) {
        let partition = self.log(log);
        let delay = Duration::from_millis(partition.config.file_delete_delay_ms.max(0) as u64);
        let directory = partition.directory.clone();
        for segment in segments {
            self.remove_later(delay, index_path(&directory, segment.base_offset, segment.version));
            self.remove_later(delay, segment.path);
        }
    }

    fn remove_later(&mut self, delay: Duration, path: FilePath) {
        // Due times are relative to the last sweep's clock reading; all delays of a broker are nearly the same, so the
        // queue stays in order well enough.
        self.removals.push_back((self.clock + delay, path));
    }

    pub(super) fn evict(&mut self) {
        while self.tail_bytes > self.options.tail_memory_bytes_max {
            let Some(log) = self.evictable.pop_front() else { break };
            let partition = self.logs[log.0 as usize].as_mut().expect("evictable logs are live");
            if let Some(capacity) = partition.evict_front(&mut self.pool) {
                self.tail_bytes -= capacity;
            }
        }
    }

    /// A bounded step of retention and producer expiry.
    pub(super) fn sweep(&mut self, now: Now) {
        let end = (self.sweep_cursor + SWEEP_PARTITIONS_MAX).min(self.logs.len());
        let steady_ms = self.steady_ms(now);
        for index in self.sweep_cursor..end {
            let Some(partition) = self.logs[index].as_mut().filter(|partition| !partition.removing) else { continue };
            let producers = partition.producers.len();
            partition.producers.expire(steady_ms, self.options.producer_expiration_ms);
            self.producers -= producers - partition.producers.len();
            let start = partition.retention_start(now.unix_ms);
            if start > partition.log_start {
                self.delete_records(LogId(index as u32), start);
            }
        }
        self.sweep_cursor = end;
        self.sweep_at = now.elapsed + Duration::from_millis(1);
        if end == self.logs.len() {
            self.sweep_cursor = 0;
            self.sweep_at = now.elapsed + self.options.retention_check_interval;
        }
    }
}

/// The write that brings a segment's file up to `to`, from the last block boundary, and the remainder it leaves.
pub(super) fn write_to(
    segment: &mut crate::partition_log::Segment,
    tail: &crate::tail::Tail,
    to: u64,
    durable: bool,
) -> (DiskOp, Vec<u8>) {
    let remainder = segment.remainder.as_ref().expect("loaded before the first write");
    let position = segment.written - segment.written % BLOCK_BYTES as u64;
    let data = tail.disk_parts(segment.base_offset, segment.written, to, remainder);
    let left = last_bytes(&data, (to % BLOCK_BYTES as u64) as usize);
    segment.writing = true;
    (DiskOp::Write { path: segment.path.clone(), position, data, durable }, left)
}

/// A copy of the last `count` bytes of slices that lie back to back.
fn last_bytes(slices: &[Bytes], count: usize) -> Vec<u8> {
    let mut missing = count;
    let mut pieces = Vec::new();
    for slice in slices.iter().rev() {
        let take = missing.min(slice.len());
        pieces.push(&slice[slice.len() - take..]);
        missing -= take;
        if missing == 0 {
            break;
        }
    }
    assert_eq!(missing, 0);
    pieces.into_iter().rev().flatten().copied().collect()
}
