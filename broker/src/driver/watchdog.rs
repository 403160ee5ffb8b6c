//! One thread that keeps the executors awake and notices when one is stuck.
//!
//! glommio's executor can go to sleep although tasks are runnable: when its preemption timer fires just before it looks
//! at its queues, it takes that for "nothing to do". A timer task does not help, a wake from another thread does. So
//! this thread wakes every shard whose turn counter has not moved for [`INTERVAL`], and does other small things that
//! are due every now and then.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Inbound;
use super::clock::Clock;
use super::mailbox::Mailbox;
use super::pool::Pool;
use super::sys;
use crate::metrics::{Kind, Sample};
use crate::shard::Event;

/// How often the shards are looked at: measured, 0.75 % of a core, and the longest an executor can oversleep.
pub const INTERVAL: Duration = Duration::from_millis(20);
/// Work that waited for longer, until a wake of the watchdog, would have waited for ever or nearly so.
const LOST: Duration = Duration::from_millis(10);
/// A turn that takes longer is reported while it lasts.
const STUCK: Duration = Duration::from_millis(500);
/// How often the free space is measured, in intervals.
const FREE_SPACE_INTERVALS: u64 = 50;

/// A shard's turns, written by its executor and read by others.
#[derive(Debug, Default)]
pub struct Progress {
    /// Turns that had something to do.
    turns: AtomicU64,
    /// When the turn under way began, in nanoseconds of the clock, at least 1; 0 between turns.
    began: AtomicU64,
    /// The watchdog has woken the shard since its last turn.
    is_woken: AtomicBool,
    wakes: AtomicU64,
    rescues: AtomicU64,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Progress {
    /// A turn begins, for work that came at `waited_since`, if there is any.
    pub fn begin(&self, elapsed: Duration, waited_since: Option<Duration>) {
        self.began.store(nanoseconds(elapsed).max(1), Ordering::Relaxed);
        let is_woken = self.is_woken.load(Ordering::Relaxed);
        if is_woken {
            self.is_woken.store(false, Ordering::Relaxed);
            let is_late = waited_since.is_some_and(|since| elapsed.saturating_sub(since) >= LOST);
            self.rescues.fetch_add(u64::from(is_late), Ordering::Relaxed);
        }
    }

    /// The turn ends; `busy`: it had something to do.
    pub fn end(&self, busy: bool) {
        self.began.store(0, Ordering::Relaxed);
        self.turns.fetch_add(u64::from(busy), Ordering::Relaxed);
    }

    /// Adds the counters to a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed) as f64;
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value });
        };
        sample("millstream_turns_total", "Turns of the shard that had something to do.", &self.turns);
        let help = "Wakes by the watchdog, of a shard without a turn for 20 ms.";
        sample("millstream_watchdog_wakes_total", help, &self.wakes);
        let help = "Wakes by the watchdog that found work which had waited for over 10 ms.";
        sample("millstream_watchdog_rescues_total", help, &self.rescues);
    }
}

/// What the watchdog knows of one shard.
pub struct Watched {
    progress: Arc<Progress>,
    mailbox: Arc<Mailbox<Inbound>>,
    turns: u64,
    reported: u64,
}

impl Watched {
    /// A shard to watch.
    pub fn new(progress: Arc<Progress>, mailbox: Arc<Mailbox<Inbound>>) -> Watched {
        Watched { progress, mailbox, turns: 0, reported: 0 }
    }

    /// Wakes the shard if no turn has ended since the last look. Returns how long its turn lasts already, once a turn,
    /// if that is too long.
    fn look(&mut self, elapsed: Duration) -> Option<Duration> {
        let turns = self.progress.turns.load(Ordering::Relaxed);
        if turns == self.turns {
            self.progress.wakes.fetch_add(1, Ordering::Relaxed);
            self.progress.is_woken.store(true, Ordering::Relaxed);
            self.mailbox.wake();
        }
        self.turns = turns;
        let began = self.progress.began.load(Ordering::Relaxed);
        let lasts = Duration::from_nanos(nanoseconds(elapsed).saturating_sub(began));
        if began == 0 || began == self.reported || lasts < STUCK {
            return None;
        }
        self.reported = began;
        Some(lasts)
    }
}

/// Watches the shards, and tells them the free space below `root` once a second, for as long as the process lives.
pub fn start(clock: Clock, mut shards: Vec<Watched>, root: PathBuf, files: Pool) -> std::io::Result<()> {
    let watch = move || {
        let mut intervals = 0u64;
        loop {
            std::thread::sleep(INTERVAL);
            for (index, shard) in shards.iter_mut().enumerate() {
                if let Some(lasts) = shard.look(clock.elapsed()) {
                    super::warn("watchdog", &format!("shard {index} is stuck in a turn for {} ms", lasts.as_millis()));
                }
            }
            if intervals.is_multiple_of(FREE_SPACE_INTERVALS) {
                // On the pool, for a file system may hang where this thread must not.
                let mailboxes: Vec<_> = shards.iter().map(|shard| Arc::clone(&shard.mailbox)).collect();
                let root = root.clone();
                files.run(move || {
                    if let Ok(space) = sys::space(&root) {
                        let sys::Space { free_bytes: bytes, total_bytes } = space;
                        let event = || Inbound::Event(Event::FreeSpace { bytes, total_bytes });
                        mailboxes.iter().for_each(|mailbox| mailbox.push(event()));
                    }
                });
            }
            intervals += 1;
        }
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_shard_without_turns_is_woken_and_a_stuck_one_reported_once() {
        let wakes = Arc::new(Count::default());
        let mailbox = Arc::new(Mailbox::default());
        mailbox.register(&Waker::from(Arc::clone(&wakes)));
        let progress = Arc::new(Progress::default());
        let mut watched = Watched::new(Arc::clone(&progress), mailbox);
        let at = Duration::from_millis;

        assert_eq!(watched.look(at(20)), None);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "no turn yet");
        progress.begin(at(21), Some(at(12)));
        progress.end(true);
        watched.look(at(40));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "a turn ended");
        progress.begin(at(41), Some(at(20)));
        progress.end(false);
        watched.look(at(60));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "the turn had nothing to do: it may have been our own wake");

        progress.begin(at(100), Some(at(90)));
        assert_eq!(watched.look(at(599)), None);
        assert_eq!(watched.look(at(620)), Some(at(520)));
        assert_eq!(watched.look(at(640)), None);
        progress.end(true);
        let mut samples = Vec::new();
        progress.samples(&mut samples);
        let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        assert_eq!(values, [2.0, 5.0, 1.0], "turns, wakes, and the one wake that found old work");
    }

    /// The trap itself: an executor whose only task is runnable sleeps, because the wake got lost. Here the wake is
    /// never sent; the watchdog's must do.
    #[test]
    fn a_sleeping_executor_is_woken_by_the_watchdog() {
        let mailbox: Arc<Mailbox<Inbound>> = Arc::default();
        let progress = Arc::new(Progress::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let files = Pool::start("test", 1, 0).expect("a thread");
        let watched = Watched::new(progress, Arc::clone(&mailbox));
        start(Clock::start(), vec![watched], std::env::temp_dir(), files).expect("a thread");
        glommio::LocalExecutor::default().run(std::future::poll_fn(move |context| {
            mailbox.register(context.waker());
            if runs.fetch_add(1, Ordering::Relaxed) < 3 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        }));
    }
}
