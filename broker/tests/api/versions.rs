//! Every version of every API: a request with every field that the version has, handled, and the reply read back.

use bytes::Bytes;
use kafka_wire::alter_configs_request::{self, AlterConfigsRequest};
use kafka_wire::api_versions_request::ApiVersionsRequest;
use kafka_wire::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use kafka_wire::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_wire::describe_cluster_request::DescribeClusterRequest;
use kafka_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_wire::describe_configs_response::DescribeConfigsResourceResult;
use kafka_wire::describe_topic_partitions_request::{Cursor, DescribeTopicPartitionsRequest, TopicRequest};
use kafka_wire::incremental_alter_configs_request::{self, IncrementalAlterConfigsRequest};
use kafka_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_wire_core::Uuid;
use millstream::protocol::versions::{ApiKey, SERVED};
use millstream_replication::ErrorCode;

use millstream_storage::TopicId;

use super::cluster::Cluster;

/// All bits of the operations on a topic, as Kafka gives them where there is no authorizer.
const TOPIC_OPERATIONS: i32 = 3576;
const CLUSTER_OPERATIONS: i32 = 8096;

fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    key.declaration().versions()
}

#[test]
fn api_versions() {
    for version in versions(ApiKey::ApiVersions) {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = "apache-kafka-java".into();
            request.client_software_version = "4.1.0".into();
        }
        let response = Cluster::new().call(version, &request);
        assert_eq!(response.error_code, 0);
        assert_eq!(response.api_keys.len(), SERVED.len());
        for (served, key) in response.api_keys.iter().zip(SERVED) {
            assert_eq!(served.api_key, *key as i16);
            assert_eq!(served.max_version, key.declaration().version_max);
            let lowest = if *key == ApiKey::Produce { 0 } else { key.declaration().version_min };
            assert_eq!(served.min_version, lowest);
        }
        assert_eq!(response.finalized_features_epoch >= 0, version >= 3);
        let finalized = response.finalized_features.iter().map(|feature| (&*feature.name, feature.max_version_level));
        let expected = (version >= 3).then_some(("group.version", 1));
        assert_eq!(finalized.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        let supported = response.supported_features.iter().map(|feature| (&*feature.name, feature.max_version));
        let expected = (version >= 4).then_some(("group.version", 1));
        assert_eq!(supported.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn metadata_of_named_topics() {
    for version in versions(ApiKey::Metadata) {
        let mut cluster = Cluster::new();
        let mut request = MetadataRequest::default();
        let mut named = MetadataRequestTopic::default();
        named.name = Some("events".into());
        // Named twice, answered once.
        request.topics = Some(vec![named.clone(), named]);
        if version >= 8 {
            request.include_topic_authorized_operations = true;
            request.include_cluster_authorized_operations = version <= 10;
        }
        let response = cluster.call(version, &request);
        assert_eq!(response.brokers.len(), 1);
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id, &*broker.host, broker.port), (1, "PLAINTEXT.host", 9092));
        if version >= 1 {
            assert_eq!(broker.rack.as_deref(), Some("rack-1"));
            assert_eq!(response.controller_id, 1);
        }
        if version >= 2 {
            assert_eq!(response.cluster_id.as_deref(), Some("q6urq6urS6urq6urq6urqw"));
        }
        let operations = if (8..=10).contains(&version) { CLUSTER_OPERATIONS } else { i32::MIN };
        assert_eq!(response.cluster_authorized_operations, operations);

        let [topic] = &response.topics[..] else { panic!("{:?}", response.topics) };
        assert_eq!((topic.error_code, topic.name.as_deref(), topic.is_internal), (0, Some("events"), false));
        let id = if version >= 10 { cluster.topic_id("events") } else { TopicId::default() };
        assert_eq!(topic.topic_id, Uuid::from_bytes(id.0));
        assert_eq!(topic.topic_authorized_operations, if version >= 8 { TOPIC_OPERATIONS } else { i32::MIN });
        assert_eq!(topic.partitions.len(), 3);
        for (index, partition) in (0..).zip(&topic.partitions) {
            assert_eq!((partition.error_code, partition.partition_index, partition.leader_id), (0, index, 1));
            assert_eq!((&partition.replica_nodes[..], &partition.isr_nodes[..]), (&[1][..], &[1][..]));
            assert!(partition.offline_replicas.is_empty());
            assert_eq!(partition.leader_epoch >= 0, version >= 7);
        }
        assert_eq!(cluster.asked, 0);
    }
}

#[test]
fn metadata_of_all_topics_and_of_none() {
    for version in versions(ApiKey::Metadata) {
        let mut cluster = Cluster::new();
        let mut request = MetadataRequest::default();
        request.topics = if version == 0 { Some(Vec::new()) } else { None };
        let mut names: Vec<String> =
            cluster.call(version, &request).topics.iter().map(|topic| topic.name.as_deref().unwrap().into()).collect();
        names.sort();
        assert_eq!(names, ["events", "other"]);
        if version > 0 {
            request.topics = Some(Vec::new());
            assert!(cluster.call(version, &request).topics.is_empty());
        }
    }
}

#[test]
fn metadata_by_topic_id() {
    for version in 12..=13 {
        let mut cluster = Cluster::new();
        let by_id = |id: TopicId| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = None;
            topic.topic_id = Uuid::from_bytes(id.0);
            topic
        };
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![by_id(cluster.topic_id("other")), by_id(TopicId([9; 16]))]);
        let response = cluster.call(version, &request);
        assert_eq!(response.topics[0].name.as_deref(), Some("other"));
        assert_eq!(response.topics[0].partitions.len(), 1);
        assert_eq!(response.topics[1].error_code, ErrorCode::UnknownTopicId.code());
        assert_eq!(response.topics[1].name, None);
        assert_eq!(response.topics[1].topic_id, Uuid::from_bytes([9; 16]));
    }
}

