//! The rebalance, and the deadlines that drive it on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire_core::StrBytes;

use super::{ClassicGroup, Context, InitialDelay, State, millis};
use crate::group::config::REBALANCE_RETRY_MIN;
use crate::group::error;
use crate::group::request::{join_error, sync_error};
use crate::group::timer::TimerKey;

impl ClassicGroup {
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
        if !matches!(self.state, State::CompletingRebalance { .. } | State::Stable) {
            return;
        }
        let missing: Vec<Arc<str>> =
            self.members.values().filter(|member| member.pending_sync).map(|member| member.id.clone()).collect();
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

    /// Sends all who wait away with this error: the group is served no longer, or not as a classic one.
    pub fn dismiss(&mut self, cx: &mut Context<'_>, error_code: i16) {
        cx.timers.cancel(&TimerKey::Rebalance(cx.group_id.clone()));
        cx.timers.cancel(&TimerKey::Sync(cx.group_id.clone()));
        self.awaiting_join = 0;
        for member in self.members.values_mut() {
            if let Some(parked) = member.awaiting_join.take() {
                let body = join_error(parked.version, error_code, StrBytes::from(&*member.id));
                cx.reply(parked, body);
            }
            if let Some(parked) = member.awaiting_sync.take() {
                cx.reply(parked, sync_error(parked.version, error_code));
            }
        }
    }

    pub(super) fn rebalance_or_complete_join(&mut self, cx: &mut Context<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.maybe_complete_join(cx),
            _ => self.prepare_rebalance(cx),
        }
    }

    /// Asks all members to join again.
    pub fn prepare_rebalance(&mut self, cx: &mut Context<'_>) {
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
            let initial =
                Some(InitialDelay { delay, remaining: rebalance_timeout.saturating_sub(delay), member_added: false });
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

    pub(super) fn maybe_complete_join(&mut self, cx: &mut Context<'_>) {
        if self.state == (State::PreparingRebalance { initial: None }) && self.has_all_joined() {
            self.complete_join(cx);
        }
    }

    /// Ends the joining: whoever has joined makes the next generation.
    pub(super) fn complete_join(&mut self, cx: &mut Context<'_>) {
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
    pub(super) fn withdraw_assignments(&mut self, cx: &mut Context<'_>, error_code: i16) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(parked) = member.awaiting_sync.take() {
                cx.reply(parked, sync_error(parked.version, error_code));
                cx.schedule_session(&member.id, millis(member.session_timeout_ms));
            }
        }
    }

    /// Makes a member that has joined the leader, if the leader has not. `false`: there is none.
    pub(super) fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &Arc<str>| self.members.get(id).is_some_and(|member| member.awaiting_join.is_some());
        if !self.leader.as_ref().is_some_and(has_joined) {
            self.leader = self.members.keys().find(|id| has_joined(id)).cloned();
        }
        self.leader.is_some()
    }

    /// The protocol that all members offer and most of them prefer; among equals the one the leader prefers.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
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
}
