//! The coordinator of the groups of one partition of `__consumer_offsets`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::delete_groups_response::DeletableGroupResult;
use kafka_wire::leave_group_response::MemberResponse;
use kafka_wire::list_groups_response::ListedGroup;
use kafka_wire::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::{
    DeleteGroupsResponse, DescribeGroupsResponse, JoinGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetDeleteResponse,
};
use kafka_wire_core::StrBytes;
use millstream_storage::Now;

use super::classic::{ClassicGroup, Context, State};
use super::config::{
    EXPIRY_GROUPS_PER_STEP, EXPIRY_STEP_INTERVAL, GROUP_BYTES, GroupConfig, PROTOCOLS_MAX,
};
use super::member::{MEMBER_BYTES, Parked};
use super::offsets::{OFFSET_BYTES, Offsets};
use super::record::{CommittedOffset, Record, RecordError};
use super::request::{self, GroupRequest, Refused, RequestKind, encode, join_error};
use super::timer::{TimerKey, Timers};
use super::write::{Then, Writes};
use super::{ClientInfo, GroupEffect, RequestRef, WriteId, error, reply};

/// The operations on a group that a client may do when nothing forbids them, as bits of Kafka's codes: READ (3),
/// DELETE (6), DESCRIBE (8), DESCRIBE_CONFIGS (10), ALTER_CONFIGS (11).
const AUTHORIZED_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// Bytes that a record takes in a batch beside its key and value, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// One group: how its members are coordinated, and the offsets it committed.
#[derive(Debug)]
struct Group {
    classic: ClassicGroup,
    offsets: Offsets,
    /// The log holds a record of the group, which a tombstone has to delete.
    recorded: bool,
    /// The last write that concerns it, while it is under way.
    in_flight: Option<WriteId>,
    /// Its part in the coordinator's count of bytes.
    counted: usize,
}

impl Group {
    fn new(now_ms: i64) -> Self {
        Group {
            classic: ClassicGroup::new(now_ms),
            offsets: Offsets::default(),
            recorded: false,
            in_flight: None,
            counted: 0,
        }
    }

    /// Whether nothing would be lost with it.
    fn is_void(&self) -> bool {
        self.classic.is_deserted()
            && !self.recorded
            && self.in_flight.is_none()
            && self.offsets.is_empty()
    }

    /// The records that delete everything about it, the group itself last.
    fn tombstones(&self, group_id: &Arc<str>) -> Vec<Record> {
        let mut records: Vec<Record> = self
            .offsets
            .iter()
            .map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition))
            .collect();
        if self.recorded {
            records.push(Record::GroupMetadata {
                group: group_id.clone(),
                value: None,
            });
        }
        records
    }
}

/// The coordinator of one partition's groups. See the module's documentation for how it is called.
#[derive(Debug)]
pub struct Coordinator {
    config: GroupConfig,
    groups: BTreeMap<Arc<str>, Group>,
    timers: Timers,
    writes: Writes,
    bytes: usize,
    is_loaded: bool,
    expiry_due: Duration,
    /// Where the next step of a round of offset expiry begins, while one is under way.
    expiry_cursor: Option<Arc<str>>,
}

impl Coordinator {
    /// A coordinator that knows nothing yet.
    pub fn new(config: GroupConfig) -> Self {
        Coordinator {
            config,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            writes: Writes::default(),
            bytes: 0,
            is_loaded: false,
            expiry_due: Duration::MAX,
            expiry_cursor: None,
        }
    }

    /// Replays one record of the log. Records of unknown kinds are left alone.
    pub fn load(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), RecordError> {
        assert!(!self.is_loaded, "records are loaded before requests come");
        let Some(record) = Record::decode(key, value)? else {
            return Ok(());
        };
        let group_id = record.group().clone();
        match record {
            Record::OffsetCommit {
                topic,
                partition,
                value,
                ..
            } => self.replay_offset(&group_id, &topic, partition, value),
            Record::GroupMetadata { value, .. } => {
                let group = self.group_or_new(&group_id, 0);
                group.recorded = value.is_some();
                group.classic =
                    value.map_or_else(|| ClassicGroup::new(0), ClassicGroup::from_record);
            }
        }
        self.settle(&group_id);
        Ok(())
    }

