//! Members of one consumer group, of both protocols: they join, read what they are told, commit, leave, and are killed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_wire_core::{StrBytes, Uuid};

use super::group_checker::{GroupChecker, GroupFinding};
use super::random::Random;
use super::wire::{self, Api};
use super::workload::{Encoded, is_retriable};

const GROUP: &str = "members";

/// How long a member may be silent, and take to give partitions back, milliseconds.
pub const SESSION_MS: u64 = 150;
const SESSION_US: u64 = SESSION_MS * 1_000;

const UNKNOWN_MEMBER_ID: i16 = 25;
const MEMBER_ID_REQUIRED: i16 = 79;
/// ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, GROUP_ID_NOT_FOUND, FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH:
/// what a member is told that has to join again, or whose commit comes too late.
const OUT_OF_DATE: [i16; 6] = [22, UNKNOWN_MEMBER_ID, 27, 69, 110, 113];

/// What a response will be about.
#[derive(Clone, Debug)]
pub enum MemberAsked {
    Coordinator,
    Heartbeat { sent_us: u64 },
    Join { sent_us: u64 },
    Sync { sent_us: u64 },
    ClassicHeartbeat { sent_us: u64 },
    Leave,
    Fetch { partition: usize, acknowledged: i64 },
    Commit { partition: usize, offset: i64 },
}

/// Where a member of the classic protocol is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Out,
    Syncing,
    Reading,
}

/// A member.
#[derive(Debug, Default)]
pub struct Member {
    is_classic: bool,
    has_coordinator: bool,
    phase: Phase,
    member_id: String,
    /// The member epoch or the generation; 0 is out of the group.
    epoch: i32,
    topic_id: [u8; 16],
    /// What it was told last.
    assigned: BTreeSet<usize>,
    /// What it reads; what it was told to give up goes a little later.
    reads: BTreeSet<usize>,
    /// When it sent what it was answered last.
    heard_us: u64,
    /// When it sent what it was answered with something to do that it has not done yet.
    owes_since_us: Option<u64>,
    /// What is committed of what it reads, once it has asked.
    positions: BTreeMap<usize, i64>,
    /// Whom it assigns to, as the leader of a classic group.
    led: Vec<String>,
}

type Request = (Api, MemberAsked, Encoded);

fn text(value: &str) -> StrBytes {
    StrBytes::from(value)
}

impl Member {
    /// One that speaks this protocol.
    pub fn new(is_classic: bool) -> Member {
        Member { is_classic, ..Member::default() }
    }

    /// The connection is gone, and with it the answer to this.
    pub fn disconnected(&mut self, asked: Option<MemberAsked>) -> Option<(usize, i64)> {
        match asked {
            Some(MemberAsked::Join { .. } | MemberAsked::Sync { .. }) => self.phase = Phase::Out,
            Some(MemberAsked::Commit { partition, offset }) => {
                self.positions.remove(&partition);
                return Some((partition, offset));
            }
            _ => {}
        }
        None
    }

    /// Until when it may believe that it is in the group without being heard of again.
    fn until_us(&self) -> u64 {
        self.heard_us.min(self.owes_since_us.unwrap_or(u64::MAX)) + SESSION_US
    }

    fn lose_all(&mut self, client: u32, checker: &mut GroupChecker) {
        checker.stop(client);
        self.assigned.clear();
        self.reads.clear();
        self.positions.clear();
        self.owes_since_us = None;
    }

