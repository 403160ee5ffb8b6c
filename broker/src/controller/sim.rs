//! The controllers of three nodes and a broker beside them as they are shipped, with their connections and disks, on virtual
//! time: from empty directories to a cluster that decides while its nodes crash, pause, lose each other and their disks. What must hold: everybody is told the same
//! at the same offsets; what was answered is true for ever; each decision leaves those in sync who may be, and lets nobody else
//! lead; and when everything works again, one decides, every broker is there, in sync with all, and all know the same.
//! Everything follows from the seed.
//!
//! Shards hold nothing here: leaders propose whom they like, by what their shards have applied.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use millstream_replication::config::Properties;
use millstream_replication::controller::{AlterPartition, NewTopic, TopicPartition, check_decision};
use millstream_replication::identity::{self, Candidate, Found, OpenedDirectory};
use millstream_replication::topic_name::CONSUMER_OFFSETS;
use millstream_replication::{Controller, Endpoint, METADATA_VERSIONS, Partition};
use millstream_storage::bug;
use millstream_storage::random::Random;
use millstream_storage::seeds::{self, Options};

use super::*;
use crate::node::{Formation, Formed};
use crate::sim::disk::{Operation, SimDisk};
use crate::sim::node::Place;
use crate::sim::peer_network::{Arrival, Later, PeerNetwork, host_name};

/// The last one is a broker only: it does not vote, and nobody dials it.
const NODES: usize = 4;
const VOTERS: usize = 3;
const PORT: u16 = 9093;
/// Where clients find a node.
const CLIENT_PORT: u16 = 9092;
/// Replicas of `__consumer_offsets`: `offsets.topic.replication.factor` where it is not configured.
const OFFSETS_REPLICAS: usize = 3;
/// How long things go wrong, in microseconds.
const TROUBLE_US: u64 = 15_000_000;
/// How long everything may take to come to rest afterwards.
const ENDING_US_MAX: u64 = 20_000_000;
/// Who registers the broker.
const REGISTRATION: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    created: usize,
    crashes: u64,
    terms: usize,
    fenced: u64,
    installed: u64,
    wiped: u64,
    /// Leases that were looked at, of whatever node.
    leases: u64,
    /// Changes of partitions.
    partitions: PartitionChanges,
}

/// What has happened to partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PartitionChanges {
    /// Another replica in sync leads than before.
    elected: u64,
    /// Somebody has left the in-sync set, or joined it.
    left: u64,
    joined: u64,
    /// The last one in sync has lost its disk.
    emptied: u64,
    /// There are more replicas.
    widened: u64,
}

