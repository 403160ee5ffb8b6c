//! How requests name topics: by name, or by id from some version on (KIP-516).

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
