//! What a member of the quorum wants done, and what it says of itself.

use std::sync::Arc;

use bytes::Bytes;
use millstream_storage::DiskOp;

use super::{MemberId, Position};
use crate::image::ClusterImage;
use crate::record::MetadataRecord;

/// Something to do, or to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Execute a disk operation; say how it went by [`super::Quorum::disk`].
    Disk(DiskOp),
    /// Send a message to a member. It may be lost.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        message: Bytes,
    },
    /// Records were committed: they are true, and the image has them.
    Committed {
        /// Where their entry stands.
        at: Position,
        /// The offset of the last of them.
        offset: u64,
        /// In their order.
        records: Vec<MetadataRecord>,
        /// What is true when the last of them is.
        image: Arc<ClusterImage>,
    },
    /// The image is another one: a snapshot was installed.
    Installed {
        /// What it says.
        image: Arc<ClusterImage>,
    },
    /// The members have changed.
    Members {
        /// Where the entry stands, or the snapshot.
        at: Position,
    },
    /// This member leads and has an entry of its term committed: it may decide.
    Leads {
        /// The term.
        term: u64,
    },
    /// This member led when [`super::Quorum::confirm`] was called that has returned this number.
    Confirmed {
        /// The number.
        number: u64,
    },
    /// Another member leads, or nobody is known to.
    Follows {
        /// The newest term.
        term: u64,
        /// Who leads in it.
        leader: Option<MemberId>,
    },
    /// What [`super::Quorum::reserve`] had to wait for.
    Reserved {
        /// Whether there is space.
        is_there: bool,
    },
    /// Nothing may be promised any more: print the reason and exit with an error.
    Failed {
        /// One line for people.
        reason: String,
    },
}

/// Whether there is space for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    There,
    /// [`Output::Reserved`] will tell.
    Asked,
}

/// Why a proposal was not taken. Nothing of it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProposed {
    /// This member does not lead, or has not committed anything of its term yet.
    NotLeader,
    /// Too much is on its way to be committed.
    Busy,
}

/// What a leader knows of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// Which.
    pub id: MemberId,
    /// The last entry that it is known to have durably.
    pub matched: u64,
    /// It was heard of lately.
    pub is_recent: bool,
}
