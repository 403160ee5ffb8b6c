//! The records of groups of the consumer protocol (KIP-848), all with values of version 0 in the flexible encoding.
//!
//! | kind | key behind the group | value |
//! |---|---|---|
//! | 3 | | the group's epoch; tag 0: the hash of what was known of its topics |
//! | 5 | member | what a member says of itself; tag 0: that it speaks the classic protocol, and how |
//! | 6 | | the epoch of the target assignment |
//! | 7 | member | what the member is to have |
//! | 8 | member | its epoch, its state, what it has and what it has to give back |
//! | 16 | regular expression | the topics that match it |
//!
//! Kind 4 held the metadata of topics before there was a hash (KAFKA-17747): it is not written, and left alone.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{
    Reader, put_compact_len, put_compact_nullable_string, put_compact_string, put_partitions, put_string, put_varint,
};
use super::{Record, RecordBytes, RecordError};
use crate::group::partitions::PartitionSet;

const GROUP_KIND: i16 = 3;
const MEMBER_KIND: i16 = 5;
const TARGET_EPOCH_KIND: i16 = 6;
const TARGET_KIND: i16 = 7;
const CURRENT_KIND: i16 = 8;
const REGEX_KIND: i16 = 16;
const VALUE_VERSION: i16 = 0;

/// A part of a group of the consumer protocol. A missing value: the part is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerRecord {
    /// The group's epoch, which grows when its members, their subscriptions or their topics change, and the hash of the
    /// topics it was computed from.
    Epoch(Option<(i32, i64)>),
    /// What a member says of itself.
    Member(Arc<str>, Option<ConsumerMemberMetadata>),
    /// The epoch for which the target assignment was computed.
    TargetEpoch(Option<i32>),
    /// What a member is to have.
    Target(Arc<str>, Option<PartitionSet>),
    /// What a member has.
    Current(Arc<str>, Option<CurrentAssignment>),
    /// What a regular expression matches.
    Regex(Arc<str>, Option<ResolvedRegex>),
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerMemberMetadata {
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// The rack it stands in.
    pub rack_id: Option<Arc<str>>,
    /// The client id of its requests.
    pub client_id: Arc<str>,
    /// Its address, as Kafka prints it: `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// The topics it subscribes to by name, in order and each once.
    pub topics: Vec<Arc<str>>,
    /// The regular expression it subscribes to.
    pub regex: Option<Arc<str>>,
    /// How long it may take to give partitions back, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// The assignor it prefers.
    pub assignor: Option<Arc<str>>,
    /// It speaks the classic protocol.
    pub classic: Option<ClassicProtocols>,
}

/// What a member of a consumer group that speaks the classic protocol told in its JoinGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicProtocols {
    /// How long it may be silent, milliseconds.
    pub session_timeout_ms: i32,
    /// The protocols it offers with their metadata, the preferred first.
    pub protocols: Vec<(Arc<str>, Bytes)>,
}

/// How far a member has come on its way to the target assignment. The numbers are Kafka's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// It has what it is to have at its epoch.
    #[default]
    Stable = 0,
    /// It has to give partitions back before it comes to the next epoch.
    UnrevokedPartitions = 1,
    /// Others have not given back yet what it is to have.
    UnreleasedPartitions = 2,
    /// A later release wrote it.
    Unknown = 127,
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// The epoch that is expected of it.
    pub epoch: i32,
    /// The epoch before: it may not have heard of the last change.
    pub previous_epoch: i32,
    /// How far it has come.
    pub state: MemberState,
    /// What it may read.
    pub assigned: PartitionSet,
    /// What it has to give back, and nobody else may have before.
    pub pending_revocation: PartitionSet,
}

/// What a regular expression matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedRegex {
    /// The names of the topics, in order.
    pub topics: Vec<Arc<str>>,
    /// The offset of the cluster's metadata they come from.
    pub version: i64,
    /// When they were looked for, Unix milliseconds.
    pub timestamp_ms: i64,
}

impl ConsumerRecord {
    /// Whether it says that the part is gone.
    pub fn is_tombstone(&self) -> bool {
        match self {
            ConsumerRecord::Epoch(value) => value.is_none(),
            ConsumerRecord::Member(_, value) => value.is_none(),
            ConsumerRecord::TargetEpoch(value) => value.is_none(),
            ConsumerRecord::Target(_, value) => value.is_none(),
            ConsumerRecord::Current(_, value) => value.is_none(),
            ConsumerRecord::Regex(_, value) => value.is_none(),
        }
    }

