//! Metadata: where partitions are, and the creation of topics on first use.
//!
//! Kafka answers a request for a topic that it is about to create with UNKNOWN_TOPIC_OR_PARTITION and lets the client
//! ask again. We answer when the topic is there, with its metadata: the client saves a retry, and the creation takes
//! one commit of the metadata log.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use kafka_wire::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_wire::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_wire_core::{StrBytes, Uuid};
use millstream_replication::config::broker_value;
use millstream_replication::controller::{CreatedTopic, NewTopic};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode, Partition, Topic, topic_name};
use millstream_storage::TopicId;

use super::{ApiContext, CloseReason, Outcome, Then, ask, codec, operations};
use crate::protocol::header::RequestHeader;

/// Most topics that one request creates by naming them; those beyond are unknown until they are asked for again.
pub const AUTO_CREATED_TOPICS_PER_REQUEST_MAX: usize = 100;

/// The request, while the topics it names are created.
#[derive(Clone, Debug)]
pub(super) struct AfterCreation(MetadataRequest);

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Outcome {
    let request: MetadataRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let topics = to_create(context, header, &request);
    if topics.is_empty() {
        return respond(context, header, &request, &BTreeMap::new()).into();
    }
    let creation = ControllerRequest::CreateTopics { topics, validate_only: false };
    ask(header, creation, Then::Metadata(AfterCreation(request)))
}

pub(super) fn finish(
    context: &ApiContext,
    header: &RequestHeader,
    after: AfterCreation,
    created: Vec<(String, Result<CreatedTopic, ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let failures = created
        .into_iter()
        .filter_map(|(name, outcome)| match outcome {
            Ok(_) => None,
            // Another request created it first, and it may be gone again: what the image says is the answer.
            Err(error) if error.code == ErrorCode::TopicAlreadyExists => None,
            // The disk is full: what makes every client ask again.
            Err(error) if error.code == ErrorCode::KafkaStorageError => Some((name, ErrorCode::LeaderNotAvailable)),
            Err(error) => Some((name, error.code)),
        })
        .collect();
    respond(context, header, &after.0, &failures)
}

/// The topics that are named, do not exist and are to be created (rule: the broker and the client both allow it).
fn to_create(context: &ApiContext, header: &RequestHeader, request: &MetadataRequest) -> Vec<NewTopic> {
    let layers = context.image.config_layers(context.node_id, context.file);
    let enabled = request.allow_auto_topic_creation
        && broker_value("auto.create.topics.enable", &layers)
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    if !enabled {
        return Vec::new();
    }
    let mut seen = HashSet::new();
    request
        .topics
        .iter()
        .flatten()
        .filter(|topic| topic.topic_id.is_zero() || header.api_version < 12)
        .filter_map(|topic| topic.name.as_deref())
        .filter(|name| {
            context.image.topic(name).is_none()
                && topic_name::check(name).is_ok()
                && !topic_name::is_internal(name)
                && seen.insert(*name)
        })
        .take(AUTO_CREATED_TOPICS_PER_REQUEST_MAX)
        .map(|name| NewTopic {
            name: name.to_string(),
            partitions: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
        })
        .collect()
}

fn respond(
    context: &ApiContext,
    header: &RequestHeader,
    request: &MetadataRequest,
    failures: &BTreeMap<String, ErrorCode>,
) -> Result<Bytes, CloseReason> {
    let version = header.api_version;
    let image = context.image;
    let mut response = MetadataResponse::default();
    response.brokers = context
        .reachable_brokers()
        .map(|(broker, endpoint)| {
            let mut described = MetadataResponseBroker::default();
            described.node_id = broker.node_id;
            described.host = endpoint.host.as_str().into();
            described.port = i32::from(endpoint.port);
            described.rack = broker.rack.as_deref().map(Into::into);
            described
        })
        .collect();
    response.cluster_id = Some(image.cluster_id().into());
    response.controller_id = image.controller_id(context.node_id).unwrap_or(-1);
    if (8..=10).contains(&version) {
        response.cluster_authorized_operations =
            operations::if_asked(request.include_cluster_authorized_operations, operations::CLUSTER);
    }

    let describe = Describe {
        context,
        version,
        topic_operations: operations::if_asked(
            version >= 8 && request.include_topic_authorized_operations,
            operations::TOPIC,
        ),
    };
    response.topics = match &request.topics {
        Some(topics) if version > 0 || !topics.is_empty() => {
            // A topic named twice is answered once: the reply is bounded by the cluster, not by the request.
            let mut seen = HashSet::new();
            topics
                .iter()
                .filter(|topic| seen.insert((&topic.name, topic.topic_id)))
                .map(|topic| describe.requested(topic, failures))
                .collect()
        }
        // Null, or empty in version 0, which has no null.
        _ => image.topics().map(|topic| describe.topic(topic)).collect(),
    };
    codec::encode(header, &response)
}

struct Describe<'a> {
    context: &'a ApiContext<'a>,
    version: i16,
    topic_operations: i32,
}

