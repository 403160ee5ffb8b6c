//! A shard's own io_uring: readiness of sockets, direct writes, syncs. Beside glommio's rings, which cost several system
//! calls and a few dozen microseconds each time the executor passes them (docs/performance.md): too much for every
//! request. glommio still runs the core: it sleeps for us, and this ring wakes it through an eventfd.
//!
//! One of the three files of this crate with `unsafe` code; the others are [`super::sys`] and [`super::allocator`]. What
//! makes it sound: memory that the kernel reads belongs to the ring from the moment it is named to the kernel until the
//! kernel has answered, and is leaked should the ring be dropped before that.
#![allow(unsafe_code, reason = "the kernel is told of memory and descriptors by address")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use millstream_storage::BLOCK_BYTES;
use millstream_storage::block::Block;
use rustix::event::EventfdFlags;

use crate::metrics::{Kind, Sample};
use crate::slab::Slab;

/// Entries of the submission queue: what a turn asks for beyond them is submitted at once.
const ENTRIES: u32 = 256;
/// Entries of the completion queue. The kernel keeps what does not fit and hands it over later.
const COMPLETIONS: u32 = 4096;
/// Parts of one write; more are copied together.
const PARTS_MAX: usize = 64;

/// What a watch of a socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// A listening socket has connections to accept. Goes on until it is ended.
    Accept = 1,
    /// There is something to read, or the peer has ended its side. Goes on until it is ended: each time something comes,
    /// not while something is left.
    Read = 2,
    /// There is room to write. Once.
    Write = 3,
}

/// The user data of what nobody waits for.
const FORGOTTEN: u64 = 0;
/// The kind of user data that names a place in [`Ring::operations`].
const OPERATION: u64 = 4;
const KIND_SHIFT: u32 = 56;
/// The bits of user data that hold a key or a place.
const KEY_MASK: u64 = (1 << KIND_SHIFT) - 1;

/// Something the kernel has answered.
#[derive(Debug)]
pub enum Completion {
    /// A watched socket is ready.
    Ready {
        /// What was waited for.
        watch: Watch,
        /// As given to [`Ring::watch`].
        key: u64,
        /// The peer has ended its side, or the connection is broken.
        has_ended: bool,
        /// The watch has ended though it should have gone on: it must be made again.
        must_renew: bool,
    },
    /// A disk operation has ended.
    Disk {
        /// The operation with its memory.
        operation: Operation,
        /// How many bytes it wrote.
        result: io::Result<usize>,
    },
}

/// Memory that is to be written: pieces of whole blocks, each at a multiple of [`BLOCK_BYTES`] in memory.
#[derive(Debug)]
pub struct WriteMemory {
    pieces: Vec<WritePiece>,
    bytes: usize,
}

/// A piece of what is to be written.
#[derive(Debug)]
pub enum WritePiece {
    /// From where it is.
    Shared(Bytes),
    /// The filled part of a block that was made for this.
    Own(Block),
}

impl WritePiece {
    fn as_slice(&self) -> &[u8] {
        match self {
            WritePiece::Shared(bytes) => bytes,
            WritePiece::Own(block) => block.filled(),
        }
    }
}

