//! Requests that are answered with errors, or not at all.

use bytes::Bytes;
use kafka_wire::api_versions_request::ApiVersionsRequest;
use kafka_wire::api_versions_response::ApiVersionsResponse;
use kafka_wire::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use kafka_wire::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_wire::describe_cluster_request::DescribeClusterRequest;
use kafka_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_wire::describe_topic_partitions_request::{Cursor, DescribeTopicPartitionsRequest, TopicRequest};
use kafka_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, Uuid};
use millstream::api::{AUTO_CREATED_TOPICS_PER_REQUEST_MAX, ApiContext, Outcome, REQUEST_BYTES_MAX, handle};
use millstream::protocol::header::{HeaderError, RequestHeader};
use millstream::protocol::versions::{ApiKey, ImageApi, SERVED};
use millstream::protocol::wire::{Reader, Writer};
use millstream_replication::ErrorCode;

use super::cluster::{Cluster, NODE_ID, NoReply, frame};

fn named(name: &str) -> MetadataRequestTopic {
    let mut topic = MetadataRequestTopic::default();
    topic.name = Some(name.into());
    topic
}

#[test]
fn api_versions_of_an_unknown_version_is_answered_in_version_0() {
    for version in [-1, 5, 99, i16::MAX] {
        let mut writer = Writer::default();
        writer.i16(18);
        writer.i16(version);
        writer.i32(77);
        writer.raw(b"whatever that version holds");
        let reply = Cluster::new().handle(writer.finish()).unwrap();
        let mut reader = Reader::new(reply);
        assert_eq!(reader.i32().unwrap() as usize, reader.remaining());
        assert_eq!(reader.i32().unwrap(), 77);
        let response =
            ApiVersionsResponse::decode_from_bytes(reader.into_rest(), ApiVersion::new(0), DecodeLimits::default())
                .unwrap();
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
        assert_eq!(response.api_keys.len(), SERVED.len());
    }
}

#[test]
fn api_versions_wants_a_decent_software_name() {
    for (name, software_version) in [("", "1"), ("a", ""), ("-a", "1"), ("a b", "1"), ("a", "1.")] {
        let mut request = ApiVersionsRequest::default();
        request.client_software_name = name.into();
        request.client_software_version = software_version.into();
        for version in 3..=4 {
            let response = Cluster::new().call(version, &request);
            assert_eq!(response.error_code, ErrorCode::InvalidRequest.code());
            assert!(response.api_keys.is_empty());
        }
    }
}

#[test]
fn what_is_not_served_closes_the_connection() {
    let request = |key: i16, version: i16| {
        let mut writer = Writer::default();
        writer.i16(key);
        writer.i16(version);
        writer.i32(1);
        writer.nullable_string(None, false);
        writer.finish()
    };
    assert_eq!(
        Cluster::new().handle(request(9999, 0)),
        Err(NoReply::Header(HeaderError::UnknownApi { api_key: 9999 }))
    );
    for key in SERVED.iter().copied().filter(|key| *key != ApiKey::ApiVersions) {
        let versions = key.declaration().versions();
        for api_version in [versions.start() - 1, versions.end() + 1] {
            assert_eq!(
                Cluster::new().handle(request(key as i16, api_version)),
                Err(NoReply::Header(HeaderError::UnsupportedVersion { api_key: key, api_version }))
            );
        }
    }
}

#[test]
fn metadata_errors() {
    let mut cluster = Cluster::empty(&[("auto.create.topics.enable", "false")]);
    let mut request = MetadataRequest::default();
    let mut nameless = MetadataRequestTopic::default();
    nameless.name = None;
    request.topics = Some(vec![named("gone"), named(""), named("__consumer_offsets"), nameless.clone()]);
    let response = cluster.call(12, &request);
    let errors: Vec<_> = response.topics.iter().map(|topic| (topic.error_code, topic.is_internal)).collect();
    assert_eq!(
        errors,
        [
            (ErrorCode::UnknownTopicOrPartition.code(), false),
            (ErrorCode::InvalidTopicException.code(), false),
            (ErrorCode::UnknownTopicOrPartition.code(), true),
            (ErrorCode::InvalidRequest.code(), false),
        ]
    );
    // Versions 10 and 11 have topic ids, but do not take them.
    let mut by_id = named("gone");
    by_id.topic_id = Uuid::from_bytes([1; 16]);
    request.topics = Some(vec![nameless, by_id]);
    for version in 10..=11 {
        let response = cluster.call(version, &request);
        assert!(response.topics.iter().all(|topic| topic.error_code == ErrorCode::InvalidRequest.code()));
    }
    assert_eq!(cluster.asked, 2, "only what the broker registered with");
}

