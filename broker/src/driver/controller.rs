//! Runs the cluster's controller on a thread of its own: decides, makes the decision durable, tells every shard, and
//! answers when all of them have applied it.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use millstream_replication::log::MetadataLog;
use millstream_replication::{ClusterImage, Controller, ControllerRequest, ControllerResponse, MetadataRecord};
use millstream_storage::{DiskError, DiskOp};

use super::Inbound;
use super::clock::Clock;
use super::executor::ShardHandle;
use super::{files, sys};
use crate::shard::{Event, Message, ShardIndex};

/// What is said to the controller.
#[derive(Debug)]
pub enum ToController {
    /// A shard's requests of one turn, each with the token its answer is to carry.
    Requests {
        /// Who asks, and gets the answers.
        shard: ShardIndex,
        /// In the order in which they are to be decided.
        requests: Vec<(u64, ControllerRequest)>,
    },
    /// A shard has applied the metadata up to and including this offset.
    Applied {
        /// Which shard.
        shard: ShardIndex,
        /// Of the last record that it has applied.
        offset: u64,
    },
    /// A request of the process itself.
    Ask {
        /// Decided like a shard's.
        request: ControllerRequest,
        /// Hears the answer when every shard has applied it.
        reply: Sender<ControllerResponse>,
    },
}

/// Who gets an answer.
enum Asker {
    Shard { shard: ShardIndex, token: u64 },
    Process(Sender<ControllerResponse>),
}

/// An answer that waits until all shards have applied what it says.
struct Waiting {
    offset: u64,
    asker: Asker,
    response: ControllerResponse,
}

/// What the controller's thread owns.
pub struct ControllerThread {
    /// The data directory.
    pub root: PathBuf,
    /// The process's clock.
    pub clock: Clock,
    /// Decides.
    pub controller: Controller,
    /// Where decisions become durable.
    pub log: MetadataLog,
    /// What is true; the shards started with a copy of it.
    pub image: ClusterImage,
    /// All shards of the process.
    pub shards: Vec<ShardHandle>,
}

/// Starts the thread; it lives as long as the process.
pub fn start(thread: ControllerThread, inbox: Receiver<ToController>) -> io::Result<()> {
    let applied = vec![thread.image.offset(); thread.shards.len()];
    let mut running = Running { applied, waiting: VecDeque::new(), had_room: true, owned: thread };
    std::thread::Builder::new().name("controller".to_owned()).spawn(move || running.run(&inbox)).map(drop)
}

struct Running {
    owned: ControllerThread,
    /// What each shard has applied.
    applied: Vec<u64>,
    /// In order of their offsets. Bounded by the requests that the shards have under way.
    waiting: VecDeque<Waiting>,
    /// The last decision that had something to write found space for it.
    had_room: bool,
}

impl Running {
    fn run(&mut self, inbox: &Receiver<ToController>) {
        // It ends when every sender is gone, which is when the process ends.
        for message in inbox {
            match message {
                ToController::Requests { shard, requests } => {
                    for (token, request) in requests {
                        self.decide(Asker::Shard { shard, token }, request);
                    }
                }
                ToController::Ask { request, reply } => self.decide(Asker::Process(reply), request),
                ToController::Applied { shard, offset } => self.applied[shard] = offset,
            }
            self.answer();
        }
    }

    fn decide(&mut self, asker: Asker, request: ControllerRequest) {
        let random = sys::random();
        let frees_space = request.frees_space();
        let owned = &mut self.owned;
        let decision = owned.controller.handle(&owned.image, request, owned.clock.now(), random);
        let mut response = decision.response;
        if !decision.records.is_empty() {
            let has_room = self.commit(decision.records, frees_space).is_ok();
            if !has_room {
                response = response.refused_for_lack_of_space();
                // Clients ask again and again: one line until there is room.
                if self.had_room {
                    super::warn("controller", "no space is left for the metadata: decisions are refused");
                }
            }
            self.had_room = has_room;
        }
        let offset = self.owned.image.offset();
        self.waiting.push_back(Waiting { offset, asker, response });
    }

