//! How requests to the controller and its answers are written when they go to another node: `docs/cluster-protocol.md`.
//!
//! Little-endian. A choice is its tag and its fields, a list its count and its items. A layout never changes: what is added
//! gets a tag of its own, and a tag that is not known is refused.

use millstream_replication::config::Properties;
use millstream_replication::controller::{
    AlterPartition, AlteredPartition, Assignment, ConfigChange, ConfigOperation, ConfigResource, CreatedTopic,
    DeletedTopic, HeartbeatReply, MorePartitions, NewTopic, QuorumInfo, QuorumReplica, QuotaChange, TopicReference,
};
use millstream_replication::reader::Reader;
use millstream_replication::{
    ApiError, ControllerRequest, ControllerResponse, Endpoint, ErrorCode, LevelRange, QuotaEntity,
};
use millstream_storage::TopicId;

/// The bytes of a request.
pub fn encode_request(request: &ControllerRequest) -> Vec<u8> {
    encode(request)
}

/// Reads a request that fills the bytes exactly. The error says what is wrong with them.
pub fn decode_request(bytes: &[u8]) -> Result<ControllerRequest, String> {
    decode(bytes)
}

/// The bytes of an answer.
pub fn encode_response(response: &ControllerResponse) -> Vec<u8> {
    encode(response)
}

/// Reads an answer that fills the bytes exactly. The error says what is wrong with them.
pub fn decode_response(bytes: &[u8]) -> Result<ControllerResponse, String> {
    decode(bytes)
}

fn encode(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

fn decode<T: Wire>(bytes: &[u8]) -> Result<T, String> {
    let mut reader = Reader::new(bytes);
    let value = T::take(&mut reader)?;
    match reader.rest().len() {
        0 => Ok(value),
        left => Err(format!("{left} bytes follow")),
    }
}

/// What can be written and read. Everything but `()` takes a byte at least, so that no list is longer than its bytes.
trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(reader: &mut Reader<'_>) -> Result<Self, String>;
}

/// Fields, one after the other.
macro_rules! fields {
    ($type:ident { $($field:ident),* }) => {
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let $type { $($field),* } = self;
                $($field.put(out);)*
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
                Ok($type { $($field: Wire::take(reader)?),* })
            }
        }
    };
}

/// A tag, and the fields of the variant that it stands for.
macro_rules! variants {
    ($type:ident { $($tag:literal => $variant:ident $(($($item:ident),*))? $({ $($field:ident),* })?,)* }) => {
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($type::$variant $(($($item),*))? $({ $($field),* })? => {
                        out.push($tag);
                        $($($item.put(out);)*)?
                        $($($field.put(out);)*)?
                    })*
                }
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
                Ok(match reader.byte()? {
                    $($tag => {
                        $($(let $item = Wire::take(reader)?;)*)?
                        $type::$variant $(($($item),*))? $({ $($field: Wire::take(reader)?),* })?
                    })*
                    other => return Err(format!("{} {other} is not known", stringify!($type))),
                })
            }
        }
    };
}

variants! { ControllerRequest {
    1 => RegisterBroker { node_id, incarnation, directory_id, shards, endpoints, rack, metadata_versions },
    2 => CreateTopics { topics, validate_only },
    3 => DeleteTopics { topics },
    4 => CreatePartitions { topics, validate_only },
    5 => IncrementalAlterConfigs { resources, validate_only },
    6 => AlterConfigs { resources, validate_only },
    7 => AlterClientQuotas { changes, validate_only },
    8 => AllocateProducerIds { node_id, epoch },
    9 => BrokerHeartbeat { node_id, epoch, applied_offset, want_fence, want_shutdown },
    10 => FenceBroker { node_id, epoch },
    11 => UnregisterBroker { node_id },
    12 => AddObserver { node_id, directory_id, endpoint },
    13 => AddRaftVoter { node_id, directory_id, endpoint },
    14 => UpdateRaftVoter { node_id, directory_id, endpoint },
    15 => RemoveRaftVoter { node_id, directory_id },
    16 => DescribeQuorum,
    17 => AlterPartition { node_id, epoch, partitions },
    18 => ElectLeaders { partitions, is_unclean },
} }

