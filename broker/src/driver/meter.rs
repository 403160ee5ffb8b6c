//! Where a core's time goes: how long each kind of work of its turns takes, which turns held the core for too long, and
//! how long turns were waited for.
//!
//! A *turn* here is one run of the turn task: what no other task of the core could interrupt. On a machine with other
//! processes a turn may also last because the core was taken away: the thread's processor time tells the two apart. Its
//! clock costs a system call (measured: 0.7 µs), so it is read once every [`LOOK_INTERVAL`] and when a turn was long.

use std::time::Duration;

use super::clock::Clock;
use super::sys;
use crate::histogram::Histogram;
use crate::metrics::{HistogramSample, Kind, Sample, Scrape};
use crate::shard::Work;

/// A turn that takes longer has kept others waiting: it is counted.
pub const STALL: Duration = Duration::from_millis(1);
/// How far the last reading of the thread's processor time may lie before the beginning of a turn.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

const WORKS: usize = Work::ALL.len();

/// Counts of one core. Times are in nanoseconds.
#[derive(Debug)]
pub struct Meter {
    clock: Clock,
    began: Duration,
    /// When the work before ended.
    lap_at: Duration,
    /// In this turn, by the kind of work.
    spent: [u64; WORKS],
    /// Since the start, and the longest piece of each.
    total: [u64; WORKS],
    longest: [u64; WORKS],
    /// Long turns, by the work that took most of each.
    stalls: [u64; WORKS],
    /// Those of them in which the thread itself ran for that long.
    held: [u64; WORKS],
    longest_turn: Duration,
    /// The last reading of the thread's processor time, and when that was.
    look: (Duration, Duration),
    delays: Histogram,
}

impl Meter {
    /// Nothing counted yet.
    pub fn new(clock: Clock) -> Meter {
        Meter {
            clock,
            began: Duration::ZERO,
            lap_at: Duration::ZERO,
            spent: [0; WORKS],
            total: [0; WORKS],
            longest: [0; WORKS],
            stalls: [0; WORKS],
            held: [0; WORKS],
            longest_turn: Duration::ZERO,
            look: (Duration::ZERO, Duration::ZERO),
            delays: Histogram::default(),
        }
    }

    /// A turn begins. `waited_since`: when the first thing happened that it is to take, if any did.
    pub fn begin(&mut self, waited_since: Option<Duration>) -> Duration {
        let mut now = self.clock.elapsed();
        if let Some(since) = waited_since {
            self.delays.record(nanoseconds(now.saturating_sub(since)));
        }
        if now.saturating_sub(self.look.0) >= LOOK_INTERVAL {
            let processor_time = sys::thread_processor_time();
            now = self.clock.elapsed();
            self.look = (now, processor_time);
        }
        self.began = now;
        self.lap_at = now;
        now
    }

    /// Work of this kind has ended; the next begins. Returns the time.
    pub fn lap(&mut self, work: Work) -> Duration {
        let now = self.clock.elapsed();
        let took = nanoseconds(now.saturating_sub(self.lap_at));
        self.spent[work as usize] += took;
        self.longest[work as usize] = self.longest[work as usize].max(took);
        self.lap_at = now;
        now
    }

    /// How long the turn lasts, as of the last lap.
    pub fn lasts(&self) -> Duration {
        self.lap_at.saturating_sub(self.began)
    }

    /// The turn has ended, with the last lap.
    pub fn end(&mut self) {
        let took = self.lasts();
        self.longest_turn = self.longest_turn.max(took);
        if took > STALL {
            let processor_time = sys::thread_processor_time();
            // What the thread ran between that reading and this turn cannot be more than the time between them.
            let before = self.began.saturating_sub(self.look.0);
            let ran = processor_time.saturating_sub(self.look.1).saturating_sub(before);
            self.note_stall(ran > STALL);
            self.look = (self.clock.elapsed(), processor_time);
        }
        for (total, spent) in self.total.iter_mut().zip(&mut self.spent) {
            *total += std::mem::take(spent);
        }
    }

