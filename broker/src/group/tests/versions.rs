//! Every API in every version that is served: the request is understood, the reply says the same in each.

use bytes::Bytes;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::*;
use kafka_wire_core::{ApiVersion, KafkaEncode, StrBytes};

use super::harness::{Harness, decode_request};
use crate::group::route::{Route, merge, partition_for_group, route};
use crate::group::{GroupConfig, GroupRequest, Moment, RequestKind, error};
use crate::protocol::versions::{ApiKey, SERVED};

const COORDINATED: [ApiKey; 12] = [
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::DeleteGroups,
    ApiKey::OffsetDelete,
];

fn text(value: &str) -> StrBytes {
    StrBytes::from(value)
}

/// The body of a request of this API and version about group `g`.
fn request(key: ApiKey, version: i16, member_id: &str, generation: i32) -> Bytes {
    let encode = |message: &dyn Fn() -> Bytes| message();
    let at = ApiVersion::new(version);
    match key {
        ApiKey::JoinGroup => encode(&|| {
            let mut join = JoinGroupRequest::default();
            join.group_id = text("g");
            join.session_timeout_ms = 10_000;
            if version >= 1 {
                join.rebalance_timeout_ms = 20_000;
            }
            join.member_id = text(member_id);
            join.protocol_type = text("consumer");
            let mut protocol = JoinGroupRequestProtocol::default();
            protocol.name = text("range");
            join.protocols = vec![protocol];
            join.encode_to_bytes(at).unwrap()
        }),
        ApiKey::SyncGroup => encode(&|| {
            let mut sync = SyncGroupRequest::default();
            sync.group_id = text("g");
            sync.member_id = text(member_id);
            sync.generation_id = generation;
            if version >= 5 {
                sync.protocol_type = Some(text("consumer"));
                sync.protocol_name = Some(text("range"));
            }
            let mut assigned = SyncGroupRequestAssignment::default();
            assigned.member_id = text(member_id);
            assigned.assignment = Bytes::from_static(b"all");
            sync.assignments = vec![assigned];
            sync.encode_to_bytes(at).unwrap()
        }),
        ApiKey::Heartbeat => encode(&|| {
            let mut heartbeat = HeartbeatRequest::default();
            heartbeat.group_id = text("g");
            heartbeat.member_id = text(member_id);
            heartbeat.generation_id = generation;
            heartbeat.encode_to_bytes(at).unwrap()
        }),
        ApiKey::LeaveGroup => encode(&|| {
            let mut leave = LeaveGroupRequest::default();
            leave.group_id = text("g");
            if version < 3 {
                leave.member_id = text(member_id);
            } else {
                let mut member = MemberIdentity::default();
                member.member_id = text(member_id);
                leave.members = vec![member];
            }
            leave.encode_to_bytes(at).unwrap()
        }),
        ApiKey::OffsetCommit => encode(&|| {
            let mut part = OffsetCommitRequestPartition::default();
            part.partition_index = 3;
            part.committed_offset = 42;
            part.committed_metadata = None;
            let mut topic = OffsetCommitRequestTopic::default();
            topic.name = text("t");
            topic.partitions = vec![part];
            let mut commit = OffsetCommitRequest::default();
            commit.group_id = text("g");
            commit.member_id = text(member_id);
            commit.generation_id_or_member_epoch = generation;
            commit.topics = vec![topic];
            commit.encode_to_bytes(at).unwrap()
        }),
        ApiKey::OffsetFetch => encode(&|| {
            let mut fetch = OffsetFetchRequest::default();
            if version < 8 {
                let mut topic = OffsetFetchRequestTopic::default();
                topic.name = text("t");
                topic.partition_indexes = vec![3];
                fetch.group_id = text("g");
                fetch.topics = Some(vec![topic]);
            } else {
                let mut topic = OffsetFetchRequestTopics::default();
                topic.name = text("t");
                topic.partition_indexes = vec![3];
                let mut group = OffsetFetchRequestGroup::default();
                group.group_id = text("g");
                group.topics = Some(vec![topic]);
                fetch.groups = vec![group];
            }
            fetch.encode_to_bytes(at).unwrap()
        }),
        ApiKey::DescribeGroups => encode(&|| {
            let mut describe = DescribeGroupsRequest::default();
            describe.groups = vec![text("g")];
            describe.include_authorized_operations = version >= 3;
            describe.encode_to_bytes(at).unwrap()
        }),
        ApiKey::ListGroups => encode(&|| ListGroupsRequest::default().encode_to_bytes(at).unwrap()),
        ApiKey::DeleteGroups => encode(&|| {
            let mut delete = DeleteGroupsRequest::default();
            delete.groups_names = vec![text("g")];
            delete.encode_to_bytes(at).unwrap()
        }),
        ApiKey::ConsumerGroupHeartbeat => encode(&|| {
            let mut beat = ConsumerGroupHeartbeatRequest::default();
            beat.group_id = text("g");
            beat.member_id = text(if member_id.is_empty() && version >= 1 { "m" } else { member_id });
            beat.rebalance_timeout_ms = 20_000;
            beat.subscribed_topic_names = Some(vec![text("t")]);
            beat.topic_partitions = Some(Vec::new());
            beat.encode_to_bytes(at).unwrap()
        }),
        ApiKey::ConsumerGroupDescribe => encode(&|| {
            let mut describe = ConsumerGroupDescribeRequest::default();
            describe.group_ids = vec![text("g")];
            describe.include_authorized_operations = true;
            describe.encode_to_bytes(at).unwrap()
        }),
        ApiKey::OffsetDelete => encode(&|| {
            let mut delete = OffsetDeleteRequest::default();
            delete.group_id = text("g");
            delete.encode_to_bytes(at).unwrap()
        }),
        other => panic!("{other:?} is not asked"),
    }
}

