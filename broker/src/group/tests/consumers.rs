//! Random sequences of both protocols in one group: members of the consumer protocol, dynamic and static, and eager ones of
//! the classic protocol come, go, die and are slow; topics come, grow and go; writes are slow or fail; the coordinator
//! restarts. A failure prints its seed, which `GROUP_SEED` replays alone.
//!
//! What is checked after every step: no two members hold one partition, by what each was told and may still believe; what is
//! durable is what the log says; every request is answered once; a committed offset does not go back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::*;
use kafka_wire_core::{StrBytes, Uuid};
use millstream_storage::TopicId;
use millstream_storage::random::Random;

use super::harness::{Harness, topic_id};
use crate::group::embedded::{decode_assignment, encode_assignment};
use crate::group::{Coordinator, GroupConfig, Record, RequestRef, error};
use crate::protocol::versions::ApiKey;

const SEEDS: u64 = 80;
const STEPS: usize = 400;
/// To read the whole log again after each step would take most of the time.
const CHECK_EVERY: usize = 7;
const CLIENTS: usize = 6;
const GROUP: &str = "g";
const REBALANCE: Duration = Duration::from_secs(20);
const CLASSIC_SESSION: Duration = Duration::from_secs(15);
const CONSUMER_SESSION: Duration = Duration::from_secs(45);

type Partition = (TopicId, i32);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// It is not in the group.
    #[default]
    Out,
    /// It waits for an answer.
    Waiting,
    /// It has joined by the classic protocol and asks for its assignment.
    Syncing,
    /// It reads.
    Reading,
}

#[derive(Clone, Default)]
struct Client {
    phase: Phase,
    is_classic: bool,
    is_static: bool,
    member_id: String,
    epoch: i32,
    /// What it was told it may read, by all responses so far.
    assigned: BTreeSet<Partition>,
    /// What it reads: what it is to give up goes a little later.
    reads: BTreeSet<Partition>,
    /// When it sent what it was answered last.
    heard_at: Duration,
    /// When it sent that by which it was told to give up partitions, or to do something, that it has not done yet.
    owes_since: Option<Duration>,
    by_regex: bool,
    /// The members that it assigns to, of a classic group that it leads.
    led: Vec<String>,
    lives: u64,
}

impl Client {
    /// Whether it may still believe that it is in the group: its coordinator does not remove it before.
    fn is_alive(&self, now: Duration) -> bool {
        let session = if self.is_classic { CLASSIC_SESSION } else { CONSUMER_SESSION };
        now < self.heard_at + session.min(REBALANCE) && self.owes_since.is_none_or(|since| now < since + REBALANCE)
    }

    fn lose_all(&mut self) {
        self.assigned.clear();
        self.reads.clear();
        self.owes_since = None;
    }
}

enum Asked {
    Beat { client: usize, life: u64, sent: Duration },
    Join { client: usize, life: u64, sent: Duration, version: i16 },
    Sync { client: usize, life: u64, sent: Duration },
    ClassicBeat { client: usize, life: u64, sent: Duration },
    Commit { offset: i64 },
    Fetch { acknowledged: i64 },
    Other,
}

struct World {
    random: Random,
    harness: Harness,
    clients: Vec<Client>,
    asked: BTreeMap<RequestRef, Asked>,
    last_offset: i64,
    acknowledged: i64,
    /// Since the last write of the group as a classic one failed, its log may say less than it knows.
    has_failed: bool,
    told: usize,
    mixed: usize,
}

