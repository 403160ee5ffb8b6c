//! Reads that the tail cannot answer: from a position that the sparse index gives, batch by batch, through memory and
//! disk, until what is looked for is found. A walk owns what it has read and says what it wants to read next, so it can
//! wait for the disk without holding anything.

use bytes::Bytes;

use crate::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use crate::disk::{DiskError, DiskOp};
use crate::index::SparseIndex;
use crate::partition_log::{PartitionLog, index_path};
use crate::records;
use crate::shard_log::{LogId, Progress, ReadPart, ReadPlan, ReadToken, TimeFound, TimeQuery};

/// One read of headers on the way to a batch.
const STEP_BYTES: usize = 16 << 10;
/// One read while an index is rebuilt from its segment.
const REBUILD_STEP_BYTES: usize = 1 << 20;
/// The largest index file that is read; a larger one is rebuilt.
const INDEX_FILE_BYTES_MAX: usize = 1 << 20;

/// What a walk looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The batch that contains `offset`, and what follows it.
    Offset { offset: i64, until_offset: i64, bytes_max: usize },
    /// A record by its time.
    Time { query: TimeQuery, until_offset: i64 },
}

/// What a walk has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Plan(ReadPlan),
    Time(Option<TimeFound>),
    /// The bytes at a batch's place are no batch.
    Corrupt(&'static str, bool),
}

impl Outcome {
    pub fn into_progress(self, token: ReadToken) -> Progress {
        match self {
            Outcome::Plan(plan) => Progress::ReadDone { token, result: Ok(plan) },
            Outcome::Time(found) => Progress::TimeDone { token, result: Ok(found) },
            Outcome::Corrupt(why, true) => {
                Progress::ReadDone { token, result: Err(DiskError::Failed(why.to_string())) }
            }
            Outcome::Corrupt(why, false) => {
                Progress::TimeDone { token, result: Err(DiskError::Failed(why.to_string())) }
            }
        }
    }
}

/// What a walk needs to go on.
pub(crate) enum Step {
    Done(Outcome),
    Read(DiskOp),
}

/// What the last read was for.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Index,
    Bytes,
}

/// A walk under way.
#[derive(Debug)]
pub(crate) struct Walk {
    pub token: ReadToken,
    pub log: LogId,
    /// (segment, bytes of memory) of an index that this walk has put into its segment.
    pub loaded_index: Option<(i64, usize)>,
    goal: Goal,
    /// Base offset of the segment walked, and where the next batch begins in it.
    segment: i64,
    position: Option<u64>,
    /// Bytes read, and where they lie in the segment.
    buffer: Bytes,
    buffer_position: u64,
    rebuilding: Option<SparseIndex>,
    wait: Wait,
}

impl Walk {
    pub fn new(token: ReadToken, log: LogId, goal: Goal, partition: &PartitionLog) -> Walk {
        let first = match goal {
            Goal::Offset { offset, .. } => partition.segment_containing(offset),
            Goal::Time { query, .. } => segment_for_time(partition, query).unwrap_or(0),
        };
        Walk {
            token,
            log,
            loaded_index: None,
            goal,
            segment: partition.segments[first].base_offset,
            position: None,
            buffer: Bytes::new(),
            buffer_position: 0,
            rebuilding: None,
            wait: Wait::Nothing,
        }
    }

    /// The answer to the last [`Step::Read`].
    pub fn supply(&mut self, data: Bytes) {
        self.buffer = data;
    }

    /// The index file is missing: the walk goes on by rebuilding it. `false` if something else was missing.
    pub fn index_is_missing(&mut self) -> bool {
        let is_index = self.wait == Wait::Index;
        self.buffer = Bytes::new();
        is_index
    }

    /// The walk cannot go on.
    pub fn failed(self, error: DiskError) -> Progress {
        match self.goal {
            Goal::Offset { .. } => Progress::ReadDone { token: self.token, result: Err(error) },
            Goal::Time { .. } => Progress::TimeDone { token: self.token, result: Err(error) },
        }
    }

