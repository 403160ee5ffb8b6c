//! What happens to a controller, what it wants done, and who gets its answers.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse, MetadataRecord};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken};

use crate::peer::links::{self, LinkId};
use crate::shard::ShardIndex;

/// Who gets an answer. Tokens are the asker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A shard of this process.
    Shard {
        /// The shard, to which the answer goes.
        shard: ShardIndex,
        /// Comes back with the answer.
        token: u64,
    },
    /// The node itself.
    Node {
        /// Comes back with the answer.
        token: u64,
    },
    /// Another node, which has forwarded it.
    Peer {
        /// The connection by which it came.
        link: LinkId,
        /// Comes back with the answer.
        id: u64,
    },
    /// A client at the listener of controllers.
    Client {
        /// Its connection.
        link: LinkId,
    },
    /// The controller itself.
    Own,
    /// The controller itself, which says that its broker is there.
    Heartbeat {
        /// When it was sent: from then on a lease counts that its answer grants.
        sent: Duration,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody asks for a decision.
    Asked {
        /// Who gets the answer.
        asker: Asker,
        /// What is asked for.
        request: ControllerRequest,
        /// Fresh random bytes, from which topic ids are made.
        random_id: [u8; 16],
    },
    /// A shard has applied what was published.
    Applied {
        /// The shard.
        shard: ShardIndex,
        /// The last record that it has applied.
        offset: u64,
    },
    /// A disk operation finished.
    Disk {
        /// That of its [`Effect::Disk`].
        token: DiskToken,
        /// How it went.
        result: Result<DiskReply, DiskError>,
    },
    /// Something happened to a connection to another node.
    Link(links::Event),
    /// The time of [`super::ControllerNode::next_deadline`] has come.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Execute a disk operation; answer with [`Event::Disk`].
    Disk {
        /// Comes back with the result.
        token: DiskToken,
        /// The operation.
        op: DiskOp,
    },
    /// Tell every shard of the process that these records are true. Where a snapshot has brought the image, they are what has
    /// become different.
    Publish {
        /// That of the last record.
        offset: u64,
        /// The records, in their order.
        records: Arc<Vec<MetadataRecord>>,
        /// What is true with them.
        image: Arc<ClusterImage>,
    },
    /// Give an answer, to a shard after all that was published before.
    Answer {
        /// Who asked.
        asker: Asker,
        /// The answer.
        response: ControllerResponse,
    },
    /// Do something with a connection to another node.
    Link(links::Effect),
    /// Something has changed that an operator wants to know.
    Say {
        /// One line for people.
        message: String,
    },
    /// Something went wrong and was survived: an operator wants to know.
    Warn {
        /// One line for people.
        message: String,
    },
    /// Nothing may be acknowledged any more: print the reason and exit with an error.
    Fail {
        /// One line for people.
        reason: String,
    },
}
