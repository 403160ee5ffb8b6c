//! The replicas of one partition on their nodes, and what goes wrong with them: one step after the other, in an order that
//! follows from the seed. It executes what replicas and controller decide, and decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_storage::random::Random;
use millstream_storage::seeds::Options;

use super::Outcome;
use super::checks::Checks;
use super::controller::Controller;
use super::log::Log;
use super::network::{Link, ToFollower, ToLeader};
use crate::controller::{AlterPartition, AlteredPartition};
use crate::error::ErrorCode;
use crate::replica::{Effect, EpochEnd, Event, FollowRequest, Replica, effective_min_insync};

/// A node: its log, and the process on it while it runs.
pub(super) struct Node {
    pub id: i32,
    pub log: Log,
    pub saved_high_watermark: i64,
    pub process: Option<Process>,
    /// It was stopped, and did not crash.
    pub was_stopped: bool,
}

/// A process of a broker.
pub(super) struct Process {
    pub replica: Replica,
    pub broker_epoch: i64,
    /// The next image that it is told.
    pub image: usize,
    pub paused_until_ms: u64,
    /// What its log is to become.
    pub restart: Option<(i64, i64, Option<i32>)>,
    /// The leader that it follows, and its stream there.
    pub follows: Option<i32>,
    pub link: Option<u64>,
    /// Whom it sends, by their nodes.
    pub outgoing: BTreeMap<i32, Outgoing>,
    /// The newest stream of each follower's newest process.
    pub newest: BTreeMap<i32, (i64, u64)>,
    pub waiters: Vec<Waiter>,
    /// It has told its leader that it takes no more.
    pub is_stalled: bool,
}

pub(super) struct Outgoing {
    pub link: u64,
    pub follow_id: u32,
    pub handle: u32,
    pub sent: i64,
    pub marked: (i64, i64),
}

/// A producer that waits for its record.
pub(super) struct Waiter {
    pub epoch: i32,
    pub offset: i64,
    pub value: u64,
}

/// A proposal on its way to the controller, or the answer on its way back.
pub(super) struct Proposed {
    pub node_id: i32,
    pub broker_epoch: i64,
    pub asked: AlterPartition,
    /// Nobody waits for the answer any more.
    pub is_orphan: bool,
    pub answer: Option<Result<AlteredPartition, ErrorCode>>,
}

pub(super) struct World {
    pub random: Random,
    pub now_ms: u64,
    pub nodes: Vec<Node>,
    pub controller: Controller,
    pub links: Vec<Link>,
    pub proposed: Vec<Proposed>,
    pub checks: Checks,
    /// What disks have said to be durable may be gone after a crash.
    pub disks_lie: bool,
    /// A crash that leaves everything that was durable counts as clean.
    pub intact_is_clean: bool,
    /// How much goes wrong, of 20.
    pub trouble: u64,
    /// What is cleaned up most.
    pub cleans: u64,
    pub next_id: u64,
    pub is_verbose: bool,
    pub outcome: Outcome,
    lag_time_max: Duration,
}

