//! `millstream topic`: what there is, and changes of it.

use std::collections::BTreeMap;

use clap::Subcommand;
use kafka_wire::DeleteTopicsRequest;
use kafka_wire::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use kafka_wire::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use millstream_storage::TopicId;

use super::client::{Client, EARLIEST, LATEST, TopicPartition, by_topic};
use super::config::{self, Change, Owner};
use super::error::{CliError, ErrorText};
use super::output::{Progress, Table};
use super::{Common, name_and_value};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream topic create orders --partitions 12 --config retention.ms=86400000
  millstream topic list
  millstream topic describe orders
  millstream topic describe --under-replicated --offline
  millstream topic alter orders --partitions 24 --set retention.bytes=1000000000
  millstream topic delete-records orders --partition 0 --before 5000
  millstream topic delete orders";

/// Topics that one request creates, alters or deletes.
const TOPICS_PER_REQUEST: usize = 100;

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create topics
    Create {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
        /// Partitions of each; without it the brokers' num.partitions
        #[arg(long, short, value_name = "COUNT")]
        partitions: Option<i32>,
        /// Replicas of each partition; without it the brokers' default.replication.factor
        #[arg(long, short, value_name = "COUNT")]
        replication_factor: Option<i16>,
        /// A configuration, such as retention.ms=86400000; may be given many times
        #[arg(long, short, value_name = "NAME=VALUE", value_parser = name_and_value)]
        config: Vec<(String, String)>,
        /// Topics that exist are no error
        #[arg(long)]
        if_not_exists: bool,
        /// Only say whether they could be created
        #[arg(long)]
        dry_run: bool,
    },
    /// List topics
    List {
        /// Only those whose name contains this
        search: Option<String>,
        /// Also those that brokers keep for themselves
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Show partitions with their leaders, replicas and offsets, and what was configured
    Describe {
        /// Their names; without any all topics
        topics: Vec<String>,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Add partitions, or change configurations
    Alter {
        /// Its name
        topic: String,
        /// How many partitions it shall have: more than now
        #[arg(long, short, value_name = "COUNT")]
        partitions: Option<i32>,
        /// A configuration to set; may be given many times
        #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
        set: Vec<(String, String)>,
        /// A configuration to set back to its default; may be given many times
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
    },
    /// Delete topics with all their records
    Delete {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
        /// Topics that do not exist are no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Delete the oldest records of partitions
    DeleteRecords {
        /// The topic
        topic: String,
        /// Which partitions
        #[arg(long, short, value_name = "NUMBER", value_delimiter = ',', required_unless_present = "all_partitions")]
        partition: Vec<i32>,
        /// All of them
        #[arg(long, conflicts_with = "partition")]
        all_partitions: bool,
        /// Delete what lies before this offset; "latest" deletes all that there is
        #[arg(long, value_name = "OFFSET", value_parser = before_offset)]
        before: i64,
    },
}

/// Which partitions are wanted; with both those that are either.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only partitions of which replicas are not in sync, and topics that have some
    #[arg(long)]
    under_replicated: bool,
    /// Only partitions that nobody leads, and topics that have some
    #[arg(long)]
    offline: bool,
}

impl Wanted {
    fn are_all(self) -> bool {
        !self.under_replicated && !self.offline
    }

    fn is_wanted(self, partition: &MetadataResponsePartition) -> bool {
        self.are_all()
            || (self.under_replicated && is_under_replicated(partition))
            || (self.offline && is_offline(partition))
    }

    /// Leaves the topics that have something which is wanted.
    fn select(self, topics: &mut Vec<MetadataResponseTopic>) {
        let has_wanted = |topic: &MetadataResponseTopic| topic.partitions.iter().any(|of| self.is_wanted(of));
        topics.retain(|topic| self.are_all() || has_wanted(topic));
    }

    /// What is said when there is nothing.
    fn none(self) -> &'static str {
        match (self.under_replicated, self.offline) {
            (false, false) => "no topics; `millstream topic create NAME` makes one",
            (true, false) => "no partition is under-replicated",
            (false, true) => "no partition is offline",
            (true, true) => "no partition is under-replicated or offline",
        }
    }
}

