//! Committing, fetching, deleting and forgetting offsets.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_wire::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::{OffsetCommitRequest, OffsetDeleteResponse};
use millstream_storage::Now;

use super::{Coordinator, Group, Kind, offset_tombstone, record_bytes};
use crate::group::config::{EXPIRY_GROUPS_PER_STEP, EXPIRY_STEP_INTERVAL};
use crate::group::offsets::OFFSET_BYTES;
use crate::group::record::{CommittedOffset, Record};
use crate::group::request::{self, GroupRequest, Refused, RequestKind, encode};
use crate::group::write::Then;
use crate::group::{GroupEffect, RequestRef, error, reply};

impl Coordinator {
    pub(super) fn commit_offsets(
        &mut self,
        now: Now,
        mut request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::OffsetCommit { request: commit, refused } = &mut request.kind else {
            unreachable!("the caller has looked")
        };
        let error_code = self.check_commit(now, version, commit, effects);
        if error_code != error::NONE {
            let body = request.error_reply(error_code);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let group_id: Arc<str> = commit.group_id.as_str().into();
        let records = self.offset_records(now, &group_id, commit, refused);
        let bytes: usize = records.iter().map(record_bytes).sum();
        if bytes > self.config.write_bytes_max {
            let body = request.error_reply(error::INVALID_COMMIT_OFFSET_SIZE);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let body = request::offset_commit(version, commit, |topic, partition| {
            refused.get(&(topic, partition)).copied().unwrap_or(error::NONE)
        });
        if !records.is_empty() {
            self.group_or_new(&group_id, now.unix_ms);
        }
        let write = self.write_all(&group_id, records, effects);
        self.settle(&group_id);
        self.reply_after(write, reference, body, request, effects);
    }

    pub(super) fn check_commit(
        &mut self,
        now: Now,
        version: i16,
        commit: &OffsetCommitRequest,
        effects: &mut Vec<GroupEffect>,
    ) -> i16 {
        let generation = commit.generation_id_or_member_epoch;
        let instance_id = commit.group_instance_id.as_deref();
        if let Some(Group { kind: Kind::Consumer(consumer), .. }) = self.groups.get(commit.group_id.as_str()) {
            return consumer.check_commit(version, &commit.member_id, generation);
        }
        self.with_classic(now, &commit.group_id, effects, |group, cx| {
            group.check_commit(cx, &commit.member_id, instance_id, generation)
        })
        .unwrap_or_else(|| {
            if generation >= 0 && version >= 9 {
                error::GROUP_ID_NOT_FOUND
            } else if generation >= 0 {
                error::ILLEGAL_GENERATION
            } else if !self.has_room_for_group(&commit.group_id) {
                error::POLICY_VIOLATION
            } else {
                error::NONE
            }
        })
    }

    /// The records of a commit; partitions that cannot be committed are refused.
    pub(super) fn offset_records(
        &self,
        now: Now,
        group_id: &Arc<str>,
        commit: &OffsetCommitRequest,
        refused: &mut Refused,
    ) -> Vec<Record> {
        let offsets = self.groups.get(group_id).map(|group| &group.offsets);
        let mut added_bytes = 0;
        let mut records = Vec::new();
        for (topic_at, topic) in commit.topics.iter().enumerate() {
            let name: Arc<str> = topic.name.as_str().into();
            for (at, partition) in topic.partitions.iter().enumerate() {
                if refused.contains_key(&(topic_at, at)) {
                    continue;
                }
                let index = partition.partition_index;
                let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
                // UTF-16 units are never more than bytes: most texts need no count.
                if metadata.len() > self.config.offset_metadata_max
                    && metadata.encode_utf16().count() > self.config.offset_metadata_max
                {
                    refused.insert((topic_at, at), error::OFFSET_METADATA_TOO_LARGE);
                    continue;
                }
                let held = offsets.and_then(|offsets| offsets.get(&name, index));
                let needed = match held {
                    Some(held) => metadata.len().saturating_sub(held.metadata.len()),
                    None => OFFSET_BYTES + name.len() + metadata.len(),
                };
                if needed > 0 && !self.has_room_for(added_bytes + needed) {
                    refused.insert((topic_at, at), error::POLICY_VIOLATION);
                    continue;
                }
                added_bytes += needed;
                records.push(Record::OffsetCommit {
                    group: group_id.clone(),
                    topic: name.clone(),
                    partition: index,
                    value: Some(CommittedOffset {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.into(),
                        commit_timestamp_ms: now.unix_ms,
                        expire_timestamp_ms: (commit.retention_time_ms != -1)
                            .then(|| now.unix_ms.saturating_add(commit.retention_time_ms)),
                    }),
                });
            }
        }
        records
    }

    pub(super) fn fetch_offsets(&self, version: i16, groups: &[OffsetFetchRequestGroup]) -> Bytes {
        let groups = groups
            .iter()
            .map(|asked| {
                let group = self.groups.get(asked.group_id.as_str());
                let error_code = match group.map(|group| &group.kind) {
                    Some(Kind::Consumer(consumer)) => {
                        consumer.check_fetch(asked.member_id.as_deref(), asked.member_epoch)
                    }
                    _ => error::NONE,
                };
                if error_code != error::NONE {
                    return reply::failed_group(version, asked, error_code);
                }
                reply::fetched_group(asked, group.map(|group| &group.offsets))
            })
            .collect();
        reply::offset_fetch(version, groups)
    }

    pub(super) fn delete_offsets(
        &mut self,
        now: Now,
        request: GroupRequest,
        reference: RequestRef,
        effects: &mut Vec<GroupEffect>,
    ) {
        let version = request.version;
        let RequestKind::OffsetDelete { request: delete, refused } = &request.kind else {
            unreachable!("the caller has looked")
        };
        let error_code = match self.groups.get(delete.group_id.as_str()) {
            _ if delete.group_id.is_empty() => error::INVALID_GROUP_ID,
            Some(Group { kind: Kind::Classic(classic), .. }) => classic.check_offset_delete(),
            Some(_) => error::NONE,
            None => error::GROUP_ID_NOT_FOUND,
        };
        if error_code != error::NONE {
            let body = request.error_reply(error_code);
            return effects.push(GroupEffect::Reply { reference, body });
        }
        let group_id: Arc<str> = delete.group_id.as_str().into();
        let group = self.group_or_new(&group_id, now.unix_ms);
        let mut records = Vec::new();
        let mut response = OffsetDeleteResponse::default();
        for (topic_at, topic) in delete.topics.iter().enumerate() {
            let name: Arc<str> = topic.name.as_str().into();
            let subscribed = match &group.kind {
                Kind::Classic(classic) => classic.is_subscribed_to(&name),
                Kind::Consumer(consumer) => consumer.is_subscribed_to(&name),
            };
            let mut answer = OffsetDeleteResponseTopic::default();
            answer.name = topic.name.clone();
            for (at, partition) in topic.partitions.iter().enumerate() {
                let index = partition.partition_index;
                let mut part = OffsetDeleteResponsePartition::default();
                part.partition_index = index;
                if let Some(error_code) = refused.get(&(topic_at, at)) {
                    part.error_code = *error_code;
                } else if subscribed {
                    part.error_code = error::GROUP_SUBSCRIBED_TO_TOPIC;
                } else if group.offsets.get(&name, index).is_some() {
                    records.push(offset_tombstone(&group_id, &name, index));
                }
                answer.partitions.push(part);
            }
            response.topics.push(answer);
        }
        let write = self.write_all(&group_id, records, effects);
        let body = encode(version, &response);
        self.reply_after(write, reference, body, request, effects);
    }

    pub(super) fn forget_topics(&mut self, group_id: &Arc<str>, topics: &[Arc<str>], effects: &mut Vec<GroupEffect>) {
        let Some(group) = self.groups.get(group_id) else {
            return;
        };
        // What is being committed for these topics has to be forgotten too.
        if let Some(write) = group.in_flight {
            let then = Then::ForgetTopics { group: group_id.clone(), topics: topics.into() };
            return self.writes.then(write, then);
        }
        let records = group
            .offsets
            .iter()
            .filter(|(topic, _, _)| topics.contains(topic))
            .map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition))
            .collect();
        self.write_all(group_id, records, effects);
    }

