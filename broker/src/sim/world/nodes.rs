//! Nodes come and go, and what they want is done: the driver's part, between them and all that is around them.

use std::sync::Arc;

use millstream_replication::MetadataRecord;

use super::World;
use crate::controller::{Asker, Effect as ControllerEffect, Event as ControllerEvent};
use crate::peer::links;
use crate::shard::{Effect, Event as ShardEvent, Message};
use crate::sim::damage::start_on_damaged_copies;
use crate::sim::node::{Begins, Opening, Place};
use crate::sim::peer_network::{Arrival, Later};
use crate::sim::swarm::Kind;
use crate::sim::timeline::{Event, Fault, NodeEvent};

impl World {
    /// Something happens to a running node.
    pub fn node_event(&mut self, node: usize, event: NodeEvent) -> Result<(), String> {
        let World { nodes, network, timeline, .. } = self;
        let at = &mut nodes[node];
        if at.is_paused() {
            at.miss(event);
            return Ok(());
        }
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
                self.perhaps_mark_clean_stop(node);
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
                return self.tell_controller(node, ControllerEvent::Asked { asker, request, random_id });
            }
            NodeEvent::ControllerTimer => {
                at.controller_timer();
                if at.is_up() {
                    return self.tell_controller(node, ControllerEvent::Tick);
                }
                return self.forms(node, links::Event::Tick);
            }
            NodeEvent::Applied { shard, offset } => {
                return self.tell_controller(node, ControllerEvent::Applied { shard, offset });
            }
            NodeEvent::ShardLink { shard, event } => at.give(shard, ShardEvent::Peer(event), timeline),
            NodeEvent::Link(event) => {
                if at.is_up() {
                    return self.tell_controller(node, ControllerEvent::Link(event));
                }
                return self.forms(node, event);
            }
        }
        Ok(())
    }

    fn tell_controller(&mut self, node: usize, event: ControllerEvent) -> Result<(), String> {
        let effects = self.nodes[node].controller(event, &mut self.timeline);
        self.execute_for_controller(node, effects)
    }

    // ---- Nodes come and go ----

    pub fn restart_soon(&mut self, node: usize) {
        let random = &mut self.timeline.random;
        let pause = match &self.several {
            Some(several) => several.swarm.downtime_us(random),
            None => random.between(100, 20_000),
        };
        self.timeline.after(pause, Event::Start { node });
    }

    /// A node is gone, and with it every connection.
    pub fn go_down(&mut self, node: usize, is_power: bool) {
        self.nodes[node].go_down(is_power, &mut self.timeline);
        if is_power {
            self.peers.lose_power(node);
        } else {
            self.hang_up(node);
        }
        for (number, each) in self.clients.iter_mut().enumerate().filter(|(_, each)| each.node == node) {
            each.asked_us = None;
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
        // A node that finds no room to register exits, too, and the room is wanted where the controller is.
        let has_room = match &self.several {
            Some(several) => !several.was_full,
            None => disk.faults.capacity_bytes.is_none(),
        };
        if !disk.has_failed() && has_room {
            return Err(format!("the node gave up though its disk is fine: {reason}"));
        }
        let is_power = self.timeline.random.coin();
        self.go_down(node, is_power);
        self.restart_soon(node);
        Ok(())
    }

    /// A node is told to stop.
    pub fn stop(&mut self, node: usize) -> Result<(), String> {
        self.timeline.line("the node is told to stop".to_string());
        self.nodes[node].stop();
        self.peers.serves(node, None);
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
    pub fn start(&mut self, node: usize) -> Result<(), String> {
        if self.several.is_some() && self.nodes[node].is_alive() {
            // It was started already.
            return Ok(());
        }
        self.start_on_damaged_copies(node)?;
        self.open(node, None)
    }

    fn start_on_damaged_copies(&mut self, node: usize) -> Result<(), String> {
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
        Ok(())
    }

    /// Opens a directory and runs what is there, or what it begins with.
    fn open(&mut self, node: usize, begins: Option<Begins>) -> Result<(), String> {
        let World { nodes, timeline, witness, several, .. } = self;
        let at = &mut nodes[node];
        let now = at.now(timeline);
        match at.open(begins, timeline)? {
            Opening::Candidate { candidate, incarnation } => {
                timeline.line(format!("node {} waits for others", node + 1));
                at.form(candidate, incarnation, timeline);
            }
            Opening::Member(mut opened) => {
                let may_lack = several.is_some();
                // Of several replicas one shows nothing alone.
                if several.as_ref().is_none_or(|several| several.swarm.replicas == 1) {
                    witness.see_everything(&mut opened, &mut at.disk, now, may_lack, timeline)?;
                }
                at.run(*opened, timeline);
            }
        }
        let incarnation = at.incarnation();
        self.peers.listens(node, incarnation);
        if !self.is_healing()
            && let Some(several) = &self.several
            && let Some(after_us) = several.swarm.ends_start_us(&mut self.timeline.random)
        {
            self.timeline.after(after_us, Event::Fault(Fault::CrashOf { node, incarnation, kind: Kind::AtStart }));
        }
        Ok(())
    }

    /// Something happens to a node that waits for others.
    fn forms(&mut self, node: usize, event: links::Event) -> Result<(), String> {
        let (effects, begins) = self.nodes[node].forms(event, &mut self.timeline);
        match begins {
            None => {
                self.execute_for_peers(node, effects);
                Ok(())
            }
            Some(begins) => {
                self.timeline.line(format!("node {} begins", node + 1));
                self.hang_up(node);
                self.nodes[node].has_formed();
                self.open(node, Some(begins))
            }
        }
    }

    // ---- The network between nodes ----

    /// The process of a node closes its connections to others.
    fn hang_up(&mut self, node: usize) {
        let mut later = Vec::new();
        self.peers.hang_up(node, self.timeline.now_us(), &mut self.timeline.random, &mut later);
        self.happens_later(later);
    }

    fn execute_for_peers(&mut self, node: usize, effects: impl IntoIterator<Item = links::Effect>) {
        let process = (node, self.nodes[node].incarnation(), Place::Controller);
        let mut later = Vec::new();
        for effect in effects {
            let now_us = self.timeline.now_us();
            self.peers.execute(process, effect, now_us, &mut self.timeline.random, &mut later);
        }
        self.happens_later(later);
    }

    /// A shard wants something done with its connections to others.
    fn execute_for_streams(&mut self, node: usize, shard: usize, effect: links::Effect) {
        let process = (node, self.nodes[node].incarnation(), Place::Shard(shard));
        let mut later = Vec::new();
        self.peers.execute(process, effect, self.timeline.now_us(), &mut self.timeline.random, &mut later);
        self.happens_later(later);
    }

    pub fn peers_arrive(&mut self, arrival: Arrival) {
        let mut later = Vec::new();
        self.peers.arrives(arrival, self.timeline.now_us(), &mut self.timeline.random, &mut later);
        self.happens_later(later);
    }

    pub fn happens_later(&mut self, later: Vec<(u64, Later)>) {
        for (delay_us, later) in later {
            let event = match later {
                Later::ToNode { node, life, place, event } => {
                    let event = match place {
                        Place::Controller => NodeEvent::Link(event),
                        Place::Shard(shard) => NodeEvent::ShardLink { shard, event },
                    };
                    Event::Node { node, incarnation: life, event }
                }
                Later::Arrival(arrival) => Event::Peers(arrival),
            };
            self.timeline.after(delay_us, event);
        }
    }

    // ---- What nodes want done ----

    fn turn(&mut self, node: usize, shard: usize) -> Result<(), String> {
        let effects = self.nodes[node].turn(shard, &mut self.timeline);
        self.execute(node, shard, effects)?;
        self.perhaps_mark_clean_stop(node);
        Ok(())
    }

    fn perhaps_mark_clean_stop(&mut self, node: usize) {
        if self.nodes[node].mark_clean_stop(&mut self.timeline) {
            self.hang_up(node);
        }
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
                Effect::Dial { link, host, port } => {
                    self.execute_for_streams(node, shard, links::Effect::Dial { link, host, port });
                }
                Effect::SendToPeer { link, parts } => {
                    let bytes = self.read_parts(node, parts)?.into();
                    self.execute_for_streams(node, shard, links::Effect::Send { link, bytes });
                }
                Effect::HangUp { link } => self.execute_for_streams(node, shard, links::Effect::Close { link }),
                Effect::Warn { message } => timeline.line(format!("shard {shard} warns: {message}")),
                Effect::Fail { reason } => self.give_up(node, &reason)?,
            }
        }
        Ok(())
    }

    fn execute_for_controller(&mut self, node: usize, effects: Vec<ControllerEffect>) -> Result<(), String> {
        self.observe_controller(node)?;
        for effect in effects {
            let may_crash = !self.is_healing();
            let World { nodes, timeline, .. } = self;
            let at = &mut nodes[node];
            if !at.is_up() {
                return Ok(());
            }
            match effect {
                ControllerEffect::Disk { token, op } => at.submit_for_controller(token, op, may_crash, timeline),
                ControllerEffect::Publish { offset, records, image } => {
                    timeline.line(format!("metadata committed up to {offset}"));
                    at.tells(&image);
                    if may_crash
                        && records.iter().any(|record| matches!(record, MetadataRecord::RemoveTopic { .. }))
                        && let Some(several) = &self.several
                        && let Some(after_us) = several.swarm.ends_removal_us(&mut timeline.random)
                    {
                        let incarnation = at.incarnation();
                        let fault = Fault::CrashOf { node, incarnation, kind: Kind::AfterRemoval };
                        timeline.after(after_us, Event::Fault(fault));
                    }
                    for shard in 0..at.shards() {
                        let (records, image) = (Arc::clone(&records), Arc::clone(&image));
                        let message = Message::Metadata { offset, records, image };
                        at.send(Place::Controller, shard, message, timeline);
                    }
                    self.observe_image(node, &image)?;
                }
                ControllerEffect::Answer { asker: Asker::Shard { shard, token }, response } => {
                    self.observe_answer(&response)?;
                    let message = Message::Controller { token, response };
                    self.nodes[node].send(Place::Controller, shard, message, &mut self.timeline);
                }
                ControllerEffect::Answer { asker: Asker::Node { .. }, response } => {
                    if let Err(why) = at.registration_answered(response, timeline) {
                        self.give_up(node, &why)?;
                    } else {
                        let broker = at.addressee();
                        self.peers.serves(node, broker);
                    }
                }
                ControllerEffect::Answer {
                    asker: asker @ (Asker::Peer { .. } | Asker::Client { .. } | Asker::Own | Asker::Heartbeat { .. }),
                    ..
                } => {
                    return Err(format!("an answer to {asker:?}, who is not in this process"));
                }
                ControllerEffect::Link(effect) => self.execute_for_peers(node, [effect]),
                ControllerEffect::Say { message } | ControllerEffect::Warn { message } => {
                    timeline.line(format!("the controller warns: {message}"));
                    // Peers are as they are shipped, too.
                    if message.contains("is refused") || message.contains("cannot be read") {
                        return Err(message);
                    }
                }
                ControllerEffect::Fail { reason } => self.give_up(node, &reason)?,
            }
        }
        Ok(())
    }
}
