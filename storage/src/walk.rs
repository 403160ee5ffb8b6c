//! Reads that the tail cannot answer: from a position that the sparse index gives, batch by batch, through memory and
//! disk, until what is looked for is found. A walk owns what it has read and says what it wants to read next, so it can
//! wait for the disk without holding anything.
//!
//! What it passes over is checked as far as the answer depends on it, or damage would make a consumer jump over records
//! without noticing: batches follow each other in their offsets, and a batch's times are believed when its checksum is
//! right. The records of the batches that it finds are the reader's to check.

use bytes::Bytes;

use crate::batch::{BatchError, BatchHeader, verify_crc};
use crate::bug::{Bug, is_planted};
use crate::disk::{DiskError, DiskOp, FilePath};
use crate::index::{INDEX_FILE_BYTES_MAX, SparseIndex};
use crate::partition_log::PartitionLog;
use crate::records;
use crate::segment::{Segment, index_path};
use crate::shard_log::{LogId, Progress, ReadPart, ReadPlan, ReadToken, TimeFound, TimeQuery};

/// One read of headers on the way to a batch.
const STEP_BYTES: usize = 16 << 10;
/// One read while an index is rebuilt from its segment.
const REBUILD_STEP_BYTES: usize = 1 << 20;

/// What a walk looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The batch that contains `offset`, and what follows it.
    Offset { offset: i64, until_offset: i64, bytes_max: usize, reach: Reach },
    /// A record by its time.
    Time { query: TimeQuery, until_offset: i64 },
    /// Where a log that is being restarted is cut, in the segment with this base offset: the first batch that does not end
    /// below `keep_below`.
    Boundary { segment: i64, keep_below: i64 },
}

/// How far a reader may read what lies in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A consumer: to what is committed by the time that the walk ends.
    Committed,
    /// A follower: to the log's end.
    LogEnd,
}

/// Where a log is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    /// The base offset of the segment that was searched; none if none had to be.
    pub segment: Option<i64>,
    /// What lies below stays: a batch begins here, or the log ends here.
    pub keep_below: i64,
    /// Where the segment ends then. 0: nothing of it stays.
    pub position: u64,
    /// The largest timestamp before, in that segment.
    pub max_timestamp: i64,
    /// Why the batch was not found, if the segment is damaged: nothing of the segment would stay.
    pub damage: Option<String>,
}

impl Boundary {
    /// No segment is cut.
    pub fn between_segments(keep_below: i64) -> Boundary {
        Boundary { segment: None, keep_below, position: 0, max_timestamp: -1, damage: None }
    }
}

/// What a walk has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Plan(ReadPlan),
    Time(Option<TimeFound>),
    Boundary(Boundary),
    /// The bytes at a batch's place are no batch.
    Corrupt(String, bool),
}

impl Outcome {
    pub fn into_progress(self, token: ReadToken) -> Progress {
        match self {
            Outcome::Plan(plan) => Progress::ReadDone { token, result: Ok(plan) },
            Outcome::Time(found) => Progress::TimeDone { token, result: Ok(found) },
            Outcome::Boundary(_) => unreachable!("nobody but the log asked for it"),
            Outcome::Corrupt(why, true) => Progress::ReadDone { token, result: Err(DiskError::Failed(why)) },
            Outcome::Corrupt(why, false) => Progress::TimeDone { token, result: Err(DiskError::Failed(why)) },
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
    /// Base offset of the segment walked, where the next batch begins in it, and that batch's base offset.
    segment: i64,
    version: u32,
    position: Option<u64>,
    next_offset: i64,
    /// Where the batch with the offset begins, and its length: the walk goes on to find where what may be read ends.
    found: Option<(u64, usize)>,
    /// On the way to a boundary: the largest timestamp so far in the segment.
    max_timestamp: i64,
    /// Bytes read, where they lie in the segment, and how many were asked for.
    buffer: Bytes,
    buffer_position: u64,
    asked_bytes: usize,
    rebuilding: Option<SparseIndex>,
    wait: Wait,
    /// The record with the largest timestamp so far, once a walk to the largest must look at every batch.
    scan: Option<Scan>,
}

/// A batch that a walk has come to.
struct Met<'a> {
    /// Its segment's file.
    path: FilePath,
    /// Where it begins in that.
    position: u64,
    /// How far the file may be read.
    readable: u64,
    header: &'a BatchHeader,
    /// Its bytes, as far as they are in memory.
    available: &'a Bytes,
    /// How many it has.
    batch_bytes: usize,
}

/// The batch with a segment's largest timestamp may lie below the log start or not be durable yet. Then the walk begins
/// again, at the log start, and remembers the best record.
#[derive(Debug, Default)]
struct Scan {
    best: Option<TimeFound>,
}

impl Scan {
    fn is_beaten_by(&self, timestamp: i64) -> bool {
        self.best.is_none_or(|best| timestamp > best.timestamp)
    }

