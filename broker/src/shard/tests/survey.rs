use kafka_wire::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_wire::describe_log_dirs_response::{DescribeLogDirsPartition, DescribeLogDirsTopic};
use kafka_wire::describe_producers_request::TopicRequest;
use kafka_wire::{DescribeLogDirsRequest, DescribeProducersRequest};
use millstream_replication::ErrorCode;

use super::produce::produce_request;
use super::*;

/// Topic, partition and size.
pub(super) type Sizes = Vec<(String, i32, i64)>;

impl Broker {
    /// Sends a survey and takes its response, which comes after some turns.
    #[track_caller]
    fn survey<R: RequestResponsePair>(&mut self, client: ConnectionId, version: i16, request: &R) -> R::Response {
        self.send(client, version, request);
        for _ in 0..1000 {
            self.run();
            if let Some(response) = self.receive::<R>(client, version) {
                return response;
            }
        }
        panic!("no response");
    }

    /// Topic, partition, size and offset lag of all partitions.
    #[track_caller]
    pub(super) fn offset_lags(&mut self, client: ConnectionId) -> Vec<(String, i32, i64, i64)> {
        let mut request = DescribeLogDirsRequest::default();
        request.topics = None;
        let response = self.survey(client, 4, &request);
        let partitions = |topic: &DescribeLogDirsTopic| {
            let shown = |of: &DescribeLogDirsPartition| {
                (topic.name.to_string(), of.partition_index, of.partition_size, of.offset_lag)
            };
            topic.partitions.iter().map(shown).collect::<Vec<_>>()
        };
        response.results[0].topics.iter().flat_map(partitions).collect()
    }

    #[track_caller]
    pub(super) fn log_dirs(
        &mut self,
        client: ConnectionId,
        version: i16,
        topics: Option<&[(&str, &[i32])]>,
    ) -> (Sizes, i64, i64) {
        let mut request = DescribeLogDirsRequest::default();
        request.topics = topics.map(|topics| {
            let topic = |(name, partitions): &(&str, &[i32])| {
                let mut topic = DescribableLogDirTopic::default();
                topic.topic = StrBytes::from(*name);
                topic.partitions = partitions.to_vec();
                topic
            };
            topics.iter().map(topic).collect()
        });
        let response = self.survey(client, version, &request);
        assert_eq!(response.error_code, 0);
        let [directory] = &response.results[..] else { panic!("there is one directory") };
        assert_eq!((directory.error_code, directory.log_dir.as_str()), (0, "/data"));
        let mut sizes = Sizes::new();
        for topic in &directory.topics {
            for partition in &topic.partitions {
                assert!(partition.offset_lag == 0 && !partition.is_future_key);
                sizes.push((topic.name.to_string(), partition.partition_index, partition.partition_size));
            }
        }
        sizes.sort();
        (sizes, directory.total_bytes, directory.usable_bytes)
    }
}

#[test]
fn log_dirs_show_the_size_of_every_partition() {
    for shards in [1, 3] {
        let mut broker = Broker::new(Setup { shards, ..Setup::default() });
        // More than one round asks for.
        broker.create_topic("many", 300, &[]);
        broker.create_topic("one", 1, &[]);
        // It takes some turns until all of them are open.
        (0..8).for_each(|_| broker.run());
        let client = broker.connect(0);
        let records = batch(&["a", "b"]);
        let bytes = records.len() as i64;
        broker.call(client, 9, &produce_request("many", -1, &[(299, records.clone())]));
        broker.call(client, 9, &produce_request("one", -1, &[(0, records)]));
        for version in 1..=4 {
            let (sizes, total, usable) = broker.log_dirs(client, version, None);
            assert_eq!(sizes.len(), 301);
            assert_eq!(sizes.iter().filter(|(_, _, size)| *size == 0).count(), 299);
            assert_eq!((&sizes[299], &sizes[300]), (&("many".into(), 299, bytes), &("one".into(), 0, bytes)));
            assert_eq!((total, usable), (-1, -1), "nobody has measured it");
            let some = Some(&[("one", &[0, 0, 7][..]), ("many", &[299]), ("none", &[0]), ("one", &[0])][..]);
            let (sizes, ..) = broker.log_dirs(client, version, some);
            assert_eq!(sizes, [("many".into(), 299, bytes), ("one".into(), 0, bytes)]);
            assert_eq!(broker.log_dirs(client, version, Some(&[])).0, []);
        }
        for events in &mut broker.events {
            events.push_back(Event::FreeSpace { bytes: 5 << 30, total_bytes: 7 << 30 });
        }
        let (_, total, usable) = broker.log_dirs(client, 4, None);
        assert_eq!((total, usable), (7 << 30, 5 << 30));
    }
}

