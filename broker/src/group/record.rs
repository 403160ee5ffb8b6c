//! The records of `__consumer_offsets`, in Kafka's own formats, so that tools that read the topic go on working.
//!
//! A key starts with an `int16` that names its kind: 0 and 1 a committed offset, 2 a classic group, 3 and 5 to 8 and 16
//! the parts of a group of the consumer protocol ([`consumer`]). A value starts with an `int16` version. All numbers are big-endian; strings carry an `int16` length and bytes an `int32` one, or in
//! versions from 4 (flexible) a varint of the length plus one, and tagged fields close each structure. Written: key
//! versions 1 and 2; value version 3, but 1 for an offset with an expiry of its own (OffsetCommit v2-4 with a retention
//! time). Read: all versions up to 4. A missing value deletes what the key names.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

mod codec;
mod consumer;

use codec::{put_bytes, put_nullable_string};

pub use codec::{Reader, put_string};

pub use consumer::{
    ClassicProtocols, ConsumerMemberMetadata, ConsumerRecord, CurrentAssignment, MemberState, ResolvedRegex,
};

const OFFSET_COMMIT_KEY_VERSION: i16 = 1;
const GROUP_METADATA_KEY_VERSION: i16 = 2;
const OFFSET_COMMIT_VALUE_VERSION: i16 = 3;
const OFFSET_COMMIT_EXPIRING_VALUE_VERSION: i16 = 1;
const GROUP_METADATA_VALUE_VERSION: i16 = 3;

/// One record of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A committed offset, or its removal.
    OffsetCommit {
        /// The group that committed.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's index.
        partition: i32,
        /// `None`: the offset is gone.
        value: Option<CommittedOffset>,
    },
    /// A classic group, or its removal.
    GroupMetadata {
        /// The group's id.
        group: Arc<str>,
        /// `None`: the group is gone.
        value: Option<GroupMetadata>,
    },
    /// A part of a group of the consumer protocol.
    Consumer {
        /// The group's id.
        group: Arc<str>,
        /// Which part, and what it is now.
        part: ConsumerRecord,
    },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// The leader epoch of the record before it, or -1.
    pub leader_epoch: i32,
    /// The client's own text.
    pub metadata: Arc<str>,
    /// When it was committed, Unix milliseconds.
    pub commit_timestamp_ms: i64,
    /// When it expires, Unix milliseconds, if the commit said so itself.
    pub expire_timestamp_ms: Option<i64>,
}

/// A classic group as of its last completed rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// For example `consumer`; empty for a group that never had members.
    pub protocol_type: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// The assignor chosen; `None` when the group is empty.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Option<Arc<str>>,
    /// Since when the group is in its state, Unix milliseconds.
    pub state_since_ms: Option<i64>,
    /// The members.
    pub members: Vec<MemberMetadata>,
}

/// A member of a classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    /// The id the coordinator gave it.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// The client id of its requests.
    pub client_id: Arc<str>,
    /// Its address, as Kafka prints it: `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// How long it may take to rejoin, milliseconds.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, milliseconds.
    pub session_timeout_ms: i32,
    /// What it told the chosen assignor.
    pub subscription: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// It ends too early, or a length in it is impossible.
    Truncated,
    /// A string is not UTF-8.
    InvalidText,
    /// The value's version is newer than those known.
    UnknownVersion(i16),
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RecordError::Truncated => formatter.write_str("it ends too early"),
            RecordError::InvalidText => formatter.write_str("it holds text that is not UTF-8"),
            RecordError::UnknownVersion(version) => {
                write!(formatter, "its value has the unknown version {version}")
            }
        }
    }
}

/// A record as it goes into a batch: key, and value unless it is a tombstone.
pub type RecordBytes = (Bytes, Option<Bytes>);

impl Record {
    /// The group it is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            Record::OffsetCommit { group, .. }
            | Record::GroupMetadata { group, .. }
            | Record::Consumer { group, .. } => group,
        }
    }

    /// Encodes key and value. Every text in it is at most `i16::MAX` bytes long: requests are decoded with that limit.
    pub fn encode(&self) -> RecordBytes {
        match self {
            Record::OffsetCommit { group, topic, partition, value } => {
                let mut key = BytesMut::with_capacity(10 + group.len() + topic.len());
                key.put_i16(OFFSET_COMMIT_KEY_VERSION);
                put_string(&mut key, group);
                put_string(&mut key, topic);
                key.put_i32(*partition);
                (key.freeze(), value.as_ref().map(CommittedOffset::encode))
            }
            Record::GroupMetadata { group, value } => {
                let mut key = BytesMut::with_capacity(4 + group.len());
                key.put_i16(GROUP_METADATA_KEY_VERSION);
                put_string(&mut key, group);
                (key.freeze(), value.as_ref().map(GroupMetadata::encode))
            }
            Record::Consumer { group, part } => part.encode(group),
        }
    }

    /// Decodes a record. `Ok(None)`: a kind that this release does not know and has to leave alone.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, RecordError> {
        let (mut key, kind) = Reader::key(key)?;
        match kind {
            0 | OFFSET_COMMIT_KEY_VERSION => Ok(Some(Record::OffsetCommit {
                group: key.string()?,
                topic: key.string()?,
                partition: key.int32()?,
                value: value.map(CommittedOffset::decode).transpose()?,
            })),
            GROUP_METADATA_KEY_VERSION => Ok(Some(Record::GroupMetadata {
                group: key.string()?,
                value: value.map(GroupMetadata::decode).transpose()?,
            })),
            kind => ConsumerRecord::decode(kind, key, value),
        }
    }
}

