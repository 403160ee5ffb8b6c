//! The session's side of questions about offsets: ListOffsets, DeleteRecords, OffsetForLeaderEpoch. All three ask the
//! owners of some partitions one question each and put the answers together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_wire::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_wire::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_wire::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse,
};
use millstream_replication::ErrorCode;

use super::clients::Clients;
use super::timer::Waits;
use crate::api::codec::{decode, encode};
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::OffsetsApi;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{
    Answer, ByOwner, EARLIEST_LOCAL_TIMESTAMP, LATEST_TIERED_TIMESTAMP, MAX_TIMESTAMP, Message, Query, QueryDone,
    QueryItem, Question,
};
use crate::shard::turn::Turn;

/// A request, decoded.
#[derive(Debug)]
enum Asked {
    ListOffsets(ListOffsetsRequest),
    DeleteRecords(DeleteRecordsRequest),
    EpochEnd(OffsetForLeaderEpochRequest),
}

/// A request that waits for owners.
#[derive(Debug)]
struct PendingOffsets {
    header: RequestHeader,
    asked: Asked,
    /// In the order in which the request names the partitions.
    answers: Vec<Answer>,
    /// Who was asked.
    owners: Vec<ShardIndex>,
    owners_left: usize,
    /// When owners are to answer what they have: those that wait for others. None: that was said, or need not be.
    deadline: Option<Duration>,
}

/// Questions under way at this shard, as the session.
#[derive(Debug, Default)]
pub struct Offsets {
    pending: HashMap<RequestId, PendingOffsets>,
}

/// One partition's question, before it is known where the partition is.
struct Asking<'a> {
    topic: &'a str,
    partition: i32,
    current_leader_epoch: i32,
    question: Result<Question, ErrorCode>,
}

impl Offsets {
    /// Takes a ListOffsets, DeleteRecords or OffsetForLeaderEpoch request.
    pub fn take(
        &mut self,
        turn: &mut Turn<'_>,
        clients: &mut Clients,
        id: RequestId,
        api: OffsetsApi,
        header: &RequestHeader,
        body: Bytes,
    ) {
        let asked = match api {
            OffsetsApi::ListOffsets => decode(header, body).map(Asked::ListOffsets),
            OffsetsApi::DeleteRecords => decode(header, body).map(Asked::DeleteRecords),
            OffsetsApi::OffsetForLeaderEpoch => decode(header, body).map(Asked::EpochEnd),
        };
        let Ok(asked) = asked else { return clients.close(turn, id) };
        let mut answers = Vec::new();
        let mut queries = ByOwner::default();
        asked.for_each(header.api_version, |asking| {
            let found = asking.question.and_then(|question| {
                let topic = turn.metadata.topic_by_name(asking.topic).map_err(|not_here| not_here.error)?;
                if topic.internal && matches!(question, Question::DeleteRecords { .. }) {
                    return Err(ErrorCode::InvalidTopicException);
                }
                let key = turn.metadata.led_partition(topic, asking.partition).map_err(|not_here| not_here.error)?;
                Ok((key, question))
            });
            match found {
                Ok((key, question)) => {
                    let slot = answers.len() as u32;
                    let current_leader_epoch = asking.current_leader_epoch;
                    queries.push(turn.options.owner(key), QueryItem { slot, key, current_leader_epoch, question });
                    answers.push(Answer::error(ErrorCode::UnknownServerError));
                }
                Err(error) => answers.push(Answer::error(error)),
            }
        });
        let deadline = match &asked {
            Asked::DeleteRecords(request) => {
                let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
                Some(turn.now.elapsed + timeout)
            }
            Asked::ListOffsets(_) | Asked::EpochEnd(_) => None,
        };
        let (owners, owners_left) = (Vec::with_capacity(queries.len()), queries.len());
        // A copy of the header that does not keep the frame.
        let header = RequestHeader { client_id: None, ..header.clone() };
        let mut pending = PendingOffsets { header, asked, answers, owners, owners_left, deadline };
        if queries.is_empty() {
            return pending.finish(turn, clients, id);
        }
        if let Some(deadline) = deadline {
            clients.timers.set(deadline, id, Waits::Offsets);
        }
        for (owner, items) in queries {
            pending.owners.push(owner);
            let query = Query { from: turn.options.index, request: id, items };
            turn.tell(owner, Message::Query(query));
        }
        self.pending.insert(id, pending);
    }

    /// An owner has replied.
    pub fn answered(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, done: QueryDone) {
        let id = done.request;
        // It may be gone: its connection is closed.
        let Entry::Occupied(mut entry) = self.pending.entry(id) else { return };
        let pending = entry.get_mut();
        for (slot, answer) in done.answers {
            pending.answers[slot as usize] = answer;
        }
        assert!(pending.owners_left > 0, "an owner replies once");
        pending.owners_left -= 1;
        if pending.owners_left == 0 {
            let pending = entry.remove();
            if let Some(deadline) = pending.deadline {
                clients.timers.clear(deadline, id);
            }
            pending.finish(turn, clients, id);
        }
    }

    /// The time of a request is up: owners answer what they have.
    pub fn timed_out(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        let pending = self.pending.get_mut(&id).expect("a deadline belongs to a request");
        pending.end(turn, id);
    }

    /// Forgets a request whose connection is gone.
    pub fn cancel(&mut self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        if let Some(mut pending) = self.pending.remove(&id)
            && let Some(deadline) = pending.end(turn, id)
        {
            clients.timers.clear(deadline, id);
        }
    }

