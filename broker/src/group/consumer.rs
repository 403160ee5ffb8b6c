//! A group of the consumer protocol (KIP-848): its members say what they subscribe to, the coordinator assigns.
//!
//! All that lives here is durable: it changes by the replay of records alone ([`ConsumerGroup::replay`]), at the start as
//! later. What a request does is decided from it ([`heartbeat`], [`classic`]) as records; while they are being written the
//! coordinator lets whatever else concerns the members wait, so that a decision never rests on something that may not
//! come true.
//!
//! Three epochs lead to an assignment. The *group's* grows when members, subscriptions or topics change. For it a *target*
//! is computed. Each *member* comes to the target's epoch by itself ([`reconcile`]) as it is heard of.

mod assignor;
mod classic;
mod heartbeat;
mod migration;
mod reconcile;
mod regex;
mod target;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use millstream_storage::TopicId;

use super::member::MEMBER_BYTES;
use super::partitions::{PARTITION_BYTES, PartitionSet};
use super::record::{ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, Record, ResolvedRegex};

pub use assignor::Assignor;
pub use heartbeat::{Decision, Given, Refusal, check};
pub use regex::Resolution;

/// `member_epoch` of a member that joins.
pub const JOINING_EPOCH: i32 = 0;
/// `member_epoch` of a member that leaves.
pub const LEAVING_EPOCH: i32 = -1;
/// `member_epoch` of a static member that leaves and means to come back.
pub const LEAVING_STATIC_EPOCH: i32 = -2;

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerMember {
    /// What it says of itself.
    pub metadata: ConsumerMemberMetadata,
    /// What it has.
    pub current: CurrentAssignment,
}

impl ConsumerMember {
    /// Whether it speaks the classic protocol.
    pub fn is_classic(&self) -> bool {
        self.metadata.classic.is_some()
    }

    /// A static member that went and means to come back.
    pub fn is_away(&self) -> bool {
        self.current.epoch == LEAVING_STATIC_EPOCH
    }

    /// The memory it takes, in a coordinator's count.
    pub fn bytes(&self, id: &str) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let metadata = &self.metadata;
        let protocols = metadata.classic.iter().flat_map(|classic| &classic.protocols);
        MEMBER_BYTES
            + 2 * id.len()
            + 2 * text(&metadata.instance_id)
            + text(&metadata.rack_id)
            + metadata.client_id.len()
            + metadata.client_host.len()
            + text(&metadata.regex)
            + text(&metadata.assignor)
            + metadata.topics.iter().map(|topic| NAME_BYTES + topic.len()).sum::<usize>()
            + protocols.map(|(name, metadata)| 64 + name.len() + metadata.len()).sum::<usize>()
            + self.current.assigned.bytes()
            + self.current.pending_revocation.bytes()
            + self.current.owned().count() * OWNER_BYTES
    }
}

/// What a name in a list takes beside its text, in a coordinator's count of its memory.
pub const NAME_BYTES: usize = 32;
/// What it takes to know who has a partition.
const OWNER_BYTES: usize = 2 * PARTITION_BYTES;

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// No members.
    Empty,
    /// The target is to be computed anew.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    /// Every member has what it is to have.
    Stable,
}

impl ConsumerState {
    /// Kafka's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            ConsumerState::Empty => "Empty",
            ConsumerState::Assigning => "Assigning",
            ConsumerState::Reconciling => "Reconciling",
            ConsumerState::Stable => "Stable",
        }
    }
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerGroup {
    epoch: i32,
    /// Of the topics that the epoch was made for.
    topics_hash: i64,
    target_epoch: i32,
    members: BTreeMap<Arc<str>, ConsumerMember>,
    targets: BTreeMap<Arc<str>, PartitionSet>,
    regexes: BTreeMap<Arc<str>, ResolvedRegex>,
    /// Who has a partition: nobody else may.
    owners: HashMap<(TopicId, i32), Arc<str>>,
    /// Member ids of static members, by instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// How many members subscribe to a topic by its name.
    subscribers: BTreeMap<Arc<str>, usize>,
    /// How many members subscribe by a regular expression.
    regex_subscribers: BTreeMap<Arc<str>, usize>,
    /// How many members that speak the classic protocol offer each of its protocols.
    classic_protocols: BTreeMap<Arc<str>, usize>,
    classic_members: usize,
    bytes: usize,
}

