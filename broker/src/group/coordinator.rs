//! The coordinator of the groups of one partition of `__consumer_offsets`.

mod admin;
pub mod listing;
mod members;
mod offsets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::DescribeGroupsResponse;
use millstream_storage::Now;

use super::classic::{ClassicGroup, Context};
use super::config::{GROUP_BYTES, GroupConfig};
use super::member::Parked;
use super::offsets::Offsets;
use super::record::{CommittedOffset, Record, RecordError};
use super::request::{self, GroupRequest, RequestKind, encode};
use super::timer::{TimerKey, Timers};
use super::write::{Then, Writes};
use super::{ClientInfo, GroupEffect, RequestRef, WriteId, error};

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
        self.classic.is_deserted() && !self.recorded && self.in_flight.is_none() && self.offsets.is_empty()
    }

    /// The records that delete everything about it, the group itself last.
    fn tombstones(&self, group_id: &Arc<str>) -> Vec<Record> {
        let mut records: Vec<Record> =
            self.offsets.iter().map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition)).collect();
        if self.recorded {
            records.push(Record::GroupMetadata { group: group_id.clone(), value: None });
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
            Record::OffsetCommit { topic, partition, value, .. } => {
                self.replay_offset(&group_id, &topic, partition, value)
            }
            Record::GroupMetadata { value, .. } => {
                let group = self.group_or_new(&group_id, 0);
                group.recorded = value.is_some();
                group.classic = value.map_or_else(|| ClassicGroup::new(0), ClassicGroup::from_record);
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
            self.with_group(now, group_id, &mut effects, |group, cx| group.arm_sessions(cx));
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
            let then = Then::Handle { reference, request: Box::new(request), client: client.clone() };
            return self.writes.then(write, then);
        }
        let version = request.version;
        let parked = Parked { reference, version };
        let reply = |body| GroupEffect::Reply { reference, body };
        match request.kind {
            RequestKind::Join(request) => self.join(now, &request, parked, client, random, effects),
            RequestKind::Sync(sync) => {
                let group_id = sync.group_id.clone();
                let found = self.with_group(now, &group_id, effects, |group, cx| group.sync(cx, &sync, parked));
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
                    .unwrap_or_else(|| no_such_group(&heartbeat.group_id, error::UNKNOWN_MEMBER_ID));
                effects.push(reply(request::heartbeat(version, error_code)));
            }
            RequestKind::Leave(_) => self.leave(now, request, reference, effects),
            RequestKind::OffsetCommit { .. } => self.commit_offsets(now, request, reference, effects),
            RequestKind::OffsetFetch { groups, .. } => {
                effects.push(reply(self.fetch_offsets(version, &groups)));
            }
            RequestKind::OffsetDelete { .. } => self.delete_offsets(now, request, reference, effects),
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
                TimerKey::Rebalance(id) => self.with_group(now, id, effects, |group, cx| group.rebalance_due(cx)),
                TimerKey::Sync(id) => self.with_group(now, id, effects, |group, cx| group.sync_due(cx)),
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
                Record::OffsetCommit { topic, partition, value, .. } => {
                    self.replay_offset(&group_id, &topic, partition, value)
                }
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
    pub fn write_failed(&mut self, now: Now, write: WriteId, error_code: i16, effects: &mut Vec<GroupEffect>) {
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
            if let Then::Reply { reference, request, .. } | Then::Handle { reference, request, .. } = then {
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
        self.groups.values().map(|group| group.classic.members().len()).sum()
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
            group.in_flight.is_none() && {
                use super::classic::State;
                matches!(group.classic.state(), State::Empty | State::Stable)
            }
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
        self.groups.entry(group_id.clone()).or_insert_with(|| Group::new(now_ms))
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
        group.counted = GROUP_BYTES + group_id.len() + group.classic.bytes() + group.offsets.bytes();
        self.bytes += group.counted;
    }

    /// Whether these bytes can be added.
    fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.config.state_bytes_max
    }

    /// Whether another group can be added.
    fn has_room_for_group(&self, group_id: &str) -> bool {
        self.groups.len() < self.config.groups_max && self.has_room_for(GROUP_BYTES + group_id.len())
    }

    fn replay_offset(&mut self, group_id: &Arc<str>, topic: &Arc<str>, partition: i32, value: Option<CommittedOffset>) {
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
            Then::Reply { reference, body, request } => {
                let body = match (error_code, &request.kind) {
                    (error::NONE, _) => body,
                    (error::UNKNOWN_SERVER_ERROR, RequestKind::OffsetCommit { .. }) => {
                        request.error_reply(error::INVALID_COMMIT_OFFSET_SIZE)
                    }
                    (error_code, _) => request.error_reply(error_code),
                };
                effects.push(GroupEffect::Reply { reference, body });
            }
            Then::Handle { reference, request, client } => self.handle(now, *request, reference, &client, 0, effects),
            Then::Assign { group, generation, assignments } => {
                self.with_group(now, &group, effects, |group, cx| {
                    group.assigned(cx, generation, assignments, error_code)
                });
            }
            Then::StaticJoin { group, member, parked, leader_before } => {
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
            RequestKind::OffsetFetch { groups, require_stable: true } => {
                groups.iter().filter_map(|group| in_flight(&group.group_id)).max()
            }
            RequestKind::OffsetDelete { request, .. } => in_flight(&request.group_id),
            RequestKind::Delete(request) => {
                request.groups_names.iter().filter_map(|group_id| in_flight(group_id)).max()
            }
            _ => None,
        }
    }
}

fn offset_tombstone(group_id: &Arc<str>, topic: &Arc<str>, partition: i32) -> Record {
    Record::OffsetCommit { group: group_id.clone(), topic: topic.clone(), partition, value: None }
}

/// An upper bound of what a committed offset, or a tombstone, takes in a batch.
fn record_bytes(record: &Record) -> usize {
    let payload = match record {
        Record::OffsetCommit { group, topic, value, .. } => {
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
    if group_id.is_empty() { error::INVALID_GROUP_ID } else { error_code }
}
