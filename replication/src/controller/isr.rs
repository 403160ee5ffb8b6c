//! Who is in sync (KIP-497, KIP-841, KIP-903; in Kafka `ReplicationControlManager.alterPartition`). The leader of a partition
//! proposes, the controller compares with what it knows, and refuses what rests on something old.

use std::collections::BTreeMap;

use millstream_storage::TopicId;

use super::{ControllerResponse, Decision, PARTITIONS_PER_REQUEST_MAX, Records, brokers};
use crate::broker_ids::BrokerIds;
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::record::{Broker, MetadataRecord, Partition};
use crate::rule::{Rule, holds};

/// The broker epoch of a member of which the leader has not heard in its epoch: it is not compared (KIP-903).
pub const UNKNOWN_BROKER_EPOCH: i64 = -1;

/// What the leader of a partition wants to be in sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterPartition {
    /// The epoch in which it leads.
    pub leader_epoch: i32,
    /// The partition epoch that this rests on: it is refused if there is a later one.
    pub partition_epoch: i32,
    /// The brokers that are to be in sync, the leader among them, each with the epoch in which the leader has heard of it, or
    /// [`UNKNOWN_BROKER_EPOCH`].
    pub isr: Vec<(i32, i64)>,
}

/// A partition as it is after an [`AlterPartition`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlteredPartition {
    /// The broker that leads it.
    pub leader: i32,
    /// Its epoch.
    pub leader_epoch: i32,
    /// The brokers that are in sync.
    pub isr: Vec<i32>,
    /// The partition epoch: greater than that of the proposal.
    pub partition_epoch: i32,
}

/// What became of an [`AlterPartition`].
pub type AlterOutcome = Result<AlteredPartition, ApiError>;

/// A partition of a topic: its index.
pub type TopicPartition = (TopicId, i32);

/// Decides what the leaders on one broker propose, partition by partition: at most [`PARTITIONS_PER_REQUEST_MAX`] of them.
/// What is proposed twice for a partition rests on an old partition epoch the second time.
pub(super) fn alter(
    image: &ClusterImage,
    node_id: i32,
    epoch: i64,
    partitions: Vec<(TopicPartition, AlterPartition)>,
) -> Decision {
    let fail = |error| Decision { records: Vec::new(), response: ControllerResponse::AlterPartition(Err(error)) };
    match image.broker(node_id) {
        Some(broker) if broker.epoch == epoch => {}
        _ => return fail(brokers::stale(node_id, epoch)),
    }
    if partitions.len() > PARTITIONS_PER_REQUEST_MAX {
        let why = format!("one request can alter {PARTITIONS_PER_REQUEST_MAX} partitions, not {}", partitions.len());
        return fail(ApiError::new(ErrorCode::InvalidRequest, why));
    }
    let mut records = Records::default();
    let mut decided: BTreeMap<([u8; 16], i32), Partition> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(partitions.len());
    for ((topic_id, partition), asked) in partitions {
        let outcome = (|| {
            let topic = image.topic_by_id(topic_id);
            let topic = topic.ok_or_else(|| refusal(ErrorCode::UnknownTopicId, "the topic is unknown"))?;
            let known = decided.get(&(topic_id.0, partition)).or(topic.partition(partition));
            let known = known.ok_or_else(|| refusal(ErrorCode::UnknownTopicOrPartition, "the partition is unknown"))?;
            let state = decide(known, node_id, &asked, |node_id| image.broker(node_id))?;
            records.add(vec![MetadataRecord::Partition { topic_id, partition, state: state.clone() }])?;
            decided.insert((topic_id.0, partition), state.clone());
            let Partition { leader, leader_epoch, partition_epoch, .. } = state;
            Ok(AlteredPartition { leader, leader_epoch, isr: state.isr.to_vec(), partition_epoch })
        })();
        outcomes.push(((topic_id, partition), outcome));
    }
    Decision { records: records.records, response: ControllerResponse::AlterPartition(Ok(outcomes)) }
}

/// The partition after what `from` proposes for it, or why that is refused. The partition epoch grows also when the set stays
/// as it is: a leader takes back by that what it has proposed before.
pub(crate) fn decide<'a>(
    known: &Partition,
    from: i32,
    asked: &AlterPartition,
    broker: impl Fn(i32) -> Option<&'a Broker>,
) -> Result<Partition, ApiError> {
    let AlterPartition { leader_epoch, partition_epoch, isr } = asked;
    if *leader_epoch > known.leader_epoch || *partition_epoch > known.partition_epoch {
        return Err(refusal(ErrorCode::NotController, "the leader knows of later changes than this controller"));
    }
    if *leader_epoch < known.leader_epoch {
        return Err(refusal(ErrorCode::FencedLeaderEpoch, "the leader has been followed by another"));
    }
    if known.leader != from {
        return Err(refusal(ErrorCode::InvalidRequest, "who does not lead says who is in sync"));
    }
    if *partition_epoch < known.partition_epoch && holds(Rule::ComparePartitionEpoch) {
        return Err(refusal(ErrorCode::InvalidUpdateVersion, "the partition has changed since"));
    }
    let nodes: BrokerIds = isr.iter().map(|(node_id, _)| *node_id).collect();
    if !nodes.contains(&from) {
        return Err(refusal(ErrorCode::InvalidRequest, "the leader is always in sync"));
    }
    let state = Partition { isr: nodes, partition_epoch: known.partition_epoch + 1, ..known.clone() };
    state.check().map_err(|why| ApiError::new(ErrorCode::InvalidRequest, why))?;
    for (node_id, epoch) in isr {
        let is_it = |broker: &&Broker| {
            *epoch == broker.epoch || *epoch == UNKNOWN_BROKER_EPOCH || !holds(Rule::CheckMemberEpochs)
        };
        if broker(*node_id).filter(is_it).is_none_or(|broker| !broker.is_usable()) {
            let why = format!("broker {node_id} of epoch {epoch} is fenced, about to stop, or another process now");
            return Err(ApiError::new(ErrorCode::IneligibleReplica, why));
        }
    }
    Ok(state)
}

fn refusal(code: ErrorCode, why: &str) -> ApiError {
    ApiError::new(code, why)
}
