//! Compaction of logs on the disk in memory, with crashes at every operation.

use super::*;
use crate::batch::{Codec, verify_crc};
use crate::records::{OpenBatch, recode};

/// Tombstones stay for so long, in the milliseconds of [`Node`]'s time.
const DELETE_RETENTION_MS: i64 = 20_000;

fn compacted() -> LogConfig {
    LogConfig {
        segment_bytes: 4_000,
        cleanup_delete: false,
        compaction: Some(CompactionConfig {
            min_cleanable_dirty_ratio: 0.3,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            delete_retention_ms: DELETE_RETENTION_MS,
        }),
        file_delete_delay_ms: 5,
        ..config()
    }
}

/// A key, and what was written to it.
type Written = (u32, Option<Vec<u8>>);

/// A record as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    offset: i64,
    record: Written,
}

impl Node {
    fn append_keyed(&mut self, records: &[Written], codec: Codec) -> Result<Appended, AppendError> {
        let mut builder = BatchBuilder::new();
        for (key, value) in records {
            builder = builder.record(now(self.time).unix_ms, Some(&key.to_be_bytes()), value.as_deref(), &[]);
        }
        let batch = recode(&builder.build(), codec, None).expect("a good batch");
        let id = self.id(0);
        self.log.append(now(self.time), id, &batch)
    }

    /// Everything from `offset` on, as a consumer finds it.
    fn found(&mut self, mut offset: i64, bytes_max: usize) -> Vec<Found> {
        let id = self.id(0);
        let mut all = Vec::new();
        while offset < self.log.durable_end(id) {
            let plan = self.read(0, offset, bytes_max).expect("reads");
            if plan.bytes == 0 {
                break;
            }
            let bytes = self.fetch(plan);
            for batch in Batches::new(&bytes) {
                let Ok((header, batch)) = batch else { break };
                verify_crc(batch).expect("whole");
                let open = OpenBatch::new(batch).expect("opens");
                for record in open.records() {
                    let record = record.expect("parses");
                    let key = u32::from_be_bytes(record.key.expect("has one").try_into().expect("four bytes"));
                    if open.offset(&record) >= offset {
                        let record_found = (key, record.value.map(<[u8]>::to_vec));
                        all.push(Found { offset: open.offset(&record), record: record_found });
                    }
                }
                assert!(header.last_offset() >= offset, "progress");
                offset = header.last_offset() + 1;
            }
        }
        all
    }

    /// Lets time pass and everything happen that is due.
    fn rest(&mut self, ms: u64) {
        for _ in 0..ms {
            self.settle();
        }
    }
}

/// What was appended, and what must be there.
#[derive(Default)]
struct Model {
    appended: Vec<Found>,
}

impl Model {
    /// Compaction may remove a record only when a later one has its key, or when it is a tombstone whose time has come.
    fn check(&self, found: &[Found], durable_end: i64, seed: u64) {
        let appended: HashMap<i64, &Found> = self.appended.iter().map(|each| (each.offset, each)).collect();
        assert!(found.is_sorted_by_key(|each| each.offset), "seed {seed}: order");
        for each in found {
            assert_eq!(appended.get(&each.offset), Some(&each), "seed {seed}: a record that nobody wrote");
        }
        let durable = || self.appended.iter().filter(|each| each.offset < durable_end);
        let last: HashMap<u32, &Found> = durable().map(|each| (each.record.0, each)).collect();
        let there: HashMap<i64, &Found> = found.iter().map(|each| (each.offset, each)).collect();
        for each in last.values().filter(|each| each.record.1.is_some()) {
            assert!(there.contains_key(&each.offset), "seed {seed}: the last value of {each:?} is lost");
        }
        // No value comes back to life: whoever reads everything ends with the last state of each key.
        let read: BTreeMap<u32, &Found> = found.iter().map(|each| (each.record.0, each)).collect();
        for (key, each) in read {
            assert_eq!(each.record.1, last[&key].record.1, "seed {seed}: key {key} at {}", each.offset);
        }
    }
}

