//! ElectLeaders (KIP-183, KIP-460). Nobody is elected because it is asked for: who is in sync leads as soon as it can, where
//! there is no leader nobody who is in sync is there, and who leads goes on leading. The answers are those of Kafka where that is
//! what Kafka does too; where the preferred replica does not lead, they say that it is not elected.

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
        // Null asks for all partitions; of those Kafka leaves out the ones that need no election. So are those here that are led by
        // another than the preferred replica: nothing is wrong with them.
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

/// Whether the preferred replica leads: the first one.
fn is_preferred(partition: &Partition) -> bool {
    partition.replicas.first() == Some(&partition.leader)
}

/// What comes of an election for a partition, or for one that is not there.
fn elect(index: i32, partition: Option<&Partition>, election_type: i8) -> PartitionResult {
    let (error, why) = match partition {
        Some(Partition { leader: NO_LEADER, .. }) => match election_type {
            UNCLEAN => (ErrorCode::EligibleLeadersNotAvailable, "no replica can lead: its broker is away"),
            _ => (ErrorCode::PreferredLeaderNotAvailable, "the preferred replica cannot lead: its broker is away"),
        },
        Some(_) if election_type == UNCLEAN => (ErrorCode::ElectionNotNeeded, "there is a leader"),
        Some(led) if is_preferred(led) => (ErrorCode::ElectionNotNeeded, "the preferred replica leads already"),
        Some(_) => (
            ErrorCode::PreferredLeaderNotAvailable,
            "another replica leads, and goes on leading: the preferred one is not elected on request yet",
        ),
        None => (ErrorCode::UnknownTopicOrPartition, "there is no such partition"),
    };
    let mut result = PartitionResult::default();
    result.partition_id = index;
    result.error_code = error.code();
    result.error_message = Some(why.into());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFERRED: i8 = 0;

    #[test]
    fn nobody_is_elected_and_who_asks_is_told_why() {
        let of = |leader| {
            let (replicas, isr) = ([1, 2].into(), [2].into());
            Partition { replicas, isr, leader, leader_epoch: 0, partition_epoch: 0 }
        };
        for (leader, election_type, expected) in [
            (1, PREFERRED, ErrorCode::ElectionNotNeeded),
            (1, UNCLEAN, ErrorCode::ElectionNotNeeded),
            (2, PREFERRED, ErrorCode::PreferredLeaderNotAvailable),
            (2, UNCLEAN, ErrorCode::ElectionNotNeeded),
            (NO_LEADER, PREFERRED, ErrorCode::PreferredLeaderNotAvailable),
            (NO_LEADER, UNCLEAN, ErrorCode::EligibleLeadersNotAvailable),
        ] {
            let result = elect(3, Some(&of(leader)), election_type);
            assert_eq!((result.partition_id, result.error_code), (3, expected.code()), "{leader}, {election_type}");
        }
        assert_eq!(elect(3, None, PREFERRED).error_code, ErrorCode::UnknownTopicOrPartition.code());
    }
}