    /// The next request.
    pub fn next(&mut self, client: u32, partitions: usize, random: &mut Random, checker: &mut GroupChecker) -> Request {
        let sent_us = checker.now_us;
        if !self.has_coordinator {
            let mut body = FindCoordinatorRequest::default();
            body.coordinator_keys = vec![text(GROUP)];
            return (wire::FIND_COORDINATOR, MemberAsked::Coordinator, Encoded::of(body));
        }
        // Now and then it is killed, and another process begins, perhaps with the other protocol.
        if random.one_in(60) {
            checker.stop(client);
            *self = Member { has_coordinator: true, ..Member::new(random.coin()) };
        }
        if self.epoch > 0 && self.until_us() <= checker.now_us {
            self.lose_all(client, checker);
        }
        if random.one_in(60) && !self.member_id.is_empty() {
            return self.leave(client, checker);
        }
        if random.coin()
            && let Some(request) = self.commit_or_fetch(random, checker)
        {
            return request;
        }
        match (self.is_classic, self.phase) {
            (false, _) => self.heartbeat(client, random, checker),
            (true, Phase::Out) => {
                // Eager: it gives up everything before it joins.
                self.lose_all(client, checker);
                let mut protocol = JoinGroupRequestProtocol::default();
                protocol.name = text("range");
                protocol.metadata = subscription();
                let mut body = JoinGroupRequest::default();
                body.group_id = text(GROUP);
                body.session_timeout_ms = SESSION_MS as i32;
                body.rebalance_timeout_ms = SESSION_MS as i32;
                body.member_id = text(&self.member_id);
                body.protocol_type = text("consumer");
                body.protocols = vec![protocol];
                (wire::JOIN_GROUP, MemberAsked::Join { sent_us }, Encoded::of(body))
            }
            (true, Phase::Syncing) => {
                let mut body = SyncGroupRequest::default();
                body.group_id = text(GROUP);
                body.member_id = text(&self.member_id);
                body.generation_id = self.epoch;
                body.protocol_type = Some(text("consumer"));
                body.protocol_name = Some(text("range"));
                for (at, member_id) in self.led.iter().enumerate() {
                    let mut part = SyncGroupRequestAssignment::default();
                    part.member_id = text(member_id);
                    part.assignment = assignment((at..partitions).step_by(self.led.len()));
                    body.assignments.push(part);
                }
                (wire::SYNC_GROUP, MemberAsked::Sync { sent_us }, Encoded::of(body))
            }
            (true, Phase::Reading) => {
                let mut body = HeartbeatRequest::default();
                body.group_id = text(GROUP);
                body.member_id = text(&self.member_id);
                body.generation_id = self.epoch;
                (wire::HEARTBEAT, MemberAsked::ClassicHeartbeat { sent_us }, Encoded::of(body))
            }
        }
    }

    fn heartbeat(&mut self, client: u32, random: &mut Random, checker: &mut GroupChecker) -> Request {
        if self.member_id.is_empty() {
            self.member_id = format!("member-{client}-{:x}", random.below(u64::MAX));
        }
        if self.epoch == 0 {
            self.lose_all(client, checker);
        } else if random.coin() {
            self.reads = self.reads.intersection(&self.assigned).copied().collect();
            self.positions.retain(|partition, _| self.reads.contains(partition));
            checker.keep_only(client, &self.reads);
        }
        let mut body = ConsumerGroupHeartbeatRequest::default();
        body.group_id = text(GROUP);
        body.member_id = text(&self.member_id);
        body.member_epoch = self.epoch;
        body.rebalance_timeout_ms = SESSION_MS as i32;
        body.subscribed_topic_names = Some(vec![wire::topic()]);
        let mut part = TopicPartitions::default();
        part.topic_id = Uuid::from_bytes(self.topic_id);
        part.partitions = self.reads.iter().map(|partition| *partition as i32).collect();
        body.topic_partitions = Some(if self.reads.is_empty() { Vec::new() } else { vec![part] });
        let asked = MemberAsked::Heartbeat { sent_us: checker.now_us };
        (wire::CONSUMER_GROUP_HEARTBEAT, asked, Encoded::of(body))
    }

    fn leave(&mut self, client: u32, checker: &mut GroupChecker) -> Request {
        self.lose_all(client, checker);
        self.epoch = 0;
        self.phase = Phase::Out;
        let member_id = text(&std::mem::take(&mut self.member_id));
        if self.is_classic {
            let mut member = MemberIdentity::default();
            member.member_id = member_id;
            let mut body = LeaveGroupRequest::default();
            body.group_id = text(GROUP);
            body.members = vec![member];
            return (wire::LEAVE_GROUP, MemberAsked::Leave, Encoded::of(body));
        }
        let mut body = ConsumerGroupHeartbeatRequest::default();
        body.group_id = text(GROUP);
        body.member_id = member_id;
        body.member_epoch = -1;
        (wire::CONSUMER_GROUP_HEARTBEAT, MemberAsked::Leave, Encoded::of(body))
    }

