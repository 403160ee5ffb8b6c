//! What metadata records mean for a shard, in small steps: a decision is replayed all at once, so that a client that
//! sees one of its records sees all; what it means for partitions is carried out a few partitions a turn, and the next
//! decision waits until that is done.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use millstream_replication::{ConfigOwner, MetadataRecord, QuotaEntity};
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
    /// A decision was replayed; what it means besides partitions.
    Replayed {
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

/// What metadata records mean, as far as it is not done yet.
#[derive(Debug, Default)]
pub struct Changes {
    /// Decisions that are not replayed yet.
    waiting: VecDeque<(u64, Arc<Vec<MetadataRecord>>)>,
    /// What the decision that was replayed last means.
    left: VecDeque<Change>,
    /// Its last offset.
    offset: Option<u64>,
    /// Changes that this turn may still make.
    budget: usize,
    /// Partitions that the change at the front may still concern in this turn; `None`: this turn has not begun with it.
    partitions_max: Option<usize>,
}

impl Changes {
    /// Takes committed records. Returns whether they can be carried out at once: nothing before them is left to do.
    pub fn push(&mut self, offset: u64, records: Arc<Vec<MetadataRecord>>) -> bool {
        self.waiting.push_back((offset, records));
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
        let (offset, records) = self.waiting.pop_front()?;
        self.offset = Some(offset);
        self.replay(metadata, &records);
        Some(Consequence::Replayed {
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

    /// Replays the records of one decision. What they mean for partitions is left to be done.
    fn replay(&mut self, metadata: &mut Metadata, records: &[MetadataRecord]) {
        for record in records {
            let change = match record {
                MetadataRecord::RemoveTopic { topic_id } => {
                    metadata.image().topic_by_id(*topic_id).map(|topic| Change::Close {
                        topic_id: *topic_id,
                        name: topic.name.clone(),
                        partitions: 0..topic.partitions.len() as i32,
                    })
                }
                MetadataRecord::Partition { topic_id, partition, .. } => {
                    Some(Change::Open { topic_id: *topic_id, partitions: *partition..*partition + 1 })
                }
                _ => None,
            };
            metadata.replay(record);
            match record {
                MetadataRecord::Topic { topic_id, .. } => metadata.resolve(*topic_id),
                MetadataRecord::Config { owner: ConfigOwner::Topic(topic_id), .. } => {
                    metadata.resolve(*topic_id);
                    self.update_later(metadata, *topic_id);
                }
                MetadataRecord::Config { .. } => {
                    let ids: Vec<TopicId> = metadata.image().topics().map(|topic| topic.id).collect();
                    ids.into_iter().for_each(|id| self.update_later(metadata, id));
                }
                _ => {}
            }
            match (change, self.left.back_mut()) {
                // Partitions of a topic are created one after the other.
                (
                    Some(Change::Open { topic_id, partitions }),
                    Some(Change::Open { topic_id: known, partitions: before }),
                ) if topic_id == *known && partitions.start == before.end => {
                    before.end = partitions.end;
                }
                (Some(change), _) => self.left.push_back(change),
                (None, _) => {}
            }
        }
    }

    /// A topic's configuration has changed: its partitions are told.
    fn update_later(&mut self, metadata: &Metadata, topic_id: TopicId) {
        let count = metadata.image().topic_by_id(topic_id).map_or(0, |topic| topic.partitions.len());
        self.left.push_back(Change::Configure { topic_id });
        self.left.push_back(Change::Open { topic_id, partitions: 0..count as i32 });
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
    use millstream_replication::config::Properties;
    use millstream_replication::{ClusterImage, Partition};

    use super::*;

    const TOPIC: TopicId = TopicId([7; 16]);

    fn topic(partitions: i32) -> Vec<MetadataRecord> {
        let state = Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 };
        let partition = |partition| MetadataRecord::Partition { topic_id: TOPIC, partition, state: state.clone() };
        let topic = MetadataRecord::Topic { topic_id: TOPIC, name: "t".into() };
        [topic].into_iter().chain((0..partitions).map(partition)).collect()
    }

    fn turn(changes: &mut Changes, metadata: &mut Metadata) -> Vec<Consequence> {
        changes.begin_turn();
        std::iter::from_fn(|| changes.advance(metadata)).collect()
    }

    #[test]
    fn a_turn_concerns_few_partitions_and_the_next_decision_waits() {
        let mut metadata = Metadata::new(ClusterImage::new(), 1, Arc::new(Properties::new()));
        let mut changes = Changes::default();
        let count = CHANGES_MAX as i32 + 10;
        let created = topic(count);
        let offset = created.len() as u64;
        assert!(changes.push(offset, Arc::new(created)), "it can begin at once");
        let removed = Arc::new(vec![MetadataRecord::RemoveTopic { topic_id: TOPIC }]);
        assert!(!changes.push(offset + 1, removed), "there is one before it");

        let opened = |steps: &[Consequence]| {
            steps.iter().filter(|step| matches!(step, Consequence::Open(key) if key.topic_id == TOPIC)).count()
        };
        let steps = turn(&mut changes, &mut metadata);
        assert!(matches!(steps[0], Consequence::Replayed { quotas: false, broker_config: false, .. }));
        assert_eq!((opened(&steps), steps.len()), (CHANGES_MAX, CHANGES_MAX + 1));
        assert!(metadata.image().topic("t").is_some(), "the removal waits");

        let steps = turn(&mut changes, &mut metadata);
        assert_eq!(opened(&steps), 10);
        assert_eq!(steps[10], Consequence::Applied { offset });
        assert!(metadata.image().topic("t").is_none());
        assert_eq!(steps[12], Consequence::Close(PartitionKey { topic_id: TOPIC, partition: 0 }));

        let steps = turn(&mut changes, &mut metadata);
        let end = &steps[steps.len() - 2..];
        assert_eq!(end, [Consequence::TopicGone("t".into()), Consequence::Applied { offset: offset + 1 }]);
        assert!(!changes.is_pending());
        assert_eq!(turn(&mut changes, &mut metadata), []);
    }
}
