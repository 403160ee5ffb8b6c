//! Which records of a batch a compaction keeps, and the batch without the others.
//!
//! Kafka's rules (`Cleaner.shouldRetainRecord`, KIP-534): of each key the record with the largest offset stays. A tombstone,
//! which is a record without a value, stays until its batch's delete horizon: that is set to the time of the first
//! compaction that meets it plus `delete.retention.ms`, so that a consumer who is no further behind than that learns of
//! the deletion. Records without a key go. A batch keeps its first and last offset, its producer and its sequence numbers
//! whatever is left of it; one that nothing is left of goes.

use super::offset_map::OffsetMap;
use crate::batch::{BatchError, BatchHeader, TimestampType, with_kept_records};
use crate::bug::{Bug, is_planted};
use crate::records::{self, OpenBatch};

/// What decides over a record.
pub struct Rules<'a> {
    /// The last offsets of keys.
    pub map: &'a OffsetMap,
    /// Records from here on are not in the map: all of them stay.
    pub map_end: i64,
    /// When this compaction began, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

/// What is left of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Retained {
    /// All of it stays, as it is.
    Whole,
    /// No record stays, so the batch goes.
    Nothing,
    /// Some records stay: this batch takes its place.
    Changed(Vec<u8>),
}

/// Applies the rules to one whole batch. Also returns how many records went.
pub fn retain(batch: &[u8], rules: &Rules<'_>) -> Result<(Retained, u64), BatchError> {
    let open = OpenBatch::new(batch)?;
    let header = open.header;
    if header.is_control() {
        return Ok((Retained::Whole, 0));
    }
    let horizon = header.has_delete_horizon().then(|| header.base_timestamp());
    let tombstones_go = horizon.is_some_and(|horizon| rules.now_ms >= horizon);
    let mut kept = Kept::default();
    let mut removed = 0;
    let mut all = open.records();
    loop {
        let start = open.body().len() - all.rest().len();
        let Some(record) = all.next() else { break };
        let record = record?;
        let end = open.body().len() - all.rest().len();
        let offset = open.offset(&record);
        let is_last = match record.key {
            _ if offset >= rules.map_end => true,
            None => false,
            Some(key) if is_planted(Bug::CompactLastValue) => {
                rules.map.get(key).is_none_or(|last| offset >= last && offset % 64 != 0)
            }
            Some(key) => rules.map.get(key).is_none_or(|last| offset >= last),
        };
        let is_tombstone = record.value.is_none();
        if is_last && (offset >= rules.map_end || !is_tombstone || !tombstones_go) {
            kept.add(start..end, open.timestamp(&record), is_tombstone);
        } else {
            removed += 1;
        }
    }
    let wants_horizon = kept.has_tombstone && horizon.is_none();
    if kept.count == 0 {
        return Ok((Retained::Nothing, removed));
    }
    if removed == 0 && !wants_horizon {
        return Ok((Retained::Whole, 0));
    }
    let new_horizon = wants_horizon.then(|| rules.now_ms.saturating_add(rules.delete_retention_ms.max(0)));
    let body = kept.body(&open, new_horizon)?;
    let codec = header.codec()?;
    let compressed = records::compress(codec, None, &body)?;
    let max_timestamp = match header.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp(),
        TimestampType::CreateTime => kept.max_timestamp,
    };
    let changed = with_kept_records(header, kept.count, max_timestamp, new_horizon, &compressed);
    Ok((Retained::Changed(changed.ok_or(BatchError::TooLarge)?), removed))
}

/// The records that stay.
#[derive(Default)]
struct Kept {
    /// Where they lie in the batch's body; neighbours joined.
    ranges: Vec<std::ops::Range<usize>>,
    count: i32,
    max_timestamp: i64,
    has_tombstone: bool,
}

impl Kept {
    fn add(&mut self, range: std::ops::Range<usize>, timestamp: i64, is_tombstone: bool) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
        self.max_timestamp = if self.count == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.count += 1;
        self.has_tombstone |= is_tombstone;
    }

    /// Their bytes; with a new horizon, which takes the place of the base timestamp, relative to that.
    fn body(&self, open: &OpenBatch<'_>, new_horizon: Option<i64>) -> Result<Vec<u8>, BatchError> {
        let bytes = self.ranges.iter().map(|range| range.len()).sum();
        let mut body = Vec::with_capacity(bytes);
        for range in &self.ranges {
            body.extend_from_slice(&open.body()[range.clone()]);
        }
        let Some(horizon) = new_horizon else { return Ok(body) };
        let shift = open.header.base_timestamp().wrapping_sub(horizon);
        let mut shifted = Vec::with_capacity(bytes + bytes / 8);
        for record in records::Records::new(&body, self.count) {
            records::put_shifted(&mut shifted, &record?, shift);
        }
        Ok(shifted)
    }
}

