//! A world: nodes as they are shipped, clients that speak the wire protocol, a network that delays and cuts, on one event
//! heap. A node goes down at any event, and starts again with another number of shards. Everything follows from the seed.
//! So far there is one node.

use std::sync::Arc;

use bytes::Bytes;
use millstream_replication::ControllerResponse;
use millstream_replication::controller::HeartbeatReply;
use millstream_storage::random::Random;

use super::checkers::AnswersComeInTime;
use super::clients::{Client, Reaction};
use super::damage::{Verdicts, perhaps_flipped, start_on_damaged_copies};
use super::network::{Network, Sent};
use super::node::{Place, SimNode};
use super::scenario::{Scenario, set_clock};
use super::schedule::fingerprint;
use super::snapshots::Snapshots;
use super::timeline::{Event, Fault, NodeEvent, Timeline};
use super::witness::Witness;
use crate::controller::{Asker, Effect as ControllerEffect, Event as ControllerEvent};
use crate::shard::{ConnectionId, Effect, Event as ShardEvent, Message, SendPart};
use millstream_storage::seeds::{self, Options};

/// How long everything may take to come to an end when nothing goes wrong any more.
const ENDING_US_MAX: u64 = 20_000_000;

/// What a simulation that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Fingerprint of everything that happened.
    pub trace: u64,
    /// Records acknowledged.
    pub acknowledged: usize,
    /// Records that consumers saw.
    pub seen: usize,
    /// Times that a member of the group was told what to read, and commits of members that were acknowledged.
    pub group: (usize, usize),
    /// Times a node went down, gracefully or not.
    pub stops: u64,
    /// Starts after which recovery said that the last run was shut down cleanly.
    pub clean_shutdowns: u64,
    /// What starts on damaged disks came to.
    pub verdicts: Verdicts,
    /// What became of the snapshots of the metadata log.
    pub snapshots: Snapshots,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

/// A client, and where it is.
struct SimClient {
    client: Client,
    /// The node that it talks to.
    node: usize,
    connection: Option<ConnectionId>,
}

pub struct World {
    timeline: Timeline,
    nodes: Vec<SimNode>,
    network: Network,
    clients: Vec<SimClient>,
    witness: Witness,
    answers: AnswersComeInTime,
    /// A disk was slow for a while: answers may take longer.
    was_slow: bool,
    scenario: Scenario,
    verdicts: Verdicts,
}

impl World {
    /// Runs a seed to its end.
    pub fn run(options: Options) -> Result<Outcome, String> {
        let mut world = World::new(options);
        world.go()?;
        let mut snapshots = Snapshots::default();
        world.nodes.iter().for_each(|node| snapshots.add_all(node.snapshots));
        Ok(Outcome {
            trace: world.timeline.trace.finish(),
            acknowledged: world.witness.acknowledged(),
            seen: world.witness.seen(),
            group: world.witness.knowledge.group.counts(),
            stops: world.nodes.iter().map(|node| node.stops).sum(),
            clean_shutdowns: world.nodes.iter().map(|node| node.clean_shutdowns).sum(),
            verdicts: world.verdicts,
            snapshots,
        })
    }

    fn new(options: Options) -> World {
        let mut random = Random::new(options.seed);
        let (scenario, disk, clients) = Scenario::draw(&mut random);
        World {
            timeline: Timeline::new(random, options.is_verbose),
            nodes: vec![SimNode::new(0, disk)],
            network: Network::default(),
            witness: Witness::new(&scenario, &clients),
            answers: AnswersComeInTime::new(clients.len()),
            clients: clients.into_iter().map(|client| SimClient { client, node: 0, connection: None }).collect(),
            was_slow: false,
            scenario,
            verdicts: Verdicts::default(),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.timeline.after(0, Event::Start { node });
        }
        for client in 0..self.clients.len() {
            self.timeline.after(1_000 + client as u64, Event::Client { client });
        }
        self.scenario.schedule(&mut self.timeline);
        while let Some(event) = self.next() {
            self.happen(event).map_err(|error| format!("at {} us: {error}", self.timeline.now_us()))?;
            let now_us = self.timeline.now_us();
            if !self.is_ending() && now_us >= self.scenario.end_us {
                // From here on nothing goes wrong, so everything under way must come to its end.
                self.witness.knowledge.is_ending = true;
                self.nodes.iter_mut().for_each(|node| node.disk.faults = Default::default());
            }
            let waiting = self.clients.iter().find(|each| each.client.is_waiting());
            if self.is_ending() && waiting.is_none() && self.nodes.iter().all(SimNode::is_up) {
                break;
            }
            if now_us >= self.scenario.end_us + ENDING_US_MAX {
                let waiting = waiting.map(|each| &each.client);
                return Err(format!("a client waits for an answer for ever: {waiting:?}"));
            }
        }
        for node in 0..self.nodes.len() {
            self.go_down(node, true);
        }
        (0..self.nodes.len()).try_for_each(|node| self.start(node))
    }

