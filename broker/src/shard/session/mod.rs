//! The sessions' half of a shard: requests come in by their connections, are put to the owners of partitions by
//! messages, at this shard as at others, and their replies are put together and sent.
//!
//! A file for each kind of request, with what is under way of it; [`clients`] is what all of them need. No file here
//! knows the owners: what it asks of them is in [`super::message`].

mod clients;
mod cold;
mod connection;
mod controller;
mod counters;
mod fetch;
mod fetched;
mod groups;
mod offsets;
mod produce;
mod producer_ids;
mod quotas;
mod stages;
mod survey;
mod timer;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::controller::AlterPartition;
use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse};
use millstream_storage::{DiskError, PartitionKey};

use super::event::{ConnectionId, PrefetchToken, RequestId};
use super::message::{Appended, Message, QueryDone, ReadReply, SurveyDone, Used};
use super::options::ShardOptions;
use super::turn::Turn;
use crate::metrics::Scrape;
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::Handler;
use clients::Clients;
use controller::{ControllerCall, ControllerCalls, finish_api};
use fetch::Fetches;
use groups::Groups;
use offsets::Offsets;
use produce::Produces;
use producer_ids::ProducerIds;
use stages::{Stage, Timeline};
use survey::Surveys;
use timer::Waits;

#[cfg(test)]
pub use quotas::TELL_INTERVAL;
pub use stages::Kind;

/// The sessions of a shard, and their requests under way.
#[derive(Debug)]
pub struct Sessions {
    clients: Clients,
    calls: ControllerCalls,
    produces: Produces,
    fetches: Fetches,
    offsets: Offsets,
    surveys: Surveys,
    producer_ids: ProducerIds,
    groups: Groups,
    /// The request that is being parsed.
    parsing: Option<RequestId>,
}

impl Sessions {
    /// None yet.
    pub fn new(options: &ShardOptions) -> Sessions {
        Sessions {
            clients: Clients::new(&options.file, options.request_bytes_max),
            calls: ControllerCalls::default(),
            produces: Produces::default(),
            fetches: Fetches::default(),
            offsets: Offsets::default(),
            surveys: Surveys::default(),
            producer_ids: ProducerIds::default(),
            groups: Groups::default(),
            parsing: None,
        }
    }

    /// A client connected to the listener of this index.
    pub fn connected(&mut self, connection: ConnectionId, listener: usize, peer: SocketAddr) {
        self.clients.connections.connected(connection, listener, peer);
    }

    /// The socket took all that was sent so far, at this time.
    pub fn drained(&mut self, turn: &mut Turn<'_>, connection: ConnectionId, at: Duration) {
        self.clients.connections.drained(connection, at, turn.effects);
    }

    /// A connection is gone, and with it its requests.
    pub fn disconnected(&mut self, turn: &mut Turn<'_>, connection: ConnectionId) {
        let clients = &mut self.clients;
        clients.quotas.disconnected(connection, clients.connections.muted_until(connection));
        for request in clients.connections.disconnected(connection, turn.effects) {
            self.produces.cancel(clients, request);
            self.fetches.cancel(turn, clients, request);
            self.offsets.cancel(turn, clients, request);
            self.surveys.cancel(request);
            self.producer_ids.cancel(request);
            self.groups.cancel(request);
        }
    }

    /// Takes a request that was read from its connection at a time before, and hands it to whoever serves its API.
    /// Returns what kind it is.
    pub fn request(&mut self, turn: &mut Turn<'_>, received: Duration, connection: ConnectionId, frame: Bytes) -> Kind {
        let frame_bytes = frame.len();
        let parsed = RequestHeader::parse(frame).map(|(header, body)| (header.api_key.handler(), header, body));
        let kind = parsed.as_ref().map_or(Kind::Other, |(handler, ..)| Kind::of(*handler));
        let timeline = Timeline::new(kind, received, turn.now.elapsed);
        let clients = &mut self.clients;
        let Some(id) = clients.connections.admit(connection, frame_bytes, timeline, turn.effects) else { return kind };
        self.parsing = Some(id);
        let Ok((handler, header, body)) = parsed else {
            clients.close(turn, id);
            return kind;
        };
        clients.counters.request(header.api_key);
        let calls = &mut self.calls;
        match handler {
            Handler::Produce => self.produces.take(turn, clients, id, &header, body),
            Handler::Fetch => self.fetches.take(turn, clients, id, &header, body),
            Handler::Offsets(api) => self.offsets.take(turn, clients, id, api, &header, body),
            Handler::Survey(api) => self.surveys.take(turn, clients, id, api, &header, body),
            Handler::ProducerIds => self.producer_ids.take(turn, clients, calls, id, &header, body),
            Handler::FindCoordinator => self.groups.find_coordinator(turn, clients, calls, id, &header, body),
            Handler::Group(api) => self.groups.take(turn, clients, id, api, &header, body),
            Handler::Image(api) => calls.api(turn, clients, id, api, &header, body),
        }
        kind
    }

    /// The request that came last is understood, or answered.
    pub fn parsed(&mut self, now: Duration) {
        if let Some(request) = self.parsing.take()
            && let Some(timeline) = self.clients.connections.timeline(request)
        {
            let waits_for = if timeline.kind() == Kind::Other { Stage::Remote } else { Stage::Queue };
            timeline.enter(waits_for, now);
        }
    }

