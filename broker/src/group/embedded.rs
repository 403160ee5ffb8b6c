//! The consumer protocol that is embedded in the classic one: what consumers tell their assignor (a subscription) and
//! what it gives them (an assignment). The coordinator of a classic group needs no more than the topics, because offsets
//! of topics that nobody reads may expire; a group of both kinds of members needs all of it.
//!
//! Both begin with an `int16` version. Fields of later versions come last, so that what is known is read of any version
//! (KIP-429, KIP-792, KIP-881).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::record::{Reader, RecordError, put_string};

/// The newest version that is written.
const ASSIGNMENT_VERSION_MAX: i16 = 3;

/// A `ConsumerProtocolSubscription`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The version it came in.
    pub version: i16,
    /// The topics it subscribes to.
    pub topics: Vec<Arc<str>>,
    /// The partitions it has, since version 1.
    pub owned: Vec<(Arc<str>, i32)>,
    /// The rack it stands in, since version 3.
    pub rack: Option<Arc<str>>,
}

impl Subscription {
    /// Reads a subscription.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut reader, version) = Reader::key(bytes)?;
        let mut subscription = Subscription { version, topics: reader.strings()?, ..Subscription::default() };
        // The user data is the assignor's own.
        reader.nullable_byte_field()?;
        if version >= 1 {
            subscription.owned = partitions(&mut reader)?;
        }
        if version >= 2 {
            reader.int32()?;
        }
        if version >= 3 {
            subscription.rack = reader.nullable_string()?;
        }
        Ok(subscription)
    }
}

/// Adds the topics of a subscription to `topics`. `None`: the bytes are something else.
pub fn add_topics(bytes: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let (mut reader, _) = Reader::key(bytes).ok()?;
    topics.extend(reader.strings().ok()?);
    Some(())
}

/// The partitions of a `ConsumerProtocolAssignment`. Nothing at all is no partition.
pub fn decode_assignment(bytes: &[u8]) -> Result<Vec<(Arc<str>, i32)>, RecordError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    partitions(&mut Reader::key(bytes)?.0)
}

/// A `ConsumerProtocolAssignment` for a member whose subscription came in this version.
pub fn encode_assignment(version: i16, topics: &BTreeMap<Arc<str>, Vec<i32>>) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(version.clamp(0, ASSIGNMENT_VERSION_MAX));
    bytes.put_i32(topics.len() as i32);
    for (topic, partitions) in topics {
        put_string(&mut bytes, topic);
        bytes.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|partition| bytes.put_i32(*partition));
    }
    // No user data.
    bytes.put_i32(-1);
    bytes.freeze()
}

fn partitions(reader: &mut Reader<'_>) -> Result<Vec<(Arc<str>, i32)>, RecordError> {
    let mut partitions = Vec::new();
    for _ in 0..reader.array_len()? {
        let topic = reader.string()?;
        for _ in 0..reader.array_len()? {
            partitions.push((topic.clone(), reader.int32()?));
        }
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_from_any_version_and_nonsense_is_not() {
        let mut topics = BTreeSet::new();
        // Version 9 with two topics, then what is not looked at.
        let subscription = b"\0\x09\0\0\0\x02\0\x01a\0\x01b\xff\xff\xff\xff";
        assert_eq!(add_topics(subscription, &mut topics), Some(()));
        assert_eq!(topics.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(add_topics(b"\0\0\x7f\xff\xff\xff\0\x01", &mut topics), None);
        assert_eq!(add_topics(b"", &mut topics), None);
        assert_eq!(add_topics(b"\0\0\0\0\0\x01\0\x02\xff\xfe", &mut topics), None);
    }

    #[test]
    fn subscriptions_of_every_version_are_read() {
        let mut bytes = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02xy".to_vec();
        let expected = Subscription { topics: vec!["t".into()], ..Subscription::default() };
        assert_eq!(Subscription::decode(&bytes), Ok(expected.clone()));
        bytes.extend(b"\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x03");
        bytes[1] = 1;
        let owned = vec![("t".into(), 0), ("t".into(), 3)];
        assert_eq!(
            Subscription::decode(&bytes),
            Ok(Subscription { version: 1, owned: owned.clone(), ..expected.clone() })
        );
        bytes.extend(b"\0\0\0\x07\0\x01r");
        bytes[1] = 3;
        let whole = Subscription { version: 3, owned, rack: Some("r".into()), ..expected };
        assert_eq!(Subscription::decode(&bytes), Ok(whole));
        for cut in 0..bytes.len() {
            assert!(Subscription::decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_assignment_reads_as_it_was_written() {
        let topics = BTreeMap::from([("a".into(), vec![0, 2]), ("b".into(), vec![1])]);
        let bytes = encode_assignment(9, &topics);
        assert_eq!(&bytes[..2], b"\0\x03");
        assert_eq!(decode_assignment(&bytes), Ok(vec![("a".into(), 0), ("a".into(), 2), ("b".into(), 1)]));
        assert_eq!(decode_assignment(b""), Ok(Vec::new()));
        assert!(decode_assignment(b"\0").is_err());
    }
}
