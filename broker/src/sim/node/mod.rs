//! A node of a world: its disk and its clock, which stay, and the process on it, which comes and goes. The process is what is
//! shipped (shards, their logs, the controller and its log, recovery); this file plays the driver's part: it executes
//! effects, late, and brings back what became of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_replication::config::Properties;
use millstream_replication::{ControllerRequest, Endpoint, MetaProperties};
use millstream_storage::partition_log::partition_directory;
use millstream_storage::random::Random;
use millstream_storage::recovery::LastShutdown;
use millstream_storage::shard_log::{LogId, ShardLogOptions};
use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, FilePath, Now, PartitionKey, ShardLog};

use super::checkers::CleanStopMark;
use super::clients::member;
use super::disk::{DiskFaults, Operation, SimDisk, brief, brief_op};
use super::network::Link;
use super::restart::{cleaner_options, until_recovered};
use super::schedule::Clock;
use super::snapshots::Snapshots;
use super::timeline::{Event, Fault, NodeEvent, Timeline};
use crate::controller::{Asker, ControllerNode, Effect as ControllerEffect, Event as ControllerEvent};
use crate::node::{Node, NodeOptions, OpenShard, RecoveryCounts};
use crate::shard::{DiskToken, Effect, Event as ShardEvent, Message, PrefetchToken, Shard};

/// Who asks the controller to register the broker, and to unfence it.
const BROKER: Asker = Asker::Node { token: 0 };
/// One of so many disk operations of the controller is late, and the node goes down before it ends: they are too few for
/// crashes at any time to meet them...
const CONTROLLER_CUT_ONE_IN: u64 = 12;
/// ...by so much, in which an answer that did not wait for it would get around...
const CONTROLLER_LATE_US: u64 = 5_000;
/// ...and so many times in the life of a node: each costs a recovery, and where the disk is full decisions are tried again and
/// again.
const CONTROLLER_CUTS_MAX: u32 = 8;
const LISTENER: &str = "PLAINTEXT";

/// What sends messages within a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Controller,
    Shard(usize),
}

/// What recovery has found, open but not running.
pub struct Opened {
    /// The process that is about to run.
    broker_incarnation: [u8; 16],
    meta: MetaProperties,
    controller: ControllerNode,
    shards: Vec<OpenShard>,
    counts: RecoveryCounts,
    /// How the disk misbehaves when the node runs again.
    faults: DiskFaults,
}

impl Opened {
    /// Whether the topic is there.
    pub fn has_topic(&self, topic: &str) -> bool {
        self.controller.image().topic(topic).is_some()
    }

    fn key_of(&self, topic: &str, partition: usize) -> Option<PartitionKey> {
        let topic = self.controller.image().topic(topic)?;
        Some(PartitionKey { topic_id: topic.id, partition: partition as i32 })
    }

    /// The directory of a partition, if its topic is there.
    pub fn directory_of(&self, topic: &str, partition: usize) -> Option<String> {
        self.key_of(topic, partition).map(|key| partition_directory(topic, key))
    }

    /// The log of a partition, if it is there.
    pub fn log_of(&mut self, topic: &str, partition: usize) -> Option<(&mut ShardLog, LogId)> {
        let key = self.key_of(topic, partition)?;
        let shards = self.shards.len();
        let log = &mut self.shards[key.shard(shards)].log;
        log.find(key).map(|id| (log, id))
    }
}

/// Who a node is, whatever happens to it.
pub struct Configuration {
    node_id: i32,
    properties: Arc<Properties>,
}

