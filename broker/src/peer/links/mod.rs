//! All connections of a node to its peers, as data: whom to dial and when again, what a greeting is worth, when a connection
//! counts as dead, and what that says about the node behind it.
//!
//! A node dials every peer that it was told of. What it has to say goes over the connection that it dialled itself; answers go
//! back over the connection that the request came by, and so do messages of the quorum to a node that cannot be dialled: one
//! that is no controller, or whose address is not known. A connection that is lost is dialled again at once: where nobody
//! listens any more the process has gone, and where somebody does, only the connection has.
//!
//! Nothing is kept for a peer that cannot be reached, and nothing is sent again: what was under way on a connection that is
//! lost is lost with it, and no answer to it comes after [`Told::Down`].

mod assembly;
mod event;
mod probe;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use millstream_storage::TopicId;

use super::frame::{Frame, Hello, MESSAGE_BYTES_MAX, RejectReason, VERSIONS, Welcome, in_pieces};
use assembly::{Assembly, Head};
use probe::{PROBES_MAX, Probe};
use target::{Stage, Target, Up};

pub use event::{DialError, Effect, Event, Identity, LinkId, Peer, Told};

/// How long a greeting may take: to come from who has connected, and to be answered.
const HELLO_MAX: Duration = Duration::from_secs(1);
/// A connection on which nothing was received for so long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// A connection on which nothing was sent, or nothing received, for so long is asked whether it is alive.
const PING_AFTER: Duration = Duration::from_millis(500);
/// The first wait before a peer is dialled again; it doubles from one failure to the next...
const REDIAL_MIN: Duration = Duration::from_millis(20);
/// ...up to this.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// A connection that is lost is dialled again at once, but not more often than this.
const REDIAL_AT_ONCE_AFTER: Duration = Duration::from_secs(1);
/// How long it may be uncertain whether a process is gone whose connection was lost: somebody takes the next connection and
/// does not answer, as the kernel does for a process that is just ending.
const UNCERTAIN_MAX: Duration = Duration::from_secs(1);
/// Connections that others have opened, at most.
pub const ACCEPTED_MAX: usize = 64;
/// Those of clients among them: nodes find room in any case.
pub const CLIENTS_MAX: usize = 16;
/// A client that says nothing for so long is closed, as brokers close it (`connections.max.idle.ms`), but sooner.
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(60);
/// Keys of Kafka's requests are below this.
const CLIENT_KEYS_MAX: i16 = 1_000;
/// Of the largest messages, so many may be incomplete at a time, over all connections.
const ASSEMBLED_MAX: usize = 2;

/// The connections of one node.
#[derive(Debug)]
pub struct Links {
    identity: Identity,
    /// Of the last event.
    now: Duration,
    chance: u64,
    /// How many connections were dialled.
    dialled: u64,
    targets: Vec<Target>,
    callers: BTreeMap<LinkId, Caller>,
    /// Nodes that are looked for where clients find them, each once.
    probes: Vec<Probe>,
    /// What was told of each node last.
    heard: BTreeMap<i32, Heard>,
    /// Connections to be closed with the next event: their targets are gone.
    dropped: Vec<LinkId>,
    /// This node is another one now, which the peers do not know yet.
    must_greet_anew: bool,
    /// [`MESSAGE_BYTES_MAX`]
    message_bytes_max: usize,
}

/// A connection over which another node speaks.
#[derive(Debug)]
struct Caller {
    /// `None` before the greeting, and of a client.
    peer: Option<Peer>,
    is_client: bool,
    received_at: Duration,
    assembly: Assembly,
}

/// What was told of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Up,
    /// Nothing yet of the loss that happened then.
    Lost {
        at: Duration,
    },
    Down,
    Refused,
}

/// How a try to reach a target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nobody listens.
    Refused,
    /// Somebody may, but does not answer.
    Failed,
    /// Somebody listened, and closed the connection before a greeting: a process that ends does that too.
    HungUp,
}

impl Caller {
    fn deadline(&self) -> Duration {
        let patience = match (self.is_client, &self.peer) {
            (true, _) => CLIENT_IDLE_MAX,
            (false, Some(_)) => SILENCE_MAX,
            (false, None) => HELLO_MAX,
        };
        self.received_at + patience
    }
}

