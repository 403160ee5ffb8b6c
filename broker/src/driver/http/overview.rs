//! Partitions and groups of all shards, gathered in pieces and kept for a moment, so that any number of pages open costs
//! the shards no more than one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request::Selection;
use super::{SHARDS_TIMEOUT, ask_one};
use crate::driver::Inbound;
use crate::driver::executor::ShardHandle;
use crate::group::GroupRow;
use crate::json::Json;
use crate::shard::{GroupCursor, PartitionRow};

/// How long an overview is shown before it is gathered anew.
const AGE_MAX: Duration = Duration::from_secs(2);

/// A group and how far it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupSummary {
    group: Arc<str>,
    state: &'static str,
    members: usize,
    /// Partitions that it committed an offset for.
    partitions: usize,
    /// Records between these offsets and the high watermarks.
    lag: i64,
    /// Where most of them are.
    most: Option<(Arc<str>, i32, i64)>,
}

/// What all shards own, in the order of names. Its size is bounded by the partitions of a cluster and the memory of groups.
#[derive(Debug)]
pub struct Overview {
    gathered: Instant,
    partitions: Vec<PartitionRow>,
    groups: Vec<GroupSummary>,
    /// Shards that did not answer in time: what they own is missing.
    silent: Vec<usize>,
}

/// The last overview.
#[derive(Debug, Default)]
pub struct Overviews {
    last: Mutex<Option<Arc<Overview>>>,
}

impl Overviews {
    /// The last overview, or a new one if that is too old. Who comes while one is gathered waits for it.
    pub fn get(&self, shards: &[ShardHandle]) -> Arc<Overview> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(overview) if overview.gathered.elapsed() < AGE_MAX => Arc::clone(overview),
            _ => Arc::clone(last.insert(Arc::new(gather(shards)))),
        }
    }
}

