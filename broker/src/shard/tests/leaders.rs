//! Partitions that other brokers lead, or nobody, or that this one leads anew.

use kafka_wire::elect_leaders_request::TopicPartitions;
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::{
    DeleteRecordsRequest, DescribeClusterRequest, ElectLeadersRequest, FetchRequest, JoinGroupRequest,
    ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, UnregisterBrokerRequest,
};
use kafka_wire_core::Uuid;
use millstream_replication::controller::{AlterPartition, Assignment, UNKNOWN_BROKER_EPOCH};
use millstream_replication::{ErrorCode, MetadataRecord, NO_LEADER, Partition};
use millstream_storage::PartitionKey;

use super::fetch::fetch_request;
use super::groups::{commit_request, join_request};
use super::offsets::delete_records_request;
use super::produce::produce_request;
use super::*;

const OTHER: i32 = 2;
/// The first versions that say who leads instead (KIP-951).
const PRODUCE_VERSION: i16 = 10;
const FETCH_VERSION: i16 = 16;

/// Error, leader and offline replicas of a partition.
type Described = (i16, i32, Vec<i32>);

impl Broker {
    /// A topic whose partitions have one replica each, on these brokers.
    fn create_on(&mut self, name: &str, brokers: &[i32]) -> TopicId {
        let assignment = |(partition, broker): (i32, &i32)| Assignment { partition, brokers: vec![*broker] };
        let topic = NewTopic {
            name: name.to_string(),
            partitions: -1,
            replication_factor: -1,
            assignments: (0..).zip(brokers).map(assignment).collect(),
            configs: Vec::new(),
        };
        self.ask(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false });
        self.image().topic(name).expect("it was created").id
    }

    /// Error, leader and epoch, and the leader's host, of what Produce and Fetch say of a partition.
    fn told(&mut self, client: ConnectionId, topic: (&str, TopicId), partition: i32) -> [(i16, i32, i32, String); 2] {
        let request = produce_request(topic.0, -1, &[(partition, batch(&["a"]))]);
        let produced = self.call(client, PRODUCE_VERSION, &request);
        let result = &produced.responses[0].partition_responses[0];
        let leader = &result.current_leader;
        let hosts: Vec<&str> = produced.node_endpoints.iter().map(|node| node.host.as_str()).collect();
        let produced = (result.error_code, leader.leader_id, leader.leader_epoch, hosts.join(","));

        let mut request = fetch_request("", &[(partition, 0)]);
        request.topics[0].topic_id = Uuid::from_bytes(topic.1.0);
        let fetched = self.call(client, FETCH_VERSION, &request);
        let result = &fetched.responses[0].partitions[0];
        let leader = &result.current_leader;
        let hosts: Vec<&str> = fetched.node_endpoints.iter().map(|node| node.host.as_str()).collect();
        [produced, (result.error_code, leader.leader_id, leader.leader_epoch, hosts.join(","))]
    }

    /// What ListOffsets and OffsetForLeaderEpoch say of a partition.
    fn offset_errors(&mut self, client: ConnectionId, topic: &str, partition: i32) -> [i16; 2] {
        let mut asked = ListOffsetsPartition::default();
        asked.partition_index = partition;
        asked.timestamp = -1;
        asked.current_leader_epoch = -1;
        let mut of_topic = ListOffsetsTopic::default();
        of_topic.name = StrBytes::from(topic);
        of_topic.partitions = vec![asked];
        let mut request = ListOffsetsRequest::default();
        request.topics = vec![of_topic];
        let listed = self.call(client, 7, &request).topics[0].partitions[0].error_code;

        let mut asked = OffsetForLeaderPartition::default();
        asked.partition = partition;
        asked.current_leader_epoch = -1;
        let mut of_topic = OffsetForLeaderTopic::default();
        of_topic.topic = StrBytes::from(topic);
        of_topic.partitions = vec![asked];
        let mut request = OffsetForLeaderEpochRequest::default();
        request.topics = vec![of_topic];
        [listed, self.call(client, 4, &request).topics[0].partitions[0].error_code]
    }

    /// The partitions of a topic; and the brokers and the controller there are.
    fn described(&mut self, client: ConnectionId, topic: &str) -> (Vec<Described>, Vec<i32>, i32) {
        let mut named = MetadataRequestTopic::default();
        named.name = Some(StrBytes::from(topic));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![named]);
        let response = self.call(client, 12, &request);
        let partitions = response.topics[0].partitions.iter();
        (
            partitions.map(|p| (p.error_code, p.leader_id, p.offline_replicas.clone())).collect(),
            response.brokers.iter().map(|broker| broker.node_id).collect(),
            response.controller_id,
        )
    }

    /// The brokers that DescribeCluster lists to who asks for fenced ones, and whether they are.
    fn all_brokers(&mut self, client: ConnectionId) -> Vec<(i32, bool)> {
        let mut request = DescribeClusterRequest::default();
        request.include_fenced_brokers = true;
        let response = self.call(client, 2, &request);
        response.brokers.iter().map(|broker| (broker.broker_id, broker.is_fenced)).collect()
    }
}

