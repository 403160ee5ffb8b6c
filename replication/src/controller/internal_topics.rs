//! `__consumer_offsets` has as many replicas as it was meant to have when there are brokers for them: it is created when the
//! first client of a group asks, perhaps by the first node of a cluster, before the others have joined.
//!
//! It is meant to have `offsets.topic.replication.factor` of them, by the configuration file of the active controller: the
//! controllers of a cluster are to agree about it. Kafka does not create the topic as long as there are too few brokers;
//! then a cluster of one has no groups, or its configuration says 1 and stays so.

use crate::image::{ClusterImage, Topic};
use crate::record::{Broker, MetadataRecord, Partition};
use crate::topic_name::CONSUMER_OFFSETS;

/// Most partitions that one decision gives more replicas. Others are given them with the next heartbeat of any broker.
pub const WIDENED_PER_DECISION_MAX: usize = 64;

/// The records that give partitions of `__consumer_offsets` more replicas, until each has `factor` of them or one on every
/// broker that is usable. The new ones are not in sync until they have caught up, so that nothing changes for the leader.
pub(super) fn widen(image: &ClusterImage, factor: usize) -> Vec<MetadataRecord> {
    let Some(topic) = image.topic(CONSUMER_OFFSETS) else { return Vec::new() };
    let usable: Vec<&Broker> = image.brokers().filter(|broker| broker.is_usable()).collect();
    let is_narrow = |partition: &Partition| {
        partition.replicas.len() < factor && usable.iter().any(|broker| !partition.replicas.contains(&broker.node_id))
    };
    let mut narrow = (0..).zip(&topic.partitions).filter(|(_, partition)| is_narrow(partition)).peekable();
    if narrow.peek().is_none() {
        return Vec::new();
    }
    let mut placing = Placing::of(image, topic, &usable);
    let widened = narrow.take(WIDENED_PER_DECISION_MAX).map(|(index, known)| {
        let mut replicas = known.replicas.to_vec();
        while replicas.len() < factor
            && let Some(broker) = placing.next(&replicas)
        {
            replicas.push(broker);
        }
        let partition_epoch = known.partition_epoch + 1;
        let state = Partition { replicas: replicas.into(), partition_epoch, ..known.clone() };
        MetadataRecord::Partition { topic_id: topic.id, partition: index, state }
    });
    widened.collect()
}

/// Where more replicas of a topic go.
struct Placing<'a> {
    image: &'a ClusterImage,
    brokers: Vec<Place<'a>>,
}

/// A broker that can have more replicas.
struct Place<'a> {
    broker: &'a Broker,
    /// Its replicas of the topic: those that are the first of their partition, those that are the second, and so on.
    held: Vec<usize>,
}

impl Place<'_> {
    fn add(&mut self, at: usize) {
        if self.held.len() <= at {
            self.held.resize(at + 1, 0);
        }
        self.held[at] += 1;
    }
}

impl<'a> Placing<'a> {
    fn of(image: &'a ClusterImage, topic: &Topic, usable: &[&'a Broker]) -> Placing<'a> {
        let mut brokers: Vec<_> = usable.iter().map(|broker| Place { broker, held: Vec::new() }).collect();
        for partition in &topic.partitions {
            for (at, replica) in partition.replicas.iter().enumerate() {
                if let Some(place) = brokers.iter_mut().find(|place| place.broker.node_id == *replica) {
                    place.add(at);
                }
            }
        }
        Placing { image, brokers }
    }

    /// The broker for one more replica of a partition: in the rack with the fewest of it, and there the one with the fewest of
    /// the topic. Of those that are alike the one that comes at this place least often, or one would lead all partitions when
    /// the leader of all is gone.
    fn next(&mut self, replicas: &[i32]) -> Option<i32> {
        let (image, at) = (self.image, replicas.len());
        let racks: Vec<_> = replicas.iter().filter_map(|id| image.broker(*id)).map(|broker| &broker.rack).collect();
        let others = self.brokers.iter_mut().filter(|place| !replicas.contains(&place.broker.node_id));
        let place = others.min_by_key(|place| {
            let in_rack = racks.iter().filter(|rack| **rack == &place.broker.rack).count();
            (in_rack, place.held.iter().sum::<usize>(), place.held.get(at).copied().unwrap_or(0))
        })?;
        place.add(at);
        Some(place.broker.node_id)
    }
}