#[test]
fn the_last_record_of_each_key_stays() {
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, compacted());
    let mut model = Model::default();
    for round in 0..100u32 {
        let value = (round % 7 != 3).then(|| vec![round as u8; 100]);
        let appended = node.append_keyed(&[(round % 10, value.clone())], Codec::None).expect("appends");
        model.appended.push(Found { offset: appended.base_offset, record: (round % 10, value) });
        node.settle();
    }
    node.rest(100);
    let stats = node.log.stats();
    assert!(stats.compactions > 0 && stats.compaction_removed_records > 50, "{stats:?}");
    let bytes = node.log.log_bytes(node.id(0));
    assert!(bytes < 9_000, "{bytes} of 17,000 bytes are left");
    let found = node.found(0, 1 << 20);
    assert!(found.len() < 60, "{} records", found.len());
    model.check(&found, 100, 0);
    assert_eq!((node.log.log_start(node.id(0)), node.log.log_end(node.id(0))), (0, 100));
    // From any offset on the same.
    for offset in 0..100 {
        let expected: Vec<Found> = found.iter().filter(|each| each.offset >= offset).cloned().collect();
        assert_eq!(node.found(offset, 300), expected, "from {offset}");
    }
    // The files of what was replaced are gone, and a restart finds the same.
    let files = node.disk.files.keys().filter(|path| path.ends_with(".log")).count();
    assert!(files <= node.log.logs.get(node.id(0)).segments().len() + 1, "{:?}", node.disk.files.keys());
    let mut node = Node::start_with(node.disk, 1, 64 << 10, 2, compacted());
    assert_eq!(node.found(0, 1 << 20), found);
}

#[test]
fn tombstones_go_when_their_time_has_come() {
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, compacted());
    let write = |node: &mut Node, key: u32, value: Option<Vec<u8>>| {
        node.append_keyed(&[(key, value)], Codec::Lz4).expect("appends");
        node.settle();
    };
    write(&mut node, 1, Some(vec![1; 100]));
    write(&mut node, 1, None);
    // No byte of these can be compressed away: segments are closed.
    let mut random = Random::new(1);
    let mut fill = |node: &mut Node| {
        for key in 100..160 {
            let value = (0..200).map(|_| random.below(256) as u8).collect();
            write(node, key, Some(value));
        }
        node.rest(20);
    };
    fill(&mut node);
    let of_key_1 = |node: &mut Node| {
        node.found(0, 1 << 20)
            .into_iter()
            .filter(|each| each.record.0 == 1)
            .map(|each| each.record.1)
            .collect::<Vec<_>>()
    };
    assert_eq!(of_key_1(&mut node), [None], "the value went, its deletion is there");
    fill(&mut node);
    assert_eq!(of_key_1(&mut node), [None], "consumers who lag a little learn of it");
    node.time += DELETE_RETENTION_MS as u64;
    fill(&mut node);
    assert_eq!(of_key_1(&mut node), []);
}

#[test]
fn what_is_young_or_clean_is_left_alone() {
    let compaction = CompactionConfig { min_lag_ms: 10_000, ..compacted().compaction.expect("it is compacted") };
    let config = LogConfig { compaction: Some(compaction), ..compacted() };
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, config);
    for round in 0..100 {
        node.append_keyed(&[(round % 3, Some(vec![1; 200]))], Codec::None).expect("appends");
        node.settle();
    }
    node.rest(20);
    assert_eq!(node.log.stats().compaction_read_bytes, 0, "min.compaction.lag.ms");
    node.time += 20_000;
    node.rest(20);
    let stats = node.log.stats();
    assert!(stats.compactions == 1 && stats.compaction_removed_records > 70, "{stats:?}");
    node.time += 20_000;
    node.rest(20);
    assert_eq!(node.log.stats().compactions, 1, "min.cleanable.dirty.ratio");
}

#[test]
fn a_log_of_more_keys_than_fit_the_memory_takes_several_runs() {
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, compacted());
    let mut model = Model::default();
    // 64 KiB are room for 3,276 keys.
    for round in 0..2u32 {
        for key in 0..8_000u32 {
            if key % 500 == 0 {
                node.settle();
            }
            let record = (key, Some(vec![round as u8; 4]));
            let appended = node.append_keyed(std::slice::from_ref(&record), Codec::None).expect("appends");
            model.appended.push(Found { offset: appended.base_offset, record });
        }
    }
    node.log.options.cleaner.map_bytes_max = 1;
    node.rest(60);
    let stats = node.log.stats();
    assert!(stats.compactions >= 4 && stats.compaction_removed_records > 7_000, "{stats:?}");
    model.check(&node.found(0, 1 << 20), 16_000, 0);
}

