//! A whole shard: frames of every API in every version, one after the other and over several connections, with a disk and
//! a controller. What no other target reaches alone is here: the handlers that read ListOffsets, DeleteRecords,
//! OffsetForLeaderEpoch and InitProducerId in place, and what each request meets when others have come before it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream::config::BrokerConfig;
use millstream::controller::{self, Asker, ControllerNode};
use millstream::metrics::Scrape;
use millstream::node::{self, NodeMemory, NodeOptions};
use millstream::protocol::versions::{ApiKey, SERVED};
use millstream::shard::{ConnectionId, Effect, Event, Message, SendPart, Shard};
use millstream_replication::controller::NewTopic;
use millstream_replication::{ControllerRequest, Endpoint, METADATA_VERSIONS};
use millstream_storage::Now;

use super::requests;
use crate::Target;
use crate::disk::Disk;
use crate::input::{Input, piece};
use crate::memory::{bounded, unbounded};

pub const TARGET: Target = Target { name: "shard", run, seeds };

/// As in `api` and `groups`: what a decoded request and its reply take.
const MEMORY_PER_BYTE: usize = 1024;
/// What the shard keeps beside requests: blocks of the tails, groups and sessions; a reply with all configurations.
const SHARD_BYTES_MAX: usize = 16 << 20;
/// A compressed batch of a compacted topic, or of one with a codec of its own, is opened.
const OPENED_BYTES_MAX: usize = super::batch::OPEN_BYTES_MAX;

/// The process that the broker is.
const INCARNATION: [u8; 16] = [1; 16];
const CONNECTIONS: u64 = 3;
const FRAMES_MAX: usize = 24;
const TURNS_MAX: usize = 10_000;

/// A broker of one small shard.
static OPTIONS: LazyLock<NodeOptions> = LazyLock::new(|| {
    let config = BrokerConfig::load(None, &[]).expect("the defaults");
    let memory = NodeMemory { groups: 8 << 20, producers: 1 << 20 };
    let mut options = NodeOptions::new(&config, INCARNATION, 1, memory, "/data".to_owned(), 0);
    options.node_id = 1;
    options.journal_slots = 4;
    options.journal_slot_bytes = 1 << 16;
    options.log.tail_memory_bytes_max = 1 << 16;
    options.log.extent_bytes_min = 1 << 12;
    options.fetch_bytes_max = 1 << 20;
    options.request_bytes_max = usize::MAX;
    options
});

/// A node of one shard.
struct Node {
    shard: Shard,
    disk: Disk,
    controller: ControllerNode,
    now: Now,
    events: VecDeque<Event>,
    /// What each connection has received and not taken yet. A connection that is not here is closed.
    received: BTreeMap<ConnectionId, BytesMut>,
    decisions: u8,
}

impl Node {
    fn new() -> Node {
        let now = Now { elapsed: Duration::from_secs(1), unix_ms: 1_700_000_000_000 };
        let mut disk = Disk::default();
        let mut parts = node::Node::recover(&mut |op| disk.execute(op), OPTIONS.clone(), now, [3; node::RANDOM_BYTES])
            .expect("an empty disk");
        let mut node = Node {
            shard: parts.shards.remove(0).open().start(),
            disk,
            controller: parts.controller,
            now,
            events: VecDeque::new(),
            received: BTreeMap::new(),
            decisions: 0,
        };
        node.ask(
            Asker::Node { token: 0 },
            ControllerRequest::RegisterBroker {
                node_id: 1,
                incarnation: INCARNATION,
                directory_id: parts.meta.directory_id,
                shards: 1,
                endpoints: vec![Endpoint { listener: "PLAINTEXT".into(), host: "h".into(), port: 9092 }],
                rack: None,
                metadata_versions: METADATA_VERSIONS,
            },
        );
        let image = node.controller.image();
        let heartbeat = ControllerRequest::BrokerHeartbeat {
            node_id: 1,
            epoch: image.broker(1).expect("it is registered").epoch,
            applied_offset: image.offset(),
            want_fence: false,
            want_shutdown: false,
        };
        node.ask(Asker::Node { token: 0 }, heartbeat);
        node.create_topic(requests::TOPIC, &[]);
        node.create_topic("compacted", &[("cleanup.policy", "compact"), ("compression.type", "lz4")]);
        for connection in 0..CONNECTIONS {
            let connection = ConnectionId(connection);
            let peer = ([127, 0, 0, 1], 1).into();
            node.events.push_back(Event::Connected { connection, listener: 0, peer });
            node.received.insert(connection, BytesMut::new());
        }
        node.run();
        node
    }

