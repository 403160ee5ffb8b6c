//! Fixed blocks of memory that one writer fills from front to back while any number of readers, on any thread, hold
//! slices of what is filled already. They carry bytes from the socket to the tail and from the tail to readers without
//! a copy, and are reused, because the first touch of a page costs far more than the next.
//!
//! The only file of this crate with `unsafe` code. Its tests do no I/O and start at most one thread, so that Miri can run
//! them where it is installed: `scripts/miri.sh`.
#![allow(unsafe_code, reason = "memory that one writes while others read what is written already")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::BLOCK_BYTES;

/// The smallest block.
pub const BLOCK_CAPACITY_MIN: usize = BLOCK_BYTES;
/// The largest block that a pool keeps for reuse; larger ones are given back to the allocator. A request a little
/// above a MiB, the usual largest, needs two MiB.
pub const BLOCK_CAPACITY_POOLED_MAX: usize = 4 << 20;
/// How many retired blocks of one size a pool looks at before it allocates another.
const RECLAIM_ATTEMPTS_MAX: usize = 8;

/// Aligned memory, initialised to zero once.
struct Memory {
    allocation: NonNull<u8>,
    /// The first aligned byte of the allocation.
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `Memory` owns its allocation and hands out no reference by itself. The rules that keep shared and exclusive
// access apart are `Block`'s: bytes below a block's length are never written again while a slice of them exists.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(capacity: usize) -> Memory {
        let layout = Memory::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(allocation) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        let padding = allocation.align_offset(BLOCK_BYTES);
        assert!(padding < BLOCK_BYTES, "an allocation has an aligned byte");
        // SAFETY: `padding` is below BLOCK_BYTES, so the aligned start and `capacity` bytes from there lie in the
        // allocation.
        let start = unsafe { allocation.add(padding) };
        Memory { allocation, start, capacity }
    }

    /// A block more than the capacity, aligned by hand: for a larger alignment than its own an allocator fills the memory
    /// with zeros itself and so touches every page, where it else hands out pages that the kernel has not provided yet.
    fn layout(capacity: usize) -> Layout {
        assert!(capacity >= BLOCK_CAPACITY_MIN);
        Layout::from_size_align(capacity + BLOCK_BYTES, 1).expect("a block's capacity fits the address space")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with the same layout, and freed only here.
        unsafe { dealloc(self.allocation.as_ptr(), Memory::layout(self.capacity)) }
    }
}

/// A readable part of a block; keeps the memory alive.
struct Slice {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lay below the block's length when the slice was made. Those bytes are initialised, and no
        // one writes them again before every slice is gone: a block only writes past its length, and a pool reuses
        // memory only after `Arc::get_mut` has shown that it holds the last reference.
        unsafe {
            std::slice::from_raw_parts(
                self.memory.start.as_ptr().add(self.range.start),
                self.range.end - self.range.start,
            )
        }
    }
}

/// A block being filled. Not `Clone`: there is one writer.
pub struct Block {
    memory: Arc<Memory>,
    len: usize,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} of {} bytes)", self.len, self.memory.capacity)
    }
}

impl Block {
    /// A block of at least `bytes`, rounded up to the next capacity that blocks have: see [`capacity_for`].
    pub fn new(bytes: usize) -> Block {
        Block { memory: Arc::new(Memory::allocate(capacity_for(bytes))), len: 0 }
    }

    /// Bytes filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.memory.capacity
    }

    /// Bytes that can still be filled.
    pub fn spare(&self) -> usize {
        self.memory.capacity - self.len
    }

    /// The memory past the filled part. What is written there becomes readable by [`Block::commit`].
    pub fn spare_mut(&mut self) -> &mut [u8] {
        // SAFETY: every slice lies below `len`, so this range is shared with no one; `&mut self` makes it exclusive
        // among writers; the memory was initialised when it was allocated.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(self.len), self.memory.capacity - self.len)
        }
    }

    /// Adds the first `bytes` of the spare memory to the filled part.
    pub fn commit(&mut self, bytes: usize) {
        assert!(bytes <= self.spare());
        self.len += bytes;
    }

    /// Copies `bytes` in; they must fit.
    pub fn append(&mut self, bytes: &[u8]) {
        self.spare_mut()[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// The filled part.
    pub fn filled(&self) -> &[u8] {
        // SAFETY: below `len`, initialised and not written again while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len) }
    }

    /// A shared slice of the filled part, without a copy.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len);
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Slice { memory: Arc::clone(&self.memory), range })
    }
}

/// The capacity of a block of at least `bytes`: a power of two, or a quarter, half or three quarters more, in whole blocks of
/// the disk. A batch of 256 KiB and its header does not take 512 KiB.
pub fn capacity_for(bytes: usize) -> usize {
    let bytes = bytes.max(BLOCK_CAPACITY_MIN);
    let step = (bytes.next_power_of_two() / 2 / STEPS).max(BLOCK_CAPACITY_MIN);
    bytes.next_multiple_of(step)
}

