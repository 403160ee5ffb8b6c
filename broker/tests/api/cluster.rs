//! A cluster of one node without its shards: the controller, on a disk that keeps nothing, and a client.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::{KafkaMessage, RequestResponsePair};
use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode};
use millstream::api::{self, ApiContext, CloseReason, Outcome};
use millstream::config::BrokerConfig;
use millstream::controller::{Asker, ControllerNode, Effect, Event};
use millstream::node::{Node, NodeMemory, NodeOptions, RANDOM_BYTES};
use millstream::protocol::header::{HeaderError, RequestHeader};
use millstream::protocol::versions::{ApiKey, Handler};
use millstream::protocol::wire::{Reader, Writer};
use millstream_replication::config::Properties;
use millstream_replication::controller::{ConfigChange, ConfigOperation, ConfigResource, NewTopic};
use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse, Endpoint, METADATA_VERSIONS};
use millstream_storage::{DiskError, DiskOp, DiskReply, Now, TopicId};

pub const NODE_ID: i32 = 1;
pub const LISTENER: &str = "PLAINTEXT";

const NOW: Now = Now { elapsed: Duration::ZERO, unix_ms: 1_700_000_000_000 };

/// A disk that is empty whatever is written.
fn keep_nothing(op: DiskOp) -> Result<DiskReply, DiskError> {
    match op {
        DiskOp::Read { .. } => Err(DiskError::NotFound),
        DiskOp::List { .. } => Ok(DiskReply::Names(Vec::new())),
        _ => Ok(DiskReply::Done),
    }
}

/// Why there is no reply.
#[derive(Debug, PartialEq, Eq)]
pub enum NoReply {
    Header(HeaderError),
    Body(CloseReason),
}

pub struct Cluster {
    controller: ControllerNode,
    pub file: Properties,
    /// Requests that went to the controller.
    pub asked: usize,
    next_id: u128,
}

impl Cluster {
    /// A registered broker and nothing else.
    pub fn empty(file: &[(&str, &str)]) -> Self {
        let config = BrokerConfig::load(None, &[]).expect("the defaults");
        let memory = NodeMemory { groups: 1 << 20, producers: 1 << 20 };
        let file: Properties = file.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let options = NodeOptions {
            node_id: NODE_ID,
            file: file.clone().into(),
            ..NodeOptions::new(&config, [NODE_ID as u8; 16], 1, memory, "/data".into(), 0)
        };
        let node = Node::recover(&mut keep_nothing, options, NOW, [0xab; RANDOM_BYTES]).expect("an empty disk");
        let mut cluster = Cluster { controller: node.controller, file, asked: 0, next_id: 1 };
        cluster.start(NODE_ID);
        cluster
    }

    /// With the topics `events` (3 partitions, configured) and `other` (1), and dynamic broker configurations.
    pub fn new() -> Self {
        let mut cluster = Cluster::empty(&[
            ("log.retention.hours", "24"),
            ("num.partitions", "2"),
            ("ssl.key.password", "secret"),
            ("listener.name.plaintext.ssl.keystore.location", "/k"),
        ]);
        cluster.create("events", 3, &[("retention.ms", "1000"), ("cleanup.policy", "compact,delete")]);
        cluster.create("other", 1, &[]);
        let set = |name: &str, value: &str| ConfigChange {
            name: name.into(),
            operation: ConfigOperation::Set,
            value: Some(value.into()),
        };
        cluster.decide(ControllerRequest::IncrementalAlterConfigs {
            resources: vec![
                (ConfigResource::Cluster, vec![set("message.max.bytes", "2000000")]),
                (ConfigResource::Broker(NODE_ID), vec![set("message.max.bytes", "3000000")]),
            ],
            validate_only: false,
        });
        cluster.asked = 0;
        cluster
    }

    /// A broker registers and is unfenced. It is reached through two listeners.
    pub fn start(&mut self, node_id: i32) {
        let endpoint =
            |listener: &str, port| Endpoint { listener: listener.into(), host: format!("{listener}.host"), port };
        let registration = ControllerRequest::RegisterBroker {
            node_id,
            incarnation: [node_id as u8; 16],
            directory_id: [node_id as u8; 16],
            shards: 1,
            endpoints: vec![endpoint(LISTENER, 9092), endpoint("OTHER", 9093)],
            rack: Some(format!("rack-{node_id}")),
            metadata_versions: METADATA_VERSIONS,
        };
        let registered = self.decide(registration);
        let ControllerResponse::RegisterBroker(Ok(epoch)) = registered else { panic!("{registered:?}") };
        let applied_offset = self.image().offset();
        let (want_fence, want_shutdown) = (false, false);
        let unfenced = self.decide(ControllerRequest::BrokerHeartbeat {
            node_id,
            epoch,
            applied_offset,
            want_fence,
            want_shutdown,
        });
        assert!(matches!(unfenced, ControllerResponse::BrokerHeartbeat(Ok(reply)) if !reply.is_fenced), "{unfenced:?}");
    }

