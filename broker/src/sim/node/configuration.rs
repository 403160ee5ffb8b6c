//! Who a node is, and how it opens its directory: with the shipped code, in the order in which the driver does it.

use std::sync::Arc;
use std::time::Duration;

use millstream_replication::MetaProperties;
use millstream_replication::config::Properties;
use millstream_replication::identity::{self, Candidate, Found, OpenedDirectory};
use millstream_storage::partition_log::partition_directory;
use millstream_storage::random::Random;
use millstream_storage::shard_log::{LogId, ShardLogOptions};
use millstream_storage::{BLOCK_BYTES, Now, PartitionKey, ShardLog};

use super::{Begins, LISTENER};
use crate::controller::ControllerNode;
use crate::node::{Formation, Node, NodeOptions, OpenShard, RecoveryCounts};
use crate::shard::Shard;
use crate::sim::clients::member;
use crate::sim::disk::{DiskFaults, SimDisk};
use crate::sim::peer_network::{CONTROLLER_PORT, host_name};
use crate::sim::restart::cleaner_options;

/// What a node has found in its directory.
pub enum Opening {
    /// It belongs to a cluster.
    Member(Box<Opened>),
    /// It belongs to none yet.
    Candidate { candidate: Candidate, incarnation: [u8; 16] },
}

/// What recovery has found, open but not running.
pub struct Opened {
    /// The process that is about to run.
    pub(super) broker_incarnation: [u8; 16],
    pub(super) meta: MetaProperties,
    pub(super) controller: ControllerNode,
    pub(super) shards: Vec<OpenShard>,
    pub(super) counts: RecoveryCounts,
    /// How the disk misbehaves when the node runs again.
    pub(super) faults: DiskFaults,
}

impl Opened {
    fn new(node: Node, broker_incarnation: [u8; 16]) -> Opened {
        let Node { meta, controller, shards, counts } = node;
        let shards = shards.into_iter().map(|shard| shard.open()).collect();
        Opened { broker_incarnation, meta, controller, shards, counts, faults: DiskFaults::default() }
    }

    /// The process, and its shards, without its controller.
    pub fn into_shards(self) -> ([u8; 16], Vec<Shard>) {
        (self.broker_incarnation, self.shards.into_iter().map(OpenShard::start).collect())
    }

    /// Whether the topic is there.
    pub fn has_topic(&self, topic: &str) -> bool {
        self.controller.image().topic(topic).is_some()
    }

    fn key_of(&self, topic: &str, partition: usize) -> Option<PartitionKey> {
        let topic = self.controller.image().topic(topic)?;
        Some(PartitionKey { topic_id: topic.id, partition: partition as i32 })
    }

    /// Whether the topic is there, and the partition is another node's.
    pub fn is_elsewhere(&self, topic: &str, partition: usize) -> bool {
        let topic = self.controller.image().topic(topic);
        topic
            .and_then(|topic| topic.partition(partition as i32))
            .is_some_and(|partition| !partition.replicas.contains(&self.meta.node_id))
    }

    /// The directory of a partition, if its topic is there.
    pub fn directory_of(&self, topic: &str, partition: usize) -> Option<String> {
        self.key_of(topic, partition).map(|key| partition_directory(topic, key))
    }

    /// The log of a partition, if it is there.
    pub fn log_of(&mut self, topic: &str, partition: usize) -> Option<(&mut ShardLog, LogId)> {
        let key = self.key_of(topic, partition)?;
        let shards = self.shards.len();
        let log = &mut self.shards[key.shard(shards)].log;
        log.find(key).map(|id| (log, id))
    }
}

/// Who a node is, whatever happens to it.
pub struct Configuration {
    pub node_id: i32,
    properties: Arc<Properties>,
    /// `controller.quorum.voters`; none where it is alone.
    voters: Vec<(i32, String, u16)>,
    session_timeout: Duration,
    heartbeat_interval: Duration,
    /// Shards of a process, at most.
    pub shards_max: u64,
    /// One start in so many is interrupted.
    pub recovery_cut_one_in: u64,
}

impl Configuration {
    /// A node that is alone.
    pub fn alone() -> Configuration {
        Configuration {
            node_id: 1,
            properties: Arc::new(properties()),
            voters: Vec::new(),
            session_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(500),
            shards_max: 4,
            recovery_cut_one_in: 4,
        }
    }

    /// One of several nodes, which are all controllers, and as slow to notice that another is gone.
    pub fn one_of(nodes: usize, number: usize, session: Duration) -> Configuration {
        let voter = |node: usize| (node as i32 + 1, host_name(node), CONTROLLER_PORT);
        let voters = if nodes > 1 { (0..nodes).map(voter).collect() } else { Vec::new() };
        Configuration {
            node_id: number as i32 + 1,
            voters,
            session_timeout: session,
            heartbeat_interval: session / 6,
            shards_max: 2,
            recovery_cut_one_in: 20,
            ..Configuration::alone()
        }
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.voters.is_empty()
    }

