//! A shard: one core's sessions and partitions as a pure state machine.
//!
//! Calling contract. The driver takes everything that has happened, calls [`Shard::handle`] for each event in order,
//! then [`Shard::end_turn`] once, and executes the effects in order. It calls `end_turn` again at
//! [`Shard::next_deadline`]. The shard performs no I/O, reads no clock and draws no random number.
//!
//! A driver that wants to know where the time goes calls the parts that these two are made of, each with a `now` of its
//! own: [`Shard::take`] and [`Shard::settle`], [`Shard::end_turn_step`] for each of [`EndStep::ALL`], and
//! [`Shard::turn_ended`]. What happens is the same.
//!
//! Inside: a request comes in by its connection's *session* ([`session`]), which asks the *owners* of partitions
//! ([`partition`]) by messages ([`message`]), at this shard as at others, and puts their replies together.
//!
//! | request | session's side | owner's side |
//! |---|---|---|
//! | Produce | [`produce`] | [`append`] |
//! | Fetch | [`fetch`], [`cold`] | [`read`] |
//! | ListOffsets, DeleteRecords, OffsetForLeaderEpoch | [`offsets`] | [`query`] |
//! | DescribeLogDirs, DescribeProducers | [`survey`] | [`survey`] |
//! | InitProducerId | [`producer_ids`] | the controller |
//! | FindCoordinator, JoinGroup, ..., OffsetFetch | [`groups`] | [`coordination`], [`crate::group`] |
//! | all others | [`crate::api`] | the controller |

mod append;
mod cold;
mod coordination;
mod counters;
mod fetch;
mod groups;
mod listing;
mod message;
mod metadata;
mod offsets;
mod partition;
mod produce;
mod producer_ids;
mod query;
mod quotas;
mod read;
mod session;
pub(crate) mod slab;
mod stages;
mod survey;
mod timer;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::config::Properties;
use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse, ErrorCode};
use millstream_storage::shard_log::{Ops, Progress};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken, FilePath, Now, ShardLog};

pub use listing::{GroupCursor, PIECE_PLACES_MAX, PartitionRow, Piece};
pub use message::Message;
pub use work::Work;

use crate::api;
use crate::config::ConnectionRules;
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::ApiKey;
use session::{RequestId, Response, Sessions};
use stages::{Kind, Stage, Timeline};

/// A part of the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStep {
    /// A piece of what metadata records mean for partitions.
    Metadata,
    /// Requests whose time is up.
    Deadlines,
    /// Clients that have waited for their quota are read from again.
    Quotas,
    /// A round of a survey.
    Survey,
    /// Groups: what has fallen due, what is still loading.
    Groups,
    /// What was appended is put into a commit group.
    Commit,
    /// A piece of a checkpoint.
    Checkpoint,
    /// From the journal to the segments.
    WriteBack,
    /// A piece of retention, and what follows from it; the next step of a compaction is started.
    Retention,
    /// Fetches that wait for what was committed.
    Wake,
}

impl EndStep {
    /// All of them, in their order.
    pub const ALL: [EndStep; 10] = [
        EndStep::Metadata,
        EndStep::Deadlines,
        EndStep::Quotas,
        EndStep::Survey,
        EndStep::Groups,
        EndStep::Commit,
        EndStep::Checkpoint,
        EndStep::WriteBack,
        EndStep::Retention,
        EndStep::Wake,
    ];
}

/// Partitions that one Produce or Fetch request may name; a request with more closes its connection.
pub const REQUEST_PARTITIONS_MAX: usize = 100_000;

/// Index of a shard in this process, from 0.
pub type ShardIndex = usize;

/// A client connection of this shard; never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Names a prefetch until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefetchToken(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A client connected to the listener of this index (in `listeners` order).
    Connected { connection: ConnectionId, listener: usize, peer: SocketAddr },
    /// One whole request came, without its length prefix. The driver has checked the length against
    /// `socket.request.max.bytes`.
    Request { connection: ConnectionId, frame: Bytes },
    /// All that was given to [`Effect::Send`] so far has gone into the socket.
    Drained { connection: ConnectionId },
    /// The connection is gone: closed by the peer, broken, or closed by [`Effect::Close`].
    Disconnected { connection: ConnectionId },
    /// A disk operation finished.
    Disk { token: DiskToken, result: Result<DiskReply, DiskError> },
    /// A prefetch finished: the range is in the page cache, or cannot be.
    Prefetched { token: PrefetchToken, result: Result<(), DiskError> },
    /// Another shard, or the controller, says something.
    Message(Message),
    /// Free space of the data directory's file system and its size, about once a second.
    FreeSpace { bytes: u64, total_bytes: u64 },
}

