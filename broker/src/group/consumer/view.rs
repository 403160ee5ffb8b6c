//! What others ask of a group: may offsets be committed, fetched, deleted or forgotten, and what does it look like.

use kafka_wire::consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
use kafka_wire_core::{StrBytes, Uuid};
use millstream_replication::ClusterImage;

use super::{Assignor, ConsumerGroup, ConsumerState};
use crate::group::error;
use crate::group::partitions::PartitionSet;
use crate::group::record::CommittedOffset;

/// Kafka's number for a member that speaks the classic protocol, since version 1.
const MEMBER_TYPE_CLASSIC: i8 = 0;
/// Kafka's number for a member that speaks the consumer protocol.
const MEMBER_TYPE_CONSUMER: i8 = 1;

impl ConsumerGroup {
    /// Whether a commit by this member at this epoch is to be accepted: the error code if not.
    pub fn check_commit(&self, version: i16, member_id: &str, epoch: i32) -> i16 {
        // A client that assigns partitions by itself, or an administrator.
        if epoch < 0 && self.members.is_empty() {
            return error::NONE;
        }
        match self.members.get(member_id) {
            None => error::UNKNOWN_MEMBER_ID,
            // Before version 9 nobody can be told that its epoch is stale.
            Some(member) if version < 9 && !member.is_classic() => error::UNSUPPORTED_VERSION,
            Some(member) if member.current.epoch == epoch => error::NONE,
            Some(member) if member.is_classic() => error::ILLEGAL_GENERATION,
            Some(_) => error::STALE_MEMBER_EPOCH,
        }
    }

    /// Whether a member at this epoch may fetch offsets: the error code if not.
    pub fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> i16 {
        let Some(member_id) = member_id else {
            return if epoch < 0 { error::NONE } else { error::UNKNOWN_MEMBER_ID };
        };
        match self.members.get(member_id) {
            None => error::UNKNOWN_MEMBER_ID,
            Some(member) if member.current.epoch == epoch => error::NONE,
            Some(member) if member.is_classic() => error::ILLEGAL_GENERATION,
            Some(_) => error::STALE_MEMBER_EPOCH,
        }
    }

    /// Whether a member reads this topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribers.contains_key(topic)
            || self.regexes.values().any(|resolved| resolved.topics.iter().any(|name| **name == *topic))
    }

    /// Whether a committed offset has outlived its use: the retention counts from the commit while nobody reads the topic.
    pub fn has_expired(&self, topic: &str, committed: &CommittedOffset, now_ms: i64, retention_ms: i64) -> bool {
        !self.is_subscribed_to(topic)
            && match committed.expire_timestamp_ms {
                Some(expire_ms) => now_ms >= expire_ms,
                None => now_ms.saturating_sub(committed.commit_timestamp_ms) >= retention_ms,
            }
    }

    /// Its part of a ConsumerGroupDescribe response.
    pub fn describe(&self, version: i16, cluster: &ClusterImage, assignors: &[Assignor]) -> DescribedGroup {
        let mut group = DescribedGroup::default();
        group.group_state = StrBytes::from(self.state().name());
        group.group_epoch = self.epoch;
        group.assignment_epoch = self.target_epoch;
        group.assignor_name = StrBytes::from(self.assignor(assignors).name());
        let nothing = PartitionSet::default();
        for (id, member) in &self.members {
            let metadata = &member.metadata;
            let mut part = Member::default();
            part.member_id = StrBytes::from(&**id);
            part.instance_id = metadata.instance_id.as_deref().map(StrBytes::from);
            part.rack_id = metadata.rack_id.as_deref().map(StrBytes::from);
            part.member_epoch = member.current.epoch;
            part.client_id = StrBytes::from(&*metadata.client_id);
            part.client_host = StrBytes::from(&*metadata.client_host);
            part.subscribed_topic_names = metadata.topics.iter().map(|topic| StrBytes::from(&**topic)).collect();
            part.subscribed_topic_regex = metadata.regex.as_deref().map(StrBytes::from);
            part.assignment = described(cluster, &member.current.assigned);
            part.target_assignment = described(cluster, self.targets.get(id).unwrap_or(&nothing));
            if version >= 1 {
                part.member_type = if member.is_classic() { MEMBER_TYPE_CLASSIC } else { MEMBER_TYPE_CONSUMER };
            }
            group.members.push(part);
        }
        group
    }

    /// Whether nobody is in it.
    pub fn is_deserted(&self) -> bool {
        self.state() == ConsumerState::Empty
    }
}

/// Partitions of topics that exist.
fn described(cluster: &ClusterImage, partitions: &PartitionSet) -> Assignment {
    let mut described = Assignment::default();
    for (id, indexes) in partitions.topics() {
        let Some(topic) = cluster.topic_by_id(id) else { continue };
        let mut part = TopicPartitions::default();
        part.topic_id = Uuid::from_bytes(id.0);
        part.topic_name = StrBytes::from(&*topic.name);
        part.partitions = indexes.iter().copied().collect();
        described.topic_partitions.push(part);
    }
    described
}
