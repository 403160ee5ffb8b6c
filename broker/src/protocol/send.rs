//! What a response is made of when it is sent: bytes in memory, and ranges of files that never pass through ours.

use bytes::Bytes;
use millstream_storage::FilePath;

/// A piece of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendPart {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a file that a prefetch has made resident: `sendfile`.
    File {
        /// The file.
        path: FilePath,
        /// Its first byte.
        position: u64,
        /// Its length.
        bytes: usize,
    },
}

impl SendPart {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            SendPart::Memory(bytes) => bytes.len(),
            SendPart::File { bytes, .. } => *bytes,
        }
    }
}
