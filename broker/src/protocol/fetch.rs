//! The Fetch request (key 1, versions 4 to 18) parsed in place, and its response as a list of parts: small buffers of
//! ours around slices of memory and ranges of files. Records are never copied.

use bytes::Bytes;
use millstream_storage::shard_log::ReadPart;

use super::header::{LENGTH_BYTES, set_frame_length};
use super::send::SendPart;
use super::topic::{
    CurrentLeader, NodeEndpoint, RequestTopic, TopicReference, TopicWalk, current_leader_bytes, write_node_endpoints,
    write_tag,
};
use super::wire::{Reader, WireError, Writer};

/// The versions served.
pub const VERSIONS: std::ops::RangeInclusive<i16> = 4..=18;
/// From here on partitions carry the log start offset.
const LOG_START_OFFSET_FROM: i16 = 5;
/// From here on there are fetch sessions (KIP-227) and an error for the whole response.
const SESSION_FROM: i16 = 7;
/// From here on a request says which leader epoch it believes in (KIP-320).
const CURRENT_LEADER_EPOCH_FROM: i16 = 9;
/// From here on a request carries the client's rack and a response the preferred replica (KIP-392).
const RACK_FROM: i16 = 11;
/// From here on strings and arrays are compact, structures end in tagged fields, and a request carries the epoch of the
/// last record fetched (KIP-595).
const FLEXIBLE_FROM: i16 = 12;
/// From here on topics are named by id.
const TOPIC_ID_FROM: i16 = 13;
/// Up to here the replica's id is an ordinary field, which consumers set to -1.
const REPLICA_ID_UNTIL: i16 = 14;
/// From here on a response tells the endpoints of leaders (KIP-951).
const NODE_ENDPOINTS_FROM: i16 = 16;

/// The least a partition takes on the wire in version 4: index, offset, bytes.
const PARTITION_BYTES_MIN: usize = 16;
/// The least a topic takes on the wire: an empty name and no partitions.
const TOPIC_BYTES_MIN: usize = 2;
/// The least a topic to forget takes on the wire.
const FORGOTTEN_BYTES_MIN: usize = 2;

/// The session epoch of a request that wants no session, or closes one (KIP-227).
pub const FINAL_SESSION_EPOCH: i32 = -1;
/// The session epoch of a full request that would like a session.
pub const INITIAL_SESSION_EPOCH: i32 = 0;

/// A Fetch request: its head, and the frame for the rest.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// How long the response may wait for `min_bytes`, milliseconds.
    pub max_wait_ms: i32,
    /// How many bytes of records are worth a response.
    pub min_bytes: i32,
    /// How many bytes of records a response may hold, but for the first batch (KIP-74).
    pub max_bytes: i32,
    /// Only what transactions have decided may be returned (`isolation.level=read_committed`).
    pub read_committed: bool,
    /// The fetch session, or 0.
    pub session_id: i32,
    /// The request's number within the session.
    pub session_epoch: i32,
    /// Its version.
    pub version: i16,
    topic_count: usize,
    topics: Reader,
}

impl FetchRequest {
    /// Reads the head. `body` is the frame after its header.
    pub fn parse(body: Bytes, version: i16) -> Result<FetchRequest, WireError> {
        assert!(VERSIONS.contains(&version), "the session checks versions");
        let flexible = version >= FLEXIBLE_FROM;
        let mut reader = Reader::new(body);
        if version <= REPLICA_ID_UNTIL {
            reader.i32()?; // replica_id
        }
        let max_wait_ms = reader.i32()?;
        let min_bytes = reader.i32()?;
        let max_bytes = reader.i32()?;
        let read_committed = reader.i8()? == 1;
        let (session_id, session_epoch) =
            if version >= SESSION_FROM { (reader.i32()?, reader.i32()?) } else { (0, FINAL_SESSION_EPOCH) };
        let topic_count = reader.array_count(flexible, TOPIC_BYTES_MIN)?;
        Ok(FetchRequest {
            max_wait_ms,
            min_bytes,
            max_bytes,
            read_committed,
            session_id,
            session_epoch,
            version,
            topic_count,
            topics: reader,
        })
    }

    /// Walks the topics from the first.
    pub fn topics(&self) -> FetchTopics {
        let version = self.version;
        let (by_id, flexible) = (version >= TOPIC_ID_FROM, version >= FLEXIBLE_FROM);
        let walk = TopicWalk::new(self.topics.clone(), self.topic_count, by_id, flexible, PARTITION_BYTES_MIN);
        FetchTopics { walk, version }
    }
}