impl Configuration {
    /// Recovers what a disk has of this node.
    pub fn recover(&self, disk: &mut SimDisk, random: &mut Random, now: Now, shards: usize) -> Result<Opened, String> {
        let broker_incarnation = random.bytes();
        let options = NodeOptions {
            node_id: self.node_id,
            incarnation: broker_incarnation,
            shards,
            file: Arc::clone(&self.properties),
            controller_address: None,
            voters: Vec::new(),
            session_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(500),
            log_dir: "data".to_string(),
            listeners: vec![LISTENER.to_string()],
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
        let Node { meta, controller, shards, counts } =
            Node::recover(&mut |op| disk.execute(op), options, now, random).map_err(|error| error.to_string())?;
        let shards = shards.into_iter().map(|shard| shard.open()).collect();
        Ok(Opened { broker_incarnation, meta, controller, shards, counts, faults: DiskFaults::default() })
    }
}

/// A running process.
struct Process {
    started_us: u64,
    shards: Vec<Shard>,
    inbox: Vec<Vec<ShardEvent>>,
    has_turn: Vec<bool>,
    timer_at: Vec<Option<u64>>,
    controller: ControllerNode,
    controller_timer_at: Option<u64>,
    /// The step of a snapshot that the controller's disk operation under way is.
    snapshot_step: Option<usize>,
    /// Whose the data directory is.
    meta: MetaProperties,
    /// The epoch of its registration; none before that.
    broker_epoch: Option<i64>,
    /// The mark of a clean stop is being written.
    is_marking: bool,
    /// Messages to each shard, from each place.
    links: BTreeMap<(Place, usize), Link>,
    is_listening: bool,
    is_stopping: bool,
}

pub struct SimNode {
    /// Its place in the world.
    pub number: usize,
    pub disk: SimDisk,
    pub clock: Clock,
    /// What became of its snapshots.
    pub snapshots: Snapshots,
    /// Times that it went down, in order or not.
    pub stops: u64,
    /// Starts after which recovery said that the last run was shut down cleanly.
    pub clean_shutdowns: u64,
    pub configuration: Configuration,
    /// What became of the mark of its last clean stop.
    mark: CleanStopMark,
    /// Operations of its controllers that a crash was made to meet.
    controller_cuts: u32,
    /// Counts its processes: what was meant for an earlier one does not happen.
    incarnation: u64,
    process: Option<Process>,
}

impl SimNode {
    /// A node that has not started yet.
    pub fn new(number: usize, disk: SimDisk) -> SimNode {
        SimNode {
            number,
            disk,
            clock: Clock::default(),
            snapshots: Snapshots::default(),
            stops: 0,
            clean_shutdowns: 0,
            controller_cuts: 0,
            configuration: Configuration { node_id: number as i32 + 1, properties: Arc::new(properties()) },
            mark: CleanStopMark::default(),
            incarnation: 0,
            process: None,
        }
    }

    // ---- Its life ----

    /// Whether a process is running.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether this is the process that is running.
    pub fn is_running(&self, incarnation: u64) -> bool {
        self.is_up() && incarnation == self.incarnation
    }

    /// Whether it takes connections.
    pub fn is_listening(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.is_listening)
    }

