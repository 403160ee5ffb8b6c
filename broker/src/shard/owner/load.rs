//! Loading the groups of one coordinator: the log of its partition of `__consumer_offsets` is read from its start to
//! where it ended when the coordinator began, a piece at a time, and each record is replayed. It begins when all of that
//! is committed: what an earlier leader has appended counts, and what may still be lost is served to nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_storage::batch::{Batches, verify_crc};
use millstream_storage::records::OpenBatch;
use millstream_storage::shard_log::{Read, ReadPart, ReadPlan};
use millstream_storage::{DiskError, DiskOp, DiskReply};

use super::partition::Partition;
use super::reader::{LoadId, Reader};
use super::replicas::Replicas;
use crate::group::Coordinator;

/// Bytes of a log that are read at once to load its groups.
const LOAD_BYTES_MAX: usize = 1 << 20;
/// How long a coordinator whose log could not be read waits before it tries again.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// How far the state of a coordinator is loaded.
#[derive(Debug)]
pub struct Load {
    id: LoadId,
    next_offset: i64,
    until_offset: i64,
    step: Step,
    /// Records that could not be read.
    unreadable: u64,
}

/// What a loading is at.
#[derive(Debug)]
enum Step {
    /// It begins, or tries again, at this time.
    Waits { until: Duration },
    /// It begins when more of the log is committed.
    Uncommitted,
    /// Its next piece is read at the end of this turn.
    Due,
    /// The log looks for where its next piece is.
    Seeks,
    /// The piece is being read; what comes from a file is missing until it is there.
    Reads { parts: Vec<Option<Bytes>>, missing: usize, failed: bool },
}

/// What a step of a loading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The disk is asked.
    Nothing,
    /// A piece; the next one is read at the end of the turn.
    Piece,
    /// Everything.
    All,
    /// The piece could not be read: it is tried again, later.
    Failed,
}

/// Reads of files under way, for all loadings of a shard.
#[derive(Debug, Default)]
pub struct FileReads {
    /// Which piece of which loading.
    by_number: BTreeMap<u64, (LoadId, usize)>,
    next_number: u64,
}

impl FileReads {
    fn begin(&mut self, id: LoadId, part: usize) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.by_number.insert(number, (id, part));
        number
    }

    /// A read is done: the loading that it was for, and the part of its piece.
    pub fn take(&mut self, number: u64) -> (LoadId, usize) {
        self.by_number.remove(&number).expect("an operation finishes once")
    }
}

impl Load {
    /// A loading of what lies from one offset to before the other, which is to begin at once.
    pub fn new(id: LoadId, next_offset: i64, until_offset: i64) -> Load {
        Load { id, next_offset, until_offset, step: Step::Waits { until: Duration::ZERO }, unreadable: 0 }
    }

    /// Its name.
    pub fn id(&self) -> LoadId {
        self.id
    }

    /// When it begins or tries again.
    pub fn next_deadline(&self) -> Option<Duration> {
        if let Step::Waits { until } = self.step { Some(until) } else { None }
    }

    /// More of its log is committed: it tries again to begin if it waits for that.
    pub fn log_committed(&mut self) {
        if matches!(self.step, Step::Uncommitted) {
            self.step = Step::Waits { until: Duration::ZERO };
        }
    }

    /// Its next piece is to be read at the end of this turn.
    pub fn set_due(&mut self) {
        self.step = Step::Due;
    }

    /// The same piece is to be read again, later.
    pub fn retry(&mut self, now: Duration) {
        self.step = Step::Waits { until: now + LOAD_RETRY };
    }

    /// Takes how many records could not be read.
    pub fn take_unreadable(&mut self) -> u64 {
        std::mem::take(&mut self.unreadable)
    }

