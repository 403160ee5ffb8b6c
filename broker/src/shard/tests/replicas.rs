//! Partitions with more than one replica, as their leader has them.

use kafka_wire::describe_topic_partitions_request::TopicRequest;
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{DescribeTopicPartitionsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use millstream_replication::controller::Assignment;
use millstream_replication::{ErrorCode, MetadataRecord, NO_LEADER, Partition};
use millstream_storage::TopicId;

use super::fetch::fetch_request;
use super::leaders::tell;
use super::produce::produce_request;
use super::*;

pub const OTHER: i32 = 2;
const VERSION: i16 = 9;

/// A broker that leads the partition of topic `t`, of which another one has a replica as well; at least two have to be in sync.
pub fn leader(isr: &[i32]) -> (Broker, TopicId, ConnectionId) {
    let mut broker = Broker::new(Setup::default());
    broker.register_node(OTHER, [0xee; 16], "other");
    let id = broker.create_topic("t", 1, &[("min.insync.replicas", "2")]);
    in_sync(&mut broker, id, isr, 1);
    let client = broker.connect(0);
    (broker, id, client)
}

/// The controller has decided who is in sync.
pub fn in_sync(broker: &mut Broker, topic_id: TopicId, isr: &[i32], partition_epoch: i32) {
    let state = Partition {
        replicas: [NODE_ID, OTHER].into(),
        isr: isr.into(),
        leader: NODE_ID,
        leader_epoch: 1,
        partition_epoch,
    };
    tell(broker, MetadataRecord::Partition { topic_id, partition: 0, state });
}

pub fn send(broker: &mut Broker, client: ConnectionId, acks: i16, values: &[&str]) {
    broker.send(client, VERSION, &produce_request("t", acks, &[(0, batch(values))]));
    broker.run();
}

fn answer(broker: &mut Broker, client: ConnectionId) -> Option<i16> {
    let response = broker.receive::<ProduceRequest>(client, VERSION)?;
    Some(response.responses[0].partition_responses[0].error_code)
}

fn high_watermark(broker: &mut Broker) -> i64 {
    // Answers of one connection wait for each other.
    let client = broker.connect(0);
    let mut request = fetch_request("t", &[(0, 0)]);
    request.max_wait_ms = 0;
    let fetched = broker.call::<FetchRequest>(client, 12, &request);
    fetched.responses[0].partitions[0].high_watermark
}

#[test]
fn too_few_in_sync_refuse_who_wants_all_and_nobody_else() {
    let (mut broker, _, client) = leader(&[NODE_ID]);
    send(&mut broker, client, -1, &["a"]);
    assert_eq!(answer(&mut broker, client), Some(ErrorCode::NotEnoughReplicas.code()));
    send(&mut broker, client, 1, &["a"]);
    assert_eq!(answer(&mut broker, client), Some(0), "it is durable at the leader");
    assert_eq!(high_watermark(&mut broker), 0, "and not committed (KIP-966)");
}

#[test]
fn what_a_replica_in_sync_lacks_is_not_committed() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1, &["a"]);
    assert_eq!(answer(&mut broker, client), Some(0));
    send(&mut broker, client, -1, &["a"]);
    assert_eq!((answer(&mut broker, client), high_watermark(&mut broker)), (None, 0));
    // The other broker is taken out of the set: too few are left, and what waits goes on waiting.
    in_sync(&mut broker, id, &[NODE_ID], 2);
    assert_eq!((answer(&mut broker, client), high_watermark(&mut broker)), (None, 0));
}

#[test]
fn a_leader_that_was_deposed_answers_at_once() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, -1, &["a"]);
    let (replicas, isr) = ([NODE_ID, OTHER].into(), [NODE_ID, OTHER].into());
    let state = Partition { replicas, isr, leader: OTHER, leader_epoch: 2, partition_epoch: 2 };
    tell(&mut broker, MetadataRecord::Partition { topic_id: id, partition: 0, state });
    assert_eq!(answer(&mut broker, client), Some(ErrorCode::NotLeaderOrFollower.code()));
}

#[test]
fn who_lags_for_too_long_is_proposed_to_leave() {
    let (mut broker, _, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1, &["a"]);
    let asked = broker.controller_requests;
    broker.advance(Duration::from_secs(29));
    assert_eq!(broker.controller_requests, asked);
    broker.advance(Duration::from_secs(1));
    assert_eq!(broker.controller_requests, asked + 1, "after replica.lag.time.max.ms");
}

/// Error, leader, replicas, who of them is in sync, and who is away.
type Shown = (i16, i32, Vec<i32>, Vec<i32>, Vec<i32>);

fn by_metadata(broker: &mut Broker, client: ConnectionId) -> Vec<Shown> {
    let mut named = MetadataRequestTopic::default();
    named.name = Some(StrBytes::from("t"));
    let mut request = MetadataRequest::default();
    request.topics = Some(vec![named]);
    let response = broker.call(client, 12, &request);
    let partitions = response.topics[0].partitions.iter();
    let shown = partitions.map(|of| {
        (of.error_code, of.leader_id, of.replica_nodes.clone(), of.isr_nodes.clone(), of.offline_replicas.clone())
    });
    shown.collect()
}

fn by_topic_partitions(broker: &mut Broker, client: ConnectionId) -> Vec<Shown> {
    let mut named = TopicRequest::default();
    named.name = StrBytes::from("t");
    let mut request = DescribeTopicPartitionsRequest::default();
    request.topics = vec![named];
    request.response_partition_limit = 100;
    let response = broker.call(client, 0, &request);
    let partitions = response.topics[0].partitions.iter();
    let shown = partitions.map(|of| {
        (of.error_code, of.leader_id, of.replica_nodes.clone(), of.isr_nodes.clone(), of.offline_replicas.clone())
    });
    shown.collect()
}