    fn create_topic(&mut self, name: &str, configs: &[(&str, &str)]) {
        let configs = configs.iter().map(|(name, value)| (name.to_string(), Some(value.to_string()))).collect();
        let topic =
            NewTopic { name: name.to_owned(), partitions: 2, replication_factor: 1, assignments: Vec::new(), configs };
        let request = ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false };
        self.ask(Asker::Node { token: 0 }, request);
    }

    fn ask(&mut self, asker: Asker, request: ControllerRequest) {
        self.decisions = self.decisions.wrapping_add(1);
        self.tell_controller(controller::Event::Asked { asker, request, random_id: [self.decisions; 16] });
    }

    fn tell_controller(&mut self, event: controller::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            self.controller.handle(self.now, event, &mut effects);
            for effect in effects {
                match effect {
                    controller::Effect::Disk { token, op } => {
                        events.push_back(controller::Event::Disk { token, result: self.disk.execute(op) });
                    }
                    controller::Effect::Publish { offset, records, image } => {
                        self.events.push_back(Event::Message(Message::Metadata { offset, records, image }));
                    }
                    controller::Effect::Answer { asker: Asker::Shard { token, .. }, response } => {
                        self.events.push_back(Event::Message(Message::Controller { token, response }));
                    }
                    // A full disk refuses what it has no room for.
                    controller::Effect::Answer { .. }
                    | controller::Effect::Say { .. }
                    | controller::Effect::Warn { .. } => {}
                    controller::Effect::Link(effect) => panic!("a node that is alone speaks to another: {effect:?}"),
                    controller::Effect::Fail { reason } => panic!("the metadata log failed: {reason}"),
                }
            }
        }
    }

    /// Takes turns until nothing happens any more.
    fn run(&mut self) {
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the shard does not come to rest");
            let mut effects = Vec::new();
            for event in std::mem::take(&mut self.events) {
                self.shard.handle(self.now, event, &mut effects);
            }
            self.shard.end_turn(self.now, &mut effects);
            for effect in effects {
                self.execute(effect);
            }
            if self.events.is_empty() {
                return;
            }
        }
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Send { connection, parts } => {
                let Some(received) = self.received.get_mut(&connection) else { return };
                for part in parts {
                    match part {
                        SendPart::Memory(bytes) => received.extend_from_slice(&bytes),
                        SendPart::File { path, position, bytes } => {
                            received
                                .extend_from_slice(&self.disk.peek(&path, position, bytes).expect("the file is there"));
                        }
                    }
                }
                take_frames(received);
                self.events.push_back(Event::Drained { connection });
            }
            Effect::Close { connection } => {
                if self.received.remove(&connection).is_some() {
                    self.events.push_back(Event::Disconnected { connection });
                }
            }
            Effect::Disk { token, op } => {
                let result = unbounded(|| self.disk.execute(op));
                self.events.push_back(Event::Disk { token, result });
            }
            Effect::Prefetch { token, .. } => self.events.push_back(Event::Prefetched { token, result: Ok(()) }),
            Effect::ToController { token, request } => {
                unbounded(|| self.ask(Asker::Shard { shard: 0, token }, request));
            }
            Effect::ToShard { .. } => panic!("there is no other shard"),
            effect @ (Effect::Dial { .. } | Effect::SendToPeer { .. } | Effect::HangUp { .. }) => {
                panic!("a node that is alone speaks to another: {effect:?}")
            }
            Effect::Fail { reason } => panic!("the log failed: {reason}"),
            Effect::MetadataApplied { offset } => {
                unbounded(|| self.tell_controller(controller::Event::Applied { shard: 0, offset }));
            }
            Effect::Warn { .. } | Effect::Reading { .. } | Effect::Discard { .. } | Effect::ConnectionRules(_) => {}
        }
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        if self.received.remove(&connection).is_some() {
            self.events.push_back(Event::Disconnected { connection });
        }
    }

    /// A gauge of the shard.
    fn sample(&mut self, name: &str) -> f64 {
        let mut scrape = Scrape::default();
        self.shard.samples(&mut scrape);
        scrape.samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }
}

