//! Runs one shard on one glommio executor, pinned to one core.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use millstream_storage::Now;

use super::Inbound;
use super::clock::Clock;
use super::controller::ToController;
use super::disk::{Disk, Pools};
use super::inbox::{Happened, Inbox};
use super::limits::ConnectionLimits;
use super::mailbox::Mailbox;
use super::memory::{MemoryBudget, Pressure};
use super::meter::Meter;
use super::net::{Net, NetOptions};
use super::patience::Patience;
use super::preflight;
use super::put_off::PutOff;
use super::ring::{Completion, Ring};
use super::sys;
use super::watchdog::Progress;
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
/// Deadlines are rounded up to this, so that many that lie together cost one turn.
const DEADLINE_STEP: Duration = Duration::from_millis(1);

/// Requests that a turn handles while memory is tight: their responses may be a thousand times their size.
const TIGHT_REQUESTS_MAX: usize = 16;
/// Events that are handled in the order in which they happened; of more, some of each connection in turn.
const CROWD: usize = 64;
/// A request that takes longer to be taken is heavy: its connection's next waits for the others'.
const HEAVY: Duration = Duration::from_micros(200);
/// How often requests and connections that are held back while memory is full are looked at again.
const FULL_RETRY: Duration = Duration::from_millis(20);

/// The shortest timer: not over yet when it is armed, which costs a fraction of a microsecond.
const TIMER_MIN: Duration = Duration::from_micros(5);

/// How other threads know a shard.
#[derive(Clone, Debug, Default)]
pub struct ShardHandle {
    /// Reaches it.
    pub mailbox: Arc<Mailbox<Inbound>>,
    /// Shows that it lives.
    pub progress: Arc<Progress>,
}

/// What an executor tells the thread that started it.
#[derive(Debug)]
pub enum Report {
    /// The shard is recovered.
    Recovered,
    /// It could not be; the process must end with this message.
    Failed(String),
    /// It listens.
    Listening,
    /// Everything is answered and durable.
    ShutDown,
}

/// What an executor needs.
pub struct ExecutorOptions {
    /// This shard.
    pub index: ShardIndex,
    /// The core to be pinned to.
    pub processor: usize,
    /// The process's clock.
    pub clock: Clock,
    /// The data directory.
    pub root: PathBuf,
    /// How long it polls before it sleeps, at most.
    pub poll: Duration,
    /// Idle file descriptors to keep open at most.
    pub handles_max: usize,
    /// Threads for file operations that block.
    pub pools: Pools,
    /// What the configuration says of connections.
    pub net: NetOptions,
    /// Shared by all shards.
    pub limits: Arc<ConnectionLimits>,
    /// Bound sockets, one for each of the configuration's listeners.
    pub sockets: Vec<OwnedFd>,
    /// `socket.listen.backlog.size`
    pub backlog: i32,
    /// All shards of the process, this one included.
    pub shards: Vec<ShardHandle>,
    /// Reaches the controller.
    pub controller: Sender<ToController>,
}

/// Starts an executor's thread. `shard` runs on it first.
pub fn start(options: ExecutorOptions, shard: impl FnOnce() -> Shard + Send + 'static) -> io::Result<Receiver<Report>> {
    let (sender, receiver) = channel();
    let name = format!("shard-{}", options.index);
    std::thread::Builder::new().name(name).spawn(move || {
        // Nobody waits for the reports any more when the process is about to end.
        let report = |report| drop(sender.send(report));
        let shard = shard();
        let builder =
            LocalExecutorBuilder::new(Placement::Fixed(options.processor)).io_memory(preflight::EXECUTOR_MEMORY_BYTES);
        let executor = match builder.make() {
            Ok(executor) => executor,
            Err(error) => return report(Report::Failed(format!("cannot start an executor: {error}"))),
        };
        let ring = match Ring::new() {
            Ok(ring) => Rc::new(ring),
            Err(error) => return report(Report::Failed(format!("cannot make an io_uring: {error}"))),
        };
        let sender = sender.clone();
        executor.run(async move {
            let mut turn = Turn::new(options, shard, Rc::clone(&ring), sender);
            let inbox = Rc::clone(&turn.inbox);
            glommio::spawn_local(async move { wake_for(&ring, &inbox).await }).detach();
            turn.report(Report::Recovered);
            poll_fn(move |context| turn.poll(context)).await
        });
    })?;
    Ok(receiver)
}

