//! Brokers that are there, as the controller of a node sees them: the active controller hears of them and fences those that are
//! gone, and every node says that its own is there.

use std::time::Duration;

use millstream_replication::controller::{ELECTIONS_PER_BALANCE_MAX, imbalanced};
use millstream_replication::{ControllerRequest, ControllerResponse, Decision, ErrorCode};
use millstream_storage::Now;
use millstream_storage::bug::{Bug, is_planted};

use super::{Asked, Asker, ControllerNode, Effect, forwarding};
use crate::peer::links::Peer;

/// The wait between two balancings where more is to be balanced than one may do.
const BALANCE_MORE: Duration = Duration::from_secs(1);

/// Whether an answer may leave only when the quorum has confirmed that this node still decides: a lease that nothing is
/// written for. One that is written for is answered when that is committed, which says the same.
pub(super) fn wants_confirmation(decision: &Decision) -> bool {
    let ControllerResponse::BrokerHeartbeat(Ok(reply)) = &decision.response else { return false };
    decision.records.is_empty() && reply.lease_ms > 0 && !is_planted(Bug::LeaseUnconfirmed)
}

impl ControllerNode {
    /// The epoch of this process's registration.
    pub(super) fn epoch(&self) -> Option<i64> {
        let broker = self.quorum.image().broker(self.options.node_id)?;
        (broker.incarnation == self.options.incarnation).then_some(broker.epoch)
    }

    /// A broker has said something that was taken: it is there. One that is fenced has no session, nor has that of this
    /// process: as long as this process decides it is there.
    pub(super) fn hear(&mut self, now: Now, request: &ControllerRequest, decision: &Decision) {
        let now = now.elapsed;
        let is_other = |node_id: i32| node_id != self.options.node_id;
        match (request, &decision.response) {
            (ControllerRequest::RegisterBroker { node_id, .. }, ControllerResponse::RegisterBroker(Ok(epoch)))
                if is_other(*node_id) =>
            {
                self.sessions.contact(now, *node_id, *epoch);
            }
            (ControllerRequest::BrokerHeartbeat { node_id, epoch, .. }, ControllerResponse::BrokerHeartbeat(Ok(_)))
                if is_other(*node_id) =>
            {
                self.sessions.contact(now, *node_id, *epoch);
            }
            (ControllerRequest::FenceBroker { node_id, .. }, _) if decision.records.is_empty() => {
                self.sessions.ended(now, *node_id);
            }
            (ControllerRequest::FenceBroker { node_id, .. }, _) => self.sessions.fenced(now, *node_id),
            (ControllerRequest::UnregisterBroker { node_id }, ControllerResponse::UnregisterBroker(Ok(()))) => {
                self.sessions.ended(now, *node_id);
            }
            _ => {}
        }
    }

    /// Decides that a broker is gone.
    pub(super) fn fence(&mut self, now: Now, node_id: i32) {
        let Some(image) = &self.speculative else { return };
        let Some(broker) = image.broker(node_id).filter(|broker| !broker.is_fenced) else { return };
        let request = ControllerRequest::FenceBroker { node_id, epoch: broker.epoch };
        let until = now.elapsed + forwarding::REQUEST_MAX;
        self.queue.push_front(Asked { asker: Asker::Own, request, random_id: [0; 16], until });
    }

    /// What was asked by the controller itself has an answer.
    pub(super) fn heard(&mut self, response: &ControllerResponse, effects: &mut Vec<Effect>) {
        if let ControllerResponse::ChangeMembers(Err(error)) = response
            && !matches!(error.code, ErrorCode::RequestTimedOut | ErrorCode::NotController)
        {
            // It is asked for again and again: whoever waits for it is not told why.
            self.warn_of_peer(format!("the members of the quorum cannot be changed: {error}"), effects);
        }
    }

    /// The heartbeat that was sent then has an answer. A lease that it grants counts from then on, as the controller has heard
    /// of this broker later than that, and fences it a whole session after that.
    pub(super) fn heartbeat_answered(
        &mut self,
        sent: Duration,
        response: &ControllerResponse,
        effects: &mut Vec<Effect>,
    ) {
        self.is_heartbeat_under_way = false;
        let ControllerResponse::BrokerHeartbeat(reply) = response else { panic!("a heartbeat's answer: {response:?}") };
        match reply {
            Ok(reply) if reply.lease_ms == 0 => self.lease_until = Duration::ZERO,
            Ok(_) if is_planted(Bug::LeaseTooLong) => self.lease_until = sent + self.options.session_timeout * 2,
            Ok(reply) => {
                let lease = Duration::from_millis(u64::from(reply.lease_ms));
                self.lease_until = self.lease_until.max(sent.saturating_add(lease));
            }
            Err(error) if matches!(error.code, ErrorCode::StaleBrokerEpoch | ErrorCode::BrokerIdNotRegistered) => {
                self.has_failed = true;
                let node_id = self.options.node_id;
                let reason = format!("broker {node_id} is not this process any more, says the controller: {error}");
                effects.push(Effect::Fail { reason });
            }
            // Nobody has decided: what was granted before lasts.
            Err(_) => {}
        }
    }