    /// Looks at the records of a batch among the offsets that may be read.
    fn look_at(&mut self, batch: &[u8], log_start: i64, until_offset: i64) -> Result<(), BatchError> {
        let open = records::OpenBatch::new(batch)?;
        for record in open.records() {
            let record = record?;
            let (offset, timestamp) = (open.offset(&record), open.timestamp(&record));
            if (log_start..until_offset).contains(&offset) && self.is_beaten_by(timestamp) {
                self.best = Some(TimeFound { offset, timestamp, leader_epoch: open.header.leader_epoch() });
            }
        }
        Ok(())
    }
}

impl Walk {
    pub fn new(token: ReadToken, log: LogId, goal: Goal, partition: &PartitionLog) -> Walk {
        let first = match goal {
            Goal::Offset { offset, .. } => partition.segment_containing(offset),
            Goal::Time { query, .. } => segment_for_time(partition, query).unwrap_or(0),
            Goal::Boundary { segment, .. } => partition.segment_containing(segment),
        };
        Walk {
            token,
            log,
            loaded_index: None,
            goal,
            segment: partition.segments()[first].base_offset,
            version: partition.segments()[first].version,
            position: None,
            next_offset: 0,
            found: None,
            max_timestamp: i64::MIN,
            buffer: Bytes::new(),
            buffer_position: 0,
            asked_bytes: 0,
            rebuilding: None,
            wait: Wait::Nothing,
            scan: None,
        }
    }

    /// Goes on at the beginning of a segment.
    fn enter(&mut self, segment: &Segment) {
        self.segment = segment.base_offset;
        self.version = segment.version;
        self.position = None;
        self.found = None;
        self.buffer = Bytes::new();
        self.asked_bytes = 0;
        self.rebuilding = None;
        self.wait = Wait::Nothing;
    }

    /// The answer to the last [`Step::Read`].
    pub fn supply(&mut self, data: Bytes) {
        assert!(self.wait != Wait::Nothing, "it was asked for");
        self.buffer = data;
    }

    /// The index file is missing: the walk goes on by rebuilding it. `false` if something else was missing.
    pub fn index_is_missing(&mut self) -> bool {
        let is_index = self.wait == Wait::Index;
        self.buffer = Bytes::new();
        is_index
    }

    /// Whether the log asked for it, to be restarted.
    pub fn is_for_restart(&self) -> bool {
        matches!(self.goal, Goal::Boundary { .. })
    }

    /// The base offset of the segment that it is in.
    pub fn segment(&self) -> i64 {
        self.segment
    }

    /// Where a log is cut whose segment cannot be read: before that.
    pub fn boundary_of_damaged(&self, why: String) -> Boundary {
        Boundary { segment: Some(self.segment), damage: Some(why), ..Boundary::between_segments(self.segment) }
    }

    /// The walk cannot go on.
    pub fn failed(self, error: DiskError) -> Progress {
        match self.goal {
            Goal::Offset { .. } => Progress::ReadDone { token: self.token, result: Err(error) },
            Goal::Time { .. } => Progress::TimeDone { token: self.token, result: Err(error) },
            Goal::Boundary { .. } => unreachable!("what cannot be read is cut off"),
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
            if let Some(step) = self.advance(partition) {
                return step;
            }
        }
    }

