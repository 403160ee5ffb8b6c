//! Which brokers hold the partitions of a topic.

use super::duplicates;
use super::election::usable_brokers;
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;

/// Most replicas of a partition. Records are not replicated yet.
pub const REPLICATION_FACTOR_MAX: i32 = 1;

/// How many replicas that is, if partitions can have so many now.
pub(super) fn check_replication_factor(image: &ClusterImage, factor: i32) -> Result<usize, ApiError> {
    let invalid = |why: String| Err(ApiError::new(ErrorCode::InvalidReplicationFactor, why));
    if factor > REPLICATION_FACTOR_MAX {
        return invalid(format!(
            "records are not replicated yet: the replication factor must be {REPLICATION_FACTOR_MAX}, not {factor}"
        ));
    }
    let Some(factor) = usize::try_from(factor).ok().filter(|factor| *factor > 0) else {
        return invalid(format!("the replication factor must be at least 1, not {factor}"));
    };
    match usable_brokers(image).len() {
        brokers if brokers < factor => invalid(format!(
            "{factor} replicas of each partition need as many brokers, and {brokers} are neither fenced nor stopping"
        )),
        _ => Ok(factor),
    }
}

/// Where the partitions of a topic begin that has none yet. Topics begin at different brokers, or the first would lead
/// every topic of one partition.
pub(super) fn first_place(random: u64, image: &ClusterImage) -> usize {
    let brokers = usable_brokers(image).len().max(1) as u64;
    (random % brokers) as usize
}

/// Where the partitions of a topic go on, of which this broker was the last one's first.
pub(super) fn next_place(last: i32, image: &ClusterImage) -> usize {
    usable_brokers(image).iter().position(|node_id| *node_id > last).unwrap_or(0)
}

/// Replicas for `count` partitions, dealt out in turn to the brokers that are usable, from a place on. There are at least
/// `factor`.
pub(super) fn spread(image: &ClusterImage, first: usize, count: usize, factor: usize) -> Vec<Vec<i32>> {
    let brokers = usable_brokers(image);
    (first..first + count)
        .map(|place| (0..factor).map(|replica| brokers[(place + replica) % brokers.len()]).collect())
        .collect()
}

/// Whether a partition, one of a topic with `factor` replicas each, can be given to these brokers.
pub(super) fn check_assignment(image: &ClusterImage, brokers: &[i32], factor: usize) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    if brokers.is_empty() {
        return invalid("a partition needs at least one replica".into());
    }
    if brokers.len() != factor {
        return invalid(format!("every partition needs as many replicas, {factor}, not {}", brokers.len()));
    }
    if let Some(twice) = duplicates(brokers.iter()).first() {
        return invalid(format!("broker {twice} is given twice for one partition"));
    }
    if brokers.len() > REPLICATION_FACTOR_MAX as usize {
        return invalid(format!(
            "records are not replicated yet: a partition has {REPLICATION_FACTOR_MAX} replica, not {}",
            brokers.len()
        ));
    }
    if let Some(unknown) = brokers.iter().find(|id| image.broker(**id).is_none()) {
        return invalid(format!("there is no broker {unknown}"));
    }
    // Kafka wants one that can lead, and so it is here: there are no others that could take over.
    match brokers.iter().find(|id| image.broker(**id).is_some_and(|broker| !broker.is_usable())) {
        Some(away) => invalid(format!("broker {away} is fenced or stopping")),
        None => Ok(()),
    }
}
