//! One node as it is shipped (shards, their logs, the controller and its log, recovery) and its clients, on one event
//! heap: a network that delays and cuts, a disk that loses power, crashes at any event, restarts with another number
//! of shards. The driver's part is played by this file: it executes effects, late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::config::Properties;
use millstream_replication::{ClusterImage, ControllerRequest, ControllerResponse, Endpoint, MetaProperties};
use millstream_storage::batch::Batches;
use millstream_storage::partition_log::partition_directory;
use millstream_storage::recovery::LastShutdown;
use millstream_storage::shard_log::ShardLogOptions;
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, Now, PartitionKey};

use super::checkers::{Checkers, Observation, ProducerIdsAreUnique};
use super::clients::wire::TOPIC;
use super::clients::{Client, Finding, Knowledge, Reaction, member};
use super::damage::{Inspected, UNCOVERED_BYTES, Verdicts, start_on_damaged_copies};
use super::disk::{Operation, SimDisk, brief, brief_op};
use super::random::Random;
use super::restart::{ReadFailure, Whole, cleaner_options, inspect, until_recovered};
use super::schedule::{Schedule, Trace, fingerprint};
use super::seeds::{self, Options};
use crate::controller::{Asker, ControllerShard, Effect as ControllerEffect, Event as ControllerEvent};
use crate::node::{Node as Recovered, NodeOptions, OpenShard};
use crate::shard::{ConnectionId, DiskToken, Effect, Event as ShardEvent, Message, PrefetchToken, SendPart, Shard};

const NODE_ID: i32 = 1;
/// Who asks the controller to register the broker.
const REGISTRATION: Asker = Asker::Node { token: 0 };
/// How long everything may take to come to an end when nothing goes wrong any more.
const ENDING_US_MAX: u64 = 20_000_000;
/// How long the disk is full in simulations that wait and see whether everything else goes on.
const FULL_US: u64 = 8_000_000;
/// How long a read, a question or a deletion of records may wait for its answer, on a disk that is not slow.
const ANSWER_US_MAX: u64 = 2_000_000;
/// One of so many disk operations of the controller is late, and the node goes down before it ends: they are too few for
/// crashes at any time to meet them...
const CONTROLLER_CUT_ONE_IN: u64 = 12;
/// ...by so much, in which an answer that did not wait for it would get around.
const CONTROLLER_LATE_US: u64 = 5_000;
/// The place of the controller among those that send messages.
const CONTROLLER: usize = usize::MAX;
const DAY_MS: u64 = 86_400_000;
/// `message.timestamp.after.max.ms` is an hour.
const CLOCK_BACK_MS_MAX: u64 = 40 * 60_000;

/// What became of the mark that a clean stop leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// The node runs, or has crashed.
    Absent,
    /// The node went down while it was written.
    UnderWay,
    /// It is there.
    Written,
}

impl Mark {
    /// Whether what recovery says of the last run can be true.
    fn agrees(self, last: LastShutdown, was_interrupted: bool) -> bool {
        match (self, last) {
            (Mark::Absent, LastShutdown::Clean) => false,
            // The recovery that was interrupted may have had it taken away already.
            (Mark::Written, LastShutdown::Never | LastShutdown::Unclean { .. }) => was_interrupted,
            _ => true,
        }
    }
}

/// What a simulation that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Fingerprint of everything that happened.
    pub trace: u64,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Records that consumers saw.
    pub seen: usize,
    /// Times that a member of the group was told what to read, and commits of members that were acknowledged.
    pub group: (usize, usize),
    /// Times the node went down, gracefully or not.
    pub stops: u64,
    /// Starts after which recovery said that the last run was shut down cleanly.
    pub clean_shutdowns: u64,
    /// What starts on damaged disks came to.
    pub verdicts: Verdicts,
    /// What became of the snapshots of the metadata log.
    pub snapshots: Snapshots,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

/// What became of the snapshots of the metadata log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Snapshots that were taken.
    pub taken: usize,
    /// Ends of the node within the operations of one: the new log's beginning, the snapshot, the removal of the old log.
    pub interrupted: [usize; 3],
}

impl Snapshots {
    /// Adds what another simulation has counted.
    pub fn add_all(&mut self, other: Snapshots) {
        self.taken += other.taken;
        self.interrupted.iter_mut().zip(other.interrupted).for_each(|(sum, more)| *sum += more);
    }

