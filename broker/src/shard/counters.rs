//! What a shard counts, and the samples made of it.

use crate::metrics::{Kind, Sample, Scrape};
use crate::protocol::versions::{ApiKey, SERVED};

use super::Shard;
use super::quotas::Direction;

/// API keys are below this.
const API_KEYS: usize = 128;

/// Counters since the start.
#[derive(Debug)]
pub struct Counters {
    requests: [u64; API_KEYS],
    /// Connections closed for a request that could not be read or answered.
    pub closed_for_error: u64,
    /// Partitions of Produce requests answered with an error.
    pub produce_errors: u64,
    /// Bytes of batches appended.
    pub produced_bytes: u64,
    /// Records appended.
    pub produced_records: u64,
    /// Partitions of Fetch requests answered with an error.
    pub fetch_errors: u64,
    /// Bytes of batches sent from memory.
    pub fetched_memory_bytes: u64,
    /// Bytes of batches sent from files.
    pub fetched_file_bytes: u64,
    /// Records of `__consumer_offsets` that could not be read when groups were loaded.
    pub group_records_unreadable: u64,
    /// Disk reads that fetches asked for: index lookups and prefetches. Readers at the tail cause none.
    pub fetch_disk_reads: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: [0; API_KEYS],
            closed_for_error: 0,
            produce_errors: 0,
            produced_bytes: 0,
            produced_records: 0,
            fetch_errors: 0,
            fetched_memory_bytes: 0,
            fetched_file_bytes: 0,
            group_records_unreadable: 0,
            fetch_disk_reads: 0,
        }
    }
}

impl Counters {
    /// A request of this API came.
    pub fn request(&mut self, api_key: ApiKey) {
        self.requests[api_key as usize] += 1;
    }
}

fn sample(name: &'static str, help: &'static str, kind: Kind, value: u64) -> Sample {
    Sample { name, help, kind, labels: Vec::new(), value: value as f64 }
}

