//! The metadata log: how its records are written (`codec`), and what all that read its files share. The log itself is the
//! quorum's ([`crate::quorum`]); `v1` reads what one node kept before there was one.

pub(crate) mod codec;
#[cfg(test)]
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod samples;
pub mod v1;

use millstream_storage::{DiskError, DiskOp, DiskReply, FilePath};

pub use codec::{Decoded, decode_records};

/// Where the files lie, below the data directory.
pub const DIRECTORY: &str = "metadata";

/// The snapshot, below the data directory: where it is, there is a log of a quorum.
pub const SNAPSHOT: &str = "metadata/snapshot";

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

/// A whole file, read in pieces.
pub(crate) fn read(io: &mut Io<'_>, path: &FilePath) -> Result<Vec<u8>, OpenError> {
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
