//! The coordinator of the groups of one partition of `__consumer_offsets`.

mod admin;
mod consumer;
pub mod listing;
mod members;
mod offsets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::DescribeGroupsResponse;
use millstream_storage::Now;

use super::classic::{ClassicGroup, Context, State};
use super::config::{GROUP_BYTES, GroupConfig};
use super::consumer::{ConsumerGroup, Resolution, of_group};
use super::member::{Member, Parked};
use super::offsets::Offsets;
use super::record::{CommittedOffset, ConsumerRecord, Record, RecordError};
use super::request::{self, GroupRequest, RequestKind, encode};
use super::timer::{TimerKey, Timers};
use super::write::{Answer, Then, Writes};
use super::{ClientInfo, GroupEffect, Moment, RequestRef, WriteId, error};

/// Bytes that a record takes in a batch beside its key and value, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// How the members of a group are coordinated.
#[derive(Debug)]
enum Kind {
    /// By the classic protocol.
    Classic(Box<ClassicGroup>),
    /// By the consumer protocol (KIP-848).
    Consumer(Box<ConsumerGroup>),
}

impl Kind {
    fn classic(classic: ClassicGroup) -> Kind {
        Kind::Classic(Box::new(classic))
    }
}

/// One group: how its members are coordinated, and the offsets it committed.
#[derive(Debug)]
struct Group {
    kind: Kind,
    offsets: Offsets,
    /// The log holds a record of it as a classic group, which a tombstone has to delete.
    recorded: bool,
    /// The last write that concerns it, while it is under way.
    in_flight: Option<WriteId>,
    /// The last write that concerns its members as those of a classic group.
    classic_write: Option<WriteId>,
    /// The last write that concerns its members as those of a consumer group.
    consumer_write: Option<WriteId>,
    /// The offset of the metadata that is known to agree with its epoch, of a consumer group.
    topics_checked: Option<u64>,
    /// The offset of the metadata in which its regular expressions were looked for last.
    regexes_checked: Option<u64>,
    /// The search for what they match.
    resolution: Option<Resolution>,
    /// Its part in the coordinator's count of bytes.
    counted: usize,
}

impl Group {
    fn new(now_ms: i64) -> Self {
        Group {
            kind: Kind::classic(ClassicGroup::new(now_ms)),
            offsets: Offsets::default(),
            recorded: false,
            in_flight: None,
            classic_write: None,
            consumer_write: None,
            topics_checked: None,
            regexes_checked: None,
            resolution: None,
            counted: 0,
        }
    }

    /// Whether nothing would be lost with it.
    fn is_void(&self) -> bool {
        let is_needed = match &self.kind {
            Kind::Classic(classic) => self.recorded || !classic.is_deserted(),
            Kind::Consumer(_) => true,
        };
        !is_needed && self.in_flight.is_none() && self.offsets.is_empty()
    }

    /// Whether it has neither members nor any that are about to join.
    fn is_deserted(&self) -> bool {
        match &self.kind {
            Kind::Classic(classic) => classic.is_deserted(),
            Kind::Consumer(consumer) => consumer.is_deserted(),
        }
    }

