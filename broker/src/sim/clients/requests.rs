//! Requests and answers that several roles have in common.

use bytes::Bytes;
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{
    CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, FindCoordinatorResponse, ListOffsetsRequest,
    ListOffsetsResponse, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
};
use kafka_wire_core::StrBytes;

use super::wire::{self, Request};

/// The earliest offset of a partition, as ListOffsets names it.
pub const EARLIEST: i64 = -2;

/// Creates a topic with so many replicas of each partition and these configurations.
pub fn create_topic(
    name: StrBytes,
    partitions: usize,
    replication_factor: i16,
    configs: &[(&'static str, String)],
) -> Request {
    let mut topic = CreatableTopic::default();
    topic.name = name;
    topic.num_partitions = partitions as i32;
    topic.replication_factor = replication_factor;
    topic.configs = configs
        .iter()
        .map(|(name, value)| {
            let mut config = CreatableTopicConfig::default();
            config.name = StrBytes::from(*name);
            config.value = Some(StrBytes::from(value.as_str()));
            config
        })
        .collect();
    let mut body = CreateTopicsRequest::default();
    body.topics = vec![topic];
    body.timeout_ms = 1_000;
    Request::new(wire::CREATE_TOPICS, &body)
}

/// Writes records to one partition.
pub fn produce(topic: StrBytes, partition: usize, acks: i16, timeout_ms: i32, records: Bytes) -> Request {
    let mut item = PartitionProduceData::default();
    item.index = partition as i32;
    item.records = Some(records);
    let mut data = TopicProduceData::default();
    data.name = topic;
    data.partition_data = vec![item];
    let mut body = ProduceRequest::default();
    body.transactional_id = None;
    body.acks = acks;
    body.timeout_ms = timeout_ms;
    body.topic_data = vec![data];
    Request::new(wire::PRODUCE, &body)
}

/// A partition to be read from an offset.
pub fn fetch_partition(partition: usize, offset: i64, bytes_max: i32) -> FetchPartition {
    let mut item = FetchPartition::default();
    item.partition = partition as i32;
    item.current_leader_epoch = -1;
    item.fetch_offset = offset;
    item.last_fetched_epoch = -1;
    item.log_start_offset = -1;
    item.partition_max_bytes = bytes_max;
    item
}

/// Reads partitions of one topic, without a session; it waits for nothing.
pub fn fetch(topic: StrBytes, partitions: Vec<FetchPartition>) -> FetchRequest {
    let mut items = FetchTopic::default();
    items.topic = topic;
    items.partitions = partitions;
    let mut body = FetchRequest::default();
    body.replica_id = -1;
    body.max_bytes = 400_000;
    body.session_epoch = -1;
    body.topics = vec![items];
    body
}

/// Asks for an offset of a partition by time, or by one of ListOffsets' negative names.
pub fn list_offsets(partition: usize, timestamp: i64) -> Request {
    let mut item = ListOffsetsPartition::default();
    item.partition_index = partition as i32;
    item.current_leader_epoch = -1;
    item.timestamp = timestamp;
    let mut topic = ListOffsetsTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = ListOffsetsRequest::default();
    body.replica_id = -1;
    body.topics = vec![topic];
    Request::new(wire::LIST_OFFSETS, &body)
}

/// The offset and timestamp that ListOffsets found; None if it is to be asked again.
pub fn listed(body: Bytes, partition: usize) -> Result<Option<(i64, i64)>, String> {
    let response: ListOffsetsResponse = wire::response(wire::LIST_OFFSETS, body)?;
    let result = &response.topics[0].partitions[0];
    if result.partition_index != partition as i32 {
        return Err(format!("ListOffsets answers another question: {result:?}"));
    }
    match result.error_code {
        0 => Ok(Some((result.offset, result.timestamp))),
        // The segment that was searched by time was removed meanwhile, or who leads does not know yet what is committed.
        wire::OFFSET_NOT_AVAILABLE => Ok(None),
        error if wire::is_retriable(error) => Ok(None),
        error => Err(format!("ListOffsets: error {error}")),
    }
}

/// Asks who coordinates a group.
pub fn find_coordinator(group: StrBytes) -> Request {
    let mut body = FindCoordinatorRequest::default();
    body.coordinator_keys = vec![group];
    Request::new(wire::FIND_COORDINATOR, &body)
}

/// The coordinator that was found; if none was, the client asks again.
pub fn found_coordinator(body: Bytes) -> Result<Option<i32>, String> {
    let response: FindCoordinatorResponse = wire::response(wire::FIND_COORDINATOR, body)?;
    let found = &response.coordinators[0];
    match found.error_code {
        0 => Ok(Some(found.node_id)),
        error if wire::is_retriable_in_group(error) => Ok(None),
        error => Err(format!("FindCoordinator: error {error}")),
    }
}

/// Commits an offset of one partition of the topic for a group; who commits is to be filled in.
pub fn commit(group: StrBytes, partition: usize, offset: i64) -> OffsetCommitRequest {
    let mut item = OffsetCommitRequestPartition::default();
    item.partition_index = partition as i32;
    item.committed_offset = offset;
    let mut topic = OffsetCommitRequestTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = OffsetCommitRequest::default();
    body.group_id = group;
    body.topics = vec![topic];
    body
}

/// Asks what a group has committed for one partition of the topic.
pub fn fetch_committed(group: StrBytes, partition: usize) -> Request {
    let mut topic = OffsetFetchRequestTopics::default();
    topic.name = wire::topic();
    topic.partition_indexes = vec![partition as i32];
    let mut asked = OffsetFetchRequestGroup::default();
    asked.group_id = group;
    asked.topics = Some(vec![topic]);
    let mut body = OffsetFetchRequest::default();
    body.groups = vec![asked];
    Request::new(wire::OFFSET_FETCH, &body)
}
