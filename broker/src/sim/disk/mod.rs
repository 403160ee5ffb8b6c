//! A disk in memory that executes every [`DiskOp`] and is as unkind as its documentation allows.
//!
//! What a loss of power leaves: of everything written and not made durable, any subset of the 512-byte sectors, each
//! in any of the versions it had since it was last durable; of operations under way, all, nothing or (writes, removal
//! of a directory) a part; of a name that nothing made durable, perhaps nothing. A killed process loses only what was
//! under way. A failed sync marks what waited for it, or some of it, as clean: no later sync writes it, though reads still
//! show it ("fsyncgate").
//!
//! Beyond that documentation it can be damaged: a bit flips at rest or on its way to a reader, content is altered.
//!
//! Operations take effect when they complete. The simulator completes them in an order of its choosing.

mod brief;
mod faults;
mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_storage::random::Random;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};

pub use self::brief::{brief, brief_op};
pub use self::faults::DiskFaults;
use self::file::{File, SECTOR_BYTES};

/// Names an operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation(pub u64);

#[derive(Clone, Debug)]
struct Underway {
    op: DiskOp,
    /// Number of the last write that had completed when the operation was asked for.
    writes_before: u64,
}

/// The disk of one node.
#[derive(Clone, Debug)]
pub struct SimDisk {
    random: Random,
    /// How the disk misbehaves from now on.
    pub faults: DiskFaults,
    files: BTreeMap<FilePath, File>,
    directories: BTreeSet<FilePath>,
    underway: BTreeMap<Operation, Underway>,
    next_operation: u64,
    writes: u64,
    /// After this many further operations of [`SimDisk::execute`] the power goes.
    power_lasts: Option<u64>,
    /// After this many further reads one brings a flipped bit.
    flip_lasts: Option<u64>,
    /// The last bit that was flipped on its way: the file and the byte in it.
    flipped_read: Option<(FilePath, u64)>,
    /// A write or a sync has failed since the process started.
    has_failed: bool,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(random: Random) -> SimDisk {
        SimDisk {
            random,
            faults: DiskFaults::default(),
            files: BTreeMap::new(),
            directories: BTreeSet::new(),
            underway: BTreeMap::new(),
            next_operation: 0,
            writes: 0,
            power_lasts: None,
            flip_lasts: None,
            flipped_read: None,
            has_failed: false,
        }
    }

    /// Starts an operation, and says after how many microseconds it completes.
    pub fn submit(&mut self, op: DiskOp) -> (Operation, u64) {
        let operation = Operation(self.next_operation);
        self.next_operation += 1;
        let base = match &op {
            DiskOp::Read { .. } | DiskOp::List { .. } => 20,
            DiskOp::Write { durable: false, .. } => 30,
            _ => 60,
        };
        let delay = match self.random.below(100) {
            0 => self.random.between(2_000, 60_000),
            1..10 => self.random.between(300, 3_000),
            _ => self.random.between(base, base * 5),
        };
        let slow = self.faults.slow.as_ref().filter(|slow| paths_of(&op).iter().any(|path| path.contains(&slow.paths)));
        let delay = delay * slow.map_or(1, |slow| slow.times);
        self.underway.insert(operation, Underway { op, writes_before: self.writes });
        (operation, delay)
    }

    /// An operation completes: it takes effect now.
    pub fn complete(&mut self, operation: Operation) -> Result<DiskReply, DiskError> {
        let Underway { op, writes_before } = self.underway.remove(&operation).expect("it is under way");
        let is_sync = matches!(op, DiskOp::Sync { .. } | DiskOp::SyncAll { .. });
        let may_fail = is_sync || matches!(op, DiskOp::Write { .. });
        if may_fail && self.random.one_in(self.faults.fail_one_in)
            || is_sync && self.random.one_in(self.faults.fail_sync_one_in)
        {
            self.fail(op);
            self.has_failed = true;
            return Err(DiskError::Failed("input/output error (simulated)".to_string()));
        }
        self.apply(op, writes_before)
    }

