//! A node, put together once: its metadata log, the recovery of its partitions, its shards and its controller.
//!
//! [`Node::recover`] performs I/O through a function that executes one operation at a time, so that the driver, the
//! simulator, tests and fuzz targets start the same node. What it returns are the pure parts; who runs them brings
//! threads, sockets and clocks.
//!
//! Whose the data directory is, its `meta.properties` says. The mark of a clean stop ([`MetaProperties::mark_clean_shutdown`])
//! is written by who stops the node, as the last thing of all, and taken away here, as the last thing of all: before
//! that nothing has changed that a second recovery would see.

mod formation;
mod options;
pub mod registration;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use millstream_replication::identity::{self, OpenError, OpenedDirectory, unmark_clean_shutdown};
use millstream_replication::{ClusterImage, Controller, MetaProperties};
use millstream_storage::recovery::{
    KnownPartition, LastShutdown, RecoveredShard, RecoveryError, RecoveryOptions, recover,
};
use millstream_storage::shard_log::ShardLogOptions;
use millstream_storage::{DiskError, DiskOp, DiskReply, Now, PartitionKey, ShardLog};

pub use formation::{Formation, Formed};
pub use options::{NodeMemory, NodeOptions};

use crate::config::LogRules;
use crate::controller::ControllerNode;
use crate::shard::{Shard, ShardIndex, ShardOptions};

/// Fresh random bytes that the start of a node takes.
pub const RANDOM_BYTES: usize = 64;

/// Executes one operation and waits for it.
pub type Io<'a> = dyn FnMut(DiskOp) -> Result<DiskReply, DiskError> + 'a;

/// Why a node cannot start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// The data directory is not this node's, or its metadata log cannot be opened.
    Directory(OpenError),
    /// The partitions cannot be recovered.
    Partitions(RecoveryError),
    /// The mark of a clean stop cannot be taken away.
    CleanShutdown(DiskError),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Directory(error) => write!(f, "{error}"),
            RecoverError::Partitions(error) => write!(f, "{error}"),
            RecoverError::CleanShutdown(error) => {
                write!(f, "cannot take the mark of the last clean stop away: {error}")
            }
        }
    }
}

impl std::error::Error for RecoverError {}

/// What recovery has found in the journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryCounts {
    /// Journal groups replayed.
    pub groups: u64,
    /// How the last run ended.
    pub last_shutdown: LastShutdown,
    /// Partitions that are set aside: the image does not know them.
    pub strays: usize,
    /// Bytes brought from the journals to segments.
    pub bytes: u64,
}

/// The parts of a node that is about to run.
pub struct Node {
    /// Whose the data directory is.
    pub meta: MetaProperties,
    /// Decides. The broker is not registered yet.
    pub controller: ControllerNode,
    /// One for each shard, in order of their index.
    pub shards: Vec<ShardStart>,
    /// What recovery has found.
    pub counts: RecoveryCounts,
}

impl Node {
    /// Opens the metadata log and recovers every partition that this broker holds. At the first start a new cluster is made
    /// out of `random`.
    pub fn recover(
        io: &mut Io<'_>,
        options: NodeOptions,
        now: Now,
        random: [u8; RANDOM_BYTES],
    ) -> Result<Node, RecoverError> {
        let (for_directory, salt) = random.split_first_chunk().expect("64 bytes are 48 and 16");
        let opened = identity::open(io, options.node_id, *for_directory).map_err(RecoverError::Directory)?;
        Node::recover_opened(io, opened, options, now, salt.try_into().expect("16 bytes are left"))
    }

