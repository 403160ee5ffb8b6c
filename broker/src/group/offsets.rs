//! The committed offsets of one group.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::record::CommittedOffset;

/// What a committed offset takes beside its text, in a coordinator's count of its memory.
pub const OFFSET_BYTES: usize = 96;

/// Committed offsets by topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    bytes: usize,
}

impl Offsets {
    /// The offset committed for a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Topics with the offsets of their partitions, in order.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, CommittedOffset>)> + '_ {
        self.topics.iter()
    }

    /// The same from a topic on.
    pub fn topics_from(
        &self,
        first: Option<Arc<str>>,
    ) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, CommittedOffset>)> + '_ {
        self.topics.range::<Arc<str>, _>((first.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded))
    }

    /// All topics, partitions and offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> + '_ {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, committed)| (topic, *partition, committed))
        })
    }

    /// Whether nothing is committed.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The memory they take, in a coordinator's count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets or removes the offset of a partition.
    pub fn replay(&mut self, topic: &Arc<str>, partition: i32, value: Option<CommittedOffset>) {
        let weight = |committed: &CommittedOffset| OFFSET_BYTES + committed.metadata.len();
        match value {
            Some(committed) => {
                self.bytes += weight(&committed);
                let previous = match self.topics.get_mut(topic) {
                    Some(partitions) => partitions.insert(partition, committed),
                    None => {
                        self.bytes += topic.len();
                        self.topics.insert(topic.clone(), BTreeMap::from([(partition, committed)]));
                        None
                    }
                };
                self.bytes -= previous.as_ref().map_or(0, weight);
            }
            None => {
                let Some(partitions) = self.topics.get_mut(topic) else {
                    return;
                };
                let previous = partitions.remove(&partition);
                self.bytes -= previous.as_ref().map_or(0, weight);
                if partitions.is_empty() {
                    self.topics.remove(topic);
                    self.bytes -= topic.len();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64, metadata: &str) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: metadata.into(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
        }
    }

    #[test]
    fn the_count_of_bytes_follows_every_change_and_ends_at_nothing() {
        let mut offsets = Offsets::default();
        let topic: Arc<str> = "events".into();
        offsets.replay(&topic, 0, Some(committed(1, "abc")));
        assert_eq!(offsets.bytes(), OFFSET_BYTES + 3 + 6);
        offsets.replay(&topic, 0, Some(committed(2, "")));
        offsets.replay(&topic, 1, Some(committed(9, "")));
        assert_eq!(offsets.bytes(), 2 * OFFSET_BYTES + 6);
        assert_eq!(offsets.get("events", 0).unwrap().offset, 2);
        offsets.replay(&topic, 5, None);
        offsets.replay(&topic, 0, None);
        offsets.replay(&topic, 1, None);
        offsets.replay(&topic, 1, None);
        assert!(offsets.is_empty());
        assert_eq!(offsets.bytes(), 0);
    }
}