fn by_list(broker: &Broker) -> Vec<(i32, i32, Vec<i32>, Vec<i32>)> {
    let piece = broker.shards[0].list_partitions(0);
    let row =
        |row: &crate::shard::PartitionRow| (row.partition, row.leader, row.replicas.to_vec(), row.in_sync.to_vec());
    piece.rows.iter().map(row).collect()
}

/// Led, under-replicated, under and at `min.insync.replicas`.
fn counts(broker: &mut Broker) -> [u64; 4] {
    ["led", "under_replicated", "under_min_isr", "at_min_isr"]
        .map(|name| broker.sample(&format!("millstream_partitions_{name}")))
}

#[test]
fn who_is_away_is_shown_alike_everywhere() {
    let mut broker = Broker::new(Setup::default());
    broker.register_node(OTHER, [0xee; 16], "other");
    let assignment = |(partition, brokers): (i32, &[i32])| Assignment { partition, brokers: brokers.to_vec() };
    let topic = NewTopic {
        name: "t".to_string(),
        partitions: -1,
        replication_factor: -1,
        assignments: [(0, &[NODE_ID, OTHER][..]), (1, &[OTHER, NODE_ID])].map(assignment).into(),
        configs: Vec::new(),
    };
    broker.ask(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false });
    let client = broker.connect(0);
    let whole: Vec<Shown> = vec![
        (0, NODE_ID, vec![NODE_ID, OTHER], vec![NODE_ID, OTHER], vec![]),
        (0, OTHER, vec![OTHER, NODE_ID], vec![OTHER, NODE_ID], vec![]),
    ];
    assert_eq!(by_metadata(&mut broker, client), whole);
    assert_eq!(by_topic_partitions(&mut broker, client), whole);
    assert_eq!(counts(&mut broker), [1, 0, 0, 0]);
    assert_eq!(broker.sample("millstream_partitions"), 2);
    assert_eq!(broker.image().offline_count(), 0);

    // This one leads both when the other is gone.
    broker.fence(OTHER);
    let alone: Vec<Shown> = vec![
        (0, NODE_ID, vec![NODE_ID, OTHER], vec![NODE_ID], vec![OTHER]),
        (0, NODE_ID, vec![OTHER, NODE_ID], vec![NODE_ID], vec![OTHER]),
    ];
    assert_eq!(by_metadata(&mut broker, client), alone);
    assert_eq!(by_topic_partitions(&mut broker, client), alone);
    assert_eq!(counts(&mut broker), [2, 2, 0, 2]);
    assert_eq!(broker.sample("millstream_in_sync_shrinks_total"), 1, "of what it led before");
    let replicas = [vec![NODE_ID, OTHER], vec![OTHER, NODE_ID]];
    assert_eq!(
        by_list(&broker),
        [(0, NODE_ID, replicas[0].clone(), vec![NODE_ID]), (1, NODE_ID, replicas[1].clone(), vec![NODE_ID])]
    );
}

#[test]
fn a_partition_that_nobody_leads_is_not_available() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    assert_eq!(counts(&mut broker), [1, 0, 0, 1]);
    let (replicas, isr) = ([NODE_ID, OTHER].into(), [OTHER].into());
    let state = Partition { replicas, isr, leader: NO_LEADER, leader_epoch: 2, partition_epoch: 2 };
    tell(&mut broker, MetadataRecord::Partition { topic_id: id, partition: 0, state });
    let error = ErrorCode::LeaderNotAvailable.code();
    let expected: Vec<Shown> = vec![(error, -1, vec![NODE_ID, OTHER], vec![OTHER], vec![])];
    assert_eq!(by_metadata(&mut broker, client), expected);
    assert_eq!(by_topic_partitions(&mut broker, client), expected);
    assert_eq!(counts(&mut broker), [0, 0, 0, 0], "who is in sync is what leaders count");
    assert_eq!(by_list(&broker), [(0, -1, vec![NODE_ID, OTHER], vec![OTHER])]);
}

#[test]
fn changes_of_the_in_sync_set_are_counted_where_it_is_led() {
    let (mut broker, id, _) = leader(&[NODE_ID, OTHER]);
    let changes = |broker: &mut Broker| {
        ["expansions", "shrinks"].map(|name| broker.sample(&format!("millstream_in_sync_{name}_total")))
    };
    let before = changes(&mut broker);
    in_sync(&mut broker, id, &[NODE_ID], 2);
    assert_eq!(counts(&mut broker), [1, 1, 1, 0]);
    in_sync(&mut broker, id, &[NODE_ID, OTHER], 3);
    assert_eq!(counts(&mut broker), [1, 0, 0, 1]);
    let after = changes(&mut broker);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [1, 1]);
    tell(&mut broker, MetadataRecord::RemoveTopic { topic_id: id });
    assert_eq!((counts(&mut broker), changes(&mut broker)), ([0, 0, 0, 0], after));
}

#[test]
fn log_directories_show_what_replicas_lack_of_what_is_committed() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1, &["a"]);
    let bytes = batch(&["a"]).len() as i64;
    let reader = broker.connect(0);
    assert_eq!(broker.offset_lags(reader), [("t".to_string(), 0, bytes, 0)], "who leads lacks nothing");
    let (replicas, isr) = ([NODE_ID, OTHER].into(), [NODE_ID, OTHER].into());
    let state = Partition { replicas, isr, leader: OTHER, leader_epoch: 2, partition_epoch: 2 };
    tell(&mut broker, MetadataRecord::Partition { topic_id: id, partition: 0, state });
    assert_eq!(broker.offset_lags(reader), [("t".to_string(), 0, bytes, -1)], "it has not heard of its leader");
}
