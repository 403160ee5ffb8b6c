//! What the logs of a shard count, as samples.

use millstream_storage::ShardLog;

use crate::metrics::Sample;

/// Gauges and counters of the logs, for a scrape.
pub fn log_samples(shard_log: &ShardLog, samples: &mut Vec<Sample>) {
    let log = shard_log.stats();
    samples.extend([
        Sample::counter("millstream_log_commit_groups_total", "Commit groups written to the journal.", log.groups),
        Sample::counter("millstream_log_commit_bytes_total", "Bytes of commit groups.", log.group_bytes),
        Sample::counter("millstream_log_appends_total", "Batches appended.", log.appends),
        Sample::counter("millstream_log_extents_total", "Large appends written once.", log.extents),
        Sample::counter("millstream_log_extent_bytes_total", "Bytes of large appends written once.", log.extent_bytes),
        Sample::counter("millstream_log_write_backs_total", "Write-backs to segments.", log.write_backs),
        Sample::counter(
            "millstream_log_write_back_bytes_total",
            "Bytes written back to segments.",
            log.write_back_bytes,
        ),
        Sample::counter("millstream_log_checkpoints_total", "Checkpoints published.", log.checkpoints),
        Sample::counter("millstream_log_segments_removed_total", "Segments removed.", log.segments_removed),
        Sample::counter("millstream_log_restarts_total", "Logs cut off or moved on to follow others.", log.restarts),
        Sample::counter("millstream_compactions_total", "Compactions of a partition that ended well.", log.compactions),
        Sample::counter(
            "millstream_compactions_failed_total",
            "Compactions that failed: the partition is left alone until the next start.",
            log.compactions_failed,
        ),
        Sample::counter(
            "millstream_compaction_read_bytes_total",
            "Bytes that compactions have read.",
            log.compaction_read_bytes,
        ),
        Sample::counter(
            "millstream_compaction_written_bytes_total",
            "Bytes that compactions have written.",
            log.compaction_written_bytes,
        ),
        Sample::counter(
            "millstream_compaction_removed_records_total",
            "Records that compactions have removed.",
            log.compaction_removed_records,
        ),
        Sample::gauge(
            "millstream_compaction_memory_bytes",
            "Memory of the compaction under way.",
            log.compaction_memory_bytes,
        ),
        Sample::counter("millstream_log_disk_reads_total", "Disk reads that requests caused.", log.disk_reads),
        Sample::counter("millstream_log_memory_reads_total", "Reads answered from memory.", log.memory_reads),
        Sample::counter("millstream_log_file_reads_total", "Reads answered with a file range.", log.file_reads),
        Sample::counter(
            "millstream_log_journal_full_total",
            "Turns in which a commit waited for room in the journal.",
            log.journal_full,
        ),
        Sample::counter("millstream_log_damaged_reads_total", "Reads refused: damaged.", log.damaged_reads),
        Sample::counter("millstream_log_no_space_total", "Operations that found the disk full.", log.no_space),
        Sample::gauge(
            "millstream_log_out_of_space",
            "1 while appends are refused for lack of space.",
            u64::from(shard_log.is_out_of_space()),
        ),
        Sample::gauge("millstream_log_producers", "Idempotent producers remembered.", log.producers),
        Sample::gauge("millstream_log_tail_bytes", "Memory of the tails.", log.tail_bytes),
        Sample::gauge(
            "millstream_log_pool_bytes",
            "Memory kept to be reused: for the newest records, commit groups and checkpoints.",
            log.pool_bytes,
        ),
        Sample::counter(
            "millstream_log_blocks_fresh_total",
            "Blocks for the newest records that the allocator provided.",
            log.blocks_fresh,
        ),
        Sample::counter(
            "millstream_log_blocks_reused_total",
            "Blocks for the newest records that had been used before.",
            log.blocks_reused,
        ),
        Sample::gauge("millstream_log_pending_bytes", "Bytes appended and not yet durable.", log.pending_bytes),
    ]);
}