/// One partition of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition's index.
    pub index: i32,
    /// The leader epoch the client knows, or -1.
    pub current_leader_epoch: i32,
    /// The first offset wanted.
    pub fetch_offset: i64,
    /// The leader epoch of the last record fetched, or -1.
    pub last_fetched_epoch: i32,
    /// How many bytes of records are wanted, but for the first batch (KIP-74).
    pub max_bytes: i32,
}

/// A walk through a request: [`FetchTopics::next_topic`], then [`FetchTopics::next_partition`] until it is `None`.
#[derive(Clone, Debug)]
pub struct FetchTopics {
    walk: TopicWalk,
    version: i16,
}

impl FetchTopics {
    /// The next topic; the partitions of the one before must have been walked. `None` after the last, when the whole
    /// request has been read.
    pub fn next_topic(&mut self) -> Result<Option<RequestTopic>, WireError> {
        let topic = self.walk.next_topic()?;
        if topic.is_none() {
            self.finish()?;
        }
        Ok(topic)
    }

    /// The next partition of the topic; `None` after the last.
    pub fn next_partition(&mut self) -> Result<Option<FetchPartition>, WireError> {
        let flexible = self.version >= FLEXIBLE_FROM;
        let Some(reader) = self.walk.next_partition()? else { return Ok(None) };
        let index = reader.i32()?;
        let current_leader_epoch = if self.version >= CURRENT_LEADER_EPOCH_FROM { reader.i32()? } else { -1 };
        let fetch_offset = reader.i64()?;
        let last_fetched_epoch = if self.version >= FLEXIBLE_FROM { reader.i32()? } else { -1 };
        if self.version >= LOG_START_OFFSET_FROM {
            reader.i64()?; // a follower's log start offset
        }
        let max_bytes = reader.i32()?;
        reader.tagged_fields(flexible)?;
        Ok(Some(FetchPartition { index, current_leader_epoch, fetch_offset, last_fetched_epoch, max_bytes }))
    }

    /// Reads what follows the topics: those to forget, which mean nothing without a session, the rack, tagged fields.
    fn finish(&mut self) -> Result<(), WireError> {
        let flexible = self.version >= FLEXIBLE_FROM;
        let reader = self.walk.rest();
        if self.version >= SESSION_FROM {
            for _ in 0..reader.array_count(flexible, FORGOTTEN_BYTES_MIN)? {
                TopicReference::read(reader, self.version >= TOPIC_ID_FROM, flexible)?;
                for _ in 0..reader.array_count(flexible, 4)? {
                    reader.i32()?;
                }
                reader.tagged_fields(flexible)?;
            }
        }
        if self.version >= RACK_FROM {
            reader.string(flexible)?;
        }
        reader.tagged_fields(flexible)
    }
}

/// Where two logs part (KIP-595): the largest epoch both may share, and its end offset here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivergingEpoch {
    /// The epoch.
    pub epoch: i32,
    /// One past its last offset.
    pub end_offset: i64,
}

/// What one partition of a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionData {
    /// Kafka's error code; 0 is success.
    pub error_code: i16,
    /// One past the last offset a consumer may read; -1 with an error.
    pub high_watermark: i64,
    /// The first offset no transaction has decided; -1 with an error.
    pub last_stable_offset: i64,
    /// The first offset that may be read; -1 with an error.
    pub log_start_offset: i64,
    /// Set when the client's log is not a prefix of ours.
    pub diverging_epoch: Option<DivergingEpoch>,
    /// Where the leader is, with an error that concerns it.
    pub current_leader: Option<CurrentLeader>,
    /// The records: whole batches, the last possibly cut.
    pub records: Vec<ReadPart>,
}

impl PartitionData {
    /// A failure.
    pub fn error(error_code: i16) -> PartitionData {
        PartitionData {
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            records: Vec::new(),
        }
    }
}

/// A response without partitions: an error that concerns the whole request (version 7 and above), or a client that is to
/// wait and ask again (KIP-219).
pub fn write_empty_response(writer: &mut Writer, version: i16, error_code: i16, throttle_time_ms: i32) {
    let flexible = version >= FLEXIBLE_FROM;
    writer.i32(throttle_time_ms);
    if version >= SESSION_FROM {
        writer.i16(error_code);
        writer.i32(0); // session_id
    }
    writer.array_count(Some(0), flexible);
    writer.no_tagged_fields(flexible);
}

