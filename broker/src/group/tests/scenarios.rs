//! Scenarios as text: `testdata/*.txt` hold what clients do and what they are told. A line that starts with `>` is a
//! command, the indented lines below it what came of it. `UPDATE_TESTDATA=1 cargo test scenarios` writes the files
//! anew: read the difference before you keep it.
//!
//! Clients have names; `a#1` is the first member id that client `a` was given. Commands, with defaults in brackets:
//! `join a [v=9 session=10000 rebalance=20000 instance= protocols=range:x type=consumer id=]`,
//! `sync a [assign=a:1,b:2 v=5 gen=]`, `beat a [gen=]`, `leave a [v=5 instance=]`, `commit a t:0=5,.. [v=9 gen= meta=]`,
//! `fetch t:0,.. [stable=]`, `tick ms`, `hold`, `release`, `fail code`, `restart`, `describe`, `list`, `delete`,
//! `delete-offset t:0`, `delete-topic t`, `admin-leave instance`, `config key=value`, `topic t:3` (a topic of three
//! partitions). Of the consumer protocol: `hello a [topics=t,u regex= own=t:0,t:1 epoch= instance= assignor= timeout=20000
//! v=1 full=]` is a heartbeat that says what is given, and all when it joins; `bye a [static= instance=]`, `who`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::*;
use kafka_wire_core::{StrBytes, Uuid};

use super::consumers::subscription;
use super::harness::{Harness, topic_id};
use crate::group::embedded::{decode_assignment, encode_assignment};
use crate::group::{GroupConfig, RequestRef};
use crate::protocol::versions::ApiKey;

const GROUP: &str = "g";

#[derive(Default)]
struct Client {
    member_id: String,
    generation: i32,
    leads: bool,
}

struct Scenario {
    harness: Harness,
    clients: BTreeMap<String, Client>,
    /// Member ids by what they are called in the text.
    names: BTreeMap<String, String>,
    waiting: BTreeMap<RequestRef, (String, ApiKey, i16)>,
}

fn text(value: &str) -> StrBytes {
    StrBytes::from(value)
}

fn error_name(code: i16) -> String {
    let name = match code {
        0 => "ok",
        -1 => "UNKNOWN_SERVER_ERROR",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        12 => "OFFSET_METADATA_TOO_LARGE",
        15 => "COORDINATOR_NOT_AVAILABLE",
        16 => "NOT_COORDINATOR",
        22 => "ILLEGAL_GENERATION",
        23 => "INCONSISTENT_GROUP_PROTOCOL",
        24 => "INVALID_GROUP_ID",
        25 => "UNKNOWN_MEMBER_ID",
        26 => "INVALID_SESSION_TIMEOUT",
        27 => "REBALANCE_IN_PROGRESS",
        28 => "INVALID_COMMIT_OFFSET_SIZE",
        44 => "POLICY_VIOLATION",
        68 => "NON_EMPTY_GROUP",
        69 => "GROUP_ID_NOT_FOUND",
        79 => "MEMBER_ID_REQUIRED",
        81 => "GROUP_MAX_SIZE_REACHED",
        82 => "FENCED_INSTANCE_ID",
        35 => "UNSUPPORTED_VERSION",
        42 => "INVALID_REQUEST",
        86 => "GROUP_SUBSCRIBED_TO_TOPIC",
        110 => "FENCED_MEMBER_EPOCH",
        111 => "UNRELEASED_INSTANCE_ID",
        112 => "UNSUPPORTED_ASSIGNOR",
        113 => "STALE_MEMBER_EPOCH",
        128 => "INVALID_REGULAR_EXPRESSION",
        other => return format!("error {other}"),
    };
    name.to_owned()
}

/// `t:0=5` as topic, partition and the rest.
fn partition(word: &str) -> (&str, i32, &str) {
    let (place, rest) = word.split_once('=').unwrap_or((word, ""));
    let (topic, index) = place.split_once(':').expect("topic:partition");
    (topic, index.parse().expect("a partition"), rest)
}

