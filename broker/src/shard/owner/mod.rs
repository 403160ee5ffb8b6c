//! The owners' half of a shard: the partitions that it holds, their logs, and who waits for them.
//!
//! It is asked by messages, of this shard's sessions as of others', and answers by messages. A file for each kind of
//! question, with what is under way of it; [`replicas`] is what all of them ask. No file here knows the sessions.

mod append;
mod catch_up;
mod from_leaders;
mod group_config;
mod groups;
mod listing;
mod load;
mod partition;
mod proposals;
mod query;
mod read;
mod reader;
mod replicas;
mod samples;
mod survey;
mod tally;
mod to_followers;

use std::time::Duration;

use millstream_replication::replica::{Effect as Decided, Event};
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{ErrorCode, Topic};
use millstream_storage::shard_log::{LogId, Progress};
use millstream_storage::{DiskError, DiskOp, DiskReply, PartitionKey, ShardLog};

use super::event::{DiskToken, Effect, RequestId, ShardIndex};
use super::message::{Altered, Append, GroupCall, Query, ReadRequest, SurveyCall, Watch};
use super::metadata::Metadata;
use super::options::ShardOptions;
use super::peers::Peers;
use super::peers::following::Leader;
use super::peers::table::Told;
use super::turn::Turn;
use crate::config::LogRules;
use crate::group::GroupRow;
use crate::metrics::Sample;
use crate::peer::links;
use crate::peer::stream::frame::{Follow, FromFollower};
use append::Appends;
use from_leaders::FromLeaders;
use groups::Coordinators;
use partition::Waiter;
use proposals::Proposals;
use query::Queries;
use read::Reads;
use reader::Reader;
use replicas::Replicas;
use to_followers::ToFollowers;

pub use listing::{GroupCursor, PIECE_PLACES_MAX, PartitionRow, Piece};

/// The partitions of a shard, and what is asked of them.
pub struct Owners {
    replicas: Replicas,
    appends: Appends,
    reads: Reads,
    queries: Queries,
    coordinators: Coordinators,
    proposals: Proposals,
    /// The streams over which partitions are replicated.
    peers: Peers,
    /// What is sent by them, and what is asked and comes.
    to_followers: ToFollowers,
    from_leaders: FromLeaders,
}

impl Owners {
    /// Opens the partitions of a recovered log that the metadata knows; the logs of others are removed.
    pub fn new(options: &ShardOptions, metadata: &Metadata, log: ShardLog) -> Owners {
        let mut owners = Owners {
            replicas: Replicas::new(log),
            appends: Appends::default(),
            reads: Reads::default(),
            queries: Queries::default(),
            coordinators: Coordinators::new(options),
            proposals: Proposals::default(),
            peers: Peers::new(options, metadata.image()),
            to_followers: ToFollowers::default(),
            from_leaders: FromLeaders::default(),
        };
        for (key, _) in owners.replicas.log.partitions() {
            let is_held = held(options, metadata, key).is_some();
            assert!(is_held, "recovery sets aside what the image does not give to this broker: {key:?}");
        }
        for topic in metadata.image().topics() {
            for partition in 0..topic.partitions.len() as i32 {
                owners.open(options, metadata, PartitionKey { topic_id: topic.id, partition });
            }
        }
        owners
    }

    /// Removes what is set aside and has no replica at this broker, according to an image that is new enough to say so.
    pub fn remove_confirmed(&mut self, options: &ShardOptions, metadata: &Metadata) -> usize {
        let state_of = |key: PartitionKey| metadata.image().topic_by_id(key.topic_id)?.partition(key.partition);
        let is_hosted = |key| state_of(key).is_some_and(|state| state.replicas.contains(&options.node_id));
        self.replicas.log.remove_confirmed(is_hosted)
    }

    /// Something is known anew of a partition. If this shard is to hold it, it is opened unless it is open, and takes over
    /// its role and settings; else it is closed.
    pub fn update(&mut self, turn: &mut Turn<'_>, key: PartitionKey) {
        self.peers.update(turn, key);
        // The decision that has it may remove it too.
        let image = turn.metadata.image();
        let Some(topic) = image.topic_by_id(key.topic_id) else { return };
        let Some(state) = topic.partition(key.partition) else { return };
        let Some(log) = self.open(turn.options, turn.metadata, key) else {
            return self.close(turn, key, ErrorCode::NotLeaderOrFollower);
        };
        if self.replicas.is_outdated(turn.options, log, image) {
            self.dismiss(turn, log, ErrorCode::NotLeaderOrFollower);
            self.drop_replica(log);
        }
        let min_insync = turn.metadata.settings(key.topic_id).min_insync_replicas;
        self.replicas.assign(turn.now.elapsed, turn.options, log, (image, state), min_insync);
        self.carry_out(turn);
    }

