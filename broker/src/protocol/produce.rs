//! The Produce request (key 0, versions 3 to 13) parsed in place, and its response.
//!
//! A request is a frame that is walked as often as it is needed: once to check and hand out the batches, once to write
//! the response beside it. No vector is built for topics or partitions, and records stay slices of the frame.

use bytes::Bytes;

use super::topic::{
    CurrentLeader, NodeEndpoint, RequestTopic, TopicWalk, current_leader_bytes, write_node_endpoints, write_tag,
};
use super::wire::{Reader, WireError, WireString, Writer};

/// The versions served.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 3..=13;
/// From here on strings and arrays are compact and structures end in tagged fields.
const FLEXIBLE_FROM: i16 = 9;
/// From here on topics are named by id.
const TOPIC_ID_FROM: i16 = 13;
/// From here on a response carries the log start offset.
const LOG_START_OFFSET_FROM: i16 = 5;
/// From here on a response carries the errors of single records and a message (KIP-467).
const RECORD_ERRORS_FROM: i16 = 8;
/// From here on errors tell the current leader (KIP-951).
const CURRENT_LEADER_FROM: i16 = 10;

/// The least a partition takes on the wire: index and the length of its records.
const PARTITION_BYTES_MIN: usize = 5;
/// The least a topic takes on the wire: an empty name and no partitions.
const TOPIC_BYTES_MIN: usize = 2;

/// A Produce request: its head, and the frame for the rest.
#[derive(Clone, Debug)]
pub struct ProduceRequest {
    /// The transaction's name, if the producer has one.
    pub transactional_id: Option<WireString>,
    /// How many replicas must have it before the response: 0, 1, or -1 for all in sync.
    pub acks: i16,
    /// How long the response may wait for them, milliseconds.
    pub timeout_ms: i32,
    version: i16,
    topic_count: usize,
    topics: Reader,
}

impl ProduceRequest {
    /// Reads the head. `body` is the frame after its header.
    pub fn parse(body: Bytes, version: i16) -> Result<ProduceRequest, WireError> {
        assert!(VERSIONS.contains(&version), "the session checks versions");
        let flexible = version >= FLEXIBLE_FROM;
        let mut reader = Reader::new(body);
        let transactional_id = reader.nullable_string(flexible)?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let topic_count = reader.array_count(flexible, TOPIC_BYTES_MIN)?;
        Ok(ProduceRequest { transactional_id, acks, timeout_ms, version, topic_count, topics: reader })
    }

    /// Walks the topics from the first.
    pub fn topics(&self) -> ProduceTopics {
        let (by_id, flexible) = (self.version >= TOPIC_ID_FROM, self.version >= FLEXIBLE_FROM);
        let walk = TopicWalk::new(self.topics.clone(), self.topic_count, by_id, flexible, PARTITION_BYTES_MIN);
        ProduceTopics { walk, flexible }
    }
}

/// One partition of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition {
    /// The partition's index.
    pub index: i32,
    /// The record batches, a slice of the frame.
    pub records: Option<Bytes>,
}

/// A walk through a request: [`ProduceTopics::next_topic`], then [`ProduceTopics::next_partition`] until it is `None`.
#[derive(Clone, Debug)]
pub struct ProduceTopics {
    walk: TopicWalk,
    flexible: bool,
}

impl ProduceTopics {
    /// The next topic; the partitions of the one before must have been walked. `None` after the last, when the whole
    /// request has been read.
    pub fn next_topic(&mut self) -> Result<Option<RequestTopic>, WireError> {
        let topic = self.walk.next_topic()?;
        if topic.is_none() {
            self.walk.rest().tagged_fields(self.flexible)?;
        }
        Ok(topic)
    }

    /// The next partition of the topic; `None` after the last.
    pub fn next_partition(&mut self) -> Result<Option<ProducePartition>, WireError> {
        let flexible = self.flexible;
        let Some(reader) = self.walk.next_partition()? else { return Ok(None) };
        let index = reader.i32()?;
        let records = reader.nullable_bytes(flexible)?;
        reader.tagged_fields(flexible)?;
        Ok(Some(ProducePartition { index, records }))
    }
}

