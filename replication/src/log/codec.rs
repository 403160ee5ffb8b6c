//! How metadata records are written, in the log and in snapshots: `docs/metadata-format.md`, "Records".
//!
//! Little-endian. A record is its type, the version of that type's layout, and its fields. Nothing is skipped: a type
//! or version that is not known is an error, because to leave out a record is to replay another history.

use millstream_storage::TopicId;

use crate::controller::REPLICAS_PER_PARTITION_MAX;
use crate::quota::{EntityName, QuotaEntity, QuotaValue};
use crate::reader::Reader;
use crate::record::{Broker, ConfigOwner, Endpoint, LevelRange, MetadataRecord, Partition};

const CLUSTER: u8 = 1;
/// Retired: the node that keeps this copy of the log, which [`crate::identity`] says since. Only read.
const NODE: u8 = 2;
const BROKER: u8 = 3;
const TOPIC: u8 = 4;
const PARTITION: u8 = 5;
const REMOVE_TOPIC: u8 = 6;
const CONFIG: u8 = 7;
const PRODUCER_IDS: u8 = 8;
const QUOTA: u8 = 9;
const BROKER_CHANGE: u8 = 10;
const UNREGISTER_BROKER: u8 = 11;
const METADATA_VERSION: u8 = 12;

/// The version that is written, of every type that has had one layout only.
const VERSION: u8 = 1;
/// The version of [`BROKER`] that is written. Version 1, which said neither which process has registered nor whether it
/// is fenced, is read: as a broker that is fenced until it registers again. So is version 2, which did not say what the process
/// reads: as one that reads the first level only.
const BROKER_VERSION: u8 = 3;

const OWNER_TOPIC: u8 = 1;
const OWNER_BROKER: u8 = 2;
const OWNER_CLUSTER: u8 = 3;

const ENTITY_CLIENT: u8 = 1;
const ENTITY_USER: u8 = 2;
const ENTITY_USER_CLIENT: u8 = 3;
const ENTITY_IP: u8 = 4;

impl MetadataRecord {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            MetadataRecord::Cluster { cluster_id } => {
                out.extend([CLUSTER, VERSION]);
                out.extend(cluster_id);
            }
            MetadataRecord::Broker(broker) => {
                out.extend([BROKER, BROKER_VERSION]);
                out.extend(broker.node_id.to_le_bytes());
                out.extend(broker.epoch.to_le_bytes());
                out.extend(broker.incarnation);
                out.extend(broker.directory_id);
                out.extend(broker.shards.to_le_bytes());
                out.extend(broker.metadata_versions.min.to_le_bytes());
                out.extend(broker.metadata_versions.max.to_le_bytes());
                out.extend([broker.is_fenced, broker.in_controlled_shutdown].map(u8::from));
                put_count(out, broker.endpoints.len());
                for endpoint in &broker.endpoints {
                    put_text(out, &endpoint.listener);
                    put_text(out, &endpoint.host);
                    out.extend(endpoint.port.to_le_bytes());
                }
                put_optional_text(out, broker.rack.as_deref());
            }
            MetadataRecord::BrokerChange { node_id, epoch, is_fenced, in_controlled_shutdown } => {
                out.extend([BROKER_CHANGE, VERSION]);
                out.extend(node_id.to_le_bytes());
                out.extend(epoch.to_le_bytes());
                out.extend([*is_fenced, *in_controlled_shutdown].map(u8::from));
            }
            MetadataRecord::UnregisterBroker { node_id, epoch } => {
                out.extend([UNREGISTER_BROKER, VERSION]);
                out.extend(node_id.to_le_bytes());
                out.extend(epoch.to_le_bytes());
            }
            MetadataRecord::Topic { topic_id, name } => {
                out.extend([TOPIC, VERSION]);
                out.extend(topic_id.0);
                put_text(out, name);
            }
            MetadataRecord::Partition { topic_id, partition, state } => {
                out.extend([PARTITION, VERSION]);
                out.extend(topic_id.0);
                out.extend(partition.to_le_bytes());
                put_numbers(out, &state.replicas);
                put_numbers(out, &state.isr);
                out.extend(state.leader.to_le_bytes());
                out.extend(state.leader_epoch.to_le_bytes());
                out.extend(state.partition_epoch.to_le_bytes());
            }
            MetadataRecord::RemoveTopic { topic_id } => {
                out.extend([REMOVE_TOPIC, VERSION]);
                out.extend(topic_id.0);
            }
            MetadataRecord::Config { owner, name, value } => {
                out.extend([CONFIG, VERSION]);
                match owner {
                    ConfigOwner::Topic(topic_id) => {
                        out.push(OWNER_TOPIC);
                        out.extend(topic_id.0);
                    }
                    ConfigOwner::Broker(node_id) => {
                        out.push(OWNER_BROKER);
                        out.extend(node_id.to_le_bytes());
                    }
                    ConfigOwner::Cluster => out.push(OWNER_CLUSTER),
                }
                put_text(out, name);
                put_optional_text(out, value.as_deref());
            }
            MetadataRecord::MetadataVersion { level } => {
                out.extend([METADATA_VERSION, VERSION]);
                out.extend(level.to_le_bytes());
            }
            MetadataRecord::ProducerIds { next } => {
                out.extend([PRODUCER_IDS, VERSION]);
                out.extend(next.to_le_bytes());
            }
            MetadataRecord::Quota { entity, key, value } => {
                out.extend([QUOTA, VERSION]);
                let (kind, names): (u8, &[&EntityName]) = match entity {
                    QuotaEntity::Client(client) => (ENTITY_CLIENT, &[client]),
                    QuotaEntity::User(user) => (ENTITY_USER, &[user]),
                    QuotaEntity::UserClient(user, client) => (ENTITY_USER_CLIENT, &[user, client]),
                    QuotaEntity::Ip(ip) => (ENTITY_IP, &[ip]),
                };
                out.push(kind);
                names.iter().for_each(|name| put_optional_text(out, name.as_deref()));
                put_text(out, key);
                match value {
                    Some(value) => {
                        out.push(1);
                        out.extend(value.get().to_le_bytes());
                    }
                    None => out.push(0),
                }
            }
        }
    }
}

