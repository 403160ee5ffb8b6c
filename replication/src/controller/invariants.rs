//! What holds of partitions from one decision to the next, whatever was asked. Simulators ask; nothing else does.

use crate::image::ClusterImage;
use crate::record::{Broker, NO_LEADER, Partition};

/// Whether the partitions of an image may follow those of another one, which was true before one decision: `after` is
/// `before` and the records of that decision.
///
/// The in-sync set is not empty, but after its last member has lost its disk. Who joins it is not fenced; who is fenced is in
/// none, but as its last member. The leader is in sync and not fenced, and was in sync before. Epochs grow: that of the leader
/// with each leader, that of the partition with each change.
pub fn check_decision(before: &ClusterImage, after: &ClusterImage) -> Result<(), String> {
    for topic in after.topics() {
        let known = before.topic_by_id(topic.id);
        for (index, state) in (0..).zip(&topic.partitions) {
            let known = known.and_then(|known| known.partition(index));
            let checked = check_state(after, known, state)
                .and_then(|()| known.map_or(Ok(()), |known| check_change(before, after, known, state)));
            checked.map_err(|why| format!("{}-{index}: {why}: {known:?} becomes {state:?}", topic.name))?;
        }
    }
    Ok(())
}

fn is_usable(image: &ClusterImage, node_id: i32) -> bool {
    image.broker(node_id).is_some_and(Broker::is_usable)
}

fn check_state(after: &ClusterImage, known: Option<&Partition>, state: &Partition) -> Result<(), String> {
    state.check()?;
    if state.leader != NO_LEADER && !is_usable(after, state.leader) {
        return Err(format!("{} leads, which is fenced or not there", state.leader));
    }
    for member in &state.isr {
        if is_usable(after, *member) {
            continue;
        }
        if !known.is_some_and(|known| known.isr.contains(member)) {
            return Err(format!("{member} joins, which is fenced or not there"));
        }
        if state.isr.len() > 1 {
            return Err(format!("{member} is in sync beside others, which is fenced or not there"));
        }
    }
    Ok(())
}

fn check_change(
    before: &ClusterImage,
    after: &ClusterImage,
    known: &Partition,
    state: &Partition,
) -> Result<(), String> {
    if state == known {
        return Ok(());
    }
    if state.partition_epoch <= known.partition_epoch {
        return Err("the partition epoch does not grow".to_owned());
    }
    let is_same = state.leader == known.leader;
    if state.leader_epoch < known.leader_epoch || (!is_same && state.leader_epoch == known.leader_epoch) {
        return Err("the leader epoch does not grow".to_owned());
    }
    if !is_same && state.leader != NO_LEADER && !known.isr.contains(&state.leader) {
        return Err(format!("{} is elected and was not in sync", state.leader));
    }
    let directory = |image: &ClusterImage, node_id| image.broker(node_id).map(|broker| broker.directory_id);
    let has_lost_its_disk = |node_id: i32| directory(before, node_id) != directory(after, node_id);
    if state.isr.is_empty() && !known.isr.iter().all(|last| known.isr.len() == 1 && has_lost_its_disk(*last)) {
        return Err("nobody is in sync any more".to_owned());
    }
    if known.replicas.iter().any(|replica| !state.replicas.contains(replica)) {
        return Err("a replica is gone".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MetadataRecord;

    /// Brokers 1, 2 and 3, of which some are fenced, with the directories of these numbers; and one partition.
    fn image(fenced: &[i32], directories: [u8; 3], isr: &[i32], leader: i32, epochs: (i32, i32)) -> ClusterImage {
        let mut image = ClusterImage::new();
        for (node_id, directory) in (1..).zip(directories) {
            let (is_fenced, directory_id) = (fenced.contains(&node_id), [directory; 16]);
            image.replay(&MetadataRecord::Broker(Broker { node_id, is_fenced, directory_id, ..Broker::default() }));
        }
        let topic_id = millstream_storage::TopicId([1; 16]);
        let (replicas, isr) = ([1, 2, 3].into(), isr.into());
        let state = Partition { replicas, isr, leader, leader_epoch: epochs.0, partition_epoch: epochs.1 };
        image.replay(&MetadataRecord::Topic { topic_id, name: "t".into() });
        image.replay(&MetadataRecord::Partition { topic_id, partition: 0, state });
        image
    }

    #[test]
    fn what_may_not_follow_is_noticed() {
        let before = image(&[3], [1, 2, 3], &[1, 2], 1, (4, 6));
        let check = |after: ClusterImage| check_decision(&before, &after).err();
        assert_eq!(check(before.clone()), None);
        assert_eq!(check(image(&[1, 3], [1, 2, 3], &[2], 2, (5, 7))), None);
        let directories = [1, 2, 3];
        for (after, why) in [
            (image(&[3], directories, &[1, 2, 3], 1, (4, 7)), "3 joins"),
            (image(&[1, 3], directories, &[1, 2], 2, (5, 7)), "1 is in sync beside others"),
            (image(&[1, 3], directories, &[1], 1, (4, 7)), "1 leads, which is fenced"),
            (image(&[], directories, &[3], 3, (5, 7)), "3 is elected"),
            (image(&[3], directories, &[2], 2, (4, 7)), "the leader epoch"),
            (image(&[3], directories, &[1], 1, (4, 6)), "the partition epoch"),
            (image(&[3], [9, 9, 3], &[], NO_LEADER, (5, 7)), "nobody is in sync"),
        ] {
            let said = check(after).unwrap_or_default();
            assert!(said.contains(why), "{why}: {said}");
        }
        let last = image(&[1], [1, 2, 3], &[1], NO_LEADER, (4, 6));
        let gone = |directory| image(&[1], [directory, 2, 3], &[], NO_LEADER, (4, 7));
        assert_eq!(check_decision(&last, &gone(9)), Ok(()), "it has lost its disk");
        assert!(check_decision(&last, &gone(1)).is_err());
    }
}
