use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use millstream_replication::ErrorCode;
use millstream_replication::controller::TopicReference;

use super::*;

pub(super) fn commit_request(group: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    let mut committed = OffsetCommitRequestPartition::default();
    committed.partition_index = partition;
    committed.committed_offset = offset;
    let mut topic = OffsetCommitRequestTopic::default();
    topic.name = StrBytes::from("t");
    topic.partitions = vec![committed];
    let mut request = OffsetCommitRequest::default();
    request.group_id = StrBytes::from(group);
    request.topics = vec![topic];
    request
}

pub(super) fn join_request(group: &str) -> JoinGroupRequest {
    let mut protocol = JoinGroupRequestProtocol::default();
    protocol.name = StrBytes::from("range");
    let mut join = JoinGroupRequest::default();
    join.group_id = StrBytes::from(group);
    join.session_timeout_ms = 10_000;
    join.rebalance_timeout_ms = 60_000;
    join.protocol_type = StrBytes::from("consumer");
    join.protocols = vec![protocol];
    join
}

impl Broker {
    /// Asks until `__consumer_offsets` is there, as clients do.
    pub(super) fn find_coordinator(&mut self, client: ConnectionId, key_type: i8, keys: &[&str]) -> Vec<(i16, i32)> {
        let found = self.find_coordinator_once(client, key_type, keys);
        if found.iter().all(|(error, _)| *error != ErrorCode::CoordinatorNotAvailable.code()) {
            return found;
        }
        self.run();
        self.find_coordinator_once(client, key_type, keys)
    }

    pub(super) fn find_coordinator_once(
        &mut self,
        client: ConnectionId,
        key_type: i8,
        keys: &[&str],
    ) -> Vec<(i16, i32)> {
        let mut request = FindCoordinatorRequest::default();
        request.key_type = key_type;
        request.coordinator_keys = keys.iter().map(|key| StrBytes::from(*key)).collect();
        let response = self.call(client, 4, &request);
        response.coordinators.iter().map(|found| (found.error_code, found.node_id)).collect()
    }

    pub(super) fn commit(&mut self, client: ConnectionId, group: &str, partition: i32, offset: i64) -> i16 {
        let response = self.call(client, 8, &commit_request(group, partition, offset));
        response.topics[0].partitions[0].error_code
    }

    /// The committed offsets of a partition, for several groups at once.
    fn committed(&mut self, client: ConnectionId, groups: &[String], partition: i32) -> Vec<(i16, i64)> {
        let committed = self.committed_or(client, groups, partition);
        committed.into_iter().map(|offset| (0, offset.expect("the coordinator is here"))).collect()
    }

    /// The committed offsets of a partition, for several groups at once, or why their coordinator does not tell them.
    pub(super) fn committed_or(
        &mut self,
        client: ConnectionId,
        groups: &[String],
        partition: i32,
    ) -> Vec<Result<i64, i16>> {
        let mut request = OffsetFetchRequest::default();
        for group in groups {
            let mut topic = OffsetFetchRequestTopics::default();
            topic.name = StrBytes::from("t");
            topic.partition_indexes = vec![partition];
            let mut asked = OffsetFetchRequestGroup::default();
            asked.group_id = StrBytes::from(group.as_str());
            asked.topics = Some(vec![topic]);
            request.groups.push(asked);
        }
        let response = self.call(client, 8, &request);
        // The parts come from several coordinators: by group.
        let offset = |group: &String| {
            let found = response.groups.iter().find(|found| found.group_id.as_str() == group).expect("the group");
            match found.error_code {
                0 => Ok(found.topics[0].partitions[0].committed_offset),
                error => Err(error),
            }
        };
        groups.iter().map(offset).collect()
    }
}

