//! The cluster image: all that is known of the cluster, as the replay of the metadata log. Every shard holds one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use millstream_storage::TopicId;

use crate::config::{Properties, TopicSettings, topic_settings};
use crate::quota::{ClientQuotas, QUOTA_VALUES_PER_CLUSTER_MAX, check_key};
use crate::record::{ConfigOwner, Endpoint, MetadataRecord, Partition};
use crate::topic_name;

/// Most partitions of one cluster.
pub const PARTITIONS_PER_CLUSTER_MAX: usize = 100_000;

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub node_id: i32,
    /// Grows with every start of the broker.
    pub epoch: i64,
    /// Where it is reached, one for each listener.
    pub endpoints: Vec<Endpoint>,
    /// The rack it stands in.
    pub rack: Option<String>,
}

impl Broker {
    /// Where it is reached under this listener.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub id: TopicId,
    /// Its partitions, by index.
    pub partitions: Vec<Partition>,
    /// What was configured for it.
    pub configs: Properties,
    /// Brokers keep it for themselves.
    pub internal: bool,
}

impl Topic {
    /// The partition of this index.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// All that is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterImage {
    offset: u64,
    cluster_id: Option<[u8; 16]>,
    brokers: BTreeMap<i32, Broker>,
    /// Topics in places that stay while the topic exists, so that both maps lead to one in a single step.
    topics: Vec<Option<Topic>>,
    free_places: Vec<usize>,
    place_by_name: HashMap<Arc<str>, usize>,
    place_by_id: HashMap<TopicId, usize>,
    /// Only for names that contain `.` or `_`. The three maps are only looked into: their order differs from process to
    /// process and must reach nobody.
    place_by_collision: HashMap<String, usize>,
    partition_count: usize,
    broker_configs: BTreeMap<i32, Properties>,
    cluster_configs: Properties,
    quotas: ClientQuotas,
    next_producer_id: i64,
}

static NO_PROPERTIES: Properties = Properties::new();

impl ClusterImage {
    /// The image of a cluster about which nothing is known yet.
    pub fn new() -> Self {
        ClusterImage::default()
    }

    /// The offset of the last record replayed; the first record has offset 1, so 0 means none.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The cluster's identity, as clients see it: 22 characters of URL-safe base64. Empty before the first record.
    pub fn cluster_id(&self) -> String {
        self.cluster_id.map(|id| TopicId(id).to_base64()).unwrap_or_default()
    }

    /// The cluster's identity; none before the first record.
    pub fn cluster(&self) -> Option<[u8; 16]> {
        self.cluster_id
    }