    /// The controller has answered.
    pub fn controller_answered(&mut self, turn: &mut Turn<'_>, token: u64, response: ControllerResponse) {
        match self.calls.take(token) {
            ControllerCall::ProducerIds => {
                let ControllerResponse::AllocateProducerIds(block) = response else {
                    panic!("the controller answered {response:?} to AllocateProducerIds");
                };
                self.producer_ids.allocated(turn, &mut self.clients, &mut self.calls, block);
            }
            ControllerCall::OffsetsTopic => self.groups.offsets_topic_created(),
            ControllerCall::AlterPartition => {
                let ControllerResponse::AlterPartition(outcomes) = response else {
                    panic!("the controller answered {response:?} to AlterPartition");
                };
                let key = |(topic_id, partition)| PartitionKey { topic_id, partition };
                let altered = outcomes.map(|all| all.into_iter().map(|(of, outcome)| (key(of), outcome)).collect());
                turn.tell(turn.options.index, Message::Altered(altered));
            }
            ControllerCall::Api { request, then } => finish_api(turn, &mut self.clients, request, then, response),
        }
    }

    /// Leaders here propose who is to be in sync: the controller is asked.
    pub fn propose(&mut self, turn: &mut Turn<'_>, proposals: Vec<(PartitionKey, AlterPartition)>) {
        let (node_id, epoch) = (turn.options.node_id, turn.metadata.broker_epoch());
        let partitions = proposals.into_iter().map(|(key, asked)| ((key.topic_id, key.partition), asked)).collect();
        let request = ControllerRequest::AlterPartition { node_id, epoch, partitions };
        self.calls.ask(turn, ControllerCall::AlterPartition, request);
    }

    /// An owner has appended, or refused to.
    pub fn appended(&mut self, turn: &mut Turn<'_>, appended: Appended) {
        self.produces.appended(turn, &mut self.clients, appended);
    }

    /// An owner has read.
    pub fn read_replied(&mut self, turn: &mut Turn<'_>, reply: ReadReply) {
        self.fetches.read_replied(turn, &mut self.clients, reply);
    }

    /// An owner says that partitions that a request watches have more to read.
    pub fn wake(&mut self, request: RequestId, slots: Vec<u32>) {
        self.fetches.wake(request, slots);
    }

    /// A file range is in the page cache, or cannot be.
    pub fn prefetched(&mut self, turn: &mut Turn<'_>, token: PrefetchToken, result: Result<(), DiskError>) {
        self.fetches.prefetched(turn, &mut self.clients, token, result);
    }

    /// An owner has answered questions about offsets.
    pub fn offsets_answered(&mut self, turn: &mut Turn<'_>, done: QueryDone) {
        self.offsets.answered(turn, &mut self.clients, done);
    }

    /// An owner has answered a round of a survey.
    pub fn survey_answered(&mut self, done: SurveyDone) {
        self.surveys.answered(done);
    }

    /// A coordinator of groups has answered.
    pub fn group_answered(&mut self, turn: &mut Turn<'_>, request: RequestId, slot: u32, body: Bytes) {
        self.groups.answered(turn, &mut self.clients, request, slot, body);
    }

    /// Another shard says what its clients used.
    pub fn quota_used(&mut self, turn: &Turn<'_>, used: &[Used]) {
        self.clients.quotas.told(turn.now, used);
    }

    /// Quotas of clients have changed.
    pub fn quotas_changed(&mut self, image: &ClusterImage) {
        self.clients.quotas.changed(image.quotas());
    }

    /// The space of the data directory's file system.
    pub fn set_space(&mut self, free_bytes: u64, total_bytes: u64) {
        self.surveys.set_space(free_bytes, total_bytes);
    }

    /// Answers one request whose time is up. Returns whether there was one.
    pub fn time_out(&mut self, turn: &mut Turn<'_>) -> bool {
        let clients = &mut self.clients;
        let Some((request, waits)) = clients.timers.take_due(turn.now.elapsed) else { return false };
        match waits {
            Waits::Produce => self.produces.timed_out(turn, clients, request),
            Waits::Fetch => self.fetches.timed_out(turn, clients, request),
            Waits::Offsets => self.offsets.timed_out(turn, request),
        }
        true
    }

    /// Reads again from clients that have waited for their quota. Returns whether there was anything to do.
    pub fn advance_quotas(&mut self, turn: &mut Turn<'_>) -> bool {
        self.clients.advance_quotas(turn)
    }

    /// A round of a survey. Returns whether there was anything to do.
    pub fn advance_survey(&mut self, turn: &mut Turn<'_>) -> bool {
        self.surveys.advance(turn, &mut self.clients)
    }

    /// Reads for the fetches that were woken in this turn. Returns whether there were any.
    pub fn read_woken(&mut self, turn: &mut Turn<'_>) -> bool {
        self.fetches.read_woken(turn, &mut self.clients)
    }

    /// The turn has ended: what was answered in it is on its way out.
    pub fn turn_ended(&mut self, now: Duration) {
        self.clients.connections.turn_ended(now);
    }

    /// Takes no more requests, and answers the fetches and deletions that wait for more.
    pub fn begin_shutdown(&mut self, turn: &mut Turn<'_>) {
        self.clients.connections.begin_shutdown(turn.effects);
        self.fetches.answer_parked(turn, &mut self.clients);
        self.offsets.end_all(turn, &mut self.clients);
    }

    /// Whether every request was answered, as far as this shard can: what clients have not taken may still wait.
    pub fn is_answered(&self) -> bool {
        self.clients.connections.is_answered()
    }

    /// When something is due though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = self.surveys.is_ready().then_some(Duration::ZERO);
        [at_once, self.clients.timers.next(), self.clients.quotas.next_deadline()].into_iter().flatten().min()
    }

    /// What the sessions count, for a scrape.
    pub fn samples(&self, scrape: &mut Scrape) {
        self.clients.connections.samples(scrape);
        self.clients.counters.samples(&mut scrape.samples);
        self.clients.quotas.samples(&mut scrape.samples);
        self.fetches.samples(&mut scrape.samples);
    }
}
