//! Executes a shard's disk operations: direct writes and syncs through glommio, everything else on the pool's threads.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, DiskToken, FilePath};

use super::Inbound;
use super::files;
use super::inbox::Inbox;
use super::mailbox::Mailbox;
use super::open_files::OpenFiles;
use super::pool::Pool;
use super::sys::{self, Advice};
use crate::metrics::{Kind, Sample};
use crate::shard::{Event, PrefetchToken};

/// Reads up to this size are tried at once, from the page cache.
const INLINE_READ_BYTES_MAX: usize = 64 * 1024;

/// The file, below the data directory, that each executor opens first. glommio probes a device for polled I/O with the
/// first file it opens there; the probe takes an empty file for a yes, and every later read fails.
pub const PROBE_FILE: &str = ".probe";

/// Threads that create, remove and sync files. They wait for the file system's journal, which makes durable in one go what
/// many of them ask for: ten thousand new partitions need as many directories before the first checkpoint ends.
const FILE_THREADS: usize = 32;

/// The thread pools that all shards share.
#[derive(Clone)]
pub struct Pools {
    /// Creating, renaming, removing, reading small things.
    pub files: Pool,
    /// Bringing cold ranges into the page cache. Apart, so that a backfill delays no journal file.
    pub read_ahead: Pool,
}

impl Pools {
    /// Starts the threads.
    pub fn start() -> io::Result<Pools> {
        Ok(Pools { files: Pool::start("files", FILE_THREADS)?, read_ahead: Pool::start("read-ahead", 2)? })
    }
}

/// A shard's hand on the disk.
pub struct Disk {
    root: PathBuf,
    open: RefCell<OpenFiles>,
    pools: Pools,
    mailbox: Arc<Mailbox<Inbound>>,
    inbox: Rc<Inbox>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    writes: Cell<u64>,
    write_bytes: Cell<u64>,
    write_time: Cell<Duration>,
    write_time_max: Cell<Duration>,
    in_flight: Cell<u64>,
    syncs: Cell<u64>,
    reads_resident: Cell<u64>,
    reads_pool: Cell<u64>,
    prefetches_resident: Cell<u64>,
    prefetches_pool: Cell<u64>,
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

impl Disk {
    /// A disk below `root` that keeps at most `handles_max` idle descriptors open.
    pub fn new(
        root: &Path,
        handles_max: usize,
        pools: Pools,
        mailbox: Arc<Mailbox<Inbound>>,
        inbox: Rc<Inbox>,
    ) -> Disk {
        Disk {
            root: root.to_owned(),
            open: RefCell::new(OpenFiles::new(handles_max)),
            pools,
            mailbox,
            inbox,
            counters: Counters::default(),
        }
    }

    /// Opens the probe file, as the first file of this executor.
    pub async fn probe(root: &Path) -> io::Result<()> {
        let file = DmaFile::open(root.join(PROBE_FILE)).await.map_err(plain)?;
        file.close().await.map_err(plain)
    }

    /// Starts an operation; its result becomes an event.
    pub fn start(self: &Rc<Disk>, token: DiskToken, operation: DiskOp) {
        match operation {
            DiskOp::Write { path, position, data, durable } => {
                let disk = Rc::clone(self);
                glommio::spawn_local(async move {
                    let result = disk.write(&path, position, &data, durable).await;
                    disk.finished(token, result.map(|()| DiskReply::Done));
                })
                .detach();
            }
            DiskOp::Sync { path } => {
                let disk = Rc::clone(self);
                glommio::spawn_local(async move {
                    let result = disk.sync(&path).await;
                    disk.finished(token, result.map(|()| DiskReply::Done));
                })
                .detach();
            }
            DiskOp::Read { path, position, bytes } => self.read(token, path, position, bytes),
            other => {
                match &other {
                    DiskOp::Rename { from, to } => {
                        self.open.borrow_mut().forget(from);
                        self.open.borrow_mut().forget(to);
                    }
                    DiskOp::Remove { path } | DiskOp::Truncate { path, .. } | DiskOp::Replace { path, .. } => {
                        self.open.borrow_mut().forget(path);
                    }
                    _ => {}
                }
                let root = self.root.clone();
                let mailbox = Arc::clone(&self.mailbox);
                self.pools.files.run(move || {
                    let result = files::execute(&root, &other);
                    mailbox.push(Inbound::Event(Event::Disk { token, result }));
                });
            }
        }
    }

