//! A disk in memory that does what it is told: for recovery, and for the shard as a whole. The simulator's disk, which
//! loses power, is part of the broker's tests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};

/// The most that a file may hold, in bytes: beyond it the disk is full.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Files by their paths.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FilePath, Vec<u8>>,
    directories: BTreeSet<String>,
}

impl Disk {
    /// Puts a whole file there, with its directories.
    pub fn put(&mut self, path: &str, contents: Vec<u8>) {
        self.make_directory(path.rsplit_once('/').map_or("", |(directory, _)| directory));
        self.files.insert(path.into(), contents);
    }

    /// Bytes of a file, fewer at its end.
    pub fn peek(&self, path: &str, position: u64, bytes: usize) -> Option<Bytes> {
        let file = self.files.get(path)?;
        let start = position.min(file.len() as u64) as usize;
        let end = start.saturating_add(bytes).min(file.len());
        Some(Bytes::copy_from_slice(&file[start..end]))
    }

    /// Executes an operation.
    pub fn execute(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        match op {
            DiskOp::Write { path, position, data, .. } => {
                assert_eq!(position % BLOCK_BYTES as u64, 0, "direct writes are aligned");
                let bytes: usize = data.iter().map(Bytes::len).sum();
                let end = position.saturating_add(bytes as u64).next_multiple_of(BLOCK_BYTES as u64);
                let file = self.grow(&path, end)?;
                let mut at = position as usize;
                for slice in data {
                    file[at..at + slice.len()].copy_from_slice(&slice);
                    at += slice.len();
                }
                file[at..end as usize].fill(0);
            }
            DiskOp::Allocate { path, bytes } => drop(self.grow(&path, bytes)?),
            DiskOp::Read { path, position, bytes } => {
                return self.peek(&path, position, bytes).map(DiskReply::Data).ok_or(DiskError::NotFound);
            }
            DiskOp::Replace { path, data } => drop(self.files.insert(path, data.to_vec())),
            DiskOp::Truncate { path, bytes } => {
                let file = self.files.get_mut(&path).ok_or(DiskError::NotFound)?;
                if bytes > FILE_BYTES_MAX {
                    return Err(DiskError::NoSpace);
                }
                file.resize(bytes as usize, 0);
            }
            DiskOp::Rename { from, to } => self.rename(&from, &to),
            DiskOp::Remove { path } => {
                self.files.retain(|name, _| !is_at_or_below(name, &path));
                self.directories.retain(|name| !is_at_or_below(name, &path));
            }
            DiskOp::CreateDirectory { path } => self.make_directory(&path),
            DiskOp::CreateDirectories { paths } => paths.iter().for_each(|path| self.make_directory(path)),
            DiskOp::All(ops) => {
                for op in ops {
                    self.execute(op)?;
                }
            }
            DiskOp::List { path } => return Ok(DiskReply::Names(self.list(&path))),
            DiskOp::Sync { .. } | DiskOp::SyncAll { .. } => {}
            DiskOp::Compact(mut compaction) => {
                let step = compaction.step(&mut |op| self.execute(op))?;
                return Ok(DiskReply::Compacted(compaction, step));
            }
        }
        Ok(DiskReply::Done)
    }

    fn grow(&mut self, path: &FilePath, bytes: u64) -> Result<&mut Vec<u8>, DiskError> {
        if bytes > FILE_BYTES_MAX {
            return Err(DiskError::NoSpace);
        }
        let file = self.files.entry(path.clone()).or_default();
        file.resize(file.len().max(bytes as usize), 0);
        Ok(file)
    }

    fn make_directory(&mut self, path: &str) {
        let mut at = path;
        while !at.is_empty() && self.directories.insert(at.to_owned()) {
            at = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let renamed = |name: &str| is_at_or_below(name, from).then(|| format!("{to}{}", &name[from.len()..]));
        for name in self.files.keys().cloned().collect::<Vec<_>>() {
            if let Some(new) = renamed(&name) {
                let file = self.files.remove(&name).expect("just listed");
                self.files.insert(new.into(), file);
            }
        }
        let directories = std::mem::take(&mut self.directories);
        self.directories = directories.into_iter().map(|name| renamed(&name).unwrap_or(name)).collect();
    }

    fn list(&self, directory: &str) -> Vec<(String, bool)> {
        let child = |name: &str| {
            let rest = name.strip_prefix(directory)?.strip_prefix('/')?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        let files = self.files.keys().filter_map(|name| Some((child(name)?, false)));
        files.chain(self.directories.iter().filter_map(|name| Some((child(name)?, true)))).collect()
    }
}

fn is_at_or_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
