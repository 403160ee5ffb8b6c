//! What recovery asks of the disk: one operation after the other, each with the reason for the error message.

use bytes::{Bytes, BytesMut};

use super::directories::Directories;
use super::{Io, READ_BYTES_MAX, RecoveryError};
use crate::PartitionKey;
use crate::bug::{Bug, is_planted};
use crate::checkpoint::{Checkpoint, journal_path};
use crate::disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use crate::index::{INDEX_FILE_BYTES_MAX, SparseIndex};
use crate::journal::{self, Entry};
use crate::segment::segment_path;

/// Disk operations with the reason for each, for the error message.
pub(super) struct Disk<'a, 'io> {
    pub io: &'a mut Io<'io>,
}

impl Disk<'_, '_> {
    pub fn run(&mut self, what: &str, op: DiskOp) -> Result<DiskReply, RecoveryError> {
        (self.io)(op).map_err(|error| RecoveryError::Disk { what: format!("{what} failed"), error })
    }

    pub fn list(&mut self, path: &str) -> Result<Vec<(String, bool)>, RecoveryError> {
        match self.run("listing a directory", DiskOp::List { path: path.into() })? {
            DiskReply::Names(names) => Ok(names),
            _ => unreachable!("a list answers with names"),
        }
    }

    pub fn generations(&mut self) -> Result<Vec<u64>, RecoveryError> {
        let mut generations: Vec<u64> = self
            .list("shards")?
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("gen-").and_then(|number| number.parse().ok()))
            .collect();
        generations.sort_unstable();
        Ok(generations)
    }

    pub fn shards(&mut self, generation_directory: &str) -> Result<Vec<usize>, RecoveryError> {
        let mut shards: Vec<usize> = self
            .list(generation_directory)?
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("shard-").and_then(|number| number.parse().ok()))
            .collect();
        shards.sort_unstable();
        Ok(shards)
    }

    pub fn read(&mut self, path: &FilePath, position: u64, bytes: usize) -> Result<Bytes, RecoveryError> {
        let op = DiskOp::Read { path: path.clone(), position, bytes };
        match self.run(&format!("reading {path}"), op)? {
            DiskReply::Data(data) => Ok(data),
            _ => unreachable!("a read answers with data"),
        }
    }

    /// The index of a segment, if its file is there and whole.
    pub fn read_index(
        &mut self,
        path: &FilePath,
        key: PartitionKey,
        base_offset: i64,
    ) -> Result<Option<SparseIndex>, RecoveryError> {
        match self.read(path, 0, INDEX_FILE_BYTES_MAX) {
            Ok(bytes) => Ok(SparseIndex::decode(&bytes, key, base_offset).ok()),
            Err(RecoveryError::Disk { error: DiskError::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a file from `start`, at most `bytes_max`, in bounded pieces.
    pub fn read_all(&mut self, path: &FilePath, start: u64, bytes_max: u64) -> Result<Bytes, RecoveryError> {
        let mut all = BytesMut::new();
        loop {
            let wanted = READ_BYTES_MAX.min((bytes_max - all.len() as u64) as usize);
            let piece = self.read(path, start + all.len() as u64, wanted)?;
            if all.is_empty() && piece.len() as u64 == bytes_max {
                return Ok(piece);
            }
            all.extend_from_slice(&piece);
            if piece.len() < wanted || all.len() as u64 == bytes_max {
                return Ok(all.freeze());
            }
        }
    }

    /// The slots that may hold groups the checkpoint does not cover. Most of a journal is covered, and reading it would
    /// be most of the restart.
    ///
    /// Slots are filled one after the other, each from its front. So when the checked first group of the slot filled
    /// next is still covered, or just follows what is, this slot holds nothing newer. A slot whose first group is damaged
    /// or missing tells nothing: it is read.
    pub fn live_slots(&mut self, directory: &str, checkpoint: &Checkpoint) -> Result<Vec<u32>, RecoveryError> {
        let mut live = Vec::new();
        let mut firsts = Vec::new();
        for slot in 0..checkpoint.slots {
            let path = journal_path(directory);
            let start = u64::from(slot) * checkpoint.slot_bytes;
            let mut front = self.read(&path, start, BLOCK_BYTES)?;
            if let Some(bytes) = journal::claimed_bytes(&front).filter(|&bytes| bytes as u64 <= checkpoint.slot_bytes) {
                front = self.read(&path, start, bytes)?;
            }
            match journal::first(&front, &checkpoint.salt, checkpoint.shard, slot) {
                Some(group) => firsts.push((group.sequence, slot)),
                None => live.push(slot),
            }
        }
        firsts.sort_unstable();
        for (index, &(_, slot)) in firsts.iter().enumerate() {
            let is_covered = firsts.get(index + 1).is_some_and(|&(next, _)| next <= checkpoint.sequence + 1);
            if !is_covered {
                live.push(slot);
            }
        }
        Ok(live)
    }

    /// Whether every extent of the last group is in its segment as the group says.
    pub fn extents_arrived(&mut self, directories: &Directories<'_>, entries: &[Entry]) -> Result<bool, RecoveryError> {
        let mut arrived = Vec::new();
        for entry in entries {
            let Entry::Extent { key, segment, position, bytes, crc, .. } = entry else { continue };
            // What is left of a partition that was being removed need not have it.
            let Some(directory) = directories.of(*key) else { continue };
            let path = segment_path(&directory, *segment, 0);
            let op = DiskOp::Read { path: path.clone(), position: *position, bytes: *bytes as usize };
            match (self.io)(op) {
                Ok(DiskReply::Data(data))
                    if data.len() == *bytes as usize
                        && (crc32c::crc32c(&data) == *crc || is_planted(Bug::SkipChecksum)) =>
                {
                    arrived.push(path);
                }
                Err(DiskError::NotFound) if !directories.is_known(*key) => {}
                Ok(_) | Err(DiskError::NotFound) => return Ok(false),
                Err(error) => {
                    return Err(RecoveryError::Disk { what: "reading a segment failed".to_string(), error });
                }
            }
        }
        // Their writes were under way when the process ended: what can be read need not be durable.
        self.sync_all("syncing segments", arrived, Vec::new())?;
        Ok(true)
    }

    /// Operations that do not depend on each other, by one.
    pub fn all(&mut self, what: &str, ops: Vec<DiskOp>) -> Result<(), RecoveryError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.run(what, DiskOp::All(ops)).map(|_| ())
    }

    /// Creates directories, durably, by one operation.
    pub fn create_directories(&mut self, what: &str, paths: Vec<FilePath>) -> Result<(), RecoveryError> {
        if paths.is_empty() {
            return Ok(());
        }
        self.run(what, DiskOp::CreateDirectories { paths }).map(|_| ())
    }

    /// Makes durable what was written to files, and the names of those that were created in directories, by one operation.
    pub fn sync_all(
        &mut self,
        what: &str,
        files: Vec<FilePath>,
        directories: Vec<FilePath>,
    ) -> Result<(), RecoveryError> {
        if files.is_empty() && directories.is_empty() {
            return Ok(());
        }
        self.run(what, DiskOp::SyncAll { files, directories }).map(|_| ())
    }

    /// A block of a file that is overwritten in part; nothing if the file may be missing, and is.
    fn old_block(&mut self, path: &FilePath, position: u64, may_be_missing: bool) -> Result<Bytes, RecoveryError> {
        match self.read(path, position, BLOCK_BYTES) {
            Err(RecoveryError::Disk { error: DiskError::NotFound, .. }) if may_be_missing => Ok(Bytes::new()),
            result => result,
        }
    }

    /// Writes `data` at `position`, keeping what else is in the blocks at both ends.
    pub fn overlay(
        &mut self,
        path: &FilePath,
        position: u64,
        data: &[u8],
        may_be_missing: bool,
    ) -> Result<(), RecoveryError> {
        let block = BLOCK_BYTES as u64;
        let start = position - position % block;
        let end = (position + data.len() as u64).next_multiple_of(block);
        let mut buffer = BytesMut::zeroed((end - start) as usize);
        let first = self.old_block(path, start, may_be_missing)?;
        buffer[..first.len()].copy_from_slice(&first);
        if end - start > block {
            let last = self.old_block(path, end - block, may_be_missing)?;
            let at = (end - block - start) as usize;
            buffer[at..at + last.len()].copy_from_slice(&last);
        }
        let at = (position - start) as usize;
        buffer[at..at + data.len()].copy_from_slice(data);
        let op = DiskOp::Write { path: path.clone(), position: start, data: vec![buffer.freeze()], durable: false };
        self.run(&format!("writing {path}"), op).map(|_| ())
    }
}
