//! Runs the controller on a thread of its own: brings it what it is asked, and does what it says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::task::Waker;
use std::time::Duration;

use millstream_replication::quorum::Snapshot;
use millstream_replication::{ControllerRequest, ControllerResponse};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken};

use super::Inbound;
use super::clock::Clock;
use super::executor::ShardHandle;
use super::peers::Peers;
use super::{files, sys};
use crate::controller::{Asker, ControllerNode, Effect, Event, Standing};
use crate::node::{Formation, Formed};
use crate::peer::links;
use crate::shard::{self, Message, ShardIndex};

/// What is said to the controller.
#[derive(Debug)]
pub enum ToController {
    /// A shard's requests of one turn, each with the token its answer is to carry.
    Requests {
        /// Who asks, and gets the answers.
        shard: ShardIndex,
        /// In the order in which they are to be decided.
        requests: Vec<(u64, ControllerRequest)>,
    },
    /// A shard has applied the metadata up to and including this offset.
    Applied {
        /// Which shard.
        shard: ShardIndex,
        /// Of the last record that it has applied.
        offset: u64,
    },
    /// A request of the process itself.
    Ask {
        /// Decided like a shard's.
        request: ControllerRequest,
        /// Hears the answer when every shard has applied it.
        reply: Sender<ControllerResponse>,
    },
    /// A disk operation has ended.
    Disk {
        /// That of its effect.
        token: DiskToken,
        /// How it went.
        result: Result<DiskReply, DiskError>,
    },
    /// The shards have shut down. The thread ends.
    End {
        /// The last operation on the disk, after all that the controller has under way.
        last: DiskOp,
        /// Hears how it ended.
        reply: Sender<Result<(), DiskError>>,
    },
}

/// Speaks to the controller's thread, from any other.
#[derive(Clone, Debug)]
pub struct ControllerHandle {
    sender: Sender<ToController>,
    waker: Waker,
    /// The controller's.
    clock: Clock,
    shown: Arc<Shown>,
}

/// Where the controller stands, for other threads to look at. The numbers need not be of the same moment.
#[derive(Debug, Default)]
struct Shown {
    is_active: AtomicBool,
    leader: AtomicI32,
    term: AtomicU64,
    offset: AtomicU64,
    held: AtomicUsize,
    is_alone: AtomicBool,
    /// In microseconds of the controller's clock.
    lease_until_us: AtomicU64,
    brokers: AtomicUsize,
    fenced: AtomicUsize,
    offline_partitions: AtomicUsize,
}

impl Shown {
    fn show(&self, standing: Standing) {
        self.is_active.store(standing.is_active, Ordering::Relaxed);
        self.leader.store(standing.leader, Ordering::Relaxed);
        self.term.store(standing.term, Ordering::Relaxed);
        self.offset.store(standing.offset, Ordering::Relaxed);
        self.held.store(standing.held, Ordering::Relaxed);
        self.is_alone.store(standing.is_alone, Ordering::Relaxed);
        let lease_until_us = u64::try_from(standing.lease_until.as_micros()).unwrap_or(u64::MAX);
        self.lease_until_us.store(lease_until_us, Ordering::Relaxed);
        self.brokers.store(standing.brokers, Ordering::Relaxed);
        self.fenced.store(standing.fenced, Ordering::Relaxed);
        self.offline_partitions.store(standing.offline_partitions, Ordering::Relaxed);
    }
}

impl ControllerHandle {
    /// Where the controller stands.
    pub fn standing(&self) -> Standing {
        Standing {
            is_active: self.shown.is_active.load(Ordering::Relaxed),
            leader: self.shown.leader.load(Ordering::Relaxed),
            term: self.shown.term.load(Ordering::Relaxed),
            offset: self.shown.offset.load(Ordering::Relaxed),
            held: self.shown.held.load(Ordering::Relaxed),
            is_alone: self.shown.is_alone.load(Ordering::Relaxed),
            lease_until: match self.shown.lease_until_us.load(Ordering::Relaxed) {
                u64::MAX => Duration::MAX,
                until => Duration::from_micros(until),
            },
            brokers: self.shown.brokers.load(Ordering::Relaxed),
            fenced: self.shown.fenced.load(Ordering::Relaxed),
            offline_partitions: self.shown.offline_partitions.load(Ordering::Relaxed),
        }
    }

