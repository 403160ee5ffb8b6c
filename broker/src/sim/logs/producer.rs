//! A client that writes to one partition of the simulated logs, and sends again what was not acknowledged before a restart.

use std::collections::VecDeque;

use bytes::Bytes;
use millstream_storage::random::Random;

use crate::sim::record::{Found, RecordId, batch_of, keyed_batch_of};

/// Batches that a producer may have on their way; an idempotent one never has more.
const IN_FLIGHT_MAX: usize = 5;
/// Batches that one which is not may have on their way to a log with replicas: what is not committed is to fill segments.
const UNCOMMITTED_MAX: usize = 60;

#[derive(Clone)]
pub struct Batch {
    /// The number of the first record.
    pub first: u32,
    /// How many records there are.
    pub count: u32,
    /// The producer's sequence number.
    pub sequence: i32,
    pub bytes: Bytes,
}

pub struct Producer {
    pub client: u32,
    pub partition: usize,
    pub is_idempotent: bool,
    in_flight_max: usize,
    next_number: u32,
    next_sequence: i32,
    /// Not acknowledged, in order; of those the first `sent` were given to this process.
    in_flight: VecDeque<Batch>,
    sent: usize,
}

impl Producer {
    pub fn new(client: u32, partition: usize, is_idempotent: bool, has_replicas: bool) -> Producer {
        Producer {
            client,
            partition,
            is_idempotent,
            in_flight_max: if has_replicas && !is_idempotent { UNCOMMITTED_MAX } else { IN_FLIGHT_MAX },
            next_number: 0,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            sent: 0,
        }
    }

    /// The next batch to give to the log, a new one if it has all others; none if too many are on their way.
    pub fn next(&mut self, is_compacted: bool, random: &mut Random) -> Option<Batch> {
        if self.sent == self.in_flight.len() {
            if self.in_flight.len() == self.in_flight_max {
                return None;
            }
            let count = match random.below(8) {
                0 => random.between(2, 12) as u32,
                _ => random.between(1, 3) as u32,
            };
            let (first, sequence) = (self.next_number, self.next_sequence);
            let id = RecordId { client: self.client, number: first };
            let identity = self.is_idempotent.then_some((i64::from(self.client), 0, sequence));
            let bytes = if is_compacted { keyed_batch_of } else { batch_of }(id, count, identity);
            self.in_flight.push_back(Batch { first, count, sequence, bytes });
            self.next_number += count;
            self.next_sequence += count as i32;
        }
        Some(self.in_flight[self.sent].clone())
    }

    /// The log took what was next.
    pub fn was_taken(&mut self) {
        self.sent += 1;
    }

    /// The last so many batches that the log took it did not take after all.
    pub fn not_taken(&mut self, batches: usize) {
        self.sent -= batches;
    }

    /// The batch that begins with record number `first` is durable.
    pub fn acknowledged(&mut self, first: u32) {
        if let Some(at) = self.in_flight.iter().position(|batch| batch.first == first) {
            self.in_flight.remove(at);
            self.sent -= 1;
        }
    }

    /// The node started again, or the log was cut off. A producer that is not idempotent does not try again: that would write twice.
    pub fn restarted(&mut self) {
        self.sent = 0;
        if !self.is_idempotent {
            self.in_flight.clear();
        }
    }

    /// The records from number `first` on as they lie at these offsets.
    pub fn records(&self, first: u32, count: u32, base_offset: i64) -> Vec<Found> {
        let client = self.client;
        let record =
            |index| Found { offset: base_offset + i64::from(index), id: RecordId { client, number: first + index } };
        (0..count).map(record).collect()
    }
}
