//! What this shard knows of the cluster: a replica of the cluster image, and what follows from it for the partitions
//! this shard owns.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_replication::config::{Properties, TopicSettings};
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{ClusterImage, ConfigOwner, ErrorCode, MetadataRecord, Partition, Topic};
use millstream_storage::{Now, PartitionKey, TopicId};

use super::partition::Role;
use super::{Effect, Shard};
use crate::protocol::topic::{CurrentLeader, NodeEndpoint, TopicReference};

/// The image, with what every topic's configuration means here.
#[derive(Debug)]
pub struct Metadata {
    image: ClusterImage,
    /// This node.
    node_id: i32,
    /// What this process was started with.
    file: Arc<Properties>,
    settings: HashMap<TopicId, TopicSettings>,
}

/// Why a partition cannot be asked for something: an error, and where to go instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere {
    /// The error.
    pub error: ErrorCode,
    /// The leader, if it is another node.
    pub leader: Option<CurrentLeader>,
}

impl NotHere {
    fn new(error: ErrorCode) -> NotHere {
        NotHere { error, leader: None }
    }
}

impl Metadata {
    /// Knows the image.
    pub fn new(image: ClusterImage, node_id: i32, file: Arc<Properties>) -> Metadata {
        let mut metadata = Metadata { image, node_id, file, settings: HashMap::new() };
        metadata.resolve_all();
        metadata
    }

    /// The image.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }

    /// What a topic's configuration means.
    pub fn settings(&self, topic: TopicId) -> &TopicSettings {
        &self.settings[&topic]
    }

    /// Finds a topic as a request names it.
    pub fn topic(&self, reference: &TopicReference) -> Result<&Topic, NotHere> {
        match reference {
            TopicReference::Name(name) => self.topic_by_name(name),
            TopicReference::Id(id) => self.image.topic_by_id(*id).ok_or(NotHere::new(ErrorCode::UnknownTopicId)),
        }
    }

    /// Finds a topic by name.
    pub fn topic_by_name(&self, name: &str) -> Result<&Topic, NotHere> {
        self.image.topic(name).ok_or(NotHere::new(ErrorCode::UnknownTopicOrPartition))
    }

    /// Finds a partition that this node leads.
    pub fn led_partition(&self, topic: &Topic, index: i32) -> Result<PartitionKey, NotHere> {
        let partition = topic.partition(index).ok_or(NotHere::new(ErrorCode::UnknownTopicOrPartition))?;
        if partition.leader != self.node_id {
            let leader = CurrentLeader { leader_id: partition.leader, leader_epoch: partition.leader_epoch };
            return Err(NotHere { error: ErrorCode::NotLeaderOrFollower, leader: Some(leader) });
        }
        Ok(PartitionKey { topic_id: topic.id, partition: index })
    }

    /// Where these leaders are reached by clients of a listener (KIP-951).
    pub fn endpoints(&self, leaders: impl Iterator<Item = CurrentLeader>, listener: &str) -> Vec<NodeEndpoint> {
        let mut endpoints: Vec<NodeEndpoint> = Vec::new();
        for leader in leaders {
            if endpoints.iter().any(|endpoint| endpoint.node_id == leader.leader_id) {
                continue;
            }
            let Some(broker) = self.image.broker(leader.leader_id) else { continue };
            let Some(endpoint) = broker.endpoint(listener) else { continue };
            endpoints.push(NodeEndpoint {
                node_id: leader.leader_id,
                host: endpoint.host.clone(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone(),
            });
        }
        endpoints
    }

    fn resolve(&mut self, id: TopicId) {
        if let Some(topic) = self.image.topic_by_id(id) {
            self.settings.insert(id, self.image.topic_settings(topic, self.node_id, &self.file));
        }
    }

    fn resolve_all(&mut self) {
        let ids: Vec<TopicId> = self.image.topics().map(|topic| topic.id).collect();
        ids.into_iter().for_each(|id| self.resolve(id));
    }

    fn role(&self, partition: &Partition) -> Role {
        if partition.leader != self.node_id {
            return Role::Follower;
        }
        Role::Leader { leader_epoch: partition.leader_epoch, in_sync_replicas: partition.isr.clone() }
    }
}

impl Shard {
    /// Brings the partitions of this shard in line with the whole image: at the start.
    pub(super) fn open_partitions(&mut self) {
        let image = &self.metadata.image;
        let mut gone: Vec<_> = self
            .log
            .partitions()
            .filter(|(key, _)| {
                let topic = image.topic_by_id(key.topic_id);
                topic.and_then(|topic| topic.partition(key.partition)).is_none()
            })
            .collect();
        // The log's table has no order; disk operations must have one.
        gone.sort_unstable();
        for (_, log) in gone {
            self.log.remove_partition(log);
        }
        let keys: Vec<PartitionKey> = self
            .metadata
            .image
            .topics()
            .flat_map(|topic| {
                let topic_id = topic.id;
                (0..topic.partitions.len()).map(move |index| PartitionKey { topic_id, partition: index as i32 })
            })
            .collect();
        for key in keys {
            self.open_or_update(key);
        }
    }

