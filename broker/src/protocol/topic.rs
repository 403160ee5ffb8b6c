//! The topics of Produce and Fetch requests: how they are named (by name, or by id from some version on, KIP-516), the
//! walk through them and their partitions, and what responses say of leaders.

use millstream_storage::TopicId;

use super::wire::{Reader, WireError, WireString, Writer};

/// A topic as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicReference {
    /// By name.
    Name(WireString),
    /// By id.
    Id(TopicId),
}

impl TopicReference {
    /// Reads a name or an id; `flexible` concerns the name.
    pub fn read(reader: &mut Reader, by_id: bool, flexible: bool) -> Result<TopicReference, WireError> {
        if by_id {
            Ok(TopicReference::Id(TopicId(reader.uuid()?)))
        } else {
            Ok(TopicReference::Name(reader.string(flexible)?))
        }
    }

    /// Writes it as it was read.
    pub fn write(&self, writer: &mut Writer, flexible: bool) {
        match self {
            TopicReference::Name(name) => writer.string(name, flexible),
            TopicReference::Id(id) => writer.uuid(id.0),
        }
    }
}

/// One topic of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTopic {
    /// The topic.
    pub topic: TopicReference,
    /// How many partitions follow.
    pub partition_count: usize,
}

/// The topics of a request, where the requests of both APIs are alike: an array of topics, in each of them the topic, an
/// array of partitions, and tagged fields. What a partition is, its API knows.
#[derive(Clone, Debug)]
pub struct TopicWalk {
    reader: Reader,
    by_id: bool,
    flexible: bool,
    partition_bytes_min: usize,
    topics_left: usize,
    partitions_left: usize,
    in_topic: bool,
}

impl TopicWalk {
    /// Begins at the first of `topic_count` topics, where `reader` stands. A partition takes `partition_bytes_min` on the
    /// wire or more.
    pub fn new(
        reader: Reader,
        topic_count: usize,
        by_id: bool,
        flexible: bool,
        partition_bytes_min: usize,
    ) -> TopicWalk {
        let (topics_left, partitions_left, in_topic) = (topic_count, 0, false);
        TopicWalk { reader, by_id, flexible, partition_bytes_min, topics_left, partitions_left, in_topic }
    }

    /// The next topic; the partitions of the one before must have been walked. `None` after the last.
    pub fn next_topic(&mut self) -> Result<Option<RequestTopic>, WireError> {
        assert!(!self.in_topic, "walk a topic's partitions first");
        let Some(left) = self.topics_left.checked_sub(1) else { return Ok(None) };
        self.topics_left = left;
        let topic = TopicReference::read(&mut self.reader, self.by_id, self.flexible)?;
        let partition_count = self.reader.array_count(self.flexible, self.partition_bytes_min)?;
        self.partitions_left = partition_count;
        self.in_topic = true;
        Ok(Some(RequestTopic { topic, partition_count }))
    }

    /// The reader where the next partition of the topic begins, which is to be read to its end. `None` after the last.
    pub fn next_partition(&mut self) -> Result<Option<&mut Reader>, WireError> {
        let Some(left) = self.partitions_left.checked_sub(1) else {
            if std::mem::take(&mut self.in_topic) {
                self.reader.tagged_fields(self.flexible)?;
            }
            return Ok(None);
        };
        self.partitions_left = left;
        Ok(Some(&mut self.reader))
    }

    /// The reader behind the topics, once all have been walked.
    pub fn rest(&mut self) -> &mut Reader {
        assert!(self.topics_left == 0 && !self.in_topic, "walk all topics first");
        &mut self.reader
    }
}

/// Where a partition's leader is, as errors tell clients (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLeader {
    /// The leader's broker id.
    pub leader_id: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
}

/// A broker's address, as errors tell clients (KIP-951).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The broker's id.
    pub node_id: i32,
    /// Its host, as advertised on the client's listener.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// Its rack.
    pub rack: Option<String>,
}

/// Writes a tagged field: its number, its length and its bytes.
pub fn write_tag(writer: &mut Writer, tag: u32, value: &[u8]) {
    writer.unsigned_varint(tag);
    writer.unsigned_varint(u32::try_from(value.len()).expect("a tagged field of ours is small"));
    writer.raw(value);
}

/// The bytes of a `CurrentLeader` tagged field. Only flexible versions carry one.
pub fn current_leader_bytes(leader: CurrentLeader) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[..4].copy_from_slice(&leader.leader_id.to_be_bytes());
    bytes[4..8].copy_from_slice(&leader.leader_epoch.to_be_bytes());
    bytes
}

/// Writes the tagged fields that end a Produce or Fetch response: the endpoints of the leaders named in it, tag 0, from
/// the version on that knows them.
pub fn write_node_endpoints(writer: &mut Writer, endpoints: &[NodeEndpoint], flexible: bool, known: bool) {
    if !flexible {
        return;
    }
    if endpoints.is_empty() || !known {
        return writer.no_tagged_fields(true);
    }
    let mut value = Writer::default();
    value.array_count(Some(endpoints.len()), true);
    for endpoint in endpoints {
        value.i32(endpoint.node_id);
        value.string(&endpoint.host, true);
        value.i32(endpoint.port);
        value.nullable_string(endpoint.rack.as_deref(), true);
        value.no_tagged_fields(true);
    }
    writer.unsigned_varint(1);
    write_tag(writer, 0, &value.finish());
}