/// Ends a response frame that `writer` holds so far (length prefix, to be filled in, and header): the body's own bytes
/// and the records between them. `data` is in the order in which `request` names the partitions, one for each; session
/// id 0 is answered always, which tells the client to send full requests (KIP-227).
pub fn response_parts(
    mut writer: Writer,
    request: &FetchRequest,
    data: Vec<PartitionData>,
    endpoints: &[NodeEndpoint],
    throttle_time_ms: i32,
) -> Vec<SendPart> {
    let version = request.version;
    let flexible = version >= FLEXIBLE_FROM;
    // Where in the writer's bytes records go.
    let mut records: Vec<(usize, Vec<ReadPart>)> = Vec::new();
    let mut records_bytes = 0;
    let mut data = data.into_iter();

    writer.i32(throttle_time_ms);
    if version >= SESSION_FROM {
        writer.i16(0); // error_code
        writer.i32(0); // session_id
    }
    writer.array_count(Some(request.topic_count), flexible);
    let mut topics = request.topics();
    while let Some(topic) = topics.next_topic().expect("the request was walked before") {
        topic.topic.write(&mut writer, flexible);
        writer.array_count(Some(topic.partition_count), flexible);
        while let Some(partition) = topics.next_partition().expect("the request was walked before") {
            let mut data = data.next().expect("data for each partition");
            let bytes: usize = data.records.iter().map(ReadPart::bytes).sum();
            write_partition_head(&mut writer, request, partition.index, &data, bytes);
            if bytes > 0 {
                records_bytes += bytes;
                records.push((writer.len(), std::mem::take(&mut data.records)));
            }
            write_partition_tags(&mut writer, version, &data);
        }
        writer.no_tagged_fields(flexible);
    }
    assert!(data.next().is_none(), "a partition for each entry of data");
    write_node_endpoints(&mut writer, endpoints, flexible, version >= NODE_ENDPOINTS_FROM);

    let frame_bytes = writer.len() - LENGTH_BYTES + records_bytes;
    set_frame_length(&mut writer, frame_bytes);
    let buffer = writer.finish();
    let mut parts = Vec::with_capacity(1 + 2 * records.len());
    let mut written = 0;
    for (position, slices) in records {
        parts.push(SendPart::Memory(buffer.slice(written..position)));
        written = position;
        parts.extend(slices.into_iter().map(|slice| match slice {
            ReadPart::Memory(bytes) => SendPart::Memory(bytes),
            ReadPart::File { path, position, bytes } => SendPart::File { path, position, bytes },
        }));
    }
    if written < buffer.len() {
        parts.push(SendPart::Memory(buffer.slice(written..)));
    }
    parts
}

fn write_partition_head(
    writer: &mut Writer,
    request: &FetchRequest,
    index: i32,
    data: &PartitionData,
    records_bytes: usize,
) {
    let version = request.version;
    let flexible = version >= FLEXIBLE_FROM;
    writer.i32(index);
    writer.i16(data.error_code);
    writer.i64(data.high_watermark);
    writer.i64(data.last_stable_offset);
    if version >= LOG_START_OFFSET_FROM {
        writer.i64(data.log_start_offset);
    }
    // aborted_transactions (KIP-98): without transactions there are none. As Kafka answers, they are null for a consumer
    // that reads uncommitted records, which need not look.
    writer.array_count(request.read_committed.then_some(0), flexible);
    if version >= RACK_FROM {
        writer.i32(-1); // preferred_read_replica
    }
    writer.bytes_length(Some(records_bytes), flexible);
}