    fn note_stall(&mut self, held: bool) {
        let most = (0..WORKS).max_by_key(|&work| self.spent[work]).expect("there are kinds of work");
        self.stalls[most] += 1;
        self.held[most] += u64::from(held);
    }

    /// Adds the counts to a scrape.
    pub fn samples(&self, scrape: &mut Scrape) {
        let seconds = |nanoseconds| Duration::from_nanos(nanoseconds).as_secs_f64();
        let mut sample = |name, help, kind, work: Option<Work>, value| {
            let labels = work.map(|work| ("work", work.name())).into_iter().collect();
            scrape.samples.push(Sample { name, help, kind, labels, value });
        };
        let help = "Time of the shard's turns, by the kind of work.";
        let help_longest = "The longest piece of each kind of work since the start.";
        let help_stalls = "Turns of more than a millisecond, by the work that took most of each.";
        let help_held = "Turns in which the thread itself ran for more than a millisecond, by the work that took most.";
        for work in Work::ALL {
            let index = work as usize;
            let total = seconds(self.total[index]);
            sample("millstream_turn_work_seconds_total", help, Kind::Counter, Some(work), total);
            let longest = seconds(self.longest[index]);
            sample("millstream_turn_work_seconds_max", help_longest, Kind::Gauge, Some(work), longest);
            let stalls = self.stalls[index] as f64;
            sample("millstream_turn_stalls_total", help_stalls, Kind::Counter, Some(work), stalls);
            let held = self.held[index] as f64;
            sample("millstream_turn_stalls_held_total", help_held, Kind::Counter, Some(work), held);
        }
        let longest = self.longest_turn.as_secs_f64();
        sample("millstream_turn_seconds_max", "The longest turn since the start.", Kind::Gauge, None, longest);
        scrape.histograms.push(HistogramSample {
            name: "millstream_turn_delay_seconds",
            help: "Time from the first thing that happened to the turn that took it.",
            labels: Vec::new(),
            histogram: self.delays.clone(),
        });
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(meter: &Meter, name: &str, work: &str) -> f64 {
        let mut scrape = Scrape::default();
        meter.samples(&mut scrape);
        let is_it = |sample: &&Sample| sample.name == name && sample.labels == [("work", work)];
        scrape.samples.iter().find(is_it).expect("a sample").value
    }

    #[test]
    fn a_long_turn_is_charged_to_what_took_most_of_it() {
        let mut meter = Meter::new(Clock::start());
        meter.begin(None);
        meter.lap(Work::Gather);
        meter.end();
        assert!(Work::ALL.iter().all(|work| value(&meter, "millstream_turn_stalls_held_total", work.name()) == 0.0));

        meter.begin(Some(Duration::ZERO));
        meter.lap(Work::Gather);
        // The thread runs that long, however often it is interrupted.
        let ran = sys::thread_processor_time();
        while sys::thread_processor_time() - ran < 4 * STALL {}
        meter.lap(Work::Checkpoint);
        meter.lap(Work::Send);
        assert!(meter.lasts() >= 4 * STALL);
        meter.end();
        assert_eq!(value(&meter, "millstream_turn_stalls_total", "checkpoint"), 1.0);
        assert_eq!(value(&meter, "millstream_turn_stalls_held_total", "checkpoint"), 1.0);
        assert!(value(&meter, "millstream_turn_work_seconds_max", "checkpoint") >= 0.004);

        // A thread that sleeps does not hold its core.
        meter.begin(None);
        std::thread::sleep(4 * STALL);
        meter.lap(Work::Disk);
        meter.end();
        assert_eq!(value(&meter, "millstream_turn_stalls_total", "disk"), 1.0);
        assert_eq!(value(&meter, "millstream_turn_stalls_held_total", "disk"), 0.0);
        assert_eq!(meter.delays.count(), 1);
    }
}
