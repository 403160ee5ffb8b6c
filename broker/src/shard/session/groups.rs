//! The session's side of consumer groups: find the coordinators that a request concerns, ask them, and put their
//! responses together. The first FindCoordinator creates `__consumer_offsets`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::config::broker_value;
use millstream_replication::controller::NewTopic;
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{ControllerRequest, Topic};
use millstream_storage::PartitionKey;

use super::clients::Clients;
use super::controller::{ControllerCall, ControllerCalls};
use crate::group::route::{self, Located, Node, Route};
use crate::group::{COORDINATOR_NOT_AVAILABLE, ClientInfo, GroupRequest, NOT_COORDINATOR, RequestKind};
use crate::protocol::header::{RequestHeader, ResponseHeader, finish_frame};
use crate::protocol::versions::GroupApi;
use crate::shard::event::RequestId;
use crate::shard::message::{ByOwner, GroupCall, GroupItem, Message};
use crate::shard::turn::Turn;

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

impl Groups {
    /// Takes a request for coordinators.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        api: GroupApi,
        header: &RequestHeader,
        body: Bytes,
    ) {
        // The request may stay for long: a copy of its few bytes does not keep the connection's buffer.
        let body = Bytes::copy_from_slice(&body);
        let Ok(mut request) = GroupRequest::decode(api, header.api_version, body) else {
            return clients.close(turn, id);
        };
        let image = turn.metadata.image();
        request.refuse_unknown_partitions(|topic, partition| {
            image.topic(topic).is_some_and(|topic| topic.partition(partition).is_some())
        });
        let Some(topic) = offsets_topic(turn) else {
            // Nobody has looked for a coordinator yet: there are no groups.
            return match &request.kind {
                RequestKind::List(_) => finish(turn, clients, id, header.response(), request, Vec::new()),
                _ => reply(turn, clients, id, header.response(), &request.error_reply(COORDINATOR_NOT_AVAILABLE)),
            };
        };
        let topic_id = topic.id;
        let partitions = topic.partitions.len() as i32;
        let (whole, parts) = match route::route(request, partitions) {
            Route::One(partition, request) => (None, vec![(partition, request)]),
            Route::Parts(whole, parts) => (Some(whole), parts),
            Route::All(whole) => {
                // Other nodes are asked for theirs by the client.
                let led = (0..partitions).filter(|index| turn.metadata.led_partition(topic, *index).is_ok());
                let parts = led.map(|partition| (partition, whole.clone())).collect();
                (Some(whole), parts)
            }
        };
        if let (Some(whole), []) = (&whole, &parts[..]) {
            return finish(turn, clients, id, header.response(), whole.clone(), Vec::new());
        }
        let pending =
            PendingGroup { header: header.response(), whole, bodies: vec![None; parts.len()], left: parts.len() };
        self.pending.insert(id, pending);
        let client = ClientInfo {
            client_id: Arc::from(header.client_id.as_deref().unwrap_or("")),
            client_host: Arc::from(clients.connections.host(id.connection)),
        };
        let mut calls = ByOwner::default();
        for (slot, (partition, request)) in (0..).zip(parts) {
            let key = PartitionKey { topic_id, partition };
            calls.push(turn.options.owner(key), GroupItem { slot, key, request });
        }
        for (owner, items) in calls {
            let call = GroupCall { from: turn.options.index, request: id, client: client.clone(), items };
            turn.tell(owner, Message::Group(call));
        }
    }

    /// A coordinator has answered.
    pub fn answered(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId, slot: u32, body: Bytes) {
        // It may be gone: its connection is closed.
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return };
        let pending = entry.get_mut();
        let previous = pending.bodies[slot as usize].replace(body);
        assert!(previous.is_none(), "a coordinator answers once");
        assert!(pending.left > 0, "as many answer as were asked");
        pending.left -= 1;
        if pending.left == 0 {
            let PendingGroup { header, whole, bodies, .. } = entry.remove();
            let bodies = bodies.into_iter().flatten();
            match whole {
                // One coordinator was asked.
                None => bodies.for_each(|body| reply(turn, clients, id, header, &body)),
                Some(request) => finish(turn, clients, id, header, request, bodies.collect()),
            }
        }
    }

    /// Forgets a request whose connection is gone; the coordinator's answer is dropped when it comes.
    pub fn cancel(&mut self, id: RequestId) {
        self.pending.remove(&id);
    }

    /// Takes a FindCoordinator request.
    pub fn find_coordinator(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        calls: &mut ControllerCalls,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
    ) {
        let partitions = match offsets_topic(turn) {
            Some(topic) => topic.partitions.len() as i32,
            None => {
                self.create_offsets_topic(turn, calls);
                1
            }
        };
        let listener = clients.listener(turn, id.connection);
        match route::find_coordinator(header.api_version, body, partitions, |partition| {
            locate(turn, listener, partition)
        }) {
            Ok(body) => reply(turn, clients, id, header.response(), &body),
            Err(_) => clients.close(turn, id),
        }
    }

    /// Asks for `__consumer_offsets`, and waits for nothing: whoever looked for a coordinator is told that there is none
    /// yet and looks again, as Kafka does it. A response that waited would hold back all behind it on its connection.
    fn create_offsets_topic(&mut self, turn: &mut Turn<'_>, calls: &mut ControllerCalls) {
        if std::mem::replace(&mut self.is_creating, true) {
            return;
        }
        let value = |name| broker_value(name, &[&*turn.options.file]).unwrap_or_default().to_string();
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
        calls.ask(turn, ControllerCall::OffsetsTopic, request);
    }

    /// The controller has created `__consumer_offsets`, or somebody else was faster, or it could not: the next client that
    /// looks for a coordinator asks again.
    pub fn offsets_topic_created(&mut self) {
        self.is_creating = false;
    }
}

/// Puts the coordinators' responses together, and replies.
fn finish(
    turn: &mut Turn<'_>,
    clients: &mut Clients,
    id: RequestId,
    header: ResponseHeader,
    request: GroupRequest,
    bodies: Vec<Bytes>,
) {
    match route::merge(&request, bodies) {
        Ok(body) => reply(turn, clients, id, header, &body),
        // The parts together hold more than one response may.
        Err(_) => clients.close(turn, id),
    }
}

fn reply(turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId, header: ResponseHeader, body: &[u8]) {
    let mut writer = header.begin_frame(body.len());
    writer.raw(body);
    clients.reply(turn, id, finish_frame(writer));
}

fn offsets_topic<'a>(turn: &Turn<'a>) -> Option<&'a Topic> {
    turn.metadata.image().topic(CONSUMER_OFFSETS)
}

/// Where the leader of a partition of `__consumer_offsets` is reached by clients of a listener, whichever node it is.
fn locate(turn: &Turn<'_>, listener: &str, partition: i32) -> Located {
    let topic = offsets_topic(turn).ok_or(COORDINATOR_NOT_AVAILABLE)?;
    let leader = topic.partition(partition).ok_or(NOT_COORDINATOR)?.leader;
    let broker = turn.metadata.image().broker(leader).ok_or(COORDINATOR_NOT_AVAILABLE)?;
    let endpoint = broker.endpoint(listener).ok_or(COORDINATOR_NOT_AVAILABLE)?;
    Ok(Node { id: leader, host: endpoint.host.clone(), port: i32::from(endpoint.port) })
}