    /// Does what replicas have decided.
    fn carry_out(&mut self, turn: &mut Turn<'_>) {
        let mut released = Vec::new();
        while let Some((log, effect)) = self.replicas.next_decided() {
            match effect {
                Decided::BecomeLeader { epoch, epoch_start } => self.lead(turn, log, epoch, epoch_start),
                Decided::LoseLeadership { .. } => {
                    self.dismiss(turn, log, ErrorCode::NotLeaderOrFollower);
                    self.to_followers.resign(&mut self.replicas, log);
                }
                Decided::DurableEnd(end) => {
                    if let Some(partition) = self.replicas.partitions.get_mut(log) {
                        partition.durable(end, &mut released);
                    }
                }
                Decided::HighWatermark(offset) => {
                    let Replicas { log: logs, partitions, .. } = &mut self.replicas;
                    logs.set_committed(log, offset);
                    if let Some(partition) = partitions.get_mut(log) {
                        partition.advance(offset, &mut released, &mut self.reads.woken);
                    }
                    self.coordinators.log_committed(log);
                    self.to_followers.moved(turn.now.elapsed, log);
                }
                Decided::LowWatermark(offset) => self.queries.low_watermark_moved(turn, log, offset),
                Decided::Propose(asked) => {
                    if let Some(partition) = self.replicas.partitions.get_mut(log) {
                        self.proposals.add(partition.key, asked);
                    }
                }
                Decided::BecomeFollower { .. } => {
                    self.from_leaders.unfollow(log);
                    self.replicas.log.follow(log);
                }
                Decided::Follow { follow_id, leader_epoch, offset, last_epoch, .. } => {
                    let Some(partition) = self.replicas.partitions.get_mut(log) else { continue };
                    let PartitionKey { topic_id, partition } = partition.key;
                    let log_start = self.replicas.log.log_start(log);
                    let fetch_offset = offset;
                    let follow =
                        Follow { follow_id, topic_id, partition, leader_epoch, fetch_offset, last_epoch, log_start };
                    self.from_leaders.ask(&self.peers, log, follow);
                }
                Decided::Ack { follow_id, durable_end, log_start, .. } => {
                    self.from_leaders.durable(log, follow_id, (durable_end, log_start));
                }
                Decided::Restart { keep_below, begin_at, skipped_epoch } => {
                    self.from_leaders.restarted();
                    if let Some(partition) = self.replicas.partitions.get_mut(log) {
                        partition.cut(keep_below, begin_at);
                    }
                    let skipped_epoch = skipped_epoch.filter(|epoch| *epoch >= 0);
                    self.replicas.log.restart(log, keep_below, begin_at, skipped_epoch);
                }
                Decided::LogStart(offset) => {
                    self.replicas.log.delete_records(log, offset);
                }
                Decided::Lost { from, to } => self.lost(turn, log, from, to),
                Decided::FollowOk { node_id, follow_id, offset } => {
                    let Owners { replicas, peers, to_followers, .. } = self;
                    to_followers.accept(turn, replicas, peers, (log, node_id), (follow_id, offset));
                }
                Decided::Diverged { node_id, follow_id, epoch_end } => {
                    let Owners { replicas, peers, to_followers, .. } = self;
                    to_followers.diverged(turn, replicas, peers, (log, node_id), (follow_id, epoch_end));
                }
                Decided::Refused { node_id, follow_id, error } => {
                    let Owners { replicas, peers, to_followers, .. } = self;
                    to_followers.refuse(turn, replicas, peers, (log, node_id), (follow_id, error));
                }
                Decided::Send { node_id } => self.to_followers.mark(&mut self.peers, log, node_id),
            }
        }
        self.release(turn, released, ErrorCode::None);
        self.proposals.send(turn);
    }

    /// The controller has answered what was proposed, or cannot be asked.
    pub fn altered(&mut self, turn: &mut Turn<'_>, outcomes: Altered) {
        for (key, partition_epoch, result) in self.proposals.answered(outcomes) {
            if result.is_err() {
                self.replicas.tally.proposal_failed();
            }
            if let Some(log) = self.replicas.partitions.find(key) {
                self.replicas.tell(turn.now.elapsed, log, Event::Altered { partition_epoch, result });
            }
        }
        self.carry_out(turn);
    }