    /// Asks where a partition that it reads was left, or commits the next offset of it.
    fn commit_or_fetch(&mut self, random: &mut Random, checker: &mut GroupChecker) -> Option<Request> {
        let partition = *self.reads.iter().nth(random.index(self.reads.len().max(1)))?;
        let Some(&position) = self.positions.get(&partition) else {
            let mut topic = OffsetFetchRequestTopics::default();
            topic.name = wire::topic();
            topic.partition_indexes = vec![partition as i32];
            let mut group = OffsetFetchRequestGroup::default();
            group.group_id = text(GROUP);
            group.topics = Some(vec![topic]);
            let mut body = OffsetFetchRequest::default();
            body.groups = vec![group];
            let acknowledged = checker.acknowledged(partition);
            return Some((wire::OFFSET_FETCH, MemberAsked::Fetch { partition, acknowledged }, Encoded::of(body)));
        };
        let offset = checker.commit(partition, position);
        let mut item = OffsetCommitRequestPartition::default();
        item.partition_index = partition as i32;
        item.committed_offset = offset;
        let mut topic = OffsetCommitRequestTopic::default();
        topic.name = wire::topic();
        topic.partitions = vec![item];
        let mut body = OffsetCommitRequest::default();
        body.group_id = text(GROUP);
        body.member_id = text(&self.member_id);
        body.generation_id_or_member_epoch = self.epoch;
        body.topics = vec![topic];
        Some((wire::OFFSET_COMMIT_AS_MEMBER, MemberAsked::Commit { partition, offset }, Encoded::of(body)))
    }

    /// Takes a response: what it learnt.
    pub fn answered(&mut self, client: u32, asked: MemberAsked, body: Bytes) -> Result<Vec<GroupFinding>, String> {
        let mut findings = Vec::new();
        match asked {
            MemberAsked::Coordinator => {
                let response: FindCoordinatorResponse = wire::response(wire::FIND_COORDINATOR, body)?;
                match response.coordinators[0].error_code {
                    0 => self.has_coordinator = true,
                    error if is_retriable(error) => {}
                    error => return Err(format!("FindCoordinator: error {error}")),
                }
            }
            MemberAsked::Heartbeat { sent_us } => {
                let response: ConsumerGroupHeartbeatResponse = wire::response(wire::CONSUMER_GROUP_HEARTBEAT, body)?;
                match response.error_code {
                    0 => self.heard(sent_us, &response),
                    error if is_retriable(error) => return Ok(findings),
                    error if OUT_OF_DATE.contains(&error) => {
                        self.epoch = 0;
                        self.reads.clear();
                        self.assigned.clear();
                        self.positions.clear();
                        self.owes_since_us = None;
                    }
                    error => return Err(format!("ConsumerGroupHeartbeat: error {error}: {response:?}")),
                }
                findings.push(self.reading(client));
            }
            MemberAsked::Join { sent_us } => {
                let response: JoinGroupResponse = wire::response(wire::JOIN_GROUP, body)?;
                match response.error_code {
                    0 => {
                        self.phase = Phase::Syncing;
                        self.member_id = response.member_id.to_string();
                        self.epoch = response.generation_id;
                        self.led = response.members.iter().map(|member| member.member_id.to_string()).collect();
                        self.owes_since_us = Some(sent_us);
                    }
                    MEMBER_ID_REQUIRED => self.member_id = response.member_id.to_string(),
                    UNKNOWN_MEMBER_ID => self.member_id.clear(),
                    error if is_retriable(error) || OUT_OF_DATE.contains(&error) => {}
                    error => return Err(format!("JoinGroup: error {error}")),
                }
            }
            MemberAsked::Sync { sent_us } => {
                let response: SyncGroupResponse = wire::response(wire::SYNC_GROUP, body)?;
                self.phase = Phase::Out;
                match response.error_code {
                    0 => {
                        self.phase = Phase::Reading;
                        self.heard_us = sent_us;
                        self.owes_since_us = None;
                        self.assigned = assigned(&response.assignment)?;
                        self.reads = self.assigned.clone();
                        findings.push(self.reading(client));
                    }
                    error if is_retriable(error) || OUT_OF_DATE.contains(&error) => {}
                    error => return Err(format!("SyncGroup: error {error}")),
                }
            }
            MemberAsked::ClassicHeartbeat { sent_us } => {
                let response: HeartbeatResponse = wire::response(wire::HEARTBEAT, body)?;
                match response.error_code {
                    0 => self.heard_us = sent_us,
                    error if is_retriable(error) => return Ok(findings),
                    error if OUT_OF_DATE.contains(&error) => {
                        self.phase = Phase::Out;
                        self.reads.clear();
                        self.positions.clear();
                        if error == UNKNOWN_MEMBER_ID {
                            self.member_id.clear();
                        }
                    }
                    error => return Err(format!("Heartbeat: error {error}")),
                }
                findings.push(self.reading(client));
            }
            // It has gone, whatever it is told.
            MemberAsked::Leave => {}
            MemberAsked::Fetch { partition, acknowledged } => {
                let response: OffsetFetchResponse = wire::response(wire::OFFSET_FETCH, body)?;
                let group = &response.groups[0];
                if is_retriable(group.error_code) {
                    return Ok(findings);
                }
                let found = &group.topics[0].partitions[0];
                if group.error_code != 0 || found.error_code != 0 {
                    return Err(format!("OffsetFetch: {group:?}"));
                }
                let offset = found.committed_offset.max(0);
                if self.reads.contains(&partition) {
                    self.positions.insert(partition, offset);
                }
                findings.push(GroupFinding::Fetched { partition, offset, acknowledged });
            }
            MemberAsked::Commit { partition, offset } => {
                let response: OffsetCommitResponse = wire::response(wire::OFFSET_COMMIT_AS_MEMBER, body)?;
                match response.topics[0].partitions[0].error_code {
                    0 => {
                        if let Some(position) = self.positions.get_mut(&partition) {
                            *position = offset;
                        }
                        findings.push(GroupFinding::Committed { partition, offset });
                    }
                    error if is_retriable(error) || OUT_OF_DATE.contains(&error) => {}
                    error => return Err(format!("OffsetCommit: error {error}")),
                }
            }
        }
        Ok(findings)
    }

