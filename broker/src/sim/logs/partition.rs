//! A partition of the simulated logs: how it is configured, and where its consumer is.

use millstream_storage::batch::TimestampType;
use millstream_storage::random::Random;
use millstream_storage::shard_log::{CompactionConfig, LogConfig};
use millstream_storage::{PartitionKey, TopicId};

use super::replica::Replica;
use crate::sim::checkers::Checkers;

/// How long a removed file stays: who was promised bytes of it reads them meanwhile.
pub const FILE_DELETE_DELAY_MS: i64 = 200;

pub struct Partition {
    pub key: PartitionKey,
    pub config: LogConfig,
    pub checkers: Checkers,
    /// Where the consumer at the tail is.
    pub position: i64,
    pub is_start_moving: Option<i64>,
    /// What the log should be, if it has replicas on other nodes.
    pub replica: Option<Replica>,
}

impl Partition {
    /// The partition with this number; of three topics.
    pub fn new(index: usize, may_have_gaps: bool, random: &mut Random) -> Partition {
        let is_compacted = may_have_gaps && random.one_in(3);
        let has_replicas = may_have_gaps && random.coin();
        Partition {
            key: PartitionKey { topic_id: TopicId([index as u8 % 3; 16]), partition: index as i32 },
            config: if is_compacted { compacted_config(random) } else { config(random) },
            checkers: if is_compacted { Checkers::of_compacted() } else { Checkers::default() },
            position: 0,
            is_start_moving: None,
            replica: has_replicas.then(Replica::default),
        }
    }
}

fn config(random: &mut Random) -> LogConfig {
    LogConfig {
        segment_bytes: random.between(300, 900) * 1_000,
        segment_ms: if random.one_in(3) { 300 } else { i64::MAX },
        retention_ms: -1,
        retention_bytes: if random.one_in(3) { 500_000 } else { -1 },
        cleanup_delete: true,
        compaction: None,
        index_interval_bytes: 4_096,
        timestamp_type: TimestampType::CreateTime,
        file_delete_delay_ms: FILE_DELETE_DELAY_MS,
    }
}

/// Segments so short that several are closed and compacted in the time that a simulation takes.
fn compacted_config(random: &mut Random) -> LogConfig {
    LogConfig {
        segment_bytes: random.between(16, 60) * 1_000,
        cleanup_delete: random.one_in(4),
        compaction: Some(CompactionConfig {
            min_cleanable_dirty_ratio: random.below(50) as f64 / 100.0,
            min_lag_ms: 0,
            max_lag_ms: if random.one_in(4) { 1 } else { i64::MAX },
            delete_retention_ms: random.below(400) as i64,
        }),
        ..config(random)
    }
}
