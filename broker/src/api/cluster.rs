//! DescribeCluster: the brokers, as the listener that was asked advertises them; those that are fenced for who asks for
//! them. At the listener of controllers, the voters of the quorum.

use bytes::Bytes;
use kafka_wire::describe_cluster_request::DescribeClusterRequest;
use kafka_wire::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use millstream_replication::ErrorCode;

use super::{ApiContext, CloseReason, Controllers, codec, operations};
use crate::protocol::header::RequestHeader;

/// The endpoint type of brokers (KIP-919).
const BROKERS: i8 = 1;
/// The endpoint type of controllers.
const CONTROLLERS: i8 = 2;

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: DescribeClusterRequest = codec::decode(header, body)?;
    let mut response = DescribeClusterResponse::default();
    let (here, name) = if context.controllers.is_some() { (CONTROLLERS, "CONTROLLER") } else { (BROKERS, "BROKER") };
    if request.endpoint_type != here {
        let (error, wanted) = match request.endpoint_type {
            BROKERS => (ErrorCode::MismatchedEndpointType, "BROKER"),
            CONTROLLERS => (ErrorCode::MismatchedEndpointType, "CONTROLLER"),
            _ => (ErrorCode::UnsupportedEndpointType, "UNKNOWN"),
        };
        response.error_code = error.code();
        response.error_message =
            Some(format!("this is an endpoint of type {name}; the request wants one of type {wanted}").into());
        return codec::encode(header, &response);
    }
    response.cluster_id = context.image.cluster_id().into();
    if let Some(Controllers { leader, nodes }) = context.controllers {
        response.endpoint_type = CONTROLLERS;
        response.controller_id = *leader;
        let node = |(node_id, host, port): &(i32, String, u16)| {
            let mut described = DescribeClusterBroker::default();
            described.broker_id = *node_id;
            described.host = host.as_str().into();
            described.port = i32::from(*port);
            described.rack = None;
            described
        };
        response.brokers = nodes.iter().map(node).collect();
        response.cluster_authorized_operations =
            operations::if_asked(request.include_cluster_authorized_operations, operations::CLUSTER);
        return codec::encode(header, &response);
    }
    response.controller_id = context.image.controller_id(context.node_id).unwrap_or(-1);
    let brokers = context.registered_brokers();
    response.brokers = brokers
        .filter(|(broker, _)| !broker.is_fenced || request.include_fenced_brokers)
        .map(|(broker, endpoint)| {
            let mut described = DescribeClusterBroker::default();
            described.broker_id = broker.node_id;
            described.host = endpoint.host.as_str().into();
            described.port = i32::from(endpoint.port);
            described.rack = broker.rack.as_deref().map(Into::into);
            // Only whoever may be told of fenced brokers asks for them: from version 2 on (KIP-1073).
            described.is_fenced = broker.is_fenced;
            described
        })
        .collect();
    response.cluster_authorized_operations =
        operations::if_asked(request.include_cluster_authorized_operations, operations::CLUSTER);
    codec::encode(header, &response)
}
