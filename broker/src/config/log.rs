//! What the broker's configurations say about a shard's log as a whole, as far as it may change while the broker runs.

use std::time::Duration;

use millstream_replication::config::{Properties, broker_value};

/// The rules for one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRules {
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// This shard's part of `log.cleaner.io.max.bytes.per.second`, at least 1.
    pub cleaner_bytes_per_second_max: u64,
    /// `log.cleaner.backoff.ms`
    pub cleaner_backoff: Duration,
}

impl LogRules {
    /// By the layers of configurations, the highest precedence first. Values were checked before they were stored.
    pub fn new(layers: &[&Properties], shards: usize) -> LogRules {
        let value = |name| broker_value(name, layers).expect("it has a default");
        // What is too large for an integer is no limit.
        let bytes_per_second = value("log.cleaner.io.max.bytes.per.second").parse().unwrap_or(f64::MAX) as u64;
        LogRules {
            producer_expiration_ms: value("producer.id.expiration.ms").parse().unwrap_or(i64::MAX),
            cleaner_bytes_per_second_max: (bytes_per_second / shards as u64).max(1),
            cleaner_backoff: Duration::from_millis(value("log.cleaner.backoff.ms").parse().unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_layer_that_says_something_counts() {
        let defaults = LogRules::new(&[], 2);
        assert_eq!(defaults.producer_expiration_ms, 86_400_000);
        assert_eq!(defaults.cleaner_bytes_per_second_max, u64::MAX / 2);
        assert_eq!(defaults.cleaner_backoff, Duration::from_secs(15));
        let layer = |pairs: &[(&str, &str)]| -> Properties {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let dynamic = layer(&[("log.cleaner.io.max.bytes.per.second", "1000000.0")]);
        let file = layer(&[
            ("log.cleaner.io.max.bytes.per.second", "5"),
            ("log.cleaner.backoff.ms", "7"),
            ("producer.id.expiration.ms", "9"),
        ]);
        let rules = LogRules::new(&[&dynamic, &file], 2);
        assert_eq!(rules.cleaner_bytes_per_second_max, 500_000);
        assert_eq!((rules.cleaner_backoff, rules.producer_expiration_ms), (Duration::from_millis(7), 9));
    }
}