/// Capacities between one power of two and the next.
const STEPS: usize = 4;

/// Blocks for reuse, by size. A block that was given back is free when its last slice is dropped, on whatever thread.
///
/// The pool knows what it has handed out, so one bound holds for both: what is in use and what is kept. It keeps all that
/// fits, because whoever goes up and down between two levels would otherwise touch the difference for the first time
/// again and again; what a whole interval did not need, [`BlockPool::give_up_idle`] frees.
pub struct BlockPool {
    classes: [Class; CLASSES],
    used_bytes: usize,
    kept_bytes: usize,
    bytes_max: usize,
    stats: PoolStats,
}

/// Blocks of one size.
#[derive(Default)]
struct Class {
    /// Given back; slices of them may be left. Oldest first, which are the likeliest to be free.
    lent: VecDeque<Arc<Memory>>,
    /// Nobody else holds them. The newest is used next: it may still be in the processor's cache.
    free: VecDeque<Arc<Memory>>,
    /// The fewest that were free at any time since the last [`BlockPool::give_up_idle`].
    idle: usize,
}

/// Counters of a pool since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Blocks handed out that the allocator had to provide: each is touched for the first time.
    pub fresh: u64,
    /// Blocks handed out that had been used before.
    pub reused: u64,
}

impl Class {
    /// Finds out which blocks have become free, of a few.
    fn reclaim(&mut self) {
        for _ in 0..self.lent.len().min(RECLAIM_ATTEMPTS_MAX) {
            let Some(mut memory) = self.lent.pop_front() else { break };
            if Arc::get_mut(&mut memory).is_some() {
                self.free.push_back(memory);
            } else {
                self.lent.push_back(memory);
            }
        }
    }
}

impl BlockPool {
    /// A pool that keeps blocks for reuse as long as these and those in use take at most `bytes_max` together.
    pub fn new(bytes_max: usize) -> BlockPool {
        BlockPool {
            classes: std::array::from_fn(|_| Class::default()),
            used_bytes: 0,
            kept_bytes: 0,
            bytes_max,
            stats: PoolStats::default(),
        }
    }

    /// An empty block of at least `bytes`: a reused one if one of that size is free. It must be given back.
    pub fn take(&mut self, bytes: usize) -> Block {
        let capacity = capacity_for(bytes);
        self.used_bytes += capacity;
        if let Some(class) = self.classes.get_mut(class_of(capacity)) {
            class.reclaim();
            if let Some(memory) = class.free.pop_back() {
                assert_eq!(memory.capacity, capacity, "a class has blocks of one size");
                class.idle = class.idle.min(class.free.len());
                self.kept_bytes -= capacity;
                self.stats.reused += 1;
                return Block { memory, len: 0 };
            }
            class.idle = 0;
        }
        self.stats.fresh += 1;
        Block::new(capacity)
    }

    /// Gives a block of this pool back; slices of it stay valid.
    pub fn give(&mut self, mut block: Block) {
        let capacity = block.capacity();
        assert!(capacity <= self.used_bytes, "a block is given back to the pool that it is of");
        self.used_bytes -= capacity;
        while self.used_bytes + self.kept_bytes + capacity > self.bytes_max {
            if !self.give_up_one() {
                return;
            }
        }
        if let Some(class) = self.classes.get_mut(class_of(capacity)) {
            self.kept_bytes += capacity;
            if Arc::get_mut(&mut block.memory).is_some() {
                class.free.push_back(block.memory);
            } else {
                class.lent.push_back(block.memory);
            }
        }
    }

    /// Frees a block of the largest size of which one has been free for a while. False: there is none.
    fn give_up_one(&mut self) -> bool {
        let Some(index) = self.classes.iter().rposition(|class| class.idle > 0) else { return false };
        let class = &mut self.classes[index];
        class.idle -= 1;
        class.free.pop_front().expect("what is idle is free");
        self.kept_bytes -= capacity_of(index);
        true
    }

    /// Frees the blocks that were free ever since the last call. Call it at intervals.
    pub fn give_up_idle(&mut self) {
        for (index, class) in self.classes.iter_mut().enumerate() {
            // The ones used the least lie in front.
            assert!(class.idle <= class.free.len(), "what is idle is free");
            class.free.drain(..class.idle);
            self.kept_bytes -= class.idle * capacity_of(index);
            class.reclaim();
            class.idle = class.free.len();
        }
    }

    /// Memory kept for reuse, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// How many blocks were handed out, fresh and reused.
    pub fn stats(&self) -> PoolStats {
        self.stats
    }
}

/// How many sizes of blocks a pool keeps.
const CLASSES: usize = class_of(BLOCK_CAPACITY_POOLED_MAX) + 1;

/// The index of a capacity's class; small powers of two have fewer between them, and leave classes empty.
const fn class_of(capacity: usize) -> usize {
    let blocks = capacity / BLOCK_CAPACITY_MIN;
    let power = blocks.ilog2() as usize;
    power * STEPS + ((blocks * STEPS) >> power) - STEPS
}

