//! How a stream begins: the follower's shard says who it is and whom it means, the leader's node takes it or says why not.

use bytes::Bytes;
use millstream_replication::reader::Reader;

use super::{begin, end};
use crate::peer::frame::{FIRST_FRAME_BYTES_MAX, LENGTH_BYTES, PEER_HELLO, TEXT_BYTES_MAX, cut_text};

/// The layout of [`Hello`], which tells it from that of a connection between controllers. Later ones add to its end only.
const HELLO_VERSION: i16 = 1;
/// The versions of the streams' protocol that this node speaks.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;

/// The smallest window of a stream, in bytes.
pub const WINDOW_BYTES_MIN: u32 = 256 << 10;
/// The largest window of a live stream, in bytes.
pub const LIVE_WINDOW_BYTES_MAX: u32 = 4 << 20;
/// The largest window of a stream on which a follower catches up, in bytes.
pub const CATCH_UP_WINDOW_BYTES_MAX: u32 = 2 << 20;

/// Kinds of frames from whoever was dialled, before anything else.
const WELCOME: u8 = 32;
const REJECT: u8 = 33;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// What the leader has in memory, as it is appended.
    Live = 1,
    /// Ranges of files, for a follower that is far behind.
    CatchUp = 2,
}

impl Lane {
    /// Both.
    pub const ALL: [Lane; 2] = [Lane::Live, Lane::CatchUp];

    /// The largest window of such a stream, in bytes.
    pub fn window_bytes_max(self) -> u32 {
        match self {
            Lane::Live => LIVE_WINDOW_BYTES_MAX,
            Lane::CatchUp => CATCH_UP_WINDOW_BYTES_MAX,
        }
    }

    /// A window as it may be on such a stream.
    pub fn clamp_window(self, bytes: u32) -> u32 {
        bytes.clamp(WINDOW_BYTES_MIN, self.window_bytes_max())
    }
}

/// The first frame of a stream, from the follower's shard, which has dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version of the streams' protocol that the follower speaks.
    pub version_min: u16,
    /// The highest.
    pub version_max: u16,
    /// The cluster of both.
    pub cluster_id: [u8; 16],
    /// The follower.
    pub node: i32,
    /// Its shard.
    pub shard: u32,
    /// Its registration, as it knows it: see [`millstream_replication::Broker::epoch`].
    pub broker_epoch: i64,
    /// Its process.
    pub incarnation: [u8; 16],
    /// The leader.
    pub to_node: i32,
    /// Its shard.
    pub to_shard: u32,
    /// How many shards the leader has, as far as the follower knows.
    pub to_shards: u32,
    /// The leader's registration, as far as the follower knows.
    pub to_broker_epoch: i64,
    /// What the stream is for.
    pub lane: Lane,
    /// The window that the follower has room for, in bytes.
    pub window_bytes: u32,
    /// The metadata that the follower has applied.
    pub metadata_offset: u64,
}

/// The answer to a [`Hello`] that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub version: u16,
    /// The leader's registration.
    pub broker_epoch: i64,
    /// The leader's process.
    pub incarnation: [u8; 16],
    /// The window that holds: not more than the follower has asked for, nor than its lane may have.
    pub window_bytes: u32,
}

/// Why a [`Hello`] is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// There is no version that both speak.
    Version = 1,
    /// They belong to different clusters.
    Cluster = 2,
    /// Another node was meant, or the process is not the one that is registered.
    Node = 3,
    /// The node has another number of shards.
    Shards = 4,
    /// One of the two is registered anew, and the follower does not know it yet, or is not that process.
    OldEpoch = 5,
    /// The follower knows a registration of which the leader's node has not heard within a second.
    NewEpoch = 6,
    /// There are too many streams already.
    Busy = 7,
}

impl RejectReason {
    /// All of them.
    pub const ALL: [RejectReason; 7] = [
        RejectReason::Version,
        RejectReason::Cluster,
        RejectReason::Node,
        RejectReason::Shards,
        RejectReason::OldEpoch,
        RejectReason::NewEpoch,
        RejectReason::Busy,
    ];
}