    /// Makes records durable, then true, then known to the shards. An error: there is no room for them.
    fn commit(&mut self, records: Vec<MetadataRecord>, frees_space: bool) -> Result<(), DiskError> {
        let owned = &mut self.owned;
        let write = owned.log.append(&records);
        if let Some(allocate) = owned.log.allocate() {
            match owned.execute(&allocate) {
                Ok(()) => owned.log.allocated(),
                Err(_) if frees_space => {}
                Err(no_space) => return Err(no_space),
            }
        }
        owned.execute(&write)?;
        owned.log.committed();
        for record in &records {
            owned.image.replay(record);
        }
        let offset = owned.image.offset();
        let records = Arc::new(records);
        for shard in &owned.shards {
            let message = Message::Metadata { offset, records: Arc::clone(&records) };
            shard.mailbox.push(Inbound::Event(Event::Message(message)));
        }
        if owned.log.wants_snapshot() {
            owned.compact();
        }
        Ok(())
    }

    /// Gives the answers whose records every shard has applied.
    fn answer(&mut self) {
        let applied = self.applied.iter().copied().min().unwrap_or(u64::MAX);
        while self.waiting.front().is_some_and(|first| first.offset <= applied) {
            let Some(Waiting { asker, response, .. }) = self.waiting.pop_front() else { return };
            match asker {
                Asker::Shard { shard, token } => {
                    let message = Message::Controller { token, response };
                    self.owned.shards[shard].mailbox.push(Inbound::Event(Event::Message(message)));
                }
                // Whoever asked may have given up.
                Asker::Process(reply) => drop(reply.send(response)),
            }
        }
    }
}

impl ControllerThread {
    /// Executes one operation. A full disk is survived; after any other failure nothing may be acknowledged.
    fn execute(&self, operation: &DiskOp) -> Result<(), DiskError> {
        match files::execute(&self.root, operation) {
            Ok(_) => Ok(()),
            Err(DiskError::NoSpace) => Err(DiskError::NoSpace),
            Err(error) => {
                super::log("ERROR", "controller", &format!("the metadata cannot be written: {error}; exiting"));
                sys::exit_at_once(1);
            }
        }
    }

    /// Replaces the log by a snapshot; when the disk is full the log just goes on.
    fn compact(&mut self) {
        let operations = self.log.compact(&self.image);
        if operations.iter().all(|operation| self.execute(operation).is_ok()) {
            let last = self.log.compacted();
            // The old log is only in the way; it is removed at the next start if not now.
            let _ = self.execute(&last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::*;
    use millstream_replication::config::Properties;
    use std::sync::mpsc::channel;

    fn drain(shard: &ShardHandle) -> Vec<Message> {
        let mut inbound = Vec::new();
        shard.mailbox.drain(&mut inbound);
        inbound
            .into_iter()
            .map(|item| match item {
                Inbound::Event(Event::Message(message)) => message,
                other => panic!("not a message: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn an_answer_waits_until_every_shard_has_applied_it() {
        let root = TestDirectory::new("controller");
        let mut io = |operation: DiskOp| files::execute(&root.0, &operation);
        let (log, image) = MetadataLog::open(&mut io, 1, [7; 32]).expect("a new log");
        let shards = vec![ShardHandle::default(), ShardHandle::default()];
        let first = image.offset();
        let thread = ControllerThread {
            root: root.0.clone(),
            clock: Clock::start(),
            controller: Controller::new(Properties::new()),
            log,
            image,
            shards: shards.clone(),
        };
        let mut running = Running { applied: vec![first; 2], waiting: VecDeque::new(), had_room: true, owned: thread };
        let (sender, inbox) = channel();
        let requests = vec![(5, ControllerRequest::AllocateProducerIds)];
        sender.send(ToController::Requests { shard: 1, requests }).expect("room");
        sender.send(ToController::Applied { shard: 0, offset: first + 1 }).expect("room");
        drop(sender);
        running.run(&inbox);
        for shard in &shards {
            let messages = drain(shard);
            assert!(matches!(&messages[..], [Message::Metadata { offset, records }]
                if *offset == first + 1 && records.len() == 1));
        }
        let (sender, inbox) = channel();
        sender.send(ToController::Applied { shard: 1, offset: first + 1 }).expect("room");
        drop(sender);
        running.run(&inbox);
        assert!(drain(&shards[0]).is_empty());
        assert!(matches!(
            &drain(&shards[1])[..],
            [Message::Controller { token: 5, response: ControllerResponse::AllocateProducerIds(Ok(_)) }]
        ));
        // It was durable before it was known.
        let (_, image) = MetadataLog::open(&mut io, 1, [8; 32]).expect("the same log");
        assert_eq!(image.offset(), first + 1);
    }
}
