//! The owner's side of Produce: append what a session has checked, and reply when it is committed.

use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_storage::Now;
use millstream_storage::shard_log::AppendError;

use super::partition::{Until, Waiter};
use super::replicas::Replicas;
use crate::metrics::Sample;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::message::{Append, AppendItem, AppendResult, AppendTimes, Appended, Message};
use crate::shard::turn::Turn;
use crate::slab::Slab;

/// An append whose reply waits for partitions to commit it.
#[derive(Debug)]
struct WaitingAppend {
    from: ShardIndex,
    request: RequestId,
    results: Vec<AppendResult>,
    /// How many of them wait.
    uncommitted: usize,
    began: Duration,
    /// Once the turn in which it was appended has ended.
    appended: Option<Duration>,
}

/// Appends under way at this shard.
#[derive(Debug, Default)]
pub struct Appends {
    waiting: Slab<WaitingAppend>,
    /// Those of this turn.
    appended_in_turn: Vec<u32>,
    /// Bytes of batches appended since the start.
    bytes: u64,
    /// Records appended since the start.
    records: u64,
}

impl Appends {
    /// Appends, and replies at once if nothing has to be waited for.
    pub fn take(&mut self, turn: &mut Turn<'_>, replicas: &mut Replicas, append: Append) {
        let Append { from, request, acks, items } = append;
        let began = turn.now.elapsed;
        let waiting = WaitingAppend { from, request, results: Vec::new(), uncommitted: 0, began, appended: None };
        let place = self.waiting.insert(waiting);
        let mut results = Vec::with_capacity(items.len());
        let mut uncommitted = 0;
        for (index, item) in (0..).zip(&items) {
            // With acks=0 nothing is answered, but it is waited for all the same: a request counts as memory in flight
            // until its records are durable, or a client that waits for nothing could fill the memory.
            let waiter = Waiter::Append { place, result: index };
            let result = match self.append_one(turn.now, replicas, acks, item, waiter) {
                Ok((result, committed)) => {
                    uncommitted += usize::from(!committed);
                    result
                }
                Err(error) => AppendResult::error(item.slot, error),
            };
            results.push(result);
        }
        if uncommitted == 0 {
            self.waiting.remove(place);
            let times = AppendTimes { began, appended: began, committed: began };
            return turn.tell(from, Message::Appended(Appended { request, times, results }));
        }
        self.appended_in_turn.push(place);
        let waiting = self.waiting.get_mut(place);
        waiting.results = results;
        waiting.uncommitted = uncommitted;
    }

    /// Appends to one partition; the flag says whether that is committed already.
    fn append_one(
        &mut self,
        now: Now,
        replicas: &mut Replicas,
        acks: i16,
        item: &AppendItem,
        waiter: Waiter,
    ) -> Result<(AppendResult, bool), ErrorCode> {
        let (log, partition) = replicas.partitions.leader(item.key, -1)?;
        let until = if acks == -1 { Until::Committed } else { Until::Durable };
        partition.may_append(until)?;
        let appended = replicas.log.append(now, log, &item.records).map_err(append_error)?;
        let bytes = if appended.duplicate { 0 } else { item.records.len() };
        let committed = replicas.appended(now.elapsed, log, (appended.last_offset + 1, bytes), until, waiter);
        self.bytes += bytes as u64;
        if !appended.duplicate {
            self.records += (appended.last_offset - appended.base_offset + 1) as u64;
        }
        let result = AppendResult {
            slot: item.slot,
            error: ErrorCode::None,
            base_offset: appended.base_offset,
            last_offset: appended.last_offset,
            log_append_time: appended.log_append_time,
            log_start_offset: replicas.log.log_start(log),
        };
        Ok((result, committed))
    }

    /// One result of an append is committed, or never will be: replies when it was the last.
    pub fn released(&mut self, turn: &mut Turn<'_>, place: u32, result: u32, error: ErrorCode) {
        let waiting = self.waiting.get_mut(place);
        if error != ErrorCode::None {
            let result = &mut waiting.results[result as usize];
            *result = AppendResult::error(result.slot, error);
        }
        assert!(waiting.uncommitted > 0, "a result is released once");
        waiting.uncommitted -= 1;
        if waiting.uncommitted == 0 {
            let WaitingAppend { from, request, results, began, appended, .. } = self.waiting.remove(place);
            let committed = turn.now.elapsed;
            let times = AppendTimes { began, appended: appended.unwrap_or(committed), committed };
            turn.tell(from, Message::Appended(Appended { request, times, results }));
        }
    }

    /// The turn has ended: what was appended in it waits from now on.
    pub fn turn_ended(&mut self, now: Duration) {
        for place in self.appended_in_turn.drain(..) {
            if let Some(waiting) = self.waiting.find_mut(place) {
                waiting.appended.get_or_insert(now);
            }
        }
    }

    /// Gauges and counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        samples.extend([
            Sample::counter("millstream_produced_bytes_total", "Bytes of batches appended.", self.bytes),
            Sample::counter("millstream_produced_records_total", "Records appended.", self.records),
            Sample::gauge(
                "millstream_appends_waiting",
                "Appends that wait for their commit.",
                self.waiting.len() as u64,
            ),
        ]);
    }
}

/// Kafka's code for an append that was refused.
pub fn append_error(error: AppendError) -> ErrorCode {
    match error {
        AppendError::OutOfOrderSequence => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch => ErrorCode::InvalidProducerEpoch,
        AppendError::LargerThanSegment => ErrorCode::RecordListTooLarge,
        AppendError::NoSpace => ErrorCode::KafkaStorageError,
        AppendError::Restarting => ErrorCode::NotLeaderOrFollower,
    }
}
