//! What the configurations in force mean: the value of each, by Kafka's precedence, and a topic's settings made of them.

use std::str::FromStr;

use millstream_storage::batch::TimestampType;
use millstream_storage::shard_log::{CompactionConfig, LogConfig};

use super::{ConfigDefinition, Properties, broker_config, list, topic_config};

/// Where a value was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// On the topic.
    Topic,
    /// In the layer of this index among the brokers' layers that were given, the highest precedence first.
    Broker(usize),
    /// Nowhere: the default.
    Default,
}

/// A value and where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The configuration that holds it: the topic's own, or one of its synonyms.
    pub name: &'static str,
    /// The value as it was given, in the unit of `name`.
    pub value: String,
    /// Where it was set.
    pub layer: Layer,
}

/// The codec a topic's batches are stored in: `compression.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicCompression {
    /// The producer's own, whatever it is.
    #[default]
    Producer,
    /// No compression.
    Uncompressed,
    /// gzip
    Gzip,
    /// snappy
    Snappy,
    /// lz4
    Lz4,
    /// zstd
    Zstd,
}

/// Higher levels of zstd are taken for this one: they need hundreds of megabytes for each batch.
const ZSTD_LEVEL_MAX: i32 = 19;

/// What a topic's configuration means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// `max.message.bytes`: the largest batch accepted, as it comes over the wire.
    pub max_message_bytes: usize,
    /// `compression.type`
    pub compression: TopicCompression,
    /// `compression.gzip.level` or `compression.zstd.level`, by `compression.type`; `None`: the codec's own.
    pub compression_level: Option<i32>,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: i64,
    /// `min.insync.replicas`
    pub min_insync_replicas: i32,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
    /// `unclean.leader.election.enable`
    pub unclean_leader_election: bool,
    /// What concerns the partitions' logs.
    pub log: LogConfig,
}

/// Every place that sets a topic configuration, the one in force first: the topic, then for each synonym the brokers'
/// layers and its default. It is never empty unless the default is null.
pub fn effective(definition: &ConfigDefinition, topic: &Properties, brokers: &[&Properties]) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(value) = topic.get(definition.name) {
        settings.push(Setting { name: definition.name, value: value.clone(), layer: Layer::Topic });
    }
    for synonym in definition.synonyms {
        if let Some(synonym) = broker_config(synonym) {
            broker_settings(synonym, brokers, &mut settings);
        }
    }
    if definition.synonyms.is_empty()
        && let Some(default) = definition.default
    {
        settings.push(Setting { name: definition.name, value: default.to_string(), layer: Layer::Default });
    }
    settings
}

fn broker_settings(definition: &'static ConfigDefinition, brokers: &[&Properties], settings: &mut Vec<Setting>) {
    for (layer, properties) in brokers.iter().enumerate() {
        if let Some(value) = properties.get(definition.name) {
            settings.push(Setting { name: definition.name, value: value.clone(), layer: Layer::Broker(layer) });
        }
    }
    if let Some(default) = definition.default {
        settings.push(Setting { name: definition.name, value: default.to_string(), layer: Layer::Default });
    }
}

impl Setting {
    /// The value in the unit of the topic configuration it stands for: hours and minutes become milliseconds, and
    /// negative ones the -1 of "no limit".
    pub fn value_in_topic_unit(&self) -> String {
        let scale: i64 = if self.name.ends_with(".hours") {
            3_600_000
        } else if self.name.ends_with(".minutes") {
            60_000
        } else {
            return self.value.clone();
        };
        match self.value.trim().parse::<i64>() {
            Ok(number) if number < 0 => "-1".to_string(),
            Ok(number) => number.saturating_mul(scale).to_string(),
            Err(_) => self.value.clone(),
        }
    }
}

/// The value of a broker configuration in force: the first layer that sets it, else its default. `None` for a name
/// that does not exist or a default that is null.
pub fn broker_value<'a>(name: &str, brokers: &[&'a Properties]) -> Option<&'a str> {
    brokers.iter().find_map(|layer| layer.get(name).map(String::as_str)).or_else(|| broker_config(name)?.default)
}