struct Client {
    harness: Harness,
    member_id: String,
    generation: i32,
}

impl Client {
    fn new() -> Self {
        Client {
            harness: Harness::new(GroupConfig {
                initial_rebalance_delay: std::time::Duration::ZERO,
                ..GroupConfig::default()
            }),
            member_id: String::new(),
            generation: -1,
        }
    }

    fn ask<M: kafka_wire_core::KafkaDecode>(&mut self, key: ApiKey, version: i16) -> M {
        let body = request(key, version, &self.member_id, self.generation);
        let request = decode_request(key, version, body).unwrap();
        assert_eq!(request.api_key(), key);
        let reference = self.harness.ask_decoded("client", request);
        self.harness.tick(std::time::Duration::ZERO);
        self.harness.reply(reference, version).unwrap_or_else(|| panic!("{key:?} v{version} is not answered"))
    }

    fn join(&mut self, version: i16) {
        loop {
            let joined: JoinGroupResponse = self.ask(ApiKey::JoinGroup, version);
            self.member_id = joined.member_id.to_string();
            if joined.error_code == error::MEMBER_ID_REQUIRED {
                assert!(version >= 4);
                continue;
            }
            assert_eq!(joined.error_code, 0);
            assert_eq!(joined.members.len(), 1);
            assert_eq!(joined.leader, joined.member_id);
            assert_eq!(joined.protocol_name.as_deref(), Some("range"));
            let kind = (version >= 7).then_some("consumer");
            assert_eq!(joined.protocol_type.as_deref(), kind);
            self.generation = joined.generation_id;
            return;
        }
    }
}