/// Whether replicas are not in sync: what Kafka's `kafka-topics --under-replicated-partitions` shows.
fn is_under_replicated(partition: &MetadataResponsePartition) -> bool {
    partition.isr_nodes.len() < partition.replica_nodes.len()
}

/// Whether nobody leads it: what Kafka's `kafka-topics --unavailable-partitions` shows.
fn is_offline(partition: &MetadataResponsePartition) -> bool {
    partition.leader_id < 0
}

/// What is wrong with a partition, for people.
fn trouble(partition: &MetadataResponsePartition) -> &'static str {
    match (is_offline(partition), is_under_replicated(partition)) {
        (true, true) => "offline, under-replicated",
        (true, false) => "offline",
        (false, true) => "under-replicated",
        (false, false) => "",
    }
}

fn before_offset(text: &str) -> Result<i64, String> {
    if text == "latest" {
        return Ok(-1);
    }
    text.parse().ok().filter(|offset| *offset >= 0).ok_or_else(|| "it must be an offset, or \"latest\"".to_owned())
}

pub fn run(common: &Common, command: Command) -> Result<(), CliError> {
    let mut client = common.client()?;
    match command {
        Command::Create { topics, partitions, replication_factor, config, if_not_exists, dry_run } => {
            let form = |name: &String| {
                let mut topic = CreatableTopic::default();
                topic.name = name.as_str().into();
                topic.num_partitions = partitions.unwrap_or(-1);
                topic.replication_factor = replication_factor.unwrap_or(-1);
                topic.configs = config
                    .iter()
                    .map(|(name, value)| {
                        let mut config = CreatableTopicConfig::default();
                        config.name = name.as_str().into();
                        config.value = Some(value.as_str().into());
                        config
                    })
                    .collect();
                topic
            };
            create(common, &mut client, &topics, form, if_not_exists, dry_run)
        }
        Command::List { search, internal, wanted } => list(common, &mut client, search.as_deref(), internal, wanted),
        Command::Describe { topics, wanted } => describe(common, &mut client, &topics, wanted),
        Command::Alter { topic, partitions, set, unset } => alter(common, &mut client, &topic, partitions, set, unset),
        Command::Delete { topics, if_exists } => delete(common, &mut client, &topics, if_exists),
        Command::DeleteRecords { topic, partition, all_partitions: _, before } => {
            delete_records(common, &mut client, &topic, &partition, before)
        }
    }
}

/// What became of each of several things.
struct Outcomes {
    done: &'static str,
    results: Vec<(String, Result<(), ErrorText>)>,
    /// An error that is taken for success.
    accepted: Option<i16>,
}

impl Outcomes {
    /// Prints what was done; what was refused makes the error.
    fn report(self, common: &Common) -> Result<(), CliError> {
        let accepted = self.accepted;
        let is_refused = move |error: &ErrorText| Some(error.code()) != accepted;
        let json = || {
            Json::array(self.results.iter().map(|(name, result)| {
                let error = result.as_ref().err();
                Json::object([
                    ("topic", name.as_str().into()),
                    (self.done, result.is_ok().into()),
                    ("error", error.map(ErrorText::name).into()),
                    ("message", error.map(ToString::to_string).into()),
                ])
            }))
        };
        let text = || {
            let line = |(name, result): &(String, Result<(), ErrorText>)| match result {
                Ok(()) => Some(format!("{} {name}\n", self.done)),
                Err(error) if !is_refused(error) => Some(format!("{name}: {}\n", error.name())),
                Err(_) => None,
            };
            self.results.iter().filter_map(line).collect()
        };
        common.output().print(json, text)?;
        let failures: Vec<String> = self
            .results
            .iter()
            .filter_map(|(name, result)| {
                let error = result.as_ref().err().filter(|error| is_refused(error))?;
                Some(format!("topic {name}: {error}"))
            })
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(CliError::Refused(failures.join("\nmillstream: "))) }
    }
}