variants! { ControllerResponse {
    1 => RegisterBroker(epoch),
    2 => CreateTopics(topics),
    3 => DeleteTopics(topics),
    4 => CreatePartitions(topics),
    5 => AlterConfigs(resources),
    6 => AlterClientQuotas(entities),
    7 => AllocateProducerIds(block),
    8 => BrokerHeartbeat(reply),
    9 => FenceBroker(outcome),
    10 => UnregisterBroker(outcome),
    11 => ChangeMembers(outcome),
    12 => DescribeQuorum(info),
    13 => AlterPartition(partitions),
    14 => ElectLeaders(partitions),
} }

fields! { Endpoint { listener, host, port } }
fields! { NewTopic { name, partitions, replication_factor, assignments, configs } }
fields! { Assignment { partition, brokers } }
fields! { MorePartitions { name, count, assignments } }
fields! { ConfigChange { name, operation, value } }
fields! { QuotaChange { entity, values } }
fields! { CreatedTopic { topic_id, partitions, replication_factor, configs } }
fields! { DeletedTopic { name, topic_id, outcome } }
fields! { LevelRange { min, max } }
fields! { ApiError { code, message } }
fields! { AlterPartition { leader_epoch, partition_epoch, isr } }
fields! { AlteredPartition { leader, leader_epoch, isr, partition_epoch } }
fields! { HeartbeatReply { is_caught_up, is_fenced, should_shut_down, lease_ms } }
fields! { QuorumInfo { leader, term, high_watermark, replicas } }
fields! { QuorumReplica { node_id, directory_id, is_voter, log_end, heard_ms, caught_up_ms, endpoint } }

variants! { TopicReference {
    1 => Name(name),
    2 => Id(topic_id),
} }

variants! { ConfigResource {
    1 => Topic(name),
    2 => Broker(node_id),
    3 => Cluster,
} }

variants! { ConfigOperation {
    1 => Set,
    2 => Delete,
    3 => Append,
    4 => Subtract,
} }

variants! { QuotaEntity {
    1 => Client(client),
    2 => User(user),
    3 => UserClient(user, client),
    4 => Ip(ip),
} }

/// Numbers as they are.
macro_rules! numbers {
    ($($type:ident),*) => {
        $(impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
                reader.array().map($type::from_le_bytes)
            }
        })*
    };
}

numbers! { u16, i16, u32, i32, u64, i64, f64 }

impl Wire for () {
    fn put(&self, _out: &mut Vec<u8>) {}

    fn take(_reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok(())
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        reader.flag()
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.len());
        out.extend(self.as_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        reader.text()
    }
}

impl Wire for [u8; 16] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        reader.array()
    }
}

impl Wire for TopicId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.0);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        reader.array().map(TopicId)
    }
}

/// A code that only a later version knows is one that nobody expects.
impl Wire for ErrorCode {
    fn put(&self, out: &mut Vec<u8>) {
        self.code().put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok(ErrorCode::of_code(i16::take(reader)?).unwrap_or(ErrorCode::UnknownServerError))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        if reader.flag()? { T::take(reader).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        if reader.flag()? { T::take(reader).map(Ok) } else { E::take(reader).map(Err) }
    }
}

impl<T: Wire, U: Wire> Wire for (T, U) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        Ok((T::take(reader)?, U::take(reader)?))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.len());
        self.iter().for_each(|item| item.put(out));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        (0..take_count(reader)?).map(|_| T::take(reader)).collect()
    }
}

