//! The target assignment: what every member is to have at an epoch of the group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millstream_replication::ClusterImage;

use super::ConsumerGroup;
use super::assignor::{AssignedTopic, Assignor, Subscriber};
use crate::group::partitions::PartitionSet;
use crate::group::record::{ConsumerMemberMetadata, ConsumerRecord};

/// A member as it is about to be, which the group does not know yet.
#[derive(Clone, Copy, Debug)]
pub struct Updated<'a> {
    /// Its id.
    pub id: &'a Arc<str>,
    /// What it says of itself.
    pub metadata: &'a ConsumerMemberMetadata,
    /// The member whose place it takes: the same instance under its id before.
    pub replaces: Option<&'a Arc<str>>,
}

impl ConsumerGroup {
    /// A number that changes when one of these topics is created, deleted, created again or extended.
    pub(super) fn hash_topics(cluster: &ClusterImage, names: &BTreeSet<&str>) -> i64 {
        let mut hash = 0u64;
        for topic in names.iter().filter_map(|name| cluster.topic(name)) {
            // FNV-1a over the topic's name, identity and size; the sum does not depend on their order.
            let count = (topic.partitions.len() as u32).to_be_bytes();
            let bytes = topic.name.bytes().chain(topic.id.0).chain(count);
            let one = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            hash = hash.wrapping_add(one);
        }
        hash as i64
    }

    /// The records of a new target for an epoch, and what `updated` is to have.
    pub(super) fn assign(
        &self,
        cluster: &ClusterImage,
        assignors: &[Assignor],
        epoch: i32,
        updated: Option<Updated<'_>>,
    ) -> (Vec<ConsumerRecord>, PartitionSet) {
        let is_there = |id: &Arc<str>| {
            updated.is_none_or(|updated| updated.id != id && updated.replaces.is_none_or(|replaced| replaced != id))
        };
        let mut members: Vec<(&Arc<str>, &ConsumerMemberMetadata, Option<&PartitionSet>)> = self
            .members
            .iter()
            .filter(|(id, _)| is_there(id))
            .map(|(id, member)| (id, &member.metadata, self.targets.get(id)))
            .collect();
        if let Some(Updated { id, metadata, replaces }) = updated {
            members.push((id, metadata, self.targets.get(replaces.unwrap_or(id))));
        }
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut topics: Vec<AssignedTopic> = Vec::new();
        let mut subscribers: Vec<Subscriber<'_>> = Vec::with_capacity(members.len());
        for (id, metadata, before) in &members {
            let mut subscribed = BTreeSet::new();
            for name in self.topics_of(metadata) {
                let place = places.get(&**name).copied().or_else(|| {
                    let topic = cluster.topic(name)?;
                    topics.push(AssignedTopic { id: topic.id, partitions: topic.partitions.len() as i32 });
                    places.insert(name, topics.len() - 1);
                    Some(topics.len() - 1)
                });
                subscribed.extend(place);
            }
            let name = metadata.instance_id.as_deref().unwrap_or(id);
            subscribers.push(Subscriber { name, topics: subscribed.into_iter().collect(), before: *before });
        }
        let assigned =
            preferred(assignors, members.iter().map(|(_, metadata, _)| *metadata)).assign(&topics, &subscribers);
        let mut records = Vec::new();
        let mut of_updated = PartitionSet::default();
        for ((id, _, _), target) in members.iter().zip(assigned) {
            if updated.is_some_and(|updated| updated.id == *id) {
                of_updated = target.clone();
            }
            if self.targets.get(*id) != Some(&target) {
                records.push(ConsumerRecord::Target((*id).clone(), Some(target)));
            }
        }
        records.push(ConsumerRecord::TargetEpoch(Some(epoch)));
        (records, of_updated)
    }

    /// The assignor that most members prefer: the first of those that are served if none does.
    pub fn assignor(&self, assignors: &[Assignor]) -> Assignor {
        preferred(assignors, self.members.values().map(|member| &member.metadata))
    }
}

fn preferred<'a>(assignors: &[Assignor], members: impl Iterator<Item = &'a ConsumerMemberMetadata>) -> Assignor {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for name in members.filter_map(|metadata| metadata.assignor.as_deref()) {
        *votes.entry(name).or_default() += 1;
    }
    let of = |assignor: &Assignor| votes.get(assignor.name()).copied().unwrap_or(0);
    let most = assignors.iter().map(of).max().unwrap_or(0);
    assignors.iter().copied().find(|assignor| of(assignor) == most).unwrap_or(Assignor::Uniform)
}
