//! The allocator that counts, and the count of the process's heap, so that the memory budget is held against what is really
//! in use.
//!
//! What is counted and where is up to a [`Count`]: the program's is [`Heap`]; tests have some that watch what one thread
//! holds. Any of them costs a call that is inlined.
//!
//! One of the three files of this crate with `unsafe` code; the others are [`super::ring`] and [`super::sys`].
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicIsize, Ordering};

/// A thread's unreported change of the heap, in bytes, above which it reports.
pub const REPORT_BYTES: isize = 64 * 1024;

/// Learns what is allocated. It must not allocate itself, nor panic.
pub trait Count {
    /// The calling thread is about to allocate so many bytes, or has freed them if they are below zero.
    fn count(bytes: isize);
}

/// The system's allocator, counted. A program makes it the global one.
pub struct CountingAllocator<C = Heap> {
    count: PhantomData<fn(C)>,
}

impl<C> CountingAllocator<C> {
    /// Tells `C` of every allocation.
    pub const fn new() -> CountingAllocator<C> {
        CountingAllocator { count: PhantomData }
    }
}

impl<C> Default for CountingAllocator<C> {
    fn default() -> CountingAllocator<C> {
        CountingAllocator::new()
    }
}

// SAFETY: every call goes to `System` with the caller's arguments unchanged, and what it returns is returned; the
// counting touches neither.
unsafe impl<C: Count> GlobalAlloc for CountingAllocator<C> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        C::count(layout.size() as isize);
        // SAFETY: the caller's promise is the one that `System` asks for.
        taken_back_if_null::<C>(unsafe { System.alloc(layout) }, layout.size() as isize)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        C::count(layout.size() as isize);
        // SAFETY: as above.
        taken_back_if_null::<C>(unsafe { System.alloc_zeroed(layout) }, layout.size() as isize)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
        C::count(-(layout.size() as isize));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        let grown = new_bytes as isize - layout.size() as isize;
        C::count(grown);
        // SAFETY: as above.
        taken_back_if_null::<C>(unsafe { System.realloc(pointer, layout, new_bytes) }, grown)
    }
}

/// An allocation that has failed takes nothing.
#[inline]
fn taken_back_if_null<C: Count>(pointer: *mut u8, counted: isize) -> *mut u8 {
    if pointer.is_null() {
        C::count(-counted);
    }
    pointer
}

/// Counts the heap of the process. A thread reports what it has allocated and freed in steps of [`REPORT_BYTES`]: the count
/// is late by at most that much for each thread, and costs a thread-local addition an allocation.
pub struct Heap;

/// What all threads have reported.
static LIVE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    // Constant and without a destructor: an allocator must not allocate, nor outlive what it uses.
    static UNREPORTED: Cell<isize> = const { Cell::new(0) };
}

/// Bytes allocated and not freed, as far as reported; 0 where [`Heap`] does not count for the global allocator.
pub fn live_bytes() -> u64 {
    u64::try_from(LIVE.load(Ordering::Relaxed)).unwrap_or(0)
}

impl Count for Heap {
    fn count(bytes: isize) {
        let reported = UNREPORTED.try_with(|unreported| {
            let sum = unreported.get() + bytes;
            if sum.abs() < REPORT_BYTES {
                unreported.set(sum);
                0
            } else {
                unreported.set(0);
                sum
            }
        });
        // A thread that ends has lost its cell.
        let report = reported.unwrap_or(bytes);
        if report != 0 {
            LIVE.fetch_add(report, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_and_their_contents_kept() {
        // Not the global allocator here: the count is only this test's.
        let allocator = CountingAllocator::<Heap>::new();
        let before = LIVE.load(Ordering::Relaxed);
        let bytes = 4 * REPORT_BYTES as usize;
        let layout = Layout::from_size_align(bytes, 4096).expect("legal");
        let larger = Layout::from_size_align(2 * bytes, 4096).expect("legal");
        // SAFETY: the layouts are not empty, and each pointer is freed once with the layout that it has then.
        unsafe {
            let pointer = allocator.alloc_zeroed(layout);
            assert!(!pointer.is_null() && pointer.add(bytes - 1).read() == 0);
            pointer.add(bytes - 1).write(7);
            assert_eq!(LIVE.load(Ordering::Relaxed) - before, bytes as isize);
            let pointer = allocator.realloc(pointer, layout, 2 * bytes);
            assert!(!pointer.is_null() && pointer.add(bytes - 1).read() == 7);
            assert_eq!(LIVE.load(Ordering::Relaxed) - before, 2 * bytes as isize);
            allocator.dealloc(pointer, larger);
            assert_eq!(LIVE.load(Ordering::Relaxed), before);
            let small = Layout::from_size_align(16, 8).expect("legal");
            let pointer = allocator.alloc(small);
            assert!(!pointer.is_null());
            allocator.dealloc(pointer, small);
            assert_eq!(LIVE.load(Ordering::Relaxed), before, "little things are reported together");
        }
    }
}
