use kafka_wire::FetchRequest;
use kafka_wire::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::fetch_response::PartitionData;
use kafka_wire_core::Uuid;
use millstream_replication::ErrorCode;
use millstream_replication::controller::TopicReference;
use millstream_storage::PartitionKey;
use millstream_storage::batch::Batches;

use super::produce::produce_request;
use super::*;

const VERSION: i16 = 12;

/// A request for partitions of one topic: (partition, offset).
pub(super) fn fetch_request(topic: &str, partitions: &[(i32, i64)]) -> FetchRequest {
    let mut asked = FetchTopic::default();
    asked.topic = StrBytes::from(topic);
    for &(index, offset) in partitions {
        let mut partition = FetchPartition::default();
        partition.partition = index;
        partition.fetch_offset = offset;
        partition.partition_max_bytes = 1 << 20;
        partition.current_leader_epoch = -1;
        partition.last_fetched_epoch = -1;
        asked.partitions.push(partition);
    }
    let mut request = FetchRequest::default();
    request.replica_id = -1;
    request.max_wait_ms = 500;
    request.min_bytes = 1;
    request.max_bytes = 50 << 20;
    request.session_epoch = -1;
    request.topics = vec![asked];
    request
}

/// The offsets of the batches that are whole.
fn offsets(partition: &PartitionData) -> Vec<i64> {
    let records = partition.records.as_deref().unwrap_or_default();
    Batches::new(records).map_while(|batch| Some(batch.ok()?.0.base_offset())).collect()
}

impl Broker {
    #[track_caller]
    fn fetch(&mut self, connection: ConnectionId, request: &FetchRequest) -> Vec<PartitionData> {
        let response = self.call(connection, VERSION, request);
        assert_eq!((response.error_code, response.session_id), (0, 0));
        response.responses.into_iter().flat_map(|topic| topic.partitions).collect()
    }

    fn fetched(&mut self, connection: ConnectionId) -> Option<Vec<PartitionData>> {
        let response = self.receive::<FetchRequest>(connection, VERSION)?;
        Some(response.responses.into_iter().flat_map(|topic| topic.partitions).collect())
    }
}

#[test]
fn what_is_committed_is_returned_from_the_batch_that_holds_the_offset() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    for partition in 0..2 {
        broker.produce(client, "t", partition, batch(&["a", "b"]));
        broker.produce(client, "t", partition, batch(&["c"]));
        broker.produce(client, "t", partition, batch(&["d", "e"]));
    }
    let partitions = broker.fetch(client, &fetch_request("t", &[(0, 1), (1, 3)]));
    assert_eq!(offsets(&partitions[0]), [0, 2, 3], "the batch that contains offset 1 starts at 0");
    assert_eq!(offsets(&partitions[1]), [3]);
    for partition in &partitions {
        assert_eq!((partition.high_watermark, partition.last_stable_offset, partition.log_start_offset), (5, 5, 0));
        assert!(partition.aborted_transactions.is_none());
    }
    let mut request = fetch_request("t", &[(0, 0)]);
    request.isolation_level = 1;
    assert_eq!(broker.fetch(client, &request)[0].aborted_transactions.as_deref(), Some(&[][..]));
    for counter in ["millstream_fetch_disk_reads_total", "millstream_fetch_prefetches_total"] {
        assert_eq!(broker.sample(counter), 0, "the tail is in memory");
    }
}

#[test]
fn nothing_above_the_high_watermark_is_returned() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let (producer, consumer) = (broker.connect(0), broker.connect(0));
    broker.produce(producer, "t", 0, batch(&["a"]));
    broker.hold_disk();
    broker.send(producer, 9, &produce_request("t", 1, &[(0, batch(&["b"]))]));
    broker.run();
    let mut request = fetch_request("t", &[(0, 0), (0, 1), (0, 2)]);
    let partitions = broker.fetch(consumer, &request);
    assert_eq!(offsets(&partitions[0]), [0]);
    assert_eq!(offsets(&partitions[1]), [0i64; 0], "at the high watermark there is nothing, and no error");
    assert_eq!((partitions[2].error_code, partitions[2].high_watermark), (0, 1), "nor between it and the log's end");
    request.topics[0].partitions[2].fetch_offset = 3;
    let partitions = broker.fetch(consumer, &request);
    assert_eq!(partitions[2].error_code, ErrorCode::OffsetOutOfRange.code());
    broker.release_disk();
}