#[test]
fn metadata_creates_topics_and_answers_with_them() {
    for version in versions(ApiKey::Metadata) {
        let mut cluster = Cluster::new();
        let named = |name: &str| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some(name.into());
            topic
        };
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![named("fresh"), named("events"), named("a/b")]);
        let response = cluster.call(version, &request);
        let errors: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(errors, [0, 0, ErrorCode::InvalidTopicException.code()]);
        assert_eq!(response.topics[0].partitions.len(), 2, "num.partitions");
        assert_eq!(cluster.asked, 1);
        assert!(cluster.image().topic("fresh").is_some());

        if version >= 4 {
            request.allow_auto_topic_creation = false;
            request.topics = Some(vec![named("newer")]);
            let response = cluster.call(version, &request);
            assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
            assert_eq!(cluster.asked, 1);
        }
    }
}

#[test]
fn describe_cluster() {
    for version in versions(ApiKey::DescribeCluster) {
        for asked in [false, true] {
            let mut request = DescribeClusterRequest::default();
            request.include_cluster_authorized_operations = asked;
            request.include_fenced_brokers = version >= 2;
            let response = Cluster::new().call(version, &request);
            assert_eq!((response.error_code, response.controller_id), (0, 1));
            assert_eq!(&*response.cluster_id, "q6urq6urS6urq6urq6urqw");
            assert_eq!(response.cluster_authorized_operations, if asked { CLUSTER_OPERATIONS } else { i32::MIN });
            let broker = &response.brokers[0];
            assert_eq!((broker.broker_id, &*broker.host, broker.port), (1, "PLAINTEXT.host", 9092));
            assert_eq!((broker.rack.as_deref(), broker.is_fenced), (Some("rack-1"), false));
        }
    }
}