    /// Whether a write or a sync has failed since the process started: reason enough for it to end.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Executes an operation at once, as recovery does. Once [`SimDisk::cut_power_after`] has run out, every operation
    /// fails and changes nothing.
    pub fn execute(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        let (operation, _) = self.submit(op);
        match &mut self.power_lasts {
            // The operation stays under way: how much of it happened, `lose_power` decides.
            Some(0) => return Err(DiskError::Failed("the power is gone (simulated)".to_string())),
            Some(left) => *left -= 1,
            None => {}
        }
        let Underway { op, writes_before } = self.underway.remove(&operation).expect("it was just submitted");
        self.apply(op, writes_before)
    }

    /// The power goes during the operation after the next `operations` of [`SimDisk::execute`].
    pub fn cut_power_after(&mut self, operations: u64) {
        self.power_lasts = Some(operations);
    }

    /// Whether the power was cut: what was executed since is not known to have happened.
    pub fn is_out_of_power(&self) -> bool {
        self.power_lasts == Some(0)
    }

    /// The node goes down: the power is lost, or only the process.
    pub fn go_down(&mut self, is_power: bool) {
        if is_power { self.lose_power() } else { self.kill() }
    }

    /// The power goes, and comes back.
    pub fn lose_power(&mut self) {
        self.has_failed = false;
        self.interrupt();
        let SimDisk { random, files, .. } = self;
        files.retain(|_, file| file.is_named_durably || random.coin());
        for file in files.values_mut() {
            file.lose_power(random);
            file.is_named_durably = true;
        }
        self.power_lasts = None;
    }

    /// The process is killed: the kernel keeps what was written, and operations under way may still happen.
    pub fn kill(&mut self) {
        self.has_failed = false;
        self.interrupt();
        self.power_lasts = None;
    }

    /// Bytes from a file as `sendfile` sees them, if they are all there.
    pub fn peek(&self, path: &str, position: u64, bytes: usize) -> Option<Bytes> {
        let start = usize::try_from(position).ok()?;
        let content = &self.files.get(path)?.content;
        content.get(start..start.checked_add(bytes)?).map(Bytes::copy_from_slice)
    }

    /// All of a file, as readers see it.
    pub fn peek_all(&self, path: &str) -> Option<Bytes> {
        self.files.get(path).map(|file| Bytes::copy_from_slice(&file.content))
    }

    /// Bytes change by themselves, durably; not beyond the end of the file.
    pub fn alter(&mut self, path: &str, position: u64, bytes: &[u8]) {
        let file = self.files.get_mut(path).expect("the caller has read it");
        let start = position as usize;
        let end = (start + bytes.len()).min(file.content.len());
        file.content[start..end].copy_from_slice(&bytes[..end - start]);
        file.make_all_durable();
    }

    /// A file's content becomes something else.
    pub fn replace_content(&mut self, path: &str, bytes: &[u8]) {
        let file = self.files.get_mut(path).expect("the caller has read it");
        file.content = bytes.to_vec();
        file.make_all_durable();
    }

    /// The read after the next `reads` brings a flipped bit.
    pub fn flip_read_after(&mut self, reads: u64) {
        self.flip_lasts = Some(reads);
        self.flipped_read = None;
    }

    /// Where the last bit was that was flipped on its way.
    pub fn flipped_read(&self) -> Option<(&FilePath, u64)> {
        self.flipped_read.as_ref().map(|(path, byte)| (path, *byte))
    }

    /// Whether the files below some directories differ from those of another disk, but for one file.
    pub fn differs_from(&self, other: &SimDisk, directories: &[&str], except: &str) -> bool {
        let below = |disk: &SimDisk| -> BTreeMap<FilePath, Vec<u8>> {
            let is_below = |path: &str| directories.iter().any(|directory| is_below(path, directory));
            let files = disk.files.iter().filter(|(path, _)| is_below(path) && &***path != except);
            files.map(|(path, file)| (path.clone(), file.content.clone())).collect()
        };
        below(self) != below(other)
    }

    /// Space that is left, in bytes.
    pub fn free_bytes(&self) -> u64 {
        let used: u64 = self.files.values().map(File::bytes_used).sum();
        self.faults.capacity_bytes.unwrap_or(1 << 40).saturating_sub(used)
    }

    /// Every file's path and length, for a trace.
    pub fn listing(&self) -> impl Iterator<Item = (&FilePath, u64)> {
        self.files.iter().map(|(path, file)| (path, file.content.len() as u64))
    }

