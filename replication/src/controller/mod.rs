//! The controller's decisions: `(image, request) → (records, response)`. In Kafka they are those of `QuorumController` and
//! its managers (`ReplicationControlManager`, `ConfigurationControlManager`, `ClientQuotaControlManager`).
//!
//! Nothing here changes an image. The records of a decision become true when they are durable and replayed; the
//! response is to be given after that. Several items of one request are decided against the image and what the items
//! before them decided.

mod configs;
mod quotas;
mod topics;

#[cfg(test)]
mod tests;

use millstream_storage::{Now, TopicId};

use crate::config::{Properties, broker_value};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::quota::QuotaEntity;
use crate::record::{Endpoint, MetadataRecord};

pub use quotas::QuotaChange;

/// Most partitions that one request creates.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// Longest value of a dynamic configuration, in bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 16 * 1024;

/// Most bytes of records that the topics or resources of one request lead to, so that they fit one entry of the log.
pub const RECORDS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Producer ids handed out at a time.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// Configurations as a request gives them: names, and values that may be null.
pub type GivenConfigs = Vec<(String, Option<String>)>;

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1: `num.partitions`, or as many as are assigned.
    pub partitions: i32,
    /// How many replicas each; -1: `default.replication.factor`, or as many as are assigned.
    pub replication_factor: i16,
    /// The brokers of each partition, or none: the controller chooses.
    pub assignments: Vec<Assignment>,
    /// Names and values.
    pub configs: GivenConfigs,
}

/// The brokers that are to hold a partition, the leader first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The partition's index.
    pub partition: i32,
    /// Broker numbers.
    pub brokers: Vec<i32>,
}

/// A topic by one of its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicReference {
    /// By name.
    Name(String),
    /// By identity.
    Id(TopicId),
}

/// A topic that is to have more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions {
    /// The topic.
    pub name: String,
    /// How many partitions it is to have in all.
    pub count: i32,
    /// The brokers of each new partition; `None`: the controller chooses.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// What configurations belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic.
    Topic(String),
    /// A broker that is registered.
    Broker(i32),
    /// All brokers: the resource whose name is empty.
    Cluster,
}

/// What to do with one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    /// Give it the value.
    Set,
    /// Forget what was set.
    Delete,
    /// Add items to a list.
    Append,
    /// Take items out of a list.
    Subtract,
}

/// One change of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// The configuration.
    pub name: String,
    /// What to do.
    pub operation: ConfigOperation,
    /// With what; nothing for `Delete`.
    pub value: Option<String>,
}

/// What brokers ask of the controller.
#[derive(Clone, Debug, PartialEq)]
pub enum ControllerRequest {
    /// A broker has started and says where it is.
    RegisterBroker {
        /// Its number.
        node_id: i32,
        /// Its addresses, one for each of its listeners.
        endpoints: Vec<Endpoint>,
        /// `broker.rack`
        rack: Option<String>,
    },
    /// Create topics.
    CreateTopics {
        /// Those to create; of a name that occurs twice, none.
        topics: Vec<NewTopic>,
        /// Only say what would become of it.
        validate_only: bool,
    },
    /// Delete topics.
    DeleteTopics {
        /// Those to delete.
        topics: Vec<TopicReference>,
    },
    /// Add partitions to topics.
    CreatePartitions {
        /// The topics, with how many partitions each is to have; of a name that occurs twice, none.
        topics: Vec<MorePartitions>,
        /// Only say what would become of it.
        validate_only: bool,
    },
    /// Change single configurations.
    IncrementalAlterConfigs {
        /// What is to change, by resource; a resource that occurs twice is refused.
        resources: Vec<(ConfigResource, Vec<ConfigChange>)>,
        /// Only say what would become of it.
        validate_only: bool,
    },
    /// Replace all dynamic configurations of the resources.
    AlterConfigs {
        /// All that each resource is to have from then on; a resource that occurs twice is refused.
        resources: Vec<(ConfigResource, GivenConfigs)>,
        /// Only say what would become of it.
        validate_only: bool,
    },
    /// Set and remove client quotas.
    AlterClientQuotas {
        /// What is to change, by entity.
        changes: Vec<QuotaChange>,
        /// Only say what would become of it.
        validate_only: bool,
    },
    /// A block of [`PRODUCER_ID_BLOCK`] producer ids that nobody has had.
    AllocateProducerIds,
}

