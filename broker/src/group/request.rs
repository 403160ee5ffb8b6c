//! Group requests: decoded within limits, with the old versions brought into the shape of the new ones, and the
//! response to each of them that only carries an error.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use kafka_wire::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_wire::delete_groups_response::DeletableGroupResult;
use kafka_wire::describe_groups_response::DescribedGroup;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
    DescribeGroupsResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_wire_core::{ApiVersion, DecodeError, DecodeLimits, Decoder, KafkaDecode, KafkaEncode, StrBytes};

use super::error;
use crate::protocol::versions::{ApiKey, GroupApi};

/// Elements of one array in a group request: partitions committed, members, groups.
pub const ARRAY_ELEMENTS_MAX: usize = 100_000;

/// Partitions that the broker refuses before the coordinator sees them, by their places in the request: error codes.
pub type Refused = BTreeMap<(usize, usize), i16>;

/// A group request of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRequest {
    /// The version it came in, which is that of the response.
    pub version: i16,
    /// What it asks.
    pub kind: RequestKind,
}

/// What a group request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// JoinGroup
    Join(JoinGroupRequest),
    /// SyncGroup
    Sync(SyncGroupRequest),
    /// Heartbeat
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup; the single member of versions below 3 stands in `members`.
    Leave(LeaveGroupRequest),
    /// OffsetCommit
    OffsetCommit {
        /// As it came.
        request: OffsetCommitRequest,
        /// The partitions for which nothing is stored.
        refused: Refused,
    },
    /// OffsetFetch
    OffsetFetch {
        /// The groups that are asked about; below version 8 there is one.
        groups: Vec<OffsetFetchRequestGroup>,
        /// Offsets whose commit is under way are waited for (KIP-447).
        require_stable: bool,
    },
    /// OffsetDelete
    OffsetDelete {
        /// As it came.
        request: OffsetDeleteRequest,
        /// The partitions from which nothing is deleted.
        refused: Refused,
    },
    /// DescribeGroups
    Describe(DescribeGroupsRequest),
    /// ListGroups
    List(ListGroupsRequest),
    /// DeleteGroups
    Delete(DeleteGroupsRequest),
    /// ConsumerGroupHeartbeat
    ConsumerHeartbeat(ConsumerGroupHeartbeatRequest),
    /// ConsumerGroupDescribe
    ConsumerDescribe(ConsumerGroupDescribeRequest),
}

/// Bytes of one group request. Its decoded form takes up to some thirty times as much memory.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Unknown tagged fields in one structure of a request.
pub const TAGGED_FIELDS_MAX: usize = 64;

/// The limits within which group requests are decoded. Text is limited to what the older encodings and the records of
/// `__consumer_offsets` can carry.
fn limits() -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = REQUEST_BYTES_MAX;
    limits.max_string_bytes = i16::MAX as usize;
    limits.max_bytes_bytes = REQUEST_BYTES_MAX;
    limits.max_array_elements = ARRAY_ELEMENTS_MAX;
    limits.max_tagged_fields = TAGGED_FIELDS_MAX;
    limits
}

/// Decodes a request's body. Bytes after its last field are ignored, as Kafka does.
pub(super) fn decode<M: KafkaDecode>(version: i16, body: Bytes) -> Result<M, DecodeError> {
    M::decode(&mut Decoder::new(body, limits())?, ApiVersion::new(version))
}

/// Decodes a response's body that a coordinator of ours encoded.
pub(super) fn decode_response<M: KafkaDecode>(version: i16, body: Bytes) -> Result<M, DecodeError> {
    M::decode(&mut Decoder::new(body, DecodeLimits::default())?, ApiVersion::new(version))
}

/// Encodes a response body. What is in it came from requests decoded within [`limits`], so that each version can
/// carry it: a failure is a bug of ours.
pub(super) fn encode<M: KafkaEncode>(version: i16, message: &M) -> Bytes {
    message.encode_to_bytes(ApiVersion::new(version)).expect("a response is built for its version")
}

