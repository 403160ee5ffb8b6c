//! The members of the quorum, as the controller of a node cares for them: it has the active controller let in whoever calls and
//! is no member yet, gives it a snapshot to begin with, has itself made a voter where it is configured to be one, and says
//! where it is reached. What becomes of that the active controller decides (`millstream_replication::controller`).

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_replication::controller::{QuorumInfo, QuorumReplica, QuorumView, change_members};
use millstream_replication::quorum::{Member, MemberId};
use millstream_replication::{ApiError, ControllerRequest, ControllerResponse, ErrorCode};
use millstream_storage::Now;

use super::{Asked, Asker, ControllerNode, Effect, Proposed};
use crate::peer::links::Peer;

/// What has come to nothing is asked for again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What a node remembers of members and of those that want to be.
#[derive(Debug, Default)]
pub(super) struct Caring {
    /// Directories that have called and are no members: when they are asked for again.
    callers: BTreeMap<[u8; 16], Duration>,
    /// When this node asks for itself again.
    own_at: Duration,
    /// This node is to vote by itself. Not any more once it has: who takes its vote away then means it.
    wants_vote: bool,
    /// When the leader has heard of the members, and when they had everything, in ms since 1970.
    heard: BTreeMap<MemberId, (i64, i64)>,
}

impl Caring {
    pub(super) fn new(wants_vote: bool) -> Caring {
        Caring { wants_vote, ..Caring::default() }
    }
}

impl ControllerNode {
    /// When [`ControllerNode::care`] has something to do.
    pub(super) fn cares_at(&self) -> Option<Duration> {
        let own = self.own_request().map(|_| self.caring.own_at);
        self.caring.callers.values().copied().chain(own).min()
    }

    /// Asks for whoever has called and is no member, and for what this node itself lacks.
    pub(super) fn care(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let members = self.quorum.members();
        let strangers: BTreeMap<[u8; 16], Peer> = self
            .links
            .callers()
            .filter(|peer| members.get(MemberId::of_directory(peer.directory_id)).is_none())
            .map(|peer| (peer.directory_id, peer.clone()))
            .collect();
        self.caring.callers.retain(|directory, _| strangers.contains_key(directory));
        for (directory_id, Peer { node_id, address, .. }) in strangers {
            let again_at = self.caring.callers.entry(directory_id).or_default();
            if *again_at <= now.elapsed {
                *again_at = now.elapsed + AGAIN_AFTER;
                let request = ControllerRequest::AddObserver { node_id, directory_id, endpoint: address };
                self.ask(now, Asker::Own, request, [0; 16], effects);
            }
        }
        if self.caring.own_at <= now.elapsed
            && let Some(request) = self.own_request()
        {
            self.caring.own_at = now.elapsed + AGAIN_AFTER;
            self.ask(now, Asker::Own, request, [0; 16], effects);
        }
    }

    /// What this node lacks as a member.
    fn own_request(&self) -> Option<ControllerRequest> {
        let (members, me) = (self.quorum.members(), self.quorum.me());
        let Member { node_id, directory_id, endpoint, .. } = members.get(me)?.clone();
        let has_moved = endpoint != self.options.address;
        let endpoint = self.options.address.clone();
        let is_left = |(member, votes): (&Member, bool)| !votes && member.node_id == node_id && member.id != me;
        if members.iter().any(is_left) {
            // Of a directory that it had before.
            return Some(ControllerRequest::AddObserver { node_id, directory_id, endpoint });
        }
        if members.is_voter(me) {
            let is_to_say = has_moved && endpoint.is_some();
            return is_to_say.then_some(ControllerRequest::UpdateRaftVoter { node_id, directory_id, endpoint });
        }
        if has_moved {
            return Some(ControllerRequest::AddObserver { node_id, directory_id, endpoint });
        }
        if !self.caring.wants_vote {
            return None;
        }
        // The directory that this node had before is gone (KIP-1186).
        match members.voters().find(|voter| voter.node_id == node_id) {
            Some(Member { directory_id, .. }) => {
                Some(ControllerRequest::RemoveRaftVoter { node_id, directory_id: *directory_id })
            }
            None => Some(ControllerRequest::AddRaftVoter { node_id, directory_id, endpoint }),
        }
    }