/// What became of one partition of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResult {
    /// Kafka's error code; 0 is success.
    pub error_code: i16,
    /// Offset of the first record, -1 with an error.
    pub base_offset: i64,
    /// The broker's time in the records with LogAppendTime, else -1; milliseconds.
    pub log_append_time: i64,
    /// The first offset that may be read, -1 with an error.
    pub log_start_offset: i64,
    /// What people are told about the error.
    pub rejection: Option<Box<Rejection>>,
    /// Where the leader is, with an error that concerns it.
    pub current_leader: Option<CurrentLeader>,
}

/// What people are told about a refused batch (KIP-467).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejection {
    /// One line.
    pub message: Option<String>,
    /// Records at fault: (index within the batch, why).
    pub records: Vec<(i32, Option<String>)>,
}

impl PartitionResult {
    /// A failure without further words.
    pub fn error(error_code: i16) -> PartitionResult {
        PartitionResult {
            error_code,
            base_offset: -1,
            log_append_time: -1,
            log_start_offset: -1,
            rejection: None,
            current_leader: None,
        }
    }

    /// A failure with a line for people.
    pub fn rejected(error_code: i16, message: String) -> PartitionResult {
        let rejection = Rejection { message: Some(message), records: Vec::new() };
        PartitionResult { rejection: Some(Box::new(rejection)), ..PartitionResult::error(error_code) }
    }
}

/// Writes the response's body. `results` are in the order in which `request` names the partitions, one for each.
pub fn write_response(
    writer: &mut Writer,
    request: &ProduceRequest,
    results: &[PartitionResult],
    endpoints: &[NodeEndpoint],
    throttle_time_ms: i32,
) {
    let version = request.version;
    let flexible = version >= FLEXIBLE_FROM;
    let mut results = results.iter();
    let mut topics = request.topics();
    writer.array_count(Some(request.topic_count), flexible);
    while let Some(topic) = topics.next_topic().expect("the request was walked before") {
        topic.topic.write(writer, flexible);
        writer.array_count(Some(topic.partition_count), flexible);
        while let Some(partition) = topics.next_partition().expect("the request was walked before") {
            let result = results.next().expect("a result for each partition");
            write_partition(writer, version, partition.index, result);
        }
        writer.no_tagged_fields(flexible);
    }
    assert!(results.next().is_none(), "a partition for each result");
    writer.i32(throttle_time_ms);
    write_node_endpoints(writer, endpoints, flexible, version >= CURRENT_LEADER_FROM);
}

