//! The places that a node dials, and how far it has come with each.

use std::time::Duration;

use super::assembly::Assembly;
use super::{LinkId, PING_AFTER, Peer, REDIAL_MIN, SILENCE_MAX};
use crate::peer::frame::RejectReason;

/// A place to dial.
#[derive(Debug)]
pub(super) struct Target {
    /// Who is to be there, if that is known.
    pub(super) node_id: Option<i32>,
    /// Who was there last.
    pub(super) known: Option<i32>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) stage: Stage,
    /// Before the next try after a failure.
    pub(super) wait: Duration,
    /// A connection that is lost from then on is dialled again at once.
    pub(super) at_once_from: Duration,
    /// The last try was refused.
    pub(super) is_refused: bool,
    /// What was told of it last.
    pub(super) rejected: Option<RejectReason>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// It is dialled then.
    Waiting {
        until: Duration,
    },
    Dialling {
        link: LinkId,
    },
    /// Connected; the answer to the greeting has to come by then.
    Greeting {
        link: LinkId,
        until: Duration,
    },
    Up(Box<Up>),
    /// It leads to a node that another target is connected to, or to this node itself.
    Needless {
        node_id: i32,
    },
}

/// A connection over which this node speaks.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) link: LinkId,
    pub(super) peer: Peer,
    pub(super) received_at: Duration,
    pub(super) sent_at: Duration,
    pub(super) pinged_at: Duration,
    pub(super) assembly: Assembly,
}

impl Target {
    pub(super) fn new(node_id: Option<i32>, host: String, port: u16, now: Duration) -> Target {
        Target {
            node_id,
            known: None,
            host,
            port,
            stage: Stage::Waiting { until: now },
            wait: REDIAL_MIN,
            at_once_from: Duration::ZERO,
            is_refused: false,
            rejected: None,
        }
    }

    /// Who is there, as far as that is known.
    pub(super) fn node(&self) -> Option<i32> {
        self.node_id.or(self.known)
    }

    pub(super) fn link(&self) -> Option<LinkId> {
        match &self.stage {
            Stage::Dialling { link } | Stage::Greeting { link, .. } => Some(*link),
            Stage::Up(up) => Some(up.link),
            Stage::Waiting { .. } | Stage::Needless { .. } => None,
        }
    }

    pub(super) fn up(&self) -> Option<&Up> {
        match &self.stage {
            Stage::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.stage {
            Stage::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Waiting { until } | Stage::Greeting { until, .. } => Some(*until),
            Stage::Up(up) => Some(up.silent_at().min(up.ping_at())),
            Stage::Dialling { .. } | Stage::Needless { .. } => None,
        }
    }
}

impl Up {
    pub(super) fn silent_at(&self) -> Duration {
        self.received_at + SILENCE_MAX
    }

    pub(super) fn ping_at(&self) -> Duration {
        self.pinged_at.max(self.sent_at.min(self.received_at)) + PING_AFTER
    }
}
