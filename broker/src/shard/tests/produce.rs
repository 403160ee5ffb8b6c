use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::produce_response::PartitionProduceResponse;
use kafka_wire::{InitProducerIdRequest, ProduceRequest};
use kafka_wire_core::Uuid;
use millstream_replication::ErrorCode;
use millstream_replication::controller::TopicReference;

use super::*;

/// A request for partitions of one topic: (partition, records).
pub(super) fn produce_request(topic: &str, acks: i16, partitions: &[(i32, Bytes)]) -> ProduceRequest {
    let mut data = TopicProduceData::default();
    data.name = StrBytes::from(topic);
    for (index, records) in partitions {
        let mut partition = PartitionProduceData::default();
        partition.index = *index;
        partition.records = Some(records.clone());
        data.partition_data.push(partition);
    }
    let mut request = ProduceRequest::default();
    request.acks = acks;
    request.timeout_ms = 1000;
    request.topic_data = vec![data];
    request
}

impl Broker {
    /// Produces to one partition and takes the result.
    #[track_caller]
    pub(super) fn produce(
        &mut self,
        connection: ConnectionId,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> PartitionProduceResponse {
        let response = self.call(connection, 9, &produce_request(topic, -1, &[(partition, records)]));
        response.responses[0].partition_responses[0].clone()
    }
}

#[test]
fn what_is_acknowledged_is_durable_and_has_its_offset() {
    for acks in [1, -1] {
        let mut broker = Broker::new(Setup::default());
        broker.create_topic("t", 1, &[]);
        let client = broker.connect(0);
        assert_eq!(broker.produce(client, "t", 0, batch(&["a", "b"])).base_offset, 0);
        broker.hold_disk();
        broker.send(client, 9, &produce_request("t", acks, &[(0, batch(&["c"]))]));
        broker.run();
        assert!(broker.receive::<ProduceRequest>(client, 9).is_none(), "acks={acks} does not wait for the disk");
        broker.release_disk();
        let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset, partition.log_start_offset), (0, 2, 0));
    }
}

#[test]
fn partitions_of_all_shards_are_answered_in_one_response() {
    let mut broker = Broker::new(Setup { shards: 3, ..Setup::default() });
    broker.create_topic("t", 7, &[]);
    let client = broker.connect(1);
    let partitions: Vec<(i32, Bytes)> = (0..7).rev().map(|index| (index, batch(&["a"]))).collect();
    let mut request = produce_request("t", -1, &partitions);
    request.topic_data[0].partition_data[3].index = 99;
    let response = broker.call(client, 9, &request);
    let results: Vec<(i32, i16, i64)> = response.responses[0]
        .partition_responses
        .iter()
        .map(|partition| (partition.index, partition.error_code, partition.base_offset))
        .collect();
    assert_eq!(results, [(6, 0, 0), (5, 0, 0), (4, 0, 0), (99, 3, -1), (2, 0, 0), (1, 0, 0), (0, 0, 0)]);
}

#[test]
fn requests_of_one_connection_are_appended_and_answered_in_their_order() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    for index in 0..10 {
        // Alternately to this shard and to the other one.
        broker.send(client, 9, &produce_request("t", -1, &[(index % 2, batch(&["a"]))]));
    }
    broker.run();
    for index in 0..10 {
        let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.index, partition.base_offset), (index % 2, i64::from(index / 2)));
    }
}

#[test]
fn without_acks_nothing_is_answered_and_an_error_closes_the_connection() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.send(client, 9, &produce_request("t", 0, &[(0, batch(&["a"]))]));
    broker.run();
    assert!(broker.receive_frame(client).is_none());
    assert_eq!(broker.produce(client, "t", 0, batch(&["b"])).base_offset, 1);
    broker.send(client, 9, &produce_request("missing", 0, &[(0, batch(&["a"]))]));
    broker.run();
    assert!(broker.is_closed(client));
}