impl GroupRequest {
    /// Decodes a request body. The caller has checked that the version is served.
    pub fn decode(api: GroupApi, version: i16, body: Bytes) -> Result<GroupRequest, DecodeError> {
        RequestKind::decode(api, version, body).map(|kind| GroupRequest { version, kind })
    }

    /// The API.
    pub fn api_key(&self) -> ApiKey {
        match &self.kind {
            RequestKind::Join(_) => ApiKey::JoinGroup,
            RequestKind::Sync(_) => ApiKey::SyncGroup,
            RequestKind::Heartbeat(_) => ApiKey::Heartbeat,
            RequestKind::Leave(_) => ApiKey::LeaveGroup,
            RequestKind::OffsetCommit { .. } => ApiKey::OffsetCommit,
            RequestKind::OffsetFetch { .. } => ApiKey::OffsetFetch,
            RequestKind::OffsetDelete { .. } => ApiKey::OffsetDelete,
            RequestKind::Describe(_) => ApiKey::DescribeGroups,
            RequestKind::List(_) => ApiKey::ListGroups,
            RequestKind::Delete(_) => ApiKey::DeleteGroups,
            RequestKind::ConsumerHeartbeat(_) => ApiKey::ConsumerGroupHeartbeat,
            RequestKind::ConsumerDescribe(_) => ApiKey::ConsumerGroupDescribe,
        }
    }

    /// The group of a request by which members join, stay and leave.
    pub fn group_id(&self) -> Option<&str> {
        match &self.kind {
            RequestKind::Join(request) => Some(&request.group_id),
            RequestKind::Sync(request) => Some(&request.group_id),
            RequestKind::Heartbeat(request) => Some(&request.group_id),
            RequestKind::Leave(request) => Some(&request.group_id),
            RequestKind::ConsumerHeartbeat(request) => Some(&request.group_id),
            _ => None,
        }
    }

    /// Marks the partitions of an OffsetCommit or OffsetDelete that do not exist, as `exists(topic, partition)` says:
    /// they are answered with UNKNOWN_TOPIC_OR_PARTITION and nothing is stored for them.
    pub fn refuse_unknown_partitions(&mut self, exists: impl Fn(&str, i32) -> bool) {
        let refuse = |refused: &mut Refused, topic: usize, at: usize, name: &str, partition| {
            if !exists(name, partition) {
                refused.insert((topic, at), error::UNKNOWN_TOPIC_OR_PARTITION);
            }
        };
        match &mut self.kind {
            RequestKind::OffsetCommit { request, refused } => {
                for (topic_at, topic) in request.topics.iter().enumerate() {
                    for (at, partition) in topic.partitions.iter().enumerate() {
                        let index = partition.partition_index;
                        refuse(refused, topic_at, at, &topic.name, index);
                    }
                }
            }
            RequestKind::OffsetDelete { request, refused } => {
                for (topic_at, topic) in request.topics.iter().enumerate() {
                    for (at, partition) in topic.partitions.iter().enumerate() {
                        let index = partition.partition_index;
                        refuse(refused, topic_at, at, &topic.name, index);
                    }
                }
            }
            _ => {}
        }
    }

