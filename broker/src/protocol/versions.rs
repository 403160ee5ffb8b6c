//! The served APIs and their versions: one declaration each, from which dispatch and the ApiVersions reply are derived.
//!
//! Millstream follows one release, Apache Kafka 4.3: configurations, their defaults, error codes and meanings are its own.
//! So are these ranges, but for four APIs that end a version earlier (`NOT_YET` among the tests says why). Clients infer a
//! broker's release from the ranges: what is left is exactly what Kafka 4.1 advertises, so nobody counts on more than is
//! served. A test holds the table against what Kafka's own jars declare; versions that they mark as unstable are not
//! advertised there, and not here.

use std::ops::RangeInclusive;

/// An API that is served, and for which versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiDeclaration {
    /// The API by Kafka's number.
    pub key: ApiKey,
    /// The least version that is served.
    pub version_min: i16,
    /// The greatest version that is served.
    pub version_max: i16,
    /// The least version in the ApiVersions reply, which differs from `version_min` for Produce only: librdkafka takes
    /// a broker without Produce 0 for one that cannot compress, so Kafka 4 announces versions from 0 and closes the
    /// connection that sends one below 3 (KIP-896, KAFKA-18659).
    pub advertised_version_min: i16,
    /// The first version with compact lengths and tagged fields (KIP-482); above `version_max` where there is none.
    pub flexible_from: i16,
}

impl ApiDeclaration {
    /// The served versions.
    pub fn versions(&self) -> RangeInclusive<i16> {
        self.version_min..=self.version_max
    }

    /// Whether this version is served.
    pub fn serves(&self, version: i16) -> bool {
        self.versions().contains(&version)
    }

    /// Whether this version has compact lengths and tagged fields.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

macro_rules! served_apis {
    ($($name:ident = $key:literal, $min:literal..=$max:literal, flexible from $flexible:expr $(, advertised from $advertised:literal)?;)*) => {
        /// The APIs that are served, by Kafka's numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ApiKey {
            $(
                #[doc = concat!("API key ", $key, ", versions ", $min, " to ", $max, ".")]
                $name = $key,
            )*
        }

        impl ApiKey {
            /// The API of this number, if it is served.
            pub fn from_wire(key: i16) -> Option<ApiKey> {
                match key {
                    $($key => Some(ApiKey::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name of the API, for logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$name => stringify!($name),)*
                }
            }

            /// Its declaration.
            pub const fn declaration(self) -> &'static ApiDeclaration {
                match self {
                    $(ApiKey::$name => {
                        const DECLARATION: ApiDeclaration = ApiDeclaration {
                            key: ApiKey::$name,
                            version_min: $min,
                            version_max: $max,
                            #[allow(unused_assignments, unused_mut)]
                            advertised_version_min: {
                                let mut advertised = $min;
                                $(advertised = $advertised;)?
                                advertised
                            },
                            flexible_from: $flexible,
                        };
                        &DECLARATION
                    })*
                }
            }
        }

        /// All served APIs, by ascending key.
        pub const SERVED: &[ApiKey] = &[$(ApiKey::$name,)*];
    };
}

/// `flexible_from` of an API whose every version has plain lengths.
const NEVER: i16 = i16::MAX;