fn text(value: &str) -> StrBytes {
    StrBytes::from(value)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // Some seeds are of one protocol, most of both.
        let mix = random.below(4);
        let clients = (0..CLIENTS)
            .map(|_| Client {
                is_classic: match mix {
                    0 => false,
                    _ => random.one_in(2),
                },
                is_static: random.one_in(3),
                by_regex: random.one_in(4),
                ..Client::default()
            })
            .collect();
        let config = GroupConfig {
            initial_rebalance_delay: Duration::from_millis(1000 * random.below(2)),
            consumer_members_max: 4 + random.index(4),
            ..GroupConfig::default()
        };
        let mut harness = Harness::new(config);
        harness.create_topic("t", 1 + random.below(6) as i32);
        World {
            random,
            harness,
            clients,
            asked: BTreeMap::new(),
            last_offset: 0,
            acknowledged: -1,
            has_failed: false,
            told: 0,
            mixed: 0,
        }
    }

    fn now(&self) -> Duration {
        self.harness.now().elapsed
    }

    fn step(&mut self) {
        let client = self.random.index(CLIENTS);
        match self.random.below(100) {
            0..56 => self.go_on(client),
            56..60 => self.give_up(client),
            60..62 => self.leave(client),
            62 => self.die(client),
            63 => self.switch(client),
            64..70 => self.commit(client),
            70..74 => self.fetch(),
            74..76 => self.harness.hold = true,
            76..82 => self.harness.commit_one(),
            82..88 => {
                self.harness.hold = false;
                self.harness.release();
            }
            88 => {
                self.has_failed |= !self.harness.writing.is_empty();
                self.harness.fail_one(error::KAFKA_STORAGE_ERROR);
            }
            89 if self.random.one_in(3) => self.restart(),
            90 => self.change_topics(),
            91 => self.describe(),
            _ => {
                let long = self.random.one_in(10);
                let millis = 1 << self.random.below(if long { 16 } else { 12 });
                self.harness.tick(Duration::from_millis(millis));
            }
        }
        self.take_replies();
    }

    /// What a client that does as it should does next.
    fn go_on(&mut self, client: usize) {
        let me = &self.clients[client];
        if me.phase != Phase::Out && me.phase != Phase::Waiting && !me.is_alive(self.now()) {
            // It notices that nobody has heard of it for too long, and stops reading.
            self.clients[client].lose_all();
        }
        let me = &self.clients[client];
        match (me.phase, me.is_classic) {
            (Phase::Waiting, _) => {}
            (Phase::Out | Phase::Reading, false) => self.beat(client),
            (Phase::Syncing, false) => unreachable!("it does not ask for assignments"),
            (Phase::Out, true) => self.join(client),
            (Phase::Syncing, true) => self.sync(client),
            (Phase::Reading, true) => self.classic_beat(client),
        }
    }

    /// It stops reading what it was told to give up.
    fn give_up(&mut self, client: usize) {
        let me = &mut self.clients[client];
        me.reads = me.reads.intersection(&me.assigned).copied().collect();
    }

    fn beat(&mut self, client: usize) {
        if self.random.one_in(2) {
            self.give_up(client);
        }
        let is_late_life = self.clients[client].member_id.is_empty();
        if is_late_life {
            let id = self.random.next();
            self.clients[client].member_id = format!("member-{client}-{id:x}");
        }
        let is_full = self.random.one_in(3);
        let assignor = self.random.one_in(20).then(|| ["uniform", "range"][self.random.index(2)]);
        let me = &mut self.clients[client];
        let is_joining = me.phase == Phase::Out;
        let mut request = ConsumerGroupHeartbeatRequest::default();
        request.group_id = text(GROUP);
        request.member_id = text(&me.member_id);
        request.member_epoch = if is_joining { 0 } else { me.epoch };
        request.instance_id = me.is_static.then(|| text(&format!("instance-{client}")));
        request.server_assignor = assignor.map(text);
        if is_joining {
            me.lose_all();
        }
        if is_joining || is_full {
            request.rebalance_timeout_ms = REBALANCE.as_millis() as i32;
            if me.by_regex {
                request.subscribed_topic_names = Some(Vec::new());
                request.subscribed_topic_regex = Some(text("[tu]"));
            } else {
                request.subscribed_topic_names = Some(vec![text("t"), text("u")]);
            }
        }
        // It tells what it has only when it has given up what it was told to.
        if is_joining || is_full || me.reads.is_subset(&me.assigned) {
            let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
            me.reads.iter().for_each(|(topic, partition)| topics.entry(*topic).or_default().push(*partition));
            let topics = topics.into_iter().map(|(topic, partitions)| {
                let mut part = TopicPartitions::default();
                part.topic_id = Uuid::from_bytes(topic.0);
                part.partitions = partitions;
                part
            });
            request.topic_partitions = Some(topics.collect());
        }
        me.phase = Phase::Waiting;
        let life = me.lives;
        let sent = self.now();
        let reference = self.harness.ask(ApiKey::ConsumerGroupHeartbeat, 1, "c", &request);
        self.asked.insert(reference, Asked::Beat { client, life, sent });
    }

    fn join(&mut self, client: usize) {
        let version = [3, 5, 9][self.random.index(3)];
        let sent = self.now();
        let me = &mut self.clients[client];
        // Eager: it gives up everything before it joins.
        me.lose_all();
        let mut request = JoinGroupRequest::default();
        request.group_id = text(GROUP);
        request.session_timeout_ms = CLASSIC_SESSION.as_millis() as i32;
        request.rebalance_timeout_ms = REBALANCE.as_millis() as i32;
        request.member_id = text(&me.member_id);
        if version >= 5 && me.is_static {
            request.group_instance_id = Some(text(&format!("instance-{client}")));
        }
        request.protocol_type = text("consumer");
        let mut protocol = JoinGroupRequestProtocol::default();
        protocol.name = text("range");
        protocol.metadata = subscription(&["t", "u"]);
        request.protocols = vec![protocol];
        me.phase = Phase::Waiting;
        let life = me.lives;
        let reference = self.harness.ask(ApiKey::JoinGroup, version, "c", &request);
        self.asked.insert(reference, Asked::Join { client, life, sent, version });
    }

    fn sync(&mut self, client: usize) {
        let sent = self.now();
        let all: Vec<(&str, i32)> = ["t", "u"]
            .iter()
            .filter_map(|name| Some((*name, self.harness.cluster.topic(name)?.partitions.len() as i32)))
            .flat_map(|(name, count)| (0..count).map(move |partition| (name, partition)))
            .collect();
        let me = &mut self.clients[client];
        let mut request = SyncGroupRequest::default();
        request.group_id = text(GROUP);
        request.member_id = text(&me.member_id);
        request.generation_id = me.epoch;
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
        for (at, member_id) in me.led.iter().enumerate() {
            let mut topics: BTreeMap<std::sync::Arc<str>, Vec<i32>> = BTreeMap::new();
            for (name, partition) in all.iter().skip(at).step_by(me.led.len()) {
                topics.entry((*name).into()).or_default().push(*partition);
            }
            let mut part = SyncGroupRequestAssignment::default();
            part.member_id = text(member_id);
            part.assignment = encode_assignment(1, &topics);
            request.assignments.push(part);
        }
        me.phase = Phase::Waiting;
        let life = me.lives;
        let reference = self.harness.ask(ApiKey::SyncGroup, 5, "c", &request);
        self.asked.insert(reference, Asked::Sync { client, life, sent });
    }

    fn classic_beat(&mut self, client: usize) {
        let sent = self.now();
        let me = &mut self.clients[client];
        let mut request = HeartbeatRequest::default();
        request.group_id = text(GROUP);
        request.member_id = text(&me.member_id);
        request.generation_id = me.epoch;
        let life = me.lives;
        let reference = self.harness.ask(ApiKey::Heartbeat, 4, "c", &request);
        self.asked.insert(reference, Asked::ClassicBeat { client, life, sent });
    }

    fn leave(&mut self, client: usize) {
        let goes_for_good = self.random.one_in(2);
        let me = &mut self.clients[client];
        if me.phase == Phase::Out || me.member_id.is_empty() {
            return;
        }
        me.lose_all();
        me.lives += 1;
        me.phase = Phase::Out;
        let member_id = std::mem::take(&mut me.member_id);
        let instance_id = me.is_static.then(|| text(&format!("instance-{client}")));
        let reference = if me.is_classic {
            let mut member = MemberIdentity::default();
            member.member_id = text(&member_id);
            let mut request = LeaveGroupRequest::default();
            request.group_id = text(GROUP);
            request.members = vec![member];
            self.harness.ask(ApiKey::LeaveGroup, 5, "c", &request)
        } else {
            let mut request = ConsumerGroupHeartbeatRequest::default();
            request.group_id = text(GROUP);
            request.member_id = text(&member_id);
            request.member_epoch = if goes_for_good || instance_id.is_none() { -1 } else { -2 };
            request.instance_id = instance_id;
            self.harness.ask(ApiKey::ConsumerGroupHeartbeat, 1, "c", &request)
        };
        self.asked.insert(reference, Asked::Other);
    }

    /// It is gone without a word, and another process begins.
    fn die(&mut self, client: usize) {
        let me = &mut self.clients[client];
        *me = Client {
            is_classic: me.is_classic,
            is_static: me.is_static,
            by_regex: me.by_regex,
            lives: me.lives + 1,
            ..Client::default()
        };
    }

    /// It is rolled to the other protocol.
    fn switch(&mut self, client: usize) {
        self.leave(client);
        self.die(client);
        self.clients[client].is_classic ^= true;
    }

    fn commit(&mut self, client: usize) {
        let is_administrator = self.random.one_in(5);
        self.last_offset += 1;
        let offset = self.last_offset;
        let me = &self.clients[client];
        let mut part = OffsetCommitRequestPartition::default();
        part.committed_offset = offset;
        part.committed_metadata = Some(text(""));
        let mut topic = OffsetCommitRequestTopic::default();
        topic.name = text("t");
        topic.partitions = vec![part];
        let mut request = OffsetCommitRequest::default();
        request.group_id = text(GROUP);
        request.topics = vec![topic];
        request.generation_id_or_member_epoch = if is_administrator { -1 } else { me.epoch };
        request.member_id = if is_administrator { text("") } else { text(&me.member_id) };
        let reference = self.harness.ask(ApiKey::OffsetCommit, 9, "", &request);
        self.asked.insert(reference, Asked::Commit { offset });
    }

    fn fetch(&mut self) {
        let mut asked = OffsetFetchRequestGroup::default();
        asked.group_id = text(GROUP);
        asked.topics = None;
        let mut request = OffsetFetchRequest::default();
        request.groups = vec![asked];
        request.require_stable = self.random.one_in(2);
        let acknowledged = self.acknowledged;
        let reference = self.harness.ask(ApiKey::OffsetFetch, 9, "", &request);
        self.asked.insert(reference, Asked::Fetch { acknowledged });
    }

    fn describe(&mut self) {
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec![text(GROUP)];
        let reference = self.harness.ask(ApiKey::ConsumerGroupDescribe, 1, "", &request);
        self.asked.insert(reference, Asked::Other);
        self.harness.ask(ApiKey::ListGroups, 5, "", &ListGroupsRequest::default());
        let last = *self.harness.replied().last().expect("a list waits for nothing");
        self.harness.discard(last);
    }

    fn change_topics(&mut self) {
        let partitions = 1 + self.random.below(8) as i32;
        match self.random.below(3) {
            0 => self.harness.create_topic("t", partitions),
            1 => self.harness.create_topic("u", partitions),
            _ => {
                self.harness.delete_topic("u");
                let gone = topic_id("u");
                for client in &mut self.clients {
                    client.reads.retain(|(topic, _)| *topic != gone);
                    client.assigned.retain(|(topic, _)| *topic != gone);
                }
            }
        }
    }

    fn restart(&mut self) {
        self.harness.restart();
        // Who waited gets no answer, and asks again.
        for client in &mut self.clients {
            if client.phase == Phase::Waiting {
                client.phase = if client.is_classic || client.epoch == 0 { Phase::Out } else { Phase::Reading };
            }
        }
        self.has_failed = false;
        self.asked.clear();
    }

    fn take_replies(&mut self) {
        for reference in self.harness.replied() {
            match self.asked.remove(&reference).expect("it was asked") {
                Asked::Beat { client, life, sent } => {
                    let reply: ConsumerGroupHeartbeatResponse = self.harness.reply(reference, 1).unwrap();
                    if self.clients[client].lives == life {
                        self.beaten(client, sent, &reply);
                    }
                }
                Asked::Join { client, life, sent, version } => {
                    let reply: JoinGroupResponse = self.harness.reply(reference, version).unwrap();
                    let me = &mut self.clients[client];
                    if me.lives != life {
                        continue;
                    }
                    me.phase = if reply.error_code == error::NONE { Phase::Syncing } else { Phase::Out };
                    match reply.error_code {
                        error::NONE | error::MEMBER_ID_REQUIRED => {
                            me.member_id = reply.member_id.to_string();
                            me.epoch = reply.generation_id;
                            me.led = reply.members.iter().map(|member| member.member_id.to_string()).collect();
                            if reply.skip_assignment {
                                me.led.clear();
                            }
                            me.owes_since = Some(sent);
                        }
                        error::UNKNOWN_MEMBER_ID | error::FENCED_INSTANCE_ID => me.member_id.clear(),
                        _ => {}
                    }
                }
                Asked::Sync { client, life, sent } => {
                    let reply: SyncGroupResponse = self.harness.reply(reference, 5).unwrap();
                    let me = &mut self.clients[client];
                    if me.lives != life {
                        continue;
                    }
                    if reply.error_code != error::NONE {
                        me.phase = Phase::Out;
                        continue;
                    }
                    self.told += 1;
                    me.phase = Phase::Reading;
                    me.heard_at = sent;
                    me.owes_since = None;
                    let assigned = decode_assignment(&reply.assignment).expect("an assignment");
                    me.assigned = assigned.iter().map(|(topic, partition)| (topic_id(topic), *partition)).collect();
                    me.assigned.retain(|(topic, _)| self.harness.cluster.topic_by_id(*topic).is_some());
                    me.reads = me.assigned.clone();
                }
                Asked::ClassicBeat { client, life, sent } => {
                    let reply: HeartbeatResponse = self.harness.reply(reference, 4).unwrap();
                    let me = &mut self.clients[client];
                    if me.lives != life || me.phase != Phase::Reading {
                        continue;
                    }
                    match reply.error_code {
                        error::NONE => me.heard_at = sent,
                        error::NOT_COORDINATOR => {}
                        error_code => {
                            me.lose_all();
                            me.phase = Phase::Out;
                            if error_code == error::UNKNOWN_MEMBER_ID {
                                me.member_id.clear();
                            }
                        }
                    }
                }
                Asked::Commit { offset } => {
                    let reply: OffsetCommitResponse = self.harness.reply(reference, 9).unwrap();
                    if reply.topics[0].partitions[0].error_code == error::NONE {
                        assert!(offset > self.acknowledged, "answered in order");
                        self.acknowledged = offset;
                    }
                }
                Asked::Fetch { acknowledged } => {
                    let reply: OffsetFetchResponse = self.harness.reply(reference, 9).unwrap();
                    let found = reply.groups[0].topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
                    assert!(
                        (acknowledged..=self.last_offset).contains(&found),
                        "{found} was fetched after {acknowledged} was acknowledged"
                    );
                }
                Asked::Other => self.harness.discard(reference),
            }
        }
        self.check_holders();
    }

    fn beaten(&mut self, client: usize, sent: Duration, reply: &ConsumerGroupHeartbeatResponse) {
        let me = &mut self.clients[client];
        let was_in = me.epoch != 0;
        match reply.error_code {
            error::NONE => {}
            error::NOT_COORDINATOR | error::COORDINATOR_NOT_AVAILABLE => {
                me.phase = if was_in { Phase::Reading } else { Phase::Out };
                return;
            }
            error_code => {
                let fatal = [
                    error::FENCED_MEMBER_EPOCH,
                    error::UNKNOWN_MEMBER_ID,
                    error::GROUP_ID_NOT_FOUND,
                    error::UNRELEASED_INSTANCE_ID,
                    error::FENCED_INSTANCE_ID,
                    error::GROUP_MAX_SIZE_REACHED,
                ];
                assert!(fatal.contains(&error_code), "error {error_code}: {:?}", reply.error_message);
                me.lose_all();
                me.epoch = 0;
                me.phase = Phase::Out;
                return;
            }
        }
        assert!(reply.member_epoch > 0, "a member has an epoch");
        me.phase = Phase::Reading;
        me.epoch = reply.member_epoch;
        me.heard_at = sent;
        if let Some(assignment) = &reply.assignment {
            self.told += 1;
            me.assigned = assignment
                .topic_partitions
                .iter()
                .flat_map(|topic| topic.partitions.iter().map(|index| (TopicId(*topic.topic_id.as_bytes()), *index)))
                .collect();
            me.assigned.retain(|(topic, _)| self.harness.cluster.topic_by_id(*topic).is_some());
            // New ones it reads at once; the others only stop when it comes to it.
            me.reads.extend(&me.assigned);
        }
        let owes = !me.reads.is_subset(&me.assigned);
        me.owes_since = owes.then(|| me.owes_since.unwrap_or(sent));
    }

    /// No partition is with two members that may believe to be in the group.
    fn check_holders(&mut self) {
        let now = self.now();
        let mut held: BTreeMap<Partition, usize> = BTreeMap::new();
        let mut kinds = BTreeSet::new();
        for (client, me) in self.clients.iter().enumerate().filter(|(_, me)| me.is_alive(now)) {
            for partition in &me.reads {
                kinds.insert(me.is_classic);
                if let Some(other) = held.insert(*partition, client) {
                    panic!("{partition:?} is with clients {other} and {client}");
                }
            }
        }
        self.mixed += usize::from(kinds.len() == 2);
    }

    /// What is durable is what the log says: of consumer groups at any time, of classic ones when nothing is going on in
    /// them, and of offsets always.
    fn check_replay(&self) {
        let durable = |coordinator: &Coordinator| {
            let mut records = coordinator.snapshot();
            for record in &mut records {
                if let Record::GroupMetadata { value: Some(group), .. } = record
                    && !group.members.is_empty()
                {
                    group.state_since_ms = None;
                }
            }
            records
        };
        let (reread, live) = (durable(&self.harness.reread()), durable(&self.harness.coordinator));
        let is_consumer = |records: &[Record]| records.iter().any(|record| matches!(record, Record::Consumer { .. }));
        let is_settled =
            self.harness.writing.is_empty() && !self.has_failed && self.harness.coordinator.is_settled(GROUP);
        if is_settled || is_consumer(&live) {
            assert_eq!(reread, live);
        }
        let offsets = |records: &[Record]| -> Vec<Record> {
            records.iter().filter(|record| matches!(record, Record::OffsetCommit { .. })).cloned().collect()
        };
        assert_eq!(offsets(&reread), offsets(&live));
    }

    fn finish(mut self) -> (usize, usize) {
        self.harness.hold = false;
        self.harness.release();
        self.take_replies();
        self.check_replay();
        if self.random.one_in(2) {
            self.harness.resign();
            self.take_replies();
            assert!(self.asked.is_empty(), "{} requests wait", self.asked.len());
            return (self.told, self.mixed);
        }
        // Left alone, every request is answered and every session ends, and with time every offset: nothing is kept.
        self.harness.tick(Duration::from_secs(24 * 3600));
        self.take_replies();
        assert!(self.asked.is_empty(), "{} requests wait", self.asked.len());
        assert_eq!(self.harness.coordinator.members(), 0);
        self.harness.tick(Duration::from_secs(9 * 24 * 3600));
        assert_eq!(self.harness.coordinator.groups(), 0);
        assert_eq!(self.harness.coordinator.state_bytes(), 0);
        assert_eq!(self.harness.coordinator.writes_under_way(), 0);
        (self.told, self.mixed)
    }
}

