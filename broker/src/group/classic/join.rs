//! JoinGroup: members come, come back, and take each other's places.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::join_group_response::JoinGroupResponseMember;
use kafka_wire::{JoinGroupRequest, JoinGroupResponse};
use kafka_wire_core::StrBytes;

use super::{ClassicGroup, Context, State, millis, pending_bytes};
use crate::group::config::{NEW_MEMBER_JOIN_TIMEOUT, PENDING_MEMBERS_MAX};
use crate::group::member::{Member, Parked, copy_protocols, new_member_id};
use crate::group::request::{encode, join_error, sync_error};
use crate::group::write::Then;
use crate::group::{ClientInfo, error};

impl ClassicGroup {
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

    pub(super) fn join_new(
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
    pub(super) fn rejoin(
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

    pub(super) fn add_member(
        &mut self,
        cx: &mut Context<'_>,
        request: &JoinGroupRequest,
        member_id: Arc<str>,
        parked: Parked,
        client: &ClientInfo,
    ) {
        self.forget_pending(&member_id);
        if let State::PreparingRebalance { initial: Some(initial) } = &mut self.state {
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
            held: Bytes::new(),
            awaiting_join: Some(parked),
            awaiting_sync: None,
            pending_sync: false,
            is_new: true,
        });
        self.rebalance_or_complete_join(cx);
    }

    pub(super) fn update_member(
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
    pub(super) fn replace_static(
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
                let then = Then::StaticJoin { group: cx.group_id.clone(), member: new_id, parked, leader_before };
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

    pub(super) fn joined(&self, version: i16, member_id: &Arc<str>, skip_assignment: bool) -> Bytes {
        encode(version, &self.joined_response(version, member_id, skip_assignment))
    }

    pub(super) fn joined_response(
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
                part.group_instance_id =
                    (version >= 5).then_some(member.instance_id.as_deref()).flatten().map(StrBytes::from);
                part.metadata = member.metadata(self.protocol.as_deref());
                response.members.push(part);
            }
        }
        response
    }
}
