//! What a shard's log is told: the configuration of each topic, and the shard's own sizes and limits.

use std::time::Duration;

use crate::batch::TimestampType;

/// What a topic's configuration means to its partitions' logs. Kafka's names, units and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `retention.ms`; negative: no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
    /// `cleanup.policy` contains `delete`: retention applies.
    pub cleanup_delete: bool,
    /// `cleanup.policy` contains `compact`.
    pub compaction: Option<CompactionConfig>,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
}

/// What a compacted topic's configuration says about compaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactionConfig {
    /// `min.cleanable.dirty.ratio`: from which share of bytes that were not compacted yet on it pays.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`: records stay untouched for so long.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`: after so long they are compacted whatever the ratio.
    pub max_lag_ms: i64,
    /// `delete.retention.ms`: how long tombstones stay after the compaction that meets them first.
    pub delete_retention_ms: i64,
}

impl Eq for CompactionConfig {}

impl LogConfig {
    /// After how long a segment is closed, in milliseconds: what is never closed is never compacted.
    pub(crate) fn roll_ms(&self) -> i64 {
        self.compaction.map_or(i64::MAX, |compaction| compaction.max_lag_ms).min(self.segment_ms)
    }
}

/// Sizes and limits of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLogOptions {
    /// Memory for the newest bytes of all partitions once they are written back (`millstream.tail.memory.bytes`).
    pub tail_memory_bytes_max: usize,
    /// Free space below which appends are refused (`millstream.free.space.floor.bytes`).
    pub free_space_floor_bytes: u64,
    /// What one partition appended in one turn goes straight to its segment from this length on
    /// (`millstream.extent.bytes`).
    pub extent_bytes_min: usize,
    /// `log.retention.check.interval.ms`
    pub retention_check_interval: Duration,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// Idempotent producers remembered in all partitions together, besides the last one of each: a new one takes the
    /// place of the one that was silent for the longest in its partition.
    pub producers_max: usize,
    /// How much of what may be appended but not durable is kept for replicated appends, in percent: clients' appends are refused
    /// for lack of space that much earlier.
    pub replica_reserve_percent: u8,
    /// How the shard compacts.
    pub cleaner: CleanerOptions,
}

/// How a shard compacts: one partition at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanerOptions {
    /// `log.cleaner.enable`
    pub is_enabled: bool,
    /// Memory for the last offsets of keys, in bytes: this shard's part of `log.cleaner.dedupe.buffer.size`.
    pub map_bytes_max: usize,
    /// Read and written together, in bytes a second: this shard's part of `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second_max: u64,
    /// `log.cleaner.backoff.ms`: how long to wait when there is nothing to do.
    pub backoff: Duration,
}

/// Kafka's defaults, for a single shard.
impl Default for CleanerOptions {
    fn default() -> CleanerOptions {
        CleanerOptions {
            is_enabled: true,
            map_bytes_max: 128 << 20,
            bytes_per_second_max: u64::MAX,
            backoff: Duration::from_secs(15),
        }
    }
}
