//! `millstream group`: who reads what and how far it is behind.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_wire::list_groups_response::ListedGroup;
use kafka_wire::offset_commit_request::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_delete_request::{OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest, OffsetFetchRequest,
    decode_consumer_protocol_assignment,
};
use kafka_wire_core::DecodeLimits;

use super::client::{Client, EARLIEST, LATEST, TopicPartition, by_topic};
use super::error::{CliError, ErrorText};
use super::output::{Progress, Table};
use super::{Common, time};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream group list
  millstream group describe readers
  millstream group reset-offsets readers --topic orders --to-earliest            says what it would do
  millstream group reset-offsets readers --topic orders --to-earliest --execute  does it
  millstream group reset-offsets readers --all-topics --to-time -2h --execute
  millstream group reset-offsets readers --topic orders:0,3 --shift-by -100 --execute
  millstream group delete-offsets readers --topic orders
  millstream group delete readers";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// List groups
    List {
        /// Only those whose name contains this
        search: Option<String>,
    },
    /// Show members, committed offsets and lag
    Describe {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
        /// Show the members instead of the partitions
        #[arg(long)]
        members: bool,
    },
    /// Delete groups without members, with their offsets
    Delete {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Set committed offsets of a group without members; only says what it would do unless --execute is given
    ResetOffsets {
        /// The group; one that does not exist is made
        group: String,
        #[command(flatten)]
        topics: Topics,
        #[command(flatten)]
        goal: Goal,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Delete committed offsets of topics that no member reads
    DeleteOffsets {
        /// The group
        group: String,
        #[command(flatten)]
        topics: Topics,
    },
}

/// Which partitions.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Topics {
    /// A topic, or some partitions of it (orders:0,3); may be given many times
    #[arg(long, short, value_name = "TOPIC[:PARTITIONS]", value_parser = topic_partitions)]
    topic: Vec<(String, Vec<i32>)>,
    /// All topics that the group committed offsets for
    #[arg(long)]
    all_topics: bool,
}

/// Where to.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Goal {
    /// To the first record there is
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record there is
    #[arg(long)]
    to_latest: bool,
    /// To this offset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<i64>,
    /// To the first record at or after this time: 2026-11-21T17:30:00Z, Unix milliseconds, or -2h
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    to_time: Option<i64>,
    /// Forth, or back with a negative number
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

fn topic_partitions(text: &str) -> Result<(String, Vec<i32>), String> {
    // A topic's name cannot contain a colon.
    let Some((topic, partitions)) = text.split_once(':') else { return Ok((text.to_owned(), Vec::new())) };
    let numbers: Result<Vec<i32>, _> = partitions.split(',').map(str::parse).collect();
    Ok((topic.to_owned(), numbers.map_err(|_| format!("{partitions:?} are no partition numbers: write orders:0,3"))?))
}

pub fn run(common: &Common, command: Command) -> Result<(), CliError> {
    let mut client = common.client()?;
    match command {
        Command::List { search } => list(common, &mut client, search.as_deref()),
        Command::Describe { groups, members } => describe(common, &mut client, &groups, members),
        Command::Delete { groups } => delete(common, &mut client, &groups),
        Command::ResetOffsets { group, topics, goal, execute } => {
            reset(common, &mut client, &group, &topics, &goal, execute)
        }
        Command::DeleteOffsets { group, topics } => delete_offsets(common, &mut client, &group, &topics),
    }
}

fn list(common: &Common, client: &mut Client, search: Option<&str>) -> Result<(), CliError> {
    let mut groups: Vec<ListedGroup> = Vec::new();
    for broker in client.broker_ids()? {
        let response = client.broker(broker)?.call(0..=5, &ListGroupsRequest::default())?;
        ErrorText::check(response.error_code, None)
            .map_err(|error| CliError::refused(format!("broker {broker}"), &error))?;
        groups.extend(response.groups);
    }
    groups.retain(|group| search.is_none_or(|search| group.group_id.contains(search)));
    groups.sort_by(|a, b| a.group_id.as_str().cmp(b.group_id.as_str()));
    let mut table = Table::new(&["GROUP", "STATE", "PROTOCOL"]);
    for group in &groups {
        table.row([
            group.group_id.as_str().into(),
            group.group_state.as_str().into(),
            group.protocol_type.as_str().into(),
        ]);
    }
    let json = || {
        Json::array(groups.iter().map(|group| {
            Json::object([
                ("group", group.group_id.as_str().into()),
                ("state", group.group_state.as_str().into()),
                ("protocol", group.protocol_type.as_str().into()),
            ])
        }))
    };
    common.output().table(json, &table, "no groups")
}

