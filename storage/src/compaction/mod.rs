//! Log compaction (`cleanup.policy=compact`): rewrites closed segments so that of each key the last record stays. What one
//! run of Kafka's log cleaner does; which partition is compacted and when, the log cleaner in `shard_log` decides.
//!
//! A [`Compaction`] is a state machine that is taken a bounded step further by [`Compaction::step`], on a thread of its own
//! or in the simulator: it reads a piece, works on it, and changes the disk at most once. First it looks through the part
//! of the log that no compaction has seen yet and notes the last offset of every key, as many as fit the memory it was
//! given; then it copies all closed segments up to there, oldest first, without the records that are superseded. Small
//! neighbours become one. Each new segment is a file of its own, durable before [`Step::Replaced`] says so. It counts when the
//! shard's journal says that it takes the place of the old ones; a crash before leaves files that recovery removes, and a
//! crash after leaves old ones, which it removes, too. Nothing is ever written in place.
//!
//! Segments are replaced in the order of their offsets, so that a tombstone never goes before what it deletes.

pub mod offset_map;
pub mod retain;

use bytes::Bytes;

use crate::PartitionKey;
use crate::batch::{BatchError, BatchHeader, Batches, verify_crc};
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use crate::index::{SEGMENT_BYTES_MAX, SparseIndex};
use crate::journal::Salt;
use crate::recovery::Io;
use crate::segment::{index_path, segment_path};
use offset_map::OffsetMap;
use retain::{Retained, Rules};

/// Bytes that one step reads, unless a single batch is longer. Between two reads the kernel has a chance to run somebody else:
/// with 1 MiB, and nothing else changed, requests of the same core took 4 ms now and then.
pub const STEP_BYTES: usize = 64 << 10;

/// A closed segment to be compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its first offset.
    pub base_offset: i64,
    /// Part of its files' names.
    pub version: u32,
    /// Its length.
    pub bytes: u64,
}

/// What to compact, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The partition.
    pub key: PartitionKey,
    /// Its directory, relative to the data directory.
    pub directory: FilePath,
    /// Closed segments from the log's first on, without a gap.
    pub sources: Vec<Source>,
    /// Where the segment after them begins.
    pub end_offset: i64,
    /// What lies below was compacted before: each of its keys is there once, apart from later records.
    pub first_dirty: i64,
    /// Of the new segments' files; no file of the partition has it.
    pub version: u32,
    /// `segment.bytes`: neighbours are joined up to this length.
    pub segment_bytes: u64,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Memory for the keys' last offsets, in bytes.
    pub map_bytes_max: usize,
    /// Makes collisions of keys' hashes unpredictable.
    pub secret: Salt,
}

/// A compacted segment and the run of segments that it takes the place of: an entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Base offset of the first segment replaced, and of the new one.
    pub from: i64,
    /// Base offset of the first segment behind them.
    pub until: i64,
    /// What the log's first dirty offset is from now on.
    pub first_dirty: i64,
    /// Of the new segment's files.
    pub version: u32,
    /// Length of the new segment; 0: nothing is left, and there is none.
    pub bytes: u64,
    /// Timestamp of its first batch, or -1.
    pub first_timestamp: i64,
    /// Its largest timestamp, or -1.
    pub max_timestamp: i64,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    Working,
    /// A new segment is durable. Go on when this is in the journal.
    Replaced(Replacement),
    /// All is done.
    Done,
}

/// What a compaction has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read, each segment up to twice.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Records that were not copied.
    pub records_removed: u64,
}

/// A compaction under way.
#[derive(Clone)]
pub struct Compaction {
    plan: Plan,
    map: OffsetMap,
    /// The map knows the keys of all records from `plan.first_dirty` up to here.
    map_end: i64,
    stage: Stage,
    /// Where the next piece is read: index of the source and position in it, and the least offset that it may begin with.
    source: usize,
    position: u64,
    next_offset: i64,
    output: Option<Output>,
    work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Noting the last offset of every key.
    Digest,
    /// Copying sources up to this index into one output.
    Copy { last: usize },
    /// All of the output's whole blocks are written: its end is next...
    End,
    /// ...then its exact length, which syncs it...
    Truncate,
    /// ...then its index.
    Index,
    /// Everything is replaced.
    Done,
}

