//! The only place that reads the time for the shards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_storage::Now;

/// A clock of the process; the same for all its shards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    /// The start by the clock of the machine's start, where the time counts for which the machine is suspended.
    started_boot: Option<Duration>,
}

/// Time since the machine was started, its suspensions included: `CLOCK_BOOTTIME`, clock_gettime(2).
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).expect("a machine's start is not in its future")
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { started: Instant::now(), started_boot: None }
    }

    /// A clock that starts now, and goes on while the machine is suspended: the controller's. To others a node that is suspended
    /// is as silent as one that is stopped, and a lease ends meanwhile.
    pub fn start_counting_suspension() -> Clock {
        Clock { started: Instant::now(), started_boot: Some(since_boot()) }
    }

    /// The time since the start, and the time of day.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { elapsed: self.elapsed(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
    }

    /// An instant in the clock's time.
    pub fn at(&self, instant: Instant) -> Duration {
        match self.started_boot {
            None => instant.saturating_duration_since(self.started),
            Some(_) => self.elapsed().saturating_sub(instant.elapsed()),
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        match self.started_boot {
            None => self.started.elapsed(),
            Some(started) => since_boot().saturating_sub(started),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_count_from_their_start() {
        for clock in [Clock::start(), Clock::start_counting_suspension()] {
            let instant = Instant::now();
            let (first, at) = (clock.elapsed(), clock.at(instant));
            assert!(at <= clock.elapsed() && first <= clock.elapsed());
            assert!(first < Duration::from_secs(600), "not since the machine's start");
        }
    }
}
