//! Writes to `__consumer_offsets` that are under way, and what has to happen when they are durable or have failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::classic::ClassicGroup;
use super::member::Parked;
use super::record::Record;
use super::request::GroupRequest;
use super::timer::TimerKey;
use super::{ClientInfo, GroupEffect, RequestRef, WriteId};

/// What follows a write.
#[derive(Clone, Debug)]
pub enum Then {
    /// Answer a request: with `body`, or if the write failed with the request's own error response.
    Reply { reference: RequestRef, body: Bytes, request: Box<GroupRequest> },
    /// Handle a request that had to wait because it depends on what was being written.
    Handle { reference: RequestRef, request: Box<GroupRequest>, client: ClientInfo, random: u64 },
    /// A decision about the members of a consumer group has come true.
    Consumer { group: Arc<str>, follow: FollowUp, answer: Option<Answer> },
    /// A consumer group has become a classic one.
    Downgraded { group: Arc<str>, classic: Box<ClassicGroup> },
    /// Do what had fallen due while it could not be done.
    Due(TimerKey),
    /// The leader's assignments are recorded: hand them out.
    Assign { group: Arc<str>, generation: i32, assignments: BTreeMap<Arc<str>, Bytes> },
    /// A static member's new id is recorded: tell it.
    StaticJoin {
        group: Arc<str>,
        member: Arc<str>,
        parked: Parked,
        /// The leader before the replacement: what versions that cannot skip the assignment are told, so that a
        /// replaced leader does not assign again.
        leader_before: Option<Arc<str>>,
    },
    /// Topics were deleted while offsets of the group were being written: forget those of the topics.
    ForgetTopics { group: Arc<str>, topics: Arc<[Arc<str>]> },
}

/// An answer to a request that waits for what it says to be durable.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request.
    pub reference: RequestRef,
    /// The response.
    pub body: Bytes,
    /// For the response if the write fails.
    pub request: Box<GroupRequest>,
}

/// What follows a change of a consumer group's members beside the answer.
#[derive(Clone, Debug, Default)]
pub struct FollowUp {
    /// The member that it is about, if it stays in the group.
    pub member: Option<Arc<str>>,
    /// The member was heard of.
    pub is_heard_of: bool,
    /// The member's current assignment changed.
    pub reconciles: bool,
    /// The member joined by the classic protocol and is to ask for its assignment.
    pub awaits_sync: bool,
    /// The metadata in which the group's topics were looked at.
    pub topics_checked: Option<u64>,
    /// What had fallen due, to be tried again if the write fails.
    pub retry: Option<TimerKey>,
}

/// A write that is under way.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// What is written, in order.
    pub records: Vec<Record>,
    /// What follows, in order.
    pub then: Vec<Then>,
}

/// The writes under way. As many as requests the caller has under way, and the few of timers.
#[derive(Debug, Default)]
pub struct Writes {
    last: u64,
    under_way: BTreeMap<WriteId, Write>,
}

impl Writes {
    /// Starts a write.
    pub fn start(&mut self, records: Vec<Record>, effects: &mut Vec<GroupEffect>) -> WriteId {
        assert!(!records.is_empty(), "a write has records");
        self.last += 1;
        let write = WriteId(self.last);
        effects.push(GroupEffect::Write { write, records: records.iter().map(Record::encode).collect() });
        let then = Vec::new();
        self.under_way.insert(write, Write { records, then });
        write
    }

    /// Adds what is to follow a write that is under way.
    pub fn then(&mut self, write: WriteId, then: Then) {
        self.under_way.get_mut(&write).expect("the write is under way").then.push(then);
    }

    /// Takes a write that has ended. Writes end in the order in which they started: they go to one log.
    pub fn end(&mut self, write: WriteId) -> Write {
        let (first, ended) = self.under_way.pop_first().expect("a write that ends was started");
        assert_eq!(first, write, "writes end in order");
        ended
    }

    /// Takes everything that was to follow.
    pub fn take_waiting(&mut self) -> Vec<Then> {
        self.under_way.values_mut().flat_map(|write| std::mem::take(&mut write.then)).collect()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }
}
