//! Writes to `__consumer_offsets` that are under way, and what has to happen when they are durable or have failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::member::Parked;
use super::record::Record;
use super::request::GroupRequest;
use super::{ClientInfo, GroupEffect, RequestRef, WriteId};

/// What follows a write.
#[derive(Clone, Debug)]
pub enum Then {
    /// Answer a request: with `body`, or if the write failed with the request's own error response.
    Reply { reference: RequestRef, body: Bytes, request: Box<GroupRequest> },
    /// Handle a request that had to wait because it depends on what was being written.
    Handle { reference: RequestRef, request: Box<GroupRequest>, client: ClientInfo },
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
