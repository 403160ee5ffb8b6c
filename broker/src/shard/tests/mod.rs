//! Tests of the shard as a whole: hand-made requests in, responses out, on a disk in memory and a clock that stands
//! still unless a test moves it.

mod fetch;
mod groups;
mod hostile;
mod leaders;
mod log_starts;
mod metadata;
mod offsets;
mod produce;
mod quotas;
mod replicas;
mod survey;
mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::{KafkaRequest, RequestResponsePair};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode, StrBytes};
use millstream_replication::config::Properties;
use millstream_replication::controller::NewTopic;
use millstream_replication::quorum::LOG_BYTES_MAX;
use millstream_replication::{
    ClusterImage, ControllerRequest, ControllerResponse, Endpoint, METADATA_VERSIONS, MetadataRecord,
};
use millstream_storage::batch::BatchBuilder;
use millstream_storage::random::Random;
use millstream_storage::shard_log::{CleanerOptions, ShardLogOptions};
use millstream_storage::{DiskError, DiskReply, Now, TopicId};

use super::{ConnectionId, DiskToken, Effect, Event, Message, PrefetchToken, SendPart, Shard, ShardIndex};
use crate::config::ConnectionRules;
use crate::controller::{self, Asker, ControllerNode};
use crate::metrics::Scrape;
use crate::node::{Node, NodeOptions};
use crate::protocol::header::RequestHeader;
use crate::sim::disk::SimDisk;

const NODE_ID: i32 = 1;
const LISTENER: &str = "PLAINTEXT";
/// The clock when a broker starts; record timestamps of the tests lie near it.
const START_UNIX_MS: i64 = 1_700_000_000_000;

/// A connection as its client sees it.
#[derive(Debug, Default)]
struct Client {
    shard: ShardIndex,
    received: BytesMut,
    is_closed: bool,
    is_read: bool,
    correlation_id: i32,
}

/// One node: shards on one disk, their controller, and clients.
struct Broker {
    /// The process that it is.
    incarnation: [u8; 16],
    shards: Vec<Shard>,
    disk: SimDisk,
    controller: ControllerNode,
    /// The shards are told of records that the controller knows nothing of.
    is_controller_by_itself: bool,
    /// Those records.
    told: Vec<MetadataRecord>,
    /// What the controller was asked for otherwise than by a shard, and what it answered.
    own_requests: u64,
    own_answers: BTreeMap<u64, ControllerResponse>,
    now: Now,
    events: Vec<VecDeque<Event>>,
    clients: BTreeMap<ConnectionId, Client>,
    /// While set, disk operations are kept here instead of executed.
    held_disk: Option<Vec<(ShardIndex, DiskToken, millstream_storage::DiskOp)>>,
    /// While set, prefetches are kept here instead of done.
    held_prefetches: Option<Vec<(ShardIndex, PrefetchToken)>>,
    /// What prefetches come back with.
    prefetch_result: Result<(), DiskError>,
    prefetched: BTreeSet<(String, u64, usize)>,
    discarded: Vec<(String, u64, usize)>,
    failure: Option<String>,
    /// What shards wanted of other nodes.
    to_peers: Vec<(ShardIndex, Effect)>,
    /// What the driver was told last.
    connection_rules: Option<Arc<ConnectionRules>>,
    /// What shards asked the controller for.
    controller_requests: u64,
    next_connection: u64,
}

/// What a broker under test is given.
#[derive(Clone)]
struct Setup {
    shards: usize,
    file: Properties,
    request_bytes_max: usize,
    tail_memory_bytes_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { shards: 1, file: Properties::new(), request_bytes_max: usize::MAX, tail_memory_bytes_max: 64 << 20 }
    }
}

impl Broker {
    fn new(setup: Setup) -> Broker {
        let now = Now { elapsed: Duration::from_secs(1), unix_ms: START_UNIX_MS };
        Broker::start(setup, SimDisk::new(Random::new(1)), now)
    }

