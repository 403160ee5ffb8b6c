//! The cluster's controller on one node, as a pure state machine. Where this node's member leads the quorum, what it is asked
//! becomes a decision, the decision is proposed, committed, then true, then known to every shard; and when all of them have
//! applied it, an answer. Where another one leads, the shards' requests are forwarded to it, and its answers wait until the
//! shards have applied what it has decided. It also says to the active controller that this broker is there, and fences brokers
//! that are not when it is the active controller itself.
//!
//! Calling contract. The driver calls [`ControllerNode::handle`] for each event, in the order in which they happened, and
//! executes the effects in order; it gives [`Event::Tick`] at [`ControllerNode::next_deadline`]. The controller performs no I/O, reads no clock and draws no random number. There is never more than one of its disk
//! operations under way.
//!
//! What it promises. Nobody is told of a decision that is not committed, by an answer or by its records. Decisions are made one
//! after the other, each on what those before it will have made true (the *speculative* image), and committed in that
//! order; as many as come while one is being written become durable together. Decisions that find no room on the disk are
//! refused, but those that free some may use the space that the log keeps for them; after any other failure nothing is
//! answered any more.

mod answers;
mod brokers;
mod clients;
mod confirming;
mod event;
mod forwarding;
mod members;
mod notices;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::controller::Sessions;
use millstream_replication::quorum::{MemberId, NotProposed, Output, Position, Room};
use millstream_replication::{
    ApiError, Broker, ClusterImage, Controller, ControllerRequest, ControllerResponse, Decision, ErrorCode,
    MetadataRecord, Quorum,
};
use millstream_storage::bug::{Bug, is_planted};
use millstream_storage::{DiskToken, Now};

use crate::peer::links::{self, LinkId, Links, Peer, Told};
use crate::peer::wire;
use crate::shard::ShardIndex;
use answers::Answers;
use clients::Clients;
use confirming::Confirming;
use forwarding::Forwarding;
use members::Caring;
use notices::Notices;

pub use event::{Asker, Effect, Event};

/// Requests that were asked and not answered, at most; beyond them a request is refused.
pub const REQUESTS_HELD_MAX: usize = 16 * 1024;

/// Decisions that were proposed and not committed, at most; what is asked beyond them waits.
pub const PROPOSED_MAX: usize = 1024;

/// How long this node waits with asking for votes when it knows that the leader is gone, at most: by chance, so that not all do
/// it at once.
const CAMPAIGN_AFTER_MAX: Duration = Duration::from_millis(50);

/// A request that was not decided yet.
#[derive(Clone, Debug)]
struct Asked {
    asker: Asker,
    request: ControllerRequest,
    random_id: [u8; 16],
    /// It is refused then, if nobody has decided it.
    until: Duration,
}

/// A decision that waits for space before it is proposed.
#[derive(Clone, Debug)]
struct Held {
    asked: Asked,
    decision: Decision,
}

/// A decision that was proposed.
#[derive(Clone, Debug)]
struct Proposed {
    at: Position,
    asker: Asker,
    response: ControllerResponse,
}

/// The offset of the last record, the records, and the image that they made.
type Change = (u64, Vec<MetadataRecord>, Arc<ClusterImage>);

/// What a controller is told of its node.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// `node.id`
    pub node_id: i32,
    /// The process: drawn with every start.
    pub incarnation: [u8; 16],
    /// The identity of the data directory.
    pub directory_id: [u8; 16],
    /// Where this node's controller listener is reached; none where it has none.
    pub address: Option<(String, u16)>,
    /// Where other controllers are reached, where the configuration says it.
    pub voters: Vec<(i32, String, u16)>,
    /// Where some controllers are found: for a node that does not vote.
    pub bootstrap_servers: Vec<(String, u16)>,
    /// Whether the node becomes a voter by itself, if it is none when it starts.
    pub joins_voters: bool,
    /// `broker.session.timeout.ms`
    pub session_timeout: Duration,
    /// `broker.heartbeat.interval.ms`
    pub heartbeat_interval: Duration,
    /// `leader.imbalance.check.interval.seconds`, if `auto.leader.rebalance.enable`.
    pub imbalance_check_interval: Option<Duration>,
    /// Shards of the process.
    pub shards: usize,
    /// What waits by chance are drawn from.
    pub seed: u64,
}