#[test]
fn offsets_are_committed_durably_and_survive_a_loss_of_power() {
    let setup = Setup { shards: 3, ..Setup::default() };
    let mut broker = Broker::new(setup.clone());
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    assert_eq!(broker.find_coordinator(client, 0, &["group-0", "group-1"]), [(0, NODE_ID), (0, NODE_ID)]);
    assert_eq!(broker.image().topic("__consumer_offsets").unwrap().partitions.len(), 50);

    let groups: Vec<String> = (0..12).map(|index| format!("group-{index}")).collect();
    for (offset, group) in (100..).zip(&groups) {
        assert_eq!(broker.commit(client, group, 1, offset), 0);
    }
    assert_eq!(broker.commit(client, "group-0", 9, 1), ErrorCode::UnknownTopicOrPartition.code());
    broker.hold_disk();
    broker.send(client, 8, &commit_request("group-0", 1, 500));
    broker.run();
    assert!(broker.receive_frame(client).is_none(), "a commit is answered when it is durable");
    broker.release_disk();
    assert_eq!(broker.receive::<OffsetCommitRequest>(client, 8).unwrap().topics[0].partitions[0].error_code, 0);
    let expected: Vec<(i16, i64)> = (0..12).map(|index| (0, if index == 0 { 500 } else { 100 + index })).collect();
    assert_eq!(broker.committed(client, &groups, 1), expected);
    assert_eq!(broker.committed(client, &groups[..1], 0), [(0, -1)], "nothing was committed");

    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::start(Setup { shards: 2, ..setup }, disk, now);
    // It loads without being asked.
    broker.run_until_nothing_is_due();
    let client = broker.connect(1);
    assert_eq!(broker.committed(client, &groups, 1), expected);
    let listed = broker.call(client, 4, &ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (0, 12));
    assert_eq!(broker.sample("millstream_groups"), 12);
    assert_eq!(broker.sample("millstream_group_records_unreadable_total"), 0);

    broker.decide(ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".to_string())] });
    broker.run();
    assert_eq!(broker.committed(client, &groups[..1], 1), [(0, -1)], "a deleted topic has no offsets");
}

#[test]
fn what_was_committed_for_a_topic_that_went_while_nobody_coordinated_is_forgotten() {
    let setup = Setup::default();
    let mut broker = Broker::new(setup.clone());
    broker.create_topic("t", 1, &[]);
    broker.create_topic("kept", 1, &[]);
    let client = broker.connect(0);
    broker.find_coordinator(client, 0, &["group"]);
    assert_eq!(broker.commit(client, "group", 0, 7), 0);
    let mut request = commit_request("group", 0, 9);
    request.topics[0].name = StrBytes::from("kept");
    assert_eq!(broker.call(client, 8, &request).topics[0].partitions[0].error_code, 0);

    // The broker is away: nobody leads the partition of `__consumer_offsets` when the topic is deleted.
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::recover(setup.clone(), disk, now);
    broker.decide(ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".to_string())] });
    broker.run();
    broker.register();
    broker.run_until_nothing_is_due();
    broker.create_topic("t", 1, &[]);
    let all = |broker: &mut Broker| {
        let client = broker.connect(0);
        let mut asked = OffsetFetchRequestGroup::default();
        asked.group_id = StrBytes::from("group");
        asked.topics = None;
        let mut request = OffsetFetchRequest::default();
        request.groups = vec![asked];
        let response = broker.call(client, 8, &request);
        let topics = response.groups[0].topics.iter();
        topics.map(|topic| (topic.name.to_string(), topic.partitions[0].committed_offset)).collect::<Vec<_>>()
    };
    assert_eq!(all(&mut broker), [("kept".to_string(), 9)]);

    // And for good.
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::start(setup, disk, now);
    broker.run_until_nothing_is_due();
    assert_eq!(all(&mut broker), [("kept".to_string(), 9)]);
}

#[test]
fn looking_for_a_coordinator_waits_for_no_topic() {
    let mut broker = Broker::new(Setup::default());
    let client = broker.connect(0);
    let not_available = (ErrorCode::CoordinatorNotAvailable.code(), -1);
    assert_eq!(broker.find_coordinator_once(client, 0, &["a", "b"]), [not_available; 2]);
    broker.run();
    assert_eq!(broker.find_coordinator_once(client, 0, &["a", "b"]), [(0, NODE_ID); 2]);
}

/// A broker with one partition of `__consumer_offsets`, whose log 700 commits of one group have made long.
fn with_a_long_log() -> (Setup, Broker) {
    let file = Properties::from([("offsets.topic.num.partitions".to_string(), "1".to_string())]);
    let setup = Setup { file, ..Setup::default() };
    let mut broker = Broker::new(setup.clone());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.find_coordinator(client, 0, &["group"]);
    let mut request = commit_request("group", 0, 0);
    request.topics[0].partitions[0].committed_metadata = Some(StrBytes::from("m".repeat(4000)));
    for offset in 0..700 {
        request.topics[0].partitions[0].committed_offset = offset;
        assert_eq!(broker.call(client, 8, &request).topics[0].partitions[0].error_code, 0);
    }
    (setup, broker)
}

#[test]
fn a_long_log_is_loaded_piece_by_piece_from_its_files() {
    let (setup, broker) = with_a_long_log();
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::start(setup, disk, now);
    let client = broker.connect(0);
    assert_eq!(broker.committed(client, &["group".to_string()], 0), [(0, 699)]);
}

/// A broker that has started again, and whose coordinator loads the long log; and the end of a read of a file for it,
/// which comes late.
fn loading_a_long_log() -> (Broker, Event) {
    let (setup, broker) = with_a_long_log();
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::recover(setup, disk, now);
    broker.hold_disk();
    broker.register();
    let mut late = None;
    while late.is_none() {
        let held = broker.held_disk.take().expect("it was held");
        assert!(!held.is_empty(), "the log is read from its files");
        for (shard, token, op) in held {
            let result = broker.disk.execute(op);
            let event = Event::Disk { token, result };
            if matches!(token, DiskToken::Groups(_)) {
                late = Some(event);
            } else {
                broker.events[shard].push_back(event);
            }
        }
        broker.hold_disk();
        broker.run();
    }
    broker.release_disk();
    (broker, late.expect("a read"))
}

#[test]
fn what_was_read_for_a_coordinator_that_has_resigned_is_dropped() {
    let (mut broker, late) = loading_a_long_log();
    // Its topic is deleted and made again, in the same place, and the new coordinator has begun when the read is done.
    let topic = TopicReference::Name("__consumer_offsets".to_string());
    broker.decide(ControllerRequest::DeleteTopics { topics: vec![topic] });
    broker.run();
    let configs = vec![("cleanup.policy".to_string(), Some("compact".to_string()))];
    let topic = NewTopic {
        name: "__consumer_offsets".to_string(),
        partitions: 1,
        replication_factor: 1,
        assignments: Vec::new(),
        configs,
    };
    broker.decide(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false });
    broker.events[0].push_back(late);
    broker.run();
    let client = broker.connect(0);
    assert_eq!(broker.committed(client, &["group".to_string()], 0), [(0, -1)], "nothing of the old log is loaded");
    assert_eq!(broker.commit(client, "group", 0, 7), 0);
    assert_eq!(broker.committed(client, &["group".to_string()], 0), [(0, 7)]);
    assert_eq!(broker.failure, None);
}

#[test]
fn what_was_read_for_an_earlier_leadership_is_dropped() {
    let (mut broker, late) = loading_a_long_log();
    let client = broker.connect(0);
    broker.fence(NODE_ID);
    let group = ["group".to_string()];
    assert_eq!(broker.committed_or(client, &group, 0), [Err(ErrorCode::NotCoordinator.code())]);
    // The new loading waits for reads of its own when that of the old one ends.
    broker.hold_disk();
    broker.unfence(NODE_ID);
    assert!(broker.held_disk.as_ref().is_some_and(|held| !held.is_empty()));
    broker.events[0].push_back(late);
    broker.run();
    assert_eq!(broker.committed_or(client, &group, 0), [Err(ErrorCode::CoordinatorLoadInProgress.code())]);
    broker.release_disk();
    broker.run_until_nothing_is_due();
    assert_eq!(broker.committed_or(client, &group, 0), [Ok(699)]);
    assert_eq!(broker.sample("millstream_group_records_unreadable_total"), 0);
    assert_eq!(broker.failure, None);
}

#[test]
fn a_damaged_log_is_not_served_as_if_nothing_had_been_committed() {
    let (setup, broker) = with_a_long_log();
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    // Recovery brings everything into the segments.
    let broker = Broker::start(setup.clone(), disk, now);
    let Broker { mut disk, now, .. } = broker;
    let segment = disk
        .listing()
        .map(|(path, _)| path.to_string())
        .find(|path| path.contains("__consumer_offsets") && path.ends_with(".log"))
        .expect("the segment is there");
    // One bit in the middle of the text of some commit.
    const BLOCK: usize = millstream_storage::BLOCK_BYTES;
    let position = 100 * BLOCK as u64;
    let mut block = disk.peek(&segment, position, BLOCK).expect("the block is there").to_vec();
    block[1000] ^= 1;
    let data = vec![Bytes::from(block)];
    let path = segment.as_str().into();
    disk.execute(millstream_storage::DiskOp::Write { path, position, data, durable: true }).expect("it is written");

    let mut broker = Broker::start(setup, disk, now);
    let client = broker.connect(0);
    let mut fetch = OffsetFetchRequest::default();
    let mut group = OffsetFetchRequestGroup::default();
    group.group_id = StrBytes::from("group");
    group.topics = None;
    fetch.groups = vec![group];
    for _ in 0..3 {
        broker.advance(Duration::from_secs(1));
        let fetched = broker.call(client, 8, &fetch);
        assert_eq!(fetched.groups[0].error_code, ErrorCode::CoordinatorLoadInProgress.code());
    }
    assert!(broker.sample("millstream_group_records_unreadable_total") > 0);
}

#[test]
fn before_anyone_looks_for_a_coordinator_there_are_no_groups() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    let listed = broker.call(client, 4, &ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (0, 0));
    assert_eq!(broker.commit(client, "group", 0, 1), ErrorCode::CoordinatorNotAvailable.code());
    let transactional = broker.find_coordinator(client, 1, &["tx"]);
    assert_eq!(transactional, [(ErrorCode::TransactionalIdAuthorizationFailed.code(), -1)]);
}