/// Two brokers, of which this one is the first. Topic `t` has a partition on each.
fn two_brokers(setup: Setup) -> (Broker, TopicId) {
    let mut broker = Broker::new(setup);
    broker.register_node(OTHER, [0xee; 16], "other");
    let id = broker.create_on("t", &[NODE_ID, OTHER]);
    (broker, id)
}

const NOT_LEADER: i16 = ErrorCode::NotLeaderOrFollower as i16;

#[test]
fn what_another_broker_leads_is_asked_for_there() {
    let (mut broker, id) = two_brokers(Setup { shards: 3, ..Setup::default() });
    let client = broker.connect(0);
    let topic = ("t", id);
    assert_eq!(broker.told(client, topic, 0).map(|(error, ..)| error), [0, 0]);
    let elsewhere = (NOT_LEADER, OTHER, 0, "other".to_string());
    assert_eq!(broker.told(client, topic, 1), [elsewhere.clone(), elsewhere]);
    assert_eq!(broker.offset_errors(client, "t", 0), [0, 0]);
    assert_eq!(broker.offset_errors(client, "t", 1), [NOT_LEADER; 2]);
    let deleted = broker.delete_records(client, "t", &[(0, 0), (1, 0)]);
    assert_eq!(deleted.iter().map(|partition| partition.error_code).collect::<Vec<_>>(), [0, NOT_LEADER]);
    let online = vec![(0, NODE_ID, vec![]), (0, OTHER, vec![])];
    assert_eq!(broker.described(client, "t"), (online, vec![NODE_ID, OTHER], NODE_ID));

    // Nothing of it is here.
    assert_eq!(broker.sample("millstream_partitions"), 1);
    assert!(!broker.disk.listing().any(|(path, _)| path.contains("topics/t-1") || path.contains("/t-1")));
    let (sizes, ..) = broker.log_dirs(client, 4, None);
    assert_eq!(sizes.iter().map(|(_, partition, _)| *partition).collect::<Vec<_>>(), [0]);
    let (sizes, ..) = broker.log_dirs(client, 4, Some(&[("t", &[0, 1])]));
    assert_eq!(sizes.len(), 1);
}

#[test]
fn what_nobody_leads_is_offline_until_somebody_does() {
    let (mut broker, id) = two_brokers(Setup::default());
    let client = broker.connect(0);
    let topic = ("t", id);
    broker.fence(OTHER);
    let nowhere = (NOT_LEADER, -1, -1, String::new());
    assert_eq!(broker.told(client, topic, 1), [nowhere.clone(), nowhere]);
    assert_eq!(broker.offset_errors(client, "t", 1), [NOT_LEADER; 2]);
    let offline = (ErrorCode::LeaderNotAvailable.code(), -1, vec![OTHER]);
    let online = (0, NODE_ID, vec![]);
    assert_eq!(broker.described(client, "t"), (vec![online, offline], vec![NODE_ID], NODE_ID));
    assert_eq!(broker.all_brokers(client), [(NODE_ID, false), (OTHER, true)]);

    broker.unfence(OTHER);
    let elsewhere = (NOT_LEADER, OTHER, 2, "other".to_string());
    assert_eq!(broker.told(client, topic, 1), [elsewhere.clone(), elsewhere]);

    // Of the brokers, the lowest that is not fenced is the controller to clients.
    broker.fence(NODE_ID);
    let offline = (ErrorCode::LeaderNotAvailable.code(), -1, vec![NODE_ID]);
    assert_eq!(broker.described(client, "t"), (vec![offline, (0, OTHER, vec![])], vec![OTHER], OTHER));
}