fn create(
    common: &Common,
    client: &mut Client,
    topics: &[String],
    form: impl Fn(&String) -> CreatableTopic,
    if_not_exists: bool,
    dry_run: bool,
) -> Result<(), CliError> {
    let mut progress = Progress::start();
    let mut results = Vec::new();
    for names in topics.chunks(TOPICS_PER_REQUEST) {
        progress.at(|| format!("created {} of {} topics", results.len(), topics.len()));
        let mut request = CreateTopicsRequest::default();
        request.topics = names.iter().map(&form).collect();
        request.timeout_ms = client.timeout_ms();
        request.validate_only = dry_run;
        // Version 4 is the first that knows the brokers' defaults (KIP-464).
        let response = client.controller()?.call(4..=7, &request)?;
        results.extend(
            response.topics.iter().map(|topic| {
                (topic.name.to_string(), ErrorText::check(topic.error_code, topic.error_message.as_deref()))
            }),
        );
    }
    drop(progress);
    let done = if dry_run { "could create" } else { "created" };
    Outcomes { done, results, accepted: if_not_exists.then_some(36) }.report(common)
}

fn delete(common: &Common, client: &mut Client, topics: &[String], if_exists: bool) -> Result<(), CliError> {
    let mut progress = Progress::start();
    let mut results = Vec::new();
    for names in topics.chunks(TOPICS_PER_REQUEST) {
        progress.at(|| format!("deleted {} of {} topics", results.len(), topics.len()));
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = names.iter().map(|name| name.as_str().into()).collect();
        request.timeout_ms = client.timeout_ms();
        let response = client.controller()?.call(1..=5, &request)?;
        results.extend(response.responses.iter().map(|topic| {
            let name = topic.name.as_deref().unwrap_or_default().to_owned();
            (name, ErrorText::check(topic.error_code, topic.error_message.as_deref()))
        }));
    }
    drop(progress);
    Outcomes { done: "deleted", results, accepted: if_exists.then_some(3) }.report(common)
}

fn list(
    common: &Common,
    client: &mut Client,
    search: Option<&str>,
    internal: bool,
    wanted: Wanted,
) -> Result<(), CliError> {
    let mut topics = client.metadata(None)?.topics;
    let name = |topic: &MetadataResponseTopic| topic.name.as_deref().unwrap_or_default().to_owned();
    topics.retain(|topic| (internal || !topic.is_internal) && search.is_none_or(|search| name(topic).contains(search)));
    // The numbers are those of the whole topic.
    wanted.select(&mut topics);
    topics.sort_by_key(name);
    let count = |topic: &MetadataResponseTopic, counts: fn(&MetadataResponsePartition) -> bool| {
        topic.partitions.iter().filter(|partition| counts(partition)).count()
    };
    let replicas =
        |topic: &MetadataResponseTopic| topic.partitions.first().map_or(0, |first| first.replica_nodes.len());
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS", "UNDER-REPLICATED", "OFFLINE"]);
    for topic in &topics {
        table.row([
            name(topic).into(),
            topic.partitions.len().into(),
            replicas(topic).into(),
            count(topic, is_under_replicated).into(),
            count(topic, is_offline).into(),
        ]);
    }
    let json = || {
        Json::array(topics.iter().map(|topic| {
            Json::object([
                ("topic", name(topic).into()),
                ("partitions", topic.partitions.len().into()),
                ("replicas", replicas(topic).into()),
                ("under_replicated", count(topic, is_under_replicated).into()),
                ("offline", count(topic, is_offline).into()),
                ("internal", topic.is_internal.into()),
            ])
        }))
    };
    common.output().table(json, &table, wanted.none())
}

