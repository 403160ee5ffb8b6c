//! The simulated clients: they speak the wire protocol, try again as real ones do, and report what they learn. What one
//! does is its [`Role`], a file each; this file is what all of them have in common: a connection's requests and answers.

mod admin;
mod asker;
mod committer;
mod consumer;
mod deleter;
mod doomed;
mod hostile;
pub mod member;
mod producer;
mod requests;
mod routing;
pub mod wire;

use std::collections::VecDeque;
use std::fmt;

use bytes::{Bytes, BytesMut};
use millstream_storage::random::Random;

use self::admin::Admin;
use self::asker::Asker;
use self::committer::Committer;
use self::consumer::Consumer;
use self::deleter::Deleter;
use self::doomed::{Intruder, Recreator};
use self::hostile::Hostile;
use self::member::Member;
use self::producer::Producer;
use self::routing::{Fit, Routing, Target};
use self::wire::Request;
use super::checkers::{GroupChecker, GroupFinding};
use super::record::Found;

/// What all clients know of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The log reaches at least this far.
    pub end: i64,
    /// It was promised that the log starts here or later.
    pub promised_start: i64,
    /// Nobody asked to delete records from this offset on.
    pub deleted_to: i64,
}

/// What all clients know.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Each partition.
    pub partitions: Vec<Known>,
    /// The partitions that the client who is to act believes to be led by the node that it is connected to.
    pub here: Vec<usize>,
    /// Retention may remove records.
    pub has_retention: bool,
    /// Bits flip on their way from the disk: damage that a reader notices is to be expected.
    pub has_damage: bool,
    /// The last record of the intruder that was acknowledged.
    pub intruded: Option<u32>,
    /// No new work: what is under way is to be finished.
    pub is_ending: bool,
    /// The group of the members.
    pub group: GroupChecker,
}

impl Knowledge {
    /// One of the partitions that are here.
    fn any_here(&self, random: &mut Random) -> usize {
        self.here[random.index(self.here.len())]
    }
}

/// What a client learnt.
#[derive(Clone, Debug)]
pub enum Finding {
    /// The topic exists, durably.
    TopicCreated,
    /// A client is an idempotent producer from now on.
    ProducerId { id: i64 },
    /// A record of the intruder was acknowledged.
    Intruded { number: u32 },
    /// The records were acknowledged.
    Acknowledged { partition: usize, records: Vec<Found> },
    /// A consumer asked for `offset` and got these.
    Read { partition: usize, offset: i64, records: Vec<Found> },
    /// The log starts at this offset or later.
    Promised { partition: usize, log_start: i64 },
    /// The log starts here, or was read from here, as its leader says, and was promised to start at `promised` or later when that
    /// was asked.
    Starts { partition: usize, log_start: i64, promised: i64 },
    /// The log ends here, as its leader says, and was known to reach `known` when that was asked.
    Ends { partition: usize, log_end: i64, known: i64 },
    /// A member of the group learnt this.
    Group(GroupFinding),
    /// The record found by time, among those below `until`.
    Time { partition: usize, query: Option<i64>, until: i64, found: Option<(i64, i64)> },
}

/// What a client does after a response.
#[derive(Debug, Default)]
pub struct Reaction {
    /// What it learnt.
    pub findings: Vec<Finding>,
    /// It gives up the connection and tries again by another.
    pub reconnect: bool,
    /// What it asked was not where it was believed to be.
    pub doubts: bool,
}

/// What a client does when it may act.
#[derive(Debug)]
pub enum Act {
    Nothing,
    /// Sends these bytes.
    Sends(Bytes),
    /// Gives up the connection, to go to another node.
    Leaves,
}

/// What a client puts on its connection.
enum Outgoing {
    /// A request that will be answered, or the connection goes.
    Answered(Request),
    /// A request that nobody answers.
    Unanswered(Request),
    /// Bytes that need not be a request.
    Anything(Bytes),
}

/// What a client does: what it sends next, and what an answer means to it. A role that does not ask ahead is asked for its
/// next request when the last one was answered, or will not be because its connection is gone.
trait Role: fmt::Debug {
    /// How long until it acts again, in microseconds.
    fn pause_us(&self, random: &mut Random) -> u64;