impl PartitionChanges {
    fn count(&mut self, before: &ClusterImage, after: &ClusterImage) {
        for topic in after.topics() {
            let Some(known) = before.topic_by_id(topic.id) else { continue };
            for (known, state) in known.partitions.iter().zip(&topic.partitions) {
                let is_other = known.leader >= 0 && state.leader >= 0 && known.leader != state.leader;
                self.elected += u64::from(is_other);
                self.left += u64::from(state.isr.len() < known.isr.len());
                self.joined += u64::from(state.isr.len() > known.isr.len());
                self.emptied += u64::from(state.isr.is_empty() && !known.isr.is_empty());
                self.widened += u64::from(state.replicas.len() > known.replicas.len());
            }
        }
    }
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

#[derive(Debug)]
enum Happening {
    Start,
    Link(links::Event),
    Disk { token: DiskToken, operation: Operation },
    Applied { offset: u64 },
    Timer,
    Resume,
    Register,
}

#[derive(Debug)]
enum What {
    At { node: usize, life: u64, what: Happening },
    Arrives(Arrival),
    Ask,
    Propose,
    Fault,
}

enum Process {
    Forming(Box<Formation>, Candidate),
    Running(Box<ControllerNode>),
}

struct SimNode {
    disk: SimDisk,
    process: Option<Process>,
    life: u64,
    started_us: u64,
    timer_at: Option<u64>,
    is_paused: bool,
    missed: Vec<Happening>,
    /// The offset that its shard was told last, and when it will have applied it.
    told: u64,
    /// The last record that its shard has applied.
    applied: u64,
    applied_us: u64,
    /// The identity of its directory: another one when its disk was lost.
    directory_id: [u8; 16],
}

struct World {
    random: Random,
    now_us: u64,
    sequence: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, What>,
    nodes: Vec<SimNode>,
    network: PeerNetwork,
    /// What was true, by the offset of the last record.
    history: BTreeMap<u64, Arc<ClusterImage>>,
    /// Topics that were asked for, by token, and those that were said to be there.
    asked: BTreeMap<u64, String>,
    /// What leaders have proposed, by token.
    proposed: BTreeSet<u64>,
    created: BTreeSet<String>,
    terms: BTreeMap<u64, usize>,
    next_token: u64,
    is_ending: bool,
    is_verbose: bool,
    outcome: Outcome,
}

fn voters() -> Vec<(i32, String, u16)> {
    (1..=VOTERS as i32).map(|node_id| (node_id, host_name(node_id as usize - 1), PORT)).collect()
}

/// Where a node's controller listener is reached.
fn address(node_id: i32) -> Option<(String, u16)> {
    (node_id <= VOTERS as i32).then(|| (host_name(node_id as usize - 1), PORT))
}

/// Whether a partition has replicas that are not in sync and may be again: not where nobody is known to have everything.
fn is_behind(partition: &&Partition) -> bool {
    !partition.isr.is_empty() && partition.isr.len() < partition.replicas.len()
}

impl World {
    fn new(options: &Options) -> World {
        let mut random = Random::new(options.seed);
        let nodes = (0..NODES)
            .map(|_| SimNode {
                disk: SimDisk::new(random.fork()),
                process: None,
                life: 0,
                started_us: 0,
                timer_at: None,
                is_paused: false,
                missed: Vec::new(),
                told: 0,
                applied: 0,
                applied_us: 0,
                directory_id: [0; 16],
            })
            .collect();
        let mut world = World {
            now_us: 0,
            sequence: 0,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes,
            network: PeerNetwork::new(NODES),
            history: BTreeMap::new(),
            asked: BTreeMap::new(),
            proposed: BTreeSet::new(),
            created: BTreeSet::new(),
            terms: BTreeMap::new(),
            next_token: 0,
            is_ending: false,
            is_verbose: options.is_verbose,
            outcome: Outcome::default(),
            random,
        };
        for node in 0..NODES {
            let delay = world.random.below(300_000);
            world.after(delay, node, Happening::Start);
        }
        world.push(400_000, What::Ask);
        world.push(450_000, What::Propose);
        world.push(500_000, What::Fault);
        world
    }

    fn push(&mut self, delay_us: u64, what: What) {
        self.sequence += 1;
        self.heap.push(Reverse((self.now_us + delay_us, self.sequence)));
        self.happenings.insert(self.sequence, what);
    }

    fn after(&mut self, delay_us: u64, node: usize, what: Happening) {
        let life = self.nodes[node].life;
        self.push(delay_us, What::At { node, life, what });
    }

