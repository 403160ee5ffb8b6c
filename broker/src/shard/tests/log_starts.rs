//! Log starts of partitions with several replicas: what a leader tells a follower of them, and whom a deletion waits for.

use kafka_wire::DeleteRecordsRequest;
use millstream_replication::{ErrorCode, MetadataRecord, Partition};

use super::leaders::tell;
use super::offsets::delete_records_request;
use super::replicas::{OTHER, in_sync, leader, send};
use super::*;
use crate::peer::frame::cut;
use crate::peer::links::{self, LinkId};
use crate::peer::stream::FRAME_BYTES_MAX;
use crate::peer::stream::frame::{
    DurableRange, Follow, FollowOk, FromFollower, FromLeader, Mark, RefuseReason, Refused,
};
use crate::peer::stream::greeting::{Answer, Hello, Lane};
use crate::shard::message::EARLIEST_TIMESTAMP;

const LINK: LinkId = LinkId(7);

/// The stream of a follower at another node, by hand.
struct Stream {
    topic_id: TopicId,
    follows: u32,
    consumed_bytes: u64,
}

impl Stream {
    fn open(broker: &mut Broker, topic_id: TopicId) -> Stream {
        let image = broker.image();
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            cluster_id: image.cluster().expect("it is known"),
            node: OTHER,
            shard: 0,
            broker_epoch: broker.epoch(OTHER),
            incarnation: [0xee; 16],
            to_node: NODE_ID,
            to_shard: 0,
            to_shards: 1,
            to_broker_epoch: broker.epoch(NODE_ID),
            lane: Lane::Live,
            window_bytes: 1 << 20,
            metadata_offset: image.offset(),
        };
        broker.to_peers.clear();
        broker.events[0].push_back(Event::Peer(links::Event::Accepted { link: LINK }));
        receive(broker, hello.to_bytes());
        let welcome = frames(broker).remove(0);
        assert!(matches!(Answer::decode(&welcome), Ok(Answer::Welcome(_))), "{welcome:?}");
        Stream { topic_id, follows: 0, consumed_bytes: 0 }
    }

    /// Asks to follow with a log from one offset to another; returns what is answered.
    fn follow(&mut self, broker: &mut Broker, (log_start, fetch_offset): (i64, i64)) -> Vec<FromLeader> {
        self.follows += 1;
        let last_epoch = if log_start < fetch_offset { 1 } else { -1 };
        let (follow_id, topic_id) = (self.follows, self.topic_id);
        let follow = Follow { follow_id, topic_id, partition: 0, leader_epoch: 1, fetch_offset, last_epoch, log_start };
        receive(broker, FromFollower::Follow(vec![follow]).to_bytes());
        self.said(broker)
    }

    fn ack(&self, broker: &mut Broker, handle: u32, (log_start, end): (i64, i64)) {
        let ranges = vec![DurableRange { handle, end, log_start }];
        receive(broker, FromFollower::Ack { consumed_bytes: self.consumed_bytes, ranges }.to_bytes());
    }

    /// What the leader has said since the last time.
    fn said(&mut self, broker: &mut Broker) -> Vec<FromLeader> {
        let frames = frames(broker);
        let mut said = Vec::new();
        for frame in frames {
            let decoded = FromLeader::decode(&frame).expect("a leader's frame");
            if matches!(decoded, FromLeader::Data(_)) {
                self.consumed_bytes += frame.len() as u64 + 4;
            }
            said.push(decoded);
        }
        said
    }
}

fn receive(broker: &mut Broker, frame: Bytes) {
    let bytes = frame.slice(4..);
    broker.events[0].push_back(Event::Peer(links::Event::Received { link: LINK, bytes }));
    broker.run();
}