#[test]
fn fenced_brokers_are_shown_to_who_asks_for_them_and_lead_nothing() {
    let mut cluster = Cluster::new();
    cluster.start(2);
    cluster.fence(1);
    for version in versions(ApiKey::DescribeCluster) {
        for with_fenced in [false, version >= 2] {
            let mut request = DescribeClusterRequest::default();
            request.include_fenced_brokers = with_fenced;
            let response = cluster.call(version, &request);
            let brokers: Vec<_> = response.brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect();
            let expected = [(1, true), (2, false)];
            assert_eq!(brokers, expected[usize::from(!with_fenced)..], "version {version}");
            assert_eq!(response.controller_id, 2);
        }
    }
    let mut named = MetadataRequestTopic::default();
    named.name = Some("events".into());
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![named]);
    for version in versions(ApiKey::Metadata) {
        let response = cluster.call(version, &request);
        assert_eq!(response.brokers.iter().map(|broker| broker.node_id).collect::<Vec<_>>(), [2]);
        let partition = &response.topics[0].partitions[0];
        let not_available = ErrorCode::LeaderNotAvailable.code();
        assert_eq!((partition.error_code, partition.leader_id), (not_available, -1), "version {version}");
        let (replicas, offline): (&[i32], &[i32]) = (&[1], &[1]);
        assert_eq!(partition.replica_nodes, if version == 0 { &[] } else { replicas });
        assert_eq!(partition.offline_replicas, if version < 5 { &[] } else { offline });
    }
    let mut topic = TopicRequest::default();
    topic.name = "events".into();
    let mut request = DescribeTopicPartitionsRequest::default();
    request.topics = vec![topic];
    let partition = &cluster.call(0, &request).topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.leader_id), (ErrorCode::LeaderNotAvailable.code(), -1));
    assert_eq!(partition.offline_replicas, [1]);
}

#[test]
fn describe_topic_partitions_in_pages() {
    let mut cluster = Cluster::new();
    let mut request = DescribeTopicPartitionsRequest::default();
    request.response_partition_limit = 2;
    let mut pages = Vec::new();
    loop {
        let response = cluster.call(0, &request);
        for topic in &response.topics {
            assert_eq!(topic.error_code, 0);
            assert_eq!(topic.topic_authorized_operations, TOPIC_OPERATIONS);
            let name = topic.name.as_deref().unwrap().to_string();
            assert_eq!(topic.topic_id, Uuid::from_bytes(cluster.topic_id(&name).0));
            let partitions: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition_index).collect();
            assert!(topic.partitions.iter().all(|partition| partition.leader_id == 1
                && partition.leader_epoch >= 0
                && partition.isr_nodes == [1]
                && partition.eligible_leader_replicas.as_deref() == Some(&[])));
            pages.push((name, partitions));
        }
        let Some(next) = response.next_cursor else { break };
        let mut cursor = Cursor::default();
        cursor.topic_name = next.topic_name;
        cursor.partition_index = next.partition_index;
        request.cursor = Some(cursor);
    }
    assert_eq!(pages, [("events".into(), vec![0, 1]), ("events".into(), vec![2]), ("other".into(), vec![0])]);

    // The broker's own limit goes before the client's.
    cluster.file.insert("max.request.partition.size.limit".into(), "1".into());
    request.cursor = None;
    let response = cluster.call(0, &request);
    assert_eq!((response.topics.len(), response.topics[0].partitions.len()), (1, 1));
    assert_eq!(response.next_cursor.map(|cursor| cursor.partition_index), Some(1));
}

#[test]
fn describe_topic_partitions_by_name() {
    let mut cluster = Cluster::new();
    let mut request = DescribeTopicPartitionsRequest::default();
    request.response_partition_limit = i32::MAX;
    request.topics = ["other", "gone", "a/b", "other"]
        .map(|name| {
            let mut topic = TopicRequest::default();
            topic.name = name.into();
            topic
        })
        .to_vec();
    let response = cluster.call(0, &request);
    let topics: Vec<(&str, i16)> =
        response.topics.iter().map(|topic| (topic.name.as_deref().unwrap(), topic.error_code)).collect();
    assert_eq!(
        topics,
        [
            ("a/b", ErrorCode::InvalidTopicException.code()),
            ("gone", ErrorCode::UnknownTopicOrPartition.code()),
            ("other", 0)
        ]
    );
    assert_eq!(response.next_cursor, None);
}

