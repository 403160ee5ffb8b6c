//! Creating, growing and deleting topics.

use std::collections::{BTreeMap, BTreeSet};

use millstream_storage::TopicId;

use super::configs::check_topic_config;
use super::election::usable_brokers;
use super::placement::{Places, check_assignment, check_replication_factor};
use super::{
    Assignment, Controller, ControllerResponse, CreatedTopic, Decision, DeletedTopic, MorePartitions, NewTopic,
    PARTITIONS_PER_REQUEST_MAX, Records, TopicReference, duplicates,
};
use crate::config::Properties;
use crate::error::{ApiError, ErrorCode};
use crate::image::{ClusterImage, PARTITIONS_PER_CLUSTER_MAX};
use crate::random_id;
use crate::record::{ConfigOwner, MetadataRecord, Partition};
use crate::topic_name;

/// What one request has decided so far.
struct Pending<'a> {
    image: &'a ClusterImage,
    records: Records,
    /// Names decided, by what `.` and `_` make of them.
    colliding: BTreeMap<String, String>,
    partitions: usize,
}

impl<'a> Pending<'a> {
    fn new(image: &'a ClusterImage) -> Self {
        Pending { image, records: Records::default(), colliding: BTreeMap::new(), partitions: 0 }
    }

    /// Whether so many more partitions fit this request and the cluster.
    fn check_room(&self, more: usize) -> Result<(), ApiError> {
        if self.partitions + more > PARTITIONS_PER_REQUEST_MAX {
            return Err(ApiError::new(
                ErrorCode::PolicyViolation,
                format!("one request can create at most {PARTITIONS_PER_REQUEST_MAX} partitions; split it"),
            ));
        }
        let held = self.image.partition_count() + self.partitions;
        if held + more > PARTITIONS_PER_CLUSTER_MAX {
            return Err(ApiError::new(
                ErrorCode::PolicyViolation,
                format!(
                    "the cluster has {held} partitions and can hold {PARTITIONS_PER_CLUSTER_MAX}: there is no room for {more} more"
                ),
            ));
        }
        Ok(())
    }

    fn decide(self, response: ControllerResponse, validate_only: bool) -> Decision {
        Decision { records: if validate_only { Vec::new() } else { self.records.records }, response }
    }
}

impl Controller {
    pub(super) fn create_topics(
        &self,
        image: &ClusterImage,
        topics: Vec<NewTopic>,
        validate_only: bool,
        random_id: [u8; 16],
    ) -> Decision {
        let mut pending = Pending::new(image);
        let mut ids = TopicIds::new(random_id);
        let outcomes = each_once(
            topics,
            |topic| &topic.name,
            |topic| {
                let mut created = self.create_topic(&mut pending, topic, &mut ids)?;
                if validate_only {
                    created.topic_id = TopicId::default();
                }
                Ok(created)
            },
        );
        pending.decide(ControllerResponse::CreateTopics(outcomes), validate_only)
    }

