//! What a seed makes of a world before it begins: who its clients are, what kind of disk it has, and which faults happen
//! when. Everything here is drawn in one order, so that a seed keeps its meaning.

use millstream_storage::random::Random;

use super::clients::Client;
use super::disk::SimDisk;
use super::node::SimNode;
use super::timeline::{Event, Fault, Timeline};

/// How long the disk is full in scenarios that wait and see whether everything else goes on.
const FULL_US: u64 = 8_000_000;
const DAY_MS: u64 = 86_400_000;
/// `message.timestamp.after.max.ms` is an hour.
const CLOCK_BACK_MS_MAX: u64 = 40 * 60_000;

/// The node that faults happen to.
const NODE: usize = 0;

pub struct Scenario {
    /// Partitions of the topic.
    pub partitions: usize,
    /// Retention may remove records of it.
    pub has_retention: bool,
    /// Bits flip on their way from the disk.
    pub has_damage: bool,
    /// Damaged copies of the disk are started on.
    pub is_damaged_at_rest: bool,
    /// The disk is full for long.
    is_full: bool,
    /// Until when things go wrong.
    pub end_us: u64,
}

impl Scenario {
    /// Draws a scenario, with the disk of the node and the clients of the world.
    pub fn draw(random: &mut Random) -> (Scenario, SimDisk, Vec<Client>) {
        let mut disk = SimDisk::new(random.fork());
        if random.one_in(5) {
            disk.faults.fail_one_in = random.between(300, 3_000);
        }
        if random.one_in(4) {
            disk.faults.fail_sync_one_in = random.between(2, 20);
        }
        let partitions = random.between(1, 5) as usize;
        let has_retention = random.one_in(4);
        let clients = draw_clients(partitions, has_retention, random);
        let has_damage = random.one_in(6);
        if has_damage {
            disk.faults.flip_read_one_in = random.between(3, 60);
        }
        let is_full = random.one_in(15);
        let full_us = if is_full { FULL_US } else { 0 };
        let end_us = random.between(100_000, 1_000_000) + full_us;
        let is_damaged_at_rest = random.one_in(4);
        let scenario = Scenario { partitions, has_retention, has_damage, is_damaged_at_rest, is_full, end_us };
        (scenario, disk, clients)
    }

    /// That of several nodes, whose faults a swarm draws.
    pub fn of_several(partitions: usize, end_us: u64) -> Scenario {
        Scenario {
            partitions,
            has_retention: false,
            has_damage: false,
            is_damaged_at_rest: false,
            is_full: false,
            end_us,
        }
    }

    /// Foresees the faults.
    pub fn schedule(&self, timeline: &mut Timeline) {
        for _ in 0..timeline.random.below(4) {
            self.at_random(Fault::Crash { node: NODE }, timeline);
        }
        if timeline.random.one_in(3) {
            self.at_random(Fault::Stop { node: NODE }, timeline);
        }
        if self.is_full || timeline.random.one_in(5) {
            timeline.after(self.capacity_us(), Event::Fault(Fault::Capacity { node: NODE }));
        }
        if timeline.random.one_in(5) {
            timeline.after(self.slow_us(), Event::Fault(Fault::Slow { node: NODE }));
        }
        if timeline.random.one_in(4) {
            for _ in 0..3 {
                self.at_random(Fault::Clock { node: NODE }, timeline);
            }
        }
        for _ in 0..timeline.random.below(10) {
            self.at_random(Fault::Cut, timeline);
        }
    }

    fn at_random(&self, fault: Fault, timeline: &mut Timeline) {
        let at = timeline.random.below(self.end_us);
        timeline.at(at, Event::Fault(fault));
    }

    /// How long the disk stays full, and empty.
    fn capacity_us(&self) -> u64 {
        self.end_us / 3
    }

    /// How long the disk stays slow, and quick.
    fn slow_us(&self) -> u64 {
        self.end_us / 4
    }

    /// A node's disk fills up, or is emptied.
    pub fn change_capacity(&self, node: &mut SimNode, timeline: &mut Timeline) {
        let capacity = match node.disk.faults.capacity_bytes {
            None => Some((2 << 20) + timeline.random.below(1 << 20)),
            Some(_) => None,
        };
        node.disk.faults.capacity_bytes = capacity;
        timeline.line(format!("capacity {capacity:?}"));
        timeline.after(self.capacity_us(), Event::Fault(Fault::Capacity { node: node.number }));
    }

    /// A node's disk becomes slow, or quick again.
    pub fn turn_slow(&self, node: &mut SimNode, timeline: &mut Timeline) {
        node.disk.faults.turn_slow(&mut timeline.random);
        timeline.line(format!("slow: {:?}", node.disk.faults.slow));
        timeline.after(self.slow_us(), Event::Fault(Fault::Slow { node: node.number }));
    }
}

/// A node's wall clock is set. Records older than `retention.ms` would go, and records of the future are refused.
pub fn set_clock(node: &mut SimNode, timeline: &mut Timeline) {
    let error_ms = timeline.random.between(0, 3 * DAY_MS + CLOCK_BACK_MS_MAX) as i64;
    let error_ms = error_ms - CLOCK_BACK_MS_MAX as i64;
    node.clock.set_error(error_ms);
    timeline.line(format!("the clock is wrong by {error_ms} ms"));
}

fn draw_clients(partitions: usize, has_retention: bool, random: &mut Random) -> Vec<Client> {
    let mut configs = vec![("file.delete.delay.ms", "200".to_string())];
    if random.coin() {
        configs.push(("segment.ms", random.between(50, 500).to_string()));
    }
    if has_retention {
        configs.push(("retention.bytes", "200000".to_string()));
    }
    let mut clients = vec![Client::admin(0, 1, configs)];
    for number in 1..=random.between(1, 7) as u32 {
        clients.push(Client::producer(number, random.index(partitions), random));
    }
    draw_partition_clients(partitions, false, &mut clients, random);
    if random.one_in(3) {
        clients.push(Client::recreator(clients.len() as u32, false));
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
    clients
}

/// Who reads the topic, asks about it and deletes its records. Where replicas are compared, some worlds keep them.
pub fn draw_partition_clients(partitions: usize, is_replicated: bool, clients: &mut Vec<Client>, random: &mut Random) {
    for _ in 0..random.between(1, 3) {
        clients.push(Client::consumer(clients.len() as u32, partitions));
    }
    if !is_replicated || random.coin() {
        clients.push(Client::deleter(clients.len() as u32, is_replicated));
    }
    clients.push(Client::asker(clients.len() as u32));
}
