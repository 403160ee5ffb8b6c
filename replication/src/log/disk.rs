//! A disk for tests: files in memory, and a crash within any operation.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_storage::random::Random;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply};

use super::READ_BYTES;

/// Files in memory. Every operation is durable when it is done; the one under way when the disk crashes is done in
/// part, by the numbers of `torn`.
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// How many operations that change something are done before the crash.
    pub(crate) until_crash: Option<u64>,
    pub(crate) changes: u64,
    pub(crate) torn: Random,
    pub(crate) crashed: bool,
    pub(crate) full: bool,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Disk {
            files: BTreeMap::new(),
            until_crash: None,
            changes: 0,
            torn: Random::new(0),
            crashed: false,
            full: false,
        }
    }

    /// The same files after the power came back.
    pub(crate) fn restarted(self) -> Self {
        Disk { files: self.files, ..Disk::new() }
    }

    pub(crate) fn run(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        assert!(!self.crashed, "an operation after the crash");
        // All that is written here is durable: a sync changes nothing.
        if !matches!(op, DiskOp::Read { .. } | DiskOp::List { .. } | DiskOp::Sync { .. }) {
            if self.until_crash == Some(self.changes) {
                self.crashed = true;
                self.tear(op);
                return Err(DiskError::Failed("crash".into()));
            }
            self.changes += 1;
        }
        if self.full && self.takes_space(&op) {
            return Err(DiskError::NoSpace);
        }
        match op {
            DiskOp::Write { path, position, data, durable } => {
                assert!(durable);
                self.write(&path, position as usize, &data.concat(), |_| true);
                Ok(DiskReply::Done)
            }
            DiskOp::Read { path, position, bytes } => {
                assert!(bytes <= READ_BYTES);
                let file = self.files.get(&*path).ok_or(DiskError::NotFound)?;
                let from = file.len().min(position as usize);
                let to = file.len().min(from + bytes);
                Ok(DiskReply::Data(Bytes::copy_from_slice(&file[from..to])))
            }
            DiskOp::Replace { path, data } => {
                self.files.insert(path.to_string(), data.to_vec());
                Ok(DiskReply::Done)
            }
            DiskOp::Truncate { path, bytes } => {
                let file = self.files.get_mut(&*path).ok_or(DiskError::NotFound)?;
                file.resize(bytes as usize, 0);
                Ok(DiskReply::Done)
            }
            DiskOp::Allocate { path, bytes } => {
                let file = self.files.entry(path.to_string()).or_default();
                file.resize(file.len().max(bytes as usize), 0);
                Ok(DiskReply::Done)
            }
            DiskOp::Remove { path } => {
                self.files.remove(&*path);
                Ok(DiskReply::Done)
            }
            DiskOp::CreateDirectory { .. } | DiskOp::Sync { .. } => Ok(DiskReply::Done),
            DiskOp::List { path } => {
                let prefix = format!("{path}/");
                let names = self.files.keys().filter_map(|file| file.strip_prefix(&prefix));
                Ok(DiskReply::Names(names.map(|name| (name.to_string(), false)).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn takes_space(&self, op: &DiskOp) -> bool {
        let grows = |path: &str, end: u64| self.files.get(path).is_none_or(|file| end > file.len() as u64);
        match op {
            DiskOp::Write { path, position, data, .. } => {
                grows(path, position + data.iter().map(|part| part.len() as u64).sum::<u64>())
            }
            DiskOp::Allocate { path, bytes } => grows(path, *bytes),
            DiskOp::Replace { .. } => true,
            _ => false,
        }
    }

    fn write(&mut self, path: &str, position: usize, data: &[u8], mut done: impl FnMut(usize) -> bool) {
        assert_eq!(position % BLOCK_BYTES, 0);
        let file = self.files.entry(path.to_string()).or_default();
        let end = position + data.len().next_multiple_of(BLOCK_BYTES);
        file.resize(file.len().max(end), 0);
        for (block, data) in data.chunks(BLOCK_BYTES).enumerate() {
            if done(block) {
                let at = position + block * BLOCK_BYTES;
                file[at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    pub(crate) fn tear(&mut self, op: DiskOp) {
        let whole = self.torn.below(2) == 0;
        match op {
            DiskOp::Write { path, position, data, .. } => {
                let lot = self.torn.next();
                self.write(&path, position as usize, &data.concat(), |block| lot >> (block % 64) & 1 == 1);
            }
            _ if whole => {
                self.until_crash = None;
                self.crashed = false;
                let _ = self.run(op);
                self.crashed = true;
            }
            _ => {}
        }
    }
}
