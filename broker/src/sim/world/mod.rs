//! A world: nodes as they are shipped, clients that speak the wire protocol, networks that delay and cut, on one event
//! heap. A node goes down at any event, and starts again with another number of shards. Everything follows from the seed.
//!
//! There are worlds of one node, whose disk does the worst that disks do, and worlds of several, which lose sight of each
//! other and disagree about who decides.

mod clients;
mod faults;
mod nodes;
mod several;

use millstream_storage::random::Random;
use millstream_storage::seeds::{self, Options};

use self::several::{Counts, Several};
use super::checkers::AnswersComeInTime;
use super::clients::Client;
use super::damage::Verdicts;
use super::network::Network;
use super::node::{Configuration, SimNode};
use super::peer_network::PeerNetwork;
use super::scenario::Scenario;
use super::snapshots::Snapshots;
use super::swarm;
use super::timeline::{Event, Fault, Timeline};
use super::witness::Witness;
use crate::shard::ConnectionId;

/// How long everything may take to come to an end when nothing goes wrong any more.
const ENDING_US_MAX: u64 = 20_000_000;

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
    /// Times a node went down, gracefully or not.
    pub stops: u64,
    /// Starts after which recovery said that the last run was shut down cleanly.
    pub clean_shutdowns: u64,
    /// What starts on damaged disks came to.
    pub verdicts: Verdicts,
    /// What became of the snapshots of the metadata log.
    pub snapshots: Snapshots,
    /// What only several nodes have.
    pub several: Counts,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

/// A client, and where it is.
struct SimClient {
    client: Client,
    /// The node that it talks to.
    node: usize,
    connection: Option<ConnectionId>,
    /// Since when it waits for an answer.
    asked_us: Option<u64>,
    /// When it sent something last.
    sent_us: u64,
}

pub struct World {
    timeline: Timeline,
    nodes: Vec<SimNode>,
    network: Network,
    peers: PeerNetwork,
    clients: Vec<SimClient>,
    witness: Witness,
    answers: AnswersComeInTime,
    /// A disk was slow for a while: answers may take longer.
    was_slow: bool,
    scenario: Scenario,
    verdicts: Verdicts,
    /// Where there are several nodes.
    several: Option<Several>,
}

impl World {
    /// Runs a seed of a world of one node to its end.
    pub fn run(options: Options) -> Result<Outcome, String> {
        let mut random = Random::new(options.seed);
        let (scenario, disk, clients) = Scenario::draw(&mut random);
        let mut world = World::new(
            Timeline::new(random, options.is_verbose),
            scenario,
            vec![SimNode::new(0, disk, Configuration::alone())],
            clients,
        );
        for node in 0..world.nodes.len() {
            world.timeline.after(0, Event::Start { node });
        }
        for client in 0..world.clients.len() {
            world.timeline.after(1_000 + client as u64, Event::Client { client });
        }
        world.scenario.schedule(&mut world.timeline);
        world.go()?;
        Ok(world.outcome())
    }

    /// Runs a seed of a world of several nodes to its end.
    pub fn run_several(options: Options) -> Result<Outcome, String> {
        let mut random = Random::new(options.seed);
        let (scenario, swarm, nodes, clients) = swarm::draw(&mut random);
        let partitions = scenario.partitions;
        let mut world = World::new(Timeline::new(random, options.is_verbose), scenario, nodes, clients);
        for node in 0..world.nodes.len() {
            let delay_us = world.timeline.random.below(300_000);
            world.timeline.after(delay_us, Event::Start { node });
        }
        for client in 0..world.clients.len() {
            world.timeline.after(100_000 + client as u64, Event::Client { client });
        }
        let delay_us = world.timeline.random.below(1_000_000);
        world.timeline.after(delay_us, Event::Fault(Fault::Swarm));
        world.timeline.after(0, Event::Look);
        world.several = Some(Several::new(swarm, partitions));
        world.go()?;
        Ok(world.outcome())
    }

    fn new(timeline: Timeline, scenario: Scenario, nodes: Vec<SimNode>, clients: Vec<Client>) -> World {
        let at_first = |client| SimClient { client, node: 0, connection: None, asked_us: None, sent_us: 0 };
        World {
            timeline,
            peers: PeerNetwork::new(nodes.len()),
            nodes,
            network: Network::default(),
            witness: Witness::new(&scenario, &clients),
            answers: AnswersComeInTime::new(clients.len()),
            clients: clients.into_iter().map(at_first).collect(),
            was_slow: false,
            scenario,
            verdicts: Verdicts::default(),
            several: None,
        }
    }

