//! Members of a consumer group that speak the classic protocol: they join, ask for their assignment and are heard of as in
//! a classic group, and to the others they are members like any (KIP-848, "Online Consumer Group Upgrade").
//!
//! The generation they know is their member epoch. A member that has to give back partitions or that may get more is told
//! that a rebalance is in progress, until it joins again: in its subscription it then says what it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::{JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse};
use kafka_wire_core::StrBytes;
use millstream_replication::ClusterImage;

use super::heartbeat::{Decision, Given, Refusal};
use super::target::Updated;
use super::{ConsumerGroup, ConsumerMember};
use crate::group::classic::CONSUMER_PROTOCOL_TYPE;
use crate::group::embedded::{Subscription, encode_assignment};
use crate::group::partitions::PartitionSet;
use crate::group::record::{ClassicProtocols, ConsumerMemberMetadata, MemberState};
use crate::group::{ClientInfo, error};

impl ConsumerGroup {
    /// JoinGroup of a member under an id that it was given, or of a static one under the new id `member_id`.
    pub fn join_classic(
        &self,
        given: Given<'_>,
        request: &JoinGroupRequest,
        member_id: &Arc<str>,
        client: &ClientInfo,
    ) -> Result<(Decision, JoinGroupResponse), Refusal> {
        let static_member = request.group_instance_id.as_deref().and_then(|id| self.static_member(id));
        let replaces = match static_member {
            Some((id, _)) if id == member_id => None,
            Some((id, _)) if request.member_id.is_empty() => Some(id),
            Some((id, _)) => {
                let message = format!("The instance id was taken over by member {id}.");
                return Err(Refusal::new(error::FENCED_INSTANCE_ID, message));
            }
            None if request.group_instance_id.is_some() && !request.member_id.is_empty() => {
                return Err(Refusal::new(error::UNKNOWN_MEMBER_ID, "The instance id is unknown."));
            }
            None => None,
        };
        let known = self.members.get(replaces.unwrap_or(member_id));
        if known.is_none() && self.members.len() >= given.config.consumer_members_max {
            let message = format!("The group has {} members, which is its bound.", self.members.len());
            return Err(Refusal::new(error::GROUP_MAX_SIZE_REACHED, message));
        }
        let inconsistent = |message: &str| Refusal::new(error::INCONSISTENT_GROUP_PROTOCOL, message);
        let first = request.protocols.first().ok_or_else(|| inconsistent("The member offers no protocol."))?;
        let subscription =
            Subscription::decode(&first.metadata).map_err(|_| inconsistent("The subscription cannot be read."))?;
        let metadata = joined_metadata(known, request, &subscription, client);
        let reported: PartitionSet = subscription
            .owned
            .iter()
            .filter_map(|(topic, partition)| Some((given.cluster.topic(topic)?.id, *partition)))
            .collect();
        let updated = Updated { id: member_id, metadata: &metadata, replaces };
        let (decision, current) = self.advance(given, updated, Some(&reported));
        let mut response = JoinGroupResponse::default();
        response.member_id = StrBytes::from(&**member_id);
        response.generation_id = current.epoch;
        response.protocol_type = Some(StrBytes::from(CONSUMER_PROTOCOL_TYPE));
        response.protocol_name = Some(first.name.clone());
        Ok((decision, response))
    }