    /// Replicas that wanted to be asked by now are. Returns whether there were any.
    pub fn tick_replicas(&mut self, turn: &mut Turn<'_>) -> bool {
        let any = self.replicas.tick(turn.now.elapsed);
        self.carry_out(turn);
        any
    }

    /// A partition is led here from now on: its epoch starts where its log ends.
    fn lead(&mut self, turn: &Turn<'_>, log: LogId, epoch: i32, epoch_start: i64) {
        self.from_leaders.unfollow(log);
        let Replicas { log: logs, partitions, .. } = &mut self.replicas;
        let noted = logs.lead(log, epoch);
        assert_eq!(noted, epoch_start, "an epoch starts where the log ends");
        let topic = partitions.get_mut(log).and_then(|p| turn.metadata.image().topic_by_id(p.key.topic_id));
        if topic.is_some_and(|topic| &*topic.name == CONSUMER_OFFSETS) {
            self.coordinators.begin(log, logs.log_start(log), epoch_start);
        }
    }

    /// Opens a partition unless it is open, if this shard is to hold it, and takes over its settings. A log that was there
    /// at the start is open and not led: this process leads nothing before it is registered.
    fn open(&mut self, options: &ShardOptions, metadata: &Metadata, key: PartitionKey) -> Option<LogId> {
        let topic = held(options, metadata, key)?;
        let settings = metadata.settings(key.topic_id);
        let Replicas { log: logs, partitions, .. } = &mut self.replicas;
        let log = logs.create_partition(key, &topic.name, settings.log.clone());
        let partition = partitions.open(log, key, logs.committed(log));
        partition.cleanup_delete = settings.log.cleanup_delete;
        Some(log)
    }

    /// Closes a partition, if it is here, and removes its log: who waits for it is told so.
    pub fn close(&mut self, turn: &mut Turn<'_>, key: PartitionKey, error: ErrorCode) {
        self.peers.update(turn, key);
        let Some(log) = self.replicas.partitions.find(key) else { return };
        self.dismiss(turn, log, error);
        self.to_followers.resign(&mut self.replicas, log);
        self.from_leaders.unfollow(log);
        self.replicas.close(log);
    }

    /// The replica of a log decides nothing any more: another is going to.
    fn drop_replica(&mut self, log: LogId) {
        self.to_followers.resign(&mut self.replicas, log);
        self.from_leaders.unfollow(log);
        self.replicas.drop_replica(log);
    }

    /// What was committed is cut, as the leader of an unclean election does not have it.
    fn lost(&mut self, turn: &mut Turn<'_>, log: LogId, from: i64, to: i64) {
        self.from_leaders.lost();
        let key = self.replicas.partitions.get_mut(log).map(|partition| partition.key);
        let message = format!("{key:?}: an unclean election gives up what was committed from {from} to {to}");
        turn.effects.push(Effect::Warn { message });
    }

    // ---- Streams ----

    /// Another image is known.
    pub fn image_changed(&mut self, turn: &mut Turn<'_>) {
        self.peers.image_changed(turn);
        self.told(turn);
    }

    /// Something has happened to a connection with another node.
    pub fn peer(&mut self, turn: &mut Turn<'_>, event: links::Event) {
        self.peers.handle(turn, event);
        self.told(turn);
    }

    /// Takes what has come by streams.
    fn told(&mut self, turn: &mut Turn<'_>) {
        loop {
            let told = self.peers.take_told();
            if told.is_empty() {
                return;
            }
            for told in told {
                self.take_told(turn, told);
                self.carry_out(turn);
            }
            self.from_leaders.take(turn, &mut self.replicas, &mut self.peers);
            self.carry_out(turn);
        }
    }

