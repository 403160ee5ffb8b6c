//! What a turn has for other threads: messages to shards and requests to the controller, gathered and handed over together,
//! so that a turn wakes each of them once.

use std::mem;
use std::net::TcpStream;

use bytes::Bytes;
use millstream_replication::ControllerRequest;

use super::Inbound;
use super::controller::{ControllerHandle, ToController};
use super::executor::ShardHandle;
use crate::shard::{Event, Message, ShardIndex};

/// Gathers what leaves a shard. Empty between turns.
pub struct Outbox {
    shard: ShardIndex,
    shards: Vec<ShardHandle>,
    controller: ControllerHandle,
    /// By the shard they are for.
    messages: Vec<Vec<Inbound>>,
    requests: Vec<(u64, ControllerRequest)>,
}

impl Outbox {
    /// An empty box of this shard.
    pub fn new(shard: ShardIndex, shards: Vec<ShardHandle>, controller: ControllerHandle) -> Outbox {
        let messages = shards.iter().map(|_| Vec::new()).collect();
        Outbox { shard, shards, controller, messages, requests: Vec::new() }
    }

    /// Adds a message to a shard.
    pub fn message(&mut self, to: ShardIndex, message: Message) {
        self.messages[to].push(Inbound::Event(Event::Message(message)));
    }

    /// Gives a connection of another node to the shard that it means.
    pub fn adopt(&mut self, to: ShardIndex, stream: TcpStream, hello: Bytes) {
        self.messages[to].push(Inbound::Adopt { stream, hello });
    }

    /// Adds a request to the controller.
    pub fn request(&mut self, token: u64, request: ControllerRequest) {
        self.requests.push((token, request));
    }

    /// Tells the controller at once that the shard has applied the metadata up to this offset.
    pub fn applied(&self, offset: u64) {
        self.tell_controller(ToController::Applied { shard: self.shard, offset });
    }

    /// Hands everything over.
    pub fn send(&mut self) {
        for (shard, messages) in self.shards.iter().zip(&mut self.messages) {
            shard.mailbox.push_all(messages);
        }
        if !self.requests.is_empty() {
            let requests = mem::take(&mut self.requests);
            self.tell_controller(ToController::Requests { shard: self.shard, requests });
        }
    }

    fn tell_controller(&self, message: ToController) {
        // The controller's thread ends only with the process.
        let _ = self.controller.send(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock::Clock;
    use crate::driver::controller;
    use millstream_replication::ControllerResponse;

    #[test]
    fn what_a_turn_gathers_is_handed_over_once() {
        let shards = [ShardHandle::default(), ShardHandle::default()];
        let (controller, told) = controller::prepare(Clock::start(), Vec::new(), 1).expect("nothing to listen on");
        let mut outbox = Outbox::new(1, shards.to_vec(), controller);
        let response = || ControllerResponse::RegisterBroker(Ok(9));
        outbox.message(0, Message::Controller { token: 1, response: response() });
        outbox.message(0, Message::Controller { token: 2, response: response() });
        let request = || ControllerRequest::AllocateProducerIds { node_id: 1, epoch: 9 };
        outbox.request(3, request());
        outbox.request(4, request());
        assert!(shards[0].mailbox.is_empty() && told.next().is_none(), "the turn goes on");
        outbox.send();
        outbox.send();
        assert_eq!((shards[0].mailbox.len(), shards[1].mailbox.len()), (2, 0));
        let requests = match told.next().expect("told") {
            ToController::Requests { shard: 1, requests } => requests,
            other => panic!("{other:?}"),
        };
        assert_eq!(requests, [(3, request()), (4, request())]);
        assert!(told.next().is_none());
    }
}