/// Where a controller stands, as its node shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It decides.
    pub is_active: bool,
    /// The node that leads the quorum, -1 for none that is known.
    pub leader: i32,
    /// The newest term that is known here.
    pub term: u64,
    /// The offset of the last record that is known here to be committed.
    pub offset: u64,
    /// Requests that were asked here and not answered, of [`REQUESTS_HELD_MAX`].
    pub held: usize,
    /// Its member is the only one of the quorum.
    pub is_alone: bool,
    /// Until when this process's broker has its lease, by the controller's clock: no other controller fences it before.
    /// [`Duration::ZERO`] where it has none, [`Duration::MAX`] where there can be no other controller.
    pub lease_until: Duration,
    /// Brokers that are registered, as is known here.
    pub brokers: usize,
    /// Those of them that are fenced.
    pub fenced: usize,
    /// Partitions of the cluster that nobody leads, as is known here.
    pub offline_partitions: usize,
}

impl Standing {
    /// Whether the broker of this process has its lease at this time of the controller's clock.
    pub fn has_lease(&self, now: Duration) -> bool {
        now < self.lease_until
    }
}

/// The controller, with its member of the quorum.
pub struct ControllerNode {
    controller: Controller,
    options: ControllerOptions,
    quorum: Quorum,
    /// What the shards were told last.
    published: Arc<ClusterImage>,
    links: Links,
    /// Who of the brokers has been heard of, while this node decides.
    sessions: Sessions,
    /// What will be true when everything that was proposed is committed; none while another one decides, or nobody.
    speculative: Option<ClusterImage>,
    /// Requests that are decided here.
    queue: VecDeque<Asked>,
    held: Option<Held>,
    /// In the order in which they will be committed.
    proposed: VecDeque<Proposed>,
    /// Requests that another node decides.
    forwarding: Forwarding,
    /// The disk operation under way.
    under_way: Option<DiskToken>,
    next_token: u64,
    /// What each shard has applied.
    applied: Vec<u64>,
    answers: Answers,
    /// Of the last event.
    now: Now,
    /// Clients at the listener of controllers.
    clients: Clients,
    /// When the active controller is told again that this broker is there.
    heartbeat_at: Duration,
    /// When leadership goes back to preferred replicas, while this node decides.
    balance_at: Option<Duration>,
    /// A heartbeat was not answered yet: there is never more than one.
    is_heartbeat_under_way: bool,
    /// What the answers to heartbeats say of this broker's lease.
    lease_until: Duration,
    /// Heartbeats that are answered when this node is known to decide still.
    confirming: Confirming,
    /// When this node asks for votes, because the leader is gone.
    campaign_at: Option<Duration>,
    /// Members, and those that want to be.
    caring: Caring,
    /// What operators were told.
    notices: Notices,
    chance: u64,
    /// The last decision that had something to write found space for it.
    had_room: bool,
    /// [`Effect::Fail`] was given.
    has_failed: bool,
}

impl ControllerNode {
    /// A controller with its member of the quorum as it was opened. Every one of the shards starts with the same image. The
    /// only voter is elected at once; what it writes for that comes with the first event.
    pub fn new(controller: Controller, mut quorum: Quorum, options: ControllerOptions) -> ControllerNode {
        if quorum.members().is_sole_voter(quorum.me()) {
            quorum.campaign();
        }
        let identity = links::Identity {
            cluster_id: quorum.image().cluster(),
            node_id: options.node_id,
            directory_id: options.directory_id,
            incarnation: options.incarnation,
            address: options.address.clone(),
            is_forming: false,
        };
        let wants_vote = options.joins_voters && !quorum.members().is_voter(quorum.me());
        let mut node = ControllerNode {
            caring: Caring::new(wants_vote),
            controller,
            links: Links::new(identity, options.seed),
            sessions: Sessions::default(),
            speculative: None,
            queue: VecDeque::new(),
            held: None,
            proposed: VecDeque::new(),
            forwarding: Forwarding::default(),
            under_way: None,
            next_token: 0,
            applied: vec![quorum.image().offset(); options.shards],
            published: Arc::new(quorum.image().clone()),
            answers: Answers::default(),
            now: Now { elapsed: Duration::ZERO, unix_ms: 0 },
            clients: Clients::default(),
            notices: Notices::default(),
            heartbeat_at: Duration::ZERO,
            balance_at: None,
            is_heartbeat_under_way: false,
            lease_until: Duration::ZERO,
            confirming: Confirming::default(),
            campaign_at: None,
            chance: options.seed,
            had_room: true,
            has_failed: false,
            quorum,
            options,
        };
        node.find_peers(Duration::ZERO);
        node
    }