    /// A broker is not heard of any more.
    pub fn fence(&mut self, node_id: i32) {
        let epoch = self.image().broker(node_id).expect("it is registered").epoch;
        let fenced = self.decide(ControllerRequest::FenceBroker { node_id, epoch });
        assert_eq!(fenced, ControllerResponse::FenceBroker(Ok(())));
    }

    pub fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let response = self.decide(ControllerRequest::CreateTopics {
            topics: vec![NewTopic {
                name: name.into(),
                partitions,
                replication_factor: 1,
                assignments: Vec::new(),
                configs: configs.iter().map(|(name, value)| (name.to_string(), Some(value.to_string()))).collect(),
            }],
            validate_only: false,
        });
        let ControllerResponse::CreateTopics(created) = response else { panic!("{response:?}") };
        assert!(created[0].1.is_ok(), "{created:?}");
    }

    pub fn topic_id(&self, name: &str) -> TopicId {
        self.image().topic(name).expect("a topic that was created").id
    }

    pub fn image(&self) -> &ClusterImage {
        self.controller.image()
    }

    /// Has the controller decide, and the one shard apply it at once.
    fn decide(&mut self, request: ControllerRequest) -> ControllerResponse {
        self.asked += 1;
        self.next_id += 1;
        let random = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
        let asked = Event::Asked { asker: Asker::Node { token: 0 }, request, random_id: random };
        let mut events = VecDeque::from([asked]);
        let mut answer = None;
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            self.controller.handle(NOW, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Disk { token, op } => events.push_back(Event::Disk { token, result: keep_nothing(op) }),
                    Effect::Publish { offset, .. } => events.push_back(Event::Applied { shard: 0, offset }),
                    Effect::Answer { response, .. } => answer = Some(response),
                    other => panic!("nothing goes wrong here: {other:?}"),
                }
            }
        }
        answer.expect("an answer")
    }

    /// One frame, as the shard treats it. Only for the APIs that are handled here.
    pub fn handle(&mut self, frame: Bytes) -> Result<Bytes, NoReply> {
        let (header, body) = RequestHeader::parse(frame).map_err(NoReply::Header)?;
        let Handler::Image(api) = header.api_key.handler() else { panic!("{header:?} is not handled here") };
        match api::handle(&self.context(), api, &header, body) {
            Outcome::Reply(frame) => Ok(frame),
            Outcome::Close(reason) => Err(NoReply::Body(reason)),
            Outcome::Controller { request, then } => {
                let response = self.decide(request);
                api::finish(&self.context(), then, response).map_err(NoReply::Body)
            }
        }
    }

    pub fn context(&self) -> ApiContext<'_> {
        ApiContext { image: self.image(), file: &self.file, node_id: NODE_ID, listener: LISTENER, controllers: None }
    }

    /// Sends a request and reads the reply, to the last byte.
    pub fn call<R>(&mut self, version: i16, request: &R) -> R::Response
    where
        R: RequestResponsePair + KafkaEncode,
        R::Response: KafkaMessage + KafkaDecode,
    {
        let reply = self.handle(frame(version, request)).expect("a reply");
        let mut reader = Reader::new(reply);
        assert_eq!(reader.i32().unwrap() as usize, reader.remaining(), "the frame's length");
        assert_eq!(reader.i32().unwrap(), CORRELATION_ID);
        let header = kafka_wire::response_header_version_for::<R>(ApiVersion::new(version)).unwrap();
        reader.tagged_fields(header == 1).unwrap();
        R::Response::decode_from_bytes(reader.into_rest(), ApiVersion::new(version), DecodeLimits::default())
            .unwrap_or_else(|error| panic!("{} version {version}: {error}", R::Response::NAME))
    }
}

const CORRELATION_ID: i32 = 0x0102_0304;

/// A whole request without its length, as the driver hands it over.
pub fn frame<R: RequestResponsePair + KafkaEncode>(version: i16, request: &R) -> Bytes {
    let key = ApiKey::from_wire(R::API_KEY.value()).expect("a served API");
    let mut writer = Writer::default();
    writer.i16(key as i16);
    writer.i16(version);
    writer.i32(CORRELATION_ID);
    writer.nullable_string(Some("test-client"), false);
    writer.no_tagged_fields(key.declaration().is_flexible(version));
    let mut body = BytesMut::new();
    request
        .encode_into(&mut body, ApiVersion::new(version))
        .unwrap_or_else(|error| panic!("{} version {version}: {error}", R::NAME));
    writer.raw(&body);
    writer.finish()
}