impl Links {
    /// A node without connections. The seed is where its waits get their jitter from.
    pub fn new(identity: Identity, seed: u64) -> Links {
        Links {
            identity,
            now: Duration::ZERO,
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            dialled: 0,
            targets: Vec::new(),
            callers: BTreeMap::new(),
            probes: Vec::new(),
            heard: BTreeMap::new(),
            dropped: Vec::new(),
            must_greet_anew: false,
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }

    /// Says who this node is from now on. With the next event, if that is anything new, it closes all connections and
    /// greets its peers again; its peers do the same.
    pub fn set_identity(&mut self, identity: Identity) {
        self.must_greet_anew |= identity != self.identity;
        self.identity = identity;
    }

    /// Says whom to dial from now on, by the number if it is known. This node itself may be among them. What is dialled
    /// already stays as it is; connections to others are closed, and nothing more is told of those. Takes effect with the next
    /// event, which is due at once.
    pub fn set_peers(&mut self, now: Duration, peers: &[(Option<i32>, String, u16)]) {
        self.now = self.now.max(now);
        let mut before = mem::take(&mut self.targets);
        for (node_id, host, port) in peers {
            let is_there = |target: &Target| target.host == *host && target.port == *port;
            let is_same = |target: &Target| is_there(target) && target.node_id == *node_id;
            if *node_id == Some(self.identity.node_id) || self.targets.iter().any(is_same) {
                continue;
            }
            // Whoever was found where nobody in particular was meant may be meant now.
            let is_found = |target: &Target| {
                let found = target.up().map(|up| up.peer.node_id);
                is_there(target) && target.node_id.is_none() && found.is_some() && found == *node_id
            };
            let kept = before.iter().position(|target| is_same(target) || is_found(target));
            let mut target = match kept {
                Some(at) => before.swap_remove(at),
                None => Target::new(*node_id, host.clone(), *port, self.now),
            };
            target.node_id = *node_id;
            self.targets.push(target);
        }
        for gone in before {
            self.dropped.extend(gone.link());
            if let Stage::Up(up) = gone.stage {
                self.revive(up.peer.node_id);
                self.heard.insert(up.peer.node_id, Heard::Lost { at: self.now });
            }
        }
        self.forget_strangers();
    }

    /// Takes what has happened. The time never goes back.
    pub fn handle(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        self.now = self.now.max(now);
        effects.extend(self.dropped.drain(..).map(|link| Effect::Close { link }));
        if mem::take(&mut self.must_greet_anew) {
            self.greet_anew(effects);
        }
        match event {
            Event::Accepted { link } => self.accepted(link, effects),
            Event::Dialed { link, result } => match self.target_of(link) {
                Some(at) => self.dialed(at, link, result, effects, told),
                None => self.probed(link, result, effects, told),
            },
            Event::Received { link, bytes } => match self.target_of(link) {
                Some(at) => self.received(at, link, &bytes, effects, told),
                None => self.received_from_caller(link, &bytes, effects, told),
            },
            Event::Closed { link } => match self.target_of(link) {
                Some(at) if self.targets[at].up().is_some() => self.lost(at),
                Some(at) => self.failed(at, Outcome::HungUp, told),
                None => self.caller_gone(link, told),
            },
            Event::Tick => self.tick(effects, told),
        }
        self.dial(effects);
    }

    /// When the next [`Event::Tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.must_greet_anew || !self.dropped.is_empty() {
            return Some(self.now);
        }
        let targets = self.targets.iter().filter_map(Target::deadline);
        let probes = self.probes.iter().filter_map(Probe::deadline);
        targets.chain(self.callers.values().map(Caller::deadline)).chain(probes).min()
    }

    /// Whether a node can be spoken to.
    pub fn is_up(&self, node_id: i32) -> bool {
        self.peers().any(|peer| peer.node_id == node_id)
    }

    /// Whether the last try to reach a node found that nobody listens there, and none of its own connections is left: its
    /// process is gone.
    pub fn is_refused(&self, node_id: i32) -> bool {
        !self.is_calling(node_id)
            && !self.is_up(node_id)
            && self.targets.iter().any(|target| target.node() == Some(node_id) && target.is_refused)
    }

    /// All nodes that can be spoken to.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.targets.iter().filter_map(|target| target.up().map(|up| &up.peer))
    }

    /// All nodes that have connected.
    pub fn callers(&self) -> impl Iterator<Item = &Peer> {
        self.callers.values().filter_map(|caller| caller.peer.as_ref())
    }

    /// Looks whether anybody listens where clients find a node that has called and is gone: [`Told::Down`] says so where
    /// nobody does. Takes effect with the next event, which is due at once.
    pub fn probe(&mut self, node_id: i32, host: String, port: u16) {
        if self.probes.len() < PROBES_MAX && self.probes.iter().all(|probe| probe.node_id != node_id) {
            self.probes.push(Probe::new(node_id, host, port, self.now));
        }
    }

    /// Sends a message of the quorum to the node that has this log directory. `false`: it cannot be reached.
    pub fn raft(&mut self, to_directory: [u8; 16], bytes: Bytes, effects: &mut Vec<Effect>) -> bool {
        self.send_either_way(to_directory, &bytes, |is_last, bytes| Frame::Raft { is_last, bytes }, effects)
    }

    /// Sends a request to a node. `false`: it cannot be reached.
    pub fn request(&mut self, to_node: i32, id: u64, request: Bytes, effects: &mut Vec<Effect>) -> bool {
        let frame = |is_last, request| Frame::Request { id, is_last, request };
        self.send(|peer| peer.node_id == to_node, &request, frame, effects)
    }

    /// Offers the node that has this log directory, which holds nothing, the snapshot of a cluster. `false`: it cannot be
    /// reached.
    pub fn adopt(&mut self, to_directory: [u8; 16], bytes: Bytes, effects: &mut Vec<Effect>) -> bool {
        self.send_either_way(to_directory, &bytes, |is_last, bytes| Frame::Adopt { is_last, bytes }, effects)
    }

    /// Answers a request over the connection that it came by. If that is gone, nobody waits for the answer any more.
    pub fn respond(&mut self, link: LinkId, id: u64, offset: u64, response: Bytes, effects: &mut Vec<Effect>) {
        if !self.callers.contains_key(&link) {
            return;
        }
        if response.len() > self.message_bytes_max {
            // Whoever asked learns that no answer comes.
            self.callers.remove(&link);
            effects.push(Effect::Close { link });
            return;
        }
        let frame = |is_last, response| Frame::Response { id, offset, is_last, response };
        effects.push(Effect::Send { link, bytes: in_pieces(&response, frame) });
    }

    /// Closes the connection of a client.
    pub fn close_client(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        if self.callers.remove(&link).is_some() {
            effects.push(Effect::Close { link });
        }
    }

    /// Says, over the connection that a request came by, that this node is not the controller.
    pub fn not_controller(&mut self, link: LinkId, id: u64, leader: i32, effects: &mut Vec<Effect>) {
        if self.callers.contains_key(&link) {
            effects.push(Effect::Send { link, bytes: Frame::NotController { id, leader }.to_bytes() });
        }
    }

    fn send(
        &mut self,
        is_meant: impl Fn(&Peer) -> bool,
        message: &Bytes,
        frame: impl Fn(bool, Bytes) -> Frame,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let (now, bytes_max) = (self.now, self.message_bytes_max);
        let mut connected = self.targets.iter_mut().filter_map(Target::up_mut);
        match connected.find(|up| is_meant(&up.peer)) {
            Some(up) if message.len() <= bytes_max => {
                up.sent_at = now;
                effects.push(Effect::Send { link: up.link, bytes: in_pieces(message, frame) });
                true
            }
            _ => false,
        }
    }

    /// Over the connection that was dialled, or that the other node has dialled.
    fn send_either_way(
        &mut self,
        to_directory: [u8; 16],
        message: &Bytes,
        frame: impl Fn(bool, Bytes) -> Frame,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.send(|peer| peer.directory_id == to_directory, message, &frame, effects) {
            return true;
        }
        let is_meant = |caller: &Caller| caller.peer.as_ref().is_some_and(|peer| peer.directory_id == to_directory);
        match self.callers.iter().find(|(_, caller)| is_meant(caller)) {
            Some((link, _)) if message.len() <= self.message_bytes_max => {
                effects.push(Effect::Send { link: *link, bytes: in_pieces(message, frame) });
                true
            }
            _ => false,
        }
    }

    fn target_of(&self, link: LinkId) -> Option<usize> {
        self.targets.iter().position(|target| target.link() == Some(link))
    }

    fn is_me(&self, node_id: i32, directory_id: [u8; 16], incarnation: [u8; 16]) -> bool {
        let me = &self.identity;
        (node_id, directory_id, incarnation) == (me.node_id, me.directory_id, me.incarnation)
    }

    /// Whether a node is connected whose log directory is another one.
    fn is_there_with_another(&self, node_id: i32, directory_id: [u8; 16]) -> bool {
        let mut connected = self.peers().chain(self.callers());
        connected.any(|peer| peer.node_id == node_id && peer.directory_id != directory_id)
    }

    /// Whether a node has a connection to this one.
    fn is_calling(&self, node_id: i32) -> bool {
        self.callers.values().any(|caller| caller.peer.as_ref().is_some_and(|peer| peer.node_id == node_id))
    }

    /// The node that a target leads to, if another one is connected to it already.
    fn needless(&self, at: usize) -> Option<i32> {
        self.targets[at].node().filter(|node_id| self.is_up(*node_id))
    }

    /// Dials what is due.
    fn dial(&mut self, effects: &mut Vec<Effect>) {
        for at in 0..self.targets.len() {
            let Stage::Waiting { until } = self.targets[at].stage else { continue };
            if let Some(node_id) = self.needless(at) {
                self.targets[at].stage = Stage::Needless { node_id };
            } else if until <= self.now {
                let link = LinkId(LinkId::DIALLED | self.dialled);
                self.dialled += 1;
                let target = &mut self.targets[at];
                target.stage = Stage::Dialling { link };
                effects.push(Effect::Dial { link, host: target.host.clone(), port: target.port });
            }
        }
        for probe in self.probes.iter_mut().filter(|probe| probe.is_due(self.now)) {
            let link = LinkId(LinkId::DIALLED | self.dialled);
            self.dialled += 1;
            probe.dials(link);
            effects.push(Effect::Dial { link, host: probe.host.clone(), port: probe.port });
        }
    }

    /// A node was looked for where clients find it.
    fn probed(&mut self, link: LinkId, result: Result<(), DialError>, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let Some(at) = self.probes.iter().position(|probe| probe.is(link)) else { return };
        if result.is_ok() {
            // Nothing was said, and nothing is to be heard.
            effects.push(Effect::Close { link });
        }
        if result.is_ok() && self.probes[at].waits(self.now) {
            return;
        }
        let node_id = self.probes.swap_remove(at).node_id;
        if result == Err(DialError::Refused) && !self.is_calling(node_id) && !self.is_up(node_id) {
            told.push(Told::Down { node_id, is_refused: true });
        }
    }

    fn tick(&mut self, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let now = self.now;
        let silent = self.callers.iter().filter(|(_, caller)| caller.deadline() <= now);
        for link in silent.map(|(link, _)| *link).collect::<Vec<_>>() {
            effects.push(Effect::Close { link });
            self.caller_gone(link, told);
        }
        for at in 0..self.targets.len() {
            match &mut self.targets[at].stage {
                Stage::Greeting { link, until } if *until <= now => {
                    effects.push(Effect::Close { link: *link });
                    self.failed(at, Outcome::Failed, told);
                }
                Stage::Up(up) if up.silent_at() <= now => {
                    effects.push(Effect::Close { link: up.link });
                    self.lost(at);
                }
                Stage::Up(up) if up.ping_at() <= now => {
                    up.sent_at = now;
                    up.pinged_at = now;
                    effects.push(Effect::Send { link: up.link, bytes: Frame::Ping.to_bytes() });
                }
                _ => {}
            }
        }
    }

    fn dialed(
        &mut self,
        at: usize,
        link: LinkId,
        result: Result<(), DialError>,
        effects: &mut Vec<Effect>,
        told: &mut Vec<Told>,
    ) {
        match result {
            Err(DialError::Refused) => self.failed(at, Outcome::Refused, told),
            Err(DialError::Failed) => self.failed(at, Outcome::Failed, told),
            Ok(()) => {
                if let Some(node_id) = self.needless(at) {
                    effects.push(Effect::Close { link });
                    self.targets[at].stage = Stage::Needless { node_id };
                    return;
                }
                let target = &mut self.targets[at];
                target.is_refused = false;
                target.stage = Stage::Greeting { link, until: self.now + HELLO_MAX };
                let Identity { cluster_id, node_id, directory_id, incarnation, address, is_forming } =
                    self.identity.clone();
                let hello = Hello {
                    version_min: *VERSIONS.start(),
                    version_max: *VERSIONS.end(),
                    cluster_id,
                    node_id,
                    directory_id,
                    incarnation,
                    to_node: target.node_id.unwrap_or(-1),
                    address,
                    is_forming,
                };
                effects.push(Effect::Send { link, bytes: Frame::Hello(hello).to_bytes() });
            }
        }
    }

    /// Takes a frame from a node that was dialled.
    fn received(&mut self, at: usize, link: LinkId, bytes: &Bytes, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let frame = Frame::decode(bytes);
        let (now, room, bytes_max) = (self.now, self.assembly_room(), self.message_bytes_max);
        if let Some(up) = self.targets[at].up_mut() {
            up.received_at = now;
            match frame {
                Ok(Frame::Pong) => return,
                Ok(Frame::Response { id, offset, is_last, response }) if response.len() <= room => {
                    if let Ok(response) = up.assembly.add(Head::Response { id, offset }, is_last, response, bytes_max) {
                        let from = || up.peer.clone();
                        told.extend(response.map(|response| Told::Response { from: from(), id, offset, response }));
                        return;
                    }
                }
                Ok(Frame::NotController { id, leader }) => {
                    told.push(Told::NotController { from: up.peer.clone(), id, leader });
                    return;
                }
                Ok(Frame::Raft { is_last, bytes }) if bytes.len() <= room => {
                    if let Ok(bytes) = up.assembly.add(Head::Raft, is_last, bytes, bytes_max) {
                        let from = || up.peer.clone();
                        told.extend(bytes.map(|bytes| Told::Raft { from: from(), bytes }));
                        return;
                    }
                }
                Ok(Frame::Adopt { is_last, bytes }) if bytes.len() <= room => {
                    if let Ok(bytes) = up.assembly.add(Head::Adopt, is_last, bytes, bytes_max) {
                        let from = || up.peer.clone();
                        told.extend(bytes.map(|bytes| Told::Adopt { from: from(), bytes }));
                        return;
                    }
                }
                _ => {}
            }
            effects.push(Effect::Close { link });
            self.lost(at);
            return;
        }
        match frame {
            Ok(Frame::Welcome(welcome)) => self.welcomed(at, link, welcome, effects, told),
            Ok(Frame::Reject { why, text }) => {
                let text = format!("this node is not let in: {text}");
                self.rejected(at, link, why, &text, effects, told);
            }
            _ => {
                effects.push(Effect::Close { link });
                self.failed(at, Outcome::Failed, told);
            }
        }
    }

    fn welcomed(&mut self, at: usize, link: LinkId, welcome: Welcome, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let Welcome { version, cluster_id, node_id, directory_id, incarnation, is_forming } = welcome;
        let is_another = self.targets[at].node_id.is_some_and(|meant| meant != node_id);
        if self.is_me(node_id, directory_id, incarnation) {
            effects.push(Effect::Close { link });
            self.targets[at].stage = Stage::Needless { node_id };
            return;
        }
        let wrong = if !VERSIONS.contains(&version) {
            Some((RejectReason::Version, format!("it speaks version {version} of the protocol between nodes")))
        } else if let Some((theirs, ours)) = clusters_that_differ(cluster_id, self.identity.cluster_id) {
            Some((RejectReason::Cluster, format!("its cluster is {theirs}, and that of this node {ours}")))
        } else if is_another || node_id == self.identity.node_id {
            Some((RejectReason::Node, format!("it is node {node_id}")))
        } else {
            None
        };
        if let Some((why, text)) = wrong {
            return self.rejected(at, link, why, &text, effects, told);
        }
        // Where nobody in particular was meant, another node may have been before.
        if let Some(before) = self.targets[at].known.replace(node_id)
            && before != node_id
        {
            self.tell_down(before, false, told);
            self.forget_strangers();
        }
        let is_there = |up: &Up| up.peer.node_id == node_id;
        if let Some(twin) = self.targets.iter().position(|target| target.up().is_some_and(is_there)) {
            // To the other side the newest connection counts. Or it was started anew, and the connection to the process
            // before is not known to be lost yet.
            effects.extend(self.targets[twin].link().map(|link| Effect::Close { link }));
            self.lost(twin);
        }
        let now = self.now;
        let target = &mut self.targets[at];
        target.rejected = None;
        let address = Some((target.host.clone(), target.port));
        let peer = Peer { node_id, directory_id, incarnation, cluster_id, is_forming, address };
        let assembly = Assembly::default();
        let up = Up { link, peer: peer.clone(), received_at: now, sent_at: now, pinged_at: now, assembly };
        target.stage = Stage::Up(Box::new(up));
        self.tell_down(node_id, false, told);
        self.heard.insert(node_id, Heard::Up);
        told.push(Told::Up { peer });
    }

    fn rejected(
        &mut self,
        at: usize,
        link: LinkId,
        why: RejectReason,
        text: &str,
        effects: &mut Vec<Effect>,
        told: &mut Vec<Told>,
    ) {
        effects.push(Effect::Close { link });
        self.failed(at, Outcome::Failed, told);
        let target = &mut self.targets[at];
        if target.rejected.replace(why) != Some(why) {
            let text = format!("{}:{}: {text}", target.host, target.port);
            told.push(Told::Rejected { node_id: target.node_id.unwrap_or(-1), why, text });
        }
    }

    /// A connection over which this node spoke is gone.
    fn lost(&mut self, at: usize) {
        let now = self.now;
        let target = &mut self.targets[at];
        let Stage::Up(up) = mem::replace(&mut target.stage, Stage::Waiting { until: now }) else { return };
        if now >= target.at_once_from {
            target.at_once_from = now + REDIAL_AT_ONCE_AFTER;
            target.wait = REDIAL_MIN;
        } else {
            self.back_off(at);
        }
        self.heard.insert(up.peer.node_id, Heard::Lost { at: now });
        self.revive(up.peer.node_id);
    }

    /// A try to reach a target has failed.
    fn failed(&mut self, at: usize, outcome: Outcome, told: &mut Vec<Told>) {
        self.targets[at].is_refused = outcome == Outcome::Refused;
        self.back_off(at);
        let Some(node_id) = self.targets[at].node() else { return };
        if self.is_refused(node_id) {
            self.tell_down(node_id, true, told);
        } else if outcome == Outcome::Failed || self.is_certain(node_id) {
            self.tell_down(node_id, false, told);
        }
    }

    /// Whether it has been uncertain for long enough what became of a node.
    fn is_certain(&self, node_id: i32) -> bool {
        matches!(self.heard.get(&node_id), Some(Heard::Lost { at }) if self.now >= *at + UNCERTAIN_MAX)
    }

    fn tell_down(&mut self, node_id: i32, is_refused: bool, told: &mut Vec<Told>) {
        let before = self.heard.get(&node_id).copied();
        let is_new = match (before, is_refused) {
            (Some(Heard::Up | Heard::Refused), _) => false,
            (Some(Heard::Lost { .. }), _) | (_, true) => true,
            (Some(Heard::Down) | None, false) => false,
        };
        if is_new {
            self.heard.insert(node_id, if is_refused { Heard::Refused } else { Heard::Down });
            told.push(Told::Down { node_id, is_refused });
        }
    }

    /// Keeps what was told of those only who may be dialled.
    fn forget_strangers(&mut self) {
        self.heard.retain(|node_id, _| self.targets.iter().any(|target| target.node() == Some(*node_id)));
    }

    /// Has a target wait before it is dialled again, the longer the more often it has failed.
    fn back_off(&mut self, at: usize) {
        // xorshift64*, whose state is never 0.
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let drawn = self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let target = &mut self.targets[at];
        // A quarter more or less.
        let wait = target.wait * 3 / 4 + target.wait / 2 * (drawn % 1024) as u32 / 1024;
        target.stage = Stage::Waiting { until: self.now + wait };
        target.wait = (target.wait * 2).min(REDIAL_MAX);
    }

    /// Dials the other targets that lead to a node whose connection is gone.
    fn revive(&mut self, node_id: i32) {
        for target in &mut self.targets {
            if matches!(target.stage, Stage::Needless { node_id: needless } if needless == node_id) {
                target.stage = Stage::Waiting { until: self.now };
            }
        }
    }

    /// Closes whatever was greeted as somebody else.
    fn greet_anew(&mut self, effects: &mut Vec<Effect>) {
        let callers = mem::take(&mut self.callers);
        effects.extend(callers.into_keys().map(|link| Effect::Close { link }));
        for at in 0..self.targets.len() {
            match &self.targets[at].stage {
                Stage::Up(up) => {
                    effects.push(Effect::Close { link: up.link });
                    self.lost(at);
                }
                Stage::Greeting { link, .. } => {
                    effects.push(Effect::Close { link: *link });
                    self.targets[at].stage = Stage::Waiting { until: self.now };
                }
                Stage::Waiting { .. } | Stage::Dialling { .. } | Stage::Needless { .. } => {}
            }
        }
    }

    fn accepted(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        assert!(!link.is_dialled(), "{link:?} is the number of a connection that is dialled");
        if self.callers.len() >= ACCEPTED_MAX {
            let text = format!("there are {ACCEPTED_MAX} connections already");
            return reject(link, RejectReason::Busy, text, effects);
        }
        let caller = Caller { peer: None, is_client: false, received_at: self.now, assembly: Assembly::default() };
        self.callers.insert(link, caller);
    }

    /// Takes a frame from a node that has connected.
    fn received_from_caller(&mut self, link: LinkId, bytes: &Bytes, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let (room, bytes_max) = (self.assembly_room(), self.message_bytes_max);
        let has_room = self.callers.values().filter(|caller| caller.is_client).count() < CLIENTS_MAX;
        let Some(caller) = self.callers.get_mut(&link) else { return };
        caller.received_at = self.now;
        if caller.is_client {
            told.push(Told::Client { link, bytes: bytes.clone() });
            return;
        }
        let frame = Frame::decode(bytes);
        let Some(peer) = &caller.peer else {
            match frame {
                Ok(Frame::Hello(hello)) => self.greeted(link, hello, effects, told),
                Err(_) if has_room && is_request_of_client(bytes) => {
                    caller.is_client = true;
                    told.push(Told::Client { link, bytes: bytes.clone() });
                }
                _ => {
                    self.callers.remove(&link);
                    effects.push(Effect::Close { link });
                }
            }
            return;
        };
        let (head, is_last, piece) = match frame {
            Ok(Frame::Ping) => {
                effects.push(Effect::Send { link, bytes: Frame::Pong.to_bytes() });
                return;
            }
            Ok(Frame::Raft { is_last, bytes }) => (Some(Head::Raft), is_last, bytes),
            Ok(Frame::Request { id, is_last, request }) => (Some(Head::Request { id }), is_last, request),
            Ok(Frame::Adopt { is_last, bytes }) => (Some(Head::Adopt), is_last, bytes),
            _ => (None, true, Bytes::new()),
        };
        if let Some(head) = head
            && piece.len() <= room
            && let Ok(message) = caller.assembly.add(head, is_last, piece, bytes_max)
        {
            let Some(message) = message else {
                // It may take longer than a silence to come, and the other side can ask for nothing meanwhile.
                effects.push(Effect::Send { link, bytes: Frame::Pong.to_bytes() });
                return;
            };
            let from = peer.clone();
            told.push(match head {
                Head::Raft => Told::Raft { from, bytes: message },
                Head::Request { id } => Told::Request { from, link, id, request: message },
                Head::Adopt => Told::Adopt { from, bytes: message },
                Head::Response { .. } => unreachable!("it was not made of a response"),
            });
            return;
        }
        effects.push(Effect::Close { link });
        self.caller_gone(link, told);
    }

    fn greeted(&mut self, link: LinkId, hello: Hello, effects: &mut Vec<Effect>, told: &mut Vec<Told>) {
        let Hello {
            version_min,
            version_max,
            cluster_id,
            node_id,
            directory_id,
            incarnation,
            to_node,
            address,
            is_forming,
        } = hello;
        let me = &self.identity;
        // This node has dialled itself: it learns that from the answer.
        let is_me = self.is_me(node_id, directory_id, incarnation);
        let version = version_max.min(*VERSIONS.end());
        let rejection = if version < version_min || version < *VERSIONS.start() {
            let (from, to) = (VERSIONS.start(), VERSIONS.end());
            let text = format!(
                "versions {version_min} to {version_max} of the protocol between nodes are not those of node {}, {from} to \
                 {to}",
                me.node_id
            );
            Some((RejectReason::Version, text))
        } else if is_me {
            None
        } else if let Some((theirs, ours)) = clusters_that_differ(cluster_id, me.cluster_id) {
            let text = format!("its cluster is {theirs}, and that of node {} {ours}", me.node_id);
            Some((RejectReason::Cluster, text))
        } else if node_id == me.node_id {
            Some((RejectReason::Node, format!("two nodes have the node.id {node_id}")))
        } else if to_node != -1 && to_node != me.node_id {
            Some((RejectReason::Node, format!("node {to_node} is meant, and this is node {}", me.node_id)))
        } else if self.is_there_with_another(node_id, directory_id) {
            let text =
                format!("node {node_id} is there already, with another data directory: give each node its own node.id");
            Some((RejectReason::Node, text))
        } else {
            None
        };
        if let Some((why, text)) = rejection {
            self.callers.remove(&link);
            return reject(link, why, text, effects);
        }
        let welcome = Welcome {
            version,
            cluster_id: me.cluster_id,
            node_id: me.node_id,
            directory_id: me.directory_id,
            incarnation: me.incarnation,
            is_forming: me.is_forming,
        };
        effects.push(Effect::Send { link, bytes: Frame::Welcome(welcome).to_bytes() });
        if is_me {
            return;
        }
        let of_node = |caller: &Caller| caller.peer.as_ref().is_some_and(|peer| peer.node_id == node_id);
        if let Some(old) = self.callers.iter().find_map(|(old, caller)| of_node(caller).then_some(*old)) {
            self.callers.remove(&old);
            effects.push(Effect::Close { link: old });
        }
        let peer = Peer { node_id, directory_id, incarnation, cluster_id, is_forming, address };
        if let Some(caller) = self.callers.get_mut(&link) {
            caller.peer = Some(peer.clone());
        }
        // A process that was started anew is behind another connection than the one before it.
        let is_old = |up: &Up| up.peer.node_id == node_id && up.peer.incarnation != incarnation;
        if let Some(at) = self.targets.iter().position(|target| target.up().is_some_and(is_old)) {
            effects.extend(self.targets[at].link().map(|link| Effect::Close { link }));
            self.lost(at);
        }
        told.push(Told::Called { peer });
    }

    /// A connection over which another node spoke is gone.
    fn caller_gone(&mut self, link: LinkId, told: &mut Vec<Told>) {
        let Some(caller) = self.callers.remove(&link) else { return };
        if caller.is_client {
            told.push(Told::ClientGone { link });
        }
        let Some(peer) = caller.peer else { return };
        if self.is_refused(peer.node_id) {
            self.tell_down(peer.node_id, true, told);
        }
        if self.targets.iter().all(|target| target.node() != Some(peer.node_id)) {
            told.push(Told::Gone { peer });
        }
    }

    /// Bytes that may still be kept of messages that are not complete.
    fn assembly_room(&self) -> usize {
        let of_targets = self.targets.iter().filter_map(|target| target.up().map(|up| &up.assembly));
        let all = of_targets.chain(self.callers.values().map(|caller| &caller.assembly));
        (ASSEMBLED_MAX * self.message_bytes_max).saturating_sub(all.map(Assembly::kept_bytes).sum())
    }
}

/// Whether a first frame can be a request of one of Kafka's clients: it begins with a key and a version.
fn is_request_of_client(frame: &Bytes) -> bool {
    let number = |at: usize| Some(i16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let is_key = |key: i16| (0..CLIENT_KEYS_MAX).contains(&key);
    number(0).is_some_and(is_key) && number(2).is_some_and(is_key)
}

fn reject(link: LinkId, why: RejectReason, text: String, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send { link, bytes: Frame::Reject { why, text }.to_bytes() });
    effects.push(Effect::Close { link });
}

/// Two clusters as people know them, unless they are the same or one of two nodes has none yet.
fn clusters_that_differ(one: Option<[u8; 16]>, other: Option<[u8; 16]>) -> Option<(String, String)> {
    let (one, other) = (one?, other?);
    (one != other).then(|| (TopicId(one).to_base64(), TopicId(other).to_base64()))
}
