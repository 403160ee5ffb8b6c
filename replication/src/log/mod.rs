//! The metadata log on disk: what to write, in which order, and how to find it again after a crash.
//!
//! All of it lies in `metadata/`: one snapshot, replaced as a whole, and one log file named by the offset at which it
//! begins. `docs/metadata-format.md` describes both.
//!
//! Calling contract. [`MetadataLog::open`] or [`MetadataLog::create`] runs to its end before anything else. Then operations are executed one at
//! a time: [`MetadataLog::append`] returns a write; if [`MetadataLog::allocate`] asks for space it is had first; when the
//! write has succeeded the caller says [`MetadataLog::committed`], and only then are the records true, to be replayed and
//! shown. When [`MetadataLog::wants_snapshot`], the operations
//! of [`MetadataLog::compact`] are executed in their order; when they have succeeded the caller says
//! [`MetadataLog::compacted`]. What fails for lack of space may be forgotten, or asked for again; any other failure
//! ends the process.

mod codec;
#[cfg(test)]
pub(crate) mod disk;
mod file;
#[cfg(test)]
pub(crate) mod samples;
mod snapshot;
#[cfg(test)]
mod tests;

use millstream_storage::{DiskError, DiskOp, DiskReply, FilePath};

use crate::image::ClusterImage;
use crate::random_id;
use crate::record::MetadataRecord;

pub use codec::Decoded;
pub use file::{ENTRY_PAYLOAD_BYTES_MAX, Scan, encode_entry, encode_header, scan};
pub use snapshot::{Snapshot, decode_snapshot, encode_snapshot};

/// Where the files lie, below the data directory.
pub const DIRECTORY: &str = "metadata";

/// The log is replaced by a snapshot when it is larger than this and than the snapshot before it, in bytes.
pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Space that stays allocated behind the end of the log for decisions that free some (deleting topics, shorter retention),
/// in bytes: a disk that is full to the last byte must not keep anybody from them.
pub const RESERVE_BYTES: u64 = 1024 * 1024;

/// The file is extended by this much beyond the reserve at a time, in bytes: a decision in hundreds waits for it.
const ALLOCATE_BYTES: u64 = 1024 * 1024;

/// Bytes read at a time.
pub const READ_BYTES: usize = 1024 * 1024;

/// Largest file that is read, in bytes; the bounds of an image keep far below it.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// The identity of one log file: random, known to nobody outside, part of every checksum in it. No block of another
/// file, nor bytes that a client made up, can be taken for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub [u8; 16]);

/// A file that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Which file, below the data directory.
    pub path: String,
    /// Where in it, in bytes.
    pub position: u64,
    /// What is wrong.
    pub why: String,
}

impl std::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is damaged at byte {}: {}; nothing was changed: restore the file from a copy",
            self.path, self.position, self.why
        )
    }
}