impl CommittedOffset {
    fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(32 + self.metadata.len());
        match self.expire_timestamp_ms {
            None => {
                value.put_i16(OFFSET_COMMIT_VALUE_VERSION);
                value.put_i64(self.offset);
                value.put_i32(self.leader_epoch);
                put_string(&mut value, &self.metadata);
                value.put_i64(self.commit_timestamp_ms);
            }
            Some(expire_timestamp_ms) => {
                value.put_i16(OFFSET_COMMIT_EXPIRING_VALUE_VERSION);
                value.put_i64(self.offset);
                put_string(&mut value, &self.metadata);
                value.put_i64(self.commit_timestamp_ms);
                value.put_i64(expire_timestamp_ms);
            }
        }
        value.freeze()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut reader, version) = Reader::value(bytes)?;
        let offset = reader.int64()?;
        let leader_epoch = if version >= 3 { reader.int32()? } else { -1 };
        let metadata = reader.string()?;
        let commit_timestamp_ms = reader.int64()?;
        let expire_timestamp_ms = if version == 1 { reader.int64()? } else { -1 };
        reader.tagged_fields()?;
        Ok(CommittedOffset {
            offset,
            leader_epoch,
            metadata,
            commit_timestamp_ms,
            expire_timestamp_ms: (expire_timestamp_ms != -1).then_some(expire_timestamp_ms),
        })
    }
}

impl GroupMetadata {
    /// The length of its encoding, bytes.
    pub fn encoded_bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| 2 + text.as_ref().map_or(0, |text| text.len());
        let members: usize = self
            .members
            .iter()
            .map(|member| {
                22 + member.member_id.len()
                    + text(&member.instance_id)
                    + member.client_id.len()
                    + member.client_host.len()
                    + member.subscription.len()
                    + member.assignment.len()
            })
            .sum();
        20 + self.protocol_type.len() + text(&self.protocol) + text(&self.leader) + members
    }

    fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(self.encoded_bytes());
        value.put_i16(GROUP_METADATA_VALUE_VERSION);
        put_string(&mut value, &self.protocol_type);
        value.put_i32(self.generation);
        put_nullable_string(&mut value, self.protocol.as_deref());
        put_nullable_string(&mut value, self.leader.as_deref());
        value.put_i64(self.state_since_ms.unwrap_or(-1));
        value.put_i32(self.members.len() as i32);
        for member in &self.members {
            put_string(&mut value, &member.member_id);
            put_nullable_string(&mut value, member.instance_id.as_deref());
            put_string(&mut value, &member.client_id);
            put_string(&mut value, &member.client_host);
            value.put_i32(member.rebalance_timeout_ms);
            value.put_i32(member.session_timeout_ms);
            put_bytes(&mut value, &member.subscription);
            put_bytes(&mut value, &member.assignment);
        }
        value.freeze()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut reader, version) = Reader::value(bytes)?;
        let protocol_type = reader.string()?;
        let generation = reader.int32()?;
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let state_since_ms = if version >= 2 { reader.int64()? } else { -1 };
        let count = reader.array_len()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(MemberMetadata::decode(&mut reader, version)?);
        }
        reader.tagged_fields()?;
        Ok(GroupMetadata {
            protocol_type,
            generation,
            protocol,
            leader,
            state_since_ms: (state_since_ms != -1).then_some(state_since_ms),
            members,
        })
    }
}

