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

use super::session::RequestId;
use super::{ControllerCall, Effect, Shard};
use crate::api::codec::{decode, encode};
use crate::protocol::header::RequestHeader;

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
    fn take(&mut self) -> Option<i64> {
        if self.block.is_empty() {
            self.block = std::mem::take(&mut self.next_block);
        }
        self.block.next()
    }

    fn left(&self) -> i64 {
        (self.block.end - self.block.start) + (self.next_block.end - self.next_block.start)
    }
}

impl Shard {
    /// Takes an InitProducerId request.
    pub(super) fn init_producer_id(
        &mut self,
        id: RequestId,
        header: &RequestHeader,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let request: InitProducerIdRequest = match decode(header, body) {
            Ok(request) => request,
            Err(_) => return self.close(id, effects),
        };
        // A copy of the header that does not keep the frame.
        let header = RequestHeader { client_id: None, ..header.clone() };
        if let Some(transactional_id) = &request.transactional_id {
            let error = if transactional_id.is_empty() {
                ErrorCode::InvalidRequest
            } else {
                ErrorCode::TransactionalIdAuthorizationFailed
            };
            return self.reply_producer_id(id, &header, Err(error), effects);
        }
        self.producer_ids.waiting.push_back((id, header));
        self.give_producer_ids(effects);
    }

    /// The controller gave a block: the first id and how many there are.
    pub(super) fn producer_ids_allocated(&mut self, block: Result<(i64, i64), ApiError>, effects: &mut Vec<Effect>) {
        self.producer_ids.is_asking = false;
        match block {
            Ok((first, count)) => {
                assert!(self.producer_ids.next_block.is_empty(), "one block is asked for at a time");
                self.producer_ids.next_block = first..first + count;
                self.give_producer_ids(effects);
            }
            // Who waits tries again; so do we, with the next request.
            Err(error) => {
                for (id, header) in std::mem::take(&mut self.producer_ids.waiting) {
                    self.reply_producer_id(id, &header, Err(error.code), effects);
                }
            }
        }
    }

    fn give_producer_ids(&mut self, effects: &mut Vec<Effect>) {
        while !self.producer_ids.waiting.is_empty()
            && let Some(producer_id) = self.producer_ids.take()
        {
            let (id, header) = self.producer_ids.waiting.pop_front().expect("it was just seen");
            self.reply_producer_id(id, &header, Ok(producer_id), effects);
        }
        if self.producer_ids.left() < REFILL_BELOW && !self.producer_ids.is_asking {
            self.producer_ids.is_asking = true;
            self.ask_controller(ControllerCall::ProducerIds, ControllerRequest::AllocateProducerIds, effects);
        }
    }

    fn reply_producer_id(
        &mut self,
        id: RequestId,
        header: &RequestHeader,
        producer_id: Result<i64, ErrorCode>,
        effects: &mut Vec<Effect>,
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
        self.reply(id, encode(header, &response), effects);
    }

    /// Forgets a request whose connection is gone.
    pub(super) fn cancel_init_producer_id(&mut self, id: RequestId) {
        self.producer_ids.waiting.retain(|(waiting, _)| *waiting != id);
    }
}