/// Most bytes of the record of a partition: its type, version, topic and index; two lists of brokers; the leader and two epochs.
pub(crate) const PARTITION_BYTES_MAX: usize = 2 + 16 + 4 + 2 * (4 + 4 * REPLICAS_PER_PARTITION_MAX) + 3 * 4;

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("requests are bounded far below 2^32");
    out.extend(count.to_le_bytes());
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend(text.as_bytes());
}

fn put_optional_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => {
            out.push(1);
            put_text(out, text);
        }
        None => out.push(0),
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[i32]) {
    put_count(out, numbers.len());
    for number in numbers {
        out.extend(number.to_le_bytes());
    }
}

/// Records as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Those that an image is made of.
    pub records: Vec<MetadataRecord>,
    /// How many more there were, of retired types: they count in offsets and mean nothing any more.
    pub retired: u64,
    /// The node that a retired record names: whose copy of the log this was when it was written.
    pub node_id: Option<i32>,
}

impl Decoded {
    /// Records of all types.
    pub fn count(&self) -> u64 {
        self.records.len() as u64 + self.retired
    }

    /// Notes that a record names the node whose copy of the log this is.
    fn retire_node(&mut self, node_id: i32) -> Result<(), String> {
        self.retired += 1;
        match self.node_id.replace(node_id) {
            Some(known) if known != node_id => Err("the node's number changes".into()),
            _ => Ok(()),
        }
    }
}

/// Reads `count` records that fill `bytes` exactly. Memory follows the bytes that are there, never a count in them.
pub fn decode_records(count: u32, bytes: &[u8]) -> Result<Decoded, String> {
    let mut reader = Reader::new(bytes);
    let mut decoded = Decoded::default();
    for index in 0..count {
        reader.record(&mut decoded).map_err(|why| format!("record {index} of {count}: {why}"))?;
    }
    match reader.rest().len() {
        0 => Ok(decoded),
        left => Err(format!("{left} bytes follow the last of {count} records")),
    }
}

