//! Writes to one partition: an idempotent producer with up to five batches on their way, or a plain one with any `acks`.
//! What is not acknowledged is sent again, in order.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse, ProduceResponse};
use millstream_storage::random::Random;

use super::wire::Request;
use super::{Finding, Knowledge, Outgoing, Reaction, Role, Target, requests, wire};
use crate::sim::record::{Found, RecordId, batch_of};

/// Batches that a producer may have on their way (`max.in.flight.requests.per.connection` of an idempotent one).
const IN_FLIGHT_MAX: usize = 5;

struct Batch {
    first: u32,
    count: u32,
    records: Bytes,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}, {} bytes", self.count, self.first, self.records.len())
    }
}

/// What an answer will be about.
#[derive(Debug)]
enum Asked {
    ProducerId,
    Records { first: u32, count: u32 },
}

#[derive(Debug)]
pub struct Producer {
    client: u32,
    partition: usize,
    acks: i16,
    is_idempotent: bool,
    producer_id: Option<i64>,
    next_number: u32,
    next_sequence: i32,
    /// Not acknowledged, in order; the first `sent` were sent on this connection.
    in_flight: VecDeque<Batch>,
    sent: usize,
    /// As a producer that nothing is known of may begin with any sequence number, the first batch goes alone.
    is_known: bool,
    asked: VecDeque<Asked>,
}

impl Producer {
    pub fn new(client: u32, partition: usize, random: &mut Random) -> Producer {
        let is_idempotent = random.coin();
        let acks = if is_idempotent { -1 } else { [0, 1, -1][random.index(3)] };
        Producer {
            client,
            partition,
            acks,
            is_idempotent,
            producer_id: None,
            next_number: 0,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            is_known: false,
            asked: VecDeque::new(),
        }
    }

    /// With `acks` all: what a leader alone has acknowledged may be lost with it.
    pub fn with_acks_all(self) -> Producer {
        Producer { acks: -1, ..self }
    }

    /// The next batch to send, a new one if all were sent.
    fn next_batch(&mut self, random: &mut Random, is_ending: bool) -> Option<&Batch> {
        if self.sent == self.in_flight.len() {
            let window = if self.is_idempotent && !self.is_known { 1 } else { IN_FLIGHT_MAX };
            if self.in_flight.len() >= window || is_ending {
                return None;
            }
            let count = if random.one_in(8) { random.between(2, 12) as u32 } else { random.between(1, 3) as u32 };
            let id = RecordId { client: self.client, number: self.next_number };
            let records = batch_of(id, count, self.producer_id.map(|id| (id, 0, self.next_sequence)));
            self.in_flight.push_back(Batch { first: self.next_number, count, records });
            self.next_number += count;
            self.next_sequence += count as i32;
        }
        Some(&self.in_flight[self.sent])
    }

    fn has_producer_id(&mut self, body: Bytes, reaction: &mut Reaction) -> Result<(), String> {
        let response: InitProducerIdResponse = wire::response(wire::INIT_PRODUCER_ID, body)?;
        if wire::is_retriable_at_controller(response.error_code) {
            reaction.doubts = true;
            return Ok(());
        }
        if response.error_code != 0 || response.producer_epoch != 0 {
            return Err(format!("InitProducerId: {response:?}"));
        }
        self.producer_id = Some(response.producer_id);
        reaction.findings.push(Finding::ProducerId { id: response.producer_id });
        Ok(())
    }

    fn has_produced(&mut self, first: u32, count: u32, body: Bytes, reaction: &mut Reaction) -> Result<(), String> {
        let response: ProduceResponse = wire::response(wire::PRODUCE, body)?;
        let result = &response.responses[0].partition_responses[0];
        if reaction.reconnect {
            return Ok(());
        }
        let client = self.client;
        let oldest = self.in_flight.front().map(|batch| batch.first);
        if oldest != Some(first) {
            return Err(format!("client {client}: answer to {first}, but {oldest:?} is older"));
        }
        match result.error_code {
            0 => {
                self.in_flight.pop_front();
                self.sent -= 1;
                self.is_known = true;
                let records = (0..count)
                    .map(|index| Found {
                        offset: result.base_offset + i64::from(index),
                        id: RecordId { client, number: first + index },
                    })
                    .collect();
                reaction.findings.push(Finding::Acknowledged { partition: self.partition, records });
                Ok(())
            }
            wire::OUT_OF_ORDER_SEQUENCE_NUMBER => {
                Err(format!("client {client}: records from {first} follow what was acknowledged, but are refused"))
            }
            error if wire::is_retriable(error) => {
                reaction.reconnect = true;
                Ok(())
            }
            error => Err(format!("client {client}: Produce: error {error}")),
        }
    }
}

impl Role for Producer {
    fn pause_us(&self, random: &mut Random) -> u64 {
        if random.one_in(20) { random.between(5_000, 50_000) } else { random.between(200, 4_000) }
    }

    fn target(&self) -> Target {
        Target::Leader { topic: wire::TOPIC.to_owned(), partition: self.partition }
    }

    fn writes_to(&self) -> Option<usize> {
        (self.acks != 0).then_some(self.partition)
    }

    fn asks_ahead(&self) -> bool {
        true
    }

    fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    fn is_idempotent(&self) -> bool {
        self.is_idempotent
    }

    fn next(&mut self, random: &mut Random, knowledge: &mut Knowledge) -> Option<Outgoing> {
        if self.is_idempotent && self.producer_id.is_none() {
            if !self.asked.is_empty() {
                return None;
            }
            let mut body = InitProducerIdRequest::default();
            body.transactional_id = None;
            body.producer_id = -1;
            body.producer_epoch = -1;
            self.asked.push_back(Asked::ProducerId);
            return Some(Outgoing::Answered(Request::new(wire::INIT_PRODUCER_ID, &body)));
        }
        let Batch { first, count, records } = self.next_batch(random, knowledge.is_ending)?;
        let (first, count, records) = (*first, *count, records.clone());
        let timeout_ms = if random.one_in(10) { 5 } else { 30_000 };
        let request = requests::produce(wire::topic(), self.partition, self.acks, timeout_ms, records);
        if self.acks == 0 {
            // Nobody will say what became of it.
            self.in_flight.pop_front();
            return Some(Outgoing::Unanswered(request));
        }
        self.sent += 1;
        self.asked.push_back(Asked::Records { first, count });
        Some(Outgoing::Answered(request))
    }

    fn answered(&mut self, body: Bytes, _: &Knowledge, reaction: &mut Reaction) -> Result<(), String> {
        match self.asked.pop_front().expect("it asked") {
            Asked::ProducerId => self.has_producer_id(body, reaction),
            Asked::Records { first, count } => self.has_produced(first, count, body, reaction),
        }
    }

    fn disconnected(&mut self, _: &mut Knowledge) {
        self.asked.clear();
        self.sent = 0;
    }
}
