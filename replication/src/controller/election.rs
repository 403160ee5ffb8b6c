//! Who leads a partition: one rule, whatever has happened to brokers (Kafka's `PartitionChangeBuilder`).

use millstream_storage::bug::{Bug, is_planted};

use crate::image::ClusterImage;
use crate::record::{Broker, MetadataRecord, NO_LEADER, Partition};

/// The brokers that may lead: registered, not fenced, and not about to stop.
pub(super) fn usable_brokers(image: &ClusterImage) -> Vec<i32> {
    let is_usable = |broker: &&Broker| broker.is_usable() || is_planted(Bug::LeadWhileFenced);
    image.brokers().filter(is_usable).map(|broker| broker.node_id).collect()
}

/// The leader of a partition when only these brokers are usable: the one that it has, if that may stay; else the first
/// replica that is in sync and usable; else none.
pub(super) fn leader(partition: &Partition, usable: &[i32]) -> i32 {
    let may_lead = |node: &i32| usable.contains(node) && partition.isr.contains(node);
    let candidates = [partition.leader].into_iter().chain(partition.replicas.iter().copied());
    candidates.into_iter().find(may_lead).unwrap_or(NO_LEADER)
}

/// The records that give every partition the leader that it has when only these brokers are usable.
pub(super) fn elect(image: &ClusterImage, usable: &[i32]) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    for topic in image.topics() {
        for (partition, known) in (0..).zip(&topic.partitions) {
            let leader = leader(known, usable);
            if leader != known.leader {
                let state = Partition {
                    leader,
                    leader_epoch: known.leader_epoch + 1,
                    partition_epoch: known.partition_epoch + 1,
                    ..known.clone()
                };
                records.push(MetadataRecord::Partition { topic_id: topic.id, partition, state });
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas | in sync | leader | usable brokers | who leads then.
    const TABLE: &str = "
        1     | 1     | 1 | 1     | 1
        1     | 1     | 1 | 2 3   | none
        1     | 1     | - | 1     | 1
        1     | 1     | - |       | none
        1 2 3 | 1 2 3 | 1 | 1 2 3 | 1
        1 2 3 | 1 2 3 | 3 | 1 2 3 | 3     it stays though it is not the preferred one
        1 2 3 | 1 2 3 | 1 | 2 3   | 2
        3 2 1 | 1 2 3 | 1 | 2 3   | 3
        1 2 3 | 3 2 1 | 1 | 2 3   | 2     in the order of the replicas, whatever that of the in-sync set
        1 2 3 | 1 3   | 1 | 2 3   | 3     who is not in sync does not lead, usable or not
        1 2 3 | 1     | 1 | 2 3   | none
        1 2 3 | 2 3   | - | 1 3   | 3
        1 2 3 |       | - | 1 2 3 | none
        1 2   | 1 2   | 1 | 4     | none  who is usable and holds nothing does not lead
    ";

    #[test]
    fn a_leader_stays_or_the_first_replica_in_sync_follows_or_nobody() {
        let rows = TABLE.lines().map(str::trim).filter(|row| !row.is_empty());
        for row in rows {
            let numbers = |text: &str| -> Vec<i32> { text.split_whitespace().map_while(|n| n.parse().ok()).collect() };
            let [replicas, isr, before, usable, after] = &row.split('|').map(numbers).collect::<Vec<_>>()[..] else {
                panic!("{row}");
            };
            let one = |numbers: &Vec<i32>| numbers.first().copied().unwrap_or(NO_LEADER);
            let (leader_epoch, partition_epoch) = (0, 0);
            let (replicas, isr) = (replicas.clone(), isr.clone());
            let partition = Partition {
                replicas: replicas.into(),
                isr: isr.into(),
                leader: one(before),
                leader_epoch,
                partition_epoch,
            };
            assert_eq!(leader(&partition, usable), one(after), "{row}");
        }
    }
}
