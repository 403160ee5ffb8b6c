//! The shard log on a disk in memory that executes operations in random order and may stop at any of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

mod compaction;
mod following;
mod recovery;
mod restart;
mod strays;

use bytes::Bytes;

use super::*;
use crate::TopicId;
use crate::batch::{BatchBuilder, Batches, TimestampType, assign};
use crate::compaction::Replacement;
use crate::disk::{BLOCK_BYTES, DiskReply};
use crate::journal::{GroupBuilder, GroupPlace};
use crate::random::Random;
use crate::recovery::{KnownPartition, RecoveryError, RecoveryOptions, recover};

/// Files in memory; every operation that is executed is durable.
#[derive(Clone, Default)]
struct MemoryDisk {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeSet<String>,
    full: bool,
    /// How many operations are executed before the power goes; for ever, if none.
    power_lasts: Option<u64>,
}

impl MemoryDisk {
    fn execute(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        match &mut self.power_lasts {
            Some(0) => {
                if let DiskOp::All(ops) = op {
                    // Any of them may have happened.
                    ops.into_iter().step_by(2).try_for_each(|op| self.execute_now(op).map(drop))?;
                }
                return Err(DiskError::Failed("the power is gone".into()));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.execute_now(op)
    }

    fn execute_now(&mut self, op: DiskOp) -> Result<DiskReply, DiskError> {
        match op {
            DiskOp::Write { path, position, data, .. } => {
                assert!(position.is_multiple_of(BLOCK_BYTES as u64));
                let mut data = data.concat();
                data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
                let position = position as usize;
                let end = position + data.len();
                let file = self.files.entry(path.to_string()).or_default();
                if self.full && end > file.len() {
                    return Err(DiskError::NoSpace);
                }
                file.resize(file.len().max(end), 0);
                file[position..end].copy_from_slice(&data);
            }
            DiskOp::Sync { path } => {
                self.files.get(path.as_ref()).ok_or(DiskError::NotFound)?;
            }
            DiskOp::Allocate { path, bytes } => {
                if self.full {
                    return Err(DiskError::NoSpace);
                }
                let file = self.files.entry(path.to_string()).or_default();
                file.resize(file.len().max(bytes as usize), 0);
            }
            DiskOp::Read { path, position, bytes } => {
                let file = self.files.get(path.as_ref()).ok_or(DiskError::NotFound)?;
                let start = (position as usize).min(file.len());
                let end = (start + bytes).min(file.len());
                return Ok(DiskReply::Data(Bytes::copy_from_slice(&file[start..end])));
            }
            DiskOp::Replace { path, data } => {
                self.files.insert(path.to_string(), data.to_vec());
            }
            DiskOp::Truncate { path, bytes } => {
                self.files.get_mut(path.as_ref()).ok_or(DiskError::NotFound)?.resize(bytes as usize, 0);
            }
            DiskOp::Rename { from, to } => {
                let inside = format!("{from}/");
                let moved: Vec<String> =
                    self.files.keys().filter(|path| path.starts_with(&inside) || **path == *from).cloned().collect();
                for path in moved {
                    let data = self.files.remove(&path).expect("listed");
                    self.files.insert(path.replacen(from.as_ref(), &to, 1), data);
                }
                let (moved, left) = std::mem::take(&mut self.directories)
                    .into_iter()
                    .partition(|path| path.starts_with(&inside) || **path == *from);
                self.directories = left;
                self.directories.extend(moved.iter().map(|path: &String| path.replacen(from.as_ref(), &to, 1)));
            }
            DiskOp::Remove { path } => {
                let inside = format!("{path}/");
                self.files.retain(|name, _| !name.starts_with(&inside) && **name != *path);
                self.directories.retain(|name| !name.starts_with(&inside) && **name != *path);
            }
            DiskOp::CreateDirectory { path } => {
                self.directories.insert(path.to_string());
            }
            DiskOp::CreateDirectories { paths } => {
                self.directories.extend(paths.iter().map(|path| path.to_string()));
            }
            DiskOp::All(ops) => {
                for op in ops {
                    self.execute_now(op)?;
                }
            }
            DiskOp::SyncAll { files, .. } => {
                assert!(files.iter().all(|path| self.files.contains_key(&**path)), "what is synced is there");
            }
            DiskOp::List { path } => {
                let inside = format!("{path}/");
                let mut names: BTreeMap<String, bool> = BTreeMap::new();
                for name in self.files.keys().chain(&self.directories) {
                    if let Some(rest) = name.strip_prefix(&inside) {
                        let is_directory = rest.contains('/') || self.directories.contains(name);
                        names.insert(rest.split('/').next().expect("has one").to_string(), is_directory);
                    }
                }
                return Ok(DiskReply::Names(names.into_iter().collect()));
            }
            DiskOp::Compact(mut compaction) => {
                let step = compaction.step(&mut |op| self.execute(op))?;
                return Ok(DiskReply::Compacted(compaction, step));
            }
        }
        Ok(DiskReply::Done)
    }
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 200_000,
        segment_ms: i64::MAX,
        retention_ms: -1,
        retention_bytes: -1,
        cleanup_delete: true,
        compaction: None,
        index_interval_bytes: 4096,
        timestamp_type: TimestampType::CreateTime,
        file_delete_delay_ms: 1000,
    }
}

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic_id: TopicId([5; 16]), partition }
}