impl WriteMemory {
    /// The pieces that `parts`, back to back, are written from, with zeros to the end of the last block. What is not fit to
    /// be given to the disk is copied into blocks that `take` provides.
    pub fn new(parts: Vec<Bytes>, mut take: impl FnMut(usize) -> Block) -> WriteMemory {
        let mut copy = |parts: &[Bytes]| {
            let bytes: usize = parts.iter().map(Bytes::len).sum();
            let padded = bytes.next_multiple_of(BLOCK_BYTES);
            let mut block = take(padded);
            parts.iter().for_each(|part| block.append(part));
            // A reused block holds what was written before.
            block.spare_mut()[..padded - bytes].fill(0);
            block.commit(padded - bytes);
            WritePiece::Own(block)
        };
        let are_blocks = parts.split_last().is_some_and(|(_, parts)| {
            parts.len() < PARTS_MAX && parts.iter().all(|part| part.len().is_multiple_of(BLOCK_BYTES))
        });
        let pieces: Vec<WritePiece> = if are_blocks {
            let is_fit = |part: &Bytes| {
                part.as_ptr().addr().is_multiple_of(BLOCK_BYTES) && part.len().is_multiple_of(BLOCK_BYTES)
            };
            let piece = |part: Bytes| if is_fit(&part) { WritePiece::Shared(part) } else { copy(&[part]) };
            parts.into_iter().map(piece).collect()
        } else {
            vec![copy(&parts)]
        };
        let bytes = pieces.iter().map(|piece| piece.as_slice().len()).sum();
        WriteMemory { pieces, bytes }
    }

    /// All of it, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The blocks that were made for it.
    pub fn into_blocks(self) -> impl Iterator<Item = Block> {
        self.pieces.into_iter().filter_map(|piece| match piece {
            WritePiece::Own(block) => Some(block),
            WritePiece::Shared(_) => None,
        })
    }

    /// The memory from `skip` on.
    fn vectors(&self, mut skip: usize) -> Box<[libc::iovec]> {
        let mut vectors = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let piece = piece.as_slice();
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let rest = &piece[skipped..];
            if !rest.is_empty() {
                vectors.push(libc::iovec { iov_base: rest.as_ptr() as *mut libc::c_void, iov_len: rest.len() });
            }
        }
        vectors.into_boxed_slice()
    }
}

/// What a disk operation does.
#[derive(Debug)]
pub enum DiskWork {
    /// Writes memory at a position, from its `done`th byte on.
    Write {
        /// What to write.
        memory: WriteMemory,
        /// Where the memory begins in the file.
        position: u64,
        /// Bytes written by earlier attempts, a multiple of [`BLOCK_BYTES`].
        done: usize,
        /// Complete only when the bytes survive a loss of power.
        durable: bool,
    },
    /// Has what was written survive a loss of power: `fdatasync`.
    Sync,
}

/// A disk operation under way.
#[derive(Debug)]
pub struct Operation {
    /// The caller's name for it.
    pub tag: u64,
    /// Opened for direct writes.
    pub file: Arc<File>,
    /// What to do.
    pub work: DiskWork,
}

/// An operation that the kernel knows of, and what it reads.
struct UnderWay {
    operation: Operation,
    /// Names the operation's memory; boxed, so that it stays where the kernel was told.
    vectors: Box<[libc::iovec]>,
}

/// An io_uring and the eventfd that tells of its completions. Belongs to the thread that made it.
pub struct Ring {
    ring: IoUring,
    event: OwnedFd,
    operations: Slab<UnderWay>,
    /// What did not fit into the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Task work of completions runs only when we ask for it.
    is_deferred: bool,
    enters: u64,
}

impl Ring {
    /// Whether the kernel has io_uring and lets this process use it.
    pub fn probe() -> io::Result<()> {
        IoUring::new(4).map(drop)
    }

    /// A ring for the calling thread.
    pub fn new() -> io::Result<Ring> {
        let build = |is_deferred: bool| {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(COMPLETIONS);
            if is_deferred {
                // Completions do not interrupt the thread: they wait until it asks. Linux 6.1.
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            builder.build(ENTRIES)
        };
        let (ring, is_deferred) = match build(true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (build(false)?, false),
            other => (other?, true),
        };
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Ring { ring, event, operations: Slab::default(), backlog: VecDeque::new(), is_deferred, enters: 0 })
    }

    /// Becomes readable when something completes. A copy of the descriptor.
    pub fn event(&self) -> io::Result<OwnedFd> {
        self.event.try_clone()
    }

