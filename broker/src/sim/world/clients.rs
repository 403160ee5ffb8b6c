//! Clients and their connections: what they send arrives late, what nodes send them too.

use bytes::Bytes;

use super::{SimClient, World};
use crate::shard::{ConnectionId, Event as ShardEvent, SendPart};
use crate::sim::clients::{Act, Reaction};
use crate::sim::damage::perhaps_flipped;
use crate::sim::network::Sent;
use crate::sim::schedule::fingerprint;
use crate::sim::timeline::NodeEvent;

/// How many times longer clients of several nodes rest between two acts.
const SLOWER_TIMES: u64 = 3;
/// How long a client of several nodes waits for an answer, at least...
const PATIENCE_US: u64 = 700_000;
/// ...and one in three of them, which hears what a controller that decides nothing has to say.
const LONG_PATIENCE_US: u64 = 7_000_000;

impl World {
    /// Among several nodes clients are slower: more time passes.
    pub fn client_pause_us(&mut self, number: usize) -> u64 {
        let pause_us = self.clients[number].client.pause_us(&mut self.timeline.random);
        pause_us * if self.several.is_some() { SLOWER_TIMES } else { 1 }
    }

    pub fn client_acts(&mut self, number: usize) -> Result<(), String> {
        if self.clients[number].client.is_hostile()
            && self.timeline.random.one_in(4)
            && let Some(connection) = self.clients[number].connection
        {
            self.disconnect(connection);
        }
        let now_us = self.timeline.now_us();
        if !self.was_slow {
            let client = &self.clients[number].client;
            self.answers.check(number, now_us).map_err(|error| format!("{client:?} {error}"))?;
        }
        if self.is_tired_of_waiting(number) {
            let connection = self.clients[number].connection.expect("it has asked by one");
            self.disconnect(connection);
            return Ok(());
        }
        if self.several.is_none() && !self.nodes[self.clients[number].node].is_up() {
            return Ok(());
        }
        let Some(connection) = self.connection_of(number) else { return Ok(()) };
        let World { timeline, nodes, network, clients, witness, answers, .. } = self;
        let SimClient { client, node, asked_us, sent_us, .. } = &mut clients[number];
        witness.knowledge.group.now_us = now_us;
        let frame = match client.act(*node, &mut timeline.random, &mut witness.knowledge) {
            Act::Nothing => return Ok(()),
            Act::Sends(frame) => frame,
            Act::Leaves => {
                self.leave(number, connection);
                return Ok(());
            }
        };
        if client.waits_impatiently() {
            answers.waits(number, now_us);
        }
        *sent_us = now_us;
        if client.has_asked() {
            asked_us.get_or_insert(now_us);
        }
        let random = &mut timeline.random;
        let delay = if random.one_in(30) { random.below(10_000) } else { random.between(20, 300) };
        let at = network.request_arrives_us(connection, now_us + delay);
        timeline.line(format!("client {number} sends {} bytes", frame.len()));
        nodes[*node].at(at, NodeEvent::Frame { connection, frame }, timeline);
        Ok(())
    }

    /// The connection of a client, a new one if it has none; none if its node takes no connections.
    fn connection_of(&mut self, number: usize) -> Option<ConnectionId> {
        let World { timeline, nodes, network, clients, witness, .. } = self;
        let client = &mut clients[number];
        if client.connection.is_none()
            && let Some(node) = client.client.chosen_node(&mut timeline.random)
        {
            client.node = node;
            if !nodes[node].is_listening() {
                client.client.disconnected(&mut witness.knowledge);
            }
        }
        let node = &mut nodes[client.node];
        if client.connection.is_some() || !node.is_listening() {
            return client.connection;
        }
        let connection = network.next_id();
        let shard = timeline.random.index(node.shards());
        network.connect(connection, number, client.node, shard);
        client.connection = Some(connection);
        let peer = ([127, 0, 0, 1], 1_000).into();
        node.give(shard, ShardEvent::Connected { connection, listener: 0, peer }, timeline);
        Some(connection)
    }

    /// A client that has waited for an answer for long gives its connection up, where there are other nodes to ask.
    fn is_tired_of_waiting(&self, number: usize) -> bool {
        let SimClient { asked_us, .. } = self.clients[number];
        let waits_us = asked_us.map_or(0, |since| self.timeline.now_us() - since);
        self.several.is_some() && waits_us > if number.is_multiple_of(3) { LONG_PATIENCE_US } else { PATIENCE_US }
    }

    /// A client goes to another node.
    fn leave(&mut self, number: usize, connection: ConnectionId) {
        let ends = self.network.disconnect(connection).expect("it is connected");
        self.clients[number].connection = None;
        self.clients[number].client.left(&mut self.witness.knowledge);
        self.nodes[ends.node].give(ends.shard, ShardEvent::Disconnected { connection }, &mut self.timeline);
    }

    pub fn disconnect(&mut self, connection: ConnectionId) {
        let Some(ends) = self.network.disconnect(connection) else { return };
        let number = ends.client;
        self.timeline.line(format!("client {number} is disconnected"));
        self.clients[number].connection = None;
        self.clients[number].asked_us = None;
        self.clients[number].client.disconnected(&mut self.witness.knowledge);
        self.answers.ends(number);
        self.nodes[ends.node].give(ends.shard, ShardEvent::Disconnected { connection }, &mut self.timeline);
    }

    /// The next part of what a shard sends has left, and is there.
    pub fn sent(&mut self, connection: ConnectionId) -> Result<(), String> {
        let Some(sent) = self.network.sent(connection) else { return Ok(()) };
        let Sent { client: number, node, shard, parts, is_drained, is_closing } = sent;
        let bytes = self.read_parts(node, parts)?;
        let World { timeline, nodes, clients, witness, answers, .. } = self;
        if is_drained {
            nodes[node].give(shard, ShardEvent::Drained { connection }, timeline);
        } else {
            let delay = timeline.random.between(20, 400);
            nodes[node].after(delay, NodeEvent::Sent { connection }, timeline);
        }
        let print = fingerprint([&bytes[..]]);
        timeline.line(format!("client {number} gets {} bytes ({print:016x})", bytes.len()));
        witness.knowledge.group.now_us = timeline.now_us();
        let SimClient { client, asked_us, .. } = &mut clients[number];
        let Reaction { findings, reconnect, .. } = client.receive(&bytes, &witness.knowledge)?;
        if !client.waits_impatiently() {
            answers.ends(number);
        }
        // Something was answered, or nothing is left to be.
        *asked_us = client.has_asked().then(|| timeline.now_us());
        for finding in findings {
            if let Some(several) = &mut self.several {
                several.learns(timeline.now_us(), &nodes[node], &finding)?;
                if several.is_outdated(&nodes[node], &finding) {
                    continue;
                }
            }
            witness.learn(finding)?;
        }
        if reconnect || (is_closing && is_drained) {
            self.disconnect(connection);
        }
        Ok(())
    }

    /// The bytes that a node sends.
    pub fn read_parts(&mut self, node: usize, parts: Vec<SendPart>) -> Result<Vec<u8>, String> {
        let disk = &self.nodes[node].disk;
        let mut bytes: Vec<u8> = Vec::new();
        for part in parts {
            let part: Bytes = match part {
                SendPart::Memory(part) => part,
                SendPart::File { path, position, bytes: length } => {
                    let part = disk.peek(&path, position, length);
                    let part = part.ok_or_else(|| format!("{path} has no {length} bytes at {position} to send"))?;
                    perhaps_flipped(part, disk.faults.flip_read_one_in, &mut self.timeline.random)
                }
            };
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }
}
