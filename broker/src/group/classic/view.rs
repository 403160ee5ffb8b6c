//! What others ask of a group: may offsets be committed, deleted or forgotten, and what does it look like.

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_wire::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire_core::StrBytes;

use super::{CONSUMER_PROTOCOL_TYPE, ClassicGroup, Context, State};
use crate::group::record::CommittedOffset;
use crate::group::{embedded, error};

impl ClassicGroup {
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
    pub fn has_expired(&self, topic: &str, committed: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
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

    pub(super) fn subscribed_topics(&self) -> Option<BTreeSet<Arc<str>>> {
        if self.protocol_type() != CONSUMER_PROTOCOL_TYPE {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref());
            embedded::add_topics(&metadata, &mut topics)?;
        }
        Some(topics)
    }

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
            part.group_instance_id =
                (version >= 4).then_some(member.instance_id.as_deref()).flatten().map(StrBytes::from);
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
