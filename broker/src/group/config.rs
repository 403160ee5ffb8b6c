//! What the broker's configuration means to group coordinators. Kafka's names, units and defaults where Kafka has them.

use std::time::Duration;

pub use super::consumer::Assignor;

/// Whether groups change between the classic and the consumer protocol while they have members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// Neither way: members of the other protocol are refused.
    Disabled,
    /// From classic to consumer, when a member of the consumer protocol joins.
    Upgrade,
    /// From consumer to classic, when the last member of the consumer protocol leaves.
    Downgrade,
    /// Both ways: Kafka's default.
    Bidirectional,
}

impl MigrationPolicy {
    /// Whether classic groups may become consumer groups.
    pub fn allows_upgrade(self) -> bool {
        matches!(self, MigrationPolicy::Upgrade | MigrationPolicy::Bidirectional)
    }

    /// Whether consumer groups may become classic groups.
    pub fn allows_downgrade(self) -> bool {
        matches!(self, MigrationPolicy::Downgrade | MigrationPolicy::Bidirectional)
    }
}

/// Settings of one coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_max_ms: i32,
    /// `group.max.size`: members of one group.
    pub members_max: usize,
    /// `group.coordinator.rebalance.protocols` names `consumer`.
    pub serves_consumer_protocol: bool,
    /// `group.consumer.session.timeout.ms`: how long a member of the consumer protocol may be silent.
    pub consumer_session_timeout: Duration,
    /// `group.consumer.heartbeat.interval.ms`: how often it is asked to be heard of.
    pub consumer_heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`: members of one group of the consumer protocol.
    pub consumer_members_max: usize,
    /// `group.consumer.assignors`: those that members may prefer, the first for those that do not.
    pub consumer_assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`
    pub migration: MigrationPolicy,
    /// `offset.metadata.max.bytes`: length of the text committed with an offset, in UTF-16 units as Kafka counts.
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`, in milliseconds: how long the offsets of a group that became empty are kept.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub expiry_interval: Duration,
    /// Bytes of records in one write, the largest that `max.message.bytes` of `__consumer_offsets` lets through. A
    /// group whose metadata is larger cannot become stable, as with Kafka.
    pub write_bytes_max: usize,
    /// Groups of one coordinator.
    pub groups_max: usize,
    /// Bytes of the subscription that one member may bring, over all the protocols it offers.
    pub subscription_bytes_max: usize,
    /// Bytes that the groups of one coordinator may hold in memory, by its own count of them (names, subscriptions,
    /// assignments, offsets and a fixed share for each). At the bound no member, group or partition is added, while
    /// those that are there go on.
    pub state_bytes_max: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            initial_rebalance_delay: Duration::from_millis(3000),
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            members_max: i32::MAX as usize,
            serves_consumer_protocol: true,
            consumer_session_timeout: Duration::from_millis(45_000),
            consumer_heartbeat_interval_ms: 5_000,
            consumer_members_max: i32::MAX as usize,
            consumer_assignors: vec![Assignor::Uniform, Assignor::Range],
            migration: MigrationPolicy::Bidirectional,
            offset_metadata_max: 4096,
            offsets_retention_ms: 10_080 * 60_000,
            expiry_interval: Duration::from_millis(600_000),
            write_bytes_max: 1_048_588 - 1024,
            groups_max: 100_000,
            subscription_bytes_max: 1024 * 1024,
            state_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// How long a new member may wait in JoinGroup before it is taken for gone: it has no session of its own until it
/// learns its id, and a client that retries on another connection would leave a ghost behind every time.
pub const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Protocols that one member may offer.
pub const PROTOCOLS_MAX: usize = 64;

/// Bytes of a client id kept in the member ids made from it.
pub const CLIENT_ID_BYTES_MAX: usize = 512;

/// Members of one group that were given an id and have not joined with it yet.
pub const PENDING_MEMBERS_MAX: usize = 10_000;

/// Groups looked at in one step of offset expiry.
pub const EXPIRY_GROUPS_PER_STEP: usize = 64;

/// Between two steps of one round of offset expiry.
pub const EXPIRY_STEP_INTERVAL: Duration = Duration::from_millis(10);

/// The least time between two looks at a rebalance that no member has joined, and to ask for assignments, whatever
/// rebalance timeout the members chose.
pub const REBALANCE_RETRY_MIN: Duration = Duration::from_millis(100);

/// What a group takes beside its members and offsets, in a coordinator's count of its memory.
pub const GROUP_BYTES: usize = 512;

/// The least time between two searches for the topics that a group's regular expressions match, as long as those stay the
/// same.
pub const REGEX_REFRESH_MIN: Duration = Duration::from_secs(1);

/// Between two steps of one search.
pub const REGEX_STEP_INTERVAL: Duration = Duration::from_millis(1);
