//! What is configured, in the file and at run time, and what the process then does: what is set at run time takes effect at
//! once, survives a kill, and goes before what the file says.

mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use kafka_wire::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_wire::create_topics_request::CreatableTopic;
use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{
    AlterClientQuotasRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClientQuotasRequest,
    DescribeConfigsRequest, IncrementalAlterConfigsRequest, KafkaRequest, MetadataRequest, OutboundFrameLimits,
    RequestResponsePair,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode, StrBytes};
use process::{Broker, Data};

/// Every request is sent in the newest version, which is flexible.
fn call<R: KafkaRequest + RequestResponsePair>(stream: &mut TcpStream, version: i16, request: &R) -> R::Response {
    let mut frame = BytesMut::new();
    let client = Some(StrBytes::from("test"));
    let limits = OutboundFrameLimits::new(1 << 20);
    kafka_wire::encode_request(&mut frame, 7, client, request, ApiVersion::new(version), limits).expect("it fits");
    stream.write_all(&frame).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("answered");
    let mut response = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut response).expect("answered");
    assert_eq!(response[..5], [0, 0, 0, 7, 0]);
    let body = bytes::Bytes::from(response).slice(5..);
    let mut decoder = Decoder::new(body, DecodeLimits::default()).expect("small");
    R::Response::decode(&mut decoder, ApiVersion::new(version)).expect("a response")
}

fn connect(broker: &Broker) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", broker.port())).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream
}

/// Whether the broker closes a new connection at once.
fn is_refused(broker: &Broker) -> bool {
    let mut stream = connect(broker);
    // ApiVersions 0: whoever is let in is answered.
    match stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255]).and_then(|()| stream.read(&mut [0])) {
        Ok(read) => read == 0,
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "neither answered nor closed");
            true
        }
    }
}

/// Changes one configuration of a broker, or of all when the name is empty; returns the error code.
fn set(stream: &mut TcpStream, broker: &str, name: &str, value: &str) -> i16 {
    let mut config = AlterableConfig::default();
    config.name = name.into();
    config.value = Some(value.into());
    let mut resource = AlterConfigsResource::default();
    resource.resource_type = 4;
    resource.resource_name = broker.into();
    resource.configs = vec![config];
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    call(stream, 1, &request).responses[0].error_code
}

/// Value and source of each place that sets a configuration of broker 1.
fn synonyms(stream: &mut TcpStream, name: &str) -> Vec<(String, i8)> {
    let mut resource = DescribeConfigsResource::default();
    resource.resource_type = 4;
    resource.resource_name = "1".into();
    resource.configuration_keys = Some(vec![name.into()]);
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    request.include_synonyms = true;
    let response = call(stream, 4, &request);
    let config = &response.results[0].configs[0];
    assert!(!config.read_only);
    let synonyms = config.synonyms.iter();
    synonyms.map(|synonym| (synonym.value.as_deref().unwrap_or("").to_string(), synonym.source)).collect()
}

#[test]
fn limits_on_connections_change_at_once_and_outlive_the_process() {
    const NAME: &str = "max.connections.per.ip";
    const DYNAMIC_BROKER: i8 = 2;
    const DYNAMIC_CLUSTER: i8 = 3;
    const STATIC: i8 = 4;
    const DEFAULT: i8 = 5;
    let data = Data::new("dynamic");
    let start = || Broker::start(&[&data.log_dirs(), "millstream.shards=2", "max.connections.per.ip=100"]);
    let broker = start();
    let mut admin = connect(&broker);
    assert!(!is_refused(&broker));
    assert_eq!(set(&mut admin, "", NAME, "2"), 0);
    assert_eq!(set(&mut admin, "1", NAME, "1"), 0);
    assert!(is_refused(&broker), "one is connected already");
    assert_eq!(set(&mut admin, "", "num.partitions", "3"), 42, "read at the start only");
    assert_eq!(set(&mut admin, "", "max.connections.per.pi", "3"), 40, "no such name");
    assert_eq!(set(&mut admin, "", NAME, "few"), 40, "no number");
    assert_eq!(set(&mut admin, "7", NAME, "3"), 102, "no such broker");
    let mut quota = EntryData::default();
    let mut entity = EntityData::default();
    entity.entity_type = "client-id".into();
    entity.entity_name = Some("c".into());
    let mut op = OpData::default();
    op.key = "producer_byte_rate".into();
    op.value = 1024.0;
    quota.entity = vec![entity];
    quota.ops = vec![op];
    let mut request = AlterClientQuotasRequest::default();
    request.entries = vec![quota];
    assert_eq!(call(&mut admin, 1, &request).entries[0].error_code, 0);
    broker.signal("-KILL");

    drop(broker);
    let broker = start();
    let mut admin = connect(&broker);
    let expected = [("1", DYNAMIC_BROKER), ("2", DYNAMIC_CLUSTER), ("100", STATIC), ("2147483647", DEFAULT)];
    assert_eq!(synonyms(&mut admin, NAME), expected.map(|(value, source)| (value.to_string(), source)));
    assert!(is_refused(&broker));
    let quotas = call(&mut admin, 1, &DescribeClientQuotasRequest::default());
    let entries = quotas.entries.expect("no error");
    assert_eq!((entries.len(), entries[0].values[0].value), (1, 1024.0));
}

/// The error of a topic's metadata, which may create it.
fn metadata(stream: &mut TcpStream, name: &str) -> (i16, usize) {
    let mut topic = MetadataRequestTopic::default();
    topic.name = Some(name.into());
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![topic]);
    request.allow_auto_topic_creation = true;
    let response = call(stream, 12, &request);
    (response.topics[0].error_code, response.topics[0].partitions.len())
}

#[test]
fn what_the_file_says_of_topics_and_sockets_is_kept_to() {
    const UNKNOWN_TOPIC: i16 = 3;
    const TOPIC_DELETION_DISABLED: i16 = 73;
    let data = Data::new("kept");
    let broker = Broker::start(&[
        &data.log_dirs(),
        "auto.create.topics.enable=false",
        "delete.topic.enable=false",
        "num.partitions=3",
        "socket.request.max.bytes=1000",
        "connections.max.idle.ms=1500",
    ]);
    let mut client = connect(&broker);
    assert_eq!(metadata(&mut client, "t").0, UNKNOWN_TOPIC);
    let mut topic = CreatableTopic::default();
    topic.name = "t".into();
    topic.num_partitions = -1;
    topic.replication_factor = -1;
    let mut create = CreateTopicsRequest::default();
    create.topics = vec![topic];
    assert_eq!(call(&mut client, 7, &create).topics[0].error_code, 0);
    assert_eq!(metadata(&mut client, "t"), (0, 3));
    let mut topic = DeleteTopicState::default();
    topic.name = Some("t".into());
    let mut delete = DeleteTopicsRequest::default();
    delete.topics = vec![topic];
    assert_eq!(call(&mut client, 6, &delete).responses[0].error_code, TOPIC_DELETION_DISABLED);

    let mut large = connect(&broker);
    large.write_all(&1001i32.to_be_bytes()).expect("sent");
    assert_eq!(large.read(&mut [0]).expect("closed"), 0, "a request of more than socket.request.max.bytes");
    // Nothing more is said; the timeout of the read is longer than the broker's.
    assert_eq!(client.read(&mut [0]).expect("closed"), 0, "the connection is idle for too long");
}