/// A group as its coordinator describes it, of either protocol.
struct Described {
    group: String,
    state: String,
    /// `consumer` for those that read topics.
    protocol_type: String,
    assignor: String,
    members: Vec<Member>,
}

/// A member of a group.
struct Member {
    id: String,
    instance: Option<String>,
    client: String,
    host: String,
    assigned: Vec<TopicPartition>,
}

/// Describes a group. Like Kafka's tools it asks for one of the consumer protocol (KIP-848) first: asked for as a classic
/// group, such a group is not there.
fn described(client: &mut Client, group: &str) -> Result<Described, CliError> {
    match consumer_described(client, group)? {
        Some(described) => Ok(described),
        None => classic_described(client, group),
    }
}

/// `None` if there is no such group of the consumer protocol, or the cluster does not know that protocol.
fn consumer_described(client: &mut Client, group: &str) -> Result<Option<Described>, CliError> {
    let mut request = ConsumerGroupDescribeRequest::default();
    request.group_ids = vec![group.into()];
    let coordinator = client.coordinator(group)?;
    if client.broker(coordinator)?.version::<ConsumerGroupDescribeRequest>(0..=1).is_err() {
        return Ok(None);
    }
    let response = client.ask_coordinator(
        group,
        |connection| connection.call(0..=1, &request),
        |response| response.groups.first().map_or(0, |group| group.error_code),
    )?;
    // Whatever keeps it from being described as one (it is classic, it is not there, the protocol is switched off) is
    // said again, or not, when it is described as a classic group.
    let Some(found) = response.groups.into_iter().next().filter(|group| group.error_code == 0) else {
        return Ok(None);
    };
    let member = |member: kafka_wire::consumer_group_describe_response::Member| Member {
        id: member.member_id.to_string(),
        instance: member.instance_id.map(|instance| instance.to_string()),
        client: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assigned: member
            .assignment
            .topic_partitions
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic_name.to_string(), *index)))
            .collect(),
    };
    Ok(Some(Described {
        group: found.group_id.to_string(),
        state: found.group_state.to_string(),
        protocol_type: "consumer".to_owned(),
        assignor: found.assignor_name.to_string(),
        members: found.members.into_iter().map(member).collect(),
    }))
}

fn classic_described(client: &mut Client, group: &str) -> Result<Described, CliError> {
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![group.into()];
    let response = client.ask_coordinator(
        group,
        |connection| connection.call(0..=5, &request),
        |response| response.groups.first().map_or(0, |group| group.error_code),
    )?;
    let found = response.groups.into_iter().next();
    let found = found.ok_or_else(|| CliError::Refused(format!("group {group}: its coordinator says nothing of it")))?;
    ErrorText::check(found.error_code, found.error_message.as_deref())
        .map_err(|error| CliError::refused(format!("group {group}"), &error))?;
    let member = |member: kafka_wire::describe_groups_response::DescribedGroupMember| {
        // Groups of other kinds than consumers have assignments of their own; those that nobody has yet are empty.
        let assignment = decode_consumer_protocol_assignment(member.member_assignment, DecodeLimits::default());
        let topics = assignment.map(|(_, assignment)| assignment.assigned_partitions).unwrap_or_default();
        Member {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.map(|instance| instance.to_string()),
            client: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assigned: topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic.to_string(), *index)))
                .collect(),
        }
    };
    Ok(Described {
        group: found.group_id.to_string(),
        state: found.group_state.to_string(),
        protocol_type: found.protocol_type.to_string(),
        assignor: found.protocol_data.to_string(),
        members: found.members.into_iter().map(member).collect(),
    })
}

/// All offsets that a group committed.
fn committed(client: &mut Client, group: &str) -> Result<BTreeMap<TopicPartition, i64>, CliError> {
    let mut request = OffsetFetchRequest::default();
    request.group_id = group.into();
    request.topics = None;
    let response =
        client.ask_coordinator(group, |connection| connection.call(2..=7, &request), |response| response.error_code)?;
    ErrorText::check(response.error_code, None).map_err(|error| CliError::refused(format!("group {group}"), &error))?;
    let offsets = response.topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(|partition| ((topic.name.to_string(), partition.partition_index), partition.committed_offset))
    });
    Ok(offsets.filter(|(_, offset)| *offset >= 0).collect())
}

