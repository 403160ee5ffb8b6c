//! A group of the classic protocol: its members elect a leader, which assigns; the coordinator keeps the generations.
//!
//! What lives here is soft: members, requests that wait, the state. It becomes durable when a rebalance ends: the
//! leader's SyncGroup writes the whole group as one record, and only when that is durable do members learn their
//! assignments. A coordinator that restarts finds the last such record and goes on in that generation.
//!
//! The rules are Kafka's, with static membership (KIP-345), members that must know their id (KIP-394) and the initial
//! delay (KIP-134).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire::join_group_response::JoinGroupResponseMember;
use kafka_wire::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};
use kafka_wire_core::StrBytes;
use millstream_storage::Now;

use super::config::{CLIENT_ID_BYTES_MAX, NEW_MEMBER_JOIN_TIMEOUT, PENDING_MEMBERS_MAX};
use super::config::{GroupConfig, REBALANCE_RETRY_MIN};
use super::member::{Member, Parked, copy_protocols};
use super::record::{CommittedOffset, GroupMetadata, Record};
use super::request::{encode, join_error, sync_error};
use super::timer::{TimerKey, Timers};
use super::write::{Then, Writes};
use super::{ClientInfo, GroupEffect, WriteId, error, subscription};

/// The protocol type of consumers; their subscriptions can be read.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Where a group is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No members.
    Empty,
    /// Waiting for the members to join.
    PreparingRebalance {
        /// The group was empty: wait for more than the first.
        initial: Option<InitialDelay>,
    },
    /// The members have joined; waiting for the leader's assignments.
    CompletingRebalance {
        /// They have come and are being written.
        assigning: bool,
    },
    /// Every member may know its assignment.
    Stable,
}

impl State {
    /// Kafka's name of the state.
    pub fn name(&self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance { .. } => "PreparingRebalance",
            State::CompletingRebalance { .. } => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// The first rebalance of a group is put off as long as members keep coming (KIP-134).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialDelay {
    delay: Duration,
    remaining: Duration,
    member_added: bool,
}

/// What a group works with besides itself.
pub struct Context<'a> {
    pub now: Now,
    pub config: &'a GroupConfig,
    pub group_id: &'a Arc<str>,
    pub in_flight: &'a mut Option<WriteId>,
    pub timers: &'a mut Timers,
    pub writes: &'a mut Writes,
    pub effects: &'a mut Vec<GroupEffect>,
}

impl Context<'_> {
    fn reply(&mut self, parked: Parked, body: Bytes) {
        self.effects.push(GroupEffect::Reply {
            reference: parked.reference,
            body,
        });
    }

    pub fn write(&mut self, records: Vec<Record>) -> WriteId {
        let write = self.writes.start(records, self.effects);
        *self.in_flight = Some(write);
        write
    }

    fn schedule_rebalance(&mut self, after: Duration) {
        let key = TimerKey::Rebalance(self.group_id.clone());
        self.timers.schedule(key, self.now.elapsed + after);
    }

    fn schedule_session(&mut self, member: &Arc<str>, after: Duration) {
        let key = TimerKey::Session(self.group_id.clone(), member.clone());
        self.timers.schedule(key, self.now.elapsed + after);
    }

    fn cancel_session(&mut self, member: &Arc<str>) {
        let key = TimerKey::Session(self.group_id.clone(), member.clone());
        self.timers.cancel(&key);
    }
}

/// A classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicGroup {
    state: State,
    state_since_ms: Option<i64>,
    generation: i32,
    /// `None`: nobody ever joined, only offsets were committed.
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids of static members, by instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given out that nobody has joined with yet.
    pending: BTreeSet<Arc<str>>,
    /// How many members offer each protocol.
    supported: BTreeMap<Arc<str>, usize>,
    /// Members whose JoinGroup waits.
    awaiting_join: usize,
    /// Topics that the members of this generation read; `None` when that cannot be known.
    subscribed: Option<BTreeSet<Arc<str>>>,
    bytes: usize,
}

impl ClassicGroup {
    /// A group that nobody has joined.
    pub fn new(now_ms: i64) -> Self {
        ClassicGroup {
            state: State::Empty,
            state_since_ms: Some(now_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeSet::new(),
            supported: BTreeMap::new(),
            awaiting_join: 0,
            subscribed: None,
            bytes: 0,
        }
    }

    /// The group that a record describes.
    pub fn from_record(metadata: GroupMetadata) -> Self {
        let mut group = ClassicGroup::new(0);
        group.state_since_ms = metadata.state_since_ms;
        group.generation = metadata.generation;
        group.protocol_type =
            (!metadata.protocol_type.is_empty()).then_some(metadata.protocol_type);
        group.protocol = metadata.protocol;
        for member in metadata.members {
            let member = Member::from_metadata(member, group.protocol.as_ref());
            // A record names each member once; one that does not is read as if its last word counted.
            group.take_out(&member.id.clone());
            group.put_in(member);
        }
        group.leader = metadata
            .leader
            .filter(|leader| group.members.contains_key(leader));
        if group.leader.is_none() {
            group.leader = group.members.keys().next().cloned();
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
        }
        group.subscribed = group.subscribed_topics();
        group
    }

    /// The record of the group as it is, with these assignments.
    fn to_record(
        &self,
        group_id: &Arc<str>,
        assignment: impl Fn(&Member) -> Bytes,
    ) -> (Record, usize) {
        let metadata = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: self
                .members
                .values()
                .map(|member| member.to_metadata(self.protocol.as_deref(), assignment(member)))
                .collect(),
        };
        let bytes = metadata.encoded_bytes();
        let record = Record::GroupMetadata {
            group: group_id.clone(),
            value: Some(metadata),
        };
        (record, bytes)
    }

