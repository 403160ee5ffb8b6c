//! The one thing the coordinator reads in what consumers tell their assignor: the topics they subscribe to. Offsets of
//! topics that nobody reads any more may expire or be deleted while the group lives.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Adds the topics of a `ConsumerProtocolSubscription` to `topics`. All versions start alike: an `int16` version, then
/// the topics. `None`: the bytes are something else.
pub fn add_topics(mut bytes: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    take(&mut bytes, 2)?;
    let count = i32::from_be_bytes(take(&mut bytes, 4)?.try_into().ok()?);
    for _ in 0..count {
        let length = i16::from_be_bytes(take(&mut bytes, 2)?.try_into().ok()?);
        let topic = take(&mut bytes, usize::try_from(length).ok()?)?;
        let topic = std::str::from_utf8(topic).ok()?;
        if !topics.contains(topic) {
            topics.insert(topic.into());
        }
    }
    Some(())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_from_any_version_and_nonsense_is_not() {
        let mut topics = BTreeSet::new();
        // Version 3 with two topics, then user data that is not looked at.
        let subscription = b"\0\x03\0\0\0\x02\0\x01a\0\x01b\xff\xff\xff\xff";
        assert_eq!(add_topics(subscription, &mut topics), Some(()));
        assert_eq!(topics.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(add_topics(b"\0\0\x7f\xff\xff\xff\0\x01", &mut topics), None);
        assert_eq!(add_topics(b"", &mut topics), None);
        assert_eq!(add_topics(b"\0\0\0\0\0\x01\0\x02\xff\xfe", &mut topics), None);
    }
}