    /// Goes one batch further, or on to another segment. `None`: it may go on.
    fn advance(&mut self, partition: &mut PartitionLog) -> Option<Step> {
        // The segment may have been removed by retention, or compacted, since the last step.
        let is_same = |segment: &&Segment| segment.version == self.version;
        let Some(segment) = partition.segment(self.segment).filter(is_same) else { return self.reenter(partition) };
        let (path, bytes, readable) = (segment.path.clone(), segment.bytes(), segment.readable());
        let (segment_durable, has_gaps) = (segment.durable(), segment.has_gaps);
        let end_offset = partition.segment_end_offset(partition.segment_containing(self.segment));
        let Some(position) = self.position else { return self.start_position(partition) };
        if let Goal::Boundary { keep_below, .. } = self.goal
            && position >= segment_durable
        {
            return Some(self.boundary(position, keep_below));
        }
        if position >= bytes {
            if self.found.is_some() {
                return Some(self.found_until(partition, position));
            }
            let index = partition.segment_containing(self.segment);
            let Some(next) = self.segment_from(partition, index + 1) else { return self.end(partition) };
            self.enter(&partition.segments()[next]);
            return None;
        }
        let Some(available) = self.bytes_at(partition, position) else {
            return Some(self.read(path, position, STEP_BYTES.min((readable - position) as usize)));
        };
        let Some(header) = BatchHeader::read(&available) else {
            return Some(self.read_more(path, position, STEP_BYTES, available.len(), readable));
        };
        let Ok(batch_bytes) = header.batch_bytes() else {
            return Some(self.corrupt(&path, position, "a batch has an impossible length"));
        };
        if position + batch_bytes as u64 > bytes {
            return Some(self.corrupt(&path, position, "a batch reaches past the end of its segment"));
        }
        if position + batch_bytes as u64 > readable && !partition.is_in_memory(header.base_offset()) {
            return Some(self.corrupt(&path, position, "a batch reaches past what was written"));
        }
        if !follows(header, self.next_offset, has_gaps, end_offset) {
            return Some(self.corrupt(&path, position, "a batch does not follow the one before"));
        }
        match self.goal {
            Goal::Offset { offset, .. } if self.found.is_some() || header.last_offset() >= offset => {
                if let Some(step) = self.reach(partition, header, position, batch_bytes) {
                    return Some(step);
                }
            }
            Goal::Offset { .. } => {}
            Goal::Boundary { keep_below, .. } if header.last_offset() >= keep_below => {
                return Some(self.boundary(position, keep_below.min(header.base_offset())));
            }
            Goal::Boundary { .. } => self.max_timestamp = self.max_timestamp.max(header.max_timestamp()),
            Goal::Time { until_offset, .. } if header.base_offset() >= until_offset => return self.end(partition),
            Goal::Time { query, until_offset } => {
                let met = Met { path, position, readable, header, available: &available, batch_bytes };
                if let Some(step) = self.look_at(partition, query, until_offset, met) {
                    return Some(step);
                }
            }
        }
        self.next_offset = header.last_offset() + 1;
        self.position = Some(position + batch_bytes as u64);
        None
    }

    fn boundary(&self, position: u64, keep_below: i64) -> Step {
        let max_timestamp = if position == 0 { -1 } else { self.max_timestamp };
        let segment = Some(self.segment);
        Step::Done(Outcome::Boundary(Boundary { segment, keep_below, position, max_timestamp, damage: None }))
    }

    /// The walk is at the batch that is looked for, or behind it on the way to the end of what may be read. `None`: that lies
    /// further on.
    fn reach(
        &mut self,
        partition: &PartitionLog,
        header: &BatchHeader,
        position: u64,
        batch_bytes: usize,
    ) -> Option<Step> {
        let Goal::Offset { until_offset, bytes_max, reach, .. } = self.goal else {
            unreachable!("it looks for a range")
        };
        let bound = match reach {
            Reach::Committed => partition.committed(),
            Reach::LogEnd => partition.log_end(),
        };
        let segment = partition.segment(self.segment).expect("walked just now");
        if let Some((found, _)) = self.found {
            let is_end = header.last_offset() >= bound || position >= segment.readable();
            let is_enough = position - found >= bytes_max as u64;
            return (is_end || is_enough).then(|| self.found_until(partition, position));
        }
        if header.base_offset() >= until_offset || header.last_offset() >= bound {
            return Some(Step::Done(Outcome::Plan(ReadPlan::default())));
        }
        if partition.is_in_memory(header.base_offset()) {
            let plan = partition.read(header.base_offset(), until_offset.min(bound), bytes_max);
            return Some(Step::Done(Outcome::Plan(plan)));
        }
        self.found = Some((position, batch_bytes));
        if partition.durable_end() <= bound || is_planted(Bug::ServeAboveCommitted) {
            // All that the file holds may be read.
            return Some(self.found_until(partition, segment.readable()));
        }
        // The file holds more than may be read: up to a batch that the index knows, or to the one that is found by going on.
        let known = segment.index().map(|index| index.lookup_offset(bound).position);
        known.filter(|known| *known > position).map(|known| self.found_until(partition, known))
    }

