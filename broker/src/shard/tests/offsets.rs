use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::delete_records_response::DeleteRecordsPartitionResult;
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_wire::{DeleteRecordsRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest};
use millstream_replication::ErrorCode;

use super::super::message::{
    EARLIEST_LOCAL_TIMESTAMP, EARLIEST_TIMESTAMP, LATEST_TIERED_TIMESTAMP, LATEST_TIMESTAMP, MAX_TIMESTAMP,
};
use super::fetch::fetch_request;
use super::*;

impl Broker {
    /// Asks for one partition: (error, offset, timestamp).
    #[track_caller]
    pub(super) fn list_offsets(
        &mut self,
        client: ConnectionId,
        version: i16,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> (i16, i64, i64) {
        let mut asked = ListOffsetsPartition::default();
        asked.partition_index = partition;
        asked.timestamp = timestamp;
        asked.current_leader_epoch = -1;
        let mut asked_topic = ListOffsetsTopic::default();
        asked_topic.name = StrBytes::from(topic);
        asked_topic.partitions = vec![asked];
        let mut request = ListOffsetsRequest::default();
        request.replica_id = -1;
        request.topics = vec![asked_topic];
        let response = self.call(client, version, &request);
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.offset, found.timestamp)
    }

    #[track_caller]
    pub(super) fn delete_records(
        &mut self,
        client: ConnectionId,
        topic: &str,
        before: &[(i32, i64)],
    ) -> Vec<DeleteRecordsPartitionResult> {
        let response = self.call(client, 2, &delete_records_request(topic, before));
        response.topics[0].partitions.clone()
    }
}

pub(super) fn delete_records_request(topic: &str, before: &[(i32, i64)]) -> DeleteRecordsRequest {
    let mut asked = DeleteRecordsTopic::default();
    asked.name = StrBytes::from(topic);
    for &(index, offset) in before {
        let mut partition = DeleteRecordsPartition::default();
        partition.partition_index = index;
        partition.offset = offset;
        asked.partitions.push(partition);
    }
    let mut request = DeleteRecordsRequest::default();
    request.timeout_ms = 1000;
    request.topics = vec![asked];
    request
}

fn batch_at(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for timestamp in timestamps {
        builder = builder.record(*timestamp, None, Some(b"value"), &[]);
    }
    builder.build().into()
}

#[test]
fn offsets_are_found_by_place_and_by_time() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    let at = |ms| START_UNIX_MS + ms;
    for partition in 0..2 {
        broker.produce(client, "t", partition, batch_at(&[at(10), at(30), at(20)]));
        broker.produce(client, "t", partition, batch_at(&[at(25), at(40)]));
        let mut list = |timestamp| broker.list_offsets(client, 9, "t", partition, timestamp);
        assert_eq!(list(LATEST_TIMESTAMP), (0, 5, -1));
        assert_eq!(list(EARLIEST_TIMESTAMP), (0, 0, -1));
        assert_eq!(list(EARLIEST_LOCAL_TIMESTAMP), (0, 0, -1));
        assert_eq!(list(LATEST_TIERED_TIMESTAMP), (0, -1, -1));
        assert_eq!(list(MAX_TIMESTAMP), (0, 4, at(40)));
        assert_eq!(list(0), (0, 0, at(10)));
        assert_eq!(list(at(11)), (0, 1, at(30)));
        assert_eq!(list(at(31)), (0, 4, at(40)));
        assert_eq!(list(at(41)), (0, -1, -1), "nothing is that young");
        assert_eq!(list(-6).0, ErrorCode::UnsupportedVersion.code());
    }
    assert_eq!(broker.list_offsets(client, 9, "t", 7, -1).0, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(broker.list_offsets(client, 6, "t", 0, MAX_TIMESTAMP).0, ErrorCode::UnsupportedVersion.code());
    assert_eq!(broker.list_offsets(client, 1, "t", 0, LATEST_TIMESTAMP), (0, 5, -1));
}