    fn create_topic(
        &self,
        pending: &mut Pending<'_>,
        topic: NewTopic,
        ids: &mut TopicIds,
    ) -> Result<CreatedTopic, ApiError> {
        let image = pending.image;
        let name = topic.name.as_str();
        topic_name::check(name).map_err(|why| ApiError::new(ErrorCode::InvalidTopicException, why))?;
        if image.topic(name).is_some() {
            return Err(ApiError::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
        }
        let colliding = topic_name::colliding(name);
        let other = colliding.as_ref().and_then(|colliding| {
            let decided = pending.colliding.get(colliding).map(String::as_str);
            decided.or_else(|| image.colliding_topic(name).map(|topic| &*topic.name))
        });
        if let Some(other) = other {
            return Err(ApiError::new(
                ErrorCode::InvalidTopicException,
                format!(
                    "topic {name} collides with topic {other}: names that differ in '.' and '_' only are the same to metrics"
                ),
            ));
        }

        let mut configs = Properties::new();
        for (config, value) in topic.configs {
            let Some(value) = value else {
                return Err(ApiError::new(ErrorCode::InvalidConfig, format!("the value of {config} is null")));
            };
            check_topic_config(&config, &value)?;
            configs.insert(config, value.trim().to_string());
        }

        let topic_id = ids.next(image);
        let replicas = if topic.assignments.is_empty() {
            let [_, random] = random_id::halves(u128::from_be_bytes(topic_id.0));
            self.chosen_replicas(pending, name, topic.partitions, topic.replication_factor, random)?
        } else {
            let invalid = |what: &str| {
                let why = format!("A manual partition assignment was specified, but {what} was not set to -1.");
                Err(ApiError::new(ErrorCode::InvalidRequest, why))
            };
            if topic.replication_factor != -1 {
                return invalid("replication factor");
            }
            if topic.partitions != -1 {
                return invalid("numPartitions");
            }
            pending.check_room(topic.assignments.len())?;
            assigned_replicas(image, topic.assignments)?
        };

        let created = CreatedTopic {
            topic_id,
            partitions: replicas.len() as i32,
            replication_factor: replicas[0].len() as i16,
            configs: configs.clone(),
        };
        let mut records = vec![MetadataRecord::Topic { topic_id, name: name.to_string() }];
        let count = replicas.len();
        records.extend(new_partitions(image, topic_id, 0, replicas));
        records.extend(configs.into_iter().map(|(name, value)| MetadataRecord::Config {
            owner: ConfigOwner::Topic(topic_id),
            name,
            value: Some(value),
        }));
        pending.records.add(records)?;
        pending.partitions += count;
        if let Some(colliding) = colliding {
            pending.colliding.insert(colliding, topic.name);
        }
        Ok(created)
    }

    /// The replicas of each partition of a new topic, as the controller spreads them from a random place on.
    fn chosen_replicas(
        &self,
        pending: &Pending<'_>,
        name: &str,
        partitions: i32,
        replication_factor: i16,
        random: u64,
    ) -> Result<Vec<Vec<i32>>, ApiError> {
        let image = pending.image;
        let partitions = match partitions {
            -1 => self.number(image, "num.partitions"),
            partitions => partitions,
        };
        let Some(count) = usize::try_from(partitions).ok().filter(|count| *count > 0) else {
            return Err(ApiError::new(
                ErrorCode::InvalidPartitions,
                format!("a topic needs at least one partition, not {partitions}"),
            ));
        };
        let mut factor = match replication_factor {
            -1 => self.number(image, "default.replication.factor"),
            factor => i32::from(factor),
        };
        if topic_name::is_internal(name) {
            // Their default is 3, which must not keep a cluster of fewer brokers from having consumer groups.
            factor = factor.min(image.brokers().len().max(1) as i32);
        }
        let factor = check_replication_factor(image, factor)?;
        pending.check_room(count)?;
        let places = Places::of(image);
        Ok(places.spread(places.first(random), count, factor))
    }

    pub(super) fn delete_topics(&self, image: &ClusterImage, topics: Vec<TopicReference>) -> Decision {
        let allowed = self.is_on(image, "delete.topic.enable");
        let mut removed = BTreeSet::new();
        let mut records = Vec::new();
        let mut deleted = Vec::new();
        for reference in topics {
            let found = match &reference {
                TopicReference::Name(name) => image.topic(name),
                TopicReference::Id(id) => image.topic_by_id(*id),
            };
            let outcome = match found {
                _ if !allowed => Err(ApiError::new(
                    ErrorCode::TopicDeletionDisabled,
                    "topics cannot be deleted: delete.topic.enable is false",
                )),
                Some(topic) if removed.insert(topic.id) => {
                    records.push(MetadataRecord::RemoveTopic { topic_id: topic.id });
                    Ok(())
                }
                Some(topic) => Err(ApiError::new(
                    ErrorCode::InvalidRequest,
                    format!("topic {} occurs twice in the request", topic.name),
                )),
                None => Err(match &reference {
                    TopicReference::Name(name) => unknown_topic(name),
                    TopicReference::Id(id) => ApiError::new(
                        ErrorCode::UnknownTopicId,
                        format!("there is no topic with the id {}", id.to_base64()),
                    ),
                }),
            };
            let (name, topic_id) = match (found, reference) {
                (Some(topic), _) => (Some(topic.name.to_string()), topic.id),
                (None, TopicReference::Name(name)) => (Some(name), TopicId::default()),
                (None, TopicReference::Id(id)) => (None, id),
            };
            deleted.push(DeletedTopic { name, topic_id, outcome });
        }
        Decision { records, response: ControllerResponse::DeleteTopics(deleted) }
    }
}

pub(super) fn create_partitions(image: &ClusterImage, topics: Vec<MorePartitions>, validate_only: bool) -> Decision {
    let mut pending = Pending::new(image);
    let outcomes = each_once(topics, |topic| &topic.name, |topic| grow(&mut pending, topic));
    pending.decide(ControllerResponse::CreatePartitions(outcomes), validate_only)
}

/// What `decide` says of each topic of a request; one error, where the first of them stands, for those that occur twice.
fn each_once<T, O>(
    topics: Vec<T>,
    name: impl Fn(&T) -> &String,
    mut decide: impl FnMut(T) -> Result<O, ApiError>,
) -> Vec<(String, Result<O, ApiError>)> {
    let twice = duplicates(topics.iter().map(|topic| name(topic).clone()));
    let mut refused = BTreeSet::new();
    let mut outcomes = Vec::new();
    for topic in topics {
        let name = name(&topic).clone();
        if !twice.contains(&name) {
            outcomes.push((name, decide(topic)));
        } else if refused.insert(name.clone()) {
            let error = ApiError::new(ErrorCode::InvalidRequest, format!("topic {name} occurs twice in the request"));
            outcomes.push((name, Err(error)));
        }
    }
    outcomes
}

fn grow(pending: &mut Pending<'_>, more: MorePartitions) -> Result<(), ApiError> {
    let image = pending.image;
    let Some(topic) = image.topic(&more.name) else {
        return Err(unknown_topic(&more.name));
    };
    let held = topic.partitions.len();
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidPartitions, message);
    let Some(count) = usize::try_from(more.count).ok().filter(|count| *count > 0) else {
        return Err(invalid(format!("a topic needs at least one partition, not {}", more.count)));
    };
    if count == held {
        return Err(invalid(format!("topic {} has {held} partitions already", more.name)));
    }
    if count < held {
        return Err(invalid(format!(
            "topic {} has {held} partitions; partitions cannot be taken away, so {count} is too few",
            more.name
        )));
    }
    pending.check_room(count - held)?;
    let factor = topic.partitions[0].replicas.len();
    let replicas = match more.assignments {
        None => {
            let factor = check_replication_factor(image, factor as i32)?;
            let last = &topic.partitions[held - 1];
            let places = Places::of(image);
            places.spread(places.next(held, last.replicas[0]), count - held, factor)
        }
        Some(assignments) => {
            if assignments.len() != count - held {
                return Err(ApiError::new(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {} additional partition(s), but only {} assignment(s) were specified.",
                        count - held,
                        assignments.len()
                    ),
                ));
            }
            for (partition, brokers) in (held as i32..).zip(&assignments) {
                check_assignment(image, partition, brokers, factor)?;
            }
            assignments
        }
    };
    let records = new_partitions(image, topic.id, held, replicas).collect();
    pending.records.add(records)?;
    pending.partitions += count - held;
    Ok(())
}