    /// Brings a range into the page cache; the end of it becomes an event.
    pub fn prefetch(self: &Rc<Disk>, token: PrefetchToken, path: FilePath, position: u64, bytes: usize) {
        let known = self.open.borrow_mut().buffered(&path);
        if known.as_ref().is_some_and(|file| sys::is_resident(file, position, bytes)) {
            add(&self.counters.prefetches_resident, 1);
            self.inbox.push(Event::Prefetched { token, result: Ok(()) });
            return;
        }
        add(&self.counters.prefetches_pool, 1);
        let root = self.root.clone();
        let mailbox = Arc::clone(&self.mailbox);
        let generation = self.open.borrow().generation();
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
    pub fn discard(&self, path: &FilePath, position: u64, bytes: usize) {
        // A file that is no longer open was closed, renamed or removed: its pages age out by themselves.
        if let Some(file) = self.open.borrow_mut().buffered(path) {
            self.pools.read_ahead.run(move || sys::advise(&file, position, bytes, Advice::DontNeed));
        }
    }

    /// The file to send from. Open already, as a rule: its range was prefetched.
    pub fn buffered(&self, path: &FilePath) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.borrow_mut().buffered(path) {
            return Ok(file);
        }
        let file = Arc::new(File::open(files::resolve(&self.root, path))?);
        let mut open = self.open.borrow_mut();
        let generation = open.generation();
        open.add_buffered(generation, path, Arc::clone(&file));
        Ok(file)
    }

    /// Keeps a file that a thread of the pool has opened.
    pub fn opened(&self, generation: u64, path: &FilePath, file: Arc<File>) {
        self.open.borrow_mut().add_buffered(generation, path, file);
    }

    fn finished(&self, token: DiskToken, result: Result<DiskReply, DiskError>) {
        self.inbox.push(Event::Disk { token, result });
    }

    fn read(&self, token: DiskToken, path: FilePath, position: u64, bytes: usize) {
        let known = self.open.borrow_mut().buffered(&path);
        if bytes <= INLINE_READ_BYTES_MAX
            && let Some(file) = &known
        {
            let mut buffer = vec![0; bytes];
            let filled = files::fill(&mut buffer, |buffer, at| sys::read_resident(file, buffer, position + at));
            if let Ok(filled) = filled {
                add(&self.counters.reads_resident, 1);
                buffer.truncate(filled);
                self.finished(token, Ok(DiskReply::Data(Bytes::from(buffer))));
                return;
            }
        }
        add(&self.counters.reads_pool, 1);
        let root = self.root.clone();
        let mailbox = Arc::clone(&self.mailbox);
        let generation = self.open.borrow().generation();
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

    async fn write(&self, path: &FilePath, position: u64, data: &[Bytes], durable: bool) -> Result<(), DiskError> {
        assert!(position.is_multiple_of(BLOCK_BYTES as u64), "writes begin at a block");
        let began = Instant::now();
        add(&self.counters.in_flight, 1);
        let result = self.write_all(path, position, data, durable).await;
        self.counters.in_flight.set(self.counters.in_flight.get() - 1);
        let took = began.elapsed();
        add(&self.counters.writes, 1);
        add(&self.counters.write_bytes, data.iter().map(|part| part.len() as u64).sum());
        self.counters.write_time.set(self.counters.write_time.get() + took);
        self.counters.write_time_max.set(self.counters.write_time_max.get().max(took));
        result.map_err(|error| files::failure(&error))
    }

    async fn write_all(&self, path: &FilePath, position: u64, data: &[Bytes], durable: bool) -> io::Result<()> {
        let file = match self.direct(path, durable).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let place = files::resolve(&self.root, path);
                glommio::executor().spawn_blocking(move || files::create(&place)).await?;
                self.direct(path, durable).await?
            }
            other => other?,
        };
        let bytes: usize = data.iter().map(Bytes::len).sum();
        let padded = bytes.next_multiple_of(BLOCK_BYTES);
        let mut written = 0;
        // Once, as a rule: the kernel may write less than it was given, in whole blocks.
        while written < padded {
            let mut buffer = file.alloc_dma_buffer(padded - written);
            copy_from(data, written, buffer.as_bytes_mut());
            let count = file.write_at(buffer, position + written as u64).await.map_err(plain)?;
            if count == 0 || !count.is_multiple_of(BLOCK_BYTES) {
                return Err(io::Error::other(format!("a write of {} bytes wrote {count}", padded - written)));
            }
            written += count;
        }
        Ok(())
    }

    async fn sync(&self, path: &FilePath) -> Result<(), DiskError> {
        add(&self.counters.syncs, 1);
        let result = match self.direct(path, false).await {
            Ok(file) => file.fdatasync().await.map_err(plain),
            Err(error) => Err(error),
        };
        result.map_err(|error| files::failure(&error))
    }

