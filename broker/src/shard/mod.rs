//! A shard: one core's sessions and partitions as a pure state machine.
//!
//! Calling contract. The driver takes everything that has happened, calls [`Shard::handle`] for each event in order,
//! then [`Shard::end_turn`] once, and executes the effects in order. It calls `end_turn` again at
//! [`Shard::next_deadline`]. The shard performs no I/O, draws no random number, and knows the time only from the
//! [`Clock`] that it is given: the driver's tells how long each part of a turn took, that of a simulation stands still.
//!
//! A shard is two halves that speak with each other, and with those of other shards, by messages ([`message`]) only. A
//! request comes in by its connection's *session* ([`session`]), which asks the *owners* of partitions ([`owner`]), at
//! this shard as at others, and puts their replies together. This file is what joins them: it hands each event and each
//! message to the half that it is for, and knows the order of a turn.
//!
//! | request | session's side | owner's side |
//! |---|---|---|
//! | Produce | `session/produce.rs` | `owner/append.rs` |
//! | Fetch | `session/fetch.rs`, `session/cold.rs` | `owner/read.rs` |
//! | ListOffsets, DeleteRecords, OffsetForLeaderEpoch | `session/offsets.rs` | `owner/query.rs` |
//! | DescribeLogDirs, DescribeProducers | `session/survey.rs` | `owner/survey.rs` |
//! | InitProducerId | `session/producer_ids.rs` | the controller |
//! | FindCoordinator, JoinGroup, ..., OffsetFetch | `session/groups.rs` | `owner/groups.rs`, [`crate::group`] |
//! | all others | `session/controller.rs`, [`crate::api`] | the controller |

#![warn(missing_docs)]

mod event;
mod message;
mod metadata;
mod options;
mod owner;
pub mod peers;
mod session;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use millstream_replication::{ClusterImage, ErrorCode};
use millstream_storage::{Now, ShardLog};

use crate::config::ConnectionRules;
use crate::group::GroupRow;
use crate::metrics::Scrape;
use metadata::{Changes, Consequence, Metadata};
use owner::Owners;
use session::{Kind, Sessions};
use turn::{EndStep, Turn};

pub use crate::protocol::send::SendPart;
pub use event::{ConnectionId, DiskToken, Effect, Event, PrefetchToken, RequestId, ShardIndex};
pub use message::{Message, REQUEST_PARTITIONS_MAX};
pub use options::ShardOptions;
pub use owner::{GroupCursor, PIECE_PLACES_MAX, PartitionRow, Piece};
pub use turn::{Clock, Work};

/// One core's share of the broker.
pub struct Shard {
    options: ShardOptions,
    metadata: Metadata,
    changes: Changes,
    sessions: Sessions,
    owners: Owners,
    /// Messages of this shard to itself: handled in the same turn.
    to_self: VecDeque<Message>,
    is_shutting_down: bool,
    /// [`Effect::Fail`] was given: nothing is acknowledged any more.
    has_failed: bool,
}

impl Shard {
    /// A shard with its recovered log. `image` is the cluster image with which it was recovered: partitions that it does
    /// not know are set aside.
    pub fn new(options: ShardOptions, log: ShardLog, image: Arc<ClusterImage>) -> Shard {
        let metadata = Metadata::new(image, options.node_id, options.file.clone());
        let mut shard = Shard {
            changes: Changes::default(),
            sessions: Sessions::new(&options),
            owners: Owners::new(&options, &metadata, log),
            to_self: VecDeque::new(),
            is_shutting_down: false,
            has_failed: false,
            metadata,
            options,
        };
        shard.sessions.quotas_changed(shard.metadata.image());
        shard
    }

    /// Takes one event, and does what follows from it.
    pub fn handle(&mut self, clock: impl Clock, event: Event, effects: &mut Vec<Effect>) {
        let happened = clock.now().elapsed;
        self.handle_late(clock, happened, event, effects);
    }

    /// Takes one event that happened at a time before: a request was read, a connection drained.
    pub fn handle_late(&mut self, mut clock: impl Clock, happened: Duration, event: Event, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        let (take, settle) = self.take(clock.now(), happened, event, effects);
        if take != settle {
            clock.lap(take);
        }
        let now = clock.now();
        self.sessions.parsed(now.elapsed);
        self.settle(now, effects);
        clock.lap(settle);
    }

    /// Ends a turn, after its events and whenever [`Shard::next_deadline`] has come.
    pub fn end_turn(&mut self, mut clock: impl Clock, effects: &mut Vec<Effect>) {
        for step in EndStep::ALL {
            if self.has_failed {
                break;
            }
            let has_worked = self.end_turn_step(clock.now(), step, effects);
            self.settle(clock.now(), effects);
            // What had nothing to do took no time worth measuring.
            if has_worked {
                clock.lap(step.into());
            }
        }
        // The turn's work is done, its effects are about to be executed. Only times of requests depend on it.
        let now = clock.now().elapsed;
        self.sessions.turn_ended(now);
        self.owners.turn_ended(now);
    }