    fn heard(&mut self, sent_us: u64, response: &ConsumerGroupHeartbeatResponse) {
        self.epoch = response.member_epoch;
        self.heard_us = sent_us;
        if let Some(assignment) = &response.assignment {
            self.assigned.clear();
            for topic in &assignment.topic_partitions {
                self.topic_id = *topic.topic_id.as_bytes();
                self.assigned.extend(topic.partitions.iter().map(|partition| *partition as usize));
            }
            self.reads.extend(&self.assigned);
        }
        let owes = !self.reads.is_subset(&self.assigned);
        self.owes_since_us = owes.then(|| self.owes_since_us.unwrap_or(sent_us));
    }

    fn reading(&self, client: u32) -> GroupFinding {
        GroupFinding::Reads { client, partitions: self.reads.clone(), until_us: self.until_us() }
    }
}

/// A `ConsumerProtocolSubscription` to the topic, version 1, of a member that has nothing.
fn subscription() -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(1);
    bytes.put_i16(wire::TOPIC.len() as i16);
    bytes.put_slice(wire::TOPIC.as_bytes());
    bytes.put_i32(-1);
    bytes.put_i32(0);
    bytes.freeze()
}

/// A `ConsumerProtocolAssignment` of partitions of the topic.
fn assignment(partitions: impl ExactSizeIterator<Item = usize>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(1);
    bytes.put_i32(1);
    bytes.put_i16(wire::TOPIC.len() as i16);
    bytes.put_slice(wire::TOPIC.as_bytes());
    bytes.put_i32(partitions.len() as i32);
    partitions.for_each(|partition| bytes.put_i32(partition as i32));
    bytes.put_i32(-1);
    bytes.freeze()
}

/// The partitions of an assignment, read by hand: the simulated client is not the broker.
fn assigned(bytes: &[u8]) -> Result<BTreeSet<usize>, String> {
    let number = |at: usize| -> Result<i32, String> {
        let bytes = bytes.get(at..at + 4).ok_or_else(|| format!("an assignment ends early: {bytes:?}"))?;
        Ok(i32::from_be_bytes(bytes.try_into().expect("four bytes")))
    };
    if bytes.is_empty() || number(2)? == 0 {
        return Ok(BTreeSet::new());
    }
    let partitions_at = 8 + wire::TOPIC.len();
    (0..number(partitions_at)? as usize).map(|at| Ok(number(partitions_at + 4 + 4 * at)? as usize)).collect()
}