fn now(ms: u64) -> Now {
    Now { elapsed: Duration::from_millis(ms), unix_ms: 1_700_000_000_000 + ms as i64 }
}

fn known_partition(partition: i32) -> KnownPartition {
    KnownPartition { key: key(partition), topic: "t".into(), index_interval_bytes: 4096 }
}

/// A node with one shard, and what it has under way.
struct Node {
    disk: MemoryDisk,
    log: ShardLog,
    ops: Ops,
    progress: Vec<Progress>,
    time: u64,
}

const SLOTS: u32 = 8;

/// Takes the records of whole batches from an offset on, with their offsets. Returns the offset behind the last batch.
fn take_records(bytes: &[u8], mut offset: i64, records: &mut Vec<(i64, Vec<u8>)>) -> i64 {
    for batch in Batches::new(bytes) {
        let Ok((header, batch)) = batch else { break };
        crate::batch::verify_crc(batch).expect("whole");
        let open = crate::records::OpenBatch::new(batch).expect("opens");
        for record in open.records() {
            let record = record.expect("parses");
            if open.offset(&record) >= offset {
                records.push((open.offset(&record), record.value.expect("has one").to_vec()));
            }
        }
        offset = header.last_offset() + 1;
    }
    offset
}

impl Node {
    fn start(disk: MemoryDisk, partitions: i32, slot_bytes: u64, salt: u8) -> Node {
        Node::start_with(disk, partitions, slot_bytes, salt, config())
    }

    fn start_with(disk: MemoryDisk, partitions: i32, slot_bytes: u64, salt: u8, config: LogConfig) -> Node {
        let all: Vec<i32> = (0..partitions).collect();
        Node::start_knowing(disk, (&all, &all), slot_bytes, salt, config)
    }

    /// The image of the start knows the first partitions; then the second ones are created.
    fn start_knowing(
        mut disk: MemoryDisk,
        (known, created): (&[i32], &[i32]),
        slot_bytes: u64,
        salt: u8,
        config: LogConfig,
    ) -> Node {
        let known: Vec<KnownPartition> = known.iter().map(|index| known_partition(*index)).collect();
        let options = RecoveryOptions {
            shards: 1,
            salt: [salt; 16],
            slots: SLOTS,
            slot_bytes,
            partitions: &known,
            is_marked_clean: false,
            now_ms: 0,
        };
        let mut recovered = recover(&mut |op| disk.execute(op), &options).expect("recovers");
        let options = ShardLogOptions {
            tail_memory_bytes_max: 100_000,
            free_space_floor_bytes: 0,
            extent_bytes_min: 65_536,
            retention_check_interval: Duration::from_secs(1),
            producer_expiration_ms: i64::MAX,
            producers_max: 1_000_000,
            replica_reserve_percent: 0,
            cleaner: CleanerOptions {
                is_enabled: config.compaction.is_some(),
                backoff: Duration::from_millis(1),
                ..CleanerOptions::default()
            },
        };
        let mut log = ShardLog::new(options, recovered.shards.remove(0), |_| ("t".to_string(), config.clone()));
        for index in created {
            let id = log.create_partition(key(*index), "t", config.clone());
            log.commit_alone(id);
            log.lead(id, i32::from(salt));
        }
        Node { disk, log, ops: Vec::new(), progress: Vec::new(), time: 0 }
    }

    fn id(&self, partition: i32) -> LogId {
        self.log.find(key(partition)).expect("created")
    }

    fn append(&mut self, partition: i32, payload: &[u8], records: usize) -> Appended {
        self.try_append(partition, payload, records).expect("appends")
    }