    /// Until when this process's broker has its lease. Where its member is the only voter, nobody else can fence it. Where it is
    /// fenced, as far as is known here, it has none, whatever it was granted.
    pub(super) fn lease_until(&self) -> Duration {
        let broker = self.quorum.image().broker(self.options.node_id);
        let is_unfenced =
            broker.is_some_and(|broker| broker.incarnation == self.options.incarnation && !broker.is_fenced);
        match (is_unfenced, self.is_alone()) {
            (false, _) => Duration::ZERO,
            (true, true) => Duration::MAX,
            (true, false) => self.lease_until,
        }
    }

    /// Asks the quorum whether this node still decides, for all heartbeats that wait for it.
    pub(super) fn ask_confirmation(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.confirming.wants_question() {
            return;
        }
        // Who does not lead any more will hear so, and they are sent to whoever does.
        if let Ok(number) = self.quorum.confirm() {
            self.confirming.begin(number);
            self.take_outputs(now, effects);
        }
    }

    /// Decides that the broker is gone that has been silent for longest, if that is longer than its session. Not before it
    /// can be decided: until then it would be found again with every tick.
    pub(super) fn end_a_session(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.may_decide()
            && let Some((node_id, epoch)) = self.sessions.expired(now.elapsed)
        {
            match self.speculative.as_ref().and_then(|image| image.broker(node_id)) {
                Some(broker) if broker.epoch == epoch && !broker.is_fenced => {
                    let message = format!("broker {node_id} has not been heard of for its session: it is fenced");
                    effects.push(Effect::Warn { message });
                    self.fence(now, node_id);
                    // Decided before the next one is looked for.
                    self.decide(now, effects);
                }
                _ => self.sessions.ended(now.elapsed, node_id),
            }
        }
    }

    /// Gives leadership back to preferred replicas, where that is due.
    pub(super) fn balance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(interval) = self.options.imbalance_check_interval else { return };
        if !self.may_decide() || self.balance_at.is_none_or(|at| at > now.elapsed) {
            return;
        }
        let Some(image) = &self.speculative else { return };
        let partitions = imbalanced(image);
        let is_all = partitions.len() < ELECTIONS_PER_BALANCE_MAX;
        self.balance_at = Some(now.elapsed + if is_all { interval } else { BALANCE_MORE.min(interval) });
        if !partitions.is_empty() {
            let request = ControllerRequest::ElectLeaders { partitions: Some(partitions), is_unclean: false };
            let until = now.elapsed + forwarding::REQUEST_MAX;
            self.queue.push_back(Asked { asker: Asker::Own, request, random_id: [0; 16], until });
            self.decide(now, effects);
        }
    }

    /// Tells the active controller that this broker is there.
    pub(super) fn say_so(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.is_alone() || now.elapsed < self.heartbeat_at {
            return;
        }
        let Some(epoch) = self.epoch() else { return };
        self.heartbeat_at = now.elapsed + self.options.heartbeat_interval;
        if self.is_heartbeat_under_way {
            return;
        }
        self.is_heartbeat_under_way = true;
        let request = ControllerRequest::BrokerHeartbeat {
            node_id: self.options.node_id,
            epoch,
            applied_offset: self.all_applied(),
            want_fence: false,
            want_shutdown: false,
        };
        self.ask(now, Asker::Heartbeat { sent: now.elapsed }, request, [0; 16], effects);
    }

    /// Another process is there than the one that is registered: that one is gone.
    pub(super) fn fence_predecessor(&mut self, now: Now, peer: &Peer) {
        let registered = self.speculative.as_ref().and_then(|image| image.broker(peer.node_id));
        if registered.is_some_and(|broker| broker.incarnation != peer.incarnation) {
            self.fence(now, peer.node_id);
        }
    }

    /// The connection of a node is gone that cannot be dialled as a peer. Where it is a broker its process is looked for
    /// where clients find it.
    pub(super) fn gone(&mut self, peer: &Peer) {
        let broker = self.speculative.as_ref().and_then(|image| image.broker(peer.node_id));
        if let Some(broker) = broker.filter(|broker| !broker.is_fenced && broker.incarnation == peer.incarnation)
            && let Some(endpoint) = broker.endpoints.first()
        {
            self.links.probe(peer.node_id, endpoint.host.clone(), endpoint.port);
        }
    }
}
