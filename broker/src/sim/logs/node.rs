//! A running process of the simulated logs: the logs of its shards, and who waits for them. Gone with a crash.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_storage::random::Random;
use millstream_storage::recovery::{KnownPartition, Recovered, RecoveryOptions, recover};
use millstream_storage::shard_log::{LogId, ReadToken, ShardLogOptions};
use millstream_storage::{PartitionKey, ShardLog};

use super::TOPIC;
use super::partition::Partition;
use crate::sim::disk::SimDisk;
use crate::sim::restart::cleaner_options;

/// An append that waits until it is durable.
pub struct Waiting {
    /// One past its last offset.
    pub end: i64,
    pub base_offset: i64,
    pub producer: usize,
    /// The number of the first record.
    pub first: u32,
    /// How many records there are.
    pub count: u32,
}

/// A read or time query that waits for the disk.
pub enum Reading {
    Read { partition: usize, offset: i64 },
    Time { partition: usize, query: Option<i64>, until: i64 },
}

pub struct Node {
    /// When the process started, on the simulation's clock.
    pub started_us: u64,
    pub logs: Vec<ShardLog>,
    /// The appends that wait, of each shard's logs.
    pub waiting: Vec<BTreeMap<LogId, Vec<Waiting>>>,
    /// The reads that wait, of each shard.
    pub reading: Vec<BTreeMap<ReadToken, Reading>>,
}

impl Node {
    pub fn new(started_us: u64, logs: Vec<ShardLog>) -> Node {
        Node {
            started_us,
            waiting: logs.iter().map(|_| BTreeMap::new()).collect(),
            reading: logs.iter().map(|_| BTreeMap::new()).collect(),
            logs,
        }
    }

    /// Where a partition's log is: its shard, that shard's logs, and its name there.
    pub fn log_of(&mut self, key: PartitionKey) -> (usize, &mut ShardLog, LogId) {
        let shard = key.shard(self.logs.len());
        let log = &mut self.logs[shard];
        let id = log.find(key).expect("every partition is created at the start");
        (shard, log, id)
    }
}

/// Recovers what the disk has of these partitions, with an image that knows some of them.
pub fn recover_logs(
    (partitions, image): (&[Partition], &[bool]),
    disk: &mut SimDisk,
    random: &mut Random,
    shards: usize,
    now_ms: i64,
) -> Result<Recovered, String> {
    let known: Vec<KnownPartition> = partitions
        .iter()
        .zip(image)
        .filter_map(|(partition, is_known)| is_known.then_some(partition))
        .map(|partition| KnownPartition {
            key: partition.key,
            topic: TOPIC.to_string(),
            index_interval_bytes: partition.config.index_interval_bytes,
        })
        .collect();
    let options = RecoveryOptions {
        shards,
        salt: random.bytes(),
        slots: 4 + random.below(4) as u32,
        slot_bytes: 128 << 10,
        partitions: &known,
        is_marked_clean: false,
        now_ms,
    };
    recover(&mut |op| disk.execute(op), &options).map_err(|error| error.to_string())
}

/// The logs of all shards, as recovery found them.
pub fn open_logs(partitions: &[Partition], recovered: Recovered) -> Vec<ShardLog> {
    let options = ShardLogOptions {
        tail_memory_bytes_max: 256 << 10,
        free_space_floor_bytes: 64 << 10,
        extent_bytes_min: 48 << 10,
        retention_check_interval: Duration::from_millis(50),
        producer_expiration_ms: 86_400_000,
        producers_max: 1_000_000,
        replica_reserve_percent: 25,
        cleaner: cleaner_options(),
    };
    let config_of = |key| {
        let partition = partitions.iter().find(|each| each.key == key).expect("known");
        (TOPIC.to_string(), partition.config.clone())
    };
    recovered.shards.into_iter().map(|shard| ShardLog::new(options.clone(), shard, config_of)).collect()
}