    fn try_append(&mut self, partition: i32, payload: &[u8], records: usize) -> Result<Appended, AppendError> {
        let mut builder = BatchBuilder::new();
        for _ in 0..records {
            builder = builder.record(now(self.time).unix_ms, Some(b"k"), Some(payload), &[]);
        }
        let batch = builder.build();
        let id = self.id(partition);
        self.log.append(now(self.time), id, &batch)
    }

    fn end_turn(&mut self) {
        self.time += 1;
        self.log.end_turn(now(self.time), &mut self.ops, &mut self.progress).expect("the disk does not fail");
    }

    /// Executes one operation under way.
    fn execute(&mut self, index: usize) {
        let (token, op) = self.ops.swap_remove(index);
        let result = self.disk.execute(op);
        self.log
            .on_disk(now(self.time), token, result, &mut self.ops, &mut self.progress)
            .expect("the disk does not fail");
    }

    /// Goes on until nothing is under way.
    fn settle(&mut self) {
        self.end_turn();
        while !self.ops.is_empty() {
            self.execute(0);
            self.end_turn();
        }
    }

    /// Reads what is durable of a partition from `offset` on.
    fn read(&mut self, partition: i32, offset: i64, bytes_max: usize) -> Result<ReadPlan, DiskError> {
        let id = self.id(partition);
        let until = self.log.durable_end(id);
        match self.log.read(id, offset, until, bytes_max, &mut self.ops) {
            Read::Ready(plan) => Ok(plan),
            Read::Pending(token) => self.read_done(token),
        }
    }

    /// Executes operations until a read is done.
    fn read_done(&mut self, token: ReadToken) -> Result<ReadPlan, DiskError> {
        loop {
            self.execute(self.ops.len() - 1);
            let done = self
                .progress
                .iter()
                .position(|progress| matches!(progress, Progress::ReadDone { token: done, .. } if *done == token));
            if let Some(index) = done {
                let Progress::ReadDone { result, .. } = self.progress.remove(index) else { unreachable!() };
                return result;
            }
        }
    }

    /// Finds a record of partition 0 by its time.
    fn find_time(&mut self, query: TimeQuery) -> Result<Option<TimeFound>, DiskError> {
        let id = self.id(0);
        let until = self.log.durable_end(id);
        match self.log.find_time(id, query, until, &mut self.ops) {
            TimeLookup::Ready(found) => Ok(found),
            TimeLookup::Pending(_) => loop {
                self.execute(self.ops.len() - 1);
                if let Some(Progress::TimeDone { result, .. }) = self.progress.pop() {
                    return result;
                }
            },
        }
    }

    /// The bytes that a plan promises.
    fn fetch(&mut self, plan: ReadPlan) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in plan.parts {
            match part {
                ReadPart::Memory(slice) => bytes.extend_from_slice(&slice),
                ReadPart::File { path, position, bytes: length } => {
                    let op = DiskOp::Read { path, position, bytes: length };
                    let Ok(DiskReply::Data(data)) = self.disk.execute(op) else { panic!("reads") };
                    bytes.extend_from_slice(&data);
                }
            }
        }
        bytes
    }

    /// All the bytes of a partition from `offset` on, as a consumer would read them.
    fn read_all(&mut self, partition: i32, mut offset: i64, bytes_max: usize) -> Vec<(i64, Vec<u8>)> {
        let id = self.id(partition);
        let mut records = Vec::new();
        while offset < self.log.durable_end(id) {
            let plan = self.read(partition, offset, bytes_max).expect("reads");
            assert!(plan.bytes > 0 && plan.first_batch_bytes <= plan.bytes, "{plan:?} at {offset}");
            let bytes = self.fetch(plan);
            let before = offset;
            offset = take_records(&bytes, offset, &mut records);
            assert!(offset > before, "progress");
        }
        records
    }
}

#[test]
fn appends_become_durable_and_are_read_from_memory() {
    let mut node = Node::start(MemoryDisk::default(), 2, 64 << 10, 1);
    let first = node.append(0, b"one", 2);
    assert_eq!((first.base_offset, first.last_offset), (0, 1));
    assert_eq!(node.append(1, b"two", 1).base_offset, 0);
    assert_eq!(node.append(0, b"three", 1).base_offset, 2);
    assert_eq!(node.log.durable_end(node.id(0)), 0);
    node.end_turn();
    let journal = node.ops.iter().filter(|(_, op)| matches!(op, DiskOp::Write { durable: true, .. })).count();
    assert_eq!(journal, 1, "one write commits both partitions");
    node.settle();
    assert!(node.progress.contains(&Progress::Durable { log: node.id(0), offset: 3 }));
    assert!(node.progress.contains(&Progress::Durable { log: node.id(1), offset: 1 }));
    let records = node.read_all(0, 1, 1 << 20);
    assert_eq!(records, [(1, b"one".to_vec()), (2, b"three".to_vec())]);
    assert_eq!(node.log.stats().disk_reads, 0);
}

