//! The session's side of consumer groups: find the coordinators that a request concerns, ask them, and put their
//! responses together. The first FindCoordinator creates `__consumer_offsets`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::config::broker_value;
use millstream_replication::controller::NewTopic;
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{ControllerRequest, Topic};
use millstream_storage::PartitionKey;

use super::message::{ByOwner, GroupCall, GroupItem, Message};
use super::session::{RequestId, Response};
use super::{ControllerCall, Effect, SendPart, Shard};
use crate::group::route::{self, Located, Node, Route};
use crate::group::{COORDINATOR_NOT_AVAILABLE, ClientInfo, GroupRequest, NOT_COORDINATOR, RequestKind};
use crate::protocol::header::{RequestHeader, ResponseHeader, finish_frame};
use crate::protocol::versions::ApiKey;

/// A request that waits for coordinators.
#[derive(Debug)]
struct PendingGroup {
    header: ResponseHeader,
    /// A request of its kind, if its response is put together from several.
    whole: Option<GroupRequest>,
    /// The coordinators' responses, in the order in which they were asked.
    bodies: Vec<Option<Bytes>>,
    left: usize,
}

/// Group requests under way at this shard, as the session.
#[derive(Debug, Default)]
pub struct Groups {
    pending: HashMap<RequestId, PendingGroup>,
    /// `__consumer_offsets` is being created.
    is_creating: bool,
}

/// Whether an API concerns groups.
pub fn handles(api_key: ApiKey) -> bool {
    matches!(
        api_key,
        ApiKey::FindCoordinator
            | ApiKey::JoinGroup
            | ApiKey::SyncGroup
            | ApiKey::Heartbeat
            | ApiKey::LeaveGroup
            | ApiKey::OffsetCommit
            | ApiKey::OffsetFetch
            | ApiKey::OffsetDelete
            | ApiKey::DescribeGroups
            | ApiKey::ListGroups
            | ApiKey::DeleteGroups
            | ApiKey::ConsumerGroupHeartbeat
            | ApiKey::ConsumerGroupDescribe
    )
}

impl Shard {
    /// Takes a group request.
    pub(super) fn group(&mut self, id: RequestId, header: &RequestHeader, body: Bytes, effects: &mut Vec<Effect>) {
        // The request may stay for long: a copy of its few bytes does not keep the connection's buffer.
        let body = Bytes::copy_from_slice(&body);
        if header.api_key == ApiKey::FindCoordinator {
            return self.find_coordinator(id, header.response(), header.api_version, body, effects);
        }
        let Ok(mut request) = GroupRequest::decode(header.api_key, header.api_version, body) else {
            return self.close(id, effects);
        };
        let image = self.metadata.image();
        request.refuse_unknown_partitions(|topic, partition| {
            image.topic(topic).is_some_and(|topic| topic.partition(partition).is_some())
        });
        let Some(topic) = self.offsets_topic() else {
            // Nobody has looked for a coordinator yet: there are no groups.
            let body = match &request.kind {
                RequestKind::List(_) => route::merge(&request, Vec::new()).expect("nothing is put together"),
                _ => request.error_reply(COORDINATOR_NOT_AVAILABLE),
            };
            return self.reply_group(id, header.response(), &body, effects);
        };
        let topic_id = topic.id;
        let partitions = topic.partitions.len() as i32;
        let (whole, parts) = match route::route(request, partitions) {
            Route::One(partition, request) => (None, vec![(partition, request)]),
            Route::Parts(whole, parts) => (Some(whole), parts),
            Route::All(whole) => {
                let parts = (0..partitions).map(|partition| (partition, whole.clone())).collect();
                (Some(whole), parts)
            }
        };
        let pending =
            PendingGroup { header: header.response(), whole, bodies: vec![None; parts.len()], left: parts.len() };
        if parts.is_empty() {
            return self.finish_group(id, pending, effects);
        }
        self.groups.pending.insert(id, pending);
        let client = ClientInfo {
            client_id: Arc::from(header.client_id.as_deref().unwrap_or("")),
            client_host: Arc::from(self.sessions.host(id.connection)),
        };
        let mut calls = ByOwner::default();
        for (slot, (partition, request)) in (0..).zip(parts) {
            let key = PartitionKey { topic_id, partition };
            calls.push(self.owner(key), GroupItem { slot, key, request });
        }
        for (owner, items) in calls {
            let call = GroupCall { from: self.options.index, request: id, client: client.clone(), items };
            self.tell(owner, Message::Group(call), effects);
        }
    }

