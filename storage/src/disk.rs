//! What the log asks of a disk, as plain data. The broker's driver executes it on a real file system, the simulator on
//! one in memory. Paths are relative to the data directory.

use std::sync::Arc;

use bytes::Bytes;

use crate::compaction::{Compaction, Step};

/// The unit and alignment of every direct write, in memory, position and length.
pub const BLOCK_BYTES: usize = 4096;

/// A file or directory below the data directory, with `/` between its parts.
pub type FilePath = Arc<str>;

/// Names one operation until its result comes back; unique within a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskToken(pub u64);

/// One disk operation. Operations that are under way at the same time may finish in any order; whoever needs an order
/// waits for the first before asking for the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Direct write. The file is created if it is missing (its directory exists); its name need not survive a loss of power
    /// by that. The driver pads the end with zeros to the next multiple of [`BLOCK_BYTES`].
    Write {
        /// The file.
        path: FilePath,
        /// Where in it, a multiple of [`BLOCK_BYTES`].
        position: u64,
        /// What to write, back to back.
        data: Vec<Bytes>,
        /// The result is sent only when the bytes survive a loss of power.
        durable: bool,
    },
    /// `fdatasync`: all that was written to the file before this was asked for survives a loss of power.
    Sync {
        /// The file.
        path: FilePath,
    },
    /// Makes much durable at once, which takes far less time than one after the other: all that was written to the files
    /// before this was asked for, and the names of the files that were in the directories. Until it ends, any of it may
    /// survive a loss of power and any not.
    SyncAll {
        /// The files.
        files: Vec<FilePath>,
        /// The directories whose names are made durable.
        directories: Vec<FilePath>,
    },
    /// Creates the file if it is missing, makes it at least so long with space reserved, and makes its name survive a loss
    /// of power. Existing contents stay.
    Allocate {
        /// The file.
        path: FilePath,
        /// The length that it has at least.
        bytes: u64,
    },
    /// Reads through the page cache. Reply: [`DiskReply::Data`].
    Read {
        /// The file.
        path: FilePath,
        /// The first byte read.
        position: u64,
        /// How many bytes; there are fewer at the end of the file.
        bytes: usize,
    },
    /// Atomically and durably replaces the file's whole contents (temporary file, sync, rename, sync of the directory).
    Replace {
        /// The file.
        path: FilePath,
        /// Its contents from now on.
        data: Bytes,
    },
    /// Sets the file's exact length and syncs it. A file that is missing is an error.
    Truncate {
        /// The file.
        path: FilePath,
        /// Its length from now on.
        bytes: u64,
    },
    /// Renames a file or directory, replacing a file, and makes it survive a loss of power.
    Rename {
        /// The name that it has.
        from: FilePath,
        /// The name that it gets.
        to: FilePath,
    },
    /// Removes a file or a whole directory; one that is missing is no error. Durable.
    Remove {
        /// The file or directory.
        path: FilePath,
    },
    /// Creates a directory and its parents; one that exists is no error. Durable.
    CreateDirectory {
        /// The directory.
        path: FilePath,
    },
    /// Creates many directories and their parents at once; those that exist are no error. Durable when it ends; until then
    /// any of them may be there and any not.
    CreateDirectories {
        /// The directories.
        paths: Vec<FilePath>,
    },
    /// The names in a directory, in no order; none when it is missing. Reply: [`DiskReply::Names`].
    List {
        /// The directory.
        path: FilePath,
    },
    /// Operations that do not depend on each other, at once or in any order. It ends when all of them have, and fails if one
    /// of them does. They bring nothing back.
    All(Vec<DiskOp>),
    /// Takes a compaction a step further, with operations of its own, at low priority: it may take milliseconds. Reply:
    /// [`DiskReply::Compacted`].
    Compact(Box<Compaction>),
}

/// What an operation that succeeded brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskReply {
    /// Nothing but the success.
    Done,
    /// The bytes read.
    Data(Bytes),
    /// The names listed: (name, is a directory).
    Names(Vec<(String, bool)>),
    /// The compaction, and what the step came to.
    Compacted(Box<Compaction>, Step),
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No such file or directory.
    NotFound,
    /// ENOSPC or EDQUOT: nothing was harmed; it may be asked for again when there is room.
    NoSpace,
    /// EIO and everything else. After a failed write or sync nothing may be assumed of the file's contents
    /// ("fsyncgate"), so it is never tried again: the process stops acknowledging and exits.
    Failed(String),
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::NotFound => write!(f, "no such file or directory"),
            DiskError::NoSpace => write!(f, "no space left on the device"),
            DiskError::Failed(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for DiskError {}