    /// Shards of the process; 0 if none is running.
    pub fn shards(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.shards.len())
    }

    /// The time before a process has started.
    pub fn now(&self, timeline: &Timeline) -> Now {
        timeline.schedule.now(self.clock, 0)
    }

    /// Recovers what is on its disk, perhaps interrupted; nothing else goes wrong meanwhile.
    pub fn recover(&mut self, timeline: &mut Timeline) -> Result<Opened, String> {
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = timeline.random.between(1, 4) as usize;
        let now = self.now(timeline);
        let Timeline { random, trace, schedule } = timeline;
        let SimNode { disk, configuration, .. } = self;
        let mut was_interrupted = false;
        let opened = until_recovered(
            disk,
            random,
            4,
            |line| {
                was_interrupted = true;
                trace.line(schedule.now_us(), line);
            },
            |disk, random| configuration.recover(disk, random, now, shards),
        )?;
        let RecoveryCounts { groups, last_shutdown, .. } = opened.counts;
        timeline.line(format!("recovered {groups} groups, {shards} shards, last shutdown: {last_shutdown:?}"));
        std::mem::take(&mut self.mark).see(last_shutdown, was_interrupted)?;
        self.clean_shutdowns += u64::from(last_shutdown == LastShutdown::Clean);
        Ok(Opened { faults, ..opened })
    }

    /// Runs what was recovered, and registers the broker.
    pub fn run(&mut self, opened: Opened, timeline: &mut Timeline) {
        assert!(!self.is_up(), "one process at a time");
        let Opened { broker_incarnation, meta, controller, shards, faults, .. } = opened;
        self.disk.faults = faults;
        let shards: Vec<Shard> = shards.into_iter().map(OpenShard::start).collect();
        let count = shards.len();
        self.incarnation += 1;
        self.process = Some(Process {
            started_us: timeline.now_us(),
            inbox: shards.iter().map(|_| Vec::new()).collect(),
            has_turn: vec![false; count],
            timer_at: vec![None; count],
            controller,
            controller_timer_at: None,
            snapshot_step: None,
            meta,
            broker_epoch: None,
            is_marking: false,
            shards,
            links: BTreeMap::new(),
            is_listening: false,
            is_stopping: false,
        });
        for shard in 0..count {
            self.give_turn(shard, timeline);
        }
        let endpoints = vec![Endpoint { listener: LISTENER.to_string(), host: "localhost".to_string(), port: 9092 }];
        let request = ControllerRequest::RegisterBroker {
            node_id: self.configuration.node_id,
            incarnation: broker_incarnation,
            directory_id: meta.directory_id,
            shards: count as u32,
            endpoints,
            rack: None,
        };
        self.after(0, NodeEvent::ToController { asker: BROKER, request }, timeline);
        self.after(0, NodeEvent::FreeSpace, timeline);
    }

    /// The broker is registered, and its shards know it: it may lead.
    pub fn registered(&mut self, epoch: i64, timeline: &mut Timeline) {
        self.process_mut().broker_epoch = Some(epoch);
        let request = ControllerRequest::BrokerHeartbeat {
            node_id: self.configuration.node_id,
            epoch,
            applied_offset: epoch as u64,
            want_fence: false,
            want_shutdown: false,
        };
        self.after(0, NodeEvent::ToController { asker: BROKER, request }, timeline);
    }

    /// The broker leads what it holds, and its shards know it: clients may come.
    pub fn unfenced(&mut self, timeline: &mut Timeline) {
        let process = self.process_mut();
        process.is_listening = true;
        for shard in &mut process.shards {
            shard.broker_registered();
        }
        for shard in 0..self.shards() {
            self.give_turn(shard, timeline);
        }
    }

    /// The process is gone.
    pub fn go_down(&mut self, is_power: bool, timeline: &mut Timeline) {
        self.stops += 1;
        timeline.line(format!("the node goes down, power lost: {is_power}"));
        self.disk.go_down(is_power);
        if let Some(step) = self.process.take().and_then(|process| process.snapshot_step) {
            self.snapshots.interrupted[step] += 1;
        }
    }

    /// It is told to stop, and takes no connection any more.
    pub fn stop(&mut self) {
        let process = self.process_mut();
        process.is_stopping = true;
        process.is_listening = false;
    }

    /// A shard begins to stop.
    pub fn begin_shutdown(&mut self, shard: usize, timeline: &Timeline) -> Vec<Effect> {
        let now = self.process_now(timeline);
        let mut effects = Vec::new();
        self.process_mut().shards[shard].begin_shutdown(now, &mut effects);
        effects
    }

    /// Marks the directory, if it was told to stop and everything that was under way has come to its end.
    pub fn mark_clean_stop(&mut self, timeline: &mut Timeline) {
        let Some(process) = &mut self.process else { return };
        let is_done = process.shards.iter().all(Shard::is_shut_down) && process.controller.is_idle();
        if process.is_stopping && is_done && !std::mem::replace(&mut process.is_marking, true) {
            let epoch = process.broker_epoch.expect("only a registered node is told to stop");
            let (operation, delay) = self.disk.submit(process.meta.mark_clean_shutdown(epoch));
            self.mark = CleanStopMark::UnderWay;
            self.after(delay, NodeEvent::Marked { operation }, timeline);
        }
    }

    /// The mark is there, or cannot be written: the process ends.
    pub fn marked(&mut self, operation: Operation, timeline: &mut Timeline) {
        let result = self.disk.complete(operation);
        timeline.line(format!("the mark of a clean stop: {}", brief(&result)));
        self.mark = if result.is_ok() { CleanStopMark::Written } else { CleanStopMark::Absent };
    }

    fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the node is up")
    }

    fn process_now(&self, timeline: &Timeline) -> Now {
        let process = self.process.as_ref().expect("the node is up");
        timeline.schedule.now(self.clock, process.started_us)
    }

    /// Something happens to this process.
    fn event(&self, event: NodeEvent) -> Event {
        Event::Node { node: self.number, incarnation: self.incarnation, event }
    }

    /// Something happens to this process in so many microseconds.
    pub fn after(&self, delay_us: u64, event: NodeEvent, timeline: &mut Timeline) {
        timeline.after(delay_us, self.event(event));
    }

    /// Something happens to this process at this time.
    pub fn at(&self, at_us: u64, event: NodeEvent, timeline: &mut Timeline) {
        timeline.at(at_us, self.event(event));
    }

    // ---- Its shards ----

    /// Hands an event to a shard, which takes it in its next turn with all that came meanwhile.
    pub fn give(&mut self, shard: usize, event: ShardEvent, timeline: &mut Timeline) {
        self.process_mut().inbox[shard].push(event);
        self.give_turn(shard, timeline);
    }

    /// A shard has a turn soon.
    pub fn give_turn(&mut self, shard: usize, timeline: &mut Timeline) {
        if !std::mem::replace(&mut self.process_mut().has_turn[shard], true) {
            let Timeline { random, .. } = timeline;
            let delay = if random.one_in(50) { random.below(3_000) } else { random.below(30) };
            self.after(delay, NodeEvent::Turn { shard }, timeline);
        }
    }

    /// A shard's deadline may have come: it has a turn now.
    pub fn timer(&mut self, shard: usize) {
        self.process_mut().timer_at[shard] = None;
    }

    /// A shard's turn: what it wants done.
    pub fn turn(&mut self, shard: usize, timeline: &mut Timeline) -> Vec<Effect> {
        let now = self.process_now(timeline);
        let process = self.process_mut();
        process.has_turn[shard] = false;
        let mut effects = Vec::new();
        for event in std::mem::take(&mut process.inbox[shard]) {
            process.shards[shard].handle(now, event, &mut effects);
        }
        process.shards[shard].end_turn(now, &mut effects);
        if let Some(deadline) = process.shards[shard].next_deadline() {
            let at = (process.started_us + deadline.as_micros() as u64 + 1).max(timeline.now_us() + 100);
            if process.timer_at[shard].is_none_or(|earlier| at < earlier) {
                process.timer_at[shard] = Some(at);
                self.at(at, NodeEvent::Timer { shard }, timeline);
            }
        }
        effects
    }

    /// Messages from one place to a shard arrive in order.
    pub fn send(&mut self, from: Place, shard: usize, message: Message, timeline: &mut Timeline) {
        let Timeline { random, .. } = timeline;
        let delay = if random.one_in(30) { random.below(5_000) } else { random.below(60) };
        let link = self.process_mut().links.entry((from, shard)).or_default();
        let at = link.arrival_us(timeline.now_us() + delay);
        self.at(at, NodeEvent::ToShard { shard, message }, timeline);
    }

    // ---- Its disk ----

    /// A shard's disk operation begins.
    pub fn submit(&mut self, shard: usize, token: DiskToken, op: DiskOp, timeline: &mut Timeline) {
        timeline.line(format!("shard {shard}: operation {token}: {}", brief_op(&op)));
        let (operation, delay) = self.disk.submit(op);
        self.after(delay, NodeEvent::Disk { shard, token, operation }, timeline);
    }

    /// It ends.
    pub fn completed(&mut self, shard: usize, token: DiskToken, operation: Operation, timeline: &mut Timeline) {
        let result = self.disk.complete(operation);
        timeline.line(format!("shard {shard}: operation {token} ends: {}", brief(&result)));
        self.give(shard, ShardEvent::Disk { token, result }, timeline);
    }

    /// What a shard wants to send is in memory, if the file is there.
    pub fn prefetched(&mut self, shard: usize, token: PrefetchToken, path: &FilePath, timeline: &mut Timeline) {
        let is_there = self.disk.peek(path, 0, 0).is_some();
        let result = is_there.then_some(()).ok_or(DiskError::NotFound);
        self.give(shard, ShardEvent::Prefetched { token, result }, timeline);
    }

    /// Shards are told how much space there is, and will be again.
    pub fn tell_free_space(&mut self, timeline: &mut Timeline) {
        let bytes = self.disk.free_bytes();
        for shard in 0..self.shards() {
            self.give(shard, ShardEvent::FreeSpace { bytes, total_bytes: bytes }, timeline);
        }
        self.after(50_000, NodeEvent::FreeSpace, timeline);
    }

    // ---- Its controller ----

    /// Something happens to the controller: what it wants done.
    pub fn controller(&mut self, event: ControllerEvent, timeline: &mut Timeline) -> Vec<ControllerEffect> {
        let now = self.process_now(timeline);
        let mut effects = Vec::new();
        let process = self.process_mut();
        process.controller.handle(now, event, &mut effects);
        if let Some(deadline) = process.controller.next_deadline() {
            let at = (process.started_us + deadline.as_micros() as u64 + 1).max(timeline.now_us() + 100);
            if process.controller_timer_at.is_none_or(|earlier| at < earlier) {
                process.controller_timer_at = Some(at);
                self.at(at, NodeEvent::ControllerTimer, timeline);
            }
        }
        effects
    }

    /// The controller's deadline may have come.
    pub fn controller_timer(&mut self) {
        self.process_mut().controller_timer_at = None;
    }

    /// The controller's disk operation begins. As long as things may go wrong the node may crash before it ends.
    pub fn submit_for_controller(
        &mut self,
        token: millstream_storage::DiskToken,
        op: DiskOp,
        may_crash: bool,
        timeline: &mut Timeline,
    ) {
        self.process_mut().snapshot_step = Snapshots::step(&op);
        timeline.line(format!("controller: operation {}: {}", token.0, brief_op(&op)));
        let (operation, mut delay) = self.disk.submit(op);
        if may_crash && self.controller_cuts < CONTROLLER_CUTS_MAX && timeline.random.one_in(CONTROLLER_CUT_ONE_IN) {
            self.controller_cuts += 1;
            delay += CONTROLLER_LATE_US;
            let at = timeline.random.between(CONTROLLER_LATE_US / 2, delay - 1);
            timeline.after(at, Event::Fault(Fault::Crash { node: self.number }));
        }
        self.after(delay, NodeEvent::ControllerDisk { token, operation }, timeline);
    }

    /// It ends: what the controller wants done.
    pub fn completed_for_controller(
        &mut self,
        token: millstream_storage::DiskToken,
        operation: Operation,
        timeline: &mut Timeline,
    ) -> Vec<ControllerEffect> {
        let result = self.disk.complete(operation);
        if self.process_mut().snapshot_step.take() == Some(1) && result.is_ok() {
            self.snapshots.taken += 1;
        }
        timeline.line(format!("controller: operation {} ends: {}", token.0, brief(&result)));
        self.controller(ControllerEvent::Disk { token, result }, timeline)
    }
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
