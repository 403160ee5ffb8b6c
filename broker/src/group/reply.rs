//! Bodies of the responses that need more than a line to build.

use bytes::Bytes;
use kafka_wire::OffsetFetchResponse;
use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_wire_core::StrBytes;

use super::error;
use super::offsets::Offsets;
use super::record::CommittedOffset;
use super::request::encode;

/// The body of an OffsetFetch response. Below version 8 there is exactly one group.
pub fn offset_fetch(version: i16, groups: Vec<OffsetFetchResponseGroup>) -> Bytes {
    let mut response = OffsetFetchResponse::default();
    if version >= 8 {
        response.groups = groups;
        return encode(version, &response);
    }
    let Some(group) = groups.into_iter().next() else {
        return encode(version, &response);
    };
    response.error_code = group.error_code;
    for topic in group.topics {
        let mut answer = OffsetFetchResponseTopic::default();
        answer.name = topic.name;
        for partition in topic.partitions {
            let mut part = OffsetFetchResponsePartition::default();
            part.partition_index = partition.partition_index;
            part.committed_offset = partition.committed_offset;
            part.committed_leader_epoch = partition.committed_leader_epoch;
            part.metadata = partition.metadata;
            part.error_code = partition.error_code;
            answer.partitions.push(part);
        }
        response.topics.push(answer);
    }
    encode(version, &response)
}

/// One group's part of an OffsetFetch response. Where nothing was committed, or the group is unknown, the offset is -1
/// and there is no error.
pub fn fetched_group(asked: &OffsetFetchRequestGroup, offsets: Option<&Offsets>) -> OffsetFetchResponseGroup {
    let mut response = OffsetFetchResponseGroup::default();
    response.group_id = asked.group_id.clone();
    match &asked.topics {
        Some(topics) => {
            for topic in topics {
                let mut answer = OffsetFetchResponseTopics::default();
                answer.name = topic.name.clone();
                for index in &topic.partition_indexes {
                    let committed = offsets.and_then(|offsets| offsets.get(&topic.name, *index));
                    answer.partitions.push(fetched_partition(*index, committed));
                }
                response.topics.push(answer);
            }
        }
        None => {
            for (topic, partitions) in offsets.into_iter().flat_map(Offsets::topics) {
                let mut answer = OffsetFetchResponseTopics::default();
                answer.name = StrBytes::from(&**topic);
                for (index, committed) in partitions {
                    answer.partitions.push(fetched_partition(*index, Some(committed)));
                }
                response.topics.push(answer);
            }
        }
    }
    response
}

/// One group's part of an OffsetFetch response that refuses the whole group.
pub fn failed_group(version: i16, asked: &OffsetFetchRequestGroup, error_code: i16) -> OffsetFetchResponseGroup {
    let mut response = OffsetFetchResponseGroup::default();
    response.group_id = asked.group_id.clone();
    response.error_code = error_code;
    // Versions below 2 have no place for the error but the partitions.
    if version < 2 {
        response.topics = failed_topics(asked, error_code);
    }
    response
}

/// All the partitions asked for, with an error each.
fn failed_topics(asked: &OffsetFetchRequestGroup, error_code: i16) -> Vec<OffsetFetchResponseTopics> {
    let mut topics = fetched_group(asked, None).topics;
    for topic in &mut topics {
        for partition in &mut topic.partitions {
            partition.error_code = error_code;
        }
    }
    topics
}

fn fetched_partition(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    let mut part = OffsetFetchResponsePartitions::default();
    part.partition_index = index;
    part.committed_offset = committed.map_or(-1, |committed| committed.offset);
    part.committed_leader_epoch = committed.map_or(-1, |committed| committed.leader_epoch);
    part.metadata = Some(StrBytes::from(committed.map_or("", |committed| &*committed.metadata)));
    part.error_code = error::NONE;
    part
}
