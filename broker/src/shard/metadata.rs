//! What this shard knows of the cluster: a replica of the cluster image, and what follows from it for the partitions
//! this shard owns.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use millstream_replication::config::{Properties, TopicSettings};
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{ClusterImage, ConfigOwner, ErrorCode, MetadataRecord, Partition, QuotaEntity, Topic};

use millstream_storage::{Now, PartitionKey, TopicId};

use super::partition::Role;
use super::{Effect, Shard};
use crate::config::{ConnectionRules, LogRules};
use crate::protocol::topic::{CurrentLeader, NodeEndpoint, TopicReference};

/// Partitions that one turn opens, closes or configures.
const CHANGES_MAX: usize = 64;

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

/// Something that metadata records mean for the partitions of this shard.
#[derive(Debug)]
enum Change {
    /// A topic's configuration means something else from now on.
    Configure { topic_id: TopicId },
    /// These partitions are opened, or told their role and settings.
    Open { topic_id: TopicId, partitions: Range<i32> },
    /// These partitions are gone, and then their topic is.
    Close { topic_id: TopicId, name: Arc<str>, partitions: Range<i32> },
}

/// What metadata records mean, as far as it is not done yet.
#[derive(Debug, Default)]
pub struct Changes {
    /// Decisions that are not replayed yet.
    waiting: VecDeque<(u64, Arc<Vec<MetadataRecord>>)>,
    /// What the decision that was replayed last means.
    left: VecDeque<Change>,
    /// Its last offset.
    offset: Option<u64>,
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

    /// Takes committed records; what they mean for this shard's partitions is done at once when it is little, and
    /// else over the next turns, a few partitions in each. Records that come meanwhile wait.
    pub(super) fn take_metadata(
        &mut self,
        now: Now,
        offset: u64,
        records: Arc<Vec<MetadataRecord>>,
        effects: &mut Vec<Effect>,
    ) {
        self.changes.waiting.push_back((offset, records));
        if self.changes.waiting.len() == 1 && self.changes.left.is_empty() {
            self.apply_metadata(now, effects);
        }
    }

    /// Goes on with what metadata records mean: a bounded step. Returns whether there was anything to do.
    pub(super) fn apply_metadata(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let mut budget = CHANGES_MAX;
        loop {
            while let Some(change) = self.changes.left.pop_front() {
                if let Some(rest) = self.apply_change(now, change, &mut budget, effects) {
                    self.changes.left.push_front(rest);
                }
                if budget == 0 && !self.changes.left.is_empty() {
                    return true;
                }
            }
            if let Some(offset) = self.changes.offset.take() {
                assert_eq!(self.metadata.image.offset(), offset, "no metadata record was left out");
                effects.push(Effect::MetadataApplied { offset });
            }
            if budget == 0 {
                return true;
            }
            let Some((offset, records)) = self.changes.waiting.pop_front() else { return budget < CHANGES_MAX };
            self.changes.offset = Some(offset);
            self.replay_metadata(&records);
            self.change_connection_rules(&records, effects);
            self.change_log_rules(&records);
        }
    }

    /// Replays records of one decision, all at once: a client that sees one of them sees all. What they mean for the
    /// partitions is left to be done.
    fn replay_metadata(&mut self, records: &[MetadataRecord]) {
        for record in records {
            let change = match record {
                MetadataRecord::RemoveTopic { topic_id } => {
                    self.metadata.settings.remove(topic_id);
                    let topic = self.metadata.image.topic_by_id(*topic_id);
                    topic.map(|topic| Change::Close {
                        topic_id: *topic_id,
                        name: topic.name.clone(),
                        partitions: 0..topic.partitions.len() as i32,
                    })
                }
                MetadataRecord::Partition { topic_id, partition, .. } => {
                    let partitions = *partition..*partition + 1;
                    Some(Change::Open { topic_id: *topic_id, partitions })
                }
                _ => None,
            };
            self.metadata.image.replay(record);
            match record {
                MetadataRecord::Topic { topic_id, .. } => self.metadata.resolve(*topic_id),
                MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => {
                    self.metadata.resolve(*topic_id);
                    self.update_later(*topic_id);
                }
                MetadataRecord::Config { .. } => {
                    let ids: Vec<TopicId> = self.metadata.image.topics().map(|topic| topic.id).collect();
                    ids.into_iter().for_each(|id| self.update_later(id));
                }
                MetadataRecord::Quota { .. } => self.quotas.changed(self.metadata.image.quotas()),
                _ => {}
            }
            match (change, self.changes.left.back_mut()) {
                // Partitions of a topic are created one after the other.
                (
                    Some(Change::Open { topic_id, partitions }),
                    Some(Change::Open { topic_id: known, partitions: before }),
                ) if topic_id == *known && partitions.start == before.end => {
                    before.end = partitions.end;
                }
                (Some(change), _) => self.changes.left.push_back(change),
                (None, _) => {}
            }
        }
    }

