//! Groups of the consumer protocol: requests become decisions, decisions writes, and when those are durable answers and
//! deadlines. One decision about the members of a group at a time; whatever else concerns them waits for its write.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::leave_group_response::MemberResponse;
use kafka_wire::{ConsumerGroupHeartbeatRequest, LeaveGroupResponse};
use kafka_wire_core::StrBytes;
use millstream_storage::TopicId;

use super::{Coordinator, Group, Kind, classic_tombstone, record_bytes};
use crate::group::classic::{ClassicGroup, State};
use crate::group::config::{GroupConfig, REGEX_REFRESH_MIN, REGEX_STEP_INTERVAL};
use crate::group::consumer::{
    ConsumerGroup, ConsumerMember, Decision, Given, JOINING_EPOCH, NAME_BYTES, Refusal, Resolution, check, of_group,
};
use crate::group::member::{MEMBER_BYTES, new_member_id};
use crate::group::record::{MemberState, Record};
use crate::group::request::{
    GroupRequest, RequestKind, consumer_heartbeat_error, encode, heartbeat, join_error, sync_error,
};
use crate::group::timer::TimerKey;
use crate::group::write::{Answer, FollowUp, Then};
use crate::group::{ClientInfo, GroupEffect, Moment, RequestRef, error};

/// A group as a heartbeat finds it, or as it makes it.
struct Base<'a> {
    group: Cow<'a, ConsumerGroup>,
    /// What has to be written for it to be so.
    records: Vec<Record>,
    /// It was a classic group whose members wait for something.
    is_upgrade: bool,
}

impl Coordinator {
    /// Whether a group's members are those of a consumer group.
    pub(super) fn is_consumer_group(&self, group_id: &str) -> bool {
        self.consumer_group(group_id).is_some()
    }

    fn consumer_group(&self, group_id: &str) -> Option<&ConsumerGroup> {
        match &self.groups.get(group_id)?.kind {
            Kind::Consumer(consumer) => Some(consumer),
            Kind::Classic(_) => None,
        }
    }

