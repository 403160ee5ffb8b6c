//! Members of one consumer group, of both protocols: they join, read what they are told, commit, leave, and are killed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitResponse, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_wire_core::{StrBytes, Uuid};
use millstream_storage::random::Random;

use super::wire::{self, MEMBER_ID_REQUIRED, Request, UNKNOWN_MEMBER_ID, is_retriable_in_group};
use super::{Finding, Knowledge, Outgoing, Reaction, Role, Target, requests};
use crate::sim::checkers::{GroupChecker, GroupFinding};

const GROUP: &str = "members";

/// How long a member may be silent, and take to give partitions back, milliseconds.
pub const SESSION_MS: u64 = 150;
const SESSION_US: u64 = SESSION_MS * 1_000;

/// ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, REBALANCE_IN_PROGRESS, GROUP_ID_NOT_FOUND, FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH:
/// what a member is told that has to join again, or whose commit comes too late.
const OUT_OF_DATE: [i16; 6] = [22, UNKNOWN_MEMBER_ID, 27, 69, 110, 113];

/// What it asked last.
#[derive(Debug)]
enum Asked {
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

#[derive(Debug, Default)]
pub struct Member {
    client: u32,
    is_classic: bool,
    coordinator: Option<i32>,
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
    asked: Option<Asked>,
}

fn text(value: &str) -> StrBytes {
    StrBytes::from(value)
}

impl Member {
    /// One that speaks this protocol.
    pub fn new(client: u32, is_classic: bool) -> Member {
        Member { client, is_classic, ..Member::default() }
    }

    /// Until when it may believe that it is in the group without being heard of again.
    fn until_us(&self) -> u64 {
        self.heard_us.min(self.owes_since_us.unwrap_or(u64::MAX)) + SESSION_US
    }

    fn lose_all(&mut self, checker: &mut GroupChecker) {
        checker.stop(self.client);
        self.assigned.clear();
        self.reads.clear();
        self.positions.clear();
        self.owes_since_us = None;
    }

    fn ask(&mut self, partitions: usize, random: &mut Random, checker: &mut GroupChecker) -> (Asked, Request) {
        let sent_us = checker.now_us;
        if self.coordinator.is_none() {
            return (Asked::Coordinator, requests::find_coordinator(text(GROUP)));
        }
        // Now and then it is killed, and another process begins, perhaps with the other protocol.
        if random.one_in(60) {
            checker.stop(self.client);
            *self = Member { coordinator: self.coordinator, ..Member::new(self.client, random.coin()) };
        }
        if self.epoch > 0 && self.until_us() <= checker.now_us {
            self.lose_all(checker);
        }
        if random.one_in(60) && !self.member_id.is_empty() {
            return self.leave(checker);
        }
        if random.coin()
            && let Some(request) = self.commit_or_fetch(random, checker)
        {
            return request;
        }
        match (self.is_classic, self.phase) {
            (false, _) => self.heartbeat(random, checker),
            (true, Phase::Out) => {
                // Eager: it gives up everything before it joins.
                self.lose_all(checker);
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
                (Asked::Join { sent_us }, Request::new(wire::JOIN_GROUP, &body))
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
                (Asked::Sync { sent_us }, Request::new(wire::SYNC_GROUP, &body))
            }
            (true, Phase::Reading) => {
                let mut body = HeartbeatRequest::default();
                body.group_id = text(GROUP);
                body.member_id = text(&self.member_id);
                body.generation_id = self.epoch;
                (Asked::ClassicHeartbeat { sent_us }, Request::new(wire::HEARTBEAT, &body))
            }
        }
    }