#[test]
fn a_member_lives_in_every_version() {
    for step in 0..=9 {
        let at = |key: ApiKey| {
            let versions = key.declaration().versions();
            (versions.start() + step).min(*versions.end())
        };
        let mut client = Client::new();
        client.join(at(ApiKey::JoinGroup));
        let synced: SyncGroupResponse = client.ask(ApiKey::SyncGroup, at(ApiKey::SyncGroup));
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
        let beat: HeartbeatResponse = client.ask(ApiKey::Heartbeat, at(ApiKey::Heartbeat));
        assert_eq!(beat.error_code, 0);
        let committed: OffsetCommitResponse = client.ask(ApiKey::OffsetCommit, at(ApiKey::OffsetCommit));
        assert_eq!(committed.topics[0].partitions[0].error_code, 0);
        let version = at(ApiKey::OffsetFetch);
        let fetched: OffsetFetchResponse = client.ask(ApiKey::OffsetFetch, version);
        if version < 8 {
            let part = &fetched.topics[0].partitions[0];
            assert_eq!((part.partition_index, part.committed_offset), (3, 42));
            assert_eq!(part.metadata.as_deref(), Some(""));
        } else {
            let part = &fetched.groups[0].topics[0].partitions[0];
            assert_eq!((part.partition_index, part.committed_offset), (3, 42));
            assert_eq!(&*fetched.groups[0].group_id, "g");
        }
        let version = at(ApiKey::DescribeGroups);
        let described: DescribeGroupsResponse = client.ask(ApiKey::DescribeGroups, version);
        let group = &described.groups[0];
        assert_eq!((&*group.group_state, &*group.protocol_data), ("Stable", "range"));
        assert_eq!(&*group.members[0].client_id, "client");
        assert_eq!(&*group.members[0].client_host, "/127.0.0.1");
        assert_eq!(&group.members[0].member_assignment[..], b"all");
        let operations = if version >= 3 { 3400 } else { i32::MIN };
        assert_eq!(group.authorized_operations, operations);
        let version = at(ApiKey::ListGroups);
        let listed: ListGroupsResponse = client.ask(ApiKey::ListGroups, version);
        assert_eq!(&*listed.groups[0].group_id, "g");
        let state = if version >= 4 { "Stable" } else { "" };
        assert_eq!(&*listed.groups[0].group_state, state);
        let version = at(ApiKey::DeleteGroups);
        let deleted: DeleteGroupsResponse = client.ask(ApiKey::DeleteGroups, version);
        assert_eq!(deleted.results[0].error_code, error::NON_EMPTY_GROUP);
        let left: LeaveGroupResponse = client.ask(ApiKey::LeaveGroup, at(ApiKey::LeaveGroup));
        assert_eq!(left.error_code, 0);
        let deleted: DeleteGroupsResponse = client.ask(ApiKey::DeleteGroups, version);
        assert_eq!(deleted.results[0].error_code, 0);
        let gone: OffsetDeleteResponse = client.ask(ApiKey::OffsetDelete, 0);
        assert_eq!(gone.error_code, error::GROUP_ID_NOT_FOUND);
    }
}

#[test]
fn a_member_of_the_consumer_protocol_lives_in_every_version() {
    for version in ApiKey::ConsumerGroupHeartbeat.declaration().versions() {
        let mut harness = Harness::new(GroupConfig::default());
        harness.create_topic("t", 2);
        let join = decode_request(
            ApiKey::ConsumerGroupHeartbeat,
            version,
            request(ApiKey::ConsumerGroupHeartbeat, version, "", 0),
        )
        .unwrap();
        let reference = harness.ask_decoded("c", join);
        let joined: ConsumerGroupHeartbeatResponse = harness.reply(reference, version).unwrap();
        assert_eq!((joined.error_code, joined.member_epoch, joined.heartbeat_interval_ms), (0, 1, 5000));
        assert_eq!(joined.assignment.unwrap().topic_partitions[0].partitions, [0, 1]);
        let member_id = joined.member_id.unwrap();
        assert_eq!(member_id.len(), if version == 0 { 22 } else { 1 });

        let describe = decode_request(
            ApiKey::ConsumerGroupDescribe,
            version,
            request(ApiKey::ConsumerGroupDescribe, version, "", 0),
        )
        .unwrap();
        let reference = harness.ask_decoded("c", describe);
        let described: ConsumerGroupDescribeResponse = harness.reply(reference, version).unwrap();
        let group = &described.groups[0];
        assert_eq!((group.error_code, &*group.group_state, group.group_epoch), (0, "Stable", 1));
        assert_ne!(group.authorized_operations, i32::MIN);
        let member = &group.members[0];
        assert_eq!(member.member_id, member_id);
        assert_eq!(member.member_type, if version == 0 { -1 } else { 1 });
        assert_eq!((&*member.client_id, &*member.client_host), ("c", "/127.0.0.1"));
        assert_eq!(&*member.assignment.topic_partitions[0].topic_name, "t");
        assert_eq!(member.assignment, member.target_assignment);

        let mut leave = ConsumerGroupHeartbeatRequest::default();
        leave.group_id = text("g");
        leave.member_id = member_id;
        leave.member_epoch = -1;
        let reference = harness.ask(ApiKey::ConsumerGroupHeartbeat, version, "c", &leave);
        let left: ConsumerGroupHeartbeatResponse = harness.reply(reference, version).unwrap();
        assert_eq!((left.error_code, left.member_epoch), (0, -1));
        assert_eq!(harness.coordinator.members(), 0);
    }
}

