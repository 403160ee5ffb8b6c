//! ListConfigResources (KIP-1000, KIP-1142): the names of what has configurations.

use bytes::Bytes;
use kafka_wire::list_config_resources_request::ListConfigResourcesRequest;
use kafka_wire::list_config_resources_response::{ConfigResource, ListConfigResourcesResponse};
use millstream_replication::ErrorCode;

use super::configs::{BROKER, TOPIC};
use super::{ApiContext, CloseReason, codec};
use crate::protocol::header::RequestHeader;

/// Kinds of resources that have no configurations here: there are none to list.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// What version 0, then called ListClientMetricsResources, is about.
const OF_VERSION_0: [i8; 1] = [CLIENT_METRICS];
const OF_VERSION_1: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: ListConfigResourcesRequest = codec::decode(header, body)?;
    let known: &[i8] = if header.api_version == 0 { &OF_VERSION_0 } else { &OF_VERSION_1 };
    let mut response = ListConfigResourcesResponse::default();
    if request.resource_types.iter().any(|asked| !known.contains(asked)) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return codec::encode(header, &response);
    }
    let is_asked = |kind| {
        let all = request.resource_types.is_empty();
        known.contains(&kind) && (all || request.resource_types.contains(&kind))
    };
    let resource = |resource_type, name: &str| {
        let mut resource = ConfigResource::default();
        resource.resource_type = resource_type;
        resource.resource_name = name.into();
        resource
    };
    if is_asked(TOPIC) {
        response.config_resources.extend(context.image.topics().map(|topic| resource(TOPIC, &topic.name)));
    }
    if is_asked(BROKER) {
        let brokers = context.reachable_brokers();
        response.config_resources.extend(brokers.map(|(broker, _)| resource(BROKER, &broker.node_id.to_string())));
    }
    codec::encode(header, &response)
}
