//! When requests are due, and which of them a run measures.

use std::time::{Duration, Instant};

/// The measured part of a run. Load before it warms up; what was begun in it and is still unanswered at its end is
/// waited for, so that slow answers are not left out.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Instant,
    pub from: Instant,
    pub until: Instant,
}

impl Window {
    /// A window that opens `warm_up` after now.
    pub fn after(warm_up: Duration, measured: Duration) -> Window {
        let start = Instant::now();
        Window { start, from: start + warm_up, until: start + warm_up + measured }
    }

    pub fn contains(&self, at: Instant) -> bool {
        at >= self.from && at < self.until
    }

    pub fn seconds(&self) -> f64 {
        (self.until - self.from).as_secs_f64()
    }
}

/// The requests of one connection at a fixed rate: request n is due at `first + n × interval`, whatever became of those
/// before it.
#[derive(Clone, Debug)]
pub struct Arrivals {
    first: Instant,
    interval: Duration,
    until: Instant,
    taken: u64,
}

impl Arrivals {
    /// # Panics
    /// If the interval is zero.
    pub fn new(first: Instant, interval: Duration, until: Instant) -> Arrivals {
        assert!(!interval.is_zero(), "requests at a fixed rate need an interval");
        Arrivals { first, interval, until, taken: 0 }
    }

    /// When request `index` is due; `None` when that would be after the run.
    pub fn due(&self, index: u64) -> Option<Instant> {
        let after = Duration::from_nanos((self.interval.as_nanos() as u64).saturating_mul(index));
        Some(self.first + after).filter(|due| *due < self.until)
    }

    /// Whether all requests of the run have been taken.
    pub fn ended(&self) -> bool {
        self.due(self.taken).is_none()
    }

    /// Takes the next request if it is due by `now`; returns the time it was due.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due(self.taken).filter(|due| *due <= now)?;
        self.taken += 1;
        Some(due)
    }

    /// Requests that were due before `now` and nobody has taken, with the time that each was due.
    pub fn waiting(&self, now: Instant) -> impl Iterator<Item = Instant> + '_ {
        (self.taken..).map_while(|index| self.due(index)).take_while(move |due| *due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn requests_are_due_at_fixed_times_whatever_was_taken_late() {
        let first = Instant::now();
        let mut arrivals = Arrivals::new(first, 2 * MS, first + 9 * MS);
        assert_eq!(arrivals.take(first), Some(first));
        assert_eq!(arrivals.take(first), None);
        assert_eq!(arrivals.take(first + 7 * MS), Some(first + 2 * MS));
        assert_eq!(arrivals.take(first + 7 * MS), Some(first + 4 * MS));
        assert_eq!(arrivals.waiting(first + 100 * MS).collect::<Vec<_>>(), [first + 6 * MS, first + 8 * MS]);
        assert_eq!(arrivals.take(first + 7 * MS), Some(first + 6 * MS));
        assert_eq!(arrivals.take(first + 7 * MS), None);
        assert_eq!(arrivals.take(first + 100 * MS), Some(first + 8 * MS));
        assert!(arrivals.ended() && arrivals.waiting(first + 100 * MS).count() == 0);
    }

    #[test]
    fn a_window_holds_its_beginning_and_not_its_end() {
        let window = Window::after(MS, 2 * MS);
        assert!(!window.contains(window.start) && window.contains(window.from) && !window.contains(window.until));
        assert!((window.seconds() - 0.002).abs() < 1e-9);
    }
}