impl World {
    pub fn new(options: &Options) -> World {
        let mut random = Random::new(options.seed);
        let replicas: Vec<i32> = (1..=[1, 2, 3, 3, 3, 3, 4][random.index(7)]).collect();
        let min_insync = effective_min_insync(random.between(1, 3) as i32, replicas.len());
        let mut world = World {
            now_ms: 0,
            nodes: Vec::new(),
            controller: Controller::new(replicas.clone(), min_insync),
            links: Vec::new(),
            proposed: Vec::new(),
            checks: Checks::default(),
            disks_lie: random.one_in(3),
            intact_is_clean: random.coin(),
            trouble: [2, 4, 8, 16][random.index(4)],
            cleans: random.below(8),
            next_id: 0,
            is_verbose: options.is_verbose,
            outcome: Outcome::default(),
            lag_time_max: Duration::from_millis([200, 1_000, 5_000][random.index(3)]),
            random,
        };
        for id in replicas {
            let log = Log::new();
            world.nodes.push(Node { id, log, saved_high_watermark: 0, process: None, was_stopped: true });
            let broker_epoch = i64::from(id);
            world.begin_process(id, broker_epoch, 0);
        }
        world
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    pub fn process(&mut self, id: i32) -> Option<&mut Process> {
        self.node(id).process.as_mut()
    }

    /// Whether the process of this epoch runs, and is not paused.
    pub fn is_running(&self, id: i32, epoch: i64) -> bool {
        let process = self.nodes[id as usize - 1].process.as_ref();
        process.is_some_and(|process| process.broker_epoch == epoch && process.paused_until_ms <= self.now_ms)
    }

    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn line(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>7} {}", self.now_ms, text());
        }
    }

    /// A process begins with an image that it had on its disk.
    pub fn begin_process(&mut self, id: i32, broker_epoch: i64, image: usize) {
        let lag_time_max = self.lag_time_max;
        let node = self.node(id);
        // Only what is committed is deleted: where the log starts is a high watermark that was seen.
        let high_watermark = node.saved_high_watermark.max(node.log.start);
        let replica = Replica::new(id, broker_epoch, lag_time_max, node.log.known(), high_watermark);
        node.process = Some(Process {
            replica,
            broker_epoch,
            image,
            paused_until_ms: 0,
            restart: None,
            follows: None,
            link: None,
            outgoing: BTreeMap::new(),
            newest: BTreeMap::new(),
            waiters: Vec::new(),
            is_stalled: false,
        });
        node.was_stopped = false;
    }

    /// Something happens to the replica on a node.
    pub fn happen(&mut self, id: i32, event: Event) -> Result<(), String> {
        let now = self.now();
        self.line(|| format!("{id}: {event:?}"));
        let Some(process) = self.process(id) else { return Ok(()) };
        let before = process.replica.high_watermark();
        let mut effects = Vec::new();
        process.replica.handle(now, event, &mut effects);
        let mut high_watermark = before;
        for effect in effects {
            self.line(|| format!("{id}:     {effect:?}"));
            if let Effect::HighWatermark(to) = effect {
                let World { nodes, checks, .. } = self;
                checks.committed(high_watermark, to, &nodes[id as usize - 1].log)?;
                if !self.disks_lie {
                    let has_it = |node: &&Node| node.log.durable_end >= to;
                    self.checks.is_at(self.nodes.iter().filter(has_it).count(), self.controller.min_insync)?;
                }
                high_watermark = to;
                self.moved_by_leader(id)?;
            }
            self.take(id, effect)?;
        }
        self.answer_producers(id)
    }

    /// D7: a deposed leader commits nothing that those in sync do not have: seen by D4. Once it knows, it commits nothing.
    fn moved_by_leader(&mut self, id: i32) -> Result<(), String> {
        let images = self.controller.images.len();
        let present = self.controller.partition.leader_epoch;
        let Some(process) = self.process(id) else { return Ok(()) };
        match process.replica.leads() {
            Some(epoch) if epoch < present && process.image == images => {
                Err(format!("D7: {id} leads in epoch {epoch}, and knows of {present}"))
            }
            _ => Ok(()),
        }
    }

    fn answer_producers(&mut self, id: i32) -> Result<(), String> {
        let World { nodes, checks, .. } = self;
        let Some(process) = &mut nodes[id as usize - 1].process else { return Ok(()) };
        let mut wrong = Ok(());
        process.waiters.retain(|waiter| match process.replica.acknowledged(waiter.epoch, waiter.offset + 1) {
            None => true,
            Some(Ok(())) => {
                wrong = wrong.clone().and(checks.acknowledged(waiter.offset, waiter.value));
                false
            }
            Some(Err(_)) => false,
        });
        wrong
    }

    fn take(&mut self, id: i32, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::BecomeLeader { epoch, epoch_start } => {
                let node = self.node(id);
                node.log.epochs.assign(epoch, epoch_start);
                let process = node.process.as_mut().expect("it runs");
                (process.follows, process.link) = (None, None);
                process.outgoing.clear();
                if epoch == self.controller.partition.leader_epoch {
                    self.checks.elected(&self.nodes[id as usize - 1].log)?;
                }
            }
            Effect::BecomeFollower { leader, .. } => {
                let node = self.node(id);
                node.log.epochs.truncate_end(node.log.end);
                let process = node.process.as_mut().expect("it runs");
                process.outgoing.clear();
                if process.follows != Some(leader) {
                    (process.follows, process.link) = (Some(leader), None);
                }
            }
            Effect::LoseLeadership { .. } => self.process(id).expect("it runs").outgoing.clear(),
            Effect::FollowOk { node_id, follow_id, offset } => {
                let (handle, log_start) = (self.new_id() as u32, self.node(id).log.start);
                let process = self.process(id).expect("it runs");
                let high_watermark = process.replica.high_watermark();
                let link = process.newest[&node_id].1;
                let marked = (high_watermark, log_start);
                process.outgoing.insert(node_id, Outgoing { link, follow_id, handle, sent: offset, marked });
                self.send_follower(link, ToFollower::FollowOk { follow_id, handle, high_watermark, log_start });
            }
            Effect::Diverged { node_id, follow_id, epoch_end } => {
                self.answer(id, node_id, ToFollower::Diverged { follow_id, epoch_end });
            }
            Effect::Refused { node_id, follow_id, error } => {
                let Log { start: log_start, end: log_end, .. } = self.node(id).log;
                self.answer(id, node_id, ToFollower::Refused { follow_id, error, log_start, log_end });
            }
            Effect::Propose(asked) => {
                let process = self.process(id).expect("it runs");
                let broker_epoch = process.broker_epoch;
                // It may be sent twice, if nothing tells whether it has arrived.
                for is_orphan in [false, true].into_iter().take(if self.random.one_in(3) { 2 } else { 1 }) {
                    let asked = asked.clone();
                    self.proposed.push(Proposed { node_id: id, broker_epoch, asked, is_orphan, answer: None });
                }
            }
            Effect::Follow { leader, follow_id, leader_epoch, offset, last_epoch } => {
                let log_start = self.node(id).log.start;
                let process = self.process(id).expect("it runs");
                assert_eq!(process.follows, Some(leader), "it follows whom it asks");
                let broker_epoch = process.broker_epoch;
                let link = process.link;
                let asked =
                    FollowRequest { node_id: id, broker_epoch, follow_id, leader_epoch, offset, last_epoch, log_start };
                self.send_leader(link, ToLeader::Follow(asked));
            }
            Effect::Ack { follow_id, durable_end, log_start, .. } => {
                let link = self.process(id).expect("it runs").link;
                self.send_leader(link, ToLeader::Ack { follow_id, durable_end, log_start });
            }
            Effect::Restart { keep_below, begin_at, skipped_epoch } => {
                self.outcome.restarts += 1;
                let process = self.process(id).expect("it runs");
                assert!(process.restart.is_none(), "one at a time");
                process.restart = Some((keep_below, begin_at, skipped_epoch));
            }
            Effect::LogStart(start) => {
                self.node(id).log.delete_below(start);
                return self.happen(id, Event::LogStart { start });
            }
            Effect::LowWatermark(to) => self.checks.stays_deleted(to),
            Effect::Lost { from, to } => {
                return Err(format!("{id} cuts what was committed, from {from} to {to}"));
            }
            // Hosts send when they have time; what is durable is known to who says it.
            Effect::Send { .. } | Effect::DurableEnd(_) | Effect::HighWatermark(_) => {}
        }
        Ok(())
    }

    fn link(&mut self, link: u64) -> Option<&mut Link> {
        self.links.iter_mut().find(|at| at.id == link)
    }

    pub fn send_follower(&mut self, link: u64, message: ToFollower) {
        if let Some(link) = self.link(link).filter(|link| !link.is_closed) {
            link.to_follower.push_back(message);
        }
    }

    pub fn send_leader(&mut self, link: Option<u64>, message: ToLeader) {
        if let Some(link) = link.and_then(|link| self.link(link)).filter(|link| !link.is_closed) {
            link.to_leader.push_back(message);
        }
    }

    /// By the stream by which the question came.
    fn answer(&mut self, id: i32, node_id: i32, message: ToFollower) {
        let link = self.process(id).and_then(|process| process.newest.get(&node_id)).map(|newest| newest.1);
        if let Some(link) = link {
            self.send_follower(link, message);
        }
    }

    /// What a leader hears by a stream.
    pub fn leader_hears(&mut self, at: usize) -> Result<(), String> {
        let link = &mut self.links[at];
        let (id, leader, follower, epoch) = (link.id, link.leader, link.follower, link.follower_epoch);
        let Some(message) = link.to_leader.pop_front() else { return Ok(()) };
        let node = &mut self.nodes[leader as usize - 1];
        let (log_start, start_epoch, log) = (node.log.start, node.log.epochs.epoch_of(node.log.start), &node.log);
        let process = node.process.as_mut().expect("it runs");
        let newest = process.newest.entry(follower).or_insert((epoch, id));
        let is_of_newest = newest.0 == epoch;
        // A host closes a stream when the same process opens another; one of an older process it may not tell apart.
        let is_superseded = is_of_newest && newest.1 > id;
        if (newest.0, newest.1) < (epoch, id) {
            *newest = (epoch, id);
        }
        match message {
            ToLeader::Follow(_) if is_superseded => Ok(()),
            ToLeader::Follow(asked) => {
                let epoch_end = match asked.last_epoch {
                    -1 => EpochEnd { epoch: -1, end: -1 },
                    epoch => log.end_of(epoch),
                };
                if !is_of_newest {
                    // It is answered where it was asked.
                    process.newest.insert(follower, (asked.broker_epoch, id));
                }
                self.happen(leader, Event::Follow { asked, epoch_end, log_start, start_epoch })
            }
            ToLeader::Ack { follow_id, durable_end, log_start } => {
                let (node_id, broker_epoch) = (follower, epoch);
                self.happen(leader, Event::Ack { node_id, broker_epoch, follow_id, durable_end, log_start })
            }
            ToLeader::Stalled(why) if !is_superseded => self.happen(leader, Event::Stalled { node_id: follower, why }),
            ToLeader::Resumed if !is_superseded => self.happen(leader, Event::Resumed { node_id: follower }),
            ToLeader::Stalled(_) | ToLeader::Resumed => Ok(()),
            ToLeader::Closed => {
                if process.outgoing.get(&follower).is_none_or(|outgoing| outgoing.link != id) {
                    return Ok(());
                }
                process.outgoing.remove(&follower);
                self.happen(leader, Event::StreamClosed { node_id: follower })
            }
        }
    }

    /// What a follower hears by a stream.
    pub fn follower_hears(&mut self, at: usize) -> Result<(), String> {
        let link = &mut self.links[at];
        let id = link.follower;
        let Some(message) = link.to_follower.pop_front() else { return Ok(()) };
        let node = &mut self.nodes[id as usize - 1];
        let process = node.process.as_mut().expect("it runs");
        let event = match message {
            ToFollower::FollowOk { follow_id, handle, high_watermark, log_start } => {
                Event::FollowOk { follow_id, handle, high_watermark, log_start }
            }
            ToFollower::Diverged { follow_id, epoch_end } => {
                Event::Diverged { follow_id, epoch_end, own: node.log.end_of(epoch_end.epoch) }
            }
            ToFollower::Refused { follow_id, error, log_start, log_end } => {
                Event::Refused { follow_id, error, log_start, log_end }
            }
            ToFollower::Data { handle, epoch, base, next, high_watermark, records } => {
                if !process.replica.accepts(handle, base) {
                    return Ok(());
                }
                node.log.append_replicated(epoch, next, &records);
                Event::Accepted { log_end: next, last_epoch: node.log.last_epoch(), high_watermark }
            }
            ToFollower::Skip { handle, to, epoch, high_watermark } => Event::Skip { handle, to, epoch, high_watermark },
            ToFollower::Marks { handle, high_watermark, log_start } => {
                Event::Marks { handle, high_watermark, log_start }
            }
        };
        self.happen(id, event)
    }

    /// What holds after every step.
    pub fn check(&mut self) -> Result<(), String> {
        if let Some(why) = self.controller.wrong.take() {
            return Err(why);
        }
        let committed_end = self.checks.committed_end();
        for node_id in &self.controller.partition.isr {
            let node = &self.nodes[*node_id as usize - 1];
            // What a disk has lost that lies is known when its broker is back.
            let may_lack = self.disks_lie && node.process.is_none();
            if node.log.durable_end < committed_end && !may_lack {
                let end = node.log.durable_end;
                return Err(format!("D4: {node_id} is in sync and has {end} durably, {committed_end} is committed"));
            }
            self.checks.is_deleted(&node.log).map_err(|why| format!("{why}: {node_id} is in sync"))?;
        }
        self.nodes.iter().try_for_each(|node| node.log.check().map_err(|why| format!("node {}: {why}", node.id)))
    }
}
