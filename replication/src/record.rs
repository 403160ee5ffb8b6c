//! The records of the metadata log: each one change of the cluster image, complete in itself.

use millstream_storage::TopicId;

use crate::broker_ids::BrokerIds;
use crate::quota::{QuotaEntity, QuotaValue};

/// Where a broker is reached under one of its listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name.
    pub listener: String,
    /// The host advertised to clients.
    pub host: String,
    /// The port advertised to clients.
    pub port: u16,
}

/// Levels of a feature, from one to another (KIP-584).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelRange {
    /// The lowest, at least 1.
    pub min: i16,
    /// The highest, at least `min`.
    pub max: i16,
}

impl LevelRange {
    /// Whether a level is among them.
    pub fn contains(self, level: i16) -> bool {
        (self.min..=self.max).contains(&level)
    }

    /// Whether there can be such a range; if not, why.
    pub fn check(self) -> Result<(), String> {
        let LevelRange { min, max } = self;
        if (1..=max).contains(&min) { Ok(()) } else { Err(format!("levels from {min} to {max}")) }
    }
}

/// The level of the feature `millstream.metadata.version` that every cluster begins with, and that a broker reads which was registered
/// before there was a range: the records of `docs/metadata-format.md`, "Records".
pub const METADATA_VERSION_FIRST: i16 = 1;

/// The levels of `millstream.metadata.version` whose records this version of Millstream reads: what its brokers register with.
pub const METADATA_VERSIONS: LevelRange = LevelRange { min: METADATA_VERSION_FIRST, max: 1 };

/// That of a process that registered before there was a range.
impl Default for LevelRange {
    fn default() -> LevelRange {
        LevelRange { min: METADATA_VERSION_FIRST, max: METADATA_VERSION_FIRST }
    }
}

/// A broker as the controller knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub node_id: i32,
    /// The offset of the record that registered it: grows with every start of the broker.
    pub epoch: i64,
    /// The process that registered: random, drawn when it started. Zero where it was registered before there were any.
    pub incarnation: [u8; 16],
    /// The data directory of that process. Zero where it was registered before directories were told.
    pub directory_id: [u8; 16],
    /// How many shards the process has: which of them owns a partition follows from it. Zero where it is not known.
    pub shards: u32,
    /// The levels of `millstream.metadata.version` whose records the process reads.
    pub metadata_versions: LevelRange,
    /// It may not lead: it is not heard of, or has not caught up with its own registration.
    pub is_fenced: bool,
    /// It wants to stop: it may not lead any more, until it registers again.
    pub in_controlled_shutdown: bool,
    /// Where it is reached, one for each listener.
    pub endpoints: Vec<Endpoint>,
    /// The rack it stands in: `broker.rack`.
    pub rack: Option<String>,
}

impl Broker {
    /// Where it is reached under this listener.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }

    /// Whether it may lead partitions, and be given new ones.
    pub fn is_usable(&self) -> bool {
        !self.is_fenced && !self.in_controlled_shutdown
    }
}

/// The leader of a partition that has none.
pub const NO_LEADER: i32 = -1;

/// One partition as the controller knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The brokers that hold it, the preferred leader first.
    pub replicas: BrokerIds,
    /// Those of them that are in sync.
    pub isr: BrokerIds,
    /// The broker that leads it, or [`NO_LEADER`].
    pub leader: i32,
    /// Grows with every change of leadership, to nobody too.
    pub leader_epoch: i32,
    /// Grows with every change of this partition.
    pub partition_epoch: i32,
}

impl Partition {
    /// What holds of every partition: its leader, if it has one, is in sync, who is in sync holds it, and nobody does twice.
    pub fn check(&self) -> Result<(), String> {
        let Partition { replicas, isr, leader, leader_epoch, partition_epoch } = self;
        let is_twice = |brokers: &[i32]| (1..brokers.len()).any(|at| brokers[..at].contains(&brokers[at]));
        if is_twice(replicas) || is_twice(isr) {
            Err(format!("a broker is there twice: replicas {replicas:?}, in sync {isr:?}"))
        } else if let Some(stranger) = isr.iter().find(|broker| !replicas.contains(broker)) {
            Err(format!("broker {stranger} is in sync and no replica of {replicas:?}"))
        } else if *leader != NO_LEADER && !isr.contains(leader) {
            Err(format!("the leader, {leader}, is not in sync: {isr:?}"))
        } else if *leader_epoch < 0 || *partition_epoch < 0 {
            Err(format!("leader epoch {leader_epoch}, partition epoch {partition_epoch}"))
        } else {
            Ok(())
        }
    }
}

/// What a dynamic configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigOwner {
    /// A topic.
    Topic(TopicId),
    /// One broker.
    Broker(i32),
    /// All brokers that have none of their own.
    Cluster,
}

/// A committed change of the cluster image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    /// The cluster's identity; the first record of every log.
    Cluster {
        /// A random UUID, drawn when the cluster was made.
        cluster_id: [u8; 16],
    },
    /// A broker registered: it replaces what was known of the broker of this number.
    Broker(Broker),
    /// A registered broker is fenced or no longer, wants to stop or not.
    BrokerChange {
        /// Its number.
        node_id: i32,
        /// That of its registration.
        epoch: i64,
        /// Whether it is fenced from now on.
        is_fenced: bool,
        /// Whether it is in controlled shutdown from now on.
        in_controlled_shutdown: bool,
    },
    /// A broker is known no more; it leads nothing.
    UnregisterBroker {
        /// Its number.
        node_id: i32,
        /// That of its registration.
        epoch: i64,
    },
    /// A topic was created; its partitions follow.
    Topic {
        /// Its identity, which no topic has had before.
        topic_id: TopicId,
        /// Its name, which no other topic has now.
        name: String,
    },
    /// A partition was created (it is the next one of its topic) or changed.
    Partition {
        /// The topic.
        topic_id: TopicId,
        /// The partition's index, from 0.
        partition: i32,
        /// All that is known of it from now on.
        state: Partition,
    },
    /// A topic is gone, with its partitions and configurations.
    RemoveTopic {
        /// Its identity.
        topic_id: TopicId,
    },
    /// A configuration was set, or removed when there is no value.
    Config {
        /// What it belongs to.
        owner: ConfigOwner,
        /// Its name.
        name: String,
        /// Its value as it was given.
        value: Option<String>,
    },
    /// A client quota was set, or removed when there is no value.
    Quota {
        /// Whom it limits.
        entity: QuotaEntity,
        /// What it limits, by Kafka's name: `producer_byte_rate` and others.
        key: String,
        /// The limit.
        value: Option<QuotaValue>,
    },
    /// Records of this level of `millstream.metadata.version` may be written from now on: every process reads them. Kafka's
    /// `FeatureLevelRecord`.
    MetadataVersion {
        /// The level, which never goes back.
        level: i16,
    },
    /// All producer ids below this one were handed out.
    ProducerIds {
        /// The first that was not.
        next: i64,
    },
}
