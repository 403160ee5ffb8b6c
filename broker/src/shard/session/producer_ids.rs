//! InitProducerId: fresh producer ids from a block that this shard holds. Blocks come from the controller, which never
//! gives the same twice; what a shard has left when it stops is lost, of 2^63.
//!
//! Transactions are not served. A client that asks with a transactional id gets TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
//! of the errors that every client library knows here, it is the one that all of them take for final, where the
//! fitting ones (such as UNSUPPORTED_VERSION or COORDINATOR_NOT_AVAILABLE) are tried again until a timeout by some.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode};

use super::clients::Clients;
use super::controller::{ControllerCall, ControllerCalls};
use crate::api::codec::{decode, encode};
use crate::protocol::header::RequestHeader;
use crate::shard::event::RequestId;
use crate::shard::turn::Turn;

/// With fewer ids left than this, the next block is asked for.
const REFILL_BELOW: i64 = 100;

/// The producer ids this shard may give out.
#[derive(Debug, Default)]
pub struct ProducerIds {
    block: Range<i64>,
    /// The one to go on with.
    next_block: Range<i64>,
    is_asking: bool,
    /// Requests that wait for a block; bounded by the requests in flight.
    waiting: VecDeque<(RequestId, RequestHeader)>,
}

impl ProducerIds {
    /// Takes an InitProducerId request.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        calls: &mut ControllerCalls,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
    ) {
        let request: InitProducerIdRequest = match decode(header, body) {
            Ok(request) => request,
            Err(_) => return clients.close(turn, id),
        };
        // A copy of the header that does not keep the frame.
        let header = RequestHeader { client_id: None, ..header.clone() };
        if let Some(transactional_id) = &request.transactional_id {
            let error = if transactional_id.is_empty() {
                ErrorCode::InvalidRequest
            } else {
                ErrorCode::TransactionalIdAuthorizationFailed
            };
            return reply(turn, clients, id, &header, Err(error));
        }
        self.waiting.push_back((id, header));
        self.give(turn, clients, calls);
    }

    /// The controller gave a block: the first id and how many there are.
    pub fn allocated(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        calls: &mut ControllerCalls,
        block: Result<(i64, i64), ApiError>,
    ) {
        self.is_asking = false;
        match block {
            Ok((first, count)) => {
                assert!(self.next_block.is_empty(), "one block is asked for at a time");
                self.next_block = first..first + count;
                self.give(turn, clients, calls);
            }
            // Who waits tries again; so do we, with the next request.
            Err(error) => {
                // Clients know nothing of brokers' epochs: they come again, and by then it is another.
                let code = match error.code {
                    ErrorCode::StaleBrokerEpoch => ErrorCode::CoordinatorLoadInProgress,
                    code => code,
                };
                for (id, header) in std::mem::take(&mut self.waiting) {
                    reply(turn, clients, id, &header, Err(code));
                }
            }
        }
    }

    /// Answers who waits, while there are ids, and asks for more before they run out.
    fn give(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, calls: &mut ControllerCalls) {
        while let Some((id, header)) = self.waiting.pop_front() {
            if self.block.is_empty() {
                self.block = std::mem::take(&mut self.next_block);
            }
            let Some(producer_id) = self.block.next() else {
                self.waiting.push_front((id, header));
                break;
            };
            reply(turn, clients, id, &header, Ok(producer_id));
        }
        if self.left() < REFILL_BELOW && !self.is_asking {
            self.is_asking = true;
            let (node_id, epoch) = (turn.options.node_id, turn.metadata.broker_epoch());
            calls.ask(turn, ControllerCall::ProducerIds, ControllerRequest::AllocateProducerIds { node_id, epoch });
        }
    }

    fn left(&self) -> i64 {
        (self.block.end - self.block.start) + (self.next_block.end - self.next_block.start)
    }

    /// Forgets a request whose connection is gone.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
    }
}

fn reply(
    turn: &mut Turn<'_>,
    clients: &mut Clients,
    id: RequestId,
    header: &RequestHeader,
    producer_id: Result<i64, ErrorCode>,
) {
    let mut response = InitProducerIdResponse::default();
    match producer_id {
        Ok(producer_id) => {
            response.producer_id = producer_id;
            response.producer_epoch = 0;
        }
        Err(error) => {
            response.error_code = error.code();
            response.producer_id = -1;
            response.producer_epoch = -1;
        }
    }
    clients.reply_or_close(turn, id, encode(header, &response));
}
