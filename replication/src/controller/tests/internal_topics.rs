//! `__consumer_offsets` grows with the cluster.

use std::collections::BTreeMap;

use super::*;
use crate::topic_name::CONSUMER_OFFSETS;

impl Cluster {
    /// A process of a broker in a rack registers and is unfenced.
    fn start_in_rack(&mut self, node_id: i32, rack: &str) {
        let epoch = self.image.offset() as i64 + 1;
        let rack = Some(rack.to_string());
        let (is_fenced, shards) = (true, 4);
        let broker = Broker { node_id, epoch, rack, is_fenced, shards, ..Broker::default() };
        self.image.replay(&MetadataRecord::Broker(broker));
        self.beat_once(node_id);
    }

    fn beat_once(&mut self, node_id: i32) -> usize {
        let epoch = self.image.broker(node_id).expect("it is registered").epoch;
        let (applied_offset, want_fence, want_shutdown) = (self.image.offset(), false, false);
        let beat = ControllerRequest::BrokerHeartbeat { node_id, epoch, applied_offset, want_fence, want_shutdown };
        let before = self.image.clone();
        let decision = self.decide(beat);
        decision.records.iter().for_each(|record| self.image.replay(record));
        assert_eq!(check_decision(&before, &self.image), Ok(()));
        decision.records.len()
    }

    fn offsets(&self) -> Vec<Partition> {
        let topic = self.image.topic(CONSUMER_OFFSETS).expect("it is there");
        topic.partitions.iter().cloned().collect()
    }

    /// How many replicas every broker has.
    fn held(&self) -> Vec<(i32, usize)> {
        let mut held: BTreeMap<i32, usize> = self.image.brokers().map(|broker| (broker.node_id, 0)).collect();
        for partition in self.offsets() {
            partition.replicas.iter().for_each(|broker| *held.get_mut(broker).expect("it is registered") += 1);
        }
        held.into_iter().collect()
    }
}

#[test]
fn the_offsets_topic_gets_its_replicas_when_there_are_brokers_for_them() {
    let mut cluster = Cluster::new(&[], 1);
    cluster.create_one(topic(CONSUMER_OFFSETS, 50, 3)).unwrap();
    cluster.create_one(topic("other", 4, 1)).unwrap();
    assert_eq!(cluster.beat_once(1), 0, "one broker alone has one replica");
    cluster.register(2).unwrap();
    assert_eq!(cluster.beat_once(1), 0, "who is fenced is given nothing");
    cluster.start(2);
    assert_eq!(cluster.held(), [(1, 50), (2, 50)]);
    cluster.start(3);
    assert_eq!(cluster.held(), [(1, 50), (2, 50), (3, 50)]);
    for partition in cluster.offsets() {
        let Partition { replicas, isr, leader, leader_epoch, partition_epoch } = partition;
        assert_eq!((&isr[..], leader, leader_epoch, partition_epoch), (&[1][..], 1, 0, 2), "the leader goes on");
        assert_eq!(replicas[0], 1, "and is the preferred one");
    }
    cluster.start(4);
    assert_eq!(cluster.held(), [(1, 50), (2, 50), (3, 50), (4, 0)], "it has as many as was configured");
    assert!(cluster.image.topic("other").unwrap().partitions.iter().all(|partition| partition.replicas == [1]));
}

#[test]
fn two_brokers_that_come_at_once_follow_different_partitions_first() {
    let mut cluster = Cluster::new(&[("offsets.topic.replication.factor", "2")], 1);
    cluster.create_one(topic(CONSUMER_OFFSETS, 50, 3)).unwrap();
    for node_id in [2, 3] {
        let broker = Broker { node_id, epoch: cluster.image.offset() as i64 + 1, ..Broker::default() };
        cluster.image.replay(&MetadataRecord::Broker(broker));
    }
    cluster.beat_once(2);
    assert_eq!(cluster.held(), [(1, 50), (2, 25), (3, 25)]);

    let mut cluster = Cluster::new(&[], 1);
    cluster.create_one(topic(CONSUMER_OFFSETS, 50, 3)).unwrap();
    for node_id in [2, 3] {
        let broker = Broker { node_id, epoch: cluster.image.offset() as i64 + 1, ..Broker::default() };
        cluster.image.replay(&MetadataRecord::Broker(broker));
    }
    cluster.beat_once(2);
    let second = |node: i32| cluster.offsets().iter().filter(|partition| partition.replicas[1] == node).count();
    assert_eq!((second(2), second(3)), (25, 25), "who leads when the first is gone");
}

#[test]
fn other_racks_come_first() {
    let mut cluster = Cluster::new(&[("offsets.topic.replication.factor", "2")], 0);
    cluster.start_in_rack(1, "a");
    cluster.create_one(topic(CONSUMER_OFFSETS, 10, 3)).unwrap();
    for (node_id, rack) in [(2, "a"), (3, "b"), (4, "b")] {
        let (epoch, rack) = (cluster.image.offset() as i64 + 1, Some(rack.to_string()));
        cluster.image.replay(&MetadataRecord::Broker(Broker { node_id, epoch, rack, ..Broker::default() }));
    }
    cluster.beat_once(1);
    assert_eq!(cluster.held(), [(1, 10), (2, 0), (3, 5), (4, 5)]);
}

#[test]
fn one_decision_widens_so_many_partitions_and_the_next_ones_the_rest() {
    let mut cluster = Cluster::new(&[], 1);
    let count = WIDENED_PER_DECISION_MAX * 2 + 1;
    cluster.create_one(topic(CONSUMER_OFFSETS, count as i32, 3)).unwrap();
    cluster.start(2);
    let wide = |cluster: &Cluster| cluster.offsets().iter().filter(|partition| partition.replicas.len() == 2).count();
    assert_eq!(wide(&cluster), WIDENED_PER_DECISION_MAX);
    assert_eq!(cluster.beat_once(1), WIDENED_PER_DECISION_MAX);
    assert_eq!(cluster.beat_once(2), 1);
    assert_eq!((cluster.beat_once(1), wide(&cluster)), (0, count));
}
