//! The preferred replica of a partition is the first one: partitions are created so that these are spread over the brokers. After
//! a broker was away the others lead what was its, until leadership goes back (in Kafka
//! `ReplicationControlManager.electLeaders` and `maybeBalancePartitionLeaders`).

use std::collections::BTreeSet;

use super::{ControllerResponse, Decision, Records, election};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::record::{MetadataRecord, NO_LEADER, Partition};

/// Most elections of one balancing: each moves clients. The rest follows with the next (Kafka's `MAX_ELECTIONS_PER_IMBALANCE`).
pub const ELECTIONS_PER_BALANCE_MAX: usize = 1_000;

/// The partition led by its preferred replica, if that does not lead, and may.
fn prefer(partition: &Partition, usable: &[i32]) -> Option<Partition> {
    let leader = *partition.replicas.first()?;
    let may_lead = usable.contains(&leader) && partition.isr.contains(&leader);
    (leader != partition.leader && may_lead).then(|| Partition {
        leader,
        leader_epoch: partition.leader_epoch + 1,
        partition_epoch: partition.partition_epoch + 1,
        ..partition.clone()
    })
}

/// Partitions that others lead than their preferred replicas, though those may: [`ELECTIONS_PER_BALANCE_MAX`] at most.
pub fn imbalanced(image: &ClusterImage) -> Vec<(String, i32)> {
    let usable = election::usable_brokers(image);
    let all = image.topics().flat_map(|topic| (0..).zip(&topic.partitions).map(move |at| (topic, at)));
    let imbalanced = all.filter(|(_, (_, partition))| prefer(partition, &usable).is_some());
    imbalanced.map(|(topic, (index, _))| (topic.name.to_string(), index)).take(ELECTIONS_PER_BALANCE_MAX).collect()
}

/// Decides an ElectLeaders.
pub(super) fn elect(image: &ClusterImage, asked: Option<Vec<(String, i32)>>, is_unclean: bool) -> Decision {
    let (mut records, mut elected) = (Records::default(), BTreeSet::new());
    let usable = election::usable_brokers(image);
    let mut elect = |name: &str, index: i32| {
        let topic = image.topic(name);
        let known = topic.and_then(|topic| Some((topic.id, topic.partition(index)?)));
        let Some((topic_id, known)) = known else {
            return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, "there is no such partition"));
        };
        match known.leader {
            NO_LEADER if is_unclean => {
                let why = "no replica that is in sync can lead, and no other is elected";
                return Err(ApiError::new(ErrorCode::EligibleLeadersNotAvailable, why));
            }
            _ if is_unclean => return Err(not_needed("there is a leader")),
            leader if known.replicas.first() == Some(&leader) => {
                return Err(not_needed("the preferred replica leads already"));
            }
            _ => {}
        }
        let Some(state) = prefer(known, &usable) else {
            let why = "the preferred replica cannot lead: it is not in sync, or its broker is away";
            return Err(ApiError::new(ErrorCode::PreferredLeaderNotAvailable, why));
        };
        if !elected.insert((topic_id.0, index)) {
            return Err(not_needed("the preferred replica is elected by this request already"));
        }
        records.add(vec![MetadataRecord::Partition { topic_id, partition: index, state }])
    };
    let outcomes = match asked {
        Some(asked) => asked
            .into_iter()
            .map(|(name, index)| {
                let outcome = elect(&name, index);
                ((name, index), outcome)
            })
            .collect(),
        None => {
            let all =
                image.topics().flat_map(|topic| (0..).zip(&topic.partitions).map(move |(index, _)| (topic, index)));
            let outcomes = all.map(|(topic, index)| ((topic.name.to_string(), index), elect(&topic.name, index)));
            outcomes.filter(|(_, outcome)| !is_not_needed(outcome)).collect()
        }
    };
    Decision { records: records.records, response: ControllerResponse::ElectLeaders(outcomes) }
}

fn not_needed(why: &str) -> ApiError {
    ApiError::new(ErrorCode::ElectionNotNeeded, why)
}

fn is_not_needed(outcome: &Result<(), ApiError>) -> bool {
    matches!(outcome, Err(error) if error.code == ErrorCode::ElectionNotNeeded)
}