served_apis! {
    Produce = 0, 3..=13, flexible from 9, advertised from 0;
    Fetch = 1, 4..=18, flexible from 12;
    ListOffsets = 2, 1..=10, flexible from 6;
    Metadata = 3, 0..=13, flexible from 9;
    OffsetCommit = 8, 2..=9, flexible from 8;
    OffsetFetch = 9, 1..=9, flexible from 6;
    FindCoordinator = 10, 0..=6, flexible from 3;
    JoinGroup = 11, 0..=9, flexible from 6;
    Heartbeat = 12, 0..=4, flexible from 4;
    LeaveGroup = 13, 0..=5, flexible from 4;
    SyncGroup = 14, 0..=5, flexible from 4;
    DescribeGroups = 15, 0..=6, flexible from 5;
    ListGroups = 16, 0..=5, flexible from 3;
    ApiVersions = 18, 0..=4, flexible from 3;
    CreateTopics = 19, 2..=7, flexible from 5;
    DeleteTopics = 20, 1..=6, flexible from 4;
    DeleteRecords = 21, 0..=2, flexible from 2;
    InitProducerId = 22, 0..=5, flexible from 2;
    OffsetForLeaderEpoch = 23, 2..=4, flexible from 4;
    DescribeConfigs = 32, 1..=4, flexible from 4;
    AlterConfigs = 33, 0..=2, flexible from 2;
    DescribeLogDirs = 35, 1..=4, flexible from 2;
    CreatePartitions = 37, 0..=3, flexible from 2;
    DeleteGroups = 42, 0..=2, flexible from 2;
    ElectLeaders = 43, 0..=2, flexible from 2;
    IncrementalAlterConfigs = 44, 0..=1, flexible from 1;
    ListPartitionReassignments = 46, 0..=0, flexible from 0;
    OffsetDelete = 47, 0..=0, flexible from NEVER;
    DescribeClientQuotas = 48, 0..=1, flexible from 1;
    AlterClientQuotas = 49, 0..=1, flexible from 1;
    DescribeQuorum = 55, 0..=2, flexible from 0;
    DescribeCluster = 60, 0..=2, flexible from 0;
    DescribeProducers = 61, 0..=0, flexible from 0;
    ConsumerGroupHeartbeat = 68, 0..=1, flexible from 0;
    ConsumerGroupDescribe = 69, 0..=1, flexible from 0;
    ListConfigResources = 74, 0..=1, flexible from 0;
    DescribeTopicPartitions = 75, 0..=0, flexible from 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_and_each_key_finds_itself() {
        assert!(SERVED.windows(2).all(|pair| pair[0] < pair[1]));
        for &key in SERVED {
            assert_eq!(ApiKey::from_wire(key as i16), Some(key));
            let declaration = key.declaration();
            assert_eq!(declaration.key, key);
            assert!(declaration.advertised_version_min <= declaration.version_min);
            assert!(declaration.version_min <= declaration.version_max);
            assert!(declaration.serves(declaration.version_max));
            assert!(!declaration.serves(declaration.version_max + 1));
            assert!(!declaration.serves(declaration.version_min - 1));
        }
        for key in [-1, 4, 5, 6, 7, 17, 24, 26, 94, i16::MAX, i16::MIN] {
            assert_eq!(ApiKey::from_wire(key), None);
        }
    }

    /// The versions of Kafka 4.3 above those of Kafka 4.1, none of which is served.
    const NOT_YET: [(ApiKey, i16); 4] = [
        // Asks for the earliest offset that waits to be uploaded (KIP-1023): there is no remote storage.
        (ApiKey::ListOffsets, 11),
        // Topics by their ids in groups' offsets (KIP-848).
        (ApiKey::OffsetCommit, 10),
        (ApiKey::OffsetFetch, 10),
        // Directories that get no new partitions (KIP-1066): there is one directory.
        (ApiKey::DescribeLogDirs, 5),
    ];

    #[test]
    fn the_ranges_are_those_of_kafka() {
        let mut lines = include_str!("testdata/kafka-apis.tsv").lines();
        assert!(lines.next().expect("a title").starts_with("# Apache Kafka 4.3."));
        let mut served = 0;
        for line in lines {
            let [key, name, min, max] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let Some(key) = ApiKey::from_wire(key.parse().expect("a number")) else { continue };
            let declaration = key.declaration();
            let of_kafka = |number: &str| number.parse::<i16>().expect("a number");
            let not_yet = NOT_YET.iter().filter(|(api, _)| *api == key).count() as i16;
            assert_eq!(key.name(), name);
            assert_eq!(declaration.version_min, of_kafka(min), "{name}");
            assert_eq!(declaration.version_max + not_yet, of_kafka(max), "{name}");
            served += 1;
        }
        assert_eq!(served, SERVED.len(), "every served API is Kafka's");
        assert!(NOT_YET.iter().all(|(key, version)| !key.declaration().serves(*version)));
    }

    #[test]
    fn the_message_schemas_know_every_served_version() {
        for &key in SERVED {
            let declaration = key.declaration();
            let schema = kafka_wire::API_DESCRIPTORS
                .iter()
                .find(|schema| schema.api_key.value() == key as i16)
                .expect("every served API has a schema");
            assert!(declaration.version_min >= schema.supported_versions.min().value());
            assert!(declaration.version_max <= schema.supported_versions.max().value());
            let flexible_from = schema.flexible_versions.map_or(i16::MAX, |range| range.min().value());
            assert_eq!(declaration.flexible_from, flexible_from, "{}", key.name());
        }
    }
}
