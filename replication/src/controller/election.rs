//! Who leads a partition: one rule, whatever has happened to brokers (Kafka's `PartitionChangeBuilder`).

use millstream_storage::bug::{Bug, is_planted};

use crate::broker_ids::BrokerIds;
use crate::image::{ClusterImage, PARTITIONS_PER_CLUSTER_MAX};
use crate::log::codec::PARTITION_BYTES_MAX;
use crate::quorum::ENTRY_PAYLOAD_BYTES_MAX;
use crate::record::{Broker, MetadataRecord, NO_LEADER, Partition};
use crate::rule::{Rule, holds};

// A change of one broker may change every partition of the cluster, and is one decision: it fits one entry of the log.
const _: () = assert!(PARTITIONS_PER_CLUSTER_MAX * PARTITION_BYTES_MAX <= ENTRY_PAYLOAD_BYTES_MAX / 2);

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

/// A broker that does not stay in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It is fenced, or wants to stop: it leaves the in-sync set, but as its last member, which has everything.
    Fenced(i32),
    /// It has come back and may have lost what it had said to have: it leaves the in-sync set also as its last member.
    Unclean(i32),
}

/// The partition after a change of a broker, or none if it stays as it is: `usable` are the brokers that may lead then, and
/// `leaving` does not stay in sync. The leader epoch grows when the leader changes, the partition epoch with every change.
pub fn change(partition: &Partition, usable: &[i32], leaving: Option<Leaving>) -> Option<Partition> {
    let without = |gone| -> BrokerIds { partition.isr.iter().copied().filter(|node| *node != gone).collect() };
    let isr = match leaving {
        None => partition.isr.clone(),
        Some(Leaving::Unclean(node)) if holds(Rule::UncleanRestartLeaves) => without(node),
        Some(Leaving::Fenced(node) | Leaving::Unclean(node)) => {
            Some(without(node)).filter(|rest| !rest.is_empty()).unwrap_or_else(|| partition.isr.clone())
        }
    };
    let mut state = Partition { isr, ..partition.clone() };
    state.leader = leader(&state, usable);
    state.leader_epoch += i32::from(state.leader != partition.leader);
    if state == *partition {
        return None;
    }
    state.partition_epoch += 1;
    state.check().expect("a leader in sync, of those who were in sync");
    Some(state)
}

/// The records that give every partition the leader and the in-sync set that it has when only these brokers are usable, and
/// `leaving` does not stay in sync.
///
/// Who has lost its disk stays in sync where it is the only replica: nobody else could have more. What was there is lost,
/// and the partition begins anew, as in Kafka.
pub(super) fn elect(image: &ClusterImage, usable: &[i32], leaving: Option<Leaving>) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    for topic in image.topics() {
        let topic_id = topic.id;
        for (partition, known) in (0..).zip(&topic.partitions) {
            let leaving = match leaving {
                Some(Leaving::Unclean(node)) if known.replicas == [node] => Some(Leaving::Fenced(node)),
                leaving => leaving,
            };
            let state = change(known, usable, leaving);
            records.extend(state.map(|state| MetadataRecord::Partition { topic_id, partition, state }));
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

    /// In sync | leader | usable brokers | fenced | in sync then | who leads then; of replicas 1, 2 and 3.
    const LEAVING: &str = "
        1 2 3 | 1 | 2 3 | 1 | 2 3 | 2
        1 2 3 | 1 | 1 2 | 3 | 1 2 | 1
        1     | 1 | 2 3 | 1 | 1   | none  the last has everything
        1 2   | 1 | 3   | 1 | 2   | none
        1 2   | 1 | 1 2 | 3 | 1 2 | 1     it was not in sync
    ";

    #[test]
    fn who_is_fenced_leaves_the_in_sync_set_but_as_its_last_member() {
        for row in LEAVING.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let numbers = |text: &str| -> Vec<i32> { text.split_whitespace().map_while(|n| n.parse().ok()).collect() };
            let [isr, before, usable, gone, isr_after, after] = &row.split('|').map(numbers).collect::<Vec<_>>()[..]
            else {
                panic!("{row}");
            };
            let isr = isr.clone().into();
            let partition =
                Partition { replicas: [1, 2, 3].into(), isr, leader: before[0], leader_epoch: 4, partition_epoch: 6 };
            let leader = after.first().copied().unwrap_or(NO_LEADER);
            let leader_epoch = if leader == before[0] { 4 } else { 5 };
            let expected = Partition {
                isr: isr_after.clone().into(),
                leader,
                leader_epoch,
                partition_epoch: 7,
                ..partition.clone()
            };
            let has_changed = expected.isr != partition.isr || leader != before[0];
            let changed = change(&partition, usable, Some(Leaving::Fenced(gone[0])));
            assert_eq!(changed, has_changed.then_some(expected), "{row}");
        }
    }

    #[test]
    fn who_may_have_lost_something_leaves_even_as_the_last() {
        let isr = [2].into();
        let partition =
            Partition { replicas: [1, 2].into(), isr, leader: NO_LEADER, leader_epoch: 4, partition_epoch: 6 };
        let nobody = Partition { isr: [].into(), partition_epoch: 7, ..partition.clone() };
        assert_eq!(change(&partition, &[1, 2], Some(Leaving::Unclean(2))), Some(nobody.clone()));
        assert_eq!(change(&nobody, &[1, 2], None), None, "nobody is elected who may lack something");
        let leads = Partition { leader: 2, leader_epoch: 5, partition_epoch: 7, ..partition.clone() };
        assert_eq!(change(&partition, &[1, 2], None), Some(leads));
    }
}
