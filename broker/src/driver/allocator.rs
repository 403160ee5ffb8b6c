//! Counts the heap of the process, so that the memory budget is held against what is really in use.
//!
//! A thread reports what it has allocated and freed in steps of [`REPORT_BYTES`]: the count is late by at most that much
//! for each thread, and costs a thread-local addition an allocation.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// A thread's unreported change of the heap, in bytes, above which it reports.
pub const REPORT_BYTES: isize = 64 * 1024;

/// What all threads have reported.
static LIVE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    // Constant and without a destructor: an allocator must not allocate, nor outlive what it uses.
    static UNREPORTED: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted. The program makes it the global one.
pub struct CountingAllocator;

/// Bytes allocated and not freed, as far as reported; 0 where [`CountingAllocator`] is not the global allocator.
pub fn live_bytes() -> u64 {
    u64::try_from(LIVE.load(Ordering::Relaxed)).unwrap_or(0)
}

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

// SAFETY: every call goes to `System` with the caller's arguments unchanged, and what it returns is returned; the
// counting touches neither.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that `System` asks for.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            count(layout.size() as isize);
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            count(layout.size() as isize);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
        count(-(layout.size() as isize));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, new_bytes) };
        if !moved.is_null() {
            count(new_bytes as isize - layout.size() as isize);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_and_their_contents_kept() {
        // Not the global allocator here: the count is only this test's.
        let before = LIVE.load(Ordering::Relaxed);
        let bytes = 4 * REPORT_BYTES as usize;
        let layout = Layout::from_size_align(bytes, 4096).expect("legal");
        let larger = Layout::from_size_align(2 * bytes, 4096).expect("legal");
        // SAFETY: the layouts are not empty, and each pointer is freed once with the layout that it has then.
        unsafe {
            let pointer = CountingAllocator.alloc_zeroed(layout);
            assert!(!pointer.is_null() && pointer.add(bytes - 1).read() == 0);
            pointer.add(bytes - 1).write(7);
            assert_eq!(LIVE.load(Ordering::Relaxed) - before, bytes as isize);
            let pointer = CountingAllocator.realloc(pointer, layout, 2 * bytes);
            assert!(!pointer.is_null() && pointer.add(bytes - 1).read() == 7);
            assert_eq!(LIVE.load(Ordering::Relaxed) - before, 2 * bytes as isize);
            CountingAllocator.dealloc(pointer, larger);
            assert_eq!(LIVE.load(Ordering::Relaxed), before);
            let small = Layout::from_size_align(16, 8).expect("legal");
            let pointer = CountingAllocator.alloc(small);
            assert!(!pointer.is_null());
            CountingAllocator.dealloc(pointer, small);
            assert_eq!(LIVE.load(Ordering::Relaxed), before, "little things are reported together");
        }
    }
}
