//! One step of a member towards its target assignment (KIP-848): first it gives back what it is not to have any more, then
//! it comes to the target's epoch and gets what nobody else has. So a partition is never with two members.

use millstream_storage::TopicId;

use crate::group::partitions::PartitionSet;
use crate::group::record::{CurrentAssignment, MemberState};

/// The next assignment of a member; the same if there is nothing to do.
///
/// `reported` is what the member says that it has, if it says so. `is_owned` tells whether a partition is still with
/// anybody.
pub fn reconciled(
    current: &CurrentAssignment,
    target_epoch: i32,
    target: &PartitionSet,
    reported: Option<&PartitionSet>,
    is_owned: impl Fn(TopicId, i32) -> bool,
) -> CurrentAssignment {
    let has_any_of = |partitions: &PartitionSet| reported.is_none_or(|reported| reported.intersects(partitions));
    match current.state {
        MemberState::Stable if current.epoch == target_epoch => return current.clone(),
        // It has not given back everything: it stays where it is.
        MemberState::UnrevokedPartitions | MemberState::Unknown if has_any_of(&current.pending_revocation) => {
            return current.clone();
        }
        _ => {}
    }
    let mut assigned = PartitionSet::default();
    let mut pending_revocation = PartitionSet::default();
    for (topic, partition) in current.assigned.iter() {
        let keeps = target.contains(topic, partition);
        if keeps { &mut assigned } else { &mut pending_revocation }.insert(topic, partition);
    }
    if !pending_revocation.is_empty() && has_any_of(&pending_revocation) {
        return CurrentAssignment {
            epoch: current.epoch,
            previous_epoch: current.previous_epoch,
            state: MemberState::UnrevokedPartitions,
            assigned,
            pending_revocation,
        };
    }
    let mut waits = false;
    for (topic, partition) in target.iter() {
        if assigned.contains(topic, partition) {
            continue;
        }
        if is_owned(topic, partition) {
            waits = true;
        } else {
            assigned.insert(topic, partition);
        }
    }
    CurrentAssignment {
        epoch: target_epoch,
        previous_epoch: if target_epoch == current.epoch { current.previous_epoch } else { current.epoch },
        state: if waits { MemberState::UnreleasedPartitions } else { MemberState::Stable },
        assigned,
        pending_revocation: PartitionSet::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId([1; 16]);

    fn set(partitions: &[i32]) -> PartitionSet {
        partitions.iter().map(|partition| (TOPIC, *partition)).collect()
    }

    fn at(epoch: i32, state: MemberState, assigned: &[i32], revoked: &[i32]) -> CurrentAssignment {
        CurrentAssignment {
            epoch,
            previous_epoch: epoch - 1,
            state,
            assigned: set(assigned),
            pending_revocation: set(revoked),
        }
    }

    #[test]
    fn a_member_gives_back_before_it_gets_more() {
        use MemberState::*;
        let nobody = |_: TopicId, _: i32| false;
        let stable = at(1, Stable, &[0, 1, 2], &[]);
        let target = set(&[0, 5]);
        assert_eq!(reconciled(&stable, 1, &target, None, nobody), stable);
        let unrevoked = reconciled(&stable, 2, &target, None, nobody);
        assert_eq!(unrevoked, CurrentAssignment { previous_epoch: 0, ..at(1, UnrevokedPartitions, &[0], &[1, 2]) });
        // It says nothing, or still has one.
        assert_eq!(reconciled(&unrevoked, 2, &target, None, nobody), unrevoked);
        assert_eq!(reconciled(&unrevoked, 2, &target, Some(&set(&[0, 2])), nobody), unrevoked);
        // The target changed again meanwhile: what it has given back does not come back by itself.
        let done = reconciled(&unrevoked, 2, &target, Some(&set(&[0])), nobody);
        assert_eq!(done, at(2, Stable, &[0, 5], &[]));
        // It had let go before it was asked.
        let at_once = reconciled(&stable, 2, &target, Some(&set(&[0])), nobody);
        assert_eq!(at_once, at(2, Stable, &[0, 5], &[]));
    }

    #[test]
    fn a_member_waits_for_what_others_have() {
        use MemberState::*;
        let stable = at(1, Stable, &[0], &[]);
        let target = set(&[0, 5, 6]);
        let waiting = reconciled(&stable, 2, &target, None, |_, partition| partition == 6);
        assert_eq!(waiting, at(2, UnreleasedPartitions, &[0, 5], &[]));
        let same = reconciled(&waiting, 2, &target, None, |_, partition| partition == 6);
        assert_eq!(same, waiting);
        let released = reconciled(&waiting, 2, &target, None, |_, _| false);
        assert_eq!(released, at(2, Stable, &[0, 5, 6], &[]));
        // While it waits the target may move on.
        let moved = reconciled(&waiting, 3, &set(&[5]), None, |_, _| false);
        assert_eq!(moved.state, UnrevokedPartitions);
        assert_eq!(moved.epoch, 2);
    }
}
