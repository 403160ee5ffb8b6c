//! A rate over a sliding window, as Kafka measures those it holds to quotas (`Rate`, `SampledStat`, `QuotaUtils`).

use std::collections::VecDeque;
use std::time::Duration;

use millstream_replication::config::{Properties, broker_value};

/// The window: so many samples of this length each (`quota.window.num`, `quota.window.size.seconds`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// At least 1.
    pub samples: u32,
    /// Of one sample.
    pub length: Duration,
}

impl Window {
    /// As a process was configured at its start.
    pub fn configured(file: &Properties) -> Window {
        let number = |name, default| {
            let value = broker_value(name, &[file]).and_then(|value| value.trim().parse::<u32>().ok());
            value.filter(|value| *value > 0).unwrap_or(default)
        };
        Window {
            samples: number("quota.window.num", 11),
            length: Duration::from_secs(number("quota.window.size.seconds", 1).into()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    began: Duration,
    amount: u64,
}

/// What came in the last samples: bytes, or connections.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// At most `Window::samples`, the oldest first.
    samples: VecDeque<Sample>,
}

impl Rate {
    /// Counts what comes now.
    pub fn record(&mut self, window: Window, now: Duration, amount: u64) {
        self.forget_old(window, now);
        match self.samples.back_mut() {
            Some(sample) if now.saturating_sub(sample.began) < window.length => sample.amount += amount,
            _ => self.samples.push_back(Sample { began: now, amount }),
        }
    }

    /// What came in the window.
    pub fn amount(&mut self, window: Window, now: Duration) -> u64 {
        self.forget_old(window, now);
        self.samples.iter().map(|sample| sample.amount).sum()
    }

    /// How long nothing may be added until the rate is `limit` a second again; zero when it is not above that.
    pub fn excess(&mut self, window: Window, now: Duration, limit: f64) -> Duration {
        let amount = self.amount(window, now);
        let wanted = amount as f64 / limit;
        let taken = self.elapsed(window, now).as_secs_f64();
        // Years, if the limit is one byte a second: whoever waits that long has been closed for idleness before.
        Duration::try_from_secs_f64(wanted - taken).unwrap_or(if wanted > taken {
            Duration::MAX
        } else {
            Duration::ZERO
        })
    }

    /// How much may be added now.
    pub fn room(&mut self, window: Window, now: Duration, limit: f64) -> u64 {
        let amount = self.amount(window, now);
        // A number too large for the type becomes its largest.
        let allowed = (limit * self.elapsed(window, now).as_secs_f64()) as u64;
        allowed.saturating_sub(amount)
    }

    /// The time that the amount is divided by: what has passed since the oldest sample began, and as much more as is
    /// missing to a whole window but one sample, so that a short burst is no high rate.
    fn elapsed(&self, window: Window, now: Duration) -> Duration {
        let passed = self.samples.front().map_or(Duration::ZERO, |sample| now.saturating_sub(sample.began));
        let whole = passed.as_nanos() / window.length.as_nanos().max(1);
        let missing = u128::from(window.samples.saturating_sub(1).max(1)).saturating_sub(whole);
        passed + window.length * missing as u32
    }

    fn forget_old(&mut self, window: Window, now: Duration) {
        let age_max = window.length * window.samples.max(1);
        while self.samples.front().is_some_and(|sample| now.saturating_sub(sample.began) >= age_max) {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { samples: 11, length: Duration::from_secs(1) };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_window_is_as_configured() {
        let file = [("quota.window.num", "3"), ("quota.window.size.seconds", "2")];
        let file = file.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(Window::configured(&file), Window { samples: 3, length: seconds(2.0) });
        assert_eq!(Window::configured(&Properties::new()), WINDOW);
    }

    #[test]
    fn a_burst_within_the_window_is_let_through_and_more_has_to_wait() {
        let mut rate = Rate::default();
        assert_eq!(rate.room(WINDOW, seconds(5.0), 100.0), 1000);
        rate.record(WINDOW, seconds(5.0), 1000);
        assert_eq!(rate.excess(WINDOW, seconds(5.0), 100.0), Duration::ZERO);
        rate.record(WINDOW, seconds(5.0), 200);
        // 1,200 bytes are 12 s at 100 bytes a second, and a window is 10 s at least.
        assert_eq!(rate.excess(WINDOW, seconds(5.0), 100.0), seconds(2.0));
        assert_eq!(rate.excess(WINDOW, seconds(5.5), 100.0), seconds(1.5));
        assert_eq!(rate.room(WINDOW, seconds(5.5), 100.0), 0);
        assert_eq!(rate.room(WINDOW, seconds(5.5), 120.0), 60);
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut rate = Rate::default();
        for second in 0..30 {
            rate.record(WINDOW, seconds(f64::from(second)), 100);
            assert!(rate.samples.len() <= 11);
        }
        assert_eq!(rate.amount(WINDOW, seconds(29.0)), 1100);
        assert_eq!(rate.excess(WINDOW, seconds(29.0), 110.0), Duration::ZERO);
        assert_eq!(rate.excess(WINDOW, seconds(29.0), 100.0), seconds(1.0));
        assert_eq!(rate.amount(WINDOW, seconds(100.0)), 0);
    }

    #[test]
    fn who_waits_as_told_keeps_to_the_limit() {
        let mut rate = Rate::default();
        let (mut now, mut sent) = (Duration::ZERO, 0u64);
        while now < seconds(120.0) {
            rate.record(WINDOW, now, 5_000);
            sent += 5_000;
            now += rate.excess(WINDOW, now, 1_000.0).max(Duration::from_millis(1));
        }
        let measured = sent as f64 / now.as_secs_f64();
        assert!((900.0..1_200.0).contains(&measured), "{measured} bytes a second");
    }

    #[test]
    fn a_limit_that_takes_longer_than_a_clock_counts_is_no_panic() {
        let mut rate = Rate::default();
        rate.record(WINDOW, Duration::ZERO, u64::MAX / 2);
        assert_eq!(rate.excess(WINDOW, Duration::ZERO, f64::MIN_POSITIVE), Duration::MAX);
    }
}
