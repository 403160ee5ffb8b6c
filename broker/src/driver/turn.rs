//! A shard's turns: take what has happened, have the shard handle it, execute what it wants done, send what it answers.
//! Turns follow each other in a pass, which ends when there is nothing to do or it is time for the [`super::executor`], which
//! runs us, to look around. Nothing here calls it, nor its runtime.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use millstream_storage::Now;

use super::Inbound;
use super::clock::Clock;
use super::disk::Disk;
use super::executor::{ExecutorOptions, Report, ShardHandle, lost};
use super::inbox::{Happened, Inbox};
use super::memory::{MemoryBudget, Pressure};
use super::meter::Meter;
use super::net::Net;
use super::outbox::Outbox;
use super::patience::Patience;
use super::put_off::PutOff;
use super::ring::{Completion, Ring};
use super::streams::{self, Streams};
use super::sys;
use crate::metrics::{Kind, Sample, Scrape};
use crate::shard::{Clock as ShardClock, Effect, Event, Shard, ShardIndex, Work};

/// Rounds of a turn, at most.
const ROUNDS_MAX: usize = 8;
/// How long turns follow each other before glommio gets to run its other tasks and to look at its own rings, which costs
/// some forty microseconds: what depends on it (timers, and being woken by other threads) is no more urgent than that.
const PASS_INTERVAL: Duration = Duration::from_millis(5);
/// How long a round may read from connections before what came is handled.
const RECEIVE_TIME: Duration = Duration::from_micros(100);
/// How long a turn may last before no further event is taken: what it holds up must not wait for over a millisecond,
/// and the last event, the end of the round and the sending of its responses take their time too.
const TURN_TIME: Duration = Duration::from_micros(300);
/// How long a round may send before the other connections wait for the next.
const SEND_TIME: Duration = Duration::from_micros(200);
/// What came from other nodes that a round handles before clients' requests, at most.
const PEER_EVENTS_MAX: usize = 64;
/// Deadlines are rounded up to this, so that many that lie together cost one turn.
const DEADLINE_STEP: Duration = Duration::from_millis(1);

/// A request that takes longer to be taken is heavy: its connection's next waits for the others'.
const HEAVY: Duration = Duration::from_micros(200);
/// How often requests and connections that are held back while memory is full are looked at again.
const FULL_RETRY: Duration = Duration::from_millis(20);

/// The turns of one shard, and all that only they touch.
pub struct Turn {
    index: ShardIndex,
    shard: Shard,
    clock: Clock,
    /// How other threads know this shard.
    handle: ShardHandle,
    reports: Sender<Report>,
    ring: Ring,
    inbox: Inbox,
    outbox: Outbox,
    disk: Disk,
    net: Net,
    streams: Streams,
    memory: Arc<MemoryBudget>,
    /// Bound, to be listened on when we are told to, with their backlog.
    sockets: Vec<OwnedFd>,
    backlog: i32,
    phase: Phase,
    meter: Meter,
    patience: Patience,
    scrapes: Scrapes,
    /// Requests that wait for their turn.
    put_off: PutOff,
    // Reused from turn to turn.
    inbound: Vec<Inbound>,
    events: VecDeque<Happened>,
    completions: Vec<Completion>,
    effects: Vec<Effect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    ShuttingDown,
    ShutDown,
}

/// Scrapes answered, and the time that took.
#[derive(Default)]
struct Scrapes {
    count: u64,
    took: Duration,
}

