//! The controller's decisions: `(image, request) → (records, response)`. In Kafka they are those of `QuorumController` and
//! its managers (`ReplicationControlManager`, `ClusterControlManager`, `ConfigurationControlManager`,
//! `ClientQuotaControlManager`).
//!
//! Nothing here changes an image. The records of a decision become true when they are durable and replayed; the
//! response is to be given after that. Several items of one request are decided against the image and what the items
//! before them decided.
//!
//! Which brokers are heard of is no part of the image: [`Sessions`] is the soft state of whoever is the active
//! controller, and decisions only look at it.

mod brokers;
mod configs;
mod election;
mod internal_topics;
mod invariants;
pub(crate) mod isr;
mod members;
mod placement;
mod preferred;
mod quotas;
mod sessions;
mod topics;

#[cfg(test)]
mod tests;

use millstream_storage::{Now, TopicId};

use crate::config::{Properties, broker_value};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::quota::QuotaEntity;
use crate::record::{Broker, Endpoint, LevelRange, MetadataRecord};

pub use election::{Leaving, change as change_partition};
pub use internal_topics::WIDENED_PER_DECISION_MAX;
pub use invariants::check_decision;
pub use isr::{AlterOutcome, AlterPartition, AlteredPartition, TopicPartition, UNKNOWN_BROKER_EPOCH};
pub use members::{QuorumInfo, QuorumReplica, View as QuorumView, change as change_members};
pub use placement::REPLICAS_PER_PARTITION_MAX;
pub use preferred::{ELECTIONS_PER_BALANCE_MAX, imbalanced};
pub use quotas::QuotaChange;
pub use sessions::{FENCED_LONGER, FENCINGS_MAX, FENCINGS_WINDOW, Sessions};

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
    /// A broker has started and says which process it is and where. Asked again it is answered again.
    RegisterBroker {
        /// Its number.
        node_id: i32,
        /// The process: random, drawn when it started.
        incarnation: [u8; 16],
        /// The identity of its data directory.
        directory_id: [u8; 16],
        /// How many shards it has.
        shards: u32,
        /// Its addresses, one for each of its listeners.
        endpoints: Vec<Endpoint>,
        /// `broker.rack`
        rack: Option<String>,
        /// The levels of `millstream.metadata.version` whose records the process reads. The one of the cluster is to be among them.
        metadata_versions: LevelRange,
    },
    /// A broker is there, and says how far it is and what it wants (KIP-631).
    BrokerHeartbeat {
        /// Its number.
        node_id: i32,
        /// That of its registration.
        epoch: i64,
        /// The last record that all of its shards have applied.
        applied_offset: u64,
        /// It wants to be fenced, or to stay so.
        want_fence: bool,
        /// It wants to stop: to lead nothing any more.
        want_shutdown: bool,
    },
    /// A broker is not heard of any more. The active controller asks itself.
    FenceBroker {
        /// Its number.
        node_id: i32,
        /// That of the registration that is meant.
        epoch: i64,
    },
    /// Forget a broker that will not come back.
    UnregisterBroker {
        /// Its number.
        node_id: i32,
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
    AllocateProducerIds {
        /// The broker that is to give them out.
        node_id: i32,
        /// That of its registration.
        epoch: i64,
    },
    /// A broker says who is in sync with it in the partitions that it leads (KIP-497).
    AlterPartition {
        /// The broker that leads them.
        node_id: i32,
        /// That of its registration.
        epoch: i64,
        /// What it proposes for each.
        partitions: Vec<(TopicPartition, AlterPartition)>,
    },
    /// Elect the preferred replica of partitions that another one leads (KIP-183, KIP-460).
    ElectLeaders {
        /// The partitions, by the names of their topics; none: all.
        partitions: Option<Vec<(String, i32)>>,
        /// Elect somebody who is not in sync where nobody leads, rather than the preferred replica: nobody is.
        is_unclean: bool,
    },
    /// Send a directory the log of the quorum from now on. Whoever is called by it asks.
    AddObserver {
        /// Its node.
        node_id: i32,
        /// The directory.
        directory_id: [u8; 16],
        /// Where the node's controller listener is reached, if it has one.
        endpoint: Option<(String, u16)>,
    },
    /// An observer is to vote (KIP-853).
    AddRaftVoter {
        /// Its node.
        node_id: i32,
        /// Its directory.
        directory_id: [u8; 16],
        /// Where the node's controller listener is reached, if that is not known yet.
        endpoint: Option<(String, u16)>,
    },
    /// A voter is reached somewhere else (KIP-853). It asks itself.
    UpdateRaftVoter {
        /// Its node.
        node_id: i32,
        /// Its directory.
        directory_id: [u8; 16],
        /// Where the node's controller listener is reached.
        endpoint: Option<(String, u16)>,
    },
    /// A voter is to vote no more (KIP-853).
    RemoveRaftVoter {
        /// Its node.
        node_id: i32,
        /// Its directory.
        directory_id: [u8; 16],
    },
    /// Say how the members of the quorum are (KIP-595).
    DescribeQuorum,
}