fn describe(common: &Common, client: &mut Client, names: &[String], wanted: Wanted) -> Result<(), CliError> {
    let mut topics = if names.is_empty() { client.metadata(None)?.topics } else { client.topics(names)? };
    topics.sort_by(|a, b| a.name.as_deref().cmp(&b.name.as_deref()));
    wanted.select(&mut topics);
    let sizes: Vec<usize> = topics.iter().map(|topic| topic.partitions.len()).collect();
    for topic in &mut topics {
        topic.partitions.retain(|partition| wanted.is_wanted(partition));
    }
    let name = |topic: &MetadataResponseTopic| topic.name.as_deref().unwrap_or_default().to_owned();
    let led: Vec<TopicPartition> = topics
        .iter()
        .flat_map(|topic| {
            let led = topic.partitions.iter().filter(|partition| partition.leader_id >= 0);
            led.map(|partition| (name(topic), partition.partition_index))
        })
        .collect();
    let first = client.offsets(led.iter().map(|partition| (partition.clone(), EARLIEST)))?;
    let next = client.offsets(led.iter().map(|partition| (partition.clone(), LATEST)))?;
    let owners: Vec<Owner> = topics.iter().map(|topic| Owner::Topic(name(topic))).collect();
    let configs: BTreeMap<Owner, Vec<config::Entry>> = config::read(client, &owners)?
        .into_iter()
        .map(|(owner, entries)| (owner, entries.into_iter().filter(config::Entry::is_own).collect()))
        .collect();
    let nodes = |nodes: &[i32]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let text = || {
        let mut text = String::new();
        for (topic, size) in topics.iter().zip(&sizes) {
            let own: Vec<String> = configs[&Owner::Topic(name(topic))]
                .iter()
                .map(|entry| format!("{}={}", entry.name, entry.shown()))
                .collect();
            let own = if own.is_empty() { "none".to_owned() } else { own.join(" ") };
            let id = if topic.topic_id.is_zero() {
                String::new()
            } else {
                format!(", id {}", TopicId(topic.topic_id.to_bytes()).to_base64())
            };
            let shown = match topic.partitions.len() {
                all if all == *size => size.to_string(),
                some => format!("{some} of {size}"),
            };
            text.push_str(&format!("{}: {shown} partitions{id}, own configurations: {own}\n", name(topic),));
            let mut table = Table::new(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC", "FIRST", "NEXT", "RECORDS", ""]);
            let mut partitions: Vec<_> = topic.partitions.iter().collect();
            partitions.sort_by_key(|partition| partition.partition_index);
            for partition in partitions {
                let key = (name(topic), partition.partition_index);
                let (first, next) = (first.get(&key).map(|at| at.offset), next.get(&key).map(|at| at.offset));
                table.row([
                    partition.partition_index.into(),
                    (partition.leader_id >= 0).then_some(partition.leader_id).into(),
                    nodes(&partition.replica_nodes).into(),
                    nodes(&partition.isr_nodes).into(),
                    first.into(),
                    next.into(),
                    next.zip(first).map(|(next, first)| next - first).into(),
                    trouble(partition).into(),
                ]);
            }
            text.push_str(&format!("{table}\n"));
        }
        if topics.is_empty() { format!("{}\n", wanted.none()) } else { text }
    };
    let json = || {
        Json::array(topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let key = (name(topic), partition.partition_index);
                Json::object([
                    ("partition", partition.partition_index.into()),
                    ("leader", partition.leader_id.into()),
                    ("replicas", Json::array(partition.replica_nodes.iter().copied())),
                    ("in_sync", Json::array(partition.isr_nodes.iter().copied())),
                    ("under_replicated", is_under_replicated(partition).into()),
                    ("offline", is_offline(partition).into()),
                    ("first", first.get(&key).map(|at| at.offset).into()),
                    ("next", next.get(&key).map(|at| at.offset).into()),
                ])
            });
            let own = configs[&Owner::Topic(name(topic))].iter();
            Json::object([
                ("topic", name(topic).into()),
                ("id", TopicId(topic.topic_id.to_bytes()).to_base64().into()),
                ("internal", topic.is_internal.into()),
                ("configs", Json::Object(own.map(|entry| (entry.name.clone().into(), entry.json_value())).collect())),
                ("partitions", Json::array(partitions)),
            ])
        }))
    };
    common.output().print(json, text)
}

fn alter(
    common: &Common,
    client: &mut Client,
    topic: &str,
    partitions: Option<i32>,
    set: Vec<(String, String)>,
    unset: Vec<String>,
) -> Result<(), CliError> {
    if partitions.is_none() && set.is_empty() && unset.is_empty() {
        return Err(CliError::Usage("give --partitions, --set or --unset".to_owned()));
    }
    let set = set.into_iter().map(|(name, value)| Change { name, value: Some(value) });
    let changes: Vec<Change> = set.chain(unset.into_iter().map(|name| Change { name, value: None })).collect();
    if !changes.is_empty() {
        config::write(client, &Owner::Topic(topic.to_owned()), &changes)?;
    }
    if let Some(count) = partitions {
        let mut request = CreatePartitionsRequest::default();
        let mut more = CreatePartitionsTopic::default();
        more.name = topic.into();
        more.count = count;
        more.assignments = None;
        request.topics = vec![more];
        request.timeout_ms = client.timeout_ms();
        let response = client.controller()?.call(0..=3, &request)?;
        for result in &response.results {
            ErrorText::check(result.error_code, result.error_message.as_deref())
                .map_err(|error| CliError::refused(format!("topic {topic}"), &error))?;
        }
    }
    common
        .output()
        .print(|| Json::object([("topic", topic.into()), ("altered", true.into())]), || format!("altered {topic}\n"))
}