impl Scenario {
    fn new(config: GroupConfig) -> Self {
        Scenario {
            harness: Harness::new(config),
            clients: BTreeMap::new(),
            names: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// What a member id is called.
    fn name(&mut self, member_id: &str) -> String {
        if member_id.is_empty() {
            return "nobody".into();
        }
        if let Some(name) = self.names.get(member_id) {
            return name.clone();
        }
        let Some(length) = member_id.len().checked_sub(37) else {
            return member_id.to_owned();
        };
        let prefix = &member_id[..length];
        let same = |name: &&String| name.starts_with(&format!("{prefix}#"));
        let count = self.names.values().filter(same).count();
        let name = format!("{prefix}#{}", count + 1);
        self.names.insert(member_id.to_owned(), name.clone());
        name
    }

    fn ids(&mut self, ids: impl Iterator<Item = StrBytes>) -> String {
        let mut names: Vec<String> = ids.map(|id| self.name(&id)).collect();
        names.sort();
        names.join(" ")
    }

    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let mut options = BTreeMap::new();
        let mut plain = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) if !key.contains(':') => {
                    options.insert(key.to_owned(), value.to_owned());
                }
                _ => plain.push(word.to_owned()),
            }
        }
        let option = |key: &str| options.get(key).cloned();
        let number =
            |key: &str, default: i32| options.get(key).map_or(default, |value| value.parse().expect("a number"));
        let version = |default: i16| number("v", i32::from(default)) as i16;
        let who = plain.first().cloned().unwrap_or_default();
        match command {
            "join" => {
                let version = version(9);
                let client = self.clients.entry(who.clone()).or_default();
                let mut request = JoinGroupRequest::default();
                request.group_id = text(GROUP);
                request.session_timeout_ms = number("session", 10_000);
                request.rebalance_timeout_ms = number("rebalance", 20_000);
                request.member_id = match option("id").as_deref() {
                    None => text(&client.member_id),
                    Some("none") => text(""),
                    Some(called) => {
                        let id = self.names.iter().find(|(_, name)| *name == called);
                        text(id.map_or(called, |(id, _)| id))
                    }
                };
                request.group_instance_id = option("instance").map(|id| text(&id));
                request.protocol_type = text(&option("type").unwrap_or("consumer".into()));
                for protocol in option("protocols").unwrap_or("range:x".into()).split(',') {
                    let (name, metadata) = protocol.split_once(':').expect("name:metadata");
                    let mut offered = JoinGroupRequestProtocol::default();
                    offered.name = text(name);
                    // The metadata of consumers is a subscription to the topic of that name.
                    offered.metadata = subscription(&[metadata]);
                    request.protocols.push(offered);
                }
                let reference = self.harness.ask(ApiKey::JoinGroup, version, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::JoinGroup, version));
            }
            "sync" => {
                let version = version(5);
                let client = &self.clients[&who];
                let mut request = SyncGroupRequest::default();
                request.group_id = text(GROUP);
                request.member_id = text(&client.member_id);
                request.generation_id = number("gen", client.generation);
                request.group_instance_id = option("instance").map(|id| text(&id));
                if version >= 5 {
                    request.protocol_type = Some(text("consumer"));
                    request.protocol_name = Some(text(&option("protocol").unwrap_or("range".into())));
                }
                for assigned in option("assign").iter().flat_map(|list| list.split(',')) {
                    let (member, assignment) = assigned.split_once(':').expect("name:assignment");
                    let mut part = SyncGroupRequestAssignment::default();
                    part.member_id = text(&self.clients[member].member_id);
                    // `t0` is partition 0 of topic t in the format of consumers; anything else stands for itself.
                    part.assignment = match assignment.strip_prefix('t').map(str::parse::<i32>) {
                        Some(Ok(index)) => encode_assignment(1, &BTreeMap::from([("t".into(), vec![index])])),
                        _ => Bytes::copy_from_slice(assignment.as_bytes()),
                    };
                    request.assignments.push(part);
                }
                let reference = self.harness.ask(ApiKey::SyncGroup, version, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::SyncGroup, version));
            }
            "beat" => {
                let client = &self.clients[&who];
                let mut request = HeartbeatRequest::default();
                request.group_id = text(GROUP);
                request.member_id = text(&client.member_id);
                request.generation_id = number("gen", client.generation);
                request.group_instance_id = option("instance").map(|id| text(&id));
                let reference = self.harness.ask(ApiKey::Heartbeat, 4, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::Heartbeat, 4));
            }
            "leave" | "admin-leave" => {
                let version = version(5);
                let mut member = MemberIdentity::default();
                if command == "leave" {
                    member.member_id = text(&self.clients[&who].member_id);
                    member.group_instance_id = option("instance").map(|id| text(&id));
                } else {
                    member.group_instance_id = Some(text(&who));
                }
                let mut request = LeaveGroupRequest::default();
                request.group_id = text(GROUP);
                if version < 3 {
                    request.member_id = member.member_id;
                } else {
                    request.members.push(member);
                }
                let reference = self.harness.ask(ApiKey::LeaveGroup, version, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::LeaveGroup, version));
            }
            "commit" => {
                let version = version(9);
                let mut request = OffsetCommitRequest::default();
                request.group_id = text(GROUP);
                let client = self.clients.entry(who.clone()).or_default();
                let is_member = !client.member_id.is_empty();
                request.member_id = text(&client.member_id);
                request.generation_id_or_member_epoch = number("gen", if is_member { client.generation } else { -1 });
                if version < 5 {
                    request.retention_time_ms = i64::from(number("retention", -1));
                }
                for word in plain[1].split(',') {
                    let (topic, index, offset) = partition(word);
                    let mut part = OffsetCommitRequestPartition::default();
                    part.partition_index = index;
                    part.committed_offset = offset.parse().expect("an offset");
                    let metadata = "m".repeat(number("meta", 0) as usize);
                    part.committed_metadata = Some(text(&metadata));
                    let mut asked = OffsetCommitRequestTopic::default();
                    asked.name = text(topic);
                    asked.partitions = vec![part];
                    request.topics.push(asked);
                }
                let reference = self.harness.ask(ApiKey::OffsetCommit, version, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::OffsetCommit, version));
            }
            "fetch" => {
                let mut group = OffsetFetchRequestGroup::default();
                group.group_id = text(GROUP);
                group.topics = (!who.is_empty()).then(|| {
                    who.split(',')
                        .map(|word| {
                            let (topic, index, _) = partition(word);
                            let mut asked = OffsetFetchRequestTopics::default();
                            asked.name = text(topic);
                            asked.partition_indexes = vec![index];
                            asked
                        })
                        .collect()
                });
                let mut request = OffsetFetchRequest::default();
                request.groups = vec![group];
                request.require_stable = option("stable").is_some();
                let reference = self.harness.ask(ApiKey::OffsetFetch, 9, "", &request);
                self.waiting.insert(reference, ("fetch".into(), ApiKey::OffsetFetch, 9));
            }
            "describe" => {
                let mut request = DescribeGroupsRequest::default();
                request.groups = vec![text(GROUP)];
                let version = version(6);
                let reference = self.harness.ask(ApiKey::DescribeGroups, version, "", &request);
                self.waiting.insert(reference, ("".into(), ApiKey::DescribeGroups, version));
            }
            "list" => {
                let mut request = ListGroupsRequest::default();
                request.states_filter = option("state").iter().map(|state| text(state)).collect();
                request.types_filter = option("type").iter().map(|kind| text(kind)).collect();
                let reference = self.harness.ask(ApiKey::ListGroups, 5, "", &request);
                self.waiting.insert(reference, ("".into(), ApiKey::ListGroups, 5));
            }
            "delete" => {
                let mut request = DeleteGroupsRequest::default();
                request.groups_names = vec![text(GROUP)];
                let reference = self.harness.ask(ApiKey::DeleteGroups, 2, "", &request);
                self.waiting.insert(reference, ("".into(), ApiKey::DeleteGroups, 2));
            }
            "delete-offset" => {
                let (topic, index, _) = partition(&who);
                let mut part = OffsetDeleteRequestPartition::default();
                part.partition_index = index;
                let mut asked = OffsetDeleteRequestTopic::default();
                asked.name = text(topic);
                asked.partitions = vec![part];
                let mut request = OffsetDeleteRequest::default();
                request.group_id = text(GROUP);
                request.topics = vec![asked];
                let reference = self.harness.ask(ApiKey::OffsetDelete, 0, "", &request);
                self.waiting.insert(reference, ("".into(), ApiKey::OffsetDelete, 0));
            }
            "hello" => {
                let version = version(1);
                let client = self.clients.entry(who.clone()).or_default();
                let mut request = ConsumerGroupHeartbeatRequest::default();
                request.group_id = text(GROUP);
                if client.member_id.is_empty() && version >= 1 {
                    client.member_id = who.clone();
                }
                request.member_id = text(&option("id").unwrap_or(client.member_id.clone()));
                request.member_epoch = number("epoch", client.generation);
                request.instance_id = option("instance").map(|id| text(&id));
                request.server_assignor = option("assignor").map(|name| text(&name));
                request.subscribed_topic_regex = option("regex").map(|regex| text(&regex));
                let is_full = request.member_epoch == 0 || option("full").is_some();
                if is_full || option("timeout").is_some() {
                    request.rebalance_timeout_ms = number("timeout", 20_000);
                }
                let topics =
                    option("topics").or((is_full && request.subscribed_topic_regex.is_none()).then(|| "t".into()));
                request.subscribed_topic_names =
                    topics.map(|topics| topics.split(',').filter(|topic| !topic.is_empty()).map(text).collect());
                if is_full || option("own").is_some() {
                    let owned = option("own").unwrap_or_default();
                    let parts = owned.split(',').filter(|word| !word.is_empty()).map(|word| {
                        let (topic, index, _) = partition(word);
                        let mut part = TopicPartitions::default();
                        part.topic_id = Uuid::from_bytes(topic_id(topic).0);
                        part.partitions = vec![index];
                        part
                    });
                    request.topic_partitions = Some(parts.collect());
                }
                let reference = self.harness.ask(ApiKey::ConsumerGroupHeartbeat, version, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::ConsumerGroupHeartbeat, version));
            }
            "bye" => {
                let client = &self.clients[&who];
                let mut request = ConsumerGroupHeartbeatRequest::default();
                request.group_id = text(GROUP);
                request.member_id = text(&client.member_id);
                request.member_epoch = if option("static").is_some() { -2 } else { -1 };
                request.instance_id = option("instance").map(|id| text(&id));
                let reference = self.harness.ask(ApiKey::ConsumerGroupHeartbeat, 1, &who, &request);
                self.waiting.insert(reference, (who, ApiKey::ConsumerGroupHeartbeat, 1));
            }
            "who" => {
                let mut request = ConsumerGroupDescribeRequest::default();
                request.group_ids = vec![text(GROUP)];
                let reference = self.harness.ask(ApiKey::ConsumerGroupDescribe, 1, "", &request);
                self.waiting.insert(reference, ("".into(), ApiKey::ConsumerGroupDescribe, 1));
            }
            "topic" => {
                let (topic, partitions, _) = partition(&who);
                self.harness.create_topic(topic, partitions);
            }
            "delete-topic" => self.harness.delete_topic(&who),
            "tick" => {
                let duration = Duration::from_millis(who.parse().expect("milliseconds"));
                self.harness.tick(duration);
            }
            "hold" => self.harness.hold = true,
            "release" => {
                self.harness.hold = false;
                self.harness.release();
            }
            "fail" => self.harness.fail_one(who.parse().expect("an error code")),
            "restart" => {
                self.harness.restart();
                self.waiting.clear();
            }
            "resign" => self.harness.resign(),
            other => panic!("unknown command {other}"),
        }
        self.replies()
    }

    fn replies(&mut self) -> String {
        let mut lines = String::new();
        for reference in self.harness.replied() {
            let (who, key, version) = self.waiting.remove(&reference).expect("it was asked");
            let said = self.describe_reply(reference, &who, key, version);
            let _ = writeln!(lines, "    {}", said.trim());
        }
        let waiting: Vec<&str> = self.waiting.values().map(|(who, _, _)| &**who).collect();
        if !waiting.is_empty() {
            let _ = writeln!(lines, "    waiting: {}", waiting.join(" "));
        }
        lines
    }

    fn describe_reply(&mut self, reference: RequestRef, who: &str, key: ApiKey, version: i16) -> String {
        let harness = &mut self.harness;
        match key {
            ApiKey::JoinGroup => {
                let reply: JoinGroupResponse = harness.reply(reference, version).unwrap();
                let result = error_name(reply.error_code);
                let me = self.name(&reply.member_id);
                let client = self.clients.entry(who.to_owned()).or_default();
                if matches!(reply.error_code, 0 | 79) {
                    client.member_id = reply.member_id.to_string();
                }
                if reply.error_code != 0 {
                    return format!("{who} join: {result} {me}");
                }
                client.generation = reply.generation_id;
                client.leads = reply.leader == reply.member_id;
                let leader = self.name(&reply.leader);
                let protocol = reply.protocol_name.unwrap_or_default();
                let members = self.ids(reply.members.iter().map(|m| m.member_id.clone()));
                let skip = if reply.skip_assignment { " skip" } else { "" };
                format!(
                    "{who} join: {result} {me} generation {} {protocol} leader {leader} [{members}]{skip}",
                    reply.generation_id
                )
            }
            ApiKey::SyncGroup => {
                let reply: SyncGroupResponse = harness.reply(reference, version).unwrap();
                let assignment = match decode_assignment(&reply.assignment) {
                    // What the coordinator itself assigns is in the format of consumers.
                    Ok(partitions) if !partitions.is_empty() => {
                        let partitions = partitions.iter().map(|(topic, index)| format!("{topic}:{index}"));
                        partitions.collect::<Vec<_>>().join(" ")
                    }
                    Ok(_) if !reply.assignment.is_empty() => "nothing".to_owned(),
                    _ => String::from_utf8_lossy(&reply.assignment).into_owned(),
                };
                format!("{who} sync: {} {assignment}", error_name(reply.error_code))
            }
            ApiKey::Heartbeat => {
                let reply: HeartbeatResponse = harness.reply(reference, version).unwrap();
                format!("{who} beat: {}", error_name(reply.error_code))
            }
            ApiKey::LeaveGroup => {
                let reply: LeaveGroupResponse = harness.reply(reference, version).unwrap();
                let member = reply.members.first().map_or(0, |member| member.error_code);
                let code = if reply.error_code == 0 { member } else { reply.error_code };
                format!("{who} leave: {}", error_name(code))
            }
            ApiKey::OffsetCommit => {
                let reply: OffsetCommitResponse = harness.reply(reference, version).unwrap();
                let codes = reply.topics.iter().flat_map(|topic| &topic.partitions);
                let codes: Vec<String> = codes.map(|part| error_name(part.error_code)).collect();
                format!("{who} commit: {}", codes.join(" "))
            }
            ApiKey::OffsetFetch => {
                let reply: OffsetFetchResponse = harness.reply(reference, version).unwrap();
                let mut said = format!("fetch: {}", error_name(reply.groups[0].error_code));
                for topic in &reply.groups[0].topics {
                    for part in &topic.partitions {
                        let (index, offset) = (part.partition_index, part.committed_offset);
                        let _ = write!(said, " {}:{index}={offset}", topic.name);
                    }
                }
                said
            }
            ApiKey::DescribeGroups => {
                let reply: DescribeGroupsResponse = harness.reply(reference, version).unwrap();
                let group = &reply.groups[0];
                let members = self.ids(group.members.iter().map(|m| m.member_id.clone()));
                let kind = format!("{} {}", group.protocol_type, group.protocol_data);
                let result = error_name(group.error_code);
                format!("describe: {result} {} {} [{members}]", group.group_state, kind.trim())
            }
            ApiKey::ListGroups => {
                let reply: ListGroupsResponse = harness.reply(reference, version).unwrap();
                let mut said = format!("list: {}", error_name(reply.error_code));
                for group in &reply.groups {
                    let (id, kind) = (&group.group_id, &group.group_type);
                    let _ = write!(said, " {id}/{}/{kind}/{}", group.group_state, group.protocol_type);
                }
                said
            }
            ApiKey::ConsumerGroupHeartbeat => {
                let reply: ConsumerGroupHeartbeatResponse = harness.reply(reference, version).unwrap();
                let client = self.clients.entry(who.to_owned()).or_default();
                if reply.error_code != 0 {
                    return format!("{who}: {}", error_name(reply.error_code));
                }
                client.generation = reply.member_epoch.max(0);
                let mut said = format!("{who}: epoch {}", reply.member_epoch);
                if let Some(assignment) = &reply.assignment {
                    let topics = assignment.topic_partitions.iter().map(|topic| {
                        let name = String::from_utf8_lossy(topic.topic_id.as_bytes()).trim_end_matches('\0').to_owned();
                        format!("{name}:{}", join(&topic.partitions))
                    });
                    let _ = write!(said, " reads [{}]", topics.collect::<Vec<_>>().join(" "));
                }
                said
            }
            ApiKey::ConsumerGroupDescribe => {
                let reply: ConsumerGroupDescribeResponse = harness.reply(reference, version).unwrap();
                let group = &reply.groups[0];
                if group.error_code != 0 {
                    return format!("who: {}", error_name(group.error_code));
                }
                let (state, epochs) = (&group.group_state, (group.group_epoch, group.assignment_epoch));
                let mut said = format!("who: {state} epoch {} target {} {}", epochs.0, epochs.1, group.assignor_name);
                for member in &group.members {
                    let told = |assignment: &consumer_group_describe_response::Assignment| {
                        let topics = assignment.topic_partitions.iter();
                        let topics = topics.map(|topic| format!("{}:{}", topic.topic_name, join(&topic.partitions)));
                        topics.collect::<Vec<_>>().join(" ")
                    };
                    let kind = if member.member_type == 0 { " classic" } else { "" };
                    let name = self.name(&member.member_id);
                    let (has, target) = (told(&member.assignment), told(&member.target_assignment));
                    let _ = write!(said, "\n      {name}{kind} epoch {} [{has}] of [{target}]", member.member_epoch);
                }
                said
            }
            ApiKey::DeleteGroups => {
                let reply: DeleteGroupsResponse = harness.reply(reference, version).unwrap();
                format!("delete: {}", error_name(reply.results[0].error_code))
            }
            ApiKey::OffsetDelete => {
                let reply: OffsetDeleteResponse = harness.reply(reference, version).unwrap();
                let part = reply.topics.first().map(|topic| topic.partitions[0].error_code);
                let code = if reply.error_code != 0 { reply.error_code } else { part.unwrap_or(0) };
                format!("delete-offset: {}", error_name(code))
            }
            other => panic!("{other:?} is not asked"),
        }
    }
}

