//! What the broker's configuration means to the coordinators of groups.

use std::time::Duration;

use millstream_replication::config::{Properties, broker_value};

use crate::group::{Assignor, GroupConfig, MigrationPolicy};

/// The least memory for the groups of one coordinator, whatever its part of the broker's is.
const STATE_BYTES_MIN: usize = 1 << 20;

/// The configuration of each coordinator, which may use its part of the memory for all groups of the broker.
pub fn group_config(file: &Properties, group_bytes_max: usize) -> GroupConfig {
    let default = GroupConfig::default();
    let number = |name| broker_value(name, &[file]).and_then(|value| value.parse::<i64>().ok());
    let millis =
        |name, default| number(name).map_or(default, |value| Duration::from_millis(u64::try_from(value).unwrap_or(0)));
    let size = |name, default| number(name).map_or(default, |value| usize::try_from(value).unwrap_or(0));
    let int = |name, default| number(name).map_or(default, |value| value.clamp(0, i64::from(i32::MAX)) as i32);
    let text = |name| broker_value(name, &[file]).unwrap_or_default();
    let list = |name| text(name).split(',').map(str::trim);
    let assignors: Vec<Assignor> = list("group.consumer.assignors").filter_map(Assignor::named).collect();
    GroupConfig {
        serves_consumer_protocol: list("group.coordinator.rebalance.protocols").any(|protocol| protocol == "consumer"),
        consumer_session_timeout: millis("group.consumer.session.timeout.ms", default.consumer_session_timeout),
        consumer_heartbeat_interval_ms: int(
            "group.consumer.heartbeat.interval.ms",
            default.consumer_heartbeat_interval_ms,
        ),
        consumer_members_max: size("group.consumer.max.size", default.consumer_members_max),
        consumer_assignors: if assignors.is_empty() { default.consumer_assignors } else { assignors },
        migration: match text("group.consumer.migration.policy").to_ascii_lowercase().as_str() {
            "disabled" => MigrationPolicy::Disabled,
            "upgrade" => MigrationPolicy::Upgrade,
            "downgrade" => MigrationPolicy::Downgrade,
            _ => MigrationPolicy::Bidirectional,
        },
        initial_rebalance_delay: millis("group.initial.rebalance.delay.ms", default.initial_rebalance_delay),
        session_timeout_min_ms: int("group.min.session.timeout.ms", default.session_timeout_min_ms),
        session_timeout_max_ms: int("group.max.session.timeout.ms", default.session_timeout_max_ms),
        members_max: size("group.max.size", default.members_max),
        offset_metadata_max: size("offset.metadata.max.bytes", default.offset_metadata_max),
        offsets_retention_ms: number("offsets.retention.minutes")
            .map_or(default.offsets_retention_ms, |minutes| minutes.saturating_mul(60_000)),
        expiry_interval: millis("offsets.retention.check.interval.ms", default.expiry_interval),
        state_bytes_max: (group_bytes_max / size("offsets.topic.num.partitions", 1).max(1)).max(STATE_BYTES_MIN),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_are_configured_by_the_file() {
        let file = [
            ("group.initial.rebalance.delay.ms", "11"),
            ("group.min.session.timeout.ms", "12"),
            ("group.max.session.timeout.ms", "13"),
            ("group.max.size", "14"),
            ("offset.metadata.max.bytes", "15"),
            ("offsets.retention.minutes", "16"),
            ("offsets.retention.check.interval.ms", "17"),
            ("offsets.topic.num.partitions", "4"),
        ];
        let file = file.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let config = group_config(&file, 64 << 20);
        assert_eq!(config.initial_rebalance_delay, Duration::from_millis(11));
        assert_eq!((config.session_timeout_min_ms, config.session_timeout_max_ms), (12, 13));
        assert_eq!((config.members_max, config.offset_metadata_max), (14, 15));
        assert_eq!(config.offsets_retention_ms, 16 * 60_000);
        assert_eq!(config.expiry_interval, Duration::from_millis(17));
        assert_eq!(config.state_bytes_max, 16 << 20);
        let default = GroupConfig { state_bytes_max: 50 << 20, ..GroupConfig::default() };
        assert_eq!(group_config(&Properties::new(), 50 * (50 << 20)), default);
    }
}