    /// Recovers every partition that this broker holds, in a directory that was opened; a node without shards holds none.
    pub fn recover_opened(
        io: &mut Io<'_>,
        opened: OpenedDirectory,
        options: NodeOptions,
        now: Now,
        salt: [u8; 16],
    ) -> Result<Node, RecoverError> {
        let OpenedDirectory { meta, clean_shutdown, quorum } = opened;
        let quorum = quorum.with_log_bytes_max(options.metadata_log_bytes_max);
        if options.shards == 0 {
            io(unmark_clean_shutdown()).map_err(RecoverError::CleanShutdown)?;
            let controller = ControllerNode::new(
                Controller::new((*options.file).clone()),
                quorum,
                options.controller(meta.directory_id),
            );
            return Ok(Node { meta, controller, shards: Vec::new(), counts: RecoveryCounts::default() });
        }
        let image = quorum.image().clone();
        let recovered = recover(
            io,
            &RecoveryOptions {
                shards: options.shards,
                salt,
                slots: options.journal_slots,
                slot_bytes: options.journal_slot_bytes,
                partitions: &known_partitions(&options, &image),
                is_marked_clean: clean_shutdown.is_some(),
                now_ms: now.unix_ms,
            },
        )
        .map_err(RecoverError::Partitions)?;
        io(unmark_clean_shutdown()).map_err(RecoverError::CleanShutdown)?;
        let counts = RecoveryCounts {
            groups: recovered.groups,
            last_shutdown: recovered.last_shutdown,
            strays: recovered.shards.iter().map(|shard| shard.strays.len()).sum(),
            bytes: recovered.bytes,
        };
        let image = Arc::new(image);
        let controller = Controller::new((*options.file).clone());
        let parts = Arc::new(Parts { image, options });
        let shards = (0..)
            .zip(recovered.shards)
            .map(|(index, recovered)| ShardStart { index, recovered, parts: Arc::clone(&parts) })
            .collect();
        let controller = ControllerNode::new(controller, quorum, parts.options.controller(meta.directory_id));
        Ok(Node { meta, controller, shards, counts })
    }
}

/// The partitions that this broker holds.
fn known_partitions(options: &NodeOptions, image: &ClusterImage) -> Vec<KnownPartition> {
    let mut known = Vec::new();
    for topic in image.topics() {
        let settings = image.topic_settings(topic, options.node_id, &options.file);
        for (index, partition) in (0..).zip(&topic.partitions) {
            if partition.replicas.contains(&options.node_id) {
                known.push(KnownPartition {
                    key: PartitionKey { topic_id: topic.id, partition: index },
                    topic: topic.name.to_string(),
                    index_interval_bytes: settings.log.index_interval_bytes,
                });
            }
        }
    }
    known
}

/// What all shards of a node are made from.
#[derive(Debug)]
struct Parts {
    options: NodeOptions,
    image: Arc<ClusterImage>,
}

/// What one shard is made from, on its own thread.
#[derive(Debug)]
pub struct ShardStart {
    index: ShardIndex,
    recovered: RecoveredShard,
    parts: Arc<Parts>,
}

impl ShardStart {
    /// Opens the shard's log.
    pub fn open(self) -> OpenShard {
        let Parts { options, image } = &*self.parts;
        let rules = LogRules::new(&image.config_layers(options.node_id, &options.file), options.shards);
        let mut log = ShardLogOptions { producer_expiration_ms: rules.producer_expiration_ms, ..options.log.clone() };
        log.cleaner.bytes_per_second_max = rules.cleaner_bytes_per_second_max;
        log.cleaner.backoff = rules.cleaner_backoff;
        let log = ShardLog::new(log, self.recovered, |key| {
            let topic = image.topic_by_id(key.topic_id).expect("recovery keeps only partitions of the image");
            (topic.name.to_string(), image.topic_settings(topic, options.node_id, &options.file).log)
        });
        OpenShard { log, index: self.index, parts: self.parts }
    }
}

/// A shard's log, with what else the shard is made from.
pub struct OpenShard {
    /// All that was recovered. Whoever wants to look at it does so before the shard starts.
    pub log: ShardLog,
    index: ShardIndex,
    parts: Arc<Parts>,
}

impl OpenShard {
    /// Makes the shard.
    pub fn start(self) -> Shard {
        let Parts { options, image } = &*self.parts;
        let options = ShardOptions {
            index: self.index,
            shards: options.shards,
            node_id: options.node_id,
            incarnation: options.incarnation,
            file: Arc::clone(&options.file),
            log_dir: options.log_dir.clone(),
            listeners: options.listeners.clone(),
            replica_lag_time_max: options.replica_lag_time_max,
            inter_broker_listener: options.inter_broker_listener.clone(),
            peer_window_bytes: options.peer_window_bytes,
            fetch_bytes_max: options.fetch_bytes_max,
            group_bytes_max: options.group_bytes_max,
            request_bytes_max: options.request_bytes_max,
        };
        Shard::new(options, self.log, Arc::clone(image))
    }
}
