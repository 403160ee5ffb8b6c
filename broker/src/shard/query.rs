//! The owner's side of questions about offsets: ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use std::collections::HashMap;

use millstream_replication::ErrorCode;
use millstream_storage::DiskError;
use millstream_storage::shard_log::{LogId, ReadToken, TimeFound, TimeLookup, TimeQuery};

use super::message::{Answer, Message, Query, QueryDone, QueryItem, Question};
use super::session::RequestId;
use super::slab::Slab;
use super::{Effect, Shard, ShardIndex};

/// ListOffsets: the high watermark.
pub const LATEST_TIMESTAMP: i64 = -1;
/// ListOffsets: the log start offset.
pub const EARLIEST_TIMESTAMP: i64 = -2;
/// ListOffsets: the record with the largest timestamp (KIP-734).
pub const MAX_TIMESTAMP: i64 = -3;
/// ListOffsets: the first offset that is not only in remote storage (KIP-405): there is none, so the log start offset.
pub const EARLIEST_LOCAL_TIMESTAMP: i64 = -4;
/// ListOffsets: the last offset in remote storage (KIP-1005): there is none.
pub const LATEST_TIERED_TIMESTAMP: i64 = -5;

/// A query whose reply waits.
#[derive(Debug)]
struct WaitingQuery {
    from: ShardIndex,
    request: RequestId,
    answers: Vec<(u32, Answer)>,
    /// How many answers are missing.
    pending: usize,
}

/// One question of a [`WaitingQuery`].
#[derive(Clone, Copy, Debug)]
struct PendingAnswer {
    place: u32,
    slot: u32,
    log: LogId,
}

/// Questions under way at this shard, as an owner.
#[derive(Debug, Default)]
pub struct Queries {
    waiting: Slab<WaitingQuery>,
    /// Lookups by time that wait for the disk.
    lookups: HashMap<ReadToken, PendingAnswer>,
    /// Deletions that wait for the log start to move durably, with where to.
    deletions: Vec<(PendingAnswer, i64)>,
}

/// An answer, or what it waits for.
enum Reply {
    Now(Answer),
    Lookup(ReadToken, LogId),
    Deletion(LogId, i64),
}

impl Shard {
    /// Answers questions, at once if nothing has to be waited for.
    pub(super) fn query(&mut self, query: Query, effects: &mut Vec<Effect>) {
        let Query { from, request, items } = query;
        let place = self.queries.waiting.insert(WaitingQuery { from, request, answers: Vec::new(), pending: 0 });
        let mut answers = Vec::with_capacity(items.len());
        let mut pending = 0;
        for item in &items {
            let wait = |log| PendingAnswer { place, slot: item.slot, log };
            match self.answer(item) {
                Ok(Reply::Now(answer)) => answers.push((item.slot, answer)),
                Ok(Reply::Lookup(token, log)) => {
                    pending += 1;
                    self.queries.lookups.insert(token, wait(log));
                }
                Ok(Reply::Deletion(log, offset)) => {
                    pending += 1;
                    self.queries.deletions.push((wait(log), offset));
                }
                Err(error) => answers.push((item.slot, Answer::error(error))),
            }
        }
        if pending == 0 {
            self.queries.waiting.remove(place);
            return self.tell(from, Message::QueryDone(QueryDone { request, answers }), effects);
        }
        let waiting = self.queries.waiting.get_mut(place);
        waiting.answers = answers;
        waiting.pending = pending;
    }