/// A segment being written.
#[derive(Clone)]
struct Output {
    base_offset: i64,
    path: FilePath,
    is_created: bool,
    /// What is not written yet, from `written` on.
    pending: Vec<u8>,
    /// A multiple of [`BLOCK_BYTES`].
    written: u64,
    index: SparseIndex,
    first_timestamp: i64,
    max_timestamp: i64,
}

impl std::fmt::Debug for Compaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Compaction { plan, stage, source, position, map, .. } = self;
        write!(f, "compaction of {} to version {}, ", plan.directory, plan.version)?;
        write!(f, "{stage:?}, segment {source} at {position}, {} keys", map.keys())
    }
}

/// Two are the same when they do the same work and have come equally far.
impl PartialEq for Compaction {
    fn eq(&self, other: &Compaction) -> bool {
        let place = |it: &Compaction| (it.stage, it.source, it.position, it.map_end, it.work);
        self.plan == other.plan && place(self) == place(other)
    }
}

impl Eq for Compaction {}

impl Compaction {
    /// At its beginning.
    pub fn new(plan: Plan) -> Compaction {
        assert!(!plan.sources.is_empty() && plan.first_dirty < plan.end_offset, "there is something to compact");
        assert!(plan.version > 0, "a compacted segment has a file of its own");
        let ascend = plan.sources.is_sorted_by(|one, next| one.base_offset < next.base_offset);
        assert!(ascend && plan.sources.iter().all(|source| source.bytes > 0), "segments follow each other");
        let keys_max = (plan.end_offset - plan.first_dirty) as u64;
        let map = OffsetMap::new(plan.first_dirty, keys_max, plan.map_bytes_max, &plan.secret);
        let first = plan.sources.iter().rposition(|source| source.base_offset <= plan.first_dirty).unwrap_or(0);
        Compaction {
            map,
            map_end: plan.end_offset,
            stage: Stage::Digest,
            source: first,
            position: 0,
            next_offset: plan.sources[first].base_offset,
            output: None,
            work: Work::default(),
            plan,
        }
    }

    /// The directory that it works in.
    pub fn directory(&self) -> &FilePath {
        &self.plan.directory
    }