    /// Recovers from the disk, registers and leads.
    fn start(setup: Setup, disk: SimDisk, now: Now) -> Broker {
        let mut broker = Broker::recover(setup, disk, now);
        broker.register();
        broker
    }

    /// Recovers from the disk.
    fn recover(setup: Setup, mut disk: SimDisk, now: Now) -> Broker {
        static PROCESSES: AtomicU64 = AtomicU64::new(1);
        let incarnation = u128::from(PROCESSES.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
        let options = NodeOptions {
            node_id: NODE_ID,
            incarnation,
            shards: setup.shards,
            file: Arc::new(setup.file),
            controller_address: None,
            voters: Vec::new(),
            bootstrap_servers: Vec::new(),
            joins_voters: false,
            session_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(500),
            imbalance_check_interval: None,
            log_dir: "/data".to_string(),
            listeners: vec![LISTENER.to_string()],
            inter_broker_listener: LISTENER.to_string(),
            peer_window_bytes: 1 << 20,
            metadata_log_bytes_max: LOG_BYTES_MAX,
            journal_slots: 4,
            journal_slot_bytes: 1 << 20,
            log: ShardLogOptions {
                tail_memory_bytes_max: setup.tail_memory_bytes_max,
                free_space_floor_bytes: 1 << 20,
                extent_bytes_min: 1 << 20,
                retention_check_interval: Duration::from_secs(300),
                producer_expiration_ms: 86_400_000,
                producers_max: 1_000_000,
                replica_reserve_percent: 0,
                cleaner: CleanerOptions::default(),
            },
            replica_lag_time_max: Duration::from_secs(30),
            fetch_bytes_max: 55 << 20,
            group_bytes_max: 64 << 20,
            request_bytes_max: setup.request_bytes_max,
        };
        // The identities that are made of it differ.
        let random = std::array::from_fn(|at| at as u8);
        let node = Node::recover(&mut |op| disk.execute(op), options, now, random).expect("recovery succeeds");
        Broker {
            incarnation,
            shards: node.shards.into_iter().map(|shard| shard.open().start()).collect(),
            disk,
            controller: node.controller,
            is_controller_by_itself: false,
            told: Vec::new(),
            own_requests: 0,
            own_answers: BTreeMap::new(),
            now,
            events: (0..setup.shards).map(|_| VecDeque::new()).collect(),
            clients: BTreeMap::new(),
            held_disk: None,
            held_prefetches: None,
            prefetch_result: Ok(()),
            prefetched: BTreeSet::new(),
            discarded: Vec::new(),
            failure: None,
            to_peers: Vec::new(),
            connection_rules: None,
            controller_requests: 0,
            next_connection: 0,
        }
    }

    /// What the controller knows.
    fn image(&self) -> &ClusterImage {
        self.controller.image()
    }

    /// Says to the controller that the broker has started, and may lead.
    fn register(&mut self) {
        self.register_node(NODE_ID, self.incarnation, "broker");
    }

    /// A process registers as this broker, which may lead from then on.
    fn register_node(&mut self, node_id: i32, incarnation: [u8; 16], host: &str) {
        let endpoint = Endpoint { listener: LISTENER.to_string(), host: host.to_string(), port: 9092 };
        let answer = self.ask(ControllerRequest::RegisterBroker {
            node_id,
            incarnation,
            directory_id: [node_id as u8; 16],
            shards: 1,
            endpoints: vec![endpoint],
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        });
        assert!(matches!(answer, ControllerResponse::RegisterBroker(Ok(_))), "{answer:?}");
        self.unfence(node_id);
    }

    /// A heartbeat of a broker that knows everything.
    fn heartbeat(&self, node_id: i32) -> ControllerRequest {
        ControllerRequest::BrokerHeartbeat {
            node_id,
            epoch: self.epoch(node_id),
            applied_offset: self.image().offset(),
            want_fence: false,
            want_shutdown: false,
        }
    }

    fn epoch(&self, node_id: i32) -> i64 {
        self.image().broker(node_id).expect("it is registered").epoch
    }

    /// A broker is not heard of any more.
    fn fence(&mut self, node_id: i32) {
        let answer = self.ask(ControllerRequest::FenceBroker { node_id, epoch: self.epoch(node_id) });
        assert_eq!(answer, ControllerResponse::FenceBroker(Ok(())));
    }

    /// A broker is heard of, and knows everything.
    fn unfence(&mut self, node_id: i32) {
        let heartbeat = self.heartbeat(node_id);
        let answer = self.ask(heartbeat);
        assert!(matches!(answer, ControllerResponse::BrokerHeartbeat(Ok(reply)) if !reply.is_fenced), "{answer:?}");
    }

    /// Creates a topic and returns its id.
    fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicId {
        let configs = configs.iter().map(|(name, value)| (name.to_string(), Some(value.to_string()))).collect();
        let name = name.to_string();
        let topic =
            NewTopic { name: name.clone(), partitions, replication_factor: 1, assignments: Vec::new(), configs };
        self.decide(ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false });
        self.run();
        self.image().topic(&name).expect("it was created").id
    }

