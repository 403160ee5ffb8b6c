//! How a client finds its way among several nodes: from a list of nodes to begin with, by what Metadata says, to the leader
//! of what it wants. What it learnt is old when a connection is lost, or when a node says that it does not lead.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::{MetadataRequest, MetadataResponse};
use kafka_wire_core::StrBytes;
use millstream_storage::random::Random;

use super::wire::{self, Request};

/// One request in so many of who goes to all leaders goes to another one than the last.
const MOVES_ONE_IN: u64 = 20;

/// Where the next request of a client belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any node.
    Anywhere,
    /// The leader of a partition.
    Leader { topic: String, partition: usize },
    /// The leader of some partition of the topic.
    SomeLeader,
    /// This node: the coordinator of a group, once it is known.
    Coordinator { node_id: Option<i32> },
}

/// Whether a client is where its next request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Here,
    Elsewhere,
    Unknown,
}

/// What one client knows of the nodes, which it counts from 0.
#[derive(Debug)]
pub struct Routing {
    nodes: usize,
    leaders: BTreeMap<(String, usize), usize>,
    /// The node that was asked last knows the topic.
    has_topic: bool,
    is_stale: bool,
}

impl Routing {
    /// Nothing but so many nodes to begin with.
    pub fn new(nodes: usize) -> Routing {
        Routing { nodes, leaders: BTreeMap::new(), has_topic: false, is_stale: true }
    }

    /// What was learnt is old.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// What was learnt may be wrong.
    pub fn doubt(&mut self) {
        self.is_stale = true;
    }

    /// The node to connect to.
    pub fn node_for(&self, target: &Target, random: &mut Random) -> usize {
        let known = match target {
            Target::Coordinator { node_id: Some(node_id) } => Some(*node_id as usize - 1),
            _ if self.is_stale => None,
            Target::Leader { topic, partition } => self.leaders.get(&(topic.clone(), *partition)).copied(),
            Target::SomeLeader => {
                let leaders: Vec<usize> = self.of_topic().map(|(_, leader)| leader).collect();
                leaders.get(random.index(leaders.len())).copied()
            }
            Target::Anywhere | Target::Coordinator { node_id: None } => None,
        };
        known.unwrap_or_else(|| random.index(self.nodes))
    }

    /// Whether what is asked next may be asked of this node.
    pub fn fit(&self, target: &Target, node: usize, random: &mut Random) -> Fit {
        let is_here = match target {
            Target::Anywhere | Target::Coordinator { node_id: None } => true,
            // A coordinator that does not know the topic drops what members of the classic protocol have of it.
            Target::Coordinator { node_id: Some(_) } if !self.has_topic => return Fit::Unknown,
            Target::Coordinator { node_id: Some(node_id) } => *node_id as usize == node + 1,
            Target::Leader { topic, partition } => match self.leaders.get(&(topic.clone(), *partition)) {
                Some(leader) => *leader == node,
                None => return Fit::Unknown,
            },
            Target::SomeLeader => {
                if self.of_topic().next().is_none() {
                    return Fit::Unknown;
                }
                !random.one_in(MOVES_ONE_IN) && self.of_topic().any(|(_, leader)| leader == node)
            }
        };
        if is_here { Fit::Here } else { Fit::Elsewhere }
    }

    /// The partitions of the topic that a node leads.
    pub fn led_by(&self, node: usize) -> Vec<usize> {
        self.of_topic().filter(|(_, leader)| *leader == node).map(|(partition, _)| partition).collect()
    }

    fn of_topic(&self) -> impl Iterator<Item = (usize, usize)> {
        let all = self.leaders.iter();
        all.filter(|((topic, _), _)| topic == wire::TOPIC).map(|((_, partition), leader)| (*partition, *leader))
    }

    /// Asks who leads what, of the topic and the one that this request is about.
    pub fn request(target: &Target) -> Request {
        let mut names = vec![wire::TOPIC];
        if let Target::Leader { topic, .. } = target
            && topic != wire::TOPIC
        {
            names.push(topic);
        }
        let topics = names.into_iter().map(|name| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some(StrBytes::from(name));
            topic
        });
        let mut body = MetadataRequest::default();
        body.topics = Some(topics.collect());
        body.allow_auto_topic_creation = false;
        Request::new(wire::METADATA, &body)
    }

    /// Takes the answer.
    pub fn answered(&mut self, body: Bytes) -> Result<(), String> {
        let response: MetadataResponse = wire::response(wire::METADATA, body)?;
        self.leaders.clear();
        let is_topic = |name: Option<&StrBytes>| name.is_some_and(|name| **name == *wire::TOPIC);
        self.has_topic =
            response.topics.iter().any(|topic| is_topic(topic.name.as_ref()) && !topic.partitions.is_empty());
        for topic in &response.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for partition in &topic.partitions {
                let leader = partition.leader_id;
                if leader < 0 {
                    continue;
                }
                if !response.brokers.iter().any(|broker| broker.node_id == leader) {
                    return Err(format!("node {leader} leads {name}-{}, and is no broker", partition.partition_index));
                }
                self.leaders.insert((name.clone(), partition.partition_index as usize), leader as usize - 1);
            }
        }
        self.is_stale = false;
        Ok(())
    }
}
