//! The cluster image: all that is known of the cluster, as the replay of the metadata log.
//!
//! A process has one image, which its controller changes and everybody else reads: a clone shares all its memory with the
//! image that it was made of, and a change after that copies a few small pieces, as many for a hundred thousand partitions
//! as for a hundred.

mod difference;
mod place_index;
mod shared_vec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use millstream_storage::TopicId;

use place_index::PlaceIndex;

use crate::config::{Properties, TopicSettings, topic_settings};
use crate::quota::{ClientQuotas, QUOTA_VALUES_PER_CLUSTER_MAX, check_key};
use crate::random_id;
use crate::record::{
    Broker, ConfigOwner, METADATA_VERSION_FIRST, METADATA_VERSIONS, MetadataRecord, NO_LEADER, Partition,
};
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
#[derive(Clone, Debug)]
pub struct ClusterImage {
    offset: u64,
    cluster_id: Option<[u8; 16]>,
    metadata_version: i16,
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
    /// Those of them that nobody leads.
    offline_count: usize,
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

impl Default for ClusterImage {
    fn default() -> ClusterImage {
        ClusterImage {
            offset: 0,
            cluster_id: None,
            metadata_version: METADATA_VERSION_FIRST,
            brokers: Arc::default(),
            places: SharedVec::default(),
            free_place: None,
            places_by_name: PlaceIndex::default(),
            places_by_id: PlaceIndex::default(),
            places_by_collision: PlaceIndex::default(),
            partition_count: 0,
            offline_count: 0,
            broker_configs: Arc::default(),
            cluster_configs: Arc::default(),
            quotas: Arc::default(),
            next_producer_id: 0,
        }
    }
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

    /// The finalised level of `millstream.metadata.version`: no record of a later one was written.
    pub fn metadata_version(&self) -> i16 {
        self.metadata_version
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

    /// How many of them nobody leads.
    pub fn offline_count(&self) -> usize {
        self.offline_count
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
            MetadataRecord::MetadataVersion { level } if *level < self.metadata_version => {
                Err(format!("the metadata version goes back from {} to {level}", self.metadata_version))
            }
            MetadataRecord::MetadataVersion { level } if !METADATA_VERSIONS.contains(*level) => {
                let max = METADATA_VERSIONS.max;
                Err(format!(
                    "the cluster is at metadata version {level}, and this version of Millstream reads up to {max}"
                ))
            }
            MetadataRecord::MetadataVersion { .. } => Ok(()),
            MetadataRecord::Broker(Broker { node_id, epoch, metadata_versions, .. }) => match self.brokers.get(node_id)
            {
                Some(known) if known.epoch >= *epoch => {
                    Err(format!("the epoch of broker {node_id} goes from {} to {epoch}", known.epoch))
                }
                _ if !metadata_versions.contains(self.metadata_version) => {
                    Err(format!("broker {node_id} reads {metadata_versions:?}, not {}", self.metadata_version))
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
            MetadataRecord::MetadataVersion { level } => self.metadata_version = *level,
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
        let was_offline = match partitions.get_mut(index) {
            Some(known) => {
                let was_offline = known.leader == NO_LEADER;
                let before = (known.leader_epoch, known.partition_epoch);
                known.clone_from(state);
                let after = (known.leader_epoch, known.partition_epoch);
                assert!(before.0 <= after.0 && before.1 < after.1, "epochs grow: {before:?} to {after:?}");
                was_offline
            }
            None => {
                partitions.push(state.clone());
                assert_eq!(partitions.len(), index + 1, "partitions are created in order");
                self.partition_count += 1;
                assert!(self.partition_count <= PARTITIONS_PER_CLUSTER_MAX, "a cluster of bounded size");
                false
            }
        };
        self.offline_count -= usize::from(was_offline);
        self.offline_count += usize::from(state.leader == NO_LEADER);
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
        let offline = topic.partitions.iter().filter(|partition| partition.leader == NO_LEADER);
        self.offline_count -= offline.count();
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
        if self.metadata_version != METADATA_VERSION_FIRST {
            records.push(MetadataRecord::MetadataVersion { level: self.metadata_version });
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
