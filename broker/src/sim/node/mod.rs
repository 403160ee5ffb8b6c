//! A node of a world: its disk and its clock, which stay, and the process on it, which comes and goes. The process is what is
//! shipped (formation, shards, their logs, the controller and its log, recovery, registration); this file plays the
//! driver's part: it executes effects, late, and brings back what became of them.

mod configuration;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_replication::identity::Candidate;
use millstream_replication::quorum::Snapshot;
use millstream_replication::{
    ClusterImage, ControllerRequest, ControllerResponse, Endpoint, METADATA_VERSIONS, MetaProperties,
};
use millstream_storage::recovery::LastShutdown;
use millstream_storage::{DiskError, DiskOp, FilePath, Now};

use super::checkers::CleanStopMark;
use super::disk::{Operation, SimDisk, brief, brief_op};
use super::network::Link;
use super::peer_network::{BROKER_PORT, host_name};
use super::restart::until_recovered;
use super::schedule::Clock;
use super::snapshots::Snapshots;
use super::timeline::{Event, Fault, NodeEvent, Timeline};
use crate::controller::{Asker, ControllerNode, Effect as ControllerEffect, Event as ControllerEvent, Standing};
use crate::node::registration::{REGISTER_AGAIN_AFTER, Registration, Step};
use crate::node::{Formation, Formed, OpenShard, RecoveryCounts};
use crate::peer::links;
use crate::peer::stream::greeting::Addressee;
use crate::shard::{DiskToken, Effect, Event as ShardEvent, Message, PrefetchToken, Shard};

pub use self::configuration::{Configuration, Opened, Opening};

/// Who asks the controller to register the broker, and to unfence it.
const BROKER: Asker = Asker::Node { token: 0 };
/// Of a node that is alone, one of so many disk operations of the controller is late, and the node goes down before it ends:
/// they are too few for crashes at any time to meet them...
const CONTROLLER_CUT_ONE_IN: u64 = 12;
/// ...by so much, in which an answer that did not wait for it would get around...
const CONTROLLER_LATE_US: u64 = 5_000;
/// ...and so many times in the life of a node: each costs a recovery, and where the disk is full decisions are tried again and
/// again.
const CONTROLLER_CUTS_MAX: u32 = 8;
const LISTENER: &str = "PLAINTEXT";
/// `initial.broker.registration.timeout.ms`
const REGISTRATION_MAX: Duration = Duration::from_secs(60);

/// What sends messages within a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Controller,
    Shard(usize),
}

/// What runs on a node.
enum Life {
    Down,
    Forming(Box<Forming>),
    Running(Box<Process>),
}

/// A process that holds nothing and waits for others.
struct Forming {
    started_us: u64,
    incarnation: [u8; 16],
    candidate: Candidate,
    formation: Formation,
    timer_at: Option<u64>,
}

/// A process that belongs to a cluster.
struct Process {
    started_us: u64,
    broker_incarnation: [u8; 16],
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
    registration: Registration,
    /// The epoch of its registration, once it is registered and not fenced.
    broker_epoch: Option<i64>,
    /// What its shards were told last.
    told: Arc<ClusterImage>,
    /// What the controller was told that each shard has applied.
    applied: Vec<u64>,
    /// A disk operation of the controller is under way.
    is_controller_writing: bool,
    /// The shards have shut down: the controller hears and does nothing any more.
    has_controller_ended: bool,
    /// The mark of a clean stop is being written.
    is_marking: bool,
    /// Messages to each shard, from each place.
    links: BTreeMap<(Place, usize), Link>,
    is_listening: bool,
    is_stopping: bool,
}

/// What a candidate's directory begins with.
pub struct Begins {
    pub candidate: Candidate,
    pub incarnation: [u8; 16],
    pub snapshot: Snapshot,
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
    /// One of so many disk operations of its controllers meets a crash.
    pub controller_cut_one_in: u64,
    /// Those that have.
    controller_cuts: u32,
    /// Counts its processes: what was meant for an earlier one does not happen.
    incarnation: u64,
    life: Life,
    /// The process stands still.
    is_paused: bool,
    /// What has happened to it meanwhile.
    missed: Vec<NodeEvent>,
}