    /// SyncGroup: the member's assignment, which is there as soon as it has joined.
    pub fn sync_classic(
        &self,
        cluster: &ClusterImage,
        request: &SyncGroupRequest,
    ) -> Result<(Arc<str>, SyncGroupResponse), i16> {
        let (id, member) = self.classic_member(&request.member_id, request.group_instance_id.as_deref())?;
        let classic = member.metadata.classic.as_ref().expect("it was found as one");
        let protocol = classic.protocols.first().map(|(name, _)| name);
        let differs = |asked: &Option<StrBytes>, ours: Option<&str>| {
            asked.as_ref().is_some_and(|asked| ours != Some(asked.as_str()))
        };
        if request.generation_id != member.current.epoch {
            return Err(error::ILLEGAL_GENERATION);
        }
        if differs(&request.protocol_type, Some(CONSUMER_PROTOCOL_TYPE))
            || differs(&request.protocol_name, protocol.map(|name| &**name))
        {
            return Err(error::INCONSISTENT_GROUP_PROTOCOL);
        }
        // One that has to give something back learns by its assignment what.
        if self.epoch > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
            return Err(error::REBALANCE_IN_PROGRESS);
        }
        let mut response = SyncGroupResponse::default();
        response.protocol_type = request.protocol_type.clone();
        response.protocol_name = request.protocol_name.clone();
        response.assignment = classic_assignment(cluster, classic, &member.current.assigned);
        Ok((id.clone(), response))
    }

    /// Heartbeat: the member, and whether it has to join again.
    pub fn heartbeat_classic(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(Arc<str>, bool), i16> {
        let (id, member) = self.classic_member(member_id, instance_id)?;
        if generation != member.current.epoch {
            return Err(error::ILLEGAL_GENERATION);
        }
        let has_to_rejoin = member.current.epoch < self.epoch
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !self.waits_for_others(id, member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        Ok((id.clone(), has_to_rejoin))
    }

    /// A member that speaks the classic protocol, as a request of that protocol names it. An administrator names a static
    /// one by its instance id alone, where `leaves` says that this is allowed.
    pub fn leaving_classic_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<Arc<str>, i16> {
        match (member_id, instance_id) {
            ("", Some(instance_id)) => {
                let (id, member) = self.static_member(instance_id).ok_or(error::UNKNOWN_MEMBER_ID)?;
                if member.is_classic() { Ok(id.clone()) } else { Err(error::UNKNOWN_MEMBER_ID) }
            }
            (member_id, instance_id) => self.classic_member(member_id, instance_id).map(|(id, _)| id.clone()),
        }
    }

    fn classic_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(&Arc<str>, &ConsumerMember), i16> {
        let found = match instance_id {
            None => self.members.get_key_value(member_id),
            Some(instance_id) => match self.static_member(instance_id) {
                Some((id, _)) if **id != *member_id => return Err(error::FENCED_INSTANCE_ID),
                found => found,
            },
        };
        found.filter(|(_, member)| member.is_classic()).ok_or(error::UNKNOWN_MEMBER_ID)
    }

    /// Whether what a member is to have and has not is still with others.
    fn waits_for_others(&self, id: &Arc<str>, member: &ConsumerMember) -> bool {
        let target = self.targets.get(id);
        target.into_iter().flat_map(PartitionSet::iter).any(|(topic, partition)| {
            !member.current.assigned.contains(topic, partition) && self.owners.contains_key(&(topic, partition))
        })
    }

    /// Whether a joining member has a protocol in common with all others that speak the classic protocol.
    pub fn supports_classic(&self, request: &JoinGroupRequest) -> bool {
        let instance = request.group_instance_id.as_deref().and_then(|id| self.static_member(id));
        let itself = instance.map(|(_, member)| member).or_else(|| self.members.get(request.member_id.as_str()));
        let itself = itself.and_then(|member| member.metadata.classic.as_ref());
        let others = self.classic_members - usize::from(itself.is_some());
        request.protocol_type.as_str() == CONSUMER_PROTOCOL_TYPE
            && request.protocols.iter().any(|protocol| {
                let name = protocol.name.as_str();
                let mine =
                    itself.is_some_and(|classic| classic.protocols.iter().any(|(offered, _)| **offered == *name));
                self.classic_protocols.get(name).copied().unwrap_or(0) - usize::from(mine) == others
            })
    }
}

/// What a member that speaks the classic protocol says of itself.
fn joined_metadata(
    known: Option<&ConsumerMember>,
    request: &JoinGroupRequest,
    subscription: &Subscription,
    client: &ClientInfo,
) -> ConsumerMemberMetadata {
    let before = known.map(|known| &known.metadata);
    let mut topics = subscription.topics.clone();
    topics.sort_unstable();
    topics.dedup();
    let mut protocols: Vec<(Arc<str>, Bytes)> = Vec::new();
    for protocol in &request.protocols {
        if !protocols.iter().any(|(name, _)| **name == *protocol.name.as_str()) {
            protocols.push((protocol.name.as_str().into(), Bytes::copy_from_slice(&protocol.metadata)));
        }
    }
    ConsumerMemberMetadata {
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        rack_id: subscription.rack.clone().or_else(|| before.and_then(|before| before.rack_id.clone())),
        client_id: client.client_id.clone(),
        client_host: client.client_host.clone(),
        topics,
        regex: None,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        assignor: None,
        classic: Some(ClassicProtocols { session_timeout_ms: request.session_timeout_ms, protocols }),
    }
}

/// Partitions as a member of the classic protocol is told them, in the version of its subscription.
pub(super) fn classic_assignment(
    cluster: &ClusterImage,
    classic: &ClassicProtocols,
    partitions: &PartitionSet,
) -> Bytes {
    let subscription = classic.protocols.first().and_then(|(_, metadata)| Subscription::decode(metadata).ok());
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for (id, indexes) in partitions.topics() {
        if let Some(topic) = cluster.topic_by_id(id) {
            topics.insert(topic.name.clone(), indexes.iter().copied().collect());
        }
    }
    encode_assignment(subscription.map_or(0, |subscription| subscription.version), &topics)
}
