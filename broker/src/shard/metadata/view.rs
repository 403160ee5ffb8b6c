//! What this shard knows of the cluster: the image that it is at, with what every topic's configuration means here.

use std::collections::HashMap;
use std::sync::Arc;

use millstream_replication::config::{Properties, TopicSettings};
use millstream_replication::{ClusterImage, ConfigOwner, ErrorCode, MetadataRecord, NO_LEADER, Partition, Topic};
use millstream_storage::{PartitionKey, TopicId};

use crate::protocol::topic::{CurrentLeader, NodeEndpoint, TopicReference};

/// The image, with what every topic's configuration means here.
#[derive(Debug)]
pub struct Metadata {
    /// The process's image, or one that it was before: each shard goes from one to the next in its own time.
    image: Arc<ClusterImage>,
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
    pub fn new(image: Arc<ClusterImage>, node_id: i32, file: Arc<Properties>) -> Metadata {
        let mut metadata = Metadata { image, node_id, file, settings: HashMap::new() };
        metadata.resolve_all();
        metadata
    }

    /// The image.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }

    /// This node.
    pub fn node_id(&self) -> i32 {
        self.node_id
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
            return Err(NotHere { error: ErrorCode::NotLeaderOrFollower, leader: leader_of(partition) });
        }
        Ok(PartitionKey { topic_id: topic.id, partition: index })
    }

    /// Finds a partition of which this node holds a replica.
    pub fn held_partition(&self, topic: &Topic, index: i32) -> Result<PartitionKey, NotHere> {
        let partition = topic.partition(index).ok_or(NotHere::new(ErrorCode::UnknownTopicOrPartition))?;
        if !partition.replicas.contains(&self.node_id) {
            return Err(NotHere { error: ErrorCode::NotLeaderOrFollower, leader: leader_of(partition) });
        }
        Ok(PartitionKey { topic_id: topic.id, partition: index })
    }

    /// Who leads a partition, this node or another; none if nobody does.
    pub fn current_leader(&self, key: PartitionKey) -> Option<CurrentLeader> {
        leader_of(self.image.topic_by_id(key.topic_id)?.partition(key.partition)?)
    }

    /// The epoch of this broker's registration; -1 if it is not registered.
    pub fn broker_epoch(&self) -> i64 {
        self.image.broker(self.node_id).map_or(-1, |broker| broker.epoch)
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

    /// Reads what a topic's configuration means now.
    pub fn resolve(&mut self, id: TopicId) {
        if let Some(topic) = self.image.topic_by_id(id) {
            self.settings.insert(id, self.image.topic_settings(topic, self.node_id, &self.file));
        }
    }

    fn resolve_all(&mut self) {
        let ids: Vec<TopicId> = self.image.topics().map(|topic| topic.id).collect();
        ids.into_iter().for_each(|id| self.resolve(id));
    }

    /// Knows the next image, which is what these records made of this one; where a snapshot has brought it, they are what has
    /// become different. Returns the one before.
    pub fn adopt(&mut self, image: Arc<ClusterImage>, records: &[MetadataRecord]) -> Arc<ClusterImage> {
        let before = std::mem::replace(&mut self.image, image);
        let offset = before.offset() + records.len() as u64;
        assert!(self.image.offset() >= offset, "an image with all that the records say");
        for record in records {
            match record {
                MetadataRecord::RemoveTopic { topic_id } => {
                    self.settings.remove(topic_id);
                }
                MetadataRecord::Topic { topic_id, .. } => self.resolve(*topic_id),
                MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => self.resolve(*topic_id),
                _ => {}
            }
        }
        before
    }

    /// Whether a record is a configuration of this broker, or of all.
    pub fn is_broker_config(&self, record: &MetadataRecord) -> bool {
        match record {
            MetadataRecord::Config { owner: ConfigOwner::Cluster, .. } => true,
            MetadataRecord::Config { owner: ConfigOwner::Broker(node_id), .. } => *node_id == self.node_id,
            _ => false,
        }
    }
}

fn leader_of(partition: &Partition) -> Option<CurrentLeader> {
    let Partition { leader, leader_epoch, .. } = *partition;
    (leader != NO_LEADER).then_some(CurrentLeader { leader_id: leader, leader_epoch })
}