    /// Replays committed records and does what they mean for this shard's partitions.
    pub(super) fn apply_metadata(
        &mut self,
        now: Now,
        offset: u64,
        records: &[MetadataRecord],
        effects: &mut Vec<Effect>,
    ) {
        for record in records {
            if let MetadataRecord::RemoveTopic { topic_id } = record {
                self.close_topic(now, *topic_id, effects);
                self.metadata.settings.remove(topic_id);
            }
            self.metadata.image.replay(record);
            match record {
                MetadataRecord::Topic { topic_id, .. } => self.metadata.resolve(*topic_id),
                MetadataRecord::Partition { topic_id, partition, .. } => {
                    self.open_or_update(PartitionKey { topic_id: *topic_id, partition: *partition });
                }
                MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => {
                    self.metadata.resolve(*topic_id);
                    self.update_topic(*topic_id);
                }
                MetadataRecord::Config { .. } => {
                    self.metadata.resolve_all();
                    let ids: Vec<TopicId> = self.metadata.image.topics().map(|topic| topic.id).collect();
                    ids.into_iter().for_each(|id| self.update_topic(id));
                }
                MetadataRecord::Cluster { .. }
                | MetadataRecord::Node { .. }
                | MetadataRecord::Broker { .. }
                | MetadataRecord::RemoveTopic { .. }
                | MetadataRecord::ProducerIds { .. } => {}
            }
        }
        assert_eq!(self.metadata.image.offset(), offset, "no metadata record was left out");
        effects.push(Effect::MetadataApplied { offset });
    }

    /// Opens a partition if this shard owns it, and takes over its role and settings.
    fn open_or_update(&mut self, key: PartitionKey) {
        if key.shard(self.options.shards) != self.options.index {
            return;
        }
        let topic = self.metadata.image.topic_by_id(key.topic_id).expect("a partition belongs to a topic");
        let state = topic.partition(key.partition).expect("the partition is in the image");
        let settings = &self.metadata.settings[&key.topic_id];
        let log = self.log.create_partition(key, &topic.name, settings.log.clone());
        if self.partitions.find(key).is_none() {
            self.partitions.open(log, key, self.log.durable_end(log));
        }
        let partition = self.partitions.get_mut(log).expect("it is open");
        partition.min_insync_replicas = settings.min_insync_replicas;
        partition.cleanup_delete = settings.log.cleanup_delete;
        let role = self.metadata.role(state);
        if role != partition.role {
            if let Role::Leader { leader_epoch, .. } = role {
                self.log.lead(log, leader_epoch);
                if &*topic.name == CONSUMER_OFFSETS {
                    self.coordination.begin(log, self.log.log_start(log), partition.high_watermark());
                }
            }
            partition.role = role;
        }
    }

    fn update_topic(&mut self, id: TopicId) {
        let count = self.metadata.image.topic_by_id(id).map_or(0, |topic| topic.partitions.len());
        for index in 0..count {
            self.open_or_update(PartitionKey { topic_id: id, partition: index as i32 });
        }
    }

    /// Closes a topic's partitions: who waits for them is told that they are gone.
    fn close_topic(&mut self, now: Now, id: TopicId, effects: &mut Vec<Effect>) {
        let count = self.metadata.image.topic_by_id(id).map_or(0, |topic| topic.partitions.len());
        if let Some(topic) = self.metadata.image.topic_by_id(id) {
            let name = topic.name.clone();
            self.forget_topic(now, &name, effects);
        }
        for index in 0..count {
            let Some(log) = self.partitions.find(PartitionKey { topic_id: id, partition: index as i32 }) else {
                continue;
            };
            self.resign(now, log, effects);
            let mut waiters = Vec::new();
            self.partitions.close(log, &mut waiters, &mut self.reads.woken);
            self.release(now, waiters, ErrorCode::UnknownTopicOrPartition, effects);
            self.fail_reads(log, effects);
            self.fail_queries(log, effects);
            self.log.remove_partition(log);
        }
    }
}