    /// A node has connected. One that holds nothing yet and is a member gets what it begins with.
    pub(super) fn called(&mut self, now: Now, peer: &Peer, effects: &mut Vec<Effect>) {
        // By the connection of this node's own, where there is one, it is given it as well.
        if !self.links.is_up(peer.node_id) {
            self.adopt(peer, effects);
        }
        self.fence_predecessor(now, peer);
        self.care(now, effects);
    }

    /// Gives a member that holds nothing yet a snapshot to begin with.
    pub(super) fn adopt(&mut self, peer: &Peer, effects: &mut Vec<Effect>) {
        if peer.is_forming && self.quorum.members().get(MemberId::of_directory(peer.directory_id)).is_some() {
            let mut more = Vec::new();
            self.links.adopt(peer.directory_id, self.quorum.snapshot(), &mut more);
            effects.extend(more.into_iter().map(Effect::Link));
        }
    }

    /// The members are others now.
    pub(super) fn members_changed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.find_peers(now.elapsed);
        let members = self.quorum.members();
        self.caring.wants_vote &= !members.is_voter(self.quorum.me());
        self.caring.heard.retain(|member, _| members.get(*member).is_some());
        let new: Vec<Peer> = self.links.callers().filter(|peer| peer.is_forming).cloned().collect();
        new.iter().for_each(|peer| self.adopt(peer, effects));
        // What was refused because another change was on its way may be done now.
        self.caring.callers.values_mut().for_each(|at| *at = Duration::ZERO);
        self.caring.own_at = Duration::ZERO;
        self.care(now, effects);
    }

    /// The active controller has heard of a member.
    pub(super) fn heard_of(&mut self, now: Now, member: MemberId) {
        if let Some(behind) = self.quorum.behind(member) {
            let (heard, caught_up) = self.caring.heard.entry(member).or_insert((-1, -1));
            *heard = now.unix_ms;
            if behind == 0 {
                *caught_up = now.unix_ms;
            }
        }
    }

    /// Decides a change of the members.
    pub(super) fn change_members(&mut self, asked: Asked, effects: &mut Vec<Effect>) {
        let change = {
            let quorum = &self.quorum;
            let peers: Vec<&Peer> = self.links.peers().chain(self.links.callers()).collect();
            let is_connected = |member: &Member| {
                let is = |peer: &&Peer| (peer.node_id, peer.directory_id) == (member.node_id, member.directory_id);
                peers.iter().any(is)
            };
            let behind = |member| quorum.behind(member);
            let view =
                QuorumView { members: quorum.members(), me: quorum.me(), behind: &behind, is_connected: &is_connected };
            change_members(view, &asked.request)
        };
        let outcome = match change {
            Ok(Some(change)) => match self.quorum.change_members(&change) {
                Ok(at) => {
                    let response = ControllerResponse::ChangeMembers(Ok(()));
                    self.proposed.push_back(Proposed { at, asker: asked.asker, response });
                    return;
                }
                Err(why) => Err(ApiError::new(ErrorCode::RequestTimedOut, format!("{why}; try again"))),
            },
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        self.give(asked.asker, self.quorum.image().offset(), ControllerResponse::ChangeMembers(outcome), effects);
    }

    /// The quorum as this node sees it, which leads it.
    pub(super) fn quorum_info(&self, now: Now) -> QuorumInfo {
        let (members, me) = (self.quorum.members(), self.quorum.me());
        let matched: BTreeMap<MemberId, u64> =
            self.quorum.progress().into_iter().map(|progress| (progress.id, progress.matched)).collect();
        let replica = |(member, is_voter): (&Member, bool)| {
            let heard = self.caring.heard.get(&member.id).copied().unwrap_or((-1, -1));
            let (heard_ms, caught_up_ms) = if member.id == me { (now.unix_ms, now.unix_ms) } else { heard };
            QuorumReplica {
                node_id: member.node_id,
                directory_id: member.directory_id,
                is_voter,
                log_end: matched.get(&member.id).copied().unwrap_or_default(),
                heard_ms,
                caught_up_ms,
                endpoint: member.endpoint.clone(),
            }
        };
        QuorumInfo {
            leader: self.options.node_id,
            term: self.quorum.term(),
            high_watermark: self.quorum.applied().index,
            replicas: members.iter().map(replica).collect(),
        }
    }
}