    fn line(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>10} {}", self.now_us, text());
        }
    }

    fn run(mut self) -> Result<Outcome, String> {
        while let Some(Reverse((at_us, sequence))) = self.heap.pop() {
            self.now_us = at_us;
            self.outcome.trace = self.outcome.trace.rotate_left(7) ^ sequence.wrapping_mul(at_us | 1);
            let what = self.happenings.remove(&sequence).expect("it is in the heap");
            self.happen(what).map_err(|why| format!("at {} us: {why}", self.now_us))?;
            if !self.is_ending && self.now_us > TROUBLE_US {
                self.heal();
            }
            if self.is_ending && self.has_settled() && self.all_are_in_sync() {
                self.outcome.created = self.created.len();
                self.outcome.terms = self.terms.len();
                return self.check();
            }
            if self.now_us > TROUBLE_US + ENDING_US_MAX {
                return Err(format!("it does not come to rest: {}", self.describe()));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| match &node.process {
            None => "down".to_owned(),
            Some(Process::Forming(formation, _)) => formation.waits_for(),
            Some(Process::Running(controller)) => {
                let fenced = controller.image().brokers().filter(|broker| broker.is_fenced).count();
                let behind = controller.image().topics().flat_map(|topic| &topic.partitions).filter(is_behind).count();
                format!(
                    "{:?}, {fenced} fenced, {behind} partitions not in sync, idle {}",
                    controller.standing(),
                    controller.is_idle()
                )
            }
        });
        nodes.collect::<Vec<_>>().join("; ")
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        match what {
            What::At { node, life, what } => {
                if self.nodes[node].life != life {
                    return Ok(());
                }
                if self.nodes[node].is_paused && !matches!(what, Happening::Resume) {
                    self.nodes[node].missed.push(what);
                    return Ok(());
                }
                self.at(node, what)
            }
            What::Arrives(arrival) => {
                let mut later = Vec::new();
                self.network.arrives(arrival, self.now_us, &mut self.random, &mut later);
                self.later(later);
                Ok(())
            }
            What::Ask => self.ask(),
            What::Propose => self.propose(),
            What::Fault => {
                self.fault();
                Ok(())
            }
        }
    }

    fn elapsed(&self, node: usize) -> Duration {
        Duration::from_micros(self.now_us - self.nodes[node].started_us)
    }

    fn now(&self, node: usize) -> Now {
        Now { elapsed: self.elapsed(node), unix_ms: (self.now_us / 1000) as i64 }
    }

    fn at(&mut self, node: usize, what: Happening) -> Result<(), String> {
        let event = match what {
            Happening::Start => return self.start(node),
            Happening::Resume => {
                self.nodes[node].is_paused = false;
                let missed = std::mem::take(&mut self.nodes[node].missed);
                return missed.into_iter().try_for_each(|what| self.at(node, what));
            }
            Happening::Link(event) => Event::Link(event),
            Happening::Timer => {
                self.nodes[node].timer_at = None;
                Event::Tick
            }
            Happening::Disk { token, operation } => {
                let result = self.nodes[node].disk.complete(operation);
                Event::Disk { token, result }
            }
            Happening::Applied { offset } => {
                self.nodes[node].applied = offset;
                Event::Applied { shard: 0, offset }
            }
            Happening::Register => return self.register(node),
        };
        self.give(node, event)
    }

    fn incarnation(&self, node: usize) -> [u8; 16] {
        let mut incarnation = [node as u8 + 1; 16];
        incarnation[..8].copy_from_slice(&self.nodes[node].life.to_le_bytes());
        incarnation
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].process.is_some() {
            return Ok(());
        }
        let random = self.random.bytes();
        let node_id = node as i32 + 1;
        let at = &mut self.nodes[node];
        at.life += 1;
        at.started_us = self.now_us;
        at.timer_at = None;
        self.network.listens(node, at.life);
        let found = identity::find(&mut |op| at.disk.execute(op), node_id, random).map_err(|why| why.to_string())?;
        self.line(|| format!("node {node_id} starts"));
        match found {
            Found::Member(opened) => self.begin(node, *opened),
            Found::Candidate(candidate) => {
                let random = self.random.bytes();
                let formation =
                    Formation::new(candidate, voters(), Vec::new(), self.incarnation(node), address(node_id), random);
                self.nodes[node].process = Some(Process::Forming(Box::new(formation), candidate));
                self.give(node, Event::Tick)
            }
        }
    }

    /// Runs the controller of a node that belongs to a cluster.
    fn begin(&mut self, node: usize, opened: OpenedDirectory) -> Result<(), String> {
        let node_id = node as i32 + 1;
        let options = ControllerOptions {
            node_id,
            incarnation: self.incarnation(node),
            directory_id: opened.meta.directory_id,
            address: address(node_id),
            voters: voters(),
            bootstrap_servers: Vec::new(),
            joins_voters: node < VOTERS,
            session_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(500),
            imbalance_check_interval: Some(Duration::from_secs(2)),
            shards: 1,
            seed: self.random.next(),
        };
        self.nodes[node].directory_id = opened.meta.directory_id;
        let log_bytes_max = self.random.between(3, 12) * millstream_storage::BLOCK_BYTES as u64;
        let quorum = opened.quorum.with_log_bytes_max(log_bytes_max);
        self.nodes[node].told = quorum.image().offset();
        self.nodes[node].applied = quorum.image().offset();
        self.nodes[node].applied_us = 0;
        let controller = ControllerNode::new(Controller::new(Properties::new()), quorum, options);
        self.nodes[node].process = Some(Process::Running(Box::new(controller)));
        self.give(node, Event::Tick)?;
        self.after(1_000, node, Happening::Register);
        Ok(())
    }

    fn register(&mut self, node: usize) -> Result<(), String> {
        let node_id = node as i32 + 1;
        let request = ControllerRequest::RegisterBroker {
            node_id,
            incarnation: self.incarnation(node),
            directory_id: self.nodes[node].directory_id,
            shards: 1,
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: host_name(node_id as usize - 1),
                port: CLIENT_PORT,
            }],
            rack: None,
            metadata_versions: METADATA_VERSIONS,
        };
        let asker = Asker::Node { token: REGISTRATION };
        let random_id = self.random.bytes();
        self.give(node, Event::Asked { asker, request, random_id })
    }

    /// Hands an event to whatever runs on a node, and does what follows.
    fn give(&mut self, node: usize, event: Event) -> Result<(), String> {
        let now = self.now(node);
        let mut effects = Vec::new();
        match &mut self.nodes[node].process {
            None => return Ok(()),
            Some(Process::Forming(formation, candidate)) => {
                let candidate = *candidate;
                let event = match event {
                    Event::Link(event) => event,
                    _ => links::Event::Tick,
                };
                let mut more = Vec::new();
                let formed = formation.handle(now.elapsed, event, &mut more);
                effects.extend(more.into_iter().map(Effect::Link));
                let begins = formed.into_iter().find_map(|formed| match formed {
                    Formed::Begin(snapshot) => Some(*snapshot),
                    Formed::Warn(_) => None,
                });
                if let Some(snapshot) = begins {
                    self.line(|| format!("node {} begins", candidate.node_id));
                    self.hang_up(node);
                    let random = self.random.bytes();
                    let at = &mut self.nodes[node];
                    at.life += 1;
                    at.started_us = self.now_us;
                    at.timer_at = None;
                    self.network.listens(node, at.life);
                    let opened = identity::begin(&mut |op| at.disk.execute(op), candidate, snapshot, random);
                    return self.begin(node, opened.map_err(|why| why.to_string())?);
                }
            }
            Some(Process::Running(controller)) => {
                controller.handle(now, event, &mut effects);
                let standing = controller.standing();
                if standing.is_active
                    && let Some(other) = self.terms.insert(standing.term, node)
                    && other != node
                {
                    return Err(format!("nodes {other} and {node} decide in term {}", standing.term));
                }
            }
        }
        for effect in effects {
            self.effect(node, effect)?;
        }
        self.set_timer(node);
        self.check_leases()
    }

    /// Who has a lease is not fenced, by nobody as far as anybody knows: also who is paused, for it goes on as if nothing was. A
    /// process that is gone has none.
    fn check_leases(&mut self) -> Result<(), String> {
        let Some(image) = self.history.values().next_back() else { return Ok(()) };
        for (node, at) in self.nodes.iter().enumerate() {
            let Some(Process::Running(controller)) = &at.process else { continue };
            if !controller.standing().has_lease(self.elapsed(node)) || controller.is_alone() {
                continue;
            }
            let broker = image.broker(node as i32 + 1);
            if broker.is_some_and(|broker| broker.incarnation == self.incarnation(node) && broker.is_fenced) {
                return Err(format!("node {} is fenced and has its lease", node + 1));
            }
            self.outcome.leases += 1;
        }
        Ok(())
    }

    fn set_timer(&mut self, node: usize) {
        let deadline = match &self.nodes[node].process {
            None => None,
            Some(Process::Forming(formation, _)) => formation.next_deadline(),
            Some(Process::Running(controller)) => controller.next_deadline(),
        };
        let Some(deadline) = deadline else { return };
        let at = (self.nodes[node].started_us + deadline.as_micros() as u64 + 1).max(self.now_us + 50);
        if self.nodes[node].timer_at.is_none_or(|earlier| at < earlier) {
            self.nodes[node].timer_at = Some(at);
            self.after(at - self.now_us, node, Happening::Timer);
        }
    }

    fn effect(&mut self, node: usize, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Disk { token, op } => {
                let (operation, delay) = self.nodes[node].disk.submit(op);
                self.after(delay, node, Happening::Disk { token, operation });
            }
            Effect::Publish { offset, records, image } => {
                if image.offset() != offset {
                    return Err(format!("an image of offset {} with {offset}", image.offset()));
                }
                let told = std::mem::replace(&mut self.nodes[node].told, offset);
                self.outcome.installed += u64::from(told + (records.len() as u64) < offset);
                // Who is told of it first is told of one decision.
                if told < offset
                    && self.history.range(told + 1..).next().is_none()
                    && let Some(before) = self.history.get(&told)
                {
                    check_decision(before, &image)?;
                    self.outcome.partitions.count(before, &image);
                }
                if **self.history.entry(offset).or_insert_with(|| Arc::clone(&image)) != *image {
                    return Err(format!("at node {} something else is true at offset {offset}", node + 1));
                }
                let at_us = self.now_us + self.random.below(3_000);
                let applied_us = &mut self.nodes[node].applied_us;
                *applied_us = at_us.max(*applied_us + 1);
                let delay = *applied_us - self.now_us;
                self.after(delay, node, Happening::Applied { offset });
            }
            Effect::Link(effect) => self.link(node, effect),
            Effect::Answer { asker: Asker::Node { token: REGISTRATION }, response } => match response {
                ControllerResponse::RegisterBroker(Ok(_)) => {}
                ControllerResponse::RegisterBroker(Err(_)) => self.after(100_000, node, Happening::Register),
                other => return Err(format!("a registration is answered with {other:?}")),
            },
            Effect::Answer { asker: Asker::Node { token }, response } if self.proposed.remove(&token) => {
                let outcomes = match response {
                    ControllerResponse::AlterPartition(Ok(outcomes)) => outcomes,
                    ControllerResponse::AlterPartition(Err(_)) => return Ok(()),
                    other => return Err(format!("a proposal is answered with {other:?}")),
                };
                let known = self.known(node).ok_or("a leader knows something")?;
                for ((topic_id, index), altered) in outcomes {
                    let Ok(altered) = altered else { continue };
                    let partition = known.topic_by_id(topic_id).and_then(|topic| topic.partition(index));
                    if partition.is_none_or(|partition| partition.partition_epoch < altered.partition_epoch) {
                        return Err(format!(
                            "R7: {altered:?}, is node {} told, and its shard does not know it",
                            node + 1
                        ));
                    }
                }
            }
            Effect::Answer { asker: Asker::Node { token }, response } => {
                let name = self.asked.remove(&token).ok_or("an answer that nobody waits for")?;
                let ControllerResponse::CreateTopics(topics) = response else { return Err(format!("{response:?}")) };
                if topics[0].1.is_ok() {
                    let mut known = self.history.range(..=self.nodes[node].applied);
                    if known.next_back().is_none_or(|(_, image)| image.topic(&name).is_none()) {
                        return Err(format!(
                            "R7: {name} is there, says node {}, and its shard does not know it",
                            node + 1
                        ));
                    }
                    self.created.insert(name);
                }
            }
            Effect::Answer { asker, .. } => return Err(format!("an answer to {asker:?}")),
            Effect::Say { message } => self.line(|| format!("node {}: {message}", node + 1)),
            Effect::Warn { message } => {
                self.outcome.fenced += u64::from(message.contains("fenced"));
                if message.contains("is refused") || message.contains("cannot be read") {
                    return Err(message);
                }
                self.line(|| format!("node {}: {message}", node + 1));
            }
            Effect::Fail { reason } => return Err(format!("node {} gives up: {reason}", node + 1)),
        }
        Ok(())
    }

    // ---- The network ----

    fn link(&mut self, node: usize, effect: links::Effect) {
        let (process, mut later) = ((node, self.nodes[node].life, Place::Controller), Vec::new());
        self.network.execute(process, effect, self.now_us, &mut self.random, &mut later);
        self.later(later);
    }

    /// The process of a node is gone, and its connections with it.
    fn hang_up(&mut self, node: usize) {
        let mut later = Vec::new();
        self.network.hang_up(node, self.now_us, &mut self.random, &mut later);
        self.later(later);
    }

    fn mend(&mut self) {
        let mut later = Vec::new();
        self.network.mend(&mut self.random, &mut later);
        self.later(later);
    }

    fn later(&mut self, later: Vec<(u64, Later)>) {
        for (delay_us, later) in later {
            self.push(
                delay_us,
                match later {
                    Later::ToNode { node, life, event, .. } => What::At { node, life, what: Happening::Link(event) },
                    Later::Arrival(arrival) => What::Arrives(arrival),
                },
            );
        }
    }

    // ---- Clients and faults ----

    fn ask(&mut self) -> Result<(), String> {
        let pause = if self.is_ending { 200_000 } else { self.random.between(5_000, 200_000) };
        self.push(pause, What::Ask);
        let node = self.random.index(NODES);
        if self.nodes[node].is_paused || !matches!(self.nodes[node].process, Some(Process::Running(_))) {
            return Ok(());
        }
        self.next_token += 1;
        let token = self.next_token;
        let is_offsets = self.random.below(8) == 0;
        let name = if is_offsets { CONSUMER_OFFSETS.to_owned() } else { format!("t{token}") };
        let topic = NewTopic {
            name: name.clone(),
            partitions: self.random.between(1, if is_offsets { 100 } else { 4 }) as i32,
            // Whoever asks for the groups' topic may be configured otherwise: it gets its replicas from the controller.
            replication_factor: self.random.between(1, 3) as i16,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        self.asked.insert(token, name);
        let request = ControllerRequest::CreateTopics { topics: vec![topic], validate_only: false };
        let random_id = self.random.bytes();
        self.give(node, Event::Asked { asker: Asker::Node { token }, request, random_id })
    }

    /// What the shard of a node has applied.
    fn known(&self, node: usize) -> Option<Arc<ClusterImage>> {
        self.history.range(..=self.nodes[node].applied).next_back().map(|(_, image)| Arc::clone(image))
    }

    /// A node proposes who is in sync where it leads, as far as its shard knows: anybody, and in the end everybody.
    fn propose(&mut self) -> Result<(), String> {
        let pause = if self.is_ending { 100_000 } else { self.random.between(5_000, 200_000) };
        self.push(pause, What::Propose);
        let node = self.random.index(NODES);
        let node_id = node as i32 + 1;
        if self.nodes[node].is_paused || !matches!(self.nodes[node].process, Some(Process::Running(_))) {
            return Ok(());
        }
        let Some(image) = self.known(node) else { return Ok(()) };
        let Some(me) = image.broker(node_id).filter(|me| me.incarnation == self.incarnation(node)) else {
            return Ok(());
        };
        let mut partitions: Vec<(TopicPartition, AlterPartition)> = Vec::new();
        for topic in image.topics() {
            let led = (0..).zip(&topic.partitions).filter(|(_, partition)| partition.leader == node_id);
            for (index, partition) in led {
                if self.is_ending && !is_behind(&partition) || !self.is_ending && self.random.below(4) > 0 {
                    continue;
                }
                let others = partition.replicas.iter().filter_map(|replica| image.broker(*replica));
                let mut isr: Vec<(i32, i64)> = others.map(|broker| (broker.node_id, broker.epoch)).collect();
                isr.retain(|(other, _)| *other == node_id || self.is_ending || self.random.below(4) > 0);
                let Partition { leader_epoch, partition_epoch, .. } = *partition;
                partitions.push(((topic.id, index), AlterPartition { leader_epoch, partition_epoch, isr }));
            }
        }
        if partitions.is_empty() {
            return Ok(());
        }
        self.next_token += 1;
        let token = self.next_token;
        self.proposed.insert(token);
        let request = ControllerRequest::AlterPartition { node_id, epoch: me.epoch, partitions };
        let random_id = self.random.bytes();
        self.give(node, Event::Asked { asker: Asker::Node { token }, request, random_id })
    }

    /// Whether everybody is in sync who may be, and the groups' topic has all of its replicas.
    fn all_are_in_sync(&self) -> bool {
        let Some(controllers) = self.running() else { return false };
        let image = controllers[0].image();
        let offsets = image.topic(CONSUMER_OFFSETS);
        let is_narrow = |partition: &Partition| partition.replicas.len() < OFFSETS_REPLICAS;
        !image.topics().flat_map(|topic| &topic.partitions).any(|partition| is_behind(&partition))
            && !offsets.is_some_and(|topic| topic.partitions.iter().any(is_narrow))
    }

    fn active(&self) -> Option<usize> {
        (0..NODES).find(|node| {
            matches!(&self.nodes[*node].process, Some(Process::Running(controller)) if controller.standing().is_active)
        })
    }

    fn fault(&mut self) {
        if self.is_ending {
            return;
        }
        let pause = self.random.between(10_000, 1_500_000);
        self.push(pause, What::Fault);
        let other = self.random.index(NODES);
        let node = if self.random.coin() { self.active().unwrap_or(other) } else { self.random.index(NODES) };
        match self.random.below(9) {
            // Only while everything is in three places: two disks are not lost at once.
            8 if self.has_settled() => self.wipe(node),
            0..=2 => self.go_down(node),
            3 | 4 => {
                if self.nodes[node].process.is_some() && !std::mem::replace(&mut self.nodes[node].is_paused, true) {
                    let pause = self.random.below(5_000_000);
                    self.line(|| format!("node {} is paused for {pause} us", node + 1));
                    self.after(pause, node, Happening::Resume);
                }
            }
            5 => self.network.cut(node, other),
            6 => self.network.isolate(node),
            _ => self.mend(),
        }
    }

    fn go_down(&mut self, node: usize) {
        if self.nodes[node].process.take().is_none() {
            return;
        }
        self.line(|| format!("node {} goes down", node + 1));
        self.outcome.crashes += 1;
        self.hang_up(node);
        let is_power = self.random.coin();
        let at = &mut self.nodes[node];
        at.disk.go_down(is_power);
        at.life += 1;
        at.is_paused = false;
        at.missed.clear();
        let pause = if self.random.coin() { self.random.below(50_000) } else { self.random.below(5_000_000) };
        self.after(pause, node, Happening::Start);
    }

    fn wipe(&mut self, node: usize) {
        self.go_down(node);
        self.line(|| format!("node {} loses its disk", node + 1));
        self.outcome.wiped += 1;
        self.nodes[node].disk = SimDisk::new(self.random.fork());
    }

    /// Whether the directories that the controllers have vote, that of the broker does not, and there are no others.
    fn all_belong(controllers: &[&ControllerNode]) -> bool {
        let members = controllers[0].quorum.members();
        let belongs = |(node, controller): (usize, &&ControllerNode)| {
            members.get(controller.quorum.me()).is_some() && members.is_voter(controller.quorum.me()) == (node < VOTERS)
        };
        members.iter().count() == NODES && controllers.iter().enumerate().all(belongs)
    }

    fn heal(&mut self) {
        self.is_ending = true;
        self.line(|| "everything works again".to_owned());
        self.mend();
        for node in 0..NODES {
            self.after(0, node, if self.nodes[node].is_paused { Happening::Resume } else { Happening::Start });
        }
    }

    /// The controllers of all nodes, if all run.
    fn running(&self) -> Option<Vec<&ControllerNode>> {
        self.nodes
            .iter()
            .map(|node| match &node.process {
                Some(Process::Running(controller)) if !node.is_paused => Some(&**controller),
                _ => None,
            })
            .collect()
    }

    /// One decides, every broker is there, and all know the same.
    fn has_settled(&self) -> bool {
        let Some(controllers) = self.running() else { return false };
        let first = controllers[0].image();
        controllers.iter().filter(|controller| controller.standing().is_active).count() == 1
            && controllers
                .iter()
                .all(|controller| controller.image().offset() == first.offset() && controller.is_idle())
            && Self::all_belong(&controllers)
            && first.brokers().len() == NODES
            && first.brokers().all(|broker| {
                let node = broker.node_id as usize - 1;
                !broker.is_fenced && broker.incarnation == self.incarnation(node)
            })
    }

    fn check(self) -> Result<Outcome, String> {
        let controllers = self.running().ok_or("they run")?;
        for controller in &controllers {
            if controller.image() != controllers[0].image() {
                return Err("images of one offset that differ".to_owned());
            }
            if let Some(name) = self.created.iter().find(|name| controller.image().topic(name).is_none()) {
                return Err(format!("{name} was created and is gone"));
            }
        }
        Ok(self.outcome)
    }
}