#[test]
fn a_steady_load_reuses_its_memory_and_an_idle_log_gives_it_back() {
    let mut node = Node::start(MemoryDisk::default(), 3, 256 << 10, 1);
    let load = |node: &mut Node, turns: usize| {
        for turn in 0..turns {
            for partition in 0..3 {
                node.append(partition, &[turn as u8; 3_000], 1);
            }
            node.settle();
            // Long before what is kept is given back.
            node.time = node.time.min(5_000);
        }
        node.log.stats()
    };
    let (warm, later) = (load(&mut node, 1000), load(&mut node, 1000));
    assert!(later.checkpoints > warm.checkpoints, "{later:?}");
    // A new peak is still reached now and then.
    let (fresh, reused) = (later.blocks_fresh - warm.blocks_fresh, later.blocks_reused - warm.blocks_reused);
    assert!(fresh * 20 < reused, "{warm:?} {later:?}");
    let bytes_max = 100_000 + u64::from(SLOTS) * (256 << 10);
    assert!(later.tail_bytes + later.pool_bytes <= bytes_max, "{later:?}");
    let mut deadlines = 0;
    while node.log.stats().pool_bytes > 0 {
        let deadline = node.log.next_deadline().expect("something is kept");
        node.time = node.time.max(deadline.as_millis() as u64);
        node.settle();
        deadlines += 1;
        assert!(deadlines < 100, "{:?}", node.log.stats());
    }
}

#[test]
fn large_appends_go_straight_to_the_segment() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    node.append(0, &[1; 100], 1);
    node.settle();
    let before = node.log.stats().group_bytes;
    node.append(0, &[2; 90_000], 1);
    node.settle();
    assert_eq!(node.log.stats().extents, 1);
    assert_eq!(node.log.stats().group_bytes - before, BLOCK_BYTES as u64);
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    assert_eq!(node.read_all(0, 0, 1 << 20), [(0, vec![1; 100]), (1, vec![2; 90_000])]);
}

#[test]
fn cold_offsets_are_answered_with_file_ranges_and_times_are_found() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    let mut expected = Vec::new();
    for index in 0..600i64 {
        let payload = format!("{index:01000}").into_bytes();
        node.append(0, &payload, 1);
        expected.push((index, payload));
        node.settle();
    }
    assert!(node.log.stats().checkpoints > 2);
    assert!(node.log.logs.get(node.id(0)).segments().len() > 2);
    assert_eq!(node.read_all(0, 0, 10_000), expected);
    assert!(node.log.stats().file_reads > 10);

    // The same after a restart, when neither tail nor indexes are in memory; and with the index files gone.
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    assert_eq!(node.read_all(0, 123, 50_000), expected[123..]);
    node.disk.files.retain(|name, _| !name.ends_with(".index"));
    let mut node = Node::start(node.disk, 1, 64 << 10, 3);
    assert_eq!(node.read_all(0, 7, 50_000), expected[7..]);

    let time_of = |node: &mut Node, query| node.find_time(query).expect("reads");
    let last = time_of(&mut node, TimeQuery::Max).expect("found");
    assert_eq!(last.offset, 599);
    let middle = time_of(&mut node, TimeQuery::AtOrAfter(last.timestamp - 1)).expect("found");
    assert!(middle.offset > 0 && middle.offset <= 599 && middle.timestamp >= last.timestamp - 1);
    assert_eq!(time_of(&mut node, TimeQuery::AtOrAfter(0)).expect("found").offset, 0);
    assert_eq!(time_of(&mut node, TimeQuery::AtOrAfter(last.timestamp + 1)), None);
}

/// Found by the simulator, seed 3: the index file that came late was taken for batches.
#[test]
fn two_reads_that_load_the_same_index_do_not_disturb_each_other() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    for _ in 0..600 {
        node.append(0, &[1; 1000], 1);
        node.settle();
    }
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    let (id, until) = (node.id(0), 600);
    let Read::Pending(early) = node.log.read(id, 2, until, 1000, &mut node.ops) else { panic!("on disk") };
    let Read::Pending(late) = node.log.read(id, 0, until, 1000, &mut node.ops) else { panic!("on disk") };
    let late_index = node.ops.pop().expect("it reads the index");
    while !node.ops.is_empty() {
        node.execute(0);
    }
    node.ops.push(late_index);
    while !node.ops.is_empty() {
        node.execute(0);
    }
    for token in [early, late] {
        let is_done = |progress: &&Progress| matches!(progress, Progress::ReadDone { token: of, .. } if *of == token);
        let Some(Progress::ReadDone { result, .. }) = node.progress.iter().find(is_done) else { panic!("not done") };
        assert!(result.as_ref().is_ok_and(|plan| plan.bytes > 1000), "{result:?}");
    }
}

