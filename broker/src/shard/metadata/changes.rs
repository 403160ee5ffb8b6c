//! What metadata records mean for a shard, in small steps: a decision comes with the image that it made, which is known
//! all at once, so that a client that sees one of its records sees all; what it means for partitions is carried out a few
//! partitions a turn, and the next decision waits until that is done.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use millstream_replication::{ClusterImage, ConfigOwner, MetadataRecord, QuotaEntity, Topic};
use millstream_storage::{PartitionKey, TopicId};

use super::view::Metadata;

/// Partitions that one turn opens, closes or configures.
const CHANGES_MAX: usize = 64;

/// What one step of the changes means for the two halves of the shard.
#[derive(Debug, PartialEq, Eq)]
pub enum Consequence {
    /// A partition is opened, or told its role and settings.
    Open(PartitionKey),
    /// A partition is gone.
    Close(PartitionKey),
    /// All partitions of a topic are gone, and so is the topic.
    TopicGone(Arc<str>),
    /// A decision is known; what it means besides partitions.
    Adopted {
        /// Quotas of clients have changed.
        quotas: bool,
        /// Configurations of this broker, or of all, have changed.
        broker_config: bool,
        /// Quotas of addresses have changed.
        address_quotas: bool,
    },
    /// All that the decision up to this offset means is done.
    Applied { offset: u64 },
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

/// What was committed, and what is true since.
#[derive(Debug)]
struct Committed {
    /// That of the last record.
    offset: u64,
    records: Arc<Vec<MetadataRecord>>,
    image: Arc<ClusterImage>,
}

/// What metadata records mean, as far as it is not done yet.
#[derive(Debug, Default)]
pub struct Changes {
    /// Decisions of which this shard knows nothing yet.
    waiting: VecDeque<Committed>,
    /// What the last decision that it knows of means.
    left: VecDeque<Change>,
    /// Its last offset.
    offset: Option<u64>,
    /// Changes that this turn may still make.
    budget: usize,
    /// Partitions that the change at the front may still concern in this turn; `None`: this turn has not begun with it.
    partitions_max: Option<usize>,
}

impl Changes {
    /// Takes committed records, with the image that they made. Returns whether they can be carried out at once: nothing
    /// before them is left to do.
    pub fn push(&mut self, offset: u64, records: Arc<Vec<MetadataRecord>>, image: Arc<ClusterImage>) -> bool {
        assert_eq!(image.offset(), offset, "an image of other records");
        self.waiting.push_back(Committed { offset, records, image });
        self.waiting.len() == 1 && self.left.is_empty()
    }

    /// Whether there is something to do.
    pub fn is_pending(&self) -> bool {
        !self.left.is_empty() || !self.waiting.is_empty()
    }

    /// A turn begins to carry out changes: [`CHANGES_MAX`] partitions at most.
    pub fn begin_turn(&mut self) {
        self.budget = CHANGES_MAX;
        self.partitions_max = None;
    }

    /// The next step, which is to be carried out before the one after it is asked for; `None` when nothing is left, or
    /// the turn has done enough.
    pub fn advance(&mut self, metadata: &mut Metadata) -> Option<Consequence> {
        while !self.left.is_empty() {
            if self.partitions_max.is_none() {
                // Beginning with a change counts as one, too.
                self.budget = self.budget.checked_sub(1)?;
                self.partitions_max = Some(self.budget + 1);
            }
            if let Some(consequence) = self.advance_change(metadata) {
                return Some(consequence);
            }
        }
        if let Some(offset) = self.offset.take() {
            assert_eq!(metadata.image().offset(), offset, "no metadata record was left out");
            return Some(Consequence::Applied { offset });
        }
        if self.budget == 0 {
            return None;
        }
        let Committed { offset, records, image } = self.waiting.pop_front()?;
        self.offset = Some(offset);
        let before = metadata.adopt(image, &records);
        self.compare(metadata, &before, &records);
        Some(Consequence::Adopted {
            quotas: records.iter().any(|record| matches!(record, MetadataRecord::Quota { .. })),
            broker_config: records.iter().any(|record| metadata.is_broker_config(record)),
            address_quotas: records
                .iter()
                .any(|record| matches!(record, MetadataRecord::Quota { entity: QuotaEntity::Ip(_), .. })),
        })
    }

    /// Goes on with the change at the front, or ends it.
    fn advance_change(&mut self, metadata: &mut Metadata) -> Option<Consequence> {
        match self.left.front_mut()? {
            Change::Configure { topic_id } => metadata.resolve(*topic_id),
            Change::Open { topic_id, partitions } if partitions.start < partitions.end => {
                let topic_id = *topic_id;
                let partition = take_partition(partitions, &mut self.partitions_max, &mut self.budget)?;
                return Some(Consequence::Open(PartitionKey { topic_id, partition }));
            }
            Change::Close { topic_id, partitions, .. } if partitions.start < partitions.end => {
                let topic_id = *topic_id;
                let partition = take_partition(partitions, &mut self.partitions_max, &mut self.budget)?;
                return Some(Consequence::Close(PartitionKey { topic_id, partition }));
            }
            Change::Open { .. } | Change::Close { .. } => {}
        }
        self.partitions_max = None;
        match self.left.pop_front()? {
            Change::Close { name, .. } => Some(Consequence::TopicGone(name)),
            Change::Configure { .. } | Change::Open { .. } => None,
        }
    }

