//! An allocator that counts what the current thread holds, and ends the process when a decoder takes more than it may:
//! no small input with a huge count in it may reserve much.
//!
//! What C code allocates (zstd's contexts) is not counted; libFuzzer's `-malloc_limit_mb` and `-rss_limit_mb` watch that.

use std::cell::Cell;
use std::sync::OnceLock;

use millstream::driver::allocator::{Count, CountingAllocator};

/// What every target may hold, however small the input: error messages, hash tables of the process, short vectors.
pub const BASE_BYTES: usize = 64 << 10;

/// For decoders that take nothing: the count of references that a slice gets when it is first shared.
pub const SHARING_BYTES: usize = 64;

/// Counts what the current thread holds.
struct Held;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// What to do before the process ends for an input that takes too much.
static ON_OVERRUN: OnceLock<fn()> = OnceLock::new();

#[global_allocator]
static ALLOCATOR: CountingAllocator<Held> = CountingAllocator::new();

impl Count for Held {
    fn count(bytes: isize) {
        // A thread that ends has no counters any more; it is not measured.
        let _ = HELD.try_with(|held| {
            let now = held.get() + bytes;
            held.set(now);
            if now > MOST.get() {
                MOST.set(now);
            }
            if now > LIMIT.get() {
                overrun(bytes, now);
            }
        });
    }
}

/// Ends the process here, where a stack trace shows who wanted so much.
#[cold]
fn overrun(bytes: isize, held: isize) {
    let limit = LIMIT.replace(isize::MAX);
    // The message and the stack trace of a panic are no decoder's.
    if std::thread::panicking() {
        return;
    }
    eprintln!("an allocation of {bytes} bytes takes the decoder {} bytes above its bound", held - limit);
    if let Some(prepare) = ON_OVERRUN.get() {
        prepare();
    }
    std::process::abort();
}

/// Calls `prepare` before the process ends for an input that takes too much. Only the first call counts.
pub fn on_overrun(prepare: fn()) {
    let _ = ON_OVERRUN.set(prepare);
}

/// Runs a decoder that may at no time hold more than `bytes_max` beyond what is held already. Must not be nested.
pub fn bounded<T>(bytes_max: usize, run: impl FnOnce() -> T) -> T {
    LIMIT.set(HELD.get().saturating_add_unsigned(bytes_max));
    let result = run();
    LIMIT.set(isize::MAX);
    result
}

/// Within [`bounded`], runs what is not to be measured: whatever it holds and keeps does not count.
pub fn unbounded<T>(run: impl FnOnce() -> T) -> T {
    let limit = LIMIT.replace(isize::MAX);
    let before = HELD.get();
    let result = run();
    LIMIT.set(limit.saturating_add(HELD.get() - before));
    result
}

/// The most that `run` holds at one time beyond what is held already, in bytes.
pub fn most_held(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    run();
    (MOST.get() - before) as usize
}
