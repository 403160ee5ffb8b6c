//! Runs one shard on one glommio executor, pinned to one core.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use millstream_storage::Now;

use super::Inbound;
use super::clock::Clock;
use super::controller::ToController;
use super::disk::{Disk, Pools};
use super::inbox::Inbox;
use super::mailbox::Mailbox;
use super::memory::{MemoryBudget, Pressure};
use super::net::{ConnectionLimits, Net, NetOptions};
use super::sys;
use super::watchdog::Progress;
use crate::metrics::{Kind, Sample};
use crate::shard::{Effect, Event, Shard, ShardIndex};

/// Turns in a row before the other tasks of the core run and the kernel is asked for completions.
const TURNS_IN_A_ROW_MAX: usize = 8;
/// Deadlines are rounded up to this, so that many that lie together cost one turn.
const DEADLINE_STEP: Duration = Duration::from_millis(1);

/// Requests that a turn handles while memory is tight: their responses may be a thousand times their size.
const TIGHT_REQUESTS_MAX: usize = 16;
/// How often requests that are put off while memory is full are looked at again.
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
    /// Memory to register with the executor's rings, in bytes.
    pub memory_bytes: usize,
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
        let builder = LocalExecutorBuilder::new(Placement::Fixed(options.processor)).io_memory(options.memory_bytes);
        let executor = match builder.make() {
            Ok(executor) => executor,
            Err(error) => return report(Report::Failed(format!("cannot start an executor: {error}"))),
        };
        let sender = sender.clone();
        executor.run(async move {
            if let Err(error) = Disk::probe(&options.root).await {
                let place = options.root.display();
                // Nobody waits for the reports any more when the process is about to end.
                let _ = sender.send(Report::Failed(format!("cannot read directly from {place}: {error}")));
                return;
            }
            let mut turn = Turn::new(options, shard, sender);
            turn.report(Report::Recovered);
            poll_fn(move |context| turn.poll(context)).await
        });
    })?;
    Ok(receiver)
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
    disk: Rc<Disk>,
    net: Rc<Net>,
    memory: Arc<MemoryBudget>,
    sockets: Vec<OwnedFd>,
    backlog: i32,
    phase: Phase,
    /// The armed timer and what it was armed for.
    timer: Option<(Duration, Timer)>,
    // Reused from turn to turn.
    inbound: Vec<Inbound>,
    events: Vec<Event>,
    /// Requests put off for want of memory.
    put_off: Vec<Event>,
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
    fn new(options: ExecutorOptions, shard: Shard, reports: Sender<Report>) -> Turn {
        let inbox = Rc::new(Inbox::default());
        let mailbox = Arc::clone(&options.shards[options.index].mailbox);
        let disk = Disk::new(&options.root, options.handles_max, options.pools, mailbox, Rc::clone(&inbox));
        let disk = Rc::new(disk);
        let memory = Arc::clone(&options.net.memory);
        let net = Net::new(options.index, options.net, options.limits, Rc::clone(&inbox), Rc::clone(&disk));
        let net = Rc::new(net);
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
            disk,
            net,
            memory,
            sockets: options.sockets,
            backlog: options.backlog,
            phase: Phase::Serving,
            timer: None,
            inbound: Vec::new(),
            events: Vec::new(),
            put_off: Vec::new(),
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

    /// Takes what has happened, until nothing has.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.mailbox().register(context.waker());
        self.inbox.register(context.waker());
        self.inbox.set_turn(true);
        let progress = Arc::clone(&self.shards[self.index].progress);
        progress.begin(self.clock.elapsed());
        let mut turns = 0;
        while turns < TURNS_IN_A_ROW_MAX {
            let now = self.clock.now();
            self.gather(now);
            let due = self.shard.next_deadline().is_some_and(|deadline| deadline <= now.elapsed);
            if self.events.is_empty() && self.effects.is_empty() && !due {
                break;
            }
            self.turn(now);
            turns += 1;
        }
        if self.phase == Phase::ShuttingDown && self.shard.is_shut_down() && self.net.is_drained() {
            self.phase = Phase::ShutDown;
            self.report(Report::ShutDown);
        }
        self.inbox.set_turn(false);
        self.arm(context, turns == TURNS_IN_A_ROW_MAX);
        progress.end(self.clock.elapsed(), turns > 0);
        Poll::Pending
    }

    /// Collects the events of this turn.
    fn gather(&mut self, now: Now) {
        let mut inbound = std::mem::take(&mut self.inbound);
        self.mailbox().drain(&mut inbound);
        for item in inbound.drain(..) {
            match item {
                Inbound::Event(event) => self.events.push(event),
                Inbound::Opened { generation, path, file } => self.disk.opened(generation, &path, file),
                // Whoever asked may have given up.
                Inbound::Samples(reply) => drop(reply.try_send(self.samples())),
                Inbound::Listen => self.listen(),
                Inbound::ShutDown => {
                    self.phase = Phase::ShuttingDown;
                    self.net.stop_accepting();
                    self.shard.begin_shutdown(now, &mut self.effects);
                }
            }
        }
        self.inbound = inbound;
        self.inbox.take(&mut self.events);
        self.ration();
    }

    /// Leaves in `events` what this turn may handle: few requests while memory is tight, none while it is full. Requests
    /// stay in their order; all else goes on.
    fn ration(&mut self) {
        let requests_max = match self.memory.pressure() {
            Pressure::None if self.put_off.is_empty() => return,
            Pressure::None => usize::MAX,
            Pressure::Tight => TIGHT_REQUESTS_MAX,
            Pressure::Full => 0,
        };
        let mut requests = std::mem::take(&mut self.put_off);
        let is_request = |event: &mut Event| matches!(event, Event::Request { .. });
        requests.extend(self.events.extract_if(.., is_request));
        let rest = requests.split_off(requests.len().min(requests_max));
        self.events.append(&mut requests);
        self.put_off = rest;
    }

    fn turn(&mut self, now: Now) {
        for event in self.events.drain(..) {
            self.shard.handle(now, event, &mut self.effects);
        }
        self.shard.end_turn(now, &mut self.effects);
        self.execute();
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
                Effect::MetadataApplied { offset } => {
                    self.to_controller(ToController::Applied { shard: self.index, offset });
                }
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
        self.net.flush();
    }

    fn to_controller(&self, message: ToController) {
        // The controller's thread ends only with the process.
        let _ = self.controller.send(message);
    }

    fn listen(&mut self) {
        for (listener, socket) in self.sockets.drain(..).enumerate() {
            if let Err(error) = sys::listen(&socket, self.backlog) {
                let failed = Report::Failed(format!("cannot listen: {error}"));
                // Nobody waits for the reports any more when the process is about to end.
                let _ = self.reports.send(failed);
                return;
            }
            self.net.listen(listener, socket);
        }
        self.report(Report::Listening);
    }

    /// Has the next turn run at the shard's next deadline, or as soon as other tasks have had theirs.
    fn arm(&mut self, context: &mut Context<'_>, at_once: bool) {
        let elapsed = self.clock.elapsed();
        let mut deadline = if at_once { Some(elapsed) } else { self.shard.next_deadline().map(round_up) };
        if !self.put_off.is_empty() {
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

    fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        self.shard.samples(&mut samples);
        self.shards[self.index].progress.samples(&mut samples);
        self.net.samples(&mut samples);
        self.disk.samples(&mut samples);
        samples.push(Sample {
            name: "millstream_requests_put_off",
            help: "Requests that wait because memory is tight.",
            kind: Kind::Gauge,
            labels: Vec::new(),
            value: self.put_off.len() as f64,
        });
        samples.push(Sample {
            name: "millstream_mailbox_length",
            help: "Items of other threads that wait for the shard.",
            kind: Kind::Gauge,
            labels: Vec::new(),
            value: self.mailbox().len() as f64,
        });
        samples
    }
}

fn round_up(deadline: Duration) -> Duration {
    let step = DEADLINE_STEP.as_nanos() as u64;
    let nanoseconds = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds.div_ceil(step).saturating_mul(step))
}