#[test]
fn a_broker_is_unregistered_by_a_client() {
    let (mut broker, id) = two_brokers(Setup::default());
    let client = broker.connect(0);
    broker.fence(OTHER);
    let mut request = UnregisterBrokerRequest::default();
    request.broker_id = OTHER;
    let gone = broker.call(client, 0, &request);
    assert_eq!((gone.error_code, gone.error_message), (0, None));
    assert_eq!(broker.all_brokers(client), [(NODE_ID, false)]);
    let unknown = broker.call(client, 0, &request);
    assert_eq!(unknown.error_code, ErrorCode::BrokerIdNotRegistered.code());
    assert!(unknown.error_message.is_some());
    assert_eq!(broker.told(client, ("t", id), 1)[0].1, NO_LEADER);
}

const ELECT_LEADERS_VERSION: i16 = 2;

/// Of each partition that is answered: the topic, the index, the error, and whether a reason is given.
fn elected(
    broker: &mut Broker,
    client: ConnectionId,
    election_type: i8,
    asked: Option<&[(&str, &[i32])]>,
) -> Vec<(String, i32, ErrorCode, bool)> {
    let mut request = ElectLeadersRequest::default();
    request.election_type = election_type;
    request.timeout_ms = 1_000;
    request.topic_partitions = asked.map(|topics| {
        let topic = |(name, indexes): &(&str, &[i32])| {
            let mut topic = TopicPartitions::default();
            topic.topic = (*name).into();
            topic.partitions = indexes.to_vec();
            topic
        };
        topics.iter().map(topic).collect()
    });
    let response = broker.call(client, ELECT_LEADERS_VERSION, &request);
    assert_eq!(response.error_code, 0);
    let of_topic = response.replica_election_results.iter().flat_map(|topic| {
        topic.partition_result.iter().map(move |result| {
            let error = ErrorCode::of_code(result.error_code).expect("Kafka's");
            (topic.topic.to_string(), result.partition_id, error, result.error_message.is_some())
        })
    });
    of_topic.collect()
}

#[test]
fn the_preferred_replica_is_elected_for_a_client_who_is_told_why_if_not() {
    const PREFERRED: i8 = 0;
    const UNCLEAN: i8 = 1;
    let (mut broker, _) = two_brokers(Setup::default());
    let both = vec![Assignment { partition: 0, brokers: vec![OTHER, NODE_ID] }];
    let (name, configs) = ("r".to_string(), Vec::new());
    let topic = NewTopic { name, partitions: -1, replication_factor: -1, assignments: both, configs };
    broker.ask(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false });
    let id = broker.image().topic("r").expect("it was created").id;
    let client = broker.connect(0);
    assert_eq!(elected(&mut broker, client, PREFERRED, None), [], "all are led as they should be");

    broker.fence(OTHER);
    let (away, unclean) = (ErrorCode::PreferredLeaderNotAvailable, ErrorCode::EligibleLeadersNotAvailable);
    let (needless, unknown) = (ErrorCode::ElectionNotNeeded, ErrorCode::UnknownTopicOrPartition);
    let all = elected(&mut broker, client, PREFERRED, None);
    assert_eq!(all, [("r".to_string(), 0, away, true), ("t".to_string(), 1, away, true)]);
    let some = elected(&mut broker, client, UNCLEAN, Some(&[("t", &[1, 0, 7]), ("u", &[0])]));
    let expected = [("t", 1, unclean), ("t", 0, needless), ("t", 7, unknown), ("u", 0, unknown)];
    assert_eq!(some, expected.map(|(name, index, error)| (name.to_string(), index, error, true)));

    broker.unfence(OTHER);
    let isr = vec![(NODE_ID, UNKNOWN_BROKER_EPOCH), (OTHER, UNKNOWN_BROKER_EPOCH)];
    let alter = AlterPartition { leader_epoch: 1, partition_epoch: 1, isr };
    let (node_id, epoch) = (NODE_ID, broker.epoch(NODE_ID));
    broker.ask(ControllerRequest::AlterPartition { node_id, epoch, partitions: vec![((id, 0), alter)] });
    assert_eq!(broker.described(client, "r").0, [(0, NODE_ID, vec![])]);
    let some = elected(&mut broker, client, PREFERRED, Some(&[("r", &[0])]));
    assert_eq!(some, [("r".to_string(), 0, ErrorCode::None, false)]);
    assert_eq!(broker.described(client, "r").0, [(0, OTHER, vec![])]);
    let (error, leader, leader_epoch, _) = broker.told(client, ("r", id), 0)[0].clone();
    assert_eq!((error, leader, leader_epoch), (NOT_LEADER, OTHER, 2), "the shard knows when the client is told");
}