    fn heartbeat(&mut self, random: &mut Random, checker: &mut GroupChecker) -> (Asked, Request) {
        if self.member_id.is_empty() {
            self.member_id = format!("member-{}-{:x}", self.client, random.below(u64::MAX));
        }
        if self.epoch == 0 {
            self.lose_all(checker);
        } else if random.coin() {
            self.reads = self.reads.intersection(&self.assigned).copied().collect();
            self.positions.retain(|partition, _| self.reads.contains(partition));
            checker.keep_only(self.client, &self.reads);
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
        let asked = Asked::Heartbeat { sent_us: checker.now_us };
        (asked, Request::new(wire::CONSUMER_GROUP_HEARTBEAT, &body))
    }

    fn leave(&mut self, checker: &mut GroupChecker) -> (Asked, Request) {
        self.lose_all(checker);
        self.epoch = 0;
        self.phase = Phase::Out;
        let member_id = text(&std::mem::take(&mut self.member_id));
        if self.is_classic {
            let mut member = MemberIdentity::default();
            member.member_id = member_id;
            let mut body = LeaveGroupRequest::default();
            body.group_id = text(GROUP);
            body.members = vec![member];
            return (Asked::Leave, Request::new(wire::LEAVE_GROUP, &body));
        }
        let mut body = ConsumerGroupHeartbeatRequest::default();
        body.group_id = text(GROUP);
        body.member_id = member_id;
        body.member_epoch = -1;
        (Asked::Leave, Request::new(wire::CONSUMER_GROUP_HEARTBEAT, &body))
    }

    /// Asks where a partition that it reads was left, or commits the next offset of it.
    fn commit_or_fetch(&mut self, random: &mut Random, checker: &mut GroupChecker) -> Option<(Asked, Request)> {
        let partition = *self.reads.iter().nth(random.index(self.reads.len().max(1)))?;
        let Some(&position) = self.positions.get(&partition) else {
            let acknowledged = checker.acknowledged(partition);
            let asked = Asked::Fetch { partition, acknowledged };
            return Some((asked, requests::fetch_committed(text(GROUP), partition)));
        };
        let offset = checker.commit(partition, position);
        let mut body = requests::commit(text(GROUP), partition, offset);
        body.member_id = text(&self.member_id);
        body.generation_id_or_member_epoch = self.epoch;
        Some((Asked::Commit { partition, offset }, Request::new(wire::OFFSET_COMMIT_AS_MEMBER, &body)))
    }

    fn take(&mut self, asked: Asked, body: Bytes) -> Result<Option<GroupFinding>, String> {
        match asked {
            Asked::Coordinator => self.coordinator = requests::found_coordinator(body)?,
            Asked::Heartbeat { sent_us } => return self.has_heartbeat(sent_us, body),
            Asked::Join { sent_us } => self.has_joined(sent_us, body)?,
            Asked::Sync { sent_us } => return self.has_synced(sent_us, body),
            Asked::ClassicHeartbeat { sent_us } => return self.has_classic_heartbeat(sent_us, body),
            // It has gone, whatever it is told.
            Asked::Leave => {}
            Asked::Fetch { partition, acknowledged } => return self.has_fetched(partition, acknowledged, body),
            Asked::Commit { partition, offset } => return self.has_committed(partition, offset, body),
        }
        Ok(None)
    }

    fn has_heartbeat(&mut self, sent_us: u64, body: Bytes) -> Result<Option<GroupFinding>, String> {
        let response: ConsumerGroupHeartbeatResponse = wire::response(wire::CONSUMER_GROUP_HEARTBEAT, body)?;
        match response.error_code {
            0 => self.heard(sent_us, &response),
            error if is_retriable_in_group(error) => return Ok(None),
            error if OUT_OF_DATE.contains(&error) => {
                self.epoch = 0;
                self.reads.clear();
                self.assigned.clear();
                self.positions.clear();
                self.owes_since_us = None;
            }
            error => return Err(format!("ConsumerGroupHeartbeat: error {error}: {response:?}")),
        }
        Ok(Some(self.reading()))
    }

    fn has_joined(&mut self, sent_us: u64, body: Bytes) -> Result<(), String> {
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
            error if is_retriable_in_group(error) || OUT_OF_DATE.contains(&error) => {}
            error => return Err(format!("JoinGroup: error {error}")),
        }
        Ok(())
    }