impl ConsumerGroup {
    /// Takes a record that is durable.
    pub fn replay(&mut self, part: ConsumerRecord) {
        match part {
            ConsumerRecord::Epoch(Some((epoch, topics_hash))) => {
                self.epoch = epoch;
                self.topics_hash = topics_hash;
            }
            ConsumerRecord::TargetEpoch(epoch) => self.target_epoch = epoch.unwrap_or(0),
            ConsumerRecord::Target(id, target) => {
                let before = match target {
                    Some(target) => {
                        self.bytes += target.bytes();
                        self.targets.insert(id, target)
                    }
                    None => self.targets.remove(&id),
                };
                self.bytes -= before.as_ref().map_or(0, PartitionSet::bytes);
            }
            ConsumerRecord::Member(id, Some(metadata)) => {
                let member = self.take_out(&id);
                self.put_in(id, ConsumerMember { metadata, current: member.unwrap_or_default().current });
            }
            ConsumerRecord::Current(id, Some(current)) => {
                let member = self.take_out(&id);
                self.put_in(id, ConsumerMember { metadata: member.unwrap_or_default().metadata, current });
            }
            // A member goes with both of its records, of which the current assignment's is the first.
            ConsumerRecord::Current(id, None) => {
                if let Some(member) = self.take_out(&id) {
                    self.put_in(id, ConsumerMember { current: CurrentAssignment::default(), ..member });
                }
            }
            ConsumerRecord::Member(id, None) => {
                self.take_out(&id);
            }
            ConsumerRecord::Regex(regex, resolved) => {
                let before = match resolved {
                    Some(resolved) => {
                        self.bytes += regex_bytes(&regex, &resolved);
                        self.regexes.insert(regex.clone(), resolved)
                    }
                    None => self.regexes.remove(&regex),
                };
                self.bytes -= before.as_ref().map_or(0, |before| regex_bytes(&regex, before));
            }
            ConsumerRecord::Epoch(None) => unreachable!("the coordinator forgets the whole group"),
        }
    }

    fn put_in(&mut self, id: Arc<str>, member: ConsumerMember) {
        self.bytes += member.bytes(&id);
        if let Some(instance_id) = &member.metadata.instance_id {
            self.static_members.insert(instance_id.clone(), id.clone());
        }
        member.metadata.topics.iter().for_each(|topic| count(&mut self.subscribers, topic));
        member.metadata.regex.iter().for_each(|regex| count(&mut self.regex_subscribers, regex));
        if let Some(classic) = &member.metadata.classic {
            self.classic_members += 1;
            classic.protocols.iter().for_each(|(name, _)| count(&mut self.classic_protocols, name));
        }
        for partition in member.current.owned() {
            self.owners.insert(partition, id.clone());
        }
        let previous = self.members.insert(id, member);
        assert!(previous.is_none(), "a member is put in once");
    }

    fn take_out(&mut self, id: &str) -> Option<ConsumerMember> {
        let member = self.members.remove(id)?;
        self.bytes -= member.bytes(id);
        if let Some(instance_id) = &member.metadata.instance_id
            && self.static_members.get(instance_id).is_some_and(|member| **member == *id)
        {
            self.static_members.remove(instance_id);
        }
        member.metadata.topics.iter().for_each(|topic| uncount(&mut self.subscribers, topic));
        member.metadata.regex.iter().for_each(|regex| uncount(&mut self.regex_subscribers, regex));
        if let Some(classic) = &member.metadata.classic {
            self.classic_members -= 1;
            classic.protocols.iter().for_each(|(name, _)| uncount(&mut self.classic_protocols, name));
        }
        for partition in member.current.owned() {
            if self.owners.get(&partition).is_some_and(|owner| **owner == *id) {
                self.owners.remove(&partition);
            }
        }
        Some(member)
    }

    /// The members, by id.
    pub fn members(&self) -> &BTreeMap<Arc<str>, ConsumerMember> {
        &self.members
    }

    /// The static member of this instance id.
    fn static_member(&self, instance_id: &str) -> Option<(&Arc<str>, &ConsumerMember)> {
        self.members.get_key_value(self.static_members.get(instance_id)?)
    }

    /// Where it is in its life.
    pub fn state(&self) -> ConsumerState {
        if self.members.is_empty() {
            ConsumerState::Empty
        } else if self.epoch != self.target_epoch {
            ConsumerState::Assigning
        } else if self.members.values().all(|member| member.current.is_reconciled_to(self.target_epoch)) {
            ConsumerState::Stable
        } else {
            ConsumerState::Reconciling
        }
    }

    /// The memory it takes, in a coordinator's count.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The epoch that follows.
    fn next_epoch(&self) -> i32 {
        self.epoch.checked_add(1).unwrap_or(1)
    }

    /// Whether a member subscribes by a regular expression whose topics have not been looked for.
    pub fn has_unresolved_regexes(&self) -> bool {
        self.regex_subscribers.keys().any(|regex| !self.regexes.contains_key(regex))
    }

    /// The regular expressions that members subscribe by.
    pub fn regexes(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.regex_subscribers.keys()
    }

