//! Requests of the APIs outside the hot path, to the last byte of the reply. `cargo +nightly fuzz run api`

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream::api::{self, ApiContext, Outcome};
use millstream::protocol::header::RequestHeader;
use millstream::protocol::versions::{ApiKey, SERVED};
use millstream_replication::config::Properties;
use millstream_replication::{ClusterImage, Controller, Endpoint, MetadataRecord, Partition};
use millstream_storage::{Now, TopicId};

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

fuzz_target!(|bytes: &[u8]| {
    // The first two bytes choose an API and a version, so that few inputs are wasted on others.
    let [api, version, body @ ..] = bytes else { return };
    let keys: Vec<ApiKey> = SERVED.iter().copied().filter(|key| api::handles(*key)).collect();
    let api_key = keys[usize::from(*api) % keys.len()];
    let declaration = api_key.declaration();
    let versions = declaration.version_max - declaration.version_min + 1;
    let header = RequestHeader {
        api_key,
        api_version: declaration.version_min + i16::from(*version) % versions,
        correlation_id: 1,
        client_id: None,
    };
    let file = Properties::new();
    let context = ApiContext { image: &IMAGE, file: &file, node_id: 1, listener: "L" };
    let reply = match api::handle(&context, &header, Bytes::copy_from_slice(body)) {
        Outcome::Close(_) => return,
        Outcome::Reply(reply) => reply,
        Outcome::Controller { request, then } => {
            let now = Now { elapsed: Duration::ZERO, unix_ms: 0 };
            let decision = Controller::new(Properties::new()).handle(&IMAGE, request, now, [7; 16]);
            let mut image = IMAGE.clone();
            for record in &decision.records {
                image.replay(record);
            }
            match api::finish(&ApiContext { image: &image, ..context }, then, decision.response) {
                Ok(reply) => reply,
                Err(_) => return,
            }
        }
    };
    assert_eq!(reply[..4], (reply.len() as u32 - 4).to_be_bytes());
});