#[test]
fn who_waits_for_a_partition_that_is_lost_is_told_so_in_the_same_turn() {
    let (mut broker, id) = two_brokers(Setup::default());
    let clients: Vec<ConnectionId> = (0..4).map(|_| broker.connect(0)).collect();
    broker.produce(clients[0], "t", 0, batch(&["a"]));
    broker.hold_disk();
    broker.send(clients[0], PRODUCE_VERSION, &produce_request("t", -1, &[(0, batch(&["b"]))]));
    broker.send(clients[1], PRODUCE_VERSION, &produce_request("t", 1, &[(0, batch(&["c"]))]));
    let mut request = fetch_request("", &[(0, 1)]);
    request.topics[0].topic_id = Uuid::from_bytes(id.0);
    request.max_wait_ms = 60_000;
    broker.send(clients[2], FETCH_VERSION, &request);
    broker.run();
    broker.send(clients[3], 2, &delete_records_request("t", &[(0, 1)]));
    broker.run();
    for client in &clients {
        assert!(broker.receive_frame(*client).is_none(), "it waits for the disk");
    }

    broker.decide(ControllerRequest::FenceBroker { node_id: NODE_ID, epoch: broker.epoch(NODE_ID) });
    let mut effects = Vec::new();
    for event in std::mem::take(&mut broker.events[0]) {
        broker.shards[0].handle(broker.now, event, &mut effects);
    }
    broker.shards[0].end_turn(broker.now, &mut effects);
    assert!(broker.held_disk.is_some(), "the disk has done nothing meanwhile");
    effects.into_iter().for_each(|effect| broker.execute(0, effect));
    for client in &clients[..2] {
        let produced = broker.receive::<ProduceRequest>(*client, PRODUCE_VERSION).expect("an answer");
        let result = &produced.responses[0].partition_responses[0];
        assert_eq!((result.error_code, result.current_leader.leader_id), (NOT_LEADER, -1));
    }
    let fetched = broker.receive::<FetchRequest>(clients[2], FETCH_VERSION).expect("an answer");
    assert_eq!(fetched.responses[0].partitions[0].error_code, NOT_LEADER);
    let deleted = broker.receive::<DeleteRecordsRequest>(clients[3], 2).expect("an answer");
    assert_eq!(deleted.topics[0].partitions[0].error_code, NOT_LEADER);
    assert_eq!(broker.sample("millstream_appends_waiting"), 0);

    // What was appended becomes durable all the same, and is there when the partition is led again.
    broker.release_disk();
    broker.unfence(NODE_ID);
    assert_eq!(broker.produce(clients[0], "t", 0, batch(&["d"])).base_offset, 3);
    let mut request = fetch_request("", &[(0, 3)]);
    request.topics[0].topic_id = Uuid::from_bytes(id.0);
    let fetched = broker.call(clients[2], FETCH_VERSION, &request);
    assert_eq!(fetched.responses[0].partitions[0].high_watermark, 4);
    assert_eq!(broker.failure, None);
}