#[test]
fn every_version_can_carry_an_error() {
    for key in COORDINATED {
        assert!(SERVED.contains(&key));
        for version in key.declaration().versions() {
            let body = request(key, version, "m", 1);
            let request = decode_request(key, version, body).unwrap();
            let reply = request.error_reply(error::NOT_COORDINATOR);
            let needle = error::NOT_COORDINATOR.to_be_bytes();
            let carried = reply.windows(2).any(|window| window == needle);
            assert!(carried || key == ApiKey::Heartbeat, "{key:?} v{version}");
        }
    }
}

#[test]
fn a_coordinator_that_loads_says_so_but_lets_members_live() {
    let mut coordinator = crate::group::Coordinator::new(GroupConfig::default());
    let harness = Harness::new(GroupConfig::default());
    let client = crate::group::ClientInfo { client_id: "c".into(), client_host: "/::1".into() };
    for key in COORDINATED {
        let version = *key.declaration().versions().end();
        let body = request(key, version, "m", 1);
        let request = decode_request(key, version, body).unwrap();
        let expected = match key {
            ApiKey::Heartbeat => request.error_reply(0),
            _ => request.error_reply(error::COORDINATOR_LOAD_IN_PROGRESS),
        };
        let mut effects = Vec::new();
        let reference = crate::group::RequestRef(1);
        coordinator.handle(
            Moment { now: harness.now(), cluster: &harness.cluster },
            request,
            reference,
            &client,
            1,
            &mut effects,
        );
        let body = expected;
        assert_eq!(effects, [crate::group::GroupEffect::Reply { reference, body }]);
    }
    assert_eq!(coordinator.next_deadline(), None);
}

#[test]
fn bytes_that_are_no_request_are_an_error() {
    for key in COORDINATED {
        for version in key.declaration().versions() {
            let body = request(key, version, "member", 1);
            for length in 0..body.len() {
                let cut = body.slice(..length);
                assert!(decode_request(key, version, cut).is_err());
            }
            // What follows is ignored, as Kafka does.
            let mut longer = body.to_vec();
            longer.push(0);
            assert!(decode_request(key, version, longer.into()).is_ok());
        }
    }
}

#[test]
fn text_that_older_versions_cannot_carry_is_refused() {
    let mut heartbeat = HeartbeatRequest::default();
    heartbeat.group_id = text(&"g".repeat(40_000));
    let body = heartbeat.encode_to_bytes(ApiVersion::new(4)).unwrap();
    assert!(decode_request(ApiKey::Heartbeat, 4, body).is_err());
}