    /// Reads the next piece, if there is one.
    pub fn read(&mut self, coordinator: &mut Coordinator, replicas: &mut Replicas, reads: &mut FileReads) -> Loaded {
        assert!(matches!(self.step, Step::Due), "one piece is read at a time");
        let log = self.id.log;
        let is_committed = |partition: &mut Partition| partition.high_watermark() >= self.until_offset;
        if !replicas.partitions.get_mut(log).is_some_and(is_committed) {
            self.step = Step::Uncommitted;
            return Loaded::Nothing;
        }
        // Nothing shortens this log from its start but the deletion of records below what is loaded.
        self.next_offset = self.next_offset.max(replicas.log.log_start(log));
        if self.next_offset >= self.until_offset {
            return Loaded::All;
        }
        match replicas.log.read(log, self.next_offset, self.until_offset, LOAD_BYTES_MAX, &mut replicas.ops) {
            Read::Ready(plan) => self.take_plan(plan, coordinator, replicas, reads),
            Read::Pending(token) => {
                self.step = Step::Seeks;
                replicas.readers.insert(token, Reader::Groups(self.id));
                Loaded::Nothing
            }
        }
    }

    /// The log has said where the piece is: gets its bytes.
    pub fn take_plan(
        &mut self,
        plan: ReadPlan,
        coordinator: &mut Coordinator,
        replicas: &mut Replicas,
        reads: &mut FileReads,
    ) -> Loaded {
        if plan.bytes == 0 {
            // Compaction has left nothing from here on.
            self.next_offset = self.until_offset;
            return Loaded::Piece;
        }
        let (mut parts, mut missing) = (Vec::with_capacity(plan.parts.len()), 0);
        for (part, from) in plan.parts.into_iter().enumerate() {
            match from {
                ReadPart::Memory(bytes) => parts.push(Some(bytes)),
                ReadPart::File { path, position, bytes } => {
                    let number = reads.begin(self.id, part);
                    replicas.read_for_groups(number, DiskOp::Read { path, position, bytes });
                    parts.push(None);
                    missing += 1;
                }
            }
        }
        self.step = Step::Reads { parts, missing, failed: false };
        self.replay_if_complete(coordinator, replicas)
    }

    /// A part of the piece was read from a file, or could not be.
    pub fn take_part(
        &mut self,
        part: usize,
        result: Result<DiskReply, DiskError>,
        coordinator: &mut Coordinator,
        replicas: &mut Replicas,
    ) -> Loaded {
        let Step::Reads { parts, missing, failed } = &mut self.step else { panic!("a part belongs to a piece") };
        assert!(*missing > 0, "a part is read once");
        *missing -= 1;
        match result {
            Ok(DiskReply::Data(bytes)) => parts[part] = Some(bytes),
            _ => *failed = true,
        }
        self.replay_if_complete(coordinator, replicas)
    }

    /// Replays the batches of the piece that are whole, once nothing of it is missing.
    fn replay_if_complete(&mut self, coordinator: &mut Coordinator, replicas: &mut Replicas) -> Loaded {
        let piece = match &mut self.step {
            Step::Reads { parts, missing: 0, failed: false } => {
                let mut piece = BytesMut::new();
                parts.drain(..).flatten().for_each(|part| piece.extend_from_slice(&part));
                piece
            }
            Step::Reads { missing: 0, failed: true, .. } => return Loaded::Failed,
            _ => return Loaded::Nothing,
        };
        let start = self.next_offset;
        let log_start = replicas.log.log_start(self.id.log);
        for batch in Batches::new(&piece) {
            // What ends the piece may be cut.
            let Ok((header, batch)) = batch else { break };
            // A damaged batch ends the loading, for ever if need be: a group that is served without what it committed
            // would read all over again, or skip what it has not read.
            // The checksum does not cover where it lies: only the first may begin before what is looked for.
            // Compaction leaves gaps.
            let is_next = header.base_offset() >= self.next_offset
                || (self.next_offset == log_start && header.base_offset() < log_start);
            let open = verify_crc(batch).and_then(|()| OpenBatch::new(batch));
            let (Ok(open), true) = (open, is_next) else {
                self.unreadable += 1;
                break;
            };
            self.next_offset = header.last_offset() + 1;
            if header.is_control() {
                continue;
            }
            for record in open.records() {
                let loaded = record
                    .is_ok_and(|record| record.key.is_some_and(|key| coordinator.load(key, record.value).is_ok()));
                self.unreadable += u64::from(!loaded);
            }
        }
        if self.next_offset == start { Loaded::Failed } else { Loaded::Piece }
    }
}
