//! One good request of every API in every version: for seeds, and for `scripts/hostile.sh` to damage.

use bytes::{Bytes, BytesMut};
use kafka_wire::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_wire::create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::describe_client_quotas_request::ComponentData;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_wire::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::incremental_alter_configs_request as incremental;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    alter_client_quotas_request, describe_producers_request, describe_quorum_request, elect_leaders_request,
};
use kafka_wire_core::{ApiVersion, KafkaEncode};
use millstream::protocol::versions::{ApiKey, SERVED};
use millstream_storage::batch::BatchBuilder;

/// The group that the samples are about.
pub const GROUP: &str = "g";
/// The topic that the samples are about.
pub const TOPIC: &str = "t";

fn encoded(version: i16, request: &impl KafkaEncode) -> Vec<u8> {
    let mut body = BytesMut::new();
    match request.encode_into(&mut body, ApiVersion::new(version)) {
        Ok(_) => body.to_vec(),
        Err(error) => panic!("version {version}: {error}"),
    }
}

/// Makes a request out of assignments to its fields.
macro_rules! make {
    ($kind:ty {}) => {
        <$kind>::default()
    };
    ($kind:ty { $($field:ident = $value:expr),+ $(,)? }) => {{
        let mut made = <$kind>::default();
        $(made.$field = $value;)+
        made
    }};
}

/// What a consumer tells its assignor: version 0, one topic, no user data.
pub fn subscription() -> Bytes {
    Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff")
}

/// A batch as a client sends it.
pub fn batch() -> Bytes {
    BatchBuilder::new().record(1_700_000_000_000, Some(b"k"), Some(b"v"), &[]).build().into()
}

/// A request frame without its length: a good header and this body.
pub fn frame(key: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.extend((key as i16).to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 1, b'c']);
    if key.declaration().is_flexible(version) {
        frame.extend([0]);
    }
    frame.extend(body);
    frame.freeze()
}

/// A good request of every API in every version, as they go over the wire, one after the other.
pub fn stream() -> Bytes {
    let mut stream = BytesMut::new();
    for key in SERVED {
        for version in key.declaration().versions() {
            let frame = frame(*key, version, &sample(*key, version));
            stream.extend((frame.len() as u32).to_be_bytes());
            stream.extend(frame);
        }
    }
    stream.freeze()
}