    /// The file range from the batch that was found to `end`, where another begins or the file ends.
    fn found_until(&self, partition: &PartitionLog, end: u64) -> Step {
        let (position, first_batch_bytes) = self.found.expect("the caller has seen it");
        let Goal::Offset { bytes_max, .. } = self.goal else { unreachable!("it looks for a range") };
        let segment = partition.segment(self.segment).expect("walked just now");
        let there = end.min(segment.readable()) - position;
        let bytes = bytes_max.max(first_batch_bytes).min(there as usize);
        let part = ReadPart::File { path: segment.path.clone(), position, bytes };
        Step::Done(Outcome::Plan(ReadPlan { parts: vec![part], bytes, first_batch_bytes }))
    }

    /// Goes on where the segment that it was in is not any more.
    fn reenter(&mut self, partition: &PartitionLog) -> Option<Step> {
        let first = match self.goal {
            Goal::Time { query, .. } => segment_for_time(partition, query),
            Goal::Offset { offset, .. } => {
                (offset >= partition.log_start()).then(|| partition.segment_containing(offset))
            }
            Goal::Boundary { .. } => unreachable!("no segment goes while the log is being restarted"),
        };
        let Some(first) = first else { return Some(self.not_found()) };
        self.scan = None;
        self.enter(&partition.segments()[first]);
        None
    }

    /// There is nothing more to walk through: it is not found, unless by looking at every batch.
    fn end(&mut self, partition: &PartitionLog) -> Option<Step> {
        if !self.must_scan() {
            return Some(self.not_found());
        }
        self.begin_scan(partition);
        None
    }

    /// Looks for a record by its time in a batch. `None`: it is not there.
    fn look_at(&mut self, partition: &PartitionLog, query: TimeQuery, until_offset: i64, met: Met<'_>) -> Option<Step> {
        let Met { path, position, readable, header, available, batch_bytes } = met;
        let log_start = partition.log_start();
        let is_wanted = match (&self.scan, query) {
            (Some(scan), _) => scan.is_beaten_by(header.max_timestamp()),
            (None, TimeQuery::AtOrAfter(timestamp)) => header.max_timestamp() >= timestamp,
            (None, TimeQuery::Max) => header.max_timestamp() >= self.max_timestamp(partition),
        };
        let is_wanted = is_wanted && header.last_offset() >= log_start;
        // A scan passes over most batches by their headers, because it may have to pass over all there are.
        if !is_wanted && self.scan.is_some() {
            return None;
        }
        let Some(batch) = available.get(..batch_bytes) else {
            return Some(self.read_more(path, position, batch_bytes, available.len(), readable));
        };
        if verify_crc(batch).is_err() {
            return Some(self.corrupt(&path, position, "a batch has another checksum"));
        }
        if !is_wanted {
            return None;
        }
        let found = match (&mut self.scan, query) {
            (Some(scan), _) => scan.look_at(batch, log_start, until_offset).map(|()| None),
            (None, TimeQuery::AtOrAfter(timestamp)) => first_at_or_after(batch, timestamp, log_start),
            (None, TimeQuery::Max) => {
                let declared = header.max_timestamp();
                let is_declared = |found: &(i64, i64)| found.0 >= log_start && found.1 == declared;
                records::max_timestamp(batch).map(|found| Some(found).filter(is_declared))
            }
        };
        match found {
            Ok(Some((offset, timestamp))) if offset < until_offset => {
                let leader_epoch = header.leader_epoch();
                Some(Step::Done(Outcome::Time(Some(TimeFound { offset, timestamp, leader_epoch }))))
            }
            // The header promised more than its records hold, or than may be read: look on.
            Ok(_) => None,
            Err(_) => Some(self.corrupt(&path, position, "a batch cannot be decoded")),
        }
    }

