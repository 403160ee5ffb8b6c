//! ConsumerGroupHeartbeat: members join, are heard of, and leave (KIP-848, "Consumer Group Heartbeat API").

use std::sync::Arc;

use kafka_wire::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_wire_core::{StrBytes, Uuid};
use millstream_replication::ClusterImage;
use millstream_storage::TopicId;

use super::reconcile::reconciled;
use super::regex::{self, REGEX_BYTES_MAX};
use super::target::Updated;
use super::{Assignor, ConsumerGroup, ConsumerMember, JOINING_EPOCH, LEAVING_EPOCH, LEAVING_STATIC_EPOCH, uncount};
use crate::group::config::GroupConfig;
use crate::group::partitions::PartitionSet;
use crate::group::record::{ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, MemberState};
use crate::group::{ClientInfo, error};

/// Why a request is refused: the error code, and a text for who reads the client's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error code.
    pub code: i16,
    /// What is wrong.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: i16, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }
}

/// What is known when a request is decided.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The topics there are.
    pub cluster: &'a ClusterImage,
    /// The settings.
    pub config: &'a GroupConfig,
    /// Whether the topics that members subscribe to may be others than at the group's epoch.
    pub topics_may_have_changed: bool,
}

/// What follows from a request: it comes true when the records are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be written, in order; none if nothing changes.
    pub records: Vec<ConsumerRecord>,
    /// The member that it is about, if it stays in the group.
    pub member: Option<Arc<str>>,
    /// The member was heard of: its session begins anew.
    pub is_heard_of: bool,
    /// Its current assignment changes: the time it has to give partitions back begins or ends.
    pub reconciles: bool,
}

/// Checks what can be told from a request alone.
pub fn check(version: i16, request: &ConsumerGroupHeartbeatRequest, assignors: &[Assignor]) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(error::INVALID_REQUEST, message));
    let is_empty = |text: &Option<StrBytes>| text.as_ref().is_some_and(|text| text.is_empty());
    // Since version 1 clients make their ids themselves (KIP-1082).
    let needs_id = version >= 1 || request.member_epoch != JOINING_EPOCH;
    let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
    match request.member_epoch {
        _ if request.group_id.is_empty() => return invalid("GroupId can't be empty."),
        _ if is_empty(&request.instance_id) => return invalid("InstanceId can't be empty."),
        _ if is_empty(&request.rack_id) => return invalid("RackId can't be empty."),
        epoch if epoch < LEAVING_STATIC_EPOCH => return invalid("MemberEpoch is invalid."),
        _ if needs_id && request.member_id.is_empty() => return invalid("MemberId can't be empty."),
        LEAVING_STATIC_EPOCH if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        JOINING_EPOCH => {
            if request.rebalance_timeout_ms == -1 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if !request.topic_partitions.as_ref().is_some_and(Vec::is_empty) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if !subscribes {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        }
        _ => {}
    }
    if let Some(name) = &request.server_assignor
        && !assignors.iter().any(|assignor| assignor.name() == name.as_str())
    {
        let served: Vec<&str> = assignors.iter().map(|assignor| assignor.name()).collect();
        let message = format!("ServerAssignor {name} is not supported. Supported assignors: {}.", served.join(", "));
        return Err(Refusal::new(error::UNSUPPORTED_ASSIGNOR, message));
    }
    Ok(())
}

