//! Deletes records from the start of partitions, with DeleteRecords.

use bytes::Bytes;
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::{DeleteRecordsRequest, DeleteRecordsResponse};
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Finding, Knowledge, Outgoing, Reaction, Role, Target, wire};

#[derive(Debug, Default)]
pub struct Deleter {
    /// The partition and the offset before which it asked to delete last.
    asked: Option<(usize, i64)>,
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
        let offset = known.deleted_to + random.below(room / 2 + 1) as i64;
        known.deleted_to = offset;
        self.asked = Some((partition, offset));
        Some(Outgoing::Answered(delete(partition, offset)))
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
            // A log that was not created yet ends at 0.
            error => Err(format!("DeleteRecords before {offset}: error {error}")),
        }
    }
}

fn delete(partition: usize, offset: i64) -> Request {
    let mut item = DeleteRecordsPartition::default();
    item.partition_index = partition as i32;
    item.offset = offset;
    let mut topic = DeleteRecordsTopic::default();
    topic.name = wire::topic();
    topic.partitions = vec![item];
    let mut body = DeleteRecordsRequest::default();
    body.topics = vec![topic];
    body.timeout_ms = 30_000;
    Request::new(wire::DELETE_RECORDS, &body)
}
