//! DescribeTopicPartitions (KIP-966): topics in the order of their names, in pages of a bounded number of partitions.

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_wire::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use kafka_wire::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use kafka_wire_core::Uuid;
use millstream_replication::config::broker_value;
use millstream_replication::image::Topic;
use millstream_replication::{ErrorCode, topic_name};

use super::metadata::PartitionView;
use super::{ApiContext, CloseReason, codec, operations};
use crate::protocol::header::RequestHeader;

/// Most partitions in one reply, unless `max.request.partition.size.limit` says another number: its default in Kafka.
pub const PARTITIONS_PER_REPLY_MAX: i32 = 2000;

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: DescribeTopicPartitionsRequest = codec::decode(header, body)?;
    let mut response = DescribeTopicPartitionsResponse::default();

    let cursor = request.cursor.as_ref();
    let every_topic = request.topics.is_empty();
    let is_invalid = cursor.is_some_and(|cursor| {
        let is_asked_for = every_topic || request.topics.iter().any(|topic| topic.name == cursor.topic_name);
        cursor.partition_index < 0 || !is_asked_for
    });
    if is_invalid {
        // The reply has no error of its own: each topic that was asked for carries it.
        response.topics = request.topics.iter().map(|topic| failed(&topic.name, ErrorCode::InvalidRequest)).collect();
        return codec::encode(header, &response);
    }
    let first_name = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    let names: BTreeSet<&str> = if every_topic {
        context.image.topics().map(|topic| &*topic.name).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.as_str()).collect()
    };

    let layers = context.image.config_layers(context.node_id, context.file);
    let most = broker_value("max.request.partition.size.limit", &layers)
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(PARTITIONS_PER_REPLY_MAX);
    let mut room = request.response_partition_limit.clamp(1, most.max(1)) as usize;
    for name in names.range(first_name..) {
        if room == 0 {
            response.next_cursor = Some(cursor_at(name, 0));
            break;
        }
        let Some(topic) = context.image.topic(name) else {
            let error = match topic_name::check(name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            response.topics.push(failed(name, error));
            continue;
        };
        let first = match cursor {
            Some(cursor) if cursor.topic_name.as_str() == *name => cursor.partition_index as usize,
            _ => 0,
        };
        let end = topic.partitions.len().min(first.saturating_add(room));
        response.topics.push(describe(context, topic, first, end));
        if end < topic.partitions.len() {
            response.next_cursor = Some(cursor_at(name, end));
            break;
        }
        room -= end.saturating_sub(first);
    }
    codec::encode(header, &response)
}

fn cursor_at(name: &str, partition: usize) -> Cursor {
    let mut cursor = Cursor::default();
    cursor.topic_name = name.into();
    cursor.partition_index = partition as i32;
    cursor
}

fn failed(name: &str, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    let mut topic = DescribeTopicPartitionsResponseTopic::default();
    topic.error_code = error.code();
    topic.name = Some(name.into());
    topic.is_internal = topic_name::is_internal(name);
    topic.topic_authorized_operations = operations::TOPIC;
    topic
}

/// The partitions from `first` to before `end`; none when `first` lies behind the last one.
fn describe(context: &ApiContext, topic: &Topic, first: usize, end: usize) -> DescribeTopicPartitionsResponseTopic {
    let mut described = DescribeTopicPartitionsResponseTopic::default();
    described.name = Some((&*topic.name).into());
    described.topic_id = Uuid::from_bytes(topic.id.0);
    described.is_internal = topic.internal;
    described.topic_authorized_operations = operations::TOPIC;
    described.partitions = (first..end)
        .map(|index| {
            let view = PartitionView::new(context, &topic.partitions[index]);
            let mut partition = DescribeTopicPartitionsResponsePartition::default();
            partition.error_code = view.error(true).code();
            partition.partition_index = index as i32;
            partition.leader_id = view.leader;
            partition.leader_epoch = view.partition.leader_epoch;
            partition.replica_nodes = view.partition.replicas.to_vec();
            partition.isr_nodes = view.partition.isr.to_vec();
            partition.eligible_leader_replicas = Some(Vec::new());
            partition.last_known_elr = Some(Vec::new());
            partition.offline_replicas = view.offline_replicas();
            partition
        })
        .collect();
    described
}
