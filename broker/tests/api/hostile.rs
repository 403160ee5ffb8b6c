//! Bytes that nobody meant well: valid requests, cut and changed at random. Nothing may panic, and what is allocated
//! stays within a multiple of the frame.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use kafka_wire::add_raft_voter_request::{self, AddRaftVoterRequest};
use kafka_wire::alter_client_quotas_request::{self, AlterClientQuotasRequest};
use kafka_wire::alter_configs_request::AlterConfigsRequest;
use kafka_wire::api_versions_request::ApiVersionsRequest;
use kafka_wire::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use kafka_wire::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use kafka_wire::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_wire::describe_client_quotas_request::{ComponentData, DescribeClientQuotasRequest};
use kafka_wire::describe_cluster_request::DescribeClusterRequest;
use kafka_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_wire::describe_quorum_request::{self, DescribeQuorumRequest};
use kafka_wire::describe_topic_partitions_request::{Cursor, DescribeTopicPartitionsRequest, TopicRequest};
use kafka_wire::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use kafka_wire::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use kafka_wire::list_config_resources_request::ListConfigResourcesRequest;
use kafka_wire::list_partition_reassignments_request::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsTopics,
};
use kafka_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_wire::remove_raft_voter_request::RemoveRaftVoterRequest;
use kafka_wire::unregister_broker_request::UnregisterBrokerRequest;
use kafka_wire_core::{ApiVersion, KafkaEncode};
use millstream::driver::allocator::{Count, CountingAllocator};
use millstream::protocol::header::RequestHeader;
use millstream::protocol::versions::{ApiKey, Handler, SERVED};
use millstream::protocol::wire::Writer;
use millstream_storage::random::Random;

use super::cluster::{Cluster, frame};

/// Counts the bytes that the current thread holds, and the most it held.
struct Held;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

