//! Deletes records from the start of partitions, with DeleteRecords.

use bytes::Bytes;
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::{DeleteRecordsRequest, DeleteRecordsResponse};
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Finding, Knowledge, Outgoing, Reaction, Role, Target, wire};

#[derive(Debug)]
pub struct Deleter {
    /// The topic has several replicas: all in sync are to delete, and a new leader may not know yet what is committed.
    is_replicated: bool,
    /// The partition and the offset before which it asked to delete last.
    asked: Option<(usize, i64)>,
}

impl Deleter {
    pub fn new(is_replicated: bool) -> Deleter {
        Deleter { is_replicated, asked: None }
    }
}

impl Role for Deleter {
    fn pause_us(&self, random: &mut Random) -> u64 {
        random.between(10_000, 200_000)
    }

    fn target(&self) -> Target {
        Target::SomeLeader
    }

    fn is_impatient(&self) -> bool {
        true
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        let partition = knowledge.any_here(random);
        let known = &mut knowledge.partitions[partition];
        let room = (known.end - known.deleted_to).max(0) as u64;
        let is_all = self.is_replicated && random.one_in(4);
        let offset = known.deleted_to + if is_all { room } else { random.below(room / 2 + 1) } as i64;
        known.deleted_to = offset;
        self.asked = Some((partition, offset));
        let timeout_ms = if self.is_replicated { [20, 200, 1_000][random.index(3)] } else { 30_000 };
        Some(Outgoing::Answered(delete(partition, offset, timeout_ms)))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        let (partition, offset) = self.asked.take().expect("it asked");
        let response: DeleteRecordsResponse = wire::response(wire::DELETE_RECORDS, body)?;
        let result = &response.topics[0].partitions[0];
        match result.error_code {
            0 if result.low_watermark < offset => {
                Err(format!("records before {offset} deleted, but the log starts at {result:?}"))
            }
            0 => {
                reaction.findings.push(Finding::Promised { partition, log_start: result.low_watermark });
                Ok(())
            }
            error if wire::is_retriable(error) => {
                reaction.doubts = true;
                Ok(())
            }
            wire::OFFSET_OUT_OF_RANGE if self.is_replicated => {
                reaction.doubts = true;
                Ok(())
            }
            // A log that was not created yet ends at 0.
            error => Err(format!("DeleteRecords before {offset}: error {error}")),
        }
    }
}

fn delete(partition: usize, offset: i64, timeout_ms: i32) -> Request {
    let mut item = DeleteRecordsPartition::default();
    item.partition_index = partition as i32;
    item.offset = offset;
    let mut topic = DeleteRecordsTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = DeleteRecordsRequest::default();
    body.topics = vec![topic];
    body.timeout_ms = timeout_ms;
    Request::new(wire::DELETE_RECORDS, &body)
}
