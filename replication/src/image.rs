//! The cluster image: all that is known of the cluster, as the replay of the metadata log.
//!
//! A process has one image, which its controller changes and everybody else reads: a clone shares all its memory with the
//! image that it was made of, and a change after that copies a few small pieces, as many for a hundred thousand partitions
//! as for a hundred.

mod place_index;
mod shared_vec;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use millstream_storage::TopicId;

use place_index::PlaceIndex;

use crate::config::{Properties, TopicSettings, topic_settings};
use crate::quota::{ClientQuotas, QUOTA_VALUES_PER_CLUSTER_MAX, QuotaEntity, QuotaValue, check_key};
use crate::random_id;
use crate::record::{Broker, ConfigOwner, MetadataRecord, Partition};
use crate::topic_name;

pub use shared_vec::{Iter, SharedVec};

/// Most partitions of one cluster.
pub const PARTITIONS_PER_CLUSTER_MAX: usize = 100_000;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub id: TopicId,
    /// Its partitions, by index.
    pub partitions: SharedVec<Partition>,
    /// What was configured for it.
    pub configs: Arc<Properties>,
    /// Brokers keep it for themselves.
    pub internal: bool,
}

impl Topic {
    /// The partition of this index.
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// A place in the list of topics.
#[derive(Clone, Debug)]
enum Place {
    Taken(Arc<Topic>),
    /// Free since the topic that was there is gone; places that became free before this one follow it.
    Free {
        next: Option<usize>,
    },
}

impl Place {
    fn topic(&self) -> Option<&Topic> {
        match self {
            Place::Taken(topic) => Some(topic),
            Place::Free { .. } => None,
        }
    }
}

/// All that is known of the cluster.
///
/// A clone takes as many counts as there are fields behind an `Arc`. After that, a record copies what is on its way: of
/// topics and partitions a few pieces of bounded size; of brokers, configurations of brokers and of one topic, and quotas
/// everything of that kind, which is little or changes rarely. Further records before the next clone copy nothing twice.
#[derive(Clone, Debug, Default)]
pub struct ClusterImage {
    offset: u64,
    cluster_id: Option<[u8; 16]>,
    brokers: Arc<BTreeMap<i32, Broker>>,
    /// Topics in places that stay while the topic exists, so that every index leads to one in a single step.
    places: SharedVec<Place>,
    /// The place that became free last.
    free_place: Option<usize>,
    places_by_name: PlaceIndex,
    places_by_id: PlaceIndex,
    /// Only of names that contain `.` or `_`.
    places_by_collision: PlaceIndex,
    partition_count: usize,
    broker_configs: Arc<BTreeMap<i32, Properties>>,
    cluster_configs: Arc<Properties>,
    quotas: Arc<ClientQuotas>,
    next_producer_id: i64,
}

/// The hash of a name. It is the same in every process, and hard enough to aim at: see [`PlaceIndex`].
fn hash_of_name(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The hash of an identity: the controller that drew it is trusted.
fn hash_of_id(id: TopicId) -> u64 {
    let [high, low] = random_id::halves(u128::from_le_bytes(id.0));
    random_id::mix(random_id::mix(high) ^ low)
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

    /// The broker that acts as the controller towards clients who ask the broker `asked`: that one, as it is there and
    /// forwards what it is asked; if it is fenced, the lowest number of those that are not.
    pub fn controller_id(&self, asked: i32) -> Option<i32> {
        let asked = self.broker(asked).into_iter();
        asked.chain(self.brokers()).find(|broker| !broker.is_fenced).map(|broker| broker.node_id)
    }

    /// Every topic, in no particular order; the order is the same for the same history.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.places.iter().filter_map(Place::topic)
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        let topics = |place| self.topic_at(place).filter(|topic| &*topic.name == name);
        self.places_by_name.find(hash_of_name(name), topics)
    }

    /// The topic of this identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.topic_at(self.place_of(id)?)
    }

