//! Requests of the APIs outside the hot path, to the last byte of the reply. The first two bytes choose API and version.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use millstream::api::{self, ApiContext, Outcome};
use millstream::protocol::header::RequestHeader;
use millstream::protocol::versions::{ApiKey, Handler, SERVED};
use millstream_replication::config::Properties;
use millstream_replication::{ClusterImage, Controller, Endpoint, MetadataRecord, Partition};
use millstream_storage::{Now, TopicId};

use crate::Target;
use crate::memory::bounded;

pub const TARGET: Target = Target { name: "api", run, seeds };

/// An empty string takes 2 bytes on the wire and 32 in memory, in a structure of up to 200 with other fields, in a
/// vector; then once more in the reply, with an error message.
const MEMORY_PER_BYTE: usize = 512;
/// The largest reply to a small request: every configuration of the broker and of the topic, with synonyms and texts.
const REPLY_BYTES_MAX: usize = 2 << 20;

/// A number in a request may create as many partitions as the cluster may have, 100,000: each is a record of 88 bytes and
/// two lists, in a vector that may have twice the room.
const DECISION_BYTES_MAX: usize = 100_000 * 256;

/// One broker with the topic `t`.
static IMAGE: LazyLock<ClusterImage> = LazyLock::new(|| {
    let mut image = ClusterImage::new();
    let topic_id = TopicId([1; 16]);
    for record in [
        MetadataRecord::Cluster { cluster_id: [2; 16] },
        MetadataRecord::Node { node_id: 1 },
        MetadataRecord::Broker {
            node_id: 1,
            epoch: 1,
            endpoints: vec![Endpoint { listener: "L".into(), host: "h".into(), port: 9092 }],
            rack: None,
        },
        MetadataRecord::Topic { topic_id, name: "t".into() },
        MetadataRecord::Partition {
            topic_id,
            partition: 0,
            state: Partition { replicas: vec![1], isr: vec![1], leader: 1, leader_epoch: 0, partition_epoch: 0 },
        },
    ] {
        image.replay(&record);
    }
    image
});

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
    answer(&IMAGE, &header, Bytes::copy_from_slice(body));
}

fn answer(image: &ClusterImage, header: &RequestHeader, body: Bytes) {
    let file = Properties::new();
    let context = ApiContext { image, file: &file, node_id: 1, listener: "L" };
    let bytes_max = REPLY_BYTES_MAX + MEMORY_PER_BYTE * body.len();
    let Handler::Image(api) = header.api_key.handler() else { panic!("only such APIs are tried") };
    let reply = match bounded(bytes_max, || api::handle(&context, api, header, body)) {
        Outcome::Close(_) => return,
        Outcome::Reply(reply) => reply,
        Outcome::Controller { request, then } => {
            let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
            let decision = bounded(bytes_max + DECISION_BYTES_MAX, || {
                Controller::new(Properties::new()).handle(image, request, now, [7; 16])
            });
            let mut decided = image.clone();
            decision.records.iter().for_each(|record| decided.replay(record));
            let context = ApiContext { image: &decided, ..context };
            match bounded(bytes_max, || api::finish(&context, then, decision.response)) {
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