    /// The topics that a member with this metadata reads.
    fn topics_of<'a>(&'a self, metadata: &'a ConsumerMemberMetadata) -> impl Iterator<Item = &'a Arc<str>> + 'a {
        let resolved = metadata.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        metadata.topics.iter().chain(resolved.into_iter().flat_map(|resolved| &resolved.topics))
    }

    /// Every topic that members read, with `updated` in the place of the member of its id.
    fn subscribed_topics<'a>(&'a self, updated: Option<(&str, &'a ConsumerMemberMetadata)>) -> BTreeSet<&'a str> {
        let before = updated.and_then(|(id, _)| self.members.get(id));
        let is_before = |topic: &Arc<str>| before.is_some_and(|member| member.metadata.topics.contains(topic));
        let named = self.subscribers.iter().filter(|(topic, count)| **count > usize::from(is_before(topic)));
        let before_regex = before.and_then(|member| member.metadata.regex.as_ref());
        let regexes = self
            .regex_subscribers
            .iter()
            .filter(|(regex, count)| **count > usize::from(before_regex == Some(*regex)))
            .filter_map(|(regex, _)| self.regexes.get(regex));
        let mut topics: BTreeSet<&str> = named.map(|(topic, _)| &**topic).collect();
        topics.extend(regexes.flat_map(|resolved| &resolved.topics).map(|topic| &**topic));
        topics.extend(updated.into_iter().flat_map(|(_, metadata)| self.topics_of(metadata)).map(|topic| &**topic));
        topics
    }

    /// The records that make this group.
    pub fn records(&self) -> Vec<ConsumerRecord> {
        let mut records: Vec<ConsumerRecord> = self
            .members
            .iter()
            .map(|(id, member)| ConsumerRecord::Member(id.clone(), Some(member.metadata.clone())))
            .collect();
        let regexes = self.regexes.iter();
        records.extend(regexes.map(|(regex, resolved)| ConsumerRecord::Regex(regex.clone(), Some(resolved.clone()))));
        records.push(ConsumerRecord::Epoch(Some((self.epoch, self.topics_hash))));
        let targets = self.targets.iter();
        records.extend(targets.map(|(id, target)| ConsumerRecord::Target(id.clone(), Some(target.clone()))));
        records.push(ConsumerRecord::TargetEpoch(Some(self.target_epoch)));
        let members = self.members.iter();
        records.extend(members.map(|(id, member)| ConsumerRecord::Current(id.clone(), Some(member.current.clone()))));
        records
    }

    /// The records that delete it, the group itself last.
    pub fn tombstones(&self) -> Vec<ConsumerRecord> {
        let mut records: Vec<ConsumerRecord> =
            self.members.keys().map(|id| ConsumerRecord::Current(id.clone(), None)).collect();
        records.extend(self.targets.keys().map(|id| ConsumerRecord::Target(id.clone(), None)));
        records.extend(self.members.keys().map(|id| ConsumerRecord::Member(id.clone(), None)));
        records.extend(self.regexes.keys().map(|regex| ConsumerRecord::Regex(regex.clone(), None)));
        records.push(ConsumerRecord::TargetEpoch(None));
        records.push(ConsumerRecord::Epoch(None));
        records
    }

    /// What holds between any two calls once the group is loaded.
    #[cfg(test)]
    pub fn check_invariants(&self) {
        let mut again = ConsumerGroup::default();
        self.records().into_iter().for_each(|record| again.replay(record));
        assert_eq!(*self, again, "what is counted follows from the records");
        let mut owned = BTreeSet::new();
        for (id, member) in &self.members {
            for partition in member.current.owned() {
                assert!(owned.insert(partition), "{partition:?} is with {id} and another member");
            }
            assert_eq!(
                member.current.pending_revocation.is_empty(),
                member.current.state != super::record::MemberState::UnrevokedPartitions
            );
        }
        assert_eq!(owned.len(), self.owners.len());
    }
}

/// Records of one group as the coordinator writes them.
pub fn of_group(group: &Arc<str>, parts: impl IntoIterator<Item = ConsumerRecord>) -> Vec<Record> {
    parts.into_iter().map(|part| Record::Consumer { group: group.clone(), part }).collect()
}

fn regex_bytes(regex: &str, resolved: &ResolvedRegex) -> usize {
    NAME_BYTES + regex.len() + resolved.topics.iter().map(|topic| NAME_BYTES + topic.len()).sum::<usize>()
}

fn count(counts: &mut BTreeMap<Arc<str>, usize>, name: &Arc<str>) {
    *counts.entry(name.clone()).or_default() += 1;
}

fn uncount(counts: &mut BTreeMap<Arc<str>, usize>, name: &Arc<str>) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