    /// The log has been replayed: requests are served from now on, and sessions begin anew.
    pub fn loaded(&mut self, now: Now) {
        self.is_loaded = true;
        self.expiry_due = now.elapsed + self.config.expiry_interval;
        let mut effects = Vec::new();
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.with_group(now, group_id, &mut effects, |group, cx| {
                group.arm_sessions(cx)
            });
        }
        assert!(effects.is_empty(), "to arm a session asks for nothing");
    }

    /// Handles a request. `random` makes the id of a new member, and has to differ from request to request.
    pub fn handle(
        &mut self,
        now: Now,
        request: GroupRequest,
        reference: RequestRef,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        if !self.is_loaded {
            let error_code = match request.kind {
                // The session will begin when the group is loaded.
                RequestKind::Heartbeat(_) => error::NONE,
                _ => error::COORDINATOR_LOAD_IN_PROGRESS,
            };
            let body = request.error_reply(error_code);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        if let Some(write) = self.has_to_wait_for(&request) {
            let then = Then::Handle {
                reference,
                request: Box::new(request),
                client: client.clone(),
            };
            return self.writes.then(write, then);
        }
        let version = request.version;
        let parked = Parked { reference, version };
        let reply = |body| GroupEffect::Reply { reference, body };
        match request.kind {
            RequestKind::Join(request) => self.join(now, &request, parked, client, random, effects),
            RequestKind::Sync(sync) => {
                let group_id = sync.group_id.clone();
                let found = self.with_group(now, &group_id, effects, |group, cx| {
                    group.sync(cx, &sync, parked)
                });
                if found.is_none() {
                    let error_code = no_such_group(&group_id, error::UNKNOWN_MEMBER_ID);
                    effects.push(reply(request::sync_error(version, error_code)));
                }
            }
            RequestKind::Heartbeat(heartbeat) => {
                let instance_id = heartbeat.group_instance_id.as_deref();
                let generation = heartbeat.generation_id;
                let error_code = self
                    .with_group(now, &heartbeat.group_id, effects, |group, cx| {
                        group.heartbeat(cx, &heartbeat.member_id, instance_id, generation)
                    })
                    .unwrap_or_else(|| {
                        no_such_group(&heartbeat.group_id, error::UNKNOWN_MEMBER_ID)
                    });
                effects.push(reply(request::heartbeat(version, error_code)));
            }
            RequestKind::Leave(_) => self.leave(now, request, reference, effects),
            RequestKind::OffsetCommit { .. } => {
                self.commit_offsets(now, request, reference, effects)
            }
            RequestKind::OffsetFetch { groups, .. } => {
                effects.push(reply(self.fetch_offsets(version, &groups)));
            }
            RequestKind::OffsetDelete { .. } => {
                self.delete_offsets(now, request, reference, effects)
            }
            RequestKind::Describe(describe) => {
                let mut response = DescribeGroupsResponse::default();
                for group_id in describe.groups {
                    let with_operations = describe.include_authorized_operations;
                    let group = self.describe(version, group_id, with_operations);
                    response.groups.push(group);
                }
                effects.push(reply(encode(version, &response)));
            }
            RequestKind::List(list) => effects.push(reply(self.list(version, &list))),
            RequestKind::Delete(_) => self.delete_groups(request, reference, effects),
        }
    }

    /// Does what has fallen due.
    pub fn expire(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        while let Some(key) = self.timers.pop_due(now.elapsed) {
            match &key {
                TimerKey::Rebalance(id) => {
                    self.with_group(now, id, effects, |group, cx| group.rebalance_due(cx))
                }
                TimerKey::Sync(id) => {
                    self.with_group(now, id, effects, |group, cx| group.sync_due(cx))
                }
                TimerKey::Session(id, member) => {
                    self.with_group(now, id, effects, |group, cx| group.session_due(cx, member))
                }
            };
        }
        if self.is_loaded && self.expiry_due <= now.elapsed {
            self.expire_offsets(now, effects);
        }
    }

    /// When [`Coordinator::expire`] is to be called, in [`Now::elapsed`]'s time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let expiry = self.is_loaded.then_some(self.expiry_due);
        self.timers.next().into_iter().chain(expiry).min()
    }

    /// A write is durable: its records are replayed, and requests that waited for it answered.
    pub fn committed(&mut self, now: Now, write: WriteId, effects: &mut Vec<GroupEffect>) {
        let ended = self.writes.end(write);
        for record in ended.records {
            let group_id = record.group().clone();
            match record {
                Record::OffsetCommit {
                    topic,
                    partition,
                    value,
                    ..
                } => self.replay_offset(&group_id, &topic, partition, value),
                Record::GroupMetadata { value, .. } => {
                    // The members are here already. But if the group was deleted and nobody has come since, it is
                    // gone.
                    let is_deleted = value.is_none();
                    let group = self.group_or_new(&group_id, now.unix_ms);
                    group.recorded = !is_deleted;
                    if is_deleted && group.classic.is_deserted() {
                        group.classic = ClassicGroup::new(now.unix_ms);
                    }
                }
            }
            self.landed(write, &group_id);
        }
        for then in ended.then {
            self.proceed(now, then, error::NONE, effects);
        }
    }

    /// A write failed with this error code of Kafka's and left nothing behind.
    pub fn write_failed(
        &mut self,
        now: Now,
        write: WriteId,
        error_code: i16,
        effects: &mut Vec<GroupEffect>,
    ) {
        assert_ne!(error_code, error::NONE, "a failure has an error code");
        let ended = self.writes.end(write);
        for record in &ended.records {
            self.landed(write, record.group());
        }
        for then in ended.then {
            self.proceed(now, then, error::for_failed_write(error_code), effects);
        }
    }

    /// Topics were deleted: forgets what was committed for them.
    pub fn topics_deleted(&mut self, topics: &[Arc<str>], effects: &mut Vec<GroupEffect>) {
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.forget_topics(group_id, topics, effects);
        }
    }

    /// Answers everything that waits with NOT_COORDINATOR: the broker stops, or another serves these groups now. The
    /// coordinator is not to be asked anything after that.
    pub fn resign(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.with_group(now, group_id, effects, |group, cx| group.resign(cx));
        }
        for then in self.writes.take_waiting() {
            if let Then::Reply {
                reference, request, ..
            }
            | Then::Handle {
                reference, request, ..
            } = then
            {
                let body = request.error_reply(error::NOT_COORDINATOR);
                effects.push(GroupEffect::Reply { reference, body });
            }
        }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// How many members all groups have.
    pub fn members(&self) -> usize {
        self.groups
            .values()
            .map(|group| group.classic.members().len())
            .sum()
    }

    /// The memory the groups take, in the count that [`GroupConfig::state_bytes_max`] bounds.
    pub fn state_bytes(&self) -> usize {
        self.bytes
    }

    /// Writes that have not ended.
    pub fn writes_under_way(&self) -> usize {
        self.writes.len()
    }

    /// The records that would bring a new coordinator to this one's durable state.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (group_id, group) in &self.groups {
            if group.recorded {
                records.push(group.classic.record(group_id));
            }
            for (topic, partition, committed) in group.offsets.iter() {
                records.push(Record::OffsetCommit {
                    group: group_id.clone(),
                    topic: topic.clone(),
                    partition,
                    value: Some(committed.clone()),
                });
            }
        }
        records
    }

    #[cfg(test)]
    pub fn check_invariants(&self) {
        let mut bytes = 0;
        for (group_id, group) in &self.groups {
            assert_eq!(group.classic.bytes(), group.classic.recount(), "{group_id}");
            assert!(!group.is_void(), "{group_id} is kept for nothing");
            group.classic.check_invariants();
            bytes += GROUP_BYTES + group_id.len() + group.classic.bytes() + group.offsets.bytes();
        }
        assert_eq!(bytes, self.bytes);
    }

    /// Whether no rebalance of this group is under way.
    #[cfg(test)]
    pub fn is_settled(&self, group_id: &str) -> bool {
        self.groups.get(group_id).is_none_or(|group| {
            group.in_flight.is_none()
                && matches!(group.classic.state(), State::Empty | State::Stable)
        })
    }

    // ---- Groups ----

    /// Works on a group's members, if there is such a group.
    fn with_group<R>(
        &mut self,
        now: Now,
        group_id: &str,
        effects: &mut Vec<GroupEffect>,
        work: impl FnOnce(&mut ClassicGroup, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let (id, _) = self.groups.get_key_value(group_id)?;
        let id = id.clone();
        let group = self.groups.get_mut(&id)?;
        let mut cx = Context {
            now,
            config: &self.config,
            group_id: &id,
            in_flight: &mut group.in_flight,
            timers: &mut self.timers,
            writes: &mut self.writes,
            effects,
        };
        let result = work(&mut group.classic, &mut cx);
        self.settle(&id);
        Some(result)
    }

    fn group_or_new(&mut self, group_id: &Arc<str>, now_ms: i64) -> &mut Group {
        self.groups
            .entry(group_id.clone())
            .or_insert_with(|| Group::new(now_ms))
    }

    /// After a change to a group: counts its memory, and forgets it if nothing is left.
    fn settle(&mut self, group_id: &str) {
        let Some(group) = self.groups.get_mut(group_id) else {
            return;
        };
        self.bytes -= group.counted;
        if group.is_void() {
            self.groups.remove(group_id);
            return;
        }
        group.counted =
            GROUP_BYTES + group_id.len() + group.classic.bytes() + group.offsets.bytes();
        self.bytes += group.counted;
    }

    /// Whether these bytes can be added.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.config.state_bytes_max
    }

    /// Whether another group can be added.
    fn has_room_for_group(&self, group_id: &str) -> bool {
        self.groups.len() < self.config.groups_max
            && self.has_room_for(GROUP_BYTES + group_id.len())
    }

    fn replay_offset(
        &mut self,
        group_id: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
        value: Option<CommittedOffset>,
    ) {
        if value.is_none() && !self.groups.contains_key(group_id) {
            return;
        }
        let now_ms = value.as_ref().map_or(0, |value| value.commit_timestamp_ms);
        let group = self.group_or_new(group_id, now_ms);
        group.offsets.replay(topic, partition, value);
    }

    // ---- Writes ----

    /// A write has ended as far as this group is concerned.
    fn landed(&mut self, write: WriteId, group_id: &str) {
        if let Some(group) = self.groups.get_mut(group_id)
            && group.in_flight == Some(write)
        {
            group.in_flight = None;
        }
        self.settle(group_id);
    }

    /// Does what was to follow a write, which ended with this error code.
    fn proceed(&mut self, now: Now, then: Then, error_code: i16, effects: &mut Vec<GroupEffect>) {
        match then {
            Then::Reply {
                reference,
                body,
                request,
            } => {
                let body = match (error_code, &request.kind) {
                    (error::NONE, _) => body,
                    (error::UNKNOWN_SERVER_ERROR, RequestKind::OffsetCommit { .. }) => {
                        request.error_reply(error::INVALID_COMMIT_OFFSET_SIZE)
                    }
                    (error_code, _) => request.error_reply(error_code),
                };
                effects.push(GroupEffect::Reply { reference, body });
            }
            Then::Handle {
                reference,
                request,
                client,
            } => self.handle(now, *request, reference, &client, 0, effects),
            Then::Assign {
                group,
                generation,
                assignments,
            } => {
                self.with_group(now, &group, effects, |group, cx| {
                    group.assigned(cx, generation, assignments, error_code)
                });
            }
            Then::StaticJoin {
                group,
                member,
                parked,
                leader_before,
            } => {
                self.with_group(now, &group, effects, |group, cx| {
                    group.static_joined(cx, &member, parked, leader_before, error_code)
                });
            }
            Then::ForgetTopics { group, topics } => self.forget_topics(&group, &topics, effects),
        }
    }

    /// Writes records of one group, in as many writes as their size asks for; the last of them, if any.
    fn write_all(
        &mut self,
        group_id: &Arc<str>,
        records: Vec<Record>,
        effects: &mut Vec<GroupEffect>,
    ) -> Option<WriteId> {
        let mut last = None;
        let mut part = Vec::new();
        let mut bytes = 0;
        for record in records {
            let length = record_bytes(&record);
            if bytes + length > self.config.write_bytes_max && !part.is_empty() {
                last = Some(self.writes.start(std::mem::take(&mut part), effects));
                bytes = 0;
            }
            bytes += length;
            part.push(record);
        }
        if !part.is_empty() {
            last = Some(self.writes.start(part, effects));
        }
        if let Some(group) = self.groups.get_mut(group_id)
            && last.is_some()
        {
            group.in_flight = last;
        }
        last
    }

    /// The write that has to end before a request can be handled: one that deletes has to see what is being committed,
    /// and so has a fetch that asks for stable offsets.
    fn has_to_wait_for(&self, request: &GroupRequest) -> Option<WriteId> {
        let in_flight = |group_id: &str| self.groups.get(group_id)?.in_flight;
        match &request.kind {
            RequestKind::OffsetFetch {
                groups,
                require_stable: true,
            } => groups
                .iter()
                .filter_map(|group| in_flight(&group.group_id))
                .max(),
            RequestKind::OffsetDelete { request, .. } => in_flight(&request.group_id),
            RequestKind::Delete(request) => request
                .groups_names
                .iter()
                .filter_map(|group_id| in_flight(group_id))
                .max(),
            _ => None,
        }
    }

    // ---- Members ----

    fn join(
        &mut self,
        now: Now,
        request: &JoinGroupRequest,
        parked: Parked,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        if let Err(error_code) = self.admit(now, request) {
            let body = join_error(parked.version, error_code, request.member_id.clone());
            let reference = parked.reference;
            return effects.push(GroupEffect::Reply { reference, body });
        }
        self.with_group(now, &request.group_id, effects, |group, cx| {
            group.join(cx, request, parked, client, random)
        })
        .expect("a group that admits a member is there");
    }

    /// Checks a JoinGroup against the bounds, and makes its group if that is new.
    fn admit(&mut self, now: Now, request: &JoinGroupRequest) -> Result<(), i16> {
        let config = &self.config;
        let sessions = config.session_timeout_min_ms..=config.session_timeout_max_ms;
        let subscription_bytes: usize = request
            .protocols
            .iter()
            .map(|protocol| 64 + protocol.name.len() + protocol.metadata.len())
            .sum();
        if request.group_id.is_empty() {
            return Err(error::INVALID_GROUP_ID);
        }
        if !sessions.contains(&request.session_timeout_ms) {
            return Err(error::INVALID_SESSION_TIMEOUT);
        }
        if request.protocols.len() > PROTOCOLS_MAX
            || subscription_bytes > config.subscription_bytes_max
        {
            return Err(error::INVALID_REQUEST);
        }
        let group = self.groups.get(request.group_id.as_str());
        if group.is_none() && !request.member_id.is_empty() {
            return Err(error::UNKNOWN_MEMBER_ID);
        }
        let member = group.and_then(|group| group.classic.members().get(&*request.member_id));
        let names = request
            .group_instance_id
            .as_ref()
            .map_or(0, |id| 3 * id.len());
        let needed = MEMBER_BYTES + subscription_bytes + names + request.member_id.len();
        let held = member.map_or(0, |member| member.bytes());
        if needed > held && !self.has_room_for(needed - held) {
            return Err(error::GROUP_MAX_SIZE_REACHED);
        }
        if group.is_none() {
            if !self.has_room_for_group(&request.group_id) {
                return Err(error::POLICY_VIOLATION);
            }
            let group_id = Arc::from(request.group_id.as_str());
            self.group_or_new(&group_id, now.unix_ms);
        }
        Ok(())
    }

    fn leave(
        &mut self,
        now: Now,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::Leave(leave) = &request.kind else {
            unreachable!("the caller has looked")
        };
        let mut response = LeaveGroupResponse::default();
        if leave.group_id.is_empty() {
            response.error_code = error::INVALID_GROUP_ID;
            let body = encode(version, &response);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let left = self.with_group(now, &leave.group_id, effects, |group, cx| {
            let before = group.members().len();
            let write_before = *cx.in_flight;
            let results: Vec<i16> = leave
                .members
                .iter()
                .map(|member| {
                    let instance_id = member.group_instance_id.as_deref();
                    group.leave(cx, &member.member_id, instance_id)
                })
                .collect();
            group.left(cx, group.members().len() < before);
            let write = *cx.in_flight;
            (results, write.filter(|_| write != write_before))
        });
        let (results, write) =
            left.unwrap_or_else(|| (vec![error::UNKNOWN_MEMBER_ID; leave.members.len()], None));
        if version < 3 {
            response.error_code = results.first().copied().unwrap_or(error::NONE);
        } else {
            for (member, error_code) in leave.members.iter().zip(results) {
                let mut part = MemberResponse::default();
                part.member_id = member.member_id.clone();
                part.group_instance_id = member.group_instance_id.clone();
                part.error_code = error_code;
                response.members.push(part);
            }
        }
        let body = encode(version, &response);
        self.reply_after(write, reference, body, request, effects);
    }

    /// Answers when the write is durable, or at once without one.
    fn reply_after(
        &mut self,
        write: Option<WriteId>,
        reference: RequestRef,
        body: Bytes,
        request: GroupRequest,
        effects: &mut Vec<GroupEffect>,
    ) {
        match write {
            Some(write) => {
                let request = Box::new(request);
                let then = Then::Reply {
                    reference,
                    body,
                    request,
                };
                self.writes.then(write, then);
            }
            None => effects.push(GroupEffect::Reply { reference, body }),
        }
    }

    // ---- Offsets ----

    fn commit_offsets(
        &mut self,
        now: Now,
        mut request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::OffsetCommit {
            request: commit,
            refused,
        } = &mut request.kind
        else {
            unreachable!("the caller has looked")
        };
        let error_code = self.check_commit(now, version, commit, effects);
        if error_code != error::NONE {
            let body = request.error_reply(error_code);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let group_id: Arc<str> = commit.group_id.as_str().into();
        let records = self.offset_records(now, &group_id, commit, refused);
        let bytes: usize = records.iter().map(record_bytes).sum();
        if bytes > self.config.write_bytes_max {
            let body = request.error_reply(error::INVALID_COMMIT_OFFSET_SIZE);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let body = request::offset_commit(version, commit, |topic, partition| {
            refused
                .get(&(topic, partition))
                .copied()
                .unwrap_or(error::NONE)
        });
        if !records.is_empty() {
            self.group_or_new(&group_id, now.unix_ms);
        }
        let write = self.write_all(&group_id, records, effects);
        self.settle(&group_id);
        self.reply_after(write, reference, body, request, effects);
    }

    fn check_commit(
        &mut self,
        now: Now,
        version: i16,
        commit: &OffsetCommitRequest,
        effects: &mut Vec<GroupEffect>,
    ) -> i16 {
        let generation = commit.generation_id_or_member_epoch;
        let instance_id = commit.group_instance_id.as_deref();
        self.with_group(now, &commit.group_id, effects, |group, cx| {
            group.check_commit(cx, &commit.member_id, instance_id, generation)
        })
        .unwrap_or_else(|| {
            if generation >= 0 && version >= 9 {
                error::GROUP_ID_NOT_FOUND
            } else if generation >= 0 {
                error::ILLEGAL_GENERATION
            } else if !self.has_room_for_group(&commit.group_id) {
                error::POLICY_VIOLATION
            } else {
                error::NONE
            }
        })
    }

    /// The records of a commit; partitions that cannot be committed are refused.
    fn offset_records(
        &self,
        now: Now,
        group_id: &Arc<str>,
        commit: &OffsetCommitRequest,
        refused: &mut Refused,
    ) -> Vec<Record> {
        let offsets = self.groups.get(group_id).map(|group| &group.offsets);
        let mut added_bytes = 0;
        let mut records = Vec::new();
        for (topic_at, topic) in commit.topics.iter().enumerate() {
            let name: Arc<str> = topic.name.as_str().into();
            for (at, partition) in topic.partitions.iter().enumerate() {
                if refused.contains_key(&(topic_at, at)) {
                    continue;
                }
                let index = partition.partition_index;
                let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
                // UTF-16 units are never more than bytes: most texts need no count.
                if metadata.len() > self.config.offset_metadata_max
                    && metadata.encode_utf16().count() > self.config.offset_metadata_max
                {
                    refused.insert((topic_at, at), error::OFFSET_METADATA_TOO_LARGE);
                    continue;
                }
                let held = offsets.and_then(|offsets| offsets.get(&name, index));
                let needed = match held {
                    Some(held) => metadata.len().saturating_sub(held.metadata.len()),
                    None => OFFSET_BYTES + name.len() + metadata.len(),
                };
                if needed > 0 && !self.has_room_for(added_bytes + needed) {
                    refused.insert((topic_at, at), error::POLICY_VIOLATION);
                    continue;
                }
                added_bytes += needed;
                records.push(Record::OffsetCommit {
                    group: group_id.clone(),
                    topic: name.clone(),
                    partition: index,
                    value: Some(CommittedOffset {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.into(),
                        commit_timestamp_ms: now.unix_ms,
                        expire_timestamp_ms: (commit.retention_time_ms != -1)
                            .then(|| now.unix_ms.saturating_add(commit.retention_time_ms)),
                    }),
                });
            }
        }
        records
    }

    fn fetch_offsets(&self, version: i16, groups: &[OffsetFetchRequestGroup]) -> Bytes {
        let groups = groups
            .iter()
            .map(|asked| {
                let group = self.groups.get(asked.group_id.as_str());
                reply::fetched_group(asked, group.map(|group| &group.offsets))
            })
            .collect();
        reply::offset_fetch(version, groups)
    }

    fn delete_offsets(
        &mut self,
        now: Now,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::OffsetDelete {
            request: delete,
            refused,
        } = &request.kind
        else {
            unreachable!("the caller has looked")
        };
        let error_code = match self.groups.get(delete.group_id.as_str()) {
            _ if delete.group_id.is_empty() => error::INVALID_GROUP_ID,
            Some(group) => group.classic.check_offset_delete(),
            None => error::GROUP_ID_NOT_FOUND,
        };
        if error_code != error::NONE {
            let body = request.error_reply(error_code);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let group_id: Arc<str> = delete.group_id.as_str().into();
        let group = self.group_or_new(&group_id, now.unix_ms);
        let mut records = Vec::new();
        let mut response = OffsetDeleteResponse::default();
        for (topic_at, topic) in delete.topics.iter().enumerate() {
            let name: Arc<str> = topic.name.as_str().into();
            let subscribed = group.classic.is_subscribed_to(&name);
            let mut answer = OffsetDeleteResponseTopic::default();
            answer.name = topic.name.clone();
            for (at, partition) in topic.partitions.iter().enumerate() {
                let index = partition.partition_index;
                let mut part = OffsetDeleteResponsePartition::default();
                part.partition_index = index;
                if let Some(error_code) = refused.get(&(topic_at, at)) {
                    part.error_code = *error_code;
                } else if subscribed {
                    part.error_code = error::GROUP_SUBSCRIBED_TO_TOPIC;
                } else if group.offsets.get(&name, index).is_some() {
                    records.push(offset_tombstone(&group_id, &name, index));
                }
                answer.partitions.push(part);
            }
            response.topics.push(answer);
        }
        let write = self.write_all(&group_id, records, effects);
        let body = encode(version, &response);
        self.reply_after(write, reference, body, request, effects);
    }

    fn forget_topics(
        &mut self,
        group_id: &Arc<str>,
        topics: &[Arc<str>],
        effects: &mut Vec<GroupEffect>,
    ) {
        let Some(group) = self.groups.get(group_id) else {
            return;
        };
        // What is being committed for these topics has to be forgotten too.
        if let Some(write) = group.in_flight {
            let then = Then::ForgetTopics {
                group: group_id.clone(),
                topics: topics.into(),
            };
            return self.writes.then(write, then);
        }
        let records = group
            .offsets
            .iter()
            .filter(|(topic, _, _)| topics.contains(topic))
            .map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition))
            .collect();
        self.write_all(group_id, records, effects);
    }

    /// One step of a round of offset expiry: some groups' offsets that have outlived their use, and groups of which
    /// nothing is left.
    fn expire_offsets(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        let from = self.expiry_cursor.take().unwrap_or_default();
        let step: Vec<Arc<str>> = self
            .groups
            .range(from..)
            .map(|(group_id, _)| group_id.clone())
            .take(EXPIRY_GROUPS_PER_STEP + 1)
            .collect();
        for group_id in step.iter().take(EXPIRY_GROUPS_PER_STEP) {
            let group = &self.groups[group_id];
            // What is being written may change the answer: the next round will see.
            if group.in_flight.is_some() {
                continue;
            }
            let retention_ms = self.config.offsets_retention_ms;
            let is_expired = |topic: &str, committed: &CommittedOffset| {
                let classic = &group.classic;
                classic.has_expired(topic, committed, now.unix_ms, retention_ms)
            };
            let all_expired = group
                .offsets
                .iter()
                .all(|(topic, _, committed)| is_expired(topic, committed));
            let records = if all_expired && group.classic.is_deserted() {
                group.tombstones(group_id)
            } else {
                group
                    .offsets
                    .iter()
                    .filter(|(topic, _, committed)| is_expired(topic, committed))
                    .map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition))
                    .collect()
            };
            self.write_all(group_id, records, effects);
        }
        self.expiry_cursor = step.get(EXPIRY_GROUPS_PER_STEP).cloned();
        self.expiry_due = now.elapsed
            + match self.expiry_cursor {
                Some(_) => EXPIRY_STEP_INTERVAL,
                None => self.config.expiry_interval,
            };
    }

    // ---- Administration ----

    fn describe(
        &self,
        version: i16,
        group_id: StrBytes,
        with_operations: bool,
    ) -> kafka_wire::describe_groups_response::DescribedGroup {
        let mut described = match self.groups.get(group_id.as_str()) {
            Some(group) => group.classic.describe(version),
            None => {
                let mut unknown = kafka_wire::describe_groups_response::DescribedGroup::default();
                unknown.group_state = StrBytes::from("Dead");
                // KIP-1043: before version 6 an unknown group is a dead one, without an error.
                if version >= 6 {
                    unknown.error_code = error::GROUP_ID_NOT_FOUND;
                    let message = format!("Group {group_id} not found.");
                    unknown.error_message = Some(StrBytes::from(message));
                }
                unknown
            }
        };
        described.group_id = group_id;
        if with_operations && version >= 3 {
            described.authorized_operations = AUTHORIZED_OPERATIONS;
        }
        described
    }

    fn list(&self, version: i16, list: &ListGroupsRequest) -> Bytes {
        let matches = |filter: &[StrBytes], name: &str| {
            let mut filter = filter.iter();
            filter.len() == 0 || filter.any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
        };
        let mut response = ListGroupsResponse::default();
        for (group_id, group) in &self.groups {
            let state = group.classic.state().name();
            if !matches(&list.states_filter, state) || !matches(&list.types_filter, GROUP_TYPE) {
                continue;
            }
            let mut listed = ListedGroup::default();
            listed.group_id = StrBytes::from(&**group_id);
            listed.protocol_type = StrBytes::from(group.classic.protocol_type());
            listed.group_state = StrBytes::from(state);
            listed.group_type = StrBytes::from(GROUP_TYPE);
            response.groups.push(listed);
        }
        encode(version, &response)
    }

    fn delete_groups(
        &mut self,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let RequestKind::Delete(delete) = &request.kind else {
            unreachable!("the caller has looked")
        };
        let mut response = DeleteGroupsResponse::default();
        let mut last_write = None;
        for name in &delete.groups_names {
            let mut result = DeletableGroupResult::default();
            result.group_id = name.clone();
            match self.groups.get_key_value(name.as_str()) {
                None => result.error_code = error::GROUP_ID_NOT_FOUND,
                Some((_, group)) if *group.classic.state() != State::Empty => {
                    result.error_code = error::NON_EMPTY_GROUP;
                }
                // Named twice: the first time has deleted it.
                Some((_, group)) if group.in_flight.is_some() => {}
                Some((group_id, group)) => {
                    let group_id = group_id.clone();
                    let records = group.tombstones(&group_id);
                    last_write = self.write_all(&group_id, records, effects).or(last_write);
                }
            }
            response.results.push(result);
        }
        let body = encode(request.version, &response);
        self.reply_after(last_write, reference, body, request, effects);
    }
}

/// Kafka's name of the kind of group that the classic protocol makes.
const GROUP_TYPE: &str = "classic";

fn offset_tombstone(group_id: &Arc<str>, topic: &Arc<str>, partition: i32) -> Record {
    Record::OffsetCommit {
        group: group_id.clone(),
        topic: topic.clone(),
        partition,
        value: None,
    }
}

/// An upper bound of what a committed offset, or a tombstone, takes in a batch.
fn record_bytes(record: &Record) -> usize {
    let payload = match record {
        Record::OffsetCommit {
            group,
            topic,
            value,
            ..
        } => {
            let metadata = value.as_ref().map_or(0, |value| value.metadata.len());
            42 + group.len() + topic.len() + metadata
        }
        Record::GroupMetadata { group, value } => {
            4 + group.len() + value.as_ref().map_or(0, |value| value.encoded_bytes())
        }
    };
    RECORD_OVERHEAD_BYTES + payload
}

/// The error code for a group that is not there.
fn no_such_group(group_id: &str, error_code: i16) -> i16 {
    if group_id.is_empty() {
        error::INVALID_GROUP_ID
    } else {
        error_code
    }
}