/// In the order of the names, each once.
impl Wire for Properties {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.len());
        for (name, value) in self {
            name.put(out);
            value.put(out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, String> {
        let mut properties = Properties::new();
        for _ in 0..take_count(reader)? {
            let (name, value) = Wire::take(reader)?;
            if properties.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(format!("the property {name:?} comes after its place"));
            }
            properties.insert(name, value);
        }
        Ok(properties)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("requests are bounded far below 2^32");
    out.extend(count.to_le_bytes());
}

fn take_count(reader: &mut Reader<'_>) -> Result<usize, String> {
    reader.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use millstream_storage::random::Random;

    use super::*;

    const VARIANTS: u64 = 18;
    const RESPONSES: u64 = 14;

    fn text(random: &mut Random) -> String {
        (0..random.below(8)).map(|_| char::from_u32(random.below(0x500) as u32).unwrap_or('x')).collect()
    }

    fn many<T>(random: &mut Random, mut item: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..random.below(4)).map(|_| item(random)).collect()
    }

    fn maybe<T>(random: &mut Random, item: impl FnOnce(&mut Random) -> T) -> Option<T> {
        random.coin().then(|| item(random))
    }

    fn configs(random: &mut Random) -> Vec<(String, Option<String>)> {
        many(random, |random| (text(random), maybe(random, text)))
    }

    fn resource(random: &mut Random) -> ConfigResource {
        match random.below(3) {
            0 => ConfigResource::Topic(text(random)),
            1 => ConfigResource::Broker(random.next() as i32),
            _ => ConfigResource::Cluster,
        }
    }

    fn entity(random: &mut Random) -> QuotaEntity {
        match random.below(4) {
            0 => QuotaEntity::Client(maybe(random, text)),
            1 => QuotaEntity::User(maybe(random, text)),
            2 => QuotaEntity::UserClient(maybe(random, text), maybe(random, text)),
            _ => QuotaEntity::Ip(maybe(random, text)),
        }
    }

    fn change(random: &mut Random) -> ConfigChange {
        use ConfigOperation::*;
        let operation = [Set, Delete, Append, Subtract][random.index(4)];
        ConfigChange { name: text(random), operation, value: maybe(random, text) }
    }

    fn numbers(random: &mut Random) -> Vec<i32> {
        many(random, |random| random.next() as i32)
    }

    fn request(random: &mut Random, variant: u64) -> ControllerRequest {
        let validate_only = random.coin();
        match variant {
            0 => ControllerRequest::RegisterBroker {
                node_id: random.next() as i32,
                incarnation: random.bytes(),
                directory_id: random.bytes(),
                shards: random.next() as u32,
                endpoints: many(random, |random| Endpoint {
                    listener: text(random),
                    host: text(random),
                    port: random.next() as u16,
                }),
                rack: maybe(random, text),
                metadata_versions: LevelRange { min: random.next() as i16, max: random.next() as i16 },
            },
            1 => ControllerRequest::CreateTopics {
                topics: many(random, |random| NewTopic {
                    name: text(random),
                    partitions: random.next() as i32,
                    replication_factor: random.next() as i16,
                    assignments: many(random, |random| Assignment {
                        partition: random.next() as i32,
                        brokers: numbers(random),
                    }),
                    configs: configs(random),
                }),
                validate_only,
            },
            2 => ControllerRequest::DeleteTopics {
                topics: many(random, |random| match random.coin() {
                    true => TopicReference::Name(text(random)),
                    false => TopicReference::Id(TopicId(random.bytes())),
                }),
            },
            3 => ControllerRequest::CreatePartitions {
                topics: many(random, |random| MorePartitions {
                    name: text(random),
                    count: random.next() as i32,
                    assignments: maybe(random, |random| many(random, numbers)),
                }),
                validate_only,
            },
            4 => ControllerRequest::IncrementalAlterConfigs {
                resources: many(random, |random| (resource(random), many(random, change))),
                validate_only,
            },
            5 => ControllerRequest::AlterConfigs {
                resources: many(random, |random| (resource(random), configs(random))),
                validate_only,
            },
            6 => ControllerRequest::AlterClientQuotas {
                changes: many(random, |random| QuotaChange {
                    entity: entity(random),
                    values: many(random, |random| (text(random), maybe(random, |random| random.next() as f64))),
                }),
                validate_only,
            },
            7 => ControllerRequest::AllocateProducerIds { node_id: random.next() as i32, epoch: random.next() as i64 },
            8 => ControllerRequest::BrokerHeartbeat {
                node_id: random.next() as i32,
                epoch: random.next() as i64,
                applied_offset: random.next(),
                want_fence: random.coin(),
                want_shutdown: random.coin(),
            },
            9 => ControllerRequest::FenceBroker { node_id: random.next() as i32, epoch: random.next() as i64 },
            10 => ControllerRequest::UnregisterBroker { node_id: random.next() as i32 },
            11..=13 => {
                let (node_id, directory_id) = (random.next() as i32, random.bytes());
                let endpoint = maybe(random, |random| (text(random), random.next() as u16));
                match variant {
                    11 => ControllerRequest::AddObserver { node_id, directory_id, endpoint },
                    12 => ControllerRequest::AddRaftVoter { node_id, directory_id, endpoint },
                    _ => ControllerRequest::UpdateRaftVoter { node_id, directory_id, endpoint },
                }
            }
            14 => ControllerRequest::RemoveRaftVoter { node_id: random.next() as i32, directory_id: random.bytes() },
            15 => ControllerRequest::DescribeQuorum,
            16 => ControllerRequest::AlterPartition {
                node_id: random.next() as i32,
                epoch: random.next() as i64,
                partitions: many(random, |random| {
                    let partition = (TopicId(random.bytes()), random.next() as i32);
                    let (leader_epoch, partition_epoch) = (random.next() as i32, random.next() as i32);
                    let isr = many(random, |random| (random.next() as i32, random.next() as i64));
                    (partition, AlterPartition { leader_epoch, partition_epoch, isr })
                }),
            },
            _ => ControllerRequest::ElectLeaders {
                partitions: maybe(random, |random| many(random, |random| (text(random), random.next() as i32))),
                is_unclean: random.coin(),
            },
        }
    }

    fn error(random: &mut Random) -> ApiError {
        let code = ErrorCode::of_code(random.below(134) as i16 - 1).expect("Kafka's");
        ApiError::new(code, text(random))
    }

    fn outcome<T>(random: &mut Random, item: impl FnOnce(&mut Random) -> T) -> Result<T, ApiError> {
        if random.coin() { Ok(item(random)) } else { Err(error(random)) }
    }

    fn response(random: &mut Random, variant: u64) -> ControllerResponse {
        match variant {
            0 => ControllerResponse::RegisterBroker(outcome(random, |random| random.next() as i64)),
            1 => ControllerResponse::CreateTopics(many(random, |random| {
                let created = |random: &mut Random| CreatedTopic {
                    topic_id: TopicId(random.bytes()),
                    partitions: random.next() as i32,
                    replication_factor: random.next() as i16,
                    configs: many(random, |random| (text(random), text(random))).into_iter().collect(),
                };
                (text(random), outcome(random, created))
            })),
            2 => ControllerResponse::DeleteTopics(many(random, |random| DeletedTopic {
                name: maybe(random, text),
                topic_id: TopicId(random.bytes()),
                outcome: outcome(random, |_| ()),
            })),
            3 => ControllerResponse::CreatePartitions(many(random, |random| (text(random), outcome(random, |_| ())))),
            4 => ControllerResponse::AlterConfigs(many(random, |random| (resource(random), outcome(random, |_| ())))),
            5 => {
                ControllerResponse::AlterClientQuotas(many(random, |random| (entity(random), outcome(random, |_| ()))))
            }
            6 => ControllerResponse::AllocateProducerIds(outcome(random, |random| {
                (random.next() as i64, random.next() as i64)
            })),
            7 => ControllerResponse::BrokerHeartbeat(outcome(random, |random| HeartbeatReply {
                is_caught_up: random.coin(),
                is_fenced: random.coin(),
                should_shut_down: random.coin(),
                lease_ms: random.next() as u32,
            })),
            8 => ControllerResponse::FenceBroker(outcome(random, |_| ())),
            9 => ControllerResponse::UnregisterBroker(outcome(random, |_| ())),
            10 => ControllerResponse::ChangeMembers(outcome(random, |_| ())),
            11 => ControllerResponse::DescribeQuorum(outcome(random, |random| QuorumInfo {
                leader: random.next() as i32,
                term: random.next(),
                high_watermark: random.next(),
                replicas: many(random, |random| QuorumReplica {
                    node_id: random.next() as i32,
                    directory_id: random.bytes(),
                    is_voter: random.coin(),
                    log_end: random.next(),
                    heard_ms: random.next() as i64,
                    caught_up_ms: random.next() as i64,
                    endpoint: maybe(random, |random| (text(random), random.next() as u16)),
                }),
            })),
            12 => ControllerResponse::AlterPartition(outcome(random, |random| {
                many(random, |random| {
                    let altered = |random: &mut Random| AlteredPartition {
                        leader: random.next() as i32,
                        leader_epoch: random.next() as i32,
                        isr: numbers(random),
                        partition_epoch: random.next() as i32,
                    };
                    ((TopicId(random.bytes()), random.next() as i32), outcome(random, altered))
                })
            })),
            _ => ControllerResponse::ElectLeaders(many(random, |random| {
                ((text(random), random.next() as i32), outcome(random, |_| ()))
            })),
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_cut_is_refused() {
        for seed in 0..2_000 {
            let random = &mut Random::new(seed);
            let request = request(random, seed % VARIANTS);
            let bytes = encode_request(&request);
            assert_eq!(decode_request(&bytes), Ok(request), "seed {seed}");
            assert!((0..bytes.len()).all(|length| decode_request(&bytes[..length]).is_err()), "seed {seed}");
            assert!(decode_request(&[&bytes[..], &[0]].concat()).is_err(), "seed {seed}");

            let response = response(random, seed % RESPONSES);
            let bytes = encode_response(&response);
            assert_eq!(decode_response(&bytes), Ok(response), "seed {seed}");
            assert!((0..bytes.len()).all(|length| decode_response(&bytes[..length]).is_err()), "seed {seed}");
            assert!(decode_response(&[&bytes[..], &[0]].concat()).is_err(), "seed {seed}");
        }
    }

    #[test]
    fn every_variant_has_its_tag() {
        let random = &mut Random::new(1);
        for variant in 0..VARIANTS {
            assert_eq!(u64::from(encode_request(&request(random, variant))[0]), variant + 1);
        }
        for variant in 0..RESPONSES {
            assert_eq!(u64::from(encode_response(&response(random, variant))[0]), variant + 1);
        }
        assert!(decode_request(&[0]).is_err() && decode_request(&[VARIANTS as u8 + 1]).is_err());
        assert!(decode_response(&[0]).is_err() && decode_response(&[RESPONSES as u8 + 1]).is_err());
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_decode_to_something_else() {
        for seed in 0..20_000 {
            let random = &mut Random::new(seed);
            let damage = |mut bytes: Vec<u8>, random: &mut Random| {
                for _ in 0..=random.below(3) {
                    let at = random.index(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                bytes
            };
            let request = encode_request(&request(random, seed % VARIANTS));
            let bytes = damage(request, random);
            if let Ok(decoded) = decode_request(&bytes) {
                assert_eq!(encode_request(&decoded), bytes, "seed {seed}");
            }
            let response = encode_response(&response(random, seed % RESPONSES));
            if let Ok(decoded) = decode_response(&damage(response, random)) {
                // Codes that nobody knows become one that is known.
                assert_eq!(decode_response(&encode_response(&decoded)), Ok(decoded), "seed {seed}");
            }
        }
        // Counts of four thousand million, of which nothing follows.
        for tag in 0..=VARIANTS as u8 {
            let mut bytes = vec![tag];
            bytes.extend([0xff; 64]);
            assert!(decode_request(&bytes).is_err() && decode_response(&bytes).is_err());
        }
    }

    #[test]
    fn codes_of_later_versions_are_unknown_errors() {
        let known = ControllerResponse::RegisterBroker(Err(ApiError::new(ErrorCode::None, "why")));
        let mut bytes = encode_response(&known);
        bytes[2..4].copy_from_slice(&999i16.to_le_bytes());
        let unknown = ControllerResponse::RegisterBroker(Err(ApiError::new(ErrorCode::UnknownServerError, "why")));
        assert_eq!(decode_response(&bytes), Ok(unknown));
    }
}