/// Wakes the turn task for as long as the ring completes something while the executor sleeps.
async fn wake_for(ring: &Ring, inbox: &Inbox) {
    let told = match ring.event() {
        Ok(event) => sys::event_for_glommio(event),
        Err(error) => return lost(&error.to_string()),
    };
    loop {
        if let Err(error) = told.read_at(0, mem::size_of::<u64>()).await {
            return lost(&error.to_string());
        }
        inbox.wake();
    }
}

/// Nobody would be answered any more.
fn lost(why: &str) {
    super::log("ERROR", "shard", &format!("cannot be woken by io_uring: {why}; exiting"));
    sys::exit_at_once(1);
}

/// The one task that calls the shard.
struct Turn {
    shard: Shard,
    index: ShardIndex,
    clock: Clock,
    shards: Vec<ShardHandle>,
    controller: Sender<ToController>,
    reports: Sender<Report>,
    inbox: Rc<Inbox>,
    ring: Rc<Ring>,
    disk: Rc<Disk>,
    net: Rc<Net>,
    memory: Arc<MemoryBudget>,
    sockets: Vec<OwnedFd>,
    backlog: i32,
    phase: Phase,
    meter: Meter,
    patience: Patience,
    /// Scrapes answered, and the time that took.
    scrapes: (u64, Duration),
    /// The armed timer and what it was armed for.
    timer: Option<(Duration, Timer)>,
    // Reused from turn to turn.
    inbound: Vec<Inbound>,
    events: VecDeque<Happened>,
    completions: Vec<Completion>,
    /// Requests that wait for their turn.
    put_off: PutOff,
    effects: Vec<Effect>,
    /// Messages to each shard, gathered during a turn.
    outgoing: Vec<Vec<Inbound>>,
    requests: Vec<(u64, millstream_replication::ControllerRequest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    ShuttingDown,
    ShutDown,
}

impl Turn {
    fn new(options: ExecutorOptions, shard: Shard, ring: Rc<Ring>, reports: Sender<Report>) -> Turn {
        let inbox = Rc::new(Inbox::default());
        let mailbox = Arc::clone(&options.shards[options.index].mailbox);
        let disk = Rc::new(Disk::new(
            &options.root,
            Rc::clone(&ring),
            options.handles_max,
            options.pools,
            mailbox,
            Rc::clone(&inbox),
        ));
        let memory = Arc::clone(&options.net.memory);
        let net = Rc::new(Net::new(
            options.index,
            options.clock,
            options.net,
            options.limits,
            Rc::clone(&inbox),
            Rc::clone(&disk),
            Rc::clone(&ring),
        ));
        net.watch_idle();
        let outgoing = options.shards.iter().map(|_| Vec::new()).collect();
        Turn {
            shard,
            index: options.index,
            clock: options.clock,
            shards: options.shards,
            controller: options.controller,
            reports,
            inbox,
            ring,
            disk,
            net,
            memory,
            sockets: options.sockets,
            backlog: options.backlog,
            phase: Phase::Serving,
            meter: Meter::new(options.clock),
            patience: Patience::new(options.poll),
            scrapes: (0, Duration::ZERO),
            timer: None,
            inbound: Vec::new(),
            events: VecDeque::new(),
            completions: Vec::new(),
            put_off: PutOff::default(),
            effects: Vec::new(),
            outgoing,
            requests: Vec::new(),
        }
    }

    fn mailbox(&self) -> &Mailbox<Inbound> {
        &self.shards[self.index].mailbox
    }

    fn report(&self, report: Report) {
        // Nobody waits for the reports any more when the process is about to end.
        let _ = self.reports.send(report);
    }

    /// Has one turn follow the other until nothing has happened for a while, or it is time for glommio's other tasks.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.mailbox().register(context.waker());
        self.inbox.register(context.waker());
        self.inbox.set_turn(true);
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
        self.inbox.set_turn(false);
        self.arm(context, at_once);
        Poll::Pending
    }