    /// Nothing is waited for any longer: this shard shuts down.
    pub fn end_all(&mut self, turn: &mut Turn<'_>, clients: &mut Clients) {
        let mut ids: Vec<RequestId> = self.pending.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let pending = self.pending.get_mut(&id).expect("it is there");
            if let Some(deadline) = pending.end(turn, id) {
                clients.timers.clear(deadline, id);
            }
        }
    }
}

impl PendingOffsets {
    /// Lets owners answer at once, if they may wait for others. Returns the deadline that it had.
    fn end(&mut self, turn: &mut Turn<'_>, id: RequestId) -> Option<Duration> {
        let deadline = self.deadline.take()?;
        for owner in &self.owners {
            turn.tell(*owner, Message::EndQuery { from: turn.options.index, request: id });
        }
        Some(deadline)
    }

    fn finish(self, turn: &mut Turn<'_>, clients: &mut Clients, id: RequestId) {
        let PendingOffsets { header, asked, answers, .. } = self;
        let frame = match asked {
            Asked::ListOffsets(request) => encode(&header, &list_offsets_response(&header, request, answers)),
            Asked::DeleteRecords(request) => encode(&header, &delete_records_response(request, answers)),
            Asked::EpochEnd(request) => encode(&header, &epoch_end_response(request, answers)),
        };
        clients.reply_or_close(turn, id, frame);
    }
}

impl Asked {
    /// Gives every partition's question, in the request's order.
    fn for_each(&self, version: i16, mut ask: impl FnMut(Asking)) {
        match self {
            Asked::ListOffsets(request) => {
                for topic in &request.topics {
                    for partition in &topic.partitions {
                        ask(Asking {
                            topic: topic.name.as_str(),
                            partition: partition.partition_index,
                            current_leader_epoch: partition.current_leader_epoch,
                            question: offset_question(version, partition.timestamp),
                        });
                    }
                }
            }
            Asked::DeleteRecords(request) => {
                for topic in &request.topics {
                    for partition in &topic.partitions {
                        ask(Asking {
                            topic: topic.name.as_str(),
                            partition: partition.partition_index,
                            current_leader_epoch: -1,
                            question: Ok(Question::DeleteRecords { before_offset: partition.offset }),
                        });
                    }
                }
            }
            Asked::EpochEnd(request) => {
                for topic in &request.topics {
                    for partition in &topic.partitions {
                        ask(Asking {
                            topic: topic.topic.as_str(),
                            partition: partition.partition,
                            current_leader_epoch: partition.current_leader_epoch,
                            question: Ok(Question::EpochEnd { leader_epoch: partition.leader_epoch }),
                        });
                    }
                }
            }
        }
    }
}

/// The negative timestamps came one by one: a version does not know those that came after it.
fn offset_question(version: i16, timestamp: i64) -> Result<Question, ErrorCode> {
    let version_min = match timestamp {
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL_TIMESTAMP => 8,
        LATEST_TIERED_TIMESTAMP => 9,
        _ => 1,
    };
    if version < version_min { Err(ErrorCode::UnsupportedVersion) } else { Ok(Question::Offset { timestamp }) }
}

fn list_offsets_response(
    header: &RequestHeader,
    request: ListOffsetsRequest,
    answers: Vec<Answer>,
) -> ListOffsetsResponse {
    let mut answers = answers.into_iter();
    let mut response = ListOffsetsResponse::default();
    for asked in request.topics {
        let mut topic = ListOffsetsTopicResponse::default();
        topic.name = asked.name;
        for (asked, answer) in asked.partitions.iter().zip(&mut answers) {
            let mut partition = ListOffsetsPartitionResponse::default();
            partition.partition_index = asked.partition_index;
            partition.error_code = answer.error.code();
            partition.offset = answer.offset;
            partition.timestamp = answer.timestamp;
            if header.api_version >= 4 {
                partition.leader_epoch = answer.leader_epoch;
            }
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}

fn delete_records_response(request: DeleteRecordsRequest, answers: Vec<Answer>) -> DeleteRecordsResponse {
    let mut answers = answers.into_iter();
    let mut response = DeleteRecordsResponse::default();
    for asked in request.topics {
        let mut topic = DeleteRecordsTopicResult::default();
        topic.name = asked.name;
        for (asked, answer) in asked.partitions.iter().zip(&mut answers) {
            let mut partition = DeleteRecordsPartitionResult::default();
            partition.partition_index = asked.partition_index;
            partition.error_code = answer.error.code();
            partition.low_watermark = answer.offset;
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}

fn epoch_end_response(request: OffsetForLeaderEpochRequest, answers: Vec<Answer>) -> OffsetForLeaderEpochResponse {
    let mut answers = answers.into_iter();
    let mut response = OffsetForLeaderEpochResponse::default();
    for asked in request.topics {
        let mut topic = OffsetForLeaderTopicResult::default();
        topic.topic = asked.topic;
        for (asked, answer) in asked.partitions.iter().zip(&mut answers) {
            let mut partition = EpochEndOffset::default();
            partition.partition = asked.partition;
            partition.error_code = answer.error.code();
            partition.leader_epoch = answer.leader_epoch;
            partition.end_offset = answer.offset;
            topic.partitions.push(partition);
        }
        response.topics.push(topic);
    }
    response
}