    /// Watches a socket; `key` must be below 2^56. Close the socket only after [`Ring::unwatch`].
    pub fn watch(&mut self, socket: &impl AsRawFd, watch: Watch, key: u64) {
        let (mask, goes_on) = match watch {
            Watch::Accept => (libc::POLLIN, true),
            Watch::Read => (libc::POLLIN | libc::POLLRDHUP, true),
            Watch::Write => (libc::POLLOUT, false),
        };
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), mask as u32).multi(goes_on).build();
        self.push(entry.user_data(name(watch as u64, key)));
    }

    /// Ends a watch. Its socket is closed for good only after this.
    pub fn unwatch(&mut self, watch: Watch, key: u64) {
        let entry = opcode::PollRemove::new(name(watch as u64, key)).build();
        self.push(entry.user_data(FORGOTTEN));
    }

    /// Starts a disk operation.
    pub fn start(&mut self, operation: Operation) {
        let descriptor = types::Fd(operation.file.as_raw_fd());
        let vectors: Box<[libc::iovec]> = match &operation.work {
            DiskWork::Write { memory, done, .. } => memory.vectors(*done),
            DiskWork::Sync => Box::default(),
        };
        let (pointer, count) = (vectors.as_ptr(), vectors.len() as u32);
        let entry = match &operation.work {
            DiskWork::Write { position, done, durable, .. } => {
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(descriptor, pointer, count).offset(position + *done as u64).rw_flags(flags).build()
            }
            DiskWork::Sync => opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build(),
        };
        let place = self.operations.insert(UnderWay { operation, vectors });
        self.push(entry.user_data(name(OPERATION, u64::from(place))));
    }

    /// Disk operations under way.
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Hands what was asked for to the kernel, if there is anything, and has it finish what it can.
    pub fn submit(&mut self) -> io::Result<()> {
        loop {
            self.fill();
            let waiting = self.ring.submission().len();
            if waiting == 0 {
                return Ok(());
            }
            self.enter()?;
            if self.backlog.is_empty() || self.ring.submission().len() == waiting {
                return Ok(());
            }
        }
    }

    /// Whether there is something to take or to submit; costs no system call.
    pub fn has_work(&mut self) -> bool {
        self.has_deferred_work() || !self.ring.completion().is_empty() || self.has_unsubmitted()
    }

    /// Takes what has completed.
    pub fn take(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        if self.has_deferred_work() {
            self.enter()?;
        }
        for entry in self.ring.completion() {
            into.extend(completed(&entry, &mut self.operations));
        }
        Ok(())
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let help = "System calls into the shard's io_uring.";
        let (labels, value) = (Vec::new(), self.enters as f64);
        samples.push(Sample { name: "millstream_ring_enters_total", help, kind: Kind::Counter, labels, value });
        let help = "Disk operations that the shard's io_uring has under way.";
        let (labels, value) = (Vec::new(), self.operations.len() as f64);
        samples.push(Sample { name: "millstream_ring_operations", help, kind: Kind::Gauge, labels, value });
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        if self.backlog.len() >= ENTRIES as usize {
            self.fill();
        }
    }

    /// Moves what fits into the submission queue.
    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: the descriptor is open (sockets until they are unwatched; files belong to the operation), and the
            // memory that the entry names belongs to `self.operations` until the kernel has answered.
            if unsafe { queue.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                break;
            }
        }
    }

    /// Submits the queue, and runs what completions have left for this thread to do.
    fn enter(&mut self) -> io::Result<()> {
        let waiting = self.ring.submission().len();
        self.enters += 1;
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: no argument is passed; the entries submitted were checked by `fill`.
        match unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting as u32, 0, flags, None) } {
            Ok(_) => Ok(()),
            // Busy: the kernel wants completions taken first. The caller comes back.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn has_unsubmitted(&mut self) -> bool {
        !self.backlog.is_empty() || !self.ring.submission().is_empty()
    }

    fn has_deferred_work(&mut self) -> bool {
        let queue = self.ring.submission();
        (self.is_deferred && queue.taskrun()) || queue.cq_overflow()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still read it.
        mem::forget(mem::take(&mut self.operations));
    }
}