    /// What is true: all that was committed.
    pub fn image(&self) -> &ClusterImage {
        self.quorum.image()
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        Standing {
            is_active: self.speculative.is_some(),
            leader: self.leader().unwrap_or(-1),
            term: self.quorum.term(),
            offset: self.quorum.image().offset(),
            held: self.held(),
            brokers: self.quorum.image().brokers().len(),
            fenced: self.quorum.image().brokers().filter(|broker| broker.is_fenced).count(),
            offline_partitions: self.quorum.image().offline_count(),
            is_alone: self.is_alone() && self.quorum.members().iter().count() == 1,
            lease_until: self.lease_until(),
        }
    }

    /// Requests that were asked and not answered.
    fn held(&self) -> usize {
        self.queue.len() + self.confirming.len() + self.proposed.len() + self.answers.len() + self.forwarding.len()
    }

    /// When [`Event::Tick`] is wanted, in time since the process started. Never by the only voter, who waits for nothing
    /// but events.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.has_failed {
            return None;
        }
        let heartbeat = (!self.is_alone() && self.epoch().is_some()).then_some(self.heartbeat_at);
        let session = self.may_decide().then(|| self.sessions.next_deadline()).flatten();
        let balance = self.balance_at.filter(|_| self.may_decide());
        [
            self.quorum.next_deadline(),
            self.links.next_deadline(),
            self.forwarding.next_deadline(),
            self.campaign_at,
            self.cares_at(),
            self.notices.next_deadline(),
            // What this node decides alone its shards apply.
            self.answers.next_deadline().filter(|_| !self.is_alone()),
            heartbeat,
            session,
            balance,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether nothing is under way: every request is decided, and every operation has ended.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.confirming.len() == 0
            && self.held.is_none()
            && self.proposed.is_empty()
            && self.forwarding.is_empty()
            && self.under_way.is_none()
            && self.quorum.is_idle()
    }

    /// Takes one event and does what follows from it.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        if self.has_failed {
            return;
        }
        self.now = now;
        match event {
            Event::Asked { asker, request, random_id } => self.ask(now, asker, request, random_id, effects),
            Event::Applied { shard, offset } => self.apply(shard, offset),
            Event::Disk { token, result } => {
                assert_eq!(self.under_way.take(), Some(token), "what ends was under way");
                self.quorum.disk(result);
            }
            Event::Link(event) => self.link(now, event, effects),
            Event::Tick => self.tick(now, effects),
        }
        self.go_on(now, effects);
    }

    fn go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.take_outputs(now, effects);
        if self.speculative.is_some() {
            // What was meant for another node, also where that has not answered: it decides no more.
            self.forwarding.turn_to(self.options.node_id);
            self.queue.extend(self.forwarding.take_all());
        }
        loop {
            self.decide(now, effects);
            self.forward(now, effects);
            // A client's next request may have to be decided, too.
            if !self.answer(effects) {
                return;
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.quorum.members().is_sole_voter(self.quorum.me())
    }

    /// The number of the node whose member leads, as far as is known here.
    fn leader(&self) -> Option<i32> {
        self.node_of(self.quorum.leader()?).map(|(node_id, _)| node_id)
    }

    /// The number of a member's node, and its directory. Who was away may not know yet that its leader is a member: it knows
    /// who is connected.
    fn node_of(&self, member: MemberId) -> Option<(i32, [u8; 16])> {
        let known = self.quorum.members().get(member).map(|member| (member.node_id, member.directory_id));
        let mut connected = self.links.peers().chain(self.links.callers());
        known.or_else(|| {
            let peer = connected.find(|peer| MemberId::of_directory(peer.directory_id) == member)?;
            Some((peer.node_id, peer.directory_id))
        })
    }

    // ---- Requests ----

    fn ask(
        &mut self,
        now: Now,
        asker: Asker,
        request: ControllerRequest,
        random_id: [u8; 16],
        effects: &mut Vec<Effect>,
    ) {
        let asked = Asked { asker, request, random_id, until: now.elapsed + forwarding::REQUEST_MAX };
        if self.held() >= REQUESTS_HELD_MAX {
            let why = "the controller has too many requests to answer; try again";
            return self.refuse(now, asked, &ApiError::new(ErrorCode::RequestTimedOut, why), effects);
        }
        if self.speculative.is_some() || self.is_alone() {
            self.queue.push_back(asked);
        } else if let Asker::Peer { link, id } = asker {
            self.send_away(link, id, effects);
        } else {
            self.forwarding.push(asked);
        }
    }

    /// Answers what nobody has decided, item by item: nothing is done, and nothing is known.
    fn refuse(&mut self, now: Now, asked: Asked, why: &ApiError, effects: &mut Vec<Effect>) {
        let Asked { asker, request, random_id, .. } = asked;
        let decision = self.controller.handle(self.quorum.image(), &self.sessions, request, now, random_id);
        self.give(asker, self.quorum.image().offset(), decision.response.undecided(why), effects);
    }

    fn send_away(&mut self, link: LinkId, id: u64, effects: &mut Vec<Effect>) {
        let leader = self.leader().unwrap_or(-1);
        let mut more = Vec::new();
        self.links.not_controller(link, id, leader, &mut more);
        effects.extend(more.into_iter().map(Effect::Link));
    }

    fn apply(&mut self, shard: ShardIndex, offset: u64) {
        let applied = &mut self.applied[shard];
        assert!(*applied <= offset, "shard {shard} goes back from offset {applied} to {offset}");
        assert!(
            offset <= self.quorum.image().offset(),
            "shard {shard} applies offset {offset}, which is not committed"
        );
        *applied = offset;
    }

    /// What all shards have applied.
    fn all_applied(&self) -> u64 {
        self.applied.iter().copied().min().unwrap_or(u64::MAX)
    }

    // ---- The quorum ----

    /// Does what the quorum wants done, until it wants nothing more.
    fn take_outputs(&mut self, now: Now, effects: &mut Vec<Effect>) {
        loop {
            let outputs = self.quorum.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.take_output(now, output, effects);
            }
        }
    }

    fn take_output(&mut self, now: Now, output: Output, effects: &mut Vec<Effect>) {
        match output {
            Output::Disk(op) => {
                let token = DiskToken(self.next_token);
                self.next_token += 1;
                let before = self.under_way.replace(token);
                assert!(before.is_none(), "one operation at a time: {before:?}");
                effects.push(Effect::Disk { token, op });
            }
            Output::Send { to, message } => self.send(to, message, effects),
            Output::Committed { at, offset, records, image } => self.committed(at, (offset, records, image), effects),
            Output::Installed { image } => self.installed(image, effects),
            Output::Members { at } => {
                self.members_changed(now, effects);
                self.answer_until(at, effects);
            }
            Output::Leads { .. } => {
                self.lead(now);
                self.notice_leader(effects);
            }
            Output::Follows { .. } => {
                self.step_down(effects);
                self.notice_leader(effects);
            }
            Output::Confirmed { number } => {
                self.confirming.confirm(number);
                self.ask_confirmation(now, effects);
            }
            Output::Reserved { is_there } => {
                if let Some(held) = self.held.take() {
                    self.reserved(now, held, is_there, effects);
                }
            }
            Output::Failed { reason } => {
                self.has_failed = true;
                effects.push(Effect::Fail { reason });
            }
        }
    }

    fn send(&mut self, to: MemberId, message: Bytes, effects: &mut Vec<Effect>) {
        let Some((_, directory_id)) = self.node_of(to) else { return };
        let mut more = Vec::new();
        if !self.links.raft(directory_id, message, &mut more) {
            self.quorum.unreachable(to);
        }
        effects.extend(more.into_iter().map(Effect::Link));
    }

    /// Dials every member that can be dialled, where the configuration or the member itself says that it is. Also those that do
    /// not vote as far as is known here: one of them may lead by now, and could not reach a node that it cannot dial.
    fn find_peers(&mut self, now: Duration) {
        let configured = &self.options.voters;
        let votes = self.quorum.members().is_voter(self.quorum.me());
        let mut peers: Vec<(Option<i32>, String, u16)> = self
            .quorum
            .members()
            .iter()
            .filter(|(member, _)| member.node_id != self.options.node_id)
            .filter_map(|(member, _)| {
                let given = configured.iter().find(|(node_id, ..)| *node_id == member.node_id);
                let (host, port) = match given {
                    Some((_, host, port)) => (host.clone(), *port),
                    None => member.endpoint.clone()?,
                };
                Some((Some(member.node_id), host, port))
            })
            .collect();
        if !votes {
            // The voters may be others by now, or elsewhere.
            let others = configured.iter().filter(|(node_id, ..)| *node_id != self.options.node_id);
            for (node_id, host, port) in others {
                let other = (Some(*node_id), host.clone(), *port);
                if !peers.contains(&other) {
                    peers.push(other);
                }
            }
            let servers = self.options.bootstrap_servers.iter().cloned();
            peers.extend(servers.map(|(host, port)| (None, host, port)));
        }
        self.links.set_peers(now, &peers);
    }

    /// This node decides from now on. Every broker has a full session to be heard of; but whoever is known to be gone is fenced
    /// at once: where nobody listens, and where another process does.
    fn lead(&mut self, now: Now) {
        self.campaign_at = None;
        let image = self.quorum.image().clone();
        let others = image.brokers().filter(|broker| broker.node_id != self.options.node_id);
        self.sessions = Sessions::new(now.elapsed, self.options.session_timeout, others);
        let is_gone = |broker: &&Broker| {
            let mut peers = self.links.peers();
            let is_another = peers.any(|peer| peer.node_id == broker.node_id && peer.incarnation != broker.incarnation);
            // This node was a broker, and is none any more.
            let is_own = broker.node_id == self.options.node_id;
            let was_own = is_own && self.options.shards == 0 && broker.incarnation != self.options.incarnation;
            is_another || was_own || self.links.is_refused(broker.node_id)
        };
        let gone: Vec<i32> = image.brokers().filter(is_gone).map(|broker| broker.node_id).collect();
        self.speculative = Some(image);
        self.balance_at = self.options.imbalance_check_interval.map(|interval| now.elapsed + interval);
        gone.into_iter().for_each(|node_id| self.fence(now, node_id));
    }

    /// Another node decides, or nobody: what was proposed here may be committed or not.
    fn step_down(&mut self, effects: &mut Vec<Effect>) {
        if self.leader().is_some() {
            self.campaign_at = None;
        }
        if self.speculative.take().is_none() {
            return;
        }
        // What this process asked itself is not answered. What it has forwarded is, by whoever decides.
        self.is_heartbeat_under_way = false;
        self.balance_at = None;
        self.sessions = Sessions::default();
        let held = self.held.take().map(|held| held.asked);
        let unconfirmed: Vec<Asked> = self.confirming.take_all().collect();
        for asked in held.into_iter().chain(unconfirmed).chain(std::mem::take(&mut self.queue)) {
            match asked.asker {
                Asker::Peer { link, id } => self.send_away(link, id, effects),
                Asker::Own | Asker::Heartbeat { .. } => {}
                Asker::Shard { .. } | Asker::Node { .. } | Asker::Client { .. } => self.forwarding.push(asked),
            }
        }
        for Proposed { asker, response, .. } in std::mem::take(&mut self.proposed) {
            match asker {
                Asker::Peer { link, id } => self.send_away(link, id, effects),
                Asker::Own | Asker::Heartbeat { .. } => {}
                Asker::Shard { .. } | Asker::Node { .. } | Asker::Client { .. } => {
                    self.answer_at(self.quorum.image().offset(), asker, response.undecided(&not_controller()));
                }
            }
        }
    }

    /// Whether a request can be decided here and now: none waits for space, and the quorum takes more.
    fn may_decide(&self) -> bool {
        let has_room = self.held.is_none() && self.proposed.len() < PROPOSED_MAX;
        self.speculative.is_some() && has_room && !self.has_failed
    }

    /// Decides requests as long as that is possible.
    fn decide(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.may_decide()
            && let Some(speculative) = &self.speculative
            && let Some((asked, is_confirmed)) = self
                .confirming
                .next_confirmed()
                .map(|asked| (asked, true))
                .or_else(|| self.queue.pop_front().map(|asked| (asked, false)))
        {
            if asked.request.changes_members() {
                self.change_members(asked, effects);
                self.take_outputs(now, effects);
                continue;
            }
            if asked.request == ControllerRequest::DescribeQuorum {
                let response = ControllerResponse::DescribeQuorum(Ok(self.quorum_info(now)));
                self.give(asked.asker, self.quorum.image().offset(), response, effects);
                continue;
            }
            let (request, random_id) = (asked.request.clone(), asked.random_id);
            let decision = self.controller.handle(speculative, &self.sessions, request, now, random_id);
            self.hear(now, &asked.request, &decision);
            if !is_confirmed && brokers::wants_confirmation(&decision) {
                self.confirming.push(asked);
                self.ask_confirmation(now, effects);
                continue;
            }
            if decision.records.is_empty() {
                // It may say what the decisions before it will have made true.
                match self.proposed.back().map(|last| last.at) {
                    Some(at) => {
                        self.proposed.push_back(Proposed { at, asker: asked.asker, response: decision.response });
                    }
                    None => self.give(asked.asker, self.quorum.image().offset(), decision.response, effects),
                }
                continue;
            }
            match self.quorum.reserve(&decision.records) {
                Room::There => self.propose(now, Held { asked, decision }, effects),
                Room::Asked => {
                    self.held = Some(Held { asked, decision });
                    self.take_outputs(now, effects);
                }
            }
        }
    }

    /// There is space for a decision, or there is none.
    fn reserved(&mut self, now: Now, held: Held, is_there: bool, effects: &mut Vec<Effect>) {
        if is_there || held.asked.request.frees_space() {
            self.propose(now, held, effects);
            return;
        }
        // Clients ask again and again: one line until there is room.
        if self.had_room {
            let message = "no space is left for the metadata: decisions are refused".to_owned();
            effects.push(Effect::Warn { message });
        }
        self.had_room = false;
        let response = held.decision.response.refused_for_lack_of_space();
        self.give(held.asked.asker, self.quorum.image().offset(), response, effects);
    }

    fn propose(&mut self, now: Now, held: Held, effects: &mut Vec<Effect>) {
        let Held { asked, decision: Decision { records, response } } = held;
        let Some(speculative) = &mut self.speculative else { return self.forwarding.push(asked) };
        let offset = speculative.offset() + 1;
        match self.quorum.propose(offset, &records) {
            Ok(at) => {
                self.had_room = true;
                records.iter().for_each(|record| speculative.replay(record));
                let asker = asked.asker;
                if is_planted(Bug::AnswerBeforeWrite) {
                    let (offset, image) = (speculative.offset(), Arc::new(speculative.clone()));
                    effects.push(Effect::Publish { offset, records: Arc::new(records), image });
                    self.answer_at(offset, asker, response);
                } else {
                    self.proposed.push_back(Proposed { at, asker, response });
                }
                self.take_outputs(now, effects);
            }
            Err(NotProposed::Busy) => {
                let why = ApiError::new(ErrorCode::RequestTimedOut, "the controller has too much to commit; try again");
                self.give(asked.asker, self.quorum.image().offset(), response.refused(&why), effects);
            }
            Err(NotProposed::NotLeader) => self.forwarding.push(asked),
        }
    }

    /// A decision is true.
    fn committed(&mut self, at: Position, change: Change, effects: &mut Vec<Effect>) {
        if is_planted(Bug::AnswerBeforeWrite) {
            return;
        }
        let (offset, records, image) = change;
        assert_eq!(self.published.offset() + records.len() as u64, offset, "no record was left out");
        self.published = Arc::clone(&image);
        effects.push(Effect::Publish { offset, records: Arc::new(records), image });
        self.answer_until(at, effects);
    }

    /// Gives the answers to what is true now.
    fn answer_until(&mut self, at: Position, effects: &mut Vec<Effect>) {
        let offset = self.quorum.image().offset();
        while self.proposed.front().is_some_and(|first| first.at <= at)
            && let Some(Proposed { asker, response, .. }) = self.proposed.pop_front()
        {
            self.give(asker, offset, response, effects);
        }
    }

    /// The image is another one, which a snapshot has brought: the shards are told what has become different.
    fn installed(&mut self, image: Arc<ClusterImage>, effects: &mut Vec<Effect>) {
        let records = image.difference(&self.published);
        self.published = Arc::clone(&image);
        effects.push(Effect::Publish { offset: image.offset(), records: Arc::new(records), image });
    }

    // ---- Answers ----

    /// Gives an answer to whoever asked; where that is this process, when all shards have applied what is true at `offset`.
    fn give(&mut self, asker: Asker, offset: u64, response: ControllerResponse, effects: &mut Vec<Effect>) {
        match asker {
            Asker::Peer { link, id } => {
                let mut more = Vec::new();
                let bytes = wire::encode_response(&response).into();
                self.links.respond(link, id, offset, bytes, &mut more);
                effects.extend(more.into_iter().map(Effect::Link));
            }
            Asker::Own => self.heard(&response, effects),
            Asker::Heartbeat { sent } => self.heartbeat_answered(sent, &response, effects),
            Asker::Shard { .. } | Asker::Node { .. } | Asker::Client { .. } => self.answer_at(offset, asker, response),
        }
    }

    /// The answer is to be given when every shard knows what is true at this offset.
    fn answer_at(&mut self, offset: u64, asker: Asker, response: ControllerResponse) {
        self.answers.push(offset, self.now.elapsed + forwarding::REQUEST_MAX, asker, response);
    }

    /// Gives the answers that can be given. Whether a client of controllers was among those who got one.
    fn answer(&mut self, effects: &mut Vec<Effect>) -> bool {
        let mut is_client = false;
        while !self.has_failed
            && let Some((asker, response)) = self.answers.next(self.all_applied(), self.now.elapsed)
        {
            is_client |= matches!(asker, Asker::Client { .. });
            self.hand_over(asker, response, effects);
        }
        is_client
    }

    fn hand_over(&mut self, asker: Asker, response: ControllerResponse, effects: &mut Vec<Effect>) {
        match asker {
            Asker::Client { link } => self.client_answered(self.now, link, response, effects),
            asker => effects.push(Effect::Answer { asker, response }),
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.link(now, links::Event::Tick, effects);
        self.quorum.tick(now.elapsed);
        if self.campaign_at.is_some_and(|at| at <= now.elapsed) {
            self.campaign_at = None;
            self.quorum.campaign();
        }
        self.take_outputs(now, effects);
        for asked in self.forwarding.expired(now.elapsed) {
            let why = ApiError::new(ErrorCode::RequestTimedOut, "no controller could be reached in time; try again");
            self.refuse(now, asked, &why, effects);
        }
        self.end_a_session(now, effects);
        self.balance(now, effects);
        self.say_so(now, effects);
        self.care(now, effects);
        self.notice_silence(effects);
    }

    // ---- Other nodes ----

    fn link(&mut self, now: Now, event: links::Event, effects: &mut Vec<Effect>) {
        let (mut more, mut told) = (Vec::new(), Vec::new());
        self.links.handle(now.elapsed, event, &mut more, &mut told);
        effects.extend(more.into_iter().map(Effect::Link));
        for told in told {
            self.told(now, told, effects);
        }
    }

    fn told(&mut self, now: Now, told: Told, effects: &mut Vec<Effect>) {
        match told {
            Told::Up { peer } => self.up(now, &peer, effects),
            Told::Called { peer } => self.called(now, &peer, effects),
            Told::Gone { peer } => self.gone(&peer),
            Told::Client { link, bytes } => self.client_sent(now, link, bytes, effects),
            Told::ClientGone { link } => self.client_gone(link),
            Told::Down { node_id, is_refused } => self.down(now, node_id, is_refused),
            Told::Raft { from, bytes } => {
                let member = MemberId::of_directory(from.directory_id);
                if let Err(why) = self.quorum.step(member, &bytes) {
                    let message = format!("a message of node {} is refused: {why}", from.node_id);
                    self.warn_of_peer(message, effects);
                } else {
                    self.heard_of(now, member);
                }
                self.take_outputs(now, effects);
            }
            Told::Request { from, link, id, request } => match forwarding::decode(&request) {
                Ok((random_id, request)) => self.ask(now, Asker::Peer { link, id }, request, random_id, effects),
                Err(why) => {
                    let message = format!("a request of node {} cannot be read: {why}", from.node_id);
                    self.warn_of_peer(message, effects);
                    self.send_away(link, id, effects);
                }
            },
            Told::Response { id, offset, response, from } => {
                let Some(asked) = self.forwarding.answered(id) else { return };
                let response = wire::decode_response(&response).and_then(|response| {
                    let fits = asked.request.is_answered_by(&response);
                    if fits { Ok(response) } else { Err("it answers another kind of request".to_owned()) }
                });
                match response {
                    Ok(response) => self.give(asked.asker, offset, response, effects),
                    Err(why) => {
                        let message = format!("an answer of node {} cannot be read: {why}", from.node_id);
                        self.warn_of_peer(message, effects);
                        let why =
                            ApiError::new(ErrorCode::UnknownServerError, "the controller's answer cannot be read");
                        self.refuse(now, asked, &why, effects);
                    }
                }
            }
            Told::NotController { id, .. } => self.forwarding.sent_away(now.elapsed, id),
            Told::Adopt { .. } => {}
            Told::Rejected { text, .. } => effects.push(Effect::Warn { message: text }),
        }
    }

    /// A node can be reached. One that belongs to the quorum and has no log yet is given one to begin with.
    fn up(&mut self, now: Now, peer: &Peer, effects: &mut Vec<Effect>) {
        self.adopt(peer, effects);
        self.fence_predecessor(now, peer);
    }

    fn down(&mut self, now: Now, node_id: i32, is_refused: bool) {
        self.forwarding.lost(now.elapsed, node_id);
        let members = self.quorum.members().iter().map(|(member, _)| member);
        let of_node: Vec<MemberId> =
            members.filter(|member| member.node_id == node_id).map(|member| member.id).collect();
        of_node.iter().for_each(|member| self.quorum.unreachable(*member));
        if is_refused {
            if self.quorum.leader().is_some_and(|leader| of_node.contains(&leader)) {
                self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                // The high bits are the good ones.
                let after_us = (self.chance >> 33) % CAMPAIGN_AFTER_MAX.as_micros() as u64;
                self.campaign_at = Some(now.elapsed + Duration::from_micros(after_us));
            }
            self.fence(now, node_id);
        }
    }

    /// Sends requests to the node that decides, if that can be reached.
    fn forward(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.forwarding.rest(now.elapsed);
        let Some(leader) = self.leader().filter(|leader| *leader != self.options.node_id) else { return };
        self.forwarding.turn_to(leader);
        let mut more = Vec::new();
        if self.links.is_up(leader) {
            self.forwarding.send(now.elapsed, leader, &mut self.links, &mut more);
        }
        effects.extend(more.into_iter().map(Effect::Link));
    }
}

/// This node does not decide any more. What was proposed and not committed may happen or not.
fn not_controller() -> ApiError {
    ApiError::new(ErrorCode::NotController, "another node has become the controller; try again")
}
