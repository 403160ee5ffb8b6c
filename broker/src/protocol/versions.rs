//! The served APIs: their versions, and who serves them. One declaration each, from which dispatch and the ApiVersions
//! reply are derived.
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

/// Who serves an API. A part of the shard that serves several is told which; as each matches on its own, no request can
/// come to one that does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Append.
    Produce,
    /// Read.
    Fetch,
    /// Questions about the offsets of partitions.
    Offsets(OffsetsApi),
    /// Questions to every partition of the node, or to many.
    Survey(SurveyApi),
    /// InitProducerId.
    ProducerIds,
    /// FindCoordinator.
    FindCoordinator,
    /// The coordinators of groups.
    Group(GroupApi),
    /// What is answered from the cluster image, or decided by the controller: [`crate::api`].
    Image(ImageApi),
}

/// Questions about the offsets of partitions.
#[allow(missing_docs, reason = "they are Kafka's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetsApi {
    ListOffsets,
    DeleteRecords,
    OffsetForLeaderEpoch,
}

/// Questions to many partitions.
#[allow(missing_docs, reason = "they are Kafka's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurveyApi {
    DescribeLogDirs,
    DescribeProducers,
}

/// Requests that the coordinators of groups answer.
#[allow(missing_docs, reason = "they are Kafka's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupApi {
    OffsetCommit,
    OffsetFetch,
    JoinGroup,
    Heartbeat,
    LeaveGroup,
    SyncGroup,
    DescribeGroups,
    ListGroups,
    DeleteGroups,
    OffsetDelete,
    ConsumerGroupHeartbeat,
    ConsumerGroupDescribe,
}

/// Requests that are answered from the cluster image, or decided by the controller.
#[allow(missing_docs, reason = "they are Kafka's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageApi {
    Metadata,
    ApiVersions,
    CreateTopics,
    DeleteTopics,
    DescribeConfigs,
    AlterConfigs,
    CreatePartitions,
    ElectLeaders,
    IncrementalAlterConfigs,
    ListPartitionReassignments,
    DescribeClientQuotas,
    AlterClientQuotas,
    DescribeQuorum,
    DescribeCluster,
    UnregisterBroker,
    ListConfigResources,
    DescribeTopicPartitions,
    AddRaftVoter,
    RemoveRaftVoter,
}

macro_rules! served_apis {
    ($($name:ident = $key:literal, $min:literal..=$max:literal, flexible from $flexible:expr, served by $handler:expr $(, advertised from $advertised:literal)?;)*) => {
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

            /// Who serves it.
            pub const fn handler(self) -> Handler {
                match self {
                    $(ApiKey::$name => $handler,)*
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
    Produce = 0, 3..=13, flexible from 9, served by Handler::Produce, advertised from 0;
    Fetch = 1, 4..=18, flexible from 12, served by Handler::Fetch;
    ListOffsets = 2, 1..=10, flexible from 6, served by Handler::Offsets(OffsetsApi::ListOffsets);
    Metadata = 3, 0..=13, flexible from 9, served by Handler::Image(ImageApi::Metadata);
    OffsetCommit = 8, 2..=9, flexible from 8, served by Handler::Group(GroupApi::OffsetCommit);
    OffsetFetch = 9, 1..=9, flexible from 6, served by Handler::Group(GroupApi::OffsetFetch);
    FindCoordinator = 10, 0..=6, flexible from 3, served by Handler::FindCoordinator;
    JoinGroup = 11, 0..=9, flexible from 6, served by Handler::Group(GroupApi::JoinGroup);
    Heartbeat = 12, 0..=4, flexible from 4, served by Handler::Group(GroupApi::Heartbeat);
    LeaveGroup = 13, 0..=5, flexible from 4, served by Handler::Group(GroupApi::LeaveGroup);
    SyncGroup = 14, 0..=5, flexible from 4, served by Handler::Group(GroupApi::SyncGroup);
    DescribeGroups = 15, 0..=6, flexible from 5, served by Handler::Group(GroupApi::DescribeGroups);
    ListGroups = 16, 0..=5, flexible from 3, served by Handler::Group(GroupApi::ListGroups);
    ApiVersions = 18, 0..=4, flexible from 3, served by Handler::Image(ImageApi::ApiVersions);
    CreateTopics = 19, 2..=7, flexible from 5, served by Handler::Image(ImageApi::CreateTopics);
    DeleteTopics = 20, 1..=6, flexible from 4, served by Handler::Image(ImageApi::DeleteTopics);
    DeleteRecords = 21, 0..=2, flexible from 2, served by Handler::Offsets(OffsetsApi::DeleteRecords);
    InitProducerId = 22, 0..=5, flexible from 2, served by Handler::ProducerIds;
    OffsetForLeaderEpoch = 23, 2..=4, flexible from 4, served by Handler::Offsets(OffsetsApi::OffsetForLeaderEpoch);
    DescribeConfigs = 32, 1..=4, flexible from 4, served by Handler::Image(ImageApi::DescribeConfigs);
    AlterConfigs = 33, 0..=2, flexible from 2, served by Handler::Image(ImageApi::AlterConfigs);
    DescribeLogDirs = 35, 1..=4, flexible from 2, served by Handler::Survey(SurveyApi::DescribeLogDirs);
    CreatePartitions = 37, 0..=3, flexible from 2, served by Handler::Image(ImageApi::CreatePartitions);
    DeleteGroups = 42, 0..=2, flexible from 2, served by Handler::Group(GroupApi::DeleteGroups);
    ElectLeaders = 43, 0..=2, flexible from 2, served by Handler::Image(ImageApi::ElectLeaders);
    IncrementalAlterConfigs = 44, 0..=1, flexible from 1, served by Handler::Image(ImageApi::IncrementalAlterConfigs);
    ListPartitionReassignments = 46, 0..=0, flexible from 0, served by Handler::Image(ImageApi::ListPartitionReassignments);
    OffsetDelete = 47, 0..=0, flexible from NEVER, served by Handler::Group(GroupApi::OffsetDelete);
    DescribeClientQuotas = 48, 0..=1, flexible from 1, served by Handler::Image(ImageApi::DescribeClientQuotas);
    AlterClientQuotas = 49, 0..=1, flexible from 1, served by Handler::Image(ImageApi::AlterClientQuotas);
    DescribeQuorum = 55, 0..=2, flexible from 0, served by Handler::Image(ImageApi::DescribeQuorum);
    DescribeCluster = 60, 0..=2, flexible from 0, served by Handler::Image(ImageApi::DescribeCluster);
    DescribeProducers = 61, 0..=0, flexible from 0, served by Handler::Survey(SurveyApi::DescribeProducers);
    UnregisterBroker = 64, 0..=0, flexible from 0, served by Handler::Image(ImageApi::UnregisterBroker);
    ConsumerGroupHeartbeat = 68, 0..=1, flexible from 0, served by Handler::Group(GroupApi::ConsumerGroupHeartbeat);
    ConsumerGroupDescribe = 69, 0..=1, flexible from 0, served by Handler::Group(GroupApi::ConsumerGroupDescribe);
    ListConfigResources = 74, 0..=1, flexible from 0, served by Handler::Image(ImageApi::ListConfigResources);
    DescribeTopicPartitions = 75, 0..=0, flexible from 0, served by Handler::Image(ImageApi::DescribeTopicPartitions);
    AddRaftVoter = 80, 0..=1, flexible from 0, served by Handler::Image(ImageApi::AddRaftVoter);
    RemoveRaftVoter = 81, 0..=0, flexible from 0, served by Handler::Image(ImageApi::RemoveRaftVoter);
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