    /// Finds what the records of one decision mean for partitions, which is left to be done.
    fn compare(&mut self, metadata: &Metadata, before: &ClusterImage, records: &[MetadataRecord]) {
        let mut configured = BTreeSet::new();
        let mut concerns_all = false;
        let mut brokers = BTreeSet::new();
        let mut is_registered = false;
        for record in records {
            match record {
                // A topic that was created and removed by one decision has never been here.
                MetadataRecord::RemoveTopic { topic_id } => {
                    if let Some(topic) = before.topic_by_id(*topic_id) {
                        self.left.push_back(Change::Close {
                            topic_id: *topic_id,
                            name: topic.name.clone(),
                            partitions: 0..topic.partitions.len() as i32,
                        });
                    }
                }
                MetadataRecord::Partition { topic_id, partition, .. } => {
                    // Partitions of a topic are created one after the other.
                    match self.left.back_mut() {
                        Some(Change::Open { topic_id: known, partitions })
                            if topic_id == known && *partition == partitions.end =>
                        {
                            partitions.end += 1;
                        }
                        _ => self
                            .left
                            .push_back(Change::Open { topic_id: *topic_id, partitions: *partition..*partition + 1 }),
                    }
                }
                MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => {
                    configured.insert(*topic_id);
                }
                MetadataRecord::Broker(broker) => {
                    brokers.insert(broker.node_id);
                    is_registered |= broker.node_id == metadata.node_id();
                }
                MetadataRecord::BrokerChange { node_id, .. } | MetadataRecord::UnregisterBroker { node_id, .. } => {
                    brokers.insert(*node_id);
                }
                record if metadata.is_broker_config(record) => concerns_all = true,
                _ => {}
            }
        }
        // The partitions of a new topic are opened with what is configured for it.
        let is_known = |topic: &&Topic| before.topic_by_id(topic.id).is_some();
        let image = metadata.image();
        if concerns_all {
            image.topics().filter(is_known).for_each(|topic| self.update_later(topic));
        } else {
            let configured = configured.into_iter().filter_map(|id| image.topic_by_id(id));
            configured.filter(is_known).for_each(|topic| self.update_later(topic));
        }
        if !brokers.is_empty() {
            self.update_replicas_later(metadata, &brokers, is_registered);
        }
    }

    /// Something has changed of these brokers: the replicas of partitions that they hold as well are told. Where this broker
    /// holds one alone, only its registration matters.
    fn update_replicas_later(&mut self, metadata: &Metadata, brokers: &BTreeSet<i32>, is_registered: bool) {
        for topic in metadata.image().topics() {
            let mut partitions = 0..0;
            for (index, partition) in (0..).zip(&topic.partitions) {
                let replicas = &partition.replicas;
                let is_concerned = replicas.contains(&metadata.node_id())
                    && (is_registered || replicas.len() > 1)
                    && replicas.iter().any(|broker| brokers.contains(broker));
                if is_concerned && index == partitions.end && !partitions.is_empty() {
                    partitions.end += 1;
                } else if is_concerned {
                    self.open_later(topic.id, std::mem::replace(&mut partitions, index..index + 1));
                }
            }
            self.open_later(topic.id, partitions);
        }
    }

    fn open_later(&mut self, topic_id: TopicId, partitions: Range<i32>) {
        if !partitions.is_empty() {
            self.left.push_back(Change::Open { topic_id, partitions });
        }
    }

    /// What is configured for a topic has changed: its partitions are told.
    fn update_later(&mut self, topic: &Topic) {
        self.left.push_back(Change::Configure { topic_id: topic.id });
        self.left.push_back(Change::Open { topic_id: topic.id, partitions: 0..topic.partitions.len() as i32 });
    }
}

/// The next of these partitions, unless this turn has done enough of them: then the change waits for the next one.
fn take_partition(partitions: &mut Range<i32>, partitions_max: &mut Option<usize>, budget: &mut usize) -> Option<i32> {
    *partitions_max = partitions_max.and_then(|max| max.checked_sub(1));
    (*partitions_max)?;
    *budget = budget.saturating_sub(1);
    partitions.next()
}

#[cfg(test)]
mod tests {
    use millstream_replication::Partition;
    use millstream_replication::config::Properties;

    use super::*;

    const TOPIC: TopicId = TopicId([7; 16]);
    const NODE_ID: i32 = 1;

    /// A process with one shard: what its controller commits, its shard is told.
    struct Process {
        image: Arc<ClusterImage>,
        metadata: Metadata,
        changes: Changes,
    }

    impl Process {
        fn new() -> Process {
            let image = Arc::new(ClusterImage::new());
            let metadata = Metadata::new(Arc::clone(&image), NODE_ID, Arc::new(Properties::new()));
            Process { image, metadata, changes: Changes::default() }
        }