/// The replicas that a request assigns to the partitions of a new topic.
fn assigned_replicas(image: &ClusterImage, assignments: Vec<Assignment>) -> Result<Vec<Vec<i32>>, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut replicas = BTreeMap::new();
    let factor = assignments[0].brokers.len();
    for assignment in assignments {
        let partition = assignment.partition;
        check_assignment(image, partition, &assignment.brokers, factor)?;
        if replicas.insert(partition, assignment.brokers).is_some() {
            return Err(invalid(format!("Found multiple manual partition assignments for partition {partition}")));
        }
    }
    if (0..).zip(replicas.keys()).any(|(index, key)| index != *key) {
        return Err(invalid("partitions should be a consecutive 0-based integer sequence".to_string()));
    }
    Ok(replicas.into_values().collect())
}

/// New partitions: who holds one and is usable is in sync, and the first of these leads.
fn new_partitions(
    image: &ClusterImage,
    topic_id: TopicId,
    first: usize,
    replicas: Vec<Vec<i32>>,
) -> impl Iterator<Item = MetadataRecord> {
    let usable = usable_brokers(image);
    (first as i32..).zip(replicas).map(move |(partition, replicas)| {
        let isr: Vec<i32> = replicas.iter().copied().filter(|broker| usable.contains(broker)).collect();
        let leader = *isr.first().expect("one of the brokers that hold a new partition is usable");
        let state =
            Partition { replicas: replicas.into(), isr: isr.into(), leader, leader_epoch: 0, partition_epoch: 0 };
        MetadataRecord::Partition { topic_id, partition, state }
    })
}

pub(super) fn unknown_topic(name: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownTopicOrPartition, format!("there is no topic {name:?}"))
}

/// Topic ids made of random bytes: different for each topic of a request.
struct TopicIds {
    high: u64,
    low: u64,
}

impl TopicIds {
    fn new(random: [u8; 16]) -> Self {
        let [high, low] = random_id::halves(u128::from_be_bytes(random));
        TopicIds { high, low }
    }

    /// One that no topic has.
    fn next(&mut self, image: &ClusterImage) -> TopicId {
        loop {
            self.high = self.high.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let low = self.low ^ self.high;
            let random = [random_id::mix(self.high), random_id::mix(low)];
            let id = TopicId(random_id::uuid(random_id::whole(random)));
            if image.topic_by_id(id).is_none() {
                return id;
            }
        }
    }
}