/// Why the log cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A file cannot be trusted.
    Corrupt(Corrupt),
    /// An operation failed.
    Disk {
        /// The file it was on.
        path: String,
        /// Why it failed.
        error: DiskError,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Corrupt(corrupt) => write!(f, "{corrupt}"),
            OpenError::Disk { path, error } => write!(f, "{path}: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Executes one operation and waits for it.
pub type Io<'a> = dyn FnMut(DiskOp) -> Result<DiskReply, DiskError> + 'a;

/// A log that was there.
#[derive(Clone, Debug)]
pub struct OpenedLog {
    /// Its end.
    pub log: MetadataLog,
    /// The replay of its records.
    pub image: ClusterImage,
    /// The node that it names, if it was written when the log itself did.
    pub node_id: Option<i32>,
}

/// The end of the metadata log.
#[derive(Clone, Debug)]
pub struct MetadataLog {
    file_id: FileId,
    base_offset: u64,
    /// The offset of the last record committed.
    offset: u64,
    /// Where the next entry goes.
    position: u64,
    /// Up to where the file has its space, zeros behind the last entry.
    allocated: u64,
    /// Size of the last snapshot, 0 before the first.
    snapshot_bytes: u64,
    pending: Option<Pending>,
    log_bytes_max: u64,
    /// No snapshot before the log is this long: after one that failed for lack of space.
    retry_at: u64,
}

/// What was asked for and of which no success was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// An entry of so many records and bytes.
    Append { records: u64, bytes: u64 },
    /// A snapshot of so many bytes and the log file of this identity after it.
    Compaction { snapshot_bytes: u64, file_id: FileId },
}

impl MetadataLog {
    /// Reads what is there and finishes what a crash interrupted; none where there is no log.
    pub fn open(io: &mut Io<'_>) -> Result<Option<OpenedLog>, OpenError> {
        match read_snapshot(io)? {
            Some((snapshot_bytes, snapshot)) => {
                let opened = open_log(io, snapshot)?;
                let log = MetadataLog { snapshot_bytes, ..opened.log };
                Ok(Some(OpenedLog { log, ..opened }))
            }
            None if log_files(io)?.is_empty() => Ok(None),
            None => open_log(io, Snapshot::default()).map(Some),
        }
    }

    /// Makes the log of a new cluster; its first record says which. What an interrupted first start has left is written
    /// over.
    pub fn create(
        io: &mut Io<'_>,
        file_id: FileId,
        cluster_id: [u8; 16],
    ) -> Result<(MetadataLog, ClusterImage), OpenError> {
        run(io, DiskOp::CreateDirectory { path: DIRECTORY.into() })?;
        run(io, create(file_id, 0))?;
        let mut log = MetadataLog::begin(file_id, 0);
        let mut image = ClusterImage::new();
        let first = MetadataRecord::Cluster { cluster_id };
        run(io, log.append(std::slice::from_ref(&first)))?;
        log.committed();
        image.replay(&first);
        Ok((log, image))
    }

    /// The state of a log file that holds nothing but its header.
    fn begin(file_id: FileId, base_offset: u64) -> Self {
        MetadataLog {
            file_id,
            base_offset,
            offset: base_offset,
            position: millstream_storage::BLOCK_BYTES as u64,
            allocated: millstream_storage::BLOCK_BYTES as u64,
            snapshot_bytes: 0,
            pending: None,
            log_bytes_max: LOG_BYTES_MAX,
            retry_at: 0,
        }
    }

    /// The log is replaced by a snapshot when it is larger than `bytes`, instead of [`LOG_BYTES_MAX`], and than the
    /// snapshot before it.
    pub fn with_log_bytes_max(self, bytes: u64) -> Self {
        MetadataLog { log_bytes_max: bytes, ..self }
    }

    /// The offset of the last record committed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The write that makes `records` durable, all or none of them. They follow those committed before; a write asked
    /// for earlier that was not committed is forgotten.
    ///
    /// Panics when there are none, or more than [`ENTRY_PAYLOAD_BYTES_MAX`] bytes of them.
    pub fn append(&mut self, records: &[MetadataRecord]) -> DiskOp {
        let entry = encode_entry(self.file_id, self.offset + 1, records);
        self.pending = Some(Pending::Append { records: records.len() as u64, bytes: entry.len() as u64 });
        DiskOp::Write { path: log_path(self.base_offset), position: self.position, data: vec![entry], durable: true }
    }

    /// The space that is wanted before the write of the last [`MetadataLog::append`]; then
    /// [`MetadataLog::allocated`]. When there is none, only a decision that frees some is written nevertheless
    /// ([`crate::ControllerRequest::frees_space`]), into what was kept for it.
    pub fn allocate(&self) -> Option<DiskOp> {
        let Some(Pending::Append { bytes, .. }) = self.pending else {
            panic!("no entry was asked for");
        };
        let wanted = self.position + bytes + RESERVE_BYTES;
        (wanted > self.allocated)
            .then(|| DiskOp::Allocate { path: log_path(self.base_offset), bytes: wanted + ALLOCATE_BYTES })
    }

    /// The operation of [`MetadataLog::allocate`] has succeeded.
    pub fn allocated(&mut self) {
        if let Some(DiskOp::Allocate { bytes, .. }) = self.allocate() {
            self.allocated = bytes;
        }
    }

    /// The write of the last [`MetadataLog::append`] has succeeded: its records are true.
    pub fn committed(&mut self) {
        let Some(Pending::Append { records, bytes }) = self.pending.take() else {
            panic!("no entry was asked for");
        };
        self.offset += records;
        self.position += bytes;
        self.allocated = self.allocated.max(self.position);
    }

    /// Whether the log is long enough to be replaced by a snapshot.
    pub fn wants_snapshot(&self) -> bool {
        self.position > self.log_bytes_max.max(self.snapshot_bytes).max(self.retry_at)
    }

    /// Prepares to replace the log by a snapshot of `image`, which has all committed records: these operations, one
    /// after the other, then [`MetadataLog::compacted`]. A crash between or within any of them loses nothing. Nothing
    /// is appended while they are under way; if they fail for lack of space the log goes on as it was, and wants a
    /// snapshot again when it has grown by another quarter of its bound.
    pub fn compact(&mut self, image: &ClusterImage) -> [DiskOp; 2] {
        assert_eq!(image.offset(), self.offset, "an image that is behind the log");
        self.retry_at = self.position + self.log_bytes_max / 4;
        let file_id = next_file_id(self.file_id, self.offset);
        let snapshot = encode_snapshot(image);
        self.pending = Some(Pending::Compaction { snapshot_bytes: snapshot.len() as u64, file_id });
        // The log file first: as long as the snapshot is not there, it is of no account.
        let replace = DiskOp::Replace { path: snapshot_path(), data: snapshot };
        [create(file_id, self.offset), replace]
    }

    /// The operations of the last [`MetadataLog::compact`] have succeeded. The operation that is returned removes the
    /// old log file; if that is never done, the next start does it.
    pub fn compacted(&mut self) -> DiskOp {
        let Some(Pending::Compaction { snapshot_bytes, file_id }) = self.pending.take() else {
            panic!("no compaction was asked for");
        };
        let old = log_path(self.base_offset);
        *self = MetadataLog {
            snapshot_bytes,
            log_bytes_max: self.log_bytes_max,
            ..MetadataLog::begin(file_id, self.offset)
        };
        DiskOp::Remove { path: old }
    }
}

/// Makes a log file that holds nothing yet. Atomic, so that a header is either whole or not there.
fn create(file_id: FileId, base_offset: u64) -> DiskOp {
    DiskOp::Replace { path: log_path(base_offset), data: encode_header(file_id, base_offset) }
}

/// Where the snapshot lies.
fn snapshot_path() -> FilePath {
    format!("{DIRECTORY}/snapshot").into()
}

/// Where the log lies that begins after this offset.
pub(crate) fn log_path(base_offset: u64) -> FilePath {
    format!("{DIRECTORY}/{base_offset:020}.log").into()
}

/// The offset that a log file's name says, if it is one.
fn base_offset_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let base_offset = digits.parse().ok()?;
    (digits.len() == 20).then_some(base_offset)
}