/// The capacity of a class's blocks.
const fn capacity_of(class: usize) -> usize {
    ((BLOCK_CAPACITY_MIN << (class / STEPS)) / STEPS) * (STEPS + class % STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capacity_has_a_class_of_its_own() {
        let mut last = 0;
        for bytes in (0..BLOCK_CAPACITY_POOLED_MAX).step_by(1000).chain([4096, 4097, 65_536, 65_537, 4 << 20]) {
            let capacity = capacity_for(bytes);
            assert!(capacity >= bytes && capacity.is_multiple_of(BLOCK_CAPACITY_MIN));
            assert!(bytes < 32 << 10 || capacity - bytes <= bytes / STEPS, "{bytes}: {capacity}");
            assert_eq!(capacity_of(class_of(capacity)), capacity);
            last = last.max(class_of(capacity));
        }
        assert_eq!(last + 1, CLASSES);
    }

    #[test]
    fn slices_outlive_later_appends_and_the_block() {
        let mut block = Block::new(1);
        assert_eq!(block.capacity(), BLOCK_CAPACITY_MIN);
        block.append(b"first");
        let first = block.slice(0..5);
        block.append(b"second");
        let second = block.slice(5..11);
        assert_eq!(block.filled(), b"firstsecond");
        drop(block);
        let reader = std::thread::spawn(move || (first.to_vec(), second.to_vec()));
        assert_eq!(reader.join().expect("no panic"), (b"first".to_vec(), b"second".to_vec()));
    }

    #[test]
    fn a_pool_reuses_memory_only_when_no_slice_is_left() {
        let mut pool = BlockPool::new(1 << 20);
        let mut block = pool.take(10);
        block.append(b"kept");
        let slice = block.slice(0..4);
        let address = block.filled().as_ptr();
        pool.give(block);
        let mut other = pool.take(10);
        assert_ne!(other.filled().as_ptr(), address);
        other.append(b"else");
        assert_eq!(&slice[..], b"kept");
        drop(slice);
        let again = pool.take(10);
        assert_eq!(again.filled().as_ptr(), address);
        assert!(again.is_empty());
        assert_eq!(pool.kept_bytes(), 0);
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_bound() {
        let mut pool = BlockPool::new(2 * BLOCK_CAPACITY_MIN);
        let blocks: Vec<Block> = (0..4).map(|_| pool.take(1)).collect();
        for (given, block) in (1..).zip(blocks) {
            pool.give(block);
            // As long as others are in use, there is less room for what is not.
            assert_eq!(pool.kept_bytes(), [0, 0, 0, 1, 2][given] * BLOCK_CAPACITY_MIN);
        }
        let huge = pool.take(BLOCK_CAPACITY_POOLED_MAX * 2);
        pool.give(huge);
        assert_eq!(pool.kept_bytes(), 2 * BLOCK_CAPACITY_MIN);
        assert_eq!(pool.stats(), PoolStats { fresh: 5, reused: 0 });
    }

    #[test]
    fn a_pool_parts_with_a_size_that_nobody_takes_for_one_that_is_taken() {
        let mut pool = BlockPool::new(4 * BLOCK_CAPACITY_MIN);
        let large = pool.take(4 * BLOCK_CAPACITY_MIN);
        pool.give(large);
        // Until an interval has ended nothing says that it is not needed.
        let small = pool.take(1);
        pool.give(small);
        assert_eq!(pool.kept_bytes(), 4 * BLOCK_CAPACITY_MIN);
        pool.give_up_idle();
        let small = pool.take(1);
        pool.give(small);
        assert_eq!(pool.kept_bytes(), BLOCK_CAPACITY_MIN);
        let small = pool.take(1);
        pool.give(small);
        assert_eq!(pool.stats(), PoolStats { fresh: 3, reused: 1 });
    }

    #[test]
    fn a_pool_gives_up_what_an_interval_did_not_need() {
        let mut pool = BlockPool::new(1 << 20);
        let blocks: Vec<Block> = (0..5).map(|_| pool.take(1)).collect();
        let slice = {
            let mut block = pool.take(1);
            block.append(b"kept");
            let slice = block.slice(0..4);
            pool.give(block);
            slice
        };
        blocks.into_iter().for_each(|block| pool.give(block));
        pool.give_up_idle();
        assert_eq!(pool.kept_bytes(), 6 * BLOCK_CAPACITY_MIN, "all were in use in this interval");
        let (a, b) = (pool.take(1), pool.take(1));
        pool.give(a);
        pool.give(b);
        pool.give_up_idle();
        assert_eq!(pool.kept_bytes(), 3 * BLOCK_CAPACITY_MIN, "two are needed, and one is lent");
        drop(slice);
        pool.give_up_idle();
        assert_eq!(pool.kept_bytes(), BLOCK_CAPACITY_MIN, "it was lent until now");
        pool.give_up_idle();
        assert_eq!(pool.kept_bytes(), 0);
        assert_eq!(pool.stats(), PoolStats { fresh: 6, reused: 2 });
    }
}
