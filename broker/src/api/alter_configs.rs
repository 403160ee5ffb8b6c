//! AlterConfigs and IncrementalAlterConfigs: their forms on the wire; the controller decides.

use std::collections::HashMap;

use bytes::Bytes;
use kafka_wire::alter_configs_request::AlterConfigsRequest;
use kafka_wire::alter_configs_response::{AlterConfigsResourceResponse as ReplaceResult, AlterConfigsResponse};
use kafka_wire::incremental_alter_configs_request::{AlterableConfig, IncrementalAlterConfigsRequest};
use kafka_wire::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as ChangeResult, IncrementalAlterConfigsResponse,
};
use kafka_wire_core::StrBytes;
use millstream_replication::controller::{ConfigChange, ConfigOperation, ConfigResource};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode, topic_name};

use super::configs::{BROKER, TOPIC, unsupported_resource};
use super::{CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

/// The resources of a request in its order, each with what the controller is asked about, or why it is not.
pub(super) type Resources = Vec<Requested>;

/// One resource of a request.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    resource_type: i8,
    resource_name: StrBytes,
    resource: Result<ConfigResource, ApiError>,
}

/// What became of it.
struct Altered {
    resource_type: i8,
    resource_name: StrBytes,
    error: Option<ApiError>,
}

pub(super) fn replace(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: AlterConfigsRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let mut requested = Vec::with_capacity(request.resources.len());
    let mut resources = Vec::new();
    for item in &request.resources {
        let resource = resource(item.resource_type, &item.resource_name);
        if let Ok(resource) = &resource {
            let configs = item
                .configs
                .iter()
                .map(|config| {
                    let value = config.value.as_ref().map(ToString::to_string);
                    (config.name.to_string(), value)
                })
                .collect();
            resources.push((resource.clone(), configs));
        }
        requested.push(Requested {
            resource_type: item.resource_type,
            resource_name: item.resource_name.clone(),
            resource,
        });
    }
    if resources.is_empty() {
        return finish_replace(header, requested, Vec::new()).into();
    }
    let replacement = ControllerRequest::AlterConfigs { resources, validate_only: request.validate_only };
    ask(header, replacement, Then::AlterConfigs(requested))
}

pub(super) fn incremental(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: IncrementalAlterConfigsRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let mut requested = Vec::with_capacity(request.resources.len());
    let mut resources = Vec::new();
    for item in &request.resources {
        let changes = resource(item.resource_type, &item.resource_name)
            .and_then(|resource| Ok((resource, changes(&item.configs)?)));
        requested.push(Requested {
            resource_type: item.resource_type,
            resource_name: item.resource_name.clone(),
            resource: match &changes {
                Ok((resource, _)) => Ok(resource.clone()),
                Err(error) => Err(error.clone()),
            },
        });
        resources.extend(changes);
    }
    if resources.is_empty() {
        return finish_incremental(header, requested, Vec::new()).into();
    }
    let change = ControllerRequest::IncrementalAlterConfigs { resources, validate_only: request.validate_only };
    ask(header, change, Then::IncrementalAlterConfigs(requested))
}

pub(super) fn finish_replace(
    header: &RequestHeader,
    requested: Resources,
    altered: Vec<(ConfigResource, Result<(), ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut response = AlterConfigsResponse::default();
    response.responses = in_order(requested, altered)
        .map(|altered| {
            let mut result = ReplaceResult::default();
            result.resource_type = altered.resource_type;
            result.resource_name = altered.resource_name;
            result.error_code = altered.error.as_ref().map_or(0, |error| error.code.code());
            result.error_message = altered.error.map(|error| error.message.into());
            result
        })
        .collect();
    codec::encode(header, &response)
}

pub(super) fn finish_incremental(
    header: &RequestHeader,
    requested: Resources,
    altered: Vec<(ConfigResource, Result<(), ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut response = IncrementalAlterConfigsResponse::default();
    response.responses = in_order(requested, altered)
        .map(|altered| {
            let mut result = ChangeResult::default();
            result.resource_type = altered.resource_type;
            result.resource_name = altered.resource_name;
            result.error_code = altered.error.as_ref().map_or(0, |error| error.code.code());
            result.error_message = altered.error.map(|error| error.message.into());
            result
        })
        .collect();
    codec::encode(header, &response)
}

/// The outcome of each resource of the request, in its order.
fn in_order(
    requested: Resources,
    altered: Vec<(ConfigResource, Result<(), ApiError>)>,
) -> impl Iterator<Item = Altered> {
    let altered: HashMap<ConfigResource, Result<(), ApiError>> = altered.into_iter().collect();
    requested.into_iter().map(move |requested| {
        let outcome = match requested.resource {
            Ok(resource) => altered.get(&resource).cloned().expect("the controller answers for every resource"),
            Err(error) => Err(error),
        };
        Altered { resource_type: requested.resource_type, resource_name: requested.resource_name, error: outcome.err() }
    })
}

fn resource(resource_type: i8, name: &str) -> Result<ConfigResource, ApiError> {
    match resource_type {
        TOPIC => topic_name::check(name)
            .map(|()| ConfigResource::Topic(name.to_string()))
            .map_err(|why| ApiError::new(ErrorCode::InvalidTopicException, why)),
        BROKER if name.is_empty() => Ok(ConfigResource::Cluster),
        BROKER => name.parse().map(ConfigResource::Broker).map_err(|_| {
            let why = format!("a broker is named by its number, not {name:?}");
            ApiError::new(ErrorCode::InvalidRequest, why)
        }),
        other => Err(unsupported_resource(other)),
    }
}

fn changes(configs: &[AlterableConfig]) -> Result<Vec<ConfigChange>, ApiError> {
    configs
        .iter()
        .map(|config| {
            let operation = match config.config_operation {
                0 => ConfigOperation::Set,
                1 => ConfigOperation::Delete,
                2 => ConfigOperation::Append,
                3 => ConfigOperation::Subtract,
                other => {
                    let why = format!("there is no config operation {other}, for {}", config.name);
                    return Err(ApiError::new(ErrorCode::InvalidRequest, why));
                }
            };
            Ok(ConfigChange {
                name: config.name.to_string(),
                operation,
                value: config.value.as_ref().map(ToString::to_string),
            })
        })
        .collect()
}