fn frames(broker: &mut Broker) -> Vec<Bytes> {
    let mut bytes = BytesMut::new();
    for (_, effect) in std::mem::take(&mut broker.to_peers) {
        let Effect::SendToPeer { link: LINK, parts } = effect else { continue };
        for part in parts {
            let SendPart::Memory(part) = part else { panic!("from memory") };
            bytes.extend_from_slice(&part);
        }
    }
    std::iter::from_fn(|| cut(&mut bytes, FRAME_BYTES_MAX).expect("whole frames")).collect()
}

fn handle_of(said: &[FromLeader]) -> u32 {
    match said {
        [FromLeader::FollowOk(FollowOk { handle, .. }), ..] => *handle,
        other => panic!("it may follow: {other:?}"),
    }
}

/// A leader of a batch of three records, and a follower that is in sync and has them.
fn followed() -> (Broker, TopicId, ConnectionId, Stream, u32) {
    let (mut broker, id, client) = leader(&[NODE_ID, OTHER]);
    send(&mut broker, client, 1, &["a", "b", "c"]);
    broker.receive_frame(client).expect("it is durable at the leader");
    let mut stream = Stream::open(&mut broker, id);
    let said = stream.follow(&mut broker, (0, 0));
    assert!(matches!(said[1], FromLeader::Data(_)), "{said:?}");
    let handle = handle_of(&said);
    stream.ack(&mut broker, handle, (0, 3));
    broker.advance(Duration::from_millis(10));
    let mark = Mark { handle, high_watermark: 3, log_start: 0 };
    assert_eq!(stream.said(&mut broker), [FromLeader::Marks(vec![mark])]);
    (broker, id, client, stream, handle)
}

fn delete(broker: &mut Broker, client: ConnectionId, before: i64) {
    broker.send(client, 2, &delete_records_request("t", &[(0, before)]));
    broker.run();
}

/// Error and low watermark.
fn deleted(broker: &mut Broker, client: ConnectionId) -> Option<(i16, i64)> {
    let response = broker.receive::<DeleteRecordsRequest>(client, 2)?;
    let partition = &response.topics[0].partitions[0];
    Some((partition.error_code, partition.low_watermark))
}

fn earliest(broker: &mut Broker) -> i64 {
    let client = broker.connect(0);
    broker.list_offsets(client, 9, "t", 0, EARLIEST_TIMESTAMP).1
}

#[test]
fn a_deletion_is_answered_when_all_in_sync_have_deleted() {
    let (mut broker, _, client, mut stream, handle) = followed();
    delete(&mut broker, client, 2);
    assert_eq!((deleted(&mut broker, client), earliest(&mut broker)), (None, 2));
    broker.advance(Duration::from_millis(10));
    let mark = Mark { handle, high_watermark: 3, log_start: 2 };
    assert_eq!(stream.said(&mut broker), [FromLeader::Marks(vec![mark])]);
    stream.ack(&mut broker, handle, (1, 3));
    assert_eq!(deleted(&mut broker, client), None);
    stream.ack(&mut broker, handle, (2, 3));
    assert_eq!(deleted(&mut broker, client), Some((0, 2)));
    // What is deleted already is answered at once.
    delete(&mut broker, client, 1);
    assert_eq!(deleted(&mut broker, client), Some((0, 2)));
}

#[test]
fn a_deletion_that_takes_too_long_says_so_and_has_happened() {
    let (mut broker, id, client, stream, handle) = followed();
    delete(&mut broker, client, 2);
    for _ in 0..2 {
        assert_eq!(deleted(&mut broker, client), None);
        broker.advance(Duration::from_millis(500));
        receive(&mut broker, FromFollower::Ping.to_bytes());
    }
    assert_eq!(deleted(&mut broker, client), Some((ErrorCode::RequestTimedOut.code(), -1)));
    assert_eq!(earliest(&mut broker), 2);
    // It is there at the leader, and whoever asks again waits for the follower.
    delete(&mut broker, client, 2);
    assert_eq!(deleted(&mut broker, client), None);
    let other = broker.connect(0);
    delete(&mut broker, other, 3);
    broker.disconnect(other);
    stream.ack(&mut broker, handle, (2, 3));
    assert_eq!(deleted(&mut broker, client), Some((0, 2)));
    // Who waits hears that another leads.
    delete(&mut broker, client, 3);
    let (replicas, isr) = ([NODE_ID, OTHER].into(), [NODE_ID, OTHER].into());
    let state = Partition { replicas, isr, leader: OTHER, leader_epoch: 2, partition_epoch: 2 };
    tell(&mut broker, MetadataRecord::Partition { topic_id: id, partition: 0, state });
    assert_eq!(deleted(&mut broker, client), Some((ErrorCode::NotLeaderOrFollower.code(), -1)));
}