#[test]
fn a_member_joins_is_assigned_and_goes_when_it_is_silent() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    let client = broker.connect(0);
    broker.find_coordinator(client, 0, &["group"]);
    let mut join = join_request("group");
    let response = broker.call(client, 6, &join);
    assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
    join.member_id = response.member_id;
    broker.send(client, 6, &join);
    broker.run();
    assert!(broker.receive_frame(client).is_none(), "the first rebalance waits for more members");
    broker.advance(Duration::from_secs(3));
    let joined = broker.receive::<JoinGroupRequest>(client, 6).unwrap();
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.leader.as_str(), join.member_id.as_str());

    let mut assignment = SyncGroupRequestAssignment::default();
    assignment.member_id = join.member_id.clone();
    assignment.assignment = Bytes::from_static(b"all of it");
    let mut sync = SyncGroupRequest::default();
    sync.group_id = StrBytes::from("group");
    sync.member_id = join.member_id.clone();
    sync.generation_id = 1;
    sync.assignments = vec![assignment];
    let synced = broker.call(client, 4, &sync);
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all of it"[..]));

    let mut heartbeat = HeartbeatRequest::default();
    heartbeat.group_id = StrBytes::from("group");
    heartbeat.member_id = join.member_id.clone();
    heartbeat.generation_id = 1;
    broker.advance(Duration::from_secs(9));
    assert_eq!(broker.call(client, 4, &heartbeat).error_code, 0);
    assert_eq!(broker.sample("millstream_group_members"), 1);
    broker.advance(Duration::from_secs(11));
    assert_eq!(broker.call(client, 4, &heartbeat).error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(broker.sample("millstream_group_members"), 0);
}

#[test]
fn who_waits_in_a_group_is_answered_at_the_shutdown() {
    let mut broker = Broker::new(Setup::default());
    let client = broker.connect(0);
    broker.find_coordinator(client, 0, &["group"]);
    broker.send(client, 3, &join_request("group"));
    broker.run();
    assert!(broker.receive_frame(client).is_none());
    let mut effects = Vec::new();
    let now = broker.now;
    broker.shards[0].begin_shutdown(now, &mut effects);
    for effect in effects {
        broker.execute(0, effect);
    }
    broker.run();
    let joined = broker.receive::<JoinGroupRequest>(client, 3).expect("an answer");
    assert_eq!(joined.error_code, ErrorCode::NotCoordinator.code());
    assert!(broker.shards[0].is_shut_down());
}
