//! DescribeQuorum, AddRaftVoter and RemoveRaftVoter (KIP-595, KIP-836, KIP-853): the members of the quorum that agrees on the
//! metadata log. Who leads it knows how they are, and decides who votes.

use bytes::Bytes;
use kafka_wire::add_raft_voter_request::AddRaftVoterRequest;
use kafka_wire::add_raft_voter_response::AddRaftVoterResponse;
use kafka_wire::describe_quorum_request::DescribeQuorumRequest;
use kafka_wire::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_wire::remove_raft_voter_request::RemoveRaftVoterRequest;
use kafka_wire::remove_raft_voter_response::RemoveRaftVoterResponse;
use kafka_wire_core::Uuid;
use millstream_replication::config::{broker_value, list};
use millstream_replication::controller::{QuorumInfo, QuorumReplica};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode};

use super::{ApiContext, CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

/// The only partition that can be asked about.
const TOPIC: &str = "__cluster_metadata";
const PARTITION: i32 = 0;
/// What the listener of controllers is called in an answer where the configuration does not say it.
const CONTROLLER: &str = "CONTROLLER";

/// The partitions that were asked about, by topic.
pub(super) type Described = Vec<(String, Vec<i32>)>;

pub(super) fn describe(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: DescribeQuorumRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let asked = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        (topic.topic_name.as_str().to_owned(), partitions.collect())
    });
    ask(header, ControllerRequest::DescribeQuorum, Then::DescribeQuorum(asked.collect()))
}

pub(super) fn finish_describe(
    context: &ApiContext,
    header: &RequestHeader,
    asked: Described,
    info: Result<QuorumInfo, ApiError>,
) -> Result<Bytes, CloseReason> {
    let mut response = DescribeQuorumResponse::default();
    response.error_message = None;
    let info = match info {
        Ok(info) => info,
        Err(error) => {
            response.error_code = error.code.code();
            if header.api_version >= 2 {
                response.error_message = Some(error.message.into());
            }
            return codec::encode(header, &response);
        }
    };
    response.topics = asked
        .into_iter()
        .map(|(name, partitions)| {
            let describe = |index: i32| match (name.as_str(), index) {
                (TOPIC, PARTITION) => partition(&info, header.api_version),
                _ => {
                    let mut unknown = PartitionData::default();
                    unknown.partition_index = index;
                    unknown.error_code = ErrorCode::UnknownTopicOrPartition.code();
                    unknown.error_message = None;
                    unknown
                }
            };
            let mut topic = TopicData::default();
            topic.partitions = partitions.into_iter().map(describe).collect();
            topic.topic_name = name.into();
            topic
        })
        .collect();
    if header.api_version >= 2 {
        let listener = broker_value("controller.listener.names", &[context.file]).unwrap_or_default();
        let listener = list(listener).next().unwrap_or(CONTROLLER).to_ascii_uppercase();
        let voters = info.replicas.iter().filter(|replica| replica.is_voter);
        response.nodes = voters.map(|voter| node(voter, &listener)).collect();
    }
    codec::encode(header, &response)
}

fn partition(info: &QuorumInfo, version: i16) -> PartitionData {
    let of_kind = |is_voter: bool| {
        let replicas = info.replicas.iter().filter(move |replica| replica.is_voter == is_voter);
        replicas.map(|replica| state(replica, version)).collect::<Vec<_>>()
    };
    let mut partition = PartitionData::default();
    partition.partition_index = PARTITION;
    partition.error_message = None;
    partition.leader_id = info.leader;
    partition.leader_epoch = i32::try_from(info.term).unwrap_or(i32::MAX);
    partition.high_watermark = offset(info.high_watermark);
    partition.current_voters = of_kind(true);
    partition.observers = of_kind(false);
    partition
}

fn state(replica: &QuorumReplica, version: i16) -> ReplicaState {
    let mut state = ReplicaState::default();
    state.replica_id = replica.node_id;
    state.log_end_offset = offset(replica.log_end);
    if version >= 1 {
        state.last_fetch_timestamp = replica.heard_ms;
        state.last_caught_up_timestamp = replica.caught_up_ms;
    }
    if version >= 2 {
        state.replica_directory_id = Uuid::from_bytes(replica.directory_id);
    }
    state
}

fn node(voter: &QuorumReplica, name: &str) -> Node {
    let mut node = Node::default();
    node.node_id = voter.node_id;
    let listener = |(host, port): &(String, u16)| {
        let mut listener = Listener::default();
        listener.name = name.into();
        listener.host = host.as_str().into();
        listener.port = *port;
        listener
    };
    node.listeners = voter.endpoint.iter().map(listener).collect();
    node
}

/// Offsets of Raft's log count from 1, as the first entry behind nothing.
fn offset(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

pub(super) fn add_voter(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Outcome {
    let request: AddRaftVoterRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    if let Err(error) = check(context, request.cluster_id.as_ref().map(|id| id.as_str()), request.voter_id) {
        return finish_add_voter(header, Err(error)).into();
    }
    let endpoint = request.listeners.first().map(|listener| (listener.host.as_str().to_owned(), listener.port));
    let (node_id, directory_id) = (request.voter_id, *request.voter_directory_id.as_bytes());
    ask(header, ControllerRequest::AddRaftVoter { node_id, directory_id, endpoint }, Then::AddRaftVoter)
}

pub(super) fn finish_add_voter(header: &RequestHeader, outcome: Result<(), ApiError>) -> Result<Bytes, CloseReason> {
    let mut response = AddRaftVoterResponse::default();
    response.error_message = None;
    if let Err(error) = outcome {
        response.error_code = error.code.code();
        response.error_message = Some(error.message.into());
    }
    codec::encode(header, &response)
}

pub(super) fn remove_voter(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Outcome {
    let request: RemoveRaftVoterRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    if let Err(error) = check(context, request.cluster_id.as_ref().map(|id| id.as_str()), request.voter_id) {
        return finish_remove_voter(header, Err(error)).into();
    }
    let (node_id, directory_id) = (request.voter_id, *request.voter_directory_id.as_bytes());
    ask(header, ControllerRequest::RemoveRaftVoter { node_id, directory_id }, Then::RemoveRaftVoter)
}

pub(super) fn finish_remove_voter(header: &RequestHeader, outcome: Result<(), ApiError>) -> Result<Bytes, CloseReason> {
    let mut response = RemoveRaftVoterResponse::default();
    response.error_message = None;
    if let Err(error) = outcome {
        response.error_code = error.code.code();
        response.error_message = Some(error.message.into());
    }
    codec::encode(header, &response)
}

/// What is meant is of this cluster, and can be a node.
fn check(context: &ApiContext, cluster_id: Option<&str>, voter_id: i32) -> Result<(), ApiError> {
    let ours = context.image.cluster_id();
    match cluster_id {
        Some(theirs) if theirs != ours => {
            Err(ApiError::new(ErrorCode::InconsistentClusterId, format!("the cluster is {ours}, not {theirs}")))
        }
        _ if voter_id < 0 => Err(ApiError::new(ErrorCode::InvalidRequest, format!("{voter_id} is no node"))),
        _ => Ok(()),
    }
}