/// The body of a request.
pub fn sample(key: ApiKey, version: i16) -> Vec<u8> {
    match key {
        ApiKey::Produce => {
            let partition = make!(PartitionProduceData { records = Some(batch()) });
            let mut topic = make!(TopicProduceData { partition_data = vec![partition.clone(), partition] });
            if version < 13 {
                topic.name = TOPIC.into();
            }
            encoded(
                version,
                &make!(kafka_wire::ProduceRequest { acks = -1, timeout_ms = 1000, topic_data = vec![topic] }),
            )
        }
        ApiKey::Fetch => {
            let partition = make!(FetchPartition { partition_max_bytes = 1 << 20 });
            let mut topic = make!(FetchTopic { partitions = vec![partition.clone(), partition] });
            if version < 13 {
                topic.topic = TOPIC.into();
            }
            let mut request = make!(kafka_wire::FetchRequest { max_bytes = 1 << 20, topics = vec![topic] });
            if version < 15 {
                request.replica_id = -1;
            }
            encoded(version, &request)
        }
        ApiKey::ListOffsets => {
            let partition = |timestamp| {
                let mut partition = make!(ListOffsetsPartition { timestamp = timestamp });
                if version >= 4 {
                    partition.current_leader_epoch = -1;
                }
                partition
            };
            let partitions = [-1, -2, 5].map(partition).to_vec();
            let topic = make!(ListOffsetsTopic { name = TOPIC.into(), partitions = partitions });
            encoded(version, &make!(kafka_wire::ListOffsetsRequest { replica_id = -1, topics = vec![topic] }))
        }
        ApiKey::Metadata => {
            let topic = make!(MetadataRequestTopic { name = Some(TOPIC.into()) });
            encoded(version, &make!(kafka_wire::MetadataRequest { topics = Some(vec![topic.clone(), topic]) }))
        }
        ApiKey::OffsetCommit => {
            let partition =
                make!(OffsetCommitRequestPartition { committed_offset = 7, committed_metadata = Some("m".into()) });
            let topic = make!(OffsetCommitRequestTopic { name = TOPIC.into(), partitions = vec![partition] });
            encoded(version, &make!(kafka_wire::OffsetCommitRequest { group_id = GROUP.into(), topics = vec![topic] }))
        }
        ApiKey::OffsetFetch if version < 8 => {
            let topic = make!(OffsetFetchRequestTopic { name = TOPIC.into(), partition_indexes = vec![0, 1] });
            encoded(
                version,
                &make!(kafka_wire::OffsetFetchRequest { group_id = GROUP.into(), topics = Some(vec![topic]) }),
            )
        }
        ApiKey::OffsetFetch => {
            let topic = make!(OffsetFetchRequestTopics { name = TOPIC.into(), partition_indexes = vec![0] });
            let one = make!(OffsetFetchRequestGroup { group_id = GROUP.into(), topics = Some(vec![topic]) });
            let all = make!(OffsetFetchRequestGroup { group_id = "h".into(), topics = None });
            encoded(version, &make!(kafka_wire::OffsetFetchRequest { groups = vec![one, all] }))
        }
        ApiKey::FindCoordinator if version < 4 => {
            encoded(version, &make!(kafka_wire::FindCoordinatorRequest { key = GROUP.into() }))
        }
        ApiKey::FindCoordinator => encoded(
            version,
            &make!(kafka_wire::FindCoordinatorRequest { coordinator_keys = vec![GROUP.into(), "h".into()] }),
        ),
        ApiKey::JoinGroup => {
            let protocol = make!(JoinGroupRequestProtocol { name = "range".into(), metadata = subscription() });
            encoded(
                version,
                &make!(kafka_wire::JoinGroupRequest {
                    group_id = GROUP.into(),
                    session_timeout_ms = 10_000,
                    protocol_type = "consumer".into(),
                    protocols = vec![protocol],
                }),
            )
        }
        ApiKey::Heartbeat => encoded(
            version,
            &make!(kafka_wire::HeartbeatRequest {
                group_id = GROUP.into(),
                generation_id = 1,
                member_id = "member".into(),
            }),
        ),
        ApiKey::LeaveGroup if version < 3 => encoded(
            version,
            &make!(kafka_wire::LeaveGroupRequest { group_id = GROUP.into(), member_id = "member".into() }),
        ),
        ApiKey::LeaveGroup => {
            let member = make!(MemberIdentity { member_id = "member".into(), group_instance_id = Some("i".into()) });
            encoded(version, &make!(kafka_wire::LeaveGroupRequest { group_id = GROUP.into(), members = vec![member] }))
        }
        ApiKey::SyncGroup => {
            let assignment =
                make!(SyncGroupRequestAssignment { member_id = "member".into(), assignment = subscription() });
            encoded(
                version,
                &make!(kafka_wire::SyncGroupRequest {
                    group_id = GROUP.into(),
                    generation_id = 1,
                    member_id = "member".into(),
                    assignments = vec![assignment],
                }),
            )
        }
        ApiKey::DescribeGroups => {
            encoded(version, &make!(kafka_wire::DescribeGroupsRequest { groups = vec![GROUP.into(), GROUP.into()] }))
        }
        ApiKey::ListGroups => encoded(version, &kafka_wire::ListGroupsRequest::default()),
        ApiKey::ApiVersions => {
            let mut request = kafka_wire::ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = "software".into();
                request.client_software_version = "1.0".into();
            }
            encoded(version, &request)
        }
        ApiKey::CreateTopics => {
            let assignment = make!(CreatableReplicaAssignment { broker_ids = vec![1] });
            let config = make!(CreatableTopicConfig { name = "retention.ms".into(), value = Some("1".into()) });
            let assigned = make!(CreatableTopic {
                name = "fresh".into(),
                num_partitions = -1,
                replication_factor = -1,
                assignments = vec![assignment],
                configs = vec![config],
            });
            let counted = make!(CreatableTopic { name = "other".into(), num_partitions = 2, replication_factor = 1 });
            encoded(version, &make!(kafka_wire::CreateTopicsRequest { topics = vec![assigned, counted] }))
        }
        ApiKey::DeleteTopics if version >= 6 => {
            let topic = make!(DeleteTopicState { name = Some(TOPIC.into()) });
            encoded(version, &make!(kafka_wire::DeleteTopicsRequest { topics = vec![topic] }))
        }
        ApiKey::DeleteTopics => {
            encoded(version, &make!(kafka_wire::DeleteTopicsRequest { topic_names = vec![TOPIC.into()] }))
        }
        ApiKey::DeleteRecords => {
            let partition = make!(DeleteRecordsPartition { offset = -1 });
            let topic = make!(DeleteRecordsTopic { name = TOPIC.into(), partitions = vec![partition] });
            encoded(version, &make!(kafka_wire::DeleteRecordsRequest { topics = vec![topic], timeout_ms = 1000 }))
        }
        ApiKey::InitProducerId => {
            encoded(version, &make!(kafka_wire::InitProducerIdRequest { transaction_timeout_ms = 1000 }))
        }
        ApiKey::OffsetForLeaderEpoch => {
            let partition = make!(OffsetForLeaderPartition { leader_epoch = 0 });
            let topic = make!(OffsetForLeaderTopic { topic = TOPIC.into(), partitions = vec![partition] });
            encoded(version, &make!(kafka_wire::OffsetForLeaderEpochRequest { topics = vec![topic] }))
        }
        ApiKey::DescribeConfigs => {
            let topic = make!(DescribeConfigsResource {
                resource_type = 2,
                resource_name = TOPIC.into(),
                configuration_keys = Some(vec!["retention.ms".into()]),
            });
            let broker = make!(DescribeConfigsResource {
                resource_type = 4,
                resource_name = "1".into(),
                configuration_keys = None,
            });
            encoded(
                version,
                &make!(kafka_wire::DescribeConfigsRequest {
                    resources = vec![topic, broker],
                    include_synonyms = true,
                }),
            )
        }
        ApiKey::AlterConfigs => {
            let config = make!(AlterableConfig { name = "retention.ms".into(), value = Some("1".into()) });
            let resource = make!(AlterConfigsResource {
                resource_type = 2,
                resource_name = TOPIC.into(),
                configs = vec![config],
            });
            encoded(version, &make!(kafka_wire::AlterConfigsRequest { resources = vec![resource] }))
        }
        ApiKey::CreatePartitions => {
            let assignment = make!(CreatePartitionsAssignment { broker_ids = vec![1] });
            let topic = make!(CreatePartitionsTopic {
                name = TOPIC.into(),
                count = 2,
                assignments = Some(vec![assignment]),
            });
            encoded(version, &make!(kafka_wire::CreatePartitionsRequest { topics = vec![topic] }))
        }
        ApiKey::DeleteGroups => {
            encoded(version, &make!(kafka_wire::DeleteGroupsRequest { groups_names = vec![GROUP.into(), "h".into()] }))
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = make!(incremental::AlterableConfig {
                name = "cleanup.policy".into(),
                config_operation = 2,
                value = Some("compact".into()),
            });
            let resource = make!(incremental::AlterConfigsResource {
                resource_type = 2,
                resource_name = TOPIC.into(),
                configs = vec![config],
            });
            encoded(version, &make!(kafka_wire::IncrementalAlterConfigsRequest { resources = vec![resource] }))
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let mut beat = kafka_wire::ConsumerGroupHeartbeatRequest::default();
            beat.group_id = GROUP.into();
            beat.member_id = "member".into();
            beat.rebalance_timeout_ms = 10_000;
            beat.subscribed_topic_names = Some(vec![TOPIC.into()]);
            if version >= 1 {
                beat.subscribed_topic_regex = Some("o.*".into());
            }
            beat.topic_partitions = Some(Vec::new());
            encoded(version, &beat)
        }
        ApiKey::ConsumerGroupDescribe => {
            encoded(version, &make!(kafka_wire::ConsumerGroupDescribeRequest { group_ids = vec![GROUP.into()] }))
        }
        ApiKey::OffsetDelete => {
            let partition = make!(OffsetDeleteRequestPartition { partition_index = 0 });
            let topic = make!(OffsetDeleteRequestTopic { name = TOPIC.into(), partitions = vec![partition] });
            encoded(version, &make!(kafka_wire::OffsetDeleteRequest { group_id = GROUP.into(), topics = vec![topic] }))
        }
        ApiKey::ElectLeaders => {
            let topic = make!(elect_leaders_request::TopicPartitions { topic = TOPIC.into(), partitions = vec![0] });
            encoded(version, &make!(kafka_wire::ElectLeadersRequest { topic_partitions = Some(vec![topic]) }))
        }
        ApiKey::ListPartitionReassignments => {
            let topic = make!(ListPartitionReassignmentsTopics { name = TOPIC.into(), partition_indexes = vec![0, 1] });
            encoded(version, &make!(kafka_wire::ListPartitionReassignmentsRequest { topics = Some(vec![topic]) }))
        }
        ApiKey::DescribeClientQuotas => {
            let component = make!(ComponentData { entity_type = "user".into(), match_ = Some("u".into()) });
            encoded(version, &make!(kafka_wire::DescribeClientQuotasRequest { components = vec![component] }))
        }
        ApiKey::AlterClientQuotas => {
            let part = make!(alter_client_quotas_request::EntityData {
                entity_type = "client-id".into(),
                entity_name = Some("c".into()),
            });
            let op = make!(alter_client_quotas_request::OpData { key = "producer_byte_rate".into(), value = 1024.0 });
            let entry = make!(alter_client_quotas_request::EntryData { entity = vec![part], ops = vec![op] });
            encoded(version, &make!(kafka_wire::AlterClientQuotasRequest { entries = vec![entry] }))
        }
        ApiKey::DescribeQuorum => {
            let partition = describe_quorum_request::PartitionData::default();
            let topic = make!(describe_quorum_request::TopicData {
                topic_name = "__cluster_metadata".into(),
                partitions = vec![partition],
            });
            encoded(version, &make!(kafka_wire::DescribeQuorumRequest { topics = vec![topic] }))
        }
        ApiKey::AddRaftVoter => {
            let listener = make!(kafka_wire::add_raft_voter_request::Listener {
                name = "CONTROLLER".into(),
                host = "localhost".into(),
                port = 9093,
            });
            encoded(version, &make!(kafka_wire::AddRaftVoterRequest { voter_id = 2, listeners = vec![listener] }))
        }
        ApiKey::RemoveRaftVoter => encoded(version, &make!(kafka_wire::RemoveRaftVoterRequest { voter_id = 1 })),
        ApiKey::ListConfigResources => {
            let mut request = kafka_wire::ListConfigResourcesRequest::default();
            if version > 0 {
                request.resource_types = vec![2, 4];
            }
            encoded(version, &request)
        }
        ApiKey::DescribeLogDirs => {
            let topic = make!(DescribableLogDirTopic { topic = TOPIC.into(), partitions = vec![0, 1] });
            encoded(version, &make!(kafka_wire::DescribeLogDirsRequest { topics = Some(vec![topic]) }))
        }
        ApiKey::DescribeProducers => {
            let topic = make!(describe_producers_request::TopicRequest {
                name = TOPIC.into(),
                partition_indexes = vec![0, 1],
            });
            encoded(version, &make!(kafka_wire::DescribeProducersRequest { topics = vec![topic] }))
        }
        ApiKey::DescribeCluster => encoded(version, &kafka_wire::DescribeClusterRequest::default()),
        // Nobody: the broker that is asked is to go on.
        ApiKey::UnregisterBroker => encoded(version, &make!(kafka_wire::UnregisterBrokerRequest { broker_id = 1000 })),
        ApiKey::DescribeTopicPartitions => {
            let topic = make!(TopicRequest { name = TOPIC.into() });
            let cursor = make!(Cursor { topic_name = TOPIC.into(), partition_index = 0 });
            encoded(
                version,
                &make!(kafka_wire::DescribeTopicPartitionsRequest {
                    topics = vec![topic],
                    cursor = Some(cursor),
                }),
            )
        }
    }
}
