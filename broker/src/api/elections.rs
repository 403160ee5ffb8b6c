//! ElectLeaders (KIP-183, KIP-460): the preferred replica, the first one, is to lead again; the controller decides. Where nobody leads
//! nobody who is in sync can, and nobody else is elected.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::elect_leaders_request::ElectLeadersRequest;
use kafka_wire::elect_leaders_response::{ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode};

use super::{CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

/// The election type for which any replica will do; before version 1 there is none.
const UNCLEAN: i8 = 1;

pub(super) fn handle(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: ElectLeadersRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let partitions = request.topic_partitions.map(|topics| {
        let of_topic = topics.into_iter().map(|asked| (asked.topic, asked.partitions));
        of_topic.flat_map(|(name, indexes)| indexes.into_iter().map(move |index| (name.to_string(), index))).collect()
    });
    let request = ControllerRequest::ElectLeaders { partitions, is_unclean: request.election_type == UNCLEAN };
    ask(header, request, Then::ElectLeaders)
}

pub(super) fn finish(
    header: &RequestHeader,
    elected: Vec<((String, i32), Result<(), ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut by_topic: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for ((name, index), outcome) in elected {
        let mut result = PartitionResult::default();
        result.partition_id = index;
        result.error_code = ErrorCode::None.code();
        result.error_message = None;
        if let Err(error) = outcome {
            result.error_code = error.code.code();
            result.error_message = Some(error.message.into());
        }
        by_topic.entry(name).or_default().push(result);
    }
    let results = by_topic.into_iter().map(|(topic, results)| {
        let mut result = ReplicaElectionResult::default();
        result.topic = topic.into();
        result.partition_result = results;
        result
    });
    let mut response = ElectLeadersResponse::default();
    response.replica_election_results = results.collect();
    codec::encode(header, &response)
}
