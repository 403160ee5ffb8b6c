//! A set of partitions of several topics: what a member of a consumer group has, or is to have.

use std::collections::{BTreeMap, BTreeSet};

use millstream_storage::TopicId;

/// What one partition of a set takes, in a coordinator's count of its memory.
pub const PARTITION_BYTES: usize = 32;

/// Partitions by topic. No topic is there without a partition, so that equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSet {
    topics: BTreeMap<TopicId, BTreeSet<i32>>,
    len: usize,
}

impl PartitionSet {
    /// Adds a partition; whether it was not there.
    pub fn insert(&mut self, topic: TopicId, partition: i32) -> bool {
        let is_new = self.topics.entry(topic).or_default().insert(partition);
        self.len += usize::from(is_new);
        is_new
    }

    /// Removes a partition; whether it was there.
    pub fn remove(&mut self, topic: TopicId, partition: i32) -> bool {
        let Some(partitions) = self.topics.get_mut(&topic) else { return false };
        let was_there = partitions.remove(&partition);
        if partitions.is_empty() {
            self.topics.remove(&topic);
        }
        self.len -= usize::from(was_there);
        was_there
    }

    /// Whether a partition is in it.
    pub fn contains(&self, topic: TopicId, partition: i32) -> bool {
        self.topics.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    /// How many partitions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether each of these is in the other.
    pub fn is_subset(&self, other: &PartitionSet) -> bool {
        self.len <= other.len && self.iter().all(|(topic, partition)| other.contains(topic, partition))
    }

    /// Whether one of these is in the other.
    pub fn intersects(&self, other: &PartitionSet) -> bool {
        self.iter().any(|(topic, partition)| other.contains(topic, partition))
    }

    /// The topics with their partitions, in order.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicId, &BTreeSet<i32>)> + '_ {
        self.topics.iter().map(|(topic, partitions)| (*topic, partitions))
    }

    /// Every partition, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, i32)> + '_ {
        self.topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
    }

    /// The memory it takes, in a coordinator's count.
    pub fn bytes(&self) -> usize {
        self.len * PARTITION_BYTES + self.topics.len() * 2 * PARTITION_BYTES
    }
}

impl FromIterator<(TopicId, i32)> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = (TopicId, i32)>>(partitions: I) -> Self {
        let mut set = PartitionSet::default();
        for (topic, partition) in partitions {
            set.insert(topic, partition);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_lost_all_its_partitions_is_the_empty_one() {
        let (a, b) = (TopicId([1; 16]), TopicId([2; 16]));
        let mut set = PartitionSet::from_iter([(b, 1), (a, 0), (b, 1), (b, 0)]);
        assert_eq!(set.len(), 3);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(a, 0), (b, 0), (b, 1)]);
        let part = PartitionSet::from_iter([(b, 0)]);
        assert!(part.is_subset(&set) && !set.is_subset(&part) && part.intersects(&set));
        for (topic, partition) in [(a, 0), (b, 0), (b, 1)] {
            assert!(set.remove(topic, partition) && !set.remove(topic, partition));
        }
        assert_eq!(set, PartitionSet::default());
        assert_eq!(set.bytes(), 0);
        assert!(!part.intersects(&set));
    }
}