    /// Polls for something to do, if that has paid of late. Whether there is something.
    fn await_work(&mut self) -> bool {
        let mut now = self.clock.elapsed();
        let until = self.patience.waits(now, self.disk.is_quick());
        let deadline = self.shard.next_deadline();
        let has_work = loop {
            if self.ring.has_work() || !self.mailbox().is_empty() {
                break true;
            }
            if until.is_none_or(|until| now >= until) || deadline.is_some_and(|deadline| now >= deadline) {
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
        let progress = Arc::clone(&self.shards[self.index].progress);
        let mut inbound = std::mem::take(&mut self.inbound);
        let since = self.mailbox().drain(&mut inbound).map(|instant| self.clock.at(instant));
        let since = since.into_iter().chain(self.inbox.first_at()).min();
        let began = self.meter.begin(since);
        progress.begin(began, since);
        let mut rounds = 0;
        let mut is_busy = false;
        let has_more = loop {
            self.take_completions();
            self.net.receive(self.clock.elapsed() + RECEIVE_TIME);
            self.meter.lap(Work::Receive);
            let now = self.clock.now();
            self.gather(now, &mut inbound);
            self.meter.lap(Work::Gather);
            let due = self.shard.next_deadline().is_some_and(|deadline| deadline <= now.elapsed);
            if !self.events.is_empty() || !self.effects.is_empty() || due || self.net.has_unsent() {
                is_busy = true;
                self.round(now);
            } else if !self.net.has_readable() {
                break false;
            }
            rounds += 1;
            if rounds == ROUNDS_MAX || self.meter.lasts() >= TURN_TIME {
                break !self.events.is_empty()
                    || !self.inbox.is_empty()
                    || self.net.has_unsent()
                    || self.net.has_readable()
                    || !self.mailbox().is_empty();
            }
            self.mailbox().drain(&mut inbound);
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
        progress.end(is_busy);
        has_more
    }

    /// Takes what the ring has completed.
    fn take_completions(&mut self) {
        if let Err(error) = self.ring.take(&mut self.completions) {
            lost(&error.to_string());
        }
        for completion in self.completions.drain(..) {
            match completion {
                Completion::Ready { watch, key, has_ended, must_renew } => {
                    self.net.ready(watch, key, has_ended, must_renew);
                }
                Completion::Disk { operation, result } => self.disk.completed(operation, result),
            }
        }
    }

    /// Hands the kernel what was asked of the ring.
    fn submit(&self) {
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
                    self.disk.opened_direct(generation, &path, result);
                }
                // Whoever asked may have given up.
                Inbound::Samples(reply) => drop(reply.try_send(self.scrape())),
                Inbound::Partitions { from, reply } => drop(reply.try_send(self.shard.list_partitions(from))),
                Inbound::Groups { from, reply } => drop(reply.try_send(self.shard.list_groups(&from))),
                Inbound::Ping(reply) => drop(reply.try_send(())),
                Inbound::Listen => self.listen(),
                Inbound::ShutDown => {
                    self.phase = Phase::ShuttingDown;
                    self.net.stop_accepting();
                    self.shard.begin_shutdown(now, &mut self.effects);
                }
            }
        }
        self.inbox.take(&mut self.events);
        self.ration(left);
    }

    /// Leaves in `events` what may be handled now. Few are handled in their order; of many, some of each connection in turn;
    /// few while memory is tight, none while it is full. What is no request goes on. The first `left` events were left by
    /// the last round.
    fn ration(&mut self, left: usize) {
        let pressure = self.memory.pressure();
        if pressure == Pressure::None && self.put_off.is_empty() && self.events.len() <= CROWD {
            return;
        }
        let requests_max = match pressure {
            Pressure::None => CROWD,
            Pressure::Tight => TIGHT_REQUESTS_MAX,
            Pressure::Full => 0,
        };
        // What was rationed before stays; the first time nothing was.
        let rationed = if self.put_off.is_empty() { 0 } else { left };
        let rest = self.events.split_off(rationed);
        let net = &*self.net;
        self.put_off.put_off(rest.into_iter(), net, &mut self.events);
        let room = requests_max.saturating_sub(rationed);
        self.put_off.take(room, pressure >= Pressure::Tight, net, &mut self.events);
    }

    /// Has the shard take what has happened, as much as there is time for, and executes what it wants done.
    fn round(&mut self, began: Now) {
        let mut laps = Laps { now: began, meter: &mut self.meter };
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
        self.net.flush(now.elapsed + SEND_TIME);
        self.meter.lap(Work::Send);
    }

