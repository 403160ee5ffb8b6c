//! What happens to a shard and what it wants done, as plain data; and the names by which the two find each other.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::ControllerRequest;
use millstream_storage::{DiskError, DiskOp, DiskReply, FilePath};

use super::message::Message;
use crate::config::ConnectionRules;
use crate::peer::links::{self, LinkId};
use crate::protocol::send::SendPart;

/// Index of a shard in this process, from 0.
pub type ShardIndex = usize;

/// A client connection of this shard; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names a request of a client until it is answered; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// The connection it came on.
    pub connection: ConnectionId,
    /// Its number on that connection, from 0.
    pub sequence: u64,
}

/// Names a disk operation until it finished, by which part of the shard asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskToken {
    /// The shard's log.
    Log(millstream_storage::DiskToken),
    /// Groups that are being loaded: the number of a read of a file.
    Groups(u64),
    /// Followers of what has left memory: the number of a read of a file.
    Followers(u64),
}

/// As traces show it: one number, the log's counted from 0, the followers' from 2^62 and the groups' from 2^63.
impl Display for DiskToken {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            DiskToken::Log(token) => write!(formatter, "{}", token.0),
            DiskToken::Groups(number) => write!(formatter, "{}", (1 << 63) + number),
            DiskToken::Followers(number) => write!(formatter, "{}", (1 << 62) + number),
        }
    }
}

/// Names a prefetch until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefetchToken(pub u64);

/// Something that happened.
#[allow(missing_docs, reason = "the line of a variant says what its fields are")]
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
    /// Something happened to a connection with a shard of another node: one that was accepted has greeted this shard, and
    /// its greeting is the first that is received.
    Peer(links::Event),
    /// Free space of the data directory's file system and its size, about once a second.
    FreeSpace { bytes: u64, total_bytes: u64 },
}

/// Something to do.
#[allow(missing_docs, reason = "the line of a variant says what its fields are")]
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
    /// Connect to another node: [`links::Effect::Dial`]. Answered with [`Event::Peer`].
    Dial { link: LinkId, host: String, port: u16 },
    /// Send these parts, whole frames with their lengths, to another node, after all that was sent before.
    SendToPeer { link: LinkId, parts: Vec<SendPart> },
    /// Close a connection with another node, after what was sent has left as far as that is possible at once. Nothing more
    /// is said of it.
    HangUp { link: LinkId },
    /// Other rules for client connections hold from now on. One shard of the process says so.
    ConnectionRules(Arc<ConnectionRules>),
    /// This shard has applied the metadata up to and including this offset.
    MetadataApplied { offset: u64 },
    /// Something went wrong and was survived: an operator wants to know.
    Warn { message: String },
    /// Nothing may be acknowledged any more: print the reason and exit with an error.
    Fail { reason: String },
}
