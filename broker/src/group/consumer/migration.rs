//! From a classic group to a consumer group and back, while its members go on (KIP-848, "Online Consumer Group Upgrade").

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::ClusterImage;

use super::ConsumerGroup;
use super::classic::classic_assignment;
use crate::group::classic::{CONSUMER_PROTOCOL_TYPE, ClassicGroup};
use crate::group::config::GroupConfig;
use crate::group::embedded::{Subscription, decode_assignment};
use crate::group::member::{Member, Protocol};
use crate::group::partitions::PartitionSet;
use crate::group::record::{ClassicProtocols, ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, MemberState};

impl ConsumerGroup {
    /// The group that a classic one becomes: each member has what it was assigned last, and goes on speaking the classic
    /// protocol. `None`: the members are not consumers, or what their assignor gave them cannot be read or gives one
    /// partition to two.
    pub fn from_classic(classic: &ClassicGroup, cluster: &ClusterImage) -> Option<ConsumerGroup> {
        if classic.protocol_type() != CONSUMER_PROTOCOL_TYPE {
            return None;
        }
        let epoch = classic.generation();
        let mut group = ConsumerGroup::default();
        let mut given = BTreeSet::new();
        for (id, member) in classic.members() {
            let protocols: Vec<(Arc<str>, Bytes)> =
                member.protocols.iter().map(|protocol| (protocol.name.clone(), protocol.metadata.clone())).collect();
            let subscription = Subscription::decode(&protocols.first()?.1).ok()?;
            let mut assigned = PartitionSet::default();
            for (topic, partition) in decode_assignment(&member.held).ok()? {
                let Some(topic) = cluster.topic(&topic) else { continue };
                if !given.insert((topic.id, partition)) {
                    return None;
                }
                assigned.insert(topic.id, partition);
            }
            let mut topics = subscription.topics;
            topics.sort_unstable();
            topics.dedup();
            let metadata = ConsumerMemberMetadata {
                instance_id: member.instance_id.clone(),
                rack_id: subscription.rack,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics,
                regex: None,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(ClassicProtocols { session_timeout_ms: member.session_timeout_ms, protocols }),
            };
            let current = CurrentAssignment {
                epoch,
                previous_epoch: epoch,
                state: MemberState::Stable,
                assigned: assigned.clone(),
                pending_revocation: PartitionSet::default(),
            };
            group.replay(ConsumerRecord::Member(id.clone(), Some(metadata)));
            group.replay(ConsumerRecord::Target(id.clone(), Some(assigned)));
            group.replay(ConsumerRecord::Current(id.clone(), Some(current)));
        }
        let topics_hash = Self::hash_topics(cluster, &group.subscribed_topics(None));
        group.replay(ConsumerRecord::Epoch(Some((epoch, topics_hash))));
        group.replay(ConsumerRecord::TargetEpoch(Some(epoch)));
        Some(group)
    }

    /// Whether the group should become a classic one: nobody is left who speaks the consumer protocol.
    pub fn is_to_be_classic(&self, config: &GroupConfig) -> bool {
        config.migration.allows_downgrade()
            && !self.members.is_empty()
            && self.classic_members == self.members.len()
            && self.members.len() <= config.members_max
    }

    /// The classic group that this one becomes, in which members have what they are to have.
    pub fn to_classic(&self, cluster: &ClusterImage, now_ms: i64) -> ClassicGroup {
        let members = self.members.iter().filter_map(|(id, member)| {
            let classic = member.metadata.classic.as_ref()?;
            let empty = PartitionSet::default();
            let target = self.targets.get(id).unwrap_or(&empty);
            let assignment = classic_assignment(cluster, classic, target);
            let protocols = classic.protocols.iter();
            Some(Member {
                id: id.clone(),
                instance_id: member.metadata.instance_id.clone(),
                client_id: member.metadata.client_id.clone(),
                client_host: member.metadata.client_host.clone(),
                rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                protocols: protocols
                    .map(|(name, metadata)| Protocol { name: name.clone(), metadata: metadata.clone() })
                    .collect(),
                held: classic_assignment(cluster, classic, &member.current.assigned),
                assignment,
                awaiting_join: None,
                awaiting_sync: None,
                pending_sync: false,
                is_new: false,
            })
        });
        ClassicGroup::of_consumers(self.epoch, members, now_ms)
    }
}