fn write_partition_tags(writer: &mut Writer, version: i16, data: &PartitionData) {
    if version < FLEXIBLE_FROM {
        return;
    }
    let count = u32::from(data.diverging_epoch.is_some()) + u32::from(data.current_leader.is_some());
    writer.unsigned_varint(count);
    if let Some(diverging) = data.diverging_epoch {
        let mut value = [0; 13];
        value[..4].copy_from_slice(&diverging.epoch.to_be_bytes());
        value[4..12].copy_from_slice(&diverging.end_offset.to_be_bytes());
        write_tag(writer, 0, &value);
    }
    if let Some(leader) = data.current_leader {
        write_tag(writer, 1, &current_leader_bytes(leader));
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::fetch_request::{FetchPartition as WirePartition, FetchTopic as WireTopic, ForgottenTopic};
    use kafka_wire::{FetchRequest as WireRequest, FetchResponse as WireResponse};
    use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode, StrBytes, Uuid};
    use millstream_storage::TopicId;

    use super::*;
    use crate::protocol::wire::WireString;

    const TOPIC_ID: [u8; 16] = [9; 16];

    /// One topic with two partitions, and one topic to forget, written by an encoder that is not ours.
    fn frame(version: i16, read_committed: bool) -> Bytes {
        let partition = |index, offset| {
            let mut partition = WirePartition::default();
            partition.partition = index;
            partition.fetch_offset = offset;
            partition.partition_max_bytes = 1 << 20;
            if version >= CURRENT_LEADER_EPOCH_FROM {
                partition.current_leader_epoch = 4;
            }
            if version >= FLEXIBLE_FROM {
                partition.last_fetched_epoch = 3;
            }
            partition
        };
        let mut topic = WireTopic::default();
        let mut forgotten = ForgottenTopic::default();
        forgotten.partitions = vec![8];
        if version >= TOPIC_ID_FROM {
            topic.topic_id = Uuid::from_bytes(TOPIC_ID);
            forgotten.topic_id = Uuid::from_bytes(TOPIC_ID);
        } else {
            topic.topic = StrBytes::from("topic");
            forgotten.topic = StrBytes::from("forgotten");
        }
        topic.partitions = vec![partition(0, 100), partition(7, 200)];
        let mut request = WireRequest::default();
        request.max_wait_ms = 500;
        request.min_bytes = 1;
        request.max_bytes = 1 << 24;
        request.isolation_level = i8::from(read_committed);
        request.topics = vec![topic];
        if version >= SESSION_FROM {
            request.session_id = 11;
            request.session_epoch = 12;
            request.forgotten_topics_data = vec![forgotten];
        }
        if version >= RACK_FROM {
            request.rack_id = StrBytes::from("rack");
        }
        request.encode_to_bytes(ApiVersion::new(version)).unwrap()
    }

    fn walk(body: Bytes, version: i16) -> Result<Vec<FetchPartition>, WireError> {
        let mut topics = FetchRequest::parse(body, version)?.topics();
        let mut partitions = Vec::new();
        while topics.next_topic()?.is_some() {
            while let Some(partition) = topics.next_partition()? {
                partitions.push(partition);
            }
        }
        Ok(partitions)
    }

    #[test]
    fn every_version_is_parsed() {
        for version in VERSIONS {
            let request = FetchRequest::parse(frame(version, true), version).unwrap();
            assert_eq!((request.max_wait_ms, request.min_bytes, request.max_bytes), (500, 1, 1 << 24));
            assert!(request.read_committed);
            let session = (request.session_id, request.session_epoch);
            assert_eq!(session, if version >= SESSION_FROM { (11, 12) } else { (0, FINAL_SESSION_EPOCH) });
            let topic = request.topics().next_topic().unwrap().unwrap();
            let reference = if version >= TOPIC_ID_FROM {
                TopicReference::Id(TopicId(TOPIC_ID))
            } else {
                TopicReference::Name(WireString::from("topic"))
            };
            assert_eq!(topic, RequestTopic { topic: reference, partition_count: 2 });
            let current_leader_epoch = if version >= CURRENT_LEADER_EPOCH_FROM { 4 } else { -1 };
            let last_fetched_epoch = if version >= FLEXIBLE_FROM { 3 } else { -1 };
            let partition = |index, fetch_offset| FetchPartition {
                index,
                current_leader_epoch,
                fetch_offset,
                last_fetched_epoch,
                max_bytes: 1 << 20,
            };
            assert_eq!(walk(frame(version, true), version), Ok(vec![partition(0, 100), partition(7, 200)]));
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error() {
        for version in VERSIONS {
            let frame = frame(version, false);
            for length in 0..frame.len() {
                assert!(walk(frame.slice(..length), version).is_err(), "version {version} cut at {length}");
            }
        }
    }

    /// Joins the parts as a socket would, reading file ranges from `file`.
    fn join(parts: &[SendPart], file: &[u8]) -> Vec<u8> {
        let mut joined = Vec::new();
        for part in parts {
            match part {
                SendPart::Memory(bytes) => joined.extend_from_slice(bytes),
                SendPart::File { position, bytes, .. } => {
                    joined.extend_from_slice(&file[*position as usize..][..*bytes]);
                }
            }
        }
        joined
    }

    #[test]
    fn every_version_of_the_response_is_understood() {
        let file = b"....from the file....";
        for version in VERSIONS {
            for read_committed in [false, true] {
                let request = FetchRequest::parse(frame(version, read_committed), version).unwrap();
                let memory = Bytes::from_static(b"from memory");
                let full = PartitionData {
                    high_watermark: 110,
                    last_stable_offset: 109,
                    log_start_offset: 50,
                    records: vec![
                        ReadPart::File { path: "segment".into(), position: 4, bytes: 13 },
                        ReadPart::Memory(memory.clone()),
                    ],
                    ..PartitionData::error(0)
                };
                let failed = PartitionData {
                    diverging_epoch: Some(DivergingEpoch { epoch: 2, end_offset: 60 }),
                    current_leader: Some(CurrentLeader { leader_id: 1, leader_epoch: 5 }),
                    ..PartitionData::error(74)
                };
                let endpoints = [NodeEndpoint { node_id: 1, host: "h".to_string(), port: 1, rack: None }];
                let mut writer = Writer::default();
                writer.i32(0);
                writer.i32(77); // as a response header without tags
                let parts = response_parts(writer, &request, vec![full, failed], &endpoints, 9);
                let shared = parts
                    .iter()
                    .any(|part| matches!(part, SendPart::Memory(bytes) if bytes.as_ptr() == memory.as_ptr()));
                assert!(shared, "records are not copied");
                let frame = join(&parts, file);
                assert_eq!(i32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);

                let body = Bytes::copy_from_slice(&frame[8..]);
                let mut decoder = kafka_wire_core::Decoder::new(body, DecodeLimits::default()).unwrap();
                let response = WireResponse::decode(&mut decoder, ApiVersion::new(version)).unwrap();
                decoder.finish().unwrap();
                assert_eq!((response.error_code, response.session_id, response.throttle_time_ms), (0, 0, 9));
                let [full, failed] = &response.responses[0].partitions[..] else { panic!("two partitions") };
                assert_eq!((full.partition_index, full.error_code), (0, 0));
                assert_eq!((full.high_watermark, full.last_stable_offset), (110, 109));
                assert_eq!(full.records.as_deref(), Some(&b"from the filefrom memory"[..]));
                assert_eq!(full.aborted_transactions.as_ref().map(Vec::len), read_committed.then_some(0));
                assert_eq!((failed.partition_index, failed.error_code), (7, 74));
                assert_eq!(failed.records.as_deref(), Some(&b""[..]));
                if version >= FLEXIBLE_FROM {
                    assert_eq!((failed.diverging_epoch.epoch, failed.diverging_epoch.end_offset), (2, 60));
                    assert_eq!(failed.current_leader.leader_epoch, 5);
                    assert_eq!(full.diverging_epoch.epoch, -1);
                }
                assert_eq!(response.node_endpoints.len(), usize::from(version >= NODE_ENDPOINTS_FROM));
            }
        }
    }

    #[test]
    fn an_error_for_the_whole_request_is_understood() {
        for version in VERSIONS {
            let mut writer = Writer::default();
            write_empty_response(&mut writer, version, 70, 9);
            let mut decoder = kafka_wire_core::Decoder::new(writer.finish(), DecodeLimits::default()).unwrap();
            let response = WireResponse::decode(&mut decoder, ApiVersion::new(version)).unwrap();
            decoder.finish().unwrap();
            assert_eq!(response.error_code, if version >= SESSION_FROM { 70 } else { 0 });
            assert_eq!(response.throttle_time_ms, 9);
        }
    }

    /// Damaged frames that another decoder reads are read the same here: the hand-written parser takes nothing for
    /// something else. (What the other refuses may pass here: bytes left over, more tags than it takes.)
    #[test]
    fn what_another_decoder_reads_is_read_the_same() {
        const DAMAGES: u64 = 2_000;
        let mut read = 0;
        for version in VERSIONS {
            let good = frame(version, false);
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
                let request = FetchRequest::parse(damaged.clone(), version).expect("it can be read");
                assert_eq!(
                    (request.max_wait_ms, request.min_bytes, request.max_bytes, request.read_committed),
                    (theirs.max_wait_ms, theirs.min_bytes, theirs.max_bytes, theirs.isolation_level == 1),
                );
                let theirs =
                    theirs.topics.iter().flat_map(|topic| topic.partitions.iter()).map(|partition| FetchPartition {
                        index: partition.partition,
                        current_leader_epoch: partition.current_leader_epoch,
                        fetch_offset: partition.fetch_offset,
                        last_fetched_epoch: partition.last_fetched_epoch,
                        max_bytes: partition.partition_max_bytes,
                    });
                let ours = walk(damaged, version).expect("it can be read");
                assert_eq!(ours, theirs.collect::<Vec<_>>(), "version {version}, damage of seed {seed}");
                read += 1;
            }
        }
        assert!(read > 1_000, "the damage leaves enough to compare: {read}");
    }
}