    /// Lets the controller decide; the shards learn of it in their next turns. Returns the token of the answer.
    fn decide(&mut self, request: ControllerRequest) -> u64 {
        let token = self.own_requests;
        self.own_requests += 1;
        self.ask_controller(Asker::Node { token }, request);
        token
    }

    /// Lets the controller decide and the shards apply it, and returns the answer.
    fn ask(&mut self, request: ControllerRequest) -> ControllerResponse {
        let token = self.decide(request);
        for _ in 0..1_000 {
            self.run();
            if let Some(answer) = self.own_answers.remove(&token) {
                return answer;
            }
        }
        panic!("not every shard has applied it")
    }

    fn ask_controller(&mut self, asker: Asker, request: ControllerRequest) {
        let mut random_id = [0; 16];
        random_id[0] = (self.own_requests + self.controller_requests) as u8;
        self.tell_controller(controller::Event::Asked { asker, request, random_id });
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
                        for events in &mut self.events {
                            let (records, image) = (records.clone(), image.clone());
                            events.push_back(Event::Message(Message::Metadata { offset, records, image }));
                        }
                    }
                    controller::Effect::Answer { asker: Asker::Shard { shard, token }, response } => {
                        self.events[shard].push_back(Event::Message(Message::Controller { token, response }));
                    }
                    controller::Effect::Answer { asker: Asker::Node { token }, response } => {
                        self.own_answers.insert(token, response);
                    }
                    other => panic!("nothing goes wrong here: {other:?}"),
                }
            }
        }
    }

    /// A new connection, at this shard.
    fn connect(&mut self, shard: ShardIndex) -> ConnectionId {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.clients.insert(connection, Client { shard, is_read: true, ..Client::default() });
        let peer = "127.0.0.1:1".parse().expect("an address");
        self.events[shard].push_back(Event::Connected { connection, listener: 0, peer });
        self.run();
        connection
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        let client = self.clients.remove(&connection).expect("it is connected");
        self.events[client.shard].push_back(Event::Disconnected { connection });
        self.run();
    }

    /// Sends a frame as it is.
    fn send_frame(&mut self, connection: ConnectionId, frame: Bytes) {
        let shard = self.clients[&connection].shard;
        self.events[shard].push_back(Event::Request { connection, frame });
    }

    /// Sends a request, without letting anything happen yet.
    fn send<R: KafkaRequest>(&mut self, connection: ConnectionId, version: i16, request: &R) {
        let client = self.clients.get_mut(&connection).expect("it is connected");
        client.correlation_id += 1;
        let frame = request_frame(version, client.correlation_id, request);
        self.send_frame(connection, frame);
    }

    /// Sends a request and takes its response.
    #[track_caller]
    fn call<R: RequestResponsePair>(&mut self, connection: ConnectionId, version: i16, request: &R) -> R::Response {
        self.send(connection, version, request);
        self.run();
        self.receive::<R>(connection, version).expect("a response")
    }

    /// Takes the next response a client has received whole.
    fn receive<R: RequestResponsePair>(&mut self, connection: ConnectionId, version: i16) -> Option<R::Response> {
        let frame = self.receive_frame(connection)?;
        let key = R::API_KEY.value();
        let mut header = BytesMut::new();
        header.extend_from_slice(&key.to_be_bytes());
        header.extend_from_slice(&version.to_be_bytes());
        header.extend_from_slice(&[0, 0, 0, 0, 0xff, 0xff, 0]);
        let (header, _) = RequestHeader::parse(header.freeze()).expect("a served version");
        let header_bytes = if header.response().tagged_fields { 5 } else { 4 };
        let mut decoder = Decoder::new(frame.slice(header_bytes..), DecodeLimits::default()).expect("small");
        let response = R::Response::decode(&mut decoder, ApiVersion::new(version)).expect("a response");
        decoder.finish().expect("nothing after the response");
        Some(response)
    }

    /// Takes the next frame a client has received, without its length.
    fn receive_frame(&mut self, connection: ConnectionId) -> Option<Bytes> {
        let received = &mut self.clients.get_mut(&connection).expect("it is connected").received;
        let bytes = i32::from_be_bytes(received.first_chunk::<4>().copied()?) as usize;
        assert!(received.len() >= 4 + bytes, "responses are sent whole");
        Some(received.split_to(4 + bytes).split_off(4).freeze())
    }

    fn is_closed(&self, connection: ConnectionId) -> bool {
        self.clients[&connection].is_closed
    }

    /// Moves the clock, and lets happen what then happens.
    fn advance(&mut self, by: Duration) {
        self.now.elapsed += by;
        self.now.unix_ms += by.as_millis() as i64;
        self.run();
    }

    /// Takes turns until nothing happens any more.
    fn run(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "the shards do not come to rest");
            for shard in 0..self.shards.len() {
                let mut effects = Vec::new();
                for event in std::mem::take(&mut self.events[shard]) {
                    self.shards[shard].handle(self.now, event, &mut effects);
                }
                self.shards[shard].end_turn(self.now, &mut effects);
                for effect in effects {
                    self.execute(shard, effect);
                }
            }
            if self.events.iter().all(VecDeque::is_empty) {
                return;
            }
        }
    }

    /// Takes turns as the driver does: also when nothing happens but a shard's deadline has come.
    fn run_until_nothing_is_due(&mut self) {
        self.run();
        for turn in 0.. {
            assert!(turn < 10_000, "the shards do not come to rest");
            let now = self.now.elapsed;
            if !self.shards.iter().any(|shard| shard.next_deadline().is_some_and(|deadline| deadline <= now)) {
                return;
            }
            self.run();
        }
    }

    fn execute(&mut self, shard: ShardIndex, effect: Effect) {
        match effect {
            Effect::Send { connection, parts } => {
                let Some(client) = self.clients.get_mut(&connection) else { return };
                assert!(!client.is_closed, "nothing is sent after a close");
                for part in parts {
                    match part {
                        SendPart::Memory(bytes) => client.received.extend_from_slice(&bytes),
                        SendPart::File { path, position, bytes } => {
                            let range = (path.to_string(), position, bytes);
                            assert!(self.prefetched.remove(&range), "{range:?} was not made resident");
                            let data = self.disk.peek(&path, position, bytes).expect("the file is there");
                            client.received.extend_from_slice(&data);
                        }
                    }
                }
                self.events[shard].push_back(Event::Drained { connection });
            }
            Effect::Close { connection } => {
                if let Some(client) = self.clients.get_mut(&connection) {
                    client.is_closed = true;
                    self.events[shard].push_back(Event::Disconnected { connection });
                }
            }
            Effect::Reading { connection, on } => {
                if let Some(client) = self.clients.get_mut(&connection) {
                    assert_ne!(client.is_read, on, "reading changes");
                    client.is_read = on;
                }
            }
            Effect::Disk { token, op } => match &mut self.held_disk {
                Some(held) => held.push((shard, token, op)),
                None => {
                    let result = self.disk.execute(op);
                    self.events[shard].push_back(Event::Disk { token, result });
                }
            },
            Effect::Prefetch { token, path, position, bytes } => {
                self.prefetched.insert((path.to_string(), position, bytes));
                match &mut self.held_prefetches {
                    Some(held) => held.push((shard, token)),
                    None => {
                        let result = self.prefetch_result.clone();
                        self.events[shard].push_back(Event::Prefetched { token, result });
                    }
                }
            }
            Effect::Discard { path, position, bytes } => self.discarded.push((path.to_string(), position, bytes)),
            Effect::ToShard { shard: to, message } => {
                assert_ne!(to, shard, "a shard does not send to itself");
                self.events[to].push_back(Event::Message(message));
            }
            Effect::ToController { token, request } => {
                self.controller_requests += 1;
                self.ask_controller(Asker::Shard { shard, token }, request);
            }
            effect @ (Effect::Dial { .. } | Effect::SendToPeer { .. } | Effect::HangUp { .. }) => {
                self.to_peers.push((shard, effect));
            }
            Effect::ConnectionRules(rules) => {
                assert_eq!(shard, 0, "one shard says it");
                self.connection_rules = Some(rules);
            }
            Effect::MetadataApplied { .. } if self.is_controller_by_itself => {}
            Effect::MetadataApplied { offset } => self.tell_controller(controller::Event::Applied { shard, offset }),
            Effect::Warn { message } => panic!("nothing goes wrong here: {message}"),
            Effect::Fail { reason } => self.failure = Some(reason),
        }
    }

    /// Holds disk operations back from here on.
    fn hold_disk(&mut self) {
        self.held_disk = Some(Vec::new());
    }

    /// Executes what was held back, and all that follows.
    fn release_disk(&mut self) {
        for (shard, token, op) in self.held_disk.take().expect("it was held") {
            let result = self.disk.execute(op);
            self.events[shard].push_back(Event::Disk { token, result });
        }
        self.run();
    }

    /// A failed disk operation: what was held back first.
    fn fail_held_disk(&mut self) {
        let (shard, token, _) = self.held_disk.take().expect("it was held").remove(0);
        let result: Result<DiskReply, DiskError> = Err(DiskError::Failed("broken".to_string()));
        self.events[shard].push_back(Event::Disk { token, result });
        self.run();
    }

    /// A sample's value, over all shards.
    fn sample(&mut self, name: &str) -> u64 {
        let mut scrape = Scrape::default();
        self.shards.iter_mut().for_each(|shard| shard.samples(&mut scrape));
        scrape.samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value as u64).sum()
    }
}

/// A request as it comes over the wire, without its length.
fn request_frame<R: KafkaRequest>(version: i16, correlation_id: i32, request: &R) -> Bytes {
    let mut frame = BytesMut::new();
    let client_id = Some(StrBytes::from("test"));
    let limits = kafka_wire::OutboundFrameLimits::new(1 << 30);
    kafka_wire::encode_request(&mut frame, correlation_id, client_id, request, ApiVersion::new(version), limits)
        .expect("the request fits its version");
    frame.split_off(4).freeze()
}

/// A batch of records with these values.
fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder = builder.record(START_UNIX_MS, None, Some(value.as_bytes()), &[]);
    }
    builder.build().into()
}

/// A batch of an idempotent producer.
fn producer_batch(producer_id: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new().producer(producer_id, epoch, sequence);
    for value in values {
        builder = builder.record(START_UNIX_MS, None, Some(value.as_bytes()), &[]);
    }
    builder.build().into()
}