#[test]
fn metadata_passes_on_why_a_topic_was_not_created() {
    let mut cluster = Cluster::empty(&[("default.replication.factor", "3")]);
    cluster.create("a.b", 1, &[]);
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![named("fresh"), named("a_b")]);
    let response = cluster.call(9, &request);
    assert_eq!(response.topics[0].error_code, ErrorCode::InvalidReplicationFactor.code());
    assert_eq!(response.topics[1].error_code, ErrorCode::InvalidTopicException.code());
}

#[test]
fn one_metadata_request_creates_a_bounded_number_of_topics() {
    let mut cluster = Cluster::empty(&[]);
    let count = AUTO_CREATED_TOPICS_PER_REQUEST_MAX + 10;
    let mut request = MetadataRequest::default();
    request.topics = Some((0..count).map(|index| named(&format!("topic-{index}"))).collect());
    let response = cluster.call(9, &request);
    let created = response.topics.iter().filter(|topic| topic.error_code == 0).count();
    assert_eq!(created, AUTO_CREATED_TOPICS_PER_REQUEST_MAX);
    assert_eq!(cluster.image().topics().count(), AUTO_CREATED_TOPICS_PER_REQUEST_MAX);
    let last = response.topics.last().unwrap();
    assert_eq!(last.error_code, ErrorCode::UnknownTopicOrPartition.code());
    // The rest, when they are asked for again.
    assert!(cluster.call(9, &request).topics.iter().all(|topic| topic.error_code == 0));
}

#[test]
fn a_listener_without_brokers_has_no_leaders() {
    let cluster = Cluster::new();
    let context = ApiContext { listener: "NOBODY", ..cluster.context() };
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![named("other")]);
    let expected = [
        (0, ErrorCode::LeaderNotAvailable, vec![]),
        (5, ErrorCode::LeaderNotAvailable, vec![NODE_ID]),
        (6, ErrorCode::ListenerNotFound, vec![NODE_ID]),
        (13, ErrorCode::ListenerNotFound, vec![NODE_ID]),
    ];
    for (version, error, replicas) in expected {
        let (header, body) = RequestHeader::parse(frame(version, &request)).unwrap();
        let Outcome::Reply(reply) = handle(&context, ImageApi::Metadata, &header, body) else { panic!("a reply") };
        let skip = if version >= 9 { 9 } else { 8 };
        let response = kafka_wire::metadata_response::MetadataResponse::decode_from_bytes(
            reply.slice(skip..),
            ApiVersion::new(version),
            DecodeLimits::default(),
        )
        .unwrap();
        assert!(response.brokers.is_empty());
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id), (error.code(), -1));
        assert_eq!(partition.replica_nodes, replicas);
        assert_eq!(partition.offline_replicas.len(), usize::from(version >= 5));
    }
}

#[test]
fn describe_cluster_of_another_kind_of_endpoint() {
    for (endpoint_type, error) in [(2, ErrorCode::MismatchedEndpointType), (7, ErrorCode::UnsupportedEndpointType)] {
        let mut request = DescribeClusterRequest::default();
        request.endpoint_type = endpoint_type;
        let response = Cluster::new().call(1, &request);
        assert_eq!(response.error_code, error.code());
        assert!(response.brokers.is_empty() && response.error_message.is_some());
    }
}

#[test]
fn describe_topic_partitions_behind_the_end_and_before_the_start() {
    let mut cluster = Cluster::new();
    let mut request = DescribeTopicPartitionsRequest::default();
    let mut topic = TopicRequest::default();
    topic.name = "events".into();
    request.topics = vec![topic];
    request.response_partition_limit = -5;
    let mut cursor = Cursor::default();
    cursor.topic_name = "events".into();
    cursor.partition_index = i32::MAX;
    request.cursor = Some(cursor.clone());
    let response = cluster.call(0, &request);
    assert!(response.topics[0].partitions.is_empty() && response.next_cursor.is_none());

    // A cursor on a topic that was not asked for, or before its first partition.
    for (name, partition_index) in [("events", -1), ("exits", 0)] {
        cursor.topic_name = name.into();
        cursor.partition_index = partition_index;
        request.cursor = Some(cursor.clone());
        let response = cluster.call(0, &request);
        assert_eq!(response.topics[0].error_code, ErrorCode::InvalidRequest.code());
    }
    // Where every topic is asked for, the one that the cursor names may have been deleted since.
    request.topics.clear();
    let response = cluster.call(0, &request);
    assert_eq!(response.topics[0].name.as_deref(), Some("other"));
}