#[test]
fn requests_about_several_groups_are_taken_apart_and_put_together() {
    let names = ["a", "b", "c", "a"];
    for version in ApiKey::DescribeGroups.declaration().versions() {
        let mut describe = DescribeGroupsRequest::default();
        describe.groups = names.iter().map(|name| text(name)).collect();
        let kind = RequestKind::Describe(describe);
        let whole = GroupRequest { version, kind };
        let Route::Parts(_, parts) = route(whole.clone(), 50) else {
            panic!("several groups go to several coordinators")
        };
        assert_eq!(parts.len(), 3);
        let replies = parts
            .iter()
            .map(|(partition, part)| {
                let RequestKind::Describe(describe) = &part.kind else { panic!("a part asks the same") };
                for group_id in &describe.groups {
                    assert_eq!(partition_for_group(group_id, 50), *partition);
                }
                part.error_reply(error::NOT_COORDINATOR)
            })
            .collect();
        let merged = merge(&whole, replies).unwrap();
        let merged: DescribeGroupsResponse = crate::group::request::decode(version, merged).unwrap();
        let mut found: Vec<&str> = merged.groups.iter().map(|group| &*group.group_id).collect();
        found.sort_unstable();
        assert_eq!(found, ["a", "a", "b", "c"]);
    }
    for version in 8..=9 {
        let groups: Vec<OffsetFetchRequestGroup> = names
            .iter()
            .map(|name| {
                let mut group = OffsetFetchRequestGroup::default();
                group.group_id = text(name);
                group
            })
            .collect();
        let kind = RequestKind::OffsetFetch { groups, require_stable: true };
        let whole = GroupRequest { version, kind };
        let Route::Parts(_, parts) = route(whole.clone(), 50) else {
            panic!("several groups go to several coordinators")
        };
        let stable = |part: &GroupRequest| matches!(part.kind, RequestKind::OffsetFetch { require_stable: true, .. });
        assert!(parts.iter().all(|(_, part)| stable(part)));
        let replies = parts.iter().map(|(_, part)| part.error_reply(15)).collect();
        let merged = merge(&whole, replies).unwrap();
        let merged: OffsetFetchResponse = crate::group::request::decode(version, merged).unwrap();
        assert_eq!(merged.groups.len(), 4);
    }
    for version in 0..=2 {
        let mut delete = DeleteGroupsRequest::default();
        delete.groups_names = names.iter().map(|name| text(name)).collect();
        let kind = RequestKind::Delete(delete);
        let whole = GroupRequest { version, kind };
        let Route::Parts(_, parts) = route(whole.clone(), 50) else {
            panic!("several groups go to several coordinators")
        };
        let replies = parts.iter().map(|(_, part)| part.error_reply(15)).collect();
        let merged = merge(&whole, replies).unwrap();
        let merged: DeleteGroupsResponse = crate::group::request::decode(version, merged).unwrap();
        assert_eq!(merged.results.len(), 4);
        // No groups: no parts, and an empty response.
        let merged = merge(&whole, Vec::new()).unwrap();
        let merged: DeleteGroupsResponse = crate::group::request::decode(version, merged).unwrap();
        assert_eq!(merged.results.len(), 0);
    }
    for version in ApiKey::ListGroups.declaration().versions() {
        let kind = RequestKind::List(ListGroupsRequest::default());
        let whole = GroupRequest { version, kind };
        assert_eq!(route(whole.clone(), 50), Route::All(whole.clone()));
        let refused = whole.error_reply(error::COORDINATOR_LOAD_IN_PROGRESS);
        let merged = merge(&whole, vec![refused, whole.error_reply(0)]).unwrap();
        let merged: ListGroupsResponse = crate::group::request::decode(version, merged).unwrap();
        assert_eq!(merged.error_code, error::COORDINATOR_LOAD_IN_PROGRESS);
    }
}

#[test]
fn partitions_that_do_not_exist_are_refused_one_by_one() {
    let mut client = Client::new();
    let body = request(ApiKey::OffsetCommit, 9, "", -1);
    let mut commit = decode_request(ApiKey::OffsetCommit, 9, body).unwrap();
    commit.refuse_unknown_partitions(|topic, partition| topic == "t" && partition < 3);
    let reference = client.harness.ask_decoded("client", commit);
    let reply: OffsetCommitResponse = client.harness.reply(reference, 9).unwrap();
    let part = &reply.topics[0].partitions[0];
    assert_eq!(part.error_code, error::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(client.harness.log, []);
    assert_eq!(client.harness.coordinator.groups(), 0);
}