impl Count for Held {
    fn count(bytes: isize) {
        // A thread that ends has no counters any more; it is not measured.
        let _ = HELD.try_with(|held| {
            held.set(held.get() + bytes);
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator<Held> = CountingAllocator::new();

/// The most that `run` held beyond what was held before.
fn most_held(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    run();
    usize::try_from(MOST.get() - before).unwrap()
}

/// One request of every API in every version, with something in every list.
fn seeds() -> Vec<Bytes> {
    let mut seeds = Vec::new();
    for &key in SERVED.iter().filter(|key| matches!(key.handler(), Handler::Image(_))) {
        for version in key.declaration().versions() {
            seeds.push(seed(key, version));
        }
    }
    seeds
}

fn seed(key: ApiKey, version: i16) -> Bytes {
    match key {
        ApiKey::ApiVersions => {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = "software".into();
                request.client_software_version = "1.0".into();
            }
            frame(version, &request)
        }
        ApiKey::Metadata => {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some("events".into());
            let mut request = MetadataRequest::default();
            request.topics = Some(vec![topic.clone(), topic]);
            frame(version, &request)
        }
        ApiKey::CreateTopics => {
            let mut assignment = CreatableReplicaAssignment::default();
            assignment.broker_ids = vec![1];
            let mut config = CreatableTopicConfig::default();
            config.name = "retention.ms".into();
            config.value = Some("1".into());
            let mut topic = CreatableTopic::default();
            topic.name = "fresh".into();
            topic.num_partitions = -1;
            topic.replication_factor = -1;
            topic.assignments = vec![assignment];
            topic.configs = vec![config];
            let mut request = CreateTopicsRequest::default();
            request.topics = vec![topic];
            frame(version, &request)
        }
        ApiKey::DeleteTopics => {
            let mut request = DeleteTopicsRequest::default();
            if version >= 6 {
                let mut topic = DeleteTopicState::default();
                topic.name = Some("events".into());
                request.topics = vec![topic];
            } else {
                request.topic_names = vec!["events".into()];
            }
            frame(version, &request)
        }
        ApiKey::CreatePartitions => {
            let mut topic = CreatePartitionsTopic::default();
            topic.name = "events".into();
            topic.count = 4;
            topic.assignments = Some(vec![Default::default()]);
            let mut request = CreatePartitionsRequest::default();
            request.topics = vec![topic];
            frame(version, &request)
        }
        ApiKey::DescribeConfigs => {
            let mut resource = DescribeConfigsResource::default();
            resource.resource_type = 2;
            resource.resource_name = "events".into();
            resource.configuration_keys = Some(vec!["retention.ms".into()]);
            let mut request = DescribeConfigsRequest::default();
            request.resources = vec![resource];
            request.include_synonyms = true;
            frame(version, &request)
        }
        ApiKey::AlterConfigs => {
            use kafka_wire::alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let mut config = AlterableConfig::default();
            config.name = "retention.ms".into();
            config.value = Some("1".into());
            let mut resource = AlterConfigsResource::default();
            resource.resource_type = 2;
            resource.resource_name = "events".into();
            resource.configs = vec![config];
            let mut request = AlterConfigsRequest::default();
            request.resources = vec![resource];
            frame(version, &request)
        }
        ApiKey::IncrementalAlterConfigs => {
            let mut config = AlterableConfig::default();
            config.name = "cleanup.policy".into();
            config.config_operation = 2;
            config.value = Some("compact".into());
            let mut resource = AlterConfigsResource::default();
            resource.resource_type = 2;
            resource.resource_name = "events".into();
            resource.configs = vec![config];
            let mut request = IncrementalAlterConfigsRequest::default();
            request.resources = vec![resource];
            frame(version, &request)
        }
        ApiKey::DescribeCluster => frame(version, &DescribeClusterRequest::default()),
        ApiKey::UnregisterBroker => frame(version, &UnregisterBrokerRequest::default()),
        ApiKey::DescribeTopicPartitions => {
            let mut topic = TopicRequest::default();
            topic.name = "events".into();
            let mut cursor = Cursor::default();
            cursor.topic_name = "events".into();
            cursor.partition_index = 1;
            let mut request = DescribeTopicPartitionsRequest::default();
            request.topics = vec![topic];
            request.cursor = Some(cursor);
            frame(version, &request)
        }
        ApiKey::ElectLeaders => {
            let mut partitions = TopicPartitions::default();
            partitions.topic = "events".into();
            partitions.partitions = vec![0, 1];
            let mut request = ElectLeadersRequest::default();
            request.topic_partitions = Some(vec![partitions]);
            frame(version, &request)
        }
        ApiKey::ListPartitionReassignments => {
            let mut topic = ListPartitionReassignmentsTopics::default();
            topic.name = "events".into();
            topic.partition_indexes = vec![0, 1];
            let mut request = ListPartitionReassignmentsRequest::default();
            request.topics = Some(vec![topic]);
            frame(version, &request)
        }
        ApiKey::DescribeClientQuotas => {
            let mut component = ComponentData::default();
            component.entity_type = "user".into();
            component.match_ = Some("u".into());
            let mut request = DescribeClientQuotasRequest::default();
            request.components = vec![component];
            frame(version, &request)
        }
        ApiKey::AlterClientQuotas => {
            let mut part = alter_client_quotas_request::EntityData::default();
            part.entity_type = "client-id".into();
            part.entity_name = Some("c".into());
            let mut op = alter_client_quotas_request::OpData::default();
            op.key = "producer_byte_rate".into();
            op.value = 1024.0;
            let mut entry = alter_client_quotas_request::EntryData::default();
            entry.entity = vec![part];
            entry.ops = vec![op];
            let mut request = AlterClientQuotasRequest::default();
            request.entries = vec![entry];
            frame(version, &request)
        }
        ApiKey::DescribeQuorum => {
            let mut topic = describe_quorum_request::TopicData::default();
            topic.topic_name = "__cluster_metadata".into();
            topic.partitions = vec![describe_quorum_request::PartitionData::default()];
            let mut request = DescribeQuorumRequest::default();
            request.topics = vec![topic];
            frame(version, &request)
        }
        ApiKey::AddRaftVoter => {
            let mut listener = add_raft_voter_request::Listener::default();
            listener.name = "CONTROLLER".into();
            listener.host = "localhost".into();
            listener.port = 9093;
            let mut request = AddRaftVoterRequest::default();
            request.voter_id = 2;
            request.listeners = vec![listener];
            frame(version, &request)
        }
        ApiKey::RemoveRaftVoter => frame(version, &RemoveRaftVoterRequest::default()),
        ApiKey::ListConfigResources => {
            let mut request = ListConfigResourcesRequest::default();
            if version > 0 {
                request.resource_types = vec![2, 4];
            }
            frame(version, &request)
        }
        other => panic!("{other:?} is not handled here"),
    }
}

/// Where the handlers run, with their replies thrown away: closed connections are fine.
fn run(frame: Bytes) {
    if let Ok((header, _)) = RequestHeader::parse(frame.clone())
        && matches!(header.api_key.handler(), Handler::Image(_))
    {
        let _ = Cluster::new().handle(frame);
    }
}

#[test]
fn truncated_requests() {
    for seed in seeds() {
        for end in 0..seed.len() {
            run(seed.slice(..end));
        }
    }
}

#[test]
fn mutated_requests() {
    const ROUNDS: usize = 400;
    /// Lengths and counts that decoders trip over.
    const NASTY: [&[u8]; 8] = [
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff],
        &[0x80, 0x00, 0x00, 0x00],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
        &[0x7f, 0xff],
        &[0xff, 0xff],
        &[0x00, 0x01, 0x86, 0xa0],
    ];
    let mut random = Random::new(0x4d69_6c6c);
    for seed in seeds() {
        let whole_cluster = most_held(|| drop(Cluster::new()));
        for _ in 0..ROUNDS {
            let mut bytes = BytesMut::from(&seed[..]);
            for _ in 0..=random.below(4) {
                let at = random.index(bytes.len());
                match random.below(3) {
                    0 => bytes[at] ^= 1 << random.index(8),
                    1 => bytes[at] = random.next() as u8,
                    _ => {
                        let nasty = NASTY[random.index(NASTY.len())];
                        let end = (at + nasty.len()).min(bytes.len());
                        bytes[at..end].copy_from_slice(&nasty[..end - at]);
                    }
                }
            }
            let bytes = bytes.freeze();
            let held = most_held(|| run(bytes.clone()));
            // Replies are as large as the cluster is: every configuration of the broker, in the worst case.
            let bound = whole_cluster + 64 * bytes.len() + 512 * 1024;
            assert!(held < bound, "{held} bytes for {bytes:?}");
        }
    }
}

/// The elements that take the least on the wire and the most in memory, as many as a request can hold.
#[test]
fn the_largest_arrays_take_a_bounded_multiple() {
    let mut topics = MetadataRequest::default();
    topics.allow_auto_topic_creation = false;
    let mut nobody = MetadataRequestTopic::default();
    nobody.name = Some("".into());
    topics.topics = Some(vec![nobody; millstream::api::REQUEST_ARRAY_ELEMENTS_MAX]);
    let largest = frame(4, &topics);
    let held = most_held(|| run(largest.clone()));
    assert!(held < 200 * largest.len(), "{held} for {}", largest.len());

    // One more than may be: refused at the count, before anything is read.
    let mut over = BytesMut::new();
    topics.topics.as_mut().unwrap().push(Default::default());
    topics.encode_into(&mut over, ApiVersion::new(4)).unwrap();
    let mut writer = Writer::default();
    writer.raw(&largest[..2 + 2 + 4 + 2 + "test-client".len()]);
    writer.raw(&over);
    let over = writer.finish();
    let before = most_held(|| drop(Cluster::new()));
    let held = most_held(|| assert!(Cluster::new().handle(over).is_err()));
    assert!(held < before + 64 * 1024, "{held}");
}
