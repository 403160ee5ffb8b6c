//! What goes wrong, and that it stops going wrong.

use super::{SimClient, World};
use crate::shard::ConnectionId;
use crate::sim::scenario::set_clock;
use crate::sim::swarm::Kind;
use crate::sim::timeline::{Event, Fault};

/// A client that has sent something so lately is about to send more.
const TRAFFIC_US: u64 = 20_000;

impl World {
    pub fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let World { scenario, nodes, timeline, .. } = self;
        match fault {
            Fault::Cut => self.reset(),
            Fault::Capacity { node } => scenario.change_capacity(&mut nodes[node], timeline),
            Fault::Slow { node } => {
                scenario.turn_slow(&mut nodes[node], timeline);
                self.was_slow = true;
            }
            Fault::Clock { node } => set_clock(&mut nodes[node], timeline),
            Fault::Crash { node } => {
                if nodes[node].is_up() {
                    if let Some(several) = &mut self.several {
                        several.strikes(Kind::InWrite, has_traffic(&self.clients, Some(node), timeline.now_us()));
                    }
                    let is_power = timeline.random.coin();
                    self.go_down(node, is_power);
                    self.restart_soon(node);
                }
            }
            Fault::CrashOf { node, incarnation, kind } => {
                if nodes[node].is_running(incarnation) {
                    if let Some(several) = &mut self.several {
                        // A node that starts may have no clients yet.
                        let at = (kind != Kind::AtStart).then_some(node);
                        several.strikes(kind, has_traffic(&self.clients, at, timeline.now_us()));
                    }
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
            Fault::Swarm => self.swarm_strikes()?,
        }
        Ok(())
    }

    /// The connection of some client is lost.
    fn reset(&mut self) {
        let connected: Vec<ConnectionId> = self.clients.iter().filter_map(|each| each.connection).collect();
        if !connected.is_empty() {
            let connection = connected[self.timeline.random.index(connected.len())];
            self.disconnect(connection);
        }
    }

    /// Something that was drawn goes wrong, mostly where it hurts.
    fn swarm_strikes(&mut self) -> Result<(), String> {
        let active = self.active();
        let World { nodes, timeline, several, clients, scenario, peers, .. } = self;
        let several = several.as_mut().expect("only several have one");
        let random = &mut timeline.random;
        let pause_us = several.swarm.pause_us(random);
        let Some(kind) = several.swarm.next(random) else { return Ok(()) };
        let (one, other) = (random.index(nodes.len()), random.index(nodes.len()));
        let node = active.filter(|_| random.coin()).unwrap_or(one);
        let is_everywhere = matches!(kind, Kind::PowerOfAll | Kind::Isolate | Kind::CutOneWay | Kind::Reset);
        let at = &mut nodes[node];
        let strikes = match kind {
            Kind::PowerOfAll | Kind::Clock | Kind::Full | Kind::Slow | Kind::Reset => true,
            Kind::Isolate => nodes.len() > 1,
            Kind::CutOneWay => node != other,
            Kind::Pause | Kind::LongPause => at.is_alive() && !at.is_paused(),
            Kind::Stop => at.is_listening() && !at.is_paused(),
            _ => at.is_alive(),
        };
        if strikes {
            several.strikes(kind, has_traffic(clients, (!is_everywhere).then_some(node), timeline.now_us()));
            timeline.line(format!("{kind:?} strikes node {}", node + 1));
        }
        timeline.after(pause_us, Event::Fault(Fault::Swarm));
        let swarm = &several.swarm;
        let at = &mut nodes[node];
        match kind {
            _ if !strikes => {}
            Kind::Kill | Kind::Power => {
                self.go_down(node, kind == Kind::Power);
                self.restart_soon(node);
            }
            Kind::PowerOfAll => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].is_alive() {
                        self.go_down(node, true);
                        self.restart_soon(node);
                    }
                }
            }
            Kind::Pause | Kind::LongPause => {
                let standstill_us = swarm.standstill_us(kind == Kind::LongPause, &mut timeline.random);
                at.pause();
                let incarnation = at.incarnation();
                timeline.after(standstill_us, Event::Resume { node, incarnation });
                self.was_slow = true;
            }
            Kind::Isolate | Kind::CutOneWay => {
                if kind == Kind::Isolate {
                    peers.isolate(node)
                } else {
                    peers.cut(node, other)
                }
                let cut_us = swarm.cut_us(&mut timeline.random);
                timeline.after(cut_us, Event::Mend);
            }
            Kind::Clock => set_clock(at, timeline),
            Kind::Full => {
                several.was_full = true;
                if at.disk.faults.capacity_bytes.is_none() {
                    scenario.change_capacity(at, timeline);
                }
            }
            Kind::Slow => {
                self.was_slow = true;
                if at.disk.faults.slow.is_none() {
                    scenario.turn_slow(at, timeline);
                }
            }
            Kind::Stop => self.stop(node)?,
            Kind::Reset => self.reset(),
            Kind::AtStart | Kind::InWrite | Kind::AfterRemoval => unreachable!("they strike with something else"),
        }
        Ok(())
    }

    /// The ways between nodes are whole again.
    pub fn mend(&mut self) {
        let mut later = Vec::new();
        self.peers.mend(&mut self.timeline.random, &mut later);
        self.happens_later(later);
    }

    /// A process that stood still goes on, if it is still that one.
    pub fn resume(&mut self, node: usize, incarnation: u64) -> Result<(), String> {
        if !self.nodes[node].is_running(incarnation) || !self.nodes[node].is_paused() {
            return Ok(());
        }
        self.timeline.line(format!("node {} goes on", node + 1));
        for event in self.nodes[node].resume() {
            // It may end with one of them.
            if self.nodes[node].is_running(incarnation) {
                self.node_event(node, event)?;
            }
        }
        Ok(())
    }

    /// From here on nothing goes wrong, and everything works again.
    pub fn heal(&mut self) -> Result<(), String> {
        self.timeline.line("nothing goes wrong any more".to_string());
        self.nodes.iter_mut().for_each(|node| node.disk.faults = Default::default());
        self.mend();
        for node in 0..self.nodes.len() {
            let incarnation = self.nodes[node].incarnation();
            self.resume(node, incarnation)?;
            self.timeline.after(0, Event::Start { node });
        }
        Ok(())
    }
}

/// Whether a client waits for an answer of a node, or of any, or has asked it just now.
fn has_traffic(clients: &[SimClient], node: Option<usize>, now_us: u64) -> bool {
    let asks = |each: &SimClient| each.client.has_asked() || now_us < each.sent_us + TRAFFIC_US;
    clients.iter().any(|each| each.connection.is_some() && asks(each) && node.is_none_or(|node| each.node == node))
}