/// What a topic's configuration means, given the topic's own and the brokers' layers, the highest precedence first:
/// dynamic ones of this broker, dynamic ones of all brokers, those of the file.
pub fn topic_settings(topic: &Properties, brokers: &[&Properties]) -> TopicSettings {
    let cleanup = text("cleanup.policy", topic, brokers);
    let compression = match text("compression.type", topic, brokers).as_str() {
        "uncompressed" => TopicCompression::Uncompressed,
        "gzip" => TopicCompression::Gzip,
        "snappy" => TopicCompression::Snappy,
        "lz4" => TopicCompression::Lz4,
        "zstd" => TopicCompression::Zstd,
        _ => TopicCompression::Producer,
    };
    let bytes = |name| u32::try_from(number::<i64>(name, topic, brokers)).unwrap_or(0);
    TopicSettings {
        max_message_bytes: bytes("max.message.bytes") as usize,
        compression,
        compression_level: match compression {
            TopicCompression::Gzip => Some(number("compression.gzip.level", topic, brokers)).filter(|level| *level > 0),
            TopicCompression::Zstd => {
                Some(number("compression.zstd.level", topic, brokers)).map(|level: i32| level.min(ZSTD_LEVEL_MAX))
            }
            _ => None,
        },
        timestamp_before_max_ms: number("message.timestamp.before.max.ms", topic, brokers),
        timestamp_after_max_ms: number("message.timestamp.after.max.ms", topic, brokers),
        min_insync_replicas: number("min.insync.replicas", topic, brokers),
        compacted: list(&cleanup).any(|policy| policy == "compact"),
        unclean_leader_election: text("unclean.leader.election.enable", topic, brokers).eq_ignore_ascii_case("true"),
        log: LogConfig {
            segment_bytes: u64::from(bytes("segment.bytes")),
            segment_ms: number("segment.ms", topic, brokers),
            retention_ms: number("retention.ms", topic, brokers),
            retention_bytes: number("retention.bytes", topic, brokers),
            cleanup_delete: list(&cleanup).any(|policy| policy == "delete"),
            compaction: list(&cleanup).any(|policy| policy == "compact").then(|| CompactionConfig {
                min_cleanable_dirty_ratio: number("min.cleanable.dirty.ratio", topic, brokers),
                min_lag_ms: number("min.compaction.lag.ms", topic, brokers),
                max_lag_ms: number("max.compaction.lag.ms", topic, brokers),
                delete_retention_ms: number("delete.retention.ms", topic, brokers),
            }),
            index_interval_bytes: bytes("index.interval.bytes"),
            timestamp_type: match text("message.timestamp.type", topic, brokers).as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            file_delete_delay_ms: number("file.delete.delay.ms", topic, brokers),
        },
    }
}

/// The value in force. Values are checked before they are stored; one that is invalid all the same (a file of another
/// version) is passed over, and in the end the default holds.
fn text(name: &str, topic: &Properties, brokers: &[&Properties]) -> String {
    let definition = topic_config(name).expect("a topic configuration of the table");
    effective(definition, topic, brokers)
        .into_iter()
        .map(|setting| setting.value_in_topic_unit())
        .find(|value| definition.check(value).is_ok())
        .or_else(|| definition.default.map(str::to_string))
        .map(|value| value.trim().to_string())
        .expect("every topic configuration that is honoured has a default")
}

fn number<T: FromStr>(name: &str, topic: &Properties, brokers: &[&Properties]) -> T {
    text(name, topic, brokers).parse().ok().expect("a value that was checked is a number of its type")
}

#[cfg(test)]
mod tests {
    use super::super::Served;
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn defaults_are_those_of_kafka() {
        let settings = topic_settings(&Properties::new(), &[]);
        assert_eq!(settings.max_message_bytes, 1_048_588);
        assert_eq!(settings.compression, TopicCompression::Producer);
        assert_eq!(settings.timestamp_before_max_ms, i64::MAX);
        assert_eq!(settings.timestamp_after_max_ms, 3_600_000);
        assert_eq!(settings.min_insync_replicas, 1);
        assert!(!settings.compacted && !settings.unclean_leader_election);
        assert_eq!(
            settings.log,
            LogConfig {
                segment_bytes: 1 << 30,
                segment_ms: 604_800_000,
                retention_ms: 604_800_000,
                retention_bytes: -1,
                cleanup_delete: true,
                compaction: None,
                index_interval_bytes: 4096,
                timestamp_type: TimestampType::CreateTime,
                file_delete_delay_ms: 60_000,
            }
        );
    }

