//! Where the next frame goes, and what has to be done for it: one operation at a time.

use bytes::Bytes;
use millstream_storage::{BLOCK_BYTES, DiskOp, FilePath};
use raft::eraftpb::Entry;

use super::file::{HardState, Header, Position, encode_frame, encode_header};
use crate::log::{DIRECTORY, FileId, SNAPSHOT};
use crate::random_id;

/// The log is replaced by a snapshot when it is larger than this and than the snapshot before it, in bytes.
pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Space that stays allocated behind the end of the log for decisions that free some (deleting topics, shorter retention)
/// and for votes, in bytes: a disk that is full to the last byte must not keep anybody from them.
pub const RESERVE_BYTES: u64 = 1024 * 1024;

/// The file is extended by this much beyond the reserve at a time, in bytes: a decision in hundreds waits for it.
const ALLOCATE_BYTES: u64 = 1024 * 1024;

/// The end of the log file.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    file_id: FileId,
    snapshot_index: u64,
    /// Frames in the file.
    frames: u64,
    /// Where the next frame goes.
    position: u64,
    /// Up to where the file has its space, zeros behind the last frame.
    allocated: u64,
    snapshot_bytes: u64,
    log_bytes_max: u64,
    /// No snapshot before the log is this long: after one that failed for lack of space.
    retry_at: u64,
}

/// A log file that is being made, and the snapshot that it follows.
#[derive(Clone, Debug)]
pub(crate) struct NextFile {
    file_id: FileId,
    snapshot_index: u64,
    bytes: u64,
    snapshot_bytes: u64,
}

impl NextFile {
    /// The index of the snapshot that it follows.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot_index
    }
}

impl LogFile {
    /// That of a file which was read to its end.
    pub(crate) fn opened(header: &Header, frames: u64, position: u64, allocated: u64, snapshot_bytes: u64) -> LogFile {
        LogFile {
            file_id: header.file_id,
            snapshot_index: header.snapshot_index,
            frames,
            position,
            allocated: allocated.max(position),
            snapshot_bytes,
            log_bytes_max: LOG_BYTES_MAX,
            retry_at: 0,
        }
    }

    /// The index of the snapshot that the file belongs to.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot_index
    }

    pub(crate) fn log_bytes_max(&self) -> u64 {
        self.log_bytes_max
    }

    pub(crate) fn set_log_bytes_max(&mut self, bytes: u64) {
        self.log_bytes_max = bytes;
    }

    fn path(&self) -> FilePath {
        log_path(self.snapshot_index)
    }

    /// The space that is wanted before so many bytes more are written; none if there is enough.
    pub(crate) fn allocate(&self, bytes: u64) -> Option<DiskOp> {
        let wanted = self.position + frame_bytes(bytes) + RESERVE_BYTES;
        (wanted > self.allocated).then(|| DiskOp::Allocate { path: self.path(), bytes: wanted + ALLOCATE_BYTES })
    }

    pub(crate) fn allocated(&mut self, bytes: u64) {
        self.allocated = self.allocated.max(bytes);
    }

    /// The write of a frame, and how many bytes of the file it takes.
    pub(crate) fn frame(&self, state: HardState, entries: &[Entry]) -> (DiskOp, u64) {
        let frame = encode_frame(self.file_id, self.frames, state, entries);
        let bytes = frame.len() as u64;
        (DiskOp::Write { path: self.path(), position: self.position, data: vec![frame], durable: true }, bytes)
    }

    /// A frame of so many bytes is durable.
    pub(crate) fn written(&mut self, bytes: u64) {
        assert_eq!(bytes % BLOCK_BYTES as u64, 0, "frames fill blocks");
        self.frames += 1;
        self.position += bytes;
        self.allocated = self.allocated.max(self.position);
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        self.position > self.log_bytes_max.max(self.snapshot_bytes).max(self.retry_at)
    }

    /// A snapshot was begun: if it does not succeed, none is tried before the log has grown by a quarter of its bound.
    pub(crate) fn tries_snapshot(&mut self) {
        self.retry_at = self.position + self.log_bytes_max / 4;
    }

    /// Begins another file, behind a snapshot: two operations, one after the other, then [`LogFile::replaced`]. A crash
    /// between or within any of them loses nothing: the snapshot says which file counts.
    pub(crate) fn replace(
        &self,
        snapshot_index: u64,
        base: Position,
        state: HardState,
        entries: &[Entry],
        snapshot: Bytes,
    ) -> ([DiskOp; 2], NextFile) {
        assert!(snapshot_index > self.snapshot_index, "a snapshot of what came after the last one");
        let file_id = next_file_id(self.file_id, snapshot_index);
        let file = begin_file(&Header { file_id, snapshot_index, base }, state, entries);
        let next =
            NextFile { file_id, snapshot_index, bytes: file.len() as u64, snapshot_bytes: snapshot.len() as u64 };
        let begin = DiskOp::Replace { path: log_path(snapshot_index), data: file };
        ([begin, DiskOp::Replace { path: snapshot_path(), data: snapshot }], next)
    }

    /// The new file counts. The operation that is returned removes the old one; if that is never done, the next start
    /// does it.
    pub(crate) fn replaced(&mut self, next: &NextFile) -> DiskOp {
        let old = self.path();
        *self = LogFile {
            file_id: next.file_id,
            snapshot_index: next.snapshot_index,
            frames: 1,
            position: next.bytes,
            allocated: next.bytes,
            snapshot_bytes: next.snapshot_bytes,
            log_bytes_max: self.log_bytes_max,
            retry_at: 0,
        };
        DiskOp::Remove { path: old }
    }
}

/// A log file's first bytes: its header and one frame.
pub(crate) fn begin_file(header: &Header, state: HardState, entries: &[Entry]) -> Bytes {
    [encode_header(header), encode_frame(header.file_id, 0, state, entries)].concat().into()
}

/// What entries of so many bytes take of the file.
fn frame_bytes(bytes: u64) -> u64 {
    (bytes + 64).next_multiple_of(BLOCK_BYTES as u64)
}

/// Where the snapshot lies.
pub(crate) fn snapshot_path() -> FilePath {
    SNAPSHOT.into()
}

/// Where the log lies that belongs to the snapshot at this index.
pub(crate) fn log_path(snapshot_index: u64) -> FilePath {
    format!("{DIRECTORY}/quorum-{snapshot_index:020}.log").into()
}

/// The index that a log file's name says, if it is one.
pub(crate) fn snapshot_index_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("quorum-")?.strip_suffix(".log")?;
    let index = digits.parse().ok()?;
    (digits.len() == 20).then_some(index)
}

/// The identity of the file that follows a file of this one.
pub(crate) fn next_file_id(file_id: FileId, snapshot_index: u64) -> FileId {
    let [high, low] = random_id::halves(u128::from_be_bytes(file_id.0));
    let high = random_id::mix(high ^ snapshot_index);
    let low = random_id::mix(low ^ high);
    FileId(random_id::whole([high, low]).to_be_bytes())
}