    /// A coordinator has answered.
    pub(super) fn group_done(&mut self, id: RequestId, slot: u32, body: Bytes, effects: &mut Vec<Effect>) {
        // It may be gone: its connection is closed.
        let Some(pending) = self.groups.pending.get_mut(&id) else { return };
        let previous = pending.bodies[slot as usize].replace(body);
        assert!(previous.is_none(), "a coordinator answers once");
        pending.left -= 1;
        if pending.left == 0 {
            let pending = self.groups.pending.remove(&id).expect("it was just there");
            self.finish_group(id, pending, effects);
        }
    }

    fn finish_group(&mut self, id: RequestId, pending: PendingGroup, effects: &mut Vec<Effect>) {
        let mut bodies: Vec<Bytes> = pending.bodies.into_iter().flatten().collect();
        let body = match pending.whole {
            None => bodies.pop().expect("one coordinator was asked"),
            Some(request) => match route::merge(&request, bodies) {
                Ok(body) => body,
                // The parts together hold more than one response may.
                Err(_) => return self.close(id, effects),
            },
        };
        self.reply_group(id, pending.header, &body, effects);
    }

    fn reply_group(&mut self, id: RequestId, header: ResponseHeader, body: &[u8], effects: &mut Vec<Effect>) {
        let mut writer = header.begin_frame(body.len());
        writer.raw(body);
        let parts = vec![SendPart::Memory(finish_frame(writer))];
        self.sessions.respond(id, Response::Parts(parts), effects);
    }

    /// Forgets a request whose connection is gone; the coordinator's answer is dropped when it comes.
    pub(super) fn cancel_group(&mut self, id: RequestId) {
        self.groups.pending.remove(&id);
    }

    fn offsets_topic(&self) -> Option<&Topic> {
        self.metadata.image().topic(CONSUMER_OFFSETS)
    }

    fn find_coordinator(
        &mut self,
        id: RequestId,
        header: ResponseHeader,
        version: i16,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let partitions = match self.offsets_topic() {
            Some(topic) => topic.partitions.len() as i32,
            None => {
                self.create_offsets_topic(effects);
                1
            }
        };
        match route::find_coordinator(version, body, partitions, |partition| self.locate(id, partition)) {
            Ok(body) => self.reply_group(id, header, &body, effects),
            Err(_) => self.close(id, effects),
        }
    }

    /// Asks for `__consumer_offsets`, and waits for nothing: whoever looked for a coordinator is told that there is none
    /// yet and looks again, as Kafka does it. A response that waited would hold back all behind it on its connection.
    fn create_offsets_topic(&mut self, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.groups.is_creating, true) {
            return;
        }
        let value = |name| broker_value(name, &[&*self.options.file]).unwrap_or_default().to_string();
        let topic = NewTopic {
            name: CONSUMER_OFFSETS.to_string(),
            partitions: value("offsets.topic.num.partitions").parse().unwrap_or(-1),
            replication_factor: value("offsets.topic.replication.factor").parse().unwrap_or(-1),
            assignments: Vec::new(),
            configs: vec![
                ("cleanup.policy".to_string(), Some("compact".to_string())),
                ("compression.type".to_string(), Some("producer".to_string())),
                ("segment.bytes".to_string(), Some(value("offsets.topic.segment.bytes"))),
            ],
        };
        let request = ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false };
        self.ask_controller(ControllerCall::OffsetsTopic, request, effects);
    }

    /// The controller has created `__consumer_offsets`, or somebody else was faster, or it could not: the next client that
    /// looks for a coordinator asks again.
    pub(super) fn offsets_topic_created(&mut self) {
        self.groups.is_creating = false;
    }

    /// Where the leader of a partition of `__consumer_offsets` is reached by this client.
    fn locate(&self, id: RequestId, partition: i32) -> Located {
        let topic = self.offsets_topic().ok_or(COORDINATOR_NOT_AVAILABLE)?;
        let leader = topic.partition(partition).ok_or(NOT_COORDINATOR)?.leader;
        let broker = self.metadata.image().broker(leader).ok_or(COORDINATOR_NOT_AVAILABLE)?;
        let endpoint = broker.endpoint(self.listener_name(id.connection)).ok_or(COORDINATOR_NOT_AVAILABLE)?;
        Ok(Node { id: leader, host: endpoint.host.clone(), port: i32::from(endpoint.port) })
    }
}