    /// Where it has to be to send what it sends next.
    fn target(&self) -> Target {
        Target::Anywhere
    }

    /// The coordinator that it knew may have become another.
    fn forget_coordinator(&mut self) {}

    /// The partition of the topic of which it waits for acknowledgements.
    fn writes_to(&self) -> Option<usize> {
        None
    }

    /// What it sends now, if anything.
    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing>;

    /// The answer to the oldest request that was not answered.
    fn answered(&mut self, body: Bytes, knowledge: &Knowledge, reaction: &mut Reaction) -> Result<(), String>;

    /// The connection is gone: what was not answered never will be.
    fn disconnected(&mut self, _knowledge: &mut Knowledge) {}

    /// Whether it sends before the last answer is there.
    fn asks_ahead(&self) -> bool {
        false
    }

    /// Whether its answers must come soon even while the disk is full: to a read, a question, a deletion.
    fn is_impatient(&self) -> bool {
        false
    }

    /// Whether something that it wrote is still to be acknowledged.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Whether its records lie in the log once, in its order.
    fn is_idempotent(&self) -> bool {
        false
    }

    /// Whether it listens to no answer and hangs up when it likes.
    fn is_hostile(&self) -> bool {
        false
    }
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its number, from 0.
    pub number: u32,
    role: Box<dyn Role>,
    correlation: i32,
    /// Correlation ids of the requests that were not answered.
    outstanding: VecDeque<i32>,
    received: BytesMut,
    /// Where there are several nodes.
    routing: Option<Routing>,
    /// The request that was not answered asks for its routing.
    asks_way: bool,
}

impl Client {
    fn new(number: u32, role: impl Role + 'static) -> Client {
        Client {
            number,
            role: Box::new(role),
            correlation: 0,
            outstanding: VecDeque::new(),
            received: BytesMut::new(),
            routing: None,
            asks_way: false,
        }
    }

    /// The same among several nodes.
    pub fn among(mut self, nodes: usize) -> Client {
        self.routing = Some(Routing::new(nodes));
        self
    }