impl Turn {
    /// The turns of this shard on this ring. Its thread is told how far they have come through `reports`.
    pub fn new(options: ExecutorOptions, shard: Shard, ring: Ring, reports: Sender<Report>) -> Turn {
        let handle = options.shards[options.index].clone();
        let mailbox = Arc::clone(&handle.mailbox);
        let streams = Streams::new(options.clock, options.net.buffers, options.names, Arc::clone(&handle.mailbox));
        Turn {
            index: options.index,
            shard,
            clock: options.clock,
            handle,
            reports,
            ring,
            inbox: Inbox::default(),
            outbox: Outbox::new(options.index, options.shards, options.controller),
            disk: Disk::new(&options.root, options.handles_max, options.pools, mailbox),
            memory: Arc::clone(&options.net.memory),
            streams,
            net: Net::new(options.index, options.clock, options.net, options.limits),
            sockets: options.sockets,
            backlog: options.backlog,
            phase: Phase::Serving,
            meter: Meter::new(options.clock),
            patience: Patience::new(options.poll),
            scrapes: Scrapes::default(),
            put_off: PutOff::default(),
            inbound: Vec::new(),
            events: VecDeque::new(),
            completions: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Tells the thread that started us.
    pub fn report(&self, report: Report) {
        // Nobody waits for the reports any more when the process is about to end.
        let _ = self.reports.send(report);
    }

    /// Has one turn follow the other until nothing has happened for a while, or it is time for the executor to look around.
    /// Returns the time, and when the next pass is to begin if nobody wakes us before.
    pub fn pass(&mut self) -> (Duration, Duration) {
        let began = self.clock.elapsed();
        self.patience.came(began);
        let at_once = loop {
            let has_more = self.turn();
            if self.clock.elapsed() - began >= PASS_INTERVAL {
                break has_more || self.ring.has_work();
            }
            if !has_more && !self.await_work() {
                self.patience.sleeps();
                break false;
            }
        };
        let now = self.clock.elapsed();
        (now, if at_once { now } else { self.next_pass(now) })
    }

    /// When the next pass is to begin: at the next deadline, or when what is held back is to be tried again.
    fn next_pass(&self, now: Duration) -> Duration {
        let deadline = round_up(self.next_deadline());
        let is_held_back = !self.put_off.is_empty() || self.net.must_retry();
        if is_held_back { deadline.min(now + FULL_RETRY) } else { deadline }
    }

    /// When something is due though nothing happens.
    fn next_deadline(&self) -> Duration {
        let sweep = self.net.sweep_at();
        let of_streams = self.streams.due_at().unwrap_or(sweep);
        self.shard.next_deadline().unwrap_or(sweep).min(sweep).min(of_streams)
    }

    /// Polls for something to do, if that has paid of late. Whether there is something.
    fn await_work(&mut self) -> bool {
        let mut now = self.clock.elapsed();
        let until = self.patience.waits(now, self.disk.is_quick());
        let deadline = self.next_deadline();
        let has_work = loop {
            if self.ring.has_work() || !self.handle.mailbox.is_empty() {
                break true;
            }
            if until.is_none_or(|until| now >= until) || now >= deadline {
                break false;
            }
            // Whoever else may run on this core comes first: the kernel's own threads that complete our writes do.
            std::thread::yield_now();
            now = self.clock.elapsed();
        };
        self.patience.polled(now, has_work);
        has_work
    }

    /// Takes what has happened, until nothing has or the time is up; whether there is more.
    fn turn(&mut self) -> bool {
        let mut inbound = mem::take(&mut self.inbound);
        let since = self.handle.mailbox.drain(&mut inbound).map(|instant| self.clock.at(instant));
        let since = since.into_iter().chain(self.inbox.first_at()).min();
        let began = self.meter.begin(since);
        self.handle.progress.begin(began, since);
        if self.net.sweep_at() <= began {
            self.net.sweep(began);
            self.streams.give_up_idle();
        }
        self.streams.tick(&mut self.ring, began);
        let mut rounds = 0;
        let mut is_busy = false;
        let has_more = loop {
            self.take_completions();
            self.streams.receive(&mut self.ring);
            let until = self.clock.elapsed() + RECEIVE_TIME;
            self.net.receive(&mut self.ring, &mut self.inbox, until);
            self.hand_over();
            self.meter.lap(Work::Receive);
            let now = self.clock.now();
            self.gather(now, &mut inbound);
            self.meter.lap(Work::Gather);
            let due = self.shard.next_deadline().is_some_and(|deadline| deadline <= now.elapsed);
            let has_events = !self.events.is_empty() || self.streams.has_events();
            if has_events || !self.effects.is_empty() || due || self.net.has_unsent() || self.streams.has_unsent() {
                is_busy = true;
                self.round(now);
            } else if !self.net.has_readable() && !self.streams.has_readable() {
                break false;
            }
            rounds += 1;
            if rounds == ROUNDS_MAX || self.meter.lasts() >= TURN_TIME {
                break !self.events.is_empty()
                    || !self.inbox.is_empty()
                    || self.net.has_unsent()
                    || self.net.has_readable()
                    || self.streams.has_events()
                    || self.streams.has_unsent()
                    || self.streams.has_readable()
                    || !self.handle.mailbox.is_empty();
            }
            self.handle.mailbox.drain(&mut inbound);
        };
        let has_more = has_more || (self.put_off.has_ready() && self.memory.pressure() < Pressure::Full);
        self.inbound = inbound;
        if self.phase == Phase::ShuttingDown && self.shard.is_shut_down() && self.net.is_drained() {
            self.phase = Phase::ShutDown;
            self.report(Report::ShutDown);
        }
        self.inbox.set_left(self.events.len() + self.put_off.len());
        self.submit();
        self.meter.lap(Work::Effects);
        self.meter.end();
        self.handle.progress.end(is_busy);
        has_more
    }

    /// Takes what the ring has completed.
    fn take_completions(&mut self) {
        if let Err(error) = self.ring.take(&mut self.completions) {
            lost(&error.to_string());
        }
        for completion in self.completions.drain(..) {
            match completion {
                Completion::Ready { watch, key, has_ended, must_renew } if streams::is_key(key) => {
                    self.streams.ready(&mut self.ring, watch, key, has_ended, must_renew);
                }
                Completion::Ready { watch, key, has_ended, must_renew } => {
                    self.net.ready(&mut self.ring, watch, key, has_ended, must_renew);
                }
                Completion::Disk { operation, result } => {
                    self.disk.completed(&mut self.ring, &mut self.inbox, operation, result);
                }
            }
        }
    }

    /// Gives connections of other nodes to the shards that they mean.
    fn hand_over(&mut self) {
        for (shard, stream, hello) in self.net.take_greeted() {
            if shard == self.index {
                self.streams.adopt(&mut self.ring, stream, hello);
            } else {
                self.outbox.adopt(shard, stream, hello);
            }
        }
    }

    /// Hands the kernel what was asked of the ring.
    fn submit(&mut self) {
        if let Err(error) = self.ring.submit() {
            lost(&error.to_string());
        }
    }

    /// Collects what has happened.
    fn gather(&mut self, now: Now, inbound: &mut Vec<Inbound>) {
        let left = self.events.len();
        for item in inbound.drain(..) {
            match item {
                Inbound::Event(event) => self.events.push_back(Happened { at: None, event }),
                Inbound::Opened { generation, path, file } => self.disk.opened(generation, &path, file),
                Inbound::OpenedDirect { generation, path, result } => {
                    self.disk.opened_direct(&mut self.ring, &mut self.inbox, generation, &path, result);
                }
                // Whoever asked may have given up.
                Inbound::Samples(reply) => drop(reply.try_send(self.scrape())),
                Inbound::Partitions { from, reply } => drop(reply.try_send(self.shard.list_partitions(from))),
                Inbound::Groups { from, reply } => drop(reply.try_send(self.shard.list_groups(&from))),
                Inbound::Ping(reply) => drop(reply.try_send(())),
                Inbound::Adopt { stream, hello } => self.streams.adopt(&mut self.ring, stream, hello),
                Inbound::Named { name, address } => self.streams.found(&mut self.ring, &name, address),
                Inbound::Listen => {
                    self.shard.broker_registered();
                    self.listen();
                }
                Inbound::ShutDown => {
                    self.phase = Phase::ShuttingDown;
                    self.net.stop_accepting();
                    self.shard.begin_shutdown(now, &mut self.effects);
                }
            }
        }
        self.inbox.take(&mut self.events);
        let pressure = self.memory.pressure();
        self.put_off.ration(&mut self.events, left, pressure, &self.net);
    }

    /// Has the shard take what has happened, as much as there is time for, and executes what it wants done.
    fn round(&mut self, began: Now) {
        let mut laps = Laps { now: began, meter: &mut self.meter };
        // Other nodes come before clients, with a share of the turn.
        for _ in 0..PEER_EVENTS_MAX {
            let Some(event) = self.streams.next_event() else { break };
            let happened = laps.now.elapsed;
            self.shard.handle_late(&mut laps, happened, Event::Peer(event), &mut self.effects);
            if laps.meter.lasts() >= TURN_TIME / 2 {
                break;
            }
        }
        while let Some(Happened { at, event }) = self.events.pop_front() {
            let requester = match &event {
                Event::Request { connection, .. } => Some(*connection),
                _ => None,
            };
            let lasted = laps.meter.lasts();
            let happened = at.unwrap_or(laps.now.elapsed);
            self.shard.handle_late(&mut laps, happened, event, &mut self.effects);
            if let Some(connection) = requester {
                self.net.set_heavy(connection, laps.meter.lasts() - lasted > HEAVY);
            }
            if laps.meter.lasts() >= TURN_TIME {
                break;
            }
        }
        self.shard.end_turn(&mut laps, &mut self.effects);
        let now = laps.now;
        self.execute();
        // The disk works while responses are sent.
        self.submit();
        self.meter.lap(Work::Effects);
        self.streams.flush(&mut self.ring);
        self.net.flush(&mut self.ring, &mut self.inbox, now.elapsed + SEND_TIME);
        self.meter.lap(Work::Send);
    }

    fn execute(&mut self) {
        let mut effects = mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { connection, parts } => self.net.queue(&mut self.disk, connection, parts),
                Effect::Close { connection } => self.net.close(connection),
                Effect::Reading { connection, on } => self.net.set_reading(connection, on),
                Effect::Disk { token, op } => self.disk.start(&mut self.ring, &mut self.inbox, token, op),
                Effect::Prefetch { token, path, position, bytes } => {
                    self.disk.prefetch(&mut self.inbox, token, path, position, bytes);
                }
                Effect::Discard { path, position, bytes } => self.disk.discard(&path, position, bytes),
                Effect::ToShard { shard, message } => self.outbox.message(shard, message),
                Effect::ToController { token, request } => self.outbox.request(token, request),
                Effect::Dial { link, host, port } => self.streams.dial(&mut self.ring, link, host, port),
                Effect::SendToPeer { link, parts } => {
                    self.streams.send(&mut self.ring, &mut self.disk, link, parts);
                }
                Effect::HangUp { link } => self.streams.hang_up(&mut self.ring, link),
                Effect::ConnectionRules(rules) => self.net.change_rules(rules),
                Effect::MetadataApplied { offset } => self.outbox.applied(offset),
                Effect::Warn { message } => super::warn("shard", &format!("shard {}: {message}", self.index)),
                // Nothing that was queued in this turn has been sent, and nothing will be.
                Effect::Fail { reason } => {
                    super::log("ERROR", "shard", &format!("shard {}: {reason}; exiting", self.index));
                    sys::exit_at_once(1);
                }
            }
        }
        self.effects = effects;
        self.outbox.send();
    }