    /// The body of the response that refuses the whole request.
    pub fn error_reply(&self, error_code: i16) -> Bytes {
        let version = self.version;
        match &self.kind {
            RequestKind::Join(request) => join_error(version, error_code, request.member_id.clone()),
            RequestKind::Sync(_) => sync_error(version, error_code),
            RequestKind::Heartbeat(_) => heartbeat(version, error_code),
            RequestKind::Leave(_) => {
                let mut response = LeaveGroupResponse::default();
                response.error_code = error_code;
                encode(version, &response)
            }
            RequestKind::OffsetCommit { request, refused } => {
                offset_commit(version, request, |topic, at| refused.get(&(topic, at)).copied().unwrap_or(error_code))
            }
            RequestKind::OffsetFetch { groups, .. } => {
                let groups =
                    groups.iter().map(|group| super::reply::failed_group(version, group, error_code)).collect();
                super::reply::offset_fetch(version, groups)
            }
            RequestKind::OffsetDelete { .. } => {
                let mut response = OffsetDeleteResponse::default();
                response.error_code = error_code;
                encode(version, &response)
            }
            RequestKind::Describe(request) => {
                let mut response = DescribeGroupsResponse::default();
                for group_id in &request.groups {
                    let mut group = DescribedGroup::default();
                    group.group_id = group_id.clone();
                    group.error_code = error_code;
                    response.groups.push(group);
                }
                encode(version, &response)
            }
            RequestKind::List(_) => {
                let mut response = ListGroupsResponse::default();
                response.error_code = error_code;
                encode(version, &response)
            }
            RequestKind::ConsumerHeartbeat(_) => consumer_heartbeat_error(version, error_code, None),
            RequestKind::ConsumerDescribe(request) => {
                let mut response = ConsumerGroupDescribeResponse::default();
                for group_id in &request.group_ids {
                    let mut group = DescribedConsumerGroup::default();
                    group.group_id = group_id.clone();
                    group.error_code = error_code;
                    response.groups.push(group);
                }
                encode(version, &response)
            }
            RequestKind::Delete(request) => {
                let mut response = DeleteGroupsResponse::default();
                for group_id in &request.groups_names {
                    let mut result = DeletableGroupResult::default();
                    result.group_id = group_id.clone();
                    result.error_code = error_code;
                    response.results.push(result);
                }
                encode(version, &response)
            }
        }
    }
}

impl RequestKind {
    fn decode(api: GroupApi, version: i16, body: Bytes) -> Result<RequestKind, DecodeError> {
        Ok(match api {
            GroupApi::JoinGroup => {
                let mut request: JoinGroupRequest = decode(version, body)?;
                // Version 0 has no rebalance timeout of its own.
                if version == 0 {
                    request.rebalance_timeout_ms = request.session_timeout_ms;
                }
                RequestKind::Join(request)
            }
            GroupApi::SyncGroup => RequestKind::Sync(decode(version, body)?),
            GroupApi::Heartbeat => RequestKind::Heartbeat(decode(version, body)?),
            GroupApi::LeaveGroup => {
                let mut request: LeaveGroupRequest = decode(version, body)?;
                if version < 3 {
                    let mut member = MemberIdentity::default();
                    member.member_id = std::mem::take(&mut request.member_id);
                    request.members = vec![member];
                }
                RequestKind::Leave(request)
            }
            GroupApi::OffsetCommit => {
                RequestKind::OffsetCommit { request: decode(version, body)?, refused: Refused::new() }
            }
            GroupApi::OffsetFetch => {
                let request: OffsetFetchRequest = decode(version, body)?;
                let mut groups = if version < 8 { vec![single_group(&request)] } else { request.groups };
                once(&mut groups, |group| group.group_id.clone());
                for topics in groups.iter_mut().filter_map(|group| group.topics.as_mut()) {
                    let mut seen = HashSet::new();
                    for topic in topics {
                        topic.partition_indexes.retain(|partition| seen.insert((topic.name.clone(), *partition)));
                    }
                }
                RequestKind::OffsetFetch { groups, require_stable: request.require_stable }
            }
            GroupApi::OffsetDelete => {
                RequestKind::OffsetDelete { request: decode(version, body)?, refused: Refused::new() }
            }
            GroupApi::DescribeGroups => {
                let mut request: DescribeGroupsRequest = decode(version, body)?;
                once(&mut request.groups, StrBytes::clone);
                RequestKind::Describe(request)
            }
            GroupApi::ConsumerGroupHeartbeat => RequestKind::ConsumerHeartbeat(decode(version, body)?),
            GroupApi::ConsumerGroupDescribe => {
                let mut request: ConsumerGroupDescribeRequest = decode(version, body)?;
                once(&mut request.group_ids, StrBytes::clone);
                RequestKind::ConsumerDescribe(request)
            }
            GroupApi::ListGroups => RequestKind::List(decode(version, body)?),
            GroupApi::DeleteGroups => RequestKind::Delete(decode(version, body)?),
        })
    }
}

