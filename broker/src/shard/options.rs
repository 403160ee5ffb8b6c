//! What a shard is told of itself and of its process when it is made.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::config::Properties;
use millstream_storage::PartitionKey;

use super::event::ShardIndex;

/// What a shard is, and its limits.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Which of the process's shards.
    pub index: ShardIndex,
    /// How many shards the process has.
    pub shards: usize,
    /// This broker.
    pub node_id: i32,
    /// The process that it is: it leads nothing before this one is registered.
    pub incarnation: [u8; 16],
    /// What the process was configured with at its start.
    pub file: Arc<Properties>,
    /// The data directory, as clients are told of it.
    pub log_dir: String,
    /// `replica.lag.time.max.ms`: who has not had everything for so long leaves the in-sync set.
    pub replica_lag_time_max: Duration,
    /// The names of the listeners, in `listeners` order.
    pub listeners: Vec<String>,
    /// The listener at which brokers reach each other: `inter.broker.listener.name`.
    pub inter_broker_listener: String,
    /// What a stream of a leader may have under way to this shard, in bytes.
    pub peer_window_bytes: u32,
    /// `fetch.max.bytes`: records in one Fetch response, but for its first batch.
    pub fetch_bytes_max: usize,
    /// Memory of all groups of the broker.
    pub group_bytes_max: usize,
    /// This shard's part of `queued.max.request.bytes`: memory of requests in flight, beyond which clients are not read
    /// from.
    pub request_bytes_max: usize,
}

impl ShardOptions {
    /// The shard that owns a partition.
    pub fn owner(&self, key: PartitionKey) -> ShardIndex {
        key.shard(self.shards)
    }
}