    /// Everything under way happens wholly, partly or not at all, in any order.
    fn interrupt(&mut self) {
        let mut underway: Vec<Underway> = std::mem::take(&mut self.underway).into_values().collect();
        while !underway.is_empty() {
            let Underway { op, writes_before } = underway.swap_remove(self.random.index(underway.len()));
            let op = match op {
                DiskOp::All(ops) => {
                    underway.extend(ops.into_iter().map(|op| Underway { op, writes_before }));
                    continue;
                }
                op => op,
            };
            match (op, self.random.below(3)) {
                (_, 0) => {}
                (DiskOp::Write { path, position, data, .. }, 1) => {
                    let data = padded(&data);
                    let writes = self.next_write();
                    let SimDisk { random, files, .. } = self;
                    if let Some(file) = files.get_mut(&path) {
                        file.write(writes, position as usize, &data, || random.coin());
                    }
                }
                (DiskOp::Remove { path }, 1) => {
                    let SimDisk { random, files, .. } = self;
                    files.retain(|name, _| !is_below(name, &path) || random.coin());
                }
                (DiskOp::Replace { path, data }, 1) => {
                    // The driver's temporary file stays behind, with anything in it.
                    let kept = self.random.index(data.len() + 1);
                    let mut file = File { content: data[..kept].to_vec(), is_named_durably: true, ..File::default() };
                    file.make_all_durable();
                    self.files.insert(format!("{path}.tmp").into(), file);
                }
                (DiskOp::SyncAll { mut files, mut directories }, 1) => {
                    files.retain(|_| self.random.coin());
                    directories.retain(|_| self.random.coin());
                    drop(self.apply(DiskOp::SyncAll { files, directories }, writes_before));
                }
                (DiskOp::CreateDirectories { mut paths }, 1) => {
                    paths.retain(|_| self.random.coin());
                    drop(self.apply(DiskOp::CreateDirectories { paths }, writes_before));
                }
                // Nobody hears whether it succeeded.
                (op, _) => drop(self.apply(op, writes_before)),
            }
        }
    }

    /// A write or sync fails: some of it may have reached the disk, and nothing more ever will.
    fn fail(&mut self, op: DiskOp) {
        let writes = self.next_write();
        let SimDisk { random, files, .. } = self;
        match op {
            DiskOp::Write { path, position, data, .. } => {
                if let Some(file) = files.get_mut(&path) {
                    file.write(writes, position as usize, &padded(&data), || random.coin());
                }
            }
            DiskOp::Sync { path } => self.fail_sync(&path),
            // Of the others, any may have succeeded; nobody relies on one of them.
            DiskOp::SyncAll { files, .. } if !files.is_empty() => {
                let failed = self.random.index(files.len());
                self.fail_sync(&files[failed]);
            }
            DiskOp::SyncAll { .. } => {}
            _ => unreachable!("only writes and syncs are made to fail"),
        }
    }

    /// The kernel marks the pages clean: the next sync has nothing to do and succeeds.
    fn fail_sync(&mut self, path: &FilePath) {
        let SimDisk { random, files, .. } = self;
        if let Some(file) = files.get_mut(path) {
            let is_all = random.coin();
            file.versions.retain(|_, _| !is_all && random.coin());
        }
    }

    fn create_directory(&mut self, path: &str) -> Result<(), DiskError> {
        let parts = path.match_indices('/').map(|(end, _)| &path[..end]);
        for directory in parts.chain([path]) {
            if self.files.contains_key(directory) {
                return Err(DiskError::Failed("not a directory".to_string()));
            }
            self.directories.insert(directory.into());
        }
        Ok(())
    }

    fn sync_all(&mut self, paths: &[FilePath], directories: &[FilePath], until: u64) -> Result<(), DiskError> {
        for path in paths {
            let file = self.files.get_mut(path).ok_or(DiskError::NotFound)?;
            file.make_durable(0..usize::MAX, until);
        }
        for directory in directories {
            if !self.directories.contains(directory) {
                return Err(DiskError::NotFound);
            }
            let start = format!("{directory}/");
            let below = self.files.range_mut(FilePath::from(start.as_str())..);
            for (path, file) in below.take_while(|(path, _)| path.starts_with(&start)) {
                file.is_named_durably |= !path[start.len()..].contains('/');
            }
        }
        Ok(())
    }

