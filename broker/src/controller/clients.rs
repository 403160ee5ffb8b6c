//! Kafka's clients at the listener of controllers (KIP-919): tools that are given `--bootstrap-controller`. They are answered what
//! the image says, and what the active controller decides; everything else is for brokers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use millstream_replication::ControllerResponse;
use millstream_storage::Now;

use super::{Asker, ControllerNode, Effect};
use crate::api::{self, ApiContext, Continuation, Controllers, Outcome};
use crate::peer::frame::FRAME_BYTES_MAX;
use crate::peer::links::{self, LinkId};
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::Handler;

/// Requests of one connection that wait behind the one that is answered; a client that sends more is closed.
pub const WAITING_MAX: usize = 16;

/// Bytes of them: more than one frame is only small ones.
pub const WAITING_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// A connection of a client.
#[derive(Debug, Default)]
struct Client {
    /// What is kept of the request that is being decided. Requests are answered one after the other.
    under_way: Option<Continuation>,
    waiting: VecDeque<Bytes>,
}

/// All connections of clients.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_link: BTreeMap<LinkId, Client>,
}

impl ControllerNode {
    /// A client has sent a frame.
    pub(super) fn client_sent(&mut self, now: Now, link: LinkId, frame: Bytes, effects: &mut Vec<Effect>) {
        let client = self.clients.by_link.entry(link).or_default();
        client.waiting.push_back(frame);
        let bytes: usize = client.waiting.iter().map(Bytes::len).sum();
        if client.waiting.len() > WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return self.close_client(link, effects);
        }
        self.serve_client(now, link, effects);
    }

    /// A client's connection is gone. What is being decided for it is decided, and nobody is told.
    pub(super) fn client_gone(&mut self, link: LinkId) {
        self.clients.by_link.remove(&link);
    }

    /// What a client has asked for is decided.
    pub(super) fn client_answered(
        &mut self,
        now: Now,
        link: LinkId,
        response: ControllerResponse,
        effects: &mut Vec<Effect>,
    ) {
        let Some(client) = self.clients.by_link.get_mut(&link) else { return };
        let then = client.under_way.take().expect("it was asked for");
        let controllers = self.controllers();
        match api::finish(&self.context(&controllers), then, response) {
            Ok(reply) => effects.push(Effect::Link(links::Effect::Send { link, bytes: reply })),
            Err(_) => return self.close_client(link, effects),
        }
        self.serve_client(now, link, effects);
    }

    /// Answers a client's requests until one has to be decided.
    fn serve_client(&mut self, now: Now, link: LinkId, effects: &mut Vec<Effect>) {
        while let Some(client) = self.clients.by_link.get_mut(&link)
            && client.under_way.is_none()
            && let Some(frame) = client.waiting.pop_front()
        {
            let outcome = match RequestHeader::parse(frame) {
                Ok((header, body)) => match header.api_key.handler() {
                    Handler::Image(api) if api::is_served_by_controllers(api) => {
                        let controllers = self.controllers();
                        api::handle(&self.context(&controllers), api, &header, body)
                    }
                    // A broker's matter: the client has asked the wrong port.
                    _ => return self.close_client(link, effects),
                },
                Err(_) => return self.close_client(link, effects),
            };
            match outcome {
                Outcome::Reply(reply) => effects.push(Effect::Link(links::Effect::Send { link, bytes: reply })),
                Outcome::Controller { request, then } => {
                    let client = self.clients.by_link.get_mut(&link).expect("it is served");
                    client.under_way = Some(then);
                    // None of these requests makes a topic, whose identity would be made of them.
                    self.ask(now, Asker::Client { link }, request, [0; 16], effects);
                }
                Outcome::Close(_) => return self.close_client(link, effects),
            }
        }
    }

    fn close_client(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        self.clients.by_link.remove(&link);
        let mut more = Vec::new();
        self.links.close_client(link, &mut more);
        effects.extend(more.into_iter().map(Effect::Link));
    }

    /// The controllers, as their clients are told of them.
    fn controllers(&self) -> Controllers {
        let voters = self.quorum.members().voters();
        let place = |node_id: i32, (host, port): &(String, u16)| (node_id, host.clone(), *port);
        Controllers {
            leader: self.leader().unwrap_or(-1),
            nodes: voters.filter_map(|voter| Some(place(voter.node_id, voter.endpoint.as_ref()?))).collect(),
        }
    }

    fn context<'a>(&'a self, controllers: &'a Controllers) -> ApiContext<'a> {
        ApiContext {
            image: &self.published,
            file: self.controller.file(),
            node_id: self.options.node_id,
            listener: "",
            controllers: Some(controllers),
        }
    }
}