    fn listen(&mut self) {
        for (listener, socket) in mem::take(&mut self.sockets).into_iter().enumerate() {
            let listens =
                sys::listen(&socket, self.backlog).and_then(|()| self.net.listen(&mut self.ring, listener, socket));
            if let Err(error) = listens {
                return self.report(Report::Failed(format!("cannot listen: {error}")));
            }
        }
        self.report(Report::Listening);
    }

    fn scrape(&mut self) -> Scrape {
        let began = Instant::now();
        let mut scrape = Scrape::default();
        self.shard.samples(&mut scrape);
        self.handle.progress.samples(&mut scrape.samples);
        self.meter.samples(&mut scrape);
        self.net.samples(&mut scrape.samples);
        self.streams.samples(&mut scrape.samples);
        self.disk.samples(&mut scrape.samples);
        self.ring.samples(&mut scrape.samples);
        self.patience.samples(&mut scrape.samples);
        self.scrapes.samples(&mut scrape.samples);
        let mut gauge = |name, help, value: usize| {
            let sample = Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value: value as f64 };
            scrape.samples.push(sample);
        };
        let help = "Items of other threads that wait for the shard.";
        gauge("millstream_mailbox_length", help, self.handle.mailbox.len());
        let help = "Requests that wait because there are many, or memory is tight.";
        gauge("millstream_requests_put_off", help, self.put_off.len());
        self.scrapes.count += 1;
        self.scrapes.took += began.elapsed();
        scrape
    }
}

impl Scrapes {
    fn samples(&self, samples: &mut Vec<Sample>) {
        let mut counter = |name, help, value| {
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value });
        };
        let help = "Scrapes that the shard answered before this one.";
        counter("millstream_scrapes_total", help, self.count as f64);
        let help = "Time of the shard that those scrapes took.";
        counter("millstream_scrape_seconds_total", help, self.took.as_secs_f64());
    }
}

/// The clock that a turn of the shard is measured by.
struct Laps<'a> {
    now: Now,
    meter: &'a mut Meter,
}

impl ShardClock for Laps<'_> {
    fn now(&self) -> Now {
        self.now
    }

    fn lap(&mut self, work: Work) {
        self.now.elapsed = self.meter.lap(work);
    }
}

fn round_up(deadline: Duration) -> Duration {
    let step = DEADLINE_STEP.as_nanos() as u64;
    let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds.div_ceil(step).saturating_mul(step))
}
