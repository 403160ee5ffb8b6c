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
}

impl Client {
    fn new(number: u32, role: impl Role + 'static) -> Client {
        Client { number, role: Box::new(role), correlation: 0, outstanding: VecDeque::new(), received: BytesMut::new() }
    }

    /// Creates the topic with these configurations.
    pub fn admin(number: u32, configs: Vec<(&'static str, String)>) -> Client {
        Client::new(number, Admin::new(configs))
    }

    /// Writes to a partition.
    pub fn producer(number: u32, partition: usize, random: &mut Random) -> Client {
        Client::new(number, Producer::new(number, partition, random))
    }

    /// Reads all partitions.
    pub fn consumer(number: u32, partitions: usize) -> Client {
        Client::new(number, Consumer::new(partitions))
    }

    /// Deletes records.
    pub fn deleter(number: u32) -> Client {
        Client::new(number, Deleter::default())
    }

    /// Asks for offsets by time.
    pub fn asker(number: u32) -> Client {
        Client::new(number, Asker::default())
    }

    /// Deletes a topic and creates it again.
    pub fn recreator(number: u32) -> Client {
        Client::new(number, Recreator::new(number))
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
        self.role.disconnected(knowledge);
    }

    /// The next request, if there is something to ask now.
    pub fn act(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Bytes> {
        if !self.outstanding.is_empty() && !self.role.asks_ahead() {
            return None;
        }
        let correlation = self.correlation;
        let request = match self.role.next(random, knowledge)? {
            Outgoing::Answered(request) => {
                self.outstanding.push_back(correlation);
                request
            }
            Outgoing::Unanswered(request) => request,
            Outgoing::Anything(frame) => return Some(frame),
        };
        self.correlation += 1;
        Some(request.frame(correlation))
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
            self.role.answered(body, knowledge, &mut reaction)?;
        }
        Ok(reaction)
    }
}
