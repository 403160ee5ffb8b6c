//! DescribeQuorum (KIP-595, KIP-853): the voters of the metadata log. A single node is its own quorum of one.

use bytes::Bytes;
use kafka_wire::describe_quorum_request::DescribeQuorumRequest;
use kafka_wire::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_wire_core::Uuid;
use millstream_replication::ErrorCode;

use super::{ApiContext, CloseReason, codec};
use crate::protocol::header::RequestHeader;

/// The only partition that can be asked about.
const TOPIC: &str = "__cluster_metadata";
const PARTITION: i32 = 0;

/// The epoch of a leader that was never elected: it is alone.
const LEADER_EPOCH: i32 = 0;

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: DescribeQuorumRequest = codec::decode(header, body)?;
    let mut response = DescribeQuorumResponse::default();
    response.error_message = None;
    response.topics = request
        .topics
        .iter()
        .map(|asked| {
            let mut topic = TopicData::default();
            topic.topic_name = asked.topic_name.clone();
            topic.partitions = asked
                .partitions
                .iter()
                .map(|asked_partition| {
                    let index = asked_partition.partition_index;
                    if asked.topic_name.as_str() == TOPIC && index == PARTITION {
                        describe(context, header.api_version)
                    } else {
                        let mut unknown = PartitionData::default();
                        unknown.partition_index = index;
                        unknown.error_code = ErrorCode::UnknownTopicOrPartition.code();
                        unknown
                    }
                })
                .collect();
            topic
        })
        .collect();
    if header.api_version >= 2 {
        response.nodes = context
            .image
            .broker(context.node_id)
            .into_iter()
            .map(|broker| {
                let mut node = Node::default();
                node.node_id = broker.node_id;
                node.listeners = broker
                    .endpoint(context.listener)
                    .into_iter()
                    .map(|endpoint| {
                        let mut listener = Listener::default();
                        listener.name = endpoint.listener.as_str().into();
                        listener.host = endpoint.host.as_str().into();
                        listener.port = endpoint.port;
                        listener
                    })
                    .collect();
                node
            })
            .collect();
    }
    codec::encode(header, &response)
}

fn describe(context: &ApiContext, version: i16) -> PartitionData {
    let end = i64::try_from(context.image.offset()).unwrap_or(i64::MAX);
    let mut voter = ReplicaState::default();
    voter.replica_id = context.node_id;
    voter.log_end_offset = end;
    if version >= 1 {
        // It fetches from nobody, so it has never caught up with anybody.
        voter.last_fetch_timestamp = -1;
        voter.last_caught_up_timestamp = -1;
    }
    if version >= 2 {
        voter.replica_directory_id = Uuid::default();
    }
    let mut partition = PartitionData::default();
    partition.partition_index = PARTITION;
    partition.error_message = None;
    partition.leader_id = context.node_id;
    partition.leader_epoch = LEADER_EPOCH;
    partition.high_watermark = end;
    partition.current_voters = vec![voter];
    partition
}
