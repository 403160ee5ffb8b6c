//! Runs the controller on a thread of its own: brings it what it is asked, and does what it says.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};

use millstream_replication::{ControllerRequest, ControllerResponse};
use millstream_storage::{DiskError, DiskOp};

use super::Inbound;
use super::clock::Clock;
use super::executor::ShardHandle;
use super::{files, sys};
use crate::controller::{Asker, ControllerShard, Effect, Event};
use crate::shard::{self, Message, ShardIndex};

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
    /// The shards have shut down. The thread ends.
    End {
        /// The last operation on the disk, after all that the controller has under way.
        last: DiskOp,
        /// Hears how it ended.
        reply: Sender<Result<(), DiskError>>,
    },
}

/// What the controller's thread owns.
pub struct ControllerThread {
    /// The data directory.
    pub root: PathBuf,
    /// The process's clock.
    pub clock: Clock,
    /// Decides.
    pub controller: ControllerShard,
    /// All shards of the process.
    pub shards: Vec<ShardHandle>,
}

/// Starts the thread; it lives as long as the process.
pub fn start(thread: ControllerThread, inbox: Receiver<ToController>) -> io::Result<()> {
    let running = Running { owned: thread, replies: BTreeMap::new(), next_reply: 0 };
    std::thread::Builder::new().name("controller".to_owned()).spawn(move || running.run(&inbox)).map(drop)
}

struct Running {
    owned: ControllerThread,
    /// Where the answers to the process itself go, by their tokens.
    replies: BTreeMap<u64, Sender<ControllerResponse>>,
    next_reply: u64,
}

impl Running {
    /// Ends when every sender is gone, which is when the process ends.
    fn run(mut self, inbox: &Receiver<ToController>) {
        loop {
            let message = match self.owned.controller.next_deadline() {
                None => inbox.recv().map_err(RecvTimeoutError::from),
                Some(deadline) => inbox.recv_timeout(deadline.saturating_sub(self.owned.clock.elapsed())),
            };
            match message {
                Ok(ToController::Requests { shard, requests }) => {
                    for (token, request) in requests {
                        self.ask(Asker::Shard { shard, token }, request);
                    }
                }
                Ok(ToController::Ask { request, reply }) => {
                    let token = self.next_reply;
                    self.next_reply += 1;
                    self.replies.insert(token, reply);
                    self.ask(Asker::Node { token }, request);
                }
                Ok(ToController::Applied { shard, offset }) => self.happened(Event::Applied { shard, offset }),
                Ok(ToController::End { last, reply }) => {
                    let result = files::execute(&self.owned.root, &last).map(drop);
                    // The process may not have waited for it.
                    let _ = reply.send(result);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.happened(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ask(&mut self, asker: Asker, request: ControllerRequest) {
        self.happened(Event::Asked { asker, request, random_id: sys::random() });
    }

    /// Does all that follows from an event. Disk operations block this thread, which has nothing else to do.
    fn happened(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            self.owned.controller.handle(self.owned.clock.now(), event, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Disk { token, op } => {
                        events.push_back(Event::Disk { token, result: files::execute(&self.owned.root, &op) });
                    }
                    Effect::Publish { offset, records, image } => {
                        for shard in &self.owned.shards {
                            let (records, image) = (records.clone(), image.clone());
                            tell(shard, Message::Metadata { offset, records, image });
                        }
                    }
                    Effect::Answer { asker: Asker::Shard { shard, token }, response } => {
                        tell(&self.owned.shards[shard], Message::Controller { token, response });
                    }
                    Effect::Answer { asker: Asker::Node { token }, response } => {
                        // Whoever asked may have given up.
                        let _ = self.replies.remove(&token).map(|reply| reply.send(response));
                    }
                    Effect::Warn { message } => super::warn("controller", &message),
                    Effect::Fail { reason } => {
                        super::log("ERROR", "controller", &format!("{reason}; exiting"));
                        sys::exit_at_once(1);
                    }
                }
            }
        }
    }
}

fn tell(shard: &ShardHandle, message: Message) {
    shard.mailbox.push(Inbound::Event(shard::Event::Message(message)));
}