    fn execute(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { connection, parts } => self.net.queue(connection, parts),
                Effect::Close { connection } => self.net.close(connection),
                Effect::Reading { connection, on } => self.net.set_reading(connection, on),
                Effect::Disk { token, op } => self.disk.start(token, op),
                Effect::Prefetch { token, path, position, bytes } => {
                    self.disk.prefetch(token, path, position, bytes);
                }
                Effect::Discard { path, position, bytes } => self.disk.discard(&path, position, bytes),
                Effect::ToShard { shard, message } => {
                    self.outgoing[shard].push(Inbound::Event(Event::Message(message)));
                }
                Effect::ToController { token, request } => self.requests.push((token, request)),
                Effect::ConnectionRules(rules) => self.net.change_rules(rules),
                Effect::MetadataApplied { offset } => {
                    self.to_controller(ToController::Applied { shard: self.index, offset });
                }
                Effect::Warn { message } => super::warn("shard", &format!("shard {}: {message}", self.index)),
                // Nothing that was queued in this turn has been sent, and nothing will be.
                Effect::Fail { reason } => {
                    super::log("ERROR", "shard", &format!("shard {}: {reason}; exiting", self.index));
                    sys::exit_at_once(1);
                }
            }
        }
        self.effects = effects;
        for (shard, messages) in self.outgoing.iter_mut().enumerate() {
            self.shards[shard].mailbox.push_all(messages);
        }
        if !self.requests.is_empty() {
            let requests = std::mem::take(&mut self.requests);
            self.to_controller(ToController::Requests { shard: self.index, requests });
        }
    }

    fn to_controller(&self, message: ToController) {
        // The controller's thread ends only with the process.
        let _ = self.controller.send(message);
    }

    fn listen(&mut self) {
        for (listener, socket) in self.sockets.drain(..).enumerate() {
            let listens = sys::listen(&socket, self.backlog).and_then(|()| self.net.listen(listener, socket));
            if let Err(error) = listens {
                let failed = Report::Failed(format!("cannot listen: {error}"));
                // Nobody waits for the reports any more when the process is about to end.
                let _ = self.reports.send(failed);
                return;
            }
        }
        self.report(Report::Listening);
    }

    /// Has the next turn run at the shard's next deadline, or as soon as other tasks have had theirs.
    fn arm(&mut self, context: &mut Context<'_>, at_once: bool) {
        let elapsed = self.clock.elapsed();
        let mut deadline = if at_once { Some(elapsed) } else { self.shard.next_deadline().map(round_up) };
        if !self.put_off.is_empty() || self.net.must_retry() {
            let again = elapsed + FULL_RETRY;
            deadline = Some(deadline.map_or(again, |deadline| deadline.min(again)));
        }
        // An earlier timer that is still armed only costs a turn without events.
        if self.timer.as_ref().is_some_and(|(armed_for, _)| *armed_for <= elapsed) {
            self.timer = None;
        }
        let Some(deadline) = deadline else { return };
        if self.timer.as_ref().is_some_and(|(armed_for, _)| *armed_for <= deadline) {
            return;
        }
        let mut timer = Timer::new(deadline.saturating_sub(elapsed).max(TIMER_MIN));
        if Pin::new(&mut timer).poll(context).is_ready() {
            // This thread was interrupted just now; the timer is over before it could be armed.
            context.waker().wake_by_ref();
        }
        self.timer = Some((deadline, timer));
    }

    fn scrape(&mut self) -> Scrape {
        let began = Instant::now();
        let mut scrape = Scrape::default();
        self.shard.samples(&mut scrape);
        self.shards[self.index].progress.samples(&mut scrape.samples);
        self.meter.samples(&mut scrape);
        self.net.samples(&mut scrape.samples);
        self.disk.samples(&mut scrape.samples);
        self.ring.samples(&mut scrape.samples);
        let mut sample = |name, help, kind, value| {
            scrape.samples.push(Sample { name, help, kind, labels: Vec::new(), value });
        };
        let mailbox = self.mailbox().len() as f64;
        sample("millstream_mailbox_length", "Items of other threads that wait for the shard.", Kind::Gauge, mailbox);
        let (polled, short, long) = self.patience.counts();
        let help = "Time spent polling before a sleep or instead of one.";
        sample("millstream_poll_seconds_total", help, Kind::Counter, polled.as_secs_f64());
        let help = "Waits that ended while the core polled: sleeps that were saved.";
        sample("millstream_polls_paid_total", help, Kind::Counter, short as f64);
        sample(
            "millstream_sleeps_total",
            "Times that the core had nothing to do and slept.",
            Kind::Counter,
            long as f64,
        );
        let put_off = self.put_off.len() as f64;
        sample(
            "millstream_requests_put_off",
            "Requests that wait because there are many, or memory is tight.",
            Kind::Gauge,
            put_off,
        );
        let (scrapes, took) = self.scrapes;
        let help = "Scrapes that the shard answered before this one.";
        sample("millstream_scrapes_total", help, Kind::Counter, scrapes as f64);
        let help = "Time of the shard that those scrapes took.";
        sample("millstream_scrape_seconds_total", help, Kind::Counter, took.as_secs_f64());
        self.scrapes = (scrapes + 1, took + began.elapsed());
        scrape
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