    /// The record of the group as it is.
    pub fn record(&self, group_id: &Arc<str>) -> Record {
        self.to_record(group_id, |member| member.assignment.clone())
            .0
    }

    /// Where it is in its life.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The protocol type; empty if nobody ever joined.
    pub fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    /// The members, by id.
    pub fn members(&self) -> &BTreeMap<Arc<str>, Member> {
        &self.members
    }

    /// Whether it has neither members nor any that are about to join.
    pub fn is_deserted(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty()
    }

    /// The memory it takes, in a coordinator's count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub fn recount(&self) -> usize {
        let pending: usize = self.pending.iter().map(|id| pending_bytes(id)).sum();
        pending + self.members.values().map(Member::bytes).sum::<usize>()
    }

    /// What holds between any two calls.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let awaiting = self.members.values().filter(|m| m.awaiting_join.is_some());
        assert_eq!(awaiting.count(), self.awaiting_join);
        let statics = self.members.values().filter(|m| m.instance_id.is_some());
        assert_eq!(statics.count(), self.static_members.len());
        for (instance_id, id) in &self.static_members {
            assert_eq!(self.members[id].instance_id.as_ref(), Some(instance_id));
        }
        for (id, member) in &self.members {
            assert_eq!(*id, member.id);
            assert!(!self.pending.contains(id));
            let completing = matches!(self.state, State::CompletingRebalance { .. });
            assert!(member.awaiting_sync.is_none() || completing);
        }
        assert_eq!(
            self.state == State::Empty,
            self.members.is_empty() && !matches!(self.state, State::PreparingRebalance { .. })
        );
        if let Some(leader) = &self.leader {
            assert!(self.members.contains_key(leader));
        }
    }

    // ---- JoinGroup ----

    /// JoinGroup. `random` makes the id of a new member.
    pub fn join(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        parked: Parked,
        client: &ClientInfo,
        random: u64,
    ) {
        let refuse = |cx: &mut Context<'_>, error_code: i16, member_id: &StrBytes| {
            let body = join_error(parked.version, error_code, member_id.clone());
            cx.reply(parked, body);
        };
        let is_new = request.member_id.is_empty();
        if !self.has_room_for(cx.config, &request.member_id) {
            self.remove(cx, &request.member_id);
            refuse(cx, error::GROUP_MAX_SIZE_REACHED, &StrBytes::default());
            self.maybe_complete_join(cx);
        } else if !self.supports(request) {
            let error_code = error::INCONSISTENT_GROUP_PROTOCOL;
            refuse(cx, error_code, &request.member_id);
        } else if is_new {
            self.join_new(cx, request, parked, client, random);
        } else if self.pending.contains(&*request.member_id) {
            if request.group_instance_id.is_some() {
                // Ids that wait to be used were given to dynamic members.
                return refuse(cx, error::UNKNOWN_MEMBER_ID, &request.member_id);
            }
            let member_id = Arc::from(request.member_id.as_str());
            self.add_member(cx, request, member_id, parked, client);
        } else {
            let instance_id = request.group_instance_id.as_deref();
            match self.check_member(&request.member_id, instance_id) {
                Ok(member_id) => self.rejoin(cx, request, member_id, parked),
                Err(error_code) => refuse(cx, error_code, &request.member_id),
            }
        }
    }

    fn join_new(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        parked: Parked,
        client: &ClientInfo,
        random: u64,
    ) {
        if let Some(instance_id) = &request.group_instance_id {
            let member_id = new_member_id(instance_id, random);
            return match self.static_members.get(instance_id.as_str()).cloned() {
                Some(old) => self.replace_static(cx, request, old, member_id, parked),
                None => self.add_member(cx, request, member_id, parked, client),
            };
        }
        let member_id = new_member_id(&client.client_id, random);
        // KIP-394: since version 4 a member has to come back with its id, so that a client that retries does not leave
        // ghosts behind.
        if parked.version < 4 {
            return self.add_member(cx, request, member_id, parked, client);
        }
        if self.pending.len() >= PENDING_MEMBERS_MAX {
            let error_code = error::GROUP_MAX_SIZE_REACHED;
            let body = join_error(parked.version, error_code, StrBytes::default());
            return cx.reply(parked, body);
        }
        cx.schedule_session(&member_id, millis(request.session_timeout_ms));
        let name = StrBytes::from(&*member_id);
        self.bytes += pending_bytes(&member_id);
        self.pending.insert(member_id);
        let body = join_error(parked.version, error::MEMBER_ID_REQUIRED, name);
        cx.reply(parked, body);
    }

    /// A member that the group knows joins again.
    fn rejoin(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        member_id: Arc<str>,
        parked: Parked,
    ) {
        let unchanged = self.members[&member_id].offers(&request.protocols);
        let is_leader = self.leader.as_ref() == Some(&member_id);
        match self.state {
            State::PreparingRebalance { .. } => {
                self.update_member(cx, request, &member_id, parked);
                self.maybe_complete_join(cx);
            }
            // It may not have received the answer: give it again. A leader that joins again in a stable group wants a
            // rebalance, for example because partitions were added.
            State::CompletingRebalance { .. } | State::Stable
                if unchanged && !(is_leader && self.state == State::Stable) =>
            {
                let body = self.joined(parked.version, &member_id, false);
                cx.reply(parked, body);
            }
            State::CompletingRebalance { .. } | State::Stable => {
                self.update_member(cx, request, &member_id, parked);
                self.prepare_rebalance(cx);
            }
            State::Empty => unreachable!("an empty group has no member to join again"),
        }
    }

    fn add_member(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        member_id: Arc<str>,
        parked: Parked,
        client: &ClientInfo,
    ) {
        self.forget_pending(&member_id);
        if let State::PreparingRebalance {
            initial: Some(initial),
        } = &mut self.state
        {
            initial.member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.as_str().into());
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        cx.schedule_session(&member_id, NEW_MEMBER_JOIN_TIMEOUT);
        self.put_in(Member {
            id: member_id,
            instance_id: request.group_instance_id.as_deref().map(Arc::from),
            client_id: client.client_id.clone(),
            client_host: client.client_host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: copy_protocols(&request.protocols),
            assignment: Bytes::new(),
            awaiting_join: Some(parked),
            awaiting_sync: None,
            pending_sync: false,
            is_new: true,
        });
        self.rebalance_or_complete_join(cx);
    }

    fn update_member(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        member_id: &Arc<str>,
        parked: Parked,
    ) {
        let mut member = self.take_out(member_id).expect("the member is here");
        // The client has given up on a request that it repeats.
        if let Some(earlier) = member.awaiting_join.replace(parked) {
            let error_code = error::REBALANCE_IN_PROGRESS;
            let body = join_error(earlier.version, error_code, request.member_id.clone());
            cx.reply(earlier, body);
        }
        member.protocols = copy_protocols(&request.protocols);
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.session_timeout_ms = request.session_timeout_ms;
        self.put_in(member);
    }

    /// A static member comes back without knowing its id: it gets a new one, and whoever uses the old one is fenced.
    /// In a stable group it takes its place without a rebalance, if the choice of protocol stands.
    fn replace_static(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        old_id: Arc<str>,
        new_id: Arc<str>,
        parked: Parked,
    ) {
        let leader_before = self.leader.clone();
        let mut member = self.take_out(&old_id).expect("a static member is a member");
        let old_name = StrBytes::from(&*old_id);
        if let Some(fenced) = member.awaiting_join.take() {
            let body = join_error(fenced.version, error::FENCED_INSTANCE_ID, old_name);
            cx.reply(fenced, body);
        }
        if let Some(fenced) = member.awaiting_sync.take() {
            let body = sync_error(fenced.version, error::FENCED_INSTANCE_ID);
            cx.reply(fenced, body);
        }
        member.pending_sync = false;
        member.is_new = false;
        member.id = new_id.clone();
        self.put_in(member);
        if self.leader.as_ref() == Some(&old_id) {
            self.leader = Some(new_id.clone());
        }
        cx.cancel_session(&old_id);
        self.update_member(cx, request, &new_id, parked);
        cx.schedule_session(&new_id, millis(request.session_timeout_ms));

        match self.state {
            State::Stable if self.select_protocol() == self.protocol => {
                let record = self.record(cx.group_id);
                let write = cx.write(vec![record]);
                let then = Then::StaticJoin {
                    group: cx.group_id.clone(),
                    member: new_id,
                    parked,
                    leader_before,
                };
                cx.writes.then(write, then);
            }
            // The leader may be assigning to the old id.
            State::Stable | State::CompletingRebalance { .. } => self.prepare_rebalance(cx),
            State::PreparingRebalance { .. } => self.maybe_complete_join(cx),
            State::Empty => unreachable!("an empty group has no static members"),
        }
    }

    /// A static member's new id is durable, or is not.
    pub fn static_joined(
        &mut self,
        cx: &mut Context<'_>,
        member_id: &Arc<str>,
        parked: Parked,
        leader_before: Option<Arc<str>>,
        error_code: i16,
    ) {
        let is_stable = self.state == State::Stable;
        let is_leader = self.leader.as_ref() == Some(member_id);
        let Some(member) = self.members.get_mut(member_id) else {
            return;
        };
        // If a rebalance has begun, or the member was replaced again, others answer.
        if member.awaiting_join != Some(parked) || !is_stable {
            return;
        }
        member.awaiting_join = None;
        member.is_new = false;
        let session = millis(member.session_timeout_ms);
        self.awaiting_join -= 1;
        cx.schedule_session(member_id, session);
        let body = if error_code != error::NONE {
            join_error(parked.version, error_code, StrBytes::default())
        } else if parked.version >= 9 {
            self.joined(parked.version, member_id, is_leader)
        } else {
            let mut response = self.joined_response(parked.version, member_id, false);
            response.members.clear();
            response.leader = StrBytes::from(leader_before.as_deref().unwrap_or_default());
            encode(parked.version, &response)
        };
        cx.reply(parked, body);
    }

    fn joined(&self, version: i16, member_id: &Arc<str>, skip_assignment: bool) -> Bytes {
        encode(
            version,
            &self.joined_response(version, member_id, skip_assignment),
        )
    }

    fn joined_response(
        &self,
        version: i16,
        member_id: &Arc<str>,
        skip_assignment: bool,
    ) -> JoinGroupResponse {
        let mut response = JoinGroupResponse::default();
        response.generation_id = self.generation;
        if version >= 7 {
            response.protocol_type = self.protocol_type.as_deref().map(StrBytes::from);
        }
        response.protocol_name = Some(StrBytes::from(self.protocol.as_deref().unwrap_or_default()));
        response.leader = StrBytes::from(self.leader.as_deref().unwrap_or_default());
        response.member_id = StrBytes::from(&**member_id);
        response.skip_assignment = skip_assignment && version >= 9;
        if self.leader.as_ref() == Some(member_id) {
            for member in self.members.values() {
                let mut part = JoinGroupResponseMember::default();
                part.member_id = StrBytes::from(&*member.id);
                part.group_instance_id = (version >= 5)
                    .then_some(member.instance_id.as_deref())
                    .flatten()
                    .map(StrBytes::from);
                part.metadata = member.metadata(self.protocol.as_deref());
                response.members.push(part);
            }
        }
        response
    }

    // ---- SyncGroup ----

    /// SyncGroup.
    pub fn sync(&mut self, cx: &mut Context<'_>, request: &SyncGroupRequest, parked: Parked) {
        let member_id = match self.check_sync(request, parked.version) {
            Ok(member_id) => member_id,
            Err(error_code) => {
                return cx.reply(parked, sync_error(parked.version, error_code));
            }
        };
        match self.state {
            State::CompletingRebalance { assigning } => {
                let member = self.members.get_mut(&member_id).expect("just checked");
                if let Some(earlier) = member.awaiting_sync.replace(parked) {
                    let body = sync_error(earlier.version, error::REBALANCE_IN_PROGRESS);
                    cx.reply(earlier, body);
                }
                self.synced(cx, &member_id);
                // A leader that repeats itself does not assign twice in one generation.
                if self.leader.as_ref() == Some(&member_id) && !assigning {
                    self.assign(cx, request);
                }
            }
            State::Stable => {
                self.synced(cx, &member_id);
                let body = self.synced_body(parked.version, &self.members[&member_id]);
                cx.reply(parked, body);
            }
            State::PreparingRebalance { .. } | State::Empty => {
                unreachable!("check_sync refuses these")
            }
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest, version: i16) -> Result<Arc<str>, i16> {
        // KIP-559: since version 5 both are mandatory.
        if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
            return Err(error::INCONSISTENT_GROUP_PROTOCOL);
        }
        let instance_id = request.group_instance_id.as_deref();
        let member_id = self.check_member(&request.member_id, instance_id)?;
        let differs = |asked: &Option<StrBytes>, ours: &Option<Arc<str>>| {
            asked
                .as_ref()
                .zip(ours.as_ref())
                .is_some_and(|(asked, ours)| **asked != **ours)
        };
        if request.generation_id != self.generation {
            Err(error::ILLEGAL_GENERATION)
        } else if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            Err(error::INCONSISTENT_GROUP_PROTOCOL)
        } else if matches!(self.state, State::PreparingRebalance { .. }) {
            Err(error::REBALANCE_IN_PROGRESS)
        } else {
            Ok(member_id)
        }
    }

    /// A member has asked for its assignment.
    fn synced(&mut self, cx: &mut Context<'_>, member_id: &Arc<str>) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.pending_sync = false;
        }
        if self.members.values().all(|member| !member.pending_sync) {
            cx.timers.cancel(&TimerKey::Sync(cx.group_id.clone()));
        }
    }

    /// Writes the leader's assignments.
    fn assign(&mut self, cx: &mut Context<'_>, request: &SyncGroupRequest) {
        let mut assignments: BTreeMap<Arc<str>, Bytes> = BTreeMap::new();
        for assigned in &request.assignments {
            if let Some((id, _)) = self.members.get_key_value(assigned.member_id.as_str()) {
                let assignment = Bytes::copy_from_slice(&assigned.assignment);
                assignments.insert(id.clone(), assignment);
            }
        }
        let (record, bytes) = self.to_record(cx.group_id, |member| {
            assignments.get(&member.id).cloned().unwrap_or_default()
        });
        if bytes > cx.config.write_bytes_max {
            return self.assigned(
                cx,
                self.generation,
                assignments,
                error::UNKNOWN_SERVER_ERROR,
            );
        }
        self.state = State::CompletingRebalance { assigning: true };
        let write = cx.write(vec![record]);
        let then = Then::Assign {
            group: cx.group_id.clone(),
            generation: self.generation,
            assignments,
        };
        cx.writes.then(write, then);
    }

    /// The assignments of a generation are durable, or are not.
    pub fn assigned(
        &mut self,
        cx: &mut Context<'_>,
        generation: i32,
        mut assignments: BTreeMap<Arc<str>, Bytes>,
        error_code: i16,
    ) {
        // Somebody may have joined or left in the meantime: then the next rebalance has begun.
        let is_completing = matches!(self.state, State::CompletingRebalance { .. });
        if !is_completing || generation != self.generation {
            return;
        }
        if error_code != error::NONE {
            self.withdraw_assignments(cx, error_code);
            return self.prepare_rebalance(cx);
        }
        for member in self.members.values_mut() {
            self.bytes -= member.assignment.len();
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            self.bytes += member.assignment.len();
        }
        self.set_state(cx.now, State::Stable);
        let waiting: Vec<(Arc<str>, Parked)> = self
            .members
            .values_mut()
            .filter_map(|member| {
                let parked = member.awaiting_sync.take()?;
                Some((member.id.clone(), parked))
            })
            .collect();
        for (member_id, parked) in waiting {
            let member = &self.members[&member_id];
            cx.schedule_session(&member_id, millis(member.session_timeout_ms));
            let body = self.synced_body(parked.version, member);
            cx.reply(parked, body);
        }
    }

    fn synced_body(&self, version: i16, member: &Member) -> Bytes {
        let mut response = SyncGroupResponse::default();
        if version >= 5 {
            response.protocol_type = self.protocol_type.as_deref().map(StrBytes::from);
            response.protocol_name = self.protocol.as_deref().map(StrBytes::from);
        }
        response.assignment = member.assignment.clone();
        encode(version, &response)
    }

    // ---- Heartbeat, LeaveGroup ----

    /// Heartbeat: the error code to answer with.
    pub fn heartbeat(
        &mut self,
        cx: &mut Context<'_>,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> i16 {
        let member_id = match self.check_member(member_id, instance_id) {
            Ok(member_id) => member_id,
            Err(error_code) => return error_code,
        };
        if generation != self.generation {
            return error::ILLEGAL_GENERATION;
        }
        self.keep_session(cx, &member_id);
        match self.state {
            State::PreparingRebalance { .. } => error::REBALANCE_IN_PROGRESS,
            _ => error::NONE,
        }
    }

    /// A member was heard of.
    fn keep_session(&self, cx: &mut Context<'_>, member_id: &Arc<str>) {
        let member = &self.members[member_id];
        cx.schedule_session(member_id, millis(member.session_timeout_ms));
    }

    /// One member of a LeaveGroup: the error code to answer with. [`ClassicGroup::left`] follows the last one.
    pub fn leave(
        &mut self,
        cx: &mut Context<'_>,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> i16 {
        // An administrator names a static member by its instance id alone.
        let member_id = match (member_id, instance_id) {
            ("", instance_id) => match instance_id.and_then(|id| self.static_members.get(id)) {
                Some(member_id) => member_id.clone(),
                None => return error::UNKNOWN_MEMBER_ID,
            },
            (member_id, _) if self.pending.contains(member_id) => member_id.into(),
            (member_id, instance_id) => match self.check_member(member_id, instance_id) {
                Ok(member_id) => member_id,
                Err(error_code) => return error_code,
            },
        };
        self.remove(cx, &member_id);
        error::NONE
    }

    /// After the last [`ClassicGroup::leave`] of a request: rebalances those who stay, if members have left and not
    /// only ids that nobody had joined with.
    pub fn left(&mut self, cx: &mut Context<'_>, members_left: bool) {
        if members_left {
            self.rebalance_or_complete_join(cx);
        } else {
            self.maybe_complete_join(cx);
        }
    }

    // ---- Timers ----

    /// The time to rejoin is over.
    pub fn rebalance_due(&mut self, cx: &mut Context<'_>) {
        let State::PreparingRebalance { initial } = &mut self.state else {
            return;
        };
        if let Some(initial) = initial
            && initial.member_added
            && !initial.remaining.is_zero()
        {
            initial.member_added = false;
            let spent = initial.delay;
            initial.delay = cx.config.initial_rebalance_delay.min(initial.remaining);
            initial.remaining = initial.remaining.saturating_sub(spent);
            let delay = initial.delay;
            return cx.schedule_rebalance(delay);
        }
        self.complete_join(cx);
    }

    /// The time to ask for assignments is over: those who have not are gone.
    pub fn sync_due(&mut self, cx: &mut Context<'_>) {
        if !matches!(
            self.state,
            State::CompletingRebalance { .. } | State::Stable
        ) {
            return;
        }
        let missing: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.pending_sync)
            .map(|member| member.id.clone())
            .collect();
        if missing.is_empty() {
            return;
        }
        for member_id in &missing {
            self.remove(cx, member_id);
        }
        self.prepare_rebalance(cx);
    }

    /// The session of a member, or the time of a pending one, is over.
    pub fn session_due(&mut self, cx: &mut Context<'_>, member_id: &str) {
        let waits = match self.members.get(member_id) {
            Some(member) => member.is_waiting(),
            None => !self.pending.contains(member_id),
        };
        if waits {
            return;
        }
        let was_pending = self.pending.contains(member_id);
        self.remove(cx, member_id);
        if was_pending {
            self.maybe_complete_join(cx);
        } else {
            self.rebalance_or_complete_join(cx);
        }
    }

    /// After loading: every member has its session timeout to be heard of.
    pub fn arm_sessions(&self, cx: &mut Context<'_>) {
        for (member_id, member) in &self.members {
            cx.schedule_session(member_id, millis(member.session_timeout_ms));
        }
    }

    /// Sends all who wait away: this coordinator serves the group no longer.
    pub fn resign(&mut self, cx: &mut Context<'_>) {
        self.awaiting_join = 0;
        for member in self.members.values_mut() {
            if let Some(parked) = member.awaiting_join.take() {
                let error_code = error::NOT_COORDINATOR;
                let body = join_error(parked.version, error_code, StrBytes::from(&*member.id));
                cx.reply(parked, body);
            }
            if let Some(parked) = member.awaiting_sync.take() {
                cx.reply(parked, sync_error(parked.version, error::NOT_COORDINATOR));
            }
        }
    }

    // ---- Rebalance ----

    fn rebalance_or_complete_join(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.maybe_complete_join(cx),
            _ => self.prepare_rebalance(cx),
        }
    }

    fn prepare_rebalance(&mut self, cx: &mut Context<'_>) {
        if matches!(self.state, State::CompletingRebalance { .. }) {
            self.withdraw_assignments(cx, error::REBALANCE_IN_PROGRESS);
        }
        for member in self.members.values_mut() {
            member.pending_sync = false;
        }
        cx.timers.cancel(&TimerKey::Sync(cx.group_id.clone()));
        let rebalance_timeout = self.rebalance_timeout();
        if self.state == State::Empty {
            let delay = cx.config.initial_rebalance_delay;
            let initial = Some(InitialDelay {
                delay,
                remaining: rebalance_timeout.saturating_sub(delay),
                member_added: false,
            });
            self.set_state(cx.now, State::PreparingRebalance { initial });
            return cx.schedule_rebalance(delay);
        }
        self.set_state(cx.now, State::PreparingRebalance { initial: None });
        if self.has_all_joined() {
            self.complete_join(cx);
        } else {
            cx.schedule_rebalance(rebalance_timeout);
        }
    }

    fn maybe_complete_join(&mut self, cx: &mut Context<'_>) {
        if self.state == (State::PreparingRebalance { initial: None }) && self.has_all_joined() {
            self.complete_join(cx);
        }
    }

    /// Ends the joining: whoever has joined makes the next generation.
    fn complete_join(&mut self, cx: &mut Context<'_>) {
        cx.timers.cancel(&TimerKey::Rebalance(cx.group_id.clone()));
        let missing: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for member_id in &missing {
            self.remove(cx, member_id);
        }
        if !self.elect_leader() && !self.members.is_empty() {
            // Only static members are left, and none has joined: wait for them until their sessions end.
            let delay = self.rebalance_timeout().max(REBALANCE_RETRY_MIN);
            self.state = State::PreparingRebalance { initial: None };
            return cx.schedule_rebalance(delay);
        }
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.subscribed = self.subscribed_topics();
            self.set_state(cx.now, State::Empty);
            let record = self.record(cx.group_id);
            cx.write(vec![record]);
            return;
        }
        self.protocol = self.select_protocol();
        self.subscribed = self.subscribed_topics();
        self.set_state(cx.now, State::CompletingRebalance { assigning: false });
        let mut joined = Vec::with_capacity(self.awaiting_join);
        for member in self.members.values_mut() {
            member.pending_sync = true;
            if let Some(parked) = member.awaiting_join.take() {
                member.is_new = false;
                joined.push((member.id.clone(), parked));
            }
            cx.schedule_session(&member.id, millis(member.session_timeout_ms));
        }
        self.awaiting_join = 0;
        for (member_id, parked) in joined {
            let body = self.joined(parked.version, &member_id, false);
            cx.reply(parked, body);
        }
        let sync_due = cx.now.elapsed + self.rebalance_timeout().max(REBALANCE_RETRY_MIN);
        let key = TimerKey::Sync(cx.group_id.clone());
        cx.timers.schedule(key, sync_due);
    }

    /// Sends those who wait for their assignments away.
    fn withdraw_assignments(&mut self, cx: &mut Context<'_>, error_code: i16) {
        for member in self.members.values_mut() {
            self.bytes -= member.assignment.len();
            member.assignment = Bytes::new();
            if let Some(parked) = member.awaiting_sync.take() {
                cx.reply(parked, sync_error(parked.version, error_code));
                cx.schedule_session(&member.id, millis(member.session_timeout_ms));
            }
        }
    }

    /// Makes a member that has joined the leader, if the leader has not. `false`: there is none.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &Arc<str>| {
            self.members
                .get(id)
                .is_some_and(|member| member.awaiting_join.is_some())
        };
        if !self.leader.as_ref().is_some_and(has_joined) {
            self.leader = self.members.keys().find(|id| has_joined(id)).cloned();
        }
        self.leader.is_some()
    }

    /// The protocol that all members offer and most of them prefer; among equals the one the leader prefers.
    fn select_protocol(&self) -> Option<Arc<str>> {
        let candidates: BTreeSet<Arc<str>> = self
            .supported
            .iter()
            .filter(|(_, count)| **count == self.members.len())
            .map(|(name, _)| name.clone())
            .collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(name) = member.vote(&candidates) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        leader
            .into_iter()
            .flat_map(|leader| &leader.protocols)
            .map(|protocol| &protocol.name)
            .find(|name| votes.get(name) == Some(&most))
            .cloned()
    }

    // ---- Members ----

    fn put_in(&mut self, member: Member) {
        for protocol in &member.protocols {
            *self.supported.entry(protocol.name.clone()).or_default() += 1;
        }
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.bytes += member.bytes();
        if let Some(instance_id) = &member.instance_id {
            self.static_members
                .insert(instance_id.clone(), member.id.clone());
        }
        let previous = self.members.insert(member.id.clone(), member);
        assert!(previous.is_none(), "a member is put in once");
    }

    fn take_out(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        for protocol in &member.protocols {
            if let Some(count) = self.supported.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(&protocol.name);
                }
            }
        }
        self.awaiting_join -= usize::from(member.awaiting_join.is_some());
        self.bytes -= member.bytes();
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        Some(member)
    }

    /// Removes a member or a pending one for good.
    fn remove(&mut self, cx: &mut Context<'_>, member_id: &str) {
        self.forget_pending(member_id);
        let member_id: Arc<str> = member_id.into();
        cx.cancel_session(&member_id);
        let Some(member) = self.take_out(&member_id) else {
            return;
        };
        // A client that is still there starts anew.
        if let Some(parked) = member.awaiting_join {
            let error_code = error::UNKNOWN_MEMBER_ID;
            let body = join_error(parked.version, error_code, StrBytes::default());
            cx.reply(parked, body);
        }
        if let Some(parked) = member.awaiting_sync {
            cx.reply(parked, sync_error(parked.version, error::UNKNOWN_MEMBER_ID));
        }
        if self.leader.as_ref() == Some(&member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn forget_pending(&mut self, member_id: &str) {
        if self.pending.remove(member_id) {
            self.bytes -= pending_bytes(member_id);
        }
    }

    /// The id of a member that a request names, or why the request is refused.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<Arc<str>, i16> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(error::UNKNOWN_MEMBER_ID),
                Some(current) if **current != *member_id => {
                    return Err(error::FENCED_INSTANCE_ID);
                }
                Some(_) => {}
            }
        }
        self.members
            .get_key_value(member_id)
            .map(|(id, _)| id.clone())
            .ok_or(error::UNKNOWN_MEMBER_ID)
    }

    /// Whether another member may join (`group.max.size`). While members rejoin it is their number that counts: if the
    /// bound was lowered, the last to come are left out.
    fn has_room_for(&self, config: &GroupConfig, member_id: &str) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance { .. } => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join < config.members_max
            }
            State::CompletingRebalance { .. } | State::Stable => {
                member.is_some() || self.members.len() < config.members_max
            }
        }
    }

    /// Whether a joining member has a protocol in common with all others.
    fn supports(&self, request: &JoinGroupRequest) -> bool {
        if self.state == State::Empty {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type() == request.protocol_type.as_str()
            && request.protocols.iter().any(|protocol| {
                let count = self.supported.get(protocol.name.as_str());
                count.copied().unwrap_or(0) == self.members.len()
            })
    }

    fn has_all_joined(&self) -> bool {
        self.awaiting_join == self.members.len() && self.pending.is_empty()
    }

    fn rebalance_timeout(&self) -> Duration {
        let longest = self
            .members
            .values()
            .map(|member| member.rebalance_timeout_ms)
            .max();
        millis(longest.unwrap_or(0))
    }

    fn set_state(&mut self, now: Now, state: State) {
        self.state = state;
        self.state_since_ms = Some(now.unix_ms);
    }

    // ---- Offsets ----

    /// Whether a commit by this member in this generation is to be accepted: the error code if not. A commit keeps the
    /// member's session.
    pub fn check_commit(
        &self,
        cx: &mut Context<'_>,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> i16 {
        // A client that assigns partitions by itself, or an administrator.
        if generation < 0 && self.state == State::Empty {
            return error::NONE;
        }
        let member_id = match self.check_member(member_id, instance_id) {
            Ok(member_id) => member_id,
            Err(error_code) => return error_code,
        };
        if generation != self.generation {
            return error::ILLEGAL_GENERATION;
        }
        match self.state {
            // It knows the generation from its JoinGroup, but not yet what it may read.
            State::CompletingRebalance { .. } => error::REBALANCE_IN_PROGRESS,
            _ => {
                self.keep_session(cx, &member_id);
                error::NONE
            }
        }
    }

    /// Whether offsets may be deleted one by one: the error code if not.
    pub fn check_offset_delete(&self) -> i16 {
        match self.state {
            State::Empty => error::NONE,
            _ if self.protocol_type() == CONSUMER_PROTOCOL_TYPE => error::NONE,
            _ => error::NON_EMPTY_GROUP,
        }
    }

    /// Whether a member reads this topic, or may.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.protocol_type() == CONSUMER_PROTOCOL_TYPE,
        }
    }

    /// Whether a committed offset has outlived its use (KIP-211): the retention counts from when the group became
    /// empty, or from the commit if nobody ever joined, or if the members read other topics now.
    pub fn has_expired(
        &self,
        topic: &str,
        committed: &CommittedOffset,
        now_ms: i64,
        retention_ms: i64,
    ) -> bool {
        let committed_ms = committed.commit_timestamp_ms;
        let since_ms = match (&self.protocol_type, &self.state) {
            (None, _) => committed_ms,
            (Some(_), State::Empty) => self.state_since_ms.unwrap_or(committed_ms),
            (Some(_), State::Stable) if self.subscribed.is_some() => committed_ms,
            _ => return false,
        };
        !self.is_subscribed_to(topic)
            && match committed.expire_timestamp_ms {
                Some(expire_ms) => now_ms >= expire_ms,
                None => now_ms.saturating_sub(since_ms) >= retention_ms,
            }
    }

    fn subscribed_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        if self.protocol_type() != CONSUMER_PROTOCOL_TYPE {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref());
            subscription::add_topics(&metadata, &mut topics)?;
        }
        Some(topics)
    }

    // ---- Description ----

    /// Its part of a DescribeGroups response. Subscriptions and assignments are told of stable groups only.
    pub fn describe(&self, version: i16) -> DescribedGroup {
        let is_stable = self.state == State::Stable;
        let mut group = DescribedGroup::default();
        group.group_state = StrBytes::from(self.state.name());
        group.protocol_type = StrBytes::from(self.protocol_type());
        if is_stable {
            group.protocol_data = StrBytes::from(self.protocol.as_deref().unwrap_or_default());
        }
        for member in self.members.values() {
            let mut part = DescribedGroupMember::default();
            part.member_id = StrBytes::from(&*member.id);
            part.group_instance_id = (version >= 4)
                .then_some(member.instance_id.as_deref())
                .flatten()
                .map(StrBytes::from);
            part.client_id = StrBytes::from(&*member.client_id);
            part.client_host = StrBytes::from(&*member.client_host);
            if is_stable {
                part.member_metadata = member.metadata(self.protocol.as_deref());
                part.member_assignment = member.assignment.clone();
            }
            group.members.push(part);
        }
        group
    }
}

/// A duration given by a client; negative ones count as none.
fn millis(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}

fn pending_bytes(member_id: &str) -> usize {
    256 + member_id.len()
}

/// A member id: `prefix` and a random (version 4) UUID drawn from `random`.
fn new_member_id(prefix: &str, random: u64) -> Arc<str> {
    let mut end = prefix.len().min(CLIENT_ID_BYTES_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    // The second half: one step of SplitMix64 from the first.
    let mut low = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    low = (low ^ (low >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    low = (low ^ (low >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    low ^= low >> 31;
    format!(
        "{}-{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        &prefix[..end],
        random >> 32,
        (random >> 16) & 0xffff,
        random & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_ids_are_a_short_prefix_and_a_uuid() {
        let id = new_member_id("app", 0x0123_4567_89ab_cdef);
        let uuid = id.strip_prefix("app-").unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[..18], "01234567-89ab-4def");
        assert_ne!(id, new_member_id("app", 0x0123_4567_89ab_cdee));
        let long = "ü".repeat(CLIENT_ID_BYTES_MAX);
        assert_eq!(new_member_id(&long, 1).len(), CLIENT_ID_BYTES_MAX + 37);
    }
}