/// Something to do.
#[derive(Debug)]
pub enum Effect {
    /// Send these parts on the connection, after all that was sent before.
    Send { connection: ConnectionId, parts: Vec<SendPart> },
    /// Close the connection when what was sent before has left, or at once if it cannot leave.
    Close { connection: ConnectionId },
    /// Stop or go on reading requests from the connection (back-pressure).
    Reading { connection: ConnectionId, on: bool },
    /// Execute a disk operation; answer with [`Event::Disk`].
    Disk { token: DiskToken, op: DiskOp },
    /// Bring a file range into the page cache, off the reactor; answer with [`Event::Prefetched`].
    Prefetch { token: PrefetchToken, path: FilePath, position: u64, bytes: usize },
    /// Drop a file range from the page cache, when convenient.
    Discard { path: FilePath, position: u64, bytes: usize },
    /// Hand a message to another shard. Messages from one shard to another arrive in order.
    ToShard { shard: ShardIndex, message: Message },
    /// Hand a request to the controller; the answer comes as [`Message::Controller`].
    ToController { token: u64, request: ControllerRequest },
    /// Other rules for client connections hold from now on. One shard of the process says so.
    ConnectionRules(Arc<ConnectionRules>),
    /// This shard has applied the metadata up to and including this offset.
    MetadataApplied { offset: u64 },
    /// Something went wrong and was survived: an operator wants to know.
    Warn { message: String },
    /// Nothing may be acknowledged any more: print the reason and exit with an error.
    Fail { reason: String },
}

/// A piece of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendPart {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a file that a prefetch has made resident: `sendfile`.
    File { path: FilePath, position: u64, bytes: usize },
}

impl SendPart {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            SendPart::Memory(bytes) => bytes.len(),
            SendPart::File { bytes, .. } => *bytes,
        }
    }
}

/// What a shard is, and its limits.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Which of the process's shards.
    pub index: ShardIndex,
    /// How many shards the process has.
    pub shards: usize,
    /// This broker.
    pub node_id: i32,
    /// What the process was configured with at its start.
    pub file: Arc<Properties>,
    /// The data directory, as clients are told of it.
    pub log_dir: String,
    /// The names of the listeners, in `listeners` order.
    pub listeners: Vec<String>,
    /// `fetch.max.bytes`: records in one Fetch response, but for its first batch.
    pub fetch_bytes_max: usize,
    /// Memory of all groups of the broker.
    pub group_bytes_max: usize,
    /// This shard's part of `queued.max.request.bytes`: memory of requests in flight, beyond which clients are not read
    /// from.
    pub request_bytes_max: usize,
}

/// What the controller was asked for.
#[derive(Debug)]
enum ControllerCall {
    /// A block of producer ids.
    ProducerIds,
    /// A decision for a client.
    Api { request: RequestId, then: api::Continuation },
    /// The creation of `__consumer_offsets`.
    OffsetsTopic,
}

/// One core's share of the broker.
pub struct Shard {
    options: ShardOptions,
    metadata: metadata::Metadata,
    changes: metadata::Changes,
    log: ShardLog,

    // As the session of connections.
    sessions: Sessions,
    timers: timer::Timers,
    produces: produce::Produces,
    fetches: fetch::Fetches,
    cold: cold::ColdReads,
    offsets: offsets::Offsets,
    surveys: survey::Surveys,
    quotas: quotas::Quotas,
    producer_ids: producer_ids::ProducerIds,
    groups: groups::Groups,
    controller_calls: HashMap<u64, ControllerCall>,
    next_controller_token: u64,

    // As the owner of partitions.
    partitions: partition::Partitions,
    appends: slab::Slab<append::WaitingAppend>,
    reads: read::Reads,
    queries: query::Queries,
    coordination: coordination::Coordination,

    counters: counters::Counters,
    /// The request that is being parsed.
    parsing: Option<RequestId>,
    /// Appends of this turn that wait for their commit.
    appended_in_turn: Vec<u32>,
    /// Messages of this shard to itself: handled in the same turn.
    to_self: VecDeque<Message>,
    /// Disk operations of this turn so far.
    ops: Ops,
    is_shutting_down: bool,
    /// [`Effect::Fail`] was given: nothing is acknowledged any more.
    has_failed: bool,
}