impl Describe<'_> {
    fn requested(
        &self,
        requested: &MetadataRequestTopic,
        failures: &BTreeMap<String, ErrorCode>,
    ) -> MetadataResponseTopic {
        let image = self.context.image;
        let by_id = !requested.topic_id.is_zero();
        if self.version < 12 && (by_id || requested.name.is_none()) {
            // Versions 10 and 11 have the field but not the meaning (KIP-516).
            let name = requested.name.clone().unwrap_or_default();
            return self.failed(Some(name), requested.topic_id, ErrorCode::InvalidRequest);
        }
        if by_id {
            let id = TopicId(requested.topic_id.to_bytes());
            return match image.topic_by_id(id) {
                Some(topic) => self.topic(topic),
                None => self.failed(None, requested.topic_id, ErrorCode::UnknownTopicId),
            };
        }
        let Some(name) = &requested.name else {
            return self.failed(None, Uuid::ZERO, ErrorCode::InvalidRequest);
        };
        if let Some(topic) = image.topic(name) {
            return self.topic(topic);
        }
        let error = match failures.get(name.as_str()) {
            Some(error) => *error,
            None if topic_name::check(name).is_err() => ErrorCode::InvalidTopicException,
            None => ErrorCode::UnknownTopicOrPartition,
        };
        self.failed(Some(name.clone()), Uuid::ZERO, error)
    }

    fn failed(&self, name: Option<StrBytes>, topic_id: Uuid, error: ErrorCode) -> MetadataResponseTopic {
        let mut topic = MetadataResponseTopic::default();
        topic.error_code = error.code();
        topic.is_internal = name.as_deref().is_some_and(topic_name::is_internal);
        topic.name = name;
        topic.topic_id = topic_id;
        topic
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let mut described = MetadataResponseTopic::default();
        described.name = Some((&*topic.name).into());
        described.topic_id = Uuid::from_bytes(topic.id.0);
        described.is_internal = topic.internal;
        described.topic_authorized_operations = self.topic_operations;
        described.partitions =
            (0..).zip(&topic.partitions).map(|(index, partition)| self.partition(index, partition)).collect();
        described
    }

    fn partition(&self, index: i32, partition: &Partition) -> MetadataResponsePartition {
        let view = PartitionView::new(self.context, partition);
        let mut described = MetadataResponsePartition::default();
        described.partition_index = index;
        described.leader_id = view.leader;
        described.leader_epoch = partition.leader_epoch;
        if self.version == 0 {
            // The first version says by an error that a replica is away, and leaves it out.
            described.replica_nodes = view.online(&partition.replicas);
            described.isr_nodes = view.online(&partition.isr);
            let all_there = described.replica_nodes.len() == partition.replicas.len()
                && described.isr_nodes.len() == partition.isr.len();
            described.error_code = match view.error(false) {
                ErrorCode::None if !all_there => ErrorCode::ReplicaNotAvailable.code(),
                error => error.code(),
            };
        } else {
            described.replica_nodes = partition.replicas.to_vec();
            described.isr_nodes = partition.isr.to_vec();
            described.offline_replicas = view.offline_replicas();
            described.error_code = view.error(self.version >= 6).code();
        }
        described
    }
}

/// A partition as clients of one listener see it.
pub(super) struct PartitionView<'a> {
    context: &'a ApiContext<'a>,
    /// What the image says.
    pub(super) partition: &'a Partition,
    /// The leader, or -1 when there is none, or it cannot be reached through this listener.
    pub(super) leader: i32,
}

impl<'a> PartitionView<'a> {
    pub(super) fn new(context: &'a ApiContext<'a>, partition: &'a Partition) -> Self {
        let mut view = PartitionView { context, partition, leader: -1 };
        if view.is_online(partition.leader) {
            view.leader = partition.leader;
        }
        view
    }

    fn is_online(&self, node_id: i32) -> bool {
        let broker = self.context.image.broker(node_id).filter(|broker| !broker.is_fenced);
        broker.is_some_and(|broker| broker.endpoint(self.context.listener).is_some())
    }

    fn online(&self, nodes: &[i32]) -> Vec<i32> {
        nodes.iter().copied().filter(|node| self.is_online(*node)).collect()
    }

    /// The partition has a leader, whether or not it can be reached through this listener.
    fn is_leader_alive(&self) -> bool {
        self.context.image.broker(self.partition.leader).is_some_and(|broker| !broker.is_fenced)
    }

    /// The replicas that cannot be reached through this listener.
    pub(super) fn offline_replicas(&self) -> Vec<i32> {
        self.partition.replicas.iter().copied().filter(|node| !self.is_online(*node)).collect()
    }

    /// Why the partition has no leader, if so. LISTENER_NOT_FOUND is for clients that know it.
    pub(super) fn error(&self, listener_errors: bool) -> ErrorCode {
        if self.leader >= 0 {
            ErrorCode::None
        } else if listener_errors && self.is_leader_alive() {
            ErrorCode::ListenerNotFound
        } else {
            ErrorCode::LeaderNotAvailable
        }
    }
}
