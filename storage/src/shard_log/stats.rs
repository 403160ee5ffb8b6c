//! What a shard's log counts, for the metrics.

use super::ShardLog;

/// Counters of a shard's log since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Commit groups written.
    pub groups: u64,
    /// Bytes of commit groups, with padding.
    pub group_bytes: u64,
    /// Appends to the log, in batches.
    pub appends: u64,
    /// Bytes appended.
    pub append_bytes: u64,
    /// Extents written.
    pub extents: u64,
    /// Bytes of extents.
    pub extent_bytes: u64,
    /// Write-backs.
    pub write_backs: u64,
    /// Bytes written back.
    pub write_back_bytes: u64,
    /// Checkpoints published.
    pub checkpoints: u64,
    /// Segments removed by retention or DeleteRecords.
    pub segments_removed: u64,
    /// Logs that were cut off or moved on, as followers.
    pub restarts: u64,
    /// Disk reads that consumers' requests caused (cold reads, lookups by time).
    pub disk_reads: u64,
    /// Reads answered from memory.
    pub memory_reads: u64,
    /// Reads answered with a file range.
    pub file_reads: u64,
    /// Reads and lookups refused because a segment is damaged.
    pub damaged_reads: u64,
    /// Turns in which a commit had to wait for room in the journal.
    pub journal_full: u64,
    /// Operations that found the disk full.
    pub no_space: u64,
    /// Gauge: memory of the tails, bytes.
    pub tail_bytes: u64,
    /// Gauge: memory kept for reuse, for tails, commit groups and checkpoints, bytes.
    pub pool_bytes: u64,
    /// Blocks of the tails that the allocator provided.
    pub blocks_fresh: u64,
    /// Blocks of the tails that had been used before.
    pub blocks_reused: u64,
    /// Idempotent producers remembered now.
    pub producers: u64,
    /// Gauge: bytes appended but not yet durable.
    pub pending_bytes: u64,
    /// Gauge: partitions.
    pub partitions: u64,
    /// Compactions of a partition that came to their end.
    pub compactions: u64,
    /// Compactions that failed; their partitions are left alone until the next start.
    pub compactions_failed: u64,
    /// Bytes that compactions have read.
    pub compaction_read_bytes: u64,
    /// Bytes that compactions have written.
    pub compaction_written_bytes: u64,
    /// Records that compactions have removed.
    pub compaction_removed_records: u64,
    /// Gauge: memory of the compaction under way, in bytes.
    pub compaction_memory_bytes: u64,
}

impl ShardLog {
    /// Counters and gauges.
    pub fn stats(&self) -> LogStats {
        LogStats {
            tail_bytes: self.logs.tail_bytes() as u64,
            pool_bytes: self.kept_bytes() as u64,
            blocks_fresh: self.pool.stats().fresh,
            blocks_reused: self.pool.stats().reused,
            partitions: self.logs.partitions().len() as u64,
            producers: self.logs.producers() as u64,
            compaction_memory_bytes: self.cleaner.memory_bytes() as u64,
            ..self.stats
        }
    }

    /// Memory kept to be used again.
    pub(super) fn kept_bytes(&self) -> usize {
        self.pool.kept_bytes() + self.journal.kept_bytes() + self.checkpoints.kept_bytes()
    }
}
