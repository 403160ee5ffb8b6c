//! Virtual time: what happens next, and a fingerprint of all that has happened.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use millstream_storage::Now;

/// The wall clock when a simulation begins, milliseconds since the Unix epoch.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

struct Entry<E> {
    at_us: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.number) == (other.at_us, other.number)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// A wall clock, which may be wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    error_ms: i64,
}

impl Clock {
    /// It is wrong by so much from now on.
    pub fn set_error(&mut self, ms: i64) {
        self.error_ms = ms;
    }
}

/// Events in the order of their time, and of their scheduling when they share one.
pub struct Schedule<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    now_us: u64,
    number: u64,
}

impl<E> Schedule<E> {
    /// Nothing will happen.
    pub fn new() -> Schedule<E> {
        Schedule { heap: BinaryHeap::new(), now_us: 0, number: 0 }
    }

    /// Microseconds since the simulation began.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The time as a process sees it that started at `started_us` and has this clock.
    pub fn now(&self, clock: Clock, started_us: u64) -> Now {
        Now {
            elapsed: Duration::from_micros(self.now_us - started_us),
            unix_ms: EPOCH_MS + (self.now_us / 1_000) as i64 + clock.error_ms,
        }
    }

    /// The event happens in so many microseconds.
    pub fn after(&mut self, delay_us: u64, event: E) {
        self.at(self.now_us + delay_us, event);
    }

    /// The event happens at this time, or now if that has passed.
    pub fn at(&mut self, at_us: u64, event: E) {
        self.number += 1;
        self.heap.push(Reverse(Entry { at_us: at_us.max(self.now_us), number: self.number, event }));
    }

    /// Goes on to the next event that happens. Those that are not wanted any more when their time has come do not, and no
    /// time passes for them.
    pub fn next_that(&mut self, is_wanted: impl Fn(&E) -> bool) -> Option<E> {
        loop {
            let Reverse(entry) = self.heap.pop()?;
            if is_wanted(&entry.event) {
                self.now_us = entry.at_us;
                return Some(entry.event);
            }
        }
    }
}

/// A fingerprint of everything that happened, in order: two runs of one seed must have the same.
pub struct Trace {
    hasher: DefaultHasher,
    is_verbose: bool,
}

impl Trace {
    /// An empty trace; a verbose one prints what it is told.
    pub fn new(is_verbose: bool) -> Trace {
        Trace { hasher: DefaultHasher::new(), is_verbose }
    }

    /// Notes what happened at a time in microseconds.
    pub fn note(&mut self, now_us: u64, what: impl Hash, describe: impl FnOnce() -> String) {
        now_us.hash(&mut self.hasher);
        what.hash(&mut self.hasher);
        if self.is_verbose {
            println!("{:>12.6} {}", now_us as f64 / 1e6, describe());
        }
    }

    /// Notes a line.
    pub fn line(&mut self, now_us: u64, line: String) {
        line.hash(&mut self.hasher);
        self.note(now_us, 0, || line);
    }

    /// The fingerprint so far.
    pub fn finish(&self) -> u64 {
        self.hasher.finish()
    }
}

/// A fingerprint of bytes, for a line of a trace.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.into_iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_and_those_not_wanted_take_no_time() {
        let mut schedule = Schedule::new();
        schedule.at(20, 'c');
        schedule.at(10, 'a');
        schedule.at(20, 'd');
        schedule.at(15, 'b');
        assert_eq!((schedule.next_that(|_| true), schedule.now_us()), (Some('a'), 10));
        schedule.after(1_000, 'e');
        assert_eq!((schedule.next_that(|event| *event == 'd'), schedule.now_us()), (Some('d'), 20));
        assert_eq!((schedule.next_that(|event| *event != 'e'), schedule.now_us()), (None, 20));
        let mut clock = Clock::default();
        clock.set_error(-5);
        let now = schedule.now(clock, 5);
        assert_eq!((now.elapsed, now.unix_ms), (Duration::from_micros(15), EPOCH_MS - 5));
    }
}
