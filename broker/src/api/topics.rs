//! CreateTopics, DeleteTopics and CreatePartitions: their forms on the wire; the controller decides.

use bytes::Bytes;
use kafka_wire::create_partitions_request::CreatePartitionsRequest;
use kafka_wire::create_partitions_response::{CreatePartitionsResponse, CreatePartitionsTopicResult};
use kafka_wire::create_topics_request::CreateTopicsRequest;
use kafka_wire::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse};
use kafka_wire::delete_topics_request::DeleteTopicsRequest;
use kafka_wire::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use kafka_wire_core::Uuid;
use millstream_replication::controller::{
    Assignment, CreatedTopic, DeletedTopic, MorePartitions, NewTopic, TopicReference,
};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode};
use millstream_storage::TopicId;

use super::configs::TopicConfigs;
use super::{ApiContext, CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

pub(super) fn create(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: CreateTopicsRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let topics = request
        .topics
        .iter()
        .map(|topic| NewTopic {
            name: topic.name.to_string(),
            partitions: topic.num_partitions,
            replication_factor: topic.replication_factor,
            assignments: topic
                .assignments
                .iter()
                .map(|assignment| Assignment {
                    partition: assignment.partition_index,
                    brokers: assignment.broker_ids.clone(),
                })
                .collect(),
            configs: topic
                .configs
                .iter()
                .map(|config| {
                    let value = config.value.as_ref().map(ToString::to_string);
                    (config.name.to_string(), value)
                })
                .collect(),
        })
        .collect();
    let creation = ControllerRequest::CreateTopics { topics, validate_only: request.validate_only };
    ask(header, creation, Then::CreateTopics)
}

pub(super) fn finish_create(
    context: &ApiContext,
    header: &RequestHeader,
    created: Vec<(String, Result<CreatedTopic, ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut response = CreateTopicsResponse::default();
    response.topics = created
        .into_iter()
        .map(|(name, outcome)| {
            let mut result = CreatableTopicResult::default();
            result.name = name.into();
            result.error_message = None;
            match outcome {
                Ok(topic) => {
                    result.topic_id = Uuid::from_bytes(topic.topic_id.0);
                    result.num_partitions = topic.partitions;
                    result.replication_factor = topic.replication_factor;
                    // Java's client fails on a null list without an error.
                    result.configs = Some(created_configs(context, &topic));
                }
                Err(error) => {
                    result.error_code = error.code.code();
                    result.error_message = Some(error.message.into());
                }
            }
            result
        })
        .collect();
    codec::encode(header, &response)
}

/// Every configuration of a new topic, as DescribeConfigs would give it.
fn created_configs(context: &ApiContext, topic: &CreatedTopic) -> Vec<CreatableTopicConfigs> {
    TopicConfigs::new(context, &topic.configs)
        .all()
        .map(|entry| {
            let mut config = CreatableTopicConfigs::default();
            config.name = entry.name.into();
            config.value = entry.value.as_deref().map(Into::into);
            config.read_only = entry.read_only;
            config.config_source = entry.source as i8;
            config.is_sensitive = entry.sensitive;
            config
        })
        .collect()
}

pub(super) fn delete(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: DeleteTopicsRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let by_name = request.topic_names.iter().map(|name| Some(TopicReference::Name(name.to_string())));
    let by_either = request.topics.iter().map(|topic| match (&topic.name, topic.topic_id.is_zero()) {
        (Some(name), true) => Some(TopicReference::Name(name.to_string())),
        (None, false) => Some(TopicReference::Id(TopicId(topic.topic_id.to_bytes()))),
        (Some(_), false) | (None, true) => None,
    });
    match by_name.chain(by_either).collect::<Option<Vec<_>>>() {
        Some(topics) => ask(header, ControllerRequest::DeleteTopics { topics }, Then::DeleteTopics),
        None => {
            let mut response = DeleteTopicsResponse::default();
            response.responses = request
                .topics
                .iter()
                .map(|topic| {
                    let mut result = DeletableTopicResult::default();
                    result.name = topic.name.clone();
                    result.topic_id = topic.topic_id;
                    result.error_code = ErrorCode::InvalidRequest.code();
                    result.error_message = Some("each topic is to be given by its name or by its id".into());
                    result
                })
                .collect();
            codec::encode(header, &response).into()
        }
    }
}

pub(super) fn finish_delete(header: &RequestHeader, deleted: Vec<DeletedTopic>) -> Result<Bytes, CloseReason> {
    let mut response = DeleteTopicsResponse::default();
    response.responses = deleted
        .into_iter()
        .map(|topic| {
            let mut result = DeletableTopicResult::default();
            result.name = topic.name.map(Into::into);
            result.topic_id = Uuid::from_bytes(topic.topic_id.0);
            result.error_message = None;
            if let Err(error) = topic.outcome {
                // TOPIC_DELETION_DISABLED came with version 3 (KIP-322).
                let code = match error.code {
                    ErrorCode::TopicDeletionDisabled if header.api_version < 3 => ErrorCode::InvalidRequest,
                    code => code,
                };
                result.error_code = code.code();
                result.error_message = Some(error.message.into());
            }
            result
        })
        .collect();
    codec::encode(header, &response)
}

pub(super) fn create_partitions(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: CreatePartitionsRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let topics = request
        .topics
        .iter()
        .map(|topic| MorePartitions {
            name: topic.name.to_string(),
            count: topic.count,
            assignments: topic
                .assignments
                .as_ref()
                .map(|assignments| assignments.iter().map(|assignment| assignment.broker_ids.clone()).collect()),
        })
        .collect();
    let growth = ControllerRequest::CreatePartitions { topics, validate_only: request.validate_only };
    ask(header, growth, Then::CreatePartitions)
}

pub(super) fn finish_create_partitions(
    header: &RequestHeader,
    created: Vec<(String, Result<(), ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut response = CreatePartitionsResponse::default();
    response.results = created
        .into_iter()
        .map(|(name, outcome)| {
            let mut result = CreatePartitionsTopicResult::default();
            result.name = name.into();
            result.error_message = None;
            if let Err(error) = outcome {
                result.error_code = error.code.code();
                result.error_message = Some(error.message.into());
            }
            result
        })
        .collect();
    codec::encode(header, &response)
}