    /// Memory that it holds between steps, about, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.map.bytes() + self.output.as_ref().map_or(0, |output| output.pending.capacity())
    }

    /// What it has done since the last call.
    pub fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// Takes it a bounded step further. After an error it is of no use any more, and has removed what it was writing; the log
    /// is as it was.
    pub fn step(&mut self, io: &mut Io<'_>) -> Result<Step, DiskError> {
        let result = match self.stage {
            Stage::Digest => self.digest(io),
            Stage::Copy { last } => self.copy(last, io),
            Stage::End | Stage::Truncate | Stage::Index => self.finish_output(io),
            Stage::Done => Ok(Step::Done),
        };
        if result.is_err()
            && let Some(output) = self.output.take().filter(|output| output.is_created)
        {
            // What cannot be removed now is removed by the next recovery.
            let _ = io(DiskOp::Remove { path: output.path });
        }
        result
    }

    /// Notes the keys of one piece.
    fn digest(&mut self, io: &mut Io<'_>) -> Result<Step, DiskError> {
        let Some(source) = self.plan.sources.get(self.source) else {
            self.begin_copies();
            return Ok(Step::Working);
        };
        let source = source.clone();
        let piece = self.read(&source, io)?;
        let mut is_full = false;
        for batch in Batches::new(&piece) {
            let (header, batch) = batch.map_err(|error| self.damaged(&source, &error))?;
            if header.last_offset() >= self.plan.first_dirty {
                let (map, first_dirty) = (&mut self.map, self.plan.first_dirty);
                let mut full_at = None;
                let seen = retain::each_key(batch, |key, offset| {
                    if offset >= first_dirty && !map.put(key, offset) {
                        full_at = Some(offset);
                    }
                    full_at.is_none()
                });
                seen.map_err(|error| self.damaged(&source, &error))?;
                if let Some(offset) = full_at {
                    self.map_end = offset;
                    is_full = true;
                    break;
                }
            }
            self.next_offset = header.last_offset() + 1;
        }
        self.position += piece.len() as u64;
        if is_full {
            self.begin_copies();
        } else if self.position == source.bytes {
            self.enter(self.source + 1);
        }
        Ok(Step::Working)
    }

    fn begin_copies(&mut self) {
        self.enter(0);
        self.begin_output();
    }

    /// Goes on reading at the beginning of a source.
    fn enter(&mut self, source: usize) {
        self.source = source;
        self.position = 0;
        self.next_offset = self.plan.sources.get(source).map_or(self.plan.end_offset, |source| source.base_offset);
    }

    /// Begins the next output: as many of the sources that the map reaches as make one segment.
    fn begin_output(&mut self) {
        let rest = self.plan.sources.get(self.source..).unwrap_or_default();
        let Some(first) = rest.first().filter(|first| first.base_offset < self.map_end) else {
            self.stage = Stage::Done;
            return;
        };
        let mut bytes = 0;
        let fits = |source: &&Source| {
            bytes += source.bytes;
            let span = source.base_offset - first.base_offset;
            source.base_offset == first.base_offset
                || (bytes <= self.plan.segment_bytes
                    && span <= i64::from(u32::MAX / 2)
                    && source.base_offset < self.map_end)
        };
        let last = self.source + rest.iter().take_while(fits).count();
        self.stage = Stage::Copy { last };
        self.output = Some(Output {
            base_offset: first.base_offset,
            path: segment_path(&self.plan.directory, first.base_offset, self.plan.version),
            is_created: false,
            pending: Vec::new(),
            written: 0,
            index: SparseIndex::new(first.base_offset, self.plan.index_interval_bytes),
            first_timestamp: -1,
            max_timestamp: -1,
        });
    }

    /// Copies what is to stay of one piece.
    fn copy(&mut self, last: usize, io: &mut Io<'_>) -> Result<Step, DiskError> {
        if self.source == last {
            self.stage = Stage::End;
            return Ok(Step::Working);
        }
        let source = self.plan.sources[self.source].clone();
        let piece = self.read(&source, io)?;
        let mut output = self.output.take().expect("begun before it is copied to");
        let copied = self.copy_piece(&source, &piece, &mut output);
        let written = copied.and_then(|()| output.write(output.pending.len() / BLOCK_BYTES * BLOCK_BYTES, io));
        self.output = Some(output);
        self.work.bytes_written += written?;
        self.position += piece.len() as u64;
        if self.position == source.bytes {
            self.enter(self.source + 1);
        }
        Ok(Step::Working)
    }

    fn copy_piece(&mut self, source: &Source, piece: &[u8], output: &mut Output) -> Result<(), DiskError> {
        let rules = Rules {
            map: &self.map,
            map_end: self.map_end,
            now_ms: self.plan.now_ms,
            delete_retention_ms: self.plan.delete_retention_ms,
        };
        for batch in Batches::new(piece) {
            let (header, batch) = batch.map_err(|error| self.damaged(source, &error))?;
            let (retained, removed) = retain::retain(batch, &rules).map_err(|error| self.damaged(source, &error))?;
            self.work.records_removed += removed;
            match &retained {
                Retained::Whole => output.add(batch)?,
                Retained::Changed(changed) => output.add(changed)?,
                Retained::Nothing => {}
            }
            self.next_offset = header.last_offset() + 1;
        }
        Ok(())
    }

    /// Ends the output: one change of the disk a step.
    fn finish_output(&mut self, io: &mut Io<'_>) -> Result<Step, DiskError> {
        let output = self.output.as_mut().expect("begun before it is finished");
        let bytes = output.index.covered_bytes();
        match self.stage {
            Stage::End if bytes > 0 => {
                self.work.bytes_written += output.write(output.pending.len(), io)?;
                self.stage = Stage::Truncate;
                return Ok(Step::Working);
            }
            Stage::Truncate => {
                io(DiskOp::Truncate { path: output.path.clone(), bytes })?;
                self.stage = Stage::Index;
                return Ok(Step::Working);
            }
            Stage::Index => {
                let path = index_path(&self.plan.directory, output.base_offset, self.plan.version);
                io(DiskOp::Replace { path, data: output.index.encode(self.plan.key) })?;
            }
            // Nothing is left of these segments.
            _ => {}
        }
        let Output { base_offset, first_timestamp, max_timestamp, .. } = self.output.take().expect("seen above");
        let until = self.plan.sources.get(self.source).map_or(self.plan.end_offset, |next| next.base_offset);
        self.begin_output();
        let first_dirty = if self.stage == Stage::Done { self.map_end } else { self.plan.first_dirty };
        let version = self.plan.version;
        let from = base_offset;
        assert!(from < until && first_dirty <= self.plan.end_offset, "it takes the place of something");
        let replacement = Replacement { from, until, first_dirty, version, bytes, first_timestamp, max_timestamp };
        Ok(Step::Replaced(replacement))
    }

    /// Whole batches from the current position on, at least one, with the checksums that they should have.
    fn read(&mut self, source: &Source, io: &mut Io<'_>) -> Result<Bytes, DiskError> {
        let path = segment_path(&self.plan.directory, source.base_offset, source.version);
        let left = usize::try_from(source.bytes - self.position).expect("a segment is smaller than 4 GiB");
        let mut wanted = STEP_BYTES.min(left);
        let end_offset = self.plan.sources.get(self.source + 1).map_or(self.plan.end_offset, |next| next.base_offset);
        loop {
            let op = DiskOp::Read { path: path.clone(), position: self.position, bytes: wanted };
            let DiskReply::Data(data) = io(op)? else { unreachable!("a read answers with data") };
            self.work.bytes_read += data.len() as u64;
            let mut whole = 0;
            let mut next_offset = self.next_offset;
            let mut batches = Batches::new(&data);
            let error = loop {
                match batches.next() {
                    None => break None,
                    Some(Err(error)) => break Some(error),
                    Some(Ok((header, batch))) => {
                        verify_crc(batch).map_err(|error| self.damaged(source, &error))?;
                        let last_offset = header.last_offset();
                        if header.base_offset() < next_offset || last_offset < header.base_offset() {
                            return Err(self.damaged(source, &"a batch does not follow the one before"));
                        }
                        if last_offset >= end_offset {
                            return Err(self.damaged(source, &"a batch has offsets of the next segment"));
                        }
                        next_offset = last_offset + 1;
                        whole += batch.len();
                    }
                }
            };
            if whole > 0 {
                return Ok(data.slice(..whole));
            }
            let batch_bytes = BatchHeader::read(&data).map(BatchHeader::batch_bytes);
            match (error, batch_bytes) {
                (Some(BatchError::Truncated), Some(Ok(bytes))) if bytes > data.len() && bytes <= left => wanted = bytes,
                (Some(error), _) => return Err(self.damaged(source, &error)),
                (None, _) => return Err(self.damaged(source, &"the file ends before its batches")),
            }
            if data.len() < STEP_BYTES.min(left) {
                return Err(self.damaged(source, &"the file ends within a batch"));
            }
        }
    }

    fn damaged(&self, source: &Source, why: &dyn std::fmt::Display) -> DiskError {
        let path = segment_path(&self.plan.directory, source.base_offset, source.version);
        DiskError::Failed(format!("{path} is damaged behind byte {}: {why}", self.position))
    }
}

