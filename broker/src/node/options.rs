//! What a node is and how much it may use.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::config::Properties;
use millstream_replication::quorum::LOG_BYTES_MAX;
use millstream_storage::BLOCK_BYTES;
use millstream_storage::producer::PRODUCER_BYTES;
use millstream_storage::shard_log::{CleanerOptions, ShardLogOptions};

use crate::config::{BrokerConfig, LogRules};
use crate::controller::ControllerOptions;

/// Slots of each shard's journal.
const JOURNAL_SLOTS: u32 = 8;
/// The part of one shard's journal that the requests in flight on all shards may fill, for they may all be for that one:
/// 1 / 4. What is appended but not durable when a checkpoint starts must fit the half of the journal that is free then.
const JOURNAL_REQUEST_SHARE: u64 = 4;

/// What a stream of a leader may have under way to a shard, in bytes.
const PEER_WINDOW_BYTES: u32 = 1 << 20;

/// What a node is and how much it may use.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// `node.id`
    pub node_id: i32,
    /// This process: random, drawn when it started.
    pub incarnation: [u8; 16],
    /// Shards of this process; may differ from last time. None where it is a controller only.
    pub shards: usize,
    /// What the process was configured with at its start.
    pub file: Arc<Properties>,
    /// Where this node's controller listener is reached; none where it has none.
    pub controller_address: Option<(String, u16)>,
    /// `controller.quorum.voters`
    pub voters: Vec<(i32, String, u16)>,
    /// `controller.quorum.bootstrap.servers`
    pub bootstrap_servers: Vec<(String, u16)>,
    /// Whether the node becomes a voter of the quorum by itself.
    pub joins_voters: bool,
    /// `broker.session.timeout.ms`
    pub session_timeout: Duration,
    /// `broker.heartbeat.interval.ms`
    pub heartbeat_interval: Duration,
    /// `leader.imbalance.check.interval.seconds`, if `auto.leader.rebalance.enable`.
    pub imbalance_check_interval: Option<Duration>,
    /// The data directory, as clients are told of it.
    pub log_dir: String,
    /// The names of the listeners, in `listeners` order.
    pub listeners: Vec<String>,
    /// The one at which brokers reach each other: `inter.broker.listener.name`.
    pub inter_broker_listener: String,
    /// What a stream of a leader may have under way to a shard, in bytes.
    pub peer_window_bytes: u32,
    /// The metadata log is replaced by a snapshot when it is larger.
    pub metadata_log_bytes_max: u64,
    /// Slots of each shard's journal, at least 4.
    pub journal_slots: u32,
    /// Bytes of a slot, a multiple of [`BLOCK_BYTES`].
    pub journal_slot_bytes: u64,
    /// Of each shard's log. [`LogRules`], which may change at run time, have the last word.
    pub log: ShardLogOptions,
    /// `fetch.max.bytes`
    pub fetch_bytes_max: usize,
    /// `replica.lag.time.max.ms`
    pub replica_lag_time_max: Duration,
    /// Memory of all groups of the broker.
    pub group_bytes_max: usize,
    /// Memory of requests in flight at one shard, beyond which clients are not read from.
    pub request_bytes_max: usize,
}

/// The parts of a process's memory that a node takes by a configuration, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// All groups.
    pub groups: usize,
    /// Idempotent producers of all partitions.
    pub producers: usize,
}

impl NodeOptions {
    /// What a configuration means for a process, in a data directory whose free space must not fall below a floor.
    pub fn new(
        config: &BrokerConfig,
        incarnation: [u8; 16],
        shards: usize,
        memory: NodeMemory,
        log_dir: String,
        free_space_floor_bytes: u64,
    ) -> NodeOptions {
        let slot_bytes = config.journal_bytes / u64::from(JOURNAL_SLOTS);
        let journal_request_bytes = (config.journal_bytes / JOURNAL_REQUEST_SHARE) as usize;
        // Of one shard, where there is any.
        let parts = shards.max(1);
        let rules = LogRules::new(&[&config.properties], parts);
        NodeOptions {
            node_id: config.node_id,
            incarnation,
            shards,
            file: Arc::new(config.properties.clone()),
            controller_address: config.quorum.address(),
            voters: config.quorum.voters.clone(),
            bootstrap_servers: config.quorum.bootstrap_servers.clone(),
            joins_voters: config.quorum.joins_voters(),
            session_timeout: config.quorum.session_timeout,
            heartbeat_interval: config.quorum.heartbeat_interval,
            imbalance_check_interval: config.quorum.imbalance_check_interval,
            log_dir,
            listeners: config.listeners.iter().map(|listener| listener.name.clone()).collect(),
            inter_broker_listener: config
                .inter_broker_listener()
                .map_or(String::new(), |at| config.listeners[at].name.clone()),
            peer_window_bytes: PEER_WINDOW_BYTES,
            metadata_log_bytes_max: LOG_BYTES_MAX,
            journal_slots: JOURNAL_SLOTS,
            journal_slot_bytes: slot_bytes - slot_bytes % BLOCK_BYTES as u64,
            log: ShardLogOptions {
                tail_memory_bytes_max: config.tail_memory_bytes,
                free_space_floor_bytes,
                extent_bytes_min: config.extent_bytes,
                retention_check_interval: config.retention_check_interval,
                producer_expiration_ms: rules.producer_expiration_ms,
                producers_max: memory.producers / PRODUCER_BYTES / parts,
                replica_reserve_percent: 0,
                cleaner: CleanerOptions {
                    is_enabled: config.cleaner_enable,
                    map_bytes_max: (config.cleaner_map_bytes / parts as u64) as usize,
                    bytes_per_second_max: rules.cleaner_bytes_per_second_max,
                    backoff: rules.cleaner_backoff,
                },
            },
            fetch_bytes_max: config.fetch_bytes_max,
            replica_lag_time_max: config.replica_lag_time_max,
            group_bytes_max: memory.groups,
            request_bytes_max: config.queued_request_bytes_max.unwrap_or(usize::MAX).min(journal_request_bytes) / parts,
        }
    }

    /// What the node's controller is told, whose data directory has this identity.
    pub fn controller(&self, directory_id: [u8; 16]) -> ControllerOptions {
        let (high, low) = self.incarnation.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of 16 bytes"));
        ControllerOptions {
            node_id: self.node_id,
            incarnation: self.incarnation,
            directory_id,
            address: self.controller_address.clone(),
            voters: self.voters.clone(),
            bootstrap_servers: self.bootstrap_servers.clone(),
            joins_voters: self.joins_voters,
            session_timeout: self.session_timeout,
            heartbeat_interval: self.heartbeat_interval,
            imbalance_check_interval: self.imbalance_check_interval,
            shards: self.shards,
            seed: half(high) ^ half(low),
        }
    }
}
