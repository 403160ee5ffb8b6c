//! ElectLeaders (KIP-183, KIP-460). A partition has one replica, so its leader is the preferred one and there is nothing
//! to elect: the answers are those of Kafka for partitions that need no election.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::elect_leaders_request::ElectLeadersRequest;
use kafka_wire::elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
use millstream_replication::ErrorCode;

use super::{ApiContext, CloseReason, codec};
use crate::protocol::header::RequestHeader;

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: ElectLeadersRequest = codec::decode(header, body)?;
    let mut response = ElectLeadersResponse::default();
    // Null asks for all partitions; of those Kafka leaves out the ones that need no election.
    let mut by_topic: BTreeMap<&str, Vec<PartitionResult>> = BTreeMap::new();
    for asked in request.topic_partitions.iter().flatten() {
        let topic = context.image.topic(&asked.topic);
        let results = by_topic.entry(asked.topic.as_str()).or_default();
        for &index in &asked.partitions {
            let (error, why) = match topic.and_then(|topic| topic.partition(index)) {
                Some(_) => (ErrorCode::ElectionNotNeeded, "the preferred replica leads already"),
                None => (ErrorCode::UnknownTopicOrPartition, "there is no such partition"),
            };
            let mut result = PartitionResult::default();
            result.partition_id = index;
            result.error_code = error.code();
            result.error_message = Some(why.into());
            results.push(result);
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