#[test]
fn records_are_deleted_up_to_an_offset_and_stay_deleted() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    broker.create_topic("compacted", 1, &[("cleanup.policy", "compact")]);
    let client = broker.connect(0);
    for partition in 0..2 {
        broker.produce(client, "t", partition, batch(&["a", "b", "c"]));
    }
    let deleted = broker.delete_records(client, "t", &[(0, 2), (1, -1), (1, 4), (5, 0)]);
    let found: Vec<(i16, i64)> =
        deleted.iter().map(|partition| (partition.error_code, partition.low_watermark)).collect();
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(found, [(0, 2), (0, 3), (ErrorCode::OffsetOutOfRange.code(), -1), (unknown, -1)]);
    assert_eq!(broker.list_offsets(client, 9, "t", 0, EARLIEST_TIMESTAMP), (0, 2, -1));
    assert_eq!(broker.delete_records(client, "t", &[(0, 1)])[0].low_watermark, 2, "the log start never goes back");
    let refused = broker.delete_records(client, "compacted", &[(0, 0)])[0].error_code;
    assert_eq!(refused, ErrorCode::PolicyViolation.code());

    let response = broker.call(client, 12, &fetch_request("t", &[(0, 1)]));
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, ErrorCode::OffsetOutOfRange.code());
}

#[test]
fn a_deletion_is_answered_when_it_is_durable_or_its_time_is_up() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.produce(client, "t", 0, batch(&["a", "b", "c"]));
    for timed_out in [false, true] {
        broker.hold_disk();
        let before = if timed_out { 2 } else { 1 };
        broker.send(client, 2, &delete_records_request("t", &[(0, before)]));
        broker.run();
        assert!(broker.receive_frame(client).is_none());
        if timed_out {
            broker.advance(Duration::from_secs(1));
            let response = broker.receive::<DeleteRecordsRequest>(client, 2).unwrap();
            assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::RequestTimedOut.code());
            broker.release_disk();
            assert!(broker.receive_frame(client).is_none());
        } else {
            broker.release_disk();
            let response = broker.receive::<DeleteRecordsRequest>(client, 2).unwrap();
            assert_eq!(response.topics[0].partitions[0].low_watermark, 1);
        }
    }
}

#[test]
fn a_moved_log_start_wakes_a_parked_fetch() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 1, &[]);
    let (client, consumer) = (broker.connect(0), broker.connect(1));
    broker.produce(client, "t", 0, batch(&["a", "b", "c"]));
    let mut request = fetch_request("t", &[(0, 0)]);
    request.min_bytes = 1 << 20;
    broker.send(consumer, 12, &request);
    broker.run();
    assert!(broker.receive_frame(consumer).is_none());
    broker.delete_records(client, "t", &[(0, 2)]);
    let response = broker.receive::<kafka_wire::FetchRequest>(consumer, 12).expect("it was woken");
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::OffsetOutOfRange.code());
}

#[test]
fn epochs_end_where_the_next_began() {
    let mut broker = Broker::new(Setup::default());
    let id = broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.produce(client, "t", 0, batch(&["a", "b"]));
    let epoch = broker.image().topic_by_id(id).unwrap().partitions[0].leader_epoch;
    let end_of = |broker: &mut Broker, leader_epoch| {
        let mut asked = OffsetForLeaderPartition::default();
        asked.leader_epoch = leader_epoch;
        asked.current_leader_epoch = -1;
        let mut topic = OffsetForLeaderTopic::default();
        topic.topic = StrBytes::from("t");
        topic.partitions = vec![asked];
        let mut request = OffsetForLeaderEpochRequest::default();
        request.replica_id = -1;
        request.topics = vec![topic];
        let response = broker.call(client, 4, &request);
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.leader_epoch, found.end_offset)
    };
    assert_eq!(end_of(&mut broker, epoch), (0, epoch, 2));
    assert_eq!(end_of(&mut broker, epoch - 1), (0, -1, -1));
}

#[test]
fn other_apis_are_answered_from_the_image_and_by_the_controller() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    let client = broker.connect(1);
    let mut topic = kafka_wire::create_topics_request::CreatableTopic::default();
    topic.name = StrBytes::from("new");
    topic.num_partitions = 3;
    topic.replication_factor = -1;
    let mut request = kafka_wire::CreateTopicsRequest::default();
    request.timeout_ms = 1000;
    request.topics = vec![topic];
    let created = broker.call(client, 7, &request);
    assert_eq!((created.topics[0].error_code, created.topics[0].num_partitions), (0, 3));
    let response = broker.call(client, 12, &MetadataRequest::default());
    assert_eq!(response.brokers[0].host.as_str(), "broker");
    assert_eq!(broker.produce(client, "new", 2, batch(&["a"])).error_code, 0, "its leader is there at once");
}