    fn answer(&mut self, item: &QueryItem) -> Result<Reply, ErrorCode> {
        let (log, partition) = self.partitions.leader(item.key, item.current_leader_epoch)?;
        let high_watermark = partition.high_watermark();
        let found = |offset, leader_epoch| {
            Ok(Reply::Now(Answer { error: ErrorCode::None, offset, timestamp: -1, leader_epoch }))
        };
        match item.question {
            Question::Offset { timestamp: LATEST_TIMESTAMP } => found(high_watermark, self.log.last_epoch(log)),
            Question::Offset { timestamp: EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP } => {
                found(self.log.log_start(log), -1)
            }
            Question::Offset { timestamp: LATEST_TIERED_TIMESTAMP } => found(-1, -1),
            Question::Offset { timestamp } => {
                let query = match timestamp {
                    MAX_TIMESTAMP => TimeQuery::Max,
                    0.. => TimeQuery::AtOrAfter(timestamp),
                    _ => return Err(ErrorCode::UnsupportedVersion),
                };
                match self.log.find_time(log, query, high_watermark, &mut self.ops) {
                    TimeLookup::Ready(time) => Ok(Reply::Now(time_answer(time))),
                    TimeLookup::Pending(token) => Ok(Reply::Lookup(token, log)),
                }
            }
            Question::DeleteRecords { before_offset } => {
                if !partition.cleanup_delete {
                    return Err(ErrorCode::PolicyViolation);
                }
                let offset = if before_offset == -1 { high_watermark } else { before_offset };
                if !(0..=high_watermark).contains(&offset) {
                    return Err(ErrorCode::OffsetOutOfRange);
                }
                if self.log.delete_records(log, offset) {
                    found(self.log.log_start(log), -1)
                } else {
                    Ok(Reply::Deletion(log, offset))
                }
            }
            Question::EpochEnd { leader_epoch } => {
                let (epoch, end_offset) = self.log.end_offset_for_epoch(log, leader_epoch);
                found(end_offset, epoch)
            }
        }
    }

    /// A lookup by time that waited for the disk is done.
    pub(super) fn time_done(
        &mut self,
        token: ReadToken,
        outcome: Result<Option<TimeFound>, DiskError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pending) = self.queries.lookups.remove(&token) else { return };
        let answer = match outcome {
            Ok(time) => time_answer(time),
            // The segment went while it was read: the client asks again.
            Err(DiskError::NotFound) => Answer::error(ErrorCode::OffsetNotAvailable),
            Err(_) => Answer::error(ErrorCode::KafkaStorageError),
        };
        self.finish_answer(pending, answer, effects);
    }

    /// A partition's log start moved: answers the deletions that waited for it.
    pub(super) fn deletions_done(&mut self, log: LogId, log_start_offset: i64, effects: &mut Vec<Effect>) {
        let is_done = |(pending, offset): &mut (PendingAnswer, i64)| pending.log == log && *offset <= log_start_offset;
        let done: Vec<_> = self.queries.deletions.extract_if(.., is_done).collect();
        for (pending, _) in done {
            let answer = Answer { offset: log_start_offset, ..Answer::error(ErrorCode::None) };
            self.finish_answer(pending, answer, effects);
        }
    }

    /// A partition is gone: fails the questions about it that wait.
    pub(super) fn fail_queries(&mut self, log: LogId, effects: &mut Vec<Effect>) {
        let mut lookups: Vec<(ReadToken, PendingAnswer)> =
            self.queries.lookups.extract_if(|_, pending| pending.log == log).collect();
        // The table has no order; effects must have one.
        lookups.sort_unstable_by_key(|(token, _)| *token);
        let lookups = lookups.into_iter().map(|(_, pending)| pending);
        let deletions = self.queries.deletions.extract_if(.., |(pending, _)| pending.log == log);
        let gone: Vec<PendingAnswer> = lookups.chain(deletions.map(|(pending, _)| pending)).collect();
        for pending in gone {
            self.finish_answer(pending, Answer::error(ErrorCode::UnknownTopicOrPartition), effects);
        }
    }

    fn finish_answer(&mut self, pending: PendingAnswer, answer: Answer, effects: &mut Vec<Effect>) {
        let waiting = self.queries.waiting.get_mut(pending.place);
        waiting.answers.push((pending.slot, answer));
        waiting.pending -= 1;
        if waiting.pending == 0 {
            let WaitingQuery { from, request, answers, .. } = self.queries.waiting.remove(pending.place);
            self.tell(from, Message::QueryDone(QueryDone { request, answers }), effects);
        }
    }
}

fn time_answer(time: Option<TimeFound>) -> Answer {
    match time {
        Some(TimeFound { offset, timestamp, leader_epoch }) => {
            Answer { error: ErrorCode::None, offset, timestamp, leader_epoch }
        }
        None => Answer::error(ErrorCode::None),
    }
}
