//! How long a core polls before it sleeps. Falling asleep and being woken costs some forty microseconds each time, and
//! an idle core takes about 25 µs more to wake: for requests that come one after the other that is most of their time.
//! So a core whose waits have been short lately polls; one whose waits are long sleeps at once, and an idle broker takes
//! no processor time.

use std::time::Duration;

use crate::metrics::{Kind, Sample};

/// How many times `max` a wait counts at most: one long rest is soon forgotten.
const WAIT_MAX: u32 = 4;
/// The share of the newest wait in what is usual.
const NEWEST: u32 = 8;

/// What a core knows of its waits.
#[derive(Debug)]
pub struct Patience {
    /// `millstream.poll.us`
    max: Duration,
    /// How long waits last of late.
    usual: Duration,
    waits_since: Option<Duration>,
    /// Time spent polling.
    polled: Duration,
    /// Waits that ended while the core polled, and those in which it went to sleep.
    short: u64,
    long: u64,
}

impl Patience {
    /// Polls for up to `max`; zero never polls.
    pub fn new(max: Duration) -> Patience {
        Patience { max, usual: Duration::ZERO, waits_since: None, polled: Duration::ZERO, short: 0, long: 0 }
    }

    /// There is nothing to do from `now` on. Returns until when to poll, if waits are short of late and this one is not
    /// known to be long (`is_quick`).
    pub fn waits(&mut self, now: Duration, is_quick: bool) -> Option<Duration> {
        self.waits_since = Some(now);
        (is_quick && self.usual < self.max).then_some(now + self.max)
    }

    /// Polling has ended, because there is something to do (`came`) or because it has lasted long enough.
    pub fn polled(&mut self, now: Duration, came: bool) {
        self.polled += now.saturating_sub(self.waits_since.unwrap_or(now));
        if came {
            self.short += 1;
            self.came(now);
        }
    }

    /// There is something to do again, if it has not been said before.
    pub fn came(&mut self, now: Duration) {
        if let Some(since) = self.waits_since.take() {
            let wait = now.saturating_sub(since).min(self.max * WAIT_MAX);
            self.usual = (self.usual * (NEWEST - 1) + wait) / NEWEST;
        }
    }

    /// The core goes to sleep.
    pub fn sleeps(&mut self) {
        self.long += 1;
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut counter = |name, help, value| {
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value });
        };
        let help = "Time spent polling before a sleep or instead of one.";
        counter("millstream_poll_seconds_total", help, self.polled.as_secs_f64());
        let help = "Waits that ended while the core polled: sleeps that were saved.";
        counter("millstream_polls_paid_total", help, self.short as f64);
        let help = "Times that the core had nothing to do and slept.";
        counter("millstream_sleeps_total", help, self.long as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(200);

    /// Has waits of this length end, with polling or without; whether the last one was polled for.
    fn wait(patience: &mut Patience, now: &mut Duration, times: u32, wait: Duration) -> bool {
        let mut polls = false;
        for _ in 0..times {
            let until = patience.waits(*now, true);
            polls = until.is_some();
            let end = *now + wait;
            match until {
                Some(until) if until >= end => patience.polled(end, true),
                Some(until) => patience.polled(until, false),
                None => {}
            }
            patience.came(end);
            *now = end + Duration::from_micros(10);
        }
        polls
    }

    #[test]
    fn a_core_polls_while_its_waits_are_short() {
        let mut patience = Patience::new(MAX);
        let mut now = Duration::from_secs(1);
        assert!(wait(&mut patience, &mut now, 5, MAX / 2));
        assert!(wait(&mut patience, &mut now, 2, Duration::from_secs(9)), "one long rest changes little");
        assert!(!wait(&mut patience, &mut now, 8, MAX * 2), "longer than it would poll");
        assert!(wait(&mut patience, &mut now, 16, MAX / 2), "and short again");
        assert_eq!(patience.waits(now, false), None, "for the disk has much to do");
        assert!(patience.short >= 7 && patience.polled >= MAX / 2 * 7);
    }

    #[test]
    fn none_polls_never() {
        let mut patience = Patience::new(Duration::ZERO);
        let mut now = Duration::from_secs(1);
        assert!(!wait(&mut patience, &mut now, 5, Duration::from_nanos(1)));
        assert_eq!((patience.polled, patience.short, patience.long), (Duration::ZERO, 0, 0));
    }
}
