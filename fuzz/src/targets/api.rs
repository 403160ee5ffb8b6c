//! Requests of the APIs outside the hot path, to the last byte of the reply. The first two bytes choose API and version.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use millstream::api::{self, ApiContext, Outcome};
use millstream::config::BrokerConfig;
use millstream::controller::{Asker, ControllerNode, Effect, Event};
use millstream::node::{Node, NodeMemory, NodeOptions, RANDOM_BYTES};
use millstream::protocol::header::RequestHeader;
use millstream::protocol::versions::{ApiKey, Handler, SERVED};
use millstream_replication::config::Properties;
use millstream_replication::controller::NewTopic;
use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse, Endpoint, METADATA_VERSIONS};
use millstream_storage::{DiskError, DiskOp, DiskReply, Now};

use crate::Target;
use crate::memory::bounded;

pub const TARGET: Target = Target { name: "api", run, seeds };

/// An empty string takes 2 bytes on the wire and 32 in memory, in a structure of up to 200 with other fields, in a
/// vector; then once more in the reply, with an error message.
const MEMORY_PER_BYTE: usize = 512;
/// The largest reply to a small request: every configuration of the broker and of the topic, with synonyms and texts.
const REPLY_BYTES_MAX: usize = 2 << 20;

/// A number in a request may create as many partitions as the cluster may have, 100,000: each is a record of 88 bytes and
/// two lists, in a vector that may have twice the room; then an entry of the log, and as much in the image.
const DECISION_BYTES_MAX: usize = 100_000 * 768;

/// The process that the broker is.
const INCARNATION: [u8; 16] = [1; 16];

const NOW: Now = Now { elapsed: Duration::ZERO, unix_ms: 0 };

/// What the controller of one broker with the topic `t` knows.
static IMAGE: LazyLock<ClusterImage> = LazyLock::new(|| controller().image().clone());

/// The controller of one broker with the topic `t`.
fn controller() -> ControllerNode {
    let config = BrokerConfig::load(None, &[]).expect("the defaults");
    let memory = NodeMemory { groups: 1 << 20, producers: 1 << 20 };
    let options = NodeOptions {
        node_id: 1,
        file: Properties::new().into(),
        ..NodeOptions::new(&config, INCARNATION, 1, memory, "/data".to_owned(), 0)
    };
    let mut controller =
        Node::recover(&mut keep_nothing, options, NOW, [2; RANDOM_BYTES]).expect("an empty disk").controller;
    let registration = ControllerRequest::RegisterBroker {
        node_id: 1,
        incarnation: INCARNATION,
        directory_id: [2; 16],
        shards: 1,
        endpoints: vec![Endpoint { listener: "L".into(), host: "h".into(), port: 9092 }],
        rack: None,
        metadata_versions: METADATA_VERSIONS,
    };
    let registered = decide(&mut controller, registration, [0; 16]);
    let ControllerResponse::RegisterBroker(Ok(epoch)) = registered else { panic!("{registered:?}") };
    let heartbeat = ControllerRequest::BrokerHeartbeat {
        node_id: 1,
        epoch,
        applied_offset: controller.image().offset(),
        want_fence: false,
        want_shutdown: false,
    };
    decide(&mut controller, heartbeat, [0; 16]);
    let topic = NewTopic {
        name: "t".into(),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    decide(&mut controller, ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false }, [1; 16]);
    controller
}

/// A disk that is empty whatever is written.
fn keep_nothing(op: DiskOp) -> Result<DiskReply, DiskError> {
    match op {
        DiskOp::Read { .. } => Err(DiskError::NotFound),
        DiskOp::List { .. } => Ok(DiskReply::Names(Vec::new())),
        _ => Ok(DiskReply::Done),
    }
}

/// Has a controller decide, and the one shard apply it at once.
fn decide(controller: &mut ControllerNode, request: ControllerRequest, random_id: [u8; 16]) -> ControllerResponse {
    let asked = Event::Asked { asker: Asker::Node { token: 0 }, request, random_id };
    let mut events = VecDeque::from([asked]);
    let mut answer = None;
    while let Some(event) = events.pop_front() {
        let mut effects = Vec::new();
        controller.handle(NOW, event, &mut effects);
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

fn keys() -> Vec<ApiKey> {
    SERVED.iter().copied().filter(|key| matches!(key.handler(), Handler::Image(_))).collect()
}

fn run(bytes: &[u8]) {
    let [api, version, body @ ..] = bytes else { return };
    let keys = keys();
    let api_key = keys[usize::from(*api) % keys.len()];
    let declaration = api_key.declaration();
    let versions = declaration.version_max - declaration.version_min + 1;
    let header = RequestHeader {
        api_key,
        api_version: declaration.version_min + i16::from(*version) % versions,
        correlation_id: 1,
        client_id: None,
    };
    answer(&header, Bytes::copy_from_slice(body));
}

fn answer(header: &RequestHeader, body: Bytes) {
    let file = Properties::new();
    let context = ApiContext { image: &IMAGE, file: &file, node_id: 1, listener: "L", controllers: None };
    let bytes_max = REPLY_BYTES_MAX + MEMORY_PER_BYTE * body.len();
    let Handler::Image(api) = header.api_key.handler() else { panic!("only such APIs are tried") };
    let reply = match bounded(bytes_max, || api::handle(&context, api, header, body)) {
        Outcome::Close(_) => return,
        Outcome::Reply(reply) => reply,
        Outcome::Controller { request, then } => {
            let mut controller = controller();
            let response = bounded(bytes_max + DECISION_BYTES_MAX, || decide(&mut controller, request, [7; 16]));
            let context = ApiContext { image: controller.image(), ..context };
            match bounded(bytes_max, || api::finish(&context, then, response)) {
                Ok(reply) => reply,
                Err(_) => return,
            }
        }
    };
    assert_eq!(reply[..4], (reply.len() as u32 - 4).to_be_bytes());
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (place, key) in keys().into_iter().enumerate() {
        for version in key.declaration().versions() {
            let body = super::requests::sample(key, version);
            let choice = [place as u8, (version - key.declaration().version_min) as u8];
            seeds.push([&choice, &body[..]].concat());
        }
    }
    seeds
}