    fn outcome(&self) -> Outcome {
        let mut snapshots = Snapshots::default();
        self.nodes.iter().for_each(|node| snapshots.add_all(node.snapshots));
        Outcome {
            trace: self.timeline.trace.finish(),
            acknowledged: self.witness.acknowledged(),
            seen: self.witness.seen(),
            group: self.witness.knowledge.group.counts(),
            stops: self.nodes.iter().map(|node| node.stops).sum(),
            clean_shutdowns: self.nodes.iter().map(|node| node.clean_shutdowns).sum(),
            verdicts: self.verdicts,
            snapshots,
            several: self
                .several
                .as_ref()
                .map(|several| several.counts(self.nodes.len(), self.witness.shown))
                .unwrap_or_default(),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        while let Some(event) = self.next() {
            self.happen(event).map_err(|error| format!("at {} us: {error}", self.timeline.now_us()))?;
            let now_us = self.timeline.now_us();
            if self.several.is_none() && !self.is_ending() && now_us >= self.scenario.end_us {
                // From here on nothing goes wrong, so everything under way must come to its end.
                self.witness.knowledge.is_ending = true;
                self.nodes.iter_mut().for_each(|node| node.disk.faults = Default::default());
            }
            let waiting = self.clients.iter().find(|each| each.client.is_waiting());
            let is_up = self.nodes.iter().all(SimNode::is_up);
            if self.is_ending() && waiting.is_none() && is_up && self.knows_the_same() {
                break;
            }
            if self.is_late() {
                let waiting = waiting.map(|each| &each.client);
                return Err(match &self.several {
                    None => format!("a client waits for an answer for ever: {waiting:?}"),
                    Some(_) => format!("it does not come to rest: {}; client: {waiting:?}", self.describe()),
                });
            }
        }
        self.witness.shown = 0;
        if self.is_replicated() {
            return self.compare_replicas();
        }
        for node in 0..self.nodes.len() {
            self.go_down(node, true);
        }
        (0..self.nodes.len()).try_for_each(|node| self.start(node))
    }

    fn is_ending(&self) -> bool {
        self.witness.knowledge.is_ending
    }

    /// Goes on to the next event. What was meant for a process that is gone does not happen; nor does a fault when all is to
    /// come to its end.
    fn next(&mut self) -> Option<Event> {
        let is_healing = self.is_healing();
        let World { timeline, nodes, .. } = self;
        timeline.schedule.next_that(|event| match event {
            Event::Node { node, incarnation, .. } => nodes[*node].is_running(*incarnation),
            Event::Fault(_) => !is_healing,
            Event::Start { .. } | Event::Client { .. } => true,
            Event::Peers(_) | Event::Mend | Event::Resume { .. } | Event::Look => true,
        })
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Node { node, event, .. } => self.node_event(node, event),
            Event::Start { node } => self.start(node),
            Event::Client { client } => {
                self.client_acts(client)?;
                let pause = self.client_pause_us(client);
                self.timeline.after(pause, Event::Client { client });
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Peers(arrival) => {
                self.peers_arrive(arrival);
                Ok(())
            }
            Event::Mend => {
                self.mend();
                Ok(())
            }
            Event::Resume { node, incarnation } => self.resume(node, incarnation),
            Event::Look => self.look(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_lose_nothing() {
        let outcomes = seeds::run(env!("CARGO_PKG_NAME"), "sim::world::tests::clients_lose_nothing", 100, World::run);
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

    /// Seeds of several nodes that are run every day.
    const SEVERAL_SEEDS: u64 = 60;

    #[test]
    fn several_nodes_lose_nothing() {
        let test = "sim::world::tests::several_nodes_lose_nothing";
        let outcomes = seeds::run(env!("CARGO_PKG_NAME"), test, SEVERAL_SEEDS, World::run_several);
        let voids = outcomes.iter().filter(|outcome| outcome.several.is_void()).count();
        let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
        let all = [
            ("acknowledged", sum(|outcome| outcome.acknowledged as u64)),
            ("seen", sum(|outcome| outcome.seen as u64)),
            ("commits of members", sum(|outcome| outcome.group.1 as u64)),
            ("times a node went down", sum(|outcome| outcome.stops)),
            ("clean stops", sum(|outcome| outcome.clean_shutdowns)),
            ("terms", sum(|outcome| outcome.several.terms as u64)),
            ("partitions", sum(|outcome| outcome.several.partitions as u64)),
            ("shown at the end", sum(|outcome| outcome.several.shown as u64)),
            ("replicated worlds", sum(|outcome| u64::from(outcome.several.replicas > 1))),
            ("deletions of replicated records", sum(|outcome| outcome.several.deleted)),
        ];
        let slowest_us = outcomes.iter().map(|outcome| outcome.several.settled_us).max();
        println!(
            "{} seeds, {voids} void: {all:?}, all worked again after {slowest_us:?} us at the latest",
            outcomes.len()
        );
        let strikes = |at: usize| outcomes.iter().map(|outcome| outcome.several.overlaps[at]).sum::<u64>();
        let strikes: Vec<_> = swarm::Kind::ALL.into_iter().enumerate().map(|(at, kind)| (kind, strikes(at))).collect();
        println!("what struck while clients asked: {strikes:?}");
        if outcomes.len() >= SEVERAL_SEEDS as usize {
            assert!(all.iter().all(|(_, count)| *count > 0), "{all:?}");
            // A node that has just started may not know yet of a topic of which it was told before.
            assert!(all[7].1 * 10 > all[6].1 * 8, "{all:?}");
            assert!(strikes.iter().all(|(_, count)| *count > 0), "{strikes:?}");
            assert!(voids * 4 < outcomes.len(), "{voids} of {} runs show nothing", outcomes.len());
        }
    }
}