    fn is_ending(&self) -> bool {
        self.witness.knowledge.is_ending
    }

    /// Goes on to the next event. What was meant for a process that is gone does not happen; nor does a fault when all is to
    /// come to its end.
    fn next(&mut self) -> Option<Event> {
        let is_ending = self.is_ending();
        let World { timeline, nodes, .. } = self;
        timeline.schedule.next_that(|event| match event {
            Event::Node { node, incarnation, .. } => nodes[*node].is_running(*incarnation),
            Event::Fault(_) => !is_ending,
            Event::Start { .. } | Event::Client { .. } => true,
        })
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Node { node, event, .. } => self.node_event(node, event),
            Event::Start { node } => self.start(node),
            Event::Client { client } => {
                self.client_acts(client)?;
                let pause = self.clients[client].client.pause_us(&mut self.timeline.random);
                self.timeline.after(pause, Event::Client { client });
                Ok(())
            }
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let World { scenario, nodes, timeline, .. } = self;
        match fault {
            Fault::Cut => {
                let connected: Vec<ConnectionId> = self.clients.iter().filter_map(|each| each.connection).collect();
                if !connected.is_empty() {
                    let connection = connected[timeline.random.index(connected.len())];
                    self.disconnect(connection);
                }
            }
            Fault::Capacity { node } => scenario.change_capacity(&mut nodes[node], timeline),
            Fault::Slow { node } => {
                scenario.turn_slow(&mut nodes[node], timeline);
                self.was_slow = true;
            }
            Fault::Clock { node } => set_clock(&mut nodes[node], timeline),
            Fault::Crash { node } => {
                if nodes[node].is_up() {
                    let is_power = timeline.random.coin();
                    self.go_down(node, is_power);
                    self.restart_soon(node);
                }
            }
            Fault::Stop { node } => {
                if nodes[node].is_listening() {
                    self.stop(node)?;
                }
            }
        }
        Ok(())
    }

    /// Something happens to a running node.
    fn node_event(&mut self, node: usize, event: NodeEvent) -> Result<(), String> {
        let World { nodes, network, timeline, .. } = self;
        let at = &mut nodes[node];
        match event {
            NodeEvent::Disk { shard, token, operation } => at.completed(shard, token, operation, timeline),
            NodeEvent::Prefetch { shard, token, path } => at.prefetched(shard, token, &path, timeline),
            NodeEvent::ToShard { shard, message } => at.give(shard, ShardEvent::Message(message), timeline),
            NodeEvent::FreeSpace => at.tell_free_space(timeline),
            NodeEvent::Frame { connection, frame } => {
                if let Some((shard, frame)) = network.arrived(connection, frame) {
                    at.give(shard, ShardEvent::Request { connection, frame }, timeline);
                }
            }
            NodeEvent::Sent { connection } => return self.sent(connection),
            NodeEvent::Timer { shard } => {
                at.timer(shard);
                return self.turn(node, shard);
            }
            NodeEvent::Turn { shard } => return self.turn(node, shard),
            NodeEvent::ControllerDisk { token, operation } => {
                let effects = at.completed_for_controller(token, operation, timeline);
                self.execute_for_controller(node, effects)?;
                self.nodes[node].mark_clean_stop(&mut self.timeline);
            }
            NodeEvent::Marked { operation } => {
                at.marked(operation, timeline);
                // Nothing is to be lost any more, not even by a loss of power.
                let is_power = timeline.random.coin();
                self.go_down(node, is_power);
                self.restart_soon(node);
            }
            NodeEvent::ToController { asker, request } => {
                let random_id = timeline.random.bytes();
                let effects = at.controller(ControllerEvent::Asked { asker, request, random_id }, timeline);
                return self.execute_for_controller(node, effects);
            }
            NodeEvent::ControllerTimer => {
                at.controller_timer();
                let effects = at.controller(ControllerEvent::Tick, timeline);
                return self.execute_for_controller(node, effects);
            }
            NodeEvent::Applied { shard, offset } => {
                let effects = at.controller(ControllerEvent::Applied { shard, offset }, timeline);
                return self.execute_for_controller(node, effects);
            }
        }
        Ok(())
    }

    // ---- Nodes come and go ----

    fn restart_soon(&mut self, node: usize) {
        let pause = self.timeline.random.between(100, 20_000);
        self.timeline.after(pause, Event::Start { node });
    }

    /// A node is gone, and with it every connection.
    fn go_down(&mut self, node: usize, is_power: bool) {
        self.nodes[node].go_down(is_power, &mut self.timeline);
        for (number, each) in self.clients.iter_mut().enumerate().filter(|(_, each)| each.node == node) {
            if let Some(connection) = each.connection.take() {
                self.network.disconnect(connection);
                each.client.disconnected(&mut self.witness.knowledge);
            }
            self.answers.ends(number);
        }
    }