#[test]
fn create_topics() {
    for version in versions(ApiKey::CreateTopics) {
        for validate_only in [true, false] {
            let mut cluster = Cluster::new();
            let mut topic = CreatableTopic::default();
            topic.name = "fresh".into();
            topic.num_partitions = 4;
            topic.replication_factor = 1;
            let mut config = CreatableTopicConfig::default();
            config.name = "max.message.bytes".into();
            config.value = Some("12345".into());
            topic.configs = vec![config];
            let mut existing = CreatableTopic::default();
            existing.name = "events".into();
            existing.num_partitions = 1;
            existing.replication_factor = 1;
            let mut request = CreateTopicsRequest::default();
            request.topics = vec![topic, existing];
            request.timeout_ms = 1000;
            request.validate_only = validate_only;
            let response = cluster.call(version, &request);

            let [fresh, existing] = &response.topics[..] else { panic!("{:?}", response.topics) };
            assert_eq!((&*fresh.name, fresh.error_code, fresh.error_message.as_deref()), ("fresh", 0, None));
            assert_eq!(cluster.image().topic("fresh").is_some(), !validate_only);
            if version >= 5 {
                assert_eq!((fresh.num_partitions, fresh.replication_factor), (4, 1));
                let configs = fresh.configs.as_ref().expect("never null without an error");
                let value = |name: &str| {
                    let config = configs.iter().find(|config| &*config.name == name).expect(name);
                    (config.value.as_deref().unwrap().to_string(), config.config_source)
                };
                assert_eq!(value("max.message.bytes"), ("12345".into(), 1));
                assert_eq!(value("retention.ms"), ("86400000".into(), 4));
                assert_eq!(value("cleanup.policy"), ("delete".into(), 5));
            }
            if version >= 7 && !validate_only {
                assert_eq!(fresh.topic_id, Uuid::from_bytes(cluster.topic_id("fresh").0));
            } else {
                assert!(fresh.topic_id.is_zero());
            }
            assert_eq!(existing.error_code, ErrorCode::TopicAlreadyExists.code());
            assert!(existing.error_message.is_some());
        }
    }
}

#[test]
fn delete_topics() {
    for version in versions(ApiKey::DeleteTopics) {
        let mut cluster = Cluster::new();
        let id = Uuid::from_bytes(cluster.topic_id("other").0);
        let mut request = DeleteTopicsRequest::default();
        request.timeout_ms = 1000;
        if version >= 6 {
            let mut by_name = DeleteTopicState::default();
            by_name.name = Some("events".into());
            let mut by_id = DeleteTopicState::default();
            by_id.name = None;
            by_id.topic_id = id;
            let mut unknown = by_id.clone();
            unknown.topic_id = Uuid::from_bytes([9; 16]);
            request.topics = vec![by_name, by_id, unknown];
        } else {
            request.topic_names = vec!["events".into(), "other".into(), "gone".into()];
        }
        let response = cluster.call(version, &request);
        let codes: Vec<i16> = response.responses.iter().map(|topic| topic.error_code).collect();
        let names: Vec<Option<&str>> = response.responses.iter().map(|topic| topic.name.as_deref()).collect();
        if version >= 6 {
            assert_eq!(codes, [0, 0, ErrorCode::UnknownTopicId.code()]);
            assert_eq!(names, [Some("events"), Some("other"), None]);
            assert_eq!(response.responses[1].topic_id, id);
        } else {
            assert_eq!(codes, [0, 0, ErrorCode::UnknownTopicOrPartition.code()]);
            assert_eq!(names, [Some("events"), Some("other"), Some("gone")]);
        }
        assert_eq!(response.responses[2].error_message.is_some(), version >= 5);
        assert_eq!(cluster.image().topics().count(), 0);
    }
}

#[test]
fn create_partitions() {
    for version in versions(ApiKey::CreatePartitions) {
        let mut cluster = Cluster::new();
        let mut grown = CreatePartitionsTopic::default();
        grown.name = "events".into();
        grown.count = 5;
        grown.assignments = None;
        let mut shrunk = grown.clone();
        shrunk.name = "other".into();
        shrunk.count = 1;
        let mut request = CreatePartitionsRequest::default();
        request.topics = vec![grown, shrunk];
        request.timeout_ms = 1000;
        let response = cluster.call(version, &request);
        assert_eq!(response.results[0].error_code, 0);
        assert_eq!(response.results[0].error_message, None);
        assert_eq!(response.results[1].error_code, ErrorCode::InvalidPartitions.code());
        assert!(response.results[1].error_message.is_some());
        assert_eq!(cluster.image().topic("events").unwrap().partitions.len(), 5);
    }
}