impl ControllerRequest {
    /// Whether it is a way out of a full disk, or needed for one: it may use the space that the metadata log keeps.
    pub fn frees_space(&self) -> bool {
        match self {
            ControllerRequest::RegisterBroker { .. }
            | ControllerRequest::BrokerHeartbeat { .. }
            | ControllerRequest::FenceBroker { .. }
            | ControllerRequest::UnregisterBroker { .. }
            | ControllerRequest::DeleteTopics { .. }
            | ControllerRequest::AlterPartition { .. }
            | ControllerRequest::ElectLeaders { .. }
            | ControllerRequest::AddObserver { .. }
            | ControllerRequest::AddRaftVoter { .. }
            | ControllerRequest::UpdateRaftVoter { .. }
            | ControllerRequest::RemoveRaftVoter { .. }
            | ControllerRequest::DescribeQuorum
            | ControllerRequest::IncrementalAlterConfigs { .. }
            | ControllerRequest::AlterConfigs { .. }
            | ControllerRequest::AlterClientQuotas { .. } => true,
            ControllerRequest::CreateTopics { .. }
            | ControllerRequest::CreatePartitions { .. }
            | ControllerRequest::AllocateProducerIds { .. } => false,
        }
    }

    /// Whether an answer is of the kind that this request is answered with.
    pub fn is_answered_by(&self, response: &ControllerResponse) -> bool {
        use {ControllerRequest as Asked, ControllerResponse as Said};
        match self {
            Asked::RegisterBroker { .. } => matches!(response, Said::RegisterBroker(_)),
            Asked::BrokerHeartbeat { .. } => matches!(response, Said::BrokerHeartbeat(_)),
            Asked::FenceBroker { .. } => matches!(response, Said::FenceBroker(_)),
            Asked::UnregisterBroker { .. } => matches!(response, Said::UnregisterBroker(_)),
            Asked::CreateTopics { .. } => matches!(response, Said::CreateTopics(_)),
            Asked::DeleteTopics { .. } => matches!(response, Said::DeleteTopics(_)),
            Asked::CreatePartitions { .. } => matches!(response, Said::CreatePartitions(_)),
            Asked::IncrementalAlterConfigs { .. } | Asked::AlterConfigs { .. } => {
                matches!(response, Said::AlterConfigs(_))
            }
            Asked::AlterClientQuotas { .. } => matches!(response, Said::AlterClientQuotas(_)),
            Asked::AllocateProducerIds { .. } => matches!(response, Said::AllocateProducerIds(_)),
            Asked::AlterPartition { .. } => matches!(response, Said::AlterPartition(_)),
            Asked::ElectLeaders { .. } => matches!(response, Said::ElectLeaders(_)),
            Asked::AddObserver { .. }
            | Asked::AddRaftVoter { .. }
            | Asked::UpdateRaftVoter { .. }
            | Asked::RemoveRaftVoter { .. } => matches!(response, Said::ChangeMembers(_)),
            Asked::DescribeQuorum => matches!(response, Said::DescribeQuorum(_)),
        }
    }