    /// Which of a snapshot's operations this is, if it is one: it is recognised by its file, as an operator would.
    fn step(op: &DiskOp) -> Option<usize> {
        match op {
            DiskOp::Replace { path, .. } if path.ends_with(".log") => Some(0),
            DiskOp::Replace { .. } => Some(1),
            DiskOp::Remove { .. } => Some(2),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Event {
    // Of the running node; gone when it goes down.
    Disk { shard: usize, token: DiskToken, operation: Operation },
    Prefetch { shard: usize, token: PrefetchToken, path: millstream_storage::FilePath },
    ControllerDisk { token: millstream_storage::DiskToken, operation: Operation },
    ToShard { shard: usize, message: Message },
    ToController { asker: Asker, request: ControllerRequest },
    Applied { shard: usize, offset: u64 },
    Timer { shard: usize },
    Turn { shard: usize },
    Frame { connection: ConnectionId, frame: Bytes },
    Sent { connection: ConnectionId },
    Marked { operation: Operation },
    FreeSpace,
    // Of the world around it.
    Client { client: usize },
    Cut,
    Capacity,
    Slow,
    Clock,
    Crash,
    Stop,
    Start,
}

impl Event {
    fn is_of_the_world(&self) -> bool {
        use Event::*;
        matches!(self, Client { .. } | Cut | Capacity | Slow | Clock | Crash | Stop | Start)
    }
}

struct Connection {
    client: usize,
    shard: usize,
    is_read: bool,
    is_closing: bool,
    /// Frames that came while the shard does not read.
    unread: VecDeque<Bytes>,
    outgoing: VecDeque<Vec<SendPart>>,
    last_frame_us: u64,
}

struct Node {
    started_us: u64,
    shards: Vec<Shard>,
    inbox: Vec<Vec<ShardEvent>>,
    has_turn: Vec<bool>,
    timer_at: Vec<Option<u64>>,
    controller: ControllerShard,
    /// The step of a snapshot that the controller's disk operation under way is.
    snapshot_step: Option<usize>,
    /// Whose the data directory is.
    meta: MetaProperties,
    /// The epoch of its registration; none before that.
    broker_epoch: Option<i64>,
    /// The mark of a clean stop is being written.
    is_marking: bool,
    connections: BTreeMap<ConnectionId, Connection>,
    /// When the last message from one place to another arrives; the controller is [`CONTROLLER`].
    last_message_us: BTreeMap<(usize, usize), u64>,
    is_listening: bool,
    is_stopping: bool,
}

/// What the broker is started with: little of everything, and sessions short enough to end.
fn properties() -> Properties {
    let session = member::SESSION_MS.to_string();
    [
        ("offsets.topic.num.partitions", "3"),
        // What groups commit is compacted all the time: its segments are closed as soon as they are so old.
        ("log.cleaner.max.compaction.lag.ms", "30"),
        // Compactions follow each other as in the other simulation.
        ("log.cleaner.backoff.ms", "20"),
        ("group.min.session.timeout.ms", "1"),
        ("group.initial.rebalance.delay.ms", "5"),
        ("group.consumer.min.session.timeout.ms", "1"),
        ("group.consumer.session.timeout.ms", &session),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .into()
}

/// One node, its disk and its clients.
pub struct Simulation {
    random: Random,
    schedule: Schedule<Event>,
    trace: Trace,
    disk: SimDisk,
    node: Option<Node>,
    properties: Arc<Properties>,
    clients: Vec<Client>,
    connected: Vec<Option<ConnectionId>>,
    /// Since when each client waits for an answer on this connection that must come soon.
    waits_since_us: Vec<Option<u64>>,
    /// The disk was slow for a while: answers may take longer.
    was_slow: bool,
    /// The disk is full for long.
    is_full: bool,
    idempotent: BTreeSet<u32>,
    checkers: Vec<Checkers>,
    knowledge: Knowledge,
    topic_exists: bool,
    producer_ids: ProducerIdsAreUnique,
    next_connection: u64,
    stops: u64,
    clean_shutdowns: u64,
    is_damaged_at_rest: bool,
    verdicts: Verdicts,
    snapshots: Snapshots,
    /// What became of the mark of a clean stop.
    mark: Mark,
    end_us: u64,
}

impl Simulation {
    /// Runs a seed to its end.
    pub fn run(options: Options) -> Result<Outcome, String> {
        let mut simulation = Simulation::new(options);
        simulation.go()?;
        Ok(Outcome {
            trace: simulation.trace.finish(),
            acknowledged: simulation.checkers.iter().map(Checkers::acknowledged).sum(),
            seen: simulation.checkers.iter().map(Checkers::seen).sum(),
            group: simulation.knowledge.group.counts(),
            stops: simulation.stops,
            clean_shutdowns: simulation.clean_shutdowns,
            verdicts: simulation.verdicts,
            snapshots: simulation.snapshots,
        })
    }

    fn new(options: Options) -> Simulation {
        let mut random = Random::new(options.seed);
        let mut disk = SimDisk::new(random.fork());
        if random.one_in(5) {
            disk.faults.fail_one_in = random.between(300, 3_000);
        }
        if random.one_in(4) {
            disk.faults.fail_sync_one_in = random.between(2, 20);
        }
        let partitions = random.between(1, 5) as usize;
        let has_retention = random.one_in(4);
        let mut configs = vec![("file.delete.delay.ms", "200".to_string())];
        if random.coin() {
            configs.push(("segment.ms", random.between(50, 500).to_string()));
        }
        if has_retention {
            configs.push(("retention.bytes", "200000".to_string()));
        }
        let mut clients = vec![Client::admin(0, configs)];
        for number in 1..=random.between(1, 7) as u32 {
            clients.push(Client::producer(number, random.index(partitions), &mut random));
        }
        for _ in 0..random.between(1, 3) {
            clients.push(Client::consumer(clients.len() as u32, partitions));
        }
        clients.push(Client::deleter(clients.len() as u32));
        clients.push(Client::asker(clients.len() as u32));
        if random.one_in(3) {
            clients.push(Client::recreator(clients.len() as u32));
            clients.push(Client::intruder(clients.len() as u32));
        }
        if random.one_in(3) {
            clients.push(Client::committer(clients.len() as u32));
            clients.push(Client::committer(clients.len() as u32));
        }
        let members = if random.one_in(3) { random.between(2, 5) } else { 0 };
        for _ in 0..members {
            let is_classic = random.coin();
            clients.push(Client::member(clients.len() as u32, is_classic));
        }
        if random.one_in(4) {
            clients.push(Client::hostile(clients.len() as u32));
            clients.push(Client::hostile(clients.len() as u32));
        }
        let has_damage = random.one_in(6);
        if has_damage {
            disk.faults.flip_read_one_in = random.between(3, 60);
        }
        let is_full = random.one_in(15);
        let full_us = if is_full { FULL_US } else { 0 };
        Simulation {
            trace: Trace::new(options.is_verbose),
            idempotent: clients.iter().filter(|each| each.is_idempotent()).map(|each| each.number).collect(),
            connected: clients.iter().map(|_| None).collect(),
            checkers: (0..partitions).map(|_| Checkers::default()).collect(),
            knowledge: Knowledge {
                partitions: vec![Default::default(); partitions],
                has_retention,
                has_damage,
                ..Knowledge::default()
            },
            waits_since_us: clients.iter().map(|_| None).collect(),
            was_slow: false,
            is_full,
            end_us: random.between(100_000, 1_000_000) + full_us,
            is_damaged_at_rest: random.one_in(4),
            clients,
            random,
            schedule: Schedule::new(),
            disk,
            node: None,
            properties: Arc::new(properties()),
            topic_exists: false,
            producer_ids: ProducerIdsAreUnique::default(),
            next_connection: 0,
            stops: 0,
            clean_shutdowns: 0,
            verdicts: Verdicts::default(),
            snapshots: Snapshots::default(),
            mark: Mark::Absent,
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.schedule.after(0, Event::Start);
        for client in 0..self.clients.len() {
            self.schedule.after(1_000 + client as u64, Event::Client { client });
        }
        for _ in 0..self.random.below(4) {
            let at = self.random.below(self.end_us);
            self.schedule.at(at, Event::Crash);
        }
        if self.random.one_in(3) {
            let at = self.random.below(self.end_us);
            self.schedule.at(at, Event::Stop);
        }
        if self.is_full || self.random.one_in(5) {
            self.schedule.after(self.end_us / 3, Event::Capacity);
        }
        if self.random.one_in(5) {
            self.schedule.after(self.end_us / 4, Event::Slow);
        }
        if self.random.one_in(4) {
            for _ in 0..3 {
                let at = self.random.below(self.end_us);
                self.schedule.at(at, Event::Clock);
            }
        }
        for _ in 0..self.random.below(10) {
            let at = self.random.below(self.end_us);
            self.schedule.at(at, Event::Cut);
        }
        while let Some(event) = self.schedule.next() {
            self.happen(event).map_err(|error| format!("at {} us: {error}", self.schedule.now_us()))?;
            let now_us = self.schedule.now_us();
            if !self.knowledge.is_ending && now_us >= self.end_us {
                // From here on nothing goes wrong, so everything under way must come to its end.
                self.knowledge.is_ending = true;
                self.disk.faults = Default::default();
                self.schedule.retain(|event| !{
                    use Event::*;
                    matches!(event, Cut | Capacity | Slow | Clock | Crash | Stop)
                });
            }
            if self.knowledge.is_ending && !self.clients.iter().any(Client::is_waiting) && self.node.is_some() {
                break;
            }
            if now_us >= self.end_us + ENDING_US_MAX {
                let waiting = self.clients.iter().find(|client| client.is_waiting());
                return Err(format!("a client waits for an answer for ever: {waiting:?}"));
            }
        }
        self.go_down(true);
        self.start()
    }

    fn line(&mut self, line: impl FnOnce() -> String) {
        self.trace.line(self.schedule.now_us(), line());
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Start => self.start(),
            Event::Crash => {
                if self.node.is_some() {
                    let is_power = self.random.coin();
                    self.go_down(is_power);
                    self.restart_soon();
                }
                Ok(())
            }
            Event::Stop => {
                if self.node.as_ref().is_some_and(|node| node.is_listening) {
                    self.stop()?;
                }
                Ok(())
            }
            Event::Client { client } => {
                self.client_acts(client)?;
                let pause = self.clients[client].pause_us(&mut self.random);
                self.schedule.after(pause, Event::Client { client });
                Ok(())
            }
            Event::Cut => {
                let connected: Vec<ConnectionId> = self.connected.iter().flatten().copied().collect();
                if !connected.is_empty() {
                    let connection = connected[self.random.index(connected.len())];
                    self.disconnect(connection);
                }
                Ok(())
            }
            Event::Capacity => {
                let capacity = match self.disk.faults.capacity_bytes {
                    None => Some((2 << 20) + self.random.below(1 << 20)),
                    Some(_) => None,
                };
                self.disk.faults.capacity_bytes = capacity;
                self.line(|| format!("capacity {capacity:?}"));
                self.schedule.after(self.end_us / 3, Event::Capacity);
                Ok(())
            }
            Event::Slow => {
                self.disk.faults.turn_slow(&mut self.random);
                self.was_slow = true;
                let slow = format!("slow: {:?}", self.disk.faults.slow);
                self.line(|| slow);
                self.schedule.after(self.end_us / 4, Event::Slow);
                Ok(())
            }
            Event::Clock => {
                // Records older than `retention.ms` would go, and records of the future are refused.
                let error_ms = self.random.between(0, 3 * DAY_MS + CLOCK_BACK_MS_MAX) as i64;
                let error_ms = error_ms - CLOCK_BACK_MS_MAX as i64;
                self.schedule.set_clock_error(error_ms);
                self.line(|| format!("the clock is wrong by {error_ms} ms"));
                Ok(())
            }
            event if self.node.is_some() => self.node_event(event),
            event => unreachable!("{event:?} without a node"),
        }
    }

    /// Something happens to the running node.
    fn node_event(&mut self, event: Event) -> Result<(), String> {
        let node = self.node.as_mut().expect("the caller checked");
        match event {
            Event::Disk { shard, token, operation } => {
                let result = self.disk.complete(operation);
                self.line(|| format!("shard {shard}: operation {token} ends: {}", brief(&result)));
                self.give(shard, ShardEvent::Disk { token, result });
            }
            Event::Prefetch { shard, token, path } => {
                let is_there = self.disk.peek(&path, 0, 0).is_some();
                let result = is_there.then_some(()).ok_or(DiskError::NotFound);
                self.give(shard, ShardEvent::Prefetched { token, result });
            }
            Event::ControllerDisk { token, operation } => {
                let result = self.disk.complete(operation);
                if node.snapshot_step.take() == Some(1) && result.is_ok() {
                    self.snapshots.taken += 1;
                }
                self.line(|| format!("controller: operation {} ends: {}", token.0, brief(&result)));
                self.controller(ControllerEvent::Disk { token, result })?;
                self.mark_clean_stop();
            }
            Event::ToShard { shard, message } => self.give(shard, ShardEvent::Message(message)),
            Event::ToController { asker, request } => {
                let random_id = self.random.bytes();
                self.controller(ControllerEvent::Asked { asker, request, random_id })?;
            }
            Event::Applied { shard, offset } => self.controller(ControllerEvent::Applied { shard, offset })?,
            Event::Timer { shard } => {
                node.timer_at[shard] = None;
                self.turn(shard)?;
            }
            Event::Turn { shard } => self.turn(shard)?,
            Event::Frame { connection, frame } => {
                if let Some(to) = node.connections.get_mut(&connection).filter(|to| !to.is_closing) {
                    if to.is_read {
                        let shard = to.shard;
                        self.give(shard, ShardEvent::Request { connection, frame });
                    } else {
                        to.unread.push_back(frame);
                    }
                }
            }
            Event::Sent { connection } => self.sent(connection)?,
            Event::Marked { operation } => {
                let result = self.disk.complete(operation);
                self.line(|| format!("the mark of a clean stop: {}", brief(&result)));
                self.mark = if result.is_ok() { Mark::Written } else { Mark::Absent };
                // Nothing is to be lost any more, not even by a loss of power.
                let is_power = self.random.coin();
                self.go_down(is_power);
                self.restart_soon();
            }
            Event::FreeSpace => {
                let bytes = self.disk.free_bytes();
                for shard in 0..node.shards.len() {
                    self.give(shard, ShardEvent::FreeSpace { bytes, total_bytes: bytes });
                }
                self.schedule.after(50_000, Event::FreeSpace);
            }
            event => unreachable!("{event:?} is of the world"),
        }
        Ok(())
    }

    // ---- The node's life ----

    fn restart_soon(&mut self) {
        let pause = self.random.between(100, 20_000);
        self.schedule.after(pause, Event::Start);
    }

    /// The node is gone, and with it every connection.
    fn go_down(&mut self, is_power: bool) {
        self.stops += 1;
        self.line(|| format!("the node goes down, power lost: {is_power}"));
        self.disk.go_down(is_power);
        if let Some(step) = self.node.take().and_then(|node| node.snapshot_step) {
            self.snapshots.interrupted[step] += 1;
        }
        self.schedule.retain(Event::is_of_the_world);
        for (client, connection) in self.clients.iter_mut().zip(&mut self.connected) {
            if connection.take().is_some() {
                client.disconnected(&mut self.knowledge);
            }
        }
        self.waits_since_us.fill(None);
    }

    /// The node exits with an error, as it must after a failed write.
    fn give_up(&mut self, reason: &str) -> Result<(), String> {
        self.line(|| format!("the node gives up: {reason}"));
        // A node that finds no room to register exits, too.
        if !self.disk.has_failed() && self.disk.faults.capacity_bytes.is_none() {
            return Err(format!("the node gave up though its disk is fine: {reason}"));
        }
        let is_power = self.random.coin();
        self.go_down(is_power);
        self.restart_soon();
        Ok(())
    }

    /// The node is told to stop.
    fn stop(&mut self) -> Result<(), String> {
        self.line(|| "the node is told to stop".to_string());
        let node = self.node.as_mut().expect("the caller checked");
        node.is_stopping = true;
        node.is_listening = false;
        let now = self.schedule.now(node.started_us);
        for shard in 0..node.shards.len() {
            let Some(node) = &mut self.node else { return Ok(()) };
            let mut effects = Vec::new();
            node.shards[shard].begin_shutdown(now, &mut effects);
            self.execute(shard, effects)?;
        }
        for shard in 0..self.node.as_ref().map_or(0, |node| node.shards.len()) {
            self.give_turn(shard);
        }
        Ok(())
    }

    /// Recovers, perhaps interrupted, shows everything to the checkers, and starts the shards.
    fn start(&mut self) -> Result<(), String> {
        if self.is_damaged_at_rest {
            let mut random = self.random.fork();
            let verdicts =
                start_on_damaged_copies(&self.disk, &mut random, |disk, random| self.start_on(disk, random))?;
            self.verdicts.add_all(verdicts);
        }
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = self.random.between(1, 4) as usize;
        let now = self.schedule.now(0);
        let Simulation { disk, random, trace, properties, schedule, .. } = self;
        let now_us = schedule.now_us();
        let mut was_interrupted = false;
        let Recovered { meta, controller, shards, counts } = until_recovered(
            disk,
            random,
            4,
            |line| {
                was_interrupted = true;
                trace.line(now_us, line);
            },
            |disk, random| recover_node(disk, random, shards, now, properties),
        )?;
        let (last, mark) = (counts.last_shutdown, std::mem::replace(&mut self.mark, Mark::Absent));
        self.line(|| format!("recovered {} groups, {} shards, last shutdown: {last:?}", counts.groups, shards.len()));
        if !mark.agrees(last, was_interrupted) {
            return Err(format!("the last shutdown was {last:?}, and its mark was {mark:?}"));
        }
        self.clean_shutdowns += u64::from(last == LastShutdown::Clean);
        let mut shards: Vec<OpenShard> = shards.into_iter().map(|shard| shard.open()).collect();
        self.check_everything(controller.image(), &mut shards)?;
        self.disk.faults = faults;

        let shards: Vec<Shard> = shards.into_iter().map(OpenShard::start).collect();
        let count = shards.len();
        self.node = Some(Node {
            started_us: self.schedule.now_us(),
            inbox: shards.iter().map(|_| Vec::new()).collect(),
            has_turn: vec![false; count],
            timer_at: vec![None; count],
            controller,
            snapshot_step: None,
            meta,
            broker_epoch: None,
            is_marking: false,
            shards,
            connections: BTreeMap::new(),
            last_message_us: BTreeMap::new(),
            is_listening: false,
            is_stopping: false,
        });
        for shard in 0..count {
            self.give_turn(shard);
        }
        let endpoints = vec![Endpoint { listener: "PLAINTEXT".to_string(), host: "localhost".to_string(), port: 9092 }];
        let request = ControllerRequest::RegisterBroker { node_id: NODE_ID, endpoints, rack: None };
        self.schedule.after(0, Event::ToController { asker: REGISTRATION, request });
        self.schedule.after(0, Event::FreeSpace);
        Ok(())
    }

    /// Reads all that was recovered and shows it to the checkers.
    fn check_everything(&mut self, image: &ClusterImage, shards: &mut [OpenShard]) -> Result<(), String> {
        for partition in 0..self.checkers.len() {
            let mut checkers = std::mem::take(&mut self.checkers[partition]);
            let mut random = self.random.fork();
            let mut disk = std::mem::replace(&mut self.disk, SimDisk::new(Random::new(0)));
            let whole = self.inspect(&mut disk, &mut random, image, shards, partition, &mut checkers);
            self.disk = disk;
            self.checkers[partition] = checkers;
            let Whole { log_start, log_end, .. } = whole.map_err(|error| format!("partition {partition}: {error}"))?;
            self.line(|| format!("partition {partition}: offsets {log_start} to {log_end}"));
            self.now_known(partition);
        }
        Ok(())
    }

    /// Reads a partition just recovered and shows it to these checkers.
    fn inspect(
        &self,
        disk: &mut SimDisk,
        random: &mut Random,
        image: &ClusterImage,
        shards: &mut [OpenShard],
        partition: usize,
        checkers: &mut Checkers,
    ) -> Result<Whole, ReadFailure> {
        let topic = image.topic(TOPIC);
        if topic.is_none() && self.topic_exists {
            return Err(ReadFailure::Wrong("the topic is gone".to_string()));
        }
        let key = topic.map(|topic| PartitionKey { topic_id: topic.id, partition: partition as i32 });
        let count = shards.len();
        let found = key.and_then(|key| {
            let log = &mut shards[key.shard(count)].log;
            log.find(key).map(|id| (log, id))
        });
        let Some(log) = found else {
            let whole = Observation::Whole { log_start: 0, log_end: 0, records: &[] };
            checkers.see(&self.idempotent, &whole).map_err(ReadFailure::Wrong)?;
            return Ok(Whole::default());
        };
        inspect(disk, random, log, self.schedule.now(0), checkers, &self.idempotent)
    }

    fn start_on(&self, disk: &mut SimDisk, random: &mut Random) -> Result<Inspected, String> {
        let shards = random.between(1, 4) as usize;
        let now = self.schedule.now(0);
        let Recovered { controller, shards, .. } = recover_node(disk, random, shards, now, &self.properties)?;
        let image = controller.image();
        let mut shards: Vec<OpenShard> = shards.into_iter().map(|shard| shard.open()).collect();
        let mut inspected = Vec::new();
        for (partition, checkers) in self.checkers.iter().enumerate() {
            let whole = self.inspect(disk, random, image, &mut shards, partition, &mut checkers.clone());
            let directory = image.topic(TOPIC).map(|topic| {
                partition_directory(TOPIC, PartitionKey { topic_id: topic.id, partition: partition as i32 })
            });
            inspected.push((directory.unwrap_or_default(), whole.map(drop)));
        }
        Ok(inspected)
    }

    // ---- Shards ----

    /// Hands an event to a shard, which takes it in its next turn with all that came meanwhile.
    fn give(&mut self, shard: usize, event: ShardEvent) {
        let node = self.node.as_mut().expect("the node is up");
        node.inbox[shard].push(event);
        self.give_turn(shard);
    }

    fn give_turn(&mut self, shard: usize) {
        let node = self.node.as_mut().expect("the node is up");
        if !std::mem::replace(&mut node.has_turn[shard], true) {
            let delay = if self.random.one_in(50) { self.random.below(3_000) } else { self.random.below(30) };
            self.schedule.after(delay, Event::Turn { shard });
        }
    }

    fn turn(&mut self, shard: usize) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(node.started_us);
        node.has_turn[shard] = false;
        let mut effects = Vec::new();
        for event in std::mem::take(&mut node.inbox[shard]) {
            node.shards[shard].handle(now, event, &mut effects);
        }
        node.shards[shard].end_turn(now, &mut effects);
        if let Some(deadline) = node.shards[shard].next_deadline() {
            let at = (node.started_us + deadline.as_micros() as u64 + 1).max(self.schedule.now_us() + 100);
            if node.timer_at[shard].is_none_or(|earlier| at < earlier) {
                node.timer_at[shard] = Some(at);
                self.schedule.at(at, Event::Timer { shard });
            }
        }
        self.execute(shard, effects)?;
        self.mark_clean_stop();
        Ok(())
    }

    /// Marks the directory when everything that was under way has come to its end.
    fn mark_clean_stop(&mut self) {
        let Some(node) = &mut self.node else { return };
        let is_done = node.shards.iter().all(Shard::is_shut_down) && node.controller.is_idle();
        if node.is_stopping && is_done && !std::mem::replace(&mut node.is_marking, true) {
            let epoch = node.broker_epoch.expect("only a registered node is told to stop");
            let (operation, delay) = self.disk.submit(node.meta.mark_clean_shutdown(epoch));
            self.mark = Mark::UnderWay;
            self.schedule.after(delay, Event::Marked { operation });
        }
    }

    fn execute(&mut self, shard: usize, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            let Some(node) = &mut self.node else { return Ok(()) };
            match effect {
                Effect::Send { connection, parts } => {
                    if let Some(to) = node.connections.get_mut(&connection) {
                        to.outgoing.push_back(parts);
                        if to.outgoing.len() == 1 {
                            let delay = self.random.between(20, 400);
                            self.schedule.after(delay, Event::Sent { connection });
                        }
                    }
                }
                Effect::Close { connection } => {
                    if let Some(to) = node.connections.get_mut(&connection) {
                        to.is_closing = true;
                        if to.outgoing.is_empty() {
                            self.disconnect(connection);
                        }
                    }
                }
                Effect::Reading { connection, on } => {
                    if let Some(to) = node.connections.get_mut(&connection) {
                        to.is_read = on;
                        let frames: Vec<Bytes> = if on { to.unread.drain(..).collect() } else { Vec::new() };
                        for frame in frames {
                            self.give(shard, ShardEvent::Request { connection, frame });
                        }
                    }
                }
                Effect::Disk { token, op } => {
                    self.line(|| format!("shard {shard}: operation {token}: {}", brief_op(&op)));
                    let (operation, delay) = self.disk.submit(op);
                    self.schedule.after(delay, Event::Disk { shard, token, operation });
                }
                Effect::Prefetch { token, path, .. } => {
                    let delay = self.random.between(50, 5_000);
                    self.schedule.after(delay, Event::Prefetch { shard, token, path });
                }
                Effect::Discard { .. } | Effect::ConnectionRules(_) => {}
                Effect::ToShard { shard: to, message } => self.send(shard, to, message),
                Effect::ToController { token, request } => {
                    let delay = self.random.below(50);
                    let asker = Asker::Shard { shard, token };
                    self.schedule.after(delay, Event::ToController { asker, request });
                }
                Effect::MetadataApplied { offset } => self.schedule.after(1, Event::Applied { shard, offset }),
                Effect::Warn { message } => {
                    self.trace.line(self.schedule.now_us(), format!("shard {shard} warns: {message}"));
                }
                Effect::Fail { reason } => self.give_up(&reason)?,
            }
        }
        Ok(())
    }

    /// Messages from one place to another arrive in order.
    fn send(&mut self, from: usize, shard: usize, message: Message) {
        let node = self.node.as_mut().expect("the node is up");
        let last = node.last_message_us.entry((from, shard)).or_default();
        let delay = if self.random.one_in(30) { self.random.below(5_000) } else { self.random.below(60) };
        *last = (*last).max(self.schedule.now_us() + delay);
        self.schedule.at(*last, Event::ToShard { shard, message });
    }

    // ---- The controller ----

    /// Something happens to the controller.
    fn controller(&mut self, event: ControllerEvent) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let now = self.schedule.now(node.started_us);
        let mut effects = Vec::new();
        node.controller.handle(now, event, &mut effects);
        for effect in effects {
            let Some(node) = &mut self.node else { return Ok(()) };
            match effect {
                ControllerEffect::Disk { token, op } => {
                    node.snapshot_step = Snapshots::step(&op);
                    self.line(|| format!("controller: operation {}: {}", token.0, brief_op(&op)));
                    let (operation, mut delay) = self.disk.submit(op);
                    if !self.knowledge.is_ending && self.random.one_in(CONTROLLER_CUT_ONE_IN) {
                        delay += CONTROLLER_LATE_US;
                        let at = self.random.between(CONTROLLER_LATE_US / 2, delay - 1);
                        self.schedule.after(at, Event::Crash);
                    }
                    self.schedule.after(delay, Event::ControllerDisk { token, operation });
                }
                ControllerEffect::Publish { offset, records } => {
                    self.line(|| format!("metadata committed up to {offset}"));
                    for shard in 0..self.node.as_ref().map_or(0, |node| node.shards.len()) {
                        self.send(CONTROLLER, shard, Message::Metadata { offset, records: Arc::clone(&records) });
                    }
                }
                ControllerEffect::Answer { asker: Asker::Shard { shard, token }, response } => {
                    self.send(CONTROLLER, shard, Message::Controller { token, response });
                }
                ControllerEffect::Answer { asker: Asker::Node { .. }, response } => match response {
                    ControllerResponse::RegisterBroker(Err(error)) => {
                        self.give_up(&format!("the broker cannot be registered: {error}"))?;
                    }
                    ControllerResponse::RegisterBroker(Ok(epoch)) => {
                        node.broker_epoch = Some(epoch);
                        node.is_listening = true;
                        for shard in &mut node.shards {
                            shard.broker_registered();
                        }
                        for shard in 0..self.node.as_ref().map_or(0, |node| node.shards.len()) {
                            self.give_turn(shard);
                        }
                    }
                    other => return Err(format!("a registration is answered with {other:?}")),
                },
                ControllerEffect::Warn { message } => self.line(|| format!("the controller warns: {message}")),
                ControllerEffect::Fail { reason } => self.give_up(&reason)?,
            }
        }
        Ok(())
    }

    // ---- Clients and the network ----

    fn client_acts(&mut self, client: usize) -> Result<(), String> {
        if self.clients[client].is_hostile()
            && self.random.one_in(4)
            && let Some(connection) = self.connected[client]
        {
            self.disconnect(connection);
        }
        let now_us = self.schedule.now_us();
        let waits_us = self.waits_since_us[client].map_or(0, |since| now_us - since);
        if waits_us > ANSWER_US_MAX && !self.was_slow {
            return Err(format!("{:?} waits for an answer for {waits_us} us", self.clients[client]));
        }
        let Some(node) = self.node.as_mut() else { return Ok(()) };
        let connection = match self.connected[client] {
            Some(connection) => connection,
            None if !node.is_listening => return Ok(()),
            None => {
                let connection = ConnectionId(self.next_connection);
                self.next_connection += 1;
                let shard = self.random.index(node.shards.len());
                node.connections.insert(
                    connection,
                    Connection {
                        client,
                        shard,
                        is_read: true,
                        is_closing: false,
                        unread: VecDeque::new(),
                        outgoing: VecDeque::new(),
                        last_frame_us: 0,
                    },
                );
                self.connected[client] = Some(connection);
                let peer = ([127, 0, 0, 1], 1_000).into();
                self.give(shard, ShardEvent::Connected { connection, listener: 0, peer });
                connection
            }
        };
        self.knowledge.group.now_us = now_us;
        let Some(frame) = self.clients[client].act(&mut self.random, &mut self.knowledge) else { return Ok(()) };
        if self.clients[client].waits_impatiently() {
            self.waits_since_us[client].get_or_insert(now_us);
        }
        let delay = if self.random.one_in(30) { self.random.below(10_000) } else { self.random.between(20, 300) };
        let at = self.schedule.now_us() + delay;
        let node = self.node.as_mut().expect("seen above");
        let to = node.connections.get_mut(&connection).expect("connected");
        to.last_frame_us = to.last_frame_us.max(at);
        let at = to.last_frame_us;
        self.line(|| format!("client {client} sends {} bytes", frame.len()));
        self.schedule.at(at, Event::Frame { connection, frame });
        Ok(())
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        let node = self.node.as_mut().expect("the node is up");
        let Some(Connection { client, shard, .. }) = node.connections.remove(&connection) else { return };
        self.line(|| format!("client {client} is disconnected"));
        self.connected[client] = None;
        self.clients[client].disconnected(&mut self.knowledge);
        self.waits_since_us[client] = None;
        self.give(shard, ShardEvent::Disconnected { connection });
    }

    /// The next part of what a shard sends has left.
    fn sent(&mut self, connection: ConnectionId) -> Result<(), String> {
        let node = self.node.as_mut().expect("the node is up");
        let Some(from) = node.connections.get_mut(&connection) else { return Ok(()) };
        let (client, shard) = (from.client, from.shard);
        let parts = from.outgoing.pop_front().expect("something was to be sent");
        let is_drained = from.outgoing.is_empty();
        let is_closing = from.is_closing;
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                SendPart::Memory(part) => bytes.extend_from_slice(&part),
                SendPart::File { path, position, bytes: length } => {
                    let part = self.disk.peek(&path, position, length);
                    let part = part.ok_or_else(|| format!("{path} has no {length} bytes at {position} to send"))?;
                    let part = perhaps_damaged(part, self.disk.faults.flip_read_one_in, &mut self.random);
                    bytes.extend_from_slice(&part);
                }
            }
        }
        if is_drained {
            self.give(shard, ShardEvent::Drained { connection });
        } else {
            let delay = self.random.between(20, 400);
            self.schedule.after(delay, Event::Sent { connection });
        }
        let print = fingerprint([&bytes[..]]);
        self.line(|| format!("client {client} gets {} bytes ({print:016x})", bytes.len()));
        self.knowledge.group.now_us = self.schedule.now_us();
        let Reaction { findings, reconnect } = self.clients[client].receive(&bytes, &self.knowledge)?;
        if !self.clients[client].waits_impatiently() {
            self.waits_since_us[client] = None;
        }
        for finding in findings {
            self.learn(finding)?;
        }
        if reconnect || (is_closing && is_drained) {
            self.disconnect(connection);
        }
        Ok(())
    }

    // ---- What clients learn ----

    fn observe(&mut self, partition: usize, observation: &Observation<'_>) -> Result<(), String> {
        let checkers = &mut self.checkers[partition];
        checkers.see(&self.idempotent, observation).map_err(|error| format!("partition {partition}: {error}"))?;
        self.now_known(partition);
        Ok(())
    }

    /// Clients know what the checkers know.
    fn now_known(&mut self, partition: usize) {
        let checkers = &self.checkers[partition];
        let known = &mut self.knowledge.partitions[partition];
        known.end = checkers.known_end();
        known.promised_start = checkers.promised_start();
        known.deleted_to = known.deleted_to.max(known.promised_start);
    }

    fn learn(&mut self, finding: Finding) -> Result<(), String> {
        match finding {
            Finding::TopicCreated => {
                self.topic_exists = true;
                Ok(())
            }
            Finding::Intruded { number } => {
                self.knowledge.intruded = self.knowledge.intruded.max(Some(number));
                Ok(())
            }
            Finding::ProducerId { id } => self.producer_ids.see(id),
            Finding::Acknowledged { partition, records } => {
                self.observe(partition, &Observation::Acknowledged(&records))
            }
            Finding::Read { partition, offset, records } => {
                self.observe(partition, &Observation::Read { offset, records: &records })
            }
            Finding::Promised { partition, log_start } => self.observe(partition, &Observation::Promised(log_start)),
            Finding::Group(finding) => self.knowledge.group.see(finding),
            Finding::Time { partition, query, until, found } => {
                let range = self.knowledge.partitions[partition].deleted_to..until;
                self.observe(partition, &Observation::Time { query, range, found })
            }
        }
    }
}