/// Leaves in a request once what it names several times: the reply is bounded by what there is, not by how often it is
/// asked for.
fn once<T>(items: &mut Vec<T>, name: impl Fn(&T) -> StrBytes) {
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(name(item)));
}

fn single_group(request: &OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let mut group = OffsetFetchRequestGroup::default();
    group.group_id = request.group_id.clone();
    group.topics = request.topics.as_ref().map(|topics| {
        topics
            .iter()
            .map(|topic| {
                let mut asked = OffsetFetchRequestTopics::default();
                asked.name = topic.name.clone();
                asked.partition_indexes = topic.partition_indexes.clone();
                asked
            })
            .collect()
    });
    group
}

/// The body of a JoinGroup response that carries an error.
pub(super) fn join_error(version: i16, error_code: i16, member_id: StrBytes) -> Bytes {
    let mut response = JoinGroupResponse::default();
    response.error_code = error_code;
    response.member_id = member_id;
    if version >= 7 {
        response.protocol_name = None;
    }
    encode(version, &response)
}

/// The body of a ConsumerGroupHeartbeat response that carries an error.
pub(super) fn consumer_heartbeat_error(version: i16, error_code: i16, message: Option<String>) -> Bytes {
    let mut response = ConsumerGroupHeartbeatResponse::default();
    response.error_code = error_code;
    response.error_message = message.map(StrBytes::from);
    encode(version, &response)
}

/// The body of a SyncGroup response that carries an error.
pub(super) fn sync_error(version: i16, error_code: i16) -> Bytes {
    let mut response = SyncGroupResponse::default();
    response.error_code = error_code;
    encode(version, &response)
}

/// The body of a Heartbeat response.
pub(super) fn heartbeat(version: i16, error_code: i16) -> Bytes {
    let mut response = HeartbeatResponse::default();
    response.error_code = error_code;
    encode(version, &response)
}

/// The body of an OffsetCommit response; `result` gives each partition's error code by its place.
pub(super) fn offset_commit(
    version: i16,
    request: &OffsetCommitRequest,
    result: impl Fn(usize, usize) -> i16,
) -> Bytes {
    let mut response = OffsetCommitResponse::default();
    for (topic_at, topic) in request.topics.iter().enumerate() {
        let mut answer = OffsetCommitResponseTopic::default();
        answer.name = topic.name.clone();
        for (at, partition) in topic.partitions.iter().enumerate() {
            let mut part = OffsetCommitResponsePartition::default();
            part.partition_index = partition.partition_index;
            part.error_code = result(topic_at, at);
            answer.partitions.push(part);
        }
        response.topics.push(answer);
    }
    encode(version, &response)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of 4 MiB that named one group 100,000 times was answered with as many copies of its members.
    #[test]
    fn what_is_named_twice_is_asked_for_once() {
        let mut describe = DescribeGroupsRequest::default();
        describe.groups = vec!["b".into(), "a".into(), "b".into(), "a".into()];
        let decoded = RequestKind::decode(GroupApi::DescribeGroups, 0, encode(0, &describe)).expect("it is whole");
        let RequestKind::Describe(decoded) = decoded else { panic!("{decoded:?}") };
        assert_eq!(decoded.groups, [StrBytes::from("b"), StrBytes::from("a")]);

        let topic = |partitions: &[i32]| {
            let mut topic = OffsetFetchRequestTopics::default();
            topic.name = "t".into();
            topic.partition_indexes = partitions.to_vec();
            topic
        };
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = "g".into();
        group.topics = Some(vec![topic(&[1, 0, 1]), topic(&[0, 2])]);
        let mut fetch = OffsetFetchRequest::default();
        fetch.groups = vec![group.clone(), group];
        let decoded = RequestKind::decode(GroupApi::OffsetFetch, 8, encode(8, &fetch)).expect("it is whole");
        let RequestKind::OffsetFetch { groups, .. } = decoded else { panic!("{decoded:?}") };
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].topics, Some(vec![topic(&[1, 0]), topic(&[2])]));
    }
}