    fn take_told(&mut self, turn: &mut Turn<'_>, told: Told) {
        let Owners { replicas, peers, to_followers, from_leaders, .. } = self;
        match told {
            Told::FollowerOpen { link, leader } => {
                let leader = Leader { node: leader.key.node, shard: leader.key.shard };
                from_leaders.opened(link, leader);
                for key in peers.followed_at(leader) {
                    if let Some(log) = replicas.partitions.find(key) {
                        replicas.tell(turn.now.elapsed, log, Event::StreamOpen { node_id: leader.node });
                    }
                }
            }
            Told::FollowerClosed { link, .. } => from_leaders.closed(turn, replicas, link),
            Told::FromLeader { link, frame, bytes } => from_leaders.received(turn, peers, link, frame, bytes),
            Told::LeaderOpen { link, follower } => to_followers.opened(link, follower),
            Told::LeaderClosed { link, .. } => to_followers.closed(turn, replicas, link),
            Told::FromFollower { link, follower, frame } => match frame {
                FromFollower::Ping => {}
                FromFollower::Follow(follows) => {
                    for follow in follows {
                        let Owners { replicas, peers, to_followers, .. } = self;
                        to_followers.follow(turn, replicas, peers, (link, follower), follow);
                        self.carry_out(turn);
                    }
                }
                FromFollower::Unfollow(follow_ids) => to_followers.unfollow(turn, replicas, link, &follow_ids),
                FromFollower::Ack { ranges, .. } => to_followers.acknowledged(turn, replicas, link, &ranges),
                FromFollower::Stalled { why, handles } => to_followers.stalled(turn, replicas, link, (why, &handles)),
            },
        }
    }

    /// Streams at the end of a turn: dials, takes what waited for the disk, sends what there is to send. Returns whether there
    /// was anything to do.
    pub fn advance_peers(&mut self, turn: &mut Turn<'_>) -> bool {
        let effects = turn.effects.len();
        self.peers.tick(turn);
        self.told(turn);
        self.from_leaders.take(turn, &mut self.replicas, &mut self.peers);
        self.carry_out(turn);
        self.to_followers.send(turn, &mut self.replicas, &mut self.peers);
        self.carry_out(turn);
        self.from_leaders.end_turn(turn, &mut self.peers);
        self.peers.end_turn(turn);
        turn.effects.len() > effects
    }

    /// A partition is led here no more, or anew, or is gone: who waits for something is told so, and its coordinator of
    /// groups resigns.
    fn dismiss(&mut self, turn: &mut Turn<'_>, log: LogId, error: ErrorCode) {
        self.coordinators.resign(turn, &mut self.replicas, log);
        let mut waiters = Vec::new();
        if let Some(partition) = self.replicas.partitions.get_mut(log) {
            partition.dismiss(&mut waiters, &mut self.reads.woken);
        }
        self.release(turn, waiters, error);
        self.reads.fail(turn, &mut self.replicas, log, error);
        self.queries.fail(turn, log, error);
    }

    /// A topic is gone, and all its partitions are closed.
    pub fn topic_gone(&mut self, turn: &mut Turn<'_>, topic: &str) {
        self.coordinators.topic_gone(turn, &mut self.replicas, topic);
    }

    /// Configurations of this broker have changed: they may mean something for the log as a whole.
    pub fn broker_config_changed(&mut self, turn: &Turn<'_>) {
        let layers = turn.metadata.image().config_layers(turn.options.node_id, &turn.options.file);
        let rules = LogRules::new(&layers, turn.options.shards);
        self.replicas.log.set_producer_expiration(rules.producer_expiration_ms);
        self.replicas.log.set_cleaner_pace(rules.cleaner_bytes_per_second_max, rules.cleaner_backoff);
    }

    /// Free space of the data directory's file system.
    pub fn set_free_space(&mut self, bytes: u64) {
        self.replicas.log.set_free_space(bytes);
    }

    /// A session appends.
    pub fn append(&mut self, turn: &mut Turn<'_>, append: Append) {
        self.appends.take(turn, &mut self.replicas, append);
        self.carry_out(turn);
    }

    /// A session reads.
    pub fn read(&mut self, turn: &mut Turn<'_>, read: ReadRequest) {
        self.reads.take(turn, &mut self.replicas, read);
    }

    /// A session wants to know when partitions have more to read.
    pub fn watch(&mut self, watch: Watch) {
        self.reads.watch(&mut self.replicas, watch);
    }

    /// A session wants to know no more.
    pub fn unwatch(&mut self, from: ShardIndex, request: RequestId) {
        self.reads.unwatch(&mut self.replicas, from, request);
    }

    /// A session asks about offsets.
    pub fn query(&mut self, turn: &mut Turn<'_>, query: Query) {
        self.queries.take(turn, &mut self.replicas, query);
    }

    /// A session waits no longer for the answers to its questions.
    pub fn end_query(&mut self, turn: &mut Turn<'_>, from: ShardIndex, request: RequestId) {
        self.queries.end(turn, from, request);
    }

    /// A session asks for a round of a survey.
    pub fn survey(&mut self, turn: &mut Turn<'_>, call: SurveyCall) {
        survey::answer(turn, &mut self.replicas, call);
    }