    /// Where to begin in the current segment: from its index, which is loaded or rebuilt first if it is not in memory.
    fn start_position(&mut self, partition: &mut PartitionLog) -> Option<Step> {
        let key = partition.key;
        let directory = partition.directory.clone();
        let max_timestamp = self.max_timestamp(partition);
        let log_start = partition.log_start();
        let segment = partition.segment_mut(self.segment).expect("checked by the caller");
        if let Some(index) = segment.index() {
            let start = match self.goal {
                Goal::Offset { offset, .. } => index.lookup_offset(offset),
                Goal::Boundary { keep_below, .. } => {
                    self.max_timestamp = index.max_timestamp_before(keep_below);
                    index.lookup_offset(keep_below)
                }
                Goal::Time { query: TimeQuery::AtOrAfter(timestamp), .. } => index.lookup_time(timestamp),
                Goal::Time { query: TimeQuery::Max, .. } if self.scan.is_some() => index.lookup_offset(log_start),
                Goal::Time { query: TimeQuery::Max, .. } => index.lookup_time(max_timestamp),
            };
            self.position = Some(start.position);
            self.next_offset = start.base_offset;
            if self.wait == Wait::Index {
                // Another walk has brought the index meanwhile: the file that this one has read holds no batches.
                self.buffer = Bytes::new();
                self.asked_bytes = 0;
            }
            return None;
        }
        if self.wait == Wait::Nothing {
            self.wait = Wait::Index;
            let path = index_path(&directory, self.segment, self.version);
            return Some(Step::Read(DiskOp::Read { path, position: 0, bytes: INDEX_FILE_BYTES_MAX }));
        }
        if self.wait == Wait::Index {
            match SparseIndex::decode(&self.buffer, key, self.segment) {
                Ok(index) if index.covered_bytes() == segment.bytes() => {
                    self.loaded_index = Some((self.segment, index.memory_bytes()));
                    segment.keep_index(index);
                    self.buffer = Bytes::new();
                    return None;
                }
                _ => {
                    self.rebuilding = Some(SparseIndex::new(self.segment, partition.config.index_interval_bytes));
                    self.buffer = Bytes::new();
                    self.wait = Wait::Bytes;
                }
            }
        }
        self.rebuild(partition)
    }

    /// Feeds the batches just read to the index being rebuilt, and reads on.
    fn rebuild(&mut self, partition: &mut PartitionLog) -> Option<Step> {
        let end_offset = partition.segment_end_offset(partition.segment_containing(self.segment));
        let segment = partition.segment_mut(self.segment).expect("checked by the caller");
        let has_gaps = segment.has_gaps;
        let index = self.rebuilding.as_mut().expect("a rebuild is under way");
        let path = segment.path.clone();
        let mut position = index.covered_bytes();
        let mut wanted = REBUILD_STEP_BYTES;
        while position < segment.bytes() {
            let start = position.checked_sub(self.buffer_position).map_or(usize::MAX, |start| start as usize);
            let available = self.buffer.get(start..).unwrap_or_default();
            let Some(header) = BatchHeader::read(available) else { break };
            let Some(bytes) = header.batch_bytes().ok().filter(|&bytes| position + bytes as u64 <= segment.bytes())
            else {
                return Some(self.corrupt(&path, position, "a batch has an impossible length"));
            };
            let Some(batch) = available.get(..bytes) else {
                wanted = wanted.max(bytes);
                break;
            };
            if !follows(header, index.last_offset() + 1, has_gaps, end_offset) {
                return Some(self.corrupt(&path, position, "a batch does not follow the one before"));
            }
            if verify_crc(batch).is_err() {
                return Some(self.corrupt(&path, position, "a batch has another checksum"));
            }
            index.note(header, position);
            position += bytes as u64;
        }
        if position == segment.bytes() {
            let index = self.rebuilding.take().expect("seen above");
            self.loaded_index = Some((self.segment, index.memory_bytes()));
            segment.keep_index(index);
            self.buffer = Bytes::new();
            self.asked_bytes = 0;
            return None;
        }
        let bytes = wanted.min((segment.bytes() - position) as usize);
        Some(self.read(path, position, bytes))
    }