impl ConsumerGroup {
    /// A heartbeat of a member that joins or stays.
    pub fn heartbeat(
        &self,
        given: Given<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        member_id: &Arc<str>,
        client: &ClientInfo,
    ) -> Result<(Decision, ConsumerGroupHeartbeatResponse), Refusal> {
        let is_joining = request.member_epoch == JOINING_EPOCH;
        let reported = request.topic_partitions.as_ref().map(|topics| {
            topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().map(|index| (TopicId(*topic.topic_id.as_bytes()), *index)))
                .collect::<PartitionSet>()
        });
        let instance_id = request.instance_id.as_deref();
        let (before, replaces) = match instance_id.and_then(|id| self.static_member(id)) {
            Some((id, member)) if is_joining && id != member_id => {
                if !member.is_classic() && !member.is_away() {
                    let message = format!("The instance id is owned by member {id}, which has not left.");
                    return Err(Refusal::new(error::UNRELEASED_INSTANCE_ID, message));
                }
                (Some(member), Some(id))
            }
            Some((id, _)) if id != member_id => {
                let message = format!("The instance id was taken over by member {id}.");
                return Err(Refusal::new(error::FENCED_INSTANCE_ID, message));
            }
            _ => (self.members.get(member_id), None),
        };
        if before.is_none() && !is_joining {
            return Err(Refusal::new(error::UNKNOWN_MEMBER_ID, format!("Member {member_id} is not in the group.")));
        }
        if let Some(before) = before
            && !is_joining
        {
            check_epoch(&before.current, request.member_epoch, reported.as_ref())?;
        }
        if before.is_none() && self.members.len() >= given.config.consumer_members_max {
            let message = format!("The group has {} members, which is its bound.", self.members.len());
            return Err(Refusal::new(error::GROUP_MAX_SIZE_REACHED, message));
        }
        let metadata = updated_metadata(before, request, client);
        if before.and_then(|before| before.metadata.regex.as_ref()) != metadata.regex.as_ref()
            && let Some(pattern) = &metadata.regex
        {
            self.check_regex(pattern)?;
        }
        let before_current = before.map(|before| &before.current);
        let (decision, current) =
            self.advance(given, Updated { id: member_id, metadata: &metadata, replaces }, reported.as_ref());
        let mut response = ConsumerGroupHeartbeatResponse::default();
        response.member_id = Some(StrBytes::from(&**member_id));
        response.member_epoch = current.epoch;
        response.heartbeat_interval_ms = given.config.consumer_heartbeat_interval_ms;
        // All is told to who joins or tells all, as a client does that has lost a response; else only what is new.
        let is_full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        if is_joining || is_full || before_current.is_none_or(|before| before.assigned != current.assigned) {
            response.assignment = Some(assignment(&current.assigned));
        }
        Ok((decision, response))
    }

    /// Brings a member, as it is about to be, a step on: the group's epoch, the target and its own assignment follow.
    pub(super) fn advance(
        &self,
        given: Given<'_>,
        updated: Updated<'_>,
        reported: Option<&PartitionSet>,
    ) -> (Decision, CurrentAssignment) {
        let Updated { id, metadata, replaces } = updated;
        let known = self.members.get(replaces.unwrap_or(id));
        let mut records = Vec::new();
        if let Some(replaced) = replaces {
            records.extend(removal(replaced));
        }
        let is_changed = known.is_none_or(|known| known.metadata != *metadata) || replaces.is_some();
        if is_changed {
            records.push(ConsumerRecord::Member(id.clone(), Some(metadata.clone())));
        }
        records.extend(self.forgotten_regex(updated));
        let subscribes_anew = known
            .is_none_or(|known| known.metadata.topics != metadata.topics || known.metadata.regex != metadata.regex);
        let mut epoch = self.epoch;
        // Somebody has gone since the last target was computed: its epoch waits for this one.
        let is_due = self.epoch != self.target_epoch;
        if subscribes_anew || is_due || given.topics_may_have_changed {
            let as_member = replaces.unwrap_or(id);
            let topics_hash = Self::hash_topics(given.cluster, &self.subscribed_topics(Some((as_member, metadata))));
            if subscribes_anew || (topics_hash != self.topics_hash && !is_due) {
                epoch = self.next_epoch();
            }
            if epoch != self.epoch || topics_hash != self.topics_hash {
                records.push(ConsumerRecord::Epoch(Some((epoch, topics_hash))));
            }
        }
        let target_of = |id: &Arc<str>| self.targets.get(id).cloned().unwrap_or_default();
        let target = if epoch != self.target_epoch {
            let (targets, target) = self.assign(given.cluster, &given.config.consumer_assignors, epoch, Some(updated));
            records.extend(targets);
            target
        } else {
            let target = target_of(replaces.unwrap_or(id));
            if replaces.is_some() {
                records.push(ConsumerRecord::Target(id.clone(), Some(target.clone())));
            }
            target
        };
        // Who takes another's place takes what it has, and begins at the epoch of one that joins.
        let from = match known {
            Some(known) if replaces.is_some() => {
                CurrentAssignment { epoch: JOINING_EPOCH, previous_epoch: JOINING_EPOCH, ..known.current.clone() }
            }
            Some(known) if known.is_away() => CurrentAssignment { epoch: JOINING_EPOCH, ..known.current.clone() },
            Some(known) => known.current.clone(),
            None => CurrentAssignment::default(),
        };
        let is_mine = |owner: &Arc<str>| replaces == Some(owner);
        let current = reconciled(&from, epoch, &target, reported, |topic, partition| {
            self.owners.get(&(topic, partition)).is_some_and(|owner| !is_mine(owner))
        });
        let reconciles = known.is_none_or(|known| known.current != current) || replaces.is_some();
        if reconciles {
            records.push(ConsumerRecord::Current(id.clone(), Some(current.clone())));
        }
        (Decision { records, member: Some(id.clone()), is_heard_of: true, reconciles }, current)
    }

    /// A heartbeat of a member that leaves.
    pub fn leave(
        &self,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<(Decision, ConsumerGroupHeartbeatResponse), Refusal> {
        let unknown = || Refusal::new(error::UNKNOWN_MEMBER_ID, "The member is not in the group.");
        let (id, member) = match request.instance_id.as_deref() {
            None => self.members.get_key_value(request.member_id.as_str()).ok_or_else(unknown)?,
            Some(instance_id) => {
                let (id, member) = self.static_member(instance_id).ok_or_else(unknown)?;
                if **id != *request.member_id.as_str() {
                    let message = format!("The instance id was taken over by member {id}.");
                    return Err(Refusal::new(error::FENCED_INSTANCE_ID, message));
                }
                (id, member)
            }
        };
        let decision = if request.member_epoch == LEAVING_EPOCH {
            self.remove([id])
        } else {
            // It keeps what it has until it comes back or its session ends.
            let current = CurrentAssignment {
                epoch: LEAVING_STATIC_EPOCH,
                state: match member.current.state {
                    MemberState::UnrevokedPartitions => MemberState::Stable,
                    state => state,
                },
                pending_revocation: PartitionSet::default(),
                ..member.current.clone()
            };
            let records = vec![ConsumerRecord::Current(id.clone(), Some(current))];
            Decision { records, member: Some(id.clone()), is_heard_of: false, reconciles: true }
        };
        let mut response = ConsumerGroupHeartbeatResponse::default();
        response.member_id = Some(request.member_id.clone());
        response.member_epoch = request.member_epoch;
        Ok((decision, response))
    }

    /// Members are gone: the next one that is heard of brings the target to the new epoch.
    pub fn remove<'a>(&self, ids: impl IntoIterator<Item = &'a Arc<str>> + Clone) -> Decision {
        let mut records: Vec<ConsumerRecord> = ids.clone().into_iter().flat_map(removal).collect();
        let mut left = self.regex_subscribers.clone();
        for regex in ids.into_iter().filter_map(|id| self.members.get(id)?.metadata.regex.as_ref()) {
            uncount(&mut left, regex);
        }
        let forgotten = self.regexes.keys().filter(|regex| !left.contains_key(*regex));
        records.extend(forgotten.map(|regex| ConsumerRecord::Regex(regex.clone(), None)));
        // The topics are hashed again with the next target.
        records.push(ConsumerRecord::Epoch(Some((self.next_epoch(), self.topics_hash))));
        Decision { records, ..Decision::default() }
    }

    /// The record of the regular expression that a member subscribed by, if nobody does any more.
    fn forgotten_regex(&self, updated: Updated<'_>) -> Option<ConsumerRecord> {
        let before = self.members.get(updated.replaces.unwrap_or(updated.id))?.metadata.regex.as_ref()?;
        let is_last = self.regex_subscribers.get(before) == Some(&1) && updated.metadata.regex.as_ref() != Some(before);
        (is_last && self.regexes.contains_key(before)).then(|| ConsumerRecord::Regex(before.clone(), None))
    }

    fn check_regex(&self, pattern: &Arc<str>) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::new(error::INVALID_REGULAR_EXPRESSION, message));
        if self.regex_subscribers.contains_key(pattern) {
            return Ok(());
        }
        if pattern.len() > REGEX_BYTES_MAX {
            return invalid(format!("A regular expression has at most {REGEX_BYTES_MAX} bytes."));
        }
        if self.regex_subscribers.len() >= regex::REGEXES_MAX {
            return invalid(format!("The group has {} regular expressions, which is its bound.", regex::REGEXES_MAX));
        }
        regex::compile(pattern).map(|_| ()).or_else(invalid)
    }
}

