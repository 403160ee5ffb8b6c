//! What a world has one of: its events in the order of their time, its source of chance, its trace.

use bytes::Bytes;
use millstream_replication::ControllerRequest;
use millstream_storage::FilePath;
use millstream_storage::random::Random;

use super::disk::Operation;
use super::peer_network::Arrival;
use super::schedule::{Schedule, Trace};
use super::swarm::Kind;
use crate::controller::Asker;
use crate::peer::links;
use crate::shard::{ConnectionId, DiskToken, Message, PrefetchToken};

/// Something that happens in a world. Nodes and clients are numbered from 0.
#[derive(Debug)]
pub enum Event {
    /// To a process of a node: the one that was running when it was foreseen. Nothing, if that one is gone.
    Node { node: usize, incarnation: u64, event: NodeEvent },
    /// A node starts.
    Start { node: usize },
    /// A client acts.
    Client { client: usize },
    /// Something goes wrong: nothing, if the world is coming to its end.
    Fault(Fault),
    /// Something arrives on its way from one node to another.
    Peers(Arrival),
    /// The ways between nodes are whole again.
    Mend,
    /// A process that stood still goes on, if it is still that one.
    Resume { node: usize, incarnation: u64 },
    /// Somebody looks whether everything works again.
    Look,
}

/// Something that happens to a running node.
#[derive(Debug)]
pub enum NodeEvent {
    Disk { shard: usize, token: DiskToken, operation: Operation },
    Prefetch { shard: usize, token: PrefetchToken, path: FilePath },
    ControllerDisk { token: millstream_storage::DiskToken, operation: Operation },
    ToShard { shard: usize, message: Message },
    ToController { asker: Asker, request: ControllerRequest },
    Applied { shard: usize, offset: u64 },
    ControllerTimer,
    Link(links::Event),
    ShardLink { shard: usize, event: links::Event },
    Timer { shard: usize },
    Turn { shard: usize },
    Frame { connection: ConnectionId, frame: Bytes },
    Sent { connection: ConnectionId },
    Marked { operation: Operation },
    FreeSpace,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Some connection is cut.
    Cut,
    /// The node's disk fills up, or is emptied.
    Capacity { node: usize },
    /// The node's disk becomes slow, or quick again.
    Slow { node: usize },
    /// The node's wall clock is set.
    Clock { node: usize },
    /// The node is killed, or loses its power.
    Crash { node: usize },
    /// The same, with something else that has happened to it, if it is still this process.
    CrashOf { node: usize, incarnation: u64, kind: Kind },
    /// The node is told to stop.
    Stop { node: usize },
    /// Whatever a world of several nodes draws next.
    Swarm,
}

/// Time, chance, and a fingerprint of what has happened.
pub struct Timeline {
    /// What will happen.
    pub schedule: Schedule<Event>,
    /// Everything that may go one way or another asks it, in the order in which it happens.
    pub random: Random,
    /// What has happened.
    pub trace: Trace,
}

impl Timeline {
    /// Nothing has happened, nothing will.
    pub fn new(random: Random, is_verbose: bool) -> Timeline {
        Timeline { schedule: Schedule::new(), random, trace: Trace::new(is_verbose) }
    }

    /// Microseconds since the world began.
    pub fn now_us(&self) -> u64 {
        self.schedule.now_us()
    }

    /// The event happens in so many microseconds.
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.schedule.after(delay_us, event);
    }

    /// The event happens at this time, or now if that has passed.
    pub fn at(&mut self, at_us: u64, event: Event) {
        self.schedule.at(at_us, event);
    }

    /// Notes what happens now.
    pub fn line(&mut self, line: String) {
        self.trace.line(self.schedule.now_us(), line);
    }
}