impl Output {
    /// Adds a batch.
    fn add(&mut self, batch: &[u8]) -> Result<(), DiskError> {
        let position = self.written + self.pending.len() as u64;
        if position + batch.len() as u64 > SEGMENT_BYTES_MAX {
            return Err(DiskError::Failed(format!("{} would be longer than a segment may be", self.path)));
        }
        let header = BatchHeader::read(batch).expect("a whole batch");
        self.index.note(header, position);
        if self.first_timestamp < 0 {
            self.first_timestamp = header.max_timestamp();
        }
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp());
        self.pending.extend_from_slice(batch);
        Ok(())
    }

    /// Writes the first `bytes` of what is pending; returns how many that were. The file's name is durable before.
    fn write(&mut self, bytes: usize, io: &mut Io<'_>) -> Result<u64, DiskError> {
        if bytes == 0 {
            return Ok(0);
        }
        if !self.is_created {
            io(DiskOp::Allocate { path: self.path.clone(), bytes: 0 })?;
            self.is_created = true;
        }
        assert!(self.written.is_multiple_of(BLOCK_BYTES as u64), "only the last write ends inside a block");
        let rest = self.pending.split_off(bytes);
        let data = Bytes::from(std::mem::replace(&mut self.pending, rest));
        let op = DiskOp::Write { path: self.path.clone(), position: self.written, data: vec![data], durable: false };
        io(op)?;
        self.written += bytes as u64;
        Ok(bytes as u64)
    }
}