#[test]
fn what_a_read_passes_over_is_checked() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    for _ in 0..600 {
        node.append(0, &[7; 1000], 1);
        node.settle();
    }
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    let path = node.log.logs.get(node.id(0)).segments()[1].path.clone();
    let base = node.log.logs.get(node.id(0)).segments()[1].base_offset;
    let good = node.disk.files[path.as_ref()].clone();
    let bytes = Batches::new(&good).next().expect("a batch").expect("a good one").1.len();
    // Offset base + 2 lies behind two batches that the index does not name.
    let wanted = base + 2;
    let time = Batches::new(&good).nth(2).expect("a batch").expect("a good one").0.max_timestamp();
    let look = |node: &mut Node| {
        (node.read(0, wanted, 10_000).map(|plan| plan.bytes), node.find_time(TimeQuery::AtOrAfter(time)))
    };
    assert!(matches!(look(&mut node), (Ok(1..), Ok(Some(_)))), "nothing is damaged yet");

    // Of the second batch: base offset, length, last offset delta, maximum timestamp.
    for (field, misleads_offsets) in [(7, true), (10, true), (23, true), (41, false)] {
        let mut damaged = good.clone();
        damaged[bytes + field] ^= 0x80;
        node.disk.files.insert(path.to_string(), damaged);
        let (read, found) = look(&mut node);
        let refused = |error: DiskError| error.to_string().contains(path.as_ref());
        assert_eq!(read.is_err_and(refused), misleads_offsets, "field at {field}");
        assert!(found.is_err_and(refused), "field at {field}");
    }
    // A file that is cut short ends the search; it does not read for ever.
    node.disk.files.insert(path.to_string(), good[..bytes + 100].to_vec());
    assert!(matches!(look(&mut node), (Err(_), Err(_))));
    node.disk.files.insert(path.to_string(), good[..10].to_vec());
    assert!(matches!(look(&mut node), (Err(_), Err(_))));

    // The same when the index is rebuilt from the segment.
    for at in [7, 26, 41, 70] {
        node = Node::start(node.disk, 1, 64 << 10, 3);
        let mut damaged = good.clone();
        damaged[20 * bytes + at] ^= 0x20;
        node.disk.files.insert(path.to_string(), damaged);
        node.disk.files.retain(|name, _| !name.ends_with(".index"));
        assert!(node.read(0, wanted, 10_000).is_err(), "field at {at}");
        node.disk.files.insert(path.to_string(), good.clone());
        assert!(matches!(look(&mut node), (Ok(1..), Ok(Some(_)))), "it was rebuilt");
    }
}

/// The segment is longer than its file while its newest batches are in memory only.
#[test]
fn a_batch_in_a_file_does_not_reach_into_what_is_in_memory() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    for _ in 0..10 {
        node.append(0, &[7; 1000], 1);
        node.settle();
    }
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    node.append(0, &[7; 3000], 1);
    node.settle();
    let segment = node.log.logs.get(node.id(0)).segments().back().expect("the active one");
    let (path, readable, bytes) = (segment.path.clone(), segment.readable() as usize, segment.bytes() as usize);
    assert!(readable + 1000 < bytes, "the newest batch is in memory only");
    assert!(node.read(0, 9, 10_000).is_ok_and(|plan| plan.has_file()), "the one before is in the file");
    let file = node.disk.files.get_mut(path.as_ref()).expect("it is there");
    let batches = Batches::new(&file[..readable]).map(|batch| batch.expect("a good one").1.len());
    let last = readable - batches.last().expect("a batch");
    // The length counts what follows it.
    let length = ((readable + 1000 - last - 12) as u32).to_be_bytes();
    file[last + 8..last + 12].copy_from_slice(&length);
    let refused = node.read(0, 9, 10_000).expect_err("damage is noticed").to_string();
    assert!(refused.contains(path.as_ref()), "{refused}");
}