impl SimNode {
    /// A node that has not started yet.
    pub fn new(number: usize, disk: SimDisk, configuration: Configuration) -> SimNode {
        SimNode {
            number,
            disk,
            clock: Clock::default(),
            snapshots: Snapshots::default(),
            stops: 0,
            clean_shutdowns: 0,
            controller_cut_one_in: CONTROLLER_CUT_ONE_IN,
            controller_cuts: 0,
            configuration,
            mark: CleanStopMark::default(),
            incarnation: 0,
            life: Life::Down,
            is_paused: false,
            missed: Vec::new(),
        }
    }

    // ---- Its life ----

    /// Whether a process runs that belongs to a cluster.
    pub fn is_up(&self) -> bool {
        matches!(self.life, Life::Running(_))
    }

    /// Whether a process runs.
    pub fn is_alive(&self) -> bool {
        !matches!(self.life, Life::Down)
    }

    /// Whether this is the process that is running.
    pub fn is_running(&self, incarnation: u64) -> bool {
        self.is_alive() && incarnation == self.incarnation
    }

    /// Which of its processes runs.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn process(&self) -> Option<&Process> {
        if let Life::Running(process) = &self.life { Some(process) } else { None }
    }

    /// Whether the process stands still.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// The process stands still from now on.
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Something happens to a process that stands still.
    pub fn miss(&mut self, event: NodeEvent) {
        self.missed.push(event);
    }

    /// The process goes on, with all that has happened meanwhile.
    pub fn resume(&mut self) -> Vec<NodeEvent> {
        self.is_paused = false;
        std::mem::take(&mut self.missed)
    }

    /// Whether it takes connections.
    pub fn is_listening(&self) -> bool {
        self.process().is_some_and(|process| process.is_listening)
    }

    /// Who it is to other brokers, as long as it takes connections.
    pub fn addressee(&self) -> Option<Addressee> {
        let process = self.process().filter(|process| process.is_listening)?;
        let Process { meta, shards, .. } = process;
        Some(Addressee { cluster_id: meta.cluster_id, node: meta.node_id, shards: shards.len() as u32 })
    }

    /// Shards of the process; 0 if none is running.
    pub fn shards(&self) -> usize {
        self.process().map_or(0, |process| process.shards.len())
    }

    /// The time before a process has started.
    pub fn now(&self, timeline: &Timeline) -> Now {
        timeline.schedule.now(self.clock, 0)
    }

    /// Opens and recovers what is on its disk, or what a candidate's directory begins with; perhaps interrupted. Nothing else
    /// goes wrong meanwhile.
    pub fn open(&mut self, mut begins: Option<Begins>, timeline: &mut Timeline) -> Result<Opening, String> {
        let faults = std::mem::take(&mut self.disk.faults);
        let shards = timeline.random.between(1, self.configuration.shards_max) as usize;
        let now = self.now(timeline);
        let Timeline { random, trace, schedule } = timeline;
        let SimNode { disk, configuration, .. } = self;
        let mut was_interrupted = false;
        let opening = until_recovered(
            disk,
            random,
            configuration.recovery_cut_one_in,
            |line| {
                was_interrupted = true;
                trace.line(schedule.now_us(), line);
            },
            |disk, random| match begins.take() {
                Some(begins) => configuration.begin(disk, begins, random, now, shards),
                None => configuration.open(disk, random, now, shards),
            },
        )?;
        let opened = match opening {
            Opening::Member(opened) => opened,
            Opening::Candidate { .. } => {
                self.disk.faults = faults;
                return Ok(opening);
            }
        };
        let RecoveryCounts { groups, last_shutdown, .. } = opened.counts;
        timeline.line(format!("recovered {groups} groups, {shards} shards, last shutdown: {last_shutdown:?}"));
        std::mem::take(&mut self.mark).see(last_shutdown, was_interrupted)?;
        self.clean_shutdowns += u64::from(last_shutdown == LastShutdown::Clean);
        Ok(Opening::Member(Box::new(Opened { faults, ..*opened })))
    }

    /// Waits for others, as it holds nothing.
    pub fn form(&mut self, candidate: Candidate, incarnation: [u8; 16], timeline: &mut Timeline) {
        assert!(!self.is_alive(), "one process at a time");
        let formation = self.configuration.formation(candidate, incarnation, timeline.random.bytes());
        self.incarnation += 1;
        let started_us = timeline.now_us();
        self.life = Life::Forming(Box::new(Forming { started_us, incarnation, candidate, formation, timer_at: None }));
        self.after(0, NodeEvent::Link(links::Event::Tick), timeline);
    }

    /// Something happens to the connections of a process that waits for others: what it wants done with them, and what the
    /// directory begins with, if it is to.
    pub fn forms(&mut self, event: links::Event, timeline: &mut Timeline) -> (Vec<links::Effect>, Option<Begins>) {
        let mut effects = Vec::new();
        let Life::Forming(forming) = &mut self.life else { return (effects, None) };
        let elapsed = Duration::from_micros(timeline.now_us() - forming.started_us);
        let mut begins = None;
        for formed in forming.formation.handle(elapsed, event, &mut effects) {
            match formed {
                Formed::Begin(snapshot) => {
                    let (candidate, incarnation) = (forming.candidate, forming.incarnation);
                    begins = Some(Begins { candidate, incarnation, snapshot: *snapshot });
                }
                Formed::Warn(message) => timeline.line(format!("the formation warns: {message}")),
            }
        }
        if let Some(deadline) = forming.formation.next_deadline() {
            let at = (forming.started_us + deadline.as_micros() as u64 + 1).max(timeline.now_us() + 100);
            if forming.timer_at.is_none_or(|earlier| at < earlier) {
                forming.timer_at = Some(at);
                self.at(at, NodeEvent::ControllerTimer, timeline);
            }
        }
        (effects, begins)
    }

    /// It has nothing to wait for any more: the same process goes on as another.
    pub fn has_formed(&mut self) {
        self.life = Life::Down;
    }

    /// Runs what was recovered, and registers the broker.
    pub fn run(&mut self, opened: Opened, timeline: &mut Timeline) {
        assert!(!self.is_alive(), "one process at a time");
        let Opened { broker_incarnation, meta, controller, shards, faults, .. } = opened;
        self.disk.faults = faults;
        let shards: Vec<Shard> = shards.into_iter().map(OpenShard::start).collect();
        let count = shards.len();
        self.incarnation += 1;
        let endpoints =
            vec![Endpoint { listener: LISTENER.to_string(), host: host_name(self.number), port: BROKER_PORT }];
        let node_id = self.configuration.node_id;
        let request = ControllerRequest::RegisterBroker {
            node_id,
            incarnation: broker_incarnation,
            directory_id: meta.directory_id,
            shards: count as u32,
            endpoints,
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        };
        let told = Arc::new(controller.image().clone());
        self.life = Life::Running(Box::new(Process {
            started_us: timeline.now_us(),
            broker_incarnation,
            inbox: shards.iter().map(|_| Vec::new()).collect(),
            has_turn: vec![false; count],
            timer_at: vec![None; count],
            controller,
            controller_timer_at: None,
            snapshot_step: None,
            meta,
            registration: Registration::new(node_id, request.clone(), Duration::ZERO, REGISTRATION_MAX),
            broker_epoch: None,
            applied: vec![told.offset(); count],
            told,
            is_controller_writing: false,
            has_controller_ended: false,
            is_marking: false,
            shards,
            links: BTreeMap::new(),
            is_listening: false,
            is_stopping: false,
        }));
        for shard in 0..count {
            self.give_turn(shard, timeline);
        }
        self.after(0, NodeEvent::ToController { asker: BROKER, request }, timeline);
        self.after(0, NodeEvent::FreeSpace, timeline);
        if !self.configuration.is_alone() {
            self.after(0, NodeEvent::ControllerTimer, timeline);
        }
    }

    /// The controller has answered the broker that starts. The error is why it exits.
    pub fn registration_answered(
        &mut self,
        response: ControllerResponse,
        timeline: &mut Timeline,
    ) -> Result<(), String> {
        let now = self.process_now(timeline);
        match self.process_mut().registration.answered(now.elapsed, response) {
            Step::Ask(request) => self.after(0, NodeEvent::ToController { asker: BROKER, request }, timeline),
            Step::Rest { why } => {
                timeline.line(format!("node {}: {why}; trying again", self.number + 1));
                let request = self.process_mut().registration.request();
                let rest_us = REGISTER_AGAIN_AFTER.as_micros() as u64;
                self.after(rest_us, NodeEvent::ToController { asker: BROKER, request }, timeline);
            }
            Step::Done { epoch } => self.unfenced(epoch, timeline),
            Step::Refused { why } => return Err(why),
        }
        Ok(())
    }

    /// The broker leads what it holds, and its shards know it: clients may come.
    fn unfenced(&mut self, epoch: i64, timeline: &mut Timeline) {
        let process = self.process_mut();
        process.broker_epoch = Some(epoch);
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
        if let Life::Running(process) = std::mem::replace(&mut self.life, Life::Down)
            && let Some(step) = process.snapshot_step
        {
            self.snapshots.interrupted[step] += 1;
        }
        self.is_paused = false;
        self.missed.clear();
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

    /// Ends the controller and marks the directory, if the node was told to stop and everything that was under way has come to
    /// its end. Whether it has ended the controller now.
    pub fn mark_clean_stop(&mut self, timeline: &mut Timeline) -> bool {
        let Life::Running(process) = &mut self.life else { return false };
        if !process.is_stopping || !process.shards.iter().all(Shard::is_shut_down) {
            return false;
        }
        let ends = !std::mem::replace(&mut process.has_controller_ended, true);
        // Behind the operation that is under way.
        if !process.is_controller_writing && !std::mem::replace(&mut process.is_marking, true) {
            let epoch = process.broker_epoch.expect("only a registered node is told to stop");
            let (operation, delay) = self.disk.submit(process.meta.mark_clean_shutdown(epoch));
            self.mark = CleanStopMark::UnderWay;
            self.after(delay, NodeEvent::Marked { operation }, timeline);
        }
        ends
    }

    /// The mark is there, or cannot be written: the process ends.
    pub fn marked(&mut self, operation: Operation, timeline: &mut Timeline) {
        let result = self.disk.complete(operation);
        timeline.line(format!("the mark of a clean stop: {}", brief(&result)));
        self.mark = if result.is_ok() { CleanStopMark::Written } else { CleanStopMark::Absent };
    }

    fn process_mut(&mut self) -> &mut Process {
        let Life::Running(process) = &mut self.life else { panic!("the node is up") };
        process
    }

    fn process_now(&self, timeline: &Timeline) -> Now {
        let process = self.process().expect("the node is up");
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
        if process.has_controller_ended {
            return effects;
        }
        if let ControllerEvent::Applied { shard, offset } = event {
            process.applied[shard] = offset;
        }
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

    /// The controller's deadline may have come, or that of a node that waits for others.
    pub fn controller_timer(&mut self) {
        match &mut self.life {
            Life::Down => {}
            Life::Forming(forming) => forming.timer_at = None,
            Life::Running(process) => process.controller_timer_at = None,
        }
    }

    /// Where the controller stands, if one runs.
    pub fn standing(&self) -> Option<Standing> {
        self.process().map(|process| process.controller.standing())
    }

    /// What its shards were told last.
    pub fn told(&self) -> Option<&ClusterImage> {
        self.process().map(|process| &*process.told)
    }

    /// The shards are told this.
    pub fn tells(&mut self, image: &Arc<ClusterImage>) {
        self.process_mut().told = Arc::clone(image);
    }

    /// The process as it is registered, and what all its shards have applied.
    pub fn broker(&self) -> Option<([u8; 16], u64)> {
        let process = self.process()?;
        Some((process.broker_incarnation, process.applied.iter().copied().min().unwrap_or(0)))
    }

    /// What it waits for or does, for people.
    pub fn describe(&self) -> String {
        match &self.life {
            Life::Down => "down".to_string(),
            Life::Forming(forming) => forming.formation.waits_for(),
            Life::Running(process) => {
                let fenced: Vec<i32> =
                    process.told.brokers().filter(|broker| broker.is_fenced).map(|broker| broker.node_id).collect();
                let listens = if process.is_listening { "listens" } else { "does not listen" };
                format!("{:?}, fenced {fenced:?}, {listens}", process.controller.standing())
            }
        }
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
        self.process_mut().is_controller_writing = true;
        timeline.line(format!("controller: operation {}: {}", token.0, brief_op(&op)));
        let (operation, mut delay) = self.disk.submit(op);
        if may_crash && self.controller_cuts < CONTROLLER_CUTS_MAX && timeline.random.one_in(self.controller_cut_one_in)
        {
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
        self.process_mut().is_controller_writing = false;
        if self.process_mut().snapshot_step.take() == Some(1) && result.is_ok() {
            self.snapshots.taken += 1;
        }
        timeline.line(format!("controller: operation {} ends: {}", token.0, brief(&result)));
        self.controller(ControllerEvent::Disk { token, result }, timeline)
    }
}