impl Shard {
    /// A shard with its recovered log. `image` is the whole cluster image as the controller recovered it: partitions
    /// that it does not hold were deleted, and their logs are removed.
    pub fn new(options: ShardOptions, log: ShardLog, image: ClusterImage) -> Shard {
        let mut shard = Shard {
            metadata: metadata::Metadata::new(image, options.node_id, options.file.clone()),
            changes: metadata::Changes::default(),
            log,
            sessions: Sessions::new(options.request_bytes_max),
            timers: timer::Timers::default(),
            produces: produce::Produces::default(),
            fetches: fetch::Fetches::default(),
            cold: cold::ColdReads::default(),
            offsets: offsets::Offsets::default(),
            surveys: survey::Surveys::default(),
            quotas: quotas::Quotas::new(&options.file),
            producer_ids: producer_ids::ProducerIds::default(),
            groups: groups::Groups::default(),
            controller_calls: HashMap::new(),
            next_controller_token: 0,
            partitions: partition::Partitions::default(),
            appends: slab::Slab::default(),
            reads: read::Reads::default(),
            queries: query::Queries::default(),
            coordination: coordination::Coordination::new(&options.file, options.group_bytes_max),
            counters: counters::Counters::default(),
            parsing: None,
            appended_in_turn: Vec::new(),
            to_self: VecDeque::new(),
            ops: Ops::new(),
            is_shutting_down: false,
            has_failed: false,
            options,
        };
        shard.quotas.changed(shard.metadata.image().quotas());
        shard.open_partitions();
        shard
    }

