//! ElectLeaders (KIP-183, KIP-460). A partition has one replica, which leads as soon as it can: where there is a leader it
//! is the preferred one, and where there is none nobody can be elected. The answers are those of Kafka for these cases.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::elect_leaders_request::ElectLeadersRequest;
use kafka_wire::elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
use millstream_replication::{ErrorCode, NO_LEADER, Partition};

use super::{ApiContext, CloseReason, codec};
use crate::protocol::header::RequestHeader;

/// The election type for which any replica will do; before version 1 there is none.
const UNCLEAN: i8 = 1;

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: ElectLeadersRequest = codec::decode(header, body)?;
    let mut response = ElectLeadersResponse::default();
    let mut by_topic: BTreeMap<&str, Vec<PartitionResult>> = BTreeMap::new();
    match &request.topic_partitions {
        Some(asked) => {
            for asked in asked {
                let topic = context.image.topic(&asked.topic);
                let outcome =
                    |index: &i32| elect(*index, topic.and_then(|topic| topic.partition(*index)), request.election_type);
                by_topic.entry(asked.topic.as_str()).or_default().extend(asked.partitions.iter().map(outcome));
            }
        }
        // Null asks for all partitions; of those Kafka leaves out the ones that need no election.
        None => {
            for topic in context.image.topics() {
                let partitions = (0..).zip(&topic.partitions).filter(|(_, partition)| partition.leader == NO_LEADER);
                let results: Vec<PartitionResult> =
                    partitions.map(|(index, partition)| elect(index, Some(partition), request.election_type)).collect();
                if !results.is_empty() {
                    by_topic.insert(&topic.name, results);
                }
            }
        }
    }
    response.replica_election_results = by_topic
        .into_iter()
        .map(|(topic, results)| {
            let mut result = ReplicaElectionResult::default();
            result.topic = topic.into();
            result.partition_result = results;
            result
        })
        .collect();
    codec::encode(header, &response)
}

/// What comes of an election for a partition, or for one that is not there.
fn elect(index: i32, partition: Option<&Partition>, election_type: i8) -> PartitionResult {
    let (error, why) = match partition {
        Some(Partition { leader: NO_LEADER, .. }) => match election_type {
            UNCLEAN => (ErrorCode::EligibleLeadersNotAvailable, "no replica can lead: its broker is away"),
            _ => (ErrorCode::PreferredLeaderNotAvailable, "the preferred replica cannot lead: its broker is away"),
        },
        Some(_) => (ErrorCode::ElectionNotNeeded, "the preferred replica leads already"),
        None => (ErrorCode::UnknownTopicOrPartition, "there is no such partition"),
    };
    let mut result = PartitionResult::default();
    result.partition_id = index;
    result.error_code = error.code();
    result.error_message = Some(why.into());
    result
}
