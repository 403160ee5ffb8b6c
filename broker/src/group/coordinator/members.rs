//! Who may join, and leaving.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::leave_group_response::MemberResponse;
use kafka_wire::{JoinGroupRequest, LeaveGroupResponse};
use millstream_storage::Now;

use super::Coordinator;
use crate::group::config::PROTOCOLS_MAX;
use crate::group::member::{MEMBER_BYTES, Parked};
use crate::group::request::{GroupRequest, RequestKind, encode, join_error};
use crate::group::write::Then;
use crate::group::{ClientInfo, GroupEffect, RequestRef, WriteId, error};

impl Coordinator {
    pub(super) fn join(
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
        self.with_classic(now, &request.group_id, effects, |group, cx| group.join(cx, request, parked, client, random))
            .expect("a group that admits a member is there");
    }

    /// Checks a JoinGroup against the bounds, and makes its group if that is new.
    pub(super) fn admit(&mut self, now: Now, request: &JoinGroupRequest) -> Result<(), i16> {
        let config = &self.config;
        let sessions = config.session_timeout_min_ms..=config.session_timeout_max_ms;
        let subscription_bytes: usize =
            request.protocols.iter().map(|protocol| 64 + protocol.name.len() + protocol.metadata.len()).sum();
        if request.group_id.is_empty() {
            return Err(error::INVALID_GROUP_ID);
        }
        if !sessions.contains(&request.session_timeout_ms) {
            return Err(error::INVALID_SESSION_TIMEOUT);
        }
        if request.protocols.len() > PROTOCOLS_MAX || subscription_bytes > config.subscription_bytes_max {
            return Err(error::INVALID_REQUEST);
        }
        let group = self.groups.get(request.group_id.as_str());
        if group.is_none() && !request.member_id.is_empty() {
            return Err(error::UNKNOWN_MEMBER_ID);
        }
        let names = request.group_instance_id.as_ref().map_or(0, |id| 3 * id.len());
        let needed = MEMBER_BYTES + subscription_bytes + names + request.member_id.len();
        let held = group.map_or(0, |group| group.member_bytes(&request.member_id));
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

    pub(super) fn leave(
        &mut self,
        now: Now,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::Leave(leave) = &request.kind else { unreachable!("the caller has looked") };
        let mut response = LeaveGroupResponse::default();
        if leave.group_id.is_empty() {
            response.error_code = error::INVALID_GROUP_ID;
            let body = encode(version, &response);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let left = self.with_classic(now, &leave.group_id, effects, |group, cx| {
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
        let (results, write) = left.unwrap_or_else(|| (vec![error::UNKNOWN_MEMBER_ID; leave.members.len()], None));
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
    pub(super) fn reply_after(
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
                let then = Then::Reply { reference, body, request };
                self.writes.then(write, then);
            }
            None => effects.push(GroupEffect::Reply { reference, body }),
        }
    }
}