impl Shard {
    /// Counters and gauges, for a scrape.
    pub fn samples(&self, scrape: &mut Scrape) {
        self.sessions.stages().samples(&mut scrape.histograms);
        let samples = &mut scrape.samples;
        use Kind::{Counter, Gauge};
        let counters = &self.counters;
        for &api_key in SERVED {
            let mut sample = sample(
                "millstream_requests_total",
                "Requests that came, by API.",
                Counter,
                counters.requests[api_key as usize],
            );
            sample.labels.push(("api", api_key.name()));
            samples.push(sample);
        }
        for direction in Direction::ALL {
            let mut of = |name, help, value| {
                let labels = vec![("api", direction.name())];
                samples.push(Sample { name, help, kind: Counter, labels, value });
            };
            let index = direction as usize;
            let help = "Requests whose client was told to wait because of a quota.";
            of("millstream_quota_throttled_total", help, self.quotas.throttled[index] as f64);
            let help = "Time that clients were told to wait because of a quota.";
            of("millstream_quota_throttled_seconds_total", help, self.quotas.throttled_time[index].as_secs_f64());
        }
        let log = self.log.stats();
        samples.extend([
            sample(
                "millstream_connections_closed_for_error_total",
                "Connections closed for a request that could not be read or answered.",
                Counter,
                counters.closed_for_error,
            ),
            sample(
                "millstream_produce_partition_errors_total",
                "Partitions of Produce requests answered with an error.",
                Counter,
                counters.produce_errors,
            ),
            sample("millstream_produced_bytes_total", "Bytes of batches appended.", Counter, counters.produced_bytes),
            sample("millstream_produced_records_total", "Records appended.", Counter, counters.produced_records),
            sample(
                "millstream_fetch_partition_errors_total",
                "Partitions of Fetch requests answered with an error.",
                Counter,
                counters.fetch_errors,
            ),
            sample(
                "millstream_fetch_memory_bytes_total",
                "Bytes of batches sent to consumers from memory.",
                Counter,
                counters.fetched_memory_bytes,
            ),
            sample(
                "millstream_fetch_sendfile_bytes_total",
                "Bytes of batches sent to consumers from files.",
                Counter,
                counters.fetched_file_bytes,
            ),
            sample(
                "millstream_fetch_disk_reads_total",
                "Disk reads that fetches asked for: index lookups and prefetches.",
                Counter,
                counters.fetch_disk_reads,
            ),
            sample(
                "millstream_connections_muted",
                "Client connections that are not read from because of a quota.",
                Gauge,
                self.quotas.muted() as u64,
            ),
            sample(
                "millstream_quota_clients",
                "Clients and users under a quota that are counted.",
                Gauge,
                self.quotas.meters() as u64,
            ),
            sample("millstream_connections", "Client connections open.", Gauge, self.sessions.connections() as u64),
            sample(
                "millstream_request_bytes_in_flight",
                "Bytes of requests in flight.",
                Gauge,
                self.sessions.request_bytes() as u64,
            ),
            sample(
                "millstream_fetches_parked",
                "Fetches that wait for more to be committed.",
                Gauge,
                self.fetches.parked() as u64,
            ),
            sample(
                "millstream_appends_waiting",
                "Appends that wait for their commit.",
                Gauge,
                self.appends.len() as u64,
            ),
            sample("millstream_partitions", "Partitions owned.", Gauge, self.partitions.len() as u64),
            sample("millstream_groups", "Consumer groups coordinated.", Gauge, self.coordination.groups() as u64),
            sample(
                "millstream_group_members",
                "Members of the consumer groups coordinated.",
                Gauge,
                self.coordination.members() as u64,
            ),
            sample(
                "millstream_group_records_unreadable_total",
                "Records of __consumer_offsets that could not be read when groups were loaded.",
                Counter,
                counters.group_records_unreadable,
            ),
            sample(
                "millstream_cold_responses",
                "Responses whose file ranges wait or are on their way into the page cache.",
                Gauge,
                self.cold.len() as u64,
            ),
            sample(
                "millstream_cold_bytes_in_flight",
                "Bytes on their way into the page cache.",
                Gauge,
                self.cold.bytes_in_flight() as u64,
            ),
            sample("millstream_log_commit_groups_total", "Commit groups written to the journal.", Counter, log.groups),
            sample("millstream_log_commit_bytes_total", "Bytes of commit groups.", Counter, log.group_bytes),
            sample("millstream_log_appends_total", "Batches appended.", Counter, log.appends),
            sample("millstream_log_extents_total", "Large appends written once.", Counter, log.extents),
            sample(
                "millstream_log_extent_bytes_total",
                "Bytes of large appends written once.",
                Counter,
                log.extent_bytes,
            ),
            sample("millstream_log_write_backs_total", "Write-backs to segments.", Counter, log.write_backs),
            sample(
                "millstream_log_write_back_bytes_total",
                "Bytes written back to segments.",
                Counter,
                log.write_back_bytes,
            ),
            sample("millstream_log_checkpoints_total", "Checkpoints published.", Counter, log.checkpoints),
            sample("millstream_log_segments_removed_total", "Segments removed.", Counter, log.segments_removed),
            sample(
                "millstream_compactions_total",
                "Compactions of a partition that ended well.",
                Counter,
                log.compactions,
            ),
            sample(
                "millstream_compactions_failed_total",
                "Compactions that failed: the partition is left alone until the next start.",
                Counter,
                log.compactions_failed,
            ),
            sample(
                "millstream_compaction_read_bytes_total",
                "Bytes that compactions have read.",
                Counter,
                log.compaction_read_bytes,
            ),
            sample(
                "millstream_compaction_written_bytes_total",
                "Bytes that compactions have written.",
                Counter,
                log.compaction_written_bytes,
            ),
            sample(
                "millstream_compaction_removed_records_total",
                "Records that compactions have removed.",
                Counter,
                log.compaction_removed_records,
            ),
            sample(
                "millstream_compaction_memory_bytes",
                "Memory of the compaction under way.",
                Gauge,
                log.compaction_memory_bytes,
            ),
            sample("millstream_log_disk_reads_total", "Disk reads that requests caused.", Counter, log.disk_reads),
            sample("millstream_log_memory_reads_total", "Reads answered from memory.", Counter, log.memory_reads),
            sample("millstream_log_file_reads_total", "Reads answered with a file range.", Counter, log.file_reads),
            sample(
                "millstream_log_journal_full_total",
                "Turns in which a commit waited for room in the journal.",
                Counter,
                log.journal_full,
            ),
            sample("millstream_log_damaged_reads_total", "Reads refused: damaged.", Counter, log.damaged_reads),
            sample("millstream_log_no_space_total", "Operations that found the disk full.", Counter, log.no_space),
            sample(
                "millstream_log_out_of_space",
                "1 while appends are refused for lack of space.",
                Gauge,
                u64::from(self.log.is_out_of_space()),
            ),
            sample("millstream_log_producers", "Idempotent producers remembered.", Gauge, log.producers),
            sample("millstream_log_tail_bytes", "Memory of the tails.", Gauge, log.tail_bytes),
            sample(
                "millstream_log_pool_bytes",
                "Memory kept to be reused: for the newest records, commit groups and checkpoints.",
                Gauge,
                log.pool_bytes,
            ),
            sample(
                "millstream_log_blocks_fresh_total",
                "Blocks for the newest records that the allocator provided.",
                Counter,
                log.blocks_fresh,
            ),
            sample(
                "millstream_log_blocks_reused_total",
                "Blocks for the newest records that had been used before.",
                Counter,
                log.blocks_reused,
            ),
            sample("millstream_log_pending_bytes", "Bytes appended and not yet durable.", Gauge, log.pending_bytes),
        ]);
    }
}