    /// Opens a file for direct writes. Two handles a file: measured, a write through `O_DSYNC` costs half the processor
    /// time of a write and an `fdatasync`, but whoever needs no durability must not wait for it.
    async fn direct(&self, path: &FilePath, durable: bool) -> io::Result<Rc<DmaFile>> {
        if let Some(file) = self.open.borrow_mut().direct(path, durable) {
            return Ok(file);
        }
        let generation = self.open.borrow().generation();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if durable {
            options.custom_flags(libc::O_DSYNC);
        }
        let file = Rc::new(options.dma_open(files::resolve(&self.root, path)).await.map_err(plain)?);
        self.open.borrow_mut().add_direct(generation, path, durable, Rc::clone(&file));
        Ok(file)
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let counters = &self.counters;
        let mut sample = |name, help, kind, value| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value });
        };
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        sample("millstream_disk_writes_total", "Direct writes.", counter, counters.writes.get() as f64);
        let bytes = counters.write_bytes.get() as f64;
        sample("millstream_disk_write_bytes_total", "Bytes written directly, without padding.", counter, bytes);
        let seconds = counters.write_time.get().as_secs_f64();
        sample("millstream_disk_write_seconds_total", "Time direct writes took, added up.", counter, seconds);
        let seconds = counters.write_time_max.get().as_secs_f64();
        sample("millstream_disk_write_seconds_max", "The slowest direct write since the start.", gauge, seconds);
        sample("millstream_disk_writes_in_flight", "Direct writes under way.", gauge, counters.in_flight.get() as f64);
        sample("millstream_disk_syncs_total", "Calls of fdatasync.", counter, counters.syncs.get() as f64);
        let reads = counters.reads_resident.get() as f64;
        sample("millstream_disk_reads_resident_total", "Reads that the page cache answered.", counter, reads);
        let reads = counters.reads_pool.get() as f64;
        sample("millstream_disk_reads_total", "Reads that went to a thread of the pool.", counter, reads);
        let count = counters.prefetches_resident.get() as f64;
        sample(
            "millstream_prefetches_resident_total",
            "Prefetches of ranges that were in the page cache.",
            counter,
            count,
        );
        let count = counters.prefetches_pool.get() as f64;
        sample("millstream_prefetches_total", "Prefetches that went to a thread of the pool.", counter, count);
        let files = self.open.borrow().handles() as f64;
        sample("millstream_open_files", "Open descriptors of data files.", gauge, files);
    }
}

/// Fills `target` with the bytes of `parts` from `skip` on, then with zeros.
fn copy_from(parts: &[Bytes], mut skip: usize, target: &mut [u8]) {
    let mut at = 0;
    for part in parts {
        let skipped = skip.min(part.len());
        skip -= skipped;
        let part = &part[skipped..];
        target[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    target[at..].fill(0);
}

/// The operating system's error within glommio's.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        GlommioError::EnhancedIoError { source, op, path, .. } => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => source,
            kind => io::Error::new(kind, format!("{op} {}: {source}", path.unwrap_or_default().display())),
        },
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::super::inbox::Happened;
    use super::*;
    use glommio::LocalExecutor;
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::task::Poll;

    fn path(text: &str) -> FilePath {
        Arc::from(text)
    }

    /// Runs operations on a disk in a fresh directory, one after the other, and gives the results.
    fn run(name: &str, operations: Vec<DiskOp>) -> (TestDirectory, Vec<Result<DiskReply, DiskError>>) {
        let root = TestDirectory::new(name);
        std::fs::write(root.0.join(PROBE_FILE), [1; 4096]).expect("written");
        let place = root.0.clone();
        let results = LocalExecutor::default().run(async move {
            Disk::probe(&place).await.expect("the probe file is there");
            let mailbox = Arc::new(Mailbox::default());
            let inbox = Rc::new(Inbox::default());
            let pools = Pools::start().expect("threads");
            let disk = Rc::new(Disk::new(&place, 100, pools, Arc::clone(&mailbox), Rc::clone(&inbox)));
            let mut results = Vec::new();
            for (token, operation) in operations.into_iter().enumerate() {
                let token = DiskToken(token as u64);
                disk.start(token, operation);
                let (done, result) = next_disk_event(&disk, &mailbox, &inbox).await;
                assert_eq!(done, token);
                results.push(result);
            }
            results
        });
        (root, results)
    }

    async fn next_disk_event(
        disk: &Disk,
        mailbox: &Mailbox<Inbound>,
        inbox: &Inbox,
    ) -> (DiskToken, Result<DiskReply, DiskError>) {
        let (mut events, mut inbound) = (VecDeque::new(), Vec::new());
        poll_fn(move |context| {
            mailbox.register(context.waker());
            inbox.register(context.waker());
            mailbox.drain(&mut inbound);
            inbox.take(&mut events);
            for item in inbound.drain(..) {
                match item {
                    Inbound::Event(event) => events.push_back(Happened { at: None, event }),
                    Inbound::Opened { generation, path, file } => disk.opened(generation, &path, file),
                    _ => panic!("only the pool sends"),
                }
            }
            match events.pop_back().map(|happened| happened.event) {
                Some(Event::Disk { token, result }) => Poll::Ready((token, result)),
                Some(other) => panic!("not a disk event: {other:?}"),
                None => Poll::Pending,
            }
        })
        .await
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
    fn a_missing_directory_is_not_found() {
        let write = |durable| DiskOp::Write { path: path("no/a"), position: 0, data: vec![Bytes::from("x")], durable };
        let (_, results) = run("disk_missing", vec![write(false), write(true)]);
        assert_eq!(results, [const { Err(DiskError::NotFound) }; 2]);
    }

    #[test]
    fn parts_are_copied_from_any_place() {
        let parts = [Bytes::from("abc"), Bytes::new(), Bytes::from("de")];
        for skip in 0..6 {
            let mut target = [9; 8];
            copy_from(&parts, skip, &mut target);
            let rest = &b"abcde"[skip.min(5)..];
            assert_eq!(&target[..rest.len()], rest);
            assert!(target[rest.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