fn delete_records(
    common: &Common,
    client: &mut Client,
    topic: &str,
    chosen: &[i32],
    before: i64,
) -> Result<(), CliError> {
    let all = client.partitions(topic)?;
    if let Some(missing) = chosen.iter().find(|index| !all.iter().any(|(_, there)| there == *index)) {
        return Err(CliError::Refused(format!("topic {topic} has no partition {missing}")));
    }
    let chosen = all.into_iter().filter(|(_, index)| chosen.is_empty() || chosen.contains(index));
    let mut results = BTreeMap::new();
    for (leader, items) in client.by_leader(chosen.map(|partition| (partition, before)))? {
        let mut request = DeleteRecordsRequest::default();
        request.timeout_ms = client.timeout_ms();
        request.topics = by_topic(items)
            .into_iter()
            .map(|(name, partitions)| {
                let mut topic = DeleteRecordsTopic::default();
                topic.name = name.into();
                topic.partitions = partitions
                    .into_iter()
                    .map(|(index, offset)| {
                        let mut partition = DeleteRecordsPartition::default();
                        partition.partition_index = index;
                        partition.offset = offset;
                        partition
                    })
                    .collect();
                topic
            })
            .collect();
        let response = client.broker(leader)?.call(0..=2, &request)?;
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            let result = ErrorText::check(partition.error_code, None).map(|()| partition.low_watermark);
            results.insert(partition.partition_index, result);
        }
    }
    let mut table = Table::new(&["PARTITION", "FIRST"]);
    for (partition, result) in &results {
        if let Ok(first) = result {
            table.row([(*partition).into(), (*first).into()]);
        }
    }
    let json = || {
        Json::array(results.iter().map(|(partition, result)| {
            Json::object([
                ("topic", topic.into()),
                ("partition", (*partition).into()),
                ("first", result.as_ref().ok().copied().into()),
                ("error", result.as_ref().err().map(ErrorText::name).into()),
            ])
        }))
    };
    common.output().table(json, &table, "nothing was deleted")?;
    match results.iter().find_map(|(partition, result)| Some((partition, result.as_ref().err()?))) {
        Some((partition, error)) => Err(CliError::refused(format!("partition {partition} of topic {topic}"), error)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(leader: i32, replicas: &[i32], in_sync: &[i32]) -> MetadataResponsePartition {
        let mut partition = MetadataResponsePartition::default();
        (partition.leader_id, partition.replica_nodes) = (leader, replicas.to_vec());
        partition.isr_nodes = in_sync.to_vec();
        partition
    }

    #[test]
    fn partitions_are_under_replicated_offline_or_both() {
        for (leader, replicas, in_sync, expected, is_under_replicated, is_offline) in [
            (1, &[1, 2][..], &[1, 2][..], "", false, false),
            (1, &[1, 2], &[1], "under-replicated", true, false),
            (-1, &[2], &[2], "offline", false, true),
            (-1, &[1, 2], &[2], "offline, under-replicated", true, true),
        ] {
            let partition = partition(leader, replicas, in_sync);
            assert_eq!(trouble(&partition), expected);
            for (under_replicated, offline, expected) in [
                (false, false, true),
                (true, false, is_under_replicated),
                (false, true, is_offline),
                (true, true, is_under_replicated || is_offline),
            ] {
                let wanted = Wanted { under_replicated, offline };
                assert_eq!(wanted.is_wanted(&partition), expected, "{wanted:?} of {partition:?}");
                let mut topic = MetadataResponseTopic::default();
                topic.partitions = vec![partition.clone()];
                let mut topics = vec![topic];
                wanted.select(&mut topics);
                assert_eq!(topics.len(), usize::from(expected));
            }
        }
    }
}
