//! Consumer groups: the coordinator of one partition of `__consumer_offsets` as a pure state machine (Kafka's
//! `GroupCoordinatorShard`).
//!
//! A [`Coordinator`] takes requests and the time, and returns records to write and bodies to send ([`GroupEffect`]).
//! What is durable (committed offsets, a group's generation and assignments) changes only by the replay of records: at
//! start of those in the log ([`Coordinator::load`]), later of its own when they are durable
//! ([`Coordinator::committed`]), and requests are answered then. What is soft (members that wait, timers) is in memory.
//!
//! Calling contract: [`Coordinator::load`] each record of the partition, then [`Coordinator::loaded`] once. Each
//! [`GroupEffect::Write`] is appended to the partition as one batch, in order, and ends with one call of
//! [`Coordinator::committed`] or [`Coordinator::write_failed`], in the same order. At [`Coordinator::next_deadline`] call
//! [`Coordinator::expire`]. Every request gets exactly one [`GroupEffect::Reply`].
//!
//! [`route`] finds the coordinator of a group, and takes requests that name several groups apart and puts their
//! responses together.

mod classic;
mod config;
mod consumer;
mod coordinator;
mod embedded;
mod error;
mod member;
mod offsets;
mod partitions;
mod record;
mod reply;
mod request;
pub mod route;
mod timer;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::ClusterImage;
use millstream_storage::Now;

pub use config::{Assignor, GroupConfig, MigrationPolicy};
pub use coordinator::Coordinator;
pub use coordinator::listing::{GroupPlace, GroupRow};
pub use error::{COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR};
pub use record::{CommittedOffset, GroupMetadata, MemberMetadata, Record, RecordBytes, RecordError};
pub use request::{GroupRequest, RequestKind};

/// The caller's name for a request that awaits its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestRef(pub u64);

/// Names a write of one coordinator until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId(pub u64);

/// When something happens, and in which cluster.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time.
    pub now: Now,
    /// The topics there are: groups of the consumer protocol are assigned their partitions.
    pub cluster: &'a ClusterImage,
}

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client id of the request's header; empty if it has none.
    pub client_id: Arc<str>,
    /// The client's address as Kafka prints it: `/127.0.0.1`.
    pub client_host: Arc<str>,
}

/// Something for the caller to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEffect {
    /// Append these records to the coordinator's partition as one batch.
    Write {
        /// Its name.
        write: WriteId,
        /// Keys and values; no value deletes.
        records: Vec<RecordBytes>,
    },
    /// Answer a request.
    Reply {
        /// Which one.
        reference: RequestRef,
        /// The encoded response without its header, in the version of the request.
        body: Bytes,
    },
}