    /// A session asks coordinators of groups.
    pub fn group(&mut self, turn: &mut Turn<'_>, call: GroupCall) {
        self.coordinators.ask(turn, &mut self.replicas, call);
    }

    /// A disk operation finished. An error is fatal: nothing may be acknowledged any more.
    pub fn disk_done(
        &mut self,
        turn: &mut Turn<'_>,
        token: DiskToken,
        result: Result<DiskReply, DiskError>,
    ) -> Result<(), String> {
        let token = match token {
            DiskToken::Log(token) => token,
            DiskToken::Groups(number) => {
                self.coordinators.file_read(turn, &mut self.replicas, number, result);
                return Ok(());
            }
            DiskToken::Followers(number) => {
                let Owners { replicas, peers, to_followers, .. } = self;
                to_followers.file_read(turn, replicas, peers, number, result);
                self.carry_out(turn);
                return Ok(());
            }
        };
        let mut progress = Vec::new();
        let Replicas { log, ops, .. } = &mut self.replicas;
        if let Err(fatal) = log.on_disk(turn.now, token, result, ops, &mut progress) {
            self.replicas.drop_operations();
            return Err(fatal.0);
        }
        self.progress(turn, progress);
        Ok(())
    }

    /// Puts what was appended into a commit group. Returns whether there was anything to do. An error is fatal, as above.
    pub fn commit(&mut self, turn: &mut Turn<'_>) -> Result<bool, String> {
        let mut progress = Vec::new();
        let Replicas { log, ops, .. } = &mut self.replicas;
        match log.commit(turn.now, ops, &mut progress) {
            Ok(has_worked) => {
                self.progress(turn, progress);
                Ok(has_worked)
            }
            Err(fatal) => {
                self.replicas.drop_operations();
                Err(fatal.0)
            }
        }
    }

    fn progress(&mut self, turn: &mut Turn<'_>, progress: Vec<Progress>) {
        for progress in progress {
            match progress {
                // A replica whose log is being cut is told when it is.
                Progress::Durable { log, .. } if self.replicas.log.is_restarting(log) => {}
                Progress::Durable { log, offset } => {
                    self.replicas.tell(turn.now.elapsed, log, Event::Durable { end: offset });
                }
                Progress::LogStart { log, offset } => {
                    self.replicas.log_start_moved(log, offset, &mut self.reads.woken);
                    // As above.
                    if !self.replicas.log.is_restarting(log) {
                        self.replicas.tell(turn.now.elapsed, log, Event::LogStart { start: offset });
                    }
                    self.to_followers.moved(turn.now.elapsed, log);
                }
                Progress::Restarted { log, end } => self.restarted(turn, log, end),
                Progress::CompactionFailed { why, .. } => {
                    let message = format!("compaction leaves a partition alone until the next start: {why}");
                    turn.effects.push(Effect::Warn { message });
                }
                Progress::ReadDone { token, result } => match self.replicas.readers.remove(token) {
                    Some(Reader::Fetch(read)) => self.reads.read_done(turn, &mut self.replicas, read, result),
                    Some(Reader::Groups(id)) => self.coordinators.read_done(turn, &mut self.replicas, id, result),
                    Some(Reader::CatchUp(of)) => {
                        let Owners { replicas, peers, to_followers, .. } = self;
                        to_followers.read_done(turn, replicas, peers, of, result);
                    }
                    // Its partition is gone.
                    None => {}
                },
                Progress::TimeDone { token, result } => self.queries.time_done(turn, token, result),
            }
        }
        self.carry_out(turn);
    }

    /// A log was cut, durably.
    fn restarted(&mut self, turn: &mut Turn<'_>, log: LogId, log_end: i64) {
        let Some(partition) = self.replicas.partitions.get_mut(log) else { return };
        partition.cut(log_end, log_end);
        let key = partition.key;
        if partition.replica.is_none() {
            // That which had it cut is gone, and none is there while a log is being cut.
            return self.update(turn, key);
        }
        let (log_start, last_epoch) = (self.replicas.log.log_start(log), self.replicas.log.last_epoch(log));
        self.replicas.tell(turn.now.elapsed, log, Event::Restarted { log_start, log_end, last_epoch });
    }

    /// Tells who waits that what was appended is committed, or that it never will be.
    fn release(&mut self, turn: &mut Turn<'_>, waiters: Vec<Waiter>, error: ErrorCode) {
        for waiter in waiters {
            match waiter {
                Waiter::Append { place, result } => self.appends.released(turn, place, result, error),
                Waiter::Group { log, write } => {
                    self.coordinators.written(turn, &mut self.replicas, log, write, error);
                }
            }
        }
    }