    /// Whether it changes the members of the quorum: [`change_members`] decides it.
    pub fn changes_members(&self) -> bool {
        matches!(
            self,
            ControllerRequest::AddObserver { .. }
                | ControllerRequest::AddRaftVoter { .. }
                | ControllerRequest::UpdateRaftVoter { .. }
                | ControllerRequest::RemoveRaftVoter { .. }
        )
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

/// What the controller says to a broker's heartbeat, as of when the answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// It has applied its own registration.
    pub is_caught_up: bool,
    /// It is fenced: it leads nothing.
    pub is_fenced: bool,
    /// It wanted to stop and leads nothing any more: it may.
    pub should_shut_down: bool,
    /// It has its lease for so many milliseconds from when it sent the heartbeat: no controller fences it before, unless its
    /// process is gone. 0: it has none.
    pub lease_ms: u32,
}

/// The controller's answers: one item for each of the request, in its order, but one only for duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerResponse {
    /// The broker's epoch: the offset of its registration.
    RegisterBroker(Result<i64, ApiError>),
    /// What the broker is to know.
    BrokerHeartbeat(Result<HeartbeatReply, ApiError>),
    /// Whether the broker is fenced.
    FenceBroker(Result<(), ApiError>),
    /// Whether the broker is forgotten.
    UnregisterBroker(Result<(), ApiError>),
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
    /// What became of each partition, in the order of the request, duplicates included.
    AlterPartition(Result<Vec<(TopicPartition, AlterOutcome)>, ApiError>),
    /// By partition, in the order of the request, duplicates included; where all were asked for, of those that needed an
    /// election.
    ElectLeaders(Vec<((String, i32), Result<(), ApiError>)>),
    /// Whether the members are as they were asked to be.
    ChangeMembers(Result<(), ApiError>),
    /// The members.
    DescribeQuorum(Result<QuorumInfo, ApiError>),
}

impl ControllerResponse {
    /// The answer when what was decided could not be made durable: all that would have succeeded failed.
    pub fn refused(self, why: &ApiError) -> ControllerResponse {
        self.failed(&Failure { why, keeps_errors: true })
    }

    /// The answer when nobody has decided, or when what was decided rests on what may never become true. Errors do so, too:
    /// a topic that was there already may never have been.
    pub fn undecided(self, why: &ApiError) -> ControllerResponse {
        self.failed(&Failure { why, keeps_errors: false })
    }

