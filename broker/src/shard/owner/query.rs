//! The owner's side of questions about offsets: ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use std::collections::{BTreeMap, HashMap};

use millstream_replication::ErrorCode;
use millstream_replication::replica::Replica;
use millstream_storage::DiskError;
use millstream_storage::shard_log::{LogId, ReadToken, TimeFound, TimeLookup, TimeQuery};

use super::replicas::Replicas;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{
    Answer, EARLIEST_LOCAL_TIMESTAMP, EARLIEST_TIMESTAMP, LATEST_TIERED_TIMESTAMP, LATEST_TIMESTAMP, MAX_TIMESTAMP,
    Message, Query, QueryDone, QueryItem, Question,
};
use crate::shard::turn::Turn;
use crate::slab::Slab;

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

/// Questions under way at this shard, as an owner: no more than requests of clients, for a session ends those of a request whose
/// time is up or whose connection is gone.
#[derive(Debug, Default)]
pub struct Queries {
    waiting: Slab<WaitingQuery>,
    places: HashMap<(ShardIndex, RequestId), u32>,
    /// Lookups by time that wait for the disk, in the order in which they began.
    lookups: BTreeMap<ReadToken, PendingAnswer>,
    /// Deletions that wait for the low watermark, with how far it is to move.
    deletions: Vec<(PendingAnswer, i64)>,
}

/// An answer, or what it waits for.
enum Reply {
    Now(Answer),
    Lookup(ReadToken, LogId),
    Deletion(LogId, i64),
}

impl Queries {
    /// Answers questions, at once if nothing has to be waited for.
    pub fn take(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, query: Query) {
        let Query { from, request, items } = query;
        let place = self.waiting.insert(WaitingQuery { from, request, answers: Vec::new(), pending: 0 });
        let mut answers = Vec::with_capacity(items.len());
        let mut pending = 0;
        for item in &items {
            let wait = |log| PendingAnswer { place, slot: item.slot, log };
            match answer(replicas, item) {
                Ok(Reply::Now(answer)) => answers.push((item.slot, answer)),
                Ok(Reply::Lookup(token, log)) => {
                    pending += 1;
                    self.lookups.insert(token, wait(log));
                }
                Ok(Reply::Deletion(log, offset)) => {
                    pending += 1;
                    self.deletions.push((wait(log), offset));
                }
                Err(error) => answers.push((item.slot, Answer::error(error))),
            }
        }
        if pending == 0 {
            self.waiting.remove(place);
            return turn.tell(from, Message::QueryDone(QueryDone { request, answers }));
        }
        let waiting = self.waiting.get_mut(place);
        waiting.answers = answers;
        waiting.pending = pending;
        self.places.insert((from, request), place);
    }

    /// The time of a request is up: what is left of its questions is answered so. What was deleted is deleted all the same.
    pub fn end(&mut self, turn: &mut Turn<'_>, from: ShardIndex, request: RequestId) {
        // It may have been answered.
        let Some(place) = self.places.get(&(from, request)).copied() else { return };
        let mut left: Vec<PendingAnswer> = self.lookups.values().filter(|at| at.place == place).copied().collect();
        self.lookups.retain(|_, at| at.place != place);
        left.extend(self.deletions.extract_if(.., |(at, _)| at.place == place).map(|of| of.0));
        for pending in left {
            self.finish(turn, pending, Answer::error(ErrorCode::RequestTimedOut));
        }
    }

    /// A lookup by time that waited for the disk is done.
    pub fn time_done(&mut self, turn: &mut Turn<'_>, token: ReadToken, outcome: Result<Option<TimeFound>, DiskError>) {
        let Some(pending) = self.lookups.remove(&token) else { return };
        let answer = match outcome {
            Ok(time) => time_answer(time),
            // The segment went while it was read: the client asks again.
            Err(DiskError::NotFound) => Answer::error(ErrorCode::OffsetNotAvailable),
            Err(_) => Answer::error(ErrorCode::KafkaStorageError),
        };
        self.finish(turn, pending, answer);
    }