/// The answer to a [`Hello`] that is not accepted, after which the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// For the machine.
    pub why: RejectReason,
    /// How many shards the node has that was dialled.
    pub shards: u32,
    /// Its registration, as far as it knows it; -1: it knows none.
    pub broker_epoch: i64,
    /// For people.
    pub text: String,
}

/// What comes in answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Both may send.
    Welcome(Welcome),
    /// The connection is closed.
    Reject(Reject),
}

/// Who is dialled, as far as every part of it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressee {
    /// Its cluster.
    pub cluster_id: [u8; 16],
    /// Its number.
    pub node: i32,
    /// How many shards it has.
    pub shards: u32,
}

/// Whether the first frame of a connection opens one between nodes, whatever for.
pub fn is_hello(frame: &[u8]) -> bool {
    frame.starts_with(&PEER_HELLO.to_be_bytes())
}

impl Hello {
    /// The frame with its length.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = vec![0; LENGTH_BYTES];
        // The header of a Kafka request, version 1: key, version, correlation id, no client id.
        out.extend(PEER_HELLO.to_be_bytes());
        out.extend(HELLO_VERSION.to_be_bytes());
        out.extend(0i32.to_be_bytes());
        out.extend((-1i16).to_be_bytes());
        out.extend(self.version_min.to_le_bytes());
        out.extend(self.version_max.to_le_bytes());
        out.extend(self.cluster_id);
        out.extend(self.node.to_le_bytes());
        out.extend(self.shard.to_le_bytes());
        out.extend(self.broker_epoch.to_le_bytes());
        out.extend(self.incarnation);
        out.extend(self.to_node.to_le_bytes());
        out.extend(self.to_shard.to_le_bytes());
        out.extend(self.to_shards.to_le_bytes());
        out.extend(self.to_broker_epoch.to_le_bytes());
        out.push(self.lane as u8);
        out.extend(self.window_bytes.to_le_bytes());
        out.extend(self.metadata_offset.to_le_bytes());
        end(&mut out, 0);
        out.into()
    }

    /// Reads the first frame of a connection, of which the length was cut off. What follows the fields that are known is a
    /// later version's. The error is for people.
    pub fn decode(frame: &[u8]) -> Result<Hello, String> {
        if frame.len() > FIRST_FRAME_BYTES_MAX {
            return Err(format!("a greeting of {} bytes", frame.len()));
        }
        let mut reader = Reader::new(frame);
        if reader.array()? != PEER_HELLO.to_be_bytes() {
            return Err("no greeting".into());
        }
        let version = i16::from_be_bytes(reader.array()?);
        if version != HELLO_VERSION {
            return Err(format!("a greeting of version {version}, which none of a stream has"));
        }
        reader.array::<4>()?;
        if reader.array()? != (-1i16).to_be_bytes() {
            return Err("a greeting with a client id".into());
        }
        let (version_min, version_max) = (reader.u16()?, reader.u16()?);
        if version_min > version_max {
            return Err(format!("versions from {version_min} to {version_max}"));
        }
        let hello = Hello {
            version_min,
            version_max,
            cluster_id: reader.array()?,
            node: number(reader.i32()?)?,
            shard: reader.u32()?,
            broker_epoch: epoch(reader.i64()?)?,
            incarnation: reader.array()?,
            to_node: number(reader.i32()?)?,
            to_shard: reader.u32()?,
            to_shards: reader.u32()?,
            to_broker_epoch: epoch(reader.i64()?)?,
            lane: lane(reader.byte()?)?,
            window_bytes: reader.u32()?,
            metadata_offset: reader.u64()?,
        };
        if hello.to_shard >= hello.to_shards {
            return Err(format!("shard {} of {}", hello.to_shard, hello.to_shards));
        }
        Ok(hello)
    }

    /// The version that both speak, if there is one.
    pub fn version(&self) -> Option<u16> {
        let highest = self.version_max.min(*VERSIONS.end());
        (highest >= self.version_min && highest >= *VERSIONS.start()).then_some(highest)
    }

    /// Whether this node is meant, as far as can be told without knowing the cluster: the shard that the stream goes to. The
    /// error is for people.
    pub fn shard_of(&self, me: Addressee) -> Result<u32, (RejectReason, String)> {
        if self.version().is_none() {
            let (min, max) = (self.version_min, self.version_max);
            return Err((
                RejectReason::Version,
                format!("versions {min} to {max} are spoken there, {VERSIONS:?} here"),
            ));
        }
        if self.cluster_id != me.cluster_id {
            return Err((RejectReason::Cluster, format!("node {} belongs to another cluster", self.node)));
        }
        if self.to_node != me.node || self.node == me.node {
            let text = format!("node {} looks for node {}, and this is node {}", self.node, self.to_node, me.node);
            return Err((RejectReason::Node, text));
        }
        if self.to_shards != me.shards {
            let text = format!("node {} knows {} shards of this node's {}", self.node, self.to_shards, me.shards);
            return Err((RejectReason::Shards, text));
        }
        Ok(self.to_shard)
    }
}

