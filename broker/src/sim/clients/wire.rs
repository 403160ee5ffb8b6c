//! Requests and responses as a client puts them on the wire, by an encoder that is not the broker's; and the error codes
//! that clients know.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode, StrBytes};

/// The topic that the simulated clients use.
pub const TOPIC: &str = "simulated";

/// A topic that is deleted and created again all the time.
pub const DOOMED: &str = "doomed";

/// OFFSET_OUT_OF_RANGE
pub const OFFSET_OUT_OF_RANGE: i16 = 1;
/// UNKNOWN_TOPIC_OR_PARTITION
pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
/// UNKNOWN_MEMBER_ID
pub const UNKNOWN_MEMBER_ID: i16 = 25;
/// TOPIC_ALREADY_EXISTS
pub const TOPIC_ALREADY_EXISTS: i16 = 36;
/// OUT_OF_ORDER_SEQUENCE_NUMBER
pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
/// OFFSET_NOT_AVAILABLE
pub const OFFSET_NOT_AVAILABLE: i16 = 78;
/// MEMBER_ID_REQUIRED
pub const MEMBER_ID_REQUIRED: i16 = 79;

/// UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS,
/// NOT_ENOUGH_REPLICAS_AFTER_APPEND, KAFKA_STORAGE_ERROR.
const RETRIABLE: [i16; 7] = [UNKNOWN_TOPIC_OR_PARTITION, 5, 6, 7, 19, 20, 56];

/// COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR.
const COORDINATOR_MOVES: [i16; 3] = [14, 15, 16];

/// Whether a client asks the same again after this error of a partition.
pub fn is_retriable(error: i16) -> bool {
    RETRIABLE.contains(&error)
}

/// NOT_CONTROLLER, and INVALID_REPLICATION_FACTOR: no broker is there that could hold a partition.
const CONTROLLER_MOVES: [i16; 2] = [41, 38];

/// Whether a client asks the same of the controller again after this error.
pub fn is_retriable_at_controller(error: i16) -> bool {
    is_retriable_in_group(error) || CONTROLLER_MOVES.contains(&error)
}

/// Whether a client of a group asks the same again after this error, perhaps of another coordinator.
pub fn is_retriable_in_group(error: i16) -> bool {
    is_retriable(error) || COORDINATOR_MOVES.contains(&error)
}

/// An API in the version that the simulated clients speak; all of them are flexible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    key: i16,
    version: i16,
}

/// Produce
pub const PRODUCE: Api = Api { key: 0, version: 9 };
/// Fetch
pub const FETCH: Api = Api { key: 1, version: 12 };
/// ListOffsets
pub const LIST_OFFSETS: Api = Api { key: 2, version: 7 };
/// Metadata
pub const METADATA: Api = Api { key: 3, version: 12 };
/// OffsetCommit
pub const OFFSET_COMMIT: Api = Api { key: 8, version: 8 };
/// OffsetFetch
pub const OFFSET_FETCH: Api = Api { key: 9, version: 8 };
/// FindCoordinator
pub const FIND_COORDINATOR: Api = Api { key: 10, version: 4 };
/// OffsetCommit, as members of the consumer protocol have to speak it
pub const OFFSET_COMMIT_AS_MEMBER: Api = Api { key: 8, version: 9 };
/// JoinGroup
pub const JOIN_GROUP: Api = Api { key: 11, version: 9 };
/// Heartbeat
pub const HEARTBEAT: Api = Api { key: 12, version: 4 };
/// LeaveGroup
pub const LEAVE_GROUP: Api = Api { key: 13, version: 5 };
/// SyncGroup
pub const SYNC_GROUP: Api = Api { key: 14, version: 5 };
/// ConsumerGroupHeartbeat
pub const CONSUMER_GROUP_HEARTBEAT: Api = Api { key: 68, version: 1 };
/// CreateTopics
pub const CREATE_TOPICS: Api = Api { key: 19, version: 7 };
/// DeleteTopics
pub const DELETE_TOPICS: Api = Api { key: 20, version: 4 };
/// DeleteRecords
pub const DELETE_RECORDS: Api = Api { key: 21, version: 2 };
/// InitProducerId
pub const INIT_PRODUCER_ID: Api = Api { key: 22, version: 4 };

/// A request that waits for its correlation id.
#[derive(Clone, Debug)]
pub struct Request {
    api: Api,
    body: Bytes,
}

impl Request {
    /// A request of this API with this body.
    pub fn new(api: Api, body: &impl KafkaEncode) -> Request {
        Request { api, body: body.encode_to_bytes(ApiVersion::new(api.version)).expect("a good request") }
    }

    /// The request without its length, as the driver hands it to a shard.
    pub fn frame(&self, correlation: i32) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_i16(self.api.key);
        frame.put_i16(self.api.version);
        frame.put_i32(correlation);
        frame.put_i16(3);
        frame.put_slice(b"sim");
        frame.put_u8(0);
        frame.extend_from_slice(&self.body);
        frame.freeze()
    }
}

/// Takes the first whole response off what a client has received: its correlation id and its body.
pub fn take_response(received: &mut BytesMut) -> Option<(i32, Bytes)> {
    let length = u32::from_be_bytes(*received.first_chunk::<4>()?) as usize;
    if received.len() < 4 + length {
        return None;
    }
    let frame = received.split_to(4 + length).freeze();
    let correlation = i32::from_be_bytes(*frame[4..].first_chunk::<4>()?);
    // A flexible response header ends with its tagged fields: none.
    Some((correlation, frame.slice(9..)))
}

/// Decodes a response's body.
pub fn response<T: KafkaDecode>(api: Api, body: Bytes) -> Result<T, String> {
    let mut decoder =
        kafka_wire_core::Decoder::new(body, DecodeLimits::default()).map_err(|error| format!("{error:?}"))?;
    let response = T::decode(&mut decoder, ApiVersion::new(api.version)).map_err(|error| format!("{error:?}"))?;
    decoder.finish().map_err(|error| format!("bytes after a response: {error:?}"))?;
    Ok(response)
}

/// The topic's name.
pub fn topic() -> StrBytes {
    StrBytes::from(TOPIC)
}

/// The name of the topic that is deleted and created again.
pub fn doomed() -> StrBytes {
    StrBytes::from(DOOMED)
}
