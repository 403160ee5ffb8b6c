//! Handlers of the APIs that are not the hot path: metadata, topics, configs, admin. In Kafka they are methods of
//! `KafkaApis` and `ControllerApis`.
//!
//! Each is a pure function of the cluster image and a request. What only the controller may decide leaves as
//! [`Outcome::Controller`]; when the controller has answered, and the image that is given holds what it decided,
//! [`finish`] makes the reply.

mod alter_configs;
mod api_versions;
mod client_quotas;
mod cluster;
pub(crate) mod codec;
mod configs;
mod elections;
mod list_config_resources;
mod metadata;
mod operations;
mod quorum;
mod reassignments;
mod topic_partitions;
mod topics;
mod unregister_broker;

use bytes::Bytes;
use millstream_replication::config::Properties;
use millstream_replication::{Broker, ClusterImage, ControllerRequest, ControllerResponse, Endpoint};

pub use codec::{
    CloseReason, REQUEST_ARRAY_ELEMENTS_MAX, REQUEST_BYTES_MAX, REQUEST_STRING_BYTES_MAX, REQUEST_TAGGED_FIELDS_MAX,
};
pub use metadata::AUTO_CREATED_TOPICS_PER_REQUEST_MAX;
pub use topic_partitions::PARTITIONS_PER_REPLY_MAX;

use crate::protocol::header::RequestHeader;
use crate::protocol::versions::ImageApi;

/// What a handler knows besides the request.
#[derive(Clone, Copy, Debug)]
pub struct ApiContext<'a> {
    /// The cluster as this shard knows it.
    pub image: &'a ClusterImage,
    /// What this process was configured with at its start: file and flags.
    pub file: &'a Properties,
    /// This broker.
    pub node_id: i32,
    /// The name of the listener the client came through: it is told of brokers by their addresses under this one.
    pub listener: &'a str,
    /// Who the controllers are, where it came through the listener of controllers.
    pub controllers: Option<&'a Controllers>,
}

/// The voters of the quorum, as clients of controllers are told of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controllers {
    /// The node that leads, -1 for none that is known.
    pub leader: i32,
    /// Their numbers, and where their controller listeners are reached.
    pub nodes: Vec<(i32, String, u16)>,
}

/// Whether clients of controllers are served this API, too (KIP-919). CreateTopics is not among them: the identities of topics
/// are made of random bytes that come with a shard's requests.
pub fn is_served_by_controllers(api: ImageApi) -> bool {
    match api {
        ImageApi::ApiVersions
        | ImageApi::DescribeCluster
        | ImageApi::DescribeQuorum
        | ImageApi::AddRaftVoter
        | ImageApi::RemoveRaftVoter
        | ImageApi::UnregisterBroker
        | ImageApi::DescribeConfigs
        | ImageApi::AlterConfigs
        | ImageApi::IncrementalAlterConfigs
        | ImageApi::DeleteTopics
        | ImageApi::CreatePartitions
        | ImageApi::AlterClientQuotas
        | ImageApi::DescribeClientQuotas
        | ImageApi::ElectLeaders
        | ImageApi::ListPartitionReassignments => true,
        ImageApi::Metadata
        | ImageApi::CreateTopics
        | ImageApi::ListConfigResources
        | ImageApi::DescribeTopicPartitions => false,
    }
}

impl<'a> ApiContext<'a> {
    /// The brokers that the client can reach, in the order of their numbers, with their addresses: those that are not
    /// fenced.
    fn reachable_brokers(self) -> impl Iterator<Item = (&'a Broker, &'a Endpoint)> {
        self.registered_brokers().filter(|(broker, _)| !broker.is_fenced)
    }