#[test]
fn a_commit_does_not_wait_for_room_on_the_disk() {
    let mut node = Node::start(MemoryDisk::default(), 2, 64 << 10, 1);
    node.append(0, &[1; 100], 1);
    node.append(1, &[1; 100], 1);
    node.settle();
    node.disk.full = true;
    // Too large for the journal, and there is no space for it in its segment.
    node.append(0, &[2; 90_000], 1);
    let other = node.id(1);
    assert!(!node.log.delete_records(other, 1));
    for _ in 0..20 {
        node.settle();
        node.time += 100;
    }
    assert_eq!(node.log.log_start(other), 1, "a deletion goes on");
    assert_eq!(node.log.durable_end(node.id(0)), 1);
    node.disk.full = false;
    for _ in 0..20 {
        node.settle();
        node.time += 100;
    }
    assert_eq!(node.log.durable_end(node.id(0)), 2);
    assert!(node.log.is_idle());
}

#[test]
fn what_a_removed_partition_had_appended_is_not_waited_for() {
    let mut node = Node::start(MemoryDisk::default(), 2, 64 << 10, 1);
    for partition in [0, 1] {
        node.append(partition, &[1; 5_000], 1);
    }
    // One is removed before its bytes are in a group, the other while they are.
    let (first, second) = (node.id(0), node.id(1));
    node.log.remove_partition(first);
    node.end_turn();
    node.log.remove_partition(second);
    node.settle();
    assert_eq!(node.log.stats().pending_bytes, 0);
}

#[test]
fn a_clock_that_jumps_makes_no_duplicate() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    let id = node.id(0);
    let batch = BatchBuilder::new().producer(7, 0, 0).record(0, None, Some(b"once"), &[]).build();
    assert!(!node.log.append(now(0), id, &batch).expect("appends").duplicate);
    node.settle();
    // The clock is set a year forward, and every partition is looked at for expired producers.
    let later = Now { elapsed: Duration::from_secs(5), unix_ms: now(0).unix_ms + YEAR_MS };
    node.log.options.producer_expiration_ms = 86_400_000;
    node.log.end_turn(later, &mut node.ops, &mut node.progress).expect("the disk does not fail");
    assert!(node.log.append(later, id, &batch).expect("appends").duplicate);
    // The same when it is set before the recovered log has done anything.
    let mut node = Node::start(node.disk, 1, 64 << 10, 2);
    let id = node.id(0);
    node.log.options.producer_expiration_ms = 86_400_000;
    node.log.end_turn(later, &mut node.ops, &mut node.progress).expect("the disk does not fail");
    assert!(node.log.append(later, id, &batch).expect("appends").duplicate);
    // A day by the clock that does not jump is a day.
    let next_day = Now { elapsed: Duration::from_secs(86_405), unix_ms: now(0).unix_ms };
    node.log.end_turn(next_day, &mut node.ops, &mut node.progress).expect("the disk does not fail");
    assert!(!node.log.append(next_day, id, &batch).expect("appends").duplicate);
}

#[test]
fn delete_records_moves_the_start_durably_and_frees_segments() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    for _ in 0..10 {
        node.append(0, &[3; 60_000], 1);
        node.settle();
    }
    let id = node.id(0);
    let files = node.disk.files.keys().filter(|name| name.ends_with(".log")).count();
    assert!(!node.log.delete_records(id, 7));
    assert_eq!(node.log.log_start(id), 0, "not before it is durable");
    node.settle();
    assert!(node.progress.contains(&Progress::LogStart { log: id, offset: 7 }));
    assert!(node.log.delete_records(id, 5));
    node.time += 2000;
    node.settle();
    assert!(node.disk.files.keys().filter(|name| name.ends_with(".log")).count() < files);
    let node = Node::start(node.disk, 1, 64 << 10, 2);
    assert_eq!(node.log.log_start(node.id(0)), 7);
}

#[test]
fn retention_by_size_and_by_time() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    let id = node.id(0);
    node.log.set_config(id, LogConfig { retention_bytes: 200_000, ..config() });
    for _ in 0..10 {
        node.append(0, &[3; 60_000], 1);
        node.settle();
    }
    node.time += 5000;
    node.settle();
    node.settle();
    assert_eq!(node.log.log_start(id), 6, "without the two oldest segments it is still as large as it may be");
    node.log.set_config(id, LogConfig { retention_ms: 10_000, ..config() });
    node.time += 20_000;
    node.settle();
    node.settle();
    assert_eq!(node.log.log_start(id), 10, "all of it expired, the active segment too");
    assert_eq!(node.append(0, b"next", 1).base_offset, 10);
}

