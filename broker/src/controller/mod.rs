//! The cluster's controller as a pure state machine: what it is asked becomes a decision, the decision durable, then true,
//! then known to every shard; and when all of them have applied it, an answer.
//!
//! Calling contract. The driver calls [`ControllerShard::handle`] for each event, in the order in which they happened, and
//! executes the effects in order; it gives [`Event::Tick`] at [`ControllerShard::next_deadline`]. The controller performs no
//! I/O, reads no clock and draws no random number. There is never more than one of its disk operations under way.
//!
//! What it promises. Nobody is told of a decision that is not durable, by an answer or by its records. One decision is
//! made, written and published before the next. Decisions that find no room on the disk are refused, but those that
//! free some may use the space that the log keeps for them; after any other failure nothing is answered any more.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use millstream_replication::controller::Sessions;
use millstream_replication::log::MetadataLog;
use millstream_replication::{
    ApiError, ClusterImage, Controller, ControllerRequest, ControllerResponse, Decision, ErrorCode, MetadataRecord,
};
use millstream_storage::bug::{Bug, is_planted};
use millstream_storage::{DiskError, DiskOp, DiskReply, DiskToken, Now};

use crate::shard::ShardIndex;

/// Requests that were asked and not answered, at most; beyond them a request is refused.
pub const REQUESTS_HELD_MAX: usize = 16 * 1024;

/// Who gets an answer. Tokens are the asker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A shard of this process.
    Shard {
        /// The shard, to which the answer goes.
        shard: ShardIndex,
        /// Comes back with the answer.
        token: u64,
    },
    /// The node itself.
    Node {
        /// Comes back with the answer.
        token: u64,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody asks for a decision.
    Asked {
        /// Who gets the answer.
        asker: Asker,
        /// What is asked for.
        request: ControllerRequest,
        /// Fresh random bytes, from which topic ids are made.
        random_id: [u8; 16],
    },
    /// A shard has applied what was published.
    Applied {
        /// The shard.
        shard: ShardIndex,
        /// The last record that it has applied.
        offset: u64,
    },
    /// A disk operation finished.
    Disk {
        /// That of its [`Effect::Disk`].
        token: DiskToken,
        /// How it went.
        result: Result<DiskReply, DiskError>,
    },
    /// The time of [`ControllerShard::next_deadline`] has come.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Execute a disk operation; answer with [`Event::Disk`].
    Disk {
        /// Comes back with the result.
        token: DiskToken,
        /// The operation.
        op: DiskOp,
    },
    /// Tell every shard of the process that these records are true.
    Publish {
        /// That of the last record.
        offset: u64,
        /// The records, in their order.
        records: Arc<Vec<MetadataRecord>>,
        /// What is true with them.
        image: Arc<ClusterImage>,
    },
    /// Give an answer, to a shard after all that was published before.
    Answer {
        /// Who asked.
        asker: Asker,
        /// The answer.
        response: ControllerResponse,
    },
    /// Something went wrong and was survived: an operator wants to know.
    Warn {
        /// One line for people.
        message: String,
    },
    /// Nothing may be acknowledged any more: print the reason and exit with an error.
    Fail {
        /// One line for people.
        reason: String,
    },
}

/// A request that waits for the decisions before it.
#[derive(Clone, Debug)]
struct Asked {
    asker: Asker,
    request: ControllerRequest,
    random_id: [u8; 16],
}

/// A decision that is becoming durable.
#[derive(Clone, Debug)]
struct Commit {
    asker: Asker,
    records: Vec<MetadataRecord>,
    response: ControllerResponse,
    frees_space: bool,
}

/// The disk operation under way, and what is to follow it.
#[derive(Clone, Debug)]
enum Operation {
    /// Space for a decision, then its write.
    Allocate { commit: Commit, write: DiskOp },
    /// The write of a decision.
    Write { commit: Commit },
    /// The log file that follows a snapshot, then the snapshot.
    BeginLog { snapshot: DiskOp },
    /// The snapshot, then the removal of the log before it.
    Snapshot,
    /// The removal of the log before a snapshot.
    RemoveLog,
}