impl Answer {
    /// The frame with its length.
    pub fn to_bytes(&self) -> Bytes {
        let mut out;
        match self {
            Answer::Welcome(welcome) => {
                out = begin(WELCOME);
                out.extend(welcome.version.to_le_bytes());
                out.extend(welcome.broker_epoch.to_le_bytes());
                out.extend(welcome.incarnation);
                out.extend(welcome.window_bytes.to_le_bytes());
            }
            Answer::Reject(Reject { why, shards, broker_epoch, text }) => {
                out = begin(REJECT);
                out.push(*why as u8);
                out.extend(shards.to_le_bytes());
                out.extend(broker_epoch.to_le_bytes());
                let text = cut_text(text, TEXT_BYTES_MAX);
                out.extend((text.len() as u16).to_le_bytes());
                out.extend(text.as_bytes());
            }
        }
        end(&mut out, 0);
        out.into()
    }

    /// Reads the answer to a greeting, of which the length was cut off. The error is for people.
    pub fn decode(frame: &[u8]) -> Result<Answer, String> {
        if frame.len() > FIRST_FRAME_BYTES_MAX {
            return Err(format!("an answer of {} bytes", frame.len()));
        }
        let mut reader = Reader::new(frame);
        let answer = match reader.byte()? {
            WELCOME => Answer::Welcome(Welcome {
                version: reader.u16()?,
                broker_epoch: epoch(reader.i64()?)?,
                incarnation: reader.array()?,
                window_bytes: reader.u32()?,
            }),
            REJECT => {
                let why = reader.byte()?;
                let known = RejectReason::ALL.into_iter().find(|reason| *reason as u8 == why);
                Answer::Reject(Reject {
                    why: known.ok_or_else(|| format!("{why} is no reason for a rejection"))?,
                    shards: reader.u32()?,
                    broker_epoch: reader.i64()?,
                    text: text(&mut reader)?,
                })
            }
            other => return Err(format!("{other} is no answer to a greeting")),
        };
        match (reader.rest().len(), &answer) {
            // Whoever rejects may be of a later version.
            (0, _) | (_, Answer::Reject(_)) => Ok(answer),
            (left, _) => Err(format!("{left} bytes follow an answer")),
        }
    }
}

fn number(node: i32) -> Result<i32, String> {
    if node < 0 { Err(format!("{node} is no node")) } else { Ok(node) }
}

fn epoch(epoch: i64) -> Result<i64, String> {
    if epoch < 0 { Err(format!("{epoch} is no broker's epoch")) } else { Ok(epoch) }
}

fn lane(lane: u8) -> Result<Lane, String> {
    let known = Lane::ALL.into_iter().find(|known| *known as u8 == lane);
    known.ok_or_else(|| format!("{lane} is no lane"))
}

fn text(reader: &mut Reader<'_>) -> Result<String, String> {
    let length = usize::from(reader.u16()?);
    if length > TEXT_BYTES_MAX {
        return Err(format!("a text of {length} bytes"));
    }
    reader.text_of(length)
}