    /// Whether it has no members.
    fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(classic) => *classic.state() == State::Empty,
            Kind::Consumer(consumer) => consumer.is_deserted(),
        }
    }

    fn members(&self) -> usize {
        match &self.kind {
            Kind::Classic(classic) => classic.members().len(),
            Kind::Consumer(consumer) => consumer.members().len(),
        }
    }

    /// The memory that a member takes, if it is here.
    fn member_bytes(&self, member_id: &str) -> usize {
        match &self.kind {
            Kind::Classic(classic) => classic.members().get(member_id).map_or(0, Member::bytes),
            Kind::Consumer(consumer) => consumer.members().get(member_id).map_or(0, |member| member.bytes(member_id)),
        }
    }

    fn bytes(&self) -> usize {
        let members = match &self.kind {
            Kind::Classic(classic) => classic.bytes(),
            Kind::Consumer(consumer) => consumer.bytes(),
        };
        members + self.offsets.bytes()
    }

    /// Whether a committed offset has outlived its use.
    fn has_expired(&self, topic: &str, committed: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
        match &self.kind {
            Kind::Classic(classic) => classic.has_expired(topic, committed, now_ms, retention_ms),
            Kind::Consumer(consumer) => consumer.has_expired(topic, committed, now_ms, retention_ms),
        }
    }

    /// The records that make it, without its offsets.
    fn records(&self, group_id: &Arc<str>) -> Vec<Record> {
        match &self.kind {
            Kind::Classic(classic) if self.recorded => vec![classic.record(group_id)],
            Kind::Classic(_) => Vec::new(),
            Kind::Consumer(consumer) => of_group(group_id, consumer.records()),
        }
    }

    /// The records that delete everything about it, the group itself last.
    fn tombstones(&self, group_id: &Arc<str>) -> Vec<Record> {
        let mut records: Vec<Record> =
            self.offsets.iter().map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition)).collect();
        match &self.kind {
            Kind::Classic(_) if self.recorded => records.push(classic_tombstone(group_id)),
            Kind::Classic(_) => {}
            Kind::Consumer(consumer) => records.extend(of_group(group_id, consumer.tombstones())),
        }
        records
    }

    /// Takes a part of a consumer group that is durable. The first makes the group one.
    fn replay_consumer(&mut self, part: ConsumerRecord, now_ms: i64) {
        if matches!(part, ConsumerRecord::Epoch(None)) {
            if matches!(self.kind, Kind::Consumer(_)) {
                self.kind = Kind::classic(ClassicGroup::new(now_ms));
            }
            return;
        }
        if matches!(self.kind, Kind::Classic(_)) {
            if part.is_tombstone() {
                return;
            }
            self.kind = Kind::Consumer(Box::default());
            self.topics_checked = None;
            self.recorded = false;
        }
        let Kind::Consumer(consumer) = &mut self.kind else { unreachable!("it was just made one") };
        consumer.replay(part);
        if consumer.has_unresolved_regexes() {
            self.regexes_checked = None;
        }
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
                match value {
                    Some(value) => group.kind = Kind::classic(ClassicGroup::from_record(value)),
                    // The group may be a consumer group since.
                    None if matches!(group.kind, Kind::Consumer(_)) => {}
                    None => group.kind = Kind::classic(ClassicGroup::new(0)),
                }
            }
            Record::Consumer { part, .. } if part.is_tombstone() && !self.groups.contains_key(&group_id) => {}
            Record::Consumer { part, .. } => self.group_or_new(&group_id, 0).replay_consumer(part, 0),
        }
        self.settle(&group_id);
        Ok(())
    }

    /// The log has been replayed: requests are served from now on, and sessions begin anew.
    pub fn loaded(&mut self, moment: Moment<'_>) {
        self.is_loaded = true;
        self.expiry_due = moment.now.elapsed + self.config.expiry_interval;
        let mut effects = Vec::new();
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.with_classic(moment.now, group_id, &mut effects, |group, cx| group.arm_sessions(cx));
            self.arm_consumers(moment, group_id);
        }
        assert!(effects.is_empty(), "to arm a session asks for nothing");
    }

    /// Handles a request. `random` makes the id of a new member, and has to differ from request to request.
    pub fn handle(
        &mut self,
        moment: Moment<'_>,
        request: GroupRequest,
        reference: RequestRef,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        let now = moment.now;
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
            let then = Then::Handle { reference, request: Box::new(request), client: client.clone(), random };
            return self.writes.then(write, then);
        }
        let version = request.version;
        let parked = Parked { reference, version };
        let reply = |body| GroupEffect::Reply { reference, body };
        match request.kind {
            RequestKind::Join(_) | RequestKind::Sync(_) | RequestKind::Heartbeat(_) | RequestKind::Leave(_)
                if request.group_id().is_some_and(|group_id| self.is_consumer_group(group_id)) =>
            {
                self.classic_request(moment, request, reference, client, random, effects);
            }
            RequestKind::Join(request) => self.join(now, &request, parked, client, random, effects),
            RequestKind::Sync(sync) => {
                let group_id = sync.group_id.clone();
                let found = self.with_classic(now, &group_id, effects, |group, cx| group.sync(cx, &sync, parked));
                if found.is_none() {
                    let error_code = no_such_group(&group_id, error::UNKNOWN_MEMBER_ID);
                    effects.push(reply(request::sync_error(version, error_code)));
                }
            }
            RequestKind::Heartbeat(heartbeat) => {
                let instance_id = heartbeat.group_instance_id.as_deref();
                let generation = heartbeat.generation_id;
                let error_code = self
                    .with_classic(now, &heartbeat.group_id, effects, |group, cx| {
                        group.heartbeat(cx, &heartbeat.member_id, instance_id, generation)
                    })
                    .unwrap_or_else(|| no_such_group(&heartbeat.group_id, error::UNKNOWN_MEMBER_ID));
                effects.push(reply(request::heartbeat(version, error_code)));
            }
            RequestKind::Leave(_) => self.leave(now, request, reference, effects),
            RequestKind::ConsumerHeartbeat(_) => {
                self.consumer_heartbeat(moment, request, reference, client, random, effects);
            }
            RequestKind::ConsumerDescribe(describe) => {
                effects.push(reply(self.describe_consumers(moment, version, &describe)));
            }
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
    pub fn expire(&mut self, moment: Moment<'_>, effects: &mut Vec<GroupEffect>) {
        while let Some(key) = self.timers.pop_due(moment.now.elapsed) {
            self.due(moment, key, effects);
        }
        if self.is_loaded && self.expiry_due <= moment.now.elapsed {
            self.expire_offsets(moment.now, effects);
        }
    }

    fn due(&mut self, moment: Moment<'_>, key: TimerKey, effects: &mut Vec<GroupEffect>) {
        if self.is_consumer_group(key.group()) {
            return self.consumer_due(moment, key, effects);
        }
        match &key {
            TimerKey::Rebalance(id) => {
                self.with_classic(moment.now, id, effects, |group, cx| group.rebalance_due(cx));
            }
            TimerKey::Sync(id) => {
                self.with_classic(moment.now, id, effects, |group, cx| group.sync_due(cx));
            }
            TimerKey::Session(id, member) => {
                self.with_classic(moment.now, id, effects, |group, cx| group.session_due(cx, member));
            }
            // The group was a consumer group.
            TimerKey::Reconciliation(..) | TimerKey::Downgrade(_) | TimerKey::Regexes(_) => {}
        }
    }

    /// When [`Coordinator::expire`] is to be called, in [`Now::elapsed`]'s time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let expiry = self.is_loaded.then_some(self.expiry_due);
        self.timers.next().into_iter().chain(expiry).min()
    }

    /// A write is durable: its records are replayed, and requests that waited for it answered.
    pub fn committed(&mut self, moment: Moment<'_>, write: WriteId, effects: &mut Vec<GroupEffect>) {
        let now_ms = moment.now.unix_ms;
        let ended = self.writes.end(write);
        let mut concerned: Vec<Arc<str>> = Vec::new();
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
                    let group = self.group_or_new(&group_id, now_ms);
                    group.recorded = !is_deleted;
                    if is_deleted && matches!(&group.kind, Kind::Classic(classic) if classic.is_deserted()) {
                        group.kind = Kind::classic(ClassicGroup::new(now_ms));
                    }
                }
                Record::Consumer { part, .. } => {
                    if let ConsumerRecord::Member(member, None) = &part {
                        self.timers.cancel(&TimerKey::Session(group_id.clone(), member.clone()));
                        self.timers.cancel(&TimerKey::Reconciliation(group_id.clone(), member.clone()));
                    }
                    self.group_or_new(&group_id, now_ms).replay_consumer(part, now_ms);
                }
            }
            if concerned.last() != Some(&group_id) {
                concerned.push(group_id);
            }
        }
        concerned.iter().for_each(|group_id| self.landed(write, group_id));
        for then in ended.then {
            self.proceed(moment, then, error::NONE, effects);
        }
    }

    /// A write failed with this error code of Kafka's and left nothing behind.
    pub fn write_failed(
        &mut self,
        moment: Moment<'_>,
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
            self.proceed(moment, then, error::for_failed_write(error_code), effects);
        }
    }

    /// Topics were deleted: forgets what was committed for them.
    pub fn topics_deleted(&mut self, topics: &[Arc<str>], effects: &mut Vec<GroupEffect>) {
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.forget_topics(group_id, topics, effects);
        }
    }

    /// Forgets what was committed for topics that are not there: they were deleted while nobody coordinated these groups, and
    /// who creates one of that name is to find no offsets of another. To be asked once the groups are loaded, with a cluster
    /// in which this broker leads their partition: that is newer than whatever was committed before.
    pub fn forget_absent_topics(&mut self, moment: Moment<'_>, effects: &mut Vec<GroupEffect>) {
        let named = self.groups.values().flat_map(|group| group.offsets.topics().map(|(topic, _)| topic));
        let absent: BTreeSet<Arc<str>> =
            named.filter(|topic| moment.cluster.topic(topic).is_none()).map(Arc::clone).collect();
        if !absent.is_empty() {
            self.topics_deleted(&Vec::from_iter(absent), effects);
        }
    }

    /// Answers everything that waits with NOT_COORDINATOR: the broker stops, or another serves these groups now. The
    /// coordinator is not to be asked anything after that.
    pub fn resign(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        let group_ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group_id in &group_ids {
            self.with_classic(now, group_id, effects, |group, cx| group.dismiss(cx, error::NOT_COORDINATOR));
        }
        for then in self.writes.take_waiting() {
            if let Then::Reply { reference, request, .. }
            | Then::Handle { reference, request, .. }
            | Then::Consumer { answer: Some(Answer { reference, request, .. }), .. } = then
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
        self.groups.values().map(Group::members).sum()
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
            records.extend(group.records(group_id));
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

    /// Panics where what the coordinator holds contradicts itself.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let mut bytes = 0;
        for (group_id, group) in &self.groups {
            assert!(!group.is_void(), "{group_id} is kept for nothing");
            match &group.kind {
                Kind::Classic(classic) => {
                    assert_eq!(classic.bytes(), classic.recount(), "{group_id}");
                    classic.check_invariants();
                }
                Kind::Consumer(consumer) => consumer.check_invariants(),
            }
            bytes += GROUP_BYTES + group_id.len() + group.bytes();
        }
        assert_eq!(bytes, self.bytes);
    }

    /// Whether no rebalance of this group is under way.
    #[cfg(test)]
    pub fn is_settled(&self, group_id: &str) -> bool {
        self.groups.get(group_id).is_none_or(|group| {
            group.in_flight.is_none()
                && match &group.kind {
                    Kind::Classic(classic) => matches!(classic.state(), State::Empty | State::Stable),
                    Kind::Consumer(_) => true,
                }
        })
    }

    // ---- Groups ----

    /// Works on a classic group's members, if there is such a group.
    fn with_classic<R>(
        &mut self,
        now: Now,
        group_id: &str,
        effects: &mut Vec<GroupEffect>,
        work: impl FnOnce(&mut ClassicGroup, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let (id, _) = self.groups.get_key_value(group_id)?;
        let id = id.clone();
        let group = self.groups.get_mut(&id)?;
        let Kind::Classic(classic) = &mut group.kind else { return None };
        let mut cx = Context {
            now,
            config: &self.config,
            group_id: &id,
            in_flight: &mut group.in_flight,
            classic_write: &mut group.classic_write,
            timers: &mut self.timers,
            writes: &mut self.writes,
            effects,
        };
        let result = work(classic, &mut cx);
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
        group.counted = GROUP_BYTES + group_id.len() + group.bytes();
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
        if let Some(group) = self.groups.get_mut(group_id) {
            for under_way in [&mut group.in_flight, &mut group.classic_write, &mut group.consumer_write] {
                under_way.take_if(|under_way| *under_way == write);
            }
        }
        self.settle(group_id);
    }

    /// Does what was to follow a write, which ended with this error code.
    fn proceed(&mut self, moment: Moment<'_>, then: Then, error_code: i16, effects: &mut Vec<GroupEffect>) {
        let now = moment.now;
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
            Then::Handle { reference, request, client, random } => {
                self.handle(moment, *request, reference, &client, random, effects);
            }
            Then::Consumer { group, follow, answer } => {
                self.consumer_changed(moment, &group, &follow, error_code);
                if let Some(Answer { reference, body, request }) = answer {
                    let body = if error_code == error::NONE { body } else { request.error_reply(error_code) };
                    effects.push(GroupEffect::Reply { reference, body });
                }
            }
            Then::Downgraded { group, classic } => self.downgraded(moment, &group, classic, error_code, effects),
            // What is due may have been put off since.
            Then::Due(key) if self.timers.is_scheduled(&key) => {}
            Then::Due(key) => self.due(moment, key, effects),
            Then::Assign { group, generation, assignments } => {
                self.with_classic(now, &group, effects, |group, cx| {
                    group.assigned(cx, generation, assignments, error_code)
                });
            }
            Then::StaticJoin { group, member, parked, leader_before } => {
                self.with_classic(now, &group, effects, |group, cx| {
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
        let is_classic = records.iter().any(|record| matches!(record, Record::GroupMetadata { .. }));
        let is_consumer = records.iter().any(|record| matches!(record, Record::Consumer { .. }));
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
            if is_classic {
                group.classic_write = last;
            }
            if is_consumer {
                group.consumer_write = last;
            }
        }
        last
    }

    /// The write that has to end before a request can be handled: one that deletes has to see what is being committed,
    /// and so has a fetch that asks for stable offsets. The members of a consumer group change by one decision at a time.
    fn has_to_wait_for(&self, request: &GroupRequest) -> Option<WriteId> {
        let in_flight = |group_id: &str| self.groups.get(group_id)?.in_flight;
        match &request.kind {
            RequestKind::ConsumerHeartbeat(beat) => {
                let group = self.groups.get(beat.group_id.as_str())?;
                group.classic_write.max(group.consumer_write)
            }
            RequestKind::Join(_) | RequestKind::Sync(_) | RequestKind::Heartbeat(_) | RequestKind::Leave(_) => {
                self.groups.get(request.group_id()?)?.consumer_write
            }
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

fn classic_tombstone(group_id: &Arc<str>) -> Record {
    Record::GroupMetadata { group: group_id.clone(), value: None }
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
        Record::Consumer { group, part } => group.len() + part.encoded_bytes_max(),
    };
    RECORD_OVERHEAD_BYTES + payload
}

/// The error code for a group that is not there.
fn no_such_group(group_id: &str, error_code: i16) -> i16 {
    if group_id.is_empty() { error::INVALID_GROUP_ID } else { error_code }
}