#[test]
fn a_parked_fetch_is_woken_by_the_commit_and_not_before() {
    for shards in [1, 3] {
        let mut broker = Broker::new(Setup { shards, ..Setup::default() });
        broker.create_topic("t", 3, &[]);
        let (producer, consumer) = (broker.connect(0), broker.connect(0));
        for partition in 0..3 {
            broker.send(consumer, VERSION, &fetch_request("t", &[(0, 0), (1, 0), (2, 0)]));
            broker.run();
            assert!(broker.fetched(consumer).is_none());
            assert_eq!(broker.sample("millstream_fetches_parked"), 1);
            broker.hold_disk();
            broker.send(producer, 9, &produce_request("t", 1, &[(partition, batch(&["a"]))]));
            broker.run();
            assert!(broker.fetched(consumer).is_none(), "it is appended, not committed");
            broker.release_disk();
            let partitions = broker.fetched(consumer).expect("it was woken");
            assert_eq!(offsets(&partitions[partition as usize]), [0]);
            assert_eq!(broker.sample("millstream_fetches_parked"), 0);
            let delete = ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".into())] };
            assert!(matches!(broker.ask(delete), ControllerResponse::DeleteTopics(_)));
            broker.create_topic("t", 3, &[]);
        }
    }
}

#[test]
fn a_parked_fetch_ends_at_its_deadline() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    broker.produce(client, "t", 1, batch(&["a"]));
    let mut request = fetch_request("t", &[(0, 0), (1, 0)]);
    request.min_bytes = 10_000;
    broker.send(client, VERSION, &request);
    broker.run();
    let deadline = broker.shards[0].next_deadline().expect("a deadline");
    assert!(deadline <= broker.now.elapsed + Duration::from_millis(500));
    broker.advance(Duration::from_millis(499));
    assert!(broker.fetched(client).is_none());
    broker.advance(Duration::from_millis(1));
    let partitions = broker.fetched(client).expect("its time is up");
    assert_eq!(offsets(&partitions[0]), [0i64; 0]);
    assert_eq!(offsets(&partitions[1]), [0], "what there is is returned");
    request.max_wait_ms = 0;
    assert_eq!(broker.fetch(client, &request).len(), 2, "without a wait it is answered at once");
}

#[test]
fn a_fetch_waits_for_its_bytes_over_all_partitions() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 4, &[]);
    let (producer, consumer) = (broker.connect(0), broker.connect(1));
    let value = "x".repeat(1000);
    let batch_bytes = batch(&[&value]).len() as i32;
    // Unevenly over the partitions, in several orders: it is answered by the append that completes it.
    for order in [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 0, 1], [3, 3, 3, 2, 2, 1], [0, 1, 1, 1, 1, 2]] {
        let starts: Vec<(i32, i64)> = (0..4)
            .map(|partition| {
                let mut request = fetch_request("t", &[(partition, 0)]);
                request.max_wait_ms = 0;
                (partition, broker.fetch(consumer, &request)[0].high_watermark)
            })
            .collect();
        let mut request = fetch_request("t", &starts);
        request.min_bytes = 6 * batch_bytes;
        broker.send(consumer, VERSION, &request);
        broker.run();
        for (index, partition) in order.into_iter().enumerate() {
            assert!(broker.fetched(consumer).is_none(), "{order:?} after {index}");
            broker.produce(producer, "t", partition, batch(&[&value]));
        }
        let partitions = broker.fetched(consumer).expect("there is enough");
        let bytes: usize = partitions.iter().map(|partition| partition.records.as_ref().unwrap().len()).sum();
        assert_eq!(bytes as i32, 6 * batch_bytes, "{order:?}");
    }
}

