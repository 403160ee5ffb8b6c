//! Executes a shard's disk operations: direct writes and syncs on the shard's [`Ring`], everything else on the pool's
//! threads.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_storage::block::BlockPool;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};
use rustix::io::Errno;

use super::Inbound;
use super::files;
use super::inbox::Inbox;
use super::mailbox::Mailbox;
use super::open_files::OpenFiles;
use super::pool::Pool;
use super::ring::{DiskWork, Operation, Ring, WriteMemory};
use super::sys::{self, Advice};
use crate::metrics::{Kind, Sample};
use crate::shard::{DiskToken, Event, PrefetchToken};
use crate::slab::Slab;

/// Reads up to this size are tried at once, from the page cache.
const INLINE_READ_BYTES_MAX: usize = 64 * 1024;

/// Memory for writes that is kept for reuse, in bytes: for what the disk cannot take from where it is.
const WRITE_MEMORY_BYTES_MAX: usize = 16 << 20;

/// Threads that create, remove and sync files. They wait for the file system's journal, which makes durable in one go what
/// many of them ask for: ten thousand new partitions need as many directories before the first checkpoint ends.
const FILE_THREADS: usize = 32;

/// Backfills take what producers and consumers at the tail leave of the cores.
const READ_AHEAD_NICENESS: i32 = 19;

/// Kafka's `log.cleaner.threads`.
const CLEANER_THREADS: usize = 1;

/// Compaction takes mostly what is left, and a tenth of a core where nothing is: a topic that is written to all the time
/// must not grow without end. With 19 it came to 2 MB/s on a machine that was busy with something else.
const CLEANER_NICENESS: i32 = 10;

/// The thread pools that all shards share.
#[derive(Clone)]
pub struct Pools {
    /// Creating, renaming, removing, reading small things.
    pub files: Pool,
    /// Bringing cold ranges into the page cache. Apart, so that a backfill delays no journal file.
    pub read_ahead: Pool,
    /// Compacting logs, which takes long and may take longer.
    pub cleaner: Pool,
}

impl Pools {
    /// Starts the threads.
    pub fn start() -> io::Result<Pools> {
        Ok(Pools {
            files: Pool::start("files", FILE_THREADS, 0)?,
            read_ahead: Pool::start("read-ahead", 2, READ_AHEAD_NICENESS)?,
            cleaner: Pool::start("cleaner", CLEANER_THREADS, CLEANER_NICENESS)?,
        })
    }
}

/// A write up to this size takes about as long as falling asleep and being woken.
const QUICK_WRITE_BYTES_MAX: u64 = 128 * 1024;

/// A write or sync that a shard has asked for.
struct Asked {
    token: DiskToken,
    began: Instant,
}

/// What waits for its file to be opened.
struct Unopened {
    tag: u64,
    work: DiskWork,
}

/// A shard's hand on the disk. What it asks of the shard's ring and what becomes of it go through the [`Ring`] and the
/// [`Inbox`] that it is called with: always the same.
pub struct Disk {
    root: PathBuf,
    open: OpenFiles,
    pools: Pools,
    mailbox: Arc<Mailbox<Inbound>>,
    /// By the tag of their operations on the ring.
    asked: Slab<Asked>,
    /// By the path of the file; a thread of the pool is opening it.
    unopened: HashMap<FilePath, Vec<Unopened>>,
    write_memory: BlockPool,
    last_write_bytes: u64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    writes: u64,
    write_bytes: u64,
    write_time: Duration,
    write_time_max: Duration,
    in_flight: u64,
    in_flight_bytes: u64,
    syncs: u64,
    reads_resident: u64,
    reads_pool: u64,
    prefetches_resident: u64,
    prefetches_pool: u64,
}

