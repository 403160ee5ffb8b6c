//! Epochs do not go back, and within one epoch of a partition one node leads it: a registered one that is not fenced.
//!
//! Invariants C2 and C3 of the controller. KIP-101 and KIP-320: clients and followers compare leader epochs; KIP-631: a
//! broker that is fenced leads nothing.

use std::collections::BTreeMap;

use millstream_replication::{ClusterImage, NO_LEADER};
use millstream_storage::TopicId;

#[derive(Debug, Default)]
pub struct OneLeaderAnEpoch {
    /// By topic, partition and leader epoch.
    leaders: BTreeMap<([u8; 16], i32, i32), i32>,
}

impl OneLeaderAnEpoch {
    /// This is true, after that, before something else, as far as it is known.
    pub fn see(
        &mut self,
        before: Option<&ClusterImage>,
        image: &ClusterImage,
        after: Option<&ClusterImage>,
    ) -> Result<(), String> {
        for topic in image.topics() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let place = format!("{}-{index}", topic.name);
                let (leader, epoch) = (partition.leader, partition.leader_epoch);
                if let Some(other) = self.leaders.insert((topic.id.0, index, epoch), leader)
                    && other != leader
                {
                    return Err(format!("{place} is led by {other} and by {leader} in epoch {epoch}"));
                }
                let is_there = image.broker(leader).is_some_and(|broker| !broker.is_fenced);
                if leader != NO_LEADER && !is_there {
                    return Err(format!("{place} is led by {leader}, which is fenced or not there"));
                }
            }
        }
        before.map_or(Ok(()), |before| follows(before, image))?;
        after.map_or(Ok(()), |after| follows(image, after))
    }

    /// A client hears that a node has acknowledged records of a partition, when the node's shards were told this. It may have
    /// been fenced since it said so, and another of several replicas may lead: then it has led in an epoch before.
    pub fn acknowledged(&self, node: usize, (topic, index): (&str, usize), told: &ClusterImage) -> Result<(), String> {
        let found = told.topic(topic).map(|found| (found.id, found.partition(index as i32)));
        let Some((TopicId(id), Some(partition))) = found else {
            return Err(format!(
                "node {} has acknowledged records of {topic}-{index}, which it does not know",
                node + 1
            ));
        };
        let until = (id, index as i32, partition.leader_epoch);
        let mut leaders = self.leaders.range((id, index as i32, 0)..=until).map(|(_, leader)| *leader);
        if leaders.all(|leader| leader != node as i32 + 1) {
            let (leader, node) = (partition.leader, node + 1);
            return Err(format!("node {node} has acknowledged records of {topic}-{index}, which {leader} leads"));
        }
        Ok(())
    }
}

/// Whether no epoch goes back from one image to a later one.
fn follows(before: &ClusterImage, after: &ClusterImage) -> Result<(), String> {
    for broker in before.brokers() {
        if let Some(later) = after.broker(broker.node_id).filter(|later| later.epoch < broker.epoch) {
            return Err(format!(
                "the epoch of broker {} goes from {} to {}",
                broker.node_id, broker.epoch, later.epoch
            ));
        }
    }
    for topic in before.topics() {
        let Some(later) = after.topic_by_id(topic.id) else { continue };
        for (index, (known, new)) in topic.partitions.iter().zip(&later.partitions).enumerate() {
            let epochs =
                |partition: &millstream_replication::Partition| (partition.leader_epoch, partition.partition_epoch);
            let (known, new) = (epochs(known), epochs(new));
            if new.0 < known.0 || new.1 < known.1 {
                return Err(format!("the epochs of {}-{index} go from {known:?} to {new:?}", topic.name));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use millstream_replication::{Broker, MetadataRecord, Partition};

    use super::*;

    fn image(leader: i32, epoch: i32, is_fenced: bool) -> ClusterImage {
        let topic_id = TopicId([1; 16]);
        let mut image = ClusterImage::new();
        for node_id in [1, 2] {
            image.replay(&MetadataRecord::Broker(Broker { node_id, epoch: 1, is_fenced, ..Broker::default() }));
        }
        image.replay(&MetadataRecord::Topic { topic_id, name: "t".to_string() });
        let (replicas, isr): (Vec<i32>, Vec<i32>) = (vec![1, 2], vec![1, 2]);
        let state = Partition {
            replicas: replicas.into(),
            isr: isr.into(),
            leader,
            leader_epoch: epoch,
            partition_epoch: epoch,
        };
        image.replay(&MetadataRecord::Partition { topic_id, partition: 0, state });
        image
    }

    #[test]
    fn two_leaders_of_an_epoch_a_fenced_one_and_epochs_that_go_back_are_noticed() {
        let mut checker = OneLeaderAnEpoch::default();
        let first = image(1, 4, false);
        assert_eq!(checker.see(None, &first, None), Ok(()));
        assert!(checker.see(None, &image(2, 4, false), None).is_err(), "another leader");
        assert_eq!(checker.see(Some(&first), &image(2, 5, false), None), Ok(()));
        assert!(checker.see(Some(&first), &image(2, 3, false), None).is_err(), "an epoch goes back");
        assert!(checker.see(None, &image(2, 6, false), Some(&first)).is_err(), "an epoch goes back");
        assert!(checker.see(None, &image(1, 7, true), None).is_err(), "it is fenced");
    }

    #[test]
    fn who_acknowledges_and_never_led_is_noticed() {
        let mut checker = OneLeaderAnEpoch::default();
        for (leader, epoch) in [(1, 4), (NO_LEADER, 5), (1, 6)] {
            assert_eq!(checker.see(None, &image(leader, epoch, false), None), Ok(()));
        }
        assert_eq!(checker.acknowledged(0, ("t", 0), &image(1, 4, false)), Ok(()));
        assert_eq!(checker.acknowledged(0, ("t", 0), &image(NO_LEADER, 5, false)), Ok(()), "it is just deposed");
        assert!(checker.acknowledged(1, ("t", 0), &image(NO_LEADER, 5, false)).is_err(), "another has");
        assert!(checker.acknowledged(1, ("t", 0), &image(1, 6, false)).is_err(), "it does not lead");
        assert!(checker.acknowledged(0, ("u", 0), &image(1, 6, false)).is_err(), "it is not there");
        assert_eq!(checker.see(None, &image(2, 7, false), None), Ok(()));
        assert_eq!(checker.acknowledged(0, ("t", 0), &image(2, 7, false)), Ok(()), "it was on its way");
        assert_eq!(checker.acknowledged(1, ("t", 0), &image(2, 7, false)), Ok(()));
        assert!(checker.acknowledged(1, ("t", 0), &image(1, 6, false)).is_err(), "it leads later only");
    }
}
