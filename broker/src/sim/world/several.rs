//! What only a world of several nodes has: checkers that look at the controllers, counts of what has struck it, and an ending in
//! which everything has to work again.

use std::sync::Arc;

use millstream_replication::{ClusterImage, ControllerResponse, NO_LEADER, Partition};

use super::{ENDING_US_MAX, World};
use crate::sim::checkers::caught_up::is_caught_up;
use crate::sim::checkers::{BlocksAreDisjoint, OneControllerATerm, OneLeaderAnEpoch, OneStream};
use crate::sim::clients::Finding;
use crate::sim::clients::wire::TOPIC;
use crate::sim::node::{Opening, SimNode};
use crate::sim::record::Found;
use crate::sim::restart::Whole;
use crate::sim::swarm::{Kind, Swarm};
use crate::sim::timeline::Event;

/// When things stop going wrong though no record was ever acknowledged, but for a seed's time.
const IN_VAIN_US: u64 = 8_000_000;
/// How long it may take until everything works again: a broker that was fenced too often stays so for 5 s, and one that is
/// registered anew may have to wait for the end of a session.
const SETTLING_US_MAX: u64 = 10_000_000;
/// How often somebody looks whether everything works again.
const LOOK_EVERY_US: u64 = 20_000;

/// What strikes, and what has been seen.
pub struct Several {
    pub swarm: Swarm,
    stream: OneStream,
    leaders: OneLeaderAnEpoch,
    controllers: OneControllerATerm,
    blocks: BlocksAreDisjoint,
    /// A disk was full.
    pub was_full: bool,
    /// Times that each kind of fault struck while clients asked.
    overlaps: [u64; Kind::ALL.len()],
    /// When the first record was acknowledged.
    began_us: Option<u64>,
    /// When nothing went wrong any more.
    healed_us: Option<u64>,
    /// When everything worked again, and how often each partition of the topic was acknowledged by then.
    settled: Option<(u64, Vec<u64>)>,
    /// Acknowledgements of each partition of the topic.
    acknowledged: Vec<u64>,
    /// Times that DeleteRecords was answered.
    deleted: u64,
    /// The latest leader epoch of each partition of the topic in which clients have learnt something.
    heard_epochs: Vec<i32>,
}

/// What a world of several nodes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes.
    pub nodes: usize,
    /// Times that each kind of fault struck while clients asked.
    pub overlaps: [u64; Kind::ALL.len()],
    /// Terms in which somebody decided.
    pub terms: usize,
    /// How long it took until everything worked again, in microseconds.
    pub settled_us: u64,
    /// Partitions of the topic, and how many of them the last starts had to show.
    pub partitions: usize,
    pub shown: usize,
    /// Replicas of each of them.
    pub replicas: usize,
    /// Times that DeleteRecords was answered where there are several.
    pub deleted: u64,
}

impl Counts {
    /// Nothing went wrong while clients asked: the run shows nothing.
    pub fn is_void(&self) -> bool {
        self.overlaps.iter().all(|count| *count == 0)
    }
}

impl Several {
    pub fn new(swarm: Swarm, partitions: usize) -> Several {
        Several {
            swarm,
            stream: OneStream::default(),
            leaders: OneLeaderAnEpoch::default(),
            controllers: OneControllerATerm::default(),
            blocks: BlocksAreDisjoint::default(),
            was_full: false,
            overlaps: Default::default(),
            began_us: None,
            healed_us: None,
            settled: None,
            acknowledged: vec![0; partitions],
            deleted: 0,
            heard_epochs: vec![-1; partitions],
        }
    }

    pub fn counts(&self, nodes: usize, shown: usize) -> Counts {
        let settled_us = self.settled.as_ref().map_or(0, |(at_us, _)| at_us - self.healed_us.unwrap_or(0));
        let (terms, partitions) = (self.controllers.terms(), self.acknowledged.len());
        let replicas = self.swarm.replicas;
        let deleted = if replicas > 1 { self.deleted } else { 0 };
        Counts { nodes, overlaps: self.overlaps, terms, settled_us, partitions, shown, replicas, deleted }
    }

    /// Something goes wrong, perhaps while clients ask.
    pub fn strikes(&mut self, kind: Kind, has_traffic: bool) {
        let at = Kind::ALL.iter().position(|other| *other == kind).expect("all are there");
        self.overlaps[at] += u64::from(has_traffic);
    }

    /// A client has learnt something from a node.
    pub fn learns(&mut self, now_us: u64, node: &SimNode, finding: &Finding) -> Result<(), String> {
        if let Finding::Acknowledged { partition, .. } = finding
            && let Some(told) = node.told()
        {
            self.began_us.get_or_insert(now_us);
            self.acknowledged[*partition] += 1;
            self.leaders.acknowledged(node.number, (TOPIC, *partition), told)?;
        }
        if let Finding::Acknowledged { partition, .. }
        | Finding::Read { partition, .. }
        | Finding::Promised { partition, .. } = finding
        {
            self.deleted += u64::from(matches!(finding, Finding::Promised { .. }));
            let heard = &mut self.heard_epochs[*partition];
            *heard = told_of(node, *partition).map_or(-1, |state| state.leader_epoch).max(*heard);
        }
        Ok(())
    }