    /// Takes one event, which happens now, and does what follows from it.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        self.take(now, now.elapsed, event, effects);
        self.settle(now, effects);
    }

    /// The first part of [`Shard::handle`]: takes one event that happened at a time before: a request was read, a
    /// connection drained. [`Shard::settle`] follows.
    pub fn take(&mut self, now: Now, happened: Duration, event: Event, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        match event {
            Event::Connected { connection, listener, peer } => self.sessions.connected(connection, listener, peer),
            Event::Request { connection, frame } => self.request(now, happened, connection, frame, effects),
            Event::Drained { connection } => self.sessions.drained(connection, happened, effects),
            Event::Disconnected { connection } => self.disconnected(connection, effects),
            Event::Disk { token, result } => self.disk(now, token, result, effects),
            Event::Prefetched { token, result } => {
                if let Some((request, result)) = self.cold.loaded(token, result, effects) {
                    self.fetch_loaded(now, request, result, effects);
                }
            }
            Event::Message(message) => self.message(now, message, effects),
            Event::FreeSpace { bytes, total_bytes } => {
                self.log.set_free_space(bytes);
                self.surveys.set_space(bytes, total_bytes);
            }
        }
    }

    /// Ends a turn, after its events and whenever [`Shard::next_deadline`] has come.
    pub fn end_turn(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for step in EndStep::ALL {
            self.end_turn_step(now, step, effects);
        }
        self.turn_ended(now);
    }

    /// A part of [`Shard::end_turn`]. Returns whether there was anything to do: if not, it took no time worth measuring.
    pub fn end_turn_step(&mut self, now: Now, step: EndStep, effects: &mut Vec<Effect>) -> bool {
        if self.has_failed {
            return false;
        }
        let has_worked = match step {
            EndStep::Metadata => self.has_changes() && self.apply_metadata(now, effects),
            EndStep::Deadlines => {
                let mut any = false;
                while let Some(request) = self.timers.take_due(now.elapsed) {
                    any = true;
                    self.timed_out(now, request, effects);
                    self.settle(now, effects);
                }
                any
            }
            EndStep::Quotas => self.advance_quotas(now, effects),
            EndStep::Survey => self.advance_survey(effects),
            EndStep::Groups => self.coordinate(now, effects),
            EndStep::Commit => {
                let mut progress = Vec::new();
                let has_worked = self.log.commit(now, &mut self.ops, &mut progress);
                self.progress(now, progress, effects);
                has_worked
            }
            EndStep::Checkpoint => self.log.advance_checkpoint(&mut self.ops),
            EndStep::WriteBack => self.log.advance_write_back(&mut self.ops),
            EndStep::Retention => {
                let has_retained = self.log.advance_retention(now, &mut self.ops);
                self.log.advance_compaction(now, &mut self.ops) || has_retained
            }
            EndStep::Wake => {
                // What was committed in this turn wakes each fetch once, however many partitions it came from.
                self.tell_woken(effects);
                self.settle(now, effects);
                self.read_woken(now, effects)
            }
        };
        self.settle(now, effects);
        has_worked
    }

    /// The last part of [`Shard::end_turn`]: the turn's work is done, its effects are about to be executed. Only times
    /// of requests depend on it.
    pub fn turn_ended(&mut self, now: Now) {
        self.sessions.turn_ended(now.elapsed);
        for place in self.appended_in_turn.drain(..) {
            if let Some(waiting) = self.appends.find_mut(place) {
                waiting.turn_ended(now.elapsed);
            }
        }
    }

    /// When `end_turn` is to be called though nothing happens; in [`Now::elapsed`]'s time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = (self.has_changes() || self.surveys.is_ready()).then_some(Duration::ZERO);
        let parts = [self.timers.next(), self.log.next_deadline(), self.coordination.next_deadline()];
        [at_once, self.quotas.next_deadline()].into_iter().chain(parts).flatten().min()
    }

    /// Stop accepting work: answer what is under way, commit it.
    pub fn begin_shutdown(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.is_shutting_down = true;
        self.sessions.begin_shutdown(effects);
        self.answer_parked(now, effects);
        self.resign_all(now, effects);
        self.settle(now, effects);
    }

    /// After `begin_shutdown`: everything is durable and answered; the driver may stop.
    pub fn is_shut_down(&self) -> bool {
        self.is_shutting_down && self.sessions.is_answered() && self.log.is_idle()
    }

    /// The second part of [`Shard::handle`]: handles what this shard says to itself, and hands over the disk operations
    /// so far.
    pub fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        if let Some(request) = self.parsing.take()
            && let Some(timeline) = self.sessions.timeline(request)
        {
            let waits_for = if timeline.kind() == Kind::Other { Stage::Remote } else { Stage::Queue };
            timeline.enter(waits_for, now.elapsed);
        }
        while let Some(message) = self.to_self.pop_front() {
            self.message(now, message, effects);
        }
        effects.extend(self.ops.drain(..).map(|(token, op)| Effect::Disk { token, op }));
    }

    fn request(
        &mut self,
        now: Now,
        received: Duration,
        connection: ConnectionId,
        frame: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let timeline = Timeline::new(Kind::of(&frame), received, now.elapsed);
        let Some(id) = self.sessions.admit(connection, frame.len(), timeline, effects) else { return };
        self.parsing = Some(id);
        let Ok((header, body)) = RequestHeader::parse(frame) else { return self.close(id, effects) };
        self.counters.request(header.api_key);
        match header.api_key {
            ApiKey::Produce => self.produce(now, id, &header, body, effects),
            ApiKey::Fetch => self.fetch(now, id, &header, body, effects),
            ApiKey::ListOffsets | ApiKey::DeleteRecords | ApiKey::OffsetForLeaderEpoch => {
                self.offsets(now, id, &header, body, effects);
            }
            ApiKey::DescribeLogDirs | ApiKey::DescribeProducers => self.survey(id, &header, body, effects),
            ApiKey::InitProducerId => self.init_producer_id(id, &header, body, effects),
            api_key if groups::handles(api_key) => self.group(id, &header, body, effects),
            _ => self.api(id, &header, body, effects),
        }
    }

    /// Takes a request that is answered from the image, or by the controller.
    fn api(&mut self, id: RequestId, header: &RequestHeader, body: Bytes, effects: &mut Vec<Effect>) {
        match api::handle(&self.api_context(id.connection), header, body) {
            api::Outcome::Reply(frame) => self.reply(id, Ok(frame), effects),
            api::Outcome::Controller { request, then } => {
                self.ask_controller(ControllerCall::Api { request: id, then }, request, effects);
            }
            api::Outcome::Close(_) => self.close(id, effects),
        }
    }

    fn ask_controller(&mut self, call: ControllerCall, request: ControllerRequest, effects: &mut Vec<Effect>) {
        let token = self.next_controller_token;
        self.next_controller_token += 1;
        self.controller_calls.insert(token, call);
        effects.push(Effect::ToController { token, request });
    }

    fn controller_answered(&mut self, token: u64, response: ControllerResponse, effects: &mut Vec<Effect>) {
        match self.controller_calls.remove(&token).expect("the controller answers once") {
            ControllerCall::ProducerIds => {
                let ControllerResponse::AllocateProducerIds(block) = response else {
                    panic!("the controller answered {response:?} to AllocateProducerIds");
                };
                self.producer_ids_allocated(block, effects);
            }
            ControllerCall::OffsetsTopic => self.offsets_topic_created(),
            ControllerCall::Api { request, then } => {
                // Its connection may be gone.
                if self.sessions.listener(request.connection).is_some() {
                    let frame = api::finish(&self.api_context(request.connection), then, response);
                    self.reply(request, frame, effects);
                }
            }
        }
    }

    fn api_context(&self, connection: ConnectionId) -> api::ApiContext<'_> {
        api::ApiContext {
            image: self.metadata.image(),
            file: &self.options.file,
            node_id: self.options.node_id,
            listener: self.listener_name(connection),
        }
    }

    /// The name of the listener a connection came in by.
    fn listener_name(&self, connection: ConnectionId) -> &str {
        self.sessions.listener(connection).map_or("", |listener| &self.options.listeners[listener])
    }

    /// Closes the connection of a request that cannot be read or answered.
    fn close(&mut self, id: RequestId, effects: &mut Vec<Effect>) {
        self.counters.closed_for_error += 1;
        self.sessions.respond(id, Response::Close, effects);
    }

    fn disconnected(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        self.quotas.disconnected(connection, self.sessions.muted_until(connection));
        for request in self.sessions.disconnected(connection, effects) {
            self.cancel_produce(request);
            self.cancel_fetch(request, effects);
            self.cancel_offsets(request);
            self.surveys.cancel(request);
            self.cancel_init_producer_id(request);
            self.cancel_group(request);
        }
    }

    fn timed_out(&mut self, now: Now, request: RequestId, effects: &mut Vec<Effect>) {
        let known = self.produce_timed_out(request, effects)
            || self.fetch_timed_out(now, request, effects)
            || self.offsets_timed_out(request, effects);
        assert!(known, "a deadline belongs to a request");
    }

    fn disk(&mut self, now: Now, token: DiskToken, result: Result<DiskReply, DiskError>, effects: &mut Vec<Effect>) {
        if self.coordination.owns(token) {
            return self.group_disk_done(now, token, result);
        }
        let mut progress = Vec::new();
        match self.log.on_disk(now, token, result, &mut self.ops, &mut progress) {
            Ok(()) => self.progress(now, progress, effects),
            Err(fatal) => {
                self.has_failed = true;
                self.ops.clear();
                effects.push(Effect::Fail { reason: fatal.0 });
            }
        }
    }

    fn progress(&mut self, now: Now, progress: Vec<Progress>, effects: &mut Vec<Effect>) {
        let mut committed = Vec::new();
        for progress in progress {
            match progress {
                Progress::Durable { log, offset } => {
                    if let Some(partition) = self.partitions.get_mut(log) {
                        partition.advance(offset, &mut committed, &mut self.reads.woken);
                    }
                }
                Progress::LogStart { log, offset } => {
                    if let Some(partition) = self.partitions.get_mut(log) {
                        partition.log_start_moved(offset, &mut self.reads.woken);
                    }
                    self.deletions_done(log, offset, effects);
                }
                Progress::CompactionFailed { why, .. } => {
                    let message = format!("compaction leaves a partition alone until the next start: {why}");
                    effects.push(Effect::Warn { message });
                }
                Progress::ReadDone { token, result } if self.coordination.is_reading(token) => {
                    self.group_read_done(now, token, result);
                }
                Progress::ReadDone { token, result } => self.read_done(token, result, effects),
                Progress::TimeDone { token, result } => self.time_done(token, result, effects),
            }
        }
        self.release(now, committed, ErrorCode::None, effects);
    }

    /// Says something to a shard, perhaps to this one.
    fn tell(&mut self, shard: ShardIndex, message: Message, effects: &mut Vec<Effect>) {
        if shard == self.options.index {
            self.to_self.push_back(message);
        } else {
            effects.push(Effect::ToShard { shard, message });
        }
    }

    fn message(&mut self, now: Now, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Metadata { offset, records } => self.take_metadata(now, offset, records, effects),
            Message::Controller { token, response } => self.controller_answered(token, response, effects),
            Message::Append(append) => self.append(now, append, effects),
            Message::Appended(appended) => self.appended(appended, effects),
            Message::Read(read) => self.read(now, read, effects),
            Message::ReadDone(done) => self.fetch_read(now, done, effects),
            Message::Watch(watch) => self.watch(watch),
            Message::Unwatch { from, request } => self.unwatch(from, request),
            Message::Wake { request, slots } => self.wake(request, slots),
            Message::Query(query) => self.query(query, effects),
            Message::QueryDone(done) => self.offsets_answered(done, effects),
            Message::Survey(call) => self.survey_asked(call, effects),
            Message::Surveyed(done) => self.survey_answered(done),
            Message::QuotaUse(used) => self.quotas.told(now, &used),
            Message::Group(call) => self.ask_coordinators(now, call, effects),
            Message::GroupDone { request, slot, body } => self.group_done(request, slot, body, effects),
        }
    }
}
