//! What a shard follows, and so to which shards of which nodes it keeps streams.

use std::collections::{BTreeMap, HashMap};

use millstream_replication::{ClusterImage, NO_LEADER};
use millstream_storage::PartitionKey;

use crate::shard::options::ShardOptions;

/// A shard of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leader {
    /// The node.
    pub node: i32,
    /// Its shard.
    pub shard: u32,
}

/// Whom this shard follows for a partition: the shard of another node that leads it, if this one holds a replica of it.
pub fn leader_of(options: &ShardOptions, image: &ClusterImage, key: PartitionKey) -> Option<Leader> {
    let state = image.topic_by_id(key.topic_id)?.partition(key.partition)?;
    let is_held = options.owner(key) == options.index && state.replicas.contains(&options.node_id);
    if !is_held || state.leader == options.node_id || state.leader == NO_LEADER {
        return None;
    }
    let shards = image.broker(state.leader)?.shards;
    (shards > 0).then(|| Leader { node: state.leader, shard: key.shard(shards as usize) as u32 })
}

/// Whom this shard follows for how many partitions.
#[derive(Clone, Debug, Default)]
pub struct Following {
    partitions: HashMap<PartitionKey, Leader>,
    leaders: BTreeMap<Leader, usize>,
}

impl Following {
    /// What an image says of all partitions.
    pub fn new(options: &ShardOptions, image: &ClusterImage) -> Following {
        let mut following = Following::default();
        for topic in image.topics() {
            for partition in 0..topic.partitions.len() as i32 {
                following.update(options, image, PartitionKey { topic_id: topic.id, partition });
            }
        }
        following
    }

    /// Something is known anew of a partition, or it is gone. Returns whether other leaders are followed than before.
    pub fn update(&mut self, options: &ShardOptions, image: &ClusterImage, key: PartitionKey) -> bool {
        let now = leader_of(options, image, key);
        let before = match now {
            Some(leader) => self.partitions.insert(key, leader),
            None => self.partitions.remove(&key),
        };
        if now == before {
            return false;
        }
        let mut has_changed = false;
        if let Some(leader) = now {
            let partitions = self.leaders.entry(leader).or_default();
            *partitions += 1;
            has_changed |= *partitions == 1;
        }
        if let Some(leader) = before {
            let partitions = self.leaders.get_mut(&leader).expect("it was counted");
            *partitions -= 1;
            if *partitions == 0 {
                self.leaders.remove(&leader);
                has_changed = true;
            }
        }
        has_changed
    }

    /// Brokers may have other numbers of shards. Returns whether other leaders are followed than before.
    pub fn update_all(&mut self, options: &ShardOptions, image: &ClusterImage) -> bool {
        let mut keys: Vec<PartitionKey> = self.partitions.keys().copied().collect();
        keys.sort_unstable();
        let mut has_changed = false;
        for key in keys {
            has_changed |= self.update(options, image, key);
        }
        has_changed
    }

    /// Whom this shard follows for a partition.
    pub fn leader_of(&self, key: PartitionKey) -> Option<Leader> {
        self.partitions.get(&key).copied()
    }

    /// What is followed at a leader, in order.
    pub fn partitions_of(&self, leader: Leader) -> Vec<PartitionKey> {
        let of_leader = self.partitions.iter().filter(|(_, of)| **of == leader);
        let mut keys: Vec<PartitionKey> = of_leader.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Whom this shard follows.
    pub fn leaders(&self) -> impl Iterator<Item = Leader> + '_ {
        self.leaders.keys().copied()
    }
}