    /// Whether a node says where a partition starts or ends that does not lead it any more, in the epoch in which clients have
    /// heard of it: it did not know yet that it was deposed.
    pub fn is_outdated(&self, node: &SimNode, finding: &Finding) -> bool {
        let (Finding::Starts { partition, .. } | Finding::Ends { partition, .. }) = finding else { return false };
        let leads = |state: &Partition| {
            state.leader == node.configuration.node_id && state.leader_epoch >= self.heard_epochs[*partition]
        };
        self.swarm.replicas > 1 && !told_of(node, *partition).is_some_and(leads)
    }
}

impl World {
    /// Things have gone wrong for long enough: since the first record was acknowledged, or in vain.
    fn has_gone_wrong(&self) -> bool {
        let began_us = self.several.as_ref().and_then(|several| several.began_us).unwrap_or(IN_VAIN_US);
        self.timeline.now_us() >= began_us + self.scenario.end_us
    }

    /// Whether everything has taken too long to come to its end.
    pub fn is_late(&self) -> bool {
        let since_us = match &self.several {
            None => Some(self.scenario.end_us),
            Some(several) => several.healed_us,
        };
        since_us.is_some_and(|since_us| self.timeline.now_us() >= since_us + ENDING_US_MAX)
    }

    /// Nothing goes wrong any more.
    pub fn is_healing(&self) -> bool {
        match &self.several {
            Some(several) => several.healed_us.is_some(),
            None => self.is_ending(),
        }
    }

    /// Looks where the controller of a node stands.
    pub fn observe_controller(&mut self, node: usize) -> Result<(), String> {
        if let Some(several) = &mut self.several
            && let Some(standing) = self.nodes[node].standing()
            && standing.is_active
        {
            several.controllers.see(node, standing.term)?;
        }
        Ok(())
    }

    /// Looks at what the shards of a node are told.
    pub fn observe_image(&mut self, node: usize, image: &Arc<ClusterImage>) -> Result<(), String> {
        let Some(several) = &mut self.several else { return Ok(()) };
        if let Some(around) = several.stream.see(node, image)? {
            several.leaders.see(around.before.as_deref(), image, around.after.as_deref())?;
        }
        let mut brokers = self.nodes.iter().filter_map(|node| Some((node.configuration.node_id, node.broker()?)));
        brokers.try_for_each(|(node_id, broker)| is_caught_up(image, node_id, broker))
    }

    /// Looks at what a shard is answered.
    pub fn observe_answer(&mut self, response: &ControllerResponse) -> Result<(), String> {
        if let Some(several) = &mut self.several
            && let ControllerResponse::AllocateProducerIds(Ok((first, count))) = response
        {
            several.blocks.see(*first, *count)?;
        }
        Ok(())
    }

    /// The node that decides, if one believes so: the one of the newest term.
    pub fn active(&self) -> Option<usize> {
        let standings = self.nodes.iter().filter_map(|node| Some((node.number, node.standing()?)));
        let active = standings.filter(|(_, standing)| standing.is_active);
        active.max_by_key(|(_, standing)| standing.term).map(|(node, _)| node)
    }

