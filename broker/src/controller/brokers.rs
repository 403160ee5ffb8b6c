//! Brokers that are there, as the controller of a node sees them: the active controller hears of them and fences those that are
//! gone, and every node says that its own is there.

use millstream_replication::{ControllerRequest, ControllerResponse, Decision, ErrorCode};
use millstream_storage::Now;

use super::{Asked, Asker, ControllerNode, Effect, forwarding};
use crate::peer::links::Peer;

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
        let ControllerResponse::BrokerHeartbeat(reply) = response else { return };
        self.is_heartbeat_under_way = false;
        if let Err(error) = reply
            && matches!(error.code, ErrorCode::StaleBrokerEpoch | ErrorCode::BrokerIdNotRegistered)
        {
            self.has_failed = true;
            let node_id = self.options.node_id;
            let reason = format!("broker {node_id} is not this process any more, says the controller: {error}");
            effects.push(Effect::Fail { reason });
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
        self.ask(now, Asker::Own, request, [0; 16], effects);
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