/// An answer that waits until all shards have applied what it says.
#[derive(Clone, Debug)]
struct Waiting {
    offset: u64,
    asker: Asker,
    response: ControllerResponse,
}

/// The controller of a cluster of one node, with the log of its decisions.
#[derive(Clone, Debug)]
pub struct ControllerShard {
    controller: Controller,
    /// None: the one broker is in this process, so the process that it was before is gone.
    sessions: Sessions,
    log: MetadataLog,
    /// What is durable, and therefore true: the process's image, which the shards have, too.
    image: Arc<ClusterImage>,
    queue: VecDeque<Asked>,
    under_way: Option<(DiskToken, Operation)>,
    next_token: u64,
    /// What each shard has applied.
    applied: Vec<u64>,
    /// In order of their offsets.
    waiting: VecDeque<Waiting>,
    /// The last decision that had something to write found space for it.
    had_room: bool,
    /// [`Effect::Fail`] was given.
    has_failed: bool,
}

impl ControllerShard {
    /// A controller with its log as it was opened, and the image that the log makes. Every one of `shards` shards starts
    /// with the same image.
    pub fn new(controller: Controller, log: MetadataLog, image: Arc<ClusterImage>, shards: usize) -> ControllerShard {
        assert_eq!(log.offset(), image.offset(), "an image of another log");
        ControllerShard {
            controller,
            sessions: Sessions::default(),
            log,
            applied: vec![image.offset(); shards],
            image,
            queue: VecDeque::new(),
            under_way: None,
            next_token: 0,
            waiting: VecDeque::new(),
            had_room: true,
            has_failed: false,
        }
    }

    /// What is true: all that was committed.
    pub fn image(&self) -> &ClusterImage {
        &self.image
    }