fn join(partitions: &[i32]) -> String {
    partitions.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn config(line: Option<&str>) -> GroupConfig {
    let mut config = GroupConfig { initial_rebalance_delay: Duration::ZERO, ..GroupConfig::default() };
    for word in line.into_iter().flat_map(str::split_whitespace) {
        let (key, value) = word.split_once('=').expect("key=value");
        let value: u64 = value.parse().expect("a number");
        match key {
            "delay" => config.initial_rebalance_delay = Duration::from_millis(value),
            "members" => config.members_max = value as usize,
            "consumers" => config.consumer_members_max = value as usize,
            "consumer-protocol" => config.serves_consumer_protocol = value == 1,
            "migration" => {
                use crate::group::MigrationPolicy::{Bidirectional, Disabled, Downgrade, Upgrade};
                config.migration = [Disabled, Upgrade, Downgrade, Bidirectional][value as usize];
            }
            "groups" => config.groups_max = value as usize,
            "write-bytes" => config.write_bytes_max = value as usize,
            "state-bytes" => config.state_bytes_max = value as usize,
            "retention" => config.offsets_retention_ms = value as i64,
            "check" => config.expiry_interval = Duration::from_millis(value),
            other => panic!("unknown setting {other}"),
        }
    }
    config
}

/// Runs the commands of a file and gives it back with what came of them.
fn transcript(file: &str) -> String {
    let mut output = String::new();
    let mut scenario = Scenario::new(config(None));
    for line in file.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let _ = writeln!(output, "{line}");
            match command.strip_prefix("config") {
                Some(settings) => scenario = Scenario::new(config(Some(settings))),
                None => output.push_str(&scenario.run(command)),
            }
        } else if line.starts_with('#') || line.is_empty() {
            // Each scenario starts with a heading and a new coordinator.
            if line.starts_with("## ") {
                scenario = Scenario::new(config(None));
            }
            let _ = writeln!(output, "{line}");
        }
    }
    output
}

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/testdata").join(name);
    let expected = std::fs::read_to_string(&path).expect("the scenario file");
    let output = transcript(&expected);
    if std::env::var_os("UPDATE_TESTDATA").is_some() {
        std::fs::write(&path, &output).expect("the scenario file can be written");
        return;
    }
    for (at, (expected, output)) in expected.lines().zip(output.lines()).enumerate() {
        assert_eq!(output, expected, "{name}:{}", at + 1);
    }
    assert_eq!(output.lines().count(), expected.lines().count(), "{name}");
}

#[test]
fn membership() {
    check("membership.txt");
}

#[test]
fn static_membership() {
    check("static.txt");
}

#[test]
fn restart() {
    check("restart.txt");
}

#[test]
fn offsets() {
    check("offsets.txt");
}

#[test]
fn consumer_protocol() {
    check("consumer.txt");
}

#[test]
fn migration() {
    check("migration.txt");
}

#[test]
fn bounds() {
    check("bounds.txt");
}