/// A fetch that is woken by one partition watches all of them anew, and another has had enough for it since.
#[test]
fn what_was_committed_between_a_wake_and_the_next_watch_is_not_missed() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    let topic_id = broker.create_topic("t", 8, &[]);
    let shard_of = |partition: i32| PartitionKey { topic_id, partition }.shard(2);
    let (first, second) = (0, (1..8).find(|&other| shard_of(other) == shard_of(0)).expect("one of seven"));
    // The producer's session is elsewhere: what it is answered brings the consumer's shard no further event.
    let (consumer, producer) = (broker.connect(shard_of(0)), broker.connect(1 - shard_of(0)));
    let batches = [1200, 800].map(|bytes| batch(&[&"x".repeat(bytes)]));
    let bytes = batches.iter().map(Bytes::len).sum::<usize>();
    let mut request = fetch_request("t", &[(first, 0), (second, 0)]);
    request.min_bytes = bytes as i32;
    broker.send(consumer, VERSION, &request);
    broker.run();
    assert!(broker.fetched(consumer).is_none());
    let [larger, smaller] = batches;
    broker.send(producer, 9, &produce_request("t", -1, &[(first, larger), (second, smaller)]));
    broker.run_until_nothing_is_due();
    let partitions = broker.fetched(consumer).expect("all of it is committed");
    assert_eq!(partitions.iter().map(|each| each.records.as_ref().unwrap().len()).sum::<usize>(), bytes);
}

