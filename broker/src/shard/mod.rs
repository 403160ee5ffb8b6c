//! A shard: one core's sessions and partitions as a pure state machine.
//!
//! Calling contract. The driver takes everything that has happened, calls [`Shard::handle`] for each event in order,
//! then [`Shard::end_turn`] once, and executes the effects in order. It calls `end_turn` again at
//! [`Shard::next_deadline`]. The shard performs no I/O, reads no clock and draws no random number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::{ControllerRequest, ControllerResponse, MetadataRecord};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken, FilePath, Now};

use crate::metrics::Sample;

/// Index of a shard in this process, from 0.
pub type ShardIndex = usize;

/// A client connection of this shard; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names a prefetch until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefetchToken(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A client connected to the listener of this index (in `listeners` order).
    Connected { connection: ConnectionId, listener: usize, peer: SocketAddr },
    /// One whole request came, without its length prefix. The driver has checked the length against
    /// `socket.request.max.bytes`.
    Request { connection: ConnectionId, frame: Bytes },
    /// All that was given to [`Effect::Send`] so far has gone into the socket.
    Drained { connection: ConnectionId },
    /// The connection is gone: closed by the peer, broken, or closed by [`Effect::Close`].
    Disconnected { connection: ConnectionId },
    /// A disk operation finished.
    Disk { token: DiskToken, result: Result<DiskReply, DiskError> },
    /// A prefetch finished: the range is in the page cache, or cannot be.
    Prefetched { token: PrefetchToken, result: Result<(), DiskError> },
    /// Another shard, or the controller, says something.
    Message(Message),
    /// Free space of the data directory's file system, about once a second.
    FreeSpace { bytes: u64 },
}

/// Something to do.
#[derive(Debug)]
pub enum Effect {
    /// Send these parts on the connection, after all that was sent before.
    Send { connection: ConnectionId, parts: Vec<SendPart> },
    /// Close the connection when what was sent before has left, or at once if it cannot leave.
    Close { connection: ConnectionId },
    /// Stop or go on reading requests from the connection (back-pressure).
    Reading { connection: ConnectionId, on: bool },
    /// Execute a disk operation; answer with [`Event::Disk`].
    Disk { token: DiskToken, op: DiskOp },
    /// Bring a file range into the page cache, off the reactor; answer with [`Event::Prefetched`].
    Prefetch { token: PrefetchToken, path: FilePath, position: u64, bytes: usize },
    /// Drop a file range from the page cache, when convenient.
    Discard { path: FilePath, position: u64, bytes: usize },
    /// Hand a message to another shard. Messages from one shard to another arrive in order.
    ToShard { shard: ShardIndex, message: Message },
    /// Hand a request to the controller; the answer comes as [`Message::Controller`].
    ToController { token: u64, request: ControllerRequest },
    /// This shard has applied the metadata up to and including this offset.
    MetadataApplied { offset: u64 },
    /// Nothing may be acknowledged any more: print the reason and exit with an error.
    Fail { reason: String },
}

/// A piece of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendPart {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a file that a prefetch has made resident: `sendfile`.
    File { path: FilePath, position: u64, bytes: usize },
}

/// What shards and the controller say to a shard. Plain data that may cross threads.
#[derive(Debug)]
pub enum Message {
    /// Metadata records were committed: replay them. `offset` is that of the last one.
    Metadata { offset: u64, records: Arc<Vec<MetadataRecord>> },
    /// The controller's answer to [`Effect::ToController`].
    Controller { token: u64, response: ControllerResponse },
}

/// One core's share of the broker.
pub struct Shard {}

impl Shard {
    /// Takes one event.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let _ = (now, event, effects);
        unimplemented!()
    }

    /// Ends a turn, after its events and whenever [`Shard::next_deadline`] has come.
    pub fn end_turn(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let _ = (now, effects);
        unimplemented!()
    }

    /// When `end_turn` is to be called though nothing happens; in [`Now::elapsed`]'s time.
    pub fn next_deadline(&self) -> Option<Duration> {
        unimplemented!()
    }

    /// Stop accepting work: answer what is under way, commit it.
    pub fn begin_shutdown(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let _ = (now, effects);
        unimplemented!()
    }

    /// After `begin_shutdown`: everything is durable and answered; the driver may stop.
    pub fn is_shut_down(&self) -> bool {
        unimplemented!()
    }

    /// Counters and gauges, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let _ = samples;
        unimplemented!()
    }
}