/// A `ConsumerProtocolSubscription` of version 1 of a member that has nothing.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(topics.len() as i32);
    for topic in topics {
        bytes.put_i16(topic.len() as i16);
        bytes.put_slice(topic.as_bytes());
    }
    bytes.put_i32(-1);
    bytes.put_i32(0);
    bytes.freeze()
}

#[test]
fn random_sequences_of_both_protocols_keep_every_promise() {
    let seeds: Vec<u64> = match std::env::var("GROUP_SEED") {
        Ok(seed) => vec![seed.parse().expect("GROUP_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    let is_replay = seeds.len() == 1;
    let (mut told, mut mixed) = (0, 0);
    for seed in seeds {
        let replay = Replay(seed);
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step();
            if step % CHECK_EVERY == 0 {
                world.check_replay();
            }
        }
        let (more_told, more_mixed) = world.finish();
        told += more_told;
        mixed += more_mixed;
        drop(replay);
    }
    assert!(told > 20 * SEEDS as usize || is_replay, "members were told assignments only {told} times");
    assert!(mixed > SEEDS as usize || is_replay, "both protocols read side by side only {mixed} times");
}

/// Says how to see a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay(seed) = self;
            eprintln!("replay: GROUP_SEED={seed} cargo test -p millstream random_sequences_of_both");
        }
    }
}