    /// A node exits with an error, as it must after a failed write.
    fn give_up(&mut self, node: usize, reason: &str) -> Result<(), String> {
        self.timeline.line(format!("the node gives up: {reason}"));
        let disk = &self.nodes[node].disk;
        // A node that finds no room to register exits, too.
        if !disk.has_failed() && disk.faults.capacity_bytes.is_none() {
            return Err(format!("the node gave up though its disk is fine: {reason}"));
        }
        let is_power = self.timeline.random.coin();
        self.go_down(node, is_power);
        self.restart_soon(node);
        Ok(())
    }

    /// A node is told to stop.
    fn stop(&mut self, node: usize) -> Result<(), String> {
        self.timeline.line("the node is told to stop".to_string());
        self.nodes[node].stop();
        for shard in 0..self.nodes[node].shards() {
            if !self.nodes[node].is_up() {
                return Ok(());
            }
            let effects = self.nodes[node].begin_shutdown(shard, &self.timeline);
            self.execute(node, shard, effects)?;
        }
        for shard in 0..self.nodes[node].shards() {
            self.nodes[node].give_turn(shard, &mut self.timeline);
        }
        Ok(())
    }

    /// A node recovers, perhaps interrupted, shows everything to the checkers, and runs.
    fn start(&mut self, node: usize) -> Result<(), String> {
        let World { scenario, nodes, timeline, witness, verdicts, .. } = self;
        let node = &mut nodes[node];
        let now = node.now(timeline);
        if scenario.is_damaged_at_rest {
            let mut random = timeline.random.fork();
            verdicts.add_all(start_on_damaged_copies(&node.disk, &mut random, |disk, random| {
                let shards = random.between(1, 4) as usize;
                let mut opened = node.configuration.recover(disk, random, now, shards)?;
                Ok(witness.judge_copy(&mut opened, disk, random, now))
            })?);
        }
        let mut opened = node.recover(timeline)?;
        witness.see_everything(&mut opened, &mut node.disk, now, timeline)?;
        node.run(opened, timeline);
        Ok(())
    }

    // ---- What nodes want done ----

    fn turn(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let effects = self.nodes[node].turn(shard, &mut self.timeline);
        self.execute(node, shard, effects)?;
        self.nodes[node].mark_clean_stop(&mut self.timeline);
        Ok(())
    }

