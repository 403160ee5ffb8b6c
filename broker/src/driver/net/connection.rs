//! One connection: its socket, what it is about to send, what it has received of a request, and where it is in its life.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::super::frames::FrameReader;
use super::super::output::Output;
use super::super::sys;
use crate::shard::{ConnectionId, ShardIndex};

/// A connection's name holds its shard above this bit, and below it its key on the ring.
const SHARD_SHIFT: u32 = 48;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// The shard has closed it: what is queued leaves, then our side ends.
    Closing,
    /// Our side has ended: what the peer still sends is read and thrown away, for a reset could overtake our last bytes.
    Lingering,
    /// Broken, or both sides have ended.
    Gone,
}

/// A connection as its shard holds it. Queues name it by its id: once it has left the table nothing comes of its place there.
pub(super) struct Connection {
    pub id: ConnectionId,
    /// The place of its listener in the configuration.
    pub listener: usize,
    pub peer: SocketAddr,
    pub stream: TcpStream,
    pub output: Output,
    pub reader: FrameReader,
    pub phase: Phase,
    /// The socket has no room: the ring says when there is some.
    pub is_blocked: bool,
    /// It stands in the sender's line.
    pub is_dirty: bool,
    /// The limits of clients count it. If not, it is another node's or is closed.
    pub is_counted: bool,
    pub came_at: Instant,
    /// A frame has come: whether it is another node's is known.
    pub has_begun: bool,
    /// The shard takes requests.
    pub is_reading: bool,
    /// It stands in the receiver's line.
    pub is_readable: bool,
    /// The peer has ended its side, or the connection is broken: reading goes on until it says so.
    pub has_ended: bool,
    /// It is not read from until its request gets memory.
    pub is_waiting: bool,
    /// It is not read from until the process or the shard has less to do.
    pub is_stopped: bool,
    /// When the request that is being received began.
    pub receiving_since: Option<Instant>,
    /// When bytes last moved, in either direction.
    pub moved_at: Instant,
    pub closing_since: Option<Instant>,
}

/// The name of a shard's connection with this key on its ring.
pub(super) fn name(shard: ShardIndex, key: u64) -> ConnectionId {
    ConnectionId((shard as u64) << SHARD_SHIFT | key)
}

impl Connection {
    /// A connection that was just accepted; requests above `request_bytes_max` end it.
    pub fn new(
        id: ConnectionId,
        listener: usize,
        peer: SocketAddr,
        stream: TcpStream,
        request_bytes_max: usize,
    ) -> Connection {
        Connection {
            id,
            listener,
            peer,
            stream,
            output: Output::default(),
            reader: FrameReader::new(request_bytes_max),
            phase: Phase::Open,
            is_blocked: false,
            is_dirty: false,
            is_counted: true,
            came_at: Instant::now(),
            has_begun: false,
            is_reading: true,
            is_readable: false,
            has_ended: false,
            is_waiting: false,
            is_stopped: false,
            receiving_since: None,
            moved_at: Instant::now(),
            closing_since: None,
        }
    }

    /// Its key on the ring.
    pub fn key(&self) -> u64 {
        self.id.0 & !(u64::MAX << SHARD_SHIFT)
    }

    /// Ends both sides; nothing is sent any more.
    pub fn end(&mut self) {
        self.phase = Phase::Gone;
        self.output.clear();
        sys::shut_down(&self.stream, true);
    }
}