    /// A process without a cluster.
    pub fn formation(&self, candidate: Candidate, incarnation: [u8; 16], random: [u8; 24]) -> Formation {
        let address = Some((host_name(self.node_id as usize - 1), CONTROLLER_PORT));
        Formation::new(candidate, self.voters.clone(), Vec::new(), incarnation, address, random)
    }

    /// Opens what a disk has of this node, and recovers it where that belongs to a cluster.
    pub fn open(&self, disk: &mut SimDisk, random: &mut Random, now: Now, shards: usize) -> Result<Opening, String> {
        if self.is_alone() {
            return self.recover(disk, random, now, shards).map(Box::new).map(Opening::Member);
        }
        let incarnation = random.bytes();
        let found = identity::find(&mut |op| disk.execute(op), self.node_id, random.bytes());
        match found.map_err(|error| error.to_string())? {
            Found::Candidate(candidate) => Ok(Opening::Candidate { candidate, incarnation }),
            Found::Member(opened) => self.recover_opened(disk, *opened, incarnation, random, now, shards),
        }
    }

    /// Makes a candidate's directory that of a member of a cluster, and recovers it.
    pub fn begin(
        &self,
        disk: &mut SimDisk,
        begins: Begins,
        random: &mut Random,
        now: Now,
        shards: usize,
    ) -> Result<Opening, String> {
        let Begins { candidate, incarnation, snapshot } = begins;
        let opened = identity::begin(&mut |op| disk.execute(op), candidate, snapshot, random.bytes());
        self.recover_opened(disk, opened.map_err(|error| error.to_string())?, incarnation, random, now, shards)
    }

    fn recover_opened(
        &self,
        disk: &mut SimDisk,
        opened: OpenedDirectory,
        incarnation: [u8; 16],
        random: &mut Random,
        now: Now,
        shards: usize,
    ) -> Result<Opening, String> {
        let options = self.options(incarnation, shards, random);
        let node = Node::recover_opened(&mut |op| disk.execute(op), opened, options, now, random.bytes());
        let node = node.map_err(|error| error.to_string())?;
        Ok(Opening::Member(Box::new(Opened::new(node, incarnation))))
    }

    /// Recovers what a disk has of this node, which is alone.
    pub fn recover(&self, disk: &mut SimDisk, random: &mut Random, now: Now, shards: usize) -> Result<Opened, String> {
        let incarnation = random.bytes();
        let options = self.options(incarnation, shards, random);
        let random = random.bytes();
        let node =
            Node::recover(&mut |op| disk.execute(op), options, now, random).map_err(|error| error.to_string())?;
        Ok(Opened::new(node, incarnation))
    }

    fn options(&self, incarnation: [u8; 16], shards: usize, random: &mut Random) -> NodeOptions {
        let address = (host_name(self.node_id as usize - 1), CONTROLLER_PORT);
        NodeOptions {
            node_id: self.node_id,
            incarnation,
            shards,
            file: Arc::clone(&self.properties),
            controller_address: (!self.is_alone()).then_some(address),
            voters: self.voters.clone(),
            bootstrap_servers: Vec::new(),
            joins_voters: !self.is_alone(),
            session_timeout: self.session_timeout,
            heartbeat_interval: self.heartbeat_interval,
            imbalance_check_interval: Some(2 * self.session_timeout),
            log_dir: "data".to_string(),
            listeners: vec![LISTENER.to_string()],
            inter_broker_listener: LISTENER.to_string(),
            peer_window_bytes: 1 << 20,
            metadata_log_bytes_max: random.between(2, 8) * BLOCK_BYTES as u64,
            journal_slots: 4 + random.below(4) as u32,
            journal_slot_bytes: 128 << 10,
            log: ShardLogOptions {
                tail_memory_bytes_max: 128 << 10,
                free_space_floor_bytes: 64 << 10,
                extent_bytes_min: 48 << 10,
                retention_check_interval: Duration::from_millis(50),
                producer_expiration_ms: 86_400_000,
                producers_max: 1_000_000,
                replica_reserve_percent: 0,
                cleaner: cleaner_options(),
            },
            replica_lag_time_max: Duration::from_secs(30),
            fetch_bytes_max: 1 << 20,
            group_bytes_max: 64 << 20,
            request_bytes_max: 1 << 20,
        }
    }
}

/// What the broker is started with: little of everything, and sessions short enough to end.
fn properties() -> Properties {
    let session = member::SESSION_MS.to_string();
    [
        ("offsets.topic.num.partitions", "3"),
        // What groups commit is compacted all the time: its segments are closed as soon as they are so old.
        ("log.cleaner.max.compaction.lag.ms", "30"),
        // Compactions follow each other as in the other simulation.
        ("log.cleaner.backoff.ms", "20"),
        ("group.min.session.timeout.ms", "1"),
        ("group.initial.rebalance.delay.ms", "5"),
        ("group.consumer.min.session.timeout.ms", "1"),
        ("group.consumer.session.timeout.ms", &session),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into()
}