    /// Creates the topic with so many replicas and these configurations.
    pub fn admin(number: u32, replication_factor: i16, configs: Vec<(&'static str, String)>) -> Client {
        Client::new(number, Admin::new(replication_factor, configs))
    }

    /// Writes to a partition.
    pub fn producer(number: u32, partition: usize, random: &mut Random) -> Client {
        Client::new(number, Producer::new(number, partition, random))
    }

    /// Writes to a partition, and waits until all replicas in sync have it.
    pub fn producer_of_all(number: u32, partition: usize, random: &mut Random) -> Client {
        Client::new(number, Producer::new(number, partition, random).with_acks_all())
    }

    /// Reads all partitions.
    pub fn consumer(number: u32, partitions: usize) -> Client {
        Client::new(number, Consumer::new(partitions))
    }

    /// Deletes records.
    pub fn deleter(number: u32, is_replicated: bool) -> Client {
        Client::new(number, Deleter::new(is_replicated))
    }

    /// Asks for offsets by time.
    pub fn asker(number: u32) -> Client {
        Client::new(number, Asker::default())
    }

    /// Deletes a topic and creates it again.
    pub fn recreator(number: u32, is_among_several: bool) -> Client {
        Client::new(number, Recreator::new(number, is_among_several))
    }

    /// Writes to the topic of the recreator.
    pub fn intruder(number: u32) -> Client {
        Client::new(number, Intruder::new(number))
    }

    /// Commits offsets of a group.
    pub fn committer(number: u32) -> Client {
        Client::new(number, Committer::new(number))
    }

    /// A member of the group, of the classic or the consumer protocol.
    pub fn member(number: u32, is_classic: bool) -> Client {
        Client::new(number, Member::new(number, is_classic))
    }

    /// Sends what no client sends.
    pub fn hostile(number: u32) -> Client {
        Client::new(number, Hostile::new(number))
    }

    /// Whether it listens to no answer and hangs up when it likes.
    pub fn is_hostile(&self) -> bool {
        self.role.is_hostile()
    }

    /// Whether it waits for an answer that must come soon even while the disk is full.
    pub fn waits_impatiently(&self) -> bool {
        self.role.is_impatient() && !self.outstanding.is_empty()
    }

    /// Whether its records lie in the log once, in its order.
    pub fn is_idempotent(&self) -> bool {
        self.role.is_idempotent()
    }

    /// The partition of the topic of which it waits for acknowledgements.
    pub fn writes_to(&self) -> Option<usize> {
        self.role.writes_to()
    }

    /// Whether it waits for any answer.
    pub fn has_asked(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Whether something is still to be acknowledged.
    pub fn is_waiting(&self) -> bool {
        self.role.is_waiting()
    }

    /// How long until it acts again, in microseconds.
    pub fn pause_us(&self, random: &mut Random) -> u64 {
        self.role.pause_us(random)
    }

    /// The connection is gone: what was not answered must be asked again.
    pub fn disconnected(&mut self, knowledge: &mut Knowledge) {
        self.outstanding.clear();
        self.received.clear();
        self.asks_way = false;
        if let Some(routing) = &mut self.routing {
            routing.doubt();
            self.role.forget_coordinator();
        }
        self.role.disconnected(knowledge);
    }

    /// It has gone to another node of its own will.
    pub fn left(&mut self, knowledge: &mut Knowledge) {
        assert!(self.outstanding.is_empty(), "it leaves when it was answered");
        if let Some(routing) = &mut self.routing
            && matches!(self.role.target(), Target::Coordinator { node_id: Some(_) })
        {
            // It asks the coordinator's node itself.
            routing.doubt();
        }
        self.received.clear();
        self.role.disconnected(knowledge);
    }

    /// The node that it connects to, where there are several.
    pub fn chosen_node(&self, random: &mut Random) -> Option<usize> {
        self.routing.as_ref().map(|routing| routing.node_for(&self.role.target(), random))
    }

    /// What it does now at this node.
    pub fn act(&mut self, node: usize, random: &mut Random, knowledge: &mut Knowledge) -> Act {
        if !self.outstanding.is_empty() && (self.asks_way || !self.role.asks_ahead()) {
            return Act::Nothing;
        }
        let Some(routing) = self.routing.as_ref().filter(|_| !self.role.is_hostile()) else {
            knowledge.here = (0..knowledge.partitions.len()).collect();
            return self.ask(random, knowledge);
        };
        let target = self.role.target();
        if self.outstanding.is_empty() {
            match routing.fit(&target, node, random) {
                Fit::Elsewhere if !routing.is_stale() => return Act::Leaves,
                Fit::Here if !routing.is_stale() => {}
                _ => {
                    self.asks_way = true;
                    return self.sends(Routing::request(&target));
                }
            }
        }
        knowledge.here = routing.led_by(node);
        self.ask(random, knowledge)
    }

    /// The next request of its role, if there is something to ask now.
    fn ask(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Act {
        match self.role.next(random, knowledge) {
            None => Act::Nothing,
            Some(Outgoing::Answered(request)) => self.sends(request),
            Some(Outgoing::Unanswered(request)) => {
                self.correlation += 1;
                Act::Sends(request.frame(self.correlation - 1))
            }
            Some(Outgoing::Anything(frame)) => Act::Sends(frame),
        }
    }

    /// A request that is to be answered.
    fn sends(&mut self, request: Request) -> Act {
        self.outstanding.push_back(self.correlation);
        self.correlation += 1;
        Act::Sends(request.frame(self.correlation - 1))
    }

    /// Takes bytes off the connection.
    pub fn receive(&mut self, bytes: &[u8], knowledge: &Knowledge) -> Result<Reaction, String> {
        let mut reaction = Reaction::default();
        if self.is_hostile() {
            return Ok(reaction);
        }
        self.received.extend_from_slice(bytes);
        while let Some((correlation, body)) = wire::take_response(&mut self.received) {
            let expected = self.outstanding.pop_front().ok_or("a response came that nobody had asked for")?;
            if correlation != expected {
                return Err(format!("response {correlation} came before response {expected}"));
            }
            match &mut self.routing {
                Some(routing) if std::mem::take(&mut self.asks_way) => routing.answered(body)?,
                _ => self.role.answered(body, knowledge, &mut reaction)?,
            }
        }
        if let Some(routing) = &mut self.routing
            && reaction.doubts
        {
            routing.doubt();
        }
        Ok(reaction)
    }
}
