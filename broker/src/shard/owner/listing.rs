//! What a shard owns, listed in pieces for the HTTP port's page: whoever asks goes on where the last piece ended, so
//! that no turn lasts long however many partitions and groups there are. Things may change between two pieces.

use std::sync::Arc;

use millstream_replication::{BrokerIds, ClusterImage};
use millstream_storage::shard_log::LogId;

use super::groups::Coordinators;
use super::partition::Partition;
use super::replicas::Replicas;
use crate::group::{GroupPlace, GroupRow};

/// Places that one piece looks at, and rows that it holds, at most: some tens of microseconds.
pub const PIECE_PLACES_MAX: usize = 256;

/// A piece of a list, and where the next begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece<T, C> {
    /// At most [`PIECE_PLACES_MAX`].
    pub rows: Vec<T>,
    /// `None`: this was the last.
    pub next: Option<C>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its index.
    pub partition: i32,
    /// The first offset that may be read.
    pub log_start: i64,
    /// The high watermark.
    pub high_watermark: i64,
    /// Bytes of its log.
    pub bytes: u64,
    /// The broker that leads it, −1 for none.
    pub leader: i32,
    /// The brokers that hold it.
    pub replicas: BrokerIds,
    /// Those of them that are in sync.
    pub in_sync: BrokerIds,
}

impl PartitionRow {
    /// How many replicas are not in sync.
    pub fn missing(&self) -> usize {
        self.replicas.len().saturating_sub(self.in_sync.len())
    }
}

/// Where a list of groups goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCursor {
    after: Option<(LogId, GroupPlace)>,
}

/// Lists partitions from a place on; 0 is the first.
pub fn partitions(replicas: &Replicas, image: &ClusterImage, from: usize) -> Piece<PartitionRow, usize> {
    let (places, is_last) = replicas.partitions.places(from, PIECE_PLACES_MAX);
    let row = |(log, partition): (LogId, &Partition)| {
        // The deletion of its topic may be on its way.
        let topic = image.topic_by_id(partition.key.topic_id)?;
        let state = topic.partition(partition.key.partition)?;
        Some(PartitionRow {
            topic: Arc::clone(&topic.name),
            partition: partition.key.partition,
            log_start: replicas.log.log_start(log),
            high_watermark: partition.high_watermark(),
            bytes: replicas.log.log_bytes(log),
            leader: state.leader,
            replicas: state.replicas.clone(),
            in_sync: state.isr.clone(),
        })
    };
    Piece { rows: places.filter_map(row).collect(), next: (!is_last).then_some(from + PIECE_PLACES_MAX) }
}

/// Lists groups with the offsets that they committed, from a place on.
pub fn groups(coordinators: &Coordinators, from: &GroupCursor) -> Piece<GroupRow, GroupCursor> {
    let mut rows = Vec::new();
    let first = from.after.as_ref().map(|(log, _)| *log);
    for (log, coordinator) in coordinators.from(first) {
        let place = from.after.as_ref().filter(|(begun, _)| *begun == log).map(|(_, place)| place);
        rows.extend(coordinator.rows(place).take(PIECE_PLACES_MAX - rows.len()));
        if rows.len() == PIECE_PLACES_MAX {
            let after = rows.last().map(|row: &GroupRow| (log, row.place()));
            return Piece { rows, next: Some(GroupCursor { after }) };
        }
    }
    Piece { rows, next: None }
}
