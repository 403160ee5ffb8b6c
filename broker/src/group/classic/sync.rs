//! SyncGroup, Heartbeat and LeaveGroup: what members do between rebalances.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::{SyncGroupRequest, SyncGroupResponse};
use kafka_wire_core::StrBytes;

use super::{ClassicGroup, Context, State, millis};
use crate::group::error;
use crate::group::member::{Member, Parked};
use crate::group::request::{encode, sync_error};
use crate::group::timer::TimerKey;
use crate::group::write::Then;

impl ClassicGroup {
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

    pub(super) fn check_sync(&self, request: &SyncGroupRequest, version: i16) -> Result<Arc<str>, i16> {
        // KIP-559: since version 5 both are mandatory.
        if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
            return Err(error::INCONSISTENT_GROUP_PROTOCOL);
        }
        let instance_id = request.group_instance_id.as_deref();
        let member_id = self.check_member(&request.member_id, instance_id)?;
        let differs = |asked: &Option<StrBytes>, ours: &Option<Arc<str>>| {
            asked.as_ref().zip(ours.as_ref()).is_some_and(|(asked, ours)| **asked != **ours)
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
    pub(super) fn synced(&mut self, cx: &mut Context<'_>, member_id: &Arc<str>) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.pending_sync = false;
        }
        if self.members.values().all(|member| !member.pending_sync) {
            cx.timers.cancel(&TimerKey::Sync(cx.group_id.clone()));
        }
    }

    /// Writes the leader's assignments.
    pub(super) fn assign(&mut self, cx: &mut Context<'_>, request: &SyncGroupRequest) {
        let mut assignments: BTreeMap<Arc<str>, Bytes> = BTreeMap::new();
        for assigned in &request.assignments {
            if let Some((id, _)) = self.members.get_key_value(assigned.member_id.as_str()) {
                let assignment = Bytes::copy_from_slice(&assigned.assignment);
                assignments.insert(id.clone(), assignment);
            }
        }
        let (record, bytes) =
            self.to_record(cx.group_id, |member| assignments.get(&member.id).cloned().unwrap_or_default());
        if bytes > cx.config.write_bytes_max {
            return self.assigned(cx, self.generation, assignments, error::UNKNOWN_SERVER_ERROR);
        }
        self.state = State::CompletingRebalance { assigning: true };
        let write = cx.write(vec![record]);
        let then = Then::Assign { group: cx.group_id.clone(), generation: self.generation, assignments };
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
            self.bytes -= member.held.len();
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            member.held = member.assignment.clone();
            self.bytes += member.held.len();
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

    pub(super) fn synced_body(&self, version: i16, member: &Member) -> Bytes {
        let mut response = SyncGroupResponse::default();
        if version >= 5 {
            response.protocol_type = self.protocol_type.as_deref().map(StrBytes::from);
            response.protocol_name = self.protocol.as_deref().map(StrBytes::from);
        }
        response.assignment = member.assignment.clone();
        encode(version, &response)
    }

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
    pub(super) fn keep_session(&self, cx: &mut Context<'_>, member_id: &Arc<str>) {
        let member = &self.members[member_id];
        cx.schedule_session(member_id, millis(member.session_timeout_ms));
    }

    /// One member of a LeaveGroup: the error code to answer with. [`ClassicGroup::left`] follows the last one.
    pub fn leave(&mut self, cx: &mut Context<'_>, member_id: &str, instance_id: Option<&str>) -> i16 {
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
}
