//! Requests that another node decides: those that wait for one that can be reached, and those that were sent to one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ControllerRequest;

use super::Asked;
use crate::peer::links::{Effect, Links};
use crate::peer::wire;

/// How long a request waits for a decision; then whoever asked is told to try again.
pub const REQUEST_MAX: Duration = Duration::from_secs(5);
/// How long nothing is sent after a node has said that it does not decide: who does may not be known yet.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What goes to the other node: the random bytes that a topic's identity is made from, and the request.
fn encode(asked: &Asked) -> Bytes {
    [&asked.random_id[..], &wire::encode_request(&asked.request)].concat().into()
}

/// What has come from another node.
pub fn decode(bytes: &[u8]) -> Result<([u8; 16], ControllerRequest), String> {
    let (random_id, request) = bytes.split_first_chunk().ok_or("it is shorter than the random bytes before it")?;
    Ok((*random_id, wire::decode_request(request)?))
}

/// Requests for another node.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// Not sent yet.
    outbox: VecDeque<Asked>,
    /// By the numbers under which they were sent, with the node.
    sent: BTreeMap<u64, (i32, Asked)>,
    next_id: u64,
    /// Nothing is sent before.
    rests_until: Option<Duration>,
}

impl Forwarding {
    /// Requests that are not answered.
    pub fn len(&self) -> usize {
        self.outbox.len() + self.sent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, asked: Asked) {
        self.outbox.push_back(asked);
    }

    /// All that nobody was sent: it is decided here.
    pub fn take_all(&mut self) -> VecDeque<Asked> {
        std::mem::take(&mut self.outbox)
    }

    /// The rest is over, if it is.
    pub fn rest(&mut self, now: Duration) {
        self.rests_until = self.rests_until.filter(|until| now < *until);
    }

    /// Sends what waits to a node.
    pub fn send(&mut self, now: Duration, node_id: i32, links: &mut Links, effects: &mut Vec<Effect>) {
        if self.rests_until.is_some() {
            return;
        }
        while let Some(asked) = self.outbox.pop_front() {
            let id = self.next_id;
            if !links.request(node_id, id, encode(&asked), effects) {
                self.outbox.push_front(asked);
                self.rests_until = Some(now + AGAIN_AFTER);
                return;
            }
            self.next_id += 1;
            self.sent.insert(id, (node_id, asked));
        }
    }

    /// An answer has come.
    pub fn answered(&mut self, id: u64) -> Option<Asked> {
        self.sent.remove(&id).map(|(_, asked)| asked)
    }

    /// A node says that it does not decide: the request waits for another one.
    pub fn sent_away(&mut self, now: Duration, id: u64) {
        if let Some((_, asked)) = self.sent.remove(&id) {
            self.outbox.push_back(asked);
            self.rests_until = Some(now + AGAIN_AFTER);
        }
    }

    /// This node decides: what others were asked waits for it, for they do not any more. It may have been decided.
    pub fn turn_to(&mut self, node_id: i32) {
        let others: Vec<u64> = self.sent.iter().filter(|(_, (node, _))| *node != node_id).map(|(id, _)| *id).collect();
        for id in others {
            let asked = self.answered(id);
            self.outbox.extend(asked);
        }
    }

    /// The connection to a node is lost: what it was asked waits for another one, or for it. It may have been decided.
    pub fn lost(&mut self, now: Duration, node_id: i32) {
        let of_node: Vec<u64> = self.sent.iter().filter(|(_, (node, _))| *node == node_id).map(|(id, _)| *id).collect();
        of_node.into_iter().for_each(|id| self.sent_away(now, id));
    }

    /// What nobody has decided in time.
    pub fn expired(&mut self, now: Duration) -> Vec<Asked> {
        let mut late: Vec<Asked> = Vec::new();
        let ids: Vec<u64> = self.sent.iter().filter(|(_, (_, asked))| asked.until <= now).map(|(id, _)| *id).collect();
        late.extend(ids.into_iter().filter_map(|id| self.answered(id)));
        for asked in self.take_all() {
            if asked.until <= now { late.push(asked) } else { self.outbox.push_back(asked) }
        }
        late
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        let rest = self.rests_until.filter(|_| !self.outbox.is_empty());
        let waiting =
            self.outbox.iter().chain(self.sent.values().map(|(_, asked)| asked)).map(|asked| asked.until).min();
        [rest, waiting].into_iter().flatten().min()
    }
}