    /// An upper bound of the length of key and value together without the group's id, bytes.
    pub fn encoded_bytes_max(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len()) + 5;
        let set = |set: &PartitionSet| 5 + 4 * set.len() + 22 * set.topics().len();
        let names = |names: &[Arc<str>]| names.iter().map(|name| name.len() + 5).sum::<usize>();
        16 + match self {
            ConsumerRecord::Epoch(_) => 32,
            ConsumerRecord::TargetEpoch(_) => 8,
            ConsumerRecord::Member(id, metadata) => {
                id.len()
                    + metadata.as_ref().map_or(0, |member| {
                        let protocols = member.classic.iter().flat_map(|classic| &classic.protocols);
                        48 + text(&member.instance_id)
                            + text(&member.rack_id)
                            + member.client_id.len()
                            + member.client_host.len()
                            + names(&member.topics)
                            + text(&member.regex)
                            + text(&member.assignor)
                            + protocols.map(|(name, metadata)| 12 + name.len() + metadata.len()).sum::<usize>()
                    })
            }
            ConsumerRecord::Target(id, target) => id.len() + target.as_ref().map_or(0, set),
            ConsumerRecord::Current(id, current) => {
                id.len()
                    + current
                        .as_ref()
                        .map_or(0, |current| 16 + set(&current.assigned) + set(&current.pending_revocation))
            }
            ConsumerRecord::Regex(regex, resolved) => {
                regex.len() + resolved.as_ref().map_or(0, |resolved| 32 + names(&resolved.topics))
            }
        }
    }

    pub(super) fn encode(&self, group: &str) -> RecordBytes {
        let (kind, name) = match self {
            ConsumerRecord::Epoch(_) => (GROUP_KIND, None),
            ConsumerRecord::Member(member, _) => (MEMBER_KIND, Some(member)),
            ConsumerRecord::TargetEpoch(_) => (TARGET_EPOCH_KIND, None),
            ConsumerRecord::Target(member, _) => (TARGET_KIND, Some(member)),
            ConsumerRecord::Current(member, _) => (CURRENT_KIND, Some(member)),
            ConsumerRecord::Regex(regex, _) => (REGEX_KIND, Some(regex)),
        };
        let mut key = BytesMut::with_capacity(6 + group.len() + name.map_or(0, |name| name.len()));
        key.put_i16(kind);
        put_string(&mut key, group);
        if let Some(name) = name {
            put_string(&mut key, name);
        }
        (key.freeze(), self.encode_value())
    }

    fn encode_value(&self) -> Option<Bytes> {
        let mut value = BytesMut::with_capacity(64);
        value.put_i16(VALUE_VERSION);
        match self {
            ConsumerRecord::Epoch(epoch) => {
                let (epoch, hash) = (*epoch)?;
                value.put_i32(epoch);
                if hash == 0 {
                    put_varint(&mut value, 0);
                } else {
                    put_varint(&mut value, 1);
                    put_varint(&mut value, 0);
                    put_varint(&mut value, 8);
                    value.put_i64(hash);
                }
            }
            ConsumerRecord::Member(_, member) => member.as_ref()?.encode(&mut value),
            ConsumerRecord::TargetEpoch(epoch) => {
                value.put_i32((*epoch)?);
                put_varint(&mut value, 0);
            }
            ConsumerRecord::Target(_, target) => {
                put_partitions(&mut value, target.as_ref()?);
                put_varint(&mut value, 0);
            }
            ConsumerRecord::Current(_, current) => {
                let current = current.as_ref()?;
                value.put_i32(current.epoch);
                value.put_i32(current.previous_epoch);
                value.put_i8(current.state as i8);
                put_partitions(&mut value, &current.assigned);
                put_partitions(&mut value, &current.pending_revocation);
                put_varint(&mut value, 0);
            }
            ConsumerRecord::Regex(_, resolved) => {
                let resolved = resolved.as_ref()?;
                put_compact_len(&mut value, resolved.topics.len());
                resolved.topics.iter().for_each(|topic| put_compact_string(&mut value, topic));
                value.put_i64(resolved.version);
                value.put_i64(resolved.timestamp_ms);
                put_varint(&mut value, 0);
            }
        }
        Some(value.freeze())
    }

    pub(super) fn decode(kind: i16, mut key: Reader<'_>, value: Option<&[u8]>) -> Result<Option<Record>, RecordError> {
        if !matches!(kind, GROUP_KIND | MEMBER_KIND | TARGET_EPOCH_KIND | TARGET_KIND | CURRENT_KIND | REGEX_KIND) {
            return Ok(None);
        }
        let group = key.string()?;
        let mut value = value.map(Reader::flexible_value).transpose()?;
        let value = value.as_mut();
        let part = match kind {
            GROUP_KIND => ConsumerRecord::Epoch(value.map(decode_epoch).transpose()?),
            MEMBER_KIND => {
                ConsumerRecord::Member(key.string()?, value.map(ConsumerMemberMetadata::decode).transpose()?)
            }
            TARGET_EPOCH_KIND => ConsumerRecord::TargetEpoch(value.map(Reader::int32).transpose()?),
            TARGET_KIND => ConsumerRecord::Target(key.string()?, value.map(Reader::partitions).transpose()?),
            CURRENT_KIND => ConsumerRecord::Current(key.string()?, value.map(CurrentAssignment::decode).transpose()?),
            _ => ConsumerRecord::Regex(key.string()?, value.map(ResolvedRegex::decode).transpose()?),
        };
        Ok(Some(Record::Consumer { group, part }))
    }
}