#[test]
fn an_error_answers_at_once_and_a_deleted_topic_wakes() {
    let mut broker = Broker::new(Setup { shards: 2, ..Setup::default() });
    broker.create_topic("t", 2, &[]);
    let client = broker.connect(0);
    let partitions = broker.fetch(client, &fetch_request("t", &[(0, 0), (1, 5), (9, 0)]));
    let codes: Vec<i16> = partitions.iter().map(|partition| partition.error_code).collect();
    let expected = [ErrorCode::None, ErrorCode::OffsetOutOfRange, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(codes, expected.map(ErrorCode::code));

    broker.send(client, VERSION, &fetch_request("t", &[(0, 0), (1, 0)]));
    broker.run();
    assert!(broker.fetched(client).is_none());
    broker.decide(ControllerRequest::DeleteTopics { topics: vec![TopicReference::Name("t".to_string())] });
    broker.run();
    let partitions = broker.fetched(client).expect("it was woken");
    let is_gone = |partition: &PartitionData| partition.error_code == ErrorCode::NotLeaderOrFollower.code();
    assert!(partitions.iter().any(is_gone));
}

#[test]
fn limits_are_kept_in_the_requests_order_but_for_the_first_batch() {
    for shards in [1, 3] {
        let mut broker = Broker::new(Setup { shards, ..Setup::default() });
        broker.create_topic("t", 4, &[]);
        let client = broker.connect(0);
        let value = "x".repeat(1000);
        let batch_bytes = batch(&[&value]).len();
        for partition in 1..4 {
            for _ in 0..4 {
                broker.produce(client, "t", partition, batch(&[&value]));
            }
        }
        let lengths = |broker: &mut Broker, request: &FetchRequest| -> Vec<usize> {
            let partitions = broker.fetch(client, request);
            partitions.iter().map(|partition| partition.records.as_ref().unwrap().len()).collect()
        };
        // The response's limit is below one batch: the first partition that has any returns one, the others none.
        let mut request = fetch_request("t", &[(0, 0), (2, 0), (1, 0), (3, 0)]);
        request.max_bytes = 10;
        assert_eq!(lengths(&mut broker, &request), [0, batch_bytes, 0, 0]);
        // The limit ends within a batch of a later partition, which is cut there.
        request.max_bytes = (5 * batch_bytes + 100) as i32;
        assert_eq!(lengths(&mut broker, &request), [0, 4 * batch_bytes, batch_bytes + 100, 0]);
        // The partitions' own limits.
        request.max_bytes = 1 << 20;
        request.topics[0].partitions[1].partition_max_bytes = 10;
        request.topics[0].partitions[2].partition_max_bytes = 10;
        request.topics[0].partitions[3].partition_max_bytes = (2 * batch_bytes) as i32;
        assert_eq!(lengths(&mut broker, &request), [0, batch_bytes, 0, 2 * batch_bytes]);
    }
}

#[test]
fn leader_epochs_are_checked() {
    let mut broker = Broker::new(Setup::default());
    let id = broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.produce(client, "t", 0, batch(&["a"]));
    let epoch = broker.image().topic_by_id(id).unwrap().partitions[0].leader_epoch;
    let mut request = fetch_request("t", &[(0, 0)]);
    let mut code = |broker: &mut Broker, epoch| {
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        broker.fetch(client, &request)[0].error_code
    };
    assert_eq!(code(&mut broker, epoch), 0);
    assert_eq!(code(&mut broker, epoch + 1), ErrorCode::UnknownLeaderEpoch.code());
    // Nobody leads it for a while.
    broker.fence(NODE_ID);
    assert_eq!(code(&mut broker, epoch), ErrorCode::NotLeaderOrFollower.code());
    broker.unfence(NODE_ID);
    assert_eq!(broker.image().topic_by_id(id).unwrap().partitions[0].leader_epoch, epoch + 2);
    assert_eq!(code(&mut broker, epoch), ErrorCode::FencedLeaderEpoch.code());
    assert_eq!(code(&mut broker, epoch + 2), 0);

    broker.produce(client, "t", 0, batch(&["b"]));
    let mut request = fetch_request("t", &[(0, 2)]);
    request.topics[0].partitions[0].last_fetched_epoch = epoch;
    let partition = &broker.fetch(client, &request)[0];
    assert_eq!((partition.diverging_epoch.epoch, partition.diverging_epoch.end_offset), (epoch, 1));
    assert!(partition.records.as_ref().unwrap().is_empty());
}

#[test]
fn topics_are_found_by_id_and_sessions_are_declined() {
    let mut broker = Broker::new(Setup::default());
    let id = broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    broker.produce(client, "t", 0, batch(&["a"]));
    let mut request = fetch_request("", &[(0, 0)]);
    request.topics[0].topic_id = Uuid::from_bytes(id.0);
    request.session_epoch = 0;
    let response = broker.call(client, 16, &request);
    assert_eq!((response.error_code, response.session_id), (0, 0));
    assert_eq!(offsets(&response.responses[0].partitions[0]), [0]);
    request.topics[0].topic_id = Uuid::from_bytes([0xee; 16]);
    let response = broker.call(client, 16, &request);
    assert_eq!(response.responses[0].partitions[0].error_code, ErrorCode::UnknownTopicId.code());
    request.session_id = 5;
    request.session_epoch = 1;
    let response = broker.call(client, 16, &request);
    assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
}

/// A broker whose first batches are in files only: they are more than the tail keeps.
fn broker_with_cold_data() -> (Broker, ConnectionId, usize) {
    let mut broker = Broker::new(Setup { tail_memory_bytes_max: 256 << 10, ..Setup::default() });
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    let value = "x".repeat(100_000);
    let mut batches = 0;
    for _ in 0..160 {
        broker.produce(client, "t", 0, batch(&[&value]));
        batches += 1;
    }
    for _ in 0..50 {
        broker.advance(Duration::from_millis(100));
    }
    (broker, client, batches)
}

#[test]
fn cold_data_is_sent_from_files_in_small_pieces_and_dropped_behind_the_reader() {
    let (mut broker, client, batches) = broker_with_cold_data();
    let mut offset = 0;
    let mut rounds = 0;
    while offset < batches as i64 {
        let mut request = fetch_request("t", &[(0, offset)]);
        request.topics[0].partitions[0].partition_max_bytes = 10 << 20;
        let partition = &broker.fetch(client, &request)[0];
        let read = offsets(partition);
        assert_eq!(read[0], offset);
        assert_eq!(read, (offset..offset + read.len() as i64).collect::<Vec<_>>());
        offset += read.len() as i64;
        rounds += 1;
        assert!(rounds < 100);
        if offset < batches as i64 {
            assert!(partition.records.as_ref().unwrap().len() <= 1 << 20, "in small pieces");
        }
    }
    assert!(broker.sample("millstream_fetch_sendfile_bytes_total") > 14 << 20);
    let dropped: usize = broker.discarded.iter().map(|(_, _, bytes)| bytes).sum();
    assert!(dropped > 5 << 20, "what was read is dropped from the page cache");
    let last = broker.discarded.iter().map(|(_, position, bytes)| position + *bytes as u64).max();
    assert!(last < Some(9 << 20), "well behind the reader, who is past 15 MB: {last:?}");
    assert!(broker.prefetched.is_empty(), "what was made resident was sent");
}

#[test]
fn cold_data_waits_until_it_is_resident_and_holds_nobody_else_up() {
    let (mut broker, client, batches) = broker_with_cold_data();
    let tail = broker.connect(0);
    broker.held_prefetches = Some(Vec::new());
    broker.send(client, VERSION, &fetch_request("t", &[(0, 0)]));
    broker.run();
    assert!(broker.fetched(client).is_none());
    let partition = broker.fetch(tail, &fetch_request("t", &[(0, batches as i64 - 1)])).remove(0);
    assert_eq!(offsets(&partition), [batches as i64 - 1]);
    for (shard, token) in broker.held_prefetches.take().unwrap() {
        broker.events[shard].push_back(Event::Prefetched { token, result: Ok(()) });
    }
    broker.run();
    assert!(!offsets(&broker.fetched(client).expect("it is resident")[0]).is_empty());
}

#[test]
fn a_file_that_is_gone_is_looked_for_once_more() {
    let (mut broker, client, _) = broker_with_cold_data();
    broker.prefetch_result = Err(DiskError::NotFound);
    let partition = broker.fetch(client, &fetch_request("t", &[(0, 0)])).remove(0);
    assert_eq!(partition.error_code, ErrorCode::KafkaStorageError.code());
    assert!(broker.prefetched.len() == 1, "the same range was asked for twice");
    broker.prefetched.clear();
    broker.held_prefetches = Some(Vec::new());
    broker.send(client, VERSION, &fetch_request("t", &[(0, 0)]));
    broker.run();
    let (shard, token) = broker.held_prefetches.take().unwrap()[0];
    broker.prefetch_result = Ok(());
    broker.events[shard].push_back(Event::Prefetched { token, result: Err(DiskError::NotFound) });
    broker.run();
    assert_eq!(broker.fetched(client).expect("it was found the second time")[0].error_code, 0);
}

#[test]
fn a_client_that_leaves_takes_its_requests_with_it() {
    let (mut broker, client, batches) = broker_with_cold_data();
    broker.held_prefetches = Some(Vec::new());
    broker.send(client, VERSION, &fetch_request("t", &[(0, 0)]));
    broker.run();
    broker.disconnect(client);
    let (parked, producer) = (broker.connect(0), broker.connect(0));
    broker.send(parked, VERSION, &fetch_request("t", &[(0, batches as i64)]));
    broker.run();
    assert_eq!(broker.sample("millstream_fetches_parked"), 1);
    broker.hold_disk();
    broker.send(producer, 9, &produce_request("t", -1, &[(0, batch(&["a"]))]));
    broker.run();
    broker.disconnect(parked);
    broker.disconnect(producer);
    assert_eq!(broker.sample("millstream_fetches_parked"), 0);
    assert_eq!(broker.sample("millstream_connections"), 0);
    assert_eq!(broker.sample("millstream_request_bytes_in_flight"), 0);
    broker.release_disk();
    for (shard, token) in broker.held_prefetches.take().unwrap() {
        broker.events[shard].push_back(Event::Prefetched { token, result: Ok(()) });
    }
    broker.advance(Duration::from_secs(10));
    assert_eq!(broker.sample("millstream_cold_bytes_in_flight"), 0);
    assert_eq!(broker.sample("millstream_appends_waiting"), 0);
}

#[test]
fn a_broker_that_starts_again_has_what_was_acknowledged() {
    let mut broker = Broker::new(Setup { shards: 3, ..Setup::default() });
    broker.create_topic("t", 5, &[]);
    let client = broker.connect(0);
    for partition in 0..5 {
        broker.produce(client, "t", partition, batch(&["a", "b"]));
    }
    let Broker { mut disk, now, .. } = broker;
    disk.lose_power();
    for shards in [2, 4] {
        let mut broker = Broker::start(
            Setup { shards, ..Setup::default() },
            std::mem::replace(&mut disk, SimDisk::new(Random::new(0))),
            now,
        );
        let client = broker.connect(1);
        let partitions: Vec<(i32, i64)> = (0..5).map(|partition| (partition, 0)).collect();
        let fetched = broker.fetch(client, &fetch_request("t", &partitions));
        for partition in &fetched {
            assert_eq!((partition.error_code, partition.high_watermark), (0, 2));
            assert_eq!(offsets(partition), [0]);
        }
        disk = broker.disk;
        disk.lose_power();
    }
}