        fn commit(&mut self, records: Vec<MetadataRecord>) -> bool {
            let image = Arc::make_mut(&mut self.image);
            records.iter().for_each(|record| image.replay(record));
            self.changes.push(self.image.offset(), Arc::new(records), Arc::clone(&self.image))
        }

        fn turn(&mut self) -> Vec<Consequence> {
            self.changes.begin_turn();
            std::iter::from_fn(|| self.changes.advance(&mut self.metadata)).collect()
        }
    }

    fn topic(partitions: i32) -> Vec<MetadataRecord> {
        let topic = MetadataRecord::Topic { topic_id: TOPIC, name: "t".into() };
        [topic].into_iter().chain((0..partitions).map(partition)).collect()
    }

    fn partition(partition: i32) -> MetadataRecord {
        let state = Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 };
        MetadataRecord::Partition { topic_id: TOPIC, partition, state }
    }

    fn config(owner: ConfigOwner, name: &str) -> MetadataRecord {
        MetadataRecord::Config { owner, name: name.into(), value: Some("5000".into()) }
    }

    fn opened(steps: &[Consequence]) -> Vec<i32> {
        let opened = steps.iter().filter_map(|step| match step {
            Consequence::Open(key) => Some(key.partition),
            _ => None,
        });
        opened.collect()
    }

    #[test]
    fn a_turn_concerns_few_partitions_and_the_next_decision_waits() {
        let mut process = Process::new();
        let count = CHANGES_MAX as i32 + 10;
        assert!(process.commit(topic(count)), "it can begin at once");
        let offset = process.image.offset();
        assert!(!process.commit(vec![MetadataRecord::RemoveTopic { topic_id: TOPIC }]), "there is one before it");

        let steps = process.turn();
        assert!(matches!(steps[0], Consequence::Adopted { quotas: false, broker_config: false, .. }));
        assert_eq!((opened(&steps).len(), steps.len()), (CHANGES_MAX, CHANGES_MAX + 1));
        assert!(process.metadata.image().topic("t").is_some(), "the removal waits");

        let steps = process.turn();
        assert_eq!(opened(&steps).len(), 10);
        assert_eq!(steps[10], Consequence::Applied { offset });
        assert!(process.metadata.image().topic("t").is_none());
        assert_eq!(steps[12], Consequence::Close(PartitionKey { topic_id: TOPIC, partition: 0 }));

        let steps = process.turn();
        let end = &steps[steps.len() - 2..];
        assert_eq!(end, [Consequence::TopicGone("t".into()), Consequence::Applied { offset: offset + 1 }]);
        assert!(!process.changes.is_pending());
        assert_eq!(process.turn(), []);
    }

    #[test]
    fn a_shard_has_the_image_that_its_process_has() {
        let mut process = Process::new();
        process.commit(topic(3));
        process.turn();
        assert!(std::ptr::eq(process.metadata.image(), &*process.image));
    }

    #[test]
    fn partitions_are_told_what_is_configured_once_a_decision() {
        let mut process = Process::new();
        let of_topic = ConfigOwner::Topic(TOPIC);
        process.commit([topic(3), vec![config(of_topic, "retention.ms")]].concat());
        assert_eq!(opened(&process.turn()), [0, 1, 2], "with what is configured at once");
        assert_eq!(process.metadata.settings(TOPIC).log.retention_ms, 5000);

        process.commit(vec![config(of_topic, "segment.ms"), config(of_topic, "max.message.bytes")]);
        assert_eq!(opened(&process.turn()), [0, 1, 2]);
        process.commit(vec![config(ConfigOwner::Broker(NODE_ID + 1), "log.roll.ms")]);
        assert_eq!(opened(&process.turn()), [], "another broker's");
        let own = ConfigOwner::Broker(NODE_ID);
        process.commit(vec![config(own, "log.roll.ms"), config(ConfigOwner::Cluster, "log.retention.ms")]);
        assert_eq!(opened(&process.turn()), [0, 1, 2]);
        process.commit(vec![partition(3), partition(4)]);
        assert_eq!(opened(&process.turn()), [3, 4]);
    }

    #[test]
    fn a_topic_that_comes_and_goes_with_one_decision_was_never_there() {
        let mut process = Process::new();
        process.commit(topic(1));
        process.turn();
        let remove = || MetadataRecord::RemoveTopic { topic_id: TOPIC };
        let other = TopicId([8; 16]);
        let again = MetadataRecord::Topic { topic_id: other, name: "t".into() };
        let gone_again = MetadataRecord::RemoveTopic { topic_id: other };
        process.commit(vec![partition(1), remove(), again, gone_again]);
        let steps = process.turn();
        assert_eq!(steps.iter().filter(|step| matches!(step, Consequence::TopicGone(_))).count(), 1);
        let closed = steps.iter().filter(|step| matches!(step, Consequence::Close(_))).count();
        assert_eq!(closed, 1, "the one that was opened");
        assert!(process.metadata.image().topics().next().is_none());
    }
}