fn decode_epoch(value: &mut Reader<'_>) -> Result<(i32, i64), RecordError> {
    let epoch = value.int32()?;
    let hash = value.tagged_field(0)?.map(|mut hash| hash.int64()).transpose()?;
    Ok((epoch, hash.unwrap_or(0)))
}

impl ConsumerMemberMetadata {
    fn encode(&self, value: &mut BytesMut) {
        put_compact_nullable_string(value, self.instance_id.as_deref());
        put_compact_nullable_string(value, self.rack_id.as_deref());
        put_compact_string(value, &self.client_id);
        put_compact_string(value, &self.client_host);
        put_compact_len(value, self.topics.len());
        self.topics.iter().for_each(|topic| put_compact_string(value, topic));
        put_compact_nullable_string(value, self.regex.as_deref());
        value.put_i32(self.rebalance_timeout_ms);
        put_compact_nullable_string(value, self.assignor.as_deref());
        let Some(classic) = &self.classic else { return put_varint(value, 0) };
        let mut tagged = BytesMut::new();
        // A structure that may be null is preceded by a byte, also where null is not written at all.
        tagged.put_i8(1);
        tagged.put_i32(classic.session_timeout_ms);
        put_compact_len(&mut tagged, classic.protocols.len());
        for (name, metadata) in &classic.protocols {
            put_compact_string(&mut tagged, name);
            put_compact_len(&mut tagged, metadata.len());
            tagged.put_slice(metadata);
            put_varint(&mut tagged, 0);
        }
        put_varint(&mut tagged, 0);
        put_varint(value, 1);
        put_varint(value, 0);
        put_varint(value, u32::try_from(tagged.len()).expect("subscriptions are bounded"));
        value.put_slice(&tagged);
    }

    fn decode(value: &mut Reader<'_>) -> Result<Self, RecordError> {
        let mut member = ConsumerMemberMetadata {
            instance_id: value.nullable_string()?,
            rack_id: value.nullable_string()?,
            client_id: value.string()?,
            client_host: value.string()?,
            topics: value.strings()?,
            regex: value.nullable_string()?,
            rebalance_timeout_ms: value.int32()?,
            assignor: value.nullable_string()?,
            classic: None,
        };
        member.topics.sort_unstable();
        member.topics.dedup();
        if let Some(mut tagged) = value.tagged_field(0)?
            && tagged.int8()? >= 0
        {
            let session_timeout_ms = tagged.int32()?;
            let mut protocols = Vec::new();
            for _ in 0..tagged.array_len()? {
                protocols.push((tagged.string()?, tagged.byte_field()?));
                tagged.tagged_fields()?;
            }
            member.classic = Some(ClassicProtocols { session_timeout_ms, protocols });
        }
        Ok(member)
    }
}

impl CurrentAssignment {
    fn decode(value: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(CurrentAssignment {
            epoch: value.int32()?,
            previous_epoch: value.int32()?,
            state: match value.int8()? {
                0 => MemberState::Stable,
                1 => MemberState::UnrevokedPartitions,
                2 => MemberState::UnreleasedPartitions,
                _ => MemberState::Unknown,
            },
            assigned: value.partitions()?,
            pending_revocation: value.partitions()?,
        })
    }

    /// Whether the member has all that it is to have at this epoch of the target assignment.
    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    /// Every partition that nobody else may have.
    pub fn owned(&self) -> impl Iterator<Item = (millstream_storage::TopicId, i32)> + '_ {
        self.assigned.iter().chain(self.pending_revocation.iter())
    }
}