impl MemberMetadata {
    fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, RecordError> {
        let member_id = reader.string()?;
        let instance_id = if version >= 3 { reader.nullable_string()? } else { None };
        let client_id = reader.string()?;
        let client_host = reader.string()?;
        let rebalance_timeout_ms = if version >= 1 { reader.int32()? } else { -1 };
        let session_timeout_ms = reader.int32()?;
        let subscription = reader.byte_field()?;
        let assignment = reader.byte_field()?;
        reader.tagged_fields()?;
        Ok(MemberMetadata {
            member_id,
            instance_id,
            client_id,
            client_host,
            // Before version 1 the session timeout was also the time to rejoin.
            rebalance_timeout_ms: if rebalance_timeout_ms == -1 { session_timeout_ms } else { rebalance_timeout_ms },
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(expire_timestamp_ms: Option<i64>) -> Record {
        Record::OffsetCommit {
            group: "readers".into(),
            topic: "events".into(),
            partition: 3,
            value: Some(CommittedOffset {
                offset: 42,
                leader_epoch: if expire_timestamp_ms.is_some() { -1 } else { 7 },
                metadata: "näher".into(),
                commit_timestamp_ms: 1_700_000_000_000,
                expire_timestamp_ms,
            }),
        }
    }

    fn group() -> Record {
        Record::GroupMetadata {
            group: "readers".into(),
            value: Some(GroupMetadata {
                protocol_type: "consumer".into(),
                generation: 5,
                protocol: Some("range".into()),
                leader: Some("a-1".into()),
                state_since_ms: Some(1_700_000_000_000),
                members: vec![MemberMetadata {
                    member_id: "a-1".into(),
                    instance_id: Some("a".into()),
                    client_id: "app".into(),
                    client_host: "/127.0.0.1".into(),
                    rebalance_timeout_ms: 60_000,
                    session_timeout_ms: 45_000,
                    subscription: Bytes::from_static(b"\x00\x01"),
                    assignment: Bytes::from_static(b"\x02"),
                }],
            }),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// What one release wrote, every later one has to read: changing these bytes breaks upgrades.
    #[test]
    fn frozen_bytes() {
        let (key, value) = offset(None).encode();
        assert_eq!(hex(&key), "000100077265616465727300066576656e747300000003");
        assert_eq!(hex(&value.unwrap()), "0003000000000000002a0000000700066ec3a46865720000018bcfe56800");
        let (_, value) = offset(Some(1_700_000_000_001)).encode();
        assert_eq!(hex(&value.unwrap()), "0001000000000000002a00066ec3a46865720000018bcfe568000000018bcfe56801");
        let (key, value) = group().encode();
        assert_eq!(hex(&key), "0002000772656164657273");
        assert_eq!(
            hex(&value.unwrap()),
            "00030008636f6e73756d65720000000500057261 6e676500 03612d310000018bcfe5680000000001\
             0003612d3100016100036170 70000a2f3132372e302e302e310000ea600000afc8000000020001\
             0000000102"
                .replace([' ', '\n'], "")
        );
    }

    #[test]
    fn round_trips() {
        let empty = Record::GroupMetadata {
            group: "g".into(),
            value: Some(GroupMetadata {
                protocol_type: "".into(),
                generation: 0,
                protocol: None,
                leader: None,
                state_since_ms: None,
                members: Vec::new(),
            }),
        };
        let gone = Record::GroupMetadata { group: "g".into(), value: None };
        for record in [offset(None), offset(Some(9)), group(), empty, gone] {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(Some(record)));
        }
    }

    #[test]
    fn the_predicted_length_is_the_length() {
        let Record::GroupMetadata { value: Some(metadata), .. } = group() else { unreachable!() };
        assert_eq!(metadata.encode().len(), metadata.encoded_bytes());
    }

    #[test]
    fn older_and_newer_value_versions_are_read() {
        let key = unhex("00000001670001740000000a");
        let read = |value: &str| match Record::decode(&key, Some(&unhex(value))) {
            Ok(Some(Record::OffsetCommit { value: Some(value), .. })) => value,
            other => panic!("{other:?}"),
        };
        let expected = CommittedOffset {
            offset: 1,
            leader_epoch: -1,
            metadata: "m".into(),
            commit_timestamp_ms: 2,
            expire_timestamp_ms: None,
        };
        assert_eq!(read("0000000000000000000100016d0000000000000002"), expected);
        assert_eq!(read("0001000000000000000100016d0000000000000002ffffffffffffffff"), expected);
        assert_eq!(read("0002000000000000000100016d0000000000000002"), expected);
        // Version 4: compact string, and one tagged field (5, two bytes) to pass over.
        assert_eq!(
            read("0004000000000000000100000009026d000000000000000201050 2aabb".replace(' ', "").as_str()),
            CommittedOffset { leader_epoch: 9, ..expected }
        );

        let group_key = unhex("0002000167");
        // Version 0: no rebalance timeout, no state timestamp, no instance id.
        let Ok(Some(Record::GroupMetadata { value: Some(metadata), .. })) = Record::decode(
            &group_key,
            Some(&unhex(
                "000000016300000001000172ffff00000001 00016d000163000168 00001770 00000000 00000000"
                    .replace(' ', "")
                    .as_str(),
            )),
        ) else {
            panic!("not read")
        };
        assert_eq!(metadata.members[0].rebalance_timeout_ms, 6000);
        assert_eq!(metadata.state_since_ms, None);
        assert_eq!(metadata.leader, None);
    }

    #[test]
    fn unknown_kinds_are_left_alone_and_damage_is_an_error() {
        assert_eq!(Record::decode(&[0, 4, 0, 1, b'g'], None), Ok(None));
        assert_eq!(Record::decode(&[0], None), Err(RecordError::Truncated));
        let (key, value) = group().encode();
        let value = value.unwrap();
        for length in 0..value.len() {
            assert!(Record::decode(&key, Some(&value[..length])).is_err(), "{length}");
        }
        // A count of two billion members costs nothing.
        let count_at = 2 + 10 + 4 + 7 + 5 + 8;
        let mut hostile = value.to_vec();
        hostile[count_at..count_at + 4].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(Record::decode(&key, Some(&hostile)), Err(RecordError::Truncated));
        assert_eq!(Record::decode(&key, Some(&[0, 5])), Err(RecordError::UnknownVersion(5)));
    }
}