#[test]
fn producers_of_all_partitions_have_one_bound_and_the_newest_stay() {
    let mut node = Node::start(MemoryDisk::default(), 3, 1 << 20, 1);
    node.log.options.producers_max = 10;
    let append = |node: &mut Node, producer: i64, sequence: i32| {
        node.time += 1;
        let batch = BatchBuilder::new().producer(producer, 0, sequence).record(0, None, Some(b"x"), &[]).build();
        let id = node.id(producer as i32 % 3);
        node.log.append(now(node.time), id, &batch).expect("appends")
    };
    for producer in 0..300 {
        assert!(!append(&mut node, producer, 0).duplicate);
        assert!(append(&mut node, producer, 0).duplicate, "the newest is remembered");
    }
    assert_eq!(node.log.stats().producers, 10);
    assert!(!append(&mut node, 0, 0).duplicate, "the first was forgotten");
    node.settle();
    let id = node.id(0);
    node.log.remove_partition(id);
    node.settle();
    let left = node.log.stats().producers;
    assert!(left > 0 && left < 10, "{left}");
}

#[test]
fn a_full_disk_refuses_appends_and_recovers_by_itself() {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    node.append(0, &[1; 1000], 1);
    node.disk.full = true;
    node.end_turn();
    while !node.ops.is_empty() {
        node.execute(0);
        node.log.end_turn(now(node.time), &mut node.ops, &mut node.progress).expect("the disk does not fail");
    }
    assert_eq!(node.log.durable_end(node.id(0)), 1, "the journal was reserved");
    assert!(node.log.is_out_of_space());
    let batch = BatchBuilder::new().record(0, None, Some(b"x"), &[]).build();
    let id = node.id(0);
    assert_eq!(node.log.append(now(0), id, &batch), Err(AppendError::NoSpace));
    node.disk.full = false;
    node.time += 1000;
    node.settle();
    assert!(!node.log.is_out_of_space());
    assert!(node.log.append(now(0), id, &batch).is_ok());
}

#[test]
fn a_removed_partition_leaves_nothing() {
    let mut node = Node::start(MemoryDisk::default(), 2, 64 << 10, 1);
    node.append(0, &[1; 1000], 1);
    node.append(1, &[1; 1000], 1);
    node.end_turn();
    // For the next group, which will not have it any more.
    node.append(0, &[1; 1000], 1);
    let id = node.id(0);
    node.log.remove_partition(id);
    assert_eq!(node.log.find(key(0)), None);
    node.settle();
    node.settle();
    assert!(node.log.is_idle());
    assert_eq!(node.log.stats().pending_bytes, 0, "nothing is waited for that never comes");
    assert!(
        !node.disk.files.keys().any(|name| name.starts_with(&crate::partition_log::partition_directory("t", key(0))))
    );
    assert_eq!(node.log.durable_end(node.id(1)), 1);
}

/// A journal of three groups on a disk, the last of them an extent.
fn three_groups() -> MemoryDisk {
    let mut node = Node::start(MemoryDisk::default(), 1, 64 << 10, 1);
    for payload in [&[1; 100][..], &[2; 100][..], &[3; 90_000][..]] {
        node.append(0, payload, 1);
        node.settle();
    }
    assert_eq!(node.log.stats().groups, 3);
    node.disk
}

fn damage(disk: &mut MemoryDisk, suffix: &str, at: usize) {
    let (_, file) = disk.files.iter_mut().find(|(name, _)| name.ends_with(suffix)).expect("there");
    file[at] ^= 1;
}

fn recover_on(disk: &mut MemoryDisk, shards: usize) -> Result<crate::recovery::Recovered, RecoveryError> {
    recover_knowing(disk, &[0], shards)
}

fn recover_knowing(
    disk: &mut MemoryDisk,
    known: &[i32],
    shards: usize,
) -> Result<crate::recovery::Recovered, RecoveryError> {
    recover_by(&mut |op| disk.execute(op), known, shards)
}

fn recover_by(
    io: &mut dyn FnMut(DiskOp) -> Result<DiskReply, DiskError>,
    known: &[i32],
    shards: usize,
) -> Result<crate::recovery::Recovered, RecoveryError> {
    let known: Vec<KnownPartition> = known.iter().map(|index| known_partition(*index)).collect();
    let options = RecoveryOptions {
        shards,
        salt: [9; 16],
        slots: SLOTS,
        slot_bytes: 64 << 10,
        partitions: &known,
        is_marked_clean: false,
        now_ms: 0,
    };
    recover(io, &options)
}