#[test]
fn a_parked_fetch_hears_from_another_shard_that_its_partition_is_lost() {
    let (mut broker, id) = two_brokers(Setup { shards: 2, ..Setup::default() });
    // The session is at another shard than the partition.
    let owner = PartitionKey { topic_id: id, partition: 0 }.shard(2);
    let client = broker.connect(1 - owner);
    let mut request = fetch_request("", &[(0, 0)]);
    request.topics[0].topic_id = Uuid::from_bytes(id.0);
    request.max_wait_ms = 60_000;
    broker.send(client, FETCH_VERSION, &request);
    broker.run();
    assert_eq!(broker.sample("millstream_fetches_parked"), 1);
    broker.fence(NODE_ID);
    let fetched = broker.receive::<FetchRequest>(client, FETCH_VERSION).expect("an answer");
    assert_eq!(fetched.responses[0].partitions[0].error_code, NOT_LEADER);
    broker.unfence(NODE_ID);
    broker.send(client, FETCH_VERSION, &request);
    broker.run();
    assert_eq!(broker.sample("millstream_fetches_parked"), 1);
    let producer = broker.connect(owner);
    broker.produce(producer, "t", 0, batch(&["a"]));
    let fetched = broker.receive::<FetchRequest>(client, FETCH_VERSION).expect("an answer");
    assert_eq!(
        (fetched.responses[0].partitions[0].error_code, fetched.responses[0].partitions[0].high_watermark),
        (0, 1)
    );
}

#[test]
fn a_retry_after_a_change_of_leadership_is_recognised() {
    let (mut broker, _) = two_brokers(Setup::default());
    let client = broker.connect(0);
    let records = producer_batch(7, 0, 0, &["a", "b"]);
    broker.hold_disk();
    broker.send(client, 9, &produce_request("t", -1, &[(0, records.clone())]));
    broker.run();
    broker.fence(NODE_ID);
    let produced = broker.receive::<ProduceRequest>(client, 9).expect("an answer");
    assert_eq!(produced.responses[0].partition_responses[0].error_code, NOT_LEADER);
    broker.unfence(NODE_ID);
    // The first append is not durable yet: the retry waits for it.
    broker.send(client, 9, &produce_request("t", -1, &[(0, records)]));
    broker.run();
    assert!(broker.receive_frame(client).is_none());
    broker.release_disk();
    let produced = broker.receive::<ProduceRequest>(client, 9).expect("an answer");
    let result = &produced.responses[0].partition_responses[0];
    assert_eq!((result.error_code, result.base_offset), (0, 0));
    assert_eq!(broker.produce(client, "t", 0, batch(&["c"])).base_offset, 2, "it was appended once");
}

#[test]
fn groups_are_where_their_partition_is_led() {
    let file = Properties::from([("offsets.topic.num.partitions".to_string(), "2".to_string())]);
    let (mut broker, _) = two_brokers(Setup { file, ..Setup::default() });
    let client = broker.connect(0);
    broker.create_on("__consumer_offsets", &[NODE_ID, OTHER]);
    broker.run_until_nothing_is_due();
    // One group in each partition.
    let (here, there) = ("b", "a");
    assert_eq!(broker.find_coordinator(client, 0, &[here, there]), [(0, NODE_ID), (0, OTHER)]);
    let not_coordinator = ErrorCode::NotCoordinator.code();
    assert_eq!(broker.commit(client, here, 0, 5), 0);
    assert_eq!(broker.commit(client, there, 0, 5), not_coordinator);
    assert_eq!(broker.committed_or(client, &[here.to_string(), there.to_string()], 0), [Ok(5), Err(not_coordinator)]);
    let listed = broker.call(client, 4, &ListGroupsRequest::default());
    assert_eq!((listed.error_code, listed.groups.len()), (0, 1), "the other broker is asked for its own");

    broker.fence(OTHER);
    let not_available = (ErrorCode::CoordinatorNotAvailable.code(), -1);
    assert_eq!(broker.find_coordinator_once(client, 0, &[there]), [not_available]);
}