    fn has_synced(&mut self, sent_us: u64, body: Bytes) -> Result<Option<GroupFinding>, String> {
        let response: SyncGroupResponse = wire::response(wire::SYNC_GROUP, body)?;
        self.phase = Phase::Out;
        match response.error_code {
            0 => {
                self.phase = Phase::Reading;
                self.heard_us = sent_us;
                self.owes_since_us = None;
                self.assigned = assigned(&response.assignment)?;
                self.reads = self.assigned.clone();
                Ok(Some(self.reading()))
            }
            error if is_retriable_in_group(error) || OUT_OF_DATE.contains(&error) => Ok(None),
            error => Err(format!("SyncGroup: error {error}")),
        }
    }

    fn has_classic_heartbeat(&mut self, sent_us: u64, body: Bytes) -> Result<Option<GroupFinding>, String> {
        let response: HeartbeatResponse = wire::response(wire::HEARTBEAT, body)?;
        match response.error_code {
            0 => self.heard_us = sent_us,
            error if is_retriable_in_group(error) => return Ok(None),
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
        Ok(Some(self.reading()))
    }

    fn has_fetched(
        &mut self,
        partition: usize,
        acknowledged: i64,
        body: Bytes,
    ) -> Result<Option<GroupFinding>, String> {
        let response: OffsetFetchResponse = wire::response(wire::OFFSET_FETCH, body)?;
        let group = &response.groups[0];
        if is_retriable_in_group(group.error_code) {
            return Ok(None);
        }
        let found = &group.topics[0].partitions[0];
        if group.error_code != 0 || found.error_code != 0 {
            return Err(format!("OffsetFetch: {group:?}"));
        }
        let offset = found.committed_offset.max(0);
        if self.reads.contains(&partition) {
            self.positions.insert(partition, offset);
        }
        Ok(Some(GroupFinding::Fetched { partition, offset, acknowledged }))
    }

    fn has_committed(&mut self, partition: usize, offset: i64, body: Bytes) -> Result<Option<GroupFinding>, String> {
        let response: OffsetCommitResponse = wire::response(wire::OFFSET_COMMIT_AS_MEMBER, body)?;
        match response.topics[0].partitions[0].error_code {
            0 => {
                if let Some(position) = self.positions.get_mut(&partition) {
                    *position = offset;
                }
                Ok(Some(GroupFinding::Committed { partition, offset }))
            }
            error if is_retriable_in_group(error) || OUT_OF_DATE.contains(&error) => Ok(None),
            error => Err(format!("OffsetCommit: error {error}")),
        }
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

    fn reading(&self) -> GroupFinding {
        GroupFinding::Reads { client: self.client, partitions: self.reads.clone(), until_us: self.until_us() }
    }
}

impl Role for Member {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(500, 8_000)
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        if knowledge.is_ending {
            return None;
        }
        let (asked, request) = self.ask(knowledge.partitions.len(), random, &mut knowledge.group);
        self.asked = Some(asked);
        Some(Outgoing::Answered(request))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        let asked = self.asked.take().expect("it asked");
        reaction.findings.extend(self.take(asked, body)?.map(Finding::Group));
        Ok(())
    }

    fn target(&self) -> Target {
        Target::Coordinator { node_id: self.coordinator }
    }

    fn forget_coordinator(&mut self) {
        self.coordinator = None;
    }

    fn disconnected(&mut self, knowledge: &mut Knowledge) {
        match self.asked.take() {
            Some(Asked::Join { .. } | Asked::Sync { .. }) => self.phase = Phase::Out,
            Some(Asked::Commit { partition, offset }) => {
                self.positions.remove(&partition);
                knowledge.group.lose(partition, offset);
            }
            _ => {}
        }
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