#[test]
fn three_controllers_agree() {
    let test = "controller::sim::three_controllers_agree";
    let outcomes = seeds::run(env!("CARGO_PKG_NAME"), test, 30, |options| World::new(&options).run());
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let all = [
        ("topics", sum(|outcome| outcome.created as u64)),
        ("crashes", sum(|outcome| outcome.crashes)),
        ("terms", sum(|outcome| outcome.terms as u64)),
        ("brokers fenced for their silence", sum(|outcome| outcome.fenced)),
        ("snapshots installed", sum(|outcome| outcome.installed)),
        ("disks lost", sum(|outcome| outcome.wiped)),
        ("leases", sum(|outcome| outcome.leases)),
        ("elected", sum(|outcome| outcome.partitions.elected)),
        ("left in-sync sets", sum(|outcome| outcome.partitions.left)),
        ("joined in-sync sets", sum(|outcome| outcome.partitions.joined)),
        ("last in sync and lost", sum(|outcome| outcome.partitions.emptied)),
        ("more replicas", sum(|outcome| outcome.partitions.widened)),
    ];
    println!("{all:?}");
    if outcomes.len() >= 30 {
        assert!(all.iter().all(|(_, count)| *count > 0), "{all:?}");
    }
}

/// A bug that is planted must be found within so many seeds, by these words.
fn is_noticed(bug: Bug, words: &str) {
    is_noticed_within(bug, words, 100);
}

fn is_noticed_within(bug: Bug, words: &str, seeds: u64) {
    let _planted = bug::plant(bug);
    let run = |seed| World::new(&Options { seed, is_verbose: false }).run().err().map(|why| (seed, why));
    let (seed, why) = (0..seeds).find_map(run).expect("the bug is noticed");
    println!("{bug:?}: seed {seed}: {why}");
    assert!(why.contains(words), "{why}");
}

#[test]
fn a_lease_that_lasts_too_long_is_noticed() {
    is_noticed(Bug::LeaseTooLong, "is fenced and has its lease");
}

#[test]
fn a_lease_from_an_unconfirmed_answer_is_noticed() {
    is_noticed_within(Bug::LeaseUnconfirmed, "is fenced and has its lease", 1_000);
}

#[test]
fn r7_a_read_misses_what_was_acknowledged_where_answers_do_not_wait_for_the_shards() {
    is_noticed(Bug::AnswerBeforeApplied, "R7:");
}