    /// The registered brokers, by their numbers.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Broker> {
        self.brokers.values()
    }

    /// The broker of this number.
    pub fn broker(&self, node_id: i32) -> Option<&Broker> {
        self.brokers.get(&node_id)
    }

    /// The broker that acts as the controller towards clients: the lowest number.
    pub fn controller_id(&self) -> Option<i32> {
        self.brokers.keys().next().copied()
    }

    /// Every topic, in no particular order; the order is the same for the same history.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().flatten()
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics[*self.place_by_name.get(name)?].as_ref()
    }

    /// The topic of this identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.topics[*self.place_by_id.get(&id)?].as_ref()
    }

    /// A topic whose name differs from this one in `.` and `_` only.
    pub fn colliding_topic(&self, name: &str) -> Option<&Topic> {
        let place = *self.place_by_collision.get(&topic_name::colliding(name)?)?;
        self.topics[place].as_ref()
    }

    /// Partitions of all topics together; at most [`PARTITIONS_PER_CLUSTER_MAX`].
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// What was configured at run time for one broker.
    pub fn broker_configs(&self, node_id: i32) -> &Properties {
        self.broker_configs.get(&node_id).unwrap_or(&NO_PROPERTIES)
    }

    /// What was configured at run time for all brokers.
    pub fn cluster_configs(&self) -> &Properties {
        &self.cluster_configs
    }

    /// What clients may use.
    pub fn quotas(&self) -> &ClientQuotas {
        &self.quotas
    }

    /// Where a broker's configurations come from, the highest precedence first: its own and the cluster's dynamic
    /// ones, then those of its file.
    pub fn config_layers<'a>(&'a self, node_id: i32, file: &'a Properties) -> [&'a Properties; 3] {
        [self.broker_configs(node_id), self.cluster_configs(), file]
    }

    /// What a topic's configuration means on a broker that was started with `file`.
    pub fn topic_settings(&self, topic: &Topic, node_id: i32, file: &Properties) -> TopicSettings {
        topic_settings(&topic.configs, &self.config_layers(node_id, file))
    }

    /// The first producer id that was not handed out.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Whether the record may follow what was replayed; if not, why. A log whose checksums are right and whose records
    /// are refused here was written by something else than this controller.
    pub fn check(&self, record: &MetadataRecord) -> Result<(), String> {
        match record {
            MetadataRecord::Cluster { cluster_id } => match self.cluster_id {
                Some(known) if known != *cluster_id => Err("the cluster's identity changes".into()),
                _ => Ok(()),
            },
            MetadataRecord::Broker { node_id, epoch, .. } => match self.brokers.get(node_id) {
                Some(known) if known.epoch >= *epoch => {
                    Err(format!("the epoch of broker {node_id} goes from {} to {epoch}", known.epoch))
                }
                _ => Ok(()),
            },
            MetadataRecord::Topic { topic_id, name } => {
                if self.place_by_id.contains_key(topic_id) {
                    Err(format!("topic id {} is there already", topic_id.to_base64()))
                } else if self.topic(name).is_some() {
                    Err(format!("topic {name} is there already"))
                } else {
                    topic_name::check(name)
                }
            }
            MetadataRecord::Partition { topic_id, partition, state } => {
                let Some(topic) = self.topic_by_id(*topic_id) else {
                    return Err(format!("topic id {} is unknown", topic_id.to_base64()));
                };
                let name = &topic.name;
                state.check().map_err(|why| format!("{name}-{partition}: {why}"))?;
                match topic.partition(*partition) {
                    Some(known) if state.leader_epoch < known.leader_epoch => Err(format!(
                        "the leader epoch of {name}-{partition} goes from {} to {}",
                        known.leader_epoch, state.leader_epoch
                    )),
                    Some(known) if state.partition_epoch <= known.partition_epoch => Err(format!(
                        "the partition epoch of {name}-{partition} goes from {} to {}",
                        known.partition_epoch, state.partition_epoch
                    )),
                    Some(_) => Ok(()),
                    None if usize::try_from(*partition) != Ok(topic.partitions.len()) => {
                        Err(format!("{name}-{partition} is not the next of {} partitions", topic.partitions.len()))
                    }
                    None if self.partition_count >= PARTITIONS_PER_CLUSTER_MAX => {
                        Err(format!("there are more than {PARTITIONS_PER_CLUSTER_MAX} partitions"))
                    }
                    None => Ok(()),
                }
            }
            MetadataRecord::RemoveTopic { topic_id } => self.check_topic(*topic_id),
            MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => self.check_topic(*topic_id),
            MetadataRecord::Config { .. } => Ok(()),
            MetadataRecord::Quota { entity, key, value } => {
                check_key(entity, key)?;
                let is_new = value.is_some() && self.quotas.value(entity, key).is_none();
                if is_new && self.quotas.len() >= QUOTA_VALUES_PER_CLUSTER_MAX {
                    return Err(format!("there are more than {QUOTA_VALUES_PER_CLUSTER_MAX} quotas"));
                }
                Ok(())
            }
            MetadataRecord::ProducerIds { next } if *next < self.next_producer_id => {
                Err(format!("producer ids go back from {} to {next}", self.next_producer_id))
            }
            MetadataRecord::ProducerIds { .. } => Ok(()),
        }
    }

    fn check_topic(&self, topic_id: TopicId) -> Result<(), String> {
        match self.topic_by_id(topic_id) {
            Some(_) => Ok(()),
            None => Err(format!("topic id {} is unknown", topic_id.to_base64())),
        }
    }

    /// Applies one committed record. Nothing else changes an image.
    ///
    /// Panics when [`ClusterImage::check`] refuses the record: whoever reads records from outside has asked it.
    pub fn replay(&mut self, record: &MetadataRecord) {
        if let Err(why) = self.check(record) {
            panic!("metadata record after offset {}: {why}", self.offset);
        }
        self.offset += 1;
        match record {
            MetadataRecord::Cluster { cluster_id } => self.cluster_id = Some(*cluster_id),
            MetadataRecord::Broker { node_id, epoch, endpoints, rack } => {
                let broker =
                    Broker { node_id: *node_id, epoch: *epoch, endpoints: endpoints.clone(), rack: rack.clone() };
                self.brokers.insert(*node_id, broker);
            }
            MetadataRecord::Topic { topic_id, name } => self.add_topic(*topic_id, name),
            MetadataRecord::Partition { topic_id, partition, state } => {
                self.set_partition(*topic_id, *partition, state);
            }
            MetadataRecord::RemoveTopic { topic_id } => self.remove_topic(*topic_id),
            MetadataRecord::Config { owner, name, value } => {
                self.set_config(*owner, name, value.as_deref());
            }
            MetadataRecord::Quota { entity, key, value } => self.quotas.set(entity, key, *value),
            MetadataRecord::ProducerIds { next } => self.next_producer_id = *next,
        }
    }

    fn set_partition(&mut self, topic_id: TopicId, index: i32, state: &Partition) {
        let topic = self.topic_mut(topic_id);
        let index = index as usize;
        match topic.partitions.get_mut(index) {
            Some(known) => {
                let before = (known.leader_epoch, known.partition_epoch);
                known.clone_from(state);
                let after = (known.leader_epoch, known.partition_epoch);
                assert!(before.0 <= after.0 && before.1 < after.1, "epochs grow: {before:?} to {after:?}");
            }
            None => {
                topic.partitions.push(state.clone());
                assert_eq!(topic.partitions.len(), index + 1, "partitions are created in order");
                self.partition_count += 1;
                assert!(self.partition_count <= PARTITIONS_PER_CLUSTER_MAX, "a cluster of bounded size");
            }
        }
        let known = &self.topic_mut(topic_id).partitions[index];
        assert_eq!(known.check(), Ok(()), "what every partition is");
    }

    /// Passes over records that were committed and mean nothing to an image any more: those of retired types.
    pub(crate) fn pass_over(&mut self, records: u64) {
        self.offset += records;
    }

    fn topic_mut(&mut self, topic_id: TopicId) -> &mut Topic {
        let place = self.place_by_id[&topic_id];
        self.topics[place].as_mut().expect("a place in use")
    }

    fn add_topic(&mut self, id: TopicId, name: &str) {
        let name: Arc<str> = name.into();
        let place = self.free_places.pop().unwrap_or_else(|| {
            self.topics.push(None);
            self.topics.len() - 1
        });
        self.place_by_name.insert(name.clone(), place);
        self.place_by_id.insert(id, place);
        if let Some(colliding) = topic_name::colliding(&name) {
            self.place_by_collision.insert(colliding, place);
        }
        self.topics[place] = Some(Topic {
            internal: topic_name::is_internal(&name),
            name,
            id,
            partitions: Vec::new(),
            configs: Properties::new(),
        });
    }

    fn remove_topic(&mut self, id: TopicId) {
        let place = self.place_by_id.remove(&id).expect("a topic that was checked");
        let topic = self.topics[place].take().expect("a place in use");
        self.place_by_name.remove(&topic.name);
        if let Some(colliding) = topic_name::colliding(&topic.name) {
            self.place_by_collision.remove(&colliding);
        }
        self.partition_count -= topic.partitions.len();
        self.free_places.push(place);
    }

    fn set_config(&mut self, owner: ConfigOwner, name: &str, value: Option<&str>) {
        let properties = match owner {
            ConfigOwner::Topic(topic_id) => &mut self.topic_mut(topic_id).configs,
            ConfigOwner::Broker(node_id) => self.broker_configs.entry(node_id).or_default(),
            ConfigOwner::Cluster => &mut self.cluster_configs,
        };
        match value {
            Some(value) => {
                properties.insert(name.to_string(), value.to_string());
            }
            None => {
                properties.remove(name);
            }
        }
        if let ConfigOwner::Broker(node_id) = owner
            && self.broker_configs(node_id).is_empty()
        {
            self.broker_configs.remove(&node_id);
        }
    }

    /// The records that make this image out of an empty one, in an order that depends on nothing but its contents.
    pub fn snapshot(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if let Some(cluster_id) = self.cluster_id {
            records.push(MetadataRecord::Cluster { cluster_id });
        }
        for broker in self.brokers() {
            records.push(MetadataRecord::Broker {
                node_id: broker.node_id,
                epoch: broker.epoch,
                endpoints: broker.endpoints.clone(),
                rack: broker.rack.clone(),
            });
        }
        let configs = |owner: ConfigOwner, properties: &Properties| -> Vec<MetadataRecord> {
            properties
                .iter()
                .map(|(name, value)| MetadataRecord::Config { owner, name: name.clone(), value: Some(value.clone()) })
                .collect()
        };
        records.extend(configs(ConfigOwner::Cluster, &self.cluster_configs));
        for (node_id, properties) in &self.broker_configs {
            records.extend(configs(ConfigOwner::Broker(*node_id), properties));
        }
        let mut topics: Vec<&Topic> = self.topics().collect();
        topics.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        for topic in topics {
            let topic_id = topic.id;
            records.push(MetadataRecord::Topic { topic_id, name: topic.name.to_string() });
            for (partition, state) in (0..).zip(&topic.partitions) {
                records.push(MetadataRecord::Partition { topic_id, partition, state: state.clone() });
            }
            records.extend(configs(ConfigOwner::Topic(topic_id), &topic.configs));
        }
        for (entity, values) in self.quotas.iter() {
            records.extend(values.iter().map(|(key, value)| MetadataRecord::Quota {
                entity: entity.clone(),
                key: (*key).to_string(),
                value: Some(*value),
            }));
        }
        if self.next_producer_id > 0 {
            records.push(MetadataRecord::ProducerIds { next: self.next_producer_id });
        }
        records
    }

    /// The image that these records of a snapshot make, taken after the record at `offset`.
    pub fn from_snapshot(offset: u64, records: &[MetadataRecord]) -> Result<Self, String> {
        let mut image = ClusterImage::new();
        for record in records {
            image.check(record)?;
            image.replay(record);
        }
        if image.offset > offset {
            return Err(format!("a snapshot at offset {offset} holds {} records", records.len()));
        }
        image.offset = offset;
        Ok(image)
    }
}

