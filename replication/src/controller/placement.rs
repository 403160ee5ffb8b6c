//! Which brokers hold the partitions of a topic.

use std::collections::BTreeSet;

use super::duplicates;
use super::election::usable_brokers;
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::quorum::MEMBERS_MAX;
use crate::record::Broker;

/// Most replicas of a partition: as many as a cluster has nodes.
pub const REPLICAS_PER_PARTITION_MAX: usize = MEMBERS_MAX;

/// How many replicas that is, if partitions can have so many now (in Kafka `StripedReplicaPlacer`, whose words these are).
pub(super) fn check_replication_factor(image: &ClusterImage, factor: i32) -> Result<usize, ApiError> {
    let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidReplicationFactor, why));
    let Some(count) = usize::try_from(factor).ok().filter(|count| *count > 0) else {
        return invalid("Replication factor must be larger than 0, or -1 to use the default value.".to_string());
    };
    let unable = |why: &str| invalid(format!("Unable to replicate the partition {factor} time(s): {why}"));
    match image.brokers().count() {
        brokers if brokers < count => unable(&format!(
            "The target replication factor of {factor} cannot be reached because only {brokers} broker(s) are registered."
        )),
        _ if count > REPLICAS_PER_PARTITION_MAX => {
            unable(&format!("A partition can have at most {REPLICAS_PER_PARTITION_MAX} replicas."))
        }
        _ if usable_brokers(image).is_empty() => unable("All brokers are currently fenced or in controlled shutdown."),
        _ => Ok(count),
    }
}

/// Where replicas can be placed, in the order in which they are dealt out.
///
/// Every usable broker leads as many partitions as any other. The followers of a partition stand in racks that have no
/// replica of it yet, as long as there are any, and there on usable brokers before those that are not; a fenced broker
/// takes part as a follower, out of sync until it has caught up, so that a topic can be created while one is away. That is
/// what Kafka's `StripedReplicaPlacer` promises; it gives racks of different sizes as many leaders each, this one brokers.
pub(super) struct Places {
    /// The usable brokers, one of each rack in turn.
    leaders: Vec<Place>,
    /// The others, likewise.
    away: Vec<Place>,
    racks: usize,
}

/// A broker, and the number of its rack. Brokers without a rack stand in one together.
#[derive(Clone, Copy)]
struct Place {
    node_id: i32,
    rack: usize,
}

impl Places {
    /// The brokers of a cluster.
    pub fn of(image: &ClusterImage) -> Places {
        let names: BTreeSet<_> = image.brokers().map(|broker| broker.rack.as_deref()).collect();
        let rack_of = |node_id| {
            let rack = image.broker(node_id).and_then(|broker| broker.rack.as_deref());
            names.iter().position(|name| *name == rack).expect("every broker stands in a rack")
        };
        let usable = usable_brokers(image);
        let others: Vec<i32> = image.brokers().map(|broker| broker.node_id).filter(|id| !usable.contains(id)).collect();
        let in_turn = |brokers: Vec<i32>| {
            let mut places: Vec<_> =
                brokers.into_iter().map(|node_id| Place { node_id, rack: rack_of(node_id) }).collect();
            let mut taken = vec![0; names.len()];
            places.sort_by_cached_key(|place| {
                taken[place.rack] += 1;
                (taken[place.rack], place.rack)
            });
            places
        };
        Places { leaders: in_turn(usable), away: in_turn(others), racks: names.len() }
    }

    /// Where the partitions of a topic begin that has none yet. Topics begin at different brokers, or the first would lead
    /// every topic of one partition.
    pub fn first(&self, random: u64) -> usize {
        (random % self.leaders.len().max(1) as u64) as usize
    }

    /// Where the partitions of a topic go on, which has `held` of which this broker was the last one's first.
    pub fn next(&self, held: usize, last: i32) -> usize {
        let leaders = self.leaders.len().max(1);
        let after = self.leaders.iter().position(|place| place.node_id == last).map_or(0, |at| at + 1);
        // As many times round as the partitions that are there: their followers were placed with the distances before.
        (held / leaders) * leaders + after
    }

    /// Replicas for `count` partitions, from a place on. There are at least `factor` brokers, and one of them is usable.
    pub fn spread(&self, first: usize, count: usize, factor: usize) -> Vec<Vec<i32>> {
        (first..first + count).map(|place| self.replicas(place, factor)).collect()
    }

    /// The replicas of the partition at a place: the first leads.
    fn replicas(&self, place: usize, factor: usize) -> Vec<i32> {
        let at = place % self.leaders.len();
        // The followers of a broker's partitions are not always the same: each time round begins one further.
        let distance = 1 + place / self.leaders.len();
        let others = self.leaders.len() - 1;
        let leader = self.leaders[at];
        let after = (0..others).map(|step| {
            let place = (at + 1 + (distance - 1 + step) % others) % self.leaders.len();
            self.leaders[place]
        });
        let away = (0..self.away.len()).map(|step| self.away[(place + step) % self.away.len()]);
        let mut candidates: Vec<Place> = after.chain(away).collect();

        let mut replicas = vec![leader.node_id];
        let mut has_replica = vec![false; self.racks];
        has_replica[leader.rack] = true;
        while replicas.len() < factor {
            let elsewhere = candidates.iter().position(|place| !has_replica[place.rack]);
            if elsewhere.is_none() {
                // Every rack has as many replicas as any other, or no broker more.
                has_replica.fill(false);
            }
            let place = candidates.remove(elsewhere.unwrap_or(0));
            has_replica[place.rack] = true;
            replicas.push(place.node_id);
        }
        replicas
    }
}