#[test]
fn what_cannot_be_appended_is_refused_with_kafkas_errors() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[("max.message.bytes", "200")]);
    broker.create_topic("__consumer_offsets", 1, &[]);
    broker.create_topic("two", 1, &[("min.insync.replicas", "2")]);
    let client = broker.connect(0);
    let code = |broker: &mut Broker, topic: &str, acks, records: Bytes| {
        let response = broker.call(client, 9, &produce_request(topic, acks, &[(0, records)]));
        let partition = response.responses[0].partition_responses[0].clone();
        (partition.error_code, partition.error_message.is_some())
    };
    let good = batch(&["a"]);
    assert_eq!(code(&mut broker, "missing", -1, good.clone()).0, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(code(&mut broker, "__consumer_offsets", -1, good.clone()).0, ErrorCode::InvalidTopicException.code());
    assert_eq!(code(&mut broker, "t", 2, good.clone()).0, ErrorCode::InvalidRequiredAcks.code());
    assert_eq!(code(&mut broker, "two", -1, good.clone()).0, 0, "there is one replica, and it is in sync (Kafka, too)");
    let large = batch(&["x".repeat(300).as_str()]);
    assert_eq!(code(&mut broker, "t", -1, large), (ErrorCode::MessageTooLarge.code(), true));
    let mut broken = good.to_vec();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(code(&mut broker, "t", -1, broken.into()), (ErrorCode::CorruptMessage.code(), true));
    assert_eq!(code(&mut broker, "t", -1, Bytes::new()), (ErrorCode::InvalidRecord.code(), true));
    let mut request = produce_request("t", -1, &[(0, good)]);
    request.transactional_id = Some(StrBytes::from("tx"));
    let response = broker.call(client, 9, &request);
    let error = response.responses[0].partition_responses[0].error_code;
    assert_eq!(error, ErrorCode::TransactionalIdAuthorizationFailed.code());
}

#[test]
fn topics_are_found_by_id() {
    let mut broker = Broker::new(Setup::default());
    let id = broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    let mut request = produce_request("", -1, &[(0, batch(&["a"]))]);
    request.topic_data[0].topic_id = Uuid::from_bytes(id.0);
    let response = broker.call(client, 13, &request);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    request.topic_data[0].topic_id = Uuid::from_bytes([0xee; 16]);
    let response = broker.call(client, 13, &request);
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::UnknownTopicId.code());
}

#[test]
fn a_duplicate_has_its_first_offset_and_waits_until_the_original_is_durable() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let (client, other) = (broker.connect(0), broker.connect(0));
    broker.produce(client, "t", 0, batch(&["before"]));
    broker.hold_disk();
    let request = produce_request("t", -1, &[(0, producer_batch(5, 0, 0, &["a", "b"]))]);
    broker.send(client, 9, &request);
    broker.send(other, 9, &request);
    broker.run();
    assert!(broker.receive_frame(client).is_none() && broker.receive_frame(other).is_none());
    broker.release_disk();
    for client in [client, other] {
        let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, 1));
    }
    // The original is durable: a late duplicate is answered without a write.
    broker.hold_disk();
    assert_eq!(broker.call(client, 9, &request).responses[0].partition_responses[0].base_offset, 1);
    broker.release_disk();
    let gap = broker.produce(client, "t", 0, producer_batch(5, 0, 7, &["c"]));
    assert_eq!(gap.error_code, ErrorCode::OutOfOrderSequenceNumber.code());
    assert_eq!(broker.produce(client, "t", 0, producer_batch(5, 1, 0, &["c"])).base_offset, 3);
    let old = broker.produce(client, "t", 0, producer_batch(5, 0, 2, &["c"]));
    assert_eq!(old.error_code, ErrorCode::InvalidProducerEpoch.code());
}

#[test]
fn a_commit_that_takes_too_long_is_a_timeout() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    for shard in 0..2 {
        let client = broker.connect(shard);
        broker.hold_disk();
        broker.send(client, 9, &produce_request("t", -1, &[(0, batch(&["a"]))]));
        broker.run();
        broker.advance(Duration::from_millis(999));
        assert!(broker.receive_frame(client).is_none());
        broker.advance(Duration::from_millis(1));
        let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
        let error = response.responses[0].partition_responses[0].error_code;
        assert_eq!(error, ErrorCode::RequestTimedOut.code());
        broker.release_disk();
        assert!(broker.receive_frame(client).is_none(), "it is answered once");
    }
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.hold_disk();
    broker.send(client, 9, &produce_request("t", -1, &[(0, batch(&["a"]))]));
    broker.run();
    broker.fail_held_disk();
    assert!(broker.failure.is_some());
    broker.send(client, 9, &produce_request("t", 0, &[(0, batch(&["a"]))]));
    broker.advance(Duration::from_secs(10));
    assert!(broker.receive_frame(client).is_none());
}