    #[test]
    fn the_topic_goes_before_the_broker_and_the_finer_unit_before_the_coarser() {
        let file = properties(&[
            ("log.retention.hours", "2"),
            ("log.retention.minutes", "3"),
            ("log.roll.hours", "1"),
            ("log.cleanup.policy", "compact,delete"),
            ("log.cleaner.max.compaction.lag.ms", "7000"),
        ]);
        let cluster = properties(&[("log.segment.bytes", "2000000")]);
        let broker = properties(&[("log.segment.bytes", "3000000")]);
        let topic =
            properties(&[("retention.ms", "5"), ("compression.type", "zstd"), ("min.cleanable.dirty.ratio", "0.25")]);
        let layers = [&broker, &cluster, &file];

        let settings = topic_settings(&topic, &layers);
        assert_eq!(settings.log.retention_ms, 5);
        assert_eq!(settings.log.segment_bytes, 3_000_000);
        assert_eq!(settings.log.segment_ms, 3_600_000);
        assert_eq!(settings.compression, TopicCompression::Zstd);
        assert!(settings.compacted && settings.log.cleanup_delete);
        let compaction = CompactionConfig {
            min_cleanable_dirty_ratio: 0.25,
            min_lag_ms: 0,
            max_lag_ms: 7_000,
            delete_retention_ms: 86_400_000,
        };
        assert_eq!(settings.log.compaction, Some(compaction));
        assert_eq!(topic_settings(&Properties::new(), &layers).log.retention_ms, 180_000);

        let retention = topic_config("retention.ms").unwrap();
        let shown: Vec<(&str, String, Layer)> = effective(retention, &topic, &layers)
            .into_iter()
            .map(|setting| (setting.name, setting.value_in_topic_unit(), setting.layer))
            .collect();
        assert_eq!(
            shown,
            [
                ("retention.ms", "5".to_string(), Layer::Topic),
                ("log.retention.minutes", "180000".to_string(), Layer::Broker(2)),
                ("log.retention.hours", "7200000".to_string(), Layer::Broker(2)),
                ("log.retention.hours", "604800000".to_string(), Layer::Default),
            ]
        );
    }

    /// Every honoured configuration, of a topic and of a broker, means something else than its default.
    #[test]
    fn each_honoured_configuration_changes_what_a_topic_means() {
        let other_value = |name: &str| match name {
            "cleanup.policy" | "log.cleanup.policy" => "compact,delete",
            "compression.type" => "zstd",
            name if name.ends_with("message.timestamp.type") => "LogAppendTime",
            "unclean.leader.election.enable" => "true",
            name if name.ends_with(".ratio") => "0.25",
            name if name.ends_with("segment.bytes") => "1048577",
            _ => "7",
        };
        // What compaction's configurations mean shows where a topic is compacted only; levels, where their codec is used.
        let compacted = properties(&[("cleanup.policy", "compact")]);
        let gzip = properties(&[("compression.type", "gzip")]);
        let zstd = properties(&[("compression.type", "zstd")]);
        let delete = Properties::new();
        let mut checked = 0;
        for definition in
            super::super::topic_configs().iter().filter(|definition| definition.served == Served::Honoured)
        {
            let name = definition.name;
            let base = match name {
                "cleanup.policy" => &delete,
                "compression.gzip.level" => &gzip,
                "compression.zstd.level" => &zstd,
                _ => &compacted,
            };
            let default = topic_settings(base, &[]);
            let mut topic = base.clone();
            topic.insert(name.to_string(), other_value(name).to_string());
            assert_ne!(topic_settings(&topic, &[]), default, "{name}");
            for synonym in definition.synonyms {
                let broker = properties(&[(synonym, other_value(synonym))]);
                assert_ne!(topic_settings(base, &[&broker]), default, "{synonym}");
                assert_ne!(topic_settings(base, &[&delete, &broker]), default, "{synonym}");
                checked += 1;
            }
        }
        assert!(checked >= 20, "{checked} configurations of brokers");
    }

    #[test]
    fn a_stored_value_that_is_invalid_is_passed_over() {
        let topic = properties(&[("segment.bytes", "many"), ("min.insync.replicas", "0")]);
        let settings = topic_settings(&topic, &[]);
        assert_eq!(settings.log.segment_bytes, 1 << 30);
        assert_eq!(settings.min_insync_replicas, 1);
    }

    #[test]
    fn broker_values_come_from_the_first_layer_that_has_them() {
        let file = properties(&[("num.partitions", "6")]);
        assert_eq!(broker_value("num.partitions", &[&Properties::new(), &file]), Some("6"));
        assert_eq!(broker_value("num.partitions", &[]), Some("1"));
        assert_eq!(broker_value("broker.rack", &[]), None);
        assert_eq!(broker_value("no.such.name", &[]), None);
    }
}
