//! Partitions with more than one replica, as their leader has them.

use kafka_wire::{FetchRequest, ProduceRequest};
use millstream_replication::{ErrorCode, MetadataRecord, Partition};
use millstream_storage::TopicId;

use super::fetch::fetch_request;
use super::leaders::tell;
use super::produce::produce_request;
use super::*;

const OTHER: i32 = 2;
const VERSION: i16 = 9;

/// A broker that leads the partition of topic `t`, of which another one has a replica as well; at least two have to be in sync.
fn leader(isr: &[i32]) -> (Broker, TopicId, ConnectionId) {
    let mut broker = Broker::new(Setup::default());
    broker.register_node(OTHER, [0xee; 16], "other");
    let id = broker.create_topic("t", 1, &[("min.insync.replicas", "2")]);
    in_sync(&mut broker, id, isr, 1);
    let client = broker.connect(0);
    (broker, id, client)
}

/// The controller has decided who is in sync.
fn in_sync(broker: &mut Broker, topic_id: TopicId, isr: &[i32], partition_epoch: i32) {
    let state = Partition {
        replicas: [NODE_ID, OTHER].into(),
        isr: isr.into(),
        leader: NODE_ID,
        leader_epoch: 1,
        partition_epoch,
    };
    tell(broker, MetadataRecord::Partition { topic_id, partition: 0, state });
}

fn send(broker: &mut Broker, client: ConnectionId, acks: i16) {
    broker.send(client, VERSION, &produce_request("t", acks, &[(0, batch(&["a"]))]));
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
    send(&mut broker, client, -1);
    assert_eq!(answer(&mut broker, client), Some(ErrorCode::NotEnoughReplicas.code()));
    send(&mut broker, client, 1);
    assert_eq!(answer(&mut broker, client), Some(0), "it is durable at the leader");
    assert_eq!(high_watermark(&mut broker), 0, "and not committed (KIP-966)");
}

#[test]
fn what_a_replica_in_sync_lacks_is_not_committed() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1);
    assert_eq!(answer(&mut broker, client), Some(0));
    send(&mut broker, client, -1);
    assert_eq!((answer(&mut broker, client), high_watermark(&mut broker)), (None, 0));
    // The other broker is taken out of the set: too few are left, and what waits goes on waiting.
    in_sync(&mut broker, id, &[NODE_ID], 2);
    assert_eq!((answer(&mut broker, client), high_watermark(&mut broker)), (None, 0));
}

#[test]
fn a_leader_that_was_deposed_answers_at_once() {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, -1);
    let (replicas, isr) = ([NODE_ID, OTHER].into(), [NODE_ID, OTHER].into());
    let state = Partition { replicas, isr, leader: OTHER, leader_epoch: 2, partition_epoch: 2 };
    tell(&mut broker, MetadataRecord::Partition { topic_id: id, partition: 0, state });
    assert_eq!(answer(&mut broker, client), Some(ErrorCode::NotLeaderOrFollower.code()));
}

#[test]
fn who_lags_for_too_long_is_proposed_to_leave() {
    let (mut broker, _, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1);
    let asked = broker.controller_requests;
    broker.advance(Duration::from_secs(29));
    assert_eq!(broker.controller_requests, asked);
    broker.advance(Duration::from_secs(1));
    assert_eq!(broker.controller_requests, asked + 1, "after replica.lag.time.max.ms");
}