    fn failed(self, why: &Failure<'_>) -> ControllerResponse {
        fn refuse<T>(outcome: Result<T, ApiError>, failure: &Failure<'_>) -> Result<T, ApiError> {
            match outcome {
                Err(error) if failure.keeps_errors => Err(error),
                _ => Err(failure.why.clone()),
            }
        }
        fn refuse_each<K, T>(
            items: Vec<(K, Result<T, ApiError>)>,
            failure: &Failure<'_>,
        ) -> Vec<(K, Result<T, ApiError>)> {
            items.into_iter().map(|(key, outcome)| (key, refuse(outcome, failure))).collect()
        }
        match self {
            ControllerResponse::RegisterBroker(epoch) => ControllerResponse::RegisterBroker(refuse(epoch, why)),
            ControllerResponse::BrokerHeartbeat(reply) => ControllerResponse::BrokerHeartbeat(refuse(reply, why)),
            ControllerResponse::FenceBroker(outcome) => ControllerResponse::FenceBroker(refuse(outcome, why)),
            ControllerResponse::UnregisterBroker(outcome) => ControllerResponse::UnregisterBroker(refuse(outcome, why)),
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
            ControllerResponse::AlterPartition(Ok(items)) => {
                ControllerResponse::AlterPartition(Ok(refuse_each(items, why)))
            }
            ControllerResponse::AlterPartition(outcome) => ControllerResponse::AlterPartition(refuse(outcome, why)),
            ControllerResponse::ElectLeaders(items) => ControllerResponse::ElectLeaders(refuse_each(items, why)),
            ControllerResponse::ChangeMembers(outcome) => ControllerResponse::ChangeMembers(refuse(outcome, why)),
            ControllerResponse::DescribeQuorum(info) => ControllerResponse::DescribeQuorum(refuse(info, why)),
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

/// Why an answer is another than the one that was decided.
struct Failure<'a> {
    why: &'a ApiError,
    /// What was to fail anyway fails for its own reason.
    keeps_errors: bool,
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

    /// What its process was started with.
    pub fn file(&self) -> &Properties {
        &self.file
    }

    /// Decides one request. `sessions` are those of the active controller, `random_id` are fresh random bytes, from
    /// which topic ids are made.
    pub fn handle(
        &self,
        image: &ClusterImage,
        sessions: &Sessions,
        request: ControllerRequest,
        now: Now,
        random_id: [u8; 16],
    ) -> Decision {
        match request {
            ControllerRequest::RegisterBroker {
                node_id,
                incarnation,
                directory_id,
                shards,
                endpoints,
                rack,
                metadata_versions,
            } => {
                let broker = Broker {
                    node_id,
                    incarnation,
                    directory_id,
                    shards,
                    endpoints,
                    rack,
                    metadata_versions,
                    ..Broker::default()
                };
                brokers::register(image, sessions, now.elapsed, broker)
            }
            ControllerRequest::BrokerHeartbeat { node_id, epoch, applied_offset, want_fence, want_shutdown } => {
                let wants = brokers::Wants { fence: want_fence, shutdown: want_shutdown };
                let mut decision =
                    brokers::heartbeat(image, sessions, now.elapsed, (node_id, epoch), applied_offset, wants);
                let widened = self.widen(image, &decision);
                decision.records.extend(widened);
                decision
            }
            ControllerRequest::FenceBroker { node_id, epoch } => brokers::fence(image, node_id, epoch),
            ControllerRequest::UnregisterBroker { node_id } => brokers::unregister(image, node_id),
            ControllerRequest::CreateTopics { topics, validate_only } => {
                self.create_topics(image, topics, validate_only, random_id)
            }
            ControllerRequest::DeleteTopics { topics } => self.delete_topics(image, topics),
            ControllerRequest::CreatePartitions { topics, validate_only } => {
                topics::create_partitions(image, topics, validate_only)
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
            ControllerRequest::AllocateProducerIds { node_id, epoch } => allocate_producer_ids(image, node_id, epoch),
            ControllerRequest::AlterPartition { node_id, epoch, partitions } => {
                isr::alter(image, node_id, epoch, partitions)
            }
            ControllerRequest::ElectLeaders { partitions, is_unclean } => {
                preferred::elect(image, partitions, is_unclean)
            }
            // The members of the quorum are no part of the image: who has them decides. Nothing of it is a record.
            ControllerRequest::AddObserver { .. }
            | ControllerRequest::AddRaftVoter { .. }
            | ControllerRequest::UpdateRaftVoter { .. }
            | ControllerRequest::RemoveRaftVoter { .. } => {
                Decision { records: Vec::new(), response: ControllerResponse::ChangeMembers(Ok(())) }
            }
            ControllerRequest::DescribeQuorum => {
                let response = ControllerResponse::DescribeQuorum(Ok(QuorumInfo::default()));
                Decision { records: Vec::new(), response }
            }
        }
    }

    /// The records that give internal topics the replicas that they are to have, on what a heartbeat was answered with: whenever
    /// a broker is there again, and one after the other where there are many.
    fn widen(&self, image: &ClusterImage, heartbeat: &Decision) -> Vec<MetadataRecord> {
        if !matches!(heartbeat.response, ControllerResponse::BrokerHeartbeat(Ok(_))) {
            return Vec::new();
        }
        let factor = self.number(image, "offsets.topic.replication.factor");
        let factor = usize::try_from(factor).unwrap_or(1).min(REPLICAS_PER_PARTITION_MAX);
        if heartbeat.records.is_empty() {
            return internal_topics::widen(image, factor);
        }
        let mut image = image.clone();
        heartbeat.records.iter().for_each(|record| image.replay(record));
        internal_topics::widen(&image, factor)
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

fn allocate_producer_ids(image: &ClusterImage, node_id: i32, epoch: i64) -> Decision {
    let first = image.next_producer_id();
    let outcome = match first.checked_add(PRODUCER_ID_BLOCK) {
        // A block for a process that is gone would be lost, and an answer that comes late is not for its successor.
        _ if image.broker(node_id).is_none_or(|broker| broker.epoch != epoch) => Err(brokers::stale(node_id, epoch)),
        Some(next) => Ok(next),
        None => Err(ApiError::new(ErrorCode::UnknownServerError, "all producer ids were handed out")),
    };
    let records = outcome.iter().map(|next| MetadataRecord::ProducerIds { next: *next }).collect();
    let response = ControllerResponse::AllocateProducerIds(outcome.map(|_| (first, PRODUCER_ID_BLOCK)));
    Decision { records, response }
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