#[test]
fn who_is_not_in_sync_is_not_waited_for() {
    let (mut broker, id, client, ..) = followed();
    delete(&mut broker, client, 2);
    assert_eq!(deleted(&mut broker, client), None);
    in_sync(&mut broker, id, &[NODE_ID], 2);
    assert_eq!(deleted(&mut broker, client), Some((0, 2)));
    delete(&mut broker, client, 3);
    assert_eq!(deleted(&mut broker, client), Some((0, 3)));
}

/// Records say how much is committed, and not where the log starts.
#[test]
fn a_log_start_is_told_though_records_are_sent_meanwhile() {
    let (mut broker, _, client, mut stream, handle) = followed();
    delete(&mut broker, client, 2);
    let producer = broker.connect(0);
    send(&mut broker, producer, 1, &["d"]);
    let said = stream.said(&mut broker);
    assert!(matches!(&said[..], [FromLeader::Data(_)]), "{said:?}");
    broker.advance(Duration::from_millis(10));
    let mark = Mark { handle, high_watermark: 3, log_start: 2 };
    assert_eq!(stream.said(&mut broker), [FromLeader::Marks(vec![mark])]);
    // The high watermark goes with records.
    stream.ack(&mut broker, handle, (2, 4));
    send(&mut broker, producer, 1, &["e"]);
    assert!(matches!(&stream.said(&mut broker)[..], [FromLeader::Data(_)]));
    broker.advance(Duration::from_millis(10));
    assert_eq!(stream.said(&mut broker), []);
}

#[test]
fn who_would_begin_within_a_batch_begins_where_the_batch_does() {
    let (mut broker, _, client, mut stream, handle) = followed();
    let refused = |follow_id, log_start| {
        let why = RefuseReason::OutOfRange;
        FromLeader::Refused(Refused { follow_id, why, leader: -1, leader_epoch: -1, log_start, log_end: 3 })
    };
    // The leader before this one had deleted more.
    let said = stream.follow(&mut broker, (2, 2));
    handle_of(&said);
    assert_eq!(said[1..], [refused(2, 0)]);
    let said = stream.follow(&mut broker, (0, 0));
    assert!(matches!(said[1..], [FromLeader::Data(_)]), "{said:?}");

    let another = handle_of(&said);
    assert_ne!(another, handle);
    stream.ack(&mut broker, another, (0, 3));
    delete(&mut broker, client, 2);
    broker.advance(Duration::from_millis(10));
    stream.said(&mut broker);
    assert_eq!(stream.follow(&mut broker, (0, 0)), [refused(4, 2)]);
    assert_eq!(stream.follow(&mut broker, (2, 2))[1..], [refused(5, 0)]);
    let said = stream.follow(&mut broker, (0, 0));
    assert!(matches!(said[1..], [FromLeader::Data(_)]), "{said:?}");
}

/// Who has all records follows, also where all are deleted: it knows what producers have sent.
#[test]
fn who_ends_where_the_log_starts_in_the_epoch_that_goes_on_there_keeps_what_it_has() {
    let (mut broker, _, client, mut stream, handle) = followed();
    delete(&mut broker, client, -1);
    stream.ack(&mut broker, handle, (3, 3));
    assert_eq!(deleted(&mut broker, client), Some((0, 3)));
    handle_of(&stream.follow(&mut broker, (1, 3)));
}