/// Takes whole responses; what is left is the beginning of one.
fn take_frames(received: &mut BytesMut) {
    while let Some(length) = received.first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        assert!(length >= 4, "a response has a correlation id");
        let bytes = 4 + length as usize;
        if received.len() < bytes {
            return;
        }
        let _ = received.split_to(bytes);
    }
}

/// The version that a byte stands for.
fn chosen(api_key: ApiKey, byte: u8) -> i16 {
    let declaration = api_key.declaration();
    declaration.version_min + i16::from(byte) % (declaration.version_max - declaration.version_min + 1)
}

fn run(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let mut node = Node::new();
    // The topics get new ids, and the deadlines pass: a bound on partitions is a bound on the cluster.
    let bytes_max = SHARD_BYTES_MAX + OPENED_BYTES_MAX + MEMORY_PER_BYTE * bytes.len();
    bounded(bytes_max, || converse(&mut node, Input::new(bytes)));
}

fn converse(node: &mut Node, mut input: Input<'_>) {
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.byte();
        let connection = ConnectionId(u64::from(choice) % CONNECTIONS);
        let frame = if choice & 0x80 != 0 {
            Bytes::copy_from_slice(input.piece())
        } else {
            let api_key = SERVED[usize::from(input.byte()) % SERVED.len()];
            let version = chosen(api_key, input.byte());
            requests::frame(api_key, version, input.piece())
        };
        if node.received.contains_key(&connection) {
            node.events.push_back(Event::Request { connection, frame });
        }
        // Some requests come together, some after a while.
        if choice & 0x40 == 0 {
            node.run();
        }
        if choice & 0x20 != 0 {
            node.now.elapsed += Duration::from_secs(4);
            node.now.unix_ms += 4_000;
            node.run();
        }
    }
    (0..CONNECTIONS).for_each(|connection| node.disconnect(ConnectionId(connection)));
    node.run();
    for gauge in [
        "millstream_connections",
        "millstream_request_bytes_in_flight",
        "millstream_fetches_parked",
        "millstream_appends_waiting",
    ] {
        assert_eq!(node.sample(gauge), 0.0, "{gauge}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let request = |choice: u8, key: ApiKey, version: i16| {
        let place = SERVED.iter().position(|served| *served == key).expect("a served API") as u8;
        let version_byte = (version - key.declaration().version_min) as u8;
        [&[choice, place, version_byte], &piece(&requests::sample(key, version))[..]].concat()
    };
    let newest = |choice: u8, key: ApiKey| request(choice, key, key.declaration().version_max);
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for key in SERVED {
        for version in key.declaration().versions() {
            seeds.push(request(0, *key, version));
        }
    }
    use ApiKey::*;
    // By names, which are the same in every run.
    let produce = request(0, Produce, 9);
    let fetch = request(1, Fetch, 12);
    seeds.push(
        [
            &produce[..],
            &fetch,
            &newest(1, ListOffsets),
            &newest(1, OffsetForLeaderEpoch),
            &newest(0, DeleteRecords),
            &fetch,
        ]
        .concat(),
    );
    seeds.push(
        [
            &newest(0, FindCoordinator)[..],
            &request(0x20, JoinGroup, 3),
            &newest(0, DescribeGroups),
            &newest(0, OffsetCommit),
            &newest(0, OffsetFetch),
        ]
        .concat(),
    );
    seeds.push(
        [&newest(0, CreateTopics)[..], &newest(0, AlterConfigs), &produce, &newest(0, DeleteTopics), &produce, &fetch]
            .concat(),
    );
    seeds.push([&[0x80], &piece(&requests::frame(Metadata, 0, &requests::sample(Metadata, 0)))[..]].concat());
    seeds
}