    /// The brokers that have an address for the client, in the order of their numbers, fenced or not.
    fn registered_brokers(self) -> impl Iterator<Item = (&'a Broker, &'a Endpoint)> {
        self.image.brokers().filter_map(move |broker| Some((broker, broker.endpoint(self.listener)?)))
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A whole response frame: length, header and body.
    Reply(Bytes),
    /// The controller decides; its answer goes to [`finish`].
    Controller {
        /// For the controller.
        request: ControllerRequest,
        /// For [`finish`].
        then: Continuation,
    },
    /// The connection is to be closed: no error reply exists that the client could read.
    Close(CloseReason),
}

impl From<Result<Bytes, CloseReason>> for Outcome {
    fn from(result: Result<Bytes, CloseReason>) -> Self {
        match result {
            Ok(frame) => Outcome::Reply(frame),
            Err(reason) => Outcome::Close(reason),
        }
    }
}

/// What is kept of a request while the controller decides. It keeps the request's frame alive.
#[derive(Clone, Debug)]
pub struct Continuation {
    header: RequestHeader,
    then: Then,
}

#[derive(Clone, Debug)]
enum Then {
    Metadata(metadata::AfterCreation),
    CreateTopics,
    DeleteTopics,
    CreatePartitions,
    AlterConfigs(alter_configs::Resources),
    IncrementalAlterConfigs(alter_configs::Resources),
    AlterClientQuotas(Vec<client_quotas::Requested>),
    UnregisterBroker,
    ElectLeaders,
    DescribeQuorum(quorum::Described),
    AddRaftVoter,
    RemoveRaftVoter,
}

/// Answers a request of one of these APIs, or says what the controller is to decide first. `body` is what
/// [`RequestHeader::parse`] left.
pub fn handle(context: &ApiContext, api: ImageApi, header: &RequestHeader, body: Bytes) -> Outcome {
    match api {
        ImageApi::ApiVersions => api_versions::handle(context, header, body).into(),
        ImageApi::Metadata => metadata::handle(context, header, body),
        ImageApi::DescribeCluster => cluster::handle(context, header, body).into(),
        ImageApi::DescribeTopicPartitions => topic_partitions::handle(context, header, body).into(),
        ImageApi::DescribeConfigs => configs::handle(context, header, body).into(),
        ImageApi::ElectLeaders => elections::handle(header, body),
        ImageApi::ListPartitionReassignments => reassignments::list(header, body).into(),
        ImageApi::DescribeClientQuotas => client_quotas::describe(context, header, body).into(),
        ImageApi::AlterClientQuotas => client_quotas::alter(header, body),
        ImageApi::DescribeQuorum => quorum::describe(header, body),
        ImageApi::AddRaftVoter => quorum::add_voter(context, header, body),
        ImageApi::RemoveRaftVoter => quorum::remove_voter(context, header, body),
        ImageApi::ListConfigResources => list_config_resources::handle(context, header, body).into(),
        ImageApi::CreateTopics => topics::create(header, body),
        ImageApi::DeleteTopics => topics::delete(header, body),
        ImageApi::CreatePartitions => topics::create_partitions(header, body),
        ImageApi::AlterConfigs => alter_configs::replace(header, body),
        ImageApi::IncrementalAlterConfigs => alter_configs::incremental(header, body),
        ImageApi::UnregisterBroker => unregister_broker::handle(header, body),
    }
}

/// Makes the reply to a request that the controller has decided: a whole response frame. The context's image already
/// holds what the controller decided.
///
/// # Panics
/// When the response is not of the kind that was asked for.
pub fn finish(
    context: &ApiContext,
    continuation: Continuation,
    response: ControllerResponse,
) -> Result<Bytes, CloseReason> {
    let header = &continuation.header;
    match (continuation.then, response) {
        (Then::Metadata(after), ControllerResponse::CreateTopics(created)) => {
            metadata::finish(context, header, after, created)
        }
        (Then::CreateTopics, ControllerResponse::CreateTopics(created)) => {
            topics::finish_create(context, header, created)
        }
        (Then::DeleteTopics, ControllerResponse::DeleteTopics(deleted)) => topics::finish_delete(header, deleted),
        (Then::CreatePartitions, ControllerResponse::CreatePartitions(created)) => {
            topics::finish_create_partitions(header, created)
        }
        (Then::AlterConfigs(resources), ControllerResponse::AlterConfigs(altered)) => {
            alter_configs::finish_replace(header, resources, altered)
        }
        (Then::IncrementalAlterConfigs(resources), ControllerResponse::AlterConfigs(altered)) => {
            alter_configs::finish_incremental(header, resources, altered)
        }
        (Then::AlterClientQuotas(requested), ControllerResponse::AlterClientQuotas(altered)) => {
            client_quotas::finish_alter(header, requested, altered)
        }
        (Then::UnregisterBroker, ControllerResponse::UnregisterBroker(outcome)) => {
            unregister_broker::finish(header, outcome)
        }
        (Then::ElectLeaders, ControllerResponse::ElectLeaders(elected)) => elections::finish(header, elected),
        (Then::DescribeQuorum(asked), ControllerResponse::DescribeQuorum(info)) => {
            quorum::finish_describe(context, header, asked, info)
        }
        (Then::AddRaftVoter, ControllerResponse::ChangeMembers(outcome)) => quorum::finish_add_voter(header, outcome),
        (Then::RemoveRaftVoter, ControllerResponse::ChangeMembers(outcome)) => {
            quorum::finish_remove_voter(header, outcome)
        }
        (then, response) => panic!("the controller answered {response:?} to {then:?}"),
    }
}

/// Hands `request` to the controller and keeps what the reply needs.
fn ask(header: &RequestHeader, request: ControllerRequest, then: Then) -> Outcome {
    Outcome::Controller { request, then: Continuation { header: header.clone(), then } }
}