    /// ConsumerGroupHeartbeat.
    pub(super) fn consumer_heartbeat(
        &mut self,
        moment: Moment<'_>,
        request: GroupRequest,
        reference: RequestRef,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::ConsumerHeartbeat(beat) = &request.kind else { unreachable!("the caller has looked") };
        match self.decide_heartbeat(moment, version, beat, client, random) {
            Err(Refusal { code, message }) => {
                let body = consumer_heartbeat_error(version, code, Some(message));
                effects.push(GroupEffect::Reply { reference, body });
            }
            Ok((records, is_upgrade, follow, body)) => {
                let group_id = Arc::from(beat.group_id.as_str());
                let answer = Answer { reference, body, request: Box::new(request) };
                let has_begun = self.carry_out(moment, &group_id, records, follow, Some(answer), effects);
                if is_upgrade && has_begun {
                    self.with_classic(moment.now, &group_id, effects, |classic, cx| {
                        classic.dismiss(cx, error::REBALANCE_IN_PROGRESS);
                        // Who waited had no deadline.
                        classic.arm_sessions(cx);
                    });
                }
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "what a heartbeat comes to is named where it is used")]
    fn decide_heartbeat(
        &self,
        moment: Moment<'_>,
        version: i16,
        beat: &ConsumerGroupHeartbeatRequest,
        client: &ClientInfo,
        random: u64,
    ) -> Result<(Vec<Record>, bool, FollowUp, Bytes), Refusal> {
        if !self.config.serves_consumer_protocol {
            return Err(Refusal::new(error::UNSUPPORTED_VERSION, "The consumer group protocol is not enabled."));
        }
        check(version, beat, &self.config.consumer_assignors)?;
        let group_id: Arc<str> = beat.group_id.as_str().into();
        let base = self.base(moment, &group_id, beat.member_epoch == JOINING_EPOCH)?;
        let given = self.given(moment, &group_id, base.is_upgrade);
        if beat.member_epoch < JOINING_EPOCH {
            let (decision, response) = base.group.leave(beat)?;
            let records = of_group(&group_id, decision.records.clone());
            return Ok((records, false, follow_up(decision, None), encode(version, &response)));
        }
        let member_id: Arc<str> = match beat.member_id.as_str() {
            "" => random_id(random).into(),
            member_id => member_id.into(),
        };
        self.check_room(&base.group, &member_id, beat)?;
        let (decision, response) = base.group.heartbeat(given, beat, &member_id, client)?;
        let mut records = base.records;
        records.extend(of_group(&group_id, decision.records.clone()));
        let follow = follow_up(decision, Some(moment.cluster.offset()));
        Ok((records, base.is_upgrade, follow, encode(version, &response)))
    }

    /// The group that a heartbeat is about.
    fn base(&self, moment: Moment<'_>, group_id: &Arc<str>, is_joining: bool) -> Result<Base<'_>, Refusal> {
        let new = |records| Base { group: Cow::Owned(ConsumerGroup::default()), records, is_upgrade: false };
        let tombstone = |group: &Group| group.recorded.then(|| classic_tombstone(group_id)).into_iter().collect();
        match self.groups.get(group_id) {
            Some(Group { kind: Kind::Consumer(consumer), .. }) => {
                Ok(Base { group: Cow::Borrowed(consumer), records: Vec::new(), is_upgrade: false })
            }
            None if is_joining && self.has_room_for_group(group_id) => Ok(new(Vec::new())),
            None if is_joining => Err(Refusal::new(error::POLICY_VIOLATION, "There is no room for another group.")),
            Some(group @ Group { kind: Kind::Classic(classic), .. }) if is_joining => {
                if *classic.state() == State::Empty {
                    return Ok(new(tombstone(group)));
                }
                let upgraded =
                    self.may_upgrade(classic).then(|| ConsumerGroup::from_classic(classic, moment.cluster)).flatten();
                let Some(upgraded) = upgraded else {
                    let message = format!("Group {group_id} is not a consumer group.");
                    return Err(Refusal::new(error::GROUP_ID_NOT_FOUND, message));
                };
                let mut records: Vec<Record> = tombstone(group);
                records.extend(of_group(group_id, upgraded.records()));
                Ok(Base { group: Cow::Owned(upgraded), records, is_upgrade: true })
            }
            Some(_) => {
                let message = format!("Group {group_id} is not a consumer group.");
                Err(Refusal::new(error::GROUP_ID_NOT_FOUND, message))
            }
            None => Err(Refusal::new(error::GROUP_ID_NOT_FOUND, format!("Group {group_id} not found."))),
        }
    }

    fn may_upgrade(&self, classic: &ClassicGroup) -> bool {
        self.config.migration.allows_upgrade() && classic.members().len() <= self.config.consumer_members_max
    }

    fn given<'a>(&'a self, moment: Moment<'a>, group_id: &str, is_upgrade: bool) -> Given<'a> {
        let checked = self.groups.get(group_id).and_then(|group| group.topics_checked);
        Given {
            cluster: moment.cluster,
            config: &self.config,
            topics_may_have_changed: is_upgrade || checked != Some(moment.cluster.offset()),
        }
    }

    /// Whether what a heartbeat brings goes into the memory for groups.
    fn check_room(
        &self,
        group: &ConsumerGroup,
        member_id: &Arc<str>,
        beat: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(), Refusal> {
        let topics = beat.subscribed_topic_names.iter().flatten();
        let subscription: usize = topics.map(|topic| NAME_BYTES + topic.len()).sum();
        if subscription > self.config.subscription_bytes_max {
            return Err(Refusal::new(error::INVALID_REQUEST, "The subscription is too large."));
        }
        let text = |text: &Option<StrBytes>| text.as_ref().map_or(0, |text| text.len());
        let texts = 2 * text(&beat.instance_id) + text(&beat.rack_id) + text(&beat.subscribed_topic_regex);
        let needed = MEMBER_BYTES + 2 * member_id.len() + subscription + texts;
        let held = group.members().get(member_id).map_or(0, |member| member.bytes(member_id));
        if needed > held && !self.has_room_for(needed - held) {
            return Err(Refusal::new(error::GROUP_MAX_SIZE_REACHED, "There is no room for more."));
        }
        Ok(())
    }

    /// A request of the classic protocol to a consumer group.
    pub(super) fn classic_request(
        &mut self,
        moment: Moment<'_>,
        request: GroupRequest,
        reference: RequestRef,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        match &request.kind {
            RequestKind::Join(_) => self.join_consumers(moment, request, reference, client, random, effects),
            RequestKind::Leave(_) => self.leave_consumers(moment, request, reference, effects),
            RequestKind::Sync(_) | RequestKind::Heartbeat(_) => {
                let body = self.stay_in_consumers(moment, &request);
                effects.push(GroupEffect::Reply { reference, body });
            }
            other => unreachable!("{other:?} is not about members"),
        }
    }

    fn join_consumers(
        &mut self,
        moment: Moment<'_>,
        request: GroupRequest,
        reference: RequestRef,
        client: &ClientInfo,
        random: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::Join(join) = &request.kind else { unreachable!("the caller has looked") };
        let group_id: Arc<str> = join.group_id.as_str().into();
        let refuse = |error_code, member_id: StrBytes| GroupEffect::Reply {
            reference,
            body: join_error(version, error_code, member_id),
        };
        if let Err(error_code) = self.admit(moment.now, join) {
            return effects.push(refuse(error_code, join.member_id.clone()));
        }
        let group = self.consumer_group(&group_id).expect("the caller has looked");
        // Nobody is there: the group becomes a classic one as if it were new.
        if group.members().is_empty() {
            let write = self.write_all(&group_id, of_group(&group_id, group.tombstones()), effects);
            let then = Then::Handle { reference, request: Box::new(request), client: client.clone(), random };
            return self.writes.then(write.expect("a group has records"), then);
        }
        if !group.supports_classic(join) {
            return effects.push(refuse(error::INCONSISTENT_GROUP_PROTOCOL, join.member_id.clone()));
        }
        let is_new = join.member_id.is_empty();
        let prefix = join.group_instance_id.as_deref().unwrap_or(&client.client_id);
        let member_id: Arc<str> = if is_new { new_member_id(prefix, random) } else { join.member_id.as_str().into() };
        // KIP-394, as in a classic group.
        if is_new && join.group_instance_id.is_none() && version >= 4 {
            return effects.push(refuse(error::MEMBER_ID_REQUIRED, StrBytes::from(&*member_id)));
        }
        let given = self.given(moment, &group_id, false);
        match group.join_classic(given, join, &member_id, client) {
            Err(Refusal { code, .. }) => effects.push(refuse(code, join.member_id.clone())),
            Ok((decision, mut response)) => {
                if version < 7 {
                    response.protocol_type = None;
                }
                let body = encode(version, &response);
                let records = of_group(&group_id, decision.records.clone());
                let follow = follow_up(decision, Some(moment.cluster.offset()));
                let follow = FollowUp { awaits_sync: true, ..follow };
                let answer = Answer { reference, body, request: Box::new(request) };
                self.carry_out(moment, &group_id, records, follow, Some(answer), effects);
            }
        }
    }

    /// SyncGroup and Heartbeat: nothing changes but deadlines.
    fn stay_in_consumers(&mut self, moment: Moment<'_>, request: &GroupRequest) -> Bytes {
        let version = request.version;
        let group_id: Arc<str> = request.group_id().expect("the caller has looked").into();
        let group = self.consumer_group(&group_id).expect("the caller has looked");
        let (stayed, body, has_to_rejoin) = match &request.kind {
            RequestKind::Sync(sync) => {
                // KIP-559: since version 5 both are mandatory.
                let is_whole = version < 5 || (sync.protocol_type.is_some() && sync.protocol_name.is_some());
                let found = match is_whole {
                    true => group.sync_classic(moment.cluster, sync),
                    false => Err(error::INCONSISTENT_GROUP_PROTOCOL),
                };
                match found {
                    Ok((member_id, response)) => (Some(member_id), encode(version, &response), false),
                    Err(error_code) => (None, sync_error(version, error_code), false),
                }
            }
            RequestKind::Heartbeat(beat) => {
                let instance_id = beat.group_instance_id.as_deref();
                match group.heartbeat_classic(&beat.member_id, instance_id, beat.generation_id) {
                    Ok((member_id, true)) => (Some(member_id), heartbeat(version, error::REBALANCE_IN_PROGRESS), true),
                    Ok((member_id, false)) => (Some(member_id), heartbeat(version, error::NONE), false),
                    Err(error_code) => (None, heartbeat(version, error_code), false),
                }
            }
            other => unreachable!("{other:?} is not of a member that stays"),
        };
        if let Some(member_id) = stayed {
            let member = &group.members()[&member_id];
            let session = moment.now.elapsed + session_timeout(&self.config, member);
            let rejoin = moment.now.elapsed + millis(member.metadata.rebalance_timeout_ms);
            let key = TimerKey::Reconciliation(group_id.clone(), member_id.clone());
            match request.kind {
                RequestKind::Sync(_) => self.timers.cancel(&key),
                _ if has_to_rejoin => self.timers.schedule_if_absent(key, rejoin),
                _ => {}
            }
            self.timers.schedule(TimerKey::Session(group_id, member_id), session);
        }
        body
    }

    fn leave_consumers(
        &mut self,
        moment: Moment<'_>,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::Leave(leave) = &request.kind else { unreachable!("the caller has looked") };
        let group_id: Arc<str> = leave.group_id.as_str().into();
        let group = self.consumer_group(&group_id).expect("the caller has looked");
        let mut gone: Vec<Arc<str>> = Vec::new();
        let mut response = LeaveGroupResponse::default();
        for member in &leave.members {
            let mut part = MemberResponse::default();
            part.member_id = member.member_id.clone();
            part.group_instance_id = member.group_instance_id.clone();
            match group.leaving_classic_member(&member.member_id, member.group_instance_id.as_deref()) {
                Ok(member_id) if gone.contains(&member_id) => part.error_code = error::UNKNOWN_MEMBER_ID,
                Ok(member_id) => gone.push(member_id),
                Err(error_code) => part.error_code = error_code,
            }
            response.members.push(part);
        }
        if version < 3 {
            response.error_code = response.members.first().map_or(error::NONE, |member| member.error_code);
            response.members.clear();
        }
        let records = if gone.is_empty() { Vec::new() } else { of_group(&group_id, group.remove(&gone).records) };
        let answer = Answer { reference, body: encode(version, &response), request: Box::new(request) };
        self.carry_out(moment, &group_id, records, FollowUp::default(), Some(answer), effects);
    }

    /// Writes what was decided about a group's members, or answers at once if that is nothing. Whether it could: what is
    /// decided at once has to go into one write, or a restart could find a half of it.
    fn carry_out(
        &mut self,
        moment: Moment<'_>,
        group_id: &Arc<str>,
        records: Vec<Record>,
        follow: FollowUp,
        answer: Option<Answer>,
        effects: &mut Vec<GroupEffect>,
    ) -> bool {
        if records.is_empty() {
            self.consumer_changed(moment, group_id, &follow, error::NONE);
            if let Some(Answer { reference, body, .. }) = answer {
                effects.push(GroupEffect::Reply { reference, body });
            }
            return true;
        }
        if records.iter().map(record_bytes).sum::<usize>() > self.config.write_bytes_max {
            self.consumer_changed(moment, group_id, &follow, error::UNKNOWN_SERVER_ERROR);
            if let Some(Answer { reference, request, .. }) = answer {
                let body = request.error_reply(error::UNKNOWN_SERVER_ERROR);
                effects.push(GroupEffect::Reply { reference, body });
            }
            return false;
        }
        self.group_or_new(group_id, moment.now.unix_ms);
        let write = self.write_all(group_id, records, effects).expect("there are records");
        self.settle(group_id);
        self.writes.then(write, Then::Consumer { group: group_id.clone(), follow, answer });
        true
    }

    /// What was decided has come true, or not: deadlines follow.
    pub(super) fn consumer_changed(
        &mut self,
        moment: Moment<'_>,
        group_id: &Arc<str>,
        follow: &FollowUp,
        error_code: i16,
    ) {
        let now = moment.now.elapsed;
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let Kind::Consumer(consumer) = &group.kind else { return };
        if error_code != error::NONE {
            if let Some(key) = &follow.retry {
                self.timers.schedule_if_absent(key.clone(), now + self.config.consumer_session_timeout);
            }
            return;
        }
        if follow.topics_checked.is_some() {
            group.topics_checked = follow.topics_checked;
        }
        if let Some((id, member)) = follow.member.as_ref().and_then(|id| consumer.members().get_key_value(id)) {
            if follow.is_heard_of {
                let due = now + session_timeout(&self.config, member);
                self.timers.schedule(TimerKey::Session(group_id.clone(), id.clone()), due);
            }
            let key = TimerKey::Reconciliation(group_id.clone(), id.clone());
            let due = now + millis(member.metadata.rebalance_timeout_ms);
            let has_to_revoke = follow.reconciles && member.current.state == MemberState::UnrevokedPartitions;
            if follow.awaits_sync || has_to_revoke {
                self.timers.schedule(key, due);
            } else if follow.reconciles {
                self.timers.cancel(&key);
            }
        }
        if consumer.is_to_be_classic(&self.config) {
            self.timers.schedule(TimerKey::Downgrade(group_id.clone()), now);
        }
        // The topics that expressions match are looked for at once if they are new, else now and then.
        if consumer.regexes().len() > 0 && group.regexes_checked != Some(moment.cluster.offset()) {
            let delay = if group.regexes_checked.is_none() { Duration::ZERO } else { REGEX_REFRESH_MIN };
            self.timers.schedule_if_absent(TimerKey::Regexes(group_id.clone()), now + delay);
        }
    }

    /// After loading: every member has its session timeout to be heard of, and who has to give partitions back the time for
    /// that.
    pub(super) fn arm_consumers(&mut self, moment: Moment<'_>, group_id: &Arc<str>) {
        let Some(group) = self.consumer_group(group_id) else { return };
        let members: Vec<Arc<str>> = group.members().keys().cloned().collect();
        for member in members {
            let follow = FollowUp { member: Some(member), is_heard_of: true, reconciles: true, ..FollowUp::default() };
            self.consumer_changed(moment, group_id, &follow, error::NONE);
        }
    }

    /// Something about a consumer group has fallen due.
    pub(super) fn consumer_due(&mut self, moment: Moment<'_>, key: TimerKey, effects: &mut Vec<GroupEffect>) {
        let group_id = key.group().clone();
        let Some(group) = self.groups.get(&group_id) else { return };
        if let Some(write) = group.consumer_write {
            return self.writes.then(write, Then::Due(key));
        }
        let Kind::Consumer(consumer) = &group.kind else { return };
        match &key {
            TimerKey::Session(_, member_id) | TimerKey::Reconciliation(_, member_id) => {
                let Some((id, member)) = consumer.members().get_key_value(member_id) else { return };
                let is_late = match key {
                    TimerKey::Session(..) => true,
                    _ => member.is_classic() || member.current.state == MemberState::UnrevokedPartitions,
                };
                if is_late {
                    let records = of_group(&group_id, consumer.remove([id]).records);
                    let follow = FollowUp { retry: Some(key), ..FollowUp::default() };
                    self.carry_out(moment, &group_id, records, follow, None, effects);
                }
            }
            TimerKey::Downgrade(_) => self.downgrade(moment, &group_id, effects),
            TimerKey::Regexes(_) => self.resolve_regexes(moment, &group_id, effects),
            // The group was a classic one.
            TimerKey::Rebalance(_) | TimerKey::Sync(_) => {}
        }
    }

    fn downgrade(&mut self, moment: Moment<'_>, group_id: &Arc<str>, effects: &mut Vec<GroupEffect>) {
        let Some(consumer) = self.consumer_group(group_id) else { return };
        if !consumer.is_to_be_classic(&self.config) {
            return;
        }
        let classic = Box::new(consumer.to_classic(moment.cluster, moment.now.unix_ms));
        let mut records = of_group(group_id, consumer.tombstones());
        records.push(classic.record(group_id));
        // A group that does not go into one write stays what it is: until a member less makes it smaller.
        if records.iter().map(record_bytes).sum::<usize>() <= self.config.write_bytes_max {
            let write = self.write_all(group_id, records, effects).expect("there are records");
            self.writes.then(write, Then::Downgraded { group: group_id.clone(), classic });
        }
    }

    /// A consumer group has become a classic one, or could not: then it tries again.
    pub(super) fn downgraded(
        &mut self,
        moment: Moment<'_>,
        group_id: &Arc<str>,
        classic: Box<ClassicGroup>,
        error_code: i16,
        effects: &mut Vec<GroupEffect>,
    ) {
        if error_code != error::NONE {
            let due = moment.now.elapsed + self.config.consumer_session_timeout;
            return self.timers.schedule(TimerKey::Downgrade(group_id.clone()), due);
        }
        let group = self.groups.get_mut(group_id).expect("what was just written of it is here");
        group.kind = Kind::Classic(classic);
        self.settle(group_id);
        self.with_classic(moment.now, group_id, effects, |classic, cx| {
            classic.arm_sessions(cx);
            classic.prepare_rebalance(cx);
        });
    }

    /// One step of the search for the topics that a group's regular expressions match.
    fn resolve_regexes(&mut self, moment: Moment<'_>, group_id: &Arc<str>, effects: &mut Vec<GroupEffect>) {
        let now = moment.now;
        let Some(group) = self.groups.get_mut(group_id) else { return };
        let Kind::Consumer(consumer) = &group.kind else { return };
        let mut resolution = match group.resolution.take() {
            Some(resolution) if resolution.is_of(consumer) => resolution,
            _ => Resolution::begin(consumer, moment.cluster),
        };
        if !resolution.step(moment.cluster) {
            group.resolution = Some(resolution);
            let due = now.elapsed + REGEX_STEP_INTERVAL;
            return self.timers.schedule(TimerKey::Regexes(group_id.clone()), due);
        }
        group.regexes_checked = Some(resolution.version());
        let parts = resolution.finish(consumer, moment.cluster, now.unix_ms, self.config.write_bytes_max);
        let records = of_group(group_id, parts);
        let follow = FollowUp { retry: Some(TimerKey::Regexes(group_id.clone())), ..FollowUp::default() };
        self.carry_out(moment, group_id, records, follow, None, effects);
    }
}

fn follow_up(decision: Decision, topics_checked: Option<u64>) -> FollowUp {
    let Decision { member, is_heard_of, reconciles, .. } = decision;
    FollowUp { member, is_heard_of, reconciles, topics_checked, ..FollowUp::default() }
}

/// How long a member may be silent.
fn session_timeout(config: &GroupConfig, member: &ConsumerMember) -> Duration {
    member
        .metadata
        .classic
        .as_ref()
        .map_or(config.consumer_session_timeout, |classic| millis(classic.session_timeout_ms))
}

/// A duration given by a client; negative ones count as none.
fn millis(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}

/// The id of a member that did not bring one: a UUID as Kafka prints it.
fn random_id(random: u64) -> String {
    let uuid = new_member_id("", random).replace('-', "");
    TopicId(u128::from_str_radix(&uuid, 16).expect("digits of a UUID").to_be_bytes()).to_base64()
}