fn write_partition(writer: &mut Writer, version: i16, index: i32, result: &PartitionResult) {
    let flexible = version >= FLEXIBLE_FROM;
    writer.i32(index);
    writer.i16(result.error_code);
    writer.i64(result.base_offset);
    writer.i64(result.log_append_time);
    if version >= LOG_START_OFFSET_FROM {
        writer.i64(result.log_start_offset);
    }
    if version >= RECORD_ERRORS_FROM {
        let records = result.rejection.as_ref().map_or(&[][..], |rejection| &rejection.records);
        writer.array_count(Some(records.len()), flexible);
        for (batch_index, message) in records {
            writer.i32(*batch_index);
            writer.nullable_string(message.as_deref(), flexible);
            writer.no_tagged_fields(flexible);
        }
        let message = result.rejection.as_ref().and_then(|rejection| rejection.message.as_deref());
        writer.nullable_string(message, flexible);
    }
    match result.current_leader {
        Some(leader) if version >= CURRENT_LEADER_FROM => {
            writer.unsigned_varint(1);
            write_tag(writer, 0, &current_leader_bytes(leader));
        }
        _ => writer.no_tagged_fields(flexible),
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_wire::{ProduceRequest as WireRequest, ProduceResponse as WireResponse};
    use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode, StrBytes, Uuid};
    use millstream_storage::TopicId;

    use super::*;
    use crate::protocol::topic::TopicReference;

    const TOPIC_ID: [u8; 16] = [9; 16];

    /// Two topics with two and one partitions, written by an encoder that is not ours.
    fn frame(version: i16) -> Bytes {
        let partition = |index, records: Option<&'static [u8]>| {
            let mut partition = PartitionProduceData::default();
            partition.index = index;
            partition.records = records.map(Bytes::from_static);
            partition
        };
        let topic = |name: &str, partitions| {
            let mut topic = TopicProduceData::default();
            if version >= TOPIC_ID_FROM {
                topic.topic_id = Uuid::from_bytes(TOPIC_ID);
            } else {
                topic.name = StrBytes::from(name);
            }
            topic.partition_data = partitions;
            topic
        };
        let mut request = WireRequest::default();
        request.transactional_id = Some(StrBytes::from("tx"));
        request.acks = -1;
        request.timeout_ms = 1234;
        request.topic_data = vec![
            topic("first", vec![partition(3, Some(b"records")), partition(4, None)]),
            topic("second", vec![partition(0, Some(b""))]),
        ];
        request.encode_to_bytes(ApiVersion::new(version)).unwrap()
    }

    fn reference(name: &str, version: i16) -> TopicReference {
        if version >= TOPIC_ID_FROM {
            TopicReference::Id(TopicId(TOPIC_ID))
        } else {
            TopicReference::Name(WireString::from(name))
        }
    }

    #[test]
    fn every_version_is_parsed_in_place() {
        for version in VERSIONS {
            let frame = frame(version);
            let request = ProduceRequest::parse(frame.clone(), version).unwrap();
            assert_eq!(request.transactional_id.as_deref(), Some("tx"));
            assert_eq!((request.acks, request.timeout_ms), (-1, 1234));
            let mut topics = request.topics();
            let first = topics.next_topic().unwrap().unwrap();
            assert_eq!(first, RequestTopic { topic: reference("first", version), partition_count: 2 });
            let partition = topics.next_partition().unwrap().unwrap();
            assert_eq!(partition, ProducePartition { index: 3, records: Some(Bytes::from_static(b"records")) });
            let range = frame.as_ptr_range();
            assert!(range.contains(&partition.records.unwrap().as_ptr()), "records are a slice of the frame");
            assert_eq!(topics.next_partition(), Ok(Some(ProducePartition { index: 4, records: None })));
            assert_eq!(topics.next_partition(), Ok(None));
            let second = topics.next_topic().unwrap().unwrap();
            assert_eq!(second.topic, reference("second", version));
            assert_eq!(topics.next_partition(), Ok(Some(ProducePartition { index: 0, records: Some(Bytes::new()) })));
            assert_eq!(topics.next_partition(), Ok(None));
            assert_eq!(topics.next_topic(), Ok(None));
        }
    }

    #[test]
    fn every_version_of_the_response_is_understood() {
        for version in VERSIONS {
            let request = ProduceRequest::parse(frame(version), version).unwrap();
            let mut refused = PartitionResult::rejected(87, "bad".to_string());
            refused.rejection.as_mut().unwrap().records = vec![(2, Some("no key".to_string())), (5, None)];
            let mut moved = PartitionResult::error(6);
            moved.current_leader = Some(CurrentLeader { leader_id: 2, leader_epoch: 7 });
            let accepted = PartitionResult {
                base_offset: 42,
                log_append_time: 99,
                log_start_offset: 5,
                ..PartitionResult::error(0)
            };
            let endpoints =
                [NodeEndpoint { node_id: 2, host: "other".to_string(), port: 9093, rack: Some("r".to_string()) }];
            let mut writer = Writer::default();
            write_response(&mut writer, &request, &[accepted, refused, moved], &endpoints, 9);
            let mut body = writer.finish();
            let mut decoder = kafka_wire_core::Decoder::new(body.split_off(0), DecodeLimits::default()).unwrap();
            let response = WireResponse::decode(&mut decoder, ApiVersion::new(version)).unwrap();
            decoder.finish().unwrap();

            assert_eq!((response.responses.len(), response.throttle_time_ms), (2, 9));
            if version >= TOPIC_ID_FROM {
                assert_eq!(response.responses[1].topic_id.to_bytes(), TOPIC_ID);
            } else {
                assert_eq!(response.responses[1].name.as_str(), "second");
            }
            let [accepted, refused] = &response.responses[0].partition_responses[..] else { panic!("two partitions") };
            assert_eq!((accepted.index, accepted.error_code, accepted.base_offset), (3, 0, 42));
            assert_eq!(accepted.log_append_time_ms, 99);
            assert_eq!(accepted.log_start_offset, if version >= LOG_START_OFFSET_FROM { 5 } else { -1 });
            assert_eq!((refused.index, refused.error_code, refused.base_offset), (4, 87, -1));
            if version >= RECORD_ERRORS_FROM {
                assert_eq!(refused.error_message.as_ref().unwrap().as_str(), "bad");
                assert_eq!(refused.record_errors.len(), 2);
                assert_eq!(refused.record_errors[0].batch_index, 2);
            }
            let moved = &response.responses[1].partition_responses[0];
            assert_eq!(moved.error_code, 6);
            if version >= CURRENT_LEADER_FROM {
                assert_eq!((moved.current_leader.leader_id, moved.current_leader.leader_epoch), (2, 7));
                assert_eq!(response.node_endpoints[0].host.as_str(), "other");
                assert_eq!(response.node_endpoints[0].port, 9093);
            } else {
                assert!(response.node_endpoints.is_empty());
            }
        }
    }

    /// Walks a request to its end; how hostile frames are read.
    fn walk(body: Bytes, version: i16) -> Result<usize, WireError> {
        let mut topics = ProduceRequest::parse(body, version)?.topics();
        let mut partitions = 0;
        while topics.next_topic()?.is_some() {
            while topics.next_partition()?.is_some() {
                partitions += 1;
            }
        }
        Ok(partitions)
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error() {
        for version in VERSIONS {
            let frame = frame(version);
            assert_eq!(walk(frame.clone(), version), Ok(3));
            for length in 0..frame.len() {
                assert!(walk(frame.slice(..length), version).is_err(), "version {version} cut at {length}");
            }
        }
    }

    #[test]
    fn counts_beyond_the_frame_are_refused() {
        let mut body = Writer::default();
        body.nullable_string(None, false);
        body.i16(1);
        body.i32(0);
        body.i32(i32::MAX);
        assert_eq!(walk(body.finish(), 3), Err(WireError::CountTooLarge));
        let mut body = Writer::default();
        body.nullable_string(None, true);
        body.i16(1);
        body.i32(0);
        body.unsigned_varint(2);
        body.string("t", true);
        body.unsigned_varint(u32::MAX);
        assert_eq!(walk(body.finish(), 9), Err(WireError::CountTooLarge));
    }

    /// Damaged frames that another decoder reads are read the same here: the hand-written parser takes nothing for
    /// something else. (What the other refuses may pass here: bytes left over, more tags than it takes.)
    #[test]
    fn what_another_decoder_reads_is_read_the_same() {
        const DAMAGES: u64 = 2_000;
        let mut read = 0;
        for version in VERSIONS {
            let good = frame(version);
            for seed in 0..DAMAGES {
                let mut random = millstream_storage::random::Random::new(seed);
                let mut damaged = good.to_vec();
                for _ in 0..=random.below(2) {
                    let position = random.index(damaged.len());
                    damaged[position] = [0, 1, 2, 0x7f, 0x80, 0xff][random.index(6)];
                }
                let damaged = Bytes::from(damaged);
                let mut decoder =
                    kafka_wire_core::Decoder::new(damaged.clone(), DecodeLimits::default()).expect("a small frame");
                let Ok(theirs) = WireRequest::decode(&mut decoder, ApiVersion::new(version)) else { continue };
                let theirs =
                    theirs.topic_data.iter().flat_map(|topic| topic.partition_data.iter()).map(|partition| {
                        ProducePartition { index: partition.index, records: partition.records.clone() }
                    });
                let mut ours = Vec::new();
                let mut topics = ProduceRequest::parse(damaged, version).expect("it can be read").topics();
                while topics.next_topic().expect("it can be read").is_some() {
                    ours.extend(std::iter::from_fn(|| topics.next_partition().expect("it can be read")));
                }
                assert_eq!(ours, theirs.collect::<Vec<_>>(), "version {version}, damage of seed {seed}");
                read += 1;
            }
        }
        assert!(read > 1_000, "the damage leaves enough to compare: {read}");
    }
}
