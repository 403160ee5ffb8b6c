//! Runs one shard on one glommio executor, pinned to one core. This is where glommio is used: it pins the thread, sleeps for
//! us, and wakes at a deadline ([`Alarm`]), for another thread ([`Mailbox`]), or for the shard's ring ([`wake_for`]). What
//! happens while the core is awake is a [`Turn`].

use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};

use super::Inbound;
use super::clock::Clock;
use super::controller::ControllerHandle;
use super::disk::Pools;
use super::limits::ConnectionLimits;
use super::mailbox::Mailbox;
use super::names::NameThreads;
use super::net::NetOptions;
use super::preflight;
use super::ring::Ring;
use super::sys;
use super::turn::Turn;
use super::watchdog::Progress;
use crate::shard::{Shard, ShardIndex};

/// The shortest timer: not over yet when it is armed, which costs a fraction of a microsecond.
const TIMER_MIN: Duration = Duration::from_micros(5);

/// How other threads know a shard.
#[derive(Clone, Debug, Default)]
pub struct ShardHandle {
    /// Where other threads leave what it is to take.
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
    /// It listens on its sockets.
    Listening,
    /// Everything is answered and durable.
    ShutDown,
}

/// What an executor needs.
pub struct ExecutorOptions {
    /// Which of the process's shards it runs.
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
    /// Threads that look up names.
    pub names: NameThreads,
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
    pub controller: ControllerHandle,
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
        let ring = Ring::new().and_then(|ring| Ok((ring.event()?, ring)));
        let (event, ring) = match ring {
            Ok(ring) => ring,
            Err(error) => return report(Report::Failed(format!("cannot make an io_uring: {error}"))),
        };
        let sender = sender.clone();
        executor.run(async move {
            let mailbox = Arc::clone(&options.shards[options.index].mailbox);
            glommio::spawn_local(wake_for(event, Arc::clone(&mailbox))).detach();
            let mut turn = Turn::new(options, shard, ring, sender);
            let mut alarm = Alarm::default();
            turn.report(Report::Recovered);
            poll_fn(move |context| {
                mailbox.register(context.waker());
                let (now, deadline) = turn.pass();
                alarm.set(context, now, deadline);
                Poll::<()>::Pending
            })
            .await
        });
    })?;
    Ok(receiver)
}

/// Wakes the turns for as long as the ring completes something while the executor sleeps. A task of its own, for glommio
/// cannot wait for a descriptor otherwise; it shares nothing with the turns but their mailbox.
async fn wake_for(event: OwnedFd, mailbox: Arc<Mailbox<Inbound>>) {
    let told = sys::event_for_glommio(event);
    loop {
        if let Err(error) = told.read_at(0, mem::size_of::<u64>()).await {
            return lost(&error.to_string());
        }
        mailbox.wake();
    }
}

/// Nobody would be answered any more.
pub(super) fn lost(why: &str) {
    super::log("ERROR", "shard", &format!("cannot be woken by io_uring: {why}; exiting"));
    sys::exit_at_once(1);
}

/// The timer that wakes the turns.
#[derive(Default)]
struct Alarm {
    /// With what it was armed for, in the clock's time.
    armed: Option<(Duration, Timer)>,
}

impl Alarm {
    /// Has the task of this context run at `deadline`, or soon after; at once if that has passed.
    fn set(&mut self, context: &mut Context<'_>, now: Duration, deadline: Duration) {
        // An earlier timer that is still armed only costs a turn without events.
        if self.armed.as_ref().is_some_and(|(armed_for, _)| *armed_for <= now) {
            self.armed = None;
        }
        if self.armed.as_ref().is_some_and(|(armed_for, _)| *armed_for <= deadline) {
            return;
        }
        let mut timer = Timer::new(deadline.saturating_sub(now).max(TIMER_MIN));
        if Pin::new(&mut timer).poll(context).is_ready() {
            // This thread was interrupted just now; the timer is over before it could be armed.
            context.waker().wake_by_ref();
        }
        self.armed = Some((deadline, timer));
    }
}
