//! UnregisterBroker (KIP-631): a broker that will not come back is to be forgotten; the controller decides.

use bytes::Bytes;
use kafka_wire::unregister_broker_request::UnregisterBrokerRequest;
use kafka_wire::unregister_broker_response::UnregisterBrokerResponse;
use millstream_replication::{ApiError, ControllerRequest};

use super::{CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

pub(super) fn handle(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: UnregisterBrokerRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    ask(header, ControllerRequest::UnregisterBroker { node_id: request.broker_id }, Then::UnregisterBroker)
}

pub(super) fn finish(header: &RequestHeader, outcome: Result<(), ApiError>) -> Result<Bytes, CloseReason> {
    let mut response = UnregisterBrokerResponse::default();
    response.error_message = None;
    if let Err(error) = outcome {
        response.error_code = error.code.code();
        response.error_message = Some(error.message.into());
    }
    codec::encode(header, &response)
}