/// What is sent from a file may have a flipped bit, where the checksum of a batch covers it.
fn perhaps_damaged(bytes: Bytes, one_in: u64, random: &mut Random) -> Bytes {
    if bytes.is_empty() || !random.one_in(one_in) {
        return bytes;
    }
    let at = random.index(bytes.len());
    let mut start = 0;
    for (_, batch) in Batches::new(&bytes).map_while(Result::ok) {
        if at < start + batch.len() {
            break;
        }
        start += batch.len();
    }
    if at < start + UNCOVERED_BYTES as usize {
        return bytes;
    }
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << random.below(8);
    damaged.into()
}

/// Recovers a node.
fn recover_node(
    disk: &mut SimDisk,
    random: &mut Random,
    shards: usize,
    now: Now,
    properties: &Arc<Properties>,
) -> Result<Recovered, String> {
    let options = NodeOptions {
        node_id: NODE_ID,
        shards,
        file: Arc::clone(properties),
        log_dir: "data".to_string(),
        listeners: vec!["PLAINTEXT".to_string()],
        metadata_log_bytes_max: random.between(2, 8) * BLOCK_BYTES as u64,
        journal_slots: 4 + random.below(4) as u32,
        journal_slot_bytes: 128 << 10,
        log: ShardLogOptions {
            tail_memory_bytes_max: 128 << 10,
            free_space_floor_bytes: 64 << 10,
            extent_bytes_min: 48 << 10,
            retention_check_interval: Duration::from_millis(50),
            producer_expiration_ms: 86_400_000,
            producers_max: 1_000_000,
            cleaner: cleaner_options(),
        },
        fetch_bytes_max: 1 << 20,
        group_bytes_max: 64 << 20,
        request_bytes_max: 1 << 20,
    };
    let random = random.bytes();
    Recovered::recover(&mut |op| disk.execute(op), options, now, random).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_lose_nothing() {
        let outcomes = seeds::run("sim::cluster::tests::clients_lose_nothing", 100, Simulation::run);
        let mut total = Outcome::default();
        for outcome in outcomes {
            total.acknowledged += outcome.acknowledged;
            total.seen += outcome.seen;
            total.stops += outcome.stops;
            total.clean_shutdowns += outcome.clean_shutdowns;
            total.group = (total.group.0 + outcome.group.0, total.group.1 + outcome.group.1);
            total.verdicts.add_all(outcome.verdicts);
            total.snapshots.add_all(outcome.snapshots);
        }
        println!("{total:?}");
        let is_part = ["MILLSTREAM_SIM_SEED", "MILLSTREAM_SIM_SEEDS"].map(std::env::var_os).iter().any(Option::is_some);
        assert!(is_part || (total.group.0 > 100 && total.group.1 > 100), "the group did next to nothing");
        assert!(is_part || total.clean_shutdowns > 5, "{} clean stops", total.clean_shutdowns);
        let Snapshots { taken, interrupted } = total.snapshots;
        assert!(is_part || (taken > 100 && interrupted.iter().all(|count| *count > 2)), "few snapshots were taken");
    }
}