impl ControllerRequest {
    /// Whether it is a way out of a full disk, or needed for one: it may use the space that the metadata log keeps.
    pub fn frees_space(&self) -> bool {
        match self {
            ControllerRequest::RegisterBroker { .. }
            | ControllerRequest::DeleteTopics { .. }
            | ControllerRequest::IncrementalAlterConfigs { .. }
            | ControllerRequest::AlterConfigs { .. }
            | ControllerRequest::AlterClientQuotas { .. } => true,
            ControllerRequest::CreateTopics { .. }
            | ControllerRequest::CreatePartitions { .. }
            | ControllerRequest::AllocateProducerIds => false,
        }
    }
}

/// A topic that was created, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its identity; zero when it was only validated.
    pub topic_id: TopicId,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas each.
    pub replication_factor: i16,
    /// What was configured for it.
    pub configs: Properties,
}

/// What became of one [`TopicReference`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// The name, where it is known.
    pub name: Option<String>,
    /// The identity, where it is known, else zero.
    pub topic_id: TopicId,
    /// Whether it is deleted.
    pub outcome: Result<(), ApiError>,
}

/// The controller's answers: one item for each of the request, in its order, but one only for duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerResponse {
    /// The broker's epoch.
    RegisterBroker(Result<i64, ApiError>),
    /// By name.
    CreateTopics(Vec<(String, Result<CreatedTopic, ApiError>)>),
    /// In the order of the request, duplicates included.
    DeleteTopics(Vec<DeletedTopic>),
    /// By name.
    CreatePartitions(Vec<(String, Result<(), ApiError>)>),
    /// By resource; of IncrementalAlterConfigs and AlterConfigs.
    AlterConfigs(Vec<(ConfigResource, Result<(), ApiError>)>),
    /// By entity, duplicates included.
    AlterClientQuotas(Vec<(QuotaEntity, Result<(), ApiError>)>),
    /// The first id of the block and how many there are.
    AllocateProducerIds(Result<(i64, i64), ApiError>),
}

impl ControllerResponse {
    /// The answer when what was decided could not be made durable: all that would have succeeded failed.
    pub fn refused(self, why: &ApiError) -> ControllerResponse {
        fn refuse<T>(outcome: Result<T, ApiError>, why: &ApiError) -> Result<T, ApiError> {
            outcome.and(Err(why.clone()))
        }
        fn refuse_each<K, T>(items: Vec<(K, Result<T, ApiError>)>, why: &ApiError) -> Vec<(K, Result<T, ApiError>)> {
            items.into_iter().map(|(key, outcome)| (key, refuse(outcome, why))).collect()
        }
        match self {
            ControllerResponse::RegisterBroker(epoch) => ControllerResponse::RegisterBroker(refuse(epoch, why)),
            ControllerResponse::CreateTopics(items) => ControllerResponse::CreateTopics(refuse_each(items, why)),
            ControllerResponse::DeleteTopics(items) => {
                let refuse = |item| {
                    let DeletedTopic { name, topic_id, outcome } = item;
                    DeletedTopic { name, topic_id, outcome: refuse(outcome, why) }
                };
                ControllerResponse::DeleteTopics(items.into_iter().map(refuse).collect())
            }
            ControllerResponse::CreatePartitions(items) => {
                ControllerResponse::CreatePartitions(refuse_each(items, why))
            }
            ControllerResponse::AlterConfigs(items) => ControllerResponse::AlterConfigs(refuse_each(items, why)),
            ControllerResponse::AlterClientQuotas(items) => {
                ControllerResponse::AlterClientQuotas(refuse_each(items, why))
            }
            ControllerResponse::AllocateProducerIds(block) => {
                ControllerResponse::AllocateProducerIds(refuse(block, why))
            }
        }
    }

    /// The answer when the disk has no room for the decision. Kafka's error for a log that cannot be written; clients
    /// take it for retriable.
    pub fn refused_for_lack_of_space(self) -> ControllerResponse {
        self.refused(&ApiError::new(
            ErrorCode::KafkaStorageError,
            "no space is left for the metadata on the controller's disk; free some and try again",
        ))
    }
}

/// What the controller decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To commit and replay, in this order; all or none.
    pub records: Vec<MetadataRecord>,
    /// To give when the records are replayed.
    pub response: ControllerResponse,
}

/// Decides; holds nothing but the configuration file of its process.
#[derive(Clone, Debug)]
pub struct Controller {
    file: Properties,
}

impl Controller {
    /// A controller in a process that was started with this configuration.
    pub fn new(file: Properties) -> Self {
        Controller { file }
    }