/// Random appends and deletions, random completion order, a stop at a random point, many times over: what was reported
/// durable is there, in order, once.
#[test]
fn random_stops_lose_nothing_durable() {
    for seed in 0..150 {
        println!("seed {seed}");
        // With more logs than one turn encodes, checkpoints take several turns.
        let partitions = if seed % 30 == 0 { 200 } else { 3 };
        let mut random = Random::new(seed);
        let mut disk = MemoryDisk::default();
        let mut durable: HashMap<i32, BTreeMap<i64, Vec<u8>>> = HashMap::new();
        for round in 1..6u8 {
            let mut node = Node::start(disk, partitions, 64 << 10, round);
            let mut appended: HashMap<i32, BTreeMap<i64, Vec<u8>>> = HashMap::new();
            for partition in 0..partitions {
                let log_start = node.log.log_start(node.id(partition));
                let records: BTreeMap<i64, Vec<u8>> = node.read_all(partition, log_start, 30_000).into_iter().collect();
                for (offset, value) in durable.entry(partition).or_default().range(log_start..) {
                    assert_eq!(records.get(offset), Some(value), "seed {seed} round {round} offset {offset}");
                }
                for (index, offset) in records.keys().enumerate() {
                    assert_eq!(log_start + index as i64, *offset, "dense");
                }
                assert_eq!(node.log.log_end(node.id(partition)), log_start + records.len() as i64);
                appended.insert(partition, records);
            }
            let steps = random.index(400);
            for step in 0..steps {
                let partition = random.index(partitions as usize) as i32;
                if random.below(3) > 0 {
                    let length = if random.below(10) == 0 { 70_000 } else { random.index(3000) };
                    let value = vec![(seed as usize + step) as u8; length];
                    // Refused when too much waits for the disk.
                    if let Ok(at) = node.try_append(partition, &value, 1) {
                        appended.get_mut(&partition).expect("inserted").insert(at.base_offset, value);
                    }
                }
                if random.below(40) == 0 {
                    let log = node.id(partition);
                    node.log.delete_records(log, node.log.durable_end(log));
                }
                if random.below(2) == 0 {
                    node.end_turn();
                }
                if !node.ops.is_empty() && random.below(2) == 0 {
                    node.execute(random.index(node.ops.len()));
                }
                for progress in node.progress.drain(..) {
                    match progress {
                        Progress::Durable { log, offset } => {
                            let partition = (0..partitions).find(|&index| node.log.find(key(index)) == Some(log));
                            let partition = partition.expect("known");
                            let upto = appended[&partition].range(..offset).map(|(at, value)| (*at, value.clone()));
                            durable.get_mut(&partition).expect("inserted").extend(upto);
                        }
                        Progress::LogStart { log, offset } => assert!(offset <= node.log.log_start(log)),
                        other => panic!("nothing is read: {other:?}"),
                    }
                }
            }
            disk = node.disk;
        }
    }
}

/// A checkpoint that takes many turns, while logs change that are not in it yet: what it says is what was true when it
/// began, and the rest comes from the journal.
#[test]
fn a_checkpoint_of_many_logs_is_encoded_in_pieces() {
    const PARTITIONS: i32 = 300;
    let mut node = Node::start(MemoryDisk::default(), PARTITIONS, 256 << 10, 1);
    let mut before = 0;
    while !node.log.checkpoints.is_under_way() {
        for partition in 0..PARTITIONS {
            node.append(partition, &[1; 300], 1);
        }
        before += 1;
        node.end_turn();
        while !node.ops.is_empty() {
            node.execute(0);
        }
    }
    let mut turns = 0;
    while node.log.stats().checkpoints == 0 {
        if node.log.checkpoints.is_encoding() {
            assert!(node.log.next_deadline() < Some(now(node.time + 1).elapsed), "it goes on by itself");
            // The last ones change before their turn comes, the first ones after.
            node.append(PARTITIONS - 1 - turns, &[2; 10], 1);
            node.append(turns, &[2; 10], 1);
            turns += 1;
        }
        node.end_turn();
        while !node.ops.is_empty() {
            node.execute(0);
        }
    }
    assert!(turns > 2, "{turns}");
    node.settle();
    let mut after = Node::start(node.disk, PARTITIONS, 256 << 10, 2);
    for partition in 0..PARTITIONS {
        let ours: Vec<_> = after.read_all(partition, 0, 1 << 20).into_iter().map(|(_, value)| value).collect();
        let mut expected = vec![vec![1; 300]; before];
        expected.extend((partition < turns || partition >= PARTITIONS - turns).then(|| vec![2; 10]));
        assert_eq!(ours, expected, "partition {partition}");
    }
}