#[test]
fn create_topics_errors() {
    let topic = |name: &str, partitions, replication_factor| {
        let mut topic = CreatableTopic::default();
        topic.name = name.into();
        topic.num_partitions = partitions;
        topic.replication_factor = replication_factor;
        topic
    };
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![
        topic("events", 1, 1),
        topic("a b", 1, 1),
        topic("none", 0, 1),
        topic("many", 1, 3),
        topic("twice", 1, 1),
        topic("twice", 1, 1),
    ];
    let response = Cluster::new().call(7, &request);
    let errors: Vec<_> = response.topics.iter().map(|topic| (&*topic.name, topic.error_code)).collect();
    assert_eq!(
        errors,
        [
            ("events", ErrorCode::TopicAlreadyExists.code()),
            ("a b", ErrorCode::InvalidTopicException.code()),
            ("none", ErrorCode::InvalidPartitions.code()),
            ("many", ErrorCode::InvalidReplicationFactor.code()),
            ("twice", ErrorCode::InvalidRequest.code()),
        ]
    );
    assert!(response.topics.iter().all(|topic| topic.error_message.is_some()));
}

#[test]
fn delete_topics_errors() {
    let mut cluster = Cluster::new();
    let mut both = DeleteTopicState::default();
    both.name = Some("events".into());
    both.topic_id = Uuid::from_bytes(cluster.topic_id("events").0);
    let mut neither = DeleteTopicState::default();
    neither.name = None;
    for malformed in [both, neither] {
        let mut request = DeleteTopicsRequest::default();
        request.topics = vec![malformed];
        let response = cluster.call(6, &request);
        assert_eq!(response.responses[0].error_code, ErrorCode::InvalidRequest.code());
        assert!(cluster.image().topic("events").is_some());
    }

    let mut cluster = Cluster::empty(&[("delete.topic.enable", "false")]);
    cluster.create("kept", 1, &[]);
    for (version, error) in [(2, ErrorCode::InvalidRequest), (3, ErrorCode::TopicDeletionDisabled)] {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = vec!["kept".into()];
        let response = cluster.call(version, &request);
        assert_eq!(response.responses[0].error_code, error.code());
    }
    assert!(cluster.image().topic("kept").is_some());
}

#[test]
fn describe_configs_errors() {
    for (resource_type, name, error) in [
        (2, "gone", ErrorCode::UnknownTopicOrPartition),
        (2, "a/b", ErrorCode::InvalidTopicException),
        (2, "", ErrorCode::InvalidTopicException),
        (4, "2", ErrorCode::InvalidRequest),
        (4, "one", ErrorCode::InvalidRequest),
        (8, "1", ErrorCode::InvalidRequest),
        (0, "x", ErrorCode::InvalidRequest),
        (-1, "x", ErrorCode::InvalidRequest),
    ] {
        let mut resource = DescribeConfigsResource::default();
        resource.resource_type = resource_type;
        resource.resource_name = name.into();
        let mut request = DescribeConfigsRequest::default();
        request.resources = vec![resource];
        let response = Cluster::new().call(1, &request);
        let [result] = &response.results[..] else { panic!("one result") };
        assert_eq!(result.error_code, error.code(), "{resource_type} {name:?}");
        assert!(result.error_message.is_some() && result.configs.is_empty());
        assert_eq!((result.resource_type, &*result.resource_name), (resource_type, name));
    }
}

#[test]
fn a_body_that_cannot_be_read_closes_the_connection() {
    let whole = frame(7, &CreateTopicsRequest::default());
    let truncated = whole.slice(..whole.len() - 1);
    assert!(matches!(Cluster::new().handle(truncated), Err(NoReply::Body(_))));

    let mut writer = Writer::default();
    writer.raw(&frame(1, &MetadataRequest::default()));
    writer.raw(&vec![0; REQUEST_BYTES_MAX]);
    assert!(matches!(Cluster::new().handle(writer.finish()), Err(NoReply::Body(_))));

    // Bytes behind the last field are another matter: Kafka does not look at them either.
    let mut writer = Writer::default();
    writer.raw(&whole);
    writer.raw(b"more");
    assert!(Cluster::new().handle(writer.finish()).is_ok());
    assert!(Cluster::new().handle(Bytes::new()).is_err());
}