/// The identity of the file that follows a file of this one.
fn next_file_id(file_id: FileId, base_offset: u64) -> FileId {
    let [high, low] = random_id::halves(u128::from_be_bytes(file_id.0));
    let high = random_id::mix(high ^ base_offset);
    let low = random_id::mix(low ^ high);
    FileId(random_id::whole([high, low]).to_be_bytes())
}

/// Opens the log that follows the snapshot, or the very first, and clears away what an interrupted compaction left.
fn open_log(io: &mut Io<'_>, snapshot: Snapshot) -> Result<OpenedLog, OpenError> {
    let wanted = snapshot.image.offset();
    let bases = log_files(io)?;
    if !bases.contains(&wanted) {
        let path = if bases.iter().any(|base| *base > wanted) { snapshot_path() } else { log_path(wanted) };
        let why = format!("it is missing or old: snapshot at offset {wanted}, logs from {bases:?}");
        return Err(corrupt(&path, why));
    }
    let opened = read_log(io, snapshot)?;
    for base in bases {
        let path = log_path(base);
        if base > wanted {
            // Made for a snapshot that was never written, so nothing was ever appended to it.
            let bytes = read(io, &path)?;
            if !scan(&path, &bytes).map_err(OpenError::Corrupt)?.entries.is_empty() {
                let why = format!("it ends at offset {wanted}, and {path} has records");
                return Err(corrupt(&snapshot_path(), why));
            }
        }
        if base != wanted {
            run(io, DiskOp::Remove { path })?;
        }
    }
    Ok(opened)
}