    /// When [`Event::Tick`] is wanted, in time since the process started. Never: a controller without peers and without
    /// brokers that may go silent waits for nothing but events.
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }

    /// Whether nothing is under way: every request is decided, and every operation has ended.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_none()
    }

    /// Takes one event and does what follows from it.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        match event {
            Event::Asked { asker, request, random_id } => {
                self.ask(now, Asked { asker, request, random_id }, effects);
            }
            Event::Applied { shard, offset } => self.apply(shard, offset),
            Event::Disk { token, result } => self.disk(token, result, effects),
            Event::Tick => {}
        }
        self.decide(now, effects);
        self.answer(effects);
    }

    fn ask(&mut self, now: Now, asked: Asked, effects: &mut Vec<Effect>) {
        if self.queue.len() + self.waiting.len() < REQUESTS_HELD_MAX {
            self.queue.push_back(asked);
            return;
        }
        // What it would have come to, item by item, but nothing is done.
        let Asked { asker, request, random_id } = asked;
        let decision = self.controller.handle(&self.image, &self.sessions, request, now, random_id);
        let why = "the controller has too many requests to answer; try again";
        let response = decision.response.refused(&ApiError::new(ErrorCode::RequestTimedOut, why));
        effects.push(Effect::Answer { asker, response });
    }

    fn apply(&mut self, shard: ShardIndex, offset: u64) {
        let applied = &mut self.applied[shard];
        assert!(*applied <= offset, "shard {shard} goes back from offset {applied} to {offset}");
        assert!(offset <= self.image.offset(), "shard {shard} applies offset {offset}, which is not committed");
        *applied = offset;
    }

    /// Decides requests until a decision has to be written first.
    fn decide(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.under_way.is_none()
            && !self.has_failed
            && let Some(Asked { asker, request, random_id }) = self.queue.pop_front()
        {
            let frees_space = request.frees_space();
            let Decision { records, response } =
                self.controller.handle(&self.image, &self.sessions, request, now, random_id);
            if records.is_empty() {
                self.answer_later(asker, response);
                continue;
            }
            let write = self.log.append(&records);
            let commit = Commit { asker, records, response, frees_space };
            if is_planted(Bug::AnswerBeforeWrite) {
                self.publish(commit.clone(), effects);
            }
            match self.log.allocate() {
                Some(allocate) => self.start(Operation::Allocate { commit, write }, allocate, effects),
                None => self.start(Operation::Write { commit }, write, effects),
            }
        }
    }

    fn start(&mut self, operation: Operation, op: DiskOp, effects: &mut Vec<Effect>) {
        let token = DiskToken(self.next_token);
        self.next_token += 1;
        let before = self.under_way.replace((token, operation));
        assert!(before.is_none(), "one operation at a time: {before:?}");
        effects.push(Effect::Disk { token, op });
    }

    /// A disk operation has ended. A full disk is survived; after any other failure nothing may be acknowledged.
    fn disk(&mut self, token: DiskToken, result: Result<DiskReply, DiskError>, effects: &mut Vec<Effect>) {
        let (started, operation) = self.under_way.take().expect("what ends was under way");
        assert_eq!(token, started, "what ends was under way");
        let has_room = match result {
            Ok(_) => true,
            Err(DiskError::NoSpace) => false,
            Err(error) => {
                self.has_failed = true;
                effects.push(Effect::Fail { reason: format!("the metadata cannot be written: {error}") });
                return;
            }
        };
        match operation {
            Operation::Allocate { commit, write } if has_room || commit.frees_space => {
                if has_room {
                    self.log.allocated();
                }
                self.start(Operation::Write { commit }, write, effects);
            }
            Operation::Write { commit } if has_room => self.committed(commit, effects),
            Operation::Allocate { commit, .. } | Operation::Write { commit } => self.refuse(commit, effects),
            Operation::BeginLog { snapshot } if has_room => self.start(Operation::Snapshot, snapshot, effects),
            Operation::Snapshot if has_room => {
                let remove = self.log.compacted();
                self.start(Operation::RemoveLog, remove, effects);
            }
            // The log goes on as it was.
            Operation::BeginLog { .. } | Operation::Snapshot => {}
            // The old log is only in the way: what is left of it is removed at the next start.
            Operation::RemoveLog => {}
        }
    }

    /// A decision is durable.
    fn committed(&mut self, commit: Commit, effects: &mut Vec<Effect>) {
        self.had_room = true;
        self.log.committed();
        if !is_planted(Bug::AnswerBeforeWrite) {
            self.publish(commit, effects);
        }
        assert_eq!(self.image.offset(), self.log.offset(), "the image is what the log makes");
        if self.log.wants_snapshot() {
            let [begin, snapshot] = self.log.compact(&self.image);
            self.start(Operation::BeginLog { snapshot }, begin, effects);
        }
    }

    /// What was decided becomes true, then known to the shards.
    fn publish(&mut self, commit: Commit, effects: &mut Vec<Effect>) {
        let Commit { asker, records, response, .. } = commit;
        let image = Arc::make_mut(&mut self.image);
        for record in &records {
            image.replay(record);
        }
        let (offset, image) = (image.offset(), Arc::clone(&self.image));
        effects.push(Effect::Publish { offset, records: Arc::new(records), image });
        self.answer_later(asker, response);
    }

    /// There is no room for what was decided.
    fn refuse(&mut self, commit: Commit, effects: &mut Vec<Effect>) {
        // Clients ask again and again: one line until there is room.
        if self.had_room {
            let message = "no space is left for the metadata: decisions are refused".to_owned();
            effects.push(Effect::Warn { message });
        }
        self.had_room = false;
        self.answer_later(commit.asker, commit.response.refused_for_lack_of_space());
    }

    /// The answer is to be given when every shard knows what the controller knows now.
    fn answer_later(&mut self, asker: Asker, response: ControllerResponse) {
        let offset = self.image.offset();
        assert!(self.waiting.back().is_none_or(|last| last.offset <= offset), "answers wait in order of their offsets");
        self.waiting.push_back(Waiting { offset, asker, response });
    }

    /// Gives the answers whose records every shard has applied.
    fn answer(&mut self, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        let applied = self.applied.iter().copied().min().unwrap_or(u64::MAX);
        while self.waiting.front().is_some_and(|first| first.offset <= applied)
            && let Some(Waiting { asker, response, .. }) = self.waiting.pop_front()
        {
            effects.push(Effect::Answer { asker, response });
        }
    }
}