    fn max_timestamp(&self, partition: &PartitionLog) -> i64 {
        partition.segments().iter().map(|segment| segment.max_timestamp()).max().unwrap_or(-1)
    }

    /// The first segment from this index on in which the search may go on.
    fn segment_from(&self, partition: &PartitionLog, index: usize) -> Option<usize> {
        let (Goal::Offset { until_offset, .. } | Goal::Time { until_offset, .. }) = self.goal else {
            unreachable!("a boundary lies in one segment")
        };
        let (index, next) = partition.segments().iter().enumerate().skip(index).find(|(_, segment)| {
            segment.base_offset >= until_offset
                || self.scan.as_ref().is_none_or(|scan| scan.is_beaten_by(segment.max_timestamp()))
        })?;
        (next.base_offset < until_offset).then_some(index)
    }

    /// Whether what was not found by its segment's largest timestamp may be found by looking at every batch.
    fn must_scan(&self) -> bool {
        matches!(self.goal, Goal::Time { query: TimeQuery::Max, .. }) && self.scan.is_none()
    }

    fn begin_scan(&mut self, partition: &PartitionLog) {
        self.scan = Some(Scan::default());
        self.enter(&partition.segments()[partition.segment_containing(partition.log_start())]);
    }

    fn bytes_at(&self, partition: &PartitionLog, position: u64) -> Option<Bytes> {
        partition.tail.at(self.segment, position).or_else(|| {
            let start = usize::try_from(position.checked_sub(self.buffer_position)?).ok()?;
            (start < self.buffer.len()).then(|| self.buffer.slice(start..))
        })
    }

    fn read(&mut self, path: FilePath, position: u64, bytes: usize) -> Step {
        if self.buffer_position == position && self.asked_bytes >= bytes {
            return self.corrupt(&path, position, "the file ends before its batches");
        }
        assert!(bytes > 0, "a walk reads something");
        self.wait = Wait::Bytes;
        self.buffer_position = position;
        self.asked_bytes = bytes;
        Step::Read(DiskOp::Read { path, position, bytes })
    }

    /// What is available ends within the batch at `position`.
    fn read_more(&mut self, path: FilePath, position: u64, bytes: usize, available: usize, end: u64) -> Step {
        let bytes = bytes.max(STEP_BYTES).min(end.saturating_sub(position) as usize);
        if available >= bytes {
            return self.corrupt(&path, position, "the file ends within a batch");
        }
        self.read(path, position, bytes)
    }

    fn not_found(&self) -> Step {
        Step::Done(match self.goal {
            Goal::Offset { .. } => Outcome::Plan(ReadPlan::default()),
            Goal::Time { .. } => Outcome::Time(self.scan.as_ref().and_then(|scan| scan.best)),
            Goal::Boundary { .. } => unreachable!("it ends where its segment does"),
        })
    }

    fn corrupt(&self, path: &str, position: u64, why: &str) -> Step {
        let why = format!("{path} is damaged at byte {position}: {why}");
        if self.is_for_restart() {
            return Step::Done(Outcome::Boundary(self.boundary_of_damaged(why)));
        }
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

/// Whether a batch may come next, where its segment's offsets have come to `next_offset` and end at `end_offset`.
fn follows(header: &BatchHeader, next_offset: i64, has_gaps: bool, end_offset: i64) -> bool {
    if has_gaps {
        header.base_offset() >= next_offset && header.last_offset() < end_offset
    } else {
        header.base_offset() == next_offset
    }
}

/// The first segment that can hold the record looked for.
fn segment_for_time(partition: &PartitionLog, query: TimeQuery) -> Option<usize> {
    let wanted = match query {
        TimeQuery::AtOrAfter(timestamp) => timestamp,
        TimeQuery::Max => partition.segments().iter().map(|segment| segment.max_timestamp()).max()?,
    };
    partition.segments().iter().position(|segment| segment.bytes() > 0 && segment.max_timestamp() >= wanted)
}