/// Replays the log file that begins where the snapshot ends.
fn read_log(io: &mut Io<'_>, snapshot: Snapshot) -> Result<OpenedLog, OpenError> {
    let Snapshot { mut image, mut node_id } = snapshot;
    let base_offset = image.offset();
    let path = log_path(base_offset);
    let bytes = read(io, &path)?;
    let scan = scan(&path, &bytes).map_err(OpenError::Corrupt)?;
    if scan.base_offset != base_offset {
        let why = format!("its header says that it begins at offset {}", scan.base_offset);
        return Err(corrupt(&path, why));
    }
    for entry in &scan.entries {
        for record in &entry.records {
            let offset = image.offset() + 1;
            image.check(record).map_err(|why| corrupt(&path, format!("the record at offset {offset}: {why}")))?;
            image.replay(record);
        }
        image.pass_over(entry.retired);
        node_id = entry.node_id.or(node_id);
    }
    let mut allocated = bytes.len() as u64;
    let valid_bytes = usize::try_from(scan.valid_bytes).expect("what was read");
    if bytes.get(valid_bytes..).unwrap_or_default().iter().any(|byte| *byte != 0) {
        // What a crash left of a write must not lie behind the next entry.
        let truncate = DiskOp::Truncate { path, bytes: scan.valid_bytes };
        run(io, truncate)?;
        allocated = scan.valid_bytes;
    } else {
        // The last entry's write may have been under way when the process ended: what can be read need not be durable,
        // and must be before anything is written behind it.
        run(io, DiskOp::Sync { path })?;
    }
    let log = MetadataLog {
        offset: image.offset(),
        position: scan.valid_bytes,
        allocated: allocated.max(scan.valid_bytes),
        ..MetadataLog::begin(scan.file_id, base_offset)
    };
    Ok(OpenedLog { log, image, node_id })
}

fn corrupt(path: &FilePath, why: String) -> OpenError {
    OpenError::Corrupt(Corrupt { path: path.to_string(), position: 0, why })
}

/// The offsets at which the log files begin, in order.
fn log_files(io: &mut Io<'_>) -> Result<Vec<u64>, OpenError> {
    let reply = run(io, DiskOp::List { path: DIRECTORY.into() })?;
    let DiskReply::Names(names) = reply else {
        panic!("a list brings names, not {reply:?}");
    };
    let mut bases: Vec<u64> = names.iter().filter_map(|(name, _)| base_offset_of(name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// The snapshot's size and contents, if there is one.
fn read_snapshot(io: &mut Io<'_>) -> Result<Option<(u64, Snapshot)>, OpenError> {
    let path = snapshot_path();
    match read(io, &path) {
        Ok(bytes) => {
            let snapshot = decode_snapshot(&path, &bytes).map_err(OpenError::Corrupt)?;
            Ok(Some((bytes.len() as u64, snapshot)))
        }
        Err(OpenError::Disk { error: DiskError::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A whole file, read in pieces.
fn read(io: &mut Io<'_>, path: &FilePath) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    loop {
        let op = DiskOp::Read { path: path.clone(), position: bytes.len() as u64, bytes: READ_BYTES };
        let reply = run(io, op)?;
        let DiskReply::Data(piece) = reply else {
            panic!("a read brings data, not {reply:?}");
        };
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(OpenError::Corrupt(Corrupt {
                path: path.to_string(),
                position: FILE_BYTES_MAX,
                why: format!("the file is larger than {FILE_BYTES_MAX} bytes"),
            }));
        }
        if piece.len() < READ_BYTES {
            return Ok(bytes);
        }
    }
}

/// Executes an operation; the error names its file.
pub(crate) fn run(io: &mut Io<'_>, op: DiskOp) -> Result<DiskReply, OpenError> {
    let path = match &op {
        DiskOp::Write { path, .. }
        | DiskOp::Read { path, .. }
        | DiskOp::Replace { path, .. }
        | DiskOp::Sync { path }
        | DiskOp::Truncate { path, .. }
        | DiskOp::Remove { path }
        | DiskOp::CreateDirectory { path }
        | DiskOp::List { path } => path.clone(),
        other => panic!("the metadata log does not ask for {other:?}"),
    };
    io(op).map_err(|error| OpenError::Disk { path: path.to_string(), error })
}
