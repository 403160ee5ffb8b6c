//! Groups and their committed offsets as rows, from any place on: a caller takes as many as it has time for.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Coordinator, Group, Kind};

/// What is listed of groups: a group, followed by the offsets that it committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRow {
    /// A group.
    Group {
        /// Its id.
        group: Arc<str>,
        /// Kafka's name of its state.
        state: &'static str,
        /// How many members it has.
        members: usize,
    },
    /// An offset that a group committed.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The next offset to read.
        offset: i64,
    },
}

/// After a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    group: Arc<str>,
    offset: Option<(Arc<str>, i32)>,
}

impl GroupRow {
    /// The place after this row.
    pub fn place(&self) -> GroupPlace {
        match self {
            GroupRow::Group { group, .. } => GroupPlace { group: Arc::clone(group), offset: None },
            GroupRow::Offset { group, topic, partition, .. } => {
                GroupPlace { group: Arc::clone(group), offset: Some((Arc::clone(topic), *partition)) }
            }
        }
    }
}

impl Coordinator {
    /// All rows after a place, in order; without one, all.
    pub fn rows(&self, after: Option<&GroupPlace>) -> impl Iterator<Item = GroupRow> + '_ {
        // What is left of the group that the place lies in, if it is still there.
        let begun = after.and_then(|place| {
            let (group_id, group) = self.groups.get_key_value(&place.group)?;
            Some(offsets(group_id, group, place.offset.clone()))
        });
        let from = after.map_or(Bound::Unbounded, |place| Bound::Excluded(Arc::clone(&place.group)));
        let rest = self.groups.range((from, Bound::Unbounded)).flat_map(|(group_id, group)| {
            let row = GroupRow::Group {
                group: Arc::clone(group_id),
                state: match &group.kind {
                    Kind::Classic(classic) => classic.state().name(),
                    Kind::Consumer(consumer) => consumer.state().name(),
                },
                members: group.members(),
            };
            [row].into_iter().chain(offsets(group_id, group, None))
        });
        begun.into_iter().flatten().chain(rest)
    }
}

/// The offsets that a group committed, after a topic's partition.
fn offsets<'a>(
    group_id: &'a Arc<str>,
    group: &'a Group,
    after: Option<(Arc<str>, i32)>,
) -> impl Iterator<Item = GroupRow> + 'a {
    let first_topic = after.as_ref().map(|(topic, _)| Arc::clone(topic));
    group.offsets.topics_from(first_topic).flat_map(move |(topic, partitions)| {
        let from = match &after {
            Some((begun, partition)) if begun == topic => Bound::Excluded(*partition),
            _ => Bound::Unbounded,
        };
        let partitions: &BTreeMap<i32, _> = partitions;
        partitions.range((from, Bound::Unbounded)).map(|(partition, committed)| GroupRow::Offset {
            group: Arc::clone(group_id),
            topic: Arc::clone(topic),
            partition: *partition,
            offset: committed.offset,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::{CommittedOffset, GroupConfig, Record};
    use super::*;

    #[test]
    fn a_list_goes_on_wherever_it_was_left() {
        let mut coordinator = Coordinator::new(GroupConfig::default());
        for (group, topic, partition) in [("a", "x", 0), ("a", "x", 7), ("a", "y", 1), ("b", "x", 0), ("c", "z", 3)] {
            let value = CommittedOffset {
                offset: 10,
                leader_epoch: -1,
                metadata: "".into(),
                commit_timestamp_ms: 0,
                expire_timestamp_ms: None,
            };
            let record =
                Record::OffsetCommit { group: group.into(), topic: topic.into(), partition, value: Some(value) };
            let (key, value) = record.encode();
            coordinator.load(&key, value.as_deref()).expect("a record");
        }
        let all: Vec<GroupRow> = coordinator.rows(None).collect();
        assert_eq!(all.len(), 3 + 5);
        assert_eq!(all[0], GroupRow::Group { group: "a".into(), state: "Empty", members: 0 });
        let last = GroupRow::Offset { group: "c".into(), topic: "z".into(), partition: 3, offset: 10 };
        assert_eq!(all[7], last);
        for (index, row) in all.iter().enumerate() {
            assert!(coordinator.rows(Some(&row.place())).eq(all[index + 1..].iter().cloned()), "after {row:?}");
        }
        // The group, or the partition, may have gone meanwhile.
        let gone = GroupPlace { group: "aa".into(), offset: Some(("x".into(), 1)) };
        assert!(coordinator.rows(Some(&gone)).eq(all[4..].iter().cloned()));
        let gone = GroupPlace { group: "a".into(), offset: Some(("x".into(), 3)) };
        assert!(coordinator.rows(Some(&gone)).eq(all[2..].iter().cloned()));
    }
}
