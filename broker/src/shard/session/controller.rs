//! What a session asks the controller for, and the requests that are answered from the cluster image or by the
//! controller ([`crate::api`]).

use std::collections::HashMap;

use bytes::Bytes;
use millstream_replication::{ControllerRequest, ControllerResponse};

use super::clients::Clients;
use crate::api;
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::ImageApi;
use crate::shard::event::{ConnectionId, Effect, RequestId};
use crate::shard::turn::Turn;

/// What the controller was asked for.
#[derive(Debug)]
pub enum ControllerCall {
    /// A block of producer ids.
    ProducerIds,
    /// A decision for a client.
    Api {
        /// Its request.
        request: RequestId,
        /// What is needed to answer it.
        then: api::Continuation,
    },
    /// The creation of `__consumer_offsets`.
    OffsetsTopic,
    /// Who is to be in sync.
    AlterPartition,
}

/// Calls that the controller has not answered yet.
#[derive(Debug, Default)]
pub struct ControllerCalls {
    calls: HashMap<u64, ControllerCall>,
    next_token: u64,
}

impl ControllerCalls {
    /// Asks the controller.
    pub fn ask(&mut self, turn: &mut Turn<'_>, call: ControllerCall, request: ControllerRequest) {
        let token = self.next_token;
        self.next_token += 1;
        self.calls.insert(token, call);
        turn.effects.push(Effect::ToController { token, request });
    }

    /// The controller has answered: takes what it was asked for.
    pub fn take(&mut self, token: u64) -> ControllerCall {
        self.calls.remove(&token).expect("the controller answers once")
    }

    /// Takes a request that is answered from the image, or by the controller.
    pub fn api(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        api: ImageApi,
        header: &RequestHeader,
        body: Bytes,
    ) {
        match api::handle(&api_context(turn, clients, id.connection), api, header, body) {
            api::Outcome::Reply(frame) => clients.reply(turn, id, frame),
            api::Outcome::Controller { request, then } => {
                self.ask(turn, ControllerCall::Api { request: id, then }, request);
            }
            api::Outcome::Close(_) => clients.close(turn, id),
        }
    }
}

/// The controller has decided what a client asked for.
pub fn finish_api(
    turn: &mut Turn<'_>,
    clients: &mut Clients,
    id: RequestId,
    then: api::Continuation,
    response: ControllerResponse,
) {
    // Its connection may be gone.
    if clients.connections.listener(id.connection).is_some() {
        let frame = api::finish(&api_context(turn, clients, id.connection), then, response);
        clients.reply_or_close(turn, id, frame);
    }
}

fn api_context<'a>(turn: &Turn<'a>, clients: &Clients, connection: ConnectionId) -> api::ApiContext<'a> {
    api::ApiContext {
        image: turn.metadata.image(),
        file: &turn.options.file,
        node_id: turn.options.node_id,
        listener: clients.listener(turn, connection),
        controllers: None,
    }
}