/// The records that remove a member.
pub(super) fn removal(id: &Arc<str>) -> [ConsumerRecord; 3] {
    [
        ConsumerRecord::Current(id.clone(), None),
        ConsumerRecord::Target(id.clone(), None),
        ConsumerRecord::Member(id.clone(), None),
    ]
}

/// A member comes with its epoch, or with the one before if it has not heard of the last change: then it must not have
/// more than it may.
fn check_epoch(current: &CurrentAssignment, epoch: i32, reported: Option<&PartitionSet>) -> Result<(), Refusal> {
    let has_no_more = || reported.is_some_and(|reported| reported.is_subset(&current.assigned));
    if epoch == current.epoch || (epoch == current.previous_epoch && epoch < current.epoch && has_no_more()) {
        return Ok(());
    }
    let relation = if epoch > current.epoch { "greater" } else { "smaller" };
    let message = format!(
        "The member has a {relation} epoch ({epoch}) than the one known here ({}). It must abandon all its partitions and \
         rejoin.",
        current.epoch
    );
    Err(Refusal::new(error::FENCED_MEMBER_EPOCH, message))
}

/// What a member says of itself: a field that it leaves out stays as it was.
fn updated_metadata(
    before: Option<&ConsumerMember>,
    request: &ConsumerGroupHeartbeatRequest,
    client: &ClientInfo,
) -> ConsumerMemberMetadata {
    let mut metadata = before.map(|before| before.metadata.clone()).unwrap_or_default();
    let text = |text: &StrBytes| Arc::from(text.as_str());
    if let Some(instance_id) = &request.instance_id {
        metadata.instance_id = Some(text(instance_id));
    }
    if let Some(rack_id) = &request.rack_id {
        metadata.rack_id = Some(text(rack_id));
    }
    if request.rebalance_timeout_ms != -1 {
        metadata.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(assignor) = &request.server_assignor {
        metadata.assignor = Some(text(assignor));
    }
    if let Some(names) = &request.subscribed_topic_names {
        metadata.topics = names.iter().map(text).collect();
        metadata.topics.sort_unstable();
        metadata.topics.dedup();
    }
    if let Some(pattern) = &request.subscribed_topic_regex {
        // The empty one takes a subscription back.
        metadata.regex = (!pattern.is_empty()).then(|| text(pattern));
    }
    metadata.client_id = client.client_id.clone();
    metadata.client_host = client.client_host.clone();
    metadata.classic = None;
    metadata
}

/// What a member may read, as it is told.
fn assignment(assigned: &PartitionSet) -> Assignment {
    let mut told = Assignment::default();
    for (topic, partitions) in assigned.topics() {
        let mut part = TopicPartitions::default();
        part.topic_id = Uuid::from_bytes(topic.0);
        part.partitions = partitions.iter().copied().collect();
        told.topic_partitions.push(part);
    }
    told
}