    /// One step of a round of offset expiry: some groups' offsets that have outlived their use, and groups of which
    /// nothing is left.
    pub(super) fn expire_offsets(&mut self, now: Now, effects: &mut Vec<GroupEffect>) {
        let from = self.expiry_cursor.take().unwrap_or_default();
        let step: Vec<Arc<str>> =
            self.groups.range(from..).map(|(group_id, _)| group_id.clone()).take(EXPIRY_GROUPS_PER_STEP + 1).collect();
        for group_id in step.iter().take(EXPIRY_GROUPS_PER_STEP) {
            let group = &self.groups[group_id];
            // What is being written may change the answer: the next round will see.
            if group.in_flight.is_some() {
                continue;
            }
            let retention_ms = self.config.offsets_retention_ms;
            let is_expired = |topic: &str, committed: &CommittedOffset| {
                group.has_expired(topic, committed, now.unix_ms, retention_ms)
            };
            let all_expired = group.offsets.iter().all(|(topic, _, committed)| is_expired(topic, committed));
            let records = if all_expired && group.is_deserted() {
                group.tombstones(group_id)
            } else {
                group
                    .offsets
                    .iter()
                    .filter(|(topic, _, committed)| is_expired(topic, committed))
                    .map(|(topic, partition, _)| offset_tombstone(group_id, topic, partition))
                    .collect()
            };
            self.write_all(group_id, records, effects);
        }
        self.expiry_cursor = step.get(EXPIRY_GROUPS_PER_STEP).cloned();
        self.expiry_due = now.elapsed
            + match self.expiry_cursor {
                Some(_) => EXPIRY_STEP_INTERVAL,
                None => self.config.expiry_interval,
            };
    }
}