impl ResolvedRegex {
    fn decode(value: &mut Reader<'_>) -> Result<Self, RecordError> {
        Ok(ResolvedRegex { topics: value.strings()?, version: value.int64()?, timestamp_ms: value.int64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_storage::TopicId;

    fn set(topic: u8, partitions: &[i32]) -> PartitionSet {
        partitions.iter().map(|partition| (TopicId([topic; 16]), *partition)).collect()
    }

    fn member(classic: bool) -> ConsumerMemberMetadata {
        ConsumerMemberMetadata {
            instance_id: Some("i".into()),
            rack_id: None,
            client_id: "app".into(),
            client_host: "/::1".into(),
            topics: vec!["a".into(), "b".into()],
            regex: Some("c.*".into()),
            rebalance_timeout_ms: 300_000,
            assignor: None,
            classic: classic.then(|| ClassicProtocols {
                session_timeout_ms: 45_000,
                protocols: vec![("range".into(), Bytes::from_static(b"\0\x01"))],
            }),
        }
    }

    fn parts() -> Vec<ConsumerRecord> {
        let current = CurrentAssignment {
            epoch: 7,
            previous_epoch: 6,
            state: MemberState::UnrevokedPartitions,
            assigned: set(1, &[0, 2]),
            pending_revocation: set(2, &[1]),
        };
        let resolved = ResolvedRegex { topics: vec!["cd".into()], version: 9, timestamp_ms: 10 };
        vec![
            ConsumerRecord::Epoch(Some((7, 0))),
            ConsumerRecord::Epoch(Some((8, -5))),
            ConsumerRecord::Member("m".into(), Some(member(false))),
            ConsumerRecord::Member("m".into(), Some(member(true))),
            ConsumerRecord::TargetEpoch(Some(7)),
            ConsumerRecord::Target("m".into(), Some(set(3, &[0, 1, 200]))),
            ConsumerRecord::Current("m".into(), Some(current)),
            ConsumerRecord::Regex("c.*".into(), Some(resolved)),
            ConsumerRecord::Epoch(None),
            ConsumerRecord::Member("m".into(), None),
            ConsumerRecord::TargetEpoch(None),
            ConsumerRecord::Target("m".into(), None),
            ConsumerRecord::Current("m".into(), None),
            ConsumerRecord::Regex("c.*".into(), None),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn round_trips_within_the_predicted_length_and_no_shorter() {
        for part in parts() {
            let record = Record::Consumer { group: "g".into(), part: part.clone() };
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(Some(record)));
            let length = key.len() + value.as_ref().map_or(0, Bytes::len);
            assert!(length <= part.encoded_bytes_max() + 1, "{part:?}: {length}");
            // Where the last field is the empty set of tagged fields, nothing says that it is missing.
            for cut in 0..value.as_ref().map_or(0, |value| value.len() - 1) {
                assert!(Record::decode(&key, value.as_deref().map(|value| &value[..cut])).is_err(), "{part:?} {cut}");
            }
        }
    }

    /// What one release wrote, every later one has to read: changing these bytes breaks upgrades.
    #[test]
    fn frozen_bytes() {
        let encoded: Vec<String> = parts()
            .into_iter()
            .map(|part| {
                let (key, value) = part.encode("g");
                format!("{} {}", hex(&key), value.as_deref().map_or("none".to_owned(), hex))
            })
            .collect();
        let (ones, twos, threes) = ("01".repeat(16), "02".repeat(16), "03".repeat(16));
        let start = "0000 0269 00 04617070 052f3a3a31 03 0261 0262 04632e2a 000493e0 00";
        assert_eq!(
            encoded,
            [
                "0003000167 0000 00000007 00".to_owned(),
                "0003000167 0000 00000008 01 00 08 fffffffffffffffb".to_owned(),
                format!("000500016700016d {start} 00"),
                format!("000500016700016d {start} 01 00 11 01 0000afc8 02 0672616e6765 03 0001 00 00"),
                "0006000167 0000 00000007 00".to_owned(),
                format!("000700016700016d 0000 02 {threes} 04 00000000 00000001 000000c8 00 00"),
                format!(
                    "000800016700016d 0000 00000007 00000006 01 02 {ones} 03 00000000 00000002 00 \
                     02 {twos} 02 00000001 00 00"
                ),
                "00100001670003632e2a 0000 02 036364 0000000000000009 000000000000000a 00".to_owned(),
                "0003000167 none".to_owned(),
                "000500016700016d none".to_owned(),
                "0006000167 none".to_owned(),
                "000700016700016d none".to_owned(),
                "000800016700016d none".to_owned(),
                "00100001670003632e2a none".to_owned(),
            ]
            .map(|line| {
                let (key, value) = line.split_once(' ').unwrap();
                format!("{key} {}", value.replace(' ', ""))
            })
        );
    }

    /// A later release may add states and tagged fields.
    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        let (key, value) = parts()[6].encode("g");
        let mut value = value.unwrap().to_vec();
        value[10] = 3;
        *value.last_mut().unwrap() = 1;
        value.extend([0, 2, 0xaa, 0xbb]);
        let Ok(Some(Record::Consumer { part: ConsumerRecord::Current(_, Some(current)), .. })) =
            Record::decode(&key, Some(&value))
        else {
            panic!("it is read")
        };
        assert_eq!(current.state, MemberState::Unknown);
        value[1] = 1;
        assert_eq!(Record::decode(&key, Some(&value)), Err(RecordError::UnknownVersion(1)));
    }
}
