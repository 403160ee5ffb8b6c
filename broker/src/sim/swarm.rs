//! What a seed makes of a world of several nodes: how many there are, who their clients are, and which kinds of faults strike
//! how often. Each seed draws some kinds only: one that is always there may hide what another would find.

use std::time::Duration;

use millstream_storage::random::Random;

use super::clients::Client;
use super::disk::SimDisk;
use super::node::{Configuration, SimNode};
use super::scenario::{Scenario, draw_partition_clients};

/// Something that goes wrong in a world of several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process is killed.
    Kill,
    /// A machine loses its power for a while.
    Power,
    /// All machines do.
    PowerOfAll,
    /// A process stands still.
    Pause,
    /// It does for longer than a session.
    LongPause,
    /// A node and all others cannot reach each other.
    Isolate,
    /// What a node sends to another does not arrive.
    CutOneWay,
    /// A wall clock is set.
    Clock,
    /// A disk is full.
    Full,
    /// A disk is slow.
    Slow,
    /// A node is told to stop.
    Stop,
    /// The connection of a client is lost.
    Reset,
    /// A node goes down within a second of its start, also while it waits for others.
    AtStart,
    /// A node goes down within a disk operation of its controller.
    InWrite,
    /// A node goes down when its shards have just been told that a topic is gone.
    AfterRemoval,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Kind; 15] = [
        Kind::Kill,
        Kind::Power,
        Kind::PowerOfAll,
        Kind::Pause,
        Kind::LongPause,
        Kind::Isolate,
        Kind::CutOneWay,
        Kind::Clock,
        Kind::Full,
        Kind::Slow,
        Kind::Stop,
        Kind::Reset,
        Kind::AtStart,
        Kind::InWrite,
        Kind::AfterRemoval,
    ];

    /// Whether it strikes at a time of its own, and not with something else that happens.
    fn is_foreseen(self) -> bool {
        !matches!(self, Kind::AtStart | Kind::InWrite | Kind::AfterRemoval)
    }
}

/// Of a node whose controller's writes meet crashes, one in so many does.
const IN_WRITE_ONE_IN: u64 = 40;

/// What strikes a world of several nodes, and how often.
#[derive(Debug)]
pub struct Swarm {
    kinds: Vec<Kind>,
    every_us: u64,
    session_us: u64,
    /// Replicas of each partition of the topic.
    pub replicas: usize,
}

impl Swarm {
    /// What strikes next.
    pub fn next(&self, random: &mut Random) -> Option<Kind> {
        let foreseen: Vec<Kind> = self.kinds.iter().copied().filter(|kind| kind.is_foreseen()).collect();
        foreseen.get(random.index(foreseen.len())).copied()
    }

    /// How long nothing strikes.
    pub fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(self.every_us / 4, self.every_us * 2)
    }

    /// Whether a node that starts goes down soon, and when.
    pub fn ends_start_us(&self, random: &mut Random) -> Option<u64> {
        (self.kinds.contains(&Kind::AtStart) && random.one_in(3)).then(|| random.below(1_000_000))
    }

    /// Whether a node goes down whose shards are told of a removal, and when.
    pub fn ends_removal_us(&self, random: &mut Random) -> Option<u64> {
        (self.kinds.contains(&Kind::AfterRemoval) && random.one_in(6)).then(|| random.below(5_000))
    }

    /// How long a node is down.
    pub fn downtime_us(&self, random: &mut Random) -> u64 {
        match random.below(3) {
            0 => random.between(100, 20_000),
            1 => random.below(500_000),
            _ => random.below(2 * self.session_us),
        }
    }

    /// How long a process stands still.
    pub fn standstill_us(&self, is_long: bool, random: &mut Random) -> u64 {
        if is_long { self.session_us + random.below(2 * self.session_us) } else { random.below(self.session_us / 2) }
    }

    /// How long a way stays cut.
    pub fn cut_us(&self, random: &mut Random) -> u64 {
        if random.coin() { random.below(300_000) } else { random.below(2 * self.session_us) }
    }
}

/// Draws a world of several nodes. The clients are as busy as those of one node, but slower.
pub fn draw(random: &mut Random) -> (Scenario, Swarm, Vec<SimNode>, Vec<Client>) {
    let count = [1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5][random.index(12)];
    let session_us = [1_000_000, 1_000_000, 3_000_000][random.index(3)];
    let mut kinds: Vec<Kind> = Vec::new();
    while kinds.iter().filter(|kind| kind.is_foreseen()).count() < 2 {
        kinds = Kind::ALL.into_iter().filter(|_| random.one_in(3)).collect();
    }
    let every_us = random.between(100_000, 1_000_000);
    let nodes = (0..count).map(|number| {
        let disk = SimDisk::new(random.fork());
        let configuration = Configuration::one_of(count, number, Duration::from_micros(session_us));
        let mut node = SimNode::new(number, disk, configuration);
        node.controller_cut_one_in = if kinds.contains(&Kind::InWrite) { IN_WRITE_ONE_IN } else { 0 };
        node
    });
    let nodes: Vec<SimNode> = nodes.collect();
    let partitions = random.between(count as u64, 2 * count as u64) as usize;
    let replicas = if random.coin() { count.min(3) } else { 1 };
    let clients = draw_clients(partitions, replicas, count, random);
    // Since the first record was acknowledged.
    let end_us = random.between(1_000_000, 4_000_000);
    let scenario = Scenario::of_several(partitions, end_us);
    (scenario, Swarm { kinds, every_us, session_us, replicas }, nodes, clients)
}

fn draw_clients(partitions: usize, replicas: usize, nodes: usize, random: &mut Random) -> Vec<Client> {
    let mut configs = vec![("file.delete.delay.ms", "200".to_string())];
    if replicas > 1 && !random.one_in(4) {
        configs.push(("min.insync.replicas", "2".to_string()));
    }
    let mut clients = vec![Client::admin(0, replicas as i16, configs)];
    // Somebody waits for acknowledgements of every partition: a producer with `acks` 0 has a companion.
    for partition in 0..partitions {
        loop {
            let producer = match replicas {
                1 => Client::producer(clients.len() as u32, partition, random),
                _ => Client::producer_of_all(clients.len() as u32, partition, random),
            };
            let waits = producer.writes_to().is_some();
            clients.push(producer);
            if waits {
                break;
            }
        }
    }
    draw_partition_clients(partitions, replicas > 1, &mut clients, random);
    for _ in 0..random.below(4) {
        clients.push(Client::recreator(clients.len() as u32, true));
    }
    if random.one_in(3) {
        clients.push(Client::committer(clients.len() as u32));
    }
    if random.one_in(4) {
        for _ in 0..random.between(2, 3) {
            let is_classic = random.coin();
            clients.push(Client::member(clients.len() as u32, is_classic));
        }
    }
    if random.one_in(5) {
        clients.push(Client::hostile(clients.len() as u32));
    }
    clients.into_iter().map(|client| client.among(nodes)).collect()
}