impl Disk {
    /// A disk below `root` that keeps at most `handles_max` idle descriptors open. What threads of the pools have done comes
    /// back through `mailbox`.
    pub fn new(root: &Path, handles_max: usize, pools: Pools, mailbox: Arc<Mailbox<Inbound>>) -> Disk {
        Disk {
            root: root.to_owned(),
            open: OpenFiles::new(handles_max),
            pools,
            mailbox,
            asked: Slab::default(),
            unopened: HashMap::new(),
            write_memory: BlockPool::new(WRITE_MEMORY_BYTES_MAX),
            last_write_bytes: 0,
            counters: Counters::default(),
        }
    }

    /// Starts an operation; its result becomes an event.
    pub fn start(&mut self, ring: &mut Ring, inbox: &mut Inbox, token: DiskToken, operation: DiskOp) {
        match operation {
            DiskOp::Write { path, position, data, durable } => {
                assert!(position.is_multiple_of(BLOCK_BYTES as u64), "writes begin at a block");
                let bytes = data.iter().map(|part| part.len() as u64).sum();
                let memory = WriteMemory::new(data, |bytes| self.write_memory.take(bytes));
                self.counters.writes += 1;
                self.counters.write_bytes += bytes;
                self.counters.in_flight += 1;
                self.counters.in_flight_bytes += memory.bytes() as u64;
                self.last_write_bytes = bytes;
                self.begin(ring, token, path, DiskWork::Write { memory, position, done: 0, durable });
            }
            DiskOp::Sync { path } => {
                self.counters.syncs += 1;
                self.begin(ring, token, path, DiskWork::Sync);
            }
            DiskOp::Read { path, position, bytes } => self.read(inbox, token, path, position, bytes),
            DiskOp::Compact(compaction) => {
                let root = self.root.clone();
                let mailbox = Arc::clone(&self.mailbox);
                self.pools.cleaner.run(move || {
                    let result = files::compact(&root, compaction);
                    mailbox.push(Inbound::Event(Event::Disk { token, result }));
                });
            }
            other => {
                self.forget(&other);
                let root = self.root.clone();
                let mailbox = Arc::clone(&self.mailbox);
                self.pools.files.run(move || {
                    let result = files::execute(&root, &other);
                    mailbox.push(Inbound::Event(Event::Disk { token, result }));
                });
            }
        }
    }

    /// Forgets the descriptors of files that an operation puts others in the place of.
    fn forget(&mut self, operation: &DiskOp) {
        match operation {
            DiskOp::Rename { from, to } => {
                self.open.forget(from);
                self.open.forget(to);
            }
            DiskOp::Remove { path } | DiskOp::Truncate { path, .. } | DiskOp::Replace { path, .. } => {
                self.open.forget(path);
            }
            DiskOp::All(operations) => operations.iter().for_each(|operation| self.forget(operation)),
            _ => {}
        }
    }

    /// Brings a range into the page cache; the end of it becomes an event.
    pub fn prefetch(&mut self, inbox: &mut Inbox, token: PrefetchToken, path: FilePath, position: u64, bytes: usize) {
        let known = self.open.buffered(&path);
        if known.as_ref().is_some_and(|file| sys::is_resident(file, position, bytes)) {
            self.counters.prefetches_resident += 1;
            inbox.push(Event::Prefetched { token, result: Ok(()) });
            return;
        }
        self.counters.prefetches_pool += 1;
        let root = self.root.clone();
        let mailbox = Arc::clone(&self.mailbox);
        let generation = self.open.generation();
        self.pools.read_ahead.run(move || {
            let result = match known {
                Some(file) => files::prefetch(&file, position, bytes),
                None => File::open(files::resolve(&root, &path)).and_then(|file| {
                    files::prefetch(&file, position, bytes)?;
                    mailbox.push(Inbound::Opened { generation, path, file: Arc::new(file) });
                    Ok(())
                }),
            };
            let result = result.map_err(|error| files::failure(&error));
            mailbox.push(Inbound::Event(Event::Prefetched { token, result }));
        });
    }

    /// Drops a range from the page cache when a thread has time for it.
    pub fn discard(&mut self, path: &FilePath, position: u64, bytes: usize) {
        // A file that is no longer open was closed, renamed or removed: its pages age out by themselves.
        if let Some(file) = self.open.buffered(path) {
            self.pools.read_ahead.run(move || sys::advise(&file, position, bytes, Advice::DontNeed));
        }
    }

