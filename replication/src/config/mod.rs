//! The configurations of topics and brokers by Kafka's names: what exists, what a value may be, and what it means.
//!
//! The tables are static: every configuration that Apache Kafka 4.3 documents, those that 4.0 removed but that older files
//! and tools still set, and our own under `millstream.`. A test holds them against what Kafka's own jars declare. A name
//! that is in none of them is refused by whoever takes configurations from outside; [`nearest`] says what was probably
//! meant.

mod broker;
mod settings;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

pub use settings::{Layer, Setting, TopicCompression, TopicSettings, broker_value, effective, topic_settings};

/// Names and values, as they were given.
pub type Properties = BTreeMap<String, String>;

/// Longest configuration name that [`nearest`] compares, in bytes: names come over the wire.
pub const NAME_BYTES_MAX: usize = 256;

/// The type of a configuration's value; the numbers are those of DescribeConfigs v3 and later (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    /// `true` or `false`.
    Boolean = 1,
    /// Any text.
    String = 2,
    /// 32 bits, signed.
    Int = 3,
    /// 16 bits, signed.
    Short = 4,
    /// 64 bits, signed.
    Long = 5,
    /// A floating-point number.
    Double = 6,
    /// Items with commas between them.
    List = 7,
    /// The name of a Java class.
    Class = 8,
    /// Text that is never shown.
    Password = 9,
}

/// What giving a configuration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It has the effect that Kafka documents: shipped code reads it.
    Honoured,
    /// It is stored and echoed; it has no effect. `docs/2026-11-21-configs-and-quotas.md` says why, name by name.
    Accepted,
    /// Any value but the default is refused, for this reason: to ignore it would mislead.
    Refused(&'static str),
}

/// What a value may be, beyond its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Valid {
    /// Whatever the type holds.
    Any,
    /// This or more.
    AtLeast(i64),
    /// From the first to the second, both included.
    Range(i64, i64),
    /// -1 for the codec's own, or 1 to 9.
    GzipLevel,
    /// From 0 to 1, both included.
    Fraction,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these, in upper or lower case.
    OneOfAnyCase(&'static [&'static str]),
    /// A list of these, each once.
    EachOf(&'static [&'static str]),
    /// A list of one item at most.
    Single,
    /// A list of addresses, each with a count behind a colon.
    CountOfAddresses,
}

/// One configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigDefinition {
    /// Kafka's name, or our own below `millstream.`.
    pub name: &'static str,
    /// The type of its value.
    pub kind: ConfigType,
    /// The value when nothing is given; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// For a topic configuration: the broker configurations that give its default, the first that is set wins. Those
    /// that end in `.minutes` or `.hours` are in that unit.
    pub synonyms: &'static [&'static str],
    /// Whether it may be changed while the broker runs.
    pub dynamic: bool,
    /// What giving it does.
    pub served: Served,
    /// One sentence or two, for DescribeConfigs.
    pub documentation: &'static str,
    /// What a value may be, beyond its type.
    pub valid: Valid,
}

/// In the tables: the configuration may be changed while the broker runs.
const DYNAMIC: bool = true;
/// In the tables: the configuration is read at start only.
const FIXED: bool = false;

/// Makes a table out of lines of name, type, default, valid values, what it does, when it may change, synonyms and
/// documentation.
macro_rules! table {
    ($table:ident $($name:literal $kind:ident $default:expr, $valid:expr, $served:expr, $dynamic:expr, [$($synonym:literal),*], $documentation:literal;)*) => {
        pub(super) static $table: &[ConfigDefinition] = &[
            $(ConfigDefinition {
                name: $name,
                kind: $kind,
                default: $default,
                synonyms: &[$($synonym),*],
                dynamic: $dynamic,
                served: $served,
                documentation: $documentation,
                valid: $valid,
            },)*
        ];
    };
}
use table;