#[test]
fn a_survey_goes_in_rounds_and_one_after_the_other() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("many", 600, &[]);
    let (first, second) = (broker.connect(0), broker.connect(0));
    let mut request = DescribeLogDirsRequest::default();
    request.topics = None;
    broker.send(first, 4, &request);
    broker.send(second, 4, &request);
    let sent = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count();
    let mut effects = Vec::new();
    for event in std::mem::take(&mut broker.events[0]) {
        broker.shards[0].handle(broker.now, event, &mut effects);
    }
    // Three rounds and the end for each.
    for turn in 0..8 {
        assert_eq!(broker.shards[0].next_deadline(), Some(Duration::ZERO), "turn {turn}");
        assert_eq!(sent(&effects), turn / 4);
        broker.shards[0].end_turn(broker.now, &mut effects);
    }
    assert_ne!(broker.shards[0].next_deadline(), Some(Duration::ZERO));
    assert_eq!(sent(&effects), 2);

    // One whose client goes is forgotten, in the middle of it too.
    broker.send(first, 4, &request);
    broker.send(second, 4, &request);
    for event in std::mem::take(&mut broker.events[0]) {
        broker.shards[0].handle(broker.now, event, &mut effects);
    }
    broker.shards[0].end_turn(broker.now, &mut effects);
    broker.disconnect(first);
    (0..4).for_each(|_| broker.run());
    assert_eq!(broker.receive::<DescribeLogDirsRequest>(second, 4).expect("a response").results.len(), 1);
}

#[test]
fn producers_are_described_with_their_last_sequence() {
    for shards in [1, 2] {
        let mut broker = Broker::new(Setup { shards, ..Setup::default() });
        broker.create_topic("t", 2, &[]);
        let client = broker.connect(0);
        broker.call(client, 9, &produce_request("t", -1, &[(1, producer_batch(7, 0, 0, &["a", "b"]))]));
        broker.call(client, 9, &produce_request("t", -1, &[(1, producer_batch(7, 0, 2, &["c"]))]));
        broker.call(client, 9, &produce_request("t", -1, &[(1, producer_batch(9, 3, 0, &["d"]))]));
        let mut topic = TopicRequest::default();
        topic.name = StrBytes::from("t");
        topic.partition_indexes = vec![0, 1, 2];
        let mut unknown = TopicRequest::default();
        unknown.name = StrBytes::from("u");
        unknown.partition_indexes = vec![0];
        let mut request = DescribeProducersRequest::default();
        request.topics = vec![topic, unknown];
        let response = broker.survey(client, 0, &request);
        let unknown = ErrorCode::UnknownTopicOrPartition.code();
        let found: Vec<(&str, i32, i16, usize)> = response
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.as_str(), partition)))
            .map(|(name, partition)| {
                (name, partition.partition_index, partition.error_code, partition.active_producers.len())
            })
            .collect();
        assert_eq!(found, [("t", 0, 0, 0), ("t", 1, 0, 2), ("t", 2, unknown, 0), ("u", 0, unknown, 0)]);
        let producers = &response.topics[0].partitions[1].active_producers;
        let shown: Vec<_> = producers
            .iter()
            .map(|producer| (producer.producer_id, producer.producer_epoch, producer.last_sequence))
            .collect();
        assert_eq!(shown, [(7, 0, 2), (9, 3, 0)]);
        assert!(producers.iter().all(|producer| {
            (START_UNIX_MS..START_UNIX_MS + 2000).contains(&producer.last_timestamp)
                && producer.coordinator_epoch == -1
                && producer.current_txn_start_offset == -1
        }));
    }
}