    fn execute(&mut self, node: usize, shard: usize, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            let World { nodes, network, timeline, .. } = self;
            let at = &mut nodes[node];
            if !at.is_up() {
                return Ok(());
            }
            match effect {
                Effect::Send { connection, parts } => {
                    if network.queue(connection, parts) {
                        let delay = timeline.random.between(20, 400);
                        at.after(delay, NodeEvent::Sent { connection }, timeline);
                    }
                }
                Effect::Close { connection } => {
                    if network.close(connection) {
                        self.disconnect(connection);
                    }
                }
                Effect::Reading { connection, on } => {
                    for frame in network.set_reading(connection, on) {
                        at.give(shard, ShardEvent::Request { connection, frame }, timeline);
                    }
                }
                Effect::Disk { token, op } => at.submit(shard, token, op, timeline),
                Effect::Prefetch { token, path, .. } => {
                    let delay = timeline.random.between(50, 5_000);
                    at.after(delay, NodeEvent::Prefetch { shard, token, path }, timeline);
                }
                Effect::Discard { .. } | Effect::ConnectionRules(_) => {}
                Effect::ToShard { shard: to, message } => at.send(Place::Shard(shard), to, message, timeline),
                Effect::ToController { token, request } => {
                    let delay = timeline.random.below(50);
                    let asker = Asker::Shard { shard, token };
                    at.after(delay, NodeEvent::ToController { asker, request }, timeline);
                }
                Effect::MetadataApplied { offset } => at.after(1, NodeEvent::Applied { shard, offset }, timeline),
                Effect::Warn { message } => timeline.line(format!("shard {shard} warns: {message}")),
                Effect::Fail { reason } => self.give_up(node, &reason)?,
            }
        }
        Ok(())
    }

    fn execute_for_controller(&mut self, node: usize, effects: Vec<ControllerEffect>) -> Result<(), String> {
        for effect in effects {
            let may_crash = !self.is_ending();
            let World { nodes, timeline, .. } = self;
            let at = &mut nodes[node];
            if !at.is_up() {
                return Ok(());
            }
            match effect {
                ControllerEffect::Disk { token, op } => at.submit_for_controller(token, op, may_crash, timeline),
                ControllerEffect::Publish { offset, records, image } => {
                    timeline.line(format!("metadata committed up to {offset}"));
                    for shard in 0..at.shards() {
                        let (records, image) = (Arc::clone(&records), Arc::clone(&image));
                        let message = Message::Metadata { offset, records, image };
                        at.send(Place::Controller, shard, message, timeline);
                    }
                }
                ControllerEffect::Answer { asker: Asker::Shard { shard, token }, response } => {
                    at.send(Place::Controller, shard, Message::Controller { token, response }, timeline);
                }
                ControllerEffect::Answer { asker: Asker::Node { .. }, response } => match response {
                    ControllerResponse::RegisterBroker(Err(error)) => {
                        self.give_up(node, &format!("the broker cannot be registered: {error}"))?;
                    }
                    ControllerResponse::RegisterBroker(Ok(epoch)) => at.registered(epoch, timeline),
                    ControllerResponse::BrokerHeartbeat(Err(error)) => {
                        self.give_up(node, &format!("the broker cannot be unfenced: {error}"))?;
                    }
                    ControllerResponse::BrokerHeartbeat(Ok(HeartbeatReply { is_fenced: false, .. })) => {
                        at.unfenced(timeline);
                    }
                    other => return Err(format!("a broker that starts is answered with {other:?}")),
                },
                ControllerEffect::Answer { asker: Asker::Peer { .. } | Asker::Own, .. } | ControllerEffect::Link(_) => {
                    return Err("a node that is alone speaks to another".to_string());
                }
                ControllerEffect::Warn { message } => timeline.line(format!("the controller warns: {message}")),
                ControllerEffect::Fail { reason } => self.give_up(node, &reason)?,
            }
        }
        Ok(())
    }

    // ---- Clients and the network ----

    fn client_acts(&mut self, number: usize) -> Result<(), String> {
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
        if !self.nodes[self.clients[number].node].is_up() {
            return Ok(());
        }
        let Some(connection) = self.connection_of(number) else { return Ok(()) };
        let World { timeline, nodes, network, clients, witness, answers, .. } = self;
        let SimClient { client, node, .. } = &mut clients[number];
        witness.knowledge.group.now_us = now_us;
        let Some(frame) = client.act(&mut timeline.random, &mut witness.knowledge) else { return Ok(()) };
        if client.waits_impatiently() {
            answers.waits(number, now_us);
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
        let World { timeline, nodes, network, clients, .. } = self;
        let client = &mut clients[number];
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

    fn disconnect(&mut self, connection: ConnectionId) {
        let Some(ends) = self.network.disconnect(connection) else { return };
        let number = ends.client;
        self.timeline.line(format!("client {number} is disconnected"));
        self.clients[number].connection = None;
        self.clients[number].client.disconnected(&mut self.witness.knowledge);
        self.answers.ends(number);
        self.nodes[ends.node].give(ends.shard, ShardEvent::Disconnected { connection }, &mut self.timeline);
    }

    /// The next part of what a shard sends has left, and is there.
    fn sent(&mut self, connection: ConnectionId) -> Result<(), String> {
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
        let client = &mut clients[number].client;
        let Reaction { findings, reconnect } = client.receive(&bytes, &witness.knowledge)?;
        if !client.waits_impatiently() {
            answers.ends(number);
        }
        findings.into_iter().try_for_each(|finding| witness.learn(finding))?;
        if reconnect || (is_closing && is_drained) {
            self.disconnect(connection);
        }
        Ok(())
    }

    /// The bytes that a node sends.
    fn read_parts(&mut self, node: usize, parts: Vec<SendPart>) -> Result<Vec<u8>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_lose_nothing() {
        let outcomes = seeds::run(env!("CARGO_PKG_NAME"), "sim::world::tests::clients_lose_nothing", 100, World::run);
        let mut total = Outcome::default();
        for outcome in outcomes {
            total.acknowledged += outcome.acknowledged;
            total.seen += outcome.seen;
            total.stops += outcome.stops;
            total.clean_shutdowns += outcome.clean_shutdowns;
            total.group = (total.group.0 + outcome.group.0, total.group.1 + outcome.group.1);
            total.verdicts.add_all(outcome.verdicts);
            total.snapshots.add_all(outcome.snapshots);
        }
        println!("{total:?}");
        let is_part = ["MILLSTREAM_SIM_SEED", "MILLSTREAM_SIM_SEEDS"].map(std::env::var_os).iter().any(Option::is_some);
        assert!(is_part || (total.group.0 > 100 && total.group.1 > 100), "the group did next to nothing");
        assert!(is_part || total.clean_shutdowns > 5, "{} clean stops", total.clean_shutdowns);
        let Snapshots { taken, interrupted } = total.snapshots;
        assert!(is_part || (taken > 100 && interrupted.iter().all(|count| *count > 2)), "few snapshots were taken");
    }
}