    /// Looks whether everything works again, after nothing has gone wrong any more; and brings the world to its end when all
    /// partitions have been written to since.
    pub fn look(&mut self) -> Result<(), String> {
        self.timeline.after(LOOK_EVERY_US, Event::Look);
        let now_us = self.timeline.now_us();
        if !self.is_healing() {
            if self.has_gone_wrong() {
                self.several.as_mut().expect("only several are looked at").healed_us = Some(now_us);
                self.heal()?;
            }
            return Ok(());
        }
        let is_settled = self.has_settled();
        let is_written = self.is_written();
        let several = self.several.as_mut().expect("only several are looked at");
        match &several.settled {
            None if is_settled => {
                self.timeline.line("everything works again".to_string());
                several.settled = Some((now_us, several.acknowledged.clone()));
            }
            None if several.healed_us.is_some_and(|healed_us| now_us > healed_us + SETTLING_US_MAX) => {
                return Err(format!("it does not work again: {}", self.describe()));
            }
            Some(_) if is_written && !self.witness.knowledge.is_ending => {
                self.timeline.line("every partition was written to: it ends".to_string());
                self.witness.knowledge.is_ending = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// One node decides, every broker is there, every partition is led (R10), and all its replicas are in sync.
    fn has_settled(&self) -> bool {
        let is_active = |node: &&SimNode| node.standing().is_some_and(|standing| standing.is_active);
        let mut active = self.nodes.iter().filter(is_active);
        let (Some(active), None) = (active.next(), active.next()) else { return false };
        let Some(image) = active.told() else { return false };
        let is_there = |node: &SimNode| {
            let broker = image.broker(node.configuration.node_id).filter(|broker| !broker.is_fenced);
            let process = node.broker().map(|(incarnation, _)| incarnation);
            node.is_listening() && broker.is_some_and(|broker| Some(broker.incarnation) == process)
        };
        let is_replicated = image.topics().flat_map(|topic| &topic.partitions).all(is_whole);
        self.nodes.iter().all(is_there) && is_replicated
    }

    /// Every partition that somebody writes to was acknowledged since everything works again.
    fn is_written(&self) -> bool {
        let Some(several) = &self.several else { return true };
        let Some((_, before)) = &several.settled else { return false };
        let mut written = self.clients.iter().filter_map(|each| each.client.writes_to());
        written.all(|partition| several.acknowledged[partition] > before[partition])
    }

    /// Whether partitions of the topic have several replicas: what one of them lacks, another may have.
    pub fn is_replicated(&self) -> bool {
        self.several.as_ref().is_some_and(|several| several.swarm.replicas > 1)
    }

    /// All power is lost, and the replicas are read: the leader's shows everything, and the others have the same.
    pub fn compare_replicas(&mut self) -> Result<(), String> {
        let active = self.active().ok_or("nobody decides")?;
        let image = self.nodes[active].told().cloned().ok_or("nothing is known")?;
        let topic = image.topic(TOPIC).into_iter().flat_map(|topic| &topic.partitions);
        let states: Vec<Partition> = topic.cloned().collect();
        let mut replicas = Vec::new();
        for number in 0..self.nodes.len() {
            self.go_down(number, true);
            let World { nodes, timeline, witness, .. } = self;
            let at = &mut nodes[number];
            let now = at.now(timeline);
            let Opening::Member(mut opened) = at.open(None, timeline)? else {
                return Err(format!("node {} does not know its cluster any more", number + 1));
            };
            for (partition, state) in states.iter().enumerate() {
                if state.replicas.contains(&at.configuration.node_id) {
                    let whole = witness.read(&mut opened, &mut at.disk, now, partition)?;
                    replicas.extend(whole.map(|whole| (partition, at.configuration.node_id, whole)));
                }
            }
        }
        // Before a leader shows what it has beyond that.
        let (known_ends, promised_starts) = (self.witness.known_ends(), self.witness.promised_starts());
        for (partition, node_id, whole) in &replicas {
            let state = &states[*partition];
            let Whole { log_start, log_end, .. } = whole;
            let line = format!("partition {partition} at node {node_id}: offsets {log_start} to {log_end}");
            self.timeline.line(line.clone());
            if !state.isr.contains(node_id) {
                continue;
            }
            if *log_end < known_ends[*partition] {
                return Err(format!("{line}: it is in sync, and {} was known", known_ends[*partition]));
            }
            if *log_start < promised_starts[*partition] {
                let promised = promised_starts[*partition];
                return Err(format!("{line}: it is in sync, and what is before {promised} was deleted"));
            }
            if state.leader == *node_id {
                self.witness.see_led(*partition, whole)?;
            }
            let leads = |other: &&(usize, i32, Whole)| other.0 == *partition && other.1 == state.leader;
            // Its node may not know of it yet, too.
            let Some((_, _, led)) = replicas.iter().find(leads) else { continue };
            let common = led.log_start.max(*log_start)..led.log_end.min(*log_end);
            let records = |whole: &Whole| -> Vec<Found> {
                whole.records.iter().filter(|record| common.contains(&record.offset)).copied().collect()
            };
            if records(led) != records(whole) {
                return Err(format!("{line}: not what its leader has, node {}", state.leader));
            }
        }
        Ok(())
    }

    /// All nodes know the same.
    pub fn knows_the_same(&self) -> bool {
        if self.several.is_none() {
            return true;
        }
        let mut offsets = self.nodes.iter().map(|node| node.told().map(ClusterImage::offset));
        let first = offsets.next().flatten();
        first.is_some() && offsets.all(|offset| offset == first)
    }

    /// What is missing, for people.
    pub fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| format!("node {}: {}", node.number + 1, node.describe()));
        let nodes = nodes.collect::<Vec<_>>().join("; ");
        let settled = self.several.as_ref().and_then(|several| several.settled.as_ref());
        let image = self.active().and_then(|active| self.nodes[active].told());
        let topics = image.into_iter().flat_map(ClusterImage::topics);
        let partitions = topics.flat_map(|topic| (0..).zip(&topic.partitions).map(move |(at, each)| (topic, at, each)));
        let lacking = partitions.filter(|(.., each)| !is_whole(each));
        let lacking: Vec<_> = lacking.map(|(topic, at, each)| format!("{}-{at}: {each:?}", topic.name)).collect();
        format!("settled: {settled:?}, written to: {}, not whole: {lacking:?}, {nodes}", self.is_written())
    }
}

/// What a node's shards were told last of a partition of the topic.
fn told_of(node: &SimNode, partition: usize) -> Option<&Partition> {
    node.told()?.topic(TOPIC)?.partition(partition as i32)
}

/// Somebody leads, and everybody is in sync.
fn is_whole(partition: &Partition) -> bool {
    partition.leader != NO_LEADER && partition.isr.len() == partition.replicas.len()
}