#[test]
fn a_topic_that_is_deleted_answers_who_waits_for_it() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    broker.create_topic("stays", 1, &[]);
    let client = broker.connect(0);
    broker.hold_disk();
    let mut request = produce_request("t", -1, &[(0, batch(&["a"]))]);
    request.topic_data.extend(produce_request("stays", -1, &[(0, batch(&["a"]))]).topic_data);
    broker.send(client, 9, &request);
    broker.run();
    broker.decide(ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".to_string())] });
    broker.run();
    broker.release_disk();
    let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
    let codes: Vec<i16> = response.responses.iter().map(|topic| topic.partition_responses[0].error_code).collect();
    assert_eq!(codes, [ErrorCode::UnknownTopicOrPartition.code(), 0]);
}

#[test]
fn a_topics_codec_is_applied() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[("compression.type", "gzip")]);
    let client = broker.connect(0);
    let value = "compressible ".repeat(1000);
    assert_eq!(broker.produce(client, "t", 0, batch(&[&value])).error_code, 0);
    assert!(broker.sample("millstream_produced_bytes_total") < 1000);
    assert_eq!(broker.sample("millstream_produced_records_total"), 1);
}

#[test]
fn a_topics_level_of_compression_is_applied() {
    // Words that follow no pattern: what a higher level finds in them, a lower one does not look for.
    let words: Vec<String> = (0..4000u32).map(|n| format!("w{}", n.wrapping_mul(2_654_435_761) >> 20)).collect();
    let value = words.join(" ");
    for codec in ["gzip", "zstd"] {
        let mut broker = Broker::new(Setup::default());
        let client = broker.connect(0);
        let mut sizes = Vec::new();
        for level in ["1", "9"] {
            let name = format!("compression.{codec}.level");
            broker.create_topic(level, 1, &[("compression.type", codec), (&name, level)]);
            let before = broker.sample("millstream_produced_bytes_total");
            assert_eq!(broker.produce(client, level, 0, batch(&[&value])).error_code, 0);
            sizes.push(broker.sample("millstream_produced_bytes_total") - before);
        }
        assert!(sizes[1] < sizes[0], "{codec}: {sizes:?}");
    }
}

#[test]
fn producer_ids_are_fresh_and_blocks_are_asked_for_ahead() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    let clients = [broker.connect(0), broker.connect(1)];
    let mut request = InitProducerIdRequest::default();
    request.transactional_id = None;
    let mut seen = BTreeSet::new();
    for round in 0..2000 {
        let response = broker.call(clients[round % 2], 4, &request);
        assert_eq!((response.error_code, response.producer_epoch), (0, 0));
        assert!(seen.insert(response.producer_id), "{} was given before", response.producer_id);
    }
    assert_eq!(broker.controller_requests, 4, "each shard asked for a second block before the first was empty");
    for (transactional_id, error) in
        [("tx", ErrorCode::TransactionalIdAuthorizationFailed), ("", ErrorCode::InvalidRequest)]
    {
        request.transactional_id = Some(StrBytes::from(transactional_id));
        let response = broker.call(clients[0], 4, &request);
        assert_eq!((response.error_code, response.producer_id), (error.code(), -1));
    }
}

#[test]
fn a_shutdown_answers_what_is_under_way() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.hold_disk();
    broker.send(client, 9, &produce_request("t", -1, &[(0, batch(&["a"]))]));
    broker.run();
    let mut effects = Vec::new();
    let now = broker.now;
    broker.shards[0].begin_shutdown(now, &mut effects);
    for effect in effects {
        broker.execute(0, effect);
    }
    broker.send(client, 9, &produce_request("t", -1, &[(0, batch(&["late"]))]));
    broker.run();
    assert!(!broker.shards[0].is_shut_down());
    broker.release_disk();
    let response = broker.receive::<ProduceRequest>(client, 9).unwrap();
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    assert!(broker.receive_frame(client).is_none(), "what came late is not taken");
    assert!(broker.shards[0].is_shut_down());
}