/// Two images are equal when they hold the same, however they came to it.
impl PartialEq for ClusterImage {
    fn eq(&self, other: &Self) -> bool {
        self.offset == other.offset && self.snapshot() == other.snapshot()
    }
}

impl Eq for ClusterImage {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker_ids::BrokerIds;

    fn partition(leader_epoch: i32, partition_epoch: i32) -> Partition {
        Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch, partition_epoch }
    }

    fn topic(id: u8, name: &str) -> MetadataRecord {
        MetadataRecord::Topic { topic_id: TopicId([id; 16]), name: name.into() }
    }

    fn add_partition(id: u8, partition: i32, state: Partition) -> MetadataRecord {
        MetadataRecord::Partition { topic_id: TopicId([id; 16]), partition, state }
    }

    #[test]
    fn topics_are_found_by_name_and_id_until_they_are_removed() {
        let mut image = ClusterImage::new();
        image.replay(&topic(1, "a.b"));
        image.replay(&add_partition(1, 0, partition(0, 0)));
        image.replay(&add_partition(1, 1, partition(0, 0)));
        image.replay(&topic(2, "c"));
        assert_eq!(image.topic("a.b").unwrap().partitions.len(), 2);
        assert_eq!(&*image.topic_by_id(TopicId([2; 16])).unwrap().name, "c");
        assert_eq!(&*image.colliding_topic("a_b").unwrap().name, "a.b");
        assert_eq!(image.partition_count(), 2);
        assert_eq!(image.offset(), 4);

        image.replay(&MetadataRecord::RemoveTopic { topic_id: TopicId([1; 16]) });
        assert!(image.topic("a.b").is_none());
        assert!(image.topic_by_id(TopicId([1; 16])).is_none());
        assert!(image.colliding_topic("a_b").is_none());
        assert_eq!(image.partition_count(), 0);

        // Its place is used again; the topic beside it is untouched.
        image.replay(&topic(3, "a.b"));
        assert_eq!(image.topic("a.b").unwrap().id, TopicId([3; 16]));
        assert_eq!(image.topic("c").unwrap().id, TopicId([2; 16]));
        assert_eq!(image.topics().count(), 2);
    }

    #[test]
    fn records_that_cannot_follow_are_refused() {
        let mut image = ClusterImage::new();
        image.replay(&topic(1, "a"));
        image.replay(&add_partition(1, 0, partition(5, 5)));
        let broker = |epoch| MetadataRecord::Broker { node_id: 1, epoch, endpoints: Vec::new(), rack: None };
        image.replay(&broker(7));
        image.replay(&MetadataRecord::ProducerIds { next: 1000 });
        for refused in [
            topic(1, "b"),
            topic(2, "a"),
            topic(2, "a/b"),
            add_partition(1, 2, partition(0, 0)),
            add_partition(1, -1, partition(0, 0)),
            add_partition(2, 0, partition(0, 0)),
            add_partition(1, 0, partition(4, 6)),
            add_partition(1, 0, partition(5, 5)),
            add_partition(1, 0, Partition { leader: 2, ..partition(6, 6) }),
            add_partition(1, 0, Partition { isr: [1, 2].into(), ..partition(6, 6) }),
            add_partition(1, 0, Partition { isr: [1, 1].into(), ..partition(6, 6) }),
            add_partition(1, 0, Partition { isr: [].into(), ..partition(6, 6) }),
            add_partition(1, 0, Partition { replicas: [1, 1].into(), ..partition(6, 6) }),
            add_partition(1, 0, partition(6, -1)),
            broker(7),
            MetadataRecord::ProducerIds { next: 999 },
            MetadataRecord::RemoveTopic { topic_id: TopicId([2; 16]) },
            MetadataRecord::Config {
                owner: ConfigOwner::Topic(TopicId([2; 16])),
                name: "retention.ms".into(),
                value: None,
            },
        ] {
            assert!(image.check(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn configs_are_layered_and_empty_owners_are_forgotten() {
        let mut image = ClusterImage::new();
        let set = |owner, name: &str, value: Option<&str>| MetadataRecord::Config {
            owner,
            name: name.into(),
            value: value.map(str::to_string),
        };
        image.replay(&topic(1, "a"));
        image.replay(&set(ConfigOwner::Cluster, "log.retention.ms", Some("1")));
        image.replay(&set(ConfigOwner::Broker(4), "log.retention.ms", Some("2")));
        let retention = |image: &ClusterImage, node| {
            let topic = image.topic("a").unwrap();
            image.topic_settings(topic, node, &Properties::new()).log.retention_ms
        };
        assert_eq!(retention(&image, 4), 2);
        assert_eq!(retention(&image, 5), 1);
        image.replay(&set(ConfigOwner::Topic(TopicId([1; 16])), "retention.ms", Some("3")));
        assert_eq!(retention(&image, 4), 3);

        image.replay(&set(ConfigOwner::Broker(4), "log.retention.ms", None));
        assert!(image.broker_configs(4).is_empty());
        assert!(!image.snapshot().contains(&set(ConfigOwner::Broker(4), "log.retention.ms", None)));
        assert_eq!(image.snapshot().len(), 3);
    }

    #[test]
    fn quotas_are_in_the_image_and_in_its_snapshot() {
        let records = crate::log::samples::quotas();
        let mut image = ClusterImage::new();
        records.iter().for_each(|record| image.replay(record));
        assert_eq!(image.quotas().len(), 7);
        let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
        assert_eq!(again, image);
        let of_nobody = MetadataRecord::Quota {
            entity: crate::quota::QuotaEntity::Ip(None),
            key: crate::quota::PRODUCER_BYTE_RATE.into(),
            value: None,
        };
        assert!(image.check(&of_nobody).is_err());
    }

    #[test]
    fn a_partition_takes_little_memory() {
        assert!(size_of::<Partition>() <= 96);
        let replicas = BrokerIds::from([1, 2, 3]);
        let inside = replicas.as_ptr().addr() - (&raw const replicas).addr();
        assert!(inside < size_of::<BrokerIds>(), "three replicas take no memory elsewhere");
    }

    #[test]
    fn a_snapshot_makes_the_same_image() {
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [9; 16] });
        for id in [3, 1, 2] {
            image.replay(&topic(id, &format!("t{id}")));
            image.replay(&add_partition(id, 0, partition(0, 0)));
        }
        image.replay(&add_partition(1, 0, partition(1, 1)));
        image.replay(&MetadataRecord::RemoveTopic { topic_id: TopicId([3; 16]) });
        image.replay(&MetadataRecord::ProducerIds { next: 3000 });
        let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
        assert_eq!(again, image);
        assert_eq!(again.topic("t1").unwrap().partitions[0].leader_epoch, 1);
        assert!(ClusterImage::from_snapshot(2, &image.snapshot()).is_err());
    }
}