    /// Whether a record is a configuration of this broker, or of all.
    fn is_broker_config(&self, record: &MetadataRecord) -> bool {
        match record {
            MetadataRecord::Config { owner: ConfigOwner::Cluster, .. } => true,
            MetadataRecord::Config { owner: ConfigOwner::Broker(node_id), .. } => *node_id == self.options.node_id,
            _ => false,
        }
    }

    /// The records may mean something for the log as a whole.
    fn change_log_rules(&mut self, records: &[MetadataRecord]) {
        if !records.iter().any(|record| self.is_broker_config(record)) {
            return;
        }
        let layers = self.metadata.image.config_layers(self.options.node_id, &self.options.file);
        let rules = LogRules::new(&layers, self.options.shards);
        self.log.set_producer_expiration(rules.producer_expiration_ms);
        self.log.set_cleaner_pace(rules.cleaner_bytes_per_second_max, rules.cleaner_backoff);
    }

    /// Says to the driver what the records mean for client connections: once in a process.
    fn change_connection_rules(&self, records: &[MetadataRecord], effects: &mut Vec<Effect>) {
        let concerns = |record: &MetadataRecord| {
            self.is_broker_config(record) || matches!(record, MetadataRecord::Quota { entity: QuotaEntity::Ip(_), .. })
        };
        if self.options.index == 0 && records.iter().any(concerns) {
            let image = &self.metadata.image;
            let layers = image.config_layers(self.options.node_id, &self.options.file);
            effects.push(Effect::ConnectionRules(Arc::new(ConnectionRules::new(&layers, image.quotas()))));
        }
    }

    /// A topic's configuration has changed: its partitions are told.
    fn update_later(&mut self, topic_id: TopicId) {
        let count = self.metadata.image.topic_by_id(topic_id).map_or(0, |topic| topic.partitions.len());
        self.changes.left.push_back(Change::Configure { topic_id });
        self.changes.left.push_back(Change::Open { topic_id, partitions: 0..count as i32 });
    }

    /// Does a part of a change; returns what is left of it.
    fn apply_change(
        &mut self,
        now: Now,
        change: Change,
        budget: &mut usize,
        effects: &mut Vec<Effect>,
    ) -> Option<Change> {
        *budget = budget.saturating_sub(1);
        match change {
            Change::Configure { topic_id } => {
                self.metadata.resolve(topic_id);
                None
            }
            Change::Open { topic_id, mut partitions } => {
                for partition in partitions.by_ref().take(*budget + 1) {
                    *budget = budget.saturating_sub(1);
                    self.open_or_update(PartitionKey { topic_id, partition });
                }
                (!partitions.is_empty()).then_some(Change::Open { topic_id, partitions })
            }
            Change::Close { topic_id, name, mut partitions } => {
                for partition in partitions.by_ref().take(*budget + 1) {
                    *budget = budget.saturating_sub(1);
                    self.close_partition(now, PartitionKey { topic_id, partition }, effects);
                }
                if !partitions.is_empty() {
                    return Some(Change::Close { topic_id, name, partitions });
                }
                self.forget_topic(now, &name, effects);
                None
            }
        }
    }

    /// Whether [`Shard::apply_metadata`] has something to do.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.left.is_empty() || !self.changes.waiting.is_empty()
    }

    /// Opens a partition if this shard owns it, and takes over its role and settings.
    fn open_or_update(&mut self, key: PartitionKey) {
        if key.shard(self.options.shards) != self.options.index {
            return;
        }
        // The decision that has it may remove it too.
        let Some(topic) = self.metadata.image.topic_by_id(key.topic_id) else { return };
        let Some(state) = topic.partition(key.partition) else { return };
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

    /// Closes a partition: who waits for it is told that it is gone.
    fn close_partition(&mut self, now: Now, key: PartitionKey, effects: &mut Vec<Effect>) {
        let Some(log) = self.partitions.find(key) else { return };
        self.resign(now, log, effects);
        let mut waiters = Vec::new();
        self.partitions.close(log, &mut waiters, &mut self.reads.woken);
        self.release(now, waiters, ErrorCode::UnknownTopicOrPartition, effects);
        self.fail_reads(log, effects);
        self.fail_queries(log, effects);
        self.log.remove_partition(log);
    }
}
