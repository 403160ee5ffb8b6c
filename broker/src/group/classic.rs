//! A group of the classic protocol: its members elect a leader, which assigns; the coordinator keeps the generations.
//!
//! What lives here is soft: members, requests that wait, the state. It becomes durable when a rebalance ends: the
//! leader's SyncGroup writes the whole group as one record, and only when that is durable do members learn their
//! assignments. A coordinator that restarts finds the last such record and goes on in that generation.
//!
//! The rules are Kafka's, with static membership (KIP-345), members that must know their id (KIP-394) and the initial
//! delay (KIP-134).

mod join;
mod rebalance;
mod sync;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::JoinGroupRequest;
use kafka_wire_core::StrBytes;
use millstream_storage::Now;

use super::config::GroupConfig;
use super::member::{Member, Parked};
use super::record::{GroupMetadata, Record};
use super::request::{join_error, sync_error};
use super::timer::{TimerKey, Timers};
use super::write::Writes;
use super::{GroupEffect, WriteId, error};

/// The protocol type of consumers; their subscriptions can be read.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

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
    pub classic_write: &'a mut Option<WriteId>,
    pub timers: &'a mut Timers,
    pub writes: &'a mut Writes,
    pub effects: &'a mut Vec<GroupEffect>,
}

impl Context<'_> {
    fn reply(&mut self, parked: Parked, body: Bytes) {
        self.effects.push(GroupEffect::Reply { reference: parked.reference, body });
    }

    pub fn write(&mut self, records: Vec<Record>) -> WriteId {
        let write = self.writes.start(records, self.effects);
        *self.in_flight = Some(write);
        *self.classic_write = Some(write);
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
        group.protocol_type = (!metadata.protocol_type.is_empty()).then_some(metadata.protocol_type);
        group.protocol = metadata.protocol;
        for member in metadata.members {
            let member = Member::from_metadata(member, group.protocol.as_ref());
            // A record names each member once; one that does not is read as if its last word counted.
            group.take_out(&member.id.clone());
            group.put_in(member);
        }
        group.leader = metadata.leader.filter(|leader| group.members.contains_key(leader));
        if group.leader.is_none() {
            group.leader = group.members.keys().next().cloned();
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
        }
        group.subscribed = group.subscribed_topics();
        group
    }

    /// A stable group of consumers at this generation, which had no leader yet.
    pub fn of_consumers(generation: i32, members: impl Iterator<Item = Member>, now_ms: i64) -> Self {
        let mut group = ClassicGroup::new(now_ms);
        group.generation = generation;
        group.protocol_type = Some(CONSUMER_PROTOCOL_TYPE.into());
        members.for_each(|member| group.put_in(member));
        group.leader = group.members.keys().next().cloned();
        group.protocol = group.select_protocol();
        group.state = State::Stable;
        group.subscribed = group.subscribed_topics();
        group
    }

    /// The generation of the last rebalance that began.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The record of the group as it is, with these assignments.
    fn to_record(&self, group_id: &Arc<str>, assignment: impl Fn(&Member) -> Bytes) -> (Record, usize) {
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
        let record = Record::GroupMetadata { group: group_id.clone(), value: Some(metadata) };
        (record, bytes)
    }

    /// The record of the group as it is.
    pub fn record(&self, group_id: &Arc<str>) -> Record {
        self.to_record(group_id, |member| member.assignment.clone()).0
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

    fn put_in(&mut self, member: Member) {
        for protocol in &member.protocols {
            *self.supported.entry(protocol.name.clone()).or_default() += 1;
        }
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.bytes += member.bytes();
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
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
        self.members.get_key_value(member_id).map(|(id, _)| id.clone()).ok_or(error::UNKNOWN_MEMBER_ID)
    }

    /// Whether another member may join (`group.max.size`). While members rejoin it is their number that counts: if the
    /// bound was lowered, the last to come are left out.
    fn has_room_for(&self, config: &GroupConfig, member_id: &str) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance { .. } => {
                member.is_some_and(|member| member.awaiting_join.is_some()) || self.awaiting_join < config.members_max
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
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max();
        millis(longest.unwrap_or(0))
    }

    fn set_state(&mut self, now: Now, state: State) {
        self.state = state;
        self.state_since_ms = Some(now.unix_ms);
    }
}

/// A duration given by a client; negative ones count as none.
fn millis(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}

fn pending_bytes(member_id: &str) -> usize {
    256 + member_id.len()
}
