//! Describing, listing and deleting groups.

use bytes::Bytes;
use kafka_wire::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_wire::delete_groups_response::DeletableGroupResult;
use kafka_wire::describe_groups_response::DescribedGroup;
use kafka_wire::list_groups_response::ListedGroup;
use kafka_wire::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DeleteGroupsResponse, ListGroupsRequest,
    ListGroupsResponse,
};
use kafka_wire_core::StrBytes;

use super::{Coordinator, Group, Kind};
use crate::group::classic::CONSUMER_PROTOCOL_TYPE;
use crate::group::request::{GroupRequest, RequestKind, encode};
use crate::group::{GroupEffect, Moment, RequestRef, error};

/// The operations on a group that a client may do when nothing forbids them, as bits of Kafka's codes: READ (3),
/// DELETE (6), DESCRIBE (8), DESCRIBE_CONFIGS (10), ALTER_CONFIGS (11).
const AUTHORIZED_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// Kafka's name of the kind of group that the classic protocol makes.
const TYPE_CLASSIC: &str = "classic";
/// Kafka's name of the kind of group that the consumer protocol makes.
const TYPE_CONSUMER: &str = "consumer";

impl Coordinator {
    pub(super) fn describe(&self, version: i16, group_id: StrBytes, with_operations: bool) -> DescribedGroup {
        let mut described = match self.groups.get(group_id.as_str()) {
            Some(Group { kind: Kind::Classic(classic), .. }) => classic.describe(version),
            found => {
                let mut unknown = DescribedGroup::default();
                unknown.group_state = StrBytes::from("Dead");
                // KIP-1043: before version 6 an unknown group is a dead one, without an error.
                if version >= 6 {
                    unknown.error_code = error::GROUP_ID_NOT_FOUND;
                    let message = match found {
                        Some(_) => format!("Group {group_id} is not a classic group."),
                        None => format!("Group {group_id} not found."),
                    };
                    unknown.error_message = Some(StrBytes::from(message));
                }
                unknown
            }
        };
        described.group_id = group_id;
        if with_operations && version >= 3 {
            described.authorized_operations = AUTHORIZED_OPERATIONS;
        }
        described
    }

    pub(super) fn describe_consumers(
        &self,
        moment: Moment<'_>,
        version: i16,
        describe: &ConsumerGroupDescribeRequest,
    ) -> Bytes {
        let mut response = ConsumerGroupDescribeResponse::default();
        for group_id in &describe.group_ids {
            let mut group = match self.groups.get(group_id.as_str()) {
                Some(Group { kind: Kind::Consumer(consumer), .. }) => {
                    consumer.describe(version, moment.cluster, &self.config.consumer_assignors)
                }
                found => {
                    let mut unknown = DescribedConsumerGroup::default();
                    unknown.error_code = error::GROUP_ID_NOT_FOUND;
                    unknown.error_message = Some(StrBytes::from(match found {
                        Some(_) => format!("Group {group_id} is not a consumer group."),
                        None => format!("Group {group_id} not found."),
                    }));
                    unknown
                }
            };
            group.group_id = group_id.clone();
            if describe.include_authorized_operations {
                group.authorized_operations = AUTHORIZED_OPERATIONS;
            }
            response.groups.push(group);
        }
        encode(version, &response)
    }

    pub(super) fn list(&self, version: i16, list: &ListGroupsRequest) -> Bytes {
        let matches = |filter: &[StrBytes], name: &str| {
            let mut filter = filter.iter();
            filter.len() == 0 || filter.any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
        };
        let mut response = ListGroupsResponse::default();
        for (group_id, group) in &self.groups {
            let (group_type, protocol_type, state) = match &group.kind {
                Kind::Classic(classic) => (TYPE_CLASSIC, classic.protocol_type(), classic.state().name()),
                Kind::Consumer(consumer) => (TYPE_CONSUMER, CONSUMER_PROTOCOL_TYPE, consumer.state().name()),
            };
            if !matches(&list.states_filter, state) || !matches(&list.types_filter, group_type) {
                continue;
            }
            let mut listed = ListedGroup::default();
            listed.group_id = StrBytes::from(&**group_id);
            listed.protocol_type = StrBytes::from(protocol_type);
            listed.group_state = StrBytes::from(state);
            listed.group_type = StrBytes::from(group_type);
            response.groups.push(listed);
        }
        encode(version, &response)
    }

    pub(super) fn delete_groups(
        &mut self,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let RequestKind::Delete(delete) = &request.kind else { unreachable!("the caller has looked") };
        let mut response = DeleteGroupsResponse::default();
        let mut last_write = None;
        for name in &delete.groups_names {
            let mut result = DeletableGroupResult::default();
            result.group_id = name.clone();
            match self.groups.get_key_value(name.as_str()) {
                None => result.error_code = error::GROUP_ID_NOT_FOUND,
                Some((_, group)) if !group.is_empty() => {
                    result.error_code = error::NON_EMPTY_GROUP;
                }
                // Named twice: the first time has deleted it.
                Some((_, group)) if group.in_flight.is_some() => {}
                Some((group_id, group)) => {
                    let group_id = group_id.clone();
                    let records = group.tombstones(&group_id);
                    last_write = self.write_all(&group_id, records, effects).or(last_write);
                }
            }
            response.results.push(result);
        }
        let body = encode(request.version, &response);
        self.reply_after(last_write, reference, body, request, effects);
    }
}