    /// Decides one request. `random_id` are fresh random bytes, from which topic ids are made. `_now` is for leases
    /// and sessions of brokers; nothing depends on the time while there is one broker.
    pub fn handle(&self, image: &ClusterImage, request: ControllerRequest, _now: Now, random_id: [u8; 16]) -> Decision {
        match request {
            ControllerRequest::RegisterBroker { node_id, endpoints, rack } => {
                register_broker(image, node_id, endpoints, rack)
            }
            ControllerRequest::CreateTopics { topics, validate_only } => {
                self.create_topics(image, topics, validate_only, random_id)
            }
            ControllerRequest::DeleteTopics { topics } => self.delete_topics(image, topics),
            ControllerRequest::CreatePartitions { topics, validate_only } => {
                create_partitions(image, topics, validate_only)
            }
            ControllerRequest::IncrementalAlterConfigs { resources, validate_only } => {
                configs::incremental(image, resources, validate_only)
            }
            ControllerRequest::AlterConfigs { resources, validate_only } => {
                configs::replace(image, resources, validate_only)
            }
            ControllerRequest::AlterClientQuotas { changes, validate_only } => {
                quotas::alter(image, changes, validate_only)
            }
            ControllerRequest::AllocateProducerIds => allocate_producer_ids(image),
        }
    }

    /// A numeric broker configuration that holds for the whole cluster.
    fn number(&self, image: &ClusterImage, name: &str) -> i32 {
        broker_value(name, &[image.cluster_configs(), &self.file])
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(1)
    }

    /// A switch of the broker configuration that holds for the whole cluster.
    fn is_on(&self, image: &ClusterImage, name: &str) -> bool {
        broker_value(name, &[image.cluster_configs(), &self.file])
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }
}

use topics::create_partitions;

/// A broker that starts gets the next epoch; every partition it leads gets the next leader epoch, so that what
/// clients and followers learnt of the leader before the restart is known to be old (KIP-320).
fn register_broker(image: &ClusterImage, node_id: i32, endpoints: Vec<Endpoint>, rack: Option<String>) -> Decision {
    // The offset of the record itself: it grows, whatever happened before.
    let epoch = i64::try_from(image.offset() + 1).expect("fewer records than 2^63");
    let mut records = vec![MetadataRecord::Broker { node_id, epoch, endpoints, rack }];
    for topic in image.topics() {
        for (partition, known) in (0..).zip(&topic.partitions) {
            if known.leader == node_id {
                let mut state = known.clone();
                state.leader_epoch += 1;
                state.partition_epoch += 1;
                records.push(MetadataRecord::Partition { topic_id: topic.id, partition, state });
            }
        }
    }
    Decision { records, response: ControllerResponse::RegisterBroker(Ok(epoch)) }
}

fn allocate_producer_ids(image: &ClusterImage) -> Decision {
    let first = image.next_producer_id();
    match first.checked_add(PRODUCER_ID_BLOCK) {
        Some(next) => Decision {
            records: vec![MetadataRecord::ProducerIds { next }],
            response: ControllerResponse::AllocateProducerIds(Ok((first, PRODUCER_ID_BLOCK))),
        },
        None => Decision {
            records: Vec::new(),
            response: ControllerResponse::AllocateProducerIds(Err(ApiError::new(
                ErrorCode::UnknownServerError,
                "all producer ids were handed out",
            ))),
        },
    }
}

/// The records of one request, item by item.
#[derive(Default)]
struct Records {
    records: Vec<MetadataRecord>,
    bytes: usize,
}

impl Records {
    /// Adds those of one item, all or none.
    fn add(&mut self, more: Vec<MetadataRecord>) -> Result<(), ApiError> {
        let mut encoded = Vec::new();
        for record in &more {
            record.encode(&mut encoded);
        }
        if self.bytes + encoded.len() > RECORDS_BYTES_MAX {
            return Err(ApiError::new(
                ErrorCode::PolicyViolation,
                format!("one request can change {RECORDS_BYTES_MAX} bytes of metadata; split it"),
            ));
        }
        self.bytes += encoded.len();
        self.records.extend(more);
        Ok(())
    }
}

/// The items that occur more than once.
fn duplicates<T: Ord + Clone>(items: impl Iterator<Item = T>) -> std::collections::BTreeSet<T> {
    let mut seen = std::collections::BTreeSet::new();
    let mut twice = std::collections::BTreeSet::new();
    for item in items {
        if !seen.insert(item.clone()) {
            twice.insert(item);
        }
    }
    twice
}