fn gather(shards: &[ShardHandle]) -> Overview {
    let deadline = Instant::now() + SHARDS_TIMEOUT;
    let mut partitions = Vec::new();
    let mut silent = Vec::new();
    for (index, shard) in shards.iter().enumerate() {
        if list_partitions(shard, deadline, &mut partitions).is_none() {
            silent.push(index);
        }
    }
    let ends: HashMap<(Arc<str>, i32), i64> =
        partitions.iter().map(|row| ((Arc::clone(&row.topic), row.partition), row.high_watermark)).collect();
    let mut groups = Vec::new();
    for (index, shard) in shards.iter().enumerate() {
        if !silent.contains(&index) && list_groups(shard, deadline, &ends, &mut groups).is_none() {
            silent.push(index);
        }
    }
    partitions.sort_unstable_by(|a: &PartitionRow, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    groups.sort_unstable_by(|a: &GroupSummary, b| a.group.cmp(&b.group));
    Overview { gathered: Instant::now(), partitions, groups, silent }
}

/// `None`: the shard did not answer in time.
fn list_partitions(shard: &ShardHandle, deadline: Instant, rows: &mut Vec<PartitionRow>) -> Option<()> {
    let mut from = Some(0);
    while let Some(place) = from {
        let piece = ask_one(shard, deadline, |reply| Inbound::Partitions { from: place, reply })?;
        rows.extend(piece.rows);
        from = piece.next;
    }
    Some(())
}

fn list_groups(
    shard: &ShardHandle,
    deadline: Instant,
    ends: &HashMap<(Arc<str>, i32), i64>,
    groups: &mut Vec<GroupSummary>,
) -> Option<()> {
    let mut from = Some(GroupCursor::default());
    while let Some(cursor) = from {
        let piece = ask_one(shard, deadline, |reply| Inbound::Groups { from: cursor.clone(), reply })?;
        for row in piece.rows {
            match row {
                GroupRow::Group { group, state, members } => {
                    groups.push(GroupSummary { group, state, members, partitions: 0, lag: 0, most: None });
                }
                GroupRow::Offset { group, topic, partition, offset } => {
                    // A group that came between two pieces is left out: its first row was not seen.
                    let Some(summary) = groups.last_mut().filter(|summary| summary.group == group) else { continue };
                    summary.count(topic, partition, offset, ends);
                }
            }
        }
        from = piece.next;
    }
    Some(())
}

impl GroupSummary {
    fn count(&mut self, topic: Arc<str>, partition: i32, offset: i64, ends: &HashMap<(Arc<str>, i32), i64>) {
        let key = (topic, partition);
        // The topic may have been deleted.
        let Some(end) = ends.get(&key) else { return };
        // The commit may be newer than the end, which was asked for before; and a client may commit any number.
        let lag = end.saturating_sub(offset).max(0);
        self.partitions += 1;
        self.lag = self.lag.saturating_add(lag);
        if lag > 0 && self.most.as_ref().is_none_or(|(_, _, most)| lag > *most) {
            self.most = Some((key.0, partition, lag));
        }
    }
}

impl Overview {
    /// What there is in all, and the partitions selected: sorted by `name`, `partition`, `records`, `bytes`,
    /// `end` or `in_sync`: the last puts what lacks most replicas behind the others, and what nobody leads behind that.
    pub fn partitions(&self, selection: &Selection) -> Json {
        let matching: Vec<&PartitionRow> =
            self.partitions.iter().filter(|row| is_found(&row.topic, selection)).collect();
        let bytes: u64 = matching.iter().map(|row| row.bytes).sum();
        let records: i64 = matching.iter().map(|row| row.high_watermark - row.log_start).sum();
        let count = matching.len();
        let under_replicated = matching.iter().filter(|row| row.missing() > 0).count();
        let offline = matching.iter().filter(|row| row.leader < 0).count();
        let rows = match &*selection.sort {
            "in_sync" => select(matching, selection, |row| (row.leader < 0, row.missing())),
            "bytes" => select(matching, selection, |row| row.bytes),
            "records" => select(matching, selection, |row| row.high_watermark - row.log_start),
            "end" => select(matching, selection, |row| row.high_watermark),
            "partition" => select(matching, selection, |row| row.partition),
            _ => select(matching, selection, |row| (&*row.topic, row.partition)),
        };
        let rows = rows.into_iter().map(|row| {
            Json::object([
                ("topic", (&*row.topic).into()),
                ("partition", row.partition.into()),
                ("start", row.log_start.into()),
                ("end", row.high_watermark.into()),
                ("records", (row.high_watermark - row.log_start).into()),
                ("bytes", row.bytes.into()),
                ("leader", row.leader.into()),
                ("replicas", Json::array(row.replicas.iter().copied())),
                ("in_sync", Json::array(row.in_sync.iter().copied())),
            ])
        });
        let sums = [
            ("records", records.into()),
            ("bytes", bytes.into()),
            ("under_replicated", under_replicated.into()),
            ("offline", offline.into()),
        ];
        self.list(self.partitions.len(), count, sums, rows)
    }

    /// What there is in all, and the groups selected: sorted by `name`, `state`, `members`, `partitions` or `lag`.
    pub fn groups(&self, selection: &Selection) -> Json {
        let matching: Vec<&GroupSummary> = self.groups.iter().filter(|row| is_found(&row.group, selection)).collect();
        let members: usize = matching.iter().map(|row| row.members).sum();
        let lag = matching.iter().fold(0i64, |sum, row| sum.saturating_add(row.lag));
        let count = matching.len();
        let rows = match &*selection.sort {
            "lag" => select(matching, selection, |row| row.lag),
            "members" => select(matching, selection, |row| row.members),
            "partitions" => select(matching, selection, |row| row.partitions),
            "state" => select(matching, selection, |row| row.state),
            _ => select(matching, selection, |row| &*row.group),
        };
        let rows = rows.into_iter().map(|row| {
            let most = row.most.as_ref().map(|(topic, partition, lag)| {
                Json::object([("topic", (&**topic).into()), ("partition", (*partition).into()), ("lag", (*lag).into())])
            });
            Json::object([
                ("group", (&*row.group).into()),
                ("state", row.state.into()),
                ("members", row.members.into()),
                ("partitions", row.partitions.into()),
                ("lag", row.lag.into()),
                ("most", most.into()),
            ])
        });
        self.list(self.groups.len(), count, [("members", members.into()), ("lag", lag.into())], rows)
    }

    fn list<const SUMS: usize>(
        &self,
        total: usize,
        matching: usize,
        sums: [(&'static str, Json); SUMS],
        rows: impl Iterator<Item = Json>,
    ) -> Json {
        let counts = [("total", total.into()), ("matching", matching.into())];
        let others = [("silent_shards", Json::array(self.silent.iter().copied())), ("rows", Json::array(rows))];
        let members = counts.into_iter().chain(sums).chain(others);
        Json::Object(members.map(|(name, value)| (name.into(), value)).collect())
    }
}

fn is_found(name: &str, selection: &Selection) -> bool {
    selection.search.is_empty() || name.to_lowercase().contains(&selection.search)
}

/// The rows of a selection, without those before and behind: in the order of a key, and of their names where it is equal.
/// `rows` are in the order of names.
fn select<'a, T, K: Ord>(mut rows: Vec<&'a T>, selection: &Selection, key: impl Fn(&'a T) -> K) -> Vec<&'a T> {
    if selection.descending {
        rows.sort_by_key(|row| Reverse(key(row)));
    } else {
        rows.sort_by_key(|row| key(row));
    }
    rows.into_iter().skip(selection.offset).take(selection.limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview() -> Overview {
        let partition = |topic: &str, partition, high_watermark, bytes| PartitionRow {
            topic: topic.into(),
            partition,
            log_start: 5,
            high_watermark,
            bytes,
            leader: if partition == 0 { 1 } else { -1 },
            replicas: [1, 2, 3].into(),
            in_sync: if partition == 0 { [1, 2, 3].into() } else { [2].into() },
        };
        let partitions =
            vec![partition("Orders", 0, 10, 300), partition("Orders", 1, 30, 100), partition("x", 0, 5, 0)];
        let ends = partitions.iter().map(|row| ((Arc::clone(&row.topic), row.partition), row.high_watermark)).collect();
        let summary = |group: &str, members| GroupSummary {
            group: group.into(),
            state: "Stable",
            members,
            partitions: 0,
            lag: 0,
            most: None,
        };
        let mut groups = vec![summary("readers", 2), summary("others", 1)];
        for (topic, partition, offset) in [("Orders", 0, 9), ("Orders", 1, 10), ("x", 0, 7), ("gone", 0, 1)] {
            groups[0].count(topic.into(), partition, offset, &ends);
        }
        Overview { gathered: Instant::now(), partitions, groups, silent: vec![3] }
    }

    #[test]
    fn partitions_are_found_sorted_and_cut() {
        let all = overview().partitions(&Selection::default()).to_string();
        let sums = "\"records\":30,\"bytes\":400,\"under_replicated\":1,\"offline\":1,\"silent_shards\":[3],";
        assert!(all.starts_with(&format!("{{\"total\":3,\"matching\":3,{sums}")), "{all}");
        let selection =
            Selection { search: "order".to_owned(), sort: "bytes".to_owned(), descending: true, offset: 1, limit: 10 };
        assert_eq!(
            overview().partitions(&selection).to_string(),
            format!(
                "{{\"total\":3,\"matching\":2,{sums}\"rows\":[{{\"topic\":\"Orders\",\"partition\":1,\"start\":5,\"end\":30,\
                 \"records\":25,\"bytes\":100,\"leader\":-1,\"replicas\":[1,2,3],\"in_sync\":[2]}}]}}"
            )
        );
        for sort in ["name", "partition", "records", "end"] {
            let selection = Selection { sort: sort.to_owned(), limit: 1, ..Selection::default() };
            let first = overview().partitions(&selection).to_string();
            let expected = if matches!(sort, "records" | "end") { "\"x\"" } else { "\"Orders\"" };
            assert!(first.contains(&format!("\"rows\":[{{\"topic\":{expected},\"partition\":0")), "{sort}: {first}");
        }
        let selection = Selection { sort: "in_sync".to_owned(), descending: true, limit: 1, ..Selection::default() };
        let worst = overview().partitions(&selection).to_string();
        assert!(worst.contains("\"rows\":[{\"topic\":\"Orders\",\"partition\":1,"), "{worst}");
    }

    #[test]
    fn the_lag_of_a_group_is_that_of_partitions_that_exist() {
        let selection = Selection { sort: "lag".to_owned(), descending: true, limit: 1, ..Selection::default() };
        let mut odd = overview();
        odd.groups[1].count("Orders".into(), 0, i64::MIN, &HashMap::from([(("Orders".into(), 0), 10)]));
        assert!(odd.groups(&selection).to_string().contains(&format!("\"lag\":{},", i64::MAX)));
        assert_eq!(
            overview().groups(&selection).to_string(),
            "{\"total\":2,\"matching\":2,\"members\":3,\"lag\":21,\"silent_shards\":[3],\"rows\":[{\"group\":\
             \"readers\",\"state\":\"Stable\",\"members\":2,\"partitions\":3,\"lag\":21,\"most\":{\"topic\":\"Orders\",\
             \"partition\":1,\"lag\":20}}]}"
        );
    }
}