/// Leaves out partitions that do not exist, such as those of topics that were deleted.
fn existing(
    client: &mut Client,
    partitions: impl Iterator<Item = TopicPartition>,
) -> Result<Vec<TopicPartition>, CliError> {
    let partitions: BTreeSet<TopicPartition> = partitions.collect();
    let mut names: Vec<String> = partitions.iter().map(|(topic, _)| topic.clone()).collect();
    names.dedup();
    let there: BTreeSet<TopicPartition> = client
        .metadata(Some(&names))?
        .topics
        .iter()
        .flat_map(|topic| {
            let name = topic.name.as_deref().unwrap_or_default().to_owned();
            topic.partitions.iter().map(move |partition| (name.clone(), partition.partition_index))
        })
        .collect();
    Ok(partitions.into_iter().filter(|partition| there.contains(partition)).collect())
}

/// A partition that a group reads or has read.
struct Reading {
    partition: TopicPartition,
    committed: Option<i64>,
    next: Option<i64>,
    /// The member that it is assigned to, by its place.
    member: Option<usize>,
}

impl Reading {
    fn lag(&self) -> Option<i64> {
        Some(self.next?.saturating_sub(self.committed?).max(0))
    }
}

fn lag_of(readings: &[Reading]) -> i64 {
    readings.iter().filter_map(Reading::lag).fold(0, i64::saturating_add)
}

fn readings(client: &mut Client, group: &Described) -> Result<Vec<Reading>, CliError> {
    let committed = committed(client, &group.group)?;
    let mut members: BTreeMap<TopicPartition, usize> = BTreeMap::new();
    for (place, member) in group.members.iter().enumerate() {
        members.extend(member.assigned.iter().map(|partition| (partition.clone(), place)));
    }
    let all: BTreeSet<TopicPartition> = committed.keys().chain(members.keys()).cloned().collect();
    let there = existing(client, all.iter().cloned())?;
    let next = client.offsets(there.into_iter().map(|partition| (partition, LATEST)))?;
    let reading = |partition: TopicPartition| Reading {
        committed: committed.get(&partition).copied(),
        next: next.get(&partition).map(|next| next.offset),
        member: members.get(&partition).copied(),
        partition,
    };
    Ok(all.into_iter().map(reading).collect())
}

fn describe(common: &Common, client: &mut Client, names: &[String], members: bool) -> Result<(), CliError> {
    let mut progress = Progress::start();
    let mut groups = Vec::new();
    for name in names {
        progress.at(|| format!("looked at {} of {} groups", groups.len(), names.len()));
        let group = described(client, name)?;
        let readings = readings(client, &group)?;
        // Older brokers describe a group that does not exist as a dead one.
        if group.state == "Dead" && readings.is_empty() {
            let error = ErrorText::new(69, None).expect("an error");
            return Err(CliError::refused(format!("group {name}"), &error));
        }
        groups.push((group, readings));
    }
    drop(progress);
    let member_of = |group: &Described, reading: &Reading| {
        let member = &group.members[reading.member?];
        Some((member.id.clone(), member.client.clone(), member.host.clone()))
    };
    let text = || {
        let mut text = String::new();
        for (group, readings) in &groups {
            let lag = lag_of(readings);
            text.push_str(&format!(
                "{}: {}, {} members, {lag} records behind\n",
                group.group,
                group.state,
                group.members.len()
            ));
            let mut table = if members {
                Table::new(&["MEMBER", "CLIENT", "HOST", "PARTITIONS"])
            } else {
                Table::new(&["TOPIC", "PARTITION", "COMMITTED", "NEXT", "LAG", "CLIENT", "HOST"])
            };
            if members {
                for (place, member) in group.members.iter().enumerate() {
                    let count = readings.iter().filter(|reading| reading.member == Some(place)).count();
                    table.row([
                        member.id.as_str().into(),
                        member.client.as_str().into(),
                        member.host.as_str().into(),
                        count.into(),
                    ]);
                }
            } else {
                for reading in readings {
                    let (_, client, host) = member_of(group, reading).unwrap_or_default();
                    table.row([
                        reading.partition.0.as_str().into(),
                        reading.partition.1.into(),
                        reading.committed.into(),
                        reading.next.into(),
                        reading.lag().into(),
                        client.into(),
                        host.into(),
                    ]);
                }
            }
            text.push_str(&if table.is_empty() { "  nothing\n\n".to_owned() } else { format!("{table}\n") });
        }
        text
    };
    let json = || {
        Json::array(groups.iter().map(|(group, readings)| {
            let partitions = readings.iter().map(|reading| {
                Json::object([
                    ("topic", reading.partition.0.as_str().into()),
                    ("partition", reading.partition.1.into()),
                    ("committed", reading.committed.into()),
                    ("next", reading.next.into()),
                    ("lag", reading.lag().into()),
                    ("member", member_of(group, reading).map(|(id, _, _)| id).into()),
                ])
            });
            let members = group.members.iter().map(|member| {
                Json::object([
                    ("member", member.id.as_str().into()),
                    ("instance", member.instance.as_deref().into()),
                    ("client", member.client.as_str().into()),
                    ("host", member.host.as_str().into()),
                ])
            });
            Json::object([
                ("group", group.group.as_str().into()),
                ("state", group.state.as_str().into()),
                ("protocol", group.protocol_type.as_str().into()),
                ("assignor", group.assignor.as_str().into()),
                ("lag", lag_of(readings).into()),
                ("members", Json::array(members)),
                ("partitions", Json::array(partitions)),
            ])
        }))
    };
    common.output().print(json, text)
}

