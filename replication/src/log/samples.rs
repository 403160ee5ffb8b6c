//! What the tests of the formats share.

use millstream_storage::TopicId;

use crate::quota::{CONNECTION_CREATION_RATE, CONSUMER_BYTE_RATE, PRODUCER_BYTE_RATE, QuotaEntity, QuotaValue};
use crate::record::{Broker, ConfigOwner, Endpoint, LevelRange, MetadataRecord, NO_LEADER, Partition};

const TOPIC: TopicId = TopicId(0x0123_4567_89ab_4def_bedc_ba98_7654_3210u128.to_be_bytes());

/// A history with every type of record and every optional part of one, but quotas.
pub(crate) fn one_of_each() -> Vec<MetadataRecord> {
    let mut records = before_levels();
    for record in &mut records {
        if let MetadataRecord::Broker(broker) = record {
            broker.metadata_versions.max = 0x102 + broker.node_id as i16;
        }
    }
    records.push(MetadataRecord::MetadataVersion { level: 1 });
    records
}

/// The same, before brokers told what they read, as it is read now.
pub(crate) fn before_levels() -> Vec<MetadataRecord> {
    let mut first = true;
    let mut records = Vec::new();
    for record in before_incarnations() {
        let MetadataRecord::Broker(broker) = record else {
            records.push(record);
            continue;
        };
        let is_first = std::mem::take(&mut first);
        records.push(MetadataRecord::Broker(Broker {
            incarnation: *b"process of start",
            directory_id: *b"directory of it.",
            shards: 4,
            metadata_versions: LevelRange { min: 1, max: 1 },
            is_fenced: is_first,
            in_controlled_shutdown: !is_first,
            ..broker
        }));
    }
    records.extend([
        MetadataRecord::BrokerChange { node_id: 1, epoch: 3, is_fenced: false, in_controlled_shutdown: true },
        MetadataRecord::Partition {
            topic_id: TOPIC,
            partition: 0,
            state: Partition {
                replicas: [2, 1].into(),
                isr: [2].into(),
                leader: NO_LEADER,
                leader_epoch: 2,
                partition_epoch: 5,
            },
        },
        MetadataRecord::UnregisterBroker { node_id: 2, epoch: 4 },
    ]);
    records
}

/// A history with every type of record that there was before brokers told which process they are, as it is read now.
pub(crate) fn before_incarnations() -> Vec<MetadataRecord> {
    let topic_id = TOPIC;
    let gone = TopicId([7; 16]);
    let config = |owner, name: &str, value: Option<&str>| MetadataRecord::Config {
        owner,
        name: name.into(),
        value: value.map(str::to_string),
    };
    let partition = |replicas: &[i32], leader_epoch| MetadataRecord::Partition {
        topic_id,
        partition: 0,
        state: Partition {
            replicas: replicas.into(),
            isr: replicas[..1].into(),
            leader: replicas[0],
            leader_epoch,
            partition_epoch: leader_epoch + 3,
        },
    };
    vec![
        MetadataRecord::Cluster { cluster_id: *b"0123456789abcdef" },
        MetadataRecord::Broker(Broker {
            node_id: 1,
            epoch: 3,
            is_fenced: true,
            endpoints: vec![
                Endpoint { listener: "PLAINTEXT".into(), host: "127.0.0.1".into(), port: 9092 },
                Endpoint { listener: "OUTSIDE".into(), host: "münster.example".into(), port: 65535 },
            ],
            rack: Some("r1".into()),
            ..Broker::default()
        }),
        MetadataRecord::Broker(Broker { node_id: 2, epoch: 4, is_fenced: true, ..Broker::default() }),
        MetadataRecord::Topic { topic_id, name: "orders.v1".into() },
        partition(&[1, 2], 0),
        partition(&[2, 1], 1),
        MetadataRecord::Topic { topic_id: gone, name: "gone".into() },
        MetadataRecord::RemoveTopic { topic_id: gone },
        config(ConfigOwner::Topic(topic_id), "retention.ms", Some("-1")),
        config(ConfigOwner::Broker(2), "log.cleaner.threads", Some("2")),
        config(ConfigOwner::Cluster, "message.max.bytes", Some("")),
        config(ConfigOwner::Cluster, "log.retention.ms", None),
        MetadataRecord::ProducerIds { next: 4000 },
    ]
}

/// Quotas of every kind of entity, with and without a name, set and removed.
pub(crate) fn quotas() -> Vec<MetadataRecord> {
    let quota = |entity, key: &str, value| MetadataRecord::Quota {
        entity,
        key: key.into(),
        value: Option::and_then(value, QuotaValue::new),
    };
    let name = |text: &str| Some(text.to_string());
    vec![
        quota(QuotaEntity::Client(name("reports")), PRODUCER_BYTE_RATE, Some(1_048_576.0)),
        quota(QuotaEntity::Client(None), CONSUMER_BYTE_RATE, Some(2_048.0)),
        quota(QuotaEntity::User(name("münchen")), "request_percentage", Some(12.5)),
        quota(QuotaEntity::User(None), PRODUCER_BYTE_RATE, Some(1.0)),
        quota(QuotaEntity::UserClient(name("u"), None), "controller_mutation_rate", Some(0.1)),
        quota(QuotaEntity::UserClient(None, name("c")), CONSUMER_BYTE_RATE, Some(f64::MAX)),
        quota(QuotaEntity::Ip(name("10.0.0.1")), CONNECTION_CREATION_RATE, Some(100.0)),
        quota(QuotaEntity::Ip(None), CONNECTION_CREATION_RATE, Some(7.0)),
        quota(QuotaEntity::Client(None), CONSUMER_BYTE_RATE, None),
    ]
}

/// Compares with the bytes that a format had when it was first written. They never change: a new layout gets a new
/// version and a new file.
pub(crate) fn frozen(name: &str, bytes: &[u8]) {
    assert!(testdata(name) == bytes, "{name}: the format has changed");
}

/// The frozen bytes of this name.
pub(crate) fn testdata(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}