fn name(kind: u64, key: u64) -> u64 {
    debug_assert!(key <= KEY_MASK);
    kind << KIND_SHIFT | key
}

fn completed(entry: &cqueue::Entry, operations: &mut Slab<UnderWay>) -> Option<Completion> {
    let key = entry.user_data() & KEY_MASK;
    let result = match entry.result() {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        count => Ok(count as usize),
    };
    let watch = match entry.user_data() >> KIND_SHIFT {
        OPERATION => {
            let UnderWay { operation, vectors } = operations.remove(key as u32);
            // The kernel has read them.
            drop(vectors);
            return Some(Completion::Disk { operation, result });
        }
        kind if kind == Watch::Accept as u64 => Watch::Accept,
        kind if kind == Watch::Read as u64 => Watch::Read,
        kind if kind == Watch::Write as u64 => Watch::Write,
        _ => return None,
    };
    let goes_on = cqueue::more(entry.flags());
    let mask = match result {
        // Unwatched.
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => return None,
        Err(_) => libc::POLLERR,
        Ok(mask) => mask as i16,
    };
    let has_ended = mask & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
    Some(Completion::Ready { watch, key, has_ended, must_renew: !goes_on && watch != Watch::Write })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// Takes completions until there is one.
    fn next(ring: &mut Ring) -> Completion {
        let mut completions = Vec::new();
        let began = Instant::now();
        while completions.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing completes");
            ring.submit().expect("submitted");
            ring.take(&mut completions).expect("taken");
            std::thread::yield_now();
        }
        assert_eq!(completions.len(), 1);
        completions.remove(0)
    }

    fn ready(ring: &mut Ring) -> (Watch, u64, bool) {
        match next(ring) {
            Completion::Ready { watch, key, has_ended, must_renew: false } => (watch, key, has_ended),
            other => panic!("not ready: {other:?}"),
        }
    }

    #[test]
    fn a_socket_is_ready_each_time_something_comes() {
        let mut ring = Ring::new().expect("a ring");
        let (mut ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("set");
        ring.watch(&ours, Watch::Read, 77);
        for _ in 0..3 {
            theirs.write_all(b"abc").expect("written");
            assert_eq!(ready(&mut ring), (Watch::Read, 77, false));
            assert_eq!(ours.read(&mut [0; 100]).expect("there"), 3);
            assert!(!ring.has_work());
        }
        ring.watch(&ours, Watch::Write, 78);
        assert_eq!(ready(&mut ring), (Watch::Write, 78, false));
        drop(theirs);
        assert_eq!(ready(&mut ring), (Watch::Read, 77, true));
    }

    #[test]
    fn a_watch_that_is_ended_lets_the_socket_close() {
        let mut ring = Ring::new().expect("a ring");
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        ring.watch(&ours, Watch::Read, 1);
        ring.submit().expect("submitted");
        ring.unwatch(Watch::Read, 1);
        drop(ours);
        ring.submit().expect("submitted");
        theirs.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        assert_eq!(theirs.read(&mut [0]).expect("an end"), 0, "the other end is closed");
        let mut completions = Vec::new();
        ring.take(&mut completions).expect("taken");
        assert!(completions.is_empty(), "{completions:?}");
    }

    #[test]
    fn blocks_and_aligned_parts_are_written_from_any_place() {
        let mut ring = Ring::new().expect("a ring");
        let path = std::env::current_dir().expect("somewhere").join(format!("ring_test_{}", std::process::id()));
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .expect("created");
        std::fs::remove_file(&path).expect("removed");
        let file = Arc::new(file);
        let mut block = Block::new(3 * BLOCK_BYTES);
        (1..=3u8).for_each(|byte| block.append(&[byte; BLOCK_BYTES]));
        let parts = vec![block.slice(0..BLOCK_BYTES), block.slice(BLOCK_BYTES..3 * BLOCK_BYTES)];
        let memory = WriteMemory::new(parts, |_| panic!("they are aligned"));
        assert_eq!(memory.bytes(), 3 * BLOCK_BYTES);
        let mut write = |memory, position, done, durable, tag| {
            let work = DiskWork::Write { memory, position, done, durable };
            ring.start(Operation { tag, file: Arc::clone(&file), work });
            match next(&mut ring) {
                Completion::Disk { operation, result } => (operation.tag, result.expect("written")),
                other => panic!("not a write: {other:?}"),
            }
        };
        assert_eq!(write(memory, 0, 0, true, 5), (5, 3 * BLOCK_BYTES));
        let whole = WriteMemory::new(vec![Bytes::copy_from_slice(block.filled())], Block::new);
        let rest = write(whole, 4 * BLOCK_BYTES as u64, BLOCK_BYTES, false, 6);
        assert_eq!(rest, (6, 2 * BLOCK_BYTES), "what an earlier attempt wrote is not written again");
        ring.start(Operation { tag: 7, file: Arc::clone(&file), work: DiskWork::Sync });
        assert!(matches!(next(&mut ring), Completion::Disk { operation: Operation { tag: 7, .. }, result: Ok(0) }));
        let mut read = Block::new(8 * BLOCK_BYTES);
        let count = std::os::unix::fs::FileExt::read_at(&*file, read.spare_mut(), 0).expect("read");
        read.commit(count);
        let blocks: Vec<u8> = read.filled().chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!(blocks, [1, 2, 3, 0, 0, 2, 3]);
        assert_eq!(ring.operations(), 0);
    }

    #[test]
    fn only_what_the_disk_cannot_take_is_copied() {
        let mut block = Block::new(4 * BLOCK_BYTES);
        (1..=4u8).for_each(|byte| block.append(&[byte; BLOCK_BYTES]));
        let check = |parts: Vec<Bytes>, copies: usize| {
            let mut expected = parts.concat();
            expected.resize(expected.len().next_multiple_of(BLOCK_BYTES), 0);
            let memory = WriteMemory::new(parts, |bytes| {
                let mut used = Block::new(bytes);
                used.spare_mut().fill(9);
                used
            });
            let pieces: Vec<&[u8]> = memory.pieces.iter().map(WritePiece::as_slice).collect();
            assert!(pieces.iter().all(|piece| piece.as_ptr().addr().is_multiple_of(BLOCK_BYTES)));
            assert_eq!(pieces.concat(), expected);
            assert_eq!(memory.into_blocks().count(), copies);
        };
        let slice = |from: usize, to: usize| block.slice(from..to);
        const ONE: usize = BLOCK_BYTES;
        check(vec![slice(0, ONE), slice(2 * ONE, 4 * ONE)], 0);
        check(vec![slice(0, ONE), slice(2 * ONE, 2 * ONE + 10)], 1);
        check(vec![slice(5, 5 + ONE), slice(ONE, 2 * ONE), slice(7, 8)], 2);
        check(vec![slice(0, 100), slice(ONE, 2 * ONE)], 1);
        check(vec![slice(0, ONE); PARTS_MAX + 1], 1);
    }

    #[test]
    fn the_event_tells_of_completions() {
        let mut ring = Ring::new().expect("a ring");
        let mut event = File::from(ring.event().expect("copied"));
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        ring.watch(&ours, Watch::Read, 1);
        ring.submit().expect("submitted");
        theirs.write_all(b"x").expect("written");
        let mut count = [0; 8];
        event.read_exact(&mut count).expect("signalled");
        assert!(u64::from_ne_bytes(count) > 0);
        assert_eq!(ready(&mut ring), (Watch::Read, 1, false));
    }
}
