//! ListPartitionReassignments (KIP-455): a replica stays where it was created, so the list is empty, as Kafka's is when
//! nothing moves.

use bytes::Bytes;
use kafka_wire::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use kafka_wire::list_partition_reassignments_response::ListPartitionReassignmentsResponse;

use super::{CloseReason, codec};
use crate::protocol::header::RequestHeader;

pub(super) fn list(header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let _: ListPartitionReassignmentsRequest = codec::decode(header, body)?;
    codec::encode(header, &ListPartitionReassignmentsResponse::default())
}
