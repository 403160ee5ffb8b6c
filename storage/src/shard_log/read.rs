//! Reads: of a range of offsets, for fetches, and of a record by its time. What is in memory is answered at once; the rest
//! is a `Walk` that may wait for the disk.

use std::collections::VecDeque;

use super::operations::Purpose;
use super::plan::{ReadPart, ReadPlan};
use super::{LogId, Ops, ShardLog};
use crate::disk::DiskError;
use crate::walk::{Goal, Outcome, Reach, Step, Walk};

/// Memory of indexes of closed segments that were loaded for cold reads.
const LOADED_INDEX_BYTES_MAX: usize = 32 << 20;

/// Names a read that has to wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadToken(pub u64);

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The answer.
    Ready(ReadPlan),
    /// It needs the disk: [`super::Progress::ReadDone`] will carry this token.
    Pending(ReadToken),
}

/// What `ListOffsets` looks for by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeQuery {
    /// The first record whose timestamp is at or after this one.
    AtOrAfter(i64),
    /// The record with the largest timestamp (KIP-734), the first of them.
    Max,
}

/// The record found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeFound {
    /// The record's offset.
    pub offset: i64,
    /// The record's timestamp, milliseconds.
    pub timestamp: i64,
    /// The leader epoch of its batch.
    pub leader_epoch: i32,
}

/// The result of a time query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLookup {
    /// Known at once: the record, or none.
    Ready(Option<TimeFound>),
    /// It needs the disk: [`super::Progress::TimeDone`] will carry this token.
    Pending(ReadToken),
}

/// Indexes of closed segments in memory, oldest first: the log, the segment's base offset, and the index's bytes.
#[derive(Debug, Default)]
pub(super) struct LoadedIndexes {
    indexes: VecDeque<(LogId, i64, usize)>,
    bytes: usize,
}

impl LoadedIndexes {
    fn add(&mut self, log: LogId, segment: i64, bytes: usize) {
        self.indexes.push_back((log, segment, bytes));
        self.bytes += bytes;
    }

    /// The oldest, if there are too many; the newest stays.
    fn take_excess(&mut self) -> Option<(LogId, i64)> {
        if self.bytes <= LOADED_INDEX_BYTES_MAX || self.indexes.len() <= 1 {
            return None;
        }
        let (log, segment, bytes) = self.indexes.pop_front()?;
        self.bytes -= bytes;
        Some((log, segment))
    }

    /// Segments of a log of which `is_there` says no have no indexes any more, or others.
    pub fn forget_of(&mut self, log: LogId, is_there: impl Fn(i64) -> bool) {
        self.indexes.retain(|&(of, segment, bytes)| {
            let is_kept = of != log || is_there(segment);
            self.bytes -= if is_kept { 0 } else { bytes };
            is_kept
        });
    }

    /// Logs that are gone have no indexes any more.
    pub fn forget(&mut self, is_live: impl Fn(LogId) -> bool) {
        self.indexes.retain(|&(log, _, bytes)| {
            self.bytes -= if is_live(log) { 0 } else { bytes };
            is_live(log)
        });
    }
}

impl ShardLog {
    /// Reads from the batch that contains `offset` up to, not including, the batch that contains `until_offset`: at
    /// most `bytes_max`, but at least the first batch, and nothing that is not committed. The caller has checked
    /// `log_start <= offset <= log_end`. What is committed while the read waits for the disk may be in the answer, too.
    pub fn read(&mut self, log: LogId, offset: i64, until_offset: i64, bytes_max: usize, ops: &mut Ops) -> Read {
        let until_offset = until_offset.min(self.logs.get(log).committed());
        self.read_as(log, Goal::Offset { offset, until_offset, bytes_max, reach: Reach::Committed }, ops)
    }

    /// The same for a follower that is so far behind that what it needs has left memory: up to the log's end, whatever is
    /// committed.
    pub fn read_for_catch_up(&mut self, log: LogId, from: i64, bytes_max: usize, ops: &mut Ops) -> Read {
        let until_offset = self.logs.get(log).log_end();
        self.read_as(log, Goal::Offset { offset: from, until_offset, bytes_max, reach: Reach::LogEnd }, ops)
    }