    /// The file to send from. Open already, as a rule: its range was prefetched.
    pub fn buffered(&mut self, path: &FilePath) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.buffered(path) {
            return Ok(file);
        }
        let file = Arc::new(File::open(files::resolve(&self.root, path))?);
        let generation = self.open.generation();
        self.open.add_buffered(generation, path, Arc::clone(&file));
        Ok(file)
    }

    /// Keeps a file that a thread of the pool has opened.
    pub fn opened(&mut self, generation: u64, path: &FilePath, file: Arc<File>) {
        self.open.add_buffered(generation, path, file);
    }

    fn read(&mut self, inbox: &mut Inbox, token: DiskToken, path: FilePath, position: u64, bytes: usize) {
        let known = self.open.buffered(&path);
        if bytes <= INLINE_READ_BYTES_MAX
            && let Some(file) = &known
        {
            let mut buffer = vec![0; bytes];
            let filled = files::fill(&mut buffer, |buffer, at| sys::read_resident(file, buffer, position + at));
            if let Ok(filled) = filled {
                self.counters.reads_resident += 1;
                buffer.truncate(filled);
                inbox.push(Event::Disk { token, result: Ok(DiskReply::Data(Bytes::from(buffer))) });
                return;
            }
        }
        self.counters.reads_pool += 1;
        let root = self.root.clone();
        let mailbox = Arc::clone(&self.mailbox);
        let generation = self.open.generation();
        self.pools.files.run(move || {
            let result = match known {
                Some(file) => files::read(&file, position, bytes),
                None => File::open(files::resolve(&root, &path)).and_then(|file| {
                    let data = files::read(&file, position, bytes)?;
                    mailbox.push(Inbound::Opened { generation, path, file: Arc::new(file) });
                    Ok(data)
                }),
            };
            let result = result.map(DiskReply::Data).map_err(|error| files::failure(&error));
            mailbox.push(Inbound::Event(Event::Disk { token, result }));
        });
    }

    /// Has the ring do something, with the file opened first if need be.
    fn begin(&mut self, ring: &mut Ring, token: DiskToken, path: FilePath, work: DiskWork) {
        let tag = u64::from(self.asked.insert(Asked { token, began: Instant::now() }));
        self.run(ring, tag, path, work);
    }

    fn run(&mut self, ring: &mut Ring, tag: u64, path: FilePath, work: DiskWork) {
        if let Some(file) = self.open.direct(&path) {
            ring.start(Operation { tag, file, work });
            return;
        }
        let waiting = self.unopened.entry(Arc::clone(&path)).or_default();
        waiting.push(Unopened { tag, work });
        if waiting.len() > 1 {
            return;
        }
        // A write creates its file.
        let creates = !matches!(waiting[0].work, DiskWork::Sync);
        let generation = self.open.generation();
        let root = self.root.clone();
        let mailbox = Arc::clone(&self.mailbox);
        self.pools.files.run(move || {
            let place = files::resolve(&root, &path);
            let result = match files::open_direct(&place) {
                Err(error) if creates && error.kind() == io::ErrorKind::NotFound => {
                    files::create(&place).and_then(|()| files::open_direct(&place))
                }
                other => other,
            };
            mailbox.push(Inbound::OpenedDirect { generation, path, result: result.map(Arc::new) });
        });
    }

    /// A thread of the pool has opened a file for direct writes, or failed to.
    pub fn opened_direct(
        &mut self,
        ring: &mut Ring,
        inbox: &mut Inbox,
        generation: u64,
        path: &FilePath,
        result: io::Result<Arc<File>>,
    ) {
        let waiting = self.unopened.remove(path).unwrap_or_default();
        match result {
            Ok(file) => {
                self.open.add_direct(generation, path, Arc::clone(&file));
                for Unopened { tag, work } in waiting {
                    ring.start(Operation { tag, file: Arc::clone(&file), work });
                }
            }
            Err(error) => {
                let failure = files::failure(&error);
                // A sync that came first has created nothing for the writes behind it.
                let is_missing = failure == DiskError::NotFound;
                let tried_to_create = waiting.first().is_some_and(|first| !matches!(first.work, DiskWork::Sync));
                for Unopened { tag, work } in waiting {
                    if is_missing && !tried_to_create && !matches!(work, DiskWork::Sync) {
                        self.run(ring, tag, Arc::clone(path), work);
                    } else {
                        self.end(inbox, tag, work, Err(failure.clone()));
                    }
                }
            }
        }
    }

    /// The ring has done something, or a part of it.
    pub fn completed(&mut self, ring: &mut Ring, inbox: &mut Inbox, operation: Operation, result: io::Result<usize>) {
        let Operation { tag, file, mut work } = operation;
        let result = match (result, &mut work) {
            // Interrupted before anything was done.
            (Err(error), _) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN)) => {
                ring.start(Operation { tag, file, work });
                return;
            }
            (Err(error), _) => Err(files::failure(&error)),
            (Ok(_), DiskWork::Sync) => Ok(()),
            (Ok(bytes), DiskWork::Write { memory, done, .. }) => {
                let left = memory.bytes() - *done;
                if bytes == left {
                    Ok(())
                } else if bytes > 0 && bytes < left && bytes.is_multiple_of(BLOCK_BYTES) {
                    // The kernel may write less than it was given, in whole blocks.
                    *done += bytes;
                    ring.start(Operation { tag, file, work });
                    return;
                } else {
                    Err(DiskError::Failed(format!("a write of {left} bytes wrote {bytes}")))
                }
            }
        };
        self.end(inbox, tag, work, result);
    }

    fn end(&mut self, inbox: &mut Inbox, tag: u64, work: DiskWork, result: Result<(), DiskError>) {
        let Asked { token, began } = self.asked.remove(tag as u32);
        if let DiskWork::Write { memory, .. } = work {
            let took = began.elapsed();
            let counters = &mut self.counters;
            counters.in_flight -= 1;
            counters.in_flight_bytes -= memory.bytes() as u64;
            counters.write_time += took;
            counters.write_time_max = counters.write_time_max.max(took);
            memory.into_blocks().for_each(|block| self.write_memory.give(block));
        }
        inbox.push(Event::Disk { token, result: result.map(|()| DiskReply::Done) });
    }

    /// Whether what is under way will be done soon, and whoever waits for it may as well poll.
    pub fn is_quick(&self) -> bool {
        self.counters.in_flight_bytes.max(self.last_write_bytes) <= QUICK_WRITE_BYTES_MAX
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let counters = &self.counters;
        let mut sample = |name, help, kind, value| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value });
        };
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        sample("millstream_disk_writes_total", "Direct writes.", counter, counters.writes as f64);
        let bytes = counters.write_bytes as f64;
        sample("millstream_disk_write_bytes_total", "Bytes written directly, without padding.", counter, bytes);
        let seconds = counters.write_time.as_secs_f64();
        sample("millstream_disk_write_seconds_total", "Time direct writes took, added up.", counter, seconds);
        let seconds = counters.write_time_max.as_secs_f64();
        sample("millstream_disk_write_seconds_max", "The slowest direct write since the start.", gauge, seconds);
        sample("millstream_disk_writes_in_flight", "Direct writes under way.", gauge, counters.in_flight as f64);
        sample("millstream_disk_syncs_total", "Calls of fdatasync.", counter, counters.syncs as f64);
        let reads = counters.reads_resident as f64;
        sample("millstream_disk_reads_resident_total", "Reads that the page cache answered.", counter, reads);
        let reads = counters.reads_pool as f64;
        sample("millstream_disk_reads_total", "Reads that went to a thread of the pool.", counter, reads);
        let count = counters.prefetches_resident as f64;
        sample(
            "millstream_prefetches_resident_total",
            "Prefetches of ranges that were in the page cache.",
            counter,
            count,
        );
        let count = counters.prefetches_pool as f64;
        sample("millstream_prefetches_total", "Prefetches that went to a thread of the pool.", counter, count);
        let files = self.open.handles() as f64;
        sample("millstream_open_files", "Open descriptors of data files.", gauge, files);
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::super::inbox::Happened;
    use super::super::ring::Completion;
    use super::*;
    use millstream_storage::block::Block;
    use std::collections::VecDeque;

    fn path(text: &str) -> FilePath {
        Arc::from(text)
    }

    /// A disk in a directory with what a turn calls it with.
    struct TestDisk {
        disk: Disk,
        ring: Ring,
        inbox: Inbox,
        mailbox: Arc<Mailbox<Inbound>>,
    }

    impl TestDisk {
        fn new(root: &Path) -> TestDisk {
            let mailbox = Arc::new(Mailbox::default());
            let disk = Disk::new(root, 100, Pools::start().expect("threads"), Arc::clone(&mailbox));
            TestDisk { disk, ring: Ring::new().expect("a ring"), inbox: Inbox::default(), mailbox }
        }

        fn start(&mut self, token: u64, operation: DiskOp) {
            self.disk.start(&mut self.ring, &mut self.inbox, token_of(token), operation);
        }

        /// Waits for the next operation that ends.
        fn next(&mut self) -> (DiskToken, Result<DiskReply, DiskError>) {
            let TestDisk { disk, ring, inbox, mailbox } = self;
            let (mut events, mut inbound, mut completions) = (VecDeque::new(), Vec::new(), Vec::new());
            loop {
                ring.submit().expect("submitted");
                ring.take(&mut completions).expect("taken");
                for completion in completions.drain(..) {
                    match completion {
                        Completion::Disk { operation, result } => disk.completed(ring, inbox, operation, result),
                        other => panic!("nothing is watched: {other:?}"),
                    }
                }
                mailbox.drain(&mut inbound);
                for item in inbound.drain(..) {
                    match item {
                        Inbound::Event(event) => events.push_back(Happened { at: None, event }),
                        Inbound::Opened { generation, path, file } => disk.opened(generation, &path, file),
                        Inbound::OpenedDirect { generation, path, result } => {
                            disk.opened_direct(ring, inbox, generation, &path, result);
                        }
                        other => panic!("only the pool sends: {other:?}"),
                    }
                }
                inbox.take(&mut events);
                match events.pop_back().map(|happened| happened.event) {
                    Some(Event::Disk { token, result }) => return (token, result),
                    Some(other) => panic!("not a disk event: {other:?}"),
                    None => std::thread::yield_now(),
                }
            }
        }
    }

    /// Runs operations on a disk in a fresh directory, one after the other, and gives the results.
    fn run(name: &str, operations: Vec<DiskOp>) -> (TestDirectory, Vec<Result<DiskReply, DiskError>>) {
        let root = TestDirectory::new(name);
        let mut disk = TestDisk::new(&root.0);
        let mut results = Vec::new();
        for (number, operation) in (0..).zip(operations) {
            let token = token_of(number);
            disk.start(number, operation);
            let (done, result) = disk.next();
            assert_eq!(done, token);
            results.push(result);
        }
        (root, results)
    }

    fn token_of(number: u64) -> DiskToken {
        DiskToken::Log(millstream_storage::DiskToken(number))
    }

    #[test]
    fn what_is_written_is_read() {
        let data = vec![Bytes::from(vec![1; 5000]), Bytes::from(vec![2; 100])];
        let write = |durable, position| DiskOp::Write { path: path("a"), position, data: data.clone(), durable };
        let (root, results) = run(
            "disk_write",
            vec![
                write(true, 0),
                write(false, 8192),
                DiskOp::Sync { path: path("a") },
                DiskOp::Read { path: path("a"), position: 4999, bytes: 2 },
                DiskOp::Read { path: path("a"), position: 8192 + 5099, bytes: 4000 },
                DiskOp::Truncate { path: path("a"), bytes: 5000 },
                DiskOp::Read { path: path("a"), position: 4000, bytes: 1 << 20 },
                write(true, 4096),
                DiskOp::Rename { from: path("a"), to: path("b") },
                DiskOp::Sync { path: path("a") },
                DiskOp::Read { path: path("b"), position: 4096, bytes: 3 },
            ],
        );
        let data = |bytes: &[u8]| Ok(DiskReply::Data(Bytes::copy_from_slice(bytes)));
        assert_eq!(results[..3], [const { Ok(DiskReply::Done) }; 3]);
        assert_eq!(results[3], data(&[1, 2]));
        let mut tail = vec![0; 8192 - 5099];
        tail[0] = 2;
        assert_eq!(results[4], data(&tail), "padded to the end of the block with zeros");
        assert_eq!(results[5], Ok(DiskReply::Done));
        assert_eq!(results[6], data(&[1; 1000]));
        assert_eq!(results[7..9], [const { Ok(DiskReply::Done) }; 2]);
        assert_eq!(results[9], Err(DiskError::NotFound));
        assert_eq!(results[10], data(&[1; 3]));
        assert_eq!(std::fs::metadata(root.0.join("b")).expect("there").len(), 4096 + 8192);
    }

    #[test]
    fn a_write_creates_its_file_though_a_sync_came_first() {
        let root = TestDirectory::new("disk_sync_first");
        let mut disk = TestDisk::new(&root.0);
        disk.start(0, DiskOp::Sync { path: path("a") });
        let data = vec![Bytes::from("x")];
        disk.start(1, DiskOp::Write { path: path("a"), position: 0, data, durable: true });
        assert_eq!(disk.next(), (token_of(0), Err(DiskError::NotFound)));
        assert_eq!(disk.next(), (token_of(1), Ok(DiskReply::Done)));
    }

    #[test]
    fn a_missing_directory_is_not_found() {
        let write = |durable| DiskOp::Write { path: path("no/a"), position: 0, data: vec![Bytes::from("x")], durable };
        let (_, results) = run("disk_missing", vec![write(false), write(true)]);
        assert_eq!(results, [const { Err(DiskError::NotFound) }; 2]);
    }

    #[test]
    fn aligned_blocks_are_written_from_where_they_are() {
        let mut block = Block::new(4 * BLOCK_BYTES);
        (1..=4u8).for_each(|byte| block.append(&[byte; BLOCK_BYTES]));
        let slice = |blocks: std::ops::Range<usize>| block.slice(blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES);
        let write = |position: u64, data| DiskOp::Write { path: path("a"), position, data, durable: true };
        let read = |block: u64| DiskOp::Read { path: path("a"), position: (block + 1) * 4096 - 1, bytes: 2 };
        let (_, results) = run(
            "disk_aligned",
            vec![
                write(0, vec![slice(2..4)]),
                write(8192, vec![slice(0..1), slice(3..4)]),
                // Copied, for it is not, into memory that was not used before.
                write(16384, vec![slice(0..2), block.slice(1..2)]),
                read(0),
                read(1),
                read(2),
                read(3),
                read(4),
                read(5),
            ],
        );
        let data = |bytes: [u8; 2]| Ok(DiskReply::Data(Bytes::copy_from_slice(&bytes)));
        assert_eq!(results[3..], [[3, 4], [4, 1], [1, 4], [4, 1], [1, 2], [2, 1]].map(data));
    }

    #[test]
    fn reused_memory_is_padded_with_zeros() {
        let write = |position, bytes: Vec<u8>| DiskOp::Write {
            path: path("a"),
            position,
            data: vec![Bytes::from(bytes)],
            durable: false,
        };
        let read = DiskOp::Read { path: path("a"), position: 4096, bytes: 4096 };
        let (_, results) = run("disk_reused", vec![write(0, vec![7; 4000]), write(4096, vec![8; 10]), read]);
        let mut expected = vec![0; 4096];
        expected[..10].fill(8);
        assert_eq!(results[2], Ok(DiskReply::Data(Bytes::from(expected))));
    }
}