    /// Whether the broker of this process has its lease now.
    pub fn has_lease(&self) -> bool {
        self.standing().has_lease(self.clock.elapsed())
    }

    /// Says something. The error: the thread has ended.
    pub fn send(&self, message: ToController) -> Result<(), SendError<ToController>> {
        self.sender.send(message)?;
        self.waker.wake_by_ref();
        Ok(())
    }
}

/// The thread's end of what others say to it.
pub struct Inbox {
    receiver: Receiver<ToController>,
    peers: Peers,
    shown: Arc<Shown>,
}

/// What the thread will wait on, and how others speak to it. Other nodes connect to `sockets`.
pub fn prepare(clock: Clock, sockets: Vec<OwnedFd>, backlog: i32) -> io::Result<(ControllerHandle, Inbox)> {
    let peers = Peers::listen(clock, sockets, backlog)?;
    let (sender, receiver) = channel();
    let (waker, shown) = (peers.waker(), Arc::new(Shown::default()));
    Ok((ControllerHandle { sender, waker, clock, shown: Arc::clone(&shown) }, Inbox { receiver, peers, shown }))
}

impl Inbox {
    /// What was said to the thread next, if anything was.
    pub fn next(&self) -> Option<ToController> {
        self.receiver.try_recv().ok()
    }

    /// Lets a node that holds nothing wait for others, until its directory belongs to a cluster or the process is told to
    /// stop; then there is no snapshot.
    pub fn form(&mut self, clock: Clock, mut formation: Formation) -> Option<Snapshot> {
        let (mut events, mut effects) = (Vec::new(), Vec::new());
        let mut says_at = clock.elapsed() + SAY_FIRST_AFTER;
        loop {
            if sys::wait_for_stop_signal(Duration::ZERO) {
                return None;
            }
            let now = clock.elapsed();
            if now >= says_at {
                says_at = now + SAY_AFTER;
                super::info("controller", &formation.waits_for());
            }
            let deadline = formation.next_deadline().unwrap_or(now + FORM_WAIT_MAX).min(now + FORM_WAIT_MAX);
            self.peers.wait(Some(deadline), &mut events);
            events.push(links::Event::Tick);
            for event in events.drain(..) {
                for formed in formation.handle(clock.elapsed(), event, &mut effects) {
                    match formed {
                        Formed::Begin(snapshot) => {
                            // The controller that follows numbers its connections anew.
                            self.peers.hang_up();
                            return Some(*snapshot);
                        }
                        Formed::Warn(message) => super::warn("controller", &message),
                    }
                }
            }
            effects.drain(..).for_each(|effect| self.peers.execute(effect));
        }
    }
}

/// A node that waits for others says so then: where they are there it takes less.
const SAY_FIRST_AFTER: Duration = Duration::from_secs(1);
/// And how often after that.
const SAY_AFTER: Duration = Duration::from_secs(5);
/// How long it takes to notice that the process is told to stop.
const FORM_WAIT_MAX: Duration = Duration::from_millis(100);

/// What the controller's thread owns.
pub struct ControllerThread {
    /// The data directory.
    pub root: PathBuf,
    /// The controller's clock, which counts while the machine is suspended.
    pub clock: Clock,
    /// Decides.
    pub controller: ControllerNode,
    /// All shards of the process.
    pub shards: Vec<ShardHandle>,
}

/// Starts the thread; it lives as long as the process. Another one executes its disk operations: they would keep it from
/// hearing and being heard.
pub fn start(thread: ControllerThread, inbox: Inbox, handle: ControllerHandle) -> io::Result<()> {
    let (to_disk, operations) = channel();
    let root = thread.root.clone();
    std::thread::Builder::new().name("controller-disk".to_owned()).spawn(move || {
        for operation in operations {
            // Nobody may wait for what has become of it any more.
            let _ = match operation {
                ToDisk::Operation { token, op } => {
                    let result = files::execute(&root, &op);
                    handle.send(ToController::Disk { token, result }).is_ok()
                }
                ToDisk::Last { op, reply } => reply.send(files::execute(&root, &op).map(drop)).is_ok(),
            };
        }
    })?;
    let running = Running { owned: thread, to_disk, replies: BTreeMap::new(), next_reply: 0 };
    std::thread::Builder::new().name("controller".to_owned()).spawn(move || running.run(inbox)).map(drop)
}