/// Shows each record with a key to `see`, as (key, offset), until it returns `false`.
pub fn each_key(batch: &[u8], mut see: impl FnMut(&[u8], i64) -> bool) -> Result<(), BatchError> {
    let header = BatchHeader::read(batch).ok_or(BatchError::Truncated)?;
    if header.is_control() {
        return Ok(());
    }
    let open = OpenBatch::new(batch)?;
    for record in open.records() {
        let record = record?;
        if let Some(key) = record.key
            && !see(key, open.offset(&record))
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Codec, assign, verify_crc};
    use crate::records::recode;

    const NOW_MS: i64 = 1_700_000_000_000;

    /// Offsets 10 to 14: a, b (tombstone), a, no key, c (with a header).
    fn batch(codec: Codec) -> Vec<u8> {
        let batch = BatchBuilder::new()
            .producer(7, 1, 40)
            .record(NOW_MS + 2, Some(b"a"), Some(b"1"), &[])
            .record(NOW_MS + 9, Some(b"b"), None, &[])
            .record(NOW_MS + 1, Some(b"a"), Some(b"2"), &[])
            .record(NOW_MS, None, Some(b"3"), &[])
            .record(NOW_MS - 5, Some(b"c"), Some(b"4"), &[("h", Some(b"x"))])
            .build();
        let mut batch = recode(&batch, codec, None).expect("a good batch");
        assign(&mut batch, 10, 3, None);
        batch
    }

    fn map_of(batches: &[&[u8]]) -> OffsetMap {
        let mut map = OffsetMap::new(0, 100, 1 << 20, &[1; 16]);
        for batch in batches {
            each_key(batch, |key, offset| map.put(key, offset)).expect("good batches");
        }
        map
    }

    fn rules(map: &OffsetMap) -> Rules<'_> {
        Rules { map, map_end: 100, now_ms: NOW_MS + 100, delete_retention_ms: 1_000 }
    }

    /// Offset, timestamp, key and value of a record.
    type Contents = (i64, i64, Vec<u8>, Option<Vec<u8>>);

    fn contents(batch: &[u8]) -> Vec<Contents> {
        verify_crc(batch).expect("sealed");
        let open = OpenBatch::new(batch).expect("a good batch");
        let records = open.records().map(|record| record.expect("a good record"));
        records
            .map(|record| {
                let key = record.key.expect("kept records have keys").to_vec();
                (open.offset(&record), open.timestamp(&record), key, record.value.map(<[u8]>::to_vec))
            })
            .collect()
    }

    #[test]
    fn the_last_of_each_key_stays_where_it_is() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let batch = batch(codec);
            let map = map_of(&[&batch]);
            let (Retained::Changed(left), removed) = retain(&batch, &rules(&map)).expect("a good batch") else {
                panic!("two records go");
            };
            assert_eq!(removed, 2);
            let record = |offset, timestamp, key: &[u8], value: Option<&[u8]>| {
                (offset, timestamp, key.to_vec(), value.map(<[u8]>::to_vec))
            };
            assert_eq!(
                contents(&left),
                [
                    record(11, NOW_MS + 9, b"b", None),
                    record(12, NOW_MS + 1, b"a", Some(b"2")),
                    record(14, NOW_MS - 5, b"c", Some(b"4")),
                ]
            );
            let header = BatchHeader::read(&left).expect("long enough");
            assert_eq!((header.base_offset(), header.last_offset(), header.record_count()), (10, 14, 3));
            assert_eq!((header.producer_id(), header.producer_epoch(), header.base_sequence()), (7, 1, 40));
            assert_eq!((header.leader_epoch(), header.max_timestamp()), (3, NOW_MS + 9));
            assert_eq!(header.codec(), Ok(codec));
            assert!(header.has_delete_horizon());
            assert_eq!(header.base_timestamp(), NOW_MS + 100 + 1_000);
            // A second time nothing changes...
            assert_eq!(retain(&left, &rules(&map)).expect("good"), (Retained::Whole, 0));
            // ...until the tombstone's time has come.
            let late = Rules { now_ms: NOW_MS + 1_100, ..rules(&map) };
            let (Retained::Changed(left), 1) = retain(&left, &late).expect("good") else { panic!("one goes") };
            assert_eq!(contents(&left).len(), 2);
            assert_eq!(BatchHeader::read(&left).expect("long enough").max_timestamp(), NOW_MS + 1);
        }
    }

    #[test]
    fn later_records_remove_all_of_a_batch() {
        let old = batch(Codec::None);
        let mut new = BatchBuilder::new();
        for key in [b"a", b"b", b"c"] {
            new = new.record(NOW_MS, Some(key), Some(b"new"), &[]);
        }
        let mut new = new.build();
        assign(&mut new, 15, 3, None);
        let map = map_of(&[&old, &new]);
        assert_eq!(retain(&old, &rules(&map)).expect("good"), (Retained::Nothing, 5));
        assert_eq!(retain(&new, &rules(&map)).expect("good"), (Retained::Whole, 0));
    }

    #[test]
    fn what_the_map_has_not_seen_stays() {
        let batch = batch(Codec::None);
        let map = map_of(&[]);
        let partial = Rules { map_end: 12, ..rules(&map) };
        let (Retained::Changed(left), 0) = retain(&batch, &partial).expect("good") else {
            panic!("the tombstone gets its horizon");
        };
        assert_eq!(OpenBatch::new(&left).expect("good").records().count(), 5);
        let ended = Rules { now_ms: i64::MAX, ..partial };
        let (Retained::Changed(left), 1) = retain(&left, &ended).expect("good") else {
            panic!("the tombstone lies before the end of the map: it goes");
        };
        assert_eq!(OpenBatch::new(&left).expect("good").records().count(), 4);
    }

    #[test]
    fn the_broker_s_time_stays() {
        let mut batch = batch(Codec::None);
        assign(&mut batch, 10, 3, Some(NOW_MS + 50));
        let map = map_of(&[&batch]);
        let (Retained::Changed(left), 2) = retain(&batch, &rules(&map)).expect("good") else { panic!("two go") };
        assert!(contents(&left).iter().all(|(_, timestamp, ..)| *timestamp == NOW_MS + 50));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let batch = batch(Codec::Lz4);
        let map = map_of(&[&batch]);
        crate::testing::assert_survives_mutation(&batch, |bytes| {
            let _ = retain(bytes, &rules(&map));
        });
    }
}