impl Reader<'_> {
    fn count(&mut self) -> Result<usize, String> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn optional_text(&mut self) -> Result<Option<String>, String> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            other => Err(format!("{other} where 0 or 1 says whether a text follows")),
        }
    }

    fn optional_quota_value(&mut self) -> Result<Option<QuotaValue>, String> {
        match self.byte()? {
            0 => Ok(None),
            1 => {
                let value = f64::from_le_bytes(self.array()?);
                QuotaValue::new(value).map(Some).ok_or_else(|| format!("{value} is no quota"))
            }
            other => Err(format!("{other} where 0 or 1 says whether a value follows")),
        }
    }

    fn numbers(&mut self) -> Result<Vec<i32>, String> {
        let count = self.count()?;
        let bytes = self.take(count.saturating_mul(4))?;
        Ok(bytes.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().expect("chunks of four"))).collect())
    }

    fn topic_id(&mut self) -> Result<TopicId, String> {
        self.array().map(TopicId)
    }

    fn level(&mut self) -> Result<i16, String> {
        self.array().map(i16::from_le_bytes)
    }

    fn levels(&mut self) -> Result<LevelRange, String> {
        let levels = LevelRange { min: self.level()?, max: self.level()? };
        levels.check().map(|()| levels)
    }

    fn broker(&mut self, version: u8) -> Result<Broker, String> {
        let known = Broker { node_id: self.i32()?, epoch: self.i64()?, is_fenced: true, ..Broker::default() };
        let mut broker = match version {
            VERSION => known,
            _ => Broker {
                incarnation: self.array()?,
                directory_id: self.array()?,
                shards: self.array().map(u32::from_le_bytes)?,
                metadata_versions: if version < BROKER_VERSION { LevelRange::default() } else { self.levels()? },
                is_fenced: self.flag()?,
                in_controlled_shutdown: self.flag()?,
                ..known
            },
        };
        for _ in 0..self.count()? {
            broker.endpoints.push(Endpoint {
                listener: self.text()?,
                host: self.text()?,
                port: u16::from_le_bytes(self.array()?),
            });
        }
        broker.rack = self.optional_text()?;
        Ok(broker)
    }

    fn record(&mut self, decoded: &mut Decoded) -> Result<(), String> {
        let [kind, version] = self.array()?;
        let version_max = if kind == BROKER { BROKER_VERSION } else { VERSION };
        if !(CLUSTER..=METADATA_VERSION).contains(&kind) || !(VERSION..=version_max).contains(&version) {
            return Err(format!("type {kind} version {version} is not known to this version of Millstream"));
        }
        decoded.records.push(match kind {
            CLUSTER => MetadataRecord::Cluster { cluster_id: self.array()? },
            NODE => return decoded.retire_node(self.i32()?),
            BROKER => MetadataRecord::Broker(self.broker(version)?),
            BROKER_CHANGE => MetadataRecord::BrokerChange {
                node_id: self.i32()?,
                epoch: self.i64()?,
                is_fenced: self.flag()?,
                in_controlled_shutdown: self.flag()?,
            },
            UNREGISTER_BROKER => MetadataRecord::UnregisterBroker { node_id: self.i32()?, epoch: self.i64()? },
            TOPIC => MetadataRecord::Topic { topic_id: self.topic_id()?, name: self.text()? },
            PARTITION => MetadataRecord::Partition {
                topic_id: self.topic_id()?,
                partition: self.i32()?,
                state: Partition {
                    replicas: self.numbers()?.into(),
                    isr: self.numbers()?.into(),
                    leader: self.i32()?,
                    leader_epoch: self.i32()?,
                    partition_epoch: self.i32()?,
                },
            },
            REMOVE_TOPIC => MetadataRecord::RemoveTopic { topic_id: self.topic_id()? },
            CONFIG => {
                let owner = match self.byte()? {
                    OWNER_TOPIC => ConfigOwner::Topic(self.topic_id()?),
                    OWNER_BROKER => ConfigOwner::Broker(self.i32()?),
                    OWNER_CLUSTER => ConfigOwner::Cluster,
                    other => return Err(format!("owner {other} of a configuration is not known")),
                };
                MetadataRecord::Config { owner, name: self.text()?, value: self.optional_text()? }
            }
            QUOTA => {
                let entity = match self.byte()? {
                    ENTITY_CLIENT => QuotaEntity::Client(self.optional_text()?),
                    ENTITY_USER => QuotaEntity::User(self.optional_text()?),
                    ENTITY_USER_CLIENT => QuotaEntity::UserClient(self.optional_text()?, self.optional_text()?),
                    ENTITY_IP => QuotaEntity::Ip(self.optional_text()?),
                    other => return Err(format!("entity {other} of a quota is not known")),
                };
                MetadataRecord::Quota { entity, key: self.text()?, value: self.optional_quota_value()? }
            }
            METADATA_VERSION => MetadataRecord::MetadataVersion { level: self.level()? },
            PRODUCER_IDS => MetadataRecord::ProducerIds { next: self.i64()? },
            _ => unreachable!("types that are not known were refused"),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{before_incarnations, before_levels, frozen, one_of_each, quotas, testdata};
    use millstream_storage::random::Random;

    fn encode(records: &[MetadataRecord]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record.encode(&mut bytes);
        }
        bytes
    }

    fn decoded(records: Vec<MetadataRecord>) -> Decoded {
        Decoded { records, ..Decoded::default() }
    }

    #[test]
    fn records_have_the_bytes_they_always_had() {
        let records = one_of_each();
        let bytes = encode(&records);
        frozen("records-broker-v3.bin", &bytes);
        assert_eq!(decode_records(records.len() as u32, &bytes), Ok(decoded(records)));
    }

    #[test]
    fn brokers_of_the_second_layout_are_read_as_ones_that_read_the_first_level() {
        let records = before_levels();
        let found = decode_records(records.len() as u32, &testdata("records-broker-v2.bin"));
        assert_eq!(found, Ok(decoded(records)));
    }

    #[test]
    fn levels_that_cannot_be_are_refused() {
        for (min, max) in [(0, 1), (2, 1), (-1, -1)] {
            let metadata_versions = LevelRange { min, max };
            let bytes = encode(&[MetadataRecord::Broker(Broker { metadata_versions, ..Broker::default() })]);
            assert!(decode_records(1, &bytes).is_err(), "{min} to {max}");
        }
    }

    #[test]
    fn brokers_of_the_first_layout_are_read_as_fenced_ones_of_no_process() {
        let records = before_incarnations();
        let found = decode_records(records.len() as u32, &testdata("records-v1.bin"));
        assert_eq!(found, Ok(decoded(records)));
    }

    #[test]
    fn records_that_name_a_node_are_read_and_not_written() {
        let records = before_incarnations();
        let found = decode_records(records.len() as u32 + 1, &testdata("records-v1-node.bin"));
        assert_eq!(found, Ok(Decoded { records, retired: 1, node_id: Some(1) }));
        let node = |node_id: i32| [&[NODE, VERSION][..], &node_id.to_le_bytes()].concat();
        assert!(decode_records(2, &[node(1), node(1)].concat()).is_ok());
        assert!(decode_records(2, &[node(1), node(2)].concat()).is_err());
    }

    #[test]
    fn quotas_have_the_bytes_they_always_had() {
        let records = quotas();
        let bytes = encode(&records);
        frozen("quotas-v1.bin", &bytes);
        assert_eq!(decode_records(records.len() as u32, &bytes), Ok(decoded(records)));
        for value in [0.0, -1.0, f64::NAN] {
            let mut bytes = vec![QUOTA, VERSION, ENTITY_CLIENT, 0, 0, 0, 0, 0, 1];
            bytes.extend(value.to_le_bytes());
            assert!(decode_records(1, &bytes).is_err());
        }
    }

    #[test]
    fn cut_records_are_refused() {
        let records = [one_of_each(), quotas()].concat();
        let bytes = encode(&records);
        for length in 0..bytes.len() {
            assert!(decode_records(records.len() as u32, &bytes[..length]).is_err());
        }
        assert!(decode_records(records.len() as u32 - 1, &bytes).is_err());
        assert!(decode_records(records.len() as u32 + 1, &bytes).is_err());
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_decode_to_something_else() {
        let records = [one_of_each(), quotas()].concat();
        let sound = encode(&records);
        // What is read in the first layout is written in the newest; nothing of the newest can be read as of the second.
        let is_old = |record: &MetadataRecord| matches!(record, MetadataRecord::Broker(b) if b.incarnation == [0; 16]);
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..=random.below(3) {
                let at = random.index(bytes.len());
                bytes[at] = random.next() as u8;
            }
            if let Ok(decoded) = decode_records(records.len() as u32, &bytes)
                && decoded.retired == 0
                && !decoded.records.iter().any(is_old)
            {
                assert_eq!(encode(&decoded.records), bytes);
            }
        }
        // Counts of four thousand million, of which nothing follows.
        for kind in (BROKER..=CONFIG).chain([QUOTA]) {
            let mut bytes = vec![kind, VERSION];
            bytes.extend([0xff; 64]);
            assert!(decode_records(u32::MAX, &bytes).is_err());
        }
        let mut bytes = vec![BROKER, BROKER_VERSION];
        bytes.extend([1; 50]);
        bytes.extend([0xff; 64]);
        assert!(decode_records(u32::MAX, &bytes).is_err());
    }
}