/// What the thread for the disk is to do, one after the other.
enum ToDisk {
    Operation { token: DiskToken, op: DiskOp },
    Last { op: DiskOp, reply: Sender<Result<(), DiskError>> },
}

struct Running {
    owned: ControllerThread,
    to_disk: Sender<ToDisk>,
    /// Where the answers to the process itself go, by their tokens.
    replies: BTreeMap<u64, Sender<ControllerResponse>>,
    next_reply: u64,
}

impl Running {
    /// Ends when it is told to.
    fn run(mut self, mut inbox: Inbox) {
        let (mut events, mut effects) = (Vec::new(), Vec::new());
        // What it wants at the beginning.
        self.happened(Event::Tick, &mut effects);
        loop {
            self.execute(&mut effects, &mut inbox.peers);
            inbox.shown.show(self.owned.controller.standing());
            inbox.peers.wait(self.owned.controller.next_deadline(), &mut events);
            for event in events.drain(..) {
                self.happened(Event::Link(event), &mut effects);
            }
            while let Some(message) = inbox.next() {
                match message {
                    ToController::Requests { shard, requests } => {
                        for (token, request) in requests {
                            self.ask(Asker::Shard { shard, token }, request, &mut effects);
                        }
                    }
                    ToController::Ask { request, reply } => {
                        let token = self.next_reply;
                        self.next_reply += 1;
                        self.replies.insert(token, reply);
                        self.ask(Asker::Node { token }, request, &mut effects);
                    }
                    ToController::Applied { shard, offset } => {
                        self.happened(Event::Applied { shard, offset }, &mut effects);
                    }
                    ToController::Disk { token, result } => {
                        self.happened(Event::Disk { token, result }, &mut effects);
                    }
                    ToController::End { last, reply } => {
                        // Behind the operation that is under way.
                        let _ = self.to_disk.send(ToDisk::Last { op: last, reply });
                        return;
                    }
                }
            }
            if self.owned.controller.next_deadline().is_some_and(|at| at <= self.owned.clock.elapsed()) {
                self.happened(Event::Tick, &mut effects);
            }
        }
    }

    fn ask(&mut self, asker: Asker, request: ControllerRequest, effects: &mut Vec<Effect>) {
        self.happened(Event::Asked { asker, request, random_id: sys::random() }, effects);
    }

    fn happened(&mut self, event: Event, effects: &mut Vec<Effect>) {
        self.owned.controller.handle(self.owned.clock.now(), event, effects);
    }

    fn execute(&mut self, effects: &mut Vec<Effect>, peers: &mut Peers) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Disk { token, op } => {
                    // It lives as long as this one.
                    let _ = self.to_disk.send(ToDisk::Operation { token, op });
                }
                Effect::Link(effect) => peers.execute(effect),
                Effect::Publish { offset, records, image } => {
                    for shard in &self.owned.shards {
                        let (records, image) = (records.clone(), image.clone());
                        tell(shard, Message::Metadata { offset, records, image });
                    }
                }
                Effect::Answer { asker: Asker::Shard { shard, token }, response } => {
                    tell(&self.owned.shards[shard], Message::Controller { token, response });
                }
                Effect::Answer { asker: Asker::Node { token }, response } => {
                    // Whoever asked may have given up.
                    let _ = self.replies.remove(&token).map(|reply| reply.send(response));
                }
                Effect::Answer {
                    asker: asker @ (Asker::Peer { .. } | Asker::Client { .. } | Asker::Own | Asker::Heartbeat { .. }),
                    ..
                } => {
                    panic!("only who waits in this process is answered here, not {asker:?}")
                }
                Effect::Say { message } => super::info("controller", &message),
                Effect::Warn { message } => super::warn("controller", &message),
                Effect::Fail { reason } => {
                    super::log("ERROR", "controller", &format!("{reason}; exiting"));
                    sys::exit_at_once(1);
                }
            }
        }
    }
}

fn tell(shard: &ShardHandle, message: Message) {
    shard.mailbox.push(Inbound::Event(shard::Event::Message(message)));
}
