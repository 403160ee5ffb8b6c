//! What happens to connections, what is to be done with them, and what a node learns from it.

use bytes::Bytes;

use crate::peer::frame::RejectReason;

/// One connection. Whoever accepts connections numbers them below 2^63; the rest are those that are dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl LinkId {
    /// Connections that were dialled have this bit, others do not.
    pub const DIALLED: u64 = 1 << 63;

    /// Whether it was dialled here.
    pub fn is_dialled(self) -> bool {
        self.0 >= Self::DIALLED
    }
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that it belongs to, if it belongs to one yet.
    pub cluster_id: Option<[u8; 16]>,
    /// Its number.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// Its process: drawn with every start.
    pub incarnation: [u8; 16],
    /// Where its controller listener is reached.
    pub address: Option<(String, u16)>,
    /// Whether it holds no cluster yet.
    pub is_forming: bool,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// Its process.
    pub incarnation: [u8; 16],
    /// The cluster that it belongs to, if it belongs to one yet.
    pub cluster_id: Option<[u8; 16]>,
    /// Whether it holds no cluster yet.
    pub is_forming: bool,
    /// Where its controller listener is reached: where it was dialled, or what it says of itself.
    pub address: Option<(String, u16)>,
}

/// What has happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody has connected.
    Accepted {
        /// The new connection's number, never used before and below 2^63.
        link: LinkId,
    },
    /// An [`Effect::Dial`] has ended.
    Dialed {
        /// That of the effect.
        link: LinkId,
        /// Whether there is a connection.
        result: Result<(), DialError>,
    },
    /// One whole frame has come, without its length.
    Received {
        /// By which connection.
        link: LinkId,
        /// The frame.
        bytes: Bytes,
    },
    /// The connection is gone, and not because of an [`Effect::Close`].
    Closed {
        /// Which one.
        link: LinkId,
    },
    /// Time has passed. Comes after all that was received by then: a process that was held up does not take its peers for
    /// dead when it goes on.
    Tick,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The machine is there, and nobody listens (ECONNREFUSED).
    Refused,
    /// Anything else: no such name, no way there, no answer within a second.
    Failed,
}

/// What to do with connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect; the end is told by [`Event::Dialed`], after a second at the latest.
    Dial {
        /// The number of the new connection.
        link: LinkId,
        /// By name or number.
        host: String,
        /// The port.
        port: u16,
    },
    /// Send one message: one frame or, if it is large, several, each with its length.
    Send {
        /// By which connection.
        link: LinkId,
        /// What to send.
        bytes: Bytes,
    },
    /// Close the connection, after what was sent has left as far as that is possible at once.
    Close {
        /// Which one. Nothing more is said of it.
        link: LinkId,
    },
}

/// What the node learns from it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A peer can be reached.
    Up {
        /// Who it is.
        peer: Peer,
    },
    /// The connection to a peer was lost. Told once for each loss, as soon as it is known what the next try finds: where
    /// that succeeds [`Told::Up`] follows at once. Where a later try is the first to find that nobody listens, it is told
    /// again with `is_refused`, which is also told, once, of a peer that was never up, and of one that
    /// [`super::Links::probe`] was to look for.
    Down {
        /// Which one.
        node_id: i32,
        /// Nobody listens there, and no connection of its own is left: its process is gone.
        is_refused: bool,
    },
    /// A node has connected: what it is to be told of the quorum reaches it, whether it can be dialled or not.
    Called {
        /// Who it is.
        peer: Peer,
    },
    /// A node that is not dialled had connected, and its connection is gone.
    Gone {
        /// Who it was.
        peer: Peer,
    },
    /// Somebody who is no node has sent a frame: a client of Kafka's.
    Client {
        /// For [`super::Links::close_client`], and for answers.
        link: LinkId,
        /// The frame.
        bytes: Bytes,
    },
    /// The connection of a client is gone.
    ClientGone {
        /// Which one.
        link: LinkId,
    },
    /// A message of the quorum.
    Raft {
        /// From whom.
        from: Peer,
        /// The message.
        bytes: Bytes,
    },
    /// A request to the controller.
    Request {
        /// From whom.
        from: Peer,
        /// For [`super::Links::respond`].
        link: LinkId,
        /// For [`super::Links::respond`].
        id: u64,
        /// The request.
        request: Bytes,
    },
    /// The answer to a request.
    Response {
        /// From whom.
        from: Peer,
        /// That of the request.
        id: u64,
        /// Of the metadata that must be applied before the answer is given away.
        offset: u64,
        /// The answer.
        response: Bytes,
    },
    /// A request went to a node that is not the controller.
    NotController {
        /// From whom.
        from: Peer,
        /// That of the request.
        id: u64,
        /// The controller as far as that node knows, else -1.
        leader: i32,
    },
    /// The snapshot of a cluster, for this node which has none.
    Adopt {
        /// From whom.
        from: Peer,
        /// The snapshot.
        bytes: Bytes,
    },
    /// A peer does not want to speak to this node, or is not the one that was meant. Told once, until the reason changes.
    Rejected {
        /// Which one; -1 when nobody in particular was meant.
        node_id: i32,
        /// For the machine.
        why: RejectReason,
        /// For people: one sentence, with the address.
        text: String,
    },
}