fn delete(common: &Common, client: &mut Client, groups: &[String]) -> Result<(), CliError> {
    let mut deleted = Vec::new();
    let mut failures = Vec::new();
    for group in groups {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec![group.as_str().into()];
        let response = client.ask_coordinator(
            group,
            |connection| connection.call(0..=2, &request),
            |response| response.results.first().map_or(0, |result| result.error_code),
        )?;
        let error = response.results.first().and_then(|result| ErrorText::new(result.error_code, None));
        match error {
            None => deleted.push(group.as_str()),
            Some(error) => failures.push(format!("group {group}: {error}")),
        }
    }
    common.output().print(
        || Json::object([("deleted", Json::array(deleted.iter().copied()))]),
        || deleted.iter().map(|group| format!("deleted {group}\n")).collect(),
    )?;
    if failures.is_empty() { Ok(()) } else { Err(CliError::Refused(failures.join("\nmillstream: "))) }
}

/// The partitions that are meant.
fn chosen(
    client: &mut Client,
    topics: &Topics,
    committed: &BTreeMap<TopicPartition, i64>,
) -> Result<Vec<TopicPartition>, CliError> {
    if topics.all_topics {
        return existing(client, committed.keys().cloned());
    }
    let mut chosen = Vec::new();
    for (topic, partitions) in &topics.topic {
        let all = client.partitions(topic)?;
        if let Some(missing) = partitions.iter().find(|index| !all.iter().any(|(_, there)| there == *index)) {
            return Err(CliError::Refused(format!("topic {topic} has no partition {missing}")));
        }
        chosen.extend(all.into_iter().filter(|(_, index)| partitions.is_empty() || partitions.contains(index)));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

fn reset(
    common: &Common,
    client: &mut Client,
    group: &str,
    topics: &Topics,
    goal: &Goal,
    execute: bool,
) -> Result<(), CliError> {
    let state = described(client, group)?;
    if !state.members.is_empty() {
        return Err(CliError::Refused(format!(
            "group {group} has {} members: stop its consumers first, or they would go on where they are",
            state.members.len()
        )));
    }
    let committed = committed(client, group)?;
    let partitions = chosen(client, topics, &committed)?;
    if partitions.is_empty() {
        return Err(CliError::Refused(format!("group {group} committed no offsets; name topics with --topic")));
    }
    let mut ask = |timestamp| client.offsets(partitions.iter().map(|partition| (partition.clone(), timestamp)));
    let (first, next) = (ask(EARLIEST)?, ask(LATEST)?);
    let at_time = match goal.to_time {
        Some(timestamp) => ask(timestamp)?,
        None => BTreeMap::new(),
    };
    let mut plan: Vec<(TopicPartition, Option<i64>, i64)> = Vec::new();
    for partition in partitions {
        let (first, next) = (first[&partition].offset, next[&partition].offset);
        let current = committed.get(&partition).copied();
        let wanted = if goal.to_earliest {
            first
        } else if goal.to_latest {
            next
        } else if let Some(offset) = goal.to_offset {
            offset
        } else if let Some(records) = goal.shift_by {
            match current {
                Some(current) => current.saturating_add(records),
                None => {
                    let (topic, index) = &partition;
                    return Err(CliError::Refused(format!(
                        "group {group} committed no offset for partition {index} of topic {topic}: there is nothing to \
                         shift"
                    )));
                }
            }
        } else {
            // Nothing is that new: behind the last record.
            at_time.get(&partition).map(|found| found.offset).filter(|offset| *offset >= 0).unwrap_or(next)
        };
        // As Kafka's tool does: what is not there cannot be read.
        plan.push((partition, current, wanted.clamp(first, next)));
    }
    if execute {
        commit(client, group, plan.iter().map(|(partition, _, offset)| (partition.clone(), *offset)))?;
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "NEW"]);
    for ((topic, partition), current, new) in &plan {
        table.row([topic.as_str().into(), (*partition).into(), (*current).into(), (*new).into()]);
    }
    let json = || {
        let rows = plan.iter().map(|((topic, partition), current, new)| {
            Json::object([
                ("topic", topic.as_str().into()),
                ("partition", (*partition).into()),
                ("committed", (*current).into()),
                ("new", (*new).into()),
            ])
        });
        Json::object([("group", group.into()), ("executed", execute.into()), ("partitions", Json::array(rows))])
    };
    common.output().table(json, &table, "nothing to set")?;
    if !execute {
        eprintln!("nothing was changed: --execute does it");
    }
    Ok(())
}

fn commit(
    client: &mut Client,
    group: &str,
    offsets: impl Iterator<Item = (TopicPartition, i64)>,
) -> Result<(), CliError> {
    let mut request = OffsetCommitRequest::default();
    request.group_id = group.into();
    // Of no member: the group must have none.
    request.generation_id_or_member_epoch = -1;
    request.topics = by_topic(offsets)
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = OffsetCommitRequestTopic::default();
            topic.name = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, offset)| {
                    let mut partition = OffsetCommitRequestPartition::default();
                    partition.partition_index = index;
                    partition.committed_offset = offset;
                    partition.committed_metadata = Some("".into());
                    partition
                })
                .collect();
            topic
        })
        .collect();
    let response = client.ask_coordinator(
        group,
        |connection| connection.call(2..=8, &request),
        |response| {
            response
                .topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .max()
                .unwrap_or(0)
        },
    )?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            ErrorText::check(partition.error_code, None).map_err(|error| {
                let (index, topic) = (partition.partition_index, topic.name.as_str());
                CliError::refused(format!("group {group}, partition {index} of topic {topic}"), &error)
            })?;
        }
    }
    Ok(())
}