    /// A bit of what is read may come wrong; the disk has it right.
    fn perhaps_flip(&mut self, path: &FilePath, position: u64, data: &mut [u8]) {
        let is_due = match &mut self.flip_lasts {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            // A shorter read is that of a segment's last block after a restart, which is written back as it was read.
            None => data.len() >= BLOCK_BYTES && self.random.one_in(self.faults.flip_read_one_in),
        };
        if is_due && !data.is_empty() {
            let byte = self.random.index(data.len());
            data[byte] ^= 1 << self.random.below(8);
            self.flip_lasts = None;
            self.flipped_read = Some((path.clone(), position + byte as u64));
        }
    }

    fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    fn has_directory_of(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(directory, _)| self.directories.contains(directory))
    }

    /// Makes room for a file of this length; a new file needs its directory.
    fn grow(&mut self, path: &FilePath, bytes: u64) -> Result<(), DiskError> {
        if !self.has_directory_of(path) || self.directories.contains(path) {
            return Err(DiskError::NotFound);
        }
        let used = self.files.get(path).map_or(0, File::bytes_used);
        if bytes.saturating_sub(used) > self.free_bytes() {
            return Err(DiskError::NoSpace);
        }
        self.files.entry(path.clone()).or_default();
        Ok(())
    }

    fn apply(&mut self, op: DiskOp, writes_before: u64) -> Result<DiskReply, DiskError> {
        match op {
            DiskOp::Write { path, position, data, durable } => {
                assert_eq!(position % BLOCK_BYTES as u64, 0, "direct writes are aligned");
                let data = padded(&data);
                self.grow(&path, position + data.len() as u64)?;
                let writes = self.next_write();
                let file = self.files.get_mut(&path).expect("grown");
                let position = position as usize;
                file.write(writes, position, &data, || true);
                if durable {
                    file.make_durable(position / SECTOR_BYTES..(position + data.len()) / SECTOR_BYTES, writes);
                }
            }
            DiskOp::Sync { path } => {
                let file = self.files.get_mut(&path).ok_or(DiskError::NotFound)?;
                file.make_durable(0..usize::MAX, writes_before);
            }
            DiskOp::SyncAll { files, directories } => self.sync_all(&files, &directories, writes_before)?,
            DiskOp::Allocate { path, bytes } => {
                self.grow(&path, bytes)?;
                let file = self.files.get_mut(&path).expect("grown");
                file.is_named_durably = true;
                file.reserved_bytes = file.reserved_bytes.max(bytes);
                let length = (bytes as usize).max(file.content.len());
                file.content.resize(length, 0);
                let length = length.max(file.durable.len());
                file.durable.resize(length, 0);
            }
            DiskOp::Read { path, position, bytes } => {
                let file = self.files.get(&path).ok_or(DiskError::NotFound)?;
                let start = (position as usize).min(file.content.len());
                let end = start.saturating_add(bytes).min(file.content.len());
                let mut data = file.content[start..end].to_vec();
                self.perhaps_flip(&path, position, &mut data);
                return Ok(DiskReply::Data(data.into()));
            }
            DiskOp::Replace { path, data } => {
                self.grow(&path, data.len() as u64)?;
                let mut file = File { content: data.to_vec(), is_named_durably: true, ..File::default() };
                file.make_all_durable();
                self.files.insert(path, file);
            }
            DiskOp::Truncate { path, bytes } => {
                let file = self.files.get_mut(&path).ok_or(DiskError::NotFound)?;
                let bytes_before = file.reserved_bytes;
                file.content.resize(bytes as usize, 0);
                file.reserved_bytes = bytes_before.min(bytes);
                // It syncs the file, too; what a failed sync has lost stays lost.
                file.make_durable(0..usize::MAX, u64::MAX);
                file.durable.resize(bytes as usize, 0);
            }
            DiskOp::Rename { from, to } => self.rename(&from, &to)?,
            DiskOp::Remove { path } => {
                self.files.retain(|name, _| !is_below(name, &path));
                self.directories.retain(|name| !is_below(name, &path));
            }
            DiskOp::CreateDirectory { path } => self.create_directory(&path)?,
            DiskOp::CreateDirectories { paths } => paths.iter().try_for_each(|path| self.create_directory(path))?,
            DiskOp::All(ops) => self.apply_all(ops, writes_before)?,
            DiskOp::List { path } => return Ok(DiskReply::Names(self.list(&path))),
            DiskOp::Compact(mut compaction) => {
                let step = compaction.step(&mut |op| self.compacting(op))?;
                return Ok(DiskReply::Compacted(compaction, step));
            }
        }
        Ok(DiskReply::Done)
    }

    /// "In any order": whoever relies on one is to be found out.
    fn apply_all(&mut self, mut ops: Vec<DiskOp>, writes_before: u64) -> Result<(), DiskError> {
        let mut result = Ok(());
        while !ops.is_empty() {
            let op = ops.swap_remove(self.random.index(ops.len()));
            result = result.and(self.apply(op, writes_before).map(drop));
        }
        result
    }

    /// An operation of a compaction: a thread of its own waits for it. It may fail as others do, but that is no reason for
    /// the process to end.
    fn compacting(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        if matches!(op, DiskOp::Write { .. } | DiskOp::Truncate { .. }) && self.random.one_in(self.faults.fail_one_in) {
            return Err(DiskError::Failed("input/output error (simulated)".to_string()));
        }
        self.apply(op, self.writes)
    }

    fn rename(&mut self, from: &FilePath, to: &FilePath) -> Result<(), DiskError> {
        if !self.has_directory_of(to) {
            return Err(DiskError::NotFound);
        }
        if let Some(mut file) = self.files.remove(from) {
            file.is_named_durably = true;
            self.files.insert(to.clone(), file);
            return Ok(());
        }
        if !self.directories.contains(from) {
            return Err(DiskError::NotFound);
        }
        if self.directories.contains(to) {
            return Err(DiskError::Failed("a directory of that name exists".to_string()));
        }
        let moved = |name: &FilePath| -> FilePath { format!("{to}{}", &name[from.len()..]).into() };
        for name in self.directories.clone().iter().filter(|name| is_below(name, from)) {
            self.directories.remove(name);
            self.directories.insert(moved(name));
        }
        let names: Vec<FilePath> = self.files.keys().filter(|name| is_below(name, from)).cloned().collect();
        for name in names {
            let file = self.files.remove(&name).expect("listed");
            self.files.insert(moved(&name), file);
        }
        Ok(())
    }

    fn list(&mut self, path: &str) -> Vec<(String, bool)> {
        let inside = |name: &FilePath| -> Option<String> {
            let rest = if path.is_empty() { Some(&**name) } else { name.strip_prefix(path)?.strip_prefix('/') };
            rest.filter(|rest| !rest.is_empty() && !rest.contains('/')).map(str::to_string)
        };
        let files = self.files.keys().filter_map(inside).map(|name| (name, false));
        let directories = self.directories.iter().filter_map(inside).map(|name| (name, true));
        let mut names: Vec<_> = files.chain(directories).collect();
        // "In no order": whoever relies on one is to be found out.
        for index in (1..names.len()).rev() {
            names.swap(index, self.random.index(index + 1));
        }
        names
    }
}

/// The files and directories that an operation is about.
fn paths_of(op: &DiskOp) -> Vec<&FilePath> {
    match op {
        DiskOp::Write { path, .. }
        | DiskOp::Sync { path }
        | DiskOp::Allocate { path, .. }
        | DiskOp::Read { path, .. }
        | DiskOp::Replace { path, .. }
        | DiskOp::Truncate { path, .. }
        | DiskOp::Rename { from: path, .. }
        | DiskOp::Remove { path }
        | DiskOp::CreateDirectory { path }
        | DiskOp::List { path } => vec![path],
        DiskOp::SyncAll { files, directories } => files.iter().chain(directories).collect(),
        DiskOp::CreateDirectories { paths } => paths.iter().collect(),
        DiskOp::All(ops) => ops.iter().flat_map(paths_of).collect(),
        DiskOp::Compact(compaction) => vec![compaction.directory()],
    }
}

/// Whether a path is that of `directory` or of something in it.
fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn padded(data: &[Bytes]) -> Vec<u8> {
    let mut out = data.concat();
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
    out
}