    /// A partition's low watermark moved: answers the deletions that waited for it.
    pub fn low_watermark_moved(&mut self, turn: &mut Turn<'_>, log: LogId, low_watermark: i64) {
        let is_done = |(pending, offset): &mut (PendingAnswer, i64)| pending.log == log && *offset <= low_watermark;
        let done: Vec<_> = self.deletions.extract_if(.., is_done).collect();
        for (pending, _) in done {
            let answer = Answer { offset: low_watermark, ..Answer::error(ErrorCode::None) };
            self.finish(turn, pending, answer);
        }
    }

    /// A partition is gone, or led here no more: fails the questions about it that wait.
    pub fn fail(&mut self, turn: &mut Turn<'_>, log: LogId, error: ErrorCode) {
        let mut gone: Vec<PendingAnswer> =
            self.lookups.values().filter(|pending| pending.log == log).copied().collect();
        self.lookups.retain(|_, pending| pending.log != log);
        gone.extend(self.deletions.extract_if(.., |(pending, _)| pending.log == log).map(|(pending, _)| pending));
        for pending in gone {
            self.finish(turn, pending, Answer::error(error));
        }
    }

    fn finish(&mut self, turn: &mut Turn<'_>, pending: PendingAnswer, answer: Answer) {
        let waiting = self.waiting.get_mut(pending.place);
        waiting.answers.push((pending.slot, answer));
        assert!(waiting.pending > 0, "a question is answered once");
        waiting.pending -= 1;
        if waiting.pending == 0 {
            let WaitingQuery { from, request, answers, .. } = self.waiting.remove(pending.place);
            self.places.remove(&(from, request));
            turn.tell(from, Message::QueryDone(QueryDone { request, answers }));
        }
    }
}

/// Answers one question, or says what the answer waits for.
fn answer(replicas: &mut Replicas, item: &QueryItem) -> Result<Reply, ErrorCode> {
    let (log, partition) = replicas.partitions.leader(item.key, item.current_leader_epoch)?;
    let (high_watermark, cleanup_delete) = (partition.high_watermark(), partition.cleanup_delete);
    let knows_end = partition.replica.as_ref().is_some_and(Replica::knows_committed_end);
    let low_watermark = partition.replica.as_ref().and_then(Replica::low_watermark).unwrap_or(0);
    let found =
        |offset, leader_epoch| Ok(Reply::Now(Answer { error: ErrorCode::None, offset, timestamp: -1, leader_epoch }));
    match item.question {
        Question::Offset { timestamp: LATEST_TIMESTAMP | MAX_TIMESTAMP } if !knows_end => {
            Err(ErrorCode::OffsetNotAvailable)
        }
        Question::Offset { timestamp: LATEST_TIMESTAMP } => found(high_watermark, replicas.log.last_epoch(log)),
        Question::Offset { timestamp: EARLIEST_TIMESTAMP | EARLIEST_LOCAL_TIMESTAMP } => {
            found(replicas.log.log_start(log), -1)
        }
        Question::Offset { timestamp: LATEST_TIERED_TIMESTAMP } => found(-1, -1),
        Question::Offset { timestamp } => {
            let query = match timestamp {
                MAX_TIMESTAMP => TimeQuery::Max,
                0.. => TimeQuery::AtOrAfter(timestamp),
                _ => return Err(ErrorCode::UnsupportedVersion),
            };
            match replicas.log.find_time(log, query, high_watermark, &mut replicas.ops) {
                // It may lie between what this leader knows to be committed and what is.
                TimeLookup::Ready(None) | TimeLookup::Pending(_) if !knows_end => Err(ErrorCode::OffsetNotAvailable),
                TimeLookup::Ready(time) => Ok(Reply::Now(time_answer(time))),
                TimeLookup::Pending(token) => Ok(Reply::Lookup(token, log)),
            }
        }
        Question::DeleteRecords { before_offset } => {
            if !cleanup_delete {
                return Err(ErrorCode::PolicyViolation);
            }
            let offset = if before_offset == -1 { high_watermark } else { before_offset };
            if !(0..=high_watermark).contains(&offset) {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            // Followers may have to hear of it though it is done here.
            match replicas.log.delete_records(log, offset) && offset <= low_watermark {
                true => found(low_watermark, -1),
                false => Ok(Reply::Deletion(log, offset)),
            }
        }
        Question::EpochEnd { leader_epoch } => {
            let (epoch, end_offset) = replicas.log.end_offset_for_epoch(log, leader_epoch);
            found(end_offset, epoch)
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