    /// A topic whose name differs from this one in `.` and `_` only.
    pub fn colliding_topic(&self, name: &str) -> Option<&Topic> {
        let colliding = topic_name::colliding(name)?;
        let is_colliding = |topic: &&Topic| topic_name::colliding(&topic.name).as_ref() == Some(&colliding);
        let topics = |place| self.topic_at(place).filter(is_colliding);
        self.places_by_collision.find(hash_of_name(&colliding), topics)
    }

    fn topic_at(&self, place: usize) -> Option<&Topic> {
        self.places[place].topic()
    }

    fn place_of(&self, id: TopicId) -> Option<usize> {
        let is_taken_by = |place: usize| self.topic_at(place).is_some_and(|topic| topic.id == id);
        self.places_by_id.find(hash_of_id(id), |place| is_taken_by(place).then_some(place))
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
            MetadataRecord::Broker(Broker { node_id, epoch, .. }) => match self.brokers.get(node_id) {
                Some(known) if known.epoch >= *epoch => {
                    Err(format!("the epoch of broker {node_id} goes from {} to {epoch}", known.epoch))
                }
                _ => Ok(()),
            },
            MetadataRecord::BrokerChange { node_id, epoch, .. } => self.check_broker(*node_id, *epoch),
            MetadataRecord::UnregisterBroker { node_id, epoch } => {
                self.check_broker(*node_id, *epoch)?;
                let is_led = |topic: &&Topic| topic.partitions.iter().any(|partition| partition.leader == *node_id);
                match self.topics().find(is_led) {
                    Some(topic) => Err(format!("broker {node_id} goes, and leads partitions of {}", topic.name)),
                    None => Ok(()),
                }
            }
            MetadataRecord::Topic { topic_id, name } => {
                if self.place_of(*topic_id).is_some() {
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

    fn check_broker(&self, node_id: i32, epoch: i64) -> Result<(), String> {
        match self.brokers.get(&node_id) {
            Some(known) if known.epoch == epoch => Ok(()),
            Some(known) => Err(format!("the epoch of broker {node_id} is {}, not {epoch}", known.epoch)),
            None => Err(format!("broker {node_id} is unknown")),
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
            MetadataRecord::Broker(broker) => {
                Arc::make_mut(&mut self.brokers).insert(broker.node_id, broker.clone());
            }
            MetadataRecord::BrokerChange { node_id, is_fenced, in_controlled_shutdown, .. } => {
                let broker = Arc::make_mut(&mut self.brokers).get_mut(node_id).expect("a broker that was checked");
                (broker.is_fenced, broker.in_controlled_shutdown) = (*is_fenced, *in_controlled_shutdown);
            }
            MetadataRecord::UnregisterBroker { node_id, .. } => {
                Arc::make_mut(&mut self.brokers).remove(node_id);
            }
            MetadataRecord::Topic { topic_id, name } => self.add_topic(*topic_id, name),
            MetadataRecord::Partition { topic_id, partition, state } => {
                self.set_partition(*topic_id, *partition, state);
            }
            MetadataRecord::RemoveTopic { topic_id } => self.remove_topic(*topic_id),
            MetadataRecord::Config { owner, name, value } => {
                self.set_config(*owner, name, value.as_deref());
            }
            MetadataRecord::Quota { entity, key, value } => {
                Arc::make_mut(&mut self.quotas).set(entity, key, *value);
            }
            MetadataRecord::ProducerIds { next } => self.next_producer_id = *next,
        }
    }

    fn set_partition(&mut self, topic_id: TopicId, index: i32, state: &Partition) {
        let partitions = &mut self.topic_mut(topic_id).partitions;
        let index = index as usize;
        match partitions.get_mut(index) {
            Some(known) => {
                let before = (known.leader_epoch, known.partition_epoch);
                known.clone_from(state);
                let after = (known.leader_epoch, known.partition_epoch);
                assert!(before.0 <= after.0 && before.1 < after.1, "epochs grow: {before:?} to {after:?}");
            }
            None => {
                partitions.push(state.clone());
                assert_eq!(partitions.len(), index + 1, "partitions are created in order");
                self.partition_count += 1;
                assert!(self.partition_count <= PARTITIONS_PER_CLUSTER_MAX, "a cluster of bounded size");
            }
        }
        assert_eq!(state.check(), Ok(()), "what every partition is");
    }

    /// Passes over records that were committed and mean nothing to an image any more: those of retired types.
    pub(crate) fn pass_over(&mut self, records: u64) {
        self.offset += records;
    }

    fn topic_mut(&mut self, topic_id: TopicId) -> &mut Topic {
        let place = self.place_of(topic_id).expect("a topic that was checked");
        match self.places.get_mut(place) {
            Some(Place::Taken(topic)) => Arc::make_mut(topic),
            _ => unreachable!("a place in use"),
        }
    }

    fn add_topic(&mut self, id: TopicId, name: &str) {
        let name: Arc<str> = name.into();
        let topic = Place::Taken(Arc::new(Topic {
            internal: topic_name::is_internal(&name),
            name: Arc::clone(&name),
            id,
            partitions: SharedVec::new(),
            configs: Arc::default(),
        }));
        let place = match self.free_place {
            Some(place) => {
                let free = self.places.get_mut(place).expect("a place that was taken before");
                let Place::Free { next } = std::mem::replace(free, topic) else { unreachable!("a free place") };
                self.free_place = next;
                place
            }
            None => {
                self.places.push(topic);
                self.places.len() - 1
            }
        };
        self.places_by_name.insert(hash_of_name(&name), place);
        self.places_by_id.insert(hash_of_id(id), place);
        if let Some(colliding) = topic_name::colliding(&name) {
            self.places_by_collision.insert(hash_of_name(&colliding), place);
        }
    }

    fn remove_topic(&mut self, id: TopicId) {
        let place = self.place_of(id).expect("a topic that was checked");
        let taken = self.places.get_mut(place).expect("a place in use");
        let free = Place::Free { next: self.free_place.replace(place) };
        let Place::Taken(topic) = std::mem::replace(taken, free) else { unreachable!("a place in use") };
        self.places_by_name.remove(hash_of_name(&topic.name), place);
        self.places_by_id.remove(hash_of_id(id), place);
        if let Some(colliding) = topic_name::colliding(&topic.name) {
            self.places_by_collision.remove(hash_of_name(&colliding), place);
        }
        self.partition_count -= topic.partitions.len();
    }

    fn set_config(&mut self, owner: ConfigOwner, name: &str, value: Option<&str>) {
        let properties = match owner {
            ConfigOwner::Topic(topic_id) => Arc::make_mut(&mut self.topic_mut(topic_id).configs),
            ConfigOwner::Broker(node_id) => Arc::make_mut(&mut self.broker_configs).entry(node_id).or_default(),
            ConfigOwner::Cluster => Arc::make_mut(&mut self.cluster_configs),
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
            Arc::make_mut(&mut self.broker_configs).remove(&node_id);
        }
    }

    /// The records that make this image out of an empty one, in an order that depends on nothing but its contents.
    pub fn snapshot(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if let Some(cluster_id) = self.cluster_id {
            records.push(MetadataRecord::Cluster { cluster_id });
        }
        records.extend(self.brokers().cloned().map(MetadataRecord::Broker));
        let configs = |owner: ConfigOwner, properties: &Properties| -> Vec<MetadataRecord> {
            properties
                .iter()
                .map(|(name, value)| MetadataRecord::Config { owner, name: name.clone(), value: Some(value.clone()) })
                .collect()
        };
        records.extend(configs(ConfigOwner::Cluster, &self.cluster_configs));
        for (node_id, properties) in &*self.broker_configs {
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

    /// What is different from an earlier image of the same cluster, as records of what is true now; in an order that depends on
    /// nothing but the two. There are at most as many as were committed between them.
    pub fn difference(&self, earlier: &ClusterImage) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        let gone = earlier.brokers().filter(|broker| self.broker(broker.node_id).is_none());
        records.extend(
            gone.map(|broker| MetadataRecord::UnregisterBroker { node_id: broker.node_id, epoch: broker.epoch }),
        );
        let changed = self.brokers().filter(|broker| earlier.broker(broker.node_id) != Some(*broker));
        records.extend(changed.cloned().map(MetadataRecord::Broker));
        let mut configs = |owner: ConfigOwner, now: &Properties, before: &Properties| {
            let removed = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name, None));
            let set = now.iter().filter(|(name, value)| before.get(*name) != Some(value));
            for (name, value) in removed.chain(set.map(|(name, value)| (name, Some(value.clone())))) {
                records.push(MetadataRecord::Config { owner, name: name.clone(), value });
            }
        };
        configs(ConfigOwner::Cluster, &self.cluster_configs, &earlier.cluster_configs);
        let owners: BTreeSet<i32> = self.broker_configs.keys().chain(earlier.broker_configs.keys()).copied().collect();
        for node_id in owners {
            let owner = ConfigOwner::Broker(node_id);
            configs(owner, self.broker_configs(node_id), earlier.broker_configs(node_id));
        }
        let gone = earlier.topics().filter(|topic| self.topic_by_id(topic.id).is_none());
        records.extend(gone.map(|topic| MetadataRecord::RemoveTopic { topic_id: topic.id }));
        for topic in self.topics() {
            let topic_id = topic.id;
            let before = earlier.topic_by_id(topic_id);
            if before.is_none() {
                records.push(MetadataRecord::Topic { topic_id, name: topic.name.to_string() });
            }
            for (partition, state) in (0..).zip(&topic.partitions) {
                if before.and_then(|before| before.partition(partition)) != Some(state) {
                    records.push(MetadataRecord::Partition { topic_id, partition, state: state.clone() });
                }
            }
            let before = before.map_or(&NO_PROPERTIES, |before| &*before.configs);
            let removed = before.keys().filter(|name| !topic.configs.contains_key(*name)).map(|name| (name, None));
            let set = topic.configs.iter().filter(|(name, value)| before.get(*name) != Some(value));
            for (name, value) in removed.chain(set.map(|(name, value)| (name, Some(value.clone())))) {
                let owner = ConfigOwner::Topic(topic_id);
                records.push(MetadataRecord::Config { owner, name: name.clone(), value });
            }
        }
        let quotas = |image: &ClusterImage| -> BTreeMap<(QuotaEntity, String), QuotaValue> {
            let quotas = image.quotas.iter();
            let all = quotas.flat_map(|(entity, values)| values.iter().map(move |value| (entity, value)));
            all.map(|(entity, (key, value))| ((entity.clone(), (*key).to_string()), *value)).collect()
        };
        let (now, before) = (quotas(self), quotas(earlier));
        let removed = before.keys().filter(|quota| !now.contains_key(*quota)).map(|quota| (quota, None));
        let set = now.iter().filter(|(quota, value)| before.get(*quota) != Some(value));
        for ((entity, key), value) in removed.chain(set.map(|(quota, value)| (quota, Some(*value)))) {
            records.push(MetadataRecord::Quota { entity: entity.clone(), key: key.clone(), value });
        }
        if self.next_producer_id != earlier.next_producer_id {
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
    use std::collections::BTreeSet;

    use millstream_storage::random::Random;

    use super::*;
    use crate::broker_ids::BrokerIds;
    use crate::quota::{PRODUCER_BYTE_RATE, QuotaEntity, QuotaValue};
    use crate::record::NO_LEADER;

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
        let broker = |epoch| MetadataRecord::Broker(Broker { node_id: 1, epoch, ..Broker::default() });
        let change = |node_id, epoch| MetadataRecord::BrokerChange {
            node_id,
            epoch,
            is_fenced: true,
            in_controlled_shutdown: false,
        };
        image.replay(&broker(7));
        assert_eq!(image.check(&change(1, 7)), Ok(()));
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
            change(1, 6),
            change(1, 8),
            change(2, 7),
            MetadataRecord::UnregisterBroker { node_id: 1, epoch: 7 },
            MetadataRecord::UnregisterBroker { node_id: 2, epoch: 7 },
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
    fn brokers_change_and_go_and_partitions_have_no_leader_meanwhile() {
        let mut image = ClusterImage::new();
        for node_id in [2, 1] {
            let epoch = i64::from(node_id) + 3;
            let broker = Broker { node_id, epoch, shards: 4, is_fenced: true, ..Broker::default() };
            image.replay(&MetadataRecord::Broker(broker));
        }
        assert_eq!((image.controller_id(1), image.brokers().len()), (None, 2), "who is fenced controls nothing");
        let change = |node_id: i32, is_fenced, in_controlled_shutdown| MetadataRecord::BrokerChange {
            node_id,
            epoch: i64::from(node_id) + 3,
            is_fenced,
            in_controlled_shutdown,
        };
        image.replay(&change(2, false, false));
        assert_eq!(image.controller_id(1), Some(2));
        image.replay(&change(1, false, true));
        assert_eq!(
            (image.controller_id(1), image.controller_id(2), image.controller_id(3)),
            (Some(1), Some(2), Some(1))
        );
        let [one, two] = [1, 2].map(|node_id| image.broker(node_id).unwrap().clone());
        assert_eq!((one.shards, one.is_usable(), two.is_usable()), (4, false, true));

        image.replay(&topic(1, "a"));
        image.replay(&add_partition(1, 0, partition(0, 0)));
        let gone = MetadataRecord::UnregisterBroker { node_id: 1, epoch: 4 };
        assert!(image.check(&gone).is_err(), "it leads");
        image.replay(&add_partition(1, 0, Partition { leader: NO_LEADER, ..partition(1, 1) }));
        image.replay(&gone);
        assert_eq!((image.broker(1), image.controller_id(1)), (None, Some(2)));
        let again = ClusterImage::from_snapshot(image.offset(), &image.snapshot()).unwrap();
        assert_eq!(again, image);
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
        let of_nobody =
            MetadataRecord::Quota { entity: QuotaEntity::Ip(None), key: PRODUCER_BYTE_RATE.into(), value: None };
        assert!(image.check(&of_nobody).is_err());
    }

    #[test]
    fn a_partition_takes_little_memory() {
        assert!(size_of::<Partition>() <= 96);
        let replicas = BrokerIds::from([1, 2, 3]);
        let inside = replicas.as_ptr().addr() - (&raw const replicas).addr();
        assert!(inside < size_of::<BrokerIds>(), "three replicas take no memory elsewhere");
    }

    /// Where every piece is that an image may share with another one.
    fn pieces(image: &ClusterImage) -> BTreeSet<usize> {
        let mut addresses = Vec::new();
        image.places.pieces(&mut addresses);
        for topic in image.places.iter().filter_map(|place| match place {
            Place::Taken(topic) => Some(topic),
            Place::Free { .. } => None,
        }) {
            addresses.push(Arc::as_ptr(topic).addr());
            addresses.push(Arc::as_ptr(&topic.configs).addr());
            topic.partitions.pieces(&mut addresses);
        }
        for index in [&image.places_by_name, &image.places_by_id, &image.places_by_collision] {
            index.pieces(&mut addresses);
        }
        addresses.push(Arc::as_ptr(&image.brokers).addr());
        addresses.push(Arc::as_ptr(&image.broker_configs).addr());
        addresses.push(Arc::as_ptr(&image.cluster_configs).addr());
        addresses.push(Arc::as_ptr(&image.quotas).addr());
        addresses.into_iter().collect()
    }

    #[test]
    fn a_change_after_a_clone_copies_a_few_pieces_at_any_size() {
        let id = |number: u32| TopicId(u128::from(number).to_be_bytes());
        let mut image = ClusterImage::new();
        for number in 0..10_000 {
            image.replay(&MetadataRecord::Topic { topic_id: id(number), name: format!("topic.{number}") });
            for index in 0..10 {
                let state = partition(0, 0);
                image.replay(&MetadataRecord::Partition { topic_id: id(number), partition: index, state });
            }
        }
        let old = Arc::new(image);
        let pieces_of_old = pieces(&old);
        assert!(pieces_of_old.len() > 30_000, "{}", pieces_of_old.len());
        let mut image = Arc::clone(&old);
        assert!(Arc::ptr_eq(&old, &image));

        // A leaf and two branches of the places, the topic, the one leaf of its partitions.
        let change = |leader_epoch, partition_epoch| {
            let state = partition(leader_epoch, partition_epoch);
            MetadataRecord::Partition { topic_id: id(7_000), partition: 3, state }
        };
        Arc::make_mut(&mut image).replay(&change(1, 1));
        let changed = pieces(&image);
        assert_eq!(changed.difference(&pieces_of_old).count(), 5);
        assert_eq!(pieces_of_old.difference(&changed).count(), 5);
        // Nobody else has these: no record copies them again until the image is published.
        Arc::make_mut(&mut image).replay(&change(2, 2));
        assert_eq!(pieces(&image), changed);

        // Each of the three indexes copies at most three branches and a bucket, which may become as many as a branch has.
        let published = Arc::clone(&image);
        let topic = MetadataRecord::Topic { topic_id: id(10_000), name: "topic.x".into() };
        Arc::make_mut(&mut image).replay(&topic);
        assert!(pieces(&image).difference(&pieces(&published)).count() <= 3 + 3 + 3 * (4 + 32));
        let published = Arc::clone(&image);
        Arc::make_mut(&mut image).replay(&MetadataRecord::RemoveTopic { topic_id: id(1) });
        assert!(pieces(&image).difference(&pieces(&published)).count() <= 3 + 3 * 4);

        // The old image is what it was.
        assert_eq!(pieces(&old), pieces_of_old);
        assert_eq!(old.offset(), 110_000);
        assert_eq!(old.topic("topic.7000").unwrap().partitions[3], partition(0, 0));
        assert!(old.topic("topic.1").is_some() && old.topic("topic.x").is_none());
        assert_eq!(image.topic("topic.7000").unwrap().partitions[3], partition(2, 2));
        assert!(image.topic("topic.1").is_none() && image.topic("topic.x").is_some());
        assert_eq!(image.partition_count(), 100_000 - 10);
    }

    /// A record that may follow.
    fn any_record(image: &ClusterImage, random: &mut Random) -> MetadataRecord {
        let number = random.below(60);
        let topic_id = match image.topics().count() {
            0 => TopicId([0; 16]),
            count => image.topics().nth(random.index(count)).unwrap().id,
        };
        loop {
            let record = match random.below(12) {
                0 => MetadataRecord::Cluster { cluster_id: [4; 16] },
                1 => MetadataRecord::Broker(Broker {
                    node_id: (number % 4) as i32,
                    epoch: image.offset() as i64,
                    endpoints: Vec::new(),
                    rack: random.coin().then(|| number.to_string()),
                    ..Broker::default()
                }),
                2..5 => MetadataRecord::Topic {
                    topic_id: TopicId(random.bytes()),
                    name: format!("{}{}{number}", ["t", "u"][random.index(2)], [".", "_", "-"][random.index(3)]),
                },
                5..8 => {
                    let partitions = image.topic_by_id(topic_id).map(|topic| &topic.partitions);
                    let count = partitions.map_or(0, SharedVec::len);
                    let index = random.index(count + 1);
                    let epoch = partitions.and_then(|list| Some(list.get(index)?.partition_epoch + 1)).unwrap_or(0);
                    MetadataRecord::Partition { topic_id, partition: index as i32, state: partition(epoch / 2, epoch) }
                }
                8 => MetadataRecord::RemoveTopic { topic_id },
                9 => MetadataRecord::Config {
                    owner: match random.below(3) {
                        0 => ConfigOwner::Topic(topic_id),
                        1 => ConfigOwner::Broker((number % 4) as i32),
                        _ => ConfigOwner::Cluster,
                    },
                    name: format!("config.{}", number % 3),
                    value: random.coin().then(|| number.to_string()),
                },
                10 => MetadataRecord::Quota {
                    entity: QuotaEntity::Client(Some((number % 4).to_string())),
                    key: PRODUCER_BYTE_RATE.into(),
                    value: QuotaValue::new(number as f64),
                },
                _ => MetadataRecord::ProducerIds { next: image.next_producer_id() + number as i64 },
            };
            if image.check(&record).is_ok() {
                return record;
            }
        }
    }

    /// The order of topics, by the rule that a topic gets the place that became free last.
    #[derive(Clone, Default)]
    struct Order {
        places: Vec<Option<TopicId>>,
        free: Vec<usize>,
    }

    impl Order {
        fn replay(&mut self, record: &MetadataRecord) {
            match record {
                MetadataRecord::Topic { topic_id, .. } => match self.free.pop() {
                    Some(place) => self.places[place] = Some(*topic_id),
                    None => self.places.push(Some(*topic_id)),
                },
                MetadataRecord::RemoveTopic { topic_id } => {
                    let place = self.places.iter().position(|id| *id == Some(*topic_id)).unwrap();
                    self.places[place] = None;
                    self.free.push(place);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn every_clone_goes_its_own_way_as_if_it_were_the_only_one() {
        for seed in 0..30 {
            let mut random = Random::new(seed);
            let mut histories = vec![(Arc::new(ClusterImage::new()), Vec::new(), Order::default())];
            for step in 0..1_500 {
                if step % 250 == 249 {
                    histories.push(histories[random.index(histories.len())].clone());
                }
                let at = random.index(histories.len());
                let (image, records, order) = &mut histories[at];
                let record = any_record(image, &mut random);
                Arc::make_mut(image).replay(&record);
                order.replay(&record);
                records.push(record);
            }
            for (image, records, order) in &histories {
                let mut replayed = ClusterImage::new();
                records.iter().for_each(|record| replayed.replay(record));
                assert_eq!(**image, replayed, "seed {seed}");
                let ids = |image: &ClusterImage| image.topics().map(|topic| topic.id).collect::<Vec<TopicId>>();
                assert_eq!(ids(image), ids(&replayed), "seed {seed}");
                assert!(order.places.iter().flatten().eq(&ids(image)), "seed {seed}");
                assert_eq!(image.partition_count(), image.topics().map(|topic| topic.partitions.len()).sum());
                for topic in image.topics() {
                    assert_eq!(image.topic(&topic.name).map(|found| found.id), Some(topic.id));
                    assert_eq!(image.topic_by_id(topic.id).map(|found| &found.name), Some(&topic.name));
                    let colliding = image.colliding_topic(&topic.name).map(|found| &*found.name);
                    let expected = topic_name::colliding(&topic.name);
                    assert_eq!(colliding.and_then(topic_name::colliding), expected);
                }
                let snapshot = image.snapshot();
                assert_eq!(snapshot, replayed.snapshot(), "seed {seed}");
                assert_eq!(ClusterImage::from_snapshot(image.offset(), &snapshot).as_ref(), Ok(&replayed));
                for record in records {
                    if let MetadataRecord::Topic { topic_id, name } = record {
                        let is_there = image.topics().any(|topic| topic.id == *topic_id);
                        assert_eq!(image.topic_by_id(*topic_id).is_some(), is_there);
                        let is_there = image.topics().any(|topic| *topic.name == **name);
                        assert_eq!(image.topic(name).is_some(), is_there);
                    }
                }
            }
        }
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