    /// When `end_turn` is to be called though nothing happens; in [`Now::elapsed`]'s time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = self.changes.is_pending().then_some(Duration::ZERO);
        [at_once, self.sessions.next_deadline(), self.owners.next_deadline()].into_iter().flatten().min()
    }

    /// The controller has committed this process's registration, and this shard has applied it. So what its image does not
    /// know by now is gone or on other brokers, and not too new for it: what was set aside of it at the start is removed.
    /// Returns how many partitions that were.
    pub fn broker_registered(&mut self) -> usize {
        self.owners.remove_confirmed(&self.options, &self.metadata)
    }

    /// Stop accepting work: answer what is under way, commit it.
    pub fn begin_shutdown(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.is_shutting_down = true;
        let (sessions, owners, mut turn) = self.halves(now, effects);
        sessions.begin_shutdown(&mut turn);
        owners.begin_shutdown(&mut turn);
        self.settle(now, effects);
    }

    /// After `begin_shutdown`: everything is durable and answered; the driver may stop.
    pub fn is_shut_down(&self) -> bool {
        self.is_shutting_down && self.sessions.is_answered() && self.owners.is_idle()
    }

    /// Counters and gauges, for a scrape.
    pub fn samples(&mut self, scrape: &mut Scrape) {
        self.sessions.samples(scrape);
        self.owners.samples(&mut scrape.samples);
    }

    /// Lists partitions from a place on; 0 is the first.
    pub fn list_partitions(&self, from: usize) -> Piece<PartitionRow, usize> {
        self.owners.list_partitions(&self.metadata, from)
    }

    /// Lists groups with the offsets that they committed, from a place on.
    pub fn list_groups(&self, from: &GroupCursor) -> Piece<GroupRow, GroupCursor> {
        self.owners.list_groups(from)
    }

    /// The two halves, and what they are given while they work.
    fn halves<'a>(
        &'a mut self,
        now: Now,
        effects: &'a mut Vec<Effect>,
    ) -> (&'a mut Sessions, &'a mut Owners, Turn<'a>) {
        let turn = Turn { now, options: &self.options, metadata: &self.metadata, effects, to_self: &mut self.to_self };
        (&mut self.sessions, &mut self.owners, turn)
    }

    /// Hands an event to the half that it is for. Returns what kind of work that was, and what kind it is to handle the
    /// messages that follow from it.
    fn take(&mut self, now: Now, happened: Duration, event: Event, effects: &mut Vec<Effect>) -> (Work, Work) {
        if let Event::Message(message) = event {
            let work = Work::of(&message);
            self.message(now, message, effects);
            return (work, work);
        }
        if let Event::Peer(event) = event {
            let (_, owners, mut turn) = self.halves(now, effects);
            owners.peer(&mut turn, event);
            return (Work::Peers, Work::Peers);
        }
        let (sessions, owners, mut turn) = self.halves(now, effects);
        let turn = &mut turn;
        let work = match event {
            Event::Connected { connection, listener, peer } => {
                sessions.connected(connection, listener, peer);
                Work::Connection
            }
            Event::Request { connection, frame } => match sessions.request(turn, happened, connection, frame) {
                Kind::Produce => return (Work::Produce, Work::Append),
                Kind::Fetch => return (Work::Fetch, Work::Read),
                Kind::Other => Work::Request,
            },
            Event::Drained { connection } => {
                sessions.drained(turn, connection, happened);
                Work::Connection
            }
            Event::Disconnected { connection } => {
                sessions.disconnected(turn, connection);
                Work::Connection
            }
            Event::Disk { token, result } => {
                if let Err(reason) = owners.disk_done(turn, token, result) {
                    effects.push(Effect::Fail { reason });
                    self.has_failed = true;
                }
                Work::Disk
            }
            Event::Prefetched { token, result } => {
                sessions.prefetched(turn, token, result);
                Work::Disk
            }
            Event::FreeSpace { bytes, total_bytes } => {
                owners.set_free_space(bytes);
                sessions.set_space(bytes, total_bytes);
                Work::Disk
            }
            Event::Message(_) | Event::Peer(_) => unreachable!("messages and peers were handed over above"),
        };
        (work, work)
    }

    /// Hands a message to the half that it is for.
    fn message(&mut self, now: Now, message: Message, effects: &mut Vec<Effect>) {
        if let Message::Metadata { offset, records, image } = message {
            // What it means for this shard's partitions is done at once when it is little, and else over the next turns, a
            // few partitions in each. Records that come meanwhile wait.
            if self.changes.push(offset, records, image) {
                self.apply_metadata(now, effects);
            }
            return;
        }
        let (sessions, owners, mut turn) = self.halves(now, effects);
        let turn = &mut turn;
        match message {
            Message::Metadata { .. } => unreachable!("records were taken above"),
            Message::Controller { token, response } => sessions.controller_answered(turn, token, response),
            Message::Propose(proposals) => sessions.propose(turn, proposals),
            Message::Altered(outcomes) => owners.altered(turn, outcomes),
            Message::Append(append) => owners.append(turn, append),
            Message::Appended(appended) => sessions.appended(turn, appended),
            Message::Read(read) => owners.read(turn, read),
            Message::ReadReply(reply) => sessions.read_replied(turn, reply),
            Message::Watch(watch) => owners.watch(watch),
            Message::Unwatch { from, request } => owners.unwatch(from, request),
            Message::Wake { request, slots } => sessions.wake(request, slots),
            Message::Query(query) => owners.query(turn, query),
            Message::EndQuery { from, request } => owners.end_query(turn, from, request),
            Message::QueryDone(done) => sessions.offsets_answered(turn, done),
            Message::Survey(call) => owners.survey(turn, call),
            Message::Surveyed(done) => sessions.survey_answered(done),
            Message::QuotaUse(used) => sessions.quota_used(turn, &used),
            Message::Group(call) => owners.group(turn, call),
            Message::GroupDone { request, slot, body } => sessions.group_answered(turn, request, slot, body),
        }
    }

    /// Handles what this shard says to itself, and hands over the disk operations so far.
    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        while let Some(message) = self.to_self.pop_front() {
            self.message(now, message, effects);
        }
        effects.extend(self.owners.take_operations().map(|(token, op)| Effect::Disk { token, op }));
    }

    /// A part of the end of a turn. Returns whether there was anything to do.
    fn end_turn_step(&mut self, now: Now, step: EndStep, effects: &mut Vec<Effect>) -> bool {
        let (sessions, owners, mut turn) = self.halves(now, effects);
        let turn = &mut turn;
        match step {
            EndStep::Peers => owners.advance_peers(turn),
            EndStep::Metadata => self.changes.is_pending() && self.apply_metadata(now, effects),
            EndStep::Deadlines => {
                let has_ticked = owners.tick_replicas(turn);
                self.time_out(now, effects) || has_ticked
            }
            EndStep::Quotas => sessions.advance_quotas(turn),
            EndStep::Survey => sessions.advance_survey(turn),
            EndStep::Groups => owners.advance_groups(turn),
            EndStep::Commit => match owners.commit(turn) {
                Ok(has_worked) => has_worked,
                Err(reason) => {
                    effects.push(Effect::Fail { reason });
                    self.has_failed = true;
                    true
                }
            },
            EndStep::Checkpoint => owners.advance_checkpoint(),
            EndStep::WriteBack => owners.advance_write_back(),
            EndStep::Retention => owners.advance_retention(turn),
            EndStep::Wake => {
                // What was committed in this turn wakes each fetch once, however many partitions it came from.
                owners.tell_woken(turn);
                self.settle(now, effects);
                let (sessions, _, mut turn) = self.halves(now, effects);
                sessions.read_woken(&mut turn)
            }
        }
    }

    /// Answers the requests whose time is up.
    fn time_out(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let mut any = false;
        loop {
            let (sessions, _, mut turn) = self.halves(now, effects);
            if !sessions.time_out(&mut turn) {
                return any;
            }
            any = true;
            self.settle(now, effects);
        }
    }

    /// Goes on with what metadata records mean: a bounded step. Returns whether there was anything to do.
    fn apply_metadata(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let mut has_worked = false;
        self.changes.begin_turn();
        while let Some(consequence) = self.changes.advance(&mut self.metadata) {
            has_worked = true;
            let (sessions, owners, mut turn) = self.halves(now, effects);
            match consequence {
                Consequence::Open(key) => owners.update(&mut turn, key),
                Consequence::Close(key) => owners.close(&mut turn, key, ErrorCode::UnknownTopicOrPartition),
                Consequence::TopicGone(name) => owners.topic_gone(&mut turn, &name),
                Consequence::Adopted { quotas, broker_config, address_quotas } => {
                    owners.image_changed(&mut turn);
                    if quotas {
                        sessions.quotas_changed(turn.metadata.image());
                    }
                    if broker_config {
                        owners.broker_config_changed(&turn);
                    }
                    if broker_config || address_quotas {
                        self.change_connection_rules(effects);
                    }
                }
                Consequence::Applied { offset } => effects.push(Effect::MetadataApplied { offset }),
            }
        }
        has_worked
    }

    /// Says to the driver what holds for client connections from now on: once in a process.
    fn change_connection_rules(&self, effects: &mut Vec<Effect>) {
        if self.options.index == 0 {
            let image = self.metadata.image();
            let layers = image.config_layers(self.options.node_id, &self.options.file);
            effects.push(Effect::ConnectionRules(Arc::new(ConnectionRules::new(&layers, image.quotas()))));
        }
    }
}