fn describe(
    cluster: &mut Cluster,
    version: i16,
    resource_type: i8,
    name: &str,
    keys: &[&str],
) -> Vec<DescribeConfigsResourceResult> {
    let mut resource = DescribeConfigsResource::default();
    resource.resource_type = resource_type;
    resource.resource_name = name.into();
    resource.configuration_keys =
        if keys.is_empty() { None } else { Some(keys.iter().map(|key| (*key).into()).collect()) };
    let mut request = DescribeConfigsRequest::default();
    // Named twice, answered once.
    request.resources = vec![resource.clone(), resource];
    request.include_synonyms = true;
    request.include_documentation = version >= 3;
    let mut response = cluster.call(version, &request);
    assert_eq!(response.results.len(), 1);
    let result = response.results.pop().unwrap();
    assert_eq!((result.error_code, result.error_message), (0, None));
    assert_eq!((result.resource_type, &*result.resource_name), (resource_type, name));
    result.configs
}

/// Name, value and source of each synonym.
fn synonyms(config: &DescribeConfigsResourceResult) -> Vec<(&str, Option<&str>, i8)> {
    config.synonyms.iter().map(|synonym| (&*synonym.name, synonym.value.as_deref(), synonym.source)).collect()
}

#[test]
fn describe_configs_of_a_topic() {
    for version in versions(ApiKey::DescribeConfigs) {
        let mut cluster = Cluster::new();
        let all = describe(&mut cluster, version, 2, "events", &[]);
        assert!(all.len() > 30);
        assert!(all.iter().all(|config| !config.read_only && !config.is_sensitive));
        if version >= 3 {
            assert!(all.iter().all(|config| config.config_type > 0 && config.documentation.is_some()));
        }

        let [retention] = &describe(&mut cluster, version, 2, "events", &["retention.ms", "nonsense"])[..] else {
            panic!("one configuration was asked for")
        };
        assert_eq!((&*retention.name, retention.value.as_deref()), ("retention.ms", Some("1000")));
        assert_eq!(retention.config_source, 1);
        assert_eq!(
            synonyms(retention),
            [
                ("retention.ms", Some("1000"), 1),
                ("log.retention.hours", Some("24"), 4),
                ("log.retention.hours", Some("168"), 5)
            ]
        );
        if version >= 3 {
            assert_eq!(retention.config_type, 5, "LONG");
        }

        let other = describe(&mut cluster, version, 2, "other", &["retention.ms", "max.message.bytes"]);
        let values: Vec<_> = other.iter().map(|config| (config.value.as_deref(), config.config_source)).collect();
        assert_eq!(values, [(Some("3000000"), 2), (Some("86400000"), 4)]);
    }
}

#[test]
fn describe_configs_of_the_broker() {
    for version in versions(ApiKey::DescribeConfigs) {
        let mut cluster = Cluster::new();
        let all = describe(&mut cluster, version, 4, "1", &[]);
        assert!(all.len() > 100);
        let find = |name: &str| all.iter().find(|config| &*config.name == name).expect(name);

        let size = find("message.max.bytes");
        assert_eq!((size.value.as_deref(), size.config_source, size.read_only), (Some("3000000"), 2, false));
        assert_eq!(
            synonyms(size),
            [
                ("message.max.bytes", Some("3000000"), 2),
                ("message.max.bytes", Some("2000000"), 3),
                ("message.max.bytes", Some("1048588"), 5)
            ]
        );
        let password = find("ssl.key.password");
        assert_eq!((password.value.as_deref(), password.is_sensitive), (None, true));
        assert!(password.synonyms.iter().all(|synonym| synonym.value.is_none()));
        let unset = find("log.retention.ms");
        assert_eq!((unset.value.as_deref(), unset.config_source), (None, 4));
        assert_eq!(synonyms(unset), [("log.retention.hours", Some("24"), 4), ("log.retention.hours", Some("168"), 5)]);
        assert_eq!(synonyms(find("log.retention.minutes")), []);
        assert!(find("node.id").read_only);
        let partitions = find("num.partitions");
        assert_eq!((partitions.value.as_deref(), partitions.config_source), (Some("2"), 4));
        let listener = find("listener.name.plaintext.ssl.keystore.location");
        assert_eq!((listener.value.as_deref(), listener.config_source), (Some("/k"), 4));

        // The resource without a name: what is set for all brokers at run time.
        let [only] = &describe(&mut cluster, version, 4, "", &[])[..] else { panic!("one is set") };
        assert_eq!((&*only.name, only.value.as_deref(), only.config_source), ("message.max.bytes", Some("2000000"), 3));
    }
}

