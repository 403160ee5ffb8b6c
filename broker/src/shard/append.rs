//! The owner's side of Produce: append what a session has checked, and reply when it is committed.

use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::Now;
use millstream_storage::shard_log::AppendError;

use super::message::{Append, AppendItem, AppendResult, AppendTimes, Appended, Message};
use super::partition::Waiter;
use super::session::RequestId;
use super::{Effect, Shard, ShardIndex};

/// An append whose reply waits for partitions to commit it.
#[derive(Debug)]
pub struct WaitingAppend {
    from: ShardIndex,
    request: RequestId,
    results: Vec<AppendResult>,
    /// How many of them wait.
    uncommitted: usize,
    began: Duration,
    /// Once the turn in which it was appended has ended.
    appended: Option<Duration>,
}

impl WaitingAppend {
    /// A turn has ended: the one in which it was appended, when it is the first.
    pub fn turn_ended(&mut self, now: Duration) {
        self.appended.get_or_insert(now);
    }
}

impl Shard {
    /// Appends, and replies at once if nothing has to be waited for.
    pub(super) fn append(&mut self, now: Now, append: Append, effects: &mut Vec<Effect>) {
        let Append { from, request, acks, items } = append;
        let began = now.elapsed;
        let waiting = WaitingAppend { from, request, results: Vec::new(), uncommitted: 0, began, appended: None };
        let place = self.appends.insert(waiting);
        let mut results = Vec::with_capacity(items.len());
        let mut uncommitted = 0;
        for (index, item) in (0..).zip(&items) {
            // With acks=0 nothing is answered, but it is waited for all the same: a request counts as memory in flight
            // until its records are durable, or a client that waits for nothing could fill the memory.
            let waiter = Waiter::Append { place, result: index };
            let result = match self.append_one(now, acks, item, waiter) {
                Ok((result, committed)) => {
                    uncommitted += usize::from(!committed);
                    result
                }
                Err(error) => AppendResult::error(item.slot, error),
            };
            results.push(result);
        }
        if uncommitted == 0 {
            self.appends.remove(place);
            let times = AppendTimes { began, appended: began, committed: began };
            return self.tell(from, Message::Appended(Appended { request, times, results }), effects);
        }
        self.appended_in_turn.push(place);
        let waiting = self.appends.get_mut(place);
        waiting.results = results;
        waiting.uncommitted = uncommitted;
    }

    /// Appends to one partition; the flag says whether that is committed already.
    fn append_one(
        &mut self,
        now: Now,
        acks: i16,
        item: &AppendItem,
        waiter: Waiter,
    ) -> Result<(AppendResult, bool), ErrorCode> {
        let (log, partition) = self.partitions.leader(item.key, -1)?;
        if acks == -1 && !partition.has_enough_replicas() {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        let appended = self.log.append(now, log, &item.records).map_err(append_error)?;
        let bytes = if appended.duplicate { 0 } else { item.records.len() };
        let partition = self.partitions.get_mut(log).expect("the partition was just found");
        let committed = partition.appended(appended.last_offset + 1, bytes, waiter);
        self.counters.produced_bytes += bytes as u64;
        if !appended.duplicate {
            self.counters.produced_records += (appended.last_offset - appended.base_offset + 1) as u64;
        }
        let result = AppendResult {
            slot: item.slot,
            error: ErrorCode::None,
            base_offset: appended.base_offset,
            last_offset: appended.last_offset,
            log_append_time: appended.log_append_time,
            log_start_offset: self.log.log_start(log),
        };
        Ok((result, committed))
    }

    /// Tells who waits that what was appended is committed, or that it never will be.
    pub(super) fn release(&mut self, now: Now, waiters: Vec<Waiter>, error: ErrorCode, effects: &mut Vec<Effect>) {
        for waiter in waiters {
            let (place, result) = match waiter {
                Waiter::Append { place, result } => (place, result),
                Waiter::Group { log, write } => {
                    self.group_written(now, log, write, error, effects);
                    continue;
                }
            };
            let waiting = self.appends.get_mut(place);
            if error != ErrorCode::None {
                let result = &mut waiting.results[result as usize];
                *result = AppendResult::error(result.slot, error);
            }
            waiting.uncommitted -= 1;
            if waiting.uncommitted == 0 {
                let WaitingAppend { from, request, results, began, appended, .. } = self.appends.remove(place);
                let committed = now.elapsed;
                let times = AppendTimes { began, appended: appended.unwrap_or(committed), committed };
                self.tell(from, Message::Appended(Appended { request, times, results }), effects);
            }
        }
    }
}

/// Kafka's code for an append that was refused.
pub(super) fn append_error(error: AppendError) -> ErrorCode {
    match error {
        AppendError::OutOfOrderSequence => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        AppendError::LargerThanSegment => ErrorCode::RecordListTooLarge,
        AppendError::NoSpace => ErrorCode::KafkaStorageError,
    }
}