/// Whether a partition, one of a topic with `factor` replicas each, can be given to these brokers (in Kafka
/// `ReplicationControlManager.validateManualPartitionAssignment`, whose words these are).
pub(super) fn check_assignment(
    image: &ClusterImage,
    partition: i32,
    brokers: &[i32],
    factor: usize,
) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    if brokers.is_empty() {
        return invalid("The manual partition assignment includes an empty replica list.".into());
    }
    if let Some(unknown) = brokers.iter().find(|id| image.broker(**id).is_none()) {
        return invalid(format!(
            "The manual partition assignment includes broker {unknown}, but no such broker is registered."
        ));
    }
    if let Some(twice) = duplicates(brokers.iter()).first() {
        return invalid(format!("The manual partition assignment includes the broker {twice} more than once."));
    }
    if brokers.len() != factor {
        return invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {factor} replica(s).",
            brokers.len()
        ));
    }
    if brokers.len() > REPLICAS_PER_PARTITION_MAX {
        return invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), and a partition can have at most \
             {REPLICAS_PER_PARTITION_MAX}.",
            brokers.len()
        ));
    }
    if brokers.iter().any(|id| image.broker(*id).is_some_and(Broker::is_usable)) {
        Ok(())
    } else {
        invalid(format!(
            "All brokers specified in the manual partition assignment for partition {partition} are fenced or in \
             controlled shutdown."
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::MetadataRecord;

    /// A cluster of these brokers from 1 on: their racks, in capitals where the broker is fenced.
    fn cluster(racks: &str) -> ClusterImage {
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Cluster { cluster_id: [1; 16] });
        for (node_id, name) in (1..).zip(racks.chars()) {
            image.replay(&MetadataRecord::Broker(Broker {
                node_id,
                epoch: image.offset() as i64,
                is_fenced: name.is_ascii_uppercase(),
                rack: Some(name.to_ascii_lowercase().to_string()),
                ..Broker::default()
            }));
        }
        image
    }

    /// The least and the most of what brokers have, those that have nothing of it too.
    fn bounds(brokers: impl Iterator<Item = i32>, having: impl Iterator<Item = i32>) -> (i32, i32) {
        let mut counts: BTreeMap<i32, i32> = brokers.map(|broker| (broker, 0)).collect();
        having.for_each(|broker| *counts.get_mut(&broker).expect("it may have some") += 1);
        let counts = || counts.values().copied();
        (counts().min().unwrap(), counts().max().unwrap())
    }

    #[test]
    fn usable_brokers_lead_alike_and_followers_stand_in_other_racks() {
        for racks in ["a", "aaa", "abc", "aabbcc", "aaaabbc", "abcA", "abC", "aAbBcC", "aaB", "ab", "aabb", "abcde"] {
            let image = cluster(racks);
            let places = Places::of(&image);
            let rack = |broker: i32| racks.to_ascii_lowercase().as_bytes()[broker as usize - 1];
            let names: BTreeSet<u8> = racks.to_ascii_lowercase().bytes().collect();
            let usable = usable_brokers(&image);
            for factor in 1..=racks.len() {
                for first in 0..usable.len() {
                    let count = 12 * usable.len();
                    let placed = places.spread(first, count, factor);
                    let (least, most) = bounds(usable.iter().copied(), placed.iter().map(|replicas| replicas[0]));
                    assert_eq!((least, most), (12, 12), "{racks} {factor}: leaders");
                    for replicas in &placed {
                        let different: BTreeSet<i32> = replicas.iter().copied().collect();
                        assert_eq!((different.len(), replicas.len()), (factor, factor), "{racks}: {replicas:?}");
                        let used: BTreeSet<u8> = replicas.iter().map(|broker| rack(*broker)).collect();
                        assert_eq!(used.len(), factor.min(names.len()), "{racks}: {replicas:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn racks_of_one_size_hold_as_much_everywhere() {
        for (racks, factor) in [("aaa", 2), ("abc", 2), ("abc", 3), ("aabbcc", 3), ("aaaaa", 3), ("aaaa", 3)] {
            let image = cluster(racks);
            let places = Places::of(&image);
            // Each broker leads as often as there are distances to its followers.
            let count = racks.len() * (racks.len() - 1);
            let placed = places.spread(0, count, factor);
            let brokers = image.brokers().map(|broker| broker.node_id);
            let (least, most) = bounds(brokers, placed.iter().flatten().copied());
            assert_eq!(least, most, "{racks} {factor}: {placed:?}");
        }
    }

    #[test]
    fn whose_leader_is_gone_is_followed_by_different_brokers() {
        let places = Places::of(&cluster("aaaa"));
        let placed = places.spread(0, 12, 2);
        let next: BTreeSet<i32> =
            placed.iter().filter(|replicas| replicas[0] == 1).map(|replicas| replicas[1]).collect();
        assert_eq!(next, [2, 3, 4].into());
    }

    #[test]
    fn more_partitions_go_on_where_the_others_ended() {
        let places = Places::of(&cluster("aabbc"));
        for first in 0..5 {
            let whole = places.spread(first, 20, 3);
            let held = whole[6][0];
            let more = places.spread(places.next(7, held), 1, 3);
            assert_eq!(more[0][0], whole[7][0]);
        }
        assert_eq!(places.next(3, 77), 0, "the last one's leader is not there any more");
    }

    #[test]
    fn a_broker_that_is_away_follows_and_never_leads() {
        let placed = Places::of(&cluster("aBc")).spread(0, 4, 3);
        assert!(placed.iter().all(|replicas| replicas[0] != 2 && replicas.contains(&2)), "{placed:?}");
        // In a rack with a usable broker it is not asked.
        let placed = Places::of(&cluster("abB")).spread(0, 4, 2);
        assert!(placed.iter().all(|replicas| !replicas.contains(&3)), "{placed:?}");
    }
}