#[test]
fn damage_stops_compaction_and_nothing_else() {
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, compacted());
    node.log.options.cleaner.is_enabled = false;
    for round in 0..100 {
        node.append_keyed(&[(round % 3, Some(vec![1; 200]))], Codec::None).expect("appends");
        node.settle();
    }
    let first = node.log.logs.get(node.id(0)).segments()[0].path.to_string();
    node.disk.files.get_mut(&first).expect("written back")[1_000] ^= 1;
    node.log.options.cleaner.is_enabled = true;
    let files: Vec<String> = node.disk.files.keys().cloned().collect();
    node.rest(20);
    assert_eq!((node.log.stats().compactions, node.log.stats().compactions_failed), (0, 1));
    assert_eq!(node.disk.files.keys().cloned().collect::<Vec<_>>(), files, "nothing is left over");
    node.append_keyed(&[(1, None)], Codec::None).expect("appends");
}

#[test]
fn a_removed_partition_is_not_waited_for() {
    let mut node = Node::start_with(MemoryDisk::default(), 1, 64 << 10, 1, compacted());
    for round in 0..200 {
        node.append_keyed(&[(round % 3, Some(vec![1; 200]))], Codec::None).expect("appends");
        node.end_turn();
        while let Some(index) = node.ops.iter().position(|(_, op)| !matches!(op, DiskOp::Compact(_))) {
            node.execute(index);
            node.end_turn();
        }
    }
    assert!(node.ops.iter().any(|(_, op)| matches!(op, DiskOp::Compact(_))), "one is under way");
    let id = node.id(0);
    node.log.remove_partition(id);
    node.rest(20);
    assert!(node.log.is_idle());
    assert!(!node.disk.files.keys().any(|path| path.starts_with("topics/")), "{:?}", node.disk.files.keys());
}

/// Everything at random, with crashes between any two operations.
#[test]
fn whatever_happens_no_last_value_is_lost() {
    let mut compactions = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut disk = MemoryDisk::default();
        let mut model = Model::default();
        let keys = 1 + random.index(200);
        let mut time = 0;
        for start in 1..5u8 {
            let mut node = Node::start_with(disk, 1, 64 << 10, start, compacted());
            node.time = time;
            let id = node.id(0);
            let end = node.log.log_end(id);
            model.appended.retain(|each| each.offset < end);
            if random.below(3) == 0 {
                node.log.options.cleaner.map_bytes_max = 1;
            }
            model.check(&node.found(0, 1 + random.index(20_000)), end, seed);
            for _ in 0..300 + random.below(600) {
                match random.below(10) {
                    0..4 => {
                        let records: Vec<Written> = (0..1 + random.below(8))
                            .map(|_| {
                                let value = vec![random.below(256) as u8; random.index(300)];
                                (random.index(keys) as u32, (random.below(8) > 0).then_some(value))
                            })
                            .collect();
                        let codec = if random.below(3) == 0 { Codec::Zstd } else { Codec::None };
                        let Ok(appended) = node.append_keyed(&records, codec) else { continue };
                        model.appended.extend(
                            (appended.base_offset..).zip(records).map(|(offset, record)| Found { offset, record }),
                        );
                    }
                    4..9 if !node.ops.is_empty() => {
                        let index = random.index(node.ops.len());
                        node.execute(index);
                    }
                    _ => node.end_turn(),
                }
                node.progress.clear();
            }
            if random.below(2) == 0 {
                node.rest(5);
                let end = node.log.durable_end(id);
                let log_start = node.log.log_start(id);
                model.check(&node.found(log_start, 1 + random.index(20_000)), end, seed);
            }
            compactions += node.log.stats().compactions;
            // What was under way is lost.
            (disk, time) = (node.disk, node.time + 1);
        }
    }
    assert!(compactions > 100, "{compactions} compactions");
}