    /// Goes as far as memory and what was supplied allow.
    pub fn step(&mut self, partition: &mut PartitionLog) -> Step {
        if let Goal::Time { query, .. } = self.goal
            && segment_for_time(partition, query).is_none()
        {
            return Step::Done(Outcome::Time(None));
        }
        loop {
            // The segment may have been removed by retention since the last step.
            let Some(segment) = partition.segment(self.segment) else { return self.not_found() };
            let (path, bytes, readable) = (segment.path.clone(), segment.bytes, segment.readable());
            let Some(position) = self.position else {
                match self.start_position(partition) {
                    Some(step) => return step,
                    None => continue,
                }
            };
            if position >= bytes {
                let index = partition.segment_containing(self.segment);
                match partition.segments.get(index + 1) {
                    Some(next) if self.goes_on_in(next.base_offset) => {
                        self.segment = next.base_offset;
                        self.position = None;
                        self.buffer = Bytes::new();
                        self.wait = Wait::Nothing;
                        continue;
                    }
                    _ => return self.not_found(),
                }
            }
            let Some(available) = self.bytes_at(partition, position) else {
                return self.read(path, position, STEP_BYTES.min((readable - position) as usize));
            };
            let Some(header) = BatchHeader::read(&available) else {
                return self.read_more(path, position, STEP_BYTES, available.len(), readable);
            };
            let Ok(batch_bytes) = header.batch_bytes() else { return self.corrupt("a batch has an impossible length") };
            if position + batch_bytes as u64 > bytes {
                return self.corrupt("a batch reaches past the end of its segment");
            }
            match self.goal {
                Goal::Offset { offset, until_offset, bytes_max } => {
                    if header.last_offset() >= offset {
                        return Step::Done(Outcome::Plan(plan(
                            partition,
                            self.segment,
                            position,
                            batch_bytes,
                            (header.base_offset(), until_offset, bytes_max),
                        )));
                    }
                }
                Goal::Time { query, until_offset } => {
                    if header.base_offset() >= until_offset {
                        return Step::Done(Outcome::Time(None));
                    }
                    let log_start = partition.log_start;
                    let wanted = match query {
                        TimeQuery::AtOrAfter(timestamp) => timestamp,
                        TimeQuery::Max => self.max_timestamp(partition),
                    };
                    if header.max_timestamp() >= wanted && header.last_offset() >= log_start {
                        if available.len() < batch_bytes {
                            return self.read_more(path, position, batch_bytes, available.len(), readable);
                        }
                        let found = match query {
                            TimeQuery::AtOrAfter(timestamp) => {
                                first_at_or_after(&available[..batch_bytes], timestamp, log_start)
                            }
                            TimeQuery::Max => records::max_timestamp(&available[..batch_bytes]).map(Some),
                        };
                        match found {
                            Ok(Some((offset, timestamp))) => {
                                let leader_epoch = header.leader_epoch();
                                let found = TimeFound { offset, timestamp, leader_epoch };
                                return Step::Done(Outcome::Time((offset < until_offset).then_some(found)));
                            }
                            // The header promised more than its records hold: look on.
                            Ok(None) => {}
                            Err(_) => return self.corrupt("a batch cannot be decoded"),
                        }
                    }
                }
            }
            self.position = Some(position + batch_bytes as u64);
        }
    }

    /// Where to begin in the current segment: from its index, which is loaded or rebuilt first if it is not in memory.
    fn start_position(&mut self, partition: &mut PartitionLog) -> Option<Step> {
        let key = partition.key;
        let directory = partition.directory.clone();
        let max_timestamp = self.max_timestamp(partition);
        let segment = partition.segment_mut(self.segment).expect("checked by the caller");
        if let Some(index) = &segment.index {
            self.position = Some(match self.goal {
                Goal::Offset { offset, .. } => index.lookup_offset(offset),
                Goal::Time { query: TimeQuery::AtOrAfter(timestamp), .. } => index.lookup_time(timestamp),
                Goal::Time { query: TimeQuery::Max, .. } => index.lookup_time(max_timestamp),
            });
            return None;
        }
        if self.wait == Wait::Nothing {
            self.wait = Wait::Index;
            let path = index_path(&directory, self.segment);
            return Some(Step::Read(DiskOp::Read { path, position: 0, bytes: INDEX_FILE_BYTES_MAX }));
        }
        if self.wait == Wait::Index {
            match SparseIndex::decode(&self.buffer, key, self.segment) {
                Ok(index) if index.covered_bytes() == segment.bytes => {
                    self.loaded_index = Some((self.segment, index.memory_bytes()));
                    segment.index = Some(index);
                    self.buffer = Bytes::new();
                    return None;
                }
                _ => {
                    self.rebuilding = Some(SparseIndex::new(self.segment, partition.config.index_interval_bytes));
                    self.buffer = Bytes::new();
                    self.buffer_position = 0;
                    self.wait = Wait::Bytes;
                }
            }
        }
        self.rebuild(partition)
    }

