//! The only place that reads the time for the shards.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_storage::Now;

/// The process's clock; the same for all its shards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    /// The time since the start, and the time of day.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { elapsed: self.elapsed(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
    }

    /// An instant in the clock's time.
    pub fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.started)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