    /// Whole batches from the one containing `from` on, committed or not, for followers: at most `bytes_max`, but at least one
    /// unless there is nothing there yet. `None`: they are not in memory. The caller has checked `from <= log_end`.
    pub fn read_uncommitted(&mut self, log: LogId, from: i64, bytes_max: usize) -> Option<ReadPlan> {
        let partition = self.logs.get(log);
        assert!(from <= partition.log_end(), "the caller has checked the offset");
        if from == partition.log_end() {
            return Some(ReadPlan::default());
        }
        let plan = partition.is_in_memory(from).then(|| partition.tail.read_whole(from, bytes_max))??;
        plan.assert_sound();
        self.stats.memory_reads += 1;
        Some(plan)
    }

    fn read_as(&mut self, log: LogId, goal: Goal, ops: &mut Ops) -> Read {
        let Goal::Offset { offset, until_offset, bytes_max, .. } = goal else { unreachable!("a range is read") };
        let partition = self.logs.get(log);
        assert!(offset <= partition.log_end(), "the caller has checked the offset");
        if partition.is_in_memory(offset) || offset >= until_offset {
            let plan = partition.read(offset, until_offset, bytes_max);
            plan.assert_sound();
            self.stats.memory_reads += u64::from(plan.bytes > 0);
            return Read::Ready(plan);
        }
        let token = self.next_read();
        let walk = Walk::new(token, log, goal, self.logs.get(log));
        match self.walk_unless_restarting(walk, ops) {
            Ok((_, Outcome::Plan(plan))) => Read::Ready(plan),
            Ok(_) => unreachable!("a walk to an offset ends in a plan"),
            Err(token) => Read::Pending(token),
        }
    }

    /// Finds a record by time among those below `until_offset` that are committed.
    pub fn find_time(&mut self, log: LogId, query: TimeQuery, until_offset: i64, ops: &mut Ops) -> TimeLookup {
        let until_offset = until_offset.min(self.logs.get(log).committed());
        let token = self.next_read();
        let walk = Walk::new(token, log, Goal::Time { query, until_offset }, self.logs.get(log));
        match self.walk_unless_restarting(walk, ops) {
            Ok((_, Outcome::Time(found))) => TimeLookup::Ready(found),
            Ok(_) => unreachable!("a walk by time ends in a record or none"),
            Err(token) => TimeLookup::Pending(token),
        }
    }

    /// A log that is being restarted begins no operation: what would need one is answered as if its segment were gone.
    fn walk_unless_restarting(&mut self, walk: Walk, ops: &mut Ops) -> Result<(ReadToken, Outcome), ReadToken> {
        if !self.is_restarting(walk.log) {
            return self.walk(walk, ops);
        }
        let token = walk.token;
        self.refused.push(walk.failed(DiskError::NotFound));
        Err(token)
    }

    pub(super) fn next_read(&mut self) -> ReadToken {
        self.last_read += 1;
        ReadToken(self.last_read)
    }

    /// Takes a walk as far as it goes without the disk. `Err`: it waits for it.
    pub(super) fn walk(&mut self, mut walk: Walk, ops: &mut Ops) -> Result<(ReadToken, Outcome), ReadToken> {
        let token = walk.token;
        let log = walk.log;
        // Walks count as operations of their log: it is there.
        let partition = self.logs.get_mut(log);
        match walk.step(partition) {
            Step::Done(outcome) => {
                self.stats.damaged_reads += u64::from(matches!(outcome, Outcome::Corrupt(..)));
                if let Outcome::Plan(plan) = &outcome {
                    plan.assert_sound();
                    let is_file = matches!(plan.parts.first(), Some(ReadPart::File { .. }));
                    self.stats.file_reads += u64::from(is_file);
                    self.stats.memory_reads += u64::from(!is_file);
                }
                if let Some((segment, bytes)) = walk.loaded_index.take() {
                    self.keep_index(log, segment, bytes);
                }
                Ok((token, outcome))
            }
            Step::Read(op) => {
                partition.begin_operation();
                self.stats.disk_reads += 1;
                self.operations.submit(Purpose::Walk(Box::new(walk)), op, ops);
                Err(token)
            }
        }
    }

    /// Accounts for the index of a closed segment that is in memory; the oldest loaded go out.
    pub(super) fn keep_index(&mut self, log: LogId, segment: i64, bytes: usize) {
        self.loaded_indexes.add(log, segment, bytes);
        while let Some((log, segment)) = self.loaded_indexes.take_excess() {
            if let Some(segment) = self.logs.find_mut(log).and_then(|partition| partition.segment_mut(segment)) {
                segment.free_index();
            }
        }
    }
}
