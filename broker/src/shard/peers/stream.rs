//! One stream at either end: whom it joins, when something was last heard of it, and what is under way.

use std::time::Duration;

use super::credit::{Credit, Dirty, Taken};
use crate::peer::links::LinkId;
use crate::peer::stream::frame::DurableRange;
use crate::peer::stream::greeting::{Hello, Lane, RejectReason};

/// An answer to a greeting comes within this time, or never.
pub const HELLO_MAX: Duration = Duration::from_secs(1);
/// How long a greeting is held that names a registration of which this node has not heard.
pub const HELD_MAX: Duration = Duration::from_millis(900);
/// Whoever has dialled asks whether anybody is there when nothing was sent or nothing received for so long.
pub const PING_AFTER: Duration = Duration::from_millis(250);
/// A live stream is closed after so long a silence.
const LIVE_SILENCE_MAX: Duration = Duration::from_secs(1);
/// The same of one on which a follower catches up: its frames are large.
const CATCH_UP_SILENCE_MAX: Duration = Duration::from_secs(2);
/// The first wait before a stream is dialled again.
pub const REDIAL_MIN: Duration = Duration::from_millis(20);
/// The longest, but for a quarter.
pub const REDIAL_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(HELD_MAX.as_millis() < HELLO_MAX.as_millis(), "who waits for an answer gets one");

/// When a stream is closed for want of anything heard.
pub fn silence_max(lane: Lane) -> Duration {
    match lane {
        Lane::Live => LIVE_SILENCE_MAX,
        Lane::CatchUp => CATCH_UP_SILENCE_MAX,
    }
}

/// A shard of another node, and what a stream with it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// The node.
    pub node: i32,
    /// Its shard.
    pub shard: u32,
    /// What for.
    pub lane: Lane,
}

/// Who is at the other end of an open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The shard, and what the stream is for.
    pub key: StreamKey,
    /// The registration of its node.
    pub broker_epoch: i64,
}

/// A stream that this shard dials, as a follower.
#[derive(Debug)]
pub(super) struct Dialled {
    pub stage: Stage,
    /// The registration that was dialled last.
    pub known: Option<i64>,
    /// Before the next try after a failure.
    pub wait: Duration,
    /// What was told of it last.
    pub rejected: Option<RejectReason>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The image does not say where it is: it is dialled when one does.
    Unknown,
    /// It is dialled then.
    Waiting {
        until: Duration,
    },
    Dialling {
        link: LinkId,
        to_epoch: i64,
    },
    /// Connected; the answer to the greeting has to come by then.
    Greeting {
        link: LinkId,
        to_epoch: i64,
        until: Duration,
    },
    Open(Box<Following>),
}

/// An open stream at the follower.
#[derive(Debug)]
pub(super) struct Following {
    pub link: LinkId,
    pub to_epoch: i64,
    pub opened_at: Duration,
    pub received_at: Duration,
    pub sent_at: Duration,
    pub pinged_at: Duration,
    pub taken: Taken,
    /// To be said at the end of the turn.
    pub ranges: Vec<DurableRange>,
}

impl Dialled {
    pub fn new(now: Duration) -> Dialled {
        Dialled { stage: Stage::Waiting { until: now }, known: None, wait: REDIAL_MIN, rejected: None }
    }

    pub fn link(&self) -> Option<LinkId> {
        match &self.stage {
            Stage::Unknown | Stage::Waiting { .. } => None,
            Stage::Dialling { link, .. } | Stage::Greeting { link, .. } => Some(*link),
            Stage::Open(open) => Some(open.link),
        }
    }

    /// The registration that was dialled.
    pub fn to_epoch(&self) -> Option<i64> {
        match &self.stage {
            Stage::Unknown | Stage::Waiting { .. } => None,
            Stage::Dialling { to_epoch, .. } | Stage::Greeting { to_epoch, .. } => Some(*to_epoch),
            Stage::Open(open) => Some(open.to_epoch),
        }
    }

    pub fn deadline(&self, lane: Lane) -> Option<Duration> {
        match &self.stage {
            Stage::Unknown | Stage::Dialling { .. } => None,
            Stage::Waiting { until } | Stage::Greeting { until, .. } => Some(*until),
            Stage::Open(open) => Some(open.ping_at().min(open.received_at + silence_max(lane))),
        }
    }
}

impl Following {
    pub fn ping_at(&self) -> Duration {
        self.pinged_at.max(self.sent_at.min(self.received_at)) + PING_AFTER
    }
}

/// A stream that another shard has dialled, which follows this one.
#[derive(Debug)]
pub(super) struct Accepted {
    pub received_at: Duration,
    pub stage: AcceptedStage,
}

#[derive(Debug)]
pub(super) enum AcceptedStage {
    /// No greeting has come yet.
    New,
    /// It has, and names a registration that this node does not know yet.
    Held {
        hello: Box<Hello>,
        until: Duration,
    },
    Open(Box<Leading>),
}

/// An open stream at the leader.
#[derive(Debug)]
pub(super) struct Leading {
    pub peer: Peer,
    pub credit: Credit,
    pub dirty: Dirty,
}

impl Accepted {
    pub fn deadline(&self) -> Duration {
        match &self.stage {
            AcceptedStage::New => self.received_at + HELLO_MAX,
            AcceptedStage::Held { until, .. } => *until,
            AcceptedStage::Open(open) => self.received_at + silence_max(open.peer.key.lane),
        }
    }
}