fn delete_offsets(common: &Common, client: &mut Client, group: &str, topics: &Topics) -> Result<(), CliError> {
    let committed = committed(client, group)?;
    let partitions: Vec<TopicPartition> = committed
        .keys()
        .filter(|(topic, index)| {
            let is_chosen = |(name, partitions): &(String, Vec<i32>)| {
                name == topic && (partitions.is_empty() || partitions.contains(index))
            };
            topics.all_topics || topics.topic.iter().any(is_chosen)
        })
        .cloned()
        .collect();
    if partitions.is_empty() {
        return Err(CliError::Refused(format!("group {group} committed no such offsets")));
    }
    let mut request = OffsetDeleteRequest::default();
    request.group_id = group.into();
    request.topics = by_topic(partitions.iter().map(|partition| (partition.clone(), ())))
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = OffsetDeleteRequestTopic::default();
            topic.name = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, ())| {
                    let mut partition = OffsetDeleteRequestPartition::default();
                    partition.partition_index = index;
                    partition
                })
                .collect();
            topic
        })
        .collect();
    let response =
        client.ask_coordinator(group, |connection| connection.call(0..=0, &request), |response| response.error_code)?;
    ErrorText::check(response.error_code, None).map_err(|error| CliError::refused(format!("group {group}"), &error))?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            ErrorText::check(partition.error_code, None).map_err(|error| {
                let (index, topic) = (partition.partition_index, topic.name.as_str());
                CliError::refused(format!("group {group}, partition {index} of topic {topic}"), &error)
            })?;
        }
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "DELETED"]);
    for (partition, offset) in partitions.iter().map(|partition| (partition, committed[partition])) {
        table.row([partition.0.as_str().into(), partition.1.into(), offset.into()]);
    }
    let json = || {
        Json::array(partitions.iter().map(|(topic, partition)| {
            Json::object([("topic", topic.as_str().into()), ("partition", (*partition).into())])
        }))
    };
    common.output().table(json, &table, "nothing was deleted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_behind_a_colon() {
        assert_eq!(topic_partitions("orders"), Ok(("orders".to_owned(), Vec::new())));
        assert_eq!(topic_partitions("orders:0,12"), Ok(("orders".to_owned(), vec![0, 12])));
        for broken in ["orders:", "orders:x", "orders:1,"] {
            assert!(topic_partitions(broken).is_err(), "{broken}");
        }
    }
}