    /// Groups: what has fallen due, what is still loading. Returns whether there was anything to do.
    pub fn advance_groups(&mut self, turn: &mut Turn<'_>) -> bool {
        self.coordinators.advance(turn, &mut self.replicas)
    }

    /// A piece of a checkpoint. Returns whether there was anything to do.
    pub fn advance_checkpoint(&mut self) -> bool {
        self.replicas.log.advance_checkpoint(&mut self.replicas.ops)
    }

    /// From the journal to the segments. Returns whether there was anything to do.
    pub fn advance_write_back(&mut self) -> bool {
        self.replicas.log.advance_write_back(&mut self.replicas.ops)
    }

    /// A piece of retention, and the next step of a compaction. Returns whether there was anything to do.
    pub fn advance_retention(&mut self, turn: &Turn<'_>) -> bool {
        let Replicas { log, ops, .. } = &mut self.replicas;
        let has_retained = log.advance_retention(turn.now, ops);
        log.advance_compaction(turn.now, ops) || has_retained
    }

    /// Tells the requests that watch partitions which have more to read by now.
    pub fn tell_woken(&mut self, turn: &mut Turn<'_>) {
        self.reads.tell_woken(turn);
    }

    /// The turn has ended.
    pub fn turn_ended(&mut self, now: Duration) {
        self.appends.turn_ended(now);
    }

    /// Takes the disk operations that were asked for since the last time.
    pub fn take_operations(&mut self) -> impl Iterator<Item = (DiskToken, DiskOp)> + '_ {
        self.replicas.take_operations()
    }

    /// The shard shuts down: coordinators resign.
    pub fn begin_shutdown(&mut self, turn: &mut Turn<'_>) {
        self.coordinators.resign_all(turn, &mut self.replicas);
    }

    /// Whether everything is durable, and nothing under way on the disk.
    pub fn is_idle(&self) -> bool {
        self.replicas.log.is_idle()
    }

    /// When something is due though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        // Watches that were set after this turn's wakes, and had something to wake for already.
        let at_once = self.reads.has_woken().then_some(Duration::ZERO);
        let at_once = at_once.or(self.from_leaders.is_due().then_some(Duration::ZERO));
        let deadlines = [
            self.replicas.log.next_deadline(),
            self.replicas.next_deadline(),
            self.coordinators.next_deadline(),
            self.peers.next_deadline(),
            self.to_followers.next_deadline(),
        ];
        deadlines.into_iter().chain([at_once]).flatten().min()
    }

    /// Lists partitions from a place on; 0 is the first.
    pub fn list_partitions(&self, metadata: &Metadata, from: usize) -> Piece<PartitionRow, usize> {
        listing::partitions(&self.replicas, metadata.image(), from)
    }

    /// Lists groups with the offsets that they committed, from a place on.
    pub fn list_groups(&self, from: &GroupCursor) -> Piece<GroupRow, GroupCursor> {
        listing::groups(&self.coordinators, from)
    }

    /// What the owners count, for a scrape.
    pub fn samples(&mut self, samples: &mut Vec<Sample>) {
        self.appends.samples(samples);
        self.reads.samples(samples);
        self.coordinators.samples(samples);
        let partitions = self.replicas.partitions.len() as u64;
        samples.push(Sample::gauge(
            "millstream_partitions",
            "Partitions held, led here or not. Kafka: PartitionCount.",
            partitions,
        ));
        let Replicas { tally, partitions, .. } = &mut self.replicas;
        tally.samples(partitions, samples);
        let proposals = self.proposals.len() as u64;
        samples.push(Sample::gauge(
            "millstream_in_sync_proposals",
            "Changes of in-sync sets that the controller has not answered; at most one a partition led.",
            proposals,
        ));
        self.peers.samples(samples);
        self.to_followers.samples(samples);
        self.from_leaders.samples(samples);
        samples::log_samples(&self.replicas.log, samples);
    }
}

/// The topic of a partition, if this shard is to hold a replica of it.
fn held<'a>(options: &ShardOptions, metadata: &'a Metadata, key: PartitionKey) -> Option<&'a Topic> {
    let topic = metadata.image().topic_by_id(key.topic_id)?;
    let replicas = &topic.partition(key.partition)?.replicas;
    (options.owner(key) == options.index && replicas.contains(&options.node_id)).then_some(topic)
}