#[test]
fn a_coordinator_resigns_with_its_leadership_and_begins_anew() {
    let (mut broker, _) = two_brokers(Setup::default());
    broker.create_on("__consumer_offsets", &[NODE_ID]);
    broker.run_until_nothing_is_due();
    let (committer, member, other) = (broker.connect(0), broker.connect(0), broker.connect(0));
    assert_eq!(broker.commit(committer, "group", 0, 1), 0);
    broker.send(member, 3, &join_request("joining"));
    broker.run();
    broker.hold_disk();
    broker.send(committer, 8, &commit_request("group", 0, 2));
    broker.run();
    assert!(broker.receive_frame(member).is_none() && broker.receive_frame(committer).is_none());

    broker.fence(NODE_ID);
    let not_coordinator = ErrorCode::NotCoordinator.code();
    let joined = broker.receive::<JoinGroupRequest>(member, 3).expect("an answer");
    assert_eq!(joined.error_code, not_coordinator);
    let committed = broker.receive::<OffsetCommitRequest>(committer, 8).expect("an answer");
    assert_eq!(committed.topics[0].partitions[0].error_code, not_coordinator);
    assert_eq!(broker.commit(other, "group", 0, 3), not_coordinator);
    let not_available = (ErrorCode::CoordinatorNotAvailable.code(), -1);
    assert_eq!(broker.find_coordinator_once(other, 0, &["group"]), [not_available]);

    // What it appended before counts, and is not durable yet: until then nobody is told what was committed.
    broker.unfence(NODE_ID);
    broker.run_until_nothing_is_due();
    let group = ["group".to_string()];
    let loading = Err(ErrorCode::CoordinatorLoadInProgress.code());
    assert_eq!(broker.committed_or(other, &group, 0), [loading]);
    broker.release_disk();
    broker.run_until_nothing_is_due();
    assert_eq!(broker.committed_or(other, &group, 0), [Ok(2)]);
    assert_eq!(broker.commit(committer, "group", 0, 4), 0);
    assert_eq!(broker.committed_or(other, &group, 0), [Ok(4)]);
}

/// Tells the shard of a record that the controller knows nothing of.
pub fn tell(broker: &mut Broker, record: MetadataRecord) {
    let mut image = broker.image().clone();
    broker.told.push(record.clone());
    broker.told.iter().for_each(|told| image.replay(told));
    let offset = image.offset();
    broker.is_controller_by_itself = true;
    let message = Message::Metadata { offset, records: Arc::new(vec![record]), image: Arc::new(image) };
    broker.events[0].push_back(Event::Message(message));
    broker.run();
}

#[test]
fn a_process_leads_nothing_before_it_is_registered() {
    let (broker, _) = two_brokers(Setup::default());
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::recover(Setup::default(), disk, now);
    let client = broker.connect(0);
    assert_eq!(broker.image().topic("t").unwrap().partitions[0].leader, NODE_ID, "as another process");
    assert_eq!(broker.produce(client, "t", 0, batch(&["a"])).error_code, NOT_LEADER);
    // Nor when something else becomes known of the topic.
    let config = MetadataRecord::Config {
        owner: millstream_replication::ConfigOwner::Cluster,
        name: "log.retention.ms".to_string(),
        value: Some("1000000".to_string()),
    };
    tell(&mut broker, config);
    assert_eq!(broker.produce(client, "t", 0, batch(&["a"])).error_code, NOT_LEADER);

    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    let mut broker = Broker::start(Setup::default(), disk, now);
    let client = broker.connect(0);
    assert_eq!(broker.produce(client, "t", 0, batch(&["a"])).error_code, 0);
}

#[test]
fn a_replica_that_goes_to_another_broker_is_removed_here() {
    let (mut broker, id) = two_brokers(Setup::default());
    let client = broker.connect(0);
    broker.produce(client, "t", 0, batch(&["a"]));
    broker.hold_disk();
    broker.send(client, PRODUCE_VERSION, &produce_request("t", -1, &[(0, batch(&["b"]))]));
    broker.run();
    let state =
        Partition { replicas: [OTHER].into(), isr: [OTHER].into(), leader: OTHER, leader_epoch: 1, partition_epoch: 1 };
    let moved = MetadataRecord::Partition { topic_id: id, partition: 0, state };
    tell(&mut broker, moved);
    let produced = broker.receive::<ProduceRequest>(client, PRODUCE_VERSION).expect("an answer");
    let result = &produced.responses[0].partition_responses[0];
    assert_eq!((result.error_code, result.current_leader.leader_id), (NOT_LEADER, OTHER));
    broker.release_disk();
    assert_eq!(broker.sample("millstream_partitions"), 0);
    assert_eq!(broker.told(client, ("t", id), 0)[0].1, OTHER);
}