    /// Feeds the batches just read to the index being rebuilt, and reads on.
    fn rebuild(&mut self, partition: &mut PartitionLog) -> Option<Step> {
        let segment = partition.segment_mut(self.segment).expect("checked by the caller");
        let index = self.rebuilding.as_mut().expect("a rebuild is under way");
        let mut position = index.covered_bytes();
        let read_to = self.buffer_position + self.buffer.len() as u64;
        while position < segment.bytes {
            let start = position.checked_sub(self.buffer_position).map_or(usize::MAX, |start| start as usize);
            let Some(header) = self.buffer.get(start..).and_then(BatchHeader::read) else { break };
            match header.batch_bytes() {
                Ok(bytes) if position + bytes as u64 <= segment.bytes => {
                    index.note(header, position);
                    position += bytes as u64;
                }
                _ => return Some(self.corrupt("a batch has an impossible length")),
            }
        }
        if position == segment.bytes {
            let index = self.rebuilding.take().expect("seen above");
            self.loaded_index = Some((self.segment, index.memory_bytes()));
            segment.index = Some(index);
            self.buffer = Bytes::new();
            return None;
        }
        if read_to > position && self.buffer_position == position && self.buffer.len() >= BATCH_HEADER_BYTES {
            return Some(self.corrupt("a segment ends too early"));
        }
        let bytes = REBUILD_STEP_BYTES.min((segment.bytes - position) as usize);
        self.buffer_position = position;
        Some(Step::Read(DiskOp::Read { path: segment.path.clone(), position, bytes }))
    }

    fn max_timestamp(&self, partition: &PartitionLog) -> i64 {
        partition.segments.iter().map(|segment| segment.max_timestamp).max().unwrap_or(-1)
    }

    /// Whether the search continues in the segment after the one walked.
    fn goes_on_in(&self, base_offset: i64) -> bool {
        match self.goal {
            Goal::Offset { until_offset, .. } | Goal::Time { until_offset, .. } => base_offset < until_offset,
        }
    }

    fn bytes_at(&self, partition: &PartitionLog, position: u64) -> Option<Bytes> {
        partition.tail.at(self.segment, position).or_else(|| {
            let start = usize::try_from(position.checked_sub(self.buffer_position)?).ok()?;
            (start < self.buffer.len()).then(|| self.buffer.slice(start..))
        })
    }

    fn read(&mut self, path: crate::FilePath, position: u64, bytes: usize) -> Step {
        self.wait = Wait::Bytes;
        self.buffer_position = position;
        Step::Read(DiskOp::Read { path, position, bytes })
    }

    /// What is available ends within the batch at `position`.
    fn read_more(&mut self, path: crate::FilePath, position: u64, bytes: usize, available: usize, end: u64) -> Step {
        let bytes = bytes.min(end.saturating_sub(position) as usize);
        if available >= bytes {
            return self.corrupt("a segment ends within a batch");
        }
        self.read(path, position, bytes)
    }

    fn not_found(&self) -> Step {
        Step::Done(match self.goal {
            Goal::Offset { .. } => Outcome::Plan(ReadPlan::default()),
            Goal::Time { .. } => Outcome::Time(None),
        })
    }

    fn corrupt(&self, why: &'static str) -> Step {
        Step::Done(Outcome::Corrupt(why, matches!(self.goal, Goal::Offset { .. })))
    }
}

/// The first record of a batch at or after a time, among those that may be read.
fn first_at_or_after(batch: &[u8], timestamp: i64, log_start: i64) -> Result<Option<(i64, i64)>, BatchError> {
    match records::first_at_or_after(batch, timestamp)? {
        // Part of the batch lies below the log start (DeleteRecords): look among the rest.
        Some((offset, _)) if offset < log_start => {
            let open = records::OpenBatch::new(batch)?;
            for record in open.records() {
                let record = record?;
                let (offset, at) = (open.offset(&record), open.timestamp(&record));
                if offset >= log_start && at >= timestamp {
                    return Ok(Some((offset, at)));
                }
            }
            Ok(None)
        }
        found => Ok(found),
    }
}

/// The first segment that can hold the record looked for.
fn segment_for_time(partition: &PartitionLog, query: TimeQuery) -> Option<usize> {
    let wanted = match query {
        TimeQuery::AtOrAfter(timestamp) => timestamp,
        TimeQuery::Max => partition.segments.iter().map(|segment| segment.max_timestamp).max()?,
    };
    partition.segments.iter().position(|segment| segment.bytes > 0 && segment.max_timestamp >= wanted)
}

/// The file range from a batch to the end of what its segment's file holds, or the slices of the tail.
fn plan(
    partition: &PartitionLog,
    segment: i64,
    position: u64,
    first_batch_bytes: usize,
    (base_offset, until_offset, bytes_max): (i64, i64, usize),
) -> ReadPlan {
    if base_offset >= until_offset {
        return ReadPlan::default();
    }
    if partition.is_in_memory(base_offset) {
        return partition.read(base_offset, until_offset, bytes_max);
    }
    let found = partition.segment(segment).expect("walked just now");
    let bytes = bytes_max.max(first_batch_bytes).min((found.readable() - position) as usize);
    ReadPlan { parts: vec![ReadPart::File { path: found.path.clone(), position, bytes }], bytes, first_batch_bytes }
}