impl ConfigDefinition {
    /// Whether `value` may be given; if not, why, in one sentence with the bounds.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let name = self.name;
        let value = value.trim();
        if let Served::Refused(reason) = self.served
            && !value.is_empty()
            && self.default != Some(value)
        {
            return Err(format!("{name} cannot be {}: {reason}", self.shown(value)));
        }
        match self.kind {
            ConfigType::Boolean => match value {
                "true" | "false" => Ok(()),
                _ if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") => Ok(()),
                _ => Err(format!("{name} must be true or false, not {value:?}")),
            },
            ConfigType::Short => self.check_number(value, i64::from(i16::MIN), i64::from(i16::MAX)),
            ConfigType::Int => self.check_number(value, i64::from(i32::MIN), i64::from(i32::MAX)),
            ConfigType::Long => self.check_number(value, i64::MIN, i64::MAX),
            ConfigType::Double => match value.parse::<f64>() {
                Ok(number) if number.is_nan() => Err(format!("{name} must be a number, not {value:?}")),
                Ok(number) if self.valid == Valid::Fraction && !(0.0..=1.0).contains(&number) => {
                    Err(format!("{name} must be from 0 to 1, not {value}"))
                }
                Ok(_) => Ok(()),
                Err(_) => Err(format!("{name} must be a number, not {value:?}")),
            },
            ConfigType::String | ConfigType::Class | ConfigType::Password | ConfigType::List => self.check_text(value),
        }
    }

    /// Whether the value must not be shown to anybody.
    pub fn is_sensitive(&self) -> bool {
        self.kind == ConfigType::Password
    }

    fn shown<'a>(&self, value: &'a str) -> &'a str {
        if self.is_sensitive() { "given" } else { value }
    }

    fn check_number(&self, value: &str, type_min: i64, type_max: i64) -> Result<(), String> {
        let name = self.name;
        let (min, max) = match self.valid {
            Valid::AtLeast(min) => (min, type_max),
            Valid::Range(min, max) => (min, max),
            Valid::GzipLevel => (-1, 9),
            _ => (type_min, type_max),
        };
        let Ok(number) = value.parse::<i64>() else {
            return Err(format!("{name} must be a whole number from {min} to {max}, not {value:?}"));
        };
        if number < min || number > max || (self.valid == Valid::GzipLevel && number == 0) {
            let but = if self.valid == Valid::GzipLevel { ", but not 0" } else { "" };
            return Err(format!("{name} must be from {min} to {max}{but}, not {number}"));
        }
        Ok(())
    }

    fn check_text(&self, value: &str) -> Result<(), String> {
        let name = self.name;
        match self.valid {
            Valid::OneOf(allowed) if !allowed.contains(&value) => {
                Err(format!("{name} must be one of {}, not {value:?}", allowed.join(", ")))
            }
            Valid::OneOfAnyCase(allowed) if !allowed.iter().any(|item| item.eq_ignore_ascii_case(value)) => {
                Err(format!("{name} must be one of {}, not {value:?}", allowed.join(", ")))
            }
            Valid::EachOf(allowed) => {
                let given: Vec<&str> = list(value).collect();
                for (index, item) in given.iter().enumerate() {
                    if !allowed.contains(item) {
                        return Err(format!("{name} must hold only {}, not {item:?}", allowed.join(", ")));
                    }
                    if given[..index].contains(item) {
                        return Err(format!("{name} holds {item:?} twice"));
                    }
                }
                Ok(())
            }
            Valid::Single if list(value).nth(1).is_some() => {
                Err(format!("{name} can hold only one entry, not {value:?}"))
            }
            Valid::CountOfAddresses => {
                let is_pair = |item: &str| {
                    item.rsplit_once(':').is_some_and(|(address, count)| {
                        address.trim().parse::<std::net::IpAddr>().is_ok() && count.trim().parse::<u32>().is_ok()
                    })
                };
                match list(value).find(|item| !is_pair(item)) {
                    Some(item) => Err(format!("{name} must hold pairs such as 10.0.0.1:100, not {item:?}")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// The items of a list value: trimmed, empty ones left out.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Every topic configuration, in the order of their names.
pub fn topic_configs() -> &'static [ConfigDefinition] {
    topic::TOPIC_CONFIGS
}

/// Every broker configuration, in the order of their names.
pub fn broker_configs() -> &'static [ConfigDefinition] {
    broker::BROKER_CONFIGS
}

type ByName = HashMap<&'static str, &'static ConfigDefinition>;

fn by_name(table: &'static [ConfigDefinition]) -> ByName {
    table.iter().map(|definition| (definition.name, definition)).collect()
}

/// The topic configuration of this name.
pub fn topic_config(name: &str) -> Option<&'static ConfigDefinition> {
    static BY_NAME: LazyLock<ByName> = LazyLock::new(|| by_name(topic_configs()));
    BY_NAME.get(name).copied()
}

/// The broker configuration of this name. `listener.name.LISTENER.` before a TLS or SASL configuration is looked
/// through, with the mechanism that may follow it.
pub fn broker_config(name: &str) -> Option<&'static ConfigDefinition> {
    static BY_NAME: LazyLock<ByName> = LazyLock::new(|| by_name(broker_configs()));
    if let Some(definition) = BY_NAME.get(name) {
        return Some(definition);
    }
    let (_, own) = name.strip_prefix("listener.name.")?.split_once('.')?;
    let at = own.find("sasl.").or_else(|| own.find("ssl."))?;
    // "scram-sha-256.sasl.jaas.config": at most one part, the mechanism, comes before.
    if own[..at].matches('.').count() > 1 {
        return None;
    }
    BY_NAME.get(&own[at..]).copied()
}

/// The name in `among` that a misspelt name was probably meant to be.
pub fn nearest(name: &str, among: &[ConfigDefinition]) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = name.to_ascii_lowercase().replace(['_', '-'], ".");
    let furthest = (wanted.len() / 3).clamp(1, 6);
    among
        .iter()
        .map(|definition| (distance(&wanted, definition.name), definition.name))
        .filter(|(distance, _)| *distance <= furthest)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, remove or replace to make one of the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right = right.as_bytes();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, byte) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 0..right.len() {
            let replaced = diagonal + usize::from(byte != right[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_their_defaults_and_synonyms_are_valid() {
        for table in [topic_configs(), broker_configs()] {
            assert!(table.windows(2).all(|pair| pair[0].name < pair[1].name));
            for definition in table {
                if let Some(default) = definition.default {
                    assert_eq!(definition.check(default), Ok(()));
                }
                assert!(!definition.documentation.is_empty());
            }
        }
        for definition in topic_configs() {
            for synonym in definition.synonyms {
                let broker = broker_config(synonym).expect(synonym);
                assert!(
                    broker.kind == definition.kind || synonym.ends_with("hours") || synonym.ends_with("minutes"),
                    "{synonym} has another type than {}",
                    definition.name
                );
            }
        }
    }

    /// What a line of `kafka-{broker,topic}-configs.tsv` says: Kafka 4.3's own jars wrote it (`scripts/kafka-release.sh`).
    struct OfKafka {
        name: &'static str,
        kind: &'static str,
        default: Option<&'static str>,
        dynamic: bool,
        valid: &'static str,
    }

    fn of_kafka(file: &'static str) -> Vec<OfKafka> {
        let mut lines = file.lines();
        assert!(lines.next().expect("a title").starts_with("# Apache Kafka 4.3."));
        let parse = |line: &'static str| {
            let [name, kind, default, dynamic, valid] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            OfKafka { name, kind, default: default.strip_prefix('='), dynamic: dynamic == "dynamic", valid }
        };
        lines.map(parse).collect()
    }

    #[test]
    fn the_tables_are_those_of_kafka() {
        let defaults_of_ours = ["node.id", "log.dir"];
        // What belongs to a listener, and what is sized at start, is read then only; the others are refused anyway.
        let read_at_start = |name: &str| {
            let listener = name.starts_with("ssl.") || name.starts_with("sasl.") || name.contains("listener");
            let others = [
                "config.providers",
                "cordoned.log.dirs",
                "log.cleaner.dedupe.buffer.size",
                "metric.reporters",
                "principal.builder.class",
            ];
            listener || others.contains(&name)
        };
        let broker = of_kafka(include_str!("../../testdata/kafka-broker-configs.tsv"));
        let topic = of_kafka(include_str!("../../testdata/kafka-topic-configs.tsv"));
        assert!(broker.len() > 300 && topic.len() > 30);
        let broker = broker.iter().map(|kafka| (kafka, broker_config(kafka.name)));
        for (kafka, ours) in broker.chain(topic.iter().map(|kafka| (kafka, topic_config(kafka.name)))) {
            let name = kafka.name;
            let ours = ours.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(format!("{:?}", ours.kind).to_uppercase(), kafka.kind, "{name}");
            if !defaults_of_ours.contains(&name) {
                assert_eq!(ours.default, kafka.default, "{name}");
            }
            if !read_at_start(name) {
                assert_eq!(ours.dynamic, kafka.dynamic, "{name}");
            }
            // "[1,...]" and "[1,...,9]": what is not a range of whole numbers, Kafka words in many ways.
            let bounds = kafka.valid.strip_prefix('[').and_then(|bounds| bounds.strip_suffix(']'));
            if let Some((min, max)) = bounds.and_then(|bounds| bounds.split_once(",..."))
                && let Ok(min) = min.parse::<i64>()
                && ours.valid != Valid::Fraction
            {
                let range = match max.strip_prefix(',') {
                    None => Valid::AtLeast(min),
                    Some(max) => Valid::Range(min, max.parse().expect("a number")),
                };
                assert_eq!(ours.valid, range, "{name}");
            }
        }
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_bounds() {
        let check = |name: &str, value: &str| topic_config(name).expect(name).check(value);
        assert_eq!(
            check("segment.bytes", "1024"),
            Err("segment.bytes must be from 1048576 to 2147483647, not 1024".into())
        );
        assert_eq!(
            check("retention.ms", "soon"),
            Err("retention.ms must be a whole number from -1 to 9223372036854775807, not \"soon\"".into())
        );
        assert_eq!(check("retention.ms", "-1"), Ok(()));
        assert!(check("retention.ms", "-2").is_err());
        assert_eq!(
            check("cleanup.policy", "compact,shred"),
            Err("cleanup.policy must hold only compact, delete, not \"shred\"".into())
        );
        assert_eq!(check("cleanup.policy", "compact, delete"), Ok(()));
        assert!(check("cleanup.policy", "compact,compact").is_err());
        assert!(check("compression.type", "brotli").is_err());
        assert_eq!(check("compression.type", "lz4"), Ok(()));
        assert!(check("compression.gzip.level", "0").is_err());
        assert!(check("min.cleanable.dirty.ratio", "1.5").is_err());
        assert!(check("min.cleanable.dirty.ratio", "NaN").is_err());
        assert!(check("preallocate", "yes").is_err());
        assert!(check("remote.storage.enable", "true").is_err());
        assert_eq!(check("remote.storage.enable", "false"), Ok(()));
    }

    #[test]
    fn what_cannot_be_served_is_refused_and_its_default_is_not() {
        let check = |name: &str, value: &str| broker_config(name).expect(name).check(value);
        assert!(check("authorizer.class.name", "org.apache.kafka.Acl").is_err());
        assert_eq!(check("authorizer.class.name", ""), Ok(()));
        assert!(check("log.dirs", "/a,/b").is_err());
        assert_eq!(check("log.dirs", "/a"), Ok(()));
        assert!(check("millstream.journal.bytes", "1000").is_err());
        let overrides = "max.connections.per.ip.overrides";
        assert_eq!(check(overrides, "10.0.0.1:100, ::1:7"), Ok(()));
        assert_eq!(check(overrides, ""), Ok(()));
        for wrong in ["10.0.0.1", "localhost:5", "10.0.0.1:-1", "10.0.0.1:5,x"] {
            assert!(check(overrides, wrong).is_err());
        }
        let secret = check("delegation.token.secret.key", "hunter2").unwrap_err();
        assert!(!secret.contains("hunter2"));
    }

    #[test]
    fn listener_prefixes_are_looked_through() {
        let jaas = broker_config("sasl.jaas.config");
        assert_eq!(broker_config("listener.name.external.scram-sha-256.sasl.jaas.config"), jaas);
        assert_eq!(
            broker_config("listener.name.internal.ssl.keystore.location"),
            broker_config("ssl.keystore.location")
        );
        assert_eq!(broker_config("listener.name.internal.num.partitions"), None);
        assert_eq!(broker_config("listener.name."), None);
    }

    #[test]
    fn a_misspelt_name_finds_the_one_meant() {
        assert_eq!(nearest("retention.msec", topic_configs()), Some("retention.ms"));
        assert_eq!(nearest("log_retention_hours", broker_configs()), Some("log.retention.hours"));
        assert_eq!(nearest("num.partition", broker_configs()), Some("num.partitions"));
        assert_eq!(nearest("colour.of.the.sky", broker_configs()), None);
        assert_eq!(nearest(&"x".repeat(100_000), broker_configs()), None);
    }
}