#[test]
fn incremental_alter_configs() {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    for version in versions(ApiKey::IncrementalAlterConfigs) {
        for validate_only in [true, false] {
            let mut cluster = Cluster::new();
            let change = |name: &str, operation, value: Option<&str>| {
                let mut config = AlterableConfig::default();
                config.name = name.into();
                config.config_operation = operation;
                config.value = value.map(Into::into);
                config
            };
            let resource = |resource_type, name: &str, configs| {
                let mut resource = AlterConfigsResource::default();
                resource.resource_type = resource_type;
                resource.resource_name = name.into();
                resource.configs = configs;
                resource
            };
            let mut request = IncrementalAlterConfigsRequest::default();
            request.validate_only = validate_only;
            request.resources = vec![
                resource(
                    2,
                    "events",
                    vec![
                        change("retention.ms", 1, None),
                        change("cleanup.policy", 3, Some("compact")),
                        change("segment.bytes", 0, Some("1048576")),
                    ],
                ),
                resource(4, "", vec![change("message.max.bytes", 0, Some("4000000"))]),
                resource(16, "metrics", Vec::new()),
                resource(2, "gone", vec![change("retention.ms", 0, Some("1"))]),
                resource(4, "one", Vec::new()),
                resource(2, "a/b", Vec::new()),
            ];
            let response = cluster.call(version, &request);
            let results: Vec<_> = response
                .responses
                .iter()
                .map(|result| (result.resource_type, &*result.resource_name, result.error_code))
                .collect();
            let invalid = ErrorCode::InvalidRequest.code();
            assert_eq!(
                results,
                [
                    (2, "events", 0),
                    (4, "", 0),
                    (16, "metrics", invalid),
                    (2, "gone", ErrorCode::UnknownTopicOrPartition.code()),
                    (4, "one", invalid),
                    (2, "a/b", ErrorCode::InvalidTopicException.code())
                ]
            );
            let configs = &cluster.image().topic("events").unwrap().configs;
            if validate_only {
                assert_eq!(configs["retention.ms"], "1000");
            } else {
                assert!(!configs.contains_key("retention.ms"));
                assert_eq!((&*configs["cleanup.policy"], &*configs["segment.bytes"]), ("delete", "1048576"));
                assert_eq!(cluster.image().cluster_configs()["message.max.bytes"], "4000000");
            }
        }
    }
}

#[test]
fn alter_configs_replaces_all() {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    for version in versions(ApiKey::AlterConfigs) {
        let mut cluster = Cluster::new();
        let resource = |resource_type, name: &str, config: (&str, &str)| {
            let mut setting = AlterableConfig::default();
            setting.name = config.0.into();
            setting.value = Some(config.1.into());
            let mut resource = AlterConfigsResource::default();
            resource.resource_type = resource_type;
            resource.resource_name = name.into();
            resource.configs = vec![setting];
            resource
        };
        let mut request = AlterConfigsRequest::default();
        request.resources = vec![
            resource(2, "events", ("segment.ms", "60000")),
            resource(2, "other", ("segment.ns", "60000")),
            resource(32, "group", ("a", "b")),
        ];
        let response = cluster.call(version, &request);
        let codes: Vec<i16> = response.responses.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, ErrorCode::InvalidConfig.code(), ErrorCode::InvalidRequest.code()]);
        assert!(response.responses[1].error_message.as_deref().unwrap().contains("segment.ms"));
        let configs = &*cluster.image().topic("events").unwrap().configs;
        assert_eq!(*configs, [("segment.ms".to_string(), "60000".to_string())].into());
    }
}

/// Where a version has unknown tagged fields, they are skipped.
#[test]
fn unknown_tagged_fields_are_skipped() {
    let mut cluster = Cluster::new();
    let mut request = DescribeClusterRequest::default();
    request.unknown_tagged_fields =
        kafka_wire_core::TaggedFields::from_sorted(vec![kafka_wire_core::TaggedField::new(
            99,
            Bytes::from_static(b"from the future"),
        )])
        .unwrap();
    assert_eq!(cluster.call(1, &request).error_code, 0);
}
